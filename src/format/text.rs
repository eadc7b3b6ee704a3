//! Text and CSV: an event a line, in any of the layouts in circulation.
//!
//! | what | by |
//! |---|---|
//! | separator | the first data line: comma, else semicolon, else one tab, else runs of blanks and tabs |
//! | order of the columns | the caller; names in a header line; what the columns of the first lines can be |
//! | unit of time | the caller; the name of the column; a decimal point (seconds); the size of whole numbers |
//! | sensor size | the caller; a first line `width height`; `%geometry:W,H`; names like `x@W` |
//!
//! Lines that begin with `#` or `%` and empty lines are stepped over; a line that is no event is counted. Times are
//! converted digit by digit, never through floating point.
//!
//! [`Layout`] is found in `layout.rs`, fields are read in `number.rs`; here lines become columns. The fast path reads
//! plain lines eight digits at a time; what it does not take is read by the definition, [`Lines::parse`].

use std::sync::Arc;

use super::{Confidence, Format, Identity, Opened};
use crate::columns::{Slots, TriggerColumns};
use crate::error::Result;
use crate::problem::{ProblemCode, Problems};
use crate::reader::SegmentReader;
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::scan::{Planner, Segment, Segmented, Span};
use crate::schema::{Columns, Geometry, TimeRange, TimeUnit};
use crate::simd;
use crate::source::{End, Source};

mod layout;
mod number;
#[cfg(test)]
mod tests;
mod writer;

use layout::{Layout, Role, Values, shown, values};
pub(crate) use layout::{fits, is_text};
use number::{digits, digits_left, load};
pub(crate) use writer::Writer;

/// Bytes of a segment.
const SEGMENT: usize = 256 << 10;
/// Longer lines are no events, whatever they say.
const LONGEST: usize = 64 << 10;
/// Bytes of the shortest line with an event, `0 0 0 1` and its end.
const SHORTEST: u64 = 8;
/// Events that are read before they are put into columns.
const BLOCK: usize = 256;

/// Opens a file.
pub(crate) fn open(source: Source, head: &[u8], options: &OpenOptions) -> Result<Opened> {
    options.refuse_paths()?;
    options.refuse_streams()?;
    let layout = Layout::detect(head, source.known_len() == Some(head.len() as u64), options)?;
    let mut reasons = Vec::new();
    let confidence = if options.format.is_some() {
        reasons.push(format!("the caller says {}", Format::Text));
        Confidence::Certain
    } else if layout.named {
        Confidence::Likely
    } else {
        Confidence::Guess
    };
    reasons.extend(layout.reasons.iter().cloned());
    let geometry = options.geometry.or(layout.geometry);
    let metadata = layout.metadata();
    let lines = Lines::new(layout, geometry, options.time_offset_us.unwrap_or(0), source.end());
    Ok(Opened {
        identity: Identity { format: Format::Text, confidence, reasons },
        geometry,
        metadata,
        streams: vec![Stream::new("events", StreamKind::Events, "an event a line", None)],
        reader: Arc::new(SegmentReader::new(source, lines)),
    })
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Empty, or a comment.
    Nothing,
    Event {
        event: Event,
        /// Whether its pixel was rounded.
        rounded: bool,
    },
    /// An event outside the sensor.
    Outside,
    /// No event, and why.
    Bad(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Event {
    x: i16,
    y: i16,
    t: i64,
    on: bool,
}

/// Reads lines of one layout.
#[derive(Debug, Clone)]
struct Lines {
    layout: Layout,
    width: i64,
    height: i64,
    offset_us: i64,
    /// Where the file ends: known by the time that its last line is read.
    end: End,
    /// Microseconds of a unit of time, and hundred-millionths of a unit in a microsecond; not for nanoseconds.
    scale: (u64, u64),
}

/// Events on their way into columns.
struct Block {
    x: [i16; BLOCK],
    y: [i16; BLOCK],
    t: [i64; BLOCK],
    p: [i8; BLOCK],
    len: usize,
}

impl Block {
    const EMPTY: Self = Self { x: [0; BLOCK], y: [0; BLOCK], t: [0; BLOCK], p: [0; BLOCK], len: 0 };

    #[inline(always)]
    fn push(&mut self, event: Event) {
        let at = self.len % BLOCK;
        self.x[at] = event.x;
        self.y[at] = event.y;
        self.t[at] = event.t;
        self.p[at] = i8::from(event.on) * 2 - 1;
        self.len = at + 1;
    }
}

/// Where a decoder stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// File offset.
    at: u64,
    /// Whether this is inside a line that is too long.
    skipping: bool,
}

/// Where the first line end of `bytes` is.
#[inline]
fn line_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for chunk in bytes.as_chunks::<32>().0 {
        // No early end: all 32 are compared at once.
        if chunk.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>() > 0 {
            break;
        }
        at += 32;
    }
    bytes.get(at..)?.iter().position(|byte| *byte == b'\n').map(|found| at + found)
}

impl Lines {
    fn new(layout: Layout, geometry: Option<Geometry>, offset_us: i64, end: End) -> Self {
        let (width, height) = geometry.map_or((Geometry::MAX, Geometry::MAX), |geometry| (geometry.width(), geometry.height()));
        let scale = match layout.unit {
            TimeUnit::Seconds => (1_000_000, 100),
            TimeUnit::Milliseconds => (1000, 100_000),
            TimeUnit::Microseconds | TimeUnit::Nanoseconds => (1, 100_000_000),
        };
        Self { layout, width: width.into(), height: height.into(), offset_us, end, scale }
    }

    /// What a line, without its end, is: the definition.
    fn parse(&self, line: &[u8]) -> Line {
        if line.len() > LONGEST {
            return Line::Bad("longer than 64 KiB");
        }
        // Not trimmed for the fields: a leading tab is the end of an empty one.
        if matches!(line.trim_ascii_start().first(), None | Some(b'#' | b'%')) {
            return Line::Nothing;
        }
        let Values { t, x: (x, x_rounded), y: (y, y_rounded), on } =
            match values(self.layout.separator, &self.layout.roles, self.layout.unit, line) {
                Ok(values) => values,
                Err(why) => return Line::Bad(why),
            };
        let Some(t) = t.checked_add(self.offset_us) else { return Line::Bad("no time") };
        if !(0..self.width).contains(&x) || !(0..self.height).contains(&y) {
            return Line::Outside;
        }
        Line::Event { event: Event { x: x as i16, y: y as i16, t, on }, rounded: x_rounded | y_rounded }
    }

    /// The event of a plain line that starts at `start`, and where the next one starts; `None` for every other line.
    #[inline(always)]
    fn parse_plain(&self, bytes: &[u8], start: usize) -> Option<(Event, usize)> {
        let mut at = start;
        let (mut x, mut y, mut t, mut on) = (0, 0, 0_i64, false);
        let separator = self.layout.separator.byte();
        let last = self.layout.roles.len().wrapping_sub(1);
        for (index, role) in self.layout.roles.iter().enumerate() {
            match role {
                Role::Time => {
                    let (value, end) = self.time(bytes, at)?;
                    t = value;
                    at = end;
                }
                Role::X | Role::Y => {
                    let (value, count) = digits(load(bytes, at)?);
                    if !(1..=5).contains(&count) {
                        return None;
                    }
                    at += count;
                    if *role == Role::X { x = value as i64 } else { y = value as i64 }
                }
                Role::Polarity => {
                    let negative = *bytes.get(at)? == b'-';
                    at += usize::from(negative);
                    let digit = bytes.get(at)?.wrapping_sub(b'0');
                    if digit > 1 {
                        return None;
                    }
                    on = digit == 1 && !negative;
                    at += 1;
                }
                // A comment or a blank at the start of a line are for the definition.
                Role::Skip if index == 0 && matches!(*bytes.get(at)?, b'#' | b'%' | b' ' | b'\t'..=b'\r') => return None,
                Role::Skip => {
                    let ends = |byte: &u8| *byte == separator || matches!(*byte, b'\t'..=b'\r');
                    at += bytes.get(at..)?.iter().take(64).position(ends)?;
                }
            }
            if index < last {
                if *bytes.get(at)? != separator {
                    return None;
                }
                at += 1;
                while *bytes.get(at)? == b' ' {
                    at += 1;
                }
            }
        }
        match *bytes.get(at)? {
            b'\n' => at += 1,
            b'\r' if bytes.get(at + 1) == Some(&b'\n') => at += 2,
            byte if byte == separator => {
                let rest = bytes.get(at..)?;
                let end = line_end(rest)?;
                // A carriage return inside is for the definition.
                if rest.get(..end)?.trim_ascii_end().contains(&b'\r') {
                    return None;
                }
                at += end + 1;
            }
            _ => return None,
        }
        let inside = x < self.width && y < self.height && at - start <= LONGEST;
        inside.then_some((Event { x: x as i16, y: y as i16, t, on }, at))
    }

    /// The time of plain digits at `at`, and where they end.
    #[inline(always)]
    fn time(&self, bytes: &[u8], mut at: usize) -> Option<(i64, usize)> {
        let (mut value, count) = digits(load(bytes, at)?);
        at += count;
        if count == 0 {
            return None;
        }
        if count == 8 {
            let (low, more) = digits(load(bytes, at)?);
            value = value * number::POWERS[more] + low;
            at += more;
            if more == 8 {
                let (low, more) = digits(load(bytes, at)?);
                // Up to 18 digits: far from the end of i64.
                if more > 2 {
                    return None;
                }
                value = value * number::POWERS[more] + low;
                at += more;
            }
        }
        let mut fraction = 0;
        if *bytes.get(at)? == b'.' {
            at += 1;
            let (left, mut count) = digits_left(load(bytes, at)?);
            fraction = left;
            at += count;
            // Digits after the eighth do not round a microsecond, up to seconds.
            while count == 8 {
                count = digits_left(load(bytes, at)?).1;
                at += count;
            }
        }
        let microseconds = if self.layout.unit == TimeUnit::Nanoseconds {
            (value + 500) / 1000
        } else {
            let (times, part) = self.scale;
            value.checked_mul(times)?.checked_add((fraction + part / 2) / part)?
        };
        Some((i64::try_from(microseconds).ok()?.checked_add(self.offset_us)?, at))
    }

    /// Reads lines until the bytes end, `block` has `room` events, or a line is not whole; returns the bytes consumed.
    /// Tells `note` of every line that is no plain event: what it is, and its place in `bytes`.
    #[inline(always)]
    fn read(&self, place: &mut Place, bytes: &[u8], block: &mut Block, room: usize, note: &mut impl FnMut(Line, usize, &[u8])) -> usize {
        let ends_file = self.end.known().is_some_and(|end| place.at.saturating_add(bytes.len() as u64) >= end);
        let mut at = 0;
        if place.skipping {
            match line_end(bytes) {
                Some(end) => at = end + 1,
                None => at = bytes.len(),
            }
            place.skipping = at == bytes.len() && bytes.last() != Some(&b'\n');
        }
        while block.len < room.min(BLOCK) && at < bytes.len() {
            if let Some((event, next)) = self.parse_plain(bytes, at) {
                block.push(event);
                at = next;
                continue;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let (line, next) = match line_end(rest) {
                Some(end) => (rest.get(..end).unwrap_or_default(), at + end + 1),
                None if ends_file => (rest, bytes.len()),
                None if rest.len() > LONGEST => {
                    place.skipping = true;
                    (rest, bytes.len())
                }
                None => break,
            };
            let parsed = self.parse(line);
            if let Line::Event { event, .. } = parsed {
                block.push(event);
            }
            note(parsed, at, line);
            at = next;
        }
        place.at += at as u64;
        at
    }
}

/// Lines ends in `bytes`.
struct LineEnds<'a>(&'a [u8]);

impl simd::Kernel for LineEnds<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        self.0.chunks(128).map(|chunk| u64::from(chunk.iter().fold(0_u8, |ends, byte| ends + u8::from(*byte == b'\n')))).sum()
    }
}

/// Cuts after line ends.
struct Cut {
    place: Place,
}

impl Planner for Cut {
    type State = Place;

    fn plan(&mut self, bytes: &[u8], offset: u64, last: bool, plan: &mut Vec<Segment<Place>>, _: &mut Problems) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let from = (at + SEGMENT).min(bytes.len());
            let end = match line_end(bytes.get(from..).unwrap_or_default()) {
                Some(end) => from + end + 1,
                None if last => bytes.len(),
                None => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    match rest.iter().rposition(|byte| *byte == b'\n') {
                        Some(end) => at + end + 1,
                        None if rest.len() > LONGEST => bytes.len(),
                        None => break,
                    }
                }
            };
            let segment = bytes.get(at..end).unwrap_or_default();
            self.place.at = offset + at as u64;
            plan.push(Segment {
                offset: self.place.at,
                len: segment.len() as u64,
                state: self.place,
                events: 0,
                triggers: 0,
                // Until the segment is counted.
                first_us: i64::MIN,
                last_us: i64::MAX,
            });
            self.place.skipping = segment.last() != Some(&b'\n');
            at = end;
        }
        at
    }
}

impl Segmented for Lines {
    type State = Place;

    const COUNTS_DEARLY: bool = true;

    fn payload(&self) -> u64 {
        self.layout.start
    }

    fn planner(&self, state: Place) -> Box<dyn Planner<State = Place>> {
        Box::new(Cut { place: state })
    }

    fn start(&self) -> Place {
        Place { at: self.layout.start, skipping: false }
    }

    fn seek(&self, _: &Source, _: TimeRange) -> Result<Option<Span<Place>>> {
        Ok(None)
    }

    fn most(&self, bytes: &[u8]) -> u64 {
        let ends = simd::run(LineEnds(bytes)) + u64::from(bytes.last() != Some(&b'\n'));
        ends.min(bytes.len() as u64 / SHORTEST + 1)
    }

    fn count(&self, segment: &mut Segment<Place>, bytes: &[u8], problems: &mut Problems) {
        let mut place = segment.state;
        let mut block = Block::EMPTY;
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        let mut at = 0;
        while at < bytes.len() {
            block.len = 0;
            let base = segment.offset + at as u64;
            let consumed = self.read(&mut place, bytes.get(at..).unwrap_or_default(), &mut block, BLOCK, &mut |what, at, line| {
                let offset = base + at as u64;
                let example = || match what {
                    Line::Bad(why) => format!("{why} at byte {offset}: `{}`", shown(line)),
                    _ => format!("byte {offset}: `{}`", shown(line)),
                };
                match what {
                    Line::Bad(_) => problems.add(ProblemCode::BadLine, 1, line.len().min(LONGEST) as u64, offset, example),
                    Line::Outside => problems.add(ProblemCode::OutOfBounds, 1, 0, offset, example),
                    Line::Event { rounded: true, .. } => problems.add(ProblemCode::Rounded, 1, 0, offset, example),
                    _ => {}
                }
            });
            for t in block.t.iter().take(block.len) {
                (first, last) = (first.min(*t), last.max(*t));
            }
            segment.events += block.len as u64;
            at += consumed;
            if consumed == 0 {
                break;
            }
        }
        if first <= last {
            (segment.first_us, segment.last_us) = (first, last);
        }
    }

    fn fill(&self, columns: Columns, state: &mut Place, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        let mut block = Block::EMPTY;
        let mut at = 0;
        loop {
            block.len = 0;
            let consumed = self.read(state, bytes.get(at..).unwrap_or_default(), &mut block, out.room(), &mut |_, _, _| {});
            at += consumed;
            out.extend(columns, &block.x[..block.len], &block.y[..block.len], &block.t[..block.len], &block.p[..block.len]);
            if consumed == 0 || at == bytes.len() {
                return at;
            }
        }
    }

    fn key(&self) -> String {
        let Self { layout, width, height, offset_us, .. } = self;
        format!("text {} {} {} {width}x{height} {offset_us}", layout.columns(), layout.separator.name(), layout.unit.name())
    }

    fn pack(state: &Place) -> [u64; 2] {
        [state.at, state.skipping.into()]
    }

    fn unpack(&self, [at, skipping]: [u64; 2]) -> Option<Place> {
        (self.end.known().is_none_or(|end| at <= end) && skipping <= 1).then_some(Place { at, skipping: skipping == 1 })
    }

    fn events_per_byte(&self) -> u64 {
        1
    }

    fn triggers(&self, _: &mut Place, _: &[u8], _: &mut TriggerColumns) {}
}
