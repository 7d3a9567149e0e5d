//! JSON documents: strict validation, and the places of the values at given paths, in one pass.
//!
//! Everything that is unusual is a [`Doubt`]: the document may be valid all the same, and is read
//! by the Python code, which has the last word on what is accepted and on every message.

use std::ops::Range;

use crate::scan;

/// A document that this reader leaves to the Python code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt;

/// Levels of objects and arrays inside one another.
const MAX_DEPTH: usize = 64;

/// Values of a document, with each object and array counted twice: the Python code, which has a
/// limit of as many values, counts some of them twice.
const MAX_VALUES: usize = 100_000;

/// One step of a path: a key that also finds an item of an array if it is a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub key: Vec<u8>,
    pub index: Option<usize>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(Step, usize)>,
    places: Vec<usize>,
}

/// Paths that are looked up together.
#[derive(Debug)]
pub struct Paths {
    nodes: Vec<Node>,
    count: usize,
    strict: bool,
}

/// More paths than this from one place aren't looked up here: their steps are marked in 64 bits.
const MAX_CHILDREN: usize = 64;

impl Paths {
    /// Prepare the look-up of `paths`; `None` if there are too many from one place.
    ///
    /// With `strict` a key of a path that is repeated is in doubt, and so is a document that isn't an
    /// object.
    pub fn new(paths: &[Vec<Step>], strict: bool) -> Option<Paths> {
        let mut nodes = vec![Node::default()];
        for (place, path) in paths.iter().enumerate() {
            let mut at = 0;
            for step in path {
                let known = nodes[at].children.iter().find(|(known, _)| known.key == step.key);
                at = match known {
                    Some((_, child)) => *child,
                    None => {
                        nodes.push(Node::default());
                        let child = nodes.len() - 1;
                        nodes[at].children.push((step.clone(), child));
                        child
                    }
                };
            }
            nodes[at].places.push(place);
        }
        if nodes.iter().any(|node| node.children.len() > MAX_CHILDREN) {
            return None;
        }
        Some(Paths { nodes, count: paths.len(), strict })
    }

    /// Validate `document` and find the value of each path.
    ///
    /// `found` gets a range for each path, empty where there is no value. Of repeated keys the
    /// first counts.
    pub fn find(&self, document: &[u8], found: &mut Vec<Range<usize>>) -> Result<(), Doubt> {
        found.clear();
        found.resize(self.count, 0..0);
        let mut reader = Reader {
            paths: self,
            source: document,
            at: 0,
            left: MAX_VALUES,
            is_wide: false,
            found,
        };
        reader.blanks();
        if self.strict && reader.peek()? != b'{' {
            return Err(Doubt);
        }
        reader.value(Some(0), 0)?;
        reader.blanks();
        if reader.at < document.len() {
            return Err(Doubt);
        }
        // Outside of strings every byte was compared with one of ASCII.
        if reader.is_wide && simdutf8::basic::from_utf8(document).is_err() {
            return Err(Doubt);
        }
        Ok(())
    }
}

/// The members of an object that paths begin with: what follows, and which member it is.
#[derive(Debug, Default)]
pub struct Members(Vec<(usize, usize)>);

impl Paths {
    /// Prepare the look-up in objects that have no other members than those of `names`.
    pub fn members(&self, names: &[&str]) -> Members {
        let place = |step: &Step| names.iter().position(|name| name.as_bytes() == step.key);
        let first = &self.nodes[0].children;
        Members(first.iter().filter_map(|(step, next)| Some((*next, place(step)?))).collect())
    }

    /// Find the value of each path in a valid object whose members are at `places`; see `find`.
    pub fn find_members(
        &self,
        document: &[u8],
        members: &Members,
        places: &[Range<usize>],
        found: &mut Vec<Range<usize>>,
    ) -> Result<(), Doubt> {
        found.clear();
        found.resize(self.count, 0..0);
        for place in &self.nodes[0].places {
            found[*place] = 0..document.len();
        }
        for (node, member) in &members.0 {
            let Range { start, end } = places[*member];
            if start == end {
                continue;
            }
            let source = &document[..end];
            let found = &mut *found;
            let mut reader =
                Reader { paths: self, source, at: start, left: MAX_VALUES, is_wide: false, found };
            if self.nodes[*node].children.is_empty() {
                reader.found_at(*node, start..end);
            } else {
                reader.value(Some(*node), 1)?;
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    paths: &'a Paths,
    source: &'a [u8],
    at: usize,
    /// Values that may still come.
    left: usize,
    /// Whether a string may have a byte above 0x7f.
    is_wide: bool,
    found: &'a mut Vec<Range<usize>>,
}

impl<'a> Reader<'a> {
    #[inline]
    fn peek(&self) -> Result<u8, Doubt> {
        self.source.get(self.at).copied().ok_or(Doubt)
    }

    #[inline]
    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.source.get(self.at) {
            self.at += 1;
        }
    }

    #[inline]
    fn count(&mut self) -> Result<(), Doubt> {
        self.left = self.left.checked_sub(1).ok_or(Doubt)?;
        Ok(())
    }

    fn value(&mut self, node: Option<usize>, depth: usize) -> Result<(), Doubt> {
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
        let children = self.children(node, depth)?;
        let mut seen = 0u64;
        if self.is_empty(b'}')? {
            return Ok(());
        }
        loop {
            if self.peek()? != b'"' {
                return Err(Doubt);
            }
            let start = self.at + 1;
            let has_escapes = self.string()?;
            let mut child = None;
            if !children.is_empty() {
                if has_escapes {
                    return Err(Doubt);
                }
                let key = &self.source[start..self.at - 1];
                for (place, (step, next)) in children.iter().enumerate() {
                    if step.key == key {
                        if seen & (1 << place) == 0 {
                            seen |= 1 << place;
                            child = Some(*next);
                        } else if self.paths.strict {
                            return Err(Doubt);
                        }
                        break;
                    }
                }
            }
            self.blanks();
            if self.peek()? != b':' {
                return Err(Doubt);
            }
            self.at += 1;
            self.blanks();
            self.value(child, depth + 1)?;
            if self.is_last(b'}')? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, node: Option<usize>, depth: usize) -> Result<(), Doubt> {
        let children = self.children(node, depth)?;
        if self.is_empty(b']')? {
            return Ok(());
        }
        let mut index = 0;
        loop {
            let mut child = None;
            for (step, next) in children {
                if step.index == Some(index) {
                    if child.is_some() {
                        return Err(Doubt); // written in two ways: "0" and "00"
                    }
                    child = Some(*next);
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
    fn children(
        &mut self,
        node: Option<usize>,
        depth: usize,
    ) -> Result<&'a [(Step, usize)], Doubt> {
        if depth == MAX_DEPTH {
            return Err(Doubt);
        }
        self.count()?;
        let paths = self.paths;
        Ok(node.map_or(&[], |node| &paths.nodes[node].children))
    }

    /// Go behind the bracket that begins here, and behind `end` if that follows; return whether it
    /// does.
    #[inline]
    fn is_empty(&mut self, end: u8) -> Result<bool, Doubt> {
        self.at += 1;
        self.blanks();
        if self.peek()? != end {
            return Ok(false);
        }
        self.at += 1;
        Ok(true)
    }

    /// Go behind what follows a value: a comma, or `end`; return whether it was `end`.
    #[inline]
    fn is_last(&mut self, end: u8) -> Result<bool, Doubt> {
        self.blanks();
        let byte = self.peek()?;
        self.at += 1;
        if byte == b',' {
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
                            if (0xd800..0xe000).contains(&code) {
                                return Err(Doubt); // a half of a pair, or alone
                            }
                            at += 6;
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
            self.digits()?;
        }
        Ok(())
    }
}

fn hexadecimal(digits: &[u8]) -> Result<u32, Doubt> {
    let mut code = 0;
    for digit in digits {
        code = code * 16 + (*digit as char).to_digit(16).ok_or(Doubt)?;
    }
    Ok(code)
}

/// Append the text of a string of a valid document, given without its quotes.
pub fn unescape(spelling: &[u8], text: &mut Vec<u8>) {
    let mut rest = spelling;
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
                let code = hexadecimal(&rest[at + 2..at + 6]).expect("a valid document");
                let character = char::from_u32(code).expect("no surrogates");
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => text.push(other),
        }
        rest = &rest[at + length..];
    }
    text.extend_from_slice(rest);
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
fn behind_string(value: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', &value[at..]).expect("a valid document");
        if value[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
}
