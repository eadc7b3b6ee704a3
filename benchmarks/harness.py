"""What the benchmark programs share: timing in turns, counters of the system, and how a run is reported.

A program makes one `Report`: tables, figures beside the seed's and beside their targets, and ratios, which are all that
is compared with the stored baseline. Answers are verified with `verify` before anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compare import machine, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KB, MB, GB = 10**3, 10**6, 10**9


def verify(holds: object, what: str) -> None:
    """Stop if an answer is wrong: wrong answers are not timed. Unlike `assert`, also under `python -O`."""
    if not holds:
        raise SystemExit(f"wrong answer, nothing is timed: {what}")


# Time.


def take_turns(works: dict[str, Callable[[], Any]], *, rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Seconds of a call of each work, which take turns; `calls` calls at a time where one is too short to be timed."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, work in works.items():
                start = time.perf_counter_ns()
                for _ in range(calls):
                    work()
                found[name].append((time.perf_counter_ns() - start) / calls / 1e9)
    finally:
        gc.enable()
    return found


def quantile(values: list[float], part: float) -> float:
    """The value that `part` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def spread(values: list[float]) -> dict[str, float]:
    """Least, median, p95, p99, most and standard deviation."""
    return {
        "min": min(values),
        "p50": statistics.median(values),
        "p95": quantile(values, 0.95),
        "p99": quantile(values, 0.99),
        "max": max(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
    }


# Counters of the system.


class Counters(NamedTuple):
    """What this process has used so far."""

    cpu_s: float
    minor_faults: int
    read_bytes: int
    """Bytes that calls like `read` gave, which the system counts."""
    written_bytes: int

    def __sub__(self, other: tuple[Any, ...]) -> Counters:
        return Counters(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def io_counters(process: str = "self") -> tuple[int, int]:
    """Bytes of all calls that read and that write, of a process that is alive or not yet waited for."""
    lines = Path(f"/proc/{process}/io").read_text().splitlines()
    found = dict(line.split(": ") for line in lines)
    return int(found["rchar"]), int(found["wchar"])


def counters() -> Counters:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Counters(used.ru_utime + used.ru_stime, used.ru_minflt, *io_counters())


# Reports.


def human(value: float, unit: str) -> str:
    """A figure with three or four digits that count."""
    if unit == "s":
        scales = ((1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns"))
        factor, unit = next((scale for scale in scales if value * scale[0] >= 1), scales[-1])
        value *= factor
    digits = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def size(count: float) -> str:
    """Bytes in decimal units: `1 KB`, `76.3 MB`, `1 GB`."""
    for factor, name in ((GB, "GB"), (MB, "MB"), (KB, "KB")):
        if count >= factor:
            return f"{count / factor:.4g} {name}"
    return f"{count:.0f} B"


class Report:
    """What a program found."""

    def __init__(self, name: str, about: str) -> None:
        self.name, self.about = name, about
        self.machine = machine()
        self.tables: list[dict[str, Any]] = []
        self.figures: list[dict[str, Any]] = []
        self.ratios: dict[str, float] = {}
        self.notes: list[str] = []
        self.series: dict[str, Any] = {}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Report:
        """Make the report again, to show it."""
        report = cls.__new__(cls)
        vars(report).update(found)
        return report

    def table(self, title: str, head: list[str], rows: list[list[str]]) -> None:
        self.tables.append({"title": title, "head": head, "rows": rows})
        print(f"\n{title}\n\n{table(head, rows)}", flush=True)

    def figure(
        self,
        what: str,
        value: float,
        unit: str,
        *,
        seed: str = "",
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Note a figure: beside what the seed says, and beside its target."""
        limits = [(at_most, "<=", at_most is None or value <= at_most)]
        limits.append((at_least, ">=", at_least is None or value >= at_least))
        wanted = [(f"{sign} {human(limit, unit)}", met) for limit, sign, met in limits if limit is not None]
        self.figures.append(
            {
                "what": what,
                "value": value,
                "unit": unit,
                "seed": seed,
                "target": ", ".join(text for text, _ in wanted),
                "met": all(met for _, met in wanted) if wanted else None,
            }
        )

    def ratio(self, name: str, value: float) -> None:
        """Note a ratio of two measurements of this run, the higher the better, to be compared with the baseline."""
        self.ratios[name] = value

    def figures_table(self) -> tuple[list[str], list[list[str]]]:
        rows = []
        for row in self.figures:
            verdict = {None: "", True: " : met", False: " : **missed**"}[row["met"]]
            rows.append([row["what"], human(row["value"], row["unit"]), row["seed"], row["target"] + verdict])
        return ["what", "figure", "seed", "target"], rows

    def as_json(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name in ("name", "about", "machine", "tables", "figures", "ratios", "notes", "series")
        }


def parser(about: str | None) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, help="file for everything that was measured")
    found.add_argument("--quick", action="store_true", help="small inputs and few rounds: to see that it works")
    found.add_argument("--workdir", type=Path, help="where inputs are written; by default the temporary directory")
    return found


@contextmanager
def scratch(args: argparse.Namespace) -> Iterator[Path]:
    """A directory for inputs, which goes at the end."""
    found = Path(tempfile.mkdtemp(prefix="evlib-bench-", dir=args.workdir))
    try:
        yield found
    finally:
        shutil.rmtree(found)


def finish(report: Report, args: argparse.Namespace) -> None:
    """Print the figures, and write the JSON if it is wanted."""
    if report.figures:
        print(f"\n{table(*report.figures_table())}")
    for note in report.notes:
        print(f"* {note}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
