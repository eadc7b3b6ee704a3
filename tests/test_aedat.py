"""AEDAT 1 to 4: recordings, streams, damage, writing."""

from __future__ import annotations

import pickle
import struct
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from conftest import problem_counts, recording_names, rows
from hypothesis import given
from hypothesis import strategies as st

import evlib
from evlib.exceptions import ArgumentError

# What the notes of the manifest say: IMU samples, frames, triggers.
SIDES = {"evlibrary_sample.aedat4": (160, 4, 17), "pyaedattools_IMU_rotDisk.aedat": (7384, 0, 0)}


@pytest.fixture(params=recording_names({"aedat1", "aedat2", "aedat3", "aedat4"}), scope="module")
def name(request):
    return request.param


def test_streams_of_a_recording(path, name):
    recording = evlib.open(path, on_problem="raise")
    imu, frames, triggers = SIDES[name]
    assert recording.trigger_count == recording.triggers.collect().height == triggers
    assert recording.imu.select(pl.len()).collect().item() == imu
    assert recording.frames.select(pl.len()).collect().item() == frames
    assert [recording.streams.filter(kind=kind).height for kind in ("events", "imu", "frames", "triggers")] == [1] * 4


def test_selections_of_a_recording(path, entry):
    frame = evlib.read_events(path)
    start, end = frame["timestamp"][entry["events"] // 4], frame["timestamp"][entry["events"] // 2]
    wanted = [pl.col("timestamp").is_between(start, end, closed="left"), pl.col("x") < 100]
    for batch_rows in (1009, None):
        lazy = evlib.load_events(path, batch_rows=batch_rows)
        for engine in ("in-memory", "streaming"):
            assert lazy.filter(*wanted).collect(engine=engine).equals(frame.filter(*wanted))
            assert lazy.head(100).collect(engine=engine).equals(frame.head(100))


def test_imu_of_a_camera_at_rest(shared):
    """One g, whatever the scale: the second recording was made at ±8 g, as its preferences say."""
    for name in SIDES:
        imu = evlib.open(shared / "recordings" / name).imu.collect()
        norm = sum(imu[f"accelerometer_{axis}"].cast(pl.Float64) ** 2 for axis in "xyz").sqrt()
        assert norm.median() == pytest.approx(1.03, abs=0.04)
        assert imu["timestamp"].is_sorted()
        assert 20 < imu["temperature"].median() < 40


def test_frames_of_a_recording(shared):
    recording = evlib.open(shared / "recordings" / "evlibrary_sample.aedat4")
    frames = recording.frames.collect()
    assert frames.select("width", "height", "channels", "bits", "format").unique().rows() == [(346, 260, 1, 8, "GRAY")]
    assert (frames["exposure_end"] - frames["exposure_start"]).to_list() == [timedelta(microseconds=500)] * 4
    for index in range(4):
        frame = recording.frame(index)
        assert (frame.shape, frame.dtype) == ((260, 346), np.uint8)
        assert frame.tobytes() == frames["pixels"][index]
    with pytest.raises(IndexError, match="has 4"):
        recording.frame(4)
    with pytest.raises(ArgumentError):
        recording.frame(-1)
    with pytest.raises(ArgumentError, match="no frames"):
        recording.frame(0, stream="imu")


def test_side_streams_are_lazy_frames(shared):
    recording = evlib.open(shared / "recordings" / "evlibrary_sample.aedat4")
    whole = recording.imu.collect()
    assert recording.imu.head(3).collect().equals(whole.head(3))
    assert recording.imu.select("temperature").collect().equals(whole.select("temperature"))
    warm = pl.col("temperature") > whole["temperature"].median()
    assert recording.imu.filter(warm).collect(engine="streaming").equals(whole.filter(warm))
    assert recording.load_stream("2").collect().equals(whole)
    assert recording.load_stream("triggers").collect().equals(recording.triggers.collect())
    assert pickle.loads(pickle.dumps(recording.imu)).collect().equals(whole)
    assert whole.schema == recording.imu.collect_schema()
    with pytest.raises(ArgumentError, match="`frames`, `imu`, `triggers`"):
        recording.load_stream("pose")
    with pytest.raises(ArgumentError):
        recording.load_stream(3)


def test_recordings_without_side_streams(save, tmp_path):
    evlib.write_events({"x": [1], "y": [2], "timestamp": [3], "polarity": [1]}, tmp_path / "a.raw", geometry=(640, 480))
    with pytest.raises(ArgumentError, match="only events and triggers"):
        _ = evlib.open(tmp_path / "a.raw").imu
    with pytest.raises(ArgumentError, match="no such stream"):
        _ = evlib.open(save(version_2("DVS128", []), ".aedat")).frames


def version_2(chip: str, words: list[tuple[int, int]]) -> bytes:
    head = f"#!AER-DAT2.0\r\n# AEChip: {chip}\r\n#End Of ASCII Header\r\n".encode()
    return head + b"".join(struct.pack(">II", *word) for word in words)


def polarity_packet(events: list[tuple[int, int, int, int]], *, source: int = 1, overflow: int = 0) -> bytes:
    head = struct.pack("<hhiiiiii", 1, source, 8, 4, overflow, *[len(events)] * 3)
    return head + b"".join(struct.pack("<Ii", x << 17 | y << 2 | (p > 0) << 1 | 1, t) for x, y, t, p in events)


def version_3(packets: bytes, sources: tuple[str, ...] = ("DAVIS240C",)) -> bytes:
    lines = "".join(f"#Source {number}: {name}\r\n" for number, name in enumerate(sources, 1))
    return f"#!AER-DAT3.1\r\n#Format: RAW\r\n{lines}#!END-HEADER\r\n".encode() + packets


def test_orientation_is_that_of_tables(save):
    raw_x, raw_y = 200, 120
    davis = version_2("DAVIS240C", [(raw_y << 22 | raw_x << 12 | 1 << 11, 5)])
    assert rows(evlib.read_events(save(davis, ".aedat"))) == [(39, 59, 5, 1)]
    dvs = version_2("DVS128", [(20 << 1 | 100 << 8, 5), (20 << 1 | 100 << 8 | 1, 6)])
    assert rows(evlib.read_events(save(dvs, ".aedat"))) == [(107, 27, 5, 1), (107, 27, 6, -1)]
    caer = version_3(polarity_packet([(100, 50, 7, 1)]) + polarity_packet([(1, 2, 9, -1)], overflow=2))
    assert rows(evlib.read_events(save(caer, ".aedat"))) == [(100, 50, 7, 1), (1, 2, (2 << 31) + 9, -1)]


def test_content_comes_before_the_name(save):
    assert evlib.identify(save(version_3(b""), ".raw")).format == "aedat3"
    assert evlib.identify(save(version_2("DVS128", []), ".aedat4")).format == "aedat2"
    with pytest.raises(evlib.FormatError):
        evlib.open(save(bytes(range(256)) * 4, ".aedat"))
    with pytest.raises(evlib.FormatError, match=r"AEDAT 4\.0"):
        evlib.open(save(version_2("DVS128", [])), format="aedat4")
    with pytest.raises(evlib.exceptions.UnsupportedError, match="Serial-TS"):
        evlib.open(save(version_3(b"").replace(b"RAW", b"Serial-TS")))


def test_clock_set_back_is_a_note(save):
    words = [(5 << 12, 9_000_000), (6 << 12, 100), (7 << 12, 200)]
    recording = evlib.open(save(version_2("DAVIS346", words), ".aedat"), on_problem="raise")
    assert [t for _, _, t, _ in rows(recording.read())] == [9_000_000, 100, 200]
    assert problem_counts(recording) == {"TIME_RESET": 1}


def test_rgb_frames(save):
    pixels = np.arange(2 * 3 * 3, dtype="<u2").reshape(2, 3, 3)
    frame = struct.pack("<Iiiiiiiii", 1 | 3 << 1, 1, 2, 10, 30, 3, 2, 0, 0) + pixels.tobytes()
    packet = struct.pack("<hhiiiiii", 2, 1, len(frame), 4, 0, 1, 1, 1) + frame
    recording = evlib.open(save(version_3(packet), ".aedat"))
    np.testing.assert_array_equal(recording.frame(0), pixels)
    row = recording.frames.collect().row(0, named=True)
    assert (row["format"], row["channels"], row["bits"], row["timestamp"]) == ("RGB", 3, 16, timedelta(microseconds=20))


def test_several_cameras(save):
    packets = polarity_packet([(1, 1, 1, 1)]) + polarity_packet([(2, 2, 2, 1)], source=2)
    path = save(version_3(packets, ("DVS128", "DAVIS240C")), ".aedat")
    recording = evlib.open(path)
    names = recording.streams.filter(kind="events")["name"].to_list()
    assert names == ["events_1", "events_2"]
    with pytest.raises(ArgumentError, match="`events_1`, `events_2`"):
        recording.read()
    with pytest.raises(ArgumentError):
        _ = recording.event_count
    for number, stream in enumerate(names, 1):
        assert rows(evlib.read_events(path, stream=stream)) == [(number, number, number, 1)]
        assert rows(evlib.load_events(path, stream=stream).collect()) == [(number, number, number, 1)]
    with pytest.raises(ArgumentError, match="no such stream"):
        evlib.open(path, stream="events")


events = st.lists(
    st.tuples(st.integers(-(2**63), 2**63 - 2), st.integers(0, 1999), st.integers(0, 999), st.sampled_from([1, -1])),
    max_size=200,
)


@given(events=events, compression=st.sampled_from(["lz4", "none", None]))
def test_what_is_written_is_read(events, compression, tmp_path_factory):
    path = tmp_path_factory.mktemp("aedat") / "written.aedat4"
    t, x, y, p = zip(*sorted(events), strict=True) if events else ((), (), (), ())
    frame = pl.DataFrame(
        {"x": x, "y": y, "timestamp": t, "polarity": p},
        schema={"x": pl.Int16, "y": pl.Int16, "timestamp": pl.Int64, "polarity": pl.Int8},
    )
    assert evlib.write_events(frame, path, geometry=(2000, 1000), compression=compression) == len(events)
    recording = evlib.open(path, on_problem="raise")
    assert recording.geometry == (2000, 1000)
    got = recording.read().with_columns(pl.col("timestamp").dt.total_microseconds())
    assert got.equals(frame)


def test_writing_is_refused(tmp_path):
    data = {"x": [1, 1], "y": [2, 2], "timestamp": [3, 2], "polarity": [1, 1]}
    with pytest.raises(ArgumentError, match="times in order"):
        evlib.write_events(data, tmp_path / "a.aedat4", geometry=(640, 480))
    with pytest.raises(ArgumentError, match="compression"):
        evlib.write_events(data, tmp_path / "a.aedat4", geometry=(640, 480), compression="zstd")
    with pytest.raises(ArgumentError, match="no choice of compression"):
        evlib.write_events(data, tmp_path / "a.raw", geometry=(640, 480), compression="lz4")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["lz4", "none"])
def written(request, tmp_path):
    """A small file, and its events."""
    count = 1500
    rows = np.arange(count)
    data = {"x": rows % 640, "y": rows % 480, "timestamp": rows * 50, "polarity": rows % 2 * 2 - 1}
    path = tmp_path / "written.aedat4"
    evlib.write_events(data, path, geometry=(640, 480), compression=request.param)
    return path.read_bytes(), rows_of(path)


def rows_of(path) -> list:
    return rows(evlib.read_events(path))


def test_cut_anywhere(written, save):
    data, expected = written
    path = save(b"", ".aedat4")
    packets = 18 + struct.unpack_from("<I", data, 14)[0]
    table = struct.unpack_from("<q", data, 46)[0]
    seen = set()
    for length in [*range(packets + 400), *range(packets + 400, len(data), 37), *range(table - 3, len(data))]:
        path.write_bytes(data[:length])
        if length < packets:
            with pytest.raises(evlib.FormatError):
                evlib.open(path)
            continue
        recording = evlib.open(path)
        got = rows(recording.read())
        assert got == expected[: len(got)]
        assert recording.event_count == len(got)
        seen.add(len(got))
        counts = problem_counts(recording)
        if length in (packets, table):
            assert counts == {"INDEX_MISMATCH": 1}
        else:
            assert "INDEX_MISMATCH" in counts
            assert len(got) == len(expected) or "TRUNCATED" in counts
    assert len(seen) >= 3


@pytest.mark.parametrize("place", [0, 14, 46, 5000, 2**62, "end", "past"])
def test_a_table_that_is_not_there(written, save, place):
    data, expected = written
    place = {"end": len(data) - 1, "past": len(data)}.get(place, place)
    lying = data[:46] + struct.pack("<q", place) + data[54:]
    recording = evlib.open(save(lying, ".aedat4"), on_problem="raise")
    assert rows(recording.read()) == expected
    assert problem_counts(recording) == {"INDEX_MISMATCH": 1}


def test_a_packet_with_fewer_events_than_it_claims_gives_those(tmp_path):
    path = tmp_path / "a.aedat4"
    columns = {"x": [1, 2, 3], "y": [4, 5, 6], "timestamp": [7, 8, 9], "polarity": [1, -1, 1]}
    evlib.write_events(columns, path, geometry=(640, 480), compression="none")
    expected = rows_of(path)
    # The number of events stands before the first one.
    first = struct.pack("<IqHHB", 3, 7, 1, 4, 1)
    data = path.read_bytes()
    assert data.count(first) == 1
    path.write_bytes(data.replace(first, struct.pack("<I", 9) + first[4:]))
    for _ in range(2):
        recording = evlib.open(path)
        assert rows(recording.read()) == expected
        assert problem_counts(recording)["DAMAGED_PACKET"] == 1


@pytest.mark.parametrize("head", [b"#", b"#!AER-", b"#!AER-DAT2.0", b"#!AER-DAT2.0\r", b"#!AER-DAT3.1\r\n#Format: R"])
def test_a_header_that_is_cut_is_no_data(head, save):
    with pytest.raises(evlib.FormatError, match="the header ends inside a line") as caught:
        evlib.open(save(head, ".aedat"))
    assert caught.value.offset == len(head)


def test_cut_anywhere_in_other_versions(save):
    words = [(x << 12 | 1 << 11, 10 * x) for x in range(9)]
    two = version_2("DAVIS240C", words)
    three = version_3(polarity_packet([(x, 1, x, 1) for x in range(4)]) + polarity_packet([(9, 9, 9, 1)]))
    path = save(b"", ".aedat")
    for data, size, rest in ((two, 8, 0), (three, 8, 28)):
        path.write_bytes(data)
        expected = rows_of(path)
        start = data.index(b"\r\n#!END-HEADER\r\n" if rest else b"#End Of ASCII Header\r\n") + (16 if rest else 22)
        for length in range(start, len(data)):
            path.write_bytes(data[:length])
            recording = evlib.open(path)
            got = rows(recording.read())
            assert got == expected[: len(got)]
            if not rest:
                assert len(got) == (length - start) // size
                assert problem_counts(recording) == ({"TRUNCATED": 1} if (length - start) % size else {})
            else:
                whole = length in (start, start + rest + 4 * size)
                assert bool(problem_counts(recording)) != whole


def test_other_libraries_open_what_is_written(written, save):
    dv = pytest.importorskip("dv_processing")
    data, expected = written
    reader = dv.io.MonoCameraRecording(str(save(data, ".aedat4")))
    got = []
    while (batch := reader.getNextEventBatch()) is not None:
        got.extend((x, y, t, 1 if p else -1) for t, x, y, p in batch.numpy().tolist())
    assert got == expected
