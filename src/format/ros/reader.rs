//! The reader of a topic: whole reads, batches, triggers and problems over planned blocks.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::container::{Block, Container};
use super::load::{Loaded, Taking};
use super::seek;
use super::walk::{Input, Part, Planned, Run, Walk};
use crate::columns::{ColumnsBuilder, EventColumns, Slots, TriggerColumns};
use crate::error::{Error, ErrorKind, Result};
use crate::problem::Problems;
use crate::reader::{BatchStream, Progress, Reader, Reading, first_of};
use crate::schema::{Column, Columns, TimeRange};
use crate::selection::{Filter, Selection};

/// Bytes of blocks that are planned together, at first in a stream of batches and later.
const FIRST_GROUP: u64 = 1;
const GROUP: u64 = 8 << 20;
/// Bytes of blocks whose rows are filtered together.
const FILTER_GROUP: u64 = 4 << 20;
/// Rows decoded at a time before they are filtered.
const SCRATCH_ROWS: usize = 16 << 10;
/// Most rows that a guess takes addresses for.
const MOST_LIKELY: usize = 1 << 31;

/// A block of the index.
#[derive(Debug, Clone)]
struct Indexed {
    block: Block,
    parts: Vec<Part>,
}

/// What a pass over all blocks finds out.
struct Index {
    blocks: Vec<Indexed>,
    problems: Problems,
}

impl Index {
    fn parts(&self) -> impl Iterator<Item = (&Indexed, &Part)> {
        self.blocks.iter().flat_map(|indexed| indexed.parts.iter().map(move |part| (indexed, part)))
    }
}

/// The blocks of a topic.
struct Blocks {
    list: Vec<Block>,
    problems: Problems,
}

/// The reader of a topic, and of the topics with triggers that belong to it.
pub(super) struct TopicReader {
    pub(super) container: Arc<dyn Container>,
    pub(super) taking: Taking,
    triggers: Vec<TopicReader>,
    blocks: OnceLock<Blocks>,
    index: OnceLock<Index>,
}

impl TopicReader {
    pub(super) fn new(container: Arc<dyn Container>, taking: Taking, triggers: Vec<TopicReader>) -> Self {
        Self { container, taking, triggers, blocks: OnceLock::new(), index: OnceLock::new() }
    }

    fn blocks(&self) -> Result<&Blocks> {
        if let Some(blocks) = self.blocks.get() {
            return Ok(blocks);
        }
        let (list, problems) = self.container.blocks(&self.taking.topic)?;
        Ok(self.blocks.get_or_init(|| Blocks { list, problems }))
    }

    fn input(&self) -> Result<Input<'_>> {
        Ok(Input { container: &*self.container, taking: &self.taking, blocks: &self.blocks()?.list })
    }

    /// The index, made in one pass over all blocks if need be.
    fn index(&self, pool: &ThreadPool) -> Result<&Index> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let index = self.pass(pool, |_| Ok(()))?;
        Ok(self.index.get_or_init(|| index))
    }

    /// One pass over all blocks; gives what is loaded and counted to `each`.
    fn pass(&self, pool: &ThreadPool, mut each: impl FnMut(&[Planned]) -> Result<()>) -> Result<Index> {
        let input = self.input()?;
        let mut walk = Walk::new(&self.taking, 0..input.blocks.len(), None);
        let mut index = Index { blocks: Vec::new(), problems: Problems::default() };
        while let Some(planned) = pool.install(|| walk.next(&input, GROUP, &mut index.problems))? {
            each(&planned)?;
            index.blocks.extend(planned.into_iter().map(|planned| Indexed { block: planned.block, parts: planned.parts }));
        }
        index.blocks.shrink_to_fit();
        Ok(index)
    }

    /// The bytes of a block.
    fn load(&self, block: &Block) -> Result<Arc<Loaded>> {
        self.taking.load(&*self.container, block, false, &mut Problems::default()).map(Arc::new)
    }

    /// Everything, in the one pass that makes the index; `None` where there are more events than the first blocks
    /// promise.
    ///
    /// Rows that are never written cost no memory: the system gives pages when they are first touched.
    fn read_once(&self, columns: Columns, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        let all: u64 = self.blocks()?.list.iter().map(|block| block.bytes).sum();
        let (mut rows, mut bytes, mut fits) = (0, 0, true);
        let mut builder: Option<ColumnsBuilder> = None;
        let index = self.pass(pool, |planned| {
            let more = events_of(planned)?;
            bytes += planned.iter().map(|planned| planned.block.bytes).sum::<u64>();
            if !fits || more == 0 {
                return Ok(());
            }
            let room = builder.get_or_insert_with(|| {
                let likely = u128::from(all) * more as u128 / u128::from(bytes.max(1));
                let likely = usize::try_from(likely + likely / 4).unwrap_or(usize::MAX).min(MOST_LIKELY);
                ColumnsBuilder::new(if bytes < all { likely.max(more) } else { more }, columns)
            });
            let mut slots = room.slots();
            slots.split_off_front(rows);
            if slots.room() < more {
                fits = false;
                builder = None;
                return Ok(());
            }
            rows += more;
            pool.install(|| self.fill(planned, columns, slots))
        })?;
        let _already_there = self.index.set(index);
        Ok(fits.then(|| builder.unwrap_or_else(|| ColumnsBuilder::new(0, columns)).finish(rows)))
    }

    /// Everything, into one set of columns at exact places.
    fn read_all(&self, columns: Columns, pool: &ThreadPool) -> Result<EventColumns> {
        if self.index.get().is_none()
            && let Some(events) = self.read_once(columns, pool)?
        {
            return Ok(events);
        }
        let index = self.index(pool)?;
        let rows: u64 = index.parts().map(|(_, part)| part.events).sum();
        let rows = usize::try_from(rows).map_err(|_| Error::invalid(format!("{rows} events do not fit the address space")))?;
        let mut builder = ColumnsBuilder::new(rows, columns);
        let mut rest = builder.slots();
        let work: Vec<_> = index
            .blocks
            .iter()
            .map(|indexed| {
                let events: u64 = indexed.parts.iter().map(|part| part.events).sum();
                (indexed, rest.split_off_front(usize::try_from(events).unwrap_or(usize::MAX)))
            })
            .filter(|(_, slots)| slots.room() > 0)
            .collect();
        pool.install(|| {
            work.into_par_iter().try_for_each(|(indexed, mut slots)| {
                let loaded = self.load(&indexed.block)?;
                for part in &indexed.parts {
                    let mut own = slots.split_off_front(usize::try_from(part.events).unwrap_or(usize::MAX).min(slots.room()));
                    Run::new(&self.taking, &loaded, *part).fill(columns, &mut own);
                    if own.room() > 0 {
                        return Err(changed(&indexed.block, part.events, own.len));
                    }
                }
                Ok(())
            })
        })?;
        Ok(builder.finish(rows))
    }

    /// All rows of these blocks.
    fn decode_all(&self, blocks: &[Planned], columns: Columns) -> Result<EventColumns> {
        let rows = events_of(blocks)?;
        let mut builder = ColumnsBuilder::new(rows, columns);
        self.fill(blocks, columns, builder.slots())?;
        Ok(builder.finish(rows))
    }

    /// Decodes these blocks into the first of the rows.
    fn fill(&self, blocks: &[Planned], columns: Columns, mut rest: Slots<'_>) -> Result<()> {
        let parts = blocks.iter().flat_map(|planned| planned.parts.iter().map(move |part| (planned, part)));
        let work: Vec<_> = parts
            .map(|(planned, part)| (planned, part, rest.split_off_front(usize::try_from(part.events).unwrap_or(usize::MAX))))
            .collect();
        work.into_par_iter().try_for_each(|(planned, part, mut slots)| {
            Run::new(&self.taking, &planned.loaded, *part).fill(columns, &mut slots);
            if slots.room() > 0 { Err(changed(&planned.block, part.events, slots.len)) } else { Ok(()) }
        })
    }

    /// The rows of these blocks that `filter` wants.
    fn decode_some(&self, blocks: &[Planned], selection: &Selection, filter: &Filter) -> EventColumns {
        let range = selection.time_range;
        let parts: Vec<_> = blocks.iter().flat_map(|planned| planned.parts.iter().map(move |part| (planned, part))).collect();
        let kept: Vec<EventColumns> = parts
            .into_par_iter()
            .filter(|(_, part)| part.events > 0 && range.intersects(part.first_us, part.last_us))
            .flat_map_iter(|(planned, part)| {
                let mut run = Run::new(&self.taking, &planned.loaded, *part);
                let mut scratch = ColumnsBuilder::new(SCRATCH_ROWS, filter.columns);
                let mut kept = Vec::new();
                loop {
                    let mut slots = scratch.slots();
                    let more = run.fill(filter.columns, &mut slots);
                    let part = filter.keep(slots.filled());
                    if !part.is_empty() {
                        kept.push(part);
                    }
                    if !more {
                        return kept;
                    }
                }
            })
            .collect();
        EventColumns::concat(kept, selection.columns)
    }

    /// The external triggers of this topic alone.
    fn own_triggers(&self, pool: &ThreadPool) -> Result<TriggerColumns> {
        let index = self.index(pool)?;
        let blocks: Vec<_> = index.blocks.iter().filter(|indexed| indexed.parts.iter().any(|part| part.triggers > 0)).collect();
        let found: Vec<TriggerColumns> = pool.install(|| {
            blocks
                .into_par_iter()
                .map(|indexed| {
                    let loaded = self.load(&indexed.block)?;
                    let mut found = TriggerColumns::default();
                    for part in indexed.parts.iter().filter(|part| part.triggers > 0) {
                        Run::new(&self.taking, &loaded, *part).triggers(&mut found);
                    }
                    Ok(found)
                })
                .collect::<Result<_>>()
        })?;
        let mut all = TriggerColumns::default();
        for part in found {
            all.append(part);
        }
        Ok(all)
    }

    /// Earliest and latest time of a part.
    fn extent(&self, indexed: &Indexed, part: &Part, pool: &ThreadPool) -> Result<Option<(i64, i64)>> {
        let loaded = self.load(&indexed.block)?;
        let planned = Planned { block: indexed.block, parts: vec![*part], loaded };
        let events = pool.install(|| self.decode_all(&[planned], Columns::NONE.with(Column::Timestamp)))?;
        let times = events.timestamp();
        Ok(times.iter().min().copied().zip(times.iter().max().copied()))
    }
}

fn events_of(blocks: &[Planned]) -> Result<usize> {
    let rows: u64 = blocks.iter().flat_map(|planned| &planned.parts).map(|part| part.events).sum();
    usize::try_from(rows).map_err(|_| Error::invalid(format!("{rows} events do not fit the address space")))
}

fn changed(block: &Block, expected: u64, found: usize) -> Error {
    Error::new(ErrorKind::Truncated, "the file changed while it was read")
        .expecting(format!("{expected} events"))
        .but_found(found.to_string())
        .at(block.offset)
}

impl Reader for TopicReader {
    fn read(&self, selection: &Selection, pool: &ThreadPool) -> Result<EventColumns> {
        if selection.limit.is_none() && !selection.filters_rows() {
            return self.read_all(selection.columns, pool);
        }
        Batches::new(selection).rest(self, selection.columns, pool)
    }

    fn batches(self: Arc<Self>, selection: &Selection) -> Box<dyn BatchStream> {
        Box::new(Reading { reader: self, progress: Batches::new(selection) })
    }

    fn triggers(&self, pool: &ThreadPool) -> Result<TriggerColumns> {
        let mut all = self.own_triggers(pool)?;
        for other in &self.triggers {
            all.append(other.own_triggers(pool)?);
        }
        Ok(all)
    }

    fn counts(&self, pool: &ThreadPool) -> Result<(u64, u64)> {
        let events = self.index(pool)?.parts().map(|(_, part)| part.events).sum();
        let mut triggers = 0;
        for reader in std::iter::once(self).chain(&self.triggers) {
            triggers += reader.index(pool)?.parts().map(|(_, part)| part.triggers).sum::<u64>();
        }
        Ok((events, triggers))
    }

    fn time_range(&self, pool: &ThreadPool) -> Result<Option<(i64, i64)>> {
        let mut parts: Vec<_> = self.index(pool)?.parts().filter(|(_, part)| part.events > 0).collect();
        // Only parts whose bounds reach further than what has been found need decoding.
        let mut first: Option<i64> = None;
        parts.sort_by_key(|(_, part)| part.first_us);
        for (indexed, part) in &parts {
            if first.is_some_and(|first| part.first_us >= first) {
                break;
            }
            let low = self.extent(indexed, part, pool)?.map(|(low, _)| low);
            first = first.into_iter().chain(low).min();
        }
        let mut last: Option<i64> = None;
        parts.sort_by_key(|(_, part)| std::cmp::Reverse(part.last_us));
        for (indexed, part) in &parts {
            if last.is_some_and(|last| part.last_us <= last) {
                break;
            }
            let high = self.extent(indexed, part, pool)?.map(|(_, high)| high);
            last = last.into_iter().chain(high).max();
        }
        Ok(first.zip(last))
    }

    fn problems(&self, pool: &ThreadPool) -> Result<Problems> {
        let mut problems = self.blocks()?.problems.clone();
        problems.merge(&self.index(pool)?.problems);
        for other in &self.triggers {
            problems.merge(&other.index(pool)?.problems);
        }
        Ok(problems)
    }

    fn is_indexed(&self) -> bool {
        std::iter::once(self).chain(&self.triggers).all(|reader| reader.index.get().is_some())
    }

    fn save_index(&self, _: &ThreadPool) -> Result<PathBuf> {
        Err(Error::invalid("bags and MCAP files have an index of their own: none is saved beside them"))
    }
}

/// Where the blocks of a stream of batches come from.
enum Origin {
    /// Not known before the first batch.
    Open,
    /// Blocks that have been planned before.
    Known(VecDeque<Indexed>),
    Walk(Box<Walk>),
}

impl Origin {
    /// What to read for a range of times.
    fn find(reader: &TopicReader, range: TimeRange, pool: &ThreadPool) -> Result<Self> {
        let blocks = reader.blocks()?.list.len();
        if reader.index.get().is_none() {
            if range.is_all() {
                return Ok(Self::Walk(Box::new(Walk::new(&reader.taking, 0..blocks, None))));
            }
            if let Some((part, entry)) = pool.install(|| seek::seek(&reader.input()?, range))? {
                return Ok(Self::Walk(Box::new(Walk::new(&reader.taking, part, entry))));
            }
        }
        let wanted = reader.index(pool)?.blocks.iter().filter_map(|indexed| {
            let hit = |part: &&Part| part.events > 0 && range.intersects(part.first_us, part.last_us);
            let parts: Vec<_> = indexed.parts.iter().filter(hit).copied().collect();
            (!parts.is_empty()).then_some(Indexed { block: indexed.block, parts })
        });
        Ok(Self::Known(wanted.collect()))
    }
}

/// How far a stream of batches of a topic has come.
struct Batches {
    selection: Selection,
    filter: Filter,
    /// Rows still wanted.
    left: u64,
    origin: Origin,
    /// Bytes of the next group of blocks.
    group: u64,
    /// Planned blocks that have not been decoded.
    ready: VecDeque<Planned>,
}

impl Batches {
    fn new(selection: &Selection) -> Self {
        Self {
            selection: selection.clone(),
            filter: Filter::new(selection),
            left: selection.limit.unwrap_or(u64::MAX),
            origin: Origin::Open,
            group: FIRST_GROUP,
            ready: VecDeque::new(),
        }
    }

    /// Plans or loads more blocks; false at the end.
    fn more(&mut self, reader: &TopicReader, pool: &ThreadPool) -> Result<bool> {
        let range = self.selection.time_range;
        let bytes = self.group;
        self.group = (2 * self.group.max(32 << 10)).min(FILTER_GROUP);
        match &mut self.origin {
            Origin::Open => {
                self.origin = Origin::find(reader, range, pool)?;
                Ok(true)
            }
            Origin::Walk(walk) => {
                let input = reader.input()?;
                let Some(planned) = pool.install(|| walk.next(&input, bytes, &mut Problems::default()))? else { return Ok(false) };
                self.ready.extend(planned);
                Ok(true)
            }
            Origin::Known(rest) => {
                let mut total = 0;
                let mut group = Vec::new();
                while let Some(front) = rest.front() {
                    if !group.is_empty() && total + front.block.bytes > bytes {
                        break;
                    }
                    total += front.block.bytes;
                    group.extend(rest.pop_front());
                }
                if group.is_empty() {
                    return Ok(false);
                }
                let loaded: Vec<Planned> = pool.install(|| {
                    group
                        .into_par_iter()
                        .map(|indexed| Ok(Planned { loaded: reader.load(&indexed.block)?, block: indexed.block, parts: indexed.parts }))
                        .collect::<Result<_>>()
                })?;
                self.ready.extend(loaded);
                Ok(true)
            }
        }
    }
}

impl Progress<TopicReader> for Batches {
    fn next(&mut self, reader: &TopicReader, rows: usize, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        while self.left > 0 {
            let filters = self.selection.filters_rows();
            let (mut total, mut group) = (0, Vec::new());
            let limit = if filters { FILTER_GROUP.min((rows as u64).saturating_mul(8)) } else { (rows as u64).min(self.left) };
            loop {
                let Some(front) = self.ready.front() else {
                    if !group.is_empty() || !self.more(reader, pool)? {
                        break;
                    }
                    continue;
                };
                let size = if filters { front.block.bytes } else { front.parts.iter().map(|part| part.events).sum() };
                if !group.is_empty() && total + size > limit {
                    break;
                }
                total += size;
                group.extend(self.ready.pop_front());
            }
            if group.is_empty() {
                return Ok(None);
            }
            let events = pool.install(|| {
                if filters {
                    Ok(reader.decode_some(&group, &self.selection, &self.filter))
                } else {
                    reader.decode_all(&group, self.selection.columns)
                }
            })?;
            if !events.is_empty() {
                return Ok(Some(first_of(events, &mut self.left)));
            }
        }
        Ok(None)
    }
}
