//! Writers of HDF5 files, in the layout of the DSEC data set and in Prophesee's.

mod dsec;
mod file;
mod pipeline;
mod prophesee;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::error::{Error, Result};
use crate::format::prophesee::RANGE;
use crate::write::{Compression, Hdf5Layout, Partial, Sink, WriteOptions, check_geometry};

/// Microseconds that events may span: 12 days. Both layouts have a table with an entry every millisecond or two,
/// whether there are events or not; a single wrong time must not fill the disk.
const SPAN_US: i64 = 1 << 40;
/// What to do about a time after that.
const TOO_LATE: &str = "the file has a table of rows by time, which would be too long: write the events in parts";

/// The layout of a new file whose layout nobody says.
fn layout_of(path: &Path) -> Hdf5Layout {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("hdf5") => Hdf5Layout::Prophesee,
        _ => Hdf5Layout::Dsec,
    }
}

/// Refuses what no HDF5 file can be.
pub(crate) fn check(path: &Path, options: &WriteOptions) -> Result<()> {
    if options.layout.unwrap_or_else(|| layout_of(path)) == Hdf5Layout::Dsec {
        if options.compression == Some(Compression::Lz4) {
            return Err(Error::invalid("HDF5 is not written with this compression")
                .expecting("`zstd`, `gzip` or `none`")
                .but_found("`lz4`"));
        }
        return Ok(());
    }
    if let Some(compression) = options.compression {
        return Err(Error::invalid("the Prophesee layout has a compression of its own")
            .expecting("no compression to be named")
            .but_found(format!("`{}`", compression.name()))
            .hint("the DSEC layout can be compressed in several ways"));
    }
    check_geometry(options.geometry, (RANGE, RANGE))
}

/// Starts a file.
pub(crate) fn sink(path: &Path, partial: Partial, options: &WriteOptions, date: &str) -> Result<Box<dyn Sink>> {
    Ok(match options.layout.unwrap_or_else(|| layout_of(path)) {
        Hdf5Layout::Dsec => {
            let compression = options.compression.unwrap_or(Compression::Zstd);
            Box::new(dsec::Writer::new(partial, options.geometry, compression)?)
        }
        Hdf5Layout::Prophesee => Box::new(prophesee::Writer::new(partial, options.geometry, date)?),
    })
}
