//! What the Prophesee encodings have in common: decoder state, time unwrapping, sinks, the `Encoding` trait.
//!
//! Bit layouts stand in `evt2.rs`, `evt21.rs`, `evt3.rs`, `evt4.rs` and `dat.rs`, after the vendor's public
//! descriptions of the encodings (<https://docs.prophesee.ai/stable/data/encoding_formats/index.html>).

use crate::columns::{Slots, TriggerColumns};
use crate::problem::{ProblemCode, Problems};
use crate::schema::{Columns, Geometry};
use crate::simd;

/// What a decoder knows at one place of the stream.
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the encoding's state")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// Time of the last time word in microseconds, wraps undone.
    pub(crate) clock: i64,
    /// Whether there was a time word yet.
    pub(crate) timed: bool,
    /// EVT3: low 12 bits of the time.
    pub(crate) time_low: u16,
    /// EVT3: row with the origin bit; rows of another camera are above 2047.
    pub(crate) row: u16,
    /// EVT3: whether `row` is known.
    pub(crate) row_known: bool,
    /// EVT3: whether the row is of contrast-detection events.
    pub(crate) cd: bool,
    /// EVT3: next column of a vector.
    pub(crate) base: u16,
    /// EVT3: polarity of a vector.
    pub(crate) base_on: bool,
    /// EVT3: whether `base` is known.
    pub(crate) base_known: bool,
    /// EVT4: the vector word whose mask comes next; 0 for none.
    pub(crate) vector: u32,
}

impl State {
    /// The state at the start of a file.
    pub(crate) const START: Self = Self {
        clock: 0,
        timed: false,
        time_low: 0,
        row: 0,
        row_known: false,
        cd: true,
        base: 0,
        base_on: false,
        base_known: false,
        vector: 0,
    };

    /// The state after lost bytes: only the clock is still known.
    pub(crate) fn forget_position(&mut self) {
        *self = Self { clock: self.clock, timed: self.timed, time_low: self.time_low, ..Self::START };
    }

    /// Takes a time word: `value` in microseconds, less than `period`.
    ///
    /// Half-range rule: a step back by half the period or more is a wrap. A step ahead of nearly the whole period is
    /// a small step back across the last wrap.
    #[inline]
    pub(crate) fn tick(&mut self, value: i64, period: i64, back: i64) {
        let now = (self.clock & -period) | value;
        self.clock = if !self.timed {
            value
        } else if now < self.clock && self.clock - now >= period / 2 {
            now + period
        } else if now >= period && now - self.clock >= period - back {
            now - period
        } else {
            now
        };
        self.timed = true;
    }
}

/// Pixels that events may have: the geometry, or the range of the encoding's coordinates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) width: u16,
    pub(crate) height: u16,
}

impl Limits {
    pub(crate) fn new(geometry: Option<Geometry>, range: u16) -> Self {
        let (width, height) = geometry.map_or((range, range), |geometry| (geometry.width(), geometry.height()));
        Self { width: width.min(range), height: height.min(range) }
    }

    #[inline(always)]
    pub(crate) fn contains(self, x: u16, y: u16) -> bool {
        (x < self.width) && (y < self.height)
    }

    /// The bits of a vector mask at `x` that are inside the width.
    #[inline(always)]
    pub(crate) fn clip(self, x: u16, mask: u32) -> u32 {
        match self.width.saturating_sub(x) {
            0 => 0,
            left @ 1..32 => mask & ((1 << left) - 1),
            _ => mask,
        }
    }
}

/// Where the scalar decoders put what they find.
pub(crate) trait Sink {
    /// Whether `events` more fit.
    fn fits(&self, events: u32) -> bool;
    /// One event inside the geometry.
    fn event(&mut self, x: u16, y: u16, t: i64, on: bool);
    /// One external trigger.
    fn trigger(&mut self, id: u8, rising: bool, t: i64);
    /// `count` events or triggers of the word at byte `at` that cannot be given.
    fn dropped(&mut self, code: ProblemCode, count: u32, at: usize);
}

/// Puts events into columns; nothing else.
pub(crate) struct Fill<'a, 'b, const COLS: u8>(pub(crate) &'a mut Slots<'b>);

impl<const COLS: u8> Sink for Fill<'_, '_, COLS> {
    #[inline(always)]
    fn fits(&self, events: u32) -> bool {
        self.0.room() >= events as usize
    }
    #[inline(always)]
    fn event(&mut self, x: u16, y: u16, t: i64, on: bool) {
        self.0.push::<COLS>(x, y, t, on);
    }
    #[inline(always)]
    fn trigger(&mut self, _: u8, _: bool, _: i64) {}
    #[inline(always)]
    fn dropped(&mut self, _: ProblemCode, _: u32, _: usize) {}
}

/// Puts external triggers into their columns; nothing else.
pub(crate) struct Triggers<'a>(pub(crate) &'a mut TriggerColumns);

impl Sink for Triggers<'_> {
    fn fits(&self, _: u32) -> bool {
        true
    }
    fn event(&mut self, _: u16, _: u16, _: i64, _: bool) {}
    fn trigger(&mut self, id: u8, rising: bool, t: i64) {
        self.0.push(id, rising, t);
    }
    fn dropped(&mut self, _: ProblemCode, _: u32, _: usize) {}
}

/// Counts of what a stretch of bytes holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) triggers: u64,
}

/// Counts events and triggers and reports what is dropped.
pub(crate) struct Count<'a> {
    pub(crate) counts: Counts,
    pub(crate) problems: &'a mut Problems,
    /// Byte offset in the file of the bytes that are walked.
    pub(crate) offset: u64,
    pub(crate) limits: Limits,
}

impl Sink for Count<'_> {
    #[inline(always)]
    fn fits(&self, _: u32) -> bool {
        true
    }
    #[inline(always)]
    fn event(&mut self, _: u16, _: u16, _: i64, _: bool) {
        self.counts.events += 1;
    }
    #[inline(always)]
    fn trigger(&mut self, _: u8, _: bool, _: i64) {
        self.counts.triggers += 1;
    }
    fn dropped(&mut self, code: ProblemCode, count: u32, at: usize) {
        let offset = self.offset + at as u64;
        let Limits { width, height } = self.limits;
        self.problems.add(code, count.into(), 0, offset, || match code {
            ProblemCode::OutOfBounds => format!("{count} outside {width}x{height} at byte {offset}"),
            _ => format!("{count} at byte {offset}"),
        });
    }
}

/// The time words of a stretch, seen without knowing what came before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeScan {
    /// Raw values of the first and the last time word.
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// Steps from the first time word to the last, the lowest and the highest, wraps undone.
    pub(crate) advance: i64,
    pub(crate) lowest: i64,
    pub(crate) highest: i64,
    /// Whether every time word is near the one before it.
    pub(crate) smooth: bool,
    /// Bytes before the first time word, and most bytes without any; for encodings with [`Encoding::SPANS`].
    pub(crate) first_at: usize,
    pub(crate) longest: usize,
}

impl TimeScan {
    pub(crate) fn new(first: u32) -> Self {
        Self { first, last: first, advance: 0, lowest: 0, highest: 0, smooth: true, first_at: 0, longest: 0 }
    }

    #[inline]
    pub(crate) fn push<E: Encoding>(&mut self, value: u32) {
        let ahead = forward::<E>(self.last, value);
        if ahead <= E::NEAR {
            self.advance += i64::from(ahead);
        } else {
            let back = forward::<E>(value, self.last);
            // A step back below zero is only right if there was a wrap before: not to be seen from here.
            self.smooth &= back <= E::NEAR && value < self.last;
            self.advance -= i64::from(back);
        }
        self.lowest = self.lowest.min(self.advance);
        self.highest = self.highest.max(self.advance);
        self.last = value;
    }
}

/// Steps of the time counter from `from` ahead to `to`.
#[inline(always)]
pub(crate) fn forward<E: Encoding>(from: u32, to: u32) -> u32 {
    to.wrapping_sub(from) & (u32::MAX >> (32 - E::TIME_BITS))
}

/// Whether a healthy stream can have the time word `to` after `from`.
#[inline(always)]
pub(crate) fn near<E: Encoding>(from: u32, to: u32) -> bool {
    forward::<E>(from, to) <= E::NEAR || forward::<E>(to, from) <= E::NEAR
}

/// One Prophesee encoding: words of fixed size, some of which carry time.
pub(crate) trait Encoding: Clone + Send + Sync + 'static {
    /// Short name.
    const NAME: &'static str;
    /// Bits of a time word's value.
    const TIME_BITS: u32;
    /// log2 of the microseconds in a step of it.
    const TIME_SHIFT: u32;
    /// Microseconds after which time wraps.
    const PERIOD: i64 = 1 << (Self::TIME_BITS + Self::TIME_SHIFT);
    /// Steps ahead or back between time words that need no second look: half a second.
    const NEAR: u32 = (1 << 19) >> Self::TIME_SHIFT;
    /// Microseconds that an event can be later than the time word before it.
    const WITHIN: i64 = (1 << Self::TIME_SHIFT) - 1;

    /// Most events that a byte can hold, rounded up.
    const EVENTS_PER_BYTE: u64 = 1;
    /// Whether no word has more than one event, and most have one.
    const EVENT_A_WORD: bool = false;
    /// Time words in a row that a search for the place to go on asks for.
    const RUN: usize = 4;
    /// Whether reading out of step can show no time words at all, so that spans without any have to be watched.
    const SPANS: bool = false;
    /// Whether a decoder that knows the time can start at any word, so that a file can be bisected.
    const SEEKABLE: bool = false;

    /// Bytes of a word.
    fn word_bytes(&self) -> usize;

    /// Pixels that events may have.
    fn limits(&self) -> Limits;

    /// The word at the start of `bytes`, at least `word_bytes` long.
    fn load(&self, bytes: &[u8]) -> u64;

    /// Its value if it is a time word, in steps of the time counter.
    fn time(&self, word: u64) -> Option<u32>;

    /// Whether the encoding does not have this word. What lies outside the geometry it does have: a wrong geometry, a
    /// stray pixel or a second camera are no damage.
    fn is_foreign(&self, word: u64) -> bool;

    /// Whether a word with a time is outside the geometry, which speaks of damage where times go back too. Only for
    /// encodings whose words all have a time, so that hardly one is foreign when they are read out of step.
    fn is_outside(&self, _word: u64) -> bool {
        false
    }

    /// Whether hardly any recording has this word, which speaks against guessing the encoding.
    fn is_rare(&self, _word: u64) -> bool {
        false
    }

    /// Bytes from this word to the next one that has a type.
    fn stride(&self, _word: u64) -> usize {
        self.word_bytes()
    }

    /// The next position at or after `at` where the stream can be cut, `bytes` starting at such a position.
    fn cut(&self, bytes: &[u8], at: usize) -> usize {
        at.next_multiple_of(self.word_bytes()).min(bytes.len())
    }

    /// The end of the last complete word of `from..to`, both of which are multiples of a word apart.
    fn complete(&self, _bytes: &[u8], _from: usize, to: usize) -> usize {
        to
    }

    /// Decodes word by word: the definition of the encoding. Stops before the first word whose events do not fit and
    /// before a partial word; returns the bytes consumed.
    fn walk<S: Sink>(&self, state: &mut State, bytes: &[u8], sink: &mut S) -> usize;

    /// The time words of `bytes`; `None` if there is none.
    fn scan_times(&self, bytes: &[u8]) -> Option<TimeScan> {
        let mut scan: Option<TimeScan> = None;
        let mut span = 0;
        for (at, word) in Words::new(self, bytes, 0) {
            if let Some(value) = self.time(word) {
                let scan = match &mut scan {
                    Some(scan) => {
                        scan.push::<Self>(value);
                        scan
                    }
                    None => scan.insert(TimeScan { first_at: at, ..TimeScan::new(value) }),
                };
                scan.longest = scan.longest.max(at - span);
                span = at + self.stride(word);
            }
        }
        if let Some(scan) = &mut scan {
            scan.longest = scan.longest.max(bytes.len().saturating_sub(span));
        }
        scan
    }

    /// The words that bring a decoder into this state, whose clock is known, before an event at `first_us`; `None` if
    /// none can.
    fn lead(&self, state: &State, first_us: i64) -> Option<Vec<u8>>;

    /// What the end of a stretch says of the state after it, without knowing the state before it.
    type Tail: Copy + Send;

    /// The tail of a stretch.
    fn tail(&self, bytes: &[u8]) -> Self::Tail;

    /// Brings what is not time in `state` to the end of a stretch with this tail.
    fn skim(&self, _state: &mut State, _tail: Self::Tail) {}

    /// Counts events and triggers; reports what decoding will drop.
    fn count(&self, state: &State, bytes: &[u8], offset: u64, problems: &mut Problems) -> Counts {
        self.count_by_walking(&mut state.clone(), bytes, offset, problems)
    }

    /// [`Encoding::count`] by the definition.
    fn count_by_walking(&self, state: &mut State, bytes: &[u8], offset: u64, problems: &mut Problems) -> Counts {
        let mut sink = Count { counts: Counts::default(), problems, offset, limits: self.limits() };
        self.walk(state, bytes, &mut sink);
        sink.counts
    }

    /// Decodes the columns `COLS` into `out`, like [`Encoding::walk`].
    fn fill<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        self.walk(state, bytes, &mut Fill::<COLS>(out))
    }
}

/// Calls `fill` with the columns as a constant.
pub(crate) fn fill_columns<E: Encoding>(encoding: &E, columns: Columns, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
    macro_rules! instances {
        ($($bits:literal)*) => {
            match columns.bits() {
                $($bits => encoding.fill::<$bits>(state, bytes, out),)*
                _ => unreachable!("a set of four columns"),
            }
        };
    }
    instances!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

/// The typed words of a stretch with their positions.
pub(crate) struct Words<'a, E> {
    encoding: &'a E,
    bytes: &'a [u8],
    at: usize,
}

impl<'a, E: Encoding> Words<'a, E> {
    pub(crate) fn new(encoding: &'a E, bytes: &'a [u8], at: usize) -> Self {
        Self { encoding, bytes, at }
    }
}

impl<E: Encoding> Iterator for Words<'_, E> {
    type Item = (usize, u64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let word = self.bytes.get(at..at + self.encoding.word_bytes())?;
        let word = self.encoding.load(word);
        self.at = at + self.encoding.stride(word);
        Some((at, word))
    }
}

/// The little-endian word at the start of `bytes`; bytes that are missing count as zero.
#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8]) -> u16 {
    bytes.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

/// As [`u16_at`].
#[inline(always)]
pub(crate) fn u32_at(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// As [`u16_at`].
#[inline(always)]
pub(crate) fn u64_at(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The kernels of an encoding that are plain loops, for [`simd::run`].
pub(crate) trait Loops: Encoding {
    /// [`Encoding::fill`].
    #[inline(always)]
    fn fill_loop<const COLS: u8>(&self, state: &mut State, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        self.walk(state, bytes, &mut Fill::<COLS>(out))
    }
    /// [`Encoding::count`] where nothing is dropped; `None` where something may be.
    #[inline(always)]
    fn count_loop(&self, _bytes: &[u8]) -> Option<Counts> {
        None
    }
    /// [`Encoding::scan_times`].
    fn scan_loop(&self, bytes: &[u8]) -> Option<TimeScan>;
}

/// [`Loops::fill_loop`] as a kernel.
pub(crate) struct FillLoop<'a, 'b, E, const COLS: u8>(
    pub(crate) &'a E,
    pub(crate) &'a mut State,
    pub(crate) &'a [u8],
    pub(crate) &'a mut Slots<'b>,
);

impl<E: Loops, const COLS: u8> simd::Kernel for FillLoop<'_, '_, E, COLS> {
    type Output = usize;
    #[inline(always)]
    fn run(self) -> usize {
        self.0.fill_loop::<COLS>(self.1, self.2, self.3)
    }
}

/// [`Loops::count_loop`] as a kernel.
pub(crate) struct CountLoop<'a, E>(pub(crate) &'a E, pub(crate) &'a [u8]);

impl<E: Loops> simd::Kernel for CountLoop<'_, E> {
    type Output = Option<Counts>;
    #[inline(always)]
    fn run(self) -> Option<Counts> {
        self.0.count_loop(self.1)
    }
}

/// [`Loops::scan_loop`] as a kernel.
pub(crate) struct ScanLoop<'a, E>(pub(crate) &'a E, pub(crate) &'a [u8]);

impl<E: Loops> simd::Kernel for ScanLoop<'_, E> {
    type Output = Option<TimeScan>;
    #[inline(always)]
    fn run(self) -> Option<TimeScan> {
        self.0.scan_loop(self.1)
    }
}
