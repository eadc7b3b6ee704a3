//! Python's buffer protocol: memory of a log for Python, and bytes of Python's objects for the log.
#![expect(clippy::needless_pass_by_value, reason = "the signature that PyO3 asks for")]
#![expect(unsafe_code, reason = "the buffer protocol")]

use std::ffi::c_int;
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::log::Memory;

/// A mapped file of a log, or memory in its place: what arrays and memoryviews are views of. It is unmapped when the
/// last of them is gone.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct LogMemory(pub(super) Arc<Memory>);

#[pymethods]
impl LogMemory {
    fn __len__(&self) -> usize {
        self.0.bytes().len()
    }

    /// # Safety
    /// Called by Python, with a place for the view.
    unsafe fn __getbuffer__(this: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes = this.get().0.bytes();
        let len = ffi::Py_ssize_t::try_from(bytes.len()).map_err(|_| PyBufferError::new_err("more bytes than a view can have"))?;
        // SAFETY: Python gives a place for the view. The bytes live as long as this object, to which the view gets a
        // reference; they are given out as read-only.
        let failed = unsafe { ffi::PyBuffer_FillInfo(view, this.as_ptr(), bytes.as_ptr().cast_mut().cast(), len, 1, flags) } != 0;
        if failed { Err(PyErr::fetch(this.py())) } else { Ok(()) }
    }
}

/// The bytes of an object, held as long as this lives.
///
/// Another thread may write to them meanwhile, as to any array that is being written to a file: what is stored is then
/// a mixture, with a checksum that fits it.
pub(super) struct View {
    /// In a place of its own: some fields point to others.
    buffer: Box<ffi::Py_buffer>,
}

impl View {
    /// The bytes of an object in C order; a `BufferError` if they do not lie so.
    pub(super) fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut buffer = Box::new(ffi::Py_buffer::new());
        // SAFETY: a live object, and a place for the view, which is released when this is dropped.
        let failed = unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *buffer, ffi::PyBUF_C_CONTIGUOUS) } != 0;
        if failed { Err(PyErr::fetch(object.py())) } else { Ok(Self { buffer }) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let len = usize::try_from(self.buffer.len).unwrap_or(0);
        if len == 0 || self.buffer.buf.is_null() {
            return &[];
        }
        // SAFETY: the exporter keeps `len` bytes there until the view is released. That others may change them is
        // said above; they are only copied and summed up, so that any values will do.
        unsafe { std::slice::from_raw_parts(self.buffer.buf.cast(), len) }
    }

    /// The extents; one, the number of bytes, for what has none.
    pub(super) fn shape(&self) -> impl ExactSizeIterator<Item = u64> {
        let ndim = usize::try_from(self.buffer.ndim).unwrap_or(0);
        let shape = if ndim == 0 || self.buffer.shape.is_null() {
            &[][..]
        } else {
            // SAFETY: an exporter that was asked for the shape gives `ndim` extents, until the view is released.
            unsafe { std::slice::from_raw_parts(self.buffer.shape, ndim) }
        };
        shape.iter().map(|extent| u64::try_from(*extent).unwrap_or(0))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: a view that was filled in `new`, released once. Views live within calls from Python, which hold the
        // interpreter when they end.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.buffer) };
    }
}
