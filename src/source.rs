//! Source: the bytes of a file, read by position into buffers of the reader's own.
//!
//! Files are not mapped: a mapped file that another process truncates kills the reader with SIGBUS. Reading by
//! position from the page cache into a reused, aligned buffer costs one copy (see `docs/architecture.md`). Packed files
//! are read by position too, from a [`Spool`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::error::{Error, ErrorKind, Result};
use crate::spool::{Packing, Spool};

/// An open file with its length at the time of opening, or several that are read as one after the other.
///
/// Of a packed file it has the content: lengths and positions are the content's.
#[derive(Debug)]
pub(crate) struct Source {
    content: Content,
    path: PathBuf,
    /// What the content is called where it is not the file itself: a member of an archive, or what was packed.
    called: Option<PathBuf>,
    modified: Option<SystemTime>,
}

#[derive(Debug)]
enum Content {
    Files {
        first: File,
        /// The files after it, with the positions at which they start.
        more: Vec<(u64, File)>,
        /// Bytes of all files.
        len: u64,
    },
    Packed(Arc<Spool>),
}

/// Where the content of a source ends.
#[derive(Debug, Clone)]
pub(crate) enum End {
    At(u64),
    Packed(Arc<Spool>),
}

impl End {
    /// Bytes of the content; of packed content `None` until a read has reached its end.
    pub(crate) fn known(&self) -> Option<u64> {
        match self {
            Self::At(len) => Some(*len),
            Self::Packed(spool) => spool.known_len(),
        }
    }
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
        let first = File::open(path).map_err(|error| Error::io(error, path))?;
        let metadata = first.metadata().map_err(|error| Error::io(error, path))?;
        let content = Content::Files { first, more: Vec::new(), len: metadata.len() };
        Ok(Self { content, path: path.to_path_buf(), called: None, modified: metadata.modified().ok() })
    }

    /// Reads several files as one; also gives the positions at which they start.
    pub(crate) fn open_joined(path: &Path, files: &[PathBuf]) -> Result<(Self, Vec<u64>)> {
        let no_files = || Error::invalid("no files").with_path(path);
        let (head, tail) = files.split_first().ok_or_else(no_files)?;
        let mut joined = Self::open(head)?;
        let mut starts = vec![0];
        for file in tail {
            let next = Self::open(file)?;
            if let (Content::Files { more, len, .. }, Content::Files { first, len: bytes, .. }) = (&mut joined.content, next.content) {
                starts.push(*len);
                more.push((*len, first));
                *len = len.checked_add(bytes).ok_or_else(|| Error::invalid("files of more than 2^64 bytes").with_path(path))?;
            }
        }
        joined.path = path.to_path_buf();
        Ok((joined, starts))
    }

    /// The content of a packed file, and what it is called.
    pub(crate) fn unpacked(spool: Arc<Spool>, called: PathBuf) -> Self {
        let packed = spool.packed();
        Self { path: packed.path.clone(), called: Some(called), modified: packed.modified, content: Content::Packed(spool) }
    }

    /// The same with its length known, for formats that need it before they can read: packed content is unpacked whole.
    pub(crate) fn whole(self) -> Result<Self> {
        if let Content::Packed(spool) = &self.content {
            spool.advance(u64::MAX)?;
        }
        Ok(self)
    }

    /// The file that has the byte at `offset`, the place in it, and the bytes that it has from there on.
    fn place(&self, offset: u64) -> (&File, u64, u64) {
        let (first, more, len) = match &self.content {
            Content::Packed(spool) => return (spool.file(), offset, spool.ready().saturating_sub(offset)),
            Content::Files { first, more, len } => (first, more, *len),
        };
        let next = more.partition_point(|(start, _)| *start <= offset);
        let end = more.get(next).map_or(len, |(start, _)| *start);
        let (start, file) = next.checked_sub(1).and_then(|at| more.get(at)).map_or((0, first), |(start, file)| (*start, file));
        (file, offset - start, end.saturating_sub(offset))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of an archive that this is.
    pub(crate) fn member(&self) -> Option<&Path> {
        match &self.content {
            Content::Packed(spool) if matches!(spool.packing(), Packing::Zip { .. }) => self.called.as_deref(),
            _ => None,
        }
    }

    /// The extension of the content's name, in lower case.
    pub(crate) fn extension(&self) -> String {
        let name = self.called.as_ref().unwrap_or(&self.path);
        name.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase()
    }

    /// Bytes of the content; as long as packed content has not been read to its end, the most that it may have.
    pub(crate) fn len(&self) -> u64 {
        match &self.content {
            Content::Files { len, .. } => *len,
            Content::Packed(spool) => spool.known_len().unwrap_or_else(|| spool.limit()),
        }
    }

    /// Bytes of the content, if that is known without unpacking it.
    pub(crate) fn known_len(&self) -> Option<u64> {
        match &self.content {
            Content::Files { len, .. } => Some(*len),
            Content::Packed(spool) => spool.known_len(),
        }
    }

    /// Where the content ends, for those who will have to know it later.
    pub(crate) fn end(&self) -> End {
        match &self.content {
            Content::Files { len, .. } => End::At(*len),
            Content::Packed(spool) => End::Packed(Arc::clone(spool)),
        }
    }

    /// Bytes of the file on disk, packed or not.
    pub(crate) fn stored_len(&self) -> u64 {
        match &self.content {
            Content::Files { len, .. } => *len,
            Content::Packed(spool) => spool.packed().len(),
        }
    }

    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// How many bytes there are from `offset` on, at most `most`, and whether the content ends with them.
    pub(crate) fn stretch(&self, offset: u64, most: usize) -> Result<(usize, bool)> {
        self.unpack_beyond(offset, most)?;
        let left = self.len().saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(most).min(most);
        Ok((len, len as u64 == left))
    }

    /// Unpacks the bytes at `offset`, and on until it is known whether the content ends with them.
    fn unpack_beyond(&self, offset: u64, bytes: usize) -> Result<()> {
        match &self.content {
            Content::Files { .. } => Ok(()),
            Content::Packed(spool) => spool.advance(offset.saturating_add(bytes as u64).saturating_add(1)),
        }
    }

    /// Lets another thread of this pool unpack up to `to` in the meantime, if it has to be unpacked.
    pub(crate) fn prefetch(&self, to: u64) {
        if let Content::Packed(spool) = &self.content {
            spool.prefetch(to);
        }
    }

    /// Fills `buffer` from `offset`; the bytes must have been there when the file was opened.
    pub(crate) fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        self.unpack_beyond(offset, buffer.len())?;
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
            .expecting(format!("{} bytes in all", self.len()))
            .but_found("its end")
            .at(offset)
            .with_path(&self.path)
    }

    /// The first bytes of the file, at most `limit`.
    pub(crate) fn head(&self, limit: usize) -> Result<Vec<u8>> {
        let mut head = vec![0; self.stretch(0, limit)?.0];
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

/// Writes all of `bytes` at a place of a file.
#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
