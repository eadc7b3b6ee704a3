//! EVT2 ("EVT 2.0"): 32-bit little-endian words, the type in bits 31..28.
//!
//! | type | word | bits 27..22 | 21..11 | 10..0 |
//! |---|---|---|---|---|
//! | 0x0, 0x1 | `CD_OFF`, `CD_ON` | time, low 6 bits | x | y |
//! | 0x8 | `EVT_TIME_HIGH` | bits 27..0: time, bits 33..6 | | |
//! | 0xA | `EXT_TRIGGER` | time, low 6 bits | id in 12..8 | value in 0 |
//! | 0xE, 0xF | OTHERS, CONTINUED | | | |
//!
//! <https://docs.prophesee.ai/stable/data/encoding_formats/evt2.html>

use super::word::{CountLoop, Counts, Encoding, Fill, FillLoop, Limits, Loops, ScanLoop, Sink, State, TimeScan, u32_at};
use super::writer;
use crate::columns::{Slots, rows_at};
use crate::problem::{ProblemCode, Problems};
use crate::simd;

const TIME_HIGH: u32 = 0x8;
const EXT_TRIGGER: u32 = 0xA;

/// Words that are decoded at once when all of them are events.
const BLOCK: usize = 16;

#[derive(Debug, Clone)]
pub(crate) struct Evt2 {
    limits: Limits,
}

#[inline(always)]
const fn x_of(word: u32) -> u16 {
    (word >> 11 & 0x7FF) as u16
}

#[inline(always)]
const fn y_of(word: u32) -> u16 {
    (word & 0x7FF) as u16
}

#[inline(always)]
const fn low_of(word: u32) -> i64 {
    (word >> 22 & 0x3F) as i64
}

#[inline(always)]
fn is_event(limits: Limits, word: u32) -> bool {
    (word >> 28 < 2) & limits.contains(x_of(word), y_of(word))
}

impl Evt2 {
    /// Range of the coordinates.
    pub(crate) const RANGE: u16 = 2048;

    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// The block's words and whether all of them are events inside the geometry.
    #[inline(always)]
    fn block(&self, bytes: &[u8; 4 * BLOCK]) -> ([u32; BLOCK], bool) {
        let limits = self.limits;
        let mut words = [0; BLOCK];
        let mut bad = false;
        for i in 0..BLOCK {
            words[i] = u32::from_le_bytes(bytes.as_chunks::<4>().0[i]);
            bad |= !is_event(limits, words[i]);
        }
        (words, !bad)
    }
}

impl Loops for Evt2 {
    #[inline(always)]
    fn fill_loop<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        let mut consumed = 0;
        if !state.timed {
            let head = bytes.as_chunks::<4>().0.iter().take_while(|word| u32_at(*word) >> 28 != TIME_HIGH).count() + 1;
            consumed = self.walk(state, bytes.get(..4 * head).unwrap_or(bytes), &mut Fill::<COLS>(out));
        }
        for block in bytes.get(consumed..).unwrap_or_default().as_chunks::<{ 4 * BLOCK }>().0 {
            if out.room() < BLOCK {
                break;
            }
            // Local copies: stores into the columns cannot change them.
            let clock = state.clock;
            let (words, all_events) = self.block(block);
            if all_events {
                if COLS & 1 != 0 {
                    let x = rows_at::<BLOCK, _>(out.x, out.len);
                    for i in 0..BLOCK {
                        x[i] = x_of(words[i]).cast_signed();
                    }
                }
                if COLS & 2 != 0 {
                    let y = rows_at::<BLOCK, _>(out.y, out.len);
                    for i in 0..BLOCK {
                        y[i] = y_of(words[i]).cast_signed();
                    }
                }
                if COLS & 4 != 0 {
                    let t = rows_at::<BLOCK, _>(out.t, out.len);
                    for i in 0..BLOCK {
                        t[i] = clock + low_of(words[i]);
                    }
                }
                if COLS & 8 != 0 {
                    let p = rows_at::<BLOCK, _>(out.p, out.len);
                    for i in 0..BLOCK {
                        p[i] = (words[i] >> 28) as i8 * 2 - 1;
                    }
                }
                out.len += BLOCK;
            } else {
                for word in words {
                    if is_event(self.limits, word) {
                        out.push::<COLS>(x_of(word), y_of(word), state.clock + low_of(word), word >> 28 == 1);
                    } else if word >> 28 == TIME_HIGH {
                        state.tick(i64::from(word & 0x0FFF_FFFF) << 6, Self::PERIOD, i64::from(Self::NEAR) << 6);
                    }
                }
            }
            consumed += 4 * BLOCK;
        }
        consumed + self.walk(state, bytes.get(consumed..).unwrap_or_default(), &mut Fill::<COLS>(out))
    }

    #[inline(always)]
    fn count_loop(&self, bytes: &[u8]) -> Option<Counts> {
        let limits = self.limits;
        let (mut events, mut triggers, mut outside) = (0_u64, 0_u64, 0_u64);
        for block in bytes.as_chunks::<4>().0.chunks(1024) {
            // 32-bit counters for as many words as the compiler likes to count at once.
            let (mut inside, mut cd, mut edges) = (0_u32, 0_u32, 0_u32);
            for word in block {
                let word = u32::from_le_bytes(*word);
                inside += u32::from(is_event(limits, word));
                cd += u32::from(word >> 28 < 2);
                edges += u32::from(word >> 28 == EXT_TRIGGER);
            }
            events += u64::from(inside);
            outside += u64::from(cd - inside);
            triggers += u64::from(edges);
        }
        (outside == 0).then_some(Counts { events, triggers })
    }

    #[inline(always)]
    fn scan_loop(&self, bytes: &[u8]) -> Option<TimeScan> {
        let words = bytes.as_chunks::<4>().0;
        let first = words.iter().position(|word| u32::from_le_bytes(*word) >> 28 == TIME_HIGH)?;
        let mut last = u32::from_le_bytes(*words.get(first)?);
        let mut scan = TimeScan::new(last & 0x0FFF_FFFF);
        for block in words.get(first..)?.chunks(BLOCK) {
            let news = |word: &[u8; 4], last: u32| {
                let word = u32::from_le_bytes(*word);
                (word >> 28 == TIME_HIGH) && (word != last)
            };
            if block.iter().fold(false, |any, word| any | news(word, last)) {
                for word in block {
                    if news(word, last) {
                        last = u32::from_le_bytes(*word);
                        scan.push::<Self>(last & 0x0FFF_FFFF);
                    }
                }
            }
        }
        Some(scan)
    }
}

impl Encoding for Evt2 {
    type Tail = ();

    const NAME: &'static str = "evt2";
    const TIME_BITS: u32 = 28;
    const TIME_SHIFT: u32 = 6;
    const EVENT_A_WORD: bool = true;
    const SEEKABLE: bool = true;

    fn lead(&self, state: &State, _first_us: i64) -> Option<Vec<u8>> {
        Some(writer::lead::<writer::Evt2Words>(state.clock))
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
        (word >> 28 == u64::from(TIME_HIGH)).then_some(word as u32 & 0x0FFF_FFFF)
    }

    fn is_foreign(&self, word: u64) -> bool {
        !matches!(word >> 28, 0x0 | 0x1 | 0x8 | 0xA | 0xD | 0xE | 0xF)
    }

    #[inline(always)]
    fn walk<S: Sink>(&self, state: &mut State, bytes: &[u8], sink: &mut S) -> usize {
        for (index, word) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_le_bytes(*word);
            match word >> 28 {
                0x0 | 0x1 => {
                    if !sink.fits(1) {
                        return 4 * index;
                    }
                    let (x, y) = (x_of(word), y_of(word));
                    if !state.timed {
                        sink.dropped(ProblemCode::BeforeFirstTime, 1, 4 * index);
                    } else if self.limits.contains(x, y) {
                        sink.event(x, y, state.clock + low_of(word), word >> 28 == 1);
                    } else {
                        sink.dropped(ProblemCode::OutOfBounds, 1, 4 * index);
                    }
                }
                TIME_HIGH => state.tick(i64::from(word & 0x0FFF_FFFF) << 6, Self::PERIOD, i64::from(Self::NEAR) << 6),
                EXT_TRIGGER if state.timed => sink.trigger((word >> 8 & 0x1F) as u8, word & 1 == 1, state.clock + low_of(word)),
                EXT_TRIGGER => sink.dropped(ProblemCode::TriggerBeforeFirstTime, 1, 4 * index),
                _ => {}
            }
        }
        bytes.len() / 4 * 4
    }

    fn scan_times(&self, bytes: &[u8]) -> Option<TimeScan> {
        simd::run(ScanLoop(self, bytes))
    }

    fn count(&self, state: &State, bytes: &[u8], offset: u64, problems: &mut Problems) -> Counts {
        let regular = if state.timed { simd::run(CountLoop(self, bytes)) } else { None };
        regular.unwrap_or_else(|| self.count_by_walking(&mut state.clone(), bytes, offset, problems))
    }

    fn fill<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        simd::run(FillLoop::<_, COLS>(self, state, bytes, out))
    }
}
