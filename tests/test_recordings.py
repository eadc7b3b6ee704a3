"""Real recordings: exactly the events of the manifest, through every path."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import polars as pl
import pytest
from conftest import shared_folder

import evlib

COLUMNS = {"t": "timestamp", "x": "x", "y": "y", "p": "polarity"}
FORMATS = {"evt2", "evt21", "evt3", "evt4", "dat", "rosbag1", "rosbag2-sqlite", "mcap"}
NAMES_HERE = {"rosbag1": "bag", "rosbag2-sqlite": "db3"}
"""Formats that have another name in the manifest."""


def names() -> list:
    folder = shared_folder()
    if folder is None:
        return [pytest.param("", marks=pytest.mark.skip("no folder `shared`"))]
    manifest = json.loads((folder / "recordings" / "manifest.json").read_text())
    return [name for name, entry in manifest.items() if entry["format"] in FORMATS]


NAMES = names()


@pytest.fixture(params=NAMES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def path(shared, name):
    return shared / "recordings" / name


@pytest.fixture(scope="module")
def entry(manifest, name):
    return manifest[name]


@pytest.fixture(scope="module")
def expected(path):
    with np.load(f"{path}.expected.npz") as arrays:
        return {name: arrays[name] for name in COLUMNS}


def arrays(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    columns = {name: frame[column].to_numpy() for name, column in COLUMNS.items()}
    columns["t"] = columns["t"].view("i8")
    return columns


def digest(columns: dict[str, np.ndarray]) -> str:
    """SHA-256 over the bytes of t (int64), x, y (int16) and p (int8), one column after the other."""
    sha = hashlib.sha256()
    for name, dtype in {"t": "<i8", "x": "<i2", "y": "<i2", "p": "i1"}.items():
        assert columns[name].dtype == np.dtype(dtype)
        sha.update(np.ascontiguousarray(columns[name]).tobytes())
    return sha.hexdigest()


def digest_of(frame: pl.DataFrame) -> str:
    return digest(arrays(frame.rechunk()))


def test_every_recording_of_these_formats_is_here(manifest):
    assert len(NAMES) >= 9
    assert {manifest[name]["format"] for name in NAMES} == FORMATS - {"evt4"}


def test_file_is_the_one_of_the_manifest(path, entry):
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["file_sha256"]


def test_digest_is_that_of_the_expected_arrays(expected, entry):
    assert digest(expected) == entry["events_sha256"]
    backwards = {name: np.ascontiguousarray(column[::-1]) for name, column in expected.items()}
    assert digest(backwards) != entry["events_sha256"]


def test_eager(path, entry, expected):
    frame = evlib.read_events(path)
    columns = arrays(frame)
    for name, column in expected.items():
        np.testing.assert_array_equal(columns[name], column, err_msg=name)
    assert digest_of(frame) == entry["events_sha256"]
    assert frame.height == entry["events"]
    assert (frame["polarity"] == 1).sum() == entry["on"]
    for row, truth in ((0, entry["first"]), (-1, entry["last"])):
        assert [int(columns[name][row]) for name in COLUMNS] == truth


def test_open(path, entry, expected):
    recording = evlib.open(path, on_problem="raise")
    assert recording.format == NAMES_HERE.get(entry["format"], entry["format"])
    assert recording.confidence == "certain"
    assert recording.event_count == entry["events"]
    if entry["width"] is not None:
        assert recording.geometry == (entry["width"], entry["height"])
    first, last = recording.time_range
    microseconds = [time // np.timedelta64(1, "us").item() for time in (first, last)]
    assert microseconds == [expected["t"].min(), expected["t"].max()]
    assert recording.problems.is_empty()


def test_triggers_of_the_bag(shared):
    triggers = evlib.open(shared / "recordings" / "ecpy_test_events_1.bag").triggers.collect()
    assert triggers.height == 4157
    assert triggers["id"].unique().to_list() == [6]
    assert triggers["timestamp"].is_sorted()


@pytest.mark.parametrize("threads", range(1, 9))
def test_threads(path, entry, threads):
    assert digest_of(evlib.read_events(path, threads=threads)) == entry["events_sha256"]
    lazy = evlib.load_events(path, threads=threads, batch_rows=50_000)
    assert digest_of(lazy.collect()) == entry["events_sha256"]


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize("batch_rows", [None, 1009, 65_536, 10**9])
def test_lazy(path, entry, engine, batch_rows):
    lazy = evlib.load_events(path, batch_rows=batch_rows)
    assert digest_of(lazy.collect(engine=engine)) == entry["events_sha256"]
    assert lazy.select(pl.len()).collect(engine=engine).item() == entry["events"]


@pytest.mark.parametrize("rows", [997, 100_000, 10**9])
def test_batches_of_rows(path, entry, rows):
    batches = list(evlib.open(path).batches(rows=rows))
    assert all(batch.height == rows for batch in batches[:-1])
    assert 0 < batches[-1].height <= rows
    assert digest_of(pl.concat(batches)) == entry["events_sha256"]


def test_batches_of_duration(path, entry, expected):
    duration = 7_000
    batches = list(evlib.open(path).batches(duration=duration))
    assert digest_of(pl.concat(batches)) == entry["events_sha256"]
    # An event belongs to the current window unless its time is at or after the window's end.
    latest = np.maximum.accumulate(expected["t"])
    window = (latest - expected["t"][0]) // duration
    assert [batch.height for batch in batches] == np.bincount(window).tolist()


def test_evt2_and_evt3_written_and_read(path, entry, expected, tmp_path):
    sorted_by_time = (np.diff(expected["t"]) >= 0).all()
    recording = evlib.open(path)
    geometry = recording.geometry or (2048, 2048)
    for name in ("evt2", "evt3"):
        copy = tmp_path / f"copy-{name}.raw"
        if expected["t"][-1] >= {"evt2": 2**55, "evt3": 2**46}[name]:
            with pytest.raises(ValueError, match="a time before"):
                evlib.write_events(recording, copy, format=name, geometry=geometry)
            continue
        if not sorted_by_time:
            with pytest.raises(ValueError, match="times in order"):
                evlib.write_events(recording, copy, format=name, geometry=geometry)
            continue
        assert evlib.write_events(recording, copy, format=name, geometry=geometry) == entry["events"]
        assert digest_of(evlib.read_events(copy, on_problem="raise")) == entry["events_sha256"]
