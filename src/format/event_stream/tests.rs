use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::format::testing::{Random, Row, check};

fn stream<K: Kind>(width: u32, height: u32) -> EventStream<K> {
    let sensor = Geometry::new(width, height).unwrap();
    EventStream::new(sensor, sensor, 20)
}

/// What a plain reader makes of a payload.
#[derive(Default)]
struct Plain {
    rows: Vec<Row>,
    outside: u64,
    /// Records and bytes between places.
    lost: (u64, u64),
    cut: bool,
}

fn alone(kind: u8, head: u8) -> Option<i64> {
    match (kind, head) {
        (1, 0xFE) | (2, 0xFC) => Some(0),
        (1, 0xFF) => Some(127),
        (2, 0xFD..) => Some(63 * i64::from(head & 3)),
        _ => None,
    }
}

fn place(record: &[u8]) -> (u16, u16) {
    (u16::from_le_bytes([record[1], record[2]]), u16::from_le_bytes([record[3], record[4]]))
}

/// Whether 16 records inside follow, or 4 or more and then the end.
fn is_place(kind: u8, payload: &[u8], mut at: usize, width: u16, height: u16) -> bool {
    let mut inside = 0;
    while inside < 16 {
        if at < payload.len() && alone(kind, payload[at]).is_some() {
            at += 1;
            continue;
        }
        let Some(record) = payload.get(at..at + 5) else { return inside >= 4 };
        let (x, y) = place(record);
        if x >= width || y >= height {
            return false;
        }
        inside += 1;
        at += 5;
    }
    true
}

/// Byte by byte, after the format sheet: at four records outside in a row the next place is searched for within 1 MiB.
fn plain(kind: u8, payload: &[u8], width: u16, height: u16) -> Plain {
    let mut found = Plain::default();
    let (mut t, mut at) = (0_i64, 0);
    // The records outside in a row: their first byte, the time before them, the records outside before them.
    let mut row: Vec<(usize, i64, u64)> = Vec::new();
    let mut blind = 0;
    while at < payload.len() {
        let head = payload[at];
        if let Some(microseconds) = alone(kind, head) {
            t += microseconds;
            at += 1;
            row.clear();
            continue;
        }
        let Some(record) = payload.get(at..at + 5) else {
            found.cut = true;
            break;
        };
        let (x, y) = place(record);
        let inside = x < width && y < height;
        if inside {
            row.clear();
        } else {
            row.push((at, t, found.outside));
            found.outside += 1;
        }
        t += i64::from(if kind == 1 { head >> 1 } else { head >> 2 });
        at += 5;
        let on = if kind == 1 { head & 1 } else { head >> 1 & 1 };
        if inside && (kind == 1 || head & 1 == 0) {
            found.rows.push((x as i16, (height - 1 - y) as i16, t, if on == 1 { 1 } else { -1 }));
        }
        if row.len() == 4 {
            let (from, time, outside) = row[0];
            row.clear();
            if from < blind {
                continue;
            }
            let next = (from + 1..payload.len().min(from + 1 + (1 << 20))).find(|at| is_place(kind, payload, *at, width, height));
            if let Some(next) = next {
                found.lost.0 += (next - from).div_ceil(5) as u64;
                found.lost.1 += (next - from) as u64;
                (at, t, found.outside) = (next, time, outside);
            } else {
                blind = from + (1 << 20);
            }
        }
    }
    found
}

fn file(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 20];
    file.extend(payload);
    file
}

fn agree(payload: &[u8], width: u16, height: u16, random: &mut Random, largest: u64) {
    let file = file(payload);
    for kind in [1, 2] {
        let found = plain(kind, payload, width, height);
        let problems = match kind {
            1 => check(&stream::<Dvs>(width.into(), height.into()), &file, &found.rows, random, largest),
            _ => check(&stream::<Atis>(width.into(), height.into()), &file, &found.rows, random, largest),
        };
        let count = |code| problems.get(code).map_or((0, 0), |problem| (problem.count, problem.bytes));
        assert_eq!(count(ProblemCode::LostSync), found.lost);
        assert_eq!((count(ProblemCode::OutOfBounds).0, count(ProblemCode::Truncated).0), (found.outside, found.cut.into()));
    }
}

/// What a sensor sends, with silences.
fn dvs(random: &mut Random, records: usize, width: u64, height: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..records {
        match random.below(200) {
            0 => out.extend(vec![0xFF; random.below(300) as usize]),
            1 => out.push(0xFE),
            _ => {}
        }
        out.push((random.below(20) << 1 | random.below(2)) as u8);
        out.extend((random.below(width) as u16).to_le_bytes());
        out.extend((random.below(height) as u16).to_le_bytes());
    }
    out
}

#[test]
fn the_sheets_dvs_vector() {
    let payload = [
        0x01, 0x01, 0x00, 0x02, 0x00, 0xFC, 0x03, 0x00, 0x04, 0x00, 0xFF, 0x01, 0x7F, 0x02, 0xDF, 0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xE0,
        0x05, 0x00, 0x06, 0x00,
    ];
    let expected = [(1, 477, 0, 1), (3, 475, 126, -1), (639, 0, 253, 1), (5, 473, 1000, -1)];
    check(&stream::<Dvs>(640, 480), &file(&payload), &expected, &mut Random(1), 30);
}

#[test]
fn the_sheets_atis_vector() {
    let payload =
        [0xFA, 0x01, 0x00, 0x02, 0x00, 0xFD, 0x01, 0x03, 0x00, 0x04, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFD, 0xE3, 0x2F, 0x01, 0xEF, 0x00];
    check(&stream::<Atis>(304, 240), &file(&payload), &[(1, 237, 62, 1)], &mut Random(1), 30);
}

#[test]
fn long_streams_in_many_blocks() {
    for (seed, width, height) in [(1, 1280, 720), (2, 128, 128), (3, 346, 260)] {
        let mut random = Random(seed);
        let mut payload = dvs(&mut random, 400_000, width, height);
        agree(&payload, width as u16, height as u16, &mut random, 3 << 20);
        // Lost bytes, a stretch of noise, and damage.
        payload.remove(700_003);
        payload.drain(900_000..900_777);
        payload.splice(1_000_000..1_000_000, (0..3000).map(|_| random.next() as u8));
        for _ in 0..50 {
            let at = random.below(payload.len() as u64) as usize;
            payload[at] = random.next() as u8;
        }
        agree(&payload, width as u16, height as u16, &mut random, 1 << 20);
    }
}

#[test]
fn after_a_lost_byte_the_place_is_found_again() {
    let mut random = Random(9);
    for (width, height) in [(1280, 720), (640, 480), (128, 128)] {
        let whole = dvs(&mut random, 40_000, width, height);
        let expected = plain(1, &whole, width as u16, height as u16).rows;
        for lost in 1..5 {
            let mut payload = whole.clone();
            payload.drain(100_002..100_002 + lost);
            let found = plain(1, &payload, width as u16, height as u16);
            assert!(found.rows.len() + 30 > expected.len(), "{} of {}", found.rows.len(), expected.len());
            let pixels = |row: &Row| (row.0, row.1, row.3);
            assert!(found.rows.iter().rev().map(pixels).take(15_000).eq(expected.iter().rev().map(pixels).take(15_000)));
            agree(&payload, width as u16, height as u16, &mut random, 300_000);
        }
    }
}

#[test]
fn a_sensor_size_that_lies_costs_no_time() {
    let payload = dvs(&mut Random(3), 600_000, 1280, 720);
    agree(&payload, 5, 5, &mut Random(5), 1 << 20);
}

#[test]
fn silence_costs_no_time() {
    let mut payload = vec![0xFF; 3 << 20];
    payload.extend([0x03, 1, 0, 1, 0]);
    agree(&payload, 10, 10, &mut Random(5), 1 << 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same(seed: u64, records in 0_usize..400, cut in 0_usize..6) {
        let mut random = Random(seed);
        let mut payload = dvs(&mut random, records, 330, 250);
        payload.truncate(payload.len().saturating_sub(cut));
        agree(&payload, 320, 240, &mut random, 200);
    }

    #[test]
    fn random_bytes_too(payload in proptest::collection::vec(any::<u8>(), 0..2000), seed: u64) {
        agree(&payload, 1 << 15, 1 << 15, &mut Random(seed), 100);
        agree(&payload, 200, 100, &mut Random(seed), 100);
    }

    #[test]
    fn heads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20), kind in 0_u8..6) {
        let mut head = MAGIC.to_vec();
        head.extend([2, 0, 0, kind]);
        head.extend(bytes);
        let _ = Header::parse(&head, None);
    }

    #[test]
    fn what_is_written_is_read(rows in proptest::collection::vec((0_i16..320, 0_i16..240, 0_i64..5000, any::<bool>()), 0..300)) {
        let geometry = Geometry::new(320, 240).unwrap();
        let mut writer = Writer::new(geometry);
        let mut file = writer.header(geometry, "");
        let (mut t, mut expected) = (0, Vec::new());
        for (x, y, ahead, on) in rows {
            t += ahead;
            let p = if on { 1 } else { -1 };
            writer.encode(&[x], &[y], &[t], &[p], &mut file);
            expected.push((x, y, t, p));
        }
        let header = Header::parse(&file, None).unwrap();
        prop_assert_eq!(header.geometry, Some(geometry));
        let problems = check(&stream::<Dvs>(320, 240), &file, &expected, &mut Random(3), 500);
        prop_assert!(problems.is_empty());
    }
}
