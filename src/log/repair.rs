//! Copying what is whole of a damaged or unfinished file into a new, closed one. The old file stays as it is.

use std::path::{Path, PathBuf};

use super::foreign::{self, Description};
use super::reader::{Channel, Recovery, Session, Verify};
use super::writer::{Stamp, Writer, WriterOptions};
use crate::error::{Error, Result};

/// What [`repair`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// The new file.
    pub path: PathBuf,
    /// Records in it.
    pub records: u64,
    /// What could not be copied.
    pub left_out: Recovery,
}

/// Copies the whole records of a file of a log, each of which is checked, into a new file of the same channel in
/// another folder.
///
/// # Errors
/// `Io`; `Format` if the file is none of a log, or has lost its first bytes; `InvalidArgument` if the folder is the
/// file's own.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("evlib-doc-repair-{}", std::process::id()));
/// use evlib::log::{Log, Stamp, WriterOptions, repair};
/// let writer = Log::new(&dir).writer("notes", &WriterOptions::new("bytes", 1))?;
/// writer.write(&[b"hello"], Stamp::at(1))?;
/// writer.close()?;
/// let bytes = std::fs::read(writer.path()).unwrap();
/// std::fs::write(writer.path(), &bytes[..bytes.len() - 10]).unwrap();
/// let repaired = repair(writer.path(), dir.join("repaired"))?;
/// assert_eq!(repaired.records, 1);
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
pub fn repair(file: impl AsRef<Path>, folder: impl AsRef<Path>) -> Result<Repaired> {
    let (file, folder) = (file.as_ref(), folder.as_ref());
    let own = file.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    if let (Some(Ok(own)), Ok(other)) = (own.map(Path::canonicalize), folder.canonicalize())
        && own == other
    {
        return Err(Error::invalid("what is repaired goes to another folder").with_path(folder));
    }
    let session = Session::open(file, Verify::All)?;
    let info = session.info().clone();
    if !session.is_log() {
        let reason = session.recovery().reason.clone().unwrap_or_default();
        return Err(Error::format("not a file of a log").expecting("a session record").but_found(reason).with_path(file));
    }
    let mut options = WriterOptions::new(info.codec, info.codec_version);
    options.metadata = info.metadata;
    if let Some(Description { encoding, schema }) = foreign::describe(file)? {
        (options.encoding, options.schema) = (Some(encoding), schema);
    }
    let writer = Writer::create(folder, &info.channel, &options)?;
    let channel = Channel::of_sessions(info.channel, vec![session]);
    for record in &channel {
        let record = record?;
        let (front, data) = record.payload.bytes().split_at(record.data_offset);
        let stamp = Stamp { log_time_ns: record.log_time_ns, sensor_time_ns: record.sensor_time_ns };
        writer.write_aligned(&[front, data], 1, stamp)?;
    }
    let records = writer.close()?.written;
    Ok(Repaired { path: writer.path().to_path_buf(), records, left_out: channel.recovery().clone() })
}
