//! The global heap, specification III.E: elements of variable length.

use std::sync::{Arc, PoisonError};

use super::super::{Dtype, Sequences};
use super::{HeapObject, Walk};
use crate::error::{ErrorKind, Result};

/// Collections whose objects are remembered.
const HEAPS: usize = 64;

impl Walk<'_> {
    /// Where the bytes of a variable-length element are; `None` if it has none.
    pub(super) fn sequence(&self, reference: &[u8], base: usize) -> Result<Option<(u64, u64)>> {
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

    pub(super) fn collection(&self, address: u64) -> Result<Arc<Vec<HeapObject>>> {
        if let Some(objects) = self.file.heaps.lock().unwrap_or_else(PoisonError::into_inner).get(&address) {
            return Ok(objects.clone());
        }
        let what = "a global heap collection";
        // The headers of a collection and of its objects have 12 or 16 bytes, and fill 16.
        let prefix_len = 16_u64;
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

    pub(super) fn resolve(&self, dtype: &Dtype, references: &[u8], limit: usize, found: &mut Sequences) -> Result<bool> {
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
}
