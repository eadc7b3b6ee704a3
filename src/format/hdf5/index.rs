//! Time tables of HDF5 files: which rows have which times.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::problem::{ProblemCode, Problems};
use crate::schema::{Column, TimeRange, TimeUnit};
use crate::source::Source;

use super::meta::{Dataset, Dtype};
use super::{Wanted, cell, numbers, parts, read_whole};
use crate::format::array::cell::Time;
use crate::format::array::{TimeAt, TimeIndex};

/// Entries after the first that are tried for the end of a time range.
const TRIES: usize = 64;

/// Rows by time at even distances.
#[derive(Debug)]
struct Bins {
    path: String,
    /// Time of entry 0.
    start_us: i64,
    period_us: i64,
    rows: Vec<i64>,
    /// Whether an entry may be a row before its time.
    early: bool,
}

impl Bins {
    /// Entry of the last bin that starts at or before a time.
    fn bin(&self, time: i64) -> Option<usize> {
        usize::try_from(time.checked_sub(self.start_us)?.div_euclid(self.period_us)).ok()
    }

    fn find(&self, range: TimeRange, rows: u64, time_at: TimeAt<'_>) -> Result<Option<Range<u64>>> {
        // Both ends at once: each costs decoding a chunk.
        let (start, end) = rayon::join(|| self.find_start(range, rows, time_at), || self.find_end(range, rows, time_at));
        Ok(start?.zip(end?).map(|(start, end)| start.min(end)..end))
    }

    /// The row of an entry, `rows` beyond the last.
    fn row(&self, entry: usize, rows: u64) -> u64 {
        self.rows.get(entry).map_or(rows, |row| u64::try_from(*row).unwrap_or(0).min(rows))
    }

    /// A row before which there are only times before the range.
    fn find_start(&self, range: TimeRange, rows: u64, time_at: TimeAt<'_>) -> Result<Option<u64>> {
        // An entry beyond the last says nothing: start from the last.
        let start = match self.bin(range.start()) {
            Some(bin) => self.row(bin.min(self.rows.len().saturating_sub(1)), rows),
            None => 0,
        };
        let before = start == 0 || time_at(start - 1)?.is_some_and(|time| time < range.start()) || self.starts(range, start, time_at)?;
        Ok(before.then_some(start))
    }

    /// A row from which on there are only times after the range.
    fn find_end(&self, range: TimeRange, rows: u64, time_at: TimeAt<'_>) -> Result<Option<u64>> {
        let Some(end_us) = range.end() else { return Ok(Some(rows)) };
        let first = self.bin(end_us.saturating_add(self.period_us - 1)).unwrap_or(0);
        for step in 0..TRIES {
            // The further away, the longer the steps.
            let end = self.row(first + step * step, rows);
            if end >= rows || time_at(end)?.is_some_and(|time| time >= end_us) {
                return Ok(Some(end));
            }
            if !self.early {
                return Ok(None);
            }
        }
        Ok(Some(rows))
    }

    /// Whether an early entry is before the range, so that all rows in front of it are.
    fn starts(&self, range: TimeRange, row: u64, time_at: TimeAt<'_>) -> Result<bool> {
        Ok(self.early && time_at(row)?.is_some_and(|time| time < range.start()))
    }

    /// Whether the entries can be rows by time at all.
    fn is_possible(&self) -> bool {
        self.rows.is_sorted() && self.rows.first().is_some_and(|row| *row >= 0)
    }

    fn look_up(&self, range: TimeRange, rows: u64, time_at: TimeAt<'_>, notes: &mut Problems) -> Result<Option<Range<u64>>> {
        let found = if self.is_possible() { self.find(range, rows, time_at)? } else { None };
        if found.is_none() {
            self.refuse(notes);
        }
        Ok(found)
    }

    fn refuse(&self, notes: &mut Problems) {
        if !self.rows.is_empty() {
            notes.add(ProblemCode::IndexMismatch, 1, 0, 0, || {
                format!("`{}` does not fit the times of the events; it is not used", self.path)
            });
        }
    }

    /// Compares every time of `rows` with the entries before and after it.
    fn check(&self, rows: &Range<u64>, times: &[i64], notes: &mut Problems) {
        if !self.is_possible() {
            return self.refuse(notes);
        }
        let row_of = |entry: usize| self.rows.get(entry).map_or(u64::MAX, |row| u64::try_from(*row).unwrap_or(0));
        let time_of = |entry: usize| {
            let since = i64::try_from(entry).ok().and_then(|entry| entry.checked_mul(self.period_us));
            since.and_then(|since| since.checked_add(self.start_us)).unwrap_or(i64::MAX)
        };
        let mut at = rows.start;
        while at < rows.end {
            // The first entry after this row; the one before it, if any, is of this row or an earlier one.
            let next = self.rows.partition_point(|row| u64::try_from(*row).unwrap_or(0) <= at);
            let end = row_of(next).min(rows.end);
            let low = if self.early || next == 0 { i64::MIN } else { time_of(next - 1) };
            let high = if next < self.rows.len() { time_of(next) } else { i64::MAX };
            let part = times.get((at - rows.start) as usize..(end - rows.start) as usize).unwrap_or_default();
            let (least, most) = part.iter().fold((i64::MAX, i64::MIN), |(least, most), t| (least.min(*t), most.max(*t)));
            if least < low || most >= high && high < i64::MAX {
                return self.refuse(notes);
            }
            at = end;
        }
    }
}

/// `ms_to_idx` and its like: for each millisecond of stored time the first row at or after it.
pub(super) struct Milliseconds {
    source: Arc<Source>,
    dataset: Dataset,
    offset_us: i64,
    bins: OnceLock<Bins>,
}

impl Milliseconds {
    pub(super) fn new(source: Arc<Source>, dataset: Dataset, offset_us: i64) -> Self {
        Self { source, dataset, offset_us, bins: OnceLock::new() }
    }

    fn bins(&self) -> &Bins {
        if let Some(bins) = self.bins.get() {
            return bins;
        }
        // Read outside the cell: a thread that waits for others takes up tasks that may ask for the same. A table that
        // cannot be read is one that does not fit.
        let rows = numbers(&self.source, &self.dataset).unwrap_or_else(|_| vec![-1]);
        self.bins.get_or_init(|| Bins { path: self.dataset.path.clone(), start_us: self.offset_us, period_us: 1000, rows, early: false })
    }
}

impl TimeIndex for Milliseconds {
    fn find(&self, range: TimeRange, rows: u64, time_at: TimeAt<'_>, notes: &mut Problems) -> Result<Option<Range<u64>>> {
        self.bins().look_up(range, rows, time_at, notes)
    }

    fn check(&self, rows: Range<u64>, times: &[i64], notes: &mut Problems) {
        self.bins().check(&rows, times, notes);
    }
}

/// Prophesee's `CD/indexes`: every 2000 microseconds from the first event on, a row at or before the first of them.
pub(super) struct Prophesee {
    source: Arc<Source>,
    dataset: Dataset,
    /// The negative time of the first event, where the file says it.
    offset: Option<i64>,
    offset_us: i64,
    bins: OnceLock<Bins>,
}

impl Prophesee {
    const PERIOD_US: i64 = 2000;

    pub(super) fn new(source: Arc<Source>, dataset: Dataset, offset: Option<i64>, offset_us: i64) -> Self {
        Self { source, dataset, offset, offset_us, bins: OnceLock::new() }
    }

    fn rows(&self) -> Result<Vec<i64>> {
        let Dtype::Compound { fields, .. } = &self.dataset.dtype else { return Ok(vec![-1]) };
        let Some(field) = fields.iter().find(|field| field.name == "id") else { return Ok(vec![-1]) };
        let Some(cell) = cell(&field.dtype) else { return Ok(vec![-1]) };
        let wanted = [Wanted { column: Column::Timestamp, cell, offset: field.offset, at: 0 }];
        let time = Time { unit: TimeUnit::Microseconds, offset_us: 0 };
        let found = read_whole(&self.source, parts(&self.dataset, &wanted, &mut Problems::default())?, time)?;
        Ok(found.timestamp().to_vec())
    }

    fn bins(&self) -> &Bins {
        if let Some(bins) = self.bins.get() {
            return bins;
        }
        // Outside the cell, as above.
        let rows = self.rows().unwrap_or_else(|_| vec![-1]);
        let start_us = self.offset.unwrap_or(0).saturating_neg().saturating_add(self.offset_us);
        self.bins.get_or_init(|| Bins { path: self.dataset.path.clone(), start_us, period_us: Self::PERIOD_US, rows, early: true })
    }
}

impl TimeIndex for Prophesee {
    fn find(&self, range: TimeRange, rows: u64, time_at: TimeAt<'_>, notes: &mut Problems) -> Result<Option<Range<u64>>> {
        self.bins().look_up(range, rows, time_at, notes)
    }

    fn check(&self, rows: Range<u64>, times: &[i64], notes: &mut Problems) {
        self.bins().check(&rows, times, notes);
    }
}
