//! What a query needs of a recording.

use crate::schema::{Columns, Polarity, Region, TimeRange};

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
