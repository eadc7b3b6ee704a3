//! Event Stream (`.es`), version 2: times as differences, records of 5 bytes for events.
//!
//! | bytes | header |
//! |---|---|
//! | 0 to 11 | `Event Stream` |
//! | 12, 13, 14 | version |
//! | 15 | what is recorded: 0 generic, 1 DVS, 2 ATIS, 3 AMD, 4 colour |
//! | 16 to 19 | width and height, u16 little-endian; not for types 0 and 3 |
//!
//! A record starts with a head byte; some values of it stand alone: fillers that mean nothing, and overflows that only
//! let time go on.
//!
//! | type | head: time ahead | flags | filler | overflow | then |
//! |---|---|---|---|---|---|
//! | DVS | bits 7..1, 0 to 126 | bit 0: on | 0xFE | 0xFF: 127 us | x, y, u16 little-endian |
//! | ATIS | bits 7..2, 0 to 62 | bit 1: on; bit 0: exposure measurement, not an event | 0xFC | 0xFD, 0xFE, 0xFF: 63, 126, 189 us | x, y |
//!
//! The stream has no marks: where records start, and the time there, is known from the start of the file only. But a
//! wrong place soon gives pixels outside the sensor. So blocks are scanned in parallel from the likeliest place, and
//! those few whose place turns out wrong are scanned again; and after a lost byte, [`LOST`] records outside in a row
//! tell that the place is lost, and [`WITNESSES`] inside in a row that it is found again.
//!
//! <https://github.com/neuromorphic-paris/event_stream>

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;

use super::{Confidence, Format, Identity, Opened, looks_like};
use crate::columns::{EventColumns, Slots, TriggerColumns, rows_at, with_columns};
use crate::error::{Error, ErrorKind, Result};
use crate::problem::{ProblemCode, Problems};
use crate::reader::{BatchStream, Reader, SegmentReader};
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::scan::{Planner, Segment, Segmented, Span};
use crate::schema::{Columns, Geometry, TimeRange};
use crate::selection::Selection;
use crate::side::SideStream;
use crate::source::Source;
use crate::write::Encoder;

mod side;

use side::{Others, Readable};

const MAGIC: &[u8; 12] = b"Event Stream";
/// Bytes of a record.
const RECORD: usize = 5;
/// Records that are looked at together.
const BLOCK: usize = 16;
/// Bytes of a segment.
const SEGMENT: usize = 256 << 10;
/// Records from which the place of the first one of a block is guessed.
const SAMPLE: usize = 64;
/// Records outside the sensor in a row, from the first of which the next place is searched for.
const LOST: u32 = 4;
/// Records inside the sensor in a row that make a place the right one; before the end of the file [`LOST`] will do.
const WITNESSES: u32 = 16;
/// Bytes in which a place is searched for; where there is none, as many are read as they stand.
const REACH: usize = 1 << 20;

/// What a file records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Generic,
    Dvs,
    Atis,
    Amd,
    Colour,
}

impl Content {
    const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Dvs => "DVS",
            Self::Atis => "ATIS",
            Self::Amd => "AMD",
            Self::Colour => "colour",
        }
    }
}

struct Header {
    version: [u8; 3],
    content: Content,
    /// Size of the sensor: the caller's, and what tells whether records stand at the right places.
    geometry: Option<Geometry>,
    stated: Option<Geometry>,
    payload: u64,
}

/// Whether a file names itself an Event Stream.
pub(crate) fn names(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

impl Header {
    fn parse(head: &[u8], wanted: Option<Geometry>) -> Result<Self> {
        let Some(rest) = head.strip_prefix(MAGIC) else {
            return Err(Error::format("not an Event Stream").expecting("`Event Stream`").but_found(looks_like(head)).at(0));
        };
        let short = || {
            Error::format("the file ends inside its header")
                .expecting("20 bytes, or 16 without a sensor size")
                .but_found(format!("{} bytes", head.len()))
                .at(head.len() as u64)
        };
        let (&[major, minor, patch, kind], rest) = rest.split_first_chunk().ok_or_else(short)?;
        if major != 2 {
            return Err(Error::new(ErrorKind::Unsupported, "this version of Event Stream is not read")
                .expecting("version 2")
                .but_found(format!("version {major}.{minor}.{patch}"))
                .at(12));
        }
        let content = match kind {
            0 => Content::Generic,
            1 => Content::Dvs,
            2 => Content::Atis,
            3 => Content::Amd,
            4 => Content::Colour,
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, "unknown type of Event Stream")
                    .expecting("0 (generic), 1 (DVS), 2 (ATIS), 3 (AMD) or 4 (colour)")
                    .but_found(kind.to_string())
                    .at(15));
            }
        };
        let version = [major, minor, patch];
        if matches!(content, Content::Generic | Content::Amd) {
            return Ok(Self { version, content, geometry: wanted, stated: None, payload: 16 });
        }
        let &[w0, w1, h0, h1] = rest.first_chunk().ok_or_else(short)?;
        let (width, height) = (u16::from_le_bytes([w0, w1]), u16::from_le_bytes([h0, h1]));
        let stated = match (Geometry::new(width.into(), height.into()), wanted) {
            (Ok(stated), _) => stated,
            (Err(_), Some(wanted)) => wanted,
            (Err(_), None) => {
                return Err(Error::format("sensor size out of range")
                    .expecting(format!("1 to {} pixels each way", Geometry::MAX))
                    .but_found(format!("{width}x{height}"))
                    .at(16)
                    .hint("pass `geometry=(width, height)`"));
            }
        };
        Ok(Self { version, content, geometry: Some(wanted.unwrap_or(stated)), stated: Some(stated), payload: 20 })
    }
}

/// Opens a file.
pub(crate) fn open(source: Source, head: &[u8], options: &OpenOptions) -> Result<Opened> {
    options.refuse_array_options()?;
    options.refuse_text_options()?;
    let header = Header::parse(head, options.geometry)?;
    let content = header.content;
    let mut reasons = vec!["starts with `Event Stream`".to_owned()];
    if options.format.is_some() {
        reasons.push(format!("the caller says {}", Format::EventStream));
    }
    let identity = Identity { format: Format::EventStream, confidence: Confidence::Certain, reasons };
    let [major, minor, patch] = header.version;
    let metadata =
        vec![("version".to_owned(), format!("{major}.{minor}.{patch}")), ("type".to_owned(), content.name().to_ascii_lowercase())];
    let events = |detail| Stream::new("events", StreamKind::Events, detail, None);
    let mut streams = match content {
        Content::Dvs => vec![events("DVS events")],
        Content::Atis => vec![events("ATIS change detections")],
        _ => Vec::new(),
    };
    streams.extend(Others::of(content).map(|others| Stream::new(others.name(), StreamKind::Other, others.detail(), None)));
    if let Some(wanted) = &options.stream
        && wanted != "events"
    {
        let names: Vec<_> = streams.iter().map(|stream| format!("`{}`", stream.name)).collect();
        return Err(Error::invalid("this stream is not one of events")
            .expecting("`events`")
            .but_found(format!("`{wanted}`"))
            .hint(format!("the file has {}", names.join(", "))));
    }
    let reader: Arc<dyn Reader> = match (content, header.geometry, header.stated) {
        (Content::Dvs, Some(geometry), Some(stated)) => {
            Arc::new(SegmentReader::new(source, EventStream::<Dvs>::new(geometry, stated, header.payload)))
        }
        (Content::Atis, Some(geometry), Some(stated)) => {
            Arc::new(SegmentReader::new(source, EventStream::<Atis>::new(geometry, stated, header.payload)))
        }
        (content, geometry, _) => Arc::new(NoEvents { content, geometry, payload: header.payload, source: Arc::new(source) }),
    };
    Ok(Opened { identity, geometry: header.geometry, metadata, streams, reader })
}

/// The reader of a file without events.
struct NoEvents {
    content: Content,
    geometry: Option<Geometry>,
    payload: u64,
    source: Arc<Readable>,
}

impl NoEvents {
    fn refuse<T>(&self) -> Result<T> {
        let name = Others::of(self.content).map_or("", Others::name);
        Err(Error::new(ErrorKind::Unsupported, "the recording has no brightness changes")
            .expecting("an Event Stream of type 1 (DVS) or 2 (ATIS)")
            .but_found(format!("type {} ({})", self.content as u8, self.content.name()))
            .at(15)
            .hint(format!("`load_stream(\"{name}\")` gives what it has"))
            .with_path((*self.source).as_ref().path()))
    }
}

impl Reader for NoEvents {
    fn read(&self, _: &Selection, _: &ThreadPool) -> Result<EventColumns> {
        self.refuse()
    }

    fn batches(self: Arc<Self>, _: &Selection) -> Box<dyn BatchStream> {
        struct Refused(Arc<NoEvents>);
        impl BatchStream for Refused {
            fn next(&mut self, _: usize, _: &ThreadPool) -> Result<Option<EventColumns>> {
                self.0.refuse()
            }
        }
        Box::new(Refused(self))
    }

    fn triggers(&self, _: &ThreadPool) -> Result<TriggerColumns> {
        Ok(TriggerColumns::default())
    }

    fn counts(&self, _: &ThreadPool) -> Result<(u64, u64)> {
        self.refuse()
    }

    fn time_range(&self, _: &ThreadPool) -> Result<Option<(i64, i64)>> {
        self.refuse()
    }

    fn problems(&self, _: &ThreadPool) -> Result<Problems> {
        side::problems(self.content, self.geometry, self.payload, Arc::clone(&self.source))
    }

    fn is_indexed(&self) -> bool {
        false
    }

    fn save_index(&self, _: &ThreadPool) -> Result<PathBuf> {
        self.refuse()
    }

    fn side(self: Arc<Self>, name: &str, _: Arc<ThreadPool>) -> Result<SideStream> {
        side::open(self.content, self.geometry, self.payload, Arc::clone(&self.source), name)
    }
}

/// What a head byte means.
trait Kind: Copy + Send + Sync + 'static {
    const CONTENT: Content;
    /// Head bytes from this on stand alone.
    const ALONE: u8;
    /// Lowest bit of the time.
    const SHIFT: u32;
    /// Microseconds by which a head byte that stands alone lets time go on.
    fn overflow(head: u8) -> i64;
    /// Whether the record is an event.
    fn is_event(head: u8) -> bool;
    /// Its polarity.
    fn is_on(head: u8) -> bool;
}

#[derive(Debug, Clone, Copy)]
struct Dvs;

impl Kind for Dvs {
    const CONTENT: Content = Content::Dvs;
    const ALONE: u8 = 0xFE;
    const SHIFT: u32 = 1;

    #[inline(always)]
    fn overflow(head: u8) -> i64 {
        127 * i64::from(head & 1)
    }
    #[inline(always)]
    fn is_event(_: u8) -> bool {
        true
    }
    #[inline(always)]
    fn is_on(head: u8) -> bool {
        head & 1 == 1
    }
}

#[derive(Debug, Clone, Copy)]
struct Atis;

impl Kind for Atis {
    const CONTENT: Content = Content::Atis;
    const ALONE: u8 = 0xFC;
    const SHIFT: u32 = 2;

    #[inline(always)]
    fn overflow(head: u8) -> i64 {
        63 * i64::from(head & 3)
    }
    #[inline(always)]
    fn is_event(head: u8) -> bool {
        head & 1 == 0
    }
    #[inline(always)]
    fn is_on(head: u8) -> bool {
        head >> 1 & 1 == 1
    }
}

/// One step of the decoder.
enum Step {
    /// A head byte that stands alone: microseconds.
    Alone(i64),
    /// A record.
    Record { head: u8, x: u16, y: u16 },
    /// The bytes end inside a record.
    Partial,
}

/// The step at the start of `bytes`, which are not empty.
#[inline(always)]
fn step<K: Kind>(bytes: &[u8]) -> Step {
    match bytes {
        [head, ..] if *head >= K::ALONE => Step::Alone(K::overflow(*head)),
        [head, x0, x1, y0, y1, ..] => Step::Record { head: *head, x: u16::from_le_bytes([*x0, *x1]), y: u16::from_le_bytes([*y0, *y1]) },
        _ => Step::Partial,
    }
}

/// Records in a row, none of whose heads stands alone.
struct Run {
    heads: [u8; BLOCK],
    x: [u16; BLOCK],
    y: [u16; BLOCK],
}

impl Run {
    /// The records at the start of `bytes`; what is read is of use only if the result is `Some`.
    #[inline(always)]
    fn load<K: Kind>(bytes: &[u8]) -> Option<Self> {
        let block = bytes.first_chunk::<{ RECORD * BLOCK }>()?;
        let mut run = Self { heads: [0; BLOCK], x: [0; BLOCK], y: [0; BLOCK] };
        let mut alone = false;
        for i in 0..BLOCK {
            run.heads[i] = block[RECORD * i];
            alone |= run.heads[i] >= K::ALONE;
            run.x[i] = u16::from_le_bytes([block[RECORD * i + 1], block[RECORD * i + 2]]);
            run.y[i] = u16::from_le_bytes([block[RECORD * i + 3], block[RECORD * i + 4]]);
        }
        (!alone).then_some(run)
    }

    #[inline(always)]
    fn is_inside(&self, width: u16, height: u16) -> bool {
        let mut inside = true;
        for i in 0..BLOCK {
            inside &= self.x[i] < width;
            inside &= self.y[i] < height;
        }
        inside
    }
}

/// A stream of one kind.
#[derive(Debug, Clone, Copy)]
struct EventStream<K> {
    geometry: Geometry,
    /// Size of the sensor by which it is told whether records stand at the right places.
    stated: Geometry,
    payload: u64,
    kind: PhantomData<K>,
}

impl<K: Kind> EventStream<K> {
    fn new(geometry: Geometry, stated: Geometry, payload: u64) -> Self {
        Self { geometry, stated, payload, kind: PhantomData }
    }

    /// The row that is stored as `y`: files count from the bottom.
    #[inline(always)]
    fn row(&self, y: u16) -> u16 {
        self.geometry.height() - 1 - y
    }

    fn fill_columns<const COLS: u8>(&self, time: &mut i64, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        let (width, height) = (self.geometry.width(), self.geometry.height());
        let mut at = 0;
        let mut t = *time;
        'blocks: loop {
            while out.room() >= BLOCK
                && let Some(run) = Run::load::<K>(bytes.get(at..).unwrap_or_default())
                && run.is_inside(width, height)
                && run.heads.iter().all(|head| K::is_event(*head))
            {
                if COLS & 1 != 0 {
                    let x = rows_at::<BLOCK, _>(out.x, out.len);
                    for i in 0..BLOCK {
                        x[i] = run.x[i].cast_signed();
                    }
                }
                if COLS & 2 != 0 {
                    let y = rows_at::<BLOCK, _>(out.y, out.len);
                    for i in 0..BLOCK {
                        y[i] = (height - 1 - run.y[i]).cast_signed();
                    }
                }
                if COLS & 4 != 0 {
                    let column = rows_at::<BLOCK, _>(out.t, out.len);
                    for i in 0..BLOCK {
                        t += i64::from(run.heads[i] >> K::SHIFT);
                        column[i] = t;
                    }
                } else {
                    t += run.heads.iter().map(|head| i64::from(head >> K::SHIFT)).sum::<i64>();
                }
                if COLS & 8 != 0 {
                    let p = rows_at::<BLOCK, _>(out.p, out.len);
                    for i in 0..BLOCK {
                        p[i] = i8::from(K::is_on(run.heads[i])) * 2 - 1;
                    }
                }
                out.len += BLOCK;
                at += RECORD * BLOCK;
            }
            // What is not so plain, by the definition.
            for _ in 0..BLOCK {
                let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { break 'blocks };
                match step::<K>(rest) {
                    Step::Alone(microseconds) => {
                        t += microseconds;
                        at += 1;
                    }
                    Step::Record { head, x, y } => {
                        let given = K::is_event(head) && contains(self.geometry, x, y);
                        if given && out.room() == 0 {
                            break 'blocks;
                        }
                        t += i64::from(head >> K::SHIFT);
                        if given {
                            out.push::<COLS>(x, self.row(y), t, K::is_on(head));
                        }
                        at += RECORD;
                    }
                    Step::Partial => break 'blocks,
                }
            }
        }
        *time = t;
        at
    }

    /// Where the first record at or after `from` most likely starts.
    fn guess(&self, bytes: &[u8], from: usize) -> usize {
        let outside = |start: usize| {
            let (mut at, mut records, mut outside) = (start, 0, 0);
            while records < SAMPLE
                && let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty())
            {
                match step::<K>(rest) {
                    Step::Alone(_) => at += 1,
                    Step::Record { x, y, .. } => {
                        records += 1;
                        outside += usize::from(!contains(self.stated, x, y));
                        at += RECORD;
                    }
                    Step::Partial => break,
                }
            }
            outside
        };
        (from..from + RECORD).min_by_key(|start| outside(*start)).unwrap_or(from)
    }
}

/// Whether a pixel as stored is on a sensor of this size.
#[inline(always)]
fn contains(sensor: Geometry, x: u16, y: u16) -> bool {
    x < sensor.width() && y < sensor.height()
}

/// What a scan has passed over.
#[derive(Debug, Clone, Copy, Default)]
struct Passed {
    at: usize,
    /// Microseconds that went by, records, and how many of those are no events of the sensor.
    advance: i64,
    records: u64,
    others: u64,
    /// Whether records outside the sensor are among them.
    left_out: bool,
}

/// Why a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything that starts before the end of its stretch is passed over.
    Whole,
    /// What follows is a part of a record, at the end of the bytes.
    Partial,
    /// The last records, fewer than [`LOST`], are outside the sensor and are not passed over.
    Doubtful,
    /// As many records as make the place a lost one follow.
    Lost,
}

/// A scan of a stretch from `start` on.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    start: usize,
    passed: Passed,
    end: End,
}

impl<K: Kind> EventStream<K> {
    /// Steps over everything that starts before `until`, or up to where the place is lost; before `blind` it is not
    /// told. The bytes are the last of the file, or not.
    fn pass(&self, bytes: &[u8], start: usize, until: usize, blind: usize, last: bool) -> Stretch {
        let (width, height) = (self.stated.width(), self.stated.height());
        let mut passed = Passed { at: start, ..Passed::default() };
        // Where the records outside that have just been passed over began, and how many they are.
        let (mut before, mut outside) = (passed, 0);
        while passed.at < until {
            let at = passed.at;
            if at + RECORD * BLOCK <= until
                && let Some(block) = bytes.get(at..).and_then(<[u8]>::first_chunk::<{ RECORD * BLOCK }>)
            {
                let (mut sum, mut others, mut other) = (0_u32, 0_u32, 0_u8);
                for i in 0..BLOCK {
                    let [head, x0, x1, y0, y1] = [0, 1, 2, 3, 4].map(|byte| block[RECORD * i + byte]);
                    other |= u8::from(head >= K::ALONE);
                    other |= u8::from(u16::from_le_bytes([x0, x1]) >= width);
                    other |= u8::from(u16::from_le_bytes([y0, y1]) >= height);
                    sum += u32::from(head >> K::SHIFT);
                    others += u32::from(!K::is_event(head));
                }
                if other == 0 {
                    passed = Passed {
                        at: at + RECORD * BLOCK,
                        advance: passed.advance + i64::from(sum),
                        records: passed.records + BLOCK as u64,
                        others: passed.others + u64::from(others),
                        ..passed
                    };
                    outside = 0;
                    continue;
                }
                // Silence is a row of the largest overflow.
                if *block == [0xFF; RECORD * BLOCK] {
                    passed.advance += (RECORD * BLOCK) as i64 * K::overflow(0xFF);
                    passed.at += RECORD * BLOCK;
                    outside = 0;
                    continue;
                }
            }
            // A few steps before the next look at a whole block.
            for _ in 0..BLOCK {
                if passed.at >= until {
                    break;
                }
                match step::<K>(bytes.get(passed.at..).unwrap_or_default()) {
                    Step::Alone(microseconds) => {
                        passed.advance += microseconds;
                        passed.at += 1;
                        outside = 0;
                    }
                    Step::Record { head, x, y } => {
                        if contains(self.stated, x, y) {
                            outside = 0;
                        } else {
                            if outside == 0 {
                                before = passed;
                            }
                            outside += 1;
                            if outside == LOST {
                                if before.at >= blind {
                                    return Stretch { start, passed: before, end: End::Lost };
                                }
                                outside = 0;
                            }
                        }
                        passed.advance += i64::from(head >> K::SHIFT);
                        passed.at += RECORD;
                        passed.records += 1;
                        passed.others += u64::from(outside > 0 || !K::is_event(head));
                        passed.left_out |= outside > 0;
                    }
                    Step::Partial if last || outside == 0 => return Stretch { start, passed, end: End::Partial },
                    Step::Partial => return Stretch { start, passed: before, end: End::Doubtful },
                }
            }
        }
        if outside > 0 && !(last && until == bytes.len()) {
            return Stretch { start, passed: before, end: End::Doubtful };
        }
        Stretch { start, passed, end: End::Whole }
    }

    /// Whether records stand at `at`: `None` if more bytes have to be seen to know.
    fn is_place(&self, bytes: &[u8], mut at: usize, last: bool) -> Option<bool> {
        let mut inside = 0;
        while inside < WITNESSES {
            let rest = bytes.get(at..).unwrap_or_default();
            match if rest.is_empty() { Step::Partial } else { step::<K>(rest) } {
                Step::Alone(_) => at += 1,
                Step::Record { x, y, .. } if contains(self.stated, x, y) => {
                    inside += 1;
                    at += RECORD;
                }
                Step::Record { .. } => return Some(false),
                Step::Partial => return last.then_some(inside >= LOST),
            }
        }
        Some(true)
    }

    /// The first place after `from` where records stand.
    fn search(&self, bytes: &[u8], from: usize, last: bool) -> Search {
        for place in from + 1..=from + REACH {
            if place >= bytes.len() {
                return if last { Search::Nowhere } else { Search::Unclear };
            }
            match self.is_place(bytes, place, last) {
                Some(true) => return Search::At(place),
                Some(false) => {}
                None => return Search::Unclear,
            }
        }
        Search::Nowhere
    }
}

/// What a search for the place of a record found.
enum Search {
    At(usize),
    Nowhere,
    /// More bytes have to be seen.
    Unclear,
}

struct Pass<K> {
    stream: EventStream<K>,
    time: i64,
    /// File offset up to which records are read as they stand.
    blind: u64,
}

impl<K: Kind> Planner for Pass<K> {
    type State = i64;

    fn plan(&mut self, bytes: &[u8], offset: u64, last: bool, plan: &mut Vec<Segment<i64>>, problems: &mut Problems) -> usize {
        let stream = self.stream;
        let blocks = bytes.len().div_ceil(SEGMENT);
        let guessed: Vec<Stretch> = (0..blocks)
            .into_par_iter()
            .map(|block| {
                let from = block * SEGMENT;
                let start = if block == 0 { 0 } else { stream.guess(bytes, from) };
                stream.pass(bytes, start, bytes.len().min(from + SEGMENT), 0, last)
            })
            .collect();
        let blind = |blind: u64| usize::try_from(blind.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut at = 0;
        for (block, guessed) in guessed.into_iter().enumerate() {
            let until = bytes.len().min((block + 1) * SEGMENT);
            while at < until {
                let known = guessed.start == at && self.blind <= offset + at as u64;
                let Stretch { passed, end, .. } = if known { guessed } else { stream.pass(bytes, at, until, blind(self.blind), last) };
                if passed.at > at {
                    plan.push(Segment {
                        offset: offset + at as u64,
                        len: (passed.at - at) as u64,
                        state: self.time,
                        events: if passed.left_out || stream.geometry != stream.stated { 0 } else { passed.records - passed.others },
                        triggers: 0,
                        first_us: self.time,
                        last_us: self.time + passed.advance,
                    });
                }
                self.time += passed.advance;
                at = passed.at;
                match end {
                    End::Whole | End::Doubtful => break,
                    End::Partial if last => {
                        let (lost, offset) = (bytes.len() - at, offset + at as u64);
                        problems.add(ProblemCode::Truncated, 1, lost as u64, offset, || {
                            format!("{lost} bytes of a record of {RECORD} at byte {offset}")
                        });
                        return bytes.len();
                    }
                    End::Partial => return at,
                    End::Lost => match stream.search(bytes, at, last) {
                        Search::At(place) => {
                            let (lost, offset) = (place - at, offset + at as u64);
                            problems.add(ProblemCode::LostSync, lost.div_ceil(RECORD) as u64, lost as u64, offset, || {
                                format!("{lost} bytes at byte {offset}: pixels outside {} in a row", stream.stated)
                            });
                            at = place;
                        }
                        Search::Nowhere => self.blind = offset + (at + REACH) as u64,
                        Search::Unclear => return at,
                    },
                }
            }
        }
        at
    }
}

impl<K: Kind> Segmented for EventStream<K> {
    /// Time in microseconds; segments start where a record may start.
    type State = i64;

    fn payload(&self) -> u64 {
        self.payload
    }

    fn planner(&self, state: i64) -> Box<dyn Planner<State = i64>> {
        Box::new(Pass { stream: *self, time: state, blind: 0 })
    }

    fn start(&self) -> i64 {
        0
    }

    fn seek(&self, _: &Source, _: TimeRange) -> Result<Option<Span<i64>>> {
        Ok(None)
    }

    fn count(&self, segment: &mut Segment<i64>, bytes: &[u8], problems: &mut Problems) {
        let (width, height) = (self.geometry.width(), self.geometry.height());
        segment.events = 0;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some(run) = Run::load::<K>(rest)
                && run.is_inside(width, height)
            {
                segment.events += run.heads.iter().map(|head| u64::from(K::is_event(*head))).sum::<u64>();
                at += RECORD * BLOCK;
                continue;
            }
            for _ in 0..BLOCK {
                let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { break };
                match step::<K>(rest) {
                    Step::Alone(_) => at += 1,
                    Step::Record { head, x, y } => {
                        if !contains(self.geometry, x, y) {
                            let offset = segment.offset + at as u64;
                            problems.add(ProblemCode::OutOfBounds, 1, 0, offset, || outside(x, y, self.geometry, offset));
                        } else if K::is_event(head) {
                            segment.events += 1;
                        }
                        at += RECORD;
                    }
                    Step::Partial => return,
                }
            }
        }
    }

    fn fill(&self, columns: Columns, state: &mut i64, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        with_columns!(columns, COLS => self.fill_columns::<COLS>(state, bytes, out))
    }

    fn key(&self) -> String {
        format!("es {} {} {}", K::CONTENT.name(), self.geometry, self.stated)
    }

    fn pack(state: &i64) -> [u64; 2] {
        [state.cast_unsigned(), 0]
    }

    fn unpack(&self, [time, rest]: [u64; 2]) -> Option<i64> {
        // A file is not long enough for a time of this size.
        i64::try_from(time).ok().filter(|time| *time < 1 << 60 && rest == 0)
    }

    fn events_per_byte(&self) -> u64 {
        1
    }

    fn triggers(&self, _: &mut i64, _: &[u8], _: &mut TriggerColumns) {}

    fn side(reader: Arc<SegmentReader<Self>>, name: &str) -> Result<SideStream> {
        let Self { geometry, payload, .. } = *reader.format();
        side::open(K::CONTENT, Some(geometry), payload, reader, name)
    }
}

/// What is told of a pixel that is not on the sensor.
fn outside(x: u16, y: u16, sensor: Geometry, offset: u64) -> String {
    format!("x {x}, stored y {y} outside {sensor} at byte {offset}")
}

/// Writes DVS events.
pub(crate) struct Writer {
    height: u16,
    time: i64,
}

impl Writer {
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self { height: geometry.height(), time: 0 }
    }
}

impl Encoder for Writer {
    fn header(&self, geometry: Geometry, _: &str) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend([2, 0, 0, 1]);
        header.extend(geometry.width().to_le_bytes());
        header.extend(geometry.height().to_le_bytes());
        header
    }

    fn end_of_time(&self) -> i64 {
        // Silence costs a byte for every 127 us: 270 MB up to here.
        1 << 35
    }

    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) {
        for (((x, y), t), p) in x.iter().zip(y).zip(t).zip(p) {
            let mut ahead = t - self.time;
            if ahead >= 127 {
                out.resize(out.len() + usize::try_from(ahead / 127).unwrap_or(0), 0xFF);
                ahead %= 127;
            }
            self.time = *t;
            let [x0, x1] = x.to_le_bytes();
            let [y0, y1] = (self.height - 1 - y.cast_unsigned()).to_le_bytes();
            out.extend([(ahead as u8) << 1 | u8::from(*p > 0), x0, x1, y0, y1]);
        }
    }
}

#[cfg(test)]
mod tests;
