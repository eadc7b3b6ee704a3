//! Finds the blocks that can have a range of times, by the times at which the container says they were recorded.
//!
//! Messages are recorded soon after the events in them happened: the difference between the two clocks is sampled over
//! the file, and where it is nearly the same everywhere, the range is looked up in the container's index, with a margin.
//! EVT3 has a clock of 24 bits: between two blocks the time of recording tells how often it wrapped. What cannot be seen
//! is a difference that is another one only between two samples; with the index of a pass over the file nothing is
//! taken for granted.

use std::ops::Range;

use rayon::prelude::*;

use super::load::{Loaded, Packet};
use super::packet::{Cursor, First};
use super::walk::{Entry, Input};
use crate::error::Result;
use crate::format::prophesee::evt3::Evt3;
use crate::format::prophesee::word::{Encoding as _, State};
use crate::problem::Problems;
use crate::schema::{TimeRange, TimeSource};

/// Bytes of blocks from which on a pass over all of them is worth avoiding.
const SEEK_FROM: u64 = 32 << 20;
/// Samples over the file.
const SAMPLES: usize = 24;
/// Microseconds by which the differences of neighbouring samples may differ.
const STEADY_US: i64 = 200_000;
/// Microseconds added to the range on both sides, beyond what the samples differ by.
const MARGIN_US: i64 = 500_000;
/// Most time between messages, in microseconds, where a counter must not be lost.
const LONGEST_GAP_US: i64 = Evt3::PERIOD / 2 - MARGIN_US;
/// Blocks behind the range that are planned with it: they say what to think of its last words.
const BEHIND: usize = 2;
/// Most blocks in front of the range that are looked at for the state at its start.
const BEFORE: usize = 4;

/// A block whose first event has a time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// When it was recorded.
    log_us: i64,
    /// Event time minus that; for EVT3 modulo the period.
    ahead_us: i64,
}

/// The blocks to plan for the events of `range`, and for EVT3 the state at their start; `None` if the container does
/// not tell.
pub(super) fn seek(input: &Input<'_>, range: TimeRange) -> Result<Option<(Range<usize>, Option<Entry>)>> {
    let blocks = input.blocks;
    let bytes: u64 = blocks.iter().map(|block| block.bytes).sum();
    let logs: Option<Vec<(i64, i64)>> =
        blocks.iter().map(|block| block.log_ns.map(|(first, last)| (first.div_euclid(1000), last.div_euclid(1000)))).collect();
    let Some(logs) = logs.filter(|logs| bytes >= SEEK_FROM && logs.len() >= 2 * SAMPLES) else { return Ok(None) };
    let wraps = input.taking.is_evt3() && input.taking.time == TimeSource::Sensor;
    // Where blocks do not follow each other in time, messages are looked for one by one.
    if logs.windows(2).any(|pair| pair[1].0 < pair[0].0 || (wraps && pair[1].0 - pair[0].1 > LONGEST_GAP_US)) {
        return Ok(None);
    }
    let places = (0..SAMPLES).into_par_iter().map(|number| number * (blocks.len() - 1) / (SAMPLES - 1));
    let samples: Option<Vec<Sample>> = places.map(|at| sample(input, at)).collect::<Result<Vec<_>>>()?.into_iter().collect();
    let Some(mut samples) = samples else { return Ok(None) };
    let Some((low, high)) = spread(&mut samples, wraps) else { return Ok(None) };
    // The clock of the recording at which the range starts and ends, at the widest.
    let start = range.start().saturating_sub(high).saturating_sub(MARGIN_US);
    let end = range.end().map_or(i64::MAX, |end| end.saturating_sub(low).saturating_add(MARGIN_US));
    let from = logs.iter().position(|log| log.1 >= start).unwrap_or(logs.len());
    let to = logs.iter().rposition(|log| log.0 <= end).map_or(0, |last| last + 1);
    if from >= to {
        return Ok(Some((0..0, None)));
    }
    let part = from..(to + BEHIND).min(blocks.len());
    if !input.taking.is_evt3() || from == 0 {
        return Ok(Some((part, None)));
    }
    Ok(entry(input, &logs, &samples, from)?.map(|entry| (part, Some(entry))))
}

/// The difference between event time and time of recording at the first event of a block.
fn sample(input: &Input<'_>, at: usize) -> Result<Option<Sample>> {
    let Some(block) = input.blocks.get(at) else { return Ok(None) };
    let mut found = None;
    let loaded = input.taking.load_while(input.container, block, false, &mut Problems::default(), |loaded| {
        found = loaded.packets.last().and_then(|packet| time_of(input, loaded, packet));
        found.is_none()
    })?;
    drop(loaded);
    Ok(found)
}

/// When a packet was recorded, and the time of its first event.
fn time_of(input: &Input<'_>, loaded: &Loaded, packet: &Packet) -> Option<Sample> {
    let bytes = loaded.bytes.get(packet.start..packet.end)?;
    let log_us = packet.log_ns.div_euclid(1000);
    let time = if input.taking.time == TimeSource::Message {
        packet.stamp_us
    } else if input.taking.is_evt3() {
        i64::from(Evt3::new(input.taking.limits).scan_times(bytes)?.first) << Evt3::TIME_SHIFT
    } else {
        let mut first = First::default();
        input.taking.frame(packet).walk(&mut Cursor::default(), bytes, &mut first);
        first.0?
    };
    Some(Sample { log_us, ahead_us: time.wrapping_sub(log_us) })
}

/// Unwraps the samples' differences, and gives the lowest and the highest; `None` where neighbours differ too much.
fn spread(samples: &mut [Sample], wraps: bool) -> Option<(i64, i64)> {
    let mut before = samples.first()?.ahead_us;
    let (mut low, mut high) = (before, before);
    for sample in samples {
        if wraps {
            // The number of wraps that brings it nearest to the one before.
            let steps = (before - sample.ahead_us + Evt3::PERIOD / 2).div_euclid(Evt3::PERIOD);
            sample.ahead_us += steps * Evt3::PERIOD;
        }
        if (sample.ahead_us - before).abs() > STEADY_US {
            return None;
        }
        before = sample.ahead_us;
        (low, high) = (low.min(before), high.max(before));
    }
    Some((low, high))
}

/// The state in front of a block: found in the blocks before.
fn entry(input: &Input<'_>, logs: &[(i64, i64)], samples: &[Sample], from: usize) -> Result<Option<Entry>> {
    let evt3 = Evt3::new(input.taking.limits);
    let log = logs.get(from).map_or(0, |log| log.0);
    let after = samples.partition_point(|sample| sample.log_us <= log).max(1);
    let Some(near) = samples.get(after - 1) else { return Ok(None) };
    let mut words: Vec<u8> = Vec::new();
    let mut seq = None;
    let first = from.saturating_sub(BEFORE);
    for at in (first..from).rev() {
        let Some(block) = input.blocks.get(at) else { break };
        let loaded = input.taking.load(input.container, block, true, &mut Problems::default())?;
        let follows = |pair: &[Packet]| pair[0].seq.zip(pair[1].seq).is_none_or(|(a, b)| b == a.wrapping_add(1) || a == b);
        if !loaded.packets.windows(2).all(follows) {
            return Ok(None);
        }
        seq = seq.or(loaded.packets.last().and_then(|packet| packet.seq));
        let mut joined = loaded.bytes.clone();
        joined.extend_from_slice(&words);
        words = joined;
        let tail = evt3.tail(&words);
        // A stream without vectors never tells their base.
        if !(tail.is_whole() || (at == first && tail.has_row_and_time())) {
            continue;
        }
        let Some(times) = evt3.scan_times(&words) else { continue };
        if !times.smooth {
            return Ok(None);
        }
        let value = i64::from(times.last) << Evt3::TIME_SHIFT;
        // The wraps of the clock, by the time at which the block was recorded.
        let expected = if input.taking.time == TimeSource::Sensor { log + near.ahead_us } else { value };
        let wraps = (expected - value + Evt3::PERIOD / 2).div_euclid(Evt3::PERIOD);
        let mut state = State { clock: value + wraps.max(0) * Evt3::PERIOD, timed: true, ..State::START };
        evt3.skim(&mut state, tail);
        return Ok(Some(Entry { state, seq }));
    }
    Ok(None)
}
