"""The observation log beside its targets, and beside pickle, `np.load`, Arrow IPC and MCAP, in one run.

    python benchmarks/log_figures.py [--json FILE] [--quick]

Every store gets the same arrays and gives arrays back, which are compared before anything is timed. What the others do
not do is not held against them, but said: np.load has a file for each array, pickle has no times, the `mcap` library
copies, and none but the log has a checksum for each record.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from harness import KB, MB, Report, finish, human, parser, scratch, size, spread, take_turns, verify
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from worker import anonymous_bytes, settle

import evlib
from evlib.codecs import BytesCodec, EventsCodec, NumpyArrayCodec
from evlib.oblog import ObLog

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

Array = np.ndarray[Any, Any]
EVENTS = 1_000_000
TAIL_BYTES = KB
PACED_HZ = 100


# Stores: each writes items to a place, and reads them back in order.


class Store:
    """A way to store arrays; `open_writer` gives the function that writes one, and the one that closes."""

    name = ""

    def open_writer(self, place: Path, like: Array) -> tuple[Callable[[Array], Any], Callable[[], Any]]:
        raise NotImplementedError

    def read(self, place: Path, like: Array) -> Iterator[Array]:
        raise NotImplementedError


class LogStore(Store):
    name = "observation log"

    def open_writer(self, place: Path, like: Array) -> tuple[Callable[[Array], Any], Callable[[], Any]]:
        del like
        oblog = ObLog(place)
        return oblog.get_writer("arrays", NumpyArrayCodec()), oblog.close

    def read(self, place: Path, like: Array) -> Iterator[Array]:
        del like
        return (item for _, item in ObLog(place).channel("arrays"))


class PickleStore(Store):
    name = "pickle, one file"

    def open_writer(self, place: Path, like: Array) -> tuple[Callable[[Array], Any], Callable[[], Any]]:
        del like
        file = place.open("wb")
        return lambda item: pickle.dump(item, file, protocol=pickle.HIGHEST_PROTOCOL), file.close

    def read(self, place: Path, like: Array) -> Iterator[Array]:
        del like
        with place.open("rb") as file:
            while True:
                try:
                    yield pickle.load(file)
                except EOFError:
                    return


class NumpyStore(Store):
    name = "np.save, np.load(mmap_mode='r'), a file an array"

    def open_writer(self, place: Path, like: Array) -> tuple[Callable[[Array], Any], Callable[[], Any]]:
        del like
        place.mkdir()
        numbers = iter(range(1 << 30))
        return lambda item: np.save(place / f"{next(numbers):06}.npy", item), lambda: None

    def read(self, place: Path, like: Array) -> Iterator[Array]:
        del like
        return (np.load(path, mmap_mode="r") for path in sorted(place.iterdir()))


class ArrowStore(Store):
    name = "pyarrow IPC file, memory_map"

    def open_writer(self, place: Path, like: Array) -> tuple[Callable[[Array], Any], Callable[[], Any]]:
        schema = pa.schema([("values", pa.from_numpy_dtype(like.dtype))])
        sink = pa.OSFile(str(place), "wb")
        writer = pa.ipc.new_file(sink, schema)

        def close() -> None:
            writer.close()
            sink.close()

        return lambda item: writer.write_batch(pa.record_batch([pa.array(item)], schema=schema)), close

    def read(self, place: Path, like: Array) -> Iterator[Array]:
        del like
        reader = pa.ipc.open_file(pa.memory_map(str(place)))
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number).column(0).to_numpy()


class McapStore(Store):
    name = "mcap (Python)"

    def open_writer(self, place: Path, like: Array) -> tuple[Callable[[Array], Any], Callable[[], Any]]:
        del like
        file = place.open("wb")
        writer = McapWriter(file, compression=CompressionType.NONE)
        writer.start()
        channel = writer.register_channel("arrays", "bytes", 0)

        def close() -> None:
            writer.finish()
            file.close()

        return lambda item: writer.add_message(channel, time.time_ns(), item.tobytes(), time.time_ns()), close

    def read(self, place: Path, like: Array) -> Iterator[Array]:
        with place.open("rb") as file:
            for _, _, message in make_reader(file, validate_crcs=True).iter_messages():
                yield np.frombuffer(message.data, like.dtype)


STORES: list[Store] = [LogStore(), PickleStore(), NumpyStore(), ArrowStore(), McapStore()]


def fill(store: Store, place: Path, items: list[Array]) -> None:
    write, close = store.open_writer(place, items[0])
    for item in items:
        write(item)
    close()
    found = list(store.read(place, items[0]))
    verify(len(found) == len(items) and all(map(np.array_equal, found, items)), f"arrays of {store.name}")


def remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()


def array(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(count // 8)


# The lines of the table.


def decode(report: Report, home: Path) -> None:
    """One array from bytes that are there."""
    rows = []
    for count in (KB, MB, 10 * MB, 100 * MB):
        item = array(count)
        place = home / f"decode {count}"
        fill(LogStore(), place, [item])
        payload = ObLog(place).channel("arrays").record(0).payload
        pickled = pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)
        file = io.BytesIO()
        np.save(file, item)
        sink = pa.BufferOutputStream()
        pa.ipc.write_tensor(pa.Tensor.from_numpy(item), sink)
        tensor, codec = sink.getvalue(), NumpyArrayCodec()
        works: dict[str, Callable[[], Any]] = {
            "observation log": lambda codec=codec, payload=payload: codec.decode(payload),
            "pyarrow, read_tensor": lambda tensor=tensor: pa.ipc.read_tensor(pa.BufferReader(tensor)).to_numpy(),
            "pickle": lambda pickled=pickled: pickle.loads(pickled),
            "np.load": lambda file=file: (file.seek(0), np.load(file))[1],
        }
        for name, work in works.items():
            verify(np.array_equal(work(), item), f"decoded by {name}")
        best = {}
        for name, work in works.items():
            copies = name in ("pickle", "np.load") and count > KB
            turns = take_turns({name: work}, rounds=max(3, min(30, 200 * MB // count)), calls=1 if copies else 300)
            best[name] = min(turns[name])
        ours = best["observation log"]
        rows.append([size(count), *(human(best[name], "s") for name in works), f"{best['pickle'] / ours:,.0f}"])
        report.figure(f"decode {size(count)}", ours, "s", seed="0.97 us", at_most=0.5e-6)
        if count == 10 * MB:
            report.figure(
                "decode 10 MB: faster than pickle by", best["pickle"] / ours, "x", seed="125 x", at_least=1000
            )
    head = ["array", "observation log", "pyarrow, read_tensor", "pickle", "np.load", "faster than pickle by"]
    report.table("Decoding an array from bytes in memory", head, rows)


def open_and_read(report: Report, home: Path, rounds: int) -> None:
    """Ten arrays, from opening to closing, untouched."""
    rows = []
    for each in (MB, 10 * MB):
        items = [array(each, seed) for seed in range(10)]
        works: dict[str, Callable[[], Any]] = {}
        for number, store in enumerate(STORES):
            place = home / f"read {each} {number}"
            fill(store, place, items)
            works[store.name] = lambda store=store, place=place, like=items[0]: list(store.read(place, like))
        loop = asyncio.new_event_loop()

        async def read_async(place: Path = home / f"read {each} 0") -> int:
            oblog = ObLog(place)
            found = [item async for item in oblog.read_channel("arrays")]
            await oblog.close()
            return len(found)

        works["observation log, async"] = lambda loop=loop, read=read_async: loop.run_until_complete(read())
        verify(works["observation log, async"]() == 10, "records read with async")
        works["observation log, verify='all'"] = lambda place=home / f"read {each} 0": list(
            ObLog(place).channel("arrays", verify="all")
        )
        found = {name: min(seconds) for name, seconds in take_turns(works, rounds=rounds).items()}
        loop.close()
        ours = found["observation log"]
        for name, seconds in found.items():
            rows.append([f"10 x {size(each)}", name, human(seconds, "s"), f"{seconds / ours:,.1f}"])
        if each == MB:
            report.figure("open and read 10 x 1 MB", ours, "s", seed="371 us (async)", at_most=200e-6)
            report.figure("the same, async", found["observation log, async"], "s", seed="371 us", at_most=300e-6)
        for name in ("pickle, one file", NumpyStore.name, ArrowStore.name, McapStore.name):
            limit = 3 if name.startswith("pickle") and each == MB else None
            seed = "3.0 x" if limit else ""
            report.figure(f"10 x {size(each)}: {name} / log", found[name] / ours, "x", seed=seed, at_least=limit)
            report.ratio(f"open and read 10 x {size(each)}: {name} / log", found[name] / ours)
    report.table("Open, read ten arrays, close; untouched", ["what", "store", "best", "times the log"], rows)


def paced_calls(write: Callable[[Array], Any], item: Array, calls: int) -> list[float]:
    """Seconds of calls that come at 100 Hz, as a sensor's do."""
    found, due = [], time.perf_counter()
    for _ in range(calls):
        due += 1 / PACED_HZ
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        write(item)
        found.append(time.perf_counter() - start)
    return found


def writing(report: Report, home: Path, *, quick: bool) -> None:
    """The call that a producer waits for, in bursts and paced, and the whole session with closing."""
    rows = []
    settle(1 << 30)
    for each, burst in ((KB, 5000), (MB, 20), (10 * MB, 10)):
        item = array(each)
        calls: dict[str, list[float]] = {store.name: [] for store in STORES}
        sessions: dict[str, list[float]] = {store.name: [] for store in STORES}
        paced: dict[str, float] = {}
        for turn in range(2 if quick else 6):
            for number, store in enumerate(STORES):
                count = 200 if each == KB and store.name == NumpyStore.name else burst
                place = home / f"write {each} {number} {turn}"
                gc.collect()
                start = time.perf_counter()
                write, close = store.open_writer(place, item)
                first = time.perf_counter()
                for _ in range(count):
                    write(item)
                calls[store.name].append((time.perf_counter() - first) / count)
                close()
                sessions[store.name].append((time.perf_counter() - start) / count)
                if turn == 0:
                    found = list(store.read(place, item))
                    verify(len(found) == count and np.array_equal(found[-1], item), f"written by {store.name}")
                    del found
                # At once, so that all find pages of the page cache that are there already.
                remove(place)
        if each < 10 * MB:
            for number, store in enumerate(STORES):
                write, close = store.open_writer(home / f"paced {each} {number}", item)
                paced[store.name] = statistics.median(paced_calls(write, item, 20 if quick else 100))
                close()
                remove(home / f"paced {each} {number}")
            # What a processor that has slept takes to copy the array at all.
            copied = statistics.median(paced_calls(lambda item: item.copy(), item, 20 if quick else 100))
            report.figure(f"copy {size(each)} in memory, {PACED_HZ} Hz (median)", copied, "s")
        ours = {"call": min(calls["observation log"]), "session": min(sessions["observation log"])}
        for store in STORES:
            call, session = min(calls[store.name]), min(sessions[store.name])
            rate = "" if each == KB else f"{each / session / 1e9:.2f}"
            cells = [human(call, "s"), human(paced[store.name], "s") if paced else "", human(session, "s"), rate]
            rows.append([size(each), store.name, *cells, f"{session / ours['session']:.2f}"])
        if each != 10 * MB:
            limit, seed = (1.5e-6, "5.7 us") if each == KB else (250e-6, "222 us")
            report.figure(f"write {size(each)}, with CRC, burst", ours["call"], "s", seed=seed, at_most=limit)
            report.figure(f"write {size(each)}, with CRC, {PACED_HZ} Hz (median)", paced["observation log"], "s")
            report.figure(
                f"write {size(each)}: pickle / log, burst", min(calls["pickle, one file"]) / ours["call"], "x"
            )
        else:
            report.figure("write 10 x 10 MB, closed", each / ours["session"] / 1e9, "GB/s", seed="0.40-0.45 GB/s")
        for name in ("pickle, one file", NumpyStore.name, ArrowStore.name, McapStore.name):
            report.ratio(f"write {size(each)}, closed: {name} / log", min(sessions[name]) / ours["session"])
    head = [
        "array",
        "store",
        "the call, in a burst",
        f"the call, {PACED_HZ} Hz",
        "an array with open, close",
        "GB/s",
        "times the log",
    ]
    report.table("Writing", head, rows)


def memory_child(number: int, place: Path) -> None:
    """Read one array in this process, and print the anonymous memory that it took."""
    store, like = STORES[number], array(KB)
    fill(store, place.with_name(f"warm {number}"), [like])
    gc.collect()
    before = anonymous_bytes()[0]
    found = next(iter(store.read(place, like)))
    after = anonymous_bytes()[0]
    json.dump({"bytes": after - before, "array": found.nbytes, "sum": float(found[:: 1 << 16].sum())}, sys.stdout)


def memory(report: Report, home: Path) -> None:
    item = array(80_000_000)
    rows = []
    for number, store in enumerate(STORES):
        place = home / f"memory {number}"
        fill(store, place, [item])
        command = [sys.executable, __file__, "--memory-of", str(number), str(place)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(run.stdout)
        verify(
            found["array"] == item.nbytes and found["sum"] == float(item[:: 1 << 16].sum()), f"array of {store.name}"
        )
        rows.append([store.name, f"{found['bytes'] / MB:+.1f} MB"])
        if number == 0:
            report.figure(
                "memory of a 76.3 MiB array, opened and decoded", found["bytes"] / MB, "MB", seed="0 MB", at_most=0.0
            )
    report.table(
        "Memory of one array of 76.3 MiB (RssAnon; faults and mappings: `numpy_codec`)", ["store", "growth"], rows
    )


def events_frame(rows: int) -> pl.DataFrame:
    at = np.arange(rows)
    found = {
        "x": (at % 640).astype(np.int16),
        "y": (at // 640 % 480).astype(np.int16),
        "timestamp": at // 10,
        "polarity": (1 - at % 2 * 2).astype(np.int8),
    }
    return pl.DataFrame(found).with_columns(pl.col("timestamp").cast(pl.Duration("us")))


def address(column: Any) -> int:
    if isinstance(column, pl.Series):
        column = column.to_physical().to_numpy(allow_copy=False)
    return column.__array_interface__["data"][0] if isinstance(column, np.ndarray) else column.buffers()[1].address


def lazy_frame(report: Report, home: Path, rounds: int) -> None:
    """A file of a million events: until there is a LazyFrame, and until the events are there."""
    frame = events_frame(EVENTS)
    with ObLog(home / "events") as oblog:
        oblog.get_writer("camera", EventsCodec(geometry=(640, 480)))(frame)
    channel = ObLog(home / "events").channel("camera")
    log, ipc, parquet, raw = channel.files[0].path, home / "events.arrow", home / "events.parquet", home / "events.raw"
    frame.write_ipc(ipc, compression="uncompressed")
    frame.write_parquet(parquet)
    evlib.write_events(frame, raw, geometry=(640, 480))
    scans: dict[str, Callable[[], pl.LazyFrame]] = {
        "observation log, `load_events`": lambda: evlib.load_events(log),
        "EVT3, `load_events`": lambda: evlib.load_events(raw),
        "Arrow IPC, `pl.scan_ipc`": lambda: pl.scan_ipc(ipc),
        "Parquet, `pl.scan_parquet`": lambda: pl.scan_parquet(parquet),
    }
    for name, scan in scans.items():
        verify(scan().collect().equals(frame), f"events of {name}")
    found = {name: min(seconds) for name, seconds in take_turns(scans, rounds=rounds).items()}
    works = {name: lambda scan=scan: scan().collect() for name, scan in scans.items()}
    collected = {name: min(seconds) for name, seconds in take_turns(works, rounds=rounds).items()}

    loaded = evlib.load_events(log).collect()
    table, same = loaded.to_arrow(), True
    again = evlib.load_events(log).collect()
    for name in frame.columns:
        numpy = loaded[name].to_physical().to_numpy(allow_copy=False)
        arrow = table[name].combine_chunks().chunk(0) if table[name].num_chunks > 1 else table[name].chunk(0)
        same = same and address(loaded[name]) == address(numpy) == address(arrow)
        same = same and address(numpy) % 64 == 0
    verify(again.equals(frame), "events, read again")
    verify(same, "one address in Polars, NumPy and pyarrow")
    rows = [[name, human(found[name], "s"), human(collected[name], "s")] for name in scans]
    report.table("A file of 1,000,000 events", ["file", "to a LazyFrame", "and collected"], rows)
    ours = "observation log, `load_events`"
    report.figure("1 M events, file to LazyFrame", found[ours], "s", at_most=50e-6)
    report.figure("1 M events, file to DataFrame", collected[ours], "s")
    report.notes.append("columns of the log have one address in Polars, NumPy and pyarrow (checked)")
    others = {"Arrow IPC": "Arrow IPC, `pl.scan_ipc`", "EVT3": "EVT3, `load_events`"}
    for short, name in others.items():
        report.ratio(f"1 M events collected: {short} / log", collected[name] / collected[ours])


# Tail.

TAILS = {
    "awake": "log, `flush='record'`, reader awake (`spin`)",
    "record": "log, `flush='record'`",
    "batch": "log, `flush='batch'`",
    "pipe": "a pipe, not stored",
}


def tail_child(folder: Path, records: int, rate: float, way: str) -> None:
    """Write records at a pace; each holds its number, and the time just before it was written."""
    payload = np.empty(TAIL_BYTES // 8, np.int64)
    with ObLog(folder) as oblog:
        write: Callable[[Array], Any] = partial(os.write, sys.stdout.fileno())
        if way != "pipe":
            write = oblog.get_writer("tail", BytesCodec(), flush="batch" if way == "batch" else "record")
        due = time.monotonic()
        for number in range(records):
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
            payload[:] = number
            payload[0] = time.monotonic_ns()
            write(payload)


def tail(report: Report, home: Path, *, quick: bool) -> None:
    """From the call of `write` until the record is there in another process; beside a pipe, which stores nothing."""
    records, rate = (500, 1000.0) if quick else (5000, 1000.0)
    rows, found = [], {}
    for way in TAILS:
        folder = home / f"tail {way}"
        folder.mkdir()
        spin = timedelta(seconds=2 / rate if way == "awake" else 0)
        following = ObLog(folder).tail("tail", start="all", timeout=timedelta(seconds=20), spin=spin)
        command = [sys.executable, __file__, "--tail", str(folder), str(records), str(rate), way]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE)
        late, torn = [], 0
        for number in range(records):
            if way == "pipe":
                payload = os.read(writer.stdout.fileno(), TAIL_BYTES)
            else:
                got = following.next(timedelta(seconds=20))
                verify(got is not None, f"record {number} of the tail")
                payload = got[1]
            now = time.monotonic_ns()
            values = np.frombuffer(payload, np.int64)
            late.append((now - int(values[0])) / 1e9)
            torn += len(values) != TAIL_BYTES // 8 or not (values[1:] == number).all()
        writer.communicate()
        verify(writer.returncode == 0, "the writer ended well")
        verify(torn == 0 and following.lost_bytes == 0, "no torn record")
        seen = found[way] = spread(late)
        rows.append([TAILS[way], *(human(seen[key], "s") for key in ("p50", "p95", "p99", "max")), str(torn)])
    for way, name in (("awake", ", reader awake"), ("record", "")):
        report.figure(f"tail latency, 1 KB{name}, p50", found[way]["p50"], "s", at_most=50e-6)
        report.figure(f"tail latency, 1 KB{name}, p99", found[way]["p99"], "s", at_most=500e-6)
    report.figure("tail: torn records", torn, "", at_most=0)
    report.figure("tail latency, p50: a pipe / log", found["pipe"]["p50"] / found["record"]["p50"], "x")
    report.series["tail_s"] = found
    head = ["way", "p50", "p95", "p99", "most", "torn records"]
    report.table(f"Tail across processes, {records:,} records of 1 KB at {rate:g} Hz", head, rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--memory-of", nargs=2, help="for the program itself: measure memory in this process")
    options.add_argument("--tail", nargs=4, help="for the program itself: write what is followed")
    args: argparse.Namespace = options.parse_args()
    if args.memory_of:
        memory_child(int(args.memory_of[0]), Path(args.memory_of[1]))
        return
    if args.tail:
        folder, records, rate, flush = args.tail
        tail_child(Path(folder), int(records), float(rate), flush)
        return
    report = Report("log_figures", "the observation log beside its targets and other stores")
    rounds = 20 if args.quick else 100
    with scratch(args) as home:
        for part in (
            partial(decode, report, home),
            partial(open_and_read, report, home, rounds),
            partial(writing, report, home, quick=args.quick),
            partial(memory, report, home),
            partial(lazy_frame, report, home, rounds),
            partial(tail, report, home, quick=args.quick),
        ):
            part()
    finish(report, args)


if __name__ == "__main__":
    main()
