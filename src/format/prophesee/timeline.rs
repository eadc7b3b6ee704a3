//! Cuts a Prophesee stream into segments with known entry state, and decides which time words to trust.
//!
//! A healthy stream's time words follow each other closely. One that does not is compared with the time words after
//! it: a gap or a restarted clock goes on from the new time, a damaged word is contradicted by the next ones. Where
//! in addition words are foreign to the encoding, bytes have been lost or inserted: decoding stops and goes on
//! at the first byte from which time words follow each other again, whatever its alignment. What is skipped is
//! reported. All this depends on the bytes alone and not on how they are split.

use rayon::prelude::*;

use super::word::{Encoding, State, TimeScan, Words, forward, near};
use crate::problem::{ProblemCode, Problems};
use crate::scan::{Planner, Segment};

/// Bytes looked ahead (and back) to judge a time word; the bound on what a planner holds back.
pub(crate) const LOOK: usize = 1 << 20;
/// Time words that decide.
const WITNESSES: usize = 4;
/// Bytes of a segment.
const SEGMENT: usize = 256 << 10;
/// Most segments that are looked at together.
const GROUP: usize = 64;
/// Bytes of the first segment after a damaged place.
const FIRST_SEGMENT: usize = 4 << 10;
/// Words without time words that are looked at together.
const PIECE: usize = 64;
/// Foreign words that make damage likely, where they are also at least an eighth of all: in noise one EVT3 word in five
/// is, in a healthy stream none.
const FOREIGN: usize = 8;

pub(crate) struct Timeline<E> {
    encoding: E,
    state: State,
    /// File offset of the words after the last time word.
    span: u64,
    /// The words of the span, for encodings with [`Encoding::SPANS`].
    watch: Watch,
    /// File offset from which bytes are being skipped.
    lost_from: Option<u64>,
    /// File offset of the time word at which a search ended: it needs no other word's support.
    trusted: Option<u64>,
    /// Bytes of the next segment.
    segment: usize,
    /// Segments to look at together; few after a damaged place, so that many of them cost no more than their bytes.
    group: usize,
}

/// What to do about a time word that is not near the one before it.
enum Verdict {
    Trust,
    /// Leave this word out.
    SkipWord,
    /// Leave everything out up to this position.
    SkipTo(usize),
    /// Stop at this position and search.
    Lose(usize),
    /// More bytes are needed to tell.
    Wait,
}

enum Search {
    Found(usize),
    /// Not before this position; more bytes are needed to tell about it.
    Wait(usize),
    Nowhere,
}

/// The bytes of one call to `plan`.
#[derive(Clone, Copy)]
struct Window<'a> {
    bytes: &'a [u8],
    offset: u64,
    last: bool,
}

impl Window<'_> {
    /// The position of a file offset, as far as the window reaches.
    fn position(&self, offset: u64) -> usize {
        usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(self.bytes.len())
    }

    /// Whether all words of `word` bytes that start in the [`LOOK`] bytes from `at` on are there.
    fn reaches(&self, at: usize, word: usize) -> bool {
        self.last || self.bytes.len() - at >= LOOK + word
    }
}

impl<E: Encoding> Timeline<E> {
    pub(crate) fn new(encoding: E, state: State) -> Self {
        Self { encoding, state, span: 0, watch: Watch::default(), lost_from: None, trusted: None, segment: SEGMENT, group: GROUP }
    }

    /// What the words that have been planned say of those after them.
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// The value of the last time word before `state`.
    fn current(state: &State) -> Option<u32> {
        state.timed.then_some((state.clock >> E::TIME_SHIFT) as u32 & (u32::MAX >> (32 - E::TIME_BITS)))
    }

    fn tick(state: &mut State, value: u32) {
        state.tick(i64::from(value) << E::TIME_SHIFT, E::PERIOD, i64::from(E::NEAR) << E::TIME_SHIFT);
    }

    /// Whether the words from `from` to `to` are too foreign for a healthy stream; the position of the first.
    fn damage(&self, bytes: &[u8], from: usize, to: usize) -> Option<usize> {
        let (mut first, mut foreign, mut words) = (None, 0, 0);
        for (at, word) in Words::new(&self.encoding, bytes, from).take_while(|(at, _)| *at < to) {
            if self.encoding.is_foreign(word) {
                first.get_or_insert(at);
                foreign += 1;
            }
            words += usize::from(first.is_some());
        }
        first.filter(|_| foreign >= FOREIGN && 8 * foreign >= words)
    }

    /// Starts a span at this file offset.
    fn start_span(&mut self, offset: u64) {
        self.span = offset;
        if E::SPANS {
            self.watch = Watch::default();
        }
    }

    /// Judges the time word `value` at `at`, which is not near `current`.
    fn judge(&self, window: Window<'_>, at: usize, value: u32, current: Option<u32>) -> Verdict {
        let bytes = window.bytes;
        let limit = bytes.len().min(at + LOOK);
        let mut path = vec![value];
        let mut places = vec![at];
        for (place, word) in Words::new(&self.encoding, bytes, at).skip(1).take_while(|(place, _)| *place < limit) {
            if let Some(value) = self.encoding.time(word) {
                path.push(value);
                places.push(place);
                if path.len() > WITNESSES {
                    break;
                }
            }
        }
        if path.len() <= WITNESSES && !window.reaches(at, self.encoding.word_bytes()) {
            return Verdict::Wait;
        }
        let end = if path.len() > WITNESSES { places.last().copied().unwrap_or(limit) } else { limit };
        let span = window.position(self.span).min(at);
        let back = if at - span > LOOK { span + self.encoding.cut(bytes.get(span..).unwrap_or_default(), at - LOOK - span) } else { span };
        if let Some(first) = self.damage(bytes, back, end) {
            return Verdict::Lose(first.min(at));
        }
        // The time words should go ahead. Leaving out one that was damaged makes a step back disappear; leaving out
        // the first after a gap or a restart of the clock does not.
        let times_back = |skip: usize| {
            let times: Vec<_> = current.into_iter().chain(path.iter().skip(skip).copied()).collect();
            times.windows(2).filter(|pair| steps_back::<E>(pair[0], pair[1])).count()
        };
        // Before the first time word there is nothing to compare with: only a run that goes on behind it speaks
        // against it.
        let run = path.len() > 2 && path.windows(2).skip(1).all(|pair| near::<E>(pair[0], pair[1]));
        let skips = if current.is_some() { 1..=2 } else { 1..=usize::from(run) };
        for skip in skips {
            if path.len() >= 2 * skip && times_back(skip) < times_back(0) {
                return match (places.get(skip), path.get(skip)) {
                    (Some(_), Some(next)) if skip == 1 && Some(*next) == current => Verdict::SkipWord,
                    (Some(place), _) => Verdict::SkipTo(*place),
                    _ => Verdict::Trust,
                };
            }
        }
        // A jump among foreign words needs a run of time words that follow it.
        let back_again = path.windows(2).any(|pair| steps_back::<E>(pair[0], pair[1]));
        let first = Words::new(&self.encoding, bytes, back)
            .take_while(|(place, _)| *place < end)
            .find(|(_, word)| self.encoding.is_foreign(*word) || back_again && self.encoding.is_outside(*word));
        match first {
            Some((first, _)) if path.len() > WITNESSES && !path.windows(2).all(|pair| follows::<E>(pair[0], pair[1])) => {
                Verdict::Lose(first.min(at))
            }
            _ => Verdict::Trust,
        }
    }

    /// Whether time words follow each other from `at` on; `None` if more bytes are needed to tell.
    fn holds(&self, window: Window<'_>, at: usize) -> Option<bool> {
        let bytes = window.bytes;
        let Some(mut last) = bytes.get(at..at + self.encoding.word_bytes()).and_then(|word| self.encoding.time(self.encoding.load(word)))
        else {
            return Some(false);
        };
        let limit = bytes.len().min(at + LOOK);
        let (mut witnesses, mut foreign, mut words, mut foreign_before) = (0, 0, 0, 0);
        let (mut gaps, mut starts_with_gap) = (0, false);
        for (position, word) in Words::new(&self.encoding, bytes, at).skip(1).take_while(|(position, _)| *position < limit) {
            debug_assert!(position > at, "words follow each other");
            words += 1;
            foreign += usize::from(self.encoding.is_foreign(word));
            if let Some(value) = self.encoding.time(word) {
                let clean = foreign == foreign_before && forward::<E>(last, value) < 1 << (E::TIME_BITS - 4);
                if !follows::<E>(last, value) {
                    if !clean {
                        return Some(false);
                    }
                    gaps += 1;
                    starts_with_gap |= witnesses == 0;
                }
                (last, foreign_before) = (value, foreign);
                witnesses += 1;
            }
            if foreign >= FOREIGN && 8 * foreign > words {
                return Some(false);
            }
            if witnesses == E::RUN {
                // A word that only looks like a time word, before a run that needs none.
                return Some(!(starts_with_gap && gaps == 1));
            }
        }
        window.reaches(at, self.encoding.word_bytes()).then_some(witnesses > 0)
    }

    /// The first position from `from` on at which decoding can go on.
    fn search(&self, window: Window<'_>, from: usize) -> Search {
        let end = window.bytes.len().saturating_sub(self.encoding.word_bytes() - 1);
        for at in from..end {
            match self.holds(window, at) {
                Some(true) => return Search::Found(at),
                Some(false) => {}
                None => return Search::Wait(at),
            }
        }
        if window.last { Search::Nowhere } else { Search::Wait(end.max(from)) }
    }

    /// Closes a segment whose words end with the clock at `exit`, and goes on there.
    fn close(&mut self, window: Window<'_>, bytes: (usize, usize), exit: State, times: (i64, i64), plan: &mut Vec<Segment<State>>) {
        let slice = window.bytes.get(bytes.0..bytes.1).unwrap_or_default();
        self.close_with(window, bytes, self.encoding.tail(slice), exit, times, plan);
    }

    /// [`Timeline::close`] where the tail of the segment is known.
    fn close_with(
        &mut self,
        window: Window<'_>,
        bytes: (usize, usize),
        tail: E::Tail,
        exit: State,
        times: (i64, i64),
        plan: &mut Vec<Segment<State>>,
    ) {
        let Some(len) = bytes.1.checked_sub(bytes.0).filter(|len| *len > 0) else { return };
        plan.push(Segment {
            offset: window.offset + bytes.0 as u64,
            len: len as u64,
            state: self.state,
            events: 0,
            triggers: 0,
            first_us: times.0,
            last_us: times.1.saturating_add(E::WITHIN),
        });
        self.encoding.skim(&mut self.state, tail);
        (self.state.clock, self.state.timed) = (exit.clock, exit.timed);
    }

    /// Closes a segment in which all time words are near each other.
    fn close_smooth(
        &mut self,
        window: Window<'_>,
        bytes: (usize, usize),
        (scan, tail): (Option<TimeScan>, E::Tail),
        plan: &mut Vec<Segment<State>>,
    ) {
        let mut exit = self.state;
        let mut times = (exit.clock, exit.clock);
        if let Some(scan) = scan {
            Self::tick(&mut exit, scan.first);
            let at = |steps: i64| exit.clock + (steps << E::TIME_SHIFT);
            times = (at(scan.lowest), at(scan.highest));
            if self.state.timed {
                times = (times.0.min(self.state.clock), times.1.max(self.state.clock));
            }
            exit.clock = at(scan.advance);
        }
        self.close_with(window, bytes, tail, exit, times, plan);
    }

    /// Goes through one stretch word by word, judging every time word that is not near the one before it. Returns
    /// where to go on, or where to wait.
    fn step(
        &mut self,
        window: Window<'_>,
        from: usize,
        to: usize,
        plan: &mut Vec<Segment<State>>,
        problems: &mut Problems,
    ) -> Result<usize, usize> {
        let mut open = from;
        let mut exit = self.state;
        let mut times = if exit.timed { (exit.clock, exit.clock) } else { (i64::MAX, i64::MIN) };
        let mut at = from;
        while at < to {
            let Some((_, word)) = Words::new(&self.encoding, window.bytes, at).next() else { break };
            let next = at + self.encoding.stride(word);
            if let Some(value) = self.encoding.time(word) {
                let current = Self::current(&exit);
                if self.trusted != Some(window.offset + at as u64) && !current.is_some_and(|current| near::<E>(current, value)) {
                    let resume = match self.judge(window, at, value, current) {
                        Verdict::Trust => None,
                        Verdict::SkipWord => Some(next),
                        Verdict::SkipTo(position) => Some(position),
                        Verdict::Lose(position) => {
                            self.close_before(window, (open, position), exit, times, plan);
                            self.lost_from = Some(window.offset + position as u64);
                            return Ok(position);
                        }
                        Verdict::Wait => {
                            let position = self.hold_back(window.bytes, window.position(self.span).min(at), at);
                            self.close_before(window, (open, position), exit, times, plan);
                            return Err(position);
                        }
                    };
                    if let Some(resume) = resume {
                        self.close(window, (open, at), exit, order(times), plan);
                        if resume > next {
                            self.state.forget_position();
                        }
                        self.report(window.offset + at as u64, (resume - at) as u64, problems);
                        times = (exit.clock, exit.clock);
                        (open, at) = (resume, resume);
                        self.start_span(window.offset + resume as u64);
                        if resume > to {
                            return Ok(resume);
                        }
                        continue;
                    }
                }
                Self::tick(&mut exit, value);
                times = (times.0.min(exit.clock), times.1.max(exit.clock));
                self.start_span(window.offset + next as u64);
            } else if E::SPANS
                && let Some(first) = self.watch.push(window.offset + at as u64, self.encoding.is_foreign(word))
            {
                let position = window.position(first);
                self.close_before(window, (open, position), exit, times, plan);
                self.lost_from = Some(first);
                return Ok(position);
            }
            at = next;
        }
        let end = at.min(window.bytes.len());
        self.close(window, (open, end), exit, order(times), plan);
        Ok(end)
    }

    /// Closes the segment that is open since `bytes.0` at `bytes.1`, even if that lies before it; no time word stands
    /// between there and where `exit` is.
    fn close_before(&mut self, window: Window<'_>, bytes: (usize, usize), exit: State, times: (i64, i64), plan: &mut Vec<Segment<State>>) {
        self.close(window, (bytes.0, bytes.1.max(bytes.0)), exit, order(times), plan);
        self.rewind(window, bytes.1, exit, plan);
    }

    /// Takes back what was planned from `position` on; no time word stands between there and where `exit` is.
    fn rewind(&mut self, window: Window<'_>, position: usize, exit: State, plan: &mut Vec<Segment<State>>) {
        let offset = window.offset + position as u64;
        self.watch.rewind();
        while let Some(segment) = plan.pop_if(|segment| segment.offset + segment.len > offset) {
            self.state = segment.state;
            if segment.offset < offset {
                let start = (segment.offset - window.offset) as usize;
                let tail = self.encoding.tail(window.bytes.get(start..position).unwrap_or_default());
                self.encoding.skim(&mut self.state, tail);
                plan.push(Segment { len: offset - segment.offset, ..segment });
            }
            (self.state.clock, self.state.timed) = (exit.clock, exit.timed);
        }
    }

    fn report(&self, offset: u64, bytes: u64, problems: &mut Problems) {
        let words = bytes.div_ceil(self.encoding.word_bytes() as u64);
        problems.add(ProblemCode::LostSync, words, bytes, offset, || {
            format!("{bytes} bytes ({words} words) skipped at byte {offset}: time words out of step")
        });
    }

    /// Where the bytes at the end stop being sure: foreign words after the last time word may prove to be damage.
    fn hold_back(&self, bytes: &[u8], from: usize, to: usize) -> usize {
        let mut first = None;
        for (at, word) in Words::new(&self.encoding, bytes, from).take_while(|(at, _)| *at < to) {
            if self.encoding.time(word).is_some() {
                first = None;
            } else if self.encoding.is_foreign(word) && to - at <= LOOK {
                first.get_or_insert(at);
            }
        }
        first.unwrap_or(to)
    }
}

/// Whether time goes back from `from` to `to` by more than a healthy stream does.
fn steps_back<E: Encoding>(from: u32, to: u32) -> bool {
    forward::<E>(from, to) >> (E::TIME_BITS - 1) == 1 && !near::<E>(from, to)
}

/// Whether `to` follows `from` as in a sensor's stream, which repeats its time words every few microseconds.
fn follows<E: Encoding>(from: u32, to: u32) -> bool {
    forward::<E>(from, to) <= E::NEAR / 8 || forward::<E>(to, from) <= E::NEAR / 8
}

/// Watches a span without time words, piece by piece: a piece starts at a foreign word, and is damage if one word of
/// eight is foreign. Only for encodings that show no time words at all when they are read out of step.
///
/// Where pieces start follows from the words alone. Complete ones are final; where planning goes back or waits for more
/// bytes, the open one is given up, and starts again at its first word: a window never starts behind that.
#[derive(Debug, Default)]
struct Watch {
    /// File offset before which all pieces are complete.
    from: u64,
    /// File offset of the first word of the open piece; words so far (0 for no open piece), and the foreign of them.
    first: u64,
    words: usize,
    foreign: usize,
}

impl Watch {
    /// Takes the word at file offset `at`; gives the first word of the piece that it completes, if that is damage.
    fn push(&mut self, at: u64, foreign: bool) -> Option<u64> {
        if at < self.from || self.words == 0 && !foreign {
            return None;
        }
        if self.words == 0 {
            self.first = at;
        }
        self.words += 1;
        self.foreign += usize::from(foreign);
        if self.words < PIECE {
            return None;
        }
        let damage = 8 * self.foreign >= self.words;
        self.from = at + 1;
        self.rewind();
        damage.then_some(self.first)
    }

    /// The first word of the open piece.
    fn open(&self) -> Option<u64> {
        (self.words > 0).then_some(self.first)
    }

    /// Gives up the open piece.
    fn rewind(&mut self) {
        (self.words, self.foreign) = (0, 0);
    }
}

/// Times of a stretch without time words are those of its entry.
fn order((first, last): (i64, i64)) -> (i64, i64) {
    if first <= last { (first, last) } else { (0, 0) }
}

impl<E: Encoding> Planner for Timeline<E> {
    type State = State;

    fn plan(&mut self, bytes: &[u8], offset: u64, last: bool, plan: &mut Vec<Segment<State>>, problems: &mut Problems) -> usize {
        let window = Window { bytes, offset, last };
        let mut at = 0;
        // Where the bytes stop being sure, for each alignment of words.
        let mut ends = vec![None; self.encoding.word_bytes()];
        loop {
            if let Some(lost_from) = self.lost_from {
                match self.search(window, at) {
                    Search::Found(position) => {
                        let lost = offset + position as u64 - lost_from;
                        self.report(lost_from, lost, problems);
                        self.lost_from = None;
                        if lost > 0 {
                            self.state.forget_position();
                        }
                        (at, self.segment, self.group) = (position, FIRST_SEGMENT, 1);
                        self.start_span(offset + position as u64);
                        self.trusted = Some(offset + position as u64);
                    }
                    Search::Wait(position) => return position,
                    Search::Nowhere => {
                        self.report(lost_from, offset + bytes.len() as u64 - lost_from, problems);
                        self.lost_from = None;
                        return bytes.len();
                    }
                }
            }
            let word = self.encoding.word_bytes();
            let whole = self.encoding.complete(bytes, at, at + (bytes.len() - at) / word * word);
            let alignment = at % word;
            let end = match ends.get(alignment).copied().flatten() {
                _ if last => whole,
                // Found for an earlier position: holding back more than need be changes nothing.
                Some(end) => end,
                None => {
                    let end = self.hold_back(bytes, self.last_time(bytes, at, whole).unwrap_or(at), whole);
                    if let Some(known) = ends.get_mut(alignment) {
                        *known = Some(end);
                    }
                    end
                }
            };
            if at >= end {
                if last && whole < bytes.len() {
                    let (rest, place) = ((bytes.len() - whole) as u64, offset + whole as u64);
                    problems.add(ProblemCode::Truncated, 1, rest, place, || format!("{rest} bytes of an unfinished word at byte {place}"));
                    return bytes.len();
                }
                if let Some(first) = self.watch.open().filter(|_| !last) {
                    at = window.position(first);
                    self.rewind(window, at, self.state, plan);
                }
                return at;
            }
            let cuts = self.cuts(bytes, at, end);
            let stretches: Vec<_> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
            let look = |&(from, to): &(usize, usize)| {
                let stretch = bytes.get(from..to).unwrap_or_default();
                (self.encoding.scan_times(stretch), self.encoding.tail(stretch))
            };
            // Threads outside a pool, which take turns to plan, do all of their work themselves.
            let scans: Vec<_> = match rayon::current_thread_index() {
                Some(_) => stretches.par_iter().map(look).collect(),
                None => stretches.iter().map(look).collect(),
            };
            for ((from, to), (scan, tail)) in stretches.into_iter().zip(scans) {
                let near_first =
                    scan.is_none_or(|scan| scan.smooth && Self::current(&self.state).is_some_and(|current| near::<E>(current, scan.first)));
                if near_first && !self.may_complete_piece(window, (from, to), scan) {
                    self.close_smooth(window, (from, to), (scan, tail), plan);
                    if scan.is_some() {
                        let last = self.last_time(bytes, from, to).map_or(from, |at| at + word);
                        self.start_span(offset + last as u64);
                    }
                    self.watch_rest(window, (from, to));
                    at = to;
                    continue;
                }
                match self.step(window, from, to, plan, problems) {
                    Ok(position) => at = position,
                    Err(position) => return position,
                }
                if self.lost_from.is_some() || at != to {
                    (self.segment, self.group) = (FIRST_SEGMENT, 1);
                    break;
                }
            }
            self.group = (2 * self.group).min(GROUP);
        }
    }
}

impl<E: Encoding> Timeline<E> {
    /// The last time word of a stretch.
    fn last_time(&self, bytes: &[u8], from: usize, to: usize) -> Option<usize> {
        let word = self.encoding.word_bytes();
        let mut at = from + (to - from) / word * word;
        while at > from {
            at -= word;
            let is_time = bytes.get(at..at + word).is_some_and(|bytes| self.encoding.time(self.encoding.load(bytes)).is_some());
            if is_time && self.encoding.cut(bytes.get(from..).unwrap_or_default(), at - from) == at - from {
                return Some(at);
            }
        }
        None
    }

    /// Whether a stretch can complete a piece of a span.
    fn may_complete_piece(&self, window: Window<'_>, stretch: (usize, usize), scan: Option<TimeScan>) -> bool {
        if !E::SPANS {
            return false;
        }
        let piece = PIECE * self.encoding.word_bytes();
        let first = stretch.0 + scan.map_or(stretch.1 - stretch.0, |scan| scan.first_at);
        scan.is_some_and(|scan| scan.longest >= piece) || window.offset + first as u64 >= self.span + piece as u64
    }

    /// Watches the words of a stretch after its last time word, too few for a piece.
    fn watch_rest(&mut self, window: Window<'_>, stretch: (usize, usize)) {
        if !E::SPANS {
            return;
        }
        let from = window.position(self.span).max(stretch.0);
        for (at, word) in Words::new(&self.encoding, window.bytes, from).take_while(|(at, _)| *at < stretch.1) {
            let damage = self.watch.push(window.offset + at as u64, self.encoding.is_foreign(word));
            debug_assert!(damage.is_none(), "a span shorter than a piece completes none");
        }
    }

    /// Positions that cut `at..end` into stretches.
    fn cuts(&mut self, bytes: &[u8], at: usize, end: usize) -> Vec<usize> {
        let mut cuts = vec![at];
        let mut from = at;
        while from < end && cuts.len() <= self.group {
            let rest = bytes.get(from..end).unwrap_or_default();
            from += if rest.len() <= self.segment { rest.len() } else { self.encoding.cut(rest, self.segment) };
            self.segment = (2 * self.segment).min(SEGMENT);
            cuts.push(from);
        }
        cuts
    }
}
