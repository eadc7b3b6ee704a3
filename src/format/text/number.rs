//! Fields: decimal numbers, exactly; polarities; digits eight at a time.

use crate::schema::TimeUnit;

/// A decimal number: `digits` times ten to the power `exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    negative: bool,
    digits: u128,
    exponent: i32,
    /// Whether it is written with a point or an exponent.
    pub(crate) has_point: bool,
}

/// Digits that are kept; those after them only change the exponent, which is all that rounding half up needs.
const KEPT: u32 = 30;

impl Number {
    /// The number that `field`, without blanks around it, is.
    pub(crate) fn parse(field: &[u8]) -> Option<Self> {
        let (negative, mut rest) = match field {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] | rest => (false, rest),
        };
        let (mut digits, mut kept, mut exponent, mut seen) = (0_u128, 0, 0_i32, false);
        let mut has_point = false;
        while let [byte, after @ ..] = rest {
            match (byte, has_point) {
                (b'0'..=b'9', _) => {
                    let digit = byte - b'0';
                    seen = true;
                    if kept < KEPT {
                        digits = 10 * digits + u128::from(digit);
                        kept += u32::from(digits > 0);
                        exponent -= i32::from(has_point);
                    } else {
                        exponent += i32::from(!has_point);
                    }
                }
                (b'.', false) => has_point = true,
                (b'e' | b'E', _) if seen => {
                    exponent = exponent.checked_add(power(after)?)?;
                    has_point = true;
                    break;
                }
                _ => return None,
            }
            rest = after;
        }
        seen.then_some(Self { negative, digits, exponent, has_point })
    }

    /// Whether nothing but zeros stands behind the point.
    pub(crate) fn is_whole(self) -> bool {
        let unit = 10_u128.checked_pow(self.exponent.min(0).unsigned_abs());
        self.digits == 0 || unit.is_some_and(|unit| self.digits.is_multiple_of(unit))
    }

    /// The number times ten to the power `shift`, rounded to the nearest whole number, halves away from zero; whether
    /// that changed it.
    fn scaled(self, shift: i32) -> Option<(i64, bool)> {
        let exponent = self.exponent.checked_add(shift)?;
        let (value, rounded) = if self.digits == 0 {
            (0, false)
        } else if let Ok(up) = u32::try_from(exponent) {
            (self.digits.checked_mul(10_u128.checked_pow(up)?)?, false)
        } else {
            match 10_u128.checked_pow(exponent.unsigned_abs()) {
                Some(unit) => ((self.digits + unit / 2) / unit, !self.digits.is_multiple_of(unit)),
                None => (0, true),
            }
        };
        let value = i128::try_from(value).ok()?;
        Some((i64::try_from(if self.negative { -value } else { value }).ok()?, rounded))
    }

    /// As millionths, for statistics.
    pub(crate) fn millionths(self) -> Option<i128> {
        let exponent = u32::try_from(self.exponent.checked_add(6)?.max(0)).ok()?;
        let cut = 10_u128.checked_pow(self.exponent.saturating_add(6).min(0).unsigned_abs())?;
        let value = i128::try_from(self.digits.checked_mul(10_u128.checked_pow(exponent)?)? / cut).ok()?;
        Some(if self.negative { -value } else { value })
    }

    /// As a time.
    pub(crate) fn microseconds(self, unit: TimeUnit) -> Option<i64> {
        let shift = match unit {
            TimeUnit::Nanoseconds => -3,
            TimeUnit::Microseconds => 0,
            TimeUnit::Milliseconds => 3,
            TimeUnit::Seconds => 6,
        };
        self.scaled(shift).map(|(value, _)| value)
    }

    /// As a whole number, and whether it was rounded.
    pub(crate) fn rounded(self) -> Option<(i64, bool)> {
        self.scaled(0)
    }
}

/// The exponent after `e`.
fn power(field: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(field).ok()?;
    let power: i32 = text.parse().ok()?;
    (-10_000..=10_000).contains(&power).then_some(power)
}

/// Whether `field` says brighter, if it is a polarity.
pub(crate) fn polarity(field: &[u8]) -> Option<bool> {
    match field {
        b"1" | b"+" => Some(true),
        b"0" | b"-1" | b"-" => Some(false),
        _ => {
            if let Some(number) = Number::parse(field) {
                return match number.rounded()? {
                    (1, false) => Some(true),
                    (0 | -1, false) => Some(false),
                    _ => None,
                };
            }
            let is = |word: &str| field.eq_ignore_ascii_case(word.as_bytes());
            if is("true") || is("on") {
                Some(true)
            } else if is("false") || is("off") {
                Some(false)
            } else {
                None
            }
        }
    }
}

/// Powers of ten.
pub(crate) const POWERS: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Eight bytes of `bytes` at `at`.
#[inline(always)]
pub(crate) fn load(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Values of the bytes as digits, and how many of the first are.
#[inline(always)]
fn split(bytes: u64) -> (u64, usize) {
    let values = bytes ^ 0x3030_3030_3030_3030;
    // The top bit of a byte that is no digit; a carry can only reach bytes after it.
    let others = (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080;
    (values, (others.trailing_zeros() / 8) as usize)
}

/// The number of eight digit values, the first byte first.
#[inline(always)]
fn join(values: u64) -> u64 {
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8);
    let high = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(100 + (1_000_000 << 32));
    let low = (pairs >> 16 & 0x0000_00FF_0000_00FF).wrapping_mul(1 + (10_000 << 32));
    high.wrapping_add(low) >> 32
}

/// The number that the first bytes are, and how many they are.
#[inline(always)]
pub(crate) fn digits(bytes: u64) -> (u64, usize) {
    let (values, count) = split(bytes);
    (if count == 0 { 0 } else { join(values << (64 - 8 * count)) }, count)
}

/// The first bytes as the digits after a point, in hundred-millionths, and how many they are.
#[inline(always)]
pub(crate) fn digits_left(bytes: u64) -> (u64, usize) {
    let (values, count) = split(bytes);
    let kept = if count == 8 { values } else { values & ((1 << (8 * count)) - 1) };
    (join(kept), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let us = |text: &str, unit| Number::parse(text.as_bytes()).and_then(|number| number.microseconds(unit));
        let s = |text| us(text, TimeUnit::Seconds);
        assert_eq!(s("0.003811000"), Some(3811));
        assert_eq!(s("1.0000005"), Some(1_000_001));
        assert_eq!(s("1.00000049999999999999999999999999999999999999999"), Some(1_000_000));
        assert_eq!(s("-1.0000005"), Some(-1_000_001));
        assert_eq!(s("1.5e-3"), Some(1500));
        assert_eq!(s("1600000000.123456789"), Some(1_600_000_000_123_457));
        assert_eq!(s("9223372036854.775807"), Some(i64::MAX));
        assert_eq!(s("9223372036854.775808"), None);
        assert_eq!(s("-9223372036854.775808"), Some(i64::MIN));
        assert_eq!(s("1e400"), None);
        assert_eq!(s("0e400"), Some(0));
        assert_eq!(s("1e-400"), Some(0));
        assert_eq!(s("1e99999999999"), None);
        assert_eq!(s("123456789012345678901234567890123456789012345678901234567890e-54"), Some(123_456_789_012));
        assert_eq!(s(".5"), Some(500_000));
        assert_eq!(s("5."), Some(5_000_000));
        for bad in ["", "-", ".", "e5", "1e", "1.2.3", "nan", "inf", "0x10", "1 2", "1_0"] {
            assert_eq!(s(bad), None, "{bad}");
        }
        assert_eq!(us("1499", TimeUnit::Nanoseconds), Some(1));
        assert_eq!(us("1500", TimeUnit::Nanoseconds), Some(2));
        assert_eq!(us("1.5", TimeUnit::Milliseconds), Some(1500));
        assert_eq!(us("1.5", TimeUnit::Microseconds), Some(2));
        let whole = |text: &str| Number::parse(text.as_bytes()).unwrap().is_whole();
        assert!(["12", "12.000", "1.234e3", "1.234000000000000000e+03", "0.0", "0e-400", "-5.", "1e20"].into_iter().all(whole));
        assert!(!["12.5", "1.2345e3", "1e-1", "1e-400", "0.000000000000000000001"].into_iter().any(whole));
        assert_eq!(Number::parse(b"96.0").and_then(Number::rounded), Some((96, false)));
        assert_eq!(Number::parse(b"96.5").and_then(Number::rounded), Some((97, true)));
    }

    #[test]
    fn eight_digits() {
        let word = |text: &[u8; 8]| u64::from_le_bytes(*text);
        assert_eq!(digits(word(b"12345678")), (12_345_678, 8));
        assert_eq!(digits(word(b"00000001")), (1, 8));
        assert_eq!(digits(word(b"42 99999")), (42, 2));
        assert_eq!(digits(word(b"7\xFF\xFF999 9")), (7, 1));
        assert_eq!(digits(word(b" 1234567")), (0, 0));
        assert_eq!(digits_left(word(b"5 123456")), (50_000_000, 1));
        assert_eq!(digits_left(word(b"00000012")), (12, 8));
        assert_eq!(digits_left(word(b":0000012")), (0, 0));
    }
}
