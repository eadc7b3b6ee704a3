//! The parser behind [`Metadata`]: object headers, groups and version 1 B-trees by hand, the rest by `hdf5-reader`.
//!
//! HDF5 File Format Specification 4.0. `hdf5-reader` parses object headers too, but gives up on a whole object for one
//! attribute that it does not know, and drops the flags of filters and layouts.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hdf5_reader::error::Error as ReaderError;
use hdf5_reader::io::Cursor;
use hdf5_reader::messages::dataspace::{self, DataspaceMessage, DataspaceType};
use hdf5_reader::messages::datatype::{self, Datatype, VarLenKind};
use hdf5_reader::messages::layout::{self, ChunkIndexing, DataLayout};
use hdf5_reader::messages::link::{self, LinkTarget};
use hdf5_reader::messages::shared::{self, SharedMessage};
use hdf5_reader::messages::{attribute_info, fill_value, link_info, symbol_table_msg};
use hdf5_reader::{ByteOrder, StorageBuffer, StringSize};
use hdf5_reader::{btree_v2, checksum, chunk_index, extensible_array, fixed_array, fractal_heap, local_heap, superblock};

use super::blocks::{Blocks, Piece};
use super::{Chunk, Chunks, Dataset, Dtype, Entry, Field, Filter, Integer, Kind, Metadata, Sequences, Storage, Value};
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

/// Soft links followed for one path.
const SOFT_LINKS: usize = 32;
/// Components of one path, those of the soft links in it included.
const COMPONENTS: usize = 1024;
/// Groups whose members are remembered.
const GROUPS: usize = 8;
/// Global heap collections whose objects are remembered.
const HEAPS: usize = 64;

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
    beyond: AtomicBool,
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
        let found = superblock::Superblock::parse_from_storage(&walk).map_err(|error| walk.translate(error))?;
        let root = found.root_object_header_address().map_err(|error| walk.translate(error))?;
        drop(walk);
        file.base = found.base_address;
        file.len = len.saturating_sub(file.base);
        file.offset_size = found.offset_size;
        file.length_size = found.length_size;
        file.root = root;
        file.announced = found.base_address.saturating_add(found.eof_address);
        Ok(file)
    }

    /// A walk that may read `times` the size of the file, and a little more for files of a few kilobytes.
    fn walk<'a>(&'a self, about: &'a str, times: u64) -> Walk<'a> {
        let left = self.len.saturating_mul(times).saturating_add(1 << 20);
        Walk { file: self, about, left: AtomicU64::new(left), beyond: AtomicBool::new(false), failure: Mutex::new(None) }
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
    fn translate(&self, error: ReaderError) -> Error {
        if let Some(failure) = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return failure;
        }
        let mut cause = &error;
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
            self.beyond.store(true, Ordering::Relaxed);
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

    // Object headers, specification IV.A.1.

    fn header(&self, address: u64) -> Result<Vec<Message>> {
        let prefix = self.read(address, 12)?;
        let mut messages = Vec::new();
        // Chunks still to be read, and bytes that all of them may have together.
        let mut chunks: Vec<(u64, usize)> = Vec::new();
        let mut total = 0_u64;
        let ordered;
        let modern = prefix.starts_with(b"OHDR");
        if modern {
            let what = "an object header";
            let mut fields = self.fields(&prefix);
            fields.take(4).ok_or_else(|| self.cut(what))?;
            let (version, flags) = (fields.u8(), fields.u8());
            let (Some(2), Some(flags)) = (version, flags) else {
                return Err(self.unsupported(format_args!("object header of version {version:?}")));
            };
            ordered = flags & 0x04 != 0;
            let skipped = 6 + if flags & 0x20 != 0 { 16 } else { 0 } + if flags & 0x10 != 0 { 4 } else { 0 };
            let width = 1_usize << (flags & 3);
            let piece = self.read(address + skipped, width)?;
            let size = uint(&piece).filter(|size| *size <= self.file.len).ok_or_else(|| self.cut(what))? as usize;
            let start = skipped as usize + width;
            let whole = self.checked_block(address, start + size + 4)?;
            self.messages(whole.get(start..start + size).unwrap_or_default(), true, ordered, &mut messages, &mut chunks)?;
        } else {
            let what = "an object header";
            ordered = false;
            let mut fields = self.fields(&prefix);
            if fields.u8() != Some(1) {
                return Err(self.format("no object header where one should be").at(self.file.base + address));
            }
            let size = fields.take(7).and_then(|_| fields.u32()).ok_or_else(|| self.cut(what))? as usize;
            let piece = self.read(address + 16, size)?;
            self.messages(&piece, false, false, &mut messages, &mut chunks)?;
        }
        while let Some((address, len)) = chunks.pop() {
            total = total.saturating_add(len as u64).saturating_add(8);
            if total > self.file.len {
                return Err(self.format("an object header continues in circles"));
            }
            if modern {
                let block = self.checked_block(address, len)?;
                let inner = block.len().checked_sub(4).and_then(|end| block.get(4..end));
                let inner = inner.filter(|_| block.starts_with(b"OCHK")).ok_or_else(|| self.cut("a continued object header"))?;
                self.messages(inner, true, ordered, &mut messages, &mut chunks)?;
            } else {
                let block = self.read(address, len)?;
                self.messages(&block, false, false, &mut messages, &mut chunks)?;
            }
        }
        Ok(messages)
    }

    /// A block that ends with a checksum of the rest.
    fn checked_block(&self, address: u64, len: usize) -> Result<Piece> {
        let block = self.read(address, len)?;
        let split = len.checked_sub(4).and_then(|end| block.split_at_checked(end));
        let (body, sum) = split.ok_or_else(|| self.cut("a block"))?;
        if uint(sum) != Some(u64::from(checksum::jenkins_lookup3(body))) {
            return Err(self.format("a checksum does not match").at(self.file.base + address));
        }
        Ok(block)
    }

    fn messages(
        &self,
        bytes: &[u8],
        modern: bool,
        ordered: bool,
        messages: &mut Vec<Message>,
        chunks: &mut Vec<(u64, usize)>,
    ) -> Result<()> {
        let what = "a header message";
        let mut fields = self.fields(bytes);
        let least = if !modern {
            8
        } else if ordered {
            6
        } else {
            4
        };
        while fields.bytes.len() >= least {
            let kind = if modern { fields.u8().map(u16::from) } else { fields.u16() };
            let (size, flags) = (fields.u16(), fields.u8());
            let (Some(kind), Some(size), Some(flags)) = (kind, size, flags) else { return Err(self.cut(what)) };
            let skipped = fields.take(least - if modern { 4 } else { 5 });
            let Some(data) = skipped.and_then(|_| fields.take(usize::from(size))) else {
                // Libraries before 1.8 left less than a message behind as a gap.
                if kind == 0 {
                    return Ok(());
                }
                return Err(self.cut(what));
            };
            match kind {
                0 => {}
                CONTINUATION => {
                    let mut place = self.fields(data);
                    let (Some(address), Some(len)) = (place.offset(), place.length()) else { return Err(self.cut(what)) };
                    chunks.push((address, usize::try_from(len).unwrap_or(usize::MAX)));
                }
                _ => messages.push(Message { kind, shared: flags & 2 != 0, data: data.to_vec() }),
            }
        }
        Ok(())
    }

    /// The message of a kind, fetched from where it is shared.
    fn find(&self, messages: &[Message], kind: u16) -> Result<Option<Vec<u8>>> {
        let Some(message) = messages.iter().find(|message| message.kind == kind) else { return Ok(None) };
        if message.shared { self.shared(&message.data, kind).map(Some) } else { Ok(Some(message.data.clone())) }
    }

    /// The message that a shared message stands for.
    fn shared(&self, data: &[u8], kind: u16) -> Result<Vec<u8>> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        let found = shared::parse(&mut Cursor::new(data), kind, offset_size, length_size, data.len());
        match found.map_err(|error| self.translate(error))? {
            SharedMessage::SharedInOhdr { address, .. } => {
                let messages = self.header(address)?;
                let message = messages.into_iter().find(|message| message.kind == kind && !message.shared);
                message.map(|message| message.data).ok_or_else(|| self.format("a shared message is not where it should be"))
            }
            SharedMessage::SharedInSohm { .. } => Err(self.unsupported("header messages shared in the file's message table")),
        }
    }

    fn kind_of(messages: &[Message]) -> Kind {
        let has = |kind| messages.iter().any(|message| message.kind == kind);
        if has(LAYOUT) && has(DATATYPE) && has(DATASPACE) {
            Kind::Dataset
        } else if has(SYMBOL_TABLE) || has(LINK_INFO) || has(GROUP_INFO) || has(LINK) {
            Kind::Group
        } else {
            Kind::Other
        }
    }

    // Groups.

    fn links(&self, address: u64) -> Result<Arc<Vec<Link>>> {
        if let Some(links) = self.file.groups.lock().unwrap_or_else(PoisonError::into_inner).get(&address) {
            return Ok(links.clone());
        }
        let messages = self.header(address)?;
        if Self::kind_of(&messages) != Kind::Group {
            return Err(self.error(ErrorKind::InvalidArgument, "not a group"));
        }
        let mut links = Vec::new();
        if let Some(table) = self.find(&messages, SYMBOL_TABLE)? {
            self.old_links(&table, &mut links)?;
        } else {
            for message in messages.iter().filter(|message| message.kind == LINK && !message.shared) {
                links.push(self.link(&message.data)?);
            }
            if let Some(info) = self.find(&messages, LINK_INFO)? {
                let info = link_info::parse(&mut Cursor::new(&info), self.file.offset_size, self.file.length_size, info.len())
                    .map_err(|error| self.translate(error))?;
                self.dense(info.fractal_heap_address, info.btree_name_index_address, |object| {
                    links.push(self.link(object)?);
                    Ok(())
                })?;
            }
        }
        links.sort_by(|a, b| a.name.cmp(&b.name));
        links.dedup_by(|a, b| a.name == b.name);
        let links = Arc::new(links);
        let mut groups = self.file.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() >= GROUPS {
            groups.clear();
        }
        groups.insert(address, links.clone());
        Ok(links)
    }

    fn link(&self, data: &[u8]) -> Result<Link> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        match link::parse(&mut Cursor::new(data), offset_size, length_size, data.len()) {
            Ok(found) => {
                let target = match found.target {
                    LinkTarget::Hard { address } => Target::Object(address),
                    LinkTarget::Soft { path } => Target::Soft(path),
                    LinkTarget::External { .. } => Target::Elsewhere,
                };
                Ok(Link { name: found.name, target })
            }
            Err(error) => Err(self.translate(error)),
        }
    }

    /// A group of HDF5 before 1.8, specification III.A to III.D.
    fn old_links(&self, table: &[u8], links: &mut Vec<Link>) -> Result<()> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        let table = symbol_table_msg::parse(&mut Cursor::new(table), offset_size, length_size, table.len())
            .map_err(|error| self.translate(error))?;
        let heap = local_heap::LocalHeap::parse_at_storage(self, table.heap_address, offset_size, length_size)
            .map_err(|error| self.translate(error))?;
        let names = self.read(heap.data_segment_address, usize::try_from(heap.data_segment_size).unwrap_or(usize::MAX))?;
        // Names of a sound file do not overlap, and soft links have two texts.
        let mut left = names.len().saturating_mul(2);
        let mut text = |offset: u64| {
            let rest = usize::try_from(offset).ok().and_then(|offset| names.get(offset..)).unwrap_or_default();
            let end = rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.cut("a name"))?;
            left = left.checked_sub(end).ok_or_else(|| self.format("the names of a group overlap"))?;
            Ok::<_, crate::Error>(String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned())
        };
        self.btree_v1(table.btree_address, 0, usize::from(length_size), |_, node| {
            let what = "a symbol table node";
            let prefix = self.read(node, 8)?;
            let mut fields = self.fields(&prefix);
            let count = (fields.take(6) == Some(b"SNOD\x01\0")).then(|| fields.u16()).flatten();
            let count = count.ok_or_else(|| self.format("no symbol table node where one should be"))?;
            let piece = self.read(node + 8, usize::from(count) * (2 * usize::from(offset_size) + 24))?;
            let mut fields = self.fields(&piece);
            for _ in 0..count {
                let (name, address) = (fields.offset(), fields.offset());
                let cached = fields.u32();
                let scratch = fields.u32().and_then(|_| fields.take(16)).and_then(|scratch| scratch.get(..4)).and_then(uint);
                let (Some(name), Some(address), Some(scratch)) = (name, address, scratch) else { return Err(self.cut(what)) };
                let target = if cached == Some(2) { Target::Soft(text(scratch)?) } else { Target::Object(address) };
                links.push(Link { name: text(name)?, target });
            }
            Ok(())
        })
    }

    /// The leaves of a version 1 B-tree: a key and a child each. Specification III.A.1.
    fn btree_v1(&self, root: u64, kind: u8, key: usize, mut leaf: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
        let what = "a B-tree node";
        let mut stack = vec![(root, None::<u8>)];
        let prefix_len = 8 + 2 * usize::from(self.file.offset_size);
        let entry = key + usize::from(self.file.offset_size);
        while let Some((address, expected)) = stack.pop() {
            if self.file.is_undefined(address) {
                continue;
            }
            let prefix = self.read(address, prefix_len)?;
            let mut fields = self.fields(&prefix);
            let is_node = fields.take(4) == Some(b"TREE") && fields.u8() == Some(kind);
            let (level, count) = (fields.u8(), fields.u16());
            let (true, Some(level), Some(count)) = (is_node, level, count) else {
                return Err(self.format("no B-tree node where one should be").at(self.file.base + address));
            };
            // Levels fall by one from parent to child, so a walk ends.
            if expected.is_some_and(|expected| expected != level) {
                return Err(self.format("a B-tree whose levels are wrong").at(self.file.base + address));
            }
            let piece = self.read(address.saturating_add(prefix_len as u64), usize::from(count) * entry)?;
            if level == 0 {
                for entry in piece.chunks_exact(entry) {
                    let (key, child) = entry.split_at_checked(key).ok_or_else(|| self.cut(what))?;
                    leaf(key, uint(child).ok_or_else(|| self.cut(what))?)?;
                }
            } else {
                let children = piece.chunks_exact(entry).rev().filter_map(|entry| entry.get(key..).and_then(uint));
                stack.extend(children.map(|child| (child, Some(level - 1))));
            }
        }
        Ok(())
    }

    /// The objects of a fractal heap that a B-tree lists: links or attributes of large groups.
    fn dense(&self, heap: u64, index: u64, mut object: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        if self.file.is_undefined(heap) || self.file.is_undefined(index) {
            return Ok(());
        }
        let heap =
            fractal_heap::FractalHeap::parse_at_storage(self, heap, offset_size, length_size).map_err(|error| self.translate(error))?;
        if heap.io_filters_len > 0 {
            return Err(self.unsupported("compressed links or attributes"));
        }
        let tree =
            btree_v2::BTreeV2Header::parse_at_storage(self, index, offset_size, length_size).map_err(|error| self.translate(error))?;
        let records = btree_v2::collect_btree_v2_records_storage(self, &tree, offset_size, length_size, None, &[], None)
            .map_err(|error| self.translate(error))?;
        let mut cache = fractal_heap::FractalHeapDirectBlockCache::default();
        let mut left = self.file.len;
        for record in &records {
            let (btree_v2::BTreeV2Record::LinkNameHash { heap_id, .. } | btree_v2::BTreeV2Record::AttributeNameHash { heap_id, .. }) =
                record
            else {
                return Err(self.format("an index of links or attributes has other entries"));
            };
            let bytes = heap
                .get_object_storage_cached(heap_id, self, offset_size, length_size, &mut cache)
                .map_err(|error| self.translate(error))?;
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| self.format("links or attributes overlap"))?;
            object(&bytes)?;
        }
        Ok(())
    }

    /// Follows a path from a group; `None` if a name on the way is not there.
    fn follow(&self, group: u64, path: &str) -> Result<Option<u64>> {
        let mut current = if path.starts_with('/') { self.file.root } else { group };
        let mut rest: Vec<String> = components(path);
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = rest.pop() {
            steps += 1;
            if steps > COMPONENTS {
                return Err(self.format("a path of too many names"));
            }
            let members = self.links(current)?;
            let Ok(place) = members.binary_search_by(|link| link.name.as_str().cmp(&name)) else { return Ok(None) };
            match members.get(place).map(|link| &link.target) {
                Some(Target::Object(address)) => current = *address,
                Some(Target::Soft(target)) => {
                    links += 1;
                    if links > SOFT_LINKS {
                        return Err(self.format("soft links go in circles"));
                    }
                    if target.starts_with('/') {
                        current = self.file.root;
                    }
                    rest.extend(components(target));
                    if rest.len() > COMPONENTS {
                        return Err(self.format("a path of too many names"));
                    }
                }
                Some(Target::Elsewhere) => return Err(self.unsupported("a link to another file")),
                None => return Ok(None),
            }
        }
        Ok(Some(current))
    }

    fn object(&self, path: &str) -> Result<Vec<Message>> {
        let address = self.follow(self.file.root, path)?.ok_or_else(|| self.error(ErrorKind::InvalidArgument, "no such object"))?;
        self.header(address)
    }

    // Data sets.

    fn dataset(&self) -> Result<Dataset> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        let messages = self.object(self.about)?;
        if Self::kind_of(&messages) != Kind::Dataset {
            return Err(self.error(ErrorKind::InvalidArgument, "not a data set"));
        }
        if messages.iter().any(|message| message.kind == EXTERNAL_FILES) {
            return Err(self.unsupported("its data is in another file"));
        }
        let found = |kind| self.find(&messages, kind)?.ok_or_else(|| self.format("a header message is missing"));
        let (dtype, space) = (self.dtype(&found(DATATYPE)?)?, self.dataspace(&found(DATASPACE)?)?);
        let shape = shape(&space);
        let element = dtype.bytes() as u64;
        let bytes = shape.iter().try_fold(element, |product, extent| product.checked_mul(*extent));
        let bytes = bytes.ok_or_else(|| self.format(format_args!("a shape of {shape:?} is too large")))?;
        let filters = self.find(&messages, FILTERS)?.map_or(Ok(Vec::new()), |data| self.filters(&data))?;
        let fill = match (self.find(&messages, FILL)?, self.find(&messages, FILL_OLD)?) {
            (Some(data), _) => fill_value::parse_new(&mut Cursor::new(&data), offset_size, length_size, data.len()).map(Some),
            (None, Some(data)) => fill_value::parse_old(&mut Cursor::new(&data), offset_size, length_size, data.len()).map(Some),
            (None, None) => Ok(None),
        };
        let fill = fill.map_err(|error| self.translate(error))?.and_then(|fill| fill.value);
        if fill.as_ref().is_some_and(|fill| fill.len() as u64 != element) {
            return Err(self.format("a fill value that is not an element"));
        }
        let data = found(LAYOUT)?;
        let (version, class) = (data.first().copied(), data.get(1).copied());
        if matches!((version, class), (Some(4..), Some(3))) {
            return Err(self.unsupported("a virtual data set: its data is in other files"));
        }
        // Bit 0: chunks at the edge are stored without filters.
        let plain_edges = matches!((version, class), (Some(4..), Some(2))) && data.get(2).is_some_and(|flags| flags & 1 != 0);
        let layout = layout::parse(&mut Cursor::new(&data), offset_size, length_size, data.len());
        let storage = match layout.map_err(|error| self.translate(error))?.layout {
            DataLayout::Compact { data } => {
                let data = usize::try_from(bytes).ok().and_then(|bytes| data.get(..bytes)).map(<[u8]>::to_vec);
                Storage::Compact(data.ok_or_else(|| self.format("fewer bytes than its shape needs"))?)
            }
            DataLayout::Contiguous { address, .. } if bytes == 0 || self.file.is_undefined(address) => Storage::Absent,
            DataLayout::Contiguous { address, size } => {
                // Version 1 and 2 layouts have four bytes for every extent, so that only theirs may be cut off.
                if size < bytes && version.is_some_and(|version| version >= 3) {
                    return Err(self.format("fewer bytes than its shape needs").expecting(format!("{bytes}")).but_found(format!("{size}")));
                }
                if address.checked_add(bytes).is_none_or(|end| end > self.file.len) {
                    return Err(self
                        .error(ErrorKind::Truncated, "its data ends beyond the end of the file")
                        .at(self.file.base.saturating_add(address)));
                }
                Storage::Contiguous { address: self.file.base + address, bytes }
            }
            DataLayout::Chunked { address, dims, chunk_indexing, .. } => {
                let chunk = Grid { walk: self, space: &space, shape: &shape, element, filtered: !filters.is_empty(), plain_edges };
                let chunks = chunk.chunks(address, dims, chunk_indexing)?;
                if self.file.is_undefined(address) { Storage::Absent } else { Storage::Chunked(chunks) }
            }
        };
        Ok(Dataset { path: self.about.to_owned(), shape, dtype, filters, storage, fill })
    }

    fn dataspace(&self, data: &[u8]) -> Result<DataspaceMessage> {
        dataspace::parse(&mut Cursor::new(data), self.file.offset_size, self.file.length_size, data.len())
            .map_err(|error| self.translate(error))
    }

    fn dtype(&self, data: &[u8]) -> Result<Dtype> {
        let found = datatype::parse(&mut Cursor::new(data), data.len()).map_err(|error| self.translate(error))?;
        let dtype = self.convert(&found.datatype)?;
        if dtype.bytes() == 0 || dtype.bytes() as u64 != u64::from(found.size) {
            return Err(self.format("a type whose parts do not have its size"));
        }
        Ok(dtype)
    }

    fn convert(&self, datatype: &Datatype) -> Result<Dtype> {
        let reference = 8 + usize::from(self.file.offset_size);
        let big = |order: ByteOrder| order == ByteOrder::BigEndian;
        Ok(match datatype {
            Datatype::FixedPoint { size, signed, byte_order } => {
                Dtype::Integer(Integer { bytes: *size, signed: *signed, big_endian: big(*byte_order) })
            }
            Datatype::Bitfield { size, byte_order } => {
                Dtype::Integer(Integer { bytes: *size, signed: false, big_endian: big(*byte_order) })
            }
            Datatype::FloatingPoint { size, byte_order } => Dtype::Float { bytes: *size, big_endian: big(*byte_order) },
            Datatype::String { size: StringSize::Fixed(bytes), .. } => Dtype::Text { bytes: *bytes as usize },
            Datatype::String { size: StringSize::Variable, .. } | Datatype::VarLen { kind: VarLenKind::String, .. } => {
                Dtype::VlenText { bytes: reference }
            }
            Datatype::VarLen { kind: VarLenKind::Sequence, base, .. } => {
                Dtype::Vlen { bytes: reference, base: Box::new(self.convert(base)?) }
            }
            Datatype::VarLen { .. } => Dtype::Other { bytes: reference, name: "variable-length".to_owned() },
            Datatype::Enum { base, members } => match self.convert(base)? {
                Dtype::Integer(base) => {
                    let is = |member: &hdf5_reader::EnumMember, name: &str, value| {
                        member.name == name && decode_integer(&member.value, base) == Some(value)
                    };
                    let boolean = matches!(members.as_slice(), [a, b] if is(a, "FALSE", 0) && is(b, "TRUE", 1));
                    Dtype::Enum { base, boolean }
                }
                _ => return Err(self.format("an enumeration of something else than integers")),
            },
            Datatype::Array { base, dims } => {
                let array = Dtype::Array { shape: dims.clone(), base: Box::new(self.convert(base)?) };
                if array.bytes() > u32::MAX as usize {
                    return Err(self.format("an array type of more than 4 GiB"));
                }
                array
            }
            Datatype::Compound { size, fields } => {
                let bytes = *size as usize;
                let mut converted = Vec::with_capacity(fields.len());
                for field in fields {
                    let (offset, dtype) = (field.byte_offset as usize, self.convert(&field.datatype)?);
                    if offset.saturating_add(dtype.bytes()) > bytes {
                        return Err(self.format(format_args!("field `{}` does not fit into its compound", field.name)));
                    }
                    converted.push(Field { name: field.name.clone(), offset, dtype });
                }
                Dtype::Compound { bytes, fields: converted }
            }
            Datatype::Opaque { size, tag } => Dtype::Other { bytes: *size as usize, name: format!("opaque `{tag}`") },
            Datatype::Reference { size, .. } => Dtype::Other { bytes: usize::from(*size), name: "reference".to_owned() },
        })
    }

    /// The filter pipeline, specification IV.A.2.l.
    fn filters(&self, data: &[u8]) -> Result<Vec<Filter>> {
        let what = "the filter pipeline";
        let mut fields = self.fields(data);
        let (version, count) = (fields.u8(), fields.u8().unwrap_or(0));
        let modern = match version {
            Some(1) => fields.take(6).is_none(),
            Some(2) => true,
            _ => return Err(self.unsupported(format_args!("filter pipeline of version {version:?}"))),
        };
        let mut filter = || {
            let id = fields.u16()?;
            let name_len = if modern && id < 256 { 0 } else { usize::from(fields.u16()?) };
            let (flags, values) = (fields.u16()?, fields.u16()?);
            let name = fields.take(if modern { name_len } else { name_len.next_multiple_of(8) })?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let values = (0..values).map(|_| fields.u32()).collect::<Option<Vec<u32>>>()?;
            if !modern && values.len() % 2 == 1 {
                fields.take(4)?;
            }
            let name = Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty());
            Some(Filter { id, name, optional: flags & 1 != 0, values })
        };
        (0..count).map(|_| filter().ok_or_else(|| self.cut(what))).collect()
    }

    // Attributes.

    fn attributes(&self) -> Result<Vec<(String, Value)>> {
        let messages = self.object(self.about)?;
        let mut left = self.file.len;
        let mut attributes = Vec::new();
        let mut read = |data: &[u8], shared| {
            let resolved = if shared { self.shared(data, ATTRIBUTE).map(Some) } else { Ok(None) };
            let found = resolved.and_then(|resolved| self.attribute(resolved.as_deref().unwrap_or(data), &mut left));
            match found {
                Ok(attribute) => attributes.push(attribute),
                Err(error) => attributes.push((String::new(), Value::Other(error.to_string()))),
            }
        };
        for message in messages.iter().filter(|message| message.kind == ATTRIBUTE) {
            read(&message.data, message.shared);
        }
        if let Some(info) = self.find(&messages, ATTRIBUTE_INFO)? {
            let info = attribute_info::parse(&mut Cursor::new(&info), self.file.offset_size, self.file.length_size, info.len())
                .map_err(|error| self.translate(error))?;
            self.dense(info.fractal_heap_address, info.btree_name_index_address, |object| {
                read(object, false);
                Ok(())
            })?;
        }
        attributes.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(attributes)
    }

    /// An attribute message, specification IV.A.2.m.
    fn attribute(&self, data: &[u8], left: &mut u64) -> Result<(String, Value)> {
        let what = "an attribute";
        let mut fields = self.fields(data);
        let mut parts = || {
            let (version, flags) = (fields.u8()?, fields.u8()?);
            let sizes = [fields.u16()?, fields.u16()?, fields.u16()?];
            if version == 3 {
                fields.u8()?;
            }
            let mut part = |size: u16| {
                let size = usize::from(size);
                let part = fields.take(size)?;
                if version == 1 {
                    fields.take(size.next_multiple_of(8) - size)?;
                }
                Some(part)
            };
            let [name, dtype, space] = sizes;
            let parts = (part(name)?, part(dtype)?, part(space)?);
            Some((version, flags, parts, fields.bytes))
        };
        let (version, flags, (name, dtype, space), raw) = parts().ok_or_else(|| self.cut(what))?;
        if !(1..=3).contains(&version) {
            return Err(self.unsupported(format_args!("attribute of version {version}")));
        }
        let name = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let fetch = |bit: u8, data: &[u8], kind| {
            if version > 1 && flags & bit != 0 { self.shared(data, kind) } else { Ok(data.to_vec()) }
        };
        let value = fetch(1, dtype, DATATYPE)
            .and_then(|dtype| self.dtype(&dtype))
            .and_then(|dtype| Ok((dtype, self.dataspace(&fetch(2, space, DATASPACE)?)?)))
            .and_then(|(dtype, space)| self.value(&dtype, &shape(&space), raw, left));
        Ok((name, value.unwrap_or_else(|error| Value::Other(error.to_string()))))
    }

    fn value(&self, dtype: &Dtype, shape: &[u64], raw: &[u8], left: &mut u64) -> Result<Value> {
        let single = shape.is_empty();
        let (dtype, mut count) = match dtype {
            Dtype::Array { base, .. } => (&**base, (dtype.bytes() / base.bytes().max(1)) as u64),
            dtype => (dtype, 1),
        };
        for extent in shape {
            count = count.checked_mul(*extent).ok_or_else(|| self.format("an attribute of too many elements"))?;
        }
        let bytes = dtype.bytes();
        let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(bytes));
        let raw = len.and_then(|len| raw.get(..len)).ok_or_else(|| self.cut("an attribute"))?;
        let elements = raw.chunks_exact(bytes);
        Ok(match dtype {
            Dtype::Integer(base) | Dtype::Enum { base, .. } => {
                match elements.map(|element| decode_integer(element, *base)).collect::<Option<Vec<_>>>() {
                    Some(values) => one_or_all(values, single, Value::Integer, Value::Integers),
                    None => Value::Other(format!("integers of {bytes} bytes beyond 64 bits with a sign")),
                }
            }
            Dtype::Float { big_endian, .. } => {
                match elements.map(|element| decode_float(element, *big_endian)).collect::<Option<Vec<_>>>() {
                    Some(values) => one_or_all(values, single, Value::Float, Value::Floats),
                    None => Value::Other(format!("floating-point numbers of {bytes} bytes")),
                }
            }
            Dtype::Text { .. } => one_or_all(elements.map(text).collect(), single, Value::Text, Value::Texts),
            Dtype::VlenText { .. } => {
                let mut texts = Vec::new();
                for element in elements {
                    let (address, len) = self.sequence(element, 1)?.unwrap_or((0, 0));
                    *left = left.checked_sub(len).ok_or_else(|| self.format("attributes overlap"))?;
                    texts.push(text(&self.read(address, usize::try_from(len).unwrap_or(usize::MAX))?));
                }
                one_or_all(texts, single, Value::Text, Value::Texts)
            }
            Dtype::Compound { fields, .. } => {
                let names: Vec<_> = fields.iter().take(16).map(|field| field.name.as_str()).collect();
                Value::Other(format!("compound of {}", names.join(", ")))
            }
            Dtype::Vlen { .. } => Value::Other("variable-length sequences".to_owned()),
            Dtype::Array { .. } => Value::Other("arrays of arrays".to_owned()),
            Dtype::Other { name, .. } => Value::Other(name.clone()),
        })
    }

    // The global heap, specification III.E.

    /// Where the bytes of a variable-length element are; `None` if it has none.
    fn sequence(&self, reference: &[u8], base: usize) -> Result<Option<(u64, u64)>> {
        let mut fields = self.fields(reference);
        let (Some(count), Some(collection), Some(index)) = (fields.u32(), fields.offset(), fields.u32()) else {
            return Err(self.cut("a reference to the global heap"));
        };
        if count == 0 || collection == 0 || self.file.is_undefined(collection) {
            return Ok(None);
        }
        let bytes = u64::from(count).saturating_mul(base as u64);
        let objects = self.collection(collection)?;
        let object = u16::try_from(index).ok().and_then(|index| objects.iter().find(|object| object.index == index));
        match object {
            Some(object) if object.bytes >= bytes => Ok(Some((object.address, bytes))),
            Some(_) => Err(self.format("a global heap object shorter than its reference says").at(self.file.base + collection)),
            None => Err(self.format("a reference to nothing in the global heap").at(self.file.base + collection)),
        }
    }

    fn collection(&self, address: u64) -> Result<Arc<Vec<HeapObject>>> {
        if let Some(objects) = self.file.heaps.lock().unwrap_or_else(PoisonError::into_inner).get(&address) {
            return Ok(objects.clone());
        }
        let what = "a global heap collection";
        let prefix_len = 8 + u64::from(self.file.length_size);
        let prefix = self.read(address, prefix_len as usize)?;
        let mut fields = self.fields(&prefix);
        let is_collection = fields.take(8).is_some_and(|bytes| bytes.starts_with(b"GCOL\x01"));
        let size = fields.length().filter(|_| is_collection);
        let end = size.and_then(|size| address.checked_add(size)).filter(|end| *end <= self.file.len);
        let end = end.ok_or_else(|| self.format("no global heap collection where one should be").at(self.file.base + address))?;
        let mut objects = Vec::new();
        let mut position = address + prefix_len;
        while position + prefix_len <= end {
            let prefix = self.read(position, prefix_len as usize)?;
            let mut fields = self.fields(&prefix);
            let index = fields.u16();
            let bytes = fields.take(6).and_then(|_| fields.length());
            let (Some(index), Some(bytes)) = (index, bytes) else { return Err(self.cut(what)) };
            // Index 0 is the free space at the end. Indices have 16 bits.
            if index == 0 || objects.len() > usize::from(u16::MAX) {
                break;
            }
            position += prefix_len;
            if position.checked_add(bytes).is_none_or(|object_end| object_end > end) {
                return Err(self.format("a global heap object leaves its collection").at(self.file.base + position));
            }
            objects.push(HeapObject { index, address: position, bytes });
            position = position.saturating_add(bytes.checked_next_multiple_of(8).unwrap_or(u64::MAX));
        }
        let objects = Arc::new(objects);
        let mut heaps = self.file.heaps.lock().unwrap_or_else(PoisonError::into_inner);
        if heaps.len() >= HEAPS {
            heaps.clear();
        }
        heaps.insert(address, objects.clone());
        Ok(objects)
    }

    fn resolve(&self, dtype: &Dtype, references: &[u8], limit: usize, found: &mut Sequences) -> Result<bool> {
        let (bytes, base) = match dtype {
            Dtype::Vlen { bytes, base } => (*bytes, base.bytes()),
            Dtype::VlenText { bytes } => (*bytes, 1),
            _ => return Err(self.error(ErrorKind::InvalidArgument, "its elements are not of variable length")),
        };
        for reference in references.chunks_exact(bytes) {
            let place = self.sequence(reference, base)?;
            let len = place.map_or(0, |(_, len)| len) as usize;
            if found.len() > 0 && found.bytes.len().saturating_add(len) > limit {
                return Ok(false);
            }
            if let Some((address, _)) = place {
                found.bytes.extend_from_slice(&self.read(address, len)?);
            }
            found.ends.push(found.bytes.len());
        }
        Ok(true)
    }

    fn read_vlen(&self, dataset: &Dataset, elements: Range<u64>, limit: usize) -> Result<Sequences> {
        let mut found = Sequences::default();
        if elements.start > elements.end || elements.end > dataset.elements() {
            return Err(self.error(ErrorKind::InvalidArgument, "elements outside its shape"));
        }
        if !dataset.filters.is_empty() {
            return Err(self.error(ErrorKind::InvalidArgument, "its elements have to be decoded first"));
        }
        let bytes = dataset.dtype.bytes() as u64;
        // Bytes of whole chunks, or of pieces of other storage, one at a time.
        let mut held: Option<(u64, Piece)> = None;
        for element in elements {
            let slot: Option<(u64, u64, u64, u64)> = match &dataset.storage {
                Storage::Compact(_) => None,
                Storage::Absent => {
                    found.ends.push(found.bytes.len());
                    continue;
                }
                Storage::Contiguous { address, .. } => Some((*address, bytes * dataset.elements(), element * bytes, 0)),
                Storage::Chunked(chunks) => {
                    let (index, inside) = place(&dataset.shape, &chunks.shape, &chunks.grid, element);
                    let Some(chunk) = chunks.get(index) else {
                        found.ends.push(found.bytes.len());
                        continue;
                    };
                    Some((chunk.address, u64::from(chunk.bytes), inside * bytes, index))
                }
            };
            let reference = match slot {
                None => {
                    let Storage::Compact(data) = &dataset.storage else { continue };
                    let start = (element * bytes) as usize;
                    data.get(start..start + bytes as usize).map(<[u8]>::to_vec)
                }
                Some((address, len, start, _)) => {
                    // 64 KiB at a time, so that large chunks are not held whole.
                    let piece = start / (1 << 16) * (1 << 16);
                    let key = address + piece;
                    if held.as_ref().is_none_or(|(at, _)| *at != key) {
                        let size = (len - piece.min(len)).min((1 << 16) + bytes) as usize;
                        held = Some((key, self.read(key.saturating_sub(self.file.base), size)?));
                    }
                    let start = (start - piece) as usize;
                    held.as_ref().and_then(|(_, held)| held.get(start..start + bytes as usize)).map(<[u8]>::to_vec)
                }
            };
            let reference = reference.ok_or_else(|| self.cut("a chunk"))?;
            if !self.resolve(&dataset.dtype, &reference, limit, &mut found)? {
                break;
            }
        }
        Ok(found)
    }
}

/// What is needed to build a chunk table.
struct Grid<'a> {
    walk: &'a Walk<'a>,
    space: &'a DataspaceMessage,
    shape: &'a [u64],
    element: u64,
    filtered: bool,
    plain_edges: bool,
}

impl Grid<'_> {
    fn chunks(&self, address: u64, mut dims: Vec<u32>, indexing: Option<ChunkIndexing>) -> Result<Chunks> {
        let (walk, rank) = (self.walk, self.shape.len());
        let file = walk.file;
        // Version 4 layouts list the size of an element as the last extent.
        if dims.len() == rank + 1 {
            dims.pop();
        }
        if rank == 0 || dims.len() != rank || dims.contains(&0) {
            return Err(walk.format(format_args!("chunks of {dims:?} for a shape of {:?}", self.shape)));
        }
        let decoded = dims.iter().try_fold(self.element, |product, extent| product.checked_mul(u64::from(*extent)));
        let decoded = decoded.ok_or_else(|| walk.format(format_args!("chunks of {dims:?} are too large")))?;
        let decoded = u32::try_from(decoded).map_err(|_| walk.unsupported("chunks of 4 GiB and more"))?;
        let count =
            |extents: &[u64]| -> Vec<u64> { extents.iter().zip(&dims).map(|(extent, chunk)| extent.div_ceil(u64::from(*chunk))).collect() };
        let grid = count(self.shape);
        if grid.iter().try_fold(1_u64, |product, extent| product.checked_mul(*extent)).is_none() {
            return Err(walk.format("more chunks than can be counted"));
        }
        let mut chunks =
            Chunks { shape: dims.iter().map(|extent| u64::from(*extent)).collect(), grid, decoded, list: Vec::new(), beyond: 0 };
        if file.is_undefined(address) || chunks.grid_len() == 0 {
            return Ok(chunks);
        }
        // Fixed arrays and implicit indices number the chunks of the largest shape that the data set may have.
        let largest = self.space.max_dims.as_deref().filter(|largest| largest.len() == rank && !largest.contains(&u64::MAX));
        let largest = largest.unwrap_or(self.shape);
        let (offset_size, length_size) = (file.offset_size, file.length_size);
        let entries = match indexing {
            None => {
                let key = 8 + (rank + 1) * 8;
                let mut start = Vec::with_capacity(rank);
                walk.btree_v1(address, 1, key, |key, child| {
                    let mut fields = walk.fields(key);
                    let (Some(bytes), Some(mask)) = (fields.u32(), fields.u32()) else { return Err(walk.cut("a B-tree key")) };
                    start.clear();
                    start.extend(fields.bytes.chunks_exact(8).take(rank).filter_map(uint));
                    self.add(&mut chunks, &start, child, u64::from(bytes), mask)
                })?;
                Ok(Vec::new())
            }
            Some(ChunkIndexing::SingleChunk { filtered_size, filters }) => {
                self.add(&mut chunks, &vec![0; rank], address, filtered_size, filters)?;
                Ok(Vec::new())
            }
            Some(ChunkIndexing::Implicit) => {
                self.implicit(&mut chunks, address, &count(largest))?;
                Ok(Vec::new())
            }
            Some(ChunkIndexing::FixedArray { .. }) => {
                fixed_array::collect_fixed_array_chunk_entries_storage(walk, address, offset_size, length_size, largest, &dims, None)
            }
            Some(ChunkIndexing::ExtensibleArray { .. }) => {
                let largest = self.space.max_dims.as_deref();
                extensible_array::collect_extensible_array_chunk_entries_storage(
                    walk,
                    address,
                    offset_size,
                    length_size,
                    self.shape,
                    largest,
                    &dims,
                    None,
                )
            }
            Some(ChunkIndexing::BTreeV2) => {
                let rank = u32::try_from(rank).unwrap_or(u32::MAX);
                chunk_index::collect_v2_chunk_entries_storage(walk, address, offset_size, length_size, rank, &dims, None)
            }
        };
        for entry in entries.map_err(|error| walk.translate(error))? {
            self.add(&mut chunks, &entry.offsets, entry.address, entry.size, entry.filter_mask)?;
        }
        self.check(chunks)
    }

    /// Chunks one after the other, without filters and all of them written.
    fn implicit(&self, chunks: &mut Chunks, address: u64, numbers: &[u64]) -> Result<()> {
        let decoded = u64::from(chunks.decoded);
        if chunks.grid_len() > self.walk.file.len / decoded.max(1) {
            return Err(self.walk.error(ErrorKind::Truncated, "more chunks than the file can hold"));
        }
        for index in 0..chunks.grid_len() {
            let start = chunks.start(index);
            let scaled = start.iter().zip(&chunks.shape).map(|(start, chunk)| start / chunk);
            let number = scaled.zip(numbers).try_fold(0_u64, |number, (scaled, count)| number.checked_mul(*count)?.checked_add(scaled));
            let place = number.and_then(|number| number.checked_mul(decoded)).and_then(|offset| address.checked_add(offset));
            let place = place.ok_or_else(|| self.walk.format("a chunk at no address"))?;
            self.add(chunks, &start, place, decoded, 0)?;
        }
        Ok(())
    }

    /// Adds a chunk as its index has it.
    fn add(&self, chunks: &mut Chunks, start: &[u64], address: u64, bytes: u64, mask: u32) -> Result<()> {
        let walk = self.walk;
        if start.len() != self.shape.len() || start.iter().zip(&chunks.shape).any(|(start, chunk)| start % chunk != 0) {
            return Err(walk.format(format_args!("a chunk at {start:?}, which is not on the grid")));
        }
        // Chunks outside the shape are left over from before it shrank.
        if walk.file.is_undefined(address) || start.iter().zip(self.shape).any(|(start, extent)| start >= extent) {
            return Ok(());
        }
        let decoded = u64::from(chunks.decoded);
        let (bytes, mask) = if self.filtered {
            let edge = start.iter().zip(&chunks.shape).zip(self.shape).any(|((start, chunk), extent)| start + chunk > *extent);
            (bytes, if self.plain_edges && edge { u32::MAX } else { mask })
        } else {
            (if bytes == 0 { decoded } else { bytes }, 0)
        };
        if !self.filtered && bytes != decoded || bytes == 0 {
            return Err(walk.format(format_args!("the chunk at {start:?} has {bytes} bytes")).expecting(format!("{decoded}")));
        }
        if address.checked_add(bytes).is_none_or(|end| end > walk.file.len) {
            chunks.beyond += 1;
            return Ok(());
        }
        let bytes = u32::try_from(bytes).map_err(|_| walk.unsupported("chunks of 4 GiB and more"))?;
        let scaled = start.iter().zip(&chunks.shape).map(|(start, chunk)| start / chunk);
        let index = scaled.zip(&chunks.grid).fold(0, |index, (scaled, count)| index * count + scaled);
        chunks.list.push(Chunk { index, address: walk.file.base + address, bytes, mask });
        Ok(())
    }

    fn check(&self, mut chunks: Chunks) -> Result<Chunks> {
        let walk = self.walk;
        let before = |pair: &[Chunk]| matches!(pair, [a, b] if a.index < b.index);
        if !chunks.list.windows(2).all(before) {
            chunks.list.sort_unstable_by_key(|chunk| chunk.index);
        }
        if !chunks.list.windows(2).all(before) {
            return Err(walk.format("two chunks for the same elements"));
        }
        let total = chunks.list.iter().fold(0_u64, |total, chunk| total.saturating_add(u64::from(chunk.bytes)));
        if total > walk.file.len {
            return Err(walk.format("its chunks are larger than the file").expecting(format!("{} bytes at most", walk.file.len)));
        }
        chunks.list.shrink_to_fit();
        Ok(chunks)
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
            let kind = target.and_then(|address| walk.header(address).ok()).map_or(Kind::Other, |messages| Walk::kind_of(&messages));
            Entry { name: link.name.clone(), kind }
        });
        Ok(entries.collect())
    }

    fn dataset(&self, path: &str) -> Result<Dataset> {
        self.walk(path, 4).dataset()
    }

    fn attributes(&self, path: &str) -> Result<Vec<(String, Value)>> {
        self.walk(path, 64).attributes()
    }

    fn read_vlen(&self, dataset: &Dataset, elements: Range<u64>, limit: usize) -> Result<Sequences> {
        self.walk(&dataset.path, 64).read_vlen(dataset, elements, limit)
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

/// The names of a path, last first.
fn components(path: &str) -> Vec<String> {
    path.split('/').rev().filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect()
}

fn shape(space: &DataspaceMessage) -> Vec<u64> {
    match space.dataspace_type {
        DataspaceType::Null => vec![0],
        DataspaceType::Scalar => Vec::new(),
        DataspaceType::Simple => space.dims.clone(),
    }
}

/// The chunk of an element, and its place inside the chunk in elements.
fn place(shape: &[u64], chunk: &[u64], grid: &[u64], mut element: u64) -> (u64, u64) {
    let (mut index, mut inside) = (0_u64, 0_u64);
    let (mut grid_stride, mut chunk_stride) = (1_u64, 1_u64);
    for ((extent, chunk), grid) in shape.iter().zip(chunk).zip(grid).rev() {
        let coordinate = element % (*extent).max(1);
        element /= (*extent).max(1);
        let chunk = (*chunk).max(1);
        index = index.saturating_add((coordinate / chunk).saturating_mul(grid_stride));
        inside = inside.saturating_add((coordinate % chunk).saturating_mul(chunk_stride));
        grid_stride = grid_stride.saturating_mul(*grid);
        chunk_stride = chunk_stride.saturating_mul(chunk);
    }
    (index, inside)
}

fn one_or_all<T>(mut values: Vec<T>, single: bool, one: fn(T) -> Value, all: fn(Vec<T>) -> Value) -> Value {
    match values.pop() {
        Some(value) if single && values.is_empty() => one(value),
        Some(value) => {
            values.push(value);
            all(values)
        }
        None => all(values),
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).trim_end_matches(' ').to_owned()
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

fn decode_float(bytes: &[u8], big_endian: bool) -> Option<f64> {
    let mut bytes = bytes.to_vec();
    if big_endian {
        bytes.reverse();
    }
    match bytes.len() {
        4 => Some(f64::from(f32::from_bits(uint(&bytes)? as u32))),
        8 => Some(f64::from_bits(uint(&bytes)?)),
        _ => None,
    }
}
