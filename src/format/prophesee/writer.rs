//! Encoders of EVT3 and EVT2.
//!
//! Times are absolute: the stream starts with the time word 0 and steps up to the first event, so that readers which
//! count from the first time word keep the times too. Longer gaps are filled with time words close enough for
//! half-range wrap detection.

use super::evt3::{ADDR_X, ADDR_Y, TIME_HIGH, TIME_LOW, VECT_8, VECT_12, VECT_BASE_X};
use crate::schema::Geometry;
use crate::write::Encoder;

/// Words between time words where time stands still: readers that lose their place find it again soon.
const WORDS_BETWEEN_TIMES: usize = 2048;

fn header(geometry: Geometry, date: &str, version: &str, name: &str) -> Vec<u8> {
    let (width, height) = (geometry.width(), geometry.height());
    format!(
        "% camera_integrator_name evlib\n% date {date}\n% evt {version}\n% format {name};height={height};width={width}\n\
         % geometry {width}x{height}\n% plugin_integrator_name evlib\n% end\n"
    )
    .into_bytes()
}

/// EVT3 encoder.
#[derive(Debug)]
pub(crate) struct Evt3Encoder {
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
    /// Largest step between time words, in units of 4096 us: half of what half-range wrap detection bears.
    const STEP: i64 = 1024;
    /// Columns of a 12-12-8 group.
    const GROUP: u16 = 32;

    pub(crate) fn new(geometry: Geometry) -> Self {
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
                at = high.min(at + Self::STEP);
                self.word(out, TIME_HIGH, (at & 0xFFF) as u16);
            }
            // A new high time clears the low one; row and base follow it so that a reader can start here.
            (self.high, self.low, self.row, self.base, self.words) = (Some(high), None, None, None, 0);
        } else if self.words >= WORDS_BETWEEN_TIMES {
            self.word(out, TIME_HIGH, (high & 0xFFF) as u16);
            (self.row, self.base, self.words) = (None, None, 0);
        }
        if self.low != Some(low) {
            self.word(out, TIME_LOW, low);
            self.low = Some(low);
        }
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
        let mut at = 0;
        while let (Some(&first), Some(&row), Some(&time), Some(&sign)) = (x.get(at), y.get(at), t.get(at), p.get(at)) {
            self.time(time, out);
            if self.row != Some(row) {
                self.word(out, ADDR_Y, row.cast_unsigned());
                self.row = Some(row);
            }
            let (first, on) = (first.cast_unsigned(), sign > 0);
            let polarity = u16::from(on) << 11;
            let running = self.base.filter(|(base, base_on)| *base_on == on && (*base..*base + Self::GROUP).contains(&first));
            let running = running.map(|(base, _)| base).filter(|base| base + Self::GROUP <= self.width);
            let base = running.unwrap_or(first.min(self.width.saturating_sub(Self::GROUP)));
            let (mut mask, mut next) = (0_u32, at);
            if self.width >= Self::GROUP {
                let mut last = None;
                while let (Some(x), Some(y), Some(t), Some(p)) = (x.get(next), y.get(next), t.get(next), p.get(next)) {
                    let column = x.cast_unsigned();
                    let joins =
                        *y == row && *t == time && *p == sign && column >= base && column < base + Self::GROUP && last < Some(column);
                    if !joins {
                        break;
                    }
                    mask |= 1 << (column - base);
                    last = Some(column);
                    next += 1;
                }
            }
            let cost = if running.is_some() { 3 } else { 4 };
            if next - at > cost {
                if running.is_none() {
                    self.word(out, VECT_BASE_X, polarity | base);
                }
                self.word(out, VECT_12, (mask & 0xFFF) as u16);
                self.word(out, VECT_12, (mask >> 12 & 0xFFF) as u16);
                self.word(out, VECT_8, (mask >> 24) as u16);
                self.base = Some((base + Self::GROUP, on));
                at = next;
            } else {
                self.word(out, ADDR_X, polarity | first);
                at += 1;
            }
        }
    }
}

/// EVT2 encoder.
#[derive(Debug, Default)]
pub(crate) struct Evt2Encoder {
    /// Time in units of 64 us of the last time word.
    high: Option<i64>,
    words: usize,
}

impl Evt2Encoder {
    /// Largest step between time words, in units of 64 us.
    const STEP: i64 = 1 << 26;

    fn time(&mut self, t: i64, out: &mut Vec<u8>) {
        let high = t >> 6;
        if self.high == Some(high) && self.words < WORDS_BETWEEN_TIMES {
            return;
        }
        let word = |high: i64| (0x8000_0000_u32 | (high & 0x0FFF_FFFF) as u32).to_le_bytes();
        let mut at = self.high.unwrap_or_else(|| {
            out.extend(word(0));
            0
        });
        loop {
            at = high.min(at + Self::STEP);
            out.extend(word(at));
            if at == high {
                break;
            }
        }
        (self.high, self.words) = (Some(high), 0);
    }
}

impl Encoder for Evt2Encoder {
    fn header(&self, geometry: Geometry, date: &str) -> Vec<u8> {
        header(geometry, date, "2.0", "EVT2")
    }

    fn end_of_time(&self) -> i64 {
        // The lead-in from 0 stays below 32 MB.
        1 << 55
    }

    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) {
        for (((x, y), t), p) in x.iter().zip(y).zip(t).zip(p) {
            self.time(*t, out);
            let (x, y) = (u32::from(x.cast_unsigned()), u32::from(y.cast_unsigned()));
            let word = u32::from(*p > 0) << 28 | ((t & 0x3F) as u32) << 22 | x << 11 | y;
            out.extend(word.to_le_bytes());
            self.words += 1;
        }
    }
}

/// Largest coordinate range of both encodings.
pub(crate) const RANGE: u16 = 2048;
