//! Large JSON documents in pieces: what the Python code parses in one step.

use std::ops::Range;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::json::{Doubt, Marks, Paths, Reader};

/// Levels of objects and arrays, which is the limit of the usual parser.
const MAX_DEPTH: usize = 1024;

/// A step of putting a document together, and the part of the document that it takes: the beginning
/// of an object or array, a key of the object or array that follows, some members or items, or the
/// end of an object or array.
type Step = (char, usize, usize);

const KEY: char = 'k';
const PIECE: char = ',';

/// Return the steps of putting together the objects and arrays that have more than `size` bytes.
///
/// There are none if the document is smaller. Return also the number of opening brackets and commas,
/// which is about the number of values. If the document is invalid, the error has the number of
/// bytes before the fault.
#[pyfunction]
#[pyo3(signature = (document, size, /))]
pub fn split_json(document: &[u8], size: usize) -> PyResult<(Vec<Step>, usize)> {
    let paths = Paths::new(&[], false);
    let (mut found, mut marks) = (Vec::new(), Marks::default());
    let reader = Reader::new(&paths, document, 0, usize::MAX, MAX_DEPTH, &mut found, &mut marks);
    let mut splitter = Splitter { reader, size, steps: Vec::new() };
    splitter.reader.blanks();
    let done = splitter.value(0).and_then(|_| splitter.reader.end());
    match done {
        Ok(()) => Ok((splitter.steps, splitter.reader.delimiters)),
        Err(Doubt) => Err(PyValueError::new_err(splitter.reader.at)),
    }
}

struct Splitter<'a> {
    reader: Reader<'a>,
    size: usize,
    steps: Vec<Step>,
}

impl Splitter<'_> {
    /// Go behind a value; return whether it was split.
    fn value(&mut self, depth: usize) -> Result<bool, Doubt> {
        match self.reader.peek()? {
            b'{' => self.container(depth, b'{', b'}'),
            b'[' => self.container(depth, b'[', b']'),
            _ => self.reader.value(None, depth).map(|()| false),
        }
    }

    /// Go behind an object or array. The steps of a small one are dropped.
    fn container(&mut self, depth: usize, opening: u8, closing: u8) -> Result<bool, Doubt> {
        if depth == MAX_DEPTH {
            return Err(Doubt);
        }
        let start = self.reader.at;
        let first = self.steps.len();
        self.steps.push((opening as char, start, start));
        let mut piece: Option<Range<usize>> = None;
        let mut is_last = self.reader.is_empty(closing)?;
        while !is_last {
            let member = self.reader.at;
            let mut key = None;
            if opening == b'{' {
                self.reader.key()?;
                key = Some(member..self.reader.at);
                self.reader.colon()?;
            }
            let inner = self.steps.len();
            if self.value(depth + 1)? {
                let before = piece.take().map(|piece| (PIECE, piece.start, piece.end));
                let key = key.map(|key| (KEY, key.start, key.end));
                self.steps.splice(inner..inner, before.into_iter().chain(key));
            } else {
                let begin = piece.take().map_or(member, |piece| piece.start);
                let end = self.reader.at;
                if end - begin > self.size {
                    self.steps.push((PIECE, begin, end));
                } else {
                    piece = Some(begin..end);
                }
            }
            is_last = self.reader.is_last(closing)?;
        }
        if self.reader.at - start <= self.size {
            self.steps.truncate(first);
            return Ok(false);
        }
        if let Some(piece) = piece {
            self.steps.push((PIECE, piece.start, piece.end));
        }
        self.steps.push((closing as char, start, self.reader.at));
        Ok(true)
    }
}
