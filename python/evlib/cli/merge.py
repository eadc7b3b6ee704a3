"""`evlib merge`: several recordings in one, by time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from evlib.cli._output import Progress, open_recording
from evlib.cli._write import losses, needed_geometry, write
from evlib.exceptions import ArgumentError, UnsupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from datetime import timedelta

_ROWS = 2**21
"""Rows that are held of all recordings together."""

_LEAST_ROWS = 2**14


def run(options: argparse.Namespace) -> int:
    """Write the new file; 3 if one of the recordings has losses."""
    if len(options.paths) < 2:
        raise ArgumentError("merging takes two recordings or more, and the new file after them")
    recordings = [open_recording(path, options) for path in options.paths]
    sizes = [needed_geometry(recording, path) for recording, path in zip(recordings, options.paths, strict=True)]
    if len(set(sizes)) > 1 and not options.largest:
        found = ", ".join(
            f"{path} {width}x{height}" for path, (width, height) in zip(options.paths, sizes, strict=True)
        )
        raise ArgumentError(f"the recordings are of sensors of different sizes: {found}; pass --largest to merge them")
    geometry = max(width for width, _ in sizes), max(height for _, height in sizes)
    total = Progress(f"{options.output}: counting").wait(lambda: sum(each.event_count for each in recordings))
    rows = max(_ROWS // len(recordings), _LEAST_ROWS)
    triggers = pl.concat([recording.triggers.collect() for recording in recordings])
    write(
        merged([recording.batches(rows=rows) for recording in recordings]),
        options.output,
        options,
        geometry=geometry,
        triggers=triggers.sort("timestamp", maintain_order=True),
        label="merging",
        total=total,
    )
    return max(losses(recording, path) for recording, path in zip(recordings, options.paths, strict=True))


def merged(streams: list[Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Events of streams in order of time; at equal times in the order of the streams."""
    held: dict[int, pl.DataFrame] = {}
    latest: dict[int, timedelta] = {}
    waiting = list(range(len(streams)))
    while True:
        for at in waiting:
            if (batch := next(streams[at], None)) is not None:
                times = batch["timestamp"]
                if not times.is_sorted() or (at in latest and times[0] < latest[at]):
                    raise UnsupportedError(f"merging takes recordings in order of time: number {at + 1} is not")
                held[at], latest[at] = batch, times[-1]
        if not held:
            return
        # Up to here all streams are known, but the first that ends here may go on at the same time.
        horizon, first = min((batch["timestamp"].max(), at) for at, batch in held.items())
        parts = []
        waiting = []
        for at, batch in sorted(held.items()):
            time = pl.col("timestamp")
            inside = time <= horizon if at <= first else time < horizon
            parts.append(batch.filter(inside))
            rest = batch.filter(~inside)
            held[at] = rest
            if rest.is_empty():
                del held[at]
                waiting.append(at)
        yield pl.concat(parts).sort("timestamp", maintain_order=True)
