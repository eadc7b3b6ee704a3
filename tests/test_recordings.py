"""Real recordings: exactly the events of the manifest, through every path."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest
from conftest import recording_names

import evlib

COLUMNS = {"t": "timestamp", "x": "x", "y": "y", "p": "polarity"}
FORMATS = {
    "evt2", "evt21", "evt3", "evt4", "dat", "aedat2", "aedat4", "es", "atis-bin", "rosbag1", "rosbag2-sqlite", "mcap",
}  # fmt: skip
NAMES_HERE = {"rosbag1": "bag", "rosbag2-sqlite": "db3"}
"""Formats that have another name in the manifest."""


NAMES = recording_names(FORMATS)


@pytest.fixture(params=NAMES, scope="module")
def name(request):
    return request.param


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


def test_every_recording_is_here(manifest):
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
    # Nothing in an ATIS file names it, or says how large the sensor is.
    assert recording.confidence == ("guess" if recording.format == "atis-bin" else "certain")
    assert recording.event_count == entry["events"]
    if entry["width"] is not None and recording.format != "atis-bin":
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


# What a format holds: the end of time, the largest sensor, and whether events may be in any order.
HELD = {
    "evt2": (2**55, 2048, False),
    "evt3": (2**46, 2048, False),
    "es": (2**35, 2**15, False),
    "aedat4": (2**63, 2**15, False),
    "text": (2**63, 2**15, True),
    "atis-bin": (2**23, 240, True),
}


@pytest.mark.parametrize("name_of_copy", HELD)
def test_written_and_read(path, entry, expected, name_of_copy, tmp_path):
    end, largest, any_order = HELD[name_of_copy]
    recording = evlib.open(path)
    geometry = recording.geometry or (min(2048, largest), min(2048, largest))
    copy = tmp_path / "copy"
    fits = (expected["t"] >= 0).all() and (expected["t"] < end).all() and max(geometry) <= largest
    if not fits or not (any_order or (np.diff(expected["t"]) >= 0).all()):
        message = r"expected (times in order|a time before|at most)"
        with pytest.raises(ValueError, match=message):
            evlib.write_events(recording, copy, format=name_of_copy, geometry=geometry)
        assert not list(tmp_path.iterdir())
        return
    assert evlib.write_events(recording, copy, format=name_of_copy, geometry=geometry) == entry["events"]
    options = {"text_columns": "t x y p", "time_unit": "s"} if name_of_copy == "text" else {}
    assert (
        digest_of(evlib.read_events(copy, format=name_of_copy, on_problem="raise", **options)) == entry["events_sha256"]
    )
