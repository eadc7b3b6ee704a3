//! DAT: fixed-size records of one kind after an ASCII header and two bytes, record type and record size.
//!
//! Every record starts with its time, u32 little-endian microseconds, and a u32 word:
//!
//! | record | word |
//! |---|---|
//! | CD, version 2 | x in 13..0, y in 27..14, polarity in 31..28 |
//! | CD, version 1 | x in 8..0, y in 16..9, polarity in 17 |
//! | external trigger | value in 3..0, id in 31..26 |
//!
//! <https://docs.prophesee.ai/stable/data/file_formats/dat.html>

use super::word::{Counts, Encoding, Fill, Limits, Sink, State, TimeScan, u32_at, u64_at};
use crate::columns::Slots;
use crate::problem::{ProblemCode, Problems};
use crate::simd;

/// What the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    CdV1,
    CdV2,
    Trigger,
}

#[derive(Debug, Clone)]
pub(crate) struct Dat {
    limits: Limits,
    record: Record,
    /// Bytes of a record, at least 8.
    size: usize,
}

impl Dat {
    /// Range of the coordinates.
    pub(crate) const RANGE: u16 = 1 << 14;

    pub(crate) fn new(limits: Limits, record: Record, size: u8) -> Self {
        Self { limits, record, size: usize::from(size).max(8) }
    }

    #[inline(always)]
    fn pixel(&self, word: u32) -> (u16, u16, bool) {
        match self.record {
            Record::CdV1 => ((word & 0x1FF) as u16, (word >> 9 & 0xFF) as u16, word >> 17 & 1 == 1),
            _ => ((word & 0x3FFF) as u16, (word >> 14 & 0x3FFF) as u16, word >> 28 & 1 == 1),
        }
    }

    /// Decodes records whose time goes ahead by small steps, block by block.
    #[inline(always)]
    fn fill_blocks<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        const BLOCK: usize = 16;
        let mut consumed = 0;
        for block in bytes.as_chunks::<{ 8 * BLOCK }>().0 {
            if out.room() < BLOCK {
                break;
            }
            let mut times = [0_u32; BLOCK];
            let mut words = [0_u32; BLOCK];
            for ((time, word), record) in times.iter_mut().zip(&mut words).zip(block.as_chunks::<8>().0) {
                let record = u64::from_le_bytes(*record);
                (*time, *word) = (record as u32, (record >> 32) as u32);
            }
            let last = times[BLOCK - 1];
            let near = |time: u32| time.wrapping_sub(state.clock as u32) <= Self::NEAR;
            let mut bad = false;
            for (time, word) in times.into_iter().zip(words) {
                let (x, y, _) = self.pixel(word);
                bad |= !near(time) | !self.limits.contains(x, y);
            }
            if bad || !state.timed {
                let block = block.as_slice();
                let taken = self.walk(state, block, &mut Fill::<COLS>(out));
                consumed += taken;
                if taken < block.len() {
                    return consumed;
                }
                continue;
            }
            let rows = out.len..out.len + BLOCK;
            if COLS & 1 != 0 {
                for (x, word) in out.x[rows.clone()].iter_mut().zip(words) {
                    *x = self.pixel(word).0.cast_signed();
                }
            }
            if COLS & 2 != 0 {
                for (y, word) in out.y[rows.clone()].iter_mut().zip(words) {
                    *y = self.pixel(word).1.cast_signed();
                }
            }
            if COLS & 4 != 0 {
                for (t, time) in out.t[rows.clone()].iter_mut().zip(times) {
                    *t = state.clock + i64::from(time.wrapping_sub(state.clock as u32));
                }
            }
            if COLS & 8 != 0 {
                for (p, word) in out.p[rows].iter_mut().zip(words) {
                    *p = i8::from(self.pixel(word).2) * 2 - 1;
                }
            }
            out.len += BLOCK;
            state.clock += i64::from(last.wrapping_sub(state.clock as u32));
            consumed += block.len();
        }
        consumed + self.walk(state, bytes.get(consumed..).unwrap_or_default(), &mut Fill::<COLS>(out))
    }

    #[inline(always)]
    fn scan_records(bytes: &[u8]) -> Option<TimeScan> {
        const BLOCK: usize = 32;
        let records = bytes.as_chunks::<8>().0;
        let time = |record: &[u8; 8]| u64::from_le_bytes(*record) as u32;
        let mut scan = TimeScan::new(time(records.first()?));
        for block in records.chunks(BLOCK) {
            // Nearly always: no step back, all within `AHEAD` of the record before the block.
            let (mut previous, mut ascending) = (scan.last, true);
            for record in block {
                let now = time(record);
                ascending &= now.wrapping_sub(previous) <= Self::NEAR / BLOCK as u32;
                previous = now;
            }
            if ascending && previous >= scan.last {
                scan.push::<Self>(previous);
            } else {
                block.iter().for_each(|record| scan.push::<Self>(time(record)));
            }
        }
        Some(scan)
    }
}

impl Encoding for Dat {
    const NAME: &'static str = "dat";
    const TIME_BITS: u32 = 32;
    const TIME_SHIFT: u32 = 0;

    fn word_bytes(&self) -> usize {
        self.size
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn load(&self, bytes: &[u8]) -> u64 {
        u64_at(bytes)
    }

    fn time(&self, word: u64) -> Option<u32> {
        Some(word as u32)
    }

    fn is_foreign(&self, word: u64) -> bool {
        let word = (word >> 32) as u32;
        let (x, y, _) = self.pixel(word);
        match self.record {
            Record::CdV1 => !self.limits.contains(x, y),
            Record::CdV2 => word >> 29 != 0 || !self.limits.contains(x, y),
            Record::Trigger => word & 0xE != 0,
        }
    }

    #[inline(always)]
    fn walk<S: Sink>(&self, state: &mut State, bytes: &[u8], sink: &mut S) -> usize {
        for (index, record) in bytes.chunks_exact(self.size).enumerate() {
            let at = self.size * index;
            if self.record != Record::Trigger && !sink.fits(1) {
                return at;
            }
            state.tick(u32_at(record).into(), Self::PERIOD, Self::NEAR.into());
            let word = (u64_at(record) >> 32) as u32;
            if self.record == Record::Trigger {
                sink.trigger((word >> 26) as u8, word & 0xF != 0, state.clock);
                continue;
            }
            let (x, y, on) = self.pixel(word);
            if self.limits.contains(x, y) {
                sink.event(x, y, state.clock, on);
            } else {
                sink.dropped(ProblemCode::OutOfBounds, 1, at);
            }
        }
        bytes.len() / self.size * self.size
    }

    fn scan_times(&self, bytes: &[u8]) -> Option<TimeScan> {
        if self.size == 8 {
            return simd::run(|| Self::scan_records(bytes));
        }
        let mut times = bytes.chunks_exact(self.size).map(u32_at);
        let mut scan = TimeScan::new(times.next()?);
        times.for_each(|time| scan.push::<Self>(time));
        Some(scan)
    }

    fn count(&self, state: &State, bytes: &[u8], offset: u64, problems: &mut Problems) -> Counts {
        if self.size == 8 && self.record != Record::Trigger {
            let records = bytes.as_chunks::<8>().0;
            let outside = simd::run(|| {
                records.iter().fold(false, |outside, record| {
                    let (x, y, _) = self.pixel((u64::from_le_bytes(*record) >> 32) as u32);
                    outside | !self.limits.contains(x, y)
                })
            });
            if !outside {
                return Counts { events: records.len() as u64, triggers: 0 };
            }
        }
        self.count_by_walking(&mut state.clone(), bytes, offset, problems)
    }

    fn fill<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        if self.size == 8 && self.record != Record::Trigger {
            simd::run(|| self.fill_blocks::<COLS>(state, bytes, out))
        } else {
            self.walk(state, bytes, &mut Fill::<COLS>(out))
        }
    }
}
