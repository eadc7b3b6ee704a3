//! Decoding of each format through the public API: `cargo bench --bench decode`.
//!
//! The inputs are written to a temporary directory, answers are verified before anything is timed, and throughput is
//! in events. Files stay in the page cache.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use evlib::{Column, EventColumns, EventWriter, Format, Geometry, OpenOptions, Polarity, Recording, Region, Selection, TimeRange};

/// Events of an input.
const ROWS: usize = 1 << 22;
/// Events that follow each other in a row of pixels, at one time and of one polarity.
const NEIGHBOURS: usize = 8;
/// Microseconds from one group of neighbours to the next.
const STEP_US: usize = 3;
const WIDTH: u16 = 1280;
const HEIGHT: u16 = 720;
/// The formats that are written and hold a sensor of this size.
const FORMATS: [Format; 12] = [
    Format::Evt2,
    Format::Evt21,
    Format::Evt3,
    Format::Evt4,
    Format::Dat,
    Format::Hdf5,
    Format::Npy,
    Format::Npz,
    Format::Aedat4,
    Format::EventStream,
    Format::Text,
    Format::Arrow,
];

/// Events as moving edges leave them: groups of neighbours in rows that are far from each other.
fn make_events() -> EventColumns {
    let (mut x, mut y, mut t, mut p) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for group in 0..ROWS / NEIGHBOURS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let first = (state % u64::from(WIDTH - 8)) as i16;
        let row = (state >> 20) as u16 % HEIGHT;
        let polarity = if state >> 40 & 1 == 0 { -1 } else { 1 };
        for neighbour in 0..NEIGHBOURS as i16 {
            x.push(first + neighbour);
            y.push(row.cast_signed());
            t.push((group * STEP_US) as i64);
            p.push(polarity);
        }
    }
    EventColumns::from_slices(&x, &y, &t, &p).expect("columns of one length")
}

/// Files that go when the benchmark ends.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_input(directory: &Path, format: Format, events: &EventColumns) -> evlib::Result<PathBuf> {
    let path = directory.join(format!("{format}.{}", if format == Format::Dat { "dat" } else { "raw" }));
    let mut writer = EventWriter::create(&path, format, Geometry::new(WIDTH.into(), HEIGHT.into())?, true)?;
    writer.write(events)?;
    writer.finish()?;
    Ok(path)
}

/// Times `selection` of `recording`, once it has given as many rows as `rows`.
fn bench_read(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, recording: &Recording, selection: &Selection, rows: usize) {
    assert_eq!(recording.read(selection).expect("readable").len(), rows, "{name}");
    group.bench_function(name, |bencher| bencher.iter(|| recording.read(black_box(selection)).expect("readable")));
}

fn bench_format(criterion: &mut Criterion, directory: &Path, format: Format, events: &EventColumns) -> evlib::Result<()> {
    let path = write_input(directory, format, events)?;
    let recording = Recording::open(&path)?;
    assert_eq!(recording.format(), format);
    let all = Selection::default();
    assert!(recording.read(&all)? == *events, "{format}: the events that were written");

    let mut group = criterion.benchmark_group(format.name());
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(20);
    bench_read(&mut group, "read", &recording, &all, ROWS);
    let single = OpenOptions::default().with_threads(1).open(&path)?;
    bench_read(&mut group, "read, 1 thread", &single, &all, ROWS);
    bench_read(&mut group, "read x", &recording, &all.clone().with_columns([Column::X]), ROWS);
    bench_read(&mut group, "read timestamp", &recording, &all.clone().with_columns([Column::Timestamp]), ROWS);

    let inside = (0..ROWS).filter(|row| (400..600).contains(&events.x()[*row]) && (300..400).contains(&events.y()[*row])).count();
    bench_read(&mut group, "region", &recording, &all.clone().with_region(Region::new(400, 300, 200, 100)), inside);
    let on = events.polarity().iter().filter(|polarity| **polarity > 0).count();
    bench_read(&mut group, "polarity", &recording, &all.clone().with_polarity(Polarity::On), on);

    let count = |rows: Option<usize>| {
        let batches = recording.batches(&all)?;
        let batches = match rows {
            Some(rows) => batches.with_rows(rows),
            None => batches,
        };
        batches.map(|batch| batch.map(|batch| batch.len())).sum::<evlib::Result<usize>>()
    };
    for (name, rows) in [("batches", None), ("batches of 100000", Some(100_000))] {
        assert_eq!(count(rows)?, ROWS, "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| count(rows).expect("readable")));
    }

    // The pass itself: the recording is opened anew each time.
    assert_eq!(recording.event_count()?, ROWS as u64);
    group.bench_function("index", |bencher| {
        bencher.iter(|| Recording::open(&path).and_then(|recording| recording.event_count()).expect("readable"));
    });

    // A hundredth of the time, from the middle; elements are the events found.
    let end_us = (ROWS / NEIGHBOURS * STEP_US) as i64;
    let (start, end) = (end_us / 2, end_us / 2 + end_us / 100);
    let window = all.with_time_range(TimeRange::new(Some(start), Some(end)));
    let found = events.timestamp().iter().filter(|time| (start..end).contains(*time)).count();
    group.throughput(Throughput::Elements(found as u64));
    assert!(recording.is_indexed());
    bench_read(&mut group, "window, indexed", &recording, &window, found);
    group.bench_function("window, first query", |bencher| {
        bencher.iter(|| Recording::open(&path).and_then(|recording| recording.read(&window)).expect("readable"));
    });
    group.finish();
    fs::remove_file(&path).expect("the input is there");
    Ok(())
}

fn decode(criterion: &mut Criterion) {
    let directory = Directory(std::env::temp_dir().join(format!("evlib-bench-{}", std::process::id())));
    fs::create_dir_all(&directory.0).expect("the temporary directory can be written");
    let events = make_events();
    for format in FORMATS {
        bench_format(criterion, &directory.0, format, &events).expect("inputs are written and read");
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
