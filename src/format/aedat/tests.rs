//! Properties of the readers over files made here: any way of reading gives the same, no damage is a panic.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::{DurationMicrosecondType, Float32Type};
use arrow_array::{Array, RecordBatch};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::{
    Compression, ErrorKind, EventColumns, EventWriter, Format, Geometry, OpenOptions, ProblemCode, Recording, Result, Selection, TimeRange,
    WriteOptions,
};

/// A file that is removed again.
struct Temporary(PathBuf);

impl Temporary {
    fn new(bytes: &[u8]) -> Self {
        Self::named(bytes, "aedat")
    }

    fn named(bytes: &[u8], extension: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("evlib-aedat-{}-{}.{extension}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        Self(path)
    }

    fn open(&self) -> Result<Recording> {
        Recording::open(&self.0)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.0).expect("the file")
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

type Row = (i64, i16, i16, i8);

fn rows(events: &EventColumns) -> Vec<Row> {
    (0..events.len()).map(|at| (events.timestamp()[at], events.x()[at], events.y()[at], events.polarity()[at])).collect()
}

fn read(recording: &Recording) -> Vec<Row> {
    rows(&recording.read(Selection::default()).expect("a file that stays"))
}

fn problem(recording: &Recording, code: ProblemCode) -> u64 {
    recording.problems().expect("a file that stays").get(code).map_or(0, |problem| problem.count)
}

fn side(recording: &Recording, name: &str) -> Vec<RecordBatch> {
    recording.side_stream(name).expect("a stream").collect::<Result<_>>().expect("batches")
}

fn side_rows(recording: &Recording, name: &str) -> usize {
    side(recording, name).iter().map(RecordBatch::num_rows).sum()
}

fn float(batch: &RecordBatch, name: &str) -> f32 {
    batch.column_by_name(name).expect("a column").as_primitive::<Float32Type>().value(0)
}

fn micros(batch: &RecordBatch, name: &str) -> i64 {
    batch.column_by_name(name).expect("a column").as_primitive::<DurationMicrosecondType>().value(0)
}

fn pixels(batch: &RecordBatch) -> &[u8] {
    batch.column_by_name("pixels").expect("a column").as_binary::<i32>().value(0)
}

fn size(width: u32, height: u32) -> Geometry {
    Geometry::new(width, height).expect("a size")
}

fn records(version: &str, chip: &str, records: impl IntoIterator<Item = (u32, u32)>) -> Vec<u8> {
    let mut bytes = format!("#!AER-DAT{version}\r\n# a comment\r\n# AEChip: {chip}\r\n").into_bytes();
    for (address, time) in records {
        let address = address.to_be_bytes();
        bytes.extend(if version == "1.0" { &address[2..] } else { &address[..] });
        bytes.extend(time.to_be_bytes());
    }
    bytes
}

/// Addresses of a DAVIS: an event, a sample of a pixel, a value of the IMU.
fn davis(x: u32, y: u32, on: bool) -> u32 {
    y << 22 | x << 12 | u32::from(on) << 11
}

fn aps(x: u32, signal: bool, value: u32) -> u32 {
    1 << 31 | x << 12 | u32::from(signal) << 10 | value
}

fn imu(kind: u32, value: i16) -> u32 {
    1 << 31 | kind << 28 | u32::from(value.cast_unsigned()) << 12 | 3 << 10
}

#[test]
fn addresses_of_the_format_sheet() {
    let file = Temporary::new(&records("2.0", "eu.seebetter.ini.chips.davis.DAVIS240C", [(0x1E0C_8800, 123_456)]));
    assert_eq!(read(&file.open().expect("a header")), [(123_456, 239 - 200, 179 - 120, 1)]);
    let file = Temporary::new(&records("2.0", "ch.unizh.ini.jaer.chip.retina.DVS128", [(0x6428, 123_456), (0x8000, 123_457)]));
    let recording = file.open().expect("a header");
    assert_eq!((recording.format(), recording.geometry()), (Format::Aedat2, Some(size(128, 128))));
    assert_eq!(read(&recording), [(123_456, 127 - 20, 127 - 100, 1)]);
    assert_eq!(recording.triggers().expect("triggers").timestamp, [123_457]);
    let file = Temporary::new(&records("1.0", "DVS128", [(0x6429, 7)]));
    let recording = file.open().expect("a header");
    assert_eq!((recording.format(), read(&recording)), (Format::Aedat1, vec![(7, 107, 27, -1)]));
}

#[test]
fn version_1_needs_no_header() {
    let bytes = records("1.0", "", (0..50).map(|row| (row, 1000 * row)));
    let start = bytes.len() - 300;
    let file = Temporary::new(&bytes[start..]);
    let recording = file.open().expect("times that go ahead");
    assert_eq!((recording.format(), recording.event_count().expect("a count")), (Format::Aedat1, 50));
    assert!(Temporary::new(&[7; 300]).open().is_err());
}

#[test]
fn times_wrap_and_are_set_back() {
    let times = [u32::MAX - 1, u32::MAX, 0, u32::MAX, 1, 5_000_000, 3_000_000];
    let file = Temporary::new(&records("2.0", "DAVIS346", times.map(|time| (davis(0, 0, true), time))));
    let recording = file.open().expect("a header");
    let period = 1 << 32;
    let expected = [period - 2, period - 1, period, period - 1, period + 1, period + 5_000_000, period + 3_000_000];
    assert_eq!(read(&recording).iter().map(|row| row.0).collect::<Vec<_>>(), expected);
    assert_eq!(problem(&recording, ProblemCode::TimeReset), 1);
    assert!(!recording.problems().expect("problems").has_losses());
}

#[test]
fn words_that_are_no_events() {
    let mut words = vec![(aps(0, false, 900), 10), (aps(1, false, 800), 11), (davis(1, 0, true), 12)];
    words.extend([(aps(0, true, 100), 21), (aps(1, true, 900), 22), (davis(0, 0, false) | 1 << 10, 23)]);
    words.extend([8192, -4096, 0, 340, 655, -131, 0].into_iter().zip(0..).map(|(value, kind)| (imu(kind, value), 30)));
    let file = Temporary::new(&records("2.0", "unknown", words));
    let recording = OpenOptions::default().with_geometry(size(2, 1)).open(&file.0).expect("a header");
    assert_eq!(read(&recording), [(12, 0, 0, 1)]);
    assert_eq!(recording.triggers().expect("triggers").timestamp, [23]);
    let frames = side(&recording, "frames");
    assert_eq!((frames.len(), pixels(&frames[0])), (1, [0, 0, 0x20, 3].as_slice()));
    assert_eq!(["exposure_start", "exposure_end", "timestamp"].map(|name| micros(&frames[0], name)), [11, 21, 16]);
    let samples = side(&recording, "imu");
    let names = ["accelerometer_x", "accelerometer_y", "gyroscope_x", "gyroscope_y", "temperature"];
    assert_eq!(names.map(|name| float(&samples[0], name).to_string()), ["1", "-0.5", "10", "-2", "36"]);
    assert_eq!(recording.side_stream("other").expect_err("no such stream").kind(), ErrorKind::InvalidArgument);
}

#[test]
fn frames_that_lack_pixels_are_left_out() {
    let whole = |t| [(aps(0, false, 5), t), (aps(1, false, 5), t + 1), (aps(0, true, 1), t + 2), (aps(1, true, 1), t + 3)];
    let words: Vec<_> = whole(0).into_iter().take(3).chain(whole(10)).chain(whole(20).into_iter().skip(1)).chain(whole(30)).collect();
    let file = Temporary::new(&records("2.0", "unknown", words));
    let recording = OpenOptions::default().with_geometry(size(2, 1)).open(&file.0).expect("a header");
    let frames = side(&recording, "frames");
    let starts = frames[0].column_by_name("exposure_start").expect("a column").as_primitive::<DurationMicrosecondType>();
    assert_eq!(starts.values().to_vec(), [11, 31]);
}

#[test]
fn preferences_tell_the_scales() {
    let words = records("2.0", "DAVIS240C", (0..7).map(|kind| (imu(kind, 4096), 30)));
    let (lines, data) = words.split_at(words.len() - 56);
    let mut bytes = lines.to_vec();
    bytes.extend(b"#Start of Preferences for this AEChip\r\n#  <entry key=\"ImuAccelScale\" value=\"ImuAccelScaleG8\"/>\r\n");
    bytes.extend(b"#<entry key=\"ImuGyroScale\" value=\"GyroFullScaleDegPerSec1000\"/>\r\n#End of Preferences\r\n");
    bytes.extend(data);
    let file = Temporary::new(&bytes);
    let samples = side(&file.open().expect("a header"), "imu");
    assert_eq!((float(&samples[0], "accelerometer_x"), float(&samples[0], "gyroscope_z")), (1.0, 4096.0 / 32.8));
}

#[test]
fn headers_end_where_data_start() {
    let data = [0, 0, 0x64, 0x28, 0, 0, 0, 9];
    // Data that begin with `#` and are no text, and data that are text after a last line.
    for (head, data) in [
        ("#!AER-DAT2.0\r\n# AEChip: DVS128\r\n", data),
        ("#!AER-DAT2.0\n# AEChip: DVS128\n", [b'#', 0, 0x64, 0x28, 0, 0, 0, 9]),
        ("#!AER-DAT2.0\r\n# AEChip: DVS128\r\n#End Of ASCII Header\r\n", *b"#y\n#z\n#t"),
    ] {
        let file = Temporary::new(&[head.as_bytes(), &data].concat());
        assert_eq!(file.open().expect("a header").event_count().expect("a count"), 1, "{head}");
    }
}

#[test]
fn sensors_that_are_not_known() {
    let file = Temporary::new(&records("2.0", "ch.unizh.ini.jaer.chip.cochlea.DAS1", [(5, 5)]));
    assert_eq!(file.open().expect_err("unknown").kind(), ErrorKind::Unsupported);
    let with = |address: u32| Temporary::new(&[b"#!AER-DAT2.0\r\n".as_slice(), &address.to_be_bytes(), &[0, 0, 0, 1]].concat());
    assert_eq!(read(&with(0x6428).open().expect("a DVS128")), [(1, 107, 27, 1)]);
    let file = with(davis(3, 2, true));
    assert_eq!(file.open().expect_err("whose size is not known").kind(), ErrorKind::Format);
    let recording = OpenOptions::default().with_geometry(size(240, 180)).open(&file.0).expect("a DAVIS");
    assert_eq!(read(&recording), [(1, 236, 177, 1)]);
    assert_eq!(Temporary::new(b"#!AER-DAT5.0\r\n").open().expect_err("unknown").kind(), ErrorKind::Unsupported);
    let error = Temporary::new(b"#!AER-DAT4.0\n").open().expect_err("a line that ends otherwise");
    assert!(error.kind() == ErrorKind::Format && error.to_string().contains("CR LF"), "{error}");
}

#[test]
fn chips_of_both_layouts() {
    for (chip, geometry) in [
        ("eu.seebetter.ini.chips.davis.DavisRGB640", size(640, 480)),
        ("eu.seebetter.ini.chips.sbret10.SBret10", size(240, 180)),
        ("eu.seebetter.ini.chips.davis.Davis346blue", size(346, 260)),
    ] {
        let file = Temporary::new(&records("2.0", chip, [(davis(3, 2, true), 1)]));
        let recording = file.open().expect("a known chip");
        let (width, height) = (geometry.width().cast_signed(), geometry.height().cast_signed());
        assert_eq!((recording.geometry(), read(&recording)), (Some(geometry), vec![(1, width - 4, height - 3, 1)]), "{chip}");
    }
    // Its layout is neither: a geometry does not make it one.
    let file = Temporary::new(&records("2.0", "ch.unizh.ini.jaer.chip.retina.DVS640", [(5, 5)]));
    for options in [OpenOptions::default(), OpenOptions::default().with_geometry(size(640, 480))] {
        let error = options.open(&file.0).expect_err("another layout");
        assert!(error.kind() == ErrorKind::Unsupported && !error.to_string().contains("geometry"), "{error}");
    }
}

#[test]
fn a_geometry_cuts_the_sensor_and_does_not_move_it() {
    // Pixels 0, 99, 100 and 239 from the left, 0 and 179 from the top.
    let words: Vec<_> = [239, 140, 139, 0].into_iter().flat_map(|x| [(davis(x, 179, true), 1), (davis(x, 0, true), 2)]).collect();
    let file = Temporary::new(&records("2.0", "DAVIS240C", words));
    for (geometry, columns, height) in [(size(100, 50), 2, 1), (size(101, 180), 3, 2), (size(640, 480), 4, 2)] {
        let recording = OpenOptions::default().with_geometry(geometry).open(&file.0).expect("a header");
        let expected: Vec<Row> =
            [0, 99, 100, 239].into_iter().take(columns).flat_map(|x| [(1, x, 0, 1), (2, x, 179, 1)].into_iter().take(height)).collect();
        assert_eq!((read(&recording), recording.geometry()), (expected.clone(), Some(geometry)));
        assert_eq!(problem(&recording, ProblemCode::OutOfBounds), 8 - expected.len() as u64);
    }
}

#[test]
fn ticks_of_another_length_are_refused() {
    for (tick, fits) in [("1 us", true), ("1us", true), ("10 us", false), ("1 ms", false)] {
        let bytes = format!("#!AER-DAT2.0\r\n# Timestamps tick is {tick}\r\n# AEChip: DVS128\r\n");
        match Temporary::new(bytes.as_bytes()).open() {
            Ok(_) => assert!(fits, "{tick}"),
            Err(error) => assert!(!fits && error.kind() == ErrorKind::Unsupported && error.to_string().contains(tick), "{error}"),
        }
    }
}

#[test]
fn version_1_may_be_called_dat() {
    let data = records("1.0", "", (0..50).map(|row| (row, 1000 * row)));
    let data = data[data.len() - 300..].to_vec();
    for head in ["", "# This is a raw AE data file - do not edit\r\n"] {
        let file = Temporary::named(&[head.as_bytes(), &data].concat(), "dat");
        let recording = file.open().expect("times that go ahead");
        assert_eq!((recording.format(), recording.event_count().expect("a count")), (Format::Aedat1, 50), "{head}");
    }
    // DAT without a header, and text.
    let dat: Vec<u8> =
        (0..400_u32).flat_map(|row| [(row * 100).to_le_bytes(), (((row % 240) << 14) | (row % 304)).to_le_bytes()].concat()).collect();
    assert_eq!(Temporary::named(&dat, "dat").open().expect("DAT").format(), Format::Dat);
    let text = (0..200).map(|row| format!("{} {} 1 1\n", 1000 + row, row % 7)).collect::<Vec<_>>().concat();
    for text in [text.clone(), format!("# t x y p\n{text}")] {
        assert_eq!(Temporary::named(text.as_bytes(), "dat").open().expect("text").format(), Format::Text);
    }
}

/// A packet of version 3.
fn packet(kind: i16, source: i16, size: i32, overflow: i32, records: &[u8]) -> Vec<u8> {
    let number = records.len() as i32 / size;
    let mut bytes = [kind.to_le_bytes(), source.to_le_bytes()].concat();
    for value in [size, 4, overflow, number, number, number] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(records);
    bytes
}

fn polarity(x: u32, y: u32, on: bool, valid: bool, t: i32) -> Vec<u8> {
    let word = x << 17 | y << 2 | u32::from(on) << 1 | u32::from(valid);
    [word.to_le_bytes(), t.to_le_bytes()].concat()
}

const HEAD_3: &str = "#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DAVIS240C\r\n#!END-HEADER\r\n";

/// A file of version 3.1 with a bit of everything.
fn file_3() -> Vec<u8> {
    let mut bytes = HEAD_3.as_bytes().to_vec();
    bytes.extend(packet(1, 1, 8, 0, &[polarity(100, 50, true, true, 123_456), polarity(1, 2, false, false, 5)].concat()));
    let special = |kind: u32, t: i32| [(kind << 1 | 1).to_le_bytes(), t.to_le_bytes()].concat();
    bytes.extend(packet(0, 1, 8, 0, &[special(2, 7), special(10, 8), special(5, 9), special(1, i32::MAX)].concat()));
    bytes.extend(packet(1, 1, 8, 1, &[polarity(239, 179, false, true, 3), polarity(240, 0, true, true, 4)].concat()));
    let values = |count: u8| {
        let values = (0..count).flat_map(|value| f32::from(value).to_le_bytes());
        [1_u32.to_le_bytes().to_vec(), 77_i32.to_le_bytes().to_vec(), values.collect()].concat()
    };
    bytes.extend(packet(3, 1, 36, 0, &values(7)));
    bytes.extend(packet(4, 1, 48, 0, &values(10)));
    let mut frame = (1_u32 | 1 << 1).to_le_bytes().to_vec();
    frame.extend([10_i32, 50, 20, 40, 2, 1, 0, 0].iter().flat_map(|value| value.to_le_bytes()));
    frame.extend([1, 2, 3, 4, 0, 0]);
    bytes.extend(packet(2, 1, 42, 0, &frame));
    bytes.extend(packet(100, 1, 12, 0, &[0; 24]));
    bytes
}

const EVENTS_3: [Row; 2] = [(123_456, 100, 50, 1), ((1 << 31) + 3, 239, 179, -1)];

#[test]
fn packets_of_version_3() {
    let file = Temporary::new(&file_3());
    let recording = file.open().expect("a header");
    assert_eq!((recording.format(), recording.geometry()), (Format::Aedat3, Some(size(240, 180))));
    assert_eq!(read(&recording), EVENTS_3);
    let triggers = recording.triggers().expect("triggers");
    assert_eq!((triggers.id, triggers.polarity, triggers.timestamp), (vec![0, 2], vec![1, -1], vec![7, 8]));
    let codes = [ProblemCode::MarkedInvalid, ProblemCode::OutOfBounds, ProblemCode::TimeReset, ProblemCode::DamagedPacket];
    assert_eq!(codes.map(|code| problem(&recording, code)), [1, 1, 1, 0]);
    let (samples, frames) = (side(&recording, "imu"), side(&recording, "frames"));
    assert_eq!((samples[0].num_rows(), frames[0].num_rows()), (2, 1));
    let magnetometer = samples[0].column_by_name("magnetometer_z").expect("a column").as_primitive::<Float32Type>();
    assert!(magnetometer.is_null(0) && magnetometer.value(1).to_bits() == 9_f32.to_bits());
    assert_eq!((pixels(&frames[0]), micros(&frames[0], "timestamp")), ([1, 2, 3, 4].as_slice(), 30));
}

#[test]
fn rows_of_version_3_0_count_from_the_bottom() {
    let word = 7_u32 << 18 | 9 << 4 | 3;
    let mut bytes = b"#!AER-DAT3.0\r\n#Source 1: DVS128\r\n".to_vec();
    bytes.extend(packet(1, 1, 8, 0, &[word.to_le_bytes(), 5_i32.to_le_bytes()].concat()));
    assert_eq!(read(&Temporary::new(&bytes).open().expect("a header")), [(5, 7, 118, 1)]);
    let unknown = Temporary::new(b"#!AER-DAT3.0\r\n");
    assert_eq!(unknown.open().expect_err("no sensor").kind(), ErrorKind::Format);
}

#[test]
fn cameras_of_version_3_are_chosen() {
    let mut bytes = b"#!AER-DAT3.1\r\n#Source 1: DVS128\r\n#Source 2: DAVIS240C\r\n#!END-HEADER\r\n".to_vec();
    bytes.extend(packet(1, 1, 8, 0, &polarity(1, 1, true, true, 1)));
    bytes.extend(packet(1, 2, 8, 0, &polarity(2, 2, true, true, 2)));
    bytes.extend(packet(3, 2, 36, 0, &[1; 36]));
    let file = Temporary::new(&bytes);
    let recording = file.open().expect("a header");
    let error = recording.read(Selection::default()).expect_err("two cameras");
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("`events_2`"), "{error}");
    assert!(recording.batches(Selection::default()).expect("threads").next().expect("an error").is_err());
    assert_eq!(side_rows(&recording, "imu_2"), 1);
    for (stream, t, geometry) in [("events_1", 1, size(128, 128)), ("events_2", 2, size(240, 180))] {
        let recording = OpenOptions::default().with_stream(stream).open(&file.0).expect("a stream");
        assert_eq!(read(&recording).iter().map(|row| row.0).collect::<Vec<_>>(), [t]);
        assert_eq!(recording.geometry(), Some(geometry));
        assert_eq!(side_rows(&recording, "imu"), usize::from(t == 2));
    }
    assert!(OpenOptions::default().with_stream("events_3").open(&file.0).is_err());
}

#[test]
fn the_bytes_that_a_cut_packet_lacks_are_counted() {
    let events: Vec<_> = (1..6).flat_map(|x| polarity(x, 0, true, true, 9)).collect();
    let whole = [HEAD_3.as_bytes().to_vec(), packet(1, 1, 8, 0, &events)].concat();
    for (cut, rows, bytes) in [(1, 4, 7), (7, 4, 1), (8, 4, 0), (9, 3, 7), (40, 0, 0)] {
        let file = Temporary::new(&whole[..whole.len() - cut]);
        let recording = file.open().expect("a header");
        let problems = recording.problems().expect("problems");
        let cut_short = problems.get(ProblemCode::Truncated).expect("a packet cut short");
        assert_eq!((read(&recording).len(), cut_short.count, cut_short.bytes), (rows, 1, bytes), "{cut}");
    }
}

#[test]
fn packets_of_cameras_that_are_not_named_are_counted() {
    let mut bytes = b"#!AER-DAT3.1\r\n#Source 1: DVS128\r\n#Source 2: DAVIS240C\r\n#!END-HEADER\r\n".to_vec();
    bytes.extend(packet(1, 1, 8, 0, &polarity(1, 1, true, true, 1)));
    bytes.extend(packet(1, 5, 8, 0, &polarity(2, 2, true, true, 2)));
    bytes.extend(packet(3, 5, 36, 0, &[1; 36]));
    let file = Temporary::new(&bytes);
    let recording = OpenOptions::default().with_stream("events_1").open(&file.0).expect("a stream");
    assert_eq!((read(&recording).len(), side_rows(&recording, "imu")), (1, 0));
    let problems = recording.problems().expect("problems");
    let damaged = problems.get(ProblemCode::DamagedPacket).expect("packets left out");
    assert_eq!((damaged.count, damaged.bytes), (2, 28 + 8 + 28 + 36));
}

#[test]
fn lost_bytes_of_version_3_cost_a_packet() {
    let mut bytes = file_3();
    // The header of the third packet is overwritten.
    let at = HEAD_3.len() + 28 + 16 + 28 + 32;
    bytes[at..at + 28].fill(0xFF);
    let file = Temporary::new(&bytes);
    let recording = file.open().expect("a header");
    assert_eq!(read(&recording), EVENTS_3[..1]);
    let problems = recording.problems().expect("problems");
    let damaged = problems.get(ProblemCode::DamagedPacket).expect("a damaged packet");
    assert_eq!((damaged.count, damaged.bytes, damaged.first_offset), (1, 44, at as u64));
    assert_eq!(side_rows(&recording, "imu"), 2);
}

fn columns(rows: &[Row]) -> EventColumns {
    let t: Vec<_> = rows.iter().map(|row| row.0).collect();
    let x: Vec<_> = rows.iter().map(|row| row.1).collect();
    let y: Vec<_> = rows.iter().map(|row| row.2).collect();
    let p: Vec<_> = rows.iter().map(|row| row.3).collect();
    EventColumns::from_slices(&x, &y, &t, &p).expect("columns of one length")
}

fn write(rows: &[Row], compression: Compression) -> Temporary {
    let file = Temporary::named(b"", "aedat4");
    let options = WriteOptions::new(Format::Aedat4, size(640, 480)).with_overwrite(true).with_compression(compression);
    let mut writer = EventWriter::create_with(&file.0, &options).expect("a file");
    for part in rows.chunks(5_000) {
        writer.write(&columns(part)).expect("rows that fit");
    }
    assert_eq!(writer.finish().expect("a file"), rows.len() as u64);
    file
}

fn sample(count: i64) -> Vec<Row> {
    let base = 1_600_000_000_000_000;
    let row =
        |row: i64| (base + row * 3 + row / 700 * 9_000, (row * 7 % 640) as i16, (row / 3 % 480) as i16, (row % 5).signum() as i8 * -2 + 1);
    (0..count).map(row).collect()
}

#[test]
fn what_is_written_is_read_in_every_way() {
    let rows_in = sample(150_000);
    for compression in [Compression::None, Compression::Lz4] {
        let file = write(&rows_in, compression);
        for threads in [1, 2, 5] {
            let recording = OpenOptions::default().with_threads(threads).open(&file.0).expect("a header");
            assert_eq!(recording.geometry(), Some(size(640, 480)));
            assert!(read(&recording) == rows_in);
            assert!(recording.problems().expect("problems").is_empty());
            assert_eq!(recording.time_range().expect("times"), Some((rows_in[0].0, rows_in[rows_in.len() - 1].0)));
        }
        for about in [1, 1000, 70_000, 1 << 30] {
            let batches = file.open().expect("a header").batches(Selection::default()).expect("threads").with_about(about);
            let all: Vec<_> = batches.flat_map(|batch| rows(&batch.expect("a batch"))).collect();
            assert!(all == rows_in, "{about}");
        }
        let range = TimeRange::new(Some(rows_in[40_000].0), Some(rows_in[90_000].0));
        let part = file.open().expect("a header").read(Selection::default().with_time_range(range)).expect("a read");
        assert!(rows(&part) == rows_in[40_000..90_000]);
        let first = file.open().expect("a header").read(Selection::default().with_limit(12_345)).expect("a read");
        assert!(rows(&first) == rows_in[..12_345]);
    }
}

#[test]
fn negative_times_and_empty_files_are_held() {
    for rows_in in [vec![], vec![(i64::MIN, 0, 0, 1), (-5, 639, 479, -1), (i64::MAX - 1, 3, 4, 1)]] {
        let file = write(&rows_in, Compression::Lz4);
        let recording = file.open().expect("a header");
        assert_eq!(read(&recording), rows_in);
        assert!(recording.problems().expect("problems").is_empty());
    }
}

/// A header of version 4 with a table of packets at `table`.
fn head_4(compression: i32, table: i64, streams: &str) -> Vec<u8> {
    let xml = format!("<dv version=\"2.0\"><node name=\"outInfo\">{streams}</node></dv>");
    let len = (44 + 4 + xml.len() + 1).next_multiple_of(8);
    let mut out = b"#!AER-DAT4.0\r\n".to_vec();
    out.extend((len as u32 - 4).to_le_bytes());
    out.extend([20, 0, 0, 0]);
    out.extend(b"IOHE");
    out.extend([0_u16, 10, 20, 16, 8, 4].iter().flat_map(|field| field.to_le_bytes()));
    out.extend([10_u32, 16].iter().flat_map(|field| field.to_le_bytes()));
    out.extend(table.to_le_bytes());
    out.extend(compression.to_le_bytes());
    out.extend((xml.len() as u32).to_le_bytes());
    out.extend(xml.bytes());
    out.resize(14 + len, 0);
    out
}

fn stream(id: i32, kind: &str, name: &str, module: &str, source: &str, size: Option<(u16, u16)>) -> String {
    let attr = |key: &str, value: &str| format!("<attr key=\"{key}\" type=\"string\">{value}</attr>");
    let size = size.map_or(String::new(), |(width, height)| attr("sizeX", &width.to_string()) + &attr("sizeY", &height.to_string()));
    format!(
        "<node name=\"{id}\">{}{}{}<node name=\"info\">{}{size}</node></node>",
        attr("typeIdentifier", kind),
        attr("originalOutputName", name),
        attr("originalModuleName", module),
        attr("source", source)
    )
}

fn packet_4(id: i32, events: &[Row]) -> Vec<u8> {
    let len = 32 + 16 * events.len() as u32;
    let mut payload = (len - 4).to_le_bytes().to_vec();
    payload.extend([16, 0, 0, 0]);
    payload.extend(b"EVTS");
    payload.extend([0, 0, 6, 0, 8, 0, 4, 0, 6, 0, 0, 0, 4, 0, 0, 0]);
    payload.extend((events.len() as u32).to_le_bytes());
    for (t, x, y, p) in events {
        payload.extend(t.to_le_bytes());
        payload.extend(x.to_le_bytes());
        payload.extend(y.to_le_bytes());
        payload.extend([u8::from(*p > 0), 0, 0, 0]);
    }
    [id.to_le_bytes().to_vec(), (payload.len() as i32).to_le_bytes().to_vec(), payload].concat()
}

#[test]
fn streams_of_version_4_are_chosen() {
    let streams = [
        stream(0, "EVTS", "events", "a", "A", Some((640, 480))),
        stream(3, "TRIG", "triggers", "a", "A", None),
        stream(7, "EVTS", "events", "b", "B", Some((2000, 1500))),
        stream(9, "POSE", "pose", "b", "B", None),
    ];
    let mut bytes = head_4(0, -1, &streams.concat());
    bytes.extend(packet_4(7, &[(5, 1999, 1499, 1)]));
    bytes.extend(packet_4(0, &[(1, 2, 3, 1)]));
    bytes.extend(packet_4(9, &[]));
    bytes.extend(packet_4(12, &[(9, 9, 9, 1)]));
    let file = Temporary::new(&bytes);
    let recording = file.open().expect("a header");
    let names: Vec<_> = recording.streams().iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["events_0", "triggers", "events_7", "pose"]);
    let error = recording.read(Selection::default()).expect_err("two streams");
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("`events_7`"), "{error}");
    for stream in ["events_7", "7"] {
        let recording = OpenOptions::default().with_stream(stream).open(&file.0).expect("a stream");
        assert_eq!(read(&recording), [(5, 1999, 1499, 1)]);
        assert_eq!(recording.geometry(), Some(size(2000, 1500)));
        // Events of stream 12 are not read: that is no secret.
        let problems = recording.problems().expect("problems");
        let left_out = problems.get(ProblemCode::DamagedPacket).expect("a packet");
        assert_eq!((problems.iter().count(), left_out.count, left_out.bytes), (1, 1, 8 + 48));
    }
    assert_eq!(OpenOptions::default().with_stream("pose").open(&file.0).expect_err("no events").kind(), ErrorKind::InvalidArgument);
}

/// A packet of one trigger of type 1.
fn trigger_packet_4(id: i32, t: i64) -> Vec<u8> {
    let mut payload = 56_u32.to_le_bytes().to_vec();
    payload.extend([16, 0, 0, 0]);
    payload.extend(b"TRIG");
    payload.extend([0, 0, 6, 0, 8, 0, 4, 0, 6, 0, 0, 0, 4, 0, 0, 0]);
    // A vector of one table, of a time and a type.
    payload.extend([1, 0, 0, 0, 12, 0, 0, 0, 8, 0, 16, 0, 4, 0, 12, 0, 8, 0, 0, 0]);
    payload.extend(t.to_le_bytes());
    payload.extend([1, 0, 0, 0]);
    [id.to_le_bytes().to_vec(), (payload.len() as i32).to_le_bytes().to_vec(), payload].concat()
}

#[test]
fn damaged_packets_of_triggers_are_counted_once() {
    let streams = [stream(0, "EVTS", "events", "a", "A", Some((640, 480))), stream(3, "TRIG", "triggers", "a", "A", None)];
    let mut bytes = head_4(0, -1, &streams.concat());
    bytes.extend(packet_4(0, &[(1, 2, 3, 1)]));
    bytes.extend(trigger_packet_4(3, 7));
    let damaged = bytes.len();
    bytes.extend(trigger_packet_4(3, 8));
    bytes[damaged + 16..damaged + 20].fill(0xEE);
    bytes.extend(trigger_packet_4(3, 9));
    let file = Temporary::new(&bytes);
    for triggers_first in [false, true] {
        let recording = file.open().expect("a header");
        if triggers_first {
            assert_eq!(recording.triggers().expect("triggers").timestamp, [7, 9]);
        }
        assert_eq!(read(&recording), [(1, 2, 3, 1)]);
        let problems = recording.problems().expect("problems");
        let found = problems.get(ProblemCode::DamagedPacket).expect("a damaged packet");
        assert_eq!((found.count, found.first_offset), (1, damaged as u64));
        assert_eq!(recording.triggers().expect("triggers").timestamp, [7, 9]);
        assert_eq!((recording.trigger_count().expect("a count"), side_rows(&recording, "triggers")), (2, 2));
        assert_eq!(recording.problems().expect("problems"), problems);
    }
}

#[test]
fn files_of_jaer_are_turned_and_unwrapped() {
    let mut bytes = head_4(0, -2, &stream(0, "EVTS", "events", "jAER", "", Some((346, 260))));
    let (low, top, period) = (i64::from(i32::MIN), i64::from(i32::MAX), 1_i64 << 32);
    bytes.extend(packet_4(0, &[(top - 1, 1, 0, 1), (top, 2, 259, 1), (low, 3, 1, -1)]));
    bytes.extend(packet_4(0, &[(low + 5, 4, 4, 1), (top, 5, 5, 1)]));
    bytes.extend(packet_4(0, &[(low, 6, 6, 1)]));
    let file = Temporary::new(&bytes);
    let recording = file.open().expect("a header");
    let expected = [
        (top - 1, 1, 259, 1),
        (top, 2, 0, 1),
        (low + period, 3, 258, -1),
        (low + 5 + period, 4, 255, 1),
        (top + period, 5, 254, 1),
        (low + 2 * period, 6, 253, 1),
    ];
    assert_eq!(read(&recording), expected);
    let batches = recording.batches(Selection::default()).expect("threads").with_rows(1);
    assert_eq!(batches.flat_map(|batch| rows(&batch.expect("a batch"))).collect::<Vec<_>>(), expected);
}

/// Where the packets of a file start, the table of packets included.
fn places(bytes: &[u8]) -> Vec<usize> {
    let number = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes")) as usize;
    let end = number(46);
    let mut places = vec![18 + number(14)];
    while let Some(at) = places.last().copied().filter(|at| *at < end) {
        places.push(at + 8 + number(at + 4));
    }
    places
}

#[test]
fn tables_that_lie_change_nothing() {
    let rows_in = sample(30_000);
    let bytes = write(&rows_in, Compression::Lz4).bytes();
    let place = *places(&bytes).last().expect("a table") as u64;
    let mut cases = Vec::new();
    for lie in [0, 1, 14, place - 1, place + 1, bytes.len() as u64 - 1, bytes.len() as u64, u64::MAX >> 1] {
        let mut bytes = bytes.clone();
        bytes[46..54].copy_from_slice(&lie.to_le_bytes());
        cases.push((format!("place {lie}"), bytes, true));
    }
    let mut none = bytes.clone();
    none[46..54].copy_from_slice(&(-1_i64).to_le_bytes());
    cases.push(("no place".to_owned(), none.clone(), false));
    none.truncate(place as usize);
    cases.push(("no table".to_owned(), none, false));
    let plain = write(&rows_in, Compression::None).bytes();
    for at in (places(&plain).last().expect("a table") + 12..plain.len()).step_by(5) {
        let mut bytes = plain.clone();
        bytes[at] ^= 0x5A;
        cases.push((format!("byte {at}"), bytes, false));
    }
    let range = TimeRange::new(Some(rows_in[9_000].0), Some(rows_in[15_000].0));
    for (name, bytes, noted) in cases {
        let file = Temporary::named(&bytes, "aedat4");
        let recording = file.open().expect("a header");
        assert!(read(&recording) == rows_in, "{name}");
        let problems = recording.problems().expect("problems");
        assert!(!problems.has_losses(), "{name}: {problems:?}");
        // Whether a byte of the table matters depends on what it is.
        let matters = name.starts_with("byte");
        assert!(matters || problems.get(ProblemCode::IndexMismatch).is_some() == noted, "{name}");
        let part = file.open().expect("a header").read(Selection::default().with_time_range(range)).expect("a read");
        assert!(rows(&part) == rows_in[9_000..15_000], "{name}");
    }
}

#[test]
fn damaged_packets_are_left_out_and_counted() {
    let rows_in = sample(60_000);
    for compression in [Compression::None, Compression::Lz4] {
        let bytes = write(&rows_in, compression).bytes();
        let places = places(&bytes);
        for offset in [0, 3, 4, 7, 8, 11, 40] {
            let mut damaged = bytes.clone();
            damaged[places[2] + offset..(places[2] + offset + 24).min(places[3])].fill(0xEE);
            let file = Temporary::named(&damaged, "aedat4");
            let recording = file.open().expect("a header");
            let found = read(&recording);
            let problems = recording.problems().expect("problems");
            assert_eq!(recording.event_count().expect("a count"), found.len() as u64);
            if offset < 40 {
                assert!(problems.has_losses(), "{offset}: {problems:?}");
                assert!(found.len() < rows_in.len() && found.len() > rows_in.len() / 2, "{offset}: {} {problems:?}", found.len());
                assert!(found[0] == rows_in[0] && found[found.len() - 1] == rows_in[rows_in.len() - 1]);
            } else {
                // Inside the events every bit pattern is an event: only the pixel tells.
                let outside = problem(&recording, ProblemCode::OutOfBounds);
                assert!(found.len() as u64 + outside == rows_in.len() as u64 || problems.has_losses());
            }
        }
    }
}

#[test]
fn files_cut_short_give_what_is_there() {
    let rows_in = sample(900);
    for compression in [Compression::None, Compression::Lz4] {
        let bytes = write(&rows_in, compression).bytes();
        let start = places(&bytes)[0];
        for len in (0..bytes.len()).step_by(13) {
            let cut = Temporary::named(&bytes[..len], "aedat4");
            let Ok(recording) = cut.open() else {
                assert!(len < start, "{len}");
                continue;
            };
            let found = read(&recording);
            assert!(found == rows_in[..found.len()], "{len}");
            assert_eq!(recording.event_count().expect("a count"), found.len() as u64);
            assert!(found.len() == rows_in.len() || len == start || recording.problems().expect("problems").has_losses(), "{len}");
        }
    }
}

/// A packet of version 4, its payload compressed as the header's number says.
fn packed_4(compression: i32, id: i32, payload: &[u8]) -> Vec<u8> {
    let packed = match compression {
        0 => payload.to_vec(),
        1 => {
            let mut out = Vec::new();
            super::codec::compress_lz4(payload, &mut out);
            out
        }
        _ => zstd(payload),
    };
    [id.to_le_bytes().to_vec(), (packed.len() as i32).to_le_bytes().to_vec(), packed].concat()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(bytes.len())];
    let len = zstd_safe::compress(out.as_mut_slice(), bytes, 3).expect("room enough");
    out.truncate(len);
    out
}

/// Reads a recording in every way, and expects the same of each.
fn expect_rows(file: &Temporary, expected: &[Row], name: &str) {
    // Each from a recording that nothing is known of yet, but the last.
    assert_eq!(read(&file.open().expect("a header")), expected, "{name}");
    assert_eq!(file.open().expect("a header").event_count().expect("a count"), expected.len() as u64, "{name}");
    let recording = file.open().expect("a header");
    for about in [7, 1000] {
        let batches = recording.batches(Selection::default()).expect("threads").with_about(about);
        let all: Vec<_> = batches.flat_map(|batch| rows(&batch.expect("a batch"))).collect();
        assert_eq!(all, expected, "{name}");
    }
    for limit in [1, 100, 150] {
        let some = file.open().expect("a header").read(Selection::default().with_limit(limit)).expect("a read");
        assert_eq!(rows(&some), expected[..expected.len().min(limit as usize)], "{name}");
    }
    let range = TimeRange::new(Some(0), Some(i64::MAX));
    let all = file.open().expect("a header").read(Selection::default().with_time_range(range)).expect("a read");
    assert_eq!(rows(&all), expected, "{name}");
    assert_eq!(recording.event_count().expect("a count"), expected.len() as u64, "{name}");
    assert_eq!(read(&recording), expected, "{name}");
}

#[test]
fn no_row_is_given_that_no_packet_holds() {
    let rows_in = sample(300);
    for compression in [0, 1, 3] {
        // Bytes after the buffer are padding, and so are those of a longer buffer after its vector.
        for (claimed, inside, after) in [
            (100, 0, 0),
            (100, 0, 16),
            (100, 640, 0),
            (100, 16, 4000),
            (101, 0, 0),
            (101, 0, 640),
            (150, 0, 0),
            (400, 0, 0),
            (400, 0, 10_000),
            (1_000_000, 0, 0),
            (u32::MAX, 0, 64),
        ] {
            let mut payload = packet_4(0, &rows_in[..100]).split_off(8);
            payload[28..32].copy_from_slice(&claimed.to_le_bytes());
            payload.resize(payload.len() + inside, 0);
            let prefix = payload.len() as u32 - 4;
            payload[..4].copy_from_slice(&prefix.to_le_bytes());
            payload.resize(payload.len() + after, 0);
            let mut bytes = head_4(compression, -1, &stream(0, "EVTS", "events", "a", "A", Some((640, 480))));
            bytes.extend(packed_4(compression, 0, &payload));
            bytes.extend(rows_in[100..].chunks(100).flat_map(|rows| packed_4(compression, 0, &packet_4(0, rows)[8..])));
            let file = Temporary::named(&bytes, "aedat4");
            let name = format!("compression {compression}, {claimed} claimed, {inside} and {after} bytes spare");
            expect_rows(&file, &rows_in, &name);
            let problems = file.open().expect("a header").problems().expect("problems");
            assert_eq!(problems.get(ProblemCode::DamagedPacket).map_or(0, |problem| problem.count), u64::from(claimed > 100), "{name}");
            assert_eq!(problems.has_losses(), claimed > 100, "{name}");
        }
    }
}

#[test]
fn a_packet_may_be_several_zstandard_frames() {
    let rows_in = sample(20_000);
    let payload = packet_4(0, &rows_in).split_off(8);
    for cut in [0, 1, 31, 1000, payload.len() - 1, payload.len()] {
        let frames = [zstd(&payload[..cut]), zstd(&payload[cut..])].concat();
        let mut bytes = head_4(3, -1, &stream(0, "EVTS", "events", "a", "A", Some((640, 480))));
        bytes.extend([0_i32.to_le_bytes(), (frames.len() as i32).to_le_bytes()].concat());
        bytes.extend(frames);
        let file = Temporary::named(&bytes, "aedat4");
        expect_rows(&file, &rows_in, &format!("cut at {cut}"));
        assert!(file.open().expect("a header").problems().expect("problems").is_empty());
    }
}

#[test]
fn events_that_lie_outside_their_packet_are_a_problem() {
    let rows_in = sample(200);
    for (at, value) in [(24_usize, 1_u32 << 30), (24, 4000), (0, 20), (4, 1 << 20)] {
        let mut bytes = head_4(0, -1, &stream(0, "EVTS", "events", "a", "A", Some((640, 480))));
        let mut damaged = packet_4(0, &rows_in[..100]);
        damaged[8 + at..12 + at].copy_from_slice(&value.to_le_bytes());
        bytes.extend(damaged);
        bytes.extend(packet_4(0, &rows_in[100..]));
        let file = Temporary::named(&bytes, "aedat4");
        expect_rows(&file, &rows_in[100..], &format!("byte {at}"));
        assert_eq!(problem(&file.open().expect("a header"), ProblemCode::DamagedPacket), 1, "byte {at}");
    }
}

#[test]
fn streams_that_the_header_does_not_describe_are_found() {
    let rows_in = sample(300);
    let typeless = stream(0, "", "events", "a", "A", Some((640, 480)));
    let other = stream(9, "POSE", "pose", "b", "B", None);
    for compression in [0, 1, 3] {
        for (streams, missing, id) in
            [("", false, 0), ("", true, 0), (typeless.as_str(), false, 0), (other.as_str(), false, 3), ("", false, -7)]
        {
            let mut bytes = head_4(compression, -1, streams);
            if missing {
                // Where the description is.
                bytes[36..38].fill(0);
            }
            bytes.extend(rows_in.chunks(100).flat_map(|rows| packed_4(compression, id, &packet_4(id, rows)[8..])));
            let file = Temporary::named(&bytes, "aedat4");
            expect_rows(&file, &rows_in, &format!("{streams} {missing}"));
            let recording = file.open().expect("a header");
            assert!(recording.problems().expect("problems").is_empty());
            assert!(recording.streams().iter().any(|stream| stream.name == "events"), "{:?}", recording.streams());
            assert!(recording.identity().reasons.iter().any(|reason| reason.contains("by their packets")));
        }
    }
}

#[test]
fn packets_of_streams_that_are_not_described_are_counted() {
    let rows_in = sample(300);
    for compression in [0, 1, 3] {
        let mut bytes = head_4(compression, -1, &stream(0, "EVTS", "events", "a", "A", Some((640, 480))));
        let mut left_out = 0;
        for (id, rows) in [0, 55, 0].into_iter().zip(rows_in.chunks(100)) {
            let packet = packed_4(compression, id, &packet_4(id, rows)[8..]);
            left_out += if id == 55 { packet.len() as u64 } else { 0 };
            bytes.extend(packet);
        }
        // Other types of packets are not read anyway.
        let mut pose = packet_4(77, &[]).split_off(8);
        pose[8..12].copy_from_slice(b"POSE");
        bytes.extend(packed_4(compression, 77, &pose));
        let file = Temporary::named(&bytes, "aedat4");
        expect_rows(&file, &[&rows_in[..100], &rows_in[200..]].concat(), "one of three");
        let problems = file.open().expect("a header").problems().expect("problems");
        let damaged = problems.get(ProblemCode::DamagedPacket).expect("a packet");
        assert_eq!((damaged.count, damaged.bytes), (1, left_out));
    }
}

#[test]
fn a_table_that_ends_packets_early_loses_nothing() {
    let rows_in = sample(30_000);
    let mut bytes = write(&rows_in, Compression::None).bytes();
    let places = places(&bytes);
    let table = *places.last().expect("a table");
    let number = |bytes: &[u8], at: usize| i64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"));
    let first: Vec<_> = places[..places.len() - 1].iter().map(|at| number(&bytes, at + 8 + 32)).collect();
    let mut lies = 0;
    for at in table..bytes.len() - 7 {
        let t = number(&bytes, at);
        // Every packet ends when it starts.
        if rows_in.iter().any(|row| row.0 == t) && !first.contains(&t) {
            let start = first.iter().rev().find(|first| **first < t).expect("the packet's first time");
            bytes[at..at + 8].copy_from_slice(&start.to_le_bytes());
            lies += 1;
        }
    }
    assert_eq!(lies, first.len());
    let file = Temporary::named(&bytes, "aedat4");
    for start in (0..rows_in.len() - 10).step_by(997).chain([rows_in.len() - 10]) {
        let rows_of_time = &rows_in[start..start + 10];
        let range = TimeRange::new(Some(rows_of_time[0].0), Some(rows_of_time[9].0 + 1));
        let part = file.open().expect("a header").read(Selection::default().with_time_range(range)).expect("a read");
        assert_eq!(rows(&part), rows_of_time, "{start}");
    }
    let recording = file.open().expect("a header");
    assert_eq!(problem(&recording, ProblemCode::IndexMismatch), 1);
    assert!(!recording.problems().expect("problems").has_losses());
}

/// Everything that a reader can be asked, whatever the file.
fn ask_everything(bytes: &[u8], extension: &str) {
    let file = Temporary::named(bytes, extension);
    for options in [OpenOptions::default(), OpenOptions::default().with_geometry(size(346, 260)).with_threads(2)] {
        let Ok(recording) = options.open(&file.0) else { continue };
        let Ok(events) = recording.read(Selection::default()) else { continue };
        let batches = recording.batches(Selection::default()).expect("threads").with_about(100);
        let all: Vec<_> = batches.flat_map(|batch| rows(&batch.expect("a batch"))).collect();
        assert!(all == rows(&events));
        assert_eq!(recording.event_count().expect("a count"), events.len() as u64);
        let _ = (recording.triggers(), recording.problems(), recording.time_range(), recording.trigger_count());
        let range = TimeRange::new(Some(100), Some(1_000_000));
        let part = recording.read(Selection::default().with_time_range(range)).expect("a read");
        let wanted: Vec<_> = all.iter().filter(|row| (100..1_000_000).contains(&row.0)).copied().collect();
        assert!(rows(&part) == wanted);
        for name in ["imu", "frames", "triggers"] {
            if recording.side_stream(name).is_ok() {
                let _ = side_rows(&recording, name);
            }
        }
    }
}

fn templates() -> Vec<(Vec<u8>, &'static str)> {
    let small: Vec<Row> = (0..40).map(|row| (row * 50_000, row as i16, 2, 1)).collect();
    let mut four = head_4(0, -1, &(stream(0, "EVTS", "events", "a", "A", Some((346, 260))) + &stream(1, "IMUS", "imu", "a", "A", None)));
    four.extend(packet_4(0, &small[..9]));
    four.extend(packet_4(0, &small[9..]));
    let words: Vec<_> = (0..60_u32)
        .map(|row| {
            let address = match row % 7 {
                0 => imu(row % 8, 99),
                1 => aps(row % 3, row % 2 == 0, row),
                2 => davis(row, 3, true) | 1 << 10,
                _ => davis(row, 3, row % 2 == 0),
            };
            (address, row * 999)
        })
        .collect();
    vec![
        (file_3(), "aedat"),
        (four, "aedat4"),
        (write(&small, Compression::Lz4).bytes(), "aedat4"),
        (records("2.0", "DAVIS240C", words.clone()), "aedat"),
        (records("1.0", "DVS128", words), "aedat"),
    ]
}

#[test]
fn templates_are_read_in_every_way() {
    for (bytes, extension) in templates() {
        ask_everything(&bytes, extension);
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 200, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_damage_is_a_panic(
        template in 0_usize..5, changes in prop::collection::vec((0_usize..4096, any::<u8>()), 1..8), cut in 1_usize..6000,
    ) {
        let (mut bytes, extension) = templates().swap_remove(template);
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut);
        ask_everything(&bytes, extension);
    }

    #[test]
    fn noise_is_no_panic(version in 0_usize..5, noise in prop::collection::vec(any::<u8>(), 0..3000)) {
        let head = [records("2.0", "DAVIS346", []), records("1.0", "DVS128", []), HEAD_3.as_bytes().to_vec(),
            head_4(1, -1, &stream(0, "EVTS", "events", "a", "A", None)), b"#!AER-DAT4.0\r\n".to_vec()];
        ask_everything(&[head[version].as_slice(), &noise].concat(), "aedat");
    }

    #[test]
    fn any_events_come_back(mut times in prop::collection::vec(any::<i64>(), 0..300), seed: u64, packed: bool) {
        times.sort_unstable();
        times.retain(|t| *t < i64::MAX);
        let rows_in: Vec<Row> = times.iter().enumerate().map(|(row, t)| {
            let noise = seed.wrapping_mul(row as u64 * 2 + 1);
            (*t, (noise % 640) as i16, (noise >> 20 & 255) as i16, if noise >> 40 & 1 == 1 { 1 } else { -1 })
        }).collect();
        let file = write(&rows_in, if packed { Compression::Lz4 } else { Compression::None });
        prop_assert_eq!(read(&file.open().expect("a header")), rows_in);
    }
}
