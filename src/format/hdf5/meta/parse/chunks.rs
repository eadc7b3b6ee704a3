//! Chunk tables from every index that HDF5 has.

use hdf5_reader::messages::dataspace::DataspaceMessage;
use hdf5_reader::messages::layout::ChunkIndexing;
use hdf5_reader::{chunk_index, extensible_array, fixed_array};

use super::super::{Chunk, Chunks};
use super::{Walk, uint};
use crate::error::{ErrorKind, Result};

/// What is needed to build a chunk table.
pub(super) struct Grid<'a> {
    pub(super) walk: &'a Walk<'a>,
    pub(super) space: &'a DataspaceMessage,
    pub(super) shape: &'a [u64],
    pub(super) element: u64,
    pub(super) filtered: bool,
    pub(super) plain_edges: bool,
}

impl Grid<'_> {
    pub(super) fn chunks(&self, address: u64, mut dims: Vec<u32>, indexing: Option<&ChunkIndexing>) -> Result<Chunks> {
        let (walk, rank) = (self.walk, self.shape.len());
        let file = walk.file;
        // Version 4 layouts list the size of an element as the last extent.
        if dims.len() == rank + 1 {
            dims.pop();
        }
        if rank == 0 || dims.len() != rank || dims.contains(&0) {
            return Err(walk.format(format_args!("chunks of {dims:?} for a shape of {:?}", self.shape)));
        }
        let decoded = dims.iter().try_fold(self.element, |product, extent| product.checked_mul(u64::from(*extent)));
        let decoded = decoded.ok_or_else(|| walk.format(format_args!("chunks of {dims:?} are too large")))?;
        let decoded = u32::try_from(decoded).map_err(|_| walk.unsupported("chunks of 4 GiB and more"))?;
        let count =
            |extents: &[u64]| -> Vec<u64> { extents.iter().zip(&dims).map(|(extent, chunk)| extent.div_ceil(u64::from(*chunk))).collect() };
        let grid = count(self.shape);
        if grid.iter().try_fold(1_u64, |product, extent| product.checked_mul(*extent)).is_none() {
            return Err(walk.format("more chunks than can be counted"));
        }
        let mut chunks =
            Chunks { shape: dims.iter().map(|extent| u64::from(*extent)).collect(), grid, decoded, list: Vec::new(), beyond: 0 };
        if file.is_undefined(address) || chunks.grid_len() == 0 {
            return Ok(chunks);
        }
        // Fixed arrays and implicit indices number the chunks of the largest shape that the data set may have.
        let largest = self.space.max_dims.as_deref().filter(|largest| largest.len() == rank && !largest.contains(&u64::MAX));
        let largest = largest.unwrap_or(self.shape);
        let (offset_size, length_size) = (file.offset_size, file.length_size);
        let entries = match indexing {
            None => {
                let key = 8 + (rank + 1) * 8;
                let mut start = Vec::with_capacity(rank);
                walk.btree_v1(address, 1, key, |key, child| {
                    let mut fields = walk.fields(key);
                    let (Some(bytes), Some(mask)) = (fields.u32(), fields.u32()) else { return Err(walk.cut("a B-tree key")) };
                    start.clear();
                    start.extend(fields.bytes.chunks_exact(8).take(rank).filter_map(uint));
                    self.add(&mut chunks, &start, child, u64::from(bytes), mask)
                })?;
                Ok(Vec::new())
            }
            Some(ChunkIndexing::SingleChunk { filtered_size, filters }) => {
                self.add(&mut chunks, &vec![0; rank], address, *filtered_size, *filters)?;
                Ok(Vec::new())
            }
            Some(ChunkIndexing::Implicit) => {
                self.implicit(&mut chunks, address, &count(largest))?;
                Ok(Vec::new())
            }
            Some(ChunkIndexing::FixedArray { .. }) => {
                fixed_array::collect_fixed_array_chunk_entries_storage(walk, address, offset_size, length_size, largest, &dims, None)
            }
            Some(ChunkIndexing::ExtensibleArray { .. }) => {
                let largest = self.space.max_dims.as_deref();
                extensible_array::collect_extensible_array_chunk_entries_storage(
                    walk,
                    address,
                    offset_size,
                    length_size,
                    self.shape,
                    largest,
                    &dims,
                    None,
                )
            }
            Some(ChunkIndexing::BTreeV2) => {
                let rank = u32::try_from(rank).unwrap_or(u32::MAX);
                chunk_index::collect_v2_chunk_entries_storage(walk, address, offset_size, length_size, rank, &dims, None)
            }
        };
        for entry in entries.map_err(|error| walk.translate(&error))? {
            self.add(&mut chunks, &entry.offsets, entry.address, entry.size, entry.filter_mask)?;
        }
        self.check(chunks)
    }

    /// Chunks one after the other, without filters and all of them written.
    fn implicit(&self, chunks: &mut Chunks, address: u64, numbers: &[u64]) -> Result<()> {
        let decoded = u64::from(chunks.decoded);
        if chunks.grid_len() > self.walk.file.len / decoded.max(1) {
            return Err(self.walk.error(ErrorKind::Truncated, "more chunks than the file can hold"));
        }
        for index in 0..chunks.grid_len() {
            let start = chunks.start(index);
            let scaled = start.iter().zip(&chunks.shape).map(|(start, chunk)| start / chunk);
            let number = scaled.zip(numbers).try_fold(0_u64, |number, (scaled, count)| number.checked_mul(*count)?.checked_add(scaled));
            let place = number.and_then(|number| number.checked_mul(decoded)).and_then(|offset| address.checked_add(offset));
            let place = place.ok_or_else(|| self.walk.format("a chunk at no address"))?;
            self.add(chunks, &start, place, decoded, 0)?;
        }
        Ok(())
    }

    /// Adds a chunk as its index has it.
    fn add(&self, chunks: &mut Chunks, start: &[u64], address: u64, bytes: u64, mask: u32) -> Result<()> {
        let walk = self.walk;
        if start.len() != self.shape.len() || start.iter().zip(&chunks.shape).any(|(start, chunk)| start % chunk != 0) {
            return Err(walk.format(format_args!("a chunk at {start:?}, which is not on the grid")));
        }
        // Chunks outside the shape are left over from before it shrank.
        if walk.file.is_undefined(address) || start.iter().zip(self.shape).any(|(start, extent)| start >= extent) {
            return Ok(());
        }
        let decoded = u64::from(chunks.decoded);
        let (bytes, mask) = if self.filtered {
            let edge = start.iter().zip(&chunks.shape).zip(self.shape).any(|((start, chunk), extent)| start + chunk > *extent);
            (bytes, if self.plain_edges && edge { u32::MAX } else { mask })
        } else {
            (if bytes == 0 { decoded } else { bytes }, 0)
        };
        if !self.filtered && bytes != decoded || bytes == 0 {
            return Err(walk.format(format_args!("the chunk at {start:?} has {bytes} bytes")).expecting(format!("{decoded}")));
        }
        if address.checked_add(bytes).is_none_or(|end| end > walk.file.len) {
            chunks.beyond += 1;
            return Ok(());
        }
        let bytes = u32::try_from(bytes).map_err(|_| walk.unsupported("chunks of 4 GiB and more"))?;
        let scaled = start.iter().zip(&chunks.shape).map(|(start, chunk)| start / chunk);
        let index = scaled.zip(&chunks.grid).fold(0, |index, (scaled, count)| index * count + scaled);
        chunks.list.push(Chunk { index, address: walk.file.base + address, bytes, mask });
        Ok(())
    }

    fn check(&self, mut chunks: Chunks) -> Result<Chunks> {
        let walk = self.walk;
        let before = |pair: &[Chunk]| matches!(pair, [a, b] if a.index < b.index);
        if !chunks.list.windows(2).all(before) {
            chunks.list.sort_unstable_by_key(|chunk| chunk.index);
        }
        if !chunks.list.windows(2).all(before) {
            return Err(walk.format("two chunks for the same elements"));
        }
        let total = chunks.list.iter().fold(0_u64, |total, chunk| total.saturating_add(u64::from(chunk.bytes)));
        if total > walk.file.len {
            return Err(walk.format("its chunks are larger than the file").expecting(format!("{} bytes at most", walk.file.len)));
        }
        chunks.list.shrink_to_fit();
        Ok(chunks)
    }
}
