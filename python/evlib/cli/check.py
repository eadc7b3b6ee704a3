"""`evlib check`: what is wrong with recordings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from evlib.cli import one_line
from evlib.cli._output import Progress, open_recording, table
from evlib.exceptions import ArgumentError, EvlibError

if TYPE_CHECKING:
    import argparse

UNREADABLE, LOSSES = 1, 3
_NAMES = ("code", "severity", "count", "unit", "bytes", "first_offset", "example")


def run(options: argparse.Namespace) -> int:
    """Print the problems of each file; 0 if all are clean, 3 if data is lost, 1 if a file cannot be read."""
    unreadable = losses = False
    for path in options.paths:
        try:
            recording = open_recording(path, options)
            problems = Progress(f"{path}: checking").wait(lambda recording=recording: recording.problems)  # type: ignore[misc]
        except ArgumentError:
            raise
        except (EvlibError, OSError) as error:
            print(f"evlib: error: {one_line(error)}", file=sys.stderr)
            unreadable = True
            continue
        lost = "loss" in problems["severity"]
        losses |= lost
        verdict = "data is lost" if lost else "readable, with notes" if problems.height else "clean"
        print(f"{path}: {recording.format}, {recording.event_count:,} events: {verdict}")
        if problems.height:
            print(table(_NAMES, [_cells(row) for row in problems.to_dicts()]))
    return UNREADABLE if unreadable else LOSSES if losses else 0


def _cells(row: dict[str, object]) -> list[str]:
    examples = row["examples"]
    example = str(examples[0]) if isinstance(examples, list) and examples else ""
    return [*(str(row[name]) for name in _NAMES[:-1]), example]
