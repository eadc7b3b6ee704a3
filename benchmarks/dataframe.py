"""Events as a DataFrame: bytes an event, loading, filtering; beside the seed's figures and the way of four copies.

    python benchmarks/dataframe.py [--json FILE] [--quick] [--events 50e6]

The way of four copies is what evlib once did, written out in `four_copies`: file to structures, structures to arrays,
arrays into a dict, dict to a DataFrame. Both ways read the same DAT file, whose words NumPy can take apart without a
loop, so that the difference is the copies and not the speed of Python. Whole reads are processes of their own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from harness import GB, MB, Report, finish, human, parser, scratch, take_turns, verify
from worker import anonymous_bytes, settle, warm

import evlib

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

WIDTH, HEIGHT = 640, 480
BLOCK = 1_000_000
SAMPLE_S = 0.002
SEED_BYTES, SEED_LOADING, SEED_FILTER = "35.8 B", "2.18 Mev/s", "463 Mev/s"
FILTER_TARGET = 600.0
HEADER = (
    f"% Data file containing CD events.\n% Version 2\n% Height {HEIGHT}\n% Width {WIDTH}\n% end\n".encode()
    + b"\x0c\x08"
)


def block(number: int, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Events of a moving edge: pixels near each other, mixed polarity, 10 events a microsecond."""
    rng = np.random.default_rng(number)
    at = np.arange(number * BLOCK, number * BLOCK + rows)
    return {
        "x": ((at // 700 + rng.integers(0, 8, rows)) % WIDTH).astype(np.int16),
        "y": rng.integers(0, HEIGHT, rows).astype(np.int16),
        "timestamp": at // 10,
        "polarity": rng.choice(np.array([-1, 1], np.int8), rows),
    }


def blocks(events: int) -> list[tuple[int, int]]:
    return [(number, min(BLOCK, events - number * BLOCK)) for number in range(-(-events // BLOCK))]


def write_dat(path: Path, events: int) -> None:
    with path.open("wb") as file:
        file.write(HEADER)
        for number, rows in blocks(events):
            made = block(number, rows)
            words = np.empty((rows, 2), "<u4")
            words[:, 0] = made["timestamp"]
            on = (made["polarity"] > 0).astype(np.uint32)
            words[:, 1] = made["x"].astype(np.uint32) | made["y"].astype(np.uint32) << 14 | on << 28
            words.tofile(file)


def is_right(frame: pl.DataFrame, events: int) -> bool:
    """Whether a frame has the events, looked at block by block."""
    if frame.height != events or frame.schema != pl.Schema(
        {"x": pl.Int16, "y": pl.Int16, "timestamp": pl.Duration("us"), "polarity": pl.Int8}
    ):
        return False
    for number, rows in blocks(events):
        part = frame.slice(number * BLOCK, rows)
        if not all(
            np.array_equal(part[name].to_physical().to_numpy(), made) for name, made in block(number, rows).items()
        ):
            return False
    return True


# Ways of loading.


def one_pass(path: Path) -> pl.DataFrame:
    return evlib.read_events(path)


def four_copies(path: Path) -> pl.DataFrame:
    """File to structures, structures to arrays, arrays into a dict, dict to a DataFrame."""
    words = np.fromfile(path, "<u4", offset=len(HEADER)).reshape(-1, 2)
    # 1. An event is a structure, with every field a whole word, as it was.
    structures = np.empty(len(words), [("x", "<i8"), ("y", "<i8"), ("t", "<i8"), ("p", "<i8")])
    structures["x"] = words[:, 1] & 0x3FFF
    structures["y"] = words[:, 1] >> 14 & 0x3FFF
    structures["t"] = words[:, 0]
    structures["p"] = (words[:, 1] >> 28 & 1).astype(np.int64) * 2 - 1
    del words
    # 2. Arrays of the fields.
    arrays = {name: np.ascontiguousarray(structures[name]) for name in ("x", "y", "t", "p")}
    # 3. A dict for Python, with arrays of its own.
    found = {name: array.copy() for name, array in arrays.items()}
    # 4. Columns of the types that they have.
    made = pl.DataFrame(found).select(
        pl.col("x").cast(pl.Int16),
        pl.col("y").cast(pl.Int16),
        pl.col("t").cast(pl.Duration("us")).alias("timestamp"),
        pl.col("p").cast(pl.Int8).alias("polarity"),
    )
    del structures, arrays, found
    return made


WAYS: dict[str, Callable[[Path], pl.DataFrame]] = {"evlib": one_pass, "four copies": four_copies}


def load_child(way: str, path: Path, events: int, small: Path) -> None:
    """Load in this process; print seconds, and anonymous memory over what there was before, at most and at the end."""
    load = WAYS[way]
    load(small)
    warm(str(path))
    settle(max(256 << 20, 16 * events))
    start_bytes = peak = anonymous_bytes()[0]
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_S):
            peak = max(peak, anonymous_bytes()[0])

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    frame = load(path)
    seconds = time.perf_counter() - start
    done.set()
    sampler.join()
    end = anonymous_bytes()[0]
    found = {"seconds": seconds, "peak": max(peak, end) - start_bytes, "kept": end - start_bytes}
    found["right"] = is_right(frame, events)
    json.dump(found, sys.stdout)


def loading(report: Report, home: Path, events: int, rounds: int) -> Path:
    path, small = home / "events.dat", home / "small.dat"
    write_dat(path, events)
    write_dat(small, 1000)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, found in runs.items():
            command = [sys.executable, __file__, "--load", way, str(path), str(events), str(small)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(run.stdout))
            verify(found[-1]["right"], f"events loaded by {way}")
    rows, best = [], {}
    for way, found in runs.items():
        seconds = min(run["seconds"] for run in found)
        kept, peak = (max(run[name] for run in found) / events for name in ("kept", "peak"))
        best[way] = {"seconds": seconds, "kept": kept, "peak": peak}
        rows.append([way, human(seconds, "s"), f"{events / seconds / MB:,.1f}", f"{kept:.1f}", f"{peak:.1f}"])
    head = ["way", "best", "Mev/s", "B an event, at the end", "at most"]
    report.table(f"Loading {events:,} events from DAT, {path.stat().st_size / MB:.0f} MB, page cache warm", head, rows)
    ours, theirs = best["evlib"], best["four copies"]
    report.figure("memory of a loaded event", ours["kept"], "B", seed=SEED_BYTES, at_most=14.8)
    report.figure("memory of loading, at most, an event", ours["peak"], "B", at_most=14.8)
    report.figure("loading", events / ours["seconds"] / MB, "Mev/s", seed=SEED_LOADING)
    report.figure("the way of four copies: memory at most, an event", theirs["peak"], "B", seed="160 B (stated)")
    report.figure("the way of four copies: loading", events / theirs["seconds"] / MB, "Mev/s")
    report.ratio("loading: four copies / evlib, time", theirs["seconds"] / ours["seconds"])
    report.ratio("loading: four copies / evlib, memory at most", theirs["peak"] / ours["peak"])
    report.series["loading"] = best
    return path


def filtering(report: Report, path: Path, events: int, rounds: int) -> None:
    """Polarity of events in memory: rows that are kept, counted, and copied out."""
    frame = evlib.read_events(path)
    on = pl.col("polarity") == 1
    polarity = frame["polarity"].to_numpy()
    wanted = int((polarity == 1).sum())
    rows_of_file: np.ndarray[Any, Any] = np.flatnonzero(polarity == 1)

    # The old layout: every field in 8 bytes.
    wide = frame.select(pl.col("x", "y", "polarity").cast(pl.Int64), pl.col("timestamp"))
    works: dict[str, tuple[Callable[[], Any], Callable[[Any], bool]]] = {
        "`filter(polarity == 1)`, all columns": (
            lambda: frame.filter(on),
            lambda found: found.equals(frame[rows_of_file]),
        ),
        "the same, lazy": (lambda: frame.lazy().filter(on).collect(), lambda found: found.equals(frame[rows_of_file])),
        "`filter(polarity == 1)`, count": (
            lambda: frame.lazy().filter(on).select(pl.len()).collect().item(),
            lambda found: found == wanted,
        ),
        "`filter(polarity == 1)`, `x` and `y`": (
            lambda: frame.lazy().filter(on).select("x", "y").collect(),
            lambda found: found.equals(frame.select("x", "y")[rows_of_file]),
        ),
        "the mask alone, `polarity == 1`": (
            lambda: frame["polarity"] == 1,
            lambda found: found.sum() == wanted,
        ),
        "NumPy, mask and four `array[mask]`": (
            lambda: numpy_filter(frame),
            lambda found: np.array_equal(found["timestamp"], frame["timestamp"].to_physical().to_numpy()[rows_of_file]),
        ),
        "all columns, each of 8 bytes (the old layout)": (
            lambda: wide.filter(on),
            lambda found: found.height == wanted and found["timestamp"].equals(frame["timestamp"][rows_of_file]),
        ),
    }
    for name, (work, right) in works.items():
        verify(right(work()), name)
    found = take_turns({name: work for name, (work, _) in works.items()}, rounds=rounds)
    rows = []
    speed = {}
    for name, seconds in found.items():
        best = min(seconds)
        speed[name] = events / best / MB
        rows.append([name, human(best, "s"), human(statistics.median(seconds), "s"), f"{speed[name]:,.0f}"])
    report.table(
        f"Filtering {events:,} events in memory, {wanted / events:.0%} kept", ["what", "best", "median", "Mev/s"], rows
    )
    whole = "`filter(polarity == 1)`, all columns"
    report.figure("filter on polarity, all columns", speed[whole], "Mev/s", seed=SEED_FILTER, at_least=FILTER_TARGET)
    report.figure(
        "filter on polarity, count",
        speed["`filter(polarity == 1)`, count"],
        "Mev/s",
        seed=SEED_FILTER,
        at_least=FILTER_TARGET,
    )
    report.ratio(
        "filter: old layout / this one, time", speed[whole] / speed["all columns, each of 8 bytes (the old layout)"]
    )
    report.ratio("filter: NumPy / Polars, time", speed[whole] / speed["NumPy, mask and four `array[mask]`"])
    report.series["filter_mev_s"] = speed
    report.notes.append(
        f"A filter that keeps half of all columns writes {6.5 * events / GB:.2f} GB of fresh memory; what that costs "
        "is the system's and the allocator's, and the count has none of it"
    )


def numpy_filter(frame: pl.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {name: frame[name].to_physical().to_numpy() for name in frame.columns}
    mask = arrays["polarity"] == 1
    return {name: array[mask] for name, array in arrays.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--events", type=float, default=50e6)
    options.add_argument("--load", nargs=4, help="for the program itself: load in this process")
    args: argparse.Namespace = options.parse_args()
    if args.load:
        way, path, events, small = args.load
        load_child(way, Path(path), int(events), Path(small))
        return
    events = int(min(args.events, 2e6) if args.quick else args.events)
    report = Report("dataframe", "events as a DataFrame")
    with scratch(args) as home:
        path = loading(report, home, events, 1 if args.quick else 3)
        filtering(report, path, events, 3 if args.quick else 7)
    finish(report, args)


if __name__ == "__main__":
    main()
