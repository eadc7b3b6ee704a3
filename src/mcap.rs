//! MCAP records, parsed from bytes without I/O: <https://mcap.dev/spec>, version 0.
//!
//! A file is a magic, records and the magic again; a record is an opcode, the length of its content (u64) and that
//! content. All numbers are little-endian, strings and maps stand after their length (u32). Everything here gives
//! `None` where the bytes end early.

use std::borrow::Cow;

use libdeflater::Crc;

/// At both ends of a file.
pub(crate) const MAGIC: [u8; 8] = *b"\x89MCAP0\r\n";
/// Bytes in front of the content of a record.
pub(crate) const PREFIX: usize = 9;
/// Bytes of the footer with its prefix.
const FOOTER: usize = PREFIX + 20;
/// Bytes at the end of a complete file that say where its summary is.
pub(crate) const TAIL: usize = FOOTER + MAGIC.len();

/// Opcodes of the records that are looked at.
pub(crate) mod op {
    pub(crate) const HEADER: u8 = 0x01;
    pub(crate) const FOOTER: u8 = 0x02;
    pub(crate) const SCHEMA: u8 = 0x03;
    pub(crate) const CHANNEL: u8 = 0x04;
    pub(crate) const MESSAGE: u8 = 0x05;
    pub(crate) const CHUNK: u8 = 0x06;
    pub(crate) const MESSAGE_INDEX: u8 = 0x07;
    pub(crate) const CHUNK_INDEX: u8 = 0x08;
    pub(crate) const STATISTICS: u8 = 0x0B;
    pub(crate) const DATA_END: u8 = 0x0F;
}

/// Reads fields one after the other.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Bytes with their length in front.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.bytes(len as usize)
    }

    /// A text with its length in front.
    pub(crate) fn text(&mut self) -> Option<Cow<'a, str>> {
        self.sized().map(String::from_utf8_lossy)
    }

    /// A time in nanoseconds; those after the year 2262 are that year's.
    fn time(&mut self) -> Option<i64> {
        self.u64().map(|time| i64::try_from(time).unwrap_or(i64::MAX))
    }
}

/// The prefix of a record: opcode and bytes of content.
pub(crate) fn prefix(bytes: &[u8]) -> Option<(u8, u64)> {
    let mut fields = Fields(bytes);
    let opcode = *fields.bytes(1)?.first()?;
    Some((opcode, fields.u64()?))
}

/// A record that is there as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) opcode: u8,
    /// Position of its opcode in the bytes that were given.
    pub(crate) at: usize,
    pub(crate) content: &'a [u8],
}

/// The complete records of `bytes`, which start with one.
#[derive(Debug, Clone)]
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes consumed by the records given so far.
    pub(crate) fn consumed(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let rest = self.bytes.get(self.at..)?;
        let (opcode, len) = prefix(rest)?;
        let content = rest.get(PREFIX..)?.get(..usize::try_from(len).ok()?)?;
        let at = self.at;
        self.at += PREFIX + content.len();
        Some(Record { opcode, at, content })
    }
}

/// The first record of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) profile: String,
    pub(crate) library: String,
}

impl Header {
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut fields = Fields(content);
        Some(Self { profile: fields.text()?.into_owned(), library: fields.text()?.into_owned() })
    }
}

/// The last record of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    /// File offset of the summary; 0 for none.
    pub(crate) summary_start: u64,
    /// Checksum from the start of the summary up to itself; 0 for none.
    pub(crate) summary_crc: u32,
}

impl Footer {
    /// From the last [`TAIL`] bytes of a complete file.
    pub(crate) fn from_tail(tail: &[u8]) -> Option<Self> {
        let (record, magic) = tail.split_at_checked(FOOTER)?;
        if *magic != MAGIC || prefix(record)? != (op::FOOTER, 20) {
            return None;
        }
        let mut fields = Fields(record.get(PREFIX..)?);
        let summary_start = fields.u64()?;
        fields.u64()?;
        Some(Self { summary_start, summary_crc: fields.u32()? })
    }

    /// Whether the checksum holds; `summary` reaches from the summary's start to the end of the file.
    pub(crate) fn holds(self, summary: &[u8]) -> bool {
        let covered = summary.len().checked_sub(MAGIC.len() + 4).and_then(|len| summary.get(..len));
        self.summary_crc == 0 || covered.is_some_and(|covered| crc32(covered) == self.summary_crc)
    }
}

/// How the messages of a schema are defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schema {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) encoding: String,
    pub(crate) data: Vec<u8>,
}

impl Schema {
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut fields = Fields(content);
        Some(Self {
            id: fields.u16()?,
            name: fields.text()?.into_owned(),
            encoding: fields.text()?.into_owned(),
            data: fields.sized()?.to_vec(),
        })
    }
}

/// A topic and how its messages are serialised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Channel {
    pub(crate) id: u16,
    pub(crate) schema: u16,
    pub(crate) topic: String,
    pub(crate) message_encoding: String,
}

impl Channel {
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut fields = Fields(content);
        Some(Self {
            id: fields.u16()?,
            schema: fields.u16()?,
            topic: fields.text()?.into_owned(),
            message_encoding: fields.text()?.into_owned(),
        })
    }
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) channel: u16,
    pub(crate) log_ns: i64,
    pub(crate) data: &'a [u8],
}

impl<'a> Message<'a> {
    /// Bytes in front of the data.
    pub(crate) const HEAD: usize = 22;

    pub(crate) fn parse(content: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(content);
        let channel = fields.u16()?;
        fields.u32()?;
        let log_ns = fields.time()?;
        fields.u64()?;
        Some(Self { channel, log_ns, data: fields.0 })
    }
}

/// A chunk of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    pub(crate) first_ns: i64,
    pub(crate) last_ns: i64,
    /// Bytes of the records once they are decompressed.
    pub(crate) size: u64,
    /// Checksum of those; 0 for none.
    pub(crate) crc: u32,
    pub(crate) compression: String,
    /// The records as stored: as many of their bytes as are there.
    pub(crate) records: &'a [u8],
    /// Bytes of the records as stored.
    pub(crate) stored: u64,
}

impl<'a> Chunk<'a> {
    /// Bytes that hold everything in front of the records.
    pub(crate) const HEAD: usize = 40 + 64;

    /// From the start of its content at least.
    pub(crate) fn parse(content: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(content);
        let (first_ns, last_ns, size, crc) = (fields.time()?, fields.time()?, fields.u64()?, fields.u32()?);
        let compression = fields.text()?.into_owned();
        let stored = fields.u64()?;
        let there = usize::try_from(stored).unwrap_or(usize::MAX).min(fields.0.len());
        Some(Self { first_ns, last_ns, size, crc, compression, records: fields.bytes(there)?, stored })
    }
}

/// The messages of a channel in the chunk before: their number, and the range of their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageIndex {
    pub(crate) channel: u16,
    pub(crate) messages: u64,
}

impl MessageIndex {
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut fields = Fields(content);
        Some(Self { channel: fields.u16()?, messages: (fields.sized()?.len() / 16) as u64 })
    }
}

/// Where a chunk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChunkIndex {
    pub(crate) first_ns: i64,
    pub(crate) last_ns: i64,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Channels with messages in it; none where the chunk is not indexed.
    pub(crate) channels: Vec<u16>,
    pub(crate) compression: String,
    /// Bytes of its records once they are decompressed.
    pub(crate) size: u64,
}

impl ChunkIndex {
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut fields = Fields(content);
        let (first_ns, last_ns, offset, len) = (fields.time()?, fields.time()?, fields.u64()?, fields.u64()?);
        let channels = fields.sized()?.as_chunks::<10>().0.iter().map(|entry| u16::from_le_bytes([entry[0], entry[1]])).collect();
        fields.u64()?;
        let compression = fields.text()?.into_owned();
        fields.u64()?;
        Some(Self { first_ns, last_ns, offset, len, channels, compression, size: fields.u64()? })
    }
}

/// What a summary counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub(crate) messages: u64,
    pub(crate) chunks: u32,
    /// Messages of each channel.
    pub(crate) channels: Vec<(u16, u64)>,
}

impl Statistics {
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut fields = Fields(content);
        let messages = fields.u64()?;
        fields.bytes(2 + 4 + 4 + 4)?;
        let chunks = fields.u32()?;
        fields.bytes(8 + 8)?;
        let counts = fields.sized()?.as_chunks::<10>().0.iter().filter_map(|entry| {
            let mut entry = Fields(entry);
            Some((entry.u16()?, entry.u64()?))
        });
        Some(Self { messages, chunks, channels: counts.collect() })
    }
}

/// CRC-32 as MCAP uses it (that of zlib).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
