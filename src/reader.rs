//! `Reader`: what a format gives a recording; the reader of files that are cut into segments, and that of files whose
//! stream of events has still to be chosen.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError};

use rayon::ThreadPool;

use crate::columns::{EventColumns, TriggerColumns};
use crate::error::{Error, Result};
use crate::index;
use crate::problem::{ProblemCode, Problems};
use crate::scan::{self, BATCH_ROWS, Scan, Segmented};
use crate::schema::{Columns, TimeRange};
use crate::selection::Selection;
use crate::side::SideStream;
use crate::source::Source;
use crate::spool::{Damage, Spool};
use crate::write::Partial;

/// What a format gives a [`Recording`].
pub(crate) trait Reader: Send + Sync {
    fn read(&self, selection: &Selection, pool: &ThreadPool) -> Result<EventColumns>;
    fn batches(self: Arc<Self>, selection: &Selection) -> Box<dyn BatchStream>;
    fn triggers(&self, pool: &ThreadPool) -> Result<TriggerColumns>;
    fn counts(&self, pool: &ThreadPool) -> Result<(u64, u64)>;
    fn time_range(&self, pool: &ThreadPool) -> Result<Option<(i64, i64)>>;
    fn problems(&self, pool: &ThreadPool) -> Result<Problems>;
    fn is_indexed(&self) -> bool;
    fn save_index(&self, pool: &ThreadPool) -> Result<PathBuf>;

    /// The stream beside the events that has this name.
    fn side(self: Arc<Self>, name: &str, _pool: Arc<ThreadPool>) -> Result<SideStream> {
        Err(no_side_stream(name, &[]))
    }

    /// Appends the events of a time range to a new file as they stand in this one; false where that cannot be done.
    fn cut(&self, _range: TimeRange, _to: &mut Partial, _pool: &ThreadPool) -> Result<bool> {
        Ok(false)
    }
}

/// There is no side stream `name`; there are `names`.
pub(crate) fn no_side_stream(name: &str, names: &[&str]) -> Error {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    let expected = if names.is_empty() {
        "none: this recording has only events and triggers".to_owned()
    } else {
        format!("one of {}", names.join(", "))
    };
    Error::invalid("no such stream beside the events").expecting(expected).but_found(format!("`{name}`"))
}

/// A stream of batches of one recording.
pub(crate) trait BatchStream: Send {
    fn next(&mut self, rows: usize, pool: &ThreadPool) -> Result<Option<EventColumns>>;
}

/// How far a stream of batches has come. It holds no reference to what it reads, `R`, so that both can live in one
/// object.
pub(crate) trait Progress<R>: Send + Sized {
    /// The next batch of about `rows` rows, never an empty one.
    fn next(&mut self, reader: &R, rows: usize, pool: &ThreadPool) -> Result<Option<EventColumns>>;

    /// All that is left, as one set of these columns.
    fn rest(mut self, reader: &R, columns: Columns, pool: &ThreadPool) -> Result<EventColumns> {
        let mut parts = Vec::new();
        while let Some(part) = self.next(reader, BATCH_ROWS, pool)? {
            parts.push(part);
        }
        Ok(EventColumns::concat(parts, columns))
    }
}

/// A stream of batches that keeps its reader.
pub(crate) struct Reading<R, P> {
    pub(crate) reader: Arc<R>,
    pub(crate) progress: P,
}

impl<R: Send + Sync, P: Progress<R>> BatchStream for Reading<R, P> {
    fn next(&mut self, rows: usize, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        self.progress.next(&self.reader, rows, pool)
    }
}

/// The first rows of `events`, `left` at the most, which it counts down.
pub(crate) fn first_of(events: EventColumns, left: &mut u64) -> EventColumns {
    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(events.len());
    *left -= take as u64;
    if take < events.len() { events.slice(0, take) } else { events }
}

pub(crate) struct SegmentReader<F: Segmented> {
    scan: Scan<F>,
    /// Why a saved index was ignored.
    stale: Mutex<Option<String>>,
    /// Whether a saved index has been looked for.
    looked: Once,
}

impl<F: Segmented> SegmentReader<F> {
    pub(crate) fn new(source: Source, format: F) -> Self {
        Self { scan: Scan::new(source, format), stale: Mutex::new(None), looked: Once::new() }
    }

    pub(crate) fn format(&self) -> &F {
        &self.scan.format
    }

    /// Takes the index that the process has of the file, or the one saved beside it, if there is one that fits.
    fn load_index(&self) {
        self.looked.call_once(|| {
            let (source, format) = (&self.scan.source, &self.scan.format);
            match index::load(source, format) {
                Ok(Some(index)) => return self.scan.set_index(Arc::new(index)),
                Ok(None) => {}
                Err(reason) => *self.stale.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason),
            }
            if let Some(index) = index::kept(source, format) {
                self.scan.set_index(index);
            }
        });
    }
}

impl<F: Segmented> AsRef<Source> for SegmentReader<F> {
    fn as_ref(&self) -> &Source {
        &self.scan.source
    }
}

impl<F: Segmented> Reader for SegmentReader<F> {
    fn read(&self, selection: &Selection, pool: &ThreadPool) -> Result<EventColumns> {
        self.load_index();
        self.scan.read(selection, pool)
    }

    fn batches(self: Arc<Self>, selection: &Selection) -> Box<dyn BatchStream> {
        self.load_index();
        let progress = self.scan.batches(selection);
        Box::new(Reading { reader: self, progress })
    }

    fn triggers(&self, pool: &ThreadPool) -> Result<TriggerColumns> {
        self.load_index();
        self.scan.triggers(pool)
    }

    fn counts(&self, pool: &ThreadPool) -> Result<(u64, u64)> {
        self.load_index();
        let index = self.scan.index(pool)?;
        Ok((index.events(), index.triggers()))
    }

    fn time_range(&self, pool: &ThreadPool) -> Result<Option<(i64, i64)>> {
        self.load_index();
        self.scan.time_range(pool)
    }

    fn problems(&self, pool: &ThreadPool) -> Result<Problems> {
        self.load_index();
        let mut problems = self.scan.index(pool)?.problems.clone();
        if let Some(reason) = &*self.stale.lock().unwrap_or_else(PoisonError::into_inner) {
            problems.add(ProblemCode::StaleIndex, 1, 0, 0, || reason.clone());
        }
        Ok(problems)
    }

    fn is_indexed(&self) -> bool {
        self.load_index();
        self.scan.known_index().is_some()
    }

    fn save_index(&self, pool: &ThreadPool) -> Result<PathBuf> {
        self.load_index();
        let index = self.scan.index(pool)?;
        let path = index::save(&self.scan.source, &self.scan.format, index)?;
        *self.stale.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(path)
    }

    fn side(self: Arc<Self>, name: &str, _: Arc<ThreadPool>) -> Result<SideStream> {
        F::side(self, name)
    }

    fn cut(&self, range: TimeRange, to: &mut Partial, pool: &ThreadPool) -> Result<bool> {
        self.load_index();
        let Some(cut) = F::cut(&self.scan, range, pool)? else { return Ok(false) };
        to.copy(&self.scan.source, 0..self.scan.format.payload())?;
        to.write_all(&cut.lead)?;
        to.copy(&self.scan.source, cut.bytes)?;
        Ok(true)
    }
}

impl<F: Segmented> Progress<SegmentReader<F>> for scan::Batches<F> {
    fn next(&mut self, reader: &SegmentReader<F>, rows: usize, pool: &ThreadPool) -> Result<Option<EventColumns>> {
        Progress::<Scan<F>>::next(self, &reader.scan, rows, pool)
    }
}

/// The reader of what is in a packed file, which tells of damage to the packing too.
pub(crate) struct Unpacked {
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) spool: Arc<Spool>,
}

impl Reader for Unpacked {
    fn read(&self, selection: &Selection, pool: &ThreadPool) -> Result<EventColumns> {
        self.reader.read(selection, pool)
    }

    fn batches(self: Arc<Self>, selection: &Selection) -> Box<dyn BatchStream> {
        Arc::clone(&self.reader).batches(selection)
    }

    fn triggers(&self, pool: &ThreadPool) -> Result<TriggerColumns> {
        self.reader.triggers(pool)
    }

    fn counts(&self, pool: &ThreadPool) -> Result<(u64, u64)> {
        self.reader.counts(pool)
    }

    fn time_range(&self, pool: &ThreadPool) -> Result<Option<(i64, i64)>> {
        self.reader.time_range(pool)
    }

    fn problems(&self, pool: &ThreadPool) -> Result<Problems> {
        let mut problems = self.reader.problems(pool)?;
        if let Some(Damage { content, lost, what }) = self.spool.damage()? {
            problems.add(ProblemCode::Truncated, 1, *lost, *content, || what.clone());
        }
        Ok(problems)
    }

    fn is_indexed(&self) -> bool {
        self.reader.is_indexed()
    }

    fn save_index(&self, pool: &ThreadPool) -> Result<PathBuf> {
        self.reader.save_index(pool)
    }

    fn side(self: Arc<Self>, name: &str, pool: Arc<ThreadPool>) -> Result<SideStream> {
        Arc::clone(&self.reader).side(name, pool)
    }

    fn cut(&self, range: TimeRange, to: &mut Partial, pool: &ThreadPool) -> Result<bool> {
        self.reader.cut(range, to, pool)
    }
}

/// The reader of a file with several streams of events, of which none was chosen.
pub(crate) struct Ambiguous {
    names: Vec<String>,
}

impl Ambiguous {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    pub(crate) fn refuse<T>(&self) -> Result<T> {
        let names: Vec<_> = self.names.iter().take(24).map(|name| format!("`{name}`")).collect();
        Err(Error::invalid(format!("the file has {} streams of events: choose one with `stream`", self.names.len()))
            .expecting(format!("one of {}", names.join(", ")))
            .but_found("none chosen"))
    }
}

impl Reader for Ambiguous {
    fn read(&self, _: &Selection, _: &ThreadPool) -> Result<EventColumns> {
        self.refuse()
    }

    fn batches(self: Arc<Self>, _: &Selection) -> Box<dyn BatchStream> {
        Box::new(Refusal(self))
    }

    fn triggers(&self, _: &ThreadPool) -> Result<TriggerColumns> {
        self.refuse()
    }

    fn counts(&self, _: &ThreadPool) -> Result<(u64, u64)> {
        self.refuse()
    }

    fn time_range(&self, _: &ThreadPool) -> Result<Option<(i64, i64)>> {
        self.refuse()
    }

    fn problems(&self, _: &ThreadPool) -> Result<Problems> {
        self.refuse()
    }

    fn is_indexed(&self) -> bool {
        false
    }

    fn save_index(&self, _: &ThreadPool) -> Result<PathBuf> {
        self.refuse()
    }
}

/// A stream of which none was chosen.
struct Refusal(Arc<Ambiguous>);

impl BatchStream for Refusal {
    fn next(&mut self, _: usize, _: &ThreadPool) -> Result<Option<EventColumns>> {
        self.0.refuse()
    }
}
