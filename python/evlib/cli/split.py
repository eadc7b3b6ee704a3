"""`evlib split`: a recording in numbered parts."""

from __future__ import annotations

import errno
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from evlib.cli._output import Progress, open_recording
from evlib.cli._write import cut, is_copied, losses, needed_geometry, within, write
from evlib.exceptions import ArgumentError
from evlib.writing import holds_triggers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import polars as pl

    import evlib

_MOST_PARTS = 10_000
_PART_ROWS = 2**19


def run(options: argparse.Namespace) -> int:
    """Write the parts; 3 if the recording has losses."""
    recording = open_recording(options.path, options)
    if (options.duration is None) == (options.events is None):
        raise ArgumentError("pass either --duration or --events")
    total = Progress(f"{options.path}: counting").wait(lambda: recording.event_count)
    if total == 0:
        print(f"evlib: note: {options.path} has no events: no parts are written", file=sys.stderr)
    elif options.duration is not None:
        _by_time(recording, options)
    else:
        _by_count(recording, options, total)
    return losses(recording, options.path)


def _names(output: str, parts: int) -> list[str]:
    if parts > _MOST_PARTS:
        raise ArgumentError(f"at most {_MOST_PARTS:,} parts, found {parts:,}: make them longer")
    stem, extension = os.path.splitext(output)  # noqa: PTH122
    digits = max(3, len(str(max(parts - 1, 0))))
    return [f"{stem}-{part:0{digits}}{extension}" for part in range(parts)]


def _refuse_present(names: list[str], options: argparse.Namespace) -> None:
    """Refuse to begin where one of the parts is there already."""
    if options.force:
        return
    for name in names:
        if os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, f"{os.strerror(errno.EEXIST)}: pass --force to replace it", name)


def _by_time(recording: evlib.Recording, options: argparse.Namespace) -> None:
    """Parts of equal duration, counted from the first event; those without events and triggers are left out.

    Triggers before the first event and after the last go with the first and the last part.
    """
    if (times := recording.time_range) is None:
        return
    first, last = (time // timedelta(microseconds=1) for time in times)
    names = _names(options.output, (last - first) // options.duration + 1)
    _refuse_present(names, options)
    kept = is_copied(recording, options.output, options) or holds_triggers(options.output, options.to, options.layout)
    triggers = recording.triggers.collect() if kept else None
    for part, name in enumerate(names):
        start = first + part * options.duration if part > 0 else None
        end = first + (part + 1) * options.duration if part < len(names) - 1 else None
        inside = within(start, end)
        if recording.events.filter(inside).head(1).collect().height or (
            triggers is not None and triggers.filter(inside).height
        ):
            cut(recording, options.path, name, options, start=start, end=end)


def _by_count(recording: evlib.Recording, options: argparse.Namespace, total: int) -> None:
    """Parts of as many events each, but for the last."""
    geometry = needed_geometry(recording, options.path)
    names = _names(options.output, -(-total // options.events))
    _refuse_present(names, options)
    # Parts begin at the times of these events; triggers go with the part that has begun.
    starts = recording.events.select("timestamp").gather_every(options.events).collect(engine="streaming")["timestamp"]
    bounds = [None, *starts.dt.total_microseconds().to_list()[1:], None]
    triggers = recording.triggers.collect()
    rows = _Rows(recording.batches(rows=min(options.events, _PART_ROWS)))
    for part, name in enumerate(names):
        write(
            rows.take(options.events),
            name,
            options,
            geometry=geometry,
            triggers=triggers.filter(within(bounds[part], bounds[part + 1])),
            label="writing",
            total=min(options.events, total),
        )


class _Rows:
    """Rows of batches, as many at a time as are wanted."""

    def __init__(self, batches: Iterator[pl.DataFrame]) -> None:
        self._batches = batches
        self._left: pl.DataFrame | None = None

    def take(self, rows: int) -> Iterator[pl.DataFrame]:
        while rows > 0:
            batch = self._left if self._left is not None else next(self._batches, None)
            if batch is None:
                return
            part, rest = batch.head(rows), batch.slice(rows)
            self._left = rest if rest.height else None
            rows -= part.height
            yield part
