//! Recordings inside zip archives of one file, as text often is.
//!
//! What is read by position has to be there: the content is unpacked once, when the file is opened, into a temporary
//! file without a name, with a buffer of memory. Everything that reads recordings then reads that file.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use flate2::read::DeflateDecoder;
use libdeflater::Crc;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::numpy::zip;
use crate::source::Source;

/// Bytes read and written at a time.
const BUFFER: usize = 1 << 18;
/// Most bytes that a packed byte may become, and that any file may: what is more is taken for an attack on the disk.
const RATIO: u64 = 2000;
const ALWAYS: u64 = 1 << 30;

/// The only file of a zip archive, and that it was packed; any other file, or archive of arrays, as it is.
pub(crate) fn unpack(source: Source, wanted: Option<Format>) -> Result<(Source, Option<&'static str>)> {
    let head = source.head(4)?;
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
                    spill(&source, &bytes, &bytes)?
                }
                zip::Member::Deflated(member) => {
                    let (start, packed) = member.place();
                    let bytes = Bytes::new(&source, start, start.saturating_add(packed).min(source.len()));
                    spill(&source, &bytes, DeflateDecoder::new(BufReader::with_capacity(BUFFER, &bytes)))?
                }
            };
            let (file, len, crc) = content;
            if (len, crc) != (entry.size, entry.crc) {
                return Err(Error::format("the zip member is not whole")
                    .expecting(format!("{} bytes with the check sum {:08x}", entry.size, entry.crc))
                    .but_found(format!("{len} with {crc:08x}")));
            }
            Some(source.member(PathBuf::from(&entry.name), file, len))
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

/// Unpacks into a temporary file: it, its length and its check sum.
fn spill(source: &Source, bytes: &Bytes<'_>, mut content: impl Read) -> Result<(File, u64, u32)> {
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
                    return Err(Error::format("the content of the archive is larger than can be meant")
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
                return Err(Error::format("the data of the archive are damaged or end early")
                    .expecting("data that decode")
                    .but_found(error.to_string())
                    .at(bytes.state.borrow().at.min(source.len())));
            }
        }
    }
    Ok((file, len, crc.sum()))
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
