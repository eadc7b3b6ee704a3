//! Source: the bytes of a file, read by position into buffers of the reader's own.
//!
//! Files are not mapped: a mapped file that another process truncates kills the reader with SIGBUS. Reading by
//! position from the page cache into a reused, aligned buffer costs one copy (see `docs/architecture.md`).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Result};

/// An open file with its length at the time of opening, or several that are read as one after the other.
///
/// Of a packed file it has the content: lengths and positions are the content's.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
    path: PathBuf,
    /// What the content is called where it is not the file itself: a member of an archive, or what was packed.
    called: Option<PathBuf>,
    /// Bytes of all files.
    len: u64,
    modified: Option<SystemTime>,
    /// The files after the first, with the positions at which they start.
    more: Vec<(u64, File)>,
}

impl AsRef<Self> for Source {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // Before opening: opening a FIFO would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(|error| Error::io(error, path))?;
        if metadata.is_dir() {
            return Err(Error::io(io::ErrorKind::IsADirectory.into(), path));
        }
        if !metadata.is_file() {
            return Err(Error::invalid("not a regular file: events are read by position").with_path(path));
        }
        let file = File::open(path).map_err(|error| Error::io(error, path))?;
        let metadata = file.metadata().map_err(|error| Error::io(error, path))?;
        Ok(Self { file, path: path.to_path_buf(), called: None, len: metadata.len(), modified: metadata.modified().ok(), more: Vec::new() })
    }

    /// Reads several files as one; also gives the positions at which they start.
    pub(crate) fn open_joined(path: &Path, files: &[PathBuf]) -> Result<(Self, Vec<u64>)> {
        let mut starts = Vec::with_capacity(files.len());
        let mut all: Option<Self> = None;
        for file in files {
            let next = Self::open(file)?;
            let Some(all) = &mut all else {
                starts.push(0);
                all = Some(next);
                continue;
            };
            starts.push(all.len);
            all.more.push((all.len, next.file));
            all.len = all.len.checked_add(next.len).ok_or_else(|| Error::invalid("files of more than 2^64 bytes").with_path(path))?;
        }
        let mut all = all.ok_or_else(|| Error::invalid("no files").with_path(path))?;
        all.path = path.to_path_buf();
        Ok((all, starts))
    }

    /// The file that has the byte at `offset`, the place in it, and the bytes that it has from there on.
    fn place(&self, offset: u64) -> (&File, u64, u64) {
        let next = self.more.partition_point(|(start, _)| *start <= offset);
        let end = self.more.get(next).map_or(self.len, |(start, _)| *start);
        let (start, file) = next.checked_sub(1).and_then(|at| self.more.get(at)).map_or((0, &self.file), |(start, file)| (*start, file));
        (file, offset - start, end.saturating_sub(offset))
    }

    /// The content of this file, unpacked into another of `len` bytes, and what it is called.
    pub(crate) fn unpacked(&self, file: File, len: u64, called: PathBuf) -> Self {
        Self { file, path: self.path.clone(), called: Some(called), len, modified: self.modified, more: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The extension of the content's name, in lower case.
    pub(crate) fn extension(&self) -> String {
        let name = self.called.as_ref().unwrap_or(&self.path);
        name.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase()
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Fills `buffer` from `offset`; the bytes must have been there when the file was opened.
    pub(crate) fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        while !buffer.is_empty() {
            let (file, place, left) = self.place(offset);
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            match read_at(file, buffer.get_mut(..piece).unwrap_or_default(), place) {
                Ok(0) => return Err(self.shrank(offset)),
                Ok(n) => {
                    buffer = buffer.get_mut(n..).unwrap_or_default();
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(error, &self.path).at(offset)),
            }
        }
        Ok(())
    }

    /// The file that has all of these bytes, and where; an error if it has shrunk. `None` if no single file has them.
    pub(crate) fn file_of(&self, offset: u64, bytes: u64) -> Result<Option<(&File, u64)>> {
        let (file, place, left) = self.place(offset);
        if bytes > left {
            return Ok(None);
        }
        let len = file.metadata().map_err(|error| Error::io(error, &self.path))?.len();
        if place.saturating_add(bytes) > len {
            return Err(self.shrank(offset));
        }
        Ok(Some((file, place)))
    }

    fn shrank(&self, offset: u64) -> Error {
        Error::new(ErrorKind::Truncated, "the file shrank while it was read")
            .expecting(format!("{} bytes in all", self.len))
            .but_found("its end")
            .at(offset)
            .with_path(&self.path)
    }

    /// The first bytes of the file, at most `limit`.
    pub(crate) fn head(&self, limit: usize) -> Result<Vec<u8>> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX).min(limit);
        let mut head = vec![0; len];
        self.read_exact_at(&mut head, 0)?;
        Ok(head)
    }
}

/// Makes a file beside `path` that nobody else has, to be renamed to it when it is complete.
pub(crate) fn create_partial(path: &Path) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}-{}.partial", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let partial = PathBuf::from(name);
        match File::options().write(true).create_new(true).open(&partial) {
            // Left over from a process of the same number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|file| (file, partial)),
        }
    }
}

/// A reused buffer that starts at a cache line: the system copies into others at half the speed.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    const ALIGN: usize = 64;

    /// Bytes there is room for without growing.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// `len` bytes with whatever was in them before.
    pub(crate) fn take(&mut self, len: usize) -> &mut [u8] {
        let room = len.saturating_add(Self::ALIGN);
        if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
        let start = self.bytes.as_ptr().align_offset(Self::ALIGN).min(Self::ALIGN);
        self.bytes.get_mut(start..).and_then(|bytes| bytes.get_mut(..len)).unwrap_or_default()
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}
