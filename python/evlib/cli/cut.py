"""`evlib cut`: the part of a recording in a time range."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from evlib.cli._output import open_recording
from evlib.cli._write import cut, losses
from evlib.exceptions import ArgumentError

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Write the part and say what is in it; 3 if the recording has losses."""
    start, end = options.start, options.end
    if start is None and end is None:
        raise ArgumentError("pass --start, --end or both")
    recording = open_recording(options.path, options)
    if options.relative and (times := recording.time_range) is not None:
        first = times[0] // timedelta(microseconds=1)
        start, end = (None if time is None else first + time for time in (start, end))
    if start is not None and end is not None and start >= end:
        raise ArgumentError(f"--start comes before --end, found {start} us and {end} us")
    cut(recording, options.path, options.output, options, start=start, end=end)
    return losses(recording, options.path)
