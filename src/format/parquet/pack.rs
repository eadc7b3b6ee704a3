//! Bit packing and `DELTA_BINARY_PACKED`.
//!
//! <https://parquet.apache.org/docs/file-format/data-pages/encodings/>

use super::thrift::{varint, zigzag};
use crate::simd::{self, Kernel};

/// Values packed at once.
const BLOCK: usize = 64;
/// Differences of a block, and of one of its parts, each of which has a width of its own.
const DELTAS: usize = 128;
const MINIS: usize = 4;
const MINI: usize = DELTAS / MINIS;

/// Appends `count` of the values, `width` bits (1 to 16) each, the lowest first, filled up to a multiple of eight values.
pub(super) fn pack(width: u32, count: usize, values: &mut impl Iterator<Item = u16>, out: &mut Vec<u8>) {
    let end = out.len() + count.div_ceil(8) * width as usize;
    for at in (0..count).step_by(BLOCK) {
        let mut block = [0; BLOCK];
        for (slot, value) in block.iter_mut().zip(values.by_ref().take(count - at)) {
            *slot = value;
        }
        simd::run(Pack { width, block: &block, out });
    }
    out.truncate(end);
}

/// Packs a block.
struct Pack<'a> {
    width: u32,
    block: &'a [u16; BLOCK],
    out: &'a mut Vec<u8>,
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        macro_rules! widths {
            ($($width:literal)*) => {
                match self.width {
                    $($width => self.out.extend(packed::<$width>(self.block).as_flattened()),)*
                    _ => unreachable!("16 bits at most"),
                }
            };
        }
        widths!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    }
}

/// A block in words of 64 bits, `W` of them.
#[inline(always)]
fn packed<const W: usize>(block: &[u16; BLOCK]) -> [[u8; 8]; W] {
    let mut words = [0_u64; W];
    for i in 0..BLOCK {
        let (word, bit) = (i * W / 64, i * W % 64);
        let value = u64::from(block[i]);
        words[word] |= value << bit;
        if bit + W > 64 {
            words[word + 1] |= value >> (64 - bit);
        }
    }
    words.map(u64::to_le_bytes)
}

/// Appends numbers as differences.
pub(super) fn deltas(values: &[i64], out: &mut Vec<u8>) {
    varint(out, DELTAS as u64);
    varint(out, MINIS as u64);
    varint(out, values.len() as u64);
    let Some(first) = values.first() else { return };
    zigzag(out, *first);
    let mut last = *first;
    for block in values.get(1..).unwrap_or_default().chunks(DELTAS) {
        let mut steps = [0_i64; DELTAS];
        for (step, value) in steps.iter_mut().zip(block) {
            *step = value.wrapping_sub(last);
            last = *value;
        }
        let steps = steps.get_mut(..block.len()).unwrap_or_default();
        let least = steps.iter().min().copied().unwrap_or(0);
        zigzag(out, least);
        let widths = out.len();
        out.extend([0; MINIS]);
        for (mini, steps) in steps.chunks(MINI).enumerate() {
            let mut above = [0_u64; MINI];
            for (above, step) in above.iter_mut().zip(steps) {
                // The difference of two numbers of 64 bits fits 64 bits without a sign.
                *above = step.wrapping_sub(least).cast_unsigned();
            }
            let width = 64 - above.iter().fold(0, |all, above| all | above).leading_zeros();
            out[widths + mini] = width as u8;
            pack_wide(width, &above, out);
        }
    }
}

/// Appends values of any width.
fn pack_wide(width: u32, values: &[u64; MINI], out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let (mut bits, mut filled) = (0_u128, 0);
    for value in values {
        bits |= u128::from(*value) << filled;
        filled += width;
        if filled >= 64 {
            out.extend((bits as u64).to_le_bytes());
            bits >>= 64;
            filled -= 64;
        }
    }
    // 32 values are a whole number of four bytes.
    if filled > 0 {
        out.extend((bits as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(width: u32, count: usize, bytes: &[u8]) -> Vec<u64> {
        let bit = |at: usize| u64::from(bytes[at / 8] >> (at % 8) & 1);
        (0..count).map(|value| (0..width as usize).map(|at| bit(value * width as usize + at) << at).sum()).collect()
    }

    #[test]
    fn packed_values_come_back() {
        for width in 1..=16 {
            for count in [1, 7, 8, 63, 64, 65, 1000] {
                let values: Vec<u16> = (0..count).map(|at| ((at as u32 * 40_503) & ((1 << width) - 1)) as u16).collect();
                let mut out = Vec::new();
                pack(width, count, &mut values.iter().copied(), &mut out);
                assert_eq!(out.len(), count.div_ceil(8) * width as usize);
                assert_eq!(unpack(width, count, &out), values.iter().map(|value| u64::from(*value)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn wide_values_come_back() {
        for width in 1..=64 {
            let mut values = [0; MINI];
            for (at, value) in values.iter_mut().enumerate() {
                *value = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - width);
            }
            let mut out = Vec::new();
            pack_wide(width, &values, &mut out);
            assert_eq!(out.len(), MINI * width as usize / 8);
            assert_eq!(unpack(width, MINI, &out), values);
        }
    }
}
