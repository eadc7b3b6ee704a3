//! Hand-over of columns through the Arrow `PyCapsule` interface
//! (<https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html>).
#![expect(unsafe_code, reason = "the Arrow C data interface")]

use std::ffi::CStr;

use arrow_array::cast::AsArray;
use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::ffi_stream::{FFI_ArrowArrayStream, RecordBatchStreamReader};
use arrow_array::types::{DurationMicrosecondType, Int8Type, Int16Type, UInt8Type};
use arrow_array::{Array, RecordBatch, RecordBatchReader, StructArray};
use arrow_schema::{Schema, SchemaRef};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::columns::{Rows, TriggerColumns, event_schema, trigger_schema};
use crate::schema::Columns;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";
const STREAM: &CStr = c"arrow_array_stream";

/// Columns on their way to Arrow: Polars, pyarrow and every other reader of the capsules take the memory as it is.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct Batch(RecordBatch);

impl Batch {
    pub(super) fn new(batch: RecordBatch) -> Self {
        Self(batch)
    }
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.0.num_rows()
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(&*self.0.schema()).map_err(|error| PyValueError::new_err(error.to_string()))?;
        PyCapsule::new_with_value(py, schema, SCHEMA)
    }

    /// The schema the reader wishes for is ignored, as the interface allows.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        drop(requested_schema);
        let array = FFI_ArrowArray::new(&StructArray::from(self.0.clone()).into_data());
        Ok((self.__arrow_c_schema__(py)?, PyCapsule::new_with_value(py, array, ARRAY)?))
    }
}

/// The stream of an object with `__arrow_c_stream__`.
fn reader(data: &Bound<'_, PyAny>) -> PyResult<RecordBatchStreamReader> {
    let capsule = data.call_method0("__arrow_c_stream__")?;
    let capsule = capsule.cast::<PyCapsule>()?;
    let pointer = capsule.pointer_checked(Some(STREAM))?.cast::<FFI_ArrowArrayStream>();
    // SAFETY: a capsule of this name holds a valid `ArrowArrayStream`, says the interface. `from_raw` moves it out
    // and leaves a released stream behind, so that the capsule's destructor does nothing.
    let reader = unsafe { RecordBatchStreamReader::from_raw(pointer.as_ptr()) };
    reader.map_err(|error| PyTypeError::new_err(error.to_string()))
}

/// Schema and batches of an object with `__arrow_c_stream__`.
pub(super) fn import_any(data: &Bound<'_, PyAny>) -> PyResult<(SchemaRef, Vec<RecordBatch>)> {
    let reader = reader(data)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<_, _>>().map_err(|error| PyTypeError::new_err(error.to_string()))?;
    Ok((schema, batches))
}

/// Batches for a reader of `__arrow_c_stream__`.
pub(super) fn stream(py: Python<'_>, batches: Box<dyn RecordBatchReader + Send>) -> PyResult<Bound<'_, PyCapsule>> {
    PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(batches), STREAM)
}

/// The batches of an object with `__arrow_c_stream__`, of exactly these columns and without null values.
fn batches(data: &Bound<'_, PyAny>, expected: &Schema, what: &str) -> PyResult<Vec<RecordBatch>> {
    let reader = reader(data)?;
    let given = reader.schema();
    let same = given.fields().len() == expected.fields().len()
        && given.fields().iter().zip(expected.fields()).all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
    if !same {
        return Err(PyTypeError::new_err(format!("expected columns {expected}, found {given}")));
    }
    reader
        .map(|batch| {
            let batch = batch.map_err(|error| PyTypeError::new_err(error.to_string()))?;
            if batch.columns().iter().any(|column| column.null_count() > 0) {
                return Err(PyValueError::new_err(format!("{what} cannot have null values")));
            }
            Ok(batch)
        })
        .collect()
}

/// The events of an object with `__arrow_c_stream__`: batches for [`rows`].
pub(super) fn import(data: &Bound<'_, PyAny>) -> PyResult<Vec<RecordBatch>> {
    batches(data, &event_schema(Columns::ALL), "events")
}

/// The rows of an imported batch.
pub(super) fn rows(batch: &RecordBatch) -> Rows<'_> {
    Rows {
        x: batch.column(0).as_primitive::<Int16Type>().values(),
        y: batch.column(1).as_primitive::<Int16Type>().values(),
        t: batch.column(2).as_primitive::<DurationMicrosecondType>().values(),
        p: batch.column(3).as_primitive::<Int8Type>().values(),
        len: batch.num_rows(),
    }
}

/// The trigger columns of an object with `__arrow_c_stream__`, copied.
pub(super) fn import_triggers(data: &Bound<'_, PyAny>) -> PyResult<Vec<TriggerColumns>> {
    let batches = batches(data, &trigger_schema(), "triggers")?;
    let columns = batches.iter().map(|batch| TriggerColumns {
        id: batch.column(0).as_primitive::<UInt8Type>().values().to_vec(),
        polarity: batch.column(1).as_primitive::<Int8Type>().values().to_vec(),
        timestamp: batch.column(2).as_primitive::<DurationMicrosecondType>().values().to_vec(),
    });
    Ok(columns.collect())
}
