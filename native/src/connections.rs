//! Connections of producers that send one small record, or one small batch, after another.
//!
//! A turn of the reactor gives the events of all its connections to [`Connections::serve`]. Of a
//! connection that is *armed* (idle, nothing held, its last request was of that kind) one request
//! is read here. If it has arrived whole and alone, and its head leads to a lane, its row or the
//! rows of its lines are rendered. All rows of a turn that have the same lane and the same millisecond make a block,
//! which the lane writes with one call, and which is answered with one call.
//!
//! Everything else is left to the Python code of the connection: bytes that were read go to its
//! `dataReceived`, all other events to the reactor. So this code decides nothing that the Python
//! code decides otherwise.
//!
//! What a head leads to is asked once in each turn. No Python code runs between that and the
//! writing of the blocks that could change the answer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem::take;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use ahash::RandomState;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::fair::{Shares, Used};
use crate::row::{Context, Limits, RowPlan, Scratch};

const READABLE: i64 = 1; // EPOLLIN alone

/// Bytes of the longest request, with its head, that is read here.
const BUFFER: usize = 256 * 1024;

/// Bytes of the longest head.
const MAX_HEAD: usize = 2 * 1024;

/// Fields of a head.
const MAX_FIELDS: usize = 64;

/// Heads that are remembered, as in `stream.source.http.head.HeadReader`.
const MAX_HEADS: usize = 1024;

/// Bytes of rows that are written with one call.
const MAX_BLOCK: usize = 64 * 1024;

/// Bytes of the rows of one batch for one sink.
const MAX_BATCH: usize = 1024 * 1024;

/// Line feeds of a batch for each record that it may have, as in `stream.record.elements`.
const MAX_ENDS: usize = 10;

/// Requests that may be left to the Python code in one turn, once they were read: each may take
/// a millisecond.
const MAX_LEFT: usize = 16;

/// Weight of the latest request in the mean time that the Python code takes for one.
const LATEST: f64 = 0.2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Left to the Python code.
    Cold,
    /// Its next request may be read here.
    Armed,
    /// Its request was read here and isn't answered.
    Waiting,
}

struct Slot {
    connection: Py<PyAny>,
    ip: Vec<u8>,
    state: State,
    used: Used,
}

/// The bytes that each slice may still take in this turn. Lanes to the same slice share them.
type Rooms = HashMap<usize, Rc<Cell<usize>>, RandomState>;

/// One sink of a lane: its mapping, the bytes its slice may still take, its rows, and the length of
/// the last one.
struct Target {
    plan: Py<RowPlan>,
    room: Rc<Cell<usize>>,
    rows: Vec<u8>,
    added: usize,
}

/// A request that waits for its answer, with the number of its records.
type Request = (RawFd, usize);

/// A lane with what it has of this turn.
struct Open {
    lane: Py<PyAny>,
    head: Py<PyAny>,
    length: usize,
    /// Records that a batch may have; 0 if each body is one record.
    max_records: usize,
    headers: Vec<u8>,
    targets: Vec<Target>,
    at: i64,
    size: usize,
    waiting: Vec<Request>,
}

/// The lanes of this turn.
#[derive(Default)]
struct Lanes {
    open: Vec<Open>,
    rooms: Rooms,
}

struct Block {
    lane: Py<PyAny>,
    head: Py<PyAny>,
    rows: Vec<Vec<u8>>,
    at: i64,
    size: usize,
    waiting: Vec<Request>,
}

impl Open {
    fn cut(&mut self, py: Python) -> Option<Block> {
        if self.waiting.is_empty() {
            return None;
        }
        Some(Block {
            lane: self.lane.clone_ref(py),
            head: self.head.clone_ref(py),
            rows: self.targets.iter_mut().map(|target| take(&mut target.rows)).collect(),
            at: self.at,
            size: take(&mut self.size),
            waiting: take(&mut self.waiting),
        })
    }
}

/// A head that was seen, with the lane that it leads to in the turn of that number.
struct Known {
    turn: u64,
    lane: Option<usize>,
}

struct Table {
    slots: HashMap<RawFd, Slot, Plain>,
    heads: HashMap<Vec<u8>, Known, RandomState>,
    turn: u64,
    served: u64,
    /// Seconds that heads have taken in the present loop of this turn.
    asked: f64,
    /// Mean seconds that the Python code takes for a request that is left to it.
    left: f64,
    scratch: Scratch,
    buffer: Box<[u8]>,
}

/// Descriptors are small numbers: they are their own hashes.
#[derive(Default, Clone)]
struct Plain;

impl std::hash::BuildHasher for Plain {
    type Hasher = PlainHasher;
    fn build_hasher(&self) -> PlainHasher {
        PlainHasher(0)
    }
}

struct PlainHasher(u64);

impl std::hash::Hasher for PlainHasher {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only descriptors are hashed");
    }
    fn write_i32(&mut self, value: i32) {
        self.0 = value as u64;
    }
}

/// The requests of one block that wait for their answer.
///
/// Only the reactor's thread may use it.
#[pyclass(unsendable, module = "stream.native._native")]
pub struct Waiting {
    entries: RefCell<Vec<(RawFd, Py<PyAny>, usize)>>,
}

#[pymethods]
impl Waiting {
    /// The connections of these requests.
    fn connections<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.entries.borrow().iter().map(|(_, each, _)| each.clone_ref(py)))
    }

    /// The numbers of records that these requests have, each once.
    fn counts(&self) -> Vec<usize> {
        let mut counts: Vec<usize> =
            self.entries.borrow().iter().map(|(_, _, count)| *count).collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    }

    fn __len__(&self) -> usize {
        self.entries.borrow().len()
    }
}

/// The connections of a listener, by descriptor.
///
/// Arguments: what finds the lane of a head, called with its bytes; the shares of
/// `stream.ops.process.fair_turns`. Only the reactor's thread may use it.
#[pyclass(unsendable, module = "stream.native._native")]
pub struct Connections {
    lane_of: Py<PyAny>,
    shares: Shares,
    state: RefCell<Table>,
}

enum Read {
    /// Its row is rendered.
    Taken,
    /// Nothing was read: the event is for the reactor.
    Unread,
    /// Nothing is there to be read.
    Nothing,
    /// Bytes for the connection's own code.
    Left(Py<PyAny>, Vec<u8>),
}

#[pymethods]
impl Connections {
    #[new]
    fn new(lane_of: Py<PyAny>, shares: (f64, f64, f64, f64, f64, f64, f64)) -> Self {
        let (period, light, rest, rested, light_turn, busy_turn, python_turn) = shares;
        Connections {
            lane_of,
            shares: Shares { period, light, rest, rested, light_turn, busy_turn, python_turn },
            state: RefCell::new(Table {
                slots: HashMap::with_hasher(Plain),
                heads: HashMap::with_hasher(RandomState::new()),
                turn: 0,
                served: 0,
                asked: 0.0,
                left: 0.0,
                scratch: Scratch::default(),
                buffer: vec![0; BUFFER].into_boxed_slice(),
            }),
        }
    }

    /// Add the connection with a descriptor and the sender's address; it isn't armed.
    fn add(&self, descriptor: RawFd, connection: Py<PyAny>, ip: &str) {
        let mut state = self.state.borrow_mut();
        let used = Used::new(state.served);
        let slot = Slot { connection, ip: ip.as_bytes().to_vec(), state: State::Cold, used };
        state.slots.insert(descriptor, slot);
    }

    /// Forget a connection, before its descriptor is used again.
    fn remove(&self, descriptor: RawFd) {
        let removed = self.state.borrow_mut().slots.remove(&descriptor);
        drop(removed); // not before: it may run other code
    }

    /// Read the next request of a connection here.
    fn arm(&self, descriptor: RawFd) {
        self.set(descriptor, State::Armed);
    }

    /// Leave a connection to its own code.
    fn disarm(&self, descriptor: RawFd) {
        self.set(descriptor, State::Cold);
    }

    /// Leave all connections to their own code.
    fn disarm_all(&self) {
        for slot in self.state.borrow_mut().slots.values_mut() {
            slot.state = State::Cold;
        }
    }

    /// Serve the events of connections that are armed; return all others.
    ///
    /// `between` is `stream.ops.process.between.BetweenClients`: its calls are made when all blocks
    /// are written, before the requests that are left to the Python code.
    fn serve<'py>(
        &self,
        py: Python<'py>,
        events: Bound<'py, PyList>,
        now: f64,
        between: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let mut light: Vec<(i32, u64, RawFd)> = Vec::new();
        let mut busy: Vec<(i32, u64, RawFd)> = Vec::new();
        let others = PyList::empty(py);
        {
            let mut state = self.state.borrow_mut();
            state.turn += 1;
            let turn = state.turn;
            for event in events.iter() {
                let (descriptor, mask): (RawFd, i64) = event.extract()?;
                match state.slots.get_mut(&descriptor) {
                    Some(slot) if mask == READABLE && slot.state == State::Armed => {
                        if slot.used.is_light(turn, now, &self.shares) {
                            light.push((slot.used.cost_class(), slot.used.last, descriptor));
                        } else {
                            busy.push((0, slot.used.last, descriptor));
                        }
                    }
                    _ => others.append(event)?,
                }
            }
        }
        if light.is_empty() && busy.is_empty() {
            return Ok(events);
        }
        let mut lanes = Lanes::default();
        let mut blocks = Vec::new();
        let mut left = Vec::new();
        light.sort_unstable();
        busy.sort_unstable();
        let half = self.shares.light_turn / 2.0;
        let cheap =
            self.read_some(py, &light, half, &mut lanes, &mut blocks, &mut left, &others)?;
        let mut light = light.split_off(cheap);
        light.sort_unstable_by_key(|&(_, last, _)| last);
        self.read_some(py, &light, half, &mut lanes, &mut blocks, &mut left, &others)?;
        let share = self.shares.busy_turn;
        self.read_some(py, &busy, share, &mut lanes, &mut blocks, &mut left, &others)?;
        for open in &mut lanes.open {
            blocks.extend(open.cut(py));
        }
        for block in blocks {
            self.write(py, block);
        }
        if !left.is_empty() {
            between.call_method0(intern!(py, "run_calls"))?;
        }
        for (descriptor, connection, data) in left {
            let started = monotonic();
            let data = PyBytes::new(py, &data);
            if let Err(error) = connection.call_method1(py, intern!(py, "take_data"), (data,)) {
                error.write_unraisable(py, None);
            }
            let seconds = monotonic() - started;
            let mut state = self.state.borrow_mut();
            state.left += LATEST * (seconds - state.left);
            if let Some(slot) = state.slots.get_mut(&descriptor) {
                slot.used.add(seconds);
            }
            drop(state);
            between.call_method0(intern!(py, "run_checks"))?;
        }
        Ok(others)
    }

    /// Answer the requests that wait for `completion`.
    ///
    /// `answers` are, for each number of records, the bytes to send, and the answer for connections
    /// whose state is another one meanwhile: they answer by their own code.
    #[pyo3(signature = (waiting, completion, answers, now, /))]
    fn answer(
        &self,
        py: Python,
        waiting: &Waiting,
        completion: &Bound<PyAny>,
        answers: Vec<(usize, Bound<PyBytes>, Bound<PyAny>)>,
        now: f64,
    ) -> PyResult<()> {
        let entries = take(&mut *waiting.entries.borrow_mut());
        let none = py.None();
        let now = now.into_pyobject(py)?;
        for (descriptor, connection, count) in entries {
            let Some((_, answer, usual)) = answers.iter().find(|(known, ..)| *known == count)
            else {
                return Err(PyValueError::new_err("no answer for that many records"));
            };
            let answer = answer.as_bytes();
            let connection = connection.bind(py);
            let pending = connection.getattr(intern!(py, "pending"))?;
            if !pending.is(completion) {
                continue; // nobody waits any more
            }
            let is_waiting = {
                let mut state = self.state.borrow_mut();
                match state.slots.get_mut(&descriptor) {
                    Some(slot)
                        if slot.state == State::Waiting && slot.connection.is(connection) =>
                    {
                        slot.state = State::Armed;
                        true
                    }
                    _ => false,
                }
            };
            let answered = if is_waiting {
                connection.setattr(intern!(py, "pending"), &none)?;
                connection.setattr(intern!(py, "since"), &now)?;
                let sent = send(descriptor, answer);
                if sent == answer.len() {
                    continue;
                }
                self.set(descriptor, State::Cold);
                let rest = PyBytes::new(py, &answer[sent..]);
                connection.call_method1(intern!(py, "send_rest"), (rest,))
            } else {
                connection.call_method1(intern!(py, "finish"), (usual,))
            };
            if let Err(error) = answered {
                error.write_unraisable(py, None); // the others have to be answered all the same
            }
        }
        Ok(())
    }
}

impl Connections {
    fn set(&self, descriptor: RawFd, wanted: State) {
        if let Some(slot) = self.state.borrow_mut().slots.get_mut(&descriptor) {
            slot.state = wanted;
        }
    }

    /// Read requests of *ready* in that order for *share* seconds; return how many.
    #[allow(clippy::too_many_arguments)]
    fn read_some(
        &self,
        py: Python,
        ready: &[(i32, u64, RawFd)],
        share: f64,
        lanes: &mut Lanes,
        blocks: &mut Vec<Block>,
        left: &mut Vec<(RawFd, Py<PyAny>, Vec<u8>)>,
        others: &Bound<PyList>,
    ) -> PyResult<usize> {
        let mut started = monotonic();
        let end = started + share;
        let left_before = left.len();
        self.state.borrow_mut().asked = 0.0;
        for (done, &(_, _, descriptor)) in ready.iter().enumerate() {
            match self.read(py, descriptor, lanes, blocks) {
                Read::Taken | Read::Nothing => {}
                Read::Unread => {
                    others.append(PyTuple::new(py, [i64::from(descriptor), READABLE])?)?;
                }
                Read::Left(connection, data) => left.push((descriptor, connection, data)),
            }
            let ended = monotonic();
            let mut state = self.state.borrow_mut();
            state.served += 1;
            let served = state.served;
            if let Some(slot) = state.slots.get_mut(&descriptor) {
                slot.used.served(served, started, ended);
            }
            started = ended;
            // What is left takes its time after the loop.
            let expected = state.left * (left.len() - left_before) as f64;
            if ended + expected >= end
                || state.asked + expected >= self.shares.python_turn
                || left.len() >= MAX_LEFT
            {
                return Ok(done + 1);
            }
        }
        Ok(ready.len())
    }

    fn read(
        &self,
        py: Python,
        descriptor: RawFd,
        lanes: &mut Lanes,
        blocks: &mut Vec<Block>,
    ) -> Read {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        match state.slots.get(&descriptor) {
            Some(slot) if slot.state == State::Armed => {}
            _ => return Read::Unread,
        }
        let (start, size) = (state.buffer.as_mut_ptr(), state.buffer.len());
        // SAFETY: the buffer is valid for its length.
        let size = match unsafe { receive(descriptor, start, size) } {
            Received::Bytes(size) => size,
            Received::Nothing => return Read::Nothing,
            Received::Failed => return Read::Unread,
        };
        let data = &state.buffer[..size];
        let left = |slots: &mut HashMap<RawFd, Slot, Plain>, data: &[u8]| {
            let slot = slots.get_mut(&descriptor).expect("it was there");
            slot.state = State::Cold;
            Read::Left(slot.connection.clone_ref(py), data.to_vec())
        };
        let Some(end) = head_end(data) else {
            return left(&mut state.slots, data);
        };
        let head = &data[..end];
        let lane = match state.heads.get(head) {
            Some(known) if known.turn == state.turn => known.lane,
            _ => {
                let head = head.to_vec();
                drop(guard);
                let started = monotonic();
                let lane = self.find_lane(py, &head, lanes);
                let mut guard = self.state.borrow_mut();
                let state = &mut *guard;
                state.asked += monotonic() - started;
                if state.heads.len() >= MAX_HEADS && !state.heads.contains_key(&head) {
                    state.heads.clear();
                }
                let turn = state.turn;
                state.heads.insert(head, Known { turn, lane });
                // The slot, the buffer and its size are as they were: asking changes no connection.
                return Self::render(py, descriptor, state, size, end, lane, lanes, blocks);
            }
        };
        Self::render(py, descriptor, state, size, end, lane, lanes, blocks)
    }

    /// Ask what the head leads to; the lane's place in `lanes`.
    fn find_lane(&self, py: Python, head: &[u8], lanes: &mut Lanes) -> Option<usize> {
        let asked = self.lane_of.call1(py, (PyBytes::new(py, head),));
        let opened = asked.and_then(|lane| {
            if lane.is_none(py) {
                return Ok(None);
            }
            let bound = lane.bind(py);
            let targets: Vec<(Py<RowPlan>, usize, usize)> =
                bound.getattr(intern!(py, "targets"))?.extract()?;
            Ok(Some(Open {
                head: bound.getattr(intern!(py, "head"))?.unbind(),
                length: bound.getattr(intern!(py, "length"))?.extract()?,
                max_records: bound.getattr(intern!(py, "max_records"))?.extract()?,
                headers: bound.getattr(intern!(py, "headers"))?.extract()?,
                targets: targets
                    .into_iter()
                    .map(|(plan, room, slice)| {
                        let room =
                            lanes.rooms.entry(slice).or_insert_with(|| Cell::new(room).into());
                        Target { plan, room: Rc::clone(room), rows: Vec::new(), added: 0 }
                    })
                    .collect(),
                lane,
                at: 0,
                size: 0,
                waiting: Vec::new(),
            }))
        });
        match opened {
            Ok(Some(open)) => {
                lanes.open.push(open);
                Some(lanes.open.len() - 1)
            }
            Ok(None) => None,
            Err(error) => {
                // The connection's own code meets the same failure, and answers and logs it.
                error.write_unraisable(py, None);
                None
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn render(
        py: Python,
        descriptor: RawFd,
        state: &mut Table,
        size: usize,
        end: usize,
        lane: Option<usize>,
        lanes: &mut Lanes,
        blocks: &mut Vec<Block>,
    ) -> Read {
        let data = &state.buffer[..size];
        let slot = state.slots.get_mut(&descriptor).expect("asking changes no connection");
        if let Some(open) = lane.map(|lane| &mut lanes.open[lane]) {
            if size == end + open.length {
                let at = milliseconds();
                let full = open.targets.iter().any(|target| target.rows.len() >= MAX_BLOCK);
                if open.at != at || full {
                    blocks.extend(open.cut(py));
                    open.at = at;
                }
                let body = &data[end..];
                if let Some(count) = push_rows(body, slot, open, &mut state.scratch) {
                    slot.state = State::Waiting;
                    open.waiting.push((descriptor, count));
                    open.size += body.len();
                    return Read::Taken;
                }
            }
        }
        slot.state = State::Cold;
        Read::Left(slot.connection.clone_ref(py), data.to_vec())
    }

    /// Write a block; if that fails, its requests are answered as failed.
    fn write(&self, py: Python, block: Block) {
        let Err(error) = self.begin_and_write(py, &block) else {
            return;
        };
        error.write_unraisable(py, None); // the other blocks have to be written all the same
        for (descriptor, _) in block.waiting {
            let connection = {
                let mut state = self.state.borrow_mut();
                let Some(slot) = state.slots.get_mut(&descriptor) else { continue };
                slot.state = State::Cold;
                slot.connection.clone_ref(py)
            };
            if let Err(error) = connection.call_method1(py, intern!(py, "crashed"), (&block.head,))
            {
                error.write_unraisable(py, None);
            }
        }
    }

    /// Write a block, and make its connections wait for it.
    fn begin_and_write(&self, py: Python, block: &Block) -> PyResult<()> {
        let entries: Vec<(RawFd, Py<PyAny>, usize)> = {
            let state = self.state.borrow();
            let slot = |(descriptor, count): &Request| {
                let slot = state.slots.get(descriptor)?;
                Some((*descriptor, slot.connection.clone_ref(py), *count))
            };
            block.waiting.iter().filter_map(slot).collect()
        };
        let connections: Vec<Py<PyAny>> =
            entries.iter().map(|(_, connection, _)| connection.clone_ref(py)).collect();
        let count: usize = block.waiting.iter().map(|(_, count)| count).sum();
        let waiting = Py::new(py, Waiting { entries: RefCell::new(entries) })?;
        let lane = block.lane.bind(py);
        let begun =
            lane.call_method1(intern!(py, "begin"), (count, block.at, block.size, waiting))?;
        let (completion, since): (Bound<PyAny>, Bound<PyAny>) = begun.extract()?;
        for connection in connections {
            let connection = connection.bind(py);
            connection.setattr(intern!(py, "pending"), &completion)?;
            connection.setattr(intern!(py, "since"), &since)?;
            connection.setattr(intern!(py, "_head"), &block.head)?;
        }
        let rows = PyList::new(py, block.rows.iter().map(|rows| PyBytes::new(py, rows)))?;
        lane.call_method1(intern!(py, "write"), (rows, count, block.at, completion))?;
        Ok(())
    }
}

/// Render the rows of a request for all sinks of a lane, or none of them; return the number of its
/// records.
fn push_rows(body: &[u8], slot: &Slot, open: &mut Open, scratch: &mut Scratch) -> Option<usize> {
    const BOM: &[u8] = b"\xef\xbb\xbf";
    if body.starts_with(BOM) {
        return None;
    }
    let context = Context { at: open.at, ip: &slot.ip, headers: &open.headers };
    let max_records = open.max_records;
    let limits = Limits { records: max_records, ends: MAX_ENDS * max_records, bytes: MAX_BATCH };
    let (mut done, mut records) = (0, 1);
    for target in &mut open.targets {
        let start = target.rows.len();
        let plan = target.plan.get();
        let rendered = if max_records == 0 {
            plan.render(body, &context, scratch, &mut target.rows).map(|()| 1)
        } else {
            let lines = plan.render_lines(body, &context, &limits, scratch, &mut target.rows);
            lines.map(|(count, _)| count)
        };
        target.added = target.rows.len() - start;
        match rendered {
            Ok(count) if count > 0 && target.added <= target.room.get() => records = count,
            _ => {
                target.rows.truncate(start);
                break;
            }
        }
        target.room.set(target.room.get() - target.added);
        done += 1;
    }
    if done == open.targets.len() {
        return Some(records);
    }
    for earlier in &mut open.targets[..done] {
        earlier.rows.truncate(earlier.rows.len() - earlier.added);
        earlier.room.set(earlier.room.get() + earlier.added);
    }
    None
}

/// What came of a call that receives.
pub enum Received {
    Bytes(usize),
    Nothing,
    /// The end, or an error.
    Failed,
}

/// Receive at most `size` bytes, more than none, without waiting.
///
/// # Safety
///
/// As many bytes can be written from `start` on.
pub unsafe fn receive(descriptor: RawFd, start: *mut u8, size: usize) -> Received {
    // SAFETY: see above; a wrong descriptor is an error of the call.
    let size = unsafe { libc::recv(descriptor, start.cast(), size, libc::MSG_DONTWAIT) };
    if size > 0 {
        return Received::Bytes(size as usize);
    }
    if size < 0 {
        let error = std::io::Error::last_os_error();
        if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
            return Received::Nothing;
        }
    }
    Received::Failed // the reactor meets the same, or the end again
}

/// Send as much of `data` as the socket takes; return how much that is.
fn send(descriptor: RawFd, data: &[u8]) -> usize {
    // SAFETY: the data is valid for its length; a wrong descriptor is an error of the call.
    let sent =
        unsafe { libc::send(descriptor, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
    sent.max(0) as usize // whatever is wrong, the transport meets it, too
}

/// Where the body begins, if the head is whole and short.
fn head_end(data: &[u8]) -> Option<usize> {
    if data.first() == Some(&b'\r') {
        return None;
    }
    let searched = &data[..data.len().min(MAX_HEAD)];
    let end = memchr::memmem::find(searched, b"\r\n\r\n")? + 4;
    let fields = memchr::memchr_iter(b'\n', &data[..end]).count();
    (fields <= MAX_FIELDS).then_some(end)
}

fn monotonic() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is valid; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Milliseconds since the epoch.
fn milliseconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64)
}
