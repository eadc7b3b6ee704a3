//! Batches of Python's own making, cut as those of recordings are.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use rayon::ThreadPool;

use super::arrow::{Batch, import, rows};
use super::errors;
use crate::columns::EventColumns;
use crate::error::{Error, Result};
use crate::reader::BatchStream;
use crate::{Batches, Columns};

/// An error that Python raised, on its way through the crate.
type Raised = Arc<Mutex<Option<PyErr>>>;

/// A Python iterator of objects with `__arrow_c_stream__`.
struct Parts {
    iterator: Py<PyAny>,
    raised: Raised,
}

impl Parts {
    fn pull(&self, py: Python<'_>) -> PyResult<Option<EventColumns>> {
        let next = py.import("builtins")?.getattr("next")?;
        loop {
            let part = next.call1((self.iterator.bind(py), py.None()))?;
            if part.is_none() {
                return Ok(None);
            }
            let mut events = Vec::new();
            for batch in &import(&part)? {
                let rows = rows(batch);
                events.push(errors::run(py, || EventColumns::from_slices(rows.x, rows.y, rows.t, rows.p))?);
            }
            events.retain(|events| !events.is_empty());
            if !events.is_empty() {
                return Ok(Some(EventColumns::concat(events, Columns::ALL)));
            }
        }
    }
}

impl BatchStream for Parts {
    fn next(&mut self, _: usize, _: &ThreadPool) -> Result<Option<EventColumns>> {
        Python::attach(|py| self.pull(py)).map_err(|error| {
            *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Error::invalid("the iterator raised an error")
        })
    }
}

/// An iterator of [`Batch`] over the events of a Python iterator.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct Rebatched {
    batches: Mutex<Batches>,
    raised: Raised,
}

#[pymethods]
impl Rebatched {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        let next = errors::run(py, || self.batches.lock().unwrap_or_else(PoisonError::into_inner).next().transpose());
        match self.raised.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(next?.map(|events| Batch::new(events.to_record_batch()))),
        }
    }
}

/// Cuts the events of an iterator of objects with `__arrow_c_stream__` into batches of `rows` rows, or of `duration_us`
/// microseconds.
#[pyfunction]
#[pyo3(signature = (parts, rows=None, duration_us=None))]
pub(super) fn rebatch(py: Python<'_>, parts: Py<PyAny>, rows: Option<usize>, duration_us: Option<i64>) -> PyResult<Rebatched> {
    let raised = Raised::default();
    let stream = Parts { iterator: parts, raised: Arc::clone(&raised) };
    let mut batches = errors::run(py, || Batches::over(Box::new(stream)))?;
    if let Some(rows) = rows {
        batches = batches.with_rows(rows);
    }
    if let Some(duration_us) = duration_us {
        batches = batches.with_duration(duration_us);
    }
    Ok(Rebatched { batches: Mutex::new(batches), raised })
}
