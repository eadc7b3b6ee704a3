//! What a query needs of a recording.

use crate::columns::{ColumnsBuilder, EventColumns, Rows};
use crate::schema::{Column, Columns, Polarity, Region, TimeRange};
use crate::simd;

/// The part of a recording to decode: columns, times, pixels, polarity and number of rows.
///
/// The row filters apply first and `limit` counts the rows that pass them.
///
/// ```
/// use evlib::{Column, Selection, TimeRange};
/// let selection = Selection::default()
///     .with_columns([Column::X, Column::Timestamp])
///     .with_time_range(TimeRange::new(Some(1_000_000), Some(2_000_000)));
/// assert!(selection.filters_rows());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Selection {
    /// Columns to decode; the others are absent from the result.
    pub columns: Columns,
    /// Times to keep.
    pub time_range: TimeRange,
    /// Pixels to keep.
    pub region: Option<Region>,
    /// Polarity to keep.
    pub polarity: Option<Polarity>,
    /// At most this many rows.
    pub limit: Option<u64>,
}

impl Default for Selection {
    fn default() -> Self {
        Self { columns: Columns::ALL, time_range: TimeRange::ALL, region: None, polarity: None, limit: None }
    }
}

impl Selection {
    /// Decode only these columns.
    #[must_use]
    pub fn with_columns(mut self, columns: impl IntoIterator<Item = crate::Column>) -> Self {
        self.columns = columns.into_iter().collect();
        self
    }

    /// Keep only times in `range`.
    #[must_use]
    pub fn with_time_range(mut self, range: TimeRange) -> Self {
        self.time_range = range;
        self
    }

    /// Keep only pixels in `region`.
    #[must_use]
    pub fn with_region(mut self, region: Region) -> Self {
        self.region = Some(region);
        self
    }

    /// Keep only one polarity.
    #[must_use]
    pub fn with_polarity(mut self, polarity: Polarity) -> Self {
        self.polarity = Some(polarity);
        self
    }

    /// Stop after `rows` rows.
    #[must_use]
    pub fn with_limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Whether any row can be refused by its values.
    #[must_use]
    pub fn filters_rows(&self) -> bool {
        !self.time_range.is_all() || self.region.is_some() || self.polarity.is_some()
    }
}

/// The row conditions of a selection, as inclusive bounds.
pub(crate) struct Filter {
    x: (i16, i16),
    y: (i16, i16),
    t: (i64, i64),
    p: (i8, i8),
    /// Columns to decode: those wanted and those looked at.
    pub(crate) columns: Columns,
    wanted: Columns,
    /// No row can pass.
    nothing: bool,
}

impl Filter {
    pub(crate) fn new(selection: &Selection) -> Self {
        let mut columns = selection.columns;
        let bounds = |range: &std::ops::Range<i32>| {
            let last = range.end.saturating_sub(1).min(i16::MAX.into());
            (i16::try_from(range.start.max(0)).unwrap_or(i16::MAX), i16::try_from(last).unwrap_or(-1))
        };
        let mut filter =
            Self { x: (0, i16::MAX), y: (0, i16::MAX), t: (i64::MIN, i64::MAX), p: (-1, 1), columns, wanted: columns, nothing: false };
        if let Some(region) = &selection.region {
            (filter.x, filter.y) = (bounds(&region.x), bounds(&region.y));
            columns = columns.with(Column::X).with(Column::Y);
            filter.nothing |=
                region.x.is_empty() || region.y.is_empty() || region.x.start > i16::MAX.into() || region.y.start > i16::MAX.into();
        }
        if !selection.time_range.is_all() {
            filter.t.0 = selection.time_range.start();
            match selection.time_range.last() {
                Some(last) => filter.t.1 = last,
                None => filter.nothing = true,
            }
            columns = columns.with(Column::Timestamp);
        }
        if let Some(polarity) = selection.polarity {
            let sign = if polarity == crate::Polarity::On { 1 } else { -1 };
            filter.p = (sign, sign);
            columns = columns.with(Column::Polarity);
        }
        filter.columns = columns;
        filter
    }

    /// Which rows pass.
    pub(crate) fn mask(&self, rows: Rows<'_>) -> Mask {
        let mut keep = vec![u8::from(!self.nothing); rows.len];
        simd::run(Narrow(self, &mut keep, rows));
        let kept = keep.iter().map(|keep| usize::from(*keep)).sum();
        Mask { keep, kept }
    }

    /// The wanted columns of the rows that pass, as `mask` says.
    pub(crate) fn pick(&self, mask: &Mask, rows: Rows<'_>) -> EventColumns {
        if mask.kept == 0 {
            return EventColumns::empty(self.wanted);
        }
        let mut builder = ColumnsBuilder::new(mask.kept, self.wanted);
        let mut out = builder.slots();
        if mask.kept == rows.len {
            out.copy_from(rows);
            return builder.finish(mask.kept);
        }
        pick(&mask.keep, rows.x, out.x);
        pick(&mask.keep, rows.y, out.y);
        pick(&mask.keep, rows.t, out.t);
        pick(&mask.keep, rows.p, out.p);
        builder.finish(mask.kept)
    }

    /// The wanted columns of the rows that pass.
    pub(crate) fn keep(&self, rows: Rows<'_>) -> EventColumns {
        self.pick(&self.mask(rows), rows)
    }
}

/// Rows that pass a filter: 1 for each that does, and how many these are.
pub(crate) struct Mask {
    keep: Vec<u8>,
    pub(crate) kept: usize,
}

impl Mask {
    /// The first and the last row that passes.
    pub(crate) fn ends(&self) -> Option<(usize, usize)> {
        let passes = |keep: &u8| *keep == 1;
        self.keep.iter().position(passes).zip(self.keep.iter().rposition(passes))
    }
}

/// Marks the rows that pass a filter.
struct Narrow<'a>(&'a Filter, &'a mut [u8], Rows<'a>);

impl simd::Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self(filter, keep, rows) = self;
        narrow(keep, rows.x, filter.x, (0, i16::MAX));
        narrow(keep, rows.y, filter.y, (0, i16::MAX));
        narrow(keep, rows.t, filter.t, (i64::MIN, i64::MAX));
        narrow(keep, rows.p, filter.p, (-1, 1));
    }
}

/// Clears `keep` where the value is out of `bounds`; does nothing where every value is within them.
#[inline(always)]
fn narrow<T: Copy + PartialOrd>(keep: &mut [u8], values: &[T], bounds: (T, T), all: (T, T)) {
    if bounds.0 <= all.0 && bounds.1 >= all.1 {
        return;
    }
    for (keep, value) in keep.iter_mut().zip(values) {
        *keep &= u8::from(*value >= bounds.0) & u8::from(*value <= bounds.1);
    }
}

/// Copies the values that are kept.
fn pick<T: Copy>(keep: &[u8], values: &[T], out: &mut [T]) {
    if out.is_empty() {
        return;
    }
    let mut to = 0;
    for (keep, value) in keep.iter().zip(values) {
        // Written always, counted if kept: no branch to mispredict.
        if let Some(slot) = out.get_mut(to) {
            *slot = *value;
        }
        to += usize::from(*keep);
    }
}
