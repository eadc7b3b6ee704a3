//! The observation log: what `evlib.oblog` and `evlib.codecs` are made of. Arrays are encoded and decoded here, other
//! items by the codec's own methods.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::{RecordBatch, RecordBatchIterator};
use arrow_schema::SchemaRef;
use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyList, PyMemoryView, PySlice, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit, intern};

use super::arrow::{Batch, import_any, stream};
use super::buffer::{LogMemory, View};
use super::errors::{self, run};
use crate::codec::{ArrayHeader, EventsLayout, array_prefix, decode_arrow, encode_arrow};
use crate::error::{Error, Result};
use crate::log::{Channel, Flush, Log, Memory, Merge, Payload, Policy, Record, Stamp, Tail, Verify, Writer, WriterOptions};
use crate::schema::Columns;

/// Payloads up to this size are copied into the queue without letting other Python threads run.
const SMALL: usize = 32 << 10;

/// Counts the forks of this process: threads of its writers are not in the child.
static FORKS: AtomicU64 = AtomicU64::new(0);

#[pyfunction]
pub(super) fn log_forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// What is needed of NumPy.
struct Numpy {
    ndarray: Py<PyType>,
    asarray: Py<PyAny>,
    array: Py<PyAny>,
    /// `evlib.codecs`: the text of a type, and the type of a text.
    dtype_text: Py<PyAny>,
    dtype_of: Py<PyAny>,
}

static NUMPY: PyOnceLock<Numpy> = PyOnceLock::new();

fn numpy(py: Python<'_>) -> PyResult<&Numpy> {
    NUMPY.get_or_try_init(py, || {
        let module = py.import("numpy")?;
        let ours = py.import("evlib._dtypes")?;
        let get = |module: &Bound<'_, PyModule>, name: &str| module.getattr(name).map(Bound::unbind);
        Ok(Numpy {
            ndarray: module.getattr("ndarray")?.cast_into::<PyType>()?.unbind(),
            asarray: get(&module, "asarray")?,
            array: get(&module, "array")?,
            dtype_text: get(&ours, "text_of")?,
            dtype_of: get(&ours, "type_of")?,
        })
    })
}

/// The last type of an array and its text.
type KnownType = Option<(Py<PyAny>, String)>;

/// What stands in front of an array's data, and its bytes.
fn encode_array(item: &Bound<'_, PyAny>, known: &mut KnownType) -> PyResult<(Vec<u8>, View)> {
    let py = item.py();
    let numpy = numpy(py)?;
    let mut array = item.clone();
    if !item.is_instance(numpy.ndarray.bind(py))? {
        array = numpy.asarray.bind(py).call1((item,))?;
    }
    let dtype = array.getattr(intern!(py, "dtype"))?;
    if !known.as_ref().is_some_and(|(known, _)| known.is(&dtype)) {
        let text = numpy.dtype_text.bind(py).call1((&dtype,))?.extract()?;
        *known = Some((dtype.unbind(), text));
    }
    let view = if let Ok(view) = View::new(&array) {
        view
    } else {
        // Not in C order. Unlike `ascontiguousarray`, this keeps arrays without dimensions.
        let options = PyDict::new(py);
        options.set_item(intern!(py, "order"), intern!(py, "C"))?;
        View::new(&numpy.array.bind(py).call((array,), Some(&options))?)?
    };
    let text = known.as_ref().map_or("", |known| known.1.as_str());
    Ok((array_prefix(text, view.shape()), view))
}

/// The last header of an array, and what was made of it.
struct KnownHeader {
    bytes: Vec<u8>,
    dtype: Py<PyAny>,
    shape: Py<PyTuple>,
    align: usize,
    data_len: usize,
}

impl KnownHeader {
    fn read(py: Python<'_>, payload: &[u8]) -> PyResult<Self> {
        let header = ArrayHeader::parse(payload).map_err(|error| errors::exception(py, &error))?;
        let dtype = numpy(py)?.dtype_of.bind(py).call1((header.dtype,))?;
        let item: u64 = dtype.getattr(intern!(py, "itemsize"))?.extract()?;
        // NumPy has limits for arrays without values too.
        let span = header.shape.iter().try_fold(item.max(1), |len, extent| len.checked_mul((*extent).max(1)));
        if span.is_none_or(|span| isize::try_from(span).is_err()) {
            let error = Error::format("not a payload of the codec `numpy`")
                .expecting("extents of an array that fits the address space")
                .but_found(format!("{:?}", header.shape));
            return Err(errors::exception(py, &error));
        }
        let data_len = header.shape.iter().fold(item, |len, extent| len * extent) as usize;
        Ok(Self {
            bytes: payload.get(..header.len).unwrap_or_default().to_vec(),
            align: dtype.getattr(intern!(py, "alignment"))?.extract()?,
            dtype: dtype.unbind(),
            shape: PyTuple::new(py, &header.shape)?.unbind(),
            data_len,
        })
    }
}

/// The array of a payload, which lies at `start` in the buffer of `memory`.
fn decode_array<'py>(
    memory: &Bound<'py, PyAny>,
    payload: &[u8],
    start: usize,
    known: &mut Option<KnownHeader>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = memory.py();
    if !known.as_ref().is_some_and(|known| payload.starts_with(&known.bytes)) {
        *known = Some(KnownHeader::read(py, payload)?);
    }
    let Some(header) = known else { return Err(PyTypeError::new_err("no header")) };
    let data = payload.get(header.bytes.len()..).unwrap_or_default();
    if data.len() != header.data_len {
        let error = Error::format("not a payload of the codec `numpy`")
            .expecting(format!("{} bytes of data", header.data_len))
            .but_found(data.len().to_string());
        return Err(errors::exception(py, &error));
    }
    let place = start + header.bytes.len();
    let array = numpy(py)?.ndarray.bind(py).call1((&header.shape, &header.dtype, memory, place))?;
    if data.as_ptr().addr().is_multiple_of(header.align.max(1)) {
        return Ok(array);
    }
    let copy = array.call_method0(intern!(py, "copy"))?;
    copy.getattr(intern!(py, "flags"))?.setattr(intern!(py, "writeable"), false)?;
    Ok(copy)
}

/// Header and data of an array, as the codec `numpy` stores them, with the data at a multiple of 64.
#[pyfunction]
pub(super) fn log_encode_array<'py>(item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = item.py();
    let (prefix, view) = encode_array(item, &mut None)?;
    let data = view.bytes();
    let payload = py.detach(|| Payload::from_parts(&prefix, data));
    Decoding::default().view(py, &payload)
}

/// The last header that [`log_decode_array`] has seen.
static KNOWN: Mutex<Option<KnownHeader>> = Mutex::new(None);

/// The array of a payload: a view of it, or a copy where it is not aligned.
#[pyfunction]
pub(super) fn log_decode_array<'py>(payload: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let view = View::new(payload)?;
    // Taken out for the call, which may run Python.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).take();
    let array = decode_array(payload, view.bytes(), 0, &mut known);
    *KNOWN.lock().unwrap_or_else(PoisonError::into_inner) = known;
    array
}

/// The payload that a buffer is a view of; a copy of the bytes where it is none of a log.
fn payload_of(view: &Bound<'_, PyAny>) -> PyResult<Payload> {
    let bytes = View::new(view)?;
    let owner = view.getattr_opt(intern!(view.py(), "obj"))?;
    if let Some(Ok(memory)) = owner.map(Bound::cast_into::<LogMemory>) {
        let memory = &memory.get().0;
        let start = bytes.bytes().as_ptr().addr().checked_sub(memory.bytes().as_ptr().addr());
        if let Some(payload) = start.and_then(|start| Payload::new(Arc::clone(memory), start, bytes.bytes().len())) {
            return Ok(payload);
        }
    }
    Ok(Payload::from_aligned(bytes.bytes()))
}

/// The events of a payload of the codec `events`.
#[pyfunction]
pub(super) fn log_decode_events(payload: &Bound<'_, PyAny>) -> PyResult<Batch> {
    let py = payload.py();
    let payload = payload_of(payload)?;
    let decoded = EventsLayout::parse(payload.bytes()).and_then(|layout| layout.columns(&payload, Columns::ALL));
    let events = decoded.map_err(|error| errors::exception(py, &error))?;
    Ok(Batch::new(events.to_record_batch()))
}

/// What stands in front of the columns of so many events, with these earliest and latest times.
#[pyfunction]
pub(super) fn log_events_header(py: Python<'_>, rows: usize, first_us: i64, last_us: i64) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &EventsLayout::new(rows, (first_us, last_us)).header())
}

/// A table on its way out of a log.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct LogTable {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

#[pymethods]
impl LogTable {
    /// The schema the reader wishes for is ignored, as the interface allows.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(&self, py: Python<'py>, requested_schema: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyCapsule>> {
        drop(requested_schema);
        let batches = self.batches.clone().into_iter().map(Ok);
        stream(py, Box::new(RecordBatchIterator::new(batches, Arc::clone(&self.schema))))
    }
}

/// The Arrow IPC stream of an object with `__arrow_c_stream__`.
#[pyfunction]
pub(super) fn log_encode_arrow(data: &Bound<'_, PyAny>) -> PyResult<LogMemory> {
    let (schema, batches) = import_any(data)?;
    let stream = run(data.py(), || encode_arrow(&schema, &batches))?;
    Ok(LogMemory(Arc::new(Memory::Owned(stream))))
}

/// The table of an Arrow IPC stream, whose columns are views of it.
#[pyfunction]
pub(super) fn log_decode_arrow(payload: &Bound<'_, PyAny>) -> PyResult<LogTable> {
    let py = payload.py();
    let payload = payload_of(payload)?;
    let (schema, batches) = decode_arrow(&payload).map_err(|error| errors::exception(py, &error))?;
    Ok(LogTable { schema, batches })
}

/// How payloads become items.
enum Decoder {
    /// Arrays, here.
    Array,
    /// A function of a memoryview.
    Call(Py<PyAny>),
}

impl Decoder {
    /// Asks `resolve` for the function of a codec; None stands for arrays.
    fn resolve(resolve: &Bound<'_, PyAny>, codec: (&str, u32, &[(String, String)])) -> PyResult<Self> {
        let (name, version, metadata) = codec;
        let decode = resolve.call1((name, version, metadata.to_vec()))?;
        Ok(if decode.is_none() { Self::Array } else { Self::Call(decode.unbind()) })
    }
}

/// What is kept between the items of a channel.
#[derive(Default)]
struct Decoding {
    header: Option<KnownHeader>,
    /// Memory of the last payload, and a view of all of it.
    memory: Option<(Arc<Memory>, Py<LogMemory>, Py<PyMemoryView>)>,
}

impl Decoding {
    fn memory<'py>(&mut self, py: Python<'py>, payload: &Payload) -> PyResult<(Bound<'py, LogMemory>, Bound<'py, PyMemoryView>)> {
        if let Some((known, memory, view)) = &self.memory
            && Arc::ptr_eq(known, payload.memory())
            && payload.start() + payload.bytes().len() <= view.bind(py).len()?
        {
            return Ok((memory.bind(py).clone(), view.bind(py).clone()));
        }
        let memory = Bound::new(py, LogMemory(Arc::clone(payload.memory())))?;
        let view = PyMemoryView::from(memory.as_any())?;
        self.memory = Some((Arc::clone(payload.memory()), memory.clone().unbind(), view.clone().unbind()));
        Ok((memory, view))
    }

    /// A view of a payload.
    fn view<'py>(&mut self, py: Python<'py>, payload: &Payload) -> PyResult<Bound<'py, PyAny>> {
        let (_, view) = self.memory(py, payload)?;
        let start = isize::try_from(payload.start())?;
        view.get_item(PySlice::new(py, start, start + isize::try_from(payload.bytes().len())?, 1))
    }

    fn item<'py>(&mut self, py: Python<'py>, decoder: &Decoder, record: &Record) -> PyResult<Bound<'py, PyAny>> {
        match decoder {
            Decoder::Array => {
                let (memory, _) = self.memory(py, &record.payload)?;
                decode_array(memory.as_any(), record.payload.bytes(), record.payload.start(), &mut self.header)
            }
            Decoder::Call(decode) => decode.bind(py).call1((self.view(py, &record.payload)?,)),
        }
    }
}

/// Takes what is kept for the time of a call, which may run Python and come here again.
fn with_decoding<T>(kept: &Mutex<Decoding>, work: impl FnOnce(&mut Decoding) -> PyResult<T>) -> PyResult<T> {
    let mut decoding = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    let result = work(&mut decoding);
    *kept.lock().unwrap_or_else(PoisonError::into_inner) = decoding;
    result
}

fn policy(name: &str) -> Result<Policy> {
    match name {
        "block" => Ok(Policy::Block),
        "drop_oldest" => Ok(Policy::DropOldest),
        "error" => Ok(Policy::Error),
        other => Err(Error::invalid("unknown policy").expecting("`block`, `drop_oldest` or `error`").but_found(format!("`{other}`"))),
    }
}

fn flush(name: &str) -> Result<Flush> {
    match name {
        "batch" => Ok(Flush::Batch),
        "record" => Ok(Flush::Record),
        other => Err(Error::invalid("unknown way to flush").expecting("`batch` or `record`").but_found(format!("`{other}`"))),
    }
}

fn verify(name: &str) -> Result<Verify> {
    match name {
        "head" => Ok(Verify::Head),
        "first" => Ok(Verify::First),
        "all" => Ok(Verify::All),
        other => Err(Error::invalid("unknown way to verify").expecting("`head`, `first` or `all`").but_found(format!("`{other}`"))),
    }
}

/// Name, version, metadata, MCAP encoding, MCAP schema (name, encoding, data).
type CodecArguments = (String, u32, Vec<(String, String)>, Option<String>, Option<(String, String, Vec<u8>)>);

/// Writes one channel: call it with an item.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct LogWriter {
    writer: Writer,
    /// `None` for arrays, which are encoded here.
    encode: Option<Py<PyAny>>,
    /// Part of what `encode` gives that is aligned in the file.
    aligned: usize,
    known: Mutex<KnownType>,
    forks: u64,
}

impl LogWriter {
    fn put(&self, py: Python<'_>, parts: &[&[u8]], aligned: usize, stamp: Stamp) -> PyResult<()> {
        if self.forks != FORKS.load(Ordering::Relaxed) {
            let error = Error::invalid("this writer belongs to the process that was forked").hint("open a log of its own in the child");
            return Err(errors::exception(py, &error));
        }
        let small = parts.iter().map(|part| part.len()).sum::<usize>() <= SMALL;
        let taken = if small { self.writer.try_write(parts, aligned, stamp) } else { Ok(false) };
        let written = match taken {
            Ok(true) => Ok(()),
            Ok(false) => py.detach(|| self.writer.write_aligned(parts, aligned, stamp)),
            Err(error) => Err(error),
        };
        written.map_err(|error| self.exception(py, &error))
    }

    /// An error of the disk says how many records reached the file.
    fn exception(&self, py: Python<'_>, error: &Error) -> PyErr {
        let made = errors::exception(py, error);
        if error.io_error().is_none() {
            return made;
        }
        let counters = self.writer.counters();
        let attributes = [made.value(py).getattr("errno"), made.value(py).getattr("strerror")];
        let [Ok(errno), Ok(text)] = attributes else { return made };
        let message = format!("{text}: {} of {} records reached the file", counters.written, counters.accepted);
        let class = py.import("evlib.exceptions").and_then(|module| module.getattr("LogWriteError"));
        let raised = class.and_then(|class| class.call1((errno, message, self.writer.path().as_os_str())));
        let raised = raised.and_then(|raised| raised.setattr("records_written", counters.written).map(|()| raised));
        raised.map_or_else(|failure| failure, PyErr::from_value)
    }
}

#[pymethods]
impl LogWriter {
    #[new]
    #[pyo3(signature = (path, channel, codec, encode, aligned, policy, queue_bytes, flush, durable, direct))]
    #[expect(clippy::too_many_arguments, reason = "as the options of a writer are")]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        channel: &str,
        codec: CodecArguments,
        encode: Option<Py<PyAny>>,
        aligned: usize,
        policy: &str,
        queue_bytes: usize,
        flush: &str,
        durable: bool,
        direct: bool,
    ) -> PyResult<Self> {
        let writer = run(py, || {
            let (name, version, metadata, encoding, schema) = codec;
            let mut options = WriterOptions::new(name, version)
                .with_policy(self::policy(policy)?)
                .with_queue_bytes(queue_bytes)
                .with_flush(self::flush(flush)?)
                .with_durable(durable)
                .with_direct(direct);
            (options.metadata, options.encoding, options.schema) = (metadata, encoding, schema);
            Log::new(path).writer(channel, &options)
        })?;
        Ok(Self { writer, encode, aligned, known: Mutex::new(None), forks: FORKS.load(Ordering::Relaxed) })
    }

    #[pyo3(signature = (item, *, timestamp=None, sensor_time=None))]
    fn __call__(&self, py: Python<'_>, item: &Bound<'_, PyAny>, timestamp: Option<u64>, sensor_time: Option<u64>) -> PyResult<()> {
        let log_time_ns = timestamp.unwrap_or_else(|| Stamp::now().log_time_ns);
        let stamp = Stamp { log_time_ns, sensor_time_ns: sensor_time.unwrap_or(log_time_ns) };
        let Some(encode) = &self.encode else {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner).take();
            let encoded = encode_array(item, &mut known);
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
            let (prefix, view) = encoded?;
            return self.put(py, &[&prefix, view.bytes()], 1, stamp);
        };
        let encoded = encode.bind(py).call1((item,))?;
        let views: Vec<View> = if encoded.is_instance_of::<PyList>() || encoded.is_instance_of::<PyTuple>() {
            encoded.try_iter()?.map(|part| View::new(&part?)).collect::<PyResult<_>>()?
        } else {
            vec![View::new(&encoded)?]
        };
        let parts: Vec<&[u8]> = views.iter().map(View::bytes).collect();
        self.put(py, &parts, self.aligned, stamp)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.writer.flush()).map_err(|error| self.exception(py, &error))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.forks != FORKS.load(Ordering::Relaxed) {
            return Ok(());
        }
        py.detach(|| self.writer.close()).map(|_| ()).map_err(|error| self.exception(py, &error))
    }

    #[getter]
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // A writer that takes its records to the system itself has what is locked here meanwhile.
        let counters = py.detach(|| self.writer.counters());
        let numbers =
            (counters.accepted, counters.written, counters.dropped, counters.rejected, counters.queued_bytes, counters.file_bytes);
        py.import("evlib.oblog")?.getattr("Counters")?.call1(numbers)
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.writer.path().to_path_buf()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.encode.as_ref().map_or(Ok(()), |encode| visit.call(encode))
    }
}

/// Records, bytes, reason, offset of the first.
type RecoveryRow = (u64, u64, Option<String>, Option<u64>);
/// Path, bytes, records, codec, version, metadata, created, times, closed, recovery.
type FileRow = (PathBuf, u64, u64, String, u32, Vec<(String, String)>, u64, Option<(u64, u64)>, bool, RecoveryRow);

fn recovery_row(recovery: &crate::log::Recovery) -> RecoveryRow {
    (recovery.records, recovery.bytes, recovery.reason.clone(), recovery.first_offset)
}

/// A channel as it was when it was opened.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct LogChannel {
    channel: Arc<Channel>,
    decoders: Vec<Decoder>,
    kept: Mutex<Decoding>,
}

impl LogChannel {
    fn item<'py>(&self, py: Python<'py>, at: u64) -> PyResult<(u64, Bound<'py, PyAny>)> {
        let record = self.channel.get(at).map_err(|error| errors::exception(py, &error))?;
        let part = self.channel.place(at).map_or(0, |place| place.0);
        let Some(decoder) = self.decoders.get(part) else { return Err(PyIndexError::new_err("no such record")) };
        let item = with_decoding(&self.kept, |decoding| decoding.item(py, decoder, &record))?;
        Ok((record.log_time_ns, item))
    }
}

#[pymethods]
impl LogChannel {
    /// `resolve` gives the function that decodes for a codec's name, version and metadata; None for arrays.
    #[new]
    fn new(py: Python<'_>, path: PathBuf, channel: &str, verify: &str, resolve: &Bound<'_, PyAny>) -> PyResult<Self> {
        let channel = run(py, || Log::new(path).channel(channel, self::verify(verify)?))?;
        let codecs = (0..channel.parts()).filter_map(|part| channel.codec(part));
        let decoders = codecs.map(|codec| Decoder::resolve(resolve, codec)).collect::<PyResult<_>>()?;
        Ok(Self { channel: Arc::new(channel), decoders, kept: Mutex::default() })
    }

    fn __len__(&self) -> usize {
        usize::try_from(self.channel.len()).unwrap_or(usize::MAX)
    }

    /// Time and item of a record by its number.
    fn get<'py>(&self, py: Python<'py>, at: u64) -> PyResult<(u64, Bound<'py, PyAny>)> {
        self.item(py, at)
    }

    /// Number in its file, time, sensor's time and payload of a record by its number.
    fn record<'py>(&self, py: Python<'py>, at: u64) -> PyResult<(u64, u64, u64, Bound<'py, PyAny>)> {
        let record = self.channel.get(at).map_err(|error| errors::exception(py, &error))?;
        let view = with_decoding(&self.kept, |decoding| decoding.view(py, &record.payload))?;
        Ok((record.sequence, record.log_time_ns, record.sensor_time_ns, view))
    }

    /// Iterator over records by their numbers.
    fn records(this: Py<Self>, start: u64, stop: u64) -> LogRecords {
        let runs = if start < stop { std::iter::once(start..stop).collect() } else { Vec::new() };
        LogRecords { channel: this, rest: Mutex::new((runs.into_iter(), 0..0)) }
    }

    /// Iterator over records with times in `start_ns..stop_ns`.
    fn range(this: Py<Self>, py: Python<'_>, start_ns: u64, stop_ns: Option<u64>) -> LogRecords {
        let channel = Arc::clone(&this.get().channel);
        let runs = py.detach(|| channel.runs(start_ns, stop_ns));
        LogRecords { channel: this, rest: Mutex::new((runs.into_iter(), 0..0)) }
    }

    fn recovery(&self) -> RecoveryRow {
        recovery_row(self.channel.recovery())
    }

    fn files(&self, py: Python<'_>) -> Vec<FileRow> {
        let files = py.detach(|| self.channel.files());
        let rows = files.into_iter().map(|file| {
            let recovery = recovery_row(&file.recovery);
            let (codec, version) = (file.codec, file.codec_version);
            (file.path, file.bytes, file.records, codec, version, file.metadata, file.created_ns, file.times_ns, file.closed, recovery)
        });
        rows.collect()
    }

    /// What is wrong, in words, after a look at everything.
    fn verify(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.channel.verify())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.decoders.iter().try_for_each(|decoder| match decoder {
            Decoder::Array => Ok(()),
            Decoder::Call(decode) => visit.call(decode),
        })
    }
}

/// Iterator of times and items; after an error it goes on with the next record.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct LogRecords {
    channel: Py<LogChannel>,
    /// Runs of numbers that are still to come, and the one that is being given.
    rest: Mutex<(std::vec::IntoIter<Range<u64>>, Range<u64>)>,
}

#[pymethods]
impl LogRecords {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<(u64, Bound<'py, PyAny>)>> {
        let at = {
            let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
            let (runs, run) = &mut *rest;
            while run.is_empty() {
                let Some(next) = runs.next() else { return Ok(None) };
                *run = next;
            }
            run.next()
        };
        at.map(|at| self.channel.get().item(py, at)).transpose()
    }
}

/// Iterator of channel number, time and item over several channels, by time.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct LogMerge {
    channels: Vec<Py<LogChannel>>,
    merge: Mutex<Merge>,
}

#[pymethods]
impl LogMerge {
    #[new]
    fn new(channels: Vec<Py<LogChannel>>) -> Self {
        let merge = Merge::of(channels.iter().map(|channel| Arc::clone(&channel.get().channel)).collect());
        Self { channels, merge: Mutex::new(merge) }
    }

    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<(usize, u64, Bound<'py, PyAny>)>> {
        let place = self.merge.lock().unwrap_or_else(PoisonError::into_inner).next_place();
        let Some((number, at)) = place else { return Ok(None) };
        let Some(channel) = self.channels.get(number) else { return Ok(None) };
        let (time, item) = channel.get().item(py, at)?;
        Ok(Some((number, time, item)))
    }
}

/// Follows a channel.
#[pyclass(module = "evlib._evlib", frozen)]
pub(super) struct LogTail {
    inner: Mutex<Tail>,
    resolve: Py<PyAny>,
    state: Mutex<Option<(TailCodec, Arc<Decoder>)>>,
    kept: Mutex<Decoding>,
}

/// Name, version and metadata of a codec.
type TailCodec = (String, u32, Vec<(String, String)>);

impl LogTail {
    fn give<'py>(&self, py: Python<'py>, next: Option<(Record, TailCodec)>) -> PyResult<Option<(u64, Bound<'py, PyAny>)>> {
        let Some((record, codec)) = next else { return Ok(None) };
        let known = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .filter(|state| state.0 == codec)
            .map(|state| Arc::clone(&state.1));
        let decoder = if let Some(decoder) = known {
            decoder
        } else {
            let decoder = Arc::new(Decoder::resolve(self.resolve.bind(py), (&codec.0, codec.1, &codec.2))?);
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some((codec, Arc::clone(&decoder)));
            decoder
        };
        let item = with_decoding(&self.kept, |decoding| decoding.item(py, &decoder, &record))?;
        Ok(Some((record.log_time_ns, item)))
    }
}

fn with_codec(tail: &Tail, record: Option<Record>) -> Option<(Record, TailCodec)> {
    let (name, version, metadata) = tail.codec().unwrap_or_default();
    record.map(|record| (record, (name.to_owned(), version, metadata.to_vec())))
}

#[pymethods]
impl LogTail {
    /// After each record it waits awake for `spin_s` seconds, then asleep.
    #[new]
    fn new(py: Python<'_>, path: PathBuf, channel: &str, from_start: bool, spin_s: f64, resolve: Py<PyAny>) -> PyResult<Self> {
        let spin = Duration::try_from_secs_f64(spin_s.max(0.0)).unwrap_or(Duration::MAX);
        let tail = run(py, || Log::new(path).tail(channel, from_start))?.with_spin(spin);
        Ok(Self { inner: Mutex::new(tail), resolve, state: Mutex::new(None), kept: Mutex::default() })
    }

    /// The next record, waiting at most so many seconds; None if none comes.
    fn next<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Option<(u64, Bound<'py, PyAny>)>> {
        let timeout = Duration::try_from_secs_f64(timeout.max(0.0)).unwrap_or(Duration::MAX);
        let next = run(py, || {
            let mut tail = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let record = tail.next_within(Some(timeout))?;
            Ok(with_codec(&tail, record))
        })?;
        self.give(py, next)
    }

    /// The next record if it is there; takes the notices of the descriptor.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Option<(u64, Bound<'py, PyAny>)>> {
        let next = run(py, || {
            let mut tail = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            tail.drain();
            let record = tail.poll()?;
            Ok(with_codec(&tail, record))
        })?;
        self.give(py, next)
    }

    /// A descriptor that becomes readable when there may be something new.
    fn fileno(&self, py: Python<'_>) -> Option<i32> {
        py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).descriptor())
    }

    /// Bytes that belonged to nothing whole and were passed over.
    fn lost_bytes(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.inner.lock().unwrap_or_else(PoisonError::into_inner).lost_bytes())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.resolve)
    }
}

/// Path of the new file, its records, and what was left out.
#[pyfunction]
pub(super) fn log_repair(py: Python<'_>, file: PathBuf, folder: PathBuf) -> PyResult<(PathBuf, u64, RecoveryRow)> {
    let repaired = run(py, || crate::log::repair(file, folder))?;
    Ok((repaired.path, repaired.records, recovery_row(&repaired.left_out)))
}

#[pyfunction]
pub(super) fn log_channels(py: Python<'_>, path: PathBuf) -> PyResult<Vec<String>> {
    run(py, || Log::new(path).channels())
}
