//! Following a channel while it is written, in this process or another.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reader::{Payload, Record};
use super::record::{Head, SessionInfo};
use super::recovery::{self, Other};
use super::sys::{Memory, Watch};
use super::{name, sessions};
use crate::error::{Error, Result};

/// Bytes that are mapped ahead of a growing file.
const AHEAD: usize = 64 << 20;
/// How often newer files of the channel are looked for where no notice says so.
const LOOK: Duration = Duration::from_millis(20);
/// Longest wait in one piece, for systems that lose a notice.
const NAP: Duration = Duration::from_millis(100);

/// The file that is being followed.
struct Open {
    number: u64,
    path: PathBuf,
    file: File,
    memory: Arc<Memory>,
    info: Option<SessionInfo>,
    at: usize,
}

/// Records of a channel as they are written: whole records only, checked, in order, through all files to come.
///
/// Works across processes: it waits for the system's notice of a write (Linux), or looks every millisecond.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("evlib-doc-tail-{}", std::process::id()));
/// use std::time::Duration;
/// use evlib::log::{Log, Stamp, WriterOptions};
/// let log = Log::new(&dir);
/// let mut tail = log.tail("notes", false)?;
/// let writer = log.writer("notes", &WriterOptions::new("bytes", 1))?;
/// writer.write(&[b"hello"], Stamp::at(5))?;
/// let record = tail.next_within(Some(Duration::from_secs(10)))?.expect("a record within ten seconds");
/// assert_eq!(record.payload.bytes(), b"hello");
/// # drop(writer);
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
pub struct Tail {
    folder: PathBuf,
    encoded: String,
    watch: Watch,
    current: Option<Open>,
    /// Least number of a file that is still to come.
    next_number: u64,
    looked: Option<Instant>,
    lost_bytes: u64,
    spin: Duration,
    /// When the last record was given.
    given: Instant,
}

impl Tail {
    pub(super) fn new(folder: &Path, channel: &str, from_start: bool) -> Result<Self> {
        let encoded = name::encode(channel)?;
        std::fs::create_dir_all(folder).map_err(|error| Error::io(error, folder))?;
        let watch = Watch::new();
        watch.add_folder(folder);
        let mut tail = Self {
            folder: folder.to_path_buf(),
            encoded,
            watch,
            current: None,
            next_number: 0,
            looked: None,
            lost_bytes: 0,
            spin: Duration::ZERO,
            given: Instant::now(),
        };
        if !from_start && let Some(last) = tail.files()?.pop() {
            tail.open(last)?;
            tail.skip_to_end()?;
        }
        Ok(tail)
    }

    /// Waits awake for so long after each record, before it sleeps: that takes a processor, and spares the time in which
    /// the system wakes a thread, which is most of what a record is late by.
    #[must_use]
    pub fn with_spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// A descriptor that becomes readable when there may be something new (Linux), for who waits elsewhere: call
    /// [`Tail::drain`], then [`Tail::poll`] until it gives nothing, then wait for the descriptor.
    #[must_use]
    pub fn descriptor(&self) -> Option<i32> {
        self.watch.descriptor()
    }

    /// Bytes of the files that belonged to nothing whole and were passed over.
    #[must_use]
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    /// Codec, its version and metadata of the file that the last record is from.
    #[must_use]
    pub fn codec(&self) -> Option<super::CodecInfo<'_>> {
        let info = self.current.as_ref()?.info.as_ref()?;
        Some((&info.codec, info.codec_version, &info.metadata))
    }

    fn files(&self) -> Result<Vec<u64>> {
        Ok(sessions(&self.folder)?.remove(&self.encoded).unwrap_or_default())
    }

    fn open(&mut self, number: u64) -> Result<()> {
        let path = self.folder.join(name::file(&self.encoded, number));
        let file = File::open(&path).map_err(|error| Error::io(error, &path))?;
        self.watch.add_file(&path);
        self.next_number = number + 1;
        self.current = Some(Open { number, path, file, memory: Arc::new(Memory::Owned(Vec::new())), info: None, at: 0 });
        Ok(())
    }

    /// Passes over the records of the open file that are there, by their heads.
    fn skip_to_end(&mut self) -> Result<()> {
        let mut passed = 0;
        if let Some(open) = &mut self.current {
            while let Step::Record(_) = open.next(&mut passed, false)? {}
        }
        Ok(())
    }

    /// The next record if it is there.
    ///
    /// # Errors
    /// `Io` if a file cannot be read, `Unsupported` for one of a newer version.
    pub fn poll(&mut self) -> Result<Option<Record>> {
        loop {
            let Some(open) = &mut self.current else {
                let next = self.files()?.into_iter().find(|number| *number >= self.next_number);
                let Some(number) = next else { return Ok(None) };
                self.open(number)?;
                continue;
            };
            match open.next(&mut self.lost_bytes, true)? {
                Step::Record(record) => return Ok(Some(record)),
                Step::End => self.current = None,
                Step::Wait => {
                    // A newer file says that nothing more comes into this one.
                    let number = open.number;
                    if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
                        return Ok(None);
                    }
                    self.looked = Some(Instant::now());
                    if !self.files()?.iter().any(|other| *other > number) {
                        return Ok(None);
                    }
                    // It may have got its last records just before.
                    let Some(open) = &mut self.current else { return Ok(None) };
                    if let Step::Record(record) = open.next(&mut self.lost_bytes, true)? {
                        return Ok(Some(record));
                    }
                    self.current = None;
                }
            }
        }
    }

    /// The next record, waiting for it; `None` if none comes in time.
    ///
    /// # Errors
    /// As [`Tail::poll`].
    pub fn next_within(&mut self, timeout: Option<Duration>) -> Result<Option<Record>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            self.watch.drain();
            if let Some(record) = self.poll()? {
                self.given = Instant::now();
                return Ok(Some(record));
            }
            let left = deadline.map_or(NAP, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            if self.given.elapsed() < self.spin {
                std::hint::spin_loop();
            } else {
                self.watch.wait(left.min(NAP));
            }
        }
    }

    /// Takes the notices of the descriptor.
    pub fn drain(&self) {
        self.watch.drain();
    }
}

enum Step {
    Record(Record),
    Wait,
    /// The file was closed.
    End,
}

impl Open {
    /// The next record; with `check`, one whose payload has the right checksum.
    fn next(&mut self, lost_bytes: &mut u64, check: bool) -> Result<Step> {
        let io = |error| Error::io(error, &self.path);
        let len = self.file.metadata().map_err(io)?.len() as usize;
        if !self.memory.grow(len) {
            let room = len.saturating_add(len.max(AHEAD));
            self.memory = Arc::new(Memory::map_ahead(&self.file, len, room).map_err(io)?);
        }
        let file = self.memory.bytes();
        let info = if let Some(info) = &self.info {
            info
        } else {
            let found = recovery::find_session(file).map_err(|version| {
                Error::new(crate::ErrorKind::Unsupported, format!("a log of version {version}, which is newer")).with_path(&self.path)
            })?;
            let Some((info, start)) = found else { return Ok(Step::Wait) };
            self.at = start;
            self.info.insert(info)
        };
        while let Some(rest) = file.get(self.at..).filter(|rest| !rest.is_empty()) {
            let offset = self.at as u64;
            if let Some(head) = Head::parse(rest, offset, info.session) {
                if head.end() > file.len() as u64 {
                    return Ok(Step::Wait);
                }
                if check && !recovery::payload_is_right(file, &head) {
                    if head.end() == file.len() as u64 {
                        return Ok(Step::Wait);
                    }
                    *lost_bytes += head.end() - offset;
                    self.at = head.end() as usize;
                    continue;
                }
                self.at = head.end() as usize;
                let payload = Payload::new(Arc::clone(&self.memory), head.payload_offset() as usize, head.payload_len as usize);
                let Head { sequence, log_time_ns, sensor_time_ns, data_offset, .. } = head;
                let Some(payload) = payload else { return Ok(Step::Wait) };
                return Ok(Step::Record(Record { sequence, log_time_ns, sensor_time_ns, payload, data_offset: data_offset as usize }));
            }
            match recovery::other(file, self.at, info.session) {
                Other::Known(len) => self.at += len,
                Other::End => return Ok(Step::End),
                Other::Zeros => return Ok(Step::Wait),
                Other::Cut | Other::Damaged => {
                    let Some(next) = recovery::next_head(file, self.at + 1, info.session) else { return Ok(Step::Wait) };
                    *lost_bytes += (next - self.at) as u64;
                    self.at = next;
                }
            }
        }
        Ok(Step::Wait)
    }
}
