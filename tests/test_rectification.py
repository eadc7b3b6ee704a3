"""`evlib.rectify`: maps of DSEC, on both engines."""

from __future__ import annotations

import cloudpickle
import h5py
import hdf5plugin
import numpy as np
import polars as pl
import pytest

import evlib
from evlib import exceptions

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(1).normal(30, 20, (HEIGHT, WIDTH, 2)).astype("f4")


@pytest.fixture
def events(tmp_path) -> pl.LazyFrame:
    rng = np.random.default_rng(2)
    rows = 20_000
    evlib.write_events(
        {
            "x": rng.integers(0, WIDTH, rows),
            "y": rng.integers(0, HEIGHT, rows),
            "timestamp": np.sort(rng.integers(0, 10**6, rows)),
            "polarity": rng.choice([-1, 1], rows),
        },
        tmp_path / "events.raw",
        geometry=(WIDTH, HEIGHT),
    )
    return evlib.load_events(tmp_path / "events.raw", batch_rows=1)


def expected(events: pl.LazyFrame, values: np.ndarray) -> pl.DataFrame:
    frame = events.collect()
    found = values[frame["y"].to_numpy(), frame["x"].to_numpy()]
    return frame.with_columns(x=pl.Series(found[:, 0]), y=pl.Series(found[:, 1]))


STORAGE = {
    "contiguous": {},
    "gzip": {"compression": "gzip", "chunks": (13, 17, 2)},
    "split": {"chunks": (10, 10, 1), "shuffle": True, "compression": "lzf"},
    "blosc": {"chunks": (48, 64, 2), **hdf5plugin.Blosc(cname="zstd", shuffle=1)},
}


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize("name", STORAGE)
def test_maps_of_dsec(name, engine, values, events, tmp_path):
    with h5py.File(tmp_path / "rectify_map.h5", "w") as file:
        file.create_dataset("rectify_map", data=values, **STORAGE[name])
    rectified = evlib.rectify(events, tmp_path / "rectify_map.h5")
    assert rectified.collect_schema() == pl.Schema(
        {"x": pl.Float32(), "y": pl.Float32(), "timestamp": pl.Duration("us"), "polarity": pl.Int8()}
    )
    assert rectified.collect(engine=engine).equals(expected(events, values))


def test_arrays_frames_and_queries(values, events):
    wanted = expected(events, values)
    for array in (values, values.astype(">f8"), np.asfortranarray(values), values.tolist()):
        assert evlib.rectify(events, array).collect().equals(wanted)
    assert evlib.rectify(events.collect(), values).equals(wanted)
    query = evlib.rectify(events, values).filter(pl.col("polarity") == 1, pl.col("x") > 30).select("y", "timestamp")
    for engine in ("in-memory", "streaming"):
        found = query.collect(engine=engine)
        assert found.equals(wanted.filter(pl.col("polarity") == 1, pl.col("x") > 30).select("y", "timestamp"))
    assert evlib.rectify(events, values).select(pl.len()).collect().item() == len(wanted)
    assert evlib.rectify(events, values).head(3).collect().equals(wanted.head(3))
    again = cloudpickle.loads(cloudpickle.dumps(evlib.rectify(events, values)))
    assert again.collect().equals(wanted)


def test_a_time_range_reaches_the_decoder(values, events):
    query = evlib.rectify(events, values).filter(pl.col("timestamp") < pl.duration(milliseconds=10))
    plan = query.explain()
    assert plan.index("SELECTION") > plan.index("WITH_COLUMNS"), plan


def test_no_events(values, events):
    assert evlib.rectify(events.head(0), values).collect().is_empty()
    assert evlib.rectify(events.filter(pl.col("x") < 0), values).collect(engine="streaming").is_empty()


def test_events_outside_the_map(values, events):
    with pytest.raises((ValueError, pl.exceptions.ComputeError), match="the map is of 64x20 pixels"):
        evlib.rectify(events, values[:20]).collect()


def test_only_whole_pixels_are_looked_up(values, events):
    rectified = evlib.rectify(events, values).head(10)
    nulls = events.head(10).with_columns(pl.lit(None, pl.Int16).alias("x"))
    for frame in (rectified, rectified.collect(), nulls):
        with pytest.raises((ValueError, pl.exceptions.ComputeError), match="a column of whole pixels without nulls"):
            evlib.rectify(frame, values).lazy().collect()


def test_no_map(values, events, tmp_path):
    for bad in (values[0], values[:, :, :1], values[:0], values.astype("c8")):
        with pytest.raises(exceptions.ArgumentError, match="shape"):
            evlib.rectify(events, bad)
    with pytest.raises(FileNotFoundError):
        evlib.rectify(events, tmp_path / "none.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["map"] = values
    with pytest.raises(ValueError, match=r"rectify_map.*found `map`"):
        evlib.rectify(events, tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(evlib.FormatError, match="HDF5"):
        evlib.rectify(events, tmp_path / "text.h5")
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("rectify_map", shape=(1 << 20, 1 << 20, 2), dtype="f4", chunks=(64, 64, 2))
    with pytest.raises(evlib.EvlibError, match="too large"):
        evlib.rectify(events, tmp_path / "large.h5")
    with pytest.raises(exceptions.ArgumentError):
        evlib.rectify(events.collect().to_dict(), values)
