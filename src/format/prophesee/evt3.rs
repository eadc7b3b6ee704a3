//! EVT3: 16-bit little-endian words; each carries a part of the state of the next event.
//!
//! | type, bits 15..12 | word | content |
//! |---|---|---|
//! | 0x0 | `EVT_ADDR_Y` | row in 10..0, origin camera in 11 |
//! | 0x1 | EM `ADDR_Y` | row of exposure measurement: no events until the next `EVT_ADDR_Y` |
//! | 0x2 | `EVT_ADDR_X` | column in 10..0, polarity in 11: one event |
//! | 0x3 | `VECT_BASE_X` | column in 10..0, polarity in 11 |
//! | 0x4, 0x5 | `VECT_12`, `VECT_8` | mask of the next 12 or 8 columns |
//! | 0x6, 0x8 | `EVT_TIME_LOW`, `EVT_TIME_HIGH` | time, bits 11..0 and 23..12 |
//! | 0xA | `EXT_TRIGGER` | id in 11..8, value in 0 |
//! | 0x7, 0xE, 0xF | `CONTINUED_4`, OTHERS, `CONTINUED_12` | |
//!
//! <https://docs.prophesee.ai/stable/data/encoding_formats/evt3.html>

use super::word::{Counts, Encoding, Fill, Limits, Loops, ScanLoop, Sink, State, TimeScan, u16_at};
use super::writer;
use crate::columns::Slots;
use crate::problem::{ProblemCode, Problems};
use crate::simd;

pub(crate) const ADDR_Y: u16 = 0x0;
pub(crate) const EM_ADDR_Y: u16 = 0x1;
pub(crate) const ADDR_X: u16 = 0x2;
pub(super) const VECT_BASE_X: u16 = 0x3;
pub(crate) const VECT_12: u16 = 0x4;
pub(crate) const VECT_8: u16 = 0x5;
pub(crate) const TIME_LOW: u16 = 0x6;
pub(crate) const TIME_HIGH: u16 = 0x8;
pub(crate) const EXT_TRIGGER: u16 = 0xA;

#[derive(Debug, Clone)]
pub(crate) struct Evt3 {
    limits: Limits,
}

/// What the last words of a stretch set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tail {
    row: Option<u16>,
    cd: Option<bool>,
    /// The last vector base with its polarity, and the columns of the vectors after it.
    base: Option<(u16, bool)>,
    columns: u16,
    /// The low time in force at the end.
    low: Option<u16>,
    /// The low time that is if the high time, `high`, was the same before it.
    low_if_same: Option<u16>,
    high: Option<u16>,
}

impl Tail {
    /// Whether row and low time are known.
    pub(crate) fn has_row_and_time(&self) -> bool {
        self.row.is_some() && self.low.is_some()
    }

    /// Whether row, vector base and low time are known.
    pub(crate) fn is_whole(&self) -> bool {
        self.has_row_and_time() && self.base.is_some()
    }

    /// Takes the words of a block that stands before all that were taken yet; whether all is known then.
    fn block(&mut self, words: &[[u8; 2]]) -> bool {
        for word in words.iter().rev() {
            let word = u16::from_le_bytes(*word);
            let content = word & 0xFFF;
            match word >> 12 {
                ADDR_Y if self.row.is_none() => {
                    self.row = Some(content);
                    self.cd.get_or_insert(true);
                }
                EM_ADDR_Y => {
                    self.cd.get_or_insert(false);
                }
                VECT_BASE_X if self.base.is_none() => self.base = Some((content & 0x7FF, content & 0x800 != 0)),
                VECT_12 if self.base.is_none() => self.columns = advance(self.columns, 12),
                VECT_8 if self.base.is_none() => self.columns = advance(self.columns, 8),
                TIME_LOW if self.low.is_none() && self.low_if_same.is_none() => match self.high {
                    None => self.low = Some(content),
                    Some(_) => self.low_if_same = Some(content),
                },
                TIME_HIGH if self.low.is_none() => match (self.high, self.low_if_same) {
                    (Some(later), Some(value)) => self.low = Some(if later == content { value } else { 0 }),
                    (Some(later), None) if later != content => self.low = Some(0),
                    _ => self.high = Some(content),
                },
                _ => {}
            }
            if self.is_whole() {
                return true;
            }
        }
        false
    }
}

/// Whether a block has a vector base or a vector.
fn has_vectors(words: &[[u8; 2]]) -> bool {
    words.iter().fold(false, |any, word| any | (u16::from_le_bytes(*word).wrapping_sub(VECT_BASE_X << 12) < 0x3000))
}

/// The vector base after `columns` more; bases past every sensor are all the same.
#[inline(always)]
pub(super) fn advance(base: u16, columns: u16) -> u16 {
    (base + columns).min(4095)
}

impl Evt3 {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits }
    }

    #[inline(always)]
    fn vector<S: Sink>(&self, state: &mut State, mask: u16, columns: u16, at: usize, sink: &mut S) -> bool {
        let mask = u32::from(mask);
        let code = match state {
            State { cd: false, .. } => None,
            State { timed: false, .. } => Some(ProblemCode::BeforeFirstTime),
            State { row_known: false, .. } => Some(ProblemCode::BeforeFirstRow),
            State { base_known: false, .. } => Some(ProblemCode::BeforeFirstBase),
            _ => {
                let mut inside = if state.row < self.limits.height { self.limits.clip(state.base, mask) } else { 0 };
                if !sink.fits(inside.count_ones()) {
                    return false;
                }
                let outside = mask ^ inside;
                while inside != 0 {
                    sink.event(
                        state.base + inside.trailing_zeros() as u16,
                        state.row,
                        state.clock + i64::from(state.time_low),
                        state.base_on,
                    );
                    inside &= inside - 1;
                }
                if outside != 0 {
                    sink.dropped(ProblemCode::OutOfBounds, outside.count_ones(), at);
                }
                None
            }
        };
        if let Some(code) = code
            && mask != 0
        {
            sink.dropped(code, mask.count_ones(), at);
        }
        state.base = advance(state.base, columns);
        true
    }
}

impl Loops for Evt3 {
    #[inline(always)]
    fn scan_loop(&self, bytes: &[u8]) -> Option<TimeScan> {
        let words = bytes.as_chunks::<2>().0;
        let first = words.iter().position(|word| u16::from_le_bytes(*word) >> 12 == TIME_HIGH)?;
        let mut last = u16::from_le_bytes(*words.get(first)?);
        let mut scan = TimeScan::new(u32::from(last & 0xFFF));
        for block in words.get(first..)?.chunks(64) {
            let news = |word: &[u8; 2], last: u16| {
                let word = u16::from_le_bytes(*word);
                (word >> 12 == TIME_HIGH) && (word != last)
            };
            if block.iter().fold(false, |any, word| any | news(word, last)) {
                for word in block {
                    if news(word, last) {
                        last = u16::from_le_bytes(*word);
                        scan.push::<Self>(u32::from(last & 0xFFF));
                    }
                }
            }
        }
        Some(scan)
    }
}

impl Encoding for Evt3 {
    type Tail = Tail;

    const NAME: &'static str = "evt3";
    const TIME_BITS: u32 = 12;
    const EVENTS_PER_BYTE: u64 = 6;
    const TIME_SHIFT: u32 = 12;

    fn word_bytes(&self) -> usize {
        2
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn load(&self, bytes: &[u8]) -> u64 {
        u16_at(bytes).into()
    }

    fn time(&self, word: u64) -> Option<u32> {
        (word >> 12 == u64::from(TIME_HIGH)).then_some(word as u32 & 0xFFF)
    }

    fn is_foreign(&self, word: u64) -> bool {
        matches!(word >> 12, 0x9 | 0xB | 0xC)
    }

    fn is_rare(&self, word: u64) -> bool {
        let word = word as u16;
        match word >> 12 {
            // Rows of a second camera.
            ADDR_Y => word & 0xFFF >= self.limits.height,
            EM_ADDR_Y | 0xD => true,
            _ => false,
        }
    }

    #[inline(always)]
    fn walk<S: Sink>(&self, state: &mut State, bytes: &[u8], sink: &mut S) -> usize {
        for (index, word) in bytes.as_chunks::<2>().0.iter().enumerate() {
            let word = u16::from_le_bytes(*word);
            let at = 2 * index;
            match word >> 12 {
                ADDR_Y => {
                    state.row = word & 0xFFF;
                    state.row_known = true;
                    state.cd = true;
                }
                EM_ADDR_Y => state.cd = false,
                ADDR_X if state.cd => {
                    if !sink.fits(1) {
                        return at;
                    }
                    let x = word & 0x7FF;
                    if !state.timed {
                        sink.dropped(ProblemCode::BeforeFirstTime, 1, at);
                    } else if !state.row_known {
                        sink.dropped(ProblemCode::BeforeFirstRow, 1, at);
                    } else if self.limits.contains(x, state.row) {
                        sink.event(x, state.row, state.clock + i64::from(state.time_low), word & 0x800 != 0);
                    } else {
                        sink.dropped(ProblemCode::OutOfBounds, 1, at);
                    }
                }
                VECT_BASE_X => {
                    state.base = word & 0x7FF;
                    state.base_on = word & 0x800 != 0;
                    state.base_known = true;
                }
                VECT_12 if !self.vector(state, word & 0xFFF, 12, at, sink) => {
                    return at;
                }
                VECT_8 if !self.vector(state, word & 0xFF, 8, at, sink) => {
                    return at;
                }
                TIME_LOW => state.time_low = word & 0xFFF,
                TIME_HIGH => {
                    let value = i64::from(word & 0xFFF) << 12;
                    if !state.timed || state.clock & (Self::PERIOD - 1) != value {
                        state.time_low = 0;
                    }
                    state.tick(value, Self::PERIOD, i64::from(Self::NEAR) << 12);
                }
                EXT_TRIGGER if state.timed => {
                    sink.trigger((word >> 8 & 0xF) as u8, word & 1 == 1, state.clock + i64::from(state.time_low));
                }
                EXT_TRIGGER => sink.dropped(ProblemCode::TriggerBeforeFirstTime, 1, at),
                _ => {}
            }
        }
        bytes.len() / 2 * 2
    }

    fn scan_times(&self, bytes: &[u8]) -> Option<TimeScan> {
        simd::run(ScanLoop(self, bytes))
    }

    /// Reads backwards until row, vector base and low time are known, which is near in any real stream.
    fn lead(&self, state: &State, _first_us: i64) -> Option<Vec<u8>> {
        Some(writer::evt3_lead(state))
    }

    fn tail(&self, bytes: &[u8]) -> Tail {
        let mut tail = Tail::default();
        for block in bytes.as_chunks::<2>().0.rchunks(64) {
            // Once only the vector base is wanted, blocks without vector words are passed over.
            if tail.row.is_some() && tail.low.is_some() && !has_vectors(block) {
                continue;
            }
            if tail.block(block) {
                break;
            }
        }
        tail
    }

    fn skim(&self, state: &mut State, tail: Tail) {
        let entry_high = state.timed.then_some((state.clock >> 12 & 0xFFF) as u16);
        state.time_low = tail.low.unwrap_or(match tail.high {
            Some(later) if entry_high != Some(later) => 0,
            _ => tail.low_if_same.unwrap_or(state.time_low),
        });
        if let Some(row) = tail.row {
            state.row = row;
            state.row_known = true;
        }
        state.cd = tail.cd.unwrap_or(state.cd);
        if let Some((base, on)) = tail.base {
            state.base = base;
            state.base_on = on;
            state.base_known = true;
        }
        state.base = advance(state.base, tail.columns);
    }

    fn count(&self, state: &State, bytes: &[u8], offset: u64, problems: &mut Problems) -> Counts {
        let mut state = *state;
        #[cfg(target_arch = "x86_64")]
        if simd::level() >= simd::Level::Avx512 {
            return super::evt3_avx512::count(self, &mut state, bytes, offset, problems);
        }
        self.count_by_walking(&mut state, bytes, offset, problems)
    }

    fn fill<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        #[cfg(target_arch = "x86_64")]
        if simd::level() >= simd::Level::Avx512 {
            return super::evt3_avx512::fill::<COLS>(self, state, bytes, out);
        }
        self.walk(state, bytes, &mut Fill::<COLS>(out))
    }
}
