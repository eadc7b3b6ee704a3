"""Opening recordings and reading their events: `identify`, `open`, `load_events`, `read_events`."""

from __future__ import annotations

import errno as _errno
import glob as _glob
import os
from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl

from evlib import _arguments, _evlib, _parquet, exceptions
from evlib._scan import Source, scan
from evlib.recording import OnProblem, Recording, make_selection, raise_on_loss

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evlib._arguments import Microseconds, TimeRange

    Path = str | os.PathLike[str]


TimeUnit = Literal["ns", "us", "ms", "s"]

TimeSource = Literal["sensor", "message"]

_LARGEST_PARTS = 2**12

_OPEN_FILES = 64
"""Most files of one LazyFrame that stay open between its queries, with their indexes."""


class Identity(NamedTuple):
    """What a file is, how sure that is, and why."""

    format: str
    """Its name, as `evt3`, `hdf5` or `aedat4`."""
    confidence: str
    """`certain` (the header says so), `likely` (the header implies it) or `guess` (the content fits)."""
    reasons: list[str]
    """Why."""


def identify(path: Path) -> Identity:
    """Tell the format of a file from its first bytes; the extension only decides between formats that fit alike.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        The file cannot be read.
    FormatError
        It is none of the formats; the message says what it looks like.

    Examples
    --------
    >>> evlib.identify("recording.raw")
    Identity(format='evt3', confidence='certain', reasons=['header field `format` is `EVT3`'])
    """
    name = _arguments.path(path)
    if _parquet.is_parquet(name):
        found = _parquet.open_recording(name, None)
        return Identity(found.format, found.confidence, found.reasons)
    return Identity(*_evlib.identify(name))


def open(
    path: Path,
    *,
    format: str | None = None,
    geometry: tuple[int, int] | None = None,
    threads: int | None = None,
    stream: str | None = None,
    path_map: Mapping[str, str] | None = None,
    time_unit: TimeUnit | None = None,
    time_offset: Microseconds | None = None,
    pixel_parts: int | None = None,
    text_columns: str | None = None,
    memory_map: bool = False,
    time_source: TimeSource | None = None,
    on_problem: OnProblem = "record",
) -> Recording:
    """Open a recording; reads only the head of the file.

    Parameters
    ----------
    path
        The file, also inside gzip, Zstandard or zip; for NPY also a folder of files with a column each, for ROS 2 the
        folder of a bag.
    format
        `evt2`, `evt21`, `evt3`, `evt4`, `dat`, `hdf5`, `npy`, `npz`, `aedat1` to `aedat4`, `es`, `atis-bin`, `text`,
        `bag`, `db3`, `mcap`, `oblog`, `parquet` or `arrow`, for a file whose content does not tell.
    geometry
        Width and height of the sensor in pixels, in place of the file's. Events outside are dropped and counted.
    threads
        Threads that decode; all processors by default. Parquet is decoded by Polars, in its own threads.
    stream
        Stream of events to read, where the file has several cameras or topics: see `Recording.streams`.
    path_map
        HDF5, NPY and NPZ: where the columns are, in place of what the layout says: data sets or members for `x`, `y`,
        `timestamp` and `polarity`, or one with all of them for `events`. In NPZ `member/field` is a field of records
        and `member/2` the third column of a table; in NPY `field` or `2`.
    time_unit
        HDF5, NPY, NPZ and text: unit of the stored times, `ns`, `us`, `ms` or `s`, in place of what the file says.
    time_offset
        HDF5, NPY, NPZ and text: timedelta or microseconds added to every stored time, in place of what the file says.
    pixel_parts
        HDF5, NPY and NPZ: parts of a pixel that the stored coordinates count, such as 32 for HS-ERGB and BS-ERGB; the
        nearest pixel is given. By default 1, or 32 where NPZ columns have values too large for pixels.
    text_columns
        Text and CSV: what the columns are, where the file does not tell: `"t x y p"` in any order, `_` for columns to
        skip.
    memory_map
        HDF5, NPY and NPZ, on Linux: columns that lie in the file as they are to be given are mapped, not read: no copy,
        and no memory but the page cache. These are arrays of their own, neither in chunks nor compressed,
        little-endian and aligned: 16-bit coordinates, 64-bit microseconds, 8-bit polarities that are all 1 or -1. The
        file must neither shrink nor change while such columns are in use: **if it shrinks, the system ends the
        process** (SIGBUS), and if it changes, so do the columns.
    time_source
        ROS bags and MCAP: `"sensor"` (the default) gives the times of the events themselves; `"message"` gives the
        first event of each message the time in the message's header, and lets the others follow as the sensor says.
    on_problem
        `"record"`: problems are counted in `Recording.problems`. `"raise"`: the whole file is checked now (one index
        pass), and anything that would be lost raises `evlib.exceptions.ProblemError`.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        The file cannot be read.
    FormatError
        It is not a recording, with `path`, `offset`, `expected` and `found`.

    Examples
    --------
    >>> recording = evlib.open("recording.raw")
    >>> recording.format, recording.geometry, recording.event_count
    ('evt3', (640, 480), 1000)
    """
    if on_problem not in ("record", "raise"):
        raise exceptions.ArgumentError(f'`on_problem` is "record" or "raise", found {on_problem!r}')
    format = _arguments.text(format, "format")
    name = _arguments.path(path)
    size, workers = _arguments.geometry(geometry), _arguments.count(threads, "threads")
    content = (
        _arguments.text(stream, "stream"),
        _arguments.mapping(path_map, "path_map"),
        _arguments.text(time_unit, "time_unit"),
        _arguments.microseconds(time_offset, "time_offset"),
        None if pixel_parts is None else _arguments.integer(pixel_parts, "pixel_parts", low=1, high=_LARGEST_PARTS),
        _arguments.text(text_columns, "text_columns"),
        _arguments.flag(memory_map, "memory_map"),
        _arguments.text(time_source, "time_source"),
    )
    if format == "parquet" or (format is None and _parquet.is_parquet(name)):
        recording = Recording(_parquet.open_with(name, size, content), name)
    else:
        recording = Recording(_evlib.open(name, format, size, workers, content), name)
    if on_problem == "raise":
        raise_on_loss(recording.problems, name)
    return recording


def _paths(path: Path | Sequence[Path]) -> list[str]:
    if isinstance(path, list | tuple):
        if not path:
            raise exceptions.ArgumentError("no paths given")
        return [_arguments.path(item) for item in path]
    name = _arguments.path(path)
    if not _glob.has_magic(name) or os.path.exists(name):  # noqa: PTH110
        return [name]
    found = sorted(_glob.glob(name, recursive=True))  # noqa: PTH207
    if not found:
        raise exceptions.EvlibFileNotFoundError(_errno.ENOENT, os.strerror(_errno.ENOENT), name)
    return found


def load_events(
    path: Path | Sequence[Path],
    *,
    format: str | None = None,
    geometry: tuple[int, int] | None = None,
    threads: int | None = None,
    batch_rows: int | None = None,
    source: bool = False,
    stream: str | None = None,
    path_map: Mapping[str, str] | None = None,
    time_unit: TimeUnit | None = None,
    time_offset: Microseconds | None = None,
    pixel_parts: int | None = None,
    text_columns: str | None = None,
    time_source: TimeSource | None = None,
    on_problem: OnProblem = "record",
) -> pl.LazyFrame:
    """Events of one or several recordings as a Polars LazyFrame; reads only the head of each file.

    Columns: `x` Int16, `y` Int16, `timestamp` Duration(us), `polarity` Int8 (+1 or -1), in file order.

    Pushed down into decoding: the columns that the query uses, `head`, and conjunctions of comparisons of a column
    with a literal, as ranges of time, pixels and polarity. Polars applies the query's predicate again.

    A time range is found through the segment index: the first such query makes a fast pass over the file, and the
    index is kept with the frame. EVT2 and EVT2.1 files of 32 MiB and more are bisected instead where 192 samples show
    them in time order; what cannot be seen so is a stretch out of order that is shorter than the distance between two
    samples. `Recording.event_count` builds the index first, and with it nothing is taken for granted.

    Parameters
    ----------
    path
        A file, a glob pattern, or several files (without patterns); the events of several follow each other in this
        order.
    format, geometry, threads, stream, path_map, time_unit, time_offset, pixel_parts, text_columns, time_source,\
    on_problem
        As for :func:`open`.
    batch_rows
        Rows decoded at a time, about: at least those of 256 KiB of the file. By default 524288.
    source
        Whether to add a column `source` with the path of each event's file.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, FormatError
        As for :func:`open`, at once; errors of reading come with the query (Polars before 2 raises them as its own
        `ComputeError`, with their text).

    Examples
    --------
    >>> from datetime import timedelta
    >>> events = evlib.load_events("recording.raw")
    >>> left = events.filter(pl.col("timestamp") < timedelta(milliseconds=50), pl.col("x") < 320)
    >>> left.select(pl.len()).collect().item()
    320
    """
    batch_rows = _arguments.count(batch_rows, "batch_rows")
    names = _paths(path)
    frames = []
    for name in names:
        recording = open(
            name,
            format=format,
            geometry=geometry,
            threads=threads,
            stream=stream,
            path_map=path_map,
            time_unit=time_unit,
            time_offset=time_offset,
            pixel_parts=pixel_parts,
            text_columns=text_columns,
            time_source=time_source,
            on_problem=on_problem,
        )
        label = _arguments.printable(name) if source else None
        if isinstance(recording._opened, _parquet.ParquetRecording):
            frames.append(recording._opened.labelled(label))
            continue
        opened = Source(recording._opened, keep_open=len(names) <= _OPEN_FILES)
        frames.append(scan(opened, batch_rows=batch_rows, path=name, label=label))
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="vertical")


def read_events(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    time_range: TimeRange | None = None,
    region: tuple[int, int, int, int] | None = None,
    polarity: Literal[1, -1] | None = None,
    format: str | None = None,
    geometry: tuple[int, int] | None = None,
    threads: int | None = None,
    stream: str | None = None,
    path_map: Mapping[str, str] | None = None,
    time_unit: TimeUnit | None = None,
    time_offset: Microseconds | None = None,
    pixel_parts: int | None = None,
    text_columns: str | None = None,
    time_source: TimeSource | None = None,
    on_problem: OnProblem = "record",
) -> pl.DataFrame:
    """Read events into a Polars DataFrame, decoded in parallel straight into its memory.

    One chunk a column and no validity buffers, so that `.to_numpy(allow_copy=False)` works on every column. Memory:
    13 bytes an event for all four columns, and a few MB for reading.

    Parameters
    ----------
    path
        The file.
    columns
        Columns to read, of `x`, `y`, `timestamp`, `polarity`; all by default.
    time_range
        `(start, end)` with `start <= timestamp < end`; timedeltas or integer microseconds, None for an open end.
    region
        `(x, y, width, height)` in pixels.
    polarity
        1 or -1, to read only that.
    format, geometry, threads, stream, path_map, time_unit, time_offset, pixel_parts, text_columns, time_source,\
    on_problem
        As for :func:`open`.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, FormatError
        As for :func:`open`.

    Examples
    --------
    >>> evlib.read_events("recording.raw", time_range=(0, 300), columns=["x", "timestamp"])
    shape: (3, 2)
    ┌─────┬──────────────┐
    │ x   ┆ timestamp    │
    │ --- ┆ ---          │
    │ i16 ┆ duration[μs] │
    ╞═════╪══════════════╡
    │ 0   ┆ 0µs          │
    │ 1   ┆ 100µs        │
    │ 2   ┆ 200µs        │
    └─────┴──────────────┘
    """
    make_selection(columns, time_range, region, polarity)  # the caller's mistake comes before the file's fault
    recording = open(
        path,
        format=format,
        geometry=geometry,
        threads=threads,
        stream=stream,
        path_map=path_map,
        time_unit=time_unit,
        time_offset=time_offset,
        pixel_parts=pixel_parts,
        text_columns=text_columns,
        time_source=time_source,
        on_problem=on_problem,
    )
    return recording.read(columns=columns, time_range=time_range, region=region, polarity=polarity)
