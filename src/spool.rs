//! Spool: content that is unpacked only as far as it has been asked for.
//!
//! What is read by position has to be there. What has been unpacked so far stands in a temporary file without a name; a
//! read beyond that unpacks on up to its end, and a little further to know whether the content ends there. So opening
//! costs the head, every byte is unpacked once, and the whole only where the whole or its length is needed.
//!
//! Whoever needs more bytes unpacks them, under a lock, while other threads work on those that are there. A thread that
//! unpacks waits for nobody; so waiting for it cannot lock up a thread pool.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use flate2::bufread::{DeflateDecoder, GzDecoder};
use libdeflater::Crc;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::error::{Error, Result};
use crate::source::{Source, write_all_at};

/// Bytes read, unpacked and written at a time.
const BUFFER: usize = 1 << 18;
/// Most bytes that a packed byte may become, and that any file may: what is more is taken for an attack on the disk.
pub(crate) const RATIO: u64 = 2000;
pub(crate) const ALWAYS: u64 = 1 << 30;

/// How content is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Members one after the other.
    Gzip,
    /// Frames one after the other.
    Zstd,
    /// A member of a zip archive: where its bytes are, and the size and check sum that the directory states.
    Zip { start: u64, bytes: u64, deflated: bool, size: u64, crc: u32 },
}

impl Packing {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "Zstandard",
            Self::Zip { .. } => "zip",
        }
    }
}

/// Where a packed stream is damaged or ends early.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    /// Bytes of content before it.
    pub(crate) content: u64,
    /// Bytes of the file that are left out.
    pub(crate) lost: u64,
    pub(crate) what: String,
}

/// The end of the content.
#[derive(Debug)]
struct End {
    len: u64,
    damage: Option<Damage>,
}

/// The unpacking of content, as far as it has come.
struct Stream {
    decoder: Decoder,
    /// Bytes of content so far.
    at: u64,
    /// The check sum that zip archives have.
    crc: Crc,
    buffer: Vec<u8>,
    /// Why there will be no more.
    failed: Option<Error>,
}

/// The process that made a stream, and the stream.
type Slot = Option<(u32, Arc<Mutex<Stream>>)>;

/// Packed content, read by position.
pub(crate) struct Spool {
    packed: Arc<Source>,
    packing: Packing,
    file: File,
    /// Bytes that stand in the file.
    ready: AtomicU64,
    end: OnceLock<End>,
    stream: Mutex<Slot>,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("packing", &self.packing).field("ready", &self.ready).field("end", &self.end).finish_non_exhaustive()
    }
}

fn disk(error: io::Error) -> Error {
    Error::io(error, &std::env::temp_dir()).hint("packed files are unpacked there: `TMPDIR` names another place")
}

impl Spool {
    pub(crate) fn new(packed: Arc<Source>, packing: Packing) -> Result<Arc<Self>> {
        let file = tempfile::tempfile().map_err(disk)?;
        Ok(Arc::new(Self { packed, packing, file, ready: AtomicU64::new(0), end: OnceLock::new(), stream: Mutex::new(None) }))
    }

    pub(crate) fn packed(&self) -> &Source {
        &self.packed
    }

    pub(crate) fn packing(&self) -> Packing {
        self.packing
    }

    /// The file with the content so far.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes that can be read without unpacking more.
    pub(crate) fn ready(&self) -> u64 {
        self.ready.load(Ordering::Acquire)
    }

    /// Bytes of the content, if its end has been reached.
    pub(crate) fn known_len(&self) -> Option<u64> {
        self.end.get().map(|end| end.len)
    }

    /// Most bytes that the content may have.
    pub(crate) fn limit(&self) -> u64 {
        self.packed.len().saturating_mul(RATIO).max(ALWAYS)
    }

    /// The damage before which the content ends, if that has been reached.
    pub(crate) fn known_damage(&self) -> Option<&Damage> {
        self.end.get().and_then(|end| end.damage.as_ref())
    }

    /// The damage before which the content ends; unpacks all of it.
    pub(crate) fn damage(&self) -> Result<Option<&Damage>> {
        self.advance(u64::MAX)?;
        Ok(self.known_damage())
    }

    /// Unpacks until the first `to` bytes are there, or all.
    pub(crate) fn advance(&self, to: u64) -> Result<()> {
        if self.has(to) {
            return Ok(());
        }
        let stream = self.stream();
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        self.advance_locked(&mut stream, to)
    }

    /// Has another thread of this pool unpack up to `to`, if none is at it.
    pub(crate) fn prefetch(self: &Arc<Self>, to: u64) {
        if self.has(to) || rayon::current_thread_index().is_none() || rayon::current_num_threads() < 2 {
            return;
        }
        let spool = Arc::clone(self);
        rayon::spawn(move || {
            let stream = spool.stream();
            let Ok(mut stream) = stream.try_lock() else { return };
            // What goes wrong is kept, and told to whoever reads on.
            let _kept = spool.advance_locked(&mut stream, to);
        });
    }

    fn has(&self, to: u64) -> bool {
        self.ready() >= to || self.end.get().is_some()
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream of this process.
    ///
    /// A forked child starts anew: another thread of its parent may have been in the middle of a step. It writes the same
    /// bytes to the same places.
    fn stream(&self) -> Arc<Mutex<Stream>> {
        let process = std::process::id();
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|(owner, _)| *owner != process) {
            std::mem::forget(slot.take());
        }
        let start = || {
            let decoder = Decoder::new(&self.packed, self.packing);
            (process, Arc::new(Mutex::new(Stream { decoder, at: 0, crc: Crc::new(), buffer: vec![0; BUFFER], failed: None })))
        };
        Arc::clone(&slot.get_or_insert_with(start).1)
    }

    fn advance_locked(&self, stream: &mut Stream, to: u64) -> Result<()> {
        while !self.has(to) {
            if let Some(error) = &stream.failed {
                return Err(error.again());
            }
            match self.step(stream) {
                Ok(None) => {}
                Ok(Some(end)) => {
                    let _set_once_under_the_lock = self.end.set(end);
                    // Its buffers are of no more use.
                    self.slot().take();
                }
                Err(error) => stream.failed = Some(error),
            }
        }
        Ok(())
    }

    /// Unpacks some more; the end, if that is here.
    fn step(&self, stream: &mut Stream) -> Result<Option<End>> {
        let Stream { decoder, at, crc, buffer, .. } = stream;
        match decoder.read(buffer) {
            Ok(0) => self.whole(*at, crc.sum()).map(|()| Some(End { len: *at, damage: None })),
            Ok(count) => {
                let limit = self.limit();
                if *at + count as u64 > limit {
                    return Err(Error::format(format!("the {} content is larger than can be meant", self.packing.name()))
                        .expecting(format!("at most {limit} bytes"))
                        .but_found("more")
                        .with_path(self.packed.path()));
                }
                let part = buffer.get(..count).unwrap_or_default();
                if matches!(self.packing, Packing::Zip { .. }) {
                    crc.update(part);
                }
                write_all_at(&self.file, part, *at).map_err(disk)?;
                *at += count as u64;
                self.ready.fetch_max(*at, Ordering::Release);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => self.damaged(error, *at, decoder.input().at).map(Some),
        }
    }

    /// Compares with what a zip archive states.
    fn whole(&self, len: u64, sum: u32) -> Result<()> {
        match self.packing {
            Packing::Zip { size, crc, .. } if (len, sum) != (size, crc) => Err(Error::format("the zip member is not whole")
                .expecting(format!("{size} bytes with the check sum {crc:08x}"))
                .but_found(format!("{len} with {sum:08x}"))
                .with_path(self.packed.path())),
            _ => Ok(()),
        }
    }

    /// What an error after `content` bytes of content means, near byte `at` of the file.
    fn damaged(&self, error: io::Error, content: u64, at: u64) -> Result<End> {
        // The file could not be read.
        let error = match error.downcast::<Error>() {
            Ok(error) => return Err(error),
            Err(error) => error,
        };
        let name = self.packing.name();
        if matches!(self.packing, Packing::Zip { .. }) {
            return Err(Error::format("the zip data are damaged or end early")
                .expecting("zip data that decode")
                .but_found(error.to_string())
                .at(at)
                .with_path(self.packed.path()));
        }
        let what = if error.kind() == io::ErrorKind::UnexpectedEof {
            format!("the {name} stream ends unfinished at byte {at} of the file")
        } else {
            format!("the {name} stream is damaged near byte {at} of the file: {error}")
        };
        Ok(End { len: content, damage: Some(Damage { content, lost: self.packed.len().saturating_sub(at), what }) })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let slot = self.slot().take();
        if slot.as_ref().is_some_and(|(owner, _)| *owner != std::process::id()) {
            // It may be in the middle of a step of the parent's.
            std::mem::forget(slot);
        }
    }
}

/// Unpacks a stream of bytes.
enum Decoder {
    Stored(Bytes),
    Deflate(DeflateDecoder<Bytes>),
    Gzip(Gzip),
    Zstd(Zstd),
}

impl Decoder {
    fn new(packed: &Arc<Source>, packing: Packing) -> Self {
        let bytes = |start, end| Bytes::new(Arc::clone(packed), start, end);
        match packing {
            Packing::Gzip => Self::Gzip(Gzip(GzDecoder::new(bytes(0, packed.len())))),
            Packing::Zstd => Self::Zstd(Zstd { input: bytes(0, packed.len()), context: DCtx::create(), inside: false }),
            Packing::Zip { start, bytes: len, deflated, .. } => {
                let bytes = bytes(start, start.saturating_add(len).min(packed.len()));
                if deflated { Self::Deflate(DeflateDecoder::new(bytes)) } else { Self::Stored(bytes) }
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stored(bytes) => bytes.read(buffer),
            Self::Deflate(decoder) => decoder.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }

    fn input(&self) -> &Bytes {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Deflate(decoder) => decoder.get_ref(),
            Self::Gzip(Gzip(member)) => member.get_ref(),
            Self::Zstd(decoder) => &decoder.input,
        }
    }
}

/// A stretch of a file, read in order. Errors of reading it are this crate's, inside those of the system.
struct Bytes {
    source: Arc<Source>,
    /// Where the next byte is.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been taken.
    taken: usize,
}

impl Bytes {
    const fn new(source: Arc<Source>, at: u64, end: u64) -> Self {
        Self { source, at, end, buffer: Vec::new(), taken: 0 }
    }

    /// The bytes from here on; none are left behind.
    fn take(&mut self) -> Self {
        let none = Self::new(Arc::clone(&self.source), self.at, self.at);
        std::mem::replace(self, none)
    }

    /// Steps over zeros.
    fn skip_zeros(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.fill_buf()?;
            let zeros = bytes.iter().position(|byte| *byte != 0);
            let count = zeros.unwrap_or(bytes.len());
            self.consume(count);
            if zeros.is_some() || count == 0 {
                return Ok(());
            }
        }
    }
}

impl BufRead for Bytes {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.buffer.len() {
            let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
            self.buffer.resize(left.min(BUFFER), 0);
            self.taken = 0;
            if let Err(error) = self.source.read_exact_at(&mut self.buffer, self.at) {
                self.buffer.clear();
                return Err(io::Error::other(error));
            }
        }
        Ok(self.buffer.get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.taken += count;
        self.at += count as u64;
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Gzip members, one after the other; zeros after one are padding, as tapes and blocks have it.
struct Gzip(GzDecoder<Bytes>);

impl Gzip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.0.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let input = self.0.get_mut();
            input.skip_zeros()?;
            if input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.0 = GzDecoder::new(input.take());
        }
    }
}

/// Zstandard frames, one after the other; those that are to be skipped have no content.
struct Zstd {
    input: Bytes,
    context: DCtx<'static>,
    /// Whether a frame has begun and not ended.
    inside: bool,
}

impl Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.input.fill_buf()?;
            let ended = bytes.is_empty();
            // Inside a frame there may be content that the buffer had no room for.
            if ended && !self.inside {
                return Ok(0);
            }
            let mut from = InBuffer::around(bytes);
            let mut into = OutBuffer::around(&mut *buffer);
            let hint = self.context.decompress_stream(&mut into, &mut from);
            let hint = hint.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
            self.inside = hint != 0;
            let (read, written) = (from.pos(), into.pos());
            self.input.consume(read);
            if written > 0 {
                return Ok(written);
            }
            if read == 0 {
                return Err(if ended { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData }.into());
            }
        }
    }
}
