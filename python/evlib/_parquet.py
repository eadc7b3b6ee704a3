"""Reading Parquet files of our own columns: Polars decodes, with what the other formats promise around it."""

from __future__ import annotations

import os
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from evlib import _evlib
from evlib._scan import SCHEMA, TRIGGER_SCHEMA
from evlib.exceptions import ArgumentError, FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from evlib._scan import Selection

_MAGIC = b"PAR1"
_GEOMETRY = "evlib.geometry"
_REASONS = ["magic of a Parquet file"]
_BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException)  # Polars panics on some damage


def is_parquet(path: str) -> bool:
    """Tell whether a file starts as Parquet files do; False for what cannot be read, which others then say."""
    try:
        if not os.path.isfile(path):  # noqa: PTH113
            return False
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _error(message: str, path: str, expected: str | None = None, found: str | None = None) -> FormatError:
    text = message if expected is None else f"{message}: expected {expected}, found {found}"
    error = FormatError(f"{text} in `{path}`")
    error.path, error.expected, error.found = path, expected, found
    return error


def _damaged(error: BaseException, path: str) -> FormatError:
    return _error(f"damaged Parquet file: {str(error).partition(chr(10))[0]}", path)


def _size(text: str, path: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(1 <= length <= 2**15 for length in size):
        expected = "two numbers from 1 to 32768, as `640x480`"
        raise _error(f"the key `{_GEOMETRY}` is not a sensor geometry", path, expected, f"`{text[:40]}`")
    return size


def open_with(
    path: str, geometry: tuple[int, int] | None, content: tuple[str | None, list[Any], Any, Any, Any, Any, bool, Any]
) -> ParquetRecording:
    """Open a file with the options of `evlib.open`; those of other formats are refused.

    Raises
    ------
    ArgumentError
        An option that is for other formats.
    OSError, FormatError
        As `open_recording`.
    """
    if not is_parquet(path):
        with open(path, "rb") as file:  # noqa: PTH123
            raise _error("not a Parquet file", path, "the magic `PAR1`", repr(file.read(len(_MAGIC)))[1:])
    stream, path_map, *others, memory_map, time_source = content
    if stream not in (None, "events"):
        raise ArgumentError(f"no such stream of events: expected `events`, found `{stream}`")
    options: dict[str, Any] = {"path_map": path_map or None, "memory_map": memory_map or None}
    options |= dict(zip(("time_unit", "time_offset", "pixel_parts", "text_columns"), others, strict=True))
    options["time_source"] = time_source
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(f"`{name}` is for files whose content does not always say; Parquet does")
    return open_recording(path, geometry)


def open_recording(path: str, geometry: tuple[int, int] | None) -> ParquetRecording:
    """Open a file; reads its footer.

    Raises
    ------
    FormatError
        It is damaged, or does not have the columns of events.
    UnsupportedError
        A column has another type.
    """
    return ParquetRecording(path, geometry)


class ParquetRecording:
    """A Parquet file as the extension module shows other recordings: `_evlib.Recording` is the description."""

    format = "parquet"
    confidence = "certain"

    def __init__(self, path: str, geometry: tuple[int, int] | None) -> None:
        self._path, self._wanted = path, geometry
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UnsupportedError(f"Polars opens Parquet files by names that are text, found {path!r}") from None
        self.reasons = list(_REASONS)
        try:
            keys = pl.read_parquet_metadata(path)
            frame = pl.scan_parquet(path, glob=False)
            schema = frame.collect_schema()
            rows = frame.select(pl.len()).collect().item()
        except (*_BROKEN, OSError) as error:
            raise _damaged(error, path) from error
        missing = [name for name in SCHEMA if name not in schema]
        if missing:
            columns = ", ".join(f"`{name}`" for name in schema)
            raise _error(
                "a Parquet file without events", path, "the columns `x`, `y`, `timestamp`, `polarity`", columns
            )
        for name, dtype in SCHEMA.items():
            if schema[name] != dtype:
                text = f"the column `{name}` has another type: expected {dtype}, found {schema[name]} in `{path}`"
                other = UnsupportedError(f"{text}\nhint: cast it, and write the events with `write_events`")
                other.path, other.expected, other.found = path, str(dtype), str(schema[name])
                raise other
        self.geometry = geometry or (_size(keys[_GEOMETRY], path) if _GEOMETRY in keys else None)
        self.metadata = sorted((key, value) for key, value in keys.items() if key != "ARROW:schema")
        self.streams = [("events", "events", "Parquet", rows)]
        self._all = frame.select(list(SCHEMA))
        # Whoever wrote the file: keys are copied by others, and bytes are damaged.
        self._valid = self._bounds()
        self.lazy = self._all.filter(self._valid)

    def _bounds(self) -> pl.Expr:
        width, height = self.geometry or (2**15, 2**15)
        inside = pl.col("x").is_between(0, width - 1) & pl.col("y").is_between(0, height - 1)
        return (inside & (pl.col("polarity").abs() == 1) & pl.col("timestamp").is_not_null()).fill_null(value=False)

    def labelled(self, label: str | None) -> pl.LazyFrame:
        """Give all events; ``label`` adds a constant column ``source`` of that value."""
        return self.lazy if label is None else self.lazy.with_columns(source=pl.lit(label))

    def __reduce__(self) -> tuple[Callable[..., ParquetRecording], tuple[object, ...]]:
        return open_recording, (self._path, self._wanted)

    def _collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        try:
            return frame.collect(engine="streaming")
        except _BROKEN as error:
            raise _damaged(error, self._path) from error

    @cached_property
    def _index(self) -> dict[str, Any]:
        """What one pass over the file tells: events, their earliest and latest time, and what is left out."""
        values = (pl.col("polarity").abs() == 1).fill_null(value=False) & pl.all_horizontal(pl.all().is_not_null())
        times = pl.col("timestamp").cast(pl.Int64).filter(self._valid)
        facts = self._all.select(
            events=self._valid.sum(),
            first=times.min(),
            last=times.max(),
            outside=(~self._valid & values).sum(),
            bad=(~self._valid & ~values).sum(),
        )
        return self._collect(facts).row(0, named=True)

    @property
    def is_indexed(self) -> bool:
        """Whether that pass has been made."""
        return "_index" in self.__dict__

    def event_count(self) -> int:
        """Count the events."""
        count: int = self._index["events"]
        return count

    def trigger_count(self) -> int:
        """Give the number of external triggers: there are none in this format."""
        return 0

    def time_range(self) -> tuple[int, int] | None:
        """Find the earliest and latest event time."""
        first, last = self._index["first"], self._index["last"]
        return None if first is None else (first, last)

    def problems(self) -> list[tuple[str, str, int, str, int, int, list[str]]]:
        """List what reading leaves out, which takes a pass over the file."""
        found = []
        for code, count, what in (
            ("OUT_OF_BOUNDS", self._index["outside"], "outside {}x{}".format(*(self.geometry or (2**15, 2**15)))),
            ("BAD_VALUE", self._index["bad"], "with a null value, or a polarity other than 1 and -1"),
        ):
            if count:
                found.append((code, "loss", count, "events", 0, 0, [f"{count} {what}"]))
        return found

    def cut(self, path: str, time_range: tuple[int | None, int | None], overwrite: bool) -> None:  # noqa: ARG002, FBT001
        """Refuse: there are no words to copy."""
        text = f"expected RAW or DAT, found `parquet` in `{self._path}`"
        raise UnsupportedError(f"the events of this format cannot be copied word for word: {text}")

    def save_index(self) -> Path:
        """Refuse: row groups have statistics."""
        raise ArgumentError("this format needs no index beside the file: its row groups have the times of their events")

    def triggers(self) -> pl.DataFrame:
        """Give no external triggers."""
        return pl.DataFrame(schema=TRIGGER_SCHEMA)

    def side(self, name: str) -> Any:  # noqa: ANN401
        """Refuse: there are no streams beside the events."""
        raise ArgumentError(
            "no such stream beside the events: expected none: this recording has only events and triggers, "
            f"found `{name}`"
        )

    def select(self, selection: Selection) -> pl.LazyFrame:
        """Give the selected events, in file order."""
        frame = self.lazy
        start, end = selection.time_range
        time = pl.col("timestamp")
        if start is not None:
            frame = frame.filter(time >= pl.lit(start, pl.Duration("us")))
        if end is not None:
            frame = frame.filter(time < pl.lit(end, pl.Duration("us")))
        if selection.region is not None:
            x, y, width, height = selection.region
            frame = frame.filter(
                pl.col("x").is_between(x, x + width, closed="left"),
                pl.col("y").is_between(y, y + height, closed="left"),
            )
        if selection.polarity is not None:
            frame = frame.filter(pl.col("polarity") == selection.polarity)
        if selection.limit is not None:
            frame = frame.head(selection.limit)
        return frame.select(selection.columns)

    def read(self, selection: Selection) -> pl.DataFrame:
        """Read the selected events, one chunk a column."""
        return self._collect(self.select(selection)).rechunk()

    def batches(
        self,
        selection: Selection,
        batch_rows: int | None = None,
        rows: int | None = None,
        duration_us: int | None = None,
    ) -> Iterator[Any]:
        """Read the selected events batch by batch, of the sizes that `_evlib.Recording.batches` describes."""
        if rows is None and duration_us is None:
            return self._parts(iter(self.select(selection).collect_batches(maintain_order=True, chunk_size=batch_rows)))
        # What cuts batches has all columns; those that are not wanted are constants.
        wanted = self.select(selection).with_columns(
            pl.lit(value).cast(SCHEMA[name]).alias(name)
            for name, value in (("x", 0), ("y", 0), ("timestamp", 0), ("polarity", 1))
            if name not in selection.columns
        )
        parts = iter(wanted.select(list(SCHEMA)).collect_batches(maintain_order=True))
        return _evlib.rebatch(self._parts(parts), rows, duration_us)

    def _parts(self, parts: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        try:
            yield from parts
        except _BROKEN as error:
            raise _damaged(error, self._path) from error
