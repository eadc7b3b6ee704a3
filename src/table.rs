//! Tables: recordings whose rows can be addressed by number, whatever they are stored in.
//!
//! A [`Table`] decodes any range of rows. Rows are cut into units; the first time a unit is read all of its columns
//! are looked at, so that a row that has to be left out (a pixel outside the sensor, a damaged part of the file) is
//! left out whatever columns a query asks for.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::columns::{ColumnsBuilder, EventColumns, Kept, Slots, Stored, TriggerColumns};
use crate::error::{Error, Result};
use crate::problem::Problems;
use crate::reader::{BatchStream, Progress, Reader, Reading, first_of};
use crate::schema::{Column, Columns, TimeRange};
use crate::selection::{Filter, Selection};

/// Rows that are filtered together on one thread.
const PIECE: usize = 64 << 10;

/// Rows that can be decoded by their numbers.
pub(crate) trait Table: Send + Sync + 'static {
    /// Number of rows, those that will be left out included.
    fn rows(&self) -> u64;

    /// Rows of a unit: what is best decoded together. At least 1.
    fn unit(&self) -> u64;

    /// Decodes `rows` in parallel into `out`, which has the columns `columns`, and looks at the values of the columns
    /// `check` too. Returns parts of `rows` some rows of which have to be left out, or more.
    fn fill(&self, rows: Range<u64>, columns: Columns, check: Columns, out: Slots<'_>) -> Result<Vec<Range<u64>>>;

    /// Columns of `rows` that lie in files as they are to be given, if the caller wants these mapped. `fill` need not
    /// be asked for them.
    fn stored(&self, _rows: &Range<u64>, _columns: Columns) -> Result<Vec<Stored<'_>>> {
        Ok(Vec::new())
    }

    /// Clears `keep` for those of `rows` that have to be left out, and counts them. Every other row of these has
    /// been given its values by `fill`.
    fn judge(&self, rows: Range<u64>, keep: &mut [u8], problems: &mut Problems) -> Result<()>;

    /// Rows outside which there are none of these times, if the file tells it without being decoded.
    fn seek(&self, range: TimeRange) -> Result<Option<Range<u64>>>;

    /// Compares the times of `rows`, all of which are events, with what the file tells of them for `seek`, if it does.
    fn check_times(&self, _rows: Range<u64>, _times: &[i64]) {}

    /// Problems that are known without reading any rows, and those of `seek` and `check_times`.
    fn notes(&self) -> Problems;

    /// The external triggers that can be read; counts the others.
    fn triggers(&self, _problems: &mut Problems) -> Result<TriggerColumns> {
        Ok(TriggerColumns::default())
    }
}

/// What is known of the rows of a unit.
const UNKNOWN: u8 = 0;
const CLEAN: u8 = 1;
const DIRTY: u8 = 2;

/// What a pass over all rows finds out.
struct TableIndex {
    /// Rows that are given, and first and last time, unit by unit.
    units: Vec<(u64, Option<(i64, i64)>)>,
    problems: Problems,
}

/// The reader of a table.
pub(crate) struct TableReader<T: Table> {
    table: T,
    units: Vec<AtomicU8>,
    index: OnceLock<TableIndex>,
    /// First and last time of the units.
    times: OnceLock<Vec<(i64, i64)>>,
    /// The external triggers, and what of them is lost.
    triggers: OnceLock<(TriggerColumns, Problems)>,
}

impl<T: Table> TableReader<T> {
    pub(crate) fn new(table: T) -> Self {
        let units = table.rows().div_ceil(table.unit());
        Self {
            table,
            units: (0..units).map(|_| AtomicU8::new(UNKNOWN)).collect(),
            index: OnceLock::new(),
            times: OnceLock::new(),
            triggers: OnceLock::new(),
        }
    }

    /// All rows but those that have to be left out.
    pub(crate) fn rows(&self, columns: Columns, problems: &mut Problems) -> Result<EventColumns> {
        self.part(0..self.table.rows(), columns, problems)
    }

    /// The rows of a unit.
    fn unit(&self, unit: usize) -> Range<u64> {
        let start = unit as u64 * self.table.unit();
        start..self.table.rows().min(start + self.table.unit())
    }

    /// The numbers of the units that `rows` touch.
    fn units(&self, rows: &Range<u64>) -> Range<usize> {
        let unit = self.table.unit();
        if rows.is_empty() { 0..0 } else { (rows.start / unit) as usize..rows.end.div_ceil(unit) as usize }
    }

    fn state(&self, unit: usize) -> u8 {
        self.units.get(unit).map_or(UNKNOWN, |state| state.load(Ordering::Relaxed))
    }

    /// The columns `columns` of `rows`, without those that have to be left out.
    fn part(&self, rows: Range<u64>, columns: Columns, problems: &mut Problems) -> Result<EventColumns> {
        let len = rows.end - rows.start;
        let count = usize::try_from(len).map_err(|_| Error::invalid(format!("{len} events do not fit the address space")))?;
        let units = self.units(&rows);
        let known = units.clone().all(|unit| self.state(unit) != UNKNOWN);
        let stored = self.table.stored(&rows, columns)?;
        let filled = columns.without(stored.iter().map(|stored| stored.column).collect());
        let check = if known { filled } else { Columns::ALL };
        let mut builder = builder(count, columns, &stored)?;
        let suspects = self.table.fill(rows.clone(), filled, check, builder.slots().take(filled))?;
        for suspect in &suspects {
            for state in self.units.get(self.units(suspect)).unwrap_or_default() {
                state.store(DIRTY, Ordering::Relaxed);
            }
        }
        let mut parts: Vec<Kept> = Vec::new();
        let mut all = true;
        for unit in units {
            let whole = self.unit(unit);
            let part = whole.start.max(rows.start)..whole.end.min(rows.end);
            let place = (part.start - rows.start) as usize..(part.end - rows.start) as usize;
            match self.state(unit) {
                DIRTY => {
                    let mut keep = vec![1; place.len()];
                    self.table.judge(part, &mut keep, problems)?;
                    parts.push(Kept { rows: place, keep: Some(keep) });
                    all = false;
                    continue;
                }
                UNKNOWN if part == whole => {
                    if let Some(state) = self.units.get(unit) {
                        // Another thread may have found it out meanwhile.
                        let _known = state.compare_exchange(UNKNOWN, CLEAN, Ordering::Relaxed, Ordering::Relaxed);
                    }
                }
                _ => {}
            }
            match parts.last_mut() {
                Some(Kept { rows, keep: None }) => rows.end = place.end,
                _ => parts.push(Kept { rows: place, keep: None }),
            }
        }
        let kept = if all { count } else { builder.slots().compact(&parts) };
        Ok(builder.finish(kept))
    }

    /// The rows of `rows` that `filter` wants.
    fn filtered(&self, rows: Range<u64>, filter: &Filter, columns: Columns) -> Result<EventColumns> {
        let events = self.part(rows, filter.columns, &mut Problems::default())?;
        let pieces: Vec<_> = (0..events.len()).step_by(PIECE).collect();
        let masks: Vec<_> = pieces.into_par_iter().map(|at| (at, filter.mask(events.rows(at, PIECE)))).collect();
        let first = masks.iter().find_map(|(at, mask)| Some(at + mask.ends()?.0));
        let last = masks.iter().rev().find_map(|(at, mask)| Some(at + mask.ends()?.1));
        let kept: usize = masks.iter().map(|(_, mask)| mask.kept).sum();
        match first.zip(last) {
            // Most of the rows and one stretch, as a time range gives: they stay where they are.
            Some((first, last)) if last - first + 1 == kept && 2 * kept >= events.len() => Ok(events.slice(first, kept).only(columns)),
            _ => {
                let kept: Vec<_> = masks.into_par_iter().map(|(at, mask)| filter.pick(&mask, events.rows(at, PIECE))).collect();
                Ok(EventColumns::concat(kept, columns))
            }
        }
    }

    /// Rows to decode together: whole units that make about `rows` rows, or one.
    fn step(&self, rows: usize) -> u64 {
        let unit = self.table.unit();
        (rows as u64 / unit).max(1) * unit
    }

    /// Parts of the table outside which there are none of these times.
    fn in_time(&self, range: TimeRange) -> Result<Vec<Range<u64>>> {
        let rows = self.table.rows();
        if range.is_all() {
            return Ok(std::iter::once(0..rows).collect());
        }
        if self.index.get().is_none() && self.times.get().is_none() {
            if let Some(found) = self.table.seek(range)? {
                return Ok(vec![found]);
            }
            let times = self.pass_times()?;
            let _already_there = self.times.set(times);
        }
        let hit = |unit: usize| match (self.index.get(), self.times.get()) {
            (Some(index), _) => index.units.get(unit).and_then(|unit| unit.1).is_some_and(|(first, last)| range.intersects(first, last)),
            (None, Some(times)) => times.get(unit).is_none_or(|(first, last)| range.intersects(*first, *last)),
            (None, None) => true,
        };
        let mut found: Vec<Range<u64>> = Vec::new();
        for unit in (0..self.units.len()).filter(|unit| hit(*unit)) {
            let rows = self.unit(unit);
            match found.last_mut() {
                Some(last) if last.end == rows.start => last.end = rows.end,
                _ => found.push(rows),
            }
        }
        Ok(found)
    }

    /// First and last time of every unit.
    fn pass_times(&self) -> Result<Vec<(i64, i64)>> {
        let only_time = Columns::NONE.with(Column::Timestamp);
        (0..self.units.len())
            .into_par_iter()
            .map(|unit| {
                let rows = self.unit(unit);
                let mut builder = ColumnsBuilder::new((rows.end - rows.start) as usize, only_time);
                let suspects = self.table.fill(rows.clone(), only_time, only_time, builder.slots())?;
                if !suspects.is_empty() {
                    return Ok((i64::MIN, i64::MAX));
                }
                let times = builder.finish((rows.end - rows.start) as usize);
                Ok(extent(times.timestamp()).unwrap_or((i64::MAX, i64::MIN)))
            })
            .collect()
    }

    /// What a pass over all rows finds out; made once.
    fn index(&self, pool: &ThreadPool) -> Result<&TableIndex> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let units: Vec<(_, _, Problems)> = pool.install(|| {
            (0..self.units.len())
                .into_par_iter()
                .map(|unit| {
                    let mut problems = Problems::default();
                    let rows = self.unit(unit);
                    let events = self.part(rows.clone(), Columns::NONE.with(Column::Timestamp), &mut problems)?;
                    if self.state(unit) == CLEAN {
                        self.table.check_times(rows, events.timestamp());
                    }
                    Ok((events.len() as u64, extent(events.timestamp()), problems))
                })
                .collect::<Result<_>>()
        })?;
        let mut index = TableIndex { units: Vec::with_capacity(units.len()), problems: Problems::default() };
        for (rows, times, problems) in units {
            index.units.push((rows, times));
            index.problems.merge(&problems);
        }
        self.find_triggers(pool)?;
        Ok(self.index.get_or_init(|| index))
    }

    /// The external triggers, and what of them is lost; read once.
    fn find_triggers(&self, pool: &ThreadPool) -> Result<&(TriggerColumns, Problems)> {
        if let Some(found) = self.triggers.get() {
            return Ok(found);
        }
        let mut problems = Problems::default();
        let triggers = pool.install(|| self.table.triggers(&mut problems))?;
        Ok(self.triggers.get_or_init(|| (triggers, problems)))
    }
}

/// Columns of `count` rows, those in `stored` mapped.
fn builder(count: usize, columns: Columns, stored: &[Stored<'_>]) -> Result<ColumnsBuilder> {
    if stored.is_empty() {
        return Ok(ColumnsBuilder::new(count, columns));
    }
    #[cfg(target_os = "linux")]
    return ColumnsBuilder::over_files(count, columns, stored)
        .map_err(|error| Error::invalid(format!("the columns cannot be mapped: {error}")).hint("open without `memory_map`"));
    #[cfg(not(target_os = "linux"))]
    Err(Error::invalid("files are mapped on Linux alone").hint("open without `memory_map`"))
}

/// The smallest and the largest value.
fn extent(times: &[i64]) -> Option<(i64, i64)> {
    times.iter().fold(None, |extent, t| Some(extent.map_or((*t, *t), |(low, high): (i64, i64)| (low.min(*t), high.max(*t)))))
}

impl<T: Table> Reader for TableReader<T> {
    fn read(&self, selection: &Selection, pool: &ThreadPool) -> Result<EventColumns> {
        if selection.limit.is_none() && !selection.filters_rows() {
            return pool.install(|| self.rows(selection.columns, &mut Problems::default()));
        }
        // All of it on one thread of the pool: small windows would spend their time on waking threads.
        pool.install(|| TableBatches::new(selection).rest(self, selection.columns, pool))
    }

    fn batches(self: Arc<Self>, selection: &Selection) -> Box<dyn BatchStream> {
        Box::new(Reading { reader: self, progress: TableBatches::new(selection) })
    }

    fn triggers(&self, pool: &ThreadPool) -> Result<TriggerColumns> {
        Ok(self.find_triggers(pool)?.0.clone())
    }

    fn counts(&self, pool: &ThreadPool) -> Result<(u64, u64)> {
        let events = self.index(pool)?.units.iter().map(|unit| unit.0).sum();
        Ok((events, self.find_triggers(pool)?.0.len() as u64))
    }

    fn time_range(&self, pool: &ThreadPool) -> Result<Option<(i64, i64)>> {
        let times = self.index(pool)?.units.iter().filter_map(|unit| unit.1);
        Ok(times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))))
    }

    fn problems(&self, pool: &ThreadPool) -> Result<Problems> {
        let index = self.index(pool)?;
        let mut problems = self.table.notes();
        problems.merge(&index.problems);
        problems.merge(&self.find_triggers(pool)?.1);
        Ok(problems)
    }

    fn is_indexed(&self) -> bool {
        self.index.get().is_some()
    }

    fn save_index(&self, _: &ThreadPool) -> Result<PathBuf> {
        Err(Error::invalid("this format needs no index beside the file: its rows are found by number"))
    }
}

/// How far a stream of batches of a table has come.
struct TableBatches {
    selection: Selection,
    filter: Filter,
    /// Rows still wanted.
    left: u64,
    /// Parts of the table still to be read; none before the first batch.
    rest: Option<VecDeque<Range<u64>>>,
}

impl TableBatches {
    fn new(selection: &Selection) -> Self {
        Self { selection: selection.clone(), filter: Filter::new(selection), left: selection.limit.unwrap_or(u64::MAX), rest: None }
    }
}

impl<T: Table> Progress<TableReader<T>> for TableBatches {
    fn next(&mut self, reader: &TableReader<T>, rows: usize, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        while self.left > 0 {
            if self.rest.is_none() {
                self.rest = Some(pool.install(|| reader.in_time(self.selection.time_range))?.into());
            }
            let Some(rest) = &mut self.rest else { break };
            let Some(front) = rest.front_mut() else { break };
            let filters = self.selection.filters_rows();
            // Where few rows are wanted, only those are decoded; otherwise batches end where units do.
            let step = if filters { reader.step(rows) } else { reader.step(rows).min(self.left) };
            let unit = reader.table.unit();
            let aligned = front.start / unit * unit;
            let end = aligned.saturating_add(step).max(front.start + 1).min(front.end);
            let part = front.start..end;
            front.start = end;
            if front.is_empty() {
                rest.pop_front();
            }
            let columns = self.selection.columns;
            let events = pool.install(|| {
                if filters { reader.filtered(part, &self.filter, columns) } else { reader.part(part, columns, &mut Problems::default()) }
            })?;
            if !events.is_empty() {
                return Ok(Some(first_of(events, &mut self.left)));
            }
        }
        Ok(None)
    }
}
