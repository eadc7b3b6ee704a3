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

use super::word::{CountLoop, Counts, Encoding, Fill, FillLoop, Limits, Loops, ScanLoop, Sink, State, TimeScan, u32_at, u64_at};
use crate::columns::{Slots, rows_at};
use crate::problem::{ProblemCode, Problems};
use crate::simd;

/// What the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    CdV1,
    CdV2,
    Trigger,
}

#[inline(always)]
const fn pixel_v2(word: u32) -> (u16, u16, bool) {
    ((word & 0x3FFF) as u16, (word >> 14 & 0x3FFF) as u16, word >> 28 & 1 == 1)
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
            _ => pixel_v2(word),
        }
    }
}

impl Loops for Dat {
    /// Decodes records whose time goes ahead by small steps, block by block.
    #[inline(always)]
    fn fill_loop<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        const BLOCK: usize = 16;
        let mut consumed = 0;
        for block in bytes.as_chunks::<{ 8 * BLOCK }>().0 {
            if out.room() < BLOCK {
                break;
            }
            let records = block.as_chunks::<8>().0;
            // Local copies: stores into the columns cannot change them.
            let (clock, limits) = (state.clock, self.limits);
            let (mut steps, mut words) = ([0_i32; BLOCK], [0_u32; BLOCK]);
            for i in 0..BLOCK {
                let record = u64::from_le_bytes(records[i]);
                steps[i] = (record as u32).wrapping_sub(clock as u32).cast_signed();
                words[i] = (record >> 32) as u32;
            }
            let mut bad = !state.timed | (clock < Self::NEAR.into());
            for i in 0..BLOCK {
                let (x, y, _) = pixel_v2(words[i]);
                bad |= (steps[i].unsigned_abs() > Self::NEAR / 2) | !limits.contains(x, y);
            }
            if bad {
                let taken = self.walk(state, block, &mut Fill::<COLS>(out));
                consumed += taken;
                if taken < block.len() {
                    return consumed;
                }
                continue;
            }
            if COLS & 1 != 0 {
                let x = rows_at::<BLOCK, _>(out.x, out.len);
                for i in 0..BLOCK {
                    x[i] = pixel_v2(words[i]).0.cast_signed();
                }
            }
            if COLS & 2 != 0 {
                let y = rows_at::<BLOCK, _>(out.y, out.len);
                for i in 0..BLOCK {
                    y[i] = pixel_v2(words[i]).1.cast_signed();
                }
            }
            if COLS & 4 != 0 {
                let t = rows_at::<BLOCK, _>(out.t, out.len);
                for i in 0..BLOCK {
                    t[i] = clock + i64::from(steps[i]);
                }
            }
            if COLS & 8 != 0 {
                let p = rows_at::<BLOCK, _>(out.p, out.len);
                for i in 0..BLOCK {
                    p[i] = i8::from(pixel_v2(words[i]).2) * 2 - 1;
                }
            }
            out.len += BLOCK;
            state.clock = clock + i64::from(steps[BLOCK - 1]);
            consumed += block.len();
        }
        consumed + self.walk(state, bytes.get(consumed..).unwrap_or_default(), &mut Fill::<COLS>(out))
    }

    #[inline(always)]
    fn count_loop(&self, bytes: &[u8]) -> Option<Counts> {
        let records = bytes.as_chunks::<8>().0;
        let (mut outside, limits) = (false, self.limits);
        for record in records {
            let (x, y, _) = pixel_v2((u64::from_le_bytes(*record) >> 32) as u32);
            outside |= !limits.contains(x, y);
        }
        (!outside).then_some(Counts { events: records.len() as u64, triggers: 0 })
    }

    #[inline(always)]
    fn scan_loop(&self, bytes: &[u8]) -> Option<TimeScan> {
        const BLOCK: usize = 32;
        let records = bytes.as_chunks::<8>().0;
        let time = |record: &[u8; 8]| u64::from_le_bytes(*record) as u32;
        let mut scan = TimeScan::new(time(records.first()?));
        let (blocks, rest) = records.as_chunks::<BLOCK>();
        for block in blocks {
            // Nearly always all are within half of `NEAR` of the record before the block, so within `NEAR` of each
            // other, and no wrap is near.
            let (mut lowest, mut highest, mut last) = (0, 0, 0);
            for record in block {
                last = time(record).wrapping_sub(scan.last).cast_signed();
                lowest = last.min(lowest);
                highest = last.max(highest);
            }
            let half = (Self::NEAR / 2).cast_signed();
            if lowest >= -half && highest <= half && (Self::NEAR..=u32::MAX - Self::NEAR).contains(&scan.last) {
                scan.lowest = scan.lowest.min(scan.advance + i64::from(lowest));
                scan.highest = scan.highest.max(scan.advance + i64::from(highest));
                scan.advance += i64::from(last);
                scan.last = scan.last.wrapping_add_signed(last);
            } else {
                for record in block {
                    scan.push::<Self>(time(record));
                }
            }
        }
        for record in rest {
            scan.push::<Self>(time(record));
        }
        Some(scan)
    }
}

impl Encoding for Dat {
    type Tail = ();

    const NAME: &'static str = "dat";
    const TIME_BITS: u32 = 32;
    const TIME_SHIFT: u32 = 0;
    const RUN: usize = 32;
    const EVENT_A_WORD: bool = true;

    /// Records are complete; but times that have wrapped cannot be told from others.
    fn lead(&self, _state: &State, first_us: i64) -> Option<Vec<u8>> {
        (first_us < Self::PERIOD).then(Vec::new)
    }

    fn tail(&self, _bytes: &[u8]) {}

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
        match self.record {
            Record::CdV1 => word >> 18 != 0,
            Record::CdV2 => word >> 29 != 0,
            Record::Trigger => word & 0xE != 0,
        }
    }

    fn is_outside(&self, word: u64) -> bool {
        let (x, y, _) = self.pixel((word >> 32) as u32);
        self.record != Record::Trigger && !self.limits.contains(x, y)
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
            return simd::run(ScanLoop(self, bytes));
        }
        let mut times = bytes.chunks_exact(self.size).map(u32_at);
        let mut scan = TimeScan::new(times.next()?);
        times.for_each(|time| scan.push::<Self>(time));
        Some(scan)
    }

    fn count(&self, state: &State, bytes: &[u8], offset: u64, problems: &mut Problems) -> Counts {
        if self.size == 8
            && self.record == Record::CdV2
            && let Some(counts) = simd::run(CountLoop(self, bytes))
        {
            return counts;
        }
        self.count_by_walking(&mut state.clone(), bytes, offset, problems)
    }

    fn fill<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        if self.size == 8 && self.record == Record::CdV2 {
            simd::run(FillLoop::<_, COLS>(self, state, bytes, out))
        } else {
            self.walk(state, bytes, &mut Fill::<COLS>(out))
        }
    }
}
