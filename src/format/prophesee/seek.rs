//! Bisection: finds the part of a large file with the events of a time range without reading the rest.
//!
//! Time words are sampled at even distances. Only if all of them go ahead, and none of the gaps between samples stands
//! out, is the file taken to be in time order and bisected between the samples. What cannot be seen so is a stretch
//! out of order that is shorter than the distance between two samples; with a segment index nothing is taken for
//! granted. EVT2 and EVT2.1 only: other counters wrap too soon for their gaps to be known from samples.

use super::word::{Encoding, State, Words, forward, near};
use crate::error::Result;
use crate::scan::Span;
use crate::schema::TimeRange;
use crate::source::Source;

/// Samples over the file.
const SAMPLES: u64 = 192;
/// Bytes read for a sample: several times what a sensor sends between two time words.
const SAMPLE: usize = 8 << 10;
/// Bytes at which bisection stops.
const FINE: u64 = 256 << 10;
/// Times the median time between samples that a gap may be: in a longer one whole wraps might hide.
const LONGEST_GAP: i64 = 64;
/// Microseconds around the range that are read too: events are not quite in order.
const MARGIN_US: i64 = 2_000;

/// A time word and where it stands.
#[derive(Clone, Copy)]
struct Sample {
    offset: u64,
    clock: i64,
}

struct Seeker<'a, E> {
    encoding: &'a E,
    payload: u64,
    source: &'a Source,
    buffer: Vec<u8>,
}

impl<E: Encoding> Seeker<'_, E> {
    /// The first time word at or after `offset` that others support, if it is near; its time after `before`.
    fn sample(&mut self, offset: u64, before: Option<Sample>) -> Result<Option<Sample>> {
        let word = self.encoding.word_bytes() as u64;
        let start = self.payload + (offset - self.payload) / word * word;
        let len = usize::try_from(self.source.len() - start).unwrap_or(SAMPLE).min(SAMPLE);
        let bytes = self.buffer.get_mut(..len).unwrap_or_default();
        self.source.read_exact_at(bytes, start)?;
        let mut times = Words::new(self.encoding, bytes, 0).filter_map(|(at, word)| Some((at, self.encoding.time(word)?)));
        let Some((at, value)) = times.next() else { return Ok(None) };
        let Some((_, next)) = times.next() else { return Ok(None) };
        if !near::<E>(value, next) {
            return Ok(None);
        }
        let clock = match before {
            None => i64::from(value) << E::TIME_SHIFT,
            Some(before) => {
                let last = (before.clock >> E::TIME_SHIFT) as u32 & (u32::MAX >> (32 - E::TIME_BITS));
                let ahead = forward::<E>(last, value);
                // Half-range rule over the gap between two samples.
                if ahead >> (E::TIME_BITS - 1) == 1 {
                    return Ok(None);
                }
                before.clock + (i64::from(ahead) << E::TIME_SHIFT)
            }
        };
        Ok(Some(Sample { offset: start + at as u64, clock }))
    }

    /// Narrows the gap between two samples around the last place whose time is below `time`.
    fn bisect(&mut self, mut low: Sample, mut high: Sample, time: i64) -> Result<(Sample, Sample)> {
        while high.offset - low.offset > FINE {
            let middle = low.offset + (high.offset - low.offset) / 2;
            let Some(sample) = self.sample(middle, Some(low))?.filter(|sample| sample.offset < high.offset && sample.clock <= high.clock)
            else {
                break;
            };
            if sample.clock < time {
                low = sample;
            } else {
                high = sample;
            }
        }
        Ok((low, high))
    }
}

/// The part of the file with the events of `range`, or `None` if the samples do not show a file in time order.
pub(crate) fn seek<E: Encoding>(encoding: &E, payload: u64, source: &Source, range: TimeRange) -> Result<Option<Span<State>>> {
    let len = source.len().saturating_sub(payload);
    if !E::SEEKABLE || range.is_all() || len < SAMPLES * SAMPLE as u64 {
        return Ok(None);
    }
    let mut seeker = Seeker { encoding, payload, source, buffer: vec![0; SAMPLE] };
    let mut samples: Vec<Sample> = Vec::new();
    for index in 0..SAMPLES {
        let offset = payload + len / SAMPLES * index;
        match seeker.sample(offset, samples.last().copied())? {
            Some(sample) => samples.push(sample),
            None => return Ok(None),
        }
    }
    let mut gaps: Vec<i64> = samples.windows(2).map(|pair| pair[1].clock - pair[0].clock).collect();
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or(0).max(1 << E::TIME_SHIFT);
    let longest = gaps.last().copied().unwrap_or(0);
    if longest > median.saturating_mul(LONGEST_GAP).min(E::PERIOD / 16) {
        return Ok(None);
    }
    let from = range.start().saturating_sub(MARGIN_US);
    let to = range.end().map_or(i64::MAX, |end| end.saturating_add(MARGIN_US));
    let (Some(first), Some(last)) = (samples.first().copied(), samples.last().copied()) else { return Ok(None) };
    let after = samples.partition_point(|sample| sample.clock < from);
    let start = match (after.checked_sub(1).and_then(|before| samples.get(before)), samples.get(after)) {
        // The start of the payload, whose first words have no time yet.
        (None, _) => Span { start: payload, end: 0, state: State::START },
        (Some(low), high) => {
            let low = match high {
                Some(high) => seeker.bisect(*low, *high, from)?.0,
                None => last,
            };
            Span { start: low.offset, end: 0, state: State { clock: low.clock, timed: true, ..State::START } }
        }
    };
    let beyond = samples.partition_point(|sample| sample.clock < to);
    let end = match (beyond.checked_sub(1).and_then(|before| samples.get(before)), samples.get(beyond)) {
        (_, None) => source.len(),
        (None, Some(_)) => first.offset,
        (Some(low), Some(high)) => seeker.bisect(*low, *high, to)?.1.offset,
    };
    Ok(Some(Span { end: end.max(start.start), ..start }))
}
