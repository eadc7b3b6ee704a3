//! Formats: what a file is, by its content, and the readers and writers of each.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::log;
use crate::reader::{Reader, Unpacked};
use crate::recording::{OpenOptions, Stream};
use crate::schema::Geometry;
use crate::source::Source;
use crate::unpack::unpack;

pub(crate) mod aedat;
pub(crate) mod array;
pub(crate) mod arrow;
pub(crate) mod atis_bin;
pub(crate) mod codec;
pub(crate) mod event_stream;
pub(crate) mod hdf5;
pub(crate) mod numpy;
pub(crate) mod numpy_write;
pub(crate) mod parquet;
pub(crate) mod prophesee;
pub(crate) mod ros;
#[cfg(test)]
mod testing;
pub(crate) mod text;

/// Bytes from the start of a file that identification looks at.
pub(crate) const HEAD: usize = 1 << 16;

/// A format that this library reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Prophesee RAW, EVT 2.0.
    Evt2,
    /// Prophesee RAW, EVT 2.1, either word order.
    Evt21,
    /// Prophesee RAW, EVT 3.0.
    Evt3,
    /// Prophesee RAW, EVT 4.0.
    Evt4,
    /// Prophesee DAT, version 1 or 2.
    Dat,
    /// HDF5, in any layout of the public data sets.
    Hdf5,
    /// An array of NumPy, or a folder of them.
    Npy,
    /// A zip archive of arrays of NumPy.
    Npz,
    /// AEDAT 1.0, of jAER.
    Aedat1,
    /// AEDAT 2.0, of jAER.
    Aedat2,
    /// AEDAT 3.0 and 3.1, of cAER.
    Aedat3,
    /// AEDAT 4.0, of DV.
    Aedat4,
    /// Event Stream, version 2.
    EventStream,
    /// ATIS events of 40 bits each, as in N-MNIST and N-Caltech101.
    AtisBin,
    /// Text and CSV, an event a line.
    Text,
    /// A ROS 1 bag.
    Bag,
    /// A ROS 2 bag in `SQLite`.
    Db3,
    /// MCAP with ROS messages.
    Mcap,
    /// A file of the observation log that holds events.
    Oblog,
    /// Arrow IPC (Feather) of the columns of this library.
    Arrow,
    /// Parquet of the columns of this library: written by this crate; read by Polars, as the Python package does.
    Parquet,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 21] = [
        Self::Evt2,
        Self::Evt21,
        Self::Evt3,
        Self::Evt4,
        Self::Dat,
        Self::Hdf5,
        Self::Npy,
        Self::Npz,
        Self::Aedat1,
        Self::Aedat2,
        Self::Aedat3,
        Self::Aedat4,
        Self::EventStream,
        Self::AtisBin,
        Self::Text,
        Self::Bag,
        Self::Db3,
        Self::Mcap,
        Self::Oblog,
        Self::Arrow,
        Self::Parquet,
    ];

    /// Short lower-case name, as accepted by [`Format::from_str`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Evt2 => "evt2",
            Self::Evt21 => "evt21",
            Self::Evt3 => "evt3",
            Self::Evt4 => "evt4",
            Self::Dat => "dat",
            Self::Hdf5 => "hdf5",
            Self::Npy => "npy",
            Self::Npz => "npz",
            Self::Aedat1 => "aedat1",
            Self::Aedat2 => "aedat2",
            Self::Aedat3 => "aedat3",
            Self::Aedat4 => "aedat4",
            Self::EventStream => "es",
            Self::AtisBin => "atis-bin",
            Self::Text => "text",
            Self::Bag => "bag",
            Self::Db3 => "db3",
            Self::Mcap => "mcap",
            Self::Oblog => "oblog",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    /// The format of that name; case and dots do not matter, so `EVT2.1` and `evt21` are the same.
    fn from_str(name: &str) -> Result<Self> {
        let plain = name.to_ascii_lowercase().replace('.', "");
        let plain = match plain.as_str() {
            "evt20" => "evt2",
            "evt30" => "evt3",
            "evt40" => "evt4",
            "aedat10" => "aedat1",
            "aedat20" => "aedat2",
            "aedat30" | "aedat31" => "aedat3",
            "aedat40" => "aedat4",
            "csv" | "txt" => "text",
            "feather" | "ipc" => "arrow",
            other => other,
        };
        Self::ALL.into_iter().find(|format| format.name() == plain).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|format| format!("`{format}`")).collect();
            Error::invalid("unknown format").expecting(format!("one of {}", names.join(", "))).but_found(format!("`{name}`"))
        })
    }
}

/// How sure an identification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Confidence {
    /// The content fits, but nothing names the format.
    Guess,
    /// The header implies it.
    Likely,
    /// The header says so, or the caller did.
    Certain,
}

impl Confidence {
    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guess => "guess",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

/// What a file is, how sure that is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The format.
    pub format: Format,
    /// How sure.
    pub confidence: Confidence,
    /// Why, one reason a line.
    pub reasons: Vec<String>,
}

/// What opening found out about a file.
pub(crate) struct Opened {
    pub(crate) identity: Identity,
    pub(crate) geometry: Option<Geometry>,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) reader: Arc<dyn Reader>,
}

/// The formats that are recognised together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Prophesee,
    Hdf5,
    Npy,
    Npz,
    Aedat,
    EventStream,
    AtisBin,
    Text,
    Ros(Format),
    Oblog,
    Arrow,
    Parquet,
}

impl Family {
    /// The family that the caller's format or the first bytes name; the extension counts only where the bytes fit too.
    fn of(head: &[u8], source: &Source, options: &OpenOptions) -> Self {
        match options.format {
            Some(Format::Hdf5) => Self::Hdf5,
            Some(Format::Npy) => Self::Npy,
            Some(Format::Npz) => Self::Npz,
            Some(Format::Aedat1 | Format::Aedat2 | Format::Aedat3 | Format::Aedat4) => Self::Aedat,
            Some(Format::EventStream) => Self::EventStream,
            Some(Format::AtisBin) => Self::AtisBin,
            Some(Format::Text) => Self::Text,
            Some(format @ (Format::Bag | Format::Db3 | Format::Mcap)) => Self::Ros(format),
            Some(Format::Oblog) => Self::Oblog,
            Some(Format::Arrow) => Self::Arrow,
            Some(Format::Parquet) => Self::Parquet,
            Some(Format::Evt2 | Format::Evt21 | Format::Evt3 | Format::Evt4 | Format::Dat) => Self::Prophesee,
            None => Self::seen(head, source, options),
        }
    }

    /// The family that the first bytes name; the one whose content has to be looked at, if they name none.
    fn seen(head: &[u8], source: &Source, options: &OpenOptions) -> Self {
        // A file of the log is MCAP too.
        if log::is_log(head) {
            return Self::Oblog;
        }
        if let Some(format) = ros::format_of(head) {
            return Self::Ros(format);
        }
        match head {
            head if numpy::is_npy(head) => Self::Npy,
            head if numpy::is_zip(head) => Self::Npz,
            head if hdf5::has_signature(head) => Self::Hdf5,
            head if head.starts_with(arrow::MAGIC) => Self::Arrow,
            head if head.starts_with(parquet::MAGIC) => Self::Parquet,
            head if aedat::names(head, source) => Self::Aedat,
            head if event_stream::names(head) => Self::EventStream,
            head if text::fits(head) || options.text_columns.is_some() && text::is_text(head) => Self::Text,
            head if atis_bin::fits(head, source) => Self::AtisBin,
            // Columns without headers have nothing but their names.
            _ if !head.starts_with(b"% ") && source.path().extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) => {
                Self::Npy
            }
            _ => Self::Prophesee,
        }
    }
}

/// Identifies and opens a file, or the content of a packed one.
fn open(source: Source, options: &OpenOptions) -> Result<Opened> {
    let head = source.head(HEAD)?;
    let family = Family::of(&head, &source, options);
    if !matches!(family, Family::Ros(_)) {
        options.refuse_time_source()?;
    }
    // Those that are read from their start need no more of packed content than a query does.
    let source = match family {
        Family::Prophesee | Family::EventStream | Family::AtisBin | Family::Text | Family::Aedat => source,
        Family::Hdf5 | Family::Npy | Family::Npz | Family::Ros(_) | Family::Oblog | Family::Arrow | Family::Parquet => source.whole()?,
    };
    match family {
        Family::Prophesee => prophesee::open(source, &head, options),
        Family::Hdf5 => hdf5::open(source, options),
        Family::Npy => numpy::open_npy(source, options),
        Family::Npz => numpy::open_npz(source, options),
        Family::Aedat => aedat::open(source, &head, options),
        Family::EventStream => event_stream::open(source, &head, options),
        Family::AtisBin => atis_bin::open(source, &head, options),
        Family::Text => text::open(source, &head, options),
        Family::Ros(format) => ros::open(source, format, options),
        Family::Oblog => log::open_events(&source, options),
        Family::Arrow => arrow::open(source, &head, options),
        Family::Parquet => Err(Error::new(ErrorKind::Unsupported, "Parquet is not read by the crate")
            .expecting("another format")
            .but_found("a Parquet file")
            .hint("the Python package reads it, where it is not packed; in Rust, Polars does with `scan_parquet`")),
    }
}

/// Identifies and opens a file, or a folder of files that are one recording.
pub(crate) fn open_path(path: &Path, options: &OpenOptions) -> Result<Opened> {
    if path.is_dir()
        && let Some(opened) = numpy::open_folder(path, options)?
    {
        return Ok(opened);
    }
    let bag = if path.is_dir() { ros::in_folder(path)? } else { None };
    let (source, spool) = unpack(Source::open(bag.as_deref().unwrap_or(path))?, options.format)?;
    let Some(spool) = spool else { return open(source, options) };
    let mut reasons = vec![format!("unpacked from {}", spool.packing().name())];
    reasons.extend(source.member().map(|member| format!("`{}` of the archive", member.display())));
    let mut opened = open(source, options).map_err(|error| match spool.known_damage() {
        Some(damage) => error.hint(damage.what.as_str()),
        None => error,
    })?;
    opened.identity.reasons.splice(..0, reasons);
    opened.reader = Arc::new(Unpacked { reader: opened.reader, spool });
    Ok(opened)
}

/// Tells the format of a file from its first bytes.
///
/// # Errors
/// `Io` if the file cannot be read; `Format` if it is none of the formats, naming what it looks like.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let path = std::env::temp_dir().join(format!("evlib-doc-identify-{}.raw", std::process::id()));
/// # evlib::doc_recording(&path)?;
/// let identity = evlib::identify(&path)?;
/// assert_eq!(identity.format, evlib::Format::Evt3);
/// println!("{}", identity.reasons.join("\n"));
/// # std::fs::remove_file(&path).ok();
/// # Ok(())
/// # }
/// ```
pub fn identify(path: impl AsRef<Path>) -> Result<Identity> {
    let path = path.as_ref();
    let opened = open_path(path, &OpenOptions::default()).map_err(|error| error.with_path(path))?;
    Ok(opened.identity)
}

/// First bytes of formats that name themselves.
const MAGICS: &[(&[u8], &str)] = &[
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\xef\xbb\xbf", "text after a byte order mark"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PK\x03\x04", "a zip archive (NPZ?)"),
    (b"Event Stream", "an Event Stream file"),
    (b"% ", "a header of lines that start with `% `, as of RAW and DAT files"),
    (b"#!AER-DAT", "an AEDAT file"),
    (b"#ROSBAG", "a ROS 1 bag"),
    (b"\x89MCAP", "an MCAP file"),
    (b"SQLite format 3\0", "an SQLite database (a ROS 2 bag?)"),
    (b"ARROW1", "an Arrow IPC file"),
    (b"PAR1", "a Parquet file"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"\x1f\x8b", "a gzip stream"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard stream"),
    (b"\xfd7zXZ", "an xz stream"),
    (b"BZh", "a bzip2 stream"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"RIFF", "a RIFF container (AVI?)"),
    (b"\x7fELF", "a program"),
    (b"<?xml", "XML"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a Git LFS pointer, not the recording itself"),
];

/// Whether no format that names itself starts like this.
pub(crate) fn looks_unknown(head: &[u8]) -> bool {
    !MAGICS.iter().any(|(magic, _)| magic.len() >= 4 && head.starts_with(magic))
}

/// What unknown content looks like, from its first bytes.
pub(crate) fn looks_like(head: &[u8]) -> String {
    if head.is_empty() {
        return "an empty file".to_owned();
    }
    if let Some((_, name)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return (*name).to_owned();
    }
    if head.iter().all(|byte| *byte == 0) {
        return "zero bytes".to_owned();
    }
    let sample = head.get(..4096).unwrap_or(head);
    if sample.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n')) {
        let line = String::from_utf8_lossy(sample.split(|byte| *byte == b'\n').next().unwrap_or_default());
        return format!("text that starts with `{}`", line.trim_end().chars().take(60).collect::<String>());
    }
    let bytes: Vec<_> = head.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("unknown binary data that starts with {}", bytes.join(" "))
}
