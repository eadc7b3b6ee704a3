//! Records of ROS 1 bags, version 2.0, parsed from bytes without I/O: <http://wiki.ros.org/Bags/Format/2.0>.
//!
//! A record is the length of its header (u32), the header, the length of its data (u32) and the data. A header is a
//! list of fields, each `name=value` after its length (u32), the value being raw bytes. All numbers are little-endian.

/// At the start of a file.
pub(crate) const MAGIC: &[u8] = b"#ROSBAG V2.0\n";
/// What every version starts with.
pub(crate) const ANY_MAGIC: &[u8] = b"#ROSBAG V";

/// Values of the field `op`.
pub(crate) mod op {
    pub(crate) const MESSAGE: u8 = 2;
    pub(crate) const BAG_HEADER: u8 = 3;
    pub(crate) const INDEX: u8 = 4;
    pub(crate) const CHUNK: u8 = 5;
    pub(crate) const CHUNK_INFO: u8 = 6;
    pub(crate) const CONNECTION: u8 = 7;
}

/// Most bytes of a header that are taken for one.
pub(crate) const LONGEST_HEADER: usize = 1 << 20;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Seconds and nanoseconds, as u32 each, in nanoseconds.
fn time(bytes: &[u8]) -> Option<i64> {
    Some(i64::from(u32_at(bytes, 0)?) * 1_000_000_000 + i64::from(u32_at(bytes, 4)?))
}

/// The header of a record, or the fields of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header<'a>(&'a [u8]);

impl<'a> Header<'a> {
    /// The value of a field.
    pub(crate) fn get(self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let Some(len) = u32_at(rest, 0) {
            let field = rest.get(4..)?.get(..len as usize)?;
            rest = rest.get(4 + len as usize..)?;
            let split = field.iter().position(|byte| *byte == b'=')?;
            if field.get(..split)? == name.as_bytes() {
                return field.get(split + 1..);
            }
        }
        None
    }

    pub(crate) fn u32(self, name: &str) -> Option<u32> {
        self.get(name)?.try_into().ok().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(self, name: &str) -> Option<u64> {
        self.get(name)?.try_into().ok().map(u64::from_le_bytes)
    }

    pub(crate) fn time(self, name: &str) -> Option<i64> {
        self.get(name).filter(|value| value.len() == 8).and_then(time)
    }

    pub(crate) fn text(self, name: &str) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub(crate) fn op(self) -> Option<u8> {
        match self.get("op")? {
            [op] => Some(*op),
            _ => None,
        }
    }
}

/// A record of which the header is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) op: u8,
    pub(crate) header: Header<'a>,
    /// Position of the data from the start of the record, and its length.
    pub(crate) data_at: usize,
    pub(crate) data_len: u32,
}

impl<'a> Record<'a> {
    /// The record at the start of `bytes`, as far as its data.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let len = u32_at(bytes, 0)? as usize;
        let header = Header(bytes.get(4..)?.get(..len)?);
        Some(Self { op: header.op()?, header, data_at: 8 + len, data_len: u32_at(bytes, 4 + len)? })
    }

    /// Bytes of the header of the record at the start of `bytes`, all four length fields included.
    pub(crate) fn head_len(bytes: &[u8]) -> Option<usize> {
        u32_at(bytes, 0).map(|len| len as usize + 8)
    }

    /// Bytes of the whole record.
    pub(crate) fn len(&self) -> u64 {
        self.data_at as u64 + u64::from(self.data_len)
    }

    /// Its data, if all of it is in `bytes`.
    pub(crate) fn data(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(self.data_at..)?.get(..self.data_len as usize)
    }
}

/// Who publishes what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) id: u32,
    pub(crate) topic: String,
    pub(crate) type_name: String,
    pub(crate) definition: String,
}

impl Connection {
    pub(crate) fn parse(record: &Record<'_>, data: &[u8]) -> Option<Self> {
        let fields = Header(data);
        Some(Self {
            id: record.header.u32("conn")?,
            topic: record.header.text("topic")?,
            type_name: fields.text("type")?,
            definition: fields.text("message_definition").unwrap_or_default(),
        })
    }
}

/// Where a chunk is and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChunkInfo {
    pub(crate) offset: u64,
    pub(crate) first_ns: i64,
    pub(crate) last_ns: i64,
    /// Messages of each connection.
    pub(crate) counts: Vec<(u32, u32)>,
}

impl ChunkInfo {
    pub(crate) fn parse(record: &Record<'_>, data: &[u8]) -> Option<Self> {
        Some(Self {
            offset: record.header.u64("chunk_pos")?,
            first_ns: record.header.time("start_time")?,
            last_ns: record.header.time("end_time")?,
            counts: data.as_chunks::<8>().0.iter().filter_map(|pair| Some((u32_at(pair, 0)?, u32_at(pair, 4)?))).collect(),
        })
    }
}

/// The messages of a connection in the chunk before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) connection: u32,
    pub(crate) messages: u64,
    /// First and last time at which they were recorded.
    pub(crate) range_ns: Option<(i64, i64)>,
}

impl Index {
    pub(crate) fn parse(record: &Record<'_>, data: &[u8]) -> Option<Self> {
        let entries = data.as_chunks::<12>().0;
        let times = entries.iter().filter_map(|entry| time(entry));
        let range_ns = times.map(|time| (time, time)).reduce(|range, time| (range.0.min(time.0), range.1.max(time.1)));
        Some(Self { connection: record.header.u32("conn")?, messages: entries.len() as u64, range_ns })
    }
}
