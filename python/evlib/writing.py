"""Writing events to a recording."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import polars as pl

from evlib import _arguments, _evlib
from evlib._scan import SCHEMA, TRIGGER_SCHEMA
from evlib.exceptions import ArgumentError
from evlib.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Mapping

_BY_EXTENSION = {
    ".raw": "evt3",
    ".dat": "dat",
    ".aedat4": "aedat4",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npy": "npy",
    ".npz": "npz",
    ".es": "es",
    ".txt": "text",
    ".csv": "text",
}


_RAW = ("evt2", "evt21", "evt3", "evt4")


def _frames(
    data: Any,  # noqa: ANN401
    schema: dict[str, pl.DataType] = SCHEMA,
    what: str = "events",
) -> Iterator[pl.DataFrame]:
    if isinstance(data, Recording) and what == "events":
        yield from data.batches()
    elif isinstance(data, pl.LazyFrame):
        _refuse_missing(data.collect_schema().names(), schema, what)
        yield from data.select(list(schema)).collect_batches(maintain_order=True)
    elif isinstance(data, pl.DataFrame):
        yield data
    elif isinstance(data, Iterator):
        for frame in data:
            if not isinstance(frame, pl.DataFrame):
                raise ArgumentError(f"an iterator of {what} gives DataFrames, found {type(frame).__name__}")
            yield frame
    elif hasattr(data, "keys") or hasattr(data, "__arrow_c_stream__"):
        try:
            yield pl.DataFrame(data)
        except (pl.exceptions.ShapeError, TypeError) as error:
            raise ArgumentError(f"{what} are columns of one length: {error}") from error
    else:
        kind = type(data).__name__
        recording = "Recording, " if what == "events" else ""
        raise ArgumentError(
            f"{what} are a DataFrame, LazyFrame, {recording}Arrow table or dict of arrays, found {kind}"
        )


def one_frame(data: Any) -> pl.DataFrame:  # noqa: ANN401
    """Events as one frame of exactly the columns and types of `SCHEMA`."""
    frames: list[pl.DataFrame] = []
    for frame in _frames(data):
        frames.append(_conform(frame, before=sum(before.height for before in frames)))
    return frames[0] if len(frames) == 1 else pl.concat([pl.DataFrame(schema=SCHEMA), *frames]).rechunk()


def _conform(
    frame: pl.DataFrame, schema: dict[str, pl.DataType] = SCHEMA, what: str = "events", *, before: int = 0
) -> pl.DataFrame:
    """Rows as the writer takes them; there have been `before` others."""
    if frame.columns == list(schema) and frame.dtypes == list(schema.values()):
        # As from this library: small batches would take longer to convert into what they are than to write.
        _refuse_nulls(frame, what)
        return frame.rechunk()
    _refuse_missing(frame.columns, schema, what)
    frame = frame.select(list(schema))
    time = frame.schema["timestamp"]
    if not (time.is_integer() or isinstance(time, pl.Duration)):
        raise ArgumentError(f"`timestamp` is a Duration or integer microseconds, found {time}")
    for name in schema:
        if name == "timestamp":
            continue
        if not (frame.schema[name].is_integer() or frame.schema[name] == pl.Boolean):
            raise ArgumentError(f"`{name}` is an integer column, found {frame.schema[name]}")
    if frame.schema["polarity"] == pl.Boolean:
        frame = frame.with_columns(pl.col("polarity").cast(pl.Int8) * 2 - 1)
    _refuse_nulls(frame, what)
    if isinstance(time, pl.Duration) and time.time_unit == "ns":
        nanoseconds = pl.col("timestamp").dt.total_nanoseconds()
        if (row := _first(frame, nanoseconds % 1000 != 0)) is not None:
            raise ArgumentError(
                f"`timestamp` has times that are not whole microseconds, first in row {before + row}: round them first"
            )
    try:
        if time.is_integer():
            frame = frame.with_columns(pl.col("timestamp").cast(pl.Int64))
        frame = frame.cast(schema)  # type: ignore[arg-type]
    except pl.exceptions.InvalidOperationError as error:
        raise ArgumentError(_out_of_range(frame, schema, what, before) or f"{what}: {error}") from error
    return frame.rechunk()


def _out_of_range(frame: pl.DataFrame, schema: dict[str, pl.DataType], what: str, before: int) -> str | None:
    """Say which is the first row that its columns cannot hold."""
    casts = {name: pl.col(name).cast(dtype, strict=False).is_null() for name, dtype in schema.items()}
    row = _first(frame, pl.any_horizontal(*casts.values()))
    if row is None:
        return None
    (wrong, *_) = (name for name, cast in casts.items() if frame[row].select(cast).item())
    return f"{what} cannot have row {before + row}: expected `{wrong}` as {schema[wrong]}, found {frame[wrong][row]}"


def _first(frame: pl.DataFrame, wrong: pl.Expr) -> int | None:
    """Give the first row for which this holds."""
    row: int | None = frame.select(wrong.arg_true().first()).item()
    return row


def format_of(path: str) -> str | None:
    """Give the format that the extension of a new file stands for."""
    return _BY_EXTENSION.get(os.path.splitext(path)[1].lower())  # noqa: PTH122


def _refuse_missing(columns: list[str], schema: dict[str, pl.DataType], what: str) -> None:
    missing = [name for name in schema if name not in columns]
    if missing:
        *names, last = schema
        raise ArgumentError(f"{what} need the columns {', '.join(names)} and {last}; missing: {', '.join(missing)}")


def _refuse_nulls(frame: pl.DataFrame, what: str) -> None:
    if any(column.null_count() for column in frame.get_columns()):
        raise ArgumentError(f"{what} cannot have null values")


def holds_triggers(path: str, format: str | None, layout: str | None) -> bool:
    """Tell whether the format that these arguments of `write_events` stand for holds external triggers."""
    format = format or format_of(path)
    if format == "hdf5":
        return (layout or ("prophesee" if path.lower().endswith(".hdf5") else "dsec")) == "prophesee"
    return format in _RAW


def write_events(
    data: Recording | pl.DataFrame | pl.LazyFrame | Mapping[str, Any] | Any,  # noqa: ANN401
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    geometry: tuple[int, int] | None = None,
    overwrite: bool = False,
    layout: str | None = None,
    compression: str | None = None,
    triggers: pl.DataFrame | pl.LazyFrame | Mapping[str, Any] | Any = None,  # noqa: ANN401
) -> int:
    """Write events to a new recording.

    Times are kept as they are. The file appears under its name only when it is complete.

    Parameters
    ----------
    data
        Events in time order (`parquet`, `arrow`, `text` and `atis-bin`: in any order): a DataFrame, a LazyFrame,
        a Recording or an iterator of DataFrames (these three written batch by batch), an Arrow table, or a dict of
        arrays; columns `x`, `y`, `timestamp` (Duration or integer microseconds) and `polarity` (1 and -1, or bool).
    path
        The new file.
    format
        `evt3`, `evt2`, `evt21` (little-endian words), `evt4`, `dat` (version 2), `aedat4`, `hdf5`, `parquet`, `arrow`,
        `npy`, `npz`, `es`, `atis-bin` or `text`; by default what the extension stands for: `.raw` is `evt3`, `.h5` and
        `.hdf5` are `hdf5`, `.feather` is `arrow`, `.dat`, `.aedat4`, `.parquet`, `.arrow`, `.npy`, `.npz` and `.es`
        what they say, `.txt` and `.csv` are `text`. `parquet` and `arrow` have the columns as they are, and the
        geometry. `npy` is one array of records with fields `t` (int64), `x`, `y` (uint16) and `p` (uint8,
        1 and 0), `npz` an array for each. `text` is `t x y p` in seconds, or, named `.csv`, a header line, commas and
        microseconds. None of these three nor `atis-bin` hold the geometry.
    geometry
        Width and height of the sensor in pixels; needed unless `data` is a Recording that knows it.
    overwrite
        Whether a file that is there may be replaced.
    layout
        HDF5 only; by default `prophesee` for `.hdf5` and `dsec` for other names.

        `dsec` is what most loaders of data sets read: `/events/{x, y, p, t}`, `/ms_to_idx` (the first event of each
        millisecond) and `/t_offset` (the first time, rounded down to a millisecond, which `t` counts from); attributes
        `width` and `height`. `t` has 32 bits; 64 if the events span more than 2^32 us.

        `prophesee` is what Prophesee's tools read: `/CD/events` in their own compression, ECF, and
        `/EXT_TRIGGER/events`. The sensor has at most 2048 x 2048 pixels.
    compression
        HDF5 in the `dsec` layout: `zstd` (default; Blosc, which h5py reads after `import hdf5plugin`), `gzip`
        (slower; every HDF5 reads it) or `none`. AEDAT4: `lz4` (default) or `none`. Parquet: `none` (default; its
        encodings are compact already) or `zstd`.
    triggers
        External triggers in time order, as `Recording.triggers` gives them: columns `id`, `polarity` and `timestamp`.
        RAW (`evt2`, `evt21`, `evt3`, `evt4`), where they stand between the events, and HDF5 in the `prophesee` layout
        hold them; ids are below 16 in `evt3`, and below 32 in other RAW.

    Returns
    -------
    int
        Number of events written.

    Raises
    ------
    FileExistsError
        The file is there and `overwrite` is false.
    ValueError
        A row that the format cannot hold, by its number: times that go back (but for `parquet`, `arrow`, `text` and
        `atis-bin`), are negative (but for the `dsec` layout, `aedat4`, `parquet`, `arrow`, `npy`, `npz` and `text`) or
        too large (2^46 us for `evt3`, 2^54 us for `evt21`, 2^55 us for `evt2` and `evt4`, 2^32 us for `dat`, 2^35 us
        for `es`, 2^23 us for `atis-bin`, 2^40 us after the first for `hdf5`, which has a table of rows by time), pixels
        outside the geometry, polarity other than 1 or -1.

    Examples
    --------
    >>> import evlib
    >>> evlib.write_events({"x": [3, 4], "y": [5, 5], "timestamp": [10, 20], "polarity": [1, -1]},
    ...                    "two.raw", geometry=(640, 480))
    2
    >>> evlib.read_events("two.raw").rows()
    [(3, 5, datetime.timedelta(microseconds=10), 1), (4, 5, datetime.timedelta(microseconds=20), -1)]

    For loaders of DSEC, and for Prophesee's tools with an external trigger:

    >>> evlib.write_events(evlib.open("two.raw"), "two.h5", compression="gzip")
    2
    >>> evlib.write_events(evlib.open("two.raw"), "two.hdf5",
    ...                    triggers={"id": [0], "polarity": [1], "timestamp": [15]})
    2
    >>> evlib.open("two.hdf5").triggers.collect().rows()
    [(0, 1, datetime.timedelta(microseconds=15))]
    """
    if isinstance(data, Recording) and geometry is None:
        geometry = data.geometry
    size = _arguments.geometry(geometry)
    if size is None:
        raise ArgumentError("`geometry=(width, height)` of the sensor is needed")
    name = _arguments.path(path)
    format = format or format_of(name)
    if format is None:
        raise ArgumentError(
            f"the extension of `{name}` does not tell the format: pass `format`, "
            '`"evt3"`, `"evt2"`, `"evt21"`, `"evt4"`, `"dat"`, `"aedat4"`, `"hdf5"`, `"parquet"`, `"arrow"`, `"npy"`, '
            '`"npz"`, `"es"`, `"atis-bin"` or `"text"`'
        )
    layout = _arguments.text(layout, "layout")
    compression = _arguments.text(compression, "compression")
    writer = _evlib.Writer(name, format, size, overwrite, layout, compression)
    try:
        if triggers is not None:
            rows = 0
            for frame in _frames(triggers, TRIGGER_SCHEMA, "triggers"):
                writer.write_triggers(_conform(frame, TRIGGER_SCHEMA, "triggers", before=rows))
                rows += frame.height
        rows = 0
        for frame in _frames(data):
            writer.write(_conform(frame, before=rows))
            rows += frame.height
        return writer.finish()
    finally:
        writer.abort()
