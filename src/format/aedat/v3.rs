//! AEDAT 3.0 and 3.1: packets of records of one type, little-endian, each after a header of 28 bytes.
//!
//! | byte of the header | content |
//! |---|---|
//! | 0, i16 | type: 0 special, 1 polarity, 2 frame, 3 IMU of 6 axes, 4 IMU of 9 axes, others |
//! | 2, i16 | number of the camera |
//! | 4, i32 | bytes of a record |
//! | 8, i32 | where in a record its time is |
//! | 12, i32 | upper bits of the times, in steps of 2^31 us |
//! | 16, 20, 24, i32 | records that there is room for, that there are, and that are valid |
//!
//! Every record begins with a word whose bit 0 says that it is valid. Polarity events:
//!
//! | version | bits of the word |
//! |---|---|
//! | 3.1 | x in 31..17, y in 16..2, polarity in 1; rows count from the top |
//! | 3.0 | x in 31..18, y in 17..4, polarity in 1; rows count from the bottom |
//!
//! <https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-3.1.html>

use std::ops::Range;

use crate::columns::Slots;
use crate::error::Result;
use crate::problem::{ProblemCode, Problems};
use crate::recording::StreamKind;
use crate::schema::{Column, Columns};
use crate::side::{Frame, ImuSample};
use crate::simd;
use crate::source::Source;

use super::flatbuffer::{i32_at, u32_at};
use super::packets::{Block, Container, Directory, Place, SideRows, Window, damaged};

/// Bytes of a packet header.
const HEADER: usize = 28;
/// Bytes searched at a time for the next packet.
const SEARCH: usize = 1 << 20;
/// Bytes of a frame before its pixels.
const FRAME: usize = 36;

const SPECIAL: i16 = 0;
const POLARITY: i16 = 1;
const FRAMES: i16 = 2;
const IMU6: i16 = 3;
const IMU9: i16 = 4;

/// A packet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    kind: i16,
    source: i16,
    /// Bytes of a record.
    size: u32,
    /// Where its time is.
    time_at: u32,
    /// Upper bits of the times.
    overflow: i32,
    /// Records that there is room for, and that there are.
    capacity: u32,
    number: u32,
}

impl Head {
    /// The header that `bytes` start with; `None` if they are none.
    fn read(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(i16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let count = |at: usize| u32::try_from(i32_at(bytes, at)?).ok();
        let head = Self {
            kind: half(0)?,
            source: half(2)?,
            size: count(4)?,
            time_at: count(8)?,
            overflow: i32_at(bytes, 12)?,
            capacity: count(16)?,
            number: count(20)?,
        };
        let valid = count(24)?;
        let size = match head.kind {
            SPECIAL | POLARITY | 12 => head.size == 8,
            FRAMES => head.size as usize >= FRAME,
            IMU6 => head.size == 36,
            IMU9 => head.size == 48,
            5..=11 | 13 | 100.. => (8..1 << 28).contains(&head.size),
            _ => false,
        };
        let time = if head.kind == FRAMES { head.time_at.is_multiple_of(4) } else { head.time_at == 4 || head.kind >= 5 };
        let plausible = size
            && time
            && u64::from(head.time_at) + 4 <= u64::from(head.size)
            && head.overflow >= 0
            && head.source >= 0
            && head.number <= head.capacity
            && valid <= head.number;
        plausible.then_some(head)
    }

    /// Bytes of `records` records and the header.
    fn len(self, records: u32) -> u64 {
        HEADER as u64 + u64::from(self.size) * u64::from(records)
    }

    /// The time of a record.
    fn time(self, record: &[u8], at: usize) -> i64 {
        (i64::from(self.overflow) << 31) + i64::from(i32_at(record, at).unwrap_or(0))
    }
}

/// The packets of a file.
pub(crate) struct V3 {
    pub(crate) start: u64,
    /// Whether the version is 3.0.
    pub(crate) old: bool,
    /// The camera whose packets are read; any if there is only one.
    pub(crate) camera: Option<i16>,
    /// Cameras of the file: the position in this list, times four, is where its streams are numbered from.
    pub(crate) cameras: Vec<i16>,
    /// Pixels that events may have.
    pub(crate) width: u16,
    pub(crate) height: u16,
}

/// Number of a stream within its camera.
pub(crate) const fn number(kind: StreamKind) -> u16 {
    match kind {
        StreamKind::Frames => 1,
        StreamKind::Imu => 2,
        StreamKind::Triggers => 3,
        _ => 0,
    }
}

/// Whether a record is valid.
#[inline(always)]
fn is_valid(word: u32) -> bool {
    word & 1 == 1
}

impl V3 {
    /// Pixel as stored, and polarity.
    #[inline(always)]
    fn pixel(&self, word: u32) -> (u16, u16) {
        if self.old { ((word >> 18) as u16, (word >> 4 & 0x3FFF) as u16) } else { ((word >> 17) as u16, (word >> 2 & 0x7FFF) as u16) }
    }

    /// The records of a packet, as many as there are.
    fn records(packet: &[u8]) -> Option<(Head, &[u8])> {
        let head = Head::read(packet)?;
        Some((head, packet.get(HEADER..)?))
    }

    /// The next place at or after `from` where a packet starts, and another one or the end follows it.
    fn search(window: &mut Window<'_>, from: u64, end: u64) -> Result<Option<u64>> {
        let mut at = from;
        while at + HEADER as u64 <= end {
            let len = usize::try_from(end - at).unwrap_or(SEARCH).min(SEARCH);
            let bytes = window.at(at, len)?.to_vec();
            for (place, rest) in bytes.windows(HEADER).enumerate() {
                let Some(head) = Head::read(rest) else { continue };
                let offset = at + place as u64;
                let next = offset.saturating_add(head.len(head.number));
                // Zeros look like an empty packet: one that says something is asked for.
                if head.number > 0 && (next == end || (next < end && Head::read(window.at(next, HEADER)?).is_some())) {
                    return Ok(Some(offset));
                }
            }
            at += (len - HEADER + 1) as u64;
        }
        Ok(None)
    }
}

impl Container for V3 {
    fn walk(&self, source: &Source) -> Result<Directory> {
        let mut directory = Directory::default();
        let mut window = Window::new(source);
        let (mut at, end) = (self.start, source.len());
        while at < end {
            let left = end - at;
            let head = Head::read(window.at(at, HEADER)?);
            let Some(head) = head else {
                let next = Self::search(&mut window, at + 1, end)?;
                match next {
                    Some(next) => directory.damaged(at, next - at, "no packet"),
                    None if left < HEADER as u64 => directory.truncated(at, left),
                    None => directory.damaged(at, left, "no packet"),
                }
                at = next.unwrap_or(end);
                continue;
            };
            let mut records = head.number;
            let mut len = head.len(records);
            if len > left {
                // Either the file ends here, or the header lies.
                if let Some(next) = Self::search(&mut window, at + HEADER as u64, end)? {
                    directory.damaged(at, next - at, "packet that is too long");
                    at = next;
                    continue;
                }
                records = ((left - HEADER as u64) / u64::from(head.size)) as u32;
                directory.truncated(at, left - head.len(records));
                len = left;
            } else if head.capacity > head.number && len < left && Head::read(window.at(at + len, HEADER)?).is_none() {
                // Room that is not used may have been written too.
                let full = head.len(head.capacity);
                if full == left || (full < left && Head::read(window.at(at + full, HEADER)?).is_some()) {
                    len = full;
                }
            }
            let known = matches!(head.kind, POLARITY | SPECIAL | FRAMES | IMU6 | IMU9);
            let camera = match self.cameras.iter().position(|camera| *camera == head.source) {
                Some(camera) => camera,
                // Where the header names one camera, or none, every packet is of that.
                None if self.cameras.is_empty() || !known => 0,
                None => {
                    directory.damaged(at, len, "packet of a source that the header does not name");
                    at += len;
                    continue;
                }
            };
            // A packet longer than 4 GiB cannot be addressed: its records that can be are.
            let place = Place { offset: at, len: head.len(records).min(u64::from(u32::MAX)) as u32 };
            let wanted = self.camera.is_none_or(|camera| camera == head.source);
            let side = |kind| (4 * camera as u16 + number(kind), place);
            match head.kind {
                POLARITY if wanted => directory.push(place, ((u64::from(place.len) - HEADER as u64) / 8) as u32),
                SPECIAL => directory.sides.push(side(StreamKind::Triggers)),
                FRAMES => directory.sides.push(side(StreamKind::Frames)),
                IMU6 | IMU9 => directory.sides.push(side(StreamKind::Imu)),
                _ => {}
            }
            at += len;
        }
        Ok(directory)
    }

    fn fill(&self, _: &Block, packet: &[u8], rows: Range<usize>, columns: Columns, check: Columns, out: &mut Slots<'_>) -> bool {
        let Some((head, records)) = Self::records(packet) else { return false };
        let Some(events) = records.as_chunks::<8>().0.get(rows) else { return false };
        let bounds = check.contains(Column::X) || check.contains(Column::Y);
        let clean = !bounds || simd::run(Inside { events, v3: self });
        simd::run(Split { events, out, columns, v3: self, base: i64::from(head.overflow) << 31 });
        clean
    }

    fn judge(&self, block: &Block, packet: &[u8], rows: Range<usize>, keep: &mut [u8], problems: &mut Problems) {
        let offset = block.place.offset;
        let events = Self::records(packet).and_then(|(_, records)| records.as_chunks::<8>().0.get(rows));
        let Some(events) = events else {
            keep.fill(0);
            damaged(problems, offset, packet.len() as u64, "events");
            return;
        };
        for (event, keep) in events.iter().zip(keep) {
            let word = u32_at(event, 0).unwrap_or(0);
            let (x, y) = self.pixel(word);
            if !is_valid(word) {
                *keep = 0;
                problems.add(ProblemCode::MarkedInvalid, 1, 0, offset, || format!("in the packet at byte {offset}"));
            } else if x >= self.width || y >= self.height {
                *keep = 0;
                let (width, height) = (self.width, self.height);
                problems.add(ProblemCode::OutOfBounds, 1, 0, offset, || {
                    format!("x {x}, y {y} outside {width}x{height} in the packet at byte {offset}")
                });
            }
        }
    }

    fn side(&self, kind: StreamKind, place: Place, packet: &[u8], out: &mut SideRows) {
        let Some((head, records)) = Self::records(packet) else {
            damaged(&mut out.problems, place.offset, place.len.into(), "records");
            return;
        };
        for record in records.chunks_exact(head.size as usize) {
            let Some(info) = u32_at(record, 0).filter(|info| is_valid(*info)) else { continue };
            match kind {
                StreamKind::Triggers => {
                    let t = head.time(record, 4);
                    match ((info >> 1 & 0x7F) as u8, trigger((info >> 1 & 0x7F) as u8)) {
                        (_, Some((id, rising))) => out.triggers.push(id, rising, t),
                        (1, None) => {
                            let offset = place.offset;
                            out.problems.add(ProblemCode::TimeReset, 1, 0, offset, || format!("in the packet at byte {offset}"));
                        }
                        _ => {}
                    }
                }
                StreamKind::Imu => {
                    let value = |index: usize| u32_at(record, 8 + 4 * index).map_or(0.0, f32::from_bits);
                    out.imu.push(ImuSample {
                        timestamp: head.time(record, 4),
                        accelerometer: [value(0), value(1), value(2)],
                        gyroscope: [value(3), value(4), value(5)],
                        temperature: value(6),
                        magnetometer: (head.kind == IMU9).then(|| [value(7), value(8), value(9)]),
                    });
                }
                StreamKind::Frames => match self.frame(head, info, record) {
                    Some(frame) => out.frames.push(frame),
                    None => damaged(&mut out.problems, place.offset, record.len() as u64, "frame"),
                },
                _ => {}
            }
        }
    }
}

/// Number and edge of a special event, as of AEDAT 4.0.
fn trigger(kind: u8) -> Option<(u8, bool)> {
    match kind {
        2 | 4 => Some((0, true)),
        3 => Some((0, false)),
        6 | 8 => Some((1, true)),
        7 => Some((1, false)),
        9 | 11 => Some((2, true)),
        10 => Some((2, false)),
        12 => Some((3, true)),
        13 => Some((3, false)),
        14 => Some((4, true)),
        15 => Some((4, false)),
        16 => Some((5, true)),
        17 => Some((5, false)),
        18 => Some((6, true)),
        _ => None,
    }
}

impl V3 {
    fn frame(&self, head: Head, info: u32, record: &[u8]) -> Option<Frame> {
        let channels = (info >> 1 & 7) as u8;
        let filter = if self.old { info >> 4 & 7 } else { info >> 4 & 0xF };
        let format = match (channels, filter) {
            (1, 0) => "GRAY",
            (1, 1) => "RGBG",
            (1, 2) => "GRGB",
            (1, 3) => "GBGR",
            (1, 4) => "BGRG",
            (1, 5) => "RGBW",
            (1, 6) => "GRWB",
            (1, 7) => "WBGR",
            (1, 8) => "BWRG",
            (3, _) => "RGB",
            (4, _) => "RGBA",
            _ => return None,
        };
        let size = |at: usize| u16::try_from(i32_at(record, at)?).ok();
        let (width, height) = (size(20)?, size(24)?);
        let bytes = usize::from(width) * usize::from(height) * usize::from(channels) * 2;
        let pixels = record.get(FRAME..)?.get(..bytes)?;
        let row = usize::from(width) * usize::from(channels) * 2;
        // Rows of the older version count from the bottom.
        let pixels = if self.old && row > 0 { pixels.rchunks(row).flatten().copied().collect() } else { pixels.to_vec() };
        let (start, end) = (head.time(record, 12), head.time(record, 16));
        Some(Frame {
            timestamp: start + (end - start) / 2,
            exposure_start: Some(start),
            exposure_end: Some(end),
            width,
            height,
            channels,
            bits: 16,
            format,
            pixels,
        })
    }
}

/// Whether all events are valid and within the sensor.
struct Inside<'a> {
    events: &'a [[u8; 8]],
    v3: &'a V3,
}

impl simd::Kernel for Inside<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let (width, height) = (self.v3.width, self.v3.height);
        let mut bad = false;
        for event in self.events {
            let word = u64::from_le_bytes(*event) as u32;
            let (x, y) = self.v3.pixel(word);
            bad |= !is_valid(word);
            bad |= x >= width;
            bad |= y >= height;
        }
        !bad
    }
}

/// Takes events apart into columns.
struct Split<'a, 'b, 'c> {
    events: &'a [[u8; 8]],
    out: &'b mut Slots<'c>,
    columns: Columns,
    v3: &'a V3,
    base: i64,
}

impl simd::Kernel for Split<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        const BLOCK: usize = 1024;
        let Self { events, out, columns, v3, base } = self;
        for (index, events) in events.chunks(BLOCK).enumerate() {
            let rows = index * BLOCK..index * BLOCK + events.len();
            let word = |event: &[u8; 8]| u64::from_le_bytes(*event) as u32;
            if columns.contains(Column::X) {
                for (slot, event) in out.x.get_mut(rows.clone()).unwrap_or_default().iter_mut().zip(events) {
                    *slot = v3.pixel(word(event)).0.cast_signed();
                }
            }
            if columns.contains(Column::Y) {
                for (slot, event) in out.y.get_mut(rows.clone()).unwrap_or_default().iter_mut().zip(events) {
                    let y = v3.pixel(word(event)).1;
                    *slot = if v3.old { v3.height.wrapping_sub(1).wrapping_sub(y) } else { y }.cast_signed();
                }
            }
            if columns.contains(Column::Timestamp) {
                for (slot, event) in out.t.get_mut(rows.clone()).unwrap_or_default().iter_mut().zip(events) {
                    *slot = base + i64::from((u64::from_le_bytes(*event) >> 32) as u32 as i32);
                }
            }
            if columns.contains(Column::Polarity) {
                for (slot, event) in out.p.get_mut(rows).unwrap_or_default().iter_mut().zip(events) {
                    *slot = (word(event) & 2) as i8 - 1;
                }
            }
        }
    }
}
