//! Columns that are files' own bytes: private mappings, side by side in one stretch of memory.
//!
//! Only for callers who ask for it (`OpenOptions::memory_map`): a mapped file must not shrink or change while its
//! columns are in use, and nothing in a library can make that an error. See `docs/architecture.md`.
#![expect(unsafe_code, reason = "files are mapped")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// Memory, parts of which are parts of files. What is written to them does not reach the files.
pub(crate) struct Stretch {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is plain memory with one owner, who may be on any thread.
unsafe impl Send for Stretch {}
// SAFETY: a shared stretch gives only its address.
unsafe impl Sync for Stretch {}

/// Bytes of a page.
pub(crate) fn page() -> usize {
    // SAFETY: `sysconf` only reads its argument.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// # Safety
/// With `MAP_FIXED`, the `len` bytes from `at` on must be the caller's alone, and mapped; without, `at` is of no meaning.
unsafe fn map(at: *mut libc::c_void, len: usize, flags: libc::c_int, file: libc::c_int, offset: u64) -> io::Result<NonNull<u8>> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: without `MAP_FIXED` no existing memory is touched; with it, only the caller's.
    let mapped = unsafe { libc::mmap(at, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | flags, file, offset) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(mapped.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Stretch {
    /// `len` bytes of zeros, which take memory when they are written.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1).checked_next_multiple_of(page()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: without `MAP_FIXED`.
        let start = unsafe { map(std::ptr::null_mut(), len, libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)? };
        Ok(Self { start, len })
    }

    /// Replaces the pages of `place` by those of a file from `offset` on; both start at pages.
    ///
    /// # Panics
    /// If they do not, or `place` is not within the stretch.
    pub(crate) fn put(&mut self, place: Range<usize>, file: &File, offset: u64) -> io::Result<()> {
        let page = page();
        assert!(place.start.is_multiple_of(page) && offset.is_multiple_of(page as u64), "mappings start at pages");
        assert!(place.start < place.end && place.end <= self.len, "mappings are within the stretch");
        // SAFETY: `place` lies in the stretch, says the assertion, and so do its pages: the stretch is whole pages.
        // `self` is borrowed exclusively, and they are mapped as long as it lives.
        unsafe {
            let at = self.start.as_ptr().add(place.start);
            map(at.cast(), place.len(), libc::MAP_FIXED, file.as_raw_fd(), offset).map(|_| ())
        }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        // SAFETY: the range was mapped in `new` and belongs to this value alone.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::{Stretch, page};
    use std::io::Write;

    #[test]
    fn files_lie_in_memory_and_are_not_written() {
        let path = std::env::temp_dir().join(format!("evlib-mapped-{}", std::process::id()));
        let bytes: Vec<u8> = (0..3 * page()).map(|at| (at / page() + 1) as u8).collect();
        std::fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let mut stretch = Stretch::new(3 * page()).unwrap();
        stretch.put(page()..2 * page() + 5, &file, page() as u64).unwrap();
        // SAFETY: the stretch is this long, and nobody else uses it or the file.
        let memory = unsafe { std::slice::from_raw_parts_mut(stretch.start().as_ptr(), 3 * page()) };
        assert_eq!([memory[0], memory[page()], memory[2 * page()], memory[2 * page() + 5]], [0, 2, 3, 3]);
        memory[page()] = 9;
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    #[should_panic(expected = "within the stretch")]
    fn nothing_is_mapped_over_other_memory() {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let mut stretch = Stretch::new(page()).unwrap();
        let _ = stretch.put(page()..page() + 1, &file, 0);
    }

    #[test]
    #[should_panic(expected = "within the stretch")]
    fn nothing_is_mapped_up_to_the_end_of_the_address_space() {
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let mut stretch = Stretch::new(page()).unwrap();
        let _ = stretch.put(0..usize::MAX, &file, 0);
    }

    #[test]
    fn a_stretch_that_does_not_fit_the_address_space() {
        assert!(Stretch::new(usize::MAX).is_err());
    }
}
