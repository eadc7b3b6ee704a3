//! Channel names as names of files, and back.
//!
//! Letters, digits, `_`, `-` and dots (but not in front) stay; every other byte of the name's UTF-8 becomes `%` and two
//! hexadecimal digits. What would be longer than [`LONGEST`] is cut and ends with `%~` and a hash of the name; the name
//! itself then stands in the file.

use crate::error::{Error, Result};

/// Bytes of a channel's part of a file name; names of files have at most 255, and some are for the number and ending.
const LONGEST: usize = 200;
const HASHED: &str = "%~";
const EXTENSION: &str = ".mcap";
const DIGITS: usize = 6;

/// The channel's part of its files' names.
///
/// # Errors
/// `InvalidArgument` for an empty name.
pub(crate) fn encode(channel: &str) -> Result<String> {
    if channel.is_empty() {
        return Err(Error::invalid("a channel's name has at least one character"));
    }
    let mut name = String::with_capacity(channel.len());
    for (at, byte) in channel.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && at > 0) {
            name.push(byte.into());
        } else {
            name.push('%');
            for digit in [byte >> 4, byte & 15] {
                name.extend(char::from_digit(digit.into(), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    if name.len() > LONGEST {
        let hash = format!("{HASHED}{:032x}", fnv1a(channel.as_bytes()));
        let mut cut = LONGEST - hash.len();
        // Not through an escape.
        cut -= name.get(..cut).and_then(|name| name.rfind('%')).filter(|at| cut - at < 3).map_or(0, |at| cut - at);
        name.truncate(cut);
        name.push_str(&hash);
    }
    Ok(name)
}

/// The channel that `encode` gave this name; `None` for what it gives none, or where only the file knows.
pub(crate) fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = rest.get(2..)?;
        } else {
            bytes.push(*byte);
        }
    }
    let channel = String::from_utf8(bytes).ok()?;
    (encode(&channel).ok()? == name).then_some(channel)
}

/// Whether a name was cut, so that only its file knows the channel.
pub(crate) fn is_hashed(name: &str) -> bool {
    name.len() <= LONGEST && name.rfind(HASHED).is_some_and(|at| name.len() - at == HASHED.len() + 32)
}

/// Name of the file of a channel with this number.
pub(crate) fn file(encoded: &str, number: u64) -> String {
    format!("{encoded}.{number:0DIGITS$}{EXTENSION}")
}

/// The channel's part and the number of a file's name.
pub(crate) fn split(file: &str) -> Option<(&str, u64)> {
    let (name, number) = file.strip_suffix(EXTENSION)?.rsplit_once('.')?;
    let plain = number.len() >= DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok()?;
    // There is always a next number.
    (plain && number < u64::MAX && !name.is_empty() && file == self::file(name, number)).then_some((name, number))
}

/// FNV-1a, 128 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>).
fn fnv1a(bytes: &[u8]) -> u128 {
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    bytes.iter().fold(start, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_come_back() {
        let long = "x/".repeat(150);
        for name in ["camera", "a/b", "../x", "..", ".", "a.b", ".hidden", "nul\0", "ü ☃", "%41", "%~", "a%", "\u{7f}", long.as_str()] {
            let encoded = encode(name).unwrap();
            assert!(encoded.len() <= LONGEST && !encoded.starts_with('.') && !encoded.contains(['/', '\0', '\\']), "{encoded}");
            let expected = (!is_hashed(&encoded)).then(|| name.to_owned());
            assert_eq!(decode(&encoded), expected, "{encoded}");
            let file = file(&encoded, 12);
            assert_eq!(split(&file), Some((encoded.as_str(), 12)));
        }
        assert!(is_hashed(&encode(&long).unwrap()));
        assert_ne!(encode(&long).unwrap(), encode(&"x/".repeat(151)).unwrap());
        assert!(encode("").is_err());
    }

    #[test]
    fn other_files_are_no_sessions() {
        for file in [
            "a.mcap",
            "a.1.mcap",
            "a.000001.bag",
            ".000001.mcap",
            "a.00000x.mcap",
            "a.+00001.mcap",
            "a.0000001.mcap",
            "a.18446744073709551615.mcap",
        ] {
            assert_eq!(split(file), None, "{file}");
        }
        assert_eq!(split("a.1000000.mcap"), Some(("a", 1_000_000)));
        assert_eq!(decode("%4g"), None);
        assert_eq!(decode("%41"), None); // `A` is written as it is
    }
}
