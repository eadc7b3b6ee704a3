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

/// Whether the buffers of all batches lie within them, which the decoder takes for granted. What it refuses by itself is
/// left to it.
fn buffers_are_there(mut stream: &[u8]) -> bool {
    loop {
        let Some((mut word, mut rest)) = stream.split_first_chunk::<4>() else { return true };
        if *word == [0xff; 4] {
            let Some(next) = rest.split_first_chunk() else { return true };
            (word, rest) = next;
        }
        let Some((head, rest)) = rest.split_at_checked(u32::from_le_bytes(*word) as usize) else { return true };
        let Ok(message) = arrow_ipc::root_as_message(head) else { return true };
        let body = usize::try_from(message.bodyLength()).ok().and_then(|len| rest.split_at_checked(len));
        let Some((body, rest)) = body else { return true };
        let batch = message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch()?.data());
        let is_inside = |buffer: &arrow_ipc::Buffer| {
            let (start, len) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
            start.checked_add(len).filter(|end| *end <= body.len())
        };
        if !batch.and_then(|batch| batch.buffers()).is_none_or(|buffers| buffers.iter().all(|buffer| is_inside(buffer).is_some())) {
            return false;
        }
        stream = rest;
    }
}

/// Schema and batches of a stream, sharing its memory where that is aligned.
pub(crate) fn decode(payload: &Payload) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    if !buffers_are_there(payload.bytes()) {
        return Err(wrong(NAME, "an Arrow IPC stream", "buffers outside its batches"));
    }
    // The decoder takes some more for granted, of types that are rare; its state is dropped with the panic.
    std::panic::catch_unwind(|| decode_stream(payload))
        .unwrap_or_else(|_| Err(wrong(NAME, "an Arrow IPC stream", "one that its decoder does not survive")))
}

fn decode_stream(payload: &Payload) -> Result<(SchemaRef, Vec<RecordBatch>)> {
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

    #[test]
    fn damage_is_refused_or_read() {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a", "bc"]));
        let table = RecordBatch::try_from_iter([("v", values), ("n", names)]).unwrap();
        let stream: Vec<u8> = Arrow.encode(&table).unwrap().parts.concat();
        let mut outside = 0;
        for bit in 0..stream.len() * 8 {
            let mut damaged = stream.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let refused = Arrow.decode(&Payload::from_aligned(&damaged)).err();
            outside += usize::from(refused.is_some_and(|error| error.to_string().contains("outside its batches")));
        }
        assert!(outside > 0);
    }
}
