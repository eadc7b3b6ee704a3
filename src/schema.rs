//! Column names and types, sensor geometry, time ranges and regions: the one place that knows units.

use std::fmt;
use std::ops::Range;

use crate::error::{Error, Result};

/// The columns of an event, in the order of every table this library makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// Sensor column, 0 = left; Int16.
    X,
    /// Sensor row, 0 = top; Int16.
    Y,
    /// Sensor or recorder time in microseconds; Int64, shown as Duration(us).
    Timestamp,
    /// +1 brighter, -1 darker; Int8.
    Polarity,
}

impl Column {
    /// All columns in table order.
    pub const ALL: [Self; 4] = [Self::X, Self::Y, Self::Timestamp, Self::Polarity];

    /// Name in every table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X => "x",
            Self::Y => "y",
            Self::Timestamp => "timestamp",
            Self::Polarity => "polarity",
        }
    }

    /// The column of that name.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is not one of `x`, `y`, `timestamp`, `polarity`.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name).ok_or_else(|| {
            Error::invalid("unknown column").expecting("one of `x`, `y`, `timestamp`, `polarity`").but_found(format!("`{name}`"))
        })
    }
}

/// A set of [`Column`]s.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Columns(u8);

impl Columns {
    /// Every column.
    pub const ALL: Self = Self(0b1111);
    /// No column.
    pub const NONE: Self = Self(0);

    /// The bits, one per column in table order; they select the instance of a kernel.
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// The columns in both sets.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The columns in either set.
    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The columns of this set that are not in `other`.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// This set and `column`.
    #[must_use]
    pub const fn with(self, column: Column) -> Self {
        Self(self.0 | 1 << column as u8)
    }

    /// Whether `column` is in the set.
    #[must_use]
    pub const fn contains(self, column: Column) -> bool {
        self.0 & 1 << column as u8 != 0
    }

    /// The columns in table order.
    pub fn iter(self) -> impl Iterator<Item = Column> {
        Column::ALL.into_iter().filter(move |column| self.contains(*column))
    }
}

impl FromIterator<Column> for Columns {
    fn from_iter<I: IntoIterator<Item = Column>>(columns: I) -> Self {
        columns.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Column::name)).finish()
    }
}

/// Size of a sensor in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    width: u16,
    height: u16,
}

impl Geometry {
    /// The largest width or height: coordinates are stored as Int16.
    pub const MAX: u16 = 1 << 15;

    pub(crate) const LARGEST: Self = Self { width: Self::MAX, height: Self::MAX };

    /// A sensor of `width` x `height` pixels.
    ///
    /// # Errors
    /// `InvalidArgument` if either is 0 or larger than [`Geometry::MAX`].
    pub fn new(width: u32, height: u32) -> Result<Self> {
        match (u16::try_from(width), u16::try_from(height)) {
            (Ok(w @ 1..=Self::MAX), Ok(h @ 1..=Self::MAX)) => Ok(Self { width: w, height: h }),
            _ => Err(Error::invalid("sensor geometry out of range")
                .expecting(format!("1 to {} pixels each way", Self::MAX))
                .but_found(format!("{width}x{height}"))),
        }
    }

    /// Pixels in a row.
    #[must_use]
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub const fn height(self) -> u16 {
        self.height
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// Times in microseconds with `start <= t < end`; a missing bound is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeRange {
    start: i64,
    end: Option<i64>,
}

impl TimeRange {
    /// Every time.
    pub const ALL: Self = Self { start: i64::MIN, end: None };

    /// Times from `start_us` up to, but without, `end_us`.
    #[must_use]
    pub const fn new(start_us: Option<i64>, end_us: Option<i64>) -> Self {
        let start = match start_us {
            Some(start) => start,
            None => i64::MIN,
        };
        Self { start, end: end_us }
    }

    /// First time inside, or `i64::MIN`.
    #[must_use]
    pub const fn start(self) -> i64 {
        self.start
    }

    /// First time after the range; `None` if it never ends.
    #[must_use]
    pub const fn end(self) -> Option<i64> {
        self.end
    }

    /// Whether no time at all is excluded.
    #[must_use]
    pub const fn is_all(self) -> bool {
        self.start == i64::MIN && self.end.is_none()
    }

    /// The last time inside, or `i64::MAX`; `None` for a range that is empty.
    pub(crate) fn last(self) -> Option<i64> {
        match self.end {
            None => Some(i64::MAX),
            Some(end) => end.checked_sub(1).filter(|last| *last >= self.start),
        }
    }

    /// Whether some time of `first..=last` is inside.
    pub(crate) fn intersects(self, first: i64, last: i64) -> bool {
        last >= self.start && self.end.is_none_or(|end| first < end)
    }

    /// Whether every time of `first..=last` is inside.
    pub(crate) fn contains(self, first: i64, last: i64) -> bool {
        first >= self.start && self.end.is_none_or(|end| last < end)
    }
}

/// A rectangle of pixels, half-open in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Region {
    /// Columns inside.
    pub x: Range<i32>,
    /// Rows inside.
    pub y: Range<i32>,
}

impl Region {
    /// The rectangle whose top left pixel is (`x`, `y`).
    #[must_use]
    pub const fn new(x: i32, y: i32, width: i32, height: i32) -> Self {
        Self { x: x..x.saturating_add(width), y: y..y.saturating_add(height) }
    }
}

/// Sign of a brightness change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Polarity {
    /// Brighter, stored as +1.
    On,
    /// Darker, stored as -1.
    Off,
}

/// Which clock the times of events are of, where a recording has two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimeSource {
    /// That of the events, as the sensor or its driver gives it.
    #[default]
    Sensor,
    /// That of the messages: the first event of each has the time in its header, the others follow as the sensor says.
    Message,
}

impl TimeSource {
    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sensor => "sensor",
            Self::Message => "message",
        }
    }

    /// The source of that name.
    ///
    /// # Errors
    /// `InvalidArgument` for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        [Self::Sensor, Self::Message]
            .into_iter()
            .find(|source| source.name() == name)
            .ok_or_else(|| Error::invalid("unknown source of time").expecting("`sensor` or `message`").but_found(format!("`{name}`")))
    }
}

/// Unit of stored times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeUnit {
    /// 1e-9 s; rounded to the nearest microsecond.
    Nanoseconds,
    /// 1e-6 s.
    Microseconds,
    /// 1e-3 s.
    Milliseconds,
    /// 1 s.
    Seconds,
}

impl TimeUnit {
    /// Every unit, from the shortest.
    pub const ALL: [Self; 4] = [Self::Nanoseconds, Self::Microseconds, Self::Milliseconds, Self::Seconds];

    /// Short name: `ns`, `us`, `ms`, `s`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
        }
    }

    /// The unit of that name.
    ///
    /// # Errors
    /// `InvalidArgument` for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|unit| unit.name() == name)
            .ok_or_else(|| Error::invalid("unknown unit of time").expecting("`ns`, `us`, `ms` or `s`").but_found(format!("`{name}`")))
    }
}
