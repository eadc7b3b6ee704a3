use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::format::testing::{Random, Row, check};

const PLAIN: AtisBin = AtisBin { width: 256, height: 240 };

/// Record by record, after the format sheet.
fn plain(bytes: &[u8], width: u8, height: u8) -> (Vec<Row>, u64) {
    let (mut rows, mut outside, mut late) = (Vec::new(), 0, 0);
    for record in bytes.chunks_exact(5) {
        let [x, y, a, b, c] = *record else { unreachable!() };
        if y == 240 {
            late += 8192;
        } else if x < width && y < height {
            let t = i64::from(a & 0x7F) << 16 | i64::from(b) << 8 | i64::from(c);
            rows.push((x.into(), y.into(), t + late, if a >> 7 == 1 { 1 } else { -1 }));
        } else {
            outside += 1;
        }
    }
    (rows, outside)
}

#[test]
fn the_sheets_vector() {
    let bytes = [0x0A, 0x14, 0x81, 0x23, 0x45, 0x21, 0x00, 0x00, 0x00, 0x64];
    check(&PLAIN, &bytes, &[(10, 20, 74_565, 1), (33, 0, 100, -1)], &mut Random(1), 20);
}

#[test]
fn overflows_move_all_that_follows() {
    let bytes = [1, 2, 0, 0, 5, 0, 240, 0, 0, 9, 1, 2, 0, 0, 6, 49, 240, 0, 0, 0, 1, 2, 0x80, 0, 7];
    check(&PLAIN, &bytes, &[(1, 2, 5, -1), (1, 2, 8198, -1), (1, 2, 16_391, 1)], &mut Random(1), 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_and_any_split(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(240_u8), 0_u8..40], 0..400), seed: u64) {
        let format = AtisBin { width: 200, height: 230 };
        let (rows, outside) = plain(&bytes, 200, 230);
        let problems = check(&format, &bytes, &rows, &mut Random(seed), 300);
        let count = |code| problems.get(code).map_or(0, |problem| problem.count);
        prop_assert_eq!(count(ProblemCode::OutOfBounds), outside);
        prop_assert_eq!(count(ProblemCode::Truncated), u64::from(bytes.len() % 5 != 0));
    }

    #[test]
    fn what_is_written_is_read(rows in proptest::collection::vec((0_i16..256, 0_i16..240, 0..END, any::<bool>()), 0..300)) {
        let mut file = Vec::new();
        let expected: Vec<Row> = rows.iter().map(|(x, y, t, on)| (*x, *y, *t, if *on { 1 } else { -1 })).collect();
        for (x, y, t, p) in &expected {
            Writer.encode(&[*x], &[*y], &[*t], &[*p], &mut file);
        }
        prop_assert!(check(&PLAIN, &file, &expected, &mut Random(3), 500).is_empty());
    }
}

#[test]
fn many_segments() {
    let mut random = Random(9);
    let bytes: Vec<u8> = (0..2_000_000).map(|at| if at % 5 == 1 { random.below(241) as u8 } else { random.next() as u8 }).collect();
    let (rows, _) = plain(&bytes, 255, 240);
    check(&AtisBin { width: 255, height: 240 }, &bytes, &rows, &mut random, 1 << 20);
}
