//! The public API over recordings that the tests write themselves.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::path::PathBuf;

use evlib::{
    Column, ErrorKind, EventColumns, EventWriter, Format, Geometry, OpenOptions, Polarity, ProblemCode, Recording, Region, Result,
    Selection, TimeRange,
};

/// A path that is removed again.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("evlib-test-{}-{name}", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_extension("raw.evlib-index"));
    }
}

fn events(count: i64) -> EventColumns {
    let rows = || 0..count;
    let x: Vec<i16> = rows().map(|row| (row * 7 % 640) as i16).collect();
    let y: Vec<i16> = rows().map(|row| (row / 40 % 480) as i16).collect();
    let t: Vec<i64> = rows().map(|row| row * 3 + row / 1000 * 20_000_000).collect();
    let p: Vec<i8> = rows().map(|row| if row % 5 == 0 { 1 } else { -1 }).collect();
    EventColumns::from_slices(&x, &y, &t, &p).unwrap()
}

fn write(path: &Temporary, format: Format, events: &EventColumns) {
    let mut writer = EventWriter::create(&path.0, format, Geometry::new(640, 480).unwrap(), true).unwrap();
    writer.write(events).unwrap();
    assert_eq!(writer.finish().unwrap(), events.len() as u64);
}

fn all(batches: impl Iterator<Item = Result<EventColumns>>) -> (Vec<usize>, Vec<i64>) {
    let batches: Vec<EventColumns> = batches.collect::<Result<_>>().unwrap();
    let times = batches.iter().flat_map(|batch| batch.timestamp().to_vec()).collect();
    (batches.iter().map(EventColumns::len).collect(), times)
}

#[test]
fn what_is_written_is_read_whatever_the_threads() {
    let path = Temporary::new("threads.raw");
    let events = events(20_000);
    for format in [Format::Evt3, Format::Evt2] {
        write(&path, format, &events);
        for threads in 1..=8 {
            let recording = OpenOptions::default().with_threads(threads).open(&path.0).unwrap();
            assert_eq!(recording.format(), format);
            assert!(recording.read(Selection::default()).unwrap() == events);
            assert_eq!(recording.time_range().unwrap(), Some((0, events.timestamp()[19_999])));
        }
    }
}

#[test]
fn batches_have_the_length_asked_for() {
    let path = Temporary::new("batches.raw");
    let events = events(10_000);
    write(&path, Format::Evt3, &events);
    let recording = Recording::open(&path.0).unwrap();
    let (lengths, times) = all(recording.batches(Selection::default()).unwrap().with_rows(3000));
    assert_eq!(lengths, [3000, 3000, 3000, 1000]);
    assert_eq!(times, events.timestamp());
    let (lengths, times) = all(recording.batches(Selection::default()).unwrap().with_duration(10_000_000));
    assert_eq!(times, events.timestamp());
    // A thousand events every 20 s: every other window is empty.
    assert_eq!(lengths.iter().filter(|len| **len == 1000).count(), 10);
    assert_eq!(lengths.len(), 19);
}

#[test]
fn a_selection_is_a_filter() {
    let path = Temporary::new("selection.raw");
    let events = events(50_000);
    write(&path, Format::Evt3, &events);
    let recording = Recording::open(&path.0).unwrap();
    let (start, end) = (20_000_000, 60_000_500);
    let selection = Selection::default()
        .with_columns([Column::X, Column::Timestamp])
        .with_time_range(TimeRange::new(Some(start), Some(end)))
        .with_region(Region::new(100, 0, 200, 400))
        .with_polarity(Polarity::Off);
    let found = recording.read(&selection).unwrap();
    let rows = || {
        (0..events.len()).filter(|row| {
            let (x, y, t) = (events.x()[*row], events.y()[*row], events.timestamp()[*row]);
            (100..300).contains(&x) && (0..400).contains(&y) && (start..end).contains(&t) && events.polarity()[*row] == -1
        })
    };
    assert!(rows().count() > 100);
    assert_eq!(found.x(), rows().map(|row| events.x()[row]).collect::<Vec<_>>());
    assert_eq!(found.timestamp(), rows().map(|row| events.timestamp()[row]).collect::<Vec<_>>());
    assert!(found.y().is_empty() && found.polarity().is_empty());
    let first = recording.read(selection.with_limit(7)).unwrap();
    assert_eq!(first.x(), &found.x()[..7]);
}

#[test]
fn a_saved_index_is_used_and_a_stale_one_reported() {
    let path = Temporary::new("index.raw");
    write(&path, Format::Evt3, &events(5000));
    let saved = Recording::open(&path.0).unwrap().save_index().unwrap();
    assert!(Recording::open(&path.0).unwrap().is_indexed());
    write(&path, Format::Evt3, &events(6000));
    let recording = Recording::open(&path.0).unwrap();
    assert!(!recording.is_indexed());
    let problems = recording.problems().unwrap();
    assert_eq!(problems.get(ProblemCode::StaleIndex).unwrap().count, 1);
    assert!(!problems.has_losses());
    assert_eq!(recording.event_count().unwrap(), 6000);
    std::fs::remove_file(saved).unwrap();
}

#[test]
fn errors_say_whose_fault_it_is() {
    let path = Temporary::new("errors.raw");
    assert_eq!(Recording::open(&path.0).unwrap_err().kind(), ErrorKind::Io);
    std::fs::write(&path.0, b"\x89PNG\r\n\x1a\n and more").unwrap();
    let error = Recording::open(&path.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Format);
    assert!(error.to_string().contains("PNG"), "{error}");
    assert_eq!(error.path(), Some(path.0.as_path()));
    let writer = EventWriter::create(&path.0, Format::Evt3, Geometry::new(640, 480).unwrap(), false);
    assert_eq!(writer.err().unwrap().kind(), ErrorKind::Io);
    let mut writer = EventWriter::create(&path.0, Format::Evt3, Geometry::new(640, 480).unwrap(), true).unwrap();
    let error = writer.write(&EventColumns::from_slices(&[1, 640], &[1, 1], &[0, 0], &[1, 1]).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("row 1"), "{error}");
    drop(writer);
    assert!(std::fs::read(&path.0).unwrap().starts_with(b"\x89PNG"), "a writer that is dropped leaves the old file");
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let path = Temporary::new("shrinks.raw");
    write(&path, Format::Evt2, &events(50_000));
    let recording = Recording::open(&path.0).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path.0).unwrap().set_len(1000).unwrap();
    assert_eq!(recording.read(Selection::default()).unwrap_err().kind(), ErrorKind::Truncated);
}

#[test]
fn arrow_shares_the_memory() {
    let events = events(100);
    let batch = events.slice(10, 50).to_record_batch();
    let x = batch.column(0).to_data();
    assert_eq!(x.buffers()[0].as_ptr(), events.x()[10..].as_ptr().cast());
    assert!(x.nulls().is_none());
}

#[cfg(feature = "polars")]
#[test]
fn polars_shares_the_memory() {
    let events = events(100);
    let frame = events.to_dataframe();
    let x = frame.column("x").unwrap().i16().unwrap().cont_slice().unwrap().as_ptr();
    assert_eq!(x, events.x().as_ptr());
    let t = frame.column("timestamp").unwrap().duration().unwrap().phys.cont_slice().unwrap().as_ptr();
    assert_eq!(t, events.timestamp().as_ptr());
}

#[cfg(feature = "lazy")]
#[test]
fn lazy_frames_push_down_and_still_filter() {
    use polars_lazy::dsl::{col, lit};
    let path = Temporary::new("lazy.raw");
    let events = events(30_000);
    write(&path, Format::Evt3, &events);
    let lazy = evlib::load_events(&path.0).unwrap();
    let whole = events.to_dataframe();
    assert!(lazy.clone().collect().unwrap().equals(&whole));
    let predicates = [
        col("x").gt(lit(100)).and(lit(300).gt_eq(col("x"))).and(col("y").lt(lit(200))),
        col("polarity").eq(lit(1)).or(col("x").eq(lit(3))),
        col("x").gt(lit(400)).and(col("x").lt(lit(300))),
        col("polarity").eq(lit(-1)).not(),
        (col("x") + col("y")).lt(lit(50)),
    ];
    for predicate in predicates {
        use polars_lazy::frame::IntoLazy;
        let expected = whole.clone().lazy().filter(predicate.clone()).select([col("timestamp"), col("x")]).collect().unwrap();
        let found = lazy.clone().filter(predicate).select([col("timestamp"), col("x")]).collect().unwrap();
        assert!(found.equals(&expected), "found {:?}, expected {:?}", found.schema(), expected.schema());
    }
    assert!(lazy.clone().limit(77).collect().unwrap().equals(&whole.head(Some(77))));
    assert!(lazy.limit(77).filter(col("x").gt(lit(300))).collect().unwrap().height() < 77);
}
