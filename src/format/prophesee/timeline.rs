//! Cuts a Prophesee stream into segments with known entry state, and decides which time words to trust.
//!
//! A healthy stream's time words follow each other closely. One that does not is compared with the time words after
//! it: a gap or a restarted clock goes on from the new time, a damaged word is contradicted by the next ones. Where
//! in addition words are foreign to the encoding, bytes have been lost or inserted: decoding stops and goes on
//! at the first byte from which time words follow each other again, whatever its alignment. What is skipped is
//! reported. All this depends on the bytes alone and not on how they are split; known exception: in damaged EVT2.1
//! streams the ends of what is skipped can still differ.

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
/// Words of a span without time words that are looked at together.
const PIECE: usize = 64;
/// Foreign words that make damage likely, where they are also at least a quarter of all.
const FOREIGN: usize = 8;

pub(crate) struct Timeline<E> {
    encoding: E,
    state: State,
    /// File offset of the words after the last time word.
    span: u64,
    /// File offset from which bytes are being skipped.
    lost_from: Option<u64>,
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

impl<E: Encoding> Timeline<E> {
    pub(crate) fn new(encoding: E, state: State) -> Self {
        Self { encoding, state, span: 0, lost_from: None, segment: SEGMENT, group: GROUP }
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
        first.filter(|_| foreign >= FOREIGN && 4 * foreign >= words)
    }

    /// Where in the window the words after the last time word start, as far as they are in it.
    fn span(&self, window: Window<'_>) -> usize {
        usize::try_from(self.span.saturating_sub(window.offset)).unwrap_or(usize::MAX).min(window.bytes.len())
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
        if path.len() <= WITNESSES && !window.last && bytes.len() - at < LOOK {
            return Verdict::Wait;
        }
        let end = if path.len() > WITNESSES { places.last().copied().unwrap_or(limit) } else { limit };
        let span = self.span(window).min(at);
        let back = if at - span > LOOK { span + self.encoding.cut(bytes.get(span..).unwrap_or_default(), at - LOOK - span) } else { span };
        if let Some(first) = self.damage(bytes, back, end) {
            return Verdict::Lose(first.min(at));
        }
        // The time words should go ahead. Leaving out one that was damaged makes a step back disappear; leaving out
        // the first after a gap or a restart of the clock does not.
        let steps_back = |skip: usize| {
            let times: Vec<_> = current.into_iter().chain(path.iter().skip(skip).copied()).collect();
            times.windows(2).filter(|pair| steps_back::<E>(pair[0], pair[1])).count()
        };
        // Before the first time word there is nothing to compare with: only a run that goes on behind it speaks
        // against it.
        let run = path.len() > 2 && path.windows(2).skip(1).all(|pair| near::<E>(pair[0], pair[1]));
        let skips = if current.is_some() { 1..=2 } else { 1..=usize::from(run) };
        for skip in skips {
            if path.len() >= 2 * skip && steps_back(skip) < steps_back(0) {
                return match (places.get(skip), path.get(skip)) {
                    (Some(_), Some(next)) if skip == 1 && Some(*next) == current => Verdict::SkipWord,
                    (Some(place), _) => Verdict::SkipTo(*place),
                    _ => Verdict::Trust,
                };
            }
        }
        // A jump among foreign words needs a run of time words that follow it.
        let first =
            Words::new(&self.encoding, bytes, back).take_while(|(place, _)| *place < end).find(|(_, word)| self.encoding.is_foreign(*word));
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
        for (position, word) in Words::new(&self.encoding, bytes, at).skip(1).take_while(|(position, _)| *position < limit) {
            debug_assert!(position > at, "words follow each other");
            words += 1;
            foreign += usize::from(self.encoding.is_foreign(word));
            if let Some(value) = self.encoding.time(word) {
                let clean = foreign == foreign_before && forward::<E>(last, value) < 1 << (E::TIME_BITS - 4);
                if !follows::<E>(last, value) && !clean {
                    return Some(false);
                }
                (last, foreign_before) = (value, foreign);
                witnesses += 1;
            }
            if foreign >= FOREIGN && 8 * foreign > words {
                return Some(false);
            }
            if witnesses == E::RUN {
                return Some(true);
            }
        }
        if !window.last && bytes.len() - at < LOOK {
            return None;
        }
        Some(witnesses > 0)
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
        trusted: Option<usize>,
        plan: &mut Vec<Segment<State>>,
        problems: &mut Problems,
    ) -> Result<usize, usize> {
        let mut open = from;
        let mut barren = Barren::new(self, window, from);
        let mut exit = self.state;
        let mut times = if exit.timed { (exit.clock, exit.clock) } else { (i64::MAX, i64::MIN) };
        let mut at = from;
        while at < to {
            let Some((_, word)) = Words::new(&self.encoding, window.bytes, at).next() else { break };
            let next = at + self.encoding.stride(word);
            if let Some(position) = barren.ends(at) {
                self.close(window, (open, position.max(open)), exit, order(times), plan);
                self.rewind(window, position, exit, plan);
                self.lost_from = Some(window.offset + position as u64);
                return Ok(position);
            }
            if let Some(value) = self.encoding.time(word) {
                let current = Self::current(&exit);
                if trusted != Some(at) && !current.is_some_and(|current| near::<E>(current, value)) {
                    let resume = match self.judge(window, at, value, current) {
                        Verdict::Trust => None,
                        Verdict::SkipWord => Some(next),
                        Verdict::SkipTo(position) => Some(position),
                        Verdict::Lose(position) => {
                            self.close(window, (open, position.max(open)), exit, order(times), plan);
                            self.rewind(window, position, exit, plan);
                            self.lost_from = Some(window.offset + position as u64);
                            return Ok(position);
                        }
                        Verdict::Wait => {
                            let position = self.hold_back(window.bytes, self.span(window).min(at), at);
                            self.close(window, (open, position.max(open)), exit, order(times), plan);
                            self.rewind(window, position, exit, plan);
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
                        self.span = window.offset + resume as u64;
                        barren = Barren::new(self, window, resume);
                        if resume > to {
                            return Ok(resume);
                        }
                        continue;
                    }
                }
                Self::tick(&mut exit, value);
                times = (times.0.min(exit.clock), times.1.max(exit.clock));
                self.span = window.offset + next as u64;
                barren = Barren::new(self, window, next);
            } else {
                barren.push(at, self.encoding.is_foreign(word));
            }
            at = next;
        }
        let end = at.min(window.bytes.len());
        self.close(window, (open, end), exit, order(times), plan);
        Ok(end)
    }

    /// Takes back what was planned from `position` on; no time word stands between there and where `exit` is.
    fn rewind(&mut self, window: Window<'_>, position: usize, exit: State, plan: &mut Vec<Segment<State>>) {
        let offset = window.offset + position as u64;
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
            } else if self.encoding.is_foreign(word) && to - at < LOOK {
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
    near::<E>(from, to) && (forward::<E>(from, to) <= E::NEAR / 8 || forward::<E>(to, from) <= E::NEAR / 8)
}

/// Watches a span without time words, piece by piece: a piece with three foreign words of four is damage. Only for encodings
/// that show no time words at all when they are read out of step.
struct Barren {
    /// Where the piece starts, and its length in bytes; 0 for not watching.
    start: usize,
    len: usize,
    first: Option<usize>,
    foreign: usize,
    words: usize,
}

impl Barren {
    fn new<E: Encoding>(timeline: &Timeline<E>, window: Window<'_>, at: usize) -> Self {
        let mut barren = Self { start: at, len: 0, first: None, foreign: 0, words: 0 };
        if !E::SPANS {
            return barren;
        }
        barren.len = PIECE * timeline.encoding.word_bytes();
        let behind = (window.offset + at as u64).saturating_sub(timeline.span);
        // The piece that ends at or after `at`; it is in the window, because windows end between pieces.
        let into = usize::try_from(behind.saturating_sub(1) % barren.len as u64).unwrap_or(0) + usize::from(behind > 0);
        barren.start = at.saturating_sub(into);
        for (place, word) in Words::new(&timeline.encoding, window.bytes, barren.start).take_while(|(place, _)| *place < at) {
            barren.push(place, timeline.encoding.is_foreign(word));
        }
        barren
    }

    fn push(&mut self, at: usize, foreign: bool) {
        self.words += 1;
        if foreign {
            self.foreign += 1;
            self.first.get_or_insert(at);
        }
    }

    /// The first foreign word of a piece that ends at or before `at`, if the piece is damaged.
    fn ends(&mut self, at: usize) -> Option<usize> {
        if self.len == 0 || at < self.start + self.len {
            return None;
        }
        if 4 * self.foreign >= 3 * self.words && self.first.is_some() {
            return self.first;
        }
        let start = self.start + (at - self.start) / self.len * self.len;
        *self = Self { start, len: self.len, first: None, foreign: 0, words: 0 };
        None
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
        // The time word at which a search ended: it needs no other word's support.
        let mut trusted = None;
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
                        self.span = offset + position as u64;
                        trusted = Some(position);
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
                    let mut end = self.hold_back(bytes, self.last_time(bytes, at, whole).unwrap_or(at), whole);
                    if E::SPANS {
                        end = end.min(self.incomplete_piece(window, at, whole));
                    }
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
                return at;
            }
            let cuts = self.cuts(bytes, at, end);
            let stretches: Vec<_> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
            let scans: Vec<_> = stretches
                .par_iter()
                .map(|&(from, to)| {
                    let stretch = bytes.get(from..to).unwrap_or_default();
                    (self.encoding.scan_times(stretch), self.encoding.tail(stretch))
                })
                .collect();
            for ((from, to), (scan, tail)) in stretches.into_iter().zip(scans) {
                let near_first =
                    scan.is_none_or(|scan| scan.smooth && Self::current(&self.state).is_some_and(|current| near::<E>(current, scan.first)));
                if near_first && !self.may_be_barren(window, (from, to), scan) {
                    self.close_smooth(window, (from, to), (scan, tail), plan);
                    if scan.is_some() {
                        let last = self.last_time(bytes, from, to).map_or(from, |at| at + word);
                        self.span = offset + last as u64;
                    }
                    at = to;
                    continue;
                }
                match self.step(window, from, to, trusted, plan, problems) {
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

    /// Whether a stretch can hold, or complete, a piece of a long span that needs a look at its words.
    fn may_be_barren(&self, window: Window<'_>, stretch: (usize, usize), scan: Option<TimeScan>) -> bool {
        if !E::SPANS {
            return false;
        }
        let piece = PIECE * self.encoding.word_bytes();
        let first = stretch.0 + scan.map_or(stretch.1 - stretch.0, |scan| scan.first_at);
        scan.is_some_and(|scan| scan.longest >= piece / 2) || window.offset + first as u64 >= self.span + piece as u64
    }

    /// Where the piece of a span starts that is not complete at `to`.
    fn incomplete_piece(&self, window: Window<'_>, at: usize, to: usize) -> usize {
        let last = self.last_time(window.bytes, at, to).map(|last| last + self.encoding.word_bytes());
        let span = last.map_or(self.span, |last| window.offset + last as u64);
        let piece = (PIECE * self.encoding.word_bytes()) as u64;
        let end = window.offset + to as u64;
        let start = end - (end.saturating_sub(span)) % piece;
        let start = usize::try_from(start.saturating_sub(window.offset)).unwrap_or(to).clamp(at, to);
        at + self.encoding.cut(window.bytes.get(at..to).unwrap_or_default(), start - at)
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
