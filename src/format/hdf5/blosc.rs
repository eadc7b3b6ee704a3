//! Blosc 1 chunks.
//!
//! Header of 16 bytes: version, codec version, flags, element size, then u32 the length decoded, the length of a block
//! and the length of the chunk. Then u32 the position of each block. A block is one stream, or one for each byte of the
//! element; each is u32 its length and its bytes, stored where that is the length decoded. Little-endian.

use std::ops::Range;

use zstd_safe::CCtx;

use super::filter::{BLOSC, Bytes, Codecs, Encoder, FilterError, Length, grow};
use super::{blosclz, shuffle};
use crate::format::codec::lz4;

/// Bits of the flags; the three highest are the codec.
const BYTE_SHUFFLED: u8 = 1;
const STORED: u8 = 2;
const BIT_SHUFFLED: u8 = 4;
const NOT_SPLIT: u8 = 0x10;
const CODEC: u32 = 5;
const ZSTD: u8 = 4;

const HEADER: usize = 16;
/// Blocks of elements of at most this size are split, if the streams have at least `SPLIT_BYTES` decoded.
const SPLIT_ELEMENT: usize = 16;
const SPLIT_BYTES: usize = 128;
/// Bytes of a block that this library writes.
const BLOCK: usize = 32 << 10;

/// Buffers that are kept between chunks.
#[derive(Default)]
pub(super) struct Scratch {
    planes: Vec<u8>,
    block: Vec<u8>,
}

#[cfg(test)]
impl Scratch {
    pub(super) fn bytes(&self) -> usize {
        self.planes.capacity() + self.block.capacity()
    }
}

/// A chunk whose header has been checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    /// The chunk, header and all: positions count from its start.
    raw: &'a [u8],
    flags: u8,
    element: usize,
    len: usize,
    block: usize,
}

fn corrupt(expected: impl Into<String>, found: impl Into<String>) -> FilterError {
    FilterError::corrupt(BLOSC, expected, found)
}

impl<'a> Frame<'a> {
    pub(super) fn new(raw: &'a [u8], length: Length) -> Result<Self, FilterError> {
        let header = || FilterError::ends(BLOSC, "a header of 16 bytes");
        let mut bytes = Bytes(raw);
        let [version, _, flags, element] = bytes.array().ok_or_else(header)?;
        let len = bytes.u32_le().ok_or_else(header)?;
        let block = bytes.u32_le().ok_or_else(header)?;
        let total = bytes.u32_le().ok_or_else(header)?;
        if !(1..=2).contains(&version) {
            return Err(FilterError::unsupported(BLOSC, "Blosc format 1 or 2", format!("{version}")));
        }
        let len = length.check(BLOSC, len)?;
        let raw = raw.get(..total).ok_or_else(|| corrupt(format!("a chunk of {total} bytes"), format!("{}", raw.len())))?;
        if total < HEADER || element == 0 {
            return Err(corrupt("a header", format!("{total} bytes of elements of {element}")));
        }
        let frame = Self { raw, flags, element: usize::from(element), len, block };
        if flags & STORED != 0 {
            if raw.len() - HEADER != len {
                return Err(corrupt(format!("{len} bytes stored"), format!("{}", raw.len() - HEADER)));
            }
            return Ok(frame);
        }
        if flags >> CODEC > ZSTD {
            return Err(FilterError::unsupported(BLOSC, "codec 0 to 4", format!("codec {}", flags >> CODEC)));
        }
        if len > 0 && !(1..=len).contains(&block) {
            return Err(corrupt(format!("blocks of 1 to {len} bytes"), format!("{block}")));
        }
        // Each block costs at least its position, so there are not more of them than the chunk has bytes.
        if (raw.len() - HEADER) / 4 < frame.blocks() {
            return Err(FilterError::ends(BLOSC, &format!("the positions of {} blocks", frame.blocks())));
        }
        Ok(frame)
    }

    fn blocks(&self) -> usize {
        self.len.div_ceil(self.block.max(1))
    }

    /// Whether no element is in two pieces.
    pub(super) fn has_whole(&self, element: usize) -> bool {
        self.flags & STORED != 0 || self.block.is_multiple_of(element.max(1))
    }

    /// Decodes the blocks that have bytes of `wanted`, each into the same buffer.
    pub(super) fn decode(
        &self,
        wanted: Range<usize>,
        codecs: &mut Codecs,
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), FilterError> {
        if self.flags & STORED != 0 {
            sink(0, &self.raw[HEADER..]);
            return Ok(());
        }
        let Scratch { planes, block } = scratch;
        grow(block, self.block);
        let mut budget = self.raw.len();
        if wanted.is_empty() || self.len == 0 {
            return Ok(());
        }
        for index in wanted.start / self.block..wanted.end.min(self.len).div_ceil(self.block) {
            let start = index * self.block;
            let out = &mut block[..self.block.min(self.len - start)];
            self.decode_block(index, out, codecs, planes, &mut budget)?;
            sink(start, out);
        }
        Ok(())
    }

    /// Decodes the whole chunk; the number of bytes.
    pub(super) fn decode_whole(&self, out: &mut [u8], codecs: &mut Codecs, scratch: &mut Scratch) -> Result<usize, FilterError> {
        let out = &mut out[..self.len];
        if self.flags & STORED != 0 {
            out.copy_from_slice(&self.raw[HEADER..]);
            return Ok(self.len);
        }
        let mut budget = self.raw.len();
        for (index, out) in out.chunks_mut(self.block.max(1)).enumerate() {
            self.decode_block(index, out, codecs, &mut scratch.planes, &mut budget)?;
        }
        Ok(self.len)
    }

    /// Decodes a block into `out`, which has its length. `budget` is the bytes that streams may still have: those of
    /// a sound chunk do not overlap, and what a damaged one costs is bounded by its length.
    fn decode_block(
        &self,
        index: usize,
        out: &mut [u8],
        codecs: &mut Codecs,
        planes: &mut Vec<u8>,
        budget: &mut usize,
    ) -> Result<(), FilterError> {
        let element = self.element;
        let byte_shuffled = self.flags & BYTE_SHUFFLED != 0 && element > 1;
        // Bit planes have whole bytes only of eights of elements; any other block is left as it is.
        let bit_shuffled = self.flags & BIT_SHUFFLED != 0 && out.len() >= element && (out.len() / element).is_multiple_of(8);
        if !byte_shuffled && !bit_shuffled {
            return self.decode_streams(index, out, codecs, budget);
        }
        grow(planes, out.len());
        let planes = &mut planes[..out.len()];
        self.decode_streams(index, planes, codecs, budget)?;
        if byte_shuffled {
            shuffle::unshuffle(element, planes, out);
        } else {
            shuffle::bit_unshuffle(element, planes, out);
        }
        Ok(())
    }

    fn decode_streams(&self, index: usize, out: &mut [u8], codecs: &mut Codecs, budget: &mut usize) -> Result<(), FilterError> {
        let block = || format!("block {index} of {}", self.blocks());
        let position = Bytes(&self.raw[HEADER + 4 * index..]).u32_le();
        let bytes = position.and_then(|position| self.raw.get(position..));
        let mut bytes = Bytes(bytes.ok_or_else(|| corrupt(block(), format!("position {position:?}")))?);
        let split = self.flags & NOT_SPLIT == 0
            && self.element <= SPLIT_ELEMENT
            && self.block / self.element >= SPLIT_BYTES
            && out.len() == self.block;
        let streams = if split { self.element } else { 1 };
        let each = out.len() / streams;
        if each * streams != out.len() {
            return Err(corrupt(format!("{streams} streams of equal length"), format!("a block of {} bytes", out.len())));
        }
        for out in out.chunks_exact_mut(each) {
            let len = bytes.u32_le().ok_or_else(|| FilterError::ends(BLOSC, &block()))?;
            let stream = bytes.take(len).ok_or_else(|| FilterError::ends(BLOSC, &block()))?;
            *budget = budget.checked_sub(len).ok_or_else(|| corrupt("streams that do not overlap", block()))?;
            if len == each {
                out.copy_from_slice(stream);
                continue;
            }
            let (name, written) = match self.flags >> CODEC {
                0 => ("BloscLZ", blosclz::decode(stream, out)),
                1 => ("LZ4", lz4::decode_block(stream, out)),
                2 => ("Snappy", codecs.snappy(stream, out)),
                3 => ("zlib", codecs.zlib(stream, out)),
                _ => ("Zstandard", codecs.zstd(stream, out)),
            };
            if written != Some(each) {
                return Err(corrupt(format!("a {name} stream of {each} bytes in {}", block()), format!("{len} bytes that are not")));
            }
        }
        Ok(())
    }
}

/// Appends `bytes` as a chunk of Zstandard streams, one for each block of 32 KiB, byte-shuffled.
pub(super) fn encode_zstd(encoder: &mut Encoder, bytes: &[u8], element: usize, level: i32, out: &mut Vec<u8>) -> Result<(), FilterError> {
    // What Blosc does with elements whose size does not fit its header.
    let element_byte = u8::try_from(element.max(1)).unwrap_or(1);
    let element = usize::from(element_byte);
    let len = u32::try_from(bytes.len()).ok().filter(|len| *len < i32::MAX as u32 - 16);
    let len = len.ok_or_else(|| FilterError::invalid(BLOSC, "a chunk of less than 2 GiB", format!("{} bytes", bytes.len())))?;
    let block = (BLOCK / element * element).min(bytes.len());
    let flags = ZSTD << CODEC | NOT_SPLIT | if element > 1 { BYTE_SHUFFLED } else { 0 };
    let start = out.len();
    let header = |out: &mut Vec<u8>, flags| {
        out.extend([2, 1, flags, element_byte]);
        out.extend(len.to_le_bytes());
        out.extend((block as u32).to_le_bytes());
        out.extend([0; 4]);
    };
    header(out, flags);
    let table = out.len();
    let blocks = bytes.len().div_ceil(block.max(1));
    out.resize(table + 4 * blocks, 0);
    let context = encoder.zstd.get_or_insert_with(CCtx::create);
    grow(&mut encoder.planes, block);
    for (index, bytes) in bytes.chunks(block.max(1)).enumerate() {
        let planes = &mut encoder.planes[..bytes.len()];
        shuffle::shuffle(element, bytes, planes);
        let position = out.len();
        out[table + 4 * index..][..4].copy_from_slice(&((position - start) as u32).to_le_bytes());
        // Room for less than the block: a stream that does not fit is stored.
        out.resize(position + 4 + bytes.len() - 1, 0);
        if let Ok(written) = context.compress(&mut out[position + 4..], planes, level) {
            out.truncate(position + 4 + written);
        } else {
            out.truncate(position + 4);
            out.extend_from_slice(planes);
        }
        let written = (out.len() - position - 4) as u32;
        out[position..][..4].copy_from_slice(&written.to_le_bytes());
    }
    if out.len() - start >= HEADER + bytes.len() {
        out.truncate(start);
        header(out, flags | STORED);
        out.extend_from_slice(bytes);
    }
    let total = (out.len() - start) as u32;
    out[start + 12..][..4].copy_from_slice(&total.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Frame, Scratch};
    use crate::format::hdf5::filter::{Codecs, Encoder, FilterError, FilterErrorKind, Length};
    use proptest::prelude::*;

    fn encode(bytes: &[u8], element: usize) -> Vec<u8> {
        let mut out = vec![0xEE];
        Encoder::default().blosc_zstd(bytes, element, 1, &mut out).unwrap();
        out.remove(0);
        out
    }

    fn whole(raw: &[u8], size: usize) -> Result<Vec<u8>, FilterError> {
        let mut out = vec![0; size];
        Frame::new(raw, Length::Exactly(size))?.decode_whole(&mut out, &mut Codecs::default(), &mut Scratch::default())?;
        Ok(out)
    }

    /// Bytes that compress, of elements that grow.
    fn ramp(len: usize, element: usize) -> Vec<u8> {
        (0..len).map(|at| ((at / element * 37) >> (8 * (at % element)).min(56)) as u8).collect()
    }

    #[test]
    fn own_chunks_round_trip() {
        for element in [1, 2, 3, 4, 8, 16, 24, 255, 300] {
            for len in [0, 1, 2, 127, 5000, 32 << 10, 100_000] {
                let bytes = ramp(len, element);
                let raw = encode(&bytes, element);
                assert_eq!(whole(&raw, len).unwrap(), bytes, "{len} bytes of {element}");
                let flags = raw[2] & !2;
                assert_eq!(flags, if (2..256).contains(&element) { 0x91 } else { 0x90 });
                assert!(raw.len() <= 16 + len);
            }
        }
    }

    #[test]
    fn only_the_wanted_blocks_are_decoded() {
        let bytes = ramp(200_000, 8);
        let mut raw = encode(&bytes, 8);
        let frame_of = |raw: &[u8], wanted| {
            let mut pieces = Vec::new();
            let frame = Frame::new(raw, Length::Exactly(200_000))?;
            assert!(frame.has_whole(8) && !frame.has_whole(24));
            frame.decode(wanted, &mut Codecs::default(), &mut Scratch::default(), &mut |at, piece| {
                assert_eq!(piece, &bytes[at..at + piece.len()]);
                pieces.push(at);
            })?;
            Ok::<_, FilterError>(pieces)
        };
        assert_eq!(frame_of(&raw, 0..200_000).unwrap(), [0, 1, 2, 3, 4, 5, 6].map(|block| block << 15));
        assert_eq!(frame_of(&raw, 32_768..65_536).unwrap(), [32_768]);
        assert_eq!(frame_of(&raw, 32_767..65_537).unwrap(), [0, 32_768, 65_536]);
        assert_eq!(frame_of(&raw, 199_999..300_000).unwrap(), [6 << 15]);
        assert_eq!(frame_of(&raw, 250_000..300_000).unwrap(), [0; 0]);
        assert_eq!(frame_of(&raw, 5..5).unwrap(), [0; 0]);
        // The stream of block 1 is damaged.
        let at = u32::from_le_bytes(raw[20..24].try_into().unwrap()) as usize;
        raw[at + 4] ^= 0xFF;
        assert_eq!(frame_of(&raw, 65_536..70_000).unwrap(), [65_536]);
        assert_eq!(frame_of(&raw, 0..200_000).unwrap_err().kind, FilterErrorKind::Corrupt);
    }

    #[test]
    fn headers_that_are_not() {
        let raw = encode(&ramp(100_000, 4), 4);
        for (at, value, kind) in [
            (0, 0, FilterErrorKind::Unsupported),
            (0, 3, FilterErrorKind::Unsupported),
            (2, 0xB1, FilterErrorKind::Unsupported),
            (2, 0x93, FilterErrorKind::Corrupt),
            (3, 0, FilterErrorKind::Corrupt),
            (4, 1, FilterErrorKind::Corrupt),
            (9, 0, FilterErrorKind::Corrupt),
            (11, 9, FilterErrorKind::Corrupt),
            (15, 9, FilterErrorKind::Corrupt),
            (18, 0xFF, FilterErrorKind::Corrupt),
        ] {
            let mut raw = raw.clone();
            raw[at] = value;
            assert_eq!(whole(&raw, 100_000).unwrap_err().kind, kind, "byte {at} = {value}");
        }
        for len in 0..raw.len() {
            assert_eq!(whole(&raw[..len], 100_000).unwrap_err().kind, FilterErrorKind::Corrupt);
        }
    }

    #[test]
    fn blocks_do_not_share_streams() {
        // Bytes that do not compress, so that two blocks of them are more than the chunk.
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let mut bytes = vec![0; 32 << 10];
        bytes.extend((0..32 << 10).map(|_| noise()));
        bytes.extend(vec![0; 32 << 10]);
        let mut raw = encode(&bytes, 1);
        assert_eq!(whole(&raw, bytes.len()).unwrap(), bytes);
        raw.copy_within(20..24, 16);
        let error = whole(&raw, bytes.len()).unwrap_err();
        assert!(error.to_string().contains("do not overlap"), "{error}");
    }

    proptest! {
        #[test]
        fn random_headers_do_no_harm(version in 1_u8..3, flags in any::<u8>(), element in 0_u8..20, size in 0_u32..3000, block in 0_u32..3000, mut tail in proptest::collection::vec(any::<u8>(), 0..400), position in 0_u32..40) {
            for at in tail.chunks_exact_mut(4).take(4) {
                at.copy_from_slice(&(16 + position).to_le_bytes());
            }
            let mut raw = vec![version, 1, flags, element];
            raw.extend(size.to_le_bytes());
            raw.extend(block.to_le_bytes());
            raw.extend((16 + tail.len() as u32).to_le_bytes());
            raw.extend(tail);
            prop_assert!(whole(&raw, size as usize).is_ok_and(|out| out.len() == size as usize) || whole(&raw, size as usize).is_err());
        }
    }
}
