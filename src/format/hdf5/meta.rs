//! What an HDF5 file says of its data sets: shapes, types, filters and where every chunk lies.
//!
//! Nothing here reads or decodes chunk data: readers fetch [`Chunk`]s by position themselves. The parser behind
//! [`Metadata`] can be exchanged. Everything works in memory and time proportional to the file's size whatever its bytes.

mod blocks;
mod parse;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::filter::Filter;
use crate::error::Result;
use crate::source::Source;

/// What the readers need to know of an HDF5 file. Paths start at the root group; soft links are followed.
pub(crate) trait Metadata: Send + Sync {
    /// What is at `path`; `None` if nothing is there, or nothing readable.
    fn kind(&self, path: &str) -> Option<Kind>;

    /// Members of a group, by name.
    fn list(&self, group: &str) -> Result<Vec<Entry>>;

    /// A data set with its whole chunk table.
    fn dataset(&self, path: &str) -> Result<Dataset>;

    /// Attributes of a group or data set, by name. Values that cannot be understood are [`Value::Other`].
    fn attributes(&self, path: &str) -> Result<Vec<(String, Value)>>;

    /// The sequences that the elements of a [`Dtype::Vlen`] or [`Dtype::VlenText`] data set refer to, as many as fit in
    /// `limit` bytes and at least one. `references` are elements as stored.
    fn resolve(&self, dataset: &Dataset, references: &[u8], limit: usize) -> Result<Sequences>;

    /// Bytes that the file should have by its superblock; more than it has if its end is missing.
    fn announced_len(&self) -> u64;
}

/// Opens the metadata of an HDF5 file, with or without a user block in front.
pub(crate) fn open(source: Arc<Source>) -> Result<Box<dyn Metadata>> {
    Ok(Box::new(parse::File::open(source)?))
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Group,
    Dataset,
    /// A named type, a link to nowhere or to another file, or an object that cannot be read.
    Other,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The same number for names of the same object: groups can contain themselves.
    pub(crate) object: u64,
}

/// A data set.
///
/// Its shape is the file's claim: where chunks are missing, nothing in the file stands behind it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dataset {
    pub(crate) path: String,
    /// Empty for a single value; `[0]` for no value at all.
    pub(crate) shape: Vec<u64>,
    pub(crate) dtype: Dtype,
    /// In the order in which they were applied when writing.
    pub(crate) filters: Vec<Filter>,
    pub(crate) storage: Storage,
    /// One element as stored; `None` stands for zeros.
    pub(crate) fill: Option<Vec<u8>>,
}

impl Dataset {
    /// Number of elements; it fits, as opening checked.
    pub(crate) fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, extent| product.saturating_mul(*extent))
    }
}

/// Where the elements are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Storage {
    /// Never written: every element has the fill value.
    Absent,
    /// In the object header itself.
    Compact(Vec<u8>),
    /// In one run of unfiltered bytes inside the file.
    Contiguous {
        address: u64,
        bytes: u64,
    },
    Chunked(Chunks),
}

/// A chunk table: every chunk that is stored and lies inside the shape, in row-major order.
///
/// Checked: no chunk twice, all inside the file, and together no larger than it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Chunks {
    /// Shape of every chunk in elements; those at the edge are stored whole.
    pub(crate) shape: Vec<u64>,
    /// Chunks along every dimension of the data set.
    pub(crate) grid: Vec<u64>,
    /// Bytes of a decoded chunk.
    pub(crate) decoded: u32,
    pub(crate) list: Vec<Chunk>,
    /// Chunks left out because they end beyond the end of the file, which lost its tail.
    pub(crate) beyond: u64,
}

/// A stored chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Place in the grid of chunks, row by row; for data sets of one dimension the first element is `index * shape[0]`.
    pub(crate) index: u64,
    /// Position in the file, user block included.
    pub(crate) address: u64,
    /// Bytes in the file.
    pub(crate) bytes: u32,
    /// Filters that were skipped.
    pub(crate) mask: u32,
}

impl Chunks {
    /// Chunks that cover the shape; it fits, as opening checked.
    pub(crate) fn grid_len(&self) -> u64 {
        self.grid.iter().fold(1, |product, extent| product.saturating_mul(*extent))
    }

    /// The chunk at a place of the grid; `None` if it holds only fill values.
    pub(crate) fn get(&self, index: u64) -> Option<&Chunk> {
        let guess = usize::try_from(index).ok().and_then(|index| self.list.get(index));
        guess.filter(|chunk| chunk.index == index).or_else(|| {
            let place = self.list.binary_search_by_key(&index, |chunk| chunk.index).ok()?;
            self.list.get(place)
        })
    }

    /// Coordinates of the first element of the chunk at a place of the grid.
    pub(crate) fn start(&self, mut index: u64) -> Vec<u64> {
        let mut start = vec![0; self.shape.len()];
        for ((start, shape), grid) in start.iter_mut().zip(&self.shape).zip(&self.grid).rev() {
            *start = index % (*grid).max(1) * shape;
            index /= (*grid).max(1);
        }
        start
    }
}

/// An integer as stored. Bit fields are unsigned integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Integer {
    pub(crate) bytes: u8,
    pub(crate) signed: bool,
    pub(crate) big_endian: bool,
}

/// The type of an element.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Dtype {
    Integer(Integer),
    /// `boolean`: its members are `FALSE` = 0 and `TRUE` = 1, as h5py writes them.
    Enum {
        base: Integer,
        boolean: bool,
    },
    Float {
        bytes: u8,
        big_endian: bool,
    },
    Compound {
        bytes: usize,
        fields: Vec<Field>,
    },
    Array {
        shape: Vec<u64>,
        base: Box<Dtype>,
    },
    /// Text of fixed size, ended by NUL or filled up with NUL or spaces.
    Text {
        bytes: usize,
    },
    /// Text of variable length.
    VlenText {
        bytes: usize,
    },
    /// A sequence of variable length; an element is a reference of `bytes` bytes.
    Vlen {
        bytes: usize,
        base: Box<Dtype>,
    },
    /// A type by its name, not understood here.
    Other {
        bytes: usize,
        name: String,
    },
}

/// A field of a compound.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// First byte inside the compound.
    pub(crate) offset: usize,
    pub(crate) dtype: Dtype,
}

impl Dtype {
    /// Bytes of an element as stored; never 0.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Integer(base) | Self::Enum { base, .. } => usize::from(base.bytes),
            Self::Float { bytes, .. } => usize::from(*bytes),
            Self::Array { shape, base } => {
                shape.iter().fold(base.bytes(), |product, extent| product.saturating_mul(usize::try_from(*extent).unwrap_or(usize::MAX)))
            }
            Self::Compound { bytes, .. }
            | Self::Text { bytes }
            | Self::VlenText { bytes }
            | Self::Vlen { bytes, .. }
            | Self::Other { bytes, .. } => *bytes,
        }
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Integer(i64),
    Float(f64),
    Text(String),
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    Texts(Vec<String>),
    /// Not understood: what it is, in words.
    Other(String),
}

impl Value {
    /// A single whole number, also if stored as a list of one, as a float or as text.
    pub(crate) fn as_integer(&self) -> Option<i64> {
        match self.integers().as_slice() {
            [value] => Some(*value),
            _ => self.as_text()?.trim().parse().ok(),
        }
    }

    /// Whole numbers, however they are stored; none if there are others among them.
    pub(crate) fn integers(&self) -> Vec<i64> {
        let whole = |value: &f64| (value.fract() == 0.0 && value.abs() < 1e18).then_some(*value as i64);
        match self {
            Self::Integer(value) => vec![*value],
            Self::Integers(values) => values.clone(),
            Self::Float(value) => whole(value).into_iter().collect(),
            Self::Floats(values) => values.iter().map(whole).collect::<Option<_>>().unwrap_or_default(),
            Self::Text(_) | Self::Texts(_) | Self::Other(_) => Vec::new(),
        }
    }

    /// A single text, also if stored as a list of one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            Self::Texts(values) => values.first().map(String::as_str).filter(|_| values.len() == 1),
            _ => None,
        }
    }
}

/// Byte sequences of different lengths, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sequences {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Sequences {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start..end)
    }
}
