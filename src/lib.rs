//! Event-camera recordings as Arrow columns and Polars frames.
//!
//! A recording is opened by its content, decoded in parallel straight into the buffers that Arrow, Polars and NumPy
//! share, and read only as far as a query needs it.
//!
//! | column | type | meaning |
//! |---|---|---|
//! | `x` | Int16 | sensor column, 0 = left |
//! | `y` | Int16 | sensor row, 0 = top |
//! | `timestamp` | Duration(us) over i64 | time as the file gives it, wraps undone, never shifted |
//! | `polarity` | Int8 | +1 brighter, -1 darker |
//!
//! File order is kept. What a reader skips or drops is counted in [`Recording::problems`].
//!
//! ```
//! # fn main() -> evlib::Result<()> {
//! # let path = std::env::temp_dir().join(format!("evlib-doc-lib-{}.raw", std::process::id()));
//! # evlib::doc_recording(&path)?;
//! use evlib::{Recording, Selection, TimeRange};
//! let recording = Recording::open(&path)?;
//! let selection = Selection::default().with_time_range(TimeRange::new(Some(0), Some(50_000)));
//! let events = recording.read(&selection)?;
//! assert!(events.timestamp().iter().all(|t| *t < 50_000));
//! # std::fs::remove_file(&path).ok();
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//! * `polars` (default): `read_events` and `EventColumns::to_dataframe`.
//! * `lazy`: `load_events`, a `LazyFrame` that decodes what its query needs.
//! * `python`: the extension module of the Python package.

pub mod codec;
mod columns;
mod error;
mod format;
#[cfg(feature = "polars")]
mod frame;
mod index;
pub mod log;
#[cfg(target_os = "linux")]
mod mapped;
mod mcap;
mod problem;
#[cfg(feature = "python")]
mod python;
mod reader;
mod recording;
mod relay;
mod scan;
mod schema;
mod selection;
mod side;
mod simd;
mod source;
mod spool;
mod table;
mod unpack;
mod write;

pub use columns::{EventColumns, TriggerColumns, event_schema, trigger_schema};
pub use error::{Error, ErrorKind, Result};
pub use format::{Confidence, Format, Identity, identify};
#[cfg(feature = "lazy")]
pub use frame::load_events;
#[cfg(feature = "polars")]
pub use frame::read_events;
pub use problem::{Problem, ProblemCode, Problems, Severity};
pub use recording::{Batches, OpenOptions, Recording, Stream, StreamKind};
pub use schema::{Column, Columns, Geometry, Polarity, Region, TimeRange, TimeSource, TimeUnit};
pub use selection::Selection;
pub use side::{SideStream, frame_schema, imu_schema};
pub use write::{Compression, EventWriter, Hdf5Layout, WriteOptions};

/// Writes the small recording that the examples of this documentation read: 1000 events in 100 ms.
///
/// # Errors
/// As [`EventWriter`].
#[doc(hidden)]
pub fn doc_recording(path: impl AsRef<std::path::Path>) -> Result<()> {
    let rows = 0..1000_i16;
    let x: Vec<i16> = rows.clone().map(|row| row % 640).collect();
    let y: Vec<i16> = rows.clone().map(|row| row / 10 % 480).collect();
    let t: Vec<i64> = rows.clone().map(|row| i64::from(row) * 100).collect();
    let p: Vec<i8> = rows.map(|row| if row % 3 == 0 { 1 } else { -1 }).collect();
    let mut writer = EventWriter::create(path, Format::Evt3, Geometry::new(640, 480)?, true)?;
    writer.write(&EventColumns::from_slices(&x, &y, &t, &p)?)?;
    writer.finish()?;
    Ok(())
}
