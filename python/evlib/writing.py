"""Writing events to a recording."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import polars as pl

from evlib import _arguments, _evlib
from evlib._scan import SCHEMA
from evlib.exceptions import ArgumentError
from evlib.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BY_EXTENSION = {".raw": "evt3", ".es": "es", ".txt": "text", ".csv": "text"}


def _frames(data: Any) -> Iterator[pl.DataFrame]:  # noqa: ANN401
    if isinstance(data, Recording):
        yield from data.batches()
    elif isinstance(data, pl.LazyFrame):
        yield from data.select(list(SCHEMA)).collect_batches(maintain_order=True)
    elif isinstance(data, pl.DataFrame):
        yield data
    elif hasattr(data, "keys") or hasattr(data, "__arrow_c_stream__"):
        try:
            yield pl.DataFrame(data)
        except (pl.exceptions.ShapeError, TypeError) as error:
            raise ArgumentError(f"events are columns of one length: {error}") from error
    else:
        kind = type(data).__name__
        raise ArgumentError(
            f"events are a DataFrame, LazyFrame, Recording, Arrow table or dict of arrays, found {kind}"
        )


def _conform(frame: pl.DataFrame) -> pl.DataFrame:
    missing = [name for name in SCHEMA if name not in frame.columns]
    if missing:
        raise ArgumentError(f"events need the columns x, y, timestamp and polarity; missing: {', '.join(missing)}")
    frame = frame.select(list(SCHEMA))
    time = frame.schema["timestamp"]
    if not (time.is_integer() or isinstance(time, pl.Duration)):
        raise ArgumentError(f"`timestamp` is a Duration or integer microseconds, found {time}")
    for name in ("x", "y", "polarity"):
        if not (frame.schema[name].is_integer() or frame.schema[name] == pl.Boolean):
            raise ArgumentError(f"`{name}` is an integer column, found {frame.schema[name]}")
    if frame.schema["polarity"] == pl.Boolean:
        frame = frame.with_columns(pl.col("polarity").cast(pl.Int8) * 2 - 1)
    if any(frame.null_count().row(0)):
        raise ArgumentError("events cannot have null values")
    if isinstance(time, pl.Duration) and time.time_unit == "ns":
        nanoseconds = pl.col("timestamp").dt.total_nanoseconds()
        if not frame.select((nanoseconds % 1000 == 0).all()).item():
            raise ArgumentError("`timestamp` has times that are not whole microseconds: round them first")
    try:
        if time.is_integer():
            frame = frame.with_columns(pl.col("timestamp").cast(pl.Int64))
        frame = frame.cast(SCHEMA)  # type: ignore[arg-type]
    except pl.exceptions.InvalidOperationError as error:
        raise ArgumentError(
            f"events out of the range of Int16 pixels, Int64 microseconds, Int8 polarity: {error}"
        ) from error
    return frame.rechunk()


def write_events(
    data: Recording | pl.DataFrame | pl.LazyFrame | Mapping[str, Any] | Any,  # noqa: ANN401
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    geometry: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> int:
    """Write events to a new recording.

    Times are kept as they are. The file appears under its name only when it is complete.

    Parameters
    ----------
    data
        Events in time order (`text` and `atis-bin`: in any order): a DataFrame, a LazyFrame or a Recording (both
        written batch by batch), an Arrow table, or a dict of arrays; columns `x`, `y`, `timestamp` (Duration or
        integer microseconds) and `polarity` (1 and -1, or bool).
    path
        The new file.
    format
        `evt3`, `evt2`, `es`, `atis-bin` or `text`; by default what the extension stands for: `.raw` is `evt3`, `.es` is
        `es`, `.txt` and `.csv` are `text` (of which `.csv` has a header line, commas and microseconds).
    geometry
        Width and height of the sensor in pixels; needed unless `data` is a Recording that knows it.
    overwrite
        Whether a file that is there may be replaced.

    Returns
    -------
    int
        Number of events written.

    Raises
    ------
    FileExistsError
        The file is there and `overwrite` is false.
    ValueError
        A row that the format cannot hold, by its number: times that go back, are negative or too large (2^46 us for
        `evt3`, 2^55 us for `evt2`, 2^35 us for `es`, 2^23 us for `atis-bin`), pixels outside the geometry, polarity
        other than 1 or -1.

    Examples
    --------
    >>> import evlib
    >>> evlib.write_events({"x": [3, 4], "y": [5, 5], "timestamp": [10, 20], "polarity": [1, -1]},
    ...                    "two.raw", geometry=(640, 480))
    2
    >>> evlib.read_events("two.raw").rows()
    [(3, 5, datetime.timedelta(microseconds=10), 1), (4, 5, datetime.timedelta(microseconds=20), -1)]
    """
    if isinstance(data, Recording) and geometry is None:
        geometry = data.geometry
    size = _arguments.geometry(geometry)
    if size is None:
        raise ArgumentError("`geometry=(width, height)` of the sensor is needed")
    name = _arguments.path(path)
    extension = os.path.splitext(name)[1].lower()  # noqa: PTH122
    format = format or _BY_EXTENSION.get(extension)
    if format is None:
        raise ArgumentError(
            f"the extension `{extension}` does not tell the format: "
            'pass `format="evt3"`, `"evt2"`, `"es"`, `"atis-bin"` or `"text"`'
        )
    writer = _evlib.Writer(name, format, size, overwrite)
    try:
        for frame in _frames(data):
            writer.write(_conform(frame))
        return writer.finish()
    finally:
        writer.abort()
