//! Recordings inside gzip, Zstandard, and zip archives of one file.
//!
//! What is read by position has to be there: the content is unpacked once, when the file is opened, into a temporary
//! file without a name, with a buffer of memory. Everything that reads recordings then reads that file.

use std::cell::RefCell;
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use flate2::read::{DeflateDecoder, MultiGzDecoder};
use libdeflater::Crc;
use zstd_safe::{DCtx, InBuffer, OutBuffer};

use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::numpy::zip;
use crate::source::Source;

const GZIP: &[u8] = b"\x1f\x8b\x08";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// Bytes read and written at a time.
const BUFFER: usize = 1 << 18;
/// Most bytes that a packed byte may become, and that any file may: what is more is taken for an attack on the disk.
const RATIO: u64 = 2000;
const ALWAYS: u64 = 1 << 30;

/// The content of a packed file, and what it was packed with; any other file as it is.
pub(crate) fn unpack(source: Source, wanted: Option<Format>) -> Result<(Source, Option<&'static str>)> {
    let head = source.head(4)?;
    if head.starts_with(GZIP) {
        let bytes = Bytes::new(&source, 0, source.len());
        let (content, _) = spill(&source, &bytes, MultiGzDecoder::new(BufReader::with_capacity(BUFFER, &bytes)), "gzip")?;
        return Ok((content, Some("gzip")));
    }
    if head.starts_with(ZSTD) {
        let bytes = Bytes::new(&source, 0, source.len());
        let (content, _) = spill(&source, &bytes, Zstd::new(BufReader::with_capacity(BUFFER, &bytes)), "Zstandard")?;
        return Ok((content, Some("Zstandard")));
    }
    if !head.starts_with(zip::MAGIC) || matches!(wanted, Some(Format::Npz)) {
        return Ok((source, None));
    }
    let source = Arc::new(source);
    // What the tools of one system add is no content.
    let mut entries = zip::entries(&source)?;
    entries.retain(|entry| !entry.name.ends_with('/') && !entry.name.starts_with("__MACOSX/"));
    let content = match entries.as_slice() {
        [entry] if !entry.name.to_ascii_lowercase().ends_with(".npy") => {
            let member = zip::member(&source, entry)?;
            let content = match member {
                zip::Member::Stored { start, bytes } => {
                    let bytes = Bytes::new(&source, start, start + bytes);
                    spill(&source, &bytes, &bytes, "zip")?
                }
                zip::Member::Deflated(member) => {
                    let (start, packed) = member.place();
                    let bytes = Bytes::new(&source, start, start.saturating_add(packed).min(source.len()));
                    spill(&source, &bytes, DeflateDecoder::new(BufReader::with_capacity(BUFFER, &bytes)), "zip")?
                }
            };
            let (content, crc) = content;
            if (content.len(), crc) != (entry.size, entry.crc) {
                return Err(Error::format("the zip member is not whole")
                    .expecting(format!("{} bytes with the check sum {:08x}", entry.size, entry.crc))
                    .but_found(format!("{} with {crc:08x}", content.len())));
            }
            Some(content.called(PathBuf::from(&entry.name)))
        }
        _ => None,
    };
    if let Some(content) = content {
        return Ok((content, Some("zip")));
    }
    // The archive belongs to nobody else.
    let source = Arc::into_inner(source).ok_or_else(|| Error::invalid("the archive is still being read"))?;
    Ok((source, None))
}

/// Unpacks into a temporary file; also gives the check sum that zip archives have.
fn spill(source: &Source, bytes: &Bytes<'_>, mut content: impl Read, what: &str) -> Result<(Source, u32)> {
    let limit = source.len().saturating_mul(RATIO).max(ALWAYS);
    let disk =
        |error: io::Error| Error::io(error, &std::env::temp_dir()).hint("packed files are unpacked there: `TMPDIR` names another place");
    let mut file = tempfile::tempfile().map_err(disk)?;
    let mut buffer = vec![0; BUFFER];
    let (mut len, mut crc) = (0_u64, Crc::new());
    loop {
        match content.read(&mut buffer) {
            Ok(0) => break,
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
            Err(error) => {
                if let Some(error) = bytes.state.borrow_mut().error.take() {
                    return Err(error);
                }
                return Err(Error::format(format!("the {what} data are damaged or end early"))
                    .expecting(format!("{what} data that decode"))
                    .but_found(error.to_string())
                    .at(bytes.state.borrow().at.min(source.len())));
            }
        }
    }
    Ok((source.unpacked(file, len), crc.sum()))
}

/// A stretch of a file, read in order.
struct Bytes<'a> {
    source: &'a Source,
    end: u64,
    state: RefCell<State>,
}

struct State {
    at: u64,
    /// Why reading failed.
    error: Option<Error>,
}

impl<'a> Bytes<'a> {
    fn new(source: &'a Source, start: u64, end: u64) -> Self {
        Self { source, end, state: RefCell::new(State { at: start, error: None }) }
    }
}

impl Read for &Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        let left = usize::try_from(self.end.saturating_sub(state.at)).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        match self.source.read_exact_at(buffer.get_mut(..count).unwrap_or_default(), state.at) {
            Ok(()) => {
                state.at += count as u64;
                Ok(count)
            }
            Err(error) => {
                let told = io::Error::other(error.to_string());
                state.error = Some(error);
                Err(told)
            }
        }
    }
}

/// Zstandard frames, one after the other.
struct Zstd<R> {
    input: R,
    context: DCtx<'static>,
    /// Whether a frame has begun and not ended.
    inside: bool,
}

impl<R: io::BufRead> Zstd<R> {
    fn new(input: R) -> Self {
        Self { input, context: DCtx::create(), inside: false }
    }
}

impl<R: io::BufRead> Read for Zstd<R> {
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
