//! Logs that others wrote: MCAP files of any profile, and `.blog` files.
//!
//! A `.blog` file is a row of `u64` time in nanoseconds, `u64` length and as many bytes, little endian; the first
//! record is a pickled description of the codec, which is never unpickled here.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::reader::{LogFile, Payload, Record, Recovery, extend, footer};
use super::record::{DATA_END_LEN, ENVELOPE, Fields, MAGIC, MESSAGE_LEN, op, u32_at, u64_at};
use super::sys::Memory;
use crate::error::{Error, ErrorKind, Result};
use crate::format::codec::lz4;
use crate::unpack::is_packed;

/// Messages that any file may have.
const ALWAYS: usize = 1 << 24;
/// Most bytes of the descriptions of all channels of a file: many may share a schema, which each then has.
const DESCRIBED_LIMIT: usize = 256 << 20;
/// Most bytes that a chunk may unpack to.
const CHUNK_LIMIT: u64 = 1 << 30;
/// Name of the codec of `.blog` files: their first record says more.
pub(crate) const BLOG: &str = "blog";
/// Key of the metadata that has the first record of a `.blog` file, in hexadecimal digits.
const BLOG_CODEC: &str = "pickle";

/// Where the bytes of a message are.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the file.
    File(u64),
    /// In an unpacked chunk.
    Chunk(u32, u64),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    place: Place,
    len: u64,
    sequence: u64,
    log_time_ns: u64,
    sensor_time_ns: u64,
}

/// A chunk of a file.
#[derive(Debug, Clone)]
struct Chunk {
    /// Where its records start and end in the file.
    records: Range<usize>,
    /// Empty for none.
    compression: String,
    unpacked: u64,
    crc: u32,
}

/// What the topics of a file share.
struct Shared {
    path: PathBuf,
    memory: Arc<Memory>,
    chunks: Vec<Chunk>,
    /// The chunk that was unpacked last.
    last: Mutex<Option<(u32, Arc<Memory>)>>,
    /// Where the `DataEnd` record starts, in a file that was closed.
    data_end: Option<usize>,
    closed: bool,
    recovery: Recovery,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).field("chunks", &self.chunks.len()).finish_non_exhaustive()
    }
}

impl Shared {
    fn chunk(&self, number: u32) -> Result<Arc<Memory>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, memory)) = &*last
            && *known == number
        {
            return Ok(Arc::clone(memory));
        }
        let chunk = self.chunks.get(number as usize).ok_or_else(|| Error::format("no such chunk").with_path(&self.path))?;
        let memory = Arc::new(Memory::Owned(unpack(self.memory.bytes(), chunk).map_err(|error| error.with_path(&self.path))?));
        *last = Some((number, Arc::clone(&memory)));
        Ok(memory)
    }

    /// Compares everything that has a checksum with it; says what is wrong, in words.
    fn verify(&self) -> Vec<String> {
        let (file, path) = (self.memory.bytes(), self.path.display());
        let mut wrong = Vec::new();
        for chunk in &self.chunks {
            let bytes = file.get(chunk.records.clone()).unwrap_or_default();
            if !chunk.compression.is_empty() {
                wrong.extend(unpack(file, chunk).err().map(|error| error.with_path(&self.path).to_string()));
            } else if !fits(chunk.crc, bytes) {
                wrong.push(format!("{path}: the CRC of the chunk at byte {} does not fit it", chunk.records.start));
            }
        }
        let stored = self.data_end.and_then(|end| u32_at(file, end + ENVELOPE)).unwrap_or(0);
        if !fits(stored, file.get(..self.data_end.unwrap_or(0)).unwrap_or_default()) {
            wrong.push(format!("{path}: the CRC of MCAP's DataEnd record does not fit the data"));
        }
        wrong
    }
}

/// Whether bytes have a CRC-32; MCAP has 0 where none was computed.
fn fits(stored: u32, bytes: &[u8]) -> bool {
    let mut crc = libdeflater::Crc::new();
    if stored != 0 {
        crc.update(bytes);
    }
    stored == 0 || crc.sum() == stored
}

fn unpack(file: &[u8], chunk: &Chunk) -> Result<Vec<u8>> {
    let at = chunk.records.start as u64;
    let packed = file.get(chunk.records.clone()).unwrap_or_default();
    let damaged = || Error::format(format!("a chunk of `{}` that cannot be unpacked", chunk.compression)).at(at);
    let len = usize::try_from(chunk.unpacked).ok().filter(|_| chunk.unpacked <= CHUNK_LIMIT).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "a chunk too large")
            .expecting(format!("at most {CHUNK_LIMIT} bytes"))
            .but_found(chunk.unpacked.to_string())
            .at(at)
    })?;
    let mut out = vec![0; len];
    let written = match chunk.compression.as_str() {
        "zstd" => zstd_safe::decompress(&mut out[..], packed).map_err(|_| damaged())?,
        "lz4" => lz4::decode_frame(packed, &mut out).whole().ok_or_else(damaged)?,
        other => {
            return Err(Error::new(ErrorKind::Unsupported, "unknown compression of a chunk")
                .expecting("`zstd`, `lz4` or none")
                .but_found(format!("`{other}`"))
                .at(at));
        }
    };
    if written != len || !fits(chunk.crc, &out) {
        return Err(damaged());
    }
    Ok(out)
}

/// The messages of a topic.
#[derive(Debug)]
pub(crate) struct Topic {
    shared: Arc<Shared>,
    entries: Vec<Entry>,
    codec: String,
    metadata: Vec<(String, String)>,
}

impl Topic {
    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    pub(crate) fn recovery(&self) -> &Recovery {
        &self.shared.recovery
    }

    /// What is wrong with the file, in words, after a look at all that has a checksum.
    pub(crate) fn verify(&self) -> Vec<String> {
        self.shared.verify()
    }

    /// `mcap/` and the message encoding, or [`BLOG`].
    pub(crate) fn codec(&self) -> &str {
        &self.codec
    }

    pub(crate) fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    fn entry(&self, at: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(at).ok()?)
    }

    pub(crate) fn time(&self, at: u64) -> u64 {
        self.entry(at).map_or(u64::MAX, |entry| entry.log_time_ns)
    }

    pub(crate) fn record(&self, at: u64) -> Result<Record> {
        let entry = self.entry(at).ok_or_else(|| Error::invalid(format!("no record {at}")))?;
        let (memory, offset) = match entry.place {
            Place::File(offset) => (Arc::clone(&self.shared.memory), offset),
            Place::Chunk(chunk, offset) => (self.shared.chunk(chunk)?, offset),
        };
        let payload = Payload::new(memory, offset as usize, entry.len as usize)
            .ok_or_else(|| Error::format("a message outside its chunk").with_path(&self.shared.path))?;
        let Entry { sequence, log_time_ns, sensor_time_ns, .. } = *entry;
        Ok(Record { sequence, log_time_ns, sensor_time_ns, payload, data_offset: 0 })
    }

    pub(crate) fn in_time(&self, start: u64, stop: Option<u64>) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (at, entry) in (0_u64..).zip(&self.entries) {
            if entry.log_time_ns >= start && stop.is_none_or(|stop| entry.log_time_ns < stop) {
                match runs.last_mut() {
                    Some(run) if run.end == at => run.end += 1,
                    _ => runs.push(at..at + 1),
                }
            }
        }
        runs
    }

    pub(crate) fn file(&self) -> LogFile {
        LogFile {
            path: self.shared.path.clone(),
            bytes: self.shared.memory.bytes().len() as u64,
            records: self.len(),
            codec: self.codec.clone(),
            codec_version: 1,
            metadata: self.metadata.clone(),
            created_ns: 0,
            times_ns: self.entries.iter().map(|entry| entry.log_time_ns).fold(None, |span, time| Some(extend(span, time))),
            closed: self.shared.closed,
            recovery: self.shared.recovery.clone(),
        }
    }
}

/// The channel of a `.blog` file.
pub(crate) fn open_blog(path: &Path) -> Result<Topic> {
    let memory = Memory::map(path)?;
    let file = memory.bytes();
    let mut entries = Vec::new();
    let mut metadata = Vec::new();
    let mut at = 0;
    let mut recovery = Recovery::default();
    while at < file.len() {
        let fields = u64_at(file, at).zip(u64_at(file, at + 8));
        let end = fields.and_then(|(_, len)| usize::try_from(len).ok()?.checked_add(at + 16)).filter(|end| *end <= file.len());
        let (Some((time, len)), Some(end)) = (fields, end) else {
            recovery = Recovery {
                records: 1,
                bytes: (file.len() - at) as u64,
                reason: Some("torn end".to_owned()),
                first_offset: Some(at as u64),
            };
            break;
        };
        if at == 0 {
            let pickle = hexadecimal(file.get(16..end).unwrap_or_default());
            metadata.push((BLOG_CODEC.to_owned(), pickle));
        } else {
            let sequence = entries.len() as u64;
            entries.push(Entry { place: Place::File(at as u64 + 16), len, sequence, log_time_ns: time, sensor_time_ns: time });
        }
        at = end;
    }
    let shared = Shared {
        path: path.to_path_buf(),
        memory: Arc::new(memory),
        chunks: Vec::new(),
        last: Mutex::new(None),
        data_end: None,
        closed: true,
        recovery,
    };
    Ok(Topic { shared: Arc::new(shared), entries, codec: BLOG.to_owned(), metadata })
}

/// What a file says of a channel.
struct Described {
    topic: String,
    encoding: String,
    metadata: Vec<(String, String)>,
    entries: Vec<Entry>,
}

/// Collects the messages of a file.
#[derive(Default)]
struct Collector {
    schemas: BTreeMap<u16, (String, String, Vec<u8>)>,
    channels: BTreeMap<u16, Described>,
    /// Bytes of the descriptions of both.
    described: usize,
    messages: usize,
}

impl Collector {
    /// Takes one record of a file of so many bytes; `place` says where its content is.
    fn take(&mut self, file_len: usize, opcode: u8, content: &[u8], place: Place) -> Option<()> {
        let mut fields = Fields(content);
        match opcode {
            op::SCHEMA => {
                let id = fields.u16()?;
                if self.schemas.contains_key(&id) {
                    return Some(());
                }
                self.described = self.described.saturating_add(content.len());
                if self.described > DESCRIBED_LIMIT {
                    return Some(());
                }
                let (name, encoding) = (fields.text()?.into_owned(), fields.text()?.into_owned());
                let len = fields.u32()? as usize;
                self.schemas.insert(id, (name, encoding, fields.bytes(len)?.to_vec()));
            }
            op::CHANNEL => {
                let (id, schema) = (fields.u16()?, fields.u16()?);
                if self.channels.contains_key(&id) {
                    return Some(());
                }
                let schema_len = self.schemas.get(&schema).map_or(0, |schema| schema.2.len());
                self.described = self.described.saturating_add(content.len() + 2 * schema_len);
                if self.described > DESCRIBED_LIMIT {
                    return Some(());
                }
                let (topic, encoding) = (fields.text()?.into_owned(), fields.text()?.into_owned());
                let len = fields.u32()? as usize;
                let mut pairs = Fields(fields.bytes(len)?);
                let mut metadata = Vec::new();
                while !pairs.0.is_empty() {
                    metadata.push((pairs.text()?.into_owned(), pairs.text()?.into_owned()));
                }
                if let Some((name, encoding, data)) = self.schemas.get(&schema) {
                    metadata.push(("schema".to_owned(), name.clone()));
                    metadata.push(("schema_encoding".to_owned(), encoding.clone()));
                    metadata.push(("schema_data".to_owned(), hexadecimal(data)));
                }
                self.channels.insert(id, Described { topic, encoding, metadata, entries: Vec::new() });
            }
            op::MESSAGE => {
                let id = fields.u16()?;
                let sequence = fields.u32()?.into();
                let (log_time_ns, sensor_time_ns) = (fields.u64()?, fields.u64()?);
                let place = match place {
                    Place::File(at) => Place::File(at + MESSAGE_LEN as u64),
                    Place::Chunk(chunk, at) => Place::Chunk(chunk, at + MESSAGE_LEN as u64),
                };
                let len = fields.0.len() as u64;
                self.messages += 1;
                if self.messages > messages_limit(file_len) {
                    return Some(());
                }
                self.channels.get_mut(&id)?.entries.push(Entry { place, len, sequence, log_time_ns, sensor_time_ns });
            }
            _ => {}
        }
        Some(())
    }

    /// An error if the channels of a file of `len` bytes say too much of themselves, or have too many messages.
    fn check(&self, len: usize) -> Result<()> {
        let messages = messages_limit(len);
        if self.messages > messages {
            return Err(Error::new(ErrorKind::Unsupported, "too many messages for the size of the file")
                .expecting(format!("at most {messages}"))
                .but_found("more".to_owned()));
        }
        if self.described <= DESCRIBED_LIMIT {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unsupported, "the channels of the file say too much of themselves")
            .expecting(format!("metadata and schemas of at most {DESCRIBED_LIMIT} bytes"))
            .but_found(format!("{} and more", self.described)))
    }

    /// Takes the records of a stretch; `None` where one is damaged.
    fn take_all(&mut self, file_len: usize, bytes: &[u8], place: impl Fn(u64) -> Place) -> Option<()> {
        let mut at = 0;
        while at < bytes.len() {
            let (opcode, content) = envelope(bytes, at)?;
            self.take(file_len, opcode, bytes.get(content.clone())?, place(content.start as u64))?;
            at = content.end;
        }
        Some(())
    }
}

/// Most messages of a file of so many bytes, which compression may have made small: what is known of each has to stay in
/// memory.
fn messages_limit(file_len: usize) -> usize {
    (file_len / 4).max(ALWAYS)
}

/// Opcode and content of the record at `at`.
fn envelope(bytes: &[u8], at: usize) -> Option<(u8, Range<usize>)> {
    let opcode = *bytes.get(at)?;
    let len = usize::try_from(u64_at(bytes, at + 1)?).ok()?;
    let start = at + ENVELOPE;
    let end = start.checked_add(len).filter(|end| *end <= bytes.len())?;
    Some((opcode, start..end))
}

/// The topics of an MCAP file, in order of their identifiers.
pub(crate) fn open_mcap(path: &Path) -> Result<Vec<(String, Topic)>> {
    let memory = Memory::map(path)?;
    let file = memory.bytes();
    if !file.starts_with(&MAGIC) {
        let found = crate::format::looks_like(file.get(..4096).unwrap_or(file));
        let error = Error::format("not an MCAP file").expecting("the MCAP magic").but_found(found).at(0).with_path(path);
        return Err(if is_packed(file) { error.hint("a log is read as it lies on the disk: unpack it first") } else { error });
    }
    let mut collector = Collector::default();
    // The summary repeats what the data say of channels, which is lost with the chunk that has it.
    let mut at = footer(file).map_or(file.len(), |end| end + DATA_END_LEN);
    while let Some((opcode, content)) = envelope(file, at) {
        if matches!(opcode, op::SCHEMA | op::CHANNEL) {
            let _damaged = collector.take(file.len(), opcode, file.get(content.clone()).unwrap_or_default(), Place::File(0));
            collector.check(file.len()).map_err(|error| error.with_path(path))?;
        }
        at = content.end;
    }
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut at = MAGIC.len();
    let mut data_end = None;
    let mut recovery = Recovery::default();
    let mut lose = |reason: &str, at: usize, end: usize| {
        recovery.records += 1;
        recovery.bytes += (end - at) as u64;
        recovery.first_offset.get_or_insert(at as u64);
        recovery.reason.get_or_insert_with(|| reason.to_owned());
    };
    while at < file.len() {
        let Some((opcode, content)) = envelope(file, at) else {
            lose("not closed, torn end", at, file.len());
            break;
        };
        let bytes = file.get(content.clone()).unwrap_or_default();
        match opcode {
            op::DATA_END => {
                data_end = Some(at);
                break;
            }
            // Its own checksum says that it is damaged; what comes after it is not.
            op::CHUNK if !take_chunk(&mut collector, &mut chunks, file, content.clone()).map_err(|error| error.with_path(path))? => {
                lose("damaged chunk", at, content.end);
            }
            op::CHUNK => {}
            _ if collector.take(file.len(), opcode, bytes, Place::File(content.start as u64)).is_none() => {
                lose("damaged record", at, file.len());
                break;
            }
            op::SCHEMA | op::CHANNEL | op::MESSAGE => collector.check(file.len()).map_err(|error| error.with_path(path))?,
            _ => {}
        }
        at = content.end;
    }
    if data_end.is_none() {
        recovery.reason.get_or_insert_with(|| "not closed".to_owned());
    }
    let shared = Arc::new(Shared {
        path: path.to_path_buf(),
        memory: Arc::new(memory),
        chunks,
        last: Mutex::new(None),
        data_end,
        closed: data_end.is_some(),
        recovery,
    });
    let topics = collector.channels.into_values().map(|channel| {
        let topic = Topic {
            shared: Arc::clone(&shared),
            entries: channel.entries,
            codec: format!("mcap/{}", channel.encoding),
            metadata: channel.metadata,
        };
        (channel.topic, topic)
    });
    Ok(topics.collect())
}

/// How a file of a log describes its channel to other readers of MCAP.
pub(super) struct Description {
    pub(super) encoding: String,
    pub(super) schema: Option<(String, String, Vec<u8>)>,
}

/// The description of a file's channel, if it is whole.
pub(super) fn describe(path: &Path) -> Result<Option<Description>> {
    let memory = Memory::map(path)?;
    let file = memory.bytes();
    let mut collector = Collector::default();
    let mut at = MAGIC.len();
    while let Some((opcode, content)) = envelope(file, at)
        && !matches!(opcode, op::HEAD | op::DATA_END)
    {
        if matches!(opcode, op::SCHEMA | op::CHANNEL) {
            let bytes = file.get(content.clone()).unwrap_or_default();
            if collector.take(file.len(), opcode, bytes, Place::File(at as u64)).is_none() {
                return Ok(None);
            }
        }
        at = content.end;
    }
    let schema = collector.schemas.into_values().next();
    Ok(collector.channels.into_values().next().map(|channel| Description { encoding: channel.encoding, schema }))
}

/// Takes the messages of a chunk; `false` where it is damaged.
fn take_chunk(collector: &mut Collector, chunks: &mut Vec<Chunk>, file: &[u8], content: Range<usize>) -> Result<bool> {
    let mut fields = Fields(file.get(content.clone()).unwrap_or_default());
    let mut head = || {
        fields.bytes(16)?; // first and last time
        let (unpacked, crc) = (fields.u64()?, fields.u32()?);
        let compression = fields.text()?.into_owned();
        let len = usize::try_from(fields.u64()?).ok()?;
        let start = content.end - fields.0.len();
        let end = start.checked_add(len).filter(|end| *end <= content.end)?;
        Some(Chunk { records: start..end, compression, unpacked, crc })
    };
    let Some(chunk) = head() else { return Ok(false) };
    let number = u32::try_from(chunks.len()).map_err(|_| Error::format("more than 2^32 chunks"))?;
    let start = chunk.records.start as u64;
    let taken = if chunk.compression.is_empty() {
        collector.take_all(file.len(), file.get(chunk.records.clone()).unwrap_or_default(), |at| Place::File(start + at))
    } else {
        match unpack(file, &chunk) {
            Ok(unpacked) => collector.take_all(file.len(), &unpacked, |at| Place::Chunk(number, at)),
            Err(error) if error.kind() == ErrorKind::Format => None,
            Err(error) => return Err(error),
        }
    };
    chunks.push(chunk);
    collector.check(file.len())?;
    Ok(taken.is_some())
}

/// Bytes as two digits each.
fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        for digit in [byte >> 4, byte & 15] {
            digits.extend(char::from_digit(digit.into(), 16));
        }
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_file_has_a_bound() {
        let kept = |messages, described| Collector { described, messages, ..Collector::default() };
        assert!(kept(ALWAYS, DESCRIBED_LIMIT).check(0).is_ok());
        assert!(kept(0, DESCRIBED_LIMIT + 1).check(usize::MAX).is_err());
        assert!(kept(ALWAYS + 1, 0).check(0).is_err());
        assert!(kept(ALWAYS + 1, 0).check(4 * (ALWAYS + 1)).is_ok());

        let mut collector = Collector::default();
        let channel = [1, 0, 0, 0, 1, 0, 0, 0, b'a', 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(collector.take(0, op::CHANNEL, &channel, Place::File(0)).is_some());
        let message = [[1, 0].as_slice(), &[0; 20]].concat();
        for _ in 0..3 {
            assert!(collector.take(0, op::MESSAGE, &message, Place::File(0)).is_some());
            collector.messages = ALWAYS;
        }
        assert_eq!(collector.channels.get(&1).unwrap().entries.len(), 1);
    }
}
