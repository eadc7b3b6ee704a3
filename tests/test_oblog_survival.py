"""What the observation log survives: kills, full disks, cuts, flips, very large records; what memory a view costs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_oblog import write

from evlib.codecs import BytesCodec, NumpyArrayCodec
from evlib.exceptions import FormatError
from evlib.oblog import ObLog

linux = pytest.mark.skipif(sys.platform != "linux", reason="uses /proc, limits and mounts of Linux")


def run(code: str, *arguments: object, timeout: int = 250) -> dict:
    """Run a program and give what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


KILLER = """
import json, os, random, select, shutil, signal, sys, time
import numpy as np
from evlib.oblog import ObLog
from evlib.codecs import NumpyArrayCodec
import evlib.codecs, evlib._dtypes

folder, rounds = sys.argv[1], int(sys.argv[2])
chance = random.Random(7)
OPTIONS = [{"durable": True}, {"flush": "record"}, {"flush": "batch"}, {"durable": True, "direct": True},
           {"flush": "batch", "queue_bytes": 16 << 10}]

def item(number):
    return np.full(number * 37 % 900, number, "u4")

def child(options, acknowledge):
    write = ObLog(folder).get_writer("c", NumpyArrayCodec(), **options)
    for number in range(10**6):
        write(item(number), timestamp=number)
        os.write(acknowledge, b"x")

survived = torn = 0
for round in range(rounds):
    shutil.rmtree(folder, ignore_errors=True)
    options = OPTIONS[round % len(OPTIONS)]
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            child(options, writing)
        finally:
            os._exit(1)
    os.close(writing)
    # Sometimes before the first record, mostly in the middle of many.
    if round % 20:
        os.read(reading, 1)
    time.sleep(chance.random() * 0.012)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    acknowledged = 1 if round % 20 else 0
    while chunk := os.read(reading, 1 << 16):
        acknowledged += len(chunk)
    os.close(reading)
    try:
        channel = ObLog(folder).channel("c", verify="all")
    except FileNotFoundError:
        assert acknowledged == 0
        continue
    for number, (timestamp, array) in enumerate(channel):
        assert timestamp == number, (round, timestamp, number)
        assert array.tolist() == item(number).tolist(), (round, number)
    if options.get("durable"):
        assert len(channel) >= acknowledged, (round, len(channel), acknowledged)
    survived += len(channel)
    torn += channel.recovery.records
    assert channel.recovery.reason is not None
    # The lock went with the process, and what is appended comes after what survived.
    before = len(channel)
    with ObLog(folder) as log:
        log.get_writer("c", NumpyArrayCodec())(item(before), timestamp=before)
    again = ObLog(folder).channel("c", verify="all")
    assert [timestamp for timestamp, _ in again] == list(range(before + 1))
print(json.dumps({"survived": survived, "torn": torn}))
"""


@linux
def test_kills(tmp_path):
    found = run(KILLER, tmp_path / "logs", 200)
    assert found["survived"] > 1000


def test_a_cut_at_every_byte(tmp_path):
    oblog = ObLog(tmp_path)
    path = write(oblog, "c", [np.full(number, number, "u2") for number in range(4)])
    data = path.read_bytes()
    ends = [
        data.index(bytes(oblog.channel("c").record(at).payload)) + len(oblog.channel("c").record(at).payload)
        for at in range(4)
    ]
    for cut in range(len(data)):
        path.unlink()
        path.write_bytes(data[:cut])
        channel = oblog.channel("c")
        assert len(channel) == sum(end <= cut for end in ends), cut
        for number, (_, array) in enumerate(channel):
            assert array.tolist() == [number] * number, cut
        assert channel.recovery.reason is not None


def test_a_flip_of_every_bit(tmp_path):
    oblog = ObLog(tmp_path)
    wanted = [np.full(number + 1, number, "u2") for number in range(3)]
    path = write(oblog, "c", wanted)
    data = path.read_bytes()
    losses = 0
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.unlink()
        path.write_bytes(flipped)
        channel = oblog.channel("c", verify="first")
        found = []
        records = iter(channel)
        while True:
            try:
                found.append(next(records))
            except FormatError:
                continue
            except StopIteration:
                break
        assert len(found) >= 2, bit
        losses += len(found) == 2
        for timestamp, array in found:
            assert array.tolist() == wanted[timestamp - 1000].tolist(), bit
    assert losses > 3 * 64 * 8


def test_reopening_after_a_torn_tail(tmp_path):
    oblog = ObLog(tmp_path)
    path = write(oblog, "c", [np.arange(500)] * 3)
    kept = path.read_bytes()
    path.unlink()
    path.write_bytes(kept[: kept.index(np.arange(500).tobytes()) + 4000 + 300])
    write(oblog, "c", [np.arange(7)])
    channel = oblog.channel("c")
    assert [array.size for _, array in channel] == [500, 7]
    assert channel.recovery.records == 1
    assert channel.recovery.bytes > 0
    assert "c.000001.mcap: not closed, torn end" in channel.recovery.reason


FULL = """
import json, os, resource, signal, sys
import numpy as np
from evlib.oblog import LogWriteError, ObLog
from evlib.codecs import NumpyArrayCodec

folder = sys.argv[1]
limit, size, queue, direct = (int(argument) for argument in sys.argv[2:])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
oblog = ObLog(folder)
write = oblog.get_writer("c", NumpyArrayCodec(), queue_bytes=queue, direct=bool(direct), policy="POLICY")
errors = []
given = 0
for number in range(5000):
    try:
        write(np.full(size, number % 256, "u1"), timestamp=number)
        given += 1
    except LogWriteError as error:
        errors.append([error.errno, error.records_written, str(error), error.filename])
        if len(errors) == 2:
            break
try:
    oblog.close()
except LogWriteError as error:
    errors.append([error.errno, error.records_written, str(error), error.filename])
print(json.dumps({"errors": errors, "given": given, "written": write.counters.written}))
"""


def assert_full(found: dict, folder: Path, number: int, size: int) -> None:
    """Every error says how many records there are, and so many are there."""
    assert len(found["errors"]) == 3
    written = found["written"]
    for found_number, records, text, name in found["errors"]:
        assert found_number == number
        assert records == written
        assert f"{written} of " in text
        assert Path(name).name == "c.000001.mcap"
    channel = ObLog(folder).channel("c", verify="all")
    assert len(channel) == written
    assert 0 < written < found["given"] + 2
    for at, (timestamp, array) in enumerate(channel):
        assert timestamp == at
        assert array.shape == (size,)
        assert (array == at % 256).all()


@linux
@pytest.mark.parametrize("direct", [0, 1])
@pytest.mark.parametrize(("size", "queue"), [(1000, 1 << 20), (100_000, 1 << 20), (300_000, 64 << 10)])
def test_a_limit_of_the_file_size(tmp_path, size, queue, direct):
    code = FULL.replace("POLICY", "block")
    found = run(code, tmp_path / "logs", 1_500_000, size, queue, direct)
    assert_full(found, tmp_path / "logs", errno.EFBIG, size)


@linux
@pytest.mark.parametrize(("size", "queue"), [(1000, 1 << 20), (300_000, 64 << 10)])
def test_a_full_disk(tmp_path, size, queue):
    disk = tmp_path / "disk"
    disk.mkdir()
    code = FULL.replace("POLICY", "block")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        found = run(code, disk / "logs", 0, size, queue, 0)
        assert_full(found, disk / "logs", errno.ENOSPC, size)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


LARGE = 2200 << 20


def room() -> int:
    """Bytes of memory and disk that a test may use."""
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE") if sys.platform == "linux" else 0
    try:
        text = Path("/proc/meminfo").read_text()
        memory = int(text.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    return memory


def test_records_over_2_gib_and_files_over_4_gib(tmp_path):
    if room() < 4 * LARGE or shutil.disk_usage(tmp_path).free < 3 * LARGE:
        pytest.skip(f"needs {4 * LARGE >> 30} GiB of memory and {3 * LARGE >> 30} GiB of disk")
    oblog = ObLog(tmp_path / "logs")
    array = np.zeros(LARGE, "u1")
    array[:: 1 << 20] = 7
    array[-3:] = (1, 2, 3)
    try:
        writer = oblog.get_writer("c", NumpyArrayCodec())
        for number in range(2):
            writer(array, timestamp=number)
            writer(np.arange(5), timestamp=number)
        writer.close()
        assert writer.path.stat().st_size > 4 << 30
        channel = oblog.channel("c", verify="all")
        assert channel.recovery.records == 0
        assert [item.nbytes for _, item in channel] == [LARGE, 40, LARGE, 40]
        for at in (0, 2):
            _, found = channel[at]
            assert found[-3:].tolist() == [1, 2, 3]
            assert (found[:: 1 << 20] == array[:: 1 << 20]).all()
        del found, channel
        # Without its index, by scanning.
        with writer.path.open("r+b") as file:
            file.truncate(writer.path.stat().st_size - 100)
        scanned = oblog.channel("c")
        assert [item.nbytes for _, item in scanned] == [LARGE, 40, LARGE, 40]
        assert scanned[3][1].tolist() == list(range(5))
    finally:
        shutil.rmtree(tmp_path / "logs")


MEMORY = """
import gc, json, resource, sys
from pathlib import Path
import numpy as np
from evlib.oblog import ObLog
from evlib.codecs import NumpyArrayCodec

class CopyingCodec(NumpyArrayCodec):
    def decode(self, payload):
        return super().decode(payload).copy()

def status():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    mapped = sum("big.000001.mcap" in line for line in Path("/proc/self/maps").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024, faults, mapped

oblog = ObLog(sys.argv[1])
codec = CopyingCodec() if sys.argv[2] == "copy" else None
big, small = oblog.channel("big", codec=codec), oblog.channel("small", codec=codec)
for _ in range(3):
    small[0], status()
gc.collect()
gc.disable()
before = status()
_, array = big[0]
middle = status()
arrays = [big[0][1] for _ in range(int(sys.argv[3]) - 1)]
after = status()
views = all(item.base is not None and not item.flags.writeable for item in [array, *arrays])
del array, arrays, big, small
gc.collect()
end = status()
print(json.dumps({"anonymous": after[0] - before[0], "faults": middle[1] - before[1], "views": views,
                  "mapped": [before[2], end[2]]}))
"""


@linux
def test_what_a_view_costs(tmp_path):
    """76.3 MB decoded for nothing; the same measurement sees a codec that copies."""
    oblog = ObLog(tmp_path)
    write(oblog, "big", [np.ones(10_000_000)])
    write(oblog, "small", [np.ones(10)])
    one = run(MEMORY, tmp_path, "view", 1)
    five = run(MEMORY, tmp_path, "view", 5)
    for found in (one, five):
        # Pages of the interpreter itself may come or go; those of an array would be 80 MB.
        assert found["anonymous"] <= 256 << 10
        assert found["faults"] <= 12
        assert found["views"]
        assert found["mapped"] == [1, 0]
    copied = run(MEMORY, tmp_path, "copy", 5)
    assert copied["anonymous"] > 5 * 79_000_000
    assert copied["faults"] > 100
    assert not copied["views"]


def test_an_error_of_the_disk_does_not_hide_behind_drop_oldest(tmp_path):
    if sys.platform != "linux":
        pytest.skip("uses a limit of Linux")
    # So many that some are written, however few of them the machine lets through.
    code = FULL.replace("POLICY", "drop_oldest").replace("range(5000)", "range(500_000)")
    found = run(code, tmp_path / "logs", 300_000, 1000, 64 << 10, 0)
    assert found["errors"]
    channel = ObLog(tmp_path / "logs").channel("c", verify="all")
    assert len(channel) == found["written"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"(?i)exists|not a directory"):
        ObLog(tmp_path / "file" / "logs").get_writer("c", BytesCodec())
