"""`evlib convert`: a recording in another format."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from evlib.cli._output import Progress, open_recording
from evlib.exceptions import ArgumentError
from evlib.writing import holds_triggers, write_events

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import polars as pl

LOSSES = 3


def run(options: argparse.Namespace) -> int:
    """Write the new file and say what it does not hold; 3 if the recording has losses."""
    recording = open_recording(options.path, options)
    if recording.geometry is None:
        # Of several cameras without a choice this is an error that names them: no geometry would help.
        _ = recording.event_count
        raise ArgumentError(f"{options.path} does not say the size of its sensor: pass --geometry WxH")
    progress = Progress(f"{options.output}: converting")
    total = progress.wait(lambda: recording.event_count)

    def batches() -> Iterator[pl.DataFrame]:
        done = 0
        for batch in recording.batches():
            yield batch
            done += batch.height
            progress.update(done / max(total, 1))

    triggers = recording.trigger_count
    kept = triggers > 0 and holds_triggers(options.output, options.to, options.layout)
    try:
        rows = write_events(
            batches(),
            options.output,
            format=options.to,
            geometry=recording.geometry,
            overwrite=options.force,
            layout=options.layout,
            compression=options.compression,
            triggers=recording.triggers if kept else None,
        )
    except FileExistsError as error:
        raise FileExistsError(error.errno, f"{error.strerror}: pass --force to replace it", error.filename) from None
    finally:
        progress.close()
    print(f"{options.output}: {rows:,} events" + (f", {triggers:,} triggers" if kept else ""))
    if triggers and not kept:
        print(f"evlib: note: {triggers:,} triggers are left out: the new file cannot hold them", file=sys.stderr)
    losses = recording.problems.filter(severity="loss")
    for code, count, unit in losses.select("code", "count", "unit").rows():
        print(f"evlib: note: {options.path} has losses: {code} {count:,} {unit}", file=sys.stderr)
    return LOSSES if losses.height else 0
