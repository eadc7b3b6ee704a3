//! LZF streams, as `LibLZF` and the h5py filter write them.
//!
//! A control byte under 32 is followed by that many literals and one more. Any other is a match: length - 2 in its top
//! three bits (7: the next byte is added), distance - 1 in its low five and the byte after.

use std::array::from_fn;

/// Bytes moved at once where there is room for them: no loop, no call.
const MOVE: usize = 32;

/// Decodes one stream; the number of bytes written, or `None` where it is damaged or does not fit.
pub(super) fn decode(raw: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut from, mut to) = (0, 0);
    while let Some(control) = raw.get(from) {
        let control = usize::from(*control);
        from += 1;
        if control < 32 {
            let count = control + 1;
            literals(raw, from, out, to, count)?;
            from += count;
            to += count;
            continue;
        }
        let mut count = (control >> 5) + 2;
        if count == 9 {
            count += usize::from(*raw.get(from)?);
            from += 1;
        }
        let distance = ((control & 31) << 8 | usize::from(*raw.get(from)?)) + 1;
        from += 1;
        repeat(out, to, distance, count)?;
        to += count;
    }
    Some(to)
}

/// Copies `count` bytes, at most 32, of `raw` at `from` to `out` at `to`; may write past them what is written later.
#[inline(always)]
pub(super) fn literals(raw: &[u8], from: usize, out: &mut [u8], to: usize, count: usize) -> Option<()> {
    if let (Some(bytes), Some(slots)) = (chunk(raw, from), chunk_mut(out, to))
        && count <= MOVE
    {
        *slots = *bytes;
        return Some(());
    }
    out.get_mut(to..to + count)?.copy_from_slice(raw.get(from..from + count)?);
    Some(())
}

/// Writes `count` bytes at `to`, each the one `distance` before it; may write past them what is written later.
#[inline(always)]
pub(super) fn repeat(out: &mut [u8], to: usize, distance: usize, count: usize) -> Option<()> {
    let start = to.checked_sub(distance)?;
    if distance == 0 || to.checked_add(count)? > out.len() {
        return None;
    }
    if to + count + MOVE > out.len() {
        repeat_last(out, start, to, distance, count);
    } else if distance >= MOVE {
        moves::<MOVE>(out, start, to, count);
    } else if distance >= 8 {
        moves::<8>(out, start, to, count);
    } else if let Some(bytes) = out.get(start..).and_then(<[u8]>::first_chunk::<8>).copied() {
        // Whole periods in eight bytes, as many as fit.
        let period = PERIODS[distance];
        let bytes: [u8; 8] = from_fn(|at| bytes[usize::from(period[at]) & 7]);
        let step = 8 / distance * distance;
        let mut done = 0;
        while done < count {
            if let Some(slots) = out.get_mut(to + done..).and_then(<[u8]>::first_chunk_mut) {
                *slots = bytes;
            }
            done += step;
        }
    }
    Some(())
}

/// For each distance under eight: eight bytes, as positions after the one that far before.
const PERIODS: [[u8; 8]; 8] = {
    let mut periods = [[0; 8]; 8];
    let mut distance = 1;
    while distance < 8 {
        let mut at = 0;
        while at < 8 {
            periods[distance][at] = (at % distance) as u8;
            at += 1;
        }
        distance += 1;
    }
    periods
};

/// Copies `N` bytes at a time; they are at least `N` apart.
#[inline(always)]
fn moves<const N: usize>(out: &mut [u8], start: usize, to: usize, count: usize) {
    let mut done = 0;
    while done < count {
        let bytes: Option<[u8; N]> = out.get(start + done..).and_then(<[u8]>::first_chunk).copied();
        if let (Some(bytes), Some(slots)) = (bytes, out.get_mut(to + done..).and_then(<[u8]>::first_chunk_mut)) {
            *slots = bytes;
        }
        done += N;
    }
}

/// The end of a stream, where nothing may be written past the count.
#[cold]
#[inline(never)]
fn repeat_last(out: &mut [u8], start: usize, to: usize, distance: usize, count: usize) {
    // The stretch repeats every `distance` bytes, so each copy may be twice as long as the one before.
    let mut done = 0;
    while done < count {
        let step = (count - done).min(distance + done);
        out.copy_within(start..start + step, to + done);
        done += step;
    }
}

#[inline(always)]
fn chunk(bytes: &[u8], at: usize) -> Option<&[u8; MOVE]> {
    bytes.get(at..)?.first_chunk()
}

#[inline(always)]
fn chunk_mut(bytes: &mut [u8], at: usize) -> Option<&mut [u8; MOVE]> {
    bytes.get_mut(at..)?.first_chunk_mut()
}

#[cfg(test)]
mod tests {
    use super::{decode, repeat};
    use proptest::prelude::*;

    #[test]
    fn literals_and_matches() {
        // "abc", then 5 bytes from 3 back, then 9 + 1 bytes from 1 back.
        let raw = [2, b'a', b'b', b'c', 0x60, 2, 0xE0, 1, 0];
        let mut out = [0; 18];
        assert_eq!(decode(&raw, &mut out), Some(18));
        assert_eq!(&out, b"abcabcabbbbbbbbbbb");
        assert_eq!(decode(&raw, &mut [0; 17]), None, "does not fit");
        assert_eq!(decode(&raw[..8], &mut out), None, "ends in a match");
        assert_eq!(decode(&raw[..2], &mut out), None, "ends in literals");
        assert_eq!(decode(&[0x20, 0], &mut out), None, "reaches before the start");
        assert_eq!(decode(&[], &mut out), Some(0));
    }

    proptest! {
        #[test]
        fn repeats_are_those_of_a_byte_loop(seed in proptest::collection::vec(any::<u8>(), 1..80), distance in 1_usize..80, count in 0_usize..300, room in 0_usize..300) {
            let mut out = seed.clone();
            out.resize(seed.len() + room, 0);
            let mut expected = out.clone();
            let fits = distance <= seed.len() && count <= room;
            if fits {
                for at in seed.len()..seed.len() + count {
                    expected[at] = expected[at - distance];
                }
            }
            prop_assert_eq!(repeat(&mut out, seed.len(), distance, count).is_some(), fits);
            if fits {
                prop_assert_eq!(&out[..seed.len() + count], &expected[..seed.len() + count]);
            }
        }

        #[test]
        fn random_bytes_do_no_harm(raw in proptest::collection::vec(any::<u8>(), 0..200), room in 0_usize..400) {
            let mut out = vec![0; room];
            prop_assert!(decode(&raw, &mut out).is_none_or(|written| written <= room));
        }
    }
}
