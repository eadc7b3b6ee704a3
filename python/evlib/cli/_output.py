"""What commands share: opening recordings, tables, numbers, progress."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import evlib
from evlib.exceptions import ArgumentError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    _T = TypeVar("_T")

_WIDTH = 30
_PATIENCE_S = 1.0


def with_unit(value: float, unit: str) -> str:
    """Write a number with three or four digits and a decimal prefix."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under their names, in aligned columns."""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (names, *rows))
    return "\n".join(line.rstrip() for line in lines)


def open_recording(path: str, options: argparse.Namespace) -> evlib.Recording:
    """Open a file as the options of the command line say."""
    return evlib.open(
        path,
        format=options.format,
        path_map=_once(options.path_map) if options.path_map else None,
        time_offset=options.time_offset,
        geometry=options.geometry,
        threads=options.threads,
        stream=options.stream,
        time_source=options.time_source,
        time_unit=options.time_unit,
        pixel_parts=options.pixel_parts,
    )


def _once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Paths by column, none of which is given twice."""
    paths = dict(pairs)
    if len(paths) < len(pairs):
        named = ", ".join(f"{column}={path}" for column, path in pairs)
        raise ArgumentError(f"`--path-map` gives each column one path, found {named}")
    return paths


class Progress:
    """A line on stderr that says how far the work is: only on a terminal, only after a second."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._start = time.monotonic()
        self._drawn_at = 0.0
        self._shown = False

    def update(self, fraction: float | None) -> None:
        """Say how much of the work is done; None where that is unknown."""
        now = time.monotonic()
        if now - self._start < _PATIENCE_S or now - self._drawn_at < 0.1 or not sys.stderr.isatty():
            return
        self._drawn_at, self._shown = now, True
        state = f"{now - self._start:.0f} s"
        if fraction is not None:
            done = min(max(fraction, 0.0), 1.0)
            state = f"[{'#' * round(_WIDTH * done):<{_WIDTH}}] {done:4.0%}"
        print(f"\r{self._label}: {state}\033[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        self._shown = False

    def wait(self, work: Callable[[], _T]) -> _T:
        """Do work that cannot say how far it is, so that Ctrl-C ends it all the same."""
        result: list[_T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                result.append(work())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.1)
                self.update(None)
        finally:
            self.close()
        if failure:
            raise failure[0]
        return result[0]
