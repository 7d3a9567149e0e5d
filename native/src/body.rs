//! Bodies of large requests, received into the place where they stay.

use std::os::fd::RawFd;
use std::ptr::{copy_nonoverlapping, null};

use pyo3::exceptions::PyValueError;
use pyo3::ffi::{PyBytes_AsString, PyBytes_FromStringAndSize};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::connections::{receive, Received};

/// Bytes of the first place, unless the body is shorter.
const FIRST_PLACE: usize = 64 * 1024;

/// How many times as much as has arrived fits into the next place: a client that announces much and
/// sends little occupies little.
const GROWTH: usize = 4;

/// Bytes that nobody else has, and that aren't initialised before they are written.
struct Place {
    bytes: Py<PyBytes>,
    size: usize,
}

impl Place {
    fn new(py: Python, size: usize) -> PyResult<Place> {
        // SAFETY: without a source the bytes are allocated only; `size` is more than zero, so the
        // object isn't shared. An error is a null pointer with an exception.
        let bytes = unsafe {
            let made = PyBytes_FromStringAndSize(null(), size as isize);
            Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked()
        };
        Ok(Place { bytes: bytes.unbind(), size })
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: it is an object of bytes.
        unsafe { PyBytes_AsString(self.bytes.as_ptr()).cast() }
    }
}

/// The body of a request that hasn't arrived whole.
///
/// Arguments: its length, and what has arrived of it.
#[pyclass(module = "stream.native._native")]
pub struct Body {
    place: Option<Place>,
    filled: usize,
    length: usize,
}

#[pymethods]
impl Body {
    #[new]
    #[pyo3(signature = (length, data, /))]
    fn new(py: Python, length: usize, data: &[u8]) -> PyResult<Self> {
        let mut body = Body { place: None, filled: 0, length };
        body.feed(py, data)?;
        Ok(body)
    }

    /// The number of bytes that have arrived.
    fn __len__(&self) -> usize {
        self.filled
    }

    /// Add data that was received elsewhere.
    #[pyo3(signature = (data, /))]
    fn feed(&mut self, py: Python, data: &[u8]) -> PyResult<()> {
        if data.len() > self.length - self.filled {
            return Err(PyValueError::new_err("more than the body"));
        }
        let (start, _) = self.room(py, data.len())?;
        // SAFETY: there is room for the data.
        unsafe { copy_nonoverlapping(data.as_ptr(), start, data.len()) };
        self.filled += data.len();
        Ok(())
    }

    /// Receive from a socket, at most `limit` bytes.
    ///
    /// Result: their number; 0 if nothing is there, -1 if that was the end or a failure, which the
    /// transport meets again.
    #[pyo3(signature = (descriptor, limit, /))]
    fn receive(&mut self, py: Python, descriptor: RawFd, limit: usize) -> PyResult<isize> {
        let (start, size) = self.room(py, 1)?;
        // SAFETY: there is room for that many bytes.
        Ok(match unsafe { receive(descriptor, start, size.min(limit)) } {
            Received::Bytes(size) => {
                self.filled += size;
                size as isize
            }
            Received::Nothing => 0,
            Received::Failed => -1,
        })
    }

    /// Return the body, once, when all of it has arrived.
    fn take(&mut self) -> PyResult<Py<PyBytes>> {
        if self.filled < self.length {
            return Err(PyValueError::new_err("the body isn't whole"));
        }
        let place = self.place.take().ok_or_else(|| PyValueError::new_err("the body was taken"))?;
        Ok(place.bytes)
    }
}

impl Body {
    /// Return where the next bytes go, and how many there is room for: at least `wanted`, if the
    /// body has as many.
    fn room(&mut self, py: Python, wanted: usize) -> PyResult<(*mut u8, usize)> {
        let size = self.place.as_ref().map_or(0, |place| place.size);
        if self.place.is_none() || size - self.filled < wanted {
            let enough = FIRST_PLACE.max(GROWTH * (self.filled + wanted));
            let larger = Place::new(py, enough.min(self.length).max(1))?;
            if let Some(place) = &self.place {
                // SAFETY: both have room for what has arrived.
                unsafe { copy_nonoverlapping(place.start(), larger.start(), self.filled) };
            }
            self.place = Some(larger);
        }
        let place = self.place.as_ref().expect("made above");
        // SAFETY: not more than the place's size has arrived.
        Ok((unsafe { place.start().add(self.filled) }, place.size - self.filled))
    }
}
