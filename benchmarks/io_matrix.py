"""Reading, recording and copying files: fresh memory, reused buffers, and no copy in this process at all.

    python benchmarks/io_matrix.py [--json FILE] [--quick] [--large]

Sizes are 1 MB to 1 GB, with `--large` also 10 GB. Everything happens in the page cache: sources are read once before,
and a target counts as written when the system has it; how long the disk then takes is a column of its own. Targets are
compared with their sources, before anything is timed.

Bytes copied are counted, not guessed: `read` and `written` are what the system counts in /proc/PID/io for calls that
take bytes into a process and out of it; `in memory` is summed up here, where this program copies from one buffer to
another. `copy_file_range` and mapped files are the exceptions: the first moves bytes within the system, which books
them as read and as written all the same, and the second are read by page faults, which it does not book.
"""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import GB, MB, Counters, Report, counters, finish, io_counters, parser, scratch, size, verify
from worker import settle, warm

import evlib
from evlib.codecs import BytesCodec
from evlib.oblog import ObLog

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

CHUNK = 1 << 20
COMPARE = 16 << 20
IN_KERNEL = " (within the system)"


@dataclass
class Run:
    """What one run took."""

    seconds: float
    cpu_s: float
    faults: int
    read: int
    written: int
    in_memory: int = 0
    sync_s: float | None = None


@dataclass
class Way:
    """One way to do it; `work` returns the bytes that it copied between its own buffers."""

    name: str
    work: Callable[[Path, Path], int]
    largest: int = 1 << 62
    of_logs: bool = False


def fresh_buffer() -> mmap.mmap:
    """Memory that nobody had before: what an allocator gives when nothing has been given back."""
    return mmap.mmap(-1, CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def write_whole(target: int, data: Any) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(target, view) :]


def opened(source: Path, target: Path) -> tuple[int, int]:
    return os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)


def closed(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


# Copying.


def copy_whole(source: Path, target: Path) -> int:
    """The file in one piece of fresh memory."""
    target.write_bytes(source.read_bytes())
    return 0


def copy_handed_over(source: Path, target: Path, buffer: Callable[[], mmap.mmap]) -> int:
    """Chunks read into what `buffer` gives; what is handed to the writer is a fresh copy, for it to keep."""
    reading, writing = opened(source, target)
    copied, chunk = 0, buffer()
    while count := os.readv(reading, [chunk]):
        out = memoryview(fresh_buffer())[:count]
        out[:] = memoryview(chunk)[:count]
        copied += count
        write_whole(writing, out)
        chunk = buffer()
    closed(reading, writing)
    return copied


def copy_fresh(source: Path, target: Path) -> int:
    """Fresh memory for every chunk that is read, and again for what is handed to the writer."""
    return copy_handed_over(source, target, fresh_buffer)


def copy_pooled_read(source: Path, target: Path) -> int:
    """One buffer for reading, fresh memory for what is handed to the writer."""
    pooled = fresh_buffer()
    return copy_handed_over(source, target, lambda: pooled)


def copy_pooled(source: Path, target: Path) -> int:
    """One buffer, read into and written from."""
    reading, writing = opened(source, target)
    view = memoryview(fresh_buffer())
    while count := os.readv(reading, [view]):
        write_whole(writing, view[:count])
    closed(reading, writing)
    return 0


def copy_mapped(source: Path, target: Path) -> int:
    """The source mapped, and written from there."""
    reading, writing = opened(source, target)
    with mmap.mmap(reading, 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_SEQUENTIAL)
        with memoryview(mapped) as view:
            for start in range(0, len(view), CHUNK):
                with view[start : start + CHUNK] as part:
                    write_whole(writing, part)
    closed(reading, writing)
    return 0


def copy_in_kernel(source: Path, target: Path) -> int:
    """`copy_file_range`: no byte enters this process."""
    reading, writing = opened(source, target)
    left = os.fstat(reading).st_size
    while left:
        left -= os.copy_file_range(reading, writing, left)
    closed(reading, writing)
    return 0


def as_log(home: Path, source: Path) -> Path:
    """The bytes of a file as a log of records of 1 MiB."""
    folder = home / f"{source.name}.log"
    with ObLog(folder) as oblog, source.open("rb") as file:
        write = oblog.get_writer("bytes", BytesCodec())
        while chunk := file.read(CHUNK):
            write(chunk)
    return folder


def copy_log(source: Path, target: Path, *, direct: bool) -> int:
    """Records of one log, as views, into another: what the library does when it copies."""
    with ObLog(target) as oblog:
        write = oblog.get_writer("bytes", BytesCodec(), direct=direct)
        for timestamp, payload in ObLog(source).channel("bytes"):
            write(payload, timestamp=timestamp)
    return 0


def same_files(source: Path, target: Path) -> bool:
    if source.stat().st_size != target.stat().st_size:
        return False
    with source.open("rb") as one, target.open("rb") as other:
        while chunk := one.read(COMPARE):
            if chunk != other.read(COMPARE):
                return False
    return True


def same_logs(source: Path, target: Path) -> bool:
    one, other = ObLog(source).channel("bytes"), ObLog(target).channel("bytes")
    return len(one) == len(other) and all(a == b for a, b in zip(one, other, strict=True))


def remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def sync(target: Path) -> None:
    for path in [target] if target.is_file() else target.glob("*.mcap"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.close(descriptor)


def measured(work: Callable[[], int]) -> Run:
    before = counters()
    start = time.perf_counter()
    copied = work()
    seconds = time.perf_counter() - start
    used: Counters = counters() - before
    return Run(seconds, used.cpu_s, used.minor_faults, used.read_bytes, used.written_bytes, copied)


def measured_program(command: list[str]) -> Run:
    """A program of the system; what it did is asked for before it is waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(command)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - start
    read, written = io_counters(str(process.pid))
    verify(process.wait() == 0, f"{command[0]} ended well")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cpu, used.ru_minflt - before.ru_minflt, read, written)


PROGRAMS = {
    "cp": lambda source, target: ["cp", str(source), str(target)],
    "cp --reflink=never": lambda source, target: ["cp", "--reflink=never", str(source), str(target)],
    "rsync": lambda source, target: ["rsync", "--whole-file", str(source), str(target)],
}


def rounds_of(count: int, *, quick: bool) -> int:
    return 1 if quick else max(3, min(20, 100 * MB // count)) if count < 5 * GB else 1


def per_gb(value: float, count: int) -> str:
    return f"{value / count:.2f}"


HEAD = ["size", "way", "best", "GB/s", "CPU", "read GB/GB", "written GB/GB", "in memory GB/GB", "faults/GB"]


def cells(count: int, name: str, runs: list[Run]) -> list[str]:
    best = min(runs, key=lambda run: run.seconds)
    cpu = sum(run.cpu_s for run in runs) / sum(run.seconds for run in runs)
    return [
        size(count),
        name,
        f"{best.seconds * 1e3:,.2f} ms",
        f"{count / best.seconds / GB:.2f}",
        f"{cpu:.0%}",
        per_gb(best.read, count),
        per_gb(best.written, count),
        per_gb(best.in_memory, count),
        f"{best.faults / count * GB:,.0f}",
    ]


def copying(report: Report, home: Path, sizes: list[int], *, quick: bool) -> None:
    ways = [
        Way("baseline: whole file in fresh memory", copy_whole, largest=2 * GB),
        Way("baseline: fresh memory for every 1 MiB, read and written", copy_fresh),
        Way("reused buffer for reading, fresh for writing", copy_pooled_read),
        Way("reused buffer for both", copy_pooled),
        Way("mapped source", copy_mapped),
        Way("`copy_file_range`" + IN_KERNEL, copy_in_kernel),
    ]
    for name, direct in (("log to log", False), ("log to log, past the page cache", True)):
        ways.append(Way(name, partial(copy_log, direct=direct), of_logs=True))
    target = home / "target"
    rows = []
    speeds: dict[int, dict[str, float]] = {}
    for count in sizes:
        source = home / f"source {count}"
        make_file(source, count)
        logged = as_log(home, source)
        settle(min(2 * count, 2 << 30))
        every: dict[str, list[Run]] = {}
        programs = [name for name in PROGRAMS if shutil.which(name.split()[0])]
        for turn in range(-1, rounds_of(count, quick=quick)):
            for way in ways:
                if count > way.largest:
                    continue
                origin = logged if way.of_logs else source
                run = measured(lambda way=way, origin=origin: way.work(origin, target))
                start = time.perf_counter()
                if turn == 0:
                    sync(target)
                    run.sync_s = time.perf_counter() - start
                if turn < 0:
                    verify(
                        (same_logs if way.of_logs else same_files)(origin, target), f"copy of {size(count)}: {way.name}"
                    )
                else:
                    every.setdefault(way.name, []).append(run)
                remove(target)
            for name in programs:
                run = measured_program(PROGRAMS[name](source, target))
                if turn < 0:
                    verify(same_files(source, target), f"copy of {size(count)}: {name}")
                else:
                    every.setdefault(name, []).append(run)
                remove(target)
        for name, runs in every.items():
            synced = next((run.sync_s for run in runs if run.sync_s is not None), None)
            on_disk = "" if synced is None else f"{count / (runs[0].seconds + synced) / GB:.2f}"
            rows.append([*cells(count, name, runs), on_disk])
            speeds.setdefault(count, {})[name] = count / min(run.seconds for run in runs) / GB
        remove(logged)
        source.unlink()
    report.table("Copying a file", [*HEAD, "GB/s to the disk, once"], rows)
    large = max(count for count in sizes if count <= GB)
    pick = speeds[large]
    base = pick["baseline: fresh memory for every 1 MiB, read and written"]
    seeds = {
        "reused buffer for reading, fresh for writing": ("1.3-1.7 x (expected)", "pooled read / baseline"),
        "reused buffer for both": ("1.3-2 x (expected)", "pooled read and write / baseline"),
        "mapped source": ("2.7-3.3 x (expected)", "mapped / baseline"),
        "`copy_file_range`" + IN_KERNEL: ("2.7-3.3 x (expected)", "copy_file_range / baseline"),
    }
    for name, (seed, short) in seeds.items():
        report.figure(f"copy {size(large)}: {short}", pick[name] / base, "x", seed=seed)
        report.ratio(f"copy: {short}", pick[name] / base)
    report.figure(
        f"copy {size(large)}: `copy_file_range` / cp", pick["`copy_file_range`" + IN_KERNEL] / pick["cp"], "x"
    )
    if "rsync" in pick:
        report.figure(
            f"copy {size(large)}: `copy_file_range` / rsync",
            pick["`copy_file_range`" + IN_KERNEL] / pick["rsync"],
            "x",
            seed="2-3 x (expected)",
        )
    else:
        report.notes.append("rsync is not installed here, so it is not in the table")
    report.series["copy_gb_s"] = {str(count): found for count, found in speeds.items()}


def make_file(path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    with path.open("wb") as file:
        for start in range(0, count, COMPARE):
            file.write(rng.bytes(min(COMPARE, count - start)))
    warm(str(path))


# Reading.

DAT_HEADER = b"% Data file containing CD events.\n% Version 2\n% Height 480\n% Width 640\n% end\n\x0c\x08"


def make_dat(path: Path, count: int) -> int:
    """A recording of about so many bytes, of which every event is 8."""
    events = count // 8
    with path.open("wb") as file:
        file.write(DAT_HEADER)
        for start in range(0, events, 1 << 20):
            at = np.arange(start, min(start + (1 << 20), events), dtype=np.uint32)
            words = np.stack([at // 10, at % 640 | at % 480 << 14 | (at & 1) << 28], axis=1)
            words.astype("<u4").tofile(file)
    warm(str(path))
    return events


def read_whole(path: Path) -> int:
    return len(path.read_bytes())


def read_pooled(path: Path) -> int:
    """One aligned buffer of 1 MiB, again and again."""
    descriptor, total = os.open(path, os.O_RDONLY), 0
    with fresh_buffer() as buffer:
        while count := os.readv(descriptor, [buffer]):
            total += count
    os.close(descriptor)
    return total


def read_mapped(path: Path) -> int:
    """Mapped, and every page touched."""
    data = np.memmap(path, np.uint8, mode="r")
    pages = data[::4096]
    pages.max()
    return len(data)


def read_batches(path: Path) -> int:
    """Decoded, in batches that are dropped: what streaming takes, without the memory of a result."""
    return sum(batch.height for batch in evlib.open(path).batches())


def reading(report: Report, home: Path, sizes: list[int], *, quick: bool) -> None:
    """The same recording as bytes, and decoded into columns by the library."""
    rows = []
    speeds: dict[int, dict[str, float]] = {}
    for count in sizes:
        path = home / f"events {count}.dat"
        events = make_dat(path, count)
        works: dict[str, tuple[Callable[[], int], int]] = {
            "whole file in fresh memory": (lambda path=path: read_whole(path), path.stat().st_size),
            "reused buffer of 1 MiB": (lambda path=path: read_pooled(path), path.stat().st_size),
            "mapped, a byte of every page": (lambda path=path: read_mapped(path), path.stat().st_size),
            "evlib: `read_events`, all decoded": (lambda path=path: evlib.read_events(path).height, events),
            "evlib: `batches`, all decoded": (lambda path=path: read_batches(path), events),
        }
        settle(min(3 * count, 3 << 30))
        for name, (work, wanted) in works.items():
            verify(work() == wanted, f"read {size(count)}: {name}")
        every: dict[str, list[Run]] = {name: [] for name in works}
        for _ in range(rounds_of(count, quick=quick)):
            for name, (work, _) in works.items():
                every[name].append(measured(lambda work=work: 0 * work()))
        for name, runs in every.items():
            rows.append(cells(count, name, runs))
            speeds.setdefault(count, {})[name] = count / min(run.seconds for run in runs) / GB
        path.unlink()
    report.table("Reading a recording (DAT, 8 bytes an event)", HEAD, rows)
    large = max(speeds)
    pick = speeds[large]
    ratio = pick["reused buffer of 1 MiB"] / pick["whole file in fresh memory"]
    report.figure(f"read {size(large)}: reused buffer / fresh memory", ratio, "x", seed="1.3-1.7 x (expected)")
    report.ratio("read: reused buffer / fresh memory", ratio)
    report.series["read_gb_s"] = {str(count): found for count, found in speeds.items()}


# Recording.


def record_plain(target: Path, data: bytes, times: int) -> None:
    with target.open("wb", buffering=0) as file:
        for _ in range(times):
            write_whole(file.fileno(), data)


def record_log(target: Path, data: bytes, times: int, *, direct: bool) -> None:
    with ObLog(target) as oblog:
        write = oblog.get_writer("bytes", BytesCodec(), direct=direct)
        for _ in range(times):
            write(data)


def recording(report: Report, home: Path, sizes: list[int], *, quick: bool) -> None:
    """Chunks of 1 MiB from memory into a file, until the disk has them."""
    rows = []
    data = np.random.default_rng(1).bytes(CHUNK)
    target = home / "recorded"
    for count in sizes:
        times = max(1, count // CHUNK)
        total = times * CHUNK
        works: dict[str, Callable[[], Any]] = {
            "`write`": lambda times=times: record_plain(target, data, times),
            "log": lambda times=times: record_log(target, data, times, direct=False),
            "log, past the page cache": lambda times=times: record_log(target, data, times, direct=True),
        }
        every: dict[str, list[tuple[Run, float]]] = {name: [] for name in works}
        for turn in range(-1, 1 if quick else 3):
            for name, work in works.items():
                before = counters()
                start = time.perf_counter()
                work()
                handed = time.perf_counter() - start
                sync(target)
                seconds = time.perf_counter() - start
                used = counters() - before
                if turn < 0 and name != "`write`":
                    channel = ObLog(target).channel("bytes", verify="all")
                    verify(len(channel) == times and channel[-1][1] == data, f"what was recorded by {name}")
                elif turn >= 0:
                    every[name].append(
                        (Run(seconds, used.cpu_s, used.minor_faults, used.read_bytes, used.written_bytes), handed)
                    )
                remove(target)
        for name, found in every.items():
            best, handed = min(found, key=lambda run: run[0].seconds)
            rows.append(
                [
                    size(total),
                    name,
                    f"{handed * 1e3:,.2f} ms",
                    f"{total / handed / GB:.2f}",
                    f"{best.seconds * 1e3:,.2f} ms",
                    f"{total / best.seconds / GB:.2f}",
                    f"{best.cpu_s / best.seconds:.0%}",
                    f"{best.cpu_s / total * GB:.2f} s",
                    per_gb(best.written, total),
                ]
            )
    head = ["size", "way", "closed", "GB/s", "on the disk", "GB/s", "CPU", "CPU a GB", "written GB/GB"]
    report.table("Recording chunks of 1 MiB", head, rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--large", action="store_true", help="10 GB too: needs 30 GB of disk")
    args: argparse.Namespace = options.parse_args()
    sizes = [MB, 10 * MB, 100 * MB]
    if not args.quick:
        sizes.append(GB)
    if args.large:
        sizes.append(10 * GB)
    report = Report("io_matrix", "reading, recording and copying files")
    with scratch(args) as home:
        report.notes.append(f"file system of the inputs: {file_system(home)}")
        reading(report, home, [count for count in sizes if count <= GB], quick=args.quick)
        recording(report, home, [count for count in sizes if count <= GB], quick=args.quick)
        copying(report, home, sizes, quick=args.quick)
    finish(report, args)


def file_system(path: Path) -> str:
    """The type of the file system that a path is on."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if path.is_relative_to(mount) and len(mount) > len(best[0]):
            best = (mount, kind)
    return best[1]


if __name__ == "__main__":
    main()
