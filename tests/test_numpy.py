"""NPY and NPZ: every type, order and layout, against NumPy itself."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from datetime import timedelta
from typing import TYPE_CHECKING

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


def make(rows: int = ROWS, *, seed: int = 0, width: int = 640, height: int = 480) -> dict[str, np.ndarray]:
    """Random events in order of time."""
    rng = np.random.default_rng(seed)
    return {
        "t": np.sort(rng.integers(0, 40 * max(rows, 1), rows)),
        "x": rng.integers(0, width, rows),
        "y": rng.integers(0, height, rows),
        "p": rng.integers(0, 2, rows),
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


def records(events: dict[str, np.ndarray], dtype, names: dict[str, str] | None = None) -> np.ndarray:
    array = np.zeros(len(events["t"]), dtype)
    for name, values in events.items():
        array[(names or {}).get(name, name)] = values
    return array


def check(path: Path, expected: pl.DataFrame, **options) -> evlib.Recording:
    """Every way of reading gives the same events."""
    opened = evlib.open(path, **options)
    assert opened.read().equals(expected)
    assert opened.events.collect().equals(expected)
    assert opened.event_count == len(expected)
    assert sum(len(batch) for batch in opened.batches(rows=777)) == len(expected)
    if len(expected):
        times = expected["timestamp"]
        middle = times[len(times) // 2]
        window = (middle, middle + timedelta(milliseconds=3))
        wanted = expected.filter(pl.col("timestamp") >= window[0], pl.col("timestamp") < window[1])
        assert opened.read(time_range=window).equals(wanted)
        assert evlib.read_events(path, time_range=window, **options).equals(wanted)
        assert evlib.read_events(path, columns=["timestamp"], **options).equals(expected.select("timestamp"))
        assert opened.time_range == (times.min(), times.max())
    return opened


# --- types and orders -------------------------------------------------------------------------------------------------

IN_CIRCULATION = {
    "OpenEB": np.dtype(
        {
            "names": ["x", "y", "p", "t"],
            "formats": ["<u2", "<u2", "<i2", "<i8"],
            "offsets": [0, 2, 4, 8],
            "itemsize": 16,
        }
    ),
    "expelliarmus": np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")], align=True),
    "aedat": np.dtype([("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")]),
    "faery": np.dtype([("t", "<u8"), ("x", "<u2"), ("y", "<u2"), (("p", "on"), "?")]),
    "tonic": np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")]),
    "big-endian": np.dtype([("ts", ">u4"), ("xs", ">u2"), ("ys", ">u2"), ("pol", "i1"), ("other", "S3")]),
    "nested": np.dtype([("pos", [("x", "<u2"), ("y", "<u2")]), ("timestamp", "<i8"), ("polarity", "f4")]),
    "pairs": np.dtype([("timestamps", "<i8", (1,)), ("xy", "<i4", (2,)), ("ps", "f8")]),
}


@pytest.mark.parametrize("name", IN_CIRCULATION)
def test_records(name, tmp_path):
    events, dtype = make(), IN_CIRCULATION[name]
    array = np.zeros(ROWS, dtype)
    for field in dtype.names:
        match field:
            case "pos":
                array["pos"]["x"], array["pos"]["y"] = events["x"], events["y"]
            case "xy":
                array["xy"][:, 0], array["xy"][:, 1] = events["x"], events["y"]
            case "timestamps":
                array[field][:, 0] = events["t"]
            case "other":
                pass
            case _:
                array[field] = events["p" if field == "on" else field[0]]
    np.save(tmp_path / "a.npy", array)
    opened = check(tmp_path / "a.npy", frame(events))
    assert opened.format == "npy"
    assert opened.metadata["layout"] == "records"
    assert opened.problems.is_empty()
    assert evlib.identify(tmp_path / "a.npy").confidence == "certain"
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", array)
        assert check(tmp_path / "a.npz", frame(events)).format == "npz"


NUMBERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@settings(max_examples=60)
@given(
    rows=st.integers(0, 300),
    types=st.fixed_dictionaries(
        {
            "t": st.sampled_from(["u4", "i4", "u8", "i8", "f8", "M8[us]", "m8[us]", "m8[ns]", "M8[ms]"]),
            "x": st.sampled_from([*NUMBERS, "f2"]),
            "y": st.sampled_from([*NUMBERS, "f2"]),
            "p": st.sampled_from([*NUMBERS, "?", "f2"]),
        }
    ),
    order=st.permutations(["t", "x", "y", "p"]),
    endian=st.sampled_from("<>"),
    kind=st.sampled_from(["npy", "stored", "deflated", "columns", "columns-deflated"]),
    align=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_types(rows, types, order, endian, kind, align, seed, tmp_path_factory):
    events = make(rows, seed=seed, width=100, height=120)
    unit = types["t"].partition("[")[2].rstrip("]") or "us"
    scale = {"ns": (1000, 1), "us": (1, 1), "ms": (1, 1000)}[unit]
    columns = {}
    for name in order:
        kept = types[name]
        values = events[name] * scale[0] // scale[1] if name == "t" else events[name]
        columns[name] = values.astype("i8").astype(np.dtype(endian + kept if kept != "?" else kept))
    expected = dict(events)
    expected["t"] = columns["t"].astype("f8" if types["t"] == "f8" else "i8").astype("i8") * scale[1] // scale[0]
    folder = tmp_path_factory.mktemp("types")
    path = folder / ("a.npy" if kind == "npy" else "a.npz")
    array = np.zeros(rows, np.dtype([(name, columns[name].dtype) for name in order], align=align))
    for name in order:
        array[name] = columns[name]
    match kind:
        case "npy":
            np.save(path, array)
        case "stored":
            np.savez(path, events=array)
        case "deflated":
            np.savez_compressed(path, events=array)
        case "columns":
            np.savez(path, **columns)
        case _:
            np.savez_compressed(path, **columns)
    options = {"time_unit": "us"} if types["t"] == "f8" else {}
    opened = check(path, frame(expected), **options)
    assert opened.problems.is_empty()
    assert opened.metadata["time_unit"] == unit


ORDERS = ["txyp", "xytp", "xypt", "pxyt", "ptxy"]


@settings(max_examples=60)
@given(
    rows=st.integers(20, 2000),
    order=st.sampled_from(ORDERS),
    dtype=st.sampled_from(["i4", "u4", "i8", "f4", "f8", ">f8", ">i8"]),
    fortran=st.booleans(),
    transposed=st.booleans(),
    kind=st.sampled_from(["npy", "stored", "deflated"]),
    plus_minus=st.booleans(),
    seed=st.integers(0, 99),
)
def test_tables(rows, order, dtype, fortran, transposed, kind, plus_minus, seed, tmp_path_factory):
    events = make(rows, seed=seed)
    stored = dict(events)
    signed = plus_minus and dtype != "u4"
    stored["p"] = np.where(events["p"] > 0, 1, -1) if signed else events["p"]
    array = np.stack([stored[name] for name in order], axis=1).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    array = array.T if transposed else array
    path = tmp_path_factory.mktemp("table") / ("a.npy" if kind == "npy" else "a.npz")
    match kind:
        case "npy":
            np.save(path, array)
        case "stored":
            np.savez(path, array)
        case _:
            np.savez_compressed(path, other=np.zeros((7, 3)), events=array)
    opened = check(path, frame(events), time_unit="us")
    wanted = {"t": "timestamp", "x": "x", "y": "y", "p": "polarity"}
    assert opened.metadata["columns"] == ", ".join(wanted[name] for name in order)
    # Milliseconds are what the copies of DVS-Gesture have; whole floats are no seconds.
    default = evlib.open(path)
    assert default.metadata["time_unit"] == ("ms" if order == "xypt" else "us")


def test_seconds(tmp_path):
    # N-Caltech101 and EVIMO: floats with fractions.
    events = make()
    for order, dtype in (("xytp", "f8"), ("txyp", "f4")):
        seconds = (events["t"] / 1e6).astype(dtype)
        stored = {**events, "t": seconds}
        np.save(tmp_path / "a.npy", np.stack([stored[name].astype(dtype) for name in order], axis=1))
        rounded = np.rint(seconds.astype("f8") * 1e6).astype("i8")
        opened = check(tmp_path / "a.npy", frame({**events, "t": rounded}))
        assert opened.metadata["time_unit"] == "s"


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_tables_that_end_with_times(kind, tmp_path):
    # The copies of DVS-Gesture count milliseconds; fractions are seconds in any order of columns.
    events = make()

    def written(times: np.ndarray) -> Path:
        path = tmp_path / f"a.{kind}"
        table = np.stack([events["x"], events["y"], events["p"], times], axis=1)
        np.save(path, table) if kind == "npy" else np.savez(path, events=table)
        return path

    opened = check(written(events["t"] / 1e6), frame(events))
    assert (opened.metadata["time_unit"], opened.metadata["time_unit_reason"]) == ("s", "times are floats")
    for dtype in ("i8", "f8"):
        opened = check(written(events["t"].astype(dtype)), frame({**events, "t": events["t"] * 1000}))
        assert opened.metadata["time_unit"] == "ms"


@pytest.mark.parametrize("dtype", ["i8", "u8", "f8"])
@pytest.mark.parametrize("kind", ["columns", "records", "table"])
def test_nanoseconds_since_1970(kind, dtype, tmp_path):
    events = make()
    start = 1_600_000_000_000_000
    times = ((events["t"] + start) * 1000).astype(dtype)
    path = tmp_path / "a.npz"
    if kind == "columns":
        np.savez(path, **{**events, "t": times})
    elif kind == "records":
        types = [("t", dtype), ("x", "u2"), ("y", "u2"), ("p", "?")]
        np.savez_compressed(path, events=records({**events, "t": times}, types))
    else:
        np.savez(path, events=np.stack([times, *(events[name].astype(dtype) for name in "xyp")], axis=1))
    # Doubles of that size are 256 ns apart.
    expected = frame({**events, "t": (times.astype("u8").astype("i8") + 500) // 1000})
    opened = check(path, expected)
    assert opened.metadata["time_unit"] == "ns"
    assert "18 or more digits" in opened.metadata["time_unit_reason"]
    assert evlib.open(path, time_unit="us").metadata["time_unit"] == "us"
    # Microseconds since 1970 stay what they are.
    np.savez(path, **{**events, "t": (events["t"] + start).astype(dtype)})
    assert check(path, frame(events, start)).metadata["time_unit"] == "us"


def test_columns_that_cannot_be_told(tmp_path):
    events = make()
    array = np.stack([events["x"], events["y"], events["p"], np.zeros(ROWS, int)], axis=1)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(evlib.FormatError, match=r"no column grows(.|\n)*path_map"):
        evlib.open(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([[1, 2, 3, 1]]))
    with pytest.raises(evlib.FormatError, match="cannot be told"):
        evlib.open(tmp_path / "b.npy")
    path_map = {"timestamp": "0", "x": "1", "y": "2", "polarity": "3"}
    assert evlib.read_events(tmp_path / "b.npy", path_map=path_map).rows() == [(2, 3, timedelta(microseconds=1), 1)]


def test_no_time_is_no_event(tmp_path):
    for unit in ("us", "ns", "ms", "s"):
        array = np.zeros(4, [("t", f"m8[{unit}]"), ("x", "u1"), ("y", "u1"), ("p", "?")])
        array["t"] = [1, "NaT", 3, 4]
        np.save(tmp_path / "a.npy", array)
        opened = evlib.open(tmp_path / "a.npy")
        assert opened.event_count == 3
        assert problem_counts(opened) == {"BAD_VALUE": 1}


# --- the caller's options ---------------------------------------------------------------------------------------------


def test_the_caller_overrides(tmp_path):
    events = make()
    named = {"a": events["t"], "b": events["x"], "c": events["y"], "d": events["p"]}
    np.savez(tmp_path / "a.npz", **named)
    with pytest.raises(evlib.FormatError, match="without events"):
        evlib.open(tmp_path / "a.npz")
    path_map = {"timestamp": "a", "x": "b.npy", "y": "c", "polarity": "d"}
    check(tmp_path / "a.npz", frame(events), path_map=path_map)
    found = evlib.read_events(tmp_path / "a.npz", path_map=path_map, time_unit="ms", time_offset=-7)
    assert found.equals(frame({**events, "t": events["t"] * 1000}, -7))
    dtype = [("a", "u4"), ("b", "u2"), ("c", "u2"), ("d", "?")]
    np.savez(tmp_path / "b.npz", r=records(events, dtype, {"t": "a", "x": "b", "y": "c", "p": "d"}), q=np.zeros(3))
    check(tmp_path / "b.npz", frame(events), path_map={"t": "r/a", "x": "r/b", "y": "r/c", "p": "r/d"})
    np.save(tmp_path / "c.npy", records(events, dtype, {"t": "a", "x": "b", "y": "c", "p": "d"}))
    check(tmp_path / "c.npy", frame(events), path_map={"t": "a", "x": "b", "y": "c", "p": "d"})
    for bad in ({"x": "b"}, {"x": "nothing"}, {"events": "a"}, {"z": "a"}, {"events": "a", "x": "b"}):
        with pytest.raises(exceptions.ArgumentError, match="path_map"):
            evlib.open(tmp_path / "a.npz", path_map=bad)


def test_several_cameras(tmp_path):
    left, right = make(seed=1), make(seed=2)
    arrays = {f"left/{name}": values for name, values in left.items()}
    np.savez(tmp_path / "a.npz", **arrays, right=records(right, [("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "?")]))
    opened = evlib.open(tmp_path / "a.npz")
    assert opened.streams["name"].to_list() == ["left", "right"]
    assert opened.streams["rows"].to_list() == [ROWS, ROWS]
    with pytest.raises(exceptions.ArgumentError, match="stream"):
        opened.read()
    check(tmp_path / "a.npz", frame(left), stream="left")
    check(tmp_path / "a.npz", frame(right), stream="right")
    with pytest.raises(exceptions.ArgumentError, match="no such stream"):
        evlib.open(tmp_path / "a.npz", stream="top")


# --- data sets --------------------------------------------------------------------------------------------------------


def test_evimo(tmp_path):
    events = make()
    seconds = (events["t"] / 1e6).astype("f4")
    table = np.stack([seconds, events["x"], events["y"], events["p"]], axis=1).astype("f4")
    meta = np.array({"frames": [1, 2]}, dtype=object)
    np.savez_compressed(tmp_path / "a.npz", events=table, meta=meta, index=np.arange(5, dtype="u4"), K=np.eye(3))
    expected = frame({**events, "t": np.rint(seconds.astype("f8") * 1e6).astype("i8")})
    opened = check(tmp_path / "a.npz", expected)
    streams = dict(opened.streams.select("name", "kind").iter_rows())
    assert streams == {"events": "events", "meta": "other", "index": "other", "K": "other"}
    # The second version: a folder of columns.
    folder = tmp_path / "sequence"
    folder.mkdir()
    np.save(folder / "dataset_events_t.npy", seconds)
    np.save(folder / "dataset_events_xy.npy", np.stack([events["x"], events["y"]], axis=1).astype("u2"))
    np.save(folder / "dataset_events_p.npy", events["p"].astype("u1"))
    np.savez(folder / "dataset_info.npz", K=np.eye(3), meta=meta)
    for path in (folder, folder / "dataset_events_t.npy", folder / "dataset_events_xy.npy"):
        opened = check(path, expected)
        assert opened.metadata["layout"] == "EVIMO2"
        assert evlib.identify(path).format == "npy"
    (folder / "dataset_events_p.npy").unlink()
    with pytest.raises(evlib.FormatError, match="without events"):
        evlib.open(folder)
    with pytest.raises(evlib.FormatError, match="without events"):
        evlib.open(folder / "dataset_events_t.npy")


def test_memmap_folders(tmp_path):
    events = make(width=240, height=180)
    seconds = events["t"] / 1e6
    (seconds.astype("f8").reshape(-1, 1)).tofile(tmp_path / "t.npy")
    np.stack([events["x"], events["y"]], axis=1).astype("i2").tofile(tmp_path / "xy.npy")
    events["p"].astype("u1").reshape(-1, 1).tofile(tmp_path / "p.npy")
    (tmp_path / "metadata.json").write_text(json.dumps({"sensor_resolution": [180, 240], "duration": 1.5, "a": None}))
    for path, options in ((tmp_path, {}), (tmp_path / "t.npy", {}), (tmp_path / "t.npy", {"format": "npy"})):
        opened = check(path, frame(events), **options)
        assert opened.geometry == (240, 180)
        assert opened.metadata["layout"] == "event_utils memmap"
    # One column is short: the others are cut.
    os.truncate(tmp_path / "p.npy", ROWS - 10)
    opened = evlib.open(tmp_path)
    assert opened.read().equals(frame(events).head(ROWS - 10))
    assert problem_counts(opened) == {"LENGTH_MISMATCH": 10}


def test_folders_that_are_no_recording(tmp_path):
    with pytest.raises(IsADirectoryError):
        evlib.open(tmp_path)
    with pytest.raises(IsADirectoryError):
        evlib.identify(tmp_path)
    for number in range(65):
        np.save(tmp_path / f"events_{number}.npy", np.zeros((3, 4)))
    with pytest.raises(exceptions.ArgumentError, match="too many files"):
        evlib.open(tmp_path)


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
@pytest.mark.parametrize("names", [("t", "p"), ("timestamp", "polarity")])
def test_parts_of_pixels(names, dtype, tmp_path):
    events = make(width=1240, height=700)
    x, y = events["x"] * 32 + 3, events["y"] * 32 + 30
    stored = {"x": x.astype(dtype), "y": y.astype(dtype), names[0]: events["t"], names[1]: events["p"]}
    np.savez(tmp_path / "a.npz", **stored)
    expected = frame({**events, "y": events["y"] + 1})
    opened = check(tmp_path / "a.npz", expected)
    assert opened.metadata["pixel_parts"] == "32 (coordinates too large for pixels)"
    assert problem_counts(opened) == {"ROUNDED": 1}
    assert "1/32" in opened.problems["examples"][0][0]
    # The sensor is known, or the caller says so, also where all could be pixels.
    small = {**stored, "x": (x // 16).astype(dtype), "y": (y // 16).astype(dtype)}
    np.savez(tmp_path / "b.npz", **small)
    wanted = frame({**events, "x": (x // 16 + 16) // 32, "y": (y // 16 + 16) // 32})
    assert "pixel_parts" not in evlib.open(tmp_path / "b.npz").metadata
    for options in ({"pixel_parts": 32}, {"geometry": (80, 45)}):
        opened = evlib.open(tmp_path / "b.npz", **options)
        if dtype != "f4":
            assert opened.read().equals(wanted)
        assert opened.metadata["pixel_parts"].startswith("32 (")
        assert problem_counts(opened) == {"ROUNDED": 1}
    for bad in (0, 2**20, "32"):
        with pytest.raises(exceptions.ArgumentError, match="pixel_parts"):
            evlib.open(tmp_path / "b.npz", pixel_parts=bad)


@pytest.mark.parametrize(("width", "height"), [(970, 625), (346, 260)])
def test_parts_of_pixels_of_small_sensors(width, height, tmp_path):
    # BS-ERGB has 970 x 625 pixels: all of its numbers could be pixels of the largest sensor that frames hold.
    events = make(width=width, height=height)
    x, y = ((events[name] * 32 + 5).astype("u2") for name in "xy")
    np.savez(tmp_path / "a.npz", x=x, y=y, timestamp=events["t"], polarity=events["p"])
    opened = check(tmp_path / "a.npz", frame(events))
    assert opened.metadata["pixel_parts"] == "32 (coordinates too large for pixels)"
    assert problem_counts(opened) == {"ROUNDED": 1}
    # A sensor of 4096 pixels is believed.
    events = make(width=4096, height=2160)
    np.savez(tmp_path / "b.npz", **events)
    assert check(tmp_path / "b.npz", frame(events)).problems.is_empty()


@pytest.mark.parametrize("kind", ["npz", "members", "folder"])
@pytest.mark.parametrize("geometry", [(640, 480), (346, 260), (304, 240), (128, 128)])
def test_pixels_outside_a_smaller_geometry_are_no_parts(geometry, kind, tmp_path):
    events = make(width=1280, height=720)
    width, height = geometry
    path, options = tmp_path / "a.npz", {"geometry": geometry}
    if kind == "npz":
        np.savez(path, **events)
    elif kind == "members":
        np.savez(path, **events, width=width, height=height)
        options = {}
    else:
        path = tmp_path / "columns"
        path.mkdir()
        for name, values in events.items():
            np.save(path / f"{name}.npy", values)
    inside = (events["x"] < width) & (events["y"] < height)
    opened = check(path, frame({name: values[inside] for name, values in events.items()}), **options)
    assert opened.geometry == geometry
    assert "pixel_parts" not in opened.metadata
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": ROWS - inside.sum()}


def test_parts_of_pixels_in_a_corner_of_a_known_sensor(tmp_path):
    # A quarter of the width only, but no camera has so many pixels.
    events = make(width=240, height=150)
    x, y = ((events[name] * 32 + 5).astype("u2") for name in "xy")
    np.savez(tmp_path / "a.npz", **{**events, "x": x, "y": y})
    opened = check(tmp_path / "a.npz", frame(events), geometry=(970, 625))
    assert opened.metadata["pixel_parts"] == "32 (coordinates too large for pixels)"
    assert problem_counts(opened) == {"ROUNDED": 1}


def test_a_few_wrong_pixels_stay_wrong(tmp_path):
    events = make()
    x = events["x"].astype("u2")
    x[10] = 65535
    np.savez(tmp_path / "a.npz", **{**events, "x": x})
    opened = evlib.open(tmp_path / "a.npz")
    assert opened.event_count == ROWS - 1
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 1}


def test_carla_and_es_imagenet(tmp_path):
    events = make()
    dtype = [("x", "u2"), ("y", "u2"), ("t", "i8"), ("pol", "?")]
    array = records({**events, "t": events["t"] * 1000}, dtype, {"p": "pol"})
    np.savez_compressed(tmp_path / "dvs-1-xytp.npz", dvs_events=array)
    opened = check(tmp_path / "dvs-1-xytp.npz", frame(events))
    assert opened.metadata["layout"] == "SEVD"
    # y, x, time; brighter and darker events apart.
    rng = np.random.default_rng(3)
    for save in (np.savez, np.savez_compressed):
        pos, neg = (
            np.stack([rng.integers(0, 200, n), rng.integers(0, 240, n), rng.integers(1, 9, n)], axis=1).astype("u1")
            for n in (300, 200)
        )
        save(tmp_path / "b.npz", pos=pos, neg=neg)
        both = np.concatenate([np.c_[pos, np.ones(300)], np.c_[neg, np.zeros(200)]]).astype(int)
        both = both[np.argsort(both[:, 2], kind="stable")]
        expected = frame({"x": both[:, 1], "y": both[:, 0], "t": both[:, 2], "p": both[:, 3]})
        opened = check(tmp_path / "b.npz", expected)
        assert opened.metadata["layout"] == "ES-ImageNet"


# --- files that are not as they should be -----------------------------------------------------------------------------


def saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def zipped(compress: bool = False, **arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(out, **arrays)
    return out.getvalue()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text.encode()


def read_all(path: Path) -> tuple[int, dict[str, int]]:
    """Rows and problems; -1 and none for a file that is refused."""
    try:
        opened = evlib.open(path)
        return len(opened.read()), problem_counts(opened)
    except (evlib.EvlibError, ValueError, OSError) as error:
        assert isinstance(error, evlib.EvlibError), error
        return -1, {}


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trap"),)

    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", events=np.array([Trap()], dtype=object), t=np.arange(3))
    dtype = np.dtype([("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "O")])
    (tmp_path / "c.npy").write_bytes(
        header(f"{{'descr': {dtype.descr}, 'fortran_order': False, 'shape': (9,)}}") + bytes(999)
    )
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(evlib.FormatError, match="never loaded"):
            evlib.open(tmp_path / name)
    assert not (tmp_path / "trap").exists()


def test_records_with_python_objects_are_pickled_as_a_whole(tmp_path):
    array = np.zeros(500, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?"), ("o", "O")])
    array["t"] = np.arange(500)
    array["o"] = [f"note {number}" for number in range(500)]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", events=array)
    nested = np.zeros(3, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?"), ("more", [("o", "O", 2)])])
    np.save(tmp_path / "c.npy", nested)
    fields = {"timestamp": "t", "x": "x", "y": "y", "polarity": "p"}
    for name, prefix in (("a.npy", ""), ("b.npz", "events/"), ("c.npy", "")):
        with pytest.raises(evlib.FormatError, match="never loaded"):
            evlib.open(tmp_path / name)
        path_map = {column: prefix + field for column, field in fields.items()}
        with pytest.raises(exceptions.ArgumentError, match="never loaded"):
            evlib.open(tmp_path / name, path_map=path_map)
    # Beside events in another array it is listed, not read.
    events = make()
    np.savez(tmp_path / "d.npz", notes=array, **events)
    opened = check(tmp_path / "d.npz", frame(events))
    assert "notes" in opened.streams["name"].to_list()


@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
def test_cut_at_every_byte(kind, tmp_path):
    events = make(30)
    array = records(events, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])
    data = {
        "npy": lambda: saved(array),
        "stored": lambda: zipped(**events),
        "deflated": lambda: zipped(compress=True, events=array),
    }[kind]()
    start = len(data) - array.nbytes
    path = tmp_path / "a.npz"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        rows, problems = read_all(path)
        if kind == "npy" and length >= start:
            there = (length - start) // array.itemsize
            assert (rows, problems) == (there, {"UNREADABLE": 30 - there})
        else:
            assert rows == -1


@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
def test_mutated_bytes(kind, tmp_path):
    rng = np.random.default_rng(5)
    events = make(50)
    array = records(events, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])
    data = {
        "npy": lambda: saved(array),
        "stored": lambda: zipped(**events, other=np.eye(3)),
        "deflated": lambda: zipped(compress=True, **events),
    }[kind]()
    path = tmp_path / "a.npz"
    for _ in range(600):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(0, len(changed) if rng.random() < 0.3 else 200)] = rng.integers(0, 256)
        path.write_bytes(changed)
        rows, problems = read_all(path)
        assert rows <= 2**20
        assert rows != 0 or problems or kind == "npy"


def test_a_damaged_member_loses_its_rows(tmp_path):
    data = bytearray(zipped(compress=True, **make()))
    data[len(data) // 2] ^= 0x10
    (tmp_path / "a.npz").write_bytes(data)
    opened = evlib.open(tmp_path / "a.npz")
    assert opened.read().is_empty()
    assert problem_counts(opened) == {"UNREADABLE": ROWS}


@pytest.mark.parametrize("shape", [(2**40,), (2**60,), (2**62, 4), (3, 2**50)])
def test_lying_shapes(shape, tmp_path):
    text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}"
    (tmp_path / "a.npy").write_bytes(header(text) + bytes(64))
    assert read_all(tmp_path / "a.npy")[0] <= 2
    descr = "[('t', '<i8'), ('x', '<u2'), ('y', '<u2'), ('p', '|b1')]"
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape[:1]}}}"
    for version in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        (tmp_path / "b.npy").write_bytes(header(text, version) + bytes(range(26)))
        rows, problems = read_all(tmp_path / "b.npy")
        if shape[0] * 13 < 2**63:
            assert rows <= 2
            assert sum(problems.values()) >= min(shape) - 2
        else:
            assert rows == -1
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("events.npy", header(text) + bytes(1000))
    assert read_all(tmp_path / "c.npz")[0] <= 1000


def test_columns_without_headers_have_names(tmp_path):
    # Random bytes that are called a column, alone: what is missing is said of NPY, and not of RAW.
    np.random.default_rng(5).normal(size=100).tofile(tmp_path / "t.npy")
    with pytest.raises(evlib.FormatError, match="NPY"):
        evlib.open(tmp_path / "t.npy")


def test_tables_of_two_polarities_are_bounded(tmp_path):
    # 12 MB that stand for 36 MB in `pos` alone; the rows of both would be merged in 400 MB and more.
    rows = 12_000_000
    for save in (np.savez_compressed, np.savez):
        save(tmp_path / "a.npz", pos=np.zeros((rows, 3), "u1"), neg=np.zeros((5, 3), "u1"))
        with pytest.raises(
            exceptions.UnsupportedError, match=r"too large to be merged.*at most 8388608 rows.*12000000"
        ):
            evlib.open(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "{'descr': '<i8'}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-3,)}",
        "{'descr': '<q8', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': [], 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': [('t', '<i8', (99999999999999999,))], 'fortran_order': False, 'shape': (3,)}",
        "(" * 20000,
    ],
)
def test_malformed_headers(text, tmp_path):
    (tmp_path / "a.npy").write_bytes(header(text) + bytes(100))
    with pytest.raises(evlib.FormatError):
        evlib.open(tmp_path / "a.npy")


def test_zip_archives(tmp_path):
    events = make(100)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("points.txt", "1 2 3 4")
        archive.writestr("notes.txt", "what they are")
    with pytest.raises(evlib.FormatError, match=r"found `points\.txt`, `notes\.txt`"):
        evlib.open(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(evlib.FormatError, match="no members"):
        evlib.open(path)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("events.npy", saved(records(events, IN_CIRCULATION["tonic"])))
        with pytest.raises(evlib.EvlibError, match=r"bzip2|LZMA"):
            evlib.open(path)
    # Data in front, a comment behind, names in another alphabet.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"PK\x05\x06 comment"
        archive.writestr("événements/events.npy", saved(records(events, IN_CIRCULATION["tonic"])))
    check(path, frame(events))
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, values in events.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(saved(values))
    check(path, frame(events))


def test_thousands_of_members(tmp_path):
    events = make(100)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(70_000):
            archive.writestr(f"depth_{number}.npy", b"")
        for name, values in events.items():
            archive.writestr(f"{name}.npy", saved(values))
    opened = check(tmp_path / "a.npz", frame(events))
    assert len(opened.streams) < 100


def test_large_deflated_members_are_bounded(tmp_path):
    # 200 MB of zeros in 200 kB: what is claimed has to be there.
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("events.npy", saved(np.zeros((1000, 4))))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(evlib.EvlibError, match="claims more"):
        evlib.open(tmp_path / "a.npz")


# --- writing ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(rows=st.integers(0, 3000), kind=st.sampled_from(["npy", "npz"]), offset=st.sampled_from([0, -(10**9), 2**60]))
def test_round_trip(rows, kind, offset, tmp_path_factory):
    path = tmp_path_factory.mktemp("write") / f"a.{kind}"
    events = frame(make(rows), offset)
    assert evlib.write_events(events.lazy(), path, geometry=(640, 480)) == rows
    # Numbers of that size would be taken for nanoseconds.
    check(path, events, **({"time_unit": "us"} if offset > 10**17 else {}))
    loaded = np.load(path)
    assert loaded["t"].tolist() == events["timestamp"].dt.total_microseconds().to_list()
    assert [loaded[name].dtype for name in "txyp"] == ["<i8", "<u2", "<u2", "u1"]
    assert loaded["p"].tolist() == (events["polarity"] > 0).to_list()
    assert list(path.parent.iterdir()) == [path]
    if kind == "npz":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["t.npy", "x.npy", "y.npy", "p.npy"]
    else:
        assert np.lib.format.open_memmap(path, mode="r").shape == (rows,)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_writing_that_fails_leaves_nothing(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    events = frame(make(10))
    with pytest.raises(ValueError, match="row 0"):
        evlib.write_events(events.reverse().with_columns(x=pl.lit(999, pl.Int16)), path, geometry=(640, 480))
    assert not list(tmp_path.iterdir())
    evlib.write_events(events, path, geometry=(640, 480))
    with pytest.raises(FileExistsError):
        evlib.write_events(events, path, geometry=(640, 480))
    assert evlib.write_events(events.head(3), path, geometry=(640, 480), overwrite=True) == 3
    assert evlib.read_events(path).equals(events.head(3))
    with pytest.raises(exceptions.ArgumentError, match="compression"):
        evlib.write_events(events, tmp_path / f"b.{kind}", geometry=(640, 480), compression="gzip")


def test_options_of_other_formats(tmp_path):
    evlib.write_events(frame(make(10)), tmp_path / "a.raw", geometry=(640, 480))
    with pytest.raises(exceptions.ArgumentError, match="pixel_parts"):
        evlib.open(tmp_path / "a.raw", pixel_parts=32)
