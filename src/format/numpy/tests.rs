use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::{ErrorKind, EventColumns, EventWriter, Recording, Selection};

/// A file that goes away.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("evlib-numpy-{}-{name}", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn events(rows: i16) -> EventColumns {
    let x: Vec<i16> = (0..rows).map(|row| row * 7 % 640).collect();
    let y: Vec<i16> = (0..rows).map(|row| row * 3 % 480).collect();
    let t: Vec<i64> = (0..i64::from(rows)).map(|row| row * 11 - 500).collect();
    let p: Vec<i8> = (0..rows).map(|row| if row % 3 == 0 { 1 } else { -1 }).collect();
    EventColumns::from_slices(&x, &y, &t, &p).unwrap()
}

fn written(format: Format, rows: i16) -> Vec<u8> {
    let file = Temporary::new(&format!("written-{format}-{rows}"));
    let mut writer = EventWriter::create(&file.0, format, Geometry::new(640, 480).unwrap(), true).unwrap();
    writer.write(&events(rows)).unwrap();
    writer.finish().unwrap();
    std::fs::read(&file.0).unwrap()
}

/// What reading gives, and the number of rows that problems count.
fn read(name: &str, bytes: &[u8]) -> Result<(EventColumns, u64)> {
    let file = Temporary::new(name);
    std::fs::write(&file.0, bytes).unwrap();
    let recording = Recording::open(&file.0)?;
    let events = recording.read(Selection::default())?;
    let problems = recording.problems()?;
    Ok((events, problems.iter().map(|problem| problem.count).sum()))
}

#[test]
fn what_is_written_is_read() {
    for format in [Format::Npy, Format::Npz] {
        for rows in [0, 1, 1000] {
            let (found, problems) = read(&format!("round-{format}-{rows}"), &written(format, rows)).unwrap();
            assert_eq!((found, problems), (events(rows), 0));
        }
    }
}

#[test]
fn arrays_that_end_early() {
    let bytes = written(Format::Npy, 100);
    let (found, problems) = read("early", &bytes[..bytes.len() - 13 * 40 - 5]).unwrap();
    assert_eq!((found, problems), (events(100).slice(0, 59), 41));
    let archive = written(Format::Npz, 100);
    assert_eq!(read("early-npz", &archive[..archive.len() - 1]).unwrap_err().kind(), ErrorKind::Truncated);
}

#[test]
fn extents_that_do_not_fit_together() {
    let descr = "[('t', '<i8'), ('xy', '<u2', (4611686018427387904, 16, 0)), ('p', '|b1')]";
    let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (3,)}}");
    let bytes = [&b"\x93NUMPY\x01\x00"[..], &(text.len() as u16).to_le_bytes(), text.as_bytes(), &[0; 100]].concat();
    assert_eq!(read("extents", &bytes).unwrap_err().kind(), ErrorKind::Format);
}

#[test]
fn files_read_as_one() {
    let parts: Vec<Temporary> = ["a", "b", "c", "d"].iter().map(|name| Temporary::new(&format!("joined-{name}"))).collect();
    for (part, bytes) in parts.iter().zip([&b"abc"[..], b"", b"defg", b"h"]) {
        std::fs::write(&part.0, bytes).unwrap();
    }
    let files: Vec<PathBuf> = parts.iter().map(|part| part.0.clone()).collect();
    let (source, starts) = Source::open_joined(Path::new("joined"), &files).unwrap();
    assert_eq!((source.len(), starts), (8, vec![0, 3, 3, 7]));
    for start in 0..8 {
        for end in start..=8 {
            let mut bytes = vec![0; end - start];
            source.read_exact_at(&mut bytes, start as u64).unwrap();
            assert_eq!(bytes, b"abcdefgh"[start..end]);
        }
    }
    assert!(source.read_exact_at(&mut [0; 2], 7).is_err());
}

#[test]
fn names() {
    assert_eq!(split_name("dataset_events_xy"), Some(("dataset_events_", Role::Pixels)));
    assert_eq!(split_name("left/events/TS"), Some(("left/events/", Role::One(Column::Timestamp))));
    assert_eq!(split_name("p"), Some(("", Role::One(Column::Polarity))));
    assert_eq!(split_name("depth_0001"), None);
    assert_eq!(split_name(""), None);
}

proptest! {
    #[test]
    fn any_damage_is_an_error_or_counted(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        archive: bool,
    ) {
        let format = if archive { Format::Npz } else { Format::Npy };
        let mut bytes = written(format, 20);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok((found, _)) = read(&format!("damage-{archive}"), &bytes) {
            prop_assert!(found.len() <= bytes.len());
        }
    }
}
