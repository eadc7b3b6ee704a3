//! ECF, Prophesee's event filter: a chunk of events as runs of times, rows and polarities and masks of columns, or
//! packed.
//!
//! Header u32: count << 2 | packed all << 1 | packed x and p. Then u64 the first time, and the times as bytes delta
//! << 4 | run: run 15 says that the run follows as u16; delta 15 makes the low half a digit of a delta in base 16, the
//! lowest first. Then one of
//! * y << 12 | x << 1 | p, four events in three u32,
//! * rows, then x << 1 | p, four events in three u16,
//! * rows; x << 5 | mask, where bit 4 - i of the mask is an event at x + i + 1; p << 7 | run, run 127: u16 follows.
//!
//! Rows are u16, y << 5 | run, run 31: u16 follows. Little-endian.

use super::filter::{Bytes, ECF, FilterError};
use crate::simd::{self, Kernel};

/// Bytes of a decoded event.
pub(crate) const RECORD: usize = 16;
/// Most events that the encoder puts in a chunk: runs of them fit 16 bits.
pub(crate) const MOST: usize = 65535;
/// Largest x or y.
const MAX_COORDINATE: i16 = 2047;

const ALL_PACKED: usize = 2;
const XP_PACKED: usize = 1;

/// For each mask of x, what is added to x for each event.
const OFFSETS: [[i16; 8]; 32] = {
    let mut offsets = [[0; 8]; 32];
    let mut mask = 0;
    while mask < 32 {
        let (mut bit, mut at) = (0, 1);
        while bit < 5 {
            if mask >> (4 - bit) & 1 == 1 {
                offsets[mask][at] = bit as i16 + 1;
                at += 1;
            }
            bit += 1;
        }
        mask += 1;
    }
    offsets
};

/// For each mask of x, the number of events.
const COUNTS: [u8; 32] = {
    let mut counts = [0; 32];
    let mut mask = 0;
    while mask < 32 {
        counts[mask] = 1 + (mask as u32).count_ones() as u8;
        mask += 1;
    }
    counts
};

fn ends(part: &str) -> FilterError {
    FilterError::ends(ECF, part)
}

/// The number of events of a chunk.
pub(crate) fn count(raw: &[u8]) -> Result<usize, FilterError> {
    Ok(Bytes(raw).u32_le().ok_or_else(|| ends("a header of 4 bytes"))? >> 2)
}

/// Decodes a chunk of at most `max_events` into columns; the number of events it has.
///
/// An empty column is not wanted; of a column that is shorter than the chunk, the events past it are dropped, and of a
/// longer one the rest is left alone. Polarity is +1 or -1.
pub(crate) fn decode_columns(
    raw: &[u8],
    max_events: usize,
    x: &mut [i16],
    y: &mut [i16],
    t: &mut [i64],
    p: &mut [i8],
) -> Result<usize, FilterError> {
    let count = count(raw)?;
    if count > max_events {
        return Err(FilterError::corrupt(ECF, format!("at most {max_events} events"), format!("{count}")));
    }
    if count > 0 {
        simd::run(Decode { raw, count, x: upto(x, count), y: upto(y, count), t: upto(t, count), p: upto(p, count) })?;
    }
    Ok(count)
}

fn upto<T>(column: &mut [T], count: usize) -> &mut [T] {
    let len = column.len().min(count);
    &mut column[..len]
}

/// Decodes a chunk into records of 16 bytes, `x u16, y u16, p i16, pad, t i64`; the number of bytes.
pub(super) fn decode_records(raw: &[u8], out: &mut [u8]) -> Result<usize, FilterError> {
    let records = out.as_chunks_mut::<RECORD>().0;
    // Before the columns are made, so that they are not larger than the events.
    let count = count(raw)?.min(records.len());
    let (mut x, mut y, mut t, mut p) = (vec![0; count], vec![0; count], vec![0; count], vec![0; count]);
    let count = decode_columns(raw, records.len(), &mut x, &mut y, &mut t, &mut p)?;
    for (i, record) in records[..count].iter_mut().enumerate() {
        let head = x[i] as u64 & 0xFFFF | (y[i] as u64 & 0xFFFF) << 16 | u64::from(p[i] > 0) << 32;
        record[..8].copy_from_slice(&head.to_le_bytes());
        record[8..].copy_from_slice(&t[i].to_le_bytes());
    }
    Ok(count * RECORD)
}

struct Decode<'a> {
    raw: &'a [u8],
    count: usize,
    x: &'a mut [i16],
    y: &'a mut [i16],
    t: &'a mut [i64],
    p: &'a mut [i8],
}

impl Kernel for Decode<'_> {
    type Output = Result<(), FilterError>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { raw, count, x, y, t, p } = self;
        let mode = raw[0] as usize & 3;
        let rest = times(&raw[4..], count, t, false)?;
        let groups = count.div_ceil(4);
        if mode & ALL_PACKED != 0 {
            let packed = rest.get(..12 * groups).ok_or_else(|| ends("packed events"))?.as_chunks().0;
            unpack(packed, all_packed, x, |value| (value >> 1 & 0x7FF) as i16);
            unpack(packed, all_packed, y, |value| (value >> 12) as i16);
            unpack(packed, all_packed, p, sign);
            return Ok(());
        }
        let rest = rows(rest, count, y)?;
        if mode & XP_PACKED != 0 {
            let packed = rest.get(..6 * groups).ok_or_else(|| ends("packed columns and polarities"))?.as_chunks().0;
            unpack(packed, xp_packed, x, |value| (value >> 1) as i16);
            unpack(packed, xp_packed, p, sign);
            return Ok(());
        }
        let rest = masks(rest, count, x)?;
        polarities(rest, count, p)
    }
}

#[inline(always)]
fn sign(value: u32) -> i8 {
    (value as i8 & 1) * 2 - 1
}

/// Writes `count` values from `start`. Up to `LONG` are written where there is room: what is past the run is written
/// again by the next, and a run of usual length needs no loop.
#[inline(always)]
fn put<T: Copy, const SHORT: usize, const LONG: usize>(out: &mut [T], start: usize, count: usize, value: T) {
    if out.is_empty() {
        return;
    }
    if count <= LONG
        && let Some(slots) = out.get_mut(start..).and_then(|slots| slots.first_chunk_mut::<LONG>())
    {
        slots[..SHORT].fill(value);
        if count > SHORT {
            slots[SHORT..].fill(value);
        }
        return;
    }
    put_slowly(out, start, count, value);
}

#[cold]
#[inline(never)]
fn put_slowly<T: Copy>(out: &mut [T], start: usize, count: usize, value: T) {
    let end = start.saturating_add(count).min(out.len());
    if let Some(slots) = out.get_mut(start..end) {
        slots.fill(value);
    }
}

/// Decodes the times of `count` events; what follows them. `some` allows more, in a run that goes on.
#[inline(always)]
fn times<'a>(bytes: &'a [u8], count: usize, out: &mut [i64], some: bool) -> Result<&'a [u8], FilterError> {
    let part = "times";
    let mut at = 8;
    let mut time = i64::from_le_bytes(*bytes.first_chunk().ok_or_else(|| ends("the first time"))?);
    let mut done = 0;
    while done < count {
        let byte = *bytes.get(at).ok_or_else(|| ends(part))?;
        at += 1;
        let (delta, mut run) = (byte >> 4, usize::from(byte & 15));
        if delta == 15 {
            let (digits, len) = long_delta(&bytes[at - 1..])?;
            time = time.wrapping_add(digits);
            at += len - 1;
            continue;
        }
        time = time.wrapping_add(i64::from(delta));
        if run == 15 {
            run = word(bytes, at).ok_or_else(|| ends(part))?;
            at += 2;
        }
        put::<_, 4, 16>(out, done, run, time);
        done += run;
    }
    if done > count && !some {
        return Err(surplus(part, done, count));
    }
    Ok(bytes.get(at..).unwrap_or_default())
}

/// The delta whose digits `bytes` starts with, and how many there are.
#[cold]
#[inline(never)]
fn long_delta(bytes: &[u8]) -> Result<(i64, usize), FilterError> {
    let mut delta = 0_u64;
    let mut len = 0;
    for byte in bytes.iter().take_while(|byte| **byte >> 4 == 15) {
        let digit = u64::from(byte & 15);
        if len >= 16 && digit != 0 {
            return Err(FilterError::corrupt(ECF, "a delta of 64 bits", "one of more"));
        }
        if len < 16 {
            delta |= digit << (4 * len);
        }
        len += 1;
    }
    Ok((delta as i64, len))
}

/// Decodes the rows of `count` events; what follows them.
#[inline(always)]
fn rows<'a>(bytes: &'a [u8], count: usize, out: &mut [i16]) -> Result<&'a [u8], FilterError> {
    let part = "rows";
    let (mut at, mut done) = (0, 0);
    while done < count {
        let value = word(bytes, at).ok_or_else(|| ends(part))?;
        at += 2;
        let mut run = value & 31;
        if run == 31 {
            run = word(bytes, at).ok_or_else(|| ends(part))?;
            at += 2;
        }
        put::<_, 8, 32>(out, done, run, (value >> 5) as i16);
        done += run;
    }
    if done > count {
        return Err(surplus(part, done, count));
    }
    Ok(bytes.get(at..).unwrap_or_default())
}

/// Decodes the columns of `count` events; what follows them. The last mask may have more.
#[inline(always)]
fn masks<'a>(bytes: &'a [u8], count: usize, out: &mut [i16]) -> Result<&'a [u8], FilterError> {
    let (mut at, mut done) = (0, 0);
    while done < count {
        let value = word(bytes, at).ok_or_else(|| ends("columns"))?;
        at += 2;
        let (x, mask) = ((value >> 5) as i16, value & 31);
        let offsets = &OFFSETS[mask];
        if let Some(slots) = out.get_mut(done..).and_then(|slots| slots.first_chunk_mut::<8>()) {
            for (slot, offset) in slots.iter_mut().zip(offsets) {
                *slot = x + offset;
            }
        } else if let Some(slots) = out.get_mut(done..) {
            // The last few; none where the column is not wanted.
            for (slot, offset) in slots.iter_mut().zip(offsets) {
                *slot = x + offset;
            }
        }
        done += usize::from(COUNTS[mask]);
    }
    Ok(bytes.get(at..).unwrap_or_default())
}

/// Decodes the polarities of `count` events.
#[inline(always)]
fn polarities(bytes: &[u8], count: usize, out: &mut [i8]) -> Result<(), FilterError> {
    let part = "polarities";
    let (mut at, mut done) = (0, 0);
    while done < count {
        let byte = *bytes.get(at).ok_or_else(|| ends(part))?;
        at += 1;
        let mut run = usize::from(byte & 127);
        if run == 127 {
            run = word(bytes, at).ok_or_else(|| ends(part))?;
            at += 2;
        }
        put::<_, 16, 128>(out, done, run, sign(u32::from(byte >> 7)));
        done += run;
    }
    if done > count {
        return Err(surplus(part, done, count));
    }
    Ok(())
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?)))
}

#[cold]
fn surplus(part: &str, found: usize, count: usize) -> FilterError {
    FilterError::corrupt(ECF, format!("{part} of {count} events"), format!("{found}"))
}

/// Writes what `get` takes of each value; `values` makes four values of a group.
#[inline(always)]
fn unpack<T, const N: usize>(groups: &[[u8; N]], values: impl Fn(&[u8; N]) -> [u32; 4], out: &mut [T], get: impl Fn(u32) -> T) {
    let (fours, rest) = out.as_chunks_mut::<4>();
    let whole = fours.len();
    for (group, four) in groups.iter().zip(fours) {
        let [a, b, c, d] = values(group);
        *four = [get(a), get(b), get(c), get(d)];
    }
    if let Some(group) = groups.get(whole) {
        for (value, slot) in values(group).into_iter().zip(rest) {
            *slot = get(value);
        }
    }
}

/// Four values of 24 bits: the first three have one byte each in the low ends of the words before theirs.
#[inline(always)]
fn all_packed(group: &[u8; 12]) -> [u32; 4] {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = *group;
    let (a, b, c) = (u32::from_le_bytes([a0, a1, a2, a3]), u32::from_le_bytes([b0, b1, b2, b3]), u32::from_le_bytes([c0, c1, c2, c3]));
    [a >> 8, a & 0xFF | b >> 16 << 8, b & 0xFFFF | c >> 24 << 16, c & 0xFF_FFFF]
}

/// Four values of 12 bits, likewise.
#[inline(always)]
fn xp_packed(group: &[u8; 6]) -> [u32; 4] {
    let [a0, a1, b0, b1, c0, c1] = *group;
    let (a, b, c) = (u16::from_le_bytes([a0, a1]), u16::from_le_bytes([b0, b1]), u16::from_le_bytes([c0, c1]));
    [a >> 4, a & 0xF | b >> 8 << 4, b & 0xFF | c >> 12 << 8, c & 0xFFF].map(u32::from)
}

/// Appends a chunk of at most 65535 events in the smallest of the three forms. Times must not go back, and x and y
/// must be within 0..=2047; a polarity above 0 is brighter.
pub(crate) fn encode(x: &[i16], y: &[i16], t: &[i64], p: &[i8], out: &mut Vec<u8>) -> Result<(), FilterError> {
    let count = t.len();
    if count > MOST || [x.len(), y.len(), p.len()] != [count; 3] {
        return Err(FilterError::invalid(ECF, "columns of the same length, up to 65535", format!("{}", count.max(x.len()))));
    }
    if let Some(value) = x.iter().chain(y).find(|value| !(0..=MAX_COORDINATE).contains(*value)) {
        return Err(FilterError::invalid(ECF, "coordinates of 0 to 2047", format!("{value}")));
    }
    if !t.is_sorted() {
        return Err(FilterError::invalid(ECF, "times that do not go back", "one that does"));
    }
    let groups = count.div_ceil(4);
    let rows: usize = y.chunk_by(|a, b| a == b).map(|run| if run.len() < 31 { 2 } else { 4 }).sum();
    let on = |p: i8| p > 0;
    let signs = || p.chunk_by(move |a, b| on(*a) == on(*b));
    let polarities: usize = signs().map(|run| if run.len() < 127 { 1 } else { 3 }).sum();
    let packed = rows + 6 * groups;
    let masked = rows + 2 * mask_runs(x).count() + polarities;
    let mode = if 12 * groups <= packed.min(masked) {
        ALL_PACKED
    } else if packed <= masked {
        XP_PACKED
    } else {
        0
    };

    out.extend(((count << 2 | mode) as u32).to_le_bytes());
    let Some(first) = t.first() else { return Ok(()) };
    encode_times(*first, t, out);
    if mode == ALL_PACKED {
        for group in 0..groups {
            let [a, b, c, d] = four(group, count, |i| u32::from(on(p[i])) | (x[i] as u32) << 1 | (y[i] as u32) << 12);
            for word in [a << 8 | b & 0xFF, b >> 8 << 16 | c & 0xFFFF, c >> 16 << 24 | d] {
                out.extend(word.to_le_bytes());
            }
        }
        return Ok(());
    }
    for run in y.chunk_by(|a, b| a == b) {
        let value = (run[0] as u16) << 5;
        if run.len() < 31 {
            out.extend((value | run.len() as u16).to_le_bytes());
        } else {
            out.extend((value | 31).to_le_bytes());
            out.extend((run.len() as u16).to_le_bytes());
        }
    }
    if mode == XP_PACKED {
        for group in 0..groups {
            let [a, b, c, d] = four(group, count, |i| u32::from(on(p[i])) | (x[i] as u32) << 1);
            for word in [a << 4 | b & 0xF, b >> 4 << 8 | c & 0xFF, c >> 8 << 12 | d] {
                out.extend((word as u16).to_le_bytes());
            }
        }
        return Ok(());
    }
    for word in mask_runs(x) {
        out.extend(word.to_le_bytes());
    }
    for run in signs() {
        let value = u8::from(on(run[0])) << 7;
        if run.len() < 127 {
            out.push(value | run.len() as u8);
        } else {
            out.push(value | 127);
            out.extend((run.len() as u16).to_le_bytes());
        }
    }
    Ok(())
}

fn encode_times(first: i64, t: &[i64], out: &mut Vec<u8>) {
    out.extend(first.to_le_bytes());
    let mut time = first;
    for run in t.chunk_by(|a, b| a == b) {
        // Exact even between times of opposite sign that are far apart.
        let mut delta = run[0].wrapping_sub(time) as u64;
        time = run[0];
        if delta >= 15 {
            while delta > 0 {
                out.push(0xF0 | (delta & 15) as u8);
                delta >>= 4;
            }
        }
        let delta = (delta as u8) << 4;
        if run.len() < 15 {
            out.push(delta | run.len() as u8);
        } else {
            out.push(delta | 15);
            out.extend((run.len() as u16).to_le_bytes());
        }
    }
}

/// The values of a group, zeros past the end.
fn four(group: usize, count: usize, value: impl Fn(usize) -> u32) -> [u32; 4] {
    [0, 1, 2, 3].map(|at| 4 * group + at).map(|i| if i < count { value(i) } else { 0 })
}

/// The words of columns: each takes what follows while it grows and is at most five past the first.
fn mask_runs(x: &[i16]) -> impl Iterator<Item = u16> {
    let mut rest = x;
    std::iter::from_fn(move || {
        let (first, mut tail) = rest.split_first()?;
        let (mut last, mut mask) = (*first, 0);
        while let Some((next, more)) = tail.split_first()
            && *next > last
            && *next <= first + 5
        {
            mask |= 1 << (4 - (next - first - 1));
            last = *next;
            tail = more;
        }
        rest = tail;
        Some((*first as u16) << 5 | mask)
    })
}

#[cfg(test)]
mod tests {
    use super::{RECORD, count, decode_columns, decode_records, encode};
    use crate::format::hdf5::filter::{FilterError, FilterErrorKind};
    use proptest::prelude::*;

    type Event = (i16, i16, i8, i64);

    fn columns(events: &[Event]) -> (Vec<i16>, Vec<i16>, Vec<i64>, Vec<i8>) {
        let x = events.iter().map(|event| event.0).collect();
        let y = events.iter().map(|event| event.1).collect();
        let t = events.iter().map(|event| event.3).collect();
        let p = events.iter().map(|event| if event.2 > 0 { 1 } else { -1 }).collect();
        (x, y, t, p)
    }

    fn encoded(events: &[Event]) -> Vec<u8> {
        let (x, y, t, p) = columns(events);
        let mut out = vec![0xEE];
        encode(&x, &y, &t, &p, &mut out).unwrap();
        out.remove(0);
        out
    }

    fn decoded(raw: &[u8], max: usize) -> Result<Vec<Event>, FilterError> {
        let most = count(raw)?.min(max) + 3;
        let (mut x, mut y, mut t, mut p) = (vec![-7; most], vec![-7; most], vec![-7; most], vec![-7; most]);
        let count = decode_columns(raw, max, &mut x, &mut y, &mut t, &mut p)?;
        assert!(x[count..] == [-7; 3] && y[count..] == [-7; 3] && t[count..] == [-7; 3] && p[count..] == [-7; 3]);
        Ok((0..count).map(|i| (x[i], y[i], i8::from(p[i] > 0), t[i])).collect())
    }

    /// The layout read bit by bit, with no thought of speed.
    fn slowly(raw: &[u8]) -> Option<Vec<Event>> {
        fn u16_at(raw: &[u8], at: &mut usize) -> Option<usize> {
            *at += 2;
            Some(usize::from(*raw.get(*at - 2)?) | usize::from(*raw.get(*at - 1)?) << 8)
        }
        let head = u32::from_le_bytes(raw.get(..4)?.try_into().ok()?) as usize;
        let count = head >> 2;
        if count == 0 {
            return Some(Vec::new());
        }
        let mut time = i64::from_le_bytes(raw.get(4..12)?.try_into().ok()?);
        let mut at = 12;
        let (mut x, mut y, mut t, mut p) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        while t.len() < count {
            let byte = *raw.get(at)?;
            at += 1;
            if byte >> 4 == 15 {
                let mut delta = i64::from(byte & 15);
                let mut shift = 4;
                while raw.get(at).is_some_and(|byte| byte >> 4 == 15) {
                    if shift < 64 {
                        delta |= i64::from(raw[at] & 15) << shift;
                    } else if raw[at] & 15 != 0 {
                        return None;
                    }
                    shift += 4;
                    at += 1;
                }
                time = time.wrapping_add(delta);
                continue;
            }
            time = time.wrapping_add(i64::from(byte >> 4));
            let run = if byte & 15 == 15 { u16_at(raw, &mut at)? } else { usize::from(byte & 15) };
            t.extend(vec![time; run]);
        }
        let events = |bits: usize, packed: &[u8]| -> Vec<usize> {
            let word = |at: usize| (0..bits / 6).map(|byte| usize::from(packed[at * (bits / 6) + byte]) << (8 * byte)).sum::<usize>();
            let third = bits / 3;
            let low = |value: usize, bits: usize| value & ((1 << bits) - 1);
            (0..packed.len() / (bits / 2))
                .flat_map(|group| {
                    let [a, b, c] = [0, 1, 2].map(|at| word(3 * group + at));
                    let second = low(a, third) | b >> (2 * third) << third;
                    let three = low(b, 2 * third) | c >> bits << (2 * third);
                    [a >> third, second, three, low(c, bits)]
                })
                .collect()
        };
        if head & 2 != 0 {
            for value in events(24, raw.get(at..at + 12 * count.div_ceil(4))?) {
                x.push((value >> 1 & 2047) as i16);
                y.push((value >> 12) as i16);
                p.push((value & 1) as i8);
            }
        } else {
            while y.len() < count {
                let value = u16_at(raw, &mut at)?;
                let run = if value & 31 == 31 { u16_at(raw, &mut at)? } else { value & 31 };
                y.extend(vec![(value >> 5) as i16; run]);
            }
            if head & 1 != 0 {
                for value in events(12, raw.get(at..at + 6 * count.div_ceil(4))?) {
                    x.push((value >> 1) as i16);
                    p.push((value & 1) as i8);
                }
            } else {
                while x.len() < count {
                    let value = u16_at(raw, &mut at)?;
                    x.push((value >> 5) as i16);
                    x.extend((1..6).filter(|more| value >> (5 - more) & 1 == 1).map(|more| (value >> 5) as i16 + more));
                }
                while p.len() < count {
                    let byte = *raw.get(at)?;
                    at += 1;
                    let run = if byte & 127 == 127 { u16_at(raw, &mut at)? } else { usize::from(byte & 127) };
                    p.extend(vec![(byte >> 7) as i8; run]);
                }
                if p.len() > count {
                    return None;
                }
            }
            if y.len() > count {
                return None;
            }
        }
        if t.len() > count {
            return None;
        }
        Some((0..count).map(|i| (x[i], y[i], p[i], t[i])).collect())
    }

    const ALL_PACKED: &[u8] = b"\x06\0\0\0\x04\0\0\0\0\0\0\0\x01\x00\x02\x20\0\0\0\0\0\0\0\0\0";
    const XP_PACKED: &[u8] = b"\x11\0\0\0\x10\x27\0\0\0\0\0\0\x04\xE4\x02\x15\x00\x29\x01\x3D\x00";
    const MASKED: &[u8] = b"\x18\0\0\0\x32\0\0\0\0\0\0\0\x03\xE1\xFF\x01\xFC\xF2\xF1\x01\xE4\0\x02\x01\x94\x0C\0\x32\x10\x32\x82\x02\x82";

    #[test]
    fn known_chunks() {
        let all = [(1, 2, 0, 4)];
        let packed = [0, 10, 20, 30].map(|x| (x, 23, 1, 10_000));
        let masked = [(100, 7, 1, 50), (101, 7, 1, 50), (103, 7, 0, 50), (400, 7, 0, 64), (400, 8, 1, 79), (401, 8, 1, 379)];
        for (raw, events) in [(ALL_PACKED, &all[..]), (XP_PACKED, &packed), (MASKED, &masked)] {
            assert_eq!(decoded(raw, 16384).unwrap(), events);
            assert_eq!(slowly(raw).unwrap(), events);
            // The forms are chosen by size, so only a chunk that has its smallest is written alike.
            assert!(encoded(events).len() <= raw.len());
            let error = decoded(raw, events.len() - 1).unwrap_err();
            assert_eq!(error.kind, FilterErrorKind::Corrupt);
            for len in 0..raw.len() {
                assert!(decoded(&raw[..len], 16384).is_err(), "{len} bytes");
            }
        }
        assert_eq!(encoded(&packed), XP_PACKED);
        assert_eq!(encoded(&masked), MASKED);
        assert_eq!(decoded(&[0; 4], 9).unwrap(), Vec::new());
        assert_eq!(count(&encoded(&[])).unwrap(), 0);
    }

    #[test]
    fn records() {
        let mut out = [9; 5 * RECORD];
        assert_eq!(decode_records(XP_PACKED, &mut out).unwrap(), 4 * RECORD);
        assert_eq!(&out[16..32], b"\x0A\0\x17\0\x01\0\0\0\x10\x27\0\0\0\0\0\0");
        assert_eq!(decode_records(XP_PACKED, &mut out[..4 * RECORD - 1]).unwrap_err().kind, FilterErrorKind::Corrupt);
    }

    #[test]
    fn columns_that_are_not_wanted_or_short() {
        let (mut t, mut x) = ([-7; 2], [-7; 5]);
        assert_eq!(decode_columns(MASKED, 6, &mut x, &mut [], &mut t, &mut []).unwrap(), 6);
        assert_eq!((t, x), ([50; 2], [100, 101, 103, 400, 400]));
        let (mut y, mut p) = ([-7; 6], [-7; 4]);
        assert_eq!(decode_columns(MASKED, 6, &mut [], &mut y, &mut [], &mut p).unwrap(), 6);
        assert_eq!((y, p), ([7, 7, 7, 7, 8, 8], [1, 1, -1, -1]));
    }

    #[test]
    fn extreme_times_and_runs() {
        let far = [(0, 0, 1, i64::MIN), (2047, 2047, 0, -1), (2047, 2047, 0, i64::MAX)];
        assert_eq!(decoded(&encoded(&far), 3).unwrap(), far);
        for run in [14, 15, 30, 31, 126, 127, 128, 65535] {
            let events = vec![(5, 6, 1, 7); run];
            assert_eq!(decoded(&encoded(&events), run).unwrap(), events);
        }
        let mut out = Vec::new();
        for (x, t) in
            [(vec![0; 65536], vec![0; 65536]), (vec![-1], vec![0]), (vec![2048], vec![0]), (vec![0; 2], vec![1, 0]), (vec![0], vec![])]
        {
            let error = encode(&x, &vec![0; t.len()], &t, &vec![1; t.len()], &mut out).unwrap_err();
            assert_eq!((error.kind, out.len()), (FilterErrorKind::Invalid, 0));
        }
    }

    /// Events whose runs are about as long as the numbers say.
    fn events() -> impl Strategy<Value = Vec<Event>> {
        let step = (0_i64..40, any::<u32>());
        (1_u32..30, 1_u32..30, 1_u32..200, 1_i64..100_000, proptest::collection::vec(step, 0..700)).prop_map(|(ys, xs, ps, far, steps)| {
            let (mut x, mut y, mut p, mut t) = (40_i16, 40_i16, 0, -50_i64);
            steps
                .into_iter()
                .map(|(step, random)| {
                    y = if random % ys == 0 { (random >> 8 & 2047) as i16 } else { y };
                    x = if random / 32 % xs == 0 { (random >> 16 & 2047) as i16 } else { (x + (random >> 20 & 3) as i16) & 2047 };
                    p = if random / 7 % ps == 0 { 1 - p } else { p };
                    t += if step < 30 {
                        0
                    } else if step < 39 {
                        step - 29
                    } else {
                        far
                    };
                    (x, y, p, t)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn round_trips(events in events()) {
            let raw = encoded(&events);
            prop_assert!(raw.len() <= 36 + 24 * events.len());
            prop_assert_eq!(&decoded(&raw, events.len()).unwrap(), &events);
            prop_assert_eq!(slowly(&raw).unwrap(), events);
        }

        #[test]
        fn any_form_and_any_damage_reads_as_by_the_definition(events in events(), mode in 0_u8..4, places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
            let mut raw = encoded(&events);
            if mode < 3 {
                raw[0] = raw[0] & !3 | mode;
                raw.extend([0x55; 99]);
            }
            for (place, byte) in places {
                let at = place.index(raw.len());
                // A count of half a billion is right to be slow in the definition.
                if !(2..4).contains(&at) {
                    raw[at] = byte;
                }
            }
            prop_assert_eq!(decoded(&raw, 1 << 16).ok(), slowly(&raw));
        }

        #[test]
        fn random_bytes_do_no_harm(mut raw in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(head) = raw.first_chunk_mut::<4>() {
                *head = [head[0], head[1] & 7, 0, 0];
            }
            prop_assert_eq!(decoded(&raw, 1 << 16).ok(), slowly(&raw));
        }
    }
}
