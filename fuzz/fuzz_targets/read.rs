//! Everything that can be asked of a file agrees: counts, problems, triggers, times, one read, batches.
#![no_main]

use evlib::{Format, Selection};
use evlib_fuzz::{Row, Scratch, open, options, read, rows, trigger_rows};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, content)) = data.split_first() else { return };
    let file = Scratch::new("read", content);
    let options = options(*first);
    let Some(recording) = open(file.path(), &options) else { return };
    let unindexed = first & 0x80 != 0;
    let before = unindexed.then(|| read(&recording, &Selection::default()));

    let problems = recording.problems().expect("problems");
    for problem in problems.iter() {
        assert!(problem.count > 0);
        assert!(problem.first_offset <= content.len() as u64);
        assert!(problem.bytes <= content.len() as u64);
    }
    let events = read(&recording, &Selection::default());
    assert_eq!(recording.event_count().expect("count"), events.len() as u64);
    // Without compression no format packs more than 32 events into four bytes.
    assert!(events.len() <= content.len() * 8 || recording.format() == Format::Aedat4);
    if let Some(before) = before {
        assert!(rows(&before).eq(rows(&events)));
    }
    if let Some(geometry) = recording.geometry() {
        let (width, height) = (i32::from(geometry.width()), i32::from(geometry.height()));
        assert!(rows(&events).all(|(x, y, _, _)| (0..width).contains(&x.into()) && (0..height).contains(&y.into())));
    }
    assert!(rows(&events).all(|(x, y, _, p)| x >= 0 && y >= 0 && (p == 1 || p == -1)));

    let triggers = recording.triggers().expect("triggers");
    assert_eq!(recording.trigger_count().expect("count"), triggers.len() as u64);
    assert!(trigger_rows(&triggers).iter().all(|(_, polarity, _)| *polarity == 1 || *polarity == -1));

    let times = events.timestamp();
    let range = times.iter().min().copied().zip(times.iter().max().copied());
    assert_eq!(recording.time_range().expect("time range"), range);

    let mut together: Vec<Row> = Vec::new();
    let mut short = false;
    for batch in recording.batches(&Selection::default()).expect("batches").with_rows(7) {
        let batch = batch.expect("a batch");
        assert!(!short && !batch.is_empty() && batch.len() <= 7);
        short = batch.len() < 7;
        together.extend(rows(&batch));
    }
    assert!(rows(&events).eq(together));
});
