//! Arrays of NumPy: `u32 dtype_len | dtype | u32 ndim | u64 shape[ndim] | data`, little endian, data in C order.
//!
//! `dtype` is NumPy's `dtype.str`, or the `descr` of a structured type, in ASCII.

use super::{Codec, Encoded, wrong};
use crate::error::{Error, Result};
use crate::log::Payload;

/// Most dimensions that NumPy has.
const DIMENSIONS: u32 = 64;
const NAME: &str = "numpy";

/// What stands in front of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) dtype: &'a str,
    pub(crate) shape: Vec<u64>,
    /// Where the data starts.
    pub(crate) len: usize,
}

impl<'a> Header<'a> {
    pub(crate) fn parse(payload: &'a [u8]) -> Result<Self> {
        let short = || wrong(NAME, "a header and data", format!("{} bytes", payload.len()));
        let (len, rest) = payload.split_first_chunk().ok_or_else(short)?;
        let (dtype, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(short)?;
        let text = std::str::from_utf8(dtype).ok().filter(|text| text.is_ascii() && !text.is_empty());
        let dtype = text.ok_or_else(|| wrong(NAME, "a type in ASCII", format!("{:?}", String::from_utf8_lossy(dtype))))?;
        let (ndim, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let ndim = u32::from_le_bytes(*ndim);
        if ndim > DIMENSIONS {
            return Err(wrong(NAME, format!("at most {DIMENSIONS} dimensions"), ndim.to_string()));
        }
        let extents = rest.get(..8 * ndim as usize).ok_or_else(short)?.as_chunks::<8>().0;
        let shape: Vec<u64> = extents.iter().map(|extent| u64::from_le_bytes(*extent)).collect();
        Ok(Self { dtype, len: 8 + dtype.len() + 8 * shape.len(), shape })
    }
}

/// What stands in front of the data of an array.
pub(crate) fn prefix(dtype: &str, shape: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + dtype.len() + 8 * shape.len());
    out.extend_from_slice(&(dtype.len() as u32).to_le_bytes());
    out.extend_from_slice(dtype.as_bytes());
    out.extend_from_slice(&(shape.len() as u32).to_le_bytes());
    for extent in shape {
        out.extend_from_slice(&extent.to_le_bytes());
    }
    out
}

/// An array: type, shape and data in C order.
///
/// ```
/// use evlib::codec::Array;
/// let array = Array::new("<i2", &[2], vec![1, 0, 2, 0])?;
/// assert_eq!(array.data.bytes(), [1, 0, 2, 0]);
/// # Ok::<(), evlib::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Array {
    /// Type as NumPy writes it, such as `<f8`.
    pub dtype: String,
    /// Extents.
    pub shape: Vec<u64>,
    /// The values.
    pub data: Payload,
}

impl Array {
    /// An array with these bytes.
    ///
    /// # Errors
    /// `InvalidArgument` for a type that is empty or not ASCII, or too many dimensions.
    pub fn new(dtype: &str, shape: &[u64], data: Vec<u8>) -> Result<Self> {
        if dtype.is_empty() || !dtype.is_ascii() || shape.len() > DIMENSIONS as usize {
            return Err(Error::invalid("an array has a type in ASCII and at most 64 dimensions"));
        }
        Ok(Self { dtype: dtype.to_owned(), shape: shape.to_vec(), data: Payload::from_vec(data) })
    }
}

/// The codec `numpy`. The data starts at a multiple of 64 in the file; what is read is a view of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NumpyArray;

impl Codec for NumpyArray {
    type Item = Array;
    const NAME: &'static str = NAME;

    fn encode<'a>(&self, item: &'a Array) -> Result<Encoded<'a>> {
        let prefix = prefix(&item.dtype, item.shape.iter().copied());
        Ok(Encoded { parts: vec![prefix.into(), item.data.bytes().into()], aligned: 1 })
    }

    fn decode(&self, payload: &Payload) -> Result<Array> {
        let bytes = payload.bytes();
        let header = Header::parse(bytes)?;
        let data = payload.slice(header.len..bytes.len()).unwrap_or_else(|| Payload::from_vec(Vec::new()));
        Ok(Array { dtype: header.dtype.to_owned(), shape: header.shape, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_exact() {
        let bytes = prefix("<f8", [2, 3].into_iter());
        assert_eq!(bytes, b"\x03\0\0\0<f8\x02\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
        assert_eq!(Header::parse(&bytes).unwrap(), Header { dtype: "<f8", shape: vec![2, 3], len: bytes.len() });
        for len in 0..bytes.len() {
            assert!(Header::parse(&bytes[..len]).is_err(), "{len}");
        }
    }
}
