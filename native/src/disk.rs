//! A thread of a volume that appends to slice files and syncs them, without the GIL.
//!
//! To hand work to a Python thread and get its result costs several waits for the GIL: the thread
//! gets it when the reactor is idle, and releases and takes it again for each system call. Here the
//! reactor's thread hands over a round, and a descriptor wakes the reactor when it has ended.
//!
//! This code decides nothing: it reports the first error of each file, and the Python code repeats or
//! undoes what was to be done with that file. There is one round at a time, so there is no queue.

use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Buffers of one call of the operating system.
const MAX_BUFFERS: usize = 1024;

/// Bytes of the stack of a thread, which needs a few hundred.
const STACK: usize = 128 * 1024;

/// Bytes of an immutable object, which outlives the round.
struct Buffer {
    start: *const u8,
    size: usize,
}

// SAFETY: the bytes are never changed, and the round holds the object that they belong to.
unsafe impl Send for Buffer {}

/// A file's descriptor, its end, consecutive appends, and whether the file is synced.
type File = (RawFd, i64, Vec<Py<PyBytes>>, bool);

/// Consecutive appends to one file.
struct Appends {
    descriptor: RawFd,
    offset: i64,
    buffers: Vec<Buffer>,
    /// What the buffers belong to.
    _held: Vec<Py<PyBytes>>,
    sync: bool,
}

/// What a round has met in one file: errors of the system, 0 for none.
#[derive(Default)]
struct Outcome {
    write_error: i32,
    sync_error: i32,
    links: i64,
    seconds: f64,
}

/// Appends to several files.
type Round = Vec<Appends>;

#[derive(Default)]
struct Desk {
    waiting: Option<Round>,
    is_running: bool,
    ended: Option<(Vec<Outcome>, Round)>,
    is_left: bool,
}

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    wake: OwnedFd,
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("nobody panics with it")
    }
}

/// A thread for the rounds of a volume.
///
/// Argument: the descriptor that it writes eight bytes to when a round has ended.
#[pyclass(module = "stream.native._native")]
pub struct DiskThread {
    shared: Arc<Shared>,
}

#[pymethods]
impl DiskThread {
    #[new]
    fn new(wake: RawFd) -> PyResult<Self> {
        // SAFETY: a wrong descriptor is an error of the call; the copy has no other owner.
        let wake = unsafe {
            let copy = libc::fcntl(wake, libc::F_DUPFD_CLOEXEC, 0);
            if copy < 0 {
                return Err(PyOSError::new_err(Error::last_os_error().to_string()));
            }
            OwnedFd::from_raw_fd(copy)
        };
        let shared = Arc::new(Shared { desk: Mutex::default(), changed: Condvar::new(), wake });
        let of_thread = shared.clone();
        thread::Builder::new()
            .name("volume".into())
            .stack_size(STACK)
            .spawn(move || work(&of_thread))
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(DiskThread { shared })
    }

    /// Append to each of `files` at its end, then sync those that have to be.
    fn start(&self, py: Python, files: Vec<File>) -> PyResult<()> {
        let round = files
            .into_iter()
            .map(|(descriptor, offset, held, sync)| {
                let buffers = held
                    .iter()
                    .map(|each| each.as_bytes(py))
                    .filter(|each| !each.is_empty())
                    .map(|each| Buffer { start: each.as_ptr(), size: each.len() })
                    .collect();
                Appends { descriptor, offset, buffers, _held: held, sync }
            })
            .collect();
        let mut desk = self.shared.desk();
        if desk.waiting.is_some() || desk.is_running || desk.ended.is_some() {
            return Err(PyRuntimeError::new_err("the round before hasn't ended"));
        }
        desk.waiting = Some(round);
        drop(desk);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Take the outcome of the round that has ended, for each file: the errors of its writes and of
    /// its sync, its links, and the seconds of the sync.
    fn take(&self) -> Option<Vec<(i32, i32, i64, f64)>> {
        let (outcomes, round) = self.shared.desk().ended.take()?;
        drop(round);
        let found = outcomes.iter();
        Some(found.map(|it| (it.write_error, it.sync_error, it.links, it.seconds)).collect())
    }
}

impl Drop for DiskThread {
    fn drop(&mut self) {
        self.shared.desk().is_left = true;
        self.shared.changed.notify_one();
    }
}

fn work(shared: &Shared) {
    loop {
        let round = {
            let mut desk = shared.desk();
            loop {
                if let Some(round) = desk.waiting.take() {
                    desk.is_running = true;
                    break round;
                }
                if desk.is_left {
                    return;
                }
                desk = shared.changed.wait(desk).expect("nobody panics with it");
            }
        };
        let outcomes = run(&round);
        let mut desk = shared.desk();
        desk.is_running = false;
        desk.ended = Some((outcomes, round));
        drop(desk);
        let one = 1u64.to_ne_bytes();
        // SAFETY: the bytes are valid; nobody reads any more if it fails.
        unsafe { libc::write(shared.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// Write to all files, then sync them: while one is synced, the system may write the others.
fn run(round: &Round) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = round
        .iter()
        .map(|file| {
            let written = write(file.descriptor, &file.buffers, file.offset);
            Outcome {
                write_error: written.err().map_or(0, |error| code(&error)),
                ..Outcome::default()
            }
        })
        .collect();
    for (file, outcome) in round.iter().zip(&mut outcomes) {
        if outcome.write_error != 0 {
            continue;
        }
        if file.sync {
            let start = Instant::now();
            if let Err(error) = sync(file.descriptor) {
                outcome.sync_error = code(&error);
                continue;
            }
            outcome.seconds = start.elapsed().as_secs_f64();
        }
        outcome.links = links(file.descriptor);
    }
    outcomes
}

fn code(error: &Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn write(descriptor: RawFd, buffers: &[Buffer], mut offset: i64) -> Result<(), Error> {
    let mut left: Vec<libc::iovec> = buffers
        .iter()
        .map(|each| libc::iovec { iov_base: each.start.cast_mut().cast(), iov_len: each.size })
        .collect();
    let mut done = 0;
    while done < left.len() {
        let next = &left[done..];
        let count = next.len().min(MAX_BUFFERS) as i32;
        // SAFETY: the buffers are valid and only read; a wrong descriptor is an error of the call.
        let written = unsafe { libc::pwritev(descriptor, next.as_ptr(), count, offset) };
        if written <= 0 {
            let error = Error::last_os_error();
            match (written, error.raw_os_error()) {
                (0, _) => return Err(Error::from_raw_os_error(libc::EIO)),
                (_, Some(libc::EINTR)) => continue,
                _ => return Err(error),
            }
        }
        offset += written as i64;
        let mut written = written as usize;
        while done < left.len() && written >= left[done].iov_len {
            written -= left[done].iov_len;
            done += 1;
        }
        if written > 0 {
            let first = &mut left[done];
            // SAFETY: it stays within the buffer.
            first.iov_base = unsafe { first.iov_base.cast::<u8>().add(written) }.cast();
            first.iov_len -= written;
        }
    }
    Ok(())
}

fn sync(descriptor: RawFd) -> Result<(), Error> {
    loop {
        // SAFETY: a wrong descriptor is an error of the call.
        #[cfg(target_os = "macos")]
        let done = unsafe { libc::fcntl(descriptor, libc::F_FULLFSYNC) };
        #[cfg(not(target_os = "macos"))]
        let done = unsafe { libc::fdatasync(descriptor) };
        if done >= 0 {
            return Ok(());
        }
        let error = Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// The number of names of a file, -1 if it isn't known.
fn links(descriptor: RawFd) -> i64 {
    // SAFETY: the structure is valid for the call, which fills it; it is read only then.
    unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        if libc::fstat(descriptor, &raw mut found) < 0 {
            -1
        } else {
            found.st_nlink as i64
        }
    }
}
