//! The directory of a zip archive, and members read by position.
//!
//! Format: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5. Members are stored or deflated; zip64 is understood; archives in
//! several volumes and encrypted members are not.

use std::sync::{Arc, OnceLock};

use libdeflater::{Crc, DecompressionError, Decompressor};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use crate::error::{Error, ErrorKind, Result};
use crate::format::array::{Lazy, Unreadable};
use crate::source::Source;

/// First bytes of an archive with members, and of one without.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";
pub(crate) const EMPTY: &[u8] = b"PK\x05\x06";
/// Bytes of the record at the end of an archive, its longest comment, and its zip64 locator.
const END: u64 = 22;
const COMMENT: u64 = 0xffff;
const LOCATOR: u64 = 20;
/// Most bytes of a directory: those of about half a million members.
const LARGEST_DIRECTORY: u64 = 64 << 20;
/// Largest ratio of decoded to deflated bytes: 258 bytes in 2 bits.
const RATIO: u64 = 1032;

/// How a member is stored.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// A member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    flags: u16,
    method: u16,
    pub(crate) crc: u32,
    /// Bytes in the archive.
    pub(crate) bytes: u64,
    /// Bytes of the member itself.
    pub(crate) size: u64,
    /// Position of the member's own header.
    header: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|raw| u16::from_le_bytes(*raw))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_le_bytes(*raw))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|raw| u64::from_le_bytes(*raw))
}

/// The bytes from `offset` on, if the file has them.
fn read(source: &Source, offset: u64, len: u64) -> Result<Option<Vec<u8>>> {
    if offset.checked_add(len).is_none_or(|end| end > source.len()) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_exact_at(&mut bytes, offset)?;
    Ok(Some(bytes))
}

fn no_directory() -> Error {
    Error::new(ErrorKind::Truncated, "a zip archive without its directory")
        .expecting("the list of members at the end")
        .but_found("other data")
        .hint("the file may be cut off; `zip -FF` recovers what is left")
}

/// The members of an archive.
pub(crate) fn entries(source: &Source) -> Result<Vec<Entry>> {
    let tail_len = source.len().min(END + COMMENT + LOCATOR);
    let tail_start = source.len() - tail_len;
    let tail = read(source, tail_start, tail_len)?.unwrap_or_default();
    // The last record whose comment ends where the file does.
    let end = (0..tail.len().saturating_sub(END as usize - 1)).rev().find(|at| {
        tail.get(*at..).is_some_and(|rest| {
            rest.starts_with(b"PK\x05\x06") && u16_at(rest, 20).is_some_and(|comment| rest.len() == END as usize + usize::from(comment))
        })
    });
    let end = end.ok_or_else(no_directory)?;
    let record = tail.get(end..).unwrap_or_default();
    let field = |at: usize| u32_at(record, at).map(u64::from).ok_or_else(no_directory);
    let mut count = u64::from(u16_at(record, 10).unwrap_or(0));
    let (mut size, mut start) = (field(12)?, field(16)?);
    let mut directory_end = tail_start + end as u64;
    if u16_at(record, 4) != Some(0) && u16_at(record, 4) != Some(0xffff) {
        return Err(Error::new(ErrorKind::Unsupported, "a zip archive in several volumes"));
    }
    if count == 0xffff || size == 0xffff_ffff || start == 0xffff_ffff {
        let locator = end.checked_sub(LOCATOR as usize).and_then(|at| tail.get(at..end)).filter(|bytes| bytes.starts_with(b"PK\x06\x07"));
        if let Some(locator) = locator {
            let at = u64_at(locator, 8).ok_or_else(no_directory)?;
            let large = read(source, at, 56)?.filter(|bytes| bytes.starts_with(b"PK\x06\x06")).ok_or_else(no_directory)?;
            let field = |at: usize| u64_at(&large, at).ok_or_else(no_directory);
            (count, size, start) = (field(32)?, field(40)?, field(48)?);
            directory_end = at;
        }
    }
    // Data in front of the archive moves everything by as much.
    let moved = directory_end.checked_sub(size).and_then(|real| real.checked_sub(start)).ok_or_else(no_directory)?;
    if size > LARGEST_DIRECTORY {
        return Err(Error::new(ErrorKind::Unsupported, "a zip archive with too many members")
            .expecting(format!("a directory of at most {LARGEST_DIRECTORY} bytes"))
            .but_found(format!("{size}")));
    }
    let directory = read(source, start + moved, size)?.ok_or_else(no_directory)?;
    let mut rest = directory.as_slice();
    let mut entries = Vec::new();
    while entries.len() as u64 != count {
        let (entry, after) = entry(rest, moved).ok_or_else(|| {
            Error::format("a damaged zip directory")
                .expecting(format!("{count} members"))
                .but_found(format!("{}", entries.len()))
                .at(start + moved + (directory.len() - rest.len()) as u64)
        })?;
        entries.push(entry);
        rest = after;
    }
    Ok(entries)
}

/// The entry at the start of `bytes`, and what follows it.
fn entry(bytes: &[u8], moved: u64) -> Option<(Entry, &[u8])> {
    const FIXED: usize = 46;
    if !bytes.starts_with(b"PK\x01\x02") {
        return None;
    }
    let length = |at: usize| u16_at(bytes, at).map(usize::from);
    let (name, extra, comment) = (length(28)?, length(30)?, length(32)?);
    let text = bytes.get(FIXED..FIXED + name)?;
    let mut fields = bytes.get(FIXED + name..FIXED + name + extra)?;
    let small = |at: usize| u32_at(bytes, at).map(u64::from);
    let (mut size, mut packed, mut header) = (small(24)?, small(20)?, small(42)?);
    while let (Some(id), Some(len)) = (u16_at(fields, 0), u16_at(fields, 2)) {
        let content = fields.get(4..4 + usize::from(len)).unwrap_or_default();
        if id == 1 {
            // Only those that do not fit into their fields, in this order.
            let mut at = 0;
            for value in [&mut size, &mut packed, &mut header] {
                if *value == 0xffff_ffff {
                    *value = u64_at(content, at)?;
                    at += 8;
                }
            }
        }
        fields = fields.get(4 + usize::from(len)..).unwrap_or_default();
    }
    let entry = Entry {
        name: String::from_utf8_lossy(text).into_owned(),
        flags: u16_at(bytes, 8)?,
        method: u16_at(bytes, 10)?,
        crc: u32_at(bytes, 16)?,
        bytes: packed,
        size,
        header: header.checked_add(moved)?,
    };
    Some((entry, bytes.get(FIXED + name + extra + comment..)?))
}

/// A member, ready to be read.
#[derive(Debug, Clone)]
pub(crate) enum Member {
    /// As it is, from this byte of the file on; as many bytes as are there.
    Stored {
        start: u64,
        bytes: u64,
    },
    Deflated(Arc<Deflated>),
}

/// Finds the data of a member.
pub(crate) fn member(source: &Arc<Source>, entry: &Entry) -> Result<Member> {
    if entry.flags & 1 != 0 {
        return Err(Error::new(ErrorKind::Unsupported, format!("member `{}` is encrypted", entry.name)));
    }
    let local = read(source, entry.header, 30)?.filter(|bytes| bytes.starts_with(MAGIC));
    let start = local.and_then(|local| {
        let names = u64::from(u16_at(&local, 26)?) + u64::from(u16_at(&local, 28)?);
        entry.header.checked_add(30 + names)
    });
    let start = start.filter(|start| *start <= source.len());
    let start =
        start.ok_or_else(|| Error::format(format!("member `{}` is not where the zip directory says", entry.name)).at(entry.header))?;
    match entry.method {
        STORED => Ok(Member::Stored { start, bytes: entry.bytes.min(entry.size).min(source.len() - start) }),
        DEFLATED => {
            if entry.size > entry.bytes.saturating_mul(RATIO) {
                return Err(Error::format(format!("member `{}` claims more than its bytes can hold", entry.name))
                    .expecting(format!("at most {} bytes", entry.bytes.saturating_mul(RATIO)))
                    .but_found(format!("{}", entry.size))
                    .at(entry.header));
            }
            Ok(Member::Deflated(Arc::new(Deflated {
                source: Arc::clone(source),
                start,
                bytes: entry.bytes,
                size: entry.size,
                crc: entry.crc,
                decoded: OnceLock::new(),
            })))
        }
        other => Err(Error::new(ErrorKind::Unsupported, format!("member `{}` is compressed with a method that is not read", entry.name))
            .expecting("stored or deflated")
            .but_found(match other {
                12 => "bzip2".to_owned(),
                14 => "LZMA".to_owned(),
                93 => "Zstandard".to_owned(),
                other => format!("method {other}"),
            })),
    }
}

/// A deflated member: decoded whole when it is first needed, and kept.
pub(crate) struct Deflated {
    source: Arc<Source>,
    start: u64,
    bytes: u64,
    pub(crate) size: u64,
    crc: u32,
    decoded: OnceLock<Result<Vec<u8>, String>>,
}

impl std::fmt::Debug for Deflated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflated").field("start", &self.start).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Deflated {
    /// Where its bytes start, and how many they are.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.start, self.bytes)
    }

    /// The first bytes, at most `limit`, decoded on their own.
    pub(crate) fn head(&self, limit: usize) -> Result<Vec<u8>> {
        let limit = usize::try_from(self.size).unwrap_or(usize::MAX).min(limit);
        // Deflated data is at most a little longer than what it stands for.
        let packed = self.bytes.min(limit as u64 + (limit as u64 >> 8) + 1024).min(self.source.len() - self.start);
        let packed = read(&self.source, self.start, packed)?.unwrap_or_default();
        let mut head = vec![0; limit];
        let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
        let (_, _, len) = decompress(&mut DecompressorOxide::new(), &packed, &mut head, 0, flags);
        head.truncate(len);
        Ok(head)
    }

    fn decode(&self) -> Result<Vec<u8>, String> {
        let packed = read(&self.source, self.start, self.bytes).map_err(|error| error.to_string())?;
        let packed = packed.ok_or("the member lies beyond the end of the file")?;
        let size = usize::try_from(self.size).map_err(|_| "the member does not fit the address space")?;
        // Room as data deflates usually, and more only for what proves to need it: the size is the file's claim.
        let mut room = size.min(packed.len().saturating_mul(16).saturating_add(1 << 16));
        let (decoded, found) = loop {
            let mut decoded = Vec::new();
            decoded.try_reserve_exact(room).map_err(|_| format!("no memory for {room} bytes"))?;
            decoded.resize(room, 0);
            match Decompressor::new().deflate_decompress(&packed, &mut decoded) {
                Ok(found) => break (decoded, found),
                Err(DecompressionError::InsufficientSpace) if room < size => room = size.min(room.saturating_mul(4)),
                Err(error) => return Err(format!("deflate: {error}")),
            }
        };
        if found != size {
            return Err(format!("the member has {found} bytes where the zip directory says {size}"));
        }
        let mut crc = Crc::new();
        crc.update(&decoded);
        if crc.sum() != self.crc {
            return Err("the member's check sum does not fit".to_owned());
        }
        Ok(decoded)
    }
}

impl Lazy for Deflated {
    fn bytes(&self) -> Result<&[u8], Unreadable> {
        let decoded = self.decoded.get_or_init(|| self.decode());
        decoded.as_deref().map_err(|why| why.clone().into())
    }
}
