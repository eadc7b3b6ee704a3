"""What commands that write recordings share."""

from __future__ import annotations

import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl

from evlib.cli._output import Progress
from evlib.cli._parser import WRITTEN
from evlib.exceptions import ArgumentError
from evlib.writing import format_of, holds_triggers, write_events

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    import evlib

LOSSES = 3

RAW = frozenset({"evt2", "evt21", "evt3", "evt4"})


def needed_geometry(recording: evlib.Recording, path: str) -> tuple[int, int]:
    """Give the size of the sensor, which a new file needs."""
    if recording.geometry is None:
        # Of several cameras without a choice this is an error that names them: no geometry would help.
        _ = recording.event_count
        raise ArgumentError(f"{path} does not say the size of its sensor: pass --geometry WxH")
    return recording.geometry


def is_copied(recording: evlib.Recording, output: str, options: argparse.Namespace) -> bool:
    """Tell whether parts of the recording can be copied word for word: RAW as RAW and DAT as DAT, as they are."""
    if options.geometry is not None or any(getattr(options, name, None) for name in ("layout", "compression")):
        return False
    if options.to is not None:
        wanted = {options.to}
    elif (name := format_of(output)) in RAW:
        wanted = set(RAW)  # all of them have one extension
    else:
        wanted = {name}
    return recording.format in wanted & {*RAW, "dat"}


def write(
    batches: Iterable[pl.DataFrame],
    output: str,
    options: argparse.Namespace,
    *,
    geometry: tuple[int, int],
    triggers: pl.DataFrame,
    label: str,
    total: int | None = None,
    format: str | None = None,  # noqa: A002
) -> int:
    """Write a new file, with progress of `total` events; says what is in it, and what it does not hold."""
    progress = Progress(f"{output}: {label}")

    def watched() -> Iterator[pl.DataFrame]:
        done = 0
        for batch in batches:
            yield batch
            done += batch.height
            progress.update(None if total is None else done / max(total, 1))

    format = options.to or format  # noqa: A001
    if format is None and format_of(output) is None:
        raise ArgumentError(f"the extension of {output} does not tell the format: pass --to {'|'.join(WRITTEN)}")
    layout: Any = getattr(options, "layout", None)
    kept = triggers.height > 0 and holds_triggers(output, format, layout)
    with closing(progress), told_of_force():
        rows = write_events(
            watched(),
            output,
            format=format,
            geometry=geometry,
            overwrite=options.force,
            layout=layout,
            compression=getattr(options, "compression", None),
            triggers=triggers if kept else None,
        )
    say(output, rows, triggers.height if kept else 0)
    if triggers.height and not kept:
        print(f"evlib: note: {triggers.height:,} triggers are left out: the new file cannot hold them", file=sys.stderr)
    return rows


@contextmanager
def told_of_force() -> Iterator[None]:
    """Say how to replace the file that is there."""
    try:
        yield
    except FileExistsError as error:
        raise FileExistsError(error.errno, f"{error.strerror}: pass --force to replace it", error.filename) from None


def say(output: str, rows: int, triggers: int, how: str = "") -> None:
    """Say what is in a new file."""
    print(f"{output}: {rows:,} events" + (f", {triggers:,} triggers" if triggers else "") + how)


def losses(recording: evlib.Recording, path: str) -> int:
    """Say which frames and samples are not written, and what the recording itself has lost; the exit code."""
    beside = recording.streams.filter(pl.col("kind").is_in(["frames", "imu"]), pl.col("rows").ne_missing(0))
    if beside.height:
        print(f"evlib: note: {path}: not written: {', '.join(beside['name'])}", file=sys.stderr)
    found = recording.problems.filter(severity="loss")
    for code, count, unit, examples in found.select("code", "count", "unit", "examples").rows():
        example = f": {examples[0]}" if examples else ""
        print(f"evlib: note: {path} has losses: {code} {count:,} {unit}{example}", file=sys.stderr)
    return LOSSES if found.height else 0


def within(start: int | None, end: int | None) -> pl.Expr:
    """Rows of a time range in microseconds."""
    time = pl.col("timestamp")
    inside = pl.lit(value=True)
    if start is not None:
        inside &= time >= pl.lit(start, pl.Duration("us"))
    if end is not None:
        inside &= time < pl.lit(end, pl.Duration("us"))
    return inside


def cut(
    recording: evlib.Recording,
    path: str,
    output: str,
    options: argparse.Namespace,
    *,
    start: int | None,
    end: int | None,
) -> None:
    """Write the part of a recording in a time range: words copied where the format allows it."""
    if not is_copied(recording, output, options):
        write(
            recording.batches(time_range=(start, end)),
            output,
            options,
            geometry=needed_geometry(recording, path),
            triggers=recording.triggers.filter(within(start, end)).collect(),
            label="cutting",
            # All RAW has one extension.
            format=recording.format if {recording.format, format_of(output)} <= RAW else None,
        )
        return
    import evlib

    with told_of_force():
        recording.cut(output, time_range=(start, end), overwrite=options.force)
    part = evlib.open(output, format=recording.format, geometry=recording.geometry, threads=options.threads)
    rows, triggers = part.event_count, part.trigger_count
    say(output, rows, triggers, ", copied word for word")
    inside = part.events.filter(within(start, end)).select(pl.len()).collect(engine="streaming").item()
    if rows > inside:
        print(
            f"evlib: note: {rows - inside:,} events outside the range stand between those inside, and were kept",
            file=sys.stderr,
        )
