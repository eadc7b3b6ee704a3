//! Layout 14, DDD17 and DDD20 as recorded: a data set of rows of variable length, each with the system's time as text,
//! the header of a cAER packet and its events.
//!
//! The headers are read once, when events are first asked for; that tells where the polarity events are. Packets of
//! other kinds are stepped over.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::filter::{self, Decoder};
use super::meta::{Dataset, Metadata, Storage};
use crate::columns::{EventColumns, Slots, TriggerColumns};
use crate::error::{Error, ErrorKind, Result};
use crate::problem::{ProblemCode, Problems};
use crate::reader::{BatchStream, Reader};
use crate::schema::{Columns, Geometry, TimeRange};
use crate::selection::Selection;
use crate::source::Source;
use crate::table::{Table, TableReader};

/// Elements of a row: text, header, events.
const ACROSS: u64 = 3;
/// Events of a unit.
const UNIT: u64 = 64 << 10;
/// Rows of a data set without chunks that are looked at together.
const STRETCH: u64 = 1024;
/// Most bytes of a decoded chunk of references: recorders write 128 rows, 6 KiB.
const LARGEST_CHUNK: u32 = 16 << 20;
/// Bytes of a polarity event: `y:15 x:15 polarity:1 valid:1`, from the high bits down, and a time.
const EVENT: usize = 8;

/// The header of a cAER packet, AEDAT 3.1: 28 bytes, little-endian, signed.
struct Header {
    kind: i16,
    event_bytes: i32,
    overflow: i32,
    number: i32,
}

/// Type of packets of polarity events.
const POLARITY: i16 = 1;

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 28] = bytes.first_chunk()?;
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|raw| i32::from_le_bytes(*raw));
        Some(Self { kind: i16::from_le_bytes([bytes[0], bytes[1]]), event_bytes: word(4)?, overflow: word(12)?, number: word(20)? })
    }
}

/// A packet of polarity events.
#[derive(Debug)]
struct Packet {
    /// Number of its first event.
    first: u64,
    events: u32,
    /// Row of the data set.
    row: u64,
    /// What is added to the times of its events.
    base_us: i64,
    /// Where its events are, as the data set refers to them.
    reference: Vec<u8>,
}

/// What the packets are in.
struct Place {
    source: Arc<Source>,
    meta: Arc<dyn Metadata>,
    dataset: Dataset,
}

impl Place {
    /// Bytes of a reference.
    fn reference(&self) -> usize {
        self.dataset.dtype.bytes()
    }

    /// Stretches of rows that are stored: chunks, or pieces of other storage.
    fn stretches(&self) -> Vec<Range<u64>> {
        let rows = self.dataset.shape.first().copied().unwrap_or(0);
        match &self.dataset.storage {
            Storage::Absent => Vec::new(),
            Storage::Compact(_) | Storage::Contiguous { .. } => {
                (0..rows.div_ceil(STRETCH)).map(|at| at * STRETCH..rows.min((at + 1) * STRETCH)).collect()
            }
            Storage::Chunked(chunks) => {
                let across = chunks.grid.get(1).copied().unwrap_or(1).max(1);
                let long = chunks.shape.first().copied().unwrap_or(1).max(1);
                let mut starts: Vec<u64> = chunks.list.iter().map(|chunk| (chunk.index / across).saturating_mul(long)).collect();
                starts.dedup();
                starts.into_iter().filter(|start| *start < rows).map(|start| start..rows.min(start.saturating_add(long))).collect()
            }
        }
    }

    /// The references of a stretch, row by row; zeros where nothing was written.
    fn references(&self, rows: &Range<u64>) -> Result<Vec<u8>> {
        let size = self.reference();
        let row_bytes = size * ACROSS as usize;
        let count = (rows.end - rows.start) as usize;
        let mut found = vec![0; count * row_bytes];
        match &self.dataset.storage {
            Storage::Absent => {}
            Storage::Compact(bytes) => {
                let start = rows.start as usize * row_bytes;
                let there = bytes.get(start..).unwrap_or_default();
                for (out, byte) in found.iter_mut().zip(there) {
                    *out = *byte;
                }
            }
            Storage::Contiguous { address, bytes } => {
                let start = rows.start * row_bytes as u64;
                let len = (found.len() as u64).min(bytes.saturating_sub(start)) as usize;
                self.source.read_exact_at(found.get_mut(..len).unwrap_or_default(), address + start)?;
            }
            Storage::Chunked(chunks) => {
                let (long, wide) = (chunks.shape.first().copied().unwrap_or(1).max(1), chunks.shape.get(1).copied().unwrap_or(1).max(1));
                let across = chunks.grid.get(1).copied().unwrap_or(1).max(1);
                let chunk_bytes = chunks.decoded as usize;
                let mut decoder = Decoder::default();
                for at in 0..across {
                    let Some(chunk) = chunks.get(rows.start / long * across + at) else { continue };
                    let mut raw = vec![0; chunk.bytes as usize];
                    self.source.read_exact_at(&mut raw, chunk.address)?;
                    let packed = filter::Chunk { raw: &raw, mask: chunk.mask, size: chunk_bytes, element: size };
                    let mut place = |offset: usize, bytes: &[u8]| {
                        for (element, bytes) in bytes.chunks_exact(size).enumerate() {
                            let element = (offset / size + element) as u64;
                            let (row, column) = (element / wide, at * wide + element % wide);
                            let start = row as usize * row_bytes + column as usize * size;
                            if let Some(out) = found.get_mut(start..start + size).filter(|_| column < ACROSS) {
                                out.copy_from_slice(bytes);
                            }
                        }
                    };
                    decoder.decode(&self.dataset.filters, packed, 0..chunk_bytes, &mut place)?;
                }
            }
        }
        Ok(found)
    }

    /// The polarity packets of a stretch, their events not numbered yet.
    fn packets(&self, rows: &Range<u64>, problems: &mut Problems) -> Result<Vec<Packet>> {
        let size = self.reference();
        let references = match self.references(rows) {
            Ok(references) => references,
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                problems.add(ProblemCode::Unreadable, rows.end - rows.start, 0, 0, || format!("rows from {}: {error}", rows.start));
                return Ok(Vec::new());
            }
        };
        let mut packets = Vec::new();
        for (row, references) in (rows.start..).zip(references.chunks_exact(size * ACROSS as usize)) {
            let (Some(header), Some(events)) = (references.get(size..2 * size), references.get(2 * size..)) else { continue };
            // Rows at the end are empty: the recorder makes room for more than it writes.
            if length(header) == 0 {
                continue;
            }
            let header = match self.meta.resolve(&self.dataset, header, usize::MAX) {
                Ok(found) => found.get(0).and_then(Header::parse),
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(_) => None,
            };
            let Some(header) = header else {
                problems.add(ProblemCode::Unreadable, 1, 0, 0, || format!("row {row}: no header of a packet"));
                continue;
            };
            if header.kind != POLARITY {
                continue;
            }
            let claimed = u32::try_from(header.number).unwrap_or(0);
            let there = if header.event_bytes == EVENT as i32 { length(events) / EVENT as u32 } else { 0 };
            let lost = claimed.saturating_sub(there);
            problems.add(ProblemCode::Unreadable, lost.into(), 0, 0, || {
                format!("row {row}: a packet of {claimed} events of {} bytes in {} bytes", header.event_bytes, length(events))
            });
            let events_there = claimed.min(there);
            if events_there > 0 {
                let base_us = i64::from(header.overflow) << 31;
                packets.push(Packet { first: 0, events: events_there, row, base_us, reference: events.to_vec() });
            }
        }
        Ok(packets)
    }

    /// All polarity packets.
    fn table(self, geometry: Option<Geometry>, time_offset_us: i64) -> Result<Packets> {
        let stretches: Vec<(Vec<Packet>, Problems)> = self
            .stretches()
            .par_iter()
            .map(|rows| {
                let mut problems = Problems::default();
                Ok((self.packets(rows, &mut problems)?, problems))
            })
            .collect::<Result<_>>()?;
        let (mut packets, mut notes, mut events) = (Vec::new(), Problems::default(), 0);
        // References may all lead to the same bytes, but a sound file has each event once.
        let most = self.source.len() / EVENT as u64;
        for (found, problems) in stretches {
            notes.merge(&problems);
            for mut packet in found {
                if events + u64::from(packet.events) > most {
                    notes.add(ProblemCode::Unreadable, packet.events.into(), 0, 0, || {
                        format!("row {}: more events than the file has bytes for", packet.row)
                    });
                    continue;
                }
                packet.first = events;
                events += u64::from(packet.events);
                packets.push(packet);
            }
        }
        let limit = |size: Option<u16>| size.unwrap_or(Geometry::MAX);
        let limits = (limit(geometry.map(Geometry::width)), limit(geometry.map(Geometry::height)));
        Ok(Packets { place: self, list: packets, events, limits, time_offset_us, notes })
    }
}

/// Elements of the sequence that a reference leads to: its first four bytes.
fn length(reference: &[u8]) -> u32 {
    reference.first_chunk().map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// The table of polarity events.
struct Packets {
    place: Place,
    list: Vec<Packet>,
    events: u64,
    limits: (u16, u16),
    time_offset_us: i64,
    notes: Problems,
}

/// An event as stored.
struct Event {
    valid: bool,
    x: u16,
    y: u16,
    on: bool,
    /// Microseconds; `None` if out of range.
    time: Option<i64>,
}

impl Packets {
    /// The numbers of the packets that have some of `rows`.
    fn touched(&self, rows: &Range<u64>) -> Range<usize> {
        let start = self.list.partition_point(|packet| packet.first + u64::from(packet.events) <= rows.start);
        let end = self.list.partition_point(|packet| packet.first < rows.end);
        start..end.max(start)
    }

    /// The bytes of a packet's events.
    fn bytes(&self, packet: &Packet) -> Result<super::meta::Sequences> {
        self.place.meta.resolve(&self.place.dataset, &packet.reference, usize::MAX)
    }

    fn event(&self, packet: &Packet, bytes: &[u8]) -> Event {
        let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |raw| u32::from_le_bytes(*raw));
        let (data, time) = (word(0), word(4).cast_signed());
        let time = (time >= 0).then(|| (packet.base_us | i64::from(time)).checked_add(self.time_offset_us)).flatten();
        Event { valid: data & 1 == 1, on: data >> 1 & 1 == 1, y: (data >> 2 & 0x7fff) as u16, x: (data >> 17) as u16, time }
    }

    fn is_inside(&self, event: &Event) -> bool {
        event.x < self.limits.0 && event.y < self.limits.1
    }

    /// The rows of `rows` that are in a packet, and their bytes within it.
    fn part(packet: &Packet, rows: &Range<u64>) -> (Range<u64>, Range<usize>) {
        let rows = rows.start.max(packet.first)..rows.end.min(packet.first + u64::from(packet.events));
        let bytes = (rows.start - packet.first) as usize * EVENT..(rows.end - packet.first) as usize * EVENT;
        (rows, bytes)
    }
}

impl Table for Packets {
    fn rows(&self) -> u64 {
        self.events
    }

    fn unit(&self) -> u64 {
        UNIT
    }

    fn fill(&self, rows: Range<u64>, _: Columns, _: Columns, mut out: Slots<'_>) -> Result<Vec<Range<u64>>> {
        let packets = self.list.get(self.touched(&rows)).unwrap_or_default();
        let tasks: Vec<_> = packets
            .iter()
            .map(|packet| {
                let (rows, bytes) = Self::part(packet, &rows);
                let out = out.split_off_front((rows.end - rows.start) as usize);
                (packet, rows, bytes, out)
            })
            .collect();
        let suspects: Vec<Option<Range<u64>>> = tasks
            .into_par_iter()
            .map(|(packet, rows, bytes, out)| {
                let found = match self.bytes(packet) {
                    Ok(found) => found,
                    Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                    Err(_) => return Ok(Some(rows)),
                };
                let Some(bytes) = found.get(0).and_then(|found| found.get(bytes)) else { return Ok(Some(rows)) };
                let mut clean = true;
                for (at, bytes) in bytes.chunks_exact(EVENT).enumerate() {
                    let event = self.event(packet, bytes);
                    clean &= event.valid & event.time.is_some() & self.is_inside(&event);
                    // A column that is not wanted has no slots.
                    if let Some(x) = out.x.get_mut(at) {
                        *x = event.x.cast_signed();
                    }
                    if let Some(y) = out.y.get_mut(at) {
                        *y = event.y.cast_signed();
                    }
                    if let Some(t) = out.t.get_mut(at) {
                        *t = event.time.unwrap_or(0);
                    }
                    if let Some(p) = out.p.get_mut(at) {
                        *p = if event.on { 1 } else { -1 };
                    }
                }
                Ok((!clean).then_some(rows))
            })
            .collect::<Result<_>>()?;
        Ok(suspects.into_iter().flatten().collect())
    }

    fn judge(&self, rows: Range<u64>, keep: &mut [u8], problems: &mut Problems) -> Result<()> {
        for packet in self.list.get(self.touched(&rows)).unwrap_or_default() {
            let (part, bytes) = Self::part(packet, &rows);
            let place = (part.start - rows.start) as usize..(part.end - rows.start) as usize;
            let keep = keep.get_mut(place).unwrap_or_default();
            let found = match self.bytes(packet) {
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                found => found.map_err(|error| error.to_string()),
            };
            let bytes = match &found {
                Ok(found) => found.get(0).and_then(|found| found.get(bytes)).ok_or_else(|| "it ends before its events".to_owned()),
                Err(why) => Err(why.clone()),
            };
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(why) => {
                    problems
                        .add(ProblemCode::Unreadable, part.end - part.start, 0, 0, || format!("the packet in row {}: {why}", packet.row));
                    keep.fill(0);
                    continue;
                }
            };
            let (mut outside, mut without) = (0, 0);
            for (keep, bytes) in keep.iter_mut().zip(bytes.chunks_exact(EVENT)) {
                let event = self.event(packet, bytes);
                // Events that the recorder has marked as not valid are none: they are left out and not counted.
                let time = event.valid && event.time.is_none();
                let pixel = event.valid && !time && !self.is_inside(&event);
                without += u64::from(time);
                outside += u64::from(pixel);
                *keep = u8::from(event.valid && !time && !pixel);
            }
            problems.add(ProblemCode::OutOfBounds, outside, 0, 0, || {
                format!("{outside} outside {}x{} in the packet of row {}", self.limits.0, self.limits.1, packet.row)
            });
            problems.add(ProblemCode::BadValue, without, 0, 0, || format!("{without} without a time in the packet of row {}", packet.row));
        }
        Ok(())
    }

    fn seek(&self, _: TimeRange) -> Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn notes(&self) -> Problems {
        self.notes.clone()
    }
}

/// The reader of packets: makes its table when it is first asked for events.
pub(super) struct PacketReader {
    source: Arc<Source>,
    meta: Arc<dyn Metadata>,
    dataset: Dataset,
    geometry: Option<Geometry>,
    time_offset_us: i64,
    reader: Mutex<Option<Arc<TableReader<Packets>>>>,
}

impl PacketReader {
    /// A reader of the packets in a data set of rows of three elements.
    pub(super) fn new(
        source: Arc<Source>,
        meta: Arc<dyn Metadata>,
        dataset: Dataset,
        geometry: Option<Geometry>,
        time_offset_us: i64,
    ) -> Result<Self> {
        if !matches!(dataset.shape.as_slice(), [_, ACROSS]) {
            return Err(super::bad_shape(&dataset));
        }
        for filter in &dataset.filters {
            filter::check(filter)?;
        }
        if let Storage::Chunked(chunks) = &dataset.storage
            && chunks.decoded > LARGEST_CHUNK
        {
            return Err(Error::new(ErrorKind::Unsupported, format!("data set `{}` has too large chunks of references", dataset.path))
                .expecting(format!("at most {LARGEST_CHUNK} bytes"))
                .but_found(chunks.decoded.to_string()));
        }
        Ok(Self { source, meta, dataset, geometry, time_offset_us, reader: Mutex::default() })
    }

    fn get(&self, pool: &ThreadPool) -> Result<Arc<TableReader<Packets>>> {
        let known = || self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reader) = known() {
            return Ok(reader);
        }
        let place = Place { source: Arc::clone(&self.source), meta: Arc::clone(&self.meta), dataset: self.dataset.clone() };
        let table = pool.install(|| place.table(self.geometry, self.time_offset_us))?;
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(reader.get_or_insert_with(|| Arc::new(TableReader::new(table)))))
    }
}

impl Reader for PacketReader {
    fn read(&self, selection: &Selection, pool: &ThreadPool) -> Result<EventColumns> {
        self.get(pool)?.read(selection, pool)
    }

    fn batches(self: Arc<Self>, selection: &Selection) -> Box<dyn BatchStream> {
        Box::new(PacketBatches { reader: self, selection: selection.clone(), batches: None })
    }

    fn triggers(&self, _: &ThreadPool) -> Result<TriggerColumns> {
        Ok(TriggerColumns::default())
    }

    fn counts(&self, pool: &ThreadPool) -> Result<(u64, u64)> {
        self.get(pool)?.counts(pool)
    }

    fn time_range(&self, pool: &ThreadPool) -> Result<Option<(i64, i64)>> {
        self.get(pool)?.time_range(pool)
    }

    fn problems(&self, pool: &ThreadPool) -> Result<Problems> {
        self.get(pool)?.problems(pool)
    }

    fn is_indexed(&self) -> bool {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|reader| reader.is_indexed())
    }

    fn save_index(&self, _: &ThreadPool) -> Result<PathBuf> {
        Err(Error::invalid("this format needs no index beside the file: its packets are found by their headers"))
    }
}

/// A stream of batches that starts when the packets are known.
struct PacketBatches {
    reader: Arc<PacketReader>,
    selection: Selection,
    batches: Option<Box<dyn BatchStream>>,
}

impl BatchStream for PacketBatches {
    fn next(&mut self, rows: usize, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        let batches = match &mut self.batches {
            Some(batches) => batches,
            None => self.batches.insert(self.reader.get(pool)?.batches(&self.selection)),
        };
        batches.next(rows, pool)
    }
}
