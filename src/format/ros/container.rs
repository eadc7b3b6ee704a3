//! What the three containers have in common: topics, blocks that are read on their own, messages in them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::message::{Kind, Serial};
use crate::error::Result;
use crate::format::codec::{self, Codec, LARGEST, ZSTD_MAGIC};
use crate::problem::{ProblemCode, Problems};
use crate::source::{Buffer, Source};

pub(crate) mod bag;
pub(crate) mod db3;
pub(crate) mod mcap;

/// Bytes of messages that stand outside chunks that are read together.
pub(super) const LOOSE: u64 = 512 << 10;
/// Fewest and most bytes read at a time where records are only stepped over.
const STEP: usize = 256;
const LONGEST_STEP: usize = 64 << 10;
/// Bytes of a buffer that a thread keeps.
const KEEP: usize = 16 << 20;
/// Most bytes that the messages of a block may become, or this many times its share of the file: pages that several rows
/// claim, and messages that decompress to much more than they are, must not fill the memory.
const MOST: u64 = 128 << 20;
const SHARES: u64 = 4;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) type_name: String,
    pub(crate) kind: Kind,
    /// `None` for a serialisation that is not read.
    pub(crate) serial: Option<Serial>,
    /// Numbers under which the container has it.
    pub(crate) ids: Vec<u64>,
    /// Number of messages, where the container says it.
    pub(crate) messages: Option<u64>,
}

/// Topics by name and type, with the counts of the numbers that they have.
pub(super) fn topics(
    found: impl IntoIterator<Item = (u64, String, String, Kind, Option<Serial>)>,
    counts: Option<&BTreeMap<u64, u64>>,
) -> Vec<Topic> {
    let mut topics: Vec<Topic> = Vec::new();
    for (id, name, type_name, kind, serial) in found {
        let messages = counts.map(|counts| counts.get(&id).copied().unwrap_or(0));
        let same = topics.iter_mut().find(|topic| topic.name == name && topic.type_name == type_name && topic.serial == serial);
        match same {
            Some(topic) if topic.ids.contains(&id) => {}
            Some(topic) => {
                topic.ids.push(id);
                topic.messages = topic.messages.zip(messages).map(|(some, more)| some.saturating_add(more));
            }
            None => topics.push(Topic { name, type_name, kind, serial, ids: vec![id], messages }),
        }
    }
    topics
}

/// A stretch of the container that is read on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// Where it starts: a file offset, or the number of the first leaf page.
    pub(crate) start: u64,
    /// Bytes, or leaf pages.
    pub(crate) len: u64,
    /// File offset.
    pub(crate) offset: u64,
    /// Bytes of its records, decompressed; about, where the container does not say it.
    pub(crate) bytes: u64,
    /// First and last time at which its messages were recorded, where the container says it.
    pub(crate) log_ns: Option<(i64, i64)>,
    /// Whether it is a chunk of records, not messages that stand on their own.
    pub(crate) chunk: bool,
}

/// A block, with what the container says of the topics in it.
#[derive(Debug, Clone)]
pub(super) struct Entry<I> {
    pub(super) block: Block,
    /// Numbers of the topics with messages in it; `None` where that is not known.
    pub(super) ids: Option<Vec<I>>,
}

impl<I: Copy + Into<u64>> Entry<I> {
    /// The blocks that may have messages of a topic.
    pub(super) fn blocks(entries: &[Self], topic: &Topic) -> Vec<Block> {
        let wanted = |entry: &&Self| entry.ids.as_ref().is_none_or(|has| has.iter().any(|id| topic.ids.contains(&(*id).into())));
        entries.iter().filter(wanted).map(|entry| entry.block).collect()
    }

    /// Adds blocks of which it is not known what is in them, in the order of the file.
    pub(super) fn add(entries: &mut Vec<Self>, blocks: Vec<Block>) {
        entries.extend(blocks.into_iter().map(|block| Self { block, ids: None }));
        entries.sort_by_key(|entry| entry.block.start);
    }
}

/// A message of a topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) log_ns: i64,
    /// File offset of its data, or of what it is compressed in.
    pub(crate) offset: u64,
    /// Whether the data stands in the file as it is, so that offsets in it are offsets in the file.
    pub(crate) plain: bool,
}

/// Takes messages of ROS 2 out of the Zstandard frames that bags put them in one by one, within the bounds of a block.
#[derive(Debug)]
pub(super) struct Unpacker {
    out: Vec<u8>,
    /// Bytes that the messages may still have.
    left: usize,
}

impl Unpacker {
    pub(super) fn new(block: &Block) -> Self {
        let left = usize::try_from(block.bytes.saturating_mul(SHARES).max(MOST)).unwrap_or(usize::MAX);
        Self { out: Vec::new(), left }
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// The message as it was before it was compressed. CDR starts with a byte that is 0, which no frame does.
    pub(super) fn message<'a>(&'a mut self, message: Message<'a>) -> Message<'a> {
        let mut message = message;
        if message.data.starts_with(&ZSTD_MAGIC) {
            let size = codec::zstd_size(message.data).unwrap_or(message.data.len().saturating_mul(64)).min(self.left);
            if self.out.len() < size {
                self.out = vec![0; size];
            }
            let written = codec::decompress(Codec::Zstd, message.data, self.out.get_mut(..size).unwrap_or_default());
            message.data = self.out.get(..written).unwrap_or_default();
            message.plain = false;
        }
        self.left = self.left.saturating_sub(message.data.len());
        message
    }
}

/// What takes the messages of a block; it says whether it wants more of them.
pub(crate) type Each<'a> = &'a mut dyn FnMut(Message<'_>) -> bool;

/// A file with messages.
pub(crate) trait Container: Send + Sync {
    fn topics(&self) -> &[Topic];

    /// How its chunks or messages are compressed, in words.
    fn compression(&self) -> String;

    /// The blocks that may have messages of a topic, in file order; what is damaged between them.
    fn blocks(&self, topic: &Topic) -> Result<(Vec<Block>, Problems)>;

    /// Gives the messages of a topic in a block, in file order, until no more are wanted. Checksums are looked at if
    /// `check`.
    fn visit(&self, block: &Block, topic: &Topic, check: bool, problems: &mut Problems, each: Each<'_>) -> Result<()>;

    /// Facts of the file, for its metadata.
    fn metadata(&self) -> Vec<(String, String)>;
}

/// Gives `work` two of this thread's buffers.
pub(super) fn with_buffers<R>(work: impl FnOnce(&mut Buffer, &mut Vec<u8>) -> R) -> R {
    thread_local!(static BUFFERS: RefCell<(Buffer, Vec<u8>)> = RefCell::new((Buffer::default(), Vec::new())));
    BUFFERS.with(|buffers| match buffers.try_borrow_mut() {
        Ok(mut buffers) => {
            let (stored, records) = &mut *buffers;
            let result = work(stored, records);
            if stored.capacity() > KEEP {
                *stored = Buffer::default();
            }
            if records.capacity() > KEEP {
                *records = Vec::new();
            }
            result
        }
        // A task that this thread took up while it waited inside another.
        Err(_) => work(&mut Buffer::default(), &mut Vec::new()),
    })
}

/// Decompresses a chunk that should become `size` bytes; gives as many as there are.
pub(super) fn unpack<'a>(codec: Codec, stored: &'a [u8], size: u64, out: &'a mut Vec<u8>) -> &'a [u8] {
    if codec == Codec::None {
        return stored;
    }
    // Whatever it claims: LZ4 grows by 255 at most, and more than `LARGEST` is no chunk.
    let most = if codec == Codec::Lz4 { stored.len().saturating_mul(255) } else { LARGEST };
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(most).min(LARGEST);
    if out.len() < size {
        *out = vec![0; size];
    }
    let written = codec::decompress(codec, stored, out.get_mut(..size).unwrap_or_default());
    out.get(..written).unwrap_or_default()
}

/// Bytes of a chunk's records that become `size` where they are compressed, and else are all that is stored.
pub(super) fn unpacked(codec: Option<Codec>, stored: u64, size: u64) -> u64 {
    if codec == Some(Codec::None) { stored } else { stored.max(size.min(LARGEST as u64)) }
}

/// Counts a damaged stretch.
pub(super) fn damaged(problems: &mut Problems, bytes: u64, offset: u64, what: &str) {
    problems.add(ProblemCode::DamagedPacket, 1, bytes, offset, || format!("{what} at byte {offset}"));
}

/// Notes that a file was not closed, and where it ends.
pub(super) fn not_closed(problems: &mut Problems, end: u64) {
    problems.add(ProblemCode::NotClosed, 1, 0, end, || format!("no index and no mark of the end at byte {end}"));
}

/// The bytes of a file, read in small pieces where records are stepped over.
pub(super) struct Window<'a> {
    source: &'a Source,
    buffer: Buffer,
    start: u64,
    len: usize,
    /// Bytes to read next: more where records are short and follow each other, few where data lies between them.
    step: usize,
}

impl<'a> Window<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, buffer: Buffer::default(), start: 0, len: 0, step: STEP }
    }

    /// Up to `len` bytes from `offset` on, fewer only at the end of the file.
    pub(super) fn at(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let there = usize::try_from(self.source.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(there);
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.len as u64;
        if !inside {
            let near = offset >= self.start && offset - self.start <= 2 * self.len as u64;
            self.step = if near { (2 * self.step).min(LONGEST_STEP) } else { STEP };
            self.len = 0;
            let read = len.max(self.step).min(there);
            self.source.read_exact_at(self.buffer.take(read), offset)?;
            (self.start, self.len) = (offset, read);
        }
        let from = (offset - self.start) as usize;
        Ok(self.buffer.take(self.len).get(from..from + len).unwrap_or_default())
    }
}

/// Whether blocks that are in order lie behind each other.
pub(super) fn are_apart<'a>(blocks: impl Iterator<Item = &'a Block>) -> bool {
    let mut end = 0;
    blocks.into_iter().all(|block| {
        let apart = block.start >= end;
        end = block.start.saturating_add(block.len);
        apart
    })
}

/// Appends a message that stands on its own to the block before, if that is one of such messages and not yet long.
pub(super) fn add_loose(blocks: &mut Vec<Block>, offset: u64, len: u64, log_ns: i64) {
    if let Some(last) = blocks.last_mut()
        && !last.chunk
        && last.start + last.len == offset
        && last.len < LOOSE
    {
        last.len += len;
        last.bytes += len;
        last.log_ns = last.log_ns.map(|(first, end)| (first.min(log_ns), end.max(log_ns)));
        return;
    }
    blocks.push(Block { start: offset, len, offset, bytes: len, log_ns: Some((log_ns, log_ns)), chunk: false });
}

/// The first place from `from` on at which `fits` finds a record again, looking at `look` bytes each time.
pub(super) fn search(source: &Source, from: u64, look: usize, fits: impl Fn(&[u8], u64) -> bool) -> Result<Option<u64>> {
    const STRETCH: usize = 1 << 20;
    let mut buffer = Buffer::default();
    let mut at = from;
    while at < source.len() {
        let len = usize::try_from(source.len() - at).unwrap_or(usize::MAX).min(STRETCH + look);
        let bytes = buffer.take(len);
        source.read_exact_at(bytes, at)?;
        let whole = len < STRETCH + look;
        let end = if whole { len } else { STRETCH };
        for place in 0..end {
            if fits(bytes.get(place..).unwrap_or_default(), at + place as u64) {
                return Ok(Some(at + place as u64));
            }
        }
        at += end as u64;
    }
    Ok(None)
}
