use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::format::testing::{Random, Row, check};

fn stream<K: Kind>(width: u32, height: u32) -> EventStream<K> {
    EventStream::new(Geometry::new(width, height).unwrap(), 20)
}

/// Byte by byte, after the format sheet: rows, events outside, and whether the last record is cut short.
fn plain(kind: u8, payload: &[u8], width: u16, height: u16) -> (Vec<Row>, u64, bool) {
    let (mut rows, mut outside, mut t, mut at) = (Vec::new(), 0, 0_i64, 0);
    while at < payload.len() {
        let head = payload[at];
        let alone = match (kind, head) {
            (1, 0xFE) | (2, 0xFC) => Some(0),
            (1, 0xFF) => Some(127),
            (2, 0xFD..) => Some(63 * i64::from(head & 3)),
            _ => None,
        };
        if let Some(microseconds) = alone {
            t += microseconds;
            at += 1;
            continue;
        }
        let Some(record) = payload.get(at..at + 5) else { return (rows, outside, true) };
        let (x, y) = (u16::from_le_bytes([record[1], record[2]]), u16::from_le_bytes([record[3], record[4]]));
        t += i64::from(if kind == 1 { head >> 1 } else { head >> 2 });
        let on = if kind == 1 { head & 1 } else { head >> 1 & 1 };
        if kind == 1 || head & 1 == 0 {
            if x < width && y < height {
                rows.push((x as i16, (height - 1 - y) as i16, t, if on == 1 { 1 } else { -1 }));
            } else {
                outside += 1;
            }
        }
        at += 5;
    }
    (rows, outside, false)
}

fn file(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 20];
    file.extend(payload);
    file
}

fn agree(payload: &[u8], width: u16, height: u16, random: &mut Random, largest: u64) {
    let file = file(payload);
    for kind in [1, 2] {
        let (rows, outside, cut) = plain(kind, payload, width, height);
        let problems = match kind {
            1 => check(&stream::<Dvs>(width.into(), height.into()), &file, &rows, random, largest),
            _ => check(&stream::<Atis>(width.into(), height.into()), &file, &rows, random, largest),
        };
        let count = |code| problems.get(code).map_or(0, |problem| problem.count);
        assert_eq!((count(ProblemCode::OutOfBounds), count(ProblemCode::Truncated)), (outside, cut.into()));
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
        // A lost byte, and damage: what follows is nonsense, but the same nonsense.
        payload.remove(700_003);
        for _ in 0..50 {
            let at = random.below(payload.len() as u64) as usize;
            payload[at] = random.next() as u8;
        }
        agree(&payload, width as u16, height as u16, &mut random, 1 << 20);
    }
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
