"""Compare reading and writing HDF5 with h5py and hdf5plugin on files of the public layouts.

The files are made here, by h5py and hdf5plugin, with fixed sizes and seeds. Answers are verified before anything is
timed; then the two take turns in one process, page cache warm, and a ratio compares the best runs. h5py reads the
columns as they are stored; evlib's side ends in its full columns (i64 microseconds). Nothing here fails because
something is slow.

    python benchmarks/hdf5.py [--events 30e6] [--folder FOLDER] [--only WORD ...]

With `--folder` the files are kept there and made only once; `--prepare` makes them and times nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import hdf5plugin
import numpy as np
import polars as pl
from compare import machine, table

import evlib

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, HEIGHT = 640, 480
DSEC = "Blosc zstd byte-shuffle 64 Ki"
WINDOWS = "300 windows of 50 k events"
WRITING = "writing DSEC, Blosc zstd"
PEAK = """
import sys, evlib

def most():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

before = most()
events = evlib.read_events(sys.argv[1])
print(most() - before, events.height)
"""


def events(count: int) -> dict[str, np.ndarray]:
    """Make moving edges and noise, about 10 million events a second."""
    random = np.random.default_rng(7)
    t = np.cumsum(random.choice(np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), count)).astype("i8")
    edge = random.integers(0, 24, count)
    x = (t // 700 + 53 * edge + random.integers(0, 3, count)) % WIDTH
    y = (random.integers(0, HEIGHT, count) // 3 * 3 + edge) % HEIGHT
    p = (edge + random.integers(0, 8, count) // 7) % 2
    return {"x": x.astype("u2"), "y": y.astype("u2"), "p": p.astype("u1"), "t": t}


def write_columns(path: Path, columns: dict[str, np.ndarray], **options: Any) -> None:
    """One data set a column, and `ms_to_idx`."""
    chunks = options.pop("chunks", 65536)
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            chunk = chunks[name[0]] if isinstance(chunks, dict) else chunks
            file.create_dataset(f"events/{name}", data=values, chunks=(chunk,), **options)
        t = columns.get("t")
        if t is not None:
            file["ms_to_idx"] = np.searchsorted(t, np.arange(t[-1] // 1000 + 1) * 1000).astype("u8")
            file["t_offset"] = np.int64(0)


def make(name: str, path: Path, found: dict[str, np.ndarray]) -> None:
    """Write one of the files."""
    dsec = {**found, "t": found["t"].astype("u4")}
    floats = {
        "xs": found["x"].astype("i2"),
        "ys": found["y"].astype("i2"),
        "ts": found["t"] / 1e6,
        "ps": found["p"] > 0,
    }
    if name == DSEC:
        write_columns(path, dsec, **hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=1))
    elif name == "Blosc zstd bit-shuffle, auto chunks":
        chunks = {"x": 4096, "y": 4096, "p": 8192, "t": 2048}
        write_columns(path, dsec, chunks=chunks, **hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=2))
    elif name == "gzip 4, 64 Ki":
        write_columns(path, floats, compression="gzip", compression_opts=4)
    elif name == "shuffle + gzip 4, 64 Ki":
        write_columns(path, floats, compression="gzip", compression_opts=4, shuffle=True)
    elif name == "unfiltered, 1024":
        write_columns(path, floats, chunks=1024)
    elif name == "LZF 64 Ki":
        write_columns(path, {**found}, compression="lzf")
    elif name == "ECF":
        frame = {"x": found["x"], "y": found["y"], "timestamp": found["t"], "polarity": found["p"] > 0}
        evlib.write_events(frame, path, format="hdf5", layout="prophesee", geometry=(WIDTH, HEIGHT), overwrite=True)


READ = {
    DSEC: 2.5,
    "Blosc zstd bit-shuffle, auto chunks": 7.0,
    "gzip 4, 64 Ki": 4.5,
    "shuffle + gzip 4, 64 Ki": 5.0,
    "unfiltered, 1024": 6.0,
    "LZF 64 Ki": 3.0,
}
"""Files, and how many times faster than h5py reading them has to be."""


def raw(path: Path) -> dict[str, np.ndarray]:
    """Read the columns as h5py gives them."""
    with h5py.File(path) as file:
        return {name: data[:] for name, data in file["events"].items()}


def verify(path: Path, found: dict[str, np.ndarray]) -> None:
    frame = evlib.read_events(path)
    same = (
        np.array_equal(frame["x"].to_numpy(), found["x"])
        and np.array_equal(frame["y"].to_numpy(), found["y"])
        and np.array_equal(frame["timestamp"].to_physical().to_numpy(), found["t"])
        and np.array_equal(frame["polarity"].to_numpy() > 0, found["p"] > 0)
    )
    if not same:
        raise SystemExit(f"{path}: the answers differ")


def take_turns(ours: Callable[[], Any], theirs: Callable[[], Any], repeat: int) -> tuple[float, float]:
    """Best seconds of each."""
    best = [float("inf"), float("inf")]
    for _ in range(repeat):
        for number, work in enumerate((ours, theirs)):
            start = time.perf_counter()
            result = work()
            best[number] = min(best[number], time.perf_counter() - start)
            del result
    return best[0], best[1]


def windows(path: Path, found: dict[str, np.ndarray], repeat: int) -> tuple[float, float]:
    """300 windows of 50,000 events at random places, by time."""
    random = np.random.default_rng(3)
    rows = random.integers(0, len(found["t"]) - 50_000, 300)
    spans = [(int(found["t"][row]), int(found["t"][row + 50_000])) for row in rows]
    recording = evlib.open(path)
    recording.read(time_range=spans[0])

    def theirs() -> int:
        total = 0
        with h5py.File(path) as file:
            group, index = file["events"], file["ms_to_idx"]
            for start, end in spans:
                low = int(index[start // 1000])
                high = int(index[end // 1000 + 1]) if end // 1000 + 1 < len(index) else len(group["t"])
                t = group["t"][low:high]
                first, last = np.searchsorted(t, [start, end])
                columns = [group[name][low + first : low + last] for name in ("x", "y", "p")]
                total += len(columns[0])
        return total

    def ours() -> int:
        return sum(recording.read(time_range=span).height for span in spans)

    if ours() != theirs():
        raise SystemExit("windows: the answers differ")
    return take_turns(ours, theirs, repeat)


def peak_over_columns(path: Path, count: int) -> int:
    """Bytes that reading a whole file in a process of its own takes at most, over those of its columns."""
    run = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    kilobytes, height = map(int, run.stdout.split())
    if height != count:
        raise SystemExit(f"{path}: {height} events of {count}")
    return kilobytes * 1024 - 13 * count


class Report:
    """Rows of the table, and the same as JSON."""

    def __init__(self, events: int) -> None:
        self.events = events
        self.rows: list[list[str]] = []
        self.figures: dict[str, dict[str, Any]] = {}

    def add(self, what: str, ours: float, theirs: float | None, target: str, rate: str = "", **more: Any) -> None:
        """Add a row."""
        rate = rate or f"{self.events / ours / 1e6:.0f} Mev/s"
        peak = more.get("peak_over_columns_bytes")
        self.rows.append(
            [
                what,
                f"{ours:.3f} s",
                rate,
                "" if theirs is None else f"{theirs:.3f} s",
                "" if theirs is None else f"{theirs / ours:.2f}x",
                target,
                "" if peak is None else f"{peak / 1e6:.0f} MB",
            ]
        )
        self.figures[what] = {"ours_s": ours, "theirs_s": theirs, "target": target, **more}
        print(self.rows[-1], file=sys.stderr, flush=True)


def bench_reading(name: str, path: Path, found: dict[str, np.ndarray], repeat: int, report: Report) -> None:
    ours, theirs = take_turns(lambda: evlib.read_events(path), lambda: raw(path), repeat)
    peak = peak_over_columns(path, len(found["t"]))
    report.add(name, ours, theirs, f">= {READ[name]}x", peak_over_columns_bytes=peak)


def bench_windows(path: Path, found: dict[str, np.ndarray], repeat: int, report: Report) -> None:
    ours, theirs = windows(path, found, repeat)
    report.add(WINDOWS, ours, theirs, ">= 3x", f"{ours / 300 * 1e3:.2f} ms each")


def bench_ecf(path: Path, found: dict[str, np.ndarray], repeat: int, report: Report) -> None:
    evt2 = path.parent / "same.raw"
    if not evt2.exists():
        evlib.write_events(evlib.read_events(path), evt2, format="evt2", geometry=(WIDTH, HEIGHT))
    if not evlib.read_events(evt2).equals(evlib.read_events(path)):
        raise SystemExit(f"{evt2}: the answers differ")
    ours, other = take_turns(lambda: evlib.read_events(path), lambda: evlib.read_events(evt2), repeat)
    peak = peak_over_columns(path, len(found["t"]))
    report.add("ECF", ours, None, ">= 300 Mev/s", peak_over_columns_bytes=peak)
    report.add("EVT2 of the same events", other, None, "")


def bench_writing(folder: Path, found: dict[str, np.ndarray], repeat: int, report: Report) -> None:
    ours, theirs = folder / "written.h5", folder / "written_by_h5py.h5"
    t = pl.Series(found["t"]).cast(pl.Duration("us"))
    frame = pl.DataFrame(
        {
            "x": found["x"].astype("i2"),
            "y": found["y"].astype("i2"),
            "timestamp": t,
            "polarity": found["p"].astype("i1") * 2 - 1,
        }
    )
    stored = {**found, "t": found["t"].astype("u4")}

    def write() -> None:
        evlib.write_events(frame, ours, format="hdf5", layout="dsec", geometry=(WIDTH, HEIGHT), overwrite=True)

    def write_with_h5py() -> None:
        write_columns(theirs, stored, **hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=1))

    seconds = take_turns(write, write_with_h5py, repeat)
    for path in (ours, theirs):
        verify(path, found)
    report.add(WRITING, *seconds, ">= 1.7x", bytes=[ours.stat().st_size, theirs.stat().st_size])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=lambda text: int(float(text)), default=30_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are made and kept; by default a temporary folder")
    parser.add_argument("--only", nargs="*", help="the rows of the table whose names contain one of these")
    parser.add_argument("--prepare", action="store_true", help="make and verify the files, and time nothing")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    args = parser.parse_args()
    report = Report(args.events)
    found = events(args.events)

    def chosen(name: str) -> bool:
        return not args.only or any(word.lower() in name.lower() for word in args.only)

    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = (args.folder or Path(scratch)) / str(args.events)
        folder.mkdir(parents=True, exist_ok=True)

        def made(name: str) -> Path:
            path = folder / f"{name.replace(' ', '_').replace(',', '')}.h5"
            if not path.exists():
                partial = path.with_suffix(".part")
                make(name, partial, found)
                partial.rename(path)
            verify(path, found)
            return path

        for name in READ:
            if chosen(name):
                path = made(name)
                if not args.prepare:
                    bench_reading(name, path, found, args.repeat, report)
        if chosen(WINDOWS):
            path = made(DSEC)
            if not args.prepare:
                bench_windows(path, found, args.repeat, report)
        if chosen("ECF"):
            path = made("ECF")
            if not args.prepare:
                bench_ecf(path, found, args.repeat, report)
        if chosen(WRITING) and not args.prepare:
            bench_writing(folder, found, args.repeat, report)
    print(table(["file", "evlib", "rate", "h5py", "ratio", "target", "peak over columns"], report.rows))
    if args.json:
        described = {"machine": machine(), "events": args.events, "figures": report.figures}
        args.json.write_text(json.dumps(described, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
