//! Reading a channel: its files mapped, and records as views of them.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::record::{self, BLOCK, DATA_END_LEN, Directory, ENTRY, ENVELOPE, FOOTER_LEN, Head, INDEX_LEN, MAGIC, SessionInfo, op, u64_at};
use super::recovery::{self, Scan};
use super::sys::Memory;
use super::{foreign, name, writer};
use crate::error::{Error, ErrorKind, Result};
use crate::mcap;

/// How much of a log is checked when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Verify {
    /// The head of a record when it is read: its place, times and length.
    #[default]
    Head,
    /// The payload too, when it is read for the first time.
    First,
    /// Everything at opening; what is damaged is left out and counted in [`Recovery`].
    All,
}

/// What was left out when a channel was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Records that are not whole, as far as it can be told.
    pub records: u64,
    /// Bytes that belong to nothing whole.
    pub bytes: u64,
    /// What was found, file by file; `None` if nothing is wrong.
    pub reason: Option<String>,
    /// Byte offset of the first damage in its file.
    pub first_offset: Option<u64>,
}

impl Recovery {
    fn merge(&mut self, file: &Path, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        if let Some(reason) = &other.reason {
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            let text = format!("{file}: {reason}");
            self.reason = Some(self.reason.take().map_or(text.clone(), |all| format!("{all}; {text}")));
        }
        self.first_offset = self.first_offset.or(other.first_offset);
    }
}

/// The bytes of a record: a view of the mapped file, which keeps the file mapped.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Payload {
    memory: Arc<Memory>,
    start: usize,
    len: usize,
}

impl Payload {
    /// `None` if the bytes are not there.
    pub(crate) fn new(memory: Arc<Memory>, start: usize, len: usize) -> Option<Self> {
        memory.bytes().get(start..start.checked_add(len)?)?;
        Some(Self { memory, start, len })
    }

    /// Bytes in memory of their own.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { memory: Arc::new(Memory::Owned(bytes)), start: 0, len }
    }

    /// A copy that starts at a multiple of 64.
    pub(crate) fn from_aligned(bytes: &[u8]) -> Self {
        Self::from_parts(&[], bytes)
    }

    /// Copies of two parts, the second of which starts at a multiple of 64.
    pub(crate) fn from_parts(front: &[u8], data: &[u8]) -> Self {
        let len = front.len() + data.len();
        let mut copy: Vec<u8> = Vec::with_capacity(len + record::ALIGN);
        let address = copy.as_ptr().addr() + front.len();
        let start = address.next_multiple_of(record::ALIGN) - address;
        copy.resize(start, 0);
        copy.extend_from_slice(front);
        copy.extend_from_slice(data);
        Self { memory: Arc::new(Memory::Owned(copy)), start, len }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes().get(self.start..self.start + self.len).unwrap_or_default()
    }

    /// A part of the bytes, sharing the memory; `None` if there are not as many.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let len = range.end.checked_sub(range.start)?;
        (range.end <= self.len).then(|| Self { memory: Arc::clone(&self.memory), start: self.start + range.start, len })
    }

    #[cfg(feature = "python")]
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    #[cfg(feature = "python")]
    pub(crate) fn start(&self) -> usize {
        self.start
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len)
    }
}

/// A record of a channel.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Record {
    /// Its number in its file, from 0.
    pub sequence: u64,
    /// The caller's time, in nanoseconds since 1970.
    pub log_time_ns: u64,
    /// The sensor's time in nanoseconds, on its own clock.
    pub sensor_time_ns: u64,
    /// What the codec made of the item.
    pub payload: Payload,
    /// Place in the payload that stands at a multiple of 64 in the file.
    pub data_offset: usize,
}

/// Where the records of a file are.
#[derive(Debug)]
enum Index {
    /// In the index records of the file, which have been checked.
    Blocks(Directory),
    /// Offset and time of each.
    Listed { entries: Vec<(u64, u64)>, ordered: bool },
}

impl Index {
    fn listed(entries: Vec<(u64, u64)>) -> Self {
        let ordered = entries.is_sorted_by_key(|entry| entry.1);
        Self::Listed { entries, ordered }
    }
}

/// A file of a channel.
#[derive(Debug)]
pub(crate) struct Session {
    path: PathBuf,
    memory: Arc<Memory>,
    info: SessionInfo,
    index: Index,
    closed: bool,
    recovery: Recovery,
    verify: Verify,
    /// One bit for each record whose payload has been checked.
    seen: Vec<AtomicU64>,
}

impl Session {
    pub(crate) fn open(path: &Path, verify: Verify) -> Result<Self> {
        Self::read(path, Memory::map(path)?, verify)
    }

    /// Reads an open file, which is called `path`.
    pub(crate) fn of(file: &File, path: &Path, verify: Verify) -> Result<Self> {
        Self::read(path, Memory::map_file(file, path)?, verify)
    }

    fn read(path: &Path, memory: Memory, verify: Verify) -> Result<Self> {
        let file = memory.bytes();
        let found = recovery::find_session(file).map_err(|version| {
            Error::new(ErrorKind::Unsupported, "a log of a newer version")
                .expecting(format!("version {}", record::VERSION))
                .but_found(version.to_string())
                .with_path(path)
        })?;
        let empty = Index::Listed { entries: Vec::new(), ordered: true };
        let mut session = Self {
            path: path.to_path_buf(),
            memory: Arc::new(Memory::Owned(Vec::new())),
            info: SessionInfo::default(),
            index: empty,
            closed: false,
            recovery: Recovery::default(),
            verify,
            seen: Vec::new(),
        };
        let Some((info, start)) = found else {
            // A writer may be about to write it.
            if session.is_being_written() {
                session.memory = Arc::new(memory);
                return Ok(session);
            }
            session.recovery = Recovery {
                records: 0,
                bytes: file.len() as u64,
                reason: Some(
                    if file.is_empty() { "empty file" } else { "no session record: not a log, or cut off in its first bytes" }.to_owned(),
                ),
                first_offset: Some(0),
            };
            session.memory = Arc::new(memory);
            return Ok(session);
        };
        session.info = info;
        let footer = footer(file);
        session.closed = footer.is_some();
        if let Some(directory) = footer.and_then(|end| directory(file, end, session.info.session)) {
            session.index = Index::Blocks(directory);
        } else {
            session.scan(file, start);
        }
        if verify == Verify::All {
            session.check_all(file);
        }
        if verify == Verify::First {
            session.seen.resize_with(session.len().div_ceil(64) as usize, AtomicU64::default);
        }
        session.memory = Arc::new(memory);
        Ok(session)
    }

    /// Finds the records without the index.
    fn scan(&mut self, file: &[u8], start: usize) {
        let Scan { entries, lost_records, lost_bytes, first_lost, torn, .. } = recovery::scan(file, start, self.info.session);
        self.index = Index::listed(entries);
        // Closed just now, it has got longer.
        let grown = || std::fs::metadata(&self.path).is_ok_and(|now| now.len() > file.len() as u64);
        let writing = !self.closed && (self.is_being_written() || grown());
        let lost = lost_bytes > 0 || lost_records > 0;
        self.recovery = match (lost, writing) {
            (_, true) if torn || !lost => Recovery::default(),
            (false, _) => {
                Recovery { reason: Some(if self.closed { "damaged index" } else { "not closed" }.to_owned()), ..Recovery::default() }
            }
            _ => Recovery {
                records: lost_records,
                bytes: lost_bytes,
                reason: Some(if torn { "not closed, torn end" } else { "damaged" }.to_owned()),
                first_offset: first_lost,
            },
        };
    }

    /// Whether a writer has this file, which then is the last one of its channel.
    fn is_being_written(&self) -> bool {
        let file = self.path.file_name().and_then(|name| name.to_str()).and_then(name::split);
        let Some((encoded, number)) = file else { return false };
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_last = || super::sessions(folder).is_ok_and(|files| files.get(encoded).and_then(|files| files.last()) == Some(&number));
        writer::is_locked(folder, encoded) && is_last()
    }

    /// Leaves out what is damaged.
    fn check_all(&mut self, file: &[u8]) {
        let mut damaged = HashSet::new();
        for at in 0..self.len() {
            let Some((offset, _)) = self.entry_in(file, at) else { continue };
            let rest = usize::try_from(offset).ok().and_then(|offset| file.get(offset..));
            let head = rest.and_then(|rest| Head::parse(rest, offset, self.info.session));
            // What reaches over the next record is not looked at: a file could make that as much as it likes.
            if head.is_some_and(|head| head.end() <= self.next_offset(file, at) && recovery::payload_is_right(file, &head)) {
                continue;
            }
            let next = self.next_offset(file, at);
            self.recovery.records += 1;
            self.recovery.bytes += head.map_or(next, |head| head.end().min(next)).saturating_sub(offset);
            self.recovery.first_offset = Some(self.recovery.first_offset.map_or(offset, |first| first.min(offset)));
            damaged.insert(at);
        }
        if damaged.is_empty() {
            return;
        }
        self.recovery.reason = Some(match self.recovery.reason.take() {
            Some(reason) if reason != "damaged" => format!("{reason}, damaged"),
            _ => "damaged".to_owned(),
        });
        let kept = (0..self.len()).filter(|at| !damaged.contains(at)).filter_map(|at| self.entry_in(file, at));
        self.index = Index::listed(kept.collect());
    }

    /// Where the record after this one starts, or the file ends.
    fn next_offset(&self, file: &[u8], at: u64) -> u64 {
        self.entry_in(file, at + 1).map_or(file.len() as u64, |entry| entry.0.min(file.len() as u64))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is a file of a log, not something else with one inside: a log starts as one, or has records.
    pub(crate) fn is_log(&self) -> bool {
        !self.info.channel.is_empty() && (self.len() > 0 || super::is_log(self.memory.bytes()))
    }

    pub(crate) fn info(&self) -> &SessionInfo {
        &self.info
    }

    pub(crate) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    pub(crate) fn file_len(&self) -> u64 {
        self.memory.bytes().len() as u64
    }

    pub(crate) fn len(&self) -> u64 {
        match &self.index {
            Index::Blocks(directory) => directory.records,
            Index::Listed { entries, .. } => entries.len() as u64,
        }
    }

    fn entry_in(&self, file: &[u8], at: u64) -> Option<(u64, u64)> {
        match &self.index {
            Index::Blocks(directory) => {
                let block = directory.blocks.get(usize::try_from(at / BLOCK as u64).ok()?)?;
                let place = usize::try_from(block.0).ok()? + ENVELOPE + INDEX_LEN + (at % BLOCK as u64) as usize * ENTRY;
                (at < directory.records).then_some((u64_at(file, place)?, u64_at(file, place + 8)?))
            }
            Index::Listed { entries, .. } => entries.get(usize::try_from(at).ok()?).copied(),
        }
    }

    fn time(&self, at: u64) -> u64 {
        self.entry_in(self.memory.bytes(), at).map_or(u64::MAX, |entry| entry.1)
    }

    /// Earliest and latest time of the records.
    fn times(&self) -> Option<(u64, u64)> {
        let blocks = match &self.index {
            Index::Blocks(directory) => directory.blocks.as_slice(),
            Index::Listed { .. } => {
                return (0..self.len()).map(|at| self.time(at)).fold(None, |span, time| Some(extend(span, time)));
            }
        };
        blocks.iter().fold(None, |span, (_, first, last)| Some(extend(Some(extend(span, *first)), *last)))
    }

    pub(crate) fn record(&self, at: u64) -> Result<Record> {
        let file = self.memory.bytes();
        let Some((offset, _)) = self.entry_in(file, at) else {
            return Err(Error::invalid("no such record").expecting(format!("one of {}", self.len())).but_found(at.to_string()));
        };
        let rest = usize::try_from(offset).ok().and_then(|offset| file.get(offset..)).unwrap_or_default();
        let head = Head::parse(rest, offset, self.info.session).filter(|head| head.end() <= file.len() as u64);
        let Some(head) = head else {
            return Err(Error::format(format!("record {at} is damaged"))
                .expecting("a head with the right checksum")
                .but_found("another")
                .at(offset)
                .with_path(&self.path)
                .hint("`evlib log repair` copies what is whole"));
        };
        if self.verify == Verify::First {
            self.check_payload(at, file, &head)?;
        }
        let payload = Payload::new(Arc::clone(&self.memory), head.payload_offset() as usize, head.payload_len as usize);
        Ok(Record {
            sequence: head.sequence,
            log_time_ns: head.log_time_ns,
            sensor_time_ns: head.sensor_time_ns,
            data_offset: head.data_offset as usize,
            payload: payload.ok_or_else(|| Error::format("a record outside the file").at(offset).with_path(&self.path))?,
        })
    }

    /// Compares a record, whose head is right, with the checksum of its payload.
    fn check(&self, at: u64) -> Result<()> {
        let file = self.memory.bytes();
        let place = self.entry_in(file, at).and_then(|entry| Some((entry.0, file.get(usize::try_from(entry.0).ok()?..)?)));
        let Some(head) = place.and_then(|(offset, rest)| Head::parse(rest, offset, self.info.session)) else { return Ok(()) };
        let next = self.next_offset(file, at);
        if head.end() > next {
            return Err(Error::format(format!("record {at} is damaged"))
                .expecting(format!("its end at {next} or before, where the next one starts"))
                .but_found(head.end().to_string())
                .at(head.offset)
                .with_path(&self.path));
        }
        self.check_payload(at, file, &head)
    }

    fn check_payload(&self, at: u64, file: &[u8], head: &Head) -> Result<()> {
        let (word, bit) = (self.seen.get((at / 64) as usize), 1 << (at % 64));
        if word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0) {
            return Ok(());
        }
        let found = recovery::payload(file, head).map(record::crc32c);
        if found != Some(head.payload_crc) {
            return Err(Error::format(format!("the payload of record {at} is damaged"))
                .expecting(format!("CRC32C {:08x}", head.payload_crc))
                .but_found(found.map_or("no payload".to_owned(), |crc| format!("{crc:08x}")))
                .at(head.payload_offset())
                .with_path(&self.path));
        }
        if let Some(word) = word {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The runs of records with times in `start..stop`.
    fn in_time(&self, start: u64, stop: Option<u64>) -> Vec<Range<u64>> {
        let inside = |time: u64| time >= start && stop.is_none_or(|stop| time < stop);
        let ordered = match &self.index {
            Index::Blocks(directory) => directory.ordered,
            Index::Listed { ordered, .. } => *ordered,
        };
        if ordered {
            let from = partition(self.len(), |at| self.time(at) < start);
            let to = stop.map_or(self.len(), |stop| partition(self.len(), |at| self.time(at) < stop));
            return if from < to { std::iter::once(from..to).collect() } else { Vec::new() };
        }
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < self.len() {
            if let Index::Blocks(directory) = &self.index
                && at.is_multiple_of(BLOCK as u64)
                && let Some((_, first, last)) = directory.blocks.get((at / BLOCK as u64) as usize)
                && (*last < start || stop.is_some_and(|stop| *first >= stop))
            {
                at += BLOCK as u64;
                continue;
            }
            if inside(self.time(at)) {
                match runs.last_mut() {
                    Some(run) if run.end == at => run.end += 1,
                    _ => runs.push(at..at + 1),
                }
            }
            at += 1;
        }
        runs
    }

    /// Whether the summary of MCAP has the checksum that its footer says: `None` if it was not closed.
    fn summary_is_right(&self) -> Option<bool> {
        let file = self.memory.bytes();
        let footer = mcap::Footer::from_tail(file.get(file.len().checked_sub(mcap::TAIL)?..)?)?;
        Some(footer.holds(file.get(usize::try_from(footer.summary_start).ok()?..)?))
    }

    /// Whether what MCAP says of the whole file is true: `None` if it was not closed.
    fn data_is_right(&self) -> Option<bool> {
        let file = self.memory.bytes();
        let end = footer(file)?;
        let stored = record::u32_at(file, end + ENVELOPE)?;
        let mut crc = libdeflater::Crc::new();
        crc.update(file.get(..end)?);
        Some(crc.sum() == stored)
    }
}

/// The first of `0..len` for which `before` is false; it is true for all in front of it.
fn partition(len: u64, before: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// Where the `DataEnd` record of a closed file starts.
pub(super) fn footer(file: &[u8]) -> Option<usize> {
    let footer = file.len().checked_sub(FOOTER_LEN + MAGIC.len())?;
    let bytes = file.get(footer..)?;
    let right = bytes.first() == Some(&op::FOOTER) && u64_at(bytes, 1)? == 20 && bytes.ends_with(&MAGIC);
    let summary = usize::try_from(u64_at(bytes, ENVELOPE)?).ok().filter(|_| right)?;
    let end = summary.checked_sub(DATA_END_LEN)?;
    (*file.get(end)? == op::DATA_END && u64_at(file, end + 1)? == 4 && summary < footer).then_some(end)
}

/// The directory in front of the `DataEnd` record, if it and all that it points to is whole.
fn directory(file: &[u8], end: usize, session: u64) -> Option<Directory> {
    let directory = Directory::parse(file, end, session)?;
    let mut first = 0;
    for (offset, ..) in &directory.blocks {
        let bytes = file.get(usize::try_from(*offset).ok()?..)?;
        let entries = record::parse_index(bytes, session, *offset, first)?.len() / ENTRY;
        first += entries as u64;
        if entries > BLOCK || (entries < BLOCK && first != directory.records) {
            return None;
        }
    }
    (first == directory.records).then_some(directory)
}

/// A file of a channel, as [`Channel::files`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogFile {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Its records that are whole.
    pub records: u64,
    /// Name of the codec of its payloads.
    pub codec: String,
    /// Version of the codec.
    pub codec_version: u32,
    /// What the codec wants to know.
    pub metadata: Vec<(String, String)>,
    /// When it was started, in nanoseconds since 1970; 0 in files that do not say.
    pub created_ns: u64,
    /// Earliest and latest time of its records.
    pub times_ns: Option<(u64, u64)>,
    /// Whether its writer closed it.
    pub closed: bool,
    /// What was left out.
    pub recovery: Recovery,
}

/// Where the records of a part of a channel come from.
#[derive(Debug)]
enum Part {
    Log(Session),
    Foreign(foreign::Topic),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Log(session) => session.len(),
            Self::Foreign(topic) => topic.len(),
        }
    }

    fn record(&self, at: u64) -> Result<Record> {
        match self {
            Self::Log(session) => session.record(at),
            Self::Foreign(topic) => topic.record(at),
        }
    }

    fn time(&self, at: u64) -> u64 {
        match self {
            Self::Log(session) => session.time(at),
            Self::Foreign(topic) => topic.time(at),
        }
    }

    fn in_time(&self, start: u64, stop: Option<u64>) -> Vec<Range<u64>> {
        match self {
            Self::Log(session) => session.in_time(start, stop),
            Self::Foreign(topic) => topic.in_time(start, stop),
        }
    }

    fn file(&self) -> LogFile {
        match self {
            Self::Log(session) => LogFile {
                path: session.path.clone(),
                bytes: session.file_len(),
                records: session.len(),
                codec: session.info.codec.clone(),
                codec_version: session.info.codec_version,
                metadata: session.info.metadata.clone(),
                created_ns: session.info.created_ns,
                times_ns: session.times(),
                closed: session.closed,
                recovery: session.recovery.clone(),
            },
            Self::Foreign(topic) => topic.file(),
        }
    }

    fn recovery(&self) -> (&Path, &Recovery) {
        match self {
            Self::Log(session) => (session.path(), session.recovery()),
            Self::Foreign(topic) => (topic.path(), topic.recovery()),
        }
    }
}

/// Widens a span of times.
pub(super) fn extend(span: Option<(u64, u64)>, time: u64) -> (u64, u64) {
    span.map_or((time, time), |(first, last)| (first.min(time), last.max(time)))
}

/// A codec's name, its version, and its metadata.
pub type CodecInfo<'a> = (&'a str, u32, &'a [(String, String)]);

/// A channel as it was when it was opened: all records of all of its files, in the order in which they were written.
///
/// Reading does not copy: a [`Payload`] is a view of the mapped file and keeps it mapped. Dropping the channel and all
/// payloads unmaps it.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("evlib-doc-channel-{}", std::process::id()));
/// use evlib::log::{Log, Stamp, Verify, WriterOptions};
/// let log = Log::new(&dir);
/// let writer = log.writer("notes", &WriterOptions::new("bytes", 1))?;
/// for time in 0..10 {
///     writer.write(&[b"hello"], Stamp::at(time))?;
/// }
/// writer.close()?;
/// let channel = log.channel("notes", Verify::First)?;
/// assert_eq!(channel.len(), 10);
/// assert_eq!(channel.get(3)?.payload.bytes(), b"hello");
/// let times: Vec<u64> = channel.range(2, Some(4)).map(|record| Ok(record?.log_time_ns)).collect::<evlib::Result<_>>()?;
/// assert_eq!(times, [2, 3]);
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Channel {
    name: String,
    parts: Vec<Part>,
    /// Number of the first record of each part, and of all records.
    starts: Vec<u64>,
    recovery: Recovery,
}

impl Channel {
    fn new(name: String, parts: Vec<Part>) -> Self {
        let mut starts = vec![0];
        let mut recovery = Recovery::default();
        for part in &parts {
            starts.push(starts.last().copied().unwrap_or(0) + part.len());
            let (path, left_out) = part.recovery();
            recovery.merge(path, left_out);
        }
        Self { name, parts, starts, recovery }
    }

    pub(super) fn of_sessions(name: String, sessions: Vec<Session>) -> Self {
        Self::new(name, sessions.into_iter().map(Part::Log).collect())
    }

    /// A channel of topics of one file.
    pub(super) fn of_topics(name: String, topics: Vec<foreign::Topic>) -> Self {
        let recovery = topics.first().map(|topic| (topic.path().to_path_buf(), topic.recovery().clone()));
        let mut channel = Self::new(name, topics.into_iter().map(Part::Foreign).collect());
        channel.recovery = Recovery::default();
        if let Some((path, recovery)) = recovery {
            channel.recovery.merge(&path, &recovery);
        }
        channel
    }

    /// The name of the channel.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was left out at opening.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The files, in order.
    #[must_use]
    pub fn files(&self) -> Vec<LogFile> {
        self.parts.iter().map(Part::file).collect()
    }

    /// The part that has a record, and its number there.
    pub(crate) fn place(&self, at: u64) -> Option<(usize, u64)> {
        let part = self.starts.partition_point(|start| *start <= at).checked_sub(1)?;
        (part < self.parts.len()).then(|| (part, at - self.starts.get(part).copied().unwrap_or(0)))
    }

    /// Number of files.
    #[cfg(feature = "python")]
    pub(crate) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Codec, its version and metadata of a file.
    pub(crate) fn codec(&self, part: usize) -> Option<CodecInfo<'_>> {
        self.parts.get(part).map(|part| match part {
            Part::Log(session) => (session.info.codec.as_str(), session.info.codec_version, session.info.metadata.as_slice()),
            Part::Foreign(topic) => (topic.codec(), 1, topic.metadata()),
        })
    }

    /// A record by its number.
    ///
    /// # Errors
    /// `InvalidArgument` if there is none of this number, `Format` if it is damaged.
    pub fn get(&self, at: u64) -> Result<Record> {
        let place = self.place(at).and_then(|(part, at)| Some((self.parts.get(part)?, at)));
        let Some((part, at)) = place else {
            return Err(Error::invalid("no such record").expecting(format!("a number below {}", self.len())).but_found(at.to_string()));
        };
        part.record(at)
    }

    /// The time of a record by its number, without looking at the record.
    pub(crate) fn time(&self, at: u64) -> Option<u64> {
        let (part, at) = self.place(at)?;
        self.parts.get(part).map(|part| part.time(at))
    }

    /// All records.
    #[must_use]
    pub fn iter(&self) -> Records<'_> {
        Records { channel: self, runs: std::iter::once(0..self.len()).collect::<Vec<_>>().into_iter(), run: 0..0 }
    }

    /// The records with times in `start_ns..stop_ns`, in the order in which they were written.
    ///
    /// By bisection where times never go back, else by a look at the time of every record.
    #[must_use]
    pub fn range(&self, start_ns: u64, stop_ns: Option<u64>) -> Records<'_> {
        Records { channel: self, runs: self.runs(start_ns, stop_ns).into_iter(), run: 0..0 }
    }

    /// Numbers of the records with these times.
    pub(crate) fn runs(&self, start_ns: u64, stop_ns: Option<u64>) -> Vec<Range<u64>> {
        let parts = self.parts.iter().zip(&self.starts);
        parts
            .flat_map(|(part, first)| part.in_time(start_ns, stop_ns).into_iter().map(move |run| run.start + first..run.end + first))
            .collect()
    }

    /// Checks everything: each record, and what MCAP says of each closed file. Returns what is wrong, in words.
    #[must_use]
    pub fn verify(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for part in &self.parts {
            let (path, recovery) = part.recovery();
            let file = path.display();
            if let Some(reason) = &recovery.reason {
                wrong.push(format!("{file}: {reason}: {} records, {} bytes lost", recovery.records, recovery.bytes));
            }
            let session = match part {
                Part::Log(session) => session,
                Part::Foreign(topic) => {
                    wrong.extend(topic.verify());
                    continue;
                }
            };
            for at in 0..session.len() {
                let checked = session.record(at).and_then(|_| session.check(at));
                if let Err(error) = checked {
                    wrong.push(error.to_string());
                }
            }
            if session.data_is_right() == Some(false) {
                wrong.push(format!("{file}: the CRC of MCAP's DataEnd record does not fit the data"));
            }
            if session.summary_is_right() == Some(false) {
                wrong.push(format!("{file}: the CRC of MCAP's Footer record does not fit the summary"));
            }
        }
        wrong
    }
}

impl<'a> IntoIterator for &'a Channel {
    type Item = Result<Record>;
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

/// Records of a channel, one after the other. After an error it goes on with the next record.
#[derive(Debug)]
pub struct Records<'a> {
    channel: &'a Channel,
    runs: std::vec::IntoIter<Range<u64>>,
    run: Range<u64>,
}

impl Iterator for Records<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.run.is_empty() {
            self.run = self.runs.next()?;
        }
        self.run.next().map(|at| self.channel.get(at))
    }
}
