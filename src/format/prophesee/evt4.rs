//! EVT4: 32-bit little-endian words, EVT2 with vectors of a head word and a mask word.
//!
//! | type, bits 31..28 | word | content |
//! |---|---|---|
//! | 0x6, 0x7 | OTHER, CONTINUED | |
//! | 0x9 | `EXT_TRIGGER` | time, low 6 bits, in 27..22; id in 12..8; value in 0 |
//! | 0xA, 0xB | `CD_OFF`, `CD_ON` | time, low 6 bits, in 27..22; x in 21..11; y in 10..0 |
//! | 0xC, 0xD | `CD_VEC_OFF`, `CD_VEC_ON` | as above; the next word, whatever its bits, is the mask: bit k is the pixel x + k |
//! | 0xE | `TIME_HIGH` | 27..0: time, bits 33..6 |
//! | 0xF | PADDING | |
//!
//! After the public decoder of OpenEB 5.1, where EVT4 is described.

use super::word::{Encoding, Limits, Sink, State, u32_at};
use super::writer;
use crate::problem::ProblemCode;

#[derive(Debug, Clone)]
pub(crate) struct Evt4 {
    limits: Limits,
}

const fn is_vector(word: u32) -> bool {
    matches!(word >> 28, 0xC | 0xD)
}

impl Evt4 {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// The events of `mask`, whose pixel 0 is that of `head`.
    #[inline(always)]
    fn vector<S: Sink>(&self, state: &State, head: u32, mask: u32, at: usize, sink: &mut S) -> bool {
        if !state.timed {
            sink.dropped(ProblemCode::BeforeFirstTime, mask.count_ones(), at);
            return true;
        }
        let (x, y) = ((head >> 11 & 0x7FF) as u16, (head & 0x7FF) as u16);
        let mut inside = if y < self.limits.height { self.limits.clip(x, mask) } else { 0 };
        if !sink.fits(inside.count_ones()) {
            return false;
        }
        if inside != mask {
            sink.dropped(ProblemCode::OutOfBounds, (mask ^ inside).count_ones(), at);
        }
        while inside != 0 {
            sink.event(x + inside.trailing_zeros() as u16, y, state.clock + i64::from(head >> 22 & 0x3F), head >> 28 & 1 == 1);
            inside &= inside - 1;
        }
        true
    }
}

impl Encoding for Evt4 {
    type Tail = ();

    const NAME: &'static str = "evt4";
    const TIME_BITS: u32 = 28;
    const EVENTS_PER_BYTE: u64 = 8;
    const TIME_SHIFT: u32 = 6;
    const SPANS: bool = true;

    fn lead(&self, state: &State, _first_us: i64) -> Option<Vec<u8>> {
        Some(writer::lead::<writer::Evt4Words>(state.clock))
    }

    fn tail(&self, _bytes: &[u8]) {}

    fn word_bytes(&self) -> usize {
        4
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn load(&self, bytes: &[u8]) -> u64 {
        u32_at(bytes).into()
    }

    fn time(&self, word: u64) -> Option<u32> {
        (word >> 28 == 0xE).then_some(word as u32 & 0x0FFF_FFFF)
    }

    fn is_foreign(&self, word: u64) -> bool {
        !matches!(word >> 28, 0x6 | 0x7 | 0x9..=0xF)
    }

    fn stride(&self, word: u64) -> usize {
        if is_vector(word as u32) { 8 } else { 4 }
    }

    /// A mask can look like any word, but the word after one that does not look like a vector head has a type; where
    /// all look like heads, every second word has.
    fn cut(&self, bytes: &[u8], at: usize) -> usize {
        let at = at.next_multiple_of(4);
        let mut back = at;
        while back >= 4 && bytes.get(back - 4..back).is_some_and(|word| is_vector(u32_at(word))) {
            back -= 4;
        }
        (at + (at - back) % 8).min(bytes.len())
    }

    /// A vector head whose mask is not there yet is not complete.
    fn complete(&self, bytes: &[u8], from: usize, to: usize) -> usize {
        let words = bytes.get(from..to).unwrap_or_default().as_chunks::<4>().0;
        let heads = words.iter().rev().take_while(|word| is_vector(u32_at(*word))).count();
        to - heads % 2 * 4
    }

    #[inline(always)]
    fn walk<S: Sink>(&self, state: &mut State, bytes: &[u8], sink: &mut S) -> usize {
        for (index, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_le_bytes(*word);
            let at = 4 * index;
            if state.vector != 0 {
                if !self.vector(state, state.vector, word, at, sink) {
                    return at;
                }
                state.vector = 0;
                continue;
            }
            match word >> 28 {
                0x9 if state.timed => {
                    sink.trigger((word >> 8 & 0x1F) as u8, word & 1 == 1, state.clock + i64::from(word >> 22 & 0x3F));
                }
                0x9 => sink.dropped(ProblemCode::TriggerBeforeFirstTime, 1, at),
                0xA | 0xB if !self.vector(state, word, 1, at, sink) => {
                    return at;
                }
                0xC | 0xD => state.vector = word,
                0xE => state.tick(i64::from(word & 0x0FFF_FFFF) << 6, Self::PERIOD, i64::from(Self::NEAR) << 6),
                _ => {}
            }
        }
        bytes.len() / 4 * 4
    }
}
