"""Extension module: decoders, scans and writers. Use it through `evlib`.

Every call that reads or decodes releases the GIL. Errors are those of `evlib.exceptions`. Times are microseconds.
"""

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Protocol, Self, TypeAlias, final, type_check_only

from typing_extensions import CapsuleType

from evlib._scan import Selection

__all__ = [
    "Batch",
    "Batches",
    "Rebatched",
    "Recording",
    "SideStream",
    "Writer",
    "__version__",
    "identify",
    "open",
    "read_array",
    "rebatch",
]

__version__: str
"""Version of the crate, which is the package's."""

_Path: TypeAlias = str | PathLike[str]

# code, severity, count, unit, bytes, offset of the first byte, examples
_Problem: TypeAlias = tuple[str, str, int, str, int, int, list[str]]

# Stream, paths of columns, unit of times, microseconds to add, parts of a pixel.
_Content: TypeAlias = tuple[str | None, list[tuple[str, str]], str | None, int | None, int | None, str | None]

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
        """`evt2`, `evt21`, `evt3`, `evt4`, `dat`, `hdf5`, `npy`, `npz`, `es`, `atis-bin` or `text`."""

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

    The content is stream, paths of columns, unit and offset of times, parts of a pixel, columns of text.
    """

def identify(path: _Path) -> tuple[str, str, list[str]]:
    """Tell format, confidence and reasons from the head of a file."""

def rebatch(parts: Iterator[_ArrowStream], rows: int | None = None, duration_us: int | None = None) -> Rebatched:
    """Cut events with exactly the columns of `evlib._scan.SCHEMA` into batches of `rows` rows or `duration_us`."""

def read_array(path: _Path, dataset: str) -> tuple[bytes, list[int], str]:
    """Read the numbers of a small HDF5 data set: bytes in C order, shape, type as NumPy names it."""
