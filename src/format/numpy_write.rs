//! Writing NPY (records) and NPZ (a member for each column), with memory that does not grow with the recording.
//!
//! NPY has the number of rows in its header, which is written again at the end. Members of a zip archive follow each
//! other, so the columns are written to files of their own first and put together at the end.

use std::fs::File;
use std::io::Read;
use std::ops::Range;

use libdeflater::Crc;

use crate::columns::Rows;
use crate::error::{Error, Result};
use crate::write::{Partial, Sink};

/// Rows encoded at a time.
const BLOCK: usize = 64 << 10;
/// Bytes copied at a time.
const COPY: usize = 1 << 20;
/// Bytes of a header, the data's alignment among them; room for every number of rows.
const HEADER: usize = 192;

/// The header of an array in one dimension, version 1.0 of the format.
fn header(descr: &str, rows: u64) -> Vec<u8> {
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&((HEADER - 10) as u16).to_le_bytes());
    header.extend_from_slice(format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ({rows},), }}").as_bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

/// Records of time, x, y and polarity, packed in 13 bytes.
const RECORD: &str = "[('t', '<i8'), ('x', '<u2'), ('y', '<u2'), ('p', '|u1')]";
const RECORD_BYTES: usize = 13;

/// Writes one array of records.
pub(crate) struct NpySink {
    partial: Partial,
    buffer: Vec<u8>,
    rows: u64,
}

impl NpySink {
    pub(crate) fn new(mut partial: Partial) -> Result<Self> {
        partial.write_all(&header(RECORD, 0))?;
        Ok(Self { partial, buffer: Vec::new(), rows: 0 })
    }
}

impl Sink for NpySink {
    fn times(&self, _: i64) -> Range<i64> {
        i64::MIN..i64::MAX
    }

    fn write(&mut self, rows: Rows<'_>) -> Result<()> {
        for start in (0..rows.len).step_by(BLOCK) {
            let block = rows.cut(start..rows.len.min(start + BLOCK));
            self.buffer.resize(block.len * RECORD_BYTES, 0);
            let events = block.t.iter().zip(block.x).zip(block.y).zip(block.p);
            for (record, (((t, x), y), p)) in self.buffer.chunks_exact_mut(RECORD_BYTES).zip(events) {
                let mut packed = [0; RECORD_BYTES];
                packed[..8].copy_from_slice(&t.to_le_bytes());
                packed[8..10].copy_from_slice(&x.to_le_bytes());
                packed[10..12].copy_from_slice(&y.to_le_bytes());
                packed[12] = u8::from(*p > 0);
                record.copy_from_slice(&packed);
            }
            self.partial.write_all(&self.buffer)?;
        }
        self.rows += rows.len as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Partial> {
        self.partial.write_over_start(&header(RECORD, self.rows))?;
        Ok(self.partial)
    }
}

/// Names and types of the members.
const MEMBERS: [(&str, &str); 4] = [("t", "'<i8'"), ("x", "'<u2'"), ("y", "'<u2'"), ("p", "'|u1'")];

/// A column on its way.
struct Column {
    file: Partial,
    bytes: u64,
    /// Sum of the data alone; the header comes in front at the end.
    crc: Crc,
}

/// Writes an array for each column.
pub(crate) struct NpzSink {
    partial: Partial,
    columns: Vec<Column>,
    buffer: Vec<u8>,
    rows: u64,
}

impl NpzSink {
    pub(crate) fn new(partial: Partial) -> Result<Self> {
        let columns = MEMBERS.iter().map(|_| Ok(Column { file: partial.another()?, bytes: 0, crc: Crc::new() }));
        let columns = columns.collect::<Result<_>>()?;
        Ok(Self { partial, columns, buffer: Vec::new(), rows: 0 })
    }
}

impl Sink for NpzSink {
    fn times(&self, _: i64) -> Range<i64> {
        i64::MIN..i64::MAX
    }

    fn write(&mut self, rows: Rows<'_>) -> Result<()> {
        for start in (0..rows.len).step_by(BLOCK) {
            let block = rows.cut(start..rows.len.min(start + BLOCK));
            for ((name, _), column) in MEMBERS.iter().zip(&mut self.columns) {
                self.buffer.clear();
                match *name {
                    "t" => self.buffer.extend(block.t.iter().flat_map(|t| t.to_le_bytes())),
                    "x" => self.buffer.extend(block.x.iter().flat_map(|x| x.to_le_bytes())),
                    "y" => self.buffer.extend(block.y.iter().flat_map(|y| y.to_le_bytes())),
                    _ => self.buffer.extend(block.p.iter().map(|p| u8::from(*p > 0))),
                }
                column.crc.update(&self.buffer);
                column.bytes += self.buffer.len() as u64;
                column.file.write_all(&self.buffer)?;
            }
        }
        self.rows += rows.len as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Partial> {
        let (mut at, mut directory) = (0, Vec::new());
        let mut buffer = vec![0; COPY];
        for ((name, descr), column) in MEMBERS.iter().zip(std::mem::take(&mut self.columns)) {
            let header = header(descr, self.rows);
            let mut crc = Crc::new();
            crc.update(&header);
            let member = Entry {
                name: format!("{name}.npy"),
                crc: combine(crc.sum(), column.crc.sum(), column.bytes),
                bytes: header.len() as u64 + column.bytes,
                start: at,
            };
            let local = member.local();
            self.partial.write_all(&local)?;
            self.partial.write_all(&header)?;
            let mut spool = File::open(column.file.place()).map_err(|error| Error::io(error, column.file.place()))?;
            let mut left = column.bytes;
            while left > 0 {
                let piece = buffer.get_mut(..left.min(COPY as u64) as usize).unwrap_or_default();
                spool.read_exact(piece).map_err(|error| Error::io(error, column.file.place()))?;
                self.partial.write_all(piece)?;
                left -= piece.len() as u64;
            }
            at += local.len() as u64 + member.bytes;
            directory.extend(member.central());
        }
        let end = end(MEMBERS.len() as u64, at, directory.len() as u64);
        self.partial.write_all(&directory)?;
        self.partial.write_all(&end)?;
        Ok(self.partial)
    }
}

/// A stored member of a zip archive, always with 64-bit sizes (PKWARE APPNOTE 6.3.10, 4.3 and 4.5.3).
struct Entry {
    name: String,
    crc: u32,
    bytes: u64,
    start: u64,
}

/// What stands for a number that is in the 64-bit field.
const IN_EXTRA: [u8; 4] = [0xff; 4];
/// Version 4.5, no flags, stored, 1980-01-01 00:00.
const COMMON: [u8; 10] = [45, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];

impl Entry {
    /// Sum, sizes, lengths of name and 64-bit field.
    fn sizes(&self, extra: u16) -> Vec<u8> {
        let name = self.name.len() as u16;
        [&self.crc.to_le_bytes()[..], &IN_EXTRA, &IN_EXTRA, &name.to_le_bytes(), &extra.to_le_bytes()].concat()
    }

    fn local(&self) -> Vec<u8> {
        let field = [&[1, 0, 16, 0][..], &self.bytes.to_le_bytes(), &self.bytes.to_le_bytes()].concat();
        [b"PK\x03\x04", &COMMON[..], &self.sizes(20), self.name.as_bytes(), &field].concat()
    }

    fn central(&self) -> Vec<u8> {
        let field = [&[1, 0, 24, 0][..], &self.bytes.to_le_bytes(), &self.bytes.to_le_bytes(), &self.start.to_le_bytes()].concat();
        // No comment, volume 0, no attributes; the position is in the 64-bit field.
        let rest = [&[0; 10][..], &IN_EXTRA].concat();
        [b"PK\x01\x02", &[45, 0][..], &COMMON, &self.sizes(28), &rest, self.name.as_bytes(), &field].concat()
    }
}

/// What ends an archive whose directory of `bytes` bytes stands at `start`.
fn end(count: u64, start: u64, bytes: u64) -> Vec<u8> {
    let place = start + bytes;
    let numbers = [count, count, bytes, start].map(u64::to_le_bytes).concat();
    let large = [b"PK\x06\x06", &44_u64.to_le_bytes()[..], &[45, 0, 45, 0], &[0; 8], &numbers].concat();
    let locator = [b"PK\x06\x07", &[0; 4][..], &place.to_le_bytes(), &[1, 0, 0, 0]].concat();
    let count = (count as u16).to_le_bytes();
    let short = [b"PK\x05\x06", &[0; 4][..], &count, &count, &IN_EXTRA, &IN_EXTRA, &[0, 0]].concat();
    [large, locator, short].concat()
}

/// CRC-32 of two stretches of bytes put together, the second `len` bytes long: the first is moved on by as many zero
/// bytes, as a matrix over bits that is squared for every bit of `len`.
fn combine(first: u32, second: u32, len: u64) -> u32 {
    fn apply(matrix: &[u32; 32], vector: u32) -> u32 {
        matrix.iter().enumerate().fold(0, |sum, (bit, row)| if vector >> bit & 1 == 1 { sum ^ row } else { sum })
    }
    // One zero bit: a shift, and the polynomial where a bit falls out.
    let mut step: [u32; 32] = std::array::from_fn(|bit| if bit == 0 { 0xedb8_8320 } else { 1 << (bit - 1) });
    let square = |step: &[u32; 32]| std::array::from_fn(|bit| apply(step, step[bit]));
    for _ in 0..3 {
        step = square(&step);
    }
    let (mut sum, mut left) = (first, len);
    while left > 0 {
        if left & 1 == 1 {
            sum = apply(&step, sum);
        }
        step = square(&step);
        left >>= 1;
    }
    sum ^ second
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn crc(bytes: &[u8]) -> u32 {
        let mut crc = Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    #[test]
    fn headers_have_room() {
        for (_, descr) in MEMBERS.iter().chain(&[("", RECORD)]) {
            let header = header(descr, u64::MAX);
            assert_eq!((header.len(), header.last()), (HEADER, Some(&b'\n')));
            assert_eq!(HEADER % 64, 0);
        }
    }

    proptest! {
        #[test]
        fn sums_of_two(first in proptest::collection::vec(any::<u8>(), 0..300), second in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(combine(crc(&first), crc(&second), second.len() as u64), crc(&[first.clone(), second.clone()].concat()));
        }
    }
}
