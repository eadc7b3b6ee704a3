//! The parser behind [`Metadata`]: object headers, groups and version 1 B-trees by hand, the rest by `hdf5-reader`.
//!
//! HDF5 File Format Specification 4.0. `hdf5-reader` parses object headers too, but gives up on a whole object for one
//! attribute that it does not know, and drops the flags of filters and layouts.

mod attributes;
mod chunks;
mod dataset;
mod groups;
mod header;
mod heap;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hdf5_reader::error::Error as ReaderError;
use hdf5_reader::io::Cursor;
use hdf5_reader::messages::dataspace::{DataspaceMessage, DataspaceType};
use hdf5_reader::{StorageBuffer, superblock};

use super::blocks::{Blocks, Piece};
use super::{Dataset, Entry, Integer, Kind, Metadata, Sequences, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;

// Header message types, specification IV.A.2.
const DATASPACE: u16 = 0x01;
const LINK_INFO: u16 = 0x02;
const DATATYPE: u16 = 0x03;
const FILL_OLD: u16 = 0x04;
const FILL: u16 = 0x05;
const LINK: u16 = 0x06;
const EXTERNAL_FILES: u16 = 0x07;
const LAYOUT: u16 = 0x08;
const GROUP_INFO: u16 = 0x0a;
const FILTERS: u16 = 0x0b;
const ATTRIBUTE: u16 = 0x0c;
const CONTINUATION: u16 = 0x10;
const SYMBOL_TABLE: u16 = 0x11;
const ATTRIBUTE_INFO: u16 = 0x15;

/// An open file.
pub(super) struct File {
    blocks: Blocks,
    /// Where the superblock is; addresses count from there.
    base: u64,
    /// Bytes from there to the end of the file.
    len: u64,
    offset_size: u8,
    length_size: u8,
    root: u64,
    announced: u64,
    groups: Mutex<HashMap<u64, Arc<Vec<Link>>>>,
    heaps: Mutex<HashMap<u64, Arc<Vec<HeapObject>>>>,
}

/// A member of a group; sorted by name.
struct Link {
    name: String,
    target: Target,
}

enum Target {
    Object(u64),
    Soft(String),
    /// Another file, or a kind of link that is not known.
    Elsewhere,
}

/// A message of an object header.
struct Message {
    kind: u16,
    shared: bool,
    data: Vec<u8>,
}

/// An object of the global heap.
#[derive(Clone, Copy)]
struct HeapObject {
    index: u16,
    address: u64,
    bytes: u64,
}

/// One call of the API: what it is about, for messages, and what it may still read. No two pieces of a sound file
/// overlap, so a walk that reads several times the file's size goes in circles.
struct Walk<'a> {
    file: &'a File,
    about: &'a str,
    left: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl File {
    pub(super) fn open(source: Arc<Source>) -> Result<Self> {
        let len = source.len();
        let mut file = Self {
            blocks: Blocks::new(source),
            base: 0,
            len,
            offset_size: 8,
            length_size: 8,
            root: 0,
            announced: 0,
            groups: Mutex::default(),
            heaps: Mutex::default(),
        };
        let walk = file.walk("the superblock", 1);
        let found = superblock::Superblock::parse_from_storage(&walk).map_err(|error| walk.translate(&error))?;
        let root = found.root_object_header_address().map_err(|error| walk.translate(&error))?;
        drop(walk);
        file.base = found.base_address;
        file.len = len.saturating_sub(file.base);
        file.offset_size = found.offset_size;
        file.length_size = found.length_size;
        file.root = root;
        // Counts from the start of the file, user block included.
        file.announced = found.eof_address;
        Ok(file)
    }

    /// A walk that may read `times` the size of the file, and a little more for files of a few kilobytes.
    fn walk<'a>(&'a self, about: &'a str, times: u64) -> Walk<'a> {
        let left = self.len.saturating_mul(times).saturating_add(1 << 20);
        Walk { file: self, about, left: AtomicU64::new(left), failure: Mutex::new(None) }
    }

    fn is_undefined(&self, address: u64) -> bool {
        Cursor::is_undefined_offset(address, self.offset_size)
    }
}

impl hdf5_reader::Storage for Walk<'_> {
    fn len(&self) -> u64 {
        self.file.len
    }

    fn read_range(&self, offset: u64, len: usize) -> hdf5_reader::error::Result<StorageBuffer> {
        match self.read(offset, len) {
            Ok(piece) => {
                let (start, len) = (piece.start, piece.len);
                StorageBuffer::from_shared_owner(piece.owner, start, len)
            }
            Err(error) => {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                Err(ReaderError::OffsetOutOfBounds(offset))
            }
        }
    }
}

impl Walk<'_> {
    fn error(&self, kind: ErrorKind, message: impl std::fmt::Display) -> Error {
        Error::new(kind, format!("{}: {message}", self.about)).with_path(self.file.blocks.source().path())
    }

    fn format(&self, message: impl std::fmt::Display) -> Error {
        self.error(ErrorKind::Format, message)
    }

    fn unsupported(&self, message: impl std::fmt::Display) -> Error {
        self.error(ErrorKind::Unsupported, message)
    }

    /// An error of `hdf5-reader`, or of reading the file if that was its cause.
    fn translate(&self, error: &ReaderError) -> Error {
        if let Some(failure) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return failure;
        }
        let mut cause = error;
        while let ReaderError::Context { source, .. } = cause {
            cause = source;
        }
        let kind = match cause {
            ReaderError::UnsupportedSuperblockVersion(_)
            | ReaderError::UnsupportedDatatypeClass(_)
            | ReaderError::UnsupportedLayoutClass(_)
            | ReaderError::UnsupportedLayoutVersion(_)
            | ReaderError::UnsupportedChunkIndexType(_)
            | ReaderError::UnsupportedFilter(_)
            | ReaderError::UnsupportedEncoding(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Format,
        };
        self.error(kind, cause)
    }

    /// Bytes at an address of the file; a length that the file does not have is not allocated.
    fn read(&self, address: u64, len: usize) -> Result<Piece> {
        let file = self.file;
        if address.checked_add(len as u64).is_none_or(|end| end > file.len) {
            return Err(self
                .error(ErrorKind::Truncated, "the file refers to bytes beyond its end")
                .expecting(format!("{len} more bytes"))
                .but_found(format!("{}", file.len.saturating_sub(address)))
                .at(file.base.saturating_add(address)));
        }
        let charged = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(len as u64 + 16));
        if charged.is_err() {
            return Err(self.format("the file's structures overlap or go in circles").at(file.base + address));
        }
        file.blocks.read(file.base + address, len)
    }

    fn fields<'a>(&self, bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, offset_size: self.file.offset_size, length_size: self.file.length_size }
    }

    fn cut(&self, what: &str) -> Error {
        self.format(format_args!("{what} ends before its last field"))
    }
}

impl Metadata for File {
    fn kind(&self, path: &str) -> Option<Kind> {
        let walk = self.walk(path, 64);
        walk.object(path).ok().map(|messages| Walk::kind_of(&messages))
    }

    fn list(&self, group: &str) -> Result<Vec<Entry>> {
        let walk = self.walk(group, 64);
        let address = walk.follow(self.root, group)?.ok_or_else(|| walk.error(ErrorKind::InvalidArgument, "no such group"))?;
        let links = walk.links(address)?;
        let entries = links.iter().map(|link| {
            let target = match &link.target {
                Target::Object(address) => Some(*address),
                Target::Soft(path) => walk.follow(address, path).ok().flatten(),
                Target::Elsewhere => None,
            };
            let found = target.and_then(|address| Some((address, Walk::kind_of(&walk.header(address).ok()?))));
            let (object, kind) = found.unwrap_or((u64::MAX, Kind::Other));
            Entry { name: link.name.clone(), kind, object }
        });
        Ok(entries.collect())
    }

    fn dataset(&self, path: &str) -> Result<Dataset> {
        self.walk(path, 4).dataset()
    }

    fn attributes(&self, path: &str) -> Result<Vec<(String, Value)>> {
        self.walk(path, 64).attributes()
    }

    fn resolve(&self, dataset: &Dataset, references: &[u8], limit: usize) -> Result<Sequences> {
        let mut found = Sequences::default();
        self.walk(&dataset.path, 64).resolve(&dataset.dtype, references, limit, &mut found)?;
        Ok(found)
    }

    fn announced_len(&self) -> u64 {
        self.announced
    }
}

/// Fields of a structure, one after the other; little-endian as all of HDF5's metadata.
struct Fields<'a> {
    bytes: &'a [u8],
    offset_size: u8,
    length_size: u8,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).and_then(|bytes| bytes.first().copied())
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).and_then(uint).map(|value| value as u16)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(uint).map(|value| value as u32)
    }

    fn offset(&mut self) -> Option<u64> {
        self.take(usize::from(self.offset_size)).and_then(uint)
    }

    fn length(&mut self) -> Option<u64> {
        self.take(usize::from(self.length_size)).and_then(uint)
    }
}

/// A little-endian number of at most eight bytes.
fn uint(bytes: &[u8]) -> Option<u64> {
    let mut value = [0; 8];
    value.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(value))
}

fn shape(space: &DataspaceMessage) -> Vec<u64> {
    match space.dataspace_type {
        DataspaceType::Null => vec![0],
        DataspaceType::Scalar => Vec::new(),
        DataspaceType::Simple => space.dims.clone(),
    }
}

/// An integer of up to eight bytes; `None` if it does not fit.
fn decode_integer(bytes: &[u8], base: Integer) -> Option<i64> {
    let mut bytes = bytes.to_vec();
    if base.big_endian {
        bytes.reverse();
    }
    let bits = 64 - 8 * u32::try_from(bytes.len()).ok().filter(|len| (1..=8).contains(len))?;
    let value = uint(&bytes)?;
    if base.signed { Some((value << bits).cast_signed() >> bits) } else { i64::try_from(value).ok() }
}
