//! Side streams: what a recording has beside its events, as Arrow record batches.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::types::{DurationMicrosecondType, Float32Type, UInt8Type, UInt16Type};
use arrow_array::{ArrayRef, PrimitiveArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::columns::record_batch;
use crate::error::Result;
use crate::recording::StreamKind;

/// A stream beside the events, batch by batch, in file order, with memory bounded by a few batches.
///
/// ```no_run
/// # fn main() -> evlib::Result<()> {
/// let recording = evlib::Recording::open("recording.aedat4")?;
/// for batch in recording.side_stream("imu")? {
///     println!("{} samples", batch?.num_rows());
/// }
/// # Ok(())
/// # }
/// ```
pub struct SideStream {
    kind: StreamKind,
    schema: SchemaRef,
    batches: Batches,
}

/// Batches of one schema.
pub(crate) type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl SideStream {
    pub(crate) fn new(kind: StreamKind, schema: SchemaRef, batches: Batches) -> Self {
        Self { kind, schema, batches }
    }

    /// What the stream has.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Schema of every batch: [`imu_schema`], [`frame_schema`], [`crate::trigger_schema`], or that of the format.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Iterator for SideStream {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next();
        if matches!(batch, Some(Err(_))) {
            self.batches = Box::new(std::iter::empty());
        }
        batch
    }
}

impl std::fmt::Debug for SideStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SideStream").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Unit of accelerations, as the container gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acceleration {
    /// 9.80665 m/s².
    StandardGravity,
}

impl Acceleration {
    const fn unit(self) -> &'static str {
        match self {
            Self::StandardGravity => "g",
        }
    }
}

const AXES: [&str; 9] = [
    "accelerometer_x",
    "accelerometer_y",
    "accelerometer_z",
    "gyroscope_x",
    "gyroscope_y",
    "gyroscope_z",
    "magnetometer_x",
    "magnetometer_y",
    "magnetometer_z",
];

fn duration(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Duration(TimeUnit::Microsecond), nullable)
}

fn imu_schema_in(unit: Acceleration) -> SchemaRef {
    let with_unit = |field: Field, unit: &str| field.with_metadata(std::collections::HashMap::from([("unit".to_owned(), unit.to_owned())]));
    let mut fields = vec![duration("timestamp", false)];
    for (index, name) in AXES.into_iter().enumerate() {
        let unit = [unit.unit(), "deg/s", "uT"][index / 3];
        fields.push(with_unit(Field::new(name, DataType::Float32, index >= 6), unit));
    }
    fields.push(with_unit(Field::new("temperature", DataType::Float32, false), "degC"));
    Arc::new(Schema::new(fields))
}

/// Arrow schema of inertial measurements: `timestamp`, `accelerometer_{x,y,z}`, `gyroscope_{x,y,z}` (°/s),
/// `magnetometer_{x,y,z}` (µT; null where the sensor has none) and `temperature` (°C).
///
/// Accelerations are in the unit of the container, which the field's metadata `unit` names: `g` for AEDAT.
#[must_use]
pub fn imu_schema() -> SchemaRef {
    imu_schema_in(Acceleration::StandardGravity)
}

/// Arrow schema of frames: `timestamp`, `exposure_start`, `exposure_end` (null where the file does not say), `width`,
/// `height`, `channels`, `bits` (of a channel), `format` and `pixels` (rows from the top, channels interleaved,
/// little-endian).
///
/// `format` names the channels in their order: `GRAY`, `RGB`, `BGR`, `RGBA`, `BGRA`, or the colours of a filter mosaic
/// (`RGBG`, ...). Values are unsigned integers, unless it ends in `:int` or `:float`.
#[must_use]
pub fn frame_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        duration("timestamp", false),
        duration("exposure_start", true),
        duration("exposure_end", true),
        Field::new("width", DataType::UInt16, false),
        Field::new("height", DataType::UInt16, false),
        Field::new("channels", DataType::UInt8, false),
        Field::new("bits", DataType::UInt8, false),
        Field::new("format", DataType::Utf8, false),
        Field::new("pixels", DataType::Binary, false),
    ]))
}

/// One inertial measurement; accelerations, angular rates, magnetic field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ImuSample {
    pub(crate) timestamp: i64,
    pub(crate) accelerometer: [f32; 3],
    pub(crate) gyroscope: [f32; 3],
    pub(crate) magnetometer: Option<[f32; 3]>,
    pub(crate) temperature: f32,
}

/// Inertial measurements being collected.
#[derive(Debug, Default)]
pub(crate) struct ImuColumns {
    samples: Vec<ImuSample>,
}

impl ImuColumns {
    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    pub(crate) fn push(&mut self, sample: ImuSample) {
        self.samples.push(sample);
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.samples.append(&mut other.samples);
    }

    pub(crate) fn into_record_batch(self, unit: Acceleration) -> RecordBatch {
        let samples = &self.samples;
        let column = |value: &dyn Fn(&ImuSample) -> f32| -> ArrayRef {
            Arc::new(PrimitiveArray::<Float32Type>::from_iter_values(samples.iter().map(value)))
        };
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(PrimitiveArray::<DurationMicrosecondType>::from_iter_values(samples.iter().map(|sample| sample.timestamp)))];
        arrays.extend((0..3).map(|axis| column(&|sample| sample.accelerometer[axis])));
        arrays.extend((0..3).map(|axis| column(&|sample| sample.gyroscope[axis])));
        for axis in 0..3 {
            let values = samples.iter().map(|sample| sample.magnetometer.map(|field| field[axis]));
            arrays.push(Arc::new(values.collect::<PrimitiveArray<Float32Type>>()));
        }
        arrays.push(column(&|sample| sample.temperature));
        record_batch(imu_schema_in(unit), arrays, samples.len())
    }
}

/// One picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) timestamp: i64,
    pub(crate) exposure_start: Option<i64>,
    pub(crate) exposure_end: Option<i64>,
    pub(crate) width: u16,
    pub(crate) height: u16,
    pub(crate) channels: u8,
    pub(crate) bits: u8,
    pub(crate) format: &'static str,
    pub(crate) pixels: Vec<u8>,
}

/// Frames as one record batch.
pub(crate) fn frames_to_record_batch(frames: &[Frame]) -> RecordBatch {
    let times = |time: &dyn Fn(&Frame) -> Option<i64>| -> ArrayRef {
        Arc::new(frames.iter().map(time).collect::<PrimitiveArray<DurationMicrosecondType>>())
    };
    let sizes =
        |size: &dyn Fn(&Frame) -> u16| -> ArrayRef { Arc::new(PrimitiveArray::<UInt16Type>::from_iter_values(frames.iter().map(size))) };
    let bytes =
        |byte: &dyn Fn(&Frame) -> u8| -> ArrayRef { Arc::new(PrimitiveArray::<UInt8Type>::from_iter_values(frames.iter().map(byte))) };
    let mut formats = StringBuilder::new();
    let mut pixels = BinaryBuilder::with_capacity(frames.len(), frames.iter().map(|frame| frame.pixels.len()).sum());
    for frame in frames {
        formats.append_value(frame.format);
        pixels.append_value(&frame.pixels);
    }
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(PrimitiveArray::<DurationMicrosecondType>::from_iter_values(frames.iter().map(|frame| frame.timestamp))),
        times(&|frame| frame.exposure_start),
        times(&|frame| frame.exposure_end),
        sizes(&|frame| frame.width),
        sizes(&|frame| frame.height),
        bytes(&|frame| frame.channels),
        bytes(&|frame| frame.bits),
        Arc::new(formats.finish()),
        Arc::new(pixels.finish()),
    ];
    record_batch(frame_schema(), arrays, frames.len())
}
