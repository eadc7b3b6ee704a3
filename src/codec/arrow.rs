//! Arrow IPC streams (<https://arrow.apache.org/docs/format/Columnar.html>), buffers aligned to 64 bytes.

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_buffer::Buffer;
use arrow_ipc::MetadataVersion;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{ArrowError, SchemaRef};

use super::{Codec, Encoded, wrong};
use crate::error::{Error, Result};
use crate::log::Payload;

const NAME: &str = "arrow";
const ALIGN: usize = 64;

fn refuse(error: &ArrowError) -> Error {
    Error::invalid(format!("Arrow does not store this: {error}"))
}

/// The stream of some batches.
pub(crate) fn encode(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let write = || {
        let options = IpcWriteOptions::try_new(ALIGN, false, MetadataVersion::V5)?;
        let size: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let mut writer = StreamWriter::try_new_with_options(Vec::with_capacity(size + 4096), schema, options)?;
        batches.iter().try_for_each(|batch| writer.write(batch))?;
        writer.into_inner()
    };
    write().map_err(|error| refuse(&error))
}

/// Schema and batches of a stream, sharing its memory where that is aligned.
pub(crate) fn decode(payload: &Payload) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let damaged = |error: ArrowError| wrong(NAME, "an Arrow IPC stream", error.to_string());
    let mut buffer = Buffer::from(bytes::Bytes::from_owner(payload.clone()));
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !buffer.is_empty() {
        match decoder.decode(&mut buffer).map_err(damaged)? {
            Some(batch) => batches.push(batch),
            None => break,
        }
    }
    decoder.finish().map_err(damaged)?;
    let schema = decoder.schema().ok_or_else(|| wrong(NAME, "an Arrow IPC stream", "no schema"))?;
    Ok((schema, batches))
}

/// The codec `arrow`: tables, whose columns are views of the file when they are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arrow;

impl Codec for Arrow {
    type Item = RecordBatch;
    const NAME: &'static str = NAME;

    fn encode<'a>(&self, item: &'a RecordBatch) -> Result<Encoded<'a>> {
        let stream = encode(item.schema_ref(), std::slice::from_ref(item))?;
        Ok(Encoded { parts: vec![stream.into()], aligned: 0 })
    }

    /// The table, which was stored as one batch.
    fn decode(&self, payload: &Payload) -> Result<RecordBatch> {
        let (schema, mut batches) = decode(payload)?;
        match batches.len() {
            0 => {
                let options = RecordBatchOptions::new().with_row_count(Some(0));
                let columns = schema.fields().iter().map(|field| arrow_array::new_empty_array(field.data_type())).collect();
                RecordBatch::try_new_with_options(schema, columns, &options).map_err(|error| refuse(&error))
            }
            1 => Ok(batches.remove(0)),
            several => {
                Err(Error::new(crate::ErrorKind::Unsupported, "a table of several batches").expecting("one").but_found(several.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, StringArray};

    #[test]
    fn tables_come_back_without_a_copy() {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0; 1000]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a"; 1000]));
        let table = RecordBatch::try_from_iter([("v", values), ("n", names)]).unwrap();
        let stream: Vec<u8> = Arrow.encode(&table).unwrap().parts.concat();
        let payload = Payload::from_aligned(&stream);
        let back = Arrow.decode(&payload).unwrap();
        assert_eq!(back, table);
        let column = back.column(0).to_data().buffers()[0].as_ptr() as usize;
        let bytes = payload.bytes().as_ptr_range();
        assert!((bytes.start as usize..bytes.end as usize).contains(&column));
        assert_eq!(column % 64, 0);
        for len in 0..stream.len() {
            let _refused_or_read = Arrow.decode(&Payload::from_vec(stream[..len].to_vec()));
        }
    }
}
