//! Numbers as files store them, and their way into event columns.
//!
//! Every conversion reads values at a stride, so that one loop serves columns of their own, records and tables. What
//! cannot be an event's value is only flagged here: `ArrayTable` then looks at the rows one by one.

use crate::schema::TimeUnit;
use crate::simd;

/// Type of a stored number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    /// Half precision.
    F16,
    F32,
    F64,
    /// A signed 64-bit time, whose smallest value stands for none.
    Time,
}

impl Number {
    /// The integer type of this many bytes.
    pub(crate) fn integer(bytes: usize, signed: bool) -> Option<Self> {
        Some(match (bytes, signed) {
            (1, false) => Self::U8,
            (2, false) => Self::U16,
            (4, false) => Self::U32,
            (8, false) => Self::U64,
            (1, true) => Self::I8,
            (2, true) => Self::I16,
            (4, true) => Self::I32,
            (8, true) => Self::I64,
            _ => return None,
        })
    }

    /// The floating-point type of this many bytes.
    pub(crate) fn float(bytes: usize) -> Option<Self> {
        match bytes {
            2 => Some(Self::F16),
            4 => Some(Self::F32),
            8 => Some(Self::F64),
            _ => None,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Time => 8,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }

    /// Name as NumPy gives it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::U8 => "u1",
            Self::U16 => "u2",
            Self::U32 => "u4",
            Self::U64 => "u8",
            Self::I8 => "i1",
            Self::I16 => "i2",
            Self::I32 => "i4",
            Self::I64 => "i8",
            Self::F16 => "f2",
            Self::F32 => "f4",
            Self::F64 => "f8",
            Self::Time => "time64",
        }
    }
}

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) number: Number,
    pub(crate) big_endian: bool,
}

/// How stored times become microseconds: scaled to the nearest, then shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) unit: TimeUnit,
    pub(crate) offset_us: i64,
}

impl Time {
    /// Microseconds of an integer; `None` out of range.
    fn of_integer(self, value: i128) -> Option<i64> {
        let scaled = match self.unit {
            TimeUnit::Nanoseconds => (value + 500).div_euclid(1000),
            TimeUnit::Microseconds => value,
            TimeUnit::Milliseconds => value * 1000,
            TimeUnit::Seconds => value * 1_000_000,
        };
        i64::try_from(scaled + i128::from(self.offset_us)).ok()
    }

    /// Microseconds of a number; `None` if it is none or out of range.
    fn of_float(self, value: f64) -> Option<i64> {
        let scaled = (value * self.factor()).round_ties_even();
        // 2^63 is the first value out of range; NaN is in no range.
        let inside = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&scaled);
        inside.then(|| (scaled as i64).checked_add(self.offset_us)).flatten()
    }

    fn factor(self) -> f64 {
        match self.unit {
            TimeUnit::Nanoseconds => 1e-3,
            TimeUnit::Microseconds => 1.0,
            TimeUnit::Milliseconds => 1e3,
            TimeUnit::Seconds => 1e6,
        }
    }
}

/// How stored coordinates become pixels: `(value - first) / parts`, to the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pixel {
    /// Parts of a pixel that the file counts.
    pub(crate) parts: u16,
    /// What the first pixel is called.
    pub(crate) first: u16,
    /// Pixels along this axis.
    pub(crate) limit: u16,
}

impl Pixel {
    /// Whether coordinates are stored as whole pixels from 0 on.
    pub(super) fn is_plain(self) -> bool {
        self.parts == 1 && self.first == 0
    }

    fn of_integer(self, value: i128) -> Option<i16> {
        let parts = i128::from(self.parts);
        self.inside((value - i128::from(self.first) + parts / 2).div_euclid(parts))
    }

    fn of_float(self, value: f64) -> Option<i16> {
        let pixel = ((value - f64::from(self.first)) / f64::from(self.parts)).round_ties_even();
        (-1.0..65536.0).contains(&pixel).then(|| self.inside(pixel as i128)).flatten()
    }

    fn inside(self, pixel: i128) -> Option<i16> {
        if (0..i128::from(self.limit)).contains(&pixel) { i16::try_from(pixel).ok() } else { None }
    }
}

/// What a conversion came across.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// A value that no event can have.
    pub(crate) bad: bool,
    /// A coordinate between two pixels.
    pub(crate) between: bool,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.bad |= other.bad;
        self.between |= other.between;
    }
}

/// Values at a stride: the first starts at `offset`, each takes what `cell` says.
#[derive(Clone, Copy)]
pub(crate) struct Values<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) cell: Cell,
    pub(crate) offset: usize,
    pub(crate) stride: usize,
}

/// A stored number as its own type.
trait Stored: Copy + 'static {
    const BYTES: usize;
    /// The number at the start of `bytes`.
    fn load(bytes: &[u8], big_endian: bool) -> Self;
    fn integer(self) -> i128;
    fn float(self) -> f64;
    /// The low bits, for values known to be small.
    fn low(self) -> i64;
}

macro_rules! stored {
    ($($type:ty)*) => {$(
        impl Stored for $type {
            const BYTES: usize = size_of::<$type>();
            #[inline(always)]
            fn load(bytes: &[u8], big_endian: bool) -> Self {
                let raw = bytes.first_chunk().copied().unwrap_or_default();
                if big_endian { Self::from_be_bytes(raw) } else { Self::from_le_bytes(raw) }
            }
            #[inline(always)]
            fn integer(self) -> i128 {
                self as i128
            }
            #[inline(always)]
            fn float(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn low(self) -> i64 {
                self as i64
            }
        }
    )*};
}
stored!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64);

/// A number of half precision.
#[derive(Clone, Copy)]
struct Half(u16);

impl Stored for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load(bytes: &[u8], big_endian: bool) -> Self {
        Self(u16::load(bytes, big_endian))
    }
    #[inline(always)]
    fn integer(self) -> i128 {
        self.float() as i128
    }
    // IEEE 754: sign 1, exponent 5, fraction 10 bits.
    #[inline(always)]
    fn float(self) -> f64 {
        let (exponent, fraction) = (i32::from(self.0 >> 10 & 31), f64::from(self.0 & 1023));
        let magnitude = match exponent {
            0 => fraction / 16_777_216.0,
            31 if fraction == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
        };
        if self.0 >> 15 == 0 { magnitude } else { -magnitude }
    }
    #[inline(always)]
    fn low(self) -> i64 {
        self.float() as i64
    }
}

/// A time of NumPy.
#[derive(Clone, Copy)]
struct Moment(i64);

impl Stored for Moment {
    const BYTES: usize = 8;
    #[inline(always)]
    fn load(bytes: &[u8], big_endian: bool) -> Self {
        Self(i64::load(bytes, big_endian))
    }
    // No time is out of every range.
    #[inline(always)]
    fn integer(self) -> i128 {
        if self.0 == i64::MIN { 1 << 100 } else { self.0.into() }
    }
    #[inline(always)]
    fn float(self) -> f64 {
        self.0 as f64
    }
    #[inline(always)]
    fn low(self) -> i64 {
        self.0
    }
}

/// Calls `each` with every value. The common stride, that of a column of its own, is a loop of its own, because only
/// that is vectorised.
#[inline(always)]
fn each<S: Stored, T>(values: Values<'_>, out: &mut [T], mut each: impl FnMut(S) -> T) {
    let Values { bytes, cell, offset, stride } = values;
    if stride == S::BYTES && offset == 0 {
        if cell.big_endian {
            for (out, raw) in out.iter_mut().zip(bytes.chunks_exact(S::BYTES)) {
                *out = each(S::load(raw, true));
            }
        } else {
            for (out, raw) in out.iter_mut().zip(bytes.chunks_exact(S::BYTES)) {
                *out = each(S::load(raw, false));
            }
        }
        return;
    }
    let rows = bytes.get(offset..).unwrap_or_default().chunks(stride.max(1));
    for (out, raw) in out.iter_mut().zip(rows) {
        *out = each(S::load(raw, cell.big_endian));
    }
}

/// Calls `$run` with the type of the stored numbers.
macro_rules! by_type {
    ($number:expr, $run:ident::<_>($($argument:expr),*)) => {
        match $number {
            Number::U8 => $run::<u8>($($argument),*),
            Number::U16 => $run::<u16>($($argument),*),
            Number::U32 => $run::<u32>($($argument),*),
            Number::U64 => $run::<u64>($($argument),*),
            Number::I8 => $run::<i8>($($argument),*),
            Number::I16 => $run::<i16>($($argument),*),
            Number::I32 => $run::<i32>($($argument),*),
            Number::I64 => $run::<i64>($($argument),*),
            Number::F16 => $run::<Half>($($argument),*),
            Number::F32 => $run::<f32>($($argument),*),
            Number::F64 => $run::<f64>($($argument),*),
            Number::Time => $run::<Moment>($($argument),*),
        }
    };
}

/// Coordinates into `out`.
pub(crate) struct Pixels<'a>(pub(crate) Values<'a>, pub(crate) Pixel, pub(crate) &'a mut [i16]);

impl simd::Kernel for Pixels<'_> {
    type Output = Seen;
    #[inline(always)]
    fn run(self) -> Seen {
        let Self(values, pixel, out) = self;
        by_type!(values.cell.number, pixels::<_>(values, pixel, out))
    }
}

#[inline(always)]
fn pixels<S: Stored>(values: Values<'_>, pixel: Pixel, out: &mut [i16]) -> Seen {
    let mut seen = Seen::default();
    if values.cell.number.is_float() {
        let (first, parts, limit) = (f64::from(pixel.first), f64::from(pixel.parts), f64::from(pixel.limit));
        let (mut bad, mut between) = (false, false);
        each::<S, _>(values, out, |value| {
            let exact = (value.float() - first) / parts;
            let near = exact.round_ties_even();
            bad |= !(0.0..limit).contains(&near);
            between |= (near - exact).abs() > 0.0;
            near as i16
        });
        seen.add(Seen { bad, between });
    } else if pixel.is_plain() {
        let limit = u64::from(pixel.limit);
        let mut bad = false;
        each::<S, _>(values, out, |value| {
            let low = value.low();
            bad |= low.cast_unsigned() >= limit;
            low as i16
        });
        seen.bad = bad;
    } else {
        let (first, parts, limit) = (i64::from(pixel.first), i64::from(pixel.parts), i64::from(pixel.limit));
        let (mut bad, mut between) = (false, false);
        each::<S, _>(values, out, |value| {
            let counted = value.low().wrapping_sub(first);
            let near = counted.wrapping_add(parts / 2).div_euclid(parts);
            bad |= !(0..limit).contains(&near);
            between |= counted % parts != 0;
            near as i16
        });
        seen.add(Seen { bad, between });
    }
    seen
}

/// Times into `out`.
pub(crate) struct Times<'a>(pub(crate) Values<'a>, pub(crate) Time, pub(crate) &'a mut [i64]);

impl simd::Kernel for Times<'_> {
    type Output = Seen;
    #[inline(always)]
    fn run(self) -> Seen {
        let Self(values, time, out) = self;
        by_type!(values.cell.number, times::<_>(values, time, out))
    }
}

#[inline(always)]
fn times<S: Stored>(values: Values<'_>, time: Time, out: &mut [i64]) -> Seen {
    let mut bad = false;
    if values.cell.number.is_float() {
        // Adding this moves the integer part of numbers below 2^51 into the low bits, rounded to the nearest.
        const ROUND: f64 = 6_755_399_441_055_744.0;
        const EXACT: f64 = 2_251_799_813_685_248.0;
        let factor = time.factor();
        let mut large = false;
        each::<S, _>(values, out, |value| {
            let scaled = value.float() * factor;
            large |= scaled.is_nan() | (scaled.abs() >= EXACT);
            let whole = (scaled + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
            whole.wrapping_add(time.offset_us)
        });
        if large || time.offset_us.unsigned_abs() >= 1 << 62 {
            each::<S, _>(values, out, |value| {
                let us = time.of_float(value.float());
                bad |= us.is_none();
                us.unwrap_or(0)
            });
        }
    } else if time.unit == TimeUnit::Microseconds {
        // Unsigned times of 2^63 and more, and sums out of range, turn the sign.
        let unsigned = values.cell.number == Number::U64;
        let may_be_none = values.cell.number == Number::Time;
        each::<S, _>(values, out, |value| {
            let low = value.low();
            let (us, over) = low.overflowing_add(time.offset_us);
            bad |= over | (unsigned & (low < 0)) | (may_be_none & (low == i64::MIN));
            us
        });
    } else {
        each::<S, _>(values, out, |value| {
            let us = time.of_integer(value.integer());
            bad |= us.is_none();
            us.unwrap_or(0)
        });
    }
    Seen { bad, between: false }
}

/// Polarities into `out`: +1 where the value is above zero.
pub(crate) struct Polarities<'a>(pub(crate) Values<'a>, pub(crate) &'a mut [i8]);

impl simd::Kernel for Polarities<'_> {
    type Output = Seen;
    #[inline(always)]
    fn run(self) -> Seen {
        let Self(values, out) = self;
        by_type!(values.cell.number, polarities::<_>(values, out))
    }
}

#[inline(always)]
fn polarities<S: Stored>(values: Values<'_>, out: &mut [i8]) -> Seen {
    let mut bad = false;
    if values.cell.number.is_float() {
        each::<S, _>(values, out, |value| {
            let value = value.float();
            bad |= value.is_nan();
            if value > 0.0 { 1 } else { -1 }
        });
    } else {
        // Unsigned numbers of 2^63 and more are above zero too, but no file has them.
        each::<S, _>(values, out, |value| if value.low() > 0 { 1 } else { -1 });
    }
    Seen { bad, between: false }
}

/// One value, to be looked at on its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Integer(i128),
    Float(f64),
}

impl Values<'_> {
    /// The value of a row; `None` beyond the end.
    pub(crate) fn get(&self, row: usize) -> Option<Value> {
        fn load<S: Stored>(bytes: &[u8], cell: Cell) -> Value {
            let value = S::load(bytes, cell.big_endian);
            if cell.number.is_float() { Value::Float(value.float()) } else { Value::Integer(value.integer()) }
        }
        let start = self.offset.checked_add(row.checked_mul(self.stride)?)?;
        let bytes = self.bytes.get(start..)?.get(..self.cell.number.bytes())?;
        Some(by_type!(self.cell.number, load::<_>(bytes, self.cell)))
    }
}

impl Value {
    /// Microseconds, if it is a time.
    pub(crate) fn time(self, time: Time) -> Option<i64> {
        match self {
            Self::Integer(value) => time.of_integer(value),
            Self::Float(value) => time.of_float(value),
        }
    }

    /// The pixel, if it is one.
    pub(crate) fn pixel(self, pixel: Pixel) -> Option<i16> {
        match self {
            Self::Integer(value) => pixel.of_integer(value),
            Self::Float(value) => pixel.of_float(value),
        }
    }

    /// The polarity, if it is one.
    pub(crate) fn polarity(self) -> Option<i8> {
        match self {
            Self::Integer(value) => Some(if value > 0 { 1 } else { -1 }),
            Self::Float(value) if value.is_nan() => None,
            Self::Float(value) => Some(if value > 0.0 { 1 } else { -1 }),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
        }
    }
}
