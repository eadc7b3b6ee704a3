//! Events as objects that cross between Rust and Python one by one, to be measured by `boundary.py`.
//!
//! evlib itself has no such class: its events cross as columns. This is what that spares.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// One event.
#[pyclass(frozen, get_all)]
struct Event {
    x: i16,
    y: i16,
    timestamp: i64,
    polarity: i8,
}

#[pymethods]
impl Event {
    #[new]
    fn new(x: i16, y: i16, timestamp: i64, polarity: i8) -> Self {
        Self { x, y, timestamp, polarity }
    }
}

/// The event that stands at this place of every stream here; `boundary.py` makes the same ones.
fn at(number: usize) -> Event {
    let polarity = if number % 2 == 0 { 1 } else { -1 };
    Event { x: (number % 640) as i16, y: (number % 480) as i16, timestamp: number as i64, polarity }
}

/// Makes objects here and gives them in a list.
#[pyfunction]
fn events<'py>(py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyList>> {
    let made = (0..count).map(|number| Bound::new(py, at(number))).collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, made)
}

/// Makes dicts here and gives them in a list.
#[pyfunction]
fn dicts<'py>(py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyList>> {
    let one = |number| {
        let (event, found) = (at(number), PyDict::new(py));
        found.set_item(intern!(py, "x"), event.x)?;
        found.set_item(intern!(py, "y"), event.y)?;
        found.set_item(intern!(py, "timestamp"), event.timestamp)?;
        found.set_item(intern!(py, "polarity"), event.polarity)?;
        Ok(found)
    };
    PyList::new(py, (0..count).map(one).collect::<PyResult<Vec<_>>>()?)
}

fn weigh(x: i64, y: i64, timestamp: i64, polarity: i64) -> i64 {
    x + 3 * y + 5 * timestamp + 7 * polarity
}

/// Takes objects of this module back, and sums up what is in them.
#[pyfunction]
fn sum_of_objects(items: &Bound<'_, PyList>) -> PyResult<i64> {
    items.iter().try_fold(0, |sum, item| {
        let event = item.cast::<Event>()?.get();
        Ok(sum + weigh(event.x.into(), event.y.into(), event.timestamp, event.polarity.into()))
    })
}

/// The same by attributes, of any objects.
#[pyfunction]
fn sum_of_attributes(items: &Bound<'_, PyList>) -> PyResult<i64> {
    let py = items.py();
    items.iter().try_fold(0, |sum, item| {
        let get = |name| item.getattr(name)?.extract::<i64>();
        let (x, y) = (get(intern!(py, "x"))?, get(intern!(py, "y"))?);
        Ok(sum + weigh(x, y, get(intern!(py, "timestamp"))?, get(intern!(py, "polarity"))?))
    })
}

/// The same of dicts.
#[pyfunction]
fn sum_of_dicts(items: &Bound<'_, PyList>) -> PyResult<i64> {
    let py = items.py();
    items.iter().try_fold(0, |sum, item| {
        let get = |name| item.get_item(name)?.extract::<i64>();
        let (x, y) = (get(intern!(py, "x"))?, get(intern!(py, "y"))?);
        Ok(sum + weigh(x, y, get(intern!(py, "timestamp"))?, get(intern!(py, "polarity"))?))
    })
}

#[pymodule]
fn boundary(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Event>()?;
    module.add_function(wrap_pyfunction!(events, module)?)?;
    module.add_function(wrap_pyfunction!(dicts, module)?)?;
    module.add_function(wrap_pyfunction!(sum_of_objects, module)?)?;
    module.add_function(wrap_pyfunction!(sum_of_attributes, module)?)?;
    module.add_function(wrap_pyfunction!(sum_of_dicts, module)?)
}
