//! Goes through the blocks of a topic in order and cuts them into parts that can be decoded on their own.
//!
//! The words of EVT3 are one stream from packet to packet: it is planned as a RAW file is, over the payloads of all
//! blocks. Where the numbers of the packets have a gap, the stream starts anew behind it: row and vector base are
//! forgotten, and events wait for a high and a low time. Of all other encodings every packet stands on its own.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::container::{Block, Container};
use super::load::{Loaded, Packet, Taking};
use super::packet::{Cursor, First};
use crate::columns::{Slots, TriggerColumns};
use crate::error::Result;
use crate::format::prophesee::evt3::{ADDR_X, ADDR_Y, EM_ADDR_Y, EXT_TRIGGER, Evt3, TIME_HIGH, TIME_LOW, VECT_8, VECT_12};
use crate::format::prophesee::timeline::Timeline;
use crate::format::prophesee::word::{self, Encoding as _, Fill, Limits, Sink, State, Triggers};
use crate::problem::{ProblemCode, Problems};
use crate::scan::{Planner, Segment};
use crate::schema::{Column, Columns, TimeSource};

/// Bytes of packets that are decoded together.
const PART: usize = 256 << 10;

/// A stretch of a block that is decoded on its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// The bytes of the block that it has.
    pub(super) start: usize,
    pub(super) end: usize,
    /// EVT3: what the words before it say.
    state: State,
    /// EVT3: microseconds that are added to its times.
    shift_us: i64,
    pub(super) events: u64,
    pub(super) triggers: u64,
    /// No event is earlier or later than these.
    pub(super) first_us: i64,
    pub(super) last_us: i64,
}

/// A block that has been planned.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) block: Block,
    pub(super) parts: Vec<Part>,
    pub(super) loaded: Arc<Loaded>,
}

/// Where decoding of a part stands.
pub(super) struct Run<'a> {
    taking: &'a Taking,
    loaded: &'a Loaded,
    part: Part,
    state: State,
    /// The packets still to be decoded, and the place in the first.
    packets: Range<usize>,
    cursor: Cursor,
}

impl<'a> Run<'a> {
    pub(super) fn new(taking: &'a Taking, loaded: &'a Loaded, part: Part) -> Self {
        let packets = if taking.is_evt3() { 0..0 } else { loaded.packets_in(part.start, part.end) };
        Self { taking, loaded, part, state: part.state, packets, cursor: Cursor::default() }
    }

    /// Decodes until the part ends or a word's events do not fit; whether there is more.
    pub(super) fn fill(&mut self, columns: Columns, out: &mut Slots<'_>) -> bool {
        if self.taking.is_evt3() {
            return self.fill_evt3(columns, out);
        }
        while let Some(packet) = self.loaded.packets.get(self.packets.start).filter(|_| !self.packets.is_empty()) {
            let bytes = self.loaded.bytes.get(packet.start..packet.end).unwrap_or_default();
            fill_packet(self.taking, packet, &mut self.cursor, bytes, columns, out);
            if self.cursor.at < bytes.len() {
                return true;
            }
            self.packets.start += 1;
            self.cursor = Cursor::default();
        }
        false
    }

    fn fill_evt3(&mut self, columns: Columns, out: &mut Slots<'_>) -> bool {
        let bytes = self.loaded.bytes.get(self.part.start..self.part.end).unwrap_or_default();
        let before = out.len;
        let consumed = word::fill_columns(&Evt3::new(self.taking.limits), columns, &mut self.state, bytes, out);
        self.part.start += consumed;
        if self.part.shift_us != 0 && columns.contains(Column::Timestamp) {
            for time in out.t.get_mut(before..out.len).unwrap_or_default() {
                *time = time.wrapping_add(self.part.shift_us);
            }
        }
        consumed > 0 && self.part.start < self.part.end
    }

    /// The external triggers of the part.
    pub(super) fn triggers(mut self, out: &mut TriggerColumns) {
        if !self.taking.is_evt3() {
            for packet in self.loaded.packets.get(self.packets.clone()).unwrap_or_default() {
                let bytes = self.loaded.bytes.get(packet.start..packet.end).unwrap_or_default();
                self.taking.frame(packet).walk(&mut Cursor::default(), bytes, &mut Triggers(out));
            }
            return;
        }
        let bytes = self.loaded.bytes.get(self.part.start..self.part.end).unwrap_or_default();
        let mut found = TriggerColumns::default();
        Evt3::new(self.taking.limits).walk(&mut self.state, bytes, &mut Triggers(&mut found));
        for time in &mut found.timestamp {
            *time = time.wrapping_add(self.part.shift_us);
        }
        out.append(found);
    }
}

/// Calls the decoder with the columns as a constant.
fn fill_packet(taking: &Taking, packet: &Packet, cursor: &mut Cursor, bytes: &[u8], columns: Columns, out: &mut Slots<'_>) {
    let frame = taking.frame(packet);
    macro_rules! instances {
        ($($bits:literal)*) => {
            match columns.bits() {
                $($bits => frame.walk(cursor, bytes, &mut Fill::<$bits>(out)),)*
                _ => unreachable!("a set of four columns"),
            }
        };
    }
    instances!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// Counts events and triggers, takes their times, and reports what is dropped.
struct Survey<'a> {
    part: Part,
    limits: Limits,
    problems: &'a mut Problems,
    packet: &'a Packet,
}

impl Survey<'_> {
    fn time(&mut self, t: i64) {
        self.part.first_us = self.part.first_us.min(t);
        self.part.last_us = self.part.last_us.max(t);
    }
}

impl Sink for Survey<'_> {
    #[inline(always)]
    fn fits(&self, _: u32) -> bool {
        true
    }
    #[inline(always)]
    fn event(&mut self, _: u16, _: u16, t: i64, _: bool) {
        self.part.events += 1;
        self.time(t);
    }
    #[inline(always)]
    fn trigger(&mut self, _: u8, _: bool, _: i64) {
        self.part.triggers += 1;
    }
    #[cold]
    fn dropped(&mut self, code: ProblemCode, count: u32, at: usize) {
        let offset = self.packet.offset + if self.packet.plain { at as u64 } else { 0 };
        let Limits { width, height } = self.limits;
        self.problems.add(code, count.into(), 0, offset, || match code {
            ProblemCode::OutOfBounds => format!("{count} outside {width}x{height} at byte {offset}"),
            _ => format!("{count} at byte {offset}"),
        });
    }
}

/// Nothing of what is decoded: only the state moves on.
struct Nothing;

impl Sink for Nothing {
    fn fits(&self, _: u32) -> bool {
        true
    }
    fn event(&mut self, _: u16, _: u16, _: i64, _: bool) {}
    fn trigger(&mut self, _: u8, _: bool, _: i64) {}
    fn dropped(&mut self, _: ProblemCode, _: u32, _: usize) {}
}

/// A block of which the stream has not been planned to its end.
struct Pending {
    block: Block,
    loaded: Arc<Loaded>,
    /// Where it starts in the stream.
    start: u64,
    segments: Vec<Segment<State>>,
}

/// The stream of EVT3 words as far as it is planned.
struct Words {
    evt3: Evt3,
    timeline: Timeline<Evt3>,
    pending: VecDeque<Pending>,
    /// Bytes whose planning waits for more, and where they stand in the stream.
    held: Vec<u8>,
    held_at: u64,
    /// Where the next block starts in the stream.
    next: u64,
    /// Events wait for a high and a low time, in this state: at the start and after a gap.
    waiting: Option<Waiting>,
    /// Where blocks start in the stream and in the file.
    places: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    state: State,
    /// The last high time since the gap.
    high: Option<i64>,
    cd: bool,
}

impl Waiting {
    fn new(state: State) -> Self {
        Self { state, high: None, cd: true }
    }
}

impl Words {
    fn new(limits: Limits, entry: Option<State>) -> Self {
        let evt3 = Evt3::new(limits);
        Self {
            timeline: Timeline::new(evt3.clone(), entry.unwrap_or(State::START)),
            evt3,
            pending: VecDeque::new(),
            held: Vec::new(),
            held_at: 0,
            next: 0,
            waiting: entry.is_none().then_some(Waiting::new(State::START)),
            places: Vec::new(),
        }
    }

    /// File offset of a place in the stream.
    fn place(&self, at: u64) -> u64 {
        let pending = self.pending.iter().rev().find(|pending| pending.start <= at);
        if let Some(pending) = pending {
            return pending.loaded.place(usize::try_from(at - pending.start).unwrap_or(usize::MAX));
        }
        let next = self.places.partition_point(|(start, _)| *start <= at);
        next.checked_sub(1).and_then(|before| self.places.get(before)).map_or(0, |(_, offset)| *offset)
    }

    /// Plans the bytes from `at` on in the stream; `last` says that it ends or breaks off behind them.
    fn plan(&mut self, bytes: &[u8], at: u64, last: bool, problems: &mut Problems) {
        let mut found = Problems::default();
        let mut segments = Vec::new();
        if self.held.is_empty() {
            let consumed = self.timeline.plan(bytes, at, last, &mut segments, &mut found);
            self.held.extend_from_slice(bytes.get(consumed..).unwrap_or_default());
            self.held_at = at + consumed as u64;
        } else {
            self.held.extend_from_slice(bytes);
            let consumed = self.timeline.plan(&self.held, self.held_at, last, &mut segments, &mut found);
            self.held.drain(..consumed.min(self.held.len()));
            self.held_at += consumed as u64;
        }
        if last {
            self.held.clear();
        }
        problems.merge(&found.moved(|at| self.place(at)));
        for segment in segments {
            self.assign(segment);
        }
    }

    /// Gives a segment to the blocks that it lies in.
    fn assign(&mut self, mut segment: Segment<State>) {
        while segment.len > 0 {
            let after = self.pending.partition_point(|pending| pending.start <= segment.offset);
            let Some(pending) = after.checked_sub(1).and_then(|at| self.pending.get_mut(at)) else { return };
            let end = pending.start + pending.loaded.bytes.len() as u64;
            let len = segment.len.min(end.saturating_sub(segment.offset));
            if len == 0 {
                return;
            }
            let mut rest = segment;
            (rest.offset, rest.len) = (segment.offset + len, segment.len - len);
            if rest.len > 0 {
                let from = (segment.offset - pending.start) as usize;
                let bytes = pending.loaded.bytes.get(from..).unwrap_or_default();
                self.evt3.walk(&mut rest.state, bytes, &mut Nothing);
            }
            pending.segments.push(Segment { len, ..segment });
            segment = rest;
        }
    }

    /// Plans another block.
    fn push(&mut self, block: Block, loaded: Loaded, last_seq: &mut Option<u64>, problems: &mut Problems) {
        let loaded = Arc::new(loaded);
        let start = self.next;
        self.next += loaded.bytes.len() as u64;
        self.places.push((start, block.offset));
        self.pending.push_back(Pending { block, loaded: Arc::clone(&loaded), start, segments: Vec::new() });
        // Where the bytes start that have not been planned.
        let mut from = 0;
        for packet in &loaded.packets {
            if gap(last_seq, packet, problems) {
                if self.waiting.is_none() {
                    self.plan(loaded.bytes.get(from..packet.start).unwrap_or_default(), start + from as u64, true, problems);
                }
                let mut state = self.waiting.map_or(self.timeline.state(), |waiting| waiting.state);
                state.forget_position();
                self.waiting = Some(Waiting::new(state));
                from = packet.start;
            }
            if self.waiting.is_some() {
                from = self.wait(&loaded, packet, from.max(packet.start), problems);
            }
        }
        if self.waiting.is_none() {
            self.plan(loaded.bytes.get(from..).unwrap_or_default(), start + from as u64, false, problems);
        }
    }

    /// Steps over the words of a packet until the time is known; gives the place from which on it is.
    fn wait(&mut self, loaded: &Loaded, packet: &Packet, from: usize, problems: &mut Problems) -> usize {
        let Some(waiting) = &mut self.waiting else { return from };
        let words = loaded.bytes.get(from..packet.end).unwrap_or_default().as_chunks::<2>().0;
        let (mut events, mut triggers) = (0, 0);
        let mut found = None;
        for (index, word) in words.iter().enumerate() {
            let word = u16::from_le_bytes(*word);
            match word >> 12 {
                TIME_HIGH => waiting.high = Some(i64::from(word & 0xFFF) << 12),
                TIME_LOW if waiting.high.is_some() => {
                    found = Some(from + 2 * index);
                    break;
                }
                ADDR_Y => waiting.cd = true,
                EM_ADDR_Y => waiting.cd = false,
                ADDR_X if waiting.cd => events += 1,
                VECT_12 if waiting.cd => events += u64::from((word & 0xFFF).count_ones()),
                VECT_8 if waiting.cd => events += u64::from((word & 0xFF).count_ones()),
                EXT_TRIGGER => triggers += 1,
                _ => {}
            }
        }
        let offset = loaded.place(from);
        problems.add(ProblemCode::BeforeFirstTime, events, 0, offset, || format!("{events} at byte {offset} and after it"));
        problems.add(ProblemCode::TriggerBeforeFirstTime, triggers, 0, offset, || format!("{triggers} at byte {offset} and after it"));
        let (Some(place), Some(high)) = (found, waiting.high) else { return packet.end };
        let mut state = waiting.state;
        state.tick(high, Evt3::PERIOD, i64::from(Evt3::NEAR) << Evt3::TIME_SHIFT);
        self.waiting = None;
        self.timeline = Timeline::new(self.evt3.clone(), state);
        place
    }

    /// Ends the stream.
    fn finish(&mut self, problems: &mut Problems) {
        if self.waiting.is_none() {
            self.plan(&[], self.next, true, problems);
        }
    }

    /// The next block that is planned to its end.
    fn pop(&mut self, done: bool) -> Option<Pending> {
        let planned = if self.held.is_empty() || done { self.next } else { self.held_at };
        let front = self.pending.front()?;
        if front.start + front.loaded.bytes.len() as u64 <= planned { self.pending.pop_front() } else { None }
    }
}

/// Whether this packet does not follow the one before: packets are missing, which are counted, or the camera was started
/// anew.
fn gap(last: &mut Option<u64>, packet: &Packet, problems: &mut Problems) -> bool {
    let Some(seq) = packet.seq else { return false };
    let Some(before) = last.replace(seq) else { return false };
    let missing = seq.saturating_sub(before).saturating_sub(1);
    let offset = packet.offset;
    problems.add(ProblemCode::LostMessages, missing, 0, offset, || format!("{missing} before number {seq} at byte {offset}"));
    missing > 0 || seq < before
}

/// What is known in front of a block in the middle of a topic of EVT3.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) state: State,
    /// Number of the last packet.
    pub(super) seq: Option<u64>,
}

/// A walk over the blocks of a topic.
pub(super) struct Walk {
    /// The blocks still to be loaded.
    rest: Range<usize>,
    words: Option<Words>,
    last_seq: Option<u64>,
    finished: bool,
}

/// What the blocks of a topic are taken from.
pub(super) struct Input<'a> {
    pub(super) container: &'a dyn Container,
    pub(super) taking: &'a Taking,
    pub(super) blocks: &'a [Block],
}

impl Walk {
    /// Over these blocks; `entry` is for EVT3 that starts in the middle.
    pub(super) fn new(taking: &Taking, blocks: Range<usize>, entry: Option<Entry>) -> Self {
        let words = taking.is_evt3().then(|| Words::new(taking.limits, entry.map(|entry| entry.state)));
        Self { rest: blocks, words, last_seq: entry.and_then(|entry| entry.seq), finished: false }
    }

    /// Loads and plans blocks of about `bytes`, at least one; `None` at the end. Fewer come out than go in where
    /// planning waits for more, possibly none.
    pub(super) fn next(&mut self, input: &Input<'_>, bytes: u64, problems: &mut Problems) -> Result<Option<Vec<Planned>>> {
        if self.finished {
            return Ok(None);
        }
        let start = self.rest.start;
        let mut total = 0;
        while let Some(block) = input.blocks.get(self.rest.start).filter(|_| !self.rest.is_empty()) {
            if total > 0 && total + block.bytes > bytes {
                break;
            }
            total += block.bytes;
            self.rest.start += 1;
        }
        let blocks = input.blocks.get(start..self.rest.start).unwrap_or_default();
        let loaded: Vec<(Loaded, Problems)> = blocks
            .par_iter()
            .map(|block| {
                let mut problems = Problems::default();
                let loaded = input.taking.load(input.container, block, true, &mut problems)?;
                Ok((loaded, problems))
            })
            .collect::<Result<_>>()?;
        self.finished = self.rest.is_empty();
        let mut ready: Vec<Planned> = Vec::new();
        for (block, (loaded, found)) in blocks.iter().zip(loaded) {
            problems.merge(&found);
            if let Some(words) = &mut self.words {
                words.push(*block, loaded, &mut self.last_seq, problems);
                continue;
            }
            for packet in &loaded.packets {
                gap(&mut self.last_seq, packet, problems);
            }
            ready.push(Planned { block: *block, parts: cut(&loaded), loaded: Arc::new(loaded) });
        }
        if let Some(words) = &mut self.words {
            if self.finished {
                words.finish(problems);
            }
            while let Some(pending) = words.pop(self.finished) {
                let parts = pending.segments.iter().map(|segment| {
                    let start = (segment.offset - pending.start) as usize;
                    Part {
                        start,
                        end: start + segment.len as usize,
                        state: segment.state,
                        shift_us: 0,
                        events: 0,
                        triggers: 0,
                        first_us: segment.first_us,
                        last_us: segment.last_us,
                    }
                });
                ready.push(Planned { block: pending.block, parts: parts.collect(), loaded: pending.loaded });
            }
        }
        let counted: Vec<(Vec<Part>, Problems)> = ready
            .par_iter()
            .map(|planned| {
                let mut problems = Problems::default();
                (count(input.taking, planned, &mut problems), problems)
            })
            .collect();
        for (planned, (parts, found)) in ready.iter_mut().zip(counted) {
            planned.parts = parts;
            problems.merge(&found);
        }
        Ok(Some(ready))
    }
}

/// Cuts a block between packets.
fn cut(loaded: &Loaded) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for packet in &loaded.packets {
        match parts.last_mut() {
            Some(part) if packet.end - part.start <= PART => part.end = packet.end,
            _ => parts.push(Part {
                start: packet.start,
                end: packet.end,
                state: State::START,
                shift_us: 0,
                events: 0,
                triggers: 0,
                first_us: i64::MAX,
                last_us: i64::MIN,
            }),
        }
    }
    parts
}

/// Counts the events and triggers of the parts of a block, and what decoding them drops.
fn count(taking: &Taking, planned: &Planned, problems: &mut Problems) -> Vec<Part> {
    let loaded = &*planned.loaded;
    if !taking.is_evt3() {
        let survey = |part: &Part| {
            let mut part = *part;
            for packet in loaded.packets.get(loaded.packets_in(part.start, part.end)).unwrap_or_default() {
                let bytes = loaded.bytes.get(packet.start..packet.end).unwrap_or_default();
                let mut survey = Survey { part, limits: taking.limits, problems, packet };
                taking.frame(packet).walk(&mut Cursor::default(), bytes, &mut survey);
                part = survey.part;
            }
            part
        };
        return planned.parts.iter().map(survey).collect();
    }
    let evt3 = Evt3::new(taking.limits);
    let mut found = Problems::default();
    let parts = if taking.time == TimeSource::Message { by_packet(&evt3, planned) } else { planned.parts.clone() };
    let counted = parts.into_iter().map(|mut part| {
        let bytes = loaded.bytes.get(part.start..part.end).unwrap_or_default();
        let counts = evt3.count(&part.state, bytes, part.start as u64, &mut found);
        (part.events, part.triggers) = (counts.events, counts.triggers);
        part
    });
    let counted = counted.collect();
    if !found.is_empty() {
        problems.merge(&found.moved(|at| loaded.place(usize::try_from(at).unwrap_or(usize::MAX))));
    }
    counted
}

/// The parts of a block cut at every packet, and what is to be added to their times so that the first event or trigger
/// of each packet has the time of its message.
fn by_packet(evt3: &Evt3, planned: &Planned) -> Vec<Part> {
    let loaded = &*planned.loaded;
    let mut parts = Vec::new();
    // The packet that a shift has been found for.
    let mut known: Option<(usize, i64)> = None;
    for part in &planned.parts {
        let mut state = part.state;
        for number in loaded.packets_in(part.start, part.end) {
            let Some(packet) = loaded.packets.get(number) else { continue };
            let (start, end) = (part.start.max(packet.start), part.end.min(packet.end));
            let bytes = loaded.bytes.get(start..end).unwrap_or_default();
            let entry = state;
            evt3.walk(&mut state, bytes, &mut Nothing);
            let shift_us = match known {
                Some((same, shift_us)) if same == number => shift_us,
                _ => {
                    let mut first = First::default();
                    evt3.walk(&mut entry.clone(), bytes, &mut first);
                    let shift_us = first.0.map(|first| packet.stamp_us.wrapping_sub(first));
                    known = shift_us.map(|shift_us| (number, shift_us)).or(known);
                    shift_us.unwrap_or(0)
                }
            };
            let (first_us, last_us) = if shift_us == 0 {
                (part.first_us, part.last_us)
            } else {
                (part.first_us.wrapping_add(shift_us), part.last_us.wrapping_add(shift_us))
            };
            parts.push(Part { start, end, state: entry, shift_us, first_us, last_us, ..*part });
        }
    }
    parts
}
