"""What it costs to take events across the boundary of Rust and Python: as objects, one by one, and as columns.

    python benchmarks/boundary.py [--json FILE] [--quick] [--seconds 15] [--rate 1000]

evlib has no object for an event. To show what that spares, `boundary/` is a small extension module that has one, built
here with cargo. It is measured beside dicts and dataclasses, and beside the columns of evlib. A paced pipeline then
makes a point a tick, takes a moving average and logs both, and counts the ticks that came too late.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.machinery
import importlib.util
import json
import os
import statistics
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from harness import MB, Report, finish, human, parser, scratch, spread, take_turns, verify
from worker import anonymous_bytes

import evlib
from evlib.codecs import EventsCodec, register
from evlib.oblog import ObLog

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from types import ModuleType

HERE = Path(__file__).resolve().parent
CRATE = HERE / "boundary"
TARGET = HERE.parent / "target"
WIDTH, HEIGHT = 640, 480
PACKET = 1000
"""Events of a tick, where a tick brings columns."""
WINDOW = 100
"""Values of the moving average."""


def extension() -> ModuleType:
    """Build the module with an object for an event, and import it."""
    environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET), "PYO3_PYTHON": sys.executable}
    command = ["cargo", "build", "--quiet", "--release", "--locked"]
    subprocess.run(command, cwd=CRATE, env=environment, check=True)
    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    path = TARGET / "release" / f"{'' if sys.platform == 'win32' else 'lib'}boundary.{suffix}"
    loader = importlib.machinery.ExtensionFileLoader("boundary", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("boundary", loader))
    loader.exec_module(module)
    return module


@dataclass
class Event:
    """An event as a dataclass."""

    x: int
    y: int
    timestamp: int
    polarity: int


@dataclass(slots=True, frozen=True)
class SlottedEvent:
    """The same without a dict, and frozen."""

    x: int
    y: int
    timestamp: int
    polarity: int


def arguments_of(number: int) -> tuple[int, int, int, int]:
    return number % WIDTH, number % HEIGHT, number, 1 if number % 2 == 0 else -1


def columns(count: int) -> pl.DataFrame:
    """The same events in columns, from NumPy."""
    number = np.arange(count)
    found = {
        "x": (number % WIDTH).astype(np.int16),
        "y": (number % HEIGHT).astype(np.int16),
        "timestamp": number,
        "polarity": (1 - number % 2 * 2).astype(np.int8),
    }
    return pl.DataFrame(found).with_columns(pl.col("timestamp").cast(pl.Duration("us")))


def makers(module: ModuleType) -> dict[str, Callable[[int, int, int, int], Any]]:
    return {
        "extension class": module.Event,
        "dict": lambda x, y, timestamp, polarity: {"x": x, "y": y, "timestamp": timestamp, "polarity": polarity},
        "dataclass": Event,
        "dataclass, slots, frozen": SlottedEvent,
    }


def field(item: Any, name: str) -> int:
    return item[name] if isinstance(item, dict) else getattr(item, name)


def as_tuple(item: Any) -> tuple[int, ...]:
    return tuple(field(item, name) for name in ("x", "y", "timestamp", "polarity"))


# One event.


def one(report: Report, module: ModuleType, samples: int) -> None:
    """The time of every single call; the time of the timer is in it, and shown."""
    rows: list[list[str]] = []
    clock = time.perf_counter_ns

    def measure(make: Callable[..., Any]) -> dict[str, float]:
        found = []
        for number in range(samples):
            given = arguments_of(number)
            start = clock()
            make(*given)
            found.append((clock() - start) / 1e9)
        return spread(found)

    all_makers = makers(module)
    for name, make in all_makers.items():
        verify(as_tuple(make(*arguments_of(12345))) == arguments_of(12345), f"one event as {name}")
    gc.collect()
    results = {"the timer and a call of nothing": measure(lambda *_: None)}
    results |= {name: measure(make) for name, make in all_makers.items()}
    loops = take_turns(
        {name: lambda make=make: make(7, 8, 9, 1) for name, make in all_makers.items()}, rounds=20, calls=10_000
    )
    for name, found in results.items():
        whole = human(min(loops[name]), "s") if name in loops else ""
        rows.append([name, *(human(found[key], "s") for key in ("p50", "p95", "p99")), whole])
    report.table(
        f"One event, made from Python ({samples:,} calls, each timed)",
        ["what", "p50", "p95", "p99", "in a loop, a call"],
        rows,
    )
    report.series["one_s"] = {name: {**found, "loop": min(loops.get(name, [0]))} for name, found in results.items()}
    report.ratio("one event: dataclass / extension class", min(loops["dataclass"]) / min(loops["extension class"]))


# Many.


def batch_makers(module: ModuleType) -> dict[str, Callable[[int], Any]]:
    """Ways to have so many events, as objects."""

    def loop(make: Callable[..., Any]) -> Callable[[int], list[Any]]:
        return lambda count: [make(*arguments_of(number)) for number in range(count)]

    found: dict[str, Callable[[int], Any]] = {
        f"{name}, from Python": loop(make) for name, make in makers(module).items()
    }
    return found | {"extension class, list made in Rust": module.events, "dict, list made in Rust": module.dicts}


def column_files(home: Path, count: int) -> tuple[Path, Path]:
    """The events in a recording, and in an observation log."""
    raw = home / f"{count}.raw"
    if not raw.exists():
        evlib.write_events(columns(count), raw, geometry=(WIDTH, HEIGHT))
        with ObLog(home / "log") as oblog:
            oblog.get_writer(f"events {count}", EventsCodec())(columns(count))
    return raw, ObLog(home / "log").channel(f"events {count}").files[0].path


def many(report: Report, module: ModuleType, home: Path, sizes: list[int], rounds: int) -> None:
    rows = []
    series: dict[str, dict[str, Any]] = {}
    for count in sizes:
        works: dict[str, Callable[[], Any]] = {}
        expected = [arguments_of(number) for number in range(count)]
        for name, make in batch_makers(module).items():
            verify([as_tuple(item) for item in make(count)] == expected, f"{count} events: {name}")
            works[name] = lambda make=make, count=count: make(count)
        raw, log = column_files(home, count)
        works["columns, decoded from EVT3 (`read_events`)"] = lambda raw=raw: evlib.read_events(raw)
        works["columns, views of a log (`read_events`)"] = lambda log=log: evlib.read_events(log)
        for name in list(works)[-2:]:
            verify(works[name]().equals(columns(count)), f"{count} events: {name}")
        found = take_turns(works, rounds=rounds)
        for name, seconds in found.items():
            middle = statistics.median(seconds)
            deviation = statistics.stdev(seconds) if len(seconds) > 1 else 0.0
            cells = [f"{count:,}", name, human(middle, "s"), human(deviation, "s"), f"{count / middle / MB:,.2f}"]
            rows.append(cells)
            series.setdefault(name, {})[str(count)] = {"median_s": middle, "deviation_s": deviation}
        middle = {name: statistics.median(seconds) for name, seconds in found.items()}
        objects = middle["extension class, list made in Rust"]
        report.ratio(
            f"{count:,} events: objects made in Rust / columns decoded",
            objects / middle["columns, decoded from EVT3 (`read_events`)"],
        )
    report.table("Many events", ["events", "as", "median", "deviation", "Mev/s"], rows)
    report.series["batches"] = series


def back(report: Report, module: ModuleType, rounds: int) -> None:
    """Python to Rust: what objects hold, summed up in Rust."""
    count = 100_000
    lists = {
        "extension class": (module.events(count), module.sum_of_objects),
        "extension class, by attributes": (module.events(count), module.sum_of_attributes),
        "dataclass": ([Event(*arguments_of(number)) for number in range(count)], module.sum_of_attributes),
        "dict": (module.dicts(count), module.sum_of_dicts),
    }
    frame = columns(count)
    x, y, timestamp, polarity = (frame[name].to_physical().cast(pl.Int64) for name in frame.columns)
    wanted = (x + 3 * y + 5 * timestamp + 7 * polarity).sum()
    works: dict[str, Callable[[], Any]] = {
        name: lambda work=work, items=items: work(items) for name, (items, work) in lists.items()
    }
    weigh = pl.col("x").cast(pl.Int64) + 3 * pl.col("y").cast(pl.Int64) + 5 * pl.col("timestamp").to_physical()
    query = (weigh + 7 * pl.col("polarity").cast(pl.Int64)).sum().alias("sum")
    works["columns, in Polars"] = lambda: frame.select(query).item()
    for name, work in works.items():
        verify(work() == wanted, f"sum over {name}")
    found = {name: statistics.median(seconds) for name, seconds in take_turns(works, rounds=rounds).items()}
    rows = [[name, human(seconds, "s"), f"{count / seconds / MB:,.1f}"] for name, seconds in found.items()]
    report.table(f"Back to Rust: {count:,} events summed up there", ["from", "median", "Mev/s"], rows)
    report.ratio("sum of events in Rust: dataclass / columns", found["dataclass"] / found["columns, in Polars"])


# Memory.


class Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_: ClassVar[list[tuple[str, Any]]] = [(name, ctypes.c_size_t) for name in NAMES]


def malloc_bytes() -> int | None:
    """Bytes in use of `malloc`; None where it cannot be asked."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    ask.restype = Mallinfo
    found = ask()
    return int(found.uordblks + found.hblkhd)


def memory_child(what: str, count: int, home: Path, measure: str) -> None:
    """Make events in a process of its own, and print the bytes that they take by one measure."""
    if what.startswith("columns"):
        raw, log = column_files(home, count)
        path = log if "log" in what else raw

        def make(_: int) -> Any:
            return evlib.read_events(path)

        evlib.read_events(column_files(home, 10)[int("log" in what)])
    else:
        make = batch_makers(extension())[what]
        make(10)
    gc.collect()
    if measure == "traced":
        tracemalloc.start()
        kept = make(count)
        now, peak = tracemalloc.get_traced_memory()
    else:
        before = (malloc_bytes() or 0) if measure == "malloc" else anonymous_bytes()[0]
        kept = make(count)
        now = peak = ((malloc_bytes() or 0) if measure == "malloc" else anonymous_bytes()[0]) - before
    json.dump({"now": now, "peak": peak, "events": len(kept)}, sys.stdout)


def memory(report: Report, home: Path, module: ModuleType, count: int) -> None:
    """Bytes an event takes, as Python traces it, as `malloc` counts it, and as the system sees it."""
    rows = []
    column_files(home, count)
    column_files(home, 10)
    names = [*batch_makers(module), "columns, decoded from EVT3", "columns, views of a log"]
    for name in names:
        cells = []
        for measure in ("traced", "malloc", "anonymous"):
            # Without Python's own allocator `malloc` sees all that both languages ask for.
            environment = os.environ | ({"PYTHONMALLOC": "malloc"} if measure == "malloc" else {})
            command = [sys.executable, __file__, "--memory-of", name, str(count), str(home), measure]
            run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found = json.loads(run.stdout)
            verify(found["events"] == count, f"number of events, {name}")
            cells.append(f"{found['now'] / count:,.1f}")
            if measure == "traced":
                cells.append(f"{found['peak'] / count:,.1f}")
            report.series.setdefault("bytes_an_event", {}).setdefault(name, {})[measure] = found["now"] / count
        rows.append([name, *cells])
    head = ["as", "tracemalloc", "its peak", "malloc, both languages", "RssAnon"]
    report.table(f"Bytes an event of {count:,}, each measure in a process of its own", head, rows)
    report.notes.append(
        "`tracemalloc` sees what Python's allocators gave; `malloc` (with PYTHONMALLOC=malloc) also what Rust asked "
        "for, but not memory that was mapped, such as evlib's columns; RssAnon sees every page, but only pages"
    )


# A pipeline of 1 kHz.


@register
class PointCodec:
    """An event and a moving average, 21 bytes."""

    name, version = "bench-point", 1
    layout: ClassVar[struct.Struct] = struct.Struct("<hhqbd")

    def encode(self, item: tuple[Any, float]) -> bytes:
        event, average = item
        return self.layout.pack(*as_tuple(event), average)

    def decode(self, payload: memoryview) -> tuple[int, int, int, int, float]:
        return self.layout.unpack(payload)


class MovingAverage:
    """Of the last `WINDOW` values."""

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=WINDOW)
        self.sum = 0.0

    def add(self, value: float) -> float:
        if len(self.values) == WINDOW:
            self.sum -= self.values[0]
        self.values.append(value)
        self.sum += value
        return self.sum / len(self.values)


def paced(work: Callable[[int], Any], *, ticks: int, rate: float) -> dict[str, Any]:
    """Do the work of every tick, at its time; how late it started and how long it took."""
    period = round(1e9 / rate)
    late, busy, missed = [], [], 0
    clock, sleep = time.perf_counter_ns, time.sleep
    origin = clock() + 10 * period
    for number in range(ticks):
        due = origin + number * period
        # Sleeping is late by some 60 us, so the last of it is waited for awake.
        while (left := due - clock()) > 0:
            if left > 200_000:
                sleep((left - 200_000) / 1e9)
        start = clock()
        work(number)
        end = clock()
        late.append((start - due) / 1e9)
        busy.append((end - start) / 1e9)
        missed += end > due + period
    return {
        "late": spread(late),
        "busy": spread(busy),
        "missed": missed,
        "ticks": ticks,
        "reached_hz": ticks / ((end - origin) / 1e9),
        "possible_hz": ticks / sum(busy),
    }


def pipeline(report: Report, module: ModuleType, home: Path, seconds: float, rate: float) -> None:
    """Make, average, log: a point a tick, and a packet of events a tick."""
    ticks = int(seconds * rate)
    rows = []

    def point_work(make: Callable[..., Any], write: Callable[..., None]) -> Callable[[int], None]:
        average = MovingAverage()

        def work(number: int) -> None:
            event = make(*arguments_of(number))
            write((event, average.add(field(event, "x"))), timestamp=number)

        return work

    def packet_work(write: Callable[..., None]) -> Callable[[int], None]:
        average = MovingAverage()
        packet = columns(PACKET)

        def work(number: int) -> None:
            found = packet.with_columns(pl.col("timestamp") + pl.duration(microseconds=number * PACKET))
            average.add(found["polarity"].sum())
            write(found, timestamp=number)

        return work

    log = ObLog(home / "pipeline")
    for name, make in makers(module).items():
        if name == "dataclass, slots, frozen":
            continue
        write = log.get_writer(name, PointCodec())
        found = paced(point_work(make, write), ticks=ticks, rate=rate)
        write.close()
        again = MovingAverage()
        expected = [(*arguments_of(number), again.add(number % WIDTH)) for number in range(ticks)]
        verify([item for _, item in log.channel(name)] == expected, f"what the pipeline logged from {name}")
        rows.append((f"{name}, 1 a tick", found))
    write = log.get_writer("packets", EventsCodec(geometry=(WIDTH, HEIGHT)))
    found = paced(packet_work(write), ticks=ticks, rate=rate)
    write.close()
    logged = log.channel("packets").load_events().select(pl.len(), pl.col("timestamp").to_physical().sum()).collect()
    verify(logged.row(0) == (ticks * PACKET, sum(range(ticks * PACKET))), "events that the pipeline logged")
    rows.append((f"columns, {PACKET:,} events a tick", found))

    cells = []
    for name, found in rows:
        late, busy = found["late"], found["busy"]
        cells.append(
            [
                name,
                f"{found['missed']} of {found['ticks']:,}",
                *(human(late[key], "s") for key in ("p50", "p99", "max", "deviation")),
                *(human(busy[key], "s") for key in ("p50", "p99", "max")),
                f"{found['reached_hz']:,.1f} Hz",
                f"{found['possible_hz']:,.0f} Hz",
            ]
        )
        report.figure(f"pipeline, {name}: deadlines missed", found["missed"], "")
    head = ["what", "missed", "late p50", "p99", "most", "jitter (deviation)", "work p50", "p99", "most"]
    head += ["rate reached", "work alone would allow"]
    report.table(f"Paced pipeline: make, average over {WINDOW}, log; {rate:g} Hz for {seconds:g} s", head, cells)
    report.series["pipeline"] = dict(rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=15.0, help="of each paced pipeline")
    options.add_argument("--rate", type=float, default=1000.0, help="ticks a second of it")
    options.add_argument("--memory-of", nargs=4, help="for the program itself: measure memory in this process")
    args: argparse.Namespace = options.parse_args()
    if args.memory_of:
        what, count, home, measure = args.memory_of
        memory_child(what, int(count), Path(home), measure)
        return
    module = extension()
    report = Report("boundary", "events across the boundary of Rust and Python")
    sizes = [1_000, 10_000] if args.quick else [1_000, 10_000, 100_000]
    with scratch(args) as home:
        one(report, module, 5_000 if args.quick else 50_000)
        many(report, module, home, sizes, 3 if args.quick else 15)
        back(report, module, 3 if args.quick else 15)
        memory(report, home, module, sizes[-1])
        pipeline(report, module, home, min(args.seconds, 2) if args.quick else args.seconds, args.rate)
    finish(report, args)


if __name__ == "__main__":
    main()
