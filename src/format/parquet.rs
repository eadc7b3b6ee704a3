//! Parquet files of our own columns, written; Polars reads them in Python.
//!
//! Four required columns and no definition levels. What the encodings cost and save is known beforehand, so that no
//! value is hashed and no page compressed unless asked:
//!
//! | column | stored as | encoding |
//! |---|---|---|
//! | `x`, `y` | `INT32`, 16 bits, signed | `RLE_DICTIONARY`: the dictionary is every number from the smallest to the largest of the row group, an index the difference to the smallest, in as many bits as the largest needs |
//! | `timestamp` | `INT64`, microseconds; a duration in the Arrow schema | `DELTA_BINARY_PACKED` |
//! | `polarity` | `INT32`, 8 bits, signed | `RLE_DICTIONARY` of -1 and 1, a bit each |
//!
//! Row groups have least and greatest value of each column, so that readers skip those without the times they look for,
//! and say that they are sorted by time where they are. Keys of the file: `evlib.version`, the version of this layout,
//! `evlib.geometry`, as `640x480`, and `ARROW:schema`, which gives the columns their types.
//!
//! <https://parquet.apache.org/docs/file-format/>

mod pack;
mod thrift;

use std::ops::Range;

use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use rayon::prelude::*;

use crate::columns::Rows;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::arrow::{metadata, schema};
use crate::schema::Geometry;
use crate::write::{Compression, Partial, Sink, WriteOptions, refuse_compression};
use thrift::Struct;

/// Rows of a row group.
const GROUP: usize = 1 << 19;
/// Rows of a page, a multiple of what is packed at once.
const PAGE: usize = 1 << 17;
/// Level of Zstandard: others gain a few percent for several times the time.
const ZSTD_LEVEL: i32 = 1;

pub(crate) const MAGIC: &[u8] = b"PAR1";
const NAMES: [&str; 4] = ["x", "y", "timestamp", "polarity"];
const T: usize = 2;

// Numbers of the format's enumerations.
const INT32: i64 = 1;
const INT64: i64 = 2;
const PLAIN: i64 = 0;
const RLE: i64 = 3;
const DELTA_BINARY_PACKED: i64 = 5;
const RLE_DICTIONARY: i64 = 8;
const DATA_PAGE: i64 = 0;
const DICTIONARY_PAGE: i64 = 2;
const UNCOMPRESSED: i64 = 0;
const ZSTD: i64 = 6;

/// A column of a row group, encoded.
struct Chunk {
    /// Pages, one after the other.
    bytes: Vec<u8>,
    /// Bytes of the dictionary page, at the front.
    dictionary: usize,
    /// Bytes of the pages before they were compressed.
    plain: usize,
    least: Vec<u8>,
    greatest: Vec<u8>,
}

/// Writes a file.
pub(crate) struct Writer {
    partial: Partial,
    compress: bool,
    geometry: Geometry,
    /// Bytes written.
    position: u64,
    rows: u64,
    /// Row groups, as the footer has them.
    groups: Vec<Struct>,
}

impl Writer {
    pub(crate) fn new(mut partial: Partial, options: &WriteOptions) -> Result<Self> {
        let compress = match options.compression {
            None | Some(Compression::None) => false,
            Some(Compression::Zstd) => true,
            Some(other) => return Err(refuse_compression(Format::Parquet, "`none` or `zstd`", other)),
        };
        partial.write_all(MAGIC)?;
        Ok(Self { partial, compress, geometry: options.geometry, position: MAGIC.len() as u64, rows: 0, groups: Vec::new() })
    }

    /// Metadata of the file.
    fn footer(&mut self) -> Struct {
        let mut schema = vec![Struct::default().text(4, "events").int32(5, NAMES.len() as i64)];
        for (name, bits) in NAMES.iter().zip([16, 16, 64, 8]) {
            let element = Struct::default().int32(1, if bits == 64 { INT64 } else { INT32 }).int32(3, 0).text(4, name);
            schema.push(match bits {
                64 => element,
                // The types `INT_8` and `INT_16`, in the old way and in the new.
                _ => element
                    .int32(6, if bits == 8 { 15 } else { 16 })
                    .nested(10, Struct::default().nested(10, Struct::default().byte(1, bits).bool(2, true))),
            });
        }
        let arrow = ("ARROW:schema".to_owned(), arrow_schema(self.geometry));
        let keys = metadata(self.geometry).into_iter().chain([arrow]);
        let keys = keys.map(|(key, value)| Struct::default().text(1, &key).text(2, &value)).collect();
        // Statistics are in the order of the types.
        let orders = NAMES.iter().map(|_| Struct::default().nested(1, Struct::default())).collect();
        Struct::default()
            .int32(1, 2)
            .structs(2, schema)
            .int64(3, self.rows.cast_signed())
            .structs(4, std::mem::take(&mut self.groups))
            .structs(5, keys)
            .text(6, concat!("evlib version ", env!("CARGO_PKG_VERSION")))
            .structs(7, orders)
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
        let compress = self.compress;
        let encode = |column| match column {
            0 => dictionary(rows.x.iter().map(|x| i32::from(*x)), compress),
            1 => dictionary(rows.y.iter().map(|y| i32::from(*y)), compress),
            T => times(rows.t, compress),
            _ => polarities(rows.p, compress),
        };
        let chunks: Vec<Chunk> = (0..NAMES.len()).into_par_iter().with_max_len(1).map(encode).collect();
        let sorted = rows.t.is_sorted();
        let start = self.position;
        let mut columns = Vec::new();
        let (mut plain, mut compressed) = (0, 0);
        for (column, chunk) in chunks.iter().enumerate() {
            let (ty, encoding) = if column == T { (INT64, DELTA_BINARY_PACKED) } else { (INT32, RLE_DICTIONARY) };
            let mut encodings = vec![encoding];
            if column != T {
                encodings.extend([PLAIN, RLE]);
            }
            let place = self.position.cast_signed();
            let mut meta = Struct::default()
                .int32(1, ty)
                .ints(2, &encodings)
                .texts(3, &NAMES[column..=column])
                .int32(4, if compress { ZSTD } else { UNCOMPRESSED })
                .int64(5, rows.len as i64)
                .int64(6, chunk.plain as i64)
                .int64(7, chunk.bytes.len() as i64)
                .int64(9, place + chunk.dictionary as i64);
            if chunk.dictionary > 0 {
                meta = meta.int64(11, place);
            }
            let statistics = Struct::default().int64(3, 0).bytes(5, &chunk.greatest).bytes(6, &chunk.least).bool(7, true).bool(8, true);
            columns.push(Struct::default().int64(2, place).nested(3, meta.nested(12, statistics)));
            self.partial.write_all(&chunk.bytes)?;
            self.position += chunk.bytes.len() as u64;
            plain += chunk.plain;
            compressed += chunk.bytes.len();
        }
        let mut group = Struct::default().structs(1, columns).int64(2, plain as i64).int64(3, rows.len as i64);
        if sorted {
            let by_time = Struct::default().int32(1, T as i64).bool(2, false).bool(3, false);
            group = group.structs(4, vec![by_time]);
        }
        self.groups.push(group.int64(5, start.cast_signed()).int64(6, compressed as i64));
        self.rows += rows.len as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Partial> {
        let mut footer = self.footer().finish();
        let len = u32::try_from(footer.len()).map_err(|_| Error::invalid("a footer of more than 2^32 bytes"))?;
        footer.extend(len.to_le_bytes());
        footer.extend(MAGIC);
        self.partial.write_all(&footer)?;
        Ok(self.partial)
    }
}

/// The schema of the columns as an Arrow message, in base 64, as readers that know Arrow look for it.
fn arrow_schema(geometry: Geometry) -> String {
    let schema = schema(geometry);
    let options = IpcWriteOptions::default();
    let message = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(&schema, &mut DictionaryTracker::new(true), &options);
    let mut bytes = vec![0xFF; 4];
    bytes.extend((message.ipc_message.len() as u32).to_le_bytes());
    bytes.extend(message.ipc_message);
    base64(&bytes)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let shown = digit <= group.len();
            text.push(if shown { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize].into() } else { '=' });
        }
    }
    text
}

/// Appends a page.
fn page(chunk: &mut Chunk, compress: bool, kind: i64, fields: (i16, Struct), content: Vec<u8>) {
    let plain = content.len();
    let content = if compress {
        let mut out = vec![0; zstd_safe::compress_bound(plain)];
        let len = zstd_safe::compress(out.as_mut_slice(), &content, ZSTD_LEVEL).expect("room for the worst case");
        out.truncate(len);
        out
    } else {
        content
    };
    let header = Struct::default().int32(1, kind).int32(2, plain as i64).int32(3, content.len() as i64).nested(fields.0, fields.1).finish();
    chunk.plain += header.len() + plain;
    chunk.bytes.extend(header);
    chunk.bytes.extend(content);
    if kind == DICTIONARY_PAGE {
        chunk.dictionary = chunk.bytes.len();
    }
}

/// Appends a data page.
fn data_page(chunk: &mut Chunk, compress: bool, values: usize, encoding: i64, content: Vec<u8>) {
    let fields = Struct::default().int32(1, values as i64).int32(2, encoding).int32(3, RLE).int32(4, RLE);
    page(chunk, compress, DATA_PAGE, (5, fields), content);
}

/// A column of numbers with every number between the least and the greatest as dictionary.
fn dictionary(values: impl ExactSizeIterator<Item = i32> + Clone, compress: bool) -> Chunk {
    let (least, greatest) = values.clone().fold((i32::MAX, i32::MIN), |(least, greatest), value| (least.min(value), greatest.max(value)));
    let entries = (least..=greatest).flat_map(i32::to_le_bytes).collect();
    indices(values.map(|value| (value - least) as u16), (least, greatest), entries, compress)
}

/// Polarities, which are 1 or -1.
fn polarities(values: &[i8], compress: bool) -> Chunk {
    let on = values.iter().fold(false, |on, p| on | (*p > 0));
    let off = values.iter().fold(false, |off, p| off | (*p < 0));
    let entries = [-1_i32, 1].into_iter().flat_map(i32::to_le_bytes).collect();
    let range = (if off { -1 } else { 1 }, if on { 1 } else { -1 });
    indices(values.iter().map(|p| u16::from(*p > 0)), range, entries, compress)
}

/// Indices into a dictionary of 4 bytes an entry.
fn indices(mut indices: impl ExactSizeIterator<Item = u16>, range: (i32, i32), entries: Vec<u8>, compress: bool) -> Chunk {
    let (least, greatest) = (range.0.to_le_bytes().to_vec(), range.1.to_le_bytes().to_vec());
    let mut chunk = Chunk { bytes: Vec::new(), dictionary: 0, plain: 0, least, greatest };
    let count = entries.len() / 4;
    let fields = Struct::default().int32(1, count as i64).int32(2, PLAIN).bool(3, true);
    page(&mut chunk, compress, DICTIONARY_PAGE, (7, fields), entries);
    let width = (count - 1).max(1).ilog2() + 1;
    let mut left = indices.len();
    while left > 0 {
        let values = left.min(PAGE);
        // One run of values that are packed, eight to a group.
        let mut content = vec![width as u8];
        thrift::varint(&mut content, ((values.div_ceil(8) << 1) | 1) as u64);
        pack::pack(width, values, &mut indices, &mut content);
        data_page(&mut chunk, compress, values, RLE_DICTIONARY, content);
        left -= values;
    }
    chunk
}

/// A column of times.
fn times(values: &[i64], compress: bool) -> Chunk {
    let least = values.iter().min().copied().unwrap_or(0).to_le_bytes().to_vec();
    let greatest = values.iter().max().copied().unwrap_or(0).to_le_bytes().to_vec();
    let mut chunk = Chunk { bytes: Vec::new(), dictionary: 0, plain: 0, least, greatest };
    for page in values.chunks(PAGE) {
        let mut content = Vec::with_capacity(2 * page.len());
        pack::deltas(page, &mut content);
        data_page(&mut chunk, compress, page.len(), DELTA_BINARY_PACKED, content);
    }
    chunk
}
