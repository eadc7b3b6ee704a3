use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::pipeline::GROUP;
use crate::{
    Compression, ErrorKind, EventColumns, EventWriter, Format, Geometry, Hdf5Layout, Recording, Selection, TimeRange, TriggerColumns,
    WriteOptions,
};

/// A path in a folder of its own, which has to be empty but for that file in the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!("evlib-h5-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.join("a.h5")
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options(layout: Hdf5Layout) -> WriteOptions {
    WriteOptions::new(Format::Hdf5, Geometry::new(640, 480).unwrap()).with_layout(layout).with_threads(2)
}

/// `count` events, `step` microseconds apart on average.
fn events(count: usize, start: i64, step: i64) -> EventColumns {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut time = start;
    let (mut x, mut y, mut t, mut p) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        x.push(random(640) as i16);
        y.push(random(480) as i16);
        t.push(time);
        p.push(if random(2) == 0 { 1 } else { -1 });
        time += random(2 * step as u64 + 1) as i64;
    }
    EventColumns::from_slices(&x, &y, &t, &p).unwrap()
}

fn write(place: &Place, options: &WriteOptions, batches: &[EventColumns]) -> Vec<u8> {
    let mut writer = EventWriter::create_with(place.path(), options).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    let rows: usize = batches.iter().map(EventColumns::len).sum();
    assert_eq!(writer.finish().unwrap(), rows as u64);
    assert_eq!(place.files(), 1);
    std::fs::read(place.path()).unwrap()
}

fn read(place: &Place) -> EventColumns {
    Recording::open(place.path()).unwrap().read(Selection::default()).unwrap()
}

#[test]
fn times_that_outgrow_four_bytes() {
    let stored = |place: &Place| {
        let recording = Recording::open(place.path()).unwrap();
        assert!(recording.problems().unwrap().iter().next().is_none());
        recording.metadata().iter().find(|(name, _)| name == "/events/t").unwrap().1[..2].to_owned()
    };
    let start = -5_000_123;
    // Nothing, one group and more than two of them are written when the last event comes.
    for (count, compression) in
        [(3, Compression::Zstd), (GROUP, Compression::Gzip), (GROUP + 1, Compression::None), (2 * GROUP + 70_000, Compression::Zstd)]
    {
        let place = Place::new();
        let options = options(Hdf5Layout::Dsec).with_compression(compression).with_overwrite(true);
        let given = events(count, start, 1);
        // The first time that does not fit after the offset, -5001000, and the last that does.
        for (late, dtype) in [(-5_001_000 + (1 << 32), "i8"), (-5_001_001 + (1 << 32), "u4")] {
            let last = EventColumns::from_slices(&[1], &[2], &[late], &[1]).unwrap();
            write(&place, &options, &[given.clone(), last.clone()]);
            let all = EventColumns::concat(vec![given.clone(), last], crate::Columns::ALL);
            assert!(read(&place) == all, "{count} {compression:?}");
            assert_eq!(stored(&place), dtype);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, ..ProptestConfig::default() })]

    #[test]
    fn batches_make_no_difference(
        count in prop_oneof![0_usize..200_000, Just(65_535), Just(65_536), Just(65_537), GROUP - 1..GROUP + 2],
        cuts in proptest::collection::vec(0_usize..300_000, 0..6),
        step in 1_i64..400,
        threads in 1_usize..4,
    ) {
        let given = events(count, 1_600_000_000_000_000, step);
        let place = Place::new();
        let whole = write(&place, &options(Hdf5Layout::Dsec), std::slice::from_ref(&given));
        prop_assert!(read(&place) == given);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(count)).collect();
        cuts.extend([0, count]);
        cuts.sort_unstable();
        let parts: Vec<_> = cuts.windows(2).map(|pair| given.slice(pair[0], pair[1] - pair[0])).collect();
        let again = write(&place, &options(Hdf5Layout::Dsec).with_threads(threads).with_overwrite(true), &parts);
        prop_assert!(whole == again);
        write(&place, &options(Hdf5Layout::Prophesee).with_overwrite(true), &parts);
        prop_assert!(read(&place) == given);
        for range in [(100, 5_000), (70_000, 71_000), (0, i64::MAX - 1_600_000_000_000_000)] {
            let range = TimeRange::new(Some(1_600_000_000_000_000 + range.0), Some(1_600_000_000_000_000 + range.1));
            let recording = Recording::open(place.path()).unwrap();
            let found = recording.read(Selection::default().with_time_range(range)).unwrap();
            let expected: Vec<_> = given.timestamp().iter().copied().filter(|t| *t >= range.start() && range.end().is_none_or(|end| *t < end)).collect();
            prop_assert_eq!(found.timestamp(), &expected);
            prop_assert!(recording.problems().unwrap().iter().next().is_none());
        }
    }
}

#[test]
fn triggers_are_kept_or_refused() {
    let place = Place::new();
    let triggers = TriggerColumns { id: vec![0, 6, 1], polarity: vec![1, -1, 1], timestamp: vec![3, 3, 90_000] };
    let mut writer = EventWriter::create_with(place.path(), &options(Hdf5Layout::Prophesee)).unwrap();
    writer.write_triggers(&triggers).unwrap();
    let back = TriggerColumns { id: vec![0, 1], polarity: vec![1, 1], timestamp: vec![90_000, 89_999] };
    let error = writer.write_triggers(&back).unwrap_err();
    assert!(error.to_string().contains("trigger 4: expected times in order, from 90000 us"), "{error}");
    let ragged = TriggerColumns { id: vec![0], polarity: vec![1, 1], timestamp: vec![90_000, 99_999] };
    assert_eq!(writer.write_triggers(&ragged).unwrap_err().kind(), ErrorKind::InvalidArgument);
    writer.write(&events(10, 0, 1)).unwrap();
    writer.finish().unwrap();
    let recording = Recording::open(place.path()).unwrap();
    assert_eq!(recording.triggers().unwrap(), triggers);

    for options in [options(Hdf5Layout::Dsec), WriteOptions::new(Format::Dat, Geometry::new(640, 480).unwrap())] {
        let mut writer = EventWriter::create_with(place.path(), &options.with_overwrite(true)).unwrap();
        writer.write_triggers(&TriggerColumns::default()).unwrap();
        let error = writer.write_triggers(&triggers).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("`prophesee`"), "{error}");
    }
    assert_eq!(place.files(), 1);
}

#[test]
fn options_that_do_not_go_together() {
    let place = Place::new();
    let geometry = Geometry::new(640, 480).unwrap();
    let refused = [
        WriteOptions::new(Format::Evt3, geometry).with_layout(Hdf5Layout::Dsec),
        WriteOptions::new(Format::Evt2, geometry).with_compression(Compression::None),
        options(Hdf5Layout::Prophesee).with_compression(Compression::Gzip),
        WriteOptions::new(Format::Hdf5, Geometry::new(2049, 1).unwrap()).with_layout(Hdf5Layout::Prophesee),
        WriteOptions::new(Format::Hdf5, geometry).with_threads(0),
    ];
    for options in refused {
        let error = EventWriter::create_with(place.path(), &options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    assert_eq!(place.files(), 0);
}

#[test]
fn a_time_that_is_far_off_is_refused_and_the_rest_can_be_written() {
    for layout in Hdf5Layout::ALL {
        let place = Place::new();
        let mut writer = EventWriter::create_with(place.path(), &options(layout)).unwrap();
        let good = events(5000, 10, 1);
        writer.write(&good).unwrap();
        let far = EventColumns::from_slices(&[1, 1], &[1, 1], &[100_000, 10 + (1 << 40)], &[1, 1]).unwrap();
        let error = writer.write(&far).unwrap_err();
        assert!(error.to_string().contains("row 5001: expected a time before 1099511627786 us"), "{error}");
        let last = far.slice(0, 1);
        writer.write(&last).unwrap();
        assert_eq!(writer.finish().unwrap(), 5001);
        assert!(read(&place) == EventColumns::concat(vec![good, last], crate::Columns::ALL));
    }
}
