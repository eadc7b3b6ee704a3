//! The extension module `evlib._evlib`: argument conversion, errors to exceptions, the GIL released around all work.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::Result;
use crate::{
    Batches, Column, Columns, Format, Geometry, OpenOptions, Polarity, Recording, Region, Selection, TimeRange, TimeSource, TimeUnit,
    WriteOptions,
};

mod arrow;
mod buffer;
mod errors;
mod log;
mod parts;

use arrow::{Batch, import, import_triggers, rows};
use parts::{Rebatched, rebatch};

/// Rows of a problem table: code, severity, count, unit, bytes, first offset, examples.
type ProblemRow = (&'static str, &'static str, u64, &'static str, u64, u64, Vec<String>);

fn problem_rows(problems: &crate::Problems) -> Vec<ProblemRow> {
    problems
        .iter()
        .map(|problem| {
            let code = problem.code;
            (code.name(), code.severity().name(), problem.count, code.unit(), problem.bytes, problem.first_offset, problem.examples.clone())
        })
        .collect()
}

/// A selection as Python gives it.
#[derive(FromPyObject)]
struct PySelection {
    columns: Vec<String>,
    time_range: (Option<i64>, Option<i64>),
    region: Option<(i32, i32, i32, i32)>,
    polarity: Option<i8>,
    limit: Option<u64>,
}

impl PySelection {
    fn into_selection(self) -> Result<Selection> {
        let columns: Columns = self.columns.iter().map(|name| Column::from_name(name)).collect::<Result<_>>()?;
        let mut selection =
            Selection::default().with_columns(columns.iter()).with_time_range(TimeRange::new(self.time_range.0, self.time_range.1));
        if let Some((x, y, width, height)) = self.region {
            selection = selection.with_region(Region::new(x, y, width, height));
        }
        selection = match self.polarity {
            None => selection,
            Some(1) => selection.with_polarity(Polarity::On),
            Some(-1) => selection.with_polarity(Polarity::Off),
            Some(other) => return Err(crate::Error::invalid("unknown polarity").expecting("1 or -1").but_found(other.to_string())),
        };
        if let Some(limit) = self.limit {
            selection = selection.with_limit(limit);
        }
        Ok(selection)
    }
}

/// What the caller says of the content of a file: the stream, paths of columns, unit and offset of times, parts of a
/// pixel, columns of text, whether to map, the clock of times.
type ContentArguments =
    (Option<String>, Vec<(String, String)>, Option<String>, Option<i64>, Option<u16>, Option<String>, bool, Option<String>);

/// The arguments of [`open`].
type OpenArguments = (PathBuf, Option<String>, Option<(u32, u32)>, Option<usize>, ContentArguments);

/// An open recording.
#[pyclass(name = "Recording", module = "evlib._evlib", frozen)]
struct PyRecording(Recording, OpenArguments);

#[pymethods]
impl PyRecording {
    /// Pickled as the arguments it was opened with: another process opens the file again.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, OpenArguments)> {
        Ok((py.import("evlib._evlib")?.getattr("open")?, self.1.clone()))
    }

    #[getter]
    fn format(&self) -> &'static str {
        self.0.format().name()
    }

    #[getter]
    fn confidence(&self) -> &'static str {
        self.0.identity().confidence.name()
    }

    #[getter]
    fn reasons(&self) -> Vec<String> {
        self.0.identity().reasons.clone()
    }

    #[getter]
    fn geometry(&self) -> Option<(u16, u16)> {
        self.0.geometry().map(|geometry| (geometry.width(), geometry.height()))
    }

    #[getter]
    fn metadata(&self) -> Vec<(String, String)> {
        self.0.metadata().to_vec()
    }

    /// Streams: name, kind, detail, rows.
    #[getter]
    fn streams(&self) -> Vec<(String, &'static str, String, Option<u64>)> {
        let streams = self.0.streams().iter();
        streams.map(|stream| (stream.name.clone(), stream.kind.name(), stream.detail.clone(), stream.rows)).collect()
    }

    #[getter]
    fn is_indexed(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.is_indexed())
    }

    fn event_count(&self, py: Python<'_>) -> PyResult<u64> {
        errors::run(py, || self.0.event_count())
    }

    fn trigger_count(&self, py: Python<'_>) -> PyResult<u64> {
        errors::run(py, || self.0.trigger_count())
    }

    fn time_range(&self, py: Python<'_>) -> PyResult<Option<(i64, i64)>> {
        errors::run(py, || self.0.time_range())
    }

    fn problems(&self, py: Python<'_>) -> PyResult<Vec<ProblemRow>> {
        errors::run(py, || self.0.problems()).map(|problems| problem_rows(&problems))
    }

    fn cut(&self, py: Python<'_>, path: PathBuf, time_range: (Option<i64>, Option<i64>), overwrite: bool) -> PyResult<()> {
        errors::run(py, || self.0.cut(TimeRange::new(time_range.0, time_range.1), path, overwrite))
    }

    fn save_index(&self, py: Python<'_>) -> PyResult<PathBuf> {
        errors::run(py, || self.0.save_index())
    }

    fn triggers(&self, py: Python<'_>) -> PyResult<Batch> {
        errors::run(py, || self.0.triggers()).map(|triggers| Batch::new(triggers.into_record_batch()))
    }

    fn side(&self, py: Python<'_>, name: &str) -> PyResult<PySideStream> {
        let stream = errors::run(py, || self.0.side_stream(name).map_err(|error| error.with_path(self.0.path())))?;
        Ok(PySideStream(stream.kind(), Mutex::new(stream)))
    }

    fn read(&self, py: Python<'_>, selection: PySelection) -> PyResult<Batch> {
        errors::run(py, || self.0.read(&selection.into_selection()?)).map(|events| Batch::new(events.to_record_batch()))
    }

    #[pyo3(signature = (selection, batch_rows=None, rows=None, duration_us=None))]
    fn batches(
        &self,
        py: Python<'_>,
        selection: PySelection,
        batch_rows: Option<usize>,
        rows: Option<usize>,
        duration_us: Option<i64>,
    ) -> PyResult<PyBatches> {
        let mut batches = errors::run(py, || self.0.batches(&selection.into_selection()?))?;
        if let Some(rows) = batch_rows {
            batches = batches.with_about(rows);
        }
        if let Some(rows) = rows {
            batches = batches.with_rows(rows);
        }
        if let Some(duration_us) = duration_us {
            batches = batches.with_duration(duration_us);
        }
        Ok(PyBatches(Mutex::new(batches)))
    }
}

/// An iterator of [`Batch`].
#[pyclass(name = "Batches", module = "evlib._evlib", frozen)]
struct PyBatches(Mutex<Batches>);

#[pymethods]
impl PyBatches {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        let next = errors::run(py, || self.0.lock().unwrap_or_else(PoisonError::into_inner).next().transpose())?;
        Ok(next.map(|events| Batch::new(events.to_record_batch())))
    }
}

/// An iterator of [`Batch`] over a stream beside the events.
#[pyclass(name = "SideStream", module = "evlib._evlib", frozen)]
struct PySideStream(crate::StreamKind, Mutex<crate::SideStream>);

#[pymethods]
impl PySideStream {
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.name()
    }

    fn empty(&self) -> Batch {
        let schema = self.1.lock().unwrap_or_else(PoisonError::into_inner).schema();
        Batch::new(arrow_array::RecordBatch::new_empty(schema))
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        let next = errors::run(py, || self.1.lock().unwrap_or_else(PoisonError::into_inner).next().transpose())?;
        Ok(next.map(Batch::new))
    }
}

/// A recording being written.
#[pyclass(name = "Writer", module = "evlib._evlib", frozen)]
struct PyWriter(Mutex<Option<crate::EventWriter>>);

#[pymethods]
impl PyWriter {
    #[new]
    #[pyo3(signature = (path, format, geometry, overwrite, layout=None, compression=None))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        format: &str,
        geometry: (u32, u32),
        overwrite: bool,
        layout: Option<&str>,
        compression: Option<&str>,
    ) -> PyResult<Self> {
        let writer = errors::run(py, || {
            let mut options = WriteOptions::new(format.parse()?, Geometry::new(geometry.0, geometry.1)?).with_overwrite(overwrite);
            options.layout = layout.map(str::parse).transpose()?;
            options.compression = compression.map(str::parse).transpose()?;
            crate::EventWriter::create_with(path, &options)
        })?;
        Ok(Self(Mutex::new(Some(writer))))
    }

    /// Appends the events of an object with `__arrow_c_stream__`.
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let parts = import(data)?;
        errors::run(py, || {
            let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(writer) = writer.as_mut() else { return Err(crate::Error::invalid("the writer is finished")) };
            parts.iter().try_for_each(|events| writer.write_rows(rows(events)))
        })
    }

    /// Appends the external triggers of an object with `__arrow_c_stream__`.
    fn write_triggers(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let parts = import_triggers(data)?;
        errors::run(py, || {
            let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(writer) = writer.as_mut() else { return Err(crate::Error::invalid("the writer is finished")) };
            parts.iter().try_for_each(|triggers| writer.write_triggers(triggers))
        })
    }

    fn finish(&self, py: Python<'_>) -> PyResult<u64> {
        errors::run(py, || match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(writer) => writer.finish(),
            None => Err(crate::Error::invalid("the writer is finished")),
        })
    }

    /// Drops what was written.
    fn abort(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[pyfunction]
#[pyo3(signature = (path, format=None, geometry=None, threads=None, content=(None, Vec::new(), None, None, None, None, false, None)))]
fn open(
    py: Python<'_>,
    path: PathBuf,
    format: Option<String>,
    geometry: Option<(u32, u32)>,
    threads: Option<usize>,
    content: ContentArguments,
) -> PyResult<PyRecording> {
    let recording = errors::run(py, || {
        let (stream, path_map, time_unit, time_offset_us, pixel_parts, text_columns, memory_map, time_source) = content.clone();
        let format = format.as_deref().map(str::parse::<Format>).transpose()?;
        let geometry = geometry.map(|(width, height)| Geometry::new(width, height)).transpose()?;
        let time_unit = time_unit.as_deref().map(TimeUnit::from_name).transpose()?;
        let time_source = time_source.as_deref().map(TimeSource::from_name).transpose()?;
        OpenOptions {
            format,
            geometry,
            threads,
            stream,
            path_map,
            time_unit,
            time_offset_us,
            pixel_parts,
            text_columns,
            memory_map,
            time_source,
        }
        .open(&path)
    })?;
    Ok(PyRecording(recording, (path, format, geometry, threads, content)))
}

#[pyfunction]
fn identify(py: Python<'_>, path: PathBuf) -> PyResult<(&'static str, &'static str, Vec<String>)> {
    let identity = errors::run(py, || crate::identify(path))?;
    Ok((identity.format.name(), identity.confidence.name(), identity.reasons))
}

/// The numbers of a small HDF5 data set: bytes, shape, type.
#[pyfunction]
fn read_array<'py>(py: Python<'py>, path: PathBuf, dataset: &str) -> PyResult<(Bound<'py, PyBytes>, Vec<u64>, String)> {
    let found = errors::run(py, || crate::format::hdf5::whole::read(path, dataset))?;
    Ok((PyBytes::new(py, &found.bytes), found.shape, found.dtype))
}

#[pymodule(gil_used = false)]
mod _evlib {
    #[pymodule_export]
    use super::{Batch, PyBatches, PyRecording, PySideStream, PyWriter, Rebatched, identify, open, read_array, rebatch};

    #[pymodule_export]
    use super::buffer::LogMemory;

    #[pymodule_export]
    use super::log::{
        LogChannel, LogMerge, LogRecords, LogTable, LogTail, LogWriter, log_channels, log_decode_array, log_decode_arrow,
        log_decode_events, log_encode_array, log_encode_arrow, log_events_header, log_forked, log_repair,
    };

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "the name that Python gives it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
