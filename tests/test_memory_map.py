"""Columns that are mapped, not read: `memory_map`."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from conftest import problem_counts
from test_numpy import frame, make, records

import evlib
from evlib import exceptions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are mapped on Linux alone")

AS_GIVEN = {"x": "<i2", "y": "<u2", "t": "<i8", "p": "i1"}


def mapped_bytes(path: Path) -> int:
    """Bytes of a file's mappings in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    ends = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return sum(int(end, 16) - int(start, 16) for start, end in ends)


def columns_folder(folder: Path, events: dict[str, np.ndarray], types: dict[str, str]) -> Path:
    folder.mkdir()
    for name, values in events.items():
        np.save(folder / f"{name}.npy", (values * 2 - 1 if name == "p" else values).astype(types[name]))
    return folder


def anonymous() -> int:
    """Bytes of memory that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_columns_that_are_as_given_are_mapped(tmp_path):
    events = make(100_000)
    folder = columns_folder(tmp_path / "a", events, AS_GIVEN)
    opened = evlib.open(folder, memory_map=True)
    found = opened.read()
    for name, width in {"x": 2, "y": 2, "t": 8, "p": 1}.items():
        assert mapped_bytes(folder / f"{name}.npy") >= 100_000 * width, name
    assert found.equals(frame(events))
    assert opened.problems.is_empty()
    window = opened.read(time_range=(200_000, 300_000))
    assert window.equals(evlib.read_events(folder, time_range=(200_000, 300_000)))
    assert opened.events.filter(pl.col("x") > 300).collect().equals(frame(events).filter(pl.col("x") > 300))
    assert pl.concat(opened.batches(rows=777)).equals(frame(events))
    del found, window
    gc.collect()
    assert sum(mapped_bytes(path) for path in folder.iterdir()) == 0


def test_no_memory_is_taken(tmp_path):
    folder = columns_folder(tmp_path / "a", make(4_000_000), AS_GIVEN)
    opened = evlib.open(folder, memory_map=True)
    assert opened.event_count == 4_000_000
    before = anonymous()
    found = opened.read()
    assert found["timestamp"].len() == 4_000_000
    assert anonymous() - before < 4 << 20


def test_others_are_read(tmp_path):
    events = make(10_000)
    types = {"x": ">i2", "y": "<u4", "t": "<u8", "p": "i1"}
    folder = columns_folder(tmp_path / "a", events, types)
    np.save(folder / "p.npy", events["p"].astype("i1"))  # zeros are darker
    found = evlib.open(folder, memory_map=True).read()
    assert found.equals(frame(events))
    assert [name for name in events if mapped_bytes(folder / f"{name}.npy")] == ["t"]


def test_records_and_deflated_members_are_read(tmp_path):
    events = make(1000)
    np.save(tmp_path / "a.npy", records(events, [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "i1")]))
    np.savez_compressed(tmp_path / "a.npz", **events)
    for name in ("a.npy", "a.npz"):
        assert evlib.open(tmp_path / name, memory_map=True).read().equals(frame(events))
        assert mapped_bytes(tmp_path / name) == 0


def test_rows_that_are_no_events_are_left_out_of_the_memory_alone(tmp_path):
    events = make(70_000)
    events["x"][[5, 60_000]] = [700, -3]
    folder = columns_folder(tmp_path / "a", events, AS_GIVEN)
    stored = (folder / "x.npy").read_bytes()
    keep = np.ones(70_000, bool)
    keep[[5, 60_000]] = False
    opened = evlib.open(folder, memory_map=True, geometry=(640, 480))
    assert opened.read().equals(frame(events).filter(keep))
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 2}
    assert (folder / "x.npy").read_bytes() == stored


def test_contiguous_data_sets_of_hdf5(tmp_path):
    events = make(50_000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, values in {**events, "p": events["p"] * 2 - 1}.items():
            file[f"events/{name}"] = values.astype(AS_GIVEN[name])
    found = evlib.open(tmp_path / "a.h5", memory_map=True).read()
    assert mapped_bytes(tmp_path / "a.h5") >= 13 * 50_000
    assert found.equals(frame(events))


def test_a_file_that_has_shrunk_is_an_error(tmp_path):
    folder = columns_folder(tmp_path / "a", make(100_000), AS_GIVEN)
    opened = evlib.open(folder, memory_map=True)
    os.truncate(folder / "t.npy", 5000)
    with pytest.raises(exceptions.TruncatedError, match="shrank"):
        opened.read()


def test_other_formats_are_not_mapped(tmp_path):
    path = tmp_path / "a.raw"
    evlib.write_events(frame(make(100)), path, geometry=(640, 480))
    with pytest.raises(exceptions.ArgumentError, match="memory_map"):
        evlib.open(path, memory_map=True)
    with pytest.raises(exceptions.ArgumentError, match="True or False"):
        evlib.open(path, memory_map=1)
