use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::format::testing::{Random, Row, check, segments};

/// What a plain reader makes of records: events, events outside, external events, clocks that were set back.
#[derive(Default, PartialEq, Eq, Debug)]
struct Plain {
    rows: Vec<Row>,
    outside: u64,
    external: u64,
    resets: u64,
    cut: bool,
}

/// One after the other, after the format sheet.
fn plain(records: &Records, bytes: &[u8]) -> Plain {
    let size = records.address + 4;
    let mut found = Plain { cut: !bytes.len().is_multiple_of(size), ..Plain::default() };
    let mut last: Option<i64> = None;
    let (width, height) = (i64::from(records.sensor.width()), i64::from(records.sensor.height()));
    let (left, top) = (i64::from(records.unwanted.0), i64::from(records.unwanted.1));
    for record in bytes.chunks_exact(size) {
        let number = |bytes: &[u8]| bytes.iter().fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
        let (address, stored) = (number(&record[..size - 4]), number(&record[size - 4..]));
        let t = match last {
            None => stored,
            Some(last) => {
                // Of the times that this can be, the one nearest to the last; but none before the first period.
                let now = last.div_euclid(PERIOD) * PERIOD + stored;
                [now - PERIOD, now, now + PERIOD].into_iter().filter(|t| *t >= 0).min_by_key(|t| ((t - last).abs(), *t != now)).unwrap()
            }
        };
        // In the first period a long step ahead is no step back across a wrap.
        let t = if last.is_some_and(|last| last < PERIOD && t < PERIOD) { stored } else { t };
        found.resets += u64::from(last.is_some_and(|last| t < last - RESET_US));
        last = Some(t);
        let (external, other, x, y, on) = match records.layout {
            Layout::Dvs128 => (address >> 15 & 1 == 1, false, address >> 1 & 127, address >> 8 & 127, address & 1 == 0),
            Layout::Davis => {
                let sample = address >> 31 == 1;
                (!sample && address >> 10 & 1 == 1, sample, address >> 12 & 1023, address >> 22 & 511, address >> 11 & 1 == 1)
            }
        };
        if external {
            found.external += 1;
        } else if !other && (left..width).contains(&x) && (top..height).contains(&y) {
            found.rows.push(((width - 1 - x) as i16, (height - 1 - y) as i16, t, if on { 1 } else { -1 }));
        } else {
            found.outside += u64::from(!other);
        }
    }
    found
}

fn agree(records: &Records, bytes: &[u8], random: &mut Random, largest: u64) {
    let mut file = vec![0; records.payload as usize];
    file.extend(bytes);
    let expected = plain(records, bytes);
    let problems = check(records, &file, &expected.rows, random, largest);
    let count = |code| problems.get(code).map_or(0, |problem| problem.count);
    assert_eq!(count(ProblemCode::OutOfBounds), expected.outside);
    assert_eq!(count(ProblemCode::TimeReset), expected.resets);
    assert_eq!(count(ProblemCode::Truncated), u64::from(expected.cut));
    let (segments, _) = segments(records, &file, || 1 << 20);
    assert_eq!(segments.iter().map(|segment| segment.triggers).sum::<u64>(), expected.external);
}

/// Files of every kind.
fn kinds() -> [Records; 5] {
    let size = |width, height| Geometry::new(width, height).unwrap();
    [
        Records::new(0, 2, Layout::Dvs128, size(128, 128), (1.0, 1.0)),
        Records::new(17, 4, Layout::Dvs128, size(100, 90), (1.0, 1.0)),
        Records::new(3, 4, Layout::Davis, size(240, 180), (1.0, 1.0)),
        Records::new(3, 4, Layout::Davis, size(240, 180), (1.0, 1.0)).within(size(200, 500)),
        Records::new(3, 4, Layout::Davis, size(1023, 511), (1.0, 1.0)),
    ]
}

/// What a sensor sends: mostly events, samples between them, times that go on and seldom step.
fn stream(records: &Records, count: usize, calm: bool, random: &mut Random) -> Vec<u8> {
    let mut t = random.next() as u32;
    let mut out = Vec::new();
    for _ in 0..count {
        t = match if calm { 9 } else { random.below(200) } {
            0 => random.next() as u32,
            1 => t.wrapping_add(1 << 31),
            2 => t.wrapping_sub(20_000),
            3..9 => t.wrapping_sub(random.below(9000) as u32),
            _ => t.wrapping_add(random.below(50) as u32),
        };
        let mut address = (random.below(u64::from(records.sensor.width())) as u32) << 12
            | (random.below(u64::from(records.sensor.height())) as u32) << 22
            | (random.below(2) as u32) << 11;
        if records.layout == Layout::Dvs128 {
            address = (random.below(90) as u32) << 1 | (random.below(90) as u32) << 8 | random.below(2) as u32;
        }
        if !calm && random.below(20) == 0 {
            address = random.next() as u32;
        }
        if records.address == 2 {
            out.extend((address as u16).to_be_bytes());
        } else {
            out.extend(address.to_be_bytes());
        }
        out.extend(t.to_be_bytes());
    }
    out
}

#[test]
fn long_streams_in_many_segments() {
    let mut random = Random(11);
    for records in kinds() {
        for calm in [false, true] {
            let bytes = stream(&records, 150_000, calm, &mut random);
            agree(&records, &bytes, &mut random, 1 << 20);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, rng_seed: RngSeed::Fixed(5), ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same(seed: u64, count in 0_usize..600, calm: bool, cut in 0_usize..8) {
        let mut random = Random(seed);
        for records in kinds() {
            let mut bytes = stream(&records, count, calm, &mut random);
            bytes.truncate(bytes.len().saturating_sub(cut));
            agree(&records, &bytes, &mut random, 900);
        }
    }

    #[test]
    fn random_bytes_too(bytes in proptest::collection::vec(any::<u8>(), 0..2000), seed: u64) {
        for records in kinds() {
            agree(&records, &bytes, &mut Random(seed), 300);
        }
    }
}
