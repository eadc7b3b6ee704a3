//! Segments, parallel decoding in order, batches.
//!
//! A [`Segmented`] format cuts a file into segments whose entry state is known. Whole reads decode them in parallel
//! into one set of columns at exact offsets; batches decode a few at a time, so that memory is bounded by the
//! segments in flight. Bytes are read by position into buffers that each thread reuses.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use crate::columns::{ColumnsBuilder, EventColumns, Kept, Slots, TriggerColumns};
use crate::error::{Error, Result};
use crate::index;
use crate::problem::Problems;
use crate::reader::{Progress, SegmentReader, first_of, no_side_stream};
use crate::relay;
use crate::schema::{Column, Columns, TimeRange};
use crate::selection::{Filter, Selection};
use crate::side::SideStream;
use crate::source::{Buffer, Source};

/// Bytes read at a time for planning a whole file.
const WINDOW: usize = 4 << 20;
/// Bytes of the first window of a stream of batches, and of the later ones.
const FIRST_WINDOW: usize = 64 << 10;
const BATCH_WINDOW: usize = 2 << 20;
/// Bytes a thread reads at a time.
const READ: usize = 256 << 10;
/// Rows decoded at a time before they are filtered.
const SCRATCH_ROWS: usize = 16 << 10;
/// Rows of a batch where the caller does not say.
pub(crate) const BATCH_ROWS: usize = 512 << 10;
/// Files of at least this size are bisected for a time range where there is no index.
const SEEK_FROM: u64 = 32 << 20;
/// Most bytes of a file that are planned at once after a bisection.
const SEEK_TO: u64 = 64 << 20;
/// Files of up to this size are planned as a whole for a time range; longer ones are planned as they are read.
const PLAN_UP_TO: u64 = 4 << 30;
/// Bytes decoded at a time where rows are filtered, so that their number is not known.
const FILTER_WINDOW: u64 = 4 << 20;
/// Segments of an index; where a file would have more, neighbours are merged.
const INDEX_SEGMENTS: usize = 1 << 16;

/// A stretch of the file that can be decoded on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment<S> {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// What a decoder must know at its start.
    pub(crate) state: S,
    pub(crate) events: u64,
    pub(crate) triggers: u64,
    /// No event is earlier or later than these.
    pub(crate) first_us: i64,
    pub(crate) last_us: i64,
}

/// A stretch of a file that can be copied, and what has to stand before it.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    /// Words that bring a decoder into the state at the start.
    pub(crate) lead: Vec<u8>,
    pub(crate) bytes: std::ops::Range<u64>,
}

/// A part of a file and the state at its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<S> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) state: S,
}

/// Finds the segments of a file from its bytes, in order.
pub(crate) trait Planner: Send {
    type State;

    /// Plans the start of `bytes`, which stand at `offset`; `last` says that the file ends with them. Returns how many
    /// bytes need not be shown again; 0 asks for a longer stretch. Segments have no counts, but where the planner sees
    /// all that they hold, and that nothing of it is left out: those with events are not counted again.
    fn plan(&mut self, bytes: &[u8], offset: u64, last: bool, plan: &mut Vec<Segment<Self::State>>, problems: &mut Problems) -> usize;
}

/// A format whose files are cut into segments.
pub(crate) trait Segmented: Send + Sync + 'static {
    /// What a decoder must know to start in the middle.
    type State: Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static;

    /// Byte at which the payload starts.
    fn payload(&self) -> u64;

    /// A planner that starts in this state.
    fn planner(&self, state: Self::State) -> Box<dyn Planner<State = Self::State>>;

    /// The state at the start of the payload.
    fn start(&self) -> Self::State;

    /// The part of a large file that has the events of a time range, found by bisection; `None` if that cannot be
    /// told without a pass over the file.
    fn seek(&self, source: &Source, range: TimeRange) -> Result<Option<Span<Self::State>>>;

    /// Counts the events and triggers of a segment, and what decoding it will drop.
    fn count(&self, segment: &mut Segment<Self::State>, bytes: &[u8], problems: &mut Problems);

    /// Decodes into `out` until the bytes end or a word's events do not fit; returns the bytes consumed.
    fn fill(&self, columns: Columns, state: &mut Self::State, bytes: &[u8], out: &mut Slots<'_>) -> usize;

    /// What the states of an index depend on beside the bytes.
    fn key(&self) -> String;

    /// A state as two numbers, for an index that is saved.
    fn pack(state: &Self::State) -> [u64; 2];

    /// The state that `pack` made these numbers of; `None` for numbers that it makes of none.
    fn unpack(&self, numbers: [u64; 2]) -> Option<Self::State>;

    /// Whether planning takes little of the time of a pass, so that threads can take turns at it.
    const PLANS_FAST: bool = false;

    /// Whether counting events costs about as much as decoding them, so that it is left out where it can be.
    const COUNTS_DEARLY: bool = false;

    /// Most events that a segment with these bytes can hold; asked only where counting is dear.
    fn most(&self, bytes: &[u8]) -> u64 {
        (bytes.len() as u64).saturating_mul(self.events_per_byte())
    }

    /// Most events that a byte of payload can hold, rounded up.
    fn events_per_byte(&self) -> u64;

    /// Most events that so many bytes of payload can hold, if they usually hold nearly as many.
    fn about_events(&self, _bytes: u64) -> Option<u64> {
        None
    }

    /// Decodes the external triggers of `bytes`.
    fn triggers(&self, state: &mut Self::State, bytes: &[u8], out: &mut TriggerColumns);

    /// The bytes that have all events and triggers of a time range, where they can be copied as they are.
    fn cut(_scan: &Scan<Self>, _range: TimeRange, _pool: &rayon::ThreadPool) -> Result<Option<Cut>>
    where
        Self: Sized,
    {
        Ok(None)
    }

    /// The stream beside the events that has this name.
    fn side(_reader: Arc<SegmentReader<Self>>, name: &str) -> Result<SideStream>
    where
        Self: Sized,
    {
        Err(no_side_stream(name, &[]))
    }
}

/// How much a pass over the file finds out about its segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Entry states and times.
    Times,
    /// In place of counts, [`Segmented::most`].
    Most,
    /// Counts and problems too.
    Counts,
}

impl Depth {
    /// Finds out what a planned segment still lacks.
    pub(crate) fn look<F: Segmented>(self, format: &F, segment: &mut Segment<F::State>, bytes: &[u8], problems: &mut Problems) {
        match self {
            Self::Times => {}
            Self::Most => segment.events = format.most(bytes),
            // Some planners count as they go.
            Self::Counts if segment.events > 0 => {}
            Self::Counts => format.count(segment, bytes, problems),
        }
    }
}

/// The segments of a whole file.
#[derive(Debug, Clone)]
pub(crate) struct Index<S> {
    pub(crate) segments: Vec<Segment<S>>,
    pub(crate) problems: Problems,
}

impl<S: Copy> Index<S> {
    pub(crate) fn events(&self) -> u64 {
        self.segments.iter().map(|segment| segment.events).sum()
    }

    pub(crate) fn triggers(&self) -> u64 {
        self.segments.iter().map(|segment| segment.triggers).sum()
    }
}

/// An index being made.
pub(crate) struct IndexBuilder<S> {
    index: Index<S>,
    /// Segments at which there are too many.
    most: usize,
}

impl<S> Default for IndexBuilder<S> {
    fn default() -> Self {
        Self { index: Index { segments: Vec::new(), problems: Problems::default() }, most: INDEX_SEGMENTS }
    }
}

impl<S: Copy> IndexBuilder<S> {
    /// Appends the next segments of the file.
    pub(crate) fn append(&mut self, mut segments: Vec<Segment<S>>, problems: &Problems) {
        self.index.segments.append(&mut segments);
        self.index.problems.merge(problems);
        if self.index.segments.len() > self.most {
            self.coarsen();
            self.most = INDEX_SEGMENTS.max(2 * self.index.segments.len());
        }
    }

    pub(crate) fn finish(mut self) -> Index<S> {
        self.index.segments.shrink_to_fit();
        self.index
    }

    /// Merges neighbours that touch, two by two, until there are few enough.
    fn coarsen(&mut self) {
        while self.index.segments.len() > INDEX_SEGMENTS {
            let before = self.index.segments.len();
            let mut merged: Vec<Segment<S>> = Vec::with_capacity(before / 2 + 1);
            let mut pair_open = false;
            for segment in self.index.segments.drain(..) {
                match merged.last_mut() {
                    Some(last) if pair_open && last.offset + last.len == segment.offset => {
                        last.len += segment.len;
                        last.events += segment.events;
                        last.triggers += segment.triggers;
                        last.first_us = last.first_us.min(segment.first_us);
                        last.last_us = last.last_us.max(segment.last_us);
                        pair_open = false;
                    }
                    _ => {
                        merged.push(segment);
                        pair_open = true;
                    }
                }
            }
            self.index.segments = merged;
            // Damaged places keep their neighbours apart.
            if self.index.segments.len() > before / 10 * 9 {
                break;
            }
        }
    }
}

/// The thread pool for `threads` threads, or for all processors.
///
/// Pools belong to the process that made them: a forked child makes its own.
pub(crate) fn pool(threads: Option<usize>) -> Result<Arc<rayon::ThreadPool>> {
    /// The process that made the pools, and its pools by their number of threads.
    type Pools = (u32, HashMap<usize, Arc<rayon::ThreadPool>>);
    static POOLS: Mutex<Option<Pools>> = Mutex::new(None);
    let threads = match threads {
        Some(0) => return Err(Error::invalid("`threads` must be at least 1")),
        Some(threads) => threads.min(256),
        None => std::thread::available_parallelism().map_or(1, Into::into),
    };
    let process = std::process::id();
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if pools.as_ref().is_some_and(|(owner, _)| *owner != process) {
        // The parent's worker threads do not exist here: its pools cannot be shut down, only left alone.
        std::mem::forget(pools.take());
    }
    let (_, pools) = pools.get_or_insert_with(|| (process, HashMap::new()));
    if let Some(pool) = pools.get(&threads) {
        return Ok(Arc::clone(pool));
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("evlib-{index}"))
        .build()
        .map_err(|error| Error::invalid(format!("cannot start {threads} threads: {error}")))?;
    let pool = Arc::new(pool);
    pools.insert(threads, Arc::clone(&pool));
    Ok(pool)
}

/// A segmented file and its index, once there is one.
pub(crate) struct Scan<F: Segmented> {
    pub(crate) source: Source,
    pub(crate) format: F,
    index: OnceLock<Arc<Index<F::State>>>,
    /// The segments without counts, which take less time to find and are all that a time range needs.
    plan: OnceLock<Index<F::State>>,
}

impl<F: Segmented> Scan<F> {
    pub(crate) fn new(source: Source, format: F) -> Self {
        Self { source, format, index: OnceLock::new(), plan: OnceLock::new() }
    }

    /// The index if it has been built or loaded.
    pub(crate) fn known_index(&self) -> Option<&Index<F::State>> {
        self.index.get().map(|index| &**index)
    }

    /// Takes an index that was made for this very file.
    pub(crate) fn set_index(&self, index: Arc<Index<F::State>>) {
        let _already_built = self.index.set(index);
    }

    /// Takes an index that has just been made, and keeps it for the process.
    fn made_index(&self, index: Index<F::State>) -> &Index<F::State> {
        self.index.get_or_init(|| {
            let index = Arc::new(index);
            index::keep(&self.source, &self.format, &index);
            index
        })
    }

    /// The index, built in one parallel pass over the file if need be.
    pub(crate) fn index(&self, pool: &rayon::ThreadPool) -> Result<&Index<F::State>> {
        if let Some(index) = self.known_index() {
            return Ok(index);
        }
        let index = pool.install(|| match self.plan.get() {
            Some(plan) => {
                let mut index = plan.clone();
                self.count(&mut index)?;
                Ok(index)
            }
            None => self.pass(Depth::Counts),
        })?;
        Ok(self.made_index(index))
    }

    /// The segments with their times; counts are there only if the index has been built.
    fn plan(&self, pool: &rayon::ThreadPool) -> Result<&Index<F::State>> {
        if let Some(known) = self.known_index().or_else(|| self.plan.get()) {
            return Ok(known);
        }
        let plan = pool.install(|| self.pass(Depth::Times))?;
        Ok(self.plan.get_or_init(|| plan))
    }

    /// One pass over the file.
    fn pass(&self, depth: Depth) -> Result<Index<F::State>> {
        if F::PLANS_FAST {
            return relay::index(self, depth, rayon::current_num_threads());
        }
        let mut windows = Windows::new(&self.format, depth);
        let mut index = IndexBuilder::default();
        while let Some((segments, problems)) = windows.next(self, WINDOW)? {
            index.append(segments, &problems);
        }
        Ok(index.finish())
    }

    /// Counts the segments of a plan.
    fn count(&self, index: &mut Index<F::State>) -> Result<()> {
        let found: Vec<_> = index
            .segments
            .par_iter_mut()
            .map(|segment| {
                let mut problems = Problems::default();
                if segment.events > 0 {
                    return Ok(problems);
                }
                let len = usize::try_from(segment.len).unwrap_or(usize::MAX);
                with_buffer(|buffer| {
                    let bytes = buffer.take(len);
                    self.source.read_exact_at(bytes, segment.offset)?;
                    self.format.count(segment, bytes, &mut problems);
                    Ok(problems)
                })
            })
            .collect::<Result<_>>()?;
        for problems in &found {
            index.problems.merge(problems);
        }
        Ok(())
    }

    /// Reads a segment piece by piece and gives each piece to `decode`, which returns the bytes it consumed.
    fn pieces(&self, segment: &Segment<F::State>, mut decode: impl FnMut(&mut F::State, &[u8]) -> usize) -> Result<()> {
        let mut state = segment.state;
        let (mut offset, end) = (segment.offset, segment.offset + segment.len);
        with_buffer(|buffer| {
            while offset < end {
                let len = usize::try_from(end - offset).unwrap_or(READ).min(READ);
                let bytes = buffer.take(len);
                self.source.read_exact_at(bytes, offset)?;
                let consumed = decode(&mut state, bytes);
                if consumed == 0 {
                    break;
                }
                offset += consumed as u64;
            }
            Ok(())
        })
    }

    /// Decodes whole segments, whose counts are exact, into one set of columns.
    fn decode_all(&self, segments: &[Segment<F::State>], columns: Columns) -> Result<EventColumns> {
        let rows = rows(segments.iter().map(|segment| segment.events).sum())?;
        let mut builder = ColumnsBuilder::new(rows, columns);
        let mut rest = builder.slots();
        let work: Vec<_> = segments
            .iter()
            .filter(|segment| segment.events > 0)
            .map(|segment| (segment, rest.split_off_front(usize::try_from(segment.events).unwrap_or(usize::MAX))))
            .collect();
        work.into_par_iter().try_for_each(|(segment, slots)| self.decode_whole(segment, columns, slots))?;
        Ok(builder.finish(rows))
    }

    /// Decodes a whole segment into exactly as many rows as were counted.
    fn decode_whole(&self, segment: &Segment<F::State>, columns: Columns, mut slots: Slots<'_>) -> Result<()> {
        self.pieces(segment, |state, bytes| self.format.fill(columns, state, bytes, &mut slots))?;
        if slots.room() == 0 {
            return Ok(());
        }
        Err(Error::new(crate::ErrorKind::Truncated, "the file changed while it was read")
            .expecting(format!("{} events", segment.events))
            .but_found(format!("{}", slots.len))
            .at(segment.offset)
            .with_path(self.source.path()))
    }

    /// Decodes counted segments of which all but a few lie inside a time range: those go straight to their place.
    fn decode_window(&self, segments: &[Segment<F::State>], selection: &Selection) -> Result<EventColumns> {
        let columns = selection.columns;
        let edges: Vec<Option<EventColumns>> = segments
            .par_iter()
            .map(|segment| {
                if selection.time_range.contains(segment.first_us, segment.last_us) {
                    return Ok(None);
                }
                let parts = self.decode_some(std::slice::from_ref(segment), selection)?;
                Ok(Some(EventColumns::concat(parts, columns)))
            })
            .collect::<Result<_>>()?;
        let events = |(segment, edge): (&Segment<_>, &Option<EventColumns>)| edge.as_ref().map_or(segment.events, |edge| edge.len() as u64);
        let counts: Vec<_> = segments.iter().zip(&edges).map(events).collect();
        let rows = rows(counts.iter().sum())?;
        let mut builder = ColumnsBuilder::new(rows, columns);
        let mut rest = builder.slots();
        let places: Vec<_> = counts.iter().map(|events| rest.split_off_front(usize::try_from(*events).unwrap_or(usize::MAX))).collect();
        (segments, edges, places).into_par_iter().try_for_each(|(segment, edge, mut slots)| match edge {
            Some(edge) => {
                slots.copy_from(edge.all_rows());
                Ok(())
            }
            None => self.decode_whole(segment, columns, slots),
        })?;
        Ok(builder.finish(rows))
    }

    /// Decodes the whole file and makes its index in one pass, into columns with room for `most` events.
    ///
    /// Rows that are never written cost no memory: the system gives pages when they are first touched.
    fn decode_and_index(&self, most: u64, columns: Columns, threads: usize) -> Result<(EventColumns, Index<F::State>)> {
        let mut builder = ColumnsBuilder::new(rows(most)?, columns);
        let (rows, index) = relay::decode(self, columns, builder.slots(), threads)?;
        Ok((builder.finish(rows), index))
    }

    /// Decodes the whole file into one set of columns with room for the most events there can be.
    fn decode_uncounted(&self, columns: Columns) -> Result<EventColumns> {
        let segments = self.pass(Depth::Most)?.segments;
        let mut builder = ColumnsBuilder::new(rows(segments.iter().map(|segment| segment.events).sum())?, columns);
        let mut rest = builder.slots();
        let work: Vec<_> =
            segments.iter().map(|segment| (segment, rest.split_off_front(usize::try_from(segment.events).unwrap_or(usize::MAX)))).collect();
        let mut start = 0;
        let filled: Vec<usize> = work
            .into_par_iter()
            .map(|(segment, mut slots)| {
                self.pieces(segment, |state, bytes| self.format.fill(columns, state, bytes, &mut slots))?;
                Ok(slots.len)
            })
            .collect::<Result<_>>()?;
        let parts: Vec<Kept> = segments
            .iter()
            .zip(&filled)
            .map(|(segment, rows)| {
                let part = Kept { rows: start..start + rows, keep: None };
                start += usize::try_from(segment.events).unwrap_or(usize::MAX);
                part
            })
            .collect();
        let gaps = parts.windows(2).any(|pair| pair[0].rows.end != pair[1].rows.start);
        let rows = if gaps { builder.slots().compact(&parts) } else { filled.iter().sum() };
        Ok(builder.finish(rows))
    }

    /// Decodes segments and keeps the rows that `selection` wants, segment by segment.
    fn decode_some(&self, segments: &[Segment<F::State>], selection: &Selection) -> Result<Vec<EventColumns>> {
        let filter = Filter::new(selection);
        let kept: Vec<Vec<EventColumns>> = segments
            .par_iter()
            .map(|segment| {
                let mut kept = Vec::new();
                let mut scratch = ColumnsBuilder::new(SCRATCH_ROWS, filter.columns);
                self.pieces(segment, |state, bytes| {
                    let mut at = 0;
                    loop {
                        let mut slots = scratch.slots();
                        let consumed = self.format.fill(filter.columns, state, bytes.get(at..).unwrap_or_default(), &mut slots);
                        let part = filter.keep(slots.filled());
                        if !part.is_empty() {
                            kept.push(part);
                        }
                        at += consumed;
                        if consumed == 0 || at >= bytes.len() {
                            return at;
                        }
                    }
                })?;
                Ok(vec![EventColumns::concat(kept, selection.columns)])
            })
            .collect::<Result<_>>()?;
        Ok(kept.into_iter().flatten().filter(|part| !part.is_empty()).collect())
    }

    /// Everything that `selection` wants, as one set of columns.
    pub(crate) fn read(&self, selection: &Selection, pool: &rayon::ThreadPool) -> Result<EventColumns> {
        if selection.limit.is_some() {
            return self.batches(selection).rest(self, selection.columns, pool);
        }
        if !selection.filters_rows() {
            if self.index.get().is_none()
                && let Some(len) = self.source.known_len()
                && let Some(most) = self.format.about_events(len.saturating_sub(self.format.payload()))
            {
                let (events, index) = self.decode_and_index(most, selection.columns, pool.current_num_threads())?;
                self.made_index(index);
                return Ok(events);
            }
            if F::COUNTS_DEARLY && self.index.get().is_none() {
                return pool.install(|| self.decode_uncounted(selection.columns));
            }
            let index = self.index(pool)?;
            return pool.install(|| self.decode_all(&index.segments, selection.columns));
        }
        let wanted = self.in_time(selection.time_range, pool)?;
        pool.install(|| {
            if self.index.get().is_some() && selection.region.is_none() && selection.polarity.is_none() {
                self.decode_window(&wanted, selection)
            } else {
                Ok(EventColumns::concat(self.decode_some(&wanted, selection)?, selection.columns))
            }
        })
    }

    /// The segments that can have events of these times.
    pub(crate) fn in_time(&self, range: TimeRange, pool: &rayon::ThreadPool) -> Result<Vec<Segment<F::State>>> {
        if !self.is_planned()
            && let Some(found) = self.bisect(range, pool)?
        {
            return Ok(found);
        }
        let plan = if F::COUNTS_DEARLY { self.index(pool)? } else { self.plan(pool)? };
        Ok(plan.segments.iter().filter(|segment| range.intersects(segment.first_us, segment.last_us)).copied().collect())
    }

    /// Whether the segments of the whole file are known.
    fn is_planned(&self) -> bool {
        self.known_index().or_else(|| self.plan.get()).is_some()
    }

    /// The segments that can have events of these times, found without a pass over the file.
    fn bisect(&self, range: TimeRange, pool: &rayon::ThreadPool) -> Result<Option<Vec<Segment<F::State>>>> {
        // Packed content of which all would have to be unpacked is better read on the way.
        if range.is_all() || self.source.known_len().is_none_or(|len| len < SEEK_FROM) {
            return Ok(None);
        }
        match self.format.seek(&self.source, range)? {
            Some(span) if span.end - span.start <= SEEK_TO => pool.install(|| self.plan_span(span)).map(Some),
            _ => Ok(None),
        }
    }

    /// The segments of a part of the file.
    fn plan_span(&self, span: Span<F::State>) -> Result<Vec<Segment<F::State>>> {
        let len = usize::try_from(span.end - span.start).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len];
        self.source.read_exact_at(&mut bytes, span.start)?;
        let mut segments = Vec::new();
        self.format.planner(span.state).plan(&bytes, span.start, true, &mut segments, &mut Problems::default());
        Ok(segments)
    }

    /// Everything that `selection` wants, batch by batch.
    pub(crate) fn batches(&self, selection: &Selection) -> Batches<F> {
        Batches {
            selection: selection.clone(),
            left: selection.limit.unwrap_or(u64::MAX),
            windows: Windows::new(&self.format, if Batches::<F>::filters(selection) { Depth::Times } else { Depth::Counts }),
            window: FIRST_WINDOW,
            segments: VecDeque::new(),
            done: false,
        }
    }

    /// All external triggers.
    pub(crate) fn triggers(&self, pool: &rayon::ThreadPool) -> Result<TriggerColumns> {
        let index = self.index(pool)?;
        let segments: Vec<_> = index.segments.iter().filter(|segment| segment.triggers > 0).collect();
        let parts: Vec<TriggerColumns> = pool.install(|| {
            segments
                .into_par_iter()
                .map(|segment| {
                    let mut found = TriggerColumns::default();
                    self.pieces(segment, |state, bytes| {
                        self.format.triggers(state, bytes, &mut found);
                        bytes.len()
                    })?;
                    Ok(found)
                })
                .collect::<Result<_>>()
        })?;
        let mut all = TriggerColumns::default();
        for part in parts {
            all.append(part);
        }
        Ok(all)
    }

    /// Earliest and latest event time.
    pub(crate) fn time_range(&self, pool: &rayon::ThreadPool) -> Result<Option<(i64, i64)>> {
        let index = self.index(pool)?;
        let mut segments: Vec<_> = index.segments.iter().filter(|segment| segment.events > 0).copied().collect();
        let only_time = Columns::NONE.with(Column::Timestamp);
        let extreme = |segment: &Segment<F::State>| -> Result<Option<(i64, i64)>> {
            let times = pool.install(|| self.decode_all(std::slice::from_ref(segment), only_time))?;
            let times = times.timestamp();
            Ok(times.iter().min().copied().zip(times.iter().max().copied()))
        };
        // Only segments whose bounds reach further than what has been found need decoding.
        let mut first: Option<i64> = None;
        segments.sort_by_key(|segment| segment.first_us);
        for segment in &segments {
            if first.is_some_and(|first| segment.first_us >= first) {
                break;
            }
            if let Some((low, _)) = extreme(segment)? {
                first = Some(first.map_or(low, |first| first.min(low)));
            }
        }
        let mut last: Option<i64> = None;
        segments.sort_by_key(|segment| std::cmp::Reverse(segment.last_us));
        for segment in &segments {
            if last.is_some_and(|last| segment.last_us <= last) {
                break;
            }
            if let Some((_, high)) = extreme(segment)? {
                last = Some(last.map_or(high, |last| last.max(high)));
            }
        }
        Ok(first.zip(last))
    }
}

/// A number of rows that columns can have.
fn rows(events: u64) -> Result<usize> {
    usize::try_from(events).map_err(|_| Error::invalid(format!("{events} events do not fit the address space")))
}

/// The bytes of a segment, of those that stand at `offset`.
pub(crate) fn bytes_of<'a, S>(segment: &Segment<S>, bytes: &'a [u8], offset: u64) -> &'a [u8] {
    let start = usize::try_from(segment.offset - offset).unwrap_or(usize::MAX);
    bytes.get(start..).and_then(|bytes| bytes.get(..usize::try_from(segment.len).ok()?)).unwrap_or_default()
}

/// Runs `work` with this thread's read buffer.
pub(crate) fn with_buffer<R>(work: impl FnOnce(&mut Buffer) -> R) -> R {
    thread_local!(static BUFFER: std::cell::RefCell<Buffer> = std::cell::RefCell::new(Buffer::default()));
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => work(&mut buffer),
        // A task that this thread took up while it waited inside another.
        Err(_) => work(&mut Buffer::default()),
    })
}

/// Buffers of windows that are done: their pages are there already.
static BUFFERS: Mutex<Vec<Buffer>> = Mutex::new(Vec::new());

/// Plans a file window by window.
struct Windows<S> {
    planner: Box<dyn Planner<State = S>>,
    buffer: Buffer,
    offset: u64,
    depth: Depth,
    done: bool,
}

impl<S: Copy + Send + Sync> Windows<S> {
    fn new<F: Segmented<State = S>>(format: &F, depth: Depth) -> Self {
        let buffer = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Self { planner: format.planner(format.start()), buffer, offset: format.payload(), depth, done: false }
    }

    /// The segments of the next window, of about `size` bytes, with their counts; `None` at the end.
    fn next<F: Segmented<State = S>>(&mut self, scan: &Scan<F>, size: usize) -> Result<Option<(Vec<Segment<S>>, Problems)>> {
        let mut size = size;
        while !self.done {
            let (len, last) = scan.source.stretch(self.offset, size)?;
            let bytes = self.buffer.take(len);
            let offset = self.offset;
            bytes
                .par_chunks_mut(READ)
                .enumerate()
                .try_for_each(|(index, chunk)| scan.source.read_exact_at(chunk, offset + (index * READ) as u64))?;
            scan.source.prefetch(offset.saturating_add((len + size) as u64));
            let mut segments = Vec::new();
            let mut problems = Problems::default();
            let consumed = self.planner.plan(bytes, offset, last, &mut segments, &mut problems);
            self.done = last;
            if consumed == 0 && !last {
                size = size.saturating_mul(2);
                continue;
            }
            let to_count = if self.depth == Depth::Times { &mut [] } else { segments.as_mut_slice() };
            let counted: Vec<_> = to_count
                .par_iter_mut()
                .map(|segment| {
                    let mut problems = Problems::default();
                    self.depth.look(&scan.format, segment, bytes_of(segment, bytes, offset), &mut problems);
                    problems
                })
                .collect();
            for found in counted {
                problems.merge(&found);
            }
            self.offset += consumed as u64;
            return Ok(Some((segments, problems)));
        }
        Ok(None)
    }
}

impl<S> Drop for Windows<S> {
    fn drop(&mut self) {
        let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < 2 && self.buffer.capacity() <= 2 * WINDOW {
            buffers.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// How far a stream of batches has come.
pub(crate) struct Batches<F: Segmented> {
    selection: Selection,
    /// Rows still wanted.
    left: u64,
    windows: Windows<F::State>,
    /// Bytes of the next window.
    window: usize,
    segments: VecDeque<Segment<F::State>>,
    done: bool,
}

impl<F: Segmented> Batches<F> {
    /// Whether the number of rows of a segment is not known before it is decoded.
    fn filters(selection: &Selection) -> bool {
        F::COUNTS_DEARLY || selection.filters_rows()
    }

    /// Segments to decode together: at least one, and no more than make `rows` rows.
    fn group(&mut self, rows: usize) -> Vec<Segment<F::State>> {
        let filtered = Self::filters(&self.selection);
        let limit = if filtered { FILTER_WINDOW.min((rows as u64).saturating_mul(8)) } else { (rows as u64).min(self.left.max(1)) };
        let mut group = Vec::new();
        let mut total = 0;
        while let Some(segment) = self.segments.front() {
            let size = if filtered { segment.len } else { segment.events };
            if !group.is_empty() && total + size > limit {
                break;
            }
            total += size;
            group.extend(self.segments.pop_front());
        }
        group
    }

    /// Finds more segments.
    fn more(&mut self, scan: &Scan<F>, pool: &rayon::ThreadPool) -> Result<bool> {
        let range = self.selection.time_range;
        if self.windows.offset == scan.format.payload() {
            let planned = if range.is_all() {
                scan.known_index().map(|index| index.segments.clone())
            } else if scan.is_planned() || scan.source.known_len().is_some_and(|len| len <= PLAN_UP_TO) {
                Some(scan.in_time(range, pool)?)
            } else {
                scan.bisect(range, pool)?
            };
            if let Some(segments) = planned {
                self.segments.extend(segments);
                self.done = true;
                return Ok(!self.segments.is_empty());
            }
        }
        let found = pool.install(|| self.windows.next(scan, self.window))?;
        self.window = (2 * self.window).min(BATCH_WINDOW);
        let Some((segments, _)) = found else {
            self.done = true;
            return Ok(false);
        };
        self.segments.extend(segments.into_iter().filter(|segment| range.intersects(segment.first_us, segment.last_us)));
        Ok(true)
    }
}

impl<F: Segmented> Progress<Scan<F>> for Batches<F> {
    fn next(&mut self, scan: &Scan<F>, rows: usize, pool: &rayon::ThreadPool) -> Result<Option<EventColumns>> {
        while self.left > 0 {
            if self.segments.is_empty() {
                if self.done || !self.more(scan, pool)? {
                    break;
                }
                continue;
            }
            let group = self.group(rows);
            let decoded = pool.install(|| {
                if Self::filters(&self.selection) {
                    let parts = scan.decode_some(&group, &self.selection)?;
                    Ok::<_, Error>(EventColumns::concat(parts, self.selection.columns))
                } else {
                    scan.decode_all(&group, self.selection.columns)
                }
            })?;
            if !decoded.is_empty() {
                return Ok(Some(first_of(decoded, &mut self.left)));
            }
        }
        Ok(None)
    }
}
