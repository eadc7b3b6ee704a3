//! One thread, two threads and batches give the same rows under any selection: those that filtering the full read
//! gives, with and without an index.
#![no_main]

use evlib::{Polarity, Recording, Region, Selection, TimeRange};
use evlib_fuzz::{Row, Scratch, open, options, problem_rows, read, rows, trigger_rows};
use libfuzzer_sys::fuzz_target;

/// Bytes of an input before the file: opening, selection (flags, two times, region, limit).
const HEAD: usize = 16;
/// Bytes of the files that are made long.
const LONG: usize = 200_000;

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) | usize::from(bytes[at + 1]) << 8
}

/// A selection that is likely to split the events, from bytes and times that occur.
fn selection(head: &[u8], all: &[Row]) -> Selection {
    let flags = head[1];
    let time = |at: usize| -> Option<i64> {
        let (_, _, time, _) = all.get(word(head, at) % all.len().max(1))?;
        Some(*time + i64::from(head[at] & 1))
    };
    let mut selection = Selection::default();
    if flags & 3 != 0 {
        let start = if flags & 1 != 0 { time(2) } else { None };
        let end = if flags & 2 != 0 { time(4) } else { None };
        selection = selection.with_time_range(TimeRange::new(start, end));
    }
    if flags & 4 != 0 {
        let side = |at: usize| word(head, at) as i32 & 0x7ff;
        selection = selection.with_region(Region::new(side(6) - 8, side(8) - 8, side(10), side(12)));
    }
    if flags & 8 != 0 {
        selection = selection.with_polarity(if flags & 16 != 0 { Polarity::On } else { Polarity::Off });
    }
    if flags & 32 != 0 {
        selection = selection.with_limit(word(head, 14) as u64);
    }
    selection
}

/// What a selection means.
fn filtered(all: &[Row], selection: &Selection) -> Vec<Row> {
    let keeps = |row: &Row| {
        let (x, y, time, polarity) = *row;
        let range = selection.time_range;
        time >= range.start()
            && range.end().is_none_or(|end| time < end)
            && selection.region.as_ref().is_none_or(|region| region.x.contains(&x.into()) && region.y.contains(&y.into()))
            && selection.polarity.is_none_or(|wanted| polarity == if wanted == Polarity::On { 1 } else { -1 })
    };
    let limit = selection.limit.map_or(usize::MAX, |rows| rows as usize);
    all.iter().filter(|row| keeps(row)).take(limit).copied().collect()
}

fn in_batches(recording: &Recording, selection: &Selection, about: usize) -> Vec<Row> {
    let batches = recording.batches(selection).expect("batches").with_about(about);
    batches.flat_map(|batch| rows(&batch.expect("a batch")).collect::<Vec<_>>()).collect()
}

fuzz_target!(|data: &[u8]| {
    if data.len() < HEAD {
        return;
    }
    let (head, content) = data.split_at(HEAD);
    // Long files are read in several windows, which short ones never fill.
    let times = if head[1] & 0xc0 == 0xc0 { LONG / content.len().max(1) } else { 1 };
    let file = Scratch::new("split", &content.repeat(times.max(1)));
    let one = options(head[0]).with_threads(1);
    let two = options(head[0]).with_threads(2);
    let (Some(first), Some(second)) = (open(file.path(), &one), open(file.path(), &two)) else { return };
    let all: Vec<Row> = rows(&read(&first, &Selection::default())).collect();
    let selection = selection(head, &all);
    let expected = filtered(&all, &selection);

    // Without an index first: the second recording has not been asked for anything.
    let about = 1 + usize::from(head[15]);
    assert_eq!(in_batches(&second, &selection, about), expected);
    assert_eq!(rows(&read(&second, &selection)).collect::<Vec<_>>(), expected);
    assert_eq!(rows(&read(&first, &selection)).collect::<Vec<_>>(), expected);
    assert_eq!(rows(&read(&second, &Selection::default())).collect::<Vec<_>>(), all);

    // And with it.
    assert_eq!(first.event_count().expect("count"), all.len() as u64);
    assert_eq!(second.event_count().expect("count"), all.len() as u64);
    assert_eq!(problem_rows(&first.problems().expect("problems")), problem_rows(&second.problems().expect("problems")));
    assert_eq!(first.time_range().expect("time range"), second.time_range().expect("time range"));
    assert_eq!(trigger_rows(&first.triggers().expect("triggers")), trigger_rows(&second.triggers().expect("triggers")));
    assert_eq!(in_batches(&first, &selection, about), expected);
    assert_eq!(rows(&read(&first, &selection)).collect::<Vec<_>>(), expected);
    assert_eq!(rows(&read(&second, &selection)).collect::<Vec<_>>(), expected);
});
