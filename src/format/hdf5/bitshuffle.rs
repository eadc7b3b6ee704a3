//! The bitshuffle filter: bit planes block by block, plain or each block compressed.

use super::filter::{BITSHUFFLE, Bytes, Codecs, FilterError, Length, grow};
use super::shuffle;
use crate::format::codec::lz4;

/// What compresses the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Lz4,
    Zstd,
    Unknown(usize),
}

/// The codec that the filter's fifth value names.
pub(super) fn codec(value: Option<usize>) -> Codec {
    match value {
        None | Some(0) => Codec::None,
        Some(2) => Codec::Lz4,
        Some(3) => Codec::Zstd,
        Some(other) => Codec::Unknown(other),
    }
}

/// Elements of a block where the filter does not say: about 8 KiB of them.
fn default_block(element: usize) -> usize {
    (8192 / element / 8 * 8).max(128)
}

/// Decodes a chunk into `out`, which is `length.most()` long; the number of bytes. `block` is in elements.
///
/// Without a codec: blocks of bit planes. With one: length u64 and block length u32, in bytes, then each block with its
/// length u32 before it, all big-endian. Either way a short block of the eights of elements that are left, and the
/// last few elements as they are.
pub(super) fn decode(
    input: &[u8],
    length: Length,
    element: usize,
    block: Option<usize>,
    codec: Codec,
    codecs: &mut Codecs,
    out: &mut [u8],
) -> Result<usize, FilterError> {
    let mut input = Bytes(input);
    let (total, block) = match codec {
        Codec::None => (input.0.len(), block.unwrap_or_else(|| default_block(element)).saturating_mul(element)),
        Codec::Lz4 | Codec::Zstd => {
            let header = || FilterError::ends(BITSHUFFLE, "a header of 12 bytes");
            (input.u64_be().ok_or_else(header)?, input.u32_be().ok_or_else(header)?)
        }
        Codec::Unknown(codec) => return Err(FilterError::unsupported(BITSHUFFLE, "codec 0, 2 (LZ4) or 3 (Zstandard)", format!("{codec}"))),
    };
    let total = length.check(BITSHUFFLE, total)?;
    let group = element.saturating_mul(8);
    if !total.is_multiple_of(element) || block == 0 || !block.is_multiple_of(group) {
        let found = format!("{total} bytes in blocks of {block}");
        return Err(FilterError::corrupt(BITSHUFFLE, format!("elements of {element} bytes in blocks of eights of them"), found));
    }
    let (shuffled, rest) = out[..total].split_at_mut(total / group * group);
    let mut scratch = Vec::new();
    for out in shuffled.chunks_mut(block) {
        if codec == Codec::None {
            let planes = input.take(out.len()).ok_or_else(|| FilterError::ends(BITSHUFFLE, "a block"))?;
            shuffle::bit_unshuffle(element, planes, out);
            continue;
        }
        let len = input.u32_be().ok_or_else(|| FilterError::ends(BITSHUFFLE, "the length of a block"))?;
        let bytes = input.take(len).ok_or_else(|| FilterError::ends(BITSHUFFLE, &format!("a block of {len} bytes")))?;
        grow(&mut scratch, out.len());
        let planes = &mut scratch[..out.len()];
        let written = if codec == Codec::Lz4 { lz4::decode_block(bytes, planes) } else { codecs.zstd(bytes, planes) };
        if written != Some(out.len()) {
            let expected = format!("a compressed block of {} bytes", out.len());
            return Err(FilterError::corrupt(BITSHUFFLE, expected, format!("{len} bytes that are not")));
        }
        shuffle::bit_unshuffle(element, planes, out);
    }
    rest.copy_from_slice(input.take(rest.len()).ok_or_else(|| FilterError::ends(BITSHUFFLE, "the last elements"))?);
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::{Codec, decode};
    use crate::format::hdf5::filter::{Codecs, Length};
    use proptest::prelude::*;

    fn run(raw: &[u8], size: usize, element: usize, codec: Codec) -> Option<Vec<u8>> {
        let mut out = vec![0; size];
        decode(raw, Length::Exactly(size), element, Some(8), codec, &mut Codecs::default(), &mut out).ok()?;
        Some(out)
    }

    #[test]
    fn plain_blocks_and_a_tail() {
        // Eight elements, 0 to 7, as bit planes, and a ninth as it is.
        let raw = [0xAA, 0xCC, 0xF0, 0, 0, 0, 0, 0, 9];
        assert_eq!(run(&raw, 9, 1, Codec::None).unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 9]);
        assert_eq!(run(&raw[..8], 9, 1, Codec::None), None);
        assert_eq!(run(&raw, 9, 2, Codec::None), None, "not a multiple of the element");
        assert_eq!(run(&raw, 9, 1, Codec::Unknown(7)), None);
    }

    proptest! {
        #[test]
        fn random_bytes_do_no_harm(mut raw in proptest::collection::vec(any::<u8>(), 0..200), size in 0_usize..300, block in 0_u32..300, element in 1_usize..9) {
            for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
                run(&raw, size, element, codec);
            }
            if raw.len() >= 12 {
                raw[..8].copy_from_slice(&(size as u64).to_be_bytes());
                raw[8..12].copy_from_slice(&block.to_be_bytes());
                run(&raw, size, element, Codec::Lz4);
                run(&raw, size, element, Codec::Zstd);
            }
        }
    }
}
