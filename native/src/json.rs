//! JSON documents: strict validation, and the places of the values at given paths, in one pass.
//!
//! Everything that is unusual is a [`Doubt`]: the document may be valid all the same, and is read
//! by the Python code, which has the last word on what is accepted and on every message.

use std::ops::Range;

use ahash::AHashMap;

use crate::scan;

/// A document that this reader leaves to the Python code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt;

/// Levels of objects and arrays inside one another.
pub const MAX_DEPTH: usize = 300;

/// Values of a document, with each object and array counted twice: the Python code, which has a
/// limit of as many values, counts some of them twice.
const MAX_VALUES: usize = 100_000;

/// Size of a document with escaped surrogates, above which it may have more escapes than the Python
/// code accepts in such a document.
const MAX_BYTES_WITH_SURROGATES: usize = 300_000;

/// One step of a path: a key that also finds an item of an array if it is a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub key: Vec<u8>,
    pub index: Option<usize>,
}

/// Keys up to this number are compared one by one, which takes less time than a hash.
const FEW_KEYS: usize = 8;

/// The keys that are looked up in an object, each with the node that follows.
#[derive(Debug)]
enum Keys {
    Few(Vec<(Vec<u8>, usize)>),
    Many(AHashMap<Vec<u8>, usize>),
}

impl Default for Keys {
    fn default() -> Self {
        Keys::Few(Vec::new())
    }
}

impl Keys {
    fn new(keys: Vec<(Vec<u8>, usize)>) -> Self {
        if keys.len() <= FEW_KEYS {
            Keys::Few(keys)
        } else {
            Keys::Many(keys.into_iter().collect())
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        matches!(self, Keys::Few(keys) if keys.is_empty())
    }

    #[inline]
    fn find(&self, key: &[u8]) -> Option<usize> {
        match self {
            Keys::Few(keys) => keys.iter().find(|(known, _)| known == key).map(|(_, next)| *next),
            Keys::Many(keys) => keys.get(key).copied(),
        }
    }
}

/// What is looked up in a value.
///
/// A node is reached at most once in a document, because the first of equal keys counts.
#[derive(Debug, Default)]
struct Node {
    keys: Keys,
    /// The items that are looked up in an array, ascending, each with the node that follows.
    indexes: Vec<(usize, usize)>,
    places: Vec<usize>,
}

/// Paths that are looked up together, in one pass over a document.
#[derive(Debug)]
pub struct Paths {
    nodes: Vec<Node>,
    /// The first steps of the paths, each with its node.
    first: Vec<(Step, usize)>,
    count: usize,
    strict: bool,
}

/// Buffers of a look-up.
#[derive(Default)]
pub struct Marks {
    /// For each node whether it was reached.
    seen: Vec<bool>,
    /// The key that is compared, if it is written with escapes.
    key: Vec<u8>,
}

impl Paths {
    /// Prepare the look-up of `paths`.
    ///
    /// With `strict` a key of a path that is repeated is in doubt, and so is a document that isn't an
    /// object.
    pub fn new(paths: &[Vec<Step>], strict: bool) -> Paths {
        let mut children: Vec<Vec<(Step, usize)>> = vec![Vec::new()];
        let mut known = AHashMap::new();
        let mut places = vec![Vec::new()];
        for (place, path) in paths.iter().enumerate() {
            let mut at = 0;
            for step in path {
                at = *known.entry((at, &step.key)).or_insert_with(|| {
                    children.push(Vec::new());
                    places.push(Vec::new());
                    let child = children.len() - 1;
                    children[at].push((step.clone(), child));
                    child
                });
            }
            places[at].push(place);
        }
        let first = children[0].clone();
        let nodes = children.into_iter().zip(places).map(|(children, places)| {
            let mut indexes: Vec<(usize, usize)> =
                children.iter().filter_map(|(step, next)| Some((step.index?, *next))).collect();
            indexes.sort_unstable();
            let keys = children.into_iter().map(|(step, next)| (step.key, next)).collect();
            Node { keys: Keys::new(keys), indexes, places }
        });
        Paths { nodes: nodes.collect(), first, count: paths.len(), strict }
    }

    fn start(&self, found: &mut Vec<Range<usize>>, marks: &mut Marks) {
        found.clear();
        found.resize(self.count, 0..0);
        marks.seen.clear();
        marks.seen.resize(self.nodes.len(), false);
    }

    /// Validate `document` and find the value of each path.
    ///
    /// `found` gets a range for each path, empty where there is no value. Of repeated keys the
    /// first counts.
    pub fn find(
        &self,
        document: &[u8],
        found: &mut Vec<Range<usize>>,
        marks: &mut Marks,
    ) -> Result<(), Doubt> {
        self.find_limited(document, MAX_VALUES, found, marks).map(drop)
    }

    /// Find the values of a document that has up to `max_values`; see `find`.
    ///
    /// Return whether there are blanks outside of strings.
    pub fn find_limited(
        &self,
        document: &[u8],
        max_values: usize,
        found: &mut Vec<Range<usize>>,
        marks: &mut Marks,
    ) -> Result<bool, Doubt> {
        self.start(found, marks);
        let mut reader = Reader::new(self, document, 0, max_values, MAX_DEPTH, found, marks);
        reader.blanks();
        if self.strict && reader.peek()? != b'{' {
            return Err(Doubt);
        }
        reader.value(Some(0), 0)?;
        reader.end()?;
        if reader.has_surrogates && document.len() > MAX_BYTES_WITH_SURROGATES {
            return Err(Doubt);
        }
        Ok(reader.has_blanks)
    }
}

/// The members of an object that paths begin with: what follows, and which member it is.
#[derive(Debug, Default)]
pub struct Members(Vec<(usize, usize)>);

impl Paths {
    /// Prepare the look-up in objects that have no other members than those of `names`.
    pub fn members(&self, names: &[&str]) -> Members {
        let place = |step: &Step| names.iter().position(|name| name.as_bytes() == step.key);
        let first = self.first.iter();
        Members(first.filter_map(|(step, next)| Some((*next, place(step)?))).collect())
    }

    /// Find the value of each path in a valid object whose members are at `places`; see `find`.
    pub fn find_members(
        &self,
        document: &[u8],
        members: &Members,
        places: &[Range<usize>],
        found: &mut Vec<Range<usize>>,
        marks: &mut Marks,
    ) -> Result<(), Doubt> {
        self.start(found, marks);
        for place in &self.nodes[0].places {
            found[*place] = 0..document.len();
        }
        for (node, member) in &members.0 {
            let Range { start, end } = places[*member];
            if start == end {
                continue;
            }
            let source = &document[..end];
            let mut reader = Reader::new(self, source, start, MAX_VALUES, MAX_DEPTH, found, marks);
            let Node { keys, indexes, .. } = &self.nodes[*node];
            if keys.is_empty() && indexes.is_empty() {
                reader.found_at(*node, start..end);
            } else {
                reader.value(Some(*node), 1)?;
            }
        }
        Ok(())
    }
}

/// A pass over a document.
pub struct Reader<'a> {
    paths: &'a Paths,
    source: &'a [u8],
    pub at: usize,
    /// Values that may still come.
    left: usize,
    max_depth: usize,
    /// Whether a string may have a byte above 0x7f.
    is_wide: bool,
    /// Whether there were blanks outside of strings.
    has_blanks: bool,
    /// Number of opening brackets and commas outside of strings.
    pub delimiters: usize,
    /// Whether there was an escape of a surrogate, and whether one of them wasn't in a pair.
    has_surrogates: bool,
    pub has_lone_surrogates: bool,
    /// Whether there was an escape of NUL.
    pub has_nul: bool,
    /// Whether there was a number that may be beyond the range of doubles, or has many digits.
    pub has_large_numbers: bool,
    found: &'a mut Vec<Range<usize>>,
    marks: &'a mut Marks,
}

impl<'a> Reader<'a> {
    pub fn new(
        paths: &'a Paths,
        source: &'a [u8],
        at: usize,
        max_values: usize,
        max_depth: usize,
        found: &'a mut Vec<Range<usize>>,
        marks: &'a mut Marks,
    ) -> Self {
        Reader {
            paths,
            source,
            at,
            left: max_values,
            max_depth,
            is_wide: false,
            has_blanks: false,
            delimiters: 0,
            has_surrogates: false,
            has_lone_surrogates: false,
            has_nul: false,
            has_large_numbers: false,
            found,
            marks,
        }
    }

    /// Check that nothing but blanks is left of the document, and that it is in UTF-8.
    pub fn end(&mut self) -> Result<(), Doubt> {
        self.blanks();
        if self.at < self.source.len() {
            return Err(Doubt);
        }
        // Outside of strings every byte was compared with one of ASCII.
        if self.is_wide && simdutf8::basic::from_utf8(self.source).is_err() {
            return Err(Doubt);
        }
        Ok(())
    }

    #[inline]
    pub fn peek(&self) -> Result<u8, Doubt> {
        self.source.get(self.at).copied().ok_or(Doubt)
    }

    #[inline]
    pub fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.source.get(self.at) {
            self.at += 1;
            self.has_blanks = true;
        }
    }

    #[inline]
    fn count(&mut self) -> Result<(), Doubt> {
        self.left = self.left.checked_sub(1).ok_or(Doubt)?;
        Ok(())
    }

    pub fn value(&mut self, node: Option<usize>, depth: usize) -> Result<(), Doubt> {
        let start = self.at;
        self.count()?;
        match self.peek()? {
            b'"' => {
                self.string()?;
            }
            b'{' => self.object(node, depth)?,
            b'[' => self.array(node, depth)?,
            b't' => self.word(b"true")?,
            b'f' => self.word(b"false")?,
            b'n' => self.word(b"null")?,
            _ => self.number()?,
        }
        if let Some(node) = node {
            self.found_at(node, start..self.at);
        }
        Ok(())
    }

    #[inline]
    fn found_at(&mut self, node: usize, span: Range<usize>) {
        for place in &self.paths.nodes[node].places {
            self.found[*place] = span.clone();
        }
    }

    fn object(&mut self, node: Option<usize>, depth: usize) -> Result<(), Doubt> {
        let node = self.node(node, depth)?.filter(|node| !node.keys.is_empty());
        if self.is_empty(b'}')? {
            return Ok(());
        }
        loop {
            let start = self.at + 1;
            let has_escapes = self.key()?;
            let child = match node {
                Some(node) => self.child(node, start..self.at - 1, has_escapes)?,
                None => None,
            };
            self.colon()?;
            self.value(child, depth + 1)?;
            if self.is_last(b'}')? {
                return Ok(());
            }
        }
    }

    /// Go behind the key that begins here; return whether it has escapes.
    #[inline]
    pub fn key(&mut self) -> Result<bool, Doubt> {
        if self.peek()? != b'"' {
            return Err(Doubt);
        }
        self.string()
    }

    /// Go behind the colon after a key.
    #[inline]
    pub fn colon(&mut self) -> Result<(), Doubt> {
        self.blanks();
        if self.peek()? != b':' {
            return Err(Doubt);
        }
        self.at += 1;
        self.blanks();
        Ok(())
    }

    /// Return the node that follows a key; only for the first of equal keys.
    #[inline]
    fn child(
        &mut self,
        node: &Node,
        key: Range<usize>,
        has_escapes: bool,
    ) -> Result<Option<usize>, Doubt> {
        let spelling = &self.source[key];
        let child = if has_escapes {
            self.marks.key.clear();
            unescape(spelling, &mut self.marks.key);
            node.keys.find(&self.marks.key)
        } else {
            node.keys.find(spelling)
        };
        let Some(child) = child else { return Ok(None) };
        if std::mem::replace(&mut self.marks.seen[child], true) {
            return if self.paths.strict { Err(Doubt) } else { Ok(None) };
        }
        Ok(Some(child))
    }

    fn array(&mut self, node: Option<usize>, depth: usize) -> Result<(), Doubt> {
        let mut indexes = self.node(node, depth)?.map_or(&[][..], |node| &node.indexes);
        if self.is_empty(b']')? {
            return Ok(());
        }
        let mut index = 0;
        loop {
            let mut child = None;
            if let [(first, next), rest @ ..] = indexes {
                if *first == index {
                    if rest.first().is_some_and(|(second, _)| *second == index) {
                        return Err(Doubt); // written in two ways: "0" and "00"
                    }
                    child = Some(*next);
                    indexes = rest;
                }
            }
            self.value(child, depth + 1)?;
            if self.is_last(b']')? {
                return Ok(());
            }
            index += 1;
        }
    }

    /// Count an object or array, and return what is looked up in it.
    fn node(&mut self, node: Option<usize>, depth: usize) -> Result<Option<&'a Node>, Doubt> {
        if depth == self.max_depth {
            return Err(Doubt);
        }
        self.count()?;
        let paths = self.paths;
        Ok(node.map(|node| &paths.nodes[node]))
    }

    /// Go behind the bracket that begins here, and behind `end` if that follows; return whether it
    /// does.
    #[inline]
    pub fn is_empty(&mut self, end: u8) -> Result<bool, Doubt> {
        self.at += 1;
        self.delimiters += 1;
        self.blanks();
        if self.peek()? != end {
            return Ok(false);
        }
        self.at += 1;
        Ok(true)
    }

    /// Go behind what follows a value: a comma, or `end`; return whether it was `end`.
    #[inline]
    pub fn is_last(&mut self, end: u8) -> Result<bool, Doubt> {
        self.blanks();
        let byte = self.peek()?;
        self.at += 1;
        if byte == b',' {
            self.delimiters += 1;
            self.blanks();
            return Ok(false);
        }
        if byte == end {
            Ok(true)
        } else {
            Err(Doubt)
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Doubt> {
        if self.source[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(Doubt)
        }
    }

    /// Go behind the string that begins here; return whether it has escapes.
    fn string(&mut self) -> Result<bool, Doubt> {
        let source = self.source;
        let mut at = self.at + 1;
        let mut has_escapes = false;
        loop {
            at = scan::special(source, at, &mut self.is_wide);
            match *source.get(at).ok_or(Doubt)? {
                b'"' => {
                    self.at = at + 1;
                    return Ok(has_escapes);
                }
                b'\\' => {
                    has_escapes = true;
                    match source.get(at + 1).ok_or(Doubt)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                        b'u' => {
                            let code = hexadecimal(source.get(at + 2..at + 6).ok_or(Doubt)?)?;
                            at += 6;
                            self.has_nul |= code == 0;
                            if HIGH.contains(&code) && low_behind(source, at).is_some() {
                                self.has_surrogates = true;
                                at += 6;
                            } else if SURROGATES.contains(&code) {
                                self.has_surrogates = true;
                                self.has_lone_surrogates = true;
                            }
                        }
                        _ => return Err(Doubt),
                    }
                }
                _ => return Err(Doubt),
            }
        }
    }

    fn digits(&mut self) -> Result<(), Doubt> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.source.get(self.at) {
            self.at += 1;
        }
        if self.at == start {
            Err(Doubt)
        } else {
            Ok(())
        }
    }

    fn number(&mut self) -> Result<(), Doubt> {
        let start = self.at;
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.source.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.source.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.source.get(self.at) {
                self.at += 1;
            }
            let exponent = self.at;
            self.digits()?;
            self.has_large_numbers |= self.at - exponent > SHORT_EXPONENT;
        }
        self.has_large_numbers |= self.at - start > SHORT_NUMBER;
        Ok(())
    }
}

/// Characters of a number, and digits of its exponent, with which it surely is in the range of
/// doubles.
const SHORT_NUMBER: usize = 200;
const SHORT_EXPONENT: usize = 2;

const SURROGATES: Range<u32> = 0xd800..0xe000;
const HIGH: Range<u32> = 0xd800..0xdc00;
const LOW: Range<u32> = 0xdc00..0xe000;

/// The code of the low surrogate whose escape begins at `at`, if there is one.
fn low_behind(source: &[u8], at: usize) -> Option<u32> {
    let escape = source.get(at..at + 6)?.strip_prefix(b"\\u")?;
    hexadecimal(escape).ok().filter(|code| LOW.contains(code))
}

fn hexadecimal(digits: &[u8]) -> Result<u32, Doubt> {
    let mut code = 0;
    for digit in digits {
        code = code * 16 + (*digit as char).to_digit(16).ok_or(Doubt)?;
    }
    Ok(code)
}

/// Append the text of a string of a valid document, given without its quotes.
///
/// Each surrogate that isn't in a pair becomes U+FFFD. Return whether there is one.
pub fn unescape(spelling: &[u8], text: &mut Vec<u8>) -> bool {
    let mut rest = spelling;
    let mut has_lone_surrogates = false;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        text.extend_from_slice(&rest[..at]);
        let mut length = 2;
        match rest[at + 1] {
            b'b' => text.push(0x08),
            b'f' => text.push(0x0c),
            b'n' => text.push(b'\n'),
            b'r' => text.push(b'\r'),
            b't' => text.push(b'\t'),
            b'u' => {
                length = 6;
                let mut code = hexadecimal(&rest[at + 2..at + 6]).expect("a valid document");
                if HIGH.contains(&code) {
                    if let Some(low) = low_behind(rest, at + 6) {
                        code = 0x10000 + ((code - HIGH.start) << 10) + (low - LOW.start);
                        length = 12;
                    }
                }
                let character = char::from_u32(code).unwrap_or_else(|| {
                    has_lone_surrogates = true;
                    char::REPLACEMENT_CHARACTER
                });
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => text.push(other),
        }
        rest = &rest[at + length..];
    }
    text.extend_from_slice(rest);
    has_lone_surrogates
}

/// Append a value of a valid document without the blanks outside of its strings.
pub fn compact(value: &[u8], text: &mut Vec<u8>) {
    let (mut start, mut at) = (0, 0); // of what isn't appended yet
    while let Some(byte) = value.get(at) {
        match byte {
            b'"' => at = behind_string(value, at),
            b' ' | b'\t' | b'\n' | b'\r' => {
                text.extend_from_slice(&value[start..at]);
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
    text.extend_from_slice(&value[start..]);
}

/// Where the string of a valid document that begins at `at` has ended.
pub fn behind_string(value: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', &value[at..]).expect("a valid document");
        if value[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
}
