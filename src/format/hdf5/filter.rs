//! The filters that a chunk went through, undone, and those that the writer applies.

use std::fmt;
use std::ops::Range;

use libdeflater::{CompressionLvl, Compressor, Decompressor};
use zstd_safe::{CCtx, DCtx};

use super::{bitshuffle, blosc, ecf, lzf, shuffle};
use crate::error::{Error, ErrorKind};
use crate::format::codec::lz4;

/// Numbers of the filters that are decoded, as The HDF Group registers them.
pub(crate) const DEFLATE: u16 = 1;
pub(crate) const SHUFFLE: u16 = 2;
pub(crate) const FLETCHER32: u16 = 3;
pub(crate) const LZF: u16 = 32000;
pub(crate) const BLOSC: u16 = 32001;
pub(crate) const LZ4: u16 = 32004;
pub(crate) const BITSHUFFLE: u16 = 32008;
pub(crate) const ZSTD: u16 = 32015;
/// Not registered: Prophesee's own number, 0x8ECF.
pub(crate) const ECF: u16 = 36559;

/// Well-known filters by number, so that an error can name those that are not decoded.
const NAMES: &[(u16, &str)] = &[
    (0, "none"),
    (DEFLATE, "deflate"),
    (SHUFFLE, "shuffle"),
    (FLETCHER32, "fletcher32"),
    (4, "szip"),
    (5, "nbit"),
    (6, "scaleoffset"),
    (305, "LZO"),
    (307, "bzip2"),
    (LZF, "LZF"),
    (BLOSC, "Blosc"),
    (32002, "MAFISC"),
    (32003, "Snappy"),
    (LZ4, "LZ4"),
    (32005, "APAX"),
    (32006, "CBF"),
    (32007, "JPEG-XR"),
    (BITSHUFFLE, "bitshuffle"),
    (32009, "SPDP"),
    (32010, "LPC-Rice"),
    (32011, "CCSDS-123"),
    (32012, "JPEG-LS"),
    (32013, "ZFP"),
    (32014, "FPZIP"),
    (ZSTD, "Zstandard"),
    (32016, "B3D"),
    (32017, "SZ"),
    (32018, "FCIDECOMP"),
    (32019, "JPEG"),
    (32020, "VBZ"),
    (32021, "FAPEC"),
    (32022, "BitGroom"),
    (32023, "Granular BitRound"),
    (32024, "SZ3"),
    (32025, "Delta-Rice"),
    (32026, "Blosc 2"),
    (32027, "FLAC"),
    (32028, "SPERR"),
    (32029, "TERSE/PROLIX"),
    (32030, "FFMPEG"),
    (ECF, "ECF"),
];

/// One filter of a data set's pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) id: u16,
    /// As the file names it.
    pub(crate) name: Option<String>,
    /// A writer that does not have the filter may leave it out.
    pub(crate) optional: bool,
    /// What the file says that the filter was set to.
    pub(crate) values: Vec<u32>,
}

impl Filter {
    fn value(&self, at: usize) -> Option<usize> {
        self.values.get(at).and_then(|value| usize::try_from(*value).ok())
    }
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FilterErrorKind {
    /// The filter, or this kind of it, is not decoded.
    Unsupported,
    /// The bytes are not what the filter writes.
    Corrupt,
    /// What is to be written cannot be held.
    Invalid,
}

/// A chunk that cannot be decoded: by which filter, and what was expected and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilterError {
    pub(crate) kind: FilterErrorKind,
    pub(crate) id: u16,
    /// The name that the file gives, where this library knows none.
    name: Option<String>,
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl FilterError {
    fn new(kind: FilterErrorKind, id: u16, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { kind, id, name: None, expected: expected.into(), found: found.into() }
    }

    pub(super) fn corrupt(id: u16, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(FilterErrorKind::Corrupt, id, expected, found)
    }

    pub(super) fn unsupported(id: u16, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(FilterErrorKind::Unsupported, id, expected, found)
    }

    pub(super) fn invalid(id: u16, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(FilterErrorKind::Invalid, id, expected, found)
    }

    /// The chunk ends within this part.
    pub(super) fn ends(id: u16, part: &str) -> Self {
        Self::corrupt(id, part, "the end of the chunk")
    }

    /// A filter that is not decoded.
    fn unknown(filter: &Filter) -> Self {
        let found =
            filter.name.as_deref().map_or_else(|| format!("filter {}", filter.id), |name| format!("filter {}, `{name}`", filter.id));
        let mut error = Self::unsupported(filter.id, "a filter that this library decodes", found);
        error.name.clone_from(&filter.name);
        error
    }

    /// The filter's name.
    pub(crate) fn name(&self) -> &str {
        let known = NAMES.iter().find(|(id, _)| *id == self.id).map(|(_, name)| *name);
        known.or(self.name.as_deref()).unwrap_or("unknown")
    }

    fn message(&self) -> String {
        let what = match self.kind {
            FilterErrorKind::Unsupported => "cannot be decoded",
            FilterErrorKind::Corrupt => "does not decode",
            FilterErrorKind::Invalid => "cannot be encoded",
        };
        format!("a chunk with HDF5 filter {} ({}) {what}", self.id, self.name())
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.message(), self.expected, self.found)
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        let (kind, hint) = match error.kind {
            FilterErrorKind::Unsupported => {
                (ErrorKind::Unsupported, Some("write the file again with a filter of the common kind: `h5repack -f GZIP=4`"))
            }
            FilterErrorKind::Corrupt => (ErrorKind::Format, None),
            FilterErrorKind::Invalid => (ErrorKind::InvalidArgument, None),
        };
        let made = Self::new(kind, error.message()).expecting(error.expected).but_found(error.found);
        match hint {
            Some(hint) => made.hint(hint),
            None => made,
        }
    }
}

/// How long the output of a filter may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Exactly(usize),
    /// Between two filters of which the first changes the length.
    UpTo(usize),
}

impl Length {
    pub(super) fn most(self) -> usize {
        let (Self::Exactly(bytes) | Self::UpTo(bytes)) = self;
        bytes
    }

    /// `bytes`, if that is allowed.
    pub(super) fn check(self, id: u16, bytes: usize) -> Result<usize, FilterError> {
        match self {
            Self::Exactly(expected) if bytes == expected => Ok(bytes),
            Self::UpTo(most) if bytes <= most => Ok(bytes),
            _ => Err(FilterError::corrupt(id, format!("{self} decoded"), format!("{bytes}"))),
        }
    }

    /// The length after `filter` has encoded what is this long.
    fn encoded(self, filter: &Filter) -> Self {
        match (filter.id, self) {
            (SHUFFLE, length) => length,
            (FLETCHER32, Self::Exactly(bytes)) => Self::Exactly(bytes.saturating_add(4)),
            (FLETCHER32, Self::UpTo(bytes)) => Self::UpTo(bytes.saturating_add(4)),
            (BITSHUFFLE, length) if bitshuffle::codec(filter.value(4)) == bitshuffle::Codec::None => length,
            // What does not compress grows by a little.
            (_, length) => Self::UpTo(length.most().saturating_add(length.most() / 4).saturating_add(1024)),
        }
    }
}

/// How many bytes a byte can become at most, by filter: what the coding itself allows.
fn expansion(filter: &Filter) -> usize {
    const LZ4_MOST: usize = 255;
    // A block of 128 KiB in four bytes.
    const ZSTD_MOST: usize = 32 << 10;
    match filter.id {
        SHUFFLE | FLETCHER32 => 1,
        DEFLATE => 1032,
        // 264 bytes in three.
        LZF => 88,
        LZ4 => LZ4_MOST,
        BITSHUFFLE => match bitshuffle::codec(filter.value(4)) {
            bitshuffle::Codec::None => 1,
            bitshuffle::Codec::Lz4 => LZ4_MOST,
            bitshuffle::Codec::Zstd | bitshuffle::Codec::Unknown(_) => ZSTD_MOST,
        },
        // Six records for a mask of two bytes.
        ECF => 3 * ecf::RECORD,
        _ => ZSTD_MOST,
    }
}

/// How many bytes a byte of a stored chunk can become at most.
pub(crate) fn most_expansion(filters: &[Filter]) -> u64 {
    filters.iter().fold(1, |product: u64, filter| product.saturating_mul(expansion(filter) as u64))
}

/// Refuses to make room for more than `input` can hold: the length of a chunk is only what the file claims.
fn check_room(filter: &Filter, input: &[u8], bytes: usize) -> Result<(), FilterError> {
    let told = if filter.id == ZSTD { zstd_safe::get_frame_content_size(input).ok().flatten() } else { None };
    // What is not proportional to the input: headers, and the least that a coding makes.
    let most = input.len().saturating_mul(expansion(filter)).saturating_add(64 << 10);
    let most = told.and_then(|told| usize::try_from(told).ok()).map_or(most, |told| told.min(most));
    if bytes > most {
        return Err(FilterError::corrupt(filter.id, format!("{bytes} bytes decoded"), format!("room for {most} at most")));
    }
    Ok(())
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(bytes) => write!(f, "{bytes} bytes"),
            Self::UpTo(bytes) => write!(f, "at most {bytes} bytes"),
        }
    }
}

/// Contexts of the libraries, made when they are first needed.
#[derive(Default)]
pub(super) struct Codecs {
    zlib: Option<Decompressor>,
    zstd: Option<DCtx<'static>>,
    snappy: snap::raw::Decoder,
}

/// Each decodes a whole stream into the start of `out`; the number of bytes written, or `None` where the stream is
/// damaged or does not fit.
impl Codecs {
    pub(super) fn zlib(&mut self, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        self.zlib.get_or_insert_with(Decompressor::new).zlib_decompress(raw, out).ok()
    }

    pub(super) fn zstd(&mut self, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        self.zstd.get_or_insert_with(DCtx::create).decompress(out, raw).ok()
    }

    pub(super) fn snappy(&mut self, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        self.snappy.decompress(raw, out).ok()
    }
}

/// A chunk as it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub(crate) raw: &'a [u8],
    /// Bit i: the i-th filter was left out.
    pub(crate) mask: u32,
    /// Bytes of the chunk decoded.
    pub(crate) size: usize,
    /// Bytes of an element.
    pub(crate) element: usize,
}

/// Refuses a filter that is not decoded.
pub(crate) fn check(filter: &Filter) -> Result<(), FilterError> {
    const DECODED: [u16; 9] = [DEFLATE, SHUFFLE, FLETCHER32, LZF, BLOSC, LZ4, BITSHUFFLE, ZSTD, ECF];
    if DECODED.contains(&filter.id) { Ok(()) } else { Err(FilterError::unknown(filter)) }
}

/// A filter in words: its name and what it was set to.
pub(crate) fn describe(filter: &Filter) -> String {
    let known = NAMES.iter().find(|(id, _)| *id == filter.id).map(|(_, name)| *name);
    let name = known.or(filter.name.as_deref()).unwrap_or("unknown filter");
    let values: Vec<_> = filter.values.iter().map(u32::to_string).collect();
    let id = if known.is_some() { String::new() } else { format!(" {}", filter.id) };
    if values.is_empty() { format!("{name}{id}") } else { format!("{name}{id} ({})", values.join(", ")) }
}

/// Decodes chunks; keeps its buffers and contexts from one to the next, so each thread has one.
#[derive(Default)]
pub(crate) struct Decoder {
    codecs: Codecs,
    front: Vec<u8>,
    back: Vec<u8>,
    block: blosc::Scratch,
}

impl Decoder {
    /// Decodes a chunk that went through `filters`, in their order, and shows `sink` at least its bytes `wanted`:
    /// pieces in order with their offset in the chunk, each of whole elements. A chunk whose first filter is Blosc
    /// comes in Blosc's blocks, only those wanted; any other in one piece. The piece of an ECF chunk that has fewer
    /// events than the chunk has room for is short.
    pub(crate) fn decode(
        &mut self,
        filters: &[Filter],
        chunk: Chunk<'_>,
        wanted: Range<usize>,
        sink: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), FilterError> {
        let mut applied = Vec::with_capacity(filters.len());
        let mut length = Length::Exactly(chunk.size);
        for (at, filter) in filters.iter().enumerate() {
            if at < 32 && chunk.mask >> at & 1 == 1 {
                continue;
            }
            applied.push((filter, length));
            length = length.encoded(filter);
        }
        let Some(((first, length), later)) = applied.split_first() else {
            let bytes = chunk.raw.get(..chunk.size);
            sink(0, bytes.ok_or_else(|| FilterError::corrupt(0, format!("{} bytes", chunk.size), format!("{}", chunk.raw.len())))?);
            return Ok(());
        };

        let Self { codecs, front, back, block } = self;
        // The bytes at hand are the first `len` of the chunk itself or, after a filter, of `front`.
        let (mut decoded, mut len) = (false, chunk.raw.len());
        for (filter, length) in later.iter().rev() {
            let input = if decoded { &front[..len] } else { &chunk.raw[..len] };
            if filter.id == FLETCHER32 {
                len = length.check(FLETCHER32, checked(input)?.len())?;
                continue;
            }
            let most = match length {
                Length::Exactly(bytes) => {
                    check_room(filter, input, *bytes)?;
                    *bytes
                }
                Length::UpTo(bytes) => (*bytes).min(input.len().saturating_mul(expansion(filter)).saturating_add(64 << 10)),
            };
            grow(back, most);
            len = step(filter, input, *length, chunk.element, &mut back[..most], codecs, block)?;
            std::mem::swap(front, back);
            decoded = true;
        }
        let input = if decoded { &front[..len] } else { &chunk.raw[..len] };
        // Chunks of ECF may be shorter than they claim; sums take nothing.
        if first.id != ECF {
            check_room(first, input, chunk.size)?;
        }
        match first.id {
            BLOSC => {
                let wanted = wanted.start..wanted.end.min(chunk.size);
                let frame = blosc::Frame::new(input, *length)?;
                if frame.has_whole(chunk.element) {
                    return frame.decode(wanted, codecs, block, sink);
                }
                grow(back, chunk.size);
                frame.decode_whole(&mut back[..chunk.size], codecs, block)?;
                sink(0, &back[..chunk.size]);
            }
            FLETCHER32 => {
                let bytes = checked(input)?;
                length.check(FLETCHER32, bytes.len())?;
                sink(0, bytes);
            }
            ECF => {
                if chunk.element != ecf::RECORD {
                    return Err(FilterError::corrupt(ECF, "elements of 16 bytes", format!("elements of {}", chunk.element)));
                }
                grow(back, chunk.size);
                let len = ecf::decode_records(input, &mut back[..chunk.size])?;
                sink(0, &back[..len]);
            }
            _ => {
                grow(back, chunk.size);
                let len = step(first, input, *length, chunk.element, &mut back[..chunk.size], codecs, block)?;
                sink(0, &back[..len]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Decoder {
    /// Bytes of the buffers.
    pub(super) fn bytes(&self) -> usize {
        self.front.capacity() + self.back.capacity() + self.block.bytes()
    }
}

/// Makes room for `len` bytes.
pub(super) fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}

/// Undoes one filter into `out`, which is `length.most()` long; the number of bytes decoded.
fn step(
    filter: &Filter,
    input: &[u8],
    length: Length,
    element: usize,
    out: &mut [u8],
    codecs: &mut Codecs,
    block: &mut blosc::Scratch,
) -> Result<usize, FilterError> {
    let stream = |name: &str, written: Option<usize>| {
        let written = written
            .ok_or_else(|| FilterError::corrupt(filter.id, format!("{name} of {length}"), format!("{} bytes that are not", input.len())))?;
        length.check(filter.id, written)
    };
    match filter.id {
        DEFLATE => stream("a zlib stream", codecs.zlib(input, out)),
        ZSTD => stream("a Zstandard frame", codecs.zstd(input, out)),
        LZF => stream("an LZF stream", lzf::decode(input, out)),
        SHUFFLE => {
            let len = length.check(SHUFFLE, input.len())?;
            shuffle::unshuffle(filter.value(0).unwrap_or(element), input, &mut out[..len]);
            Ok(len)
        }
        BLOSC => blosc::Frame::new(input, length)?.decode_whole(out, codecs, block),
        LZ4 => lz4_blocks(input, length, out),
        BITSHUFFLE => {
            let element = filter.value(2).filter(|bytes| *bytes > 0).unwrap_or(element).max(1);
            let block = filter.value(3).filter(|elements| *elements > 0);
            bitshuffle::decode(input, length, element, block, bitshuffle::codec(filter.value(4)), codecs, out)
        }
        ECF => {
            let len = ecf::decode_records(input, out)?;
            length.check(ECF, len)
        }
        _ => Err(FilterError::unknown(filter)),
    }
}

/// The LZ4 filter's frame: length u64, block length u32, and per block its length u32 and an LZ4 block, all big-endian.
/// A block that did not shrink is stored.
fn lz4_blocks(input: &[u8], length: Length, out: &mut [u8]) -> Result<usize, FilterError> {
    let mut input = Bytes(input);
    let header = || FilterError::ends(LZ4, "a header of 12 bytes");
    let total = input.u64_be().ok_or_else(header)?;
    let block = input.u32_be().ok_or_else(header)?;
    let total = length.check(LZ4, total)?;
    if block == 0 && total > 0 {
        return Err(FilterError::corrupt(LZ4, "blocks that are not empty", "a block length of 0"));
    }
    for out in out[..total].chunks_mut(block.max(1)) {
        let len = input.u32_be().ok_or_else(|| FilterError::ends(LZ4, "the length of a block"))?;
        let bytes = input.take(len).ok_or_else(|| FilterError::ends(LZ4, &format!("a block of {len} bytes")))?;
        if len == out.len() {
            out.copy_from_slice(bytes);
        } else if lz4::decode_block(bytes, out) != Some(out.len()) {
            return Err(FilterError::corrupt(LZ4, format!("an LZ4 block of {} bytes", out.len()), format!("{len} bytes that are not")));
        }
    }
    Ok(total)
}

/// The bytes before a Fletcher-32 sum, which must be theirs.
fn checked(input: &[u8]) -> Result<&[u8], FilterError> {
    let Some((bytes, sum)) = input.split_last_chunk() else { return Err(FilterError::ends(FLETCHER32, "a sum of 4 bytes")) };
    let (stored, sum) = (u32::from_le_bytes(*sum), fletcher32(bytes));
    // HDF5 before 1.6.3 took the words in the machine's own order, which swaps the bytes of both halves.
    let swapped = (sum & 0x00FF_00FF) << 8 | sum >> 8 & 0x00FF_00FF;
    if stored != sum && stored != swapped {
        return Err(FilterError::corrupt(FLETCHER32, format!("the sum {sum:#010x}"), format!("{stored:#010x}")));
    }
    Ok(bytes)
}

/// Fletcher's sum of big-endian 16-bit words; a last odd byte is the high one of a word.
fn fletcher32(bytes: &[u8]) -> u32 {
    /// Words summed before folding; their weighted sum is below 2^32.
    const BLOCK: usize = 256;
    fn fold(mut sum: u64) -> u64 {
        // Zero stands for no words but zeros; any other sum is within 1..=65535.
        while sum >> 16 != 0 {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum
    }
    let (mut first, mut second) = (0_u64, 0_u64);
    let (pairs, odd) = bytes.as_chunks::<2>();
    for block in pairs.chunks(BLOCK) {
        let (mut sum, mut weighted) = (0_u32, 0_u32);
        let mut weight = block.len() as u32;
        for pair in block {
            let word = u32::from(u16::from_be_bytes(*pair));
            sum += word;
            weighted += weight * word;
            weight -= 1;
        }
        second = fold(second + block.len() as u64 * first + u64::from(weighted));
        first = fold(first + u64::from(sum));
    }
    if let [byte] = odd {
        first = fold(first + (u64::from(*byte) << 8));
        second = fold(second + first);
    }
    (second as u32) << 16 | first as u32
}

/// Bytes that are taken from their start.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u32_le(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    pub(super) fn u32_be(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.array()?)).ok()
    }

    /// A length; one that does not fit the address space is as wrong as the longest that does.
    pub(super) fn u64_be(&mut self) -> Option<usize> {
        Some(usize::try_from(u64::from_be_bytes(self.array()?)).unwrap_or(usize::MAX))
    }
}

/// Encodes chunks; keeps its buffers and contexts from one to the next, so each thread has one.
#[derive(Default)]
pub(crate) struct Encoder {
    pub(super) planes: Vec<u8>,
    pub(super) zstd: Option<CCtx<'static>>,
    zlib: Option<(i32, Compressor)>,
}

impl Encoder {
    /// Appends the byte planes of `bytes` as one zlib stream: filters 2 and 1.
    pub(crate) fn shuffle_deflate(&mut self, bytes: &[u8], element: usize, level: i32, out: &mut Vec<u8>) -> Result<(), FilterError> {
        grow(&mut self.planes, bytes.len());
        let planes = &mut self.planes[..bytes.len()];
        shuffle::shuffle(element, bytes, planes);
        if self.zlib.as_ref().is_none_or(|(made, _)| *made != level) {
            let level_of =
                CompressionLvl::new(level).map_err(|_| FilterError::invalid(DEFLATE, "a level of 0 to 12", format!("{level}")))?;
            self.zlib = Some((level, Compressor::new(level_of)));
        }
        let Some((_, zlib)) = &mut self.zlib else { return Ok(()) };
        let start = out.len();
        out.resize(start + zlib.zlib_compress_bound(bytes.len()), 0);
        let written = zlib.zlib_compress(planes, &mut out[start..]);
        let written = written.map_err(|error| FilterError::invalid(DEFLATE, "room for a zlib stream", error.to_string()))?;
        out.truncate(start + written);
        Ok(())
    }

    /// Appends a Blosc chunk of `bytes`: filter 32001.
    pub(crate) fn blosc_zstd(&mut self, bytes: &[u8], element: usize, level: i32, out: &mut Vec<u8>) -> Result<(), FilterError> {
        blosc::encode_zstd(self, bytes, element, level, out)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BITSHUFFLE, BLOSC, Chunk, DEFLATE, Decoder, ECF, Encoder, FLETCHER32, Filter, FilterError, FilterErrorKind, LZ4, LZF, SHUFFLE,
        ZSTD, fletcher32,
    };
    use crate::error::{Error, ErrorKind};
    use proptest::prelude::*;

    fn filter(id: u16, values: &[u32]) -> Filter {
        Filter { id, name: None, optional: false, values: values.to_vec() }
    }

    fn decode(filters: &[Filter], chunk: Chunk<'_>) -> Result<Vec<u8>, FilterError> {
        let mut out = Vec::new();
        Decoder::default().decode(filters, chunk, 0..chunk.size, &mut |at, bytes| {
            assert_eq!(at, out.len());
            out.extend(bytes);
        })?;
        Ok(out)
    }

    #[test]
    fn no_filter_is_no_copy() {
        let raw = [1, 2, 3, 4, 5];
        let mut seen = None;
        let chunk = Chunk { raw: &raw, mask: 1, size: 4, element: 2 };
        Decoder::default()
            .decode(&[filter(ZSTD, &[])], chunk, 0..4, &mut |at, bytes| seen = Some((at, bytes.as_ptr(), bytes.len())))
            .unwrap();
        assert_eq!(seen, Some((0, raw.as_ptr(), 4)));
        let error = decode(&[], Chunk { size: 6, ..chunk }).unwrap_err();
        assert_eq!(error.to_string(), "a chunk with HDF5 filter 0 (none) does not decode: expected 6 bytes, found 5");
    }

    #[test]
    fn masked_filters_are_skipped() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut raw = Vec::new();
        Encoder::default().shuffle_deflate(&bytes, 1, 4, &mut raw).unwrap();
        let filters = [filter(SHUFFLE, &[4]), filter(DEFLATE, &[4])];
        let chunk = Chunk { raw: &raw, mask: 1, size: 256, element: 4 };
        assert_eq!(decode(&filters, chunk).unwrap(), bytes);
        assert_ne!(decode(&filters, Chunk { mask: 0, ..chunk }).unwrap(), bytes);
    }

    #[test]
    fn stacked_compressors() {
        let bytes: Vec<u8> = (0..5000_u32).map(|at| ((at * at) >> 7) as u8).collect();
        let mut encoder = Encoder::default();
        let (mut inner, mut raw) = (Vec::new(), Vec::new());
        encoder.blosc_zstd(&bytes, 4, 1, &mut inner).unwrap();
        encoder.shuffle_deflate(&inner, 1, 4, &mut raw).unwrap();
        let filters = [filter(BLOSC, &[]), filter(DEFLATE, &[])];
        assert_eq!(decode(&filters, Chunk { raw: &raw, mask: 0, size: 5000, element: 4 }).unwrap(), bytes);
    }

    #[test]
    fn unknown_filters_are_named() {
        let chunk = Chunk { raw: &[1, 2, 3], mask: 0, size: 4, element: 2 };
        let error = decode(&[filter(32026, &[])], chunk).unwrap_err();
        assert_eq!((error.kind, error.id, error.name()), (FilterErrorKind::Unsupported, 32026, "Blosc 2"));
        let named = Filter { name: Some("mine".to_owned()), ..filter(600, &[]) };
        let error = decode(&[named], chunk).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a chunk with HDF5 filter 600 (mine) cannot be decoded: expected a filter that this library decodes, found filter 600, `mine`"
        );
        assert_eq!(Error::from(error).kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn lengths_must_be_those_of_the_chunk() {
        let mut raw = Vec::new();
        Encoder::default().shuffle_deflate(&[7; 4096], 1, 4, &mut raw).unwrap();
        let filters = [filter(DEFLATE, &[])];
        for size in [0, 4095, 4097] {
            let error = decode(&filters, Chunk { raw: &raw, mask: 0, size, element: 1 }).unwrap_err();
            assert_eq!((error.kind, error.id), (FilterErrorKind::Corrupt, DEFLATE), "{error}");
            assert_eq!(Error::from(error).kind(), ErrorKind::Format);
        }
        let error = decode(&[filter(ECF, &[])], Chunk { raw: &raw, mask: 0, size: 4096, element: 8 }).unwrap_err();
        assert!(error.to_string().contains("elements of 16 bytes"));
    }

    #[test]
    fn no_room_is_made_for_what_a_chunk_cannot_hold() {
        let raw = [7; 300];
        for (id, values) in [(DEFLATE, &[][..]), (LZF, &[]), (SHUFFLE, &[4]), (LZ4, &[]), (BITSHUFFLE, &[0, 4, 4, 0, 2]), (ZSTD, &[])] {
            for later in [vec![], vec![filter(FLETCHER32, &[])], vec![filter(DEFLATE, &[])]] {
                let filters = [vec![filter(id, values)], later].concat();
                let mut decoder = Decoder::default();
                let chunk = Chunk { raw: &raw, mask: 0, size: 1 << 31, element: 4 };
                let error = decoder.decode(&filters, chunk, 0..1 << 31, &mut |_, _| panic!("decoded")).unwrap_err();
                assert_eq!(error.kind, FilterErrorKind::Corrupt, "{error}");
                assert!(decoder.bytes() < 1 << 20, "{} bytes for filter {id}", decoder.bytes());
            }
        }
    }

    #[test]
    fn sums_in_either_order() {
        let bytes = *b"abcde";
        let sum = fletcher32(&bytes);
        // 0x6162 + 0x6364 + 0x6500, folded, and the sum of 0x6162, 0xC4C6 and that.
        assert_eq!(sum, 0x4FF0_29C7);
        let filters = [filter(FLETCHER32, &[])];
        let [a, b, c, d] = sum.to_le_bytes();
        for sum in [[a, b, c, d], [b, a, d, c]] {
            let raw = [&bytes[..], &sum].concat();
            assert_eq!(decode(&filters, Chunk { raw: &raw, mask: 0, size: 5, element: 1 }).unwrap(), bytes);
        }
        let raw = [&bytes[..], &[a, b, c, d ^ 1]].concat();
        let error = decode(&filters, Chunk { raw: &raw, mask: 0, size: 5, element: 1 }).unwrap_err();
        assert_eq!((error.kind, error.id), (FilterErrorKind::Corrupt, FLETCHER32));
    }

    fn naive_fletcher(bytes: &[u8]) -> u32 {
        let fold = |sum: u32| (sum & 0xFFFF) + (sum >> 16);
        let (mut first, mut second) = (0, 0);
        for pair in bytes.chunks(2) {
            first = fold(first + (u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte))));
            second = fold(second + first);
        }
        second << 16 | first
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_word_loop(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(255), Just(0)], 0..3000)) {
            prop_assert_eq!(fletcher32(&bytes), naive_fletcher(&bytes));
        }

        #[test]
        fn deflate_round_trips(bytes in proptest::collection::vec(0_u8..4, 0..3000), element in 1_usize..10) {
            let mut raw = Vec::new();
            Encoder::default().shuffle_deflate(&bytes, element, 4, &mut raw).unwrap();
            let filters = [filter(SHUFFLE, &[element as u32]), filter(DEFLATE, &[4])];
            prop_assert_eq!(decode(&filters, Chunk { raw: &raw, mask: 0, size: bytes.len(), element }).unwrap(), bytes);
        }
    }
}
