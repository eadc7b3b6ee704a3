//! Blocks: cached reads of small ranges.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::source::Source;

/// Metadata is read in ranges of 4 to 4096 bytes; B-tree nodes lie scattered between chunks, so blocks are small.
const BLOCK: u64 = 4 << 10;
const BLOCKS: usize = 1024;

/// Small reads of a file through at most 4 MiB of cached blocks.
pub(super) struct Blocks {
    source: Arc<Source>,
    cached: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    blocks: HashMap<u64, (Arc<Vec<u8>>, u64)>,
    clock: u64,
}

/// Bytes of the file.
pub(super) struct Piece {
    pub(super) owner: Arc<Vec<u8>>,
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.owner.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl Blocks {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self { source, cached: Mutex::default() }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// `len` bytes at `offset`; the caller has checked that the file has them.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Piece> {
        let (first, last) = (offset / BLOCK, offset.saturating_add((len as u64).saturating_sub(1)) / BLOCK);
        if first == last {
            let start = (offset % BLOCK) as usize;
            return Ok(Piece { owner: self.block(first)?, start, len });
        }
        if last - first > 3 {
            let mut bytes = vec![0; len];
            self.source.read_exact_at(&mut bytes, offset)?;
            return Ok(Piece { owner: Arc::new(bytes), start: 0, len });
        }
        let mut bytes = Vec::with_capacity(len);
        for number in first..=last {
            let block = self.block(number)?;
            let from = if number == first { (offset % BLOCK) as usize } else { 0 };
            let rest = block.get(from..).unwrap_or_default();
            bytes.extend_from_slice(rest.get(..len - bytes.len()).unwrap_or(rest));
        }
        let len = bytes.len();
        Ok(Piece { owner: Arc::new(bytes), start: 0, len })
    }

    fn block(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        {
            let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
            cached.clock += 1;
            let clock = cached.clock;
            if let Some((block, used)) = cached.blocks.get_mut(&number) {
                *used = clock;
                return Ok(block.clone());
            }
        }
        let offset = number * BLOCK;
        let mut bytes = vec![0; self.source.len().saturating_sub(offset).min(BLOCK) as usize];
        self.source.read_exact_at(&mut bytes, offset)?;
        let block = Arc::new(bytes);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.blocks.len() >= BLOCKS {
            // The older half goes at once, so that making room is cheap however many blocks pass through.
            let mut ages: Vec<u64> = cached.blocks.values().map(|(_, used)| *used).collect();
            let (_, median, _) = ages.select_nth_unstable(BLOCKS / 2);
            let median = *median;
            cached.blocks.retain(|_, (_, used)| *used > median);
        }
        let clock = cached.clock;
        cached.blocks.insert(number, (block.clone(), clock));
        Ok(block)
    }
}
