//! Properties of the decoders and of the timeline over random and damaged streams.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::dat::{Dat, Record};
use super::evt2::Evt2;
use super::evt3::Evt3;
use super::evt4::Evt4;
use super::evt21::Evt21;
use super::timeline::{LOOK, Timeline};
use super::word::{Encoding, Fill, Limits, Sink, State, fill_columns};
use crate::columns::{ColumnsBuilder, EventColumns};
use crate::problem::{ProblemCode, Problems};
use crate::scan::{Planner, Segment};
use crate::schema::Columns;

const LIMITS: Limits = Limits { width: 1280, height: 720 };
/// Bytes of the file before the stream.
const HEADER: u64 = 333;

/// A small generator, so that streams of megabytes cost no time to describe.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// EVT3 words as a sensor sends them, with some of everything.
fn evt3_stream(random: &mut Random, words: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut push = |word: u64| out.extend((word as u16).to_le_bytes());
    let mut t = random.below(1 << 24);
    push(0x8000 | t >> 12 & 0xFFF);
    push(0x6000 | t & 0xFFF);
    push(random.below(720));
    for _ in 0..words {
        match random.below(100) {
            0..45 => push(0x2000 | random.below(2) << 11 | random.below(1290)),
            45..65 => push(random.below(725)),
            65..75 => {
                let high = t >> 12;
                t += random.below(40);
                if t >> 12 != high {
                    push(0x8000 | t >> 12 & 0xFFF);
                }
                push(0x6000 | t & 0xFFF);
            }
            75..80 => push(0x8000 | t >> 12 & 0xFFF),
            80..86 => {
                push(0x3000 | random.below(2) << 11 | (random.below(40) * 32));
                for ty in [0x4000, 0x4000, 0x5000] {
                    push(ty | random.below(0x1000));
                }
            }
            86..90 => push(0x4000 | random.below(0x1000)),
            90..92 => push(0x5000 | random.below(0x1000)),
            92..94 => push(0xA000 | random.below(0x1000)),
            94 => push(0x1000 | random.below(0x1000)),
            _ => push([0x7, 0x9, 0xB, 0xC, 0xD, 0xE, 0xF][random.below(7) as usize] << 12 | random.below(0x1000)),
        }
    }
    out
}

/// EVT2 words as a sensor sends them, with some of everything.
fn evt2_stream(random: &mut Random, words: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut push = |word: u64| out.extend((word as u32).to_le_bytes());
    let mut high = random.below(1 << 28);
    push(0x8000_0000 | high);
    for _ in 0..words {
        match random.below(100) {
            0..88 => push(random.below(2) << 28 | random.below(64) << 22 | random.below(1285) << 11 | random.below(722)),
            88..95 => {
                high = (high + random.below(2)) & 0x0FFF_FFFF;
                push(0x8000_0000 | high);
            }
            95..97 => push(0xA000_0000 | random.below(1 << 28)),
            _ => push([0x2, 0xC, 0xD, 0xE, 0xF][random.below(5) as usize] << 28 | random.below(1 << 28)),
        }
    }
    out
}

fn dat_stream(random: &mut Random, records: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut t = random.next() as u32;
    for _ in 0..records {
        t = t.wrapping_add(random.below(30) as u32).wrapping_sub(u32::from(random.below(50) == 0));
        out.extend(t.to_le_bytes());
        let word = random.below(2) << 28 | random.below(722) << 14 | random.below(1282);
        out.extend((word as u32).to_le_bytes());
    }
    out
}

fn evt21_stream(random: &mut Random, words: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut high = random.below(1 << 28);
    out.extend((0x8 << 60 | high << 32).to_le_bytes());
    for _ in 0..words {
        let word = match random.below(100) {
            0..85 => {
                random.below(2) << 60 | random.below(64) << 54 | random.below(1285) << 43 | random.below(722) << 32 | random.next() >> 32
            }
            85..95 => {
                high = (high + random.below(2)) & 0x0FFF_FFFF;
                0x8 << 60 | high << 32
            }
            95..97 => 0xA << 60 | random.next() >> 4,
            _ => 0xE << 60 | random.next() >> 4,
        };
        out.extend(word.to_le_bytes());
    }
    out
}

fn evt4_stream(random: &mut Random, words: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut push = |word: u64| out.extend((word as u32).to_le_bytes());
    let mut high = random.below(1 << 28);
    push(0xE000_0000 | high);
    for _ in 0..words {
        let pixel = random.below(64) << 22 | random.below(1285) << 11 | random.below(722);
        match random.below(100) {
            0..60 => push((0xA + random.below(2)) << 28 | pixel),
            60..85 => {
                push((0xC + random.below(2)) << 28 | pixel);
                // Masks that look like heads and time words too.
                push(if random.below(4) == 0 { 0xC000_0000 | random.below(1 << 29) } else { random.next() });
            }
            85..95 => {
                high = (high + random.below(2)) & 0x0FFF_FFFF;
                push(0xE000_0000 | high);
            }
            95..97 => push(0x9000_0000 | random.below(1 << 28)),
            _ => push([0x6, 0x7, 0xF][random.below(3) as usize] << 28 | random.below(1 << 28)),
        }
    }
    out
}

/// Overwrites, removes and inserts bytes at a few places.
fn damage(random: &mut Random, bytes: &mut Vec<u8>, places: u64) {
    for _ in 0..places {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len() as u64) as usize;
        let len = random.below(400) as usize;
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..bytes.len().min(at + 1 + len % 7))),
            2 => {
                let garbage: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                drop(bytes.splice(at..at, garbage));
            }
            _ => {
                let end = bytes.len().min(at + len);
                bytes[at..end].iter_mut().for_each(|byte| *byte = random.next() as u8);
            }
        }
    }
}

struct Found {
    events: EventColumns,
    counted: u64,
    triggers: u64,
    problems: Vec<(ProblemCode, u64, u64, u64)>,
}

/// Plans with windows of these sizes, decodes and counts each segment.
fn run<E: Encoding>(encoding: &E, bytes: &[u8], mut window: impl FnMut() -> usize) -> Found {
    let mut timeline = Timeline::new(encoding.clone(), State::START);
    let (mut segments, mut problems) = (Vec::<Segment<State>>::new(), Problems::default());
    let (mut offset, mut grow) = (0, 1);
    loop {
        let end = bytes.len().min(offset + window() * grow);
        let last = end == bytes.len();
        let consumed = timeline.plan(&bytes[offset..end], HEADER + offset as u64, last, &mut segments, &mut problems);
        if last {
            break;
        }
        grow = if consumed == 0 { 2 * grow } else { 1 };
        offset += consumed;
    }
    let mut parts = Vec::new();
    let (mut counted, mut triggers) = (0, 0);
    for segment in &segments {
        let slice = &bytes[(segment.offset - HEADER) as usize..][..segment.len as usize];
        let counts = encoding.count(&segment.state, slice, segment.offset, &mut problems);
        counted += counts.events;
        triggers += counts.triggers;
        let mut builder = ColumnsBuilder::new(counts.events as usize, Columns::ALL);
        let mut slots = builder.slots();
        fill_columns(encoding, Columns::ALL, &mut segment.state.clone(), slice, &mut slots);
        assert_eq!(slots.len as u64, counts.events, "a segment decodes to the events that were counted");
        let part = builder.finish(counts.events as usize);
        for t in part.timestamp() {
            assert!(
                (segment.first_us..=segment.last_us).contains(t),
                "time {t} outside its segment's {}..={}",
                segment.first_us,
                segment.last_us
            );
        }
        parts.push(part);
    }
    let problems = problems.iter().map(|problem| (problem.code, problem.count, problem.bytes, problem.first_offset)).collect();
    Found { events: EventColumns::concat(parts, Columns::ALL), counted, triggers, problems }
}

/// Decodes by the definition alone.
fn walk<E: Encoding>(encoding: &E, bytes: &[u8]) -> EventColumns {
    let mut builder = ColumnsBuilder::new(bytes.len() * 8, Columns::ALL);
    let mut slots = builder.slots();
    encoding.walk(&mut State::START.clone(), bytes, &mut Fill::<15>(&mut slots));
    let rows = slots.len;
    builder.finish(rows)
}

/// Checks that windows do not matter, and that a healthy stream decodes by the definition.
fn check<E: Encoding>(encoding: &E, bytes: &[u8], healthy: bool, random: &mut Random) {
    let whole = run(encoding, bytes, || usize::MAX / 4);
    if healthy {
        let walked = walk(encoding, bytes);
        assert_eq!(whole.events.len(), walked.len());
        assert!(whole.events == walked, "segments decode as the whole does");
        assert!(whole.problems.iter().all(|problem| problem.0 != ProblemCode::LostSync), "nothing is lost: {:?}", whole.problems);
    }
    assert_eq!(whole.counted, whole.events.len() as u64);
    for scale in [1 << 9, 1 << 12, 1 << 16, 1 << 21] {
        let cut = run(encoding, bytes, || 1 + random.below(scale) as usize);
        assert_same(&cut, &whole, &format!("windows of up to {scale} bytes"));
    }
}

fn assert_same(found: &Found, expected: &Found, windows: &str) {
    let sorted = |found: &Found| {
        let mut problems = found.problems.clone();
        problems.sort_by_key(|problem| problem.0);
        problems
    };
    assert_eq!(sorted(found), sorted(expected), "problems do not depend on {windows}");
    assert!(found.events == expected.events, "events do not depend on {windows}");
    assert_eq!(found.triggers, expected.triggers);
}

/// Checks that windows do not matter where more bytes than are looked ahead follow the last time word, and the words
/// after it are foreign more and more often until they are damage.
fn check_long_span<E: Encoding>(encoding: &E, time: fn(u64) -> Vec<u8>, other: fn(&mut Random, bool) -> Vec<u8>) {
    const RAMP: u64 = 500;
    let random = &mut Random(1);
    let mut bytes: Vec<u8> = (1000..1010).flat_map(time).collect();
    for words in 0..RAMP {
        let foreign = random.below(RAMP) < words;
        bytes.extend(other(random, foreign));
    }
    let ramp = bytes.len();
    while bytes.len() < ramp + LOOK {
        bytes.extend(other(random, false));
    }
    let restart = random.below(1 << 27);
    bytes.extend((restart..restart + 10).flat_map(time));
    let whole = run(encoding, &bytes, || usize::MAX / 4);
    assert!(whole.problems.iter().any(|problem| problem.0 == ProblemCode::LostSync));
    for held in (ramp / 2..ramp).step_by(ramp / 30) {
        let cut = run(encoding, &bytes, || LOOK + held);
        assert_same(&cut, &whole, &format!("windows of {} bytes", LOOK + held));
    }
}

/// [`check`] of a stream of so many words, damaged at so many places.
fn check_damaged<E: Encoding>(encoding: &E, stream: fn(&mut Random, usize) -> Vec<u8>, (seed, words, places): (u64, usize, u64)) {
    let random = &mut Random(seed);
    let mut bytes = stream(random, words);
    damage(random, &mut bytes, places);
    check(encoding, &bytes, false, random);
}

/// 24 cases, always the same; as many new ones as `PROPTEST_CASES` says where it is set.
fn config() -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let rng_seed = if wanted.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) };
    ProptestConfig { cases: wanted.unwrap_or(24), rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn healthy_streams_decode_by_the_definition(seed in any::<u64>(), words in 1_usize..60_000) {
        let random = &mut Random(seed);
        let bytes = evt3_stream(random, words);
        check(&Evt3::new(LIMITS), &bytes, true, random);
        let bytes = evt2_stream(random, words);
        check(&Evt2::new(LIMITS), &bytes, true, random);
        let bytes = dat_stream(random, words);
        check(&Dat::new(LIMITS, Record::CdV2, 8), &bytes, true, random);
        let bytes = evt21_stream(random, words / 8);
        check(&Evt21::new(LIMITS, false), &bytes, true, random);
        let bytes = evt4_stream(random, words);
        check(&Evt4::new(LIMITS), &bytes, true, random);
    }

    #[test]
    fn damaged_streams_do_not_depend_on_windows(seed in any::<u64>(), words in 1_usize..60_000, places in 0_u64..12) {
        check_damaged(&Evt3::new(LIMITS), evt3_stream, (seed, words, places));
        check_damaged(&Evt2::new(LIMITS), evt2_stream, (seed, words, places));
        check_damaged(&Dat::new(LIMITS, Record::CdV2, 8), dat_stream, (seed, words, places));
        check_damaged(&Evt21::new(LIMITS, true), evt21_stream, (seed, words / 8, places));
        check_damaged(&Evt4::new(LIMITS), evt4_stream, (seed, words, places));
    }

    #[test]
    fn noise_ends(seed in any::<u64>(), len in 0_usize..60_000) {
        let random = &mut Random(seed);
        let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        check(&Evt3::new(LIMITS), &bytes, false, random);
        check(&Evt2::new(LIMITS), &bytes, false, random);
        check(&Dat::new(LIMITS, Record::CdV1, 12), &bytes, false, random);
        check(&Evt21::new(LIMITS, false), &bytes, false, random);
        check(&Evt4::new(LIMITS), &bytes, false, random);
    }

    #[test]
    fn the_tail_of_a_stretch_gives_the_state_after_it(seed in any::<u64>(), words in 1_usize..2000, vectors in 0_u64..3) {
        let random = &mut Random(seed);
        let evt3 = Evt3::new(LIMITS);
        let mut bytes = evt3_stream(random, words);
        for word in bytes.as_chunks_mut::<2>().0 {
            // Few or no vectors: the last base may be far away.
            if (3..=5).contains(&(word[1] >> 4)) && random.below(100) >= vectors {
                *word = [0, 0x70];
            }
        }
        let cut = random.below(bytes.len() as u64 / 2) as usize * 2;
        let (head, rest) = bytes.split_at(cut);
        let mut walked = State::START;
        evt3.walk(&mut walked, head, &mut Ignore);
        let mut skimmed = walked;
        evt3.walk(&mut walked, rest, &mut Ignore);
        evt3.skim(&mut skimmed, evt3.tail(rest));
        (skimmed.clock, skimmed.timed) = (walked.clock, walked.timed);
        prop_assert_eq!(skimmed, walked);
    }

    #[test]
    fn every_projection_is_a_part_of_the_whole(seed in any::<u64>(), columns in 0_u8..16) {
        let random = &mut Random(seed);
        let bytes = evt3_stream(random, 4000);
        let whole = walk(&Evt3::new(LIMITS), &bytes);
        let wanted: Columns = crate::Column::ALL.into_iter().filter(|column| columns >> (*column as u8) & 1 == 1).collect();
        let mut builder = ColumnsBuilder::new(whole.len(), wanted);
        let mut slots = builder.slots();
        fill_columns(&Evt3::new(LIMITS), wanted, &mut State::START.clone(), &bytes, &mut slots);
        prop_assert_eq!(slots.len, whole.len());
        let part = builder.finish(whole.len());
        prop_assert!(part.x().is_empty() || part.x() == whole.x());
        prop_assert!(part.y().is_empty() || part.y() == whole.y());
        prop_assert!(part.timestamp().is_empty() || part.timestamp() == whole.timestamp());
        prop_assert!(part.polarity().is_empty() || part.polarity() == whole.polarity());
        prop_assert_eq!(part.columns(), wanted);
    }
}

#[test]
fn pieces_without_time_words_do_not_depend_on_windows() {
    for case in [(339, 664, 9), (849, 1020, 11), (1496, 467, 4), (1988, 1921, 11), (2791, 1282, 7)] {
        check_damaged(&Evt21::new(LIMITS, true), evt21_stream, case);
    }
    for case in [(176, 1008, 10), (622, 1289, 7), (682, 3390, 9), (922, 900, 5), (1684, 545, 4), (2308, 1730, 1)] {
        check_damaged(&Evt4::new(LIMITS), evt4_stream, case);
    }
}

#[test]
fn long_spans_without_time_words_do_not_depend_on_windows() {
    let evt21 = |random: &mut Random, foreign| {
        let pixel = random.below(64) << 54 | random.below(1280) << 43 | random.below(720) << 32 | 1;
        (u64::from(foreign) << 61 | pixel).to_le_bytes().to_vec()
    };
    check_long_span(&Evt21::new(LIMITS, false), |high| (0x8 << 60 | high << 32).to_le_bytes().to_vec(), evt21);
    let evt4 = |random: &mut Random, foreign| {
        let pixel = (random.below(64) << 22 | random.below(1280) << 11 | random.below(720)) as u32;
        match random.below(4) {
            _ if foreign => (0x1000_0000 | pixel).to_le_bytes().to_vec(),
            0 => [0xD000_0000 | pixel, 1].into_iter().flat_map(u32::to_le_bytes).collect(),
            _ => (0xB000_0000 | pixel).to_le_bytes().to_vec(),
        }
    };
    check_long_span(&Evt4::new(LIMITS), |high| (0xE000_0000 | high as u32).to_le_bytes().to_vec(), evt4);
}

/// Takes everything and keeps nothing.
struct Ignore;

impl Sink for Ignore {
    fn fits(&self, _: u32) -> bool {
        true
    }
    fn event(&mut self, _: u16, _: u16, _: i64, _: bool) {}
    fn trigger(&mut self, _: u8, _: bool, _: i64) {}
    fn dropped(&mut self, _: ProblemCode, _: u32, _: usize) {}
}

/// Collects what a stream holds, as tuples.
#[derive(Default)]
struct Collect {
    events: Vec<(i64, u16, u16, bool)>,
    triggers: Vec<(i64, u8, bool)>,
}

impl Sink for Collect {
    fn fits(&self, _: u32) -> bool {
        true
    }
    fn event(&mut self, x: u16, y: u16, t: i64, on: bool) {
        self.events.push((t, x, y, on));
    }
    fn trigger(&mut self, id: u8, rising: bool, t: i64) {
        self.triggers.push((t, id, rising));
    }
    fn dropped(&mut self, code: ProblemCode, count: u32, at: usize) {
        panic!("{count} {code:?} at byte {at}");
    }
}

fn collect<E: Encoding>(encoding: &E, bytes: &[u8]) -> Collect {
    let mut found = Collect::default();
    encoding.walk(&mut State::START.clone(), bytes, &mut found);
    found
}

#[test]
fn evt2_words() {
    let bytes = [
        5, 0, 0, 0x80, 0x32, 0x20, 0xC3, 0x10, 0xDF, 0xF9, 0xD3, 0x0F, 6, 0, 0, 0x80, 1, 6, 0x80, 0xA2, 0x16, 0, 1, 0xE3, 0xD2, 4, 0, 0xF0,
    ];
    let found = collect(&Evt2::new(LIMITS), &bytes);
    assert_eq!(found.events, [(323, 100, 50, true), (383, 639, 479, false)]);
    assert_eq!(found.triggers, [(394, 6, true)]);
}

#[test]
fn evt21_words_in_both_orders() {
    let events = [(323, 96, 50, true), (323, 100, 50, true), (323, 127, 50, true)];
    let little = [0, 0, 0, 0, 5, 0, 0, 0x80, 0x11, 0, 0, 0x80, 0x32, 0, 0xC3, 0x10];
    assert_eq!(collect(&Evt21::new(LIMITS, false), &little).events, events);
    let legacy = [5, 0, 0, 0x80, 0, 0, 0, 0, 0x32, 0, 0xC3, 0x10, 0x11, 0, 0, 0x80];
    assert_eq!(collect(&Evt21::new(LIMITS, true), &legacy).events, events);
}

#[test]
fn evt3_words() {
    let words = [
        0x8001_u16, 0x6010, 0x0032, 0x2864, 0x3860, 0x4003, 0x4800, 0x5081, 0x4001, 0x4000, 0x5000, 0x6011, 0xA601, 0x8002, 0x2001, 0xE016,
        0xF4D2, 0xF000, 0x7000,
    ];
    let bytes: Vec<u8> = words.into_iter().flat_map(u16::to_le_bytes).collect();
    let found = collect(&Evt3::new(LIMITS), &bytes);
    let expected: Vec<_> =
        [100, 96, 97, 119, 120, 127, 128].into_iter().map(|x| (4112, x, 50, true)).chain([(8192, 1, 50, false)]).collect();
    assert_eq!(found.events, expected);
    assert_eq!(found.triggers, [(4113, 6, true)]);
}

#[test]
fn evt4_words() {
    let bytes = [5, 0, 0, 0xE0, 0x32, 0x20, 0xC3, 0xB0, 0x33, 0, 3, 0xD1, 0x11, 0, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF, 5, 1, 0x40, 0x91];
    let found = collect(&Evt4::new(LIMITS), &bytes);
    let expected: Vec<_> = [(323, 100, 50, true)].into_iter().chain([96, 100, 125, 126, 127].map(|x| (324, x, 51, true))).collect();
    assert_eq!(found.events, expected);
    assert_eq!(found.triggers, [(325, 1, true)]);
}

#[test]
fn dat_records() {
    let v2 = [0xE8, 3, 0, 0, 0x7F, 0xC2, 0x77, 0x10];
    assert_eq!(collect(&Dat::new(LIMITS, Record::CdV2, 8), &v2).events, [(1000, 639, 479, true)]);
    let v1 = [0xE8, 3, 0, 0, 0x2F, 0xDF, 3, 0];
    assert_eq!(collect(&Dat::new(LIMITS, Record::CdV1, 8), &v1).events, [(1000, 303, 239, true)]);
    let trigger = [0xE8, 3, 0, 0, 1, 0, 0, 0x18];
    assert_eq!(collect(&Dat::new(LIMITS, Record::Trigger, 8), &trigger).triggers, [(1000, 6, true)]);
}
