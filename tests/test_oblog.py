"""The observation log: writing, reading, time, files and the views that they give."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import evlib
from evlib import codecs
from evlib.codecs import BytesCodec, EventsCodec, JsonCodec, NumpyArrayCodec, PickleCodec
from evlib.exceptions import ArgumentError, FormatError, UnsupportedError
from evlib.oblog import Counters, ObLog, QueueFullError, Recovery


@pytest.fixture
def oblog(tmp_path) -> ObLog:
    return ObLog(tmp_path / "logs")


def write(oblog: ObLog, channel: str, items, codec=None, **options) -> Path:
    writer = oblog.get_writer(channel, codec or NumpyArrayCodec(), **options)
    for number, item in enumerate(items):
        writer(item, timestamp=1000 + number)
    writer.close()
    return writer.path


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


# The usage that the library promises.


def test_asynchronous_use(tmp_path):
    async def main() -> list[tuple[int, np.ndarray]]:
        oblog = ObLog(Path(tmp_path / "logs"))
        write = oblog.get_writer("sensor_data", NumpyArrayCodec())
        for _ in range(100):
            write(np.random.default_rng(1).random(1000))
        await oblog.close()

        oblog = ObLog(Path(tmp_path / "logs"))
        found = []
        async for timestamp, array in oblog.read_channel("sensor_data"):
            assert array.base is not None
            assert not array.flags.writeable
            found.append((timestamp, array))
        await oblog.close()
        return found

    before = time.time_ns()
    found = asyncio.run(main())
    assert len(found) == 100
    assert all(before <= timestamp <= time.time_ns() for timestamp, _ in found)
    assert [timestamp for timestamp, _ in found] == sorted(timestamp for timestamp, _ in found)
    np.testing.assert_array_equal(found[7][1], np.random.default_rng(1).random(1000))


def test_an_event_loop_goes_on_while_a_channel_is_read(oblog):
    write(oblog, "c", range(2000), JsonCodec())

    async def main() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        async for _ in oblog.read_channel("c"):
            pass
        task.cancel()
        return turns

    assert asyncio.run(main()) >= 5


def test_closing_in_an_event_loop_without_awaiting(oblog):
    async def main() -> None:
        oblog.get_writer("c", BytesCodec())(b"x")
        oblog.close()

    asyncio.run(main())
    assert oblog.channel("c").files[0].closed


def test_async_with_and_with(oblog):
    async def main() -> None:
        async with oblog as log:
            log.get_writer("c", BytesCodec())(b"x")

    asyncio.run(main())
    with oblog as log:
        log.get_writer("c", BytesCodec())(b"y")
    assert [bytes(item) for _, item in oblog.channel("c")] == [b"x", b"y"]
    assert all(file.closed for file in oblog.channel("c").files)


def test_sequence_forms(oblog):
    write(oblog, "c", [np.arange(number) for number in range(10)])
    channel = oblog.channel("c")
    assert len(channel) == 10
    assert channel[3][0] == 1003
    assert channel[-1][1].tolist() == list(range(9))
    assert channel[np.int64(2)][0] == 1002
    assert [timestamp for timestamp, _ in channel[2:8:3]] == [1002, 1005]
    assert [timestamp for timestamp, _ in channel] == list(range(1000, 1010))
    assert [timestamp for timestamp, _ in channel.range(1003, 1006)] == [1003, 1004, 1005]
    assert [timestamp for timestamp, _ in channel.range(stop=1002)] == [1000, 1001]
    assert [timestamp for timestamp, _ in channel.range(1008)] == [1008, 1009]
    assert list(channel.range(2000)) == []
    assert list(channel.range(5, 3)) == []
    for at in (10, -11):
        with pytest.raises(IndexError):
            channel[at]
    with pytest.raises(TypeError):
        channel["x"]
    with pytest.raises(ArgumentError):
        channel.range(1.5)
    assert repr(channel) == "<evlib.oblog.Channel 'c': 10 records>"


def test_times_of_caller_and_sensor(oblog):
    with oblog:
        writer = oblog.get_writer("c", BytesCodec())
        writer(b"a", timestamp=5, sensor_time=3)
        writer(b"b", timestamp=np.uint64(2**63 - 1))
        for wrong in (-1, 1.5, "x", 2**64):
            with pytest.raises((OverflowError, TypeError)):
                writer(b"c", timestamp=wrong)
    records = [oblog.channel("c").record(at) for at in range(2)]
    assert [(record.sequence, record.timestamp, record.sensor_time) for record in records] == [
        (0, 5, 3),
        (1, 2**63 - 1, 2**63 - 1),
    ]
    assert bytes(records[0].payload) == b"a"


def test_a_clock_that_goes_back(oblog):
    writer = oblog.get_writer("c", JsonCodec())
    times = [5, 6, 7, 3, 4, 5, 6]
    for timestamp in times:
        writer(timestamp, timestamp=timestamp)
    writer.close()
    channel = oblog.channel("c")
    assert [item for _, item in channel] == times
    assert [item for _, item in channel.range(5, 7)] == [5, 6, 5, 6]


def test_merge(oblog):
    for name, times in {"a": [1, 4, 4, 9], "b": [2, 4, 8], "empty": []}.items():
        writer = oblog.get_writer(name, JsonCodec())
        for timestamp in times:
            writer(name, timestamp=timestamp)
    oblog.close()
    merged = [(name, timestamp) for name, timestamp, _ in oblog.merge("b", "a", "empty")]
    assert merged == [("a", 1), ("b", 2), ("b", 4), ("a", 4), ("a", 4), ("b", 8), ("a", 9)]
    assert [timestamp for _, timestamp, _ in oblog.merge()] == [1, 2, 4, 4, 4, 8, 9]


@pytest.mark.parametrize(
    "name",
    ["a/b", "../x", "..", "/etc/x", "nul\0", "ünïcode ☃", "x" * 300, "ü" * 300, "con", ".", "a.000001.mcap", "%41"],
)
def test_channel_names(oblog, name):
    write(oblog, name, [b"x"], BytesCodec())
    assert oblog.channels() == [name]
    assert bytes(oblog.channel(name)[0][1]) == b"x"
    files = list(oblog.path.parent.rglob("*"))
    assert {file.parent for file in files} <= {oblog.path, oblog.path.parent}
    assert len(list(oblog.path.iterdir())) == 2


def test_names_that_cannot_be(oblog):
    for name in ("", 5, None, "\ud800"):
        with pytest.raises(ArgumentError):
            oblog.get_writer(name, BytesCodec())
    with pytest.raises(FileNotFoundError, match="expected channel `nothing`, found no channels"):
        oblog.channel("nothing")
    assert oblog.channels() == []


def test_an_empty_channel(oblog):
    path = write(oblog, "c", [])
    channel = oblog.channel("c")
    assert len(channel) == 0
    assert list(channel) == []
    assert channel.recovery == Recovery(0, 0, None, None)
    assert mcap_messages(path) == []
    path.write_bytes(b"")
    assert len(oblog.channel("c")) == 0
    assert "empty file" in oblog.channel("c").recovery.reason


def test_two_writers(oblog):
    first = oblog.get_writer("c", BytesCodec())
    with pytest.raises(ArgumentError, match="has a writer already"):
        oblog.get_writer("c", BytesCodec())
    code = """
import sys
from evlib.codecs import BytesCodec
from evlib.oblog import ObLog
ObLog(sys.argv[1]).get_writer("c", BytesCodec())
"""
    run = subprocess.run([sys.executable, "-c", code, oblog.path], capture_output=True, text=True, check=False)
    assert "has a writer already" in run.stderr
    first(b"1")
    first.close()
    write(oblog, "c", [b"2"], BytesCodec())
    assert [bytes(item) for _, item in oblog.channel("c")] == [b"1", b"2"]


def test_a_second_session_changes_no_file(oblog):
    first = write(oblog, "c", [b"1"], BytesCodec())
    before = first.read_bytes(), first.stat().st_mtime_ns
    second = write(oblog, "c", [b"2"], BytesCodec())
    assert (first.name, second.name) == ("c.000001.mcap", "c.000002.mcap")
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before


def test_sessions_with_different_codecs(oblog):
    write(oblog, "c", [np.arange(3)])
    write(oblog, "c", [{"a": 1}], JsonCodec())
    (_, array), (_, item) = oblog.channel("c")
    assert array.tolist() == [0, 1, 2]
    assert item == {"a": 1}


def test_a_writer_that_is_closed(oblog):
    writer = oblog.get_writer("c", BytesCodec())
    writer.close()
    writer.close()
    with pytest.raises(ArgumentError, match="closed"):
        writer(b"x")


def test_wrong_options(oblog):
    for options in (
        {"policy": "wait"},
        {"flush": "never"},
        {"queue_bytes": 100},
        {"queue_bytes": -1},
        {"durable": True, "policy": "drop_oldest"},
    ):
        with pytest.raises(ArgumentError):
            oblog.get_writer("c", BytesCodec(), **options)
    for codec in (None, NumpyArrayCodec, object()):
        with pytest.raises(ArgumentError):
            oblog.get_writer("c", codec)
    with pytest.raises(ArgumentError):
        oblog.tail("c", start="now")
    for option in ("timeout", "spin"):
        with pytest.raises(ArgumentError, match=option):
            oblog.tail("c", **{option: 1.0})
    write(oblog, "c", [])
    with pytest.raises(ArgumentError):
        oblog.channel("c", verify="some")


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "error"])
def test_back_pressure(oblog, policy):
    writer = oblog.get_writer("c", BytesCodec(), policy=policy, queue_bytes=32 << 10)
    refused = 0
    for _ in range(3000):
        try:
            writer(bytes(2000))
        except QueueFullError as error:
            refused += 1
            assert "queue is full" in str(error)
        assert writer.counters.queued_bytes <= 32 << 10
    writer.close()
    counters = writer.counters
    assert isinstance(counters, Counters)
    assert counters.accepted + counters.rejected == 3000
    assert counters.rejected == refused
    assert counters.written + counters.dropped == counters.accepted
    assert len(oblog.channel("c", verify="all")) == counters.written
    if policy == "block":
        assert counters.written == 3000


def test_several_threads_write_one_channel(oblog):
    writer = oblog.get_writer("c", NumpyArrayCodec(), queue_bytes=1 << 20)

    def produce(producer: int) -> None:
        for number in range(200):
            writer(np.array([producer, number] * 5000))

    threads = [threading.Thread(target=produce, args=(producer,)) for producer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    channel = oblog.channel("c", verify="all")
    seen = {producer: [] for producer in range(4)}
    for _, array in channel:
        assert (array.reshape(-1, 2) == array[:2]).all()
        seen[int(array[0])].append(int(array[1]))
    assert seen == {producer: list(range(200)) for producer in range(4)}


def test_reading_while_writing(oblog):
    writer = oblog.get_writer("c", NumpyArrayCodec(), flush="record")
    reader = ObLog(oblog.path)
    seen = 0
    for number in range(300):
        writer(np.full(500, number))
        channel = reader.channel("c", verify="all")
        assert channel.recovery.records == 0
        assert len(channel) >= seen
        seen = len(channel)
        assert [int(array[-1]) for _, array in channel] == list(range(seen))
    writer.flush()
    assert len(reader.channel("c")) == 300
    writer.close()


def test_flush_batch_is_soon(oblog):
    writer = oblog.get_writer("c", BytesCodec())
    late = []
    # At once, while the thread still looks for more, and once it sleeps.
    for pause in (0, 0, 0.03, 0.03, 0.2, 0.2):
        time.sleep(pause)
        writer(b"x")
        start = time.monotonic()
        while writer.counters.written <= len(late) and time.monotonic() < start + 5:
            time.sleep(0.0005)
        late.append(time.monotonic() - start)
    assert len(oblog.channel("c")) == len(late)
    # 10 ms and what the machine adds to it.
    assert sorted(late)[len(late) // 2] < 0.1
    writer.close()


def test_a_torn_file_is_told_while_the_next_one_is_written(oblog):
    path = write(oblog, "c", [np.arange(100)] * 3)
    path.write_bytes(path.read_bytes()[:1200])
    before = oblog.channel("c").recovery
    assert before.records == 1
    writer = oblog.get_writer("c", NumpyArrayCodec(), flush="record")
    writer(np.arange(5))
    channel = oblog.channel("c")
    assert channel.recovery == before
    assert [file.recovery.records for file in channel.files] == [1, 0]
    assert channel.files[1].recovery.reason is None
    writer.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_no_writer(oblog):
    code = """
import gc, os, sys
from evlib.oblog import ObLog
from evlib.codecs import BytesCodec
oblog = ObLog(sys.argv[1])
write = oblog.get_writer("c", BytesCodec())
write(b"parent")
child = os.fork()
if child == 0:
    try:
        write(b"child")
    except ValueError as error:
        oblog.close()
        # Neither does the end of the object wait for a thread that is not there.
        del write, oblog
        gc.collect()
        os._exit(7 if "forked" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
write(b"parent")
# The lock goes with the writer, though another child still has the file.
write_other = oblog.get_writer("other", BytesCodec())
waits, ends = os.pipe()
child = os.fork()
if child == 0:
    os.close(ends)
    os.read(waits, 1)
    os._exit(0)
write_other.close()
ObLog(sys.argv[1]).get_writer("other", BytesCodec()).close()
os.close(ends)
os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, oblog.path], check=True, timeout=60)
    # Nobody closed it: the end of the process does.
    channel = oblog.channel("c")
    assert [bytes(item) for _, item in channel] == [b"parent"] * 2
    assert channel.files[0].closed


# Tails.


def test_tail(oblog):
    write(oblog, "c", [0, 1], JsonCodec())
    everything = oblog.tail("c", start="all", timeout=timedelta(seconds=20))
    new = oblog.channel("c").tail(timeout=timedelta(milliseconds=300))
    assert new.next(timedelta(0)) is None
    with oblog:
        writer = oblog.get_writer("c", JsonCodec())
        writer(2, timestamp=7)
        writer(3, timestamp=6)
    assert [next(everything)[1] for _ in range(4)] == [0, 1, 2, 3]
    assert list(new) == [(7, 2), (6, 3)]
    assert new.lost_bytes == 0


def test_a_tail_of_what_is_new_passes_over_damage(oblog):
    path = write(oblog, "c", range(5), JsonCodec())
    data = bytearray(path.read_bytes())
    # Neither the end nor the first payload is as it was.
    data[data.index(b"\0", data.index(b"evrh") + 104)] ^= 1
    path.write_bytes(data[:-200])
    tail = oblog.tail("c", timeout=timedelta(seconds=20))
    with oblog:
        oblog.get_writer("c", JsonCodec())(9)
    assert next(tail)[1] == 9


@pytest.mark.parametrize("spin", [timedelta(0), timedelta(milliseconds=2)])
def test_tail_across_processes(oblog, spin):
    code = """
import sys
import numpy as np
from evlib.oblog import ObLog
from evlib.codecs import NumpyArrayCodec
with ObLog(sys.argv[1]) as oblog:
    write = oblog.get_writer("c", NumpyArrayCodec(), flush="record")
    for number in range(2000):
        write(np.full(number % 700, number), timestamp=number)
"""
    # The channel need not be there yet.
    tail = oblog.tail("c", start="all", timeout=timedelta(seconds=30), spin=spin)
    with subprocess.Popen([sys.executable, "-c", code, oblog.path]) as process:
        for number in range(2000):
            timestamp, array = next(tail)
            assert timestamp == number
            assert array.shape == (number % 700,)
            assert (array == number).all()
        assert process.wait(30) == 0


def test_asynchronous_tail(oblog):
    async def main() -> list[int]:
        found = []

        async def read() -> None:
            async for _, item in oblog.tail("c", timeout=timedelta(seconds=2)):
                found.append(item)
                if item == 9:
                    return

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        writer = oblog.get_writer("c", JsonCodec(), flush="record")
        for number in range(10):
            writer(number)
            await asyncio.sleep(0.002)
        await task
        await oblog.close()
        return found

    assert asyncio.run(main()) == list(range(10))


def test_an_asynchronous_tail_ends(oblog):
    async def main() -> int:
        return len([item async for item in oblog.tail("c", timeout=timedelta(milliseconds=50))])

    assert asyncio.run(main()) == 0


# Views, memory and files.


def test_views_are_aligned_and_read_only(oblog):
    arrays = [np.arange(number, dtype=dtype) for number in range(1, 200, 13) for dtype in ("u1", "i2", "f4", "c16")]
    write(oblog, "c", arrays)
    for (_, found), wanted in zip(oblog.channel("c"), arrays, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype
        assert address(found) % 64 == 0
        assert not found.flags.writeable
        assert found.base is not None
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            found.flags.writeable = True


def test_two_reads_share_the_page_cache(oblog):
    write(oblog, "c", [np.arange(10)])
    channel = oblog.channel("c")
    assert address(channel[0][1]) == address(channel[0][1])


def test_views_outlive_log_and_file(oblog):
    path = write(oblog, "c", [np.arange(1000), np.arange(1000)])
    (_, first), (_, second) = oblog.channel("c")
    oblog.close()
    path.unlink()
    path.write_bytes(b"something else")
    shutil.rmtree(oblog.path)
    gc.collect()
    assert first.sum() == second.sum() == 499500


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mappings(name: str) -> int:
    return sum(name in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="counts mappings in /proc")
def test_readers_leave_nothing_behind(oblog):
    path = write(oblog, "c", [np.arange(1000)] * 10)
    write(oblog, "e", [events(100)] * 3, EventsCodec())
    # Polars opens some of its own when it is first used.
    oblog.channel("e").load_events().collect()
    gc.collect()
    descriptors = descriptors_open()
    for number in range(1000):
        channel = oblog.channel("c", verify=("head", "first", "all")[number % 3])
        assert sum(int(array[-1]) for _, array in channel) == 9990
        if number % 50 == 0:
            assert oblog.channel("e").load_events().collect().height == 300
    for _ in range(100):
        oblog.tail("c", start="all").next(timedelta(seconds=5))
    assert mappings(path.name) > 0
    del channel
    gc.collect()
    assert mappings(path.name) == 0
    assert mappings("e.000001.mcap") == 0
    assert descriptors_open() == descriptors


def test_a_view_keeps_only_its_file_mapped(oblog):
    first, second = write(oblog, "c", [np.arange(9)]), write(oblog, "c", [np.arange(9)])
    _, view = oblog.channel("c")[1]
    gc.collect()
    assert (mappings(first.name), mappings(second.name)) == (0, 1)
    part = view[3:5]
    del view
    assert part.tolist() == [3, 4]
    del part
    assert mappings(second.name) == 0


# Other readers of MCAP.


def mcap_messages(path: Path) -> list[tuple[int, int, int, bytes, str, str]]:
    from mcap.reader import NonSeekingReader, make_reader

    with path.open("rb") as stream:
        found = [
            (
                message.sequence,
                message.log_time,
                message.publish_time,
                message.data,
                channel.topic,
                channel.message_encoding,
            )
            for _, channel, message in make_reader(stream, validate_crcs=True).iter_messages(log_time_order=False)
        ]
        stream.seek(0)
        linear = NonSeekingReader(stream, validate_crcs=True)
        assert [message.data for _, _, message in linear.iter_messages(log_time_order=False)] == [
            row[3] for row in found
        ]
        stream.seek(0)
        summary = make_reader(stream, validate_crcs=True).get_summary()
    assert summary.statistics.message_count == len(found)
    if found:
        times = [row[1] for row in found]
        assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (min(times), max(times))
    return found


@pytest.mark.parametrize("direct", [False, True])
def test_mcap_reads_every_closed_file(oblog, direct):
    from mcap.stream_reader import StreamReader

    arrays = [np.arange(number % 50) for number in range(5000)]
    path = write(oblog, "a/b", arrays, direct=direct, policy="block")
    found = mcap_messages(path)
    assert [row[:2] for row in found] == [(number, 1000 + number) for number in range(5000)]
    assert {row[4:] for row in found} == {("a/b", "evlib.numpy")}
    for (*_, data, _, _), array in zip(found, arrays, strict=True):
        assert data == codecs.NumpyArrayCodec().encode(array)
    # The reader itself compares the checksum of all data with what DataEnd says.
    with path.open("rb") as stream:
        assert sum(1 for _ in StreamReader(stream, validate_crcs=True).records) > 5000
    damaged = bytearray(path.read_bytes())
    damaged[bytes(damaged).index(arrays[49].tobytes()) + 80] ^= 1
    path.write_bytes(damaged)
    with path.open("rb") as stream, pytest.raises(Exception, match=r"(?i)crc"):
        list(StreamReader(stream, validate_crcs=True).records)


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD", "chunkless"])
def test_foreign_mcap(tmp_path, compression):
    from mcap.writer import CompressionType, Writer

    path = tmp_path / "foreign.mcap"
    with path.open("wb") as stream:
        chunked = compression != "chunkless"
        kind = CompressionType[compression] if chunked else CompressionType.NONE
        writer = Writer(stream, chunk_size=2000, compression=kind, use_chunking=chunked)
        writer.start(profile="other", library="test")
        schema = writer.register_schema("s", "jsonschema", b"{}")
        state = writer.register_channel("/state", "json", schema)
        raw = writer.register_channel("/raw", "cdr", schema)
        array = writer.register_channel("/array", "evlib.numpy", 0)
        for number in range(300):
            writer.add_message(state, 10 + number, b'{"n": %d}' % number, 10 + number)
            writer.add_message(raw, 10 + number, bytes([number % 256]) * 5, 10 + number)
            writer.add_message(
                array, 10 + number, bytes(NumpyArrayCodec().encode(np.full(3, number, "f8"))), 10 + number
            )
        writer.finish()
    log = ObLog(path)
    assert log.channels() == ["/state", "/raw", "/array"]
    assert [(timestamp, item["n"]) for timestamp, item in log.channel("/state")] == [(10 + n, n) for n in range(300)]
    assert [bytes(item) for _, item in log.channel("/raw").range(15, 17)] == [bytes([n]) * 5 for n in (5, 6)]
    for number, (_, found) in enumerate(log.channel("/array")):
        assert found.tolist() == [number] * 3
        # Copied where it is not aligned.
        assert found.flags.aligned
        assert not found.flags.writeable
    with pytest.raises(ArgumentError):
        log.get_writer("x", BytesCodec())
    whole = path.read_bytes()
    assert log.channel("/raw").verify() == []
    if chunked:
        # Where the file says of a chunk, which has a checksum, that it is damaged, the others are read.
        damaged = bytearray(whole)
        second = whole.index(
            b'{"n": 0}'
            if compression == "NONE"
            else b"\x28\xb5\x2f\xfd"
            if compression == "ZSTD"
            else b"\x04\x22\x4d\x18"
        )
        damaged[second + (0 if compression == "NONE" else 40)] ^= 1
        path.write_bytes(damaged)
        state = ObLog(path).channel("/state")
        assert any("chunk" in text for text in state.verify())
        if compression != "NONE":
            assert 200 < len(state) < 300
            assert state.recovery.records == 1
            assert state.recovery.reason.endswith("damaged chunk")
            times = [timestamp for timestamp, _ in state]
            assert times == list(range(310 - len(times), 310))
    path.write_bytes(whole[: len(whole) // 2])
    cut = ObLog(path).channel("/state")
    assert 0 < len(cut) < 300
    assert "torn" in cut.recovery.reason


def test_a_topic_of_several_channels_of_mcap(tmp_path):
    from mcap.writer import Writer

    path = tmp_path / "foreign.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        first = writer.register_channel("/state", "json", 0)
        raw = writer.register_channel("/state", "cdr", 0)
        for number in range(3):
            writer.add_message(first, number, b"[%d]" % number, number)
            writer.add_message(raw, number, bytes([number]), number)
        writer.finish()
    log = ObLog(path)
    assert log.channels() == ["/state"]
    channel = log.channel("/state")
    assert [item if isinstance(item, list) else bytes(item) for _, item in channel] == [
        *([number] for number in range(3)),
        *(bytes([number]) for number in range(3)),
    ]
    path.write_bytes(path.read_bytes()[:-400])
    assert log.channel("/state").recovery.records <= 1


class SeedCodec:
    """Pickled as the class of that name of another library would be."""


def blog(path: Path, codec_name: str, payloads: list[bytes]) -> None:
    pickled = pickle.dumps(SeedCodec(), protocol=4).replace(b"SeedCodec", codec_name.encode())
    pickled = pickled.replace(
        b"\x8c\x09" + codec_name.encode(), b"\x8c" + bytes([len(codec_name)]) + codec_name.encode()
    )
    records = [pickled, *payloads]
    path.write_bytes(b"".join(struct.pack("<QQ", 100 + at, len(item)) + item for at, item in enumerate(records)))


def test_files_of_the_seed(tmp_path):
    arrays = [np.arange(number, dtype="f8") for number in range(5)]
    blog(tmp_path / "a.blog", "NumpyArrayCodec", [bytes(NumpyArrayCodec().encode(array)) for array in arrays])
    blog(tmp_path / "p.blog", "PickleCodec", [pickle.dumps({1, 2})])
    blog(tmp_path / "o.blog", "OtherCodec", [b"raw"])
    log = ObLog(tmp_path)
    assert log.channels() == ["a", "o", "p"]
    for (timestamp, found), wanted, number in zip(log.channel("a"), arrays, range(5), strict=True):
        assert timestamp == 101 + number
        np.testing.assert_array_equal(found, wanted)
        assert found.flags.aligned
    assert bytes(log.channel("o")[0][1]) == b"raw"
    with pytest.raises(ArgumentError, match="allow_pickle"):
        log.channel("p")
    assert log.channel("p", allow_pickle=True)[0][1] == {1, 2}
    assert ObLog(tmp_path / "a.blog").channels() == ["a"]
    data = (tmp_path / "a.blog").read_bytes()
    (tmp_path / "a.blog").write_bytes(data[:-1])
    cut = log.channel("a")
    assert len(cut) == 4
    assert cut.recovery.records == 1


def test_the_description_of_a_codec_is_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    pickled = pickle.dumps(Bomb())
    (tmp_path / "x.blog").write_bytes(struct.pack("<QQ", 1, len(pickled)) + pickled)
    assert len(ObLog(tmp_path).channel("x")) == 0
    assert not (tmp_path / "exploded").exists()


# Events.


def events(rows: int, start: int = 0) -> pl.DataFrame:
    row = np.arange(start, start + rows)
    return pl.DataFrame(
        {
            "x": (row % 640).astype(np.int16),
            "y": (row // 3 % 480).astype(np.int16),
            "timestamp": pl.Series(row * 10).cast(pl.Duration("us")),
            "polarity": np.where(row % 3 == 0, 1, -1).astype(np.int8),
        }
    )


def test_events_as_a_recording(oblog, tmp_path):
    recording = tmp_path / "recording.raw"
    evlib.write_events(events(50_000), recording, geometry=(640, 480))
    with oblog:
        writer = oblog.get_writer("camera", EventsCodec(geometry=(640, 480)))
        for batch in evlib.open(recording).batches(rows=7000):
            writer(batch)
    path = writer.path
    assert evlib.identify(path).format == "oblog"
    found = evlib.open(path)
    assert (found.geometry, found.event_count, found.trigger_count) == ((640, 480), 50_000, 0)
    assert found.time_range == (timedelta(0), timedelta(microseconds=499_990))
    assert found.problems.is_empty()
    assert found.streams["name"].to_list() == ["camera"]
    assert evlib.load_events(path).collect().equals(events(50_000))
    assert evlib.read_events(path).equals(events(50_000))
    assert oblog.channel("camera").load_events().collect().equals(events(50_000))
    window = (pl.col("timestamp") >= timedelta(milliseconds=100)) & (pl.col("timestamp") < timedelta(milliseconds=200))
    for query in (
        lambda frame: frame.filter(window),
        lambda frame: frame.filter(window, pl.col("x") < 50, pl.col("polarity") == 1).select("y", "timestamp"),
        lambda frame: frame.select("polarity").head(10_000),
        lambda frame: frame.select(pl.len()),
        lambda frame: frame.filter(pl.col("y") == 7).group_by("x").len().sort("x"),
    ):
        assert query(evlib.load_events(path)).collect().equals(query(events(50_000).lazy()).collect())
    region = evlib.read_events(path, region=(10, 10, 20, 20), time_range=(0, 400_000), columns=["x", "y"])
    wanted = events(50_000).filter(pl.col("x").is_between(10, 29), pl.col("y").is_between(10, 29))
    assert region.equals(wanted.filter(pl.col("timestamp") < timedelta(microseconds=400_000)).select("x", "y"))
    outside = evlib.open(path, geometry=(320, 480))
    assert outside.event_count == events(50_000).filter(pl.col("x") < 320).height
    assert dict(outside.problems.select("code", "count").iter_rows()) == {"OUT_OF_BOUNDS": 50_000 - outside.event_count}
    assert evlib.write_events(found, tmp_path / "again.raw") == 50_000
    assert pickle.loads(pickle.dumps(evlib.load_events(path))).collect().height == 50_000


def resident(name: str) -> int:
    """Bytes of a mapped file that this process has touched."""
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = name in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages in /proc")
def test_a_time_window_touches_only_its_batches(oblog):
    rows = 200_000
    path = write(oblog, "c", [events(rows, start * rows) for start in range(10)], EventsCodec())
    start, stop = timedelta(microseconds=20 * rows), timedelta(microseconds=30 * rows)
    window = evlib.load_events(path).filter(pl.col("timestamp") >= start, pl.col("timestamp") < stop)
    frame = window.collect()
    assert frame.equals(events(rows, 2 * rows))
    # A whole batch, as it lies in the file, and the first pages of the others.
    assert 0 < resident(path.name) < path.stat().st_size // 4


def test_events_share_the_mapped_file(oblog):
    path = write(oblog, "c", [events(100_000)], EventsCodec())
    frames = [
        oblog.channel("c")[0][1],
        oblog.channel("c").load_events().collect(),
        evlib.load_events(path).collect(),
        evlib.read_events(path),
    ]
    spans = [
        [int(part, 16) for part in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if path.name in line
    ]
    for frame in frames:
        assert frame.equals(events(100_000))
        for name in frame.columns:
            column = frame[name].to_physical()
            array = column.to_numpy(allow_copy=False)
            place = address(array)
            assert any(start <= place and place + array.nbytes <= end for start, end in spans), name
            assert place % 64 == 0
            assert column.to_arrow().buffers()[1].address == place


def test_events_codec(oblog):
    codec = EventsCodec(geometry=(640, 480), returns="numpy")
    path = write(oblog, "c", [events(5), {"x": [1], "y": [2], "timestamp": [3], "polarity": [True]}, events(0)], codec)
    found = [item for _, item in oblog.channel("c", codec=codec)]
    assert [array.dtype.str for array in found[0].values()] == ["<i2", "<i2", "<i8", "|i1"]
    assert {name: array.tolist() for name, array in found[1].items()} == {
        "x": [1],
        "y": [2],
        "timestamp": [3],
        "polarity": [1],
    }
    assert not found[0]["x"].flags.writeable
    assert [len(item["x"]) for item in found] == [5, 1, 0]
    assert evlib.open(path).event_count == 6
    # Several chunks, and columns in another order.
    parts = pl.concat([events(3), events(2, 3)], rechunk=False)
    for same in (parts, events(5).select(pl.all().reverse()).reverse().select("polarity", "timestamp", "y", "x")):
        assert b"".join(map(bytes, codec.encode(same))) == b"".join(map(bytes, codec.encode(events(5))))
    nulls = events(3).with_columns(pl.when(pl.col("x") > 0).then(pl.col("x")))
    for wrong in (
        nulls,
        events(3).with_columns(x=pl.lit(-1, pl.Int16)),
        events(3).with_columns(y=pl.lit(480, pl.Int16)),
        events(3).with_columns(polarity=pl.lit(0, pl.Int8)),
        {"x": [640], "y": [2], "timestamp": [3], "polarity": [1]},
        {"x": [1], "y": [-1], "timestamp": [3], "polarity": [1]},
        {"x": [1], "y": [2], "timestamp": [3], "polarity": [0]},
        {"x": [1], "y": [2], "timestamp": [3]},
        {"x": [1], "y": [2], "timestamp": [None], "polarity": [1]},
        7,
    ):
        with pytest.raises(ArgumentError):
            codec.encode(wrong)


def test_a_log_of_other_items_is_no_recording(oblog):
    path = write(oblog, "c", [np.arange(3)])
    with pytest.raises(UnsupportedError, match=r"(?s)of something else than events.*numpy.*ObLog"):
        evlib.open(path)
    with pytest.raises(ArgumentError, match="holds no events"):
        oblog.channel("c").load_events()


def test_a_torn_log_of_events_has_problems(oblog):
    path = write(oblog, "c", [events(1000)] * 3, EventsCodec())
    path.write_bytes(path.read_bytes()[:-5000])
    recording = evlib.open(path)
    assert recording.event_count == 2000
    assert dict(recording.problems.select("code", "count").iter_rows()) == {"LOST_RECORDS": 1}
    assert evlib.load_events(path).collect().height == 2000


# Damage, and what is said of it.


def test_verification(oblog):
    path = write(oblog, "c", [np.full(100, number) for number in range(5)])
    payload = oblog.channel("c").record(2).payload
    damaged = bytearray(path.read_bytes())
    damaged[bytes(damaged).index(bytes(payload)) + 100] ^= 4
    del payload
    path.write_bytes(damaged)
    assert len(list(oblog.channel("c"))) == 5
    first = oblog.channel("c", verify="first")
    assert first[1][1][0] == 1
    with pytest.raises(
        FormatError, match=r"payload of record 2 is damaged: expected CRC32C .* at byte \d+ in"
    ) as error:
        first[2]
    assert error.value.path == str(path)
    # An iterator goes on behind a damaged record.
    records, found, errors = iter(first), [], 0
    while True:
        try:
            found.append(next(records)[0])
        except FormatError:
            errors += 1
        except StopIteration:
            break
    assert (found, errors) == ([1000, 1001, 1003, 1004], 1)
    whole = oblog.channel("c", verify="all")
    assert [timestamp for timestamp, _ in whole] == found
    assert whole.recovery.records == 1
    assert "damaged" in whole.recovery.reason
    assert any("record 2" in text for text in first.verify())
    assert any("DataEnd" in text for text in first.verify())


def test_a_renamed_file_is_not_taken_for_another_channel(oblog):
    path = write(oblog, "c", [b"x"], BytesCodec())
    path.rename(oblog.path / "d.000001.mcap")
    with pytest.raises(FormatError, match="another channel"):
        oblog.channel("d")
    assert ObLog(oblog.path / "d.000001.mcap").channels() == ["c"]


def test_a_file_that_is_no_log(tmp_path):
    path = tmp_path / "c.000001.mcap"
    for content in (b"hello", b"\x89MCAP0\r\n", bytes(5000), b"\x89MCAP0\r\n" + bytes(range(256)) * 9):
        path.write_bytes(content)
        channel = ObLog(tmp_path).channel("c")
        assert len(channel) == 0
        assert channel.recovery.bytes == len(content)


def test_a_packed_log_is_refused(oblog, tmp_path):
    """A log that is stored in an archive is in the file as it is, but is not the file."""
    path = write(oblog, "c", [np.arange(5)] * 3)
    packed = tmp_path / "log.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.write(path, "c.000001.mcap")
    for read in (lambda: ObLog(packed).channels(), lambda: ObLog(packed).channel("c")):
        with pytest.raises(FormatError, match=r"(?s)expected the MCAP magic, found a zip archive.*unpack it first"):
            read()


def test_a_schema_that_many_channels_share_has_a_bound(tmp_path):
    from mcap.writer import CompressionType, Writer

    path = tmp_path / "foreign.mcap"
    for channels, is_read in ((3, True), (80, False)):
        with path.open("wb") as stream:
            writer = Writer(stream, compression=CompressionType.ZSTD)
            writer.start()
            schema = writer.register_schema("s", "protobuf", bytes(2 << 20))
            for number in range(channels):
                channel = writer.register_channel(f"/{number}", "cdr", schema)
                writer.add_message(channel, number, b"x", number)
            writer.finish()
        log = ObLog(path)
        if is_read:
            assert [len(log.channel(name)) for name in log.channels()] == [1] * channels
        else:
            with pytest.raises(UnsupportedError, match="say too much of themselves"):
                log.channels()


def test_pickle_needs_consent(oblog):
    write(oblog, "c", [{1, 2}], PickleCodec())
    for read in (
        lambda: oblog.channel("c"),
        lambda: list(oblog.merge("c")),
        lambda: oblog.tail("c", start="all").next(timedelta(seconds=5)),
    ):
        with pytest.raises(ArgumentError, match="allow_pickle"):
            read()
    assert oblog.channel("c", allow_pickle=True)[0][1] == {1, 2}
    assert oblog.channel("c", codec=PickleCodec())[0][1] == {1, 2}
