"""`Recording`: what a file is, and its streams."""

from __future__ import annotations

import os
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING, Literal

import polars as pl

from evlib import _arguments
from evlib._scan import SCHEMA, TRIGGER_SCHEMA, Selection, Source, scan, scan_frame, scan_side
from evlib.exceptions import ArgumentError, ProblemError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from evlib import _evlib
    from evlib._arguments import Microseconds, TimeRange
    from evlib._parquet import ParquetRecording

OnProblem = Literal["record", "raise"]

PROBLEM_SCHEMA: dict[str, pl.DataType] = {
    "code": pl.String(),
    "severity": pl.String(),
    "count": pl.UInt64(),
    "unit": pl.String(),
    "bytes": pl.UInt64(),
    "first_offset": pl.UInt64(),
    "examples": pl.List(pl.String()),
}
"""Columns of a problem table."""

STREAM_SCHEMA: dict[str, pl.DataType] = {
    "name": pl.String(),
    "kind": pl.String(),
    "detail": pl.String(),
    "rows": pl.UInt64(),
}
"""Columns of a table of streams."""


def make_selection(
    columns: Sequence[str] | None,
    time_range: TimeRange | None,
    region: tuple[int, int, int, int] | None,
    polarity: int | None,
) -> Selection:
    """Check a caller's selection and bring it into the decoder's form."""
    return Selection(
        _arguments.columns(columns, list(SCHEMA)),
        _arguments.time_range(time_range),
        _arguments.region(region),
        _arguments.polarity(polarity),
    )


def ordered(batch: _evlib.Batch | pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Give the columns asked for, in that order."""
    frame = pl.DataFrame(batch)
    return frame if frame.columns == columns else frame.select(columns)


def problem_frame(rows: list[tuple[str, str, int, str, int, int, list[str]]]) -> pl.DataFrame:
    """Problems as a table."""
    return pl.DataFrame(rows, schema=PROBLEM_SCHEMA, orient="row")


def raise_on_loss(problems: pl.DataFrame, path: str) -> None:
    """Raise if anything of the recording is lost."""
    losses = problems.filter(pl.col("severity") == "loss")
    if losses.is_empty():
        return
    found = losses.select("code", "count", "unit", "first_offset").rows()
    lines = [f"{code}: {count} {unit}, first at byte {offset}" for code, count, unit, offset in found]
    error = ProblemError(f"reading loses data in `{path}`: {'; '.join(lines)}")
    error.path, error.offset = path, min(offset for *_, offset in found)
    raise error


class Recording:
    """A recording: what it is, and its streams. Made by :func:`evlib.open`.

    Opening reads only the head of the file, or its index. `event_count`, `time_range`, `triggers` and `problems` need
    one pass over the file, which builds a segment index and is done once for this object. With the index, time ranges
    are found without reading the rest of the file.
    """

    def __init__(self, opened: _evlib.Recording | ParquetRecording, path: str) -> None:
        self._opened = opened
        self._path = path

    @property
    def path(self) -> Path:
        """The file."""
        from pathlib import Path

        return Path(self._path)

    @property
    def format(self) -> str:
        """Format, as `evt3`, `hdf5` or `aedat4`."""
        return self._opened.format

    @property
    def confidence(self) -> str:
        """How sure the format is: `certain`, `likely` or `guess`."""
        return self._opened.confidence

    @property
    def reasons(self) -> list[str]:
        """Why it is taken for that format."""
        return self._opened.reasons

    @property
    def geometry(self) -> tuple[int, int] | None:
        """Width and height of the sensor in pixels; None if neither the file nor the caller says."""
        return self._opened.geometry

    @property
    def streams(self) -> pl.DataFrame:
        """Streams of the file: `name`, `kind` (`events`, `triggers`, `frames`, `imu`, `other`), `detail`, `rows`.

        `rows` is null where counting them costs a pass over the file.
        """
        return pl.DataFrame(self._opened.streams, schema=STREAM_SCHEMA, orient="row")

    @property
    def metadata(self) -> dict[str, str]:
        """Header fields, in file order."""
        return dict(self._opened.metadata)

    @property
    def events(self) -> pl.LazyFrame:
        """The events, as from :func:`evlib.load_events`."""
        return self.load_events()

    def load_events(self, *, batch_rows: int | None = None) -> pl.LazyFrame:
        """LazyFrame over the events, decoding with batches of about `batch_rows` rows."""
        return scan(Source(self._opened), batch_rows=_arguments.count(batch_rows, "batch_rows"), path=self._path)

    @property
    def triggers(self) -> pl.LazyFrame:
        """External triggers: `id` UInt8, `polarity` Int8 (+1 rising, -1 falling), `timestamp` Duration(us)."""
        name = f"evlib triggers {_arguments.printable(self._path)}"
        return scan_frame(lambda: pl.DataFrame(self._opened.triggers()), TRIGGER_SCHEMA, explain_name=name)

    @property
    def imu(self) -> pl.LazyFrame:
        """Inertial measurements, on the clock of the events.

        Columns: `timestamp` Duration(us), and Float32: `accelerometer_x`, `_y`, `_z` (in g, for AEDAT),
        `gyroscope_x`, `_y`, `_z` (°/s), `magnetometer_x`, `_y`, `_z` (µT, null where there is none), `temperature`
        (°C). An ArgumentError names the streams where there is none, or more than one.
        """
        return self.load_stream("imu")

    @property
    def frames(self) -> pl.LazyFrame:
        """Frames, on the clock of the events.

        Columns: `timestamp`, `exposure_start`, `exposure_end` Duration(us), `width`, `height` UInt16, `channels` UInt8,
        `bits` UInt8 (of a channel), `format` String (`GRAY`, `BGR`, ...), `pixels` Binary (rows from the top, channels
        interleaved, little-endian). An ArgumentError names the streams where there is none, or more than one.
        """
        return self.load_stream("frames")

    def load_stream(self, name: str) -> pl.LazyFrame:
        """LazyFrame over a stream beside the events, by its name in `streams`, with memory of a few batches.

        Streams of kind `imu`, `frames` and `triggers` have the columns of the properties of these names, all starting
        with or containing `timestamp`; those of kind `other` the columns that `streams` names in `detail`. Kinds that
        are only listed, as poses, are an ArgumentError that names the streams there are.
        """
        if not isinstance(name, str):
            raise ArgumentError(f"`name` is the name of a stream, found {name!r}")
        return scan_side(Source(self._opened), name, path=self._path)

    def frame(self, index: int, *, stream: str = "frames") -> np.ndarray:
        """Decode one frame: an array of height x width, or of height x width x channels where there are several.

        Reads the frames before it too: to go through many, use `frames`.
        """
        import numpy as np

        index = _arguments.integer(index, "index", low=0, high=2**53)
        left = index
        for batch in self._opened.side(stream):
            frames = pl.DataFrame(batch)
            if "pixels" not in frames.columns:
                raise ArgumentError(f"the stream `{stream}` has no frames")
            if left >= frames.height:
                left -= frames.height
                continue
            row = frames.row(left, named=True)
            kind = {"int": "i", "float": "f"}.get(row["format"].partition(":")[2], "u")
            shape = [row["height"], row["width"], row["channels"]]
            pixels = np.frombuffer(row["pixels"], f"<{kind}{row['bits'] // 8}")
            return pixels.reshape(shape[:2] if shape[2] == 1 else shape)
        raise IndexError(f"there is no frame {index}: the stream `{stream}` has {index - left}")

    @property
    def problems(self) -> pl.DataFrame:
        """What decoding skips, drops or repairs: exact counts, place of the first, examples; empty for a clean file.

        Columns: `code`, `severity` (`loss` or `note`), `count` in `unit`, `bytes`, `first_offset`, `examples`. Costs
        the index pass, once.
        """
        return problem_frame(self._opened.problems())

    @property
    def event_count(self) -> int:
        """Number of events. Costs the index pass, once."""
        return self._opened.event_count()

    @property
    def trigger_count(self) -> int:
        """Number of external triggers. Costs the index pass, once."""
        return self._opened.trigger_count()

    @property
    def time_range(self) -> tuple[timedelta, timedelta] | None:
        """Earliest and latest event time; None without events.

        Costs the index pass, once, and the decoding of the segments that reach furthest.
        """
        found = self._opened.time_range()
        return None if found is None else (timedelta(microseconds=found[0]), timedelta(microseconds=found[1]))

    @property
    def is_indexed(self) -> bool:
        """Whether the segment index is there already."""
        return self._opened.is_indexed

    def read(
        self,
        *,
        columns: Sequence[str] | None = None,
        time_range: TimeRange | None = None,
        region: tuple[int, int, int, int] | None = None,
        polarity: Literal[1, -1] | None = None,
    ) -> pl.DataFrame:
        """Read events into a DataFrame, as :func:`evlib.read_events` does."""
        selection = make_selection(columns, time_range, region, polarity)
        return ordered(self._opened.read(selection), selection.columns)

    def batches(
        self,
        *,
        rows: int | None = None,
        duration: Microseconds | None = None,
        columns: Sequence[str] | None = None,
        time_range: TimeRange | None = None,
        region: tuple[int, int, int, int] | None = None,
        polarity: Literal[1, -1] | None = None,
    ) -> Iterator[pl.DataFrame]:
        """Read events batch by batch, with memory bounded by a few batches.

        Parameters
        ----------
        rows
            Rows of every batch but the last. By default about 500 000, as decoding makes them.
        duration
            Length of time windows, a timedelta or microseconds, counted from the first event; windows without events
            give empty batches. File order is kept: an event belongs to the current window unless its time is at or
            after the window's end.
        columns, time_range, region, polarity
            As for :func:`evlib.read_events`.

        Yields
        ------
        polars.DataFrame
            The next events.
        """
        if rows is not None and duration is not None:
            raise ArgumentError("batches take `rows` or `duration`, not both")
        rows = _arguments.count(rows, "rows")
        duration_us = _arguments.microseconds(duration, "duration")
        if duration_us is not None and duration_us < 1:
            raise ArgumentError(f"`duration` must be at least 1 us, found {duration!r}")
        selection = make_selection(columns, time_range, region, polarity)
        order = selection.columns
        if duration_us is not None and "timestamp" not in order:
            selection = make_selection([*order, "timestamp"], time_range, region, polarity)
        batches = self._opened.batches(selection, rows=rows, duration_us=duration_us)
        return (ordered(batch, order) for batch in batches)

    def cut(
        self, path: str | os.PathLike[str], *, time_range: TimeRange | None = None, overwrite: bool = False
    ) -> None:
        """Copy the part with the events and triggers of a time range to a new RAW or DAT file, word for word.

        In front of it stand the header and the words that a decoder needs, so that times stay as they are. The part
        reaches from the first event or trigger of the range to the last: where the recording is not in order of time,
        what stands between them comes along.

        Parameters
        ----------
        path
            The new file, in the format of this one.
        time_range
            `(start, end)` with `start <= timestamp < end`; timedeltas or integer microseconds, None for an open end.
        overwrite
            Whether a file that is there may be replaced.

        Raises
        ------
        UnsupportedError
            The recording is neither RAW nor DAT: write its events anew with :func:`evlib.write_events`.
        FileExistsError
            The file is there and `overwrite` is false.
        """
        self._opened.cut(_arguments.path(path), _arguments.time_range(time_range), overwrite)

    def save_index(self) -> Path:
        """Save the segment index beside the recording and return its path.

        Later openings use it as long as size, modification time and header of the recording are the same; an index
        that does not fit is ignored and reported as `STALE_INDEX`.
        """
        return self._opened.save_index()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Give the events to any Arrow reader: `pyarrow.table(recording)`, DuckDB, pandas."""
        return self.read().__arrow_c_stream__(requested_schema)

    def _facts(self) -> list[tuple[str, str]]:
        facts = [("format", f"{self.format} ({self.confidence})")]
        width, height = self.geometry or (None, None)
        facts.append(("geometry", "unknown" if width is None else f"{width} x {height}"))
        if self.is_indexed:
            facts.append(("events", f"{self.event_count:,}"))
            if self.trigger_count:
                facts.append(("triggers", f"{self.trigger_count:,}"))
            if (times := self.time_range) is not None:
                facts.append(("time", f"{times[0].total_seconds():.6f} s to {times[1].total_seconds():.6f} s"))
            codes = ", ".join(f"{code} {count}" for code, count in self.problems.select("code", "count").rows())
            facts.append(("problems", codes or "none"))
        return facts

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self._facts())
        return f"<evlib.Recording {os.fspath(self._path)!r}: {facts}>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._facts())
        return f"<table><caption>{escape(self._path)}</caption>{rows}</table>"
