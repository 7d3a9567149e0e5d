//! The rows in a stream of CSV whose values are all quoted; the twin of
//! `stream.storage.volumes.recovery.RowCounter`.

use pyo3::prelude::*;

/// Count the rows that end in `data`, without the GIL.
///
/// Arguments: the data; whether it begins inside a value; whether a zero byte between values ends
/// the count. Result: the number of rows, the position of the last end or -1, whether the data ends
/// inside a value, and whether there was such a zero byte.
#[pyfunction]
#[pyo3(signature = (data, inside, strict, /))]
pub fn count_rows(
    py: Python,
    data: &[u8],
    inside: bool,
    strict: bool,
) -> (usize, isize, bool, bool) {
    py.detach(|| count(data, inside, strict))
}

fn count(data: &[u8], mut inside: bool, strict: bool) -> (usize, isize, bool, bool) {
    let zero = if strict { 0 } else { b'"' };
    let (mut rows, mut last, mut at) = (0, -1, 0);
    loop {
        let rest = &data[at..];
        let found = if inside {
            memchr::memchr(b'"', rest)
        } else {
            memchr::memchr3(b'"', b'\n', zero, rest)
        };
        let Some(found) = found else {
            return (rows, last, inside, false);
        };
        match rest[found] {
            b'"' => inside = !inside,
            b'\n' => {
                rows += 1;
                last = (at + found) as isize;
            }
            _ => return (rows, last, inside, true),
        }
        at += found + 1;
    }
}
