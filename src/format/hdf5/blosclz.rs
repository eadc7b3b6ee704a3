//! `BloscLZ` streams: the `FastLZ` level 2 block.
//!
//! A control byte under 32 is followed by that many literals and one more. Any other is a match: length - 2 in its top
//! three bits (7: bytes are added until one is not 255), distance - 1 in its low five and the byte after; where all 13
//! bits of that are set, two more bytes, high one first, are added to 8191. The first byte is literals whatever its
//! top bits say.

use super::lzf::{literals, repeat};

/// The distance - 1 that says that a longer one follows.
const FAR: usize = 0x1FFF;

/// Decodes one stream; the number of bytes written, or `None` where it is damaged or does not fit.
pub(super) fn decode(raw: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut from, mut to) = (0, 0);
    let mut mask = 31;
    while let Some(control) = raw.get(from) {
        let control = usize::from(control & mask);
        mask = 255;
        from += 1;
        if control < 32 {
            let count = control + 1;
            literals(raw, from, out, to, count)?;
            from += count;
            to += count;
            continue;
        }
        let mut next = || {
            let byte = raw.get(from).copied().map(usize::from);
            from += 1;
            byte
        };
        let mut count = (control >> 5) + 2;
        if count == 9 {
            loop {
                let more = next()?;
                count += more;
                if more != 255 {
                    break;
                }
            }
        }
        let mut back = (control & 31) << 8 | next()?;
        if back == FAR {
            back += next()? << 8 | next()?;
        }
        repeat(out, to, back + 1, count)?;
        to += count;
    }
    Some(to)
}

#[cfg(test)]
mod tests {
    use super::decode;
    use proptest::prelude::*;

    #[test]
    fn literals_and_matches() {
        // "abc" under level bits, 4 bytes from 3 back, 9 + 255 + 1 bytes from 1 back.
        let raw = [0x22, b'a', b'b', b'c', 0x40, 2, 0xE0, 255, 1, 0];
        let mut out = [0; 272];
        assert_eq!(decode(&raw, &mut out), Some(272));
        assert!(out.starts_with(b"abcabcaaaa") && out[7..].iter().all(|byte| *byte == b'a'));
        assert_eq!(decode(&raw, &mut out[..271]), None, "does not fit");
        assert_eq!(decode(&raw[..8], &mut out), None, "ends in a length");
        assert_eq!(decode(&raw[..9], &mut out), None, "ends in a distance");
        assert_eq!(decode(&[0, b'a', 0x20, 1], &mut out), None, "reaches before the start");
    }

    #[test]
    fn far_matches() {
        let mut raw = vec![0, b'z', 0xE0];
        raw.extend([255; 40]);
        raw.extend([0, 0, 0x3F, 0xFF, 0, 3]);
        // 1 literal, 9 + 40 * 255 copies of it, 3 bytes from 8192 + 3 back.
        let written = 1 + 9 + 40 * 255 + 3;
        assert_eq!(decode(&raw, &mut vec![0; written]), Some(written));
    }

    proptest! {
        #[test]
        fn random_bytes_do_no_harm(raw in proptest::collection::vec(any::<u8>(), 0..200), room in 0_usize..400) {
            let mut out = vec![0; room];
            prop_assert!(decode(&raw, &mut out).is_none_or(|written| written <= room));
        }
    }
}
