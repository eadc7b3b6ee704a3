"""`evlib head`: the first events."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import polars as pl

from evlib.cli._output import open_recording

if TYPE_CHECKING:
    import argparse

_ROW = "{:>5}  {:>5}  {:>15}  {:>8}"
_ROWS_A_TIME = 10_000


def run(options: argparse.Namespace) -> int:
    """Print events as a table, or as comma-separated values."""
    recording = open_recording(options.path, options)
    columns = ["x", "y", pl.col("timestamp").dt.total_microseconds().alias("timestamp_us"), "polarity"]
    names = ("x", "y", "timestamp_us", "polarity")
    print(",".join(names) if options.csv else _ROW.format(*names))
    events = recording.events.head(options.rows).select(columns)
    for batch in events.collect_batches(maintain_order=True):
        for frame in batch.iter_slices(_ROWS_A_TIME):
            if options.csv:
                sys.stdout.write(frame.write_csv(include_header=False))
            else:
                sys.stdout.writelines(_ROW.format(*row) + "\n" for row in frame.iter_rows())
    return 0
