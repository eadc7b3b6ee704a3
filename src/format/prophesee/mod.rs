//! Prophesee RAW (EVT2, EVT2.1, EVT3, EVT4) and DAT: identification, opening, writing.

use std::sync::Arc;

use super::{Confidence, Format, Identity, Opened, looks_like, text};
use crate::columns::{Slots, TriggerColumns};
use crate::error::{Error, ErrorKind, Result};
use crate::problem::{ProblemCode, Problems};
use crate::reader::{Reader, SegmentReader};
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::scan::{Cut, Planner, Scan, Segment, Segmented, Span, with_buffer};
use crate::schema::{Columns, Geometry, TimeRange};
use crate::source::Source;

mod dat;
mod evt2;
mod evt21;
pub(crate) mod evt3;
#[cfg(target_arch = "x86_64")]
mod evt3_avx512;
mod evt4;
mod guess;
mod header;
mod seek;
#[cfg(test)]
mod tests;
pub(crate) mod timeline;
pub(crate) mod word;
pub(crate) mod writer;

use dat::{Dat, Record};
use evt2::Evt2;
use evt3::Evt3;
use evt4::Evt4;
use evt21::Evt21;
use header::{Header, System};
use word::{Encoding, Limits, Sink, State, Triggers};

/// Coordinate range of the RAW encodings.
pub(crate) const RANGE: u16 = Evt2::RANGE;

/// What identification found out about a file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) identity: Identity,
    pub(crate) header: Header,
    /// EVT2.1: whether the halves of the words are swapped.
    legacy: bool,
}

/// Tells what a Prophesee file is; `wanted` is the format the caller names.
pub(crate) fn identify(head: &[u8], extension: &str, len: u64, wanted: Option<Format>) -> Result<Found> {
    let header = Header::parse(head);
    if (header.unfinished || header.end == head.len()) && (head.len() as u64) < len {
        return Err(Error::format("the header does not end")
            .expecting("a line that does not start with `% `, or `% end`")
            .but_found("no end of line")
            .at(header.end as u64));
    }
    let payload = head.get(header.end..).unwrap_or_default();
    let mut reasons = Vec::new();
    let by_header = if header.end == 0 { None } else { from_header(&header, payload, &mut reasons)? };
    let (format, confidence) = match (wanted, by_header) {
        (Some(wanted), found) => {
            if let Some((found, _)) = found.filter(|(found, _)| *found != wanted) {
                reasons.push(format!("the caller says {wanted}, against the header's {found}"));
            } else {
                reasons.push(format!("the caller says {wanted}"));
            }
            (wanted, Confidence::Certain)
        }
        (None, Some(found)) => found,
        (None, None) => {
            let guess = guess::guess(payload, extension, &mut reasons);
            let Some(format) = guess else {
                let error = Error::format("not a recording that this version reads").at(header.end as u64);
                let error = if header.end == 0 {
                    error.expecting("the content of a known format").but_found(looks_like(head))
                } else {
                    error.expecting("Prophesee RAW or DAT").but_found("a header that names no encoding, and a payload that fits none")
                };
                if header.fields.is_empty() && !head.is_empty() && text::is_text(head) {
                    return Err(error.hint(
                        "for text with an event a line pass `format=\"text\"`, and `text_columns` where it does not name its columns",
                    ));
                }
                // Nobody names a RAW payload otherwise.
                if head.is_empty() || !matches!(extension, "raw" | "dat" | "bin" | "") {
                    return Err(error);
                }
                return Err(error.hint("for a RAW payload without a header pass `format=\"evt2\"`, `\"evt21\"`, `\"evt3\"` or `\"evt4\"`"));
            };
            (format, Confidence::Guess)
        }
    };
    let legacy = format == Format::Evt21 && legacy_order(&header, payload, &mut reasons)?;
    Ok(Found { identity: Identity { format, confidence, reasons }, header, legacy })
}

/// The format that a header names or implies.
fn from_header(header: &Header, payload: &[u8], reasons: &mut Vec<String>) -> Result<Option<(Format, Confidence)>> {
    if let Some(name) = header.format_name() {
        reasons.push(format!("header field `format` is `{name}`"));
        return match name.parse() {
            Ok(format) => Ok(Some((format, Confidence::Certain))),
            Err(_) => Err(Error::new(ErrorKind::Unsupported, "the header names an encoding that this library does not read")
                .expecting("EVT2, EVT21, EVT3 or EVT4")
                .but_found(format!("`{name}`"))),
        };
    }
    if let Some(version) = header.get("evt") {
        reasons.push(format!("header field `evt` is `{version}`"));
        return match format!("evt{version}").parse() {
            Ok(format) => Ok(Some((format, Confidence::Certain))),
            Err(_) => Err(Error::new(ErrorKind::Unsupported, "the header names an encoding that this library does not read")
                .expecting("`evt` 2.0, 2.1, 3.0 or 4.0")
                .but_found(format!("`{version}`"))),
        };
    }
    if header.get("Version").is_some() || header.get("Data").is_some_and(|value| value.starts_with("file containing")) {
        reasons.push("header fields of a DAT file".to_owned());
        return Ok(Some((Format::Dat, Confidence::Certain)));
    }
    if let Some(id) = header.system_id() {
        let system = header::system(id).filter(|_| header.is_prophesee());
        if let Some((name, sensor)) = system.and_then(|system| Some((system.encoding?, system.sensor))) {
            reasons.push(format!("header field `system_ID` is {id}, a {sensor} sensor, whose encoding is {name}"));
            return Ok(Some((name.parse()?, Confidence::Likely)));
        }
    }
    // Both kinds of file name the sensor: what follows the header decides.
    let dat_bytes = matches!(payload, [0 | 12 | 14 | 17, 8, ..] | [40, 28, ..]);
    let sensor = header::sensor(header);
    if dat_bytes && (sensor.is_none() || !guess::is_evt2(payload)) {
        reasons.push(format!(
            "record type and size of a DAT file ({}, {}) after the header",
            payload.first().unwrap_or(&0),
            payload.get(1).unwrap_or(&0)
        ));
        return Ok(Some((Format::Dat, Confidence::Likely)));
    }
    if let Some((key, System { sensor, encoding: Some(name), .. })) = sensor {
        let value = header.get(key).unwrap_or_default();
        reasons.push(format!("header field `{key}` is `{value}`, a {sensor} sensor, whose usual encoding is {name}"));
        return Ok(Some((name.parse()?, Confidence::Likely)));
    }
    Ok(None)
}

/// Whether EVT2.1 words have their upper half first.
fn legacy_order(header: &Header, payload: &[u8], reasons: &mut Vec<String>) -> Result<bool> {
    if let Some(order) = header.format_option("endianness").or_else(|| header.get("endianness")) {
        reasons.push(format!("word order is `{order}`"));
        return match order.to_ascii_lowercase().as_str() {
            "legacy" => Ok(true),
            "little" => Ok(false),
            _ => Err(Error::new(ErrorKind::Unsupported, "the header names a word order that this library does not read")
                .expecting("`endianness` little or legacy")
                .but_found(format!("`{order}`"))),
        };
    }
    if let Some(legacy) = guess::word_order(payload) {
        reasons.push(format!("word order seen in the content: {}", if legacy { "legacy" } else { "little" }));
        return Ok(legacy);
    }
    let legacy = header.is_prophesee() && header.system_id().is_none_or(|id| id != 0 && id < 0x37);
    reasons.push(format!("word order by the sensor: {}", if legacy { "legacy" } else { "little" }));
    Ok(legacy)
}

/// The geometry of a recording: the caller's, the header's, or the sensor's.
pub(crate) fn geometry(found: &Found, wanted: Option<Geometry>) -> Result<Option<Geometry>> {
    if wanted.is_some() {
        return Ok(wanted);
    }
    if let Some(stated) = found.header.stated_geometry()? {
        return Ok(Some(stated));
    }
    let system = found.header.system_id().and_then(header::system).filter(|_| found.header.is_prophesee());
    if let Some((width, height)) = system.and_then(|system| system.geometry) {
        return Geometry::new(width.into(), height.into()).map(Some);
    }
    let named = header::sensor(&found.header).and_then(|(_, system)| system.geometry);
    named.map(|(width, height)| Geometry::new(width.into(), height.into())).transpose()
}

/// Identifies and opens a file.
pub(crate) fn open(source: Source, head: &[u8], options: &OpenOptions) -> Result<Opened> {
    options.refuse_array_options()?;
    options.refuse_text_options()?;
    options.refuse_streams()?;
    let found = identify(head, &source.extension(), source.len(), options.format)?;
    let geometry = geometry(&found, options.geometry)?;
    let Found { identity, header, .. } = &found;
    let (identity, metadata) = (identity.clone(), header.fields.clone());
    let reader = reader(source, &found, head, geometry)?;
    let streams = vec![
        Stream::new("events", StreamKind::Events, identity.format.name(), None),
        Stream::new("triggers", StreamKind::Triggers, identity.format.name(), None),
    ];
    Ok(Opened { identity, geometry, metadata, streams, reader })
}

/// Sets up the decoder of an identified file.
fn reader(source: Source, found: &Found, head: &[u8], geometry: Option<Geometry>) -> Result<Arc<dyn Reader>> {
    fn raw<E: Encoding>(source: Source, payload: u64, encoding: E) -> Arc<dyn Reader> {
        Arc::new(SegmentReader::new(source, Raw { payload, encoding }))
    }
    let start = found.header.end as u64;
    let limits = Limits::new(geometry, RANGE);
    Ok(match found.identity.format {
        Format::Evt21 => raw(source, start, Evt21::new(limits, found.legacy)),
        Format::Evt3 => raw(source, start, Evt3::new(limits)),
        Format::Evt4 => raw(source, start, Evt4::new(limits)),
        Format::Dat => {
            let limits = Limits::new(geometry, Dat::RANGE);
            let (record, size, payload) = dat_layout(found, head)?;
            raw(source, payload, Dat::new(limits, record, size))
        }
        _ => raw(source, start, Evt2::new(limits)),
    })
}

/// Record kind and size of a DAT file, and where its records start.
fn dat_layout(found: &Found, head: &[u8]) -> Result<(Record, u8, u64)> {
    let start = found.header.end;
    let payload = head.get(start..).unwrap_or_default();
    if found.header.end == 0 {
        // Without a header there are no type and size bytes either. In version 1 the upper bits are never set.
        let words = payload.as_chunks::<8>().0.iter().map(|record| (u64::from_le_bytes(*record) >> 32) as u32);
        let narrow = words.clone().count() > 0 && words.clone().all(|word| word >> 18 == 0) && words.clone().any(|word| word >> 9 != 0);
        return Ok((if narrow { Record::CdV1 } else { Record::CdV2 }, 8, start as u64));
    }
    let (kind, size) = match payload {
        [kind, size, ..] => (*kind, *size),
        _ => {
            return Err(Error::format("the file ends before its records")
                .expecting("record type and record size")
                .but_found("the end of the file")
                .at(start as u64));
        }
    };
    let version = found.header.get("Version").unwrap_or("2");
    let record = match (kind, version) {
        (0 | 12, "1") => Record::CdV1,
        (0 | 12, "2") => Record::CdV2,
        (14, _) => Record::Trigger,
        (0 | 12, _) => {
            return Err(Error::new(ErrorKind::Unsupported, "unknown DAT version").expecting("1 or 2").but_found(format!("`{version}`")));
        }
        _ => {
            return Err(Error::new(ErrorKind::Unsupported, "the records are not events")
                .expecting("record type 0 or 12 (CD) or 14 (external trigger)")
                .but_found(kind.to_string())
                .at(start as u64));
        }
    };
    if size < 8 {
        return Err(Error::format("record size out of range")
            .expecting("at least 8 bytes")
            .but_found(size.to_string())
            .at(start as u64 + 1));
    }
    Ok((record, size, start as u64 + 2))
}

/// A file of one encoding.
struct Raw<E> {
    payload: u64,
    encoding: E,
}

/// Where a word stands, the state before it, and the time of the first event or trigger of a range that it gives.
type First = (u64, State, i64);

/// Looks for events and triggers within a time range.
struct Within {
    range: TimeRange,
    first_us: Option<i64>,
}

impl Within {
    fn see(&mut self, t: i64) {
        if self.range.intersects(t, t) {
            self.first_us.get_or_insert(t);
        }
    }
}

impl Sink for Within {
    fn fits(&self, _: u32) -> bool {
        true
    }
    fn event(&mut self, _: u16, _: u16, t: i64, _: bool) {
        self.see(t);
    }
    fn trigger(&mut self, _: u8, _: bool, t: i64) {
        self.see(t);
    }
    fn dropped(&mut self, _: ProblemCode, _: u32, _: usize) {}
}

impl<E: Encoding> Raw<E> {
    /// In a segment, the first word that gives an event or trigger of a time range, and where the last one ends.
    fn outermost(&self, scan: &Scan<Self>, segment: &Segment<State>, range: TimeRange) -> Result<Option<(First, u64)>> {
        let len = usize::try_from(segment.len).unwrap_or(usize::MAX);
        with_buffer(|buffer| {
            let bytes = buffer.take(len);
            scan.source.read_exact_at(bytes, segment.offset)?;
            let mut state = segment.state;
            let mut found = None;
            for (at, word) in word::Words::new(&self.encoding, bytes, 0) {
                let (before, offset) = (state, segment.offset + at as u64);
                let stride = self.encoding.stride(word);
                let mut sink = Within { range, first_us: None };
                self.encoding.walk(&mut state, bytes.get(at..at + stride).unwrap_or_default(), &mut sink);
                if let Some(first_us) = sink.first_us {
                    let (first, _) = found.unwrap_or(((offset, before, first_us), 0));
                    found = Some((first, offset + stride as u64));
                }
            }
            Ok(found)
        })
    }
}

impl<E: Encoding> Segmented for Raw<E> {
    type State = State;

    const PLANS_FAST: bool = true;

    fn payload(&self) -> u64 {
        self.payload
    }

    fn planner(&self, state: State) -> Box<dyn Planner<State = State>> {
        Box::new(timeline::Timeline::new(self.encoding.clone(), state))
    }

    fn start(&self) -> State {
        State::START
    }

    fn seek(&self, source: &Source, range: TimeRange) -> Result<Option<Span<State>>> {
        seek::seek(&self.encoding, self.payload, source, range)
    }

    fn count(&self, segment: &mut Segment<State>, bytes: &[u8], problems: &mut Problems) {
        let counts = self.encoding.count(&segment.state, bytes, segment.offset, problems);
        segment.events = counts.events;
        segment.triggers = counts.triggers;
    }

    fn fill(&self, columns: Columns, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        word::fill_columns(&self.encoding, columns, state, bytes, out)
    }

    fn triggers(&self, state: &mut State, bytes: &[u8], out: &mut TriggerColumns) {
        self.encoding.walk(state, bytes, &mut Triggers(out));
    }

    fn key(&self) -> String {
        let Limits { width, height } = self.encoding.limits();
        format!("{} {width}x{height}", E::NAME)
    }

    fn pack(state: &State) -> [u64; 2] {
        let State { clock, timed, time_low, row, row_known, cd, base, base_on, base_known, vector: _ } = *state;
        // Segments never start at an EVT4 mask, so `vector` is 0.
        let flags = [timed, row_known, cd, base_on, base_known].into_iter().fold(0_u64, |flags, flag| flags << 1 | u64::from(flag));
        [clock.cast_unsigned(), u64::from(time_low) | u64::from(row) << 16 | u64::from(base) << 32 | flags << 48]
    }

    fn unpack(&self, [clock, rest]: [u64; 2]) -> Option<State> {
        let flag = |bit: u32| rest >> (48 + bit) & 1 == 1;
        let state = State {
            clock: clock.cast_signed(),
            timed: flag(4),
            time_low: rest as u16,
            row: (rest >> 16) as u16,
            row_known: flag(3),
            cd: flag(2),
            base: (rest >> 32) as u16,
            base_on: flag(1),
            base_known: flag(0),
            vector: 0,
        };
        // A wrap needs bytes: no file is long enough for a clock of this size.
        let possible = (0..1 << 60).contains(&state.clock) && [state.time_low, state.row, state.base].iter().all(|value| *value <= 4095);
        possible.then_some(state)
    }

    fn about_events(&self, bytes: u64) -> Option<u64> {
        E::EVENT_A_WORD.then(|| bytes / self.encoding.word_bytes() as u64)
    }

    fn events_per_byte(&self) -> u64 {
        E::EVENTS_PER_BYTE
    }

    fn cut(scan: &Scan<Self>, range: TimeRange, pool: &rayon::ThreadPool) -> Result<Option<Cut>> {
        let segments = scan.in_time(range, pool)?;
        let mut first = None;
        for segment in &segments {
            first = scan.format.outermost(scan, segment, range)?.map(|(first, _)| first);
            if first.is_some() {
                break;
            }
        }
        let Some((start, state, first_us)) = first else { return Ok(Some(Cut::default())) };
        let mut end = start;
        for segment in segments.iter().rev() {
            if let Some((_, last)) = scan.format.outermost(scan, segment, range)? {
                end = last;
                break;
            }
        }
        let lead = scan.format.encoding.lead(&state, first_us).ok_or_else(|| {
            Error::invalid("the part cannot be copied")
                .expecting("times below 2^32 us, which the format has")
                .but_found(format!("{first_us} us"))
        })?;
        Ok(Some(Cut { lead, bytes: start..end }))
    }
}
