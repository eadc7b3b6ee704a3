//! ROS 1 bags: chunks by the index at the end, or by walking over the records where there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use super::{
    Block, Container, Each, Entry, Message, Topic, Window, add_loose, are_apart, damaged, not_closed, search, topics, unpack, unpacked,
    with_buffers,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::codec::Codec;
use crate::format::ros::bag::{ANY_MAGIC, ChunkInfo, Connection, Index, LONGEST_HEADER, MAGIC, Record, op};
use crate::format::ros::message::{Kind, Serial};
use crate::problem::{ProblemCode, Problems};
use crate::source::Source;

/// Most bytes of a record that lists something.
const LISTING: u64 = 64 << 20;

/// What is in a file, by its index or by a walk over its records.
#[derive(Debug, Default)]
struct Directory {
    entries: Vec<Entry<u32>>,
    connections: BTreeMap<u32, Connection>,
    counts: BTreeMap<u64, u64>,
    problems: Problems,
}

pub(crate) struct Bag {
    source: Arc<Source>,
    directory: Directory,
    topics: Vec<Topic>,
    compression: OnceLock<Codec>,
}

impl Bag {
    pub(crate) fn open(source: Source) -> Result<Self> {
        let head = source.head(MAGIC.len())?;
        if !head.starts_with(MAGIC) {
            let error = if head.starts_with(ANY_MAGIC) {
                Error::new(ErrorKind::Unsupported, "a ROS bag of another version")
                    .hint("`rosbag fix` or `rosbag migrate` make it one of version 2.0")
            } else {
                Error::format("not a ROS bag")
            };
            return Err(error.expecting("`#ROSBAG V2.0`").but_found(crate::format::looks_like(&head)).at(0));
        }
        let source = Arc::new(source);
        let directory = match indexed(&source)? {
            Ok(directory) => directory,
            Err(why) => {
                let mut directory = walk(&source)?;
                if why.is_none() {
                    not_closed(&mut directory.problems, source.len());
                }
                if let Some(why) = why {
                    let place = MAGIC.len() as u64;
                    directory.problems.add(ProblemCode::IndexMismatch, 1, 0, place, || {
                        format!("{why}: the records were walked over instead, at byte {place}")
                    });
                }
                directory
            }
        };
        let found = directory.connections.values().map(|connection| {
            let kind = Kind::of(&connection.type_name, &connection.definition);
            (u64::from(connection.id), connection.topic.clone(), connection.type_name.clone(), kind, Some(Serial::Ros1))
        });
        let topics = topics(found, Some(&directory.counts));
        Ok(Self { source, directory, topics, compression: OnceLock::new() })
    }

    fn codec(&self) -> Codec {
        *self.compression.get_or_init(|| {
            let first = self.directory.entries.iter().find(|entry| entry.block.chunk);
            let name = first.and_then(|entry| {
                let mut window = Window::new(&self.source);
                let (bytes, _) = record(&mut window, entry.block.start).ok()??;
                Record::parse(&bytes)?.header.text("compression")
            });
            name.and_then(|name| Codec::from_name(&name)).unwrap_or(Codec::None)
        })
    }
}

/// The header of the record at `offset` and the bytes of the whole record; `None` where there is none.
fn record(window: &mut Window<'_>, offset: u64) -> Result<Option<(Vec<u8>, u64)>> {
    let Some(len) = Record::head_len(window.at(offset, 4)?).filter(|len| *len <= LONGEST_HEADER) else { return Ok(None) };
    let head = window.at(offset, len)?;
    Ok(Record::parse(head).map(|record| (head.to_vec(), record.len())))
}

/// Bytes of a chunk's records once they are decompressed.
fn size(chunk: &Record<'_>) -> u64 {
    let codec = chunk.header.text("compression").and_then(|name| Codec::from_name(&name));
    unpacked(codec, chunk.len(), chunk.header.u32("size").unwrap_or(0).into())
}

/// The record at `offset` with its data, if the file has it and it is no longer than a listing may be.
fn whole(source: &Source, window: &mut Window<'_>, offset: u64) -> Result<Option<Vec<u8>>> {
    let Some((_, len)) = record(window, offset)? else { return Ok(None) };
    if len > source.len().saturating_sub(offset).min(LISTING) {
        return Ok(None);
    }
    usize::try_from(len).ok().map(|len| window.at(offset, len).map(<[u8]>::to_vec)).transpose()
}

/// The directory by the index at the end; why not, where it is there and does not hold.
fn indexed(source: &Source) -> Result<Result<Directory, Option<String>>> {
    let mut window = Window::new(source);
    let Some((head, _)) = record(&mut window, MAGIC.len() as u64)? else { return Ok(Err(None)) };
    let Some(header) = Record::parse(&head).filter(|record| record.op == op::BAG_HEADER) else { return Ok(Err(None)) };
    let (position, chunks) = (header.header.u64("index_pos").unwrap_or(0), header.header.u32("chunk_count").unwrap_or(0));
    if position == 0 {
        return Ok(Err(None));
    }
    let mut directory = Directory::default();
    let mut at = position;
    let mut infos: Vec<ChunkInfo> = Vec::new();
    while at < source.len() {
        let Some(bytes) = whole(source, &mut window, at)? else { break };
        let Some((record, data)) = Record::parse(&bytes).and_then(|record| Some((record, record.data(&bytes)?))) else { break };
        match record.op {
            op::CONNECTION => {
                let Some(connection) = Connection::parse(&record, data) else { break };
                directory.connections.insert(connection.id, connection);
            }
            op::CHUNK_INFO => {
                let Some(info) = ChunkInfo::parse(&record, data) else { break };
                infos.push(info);
            }
            _ => break,
        }
        at += record.len();
    }
    if at != source.len() || infos.len() != chunks as usize || chunks == 0 {
        return Ok(Err(Some(format!("the index at byte {position} is not there as a whole"))));
    }
    infos.sort_by_key(|info| info.offset);
    for info in infos {
        let Some((head, len)) = record(&mut window, info.offset)? else {
            return Ok(Err(Some(format!("the index says that a chunk is at byte {}", info.offset))));
        };
        let chunk = Record::parse(&head).filter(|record| record.op == op::CHUNK && info.offset + len <= position);
        let Some(chunk) = chunk else { return Ok(Err(Some(format!("the index says that a chunk is at byte {}", info.offset)))) };
        for (connection, count) in &info.counts {
            *directory.counts.entry((*connection).into()).or_default() += u64::from(*count);
        }
        directory.entries.push(Entry {
            block: Block {
                start: info.offset,
                len,
                offset: info.offset,
                bytes: size(&chunk),
                log_ns: Some((info.first_ns, info.last_ns)),
                chunk: true,
            },
            ids: Some(info.counts.iter().map(|(connection, _)| *connection).collect()),
        });
    }
    if !are_apart(directory.entries.iter().map(|entry| &entry.block)) {
        return Ok(Err(Some("the index names a chunk twice".to_owned())));
    }
    Ok(Ok(directory))
}

/// Whether a chunk starts here.
fn is_chunk(bytes: &[u8], left: u64) -> bool {
    let likely = Record::head_len(bytes).is_some_and(|len| (8..=256).contains(&len) && len as u64 <= left);
    likely
        && Record::parse(bytes).is_some_and(|record| {
            record.op == op::CHUNK && record.header.text("compression").is_some_and(|name| Codec::from_name(&name).is_some())
        })
}

/// The directory by a walk over all records. Chunks are opened only where their index does not tell what they have.
fn walk(source: &Arc<Source>) -> Result<Directory> {
    let mut directory = Directory::default();
    let mut loose: Vec<Block> = Vec::new();
    let mut window = Window::new(source);
    let mut at = MAGIC.len() as u64;
    while at < source.len() {
        let found = record(&mut window, at)?;
        let parsed = found.as_ref().and_then(|(head, len)| Record::parse(head).map(|record| (record, *len)));
        let Some((record, len)) = parsed else {
            let from = at;
            match search(source, at + 1, 256, |bytes, place| is_chunk(bytes, source.len() - place))? {
                Some(next) => at = next,
                None => at = source.len(),
            }
            damaged(&mut directory.problems, at - from, from, &format!("{} bytes that are no record", at - from));
            continue;
        };
        let there = len.min(source.len() - at);
        match record.op {
            op::CHUNK => {
                let block = Block { start: at, len: there, offset: at, bytes: size(&record), log_ns: None, chunk: true };
                directory.entries.push(Entry { block, ids: None });
            }
            op::MESSAGE if there == len => {
                let connection = record.header.u32("conn").unwrap_or(u32::MAX);
                *directory.counts.entry(connection.into()).or_default() += 1;
                add_loose(&mut loose, at, len, record.header.time("time").unwrap_or(0));
            }
            op::INDEX | op::CONNECTION => {
                if let Some(bytes) = whole(source, &mut window, at)?
                    && let Some((record, data)) = Record::parse(&bytes).and_then(|record| Some((record, record.data(&bytes)?)))
                {
                    if record.op == op::CONNECTION {
                        directory.connections.extend(Connection::parse(&record, data).map(|connection| (connection.id, connection)));
                    } else if let Some((index, entry)) = Index::parse(&record, data).zip(directory.entries.last_mut()) {
                        *directory.counts.entry(index.connection.into()).or_default() += index.messages;
                        entry.ids.get_or_insert_default().push(index.connection);
                        let ranges = entry.block.log_ns.into_iter().chain(index.range_ns);
                        entry.block.log_ns = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
                    }
                }
            }
            _ => {}
        }
        if there < len {
            let (offset, missing) = (at, len - there);
            directory.problems.add(ProblemCode::Truncated, 1, there, offset, || {
                format!("the file ends {missing} bytes before the end of the record at byte {offset}")
            });
        }
        at += there;
    }
    // Connections stand in the chunk where they are first used.
    for entry in &mut directory.entries {
        let unknown = entry.ids.as_ref().is_none_or(|has| has.iter().any(|id| !directory.connections.contains_key(id)));
        if !unknown {
            continue;
        }
        let counted = entry.ids.is_some();
        let mut seen = BTreeSet::new();
        let block = entry.block;
        open_chunk(source, &block, &mut Problems::default(), |record, data, _, _| {
            match record.op {
                op::CONNECTION => {
                    let connection = Connection::parse(&record, data);
                    directory.connections.extend(connection.map(|connection| (connection.id, connection)));
                }
                op::MESSAGE if !counted => {
                    if let Some((connection, time)) = record.header.u32("conn").zip(record.header.time("time")) {
                        *directory.counts.entry(connection.into()).or_default() += 1;
                        seen.insert(connection);
                        let (first, last) = entry.block.log_ns.unwrap_or((time, time));
                        entry.block.log_ns = Some((first.min(time), last.max(time)));
                    }
                }
                _ => {}
            }
            true
        })?;
        if !counted {
            entry.ids = Some(seen.into_iter().collect());
        }
    }
    Entry::add(&mut directory.entries, loose);
    Ok(directory)
}

/// Gives the records of a chunk or a stretch, as far as they are there and wanted: record, data, file offset of the data
/// and whether it stands there as it is.
fn open_chunk(
    source: &Source,
    block: &Block,
    problems: &mut Problems,
    mut each: impl FnMut(Record<'_>, &[u8], u64, bool) -> bool,
) -> Result<()> {
    with_buffers(|stored, records| {
        let bytes = stored.take(usize::try_from(block.len).unwrap_or(usize::MAX));
        source.read_exact_at(bytes, block.start)?;
        let bytes = &*bytes;
        let mut from = block.start;
        let mut plain = true;
        let content = if block.chunk {
            let Some(chunk) = Record::parse(bytes) else { return Ok(()) };
            let name = chunk.header.text("compression").unwrap_or_default();
            let Some(codec) = Codec::from_name(&name) else {
                damaged(problems, block.len, block.start, &format!("a chunk of unknown compression `{}`", name.escape_debug()));
                return Ok(());
            };
            let data = bytes.get(chunk.data_at..).unwrap_or_default();
            let size = chunk.header.u32("size").unwrap_or(0).into();
            let whole = data.len() as u64 == u64::from(chunk.data_len);
            (from, plain) = if codec == Codec::None { (from + chunk.data_at as u64, true) } else { (from, false) };
            let content = unpack(codec, data, size, records);
            if whole && codec != Codec::None && (content.len() as u64) < size {
                let lost = size - content.len() as u64;
                damaged(problems, block.len, block.start, &format!("a chunk whose last {lost} of {size} bytes cannot be decompressed"));
            }
            content
        } else {
            bytes
        };
        let mut at = 0;
        while at < content.len() {
            let rest = content.get(at..).unwrap_or_default();
            let Some((record, data)) = Record::parse(rest).and_then(|record| Some((record, record.data(rest)?))) else {
                let place = if plain { from + at as u64 } else { from };
                // The end of a file that was cut off is told where its records are listed.
                if block.start + block.len < source.len() || !plain {
                    damaged(
                        problems,
                        if plain { rest.len() as u64 } else { 0 },
                        place,
                        "a record that is not there as a whole, in a chunk",
                    );
                }
                break;
            };
            let offset = if plain { from + (at + record.data_at) as u64 } else { from };
            if !each(record, data, offset, plain) {
                break;
            }
            at += record.data_at + data.len();
        }
        Ok(())
    })
}

impl Container for Bag {
    fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn compression(&self) -> String {
        self.codec().name().to_owned()
    }

    fn blocks(&self, topic: &Topic) -> Result<(Vec<Block>, Problems)> {
        Ok((Entry::blocks(&self.directory.entries, topic), self.directory.problems.clone()))
    }

    fn visit(&self, block: &Block, topic: &Topic, _: bool, problems: &mut Problems, each: Each<'_>) -> Result<()> {
        open_chunk(&self.source, block, problems, |record, data, offset, plain| {
            let wanted = record.op == op::MESSAGE && record.header.u32("conn").is_some_and(|id| topic.ids.contains(&id.into()));
            !wanted || each(Message { data, log_ns: record.header.time("time").unwrap_or(0), offset, plain })
        })
    }

    fn metadata(&self) -> Vec<(String, String)> {
        vec![("container".to_owned(), "ROS 1 bag 2.0".to_owned())]
    }
}
