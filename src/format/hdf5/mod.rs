//! HDF5: what is in a file, and the table of its events.

use std::sync::Arc;

use crate::columns::TriggerColumns;
use crate::error::{Error, ErrorKind, Result};
use crate::problem::{ProblemCode, Problems};
use crate::reader::{Ambiguous, Reader};
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::schema::{Column, Geometry, TimeUnit};
use crate::source::Source;
use crate::table::TableReader;

use super::array::cell::{Cell, Number, Pixel, Time};
use super::array::{self, ArrayTable, Chunk, Field, Meaning, Part, Storage, TriggerSource, names, order, read, read_whole};
use super::{Confidence, Format, Identity, Opened};

pub(crate) mod ecf;
pub(crate) mod filter;
mod index;
mod layout;
mod meta;
mod packets;
pub(crate) mod whole;
pub(crate) mod write;

mod bitshuffle;
mod blosc;
mod blosclz;
mod lzf;
mod shuffle;
#[cfg(test)]
mod tests;

use layout::{Camera, Offset, Place, RowsByTime};
use meta::{Dataset, Dtype, Kind, Metadata, Value};

/// Members of a group that are listed one by one.
const LISTED: usize = 24;
/// Rows looked at to tell the order of a table's columns and the unit of times.
const SAMPLE: u64 = 4096;
/// Rows that were never written and may all the same lie between others: this many, and this many times those stored.
const HOLES: u64 = 1 << 20;
const HOLES_TIMES: u64 = 16;
/// Numbers that inputs of external triggers have.
const INPUTS: u16 = 256;
/// Longest row, in bytes, of records or a table; events have a few numbers.
const LONGEST_ROW: usize = 64 << 10;

/// Where the HDF5 signature may stand: at the start, or after a user block.
pub(crate) fn has_signature(head: &[u8]) -> bool {
    const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";
    [0, 512, 1024, 2048, 4096, 8192, 16384, 32768].into_iter().any(|at| head.get(at..).is_some_and(|bytes| bytes.starts_with(SIGNATURE)))
}

/// Identifies and opens a file.
pub(crate) fn open(source: Source, options: &OpenOptions) -> Result<Opened> {
    options.refuse_text_options()?;
    let source = Arc::new(source);
    let shared: Arc<dyn Metadata> = Arc::from(meta::open(Arc::clone(&source))?);
    let meta = &*shared;
    let cameras = if options.path_map.is_empty() { layout::cameras(meta) } else { vec![layout::mapped(meta, &options.path_map)?] };
    if cameras.is_empty() {
        return Err(no_events(&source, meta));
    }
    let layout = cameras.first().map_or("", |camera| camera.layout);
    let mut reasons = vec!["HDF5 signature".to_owned()];
    reasons.extend(cameras.iter().take(LISTED).map(|camera| format!("{}: {}", camera.layout, describe(&camera.place))));
    let identity = Identity { format: Format::Hdf5, confidence: Confidence::Certain, reasons };
    let mut metadata = vec![("layout".to_owned(), layout.to_owned())];
    metadata.extend(attributes(meta, "/", ""));

    let mut streams = Vec::new();
    for camera in &cameras {
        streams.push(Stream::new(&camera.name, StreamKind::Events, describe(&camera.place), rows_of(meta, &camera.place)));
        if let Some(path) = &camera.triggers {
            streams.push(Stream::new("triggers", StreamKind::Triggers, path, meta.dataset(path).ok().map(|dataset| dataset.elements())));
        }
    }
    let others = others(meta, &cameras);
    metadata.extend(others.iter().map(|stream| (format!("{} /{}", stream.kind.name(), stream.name), stream.detail.clone())));
    streams.extend(others);

    let chosen = match &options.stream {
        Some(name) => Some(cameras.iter().find(|camera| camera.name == *name).ok_or_else(|| unknown_stream(name, &cameras))?),
        None if cameras.len() == 1 => cameras.first(),
        None => None,
    };
    let Some(camera) = chosen else {
        let names = cameras.iter().map(|camera| camera.name.clone()).collect();
        let reader: Arc<dyn Reader> = Arc::new(Ambiguous::new(names));
        return Ok(Opened { identity, geometry: options.geometry, metadata, streams, reader });
    };
    let geometry = match options.geometry {
        Some(geometry) => Some(geometry),
        None => geometry(&source, meta, camera),
    };
    metadata.extend(storage(meta, &camera.place));
    if let Place::Packets(path) = &camera.place {
        if options.pixel_parts.is_some() || options.time_unit.is_some_and(|unit| unit != TimeUnit::Microseconds) {
            return Err(Error::invalid("cAER packets have whole pixels and microseconds").hint("leave out `time_unit` and `pixel_parts`"));
        }
        let offset_us = options.time_offset_us.unwrap_or(0);
        metadata.push(("time_unit".to_owned(), TimeUnit::Microseconds.name().to_owned()));
        metadata.push(("time_offset_us".to_owned(), offset_us.to_string()));
        let reader = packets::PacketReader::new(Arc::clone(&source), Arc::clone(&shared), meta.dataset(path)?, geometry, offset_us)?;
        return Ok(Opened { identity, geometry, metadata, streams, reader: Arc::new(reader) });
    }
    let (table, why) = table(&source, meta, camera, geometry, options)?;
    let Time { unit, offset_us } = table.meaning.time;
    metadata.push(("time_unit".to_owned(), unit.name().to_owned()));
    metadata.extend(why.map(|why| ("time_unit_reason".to_owned(), why.to_owned())));
    metadata.push(("time_offset_us".to_owned(), offset_us.to_string()));
    Ok(Opened { identity, geometry, metadata, streams, reader: Arc::new(TableReader::new(table)) })
}

/// The table of a camera's events, and what tells the unit of its times, if their values do.
fn table(
    source: &Arc<Source>,
    meta: &dyn Metadata,
    camera: &Camera,
    geometry: Option<Geometry>,
    options: &OpenOptions,
) -> Result<(ArrayTable, Option<&'static str>)> {
    let mut notes = Problems::default();
    if let Some(missing) = meta.announced_len().checked_sub(source.len()).filter(|missing| *missing > 0) {
        notes.add(ProblemCode::Truncated, 1, missing, source.len(), || format!("the last {missing} bytes of the file are missing"));
    }
    let mut stored: Vec<(Dataset, Vec<Wanted>)> = Vec::new();
    match &camera.place {
        Place::Separate(columns) => {
            for (column, path) in columns {
                let dataset = meta.dataset(path)?;
                let cell = cell(&dataset.dtype).ok_or_else(|| not_numbers(&dataset))?;
                stored.push((dataset, vec![Wanted { column: *column, cell, offset: 0, at: 0 }]));
            }
        }
        Place::Records(path) => {
            let dataset = meta.dataset(path)?;
            let wanted = fields(&dataset)?;
            stored.push((dataset, wanted));
        }
        Place::Table(path) => {
            let dataset = meta.dataset(path)?;
            let cell = cell(&dataset.dtype).ok_or_else(|| not_numbers(&dataset))?;
            let order = order(source, &dataset, cell)?.into_iter().enumerate();
            if layout::is_on_its_side(&dataset) {
                for (at, column) in order {
                    stored.push((row(&dataset, at as u64)?, vec![Wanted { column, cell, offset: 0, at: 0 }]));
                }
            } else {
                let wanted = |(at, column): (usize, Column)| Wanted { column, cell, offset: at * cell.number.bytes(), at: at as u64 };
                stored.push((dataset, order.map(wanted).collect()));
            }
        }
        Place::Packets(path) => {
            // These have a reader of their own.
            return Err(bad_shape(&meta.dataset(path)?));
        }
    }
    let mut parts = Vec::new();
    for (dataset, wanted) in &stored {
        parts.extend(self::parts(dataset, wanted, &mut notes)?);
    }
    let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
    if let (Some(least), Some(most)) = (rows.iter().min(), rows.iter().max())
        && least != most
    {
        let longest = parts.iter().max_by_key(|part| part.rows).map_or("", |part| part.name.as_str());
        notes.add(ProblemCode::LengthMismatch, most - least, 0, 0, || format!("`{longest}` has {most} rows, another column {least}"));
    }
    let times = stored.iter().find_map(|(dataset, wanted)| {
        let times = wanted.iter().find(|wanted| wanted.column == Column::Timestamp)?;
        Some((dataset, *times))
    });
    let (unit, why) = match (options.time_unit.or(camera.unit), times) {
        (Some(unit), _) => (unit, None),
        (None, Some((dataset, times))) => {
            let least = rows.iter().copied().min().unwrap_or(0);
            array::tell_unit(times.cell.number, least, |unit| {
                array::sample(source, self::parts(dataset, &[times], &mut Problems::default())?, SAMPLE, unit)
            })?
        }
        (None, None) => (TimeUnit::Microseconds, None),
    };
    let stored_offset = match &camera.offset {
        Some(Offset::Dataset(path)) => numbers(source, &meta.dataset(path)?)?.first().copied().unwrap_or(0),
        Some(Offset::Value(value)) => *value,
        None => 0,
    };
    let offset_us = options.time_offset_us.unwrap_or(stored_offset);
    let pixel = |limit: Option<u16>| Pixel {
        parts: options.pixel_parts.unwrap_or(1).max(1),
        first: camera.first_pixel,
        limit: limit.unwrap_or(Geometry::MAX),
    };
    let meaning =
        Meaning { time: Time { unit, offset_us }, x: pixel(geometry.map(Geometry::width)), y: pixel(geometry.map(Geometry::height)) };
    let mut table = ArrayTable::new(Arc::clone(source), parts, meaning);
    table.memory_map = options.memory_map;
    table.notes = notes;
    table.index = match &camera.index {
        Some(RowsByTime::Milliseconds(path)) if unit == TimeUnit::Microseconds => {
            let dataset = meta.dataset(path)?;
            Some(Box::new(index::Milliseconds::new(Arc::clone(source), dataset, offset_us)))
        }
        Some(RowsByTime::Prophesee(path)) if unit == TimeUnit::Microseconds => {
            let dataset = meta.dataset(path)?;
            let first = meta.attributes(path)?.into_iter().find(|(name, _)| name == "offset");
            let first = first.and_then(|(_, value)| value.as_text().and_then(|text| text.trim().parse::<i64>().ok()));
            Some(Box::new(index::Prophesee::new(Arc::clone(source), dataset, first, offset_us)))
        }
        _ => None,
    };
    if let Some(path) = &camera.triggers {
        table.triggers =
            Some(Box::new(Triggers { source: Arc::clone(source), dataset: meta.dataset(path)?, time: Time { unit, offset_us } }));
    }
    Ok((table, why))
}

/// The external triggers of a Prophesee file.
struct Triggers {
    source: Arc<Source>,
    dataset: Dataset,
    time: Time,
}

impl Triggers {
    /// The columns of the triggers, the input channel in place of x.
    fn parts(&self, notes: &mut Problems) -> Result<Vec<Part>> {
        let Dtype::Compound { fields, .. } = &self.dataset.dtype else { return Err(not_numbers(&self.dataset)) };
        let wanted = |(column, name): (Column, &str)| {
            let field = fields.iter().find(|field| field.name == name)?;
            Some(Wanted { column, cell: cell(&field.dtype)?, offset: field.offset, at: 0 })
        };
        let wanted: Option<Vec<_>> =
            [(Column::X, "id"), (Column::Timestamp, "t"), (Column::Polarity, "p")].map(wanted).into_iter().collect();
        parts(&self.dataset, &wanted.ok_or_else(|| not_numbers(&self.dataset))?, notes)
    }
}

impl TriggerSource for Triggers {
    fn read(&self, problems: &mut Problems) -> Result<TriggerColumns> {
        let path = &self.dataset.path;
        let parts = match self.parts(problems) {
            // Events are given all the same.
            Err(error) if matches!(error.kind(), ErrorKind::Format | ErrorKind::Unsupported) => {
                problems.add(ProblemCode::Unreadable, self.dataset.elements(), 0, 0, || format!("`{path}`: {error}"));
                return Ok(TriggerColumns::default());
            }
            parts => parts?,
        };
        let mut left_out = Problems::default();
        let found = read(&self.source, parts, Meaning::of(self.time, INPUTS), &mut left_out)?;
        for problem in left_out.iter() {
            let (count, offset) = (problem.count, problem.first_offset);
            match problem.code {
                ProblemCode::OutOfBounds => problems.add(ProblemCode::BadValue, count, 0, offset, || {
                    format!("`{path}`: {count} triggers of inputs other than 0 to {}", INPUTS - 1)
                }),
                ProblemCode::BadValue => {
                    problems.add(problem.code, count, 0, offset, || format!("`{path}`: {count} triggers without a time or polarity"));
                }
                _ => problems.merge_one(problem),
            }
        }
        let mut triggers = TriggerColumns::default();
        for ((id, t), p) in found.x().iter().zip(found.timestamp()).zip(found.polarity()) {
            triggers.push(*id as u8, *p > 0, *t);
        }
        Ok(triggers)
    }
}

/// All numbers of a data set, as integers.
fn numbers(source: &Arc<Source>, dataset: &Dataset) -> Result<Vec<i64>> {
    let cell = cell(&dataset.dtype).ok_or_else(|| not_numbers(dataset))?;
    let wanted = [Wanted { column: Column::Timestamp, cell, offset: 0, at: 0 }];
    let time = Time { unit: TimeUnit::Microseconds, offset_us: 0 };
    let found = read_whole(source, parts(dataset, &wanted, &mut Problems::default())?, time)?;
    Ok(found.timestamp().to_vec())
}

/// The numbers of a simple type.
fn cell(dtype: &Dtype) -> Option<Cell> {
    let (number, big_endian) = match dtype {
        Dtype::Integer(base) | Dtype::Enum { base, .. } => (Number::integer(base.bytes.into(), base.signed)?, base.big_endian),
        // Whether a float of two bytes is of half precision is not known here.
        Dtype::Float { bytes: bytes @ (4 | 8), big_endian } => (Number::float((*bytes).into())?, *big_endian),
        _ => return None,
    };
    Some(Cell { number, big_endian })
}

/// A column that is wanted of a data set.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    column: Column,
    cell: Cell,
    /// Bytes from the start of the element or row.
    offset: usize,
    /// Column of the data set; 0 unless it has two dimensions.
    at: u64,
}

/// The event columns among the fields of records.
fn fields(dataset: &Dataset) -> Result<Vec<Wanted>> {
    let Dtype::Compound { fields, .. } = &dataset.dtype else { return Err(not_numbers(dataset)) };
    Column::ALL
        .into_iter()
        .map(|column| {
            let field = fields.iter().find(|field| names::column(&field.name) == Some(column));
            let cell = field.and_then(|field| cell(&field.dtype));
            field.zip(cell).map(|(field, cell)| Wanted { column, cell, offset: field.offset, at: 0 }).ok_or_else(|| not_numbers(dataset))
        })
        .collect()
}

/// The stored parts of a data set: one, or one for each column of chunks.
fn parts(dataset: &Dataset, wanted: &[Wanted], notes: &mut Problems) -> Result<Vec<Part>> {
    let element = dataset.dtype.bytes();
    // Dimensions: rows, and columns within a row; those of extent 1 do not matter.
    let (axis, rows) = match dataset.shape.iter().enumerate().filter(|(_, extent)| **extent != 1).collect::<Vec<_>>().as_slice() {
        [] => (0, 1),
        [(axis, rows)] if wanted.iter().all(|wanted| wanted.at == 0) || *axis == 0 => (*axis, **rows),
        [(0, rows), (1, _)] if dataset.shape.len() == 2 => (0, **rows),
        _ => return Err(bad_shape(dataset)),
    };
    let width: u64 = dataset.shape.iter().skip(axis + 1).product::<u64>().max(1);
    let field = |wanted: &Wanted, first: u64| Field {
        column: wanted.column,
        cell: wanted.cell,
        offset: wanted.offset - usize::try_from(first).unwrap_or(0) * element,
    };
    let row_bytes_of = |width: u64| {
        let bytes = usize::try_from(width).ok().and_then(|width| width.checked_mul(element));
        bytes.filter(|bytes| (1..=LONGEST_ROW).contains(bytes)).ok_or_else(|| bad_shape(dataset))
    };
    let row_bytes = row_bytes_of(width)?;
    let whole = |storage: Storage, rows: u64| {
        let fields = wanted.iter().map(|wanted| field(wanted, 0)).collect();
        vec![Part { name: dataset.path.clone(), rows, row_bytes, element, fields, storage }]
    };
    let chunks = match &dataset.storage {
        meta::Storage::Compact(bytes) => {
            let stored = (bytes.len() / row_bytes) as u64;
            return Ok(whole(Storage::Memory(bytes.as_slice().into()), stored_rows(dataset, rows, stored, notes)));
        }
        meta::Storage::Contiguous { address, bytes } => {
            let stored = bytes / row_bytes as u64;
            return Ok(whole(Storage::Plain(*address), stored_rows(dataset, rows, stored, notes)));
        }
        meta::Storage::Absent => return Ok(whole(Storage::Memory(Arc::from([])), stored_rows(dataset, rows, 0, notes))),
        meta::Storage::Chunked(chunks) => chunks,
    };
    for filter in &dataset.filters {
        filter::check(filter).map_err(|error| {
            let error = Error::from(error);
            error.hint(format!("data set `{}`; `h5repack -f GZIP=4 IN OUT` writes it with a filter that is read", dataset.path))
        })?;
    }
    let chunk_rows = chunks.shape.get(axis).copied().unwrap_or(1).max(1);
    // Chunks over several rows of a leading dimension of extent 1 would hold rows that are none.
    if chunks.shape.iter().take(axis).any(|extent| *extent != 1) {
        return Err(bad_shape(dataset));
    }
    let chunk_width: u64 = chunks.shape.iter().skip(axis + 1).product::<u64>().max(1);
    let across: u64 = chunks.grid.iter().skip(axis + 1).product::<u64>().max(1);
    let row_bytes = row_bytes_of(chunk_width)?;
    let (present, beyond) = (chunks.list.len() as u64, chunks.beyond);
    let stored = chunks.list.last().map_or(0, |chunk| (chunk.index / across + 1).saturating_mul(chunk_rows));
    let stored = if beyond > 0 { rows } else { stored.min(rows) };
    // Rows that the chunks can hold, those lost beyond the end of the file taken to be like the others.
    let bytes: u64 = chunks.list.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    let decoded = bytes.saturating_mul(filter::most_expansion(&dataset.filters)) / row_bytes as u64;
    let decoded = u128::from(decoded) * u128::from(present + beyond) / u128::from(present.max(1));
    let room = (present + beyond).saturating_mul(chunk_rows).min(u64::try_from(decoded).unwrap_or(u64::MAX));
    if stored > room.saturating_mul(HOLES_TIMES).saturating_add(HOLES) {
        return Err(Error::format(format!("data set `{}` claims more rows than the file can hold", dataset.path))
            .expecting(format!("chunks for {rows} rows"))
            .but_found(format!("{present} chunks of {bytes} bytes")));
    }
    let rows = stored_rows(dataset, rows, stored, notes);
    let mut parts = Vec::new();
    let last = wanted.iter().map(|wanted| wanted.at / chunk_width).max().unwrap_or(0);
    for across_at in 0..across.min(last + 1) {
        let first = across_at * chunk_width;
        let fields: Vec<_> =
            wanted.iter().filter(|wanted| (first..first + chunk_width).contains(&wanted.at)).map(|wanted| field(wanted, first)).collect();
        if fields.is_empty() {
            continue;
        }
        // Chunks that ended beyond the file are not in the list: they are somewhere beyond its end.
        let missing = if chunks.beyond > 0 { Chunk { address: u64::MAX - 1, bytes: 1, mask: 0 } } else { Chunk::ABSENT };
        let list = (0..rows.div_ceil(chunk_rows)).map(|at| match chunks.get(at * across + across_at) {
            Some(chunk) => Chunk { address: chunk.address, bytes: chunk.bytes, mask: chunk.mask },
            None => missing,
        });
        let storage = Storage::Chunks {
            rows: chunk_rows,
            filters: dataset.filters.clone(),
            chunks: list.collect(),
            fill: dataset.fill.clone().unwrap_or_default(),
        };
        parts.push(Part { name: dataset.path.clone(), rows, row_bytes, element, fields, storage });
    }
    Ok(parts)
}

/// A row of a data set of two dimensions, as a data set of its own.
fn row(dataset: &Dataset, at: u64) -> Result<Dataset> {
    let [_, columns] = *dataset.shape.as_slice() else { return Err(bad_shape(dataset)) };
    let bytes = columns.saturating_mul(dataset.dtype.bytes() as u64);
    let start = bytes.saturating_mul(at);
    let storage = match &dataset.storage {
        meta::Storage::Absent => meta::Storage::Absent,
        meta::Storage::Compact(stored) => {
            let from = usize::try_from(start).unwrap_or(usize::MAX);
            let stored = stored.get(from..).unwrap_or_default();
            meta::Storage::Compact(stored.iter().take(usize::try_from(bytes).unwrap_or(usize::MAX)).copied().collect())
        }
        meta::Storage::Contiguous { address, bytes: stored } => {
            meta::Storage::Contiguous { address: address.saturating_add(start), bytes: stored.saturating_sub(start).min(bytes) }
        }
        meta::Storage::Chunked(chunks) => {
            let ([1, width], [_, across]) = (chunks.shape.as_slice(), chunks.grid.as_slice()) else {
                return Err(bad_shape(dataset).hint("`h5repack -l CHUNK=1x65536 IN OUT` writes it with chunks of one row, which are read"));
            };
            let own = |chunk: &meta::Chunk| {
                let index = chunk.index.checked_sub(at.saturating_mul(*across)).filter(|index| index < across)?;
                Some(meta::Chunk { index, ..*chunk })
            };
            meta::Storage::Chunked(meta::Chunks {
                shape: vec![*width],
                grid: vec![*across],
                list: chunks.list.iter().filter_map(own).collect(),
                ..*chunks
            })
        }
    };
    let Dataset { path, dtype, filters, fill, .. } = dataset;
    Ok(Dataset { path: path.clone(), shape: vec![columns], dtype: dtype.clone(), filters: filters.clone(), storage, fill: fill.clone() })
}

/// The rows that are there of those that the shape claims.
fn stored_rows(dataset: &Dataset, rows: u64, stored: u64, notes: &mut Problems) -> u64 {
    if stored < rows {
        notes.add(ProblemCode::Unreadable, rows - stored, 0, 0, || format!("`{}`: rows from {stored} on were never written", dataset.path));
    }
    stored.min(rows)
}

/// The order of a table's columns, told by their values; of its type, where they do not tell.
fn order(source: &Arc<Source>, dataset: &Dataset, cell: Cell) -> Result<[Column; 4]> {
    let told = array::tell_order(cell.number, |at, unit| {
        let mut wanted = Wanted { column: Column::Timestamp, cell, offset: at * cell.number.bytes(), at: at as u64 };
        let found = if layout::is_on_its_side(dataset) {
            (wanted.offset, wanted.at) = (0, 0);
            parts(&row(dataset, at as u64)?, &[wanted], &mut Problems::default())?
        } else {
            parts(dataset, &[wanted], &mut Problems::default())?
        };
        array::sample(source, found, SAMPLE, unit)
    })?;
    Ok(told.unwrap_or_else(|_| order::with(if cell.number.is_float() { 2 } else { 0 }, 3)))
}

/// Size of the sensor, from attributes or data sets.
fn geometry(source: &Arc<Source>, meta: &dyn Metadata, camera: &Camera) -> Option<Geometry> {
    layout::geometry(meta, camera).or_else(|| {
        layout::geometry_datasets(camera).into_iter().find_map(|[width, height]| {
            let first = numbers(source, &meta.dataset(&width).ok()?).ok()?;
            let pair = if width == height {
                [*first.first()?, *first.get(1)?]
            } else {
                [*first.first()?, *numbers(source, &meta.dataset(&height).ok()?).ok()?.first()?]
            };
            Geometry::new(u32::try_from(pair[0]).ok()?, u32::try_from(pair[1]).ok()?).ok()
        })
    })
}

/// Where a camera's events are, in words.
fn describe(place: &Place) -> String {
    match place {
        Place::Separate(columns) => {
            let paths: Vec<_> = columns.iter().map(|(_, path)| path.as_str()).collect();
            paths.join(", ")
        }
        Place::Records(path) | Place::Table(path) | Place::Packets(path) => path.clone(),
    }
}

/// The data sets of a camera.
fn paths(place: &Place) -> Vec<&str> {
    match place {
        Place::Separate(columns) => columns.iter().map(|(_, path)| path.as_str()).collect(),
        Place::Records(path) | Place::Table(path) | Place::Packets(path) => vec![path],
    }
}

fn rows_of(meta: &dyn Metadata, place: &Place) -> Option<u64> {
    match place {
        Place::Packets(_) => None,
        Place::Table(path) => {
            let dataset = meta.dataset(path).ok()?;
            dataset.shape.get(usize::from(layout::is_on_its_side(&dataset))).copied()
        }
        _ => paths(place).into_iter().filter_map(|path| meta.dataset(path).ok()?.shape.iter().copied().max()).min(),
    }
}

/// How a camera's columns are stored, for the metadata.
fn storage(meta: &dyn Metadata, place: &Place) -> Vec<(String, String)> {
    paths(place).into_iter().filter_map(|path| Some((path.to_owned(), layout::describe(&meta.dataset(path).ok()?)))).collect()
}

/// The attributes of an object as metadata.
fn attributes(meta: &dyn Metadata, path: &str, prefix: &str) -> Vec<(String, String)> {
    let text = |value: Value| match value {
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(value) | Value::Other(value) => value,
        Value::Integers(values) => format!("{values:?}"),
        Value::Floats(values) => format!("{values:?}"),
        Value::Texts(values) => values.join(", "),
    };
    let attributes = meta.attributes(path).unwrap_or_default();
    attributes.into_iter().map(|(name, value)| (format!("{prefix}{name}"), text(value))).collect()
}

/// What else is in the file, two levels deep.
fn others(meta: &dyn Metadata, cameras: &[Camera]) -> Vec<Stream> {
    let mut known: Vec<&str> = cameras.iter().flat_map(|camera| paths(&camera.place)).collect();
    known.extend(cameras.iter().filter_map(|camera| camera.triggers.as_deref()));
    let mut found = Vec::new();
    let mut groups = vec!["/".to_owned()];
    let mut level = 0;
    while let Some(group) = groups.pop() {
        let Ok(entries) = meta.list(&group) else { continue };
        if entries.len() > LISTED {
            found.push(Stream::new(
                group.trim_matches('/'),
                kind_of(&group),
                format!("{group}: {} members", entries.len()),
                Some(entries.len() as u64),
            ));
            continue;
        }
        for entry in entries {
            let path = layout::join(&group, &entry.name);
            match entry.kind {
                Kind::Dataset if !known.contains(&path.as_str()) => {
                    let Ok(dataset) = meta.dataset(&path) else { continue };
                    let rows = dataset.shape.first().copied();
                    found.push(Stream::new(path.trim_matches('/'), kind_of(&path), layout::describe(&dataset), rows));
                }
                Kind::Group if level < LISTED => {
                    level += 1;
                    groups.push(path);
                }
                _ => {}
            }
        }
    }
    found
}

/// What a data set probably has, by its name.
fn kind_of(path: &str) -> StreamKind {
    let name = path.to_ascii_lowercase();
    if name.contains("imu") {
        StreamKind::Imu
    } else if name.contains("image") || name.ends_with("/frame") {
        StreamKind::Frames
    } else {
        StreamKind::Other
    }
}

fn no_events(source: &Source, meta: &dyn Metadata) -> Error {
    if meta.announced_len() > source.len() {
        return Error::new(ErrorKind::Truncated, "an HDF5 file that is cut off before it tells of any events")
            .expecting(format!("{} bytes, as its head says", meta.announced_len()))
            .but_found(source.len().to_string())
            .at(source.len());
    }
    let entries: Vec<_> = meta.list("/").unwrap_or_default().into_iter().take(LISTED).map(|entry| format!("`{}`", entry.name)).collect();
    Error::format("an HDF5 file without events in any known layout")
        .expecting("columns named like x, y, t and p in one group, records, or a table of four columns")
        .but_found(if entries.is_empty() { "an empty file".to_owned() } else { entries.join(", ") })
        .hint("name the data sets with `path_map`")
}

fn unknown_stream(name: &str, cameras: &[Camera]) -> Error {
    let names: Vec<_> = cameras.iter().map(|camera| format!("`{}`", camera.name)).collect();
    Error::invalid("no such stream of events").expecting(names.join(", ")).but_found(format!("`{name}`"))
}

fn not_numbers(dataset: &Dataset) -> Error {
    Error::new(ErrorKind::Unsupported, format!("data set `{}` has a type that is no column of events", dataset.path))
        .expecting("integers or floats of 1 to 8 bytes")
        .but_found(layout::describe(dataset))
}

fn bad_shape(dataset: &Dataset) -> Error {
    Error::new(ErrorKind::Unsupported, format!("data set `{}` has a shape that is no column of events", dataset.path))
        .expecting("one row an event")
        .but_found(layout::describe(dataset))
}
