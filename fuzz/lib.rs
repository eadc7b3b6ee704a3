//! What the fuzz targets share: inputs as files, options out of bytes, and comparisons.

use std::path::{Path, PathBuf};

use evlib::{EventColumns, Format, Geometry, OpenOptions, ProblemCode, Problems, Recording, Selection, TriggerColumns};

/// A file of this process, in memory where the system has such a place; removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// The scratch file `name` with this content.
    pub fn new(name: &str, content: &[u8]) -> Self {
        let shared = Path::new("/dev/shm");
        let folder = if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() };
        let path = folder.join(format!("evlib-fuzz-{}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("scratch files can be written");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// An empty folder of this process, beside the scratch files; removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// The folder `name`.
    pub fn new(name: &str) -> Self {
        let file = Scratch::new(name, b"");
        let path = file.path().with_extension("folder");
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir(&path).expect("folders can be made");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts a file with this content into it.
    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("files can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u64::from_le_bytes(*word)).ok()
}

/// Puts the checksum of `bytes[checked]` at `place`.
fn put_checksum(bytes: &mut [u8], place: usize, checked: std::ops::Range<usize>) -> Option<()> {
    let sum = crc32c::crc32c(bytes.get(checked)?);
    bytes.get_mut(place..)?.first_chunk_mut().map(|stored: &mut [u8; 4]| *stored = sum.to_le_bytes())
}

/// Puts the checksums of a log right, of which `docs/log-format.md` says where they are: those of its own records, and
/// with `payloads` those of payloads.
pub fn checksums(log: &mut [u8], payloads: bool) {
    for at in 0..log.len() {
        if log[at..].starts_with(b"evlibLOG") {
            let len = log.get(at + 12..).and_then(|bytes| bytes.first_chunk()).map_or(0, |len| u32::from_le_bytes(*len));
            put_checksum(log, at + 8, at + 12..at + 16 + len as usize);
        } else if log[at..].starts_with(b"evrh") && at >= 13 {
            let (head, start) = (at - 4, at - 13);
            let payload = || {
                let len = number(log, head + 48)?;
                let offset = u32::from_le_bytes(*log.get(head + 60..)?.first_chunk()?) as usize;
                let first = start + 104 + (start + 104 + offset).wrapping_neg() % 64;
                Some(first..first.checked_add(len)?)
            };
            if payloads && let Some(payload) = payload() {
                put_checksum(log, head + 56, payload);
            }
            put_checksum(log, head, head + 4..head + 64);
        }
    }
    let mut at = 8;
    while let Some(len) = number(log, at + 1) {
        let content = at + 9;
        let Some(end) = content.checked_add(len).filter(|end| *end <= log.len()) else { break };
        if matches!(log[at], 0x83 | 0x84) {
            put_checksum(log, content, content + 4..end);
        }
        at = end;
    }
}

/// How to open, by one byte: low five bits the format (by its number, else by content), the next two the geometry.
pub fn options(byte: u8) -> OpenOptions {
    let mut options = OpenOptions::default();
    if let Some(format) = Format::ALL.get(usize::from(byte & 31)) {
        options = options.with_format(*format);
    }
    match byte >> 5 & 3 {
        0 => options,
        1 => options.with_geometry(Geometry::new(640, 480).expect("a legal geometry")),
        2 => options.with_geometry(Geometry::new(1, 1).expect("a legal geometry")),
        _ => options.with_geometry(Geometry::new(1280, 720).expect("a legal geometry")),
    }
}

/// Opens, or not: a refusal is a right answer to arbitrary bytes, a panic is not; so is one to have no events, or
/// several streams of them.
pub fn open(path: &Path, options: &OpenOptions) -> Option<Recording> {
    let events = |recording: Recording| recording.read(&Selection::default().with_limit(0)).map(|_| recording);
    match options.open(path).and_then(events) {
        Ok(recording) => Some(recording),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// All events.
pub fn read(recording: &Recording, selection: &Selection) -> EventColumns {
    recording.read(selection).expect("a file that does not change can be read")
}

/// One event.
pub type Row = (i16, i16, i64, i8);

/// The events one by one.
pub fn rows(events: &EventColumns) -> impl Iterator<Item = Row> + '_ {
    let places = events.x().iter().zip(events.y());
    places.zip(events.timestamp().iter().zip(events.polarity())).map(|((x, y), (t, p))| (*x, *y, *t, *p))
}

/// The triggers one by one.
pub fn trigger_rows(triggers: &TriggerColumns) -> Vec<(u8, i8, i64)> {
    let values = triggers.id.iter().zip(&triggers.polarity).zip(&triggers.timestamp);
    values.map(|((id, polarity), time)| (*id, *polarity, *time)).collect()
}

/// What problems say, without the examples.
pub fn problem_rows(problems: &Problems) -> Vec<(&'static str, u64, u64, u64)> {
    problems.iter().map(|problem| (problem.code.name(), problem.count, problem.bytes, problem.first_offset)).collect()
}

/// Asserts that everything that can be asked of a recording of `len` bytes agrees; `unindexed` reads before the index is
/// made, too.
pub fn agree(recording: &Recording, len: usize, unindexed: bool) {
    let before = unindexed.then(|| read(recording, &Selection::default()));
    // Places in packed files are those of their content.
    let packed = recording.identity().reasons.iter().any(|reason| reason.starts_with("unpacked from"));
    let len = if packed { usize::MAX / 8 } else { len };

    let problems = recording.problems().expect("problems");
    for problem in problems.iter() {
        assert!(problem.count > 0);
        // A table of packets, and batches of Arrow, may be claimed to stand anywhere.
        let claimed = problem.code == ProblemCode::IndexMismatch || recording.format() == Format::Arrow;
        assert!(problem.first_offset <= len as u64 || claimed);
        assert!(problem.bytes <= len as u64 || recording.format() == Format::Arrow);
    }
    let events = read(recording, &Selection::default());
    assert_eq!(recording.event_count().expect("count"), events.len() as u64);
    // Without compression no format packs more than 32 events into four bytes.
    let compressed = matches!(recording.format(), Format::Aedat4 | Format::Bag | Format::Db3 | Format::Mcap);
    assert!(events.len() <= len * 8 || compressed);
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
}
