"""HDF5: every filter, chunk index, superblock and layout, against h5py and hdf5plugin."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import h5py
import hdf5plugin
import numpy as np
import polars as pl
import pytest
from conftest import problem_counts
from hypothesis import given, settings
from hypothesis import strategies as st

import evlib
from evlib import exceptions

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 5000
OFFSET = 1_600_000_000_000_000

FILTERS = {
    "none": {},
    "gzip": {"compression": "gzip", "compression_opts": 4},
    "shuffle-gzip": {"compression": "gzip", "shuffle": True},
    "fletcher32": {"fletcher32": True},
    "shuffle-gzip-fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "shuffle-lzf": {"compression": "lzf", "shuffle": True},
    "zstd": hdf5plugin.Zstd(),
    "lz4": hdf5plugin.LZ4(),
    "bitshuffle": hdf5plugin.Bitshuffle(cname="none"),
    "bitshuffle-lz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "bitshuffle-zstd": hdf5plugin.Bitshuffle(cname="zstd"),
    **{
        f"blosc-{codec}-{shuffle}": hdf5plugin.Blosc(cname=codec, clevel=3, shuffle=shuffle)
        for codec in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
        for shuffle in (0, 1, 2)
    },
}


def make(rows: int = ROWS, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random events in order of time."""
    random_ = np.random.default_rng(seed)
    return {
        "t": np.sort(random_.integers(0, 40 * max(rows, 1), rows)),
        "x": random_.integers(0, 640, rows),
        "y": random_.integers(0, 480, rows),
        "p": random_.integers(0, 2, rows),
    }


def frame(events: dict[str, np.ndarray], offset: int = 0) -> pl.DataFrame:
    """The table that reading should give."""
    return pl.DataFrame(
        {
            "x": events["x"].astype("i2"),
            "y": events["y"].astype("i2"),
            "timestamp": pl.Series(events["t"].astype("i8") + offset).cast(pl.Duration("us")),
            "polarity": np.where(events["p"] > 0, 1, -1).astype("i1"),
        }
    )


def write(
    path: Path, events: dict[str, np.ndarray], *, group: str = "events", libver=None, userblock=0, **options
) -> Path:
    """The common layout: one data set a column."""
    types = {"x": "u2", "y": "u2", "t": "i8", "p": "u1"}
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        into = file.require_group(group)
        for name, values in events.items():
            into.create_dataset(name, data=values.astype(types[name]), **options)
    return path


def check(path: Path, expected: pl.DataFrame, **options) -> evlib.Recording:
    """Every way of reading gives the same events."""
    opened = evlib.open(path, **options)
    assert opened.read().equals(expected)
    lazy = opened.events
    assert lazy.collect().equals(expected)
    assert (
        lazy.collect(engine="streaming")
        .sort("timestamp", maintain_order=True)
        .equals(expected.sort("timestamp", maintain_order=True))
    )
    assert opened.event_count == len(expected)
    for rows in (1, 777, 100_000):
        if rows * 200 > len(expected):
            parts = list(opened.batches(rows=rows))
            assert (pl.concat(parts) if parts else expected.clear()).equals(expected)
    if len(expected):
        times = expected["timestamp"]
        middle = times[len(times) // 2]
        window = (middle, middle + timedelta(milliseconds=3))
        wanted = expected.filter(pl.col("timestamp") >= window[0], pl.col("timestamp") < window[1])
        assert opened.read(time_range=window).equals(wanted)
        assert evlib.read_events(path, time_range=window, **options).equals(wanted)
        assert opened.time_range == (times.min(), times.max())
        assert evlib.read_events(path, columns=["timestamp"], **options).equals(expected.select("timestamp"))
    return opened


# --- how data sets are stored ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("chunk", [1000, 4096])
def test_filters(name, chunk, tmp_path):
    events = make()
    opened = check(write(tmp_path / "a.h5", events, chunks=(chunk,), **FILTERS[name]), frame(events))
    assert opened.problems.is_empty()
    assert "chunks of" in opened.metadata["/events/x"]


@pytest.mark.parametrize("name", FILTERS)
def test_what_compresses_as_well_as_can_be(name, tmp_path):
    events = dict.fromkeys("txyp", np.zeros(300_000, "i8"))
    path = write(tmp_path / "a.h5", events, chunks=(300_000,), **FILTERS[name])
    assert evlib.read_events(path).equals(frame(events))


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("kind", ["contiguous", "single", "fixed", "unlimited", "filtered", "two"])
@pytest.mark.parametrize("userblock", [0, 512])
def test_chunk_indexes(libver, kind, userblock, tmp_path):
    events = make()
    options = {
        "contiguous": {},
        "single": {"chunks": (ROWS,)},
        "fixed": {"chunks": (64,)},
        "unlimited": {"chunks": (64,), "maxshape": (None,)},
        "filtered": {"chunks": (64,), "maxshape": (None,), "compression": "gzip"},
        "two": {"chunks": (64, 4), "maxshape": (None, None)},
    }[kind]
    path = tmp_path / "a.h5"
    if kind == "two":
        table = np.stack([events["t"], events["x"], events["y"], events["p"]], 1).astype("u4")
        with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
            file.create_dataset("events", data=table, **options)
    else:
        write(path, events, libver=libver, userblock=userblock, **options)
    if userblock:
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(userblock, b" "))
    check(path, frame(events))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i2", "i4", "i8", "f4", "f8", ">u2", ">i4", ">f8", ">u8"])
def test_types(dtype, tmp_path):
    events = make()
    events = {name: values % 100 if name != "t" else values for name, values in events.items()}
    time = {"f4": "f8", ">f8": ">f8", "f8": "f8", ">u2": ">u4", "u1": "u4", "u2": "u4", "i2": "i4"}.get(dtype, dtype)
    scale = 1e6 if np.dtype(time).kind == "f" else 1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "xyp":
            file[f"events/{name}"] = events[name].astype(dtype)
        file["events/t"] = (events["t"] / scale).astype(time)
    check(tmp_path / "a.h5", frame(events))


def test_compact_and_soft_links(tmp_path):
    events = make(50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in events.items():
            space = h5py.h5s.create_simple((50,))
            create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            create.set_layout(h5py.h5d.COMPACT)
            made = h5py.h5d.create(file.id, f"{name}0".encode(), h5py.h5t.NATIVE_INT64, space, create)
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, values.astype("i8"))
        group = file.create_group("events")
        for name in events:
            group[name] = h5py.SoftLink(f"/{name}0")
    check(tmp_path / "a.h5", frame(events))


def test_missing_chunks_have_the_fill_value(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, fill in {"x": 3, "y": 4, "t": 9, "p": 1}.items():
            made = file.create_dataset(
                f"events/{name}", (1000,), "u4", chunks=(100,), fillvalue=fill, compression="gzip"
            )
            made[300:400] = 7
            made[900:] = 8
    expected = {name: np.full(1000, fill) for name, fill in {"x": 3, "y": 4, "t": 9, "p": 1}.items()}
    for values in expected.values():
        values[300:400] = 7
        values[900:] = 8
    assert evlib.read_events(tmp_path / "a.h5").equals(frame(expected))


def test_filter_masks(tmp_path):
    events = make(1000)
    path = write(tmp_path / "a.h5", events, chunks=(100,), compression="gzip", shuffle=True)
    with h5py.File(path, "r+") as file:
        for name in events:
            data = file[f"events/{name}"]
            raw = data[200:300].tobytes()
            data.id.write_direct_chunk((200,), raw, filter_mask=3)
    check(path, frame(events))


@given(
    rows=st.integers(0, 700),
    chunks=st.lists(st.integers(1, 300), min_size=4, max_size=4),
    name=st.sampled_from(["none", "gzip", "lzf", "blosc-zstd-1", "blosc-lz4-2"]),
    batch=st.integers(1, 400),
    threads=st.integers(1, 4),
)
@settings(max_examples=60)
def test_any_shape_and_chunking(rows, chunks, name, batch, threads, tmp_path_factory):
    events = make(rows, seed=rows)
    path = tmp_path_factory.mktemp("h5") / "a.h5"
    with h5py.File(path, "w") as file:
        for (key, values), chunk in zip(events.items(), chunks, strict=True):
            file.create_dataset(f"events/{key}", data=values, maxshape=(None,), chunks=(chunk,), **FILTERS[name])
    expected = frame(events)
    opened = evlib.open(path, threads=threads)
    assert opened.read().equals(expected)
    parts = list(opened.batches(rows=batch))
    assert (pl.concat(parts) if parts else expected.clear()).equals(expected)
    low, high = sorted((rows * 13, rows * 27))
    assert opened.read(time_range=(low, high), columns=["x"]).equals(
        expected.filter(pl.col("timestamp").dt.total_microseconds().is_between(low, high, closed="left")).select("x")
    )


@given(
    rows=st.integers(1, 300),
    chunk=st.tuples(st.integers(1, 90), st.integers(1, 4)),
    order=st.sampled_from(["txyp", "xytp"]),
    dtype=st.sampled_from(["u4", "i8", "f8", ">i4"]),
)
def test_tables_whose_chunks_split_columns(rows, chunk, order, dtype, tmp_path_factory):
    events = make(rows, seed=rows)
    events["t"] = np.arange(rows) * 31 + 2_000
    seconds = 1e-6 if dtype == "f8" else 1
    table = np.stack([events[name] * (seconds if name == "t" else 1) for name in order], 1).astype(dtype)
    path = tmp_path_factory.mktemp("h5") / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("events", data=table, chunks=(min(chunk[0], rows), chunk[1]), compression="gzip")
    if rows > 1:
        assert evlib.read_events(path).equals(frame(events))


# --- layouts --------------------------------------------------------------------------------------------------------


def milliseconds(t: np.ndarray) -> np.ndarray:
    """`ms_to_idx`: the first event of each millisecond."""
    return np.searchsorted(t, np.arange(t[-1] // 1000 + 1) * 1000).astype("u8")


@pytest.mark.parametrize("shape", [(), (1,)])
def test_dsec(shape, tmp_path):
    events = make(20_000)
    path = write(tmp_path / "events.h5", events, chunks=(512,), **FILTERS["blosc-zstd-1"])
    with h5py.File(path, "r+") as file:
        file["ms_to_idx"] = milliseconds(events["t"])
        file["t_offset"] = np.full(shape, OFFSET, "i8")
    opened = check(path, frame(events, OFFSET))
    assert opened.metadata["layout"] == "DSEC"
    assert opened.problems.is_empty()
    start = OFFSET + int(events["t"][0])
    for low, high in [(0, 1), (5_000, 5_001), (0, 2_000_000), (799_000, 900_000), (-10, 3), (123_456, 123_999)]:
        window = (start + low, start + high)
        expected = frame(events, OFFSET).filter(
            pl.col("timestamp").dt.total_microseconds().is_between(*window, closed="left")
        )
        assert opened.read(time_range=window).equals(expected)


@pytest.mark.parametrize("lie", ["shifted", "unsorted", "negative", "short", "garbage"])
def test_a_time_index_that_lies_is_reported_and_not_used(lie, tmp_path):
    events = make(20_000)
    path = write(tmp_path / "events.h5", events, chunks=(512,))
    index = milliseconds(events["t"]).astype("i8")
    index = {
        "shifted": index + 40,
        "unsorted": index[::-1].copy(),
        "negative": index - 10_000,
        "short": index[:10],
        "garbage": np.full(len(index), 2**62),
    }[lie]
    with h5py.File(path, "r+") as file:
        file["ms_to_idx"] = index
    opened = evlib.open(path)
    expected = frame(events)
    for low, high in [(0, 10_000), (300_000, 301_000), (799_000, 900_000)]:
        wanted = expected.filter(pl.col("timestamp").dt.total_microseconds().is_between(low, high, closed="left"))
        assert opened.read(time_range=(low, high)).equals(wanted)
    if lie != "short":
        assert problem_counts(opened) == {"INDEX_MISMATCH": 1}
    assert opened.read().equals(expected)


@pytest.mark.parametrize("place", [0, 3, 400, 799])
def test_one_entry_of_a_time_index_that_lies_is_found_by_the_pass(place, tmp_path):
    events = make(20_000)
    path = write(tmp_path / "events.h5", events, chunks=(512,))
    index = milliseconds(events["t"]).astype("i8")
    honest = index.copy()
    index[place] += 1 if place < 799 else -1
    for entries in (honest, index):
        with h5py.File(path, "r+") as file:
            file.pop("ms_to_idx", None)
            file["ms_to_idx"] = entries
        opened = evlib.open(path)
        assert opened.event_count == 20_000
        assert problem_counts(opened) == ({} if entries is honest else {"INDEX_MISMATCH": 1})
        window = (place * 1000, place * 1000 + 1000)
        wanted = pl.col("timestamp").dt.total_microseconds().is_between(*window, closed="left")
        assert opened.read(time_range=window).equals(frame(events).filter(wanted))


def test_times_out_of_order_do_not_fit_a_time_index(tmp_path):
    events = make(200_000)
    path = write(tmp_path / "events.h5", events, chunks=(4096,))
    events["t"][[100_000, 100_500]] = events["t"][[100_500, 100_000]]
    with h5py.File(path, "r+") as file:
        file["ms_to_idx"] = milliseconds(np.sort(events["t"]))
        file["events/t"][:] = events["t"]
    assert problem_counts(evlib.open(path)) == {"INDEX_MISMATCH": 1}


def test_m3ed(tmp_path):
    left, right = make(3000, seed=1), make(2000, seed=2)
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for name, events in {"left": left, "right": right}.items():
            group = file.create_group(f"prophesee/{name}")
            for key, values in events.items():
                group.create_dataset(
                    key, data=values.astype({"t": "i8", "p": "i1"}.get(key, "u2")), chunks=(400,), compression="lzf"
                )
            group["ms_map_idx"] = milliseconds(events["t"])
            group["calib/resolution"] = np.array([1280, 720])
        file["ovc/ts"] = np.arange(10)
    opened = evlib.open(path)
    assert opened.streams.filter(kind="events")["name"].to_list() == ["left", "right"]
    assert "ovc/ts" in opened.streams["name"]
    for use in (lambda: evlib.read_events(path), lambda: opened.event_count):
        with pytest.raises(exceptions.ArgumentError, match="`left`, `right`"):
            use()
    with pytest.raises(exceptions.ArgumentError, match="`left`, `right`"):
        evlib.open(path, stream="middle")
    assert check(path, frame(left), stream="left").geometry == (1280, 720)
    check(path, frame(right), stream="right")


def test_mvsec(tmp_path):
    events = make(3000)
    t = events["t"] / 1e6 + OFFSET / 1e6
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        table = np.stack([events["x"], events["y"], t, events["p"] * 2.0 - 1], 1)
        file.create_dataset("davis/left/events", data=table, chunks=(700, 1))
        file["davis/left/image_raw"] = np.zeros((2, 26, 34), "u1")
        file["davis/left/imu"], file["davis/left/pose"] = np.zeros((5, 6)), np.zeros((3, 4, 4))
    opened = check(tmp_path / "a.hdf5", frame(events, OFFSET))
    assert opened.metadata["layout"] == "MVSEC"
    assert opened.streams.filter(name="davis/left/image_raw")["kind"].item() == "frames"
    assert opened.metadata["frames /davis/left/image_raw"] == "u1 (2 x 26 x 34), contiguous"
    assert opened.metadata["imu /davis/left/imu"] == "f8 (5 x 6), contiguous"
    assert opened.metadata["other /davis/left/pose"].startswith("f8 (3 x 4 x 4)")


@pytest.mark.parametrize("polarity", ["bool", "i1"])
def test_e2vid(polarity, tmp_path):
    events = make(3000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events/xs"], file["events/ys"] = events["x"].astype("i2"), events["y"].astype("i2")
        file["events/ts"] = events["t"] / 1e6
        file["events/ps"] = events["p"].astype(bool) if polarity == "bool" else (events["p"] * 2 - 1).astype("i1")
        file.attrs["sensor_resolution"] = (480, 640)
        for number in range(100):
            file[f"images/image{number:09d}"] = np.zeros((4, 4), "u1")
    opened = check(tmp_path / "a.h5", frame(events))
    assert opened.geometry == (640, 480)
    assert opened.metadata["layout"] == "E2VID"
    assert opened.streams.filter(name="images")["rows"].item() == 100


def stored(path: Path, events: dict[str, np.ndarray], kind: str) -> Path:
    """Events as columns, records or a table, with the types that they have."""
    with h5py.File(path, "w") as file:
        if kind == "columns":
            for name, values in events.items():
                file[f"events/{name}"] = values
        elif kind == "records":
            array = np.zeros(len(events["t"]), [(name, values.dtype) for name, values in events.items()])
            for name, values in events.items():
                array[name] = values
            file["events"] = array
        else:
            dtype = events["t"].dtype
            table = np.stack([events[name].astype(dtype) for name in "txyp"], axis=1)
            file.create_dataset("events", data=table, chunks=(700, 1), compression="gzip")
    return path


@pytest.mark.parametrize("kind", ["columns", "records", "table"])
def test_units_of_times_are_told_as_those_of_numpy_are(kind, tmp_path):
    events = make()
    start = 1_600_000_000_000_000
    path = tmp_path / "a.h5"
    opened = check(stored(path, {**events, "t": events["t"].astype("f8")}, kind), frame(events))
    assert opened.metadata["time_unit"] == "us"
    assert opened.metadata["time_unit_reason"] == "times are floats that are whole numbers"
    opened = check(stored(path, {**events, "t": (events["t"] + start).astype("f8")}, kind), frame(events, start))
    assert opened.metadata["time_unit"] == "us"
    opened = check(stored(path, {**events, "t": events["t"] / 1e6}, kind), frame(events))
    assert (opened.metadata["time_unit"], opened.metadata["time_unit_reason"]) == ("s", "times are floats")
    opened = check(stored(path, {**events, "t": (events["t"] + start) * 1000}, kind), frame(events, start))
    assert opened.metadata["time_unit"] == "ns"
    assert "18 or more digits" in opened.metadata["time_unit_reason"]
    opened = check(stored(path, {**events, "t": events["t"] + start}, kind), frame(events, start))
    assert opened.metadata["time_unit"] == "us"
    assert "time_unit_reason" not in opened.metadata
    assert evlib.open(path, time_unit="ns").metadata["time_unit"] == "ns"


def test_float_times_are_rounded_to_the_nearest_microsecond(tmp_path):
    t = np.array([0.0, 1e-6, 1.4999e-6, 1.5001e-6, 0.1 + 0.2, 1234567890.123456, 1234567890.1234567])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("xs", "ys", "ps"):
            file[f"events/{name}"] = np.ones(len(t), "i2")
        file["events/ts"] = t
    times = evlib.read_events(tmp_path / "a.h5")["timestamp"].dt.total_microseconds().to_list()
    assert times == [0, 1, 1, 2, 300000, 1234567890123456, 1234567890123457]


def test_rvt_times_out_of_order(tmp_path):
    events = make(3000)
    events["t"][1000:1100] -= 5000
    path = write(tmp_path / "a.dat.h5", events, chunks=(100,), compression="gzip")
    with h5py.File(path, "r+") as file:
        file["events/height"], file["events/width"] = 480, 640
    opened = evlib.open(path)
    assert opened.geometry == (640, 480)
    expected = frame(events)
    assert opened.read().equals(expected)
    for low in range(0, 120_000, 7_000):
        wanted = expected.filter(pl.col("timestamp").dt.total_microseconds().is_between(low, low + 999, closed="left"))
        assert opened.read(time_range=(low, low + 999)).equals(wanted)


def test_tonic_cache_and_ebssa(tmp_path):
    events = make(300)
    dtype = [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")]
    records = np.empty(300, dtype)
    for name, values in events.items():
        records[name] = values
    with h5py.File(tmp_path / "tonic.hdf5", "w") as file:
        file.create_dataset("data/0", data=records, compression="lzf")
        file["target/0"] = 3
    assert check(tmp_path / "tonic.hdf5", frame(events)).metadata["layout"] == "tonic cache"
    with h5py.File(tmp_path / "ebssa.h5", "w") as file:
        for name in ("sat1", "sat2"):
            for key, values in {
                "ts": events["t"],
                "x": events["x"] + 1,
                "y": events["y"] + 1,
                "p": events["p"],
            }.items():
                file[f"{name}/TD/{key}"] = values.astype("f8").reshape(1, -1)
    assert check(tmp_path / "ebssa.h5", frame(events), stream="sat2").metadata["layout"] == "EBSSA"


@pytest.mark.parametrize("group", ["raw_events", "some/where", "/"])
def test_any_group_with_columns(group, tmp_path):
    events = make(300)
    names = {"raw_events": "txyp", "some/where": ["timestamps", "xs", "ys", "pol"], "/": "txyp"}[group]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in zip(names, events.values(), strict=True):
            file[f"{group}/{name}"] = values
    check(tmp_path / "a.h5", frame(events))


@pytest.mark.parametrize("names", ["TXYP", ["Timestamps", "Xs", "Ys", "Polarities"], ["t", "x", "y", "polarities"]])
@pytest.mark.parametrize("group", ["events", "prophesee/left", "Some/Where", "/"])
def test_names_in_any_case(group, names, tmp_path):
    events = make(300)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in zip(names, events.values(), strict=True):
            file[f"{group}/{name}"] = values
    check(tmp_path / "a.h5", frame(events))
    # A name as it is written here goes first.
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for name in "txyp":
            if name not in file[group]:
                file[f"{group}/{name}"] = events[name][:100]
    first = frame(events).head(100)
    expected = frame(events) if names == ["t", "x", "y", "polarities"] else first
    found = evlib.read_events(tmp_path / "a.h5")
    assert found.equals(expected.head(len(found)))
    assert len(found) == 100


@pytest.mark.parametrize(
    ("where", "attributes"),
    [
        ("/", {"geometry": "640X480"}),
        ("/", {"geometry": " 640 x 480 "}),
        ("/", {"geometry": [640, 480]}),
        ("/", {"geometry": np.array([640.0, 480.0])}),
        ("events", {"sensor_resolution": np.array([480.0, 640.0])}),
        ("events", {"sensor_resolution": np.array([480, 640, 3], "i2")}),
        ("/", {"sensor_resolution": "480x640"}),
        ("/", {"width": "640", "height": "480"}),
        ("events", {"width": 640.0, "height": np.array([480.0])}),
    ],
)
def test_sizes_of_sensors_in_attributes(where, attributes, tmp_path):
    path = write(tmp_path / "a.h5", make(300))
    with h5py.File(path, "r+") as file:
        file[where].attrs.update(attributes)
    assert evlib.open(path).geometry == (640, 480)


@pytest.mark.parametrize(
    "attributes",
    [
        {"geometry": "wide x high"},
        {"geometry": [640]},
        {"geometry": [640.5, 480.25]},
        {"sensor_resolution": np.array([np.nan, np.inf])},
        {"width": "-640", "height": "480"},
        {"width": 1e300, "height": 480.0},
        {"width": 640},
    ],
)
def test_attributes_that_are_no_size(attributes, tmp_path):
    events = make(300)
    path = write(tmp_path / "a.h5", events)
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)
    assert check(path, frame(events)).geometry is None


@pytest.mark.parametrize("kind", ["beside", "group attribute", "file attribute", "list", "float"])
@pytest.mark.parametrize("group", ["events", "prophesee/left", "/", "some/where"])
def test_offsets_of_times(group, kind, tmp_path):
    events = make(20_000)
    path = write(tmp_path / "a.h5", events, group=group)
    with h5py.File(path, "r+") as file:
        if group == "events":
            file["events/ms_to_idx"] = milliseconds(events["t"])
        if kind == "beside":
            file[f"{group}/t_offset"] = np.int64(OFFSET)
        elif kind == "file attribute":
            file.attrs["t_offset"] = OFFSET
        else:
            file[group].attrs["t_offset"] = {"list": np.array([OFFSET]), "float": float(OFFSET)}.get(kind, OFFSET)
    opened = check(path, frame(events, OFFSET))
    assert opened.metadata["time_offset_us"] == str(OFFSET)
    assert check(path, frame(events, 7), time_offset=7).problems.is_empty()


@pytest.mark.parametrize("order", ["txyp", "xytp"])
@pytest.mark.parametrize("chunks", [None, (1, 700), (1, 5000)])
def test_tables_on_their_side(order, chunks, tmp_path):
    events = make()
    table = np.stack([events[name] for name in order]).astype("i8")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("events", data=table, chunks=chunks, compression=chunks and "gzip")
    assert check(tmp_path / "a.h5", frame(events)).problems.is_empty()
    # Chunks over several rows would have to be decoded once for every column.
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("events", data=table, chunks=(2, 700))
    with pytest.raises(exceptions.UnsupportedError, match="h5repack"):
        evlib.open(tmp_path / "a.h5")


def test_records_of_any_name(tmp_path):
    events = make(300)
    array = np.zeros(300, [("x", "u2"), ("y", "u2"), ("t", "i8"), ("polarity", "?")])
    array["x"], array["y"], array["t"], array["polarity"] = (events[name] for name in "xytp")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/stuff"] = array
        file["deep/other"] = np.zeros(3, [("x", "u2"), ("y", "u2")])
        file["deep/table"] = np.zeros((9, 4))
    opened = check(tmp_path / "a.h5", frame(events))
    assert opened.streams.filter(kind="events")["name"].to_list() == ["deep/stuff"]
    # What is called events goes first.
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["deep/events"] = array[:100]
    assert evlib.read_events(tmp_path / "a.h5").equals(frame(events).head(100))


def test_the_caller_overrides(tmp_path):
    events = make(300)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, values in events.items():
            file[f"deep/er/{name}_values"] = values
    with pytest.raises(evlib.FormatError, match="`deep`") as found:
        evlib.open(path)
    assert "path_map" in str(found.value)
    names = {"timestamp": "t", "x": "x", "y": "y", "polarity": "p"}
    path_map = {name: f"/deep/er/{short}_values" for name, short in names.items()}
    check(path, frame(events), path_map=path_map)
    nanoseconds = {**events, "t": (events["t"] + 500) // 1000}
    check(path, frame(nanoseconds), path_map=path_map, time_unit="ns")
    check(path, frame({**events, "t": events["t"] * 1000}, 17), path_map=path_map, time_unit="ms", time_offset=17)
    for wrong in (
        {"x": "/deep"},
        {"x": "/deep/er/x_values"},
        {"z": "/deep/er/x_values"},
        {"events": "/deep/er/x_values"},
    ):
        with pytest.raises(exceptions.ArgumentError):
            evlib.open(path, path_map=wrong)
    with pytest.raises(exceptions.ArgumentError, match="unit"):
        evlib.open(path, path_map=path_map, time_unit="h")


# --- bad input ------------------------------------------------------------------------------------------------------


def test_unknown_filters_are_named(tmp_path):
    events = make(300)
    path = write(tmp_path / "a.h5", events, **hdf5plugin.Blosc2())
    with pytest.raises(evlib.FormatError, match=r"32026.*Blosc ?2") as found:
        evlib.open(path)
    assert "/events/" in str(found.value)


def test_virtual_and_external_data_sets_are_refused_by_name(tmp_path):
    events = make(300)
    write(tmp_path / "source.h5", events)
    layout = h5py.VirtualLayout((300,), "u2")
    layout[:] = h5py.VirtualSource(tmp_path / "source.h5", "events/x", (300,))
    for kind in ("virtual", "external"):
        path = write(tmp_path / f"{kind}.h5", events)
        with h5py.File(path, "r+") as file:
            del file["events/x"]
            if kind == "virtual":
                file.create_virtual_dataset("events/x", layout)
            else:
                file.create_dataset("events/x", (300,), "u2", external=[(tmp_path / "x.bin", 0, 600)])
        with pytest.raises(exceptions.UnsupportedError, match=f"/events/x.*{kind}"):
            evlib.open(path)


@pytest.mark.parametrize("name", ["gzip", "blosc-zstd-1", "fletcher32", "zstd", "lz4"])
@pytest.mark.parametrize("column", "xytp")
def test_a_damaged_chunk_loses_only_its_rows(name, column, tmp_path):
    events = make()
    path = write(tmp_path / "a.h5", events, chunks=(500,), **FILTERS[name])
    with h5py.File(path) as file:
        info = file[f"events/{column}"].id.get_chunk_info(3)
    data = bytearray(path.read_bytes())
    for at in range(info.byte_offset, info.byte_offset + min(info.size, 40)):
        data[at] ^= 0xA5
    path.write_bytes(data)
    opened = evlib.open(path)
    expected = frame(events)
    expected = pl.concat([expected[:1500], expected[2000:]])
    assert opened.read().equals(expected)
    assert opened.events.select(pl.len()).collect().item() == 4500
    assert evlib.read_events(path, columns=["polarity"]).equals(expected.select("polarity"))
    assert pl.concat(opened.batches(rows=333)).equals(expected)
    problem = opened.problems.row(0, named=True)
    assert (problem["code"], problem["count"], problem["first_offset"]) == ("UNREADABLE", 500, info.byte_offset)
    assert problem["bytes"] == info.size
    assert f"`/events/{column}`, chunk 3 (rows 1500 to 1999) at byte {info.byte_offset}" in problem["examples"][0]
    with pytest.raises(exceptions.ProblemError, match="UNREADABLE"):
        evlib.open(path, on_problem="raise")


def test_rows_that_are_no_events(tmp_path):
    events = make(2000)
    path = tmp_path / "a.h5"
    times = events["t"] / 1e6
    times[[7, 900]] = [np.nan, 1e300]
    x = events["x"].astype("i4")
    x[[50, 1500, 1501]] = [-1, 640, 70_000]
    with h5py.File(path, "w") as file:
        file["events/xs"], file["events/ys"] = x, events["y"]
        file["events/ts"], file["events/ps"] = times, events["p"]
        file.attrs["sensor_resolution"] = (480, 640)
    opened = evlib.open(path)
    keep = np.ones(2000, bool)
    keep[[7, 900, 50, 1500, 1501]] = False
    expected = frame(events).filter(keep)
    assert opened.read().equals(expected)
    assert opened.events.select("polarity").collect().equals(expected.select("polarity"))
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 3, "BAD_VALUE": 2}
    assert opened.event_count == 1995


def test_columns_of_different_length(tmp_path):
    events = make(2000)
    events["x"] = events["x"][:1500]
    path = write(tmp_path / "a.h5", events, chunks=(100,))
    opened = evlib.open(path)
    assert opened.event_count == 1500
    assert problem_counts(opened) == {"LENGTH_MISMATCH": 500}


def test_lying_shapes(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in "xytp":
            made = file.create_dataset(f"events/{name}", (10**15,), "u4", chunks=(100,), compression="gzip")
            made[10**15 - 1] = 1
    with pytest.raises(evlib.FormatError, match="claims more rows"):
        evlib.open(path)
    with h5py.File(path, "w") as file:
        for name in "xytp":
            made = file.create_dataset(f"events/{name}", (10**15,), "u4", chunks=(100,), compression="gzip")
            made[:250] = 1
    opened = evlib.open(path)
    assert opened.event_count == 300
    assert problem_counts(opened)["UNREADABLE"] >= 10**15 - 300


def test_cut_files(tmp_path):
    events = make(600)
    path = write(tmp_path / "a.h5", events, chunks=(100,), libver="latest", compression="gzip")
    data = path.read_bytes()
    expected = set(frame(events).rows())
    cut = tmp_path / "cut.h5"
    for length in [*range(0, len(data), 61), len(data) - 1]:
        cut.write_bytes(data[:length])
        try:
            opened = evlib.open(cut)
            found = opened.read()
        except (evlib.FormatError, exceptions.TruncatedError):
            continue
        assert set(found.rows()) <= expected
        assert len(found) == len(expected) or "UNREADABLE" in problem_counts(opened)
        assert all(0 <= offset <= length for offset in opened.problems["first_offset"])


def test_a_file_that_lost_its_events_says_so(tmp_path):
    path = tmp_path / "a.h5"
    evlib.write_events(frame(make(600)), path, geometry=(640, 480))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(exceptions.TruncatedError, match=f"cut off.*expected {len(data)} bytes") as caught:
        evlib.open(path)
    assert caught.value.offset == len(data) // 2


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    events = make()
    path = write(tmp_path / "a.h5", events, chunks=(100,))
    opened = evlib.open(path)
    os.truncate(path, 20_000)
    with pytest.raises(exceptions.TruncatedError, match="shrank"):
        opened.read()
