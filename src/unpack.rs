//! Recordings inside gzip, Zstandard, and zip archives of one file.
//!
//! What is read by position has to be there: the content is unpacked as a stream, when the file is opened, into a
//! temporary file without a name, with a buffer of memory. Everything that reads recordings then reads that file.
//!
//! Several gzip members or Zstandard frames one after the other are one content. Where they are cut or damaged, what
//! stands before that is the content, and the damage is told; a zip archive has to be whole.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::{DeflateDecoder, MultiGzDecoder};
use libdeflater::Crc;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::numpy::zip;
use crate::source::Source;

/// Bytes read and written at a time.
const BUFFER: usize = 1 << 18;
/// Most bytes that a packed byte may become, and that any file may: what is more is taken for an attack on the disk.
pub(crate) const RATIO: u64 = 2000;
pub(crate) const ALWAYS: u64 = 1 << 30;

/// How a recording was packed.
pub(crate) struct Packing {
    pub(crate) name: &'static str,
    pub(crate) damage: Option<Damage>,
}

/// Where a packed stream is damaged or ends early.
pub(crate) struct Damage {
    /// Bytes of content before it.
    pub(crate) content: u64,
    /// Bytes of the file that are left out.
    pub(crate) lost: u64,
    pub(crate) what: String,
}

/// A way of compressing files.
#[derive(Clone, Copy)]
enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// What a file that starts like this is compressed with.
    fn of(head: &[u8]) -> Option<Self> {
        match head {
            // Deflate is the only method there is, and three of the flags are reserved.
            [0x1F, 0x8B, 8, flags, ..] if flags & 0xE0 == 0 => Some(Self::Gzip),
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "Zstandard",
        }
    }

    /// The name without what the compression added to it, if it did.
    fn original(self, path: &Path) -> Option<PathBuf> {
        let added: &[&str] = match self {
            Self::Gzip => &["gz", "gzip"],
            Self::Zstd => &["zst", "zstd"],
        };
        let extension = path.extension()?;
        added.iter().any(|name| extension.eq_ignore_ascii_case(name)).then(|| path.with_extension(""))
    }
}

/// The content of a packed file, and how it was packed; any other file as it is.
pub(crate) fn unpack(source: Source, wanted: Option<Format>) -> Result<(Source, Option<Packing>)> {
    let head = source.head(4)?;
    if let Some(compression) = Compression::of(&head) {
        return decompress(source, compression);
    }
    if !head.starts_with(zip::MAGIC) || matches!(wanted, Some(Format::Npz)) {
        return Ok((source, None));
    }
    let source = Arc::new(source);
    // What the tools of one system add is no content.
    let mut entries = zip::entries(&source)?;
    entries.retain(|entry| !entry.name.ends_with('/') && !entry.name.starts_with("__MACOSX/"));
    let content = match entries.as_slice() {
        [entry] if !entry.name.to_ascii_lowercase().ends_with(".npy") => Some(only_member(&source, entry)?),
        _ => None,
    };
    if let Some(content) = content {
        return Ok((content, Some(Packing { name: "zip", damage: None })));
    }
    // The archive belongs to nobody else.
    let source = Arc::into_inner(source).ok_or_else(|| Error::invalid("the archive is still being read"))?;
    Ok((source, None))
}

fn decompress(source: Source, compression: Compression) -> Result<(Source, Option<Packing>)> {
    let mut bytes = Bytes::new(&source, 0, source.len());
    let name = compression.name();
    let content = match compression {
        Compression::Gzip => spill(&source, MultiGzDecoder::new(&mut bytes), name),
        Compression::Zstd => spill(&source, Zstd::new(&mut bytes), name),
    };
    let Content { file, len, damage, .. } = content?;
    let Bytes { at, error, .. } = bytes;
    if let Some(error) = error {
        return Err(error);
    }
    let original = compression.original(source.path());
    let damage = damage.map(|error| {
        let what = if error.kind() == io::ErrorKind::UnexpectedEof {
            format!("the {name} stream ends unfinished at byte {at} of the file")
        } else {
            format!("the {name} stream is damaged near byte {at} of the file: {error}")
        };
        Damage { content: len, lost: source.len().saturating_sub(at), what }
    });
    match damage {
        // A file that only starts like a compressed one.
        Some(_) if len == 0 && original.is_none() => Ok((source, None)),
        Some(Damage { what, .. }) if len == 0 => Err(Error::format(what)),
        damage => {
            let called = original.unwrap_or_else(|| source.path().to_path_buf());
            Ok((source.unpacked(file, len, called), Some(Packing { name, damage })))
        }
    }
}

fn only_member(source: &Arc<Source>, entry: &zip::Entry) -> Result<Source> {
    let member = zip::member(source, entry)?;
    let (start, packed) = match &member {
        zip::Member::Stored { start, bytes } => (*start, *bytes),
        zip::Member::Deflated(member) => member.place(),
    };
    let mut bytes = Bytes::new(source, start, start.saturating_add(packed).min(source.len()));
    let content = match member {
        zip::Member::Stored { .. } => spill(source, &mut bytes, "zip"),
        zip::Member::Deflated(_) => spill(source, DeflateDecoder::new(&mut bytes), "zip"),
    };
    let Content { file, len, crc, damage } = content?;
    let Bytes { at, error, .. } = bytes;
    if let Some(error) = error {
        return Err(error);
    }
    if let Some(damage) = damage {
        return Err(Error::format("the zip data are damaged or end early")
            .expecting("zip data that decode")
            .but_found(damage.to_string())
            .at(at));
    }
    if (len, crc) != (entry.size, entry.crc) {
        return Err(Error::format("the zip member is not whole")
            .expecting(format!("{} bytes with the check sum {:08x}", entry.size, entry.crc))
            .but_found(format!("{len} with {crc:08x}")));
    }
    Ok(source.unpacked(file, len, PathBuf::from(&entry.name)))
}

/// What was unpacked.
struct Content {
    file: File,
    len: u64,
    /// The check sum that zip archives have.
    crc: u32,
    /// Why there is no more of it.
    damage: Option<io::Error>,
}

/// Unpacks into a temporary file.
fn spill(source: &Source, mut content: impl Read, what: &str) -> Result<Content> {
    let limit = source.len().saturating_mul(RATIO).max(ALWAYS);
    let disk =
        |error: io::Error| Error::io(error, &std::env::temp_dir()).hint("packed files are unpacked there: `TMPDIR` names another place");
    let mut file = tempfile::tempfile().map_err(disk)?;
    let mut buffer = vec![0; BUFFER];
    let (mut len, mut crc) = (0_u64, Crc::new());
    let damage = loop {
        match content.read(&mut buffer) {
            Ok(0) => break None,
            Ok(count) => {
                len += count as u64;
                if len > limit {
                    return Err(Error::format(format!("the {what} content is larger than can be meant"))
                        .expecting(format!("at most {limit} bytes"))
                        .but_found("more"));
                }
                let part = buffer.get(..count).unwrap_or_default();
                crc.update(part);
                file.write_all(part).map_err(disk)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(error),
        }
    };
    Ok(Content { file, len, crc: crc.sum(), damage })
}

/// A stretch of a file, read in order.
struct Bytes<'a> {
    source: &'a Source,
    /// Where the next byte is.
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have been taken.
    taken: usize,
    /// Why reading the file failed.
    error: Option<Error>,
}

impl<'a> Bytes<'a> {
    fn new(source: &'a Source, start: u64, end: u64) -> Self {
        Self { source, at: start, end, buffer: Vec::new(), taken: 0, error: None }
    }
}

impl BufRead for Bytes<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.buffer.len() {
            let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
            self.buffer.resize(left.min(BUFFER), 0);
            self.taken = 0;
            if let Err(error) = self.source.read_exact_at(&mut self.buffer, self.at) {
                self.buffer.clear();
                let told = io::Error::other(error.to_string());
                self.error = Some(error);
                return Err(told);
            }
        }
        Ok(self.buffer.get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.taken += count;
        self.at += count as u64;
    }
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Zstandard frames, one after the other.
struct Zstd<R> {
    input: R,
    context: DCtx<'static>,
    /// Whether a frame has begun and not ended.
    inside: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> Self {
        Self { input, context: DCtx::create(), inside: false }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                return if self.inside { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(0) };
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
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}
