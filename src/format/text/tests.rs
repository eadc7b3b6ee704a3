use std::fmt::Write as _;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::format::testing::{Random, Row, check};
use crate::write::Encoder;

fn layout(head: &[u8], options: &OpenOptions) -> Result<Layout> {
    Layout::detect(head, true, options)
}

fn lines(file: &[u8], options: &OpenOptions) -> Lines {
    let layout = layout(file, options).unwrap();
    let geometry = options.geometry.or(layout.geometry);
    Lines::new(layout, geometry, options.time_offset_us.unwrap_or(0), End::At(file.len() as u64))
}

/// Line by line, by the definition.
fn plain(lines: &Lines, file: &[u8]) -> (Vec<Row>, u64, u64) {
    let (mut rows, mut bad, mut outside) = (Vec::new(), 0, 0);
    let body = &file[lines.layout.start as usize..];
    let mut parts: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    if body.ends_with(b"\n") || body.is_empty() {
        parts.pop();
    }
    for line in parts {
        match lines.parse(line) {
            Line::Event { event, .. } => rows.push((event.x, event.y, event.t, if event.on { 1 } else { -1 })),
            Line::Bad(_) => bad += 1,
            Line::Outside => outside += 1,
            Line::Nothing => {}
        }
    }
    (rows, bad, outside)
}

fn agree(file: &[u8], options: &OpenOptions, random: &mut Random, largest: u64) -> Vec<Row> {
    let lines = lines(file, options);
    let (rows, bad, outside) = plain(&lines, file);
    let problems = check(&lines, file, &rows, random, largest);
    let count = |code| problems.get(code).map_or(0, |problem| problem.count);
    assert_eq!((count(ProblemCode::BadLine), count(ProblemCode::OutOfBounds)), (bad, outside));
    rows
}

fn read(text: &str) -> Vec<Row> {
    agree(text.as_bytes(), &OpenOptions::default(), &mut Random(1), 100)
}

fn found(text: &str) -> String {
    match layout(text.as_bytes(), &OpenOptions::default()) {
        Ok(found) => format!(
            "{} | {} | {}{}",
            found.columns(),
            found.separator.name(),
            found.unit.name(),
            found.geometry.map_or(String::new(), |size| format!(" | {size}"))
        ),
        Err(error) => error.to_string(),
    }
}

#[test]
fn layouts_in_circulation() {
    for (text, expected) in [
        ("0.003811000 96 133 0\n0.003820001 17 172 1\n", "t x y p | blank | s"),
        ("240 180\n0.003811000 96 133 0\n", "t x y p | blank | s | 240x180"),
        ("#!events.txt\n# timestamp x y polarity\n0.5 1 2 1\n0.6 3 4 0\n", "t x y p | blank | s"),
        ("# v2e\n# more\n0.5 1 2 1 0\n0.6 3 4 0 1\n", "t x y p | blank | s"),
        ("%geometry:640,480\n1,2,0,100\n3,2,1,105\n0,9,1,207\n", "x y p t | comma | us | 640x480"),
        ("t,x@1280,y@720,on\r\n0,1,2,1\r\n", "t x y p | comma | us | 1280x720"),
        ("timestamp, x, y, polarity\n1600000000000000, 3, 4, 1\n", "t x y p | comma | us"),
        (",x,y,t,p\n0,1,2,3,0\n", "_ x y t p | comma | us"),
        ("p\ty\tx\tts\n1\t2\t3\t4\n", "p y x t | tab | us"),
        ("x;y;p;time (s)\n1;2;0;3\n", "x y p t | semicolon | s"),
        ("time_ns,x,y,p\n1,2,3,1\n", "t x y p | comma | ns"),
        ("x,y,polarity,timestamp\n1,2,0,1600000000123456789\n", "x y p t | comma | ns"),
        ("t,x,y,p\n1600000000123,1,2,0\n", "t x y p | comma | ms"),
        ("t,x,y,p\n1600000000.123,1,2,0\n", "t x y p | comma | s"),
        ("t,x,y,p\n1000.0,1,2,0\n99000.0,1,2,0\n", "t x y p | comma | us"),
        ("1 2 70000 1\n4 3 70001 0\n", "x y t p | blank | us"),
        ("\u{feff}t,x,y,p\n1,2,3,1\n", "t x y p | comma | us"),
        ("# t,x,y,p\n1,2,3,1\n", "t x y p | comma | us"),
        ("10 5 3 1\n20 4 2 -1\n", "t x y p | blank | us"),
        ("1.5e-3 5 3 1\n", "t x y p | blank | s"),
        ("10 5 True 100\n20 4 False 170\n", "x y p t | blank | us"),
    ] {
        assert_eq!(found(text), expected, "{text:?}");
        assert!(fits(text.as_bytes()), "{text:?}");
    }
}

#[test]
fn what_cannot_be_told() {
    for text in ["1 1 1 1\n", "1 2 3 1\n", "a,b,c,d\n", "t,x,y\n1,2,3\n", "0.5 0.5 0.25 7\n"] {
        assert!(found(text).contains("text_columns"), "{text:?}: {}", found(text));
    }
    for text in ["hello world\n", "", "\n\n", "% evt 3.0\n% end\n1 2 3 4\n", "#!AER-DAT2.0\r\n1 2 3 4\n", "{\"a\": [1, 2, 3, 4]}\n"] {
        assert!(!fits(text.as_bytes()), "{text:?}");
    }
    assert!(!fits(b"0.1 1 2 1\n\0\0\0\0"));
}

/// A column of row names in front, as data frames write it, with an empty name or none.
#[test]
fn row_names() {
    let numbers = |order: &[usize], separator: &str, row: &str| -> String {
        let line = |i: i64| {
            let values = [10 * i, (7 * i) % 31, (5 * i) % 23, i % 2].map(|value| value.to_string());
            let fields = order.iter().map(|index| values[*index].clone());
            std::iter::once(row.replace('0', &i.to_string())).chain(fields).collect::<Vec<_>>().join(separator) + "\n"
        };
        (0..200).map(line).collect()
    };
    let expected: Vec<Row> =
        (0..200).map(|i: i64| (((7 * i) % 31) as i16, ((5 * i) % 23) as i16, 10 * i, if i % 2 == 1 { 1 } else { -1 })).collect();
    for (names, order, separator, row) in [
        ("\tt\tx\ty\tp", [0, 1, 2, 3], "\t", "0"),
        ("\tx\ty\tp\tt", [1, 2, 3, 0], "\t", "0"),
        ("\tt\tx\tp\ty", [0, 1, 3, 2], "\t", "0"),
        (",x,y,p,t", [1, 2, 3, 0], ",", "0"),
        ("\"\" t x y p", [0, 1, 2, 3], " ", "0"),
        ("\"t\" \"x\" \"y\" \"p\"", [0, 1, 2, 3], " ", "\"0\""),
        ("x y p t", [1, 2, 3, 0], " ", "0"),
        ("x\ty\tt\tp", [1, 2, 0, 3], "\t", "0"),
        ("p,t,x,y", [3, 0, 1, 2], ",", "\"0\""),
    ] {
        let text = format!("{names}\n{}", numbers(&order, separator, row));
        assert_eq!(read(&text), expected, "{names}");
    }
    // A column without a name after the others is one more; a last separator is none.
    assert_eq!(read("t x y p\n10 5 9 1 1\n20 7 3 0 0\n30 6 2 1 1\n"), [(5, 9, 10, 1), (7, 3, 20, -1), (6, 2, 30, 1)]);
    assert_eq!(read("t,x,y,p\n1,2,1,1,\n2,3,0,0,\n"), [(2, 1, 1, 1), (3, 0, 2, -1)]);
    // Both readings give events, in order of time.
    let unclear = found("t,x,y,p\n1,2,1,1,0\n2,3,0,0,1\n");
    assert!(unclear.contains("5 columns") && unclear.contains("text_columns"), "{unclear}");
}

#[test]
fn no_line_is_an_event() {
    for (text, why) in [
        ("t,x,y,p\n0 days 00:00:00.000010,1,2,1\n0 days 00:00:00.000020,3,4,0\n", "no time in `0 days 00:00:00.000010,1,2,1`"),
        ("t,x,y,p\n1,2,3,T\n2,3,4,F\n", "no polarity in `1,2,3,T`"),
        ("t;x;y;p\n0,5;2;3;1\n0,6;3;4;0\n", "no time in `0,5;2;3;1`"),
        ("t,x,y,note,p\n1,2,3\n2,3,4\n", "too few fields in `1,2,3`"),
        ("t\tx\ty\tp\n1\t\t3\t0\n2\t\t4\t1\n", "no pixel in `1\\t\\t3\\t0`"),
    ] {
        let error = found(text);
        assert!(error.contains("no line is an event") && error.contains(why), "{error}");
        assert_eq!(layout(text.as_bytes(), &OpenOptions::default()).unwrap_err().offset(), Some(text.find('\n').unwrap() as u64 + 1));
    }
    let options = OpenOptions::default().with_text_columns("t x y p");
    assert!(layout(b"0.5 1 2 up\n", &options).unwrap_err().to_string().contains("no polarity in `0.5 1 2 up`"));
    assert!(layout(b"0.5 1 2 up\n0.6 1 2 1\n", &options).is_ok());
    // Nothing to judge by.
    for text in ["t,x,y,p\n", "t,x,y,p\n# none\n", "t,x,y,p\n0.5,1"] {
        assert!(read(text).is_empty());
    }
}

#[test]
fn carriage_returns_alone() {
    for text in ["0.5 1 2 1\r0.6 3 4 0\r", "t,x,y,p\r1,2,3,1\r", "\r0.5 1 2 1\r0.6 3 4 0"] {
        assert!(fits(text.as_bytes()), "{text:?}");
        assert!(found(text).contains("carriage return"), "{}", found(text));
    }
    assert_eq!(read("0.5 1 2 1\r"), [(1, 2, 500_000, 1)]);
    // Among lines that end as they should, they are damage.
    for end in ["", ",7", "\r\r,7"] {
        let line =
            |i: i64| format!("{},{i},{},{}{}\n", 10 * i, i % 3, i % 2, if i % 5 == 0 { format!("{end}\r1,2,3,1") } else { String::new() });
        let (text, mut expected) = many(line);
        expected.retain(|row| row.2 % 50 != 0);
        assert_eq!(read(&format!("t,x,y,p\n{text}")), expected);
    }
}

#[test]
fn columns_of_the_caller() {
    let options = |columns: &str| OpenOptions::default().with_text_columns(columns);
    let rows = agree(b"1 1 1 1\n9 8 7 0\n", &options("x y t p"), &mut Random(1), 9);
    assert_eq!(rows, [(1, 1, 1, 1), (9, 8, 7, -1)]);
    let rows = agree(b"a,b,c,d,e\n7,1,2,3,1\n", &options("_,p,y,x,t"), &mut Random(1), 9);
    assert_eq!(rows, [(3, 2, 1, 1)]);
    let rows = agree(b"a 0.5 1 2 1\nb 0.6 3 4 0\n", &options("_ t x y p"), &mut Random(1), 9);
    assert_eq!(rows, [(1, 2, 500_000, 1), (3, 4, 600_000, -1)]);
    let rows = agree(b"7 1 2 1\n", &options("t x y p").with_time_unit(TimeUnit::Milliseconds).with_time_offset(-1), &mut Random(1), 9);
    assert_eq!(rows, [(1, 2, 6999, 1)]);
    for wrong in ["", "t x y", "t x y p p", "t x y q", "t x y p t"] {
        assert!(layout(b"1 2 3 4\n", &options(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn lines_of_every_kind() {
    let rows = read(
        "\n0.5 1 2 1\r\n\r\n  0.6   3\t4 0  \n# no event\nnot one either\n0.7 1 2\n0.8 1 2 3\n-0.000001 +5 6.0 0\n.25 7.4 8 1.0\n1. 9 9 on",
    );
    assert_eq!(rows, [(1, 2, 500_000, 1), (3, 4, 600_000, -1), (5, 6, -1, -1), (7, 8, 250_000, 1), (9, 9, 1_000_000, 1)]);
    assert_eq!(read("t,x,y,p\n\"1\",' 2 ',3,1\n"), [(2, 3, 1, 1)]);
    assert_eq!(read("2 2\n0.1 1 1 1\n0.2 2 1 1\n0.3 1 -1 1\n"), [(1, 1, 100_000, 1)]);
}

/// Rows enough for the fast path, which leaves the last bytes of a buffer to the definition.
fn many(line: impl Fn(i64) -> String) -> (String, Vec<Row>) {
    let text = (0..200).map(line).collect();
    (text, (0..200).map(|i: i64| (i as i16, (i % 3) as i16, 10 * i, if i % 2 == 1 { 1 } else { -1 })).collect())
}

#[test]
fn skipped_columns() {
    let by = |text: &str, columns: Option<&str>| {
        let options = OpenOptions::default();
        let options = match columns {
            Some(columns) => options.with_text_columns(columns),
            None => options,
        };
        agree(text.as_bytes(), &options, &mut Random(5), 300)
    };
    let (aligned, expected) = many(|i| format!("{i:6} {:8} {i:4} {:4} {}\n", 10 * i, i % 3, i % 2));
    assert_eq!(by(&aligned, Some("_ t x y p")), expected);
    assert_eq!(by(&format!("   idx        t    x    y p\n{aligned}"), None), expected);
    for (comment, separator) in [("#", ','), ("%", ','), ("  #", ';'), ("# ", ' '), ("\t#", '\t')] {
        let (rows, expected) =
            many(|i| format!("{i},{},{i},{},{}\n{comment}{i},999,9,9,1\n", 10 * i, i % 3, i % 2).replace(',', &separator.to_string()));
        let names = "id,t,x,y,p\n".replace(',', &separator.to_string());
        assert_eq!(by(&format!("{names}{rows}"), None), expected, "{comment}{separator}");
    }
    // Cells of a column that is not read may be empty, and have blanks.
    for cell in ["", "a b", " a ", "\u{e9}", "#"] {
        let (rows, expected) = many(|i| format!("{}\t{cell}\t{i}\t{}\t{}\t1\n", 10 * i, i % 3, i % 2));
        assert_eq!(by(&format!("t\tnote\tx\ty\tp\tflag\n{rows}"), None), expected, "{cell:?}");
        let (rows, expected) = many(|i| format!("{cell},{},{i},{},{}\n", 10 * i, i % 3, i % 2));
        let expected = if cell == "#" { Vec::new() } else { expected };
        assert_eq!(by(&format!("note,t,x,y,p\n{rows}"), None), expected, "{cell:?}");
    }
    // Without names, tabs that leave cells empty only align.
    let (rows, expected) = many(|i| format!("{:8}\t\t{i:4}\t\t{}\t\t{}\n", 10 * i, i % 3, i % 2));
    assert_eq!(by(&rows, None), expected);
    let (rows, expected) = many(|i| format!("{} \t{i}\t {}\t{}\n", 10 * i, i % 3, i % 2));
    assert_eq!(by(&rows, None), expected);
}

#[test]
fn endless_lines_are_stepped_over() {
    let mut file = b"0.5 1 2 1\n".to_vec();
    file.extend(std::iter::repeat_n(b'7', 3 * LONGEST));
    file.extend(b" 1 2 1\n0.6 3 4 0\n");
    file.extend(std::iter::repeat_n(b'#', 2 * LONGEST));
    for largest in [1 << 10, 1 << 17, 1 << 20] {
        let lines = lines(&file, &OpenOptions::default());
        let (rows, bad, _) = plain(&lines, &file);
        assert_eq!((rows.len(), bad), (2, 2));
        let problems = check(&lines, &file, &rows, &mut Random(largest), largest);
        assert_eq!(problems.get(ProblemCode::BadLine).unwrap().count, 2);
    }
}

#[test]
fn many_segments() {
    let mut random = Random(11);
    let (mut file, mut t) = (String::from("t,x,y,p\n"), 0);
    for _ in 0..120_000 {
        t += random.below(30);
        let end = if random.below(40) == 0 { "\r\n" } else { "\n" };
        match random.below(300) {
            0 => file.push_str("# comment\n"),
            1 => file.push_str("bad\n"),
            2 => file.push('\n'),
            _ => write!(file, "{t},{},{},{}{end}", random.below(1280), random.below(720), random.below(2)).unwrap(),
        }
    }
    assert!(agree(file.as_bytes(), &OpenOptions::default(), &mut random, 1 << 20).len() > 118_000);
}

/// Numbers as they stand in files, and nearly so.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (0_u32..1500).prop_map(|value| value.to_string()),
        4 => (0_u64..10_000_000_000, 0_u32..14).prop_map(|(value, digits)| format!("{}.{:0width$}", value / 1000, value % 1000, width = digits as usize)),
        3 => any::<u64>().prop_map(|value| value.to_string()),
        1 => any::<i64>().prop_map(|value| value.to_string()),
        1 => (any::<f64>()).prop_map(|value| format!("{value:e}")),
        1 => (-2.0..700.0_f64).prop_map(|value| format!("{value:.3}")),
        3 => prop_oneof![Just("0"), Just("1"), Just("-1"), Just("+"), Just("-0"), Just("00012"), Just("True"), Just("1."), Just(".5"), Just("")]
            .prop_map(str::to_owned),
        1 => "[0-9.eE+ #%x\"-]{0,12}",
    ]
}

/// Blanks beside a field.
fn padding() -> impl Strategy<Value = &'static str> {
    prop_oneof![10 => Just(""), 1 => Just(" "), 1 => Just("  ")]
}

/// What stands in a column that is not read.
fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0_u32..99).prop_map(|value| value.to_string()),
        6 => proptest::sample::select(vec!["", "a b", "a\tb", "#1", "%", "-", "\"q\"", " 5", "\u{c}", "a\rb", "\u{e9}", ",", ";"])
            .prop_map(str::to_owned),
        1 => (0_usize..80).prop_map(|length| "n".repeat(length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    /// The fast path and every split give what the definition gives, for lines that are nearly right.
    #[test]
    fn plain_lines_and_others(
        rows in proptest::collection::vec(
            (proptest::collection::vec(field(), 4..6), prop_oneof![8 => Just(" "), 1 => Just("  "), 1 => Just("\t"), 1 => Just(",")], prop_oneof![6 => Just("\n"), 2 => Just("\r\n"), 1 => Just(" \n"), 1 => Just("\n\n")]),
            0..40,
        ),
        order in prop_oneof![Just("t x y p"), Just("x y p t"), Just("_ p y x t")],
        unit in proptest::sample::select(TimeUnit::ALL.to_vec()),
        comma: bool,
        whole: bool,
        seed: u64,
    ) {
        let mut text = (if comma { "1,1,1,1,1\n" } else { "1 1 1 1 1\n" }).repeat(2);
        for (fields, separator, end) in &rows {
            let separator = if comma && *separator == " " { "," } else { separator };
            text.push_str(&fields.join(separator));
            text.push_str(end);
        }
        if !whole {
            text.pop();
        }
        let options = OpenOptions::default().with_text_columns(order).with_time_unit(unit);
        agree(text.as_bytes(), &options, &mut Random(seed), 200);
    }

    /// So it is where columns are skipped, and with blanks, comments and empty cells anywhere.
    #[test]
    fn lines_with_skipped_columns(
        rows in proptest::collection::vec(
            (
                prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("   "), 1 => Just("\t"), 1 => Just("#"), 1 => Just(" %")],
                proptest::collection::vec((padding(), 0_u32..1200, prop_oneof![12 => Just(false), 1 => Just(true)], cell(), padding()), 6),
                prop_oneof![6 => Just("\n"), 2 => Just("\r\n"), 1 => Just(" \n"), 1 => Just("\t\n"), 1 => Just("@ \r\n"), 1 => Just("@7\r8\n")],
            ),
            1..40,
        ),
        order in proptest::sample::select(vec!["t x y p", "_ t x y p", "t _ x y p", "x _ _ y p t", "_ _ p y x t", "x y _ t _ p"]),
        separator in proptest::sample::select(vec![",", ";", "\t", " "]),
        seed: u64,
    ) {
        let mut text = (["1"; 6].join(separator) + "\n").repeat(2);
        for (start, cells, end) in &rows {
            text.push_str(start);
            for (index, (role, (before, value, odd, cell, after))) in order.split(' ').zip(cells).enumerate() {
                text.push_str(if index > 0 { separator } else { "" });
                text.push_str(before);
                match role {
                    _ if *odd => text.push_str(cell),
                    "_" => text.push_str(cell),
                    "p" => write!(text, "{}", value % 2).unwrap(),
                    _ => write!(text, "{value}").unwrap(),
                }
                text.push_str(after);
            }
            text.push_str(&end.replace('@', separator));
        }
        agree(text.as_bytes(), &OpenOptions::default().with_text_columns(order), &mut Random(seed), 200);
    }

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..3000), seed: u64) {
        let _ = layout(&bytes, &OpenOptions::default());
        let _ = fits(&bytes);
        // Events, so that there are some.
        let bytes = [b"1 1 1 1\n1 1 1 1\n".to_vec(), bytes].concat();
        agree(&bytes, &OpenOptions::default().with_text_columns("t x y p"), &mut Random(seed), 500);
    }

    #[test]
    fn random_text(text in "[0-9., \n\r#%eE+-]{0,600}", seed: u64) {
        let _ = fits(text.as_bytes());
        if layout(text.as_bytes(), &OpenOptions::default()).is_ok() {
            agree(text.as_bytes(), &OpenOptions::default(), &mut Random(seed), 100);
        }
    }

    #[test]
    fn what_is_written_is_read(rows in proptest::collection::vec((0_i16.., 0_i16.., any::<i64>(), any::<bool>()), 0..200), csv: bool) {
        let mut writer = Writer::new(std::path::Path::new(if csv { "a.CSV" } else { "a.txt" }));
        let mut file = writer.header(Geometry::new(1, 1).unwrap(), "");
        let expected: Vec<Row> = rows.iter().map(|(x, y, t, on)| (*x, *y, *t, if *on { 1 } else { -1 })).collect();
        for (x, y, t, p) in &expected {
            writer.encode(&[*x], &[*y], &[*t], &[*p], &mut file);
        }
        let options = OpenOptions::default().with_text_columns("t x y p");
        let options = if csv { options } else { options.with_time_unit(TimeUnit::Seconds) };
        let lines = lines(&file, &options);
        prop_assert!(check(&lines, &file, &expected, &mut Random(3), 500).is_empty());
    }
}
