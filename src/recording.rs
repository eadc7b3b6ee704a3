//! `Recording`: a file that has been identified and can be read.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::ThreadPool;

use crate::columns::{EventColumns, TriggerColumns};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, Format, Identity, Opened};
use crate::problem::Problems;
use crate::reader::BatchStream;
use crate::scan::{BATCH_ROWS, pool};
use crate::schema::{Geometry, TimeRange, TimeSource, TimeUnit};
use crate::selection::Selection;
use crate::side::SideStream;
use crate::write::Partial;

/// How to open a recording, where the file does not say all or should not be asked.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-options-{}.raw", std::process::id()));
/// # evlib::doc_recording(&path)?;
/// let recording = evlib::OpenOptions::default()
///     .with_format(evlib::Format::Evt3)
///     .with_geometry(evlib::Geometry::new(1280, 720)?)
///     .with_threads(2)
///     .open(&path)?;
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Format, for files whose content does not tell.
    pub format: Option<Format>,
    /// Sensor geometry, in place of the file's.
    pub geometry: Option<Geometry>,
    /// Threads that decode; all processors by default.
    pub threads: Option<usize>,
    /// Stream of events to read, where the file has several (see [`Recording::streams`]).
    pub stream: Option<String>,
    /// HDF5 and NPZ: where columns are, in place of what the layout says: pairs of a column (`x`, `y`, `timestamp`,
    /// `polarity`, or `events` for all in one table) and the path of a data set or the name of a member.
    pub path_map: Vec<(String, String)>,
    /// HDF5, NPY, NPZ and text: unit of the stored times, in place of what the layout says.
    pub time_unit: Option<TimeUnit>,
    /// HDF5, NPY, NPZ and text: microseconds added to every stored time, in place of what the file says.
    pub time_offset_us: Option<i64>,
    /// HDF5, NPY and NPZ: parts of a pixel that the stored coordinates count, in place of what their values tell: 32
    /// for the files of HS-ERGB and BS-ERGB.
    pub pixel_parts: Option<u16>,
    /// Text: what the columns are, in place of what the file says: names of `t`, `x`, `y`, `p` in their order, with `_`
    /// for columns to skip.
    pub text_columns: Option<String>,
    /// HDF5, NPY and NPZ, on Linux: columns that lie in the file as they are to be given are mapped, not read (see
    /// [`OpenOptions::with_memory_map`]).
    pub memory_map: bool,
    /// ROS bags and MCAP: which clock the times are of; the sensor's by default.
    pub time_source: Option<TimeSource>,
}

impl OpenOptions {
    /// Reads the file as this format.
    #[must_use]
    pub fn with_format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Takes this sensor geometry in place of the file's.
    #[must_use]
    pub fn with_geometry(mut self, geometry: Geometry) -> Self {
        self.geometry = Some(geometry);
        self
    }

    /// Decodes with this many threads.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Reads this stream of events.
    #[must_use]
    pub fn with_stream(mut self, stream: impl Into<String>) -> Self {
        self.stream = Some(stream.into());
        self
    }

    /// Takes a column from this data set or member.
    #[must_use]
    pub fn with_path(mut self, column: impl Into<String>, path: impl Into<String>) -> Self {
        self.path_map.push((column.into(), path.into()));
        self
    }

    /// Takes stored times in this unit.
    #[must_use]
    pub fn with_time_unit(mut self, unit: TimeUnit) -> Self {
        self.time_unit = Some(unit);
        self
    }

    /// Adds microseconds to every stored time.
    #[must_use]
    pub fn with_time_offset(mut self, microseconds: i64) -> Self {
        self.time_offset_us = Some(microseconds);
        self
    }

    /// Takes stored coordinates in this fraction of a pixel; the nearest pixel is given.
    #[must_use]
    pub fn with_pixel_parts(mut self, parts: u16) -> Self {
        self.pixel_parts = Some(parts);
        self
    }

    /// Takes the columns of text in this order.
    #[must_use]
    pub fn with_text_columns(mut self, columns: impl Into<String>) -> Self {
        self.text_columns = Some(columns.into());
        self
    }

    /// Maps columns that lie in the file as they are to be given, in place of reading them: no copy, and no memory but
    /// the page cache. These are arrays of their own, neither in chunks nor compressed, little-endian and aligned:
    /// coordinates of 16 bits, times of 64 bits in microseconds, polarities of 8 bits that are all 1 or -1. The others
    /// are read as ever.
    ///
    /// The file must neither shrink nor change while such columns are in use: **if it shrinks, the system ends the
    /// process** (SIGBUS), and if it changes, so do the columns.
    #[must_use]
    pub fn with_memory_map(mut self) -> Self {
        self.memory_map = true;
        self
    }

    /// Takes times of this clock.
    #[must_use]
    pub fn with_time_source(mut self, source: TimeSource) -> Self {
        self.time_source = Some(source);
        self
    }

    /// Refuses the option that only ROS bags have.
    pub(crate) fn refuse_time_source(&self) -> Result<()> {
        match self.time_source {
            None | Some(TimeSource::Sensor) => Ok(()),
            Some(TimeSource::Message) => {
                Err(Error::invalid("`time_source` is for ROS bags and MCAP, whose messages have times of their own"))
            }
        }
    }

    /// Opens a recording; reads only the head of the file, or its directory.
    ///
    /// # Errors
    /// As [`Recording::open`]; `InvalidArgument` for 0 threads, and for options that this format does not have.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Recording> {
        let path = path.as_ref();
        self.open_path(path).map_err(|error| error.with_path(path))
    }

    /// Refuses options that only HDF5, NPY and NPZ have.
    pub(crate) fn refuse_paths(&self) -> Result<()> {
        let given = [("path_map", !self.path_map.is_empty()), ("pixel_parts", self.pixel_parts.is_some()), ("memory_map", self.memory_map)];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::invalid(format!("`{name}` is for HDF5, NPY and NPZ files, whose layout does not always say"))),
            None => Ok(()),
        }
    }

    /// Refuses options that only HDF5, NPY, NPZ and text have.
    pub(crate) fn refuse_array_options(&self) -> Result<()> {
        self.refuse_paths()?;
        let given = [("time_unit", self.time_unit.is_some()), ("time_offset", self.time_offset_us.is_some())];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                Err(Error::invalid(format!("`{name}` is for HDF5, NPY, NPZ and text files, whose layout does not always say")))
            }
            None => Ok(()),
        }
    }

    /// Refuses a stream other than `events`, the only one of events that most formats have.
    pub(crate) fn refuse_streams(&self) -> Result<()> {
        match &self.stream {
            Some(name) if name != "events" => {
                Err(Error::invalid("no such stream of events").expecting("`events`").but_found(format!("`{name}`")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses the options that only text has.
    pub(crate) fn refuse_text_options(&self) -> Result<()> {
        match self.text_columns {
            Some(_) => Err(Error::invalid("`text_columns` is for text and CSV")),
            None => Ok(()),
        }
    }

    fn open_path(&self, path: &Path) -> Result<Recording> {
        let pool = LazyPool::new(self.threads)?;
        let opened = format::open_path(path, self)?;
        Ok(Recording { path: path.to_path_buf(), opened, pool })
    }
}

/// The thread pool of a recording, started when there is something to decode.
#[derive(Debug, Clone, Copy)]
struct LazyPool(Option<usize>);

impl LazyPool {
    fn new(threads: Option<usize>) -> Result<Self> {
        if threads == Some(0) {
            return Err(Error::invalid("`threads` must be at least 1"));
        }
        Ok(Self(threads))
    }

    fn get(self) -> Result<Arc<ThreadPool>> {
        pool(self.0)
    }
}

/// A recording: what it is, and its streams.
///
/// Opening reads only the head of the file. Event count, time range, triggers and problems need one pass over the
/// file, which builds a segment index and is done once; with the index, time ranges are found without reading the
/// rest.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-recording-{}.raw", std::process::id()));
/// # evlib::doc_recording(&path)?;
/// let recording = evlib::Recording::open(&path)?;
/// println!("{} {:?}", recording.format(), recording.geometry());
/// let mut events = 0;
/// for batch in recording.batches(&evlib::Selection::default())? {
///     events += batch?.len() as u64;
/// }
/// assert_eq!(events, recording.event_count()?);
/// assert!(recording.problems()?.is_empty());
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
pub struct Recording {
    path: PathBuf,
    opened: Opened,
    pool: LazyPool,
}

impl Recording {
    /// Opens a recording; reads only the head of the file.
    ///
    /// # Errors
    /// `Io` if the file cannot be read, `Format` if it is not a recording, `Unsupported` for an encoding or record
    /// type that is known but not decoded.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::default().open(path)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.opened.identity.format
    }

    /// Its format, how sure that is, and why.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.opened.identity
    }

    /// Size of the sensor, if the caller, the header or the sensor's name says it.
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        self.opened.geometry
    }

    /// The streams of the file: events, and what is beside them.
    #[must_use]
    pub fn streams(&self) -> &[Stream] {
        &self.opened.streams
    }

    /// Header fields in file order.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        &self.opened.metadata
    }

    /// The selected events as one set of columns, in file order, decoded in parallel.
    ///
    /// # Errors
    /// `Io`; `Truncated` if the file shrinks while it is read.
    pub fn read(&self, selection: impl Borrow<Selection>) -> Result<EventColumns> {
        self.opened.reader.read(selection.borrow(), &*self.pool.get()?)
    }

    /// The selected events batch by batch, in file order, with memory bounded by a few batches.
    ///
    /// # Errors
    /// `InvalidArgument` if the threads cannot be started. Errors of reading come with the batches.
    pub fn batches(&self, selection: impl Borrow<Selection>) -> Result<Batches> {
        let selection = selection.borrow();
        let stream = Arc::clone(&self.opened.reader).batches(selection);
        Ok(Batches {
            stream,
            pool: self.pool.get()?,
            size: Size::About(BATCH_ROWS),
            columns: selection.columns,
            held: VecDeque::new(),
            window_end: None,
            done: false,
        })
    }

    /// The external triggers. Costs the index pass and the decoding of the segments that hold any.
    ///
    /// # Errors
    /// As [`Recording::read`].
    pub fn triggers(&self) -> Result<TriggerColumns> {
        self.opened.reader.triggers(&*self.pool.get()?)
    }

    /// A stream beside the events, by its name in [`Recording::streams`]: inertial measurements, frames, triggers of a
    /// stream of their own, or what else a format has, as colour events.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that no such stream has. Errors of reading come with the batches.
    pub fn side_stream(&self, name: &str) -> Result<SideStream> {
        Arc::clone(&self.opened.reader).side(name, self.pool.get()?)
    }

    /// Number of events. Costs the index pass, once.
    ///
    /// # Errors
    /// As [`Recording::read`].
    pub fn event_count(&self) -> Result<u64> {
        Ok(self.opened.reader.counts(&*self.pool.get()?)?.0)
    }

    /// Number of external triggers. Costs the index pass, once.
    ///
    /// # Errors
    /// As [`Recording::read`].
    pub fn trigger_count(&self) -> Result<u64> {
        Ok(self.opened.reader.counts(&*self.pool.get()?)?.1)
    }

    /// Earliest and latest event time in microseconds. Costs the index pass, once, and the decoding of the outermost
    /// segments.
    ///
    /// # Errors
    /// As [`Recording::read`].
    pub fn time_range(&self) -> Result<Option<(i64, i64)>> {
        self.opened.reader.time_range(&*self.pool.get()?)
    }

    /// What decoding skips, drops or repairs in this file. Costs the index pass, once.
    ///
    /// # Errors
    /// As [`Recording::read`].
    pub fn problems(&self) -> Result<Problems> {
        self.opened.reader.problems(&*self.pool.get()?)
    }

    /// Whether the segment index is there, so that counts and time ranges cost no pass over the file.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        self.opened.reader.is_indexed()
    }

    /// Copies the part of a RAW or DAT file that has the events and triggers of a time range to a new file, word for
    /// word, behind the header and the words that a decoder needs to start there; times stay as they are.
    ///
    /// The part reaches from the first event or trigger of the range to the last: where the recording is not in order
    /// of time, what stands between them comes along.
    ///
    /// # Errors
    /// `Unsupported` for other formats, whose events have to be written anew; `InvalidArgument` for a DAT file whose
    /// times have wrapped before the range; `Io` as [`EventWriter`](crate::EventWriter).
    ///
    /// ```
    /// # fn main() -> evlib::Result<()> {
    /// # let path = std::env::temp_dir().join(format!("evlib-doc-cut-{}.raw", std::process::id()));
    /// # let part = path.with_extension("part.raw");
    /// # evlib::doc_recording(&path)?;
    /// use evlib::{Recording, Selection, TimeRange};
    /// let (recording, range) = (Recording::open(&path)?, TimeRange::new(Some(100), Some(200)));
    /// recording.cut(range, &part, false)?;
    /// let whole = recording.read(Selection::default().with_time_range(range))?;
    /// assert_eq!(Recording::open(&part)?.read(Selection::default())?, whole);
    /// # std::fs::remove_file(&path).ok();
    /// # std::fs::remove_file(&part).ok();
    /// # Ok(())
    /// # }
    /// ```
    pub fn cut(&self, range: TimeRange, path: impl AsRef<Path>, overwrite: bool) -> Result<()> {
        let mut partial = Partial::start(path.as_ref(), overwrite)?;
        if !self.opened.reader.cut(range, &mut partial, &*self.pool.get()?)? {
            return Err(Error::new(ErrorKind::Unsupported, "the events of this format cannot be copied word for word")
                .expecting("RAW or DAT")
                .but_found(format!("`{}`", self.format()))
                .with_path(&self.path));
        }
        partial.complete(overwrite)
    }

    /// Saves the segment index beside the recording, as its name and `.evlib-index`; later openings use it as long
    /// as size, modification time and header of the recording are the same.
    ///
    /// # Errors
    /// As [`Recording::read`]; `Io` if the index cannot be written.
    pub fn save_index(&self) -> Result<PathBuf> {
        self.opened.reader.save_index(&*self.pool.get()?)
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("path", &self.path)
            .field("format", &self.format())
            .field("geometry", &self.opened.geometry)
            .finish_non_exhaustive()
    }
}

/// A stream of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stream {
    /// Its name, as [`OpenOptions::stream`] takes it for streams of events.
    pub name: String,
    /// What it has.
    pub kind: StreamKind,
    /// Where in the file it is, and how it is stored.
    pub detail: String,
    /// Rows, where the file says so without being decoded.
    pub rows: Option<u64>,
}

impl Stream {
    pub(crate) fn new(name: impl Into<String>, kind: StreamKind, detail: impl Into<String>, rows: Option<u64>) -> Self {
        Self { name: name.into(), kind, detail: detail.into(), rows }
    }
}

/// What a stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamKind {
    /// Events.
    Events,
    /// External triggers.
    Triggers,
    /// Pictures.
    Frames,
    /// Accelerations, angular rates and the like.
    Imu,
    /// Anything else, with columns of its own; some are only listed.
    Other,
}

impl StreamKind {
    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Triggers => "triggers",
            Self::Frames => "frames",
            Self::Imu => "imu",
            Self::Other => "other",
        }
    }
}

/// How long batches are.
enum Size {
    /// Whatever decoding makes of about this many rows.
    About(usize),
    /// Exactly this many rows, but for the last batch.
    Rows(usize),
    /// Windows of this many microseconds, in file order.
    Duration(i64),
}

/// The events of a recording, batch by batch.
pub struct Batches {
    stream: Box<dyn BatchStream>,
    pool: Arc<ThreadPool>,
    size: Size,
    columns: crate::Columns,
    /// Decoded events that are not given out yet, in order.
    held: VecDeque<EventColumns>,
    /// End of the current time window.
    window_end: Option<i64>,
    done: bool,
}

impl Batches {
    /// The events of a stream of its own, all columns.
    #[cfg(feature = "python")]
    pub(crate) fn over(stream: Box<dyn BatchStream>) -> Result<Self> {
        let (pool, held) = (pool(Some(1))?, VecDeque::new());
        Ok(Self { stream, pool, size: Size::About(BATCH_ROWS), columns: crate::Columns::ALL, held, window_end: None, done: false })
    }

    /// Makes batches of about `rows` rows, whatever is decoded at a time without a copy.
    #[must_use]
    pub fn with_about(mut self, rows: usize) -> Self {
        self.size = Size::About(rows.max(1));
        self
    }

    /// Makes every batch but the last exactly `rows` rows long.
    ///
    /// Batches that lie within what is decoded at a time share its memory, the others are copied.
    #[must_use]
    pub fn with_rows(mut self, rows: usize) -> Self {
        self.size = Size::Rows(rows.max(1));
        self
    }

    /// Makes every batch a window of `duration_us` microseconds, counted from the first event's time.
    ///
    /// The stream stays in file order: an event belongs to the current window unless its time is at or after the
    /// window's end. Windows without events give empty batches; where more than [`Batches::EMPTY_WINDOWS`] would
    /// follow each other, they are left out and windows go on at the next event, still a multiple of the duration
    /// from the first. Needs the timestamp column.
    #[must_use]
    pub fn with_duration(mut self, duration_us: i64) -> Self {
        self.size = Size::Duration(duration_us.max(1));
        self
    }

    /// Empty time windows in a row that are given as empty batches.
    pub const EMPTY_WINDOWS: i64 = 1 << 16;

    fn fetch(&mut self, rows: usize) -> Result<Option<EventColumns>> {
        if self.done {
            return Ok(None);
        }
        let batch = self.stream.next(rows, &self.pool);
        self.done = !matches!(batch, Ok(Some(_)));
        batch
    }

    fn next_rows(&mut self, rows: usize) -> Result<Option<EventColumns>> {
        let mut have: usize = self.held.iter().map(EventColumns::len).sum();
        while have < rows {
            let Some(batch) = self.fetch(BATCH_ROWS)? else { break };
            have += batch.len();
            self.held.push_back(batch);
        }
        let mut parts = Vec::new();
        let mut wanted = rows.min(have);
        while wanted > 0 {
            let Some(first) = self.held.pop_front() else { break };
            if first.len() > wanted {
                self.held.push_front(first.slice(wanted, first.len() - wanted));
                parts.push(first.slice(0, wanted));
                break;
            }
            wanted -= first.len();
            parts.push(first);
        }
        Ok((have > 0).then(|| EventColumns::concat(parts, self.columns)))
    }

    fn next_window(&mut self, duration: i64) -> Result<Option<EventColumns>> {
        let mut parts = Vec::new();
        loop {
            if self.held.is_empty() {
                match self.fetch(BATCH_ROWS)? {
                    Some(batch) => self.held.push_back(batch),
                    None => return Ok((!parts.is_empty()).then(|| EventColumns::concat(parts, self.columns))),
                }
            }
            let Some(batch) = self.held.pop_front() else { continue };
            let Some(first) = batch.timestamp().first().copied() else {
                return Err(Error::invalid("batches by duration need the timestamp column"));
            };
            let end = *self.window_end.get_or_insert(first.saturating_add(duration));
            let inside = batch.timestamp().iter().position(|t| *t >= end);
            let Some(inside) = inside else {
                parts.push(batch);
                continue;
            };
            if inside > 0 {
                parts.push(batch.slice(0, inside));
            }
            let next = batch.timestamp().get(inside).copied().unwrap_or(end);
            let skipped = next.saturating_sub(end) / duration;
            self.window_end = Some(end.saturating_add(if parts.is_empty() && skipped > Self::EMPTY_WINDOWS {
                skipped.saturating_add(1).saturating_mul(duration)
            } else {
                duration
            }));
            self.held.push_front(batch.slice(inside, batch.len() - inside));
            if parts.is_empty() && skipped > Self::EMPTY_WINDOWS {
                continue;
            }
            return Ok(Some(EventColumns::concat(parts, self.columns)));
        }
    }
}

impl Iterator for Batches {
    type Item = Result<EventColumns>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.size {
            Size::About(rows) => self.fetch(rows),
            Size::Rows(rows) => self.next_rows(rows),
            Size::Duration(duration) => self.next_window(duration),
        };
        if batch.is_err() {
            self.done = true;
            self.held.clear();
        }
        batch.transpose()
    }
}
