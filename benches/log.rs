//! The observation log through the Rust API: `cargo bench --bench log`.
//!
//! Logs are written to a temporary directory; answers are verified before anything is timed. Files stay in the page
//! cache. Writing is timed until the system has the records.

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use evlib::EventColumns;
use evlib::codec::{Array, Codec, Events, NumpyArray};
use evlib::log::{Channel, Log, Merge, Stamp, Verify, WriterOptions};

const KB: usize = 1_000;
const MB: usize = 1_000_000;
/// Events of a batch.
const ROWS: usize = 100_000;

/// A log that goes when the benchmark ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("evlib-bench-log-{}-{name}", std::process::id())))
    }

    fn log(&self) -> Log {
        Log::new(&self.0)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

/// Writes a channel of records with these bytes, a microsecond apart.
fn fill(log: &Log, channel: &str, record: &[u8], records: u64) {
    let writer = log.writer(channel, &WriterOptions::new("bytes", 1)).expect("a new channel");
    for number in 0..records {
        writer.write(&[record], Stamp::at(number * 1000)).expect("room on the disk");
    }
    assert_eq!(writer.close().expect("room on the disk").written, records);
}

fn open(log: &Log, channel: &str, verify: Verify) -> Channel {
    log.channel(channel, verify).expect("the channel that was written")
}

/// Bytes of all payloads, none of which is looked at.
fn read(channel: &Channel) -> usize {
    channel.iter().map(|record| record.expect("a whole record").payload.bytes().len()).sum()
}

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log write");
    for (name, bytes, records) in [("1 KB", KB, 10_000), ("1 MB", MB, 50), ("10 MB", 10 * MB, 10)] {
        let (directory, record) = (Directory::new("write"), payload(bytes));
        let log = directory.log();
        fill(&log, "checked", &record, records);
        let found = open(&log, "checked", Verify::All);
        assert_eq!(found.len(), records);
        assert_eq!(found.get(records - 1).expect("the last record").payload.bytes(), record);

        group.throughput(Throughput::Bytes(bytes as u64 * records)).sample_size(10);
        group.bench_function(format!("{records} x {name}, opened and closed"), |bencher| {
            let remove = || {
                let _ = fs::remove_dir_all(log.path());
            };
            bencher.iter_batched(remove, |()| fill(&log, "timed", &record, records), BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn read_back(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log read");
    for (name, bytes, records) in [("1 KB", KB, 10_000_u64), ("1 MB", MB, 10), ("10 MB", 10 * MB, 10)] {
        let directory = Directory::new("read");
        let log = directory.log();
        fill(&log, "channel", &payload(bytes), records);
        group.throughput(Throughput::Elements(records));
        for verify in [Verify::Head, Verify::First, Verify::All] {
            assert_eq!(read(&open(&log, "channel", verify)), bytes * records as usize);
            group.bench_function(format!("open and read {records} x {name}, {verify:?}"), |bencher| {
                bencher.iter(|| read(&open(&log, "channel", black_box(verify))));
            });
        }
        let channel = open(&log, "channel", Verify::Head);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("one record of {name}, open"), |bencher| {
            bencher.iter(|| channel.get(black_box(records / 2)).expect("a whole record"));
        });
    }
    group.finish();
}

fn merge(criterion: &mut Criterion) {
    let directory = Directory::new("merge");
    let log = directory.log();
    let names = ["a", "b", "c", "d"];
    for name in names {
        fill(&log, name, &payload(64), 2_500);
    }
    let merged = || {
        let channels = names.map(|name| open(&log, name, Verify::Head));
        Merge::new(channels.into()).map(|found| found.expect("a whole record").1.log_time_ns).collect::<Vec<_>>()
    };
    let times = merged();
    assert!(times.len() == 10_000 && times.is_sorted());
    let mut group = criterion.benchmark_group("log merge");
    group.throughput(Throughput::Elements(times.len() as u64));
    group.bench_function("4 channels of 2500 records", |bencher| bencher.iter(merged));
    group.finish();
}

fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log codec");
    let directory = Directory::new("codec");
    let log = directory.log();

    for (name, bytes) in [("1 KB", KB), ("1 MB", MB), ("10 MB", 10 * MB)] {
        let data = payload(bytes / 8 * 8);
        let array = Array::new("<f8", &[bytes as u64 / 8], data.clone()).expect("a type and a shape");
        let writer = log.writer(name, &NumpyArray.options()).expect("a new channel");
        NumpyArray.write(&writer, &array, Stamp::at(0)).expect("room on the disk");
        writer.close().expect("room on the disk");
        let record = open(&log, name, Verify::Head).get(0).expect("a whole record");
        assert_eq!(NumpyArray.read(&record).expect("the array that was written").data.bytes(), data);
        group.bench_function(format!("decode an array of {name}"), |bencher| {
            bencher.iter(|| NumpyArray.read(black_box(&record)).expect("the array that was written"));
        });
    }

    let times: Vec<i64> = (0..ROWS as i64).collect();
    let pixels: Vec<i16> = (0..ROWS).map(|row| (row % 480) as i16).collect();
    let events = EventColumns::from_slices(&pixels, &pixels, &times, &vec![1; ROWS]).expect("columns of one length");
    let codec = Events::default();
    let writer = log.writer("events", &codec.options()).expect("a new channel");
    codec.write(&writer, &events, Stamp::at(0)).expect("room on the disk");
    writer.close().expect("room on the disk");
    let record = open(&log, "events", Verify::Head).get(0).expect("a whole record");
    assert!(codec.read(&record).expect("the events that were written") == events);
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("encode 100000 events", |bencher| bencher.iter(|| codec.encode(black_box(&events)).expect("all columns")));
    group.bench_function("decode 100000 events", |bencher| bencher.iter(|| codec.read(black_box(&record)).expect("the events")));
    group.finish();
}

criterion_group!(benches, write, read_back, merge, codecs);
criterion_main!(benches);
