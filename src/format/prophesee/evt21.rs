//! EVT2.1: 64-bit words, EVT2 with up to 32 neighbouring pixels in a word.
//!
//! | type, bits 63..60 | word | bits 59..54 | 53..43 | 42..32 | 31..0 |
//! |---|---|---|---|---|---|
//! | 0x0, 0x1 | `EVT_NEG`, `EVT_POS` | time, low 6 bits | x | y | mask: bit k is the pixel x + k |
//! | 0x8 | `EVT_TIME_HIGH` | bits 59..32: time, bits 33..6 | | | |
//! | 0xA | `EXT_TRIGGER` | time, low 6 bits | | id in 44..40 | value in bit 32 |
//! | 0xE, 0xF | OTHERS, CONTINUED | | | | |
//!
//! Words are little-endian; in the legacy order the upper half comes first.
//! <https://docs.prophesee.ai/stable/data/encoding_formats/evt21.html>

use super::word::{Encoding, Limits, Sink, State, Words, u64_at};
use super::writer;
use crate::problem::ProblemCode;

#[derive(Debug, Clone)]
pub(crate) struct Evt21 {
    limits: Limits,
    legacy: bool,
}

impl Evt21 {
    pub(crate) fn new(limits: Limits, legacy: bool) -> Self {
        Self { limits, legacy }
    }

    /// Whether there are time words, and the half of each that EVT2.1 does not use is zero.
    pub(crate) fn has_plain_times(&self, bytes: &[u8]) -> bool {
        let mut times = Words::new(self, bytes, 0).filter(|(_, word)| self.time(*word).is_some()).peekable();
        times.peek().is_some() && times.all(|(_, word)| word as u32 == 0)
    }
}

impl Encoding for Evt21 {
    type Tail = ();

    const NAME: &'static str = "evt21";
    const TIME_BITS: u32 = 28;
    const EVENTS_PER_BYTE: u64 = 4;
    const TIME_SHIFT: u32 = 6;
    const SPANS: bool = true;
    const SEEKABLE: bool = true;

    fn lead(&self, state: &State, _first_us: i64) -> Option<Vec<u8>> {
        let mut words = writer::lead::<writer::Evt21Words>(state.clock);
        if self.legacy {
            for word in words.as_chunks_mut::<8>().0 {
                word.rotate_left(4);
            }
        }
        Some(words)
    }

    fn tail(&self, _bytes: &[u8]) {}

    fn word_bytes(&self) -> usize {
        8
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    #[inline(always)]
    fn load(&self, bytes: &[u8]) -> u64 {
        u64_at(bytes).rotate_left(if self.legacy { 32 } else { 0 })
    }

    fn time(&self, word: u64) -> Option<u32> {
        (word >> 60 == 0x8).then_some((word >> 32) as u32 & 0x0FFF_FFFF)
    }

    fn is_foreign(&self, word: u64) -> bool {
        !matches!(word >> 60, 0x0 | 0x1 | 0x8 | 0xA | 0xE | 0xF)
    }

    #[inline(always)]
    fn walk<S: Sink>(&self, state: &mut State, bytes: &[u8], sink: &mut S) -> usize {
        for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let word = self.load(word);
            let at = 8 * index;
            let t = state.clock + (word >> 54 & 0x3F) as i64;
            match word >> 60 {
                0x0 | 0x1 => {
                    let (x, y) = ((word >> 43 & 0x7FF) as u16, (word >> 32 & 0x7FF) as u16);
                    let mask = word as u32;
                    if !state.timed {
                        sink.dropped(ProblemCode::BeforeFirstTime, mask.count_ones(), at);
                        continue;
                    }
                    let mut inside = if y < self.limits.height { self.limits.clip(x, mask) } else { 0 };
                    if !sink.fits(inside.count_ones()) {
                        return at;
                    }
                    if inside != mask {
                        sink.dropped(ProblemCode::OutOfBounds, (mask ^ inside).count_ones(), at);
                    }
                    while inside != 0 {
                        sink.event(x + inside.trailing_zeros() as u16, y, t, word >> 60 == 1);
                        inside &= inside - 1;
                    }
                }
                0x8 => state.tick((word >> 32 & 0x0FFF_FFFF) as i64 * 64, Self::PERIOD, i64::from(Self::NEAR) * 64),
                0xA if state.timed => sink.trigger((word >> 40 & 0x1F) as u8, word >> 32 & 1 == 1, t),
                0xA => sink.dropped(ProblemCode::TriggerBeforeFirstTime, 1, at),
                _ => {}
            }
        }
        bytes.len() / 8 * 8
    }
}
