//! Events that a format can hold are read back as they were; others are refused, and no file is left.
#![no_main]

use evlib::{Compression, EventColumns, EventWriter, Format, Geometry, OpenOptions, Selection, WriteOptions};
use evlib_fuzz::{Scratch, read, rows};
use libfuzzer_sys::fuzz_target;

const FORMATS: [Format; 10] = [
    Format::Evt2,
    Format::Evt3,
    Format::Aedat4,
    Format::EventStream,
    Format::AtisBin,
    Format::Text,
    Format::Evt21,
    Format::Evt4,
    Format::Dat,
    Format::Arrow,
];

fuzz_target!(|data: &[u8]| {
    let Some((first, content)) = data.split_first() else { return };
    let format = FORMATS[usize::from(*first) % FORMATS.len()];
    let (mut x, mut y, mut t, mut p) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut time = 0_i64;
    for record in content.chunks_exact(6) {
        let word = |at: usize| i16::from_le_bytes([record[at], record[at + 1]]);
        // Small and large steps, a few of them back.
        let step = i64::from(word(4));
        time = time.saturating_add(match record[5] & 7 {
            0 => step << 20,
            1 => step,
            _ => step & 0x3ff,
        });
        x.push(word(0) & 0xff);
        y.push(word(2) & if record[3] & 0x80 == 0 { 0x7f } else { 0xff });
        t.push(time);
        p.push(if record[1] & 0x80 == 0 { 1 } else { -1 });
    }
    let events = EventColumns::from_slices(&x, &y, &t, &p).expect("columns of one length");
    let file = Scratch::new("write", b"");
    let geometry = Geometry::new(256, 240).expect("a legal geometry");
    let mut options = WriteOptions::new(format, geometry).with_overwrite(true);
    if format == Format::Aedat4 && first & 0x80 != 0 {
        options = options.with_compression(Compression::None);
    }
    let mut writer = EventWriter::create_with(file.path(), &options).expect("a writer");
    let half = events.len() / 2;
    let parts = [events.slice(0, half), events.slice(half, events.len() - half)];
    if parts.iter().any(|part| writer.write(part).is_err()) {
        drop(writer);
        assert_eq!(std::fs::metadata(file.path()).expect("what was there").len(), 0);
        return;
    }
    assert_eq!(writer.finish().expect("a whole file"), events.len() as u64);
    let mut options = OpenOptions::default().with_format(format).with_geometry(geometry);
    if format == Format::Text {
        options = options.with_text_columns("t x y p").with_time_unit(evlib::TimeUnit::Seconds);
    }
    let recording = options.open(file.path()).expect("what was written opens");
    assert!(rows(&read(&recording, &Selection::default())).eq(rows(&events)));
    assert!(recording.problems().expect("problems").is_empty());
});
