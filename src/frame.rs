//! Polars frames for Rust users.

use std::borrow::Borrow;
use std::path::Path;

use polars_core::frame::DataFrame;

use crate::error::Result;
use crate::recording::Recording;
use crate::selection::Selection;

#[cfg(feature = "lazy")]
mod lazy;
#[cfg(feature = "lazy")]
pub use lazy::load_events;

/// The selected events of a recording as a Polars `DataFrame`: one chunk a column, the decoder's own buffers.
///
/// # Errors
/// As [`Recording::open`] and [`Recording::read`].
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-read-{}.raw", std::process::id()));
/// # evlib::doc_recording(&path)?;
/// let frame = evlib::read_events(&path, &evlib::Selection::default())?;
/// assert_eq!(frame.shape(), (1000, 4));
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
pub fn read_events(path: impl AsRef<Path>, selection: impl Borrow<Selection>) -> Result<DataFrame> {
    Ok(Recording::open(path)?.read(selection)?.to_dataframe())
}
