//! AEDAT 4.0: packets of flatbuffers, compressed one by one, of several streams that the header describes.
//!
//! | bytes | content |
//! |---|---|
//! | 14 | `#!AER-DAT4.0\r\n` |
//! | 4 + n | n, flatbuffer `IOHE`: codec, place of the table of packets, description of the streams in XML |
//! | 8 + n, again and again | number of the stream, n, a packet |
//! | to the end | flatbuffer `FTAB`, the table of packets: may be missing |
//!
//! <https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-4.0.html>

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use crate::columns::Slots;
use crate::error::{Error, ErrorKind, Result};
use crate::problem::{ProblemCode, Problems};
use crate::recording::StreamKind;
use crate::schema::{Column, Columns, Geometry};
use crate::side::{Frame, ImuSample};
use crate::simd;
use crate::source::Source;

use super::codec::{self, Codec};
use super::flatbuffer::{Buffer, Table, i32_at, i64_at, u32_at};
use super::packets::{Block, Container, Directory, Place, SideRows, Window, damaged};

/// First bytes of the file.
pub(crate) const MAGIC: &[u8; 14] = b"#!AER-DAT4.0\r\n";
/// Largest header.
const LARGEST_HEADER: u32 = 64 << 20;
/// Bytes of an event: time i64, x i16, y i16, polarity u8, padding.
const EVENT: usize = 16;
/// Bytes of a packet that are looked at to tell how many events it has.
const PEEK: usize = 256;
/// Decompressed bytes that a packet needs to have its count.
const COUNT_WITHIN: usize = 64;
/// Bytes that a packet may claim to become, times its own, without being decompressed to see.
const PLAUSIBLE: usize = 32;
/// Bytes of a packet before the events, at least.
const PROLOGUE: usize = 28;
/// Places at which a table is looked for that the header does not know of.
const TABLES: usize = 4;
/// Bytes searched at a time for the next packet.
const SEARCH: usize = 1 << 20;
/// Most streams that packets alone tell of.
const DISCOVERED: usize = 256;
/// Most packets that are unpacked to see what their streams hold.
const TRIES: usize = 256;

/// A stream that the header describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) id: i32,
    /// Name of the output that it records, of the module that made it, and of the camera.
    pub(crate) output: String,
    pub(crate) module: String,
    pub(crate) source: String,
    /// Four letters.
    pub(crate) kind: String,
    pub(crate) geometry: Option<Geometry>,
}

/// What stands before the packets.
#[derive(Debug)]
pub(crate) struct Preamble {
    pub(crate) codec: Codec,
    /// Where the table of packets should be.
    pub(crate) table: Option<u64>,
    /// Byte at which the packets start.
    pub(crate) start: u64,
    pub(crate) streams: Vec<Described>,
    /// Attributes of the description, by their path.
    pub(crate) attributes: Vec<(String, String)>,
}

impl Preamble {
    pub(crate) fn read(source: &Source) -> Result<Self> {
        let cut_short =
            |at: u64| Error::format("the file ends before its packets").expecting("a header").but_found("the end of the file").at(at);
        let start = MAGIC.len() as u64;
        if source.len() < start + 4 {
            return Err(cut_short(source.len()));
        }
        let mut size = [0; 4];
        source.read_exact_at(&mut size, start)?;
        let size = u32::from_le_bytes(size);
        if size > LARGEST_HEADER {
            let error = Error::format("size of the header out of range").expecting(format!("at most {LARGEST_HEADER} bytes"));
            return Err(error.but_found(size.to_string()).at(start));
        }
        let end = start + 4 + u64::from(size);
        if end > source.len() {
            return Err(cut_short(source.len()));
        }
        let mut bytes = vec![0; 4 + size as usize];
        source.read_exact_at(&mut bytes, start)?;
        let buffer = Buffer::new(&bytes);
        let root = buffer.root().filter(|_| buffer.identifier() == Some(*b"IOHE")).ok_or_else(|| {
            Error::format("the header of AEDAT 4.0 is damaged").expecting("a flatbuffer `IOHE`").but_found("other bytes").at(start)
        })?;
        let number = root.i32(0).unwrap_or(0);
        let codec = Codec::from_header(number).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "unknown compression").expecting("0 to 4").but_found(number.to_string()).at(start)
        })?;
        let table = root.i64(1).and_then(|at| u64::try_from(at).ok());
        let xml = String::from_utf8_lossy(root.bytes(2).unwrap_or_default()).into_owned();
        let mut preamble = Self { codec, table, start: end, streams: Vec::new(), attributes: Vec::new() };
        preamble.describe(&xml).map_err(|what| Error::format(format!("the description of the streams is damaged: {what}")).at(start))?;
        Ok(preamble)
    }

    /// Reads the description of the streams.
    fn describe(&mut self, xml: &str) -> Result<(), String> {
        let xml = xml.trim_matches(['\0', ' ', '\n', '\r', '\t']);
        if xml.is_empty() {
            return Ok(());
        }
        let document = roxmltree::Document::parse(xml).map_err(|error| error.to_string())?;
        let nodes = |node: roxmltree::Node<'_, '_>| {
            let name = node.attribute("name");
            name.filter(|_| node.has_tag_name("node")).map(str::to_owned)
        };
        for node in document.descendants().filter(|node| node.has_tag_name("attr")) {
            let mut path: Vec<_> = node.ancestors().filter_map(nodes).collect();
            path.reverse();
            path.push(node.attribute("key").unwrap_or_default().to_owned());
            self.attributes.push((path.join("/"), node.text().unwrap_or_default().trim().to_owned()));
        }
        let streams = document.descendants().find(|node| node.has_tag_name("node") && node.attribute("name") == Some("outInfo"));
        for node in streams.into_iter().flat_map(|node| node.children()) {
            let Some(id) = nodes(node).and_then(|name| name.parse().ok()) else { continue };
            let attribute = |key: &str| {
                let found = node.descendants().find(|attr| attr.has_tag_name("attr") && attr.attribute("key") == Some(key));
                found.and_then(|attr| attr.text()).unwrap_or_default().trim().to_owned()
            };
            let size = |key: &str| attribute(key).parse::<u32>().ok();
            self.streams.push(Described {
                id,
                output: attribute("originalOutputName"),
                module: attribute("originalModuleName"),
                source: attribute("source"),
                kind: attribute("typeIdentifier"),
                geometry: size("sizeX").zip(size("sizeY")).and_then(|(width, height)| Geometry::new(width, height).ok()),
            });
        }
        Ok(())
    }
}

/// What a stream or packet of that type holds.
fn kind_of(letters: &[u8]) -> StreamKind {
    match letters {
        b"EVTS" => StreamKind::Events,
        b"FRME" => StreamKind::Frames,
        b"IMUS" => StreamKind::Imu,
        b"TRIG" => StreamKind::Triggers,
        _ => StreamKind::Other,
    }
}

impl Described {
    pub(crate) fn stream_kind(&self) -> StreamKind {
        kind_of(self.kind.as_bytes())
    }

    /// Whether jAER wrote it, whose rows count from the bottom and whose times wrap.
    pub(crate) fn is_jaer(&self) -> bool {
        self.module.eq_ignore_ascii_case("jaer")
    }
}

/// The packets of a file.
pub(crate) struct V4 {
    pub(crate) codec: Codec,
    pub(crate) start: u64,
    pub(crate) table: Option<u64>,
    /// Numbers of the streams; the position in this list is the number in the directory.
    pub(crate) streams: Vec<i32>,
    /// Position of the stream of events that is read.
    pub(crate) events: Option<usize>,
    /// Pixels that events may have.
    pub(crate) width: u16,
    pub(crate) height: u16,
    /// Rows count from the bottom, of so many.
    pub(crate) flip: Option<u16>,
    /// Times are 32 bits with their sign extended.
    pub(crate) wraps: bool,
}

/// What stands at a place where a packet header should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A packet of the stream at this position, and its size.
    Packet(usize, u32),
    /// A packet of a stream that the header does not describe.
    Foreign(u32),
    /// Nothing that a packet starts with.
    Nothing,
}

impl V4 {
    /// Looks at a packet header and what follows it; `left` bytes of the file are there.
    fn look(&self, bytes: &[u8], left: u64) -> Found {
        let (Some(id), Some(size)) = (i32_at(bytes, 0), i32_at(bytes, 4)) else { return Found::Nothing };
        let Ok(size) = u32::try_from(size) else { return Found::Nothing };
        if u64::from(size) + 8 > left || !self.starts_packet(bytes.get(8..).unwrap_or_default(), size) {
            return Found::Nothing;
        }
        match self.streams.iter().position(|known| *known == id) {
            Some(position) => Found::Packet(position, size),
            None => Found::Foreign(size),
        }
    }

    /// Whether a packet of `size` bytes can start with `bytes`.
    fn starts_packet(&self, bytes: &[u8], size: u32) -> bool {
        match self.codec {
            Codec::None => {
                let letters = bytes.get(8..12).unwrap_or_default();
                let prefix = u32_at(bytes, 0).map(|prefix| prefix.saturating_add(4));
                letters.len() == 4 && letters.iter().all(u8::is_ascii_alphanumeric) && prefix.is_some_and(|prefix| prefix <= size)
            }
            codec => Codec::of(bytes) == codec,
        }
    }

    /// The next place at or after `from` where a packet starts, and another one or the end follows it.
    fn search(&self, window: &mut Window<'_>, from: u64, end: u64) -> Result<Option<u64>> {
        // From the header to the last byte that is looked at.
        const REACH: usize = 8 + 12;
        let mut at = from;
        while at + 8 < end {
            let len = usize::try_from(end - at).unwrap_or(SEARCH).min(SEARCH);
            let bytes = window.at(at, len)?.to_vec();
            let last = at + len as u64 == end;
            let places = if last { len } else { len.saturating_sub(REACH) };
            for place in 0..places {
                let rest = bytes.get(place..).unwrap_or_default();
                let offset = at + place as u64;
                if let Found::Packet(_, size) = self.look(rest, end - offset) {
                    let next = offset + 8 + u64::from(size);
                    let follows = next == end || self.look(window.at(next, REACH)?, end - next) != Found::Nothing;
                    if follows {
                        return Ok(Some(offset));
                    }
                }
            }
            if last || places == 0 {
                break;
            }
            at += places as u64;
        }
        Ok(None)
    }

    /// The table of packets, if it is at `offset`.
    fn table_at(source: &Source, window: &mut Window<'_>, offset: u64) -> Result<Option<Vec<u8>>> {
        let left = source.len().saturating_sub(offset);
        let head = window.at(offset, 16)?;
        let codec = Codec::of(head);
        let plain = head.get(8..12) == Some(b"FTAB");
        if !(plain || codec != Codec::None) || left > codec::LARGEST as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; left as usize];
        source.read_exact_at(&mut bytes, offset)?;
        let bytes = if plain { Some(bytes) } else { codec::decode(codec, &bytes) };
        Ok(bytes.filter(|bytes| {
            let whole = u32_at(bytes, 0).is_some_and(|len| len as usize <= bytes.len().saturating_sub(4));
            whole && Buffer::new(bytes).identifier() == Some(*b"FTAB")
        }))
    }

    /// How many events a packet has, or more, and the time of the first where that is plain to see; `None` where it
    /// has to be decompressed to know.
    ///
    /// `head` are its first bytes, and it has `size` in all.
    fn claim(&self, head: &[u8], size: usize) -> Option<(usize, Option<i64>)> {
        let most = size.saturating_mul(PLAUSIBLE);
        let (count, first) = if self.codec == Codec::Zstd {
            let content = codec::content_size(self.codec, head)?;
            let rows = content.saturating_sub(PROLOGUE) / EVENT;
            ((rows > 0 && content <= most).then_some(rows)?, None)
        } else {
            let start = codec::peek(self.codec, head, COUNT_WITHIN);
            let (at, count) = Buffer::new(&start).root()?.vector(0)?;
            (count, i64_at(&start, at))
        };
        (count.checked_mul(EVENT)? <= most).then_some((count, first))
    }

    /// The four letters that say what a packet holds; `None` where it is damaged.
    fn letters(&self, source: &Source, place: Place) -> Result<Option<[u8; 4]>> {
        let whole = self.codec == Codec::Zstd;
        let mut packet = vec![0; if whole { place.len as usize } else { (place.len as usize).min(8 + PEEK) }];
        source.read_exact_at(&mut packet, place.offset)?;
        let payload = packet.get(8..).unwrap_or_default();
        Ok(if whole {
            codec::with_decoded(self.codec, payload, |bytes| Buffer::new(bytes).identifier()).flatten()
        } else {
            Buffer::new(&codec::peek(self.codec, payload, COUNT_WITHIN)).identifier()
        })
    }

    /// Adds the streams that the header does not describe, or not what they hold, to those that it does: every packet
    /// says itself what it holds. Whether there are any.
    pub(crate) fn discover(source: &Source, preamble: &mut Preamble) -> Result<bool> {
        let packets = Self {
            codec: preamble.codec,
            start: preamble.start,
            table: preamble.table,
            streams: preamble.streams.iter().filter(|stream| !stream.kind.is_empty()).map(|stream| stream.id).collect(),
            events: None,
            width: 0,
            height: 0,
            flip: None,
            wraps: false,
        };
        let mut window = Window::new(source);
        let (mut at, end) = (packets.start, source.len());
        let mut found: BTreeMap<i32, String> = BTreeMap::new();
        let mut tries = 0;
        while at < end {
            let head = window.at(at, 8 + PEEK)?;
            let id = i32_at(head, 0).unwrap_or(-1);
            let size = match packets.look(head, end - at) {
                Found::Packet(_, size) => size,
                Found::Foreign(size) => {
                    let place = Place { offset: at, len: size.saturating_add(8) };
                    let unknown = tries < TRIES && found.len() < DISCOVERED && !found.contains_key(&id);
                    tries += usize::from(unknown);
                    if unknown
                        && let Some(letters) = packets.letters(source, place)?
                        && letters.iter().all(u8::is_ascii_alphanumeric)
                    {
                        found.insert(id, String::from_utf8_lossy(&letters).into_owned());
                    }
                    size
                }
                Found::Nothing => {
                    let Some(next) = packets.search(&mut window, at + 1, end)? else { break };
                    at = next;
                    continue;
                }
            };
            at += 8 + u64::from(size);
        }
        let any = !found.is_empty();
        for (id, kind) in found {
            match preamble.streams.iter_mut().find(|stream| stream.id == id) {
                Some(stream) => stream.kind = kind,
                None => preamble.streams.push(Described { id, kind, ..Described::default() }),
            }
        }
        Ok(any)
    }

    /// Whether the payload of `size` bytes at `start` is one Zstandard frame, by the headers of its blocks; `frame` are
    /// the bytes before and after these. Of several frames only the first says what it becomes.
    fn is_one_frame(window: &mut Window<'_>, frame: Option<(u64, u64)>, start: u64, size: u32) -> Result<bool> {
        let Some((mut at, checksum)) = frame else { return Ok(false) };
        while at < u64::from(size) {
            let Some([a, b, c]) = window.at(start + at, 3)?.first_chunk::<3>() else { break };
            let block = u32::from_le_bytes([*a, *b, *c, 0]);
            // One byte repeated, or as many bytes as it says.
            at += 3 + if block >> 1 & 3 == 1 { 1 } else { u64::from(block >> 3) };
            if block & 1 == 1 {
                return Ok(at + checksum == u64::from(size));
            }
        }
        Ok(false)
    }

    /// The events of a decompressed packet, and how many it claims to have.
    fn events(bytes: &[u8]) -> Option<(&[[u8; EVENT]], usize)> {
        // What follows the buffer is padding.
        let bytes = bytes.get(..(u32_at(bytes, 0)? as usize).saturating_add(4)).unwrap_or(bytes);
        let root = root(bytes, *b"EVTS")?;
        match root.elements(0, EVENT) {
            Some((elements, count)) => Some((elements.as_chunks().0, count)),
            // A packet without events may have no vector.
            None => root.lacks(0).then_some((&[], 0)),
        }
    }

    /// Gives the events of a packet to `work`; `None` where it is damaged.
    fn with_events<R>(&self, packet: &[u8], work: impl FnOnce(&[[u8; EVENT]], usize) -> R) -> Option<R> {
        let payload = packet.get(8..)?;
        codec::with_decoded(self.codec, payload, |bytes| Self::events(bytes).map(|(events, count)| work(events, count))).flatten()
    }

    /// Finds the wraps of 32-bit times, packet by packet in file order.
    fn unwrap_times(&self, source: &Source, directory: &mut Directory) -> Result<()> {
        let steps: Vec<_> = directory
            .blocks
            .par_iter()
            .map(|block| {
                let mut packet = vec![0; block.place.len as usize];
                source.read_exact_at(&mut packet, block.place.offset)?;
                Ok(self.with_events(&packet, |events, _| {
                    let first = events.first().and_then(|event| i64_at(event, 0));
                    let mut wraps = Wraps::default();
                    let last = events.iter().filter_map(|event| i64_at(event, 0)).map(|t| wraps.tick(t)).last();
                    (first, last.map(|_| wraps.last), wraps.ahead)
                }))
            })
            .collect::<Result<_>>()?;
        let (mut ahead, mut before): (i64, Option<i64>) = (0, None);
        for (block, step) in directory.blocks.iter_mut().zip(steps) {
            let Some((Some(first), Some(last), wrapped)) = step else { continue };
            ahead += Wraps::step(before, first);
            block.ahead = ahead;
            ahead += wrapped;
            before = Some(last);
        }
        Ok(())
    }

    /// The times of blocks by the table of packets, if it describes exactly these packets, in time order, with the
    /// `first` times that they have.
    fn times(&self, table: &[u8], directory: &Directory, first: &[Option<i64>]) -> Option<Vec<(i64, i64)>> {
        let entries = Buffer::new(table).root()?.tables(0)?;
        let events = *self.streams.get(self.events?)?;
        let mut times: Vec<(i64, i64)> = Vec::new();
        let mut blocks = directory.blocks.iter().zip(first);
        for entry in entries {
            let entry = entry?;
            let info: [u8; 8] = entry.inline(1)?;
            let count = entry.i64(2).unwrap_or(0);
            if i32_at(&info, 0)? != events || count == 0 {
                continue;
            }
            let (block, first) = blocks.next()?;
            let offset = u64::try_from(entry.i64(0)?).ok()?;
            let (start, end) = (entry.i64(3)?, entry.i64(4)?);
            // The place is that of the payload, or of the packet header in files that jAER wrote.
            let fits = (offset == block.place.offset + 8 || offset == block.place.offset)
                && i64::from(i32_at(&info, 4)?) + 8 == i64::from(block.place.len)
                && count == i64::from(block.rows)
                && start <= end
                && *first == Some(start)
                && times.last().is_none_or(|(_, before)| *before <= start);
            if !fits {
                return None;
            }
            times.push((start, end));
        }
        blocks.next().is_none().then_some(times)
    }
}

/// Undoes the wraps of times that were stored in 32 bits.
#[derive(Debug, Clone, Copy, Default)]
struct Wraps {
    last: i64,
    started: bool,
    ahead: i64,
}

impl Wraps {
    /// Microseconds that the clock gained between two times.
    fn step(before: Option<i64>, now: i64) -> i64 {
        match before {
            Some(before) if before.saturating_sub(now) > 1 << 31 => 1 << 32,
            _ => 0,
        }
    }

    fn tick(&mut self, t: i64) -> i64 {
        self.ahead += Self::step(self.started.then_some(self.last), t);
        (self.last, self.started) = (t, true);
        t.saturating_add(self.ahead)
    }
}

impl Container for V4 {
    fn walk(&self, source: &Source) -> Result<Directory> {
        let mut directory = Directory::default();
        let mut window = Window::new(source);
        let (mut at, mut end) = (self.start, source.len());
        let mut table = None;
        // A table that is where the header says ends the packets.
        if let Some(place) = self.table.filter(|place| (self.start..end).contains(place)) {
            table = Self::table_at(source, &mut window, place)?;
            if table.is_some() {
                end = place;
            }
        }
        let lying = self.table.is_some() && table.is_none();
        // Where packets of events are, how many rows they have, and their first time.
        let mut blocks: Vec<(Place, Option<usize>, Option<i64>)> = Vec::new();
        // Packets of streams that the header does not describe.
        let mut foreign: Vec<Place> = Vec::new();
        let mut tables_looked_for = 0;
        while at < end {
            let left = end - at;
            let head = window.at(at, 8 + PEEK)?;
            let (position, size) = match self.look(head, left) {
                Found::Packet(position, size) => (position, size),
                Found::Foreign(size) => {
                    foreign.push(Place { offset: at, len: size.saturating_add(8) });
                    at += 8 + u64::from(size);
                    continue;
                }
                Found::Nothing => {
                    tables_looked_for += 1;
                    if table.is_none()
                        && tables_looked_for <= TABLES
                        && let Some(found) = Self::table_at(source, &mut window, at)?
                    {
                        // A table that the header does not know of.
                        table = Some(found);
                        break;
                    }
                    let next = self.search(&mut window, at + 1, end)?;
                    let to = next.unwrap_or(end);
                    if next.is_none() && table.is_none() {
                        directory.truncated(at, to - at);
                    } else {
                        directory.damaged(at, to - at, "no packet");
                    }
                    at = to;
                    continue;
                }
            };
            let place = Place { offset: at, len: size.saturating_add(8) };
            if Some(position) == self.events {
                let payload = head.get(8..).unwrap_or_default();
                let payload = payload.get(..size as usize).unwrap_or(payload);
                let (mut rows, first) = self.claim(payload, size as usize).unzip();
                if self.codec == Codec::Zstd && rows.is_some() {
                    let frame = codec::zstd_frame(payload);
                    if !Self::is_one_frame(&mut window, frame, at + 8, size)? {
                        rows = None;
                    }
                }
                blocks.push((place, rows, first.flatten()));
            } else {
                directory.sides.push((position as u16, place));
            }
            at += 8 + u64::from(size);
        }
        let letters: Vec<_> = foreign.par_iter().map(|place| self.letters(source, *place)).collect::<Result<_>>()?;
        for (place, letters) in foreign.iter().zip(letters) {
            // Other types are no loss: they are not read where the header describes them either.
            if letters.is_none_or(|letters| kind_of(&letters) != StreamKind::Other) {
                directory.damaged(place.offset, place.len.into(), "packet of a stream that the header does not describe");
            }
        }
        // Those that have to be decompressed to know.
        blocks.par_iter_mut().filter(|(_, rows, _)| rows.is_none()).try_for_each(|(place, rows, _)| {
            let mut packet = vec![0; place.len as usize];
            source.read_exact_at(&mut packet, place.offset)?;
            let count = |events: &[[u8; EVENT]], claimed: usize| (claimed == 0 || !events.is_empty()).then_some(events.len());
            *rows = self.with_events(&packet, count).flatten();
            Ok::<_, Error>(())
        })?;
        let mut first_times = Vec::new();
        for (place, rows, first) in blocks {
            match rows.map(u32::try_from) {
                Some(Ok(0)) => {}
                Some(Ok(rows)) => {
                    directory.push(place, rows);
                    first_times.push(first);
                }
                _ => directory.damaged(place.offset, place.len.into(), "events"),
            }
        }
        if self.wraps {
            self.unwrap_times(source, &mut directory)?;
        }
        if lying {
            let place = self.table.unwrap_or_default();
            directory.problems.add(ProblemCode::IndexMismatch, 1, 0, place, || format!("no table of packets at byte {place}"));
        } else if let Some(table) = &table
            && !self.wraps
        {
            directory.times = self.times(table, &directory, &first_times);
        }
        Ok(directory)
    }

    fn fill(&self, block: &Block, packet: &[u8], rows: Range<usize>, columns: Columns, check: Columns, out: &mut Slots<'_>) -> bool {
        self.with_events(packet, |all, claimed| {
            // A packet may hold fewer events than its start claims: `judge` keeps those that there are.
            let Some(events) = all.get(rows.start..rows.end.min(all.len())) else { return false };
            let bounds = check.contains(Column::X) || check.contains(Column::Y);
            let inside = !bounds || simd::run(Inside { events, width: self.width, height: self.height });
            simd::run(Split { events, out, columns, flip: self.flip });
            if self.wraps && columns.contains(Column::Timestamp) {
                let mut wraps = Wraps { ahead: block.ahead, ..Wraps::default() };
                let times = all.iter().filter_map(|event| i64_at(event, 0)).map(|t| wraps.tick(t));
                for (slot, t) in out.t.iter_mut().zip(times.skip(rows.start)) {
                    *slot = t;
                }
            }
            // Nor may it hold more: those would be lost without a word.
            inside && events.len() == rows.len() && (claimed..=block.rows as usize).contains(&all.len())
        })
        .unwrap_or(false)
    }

    fn judge(&self, block: &Block, packet: &[u8], rows: Range<usize>, keep: &mut [u8], problems: &mut Problems) {
        let offset = block.place.offset;
        let (width, height) = (self.width, self.height);
        let start = rows.start;
        let judged = self.with_events(packet, |events, claimed| {
            for (row, keep) in rows.clone().zip(keep.iter_mut()) {
                let Some((x, y)) = events.get(row).map(pixel) else {
                    *keep = 0;
                    continue;
                };
                if x >= width || y >= height {
                    *keep = 0;
                    problems.add(ProblemCode::OutOfBounds, 1, 0, offset, || {
                        format!("x {}, y {} outside {width}x{height} in the packet at byte {offset}", x.cast_signed(), y.cast_signed())
                    });
                }
            }
            if start == 0 && !(claimed..=block.rows as usize).contains(&events.len()) {
                damaged(problems, offset, packet.len() as u64, "events that are not as many as the packet says");
            }
        });
        if judged.is_none() {
            keep.fill(0);
            if start == 0 {
                damaged(problems, offset, packet.len() as u64, "events");
            }
        }
    }

    fn side(&self, kind: StreamKind, place: Place, packet: &[u8], out: &mut SideRows) {
        let payload = packet.get(8..).unwrap_or_default();
        let (whole, name) = match kind {
            StreamKind::Imu => (codec::with_decoded(self.codec, payload, |bytes| imu(bytes, out)), "IMU samples"),
            StreamKind::Frames => (codec::with_decoded(self.codec, payload, |bytes| frame(bytes, out)), "frame"),
            StreamKind::Triggers => {
                let offset = place.offset;
                (codec::with_decoded(self.codec, payload, |bytes| triggers(bytes, offset, out)), "triggers")
            }
            _ => return,
        };
        if whole.flatten().is_none() {
            damaged(&mut out.problems, place.offset, place.len.into(), name);
        }
    }
}

/// The pixel of an event.
#[inline(always)]
fn pixel(event: &[u8; EVENT]) -> (u16, u16) {
    (u16::from_le_bytes([event[8], event[9]]), u16::from_le_bytes([event[10], event[11]]))
}

/// Whether all events are within the sensor.
struct Inside<'a> {
    events: &'a [[u8; EVENT]],
    width: u16,
    height: u16,
}

impl simd::Kernel for Inside<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let mut outside = false;
        for event in self.events {
            let (x, y) = pixel(event);
            outside |= x >= self.width;
            outside |= y >= self.height;
        }
        !outside
    }
}

/// Takes events apart into columns.
struct Split<'a, 'b, 'c> {
    events: &'a [[u8; EVENT]],
    out: &'b mut Slots<'c>,
    columns: Columns,
    flip: Option<u16>,
}

impl simd::Kernel for Split<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        // Blocks, so that an event's four values are taken while it is in cache.
        const BLOCK: usize = 512;
        let Self { events, out, columns, flip } = self;
        for (index, events) in events.chunks(BLOCK).enumerate() {
            let rows = index * BLOCK..index * BLOCK + events.len();
            if columns.contains(Column::X) {
                for (slot, event) in out.x.get_mut(rows.clone()).unwrap_or_default().iter_mut().zip(events) {
                    *slot = pixel(event).0.cast_signed();
                }
            }
            if columns.contains(Column::Y) {
                let slots = out.y.get_mut(rows.clone()).unwrap_or_default();
                match flip {
                    None => {
                        for (slot, event) in slots.iter_mut().zip(events) {
                            *slot = pixel(event).1.cast_signed();
                        }
                    }
                    Some(height) => {
                        for (slot, event) in slots.iter_mut().zip(events) {
                            *slot = (height - 1).wrapping_sub(pixel(event).1).cast_signed();
                        }
                    }
                }
            }
            if columns.contains(Column::Timestamp) {
                for (slot, event) in out.t.get_mut(rows.clone()).unwrap_or_default().iter_mut().zip(events) {
                    let [a, b, c, d, e, f, g, h, ..] = *event;
                    *slot = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
                }
            }
            if columns.contains(Column::Polarity) {
                for (slot, event) in out.p.get_mut(rows).unwrap_or_default().iter_mut().zip(events) {
                    *slot = i8::from(event[12] != 0) * 2 - 1;
                }
            }
        }
    }
}

fn root(bytes: &[u8], identifier: [u8; 4]) -> Option<Table<'_>> {
    let buffer = Buffer::new(bytes);
    buffer.root().filter(|_| buffer.identifier() == Some(identifier))
}

/// Adds the samples of a packet; `None` where some are damaged.
fn imu(bytes: &[u8], out: &mut SideRows) -> Option<()> {
    let root = root(bytes, *b"IMUS")?;
    if root.vector(0).is_none() {
        return Some(());
    }
    for sample in root.tables(0)? {
        let sample = sample?;
        let value = |field| sample.f32(field).unwrap_or(0.0);
        out.imu.push(ImuSample {
            timestamp: sample.i64(0).unwrap_or(0),
            temperature: value(1),
            accelerometer: [value(2), value(3), value(4)],
            gyroscope: [value(5), value(6), value(7)],
            magnetometer: Some([value(8), value(9), value(10)]),
        });
    }
    Some(())
}

/// Number and edge of a trigger type: inputs first, then the generator, frames and exposures.
fn trigger(kind: i8) -> Option<(u8, bool)> {
    match kind {
        1 | 3 => Some((0, true)),
        2 => Some((0, false)),
        4 => Some((3, true)),
        5 => Some((3, false)),
        6 => Some((4, true)),
        7 => Some((4, false)),
        8 => Some((5, true)),
        9 => Some((5, false)),
        _ => None,
    }
}

/// Adds the triggers of a packet; `None` where some are damaged.
fn triggers(bytes: &[u8], offset: u64, out: &mut SideRows) -> Option<()> {
    let root = root(bytes, *b"TRIG")?;
    if root.vector(0).is_none() {
        return Some(());
    }
    for entry in root.tables(0)? {
        let entry = entry?;
        let t = entry.i64(0).unwrap_or(0);
        match (entry.i8(1).unwrap_or(0), trigger(entry.i8(1).unwrap_or(0))) {
            (_, Some((id, rising))) => out.triggers.push(id, rising, t),
            (0, None) => {
                out.problems.add(ProblemCode::TimeReset, 1, 0, offset, || format!("at {t} us in the packet at byte {offset}"));
            }
            _ => {}
        }
    }
    Some(())
}

/// Adds a frame; `None` where it is damaged.
fn frame(bytes: &[u8], out: &mut SideRows) -> Option<()> {
    let root = root(bytes, *b"FRME")?;
    let code = root.i8(5).unwrap_or(0);
    let (depth, channels) = (code & 7, (code >> 3) + 1);
    let bits = [8, 8, 16, 16, 32, 32, 64, 16][usize::from(depth.cast_unsigned() & 7)];
    let format = match (channels, depth) {
        (1, 0 | 2) => "GRAY",
        (1, 1 | 3 | 4) => "GRAY:int",
        (1, _) => "GRAY:float",
        (3, 0 | 2) => "BGR",
        (3, 1 | 3 | 4) => "BGR:int",
        (3, _) => "BGR:float",
        (4, 0 | 2) => "BGRA",
        (4, 1 | 3 | 4) => "BGRA:int",
        (4, _) => "BGRA:float",
        (_, 0 | 2) => "OTHER",
        (_, 1 | 3 | 4) => "OTHER:int",
        (_, _) => "OTHER:float",
    };
    let width = u16::try_from(root.i16(6).unwrap_or(0)).ok()?;
    let height = u16::try_from(root.i16(7).unwrap_or(0)).ok()?;
    let channels = u8::try_from(channels).ok().filter(|channels| *channels > 0)?;
    let pixels = root.bytes(10).unwrap_or_default();
    let expected = usize::from(width) * usize::from(height) * usize::from(channels) * usize::from(bits / 8);
    if pixels.len() != expected {
        return None;
    }
    let timestamp = root.i64(0).unwrap_or(0);
    let mut exposure = (root.i64(3), root.i64(4));
    if let (None, None, Some(duration)) = (exposure.0, exposure.1, root.i64(11)) {
        // Newer files: the time is that of the start of the exposure.
        exposure = (Some(timestamp), timestamp.checked_add(duration));
    }
    out.frames.push(Frame {
        timestamp,
        exposure_start: exposure.0,
        exposure_end: exposure.1,
        width,
        height,
        channels,
        bits,
        format,
        pixels: pixels.to_vec(),
    });
    Some(())
}
