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
    let file = Temporary::new(&records("2.0", "Davis346B", words));
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
    let file = Temporary::new(&records("2.0", "Davis346B", words));
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
        assert!(recording.problems().expect("problems").is_empty());
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
        assert_eq!(problems.get(ProblemCode::IndexMismatch).is_some(), noted, "{name}");
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
