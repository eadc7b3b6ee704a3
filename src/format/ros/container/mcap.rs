//! MCAP files: chunks and channels by the summary, or by walking over the records where there is none.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{
    Block, Container, Each, Entry, Message, Topic, Unpacker, Window, add_loose, are_apart, damaged, not_closed, search, topics, unpack,
    unpacked, with_buffers,
};
use crate::error::{Error, Result};
use crate::format::codec::Codec;
use crate::format::ros::message::{Kind, Serial};
use crate::mcap::{
    self, Channel, Chunk, ChunkIndex, Footer, Header, MAGIC, MessageIndex, PREFIX, Records, Schema, Statistics, TAIL, crc32, op, prefix,
};
use crate::problem::{ProblemCode, Problems};
use crate::source::Source;

/// Most bytes of a summary, and of a schema or channel outside one.
const SUMMARY: u64 = 256 << 20;
const SMALL: u64 = 16 << 20;

/// What is in a file.
#[derive(Debug, Default)]
struct Directory {
    entries: Vec<Entry<u16>>,
    schemas: BTreeMap<u16, Schema>,
    channels: BTreeMap<u16, Channel>,
    counts: Option<BTreeMap<u64, u64>>,
    compression: Option<String>,
    problems: Problems,
}

pub(crate) struct Mcap {
    source: Arc<Source>,
    header: Option<Header>,
    directory: Directory,
    /// The stretches of messages of a file without chunks that has a summary: walked over when first needed.
    loose: OnceLock<Directory>,
    topics: Vec<Topic>,
}

impl Mcap {
    pub(crate) fn open(source: Source) -> Result<Self> {
        let head = source.head(MAGIC.len())?;
        if head != MAGIC {
            return Err(Error::format("not an MCAP file")
                .expecting("`\\x89MCAP0\\r\\n`")
                .but_found(crate::format::looks_like(&head))
                .at(0));
        }
        let source = Arc::new(source);
        let mut window = Window::new(&source);
        let header = record(&mut window, MAGIC.len() as u64, SMALL)?.filter(|(opcode, _)| *opcode == op::HEADER);
        let header = header.and_then(|(_, content)| Header::parse(&content));
        let directory = match summary(&source)? {
            Ok(directory) => directory,
            Err(why) => {
                let mut directory = walk(&source)?;
                if let Some((why, offset)) = why {
                    directory.problems.add(ProblemCode::IndexMismatch, 1, 0, offset, || {
                        format!("{why}: the records were walked over instead, at byte {offset}")
                    });
                }
                directory
            }
        };
        let found = directory.channels.values().map(|channel| {
            let schema = directory.schemas.get(&channel.schema);
            let type_name = schema.map(|schema| schema.name.clone()).unwrap_or_default();
            let serial = match channel.message_encoding.as_str() {
                "cdr" => Some(Serial::Cdr),
                "ros1" => Some(Serial::Ros1),
                _ => None,
            };
            // Definitions in other languages than that of `.msg` files are not looked into.
            let readable = schema.filter(|schema| matches!(schema.encoding.as_str(), "ros1msg" | "ros2msg"));
            let definition = readable.map(|schema| String::from_utf8_lossy(&schema.data).into_owned()).unwrap_or_default();
            let kind = if serial.is_some() { Kind::of(&type_name, &definition) } else { Kind::Other };
            (u64::from(channel.id), channel.topic.clone(), type_name, kind, serial)
        });
        let topics = topics(found, directory.counts.as_ref());
        Ok(Self { source, header, directory, loose: OnceLock::new(), topics })
    }

    /// The directory that has the blocks.
    fn with_blocks(&self) -> Result<&Directory> {
        if !self.directory.entries.is_empty() {
            return Ok(&self.directory);
        }
        if let Some(loose) = self.loose.get() {
            return Ok(loose);
        }
        let loose = walk(&self.source)?;
        Ok(self.loose.get_or_init(|| loose))
    }
}

/// The record at `offset`, if it is there as a whole and not longer than `most`.
fn record(window: &mut Window<'_>, offset: u64, most: u64) -> Result<Option<(u8, Vec<u8>)>> {
    let Some((opcode, len)) = prefix(window.at(offset, PREFIX)?).filter(|(_, len)| *len <= most) else { return Ok(None) };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let content = window.at(offset + PREFIX as u64, len)?;
    Ok((content.len() == len).then(|| (opcode, content.to_vec())))
}

/// What the summary says; why it does not do, and where, if there is one.
fn summary(source: &Arc<Source>) -> Result<Result<Directory, Option<(String, u64)>>> {
    let tail_at = source.len().saturating_sub(TAIL as u64);
    let mut tail = vec![0; (source.len() - tail_at) as usize];
    source.read_exact_at(&mut tail, tail_at)?;
    let Some(footer) = Footer::from_tail(&tail).filter(|footer| footer.summary_start != 0) else { return Ok(Err(None)) };
    let start = footer.summary_start;
    let fails = |why: &str| Ok(Err(Some((why.to_owned(), start.min(tail_at)))));
    if start > tail_at || tail_at - start > SUMMARY {
        return fails("the summary is said to be outside the file");
    }
    let mut bytes = vec![0; (source.len() - start) as usize];
    source.read_exact_at(&mut bytes, start)?;
    if !footer.holds(&bytes) {
        return fails("the checksum of the summary is wrong");
    }
    let mut directory = Directory::default();
    let mut statistics = None;
    let mut chunks = 0;
    let mut records = Records::new(bytes.get(..(tail_at - start) as usize).unwrap_or_default());
    for record in &mut records {
        match record.opcode {
            op::STATISTICS => statistics = Statistics::parse(record.content),
            op::CHUNK_INDEX => {
                let Some(index) = ChunkIndex::parse(record.content).filter(|index| index.offset.saturating_add(index.len) <= start) else {
                    return fails("the summary says that a chunk is outside the file");
                };
                chunks += 1;
                let bytes = unpacked(Codec::from_name(&index.compression), index.len, index.size);
                directory.compression.get_or_insert(index.compression);
                let block = Block {
                    start: index.offset,
                    len: index.len,
                    offset: index.offset,
                    bytes,
                    log_ns: Some((index.first_ns, index.last_ns)),
                    chunk: true,
                };
                directory.entries.push(Entry { block, ids: Some(index.channels).filter(|channels| !channels.is_empty()) });
            }
            _ => keep(&mut directory, record.opcode, record.content),
        }
    }
    let Some(statistics) = statistics else { return fails("the summary has no statistics") };
    let whole = records.consumed() as u64 == tail_at - start && chunks == statistics.chunks;
    let listed = statistics.channels.iter().all(|(id, _)| directory.channels.contains_key(id));
    if !whole || !listed || (statistics.messages > 0 && directory.channels.is_empty()) {
        return fails("the summary does not list all chunks and channels");
    }
    directory.entries.sort_by_key(|entry| entry.block.start);
    if !are_apart(directory.entries.iter().map(|entry| &entry.block)) {
        return fails("the summary names a chunk twice");
    }
    directory.counts = Some(statistics.channels.into_iter().map(|(id, count)| (id.into(), count)).collect());
    // Statistics may leave out the channels.
    if statistics.messages > 0 && directory.counts.as_ref().is_some_and(BTreeMap::is_empty) {
        directory.counts = None;
    }
    Ok(Ok(directory))
}

/// Takes a schema or a channel.
fn keep(directory: &mut Directory, opcode: u8, content: &[u8]) {
    match opcode {
        op::SCHEMA => directory.schemas.extend(Schema::parse(content).map(|schema| (schema.id, schema))),
        op::CHANNEL => directory.channels.extend(Channel::parse(content).map(|channel| (channel.id, channel))),
        _ => {}
    }
}

/// Whether a chunk starts here.
fn is_chunk(bytes: &[u8], left: u64) -> bool {
    let Some((op::CHUNK, len)) = prefix(bytes) else { return false };
    len <= left
        && bytes.get(PREFIX..).and_then(Chunk::parse).is_some_and(|chunk| {
            let head = 40 + chunk.compression.len() as u64;
            Codec::from_name(&chunk.compression).is_some() && chunk.stored.checked_add(head) == Some(len)
        })
}

/// The directory by a walk over all records. Chunks are opened only where no index behind them tells what they have, or
/// a channel is not known.
fn walk(source: &Arc<Source>) -> Result<Directory> {
    let mut directory = Directory::default();
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let mut loose: Vec<Block> = Vec::new();
    let mut window = Window::new(source);
    let mut at = MAGIC.len() as u64;
    // The magic at the end is no record.
    let mut tail = [0; 8];
    let ends = source.len() >= 2 * MAGIC.len() as u64 && {
        source.read_exact_at(&mut tail, source.len() - MAGIC.len() as u64)?;
        tail == MAGIC
    };
    let end = source.len() - if ends { MAGIC.len() as u64 } else { 0 };
    while at < end {
        let found = prefix(window.at(at, PREFIX)?).filter(|(opcode, _)| (op::HEADER..=op::DATA_END).contains(opcode) || *opcode >= 0x80);
        let Some((opcode, len)) = found else {
            let from = at;
            let left = end - at;
            at = search(source, at + 1, PREFIX + Chunk::HEAD, |bytes, place| is_chunk(bytes, end.saturating_sub(place)))?.unwrap_or(end);
            if left < PREFIX as u64 {
                directory
                    .problems
                    .add(ProblemCode::Truncated, 1, left, from, || format!("{left} bytes of an unfinished record at byte {from}"));
            } else {
                damaged(&mut directory.problems, at - from, from, &format!("{} bytes that are no record", at - from));
            }
            continue;
        };
        let whole = len.saturating_add(PREFIX as u64);
        let there = whole.min(end - at);
        match opcode {
            op::CHUNK => {
                let block = Block { start: at, len: there, offset: at, bytes: there, log_ns: None, chunk: true };
                directory.entries.push(Entry { block, ids: None });
                if let Some(chunk) = Chunk::parse(window.at(at + PREFIX as u64, Chunk::HEAD)?) {
                    if let Some(entry) = directory.entries.last_mut() {
                        entry.block.log_ns = Some((chunk.first_ns, chunk.last_ns));
                        entry.block.bytes = unpacked(Codec::from_name(&chunk.compression), there, chunk.size);
                    }
                    directory.compression.get_or_insert(chunk.compression);
                }
            }
            op::MESSAGE if there == whole => {
                let head = window.at(at + PREFIX as u64, mcap::Message::HEAD)?;
                if let Some(message) = mcap::Message::parse(head) {
                    *counts.entry(message.channel.into()).or_default() += 1;
                    add_loose(&mut loose, at, whole, message.log_ns);
                }
            }
            op::SCHEMA | op::CHANNEL | op::MESSAGE_INDEX if there == whole => {
                if let Some((opcode, content)) = record(&mut window, at, SMALL)? {
                    match (MessageIndex::parse(&content).filter(|_| opcode == op::MESSAGE_INDEX), directory.entries.last_mut()) {
                        (Some(index), Some(entry)) => {
                            *counts.entry(index.channel.into()).or_default() += index.messages;
                            entry.ids.get_or_insert_default().push(index.channel);
                        }
                        _ => keep(&mut directory, opcode, &content),
                    }
                }
            }
            // What follows repeats what was there.
            op::DATA_END => break,
            _ => {}
        }
        if there < whole {
            let offset = at;
            directory.problems.add(ProblemCode::Truncated, 1, there, offset, || {
                format!("the file ends {} bytes before the end of the record at byte {offset}", whole - there)
            });
        }
        at += there;
    }
    if !ends {
        not_closed(&mut directory.problems, source.len());
    }
    let mut entries = std::mem::take(&mut directory.entries);
    for entry in &mut entries {
        let unknown = entry.ids.as_ref().is_none_or(|has| has.iter().any(|id| !directory.channels.contains_key(id)));
        if !unknown {
            continue;
        }
        let mut seen = Vec::new();
        open_block(source, &entry.block, false, &mut Problems::default(), |opcode, content, _, _| {
            match opcode {
                op::MESSAGE => seen.extend(mcap::Message::parse(content).map(|message| message.channel)),
                _ => keep(&mut directory, opcode, content),
            }
            true
        })?;
        if entry.ids.is_none() {
            for channel in &seen {
                *counts.entry((*channel).into()).or_default() += 1;
            }
            seen.sort_unstable();
            seen.dedup();
            entry.ids = Some(seen);
        }
    }
    Entry::add(&mut entries, loose);
    directory.entries = entries;
    directory.counts = Some(counts);
    Ok(directory)
}

/// Gives the records of a chunk or a stretch, as far as they are there and wanted: opcode, content, file offset of the
/// content and whether it stands there as it is.
fn open_block(
    source: &Source,
    block: &Block,
    check: bool,
    problems: &mut Problems,
    mut each: impl FnMut(u8, &[u8], u64, bool) -> bool,
) -> Result<()> {
    with_buffers(|stored, records| {
        let bytes = stored.take(usize::try_from(block.len).unwrap_or(usize::MAX));
        source.read_exact_at(bytes, block.start)?;
        let bytes = &*bytes;
        let mut from = block.start;
        let mut plain = true;
        let mut cut = false;
        let content = if block.chunk {
            let content = bytes.get(PREFIX..).unwrap_or_default();
            let whole = prefix(bytes).is_some_and(|(opcode, len)| opcode == op::CHUNK && len == content.len() as u64);
            let Some(chunk) = Chunk::parse(content) else {
                if whole {
                    damaged(problems, block.len, block.start, "a chunk without a head");
                }
                return Ok(());
            };
            let Some(codec) = Codec::from_name(&chunk.compression) else {
                damaged(
                    problems,
                    block.len,
                    block.start,
                    &format!("a chunk of unknown compression `{}`", chunk.compression.escape_debug()),
                );
                return Ok(());
            };
            cut = !whole;
            let head = 40 + chunk.compression.len() as u64;
            (from, plain) = if codec == Codec::None { (from + PREFIX as u64 + head, true) } else { (from, false) };
            // No more than what the index says: so many blocks are loaded side by side as that allows.
            let content = unpack(codec, chunk.records, chunk.size.min(block.bytes), records);
            if whole && (content.len() as u64) < chunk.size {
                let lost = chunk.size - content.len() as u64;
                damaged(
                    problems,
                    block.len,
                    block.start,
                    &format!("a chunk whose last {lost} of {} bytes cannot be decompressed", chunk.size),
                );
            } else if whole && check && chunk.crc != 0 && crc32(content) != chunk.crc {
                damaged(problems, block.len, block.start, "a chunk whose checksum is wrong");
                return Ok(());
            }
            content
        } else {
            bytes
        };
        let mut found = Records::new(content);
        for record in &mut found {
            let place = record.at + PREFIX;
            if !each(record.opcode, record.content, if plain { from + place as u64 } else { from }, plain) {
                return Ok(());
            }
        }
        let rest = content.len() - found.consumed();
        if rest > 0 && !cut {
            let place = if plain { from + found.consumed() as u64 } else { from };
            damaged(problems, if plain { rest as u64 } else { 0 }, place, "a record that is not there as a whole, in a chunk");
        }
        Ok(())
    })
}

impl Container for Mcap {
    fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn compression(&self) -> String {
        match self.directory.compression.as_deref() {
            None | Some("") => "none".to_owned(),
            Some(name) => name.to_owned(),
        }
    }

    fn blocks(&self, topic: &Topic) -> Result<(Vec<Block>, Problems)> {
        let directory = self.with_blocks()?;
        Ok((Entry::blocks(&directory.entries, topic), directory.problems.clone()))
    }

    fn visit(&self, block: &Block, topic: &Topic, check: bool, problems: &mut Problems, each: Each<'_>) -> Result<()> {
        let mut unpacker = Unpacker::new(block);
        open_block(&self.source, block, check, problems, |opcode, content, offset, plain| {
            let message =
                mcap::Message::parse(content).filter(|message| opcode == op::MESSAGE && topic.ids.contains(&message.channel.into()));
            message.is_none_or(|message| {
                let offset = if plain { offset + mcap::Message::HEAD as u64 } else { offset };
                let message = Message { data: message.data, log_ns: message.log_ns, offset, plain };
                // Messages of ROS 1 start with any number.
                each(if topic.serial == Some(Serial::Cdr) { unpacker.message(message) } else { message })
            })
        })
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let mut facts = vec![("container".to_owned(), "MCAP".to_owned())];
        if let Some(header) = &self.header {
            facts.push(("profile".to_owned(), header.profile.clone()));
            facts.push(("library".to_owned(), header.library.clone()));
        }
        facts
    }
}
