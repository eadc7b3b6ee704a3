//! What the system is asked for beside reading and writing: mapped files, preallocation, notices of changes.
//!
//! Log files are mapped, unlike recordings of other formats: views into them are what the log is for. Their writer only
//! appends, nothing of this crate ever truncates them, and a file that is deleted or replaced stays mapped. Only who
//! truncates one with other means ends its readers (SIGBUS).
#![expect(unsafe_code, reason = "mapped files, and calls of the system that the standard library does not have")]

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Result};

/// Bytes that payloads are views of: a mapped file, or memory of our own.
pub(crate) enum Memory {
    /// A mapped file, of which the first bytes are known to be there.
    Mapped(Mmap, AtomicUsize),
    Owned(Vec<u8>),
}

impl Memory {
    /// Maps a whole file.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        Self::map_file(&File::open(path).map_err(|error| Error::io(error, path))?, path)
    }

    /// Maps all that an open file has now, which is called `path`.
    pub(crate) fn map_file(file: &File, path: &Path) -> Result<Self> {
        let len = file.metadata().map_err(|error| Error::io(error, path))?.len();
        let len = usize::try_from(len).map_err(|_| Error::invalid("the file does not fit the address space").with_path(path))?;
        Self::map_ahead(file, len, len).map_err(|error| Error::io(error, path))
    }

    /// Maps `room` bytes of a file, of which it has the first `len` now.
    pub(crate) fn map_ahead(file: &File, len: usize, room: usize) -> io::Result<Self> {
        if room == 0 {
            return Ok(Self::Owned(Vec::new()));
        }
        // SAFETY: the mapping is only read, up to a length that the file has reached (`bytes`). Its writer appends
        // and never changes or removes what is there; the module's documentation says what others must not do.
        let map = unsafe { MmapOptions::new().len(room).map(file)? };
        Ok(Self::Mapped(map, AtomicUsize::new(len)))
    }

    /// Bytes that there are.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map, len) => map.get(..len.load(Ordering::Acquire)).unwrap_or_default(),
            Self::Owned(bytes) => bytes,
        }
    }

    /// Takes note that the file has grown; `false` if it outgrew the mapping.
    pub(crate) fn grow(&self, len: usize) -> bool {
        match self {
            Self::Mapped(map, known) if len <= map.len() => {
                known.fetch_max(len, Ordering::Release);
                true
            }
            Self::Mapped(..) => false,
            Self::Owned(bytes) => len <= bytes.len(),
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Mapped(..)) { "Mapped" } else { "Owned" };
        write!(f, "{kind}({} bytes)", self.bytes().len())
    }
}

/// Asks for room on the disk behind the end of a file, whose length stays. A file system that cannot is no error.
#[cfg(target_os = "linux")]
pub(crate) fn preallocate(file: &File, offset: u64, len: u64) -> bool {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) else { return false };
    // SAFETY: the descriptor is that of an open file; the call takes numbers only.
    unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, len) == 0 }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn preallocate(_: &File, _: u64, _: u64) -> bool {
    false
}

/// Opens a file for writing past the page cache; `None` where the file system cannot.
#[cfg(target_os = "linux")]
pub(crate) fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn open_direct(_: &Path) -> Option<File> {
    None
}

#[cfg(unix)]
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}

/// Notices of changes to a folder and a file, where the system gives them; otherwise just a short sleep.
pub(crate) struct Watch {
    #[cfg(target_os = "linux")]
    notices: Option<std::os::fd::OwnedFd>,
}

/// Longest sleep where there are no notices.
const POLL: Duration = Duration::from_millis(1);

#[cfg(target_os = "linux")]
impl Watch {
    pub(crate) fn new() -> Self {
        use std::os::fd::{FromRawFd, OwnedFd};
        // SAFETY: the call takes flags only.
        let descriptor = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        // SAFETY: a descriptor just opened, which nobody else has.
        let notices = (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) });
        Self { notices }
    }

    /// The descriptor that becomes readable with a notice.
    pub(crate) fn descriptor(&self) -> Option<i32> {
        use std::os::fd::AsRawFd;
        self.notices.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn add(&self, path: &Path, mask: u32) {
        use std::os::unix::ffi::OsStrExt;
        let (Some(descriptor), Ok(path)) = (self.descriptor(), std::ffi::CString::new(path.as_os_str().as_bytes())) else { return };
        // SAFETY: an open descriptor and a text that ends with NUL and outlives the call. Without the watch, waiting
        // ends with its timeout.
        unsafe { libc::inotify_add_watch(descriptor, path.as_ptr(), mask) };
    }

    /// Gives notice of new files in a folder.
    pub(crate) fn add_folder(&self, path: &Path) {
        self.add(path, libc::IN_CREATE | libc::IN_MOVED_TO);
    }

    /// Gives notice of writes to a file.
    pub(crate) fn add_file(&self, path: &Path) {
        self.add(path, libc::IN_MODIFY);
    }

    /// Takes the notices that are there.
    pub(crate) fn drain(&self) {
        let Some(descriptor) = self.descriptor() else { return };
        let mut buffer = [0_u8; 4096];
        // SAFETY: an open descriptor, and a buffer of the length given. It does not block.
        while unsafe { libc::read(descriptor, buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
    }

    /// Waits for a notice, at most so long.
    pub(crate) fn wait(&self, timeout: Duration) {
        let Some(descriptor) = self.descriptor() else {
            std::thread::sleep(timeout.min(POLL));
            return;
        };
        let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        let milliseconds = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: one `pollfd`, which outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    }
}

#[cfg(not(target_os = "linux"))]
impl Watch {
    pub(crate) fn new() -> Self {
        Self {}
    }

    pub(crate) fn descriptor(&self) -> Option<i32> {
        None
    }

    pub(crate) fn add_folder(&self, _: &Path) {}

    pub(crate) fn add_file(&self, _: &Path) {}

    pub(crate) fn drain(&self) {}

    pub(crate) fn wait(&self, timeout: Duration) {
        std::thread::sleep(timeout.min(POLL));
    }
}
