//! Arrow IPC (Feather version 2) of our own columns, read and written.
//!
//! A file is the magic `ARROW1`, a message with the schema, a message for each batch of rows, and a footer that has the
//! schema too and says where the batches are. A file that was cut has no footer; but the messages follow each other, so
//! it gives the batches before the cut. A stream is the messages alone. Polars writes the schema without the length that
//! stands before every message.
//!
//! Columns are `x` and `y` (Int16), `timestamp` (Duration in microseconds) and `polarity` (Int8), in any order, and
//! others that are not looked at. Buffers are plain, LZ4 frames or Zstandard frames. Keys of the schema: `evlib.version`
//! and `evlib.geometry`.
//!
//! <https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::types::{DurationMicrosecondType, Int8Type, Int16Type};
use arrow_array::{ArrayRef, PrimitiveArray, RecordBatch};
use arrow_ipc::writer::FileWriter;
use arrow_ipc::{CompressionType, Endianness, MessageHeader};
use arrow_schema::{ArrowError, DataType, Schema};
use rayon::prelude::*;

use super::aedat::codec::{self, Codec};
use super::{Confidence, Format, Identity, Opened};
use crate::columns::{Rows, Slots, event_schema};
use crate::error::{Error, ErrorKind, Result};
use crate::problem::{ProblemCode, Problems};
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::schema::{Column, Columns, Geometry, TimeRange};
use crate::source::{Buffer, Source};
use crate::spool::{ALWAYS, RATIO};
use crate::table::{Table, TableReader};
use crate::write::{Compression, Partial, Sink, WriteOptions, refuse_compression};

pub(crate) const MAGIC: &[u8] = b"ARROW1";
/// Bytes before the first message of a file, at least, and at most where it is aligned to more than it has to be.
const LEAD: u64 = 8;
const LONGEST_LEAD: u64 = 512;
const CONTINUATION: u32 = u32::MAX;
/// Most bytes of a message without its buffers.
const LARGEST_MESSAGE: usize = 16 << 20;
/// Most bytes of a schema whose length is not told.
const LONGEST_SCHEMA: u64 = 1 << 20;
/// Most marks that are tried for the message after such a schema.
const MARKS: usize = 64;
/// Most bytes of a footer: a few dozen a batch.
const LARGEST_FOOTER: usize = 64 << 20;
/// Most times that a buffer may grow when it is decompressed.
const LARGEST_RATIO: u64 = 1 << 15;
/// Rows of a unit, and of a batch that is written.
const UNIT: u64 = 64 << 10;
const GROUP: usize = 1 << 19;

/// Keys of the schema.
pub(crate) fn metadata(geometry: Geometry) -> [(String, String); 2] {
    [("evlib.version".to_owned(), "1".to_owned()), ("evlib.geometry".to_owned(), geometry.to_string())]
}

/// The schema of what is written.
pub(crate) fn schema(geometry: Geometry) -> Schema {
    Schema::new(event_schema(Columns::ALL).fields().clone()).with_metadata(HashMap::from(metadata(geometry)))
}

/// Where the bytes of a column of a batch are.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    offset: u64,
    bytes: u64,
}

/// A batch of rows in the file.
#[derive(Debug)]
struct Batch {
    /// Rows before it.
    first: u64,
    rows: u64,
    codec: Codec,
    /// In the order of [`Column`].
    columns: [Place; 4],
}

/// What is in a file.
struct Directory {
    schema: Schema,
    batches: Vec<Batch>,
    problems: Problems,
}

const COLUMNS: [Column; 4] = [Column::X, Column::Y, Column::Timestamp, Column::Polarity];

/// Bytes of a value.
const fn width(column: Column) -> u64 {
    match column {
        Column::X | Column::Y => 2,
        Column::Timestamp => 8,
        Column::Polarity => 1,
    }
}

/// Buffers that a column of this type has in a batch.
fn buffers(ty: &DataType) -> Option<usize> {
    match ty {
        DataType::Null => Some(0),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => Some(3),
        ty if ty.is_primitive() => Some(2),
        DataType::Boolean | DataType::FixedSizeBinary(_) | DataType::Dictionary(..) => Some(2),
        _ => None,
    }
}

/// The places of our columns among those of the schema, and of their data among the buffers of a batch.
fn layout(schema: &Schema) -> Result<[(usize, usize); 4]> {
    let ours = event_schema(Columns::ALL);
    let mut found = [(0, 0); 4];
    for (slot, field) in found.iter_mut().zip(ours.fields()) {
        let names = || schema.fields().iter().map(|field| format!("`{}`", field.name())).collect::<Vec<_>>().join(", ");
        let Ok(index) = schema.index_of(field.name()) else {
            return Err(Error::format("an Arrow file without events")
                .expecting("the columns `x`, `y`, `timestamp` and `polarity`")
                .but_found(names()));
        };
        let ty = schema.field(index).data_type();
        if ty != field.data_type() {
            return Err(Error::new(ErrorKind::Unsupported, format!("the column `{}` has another type", field.name()))
                .expecting(field.data_type().to_string())
                .but_found(ty.to_string())
                .hint("events of other types can be cast and written with `write_events`"));
        }
        let mut before = 0;
        for other in schema.fields().iter().take(index) {
            before += buffers(other.data_type()).ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, format!("the column `{}` stands before those of the events", other.name()))
                    .expecting("numbers, text or bytes")
                    .but_found(other.data_type().to_string())
            })?;
        }
        // Its first buffer says which values there are.
        *slot = (index, before + 1);
    }
    Ok(found)
}

/// A message without its buffers.
struct Message {
    bytes: Vec<u8>,
    /// File offset of the buffers.
    body: u64,
}

fn damaged(what: &str, offset: u64) -> Error {
    Error::format(what.to_owned()).expecting("a message of Arrow IPC").but_found("none").at(offset)
}

/// The message at `offset`; `None` at the end of the messages.
fn message(source: &Source, offset: u64) -> Result<Option<Message>> {
    let mut head = [0; 8];
    if offset.checked_add(8).is_none_or(|end| end > source.len()) {
        return Err(damaged("the file ends inside a message", offset));
    }
    source.read_exact_at(&mut head, offset)?;
    let (first, second) =
        (u32::from_le_bytes([head[0], head[1], head[2], head[3]]), u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
    // Before version 0.15 of Arrow, messages began with their length.
    let (len, start) = if first == CONTINUATION { (second, offset + 8) } else { (first, offset + 4) };
    let len = len as usize;
    if len == 0 {
        return Ok(None);
    }
    if len > LARGEST_MESSAGE || start + len as u64 > source.len() {
        return Err(damaged("a message is longer than the file, or damaged", offset));
    }
    let mut bytes = vec![0; len];
    source.read_exact_at(&mut bytes, start)?;
    Ok(Some(Message { bytes, body: start + len as u64 }))
}

/// Where the messages of a file begin, behind the zeros after the magic.
fn first_message(source: &Source) -> Result<u64> {
    let mut at = LEAD;
    let mut bytes = [0; 8];
    while at + 8 <= source.len().min(LONGEST_LEAD) {
        source.read_exact_at(&mut bytes, at)?;
        if bytes != [0; 8] {
            break;
        }
        at += 8;
    }
    Ok(at)
}

/// The schema of a file and where its batches are, by its footer; `None` if there is none that makes sense.
fn footer(source: &Source) -> Result<Option<(Schema, Vec<u64>)>> {
    let mut end = [0; 10];
    let Some(start) = source.len().checked_sub(end.len() as u64) else { return Ok(None) };
    source.read_exact_at(&mut end, start)?;
    let Some((len, MAGIC)) = end.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len) as usize;
    let Some(start) = start.checked_sub(len as u64).filter(|_| len <= LARGEST_FOOTER) else { return Ok(None) };
    let mut bytes = vec![0; len];
    source.read_exact_at(&mut bytes, start)?;
    let Ok(footer) = arrow_ipc::root_as_footer(&bytes) else { return Ok(None) };
    let Some((fields, blocks)) = footer.schema().zip(footer.recordBatches()) else { return Ok(None) };
    let Some(schema) = parse_schema(fields)? else { return Ok(None) };
    Ok(Some((schema, blocks.iter().map(|block| block.offset().cast_unsigned()).collect())))
}

/// A schema as Arrow has it; `None` if it is damaged.
fn parse_schema(fields: arrow_ipc::Schema<'_>) -> Result<Option<Schema>> {
    if fields.endianness() != Endianness::Little {
        return Err(Error::new(ErrorKind::Unsupported, "an Arrow file with another byte order")
            .expecting("little-endian values")
            .but_found("big-endian values")
            .hint("a big-endian machine wrote it, and can write it again as Parquet, whose values are little-endian"));
    }
    Ok(arrow_ipc::convert::try_fb_to_schema(fields).ok())
}

/// The schema that the message `bytes` has, and the length of its body; `None` if there is none.
fn schema_message(bytes: &[u8]) -> Result<Option<(Schema, u64)>> {
    let Ok(parsed) = arrow_ipc::root_as_message(bytes) else { return Ok(None) };
    let Some(fields) = parsed.header_as_schema() else { return Ok(None) };
    Ok(parse_schema(fields)?.map(|schema| (schema, parsed.bodyLength().max(0).cast_unsigned())))
}

/// The schema at `start`, and where the messages after it begin.
fn leading_schema(source: &Source, start: u64, is_file: bool) -> Result<(Schema, u64)> {
    let first = message(source, start);
    if let Ok(Some(first)) = &first
        && let Some((schema, body)) = schema_message(&first.bytes)?
    {
        return Ok((schema, first.body.saturating_add(body)));
    }
    if is_file {
        // As Polars writes it; how long it is only the mark of the next message tells.
        let mut bytes = vec![0; source.len().saturating_sub(start).min(LONGEST_SCHEMA) as usize];
        source.read_exact_at(&mut bytes, start)?;
        if let Some((schema, _)) = schema_message(&bytes)? {
            let marks = bytes.chunks(8).enumerate().filter(|(_, chunk)| chunk.starts_with(&CONTINUATION.to_le_bytes()));
            // Bytes of the schema may look like the mark too, but not many.
            let mut places = marks.take(MARKS).map(|(index, _)| start + 8 * index as u64);
            let next = places.find(|at| {
                let found = message(source, *at);
                matches!(found, Ok(Some(found)) if arrow_ipc::root_as_message(&found.bytes).is_ok())
            });
            return Ok((schema, next.unwrap_or(source.len())));
        }
    }
    match first? {
        Some(_) => Err(damaged("damaged schema", start)),
        None => Err(damaged("no schema", start)),
    }
}

impl Directory {
    /// Finds the batches: by the footer of a file, or message after message.
    fn read(source: &Source, is_file: bool) -> Result<Self> {
        if is_file && let Some((schema, offsets)) = footer(source)? {
            let layout = layout(&schema)?;
            let mut directory = Self { schema, batches: Vec::new(), problems: Problems::default() };
            let mut free = 0;
            for (index, offset) in offsets.iter().enumerate() {
                let next = offsets.get(index + 1).copied().unwrap_or(source.len());
                let found = if *offset < free {
                    Err(damaged("the footer names a batch twice", *offset))
                } else {
                    directory.next(source, *offset, layout, true)
                };
                match found {
                    Ok(end) => free = end.unwrap_or(free),
                    // A damaged batch costs no other.
                    Err(error) => directory.note(error, *offset, next)?,
                }
            }
            return directory.bounded(source);
        }
        let start = if is_file { first_message(source)? } else { 0 };
        let (schema, mut offset) = leading_schema(source, start, is_file)?;
        let layout = layout(&schema)?;
        let mut directory = Self { schema, batches: Vec::new(), problems: Problems::default() };
        loop {
            match directory.next(source, offset, layout, false) {
                Ok(Some(next)) => offset = next,
                // The end of a file's messages is followed by its footer, which has not been found.
                Ok(None) if is_file => break directory.note(damaged("no footer", offset), offset, source.len())?,
                Ok(None) => break,
                Err(error) => break directory.note(error, offset, source.len())?,
            }
        }
        directory.bounded(source)
    }

    /// Takes a fault of the bytes from `offset` to `next` for a problem.
    fn note(&mut self, error: Error, offset: u64, next: u64) -> Result<()> {
        if error.kind() != ErrorKind::Format {
            return Err(error);
        }
        let bytes = next.saturating_sub(offset);
        self.problems
            .add(ProblemCode::Truncated, 1, bytes, offset, || format!("{bytes} bytes at byte {offset} that are no whole batch: {error}"));
        Ok(())
    }

    /// Refuses more events than a file of this size can be meant to have.
    fn bounded(self, source: &Source) -> Result<Self> {
        let row: u64 = COLUMNS.iter().map(|column| width(*column)).sum();
        let (bytes, most) = (self.rows().saturating_mul(row), source.len().saturating_mul(RATIO).max(ALWAYS));
        if bytes > most {
            return Err(Error::format("more events than can be meant")
                .expecting(format!("at most {most} bytes of columns in {} bytes of file", source.len()))
                .but_found(bytes.to_string()));
        }
        Ok(self)
    }

    /// Takes the message at `offset`, which is a batch if the footer lists it; returns where the next one is.
    fn next(&mut self, source: &Source, offset: u64, layout: [(usize, usize); 4], listed: bool) -> Result<Option<u64>> {
        let broken = || damaged("damaged batch", offset);
        let Some(found) = message(source, offset)? else {
            return if listed { Err(broken()) } else { Ok(None) };
        };
        let parsed = arrow_ipc::root_as_message(&found.bytes).map_err(|_| broken())?;
        let body = u64::try_from(parsed.bodyLength()).map_err(|_| broken())?;
        let end = found.body.checked_add(body).filter(|end| *end <= source.len()).ok_or_else(broken)?;
        match parsed.header_type() {
            MessageHeader::RecordBatch => {}
            MessageHeader::DictionaryBatch if !listed => return Ok(Some(end)),
            _ => return Err(broken()),
        }
        let batch = parsed.header_as_record_batch().ok_or_else(broken)?;
        let codec = match batch.compression().map(|compression| compression.codec()) {
            None => Codec::None,
            Some(CompressionType::LZ4_FRAME) => Codec::Lz4,
            Some(CompressionType::ZSTD) => Codec::Zstd,
            Some(_) => return Err(broken()),
        };
        let rows = u64::try_from(batch.length()).map_err(|_| broken())?;
        // A packet of the codec is no longer than this.
        if codec != Codec::None && rows > (codec::LARGEST / 8) as u64 {
            return Err(broken());
        }
        let (nodes, buffers) = (batch.nodes().ok_or_else(broken)?, batch.buffers().ok_or_else(broken)?);
        let mut columns = [Place::default(); 4];
        for ((place, (field, buffer)), column) in columns.iter_mut().zip(layout).zip(COLUMNS) {
            if field >= nodes.len() || buffer >= buffers.len() {
                return Err(broken());
            }
            let (node, buffer) = (nodes.get(field), buffers.get(buffer));
            if node.null_count() != 0 {
                return Err(Error::new(ErrorKind::Unsupported, format!("the column `{}` has null values", column.name()))
                    .expecting("none")
                    .but_found(node.null_count().to_string())
                    .at(offset));
            }
            let (start, bytes) = (u64::try_from(buffer.offset()), u64::try_from(buffer.length()));
            let (Ok(start), Ok(bytes)) = (start, bytes) else { return Err(broken()) };
            let inside = start.checked_add(bytes).is_some_and(|end| end <= body);
            // A batch that claims to have shrunk to less is taken for damage, before memory is made for it.
            let most = bytes.saturating_mul(if codec == Codec::None { 1 } else { LARGEST_RATIO });
            let whole = rows.checked_mul(width(column)).is_some_and(|need| need <= most);
            if !inside || !whole || node.length() != batch.length() {
                return Err(broken());
            }
            *place = Place { offset: found.body + start, bytes };
        }
        if rows > 0 {
            let first = self.rows();
            self.batches.push(Batch { first, rows, codec, columns });
        }
        Ok(Some(end))
    }

    fn rows(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.first.saturating_add(batch.rows))
    }
}

/// The geometry that a key says.
fn geometry_of(text: &str) -> Result<Geometry> {
    let numbers = text.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    numbers.and_then(|(width, height)| Geometry::new(width, height).ok()).ok_or_else(|| {
        Error::format("the key `evlib.geometry` is not a sensor geometry")
            .expecting("two numbers from 1 to 32768, as `640x480`")
            .but_found(format!("`{text}`"))
            .hint("pass `geometry=(width, height)` to say what it is")
    })
}

/// Opens a file.
pub(crate) fn open(source: Source, head: &[u8], options: &OpenOptions) -> Result<Opened> {
    options.refuse_array_options()?;
    options.refuse_text_options()?;
    options.refuse_streams()?;
    let is_file = head.starts_with(MAGIC);
    let directory = Directory::read(&source, is_file)?;
    let reasons = vec![if is_file { "magic of an Arrow IPC file" } else { "the caller says arrow: a stream" }.to_owned()];
    let mut metadata: Vec<_> = directory.schema.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    metadata.sort();
    let geometry = match (options.geometry, directory.schema.metadata().get("evlib.geometry")) {
        (Some(geometry), _) => Some(geometry),
        (None, Some(text)) => Some(geometry_of(text)?),
        (None, None) => None,
    };
    let codecs: Vec<_> = [Codec::Lz4, Codec::Zstd]
        .into_iter()
        .filter(|codec| directory.batches.iter().any(|batch| batch.codec == *codec))
        .map(Codec::name)
        .collect();
    let detail = match codecs.as_slice() {
        [] => format!("{} batches", directory.batches.len()),
        codecs => format!("{} batches, {}", directory.batches.len(), codecs.join(", ")),
    };
    let unit = match directory.batches.iter().filter(|batch| batch.codec != Codec::None).map(|batch| batch.rows).max() {
        // Compressed batches are decoded whole.
        Some(rows) => rows.max(UNIT),
        None => UNIT,
    };
    let streams = vec![Stream::new("events", StreamKind::Events, detail, Some(directory.rows()))];
    let limits = geometry.map_or((Geometry::MAX, Geometry::MAX), |geometry| (geometry.width(), geometry.height()));
    let reader = Arc::new(TableReader::new(ArrowTable { source, directory, unit, limits }));
    Ok(Opened {
        identity: Identity { format: Format::Arrow, confidence: Confidence::Certain, reasons },
        geometry,
        metadata,
        streams,
        reader,
    })
}

/// The batches as one table.
struct ArrowTable {
    source: Source,
    directory: Directory,
    unit: u64,
    /// Columns and rows that pixels are in.
    limits: (u16, u16),
}

/// Buffers of a thread: bytes as they are in the file.
fn with_buffer<R>(work: impl FnOnce(&mut Buffer) -> R) -> R {
    thread_local!(static BUFFER: std::cell::RefCell<Buffer> = std::cell::RefCell::new(Buffer::default()));
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => work(&mut buffer),
        // A task that this thread took up while it waited inside another.
        Err(_) => work(&mut Buffer::default()),
    })
}

/// Copies values out of their bytes; false where there are not enough.
fn take<const N: usize, T>(bytes: &[u8], out: &mut [T], value: impl Fn([u8; N]) -> T) -> bool {
    let values = bytes.as_chunks::<N>().0;
    if values.len() < out.len() {
        return false;
    }
    for (out, bytes) in out.iter_mut().zip(values) {
        *out = value(*bytes);
    }
    true
}

/// [`take`] of coordinates, which are below the limit if there is one.
fn pixels(bytes: &[u8], out: &mut [i16], limit: Option<u16>) -> bool {
    take(bytes, out, i16::from_le_bytes) && limit.is_none_or(|limit| out.iter().fold(true, |all, x| all & is_inside(*x, limit)))
}

/// Whether a coordinate is on the sensor.
fn is_inside(x: i16, limit: u16) -> bool {
    x.cast_unsigned() < limit
}

fn is_polarity(p: i8) -> bool {
    p.unsigned_abs() == 1
}

impl ArrowTable {
    /// Parts of batches, of one unit each at most, that have `rows`: the batch and the rows within it.
    fn pieces(&self, rows: Range<u64>) -> Vec<(&Batch, Range<u64>)> {
        let batches = &self.directory.batches;
        let start = batches.partition_point(|batch| batch.first + batch.rows <= rows.start);
        let mut pieces = Vec::new();
        for batch in batches.iter().skip(start).take_while(|batch| batch.first < rows.end) {
            let end = rows.end.min(batch.first + batch.rows) - batch.first;
            let mut at = rows.start.max(batch.first) - batch.first;
            while at < end {
                let next = end.min((at / self.unit + 1) * self.unit);
                pieces.push((batch, at..next));
                at = next;
            }
        }
        pieces
    }

    /// Gives the bytes of a column of these rows of a batch to `work`; `None` where they are damaged.
    fn bytes<R>(&self, batch: &Batch, column: Column, rows: &Range<u64>, work: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let place = batch.columns[column as usize];
        let (start, len) = (rows.start * width(column), (rows.end - rows.start) * width(column));
        with_buffer(|buffer| {
            if batch.codec == Codec::None {
                let bytes = buffer.take(len as usize);
                self.source.read_exact_at(bytes, place.offset + start)?;
                return Ok(Some(work(bytes)));
            }
            let bytes = buffer.take(usize::try_from(place.bytes).unwrap_or(usize::MAX));
            self.source.read_exact_at(bytes, place.offset)?;
            // The length once decompressed, or -1 for bytes that would not shrink.
            let Some((size, bytes)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
            let range = start as usize..(start + len) as usize;
            let codec = if i64::from_le_bytes(*size) == -1 { Codec::None } else { batch.codec };
            Ok(codec::with_decoded(codec, bytes, |bytes| bytes.get(range).map(work)).flatten())
        })
    }

    /// Decodes a column of a piece into `out`, which has it where it is wanted. Whether all values can be.
    fn column(&self, batch: &Batch, column: Column, rows: &Range<u64>, check: bool, out: &mut Slots<'_>) -> Result<bool> {
        let (width, height) = self.limits;
        let whole = match column {
            Column::X => self.bytes(batch, column, rows, |bytes| pixels(bytes, out.x, check.then_some(width))),
            Column::Y => self.bytes(batch, column, rows, |bytes| pixels(bytes, out.y, check.then_some(height))),
            Column::Timestamp => self.bytes(batch, column, rows, |bytes| take(bytes, out.t, i64::from_le_bytes)),
            Column::Polarity => self.bytes(batch, column, rows, |bytes| {
                take(bytes, out.p, i8::from_le_bytes) && (!check || out.p.iter().fold(true, |all, p| all & is_polarity(*p)))
            }),
        }?;
        Ok(whole.unwrap_or(false))
    }
}

impl Table for ArrowTable {
    fn rows(&self) -> u64 {
        self.directory.rows()
    }

    fn unit(&self) -> u64 {
        self.unit
    }

    fn fill(&self, rows: Range<u64>, columns: Columns, check: Columns, mut out: Slots<'_>) -> Result<Vec<Range<u64>>> {
        let pieces = self.pieces(rows);
        let work: Vec<_> =
            pieces.into_iter().map(|(batch, rows)| (batch, rows.clone(), out.split_off_front((rows.end - rows.start) as usize))).collect();
        let suspects: Vec<_> = work
            .into_par_iter()
            .map(|(batch, rows, mut out)| {
                let mut good = true;
                let count = (rows.end - rows.start) as usize;
                for column in columns.iter() {
                    good &= self.column(batch, column, &rows, check.contains(column), &mut out)?;
                }
                for column in check.iter().filter(|column| !columns.contains(*column)) {
                    let mut looked_at = crate::columns::ColumnsBuilder::new(count, Columns::NONE.with(column));
                    good &= self.column(batch, column, &rows, true, &mut looked_at.slots())?;
                }
                Ok((!good).then_some(batch.first + rows.start..batch.first + rows.end))
            })
            .collect::<Result<_>>()?;
        Ok(suspects.into_iter().flatten().collect())
    }

    fn judge(&self, rows: Range<u64>, keep: &mut [u8], problems: &mut Problems) -> Result<()> {
        let mut keep = keep;
        for (batch, rows) in self.pieces(rows) {
            let count = (rows.end - rows.start) as usize;
            let (part, rest) = std::mem::take(&mut keep).split_at_mut(count);
            keep = rest;
            let mut looked_at = crate::columns::ColumnsBuilder::new(count, Columns::ALL);
            let mut slots = looked_at.slots();
            let place = batch.columns[0].offset;
            let first = batch.first + rows.start;
            let mut whole = true;
            for column in COLUMNS {
                whole &= self.column(batch, column, &rows, false, &mut slots)?;
            }
            if !whole {
                part.fill(0);
                problems.add(ProblemCode::Unreadable, count as u64, 0, place, || format!("rows {first} to {}", first + count as u64));
                continue;
            }
            let (width, height) = self.limits;
            let (mut outside, mut bad) = (0, 0);
            for (((keep, x), y), p) in part.iter_mut().zip(&*slots.x).zip(&*slots.y).zip(&*slots.p) {
                if !is_polarity(*p) {
                    bad += 1;
                } else if !is_inside(*x, width) || !is_inside(*y, height) {
                    outside += 1;
                } else {
                    continue;
                }
                *keep = 0;
            }
            problems
                .add(ProblemCode::OutOfBounds, outside, 0, place, || format!("{outside} outside {width}x{height} in rows from {first} on"));
            problems.add(ProblemCode::BadValue, bad, 0, place, || format!("{bad} polarities other than 1 and -1 in rows from {first} on"));
        }
        Ok(())
    }

    fn seek(&self, _: TimeRange) -> Result<Option<Range<u64>>> {
        Ok(None)
    }

    fn notes(&self) -> Problems {
        self.directory.problems.clone()
    }
}

/// The file as Arrow's writer sees it.
struct Out(Partial);

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file.
pub(crate) struct Writer {
    file: FileWriter<Out>,
    schema: Arc<Schema>,
}

/// An error of Arrow's writer, which has only those of the file.
fn refused(error: ArrowError, path: &Path) -> Error {
    match error {
        ArrowError::IoError(_, error) => Error::io(error, path),
        other => Error::invalid(other.to_string()),
    }
}

impl Writer {
    pub(crate) fn new(partial: Partial, options: &WriteOptions) -> Result<Self> {
        if let Some(found) = options.compression.filter(|found| *found != Compression::None) {
            return Err(refuse_compression(Format::Arrow, "`none`", found));
        }
        let schema = Arc::new(schema(options.geometry));
        let path = partial.target().to_path_buf();
        let file = FileWriter::try_new(Out(partial), &schema).map_err(|error| refused(error, &path))?;
        Ok(Self { file, schema })
    }
}

impl Sink for Writer {
    fn times(&self, _: i64) -> Range<i64> {
        i64::MIN..i64::MAX
    }

    fn in_any_order(&self) -> bool {
        true
    }

    fn group(&self) -> Option<usize> {
        Some(GROUP)
    }

    fn write(&mut self, rows: Rows<'_>) -> Result<()> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(PrimitiveArray::<Int16Type>::from_iter_values(rows.x.iter().copied())),
            Arc::new(PrimitiveArray::<Int16Type>::from_iter_values(rows.y.iter().copied())),
            Arc::new(PrimitiveArray::<DurationMicrosecondType>::from_iter_values(rows.t.iter().copied())),
            Arc::new(PrimitiveArray::<Int8Type>::from_iter_values(rows.p.iter().copied())),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let result = batch.and_then(|batch| self.file.write(&batch));
        result.map_err(|error| refused(error, self.file.get_ref().0.target()))
    }

    fn finish(mut self: Box<Self>) -> Result<Partial> {
        self.file.finish().map_err(|error| refused(error, self.file.get_ref().0.target()))?;
        match self.file.into_inner() {
            Ok(out) => Ok(out.0),
            Err(error) => Err(Error::invalid(error.to_string())),
        }
    }
}
