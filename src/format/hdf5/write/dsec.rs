//! The layout of DSEC: a data set for each column, and the row of each millisecond.
//!
//! | data set | type | |
//! |---|---|---|
//! | `/events/x`, `/events/y` | u16 | |
//! | `/events/p` | u8 | 1 brighter, 0 darker |
//! | `/events/t` | u32 | microseconds after `t_offset`; i64 where they do not fit |
//! | `/t_offset` | i64, one value | the time of the first event, rounded down to a millisecond |
//! | `/ms_to_idx` | u64 | entry m is the first row whose `t` is m * 1000 or more; as many as have one |
//!
//! The root has the attributes `width` and `height`.

use std::ops::Range;

use super::file::{Attribute, Chunks, Dtype, File, Filter};
use super::pipeline::{GROUP, Pipeline, Worker};
use super::{SPAN_US, TOO_LATE};
use crate::columns::Rows;
use crate::error::Result;
use crate::format::hdf5::filter::{self, BLOSC, Chunk, DEFLATE, SHUFFLE};
use crate::schema::Geometry;
use crate::source::Source;
use crate::write::{Compression, Partial, Sink};

/// Rows of a chunk.
const ROWS: usize = 1 << 16;
/// Entries of a chunk of the table of milliseconds.
const ENTRIES: usize = 1 << 13;
const ZSTD_LEVEL: i32 = 1;
const DEFLATE_LEVEL: i32 = 4;

/// The data sets, by their place among [`Writer::datasets`].
const X: usize = 0;
const Y: usize = 1;
const P: usize = 2;
const T: usize = 3;
const INDEX: usize = 4;

pub(super) struct Writer {
    file: File,
    geometry: Geometry,
    compression: Compression,
    pipeline: Pipeline,
    datasets: [Chunks; 5],
    rows: u64,
    /// What is subtracted from times, once there is an event.
    offset_us: Option<i64>,
    /// Whether times are stored in eight bytes.
    wide: bool,
    /// Entries of the table that are not written, and those that are.
    entries: Vec<u8>,
    written: u64,
}

impl Writer {
    pub(super) fn new(partial: Partial, geometry: Geometry, compression: Compression) -> Result<Self> {
        Ok(Self {
            file: File::new(partial)?,
            geometry,
            compression,
            pipeline: Pipeline::default(),
            datasets: [ROWS, ROWS, ROWS, ROWS, ENTRIES].map(Chunks::new),
            rows: 0,
            offset_us: None,
            wide: false,
            entries: Vec::new(),
            written: 0,
        })
    }

    /// Adds to the table the milliseconds that start up to the last of `times`, the next rows.
    fn tabulate(&mut self, times: &[i64], offset: i64) -> Result<()> {
        let mut at = 0;
        while let Some(rest) = times.get(at..) {
            let entries = self.written + (self.entries.len() / 8) as u64;
            let next = offset.saturating_add((entries * 1000).cast_signed());
            at += rest.partition_point(|time| *time < next);
            let Some(time) = times.get(at) else { break };
            let row = (self.rows + at as u64).to_le_bytes();
            let mut count = (time - next) as u64 / 1000 + 1;
            // In long gaps all chunks are the same.
            let mut same = None;
            while count > 0 {
                if self.entries.is_empty() && count > ENTRIES as u64 {
                    if same.is_none() {
                        let mut worker = Worker { plain: row.repeat(ENTRIES), ..Worker::default() };
                        let mut out = Vec::new();
                        encode(self.compression, &mut worker, 8, ENTRIES, &mut out)?;
                        same = Some(out);
                    }
                    self.file.append_chunk(&mut self.datasets[INDEX], same.as_deref().unwrap_or_default())?;
                    self.written += ENTRIES as u64;
                    count -= ENTRIES as u64;
                    continue;
                }
                let room = (ENTRIES - self.entries.len() / 8).min(usize::try_from(count).unwrap_or(ENTRIES));
                self.entries.extend(std::iter::repeat_n(row, room).flatten());
                count -= room as u64;
                if self.entries.len() == ENTRIES * 8 {
                    self.write_entries()?;
                }
            }
        }
        Ok(())
    }

    fn write_entries(&mut self) -> Result<()> {
        self.written += (self.entries.len() / 8) as u64;
        let mut out = Vec::new();
        let mut worker = Worker { plain: std::mem::take(&mut self.entries), ..Worker::default() };
        encode(self.compression, &mut worker, 8, ENTRIES, &mut out)?;
        self.file.append_chunk(&mut self.datasets[INDEX], &out)
    }

    /// Starts the file again with times of eight bytes: one of them does not fit four.
    fn widen(&mut self) -> Result<()> {
        const AT_ONCE: usize = 16;
        self.pipeline.flush(&mut self.file, &mut self.datasets)?;
        let narrow = Source::open(self.file.partial().place())?;
        let mut wide = File::new(self.file.partial().another()?)?;
        let mut datasets = [ROWS, ROWS, ROWS, ROWS, ENTRIES].map(Chunks::new);
        let read = |(address, len): (u64, u32)| {
            let mut raw = vec![0; len as usize];
            narrow.read_exact_at(&mut raw, address).map(|()| raw)
        };
        for place in self.datasets[INDEX].iter() {
            wide.append_chunk(&mut datasets[INDEX], &read(place)?)?;
        }
        let compression = self.compression;
        let pipelines = filters(compression, 4, ROWS);
        let filters: Vec<_> =
            pipelines.iter().map(|(id, values)| filter::Filter { id: *id, name: None, optional: true, values: values.clone() }).collect();
        let [x, y, p, t, _] = &self.datasets;
        let chunks: Vec<_> = x.iter().zip(y.iter()).zip(p.iter().zip(t.iter())).collect();
        for part in chunks.chunks(AT_ONCE) {
            let mut jobs = Vec::new();
            for ((x, y), (p, t)) in part {
                for (column, place) in [(X, x), (Y, y), (P, p), (T, t)] {
                    jobs.push((column, (column, read(*place)?)));
                }
            }
            self.pipeline.run(&mut wide, &mut datasets, jobs, |(column, raw), worker, out| {
                if column != T {
                    out.extend(raw);
                    return Ok(());
                }
                let Worker { decoder, plain, .. } = worker;
                plain.clear();
                let chunk = Chunk { raw: &raw, mask: 0, size: ROWS * 4, element: 4 };
                decoder.decode(&filters, chunk, 0..chunk.size, &mut |_, bytes| {
                    let (times, _) = bytes.as_chunks::<4>();
                    plain.extend(times.iter().flat_map(|time| u64::from(u32::from_le_bytes(*time)).to_le_bytes()));
                })?;
                encode(compression, worker, 8, ROWS, out)
            })?;
        }
        self.pipeline.flush(&mut wide, &mut datasets)?;
        (self.file, self.datasets, self.wide) = (wide, datasets, true);
        Ok(())
    }
}

impl Sink for Writer {
    fn times(&self, first: i64) -> Range<i64> {
        i64::MIN..first.saturating_add(SPAN_US)
    }

    fn too_late(&self) -> &'static str {
        TOO_LATE
    }

    fn group(&self) -> Option<usize> {
        Some(GROUP)
    }

    fn write(&mut self, rows: Rows<'_>) -> Result<()> {
        let (Some(first), Some(last)) = (rows.t.first(), rows.t.last()) else { return Ok(()) };
        let offset = *self.offset_us.get_or_insert_with(|| first.saturating_sub(first.rem_euclid(1000)));
        self.tabulate(rows.t, offset)?;
        if !self.wide && last - offset > i64::from(u32::MAX) {
            self.widen()?;
        }
        self.rows += rows.len as u64;
        let (wide, compression) = (self.wide, self.compression);
        let mut jobs = Vec::new();
        for start in (0..rows.len).step_by(ROWS) {
            let part = rows.cut(start..rows.len.min(start + ROWS));
            jobs.extend([X, Y, P, T].map(|column| (column, (column, part))));
        }
        self.pipeline.run(&mut self.file, &mut self.datasets, jobs, |(column, rows), worker, out| {
            let plain = &mut worker.plain;
            plain.clear();
            let element = match column {
                X => fill(plain, rows.x, i16::to_le_bytes),
                Y => fill(plain, rows.y, i16::to_le_bytes),
                P => fill(plain, rows.p, |p| [u8::from(p > 0)]),
                _ if wide => fill(plain, rows.t, |t| (t - offset).to_le_bytes()),
                _ => fill(plain, rows.t, |t| ((t - offset) as u32).to_le_bytes()),
            };
            encode(compression, worker, element, ROWS, out)
        })
    }

    fn finish(mut self: Box<Self>) -> Result<Partial> {
        self.pipeline.flush(&mut self.file, &mut self.datasets)?;
        if !self.entries.is_empty() {
            self.write_entries()?;
        }
        let times = if self.wide { Dtype::I64 } else { Dtype::U32 };
        let this = &mut *self;
        let mut dataset = |column: usize, rows: u64, dtype: &Dtype| {
            let chunks = &this.datasets[column];
            let filters = filters(this.compression, dtype.bytes(), chunks.rows);
            let name = |id| if id == BLOSC { "blosc" } else { "" };
            let filters: Vec<_> = filters.iter().map(|(id, values)| Filter { id: *id, name: name(*id), values }).collect();
            this.file.dataset(rows, dtype, &filters, chunks, &[])
        };
        let members = [
            ("p", dataset(P, this.rows, &Dtype::U8)?),
            ("t", dataset(T, this.rows, &times)?),
            ("x", dataset(X, this.rows, &Dtype::U16)?),
            ("y", dataset(Y, this.rows, &Dtype::U16)?),
        ];
        let index = dataset(INDEX, this.written, &Dtype::U64)?;
        let events = self.file.group(&members, &[])?;
        let offset = self.file.scalar(&Dtype::I64, &self.offset_us.unwrap_or(0).to_le_bytes())?;
        let size = [("width", self.geometry.width()), ("height", self.geometry.height())];
        let attributes = size.map(|(name, value)| Attribute::integer(name, value.into()));
        let root = self.file.group(&[("events", events), ("ms_to_idx", index), ("t_offset", offset)], &attributes)?;
        self.file.finish(root)
    }
}

/// Appends values as bytes; the bytes of one.
fn fill<T: Copy, const N: usize>(plain: &mut Vec<u8>, values: &[T], bytes: impl Fn(T) -> [u8; N]) -> usize {
    let start = plain.len();
    plain.resize(start + values.len() * N, 0);
    for (slot, value) in plain[start..].as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *slot = bytes(*value);
    }
    N
}

/// Encodes the worker's chunk of `rows` elements, those that are missing being zeros.
fn encode(compression: Compression, worker: &mut Worker, element: usize, rows: usize, out: &mut Vec<u8>) -> Result<()> {
    let Worker { encoder, plain, .. } = worker;
    plain.resize(rows * element, 0);
    match compression {
        Compression::Zstd => encoder.blosc_zstd(plain, element, ZSTD_LEVEL, out)?,
        Compression::Gzip => encoder.shuffle_deflate(plain, element, DEFLATE_LEVEL, out)?,
        // LZ4 is refused before there is a file.
        Compression::None | Compression::Lz4 => out.extend_from_slice(plain),
    }
    Ok(())
}

/// The filters of a data set with their values.
fn filters(compression: Compression, element: usize, rows: usize) -> Vec<(u16, Vec<u32>)> {
    let (element, bytes) = (element as u32, (element * rows) as u32);
    match compression {
        // Revision and format of Blosc, size of elements and chunk, level, byte shuffle, Zstandard.
        Compression::Zstd => vec![(BLOSC, vec![2, 2, element, bytes, ZSTD_LEVEL as u32, 1, 5])],
        Compression::Gzip => vec![(SHUFFLE, vec![element]), (DEFLATE, vec![DEFLATE_LEVEL as u32])],
        Compression::None | Compression::Lz4 => Vec::new(),
    }
}
