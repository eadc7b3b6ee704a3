//! Byte planes and bit planes, and back.
//!
//! Shuffled, the first bytes of all elements stand together, then all second bytes, and so on. Bit-shuffled, each of
//! these planes is eight planes of one bit, the lowest first, eight elements to a byte, the first in its lowest bit.

use std::array::from_fn;

use crate::simd::{self, Kernel};

/// Words of a bit plane that are transposed at a time.
const WORDS: usize = 16;

/// Puts byte planes back together; bytes past the last whole element are copied.
pub(super) fn unshuffle(element: usize, planes: &[u8], out: &mut [u8]) {
    if element < 2 || planes.len() < element {
        return copy(planes, out);
    }
    simd::run(Unshuffle { element, planes, out });
}

/// Takes elements apart into byte planes; bytes past the last whole element are copied.
pub(super) fn shuffle(element: usize, bytes: &[u8], planes: &mut [u8]) {
    if element < 2 || bytes.len() < element {
        return copy(bytes, planes);
    }
    simd::run(Shuffle { element, bytes, planes });
}

/// Puts bit planes back together. The number of elements is a multiple of eight; bytes past that are copied.
pub(super) fn bit_unshuffle(element: usize, planes: &[u8], out: &mut [u8]) {
    if element == 0 || planes.len() < element * 8 {
        return copy(planes, out);
    }
    simd::run(BitUnshuffle { element, planes, out });
}

fn copy(from: &[u8], to: &mut [u8]) {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
}

struct Unshuffle<'a> {
    element: usize,
    planes: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for Unshuffle<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { element, planes, out } = self;
        let count = planes.len().min(out.len()) / element;
        let (planes, tail) = planes.split_at(count * element);
        let (out, rest) = out.split_at_mut(count * element);
        copy(tail, rest);
        match element {
            2 => join::<2>(planes, out),
            4 => join::<4>(planes, out),
            8 => join::<8>(planes, out),
            16 => join::<16>(planes, out),
            _ => join_any(element, planes, out),
        }
    }
}

/// Elements of at most two words, put together by shifts.
#[inline(always)]
fn join<const N: usize>(planes: &[u8], out: &mut [u8]) {
    let count = planes.len() / N;
    let planes: [&[u8]; N] = from_fn(|plane| &planes[plane * count..][..count]);
    let elements = &mut out.as_chunks_mut::<N>().0[..count];
    for i in 0..count {
        let (mut low, mut high) = (0, 0);
        for plane in 0..N.min(8) {
            low |= u64::from(planes[plane][i]) << (8 * plane);
        }
        for plane in 8..N {
            high |= u64::from(planes[plane][i]) << (8 * (plane - 8));
        }
        let (low, high) = (low.to_le_bytes(), high.to_le_bytes());
        let (first, second) = elements[i].split_at_mut(N.min(8));
        first.copy_from_slice(&low[..N.min(8)]);
        second.copy_from_slice(&high[..N - N.min(8)]);
    }
}

#[inline(always)]
fn join_any(element: usize, planes: &[u8], out: &mut [u8]) {
    let count = planes.len() / element;
    // Few elements at a time, so that they stay in the nearest cache for all their planes.
    for (group, out) in out.chunks_mut(256 * element).enumerate() {
        for plane in 0..element {
            let bytes = &planes[plane * count + group * 256..];
            for (element, byte) in out.chunks_exact_mut(element).zip(bytes) {
                element[plane] = *byte;
            }
        }
    }
}

struct Shuffle<'a> {
    element: usize,
    bytes: &'a [u8],
    planes: &'a mut [u8],
}

impl Kernel for Shuffle<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { element, bytes, planes } = self;
        let count = bytes.len().min(planes.len()) / element;
        let (bytes, tail) = bytes.split_at(count * element);
        let (planes, rest) = planes.split_at_mut(count * element);
        copy(tail, rest);
        match element {
            2 => split::<2>(bytes, planes),
            4 => split::<4>(bytes, planes),
            8 => split::<8>(bytes, planes),
            _ => {
                for (plane, out) in planes.chunks_exact_mut(count).enumerate() {
                    for (element, out) in bytes.chunks_exact(element).zip(out) {
                        *out = element[plane];
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn split<const N: usize>(bytes: &[u8], planes: &mut [u8]) {
    let elements = bytes.as_chunks::<N>().0;
    for (plane, out) in planes.chunks_exact_mut(elements.len()).enumerate() {
        for (element, out) in elements.iter().zip(out) {
            let word = (0..N).fold(0, |word, byte| word | u64::from(element[byte]) << (8 * byte));
            *out = (word >> (8 * plane)) as u8;
        }
    }
}

struct BitUnshuffle<'a> {
    element: usize,
    planes: &'a [u8],
    out: &'a mut [u8],
}

impl Kernel for BitUnshuffle<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { element, planes, out } = self;
        // Groups of eight elements: a byte of each bit plane.
        let groups = planes.len().min(out.len()) / (element * 8);
        let (planes, tail) = planes.split_at(groups * element * 8);
        let (out, rest) = out.split_at_mut(groups * element * 8);
        copy(tail, rest);
        let done = match element {
            1 => bit_tiles::<1>(planes, groups, out),
            2 => bit_tiles::<2>(planes, groups, out),
            4 => bit_tiles::<4>(planes, groups, out),
            8 => bit_tiles::<8>(planes, groups, out),
            16 => bit_tiles::<16>(planes, groups, out),
            _ => 0,
        };
        bit_groups(element, planes, done..groups, groups, out);
    }
}

/// Tiles of many groups and then of eight; the groups done.
#[inline(always)]
fn bit_tiles<const N: usize>(planes: &[u8], groups: usize, out: &mut [u8]) -> usize {
    let done = bit_tiles_of::<N, WORDS>(planes, 0, groups, out);
    bit_tiles_of::<N, 1>(planes, done, groups, out)
}

/// Tiles of `8 * W` groups from `start`; where they end.
#[inline(always)]
fn bit_tiles_of<const N: usize, const W: usize>(planes: &[u8], mut start: usize, groups: usize, out: &mut [u8]) -> usize {
    // `rows[n * N + byte]`: that byte of the n-th element of each group.
    let mut rows = [[0_u64; W]; 128];
    while start + 8 * W <= groups {
        for byte in 0..N {
            let bits: [&[[u8; 8]; W]; 8] = from_fn(|bit| words(planes, (byte * 8 + bit) * groups + start));
            // One loop over whole words without a branch: this is what is vectorised.
            for at in 0..W {
                let mut words: [u64; 8] = from_fn(|bit| u64::from_le_bytes(bits[bit][at]));
                transpose_bits(&mut words);
                for n in 0..8 {
                    rows[n * N + byte][at] = words[n];
                }
            }
        }
        let out = &mut out[start * 8 * N..][..8 * W * 8 * N];
        for (at, out) in out.chunks_exact_mut(8 * 8 * N).enumerate() {
            let out = out.as_chunks_mut::<8>().0;
            for column in 0..N {
                let mut words: [u64; 8] = from_fn(|row| rows[column * 8 + row][at]);
                transpose_bytes(&mut words);
                for group in 0..8 {
                    out[group * N + column] = words[group].to_le_bytes();
                }
            }
        }
        start += 8 * W;
    }
    start
}

#[inline(always)]
fn words<const W: usize>(bytes: &[u8], at: usize) -> &[[u8; 8]; W] {
    bytes[at..].as_chunks().0.first_chunk().expect("a tile ends within the planes")
}

/// Group by group.
#[inline(always)]
fn bit_groups(element: usize, planes: &[u8], range: std::ops::Range<usize>, groups: usize, out: &mut [u8]) {
    for group in range {
        let out = &mut out[group * 8 * element..][..8 * element];
        for byte in 0..element {
            let bits: [u8; 8] = from_fn(|bit| planes[(byte * 8 + bit) * groups + group]);
            let bytes = transpose_square(u64::from_le_bytes(bits)).to_le_bytes();
            for n in 0..8 {
                out[n * element + byte] = bytes[n];
            }
        }
    }
}

/// Swaps the bits of `high` under `mask` with those of `low` that are `shift` higher.
#[inline(always)]
fn swap(words: &mut [u64; 8], low: usize, high: usize, shift: u32, mask: u64) {
    let change = (words[low] >> shift ^ words[high]) & mask;
    words[high] ^= change;
    words[low] ^= change << shift;
}

/// Byte c of word r becomes byte r of word c.
#[inline(always)]
fn transpose_bytes(words: &mut [u64; 8]) {
    for row in [0, 1, 2, 3] {
        swap(words, row, row + 4, 32, 0x0000_0000_FFFF_FFFF);
    }
    for row in [0, 1, 4, 5] {
        swap(words, row, row + 2, 16, 0x0000_FFFF_0000_FFFF);
    }
    for row in [0, 2, 4, 6] {
        swap(words, row, row + 1, 8, 0x00FF_00FF_00FF_00FF);
    }
}

/// In every byte position: bit c of word r becomes bit r of word c.
#[inline(always)]
fn transpose_bits(words: &mut [u64; 8]) {
    for row in [0, 1, 2, 3] {
        swap(words, row, row + 4, 4, 0x0F0F_0F0F_0F0F_0F0F);
    }
    for row in [0, 1, 4, 5] {
        swap(words, row, row + 2, 2, 0x3333_3333_3333_3333);
    }
    for row in [0, 2, 4, 6] {
        swap(words, row, row + 1, 1, 0x5555_5555_5555_5555);
    }
}

/// Bit c of byte r becomes bit r of byte c.
#[inline(always)]
fn transpose_square(mut word: u64) -> u64 {
    for (shift, mask) in [(7, 0x00AA_00AA_00AA_00AA), (14, 0x0000_CCCC_0000_CCCC), (28, 0x0000_0000_F0F0_F0F0)] {
        let change = (word ^ word >> shift) & mask;
        word ^= change ^ change << shift;
    }
    word
}

#[cfg(test)]
mod tests {
    use super::{bit_unshuffle, shuffle, unshuffle};
    use proptest::prelude::*;

    fn noise(mut seed: u32, len: usize) -> Vec<u8> {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn slow_shuffle(element: usize, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        let count = bytes.len() / element;
        for at in 0..count * element {
            out[at % element * count + at / element] = bytes[at];
        }
        out
    }

    /// The number of elements is a multiple of eight.
    fn slow_bit_shuffle(element: usize, bytes: &[u8]) -> Vec<u8> {
        let count = bytes.len() / element;
        let mut out = vec![0; bytes.len()];
        for bit in 0..bytes.len() * 8 {
            let (at, plane) = (bit / 8 / element, bit / 8 % element * 8 + bit % 8);
            out[(plane * count + at) / 8] |= (bytes[bit / 8] >> (bit % 8) & 1) << (at % 8);
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn planes_are_those_of_a_byte_loop(element in 1_usize..40, seed in any::<u32>(), len in 0_usize..6000) {
            let bytes = noise(seed, len);
            for element in [1, 2, 4, 8, 16, element] {
                let mut planes = vec![0; bytes.len()];
                shuffle(element, &bytes, &mut planes);
                prop_assert_eq!(&planes, &slow_shuffle(element, &bytes));
                let mut back = vec![0; bytes.len()];
                unshuffle(element, &planes, &mut back);
                prop_assert_eq!(&back, &bytes);
            }
        }

        #[test]
        fn bit_planes_are_those_of_a_bit_loop(element in 1_usize..40, seed in any::<u32>(), len in 0_usize..20_000) {
            let bytes = noise(seed, len);
            for element in [1, 2, 4, 8, 16, element] {
                let bytes = &bytes[..bytes.len() / (element * 8) * element * 8];
                let mut back = vec![0; bytes.len()];
                bit_unshuffle(element, &slow_bit_shuffle(element, bytes), &mut back);
                prop_assert_eq!(&back, &bytes);
            }
        }
    }
}
