//! ATIS `.bin` files of N-MNIST and N-Caltech101: events of 40 bits and nothing else.
//!
//! | byte | content |
//! |---|---|
//! | 0 | x |
//! | 1 | y; 240 marks an overflow of the clock: no event, but 8192 us more for all that follow |
//! | 2 | bit 7: polarity; bits 6..0: time, bits 22..16 |
//! | 3, 4 | time, bits 15..8 and 7..0; microseconds |
//!
//! <https://www.garrickorchard.com/datasets/n-mnist>

use std::sync::Arc;

use rayon::prelude::*;

use super::{Confidence, Format, Identity, Opened};
use crate::columns::{Slots, TriggerColumns, rows_at, with_columns};
use crate::error::Result;
use crate::problem::{ProblemCode, Problems};
use crate::reader::SegmentReader;
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::scan::{Planner, Segment, Segmented, Span};
use crate::schema::{Columns, Geometry, TimeRange};
use crate::source::Source;
use crate::write::Encoder;

/// Bytes of a record.
const RECORD: usize = 5;
/// Row that marks an overflow.
const OVERFLOW: u8 = 240;
/// Microseconds of an overflow.
const PERIOD: i64 = 1 << 13;
/// First time that a record cannot hold.
const END: i64 = 1 << 23;
/// Largest sensor.
pub(crate) const LARGEST: (u16, u16) = (256, OVERFLOW as u16);
/// Records that are looked at together.
const BLOCK: usize = 16;
/// Bytes of a segment.
const SEGMENT: usize = RECORD * (48 << 10);
/// Fewest records from which the format is guessed.
const FEWEST: usize = 8;

#[inline(always)]
fn time([_, _, high, middle, low]: [u8; RECORD]) -> i64 {
    i64::from(u32::from_be_bytes([0, high & 0x7F, middle, low]))
}

#[inline(always)]
fn is_on(record: [u8; RECORD]) -> bool {
    record[2] >> 7 == 1
}

/// How well the head of a file fits: its records, and which of them follow the one before within a second.
fn fit(head: &[u8]) -> (usize, usize) {
    let records = head.as_chunks::<RECORD>().0;
    let mut last = None;
    let mut fitting = 0;
    for record in records {
        let t = time(*record);
        let follows = last.is_none_or(|last| (0..1_000_000).contains(&(t - last)));
        if record[1] == OVERFLOW {
            last = None;
        } else {
            last = Some(t);
        }
        fitting += usize::from(record[1] <= OVERFLOW && follows);
    }
    (records.len(), fitting)
}

/// Whether a file without a name for itself is taken for one of this format.
pub(crate) fn fits(head: &[u8], source: &Source) -> bool {
    let named = source.extension() == "bin";
    let (records, fitting) = fit(head);
    let differ = head.as_chunks::<RECORD>().0.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let printable = head.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n'));
    named && records >= FEWEST && fitting * 50 >= records * 49 && 2 * differ >= records && !printable && super::looks_unknown(head)
}

/// Opens a file.
pub(crate) fn open(source: Source, head: &[u8], options: &OpenOptions) -> Result<Opened> {
    options.refuse_array_options()?;
    options.refuse_text_options()?;
    options.refuse_streams()?;
    let (records, fitting) = fit(head);
    let mut reasons = Vec::new();
    let confidence = if options.format.is_some() {
        reasons.push(format!("the caller says {}", Format::AtisBin));
        Confidence::Certain
    } else {
        reasons.push("extension `.bin`, and nothing in the content that names a format".to_owned());
        Confidence::Guess
    };
    reasons.push(format!("{fitting} of the first {records} records of {RECORD} bytes are in time order and on the sensor"));
    if let Some(len) = source.known_len().filter(|len| !len.is_multiple_of(RECORD as u64)) {
        reasons.push(format!("but {len} bytes are not whole records"));
    }
    let (width, height) = LARGEST;
    let limits = options.geometry.map_or((width, height), |geometry| (geometry.width().min(width), geometry.height().min(height)));
    Ok(Opened {
        identity: Identity { format: Format::AtisBin, confidence, reasons },
        geometry: options.geometry,
        metadata: Vec::new(),
        streams: vec![Stream::new("events", StreamKind::Events, "ATIS change detections, 40 bits each", None)],
        reader: Arc::new(SegmentReader::new(source, AtisBin { width: limits.0, height: limits.1 })),
    })
}

#[derive(Debug, Clone, Copy)]
struct AtisBin {
    width: u16,
    height: u16,
}

impl AtisBin {
    #[inline(always)]
    fn contains(self, record: [u8; RECORD]) -> bool {
        u16::from(record[0]) < self.width && u16::from(record[1]) < self.height
    }

    /// Decodes records; `late` is the microseconds of the overflows so far.
    fn fill_columns<const COLS: u8>(self, late: &mut i64, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        let mut done = 0;
        let all = bytes.as_chunks::<RECORD>().0;
        while done < all.len() {
            let rest = all.get(done..).unwrap_or_default();
            if out.room() >= BLOCK
                && let Some(records) = rest.first_chunk::<BLOCK>()
                && records.iter().fold(true, |all, record| all & self.contains(*record))
            {
                if COLS & 1 != 0 {
                    let x = rows_at::<BLOCK, _>(out.x, out.len);
                    for i in 0..BLOCK {
                        x[i] = i16::from(records[i][0]);
                    }
                }
                if COLS & 2 != 0 {
                    let y = rows_at::<BLOCK, _>(out.y, out.len);
                    for i in 0..BLOCK {
                        y[i] = i16::from(records[i][1]);
                    }
                }
                if COLS & 4 != 0 {
                    let t = rows_at::<BLOCK, _>(out.t, out.len);
                    for i in 0..BLOCK {
                        t[i] = *late + time(records[i]);
                    }
                }
                if COLS & 8 != 0 {
                    let p = rows_at::<BLOCK, _>(out.p, out.len);
                    for i in 0..BLOCK {
                        p[i] = i8::from(is_on(records[i])) * 2 - 1;
                    }
                }
                out.len += BLOCK;
                done += BLOCK;
                continue;
            }
            for record in rest.iter().take(BLOCK) {
                if record[1] == OVERFLOW {
                    *late += PERIOD;
                } else if self.contains(*record) {
                    if out.room() == 0 {
                        return RECORD * done;
                    }
                    out.push::<COLS>(record[0].into(), record[1].into(), *late + time(*record), is_on(*record));
                }
                done += 1;
            }
        }
        RECORD * done
    }
}

struct Pass {
    late: i64,
}

impl Planner for Pass {
    type State = i64;

    fn plan(&mut self, bytes: &[u8], offset: u64, last: bool, plan: &mut Vec<Segment<i64>>, problems: &mut Problems) -> usize {
        let whole = bytes.len() / RECORD * RECORD;
        let passed: Vec<_> = bytes
            .get(..whole)
            .unwrap_or_default()
            .par_chunks(SEGMENT)
            .map(|part| {
                let (mut first, mut end, mut overflows) = (END, 0, 0);
                for record in part.as_chunks::<RECORD>().0 {
                    let t = time(*record);
                    (first, end) = (t.min(first), t.max(end));
                    overflows += i64::from(record[1] == OVERFLOW);
                }
                (first, end, overflows * PERIOD)
            })
            .collect();
        for (index, (first, end, advance)) in passed.into_iter().enumerate() {
            let start = index * SEGMENT;
            plan.push(Segment {
                offset: offset + start as u64,
                len: SEGMENT.min(whole - start) as u64,
                state: self.late,
                events: 0,
                triggers: 0,
                first_us: self.late + first,
                last_us: self.late + advance + end,
            });
            self.late += advance;
        }
        if last && whole < bytes.len() {
            let (lost, offset) = (bytes.len() - whole, offset + whole as u64);
            problems
                .add(ProblemCode::Truncated, 1, lost as u64, offset, || format!("{lost} bytes of a record of {RECORD} at byte {offset}"));
        }
        whole
    }
}

impl Segmented for AtisBin {
    /// Microseconds of the overflows so far.
    type State = i64;

    const PLANS_FAST: bool = true;

    fn payload(&self) -> u64 {
        0
    }

    fn planner(&self, state: i64) -> Box<dyn Planner<State = i64>> {
        Box::new(Pass { late: state })
    }

    fn start(&self) -> i64 {
        0
    }

    fn seek(&self, _: &Source, _: TimeRange) -> Result<Option<Span<i64>>> {
        Ok(None)
    }

    fn count(&self, segment: &mut Segment<i64>, bytes: &[u8], problems: &mut Problems) {
        for (index, record) in bytes.as_chunks::<RECORD>().0.iter().enumerate() {
            if self.contains(*record) {
                segment.events += 1;
            } else if record[1] != OVERFLOW {
                let offset = segment.offset + (RECORD * index) as u64;
                let Self { width, height } = self;
                problems.add(ProblemCode::OutOfBounds, 1, 0, offset, || {
                    format!("x {}, y {} outside {width}x{height} at byte {offset}", record[0], record[1])
                });
            }
        }
    }

    fn fill(&self, columns: Columns, state: &mut i64, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        with_columns!(columns, COLS => self.fill_columns::<COLS>(state, bytes, out))
    }

    fn key(&self) -> String {
        format!("atis-bin {}x{}", self.width, self.height)
    }

    fn pack(state: &i64) -> [u64; 2] {
        [state.cast_unsigned(), 0]
    }

    fn unpack(&self, [late, rest]: [u64; 2]) -> Option<i64> {
        // A file is not long enough for a time of this size.
        i64::try_from(late).ok().filter(|late| *late < 1 << 60 && late % PERIOD == 0 && rest == 0)
    }

    fn events_per_byte(&self) -> u64 {
        1
    }

    fn about_events(&self, bytes: u64) -> Option<u64> {
        Some(bytes / RECORD as u64)
    }

    fn triggers(&self, _: &mut i64, _: &[u8], _: &mut TriggerColumns) {}
}

/// Writes records.
pub(crate) struct Writer;

impl Encoder for Writer {
    fn header(&self, _: Geometry, _: &str) -> Vec<u8> {
        Vec::new()
    }

    fn end_of_time(&self) -> i64 {
        END
    }

    fn in_any_order(&self) -> bool {
        true
    }

    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) {
        for (((x, y), t), p) in x.iter().zip(y).zip(t).zip(p) {
            let [_, high, middle, low] = (*t as u32).to_be_bytes();
            out.extend([*x as u8, *y as u8, u8::from(*p > 0) << 7 | high, middle, low]);
        }
    }
}

#[cfg(test)]
mod tests;
