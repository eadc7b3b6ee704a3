//! Encoder of AEDAT 4.0: one stream of events, in packets that are compressed one by one, and the table of them.
//!
//! Flatbuffers are laid out by hand, as the reference library lays them out: scalars of 8 bytes are aligned from the
//! start of the length prefix.

use crate::schema::Geometry;
use crate::write::{Compression, Encoder};

use super::codec;

/// Most events of a packet, and the length in microseconds at which one with enough events ends.
const EVENTS: usize = 8192;
const ENOUGH: usize = 512;
const SPAN_US: i64 = 10_000;
/// Length in microseconds at which any packet ends.
const LONGEST_US: i64 = 1_000_000;
/// Number of the stream.
const STREAM: i32 = 0;
/// Where in the file the place of the table of packets stands.
const TABLE_PLACE: u64 = 14 + 32;

/// A packet that has been written.
#[derive(Debug)]
struct Written {
    /// Where its payload is.
    offset: u64,
    size: i32,
    events: i64,
    first_us: i64,
    last_us: i64,
}

/// AEDAT 4.0 encoder.
#[derive(Debug)]
pub(crate) struct Aedat4Encoder {
    compression: Compression,
    header: Vec<u8>,
    /// The events of the packet that is being filled.
    pending: Vec<u8>,
    rows: usize,
    first_us: i64,
    last_us: i64,
    /// Bytes of the file so far.
    len: u64,
    packets: Vec<Written>,
}

impl Aedat4Encoder {
    /// An encoder with LZ4 or without compression.
    pub(crate) fn new(geometry: Geometry, compression: Compression) -> Self {
        let header = header(geometry, compression);
        let len = header.len() as u64;
        Self { compression, header, pending: Vec::new(), rows: 0, first_us: 0, last_us: 0, len, packets: Vec::new() }
    }

    /// Appends a flatbuffer as the codec makes it, and returns the bytes that it takes.
    fn store(&self, buffer: &[u8], out: &mut Vec<u8>) -> usize {
        let start = out.len();
        match self.compression {
            Compression::Lz4 => codec::compress_lz4(buffer, out),
            _ => out.extend(buffer),
        }
        out.len() - start
    }

    /// Ends the packet.
    fn packet(&mut self, out: &mut Vec<u8>) {
        if self.rows == 0 {
            return;
        }
        let len = self.pending.len() as u32;
        if let Some(prologue) = self.pending.first_chunk_mut::<32>() {
            *prologue = vector_prologue(*b"EVTS", len - 4, self.rows as u32);
        }
        let start = out.len();
        out.extend(STREAM.to_le_bytes());
        out.extend([0; 4]);
        let size = self.store(&self.pending, out);
        if let Some(place) = out.get_mut(start + 4..start + 8) {
            place.copy_from_slice(&(size as u32).to_le_bytes());
        }
        self.packets.push(Written {
            offset: self.len + 8,
            size: size as i32,
            events: self.rows as i64,
            first_us: self.first_us,
            last_us: self.last_us,
        });
        self.len += 8 + size as u64;
        self.pending.clear();
        self.rows = 0;
    }

    /// The table of packets.
    fn table(&self) -> Vec<u8> {
        /// Field offsets of an entry: place, packet header, events, first and last time; the first of eight bytes.
        const FIELDS: [u16; 7] = [14, 44, 4, 36, 12, 20, 28];
        const ENTRY: usize = 48;
        let count = self.packets.len();
        // Entries start four bytes after a multiple of eight, so that what follows their first four is aligned.
        let fields_at = (32 + 4 * count).next_multiple_of(8);
        let first = fields_at + 20;
        let len = first - 4 + ENTRY * count + if count == 0 { 0 } else { 4 };
        let len = len.next_multiple_of(8);
        let mut out = Vec::with_capacity(len);
        out.extend(vector_prologue(*b"FTAB", len as u32 - 4, count as u32));
        for index in 0..count {
            let at = out.len();
            out.extend(((first + ENTRY * index - at) as u32).to_le_bytes());
        }
        out.resize(fields_at, 0);
        out.extend(FIELDS.iter().flat_map(|field| field.to_le_bytes()));
        out.resize(first, 0);
        for packet in &self.packets {
            let back = out.len() - fields_at;
            out.extend((back as u32).to_le_bytes());
            out.extend(packet.offset.to_le_bytes());
            for number in [packet.events, packet.first_us, packet.last_us] {
                out.extend(number.to_le_bytes());
            }
            out.extend(STREAM.to_le_bytes());
            out.extend(packet.size.to_le_bytes());
            out.extend([0; 4]);
        }
        out.resize(len, 0);
        out
    }
}

/// A buffer whose root has one vector, up to the elements.
fn vector_prologue(identifier: [u8; 4], size: u32, count: u32) -> [u8; 32] {
    let [a, b, c, d] = size.to_le_bytes();
    let [i, j, k, l] = identifier;
    let [e, f, g, h] = count.to_le_bytes();
    [a, b, c, d, 16, 0, 0, 0, i, j, k, l, 0, 0, 6, 0, 8, 0, 4, 0, 6, 0, 0, 0, 4, 0, 0, 0, e, f, g, h]
}

/// What stands before the packets.
fn header(geometry: Geometry, compression: Compression) -> Vec<u8> {
    let (number, name) = match compression {
        Compression::Lz4 => (1_i32, "LZ4"),
        _ => (0, "NONE"),
    };
    let attribute = |key: &str, kind: &str, value: &str| format!("<attr key=\"{key}\" type=\"{kind}\">{value}</attr>");
    let description = [
        "<dv version=\"2.0\"><node name=\"outInfo\" path=\"/mainloop/Recorder/outInfo/\">".to_owned(),
        "<node name=\"0\" path=\"/mainloop/Recorder/outInfo/0/\">".to_owned(),
        attribute("compression", "string", name),
        attribute("originalModuleName", "string", "evlib"),
        attribute("originalOutputName", "string", "events"),
        attribute("typeDescription", "string", "Array of events (polarity ON/OFF)."),
        attribute("typeIdentifier", "string", "EVTS"),
        "<node name=\"info\" path=\"/mainloop/Recorder/outInfo/0/info/\">".to_owned(),
        attribute("sizeX", "int", &geometry.width().to_string()),
        attribute("sizeY", "int", &geometry.height().to_string()),
        attribute("source", "string", "evlib"),
        "</node></node></node></dv>".to_owned(),
    ]
    .concat();
    let len = (44 + 4 + description.len() + 1).next_multiple_of(8);
    let mut out = super::v4::MAGIC.to_vec();
    out.extend((len as u32 - 4).to_le_bytes());
    // Root at 24; its field offsets at 14: codec, place of the table, description.
    out.extend(20_u32.to_le_bytes());
    out.extend(b"IOHE");
    out.extend([0_u16, 10, 20, 16, 8, 4].iter().flat_map(|field| field.to_le_bytes()));
    out.extend(10_u32.to_le_bytes());
    out.extend(16_u32.to_le_bytes());
    out.extend((-1_i64).to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend((description.len() as u32).to_le_bytes());
    out.extend(description.bytes());
    out.resize(super::v4::MAGIC.len() + len, 0);
    out
}

impl Encoder for Aedat4Encoder {
    fn header(&self, _: Geometry, _: &str) -> Vec<u8> {
        self.header.clone()
    }

    fn start_of_time(&self) -> i64 {
        i64::MIN
    }

    fn end_of_time(&self) -> i64 {
        i64::MAX
    }

    fn encode(&mut self, x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) {
        for (((x, y), t), p) in x.iter().zip(y).zip(t).zip(p) {
            let span = t.saturating_sub(self.first_us);
            let full = self.rows >= EVENTS || (self.rows >= ENOUGH && span >= SPAN_US) || span >= LONGEST_US;
            if self.rows > 0 && full {
                self.packet(out);
            }
            if self.rows == 0 {
                self.pending.extend([0; 32]);
                self.first_us = *t;
            }
            let mut event = [0; 16];
            event[..8].copy_from_slice(&t.to_le_bytes());
            event[8..10].copy_from_slice(&x.to_le_bytes());
            event[10..12].copy_from_slice(&y.to_le_bytes());
            event[12] = u8::from(*p > 0);
            self.pending.extend(event);
            self.rows += 1;
            self.last_us = *t;
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Option<(u64, Vec<u8>)> {
        self.packet(out);
        let table = self.table();
        self.store(&table, out);
        Some((TABLE_PLACE, self.len.to_le_bytes().to_vec()))
    }
}
