//! Byte layouts of the log: MCAP records (<https://mcap.dev/spec>) and the private records of the profile.
//!
//! All integers are little endian. `docs/log-format.md` is the specification.

use crate::mcap::Message;
pub(crate) use crate::mcap::{Fields, MAGIC, PREFIX as ENVELOPE};

/// Profile of the files that this module writes, in the MCAP header.
pub(crate) const PROFILE: &str = "evlib.log";
/// Version of the private records.
pub(crate) const VERSION: u16 = 1;

/// Opcodes of MCAP, and those of the profile.
pub(crate) mod op {
    pub(crate) use crate::mcap::op::{CHANNEL, CHUNK, DATA_END, FOOTER, HEADER, MESSAGE, SCHEMA, STATISTICS};

    /// Who wrote the file: channel, codec, the file's number.
    pub(crate) const SESSION: u8 = 0x80;
    /// In front of each message.
    pub(crate) const HEAD: u8 = 0x81;
    /// Zeros.
    pub(crate) const PADDING: u8 = 0x82;
    /// Places and times of up to [`super::BLOCK`] records.
    pub(crate) const INDEX: u8 = 0x83;
    /// Places and times of the index records.
    pub(crate) const DIRECTORY: u8 = 0x84;
}

/// Fields of a head, without its padding.
pub(crate) const HEAD_LEN: usize = 64;
/// Fields of an MCAP message in front of its data.
pub(crate) const MESSAGE_LEN: usize = Message::HEAD;
/// Bytes of a record beside its payload and padding.
pub(crate) const OVERHEAD: usize = ENVELOPE + HEAD_LEN + ENVELOPE + MESSAGE_LEN;
/// The data of every payload starts at a multiple of this.
pub(crate) const ALIGN: usize = 64;
/// Records of an index record.
pub(crate) const BLOCK: usize = 4096;
/// Bytes of an entry of an index record: offset and time.
pub(crate) const ENTRY: usize = 16;
/// Bytes of an entry of the directory: offset, earliest and latest time.
pub(crate) const BLOCK_ENTRY: usize = 24;
/// Fields of an index record in front of its entries.
pub(crate) const INDEX_LEN: usize = 32;
/// Fields of a directory in front of its entries.
pub(crate) const DIRECTORY_LEN: usize = 48;
/// MCAP's `DataEnd` record.
pub(crate) const DATA_END_LEN: usize = ENVELOPE + 4;
/// MCAP's Footer record.
pub(crate) const FOOTER_LEN: usize = ENVELOPE + 20;
/// Identifier of the one channel of a file.
pub(crate) const CHANNEL_ID: u16 = 1;

const HEAD_MAGIC: [u8; 4] = *b"evrh";
pub(crate) const SESSION_MAGIC: [u8; 8] = *b"evlibLOG";
/// Largest session record that is read.
pub(crate) const SESSION_LIMIT: usize = 1 << 20;
/// Largest padding record that is written.
pub(crate) const PADDING_LIMIT: u64 = 1 << 14;

/// CRC32C (Castagnoli).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The bytes of an array at `offset`, if they are there.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

/// Appends opcode and length of a record, what `content` appends, and puts the length right.
pub(crate) fn push_record(out: &mut Vec<u8>, opcode: u8, content: impl FnOnce(&mut Vec<u8>)) {
    out.push(opcode);
    let length = out.len();
    out.extend_from_slice(&[0; 8]);
    content(out);
    let len = (out.len() - length - 8) as u64;
    if let Some(place) = out.get_mut(length..length + 8) {
        place.copy_from_slice(&len.to_le_bytes());
    }
}

/// Appends a text or bytes with its length in front, as MCAP has it.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

/// Appends a padding record, so that `out`, which starts at `position`, ends at a multiple of `align`.
pub(crate) fn push_padding(out: &mut Vec<u8>, position: u64, align: u64) {
    let mut fill = (position + out.len() as u64).next_multiple_of(align) - (position + out.len() as u64);
    if fill == 0 {
        return;
    }
    while fill < ENVELOPE as u64 {
        fill += align;
    }
    push_record(out, op::PADDING, |out| out.resize(out.len() + fill as usize - ENVELOPE, 0));
}

/// What stands in front of each message: what MCAP lacks, and checks of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Number of the file that this is a part of.
    pub(crate) session: u64,
    /// Where in the file it stands.
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    pub(crate) log_time_ns: u64,
    pub(crate) sensor_time_ns: u64,
    pub(crate) payload_len: u64,
    pub(crate) payload_crc: u32,
    /// Place in the payload that stands at a multiple of [`ALIGN`] in the file.
    pub(crate) data_offset: u32,
}

impl Head {
    /// Zeros between the fields and the message.
    pub(crate) fn padding(&self) -> u64 {
        padding(self.offset, self.data_offset)
    }

    /// Where the payload starts.
    pub(crate) fn payload_offset(&self) -> u64 {
        self.offset + OVERHEAD as u64 + self.padding()
    }

    /// The byte after the payload.
    pub(crate) fn end(&self) -> u64 {
        self.payload_offset() + self.payload_len
    }

    /// Writes head and message, up to the payload, over `out`: [`OVERHEAD`] bytes and the padding, which is zero.
    pub(crate) fn write(&self, out: &mut [u8]) {
        let padding = self.padding() as usize;
        let mut fields = [0; HEAD_LEN];
        fields[4..8].copy_from_slice(&HEAD_MAGIC);
        let numbers = [self.session, self.offset, self.sequence, self.log_time_ns, self.sensor_time_ns, self.payload_len];
        for (place, number) in fields[8..56].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        fields[56..60].copy_from_slice(&self.payload_crc.to_le_bytes());
        fields[60..64].copy_from_slice(&self.data_offset.to_le_bytes());
        let crc = crc32c(&fields[4..]);
        fields[..4].copy_from_slice(&crc.to_le_bytes());

        let mut message = [0; ENVELOPE + MESSAGE_LEN];
        message[0] = op::MESSAGE;
        message[1..9].copy_from_slice(&(MESSAGE_LEN as u64 + self.payload_len).to_le_bytes());
        message[9..11].copy_from_slice(&CHANNEL_ID.to_le_bytes());
        message[11..15].copy_from_slice(&(self.sequence as u32).to_le_bytes());
        message[15..23].copy_from_slice(&self.log_time_ns.to_le_bytes());
        message[23..31].copy_from_slice(&self.sensor_time_ns.to_le_bytes());

        let (envelope, rest) = out.split_at_mut(ENVELOPE);
        envelope[0] = op::HEAD;
        envelope[1..].copy_from_slice(&((HEAD_LEN + padding) as u64).to_le_bytes());
        let (head, rest) = rest.split_at_mut(HEAD_LEN);
        head.copy_from_slice(&fields);
        rest[padding..padding + message.len()].copy_from_slice(&message);
    }

    /// The head at `offset` of the file, whose bytes from there on are `bytes`; `None` if there is none.
    ///
    /// Opcode and length of the record are not looked at: the checksum, the file's number and the offset say all.
    pub(crate) fn parse(bytes: &[u8], offset: u64, session: u64) -> Option<Self> {
        let fields: [u8; HEAD_LEN] = array(bytes, ENVELOPE)?;
        let number = |place: usize| u64_at(&fields, place);
        let head = Self {
            session: number(8)?,
            offset: number(16)?,
            sequence: number(24)?,
            log_time_ns: number(32)?,
            sensor_time_ns: number(40)?,
            payload_len: number(48)?,
            payload_crc: u32_at(&fields, 56)?,
            data_offset: u32_at(&fields, 60)?,
        };
        let known = fields[4..8] == HEAD_MAGIC && head.session == session && head.offset == offset;
        let right = known && u32_at(&fields, 0)? == crc32c(&fields[4..]);
        // A file's length fits 63 bits.
        (right && head.payload_len < 1 << 62 && u64::from(head.data_offset) <= head.payload_len).then_some(head)
    }

    /// What the heads of a file have in common, and how many bytes after the record's opcode it stands.
    pub(crate) fn pattern(session: u64) -> ([u8; 12], usize) {
        let mut pattern = [0; 12];
        pattern[..4].copy_from_slice(&HEAD_MAGIC);
        pattern[4..].copy_from_slice(&session.to_le_bytes());
        (pattern, ENVELOPE + 4)
    }
}

/// Zeros between the fields of a head at `offset` and its message, so that byte `data_offset` of the payload stands at
/// a multiple of [`ALIGN`].
pub(crate) fn padding(offset: u64, data_offset: u32) -> u64 {
    let data = offset.wrapping_add(OVERHEAD as u64).wrapping_add(u64::from(data_offset));
    data.wrapping_neg() % ALIGN as u64
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SessionInfo {
    /// Random number of the file, in all of its heads.
    pub(crate) session: u64,
    /// When the file was started.
    pub(crate) created_ns: u64,
    pub(crate) channel: String,
    pub(crate) codec: String,
    pub(crate) codec_version: u32,
    /// What the codec wants to know when it reads.
    pub(crate) metadata: Vec<(String, String)>,
}

impl SessionInfo {
    /// Appends the session record.
    pub(crate) fn push(&self, out: &mut Vec<u8>) {
        push_record(out, op::SESSION, |out| {
            let start = out.len();
            out.extend_from_slice(&SESSION_MAGIC);
            out.extend_from_slice(&[0; 8]); // checksum and length of the fields after them
            out.extend_from_slice(&VERSION.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&self.codec_version.to_le_bytes());
            out.extend_from_slice(&self.session.to_le_bytes());
            out.extend_from_slice(&self.created_ns.to_le_bytes());
            push_text(out, self.channel.as_bytes());
            push_text(out, self.codec.as_bytes());
            out.extend_from_slice(&(self.metadata.len() as u32).to_le_bytes());
            for (key, value) in &self.metadata {
                push_text(out, key.as_bytes());
                push_text(out, value.as_bytes());
            }
            let fields = start + 16;
            let len = (out.len() - fields) as u32;
            let mut check = len.to_le_bytes().to_vec();
            check.extend_from_slice(&out[fields..]);
            let crc = crc32c(&check);
            out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
            out[start + 12..start + 16].copy_from_slice(&len.to_le_bytes());
        });
    }

    /// The session whose magic bytes `bytes` starts with, and the bytes from there to its end.
    ///
    /// # Errors
    /// The version of a session that is whole, but too new.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, u16> {
        let Some((info, version, len)) = Self::fields(bytes) else { return Ok(None) };
        if version == VERSION { Ok(Some((info, len))) } else { Err(version) }
    }

    fn fields(bytes: &[u8]) -> Option<(Self, u16, usize)> {
        if array(bytes, 0)? != SESSION_MAGIC {
            return None;
        }
        let len = u32_at(bytes, 12).map(|len| len as usize).filter(|len| *len <= SESSION_LIMIT)?;
        let checked = bytes.get(12..16_usize.checked_add(len)?)?;
        if u32_at(bytes, 8)? != crc32c(checked) {
            return None;
        }
        let mut fields = Fields(checked.get(4..)?);
        let version = fields.u16()?;
        fields.u16()?;
        let codec_version = fields.u32()?;
        let (session, created_ns) = (fields.u64()?, fields.u64()?);
        if version != VERSION {
            return Some((Self { session, created_ns, ..Self::default() }, version, 16 + len));
        }
        let (channel, codec) = (fields.text()?.into_owned(), fields.text()?.into_owned());
        let count = fields.u32()?;
        let mut metadata = Vec::new();
        for _ in 0..count {
            metadata.push((fields.text()?.into_owned(), fields.text()?.into_owned()));
        }
        Some((Self { session, created_ns, channel, codec, codec_version, metadata }, version, 16 + len))
    }
}

/// Appends an index record that stands at `offset`: entries of offset and time.
pub(crate) fn push_index(out: &mut Vec<u8>, session: u64, offset: u64, first: u64, entries: &[(u64, u64)]) {
    push_record(out, op::INDEX, |out| {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        for number in [session, offset, first] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (offset, time) in entries {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&time.to_le_bytes());
        }
        let crc = crc32c(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    });
}

/// Bytes of the index record at `offset`, from whose opcode on the file's bytes are `bytes`, by its fields alone: its
/// checksum is not looked at.
pub(crate) fn index_len(bytes: &[u8], session: u64, offset: u64) -> Option<usize> {
    let len = (u32_at(bytes, ENVELOPE + 4)? as usize).checked_mul(ENTRY)?.checked_add(INDEX_LEN)?;
    is_own(bytes, session, offset, len).then_some(ENVELOPE + len)
}

/// The same of a directory.
pub(crate) fn directory_len(bytes: &[u8], session: u64, offset: u64) -> Option<usize> {
    let len = (u32_at(bytes, ENVELOPE + 4)? as usize).checked_mul(BLOCK_ENTRY)?.checked_add(DIRECTORY_LEN + 8)?;
    is_own(bytes, session, offset, len).then_some(ENVELOPE + len)
}

/// Whether a record says that it has so many bytes, belongs to this file and stands here.
fn is_own(bytes: &[u8], session: u64, offset: u64, len: usize) -> bool {
    let numbers = [1, ENVELOPE + 8, ENVELOPE + 16].map(|place| u64_at(bytes, place));
    numbers == [len as u64, session, offset].map(Some)
}

/// The entries of the index record at `offset`, whose bytes from there on are `bytes`: they start with record `first`.
pub(crate) fn parse_index(bytes: &[u8], session: u64, offset: u64, first: u64) -> Option<&[u8]> {
    let count = u32_at(bytes, ENVELOPE + 4)? as usize;
    let content = bytes.get(ENVELOPE..ENVELOPE + INDEX_LEN + count.checked_mul(ENTRY)?)?;
    let numbers = [u64_at(content, 8)?, u64_at(content, 16)?, u64_at(content, 24)?];
    let right = numbers == [session, offset, first] && u32_at(content, 0)? == crc32c(content.get(4..)?);
    if right { content.get(INDEX_LEN..) } else { None }
}

/// What the directory says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) records: u64,
    /// Whether no time is earlier than one before it.
    pub(crate) ordered: bool,
    /// Offset, earliest and latest time of each index record.
    pub(crate) blocks: Vec<(u64, u64, u64)>,
}

impl Directory {
    /// Appends the directory record, which stands at `offset`.
    pub(crate) fn push(&self, out: &mut Vec<u8>, session: u64, offset: u64) {
        push_record(out, op::DIRECTORY, |out| {
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
            for number in [session, offset, self.records, u64::from(self.ordered), 0] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for (offset, first, last) in &self.blocks {
                for number in [offset, first, last] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            // Last, so that it is found from the end of the data.
            out.extend_from_slice(&offset.to_le_bytes());
            let crc = crc32c(&out[start + 4..]);
            out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        });
    }

    /// The directory that ends at byte `end` of `file`, in front of the `DataEnd` record.
    pub(crate) fn parse(file: &[u8], end: usize, session: u64) -> Option<Self> {
        let offset = usize::try_from(u64_at(file, end.checked_sub(8)?)?).ok()?;
        let content = file.get(offset.checked_add(ENVELOPE)?..end)?;
        let count = u32_at(content, 4)? as usize;
        let len = count.checked_mul(BLOCK_ENTRY)?.checked_add(DIRECTORY_LEN + 8)?;
        let right = content.len() == len && u64_at(content, 8)? == session && u64_at(content, 16)? == offset as u64;
        if !right || u32_at(content, 0)? != crc32c(content.get(4..)?) {
            return None;
        }
        let entries = content.get(DIRECTORY_LEN..len - 8)?.chunks_exact(BLOCK_ENTRY);
        let blocks = entries.map(|entry| Some((u64_at(entry, 0)?, u64_at(entry, 8)?, u64_at(entry, 16)?)));
        Some(Self { records: u64_at(content, 24)?, ordered: u64_at(content, 32)? == 1, blocks: blocks.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            session: 7,
            offset: 1003,
            sequence: 5,
            log_time_ns: 11,
            sensor_time_ns: 12,
            payload_len: 40,
            payload_crc: 0xdead_beef,
            data_offset: 26,
        }
    }

    #[test]
    fn a_head_is_read_back_and_aligns_the_data() {
        for offset in 1000..1128 {
            for data_offset in 0..40 {
                let head = Head { offset, data_offset, ..head() };
                let mut bytes = vec![0; OVERHEAD + head.padding() as usize];
                head.write(&mut bytes);
                assert_eq!(Head::parse(&bytes, offset, 7), Some(head));
                assert_eq!((head.payload_offset() + u64::from(data_offset)) % 64, 0);
                assert_eq!(head.payload_offset(), offset + bytes.len() as u64);
                let len = u64_at(&bytes, 1).unwrap();
                assert_eq!(len, 64 + head.padding());
                assert_eq!(bytes[9 + len as usize], op::MESSAGE);
            }
        }
    }

    #[test]
    fn a_head_of_another_file_or_place_is_none() {
        let head = head();
        let mut bytes = vec![0; OVERHEAD + head.padding() as usize];
        head.write(&mut bytes);
        assert_eq!(Head::parse(&bytes, 1003, 8), None);
        assert_eq!(Head::parse(&bytes, 1002, 7), None);
        for bit in 0..HEAD_LEN * 8 {
            let mut bytes = bytes.clone();
            bytes[ENVELOPE + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::parse(&bytes, 1003, 7), None, "bit {bit}");
        }
    }

    #[test]
    fn sessions_and_directories_are_read_back() {
        let info = SessionInfo {
            session: 9,
            created_ns: 3,
            channel: "a/b\0ü".into(),
            codec: "numpy".into(),
            codec_version: 2,
            metadata: vec![("k".into(), "v".into())],
        };
        let mut bytes = Vec::new();
        info.push(&mut bytes);
        assert_eq!(SessionInfo::parse(&bytes[ENVELOPE..]), Ok(Some((info, bytes.len() - ENVELOPE))));
        for bit in 64..(bytes.len() - ENVELOPE) * 8 {
            let mut bytes = bytes.clone();
            bytes[ENVELOPE + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SessionInfo::parse(&bytes[ENVELOPE..]), Ok(None), "bit {bit}");
        }

        let directory = Directory { records: 3, ordered: true, blocks: vec![(10, 1, 2), (20, 3, 4)] };
        let mut bytes = vec![0; 100];
        directory.push(&mut bytes, 9, 100);
        assert_eq!(Directory::parse(&bytes, bytes.len(), 9), Some(directory));
        assert_eq!(Directory::parse(&bytes, bytes.len(), 8), None);

        let mut bytes = Vec::new();
        push_index(&mut bytes, 9, 77, 4096, &[(1, 2), (3, 4)]);
        assert_eq!(parse_index(&bytes, 9, 77, 4096).unwrap().len(), 32);
        assert_eq!(parse_index(&bytes, 9, 77, 0), None);
    }

    #[test]
    fn padding_ends_at_a_multiple() {
        for len in 0..200_usize {
            let mut out = vec![1; len];
            push_padding(&mut out, 3, 64);
            assert_eq!((out.len() + 3) % 64, 0);
            assert!(out.len() == len || out.len() >= len + ENVELOPE);
        }
    }
}
