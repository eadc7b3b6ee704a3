//! Files that are compressed as a whole, with gzip or Zstandard: decompressed when they are opened, in a stream, into a
//! temporary file without a name, which is then read by position like any other.
//!
//! Several members or frames one after the other are one content. A file that is cut or damaged gives what stands
//! before the damage, and says so.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::error::{Error, ErrorKind, Result};

/// Bytes decompressed at a time.
const CHUNK: usize = 256 << 10;
/// Most times that a file may grow: more is taken for an attack on the disk. Deflate cannot grow beyond 1032.
const LARGEST_RATIO: u64 = 2000;
/// Bytes that any file may grow to.
const ALWAYS: u64 = 64 << 20;

/// A way of compressing files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// What a file that starts like this is compressed with.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        match head {
            // Deflate is the only method there is, and three of the flags are reserved.
            [0x1F, 0x8B, 8, flags, ..] if flags & 0xE0 == 0 => Some(Self::Gzip),
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "Zstandard",
        }
    }

    /// The name that a file had before it was compressed.
    pub(super) fn original(self, path: &Path) -> PathBuf {
        let ours: &[&str] = match self {
            Self::Gzip => &["gz", "gzip"],
            Self::Zstd => &["zst", "zstd"],
        };
        let named = path.extension().is_some_and(|extension| ours.iter().any(|name| extension.eq_ignore_ascii_case(name)));
        if named { path.with_extension("") } else { path.to_path_buf() }
    }
}

/// Where a compressed file is damaged or cut.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    /// Bytes of content before it.
    pub(crate) content: u64,
    /// Bytes of the file that are left out.
    pub(crate) lost: u64,
    pub(crate) what: String,
}

/// The content of a file.
pub(super) struct Content {
    pub(super) file: File,
    pub(super) len: u64,
    pub(super) damage: Option<Damage>,
}

/// A file that counts what is read of it.
struct Counted {
    file: File,
    read: u64,
    /// What reading the file itself failed with.
    failure: Option<io::Error>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Ok(read) => {
                self.read += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// Zstandard frames as a reader.
struct Zstd<R> {
    input: R,
    context: DCtx<'static>,
    /// Whether a frame is open.
    open: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() && self.open {
                return Err(io::ErrorKind::UnexpectedEof.into());
            } else if bytes.is_empty() {
                return Ok(0);
            }
            let mut input = InBuffer::around(bytes);
            let mut output = OutBuffer::around(&mut *buffer);
            let hint = self
                .context
                .decompress_stream(&mut output, &mut input)
                .map_err(|code| io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code)))?;
            let (taken, written) = (input.pos(), output.pos());
            self.input.consume(taken);
            self.open = hint != 0;
            if written > 0 {
                return Ok(written);
            }
        }
    }
}

/// Decompresses a file, whose reading position is its start.
pub(super) fn decompress(file: File, path: &Path, compression: Compression) -> Result<Content> {
    let stored = file.metadata().map_err(|error| Error::io(error, path))?.len();
    let most = stored.saturating_mul(LARGEST_RATIO).max(ALWAYS);
    let input = BufReader::with_capacity(CHUNK, Counted { file, read: 0, failure: None });
    match compression {
        Compression::Gzip => {
            let mut reader = MultiGzDecoder::new(input);
            let copied = copy(&mut reader, most, path)?;
            finish(copied, reader.into_inner(), stored, compression, path)
        }
        Compression::Zstd => {
            let mut reader = Zstd { input, context: DCtx::create(), open: false };
            let copied = copy(&mut reader, most, path)?;
            finish(copied, reader.input, stored, compression, path)
        }
    }
}

/// The content as far as it could be copied, and why no further.
type Copied = (File, u64, Option<io::Error>);

/// Copies the content into a temporary file.
fn copy(reader: &mut impl Read, most: u64, path: &Path) -> Result<Copied> {
    let mut out = nameless().map_err(|error| spool_error(&error, path))?;
    let mut buffer = vec![0; CHUNK];
    let mut len = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((out, len, None)),
            Ok(read) => {
                len += read as u64;
                if len > most {
                    return Err(Error::new(ErrorKind::Unsupported, "the content is out of proportion to the compressed file")
                        .expecting(format!("at most {most} bytes"))
                        .but_found("more")
                        .with_path(path));
                }
                out.write_all(buffer.get(..read).unwrap_or_default()).map_err(|error| spool_error(&error, path))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok((out, len, Some(error))),
        }
    }
}

fn finish((out, len, error): Copied, input: BufReader<Counted>, stored: u64, compression: Compression, path: &Path) -> Result<Content> {
    let at = input.get_ref().read - input.buffer().len() as u64;
    if let Some(error) = input.into_inner().failure {
        return Err(Error::io(error, path).at(at));
    }
    let damage = error.map(|error| {
        let name = compression.name();
        let what = if error.kind() == io::ErrorKind::UnexpectedEof {
            format!("the {name} stream ends unfinished at byte {at} of the file")
        } else {
            format!("the {name} stream is damaged near byte {at} of the file: {error}")
        };
        Damage { content: len, lost: stored.saturating_sub(at), what }
    });
    Ok(Content { file: out, len, damage })
}

/// The temporary file could not be made or written.
fn spool_error(error: &io::Error, path: &Path) -> Error {
    let folder = std::env::temp_dir();
    let reason = io::Error::new(error.kind(), format!("cannot decompress into a temporary file in `{}`: {error}", folder.display()));
    Error::io(reason, path)
}

/// A temporary file that goes when it is closed.
fn nameless() -> io::Result<File> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let name = format!("evlib-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        // Deleted when it is closed.
        #[cfg(windows)]
        std::os::windows::fs::OpenOptionsExt::custom_flags(&mut options, 0x0400_0000);
        match options.open(&path) {
            // Left over from a process of the same number that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                #[cfg(unix)]
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
}
