"""Extension module: decoders, scans and writers. Use it through `evlib`.

Every call that reads or decodes releases the GIL. Errors are those of `evlib.exceptions`. Times are microseconds.
"""

import sys
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, final, type_check_only

import numpy as np
from typing_extensions import Buffer, CapsuleType

from evlib._scan import Selection
from evlib.oblog import Counters

__all__ = [
    "Batch",
    "Batches",
    "LogChannel",
    "LogMemory",
    "LogMerge",
    "LogRecords",
    "LogTable",
    "LogTail",
    "LogWriter",
    "Rebatched",
    "Recording",
    "SideStream",
    "Writer",
    "__version__",
    "identify",
    "log_channels",
    "log_decode_array",
    "log_decode_arrow",
    "log_decode_events",
    "log_encode_array",
    "log_encode_arrow",
    "log_events_header",
    "log_forked",
    "log_repair",
    "open",
    "read_array",
    "rebatch",
]

__version__: str
"""Version of the crate, which is the package's."""

_Path: TypeAlias = str | PathLike[str]

# code, severity, count, unit, bytes, offset of the first byte, examples
_Problem: TypeAlias = tuple[str, str, int, str, int, int, list[str]]

# Stream, paths of columns, unit of times, microseconds to add, parts of a pixel, columns of text, whether to map, clock
# of times.
_Content: TypeAlias = tuple[
    str | None, list[tuple[str, str]], str | None, int | None, int | None, str | None, bool, str | None
]

# Name, version, metadata, MCAP encoding, MCAP schema (name, encoding, content).
_Codec: TypeAlias = tuple[str, int, list[tuple[str, str]], str | None, tuple[str, str, bytes] | None]

# Records, bytes, reason, offset of the first.
_Recovery: TypeAlias = tuple[int, int, str | None, int | None]

# Path, bytes, records, codec, version, metadata, created, times, closed, recovery.
_LogFile: TypeAlias = tuple[
    Path, int, int, str, int, list[tuple[str, str]], int, tuple[int, int] | None, bool, _Recovery
]

# What decodes for a codec's name, version and metadata; None stands for arrays.
_Resolve: TypeAlias = Callable[[str, int, list[tuple[str, str]]], Callable[[memoryview], Any] | None]

@type_check_only
class _ArrowStream(Protocol):
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

@final
class Batch:
    """Columns on their way to Arrow: Polars, pyarrow and every other reader take the memory as it is."""

    def __len__(self) -> int:
        """Give the number of rows."""

    def __arrow_c_schema__(self) -> CapsuleType:
        """Export the schema, a struct of the columns."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[CapsuleType, CapsuleType]:
        """Export schema and columns without a copy; the schema that the reader wishes for is ignored."""

@final
class Batches:
    """Iterator over the selected events of a recording, in file order, with memory of a few batches."""

    def __iter__(self) -> Self:
        """Give itself."""

    def __next__(self) -> Batch:
        """Decode the next batch."""

@final
class Rebatched:
    """Iterator over the events of another iterator, in batches of other sizes; made by `rebatch`."""

    def __iter__(self) -> Self:
        """Give itself."""

    def __next__(self) -> Batch:
        """Take as many as the next batch needs."""

@final
class Recording:
    """An open recording. Opening reads only the head of the file; made by `open`."""

    def __reduce__(self) -> tuple[Callable[..., Recording], tuple[object, ...]]: ...
    @property
    def format(self) -> str:
        """Name of the format, as `evt3`, `hdf5` or `aedat4`."""

    @property
    def confidence(self) -> str:
        """`certain`, `likely` or `guess`."""

    @property
    def reasons(self) -> list[str]:
        """Why the file is taken for that format."""

    @property
    def geometry(self) -> tuple[int, int] | None:
        """Width and height in pixels, if the caller or the file says."""

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """Header fields in file order."""

    @property
    def streams(self) -> list[tuple[str, str, str, int | None]]:
        """Streams: name, kind, detail, rows."""

    @property
    def is_indexed(self) -> bool:
        """Whether the segment index is there already."""

    def event_count(self) -> int:
        """Count the events. Costs the index pass, once."""

    def trigger_count(self) -> int:
        """Count the external triggers. Costs the index pass, once."""

    def time_range(self) -> tuple[int, int] | None:
        """Find the earliest and latest event time. Costs the index pass, once, and two segments."""

    def problems(self) -> list[_Problem]:
        """List what decoding skips, drops or repairs. Costs the index pass, once.

        Each is code, severity, count, unit of the count, bytes, offset of the first byte, and a few examples.
        """

    def cut(self, path: _Path, time_range: tuple[int | None, int | None], overwrite: bool) -> None:
        """Copy the part with the events of a time range to a new file, word for word."""

    def save_index(self) -> Path:
        """Save the segment index beside the recording and return its path."""

    def triggers(self) -> Batch:
        """Read the external triggers: `id`, `polarity`, `timestamp`."""

    def side(self, name: str) -> SideStream:
        """Read a stream beside the events, by its name or, where there is one of that kind, `imu` or `frames`."""

    def read(self, selection: Selection) -> Batch:
        """Read the selected events, decoded in parallel into one set of columns."""

    def batches(
        self,
        selection: Selection,
        batch_rows: int | None = None,
        rows: int | None = None,
        duration_us: int | None = None,
    ) -> Batches:
        """Read the selected events batch by batch.

        Of the sizes the last that is given counts: `batch_rows` rows, about; exactly `rows` rows but for the last
        batch; or time windows of `duration_us`.
        """

@final
class SideStream:
    """Iterator over a stream beside the events, in file order, with memory of a few batches."""

    @property
    def kind(self) -> str:
        """`imu`, `frames`, `triggers` or `other`."""

    def empty(self) -> Batch:
        """Give a batch without rows: what the columns are."""

    def __iter__(self) -> Self:
        """Give itself."""

    def __next__(self) -> Batch:
        """Decode the next batch."""

@final
class Writer:
    """A recording being written; the file gets its name when it is finished."""

    def __new__(
        cls,
        path: _Path,
        format: str,
        geometry: tuple[int, int],
        overwrite: bool,
        layout: str | None = None,
        compression: str | None = None,
    ) -> Self:
        """Start a file of `format` for a sensor of width and height `geometry`.

        Formats are `evt3`, `evt2`, `aedat4`, `hdf5`, `npy`, `npz`, `es`, `atis-bin` and `text`.

        HDF5 has the layouts `dsec` and `prophesee`, the former with compression `zstd`, `gzip` or `none`;
        AEDAT4 has compression `lz4` or `none`.
        """

    def write(self, data: _ArrowStream) -> None:
        """Append events with exactly the columns and types of `evlib._scan.SCHEMA`, without null values."""

    def write_triggers(self, data: _ArrowStream) -> None:
        """Append external triggers with exactly the columns and types that `Recording.triggers` gives."""

    def finish(self) -> int:
        """Complete the file and return the number of events in it."""

    def abort(self) -> None:
        """Drop what was written; nothing after `finish`."""

def open(
    path: _Path,
    format: str | None = None,
    geometry: tuple[int, int] | None = None,
    threads: int | None = None,
    content: _Content = ...,
) -> Recording:
    """Open a recording; format, geometry and content are the file's unless given, threads all processors.

    The content is stream, paths of columns, unit and offset of times, parts of a pixel, columns of text, whether to
    map, clock of times.
    """

def identify(path: _Path) -> tuple[str, str, list[str]]:
    """Tell format, confidence and reasons from the head of a file."""

def rebatch(parts: Iterator[_ArrowStream], rows: int | None = None, duration_us: int | None = None) -> Rebatched:
    """Cut events with exactly the columns of `evlib._scan.SCHEMA` into batches of `rows` rows or `duration_us`."""

def read_array(path: _Path, dataset: str) -> tuple[bytes, list[int], str]:
    """Read the numbers of a small HDF5 data set: bytes in C order, shape, type as NumPy names it."""

@final
class LogMemory:
    """A mapped file of a log, or memory in its place: what arrays and memoryviews are views of."""

    def __len__(self) -> int:
        """Give the number of bytes."""

    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview:
            """Give a read-only view."""

@final
class LogTable:
    """A table on its way out of a log."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> CapsuleType:
        """Export schema and batches without a copy; the schema that the reader wishes for is ignored."""

@final
class LogWriter:
    """Writes one channel of a log: call it with each item. Made by `ObLog.get_writer`."""

    def __new__(
        cls,
        path: _Path,
        channel: str,
        codec: _Codec,
        encode: Callable[[Any], Any] | None,
        aligned: int,
        policy: str,
        queue_bytes: int,
        flush: str,
        durable: bool,
        direct: bool,
    ) -> Self:
        """Start a new file of the channel."""

    def __call__(self, item: object, *, timestamp: int | None = None, sensor_time: int | None = None) -> None:
        """Append an item.

        `timestamp` is in nanoseconds, by default now, since 1970. `sensor_time` is the sensor's, by default the same.
        """

    @property
    def counters(self) -> Counters:
        """What became of the items so far."""

    @property
    def path(self) -> Path:
        """The file."""

    def flush(self) -> None:
        """Wait until everything written so far is with the system, and on the disk if the writer is durable."""

    def close(self) -> None:
        """Write what is left and complete the file; does nothing the second time."""

@final
class LogChannel:
    """A channel of a log as it was when it was opened."""

    def __new__(cls, path: _Path, channel: str, verify: str, resolve: _Resolve) -> Self:
        """Open a channel."""

    def __len__(self) -> int:
        """Give the number of records."""

    def get(self, at: int) -> tuple[int, Any]:
        """Give time and item of a record by its number."""

    def record(self, at: int) -> tuple[int, int, int, memoryview]:
        """Give number in its file, time, sensor's time and payload of a record by its number."""

    def records(self, start: int, stop: int) -> LogRecords:
        """Iterate over records by their numbers."""

    def range(self, start_ns: int, stop_ns: int | None) -> LogRecords:
        """Iterate over records with times in `start_ns..stop_ns`."""

    def recovery(self) -> _Recovery:
        """Tell what was left out."""

    def files(self) -> list[_LogFile]:
        """List the files."""

    def verify(self) -> list[str]:
        """Check everything and give what is wrong, in words."""

@final
class LogRecords:
    """Iterator of times and items; after an error it goes on with the next record."""

    def __iter__(self) -> Self:
        """Give itself."""

    def __next__(self) -> tuple[int, Any]:
        """Give the next time and item."""

@final
class LogMerge:
    """Iterator of channel number, time and item over several channels, by time."""

    def __new__(cls, channels: list[LogChannel]) -> Self:
        """Merge channels."""

    def __iter__(self) -> Self:
        """Give itself."""

    def __next__(self) -> tuple[int, int, Any]:
        """Give the next channel number, time and item."""

@final
class LogTail:
    """Follows a channel of a log."""

    def __new__(cls, path: _Path, channel: str, from_start: bool, spin_s: float, resolve: _Resolve) -> Self:
        """Start following; after each record it waits awake for `spin_s` seconds, then asleep."""

    def next(self, timeout: float) -> tuple[int, Any] | None:
        """Give the next time and item, waiting at most so many seconds."""

    def poll(self) -> tuple[int, Any] | None:
        """Give the next time and item if they are there; takes the notices of the descriptor."""

    def fileno(self) -> int | None:
        """Give a descriptor that becomes readable when there may be something new."""

    def lost_bytes(self) -> int:
        """Count the bytes that belonged to nothing whole and were passed over."""

def log_channels(path: _Path) -> list[str]:
    """Names of the channels of a log, sorted."""

def log_encode_array(item: object) -> memoryview:
    """Payload of an array, its data at a multiple of 64."""

def log_decode_array(payload: Buffer) -> np.ndarray[Any, Any]:
    """Array of a payload: a view, or a copy where it is not aligned."""

def log_decode_events(payload: Buffer) -> Batch:
    """Events of a payload: views of a log's memory, copies of other bytes."""

def log_events_header(rows: int, first_us: int, last_us: int) -> bytes:
    """Make what stands in front of the columns of so many events with these earliest and latest times."""

def log_encode_arrow(data: _ArrowStream) -> Buffer:
    """Arrow IPC stream of a table."""

def log_decode_arrow(payload: Buffer) -> LogTable:
    """Table of an Arrow IPC stream, whose columns are views of a log's memory, copies of other bytes."""

def log_repair(file: _Path, folder: _Path) -> tuple[Path, int, _Recovery]:
    """Copy what is whole of a file into a new one: its path, its records, and what was left out."""

def log_forked() -> None:
    """Take note that this process was forked: the writers of its parent are not its own."""
