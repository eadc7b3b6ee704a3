//! A block in memory: the payloads of a topic's packets one behind the other, and what stands in front of each.

use std::sync::{Mutex, PoisonError};

use super::container::{Block, Container, Topic};
use super::message::{Coding, Encoding, Head, Kind, Serial};
use super::packet::{self, Cursor, First, Frame};
use crate::error::Result;
use crate::format::prophesee::word::Limits;
use crate::problem::{ProblemCode, Problems};
use crate::schema::TimeSource;

/// A packet of a loaded block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    /// Where its payload is among the bytes of the block.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) encoding: Encoding,
    pub(super) base_ns: i64,
    pub(super) stamp_us: i64,
    /// Microseconds to be added to its times; for EVT3 they are known only when it is decoded.
    pub(super) shift_us: i64,
    pub(super) seq: Option<u64>,
    pub(super) log_ns: i64,
    /// File offset of its payload, or of what that is compressed in.
    pub(super) offset: u64,
    pub(super) plain: bool,
}

/// Buffers of blocks that are done: their pages are there already.
static BUFFERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
const BUFFERS_KEPT: usize = 16;
const BUFFER_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) bytes: Vec<u8>,
    pub(super) packets: Vec<Packet>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < BUFFERS_KEPT && self.bytes.capacity() <= BUFFER_BYTES {
            buffers.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Loaded {
    /// File offset of a byte of the block.
    pub(super) fn place(&self, at: usize) -> u64 {
        let next = self.packets.partition_point(|packet| packet.start <= at);
        let packet = next.checked_sub(1).and_then(|before| self.packets.get(before));
        packet.map_or(0, |packet| if packet.plain { packet.offset + (at - packet.start) as u64 } else { packet.offset })
    }

    /// The numbers of the packets that have any of the bytes from `start` to `end`.
    pub(super) fn packets_in(&self, start: usize, end: usize) -> std::ops::Range<usize> {
        let first = self.packets.partition_point(|packet| packet.end <= start);
        let last = self.packets.partition_point(|packet| packet.start < end);
        first..last.max(first)
    }
}

/// How the messages of a topic are taken.
#[derive(Debug, Clone)]
pub(super) struct Taking {
    pub(super) topic: Topic,
    pub(super) kind: Kind,
    pub(super) serial: Serial,
    /// The encoding of the first message: what the topic is taken for.
    pub(super) encoding: Encoding,
    pub(super) limits: Limits,
    pub(super) time: TimeSource,
}

impl Taking {
    pub(super) fn is_evt3(&self) -> bool {
        self.encoding == Encoding::Evt3
    }

    /// What the events of a packet share.
    pub(super) fn frame(&self, packet: &Packet) -> Frame {
        Frame { encoding: packet.encoding, base_ns: packet.base_ns, shift_us: packet.shift_us, limits: self.limits }
    }

    /// Loads a block; checksums are looked at if `check`.
    pub(super) fn load(&self, container: &dyn Container, block: &Block, check: bool, problems: &mut Problems) -> Result<Loaded> {
        self.load_while(container, block, check, problems, |_| true)
    }

    /// Loads the packets of a block until one is all that is wanted.
    pub(super) fn load_while(
        &self,
        container: &dyn Container,
        block: &Block,
        check: bool,
        problems: &mut Problems,
        mut more: impl FnMut(&Loaded) -> bool,
    ) -> Result<Loaded> {
        let mut bytes = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        bytes.clear();
        let mut loaded = Loaded { bytes, packets: Vec::new() };
        let mut found = Problems::default();
        container.visit(block, &self.topic, check, problems, &mut |message| {
            let damage = |found: &mut Problems, what: &str| {
                // What is compressed takes other bytes in the file.
                let (len, offset) = (if message.plain { message.data.len() as u64 } else { 0 }, message.offset);
                found.add(ProblemCode::DamagedPacket, 1, len, offset, || format!("{what} at byte {offset}"));
            };
            let Some(head) = Head::parse(self.kind, self.serial, message.data) else {
                damage(&mut found, "a message that ends inside its head, or is serialised in another way,");
                return true;
            };
            let encoding = match &head.coding {
                Coding::Known(encoding) if (*encoding == Encoding::Evt3) == self.is_evt3() => *encoding,
                Coding::Known(encoding) => {
                    damage(&mut found, &format!("a packet of `{}` among `{}`", encoding.name(), self.encoding.name()));
                    return true;
                }
                Coding::Unknown(name) => {
                    damage(&mut found, &format!("a packet of unknown encoding `{}`", name.escape_debug()));
                    return true;
                }
            };
            let start = loaded.bytes.len();
            let payload = message.data.get(head.start..).and_then(|rest| rest.get(..head.len)).unwrap_or_default();
            let offset = message.offset + if message.plain { head.start as u64 } else { 0 };
            let mut packet = Packet {
                start,
                end: start,
                encoding,
                base_ns: head.base_ns,
                stamp_us: head.stamp_ns.div_euclid(1000),
                shift_us: 0,
                seq: head.seq,
                log_ns: message.log_ns,
                offset,
                plain: message.plain,
            };
            let partial = self.frame(&packet).partial(payload.len());
            let payload = payload.get(..payload.len() - partial).unwrap_or_default();
            let missing = head.claimed - head.len as u64;
            if missing > 0 || partial > 0 {
                found.add(ProblemCode::DamagedPacket, 1, partial as u64, offset, || {
                    format!("a packet of {} bytes that is {missing} bytes short or ends inside a word at byte {offset}", head.claimed)
                });
            }
            loaded.bytes.extend_from_slice(payload);
            packet.end = loaded.bytes.len();
            packet::swap(loaded.bytes.get_mut(start..).unwrap_or_default(), head.swap);
            if self.time == TimeSource::Message && !self.is_evt3() {
                let mut first = First::default();
                let own = loaded.bytes.get(start..).unwrap_or_default();
                self.frame(&packet).walk(&mut Cursor::default(), own, &mut first);
                packet.shift_us = first.0.map_or(0, |first| packet.stamp_us.wrapping_sub(first));
            }
            loaded.packets.push(packet);
            more(&loaded)
        })?;
        problems.merge(&found);
        Ok(loaded)
    }
}
