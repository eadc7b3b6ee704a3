//! One pass over a whole file, for formats that are planned much faster than they are read.
//!
//! Threads read chunks of the file side by side, take turns to plan them in file order, and work on them side by side
//! again. A chunk stays in its thread's cache all the while. The work is counting, which makes an index, or decoding
//! where the length of the file bounds the number of its events: then the turn counts too, which gives each chunk its
//! place among the rows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::columns::Slots;
use crate::error::{Error, Result};
use crate::problem::Problems;
use crate::scan::{Depth, Index, IndexBuilder, Planner, Scan, Segment, Segmented, bytes_of};
use crate::schema::Columns;
use crate::source::Buffer;

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Bytes before a chunk in its buffer, for what the planner held back of the chunk before.
const HEADROOM: usize = 4 << 10;

/// What the threads pass on.
struct Baton<'a, S> {
    /// The chunk whose turn it is.
    chunk: u64,
    planner: Box<dyn Planner<State = S>>,
    /// Bytes before the chunk that the planner wants to see again.
    held: Vec<u8>,
    /// Rows that are still free.
    free: Slots<'a>,
    rows: usize,
    /// The segments of the chunks up to `indexed`, and those of later chunks that were done before it.
    index: IndexBuilder<S>,
    indexed: u64,
    early: BTreeMap<u64, (Vec<Segment<S>>, Problems)>,
    /// What ended the reading early.
    error: Option<Error>,
}

impl<S: Copy> Baton<'_, S> {
    /// Appends the segments of a chunk to the index as soon as those before it are there.
    fn append(&mut self, chunk: u64, segments: Vec<Segment<S>>, problems: Problems) {
        self.early.insert(chunk, (segments, problems));
        while let Some((segments, problems)) = self.early.remove(&self.indexed) {
            self.index.append(segments, &problems);
            self.indexed += 1;
        }
    }
}

/// What is done with planned chunks.
#[derive(Clone, Copy)]
enum Work {
    Decode(Columns),
    Index(Depth),
}

struct Relay<'a, F: Segmented> {
    scan: &'a Scan<F>,
    work: Work,
    /// The next chunk to be read.
    next: AtomicU64,
    baton: Mutex<Baton<'a, F::State>>,
    passed: Condvar,
}

/// A planned chunk: its bytes with those held back before it, their place in the file, and the segments, if they are
/// to be decoded with their places among the rows.
struct Planned<'b, 'a, S> {
    bytes: Cow<'b, [u8]>,
    offset: u64,
    segments: Vec<Segment<S>>,
    places: Vec<Slots<'a>>,
    problems: Problems,
}

/// Wakes those who wait for their turn, also where the turn before ended in a panic.
struct Wake<'a>(&'a Condvar);

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        self.0.notify_all();
    }
}

/// Decodes the whole file with so many threads into `slots`, which have room for all that it can hold. Returns the
/// number of rows and the index.
pub(crate) fn decode<F: Segmented>(scan: &Scan<F>, columns: Columns, slots: Slots<'_>, threads: usize) -> Result<(usize, Index<F::State>)> {
    run(scan, Work::Decode(columns), slots, threads)
}

/// The index of the whole file, made with so many threads.
pub(crate) fn index<F: Segmented>(scan: &Scan<F>, depth: Depth, threads: usize) -> Result<Index<F::State>> {
    run(scan, Work::Index(depth), Slots::default(), threads).map(|(_, index)| index)
}

fn run<F: Segmented>(scan: &Scan<F>, work: Work, slots: Slots<'_>, threads: usize) -> Result<(usize, Index<F::State>)> {
    let chunks = scan.source.len().saturating_sub(scan.format.payload()).div_ceil(CHUNK as u64);
    let relay = Relay {
        scan,
        work,
        next: AtomicU64::new(0),
        baton: Mutex::new(Baton {
            chunk: 0,
            planner: scan.format.planner(scan.format.start()),
            held: Vec::new(),
            free: slots,
            rows: 0,
            index: IndexBuilder::default(),
            indexed: 0,
            early: BTreeMap::new(),
            error: None,
        }),
        passed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for thread in 1..chunks.min(threads as u64) {
            let builder = std::thread::Builder::new().name(format!("evlib-read-{thread}"));
            // Where the system gives no more threads, those that are there do the work.
            if builder.spawn_scoped(scope, || relay.run()).is_err() {
                break;
            }
        }
        relay.run();
    });
    let baton = relay.baton.into_inner().unwrap_or_else(PoisonError::into_inner);
    match baton.error {
        Some(error) => Err(error),
        None => Ok((baton.rows, baton.index.finish())),
    }
}

impl<'a, F: Segmented> Relay<'a, F> {
    /// Takes chunks until there are no more.
    fn run(&self) {
        let mut buffer = Buffer::default();
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            match self.chunk(chunk, &mut buffer) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let _wake = Wake(&self.passed);
                    self.baton.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(error);
                    return;
                }
            }
        }
    }

    /// Reads, plans and decodes or counts a chunk; false if there is none, or if reading has ended early.
    fn chunk(&self, chunk: u64, buffer: &mut Buffer) -> Result<bool> {
        let (source, format) = (&self.scan.source, &self.scan.format);
        let offset = chunk.saturating_mul(CHUNK as u64).saturating_add(format.payload());
        let (len, last) = source.stretch(offset, CHUNK)?;
        if len == 0 {
            return Ok(false);
        }
        let bytes = buffer.take(HEADROOM + len);
        source.read_exact_at(bytes.get_mut(HEADROOM..).unwrap_or_default(), offset)?;
        let Some(mut planned) = self.plan(chunk, offset, bytes, last) else { return Ok(false) };
        match self.work {
            Work::Decode(columns) => {
                for (segment, mut slots) in planned.segments.iter().zip(planned.places) {
                    let mut state = segment.state;
                    format.fill(columns, &mut state, bytes_of(segment, &planned.bytes, planned.offset), &mut slots);
                    debug_assert_eq!(slots.room(), 0, "a segment has as many events as were counted");
                }
            }
            Work::Index(depth) => {
                for segment in &mut planned.segments {
                    depth.look(format, segment, bytes_of(segment, &planned.bytes, planned.offset), &mut planned.problems);
                }
                let mut baton = self.baton.lock().unwrap_or_else(PoisonError::into_inner);
                baton.append(chunk, planned.segments, planned.problems);
            }
        }
        Ok(true)
    }

    /// Waits for the turn of the chunk that starts `HEADROOM` into `bytes` and plans it; `None` if reading has ended
    /// early.
    fn plan<'b>(&self, chunk: u64, offset: u64, bytes: &'b mut [u8], last: bool) -> Option<Planned<'b, 'a, F::State>> {
        let _wake = Wake(&self.passed);
        let baton = self.baton.lock().ok()?;
        let mut baton = self.passed.wait_while(baton, |baton| baton.chunk != chunk && baton.error.is_none()).ok()?;
        if baton.error.is_some() {
            return None;
        }
        let held = std::mem::take(&mut baton.held);
        let offset = offset - held.len() as u64;
        let bytes = match HEADROOM.checked_sub(held.len()) {
            Some(start) => {
                bytes.get_mut(start..HEADROOM).unwrap_or_default().copy_from_slice(&held);
                Cow::Borrowed(bytes.get(start..).unwrap_or_default())
            }
            None => Cow::Owned([&held, bytes.get(HEADROOM..).unwrap_or_default()].concat()),
        };
        let mut segments = Vec::new();
        let mut problems = Problems::default();
        let consumed = baton.planner.plan(&bytes, offset, last, &mut segments, &mut problems);
        baton.held = bytes.get(consumed..).unwrap_or_default().to_vec();
        let mut places = Vec::new();
        if matches!(self.work, Work::Decode(_)) {
            for segment in &mut segments {
                Depth::Counts.look(&self.scan.format, segment, bytes_of(segment, &bytes, offset), &mut problems);
                let events = usize::try_from(segment.events).unwrap_or(usize::MAX);
                baton.rows += events;
                places.push(baton.free.split_off_front(events));
            }
            baton.append(chunk, segments.clone(), std::mem::take(&mut problems));
        }
        baton.chunk += 1;
        Some(Planned { bytes, offset, segments, places, problems })
    }
}
