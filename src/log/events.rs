//! Events in a log: a file of the codec `events` as a recording, whose batches are views of the mapped file.

use std::sync::{Arc, OnceLock};

use rayon::ThreadPool;
use rayon::prelude::*;

use super::reader::{Channel, Session, Verify};
use crate::codec::{Codec, Events, EventsLayout};
use crate::columns::{EventColumns, TriggerColumns};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Confidence, Format, Identity, Opened};
use crate::problem::{ProblemCode, Problems};
use crate::reader::{BatchStream, Reader};
use crate::recording::{OpenOptions, Stream, StreamKind};
use crate::schema::{Geometry, Region, TimeRange};
use crate::selection::{Filter, Selection};
use crate::source::Source;

/// Rows that are filtered together on one thread.
const PIECE: usize = 64 << 10;

/// Opens a file of a log that holds events.
pub(crate) fn open(source: &Source, options: &OpenOptions) -> Result<Opened> {
    options.refuse_array_options()?;
    let Some((file, 0)) = source.file_of(0, source.len())? else { return Err(Error::format("a log has one file a session")) };
    let session = Session::of(file, source.path(), Verify::Head)?;
    if session.info().channel.is_empty() {
        let reason = session.recovery().reason.clone().unwrap_or_default();
        return Err(Error::format("not a file of a log").expecting("a session record").but_found(reason));
    }
    let channel = Channel::of_sessions(session.info().channel.clone(), vec![session]);
    let (codec, _, metadata) = channel.codec(0).unwrap_or_default();
    if codec != Events::NAME {
        return Err(Error::new(ErrorKind::Unsupported, "a log of something else than events")
            .expecting(format!("the codec `{}`", Events::NAME))
            .but_found(format!("`{codec}`"))
            .hint("`evlib.oblog.ObLog` reads it"));
    }
    if let Some(stream) = &options.stream
        && stream != channel.name()
    {
        return Err(Error::invalid("no such stream").expecting(format!("`{}`", channel.name())).but_found(format!("`{stream}`")));
    }
    let stored = metadata.iter().find(|(key, _)| key == crate::codec::GEOMETRY).and_then(|(_, value)| geometry(value));
    let mut shown = vec![("channel".to_owned(), channel.name().to_owned()), ("codec".to_owned(), codec.to_owned())];
    shown.extend_from_slice(metadata);
    let detail = format!("{} batches", channel.len());
    let streams = vec![Stream::new(channel.name(), StreamKind::Events, detail, None)];
    Ok(Opened {
        identity: Identity {
            format: Format::Oblog,
            confidence: Confidence::Certain,
            reasons: vec![format!("MCAP profile `{}`, codec `{codec}`", super::record::PROFILE)],
        },
        geometry: options.geometry.or(stored),
        metadata: shown,
        streams,
        reader: Arc::new(EventsReader { channel, bounds: options.geometry, layouts: OnceLock::new() }),
    })
}

fn geometry(text: &str) -> Option<Geometry> {
    let (width, height) = text.split_once('x')?;
    Geometry::new(width.parse().ok()?, height.parse().ok()?).ok()
}

struct EventsReader {
    channel: Channel,
    /// The sensor as the caller says: events outside are dropped.
    bounds: Option<Geometry>,
    layouts: OnceLock<Vec<EventsLayout>>,
}

impl EventsReader {
    /// Size and times of every batch: one look at each.
    fn layouts(&self) -> Result<&[EventsLayout]> {
        if let Some(layouts) = self.layouts.get() {
            return Ok(layouts);
        }
        let layouts: Vec<_> = self.channel.iter().map(|record| EventsLayout::parse(record?.payload.bytes())).collect::<Result<_>>()?;
        Ok(self.layouts.get_or_init(|| layouts))
    }

    /// A selection that leaves out what lies outside the sensor.
    fn within(&self, selection: &Selection) -> Selection {
        let mut selection = selection.clone();
        if let Some(bounds) = self.bounds {
            let (width, height) = (i32::from(bounds.width()), i32::from(bounds.height()));
            let region = selection.region.take().unwrap_or(Region { x: 0..width, y: 0..height });
            let cut = |range: std::ops::Range<i32>, end: i32| range.start.max(0)..range.end.min(end);
            selection.region = Some(Region { x: cut(region.x, width), y: cut(region.y, height) });
        }
        selection
    }

    /// The wanted events of a record; `None` if there are none.
    fn batch(&self, at: u64, selection: &Selection, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        let record = self.channel.get(at)?;
        let layout = EventsLayout::parse(record.payload.bytes())?;
        let range = selection.time_range;
        let Some((first, last)) = layout.times_us.filter(|(first, last)| range.intersects(*first, *last)) else { return Ok(None) };
        let mut rest = selection.clone();
        if range.intersects(first, first) && range.intersects(last, last) {
            rest.time_range = TimeRange::ALL;
        }
        if !rest.filters_rows() {
            return layout.columns(&record.payload, selection.columns).map(Some);
        }
        let filter = Filter::new(&rest);
        let events = layout.columns(&record.payload, filter.columns)?;
        let pieces: Vec<_> = (0..events.len()).step_by(PIECE).collect();
        let kept: Vec<_> = pool.install(|| pieces.into_par_iter().map(|at| filter.keep(events.rows(at, PIECE))).collect());
        let kept = EventColumns::concat(kept, selection.columns);
        Ok((!kept.is_empty()).then_some(kept))
    }

    fn has_bounds(&self) -> bool {
        self.bounds.is_some()
    }

    /// Events within the sensor, of all.
    fn count(&self, pool: &ThreadPool) -> Result<(u64, u64)> {
        let all: u64 = self.layouts()?.iter().map(|layout| layout.rows as u64).sum();
        if !self.has_bounds() {
            return Ok((all, all));
        }
        let selection = self.within(&Selection::default().with_columns([crate::Column::Polarity]));
        let mut inside = 0;
        for at in 0..self.channel.len() {
            inside += self.batch(at, &selection, pool)?.map_or(0, |batch| batch.len() as u64);
        }
        Ok((inside, all))
    }
}

impl Reader for EventsReader {
    fn read(&self, selection: &Selection, pool: &ThreadPool) -> Result<EventColumns> {
        let mut batches = EventBatches::new(self.within(selection));
        let mut parts = Vec::new();
        while let Some(part) = batches.next(self, pool)? {
            parts.push(part);
        }
        Ok(EventColumns::concat(parts, selection.columns))
    }

    fn batches(self: Arc<Self>, selection: &Selection) -> Box<dyn BatchStream> {
        let batches = EventBatches::new(self.within(selection));
        Box::new(Shared { reader: self, batches })
    }

    fn triggers(&self, _: &ThreadPool) -> Result<TriggerColumns> {
        Ok(TriggerColumns::default())
    }

    fn counts(&self, pool: &ThreadPool) -> Result<(u64, u64)> {
        Ok((self.count(pool)?.0, 0))
    }

    fn time_range(&self, pool: &ThreadPool) -> Result<Option<(i64, i64)>> {
        let wider = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
        if !self.has_bounds() {
            return Ok(self.layouts()?.iter().filter_map(|layout| layout.times_us).reduce(wider));
        }
        let events = self.read(&Selection::default().with_columns([crate::Column::Timestamp]), pool)?;
        Ok(events.timestamp().iter().map(|t| (*t, *t)).reduce(wider))
    }

    fn problems(&self, pool: &ThreadPool) -> Result<Problems> {
        let mut problems = Problems::default();
        let recovery = self.channel.recovery();
        let offset = recovery.first_offset.unwrap_or(0);
        let reason = || recovery.reason.clone().unwrap_or_default();
        if recovery.records > 0 {
            problems.add(ProblemCode::LostRecords, recovery.records, recovery.bytes, offset, reason);
        } else if recovery.bytes > 0 {
            problems.add(ProblemCode::Truncated, 1, recovery.bytes, offset, reason);
        }
        let (inside, all) = self.count(pool)?;
        problems.add(ProblemCode::OutOfBounds, all - inside, 0, 0, || "outside the geometry that was given".to_owned());
        Ok(problems)
    }

    fn is_indexed(&self) -> bool {
        true
    }

    fn save_index(&self, _: &ThreadPool) -> Result<std::path::PathBuf> {
        Err(Error::invalid("this format needs no index beside the file: it has one of its own"))
    }
}

struct EventBatches {
    selection: Selection,
    at: u64,
    /// Rows still wanted.
    left: u64,
}

impl EventBatches {
    fn new(selection: Selection) -> Self {
        Self { at: 0, left: selection.limit.unwrap_or(u64::MAX), selection }
    }

    fn next(&mut self, reader: &EventsReader, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        while self.left > 0 && self.at < reader.channel.len() {
            let batch = reader.batch(self.at, &self.selection, pool)?;
            self.at += 1;
            if let Some(batch) = batch {
                let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(batch.len());
                self.left -= take as u64;
                return Ok(Some(batch.slice(0, take)));
            }
        }
        Ok(None)
    }
}

struct Shared {
    reader: Arc<EventsReader>,
    batches: EventBatches,
}

impl BatchStream for Shared {
    fn next(&mut self, _: usize, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        self.batches.next(&self.reader, pool)
    }
}
