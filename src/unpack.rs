//! Recordings inside gzip, Zstandard, and zip archives of one recording: which they are, and what they have.
//!
//! Several gzip members or Zstandard frames one after the other are one content. Where they are cut or damaged, what
//! stands before that is the content, and the damage is told; a zip archive has to be whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::numpy::zip;
use crate::source::Source;
use crate::spool::{Packing, Spool};

/// What a file that starts like this is compressed with.
fn compression(head: &[u8]) -> Option<Packing> {
    match head {
        // Deflate is the only method there is, and three of the flags are reserved.
        [0x1F, 0x8B, 8, flags, ..] if flags & 0xE0 == 0 => Some(Packing::Gzip),
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Packing::Zstd),
        _ => None,
    }
}

/// Whether a file that starts like this is packed in one of the ways that are read.
pub(crate) fn is_packed(head: &[u8]) -> bool {
    compression(head).is_some() || head.starts_with(zip::MAGIC)
}

/// The name without what the compression added to it, if it did.
fn original(packing: Packing, path: &Path) -> Option<PathBuf> {
    let added: &[&str] = match packing {
        Packing::Gzip => &["gz", "gzip"],
        Packing::Zstd => &["zst", "zstd"],
        Packing::Zip { .. } => &[],
    };
    let extension = path.extension()?;
    added.iter().any(|name| extension.eq_ignore_ascii_case(name)).then(|| path.with_extension(""))
}

/// The content of a packed file, to be unpacked as it is read; any other file as it is.
pub(crate) fn unpack(source: Source, wanted: Option<Format>) -> Result<(Source, Option<Arc<Spool>>)> {
    let head = source.head(4)?;
    let packed = Arc::new(source);
    let unpacked = if let Some(packing) = compression(&head) {
        decompress(&packed, packing)?
    } else if head.starts_with(zip::MAGIC) && !matches!(wanted, Some(Format::Npz)) {
        only_member(&packed)?
    } else {
        None
    };
    if let Some((spool, called)) = unpacked {
        return Ok((Source::unpacked(Arc::clone(&spool), called), Some(spool)));
    }
    // The file belongs to nobody else.
    let source = Arc::into_inner(packed).ok_or_else(|| Error::invalid("the file is still being read"))?;
    Ok((source, None))
}

/// What is in a compressed file, and what it is called; `None` for one that only starts like that.
fn decompress(packed: &Arc<Source>, packing: Packing) -> Result<Option<(Arc<Spool>, PathBuf)>> {
    let spool = Spool::new(Arc::clone(packed), packing)?;
    spool.advance(1)?;
    let original = original(packing, packed.path());
    if let Some(damage) = spool.known_damage().filter(|damage| damage.content == 0) {
        return if original.is_some() { Err(Error::format(damage.what.as_str())) } else { Ok(None) };
    }
    Ok(Some((spool, original.unwrap_or_else(|| packed.path().to_path_buf()))))
}

/// Most members of an archive that an error names.
const LISTED: usize = 8;

/// Whether a member of an archive is called like a recording.
fn is_events(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|base| base.to_ascii_lowercase().contains("events"))
}

/// The recording in a zip archive, and its name: the only file, or the only one called `events`; `None` for archives of
/// arrays and empty ones.
fn only_member(packed: &Arc<Source>) -> Result<Option<(Arc<Spool>, PathBuf)>> {
    let mut entries = zip::entries(packed)?;
    // What the tools of one system add is no content.
    entries.retain(|entry| !entry.name.ends_with('/') && !entry.name.starts_with("__MACOSX/"));
    if entries.is_empty() || entries.iter().any(|entry| entry.name.to_ascii_lowercase().ends_with(".npy")) {
        return Ok(None);
    }
    let (events, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| is_events(&entry.name));
    let entry = match (events.as_slice(), others.as_slice()) {
        ([entry], _) | ([], [entry]) => *entry,
        _ => {
            let names: Vec<_> = events.iter().chain(&others).take(LISTED).map(|entry| format!("`{}`", entry.name)).collect();
            let more = if entries.len() > LISTED { format!(" and {} more", entries.len() - LISTED) } else { String::new() };
            return Err(Error::format("a zip archive of several files")
                .expecting("one file, or one with `events` in its name")
                .but_found(format!("{}{more}", names.join(", ")))
                .hint("extract the recording from the archive and open that"));
        }
    };
    let (start, bytes, deflated) = match zip::member(packed, entry)? {
        zip::Member::Stored { start, bytes } => (start, bytes, false),
        zip::Member::Deflated(member) => (member.place().0, member.place().1, true),
    };
    let packing = Packing::Zip { start, bytes, deflated, size: entry.size, crc: entry.crc };
    Ok(Some((Spool::new(Arc::clone(packed), packing)?, PathBuf::from(&entry.name))))
}
