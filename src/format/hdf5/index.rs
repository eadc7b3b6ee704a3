//! Time tables of HDF5 files: which rows have which times.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::problem::{ProblemCode, Problems};
use crate::schema::{Column, TimeRange, TimeUnit};
use crate::source::Source;

use super::meta::{Dataset, Dtype};
use super::{Wanted, cell, numbers, parts, read};
use crate::format::array::TimeIndex;
use crate::format::array::cell::Time;

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

    fn find(&self, range: TimeRange, rows: u64, time_at: &dyn Fn(u64) -> Result<Option<i64>>) -> Result<Option<Range<u64>>> {
        let row = |at: usize| self.rows.get(at).map_or(rows, |row| u64::try_from(*row).unwrap_or(0).min(rows));
        // An entry beyond the last says nothing: start from the last.
        let start = match self.bin(range.start()) {
            Some(bin) => row(bin.min(self.rows.len().saturating_sub(1))),
            None => 0,
        };
        let before = if start == 0 {
            true
        } else {
            time_at(start - 1)?.is_some_and(|time| time < range.start()) || self.starts(range, start, time_at)?
        };
        if !before {
            return Ok(None);
        }
        let Some(end_us) = range.end() else { return Ok(Some(start..rows)) };
        let first = self.bin(end_us.saturating_add(self.period_us - 1)).unwrap_or(0);
        for step in 0..TRIES {
            // The further away, the longer the steps.
            let end = row(first + step * step);
            if end >= rows || time_at(end)?.is_some_and(|time| time >= end_us) {
                return Ok(Some(start.min(end)..end));
            }
            if !self.early {
                return Ok(None);
            }
        }
        Ok(Some(start..rows))
    }

    /// Whether an early entry is before the range, so that all rows in front of it are.
    fn starts(&self, range: TimeRange, row: u64, time_at: &dyn Fn(u64) -> Result<Option<i64>>) -> Result<bool> {
        Ok(self.early && time_at(row)?.is_some_and(|time| time < range.start()))
    }

    fn look_up(
        &self,
        range: TimeRange,
        rows: u64,
        time_at: &dyn Fn(u64) -> Result<Option<i64>>,
        notes: &mut Problems,
    ) -> Result<Option<Range<u64>>> {
        let possible = self.rows.is_sorted() && self.rows.first().is_none_or(|row| *row >= 0) && !self.rows.is_empty();
        let found = if possible { self.find(range, rows, time_at)? } else { None };
        if found.is_none() && !self.rows.is_empty() {
            notes.add(ProblemCode::IndexMismatch, 1, 0, 0, || {
                format!("`{}` does not fit the times of the events; it is not used", self.path)
            });
        }
        Ok(found)
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
}

impl TimeIndex for Milliseconds {
    fn find(
        &self,
        range: TimeRange,
        rows: u64,
        time_at: &dyn Fn(u64) -> Result<Option<i64>>,
        notes: &mut Problems,
    ) -> Result<Option<Range<u64>>> {
        let bins = self.bins.get_or_init(|| {
            // A table that cannot be read is one that does not fit.
            let rows = numbers(&self.source, &self.dataset).unwrap_or_else(|_| vec![-1]);
            Bins { path: self.dataset.path.clone(), start_us: self.offset_us, period_us: 1000, rows, early: false }
        });
        bins.look_up(range, rows, time_at, notes)
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
        let found = read(&self.source, parts(&self.dataset, &wanted, &mut Problems::default())?, time)?;
        Ok(found.timestamp().to_vec())
    }
}

impl TimeIndex for Prophesee {
    fn find(
        &self,
        range: TimeRange,
        rows: u64,
        time_at: &dyn Fn(u64) -> Result<Option<i64>>,
        notes: &mut Problems,
    ) -> Result<Option<Range<u64>>> {
        let bins = self.bins.get_or_init(|| {
            let rows = self.rows().unwrap_or_else(|_| vec![-1]);
            let start_us = self.offset.unwrap_or(0).saturating_neg().saturating_add(self.offset_us);
            Bins { path: self.dataset.path.clone(), start_us, period_us: Self::PERIOD_US, rows, early: true }
        });
        bins.look_up(range, rows, time_at, notes)
    }
}
