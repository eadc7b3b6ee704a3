//! The container: a new HDF5 file that grows from its start to its end, its superblock last.
//!
//! Superblock 2, object headers 2, compact links, layout 3 with chunk indices as version 1 B-trees: what HDF5 1.8 and
//! everything after it reads ("HDF5 File Format Specification Version 3.0", The HDF Group; sections are named below).

use crate::error::{Error, Result};
use crate::write::Partial;

/// "Undefined address".
const UNDEFINED: u64 = u64::MAX;
/// Bytes of the superblock: II.A, version 2.
const SUPERBLOCK: usize = 48;
/// Version, and bytes of offsets and of lengths.
const VERSION: [u8; 3] = [2, 8, 8];
/// Children of a node of a chunk index: twice the K of files that do not set it. III.A.1.
const CHILDREN: u64 = 64;
/// Bytes of a node: header, children, and a key before, between and after them.
const NODE: u64 = 24 + CHILDREN * 8 + (CHILDREN + 1) * KEY;
/// Bytes of a key of a data set of one dimension: size, mask, and offsets of the row and of the byte in an element.
const KEY: u64 = 24;
/// Least bytes of a global heap collection: III.E.
const COLLECTION: usize = 4096;
/// Bytes of index nodes that are written at a time.
const BUFFER: usize = 1 << 20;

/// A file being written.
pub(super) struct File {
    partial: Partial,
    end: u64,
}

impl File {
    /// Starts a file; zeros stand where its signature will.
    pub(super) fn new(partial: Partial) -> Result<Self> {
        let mut file = Self { partial, end: 0 };
        file.append(&[0; SUPERBLOCK])?;
        Ok(file)
    }

    pub(super) fn partial(&self) -> &Partial {
        &self.partial
    }

    /// Writes bytes and gives their address.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let address = self.end;
        self.partial.write_all(bytes)?;
        self.end += bytes.len() as u64;
        Ok(address)
    }

    /// Writes what metadata starts with an address of eight: the library keeps to that, and some readers look for it.
    fn append_aligned(&mut self, bytes: &[u8]) -> Result<u64> {
        let gap = self.end.next_multiple_of(8) - self.end;
        self.append(&[0; 8][..gap as usize])?;
        self.append(bytes)
    }

    /// Writes a chunk of a data set: its next one.
    pub(super) fn append_chunk(&mut self, chunks: &mut Chunks, bytes: &[u8]) -> Result<()> {
        let len = u32::try_from(bytes.len()).map_err(|_| Error::invalid("a chunk of 4 GiB or more cannot be stored"))?;
        let address = self.append(bytes)?;
        chunks.addresses.push(address);
        chunks.lens.push(len);
        Ok(())
    }

    /// Writes a group and gives its address.
    pub(super) fn group(&mut self, members: &[(&str, u64)], attributes: &[Attribute]) -> Result<u64> {
        let mut messages = vec![link_info(), Message::new(0x0A, [0, 0])];
        messages.extend(members.iter().map(|(name, address)| link(name, *address)));
        self.object(messages, attributes)
    }

    /// Writes the description of a data set whose chunks are written, with `rows` rows and room for more.
    pub(super) fn dataset(
        &mut self,
        rows: u64,
        dtype: &Dtype,
        filters: &[Filter<'_>],
        chunks: &Chunks,
        attributes: &[Attribute],
    ) -> Result<u64> {
        let index = self.index(chunks)?;
        let element = u32::try_from(dtype.bytes()).unwrap_or(u32::MAX);
        // IV.A.2.i: layout 3, chunked, one dimension and that of the bytes of an element.
        let mut layout = vec![3, 2, 2];
        layout.extend(index.to_le_bytes());
        layout.extend((chunks.rows as u32).to_le_bytes());
        layout.extend(element.to_le_bytes());
        let mut messages =
            vec![extent(rows), Message::new(0x03, dtype.encode()), fill(Allocation::Incremental), Message::new(0x08, layout)];
        if !filters.is_empty() {
            messages.push(pipeline(filters));
        }
        self.object(messages, attributes)
    }

    /// Writes a single value and gives its address.
    pub(super) fn scalar(&mut self, dtype: &Dtype, value: &[u8]) -> Result<u64> {
        // Layout 3, compact.
        let mut layout = vec![3, 0];
        layout.extend((value.len() as u16).to_le_bytes());
        layout.extend(value);
        let messages =
            vec![Message::new(0x01, SCALAR), Message::new(0x03, dtype.encode()), fill(Allocation::Early), Message::new(0x08, layout)];
        self.object(messages, &[])
    }

    /// Writes an object header: IV.A.1.b.
    fn object(&mut self, mut messages: Vec<Message>, attributes: &[Attribute]) -> Result<u64> {
        if !attributes.is_empty() {
            // IV.A.2.v: attribute info, without the indices of many attributes.
            let mut info = vec![0, 0];
            info.extend([0xFF; 16]);
            messages.push(Message::new(0x15, info));
            let heap = self.heap(attributes)?;
            messages.extend(attributes.iter().enumerate().map(|(at, attribute)| attribute.message(heap, at)));
        }
        let mut body = Vec::new();
        for message in messages {
            body.push(message.kind);
            let len = u16::try_from(message.body.len()).map_err(|_| Error::invalid("an attribute of 64 KiB or more cannot be stored"))?;
            body.extend(len.to_le_bytes());
            body.push(0);
            body.extend(message.body);
        }
        // Flags: the length of the messages has four bytes.
        let mut header = b"OHDR\x02\x02".to_vec();
        header.extend((body.len() as u32).to_le_bytes());
        header.extend(body);
        header.extend(lookup3(&header).to_le_bytes());
        self.append_aligned(&header)
    }

    /// Writes the texts of attributes as a global heap collection: III.E. Object `i + 1` is the text of attribute `i`.
    fn heap(&mut self, attributes: &[Attribute]) -> Result<u64> {
        let texts = || attributes.iter().enumerate().filter_map(|(at, attribute)| attribute.value.text().map(|text| (at, text)));
        if texts().next().is_none() {
            return Ok(UNDEFINED);
        }
        let used: usize = 16 + texts().map(|(_, text)| 16 + text.len().next_multiple_of(8)).sum::<usize>();
        // Free space is an object too: room for its header.
        let size = (used + 16).max(COLLECTION);
        let mut heap = b"GCOL\x01\0\0\0".to_vec();
        heap.extend((size as u64).to_le_bytes());
        for (at, text) in texts() {
            heap.extend((at as u16 + 1).to_le_bytes());
            heap.extend([0; 6]);
            heap.extend((text.len() as u64).to_le_bytes());
            heap.extend(text.as_bytes());
            heap.resize(heap.len().next_multiple_of(8), 0);
        }
        heap.extend([0; 8]);
        heap.extend(((size - used) as u64).to_le_bytes());
        heap.resize(size, 0);
        self.append_aligned(&heap)
    }

    /// Writes the index of chunks, a B-tree with all nodes but the last of each level full: III.A.1. Nodes of a level
    /// stand one behind the other, so addresses are known without being kept.
    fn index(&mut self, chunks: &Chunks) -> Result<u64> {
        let count = chunks.addresses.len() as u64;
        let key = |chunk: u64, out: &mut Vec<u8>| {
            let len = usize::try_from(chunk).ok().and_then(|chunk| chunks.lens.get(chunk)).copied().unwrap_or(0);
            out.extend(len.to_le_bytes());
            out.extend([0; 4]);
            out.extend((chunk * chunks.rows as u64).to_le_bytes());
            out.extend([0; 8]);
        };
        if count == 0 {
            return Ok(UNDEFINED);
        }
        let (mut level, mut children, mut below, mut span) = (0_u8, count, None, 1);
        loop {
            let nodes = children.div_ceil(CHILDREN);
            self.append_aligned(&[])?;
            let start = self.end;
            let mut out = Vec::new();
            for node in 0..nodes {
                let own = node * CHILDREN..children.min((node + 1) * CHILDREN);
                out.extend(b"TREE\x01");
                out.push(level);
                out.extend(((own.end - own.start) as u16).to_le_bytes());
                out.extend(if node == 0 { UNDEFINED } else { start + (node - 1) * NODE }.to_le_bytes());
                out.extend(if node + 1 == nodes { UNDEFINED } else { start + (node + 1) * NODE }.to_le_bytes());
                for child in own.clone() {
                    key(child * span, &mut out);
                    let address = match below {
                        Some(below) => below + child * NODE,
                        None => chunks.addresses.get(child as usize).copied().unwrap_or(UNDEFINED),
                    };
                    out.extend(address.to_le_bytes());
                }
                key(count.min(own.end * span), &mut out);
                // Nodes have the room of full ones.
                let missing = CHILDREN - (own.end - own.start);
                out.resize(out.len() + (missing * (8 + KEY)) as usize, 0);
                if out.len() >= BUFFER || node + 1 == nodes {
                    self.append(&out)?;
                    out.clear();
                }
            }
            if nodes == 1 {
                return Ok(start);
            }
            (level, children, below, span) = (level + 1, nodes, Some(start), span * CHILDREN);
        }
    }

    /// Writes the superblock over the zeros: II.A.
    pub(super) fn finish(mut self, root: u64) -> Result<Partial> {
        let mut superblock = b"\x89HDF\r\n\x1a\n".to_vec();
        superblock.extend(VERSION);
        superblock.push(0);
        for address in [0, UNDEFINED, self.end, root] {
            superblock.extend(address.to_le_bytes());
        }
        superblock.extend(lookup3(&superblock).to_le_bytes());
        self.partial.write_over_start(&superblock)?;
        Ok(self.partial)
    }
}

/// Where the chunks of a data set of one dimension lie.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Rows of a chunk.
    pub(super) rows: usize,
    addresses: Vec<u64>,
    lens: Vec<u32>,
}

impl Chunks {
    pub(super) fn new(rows: usize) -> Self {
        Self { rows, addresses: Vec::new(), lens: Vec::new() }
    }

    /// Address and length of each, in order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (u64, u32)> + '_ {
        self.addresses.iter().copied().zip(self.lens.iter().copied())
    }
}

/// Type of elements, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dtype {
    Integer {
        bytes: u8,
        signed: bool,
    },
    /// Records of this size; members with their name and offset.
    Compound(usize, Vec<(&'static str, usize, Dtype)>),
}

impl Dtype {
    pub(super) const U8: Self = Self::unsigned(1);
    pub(super) const U16: Self = Self::unsigned(2);
    pub(super) const U32: Self = Self::unsigned(4);
    pub(super) const U64: Self = Self::unsigned(8);
    pub(super) const I16: Self = Self::signed(2);
    pub(super) const I64: Self = Self::signed(8);

    const fn unsigned(bytes: u8) -> Self {
        Self::Integer { bytes, signed: false }
    }

    const fn signed(bytes: u8) -> Self {
        Self::Integer { bytes, signed: true }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Integer { bytes, .. } => usize::from(*bytes),
            Self::Compound(bytes, _) => *bytes,
        }
    }

    /// IV.A.2.d, version 1.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Integer { bytes, signed } => {
                out.extend([0x10, u8::from(*signed) << 3, 0, 0, *bytes, 0, 0, 0]);
                out.extend([0, 0, 8 * bytes, 0]);
            }
            Self::Compound(size, members) => {
                out.extend([0x16, members.len() as u8, 0, 0]);
                out.extend((*size as u32).to_le_bytes());
                for (name, offset, dtype) in members {
                    out.extend(name.as_bytes());
                    let padding = (name.len() + 1).next_multiple_of(8) - name.len();
                    out.resize(out.len() + padding, 0);
                    out.extend((*offset as u32).to_le_bytes());
                    out.extend([0; 28]);
                    out.extend(dtype.encode());
                }
            }
        }
        out
    }
}

/// A filter of a data set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter<'a> {
    pub(super) id: u16,
    pub(super) name: &'a str,
    pub(super) values: &'a [u32],
}

/// An attribute with a single value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attribute {
    name: &'static str,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Integer(i64),
    Text(String),
}

impl Value {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Integer(_) => None,
            Self::Text(text) => Some(text),
        }
    }
}

impl Attribute {
    pub(super) fn integer(name: &'static str, value: i64) -> Self {
        Self { name, value: Value::Integer(value) }
    }

    /// A text of variable length.
    pub(super) fn text(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: Value::Text(value.into()) }
    }

    /// IV.A.2.m, version 3; the text is object `at + 1` of the collection at `heap`.
    fn message(&self, heap: u64, at: usize) -> Message {
        let (dtype, value) = match &self.value {
            Value::Integer(value) => (Dtype::I64.encode(), value.to_le_bytes().to_vec()),
            Value::Text(text) => {
                // Variable-length text in UTF-8 that ends at a zero, of bytes; 16 bytes refer to it.
                let mut dtype = vec![0x19, 0x01, 0x01, 0, 16, 0, 0, 0];
                dtype.extend(Dtype::U8.encode());
                let mut value = (text.len() as u32).to_le_bytes().to_vec();
                value.extend(heap.to_le_bytes());
                value.extend((at as u32 + 1).to_le_bytes());
                (dtype, value)
            }
        };
        let mut body = vec![3, 0];
        for len in [self.name.len() + 1, dtype.len(), SCALAR.len()] {
            body.extend((len as u16).to_le_bytes());
        }
        // Names are ASCII.
        body.push(0);
        body.extend(self.name.as_bytes());
        body.push(0);
        body.extend(dtype);
        body.extend(SCALAR);
        body.extend(value);
        Message::new(0x0C, body)
    }
}

/// A header message: IV.A.2.
struct Message {
    kind: u8,
    body: Vec<u8>,
}

impl Message {
    fn new(kind: u8, body: impl Into<Vec<u8>>) -> Self {
        Self { kind, body: body.into() }
    }
}

/// The dataspace of a single value: IV.A.2.b, version 2.
const SCALAR: [u8; 4] = [2, 0, 0, 0];

/// The dataspace of `rows` rows that may become more.
fn extent(rows: u64) -> Message {
    let mut body = vec![2, 1, 1, 1];
    body.extend(rows.to_le_bytes());
    body.extend(u64::MAX.to_le_bytes());
    Message::new(0x01, body)
}

/// When space is allocated.
#[derive(Clone, Copy)]
enum Allocation {
    Early = 1,
    Incremental = 3,
}

/// The fill value, zero, written if it is set: IV.A.2.f, version 3.
fn fill(allocation: Allocation) -> Message {
    Message::new(0x05, [3, allocation as u8 | 2 << 2])
}

/// Links in the header and not in a heap: IV.A.2.c.
fn link_info() -> Message {
    let mut body = vec![0, 0];
    body.extend([0xFF; 16]);
    Message::new(0x02, body)
}

/// A hard link: IV.A.2.g.
fn link(name: &str, address: u64) -> Message {
    let mut body = vec![1, 0, name.len() as u8];
    body.extend(name.as_bytes());
    body.extend(address.to_le_bytes());
    Message::new(0x06, body)
}

/// The filters, all optional: IV.A.2.l, version 2.
fn pipeline(filters: &[Filter<'_>]) -> Message {
    let mut body = vec![2, filters.len() as u8];
    for filter in filters {
        body.extend(filter.id.to_le_bytes());
        let named = filter.id >= 256;
        // With the zero that ends it; no name has no zero.
        let name = if filter.name.is_empty() { 0 } else { filter.name.len() + 1 };
        if named {
            body.extend((name as u16).to_le_bytes());
        }
        body.extend(1_u16.to_le_bytes());
        body.extend((filter.values.len() as u16).to_le_bytes());
        if named && name > 0 {
            body.extend(filter.name.as_bytes());
            body.push(0);
        }
        body.extend(filter.values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Message::new(0x0B, body)
}

/// Bob Jenkins' hash of 2006 (<http://burtleburtle.net/bob/c/lookup3.c>, `hashlittle`), from 0.
fn lookup3(bytes: &[u8]) -> u32 {
    fn words(block: &[u8]) -> [u32; 3] {
        let mut padded = [0; 12];
        padded[..block.len()].copy_from_slice(block);
        [0, 4, 8].map(|at| u32::from_le_bytes([padded[at], padded[at + 1], padded[at + 2], padded[at + 3]]))
    }
    let start = 0xDEAD_BEEF_u32.wrapping_add(bytes.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = bytes;
    while rest.len() > 12 {
        let (block, later) = rest.split_at(12);
        let [x, y, z] = words(block);
        (a, b, c) = (a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z));
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        rest = later;
    }
    if rest.is_empty() {
        return c;
    }
    let [x, y, z] = words(rest);
    (a, b, c) = (a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::{CHILDREN, Chunks, Dtype, File, NODE, UNDEFINED, lookup3};
    use crate::write::Partial;

    #[test]
    fn checksums_are_those_of_the_author() {
        // From the driver of lookup3.c.
        assert_eq!(lookup3(b""), 0xDEAD_BEEF);
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }

    #[test]
    fn types() {
        assert_eq!(Dtype::I64.encode(), [0x10, 8, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0]);
        let record = Dtype::Compound(4, vec![("a", 0, Dtype::U16), ("longname", 2, Dtype::U16)]).encode();
        assert_eq!(&record[..12], &[0x16, 2, 0, 0, 4, 0, 0, 0, b'a', 0, 0, 0]);
        // Names have room for the zero that ends them, in eights.
        assert_eq!(record.len(), 8 + (8 + 32 + 12) + (16 + 32 + 12));
        assert_eq!(&record[60..84], b"longname\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    }

    fn int(bytes: &[u8], at: u64, len: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..len].copy_from_slice(&bytes[at as usize..][..len]);
        u64::from_le_bytes(wide)
    }

    /// The chunks below a node: row, length and address; checks the node.
    fn walk(bytes: &[u8], node: u64, level: u64, rows: u64, found: &mut Vec<(u64, u64, u64)>) {
        assert_eq!(&bytes[node as usize..][..5], b"TREE\x01");
        assert_eq!(int(bytes, node + 5, 1), level);
        let used = int(bytes, node + 6, 2);
        assert!((1..=CHILDREN).contains(&used));
        for child in 0..used {
            let key = node + 24 + child * 32;
            let (len, row, address) = (int(bytes, key, 4), int(bytes, key + 8, 8), int(bytes, key + 24, 8));
            assert_eq!([int(bytes, key + 4, 4), int(bytes, key + 16, 8)], [0, 0]);
            if level == 0 {
                found.push((row, len, address));
            } else {
                let first = found.len();
                walk(bytes, address, level - 1, rows, found);
                assert_eq!(found[first].0, row, "the key of a child is its first");
            }
            let end = found.last().unwrap().0 + rows;
            assert_eq!(int(bytes, key + 32 + 8, 8), end, "the next key is where the child ends");
        }
    }

    #[test]
    fn indices_of_any_number_of_chunks() {
        let path = std::env::temp_dir().join(format!("evlib-index-{}.h5", std::process::id()));
        for (count, levels) in [(0, 0), (1, 1), (64, 1), (65, 2), (4096, 2), (4097, 3), (300_000, 4)] {
            let mut file = File::new(Partial::new(&path).unwrap()).unwrap();
            let chunks = Chunks { rows: 1 << 16, addresses: (0..count).map(|at| at * 7).collect(), lens: (0..count as u32).collect() };
            let root = file.index(&chunks).unwrap();
            let bytes = std::fs::read(file.partial().place()).unwrap();
            assert_eq!(bytes.len() as u64, file.end);
            if count == 0 {
                assert_eq!(root, UNDEFINED);
                continue;
            }
            assert_eq!(int(&bytes, root + 5, 1) + 1, levels);
            assert_eq!(root % 8, 0);
            let mut found = Vec::new();
            walk(&bytes, root, levels - 1, 1 << 16, &mut found);
            assert!(found.iter().enumerate().all(|(at, chunk)| *chunk == ((at as u64) << 16, at as u64, at as u64 * 7)));
            assert_eq!(found.len() as u64, count);
            // Nodes of a level point to each other.
            let first = bytes.windows(4).position(|word| word == b"TREE").unwrap() as u64;
            if levels > 1 {
                assert_eq!([int(&bytes, first + 8, 8), int(&bytes, first + 16, 8)], [UNDEFINED, first + NODE]);
                assert_eq!(int(&bytes, first + NODE + 8, 8), first);
            }
        }
        assert!(!path.exists());
    }
}
