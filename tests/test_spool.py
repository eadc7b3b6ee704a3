"""Packed recordings are unpacked as they are read: opening costs the head, a query what it needs, nothing twice."""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import problem_counts, recording_names, zstd

import evlib

pa = pytest.importorskip("pyarrow")

COUNT = 3_000_000
NAMES = ("a.raw", "a.dat", "a.es", "a.txt")
"""Formats that are read from their start."""


def gz(content: bytes) -> bytes:
    return gzip.compress(content, 1)


PACK = {".gz": gz, ".zst": zstd}


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    at = np.arange(COUNT)
    noise = np.random.default_rng(1).integers(0, 1 << 14, COUNT)
    data = {"x": noise % 240, "y": at // 7 % 180, "timestamp": at // 3, "polarity": noise // 240 % 2 * 2 - 1}
    types = {"x": pl.Int16, "y": pl.Int16, "timestamp": pl.Int64, "polarity": pl.Int8}
    return pl.DataFrame(data, schema=types).with_columns(pl.col("timestamp").cast(pl.Duration("us")))


@pytest.fixture(scope="module")
def folder(events, tmp_path_factory) -> Path:
    """Large recordings, plain and packed."""
    folder = tmp_path_factory.mktemp("large")
    for name in NAMES:
        path = folder / name
        evlib.write_events(events, path, geometry=(240, 180), **({"format": "evt2"} if name == "a.raw" else {}))
        content = path.read_bytes()
        for suffix, pack in PACK.items():
            (folder / f"{name}{suffix}").write_bytes(pack(content))
    with zipfile.ZipFile(folder / "a.txt.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(folder / "a.txt", "a.txt")
    return folder


PACKED = [*(f"{name}{suffix}" for name, suffix in itertools.product(NAMES, PACK)), "a.txt.zip"]


def moved() -> int:
    """Bytes that this process has read and written, from and to the cache or not."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]) + int(counts["wchar"])


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/self/io")


@linux
@pytest.mark.parametrize("name", PACKED)
def test_opening_and_the_first_events_cost_little(name, folder, events):
    path = folder / name
    assert path.stat().st_size > 6_000_000
    before = moved()
    recording = evlib.open(path)
    assert recording.reasons[0].startswith("unpacked from")
    # The head, as the decoder unpacks it in pieces, and zip directories.
    assert moved() - before < 1_500_000
    before = moved()
    assert recording.events.head(1000).collect().equals(events.head(1000))
    assert moved() - before < 3_000_000
    assert next(recording.batches(rows=1000)).equals(events.head(1000))
    assert next(recording.batches(time_range=(0, 1000), rows=2000)).equals(events.head(2000))
    assert moved() - before < 6_000_000
    # Another query goes on where these have stopped.
    assert recording.read().equals(events)


@linux
@pytest.mark.parametrize("name", PACKED)
def test_every_byte_is_unpacked_once(name, folder, events):
    path = folder / name
    plain = (folder / "a.txt" if name.endswith(".zip") else path.with_suffix("")).stat().st_size

    def written() -> int:
        return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["wchar"])

    before = written()
    recording = evlib.open(path)
    assert next(recording.batches(rows=5000)).equals(events.head(5000))
    for _ in range(2):
        assert recording.event_count == COUNT
        assert recording.read().equals(events)
    assert recording.problems.is_empty()
    assert plain <= written() - before < plain + 100_000


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("name", PACKED)
def test_the_same_events(name, threads, folder, events):
    def opened() -> evlib.Recording:
        return evlib.open(folder / name, threads=threads)

    assert opened().read().equals(events)
    assert pl.concat(opened().batches()).equals(events)
    low, high = 400_000, 410_000
    inside = events.filter(pl.col("timestamp").dt.total_microseconds().is_between(low, high, closed="left"))
    assert opened().read(time_range=(low, high)).equals(inside)
    assert pl.concat(opened().batches(time_range=(low, high))).equals(inside)
    assert opened().read(columns=["x"], polarity=1).equals(events.filter(pl.col("polarity") == 1).select("x"))
    recording = opened()
    assert recording.event_count == COUNT
    # With the index.
    assert recording.read(time_range=(low, high)).equals(inside)
    assert opened().events.filter(pl.col("x") < 9).collect(engine="streaming").equals(events.filter(pl.col("x") < 9))


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize(
    "name", recording_names({"evt2", "evt21", "evt3", "dat", "aedat2", "aedat4", "es", "atis-bin"})
)
def test_real_recordings(name, suffix, shared, tmp_path):
    plain = shared / "recordings" / name
    path = tmp_path / f"{plain.name}{suffix}"
    path.write_bytes(PACK[suffix](plain.read_bytes()))
    one, other = evlib.open(plain), evlib.open(path)
    assert (other.format, other.geometry, other.metadata) == (one.format, one.geometry, one.metadata)
    assert other.read().equals(one.read())
    assert (other.event_count, other.trigger_count) == (one.event_count, one.trigger_count)
    assert other.problems.equals(one.problems)
    assert evlib.read_events(path, time_range=(0, 200_000)).equals(evlib.read_events(plain, time_range=(0, 200_000)))
    for stream in one.streams.filter(pl.col("kind").is_in(["imu", "frames"]))["name"]:
        assert other.load_stream(stream).collect().equals(one.load_stream(stream).collect())


@pytest.mark.parametrize("cut", ["cut", "damaged"])
@pytest.mark.parametrize("name", [name for name in PACKED if not name.endswith(".zip")])
def test_damage_is_found_when_it_is_reached(name, cut, folder, events, tmp_path):
    packed = bytearray((folder / name).read_bytes())
    at = len(packed) // 2
    if cut == "cut":
        del packed[at:]
    else:
        packed[at : at + 1_000_000] = b"\xff" * 1_000_000
    path = tmp_path / name
    path.write_bytes(packed)
    recording = evlib.open(path)
    assert recording.events.head(1000).collect().equals(events.head(1000))
    before = recording.read()
    assert COUNT // 4 < before.height <= COUNT
    # What stands before the damage; the last line may be cut through, and what is damaged may decode to anything.
    sure = before.height - 1 if cut == "cut" else COUNT // 4
    assert before[:sure].equals(events[:sure])
    assert "TRUNCATED" in problem_counts(recording)
    assert recording.event_count == before.height
    with pytest.raises(evlib.exceptions.ProblemError):
        evlib.open(path, on_problem="raise")
    for threads in (1, 4):
        assert pl.concat(evlib.open(path, threads=threads).batches()).equals(before)


def test_a_zip_archive_that_is_not_whole_is_an_error_when_that_is_reached(folder, events, tmp_path):
    packed = bytearray((folder / "a.txt.zip").read_bytes())
    packed[len(packed) // 2] ^= 0xFF
    path = tmp_path / "a.zip"
    path.write_bytes(packed)
    recording = evlib.open(path)
    assert recording.events.head(1000).collect().equals(events.head(1000))
    for _ in range(2):
        with pytest.raises(evlib.FormatError, match="zip") as caught:
            recording.read()
        assert caught.value.path == str(path)


def test_a_saved_index_spares_unpacking(folder, events, tmp_path):
    for name in ("a.raw.gz", "a.txt.zst"):
        path = tmp_path / name
        path.write_bytes((folder / name).read_bytes())
        evlib.open(path).save_index()
        recording = evlib.open(path)
        assert recording.is_indexed
        assert recording.event_count == COUNT
        assert recording.read(time_range=(100, 900)).height == 2400
        assert recording.read().equals(events)
        # Another file of the same name.
        path.write_bytes((folder / name).read_bytes()[:-9])
        again = evlib.open(path)
        assert "STALE_INDEX" in problem_counts(again)


def test_a_file_that_shrinks(folder, events, tmp_path):
    path = tmp_path / "a.raw.gz"
    path.write_bytes((folder / path.name).read_bytes())
    recording = evlib.open(path)
    os.truncate(path, path.stat().st_size // 2)
    assert recording.events.head(1000).collect().equals(events.head(1000))
    for _ in range(2):
        with pytest.raises(evlib.exceptions.TruncatedError, match="shrank") as caught:
            recording.read()
        assert caught.value.path == str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("name", ["a.raw.gz", "a.txt.gz", "a.txt.zip"])
def test_a_full_disk(name, folder):
    code = """
import resource, signal, sys, tempfile
import evlib
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
recording = evlib.open(sys.argv[1])
print(recording.events.head(1000).collect().height)
queries = recording.read, lambda: recording.event_count, lambda: list(recording.batches()), lambda: recording.problems
for query in queries:
    try:
        query()
    except OSError as error:
        print(error.errno, error.filename == tempfile.gettempdir(), "TMPDIR" in error.__notes__[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder / name], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:-1] == ["1000", *[f"{errno.EFBIG} True True"] * 4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", ["a.raw.gz", "a.txt.zst"])
def test_a_forked_child_unpacks_for_itself(name, folder):
    code = """
import os, sys, threading
import evlib
recording = evlib.open(sys.argv[1])
batches = recording.batches()
first = next(batches)
# Forked while others unpack.
reader = threading.Thread(target=recording.read)
reader.start()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        count = recording.event_count
        os._exit(0 if count == int(sys.argv[2]) else 1)
    children.append(child)
for child in children:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
reader.join()
assert first.height + sum(batch.height for batch in batches) == int(sys.argv[2])
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder / name, str(COUNT)], check=True, timeout=60)


@linux
@pytest.mark.parametrize("name", ["a.raw", "a.txt"])
def test_memory_is_bounded(name, folder, tmp_path):
    """Batches of ten times as much take no more memory."""
    content = (folder / name).read_bytes()
    start = content.index(b"% end\n") + 6 if name == "a.raw" else 0
    code = """
import sys
import evlib
count = sum(batch.height for batch in evlib.open(sys.argv[1]).batches())
with open("/proc/self/status") as status:
    print(count, next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
    peaks = []
    for times in (1, 10):
        path = tmp_path / f"{times}{name}.zst"
        path.write_bytes(zstd(content[:start]) + zstd(content[start:]) * times)
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=120
        )
        count, peak = map(int, done.stdout.split())
        assert count == times * COUNT
        peaks.append(peak * 1024)
    assert peaks[1] - peaks[0] < 24e6
    assert peaks[1] - peaks[0] < len(content)


def test_threads_side_by_side(folder):
    """Several threads read one recording in different places."""
    code = """
import sys, threading
import evlib
recording = evlib.open(sys.argv[1], threads=2)
found = []
def read(low, high):
    found.append(recording.read(time_range=(low, high)).height)
threads = [threading.Thread(target=read, args=(at * 100_000, (at + 1) * 100_000)) for at in range(10)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sum(found))
"""
    for name in PACKED:
        done = subprocess.run(
            [sys.executable, "-c", code, folder / name], capture_output=True, text=True, check=True, timeout=60
        )
        assert int(done.stdout) == COUNT


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> tuple[pl.DataFrame, bytes]:
    at = range(5000)
    few = pl.DataFrame(
        {"x": [n % 200 for n in at], "y": [n % 99 for n in at], "timestamp": list(at), "polarity": [1, -1] * 2500}
    )
    path = tmp_path_factory.mktemp("few") / "a.raw"
    evlib.write_events(few, path, geometry=(240, 180))
    return evlib.read_events(path), path.read_bytes()


@pytest.mark.parametrize("zeros", [1, 511, 300_000])
def test_zeros_after_gzip_are_padding(zeros, few, save):
    events, content = few
    path = save(gz(content) + bytes(zeros), ".raw.gz")
    recording = evlib.open(path, on_problem="raise")
    assert recording.read().equals(events)
    assert recording.problems.is_empty()
    path = save(gz(content[:999]) + bytes(zeros) + gz(content[999:]) + bytes(7), ".raw.gz")
    assert evlib.open(path, on_problem="raise").read().equals(events)


def test_other_bytes_after_gzip_are_a_loss(few, save):
    events, content = few
    for rest in (b"rest", bytes(99) + b"rest"):
        recording = evlib.open(save(gz(content) + rest, ".raw.gz"))
        assert recording.read().equals(events)
        assert problem_counts(recording) == {"TRUNCATED": 1}


@pytest.mark.parametrize("number", [0, 15])
def test_zstandard_frames_that_are_to_be_skipped(number, few, save):
    events, content = few
    skipped = bytes([0x50 + number, 0x2A, 0x4D, 0x18]) + struct.pack("<I", 600_000) + bytes(600_000)
    packed = skipped + zstd(content[:999]) + skipped + zstd(content[999:]) + skipped
    recording = evlib.open(save(packed, ".raw.zst"), on_problem="raise")
    assert recording.reasons[0] == "unpacked from Zstandard"
    assert recording.read().equals(events)
    # One that ends early.
    cut = evlib.open(save(packed[:-5], ".raw.zst"))
    assert cut.read().equals(events)
    assert problem_counts(cut) == {"TRUNCATED": 1}
    with pytest.raises(evlib.FormatError, match="empty file"):
        evlib.open(save(skipped, ".raw.zst"))
