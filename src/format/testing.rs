//! Decoding by hand, in pieces of any size: what tests compare with plain decoders.

use crate::columns::{ColumnsBuilder, EventColumns};
use crate::problem::Problems;
use crate::scan::{Segment, Segmented};
use crate::schema::Columns;

/// x, y, time, polarity.
pub(crate) type Row = (i16, i16, i64, i8);

/// A small generator, so that streams of megabytes cost no time to describe.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Plans a file in windows of these sizes, and counts its segments.
pub(crate) fn segments<F: Segmented>(format: &F, file: &[u8], mut window: impl FnMut() -> usize) -> (Vec<Segment<F::State>>, Problems) {
    let mut planner = format.planner(format.start());
    let (mut all, mut problems) = (Vec::new(), Problems::default());
    let mut offset = format.payload() as usize;
    let mut size = window();
    loop {
        let left = file.get(offset..).unwrap_or_default();
        let bytes = &left[..size.min(left.len())];
        let last = bytes.len() == left.len();
        let mut found = Vec::new();
        let consumed = planner.plan(bytes, offset as u64, last, &mut found, &mut problems);
        if consumed == 0 && !last {
            size *= 2;
            continue;
        }
        // Those with events have been counted by the planner.
        for segment in found.iter_mut().filter(|segment| segment.events == 0) {
            let start = segment.offset as usize;
            let mut noted = Problems::default();
            format.count(segment, &file[start..start + segment.len as usize], &mut noted);
            problems.merge(&noted);
        }
        all.append(&mut found);
        if last {
            return (all, problems);
        }
        offset += consumed;
        size = window();
    }
}

/// The selected columns of all segments, read in pieces of these sizes into room for so many rows.
pub(crate) fn decode<F: Segmented>(
    format: &F,
    file: &[u8],
    segments: &[Segment<F::State>],
    columns: Columns,
    mut piece: impl FnMut() -> usize,
    mut room: impl FnMut() -> usize,
) -> EventColumns {
    let mut parts = Vec::new();
    for segment in segments {
        let mut state = segment.state;
        let (mut at, end) = (segment.offset as usize, (segment.offset + segment.len) as usize);
        let (mut size, mut rows) = (piece(), 0);
        while at < end {
            let mut builder = ColumnsBuilder::new(room(), columns);
            let mut out = builder.slots();
            let consumed = format.fill(columns, &mut state, &file[at..end.min(at + size)], &mut out);
            let (free, len) = (out.room(), out.len);
            at += consumed;
            rows += len as u64;
            parts.push(builder.finish(len));
            assert!(consumed > 0 || free == 0 || at + size < end, "the rest of a segment is not consumed");
            size = if consumed == 0 && free > 0 { 2 * size } else { piece() };
        }
        assert_eq!(rows, segment.events, "count and fill agree");
    }
    EventColumns::concat(parts, columns)
}

pub(crate) fn rows(events: &EventColumns) -> Vec<Row> {
    let (x, y, t, p) = (events.x(), events.y(), events.timestamp(), events.polarity());
    (0..events.len()).map(|row| (x[row], y[row], t[row], p[row])).collect()
}

/// Checks that every way to read a file gives `expected`, and that no event is outside its segment's times.
pub(crate) fn check<F: Segmented>(format: &F, file: &[u8], expected: &[Row], random: &mut Random, largest: u64) -> Problems {
    let mut planner_sizes = Random(random.next());
    let (segments, problems) = segments(format, file, || 1 + planner_sizes.below(largest) as usize);
    let (mut pieces, mut rooms) = (Random(random.next()), Random(random.next()));
    let events = decode(format, file, &segments, Columns::ALL, || 1 + pieces.below(largest) as usize, || 1 + rooms.below(600) as usize);
    assert_eq!(rows(&events), expected);
    let mut row = 0;
    for segment in &segments {
        let end = row + segment.events as usize;
        assert!(events.timestamp()[row..end].iter().all(|t| (segment.first_us..=segment.last_us).contains(t)));
        assert_eq!(format.unpack(F::pack(&segment.state)), Some(segment.state));
        row = end;
    }
    let columns = Columns::ALL.iter().filter(|_| random.below(2) == 0).collect();
    let some = decode(format, file, &segments, columns, || 1 + pieces.below(largest) as usize, || 1 + rooms.below(600) as usize);
    assert_eq!(some.len(), expected.len());
    assert!(some.x().is_empty() || some.x() == events.x());
    assert!(some.y().is_empty() || some.y() == events.y());
    assert!(some.timestamp().is_empty() || some.timestamp() == events.timestamp());
    assert!(some.polarity().is_empty() || some.polarity() == events.polarity());
    problems
}
