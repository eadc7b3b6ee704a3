"""`evlib convert`: a recording in another format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evlib.cli._output import Progress, open_recording
from evlib.cli._write import losses, needed_geometry, write

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Write the new file and say what it does not hold; 3 if the recording has losses."""
    recording = open_recording(options.path, options)
    geometry = needed_geometry(recording, options.path)
    total = Progress(f"{options.output}: converting").wait(lambda: recording.event_count)
    write(
        recording.batches(),
        options.output,
        options,
        geometry=geometry,
        triggers=recording.triggers.collect(),
        label="converting",
        total=total,
    )
    return losses(recording, options.path)
