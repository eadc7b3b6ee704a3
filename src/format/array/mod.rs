//! Events in arrays: columns of their own, records, or the columns of a table, plain or in compressed chunks.
//!
//! What HDF5, NPY and NPZ have in common. A [`Part`] is one stored array and the event columns in it. Rows are decoded
//! in parallel over (part, chunk): chunks that lie close together in the file are read at once, decoded block by
//! block, and converted into the final columns while they are in cache.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use crate::columns::{ColumnsBuilder, EventColumns, Slots, Stored, TriggerColumns};
use crate::error::{Error, Result};
use crate::problem::{ProblemCode, Problems};
use crate::schema::{Column, Columns, Geometry, TimeRange, TimeUnit};
use crate::simd;
use crate::source::{Buffer, Source};
use crate::table::{Table, TableReader};

use super::hdf5::ecf;
use super::hdf5::filter::{self, Decoder, Filter};

pub(crate) mod cell;
pub(crate) mod names;
pub(crate) mod order;

use cell::{Cell, Number, Pixel, Pixels, Polarities, Seen, Time, Times, Values};

/// Rows of a unit, about.
const UNIT: u64 = 64 << 10;
/// Bytes that are decoded together of arrays without chunks, at most.
const PIECE: u64 = 1 << 20;
/// Bytes that are read at once where chunks lie close together.
const RUN: u64 = 256 << 10;
/// Runs that rows are cut into at least, as far as chunks allow.
const RUNS: u64 = 16;
/// Bytes between two chunks that are read along rather than skipped.
const GAP: u64 = 4 << 10;
/// Tables of at least this many rows are bisected for a time range that no index finds, and the rows looked at first.
const BISECT_FROM: u64 = 8 << 20;
const SAMPLES: u64 = 64;
/// Why floats are taken for microseconds.
const WHOLE: &str = "times are floats that are whole numbers";
/// Rows converted at a time where a column is only looked at.
const GLANCE: usize = 1 << 10;

/// An event column in a stored array.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) column: Column,
    pub(crate) cell: Cell,
    /// Bytes from the start of a row to the value.
    pub(crate) offset: usize,
}

/// A stored array, or those of its columns that stand in the same chunks.
#[derive(Debug)]
pub(crate) struct Part {
    /// What to call it in messages.
    pub(crate) name: String,
    pub(crate) rows: u64,
    /// Bytes of a row, decoded.
    pub(crate) row_bytes: usize,
    /// Bytes of an element of the stored array.
    pub(crate) element: usize,
    pub(crate) fields: Vec<Field>,
    pub(crate) storage: Storage,
}

/// Where the bytes of a part are.
#[derive(Debug)]
pub(crate) enum Storage {
    /// In memory.
    Memory(Arc<[u8]>),
    /// In memory once they are needed, from this byte on.
    Lazy(Arc<dyn Lazy>, usize),
    /// In the file, one row after the other, from this byte on.
    Plain(u64),
    /// In chunks of as many rows each.
    Chunks { rows: u64, filters: Vec<Filter>, chunks: Vec<Chunk>, fill: Vec<u8> },
}

/// Bytes that are made when they are first needed.
pub(crate) trait Lazy: Send + Sync + std::fmt::Debug {
    /// The bytes, or why there are none.
    fn bytes(&self) -> Result<&[u8], Unreadable>;
}

/// Where a chunk is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// First byte; `ABSENT` for a chunk that was never written.
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    /// Filters that were left out.
    pub(crate) mask: u32,
}

impl Chunk {
    pub(crate) const ABSENT: Self = Self { address: u64::MAX, bytes: 0, mask: 0 };
}

impl Part {
    /// Rows of a chunk.
    fn chunk_rows(&self) -> u64 {
        match &self.storage {
            Storage::Chunks { rows, .. } => *rows,
            Storage::Memory(_) | Storage::Lazy(..) | Storage::Plain(_) => (PIECE / self.row_bytes.max(1) as u64).clamp(1, UNIT),
        }
    }

    /// Rows that must be decoded together.
    fn together(&self) -> u64 {
        match &self.storage {
            Storage::Chunks { rows, filters, .. } if !filters.is_empty() => *rows,
            _ => 1,
        }
    }

    fn columns(&self) -> Columns {
        self.fields.iter().map(|field| field.column).collect()
    }

    /// The rows of a chunk.
    fn rows_of(&self, chunk: u64) -> Range<u64> {
        let rows = self.chunk_rows();
        chunk * rows..((chunk + 1).saturating_mul(rows)).min(self.rows)
    }

    /// Whether the only filter is the Prophesee event codec, which decodes into columns by itself.
    fn is_ecf(&self) -> bool {
        matches!(&self.storage, Storage::Chunks { filters, .. } if matches!(filters.as_slice(), [Filter { id: filter::ECF, .. }]))
    }

    fn place(&self, chunk: u64) -> Option<Chunk> {
        match &self.storage {
            Storage::Chunks { chunks, .. } => chunks.get(usize::try_from(chunk).ok()?).copied(),
            Storage::Plain(start) => {
                let rows = self.rows_of(chunk);
                let bytes = u32::try_from((rows.end - rows.start) * self.row_bytes as u64).ok()?;
                Some(Chunk { address: start + rows.start * self.row_bytes as u64, bytes, mask: 0 })
            }
            Storage::Memory(_) | Storage::Lazy(..) => None,
        }
    }

    /// The bytes of the rows from `row` on, where they are in memory.
    fn memory(&self, row: u64) -> Result<&[u8], Unreadable> {
        let bytes = match &self.storage {
            Storage::Memory(bytes) => bytes,
            Storage::Lazy(bytes, start) => bytes.bytes()?.get(*start..).unwrap_or_default(),
            Storage::Plain(_) | Storage::Chunks { .. } => &[],
        };
        let start = usize::try_from(row).unwrap_or(usize::MAX).saturating_mul(self.row_bytes);
        Ok(bytes.get(start..).unwrap_or_default())
    }
}

/// How stored numbers become events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meaning {
    pub(crate) time: Time,
    pub(crate) x: Pixel,
    pub(crate) y: Pixel,
}

impl Meaning {
    /// Times, and whole pixels below `width`.
    pub(crate) fn of(time: Time, width: u16) -> Self {
        let pixel = |limit: u16| Pixel { parts: 1, first: 0, limit };
        Self { time, x: pixel(width), y: pixel(Geometry::MAX) }
    }

    /// Whether the file counts whole pixels and microseconds.
    fn is_plain(&self) -> bool {
        self.time.unit == TimeUnit::Microseconds && self.x.is_plain() && self.y.is_plain()
    }
}

/// Gives the time of a row; `None` if it cannot be told.
pub(crate) type TimeAt<'a> = &'a (dyn Fn(u64) -> Result<Option<i64>> + Sync);

/// Where a file says which rows have which times.
pub(crate) trait TimeIndex: Send + Sync {
    /// Rows outside which there are none of these times, if that can be told and proves true; `time_at` gives the
    /// time of a row. A `Problems` entry says where the index does not fit the times.
    fn find(&self, range: TimeRange, rows: u64, time_at: TimeAt<'_>, notes: &mut Problems) -> Result<Option<Range<u64>>>;

    /// Compares the times of `rows` with the index; a `Problems` entry says if it does not fit them.
    fn check(&self, rows: Range<u64>, times: &[i64], notes: &mut Problems);
}

/// External triggers of a file, read on demand.
pub(crate) trait TriggerSource: Send + Sync {
    /// The triggers that can be read; counts the others.
    fn read(&self, problems: &mut Problems) -> Result<TriggerColumns>;
}

/// Events in arrays.
pub(crate) struct ArrayTable {
    pub(crate) source: Arc<Source>,
    pub(crate) parts: Vec<Part>,
    pub(crate) meaning: Meaning,
    pub(crate) index: Option<Box<dyn TimeIndex>>,
    pub(crate) triggers: Option<Box<dyn TriggerSource>>,
    /// Whether columns that lie in the file as they are to be given are mapped, not read.
    pub(crate) memory_map: bool,
    /// Problems that opening found.
    pub(crate) notes: Problems,
    /// Problems that looking up times found.
    found: Mutex<Problems>,
    /// Whether coordinates between pixels have been seen.
    between: AtomicBool,
    /// Times of rows at even distances, if they are in order.
    samples: OnceLock<Option<Vec<i64>>>,
    /// Whether stored polarities are all 1 or -1, if that has been looked at.
    signs: OnceLock<bool>,
}

/// What a thread decodes with.
#[derive(Default)]
struct Tools {
    buffer: Buffer,
    decoder: Decoder,
}

/// Runs `work` with this thread's tools.
fn with_tools<R>(work: impl FnOnce(&mut Tools) -> R) -> R {
    thread_local!(static TOOLS: RefCell<Tools> = RefCell::new(Tools::default()));
    TOOLS.with(|tools| match tools.try_borrow_mut() {
        Ok(mut tools) => work(&mut tools),
        // A task that this thread took up while it waited inside another.
        Err(_) => work(&mut Tools::default()),
    })
}

/// One chunk to decode: which rows, and where to.
struct Task<'a> {
    part: &'a Part,
    chunk: Option<Chunk>,
    /// Rows of the table that are wanted, all in this chunk.
    rows: Range<u64>,
    /// First row of the chunk.
    start: u64,
    out: Slots<'a>,
    /// Columns of `out`, and those to look at.
    columns: Columns,
    check: Columns,
}

/// Why a chunk cannot be decoded.
pub(crate) type Unreadable = Cow<'static, str>;

impl ArrayTable {
    pub(crate) fn new(source: Arc<Source>, parts: Vec<Part>, meaning: Meaning) -> Self {
        Self {
            source,
            parts,
            meaning,
            index: None,
            triggers: None,
            memory_map: false,
            notes: Problems::default(),
            found: Mutex::default(),
            between: AtomicBool::new(false),
            samples: OnceLock::new(),
            signs: OnceLock::new(),
        }
    }

    /// Whether a column lies in the file as it is to be given, but for values that no event can have.
    fn is_as_given(&self, part: &Part) -> Result<bool> {
        let [Field { column, cell, offset: 0 }] = part.fields.as_slice() else { return Ok(false) };
        if part.row_bytes != cell.number.bytes() || cell.big_endian || cfg!(target_endian = "big") {
            return Ok(false);
        }
        let Meaning { time, x, y } = self.meaning;
        Ok(match (column, cell.number) {
            (Column::X, Number::I16 | Number::U16) => x.is_plain(),
            (Column::Y, Number::I16 | Number::U16) => y.is_plain(),
            (Column::Timestamp, Number::I64 | Number::U64 | Number::Time) => time.unit == TimeUnit::Microseconds && time.offset_us == 0,
            (Column::Polarity, Number::I8) => {
                if let Some(signs) = self.signs.get() {
                    *signs
                } else {
                    let found = self.has_signs(part)?;
                    *self.signs.get_or_init(|| found)
                }
            }
            _ => false,
        })
    }

    /// Whether the bytes of a part are all 1 or -1.
    fn has_signs(&self, part: &Part) -> Result<bool> {
        let places: Vec<Chunk> = (0..part.rows.div_ceil(part.chunk_rows())).filter_map(|chunk| part.place(chunk)).collect();
        let all = places.into_par_iter().map(|place| {
            if !self.is_inside(place) {
                return Ok(false);
            }
            with_tools(|tools| {
                let bytes = tools.buffer.take(place.bytes as usize);
                self.source.read_exact_at(bytes, place.address)?;
                Ok(bytes.iter().fold(true, |all, byte| all & (byte.cast_signed().unsigned_abs() == 1)))
            })
        });
        all.try_reduce(|| true, |a, b| Ok(a & b))
    }

    /// One run of chunks that lie close together.
    fn decode_run(&self, tasks: &mut [Task<'_>]) -> Result<Vec<Range<u64>>> {
        let mut suspects = Vec::new();
        with_tools(|tools| {
            let Tools { buffer, decoder } = tools;
            let places = || tasks.iter().filter_map(|task| task.chunk).filter(|chunk| self.is_inside(*chunk));
            let first = places().map(|chunk| chunk.address).min().unwrap_or(0);
            let end = places().map(|chunk| chunk.address + u64::from(chunk.bytes)).max().unwrap_or(0);
            let bytes = buffer.take(usize::try_from(end.saturating_sub(first)).unwrap_or(0));
            self.source.read_exact_at(bytes, first)?;
            for task in tasks {
                let raw = match task.chunk {
                    Some(chunk) if self.is_inside(chunk) => {
                        let start = (chunk.address - first) as usize;
                        bytes.get(start..start + chunk.bytes as usize)
                    }
                    _ => None,
                };
                match self.decode(task, raw, decoder) {
                    Ok(seen) => {
                        if seen.between {
                            self.between.store(true, Ordering::Relaxed);
                        }
                        if seen.bad {
                            suspects.push(task.rows.clone());
                        }
                    }
                    Err(_) => suspects.push(task.rows.clone()),
                }
            }
            Ok(suspects)
        })
    }

    /// Whether a chunk's bytes are all in the file.
    fn is_inside(&self, chunk: Chunk) -> bool {
        chunk.address.checked_add(chunk.bytes.into()).is_some_and(|end| end <= self.source.len())
    }

    /// Decodes one chunk, whose bytes are `raw`, into its columns.
    fn decode(&self, task: &mut Task<'_>, raw: Option<&[u8]>, decoder: &mut Decoder) -> Result<Seen, Unreadable> {
        let part = task.part;
        let row_bytes = part.row_bytes;
        let skip = (task.rows.start - task.start) as usize;
        let count = (task.rows.end - task.rows.start) as usize;
        let mut seen = Seen::default();
        let mut convert = |offset: usize, bytes: &[u8], out: &mut Slots<'_>| {
            seen.add(self.convert(part, task.check, offset / row_bytes, bytes, skip..skip + count, out));
        };
        match &part.storage {
            Storage::Memory(_) | Storage::Lazy(..) => {
                let bytes = part.memory(task.start)?;
                if bytes.len() < (skip + count) * row_bytes {
                    return Err("the member ends before its rows".into());
                }
                convert(0, bytes.get(..(skip + count) * row_bytes).unwrap_or_default(), &mut task.out);
            }
            Storage::Plain(_) => convert(0, raw.ok_or("it lies beyond the end of the file")?, &mut task.out),
            Storage::Chunks { rows, filters, fill, .. } => {
                if task.chunk.is_none_or(|chunk| chunk == Chunk::ABSENT) {
                    filled(fill, row_bytes, skip..skip + count, |first, bytes| convert(first * row_bytes, bytes, &mut task.out));
                    return Ok(seen);
                }
                let raw = raw.ok_or("it lies beyond the end of the file")?;
                let mask = task.chunk.map_or(0, |chunk| chunk.mask);
                // The event codec itself knows only whole pixels and microseconds.
                if part.is_ecf() && mask & 1 == 0 && self.meaning.is_plain() {
                    return self.decode_ecf(task, raw);
                }
                let size = usize::try_from(*rows).ok().and_then(|rows| rows.checked_mul(row_bytes)).ok_or("its size is out of range")?;
                let wanted = skip * row_bytes..(skip + count) * row_bytes;
                let mut reached = wanted.start;
                let out = &mut task.out;
                decoder
                    .decode(filters, filter::Chunk { raw, mask, size, element: part.element }, wanted.clone(), &mut |offset, bytes| {
                        reached = reached.max(offset + bytes.len());
                        convert(offset, bytes, out);
                    })
                    .map_err(|error| Unreadable::from(error.to_string()))?;
                if reached < wanted.end {
                    return Err(format!("it has {} rows of {}", reached / row_bytes, rows).into());
                }
            }
        }
        Ok(seen)
    }

    /// Converts decoded rows, the first of which is row `first` of its chunk, as far as they are in `wanted`.
    #[inline]
    fn convert(&self, part: &Part, check: Columns, first: usize, bytes: &[u8], wanted: Range<usize>, out: &mut Slots<'_>) -> Seen {
        let row_bytes = part.row_bytes;
        let from = wanted.start.max(first);
        let end = wanted.end.min(first + bytes.len() / row_bytes);
        let mut seen = Seen::default();
        if from >= end {
            return seen;
        }
        let bytes = bytes.get((from - first) * row_bytes..(end - first) * row_bytes).unwrap_or_default();
        let rows = from - wanted.start..end - wanted.start;
        for field in &part.fields {
            let values = Values { bytes, cell: field.cell, offset: field.offset, stride: row_bytes };
            let check = check.contains(field.column);
            let Meaning { time, x, y } = self.meaning;
            seen.add(match field.column {
                Column::X => glance(out.x, &rows, check, values, |values, out| simd::run(Pixels(values, x, out))),
                Column::Y => glance(out.y, &rows, check, values, |values, out| simd::run(Pixels(values, y, out))),
                Column::Timestamp => glance(out.t, &rows, check, values, |values, out| simd::run(Times(values, time, out))),
                Column::Polarity => glance(out.p, &rows, check, values, |values, out| simd::run(Polarities(values, out))),
            });
        }
        seen
    }

    /// Decodes a chunk of the Prophesee event codec.
    fn decode_ecf(&self, task: &mut Task<'_>, raw: &[u8]) -> Result<Seen, Unreadable> {
        let (skip, count) = ((task.rows.start - task.start) as usize, (task.rows.end - task.rows.start) as usize);
        let whole = task.part.rows_of(task.start / task.part.chunk_rows());
        let rows = (whole.end - whole.start) as usize;
        let decode = |out: &mut Slots<'_>| -> Result<Seen, Unreadable> {
            let found = ecf::decode_columns(raw, task.part.chunk_rows() as usize, out.x, out.y, out.t, out.p)
                .map_err(|error| Unreadable::from(error.to_string()))?;
            if found < skip + count {
                return Err(format!("it has {found} events of {rows}").into());
            }
            Ok(self.finish_ecf(out))
        };
        if count == rows && task.check == task.columns {
            return decode(&mut task.out);
        }
        // A column that is only looked at, or rows that are only a part, are decoded into memory of their own.
        let mut scratch = ColumnsBuilder::new(rows, task.check);
        let seen = decode(&mut scratch.slots())?;
        let found = scratch.finish(rows);
        let found = found.rows(skip, count);
        copy(task.out.x, found.x);
        copy(task.out.y, found.y);
        copy(task.out.t, found.t);
        copy(task.out.p, found.p);
        Ok(seen)
    }

    /// What is left to do after the event codec: the offset of times, and a look at the pixels.
    fn finish_ecf(&self, out: &mut Slots<'_>) -> Seen {
        let beyond = |pixels: &[i16], pixel: Pixel| pixels.iter().fold(false, |bad, value| bad | (value.cast_unsigned() >= pixel.limit));
        let mut bad = beyond(out.x, self.meaning.x) | beyond(out.y, self.meaning.y);
        let offset = self.meaning.time.offset_us;
        if offset != 0 {
            for t in out.t.iter_mut() {
                let (sum, over) = t.overflowing_add(offset);
                *t = sum;
                bad |= over;
            }
        }
        Seen { bad, between: false }
    }

    /// The time of one row; `None` if it cannot be told.
    fn time_at(&self, row: u64) -> Result<Option<i64>> {
        let only_time = Columns::NONE.with(Column::Timestamp);
        let mut builder = ColumnsBuilder::new(1, only_time);
        let suspects = self.fill(row..row + 1, only_time, only_time, builder.slots())?;
        Ok(builder.finish(1).timestamp().first().copied().filter(|_| suspects.is_empty()))
    }

    /// Keeps what is wrong with the index, once.
    fn note(&self, notes: Problems) {
        if notes.is_empty() {
            return;
        }
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            *known = notes;
        }
    }

    /// Rows outside which there are none of these times, where samples show them in order.
    ///
    /// A unit of rows is kept on either side: times that are out of order by less than that are found too.
    fn bisect(&self, range: TimeRange) -> Result<Option<Range<u64>>> {
        let (rows, unit) = (self.rows(), self.unit());
        let units = rows.div_ceil(unit);
        if rows < BISECT_FROM || units < 2 * SAMPLES {
            return Ok(None);
        }
        let sample = |number: u64| number * (units - 1) / (SAMPLES - 1);
        let samples = if let Some(samples) = self.samples.get() {
            samples
        } else {
            let times: Vec<Option<i64>> =
                (0..SAMPLES).into_par_iter().map(|number| self.time_at(sample(number) * unit)).collect::<Result<_>>()?;
            let times: Option<Vec<i64>> = times.into_iter().collect();
            self.samples.get_or_init(|| times.filter(|times| times.is_sorted()))
        };
        let Some(samples) = samples else { return Ok(None) };
        // The first unit that starts at or after a time.
        let first_from = |time: i64| -> Result<u64> {
            let after = samples.partition_point(|sample| *sample < time) as u64;
            let (mut low, mut high) =
                (if after == 0 { 0 } else { sample(after - 1) + 1 }, if after < SAMPLES { sample(after) } else { units });
            while low < high {
                let middle = low.midpoint(high);
                match self.time_at(middle * unit)? {
                    Some(found) if found < time => low = middle + 1,
                    _ => high = middle,
                }
            }
            Ok(low)
        };
        let start = first_from(range.start())?.saturating_sub(2) * unit;
        let end = match range.end() {
            Some(end) => (first_from(end)? + 1) * unit,
            None => rows,
        };
        Ok(Some(start.min(rows)..end.min(rows)))
    }

    /// The tasks of decoding `rows`, in runs that are read at once.
    fn tasks<'a>(&'a self, rows: &Range<u64>, columns: Columns, check: Columns, mut out: Slots<'a>) -> Vec<Task<'a>> {
        let mut tasks = Vec::new();
        for part in &self.parts {
            let has = part.columns();
            let (columns, check) = (has.and(columns), has.and(check.or(columns)));
            if check.is_empty() {
                continue;
            }
            let mut out = out.take(columns);
            let mut at = rows.start;
            while at < rows.end {
                let chunk = at / part.chunk_rows();
                let end = part.rows_of(chunk).end.min(rows.end);
                tasks.push(Task {
                    part,
                    chunk: part.place(chunk),
                    rows: at..end,
                    start: chunk * part.chunk_rows(),
                    out: out.split_off_front((end - at) as usize),
                    columns,
                    check,
                });
                at = end;
            }
        }
        tasks.sort_by_key(|task| task.chunk.map_or(0, |chunk| chunk.address));
        tasks
    }

    /// Marks why rows of a part have to be left out.
    fn judge_part(&self, part: &Part, rows: &Range<u64>, reasons: &mut [Reason], problems: &mut Problems) -> Result<()> {
        let mut at = rows.start;
        while at < rows.end {
            let number = at / part.chunk_rows();
            let whole = part.rows_of(number);
            let end = whole.end.min(rows.end);
            let wanted = (at - whole.start) as usize..(end - whole.start) as usize;
            let place = (at - rows.start) as usize..(end - rows.start) as usize;
            let reasons = reasons.get_mut(place).unwrap_or_default();
            let chunk = part.place(number);
            let unreadable = self.look(part, chunk, &whole, wanted, reasons)?;
            if let Some(why) = unreadable {
                let lost = reasons.iter_mut().filter(|reason| **reason != Reason::Unreadable);
                let lost = lost.map(|reason| *reason = Reason::Unreadable).count();
                let place = chunk.filter(|chunk| *chunk != Chunk::ABSENT);
                let bytes = place.filter(|_| at == whole.start).map_or(0, |chunk| chunk.bytes.into());
                // Where those are that a file has lost with its tail may not be known.
                let offset = place.map_or(0, |chunk| chunk.address.min(self.source.len()));
                problems.add(ProblemCode::Unreadable, lost as u64, bytes, offset, || {
                    format!("`{}`, chunk {number} (rows {} to {}) at byte {offset}: {why}", part.name, whole.start, whole.end - 1)
                });
            }
            at = end;
        }
        Ok(())
    }

    /// Looks at the values of a chunk one by one; says why, if the chunk cannot be decoded.
    fn look(
        &self,
        part: &Part,
        chunk: Option<Chunk>,
        whole: &Range<u64>,
        wanted: Range<usize>,
        reasons: &mut [Reason],
    ) -> Result<Option<Unreadable>> {
        let mut reached = wanted.start;
        let mut look = |first: usize, bytes: &[u8]| {
            let rows = bytes.len() / part.row_bytes;
            for row in wanted.start.max(first)..wanted.end.min(first + rows) {
                reached = row + 1;
                let Some(reason) = reasons.get_mut(row - wanted.start) else { continue };
                for field in &part.fields {
                    let values = Values { bytes, cell: field.cell, offset: field.offset, stride: part.row_bytes };
                    let Some(value) = values.get(row - first) else { continue };
                    let found = match field.column {
                        Column::X if value.pixel(self.meaning.x).is_none() => Reason::OutOfBounds,
                        Column::Y if value.pixel(self.meaning.y).is_none() => Reason::OutOfBounds,
                        Column::Timestamp if value.time(self.meaning.time).is_none() => Reason::BadValue,
                        Column::Polarity if value.polarity().is_none() => Reason::BadValue,
                        _ => Reason::None,
                    };
                    *reason = (*reason).max(found);
                }
            }
        };
        match (&part.storage, chunk) {
            (Storage::Memory(_) | Storage::Lazy(..), _) => match part.memory(whole.start) {
                Ok(bytes) => look(0, bytes),
                Err(why) => return Ok(Some(why)),
            },
            (_, Some(chunk)) if chunk != Chunk::ABSENT => {
                if !self.is_inside(chunk) {
                    return Ok(Some("it lies beyond the end of the file".into()));
                }
                let decoded = with_tools(|Tools { buffer, decoder }| {
                    let raw = buffer.take(chunk.bytes as usize);
                    self.source.read_exact_at(raw, chunk.address)?;
                    let Storage::Chunks { rows, filters, .. } = &part.storage else {
                        look(0, raw);
                        return Ok(Ok(()));
                    };
                    let size = usize::try_from(*rows).unwrap_or(usize::MAX).saturating_mul(part.row_bytes);
                    let bytes = wanted.start * part.row_bytes..wanted.end * part.row_bytes;
                    let chunk = filter::Chunk { raw, mask: chunk.mask, size, element: part.element };
                    Ok::<_, crate::Error>(decoder.decode(filters, chunk, bytes, &mut |offset, bytes| look(offset / part.row_bytes, bytes)))
                })?;
                if let Err(error) = decoded {
                    return Ok(Some(error.to_string().into()));
                }
            }
            _ => {
                if let Storage::Chunks { fill, .. } = &part.storage {
                    filled(fill, part.row_bytes, wanted.clone(), &mut look);
                }
            }
        }
        Ok((reached < wanted.end).then(|| format!("it ends after {reached} rows of {}", whole.end - whole.start).into()))
    }
}

/// Why a row has to be left out; what weighs more comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    None,
    BadValue,
    OutOfBounds,
    Unreadable,
}

/// Shows `sink` rows of the fill value, a block at a time: the number of the first and the bytes.
fn filled(fill: &[u8], row_bytes: usize, rows: Range<usize>, mut sink: impl FnMut(usize, &[u8])) {
    let step = (PIECE as usize / row_bytes.max(1)).clamp(1, GLANCE);
    let row = if fill.is_empty() { &[0] } else { fill };
    let block: Vec<u8> = row.iter().copied().cycle().take(row_bytes * step.min(rows.len())).collect();
    for first in rows.clone().step_by(step) {
        sink(first, block.get(..row_bytes * step.min(rows.end - first)).unwrap_or_default());
    }
}

/// Copies the values of a column that is wanted.
fn copy<T: Copy>(out: &mut [T], from: &[T]) {
    if !out.is_empty() {
        out.copy_from_slice(from);
    }
}

/// Converts into the rows `rows` of a column, or, where it is not wanted but to be checked, into nothing.
#[inline]
fn glance<T: Copy + Default>(
    out: &mut [T],
    rows: &Range<usize>,
    check: bool,
    values: Values<'_>,
    run: impl Fn(Values<'_>, &mut [T]) -> Seen,
) -> Seen {
    if !out.is_empty() {
        return run(values, out.get_mut(rows.clone()).unwrap_or_default());
    }
    let mut seen = Seen::default();
    if check {
        let mut nothing = [T::default(); GLANCE];
        for block in values.bytes.chunks(GLANCE * values.stride) {
            let rows = block.len() / values.stride;
            seen.add(run(Values { bytes: block, ..values }, nothing.get_mut(..rows).unwrap_or_default()));
        }
    }
    seen
}

impl Table for ArrayTable {
    fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).min().unwrap_or(0)
    }

    fn unit(&self) -> u64 {
        let together = self.parts.iter().map(Part::together).max().unwrap_or(1);
        together * (UNIT / together).max(1)
    }

    fn fill(&self, rows: Range<u64>, columns: Columns, check: Columns, out: Slots<'_>) -> Result<Vec<Range<u64>>> {
        // Bytes that are still to be made are made side by side, not one after the other by whoever comes first.
        let lazy = self.parts.iter().filter(|part| matches!(part.storage, Storage::Lazy(..)));
        let lazy: Vec<&Part> = lazy.filter(|part| !part.columns().and(columns.or(check)).is_empty()).collect();
        lazy.par_iter().for_each(|part| drop(part.memory(0)));
        let mut tasks = self.tasks(&rows, columns, check, out);
        let mut runs: Vec<&mut [Task<'_>]> = Vec::new();
        let mut rest = tasks.as_mut_slice();
        // Where there is little to read, runs are short, so that all threads have some.
        let most = (stored_bytes(rest) / RUNS).min(RUN);
        while !rest.is_empty() {
            let (run, after) = rest.split_at_mut(run_length(rest, most));
            runs.push(run);
            rest = after;
        }
        let suspects: Vec<_> = runs.into_par_iter().map(|run| self.decode_run(run)).collect::<Result<_>>()?;
        Ok(suspects.into_iter().flatten().collect())
    }

    fn stored(&self, rows: &Range<u64>, columns: Columns) -> Result<Vec<Stored<'_>>> {
        let mut found = Vec::new();
        for part in self.parts.iter().filter(|_| self.memory_map) {
            let (Storage::Plain(start), [field]) = (&part.storage, part.fields.as_slice()) else { continue };
            let offset = start + rows.start * part.row_bytes as u64;
            if !columns.contains(field.column) || !self.is_as_given(part)? {
                continue;
            }
            if let Some((file, offset)) = self.source.file_of(offset, (rows.end - rows.start) * part.row_bytes as u64)?
                && offset.is_multiple_of(part.row_bytes as u64)
            {
                found.push(Stored { column: field.column, file, offset });
            }
        }
        Ok(found)
    }

    fn judge(&self, rows: Range<u64>, keep: &mut [u8], problems: &mut Problems) -> Result<()> {
        let mut reasons = vec![Reason::None; keep.len()];
        for part in &self.parts {
            self.judge_part(part, &rows, &mut reasons, problems)?;
        }
        for (code, wanted) in [(ProblemCode::OutOfBounds, Reason::OutOfBounds), (ProblemCode::BadValue, Reason::BadValue)] {
            let hit = reasons.iter().filter(|reason| **reason == wanted).count() as u64;
            let first = rows.start + reasons.iter().position(|reason| *reason == wanted).unwrap_or(0) as u64;
            let offset = self.parts.first().and_then(|part| part.place(first / part.chunk_rows())).filter(|chunk| *chunk != Chunk::ABSENT);
            problems.add(code, hit, 0, offset.map_or(0, |chunk| chunk.address), || match code {
                ProblemCode::OutOfBounds => {
                    format!("{hit} outside {}x{}, the first in row {first}", self.meaning.x.limit, self.meaning.y.limit)
                }
                _ => format!("{hit} without a time or polarity, the first in row {first}"),
            });
        }
        for (keep, reason) in keep.iter_mut().zip(reasons) {
            *keep = u8::from(reason == Reason::None);
        }
        Ok(())
    }

    fn seek(&self, range: TimeRange) -> Result<Option<Range<u64>>> {
        let Some(index) = &self.index else { return self.bisect(range) };
        let mut notes = Problems::default();
        let found = index.find(range, self.rows(), &|row| self.time_at(row), &mut notes)?;
        self.note(notes);
        match found {
            Some(found) => Ok(Some(found)),
            None => self.bisect(range),
        }
    }

    fn check_times(&self, rows: Range<u64>, times: &[i64]) {
        let mut notes = Problems::default();
        if let Some(index) = &self.index {
            index.check(rows, times, &mut notes);
        }
        self.note(notes);
    }

    fn notes(&self) -> Problems {
        let mut notes = self.notes.clone();
        notes.merge(&self.found.lock().unwrap_or_else(PoisonError::into_inner));
        if self.between.load(Ordering::Relaxed) {
            let parts = self.meaning.x.parts;
            notes.add(ProblemCode::Rounded, 1, 0, 0, || {
                if parts > 1 {
                    format!("coordinates are stored in 1/{parts} pixel")
                } else {
                    "coordinates are stored with fractions".to_owned()
                }
            });
        }
        notes
    }

    fn triggers(&self, problems: &mut Problems) -> Result<TriggerColumns> {
        self.triggers.as_ref().map_or_else(|| Ok(TriggerColumns::default()), |triggers| triggers.read(problems))
    }
}

/// Reads small tables: the rows of some parts, without those that have to be left out.
pub(crate) fn read(source: &Arc<Source>, parts: Vec<Part>, meaning: Meaning, problems: &mut Problems) -> Result<EventColumns> {
    let columns = parts.iter().flat_map(|part| &part.fields).map(|field| field.column).collect();
    TableReader::new(ArrayTable::new(Arc::clone(source), parts, meaning)).rows(columns, problems)
}

/// Reads small tables that are of no use unless all of their rows can be read.
pub(crate) fn read_whole(source: &Arc<Source>, parts: Vec<Part>, time: Time) -> Result<EventColumns> {
    let name = parts.first().map(|part| part.name.clone()).unwrap_or_default();
    let mut problems = Problems::default();
    let found = read(source, parts, Meaning::of(time, Geometry::MAX), &mut problems)?;
    match problems.iter().find_map(|problem| problem.examples.first()) {
        Some(why) => Err(Error::format(format!("`{name}` cannot be read: {why}"))),
        None => Ok(found),
    }
}

/// Values of the first rows of a column that is taken for times of a unit, in microseconds, without those that do not
/// fit or are no numbers.
pub(crate) fn sample(source: &Arc<Source>, mut parts: Vec<Part>, rows: u64, unit: TimeUnit) -> Result<Vec<i64>> {
    for part in &mut parts {
        part.rows = part.rows.min(rows);
    }
    let meaning = Meaning::of(Time { unit, offset_us: 0 }, Geometry::MAX);
    Ok(read(source, parts, meaning, &mut Problems::default())?.timestamp().to_vec())
}

/// The order of a table's columns, told by their first values, which `sample` gives column by column as [`sample`] does.
pub(crate) fn tell_order(
    number: Number,
    sample: impl Fn(usize, TimeUnit) -> Result<Vec<i64>>,
) -> Result<Result<[Column; 4], order::Unclear>> {
    let all = |unit: TimeUnit| Ok::<_, Error>([sample(0, unit)?, sample(1, unit)?, sample(2, unit)?, sample(3, unit)?]);
    let mut one = sampled_one(number);
    let mut samples = all(if one == 1 { TimeUnit::Microseconds } else { TimeUnit::Seconds })?;
    // Numbers so large that their millionths do not fit.
    if one != 1 && samples.iter().any(Vec::is_empty) && !samples.iter().all(Vec::is_empty) {
        one = 1;
        samples = all(TimeUnit::Microseconds)?;
    }
    Ok(order::tell(samples.each_ref().map(|values| order::Sample { values, one })))
}

/// The unit of times where neither their type nor the layout says it, told by the first values, which `sample` gives as
/// [`sample`] does; and why, unless it is the microseconds of integers.
pub(crate) fn tell_unit(
    number: Number,
    rows: u64,
    sample: impl Fn(TimeUnit) -> Result<Vec<i64>>,
) -> Result<(TimeUnit, Option<&'static str>)> {
    // As microseconds these would be in the year 5000 or later.
    const NANOSECONDS: i64 = 10_i64.pow(17);
    if number.is_float() {
        let one = sampled_one(number);
        let mut values = sample(TimeUnit::Seconds)?;
        let whole = values.iter().all(|value| value % one == 0);
        values.dedup();
        match values.len() {
            // Seconds of which a million do not fit would be 292 000 years.
            0 if rows > 0 => {}
            3.. if whole => return Ok((TimeUnit::Microseconds, Some(WHOLE))),
            _ => return Ok((TimeUnit::Seconds, Some("times are floats"))),
        }
    } else if number.bytes() < 8 {
        return Ok((TimeUnit::Microseconds, None));
    }
    let least = sample(TimeUnit::Microseconds)?.into_iter().min();
    if least.is_some_and(|least| least >= NANOSECONDS) {
        return Ok((TimeUnit::Nanoseconds, Some("times are numbers of 18 or more digits, as nanoseconds since 1970 are")));
    }
    Ok((TimeUnit::Microseconds, number.is_float().then_some(WHOLE)))
}

/// What stands for 1 in a [`sample`] of microseconds for integers, of seconds for floats.
pub(crate) fn sampled_one(number: Number) -> i64 {
    if number.is_float() { 1_000_000 } else { 1 }
}

/// Bytes that the chunks of tasks take in the file.
fn stored_bytes(tasks: &[Task<'_>]) -> u64 {
    tasks.iter().filter_map(|task| task.chunk).map(|chunk| u64::from(chunk.bytes)).sum()
}

/// Number of tasks from the front whose chunks are read at once, about `most` bytes.
fn run_length(tasks: &[Task<'_>], most: u64) -> usize {
    let mut places = tasks.iter().map(|task| task.chunk.unwrap_or(Chunk::ABSENT));
    let Some(first) = places.next() else { return 0 };
    let (start, mut end) = (first.address, first.address.saturating_add(first.bytes.into()));
    let more = places.take_while(|chunk| {
        let near = chunk.address <= end.saturating_add(GAP);
        end = end.max(chunk.address.saturating_add(chunk.bytes.into()));
        near && end - start <= most
    });
    1 + more.count()
}
