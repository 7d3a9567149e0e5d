//! The values at all paths of a mapping, for the Python code that renders what `row` doesn't.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::json::{compact, unescape, Marks, Paths, Reader, MAX_DEPTH};
use crate::row::{steps_of, PathSteps};

/// Paths that are looked up together, in one pass over a document.
///
/// Arguments: the steps of each path as pairs of key and index.
#[pyclass(frozen, module = "stream.native._native")]
pub struct JsonPaths {
    paths: Paths,
}

/// The document without blanks if it has some, and where the values start and end.
type Found<'py> = (Option<Bound<'py, PyBytes>>, Vec<(usize, usize)>);

#[pymethods]
impl JsonPaths {
    #[new]
    fn new(paths: Vec<PathSteps>) -> Self {
        let paths: Vec<_> = paths.into_iter().map(steps_of).collect();
        JsonPaths { paths: Paths::new(&paths, false) }
    }

    /// Find the value of each path in `document`; return the document without the blanks outside of
    /// its strings (`None` if it has no blanks), and the place of each value in it.
    ///
    /// A value that isn't there has an empty place. There may be any number of values.
    ///
    /// `None` leaves the document to the Python code: it is invalid or nested too deeply, or an item
    /// of an array has two paths.
    #[pyo3(signature = (document, /))]
    fn find<'py>(&self, py: Python<'py>, document: &[u8]) -> Option<Found<'py>> {
        let (mut found, mut marks) = (Vec::new(), Marks::default());
        let has_blanks =
            self.paths.find_limited(document, usize::MAX, &mut found, &mut marks).ok()?;
        let mut text = None;
        if has_blanks {
            let mut without = Vec::with_capacity(document.len());
            compact(document, &mut without);
            self.paths.find_limited(&without, usize::MAX, &mut found, &mut marks).ok()?;
            text = Some(PyBytes::new(py, &without));
        }
        Some((text, found.iter().map(|place| (place.start, place.end)).collect()))
    }
}

/// Return the text of the JSON string `spelling`, with U+FFFD instead of surrogates that aren't in a
/// pair; `None` if it isn't a JSON string.
#[pyfunction]
#[pyo3(signature = (spelling, /))]
pub fn json_text<'py>(py: Python<'py>, spelling: &[u8]) -> Option<Bound<'py, PyBytes>> {
    let paths = Paths::new(&[], false);
    let (mut found, mut marks) = (Vec::new(), Marks::default());
    let mut reader = Reader::new(&paths, spelling, 0, 1, MAX_DEPTH, &mut found, &mut marks);
    reader.key().and_then(|_| reader.end()).ok()?;
    if spelling.last() != Some(&b'"') {
        return None; // there are blanks
    }
    let mut text = Vec::with_capacity(spelling.len());
    unescape(&spelling[1..spelling.len() - 1], &mut text);
    Some(PyBytes::new(py, &text))
}
