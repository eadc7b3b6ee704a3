"""ROS bags, db3 and MCAP: every message, encoding and container, made by rosbags and mcap."""

from __future__ import annotations

import gzip
import itertools
import re
import shutil
import sqlite3
import struct
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import bags
import numpy as np
import oracle
import polars as pl
import pytest
from conftest import problem_counts, rows, zstd
from hypothesis import given
from hypothesis import strategies as st
from words import sensor_stream

import evlib
from evlib.exceptions import ArgumentError, EvlibError, FormatError, UnsupportedError

TYPES = {
    "dvs_msgs/msg/EventArray": ["records"],
    "prophesee_event_msgs/msg/EventArray": ["records"],
    "copied_msgs/msg/EventArray": ["records"],
    "event_camera_msgs/msg/EventPacket": ["mono", "libcaer", "libcaer_cmp"],
    "event_array_msgs/msg/EventArray": ["mono", "libcaer_cmp"],
}
CODINGS = [(name, encoding) for name, encodings in TYPES.items() for encoding in encodings]


def sample(count: int, seed: int = 0, *, start_ns: int = 1_700_000_000_000_000_123) -> list[bags.ROW]:
    """Rows with a column in common now and then, as `libcaer_cmp` likes them."""
    rng = np.random.default_rng(seed)
    found, t = [], start_ns
    while len(found) < count:
        t += int(rng.integers(0, 40)) * 1000
        x, p = int(rng.integers(0, 640)), int(rng.integers(0, 2))
        for y in sorted(set((int(rng.integers(0, 470)) + rng.integers(0, 8, rng.integers(1, 6))).tolist())):
            found.append((x, y, t, p))
    return found[:count]


def expected(found: list[bags.ROW]) -> list[tuple[int, int, int, int]]:
    """As the table has them: whole microseconds, polarity 1 and -1."""
    return [(x, y, t // 1000, 1 if p else -1) for x, y, t, p in found]


def write(folder, kind: str, messages):
    ending, writer = bags.CONTAINERS[kind]
    path = folder / f"recording.{ending}"
    path.unlink(missing_ok=True)
    shutil.rmtree(folder / f"recording.{ending}.folder", ignore_errors=True)
    writer(path, messages)
    return path


@pytest.fixture(scope="module")
def folder():
    """A folder in memory, where there is such a place: libraries wait for the disk after every database."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


# --- every message in every container ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", bags.CONTAINERS)
@pytest.mark.parametrize(("type_name", "encoding"), CODINGS)
def test_every_message_in_every_container(kind, type_name, encoding, tmp_path):
    truth = sample(300)
    path = write(tmp_path, kind, bags.packets(truth, encoding, [1, 50, 0, 100], type_name=type_name))
    recording = evlib.open(path, on_problem="raise")
    assert (recording.format, recording.confidence, recording.geometry) == (path.suffix[1:], "certain", bags.GEOMETRY)
    assert rows(recording.read()) == expected(truth)
    assert recording.event_count == len(truth)
    assert recording.metadata["encoding"] == encoding
    assert recording.streams.select("name", "kind").rows() == [("/camera/events", "events")]
    assert rows(evlib.load_events(path, batch_rows=7).collect(engine="streaming")) == expected(truth)
    assert rows(pl.concat(recording.batches(rows=11))) == expected(truth)


@pytest.mark.parametrize("kind", bags.CONTAINERS)
def test_evt3_goes_on_from_message_to_message(kind, tmp_path):
    payload = struct.pack("<2H", 0x8000 | 5_000_000 >> 12 & 0xFFF, 0x6000) + sensor_stream("evt3", 2000, seed=3)
    truth = oracle.evt3(payload, bags.GEOMETRY)
    sizes = np.random.default_rng(1).integers(1, 90, 60).tolist()
    path = write(tmp_path, kind, bags.words(payload, sizes))
    recording = evlib.open(path)
    assert rows(recording.read()) == truth.events
    assert rows(recording.triggers.collect()) == truth.triggers
    assert len(truth.triggers) > 5
    assert problem_counts(recording) == truth.counts()
    assert rows(evlib.load_events(path, batch_rows=7).collect()) == truth.events


def test_many_more_events_at_the_end_than_at_the_start(folder):
    """What the first blocks promise is not enough for the rest."""
    highs = np.arange(2_200_000) // 500 % 4096
    quiet = np.stack([0x8000 | highs, 0x6000 | np.arange(highs.size) % 500], axis=1).ravel().astype("<u2")
    busy = (0x2000 | np.random.default_rng(4).integers(0, 640, 800_000)).astype("<u2")
    payload = np.concatenate([np.array([0x8000, 0x6000, 3, 0x2005], "<u2"), quiet, busy]).tobytes()
    raw = folder / "words.raw"
    raw.write_bytes(b"% evt 3.0\n% geometry 640x480\n% end\n" + payload)
    truth = evlib.read_events(raw)
    assert truth.height == 800_001
    recording = evlib.open(write(folder, "mcap", bags.words(payload, [32_768] * 200)))
    assert recording.read().equals(truth)
    assert recording.read().equals(truth)
    assert recording.event_count == truth.height


@pytest.mark.parametrize("encoding", ["mono", "libcaer", "libcaer_cmp", "evt3"])
def test_words_of_the_other_byte_order(encoding, tmp_path):
    if encoding == "evt3":
        payload = struct.pack("<3H", 0x8001, 0x6000, 3) + sensor_stream("evt3", 100)
        messages, truth = bags.words(payload, [31, 50]), oracle.evt3(payload, bags.GEOMETRY).events
    else:
        found = sample(60)
        messages, truth = bags.packets(found, encoding, [20]), expected(found)
    path = write(tmp_path, "mcap", [bags.big(message) for message in messages])
    assert rows(evlib.read_events(path)) == truth


# --- literal bytes -------------------------------------------------------------------------------------------------


def packet(encoding: str, data: str, base_ns: int = 0, **more) -> bags.Message:
    return bags.Message("event_camera_msgs/msg/EventPacket", 10**18, bytes.fromhex(data), encoding, base_ns, **more)


def read_one(tmp_path, *messages):
    return evlib.open(write(tmp_path, "mcap", messages))


def test_literal_packets(tmp_path):
    assert rows(read_one(tmp_path, packet("mono", "88 13 00 00 64 00 32 80", 2000)).read()) == [(100, 50, 7, 1)]
    data = "64 20 32 38 07 10 30 40 81 50 01 00"
    assert rows(read_one(tmp_path, packet("libcaer_cmp", data, 5_000_000)).read()) == [
        (100, 50, 5000, 1),
        (100, 48, 5007, -1),
        (100, 55, 5007, -1),
    ]
    recording = read_one(tmp_path, packet("trigger", "88 13 00 00 00 00 06 80  d0 07 00 00 00 00 03 00", 1_000_000))
    assert rows(recording.triggers.collect()) == [(6, 1, 1005), (3, -1, 1002)]
    assert recording.read().is_empty()


def test_a_vector_across_the_edge_of_the_sensor_at_the_end(tmp_path):
    recording = read_one(tmp_path, packet("libcaer_cmp", "64 20 de 41 ff 50 80 22 00 40 ff 6f", 1000))
    assert rows(recording.read()) == [(100, 478, 1, -1), (100, 479, 1, -1)]
    assert problem_counts(recording) == {"OUT_OF_BOUNDS": 18}


def test_the_oracle_of_the_packets_is_right():
    """The encoders of the tests, by hand."""
    assert bags.mono([(100, 50, 7000, 1)], 2000).hex(" ") == "88 13 00 00 64 00 32 80"
    found = [(3, 10, 1000, 1), (3, 11, 1000, 1), (3, 17, 1000, 1), (4, 9, 5_000_000, 0)]
    words = np.frombuffer(bags.libcaer_cmp(found, 0), "<u2").tolist()
    assert words == [0x1001, 0x2003, 0x480A, 0x5083, 0x0001, 0x1388 - 0x1000 + 0x1000, 0x2004, 0x3009]
    assert bags.libcaer([(3, 10, 1_000_000, 1)], 0).hex() == struct.pack("<Ii", 3 << 17 | 10 << 2 | 3, 1000).hex()


def test_libcaer_times_wrap_inside_a_packet(tmp_path):
    late = (2**31 - 5) * 1000
    found = [
        (1, 1, late, 1),
        (2, 2, late + 3000, 0),
        (3, 3, late + 9000, 1),
        (4, 4, late + 2000, 1),
        (5, 5, late + 9000, 0),
    ]
    message = packet("libcaer", bags.libcaer(found, 0).hex())
    assert rows(read_one(tmp_path, message).read()) == expected(found)


def test_high_times_of_libcaer_cmp_of_which_only_four_bits_were_written(tmp_path):
    found = [(x, 5, x * 9_000_000, 1) for x in range(50)]
    message = packet("libcaer_cmp", bags.libcaer_cmp(found, 0, narrow=True).hex())
    assert rows(read_one(tmp_path, message).read()) == expected(found)


def test_nanoseconds_are_cut_to_microseconds(tmp_path):
    found = [(x, 1, 10**18 + x * 333, 1) for x in range(20)]
    path = write(tmp_path, "mcap", bags.packets(found, "records", [5], type_name="dvs_msgs/msg/EventArray"))
    assert rows(evlib.read_events(path)) == expected(found)
    for base in (10**18, 10**18 + 999, 999, 0):
        words = b"".join(struct.pack("<IHH", delta, 1, 1) for delta in (0, 1, 999, 1000, 2**32 - 1))
        times = evlib.read_events(write(tmp_path, "mcap", [packet("mono", words.hex(), base)]))["timestamp"]
        assert times.dt.total_microseconds().to_list() == [
            (base + delta) // 1000 for delta in (0, 1, 999, 1000, 2**32 - 1)
        ]


def test_times_before_1970(tmp_path):
    found = [(1, 1, -1_500_000_500, 1), (2, 1, -999, 0)]
    path = write(tmp_path, "mcap", bags.packets(found, "records", [], type_name="dvs_msgs/msg/EventArray"))
    assert rows(evlib.read_events(path)) == [(1, 1, -1_500_001, 1), (2, 1, -1, -1)]


# --- property tests ------------------------------------------------------------------------------------------------

row_lists = st.lists(
    st.tuples(st.integers(0, 639), st.integers(0, 479), st.integers(0, 2_000_000), st.integers(0, 1)),
    min_size=1,
    max_size=60,
)


@pytest.mark.parametrize(("type_name", "encoding"), CODINGS)
def test_any_events_come_back(type_name, encoding, folder):
    @given(
        row_lists, st.lists(st.integers(0, 20), max_size=8), st.sampled_from(sorted(bags.CONTAINERS)), st.integers(1, 4)
    )
    def check(found, sizes, kind, threads):
        if encoding != "records":
            found = sorted(found, key=lambda row: row[2])
        path = write(folder, kind, bags.packets(found, encoding, sizes, type_name=type_name))
        # Times count in whole microseconds from the packet's first, of which the nanoseconds go with them all.
        truth, at = [], 0
        for size in [*sizes, len(found)]:
            part = found[at : at + size]
            at += len(part)
            base = min((t for _, _, t, _ in part), default=0)
            exact = encoding in ("records", "mono")
            truth += [
                (x, y, t // 1000 if exact else base // 1000 + (t - base) // 1000, 2 * p - 1) for x, y, t, p in part
            ]
        assert rows(evlib.read_events(path, threads=threads, on_problem="raise")) == truth
        assert rows(evlib.load_events(path, threads=threads, batch_rows=3).collect()) == truth

    check()


def test_any_words_of_evt3_in_any_messages(folder):
    start = struct.pack("<4H", 0x8003, 0x6001, 7, 0x3010)
    time = st.integers(3, 40).map(lambda high: [0x8000 | high])
    other = st.one_of(
        st.integers(0, 0xFFF).map(lambda low: [0x6000 | low]),
        st.integers(0, 490).map(lambda y: [y]),
        st.integers(0, 0xFFF).map(lambda x: [0x2000 | x]),
        st.integers(0, 0xFFF).map(lambda x: [0x3000 | x]),
        st.integers(0, 2**32 - 1).map(lambda m: [0x4000 | m & 0xFFF, 0x4000 | m >> 12 & 0xFFF, 0x5000 | m >> 24]),
        st.integers(0, 0xFFF).map(lambda value: [0xA000 | value]),
    )

    @given(
        st.lists(st.one_of(other, other, other, time), max_size=80), st.lists(st.integers(0, 9), max_size=30), st.data()
    )
    def check(parts, sizes, data):
        highs = sorted(part[0] for part in parts if part[0] >> 12 == 8)
        parts = [[highs.pop(0)] if part[0] >> 12 == 8 else part for part in parts]
        flat = [word for part in parts for word in part]
        payload = start + struct.pack(f"<{len(flat)}H", *flat)
        truth = oracle.evt3(payload, bags.GEOMETRY)
        kind = data.draw(st.sampled_from(sorted(bags.CONTAINERS)))
        recording = evlib.open(write(folder, kind, bags.words(payload, sizes)))
        if truth.counts().get("OUT_OF_BOUNDS", 0) >= 8:
            return  # may be taken for lost bytes
        assert rows(recording.read()) == truth.events
        assert rows(recording.triggers.collect()) == truth.triggers
        assert problem_counts(recording) == truth.counts()

    check()


# --- lost and damaged messages -------------------------------------------------------------------------------------


def numbered(count: int = 40) -> tuple[list[bags.Message], list[bytes]]:
    payload = struct.pack("<2H", 0x8000 | 5_000_000 >> 12 & 0xFFF, 0x6000) + sensor_stream("evt3", 3000, seed=9)
    messages = bags.words(payload, [len(payload) // 2 // count] * count)
    return messages, [message.payload for message in messages]


def after_gap(state: list[bytes], lost: range) -> tuple[list, int]:
    """Events of the packets behind `lost` by the rule: wait for high and low time, then row and base anew."""
    before, behind = b"".join(state[: lost.start]), b"".join(state[lost.stop :])
    words = np.frombuffer(behind, "<u2")
    high = next(at for at, word in enumerate(words) if word >> 12 == 8)
    low = next(at for at, word in enumerate(words) if word >> 12 == 6 and at > high)
    last_high = [word for word in words[:low] if word >> 12 == 8][-1]
    dropped = 0
    for word in words[:low].tolist():
        dropped += {2: 1, 4: (word & 0xFFF).bit_count(), 5: (word & 0xFF).bit_count()}.get(word >> 12, 0)
    found = oracle.evt3(struct.pack("<H", last_high) + behind[2 * low :], bags.GEOMETRY)
    dropped += found.problems["BEFORE_FIRST_ROW"] + found.problems["BEFORE_FIRST_BASE"]
    return oracle.evt3(before, bags.GEOMETRY).events + found.events, dropped


@pytest.mark.parametrize("kind", ["bag", "db3", "mcap", "mcap unchunked"])
@pytest.mark.parametrize("lost", [range(10, 11), range(10, 14), range(1, 20)])
def test_events_wait_after_lost_messages(kind, lost, tmp_path):
    messages, state = numbered()
    kept = [message for message in messages if message.seq not in lost]
    recording = evlib.open(write(tmp_path, kind, kept))
    truth, dropped = after_gap(state, lost)
    assert rows(recording.read()) == truth
    problems = problem_counts(recording)
    assert problems.pop("LOST_MESSAGES") == len(lost)
    problems.pop("OUT_OF_BOUNDS")
    assert sum(problems.values()) == dropped
    assert rows(evlib.load_events(recording.path, batch_rows=5).collect()) == truth


def test_a_recording_that_starts_in_the_middle_waits_for_the_time(tmp_path):
    messages, state = numbered()
    recording = evlib.open(write(tmp_path, "bag", messages[7:]))
    truth, dropped = after_gap(state, range(7))
    assert rows(recording.read()) == truth
    problems = problem_counts(recording)
    assert "LOST_MESSAGES" not in problems
    assert sum(count for code, count in problems.items() if code.startswith("BEFORE")) == dropped


def test_lost_messages_of_other_encodings_cost_no_others(tmp_path):
    found = sample(100)
    messages = bags.packets(found, "mono", [10] * 10)
    recording = evlib.open(write(tmp_path, "mcap", messages[:3] + messages[5:]))
    assert rows(recording.read()) == expected(found[:30] + found[50:])
    assert problem_counts(recording) == {"LOST_MESSAGES": 2}


def test_packets_that_cannot_be_read_are_counted(tmp_path):
    found = sample(40)
    good = bags.packets(found, "mono", [20])
    other = packet("evt99", "00 11", seq=2)
    short = replace(good[1], payload=good[1].payload + b"\1\2\3", seq=3)
    recording = evlib.open(write(tmp_path, "bag", [good[0], replace(other, stamp_ns=good[0].stamp_ns), short]))
    assert rows(recording.read()) == expected(found)
    problem = recording.problems.to_dicts()[0]
    assert (problem["code"], problem["count"], problem["severity"]) == ("DAMAGED_PACKET", 2, "loss")
    assert "`evt99`" in problem["examples"][0]
    data = recording.path.read_bytes()
    at = problem["first_offset"]
    assert data[at:].startswith(replace(other, stamp_ns=good[0].stamp_ns).ros1())


def test_events_outside_the_geometry_are_counted_with_their_place(tmp_path):
    found = sample(10)
    outside = (640, 3, found[-1][2], 1)
    messages = bags.packets([*found, outside], "mono", [])
    for kind in ("bag", "mcap"):
        recording = evlib.open(write(tmp_path, kind, messages))
        assert rows(recording.read()) == expected(found)
        problem = recording.problems.to_dicts()[0]
        assert (problem["code"], problem["count"]) == ("OUT_OF_BOUNDS", 1)
        at = problem["first_offset"]
        assert recording.path.read_bytes()[at : at + 8] == messages[0].payload[-8:]
    assert rows(evlib.read_events(recording.path, geometry=(641, 480))) == expected([*found, outside])


# --- topics --------------------------------------------------------------------------------------------------------


def two_cameras() -> list[bags.Message]:
    left = [replace(message, topic="/left/events") for message in bags.packets(sample(50, 1), "mono", [10, 10])]
    right = [
        replace(message, topic="/right/events")
        for message in bags.packets(sample(70, 2), "records", [10, 10], type_name="dvs_msgs/msg/EventArray")
    ]
    edges = [(6, left[0].stamp_ns + 5_000, 1), (6, left[0].stamp_ns + 9_000, 0)]
    payload = bags.trigger(edges, left[0].stamp_ns)
    trigger = replace(
        packet("trigger", payload.hex(), left[0].stamp_ns), topic="/left/triggers", stamp_ns=left[0].stamp_ns
    )
    image = bags.Message("sensor_msgs/msg/Image", left[0].stamp_ns, topic="/left/image")
    imu = bags.Message("sensor_msgs/msg/Imu", left[0].stamp_ns, topic="/imu")
    note = bags.Message("std_msgs/msg/String", left[0].stamp_ns, topic="/note")
    return [left[0], right[0], image, imu, trigger, left[1], imu, right[1], note, imu, *left[2:], *right[2:]]


@pytest.mark.parametrize("kind", bags.CONTAINERS)
def test_topics_are_listed_and_chosen(kind, tmp_path):
    path = write(tmp_path, kind, two_cameras())
    recording = evlib.open(path)
    found = {name: (what, count) for name, what, _, count in recording.streams.rows()}
    assert found == {
        "/left/events": ("events", None),
        "/right/events": ("events", None),
        "/left/triggers": ("triggers", None),
        "/left/image": ("frames", 1),
        "/imu": ("imu", 3),
        "/note": ("other", 1),
    }
    details = dict(recording.streams.select("name", "detail").rows())
    assert details["/left/events"].endswith("EventPacket, mono, 3 messages")
    with pytest.raises(ArgumentError, match=r"2 streams of events.*`/left/events`, `/right/events`"):
        recording.read()
    with pytest.raises(ArgumentError, match="no such stream of events"):
        evlib.open(path, stream="/imu")
    left, right = evlib.open(path, stream="/left/events"), evlib.open(path, stream="/right/events")
    assert rows(left.read()) == expected(sample(50, 1))
    assert rows(right.read()) == expected(sample(70, 2))
    start = sample(50, 1)[0][2] // 1000
    assert rows(left.triggers.collect()) == [(6, 1, start + 5), (6, -1, start + 9)]
    assert (left.trigger_count, right.trigger_count) == (2, 0)
    alone = evlib.open(path, stream="/left/triggers")
    assert (alone.event_count, alone.trigger_count) == (0, 2)
    assert rows(evlib.load_events(path, stream="/left/events").collect()) == expected(sample(50, 1))


def test_a_bag_without_events_is_refused(tmp_path):
    note = bags.Message("std_msgs/msg/String", 10**18, topic="/note")
    for kind in ("bag", "db3", "mcap"):
        with pytest.raises(FormatError, match=r"without a topic of events.*`/note`"):
            evlib.open(write(tmp_path, kind, [note]))
    with pytest.raises(UnsupportedError, match="`evt99`"):
        evlib.open(write(tmp_path, "mcap", [packet("evt99", "00")]))


def test_a_database_that_is_no_bag_is_refused(tmp_path):
    path = tmp_path / "other.db3"
    bags.query(path, "CREATE TABLE things(id INTEGER PRIMARY KEY, name TEXT)")
    with pytest.raises(FormatError, match=r"no ROS 2 bag.*`things`"):
        evlib.open(path)


def test_folders_of_ros2(tmp_path):
    found = sample(20)
    for plugin in ("db3", "mcap"):
        folder = tmp_path / f"bag_{plugin}"
        plugins = bags.rosbags.rosbag2.StoragePlugin
        storage = {"db3": plugins.SQLITE3, "mcap": plugins.MCAP}[plugin]
        with bags.rosbags.rosbag2.Writer(folder, version=9, storage_plugin=storage) as writer:
            message = bags.packets(found, "mono", [])[0]
            connection = writer.add_connection(message.topic, message.type_name, typestore=bags.ROS2)
            writer.write(connection, message.log_ns, message.cdr())
        assert rows(evlib.read_events(folder)) == expected(found)
    (folder / "more_1.mcap").write_bytes(b"")
    with pytest.raises(ArgumentError, match=r"several files.*`more_1.mcap`"):
        evlib.open(folder)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("kind", ["bag", "bag lz4", "db3", "db3 zstd", "mcap", "mcap zstd"])
def test_files_that_are_compressed_as_a_whole(kind, pack, save, tmp_path):
    path = write(tmp_path, kind, small(kind))
    packed = save(pack(path.read_bytes()), f"{path.suffix}.zstd")
    recording = evlib.open(packed, on_problem="raise")
    assert recording.format == path.suffix[1:]
    assert rows(recording.read()) == rows(evlib.read_events(path))


def test_a_folder_of_ros2_with_a_compressed_file(tmp_path):
    path = write(tmp_path, "db3", small("db3"))
    folder = tmp_path / "compressed"
    folder.mkdir()
    (folder / "metadata.yaml").touch()
    (folder / "compressed_0.db3.zstd").write_bytes(zstd(path.read_bytes()))
    assert evlib.read_events(folder).equals(evlib.read_events(path))


def test_other_versions_of_bags_are_refused(save):
    with pytest.raises(UnsupportedError, match=r"V2.0"):
        evlib.open(save(b"#ROSBAG V1.2\n" + bytes(100), ".bag"))


# --- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bag", "db3 zstd", "mcap lz4"])
@pytest.mark.parametrize("encoding", ["mono", "libcaer_cmp", "records", "evt3"])
def test_times_of_messages(kind, encoding, tmp_path):
    if encoding == "evt3":
        payload = struct.pack("<2H", 0x8000 | 5_000_000 >> 12 & 0xFFF, 0x6000) + sensor_stream("evt3", 2000, seed=3)
        sizes = [100] * 30
        messages = bags.words(payload, sizes)
        ends = np.cumsum([len(message.payload) for message in messages])
        counts = [len(oracle.evt3(payload[:end], bags.GEOMETRY).events) for end in ends]
        sensor = oracle.evt3(payload, bags.GEOMETRY).events
    else:
        found = sample(100)
        type_name = "dvs_msgs/msg/EventArray" if encoding == "records" else "event_camera_msgs/msg/EventPacket"
        messages = bags.packets(found, encoding, [30, 1, 20], type_name=type_name)
        counts, sensor = [30, 31, 51, 100], expected(found)
    # The computer's clock is another one.
    messages = [replace(message, stamp_ns=10**18 + seq * 7_000_000 + 456) for seq, message in enumerate(messages)]
    truth, start = [], 0
    for message, end in zip(messages, counts, strict=True):
        part = sensor[start:end]
        truth += [(x, y, message.stamp_ns // 1000 + t - part[0][2], p) for x, y, t, p in part]
        start = end
    path = write(tmp_path, kind, messages)
    assert rows(evlib.read_events(path)) == sensor
    recording = evlib.open(path, time_source="message")
    assert recording.metadata["time_source"] == "message"
    assert rows(recording.read()) == truth
    assert rows(evlib.load_events(path, time_source="message", batch_rows=5).collect()) == truth
    times = [t for _, _, t, _ in truth]
    assert recording.time_range == (timedelta(microseconds=min(times)), timedelta(microseconds=max(times)))
    window = (times[len(times) // 3], times[len(times) // 2])
    wanted = [row for row in truth if window[0] <= row[2] < window[1]]
    assert rows(evlib.read_events(path, time_source="message", time_range=window)) == wanted
    if encoding != "evt3":
        return
    shifts = {message.seq: message.stamp_ns // 1000 for message in messages}
    assert recording.triggers.collect().height == evlib.open(path).trigger_count > 0
    assert recording.triggers.collect()["timestamp"].dt.total_microseconds().min() >= min(shifts.values())


def test_the_source_of_times_is_checked(tmp_path, save):
    path = write(tmp_path, "mcap", bags.packets(sample(5), "mono", []))
    with pytest.raises(ArgumentError, match="`sensor` or `message`"):
        evlib.open(path, time_source="header")
    raw = tmp_path / "x.raw"
    early = evlib.read_events(path).with_columns(timestamp=timedelta(seconds=1))
    evlib.write_events(early, raw, geometry=bags.GEOMETRY)
    assert evlib.open(raw, time_source="sensor").format == "evt3"
    with pytest.raises(ArgumentError, match="`time_source` is for ROS bags"):
        evlib.open(raw, time_source="message")
    with pytest.raises(ArgumentError, match="`time_unit` is for HDF5"):
        evlib.open(path, time_unit="ns")


# --- selections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bag lz4", "db3", "mcap", "mcap unchunked"])
@pytest.mark.parametrize("encoding", ["mono", "libcaer", "libcaer_cmp", "records", "evt3"])
def test_selections(kind, encoding, tmp_path):
    if encoding == "evt3":
        payload = struct.pack("<2H", 0x8000 | 5_000_000 >> 12 & 0xFFF, 0x6000) + sensor_stream("evt3", 3000, seed=3)
        messages = bags.words(payload, [100] * 60)
    else:
        type_name = "dvs_msgs/msg/EventArray" if encoding == "records" else "event_camera_msgs/msg/EventPacket"
        messages = bags.packets(sample(3000), encoding, [100] * 30, type_name=type_name)
    path = write(tmp_path, kind, messages)
    whole = evlib.read_events(path)
    low, high = (whole["timestamp"].quantile(at, "nearest") for at in (0.4, 0.45))
    queries = [
        (pl.col("timestamp").is_between(low, high)),
        (pl.col("x") < 100) & (pl.col("y") >= 300),
        (pl.col("polarity") == -1) & (pl.col("timestamp") >= high),
        pl.col("timestamp") < low - timedelta(hours=1),
    ]
    for indexed in (False, True):
        recording = evlib.open(path)
        if indexed:
            assert recording.event_count == whole.height
        for query in queries:
            assert recording.events.filter(query).collect().equals(whole.filter(query))
            seven = recording.load_events(batch_rows=10).filter(query).select("y").head(7)
            assert seven.collect().equals(whole.filter(query).select("y").head(7))
        assert recording.events.head(123).collect().equals(whole.head(123))
        assert recording.read(columns=["polarity", "x"]).equals(whole.select("polarity", "x"))
    assert pl.concat(evlib.open(path).batches(duration=1000)).equals(whole)


# --- databases -----------------------------------------------------------------------------------------------------


def test_small_and_large_pages_and_long_messages(tmp_path):
    found = sample(4000)
    messages = bags.packets(found, "mono", [1, 3000, 5, 400])
    path = write(tmp_path, "db3", messages)
    for page in (512, 1024, 4096, 65536):
        copy = tmp_path / f"{page}.db3"
        shutil.copy(path, copy)
        connection = sqlite3.connect(copy)
        connection.execute(f"PRAGMA page_size={page}")
        connection.execute("VACUUM")
        connection.close()
        assert rows(evlib.read_events(copy, on_problem="raise")) == expected(found), page


def test_many_messages_make_a_deep_tree(tmp_path):
    found = sample(3000)
    path = write(tmp_path, "db3", bags.packets(found, "mono", [1] * 2999))
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size=512")
    connection.execute("VACUUM")
    connection.execute("DELETE FROM messages WHERE id % 7 = 3")
    connection.commit()
    left = [row[0] - 1 for row in connection.execute("SELECT id FROM messages ORDER BY id")]
    connection.close()
    recording = evlib.open(path)
    assert rows(recording.read()) == expected([found[at] for at in left])
    assert problem_counts(recording) == {"LOST_MESSAGES": sum(b - a - 1 for a, b in itertools.pairwise(left))}


def test_a_write_ahead_log_is_read(tmp_path):
    found = sample(600)
    messages = bags.packets(found, "mono", [100] * 6)
    path = write(tmp_path, "db3", messages[:2])
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    insert = "INSERT INTO messages(topic_id, timestamp, data) VALUES (1, ?, ?)"
    for message in messages[2:5]:
        connection.execute(insert, (message.log_ns, message.cdr()))
        connection.commit()
    connection.execute(insert, (messages[5].log_ns, messages[5].cdr()))  # never committed
    copy = tmp_path / "copy.db3"
    for ending in ("", "-wal"):
        shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    assert rows(evlib.read_events(copy, on_problem="raise")) == expected(found[:500])
    assert "write-ahead log" in evlib.open(copy).metadata["container"]
    # Of a damaged log only what stands before the damage counts.
    log = bytearray((tmp_path / "copy.db3-wal").read_bytes())
    log[-5] ^= 1
    (tmp_path / "copy.db3-wal").write_bytes(log)
    assert evlib.read_events(copy).height in (400, 500)
    (tmp_path / "copy.db3-wal").write_bytes(b"no log" * 20)
    assert rows(evlib.read_events(copy)) == expected(found[:200])
    connection.close()


@pytest.mark.parametrize("encoding", ["mono", "evt3"])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("page", [512, 4096])
def test_messages_of_a_database_come_in_the_order_of_their_times(encoding, index, page, tmp_path):
    if encoding == "evt3":
        payload = struct.pack("<2H", 0x8000 | 5_000_000 >> 12 & 0xFFF, 0x6000) + sensor_stream("evt3", 2000)
        messages, truth = bags.words(payload, [70] * 40), oracle.evt3(payload, bags.GEOMETRY).events
    else:
        found = sample(4000)
        messages, truth = bags.packets(found, "mono", [60] * 50), expected(found)
    # Of another topic, in front of, between and behind them.
    others = [replace(message, topic="/other/events") for message in messages[::-3]]
    stored = [*others[:5], *(messages[at] for at in np.random.default_rng(2).permutation(len(messages))), *others[5:]]
    path = write(tmp_path, "db3", stored)
    connection = sqlite3.connect(path)
    if not index:
        connection.execute("DROP INDEX timestamp_idx")
        connection.commit()
    connection.execute(f"PRAGMA page_size={page}")
    connection.execute("VACUUM")
    by_time = [
        number for (number,) in connection.execute("SELECT id FROM messages WHERE topic_id = 1 ORDER BY timestamp, id")
    ]
    connection.close()
    assert by_time != sorted(by_time)
    recording = evlib.open(path, stream="/camera/events")
    assert rows(recording.read()) == truth
    assert "LOST_MESSAGES" not in problem_counts(recording)
    assert rows(evlib.load_events(path, stream="/camera/events", batch_rows=7).collect(engine="streaming")) == truth
    first, last = recording.time_range
    window = first + (last - first) / 3, first + (last - first) / 2
    inside = pl.col("timestamp").is_between(*window, closed="left")
    assert recording.read(time_range=window).equals(recording.read().filter(inside))


def test_messages_of_one_time_come_in_the_order_of_their_rows(tmp_path):
    found = sample(500)
    messages = bags.packets(found, "mono", [50] * 10)
    late, early = messages[0].stamp_ns + 10**9, messages[0].stamp_ns
    stored = [
        *(replace(one, stamp_ns=late) for one in messages[5:]),
        *(replace(one, stamp_ns=early) for one in messages[:5]),
    ]
    assert rows(evlib.read_events(write(tmp_path, "db3", stored), on_problem="raise")) == expected(found)


def test_rows_of_a_page_that_is_missing_are_counted_in_any_order(tmp_path):
    found = sample(3000)
    path = write(tmp_path, "db3", bags.packets(found, "mono", [300] * 10)[::-1])
    data = path.read_bytes()
    seen = set()
    for length in range(0, len(data), 4096):
        path.write_bytes(data[:length])
        if check_sane(path):
            opened = evlib.open(path)
            read = rows(opened.read())
            assert read == [row for row in expected(found) if row in set(read)]
            assert len(read) == len(found) or "DAMAGED_PACKET" in problem_counts(opened)
            seen.add(len(read))
    assert len(seen) > 3


# --- damage --------------------------------------------------------------------------------------------------------


def check_sane(path) -> bool:
    """Read a file in all ways; whether it could be read at all. Only EvlibError may come out."""
    try:
        opened = evlib.open(path)
        events = opened.read()
    except EvlibError:
        return False
    assert opened.event_count == events.height
    assert opened.trigger_count == opened.triggers.collect().height
    if events.height:
        assert opened.time_range == (events["timestamp"].min(), events["timestamp"].max())
    assert all(count > 0 for count in problem_counts(opened).values())
    assert opened.problems["first_offset"].max() is None or opened.problems["first_offset"].max() <= path.stat().st_size
    assert events.equals(evlib.load_events(path, batch_rows=7, threads=2).collect())
    return True


def small(kind: str) -> list[bags.Message]:
    if "evt3" in kind:
        payload = struct.pack("<2H", 0x8000 | 5_000_000 >> 12 & 0xFFF, 0x6000) + sensor_stream("evt3", 100)
        return bags.words(payload, [30] * 10)
    encoding = "records" if "bag" in kind else "mono"
    type_name = "dvs_msgs/msg/EventArray" if encoding == "records" else "event_camera_msgs/msg/EventPacket"
    return bags.packets(sample(60), encoding, [8] * 6, type_name=type_name)


@pytest.mark.parametrize("kind", [kind for kind in bags.CONTAINERS if not kind.startswith("db3")])
def test_every_truncation(kind, tmp_path):
    """What is there in front of the cut is read, but for the compressed chunk that is cut."""
    messages = small(kind)
    path = write(tmp_path, kind, messages)
    data = path.read_bytes()
    truth = rows(evlib.read_events(path))
    seen = set()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        if length % 16 == 0:
            check_sane(path)
        try:
            opened = evlib.open(path)
            found = rows(opened.read())
        except EvlibError:
            continue
        assert found == truth[: len(found)]
        seen.add(len(found))
        if len(found) < len(truth):
            assert problem_counts(opened).keys() & {"NOT_CLOSED", "INDEX_MISMATCH"}
    assert len(truth) in seen
    if "lz4" not in kind and "zstd" not in kind and "bz2" not in kind:
        assert len(seen) >= len(messages)


def test_every_page_of_a_database_can_be_missing(tmp_path):
    messages = bags.packets(sample(3000), "mono", [300] * 10)
    path = write(tmp_path, "db3", messages)
    data = path.read_bytes()
    truth = rows(evlib.read_events(path))
    seen = set()
    for length in range(0, len(data), 512):
        path.write_bytes(data[:length])
        if check_sane(path):
            opened = evlib.open(path)
            found = rows(opened.read())
            assert set(found) <= set(truth)
            if len(found) < len(truth):
                assert "DAMAGED_PACKET" in problem_counts(opened)
            seen.add(len(found))
    assert len(seen) > 5


@pytest.mark.parametrize("kind", bags.CONTAINERS)
def test_random_mutations_never_panic(kind, tmp_path):
    rng = np.random.default_rng([1, *kind.encode()])
    evt3 = write(tmp_path, kind, small(f"{kind} evt3")).read_bytes()
    path = write(tmp_path, kind, small(kind))
    files = [evt3, path.read_bytes()]
    read = 0
    for number in range(250):
        out = bytearray(files[number % 2])
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(0, len(out)))
            match int(rng.integers(0, 4)):
                case 0 | 1:
                    out[at] ^= 1 << int(rng.integers(0, 8))
                case 2:
                    out[at : at + 4] = rng.bytes(4)
                case _ if rng.random() < 0.3:
                    del out[at : at + int(rng.integers(1, 40))]
                case _:
                    out[at] = 255
        path.write_bytes(out)
        read += check_sane(path)
    assert read > 30


@pytest.mark.parametrize("magic", [b"#ROSBAG V2.0\n", b"\x89MCAP0\r\n", b"SQLite format 3\0"])
def test_nothing_behind_the_magic(magic, save):
    rng = np.random.default_rng(7)
    for rest in [b"", bytes(10_000), *(rng.bytes(int(rng.integers(0, 3000))) for _ in range(60))]:
        path = save(magic + rest, ".bag")
        assert not check_sane(path)


def test_a_bag_that_was_not_closed(tmp_path):
    for compression in (None, "bz2", "lz4"):
        path = tmp_path / "open.bag"
        path.unlink(missing_ok=True)
        bags.write_bag(path, two_cameras(), compression=compression)
        closed = evlib.open(path)
        streams = closed.streams.sort("name")
        path.write_bytes(bags.unindexed(path.read_bytes()))
        opened = evlib.open(path)
        assert opened.streams.sort("name").equals(streams)
        left = evlib.open(path, stream="/left/events", on_problem="raise")
        assert rows(left.read()) == expected(sample(50, 1))
        assert problem_counts(left) == {"NOT_CLOSED": 1}


def test_a_lying_index_is_not_believed(tmp_path):
    path = write(tmp_path, "bag", bags.packets(sample(600), "mono", [100] * 6))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"chunk_pos=") + len(b"chunk_pos=")
    data[at] ^= 0x55
    path.write_bytes(data)
    recording = evlib.open(path)
    assert rows(recording.read()) == expected(sample(600))
    assert problem_counts(recording) == {"INDEX_MISMATCH": 1}
    assert recording.problems["severity"].to_list() == ["note"]


def test_an_index_that_names_a_chunk_twice_is_not_believed(tmp_path):
    messages = bags.packets(sample(600), "mono", [100] * 6)
    path = write(tmp_path, "bag", messages)
    data = bytearray(path.read_bytes())
    first, second = (found.end() for found in list(re.finditer(rb"chunk_pos=", data))[:2])
    data[second : second + 8] = data[first : first + 8]
    path.write_bytes(data)
    names_twice = [evlib.open(path)]
    path = tmp_path / "twice.mcap"
    bags.write_mcap(path, messages, crc=False)
    data = bytearray(path.read_bytes())
    # A chunk index: opcode and length, times of the first and last message, offset and length of the chunk.
    first, second = (at + 25 for at in chunk_indexes(data)[:2])
    data[second : second + 16] = data[first : first + 16]
    path.write_bytes(data)
    names_twice.append(evlib.open(path))
    for recording in names_twice:
        assert rows(recording.read()) == expected(sample(600))
        assert problem_counts(recording) == {"INDEX_MISMATCH": 1}
        assert "twice" in recording.problems["examples"][0][0]
    recording = evlib.open(path, on_problem="raise")
    assert recording.event_count == 600


def chunk_indexes(data: bytes) -> list[int]:
    """Where the chunk indexes in the summary of an MCAP file start."""
    # The footer ends in the start of the summary, that of the offsets, and a checksum, in front of the signature.
    at = int.from_bytes(data[-28:-20], "little")
    found = []
    while data[at] != 2:
        found += [at] if data[at] == 8 else []
        at += 9 + int.from_bytes(data[at + 1 : at + 9], "little")
    return found


def test_checksums_of_mcap(tmp_path):
    found = sample(600)
    for kind in ("mcap", "mcap lz4", "mcap zstd"):
        path = write(tmp_path, kind, bags.packets(found, "mono", [100] * 6))
        data = bytearray(path.read_bytes())
        # Inside the second chunk: after its head.
        chunk = [at for at in range(len(data) - 60) if data[at] == 6 and is_chunk(data, at)][1]
        data[chunk + 300] ^= 0x10
        path.write_bytes(data)
        recording = evlib.open(path)
        events = rows(recording.read())
        assert 300 <= len(events) < 600
        assert set(events) <= set(expected(found))
        problems = problem_counts(recording)
        assert problems["DAMAGED_PACKET"] >= 1
        assert recording.problems["first_offset"][0] == chunk
    path = write(tmp_path, "mcap", bags.packets(found, "mono", [100] * 6))
    data = bytearray(path.read_bytes())
    data[-40] ^= 1  # in the summary
    path.write_bytes(data)
    recording = evlib.open(path)
    assert rows(recording.read()) == expected(found)
    assert problem_counts(recording) == {"INDEX_MISMATCH": 1}


def is_chunk(data: bytes, at: int) -> bool:
    (length,) = struct.unpack_from("<Q", data, at + 1)
    return 300 < length < 10_000 and data[at + 9 + length : at + 10 + length] in (b"\x07", b"\x06")


def test_after_a_damaged_length_reading_goes_on_at_the_next_chunk(tmp_path):
    found = sample(600)
    path = write(tmp_path, "mcap without summary", bags.packets(found, "mono", [100] * 6))
    data = bytearray(path.read_bytes())
    chunk = [at for at in range(len(data) - 60) if data[at] == 6 and is_chunk(data, at)][1]
    data[chunk] = 0x55
    path.write_bytes(data)
    recording = evlib.open(path)
    events = rows(recording.read())
    assert 300 <= len(events) < 600
    assert events == [row for row in expected(found) if row in set(events)]
    assert problem_counts(recording)["DAMAGED_PACKET"] == 1
    assert recording.problems.row(0, named=True)["first_offset"] == chunk

    path = write(tmp_path, "bag", bags.packets(found, "mono", [100] * 6))
    data = bytearray(bags.unindexed(path.read_bytes()))
    second = data.index(b"op=\x05", data.index(b"op=\x05") + 10) - 8
    data[second : second + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    recording = evlib.open(path)
    events = rows(recording.read())
    assert 300 <= len(events) < 600
    assert problem_counts(recording)["DAMAGED_PACKET"] == 1


# --- time windows of large files -----------------------------------------------------------------------------------


def large_evt3() -> list[bags.Message]:
    """40 MB of words over a minute, recorded with delays of up to 30 ms."""
    rng = np.random.default_rng(5)
    words = np.frombuffer(sensor_stream("evt3", 20_000, seed=4, start_us=1 << 24), "<u2").astype("i8")
    highs = np.flatnonzero(words >> 12 == 8)
    first, span = int(words[highs[0]]) % 4096, int(words[highs[-1]] - words[highs[0]]) + 2
    copies = []
    for number in range((40 << 20) // (2 * len(words)) + 1):
        copy = words.copy()
        copy[highs] = 0x8000 | (copy[highs] + number * span) % 4096
        copies.append(copy)
    payload = struct.pack("<2H", 0x8000 | first, 0x6000) + np.concatenate(copies).astype("<u2").tobytes()
    duration_us, size = len(copies) * span * 4096, 8192
    places = np.arange(0, len(payload), size)
    delays = rng.integers(0, 30_000, len(places))
    stamps = 10**18 + np.maximum.accumulate(places * duration_us // len(payload) + delays) * 1000
    kind = "event_camera_msgs/msg/EventPacket"
    return [
        bags.Message(kind, int(stamp), payload[at : at + size], "evt3", 0, seq)
        for seq, (at, stamp) in enumerate(zip(places.tolist(), stamps.tolist(), strict=True))
    ]


def large_mono() -> list[bags.Message]:
    """The same of `mono`: 5 million events over 50 s."""
    rng = np.random.default_rng(6)
    count, size, start = 5_000_000, 2000, 10**18
    deltas = np.sort(rng.integers(0, 50_000_000_000 // (count // size), size))
    events = np.zeros(size, [("dt", "<u4"), ("x", "<u2"), ("y", "<u2")])
    events["dt"], events["x"], events["y"] = deltas, rng.integers(0, 640, size), rng.integers(0, 480, size)
    payload, step = events.tobytes(), 50_000_000_000 // (count // size)
    kind = "event_camera_msgs/msg/EventPacket"
    return [
        bags.Message(kind, start + seq * step, payload, "mono", start + seq * step, seq) for seq in range(count // size)
    ]


@pytest.fixture(scope="module", params=[large_evt3, large_mono])
def large(request):
    return request.param()


LARGE = {
    "bag": lambda path, messages: bags.write_bag(path, messages, chunk=512 << 10),
    "db3": bags.write_ros2,
    "mcap lz4": lambda path, messages: bags.write_mcap(
        path, messages, compression=bags.CompressionType.LZ4, chunk=512 << 10
    ),
    "mcap unchunked": lambda path, messages: bags.write_mcap(path, messages, chunk=None),
}


@pytest.mark.parametrize("kind", LARGE)
def test_windows_of_large_files(kind, large, folder):
    path = folder / f"large.{bags.CONTAINERS[kind][0]}"
    path.unlink(missing_ok=True)
    shutil.rmtree(f"{path}.folder", ignore_errors=True)
    LARGE[kind](path, large)
    whole = evlib.read_events(path)
    times = whole["timestamp"].dt.total_microseconds()
    first, last = times.min(), times.max()
    assert last - first > 2**24, "the clock of EVT3 wraps"
    rng = np.random.default_rng(2)
    for number in range(12):
        start = int(rng.integers(first - 1000, last))
        window = (start, start + int(rng.integers(1, (last - first) // 50)))
        wanted = whole.filter((times >= window[0]) & (times < window[1]))
        before = bytes_read()
        recording = evlib.open(path)
        assert recording.read(time_range=window).equals(wanted)
        assert recording.is_indexed == (sum(len(one.payload) for one in large) < 32 << 20), (
            "large files are not gone through"
        )
        if kind in ("bag", "db3"):
            assert bytes_read() - before < path.stat().st_size // 2, number
    assert evlib.read_events(path, time_range=(last + 10**9, None)).is_empty()
    assert evlib.read_events(path, time_range=(None, first)).is_empty()
    assert evlib.read_events(path, time_range=(None, None)).equals(whole)
    path.unlink()


def bytes_read() -> int:
    """Bytes that this process has read, from the cache or not."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"])
