//! Prophesee's layout: records of events in ECF, records of triggers, and a row for every two milliseconds of each.

use std::ops::Range;

use super::file::{Attribute, Chunks, Dtype, File, Filter};
use super::pipeline::{GROUP, Pipeline};
use super::{SPAN_US, TOO_LATE};
use crate::columns::{Rows, TriggerColumns};
use crate::error::Result;
use crate::format::hdf5::{ecf, filter};
use crate::schema::Geometry;
use crate::write::{Partial, Sink, TriggerLimits};

/// Records of a chunk, of every data set.
const ROWS: usize = 1 << 14;
/// Microseconds between the entries of an index.
const PERIOD_US: i64 = 2000;
/// Bytes of a trigger.
const TRIGGER: usize = 24;
/// Bytes of an entry of an index.
const ENTRY: usize = 16;

/// Records that are written without a filter.
struct Records {
    bytes: usize,
    chunks: Chunks,
    pending: Vec<u8>,
    rows: u64,
}

impl Records {
    fn new(bytes: usize) -> Self {
        Self { bytes, chunks: Chunks::new(ROWS), pending: Vec::new(), rows: 0 }
    }

    fn push(&mut self, file: &mut File, record: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(record);
        self.rows += 1;
        if self.pending.len() == ROWS * self.bytes { self.flush(file) } else { Ok(()) }
    }

    /// Writes what is there as a whole chunk.
    fn flush(&mut self, file: &mut File) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.pending.resize(ROWS * self.bytes, 0);
        file.append_chunk(&mut self.chunks, &self.pending)?;
        self.pending.clear();
        Ok(())
    }

    fn finish(&mut self, file: &mut File, dtype: &Dtype, attributes: &[Attribute]) -> Result<u64> {
        self.flush(file)?;
        file.dataset(self.rows, dtype, &[], &self.chunks, attributes)
    }
}

/// The index of a stream. Entry k is a row that no event of bin k or later comes before: the first of the bin before
/// it that has events, with its time after the first event; at the start, row 0 and time -1.
struct Index {
    records: Records,
    first_us: Option<i64>,
    /// Row and time of the first event of the last bin that has one.
    last: (u64, i64),
}

impl Index {
    fn new() -> Self {
        Self { records: Records::new(ENTRY), first_us: None, last: (0, -1) }
    }

    /// Takes the times of the rows from `row` on.
    fn extend(&mut self, file: &mut File, row: u64, times: &[i64]) -> Result<()> {
        let Some(first) = times.first() else { return Ok(()) };
        let first_us = *self.first_us.get_or_insert(*first);
        let mut at = 0;
        while let Some(rest) = times.get(at..) {
            let next = first_us.saturating_add(PERIOD_US * self.records.rows.cast_signed());
            at += rest.partition_point(|time| *time < next);
            let Some(time) = times.get(at) else { break };
            let bins = (time - first_us) / PERIOD_US + 1;
            while self.records.rows.cast_signed() < bins {
                self.push(file)?;
                self.last = (row + at as u64, time - first_us);
            }
        }
        Ok(())
    }

    fn push(&mut self, file: &mut File) -> Result<()> {
        let (row, time) = self.last;
        let mut record = [0; ENTRY];
        record[..8].copy_from_slice(&row.to_le_bytes());
        record[8..].copy_from_slice(&time.to_le_bytes());
        self.records.push(file, &record)
    }

    fn finish(&mut self, file: &mut File) -> Result<u64> {
        let attributes: Vec<_> = self.first_us.iter().map(|first| Attribute::text("offset", first.wrapping_neg().to_string())).collect();
        if self.first_us.is_some() {
            self.push(file)?;
        }
        let dtype = Dtype::Compound(ENTRY, vec![("id", 0, Dtype::U64), ("ts", 8, Dtype::I64)]);
        self.records.finish(file, &dtype, &attributes)
    }
}

pub(super) struct Writer {
    file: File,
    attributes: Vec<Attribute>,
    pipeline: Pipeline,
    events: [Chunks; 1],
    rows: u64,
    index: Index,
    triggers: Records,
    trigger_index: Index,
    last_trigger_us: i64,
}

impl Writer {
    pub(super) fn new(partial: Partial, geometry: Geometry, date: &str) -> Result<Self> {
        let (width, height) = (geometry.width(), geometry.height());
        let attributes = [
            ("camera_integrator_name", "evlib".to_owned()),
            ("date", date.to_owned()),
            // What the records would be in a RAW file: readers look here for the size of the sensor.
            ("format", format!("EVT3;height={height};width={width}")),
            ("geometry", geometry.to_string()),
            ("plugin_integrator_name", "evlib".to_owned()),
            ("version", "1.0".to_owned()),
        ];
        Ok(Self {
            file: File::new(partial)?,
            attributes: attributes.map(|(name, value)| Attribute::text(name, value)).into(),
            pipeline: Pipeline::default(),
            events: [Chunks::new(ROWS)],
            rows: 0,
            index: Index::new(),
            triggers: Records::new(TRIGGER),
            trigger_index: Index::new(),
            last_trigger_us: 0,
        })
    }
}

impl Sink for Writer {
    fn times(&self, first: i64) -> Range<i64> {
        0..first.saturating_add(SPAN_US)
    }

    fn too_late(&self) -> &'static str {
        TOO_LATE
    }

    fn group(&self) -> Option<usize> {
        Some(GROUP)
    }

    fn write(&mut self, rows: Rows<'_>) -> Result<()> {
        self.index.extend(&mut self.file, self.rows, rows.t)?;
        self.rows += rows.len as u64;
        let jobs = (0..rows.len).step_by(ROWS).map(|start| (0, rows.cut(start..rows.len.min(start + ROWS)))).collect();
        self.pipeline
            .run(&mut self.file, &mut self.events, jobs, |rows: Rows<'_>, _, out| Ok(ecf::encode(rows.x, rows.y, rows.t, rows.p, out)?))
    }

    fn triggers(&mut self, triggers: &TriggerColumns) -> Result<()> {
        let Some(first) = triggers.timestamp.first() else { return Ok(()) };
        let end = self.trigger_index.first_us.unwrap_or(*first).saturating_add(SPAN_US);
        let limits = TriggerLimits { rows: self.triggers.rows, last: self.last_trigger_us, times: 0..end, ids: 256, too_late: TOO_LATE };
        limits.check(triggers)?;
        self.trigger_index.extend(&mut self.file, self.triggers.rows, &triggers.timestamp)?;
        for ((id, p), t) in triggers.id.iter().zip(&triggers.polarity).zip(&triggers.timestamp) {
            let mut record = [0; TRIGGER];
            record[..2].copy_from_slice(&i16::from(*p > 0).to_le_bytes());
            record[8..16].copy_from_slice(&t.to_le_bytes());
            record[16..18].copy_from_slice(&i16::from(*id).to_le_bytes());
            self.triggers.push(&mut self.file, &record)?;
        }
        self.last_trigger_us = triggers.timestamp.last().copied().unwrap_or(self.last_trigger_us);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Partial> {
        self.pipeline.flush(&mut self.file, &mut self.events)?;
        let Self { file, attributes, events, rows, index, triggers, trigger_index, .. } = &mut *self;
        let event =
            Dtype::Compound(ecf::RECORD, vec![("x", 0, Dtype::U16), ("y", 2, Dtype::U16), ("p", 4, Dtype::I16), ("t", 8, Dtype::I64)]);
        let trigger = Dtype::Compound(TRIGGER, vec![("p", 0, Dtype::I16), ("t", 8, Dtype::I64), ("id", 16, Dtype::I16)]);
        let ecf = Filter { id: filter::ECF, name: "", values: &[] };
        let events = file.dataset(*rows, &event, &[ecf], &events[0], &[])?;
        let indexes = index.finish(file)?;
        let cd = file.group(&[("events", events), ("indexes", indexes)], &[])?;
        let events = triggers.finish(file, &trigger, &[])?;
        let indexes = trigger_index.finish(file)?;
        let triggers = file.group(&[("events", events), ("indexes", indexes)], &[])?;
        let root = file.group(&[("CD", cd), ("EXT_TRIGGER", triggers)], attributes)?;
        self.file.finish(root)
    }
}
