"""HDF5 files that are written, read back by libhdf5 (h5py) and by evlib."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from test_memory import MB, SAMPLER

import evlib
from evlib import exceptions

h5py = pytest.importorskip("h5py")
hdf5plugin = pytest.importorskip("hdf5plugin")

COMPRESSIONS = ["zstd", "gzip", "none"]
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limits or /proc")
SCHEMA = {"x": pl.Int16, "y": pl.Int16, "timestamp": pl.Duration("us"), "polarity": pl.Int8}


def events(count: int, *, start: int = 0, step: int = 20, seed: int = 0, size=(640, 480)) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {
        "x": rng.integers(0, size[0], count),
        "y": rng.integers(0, size[1], count),
        "timestamp": start + np.cumsum(rng.integers(0, 2 * step + 1, count)),
        "polarity": rng.integers(0, 2, count) * 2 - 1,
    }
    return pl.DataFrame(columns).cast(SCHEMA)


def micros(frame: pl.DataFrame) -> np.ndarray:
    return frame["timestamp"].dt.total_microseconds().to_numpy()


def check_dsec(path, frame: pl.DataFrame, size=(640, 480)) -> None:
    """The file has these events, as h5py sees it, with the types and tables of DSEC."""
    with h5py.File(path) as file:
        assert set(file) == {"events", "ms_to_idx", "t_offset"}
        assert dict(file.attrs) == {"width": size[0], "height": size[1]}
        columns = file["events"]
        assert set(columns) == {"p", "t", "x", "y"}
        time = micros(frame)
        offset = file["t_offset"]
        assert offset.dtype == "<i8"
        assert offset.shape == ()
        assert offset[()] == (time[0] // 1000 * 1000 if len(time) else 0)
        relative = time - offset[()]
        wide = len(time) and relative[-1] >= 2**32
        for name, dtype, values in [
            ("x", "<u2", frame["x"].to_numpy()),
            ("y", "<u2", frame["y"].to_numpy()),
            ("p", "<u1", frame["polarity"].to_numpy() > 0),
            ("t", "<i8" if wide else "<u4", relative),
        ]:
            column = columns[name]
            assert column.dtype == dtype
            assert column.chunks == (65536,)
            assert column.maxshape == (None,)
            np.testing.assert_array_equal(column[:], values, err_msg=name)
        index = file["ms_to_idx"]
        assert index.dtype == "<u8"
        milliseconds = np.arange(relative[-1] // 1000 + 1 if len(time) else 0)
        np.testing.assert_array_equal(index[:], np.searchsorted(relative, milliseconds * 1000))


def pipeline(dataset) -> list[tuple]:
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(at) for at in range(plist.get_nfilters())]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("count", [0, 1, 65535, 65536, 65537, 262144, 600_001])
def test_dsec(compression, count, tmp_path):
    frame = events(count, start=1_700_000_000_123_456)
    path = tmp_path / "a.h5"
    assert evlib.write_events(frame, path, geometry=(640, 480), compression=compression) == count
    check_dsec(path, frame)
    recording = evlib.open(path)
    assert recording.geometry == (640, 480)
    assert_frame_equal(evlib.read_events(path), frame)
    assert recording.problems.is_empty()
    with h5py.File(path) as file:
        for name, size in [("x", 2), ("p", 1), ("t", 4)]:
            expected = {
                "zstd": [(32001, 1, (2, 2, size, 65536 * size, 1, 1, 5), b"blosc")],
                "gzip": [(2, 1, (size,), b"shuffle"), (1, 1, (4,), b"deflate")],
                "none": [],
            }[compression]
            assert [found[:3] for found in pipeline(file["events"][name])] == [wanted[:3] for wanted in expected]
    assert list(tmp_path.iterdir()) == [path]


RUNS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([0, 1, 14, 15, 999, 1000, 2000, 65_536, 10**7])),
    max_size=6,
)


@given(runs=RUNS, start=st.sampled_from([0, 1, 999, 2**32 - 1, 10**15]), compression=st.sampled_from(COMPRESSIONS))
@example(runs=[(3, 5), (1, 2**32 - 6)], start=0, compression="zstd")
@example(runs=[(3, 5), (1, 2**32 - 5)], start=0, compression="zstd")
@example(runs=[(3, 5), (1, 2**33), (2, 7)], start=10**15, compression="gzip")
def test_round_trips_with_gaps(runs, start, compression, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps")
    steps = [step for count, gap in runs for step in [gap, *[count % 7] * count]]
    frame = events(len(steps), seed=len(steps)).with_columns(
        timestamp=pl.Series(start + np.cumsum(np.array(steps, "i8")), dtype=pl.Int64).cast(pl.Duration("us"))
    )
    path = folder / "a.h5"
    evlib.write_events(frame, path, geometry=(640, 480), compression=compression)
    check_dsec(path, frame)
    assert_frame_equal(evlib.read_events(path), frame)
    evlib.write_events(frame, folder / "a.hdf5", geometry=(640, 480))
    assert_frame_equal(evlib.read_events(folder / "a.hdf5"), frame)
    shutil.rmtree(folder)


@pytest.mark.parametrize("size", [(1, 1), (1, 32768), (32768, 1), (32768, 32768), (2048, 2048)])
def test_geometries(size, tmp_path):
    frame = events(1000, size=size)
    frame = frame.with_columns(x=pl.Series([0, size[0] - 1] * 500).cast(pl.Int16), y=pl.lit(size[1] - 1, pl.Int16))
    path = tmp_path / "a.h5"
    evlib.write_events(frame, path, geometry=size)
    check_dsec(path, frame, size)
    assert evlib.open(path).geometry == size
    prophesee = tmp_path / "a.hdf5"
    if max(size) > 2048:
        with pytest.raises(exceptions.ArgumentError, match="2048x2048"):
            evlib.write_events(frame, prophesee, geometry=size)
        assert not prophesee.exists()
    else:
        evlib.write_events(frame, prophesee, geometry=size)
        assert_frame_equal(evlib.read_events(prophesee), frame)
        assert evlib.open(prophesee).geometry == size


def test_times_before_zero(tmp_path):
    frame = events(5000, start=-30_001)
    evlib.write_events(frame, tmp_path / "a.h5", geometry=(640, 480))
    check_dsec(tmp_path / "a.h5", frame)
    assert_frame_equal(evlib.read_events(tmp_path / "a.h5"), frame)
    with pytest.raises(ValueError, match="row 0: expected a time of at least 0 us"):
        evlib.write_events(frame, tmp_path / "a.hdf5", geometry=(640, 480))


def index_of(times: np.ndarray) -> list[tuple[int, int]]:
    """Prophesee's index of these times, event by event."""
    entries: list[tuple[int, int]] = []
    last = (0, -1)
    for row, relative in enumerate((times - times[:1]).tolist()):
        while relative // 2000 + 1 > len(entries):
            entries.append(last)
            last = (row, relative)
    return [*entries, last] if len(times) else []


EVENT = np.dtype(
    {"names": list("xypt"), "formats": ["<u2", "<u2", "<i2", "<i8"], "offsets": [0, 2, 4, 8], "itemsize": 16}
)
TRIGGER = np.dtype({"names": ["p", "t", "id"], "formats": ["<i2", "<i8", "<i2"], "offsets": [0, 8, 16], "itemsize": 24})
ENTRY = np.dtype([("id", "<u8"), ("ts", "<i8")])


@pytest.mark.parametrize("count", [0, 1, 16383, 16384, 16385, 300_000])
def test_prophesee(count, tmp_path):
    frame = events(count, start=5_000_000_000, step=40)
    path = tmp_path / "a.hdf5"
    rows = min(count, 20_000)
    triggers = pl.DataFrame(
        {
            "id": [0, 6] * (rows // 2),
            "polarity": [1, -1] * (rows // 2),
            "timestamp": range(7, 7 + 300 * (rows // 2 * 2), 300),
        },
        schema={"id": pl.UInt8, "polarity": pl.Int8, "timestamp": pl.Duration("us")},
    )
    assert evlib.write_events(frame, path, geometry=(640, 480), triggers=triggers) == count
    recording = evlib.open(path)
    assert_frame_equal(evlib.read_events(path), frame)
    assert_frame_equal(recording.triggers.collect(), triggers)
    assert recording.geometry == (640, 480)
    assert recording.problems.is_empty()
    with h5py.File(path) as file:
        assert file.attrs["version"] == "1.0"
        assert file.attrs["geometry"] == "640x480"
        assert file.attrs["format"] == "EVT3;height=480;width=640"
        assert len(file.attrs["date"]) == 19
        assert all(file.attrs.get_id(name).get_type().is_variable_str() for name in file.attrs)
        dataset = file["CD/events"]
        assert dataset.dtype == EVENT
        assert (dataset.shape, dataset.maxshape, dataset.chunks) == ((count,), (None,), (16384,))
        assert pipeline(dataset) == [(36559, 1, (), b"")]
        # libhdf5 finds every chunk; each starts with its number of events and the first time.
        for chunk in range(-(-count // 16384)):
            mask, raw = dataset.id.read_direct_chunk((chunk * 16384,))
            assert mask == 0
            assert int.from_bytes(raw[:4], "little") >> 2 == min(16384, count - chunk * 16384)
            assert int.from_bytes(raw[4:12], "little") == micros(frame)[chunk * 16384]
        found = file["EXT_TRIGGER/events"]
        assert found.dtype == TRIGGER
        assert (found.maxshape, found.chunks) == ((None,), (16384,))
        assert found["t"].tolist() == micros(triggers).tolist()
        assert found["p"].tolist() == [1, 0] * (rows // 2)
        assert found["id"].tolist() == [0, 6] * (rows // 2)
        for group, times in [("CD", micros(frame)), ("EXT_TRIGGER", micros(triggers))]:
            index = file[group]["indexes"]
            assert index.dtype == ENTRY
            assert index[:].tolist() == index_of(times)
            assert dict(index.attrs) == ({"offset": str(-times[0])} if len(times) else {})


def test_the_unit_of_times_is_that_of_triggers_too(tmp_path):
    frame = events(5000, start=5_000_000, step=1000)
    triggers = {"id": [0, 6], "polarity": [1, -1], "timestamp": [5_000_000, 6_000_000]}
    evlib.write_events(frame, tmp_path / "a.hdf5", geometry=(640, 480), triggers=triggers)
    recording = evlib.open(tmp_path / "a.hdf5", time_unit="ns", time_offset=7)
    assert micros(recording.read()).tolist() == [(time + 500) // 1000 + 7 for time in micros(frame).tolist()]
    assert micros(recording.triggers.collect()).tolist() == [5007, 6007]
    # The table of rows by time is in microseconds: it is left aside, and no lie.
    assert recording.problems.is_empty()
    found = evlib.read_events(tmp_path / "a.hdf5", pixel_parts=2)
    assert found["x"].to_list() == [(x + 1) // 2 for x in frame["x"].to_list()]


def test_triggers_of_unknown_inputs(tmp_path):
    triggers = np.zeros(3, TRIGGER)
    triggers["id"] = [0, 255, 256]
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["CD/events"] = np.zeros(5, EVENT)
        file["EXT_TRIGGER/events"] = triggers[:2]
    assert evlib.open(tmp_path / "a.hdf5").triggers.collect()["id"].to_list() == [0, 255]
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        del file["EXT_TRIGGER/events"]
        file["EXT_TRIGGER/events"] = triggers
    opened = evlib.open(tmp_path / "a.hdf5")
    assert opened.triggers.collect()["id"].to_list() == [0, 255]
    (problem,) = opened.problems.to_dicts()
    assert (problem["code"], problem["count"]) == ("BAD_VALUE", 1)
    assert problem["examples"] == ["`/EXT_TRIGGER/events`: 1 triggers of inputs other than 0 to 255"]


def trigger_frame(found: np.ndarray) -> pl.DataFrame:
    columns = {"id": found["id"], "polarity": found["p"] * 2 - 1, "timestamp": found["t"]}
    return pl.DataFrame(columns).cast({"id": pl.UInt8, "polarity": pl.Int8, "timestamp": pl.Duration("us")})


def with_triggers(path, count: int = 1000, **storage) -> tuple[pl.DataFrame, np.ndarray]:
    """Write events and triggers, these in chunks as `storage` says."""
    frame, found = events(2000, start=5_000), np.zeros(count, TRIGGER)
    found["t"], found["p"], found["id"] = np.arange(count) * 37, np.arange(count) % 2, np.arange(count) % 7
    evlib.write_events(frame, path, geometry=(640, 480))
    with h5py.File(path, "a") as file:
        del file["EXT_TRIGGER/events"]
        file.create_dataset("EXT_TRIGGER/events", data=found, **storage)
    return frame, found


def flip(path, chunk: int) -> tuple[int, int]:
    """Damage a chunk of triggers; its first byte and size."""
    with h5py.File(path) as file:
        info = file["EXT_TRIGGER/events"].id.get_chunk_info(chunk)
    data = bytearray(path.read_bytes())
    for at in range(info.byte_offset, info.byte_offset + min(info.size, 40)):
        data[at] ^= 0xA5
    path.write_bytes(data)
    return info.byte_offset, info.size


@pytest.mark.parametrize(
    "filters",
    [{"compression": "gzip"}, {"fletcher32": True}, hdf5plugin.Blosc(cname="zstd"), hdf5plugin.LZ4()],
    ids=["gzip", "fletcher32", "blosc", "lz4"],
)
def test_a_damaged_chunk_of_triggers_loses_only_its_rows(filters, tmp_path):
    path = tmp_path / "a.hdf5"
    frame, triggers = with_triggers(path, chunks=(100,), **filters)
    offset, size = flip(path, 3)
    kept = trigger_frame(np.concatenate([triggers[:300], triggers[400:]]))

    def check(opened: evlib.Recording) -> None:
        (problem,) = opened.problems.to_dicts()
        assert (problem["code"], problem["count"], problem["unit"]) == ("UNREADABLE", 100, "rows")
        assert (problem["first_offset"], problem["bytes"]) == (offset, size)
        assert f"`/EXT_TRIGGER/events`, chunk 3 (rows 300 to 399) at byte {offset}" in problem["examples"][0]

    # Once, and the same, whatever has been read before.
    check(evlib.open(path))
    opened = evlib.open(path)
    for _ in range(2):
        assert_frame_equal(opened.triggers.collect(), kept)
        assert opened.trigger_count == 900
        assert opened.triggers.select("id").collect()["id"].to_list() == kept["id"].to_list()
        check(opened)
    assert_frame_equal(opened.read(), frame)
    for column in frame.columns:
        opened = evlib.open(path)
        assert_frame_equal(opened.read(columns=[column]), frame.select(column))
        check(opened)
    assert opened.event_count == frame.height
    with pytest.raises(exceptions.ProblemError, match=f"UNREADABLE: 100 rows, first at byte {offset}"):
        evlib.open(path, on_problem="raise")
    with pytest.raises(exceptions.ProblemError, match="UNREADABLE: 100 rows"):
        evlib.read_events(path, on_problem="raise")


def test_damaged_triggers_and_events_are_counted_together(tmp_path):
    path = tmp_path / "a.hdf5"
    frame, triggers = with_triggers(path, chunks=(100,), compression="gzip")
    flip(path, 0)
    with h5py.File(path) as file:
        info = file["CD/events"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    # More events than the chunk has.
    data[info.byte_offset : info.byte_offset + 4] = b"\xff" * 4
    path.write_bytes(data)
    opened = evlib.open(path)
    assert opened.read().is_empty()
    assert_frame_equal(opened.triggers.collect(), trigger_frame(triggers[100:]))
    (problem,) = opened.problems.to_dicts()
    assert (problem["code"], problem["count"]) == ("UNREADABLE", frame.height + 100)
    assert [example.split("`")[1] for example in problem["examples"]] == ["/CD/events", "/EXT_TRIGGER/events"]


def test_triggers_with_a_filter_that_is_not_read(tmp_path):
    path = tmp_path / "a.hdf5"
    frame, triggers = with_triggers(path, chunks=(100,), **hdf5plugin.Blosc2())
    opened = evlib.open(path)
    assert_frame_equal(opened.read(), frame)
    assert opened.triggers.collect().is_empty()
    (problem,) = opened.problems.to_dicts()
    assert (problem["code"], problem["count"]) == ("UNREADABLE", len(triggers))
    assert "`/EXT_TRIGGER/events`" in problem["examples"][0]
    assert "blosc2" in problem["examples"][0].lower()


def test_triggers_beyond_the_end_of_the_file(tmp_path):
    path = tmp_path / "a.hdf5"
    frame, triggers = with_triggers(path, chunks=(100,), compression="gzip")
    with h5py.File(path) as file:
        places = [file["EXT_TRIGGER/events"].id.get_chunk_info(chunk) for chunk in range(10)]
    end = max(place.byte_offset for place in places)
    assert end > path.stat().st_size / 2
    lost = [index for index, place in enumerate(places) if place.byte_offset + place.size > end]
    os.truncate(path, end)
    opened = evlib.open(path)
    kept = np.concatenate([triggers[100 * at : 100 * (at + 1)] for at in range(10) if at not in lost])
    assert_frame_equal(opened.triggers.collect(), trigger_frame(kept))
    assert_frame_equal(opened.read(), frame)
    assert opened.problems.filter(code="UNREADABLE")["count"].to_list() == [100 * len(lost)]


@pytest.mark.parametrize("layout", ["dsec", "prophesee"])
def test_time_ranges_use_the_tables(layout, tmp_path):
    path = tmp_path / "a.h5"
    frame = pl.concat([events(200_000, start=10**9), events(100_000, start=10**9 + 60_000_000)])
    evlib.write_events(frame, path, geometry=(640, 480), layout=layout)
    recording = evlib.open(path)
    for start, end in [(0, 10**9), (10**9 + 1000, 10**9 + 1001), (10**9 + 30_000_000, 10**9 + 60_000_100), (0, 2**60)]:
        found = evlib.read_events(path, time_range=(start, end))
        assert_frame_equal(found, frame.filter((micros(frame) >= start) & (micros(frame) < end)))
    assert recording.problems.is_empty()


@pytest.mark.parametrize("layout", ["dsec", "prophesee"])
def test_libhdf5_may_go_on_writing(layout, tmp_path):
    path = tmp_path / "a.h5"
    evlib.write_events(events(100_000), path, geometry=(640, 480), layout=layout)
    with h5py.File(path, "r+") as file:
        for at in range(12):
            file.attrs[f"note{at}"] = "x" * at
        file.create_group("more")["numbers"] = np.arange(10)
        if layout == "dsec":
            file["events/x"].resize((300_000,))
            file["events/x"][100_000:] = 7
        else:
            file["CD/indexes"].resize((50_000,))
    with h5py.File(path) as file:
        assert len(file.attrs) == (14 if layout == "dsec" else 18)
        if layout == "dsec":
            assert file["events/x"][:100_000].tolist() == events(100_000)["x"].to_list()
            assert (file["events/x"][100_000:] == 7).all()


@pytest.mark.parametrize("tool", [["h5dump"], ["h5ls", "-r", "-v"], ["h5stat"]])
@pytest.mark.parametrize("layout", ["dsec", "prophesee"])
def test_the_tools_of_hdf5_read_everything(tool, layout, tmp_path):
    if shutil.which(tool[0]) is None:
        pytest.skip(f"no {tool[0]}")
    path = tmp_path / "a.h5"
    compression = "gzip" if layout == "dsec" else None
    evlib.write_events(events(70_000), path, geometry=(640, 480), layout=layout, compression=compression)
    arguments = ["-H"] if layout == "prophesee" and tool == ["h5dump"] else []
    run = subprocess.run([*tool, *arguments, path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "rror" not in run.stderr


BAD = {
    "time goes back": ({"timestamp": 70_000}, 70_001, "times in order"),
    "x outside": ({"x": 640}, 70_000, "x 640"),
    "y negative": ({"y": -1}, 70_000, "y -1"),
    "polarity": ({"polarity": 0}, 70_000, "polarity 1 or -1"),
    "far away": ({"timestamp": 2**40}, 70_000, "expected a time before"),
}


@pytest.mark.parametrize("layout", ["dsec", "prophesee"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("lazy", [False, True])
def test_the_first_row_that_does_not_fit_is_named(layout, bad, lazy, tmp_path):
    changed, row, text = BAD[bad]
    frame = events(100_000, start=0, step=0)
    at = pl.int_range(pl.len()) == 70_000
    for name, value in changed.items():
        frame = frame.with_columns(pl.when(at).then(pl.lit(value).cast(SCHEMA[name])).otherwise(name).alias(name))
    with pytest.raises(exceptions.ArgumentError, match=f"row {row}: .*{text}"):
        evlib.write_events(frame.lazy() if lazy else frame, tmp_path / "a.h5", geometry=(640, 480), layout=layout)
    assert list(tmp_path.iterdir()) == []


def test_arguments(tmp_path):
    frame = events(3)
    for name, arguments, text in [
        ("a.h5", {"layout": "matlab"}, "layout"),
        ("a.h5", {"layout": 5}, "layout"),
        ("a.h5", {"compression": "lzma"}, "compression"),
        ("a.hdf5", {"compression": "zstd"}, "compression"),
        ("a.raw", {"compression": "zstd"}, "compression"),
        ("a.raw", {"layout": "dsec"}, "layout"),
        ("a.bin", {}, "hdf5"),
        ("a.h5", {"triggers": {"id": [0], "polarity": [1], "timestamp": [5]}}, "prophesee"),
        ("a.dat", {"triggers": {"id": [0], "polarity": [1], "timestamp": [5]}}, "prophesee"),
        ("a.hdf5", {"triggers": {"id": [0], "timestamp": [5]}}, "triggers need the columns id, polarity and timestamp"),
        (
            "a.hdf5",
            {"triggers": {"id": [300], "polarity": [1], "timestamp": [5]}},
            "triggers cannot have row 0: expected `id` as UInt8, found 300",
        ),
        (
            "a.hdf5",
            {"triggers": {"id": [0, 0], "polarity": [1, 1], "timestamp": [5, 4]}},
            "trigger 1: .*times in order",
        ),
        ("a.hdf5", {"triggers": {"id": [0], "polarity": [1], "timestamp": [-4]}}, "trigger 0: .*at least 0"),
        ("a.hdf5", {"triggers": {"id": [0], "polarity": [0], "timestamp": [4]}}, "trigger 0: .*polarity"),
        ("a.hdf5", {"triggers": [1]}, "triggers are"),
    ]:
        with pytest.raises(exceptions.ArgumentError, match=text):
            evlib.write_events(frame, tmp_path / name, geometry=(640, 480), **arguments)
    assert list(tmp_path.iterdir()) == []
    none = {"id": [], "polarity": [], "timestamp": []}
    none = pl.DataFrame(none, schema={"id": pl.UInt8, "polarity": pl.Int8, "timestamp": pl.Duration("us")})
    evlib.write_events(frame, tmp_path / "a.h5", geometry=(640, 480), triggers=none)


def test_a_file_that_is_there(tmp_path):
    path = tmp_path / "there.h5"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        evlib.write_events(events(10), path, geometry=(640, 480))
    with pytest.raises(ValueError, match="row 10"):
        evlib.write_events(pl.concat([events(10, start=5)] * 2), path, geometry=(640, 480), overwrite=True)
    assert path.read_bytes() == b"precious"
    evlib.write_events(events(10), path, geometry=(640, 480), overwrite=True)
    check_dsec(path, events(10))
    # A recording over itself.
    evlib.write_events(evlib.open(path), path, overwrite=True, compression="gzip")
    check_dsec(path, events(10))
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_taken_meanwhile(tmp_path):
    path = tmp_path / "a.h5"

    def batches():
        yield events(10)
        path.write_bytes(b"precious")

    with pytest.raises(FileExistsError):
        evlib.write_events(batches(), path, geometry=(640, 480))
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced(tmp_path):
    link, pipe = tmp_path / "link.h5", tmp_path / "pipe.h5"
    link.symlink_to(tmp_path / "nowhere")
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError):
        evlib.write_events(events(10), link, geometry=(640, 480))
    assert link.is_symlink()
    with pytest.raises(exceptions.ArgumentError, match="a pipe or a device cannot be replaced"):
        evlib.write_events(events(10), pipe, geometry=(640, 480), overwrite=True)
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


SLOW = """
import itertools, sys, numpy as np, polars as pl, evlib
from evlib import writing

path, batches, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
at = np.arange(rows)
rng = np.random.default_rng(0)
x, y = rng.integers(0, 640, rows, "i2"), rng.integers(0, 480, rows, "i2")
p = (rng.integers(0, 2, rows, "i1") * 2 - 1).astype("i1")

def frames(data, *_):
    for batch in range(batches):
        t = pl.Series(batch * rows + at).cast(pl.Duration("us"))
        yield pl.DataFrame({"x": x, "y": y, "timestamp": t, "polarity": p})
        if batch == 2:
            print("writing", flush=True)

# In place of a file that is read batch by batch.
writing._frames = frames
"""


@LINUX
@pytest.mark.parametrize("layout", ["dsec", "prophesee"])
def test_a_killed_writer_leaves_no_file(layout, tmp_path):
    path = tmp_path / "a.h5"
    code = SLOW + f"evlib.write_events(None, path, geometry=(640, 480), layout={layout!r})"
    with subprocess.Popen([sys.executable, "-c", code, path, "100000", "300000"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial")
    assert left.stat().st_size > 100_000
    # Nor can what is left be taken for a recording.
    assert not h5py.is_hdf5(left)
    evlib.write_events(events(10), path, geometry=(640, 480), layout=layout)
    assert evlib.read_events(path).equals(events(10))


@LINUX
@pytest.mark.parametrize("layout", ["dsec", "prophesee"])
@pytest.mark.parametrize("limit", [10, 100_000, 1_500_000])
def test_a_full_disk(layout, limit, tmp_path):
    code = SLOW + textwrap.dedent(f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            evlib.write_events(None, path, geometry=(640, 480), layout={layout!r})
        except OSError as error:
            import errno, os
            assert error.errno == errno.EFBIG, error
            assert isinstance(error, evlib.EvlibError)
            print(os.listdir(os.path.dirname(path)))
    """)
    command = [sys.executable, "-c", code, tmp_path / "a.h5", "10", "300000"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"


@LINUX
@pytest.mark.parametrize("layout", ["dsec", "prophesee"])
def test_memory_is_bounded(layout, tmp_path):
    code = SLOW + SAMPLER.replace("path, folder = sys.argv[1:]", "")
    code += f"with Peak():\n    print(evlib.write_events(None, path, geometry=(640, 480), layout={layout!r}))"
    command = [sys.executable, "-c", code, tmp_path / "a.h5", "200", "100000"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"EVLIB_KEEP_MB": "0"})
    assert run.returncode == 0, run.stderr
    _, rows, used = run.stdout.split()
    assert int(rows) == 20_000_000
    # The events have 260 MB.
    assert int(used) < 60 * MB
    assert evlib.open(tmp_path / "a.h5").event_count == 20_000_000
