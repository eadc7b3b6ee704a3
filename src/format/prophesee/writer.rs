//! Encoders of EVT2, EVT2.1 (little-endian words), EVT3, EVT4 and DAT (version 2).
//!
//! Times are absolute: a RAW stream starts with the time word 0 and steps up to the first event, so that readers which
//! count from the first time word keep the times too. Longer gaps are filled with time words close enough for
//! half-range wrap detection.

use std::marker::PhantomData;

use super::RANGE;
use super::dat::Dat;
use super::evt3::{ADDR_X, ADDR_Y, EM_ADDR_Y, EXT_TRIGGER, TIME_HIGH, TIME_LOW, VECT_8, VECT_12, VECT_BASE_X};
use super::word::State;
use crate::columns::Rows;
use crate::format::Format;
use crate::schema::Geometry;
use crate::write::Encoder;

/// Words between time words where time stands still: readers that lose their place find it again soon.
const WORDS_BETWEEN_TIMES: usize = 2048;
/// Rows that are encoded together where events stand alone.
const ALONE: usize = 64;
/// Columns of a vector: of a word of EVT2.1 or EVT4, and of a 12-12-8 group of EVT3.
const VECTOR: u16 = 32;

fn header(geometry: Geometry, date: &str, version: &str, name: &str) -> Vec<u8> {
    let (width, height) = (geometry.width(), geometry.height());
    format!(
        "% camera_integrator_name evlib\n% date {date}\n% evt {version}\n% format {name};height={height};width={width}\n\
         % geometry {width}x{height}\n% plugin_integrator_name evlib\n% end\n"
    )
    .into_bytes()
}

/// The first event and those behind it that a vector from column `base` on can hold in their order: its mask, and how
/// many they are.
#[inline(always)]
fn vector(rows: &Rows<'_>, at: usize, base: u16) -> (u32, usize) {
    let (mut mask, mut next, mut last) = (0_u32, at, None);
    let first = (rows.y.get(at), rows.t.get(at), rows.p.get(at));
    while let Some(x) = rows.x.get(next) {
        let column = x.cast_unsigned();
        let joins = (rows.y.get(next), rows.t.get(next), rows.p.get(next)) == first
            && column >= base
            && column - base < VECTOR
            && last < Some(column);
        if !joins {
            break;
        }
        mask |= 1 << (column - base);
        last = Some(column);
        next += 1;
    }
    (mask, next - at)
}

/// EVT3 encoder.
#[derive(Debug)]
struct Evt3Encoder {
    width: u16,
    /// Time in units of 4096 us of the last time word.
    high: Option<i64>,
    low: Option<u16>,
    row: Option<i16>,
    /// Next vector column and polarity.
    base: Option<(u16, bool)>,
    words: usize,
}

impl Evt3Encoder {
    /// Largest step between time words, in units of 4096 us: a third of the range, two thirds of what half-range wrap
    /// detection bears.
    const STEP: i64 = 1365;

    fn new(geometry: Geometry) -> Self {
        Self { width: geometry.width(), high: None, low: None, row: None, base: None, words: 0 }
    }

    fn word(&mut self, out: &mut Vec<u8>, ty: u16, content: u16) {
        out.extend((ty << 12 | content).to_le_bytes());
        self.words += 1;
    }

    fn time(&mut self, t: i64, out: &mut Vec<u8>) {
        let (high, low) = (t >> 12, (t & 0xFFF) as u16);
        if self.high != Some(high) {
            let mut at = self.high.unwrap_or_else(|| {
                out.extend((TIME_HIGH << 12).to_le_bytes());
                0
            });
            while at < high {
                // Over a wrap the words are the last value and then 0: there are readers that know a wrap by these.
                let last = at | 0xFFF;
                at = high.min(if at == last { at + 1 } else { last.min(at + Self::STEP) });
                self.word(out, TIME_HIGH, (at & 0xFFF) as u16);
            }
            // A new high time clears the low one; row and base follow it so that a reader can start here.
            (self.high, self.low, self.row, self.base, self.words) = (Some(high), None, None, None, 0);
        } else if self.words >= WORDS_BETWEEN_TIMES {
            // The low time is repeated too: there are readers that clear it here.
            self.word(out, TIME_HIGH, (high & 0xFFF) as u16);
            (self.low, self.row, self.base, self.words) = (None, None, None, 0);
        }
        if self.low != Some(low) {
            self.word(out, TIME_LOW, low);
            self.low = Some(low);
        }
    }

    /// Encodes events from `from` on that need no high time and cannot be in a vector, which takes four of one time, row
    /// and polarity; returns how many. Which words they need is not predictable, so none of it is a branch.
    fn alone(&mut self, rows: &Rows<'_>, from: usize, out: &mut Vec<u8>) -> usize {
        let (Some(high), Some(mut low), Some(mut row)) = (self.high, self.low, self.row) else { return 0 };
        let block = rows.cut(from..rows.len.min(from + ALONE));
        let fourth = rows.cut(rows.len.min(from + 3)..rows.len);
        let start = out.len();
        out.resize(start + 6 * block.len, 0);
        let free = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<2>().0;
        let (mut events, mut words) = (0, 0);
        for (((x, y), t), p) in block.x.iter().zip(block.y).zip(block.t).zip(block.p) {
            let alike = fourth.t.get(events) == Some(t) && fourth.y.get(events) == Some(y) && fourth.p.get(events) == Some(p);
            if t >> 12 != high || self.words + words >= WORDS_BETWEEN_TIMES || alike {
                break;
            }
            let Some(free) = free.get_mut(words..).and_then(|free| free.first_chunk_mut::<3>()) else { break };
            let time = (t & 0xFFF) as u16;
            let (times, to_row) = (usize::from(time != low), usize::from(*y != row));
            free[0] = (TIME_LOW << 12 | time).to_le_bytes();
            free[times] = (ADDR_Y << 12 | y.cast_unsigned()).to_le_bytes();
            free[times + to_row] = (ADDR_X << 12 | u16::from(*p > 0) << 11 | x.cast_unsigned()).to_le_bytes();
            words += times + to_row + 1;
            (low, row) = (time, *y);
            events += 1;
        }
        out.truncate(start + 2 * words);
        (self.low, self.row) = (Some(low), Some(row));
        self.words += words;
        events
    }
}

impl Encoder for Evt3Encoder {
    fn header(&self, geometry: Geometry, date: &str) -> Vec<u8> {
        header(geometry, date, "3.0", "EVT3")
    }

    fn end_of_time(&self) -> i64 {
        // The lead-in from 0 stays below 32 MB.
        1 << 46
    }

    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) {
        let rows = Rows { x, y, t, p, len: t.len() };
        let mut at = 0;
        loop {
            let events = self.alone(&rows, at, out);
            if events > 0 {
                at += events;
                continue;
            }
            let (Some(&first), Some(&row), Some(&time), Some(&sign)) = (x.get(at), y.get(at), t.get(at), p.get(at)) else { return };
            self.time(time, out);
            if self.row != Some(row) {
                self.word(out, ADDR_Y, row.cast_unsigned());
                self.row = Some(row);
            }
            let (first, on) = (first.cast_unsigned(), sign > 0);
            let polarity = u16::from(on) << 11;
            let running = self.base.filter(|(base, base_on)| *base_on == on && (*base..*base + VECTOR).contains(&first));
            let running = running.map(|(base, _)| base).filter(|base| base + VECTOR <= self.width);
            let base = running.unwrap_or(first.min(self.width.saturating_sub(VECTOR)));
            let (mask, events) = if self.width >= VECTOR { vector(&rows, at, base) } else { (0, 0) };
            let cost = if running.is_some() { 3 } else { 4 };
            if events > cost {
                if running.is_none() {
                    self.word(out, VECT_BASE_X, polarity | base);
                }
                self.word(out, VECT_12, (mask & 0xFFF) as u16);
                self.word(out, VECT_12, (mask >> 12 & 0xFFF) as u16);
                self.word(out, VECT_8, (mask >> 24) as u16);
                self.base = Some((base + VECTOR, on));
                at += events;
            } else {
                self.word(out, ADDR_X, polarity | first);
                at += 1;
            }
        }
    }

    fn trigger_ids(&self) -> u16 {
        16
    }

    fn trigger(&mut self, id: u8, rising: bool, t: i64, out: &mut Vec<u8>) {
        self.time(t, out);
        self.word(out, EXT_TRIGGER, u16::from(id) << 8 | u16::from(rising));
    }
}

/// The words of EVT3 that bring a decoder into this state.
pub(super) fn evt3_lead(state: &State) -> Vec<u8> {
    let mut words = Vec::new();
    let mut encoder = Evt3Encoder::new(Geometry::LARGEST);
    encoder.time(state.clock, &mut words);
    if state.time_low != 0 {
        encoder.word(&mut words, TIME_LOW, state.time_low);
    }
    if state.row_known {
        encoder.word(&mut words, ADDR_Y, state.row);
    }
    if !state.cd {
        encoder.word(&mut words, EM_ADDR_Y, 0);
    }
    // Vectors from columns that an address cannot have are outside every sensor.
    if state.base_known && state.base < RANGE {
        encoder.word(&mut words, VECT_BASE_X, u16::from(state.base_on) << 11 | state.base);
    }
    words
}

/// What differs between EVT2, EVT2.1 and EVT4: how words look.
pub(super) trait Words: Send {
    /// Value of the header field `evt`, and the name in the field `format` with the options that belong to it.
    const VERSION: (&str, &str);
    /// First time that is not written: the lead-in from 0 stays below 32 MB.
    const END_OF_TIME: i64 = 1 << 55;

    /// Appends a time word; `high` counts 64 us and has 28 bits.
    fn time(high: u32, out: &mut Vec<u8>);

    /// Appends events that differ in the low 6 bits of their times at most.
    fn events(width: u16, rows: &Rows<'_>, out: &mut Vec<u8>);

    /// Appends an external trigger; `low` is the low 6 bits of its time.
    fn trigger(id: u8, rising: bool, low: u32, out: &mut Vec<u8>);
}

/// Encoder of EVT2, EVT2.1 or EVT4.
#[derive(Debug)]
struct WordEncoder<W> {
    width: u16,
    /// Time in units of 64 us of the last time word.
    high: Option<i64>,
    /// Events since then.
    events: usize,
    words: PhantomData<fn() -> W>,
}

impl<W: Words> WordEncoder<W> {
    /// Largest step between time words, in units of 64 us.
    const STEP: i64 = 1 << 26;

    fn new(geometry: Geometry) -> Self {
        Self { width: geometry.width(), high: None, events: 0, words: PhantomData }
    }

    fn time(&mut self, t: i64, out: &mut Vec<u8>) {
        let high = t >> 6;
        if self.high == Some(high) && self.events < WORDS_BETWEEN_TIMES {
            return;
        }
        let mut at = self.high.unwrap_or_else(|| {
            W::time(0, out);
            0
        });
        loop {
            at = high.min(at + Self::STEP);
            W::time((at & 0x0FFF_FFFF) as u32, out);
            if at == high {
                break;
            }
        }
        (self.high, self.events) = (Some(high), 0);
    }
}

impl<W: Words> Encoder for WordEncoder<W> {
    fn header(&self, geometry: Geometry, date: &str) -> Vec<u8> {
        header(geometry, date, W::VERSION.0, W::VERSION.1)
    }

    fn end_of_time(&self) -> i64 {
        W::END_OF_TIME
    }

    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) {
        let rows = Rows { x, y, t, p, len: t.len() };
        let mut at = 0;
        while let Some(time) = t.get(at) {
            self.time(*time, out);
            let most = t.iter().skip(at).take(WORDS_BETWEEN_TIMES - self.events);
            let events = most.take_while(|t| **t >> 6 == *time >> 6).count();
            W::events(self.width, &rows.cut(at..at + events), out);
            self.events += events;
            at += events;
        }
    }

    fn trigger_ids(&self) -> u16 {
        32
    }

    fn trigger(&mut self, id: u8, rising: bool, t: i64, out: &mut Vec<u8>) {
        self.time(t, out);
        W::trigger(id, rising, (t & 0x3F) as u32, out);
    }
}

/// The time words that bring a decoder's clock to this time.
pub(super) fn lead<W: Words>(clock: i64) -> Vec<u8> {
    let mut words = Vec::new();
    WordEncoder::<W>::new(Geometry::LARGEST).time(clock, &mut words);
    words
}

/// Time, low 6 bits, column and row, where EVT2 and EVT4 have them, and EVT2.1 in the upper half of its words.
#[inline(always)]
fn place(t: i64, x: u16, y: i16) -> u32 {
    ((t & 0x3F) as u32) << 22 | u32::from(x) << 11 | u32::from(y.cast_unsigned())
}

/// EVT2.
pub(super) struct Evt2Words;

impl Words for Evt2Words {
    const VERSION: (&str, &str) = ("2.0", "EVT2");

    fn time(high: u32, out: &mut Vec<u8>) {
        out.extend((0x8000_0000 | high).to_le_bytes());
    }

    fn events(_: u16, rows: &Rows<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + 4 * rows.len, 0);
        let words = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<4>().0;
        for ((((word, x), y), t), p) in words.iter_mut().zip(rows.x).zip(rows.y).zip(rows.t).zip(rows.p) {
            *word = (u32::from(*p > 0) << 28 | place(*t, x.cast_unsigned(), *y)).to_le_bytes();
        }
    }

    fn trigger(id: u8, rising: bool, low: u32, out: &mut Vec<u8>) {
        out.extend((0xA000_0000 | low << 22 | u32::from(id) << 8 | u32::from(rising)).to_le_bytes());
    }
}

/// EVT2.1: a word has the events of one time, row and polarity in 32 columns, the first a multiple of 32.
pub(super) struct Evt21Words;

impl Words for Evt21Words {
    const VERSION: (&str, &str) = ("2.1", "EVT21;endianness=little");
    const END_OF_TIME: i64 = 1 << 54;

    fn time(high: u32, out: &mut Vec<u8>) {
        out.extend((u64::from(0x8000_0000 | high) << 32).to_le_bytes());
    }

    fn events(_: u16, rows: &Rows<'_>, out: &mut Vec<u8>) {
        let mut at = 0;
        while let (Some(x), Some(y), Some(t), Some(p)) = (rows.x.get(at), rows.y.get(at), rows.t.get(at), rows.p.get(at)) {
            let base = x.cast_unsigned() / VECTOR * VECTOR;
            let (mask, events) = vector(rows, at, base);
            let head = u32::from(*p > 0) << 28 | place(*t, base, *y);
            out.extend((u64::from(head) << 32 | u64::from(mask)).to_le_bytes());
            at += events;
        }
    }

    fn trigger(id: u8, rising: bool, low: u32, out: &mut Vec<u8>) {
        out.extend((u64::from(0xA000_0000 | low << 22 | u32::from(id) << 8 | u32::from(rising)) << 32).to_le_bytes());
    }
}

/// EVT4: as EVT2, and three events or more of one time, row and polarity in 32 columns as a vector of two words.
pub(super) struct Evt4Words;

impl Words for Evt4Words {
    const VERSION: (&str, &str) = ("4.0", "EVT4");

    fn time(high: u32, out: &mut Vec<u8>) {
        out.extend((0xE000_0000 | high).to_le_bytes());
    }

    fn events(width: u16, rows: &Rows<'_>, out: &mut Vec<u8>) {
        let mut at = 0;
        while let (Some(x), Some(y), Some(t), Some(p)) = (rows.x.get(at), rows.y.get(at), rows.t.get(at), rows.p.get(at)) {
            let (first, on) = (x.cast_unsigned(), u32::from(*p > 0) << 28);
            // All 32 columns are inside the sensor: some readers drop vectors that are not.
            let base = width.checked_sub(VECTOR).map(|last| first.min(last));
            let found = base.map(|base| (base, vector(rows, at, base))).filter(|(_, (_, events))| *events > 2);
            if let Some((base, (mask, events))) = found {
                out.extend((0xC000_0000 | on | place(*t, base, *y)).to_le_bytes());
                out.extend(mask.to_le_bytes());
                at += events;
            } else {
                out.extend((0xA000_0000 | on | place(*t, first, *y)).to_le_bytes());
                at += 1;
            }
        }
    }

    fn trigger(id: u8, rising: bool, low: u32, out: &mut Vec<u8>) {
        out.extend((0x9000_0000 | low << 22 | u32::from(id) << 8 | u32::from(rising)).to_le_bytes());
    }
}

/// DAT encoder, version 2.
///
/// Times have 32 bits, and the format has no mark for a wrap: later times are not written.
#[derive(Debug)]
struct DatEncoder;

impl Encoder for DatEncoder {
    fn header(&self, geometry: Geometry, date: &str) -> Vec<u8> {
        let (width, height) = (geometry.width(), geometry.height());
        let text = format!(
            "% Data file containing EventCD events.\n% Date {date}\n% Height {height}\n% Version 2\n% Width {width}\n% end\n\x0C\x08"
        );
        text.into_bytes()
    }

    fn end_of_time(&self) -> i64 {
        1 << 32
    }

    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + 8 * t.len(), 0);
        let records = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<8>().0;
        for ((((record, x), y), t), p) in records.iter_mut().zip(x).zip(y).zip(t).zip(p) {
            let pixel = u32::from(*p > 0) << 28 | u32::from(y.cast_unsigned()) << 14 | u32::from(x.cast_unsigned());
            *record = (u64::from(pixel) << 32 | u64::from(*t as u32)).to_le_bytes();
        }
    }
}

/// The encoder of `format` and the largest sensor it can hold; `None` for formats of others.
pub(crate) fn encoder(format: Format, geometry: Geometry) -> Option<(Box<dyn Encoder>, u16)> {
    Some(match format {
        Format::Evt2 => (Box::new(WordEncoder::<Evt2Words>::new(geometry)), RANGE),
        Format::Evt21 => (Box::new(WordEncoder::<Evt21Words>::new(geometry)), RANGE),
        Format::Evt3 => (Box::new(Evt3Encoder::new(geometry)), RANGE),
        Format::Evt4 => (Box::new(WordEncoder::<Evt4Words>::new(geometry)), RANGE),
        Format::Dat => (Box::new(DatEncoder), Dat::RANGE),
        _ => return None,
    })
}
