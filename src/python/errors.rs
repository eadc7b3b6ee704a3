//! One map from [`crate::Error`] to the exceptions of `evlib.exceptions`.

use pyo3::prelude::*;
use pyo3::types::IntoPyDict;

use crate::error::{Error, ErrorKind, Result};

/// Runs `work` without the GIL and turns its error into an exception.
pub(super) fn run<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| exception(py, &error))
}

pub(super) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    build(py, error).unwrap_or_else(|failure| failure)
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let module = py.import("evlib.exceptions")?;
    let kind = match error.kind() {
        ErrorKind::Io => "io",
        ErrorKind::Format => "format",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Truncated => "truncated",
        ErrorKind::InvalidArgument => "argument",
        ErrorKind::QueueFull => "full",
    };
    let details = [
        ("path", error.path().into_pyobject(py)?.into_any()),
        ("offset", error.offset().into_pyobject(py)?.into_any()),
        ("expected", error.expected().into_pyobject(py)?.into_any()),
        ("found", error.found().into_pyobject(py)?.into_any()),
        ("errno", error.io_error().and_then(errno).into_pyobject(py)?.into_any()),
    ]
    .into_py_dict(py)?;
    let made = module.getattr("_from_rust")?.call((kind, error.to_string()), Some(&details))?;
    Ok(PyErr::from_value(made))
}

/// The system's number of an error; errors that this crate makes itself have none.
fn errno(error: &std::io::Error) -> Option<i32> {
    #[cfg(target_os = "linux")]
    let known = match error.kind() {
        std::io::ErrorKind::IsADirectory => Some(libc::EISDIR),
        std::io::ErrorKind::AlreadyExists => Some(libc::EEXIST),
        std::io::ErrorKind::NotFound => Some(libc::ENOENT),
        _ => None,
    };
    #[cfg(not(target_os = "linux"))]
    let known = match error.kind() {
        // The same on every Unix and in the C runtime of Windows.
        std::io::ErrorKind::IsADirectory => Some(21),
        std::io::ErrorKind::AlreadyExists => Some(17),
        std::io::ErrorKind::NotFound => Some(2),
        _ => None,
    };
    error.raw_os_error().or(known)
}
