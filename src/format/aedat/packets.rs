//! Files of packets: a directory of them, made in one walk over their headers, and the table of the events in it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::columns::{EventColumns, Slots, TriggerColumns, trigger_schema};
use crate::error::Result;
use crate::problem::{ProblemCode, Problems};
use crate::reader::{Ambiguous, BatchStream, Reader, no_side_stream};
use crate::recording::StreamKind;
use crate::schema::{Columns, TimeRange};
use crate::selection::Selection;
use crate::side::{Acceleration, Frame, ImuColumns, SideStream, frame_schema, frames_to_record_batch, imu_schema};
use crate::source::{Buffer, Source};
use crate::table::{Table, TableReader};

/// Rows of a unit, unless a packet has more.
const UNIT: u64 = 64 << 10;
/// Packets of a side stream that are decoded together: at most so many, and of at most so many bytes.
const GROUP: usize = 256;
const GROUP_BYTES: u64 = 1 << 20;
/// Bytes that a walk reads at a time.
const WINDOW: usize = 4 << 10;

/// Where a packet is, its header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// A packet of events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) place: Place,
    /// Number of its first row, and at least as many rows as it has.
    pub(crate) first: u64,
    pub(crate) rows: u32,
    /// Microseconds that its times lack for wraps of the clock.
    pub(crate) ahead: i64,
}

/// What a walk over the packets of a file finds.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// The packets of the chosen stream of events.
    pub(crate) blocks: Vec<Block>,
    /// The packets of other streams, by the number of the stream.
    pub(crate) sides: Vec<(u16, Place)>,
    pub(crate) problems: Problems,
    /// Parts of the blocks that can have events of some time, by the file's own index.
    pub(crate) times: Option<Vec<(i64, i64)>>,
}

impl Directory {
    pub(crate) fn push(&mut self, place: Place, rows: u32) {
        if rows > 0 {
            let first = self.rows();
            self.blocks.push(Block { place, first, rows, ahead: 0 });
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.first + u64::from(block.rows))
    }

    /// A packet that is left out.
    pub(crate) fn damaged(&mut self, offset: u64, bytes: u64, what: &str) {
        damaged(&mut self.problems, offset, bytes, what);
    }

    /// The file ends inside a packet.
    pub(crate) fn truncated(&mut self, offset: u64, bytes: u64) {
        self.problems.add(ProblemCode::Truncated, 1, bytes, offset, || format!("{bytes} bytes of a packet at byte {offset}"));
    }
}

/// Counts a packet that is left out.
pub(crate) fn damaged(problems: &mut Problems, offset: u64, bytes: u64, what: &str) {
    problems.add(ProblemCode::DamagedPacket, 1, bytes, offset, || format!("{what}: {bytes} bytes at byte {offset}"));
}

/// What side packets hold.
#[derive(Debug, Default)]
pub(crate) struct SideRows {
    pub(crate) triggers: TriggerColumns,
    pub(crate) imu: ImuColumns,
    pub(crate) frames: Vec<Frame>,
    pub(crate) problems: Problems,
}

impl SideRows {
    fn append(&mut self, mut other: Self) {
        self.triggers.append(other.triggers);
        self.imu.append(other.imu);
        self.frames.append(&mut other.frames);
        self.problems.merge(&other.problems);
    }
}

/// A stream that is not the one of events that is read.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    pub(crate) name: String,
    /// Another name for it.
    pub(crate) alias: String,
    pub(crate) kind: StreamKind,
    /// Number in the directory.
    pub(crate) number: u16,
    /// Whether it belongs to the events that are read.
    pub(crate) chosen: bool,
}

/// A kind of file of packets.
pub(crate) trait Container: Send + Sync + 'static {
    /// Walks over the packets.
    fn walk(&self, source: &Source) -> Result<Directory>;

    /// Decodes `rows` of a packet into `out`, and looks at the values of `check` too. False where some row has to be
    /// left out.
    fn fill(&self, block: &Block, bytes: &[u8], rows: Range<usize>, columns: Columns, check: Columns, out: &mut Slots<'_>) -> bool;

    /// Clears `keep` for those of `rows` that have to be left out, and counts them.
    fn judge(&self, block: &Block, bytes: &[u8], rows: Range<usize>, keep: &mut [u8], problems: &mut Problems);

    /// Decodes a packet of a side stream of this kind.
    fn side(&self, kind: StreamKind, place: Place, bytes: &[u8], out: &mut SideRows);
}

/// The events of a file of packets.
struct Packets<C> {
    container: Arc<C>,
    source: Arc<Source>,
    directory: Directory,
    unit: u64,
    /// Place of the first packet whose times are not those that the file's own index has, `u64::MAX` if none was seen.
    lying: AtomicU64,
}

/// Gives the bytes of a packet to `work`.
fn with_bytes<R>(source: &Source, place: Place, work: impl FnOnce(&[u8]) -> R) -> Result<R> {
    thread_local!(static BUFFER: std::cell::RefCell<Buffer> = std::cell::RefCell::new(Buffer::default()));
    let read = |buffer: &mut Buffer| {
        let bytes = buffer.take(place.len as usize);
        source.read_exact_at(bytes, place.offset)?;
        Ok(work(bytes))
    };
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => {
            let result = read(&mut buffer);
            if buffer.capacity() > 16 << 20 {
                *buffer = Buffer::default();
            }
            result
        }
        // A task that this thread took up while it waited inside another.
        Err(_) => read(&mut Buffer::default()),
    })
}

impl<C: Container> Packets<C> {
    /// The number of the block that has `row`.
    fn first_block(&self, row: u64) -> usize {
        self.directory.blocks.partition_point(|block| block.first + u64::from(block.rows) <= row)
    }

    /// The blocks that have any of `rows`, with the numbers of those rows within each.
    fn blocks(&self, rows: Range<u64>) -> impl Iterator<Item = (&Block, Range<usize>)> {
        let start = self.first_block(rows.start);
        let some = self.directory.blocks.get(start..).unwrap_or_default().iter().take_while(move |block| block.first < rows.end);
        some.map(move |block| {
            let from = rows.start.max(block.first) - block.first;
            let to = rows.end.min(block.first + u64::from(block.rows)) - block.first;
            (block, from as usize..to as usize)
        })
    }
}

impl<C: Container> Table for Packets<C> {
    fn rows(&self) -> u64 {
        self.directory.rows()
    }

    fn unit(&self) -> u64 {
        self.unit
    }

    fn fill(&self, rows: Range<u64>, columns: Columns, check: Columns, mut out: Slots<'_>) -> Result<Vec<Range<u64>>> {
        let work: Vec<_> = self.blocks(rows).map(|(block, part)| (block, part.clone(), out.split_off_front(part.len()))).collect();
        let suspects: Vec<_> = work
            .into_par_iter()
            .map(|(block, part, mut slots)| {
                let clean = with_bytes(&self.source, block.place, |bytes| {
                    self.container.fill(block, bytes, part.clone(), columns, check, &mut slots)
                })?;
                Ok((!clean).then(|| block.first + part.start as u64..block.first + part.end as u64))
            })
            .collect::<Result<_>>()?;
        Ok(suspects.into_iter().flatten().collect())
    }

    fn judge(&self, rows: Range<u64>, keep: &mut [u8], problems: &mut Problems) -> Result<()> {
        let start = rows.start;
        for (block, part) in self.blocks(rows) {
            let at = (block.first + part.start as u64 - start) as usize;
            let Some(keep) = keep.get_mut(at..at + part.len()) else { continue };
            with_bytes(&self.source, block.place, |bytes| self.container.judge(block, bytes, part, keep, problems))?;
        }
        Ok(())
    }

    fn seek(&self, range: TimeRange) -> Result<Option<Range<u64>>> {
        let Some(times) = &self.directory.times else { return Ok(None) };
        let mut found: Option<Range<u64>> = None;
        // The last time is only what the file says, the first one is known. Within a stream times are in order: none is
        // after the first one of the next packet.
        let next = times.iter().skip(1).map(|(first, _)| *first).chain(std::iter::once(i64::MAX));
        for ((block, (first, last)), next) in self.directory.blocks.iter().zip(times).zip(next) {
            if range.intersects(*first, next.max(*last)) {
                let end = block.first + u64::from(block.rows);
                found = Some(found.map_or(block.first, |found| found.start)..end);
            }
        }
        Ok(Some(found.unwrap_or(0..0)))
    }

    fn check_times(&self, rows: Range<u64>, times: &[i64]) {
        let Some(stated) = self.directory.times.as_ref().and_then(|stated| stated.get(self.first_block(rows.start)..)) else { return };
        let mut rest = times;
        for ((block, part), (first, last)) in self.blocks(rows).zip(stated) {
            let Some((own, after)) = rest.split_at_checked(part.len()) else { return };
            rest = after;
            if own.iter().fold(false, |outside, t| outside | (t < first) | (t > last)) {
                self.lying.fetch_min(block.place.offset, Ordering::Relaxed);
            }
        }
    }

    fn notes(&self) -> Problems {
        let mut notes = self.directory.problems.clone();
        let lying = self.lying.load(Ordering::Relaxed);
        if lying != u64::MAX {
            notes.add(ProblemCode::IndexMismatch, 1, 0, lying, || format!("other times in the packet at byte {lying}"));
        }
        notes
    }
}

/// The reader of a file of packets; it walks over them when they are first needed.
pub(crate) struct PacketReader<C: Container> {
    container: Arc<C>,
    source: Arc<Source>,
    sides: Vec<Side>,
    /// The streams of events of which one has to be chosen first.
    undecided: Vec<String>,
    table: OnceLock<Arc<TableReader<Packets<C>>>>,
    /// The packets of side streams, in file order.
    places: OnceLock<Vec<(u16, Place)>>,
    side_problems: OnceLock<Problems>,
    triggers: OnceLock<TriggerColumns>,
}

impl<C: Container> PacketReader<C> {
    pub(crate) fn new(source: Source, container: C, sides: Vec<Side>, undecided: Vec<String>) -> Self {
        Self {
            container: Arc::new(container),
            source: Arc::new(source),
            sides,
            undecided,
            table: OnceLock::new(),
            places: OnceLock::new(),
            side_problems: OnceLock::new(),
            triggers: OnceLock::new(),
        }
    }

    /// The table, made in one walk over the packets.
    fn table(&self, pool: &ThreadPool) -> Result<&Arc<TableReader<Packets<C>>>> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let mut directory = pool.install(|| self.container.walk(&self.source))?;
        let places = std::mem::take(&mut directory.sides);
        let _already_there = self.places.set(places);
        let unit = directory.blocks.iter().map(|block| u64::from(block.rows)).fold(UNIT, u64::max);
        let packets = Packets {
            container: Arc::clone(&self.container),
            source: Arc::clone(&self.source),
            directory,
            unit,
            lying: AtomicU64::new(u64::MAX),
        };
        Ok(self.table.get_or_init(|| Arc::new(TableReader::new(packets))))
    }

    /// The table, if it is clear which events are to be read.
    fn events(&self, pool: &ThreadPool) -> Result<&Arc<TableReader<Packets<C>>>> {
        if !self.undecided.is_empty() {
            return Ambiguous::new(self.undecided.clone()).refuse();
        }
        self.table(pool)
    }

    fn places(&self, pool: &ThreadPool) -> Result<&[(u16, Place)]> {
        self.table(pool)?;
        Ok(self.places.get().map_or(&[], Vec::as_slice))
    }

    /// Decodes these packets in parallel, in order.
    fn decode(&self, packets: &[(StreamKind, Place)]) -> Result<SideRows> {
        let parts: Vec<SideRows> = packets
            .par_iter()
            .map(|(kind, place)| {
                let mut rows = SideRows::default();
                with_bytes(&self.source, *place, |bytes| self.container.side(*kind, *place, bytes, &mut rows))?;
                Ok(rows)
            })
            .collect::<Result<_>>()?;
        let mut all = SideRows::default();
        for part in parts {
            all.append(part);
        }
        Ok(all)
    }

    /// The stream of that name or number; or the one of that kind, or the one of them that belongs to the events.
    fn side_named(&self, name: &str) -> Option<&Side> {
        let by_name = self.sides.iter().find(|side| side.name == name).or_else(|| self.sides.iter().find(|side| side.alias == name));
        let only = |chosen: bool| {
            let mut some = self.sides.iter().filter(|side| side.kind.name() == name && (side.chosen || !chosen));
            some.next().filter(|_| some.next().is_none())
        };
        by_name.or_else(|| only(false)).or_else(|| only(true))
    }

    /// The kind of the stream of this number, if `wanted`.
    fn kind_of(&self, number: u16, wanted: impl Fn(&Side) -> bool) -> Option<StreamKind> {
        self.sides.iter().find(|side| side.number == number && wanted(side)).map(|side| side.kind)
    }

    /// What is damaged in the side streams; found once.
    fn side_problems(&self, pool: &ThreadPool) -> Result<&Problems> {
        if let Some(problems) = self.side_problems.get() {
            return Ok(problems);
        }
        let places = self.places(pool)?;
        let all: Vec<_> = places.iter().filter_map(|(number, place)| Some((self.kind_of(*number, |_| true)?, *place))).collect();
        let mut problems = Problems::default();
        for group in groups(&all) {
            problems.merge(&pool.install(|| self.decode(group))?.problems);
        }
        Ok(self.side_problems.get_or_init(|| problems))
    }
}

/// Cuts packets into groups that are decoded together.
fn groups(packets: &[(StreamKind, Place)]) -> impl Iterator<Item = &[(StreamKind, Place)]> {
    let mut rest = packets;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(kind, place): &&(StreamKind, Place)| {
            // Frames are large when they are decoded.
            bytes += u64::from(place.len) * if *kind == StreamKind::Frames { 8 } else { 1 };
            bytes <= GROUP_BYTES
        };
        let len = rest.iter().take(GROUP).take_while(fits).count().max(1).min(rest.len());
        let (group, after) = rest.split_at_checked(len)?;
        rest = after;
        (!group.is_empty()).then_some(group)
    })
}

impl<C: Container> Reader for PacketReader<C> {
    fn read(&self, selection: &Selection, pool: &ThreadPool) -> Result<EventColumns> {
        self.events(pool)?.read(selection, pool)
    }

    fn batches(self: Arc<Self>, selection: &Selection) -> Box<dyn BatchStream> {
        Box::new(Lazily { reader: self, selection: selection.clone(), batches: None })
    }

    fn triggers(&self, pool: &ThreadPool) -> Result<TriggerColumns> {
        if !self.undecided.is_empty() {
            self.events(pool)?;
        }
        if let Some(triggers) = self.triggers.get() {
            return Ok(triggers.clone());
        }
        let chosen = |side: &Side| side.kind == StreamKind::Triggers && side.chosen;
        let places = self.places(pool)?;
        let packets: Vec<_> = places.iter().filter_map(|(number, place)| Some((self.kind_of(*number, chosen)?, *place))).collect();
        let triggers = pool.install(|| self.decode(&packets))?.triggers;
        Ok(self.triggers.get_or_init(|| triggers).clone())
    }

    fn counts(&self, pool: &ThreadPool) -> Result<(u64, u64)> {
        let events = self.events(pool)?.counts(pool)?.0;
        Ok((events, self.triggers(pool)?.len() as u64))
    }

    fn time_range(&self, pool: &ThreadPool) -> Result<Option<(i64, i64)>> {
        self.events(pool)?.time_range(pool)
    }

    fn problems(&self, pool: &ThreadPool) -> Result<Problems> {
        let mut problems = self.events(pool)?.problems(pool)?;
        problems.merge(self.side_problems(pool)?);
        Ok(problems)
    }

    fn is_indexed(&self) -> bool {
        self.undecided.is_empty() && self.table.get().is_some_and(|table| table.is_indexed()) && self.triggers.get().is_some()
    }

    fn save_index(&self, pool: &ThreadPool) -> Result<PathBuf> {
        self.events(pool)?.save_index(pool)
    }

    fn side(self: Arc<Self>, name: &str, pool: Arc<ThreadPool>) -> Result<SideStream> {
        let wanted = self.side_named(name);
        let Some(side) = wanted.filter(|side| matches!(side.kind, StreamKind::Imu | StreamKind::Frames | StreamKind::Triggers)) else {
            let kinds = [StreamKind::Imu, StreamKind::Frames, StreamKind::Triggers];
            let names: Vec<_> = self.sides.iter().filter(|side| kinds.contains(&side.kind)).map(|side| side.name.as_str()).collect();
            return Err(no_side_stream(name, &names));
        };
        let (kind, number) = (side.kind, side.number);
        let schema = match kind {
            StreamKind::Imu => imu_schema(),
            StreamKind::Frames => frame_schema(),
            _ => trigger_schema(),
        };
        Ok(SideStream::new(kind, schema, Box::new(SideBatches { reader: self, pool, kind, number, packets: None, at: 0 })))
    }
}

/// A stream of batches that starts with its first.
struct Lazily<C: Container> {
    reader: Arc<PacketReader<C>>,
    selection: Selection,
    batches: Option<Box<dyn BatchStream>>,
}

impl<C: Container> BatchStream for Lazily<C> {
    fn next(&mut self, rows: usize, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        let batches = if let Some(batches) = &mut self.batches {
            batches
        } else {
            let table = Arc::clone(self.reader.events(pool)?);
            self.batches.insert(table.batches(&self.selection))
        };
        batches.next(rows, pool)
    }
}

/// A side stream, group by group.
struct SideBatches<C: Container> {
    reader: Arc<PacketReader<C>>,
    pool: Arc<ThreadPool>,
    kind: StreamKind,
    number: u16,
    packets: Option<Vec<(StreamKind, Place)>>,
    at: usize,
}

impl<C: Container> SideBatches<C> {
    fn fetch(&mut self) -> Result<Option<arrow_array::RecordBatch>> {
        let packets = if let Some(packets) = &mut self.packets {
            packets
        } else {
            let places = self.reader.places(&self.pool)?;
            let own = places.iter().filter(|(number, _)| *number == self.number);
            self.packets.insert(own.map(|(_, place)| (self.kind, *place)).collect())
        };
        while let Some(group) = groups(packets.get(self.at..).unwrap_or_default()).next() {
            self.at += group.len();
            let reader = &self.reader;
            let rows = self.pool.install(|| reader.decode(group))?;
            let batch = match self.kind {
                StreamKind::Imu => rows.imu.into_record_batch(Acceleration::StandardGravity),
                StreamKind::Frames => frames_to_record_batch(&rows.frames),
                _ => rows.triggers.into_record_batch(),
            };
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

impl<C: Container> Iterator for SideBatches<C> {
    type Item = Result<arrow_array::RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.fetch().transpose()
    }
}

/// The bytes of a file, read in small pieces where a walk looks.
pub(crate) struct Window<'a> {
    source: &'a Source,
    buffer: Buffer,
    start: u64,
    len: usize,
}

impl<'a> Window<'a> {
    pub(crate) fn new(source: &'a Source) -> Self {
        Self { source, buffer: Buffer::default(), start: 0, len: 0 }
    }

    /// Up to `len` bytes from `offset` on, fewer only at the end of the file.
    pub(crate) fn at(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let there = usize::try_from(self.source.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(there);
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.len as u64;
        if !inside {
            self.len = 0;
            let read = len.max(WINDOW).min(there);
            self.source.read_exact_at(self.buffer.take(read), offset)?;
            (self.start, self.len) = (offset, read);
        }
        let from = (offset - self.start) as usize;
        Ok(self.buffer.take(self.len).get(from..from + len).unwrap_or_default())
    }
}
