//! Exports of OpenTelemetry logs: from protobuf to the JSON of their records, and to rows; the twin
//! of `stream.source.otlp.decode` and `stream.source.otlp.flatten`.
//!
//! An export is read twice. [`LogExport::read`] goes through all of it, counts its records, and
//! finds everything that the Python code would refuse, merge or leave out; whatever is unusual is a
//! [`Doubt`], and the export is left to the Python code as a whole. So the second pass, which prints
//! some records at a time, meets nothing that it can't print. What is repeated in each record is
//! printed once, and its size in all records is bounded before the first one is made.

use std::collections::HashSet;
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};

use ahash::RandomState;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::json::{Doubt, Members};
use crate::row::{push_datetime, Context, RowPlan, Scratch};

/// Bytes of the largest export that is read here: it takes some milliseconds at once.
const MAX_BYTES: usize = 1024 * 1024;

/// Bytes of the largest record, resource or scope: the values of larger ones are limited.
const MAX_MESSAGE: usize = 64 * 1024;

/// Records of an export, with its resources and scopes and whatever is beside them.
const MAX_PARTS: usize = 50_000;

/// Bytes of what records share, in all of them; `stream.source.otlp.flatten.MAX_REPEATED_BYTES`.
const MAX_REPEATED: usize = 32 * 1024 * 1024;

/// Values inside one another.
const MAX_LEVELS: usize = 24;

/// Minimum size of an export, in bytes, for which the GIL is released.
const LARGE: usize = 64 * 1024;

/// Records that are given as their bodies if the first of them can't be rendered.
const MAX_BODIES: usize = 16;

/// Keys of one object that are compared with one another; of more, they are looked up.
const FEW_KEYS: usize = 16;

/// Members of a record, in their order.
const NAMES: [&str; 11] = [
    "timestamp",
    "observed_timestamp",
    "severity_number",
    "severity_text",
    "body",
    "flags",
    "trace_id",
    "span_id",
    "attributes",
    "resource",
    "scope",
];

/// Where the members of a record are in its JSON; empty for what is left out.
type Places = [Range<usize>; NAMES.len()];

const NANOSECONDS: u64 = 1_000_000_000;

// The wire format.

#[derive(Clone, Copy)]
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Doubt> {
        let (&first, rest) = self.rest.split_first().ok_or(Doubt)?;
        self.rest = rest;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.long_varint(first)
    }

    /// The number of a field or a size, which has 32 bits: in doubt with more bytes than it takes.
    #[inline]
    fn short_varint(&mut self) -> Result<u64, Doubt> {
        if let [first @ 0..=0x7f, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*first));
        }
        let before = self.rest.len();
        let value = self.varint()?;
        if before - self.rest.len() > 5 || value > u64::from(u32::MAX) {
            return Err(Doubt);
        }
        Ok(value)
    }

    fn long_varint(&mut self, first: u8) -> Result<u64, Doubt> {
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Doubt)?;
            self.rest = rest;
            if shift == 63 && byte > 1 {
                return Err(Doubt);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Doubt)
    }

    #[inline]
    fn take(&mut self, size: usize) -> Result<&'a [u8], Doubt> {
        if size > self.rest.len() {
            return Err(Doubt);
        }
        let (taken, rest) = self.rest.split_at(size);
        self.rest = rest;
        Ok(taken)
    }

    /// The number and the value of the next field; `None` at the end.
    #[inline(always)]
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Doubt> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.short_varint()?;
        if tag >> 3 == 0 {
            return Err(Doubt);
        }
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().expect("as many as taken"),
            )),
            2 => {
                let size = self.short_varint()?;
                Field::Bytes(self.take(size as usize)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(
                self.take(4)?.try_into().expect("as many as taken"),
            )),
            _ => return Err(Doubt), // groups, and what is no type
        };
        Ok(Some((tag >> 3, field)))
    }
}

fn check_text(text: &[u8]) -> Result<(), Doubt> {
    std::str::from_utf8(text).map(drop).map_err(|_| Doubt)
}

/// Set what may be given only once: the values of repeated fields are merged, or the last counts.
fn set<T>(place: &mut Option<T>, value: T) -> Result<(), Doubt> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Doubt),
    }
}

// The first pass.

/// Keys of one object; of repeated ones the last counts, so they are in doubt.
struct Keys<'a> {
    few: [&'a [u8]; FEW_KEYS],
    count: usize,
    many: HashSet<&'a [u8], RandomState>,
}

impl<'a> Keys<'a> {
    fn new() -> Keys<'a> {
        Keys { few: [&[]; FEW_KEYS], count: 0, many: HashSet::default() }
    }

    fn add(&mut self, key: &'a [u8]) -> Result<(), Doubt> {
        let is_new = if self.count < FEW_KEYS {
            let is_new = !self.few[..self.count].contains(&key);
            self.few[self.count] = key;
            is_new
        } else {
            if self.count == FEW_KEYS {
                self.many.extend(self.few);
            }
            self.many.insert(key)
        };
        self.count += 1;
        is_new.then_some(()).ok_or(Doubt)
    }
}

/// Check a `KeyValue`; return its key.
fn check_pair(message: &[u8], level: usize) -> Result<&[u8], Doubt> {
    let (mut key, mut value) = (None, None);
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => set(&mut key, text)?,
            (2, Field::Bytes(inner)) => set(&mut value, inner)?,
            (1 | 2, _) => return Err(Doubt),
            _ => {}
        }
    }
    let key = key.unwrap_or_default();
    check_text(key)?;
    check_value(value.unwrap_or_default(), level)?;
    Ok(key)
}

/// Check an `AnyValue`.
fn check_value(message: &[u8], level: usize) -> Result<(), Doubt> {
    if level == MAX_LEVELS {
        return Err(Doubt);
    }
    let mut fields = Fields::of(message);
    let mut has_value = false;
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => check_text(text)?,
            (2 | 3, Field::Varint(_)) | (7, Field::Bytes(_)) => {}
            (4, Field::Fixed64(bits)) => {
                if bits == (-0.0_f64).to_bits() {
                    return Err(Doubt); // the Python code may read it again as an integer
                }
            }
            (5, Field::Bytes(items)) => check_items(items, level + 1)?,
            (6, Field::Bytes(pairs)) => check_pairs(pairs, level + 1)?,
            (1..=8, _) => return Err(Doubt),
            _ => continue,
        }
        if has_value {
            return Err(Doubt);
        }
        has_value = true;
    }
    Ok(())
}

/// Check an `ArrayValue`.
fn check_items(message: &[u8], level: usize) -> Result<(), Doubt> {
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(item)) => check_value(item, level)?,
            (1, _) => return Err(Doubt),
            _ => {}
        }
    }
    Ok(())
}

/// Check a `KeyValueList`.
fn check_pairs(message: &[u8], level: usize) -> Result<(), Doubt> {
    let mut keys = Keys::new();
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(pair)) => keys.add(check_pair(pair, level)?)?,
            (1, _) => return Err(Doubt),
            _ => {}
        }
    }
    Ok(())
}

/// Check a `LogRecord`.
fn check_record(message: &[u8]) -> Result<(), Doubt> {
    if message.len() > MAX_MESSAGE {
        return Err(Doubt);
    }
    let mut keys = Keys::new();
    let mut fields = Fields::of(message);
    let mut seen = 0u32;
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (6, Field::Bytes(pair)) => {
                keys.add(check_pair(pair, 0)?)?;
                continue;
            }
            (1 | 11, Field::Fixed64(_))
            | (7, Field::Varint(_))
            | (8, Field::Fixed32(_))
            | (9 | 10, Field::Bytes(_)) => {}
            (2, Field::Varint(number)) => {
                if number > i32::MAX as u64 {
                    return Err(Doubt);
                }
            }
            (3 | 12, Field::Bytes(text)) => check_text(text)?,
            (5, Field::Bytes(value)) => check_value(value, 0)?,
            (1..=3 | 5..=12, _) => return Err(Doubt),
            _ => continue,
        }
        if seen & (1 << number) != 0 {
            return Err(Doubt);
        }
        seen |= 1 << number;
    }
    Ok(())
}

/// Check an `EntityRef`, of which nothing is printed.
fn check_entity(message: &[u8]) -> Result<(), Doubt> {
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1..=4, Field::Bytes(text)) => check_text(text)?,
            (1..=4, _) => return Err(Doubt),
            _ => {}
        }
    }
    Ok(())
}

/// Check a `Resource`.
fn check_resource(message: &[u8]) -> Result<(), Doubt> {
    if message.len() > MAX_MESSAGE {
        return Err(Doubt);
    }
    let mut keys = Keys::new();
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(pair)) => keys.add(check_pair(pair, 0)?)?,
            (2, Field::Varint(_)) => {}
            (3, Field::Bytes(entity)) => check_entity(entity)?,
            (1..=3, _) => return Err(Doubt),
            _ => {}
        }
    }
    Ok(())
}

/// Check an `InstrumentationScope`; append its JSON.
fn read_scope(message: &[u8], texts: &mut Vec<u8>) -> Result<(), Doubt> {
    if message.len() > MAX_MESSAGE {
        return Err(Doubt);
    }
    let (mut name, mut version) = (None, None);
    let mut fields = Fields::of(message);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => set(&mut name, text)?,
            (2, Field::Bytes(text)) => set(&mut version, text)?,
            (3, Field::Bytes(pair)) => {
                check_pair(pair, 0)?;
            }
            (4, Field::Varint(_)) => {}
            (1..=4, _) => return Err(Doubt),
            _ => {}
        }
    }
    let (name, version) = (name.unwrap_or_default(), version.unwrap_or_default());
    check_text(name)?;
    check_text(version)?;
    texts.extend_from_slice(b"{\"name\":");
    push_text(name, texts);
    texts.extend_from_slice(b",\"version\":");
    push_text(version, texts);
    texts.push(b'}');
    Ok(())
}

/// Records that share a resource and a scope.
struct Scope {
    /// Places of the JSON of the two in the texts.
    resource: Range<usize>,
    scope: Range<usize>,
    /// Place after its last record.
    end: usize,
}

/// What the first pass has found.
#[derive(Default)]
struct Found {
    /// JSON of resources and scopes.
    texts: Vec<u8>,
    scopes: Vec<Scope>,
    /// Places of the records in the export.
    records: Vec<Range<u32>>,
    /// Records, and everything beside them.
    parts: usize,
    /// Bytes of the repeated texts.
    repeated: usize,
}

impl Found {
    fn count(&mut self) -> Result<(), Doubt> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(Doubt);
        }
        Ok(())
    }

    /// Read an `ExportLogsServiceRequest`.
    fn request(&mut self, body: &[u8]) -> Result<(), Doubt> {
        let mut fields = Fields::of(body);
        while let Some((number, field)) = fields.next()? {
            self.count()?;
            match (number, field) {
                (1, Field::Bytes(resource)) => self.resource(body, resource)?,
                (1, _) => return Err(Doubt),
                _ => {}
            }
        }
        Ok(())
    }

    /// Read a `ResourceLogs`.
    fn resource(&mut self, body: &[u8], message: &[u8]) -> Result<(), Doubt> {
        let first = self.scopes.len();
        let mut resource = None;
        let mut fields = Fields::of(message);
        while let Some((number, field)) = fields.next()? {
            self.count()?;
            match (number, field) {
                (1, Field::Bytes(inner)) => set(&mut resource, inner)?,
                (2, Field::Bytes(scope)) => self.scope(body, scope)?,
                (3, Field::Bytes(url)) => check_text(url)?,
                (1..=3, _) => return Err(Doubt),
                _ => {}
            }
        }
        let resource = resource.unwrap_or_default();
        check_resource(resource)?;
        let start = self.texts.len();
        push_pairs(resource, 1, &mut self.texts);
        let place = start..self.texts.len();
        let mut begin = first.checked_sub(1).map_or(0, |last| self.scopes[last].end);
        for scope in &mut self.scopes[first..] {
            self.repeated += (scope.end - begin) * (place.len() + scope.scope.len());
            begin = scope.end;
            scope.resource = place.clone();
        }
        if self.repeated > MAX_REPEATED {
            return Err(Doubt);
        }
        Ok(())
    }

    /// Read a `ScopeLogs`.
    fn scope(&mut self, body: &[u8], message: &[u8]) -> Result<(), Doubt> {
        let mut scope = None;
        let mut fields = Fields::of(message);
        while let Some((number, field)) = fields.next()? {
            self.count()?;
            match (number, field) {
                (1, Field::Bytes(inner)) => set(&mut scope, inner)?,
                (2, Field::Bytes(record)) => {
                    check_record(record)?;
                    let start = record.as_ptr() as usize - body.as_ptr() as usize;
                    self.records.push(start as u32..(start + record.len()) as u32);
                }
                (3, Field::Bytes(url)) => check_text(url)?,
                (1..=3, _) => return Err(Doubt),
                _ => {}
            }
        }
        let start = self.texts.len();
        read_scope(scope.unwrap_or_default(), &mut self.texts)?;
        let place = start..self.texts.len();
        self.scopes.push(Scope { resource: 0..0, scope: place, end: self.records.len() });
        Ok(())
    }
}

// The second pass: printing of what was checked.

/// Whether a byte may need an escape: 0xe2 begins U+2028 and U+2029, and other characters, too.
#[inline]
fn is_special(byte: u8) -> bool {
    byte < 0x20
        || byte == b'"'
        || byte == b'\\'
        || byte == b'<'
        || byte == b'>'
        || byte == b'&'
        || byte == 0xe2
}

/// Bytes that are compared at once.
const CHUNK: usize = 16;

#[inline]
fn has_special(chunk: &[u8; CHUNK]) -> bool {
    // Without a branch, so that all of them are compared at once.
    chunk.iter().fold(false, |any, &byte| any | is_special(byte))
}

/// The length of the part without escapes at the beginning of `text`.
#[inline]
fn plain_length(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(some) = text[at..].first_chunk() {
        if has_special(some) {
            break;
        }
        at += CHUNK;
    }
    if text.len() - at < CHUNK {
        let mut padded = [b' '; CHUNK];
        let last = text.last_chunk().unwrap_or_else(|| {
            padded[..text.len()].copy_from_slice(text);
            &padded
        });
        if !has_special(last) {
            return text.len();
        }
    }
    while at < text.len() && !is_special(text[at]) {
        at += 1;
    }
    at
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Append a text as JSON that is safe for HTML.
fn push_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    loop {
        let plain = plain_length(rest);
        out.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
        let Some(&byte) = rest.first() else { break };
        let mut length = 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0xe2 => match rest.get(1..3) {
                Some(b"\x80\xa8") => {
                    out.extend_from_slice(b"\\u2028");
                    length = 3;
                }
                Some(b"\x80\xa9") => {
                    out.extend_from_slice(b"\\u2029");
                    length = 3;
                }
                _ => out.push(byte),
            },
            _ => {
                let (high, low) = (DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        rest = &rest[length..];
    }
    out.push(b'"');
}

fn push_hexadecimal(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for some in bytes.chunks(CHUNK) {
        let mut text = [0; 2 * CHUNK];
        for (two, byte) in text.chunks_exact_mut(2).zip(some) {
            two[0] = DIGITS[(byte >> 4) as usize];
            two[1] = DIGITS[(byte & 15) as usize];
        }
        out.extend_from_slice(&text[..2 * some.len()]);
    }
    out.push(b'"');
}

fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.push(b'"');
    for some in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..some.len()].copy_from_slice(some);
        let [first, second, third] = three.map(u32::from);
        let all = first << 16 | second << 8 | third;
        for place in 0..4 {
            let letter = LETTERS[(all >> (18 - 6 * place) & 63) as usize];
            out.push(if place > some.len() { b'=' } else { letter });
        }
    }
    out.push(b'"');
}

fn push_unsigned(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_signed(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    push_unsigned(number.unsigned_abs(), out);
}

/// Digits from which on two texts may be equally short and close: the Python code takes the even one.
const MAY_BE_BETWEEN: usize = 15;

/// The shortest digits that are read as `number`, with an exponent.
fn shortest(number: f64) -> String {
    let text = format!("{number:e}");
    let fraction = text.find('e').map_or(0, |end| end.saturating_sub(2));
    if fraction + 1 < MAY_BE_BETWEEN {
        return text;
    }
    let rounded = format!("{number:.fraction$e}");
    if rounded.parse() == Ok(number) {
        rounded
    } else {
        text
    }
}

/// Append a double with the shortest digits that are read as the same number: an exponent below
/// 1e-6 and from 1e21 on, whole numbers without a fraction, `null` for what isn't finite.
fn push_double(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    let magnitude = number.abs();
    if number.is_sign_negative() {
        out.push(b'-');
    }
    let text = shortest(magnitude);
    let (spelled, exponent) = text.split_once('e').expect("it was asked for");
    let exponent: i32 = exponent.parse().expect("it was printed here");
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        out.extend_from_slice(spelled.as_bytes());
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        push_unsigned(u64::from(exponent.unsigned_abs()), out);
        return;
    }
    let digits: Vec<u8> = spelled.bytes().filter(|byte| *byte != b'.').collect();
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + (-exponent - 1) as usize, b'0');
        out.extend_from_slice(&digits);
        return;
    }
    let whole = exponent as usize + 1;
    if whole >= digits.len() {
        out.extend_from_slice(&digits);
        out.resize(out.len() + whole - digits.len(), b'0');
    } else {
        out.extend_from_slice(&digits[..whole]);
        out.push(b'.');
        out.extend_from_slice(&digits[whole..]);
    }
}

/// The fields of a message that was checked.
fn checked(message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    let mut fields = Fields::of(message);
    std::iter::from_fn(move || fields.next().expect("it was checked"))
}

/// Append the `KeyValue`s with that number of `message` as an object.
fn push_pairs(message: &[u8], number: u64, out: &mut Vec<u8>) {
    let mut separator = b'{';
    for (each, field) in checked(message) {
        if let (true, Field::Bytes(pair)) = (each == number, field) {
            out.push(separator);
            separator = b',';
            push_pair(pair, out);
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

fn push_pair(message: &[u8], out: &mut Vec<u8>) {
    let (mut key, mut value) = (&[][..], &[][..]);
    for (number, field) in checked(message) {
        match (number, field) {
            (1, Field::Bytes(text)) => key = text,
            (2, Field::Bytes(inner)) => value = inner,
            _ => {}
        }
    }
    push_text(key, out);
    out.push(b':');
    push_value(value, out);
}

/// Append an `AnyValue`: bytes in base64, a missing value as `null`.
fn push_value(message: &[u8], out: &mut Vec<u8>) {
    for (number, field) in checked(message) {
        match (number, field) {
            (1, Field::Bytes(text)) => push_text(text, out),
            (2, Field::Varint(flag)) => {
                out.extend_from_slice(if flag != 0 { b"true" } else { b"false" });
            }
            (3, Field::Varint(number)) => push_signed(number as i64, out),
            (4, Field::Fixed64(bits)) => push_double(f64::from_bits(bits), out),
            (5, Field::Bytes(items)) => push_items(items, out),
            (6, Field::Bytes(pairs)) => push_pairs(pairs, 1, out),
            (7, Field::Bytes(bytes)) => push_base64(bytes, out),
            _ => continue,
        }
        return;
    }
    out.extend_from_slice(b"null");
}

fn push_items(message: &[u8], out: &mut Vec<u8>) {
    let mut separator = b'[';
    for (number, field) in checked(message) {
        if let (1, Field::Bytes(item)) = (number, field) {
            out.push(separator);
            separator = b',';
            push_value(item, out);
        }
    }
    if separator == b'[' {
        out.push(b'[');
    }
    out.push(b']');
}

/// The text of the last second that was printed, up to its seconds.
#[derive(Default)]
struct Second {
    second: Option<u64>,
    text: Vec<u8>,
}

impl Second {
    /// Append a time with as many digits as it needs; nothing for 0.
    fn push(&mut self, nanoseconds: u64, out: &mut Vec<u8>) {
        out.push(b'"');
        if nanoseconds != 0 {
            let (second, mut fraction) = (nanoseconds / NANOSECONDS, nanoseconds % NANOSECONDS);
            if self.second != Some(second) {
                self.second = Some(second);
                self.text.clear();
                push_datetime(second as i64 * 1000, &mut self.text);
                self.text.truncate("2006-01-02T15:04:05".len());
            }
            out.extend_from_slice(&self.text);
            if fraction != 0 {
                let mut digits = [b'0'; 9];
                for digit in digits.iter_mut().rev() {
                    *digit = b'0' + (fraction % 10) as u8;
                    fraction /= 10;
                }
                let end = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |at| at + 1);
                out.push(b'.');
                out.extend_from_slice(&digits[..end]);
            }
            out.push(b'Z');
        }
        out.push(b'"');
    }
}

/// Append a `LogRecord` as one JSON object; `places` gets the places of its members in `out`.
fn push_record(
    message: &[u8],
    resource: &[u8],
    scope: &[u8],
    second: &mut Second,
    places: &mut Places,
    out: &mut Vec<u8>,
) {
    let (mut time, mut observed, mut severity, mut flags) = (0, 0, 0, 0);
    let (mut severity_text, mut body) = (&[][..], &[][..]);
    let (mut trace, mut span) = (&[][..], &[][..]);
    for (number, field) in checked(message) {
        match (number, field) {
            (1, Field::Fixed64(value)) => time = value,
            (2, Field::Varint(value)) => severity = value,
            (3, Field::Bytes(text)) => severity_text = text,
            (5, Field::Bytes(value)) => body = value,
            (8, Field::Fixed32(value)) => flags = value,
            (9, Field::Bytes(id)) => trace = id,
            (10, Field::Bytes(id)) => span = id,
            (11, Field::Fixed64(value)) => observed = value,
            _ => {}
        }
    }
    let begin = out.len();
    for (number, name) in NAMES.iter().enumerate() {
        if (number == 6 && trace.is_empty()) || (number == 7 && span.is_empty()) {
            places[number] = 0..0;
            continue;
        }
        out.extend_from_slice(if out.len() == begin { b"{\"" } else { b",\"" });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        let start = out.len();
        match number {
            0 => second.push(time, out),
            1 => second.push(observed, out),
            2 => push_unsigned(severity, out),
            3 => push_text(severity_text, out),
            4 => push_value(body, out),
            5 => push_unsigned(u64::from(flags), out),
            6 => push_hexadecimal(trace, out),
            7 => push_hexadecimal(span, out),
            8 => push_pairs(message, 6, out),
            9 => out.extend_from_slice(resource),
            _ => out.extend_from_slice(scope),
        }
        places[number] = start - begin..out.len() - begin;
    }
    out.push(b'}');
}

/// Records that are printed together.
struct Step {
    count: usize,
    /// Bytes of their JSON.
    size: usize,
    /// Their rows for each plan; `None` if the first of them can't be rendered.
    rows: Option<Vec<Option<Vec<u8>>>>,
    /// Their JSON, and where each of them ends; `None` if it isn't needed.
    bodies: Option<(Vec<u8>, Vec<usize>)>,
}

/// The bounds of a step.
struct Bounds {
    records: usize,
    bytes: usize,
}

/// An export of log records that is printed some records at a time.
#[pyclass(module = "stream.native._native")]
pub struct LogExport {
    body: Py<PyBytes>,
    found: Found,
    /// The next record, and its scope.
    next: usize,
    scope: usize,
    second: Second,
    scratch: Scratch,
}

type Printed<'py> = (usize, usize, Option<Bound<'py, PyList>>, Option<Bound<'py, PyList>>);

#[pymethods]
impl LogExport {
    /// Read an `ExportLogsServiceRequest`; `None` leaves it to the Python code.
    #[staticmethod]
    #[pyo3(signature = (body, /))]
    fn read(py: Python, body: &Bound<PyBytes>) -> Option<LogExport> {
        let data = body.as_bytes();
        if data.len() > MAX_BYTES {
            return None;
        }
        let read = || {
            without_panic(|| {
                let mut found = Found::default();
                found.request(data).map(|()| found)
            })
        };
        let found = if data.len() > LARGE { py.detach(read) } else { read() };
        Some(LogExport {
            body: body.clone().unbind(),
            found: found.ok()?,
            next: 0,
            scope: 0,
            second: Second::default(),
            scratch: Scratch::default(),
        })
    }

    /// The number of its records.
    fn __len__(&self) -> usize {
        self.found.records.len()
    }

    /// Print the next records and render their rows.
    ///
    /// Arguments: a plan for each sink, `None` for those that render the bodies themselves; time,
    /// address and headers of the rows; whether the bodies are wanted; the bounds in records and
    /// in bytes, which one record may exceed. Result: the number of records, 0 at the end; the
    /// bytes of their bodies; the rows for each plan, `None` if the first record can't be rendered
    /// by one of them; the bodies, `None` if nothing needs them. `None` leaves all further records
    /// to the Python code.
    #[pyo3(signature = (plans, at, ip, headers, wants_bodies, max_records, max_bytes, /))]
    #[allow(clippy::too_many_arguments)]
    fn print<'py>(
        &mut self,
        py: Python<'py>,
        plans: Vec<Option<Py<RowPlan>>>,
        at: i64,
        ip: &[u8],
        headers: &[u8],
        wants_bodies: bool,
        max_records: usize,
        max_bytes: usize,
    ) -> PyResult<Option<Printed<'py>>> {
        let body = self.body.bind(py).clone();
        let data = body.as_bytes();
        let plans: Vec<Option<&RowPlan>> =
            plans.iter().map(|plan| plan.as_ref().map(Py::get)).collect();
        let context = Context { at, ip, headers };
        let wants_bodies = wants_bodies || plans.iter().any(Option::is_none);
        let bounds = Bounds { records: max_records, bytes: max_bytes };
        let mut print =
            || without_panic(|| Ok(self.step(data, &plans, &context, wants_bodies, &bounds)));
        let printed = if data.len() > LARGE { py.detach(print) } else { print() };
        let Ok(step) = printed else { return Ok(None) };
        let rows = match step.rows {
            None => None,
            Some(rows) => Some(PyList::new(
                py,
                rows.iter().map(|each| each.as_ref().map(|rows| PyBytes::new(py, rows))),
            )?),
        };
        let bodies = match step.bodies {
            None => None,
            Some((text, ends)) => {
                let mut start = 0;
                let bodies = PyList::empty(py);
                for end in ends {
                    bodies.append(PyBytes::new(py, &text[start..end]))?;
                    start = end;
                }
                Some(bodies)
            }
        };
        Ok(Some((step.count, step.size, rows, bodies)))
    }
}

/// A sink whose rows are rendered here.
struct Target<'a> {
    plan: &'a RowPlan,
    members: Members,
    rows: Vec<u8>,
    /// The length of its rows before the present record.
    before: usize,
}

impl LogExport {
    fn step(
        &mut self,
        data: &[u8],
        plans: &[Option<&RowPlan>],
        context: &Context,
        keeps_bodies: bool,
        bounds: &Bounds,
    ) -> Step {
        let mut targets: Vec<Target> = plans
            .iter()
            .flatten()
            .map(|plan| Target {
                plan,
                members: plan.members(&NAMES),
                rows: Vec::with_capacity(16 * 1024),
                before: 0,
            })
            .collect();
        let (mut text, mut ends) = (Vec::with_capacity(4 * 1024), Vec::new());
        let (mut count, mut size, mut made) = (0, 0, 0);
        let mut places = Default::default();
        while self.next < self.found.records.len() && count < bounds.records && made < bounds.bytes
        {
            let begin = if keeps_bodies { text.len() } else { 0 };
            text.truncate(begin);
            self.push_next(data, &mut places, &mut text);
            let body = &text[begin..];
            let mut is_doubtful = false;
            for target in &mut targets {
                target.before = target.rows.len();
            }
            for Target { plan, members, rows, before } in &mut targets {
                let rendered =
                    plan.render_members(body, members, &places, context, &mut self.scratch, rows);
                if rendered.is_err() {
                    is_doubtful = true;
                    break;
                }
                made += rows.len() - *before;
            }
            if is_doubtful {
                if count == 0 {
                    return self.only_bodies(data, bounds);
                }
                for target in &mut targets {
                    target.rows.truncate(target.before);
                }
                break;
            }
            self.next += 1;
            count += 1;
            size += body.len();
            made += body.len();
            if keeps_bodies {
                ends.push(text.len());
            }
        }
        let mut rendered = targets.into_iter().map(|target| target.rows);
        let rows = plans.iter().map(|plan| plan.and_then(|_| rendered.next())).collect();
        Step { count, size, rows: Some(rows), bodies: keeps_bodies.then_some((text, ends)) }
    }

    /// Print some records whose rows the Python code renders.
    fn only_bodies(&mut self, data: &[u8], bounds: &Bounds) -> Step {
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        let mut places = Default::default();
        let most = bounds.records.min(MAX_BODIES);
        while self.next < self.found.records.len() && ends.len() < most && text.len() < bounds.bytes
        {
            self.push_next(data, &mut places, &mut text);
            self.next += 1;
            ends.push(text.len());
        }
        Step { count: ends.len(), size: text.len(), rows: None, bodies: Some((text, ends)) }
    }

    /// Append the next record.
    fn push_next(&mut self, data: &[u8], places: &mut Places, out: &mut Vec<u8>) {
        while self.next >= self.found.scopes[self.scope].end {
            self.scope += 1; // there is one that has the record
        }
        let Found { texts, scopes, records, .. } = &self.found;
        let Range { start, end } = records[self.next];
        let Scope { resource, scope, .. } = &scopes[self.scope];
        push_record(
            &data[start as usize..end as usize],
            &texts[resource.clone()],
            &texts[scope.clone()],
            &mut self.second,
            places,
            out,
        );
    }
}

/// Call `work`; a defect of it is a doubt: the Python code does the same, or shows the fault.
fn without_panic<T>(work: impl FnOnce() -> Result<T, Doubt>) -> Result<T, Doubt> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Doubt))
}
