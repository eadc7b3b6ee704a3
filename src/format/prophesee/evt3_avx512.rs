//! EVT3 in blocks of 32 words with AVX-512.
//!
//! In a block, row and low time are spread from the words that set them to the words after them; the column words
//! are then compressed into the output. Vector words are taken in order between them, 12-12-8 groups at once. What
//! is rare (a new high time, exposure measurement, state not yet known) is left to the scalar decoder.
#![expect(unsafe_code, reason = "vector instructions, detected at run time")]

use std::arch::x86_64::{
    __m512i, __mmask32, _mm_cvtsi128_si32, _mm256_set1_epi8, _mm256_storeu_si256, _mm512_add_epi16, _mm512_add_epi64, _mm512_and_si512,
    _mm512_castsi512_si128, _mm512_cmpeq_epi16_mask, _mm512_cmpge_epu16_mask, _mm512_cmpgt_epu16_mask, _mm512_cmplt_epu16_mask,
    _mm512_cmpneq_epi16_mask, _mm512_cvtepi16_epi8, _mm512_cvtepu16_epi64, _mm512_extracti32x4_epi32, _mm512_loadu_si512,
    _mm512_mask_mov_epi16, _mm512_maskz_compress_epi16, _mm512_maskz_mov_epi16, _mm512_or_si512, _mm512_permutexvar_epi16,
    _mm512_popcnt_epi16, _mm512_reduce_add_epi64, _mm512_sad_epu8, _mm512_set1_epi16, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_srli_epi16, _mm512_storeu_si512, _mm512_sub_epi16,
};

use super::evt3::{ADDR_X, ADDR_Y, EM_ADDR_Y, EXT_TRIGGER, Evt3, TIME_HIGH, TIME_LOW, VECT_8, VECT_12, VECT_BASE_X, advance};
use super::word::{Count, Counts, Encoding, Fill, Limits, State};
use crate::columns::Slots;
use crate::problem::Problems;

/// Bytes and words of a block.
const BYTES: usize = 64;
const WORDS: usize = 32;
/// Most events that a block can hold, and the lanes that a store may write past the last of them.
const ROOM: usize = WORDS * 12 + WORDS;

/// For each lane the lanes up to it, in the lower and in the upper half of a 32-lane mask.
static UP_TO_LOW: [u16; WORDS] = up_to(0);
static UP_TO_HIGH: [u16; WORDS] = up_to(16);
static LANES: [u16; WORDS] = {
    let mut lanes = [0; WORDS];
    let mut lane = 0;
    while lane < WORDS {
        lanes[lane] = lane as u16;
        lane += 1;
    }
    lanes
};

const fn up_to(from: usize) -> [u16; WORDS] {
    let mut masks = [0; WORDS];
    let mut lane = 0;
    while lane < WORDS {
        masks[lane] = if lane < from {
            0
        } else if lane >= from + 15 {
            0xFFFF
        } else {
            (1 << (lane - from + 1)) - 1
        };
        lane += 1;
    }
    masks
}

/// Decodes as [`Encoding::walk`] does. Only for processors with the features of [`crate::simd::Level::Avx512`].
pub(super) fn fill<const COLS: u8>(evt3: &Evt3, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        // SAFETY: the caller has seen `Level::Avx512`, which `simd::detect` gives only with these features.
        at += unsafe { fill_blocks::<COLS>(evt3.limits(), state, rest, out) };
        let rest = bytes.get(at..).unwrap_or_default();
        let last = rest.len() < BYTES || out.room() < ROOM;
        let block = if last { rest } else { rest.get(..BYTES).unwrap_or_default() };
        let taken = evt3.walk(state, block, &mut Fill::<COLS>(out));
        at += taken;
        if last || taken < BYTES {
            return at;
        }
    }
}

/// Counts as [`Encoding::count_by_walking`] does. Only for processors with the features of `Level::Avx512`.
pub(super) fn count(evt3: &Evt3, state: &mut State, bytes: &[u8], offset: u64, problems: &mut Problems) -> Counts {
    let mut sink = Count { counts: Counts::default(), problems, offset, limits: evt3.limits() };
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        // SAFETY: as in `fill`.
        at += unsafe { count_blocks(evt3.limits(), state, rest, &mut sink.counts) };
        let rest = bytes.get(at..).unwrap_or_default();
        let block = rest.get(..BYTES).unwrap_or(rest);
        if block.is_empty() {
            return sink.counts;
        }
        sink.offset = offset + at as u64;
        at += evt3.walk(state, block, &mut sink);
        if block.len() < BYTES {
            return sink.counts;
        }
    }
}

/// Lanes of `ty` equal to `value`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn lanes(ty: __m512i, value: u16) -> __mmask32 {
    _mm512_cmpeq_epi16_mask(ty, _mm512_set1_epi16(value.cast_signed()))
}

/// Each lane's value of the last lane of `set` at or before it, or `carry` where there is none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bitalg,avx512vbmi2")]
fn spread(values: __m512i, set: __mmask32, carry: __m512i) -> __m512i {
    if set == 0 {
        return carry;
    }
    // SAFETY: both tables are 64 bytes.
    let (low, high) = unsafe { (_mm512_loadu_si512(UP_TO_LOW.as_ptr().cast()), _mm512_loadu_si512(UP_TO_HIGH.as_ptr().cast())) };
    let low = _mm512_popcnt_epi16(_mm512_and_si512(_mm512_set1_epi16(set as i16), low));
    let high = _mm512_popcnt_epi16(_mm512_and_si512(_mm512_set1_epi16((set >> 16) as i16), high));
    let count = _mm512_add_epi16(low, high);
    let compressed = _mm512_maskz_compress_epi16(set, values);
    let spread = _mm512_permutexvar_epi16(_mm512_sub_epi16(count, _mm512_set1_epi16(1)), compressed);
    _mm512_mask_mov_epi16(spread, _mm512_cmpeq_epi16_mask(count, _mm512_set1_epi16(0)), carry)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn last_lane(values: __m512i) -> __m512i {
    _mm512_permutexvar_epi16(_mm512_set1_epi16(31), values)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn first_lane(values: __m512i) -> u16 {
    _mm_cvtsi128_si32(_mm512_castsi512_si128(values)) as u16
}

/// Where events go: the free end of the slots, as pointers.
struct Out {
    x: *mut i16,
    y: *mut i16,
    t: *mut i64,
    p: *mut i8,
    len: usize,
}

impl Out {
    /// Stores the first `count` lanes of events and up to 32 lanes of anything after them.
    ///
    /// # Safety
    /// Every selected column has room for 32 rows from `len` on, and the processor has the features.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn store<const COLS: u8>(&mut self, count: usize, x: __m512i, y: __m512i, low: __m512i, polarity: __m512i, clock: __m512i) {
        // SAFETY: the caller grants 32 rows from `len`; each store writes at most 32 rows of one selected column.
        unsafe {
            if COLS & 1 != 0 {
                _mm512_storeu_si512(self.x.add(self.len).cast(), x);
            }
            if COLS & 2 != 0 {
                _mm512_storeu_si512(self.y.add(self.len).cast(), y);
            }
            if COLS & 4 != 0 {
                let t = self.t.add(self.len);
                let quarter = _mm512_cvtepu16_epi64(_mm512_castsi512_si128(low));
                _mm512_storeu_si512(t.cast(), _mm512_add_epi64(quarter, clock));
                if count > 8 {
                    let quarter = _mm512_cvtepu16_epi64(_mm512_extracti32x4_epi32::<1>(low));
                    _mm512_storeu_si512(t.add(8).cast(), _mm512_add_epi64(quarter, clock));
                }
                if count > 16 {
                    let quarter = _mm512_cvtepu16_epi64(_mm512_extracti32x4_epi32::<2>(low));
                    _mm512_storeu_si512(t.add(16).cast(), _mm512_add_epi64(quarter, clock));
                    let quarter = _mm512_cvtepu16_epi64(_mm512_extracti32x4_epi32::<3>(low));
                    _mm512_storeu_si512(t.add(24).cast(), _mm512_add_epi64(quarter, clock));
                }
            }
            if COLS & 8 != 0 {
                _mm256_storeu_si256(self.p.add(self.len).cast(), _mm512_cvtepi16_epi8(polarity));
            }
        }
        self.len += count;
    }

    /// Stores events of one row, time and polarity.
    ///
    /// # Safety
    /// As for [`Out::store`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx")]
    unsafe fn store_vector<const COLS: u8>(&mut self, count: usize, x: __m512i, y: u16, t: i64, on: bool) {
        // SAFETY: the caller grants 32 rows from `len`; each store writes at most 32 rows of one selected column.
        unsafe {
            if COLS & 1 != 0 {
                _mm512_storeu_si512(self.x.add(self.len).cast(), x);
            }
            if COLS & 2 != 0 {
                _mm512_storeu_si512(self.y.add(self.len).cast(), _mm512_set1_epi16(y.cast_signed()));
            }
            if COLS & 4 != 0 {
                let times = _mm512_set1_epi64(t);
                let mut row = 0;
                while row < count {
                    _mm512_storeu_si512(self.t.add(self.len + row).cast(), times);
                    row += 8;
                }
            }
            if COLS & 8 != 0 {
                _mm256_storeu_si256(self.p.add(self.len).cast(), _mm256_set1_epi8(if on { 1 } else { -1 }));
            }
        }
        self.len += count;
    }
}

/// Mask and width of the vector word at `lane`, or of the 12-12-8 group that starts there, and its number of words.
#[inline(always)]
fn vector_at(words: &[u16; WORDS], lane: usize, twelves: u32, eights: u32) -> (u32, u16, u32) {
    let content = |lane: usize| u32::from(words[lane & (WORDS - 1)]);
    if twelves >> lane & 1 == 0 {
        return (content(lane) & 0xFF, 8, 1);
    }
    let group = lane + 2 < WORDS && twelves >> (lane + 1) & 1 == 1 && eights >> (lane + 2) & 1 == 1;
    if group {
        (content(lane) & 0xFFF | (content(lane + 1) & 0xFFF) << 12 | (content(lane + 2) & 0xFF) << 24, 32, 3)
    } else {
        (content(lane) & 0xFFF, 12, 1)
    }
}

/// Decodes whole blocks up to one that needs the scalar decoder; returns the bytes consumed.
#[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512bitalg,avx512vbmi2")]
fn fill_blocks<const COLS: u8>(limits: Limits, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
    out.assert_columns::<COLS>();
    if !state.timed || !state.row_known || !state.cd {
        return 0;
    }
    let mut consumed = 0;
    let mut free = out.room();
    let mut to = Out { x: out.x.as_mut_ptr(), y: out.y.as_mut_ptr(), t: out.t.as_mut_ptr(), p: out.p.as_mut_ptr(), len: out.len };
    let high = _mm512_set1_epi16(((state.clock >> 12 & 0xFFF) as u16 | TIME_HIGH << 12).cast_signed());
    let clock = _mm512_set1_epi64(state.clock);
    let (width, height) = (_mm512_set1_epi16(limits.width.cast_signed()), _mm512_set1_epi16(limits.height.cast_signed()));
    let content = _mm512_set1_epi16(0xFFF);
    let address = _mm512_set1_epi16(0x7FF);
    // SAFETY: the table is 64 bytes.
    let lane_numbers = unsafe { _mm512_loadu_si512(LANES.as_ptr().cast()) };
    let mut row = _mm512_set1_epi16(state.row.cast_signed());
    let mut low = _mm512_set1_epi16(state.time_low.cast_signed());
    for block in bytes.as_chunks::<BYTES>().0 {
        if free < ROOM {
            break;
        }
        // SAFETY: the block is 64 bytes.
        let words = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        let ty = _mm512_srli_epi16(words, 12);
        let news = lanes(ty, EM_ADDR_Y) | (lanes(ty, TIME_HIGH) & _mm512_cmpneq_epi16_mask(words, high));
        let (twelves, eights) = (lanes(ty, VECT_12), lanes(ty, VECT_8));
        if news != 0 || (!state.base_known && twelves | eights != 0) {
            break;
        }
        let rows = spread(words, lanes(ty, ADDR_Y), row);
        let lows = spread(_mm512_and_si512(words, content), lanes(ty, TIME_LOW), low);
        let inside = _mm512_cmplt_epu16_mask(rows, height);
        let x = _mm512_and_si512(words, address);
        let mut singles = lanes(ty, ADDR_X) & inside & _mm512_cmplt_epu16_mask(x, width);
        let two = _mm512_and_si512(_mm512_srli_epi16(words, 10), _mm512_set1_epi16(2));
        let polarity = _mm512_sub_epi16(two, _mm512_set1_epi16(1));
        let before = to.len;
        let store_singles = |to: &mut Out, set: __mmask32| {
            // SAFETY: every column of `COLS` is as long as the slots have rows (asserted above), and `free >= ROOM` of
            // them were free at the start of the block. Vector words and column words before
            // this store have filled at most 12 rows each, so 32 rows are left for its lanes.
            unsafe {
                to.store::<COLS>(
                    set.count_ones() as usize,
                    _mm512_maskz_compress_epi16(set, x),
                    _mm512_maskz_compress_epi16(set, rows),
                    _mm512_maskz_compress_epi16(set, lows),
                    _mm512_maskz_compress_epi16(set, polarity),
                    clock,
                );
            }
        };
        let bases = lanes(ty, VECT_BASE_X);
        let mut vectors = twelves | eights | bases;
        if vectors != 0 {
            let (mut word, mut row_of, mut low_of) = ([0_u16; WORDS], [0_u16; WORDS], [0_u16; WORDS]);
            // SAFETY: the arrays are 64 bytes each.
            unsafe {
                _mm512_storeu_si512(word.as_mut_ptr().cast(), words);
                _mm512_storeu_si512(row_of.as_mut_ptr().cast(), rows);
                _mm512_storeu_si512(low_of.as_mut_ptr().cast(), lows);
            }
            while vectors != 0 {
                let lane = vectors.trailing_zeros() as usize & (WORDS - 1);
                if bases >> lane & 1 == 1 {
                    state.base = word[lane] & 0x7FF;
                    state.base_on = word[lane] & 0x800 != 0;
                    state.base_known = true;
                    vectors &= vectors - 1;
                    continue;
                }
                let (mask, columns, taken) = vector_at(&word, lane, twelves, eights);
                let mask = if inside >> lane & 1 == 1 { limits.clip(state.base, mask) } else { 0 };
                if mask != 0 {
                    let earlier = singles & ((1 << lane) - 1);
                    if earlier != 0 {
                        store_singles(&mut to, earlier);
                        singles ^= earlier;
                    }
                    let x = _mm512_add_epi16(_mm512_maskz_compress_epi16(mask, lane_numbers), _mm512_set1_epi16(state.base.cast_signed()));
                    let t = state.clock + i64::from(low_of[lane]);
                    // SAFETY: as in `store_singles`: words before this one have filled at most 12 rows each.
                    unsafe { to.store_vector::<COLS>(mask.count_ones() as usize, x, row_of[lane], t, state.base_on) };
                }
                state.base = advance(state.base, columns);
                vectors &= !(((1 << taken) - 1) << lane);
            }
        }
        store_singles(&mut to, singles);
        row = last_lane(rows);
        low = last_lane(lows);
        free -= to.len - before;
        consumed += BYTES;
    }
    state.row = first_lane(row);
    state.time_low = first_lane(low);
    out.len = to.len;
    consumed
}

/// Counts whole blocks up to one that needs the scalar decoder; returns the bytes consumed.
#[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512bitalg,avx512vbmi2")]
fn count_blocks(limits: Limits, state: &mut State, bytes: &[u8], counts: &mut Counts) -> usize {
    if !state.timed || !state.row_known || !state.cd {
        return 0;
    }
    let mut consumed = 0;
    let (width, height) = (_mm512_set1_epi16(limits.width.cast_signed()), _mm512_set1_epi16(limits.height.cast_signed()));
    let address = _mm512_set1_epi16(0x7FF);
    let mut in_vectors = _mm512_setzero_si512();
    for block in bytes.as_chunks::<BYTES>().0 {
        // SAFETY: the block is 64 bytes.
        let words = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
        let ty = _mm512_srli_epi16(words, 12);
        let (rows, singles, bases) = (lanes(ty, ADDR_Y), lanes(ty, ADDR_X), lanes(ty, VECT_BASE_X));
        let x = _mm512_and_si512(words, address);
        let odd = lanes(ty, EM_ADDR_Y) | (rows & _mm512_cmpge_epu16_mask(words, height)) | (singles & _mm512_cmpge_epu16_mask(x, width));
        if odd != 0 || state.row >= limits.height {
            break;
        }
        let (twelves, eights) = (lanes(ty, VECT_12), lanes(ty, VECT_8));
        let word_at = |lane: u32| u16::from_le_bytes(block.as_chunks().0[lane as usize & (WORDS - 1)]);
        let vectors = twelves | eights;
        // Enough for nearly every block: all of its vectors one after the other, from whichever base, end inside.
        let columns = columns_in(twelves, eights, !0);
        let farthest = limits.width.saturating_sub(columns);
        let far = bases & _mm512_cmpgt_epu16_mask(x, _mm512_set1_epi16(farthest.cast_signed()));
        let known = vectors & !bases.wrapping_neg() == 0 || state.base_known;
        if vectors != 0
            && (far != 0 || state.base > farthest || columns > limits.width || !known)
            && !vectors_fit(limits, state, bases, twelves, eights, word_at)
        {
            break;
        }
        let twelve = _mm512_maskz_mov_epi16(twelves, _mm512_and_si512(words, _mm512_set1_epi16(0xFFF)));
        let eight = _mm512_maskz_mov_epi16(eights, _mm512_and_si512(words, _mm512_set1_epi16(0xFF)));
        let ones = _mm512_popcnt_epi16(_mm512_or_si512(twelve, eight));
        in_vectors = _mm512_add_epi64(in_vectors, _mm512_sad_epu8(ones, _mm512_setzero_si512()));
        if bases == 0 {
            state.base = advance(state.base, columns);
        } else {
            let last = bases.ilog2();
            let word = word_at(last);
            (state.base, state.base_on, state.base_known) = (word & 0x7FF, word & 0x800 != 0, true);
            state.base = advance(state.base, columns_in(twelves, eights, !0 << last));
        }
        counts.events += u64::from(singles.count_ones());
        counts.triggers += u64::from(lanes(ty, EXT_TRIGGER).count_ones());
        if rows != 0 {
            state.row = word_at(rows.ilog2());
        }
        consumed += BYTES;
    }
    counts.events += _mm512_reduce_add_epi64(in_vectors).cast_unsigned();
    consumed
}

/// Columns that the vector words of `set` move the base on by.
#[inline(always)]
fn columns_in(twelves: __mmask32, eights: __mmask32, set: __mmask32) -> u16 {
    (12 * (twelves & set).count_ones() + 8 * (eights & set).count_ones()) as u16
}

/// Whether every vector of a block has a base and ends inside the width.
fn vectors_fit(
    limits: Limits,
    state: &State,
    bases: __mmask32,
    twelves: __mmask32,
    eights: __mmask32,
    word_at: impl Fn(u32) -> u16,
) -> bool {
    let (mut base, mut known, mut bases, mut from) = (state.base, state.base_known, bases, 0);
    loop {
        let to = bases.trailing_zeros();
        let run = if to == 32 { !0 << from } else { ((1 << to) - 1) & (!0 << from) };
        let columns = columns_in(twelves, eights, run);
        if columns > 0 && (!known || u32::from(base) + u32::from(columns) > limits.width.into()) {
            return false;
        }
        if to == 32 {
            return true;
        }
        (base, known) = (word_at(to) & 0x7FF, true);
        bases &= bases - 1;
        from = to;
    }
}
