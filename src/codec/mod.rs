//! Codecs of the observation log: items as payloads, and payloads as views.
//!
//! A channel of a log stores the name and version of its codec. The Python package has further ones (`docs/codecs.md`
//! lists all); these are those of which Rust makes something without a copy.

mod arrow;
mod bytes;
mod events;
mod json;
mod numpy;

use std::borrow::Cow;

pub use self::arrow::Arrow;
pub use self::bytes::Bytes;
pub use self::events::Events;
pub use self::json::Json;
pub use self::numpy::{Array, NumpyArray};

#[cfg(feature = "python")]
pub(crate) use self::arrow::{decode as decode_arrow, encode as encode_arrow};
pub(crate) use self::events::{GEOMETRY, Layout as EventsLayout};
#[cfg(feature = "python")]
pub(crate) use self::numpy::{Header as ArrayHeader, prefix as array_prefix};

use crate::error::{Error, Result};
use crate::log::{Payload, Record, Stamp, Writer, WriterOptions};

/// An item as bytes: parts that follow each other, one of which starts at a multiple of 64 in the file.
#[derive(Debug, Clone, Default)]
pub struct Encoded<'a> {
    /// The parts.
    pub parts: Vec<Cow<'a, [u8]>>,
    /// Which part is aligned.
    pub aligned: usize,
}

/// Makes payloads of items, and items of payloads.
///
/// ```
/// # fn main() -> evlib::Result<()> {
/// # let dir = std::env::temp_dir().join(format!("evlib-doc-codec-{}", std::process::id()));
/// use evlib::codec::{Codec, Json};
/// use evlib::log::{Log, Stamp, Verify};
/// let log = Log::new(&dir);
/// let writer = log.writer("state", &Json.options())?;
/// Json.write(&writer, &"{\"ready\": true}".to_owned(), Stamp::now())?;
/// writer.close()?;
/// let record = log.channel("state", Verify::Head)?.get(0)?;
/// assert_eq!(Json.read(&record)?, "{\"ready\": true}");
/// # std::fs::remove_dir_all(&dir).ok();
/// # Ok(())
/// # }
/// ```
pub trait Codec {
    /// What a record holds.
    type Item;
    /// Name in the file.
    const NAME: &'static str;
    /// Version in the file.
    const VERSION: u32 = 1;

    /// The item as bytes.
    ///
    /// # Errors
    /// `InvalidArgument` for an item that cannot be stored.
    fn encode<'a>(&self, item: &'a Self::Item) -> Result<Encoded<'a>>;

    /// The item of a payload, sharing its memory where it can.
    ///
    /// # Errors
    /// `Format` for bytes that this codec did not make.
    fn decode(&self, payload: &Payload) -> Result<Self::Item>;

    /// Options of a writer for this codec.
    fn options(&self) -> WriterOptions {
        WriterOptions::new(Self::NAME, Self::VERSION)
    }

    /// Appends an item.
    ///
    /// # Errors
    /// As [`Codec::encode`] and [`Writer::write`].
    fn write(&self, writer: &Writer, item: &Self::Item, stamp: Stamp) -> Result<()> {
        let encoded = self.encode(item)?;
        let parts: Vec<&[u8]> = encoded.parts.iter().map(AsRef::as_ref).collect();
        writer.write_aligned(&parts, encoded.aligned, stamp)
    }

    /// The item of a record.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    fn read(&self, record: &Record) -> Result<Self::Item> {
        self.decode(&record.payload)
    }
}

/// A payload that a codec did not make.
fn wrong(codec: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::format(format!("not a payload of the codec `{codec}`")).expecting(expected).but_found(found)
}
