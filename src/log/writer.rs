//! Writing a channel: a bounded queue, and a thread that takes batches from it into the file.
//!
//! A producer copies its payload into the batch that is being filled, in the form that the file has; the thread puts
//! numbers, places and checksums into it and writes it at once. Batches start at a multiple of 64 in the file, so that
//! what is inside is aligned wherever they come to stand.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::record::{self, ALIGN, BLOCK, CHANNEL_ID, Directory, Head, MAGIC, OVERHEAD, PROFILE, SessionInfo, op, push_record, push_text};
use super::{name, sys};
use crate::columns::ByteBuffer;
use crate::error::{Error, ErrorKind, Result};

/// Bytes at which a batch is complete.
const BATCH: usize = 1 << 20;
/// Bytes for which the thread starts to write.
const FLUSH: usize = 64 << 10;
/// How long a record waits for others, at most.
const FLUSH_AFTER: Duration = Duration::from_millis(10);
/// The same for writing past the page cache, where small batches are dear.
const DIRECT_AFTER: Duration = Duration::from_millis(100);
/// How long the thread looks for records by itself after the last one: a producer of ten a second or more never has to
/// wake it, which would take the producer longer than all the rest.
const LINGER: Duration = Duration::from_millis(150);
/// What writing past the page cache is aligned to.
const SECTOR: usize = 4096;
/// Bytes written past the page cache at a time, and disk space asked for in advance.
const STAGE: usize = 1 << 20;
const PREALLOCATE: u64 = 64 << 20;
/// Bytes of one call: some systems take no more than 2 GiB.
const CALL: usize = 1 << 30;
/// Bytes of buffers kept for the next batches: memory that has been used is much quicker than new.
const SPARE: usize = 32 << 20;
/// Payloads from this size on get their checksum from the producer, so that the two share the work.
const LARGE: usize = 64 << 10;
/// Most bytes of what a file says of its channel: readers look for it in the first MiB.
const DESCRIPTION: usize = record::SESSION_LIMIT / 2;
/// Least size of a queue.
const LEAST_QUEUE: usize = 4 << 10;

/// What happens to a record for which the queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Policy {
    /// The producer waits.
    #[default]
    Block,
    /// The oldest batch that waits is dropped, and counted.
    DropOldest,
    /// The record is refused with [`ErrorKind::QueueFull`], and counted.
    Error,
}

/// When records go to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Flush {
    /// As soon as 64 KiB are there, and after 10 ms at the latest.
    #[default]
    Batch,
    /// At once. Under [`Policy::Block`] the producer itself copies a small record into the page cache, where no other
    /// is on its way: that is what a reader that follows the channel waits for least.
    Record,
}

/// How a channel is written, and what its files say of its payloads.
///
/// ```
/// use evlib::log::{Flush, Policy, WriterOptions};
/// let options = WriterOptions::new("bytes", 1).with_policy(Policy::DropOldest).with_flush(Flush::Record);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WriterOptions {
    /// Name of the codec that makes the payloads.
    pub codec: String,
    /// Its version.
    pub codec_version: u32,
    /// What it wants to know when it reads.
    pub metadata: Vec<(String, String)>,
    /// MCAP message encoding, where payloads are in one that others know (`json`, `protobuf`).
    pub encoding: Option<String>,
    /// MCAP schema of the messages: name, encoding, content.
    pub schema: Option<(String, String, Vec<u8>)>,
    /// What happens when the queue is full.
    pub policy: Policy,
    /// Bytes that may wait for the disk.
    pub queue_bytes: usize,
    /// When records go to the system.
    pub flush: Flush,
    /// Whether a write returns only when its record is on the disk (`fdatasync`).
    pub durable: bool,
    /// Whether to write past the page cache (`O_DIRECT`), where the file system can.
    pub direct: bool,
}

impl WriterOptions {
    /// For payloads of this codec: 64 MiB of queue, waiting when it is full, written in batches.
    #[must_use]
    pub fn new(codec: impl Into<String>, codec_version: u32) -> Self {
        Self {
            codec: codec.into(),
            codec_version,
            metadata: Vec::new(),
            encoding: None,
            schema: None,
            policy: Policy::Block,
            queue_bytes: 64 << 20,
            flush: Flush::Batch,
            durable: false,
            direct: false,
        }
    }

    /// What happens when the queue is full.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Bytes that may wait for the disk, at least 4 KiB.
    #[must_use]
    pub fn with_queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// When records go to the system.
    #[must_use]
    pub fn with_flush(mut self, flush: Flush) -> Self {
        self.flush = flush;
        self
    }

    /// A write returns only when its record is on the disk.
    #[must_use]
    pub fn with_durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Writes past the page cache where the file system can: for long recordings at a high rate, which would fill it.
    #[must_use]
    pub fn with_direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Adds something that the codec wants to know when it reads.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }
}

/// When a record was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The caller's time, in nanoseconds since 1970.
    pub log_time_ns: u64,
    /// The sensor's time in nanoseconds, on its own clock; the caller's if it has none.
    pub sensor_time_ns: u64,
}

impl Stamp {
    /// This time, of caller and sensor.
    #[must_use]
    pub const fn at(log_time_ns: u64) -> Self {
        Self { log_time_ns, sensor_time_ns: log_time_ns }
    }

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self::at(now_ns())
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What became of the records given to a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Records that were taken.
    pub accepted: u64,
    /// Records that reached the file.
    pub written: u64,
    /// Records dropped by [`Policy::DropOldest`].
    pub dropped: u64,
    /// Records refused by [`Policy::Error`].
    pub rejected: u64,
    /// Bytes that wait for the disk.
    pub queued_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// A record in a batch.
struct Pending {
    /// Where in the batch it starts.
    start: usize,
    stamp: Stamp,
    payload_len: u64,
    data_offset: u32,
    /// Checksum of the payload, where the producer has it.
    crc: Option<u32>,
}

/// Records as they will stand in the file, but for what depends on the place.
struct Batch {
    number: u64,
    bytes: ByteBuffer,
    records: Vec<Pending>,
}

impl Batch {
    fn new(number: u64) -> Self {
        Self { number, bytes: ByteBuffer::new(), records: Vec::new() }
    }

    fn push(&mut self, parts: &[&[u8]], payload_len: usize, stamp: Stamp, data_offset: u32) {
        let start = self.bytes.len();
        let head = OVERHEAD + record::padding(start as u64, data_offset) as usize;
        // The end of the batch needs some room too.
        self.bytes.reserve(head + payload_len + SECTOR);
        self.bytes.extend_zeros(head);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        let crc = (payload_len >= LARGE).then(|| record::crc32c(&self.bytes[start + head..]));
        self.records.push(Pending { start, stamp, payload_len: payload_len as u64, data_offset, crc });
    }

    fn clear(mut self, number: u64) -> Self {
        self.bytes.clear();
        self.records.clear();
        self.number = number;
        self
    }
}

/// How the thread sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    /// Until there is something.
    Idle,
    /// Until there is much, or the time is over.
    Armed,
}

/// An error of the system, to be told more than once.
#[derive(Debug, Clone)]
struct Failure {
    kind: io::ErrorKind,
    errno: Option<i32>,
    text: String,
}

impl Failure {
    fn new(error: &io::Error) -> Self {
        Self { kind: error.kind(), errno: error.raw_os_error(), text: error.to_string() }
    }

    fn error(&self) -> io::Error {
        self.errno.map_or_else(|| io::Error::new(self.kind, self.text.clone()), io::Error::from_raw_os_error)
    }
}

struct State {
    filling: Batch,
    ready: VecDeque<Batch>,
    spare: Vec<Batch>,
    /// Number of the batch that the thread writes.
    in_flight: Option<u64>,
    deadline: Option<Instant>,
    sleep: Sleep,
    /// Threads that wait for room, or for a batch to be written.
    waiting: usize,
    /// Somebody writes a record past the queue.
    exclusive: bool,
    closing: bool,
    failure: Option<Failure>,
    counters: Counters,
}

impl State {
    /// Completes the batch that is being filled; returns the number of the last complete one.
    fn seal(&mut self) -> u64 {
        let number = self.filling.number;
        if self.filling.records.is_empty() {
            return number - 1;
        }
        let next = self.spare.pop().map_or_else(|| Batch::new(number + 1), |spare| spare.clear(number + 1));
        self.ready.push_back(mem::replace(&mut self.filling, next));
        self.deadline = None;
        number
    }

    /// Whether all batches up to this number are in the file, or lost.
    fn is_settled(&self, number: u64) -> bool {
        let oldest = self.in_flight.or_else(|| self.ready.front().map(|batch| batch.number)).unwrap_or(self.filling.number);
        oldest > number
    }

    fn recycle(&mut self, batch: Batch) {
        let kept: usize = self.spare.iter().map(|spare| spare.bytes.capacity()).sum();
        if kept + batch.bytes.capacity() <= SPARE {
            self.spare.push(batch);
        }
    }

    /// Drops the oldest batch that waits.
    fn drop_oldest(&mut self) {
        if self.ready.is_empty() {
            self.seal();
        }
        if let Some(oldest) = self.ready.pop_front() {
            self.counters.dropped += oldest.records.len() as u64;
            self.counters.queued_bytes -= oldest.bytes.len() as u64;
            self.recycle(oldest);
        }
    }
}

struct Shared {
    state: Mutex<State>,
    /// For the thread.
    work: Condvar,
    /// For producers.
    settled: Condvar,
    sink: Mutex<Sink>,
    path: PathBuf,
    options: WriterOptions,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    fn tell(&self, state: &State) {
        if state.waiting > 0 {
            self.settled.notify_all();
        }
    }

    fn wake(&self, state: &mut State) {
        if state.sleep != Sleep::Awake {
            state.sleep = Sleep::Awake;
            self.work.notify_one();
        }
    }

    /// What went wrong before.
    fn check(&self, state: &State) -> Result<()> {
        if let Some(failure) = &state.failure {
            let Counters { accepted, written, .. } = state.counters;
            return Err(Error::io(failure.error(), &self.path)
                .expecting(format!("{accepted} records in the file"))
                .but_found(format!("{written} that reached it"))
                .hint("whole records are there for readers; a new writer starts a new file of the channel"));
        }
        if state.closing { Err(Error::invalid("the writer is closed").with_path(&self.path)) } else { Ok(()) }
    }
}

/// A record that has to wait, or one that was taken.
enum Offer {
    Taken,
    Wait,
}

/// Appends records to one channel of a log.
///
/// Payloads go into a bounded queue, from which a thread of the writer takes them into the file: a producer does not
/// wait for the disk as long as there is room. An error of the disk comes back from the next call and from
/// [`Writer::close`]; [`Writer::counters`] says how many records reached the file. Records that are larger than the
/// whole queue are written by the producer itself.
///
/// There is one writer a channel; each starts a file of its own. Dropping a writer closes it.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("evlib-doc-writer-{}", std::process::id()));
/// use evlib::log::{Log, Stamp, WriterOptions};
/// let log = Log::new(&dir);
/// let writer = log.writer("notes", &WriterOptions::new("bytes", 1))?;
/// writer.write(&[b"hello"], Stamp::at(1_000))?;
/// let counters = writer.close()?;
/// assert_eq!(counters.written, 1);
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
pub struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    batch: usize,
    /// Locked as long as the writer is open.
    lock: Mutex<Option<File>>,
    /// A process that is forked off has no thread to wait for.
    process: u32,
}

impl Writer {
    /// Starts a new file of the channel.
    pub(super) fn create(folder: &Path, channel: &str, options: &WriterOptions) -> Result<Self> {
        if options.durable && options.policy == Policy::DropOldest {
            return Err(Error::invalid("a durable writer drops no records: choose another policy"));
        }
        if options.queue_bytes < LEAST_QUEUE {
            return Err(Error::invalid("the queue is too small")
                .expecting(format!("at least {LEAST_QUEUE} bytes"))
                .but_found(options.queue_bytes.to_string()));
        }
        let described = options.metadata.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() + options.codec.len();
        let schema = options.schema.as_ref().map_or(0, |(name, encoding, data)| name.len() + encoding.len() + data.len());
        if channel.len() + described + schema > DESCRIPTION {
            return Err(Error::invalid("the codec says too much of itself")
                .expecting(format!("name, metadata and schema of at most {DESCRIPTION} bytes"))
                .but_found((channel.len() + described + schema).to_string()));
        }
        let encoded = name::encode(channel)?;
        fs::create_dir_all(folder).map_err(|error| Error::io(error, folder))?;
        let lock = lock(folder, &encoded, channel)?;
        let (file, path) = create(folder, &encoded)?;
        let created_ns = now_ns();
        let info = SessionInfo {
            session: random(created_ns),
            created_ns,
            channel: channel.to_owned(),
            codec: options.codec.clone(),
            codec_version: options.codec_version,
            metadata: options.metadata.clone(),
        };
        let sink = Sink::start(file, &path, &info, options).map_err(|error| Error::io(error, &path))?;
        if options.durable {
            sync_folder(folder).map_err(|error| Error::io(error, folder))?;
        }
        let state = State {
            filling: Batch::new(1),
            ready: VecDeque::new(),
            spare: Vec::new(),
            in_flight: None,
            deadline: None,
            sleep: Sleep::Awake,
            waiting: 0,
            exclusive: false,
            closing: false,
            failure: None,
            counters: Counters { file_bytes: sink.position, ..Counters::default() },
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            settled: Condvar::new(),
            sink: Mutex::new(sink),
            path,
            options: options.clone(),
        });
        let work = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("evlib-log".to_owned())
            .spawn(move || work.run())
            .map_err(|error| Error::io(error, &shared.path))?;
        let batch = BATCH.min(options.queue_bytes / 4);
        Ok(Self { shared, thread: Mutex::new(Some(thread)), batch, lock: Mutex::new(Some(lock)), process: std::process::id() })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Appends a record whose payload is these parts, one after the other; the first byte of it stands at a multiple
    /// of 64 in the file.
    ///
    /// # Errors
    /// `Io` if a record before this one could not be written; `QueueFull` under [`Policy::Error`]; `InvalidArgument`
    /// after [`Writer::close`].
    pub fn write(&self, payload: &[&[u8]], stamp: Stamp) -> Result<()> {
        self.write_aligned(payload, 0, stamp)
    }

    /// Appends a record in which part `aligned` of the payload is what starts at a multiple of 64 in the file.
    ///
    /// # Errors
    /// As [`Writer::write`]; `InvalidArgument` for a part that is not there, or has more than 4 GiB before it.
    pub fn write_aligned(&self, payload: &[&[u8]], aligned: usize, stamp: Stamp) -> Result<()> {
        let (len, data_offset) = measure(payload, aligned)?;
        if self.is_large(len) {
            return self.write_past(payload, len, data_offset, stamp);
        }
        let mut state = self.shared.lock();
        if self.writes_itself(len) && self.write_now(&mut state, payload, len, data_offset, stamp)? {
            return Ok(());
        }
        loop {
            if let Offer::Taken = self.offer(&mut state, payload, len, data_offset, stamp)? {
                break;
            }
            state = self.shared.wait(state);
        }
        if !self.shared.options.durable {
            return Ok(());
        }
        self.settle(state)
    }

    /// As [`Writer::write_aligned`], but `false`, without an effect, in place of waiting for anything.
    ///
    /// # Errors
    /// As [`Writer::write_aligned`].
    pub fn try_write(&self, payload: &[&[u8]], aligned: usize, stamp: Stamp) -> Result<bool> {
        let (len, data_offset) = measure(payload, aligned)?;
        if self.is_large(len) || self.shared.options.durable || self.writes_itself(len) {
            return Ok(false);
        }
        let offer = self.offer(&mut self.shared.lock(), payload, len, data_offset, stamp)?;
        Ok(matches!(offer, Offer::Taken))
    }

    /// Whether a payload is larger than the queue.
    fn is_large(&self, len: usize) -> bool {
        len.saturating_add(OVERHEAD + ALIGN) > self.shared.options.queue_bytes
    }

    /// Whether the producer may take a record to the system itself.
    fn writes_itself(&self, len: usize) -> bool {
        let WriterOptions { policy, flush, durable, direct, .. } = &self.shared.options;
        *flush == Flush::Record && *policy == Policy::Block && !durable && !direct && len < LARGE
    }

    /// Writes a record if nothing else is on its way; `false` if something is.
    fn write_now(&self, state: &mut State, payload: &[&[u8]], len: usize, data_offset: u32, stamp: Stamp) -> Result<bool> {
        let shared = &*self.shared;
        shared.check(state)?;
        let State { filling, ready, in_flight, exclusive, .. } = &*state;
        if *exclusive || in_flight.is_some() || !ready.is_empty() || !filling.records.is_empty() {
            return Ok(false);
        }
        let Ok(mut sink) = shared.sink.try_lock() else { return Ok(false) };
        state.filling.push(payload, len, stamp, data_offset);
        state.counters.accepted += 1;
        let written = sink.write_batch(&mut state.filling);
        (state.counters.written, state.counters.file_bytes) = (sink.sequence, sink.position);
        drop(sink);
        state.filling.bytes.clear();
        state.filling.records.clear();
        if let Err(error) = written {
            state.failure = Some(Failure::new(&error));
            shared.check(state)?;
        }
        Ok(true)
    }

    fn offer(&self, state: &mut State, payload: &[&[u8]], len: usize, data_offset: u32, stamp: Stamp) -> Result<Offer> {
        let shared = &*self.shared;
        shared.check(state)?;
        if state.exclusive {
            return Ok(Offer::Wait);
        }
        let need = (len + OVERHEAD + ALIGN) as u64;
        let limit = shared.options.queue_bytes as u64;
        while state.counters.queued_bytes + need > limit {
            match shared.options.policy {
                Policy::Block => {
                    state.seal();
                    shared.wake(state);
                    return Ok(Offer::Wait);
                }
                Policy::DropOldest => state.drop_oldest(),
                Policy::Error => {
                    state.counters.rejected += 1;
                    return Err(Error::new(ErrorKind::QueueFull, "the queue is full")
                        .expecting(format!("room for {need} bytes"))
                        .but_found(format!("{} of {limit} bytes waiting for the disk", state.counters.queued_bytes))
                        .with_path(&shared.path));
                }
            }
        }
        let before = state.filling.bytes.len();
        state.filling.push(payload, len, stamp, data_offset);
        let filled = state.filling.bytes.len();
        state.counters.queued_bytes += (filled - before) as u64;
        state.counters.accepted += 1;
        if before == 0 {
            let after = if shared.options.direct { DIRECT_AFTER } else { FLUSH_AFTER };
            state.deadline = Some(Instant::now() + after);
        }
        if filled >= self.batch {
            state.seal();
        }
        let much = if shared.options.direct { self.batch } else { FLUSH.min(self.batch) };
        match state.sleep {
            Sleep::Idle => shared.wake(state),
            Sleep::Armed if filled >= much || shared.options.flush == Flush::Record || shared.options.durable => shared.wake(state),
            Sleep::Armed | Sleep::Awake => {}
        }
        Ok(Offer::Taken)
    }

    /// Waits until what was given so far is in the file, or lost.
    fn settle(&self, mut state: MutexGuard<'_, State>) -> Result<()> {
        let shared = &*self.shared;
        let last = state.seal();
        shared.wake(&mut state);
        while !state.is_settled(last) && state.failure.is_none() {
            state = shared.wait(state);
        }
        if state.failure.is_some() { shared.check(&state) } else { Ok(()) }
    }

    /// Writes a record that is larger than the queue.
    fn write_past(&self, payload: &[&[u8]], len: usize, data_offset: u32, stamp: Stamp) -> Result<()> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        while state.exclusive {
            state = shared.wait(state);
        }
        shared.check(&state)?;
        state.exclusive = true;
        let last = state.seal();
        shared.wake(&mut state);
        while !state.is_settled(last) && state.failure.is_none() {
            state = shared.wait(state);
        }
        let before = shared.check(&state);
        let written = before.is_ok().then(|| {
            state.counters.accepted += 1;
            drop(state);
            let mut sink = shared.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let written = sink.write_record(payload, len as u64, data_offset, stamp);
            let progress = (sink.sequence, sink.position);
            drop(sink);
            (written, progress)
        });
        let mut state = shared.lock();
        if let Some((written, progress)) = &written {
            (state.counters.written, state.counters.file_bytes) = *progress;
            if let Err(error) = written {
                state.failure = Some(Failure::new(error));
            }
        }
        state.exclusive = false;
        shared.settled.notify_all();
        before?;
        if state.failure.is_some() { shared.check(&state) } else { Ok(()) }
    }

    /// Waits until everything that was given so far is with the system, and on the disk if the writer is durable.
    ///
    /// # Errors
    /// `Io` if it could not be written.
    pub fn flush(&self) -> Result<()> {
        let state = self.shared.lock();
        if state.closing {
            return Ok(());
        }
        self.settle(state)
    }

    /// What became of the records so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }

    /// Writes what is left, and the index, and completes the file; once closed, does nothing.
    ///
    /// # Errors
    /// `Io` if records could not be written, or the file not be completed: every record that reached the file can be
    /// read all the same.
    pub fn close(&self) -> Result<Counters> {
        let mut state = self.shared.lock();
        while state.exclusive {
            state = self.shared.wait(state);
        }
        state.closing = true;
        self.shared.wake(&mut state);
        drop(state);
        // Locked, so that who else closes waits for the thread too.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            let failure = Failure::new(&io::Error::other("the writing thread panicked"));
            self.shared.lock().failure.get_or_insert(failure);
        }
        drop(thread);
        if let Some(lock) = self.lock.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Processes that were forked off hold the file too. If this fails, closing it has to do.
            let _result = lock.unlock();
        }
        let state = self.shared.lock();
        if state.failure.is_some() {
            self.shared.check(&state)?;
        }
        Ok(state.counters)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            // Who wants to know calls `close`.
            let _result = self.close();
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("path", &self.path()).field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// Length of a payload, and of what is in front of its aligned part.
fn measure(payload: &[&[u8]], aligned: usize) -> Result<(usize, u32)> {
    let len = payload.iter().map(|part| part.len()).sum();
    let before = payload.get(..aligned).filter(|_| aligned < payload.len() || aligned == 0);
    let before = before.ok_or_else(|| {
        Error::invalid("no such part of the payload").expecting(format!("one of {}", payload.len())).but_found(aligned.to_string())
    })?;
    let data_offset = u32::try_from(before.iter().map(|part| part.len()).sum::<usize>())
        .map_err(|_| Error::invalid("the aligned part of a payload starts within its first 4 GiB"))?;
    Ok((len, data_offset))
}

impl Shared {
    /// The thread's work.
    fn run(&self) {
        let mut state = self.lock();
        let mut last = Instant::now();
        loop {
            let Some(mut batch) = self.next(&mut state) else {
                if state.closing {
                    break;
                }
                let now = Instant::now();
                // Within that time, a record that comes is looked at no later than it would be due.
                let look = || (now.duration_since(last) < LINGER).then(|| now + FLUSH_AFTER);
                let deadline = state.deadline.or_else(look);
                state.sleep = if deadline.is_some() { Sleep::Armed } else { Sleep::Idle };
                state = match deadline {
                    Some(deadline) => {
                        let left = deadline.saturating_duration_since(now);
                        self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                    }
                    None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                };
                state.sleep = Sleep::Awake;
                continue;
            };
            state.counters.queued_bytes -= batch.bytes.len() as u64;
            state.in_flight = Some(batch.number);
            self.tell(&state);
            drop(state);
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let written = sink.write_batch(&mut batch);
            let progress = (sink.sequence, sink.position);
            drop(sink);
            last = Instant::now();
            state = self.lock();
            state.in_flight = None;
            (state.counters.written, state.counters.file_bytes) = progress;
            state.recycle(batch);
            if let Err(error) = written {
                state.failure = Some(Failure::new(&error));
            }
            if state.failure.is_some() {
                state.ready.clear();
                state.filling.records.clear();
                state.filling.bytes.clear();
                state.counters.queued_bytes = 0;
            }
            self.tell(&state);
        }
        if state.failure.is_none() {
            drop(state);
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let finished = sink.finish();
            let position = sink.position;
            drop(sink);
            state = self.lock();
            state.counters.file_bytes = position;
            if let Err(error) = finished {
                state.failure = Some(Failure::new(&error));
            }
        } else {
            drop(state);
            self.sink.lock().unwrap_or_else(PoisonError::into_inner).give_back_room();
            state = self.lock();
        }
        self.tell(&state);
    }

    /// The batch to write now.
    fn next(&self, state: &mut State) -> Option<Batch> {
        let eager = self.options.flush == Flush::Record || self.options.durable || state.closing;
        let much = if self.options.direct { BATCH } else { FLUSH };
        let due = eager || state.filling.bytes.len() >= much || state.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if state.ready.is_empty() && due {
            state.seal();
        }
        state.ready.pop_front()
    }
}

/// Takes the lock of a channel.
fn lock(folder: &Path, encoded: &str, channel: &str) -> Result<File> {
    let path = folder.join(format!("{encoded}.lock"));
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|error| Error::io(error, &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::invalid(format!("channel `{channel}` has a writer already: there is one at a time"))
                .with_path(&path)
                .hint("close the other writer, or choose another channel"))
        }
        Err(fs::TryLockError::Error(error)) => Err(Error::io(error, &path)),
    }
}

/// Whether a channel is being written.
pub(super) fn is_locked(folder: &Path, encoded: &str) -> bool {
    let Ok(file) = File::open(folder.join(format!("{encoded}.lock"))) else { return false };
    matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

/// Makes the next file of a channel.
fn create(folder: &Path, encoded: &str) -> Result<(File, PathBuf)> {
    let mut number = super::sessions(folder)?.get(encoded).and_then(|numbers| numbers.last().copied()).unwrap_or(0);
    loop {
        number += 1;
        let path = folder.join(name::file(encoded, number));
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|file| (file, path.clone())).map_err(|error| Error::io(error, &path)),
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// A number that no other file has.
fn random(seed: u64) -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(seed);
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// The file of a writer.
struct Sink {
    file: File,
    /// The same file, past the page cache.
    direct: Option<(File, Stage)>,
    durable: bool,
    position: u64,
    allocated: u64,
    /// CRC-32 of everything so far, for MCAP.
    crc: libdeflater::Crc,
    session: u64,
    /// Records so far.
    sequence: u64,
    entries: Vec<(u64, u64)>,
    directory: Directory,
    times: Option<(u64, u64)>,
    last_time: u64,
    /// Schema and channel, which the summary repeats.
    summary: Vec<u8>,
    has_schema: bool,
}

/// A buffer that writing past the page cache is done from.
struct Stage {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Stage {
    fn new() -> Self {
        let bytes = vec![0; STAGE + SECTOR];
        let start = bytes.as_ptr().align_offset(SECTOR).min(SECTOR);
        Self { bytes, start, len: 0 }
    }
}

impl Sink {
    /// Writes what a file starts with.
    fn start(file: File, path: &Path, info: &SessionInfo, options: &WriterOptions) -> io::Result<Self> {
        let mut out = MAGIC.to_vec();
        push_record(&mut out, op::HEADER, |out| {
            push_text(out, PROFILE.as_bytes());
            push_text(out, concat!("evlib ", env!("CARGO_PKG_VERSION")).as_bytes());
        });
        // Twice, so that one damaged place does not cost the file.
        info.push(&mut out);
        info.push(&mut out);
        let summary = describe(info, options);
        out.extend_from_slice(&summary);
        let direct = options.direct.then(|| sys::open_direct(path)).flatten().map(|file| (file, Stage::new()));
        record::push_padding(&mut out, 0, if direct.is_some() { SECTOR } else { ALIGN } as u64);
        let mut sink = Self {
            file,
            direct: None,
            durable: options.durable,
            position: 0,
            allocated: 0,
            crc: libdeflater::Crc::new(),
            session: info.session,
            sequence: 0,
            entries: Vec::new(),
            directory: Directory { ordered: true, ..Directory::default() },
            times: None,
            last_time: 0,
            summary,
            has_schema: options.schema.is_some(),
        };
        sink.put(&[&out]).map_err(|(error, _)| error)?;
        if sink.durable {
            sink.file.sync_all()?;
        }
        sink.direct = direct;
        Ok(sink)
    }

    fn align(&self) -> u64 {
        if self.direct.is_some() { SECTOR as u64 } else { ALIGN as u64 }
    }

    /// Writes at the end; an error comes with the bytes that were written before it.
    fn put(&mut self, parts: &[&[u8]]) -> Result<(), (io::Error, u64)> {
        let start = self.position;
        let mut written = if self.direct.is_some() { self.put_direct(parts) } else { self.put_cached(parts, 0) };
        if self.direct.is_some() && written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput) {
            // The file system takes the flag, but wants another alignment; or a limit leaves room for a part of a sector,
            // which then is what the error is about.
            self.direct = None;
            written = self.put_cached(parts, (self.position - start) as usize);
        }
        if let Err(error) = written {
            return Err((error, self.position - start));
        }
        for part in parts {
            self.crc.update(part);
        }
        Ok(())
    }

    /// Writes the parts but for so many bytes at their start.
    fn put_cached(&mut self, parts: &[&[u8]], mut skip: usize) -> io::Result<()> {
        parts.iter().try_for_each(|part| {
            let rest = part.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(part.len());
            write_all(&self.file, rest, &mut self.position)
        })
    }

    /// The parts make whole sectors together.
    fn put_direct(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let Some((file, stage)) = &mut self.direct else { return Ok(()) };
        let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if self.position + total > self.allocated {
            let room = total.max(PREALLOCATE);
            if sys::preallocate(&self.file, self.position, room) {
                self.allocated = self.position + room;
            }
        }
        stage.len = 0;
        for part in parts {
            let mut rest = *part;
            if stage.len == 0 && rest.as_ptr().addr().is_multiple_of(SECTOR) {
                // Batches of this size lie in memory as the disk wants them.
                let (whole, end) = rest.split_at(rest.len() / SECTOR * SECTOR);
                whole.chunks(STAGE).try_for_each(|piece| write_all(file, piece, &mut self.position))?;
                rest = end;
            }
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(STAGE - stage.len));
                let place = stage.start + stage.len;
                stage.bytes[place..place + now.len()].copy_from_slice(now);
                stage.len += now.len();
                rest = later;
                if stage.len == STAGE {
                    write_all(file, &stage.bytes[stage.start..stage.start + STAGE], &mut self.position)?;
                    stage.len = 0;
                }
            }
        }
        write_all(file, &stage.bytes[stage.start..stage.start + stage.len], &mut self.position)
    }

    /// Takes note of a record that will be written.
    fn note(&mut self, offset: u64, time: u64) {
        self.entries.push((offset, time));
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
        self.directory.ordered &= time >= self.last_time;
        self.last_time = time;
        self.sequence += 1;
    }

    /// Appends the index records that are complete, or all that is left, to `out`, which will stand at `position`.
    fn push_indexes(&mut self, out: &mut Vec<u8>, position: u64, all: bool) {
        while self.entries.len() >= BLOCK || (all && !self.entries.is_empty()) {
            let rest = self.entries.split_off(self.entries.len().min(BLOCK));
            let block = mem::replace(&mut self.entries, rest);
            let offset = position + out.len() as u64;
            record::push_index(out, self.session, offset, self.directory.records, &block);
            let times = block.iter().map(|entry| entry.1);
            let span = times.fold((u64::MAX, 0), |(first, last), time| (first.min(time), last.max(time)));
            self.directory.blocks.push((offset, span.0, span.1));
            self.directory.records += block.len() as u64;
        }
    }

    fn write_batch(&mut self, batch: &mut Batch) -> io::Result<()> {
        let Batch { bytes, records, .. } = batch;
        let sequence = self.sequence;
        for record in records.iter() {
            let offset = self.position + record.start as u64;
            let mut head = Head {
                session: self.session,
                offset,
                sequence: self.sequence,
                log_time_ns: record.stamp.log_time_ns,
                sensor_time_ns: record.stamp.sensor_time_ns,
                payload_len: record.payload_len,
                payload_crc: 0,
                data_offset: record.data_offset,
            };
            let (front, payload) = bytes[record.start..].split_at_mut((head.payload_offset() - offset) as usize);
            head.payload_crc = record.crc.unwrap_or_else(|| record::crc32c(&payload[..record.payload_len as usize]));
            head.write(front);
            self.note(offset, record.stamp.log_time_ns);
        }
        let mut end = Vec::new();
        let position = self.position + bytes.len() as u64;
        self.push_indexes(&mut end, position, false);
        record::push_padding(&mut end, position, self.align());
        bytes.extend_from_slice(&end);
        let start = self.position;
        if let Err((error, written)) = self.put(&[bytes]) {
            // A record ends where the next one starts, or the batch.
            let ends = records.iter().map(|record| record.start as u64 + record_len(record));
            self.sequence = sequence + ends.filter(|end| *end <= written).count() as u64;
            self.position = start + written;
            return Err(error);
        }
        self.sync()
    }

    fn write_record(&mut self, payload: &[&[u8]], len: u64, data_offset: u32, stamp: Stamp) -> io::Result<()> {
        let offset = self.position;
        let crc = payload.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let head = Head {
            session: self.session,
            offset,
            sequence: self.sequence,
            log_time_ns: stamp.log_time_ns,
            sensor_time_ns: stamp.sensor_time_ns,
            payload_len: len,
            payload_crc: crc,
            data_offset,
        };
        let mut front = vec![0; (head.payload_offset() - offset) as usize];
        head.write(&mut front);
        let mut padding = Vec::new();
        record::push_padding(&mut padding, head.end(), self.align());
        let mut parts = vec![front.as_slice()];
        parts.extend_from_slice(payload);
        parts.push(&padding);
        if let Err((error, written)) = self.put(&parts) {
            self.sequence += u64::from(offset + written >= head.end());
            return Err(error);
        }
        self.note(offset, stamp.log_time_ns);
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        if self.durable { self.file.sync_data() } else { Ok(()) }
    }

    /// Writes the index and what an MCAP file ends with.
    fn finish(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        self.push_indexes(&mut out, self.position, true);
        let offset = self.position + out.len() as u64;
        self.directory.push(&mut out, self.session, offset);
        self.crc.update(&out);
        let crc = self.crc.sum();
        push_record(&mut out, op::DATA_END, |out| out.extend_from_slice(&crc.to_le_bytes()));

        let start = out.len();
        out.extend_from_slice(&self.summary);
        push_record(&mut out, op::STATISTICS, |out| {
            out.extend_from_slice(&self.sequence.to_le_bytes());
            out.extend_from_slice(&u16::from(self.has_schema).to_le_bytes());
            out.extend_from_slice(&1_u32.to_le_bytes());
            out.extend_from_slice(&[0; 12]); // attachments, metadata records, chunks
            let (first, last) = self.times.unwrap_or_default();
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&last.to_le_bytes());
            out.extend_from_slice(&10_u32.to_le_bytes());
            out.extend_from_slice(&CHANNEL_ID.to_le_bytes());
            out.extend_from_slice(&self.sequence.to_le_bytes());
        });
        let summary_start = self.position + start as u64;
        push_record(&mut out, op::FOOTER, |out| {
            out.extend_from_slice(&summary_start.to_le_bytes());
            out.extend_from_slice(&[0; 12]); // no summary offsets; the checksum
        });
        // It covers the footer's own length, which stands only now.
        let covered = out.len() - 4;
        let crc = crate::mcap::crc32(&out[start..covered]);
        out[covered..].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&MAGIC);
        self.direct = None;
        self.put_cached(&[&out], 0)?;
        self.give_back_room();
        if self.durable { self.file.sync_all() } else { Ok(()) }
    }

    /// Gives back room that was asked for in advance; the length of the file stays.
    fn give_back_room(&mut self) {
        if mem::take(&mut self.allocated) > self.position
            && let Ok(metadata) = self.file.metadata()
        {
            // Without it the file only takes more room than it needs.
            let _result = self.file.set_len(metadata.len());
        }
    }
}

fn record_len(record: &Pending) -> u64 {
    OVERHEAD as u64 + record::padding(record.start as u64, record.data_offset) + record.payload_len
}

/// Writes all bytes at `position` and moves it along.
fn write_all(file: &File, mut bytes: &[u8], position: &mut u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match sys::write_at(file, &bytes[..bytes.len().min(CALL)], *position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                *position += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Schema and channel for other readers of MCAP.
fn describe(info: &SessionInfo, options: &WriterOptions) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some((name, encoding, data)) = &options.schema {
        push_record(&mut out, op::SCHEMA, |out| {
            out.extend_from_slice(&1_u16.to_le_bytes());
            push_text(out, name.as_bytes());
            push_text(out, encoding.as_bytes());
            push_text(out, data);
        });
    }
    push_record(&mut out, op::CHANNEL, |out| {
        out.extend_from_slice(&CHANNEL_ID.to_le_bytes());
        out.extend_from_slice(&u16::from(options.schema.is_some()).to_le_bytes());
        push_text(out, info.channel.as_bytes());
        let encoding = options.encoding.clone().unwrap_or_else(|| format!("evlib.{}", info.codec));
        push_text(out, encoding.as_bytes());
        let mut map = Vec::new();
        let own = [("evlib.codec", info.codec.clone()), ("evlib.codec_version", info.codec_version.to_string())];
        for (key, value) in own.iter().map(|(key, value)| (*key, value)).chain(info.metadata.iter().map(|(k, v)| (k.as_str(), v))) {
            push_text(&mut map, key.as_bytes());
            push_text(&mut map, value.as_bytes());
        }
        push_text(out, &map);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::super::Log;
    use super::*;

    #[test]
    fn a_producer_does_not_wait_for_a_disk_that_hangs() {
        let folder = std::env::temp_dir().join(format!("evlib-log-hangs-{}", std::process::id()));
        let queue = 8 << 20;
        let options = WriterOptions::new("bytes", 1).with_queue_bytes(queue).with_policy(Policy::Error);
        let writer = Log::new(&folder).writer("c", &options).unwrap();
        let record = [7; 10_000];
        let mut taken = 0_u64;
        {
            // Whoever has the file, does not let go of it: no write comes to an end.
            let _disk = writer.shared.sink.lock().unwrap();
            let refused = loop {
                match writer.write(&[&record], Stamp::at(taken)) {
                    Ok(()) => taken += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(refused.kind(), ErrorKind::QueueFull);
            let counters = writer.counters();
            assert_eq!((counters.accepted, counters.written, counters.rejected), (taken, 0, 1));
            // All that the queue has room for was taken, and waits in batches of a MiB.
            assert!(counters.queued_bytes as usize > queue - 2 * record.len(), "{counters:?}");
            let state = writer.shared.lock();
            assert!(state.ready.len() > 5, "{} batches", state.ready.len());
            assert!(state.ready.iter().skip(1).all(|batch| (BATCH..2 * BATCH).contains(&batch.bytes.len())));
        }
        assert_eq!(writer.close().unwrap().written, taken);
        assert_eq!(Log::new(&folder).channel("c", super::super::Verify::All).unwrap().len(), taken);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn room_is_given_back_after_an_error_too() {
        use std::os::unix::fs::MetadataExt;
        let folder = std::env::temp_dir().join(format!("evlib-log-room-{}", std::process::id()));
        let writer = Log::new(&folder).writer("c", &WriterOptions::new("bytes", 1).with_direct(true)).unwrap();
        writer.write(&[&[1; 1000]], Stamp::at(0)).unwrap();
        writer.flush().unwrap();
        writer.shared.lock().failure = Some(Failure::new(&io::ErrorKind::StorageFull.into()));
        assert!(writer.close().is_err());
        let metadata = fs::metadata(writer.path()).unwrap();
        assert!(metadata.blocks() * 512 < metadata.len() + (1 << 20), "{} blocks of {} bytes", metadata.blocks(), metadata.len());
        fs::remove_dir_all(&folder).unwrap();
    }
}
