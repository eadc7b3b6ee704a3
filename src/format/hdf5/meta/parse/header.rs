//! Object headers, specification IV.A.1.

use hdf5_reader::checksum;
use hdf5_reader::io::Cursor;
use hdf5_reader::messages::shared::{self, SharedMessage};

use super::super::Kind;
use super::super::blocks::Piece;
use super::{CONTINUATION, DATASPACE, DATATYPE, GROUP_INFO, LAYOUT, LINK, LINK_INFO, Message, SYMBOL_TABLE, Walk, uint};
use crate::error::Result;

impl Walk<'_> {
    pub(super) fn header(&self, address: u64) -> Result<Vec<Message>> {
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
    pub(super) fn checked_block(&self, address: u64, len: usize) -> Result<Piece> {
        let block = self.read(address, len)?;
        let split = len.checked_sub(4).and_then(|end| block.split_at_checked(end));
        let (body, sum) = split.ok_or_else(|| self.cut("a block"))?;
        if uint(sum) != Some(u64::from(checksum::jenkins_lookup3(body))) {
            return Err(self.format("a checksum does not match").at(self.file.base + address));
        }
        Ok(block)
    }

    pub(super) fn messages(
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
    pub(super) fn find(&self, messages: &[Message], kind: u16) -> Result<Option<Vec<u8>>> {
        let Some(message) = messages.iter().find(|message| message.kind == kind) else { return Ok(None) };
        if message.shared { self.shared(&message.data, kind).map(Some) } else { Ok(Some(message.data.clone())) }
    }

    /// The message that a shared message stands for.
    pub(super) fn shared(&self, data: &[u8], kind: u16) -> Result<Vec<u8>> {
        let (offset_size, length_size) = (self.file.offset_size, self.file.length_size);
        let found = shared::parse(&mut Cursor::new(data), kind, offset_size, length_size, data.len());
        match found.map_err(|error| self.translate(&error))? {
            SharedMessage::SharedInOhdr { address, .. } => {
                let messages = self.header(address)?;
                let message = messages.into_iter().find(|message| message.kind == kind && !message.shared);
                message.map(|message| message.data).ok_or_else(|| self.format("a shared message is not where it should be"))
            }
            SharedMessage::SharedInSohm { .. } => Err(self.unsupported("header messages shared in the file's message table")),
        }
    }

    pub(super) fn kind_of(messages: &[Message]) -> Kind {
        let has = |kind| messages.iter().any(|message| message.kind == kind);
        if has(LAYOUT) && has(DATATYPE) && has(DATASPACE) {
            Kind::Dataset
        } else if has(SYMBOL_TABLE) || has(LINK_INFO) || has(GROUP_INFO) || has(LINK) {
            Kind::Group
        } else {
            Kind::Other
        }
    }
}
