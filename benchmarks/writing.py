"""Compare writing EVT3, DAT and Parquet with other libraries.

The events are those of a real recording, repeated with time going on. Every library writes them from an array or
table of its own kind, made beforehand, into a folder in memory (`--folder`, by default `/dev/shm`), in a process of its
own. What it wrote is read back by evlib and compared before it counts. The libraries take turns; seconds are the best
of the turns and ratios compare the best. Nothing here fails because something is slow.

    python benchmarks/writing.py [--events 20e6] [--formats evt3 dat parquet]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from compare import machine, table

import evlib

TARGET = 2.0
"""How many times faster than the fastest peer writing has to be."""

PEERS = {
    "evt3": ("evutils==0.3.18", "expelliarmus==1.1.12", "faery==0.7.1"),
    "dat": ("evutils==0.3.18", "expelliarmus==1.1.12", "faery==0.7.1"),
    "parquet": ("polars", "polars uncompressed", "pyarrow", "pyarrow uncompressed"),
}
SOURCES = {"evt3": "expelliarmus_evt3.raw", "dat": "faery_evt2.raw", "parquet": "expelliarmus_evt3.raw"}
SUFFIXES = {"evt3": ".raw", "dat": ".dat", "parquet": ".parquet"}

WORKER = """
import json, sys, time
import numpy as np

library, kind, source, target, width, height = sys.argv[1:]
library, _, compression = library.partition(" ")
size = int(width), int(height)
columns = dict(np.load(source))
x, y, t, p = (columns[name] for name in "xytp")

if library in ("evlib", "polars", "pyarrow"):
    import polars as pl
    frame = pl.DataFrame({"x": x, "y": y, "timestamp": t, "polarity": p}).cast({"timestamp": pl.Duration("us")})
if library == "evlib":
    import evlib
    work = lambda: evlib.write_events(frame, target, format=kind, geometry=size)
elif library == "polars":
    work = lambda: frame.write_parquet(target, **({"compression": compression} if compression else {}))
elif library == "pyarrow":
    import pyarrow.parquet
    rows = frame.to_arrow()
    work = lambda: pyarrow.parquet.write_table(rows, target, compression="none" if compression else "snappy")
elif library == "evutils":
    from evutils.io import EventWriter
    from evutils.types import EventArray
    events = EventArray(t=t, x=x.astype("u2"), y=y.astype("u2"), p=(p > 0).astype("u1"))
    def work():
        with EventWriter(target, width=size[0], height=size[1]) as writer:
            writer.write(events)
elif library == "expelliarmus":
    from expelliarmus import Wizard
    events = np.empty(len(t), [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")])
    events["t"], events["x"], events["y"], events["p"] = t, x, y, p > 0
    wizard = Wizard(encoding=kind)
    work = lambda: wizard.save(fpath=target, arr=events)
else:
    import faery
    events = np.empty(len(t), faery.EVENTS_DTYPE)
    events["t"], events["x"], events["y"], events["on"] = t, x, y, p > 0
    work = lambda: faery.events_stream_from_array(events, dimensions=size).to_file(target, zero_t0=False)

start = time.perf_counter()
work()
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def grow(source: Path, count: int, *, wide: bool) -> tuple[pl.DataFrame, tuple[int, int]]:
    """Repeat a recording until it has so many events."""
    recording = evlib.open(source)
    part = recording.read().sort("timestamp", maintain_order=True)
    assert recording.geometry is not None
    time = part["timestamp"].to_physical().to_numpy()
    time = time - time[0]
    repetitions = -(-count // part.height)
    step = int(time[-1]) + 1
    if not wide and repetitions * step >= 2**32:
        raise SystemExit(f"{source}: repeated {repetitions} times it is too long for DAT")
    times = (time[None, :] + step * np.arange(repetitions)[:, None]).ravel()
    whole = pl.concat([part] * repetitions, rechunk=True)
    whole = whole.with_columns(timestamp=pl.Series(times).cast(pl.Duration("us")))
    return whole.head(count), recording.geometry


def environments(requirements: set[str], folder: Path) -> dict[str, Path]:
    """Install each library that has a version here into an environment of its own."""
    found = {}
    for requirement in sorted(requirements):
        name, _, version = requirement.partition("==")
        if not version:
            continue
        python = folder / f"{name}-{version}" / "bin" / "python"
        if not python.exists():
            venv.create(python.parents[1], with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
        found[name] = python
    return found


def write(python: Path, library: str, kind: str, source: Path, target: Path, size: tuple[int, int]) -> float:
    """Write the file in a process of its own; the seconds it took."""
    target.unlink(missing_ok=True)
    command = [str(python), "-c", WORKER, library, kind, str(source), str(target), *map(str, size)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])
    seconds: float = json.loads(run.stdout.splitlines()[-1])["seconds"]
    return seconds


def answer(target: Path, kind: str, frame: pl.DataFrame, size: tuple[int, int]) -> str:
    """Compare what a file holds with what was written."""
    found = evlib.open(target, geometry=size).read() if kind != "parquet" else pl.read_parquet(target)
    if found.height != frame.height:
        return f"{found.height:,} events of {frame.height:,}"
    if found.equals(frame):
        return "equal"
    shift = (found["timestamp"] - frame["timestamp"]).dt.total_microseconds()
    if shift.n_unique() == 1 and found.drop("timestamp").equals(frame.drop("timestamp")):
        return f"times off by {shift[0]} us"
    return "other events or another order"


def measure(kind: str, args: argparse.Namespace, pythons: dict[str, Path], folder: Path) -> list[dict[str, Any]]:
    """Write one format with all libraries."""
    frame, size = grow(args.shared / "recordings" / SOURCES[kind], int(args.events), wide=kind != "dat")
    source = folder / "source.npz"
    physical = frame.with_columns(pl.col("timestamp").to_physical())
    names = {"x": "x", "y": "y", "timestamp": "t", "polarity": "p"}
    np.savez(source, **{short: physical[name].to_numpy() for name, short in names.items()})
    libraries = ["evlib", *(requirement.partition("==")[0] for requirement in PEERS[kind])]
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    answers: dict[str, str] = {}
    sizes: dict[str, float] = {}
    for turn in range(args.repeat + 1):
        for name in libraries:
            target = folder / f"{name}{SUFFIXES[kind]}"
            try:
                took = write(pythons.get(name, Path(sys.executable)), name, kind, source, target, size)
            except RuntimeError as error:
                answers[name] = f"failed: {error}"
                continue
            if turn == 0:  # what is verified is not timed
                answers[name] = answer(target, kind, frame, size)
                sizes[name] = target.stat().st_size / frame.height
            else:
                seconds[name].append(took)
            target.unlink(missing_ok=True)
    source.unlink()
    ours = min(seconds["evlib"])
    return [
        {
            "format": kind,
            "library": name,
            "answer": answers[name],
            "Mev_s": frame.height / min(taken) / 1e6 if taken else None,
            "bytes_per_event": sizes.get(name),
            "ratio": min(taken) / ours if taken else None,
        }
        for name, taken in seconds.items()
    ]


def main() -> int:
    """Verify, take turns, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--events", type=float, default=20e6)
    parser.add_argument("--formats", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shared", type=Path, default=here.parents[1] / "shared")
    parser.add_argument("--workdir", type=Path, default=here / "results", help="environments")
    parser.add_argument("--folder", default="/dev/shm", help="where files are written")
    args = parser.parse_args()
    pythons = environments({peer for kind in args.formats for peer in PEERS[kind]}, args.workdir / "venvs")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for kind in args.formats:
            rows += measure(kind, args, pythons, Path(folder))
    facts = machine()
    print(f"{facts}\n")
    shown = [
        [
            row["format"],
            row["library"],
            row["answer"],
            "-" if row["Mev_s"] is None else f"{row['Mev_s']:.1f}",
            "-" if row["bytes_per_event"] is None else f"{row['bytes_per_event']:.2f}",
            "-" if row["ratio"] is None or row["library"] == "evlib" else f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    print(table(["format", "library", "answer", "Mev/s", "B an event", "evlib is faster by"], shown))
    print(f"\nThe target is {TARGET:g} against the fastest of the others.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
