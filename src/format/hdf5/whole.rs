//! All values of a small data set, such as a map of a sensor's lens.

use std::path::Path;
use std::sync::Arc;

use super::filter::{self, Decoder};
use super::meta::{self, Kind, Storage};
use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;

/// Most bytes of a data set that is read whole.
const LARGEST: u64 = 256 << 20;

/// A data set as it is stored, in C order.
#[cfg_attr(not(feature = "python"), expect(dead_code, reason = "for the Python module"))]
pub(crate) struct Whole {
    pub(crate) bytes: Vec<u8>,
    pub(crate) shape: Vec<u64>,
    /// Type of its numbers, as NumPy names it.
    pub(crate) dtype: String,
}

/// Reads the numbers of a data set.
///
/// # Errors
/// `InvalidArgument` if there is no such data set, `Unsupported` if it is too large or has no numbers.
#[cfg_attr(not(feature = "python"), expect(dead_code, reason = "for the Python module"))]
pub(crate) fn read(path: &Path, dataset: &str) -> Result<Whole> {
    read_from(&Arc::new(Source::open(path)?), dataset).map_err(|error| error.with_path(path))
}

fn read_from(source: &Arc<Source>, name: &str) -> Result<Whole> {
    if !super::has_signature(&source.head(1 << 16)?) {
        return Err(Error::format("not an HDF5 file"));
    }
    let meta = meta::open(Arc::clone(source))?;
    if meta.kind(name) != Some(Kind::Dataset) {
        let names: Vec<_> =
            meta.list("/").unwrap_or_default().into_iter().take(super::LISTED).map(|entry| format!("`{}`", entry.name)).collect();
        return Err(Error::invalid(format!("no data set `{name}`")).expecting("the path of a data set").but_found(names.join(", ")));
    }
    let dataset = meta.dataset(name)?;
    let cell = super::cell(&dataset.dtype).ok_or_else(|| super::not_numbers(&dataset))?;
    let order = if cell.big_endian { '>' } else { '<' };
    let dtype = format!("{order}{}", cell.number.name());
    let element = cell.number.bytes();
    let bytes = dataset.elements().saturating_mul(element as u64);
    let chunk = if let Storage::Chunked(chunks) = &dataset.storage { u64::from(chunks.decoded) } else { 0 };
    if bytes.max(chunk) > LARGEST {
        return Err(Error::new(ErrorKind::Unsupported, format!("data set `{name}` is too large to be read whole"))
            .expecting(format!("at most {LARGEST} bytes"))
            .but_found(format!("{}", bytes.max(chunk))));
    }
    let fill = dataset.fill.as_deref().filter(|fill| fill.len() == element).map_or_else(|| vec![0; element], <[u8]>::to_vec);
    let mut out: Vec<u8> = fill.repeat(dataset.elements() as usize);
    match &dataset.storage {
        Storage::Absent => {}
        Storage::Compact(stored) => {
            for (out, byte) in out.iter_mut().zip(stored) {
                *out = *byte;
            }
        }
        Storage::Contiguous { address, bytes } => {
            let len = usize::try_from(*bytes).unwrap_or(usize::MAX).min(out.len());
            source.read_exact_at(out.get_mut(..len).unwrap_or_default(), *address)?;
        }
        Storage::Chunked(chunks) => {
            for filter in &dataset.filters {
                filter::check(filter)?;
            }
            if chunks.beyond > 0 {
                return Err(Error::new(ErrorKind::Truncated, format!("parts of data set `{name}` lie beyond the end of the file")));
            }
            let mut decoder = Decoder::default();
            for chunk in &chunks.list {
                let mut raw = vec![0; chunk.bytes as usize];
                source.read_exact_at(&mut raw, chunk.address)?;
                let start = chunks.start(chunk.index);
                let size = chunks.decoded as usize;
                let packed = filter::Chunk { raw: &raw, mask: chunk.mask, size, element };
                let mut decoded = vec![0; size];
                decoder.decode(&dataset.filters, packed, 0..size, &mut |offset, bytes| {
                    if let Some(out) = decoded.get_mut(offset..offset + bytes.len()) {
                        out.copy_from_slice(bytes);
                    }
                })?;
                place(&decoded, &chunks.shape, &start, &dataset.shape, element, &mut out);
            }
        }
    }
    Ok(Whole { bytes: out, shape: dataset.shape.clone(), dtype })
}

/// Copies a chunk that starts at `start` to its place, row by row along the last dimension, as far as it is inside.
fn place(chunk: &[u8], chunk_shape: &[u64], start: &[u64], shape: &[u64], element: usize, out: &mut [u8]) {
    let width = chunk_shape.last().copied().unwrap_or(1).max(1);
    let inside = shape.last().copied().unwrap_or(1).saturating_sub(start.last().copied().unwrap_or(0)).min(width);
    let row_bytes = (width as usize).saturating_mul(element);
    for (number, row) in chunk.chunks_exact(row_bytes.max(1)).enumerate() {
        // The first element of this row in every dimension, from the last but one to the first.
        let (mut rest, mut at, mut stride) = (number as u64, start.last().copied().unwrap_or(0), shape.last().copied().unwrap_or(1));
        let mut is_inside = true;
        for dimension in (0..shape.len().saturating_sub(1)).rev() {
            let (Some(extent), Some(length), Some(first)) = (shape.get(dimension), chunk_shape.get(dimension), start.get(dimension)) else {
                return;
            };
            let index = first + rest % (*length).max(1);
            rest /= (*length).max(1);
            is_inside &= index < *extent;
            at += index * stride;
            stride = stride.saturating_mul(*extent);
        }
        let (from, len) = (at as usize * element, inside as usize * element);
        if is_inside && let (Some(out), Some(row)) = (out.get_mut(from..from + len), row.get(..len)) {
            out.copy_from_slice(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_at_the_edge() {
        // A 3 x 5 array in chunks of 2 x 3.
        let wanted: Vec<u8> = (0..15).collect();
        let mut out = vec![99; 15];
        for start in [[0, 0], [0, 3], [2, 0], [2, 3]] {
            let chunk: Vec<u8> = (0..2)
                .flat_map(|row| (0..3).map(move |column| (row + start[0], column + start[1])))
                .map(|(row, column)| if row < 3 && column < 5 { (row * 5 + column) as u8 } else { 77 })
                .collect();
            place(&chunk, &[2, 3], &start, &[3, 5], 1, &mut out);
        }
        assert_eq!(out, wanted);
        let mut one = vec![0; 2];
        place(&[1, 2, 3], &[3], &[0], &[2], 1, &mut one);
        assert_eq!(one, [1, 2]);
    }
}
