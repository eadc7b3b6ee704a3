"""`evlib head`: the first events."""

from __future__ import annotations

import sys
from itertools import chain
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
    batches = iter(recording.events.head(options.rows).select(columns).collect_batches(maintain_order=True))
    first = next(batches, None)  # before anything is printed, so that an error stands alone
    print(",".join(names) if options.csv else _ROW.format(*names))
    for batch in chain([] if first is None else [first], batches):
        for frame in batch.iter_slices(_ROWS_A_TIME):
            if options.csv:
                sys.stdout.write(frame.write_csv(include_header=False))
            else:
                sys.stdout.writelines(_ROW.format(*row) + "\n" for row in frame.iter_rows())
    return 0
