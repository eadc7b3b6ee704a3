"""Arrays in the observation log: zero copy beside a copy and pickle, decoding alone, and reading beside writing.

    python benchmarks/numpy_codec.py [--json FILE] [--quick]

Every codec stores the same arrays; what is read is compared with what was written before anything is timed. `untouched`
is the time until the arrays are there, `summed` until every value has been looked at, which no codec can spare.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import GB, KB, MB, Report, finish, human, parser, scratch, size, take_turns, verify
from memory import CODECS, CopyCodec

from evlib.codecs import NumpyArrayCodec
from evlib.oblog import ObLog

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

MEMORY = Path(__file__).resolve().parent / "memory.py"
NAMES = {"numpy": "zero copy", "copy": "copy", "pickle": "pickle"}
SEED_DECODE = {KB: "0.97 us", MB: "0.97 us", 10 * MB: "0.99 us"}
WRITE_TARGET = {KB: 1.5e-6, MB: 250e-6}
SEED_WRITE = {KB: "568 us with opening", MB: "2,223 us with opening"}


def array(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).random(count // 8)


def read_all(folder: Path, channel: str, *, touch: bool = False) -> float:
    """Open the log and read a channel; returns the sum of what was looked at."""
    total = 0.0
    for _, item in ObLog(folder).channel(channel, allow_pickle=True):
        if touch:
            total += float(item.sum())
    return total


async def read_all_async(folder: Path, channel: str) -> int:
    oblog = ObLog(folder)
    count = 0
    async for _ in oblog.read_channel(channel):
        count += 1
    await oblog.close()
    return count


def pipeline(report: Report, home: Path, rounds: int) -> None:
    """The whole way: open, read ten arrays of 1 MB, close."""
    items = [array(MB) + number for number in range(10)]
    for name, codec in CODECS.items():
        with ObLog(home) as oblog:
            write = oblog.get_writer(name, codec())
            for item in items:
                write(item)
        found = [item for _, item in ObLog(home).channel(name, allow_pickle=True)]
        verify(all(map(np.array_equal, found, items)) and len(found) == len(items), f"arrays read with {name}")

    works: dict[str, Callable[[], Any]] = {NAMES[name]: lambda name=name: read_all(home, name) for name in CODECS}
    loop = asyncio.new_event_loop()
    works["zero copy, async"] = lambda: loop.run_until_complete(read_all_async(home, "numpy"))
    verify(works["zero copy, async"]() == len(items), "number of records read with async")
    plain = take_turns(works, rounds=rounds)
    loop.close()
    summed = take_turns(
        {NAMES[name]: lambda name=name: read_all(home, name, touch=True) for name in CODECS}, rounds=rounds
    )
    best = {name: min(values) for name, values in plain.items()}
    rows = []
    for name, values in plain.items():
        touched = min(summed[name]) if name in summed else None
        rows.append(
            [
                name,
                human(best[name], "s"),
                human(statistics.median(values), "s"),
                f"{best[name] / best['zero copy']:.1f}",
                "" if touched is None else human(touched, "s"),
                "" if touched is None else f"{touched / min(summed['zero copy']):.2f}",
            ]
        )
    head = ["codec", "untouched, best", "median", "times zero copy", "summed, best", "times zero copy"]
    report.table("Whole pipeline: open, read 10 arrays of 1 MB, close", head, rows)
    report.figure("open and read 10 x 1 MB", best["zero copy"], "s", seed="371 us (async)", at_most=200e-6)
    report.figure("the same, async", best["zero copy, async"], "s", seed="371 us", at_most=300e-6)
    report.figure(
        "pickle / zero copy, whole pipeline", best["pickle"] / best["zero copy"], "x", seed="3.0 x", at_least=3
    )
    report.ratio("pipeline: pickle / zero copy", best["pickle"] / best["zero copy"])
    report.ratio("pipeline: copy / zero copy", best["copy"] / best["zero copy"])
    report.series["pipeline_s"] = {**best, "summed": {name: min(values) for name, values in summed.items()}}


def decoding(report: Report, home: Path, sizes: list[int]) -> None:
    """Decoding alone, from a payload in the mapped file, at every size."""
    times: dict[int, dict[str, float]] = {}
    rows = []
    for count in sizes:
        item, channel = array(count), f"decode {count}"
        with ObLog(home) as oblog:
            oblog.get_writer(channel, NumpyArrayCodec())(item)
        payload = ObLog(home).channel(channel).record(0).payload
        view, copy = NumpyArrayCodec(), CopyCodec()
        pickled = pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
        for found in (view.decode(payload), copy.decode(payload), pickle.loads(pickled)):
            verify(np.array_equal(found, item), f"array of {size(count)}")
        works = {
            "zero copy": lambda codec=view, payload=payload: codec.decode(payload),
            "copy": lambda codec=copy, payload=payload: codec.decode(payload),
            "pickle": lambda pickled=pickled: pickle.loads(pickled),
        }
        short = {"zero copy": works["zero copy"]}
        found = {name: min(values) for name, values in take_turns(short, rounds=50, calls=1000).items()}
        long = {name: work for name, work in works.items() if name != "zero copy"}
        calls = 1000 if count <= KB else 1
        rounds = max(3, min(50, GB // count))
        found |= {name: min(values) for name, values in take_turns(long, rounds=rounds, calls=calls).items()}
        times[count] = found
        rows.append(
            [
                size(count),
                *(human(found[name], "s") for name in ("pickle", "copy", "zero copy")),
                f"{found['pickle'] / found['zero copy']:,.1f}",
                f"{found['copy'] / found['zero copy']:,.1f}",
            ]
        )
        del item, pickled, payload, works, long, short
        report.figure(f"decode {size(count)}", found["zero copy"], "s", seed=SEED_DECODE.get(count, ""), at_most=0.5e-6)
    head = ["array", "pickle", "copy", "zero copy", "faster than pickle by", "than a copy by"]
    report.table("Decoding alone (best of a call)", head, rows)
    values = [found["zero copy"] for found in times.values()]
    report.figure(
        f"slowest / fastest size, {size(min(sizes))} to {size(max(sizes))}", max(values) / min(values), "x", at_most=1.5
    )
    ratio = times[10 * MB]["pickle"] / times[10 * MB]["zero copy"]
    report.figure("pickle / zero copy, 10 MB", ratio, "x", seed="125 x", at_least=1000)
    report.ratio("decode 10 MB: pickle / zero copy", ratio)
    report.ratio("decode: fastest / slowest size", min(values) / max(values))
    report.series["decode_s"] = {str(count): found for count, found in times.items()}


def write_session(home: Path, item: np.ndarray[Any, Any]) -> None:
    with ObLog(home) as oblog:
        oblog.get_writer("session", NumpyArrayCodec())(item)


def fresh_session(home: Path, item: np.ndarray[Any, Any]) -> float:
    """Seconds to open a log, write one array and close it, in a new file."""
    for path in home.glob("session.*"):
        path.unlink()
    start = time.perf_counter()
    write_session(home, item)
    return time.perf_counter() - start


def reading_and_writing(report: Report, home: Path, rounds: int) -> None:
    """One array, small or large: the call of an open writer, and whole sessions."""
    rows = []
    series: dict[str, Any] = {}
    for count in (KB, MB):
        item, folder = array(count), home / f"sessions {count}"
        sessions = [fresh_session(folder, item) for _ in range(rounds)]
        found = ObLog(folder).channel("session")[0][1]
        verify(np.array_equal(found, item), f"array of {size(count)} read back")
        reads = take_turns({"read": lambda folder=folder: read_all(folder, "session")}, rounds=rounds)["read"]

        # An open writer. Calls come in bursts that its queue takes, as what a producer waits for is the call.
        burst, calls, whole = max(1, 20 * MB // count), [], []
        burst = min(burst, 5000)
        for _ in range(5):
            with ObLog(home / "open") as oblog:
                write = oblog.get_writer(f"writer {count}", NumpyArrayCodec())
                write(item)
                oblog.flush()
                start = time.perf_counter()
                for _ in range(burst):
                    write(item)
                calls.append((time.perf_counter() - start) / burst)
                oblog.flush()
                whole.append((time.perf_counter() - start) / burst)
            channel = ObLog(home / "open").channel(f"writer {count}")
            verify(len(channel) % (burst + 1) == 0, "every record is there")
            verify(np.array_equal(channel[-1][1], item), "the last record")
        call, until_written = min(calls), min(whole)
        rows.append([size(count), *(human(value, "s") for value in (call, until_written, min(sessions), min(reads)))])
        rows[-1].append(f"{min(sessions) / min(reads):.1f}")
        report.figure(
            f"write {size(count)}, with CRC",
            call,
            "s",
            seed="5.7 us" if count == KB else "222 us",
            at_most=WRITE_TARGET[count],
        )
        series[size(count)] = {
            "call": call,
            "until_written": until_written,
            "session": min(sessions),
            "read": min(reads),
        }
    head = ["array", "write: the call", "until the system has it", "session: open, write 1, close", "open, read 1"]
    report.table("Reading against writing", [*head, "writing / reading (seed: 1.0, 5.7)"], rows)
    report.series["read_write_s"] = series


def memory(report: Report, home: Path) -> None:
    """Memory of reading 76.3 MiB once and of reading 38.1 MiB five times, each codec in processes of its own."""
    rows = []
    for number, (count, reads) in enumerate([(80_000_000, 1), (40_000_000, 5)]):
        for codec, name in NAMES.items():
            folder = home / f"memory {number} {codec}"
            base = [sys.executable, str(MEMORY)]
            subprocess.run([*base, "write", str(folder), "--codec", codec, "--bytes", str(count)], check=True)
            run = subprocess.run(
                [*base, "read", str(folder), "--reads", str(reads)], check=True, capture_output=True, text=True
            )
            found = json.loads(run.stdout)
            verify(found["right"], f"array read with {codec}")
            verify((found["violations"] == []) == (codec == "numpy"), f"the check of {codec}: {found}")
            what = f"{count / 2**20:.1f} MiB, {reads} read{'s' if reads > 1 else ''}"
            rows.append(
                [
                    what,
                    name,
                    f"{found['anonymous_bytes'] / MB:+.1f} MB",
                    f"{found['minor_faults']:,}",
                    "yes" if found["views"] and found["read_only"] else "no",
                    str(found["mapped_after"]),
                    "passes" if not found["violations"] else "fails: " + ", ".join(found["violations"]),
                ]
            )
            if codec == "numpy":
                report.figure(f"memory of {what}", found["anonymous_bytes"], "B", seed="0.0 MB", at_most=0)
                report.figure(f"minor faults of {what}", found["minor_faults"], "", at_most=4)
                report.figure(f"mappings left after {what}", found["mapped_after"], "", at_most=0)
    head = ["what", "codec", "RssAnon", "minor faults", "read-only views", "mappings afterwards", "the check"]
    report.table("Memory, opening included", head, rows)


def flags(report: Report, home: Path) -> None:
    """What arrays of many types come back as."""
    record = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "i1")])
    dtypes = ["?", "u1", "<i2", ">i4", "<f2", "<f8", "<c16", "<M8[us]", "S5", "<U3", record]
    items = [np.zeros((3, 5), dtype) for dtype in dtypes] + [np.zeros((0, 4)), np.float32(1.5)]
    with ObLog(home) as oblog:
        write = oblog.get_writer("flags", NumpyArrayCodec())
        for item in items:
            write(item)
    views = read_only = aligned = 0
    for (_, found), item in zip(ObLog(home).channel("flags"), items, strict=True):
        wanted = np.asarray(item)
        verify(found.dtype == wanted.dtype and found.shape == wanted.shape, f"{found.dtype} {found.shape}")
        verify(found.tobytes() == wanted.tobytes(), f"values of {found.dtype}")
        views += found.base is not None and not found.flags.owndata
        read_only += not found.flags.writeable
        aligned += found.__array_interface__["data"][0] % 64 == 0
    rows = [[name, f"{count} of {len(items)}"] for name, count in (("views", views), ("read-only", read_only))]
    rows.append(["data at a multiple of 64 bytes", f"{aligned} of {len(items)}"])
    report.table("Arrays of every kind of type, structured, empty and without dimensions", ["what", "arrays"], rows)


def main(args: argparse.Namespace) -> None:
    report = Report("numpy_codec", "arrays in the observation log")
    sizes = [KB, MB, 10 * MB, 100 * MB if args.quick else GB]
    with scratch(args) as home:
        flags(report, home / "flags")
        pipeline(report, home / "pipeline", 20 if args.quick else 200)
        reading_and_writing(report, home, 10 if args.quick else 100)
        memory(report, home)
        decoding(report, home / "decode", sizes)
    finish(report, args)


if __name__ == "__main__":
    main(parser(__doc__).parse_args())
