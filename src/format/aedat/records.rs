//! AEDAT 1.0 and 2.0: big-endian records of an address and a time, 6 or 8 bytes each.
//!
//! | sensor | bit of the address | content |
//! |---|---|---|
//! | DVS128 | 15 | external event |
//! | | 14..8, 7..1 | y and x, both counted from the far end |
//! | | 0 | 0 brighter, 1 darker |
//! | DAVIS | 31 | sample of a pixel's brightness or of the IMU, no event |
//! | | 30..22, 21..12 | y and x, both counted from the far end |
//! | | 11 | 1 brighter, 0 darker |
//! | | 10 | external event |
//!
//! Every record has its time, 32 bits of microseconds.
//! <https://docs.inivation.com/software/software-advanced-usage/file-formats/>

use std::sync::Arc;

use rayon::prelude::*;

use crate::columns::{Slots, TriggerColumns, rows_at, with_columns};
use crate::error::Result;
use crate::problem::{ProblemCode, Problems};
use crate::reader::{SegmentReader, no_side_stream};
use crate::recording::StreamKind;
use crate::scan::{Planner, Segment, Segmented, Span};
use crate::schema::{Columns, Geometry, TimeRange};
use crate::side::{Acceleration, Frame, ImuColumns, ImuSample, SideStream, frame_schema, frames_to_record_batch, imu_schema};
use crate::simd;
use crate::source::Source;

use super::header::Layout;

/// Bytes of a segment: a multiple of both record sizes.
const SEGMENT: usize = 24 * 10_922;
/// Records that are looked at together.
const BLOCK: usize = 32;
/// Microseconds after which time wraps.
const PERIOD: i64 = 1 << 32;
/// Microseconds back that are a clock set back; shorter steps are records out of order.
const RESET_US: i64 = 10_000;
/// Bytes read at a time for a side stream.
const WINDOW: usize = 24 << 14;
/// Samples of a batch of inertial measurements.
const IMU_ROWS: usize = 1 << 14;
/// Bytes of pixels of a batch of frames.
const FRAME_BYTES: usize = 8 << 20;

/// The time of the last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clock {
    now: i64,
    started: bool,
}

impl Clock {
    const START: Self = Self { now: 0, started: false };

    /// Takes the time of the next record: a fall by more than half the period is a wrap, and a rise by as much a step
    /// back across the last wrap.
    #[inline(always)]
    fn tick(&mut self, value: u32) -> i64 {
        let mut now = (self.now & -PERIOD) | i64::from(value);
        if self.started {
            if now < self.now - PERIOD / 2 {
                now += PERIOD;
            } else if now >= PERIOD && now > self.now + PERIOD / 2 {
                now -= PERIOD;
            }
        }
        *self = Self { now, started: true };
        now
    }
}

/// Records taken apart.
struct Block {
    addresses: [u32; BLOCK],
    /// Microseconds from the clock before them.
    ahead: [i32; BLOCK],
}

impl Block {
    /// The records at the start of `bytes`, if their times are near the clock: then each is as [`Clock::tick`] has it.
    #[inline(always)]
    fn load<const ADDRESS: usize>(bytes: &[u8], clock: Clock) -> Option<Self> {
        /// Far enough from half a period that no step between two of the records is as long.
        const NEAR: i32 = 1 << 30;
        let mut block = Self { addresses: [0; BLOCK], ahead: [0; BLOCK] };
        if ADDRESS == 2 {
            let records = bytes.as_chunks::<6>().0.first_chunk::<BLOCK>()?;
            for i in 0..BLOCK {
                let [a, b, c, d, e, f] = records[i];
                block.addresses[i] = u16::from_be_bytes([a, b]).into();
                block.ahead[i] = u32::from_be_bytes([c, d, e, f]).wrapping_sub(clock.now as u32) as i32;
            }
        } else {
            let records = bytes.as_chunks::<8>().0.first_chunk::<BLOCK>()?;
            for i in 0..BLOCK {
                let record = u64::from_be_bytes(records[i]);
                block.addresses[i] = (record >> 32) as u32;
                block.ahead[i] = (record as u32).wrapping_sub(clock.now as u32) as i32;
            }
        }
        let (low, high) = block.extent();
        let near = clock.started && low > -NEAR && high < NEAR && clock.now + i64::from(low) >= 0;
        near.then_some(block)
    }

    /// The least and the most that they are ahead.
    #[inline(always)]
    fn extent(&self) -> (i32, i32) {
        let (mut low, mut high) = (i32::MAX, i32::MIN);
        for i in 0..BLOCK {
            low = low.min(self.ahead[i]);
            high = high.max(self.ahead[i]);
        }
        (low, high)
    }

    /// The longest step back from one to the next, as a number below zero.
    #[inline(always)]
    fn longest_step_back(&self) -> i32 {
        let mut longest = self.ahead[0].min(0);
        for i in 1..BLOCK {
            longest = longest.min(self.ahead[i] - self.ahead[i - 1]);
        }
        longest
    }

    /// The clock after them.
    #[inline(always)]
    fn after(&self, clock: Clock) -> Clock {
        Clock { now: clock.now + i64::from(self.ahead[BLOCK - 1]), ..clock }
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Event,
    External,
    /// x and y as stored, whether it is the read after the exposure, value.
    Pixel(u16, u16, bool, u16),
    /// Kind and value.
    Imu(u8, i16),
    Unknown,
}

/// A file of records of one sensor.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    payload: u64,
    /// Bytes of an address: 2 or 4.
    address: usize,
    layout: Layout,
    /// Size of the sensor, from the far end of which addresses count.
    sensor: Geometry,
    /// Columns and rows of the sensor that are not wanted: they are those of the lowest addresses.
    unwanted: (u16, u16),
    /// Units of the IMU's values in a g and in a degree a second.
    imu: (f32, f32),
}

impl Records {
    pub(crate) fn new(payload: u64, address: usize, layout: Layout, sensor: Geometry, imu: (f32, f32)) -> Self {
        Self { payload, address: if address == 2 { 2 } else { 4 }, layout, sensor, unwanted: (0, 0), imu }
    }

    /// Leaves out events outside the first columns and rows of the sensor.
    pub(crate) fn within(self, wanted: Geometry) -> Self {
        let (width, height) = (self.sensor.width(), self.sensor.height());
        Self { unwanted: (width.saturating_sub(wanted.width()), height.saturating_sub(wanted.height())), ..self }
    }

    /// Bytes of a record.
    fn size(&self) -> usize {
        self.address + 4
    }

    /// Gives the position, the address and the time of each record of `bytes` to `each`, until that says no. Returns
    /// the bytes of those that it took.
    #[inline(always)]
    fn each(&self, bytes: &[u8], mut each: impl FnMut(usize, u32, u32) -> bool) -> usize {
        // Sizes known to the compiler: no checks in the loops.
        let taken = if self.address == 2 {
            let mut records = bytes.as_chunks::<6>().0.iter().enumerate();
            records.position(|(index, [a, b, c, d, e, f])| {
                !each(6 * index, u16::from_be_bytes([*a, *b]).into(), u32::from_be_bytes([*c, *d, *e, *f]))
            })
        } else {
            let mut records = bytes.as_chunks::<8>().0.iter().enumerate();
            records.position(|(index, record)| {
                let record = u64::from_be_bytes(*record);
                !each(8 * index, (record >> 32) as u32, record as u32)
            })
        };
        taken.unwrap_or(bytes.len() / self.size()) * self.size()
    }

    /// The pixel as stored and the polarity, if it is an event.
    #[inline(always)]
    fn event(&self, address: u32) -> Option<(u16, u16, bool)> {
        let (is_event, x, y, on) = match self.layout {
            Layout::Dvs128 => dvs128(address),
            Layout::Davis => davis(address),
        };
        is_event.then_some((x, y, on))
    }

    #[inline(always)]
    fn word(&self, address: u32) -> Word {
        match self.layout {
            _ if self.event(address).is_some() => Word::Event,
            Layout::Dvs128 => Word::External,
            Layout::Davis => {
                let (x, y) = ((address >> 12 & 0x3FF) as u16, (address >> 22 & 0x1FF) as u16);
                match (address >> 31 == 1, address >> 10 & 3) {
                    (false, _) => Word::External,
                    (true, 3) => Word::Imu((address >> 28 & 7) as u8, (address >> 12) as u16 as i16),
                    (true, bits @ (0 | 1)) => Word::Pixel(x, y, bits == 1, (address & 0x3FF) as u16),
                    _ => Word::Unknown,
                }
            }
        }
    }

    /// The pixel in the order of tables; `None` outside what is wanted of the sensor.
    #[inline(always)]
    fn pixel(&self, x: u16, y: u16) -> Option<(u16, u16)> {
        let (left, top) = self.unwanted;
        self.on_sensor(x, y).filter(|_| x >= left && y >= top)
    }

    /// The pixel in the order of tables; `None` outside the sensor.
    #[inline(always)]
    fn on_sensor(&self, x: u16, y: u16) -> Option<(u16, u16)> {
        let (width, height) = (self.sensor.width(), self.sensor.height());
        (x < width && y < height).then(|| (width - 1 - x.min(width - 1), height - 1 - y.min(height - 1)))
    }

    /// Runs `kernel` for the records of this file.
    fn run<K: RecordKernel>(&self, kernel: K) -> K::Output {
        match (self.layout, self.address) {
            (Layout::Davis, _) => simd::run(Instance::<4, true, K>(kernel)),
            (Layout::Dvs128, 2) => simd::run(Instance::<2, false, K>(kernel)),
            (Layout::Dvs128, _) => simd::run(Instance::<4, false, K>(kernel)),
        }
    }

    /// Which records of a block are events, and which of those are outside what is wanted of the sensor.
    #[inline(always)]
    fn judge<const DAVIS: bool>(&self, block: &Block) -> ([u8; BLOCK], u8) {
        let (width, height) = (self.sensor.width(), self.sensor.height());
        let (left, top) = self.unwanted;
        let (mut inside, mut outside) = ([0; BLOCK], 0);
        for i in 0..BLOCK {
            let (is_event, x, y, _) = if DAVIS { davis(block.addresses[i]) } else { dvs128(block.addresses[i]) };
            inside[i] = u8::from(is_event & (x >= left) & (x < width) & (y >= top) & (y < height));
            outside |= u8::from(is_event) & !inside[i];
        }
        (inside, outside)
    }
}

/// Whether it is an event; x and y as stored, and whether it is brighter.
#[inline(always)]
fn dvs128(address: u32) -> (bool, u16, u16, bool) {
    (address >> 15 & 1 == 0, (address >> 1 & 0x7F) as u16, (address >> 8 & 0x7F) as u16, address & 1 == 0)
}

/// As `dvs128`.
#[inline(always)]
fn davis(address: u32) -> (bool, u16, u16, bool) {
    (address & (1 << 31 | 1 << 10) == 0, (address >> 12 & 0x3FF) as u16, (address >> 22 & 0x1FF) as u16, address >> 11 & 1 == 1)
}

/// A kernel for records of `ADDRESS` bytes of address, of a DAVIS or a DVS128.
trait RecordKernel {
    type Output;

    fn run<const ADDRESS: usize, const DAVIS: bool>(self) -> Self::Output;
}

struct Instance<const ADDRESS: usize, const DAVIS: bool, K>(K);

impl<const ADDRESS: usize, const DAVIS: bool, K: RecordKernel> simd::Kernel for Instance<ADDRESS, DAVIS, K> {
    type Output = K::Output;

    #[inline(always)]
    fn run(self) -> K::Output {
        self.0.run::<ADDRESS, DAVIS>()
    }
}

/// What records hold.
#[derive(Debug, Clone, Copy)]
struct Found {
    events: u64,
    triggers: u64,
    /// Earliest and latest time.
    first: i64,
    last: i64,
}

/// Looks at records, the first of which is at `offset`: what they hold, and what is left out.
struct Survey<'a> {
    records: &'a Records,
    clock: &'a mut Clock,
    bytes: &'a [u8],
    offset: u64,
    problems: &'a mut Problems,
}

impl RecordKernel for Survey<'_> {
    type Output = Found;

    #[inline(always)]
    fn run<const ADDRESS: usize, const DAVIS: bool>(self) -> Found {
        let Self { records, clock, bytes, offset, problems } = self;
        let mut now = *clock;
        let mut found = Found { events: 0, triggers: 0, first: i64::MAX, last: i64::MIN };
        let size = ADDRESS + 4;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some(block) = Block::load::<ADDRESS>(rest, now)
                && i64::from(block.longest_step_back()) >= -RESET_US
                && let (inside, 0) = records.judge::<DAVIS>(&block)
            {
                let (mut events, mut triggers) = (0, 0);
                for i in 0..BLOCK {
                    let address = block.addresses[i];
                    events += u32::from(inside[i]);
                    triggers += u32::from(if DAVIS { address & (1 << 31 | 1 << 10) == 1 << 10 } else { address >> 15 & 1 == 1 });
                }
                let (low, high) = block.extent();
                found = Found {
                    events: found.events + u64::from(events),
                    triggers: found.triggers + u64::from(triggers),
                    first: found.first.min(now.now + i64::from(low)),
                    last: found.last.max(now.now + i64::from(high)),
                };
                now = block.after(now);
                at += BLOCK * size;
                continue;
            }
            let some = rest.get(..BLOCK * size).unwrap_or(rest);
            records.each(some, |place, address, time| {
                let before = now;
                let t = now.tick(time);
                let offset = offset + (at + place) as u64;
                if before.started && t < before.now - RESET_US {
                    let from = before.now;
                    problems.add(ProblemCode::TimeReset, 1, 0, offset, || format!("from {from} us to {t} us at byte {offset}"));
                }
                (found.first, found.last) = (found.first.min(t), found.last.max(t));
                match records.event(address) {
                    Some((x, y, _)) if records.pixel(x, y).is_some() => found.events += 1,
                    Some(_) => {
                        let (left, top) = records.unwanted;
                        let (width, height) = (records.sensor.width() - left, records.sensor.height() - top);
                        problems.add(ProblemCode::OutOfBounds, 1, 0, offset, || format!("1 outside {width}x{height} at byte {offset}"));
                    }
                    None => found.triggers += u64::from(records.word(address) == Word::External),
                }
                true
            });
            at += BLOCK * size;
        }
        *clock = now;
        found
    }
}

/// Decodes events into columns; the bytes consumed.
struct Fill<'a, 'b, const COLS: u8> {
    records: &'a Records,
    clock: &'a mut Clock,
    bytes: &'a [u8],
    out: &'a mut Slots<'b>,
}

impl<const COLS: u8> RecordKernel for Fill<'_, '_, COLS> {
    type Output = usize;

    #[inline(always)]
    fn run<const ADDRESS: usize, const DAVIS: bool>(self) -> usize {
        let Self { records, clock, bytes, out } = self;
        let (width, height) = (records.sensor.width(), records.sensor.height());
        // A local copy: stores into the columns cannot change it.
        let mut now = *clock;
        let size = ADDRESS + 4;
        let mut at = 0;
        'blocks: while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= size) {
            if out.room() >= BLOCK
                && let Some(block) = Block::load::<ADDRESS>(rest, now)
            {
                let (inside, _) = records.judge::<DAVIS>(&block);
                let (mut x, mut y, mut t, mut p) = ([0; BLOCK], [0; BLOCK], [0; BLOCK], [0; BLOCK]);
                for i in 0..BLOCK {
                    let (_, raw_x, raw_y, on) = if DAVIS { davis(block.addresses[i]) } else { dvs128(block.addresses[i]) };
                    x[i] = (width - 1).wrapping_sub(raw_x).cast_signed();
                    y[i] = (height - 1).wrapping_sub(raw_y).cast_signed();
                    p[i] = i8::from(on) * 2 - 1;
                    t[i] = now.now + i64::from(block.ahead[i]);
                }
                let len = out.len;
                if inside == [1; BLOCK] {
                    if COLS & 1 != 0 {
                        *rows_at(out.x, len) = x;
                    }
                    if COLS & 2 != 0 {
                        *rows_at(out.y, len) = y;
                    }
                    if COLS & 4 != 0 {
                        *rows_at(out.t, len) = t;
                    }
                    if COLS & 8 != 0 {
                        *rows_at(out.p, len) = p;
                    }
                    out.len = len + BLOCK;
                } else if inside != [0; BLOCK] {
                    // Each is written, and written over by the next one if it is none.
                    let mut kept = 0;
                    let columns: (&mut [i16], &mut [i16], &mut [i64], &mut [i8]) = (
                        if COLS & 1 != 0 { rows_at::<BLOCK, _>(out.x, len) } else { &mut [] },
                        if COLS & 2 != 0 { rows_at::<BLOCK, _>(out.y, len) } else { &mut [] },
                        if COLS & 4 != 0 { rows_at::<BLOCK, _>(out.t, len) } else { &mut [] },
                        if COLS & 8 != 0 { rows_at::<BLOCK, _>(out.p, len) } else { &mut [] },
                    );
                    for i in 0..BLOCK {
                        // Never more than the records before it.
                        let to = kept % BLOCK;
                        if COLS & 1 != 0 {
                            columns.0[to] = x[i];
                        }
                        if COLS & 2 != 0 {
                            columns.1[to] = y[i];
                        }
                        if COLS & 4 != 0 {
                            columns.2[to] = t[i];
                        }
                        if COLS & 8 != 0 {
                            columns.3[to] = p[i];
                        }
                        kept += usize::from(inside[i]);
                    }
                    out.len = len + kept;
                }
                now = block.after(now);
                at += BLOCK * size;
                continue;
            }
            let some = rest.get(..BLOCK * size).unwrap_or(rest);
            let taken = records.each(some, |_, address, time| {
                if let Some((x, y, on)) = records.event(address)
                    && let Some((x, y)) = records.pixel(x, y)
                {
                    if out.room() == 0 {
                        return false;
                    }
                    out.push::<COLS>(x, y, now.tick(time), on);
                } else {
                    now.tick(time);
                }
                true
            });
            at += taken;
            if taken < some.len() / size * size {
                break 'blocks;
            }
        }
        *clock = now;
        at
    }
}

struct RecordPlanner {
    records: Records,
    clock: Clock,
}

/// What a segment holds, with times counted from its first, for a clock that is not known yet.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    first_time: u32,
    found: Found,
    /// The clock at the end.
    end: i64,
    clean: bool,
}

impl Records {
    /// Looks at the records of a segment before the clock is known.
    fn look_ahead(&self, bytes: &[u8]) -> Option<Ahead> {
        /// Far from the first period, the only one before which there is none.
        const SOMEWHEN: i64 = 1 << 40;
        let mut first_time = None;
        self.each(bytes, |_, _, time| {
            first_time = Some(time);
            false
        });
        let first_time = first_time?;
        let start = SOMEWHEN + i64::from(first_time);
        let mut clock = Clock { now: start, started: true };
        let mut problems = Problems::default();
        let found = self.run(Survey { records: self, clock: &mut clock, bytes, offset: 0, problems: &mut problems });
        let found = Found { first: found.first - start, last: found.last - start, ..found };
        Some(Ahead { first_time, found, end: clock.now - start, clean: problems.is_empty() })
    }
}

impl RecordPlanner {
    /// What a segment holds; its counts are 0 where something of it is left out.
    fn place(&mut self, bytes: &[u8], ahead: Option<Ahead>) -> Found {
        let before = self.clock;
        let mut clock = before;
        if let Some(Ahead { first_time, found, end, clean }) = ahead {
            let start = clock.tick(first_time);
            // No step in it is so long, and none so far back, that it would mean something else at another time.
            if found.last - found.first < PERIOD / 2 && start + found.first >= 0 {
                self.clock = Clock { now: start + end, started: true };
                let (first, last) = (start + found.first, start + found.last);
                let clean = clean && !(before.started && start < before.now - RESET_US);
                return if clean { Found { first, last, ..found } } else { Found { events: 0, triggers: 0, first, last } };
            }
        }
        let survey = Survey { records: &self.records, clock: &mut self.clock, bytes, offset: 0, problems: &mut Problems::default() };
        let found = self.records.run(survey);
        Found { events: 0, triggers: 0, ..found }
    }
}

impl Planner for RecordPlanner {
    type State = Clock;

    fn plan(&mut self, bytes: &[u8], offset: u64, last: bool, plan: &mut Vec<Segment<Clock>>, problems: &mut Problems) -> usize {
        let size = self.records.size();
        let whole = if last { bytes.len() / size * size } else { bytes.len() / SEGMENT * SEGMENT };
        let mut at = offset;
        let parts = bytes.get(..whole).unwrap_or_default();
        let looked: Vec<_> = parts.par_chunks(SEGMENT).map(|part| self.records.look_ahead(part)).collect();
        for (part, ahead) in parts.chunks(SEGMENT).zip(looked) {
            let state = self.clock;
            let found = self.place(part, ahead);
            plan.push(Segment {
                offset: at,
                len: part.len() as u64,
                state,
                events: found.events,
                triggers: found.triggers,
                first_us: found.first,
                last_us: found.last,
            });
            at += part.len() as u64;
        }
        if last && whole < bytes.len() {
            let rest = (bytes.len() - whole) as u64;
            problems.add(ProblemCode::Truncated, 1, rest, at, || format!("{rest} bytes of a record of {size} at byte {at}"));
        }
        if last { bytes.len() } else { whole }
    }
}

impl Segmented for Records {
    type State = Clock;

    const PLANS_FAST: bool = true;

    fn payload(&self) -> u64 {
        self.payload
    }

    fn planner(&self, clock: Clock) -> Box<dyn Planner<State = Clock>> {
        Box::new(RecordPlanner { records: self.clone(), clock })
    }

    fn start(&self) -> Clock {
        Clock::START
    }

    fn seek(&self, _: &Source, _: TimeRange) -> Result<Option<Span<Clock>>> {
        Ok(None)
    }

    fn count(&self, segment: &mut Segment<Clock>, bytes: &[u8], problems: &mut Problems) {
        let mut clock = segment.state;
        let found = self.run(Survey { records: self, clock: &mut clock, bytes, offset: segment.offset, problems });
        (segment.events, segment.triggers) = (found.events, found.triggers);
    }

    fn fill(&self, columns: Columns, clock: &mut Clock, bytes: &[u8], out: &mut Slots<'_>) -> usize {
        with_columns!(columns, COLS => self.run(Fill::<COLS> { records: self, clock, bytes, out }))
    }

    fn key(&self) -> String {
        format!("aedat {} {:?} {} {:?}", self.address, self.layout, self.sensor, self.unwanted)
    }

    fn pack(clock: &Clock) -> [u64; 2] {
        [clock.now.cast_unsigned(), clock.started.into()]
    }

    fn unpack(&self, [now, started]: [u64; 2]) -> Option<Clock> {
        // A wrap needs records: no file is long enough for a clock of this size.
        (now < 1 << 60 && started <= 1).then_some(Clock { now: now.cast_signed(), started: started == 1 })
    }

    fn events_per_byte(&self) -> u64 {
        1
    }

    fn about_events(&self, bytes: u64) -> Option<u64> {
        Some(bytes / self.size() as u64)
    }

    fn triggers(&self, clock: &mut Clock, bytes: &[u8], out: &mut TriggerColumns) {
        self.each(bytes, |_, address, time| {
            let now = clock.tick(time);
            if self.word(address) == Word::External {
                // The address does not say which edge.
                out.push(0, true, now);
            }
            true
        });
    }

    fn side(reader: Arc<SegmentReader<Self>>, name: &str) -> Result<SideStream> {
        let records = reader.format().clone();
        let (layout, sensor) = (records.layout, records.sensor);
        let walk = Walk { at: records.payload, reader, records, clock: Clock::START };
        match (layout, name) {
            (Layout::Davis, "imu") => {
                let batches = ImuBatches { walk, partial: Vec::new(), ready: ImuColumns::default(), done: false };
                Ok(SideStream::new(StreamKind::Imu, imu_schema(), Box::new(batches)))
            }
            (Layout::Davis, "frames") => {
                let batches = FrameBatches { walk, frames: Assembly::new(sensor), ready: Vec::new(), bytes: 0, done: false };
                Ok(SideStream::new(StreamKind::Frames, frame_schema(), Box::new(batches)))
            }
            (Layout::Davis, _) => Err(no_side_stream(name, &["frames", "imu"])),
            (Layout::Dvs128, _) => Err(no_side_stream(name, &[])),
        }
    }
}

/// The records of a file in order.
struct Walk {
    reader: Arc<SegmentReader<Records>>,
    records: Records,
    at: u64,
    clock: Clock,
}

impl Walk {
    /// Gives the next records to `each`; false at the end.
    fn next(&mut self, mut each: impl FnMut(i64, Word)) -> Result<bool> {
        let size = self.records.size();
        let source = (*self.reader).as_ref();
        let len = source.stretch(self.at, WINDOW)?.0 / size * size;
        if len == 0 {
            return Ok(false);
        }
        let mut bytes = vec![0; len];
        source.read_exact_at(&mut bytes, self.at)?;
        let (records, clock) = (&self.records, &mut self.clock);
        records.each(&bytes, |_, address, time| {
            let now = clock.tick(time);
            each(now, records.word(address));
            true
        });
        self.at += len as u64;
        Ok(true)
    }
}

struct ImuBatches {
    walk: Walk,
    /// The values of the sample that is being read, in their order.
    partial: Vec<i16>,
    ready: ImuColumns,
    done: bool,
}

/// A sample from its seven values.
fn imu_sample(timestamp: i64, values: &[i16], scales: (f32, f32)) -> Option<ImuSample> {
    let [ax, ay, az, temperature, gx, gy, gz] = values.first_chunk::<7>()?.map(f32::from);
    Some(ImuSample {
        timestamp,
        accelerometer: [ax, ay, az].map(|value| value / scales.0),
        gyroscope: [gx, gy, gz].map(|value| value / scales.1),
        magnetometer: None,
        temperature: temperature / 340.0 + 35.0,
    })
}

impl Iterator for ImuBatches {
    type Item = Result<arrow_array::RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done && self.ready.len() < IMU_ROWS {
            let (partial, ready, scales) = (&mut self.partial, &mut self.ready, self.walk.records.imu);
            let more = self.walk.next(|now, word| {
                let Word::Imu(kind, value) = word else { return };
                if usize::from(kind) != partial.len() {
                    partial.clear();
                }
                if usize::from(kind) == partial.len() {
                    partial.push(value);
                }
                if let Some(sample) = imu_sample(now, partial, scales) {
                    ready.push(sample);
                    partial.clear();
                }
            });
            match more {
                Ok(more) => self.done = !more,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        (self.ready.len() > 0).then(|| Ok(std::mem::take(&mut self.ready).into_record_batch(Acceleration::StandardGravity)))
    }
}

/// Pixels of a frame as they come in.
///
/// A frame is a read of every pixel after its reset and another after its exposure, by how much it fell being its
/// brightness.
struct Assembly {
    sensor: Geometry,
    resets: Vec<u16>,
    values: Vec<u16>,
    seen: Vec<Seen>,
    /// Pixels read after their exposure.
    read: usize,
    /// Times of the first and the last reset read, and of the first read after the exposure.
    first_reset: Option<i64>,
    last_reset: i64,
    first_read: i64,
    /// Whether all resets came before the first read.
    global: bool,
    /// Pixels reset since the last read after an exposure, and when the first of them was: the next frame, where this
    /// one lacks pixels.
    since: Vec<usize>,
    since_us: i64,
}

/// What is known of a pixel of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Reset,
    Both,
}

impl Assembly {
    fn new(sensor: Geometry) -> Self {
        let pixels = usize::from(sensor.width()) * usize::from(sensor.height());
        Self {
            sensor,
            resets: vec![0; pixels],
            values: vec![0; pixels],
            seen: vec![Seen::Nothing; pixels],
            read: 0,
            first_reset: None,
            last_reset: 0,
            first_read: 0,
            global: true,
            since: Vec::new(),
            since_us: 0,
        }
    }

    /// Starts the next frame, with the pixels that were reset since the last read.
    fn restart(&mut self) {
        self.seen.fill(Seen::Nothing);
        for at in &self.since {
            if let Some(seen) = self.seen.get_mut(*at) {
                *seen = Seen::Reset;
            }
        }
        self.first_reset = (!self.since.is_empty()).then_some(self.since_us);
        (self.read, self.global) = (0, true);
    }

    /// Takes a sample of the pixel (`x`, `y`) in the order of tables; gives the frame that it completes.
    fn push(&mut self, now: i64, x: u16, y: u16, signal: bool, value: u16) -> Option<Frame> {
        let at = usize::from(y) * usize::from(self.sensor.width()) + usize::from(x);
        let seen = *self.seen.get(at)?;
        if !signal {
            if seen != Seen::Nothing {
                // The next frame begins: this one lacks pixels.
                self.restart();
            }
            self.first_reset.get_or_insert(now);
            self.last_reset = now;
            self.global &= self.read == 0;
            if self.since.is_empty() {
                self.since_us = now;
            }
            if self.since.len() < self.seen.len() {
                self.since.push(at);
            }
            *self.seen.get_mut(at)? = Seen::Reset;
            *self.resets.get_mut(at)? = value;
            return None;
        }
        self.since.clear();
        if seen != Seen::Reset {
            return None;
        }
        *self.seen.get_mut(at)? = Seen::Both;
        *self.values.get_mut(at)? = self.resets.get(at)?.saturating_sub(value);
        if self.read == 0 {
            self.first_read = now;
        }
        self.read += 1;
        if self.read < self.values.len() {
            return None;
        }
        let start = if self.global { self.last_reset } else { self.first_reset.unwrap_or(self.last_reset) };
        let frame = Frame {
            timestamp: start + (self.first_read - start) / 2,
            exposure_start: Some(start),
            exposure_end: Some(self.first_read),
            width: self.sensor.width(),
            height: self.sensor.height(),
            channels: 1,
            bits: 16,
            format: "GRAY",
            pixels: self.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        self.restart();
        Some(frame)
    }
}

struct FrameBatches {
    walk: Walk,
    frames: Assembly,
    ready: Vec<Frame>,
    bytes: usize,
    done: bool,
}

impl Iterator for FrameBatches {
    type Item = Result<arrow_array::RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done && self.bytes < FRAME_BYTES {
            let (frames, ready, bytes) = (&mut self.frames, &mut self.ready, &mut self.bytes);
            let records = self.walk.records.clone();
            let more = self.walk.next(|now, word| {
                if let Word::Pixel(x, y, signal, value) = word
                    && let Some((x, y)) = records.on_sensor(x, y)
                    && let Some(frame) = frames.push(now, x, y, signal, value)
                {
                    *bytes += frame.pixels.len();
                    ready.push(frame);
                }
            });
            match more {
                Ok(more) => self.done = !more,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        self.bytes = 0;
        (!self.ready.is_empty()).then(|| Ok(frames_to_record_batch(&std::mem::take(&mut self.ready))))
    }
}

#[cfg(test)]
mod tests;
