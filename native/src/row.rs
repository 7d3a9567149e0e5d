//! From a record to the CSV row of a mapping.

use std::ops::Range;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use uuid::Uuid;

use crate::json::{compact, unescape, Doubt, Marks, Members, Paths, Step};
use crate::typed::{Type, Typed};

/// Bytes that the texts of a primary key may have together: see `stream.mapping.types`.
const MAX_KEY_BYTES: usize = 2400;

/// Bytes of values that are written for each byte of the bodies, and bodies that count as larger.
///
/// A value can be written again and again, for columns whose paths overlap and for the parts of a
/// text. If that takes long, the Python code and the templates' processes do it, which have limits
/// of their own.
const WRITTEN_PER_BYTE: usize = 4;
const SMALL_BODY: usize = 64 * 1024;

/// A column of a mapping.
#[derive(Debug)]
enum Column {
    Uuid,
    Datetime,
    Ip,
    Headers,
    Body,
    Path { place: usize, raw: bool, default: Option<Vec<u8>> },
    Text { parts: Vec<Part>, raw: bool },
}

/// A part of a text that is put together.
#[derive(Debug)]
enum Part {
    Literal(Vec<u8>),
    Ip,
    /// A string of the body, or the text that stands for a missing value.
    Body {
        place: usize,
        default: Option<Vec<u8>>,
    },
}

impl Column {
    fn has_ip(&self) -> bool {
        match self {
            Column::Ip => true,
            Column::Text { parts, .. } => parts.iter().any(|part| matches!(part, Part::Ip)),
            _ => false,
        }
    }
}

/// A record apart from its body.
pub struct Context<'a> {
    /// When it was received, milliseconds since the epoch.
    pub at: i64,
    /// Address of the sender.
    pub ip: &'a [u8],
    /// Its headers as the cell of a row, quoted.
    pub headers: &'a [u8],
}

/// Buffers that are used again for the next record.
#[derive(Default)]
pub struct Scratch {
    found: Vec<Range<usize>>,
    marks: Marks,
    text: Vec<u8>,
    /// The value of a typed column.
    value: Vec<u8>,
    /// Bytes of values that may still be written.
    left: usize,
    /// The time of a record, and its text: the next ones often have the same.
    at: Option<i64>,
    datetime: Vec<u8>,
}

impl Scratch {
    /// Allow the values of bodies with `size` bytes in total to be written.
    fn allow(&mut self, size: usize) {
        self.left = WRITTEN_PER_BYTE * size.max(SMALL_BODY);
    }

    /// Count a value that is written, and return it.
    fn take<'a>(&mut self, body: &'a [u8], place: usize) -> Result<&'a [u8], Doubt> {
        let value = &body[self.found[place].clone()];
        self.left = self.left.checked_sub(value.len()).ok_or(Doubt)?;
        Ok(value)
    }

    fn datetime(&mut self, at: i64) -> &[u8] {
        if self.at != Some(at) {
            self.datetime.clear();
            push_datetime(at, &mut self.datetime);
            self.at = Some(at);
        }
        &self.datetime
    }
}

/// A mapping whose rows are rendered here.
///
/// Arguments: columns as tuples of a kind and its settings, and the bytes that a row may have
/// without its line feed. Kinds: `uuid`, `datetime`, `ip`, `headers`, `body`, and `path` with
/// the steps as pairs of key and index, whether strings are rendered as their text, and the
/// text that stands for a missing value. A `text` is put together from the parts that come last:
/// a literal, or steps and the text that stands for a missing value, or the address.
///
/// If the columns have types, each has its own at the end: its name, the digits of a decimal
/// before and after the point, and whether it takes JSON strings as they are written, may be NULL,
/// and is a part of the primary key. The text for a missing value is valid then.
#[pyclass(frozen, module = "stream.native._native")]
pub struct RowPlan {
    columns: Vec<Column>,
    /// The types of the columns; empty if they have none.
    types: Vec<Typed>,
    paths: Option<Paths>,
    limit: usize,
    /// Whether rows have the address of the sender.
    #[pyo3(get)]
    has_ip: bool,
    /// Whether rows have the headers.
    #[pyo3(get)]
    has_headers: bool,
    /// Whether bodies have to be JSON.
    #[pyo3(get)]
    reads_json: bool,
}

pub type PathSteps = Vec<(Vec<u8>, Option<usize>)>;
type PartSpec = (Option<Vec<u8>>, Option<PathSteps>, Option<Vec<u8>>);
type TypeSpec = (String, usize, usize, bool, bool, bool);
type ColumnSpec = (String, PathSteps, bool, Option<Vec<u8>>, Vec<PartSpec>, Option<TypeSpec>);

pub fn steps_of(steps: PathSteps) -> Vec<Step> {
    steps.into_iter().map(|(key, index)| Step { key, index }).collect()
}

#[pymethods]
impl RowPlan {
    #[new]
    fn new(columns: Vec<ColumnSpec>, limit: usize) -> PyResult<Self> {
        let mut paths = Vec::new();
        let mut compiled = Vec::new();
        let mut types = Vec::new();
        let mut strict = false;
        for (kind, steps, raw, default, parts, type_) in columns {
            if let Some((name, before, after, keeps_spelling, nullable, is_key)) = type_ {
                let Some(kind) = Type::named(&name, before, after) else {
                    return Err(PyValueError::new_err(format!("unknown type: {name}")));
                };
                types.push(Typed { kind, keeps_spelling, nullable, is_key });
            }
            compiled.push(match kind.as_str() {
                "uuid" => Column::Uuid,
                "datetime" => Column::Datetime,
                "ip" => Column::Ip,
                "headers" => Column::Headers,
                "body" => Column::Body,
                "path" => {
                    paths.push(steps_of(steps));
                    Column::Path { place: paths.len() - 1, raw, default }
                }
                "text" => {
                    let mut compiled = Vec::new();
                    for part in parts {
                        compiled.push(match part {
                            (Some(literal), _, _) => Part::Literal(literal),
                            (None, Some(steps), default) => {
                                strict = true;
                                paths.push(steps_of(steps));
                                Part::Body { place: paths.len() - 1, default }
                            }
                            (None, None, _) => Part::Ip,
                        });
                    }
                    Column::Text { parts: compiled, raw }
                }
                _ => return Err(PyValueError::new_err(format!("unknown kind of column: {kind}"))),
            });
        }
        if !types.is_empty() && types.len() != compiled.len() {
            return Err(PyValueError::new_err("some columns have no type"));
        }
        let reads_json = !paths.is_empty();
        let paths = reads_json.then(|| Paths::new(&paths, strict));
        Ok(RowPlan {
            has_ip: compiled.iter().any(Column::has_ip),
            has_headers: compiled.iter().any(|column| matches!(column, Column::Headers)),
            columns: compiled,
            types,
            paths,
            limit,
            reads_json,
        })
    }

    /// Render the row of one record, with a line feed; `None` leaves it to the Python code.
    #[pyo3(signature = (body, at, ip, headers, /))]
    fn row<'py>(
        &self,
        py: Python<'py>,
        body: &[u8],
        at: i64,
        ip: &[u8],
        headers: &[u8],
    ) -> Option<Bound<'py, PyBytes>> {
        let mut row = Vec::with_capacity(256);
        let context = Context { at, ip, headers };
        self.render(body, &context, &mut Scratch::default(), &mut row).ok()?;
        Some(PyBytes::new(py, &row))
    }

    /// Render the rows of all lines of `body`; return them, how many they are, and how many line
    /// feeds there are.
    ///
    /// Other threads may run meanwhile.
    ///
    /// `None` leaves all of them to the Python code: there are more than `max_records`, or more
    /// line feeds than `max_ends`, their rows have more than `max_bytes`, or one can't be rendered.
    #[pyo3(signature = (body, at, ip, headers, max_records, max_ends, max_bytes, /))]
    #[allow(clippy::too_many_arguments)]
    fn lines<'py>(
        &self,
        py: Python<'py>,
        body: &[u8],
        at: i64,
        ip: &[u8],
        headers: &[u8],
        max_records: usize,
        max_ends: usize,
        max_bytes: usize,
    ) -> Option<(Bound<'py, PyBytes>, usize, usize)> {
        let mut rows = Vec::with_capacity(body.len() / 8);
        let context = Context { at, ip, headers };
        let limits = Limits { records: max_records, ends: max_ends, bytes: max_bytes };
        let mut scratch = Scratch::default();
        let (count, ends) = py
            .detach(|| self.render_lines(body, &context, &limits, &mut scratch, &mut rows))
            .ok()?;
        Some((PyBytes::new(py, &rows), count, ends))
    }

    /// Render the rows of records that share everything but their bodies; see `row`.
    #[pyo3(signature = (bodies, at, ip, headers, /))]
    fn rows<'py>(
        &self,
        py: Python<'py>,
        bodies: &Bound<'py, PyList>,
        at: i64,
        ip: &[u8],
        headers: &[u8],
    ) -> PyResult<Bound<'py, PyList>> {
        let context = Context { at, ip, headers };
        let mut scratch = Scratch::default();
        let mut row = Vec::with_capacity(256);
        let rows = PyList::empty(py);
        let mut size = 0;
        for body in bodies.iter() {
            size += body.cast::<PyBytes>()?.as_bytes().len();
        }
        scratch.allow(size);
        for body in bodies.iter() {
            let body = body.cast::<PyBytes>()?;
            row.clear();
            match self.render_allowed(body.as_bytes(), &context, &mut scratch, &mut row) {
                Ok(()) => rows.append(PyBytes::new(py, &row))?,
                Err(Doubt) => rows.append(py.None())?,
            }
        }
        Ok(rows)
    }
}

/// What lines may have at most: records, line feeds, and bytes of their rows.
pub struct Limits {
    pub records: usize,
    pub ends: usize,
    pub bytes: usize,
}

/// Bytes that `bytes.isspace` takes for blank, and JSON doesn't.
const OTHER_BLANKS: &[u8] = b"\x0b\x0c";

impl RowPlan {
    /// Append the rows of all lines that aren't blank; return their number, and that of all line
    /// feeds. Some of them may have been appended if one is in doubt.
    pub fn render_lines(
        &self,
        body: &[u8],
        context: &Context,
        limits: &Limits,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(usize, usize), Doubt> {
        const BOM: &[u8] = b"\xef\xbb\xbf";
        let before = out.len();
        let (mut count, mut ends, mut start) = (0, 0, 0);
        scratch.allow(body.len());
        while start < body.len() {
            let end = memchr::memchr(b'\n', &body[start..]).map_or(body.len(), |at| start + at);
            let mut line = &body[start..end];
            if end < body.len() {
                ends += 1;
                line = line.strip_suffix(b"\r").unwrap_or(line);
            }
            start = end + 1;
            match line.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
                None => continue,
                Some(byte) if OTHER_BLANKS.contains(byte) => return Err(Doubt),
                Some(_) => {}
            }
            count += 1;
            if count > limits.records || line.starts_with(BOM) {
                return Err(Doubt);
            }
            self.render_allowed(line, context, scratch, out)?;
            if out.len() - before > limits.bytes {
                return Err(Doubt); // before they use up the memory: a row can repeat all headers
            }
        }
        if ends > limits.ends {
            return Err(Doubt);
        }
        Ok((count, ends))
    }

    /// Append the row of a record to `out`, which is left as it was if that is in doubt.
    pub fn render(
        &self,
        body: &[u8],
        context: &Context,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Doubt> {
        scratch.allow(body.len());
        self.render_allowed(body, context, scratch, out)
    }

    /// Append the row of one of several records; see `render`.
    fn render_allowed(
        &self,
        body: &[u8],
        context: &Context,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Doubt> {
        if let Some(paths) = &self.paths {
            paths.find(body, &mut scratch.found, &mut scratch.marks)?;
        }
        self.push_row(body, context, scratch, out)
    }

    /// Which members of an object with those `names` the mapping reads.
    pub fn members(&self, names: &[&str]) -> Members {
        self.paths.as_ref().map(|paths| paths.members(names)).unwrap_or_default()
    }

    /// Append the row of a record whose body was made here, with its members at `places`; see
    /// `render`.
    pub fn render_members(
        &self,
        body: &[u8],
        members: &Members,
        places: &[Range<usize>],
        context: &Context,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Doubt> {
        scratch.allow(body.len());
        if let Some(paths) = &self.paths {
            let Scratch { found, marks, .. } = scratch;
            paths.find_members(body, members, places, found, marks)?;
        }
        self.push_row(body, context, scratch, out)
    }

    /// Append the row of a record whose values are found.
    fn push_row(
        &self,
        body: &[u8],
        context: &Context,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Doubt> {
        let start = out.len();
        let done = if self.types.is_empty() {
            self.push_cells(body, context, scratch, out)
        } else {
            self.push_typed_cells(body, context, scratch, out)
        };
        if done.is_err() || out.len() - start > self.limit {
            out.truncate(start);
            return Err(Doubt);
        }
        out.push(b'\n');
        Ok(())
    }

    /// Append the cells of columns without types. Some may have been appended if one is in doubt.
    fn push_cells(
        &self,
        body: &[u8],
        context: &Context,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Doubt> {
        let start = out.len();
        for column in &self.columns {
            out.extend_from_slice(if out.len() == start { b"\"" } else { b",\"" });
            match column {
                Column::Uuid => push_uuid(out),
                Column::Datetime => out.extend_from_slice(scratch.datetime(context.at)),
                Column::Ip => push_quoted(context.ip, out),
                Column::Headers => out.extend_from_slice(context.headers),
                Column::Body => push_quoted(body, out),
                Column::Path { place, raw, default } => {
                    let value = scratch.take(body, *place)?;
                    if value.is_empty() {
                        push_quoted(default.as_ref().ok_or(Doubt)?, out);
                    } else {
                        push_value(value, *raw, &mut scratch.text, out);
                    }
                }
                Column::Text { parts, raw } => {
                    push_text(parts, *raw, body, context, scratch, out)?;
                }
            }
            out.push(b'"');
            if out.len() - start > self.limit {
                return Err(Doubt);
            }
        }
        Ok(())
    }

    /// Append the cells of typed columns: texts in quotes, and nothing for NULL. See `push_cells`.
    fn push_typed_cells(
        &self,
        body: &[u8],
        context: &Context,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Doubt> {
        let start = out.len();
        let mut key_bytes = 0;
        for (place, (column, typed)) in self.columns.iter().zip(&self.types).enumerate() {
            if out.len() - start > self.limit {
                return Err(Doubt);
            }
            if place > 0 {
                out.push(b',');
            }
            if let Column::Headers = column {
                // Escapes of NUL are the only thing in them that JSON may not have.
                let is_json = typed.kind == Type::Json;
                if is_json && memchr::memmem::find(context.headers, b"\\u").is_some() {
                    return Err(Doubt);
                }
                out.push(b'"');
                out.extend_from_slice(context.headers);
                out.push(b'"');
                continue;
            }
            let mut value = std::mem::take(&mut scratch.value);
            value.clear();
            let found = self.push_typed_value(column, typed, body, context, scratch, &mut value);
            if let Ok(true) = found {
                out.push(b'"');
                push_quoted(&value, out);
                out.push(b'"');
                if typed.is_key {
                    key_bytes += value.len();
                }
            }
            scratch.value = value;
            if found.is_err() || key_bytes > MAX_KEY_BYTES {
                return Err(Doubt);
            }
        }
        Ok(())
    }

    /// Append the value of a typed column; return whether it isn't NULL.
    fn push_typed_value(
        &self,
        column: &Column,
        typed: &Typed,
        body: &[u8],
        context: &Context,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<bool, Doubt> {
        let mut missing = None;
        let found = match column {
            Column::Path { place, .. } => Some(scratch.take(body, *place)?),
            _ => None,
        };
        let is_absent = matches!(found, Some(b"" | b"null"));
        let text: &[u8] = match column {
            Column::Uuid => {
                push_uuid(out);
                return Ok(true);
            }
            Column::Datetime => scratch.datetime(context.at),
            Column::Ip => context.ip,
            Column::Headers => return Err(Doubt), // they are quoted already, see above
            // Only a body that was read is known to be JSON.
            Column::Body if typed.kind == Type::Json && !self.reads_json => return Err(Doubt),
            Column::Body => body,
            Column::Path { default, .. } => {
                missing = default.as_deref();
                match found.unwrap_or_default() {
                    value @ [b'"', ..] if !typed.keeps_spelling => {
                        let inner = &value[1..value.len() - 1];
                        if memchr::memchr(b'\\', inner).is_none() {
                            inner
                        } else {
                            scratch.text.clear();
                            if unescape(inner, &mut scratch.text) {
                                return Err(Doubt); // typed columns refuse half of a pair
                            }
                            &scratch.text
                        }
                    }
                    value @ [b'{' | b'[', ..] => {
                        scratch.text.clear();
                        compact(value, &mut scratch.text);
                        &scratch.text
                    }
                    value => value,
                }
            }
            Column::Text { parts, .. } => {
                put_together(parts, body, context, scratch)?;
                let text = &mut scratch.text;
                if typed.keeps_spelling {
                    if has_escapes(text) {
                        return Err(Doubt);
                    }
                    text.insert(0, b'"');
                    text.push(b'"');
                }
                text
            }
        };
        if is_absent || (text.is_empty() && typed.kind != Type::String) {
            return match missing {
                Some(default) => {
                    out.extend_from_slice(default);
                    Ok(true)
                }
                None if typed.nullable => Ok(false),
                None => Err(Doubt),
            };
        }
        typed.kind.push(text, out)?;
        Ok(true)
    }
}

fn push_uuid(out: &mut Vec<u8>) {
    let mut text = Uuid::encode_buffer();
    out.extend_from_slice(Uuid::now_v7().hyphenated().encode_lower(&mut text).as_bytes());
}

/// Append a text that is put together, or its JSON.
fn push_text(
    parts: &[Part],
    raw: bool,
    body: &[u8],
    context: &Context,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<(), Doubt> {
    put_together(parts, body, context, scratch)?;
    let text = &scratch.text;
    if raw {
        push_quoted(text, out);
        return Ok(());
    }
    if has_escapes(text) {
        return Err(Doubt);
    }
    out.extend_from_slice(b"\"\"");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\"\"");
    Ok(())
}

/// Make the `text` of `scratch` of the parts.
fn put_together(
    parts: &[Part],
    body: &[u8],
    context: &Context,
    scratch: &mut Scratch,
) -> Result<(), Doubt> {
    scratch.text.clear();
    for part in parts {
        let value = match part {
            Part::Body { place, .. } => scratch.take(body, *place)?,
            _ => b"",
        };
        let text = &mut scratch.text;
        match part {
            Part::Literal(literal) => text.extend_from_slice(literal),
            Part::Ip => text.extend_from_slice(context.ip),
            Part::Body { default, .. } => {
                match (value.first(), default) {
                    (None, Some(default)) => text.extend_from_slice(default),
                    (Some(b'"'), _) => {
                        unescape(&value[1..value.len() - 1], text);
                    }
                    _ => return Err(Doubt), // what isn't a string is printed in its own way
                }
            }
        }
    }
    Ok(())
}

/// Whether `text` has what is escaped in the JSON of templates; U+0080 to U+009F begin with 0xc2.
fn has_escapes(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\' | 0x7f | 0xc2))
}

fn push_value(value: &[u8], raw: bool, text: &mut Vec<u8>, out: &mut Vec<u8>) {
    match value[0] {
        b'"' if raw => {
            let inner = &value[1..value.len() - 1];
            if memchr::memchr(b'\\', inner).is_none() {
                out.extend_from_slice(inner); // a string without escapes has no quotes
                return;
            }
            text.clear();
            unescape(inner, text);
            push_quoted(text, out);
        }
        b'{' | b'[' => {
            text.clear();
            compact(value, text);
            push_quoted(text, out);
        }
        _ => push_quoted(value, out),
    }
}

/// Append `text` with its quotes doubled.
///
/// About one in eight bytes of a JSON text is a quote. So eight bytes are copied and checked at once;
/// the next copy begins after the first quote and overwrites the bytes that were copied after it.
fn push_quoted(text: &[u8], out: &mut Vec<u8>) {
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const LOW: u64 = u64::from_le_bytes([0x7f; 8]);
    let Some(first) = memchr::memchr(b'"', text) else {
        out.extend_from_slice(text);
        return;
    };
    out.extend_from_slice(&text[..first]);
    let mut at = out.len();
    out.resize(at + 2 * (text.len() - first) + 8, 0);
    let mut chunks = text[first..].chunks_exact(8);
    for chunk in &mut chunks {
        let mut eight = u64::from_le_bytes(chunk.try_into().expect("a whole chunk"));
        let other = eight ^ QUOTES;
        let mut quotes = !(((other & LOW) + LOW) | other | LOW);
        let mut left = 8;
        while quotes != 0 {
            let length = quotes.trailing_zeros() as usize / 8 + 1;
            out[at..at + 8].copy_from_slice(&eight.to_le_bytes());
            at += length;
            out[at] = b'"';
            at += 1;
            left -= length;
            (eight, quotes) = match left {
                0 => (0, 0),
                _ => (eight >> (8 * length), quotes >> (8 * length)),
            };
        }
        out[at..at + 8].copy_from_slice(&eight.to_le_bytes());
        at += left;
    }
    for &byte in chunks.remainder() {
        out[at] = byte;
        out[at + 1] = b'"';
        at += 1 + usize::from(byte == b'"');
    }
    out.truncate(at);
}

/// Append `2006-01-02T15:04:05.000Z` in UTC.
///
/// Days become dates by the arithmetic of the proleptic Gregorian calendar, with years that begin
/// in March: so the day that leap years have more is the last one of a year.
pub fn push_datetime(at: i64, out: &mut Vec<u8>) {
    let (seconds, milliseconds) = (at.div_euclid(1000), at.rem_euclid(1000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468; // from 0000-03-01
    let era = shifted.div_euclid(146_097); // of 400 years
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let parts = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (milliseconds, 3, b'Z'),
    ];
    for (value, width, end) in parts {
        let mut digits = [b'0'; 4];
        let mut value = value;
        for digit in digits[..width].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
        out.extend_from_slice(&digits[..width]);
        out.push(end);
    }
}
