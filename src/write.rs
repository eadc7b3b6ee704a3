//! Writing recordings: checked rows in, a whole file or none out.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use crate::columns::{EventColumns, Rows, TriggerColumns};
use crate::error::{Error, Result};
use crate::format::aedat::writer::Aedat4Encoder;
use crate::format::numpy_write::{NpySink, NpzSink};
use crate::format::{Format, arrow, atis_bin, event_stream, hdf5, parquet, prophesee, text};
use crate::scan::pool;
use crate::schema::{Columns, Geometry};
use crate::simd::{self, Kernel};
use crate::source::{Buffer, Source, create_partial};

/// Bytes encoded before they are written.
const CHUNK: usize = 1 << 20;

/// Layout of HDF5 files that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hdf5Layout {
    /// That of the DSEC data set, which most loaders read: `/events/{x, y, p, t}`, `/ms_to_idx` and `/t_offset`.
    Dsec,
    /// That of Prophesee's tools: `/CD/events` compressed with ECF, `/EXT_TRIGGER/events`, and their indexes.
    Prophesee,
}

impl Hdf5Layout {
    /// Every layout.
    pub const ALL: [Self; 2] = [Self::Dsec, Self::Prophesee];

    /// Lower-case name, as accepted by [`Hdf5Layout::from_str`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dsec => "dsec",
            Self::Prophesee => "prophesee",
        }
    }
}

impl FromStr for Hdf5Layout {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|layout| layout.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::invalid("unknown layout").expecting("`dsec` or `prophesee`").but_found(format!("`{name}`")))
    }
}

/// Compression of HDF5 files in the DSEC layout, and of AEDAT 4.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Blosc with byte shuffle and Zstandard, as DSEC has it: fast, and read by HDF5 with the Blosc plugin.
    Zstd,
    /// Byte shuffle and deflate: slow, and read by every HDF5.
    Gzip,
    /// AEDAT 4.0: LZ4 frames, which every reader of the format knows.
    Lz4,
    /// None.
    None,
}

impl Compression {
    /// Every compression.
    pub const ALL: [Self; 4] = [Self::Zstd, Self::Gzip, Self::Lz4, Self::None];

    /// Lower-case name, as accepted by [`Compression::from_str`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::None => "none",
        }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|compression| compression.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            Error::invalid("unknown compression").expecting("`zstd`, `gzip`, `lz4` or `none`").but_found(format!("`{name}`"))
        })
    }
}

/// How to write a recording.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-write-options-{}.h5", std::process::id()));
/// use evlib::{Compression, EventColumns, EventWriter, Format, Geometry, Hdf5Layout, WriteOptions};
/// let options = WriteOptions::new(Format::Hdf5, Geometry::new(640, 480)?)
///     .with_layout(Hdf5Layout::Dsec)
///     .with_compression(Compression::Gzip);
/// let mut writer = EventWriter::create_with(&path, &options)?;
/// writer.write(&EventColumns::from_slices(&[3], &[5], &[1_000_000], &[1])?)?;
/// assert_eq!(writer.finish()?, 1);
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Format of the file.
    pub format: Format,
    /// Sensor geometry.
    pub geometry: Geometry,
    /// Whether a file that is there may be replaced.
    pub overwrite: bool,
    /// HDF5: the layout; by default Prophesee's for files named `.hdf5`, that of DSEC for others.
    pub layout: Option<Hdf5Layout>,
    /// HDF5 in the DSEC layout: the compression, by default [`Compression::Zstd`]; AEDAT 4.0: [`Compression::Lz4`], which
    /// is the default, or none; Parquet: none, which is the default, or [`Compression::Zstd`].
    pub compression: Option<Compression>,
    /// Threads that check and encode what goes into HDF5 and Parquet; all processors by default.
    pub threads: Option<usize>,
}

impl WriteOptions {
    /// A new file in `format`, of a sensor of size `geometry`.
    #[must_use]
    pub fn new(format: Format, geometry: Geometry) -> Self {
        Self { format, geometry, overwrite: false, layout: None, compression: None, threads: None }
    }

    /// Replaces a file that is there, or not.
    #[must_use]
    pub fn with_overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Writes HDF5 in this layout.
    #[must_use]
    pub fn with_layout(mut self, layout: Hdf5Layout) -> Self {
        self.layout = Some(layout);
        self
    }

    /// Compresses HDF5 in the DSEC layout, AEDAT 4.0 or Parquet in this way.
    #[must_use]
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// Encodes HDF5 and Parquet with this many threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }
}

/// The file that is being written under a name of its own, beside the one it will have; removed unless it is completed.
pub(crate) struct Partial {
    path: PathBuf,
    place: PathBuf,
    file: Option<File>,
}

impl Partial {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let (file, place) = create_partial(path).map_err(|error| Error::io(error, path))?;
        Ok(Self { path: path.to_path_buf(), place, file: Some(file) })
    }

    /// [`Partial::new`] where there is nothing, or a file that may be replaced.
    pub(crate) fn start(path: &Path, overwrite: bool) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::io(std::io::ErrorKind::IsADirectory.into(), path));
        }
        if !overwrite && is_there(path) {
            return Err(exists(path));
        }
        if path.metadata().is_ok_and(|there| !there.is_file()) {
            return Err(Error::invalid("a recording is written to a file: a pipe or a device cannot be replaced")
                .expecting("a new name, or that of a file")
                .with_path(path));
        }
        Self::new(path)
    }

    /// Another file for the same place.
    pub(crate) fn another(&self) -> Result<Self> {
        Self::new(&self.path)
    }

    /// Where the file is meanwhile.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// The name that the file will have.
    pub(crate) fn target(&self) -> &Path {
        &self.path
    }

    /// Appends.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.append(bytes).map_err(|error| Error::io(error, &self.path))
    }

    /// Appends, for those who name the file themselves.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(bytes)
    }

    /// Replaces the first bytes.
    pub(crate) fn write_over_start(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_over(0, bytes)
    }

    /// Replaces the bytes at `offset`.
    pub(crate) fn write_over(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes)).map_err(|error| Error::io(error, &self.path))
    }

    /// Appends a range of another file's bytes.
    pub(crate) fn copy(&mut self, source: &Source, range: Range<u64>) -> Result<()> {
        let mut buffer = Buffer::default();
        let mut at = range.start;
        while at < range.end {
            let part = buffer.take(usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK));
            source.read_exact_at(part, at)?;
            self.write_all(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Gives the file its name. It is not synced: waiting for the disk would cost up to two thirds of the time of writing.
    pub(crate) fn complete(mut self, overwrite: bool) -> Result<()> {
        drop(self.file.take());
        if !overwrite {
            // A second name, unlike a new one, never takes the place of another file.
            match std::fs::hard_link(&self.place, &self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(exists(&self.path)),
                // Not all file systems have second names.
                Err(_) if is_there(&self.path) => return Err(exists(&self.path)),
                Err(_) => {}
            }
        }
        std::fs::rename(&self.place, &self.path).map_err(|error| Error::io(error, &self.path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        drop(self.file.take());
        // Fails, as it should, after a rename.
        let _ = std::fs::remove_file(&self.place);
    }
}

/// Whether something has this name, be it a link to nowhere.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn exists(path: &Path) -> Error {
    Error::io(std::io::ErrorKind::AlreadyExists.into(), path).hint("pass `overwrite=True` to replace it")
}

/// Encodes events into bytes.
pub(crate) trait Encoder: Send {
    /// The file header.
    fn header(&self, geometry: Geometry, date: &str) -> Vec<u8>;

    /// First time that can be encoded.
    fn start_of_time(&self) -> i64 {
        0
    }

    /// First time after it that cannot be encoded.
    fn end_of_time(&self) -> i64;

    /// Whether times may go back.
    fn in_any_order(&self) -> bool {
        false
    }

    /// Appends the events; their values have been checked.
    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>);

    /// Number of inputs that external triggers can be of, from input 0 on; 0 where there are no triggers in the format.
    fn trigger_ids(&self) -> u16 {
        0
    }

    /// Appends an external trigger, whose values have been checked, in order of time with the events.
    fn trigger(&mut self, _id: u8, _rising: bool, _t: i64, _out: &mut Vec<u8>) {}

    /// Appends what stands after the events. Returns bytes that replace those at a place of the file, if any do.
    fn finish(&mut self, _out: &mut Vec<u8>) -> Option<(u64, Vec<u8>)> {
        None
    }
}

/// A format is not written with this compression.
pub(crate) fn refuse_compression(format: Format, expected: &str, found: Compression) -> Error {
    Error::invalid(format!("`{format}` is not written with this compression")).expecting(expected).but_found(format!("`{}`", found.name()))
}

/// Checks that a format whose largest sensor is `largest` can hold one of this size.
pub(crate) fn check_geometry(geometry: Geometry, largest: (u16, u16)) -> Result<()> {
    if geometry.width() > largest.0 || geometry.height() > largest.1 {
        return Err(Error::invalid("the format cannot hold this sensor geometry")
            .expecting(format!("at most {}x{}", largest.0, largest.1))
            .but_found(geometry.to_string()));
    }
    Ok(())
}

/// What checked rows go into; called on a thread of the writer's pool, if it has one.
pub(crate) trait Sink: Send {
    /// Times that can be held if the first event's is `first`.
    fn times(&self, first: i64) -> Range<i64>;

    /// Whether times may go back.
    fn in_any_order(&self) -> bool {
        false
    }

    /// What to do about a time after those.
    fn too_late(&self) -> &'static str {
        "subtract the first time"
    }

    /// Rows that are encoded together, where they are: it is given as many at a time, and fewer only at the end.
    fn group(&self) -> Option<usize> {
        None
    }

    /// Appends rows.
    fn write(&mut self, rows: Rows<'_>) -> Result<()>;

    /// Appends external triggers.
    fn triggers(&mut self, triggers: &TriggerColumns) -> Result<()> {
        if triggers.is_empty() {
            return Ok(());
        }
        Err(no_triggers())
    }

    /// Writes what is left.
    fn finish(self: Box<Self>) -> Result<Partial>;
}

fn no_triggers() -> Error {
    Error::invalid("external triggers are not written to this format")
        .expecting("`evt3`, `evt2`, `evt21`, `evt4`, or `hdf5` in the `prophesee` layout")
}

/// What a recording can hold of external triggers.
pub(crate) struct TriggerLimits {
    /// Triggers before these.
    pub(crate) rows: u64,
    /// Time of the last of them.
    pub(crate) last: i64,
    pub(crate) times: Range<i64>,
    pub(crate) ids: u16,
    /// What to do about a time after those.
    pub(crate) too_late: &'static str,
}

impl TriggerLimits {
    /// Refuses the first trigger that cannot be held.
    pub(crate) fn check(&self, triggers: &TriggerColumns) -> Result<()> {
        let Range { start, end } = self.times;
        let mut last = self.last;
        for (row, ((id, p), t)) in triggers.id.iter().zip(&triggers.polarity).zip(&triggers.timestamp).enumerate() {
            let error = || Error::invalid(format!("the recording cannot hold trigger {}", self.rows + row as u64));
            if *t < start {
                return Err(error().expecting(format!("a time of at least {start} us")).but_found(format!("{t} us")));
            } else if *t < last {
                let error = error().expecting(format!("times in order, from {last} us on")).but_found(format!("{t} us"));
                return Err(error.hint("sort by `timestamp`"));
            } else if *t >= end {
                return Err(error().expecting(format!("a time before {end} us")).but_found(format!("{t} us")).hint(self.too_late));
            } else if !matches!(p, 1 | -1) {
                return Err(error().expecting("polarity 1 or -1").but_found(p.to_string()));
            } else if u16::from(*id) >= self.ids {
                return Err(error().expecting(format!("an id below {}", self.ids)).but_found(id.to_string()));
            }
            last = *t;
        }
        Ok(())
    }
}

/// Rows that are not enough for a group yet.
struct Stage {
    /// Rows of a group.
    group: usize,
    x: Vec<i16>,
    y: Vec<i16>,
    t: Vec<i64>,
    p: Vec<i8>,
}

impl Stage {
    fn new(group: usize) -> Self {
        Self { group, x: Vec::new(), y: Vec::new(), t: Vec::new(), p: Vec::new() }
    }

    /// Takes rows, and gives `sink` all that make groups.
    fn feed(&mut self, rows: Rows<'_>, sink: &mut dyn Sink) -> Result<()> {
        let mut at = 0;
        if !self.t.is_empty() {
            at = rows.len.min(self.group - self.t.len());
            self.extend(rows.cut(0..at));
            if self.t.len() == self.group {
                sink.write(self.rows())?;
                self.clear();
            }
        }
        while rows.len - at >= self.group {
            sink.write(rows.cut(at..at + self.group))?;
            at += self.group;
        }
        self.extend(rows.cut(at..rows.len));
        Ok(())
    }

    /// The rows that are left.
    fn rows(&self) -> Rows<'_> {
        Rows { x: &self.x, y: &self.y, t: &self.t, p: &self.p, len: self.t.len() }
    }

    fn clear(&mut self) {
        let Self { x, y, t, p, .. } = self;
        x.clear();
        y.clear();
        t.clear();
        p.clear();
    }

    fn extend(&mut self, rows: Rows<'_>) {
        self.x.extend_from_slice(rows.x);
        self.y.extend_from_slice(rows.y);
        self.t.extend_from_slice(rows.t);
        self.p.extend_from_slice(rows.p);
    }
}

/// Formats that are one sequence of bytes.
struct Bytes {
    partial: Partial,
    encoder: Box<dyn Encoder>,
    buffer: Vec<u8>,
    /// Triggers that wait for the events before them: id, whether rising, time.
    triggers: VecDeque<(u8, bool, i64)>,
    trigger_rows: u64,
    last_trigger_us: i64,
    last_us: i64,
}

impl Bytes {
    fn new(partial: Partial, encoder: Box<dyn Encoder>, geometry: Geometry, date: &str) -> Result<Self> {
        let buffer = encoder.header(geometry, date);
        let (triggers, start) = (VecDeque::new(), encoder.start_of_time());
        let mut bytes = Self { partial, encoder, buffer, triggers, trigger_rows: 0, last_trigger_us: start, last_us: start };
        bytes.flush()?;
        Ok(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.partial.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn encode(&mut self, rows: Rows<'_>) -> Result<()> {
        for start in (0..rows.len).step_by(CHUNK / 16) {
            let Rows { x, y, t, p, .. } = rows.cut(start..rows.len.min(start + CHUNK / 16));
            self.encoder.encode(x, y, t, p, &mut self.buffer);
            if self.buffer.len() >= CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Encodes the waiting triggers up to this time, each behind the rows before it; returns the rows behind them.
    fn encode_triggers<'a>(&mut self, mut rows: Rows<'a>, until: i64) -> Result<Rows<'a>> {
        while let Some((id, rising, t)) = self.triggers.front().copied().filter(|(_, _, t)| *t <= until) {
            self.triggers.pop_front();
            let before = rows.t.partition_point(|time| *time < t);
            self.encode(rows.cut(0..before))?;
            rows = rows.cut(before..rows.len);
            self.encoder.trigger(id, rising, t, &mut self.buffer);
            if self.buffer.len() >= CHUNK {
                self.flush()?;
            }
        }
        Ok(rows)
    }
}

impl Sink for Bytes {
    fn times(&self, _: i64) -> Range<i64> {
        self.encoder.start_of_time()..self.encoder.end_of_time()
    }

    fn in_any_order(&self) -> bool {
        self.encoder.in_any_order()
    }

    fn write(&mut self, rows: Rows<'_>) -> Result<()> {
        let Some(last) = rows.t.last() else { return Ok(()) };
        let rows = self.encode_triggers(rows, *last)?;
        self.last_us = *last;
        self.encode(rows)
    }

    fn triggers(&mut self, triggers: &TriggerColumns) -> Result<()> {
        let ids = self.encoder.trigger_ids();
        if ids == 0 && !triggers.is_empty() {
            return Err(no_triggers());
        }
        let times = self.times(0);
        // What is encoded is behind us.
        let last = self.last_trigger_us.max(self.last_us);
        TriggerLimits { rows: self.trigger_rows, last, times, ids, too_late: self.too_late() }.check(triggers)?;
        let triggers_in_order = triggers.id.iter().zip(&triggers.polarity).zip(&triggers.timestamp);
        self.triggers.extend(triggers_in_order.map(|((id, p), t)| (*id, *p > 0, *t)));
        self.trigger_rows += triggers.len() as u64;
        self.last_trigger_us = triggers.timestamp.last().copied().unwrap_or(self.last_trigger_us);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Partial> {
        self.encode_triggers(Rows { x: &[], y: &[], t: &[], p: &[], len: 0 }, i64::MAX)?;
        let patch = self.encoder.finish(&mut self.buffer);
        self.flush()?;
        if let Some((offset, bytes)) = patch {
            self.partial.write_over(offset, &bytes)?;
        }
        Ok(self.partial)
    }
}

/// Writes events to a new recording, batch by batch.
///
/// The file appears under its name only when [`EventWriter::finish`] has succeeded; a writer that is dropped before
/// leaves nothing.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-writer-{}.raw", std::process::id()));
/// use evlib::{EventColumns, EventWriter, Format, Geometry, Recording, Selection};
/// let events = EventColumns::from_slices(&[3, 4], &[5, 5], &[1_000_000, 1_000_001], &[1, -1])?;
/// let mut writer = EventWriter::create(&path, Format::Evt3, Geometry::new(640, 480)?, false)?;
/// writer.write(&events)?;
/// assert_eq!(writer.finish()?, 2);
/// assert_eq!(Recording::open(&path)?.read(&Selection::default())?, events);
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
pub struct EventWriter {
    /// Gone once writing to it has failed: what is in the file then is not known.
    sink: Option<Box<dyn Sink>>,
    stage: Option<Stage>,
    geometry: Geometry,
    overwrite: bool,
    rows: u64,
    first_us: Option<i64>,
    last_us: i64,
    /// For formats that are encoded by several threads.
    pool: Option<Arc<rayon::ThreadPool>>,
}

impl EventWriter {
    /// Starts a recording in `format` of a sensor of size `geometry`.
    ///
    /// Written are [`Format::Evt3`], [`Format::Evt2`], [`Format::Evt21`] (little-endian words), [`Format::Evt4`],
    /// [`Format::Dat`] (version 2), [`Format::Aedat4`], [`Format::Hdf5`], [`Format::Parquet`], [`Format::Arrow`],
    /// [`Format::Npy`], [`Format::Npz`], [`Format::EventStream`], [`Format::AtisBin`] and [`Format::Text`], which is CSV
    /// where the path ends in `.csv`.
    ///
    /// # Errors
    /// `InvalidArgument` if the format is not written or cannot hold the geometry; `Io` if the file cannot be made,
    /// or is there already and `overwrite` is false.
    pub fn create(path: impl AsRef<Path>, format: Format, geometry: Geometry, overwrite: bool) -> Result<Self> {
        Self::create_with(path, &WriteOptions::new(format, geometry).with_overwrite(overwrite))
    }

    /// Starts a recording.
    ///
    /// # Errors
    /// As [`EventWriter::create`]; `InvalidArgument` also for options that the format does not have.
    pub fn create_with(path: impl AsRef<Path>, options: &WriteOptions) -> Result<Self> {
        let (path, geometry) = (path.as_ref(), options.geometry);
        let date = date(SystemTime::now());
        let any = (Geometry::MAX, Geometry::MAX);
        let (encoder, largest): (Option<Box<dyn Encoder>>, _) = match options.format {
            Format::Aedat4 => {
                let compression = options.compression.unwrap_or(Compression::Lz4);
                if !matches!(compression, Compression::Lz4 | Compression::None) {
                    return Err(refuse_compression(Format::Aedat4, "`lz4` or `none`", compression));
                }
                (Some(Box::new(Aedat4Encoder::new(geometry, compression))), any)
            }
            Format::EventStream => (Some(Box::new(event_stream::Writer::new(geometry))), any),
            Format::AtisBin => (Some(Box::new(atis_bin::Writer)), atis_bin::LARGEST),
            Format::Text => (Some(Box::new(text::Writer::new(path))), any),
            Format::Hdf5 | Format::Npy | Format::Npz | Format::Parquet | Format::Arrow => (None, any),
            other => match prophesee::writer::encoder(other, geometry) {
                Some((encoder, range)) => (Some(encoder), (range, range)),
                None => {
                    return Err(Error::invalid("this format is read but not written")
                        .expecting(
                            "`evt3`, `evt2`, `evt21`, `evt4`, `dat`, `aedat4`, `hdf5`, `parquet`, `arrow`, `npy`, `npz`, `es`, \
                             `atis-bin` or `text`",
                        )
                        .but_found(format!("`{other}`")));
                }
            },
        };
        let compressed = matches!(options.format, Format::Aedat4 | Format::Parquet | Format::Arrow);
        check_geometry(geometry, largest)?;
        if options.format == Format::Hdf5 {
            hdf5::write::check(path, options)?;
        } else {
            let named = options.layout.map(|layout| ("layout", layout.name()));
            let compression = options.compression.filter(|_| !compressed).map(|compression| ("compression", compression.name()));
            if let Some((what, name)) = named.or(compression) {
                return Err(Error::invalid(format!("`{}` has no choice of {what}", options.format))
                    .expecting("the format `hdf5`")
                    .but_found(format!("{what} `{name}`")));
            }
        }
        let pool = if encoder.is_none() { Some(pool(options.threads)?) } else { None };
        let partial = Partial::start(path, options.overwrite)?;
        let sink: Box<dyn Sink> = match (encoder, options.format) {
            (Some(encoder), _) => Box::new(Bytes::new(partial, encoder, geometry, &date)?),
            (None, Format::Npy) => Box::new(NpySink::new(partial)?),
            (None, Format::Npz) => Box::new(NpzSink::new(partial)?),
            (None, Format::Parquet) => Box::new(parquet::Writer::new(partial, options)?),
            (None, Format::Arrow) => Box::new(arrow::Writer::new(partial, options)?),
            (None, _) => hdf5::write::sink(path, partial, options, &date)?,
        };
        let stage = sink.group().map(Stage::new);
        Ok(Self { sink: Some(sink), stage, geometry, overwrite: options.overwrite, rows: 0, first_us: None, last_us: i64::MIN, pool })
    }

    /// Appends events. All four columns are needed; times must not go back, but in text, ATIS `.bin`, Parquet and Arrow.
    ///
    /// # Errors
    /// `InvalidArgument` naming the first row that the format cannot hold: a time that is negative, too large or
    /// before the one in front of it, a pixel outside the geometry, a polarity that is neither 1 nor -1; nothing of
    /// `events` is written then. `Io`, after which the writer is of no use.
    pub fn write(&mut self, events: &EventColumns) -> Result<()> {
        if events.columns() != Columns::ALL {
            return Err(Error::invalid("writing needs the columns `x`, `y`, `timestamp` and `polarity`"));
        }
        self.write_rows(events.rows(0, events.len()))
    }

    /// Appends rows with all four columns.
    pub(crate) fn write_rows(&mut self, rows: Rows<'_>) -> Result<()> {
        let (Some(first), Some(last)) = (rows.t.first(), rows.t.last()) else { return Ok(()) };
        let first_us = self.first_us.unwrap_or(*first);
        let mut sink = self.sink.take().ok_or_else(failed)?;
        let limits = Limits { geometry: self.geometry, times: sink.times(first_us), in_any_order: sink.in_any_order() };
        if let Some(at) = self.install(|| limits.offender(rows, self.last_us, self.pool.is_some())) {
            let last = if at == 0 { self.last_us } else { rows.t.get(at - 1).copied().unwrap_or(self.last_us) };
            let error = limits.refuse(self.rows + at as u64, rows.cut(at..at + 1), last, sink.too_late());
            self.sink = Some(sink);
            return Err(error);
        }
        let mut stage = self.stage.take();
        self.install(|| match &mut stage {
            Some(stage) => stage.feed(rows, &mut *sink),
            None => sink.write(rows),
        })?;
        (self.sink, self.stage) = (Some(sink), stage);
        self.rows += rows.len as u64;
        (self.first_us, self.last_us) = (Some(first_us), *last);
        Ok(())
    }

    /// Appends external triggers, on the clock of the events and in order of time among themselves.
    ///
    /// RAW has them between the events: they are given before the events that follow them, and kept in memory until then.
    ///
    /// # Errors
    /// `InvalidArgument` if the format does not hold any (RAW does, and HDF5 in Prophesee's layout), or naming the first
    /// that it cannot hold. `Io`, after which the writer is of no use.
    pub fn write_triggers(&mut self, triggers: &TriggerColumns) -> Result<()> {
        let lens = [triggers.id.len(), triggers.polarity.len()];
        if lens != [triggers.len(); 2] {
            return Err(Error::invalid("columns differ in length")
                .expecting(format!("{} values each", triggers.len()))
                .but_found(format!("{} and {}", lens[0], lens[1])));
        }
        let mut sink = self.sink.take().ok_or_else(failed)?;
        let result = sink.triggers(triggers);
        if result.as_ref().err().is_none_or(|error| error.io_error().is_none()) {
            self.sink = Some(sink);
        }
        result
    }

    /// Completes the file and gives it its name; returns the number of events written.
    ///
    /// # Errors
    /// `Io`, also if another file has taken the name meanwhile and `overwrite` is false.
    pub fn finish(mut self) -> Result<u64> {
        let mut sink = self.sink.take().ok_or_else(failed)?;
        let stage = self.stage.take();
        let partial = self.install(|| {
            if let Some(left) = stage.as_ref().map(Stage::rows).filter(|rows| rows.len > 0) {
                sink.write(left)?;
            }
            sink.finish()
        })?;
        partial.complete(self.overwrite)?;
        Ok(self.rows)
    }

    /// Does `work` on the threads of the pool, if there is one.
    fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

fn failed() -> Error {
    Error::invalid("the writer has failed before: the file is not complete")
}

/// What a recording can hold.
struct Limits {
    geometry: Geometry,
    times: Range<i64>,
    in_any_order: bool,
}

impl Limits {
    /// The first row that cannot be held after one at `last`, looked for by one thread or by those of the pool.
    fn offender(&self, rows: Rows<'_>, last: i64, parallel: bool) -> Option<usize> {
        /// Rows that are looked at together: no branch for each of them.
        const BLOCK: usize = 4096;
        /// Blocks that are not worth handing to another thread.
        const FEW: usize = 32;
        let before = |row: usize| row.checked_sub(1).and_then(|row| rows.t.get(row)).copied().unwrap_or(last);
        let in_block = |block: usize| {
            let start = block * BLOCK;
            let part = rows.cut(start..start + BLOCK);
            if simd::run(Fits { limits: self, rows: part, last: before(start) }) {
                return None;
            }
            (start..start + part.len).find(|row| !Fits { limits: self, rows: rows.cut(*row..row + 1), last: before(*row) }.run())
        };
        let blocks = 0..rows.len.div_ceil(BLOCK);
        if parallel && blocks.len() > FEW {
            return blocks.into_par_iter().with_min_len(FEW).find_map_first(in_block);
        }
        blocks.into_iter().find_map(in_block)
    }

    fn refuse(&self, row: u64, rows: Rows<'_>, last: i64, too_late: &str) -> Error {
        let (Some(x), Some(y), Some(t), Some(p)) = (rows.x.first(), rows.y.first(), rows.t.first(), rows.p.first()) else {
            return Error::invalid("no row");
        };
        let Range { start, end } = self.times;
        let error = Error::invalid(format!("the recording cannot hold row {row}"));
        if *t < start {
            error.expecting(format!("a time of at least {start} us")).but_found(format!("{t} us")).hint("subtract the first time")
        } else if *t < last && !self.in_any_order {
            error.expecting(format!("times in order, from {last} us on")).but_found(format!("{t} us")).hint("sort by `timestamp`")
        } else if *t >= end {
            error.expecting(format!("a time before {end} us")).but_found(format!("{t} us")).hint(too_late)
        } else if !matches!(p, 1 | -1) {
            error.expecting("polarity 1 or -1").but_found(p.to_string())
        } else {
            error.expecting(format!("a pixel of {}", self.geometry)).but_found(format!("x {x}, y {y}"))
        }
    }
}

/// Whether all rows are within the limits, and in order from `last` on.
struct Fits<'a> {
    limits: &'a Limits,
    rows: Rows<'a>,
    last: i64,
}

impl Kernel for Fits<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let Rows { x, y, t, p, .. } = self.rows;
        let (width, height) = (self.limits.geometry.width(), self.limits.geometry.height());
        let (Some(first), Some(last)) = (t.first(), t.last()) else { return true };
        let times = &self.limits.times;
        let mut fits = true;
        if self.limits.in_any_order {
            for t in t {
                fits &= *t >= times.start && *t < times.end;
            }
        } else {
            // The times are in order, so that only the outer ones have to be within the range.
            fits &= *first >= self.last && *first >= times.start && *last < times.end;
            for (before, after) in t.iter().zip(t.get(1..).unwrap_or_default()) {
                fits &= before <= after;
            }
        }
        for (x, limit) in [(x, width), (y, height)] {
            for x in x {
                fits &= x.cast_unsigned() < limit;
            }
        }
        for p in p {
            fits &= p.unsigned_abs() == 1;
        }
        fits
    }
}

/// `YYYY-MM-DD HH:MM:SS` in UTC.
fn date(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = ((seconds / 86_400).cast_signed(), seconds % 86_400);
    // Civil date from a day number, counting years from March so that leap days come last
    // (http://howardhinnant.github.io/date_algorithms.html#civil_from_days).
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |seconds| date(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(1_700_000_000), "2023-11-14 22:13:20");
    }
}
