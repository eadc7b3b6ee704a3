//! The events of one message, word by word: the encodings other than EVT3, which carry no state to the next message.
//!
//! * `mono`: u64, nanoseconds from the packet's base in 31..0, x in 47..32, y in 62..48, polarity in 63.
//! * `trigger`: u64, nanoseconds in 31..0, id in 62..48, edge in 63.
//! * `libcaer`: u32 with valid in 0 (not looked at), polarity in 1, y in 16..2, x in 31..17; i32 microseconds.
//! * `libcaer_cmp`: u16 words, type in 15..12: `TIME_HIGH` 0 and `TIME_LOW` 1 (12 bits each, microseconds from the
//!   base), `ADDR_X` 2, `ADDR_Y` 3 (row in 10..0, polarity in 11: one event), `VECT_BASE_Y` 4, `VECT_8` 5 and `VECT_12` 6
//!   (a mask of rows from the base on, which moves the base).
//! * records of `EventArray`: u16 x, u16 y, u32 seconds, u32 nanoseconds, u8 polarity; packed, or aligned as CDR does:
//!   the first at once, the others each two bytes early, 16 bytes apart.
//!
//! <https://github.com/ros-event-camera/event_camera_msgs>, <https://github.com/uzh-rpg/rpg_dvs_ros>.

use super::message::Encoding;
use crate::format::prophesee::word::{Limits, Sink, u16_at, u32_at};
use crate::problem::ProblemCode;

/// Where decoding of a packet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cursor {
    /// Bytes consumed.
    pub(crate) at: usize,
    state: State,
}

/// What the words before say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    /// `libcaer`: the last time as stored, and the wraps since the start of the packet, in microseconds.
    /// `libcaer_cmp`: the last high time as stored, and what is to be added to it.
    last: i64,
    wraps: i64,
    /// `libcaer_cmp`: the low time.
    low: i64,
    x: u16,
    base: u16,
    base_on: bool,
}

/// What all events of a packet share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) encoding: Encoding,
    /// Nanoseconds that times count from.
    pub(crate) base_ns: i64,
    /// Microseconds that are added to times.
    pub(crate) shift_us: i64,
    pub(crate) limits: Limits,
}

/// Half of the range of `libcaer`'s times: a step back by more is a wrap.
const HALF: i64 = 1 << 30;
/// `libcaer_cmp`: the high time has 12 bits, of which a common writer fills only 4.
const HIGH: i64 = 1 << 12;
const WRITTEN_HIGH: i64 = 1 << 4;

impl Frame {
    /// Decodes from the cursor on until the bytes end or a word's events do not fit.
    #[inline(always)]
    pub(crate) fn walk<S: Sink>(&self, cursor: &mut Cursor, bytes: &[u8], sink: &mut S) {
        match self.encoding {
            // Its state goes on from message to message: the stream is decoded as a whole.
            Encoding::Evt3 => {}
            Encoding::Mono => self.mono(cursor, bytes, sink),
            Encoding::Trigger => self.trigger(cursor, bytes, sink),
            Encoding::Libcaer => self.libcaer(cursor, bytes, sink),
            Encoding::LibcaerCmp => self.libcaer_cmp(cursor, bytes, sink),
            Encoding::Packed => self.packed(cursor, bytes, sink),
            Encoding::Aligned { big: false } => self.aligned::<S, false>(cursor, bytes, sink),
            Encoding::Aligned { big: true } => self.aligned::<S, true>(cursor, bytes, sink),
        }
    }

    /// Bytes at the end of a packet that make no whole word.
    pub(crate) fn partial(&self, len: usize) -> usize {
        match self.encoding {
            Encoding::Mono | Encoding::Trigger | Encoding::Libcaer => len % 8,
            Encoding::LibcaerCmp | Encoding::Evt3 => len % 2,
            Encoding::Packed => len % 13,
            Encoding::Aligned { .. } => {
                if len >= 13 {
                    (len - 13) % 16
                } else {
                    len
                }
            }
        }
    }

    /// The base in whole microseconds, and the nanoseconds over.
    fn base(&self) -> (i64, u64) {
        (self.base_ns.div_euclid(1000).wrapping_add(self.shift_us), self.base_ns.rem_euclid(1000).cast_unsigned())
    }

    #[inline(always)]
    fn event<S: Sink>(&self, x: u16, y: u16, t: i64, on: bool, at: usize, sink: &mut S) {
        if self.limits.contains(x, y) {
            sink.event(x, y, t, on);
        } else {
            sink.dropped(ProblemCode::OutOfBounds, 1, at);
        }
    }

    #[inline(always)]
    fn mono<S: Sink>(&self, cursor: &mut Cursor, bytes: &[u8], sink: &mut S) {
        let (base, over) = self.base();
        for word in bytes.get(cursor.at..).unwrap_or_default().as_chunks::<8>().0 {
            if !sink.fits(1) {
                return;
            }
            let word = u64::from_le_bytes(*word);
            let t = base.wrapping_add(micros(over + (word & 0xFFFF_FFFF)));
            self.event((word >> 32) as u16, (word >> 48) as u16 & 0x7FFF, t, word >> 63 == 1, cursor.at, sink);
            cursor.at += 8;
        }
    }

    #[inline(always)]
    fn trigger<S: Sink>(&self, cursor: &mut Cursor, bytes: &[u8], sink: &mut S) {
        let (base, over) = self.base();
        for word in bytes.get(cursor.at..).unwrap_or_default().as_chunks::<8>().0 {
            let word = u64::from_le_bytes(*word);
            sink.trigger((word >> 48) as u8, word >> 63 == 1, base.wrapping_add(micros(over + (word & 0xFFFF_FFFF))));
            cursor.at += 8;
        }
    }

    #[inline(always)]
    fn libcaer<S: Sink>(&self, cursor: &mut Cursor, bytes: &[u8], sink: &mut S) {
        let (base, _) = self.base();
        for word in bytes.get(cursor.at..).unwrap_or_default().as_chunks::<8>().0 {
            if !sink.fits(1) {
                return;
            }
            let word = u64::from_le_bytes(*word);
            let time = i64::from((word >> 32) as u32 as i32);
            let state = &mut cursor.state;
            if state.last - time >= HALF {
                state.wraps += 2 * HALF;
            } else if time - state.last >= HALF && state.wraps > 0 {
                // A small step back across the last wrap.
                state.wraps -= 2 * HALF;
            }
            state.last = time;
            let t = base.wrapping_add(state.wraps + time);
            self.event((word >> 17) as u16 & 0x7FFF, (word >> 2) as u16 & 0x7FFF, t, word >> 1 & 1 == 1, cursor.at, sink);
            cursor.at += 8;
        }
    }

    #[inline(always)]
    fn libcaer_cmp<S: Sink>(&self, cursor: &mut Cursor, bytes: &[u8], sink: &mut S) {
        let (base, _) = self.base();
        for word in bytes.get(cursor.at..).unwrap_or_default().as_chunks::<2>().0 {
            let word = u16::from_le_bytes(*word);
            let state = &mut cursor.state;
            let time = |state: &State| base.wrapping_add((state.last + state.wraps) << 12 | state.low);
            match word >> 12 {
                0 => {
                    let high = i64::from(word & 0xFFF);
                    if high < state.last {
                        if state.last < WRITTEN_HIGH {
                            state.wraps += WRITTEN_HIGH;
                        } else if state.last - high >= HIGH / 2 {
                            state.wraps += HIGH;
                        }
                    }
                    state.last = high;
                }
                1 => state.low = i64::from(word & 0xFFF),
                2 => state.x = word & 0x7FF,
                3 => {
                    if !sink.fits(1) {
                        return;
                    }
                    let (x, t) = (state.x, time(state));
                    self.event(x, word & 0x7FF, t, word & 0x800 != 0, cursor.at, sink);
                }
                4 => {
                    state.base = word & 0x7FF;
                    state.base_on = word & 0x800 != 0;
                }
                kind @ (5 | 6) => {
                    let rows = if kind == 5 { 8 } else { 12 };
                    let mut mask = u32::from(word) & ((1 << rows) - 1);
                    let (x, first, on, t) = (state.x, state.base, state.base_on, time(state));
                    // What is outside needs no room.
                    let below = self.limits.height.saturating_sub(first).min(rows);
                    let inside = if x < self.limits.width { mask & ((1 << below) - 1) } else { 0 };
                    if !sink.fits(inside.count_ones()) {
                        return;
                    }
                    state.base = (first + rows).min(0xFFF);
                    while mask != 0 {
                        self.event(x, first + mask.trailing_zeros() as u16, t, on, cursor.at, sink);
                        mask &= mask - 1;
                    }
                }
                _ => sink.dropped(ProblemCode::UnknownWord, 1, cursor.at),
            }
            cursor.at += 2;
        }
    }

    #[inline(always)]
    fn record<S: Sink>(&self, (x, y): (u16, u16), (seconds, nanoseconds): (i64, u32), on: u8, at: usize, sink: &mut S) {
        let t = (seconds * 1_000_000 + i64::from(nanoseconds / 1000)).wrapping_add(self.shift_us);
        self.event(x, y, t, on != 0, at, sink);
    }

    #[inline(always)]
    fn packed<S: Sink>(&self, cursor: &mut Cursor, bytes: &[u8], sink: &mut S) {
        for record in bytes.get(cursor.at..).unwrap_or_default().as_chunks::<13>().0 {
            if !sink.fits(1) {
                return;
            }
            let pixel = (u16_at(record), u16_at(&record[2..]));
            self.record(pixel, (u32_at(&record[4..]).into(), u32_at(&record[8..])), record[12], cursor.at, sink);
            cursor.at += 13;
        }
    }

    #[inline(always)]
    fn aligned<S: Sink, const BIG: bool>(&self, cursor: &mut Cursor, bytes: &[u8], sink: &mut S) {
        let u16_at = |bytes: &[u8]| if BIG { u16_at(bytes).swap_bytes() } else { u16_at(bytes) };
        let u32_at = |bytes: &[u8]| if BIG { u32_at(bytes).swap_bytes() } else { u32_at(bytes) };
        let record = |pixel: &[u8], rest: &[u8; 9], at: usize, sink: &mut S| {
            let time = (i64::from(u32_at(rest).cast_signed()), u32_at(&rest[4..]));
            self.record((u16_at(pixel), u16_at(pixel.get(2..).unwrap_or_default())), time, rest[8], at, sink);
        };
        if cursor.at == 0 {
            let Some(first) = bytes.first_chunk::<13>() else { return };
            if !sink.fits(1) {
                return;
            }
            if let Some(rest) = first.last_chunk() {
                record(&first[..4], rest, 0, sink);
            }
            cursor.at = 13;
        }
        // From the byte after the polarity on: one of padding, x and y, two of padding, time and polarity.
        for event in bytes.get(cursor.at..).unwrap_or_default().as_chunks::<16>().0 {
            if !sink.fits(1) {
                return;
            }
            if let Some(rest) = event.last_chunk() {
                record(&event[1..5], rest, cursor.at, sink);
            }
            cursor.at += 16;
        }
    }
}

/// Whole microseconds of less than 2^33 nanoseconds: two steps, each of which fits 32 bits.
#[inline(always)]
fn micros(nanoseconds: u64) -> i64 {
    i64::from((nanoseconds >> 3) as u32 / 125)
}

/// Takes the time of the first event or trigger.
#[derive(Debug, Default)]
pub(crate) struct First(pub(crate) Option<i64>);

impl Sink for First {
    fn fits(&self, _: u32) -> bool {
        self.0.is_none()
    }
    fn event(&mut self, _: u16, _: u16, t: i64, _: bool) {
        self.0.get_or_insert(t);
    }
    fn trigger(&mut self, _: u8, _: bool, t: i64) {
        self.0.get_or_insert(t);
    }
    fn dropped(&mut self, _: ProblemCode, _: u32, _: usize) {}
}

/// The word at the start of `bytes` in the order of a little-endian machine, for words of `size` bytes.
pub(crate) fn swap(bytes: &mut [u8], size: usize) {
    if size > 1 {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
}
