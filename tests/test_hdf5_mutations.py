"""HDF5: bytes changed at random in small files of every layout."""

from __future__ import annotations

import json
import os
import random
import resource
import time
from itertools import islice
from typing import TYPE_CHECKING

import h5py
import hdf5plugin
import numpy as np
import polars as pl
import pytest
from test_hdf5 import FILTERS, frame, make, milliseconds
from test_packets import recording
from test_packets import write as write_packets

import evlib
from evlib import exceptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROWS = 200
SECONDS, MEGABYTES = 10, 500
"""What a file of a few kilobytes may cost at most: CPU time, and memory over that at the start."""

Events = dict[str, np.ndarray]


def columns(file: h5py.File, group: str, events: Events, types: dict[str, str], **options) -> None:
    for name, values in events.items():
        file.create_dataset(f"{group}/{name}", data=values.astype(types.get(name, "u2")), **options)


def table(events: Events, order: str, dtype: str) -> np.ndarray:
    return np.stack([events[name].astype(dtype) for name in order], 1)


def dsec(file: h5py.File, events: Events) -> None:
    columns(file, "events", events, {"t": "u4", "p": "u1"}, chunks=(40,), **FILTERS["blosc-zstd-1"])
    file["ms_to_idx"], file["t_offset"] = milliseconds(events["t"]), 10**15


def dsec_det(file: h5py.File, events: Events) -> None:
    columns(file, "events", events, {"t": "u4", "p": "u1"}, chunks=(32,), **FILTERS["blosc-zstd-2"])
    file.create_dataset("ms_to_idx", data=milliseconds(events["t"]), **FILTERS["blosc-zstd-2"])


def vector(file: h5py.File, events: Events) -> None:
    columns(file, "events", events, {"t": "u4", "p": "u1"}, chunks=(60,), **hdf5plugin.Zstd())
    file.create_dataset("ms_to_idx", data=milliseconds(events["t"]), **hdf5plugin.Zstd())
    file["t_offset"] = np.full((1,), 77, "i8")


def m3ed(file: h5py.File, events: Events) -> None:
    for name in ("left", "right"):
        group = f"prophesee/{name}"
        columns(file, group, events, {"t": "i8", "p": "i1"}, chunks=(70,), compression="lzf")
        file[f"{group}/ms_map_idx"] = milliseconds(events["t"])
        file[f"{group}/calib/resolution"] = np.array([1280, 720])


def e2calib(file: h5py.File, events: Events) -> None:
    columns(file, "/", events, {"t": "i8", "p": "u1"}, maxshape=(None,), chunks=(90,), compression="lzf")


def e2vid(file: h5py.File, events: Events) -> None:
    options = {"maxshape": (None,), "chunks": (64,), "compression": "gzip", "shuffle": True}
    for name, values in {**events, "t": events["t"] / 1e6, "p": events["p"] > 0}.items():
        file.create_dataset(f"events/{name}s", data=values, **options)
    file.attrs["sensor_resolution"] = (480, 640)
    file["images/image000000000"] = np.zeros((4, 4), "u1")


def mvsec(file: h5py.File, events: Events) -> None:
    seconds = {**events, "t": events["t"] / 1e6 + 1.6e9, "p": events["p"] * 2 - 1}
    file.create_dataset("davis/left/events", data=table(seconds, "xytp", "f8"), chunks=(70, 1))
    file["davis/left/image_raw"] = np.zeros((2, 26, 34), "u1")


def v2e(file: h5py.File, events: Events) -> None:
    file.create_dataset("events", data=table(events, "txyp", "u4"), chunks=(33, 4), compression="gzip")


def with_sums(file: h5py.File, events: Events) -> None:
    file.create_dataset("event", data=table(events, "txyp", "u4"), chunks=(33, 4), fletcher32=True)


def vid2e(file: h5py.File, events: Events) -> None:
    columns(file, "/", {**events, "p": events["p"] * 2 - 1}, dict.fromkeys("txyp", "i8"))


def rvt(file: h5py.File, events: Events) -> None:
    columns(file, "events", events, {"t": "i8", "p": "i2"}, chunks=(50,), **FILTERS["blosc-lz4-1"])
    file["events/height"], file["events/width"] = 480, 640


def tonic(file: h5py.File, events: Events) -> None:
    records = np.empty(ROWS, [("x", "i2"), ("y", "i2"), ("t", "i8"), ("p", "?")])
    for name, values in events.items():
        records[name] = values
    file.create_dataset("data/0", data=records, compression="lzf")
    file["target/0"] = 3


def ebssa(file: h5py.File, events: Events) -> None:
    for name, values in {"ts": events["t"], "x": events["x"] + 1, "y": events["y"] + 1, "p": events["p"]}.items():
        file[f"sat/TD/{name}"] = values.astype("f8").reshape(1, -1)


def bitshuffle(file: h5py.File, events: Events) -> None:
    columns(file, "events", events, {"t": "i8"}, chunks=(40,), **FILTERS["bitshuffle-lz4"])


def other_filters(file: h5py.File, events: Events) -> None:
    for name, codec in {"t": "bitshuffle-zstd", "x": "lz4", "y": "blosc-blosclz-1", "p": "blosc-zlib-0"}.items():
        file.create_dataset(f"raw_events/{name}", data=events[name], chunks=(64,), **FILTERS[codec])


LAYOUTS = [
    dsec, dsec_det, vector, m3ed, e2calib, e2vid, mvsec, v2e, with_sums, vid2e, rvt, tonic, ebssa, bitshuffle,
    other_filters,
]  # fmt: skip


def written_by_h5py(layout: Callable[[h5py.File, Events], None], libver: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w", libver=libver) as file:
            layout(file, make(ROWS))

    return write


def prophesee(path: Path) -> None:
    """ECF, `CD/indexes` and triggers."""
    events = frame(make(ROWS))
    triggers = events[::20].select(pl.lit(1, pl.UInt8).alias("id"), polarity="polarity", timestamp="timestamp")
    evlib.write_events(events, path, format="hdf5", layout="prophesee", geometry=(640, 480), triggers=triggers)


def ddd17(path: Path) -> None:
    write_packets(path, recording(make(ROWS), [50] * 4))


FILES = {
    **{
        f"{layout.__name__}-{libver}": written_by_h5py(layout, libver)
        for layout in LAYOUTS
        for libver in ("earliest", "latest")
    },
    "prophesee": prophesee,
    "ddd17": ddd17,
}


@pytest.mark.parametrize("name", FILES)
def test_files_as_they_are(name, tmp_path):
    FILES[name](tmp_path / "a.h5")
    opened = evlib.open(tmp_path / "a.h5", stream="left" if name.startswith("m3ed") else None)
    assert opened.event_count == ROWS
    assert opened.problems.is_empty()


def damaged_files(name: str, data: bytes) -> Iterator[bytes]:
    """The same files for the same name, as long as `data` is the same."""
    random_ = random.Random(json.dumps(name))
    while True:
        damaged = bytearray(data)
        for _ in range(random_.choice([1, 1, 2, 5, 20])):
            at = random_.randrange(len(damaged))
            damaged[at] = random_.choice([0, 255, random_.randrange(256), damaged[at] ^ 1 << random_.randrange(8)])
        if random_.random() < 0.05:
            del damaged[random_.randrange(len(damaged)) :]
        yield bytes(damaged)


def read_all(path: Path, name: str) -> None:
    """Use the file in every way: an error, or fewer events and a problem that says so; nothing worse."""
    start = time.process_time()
    try:
        opened = evlib.open(path, stream="left" if name.startswith("m3ed") else None)
        assert len(opened.read()) == opened.event_count
        opened.read(time_range=(100, 3000))
        opened.triggers.collect()
        assert opened.streams.width == 4
    except (evlib.FormatError, exceptions.TruncatedError, exceptions.ArgumentError):
        pass
    assert time.process_time() - start < SECONDS


def most_memory() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", FILES)
def test_mutated_files(name, tmp_path):
    """`EVLIB_MUTATIONS` sets the number of files of each kind; 3,125 of each of the 32 make 100,000 in all."""
    path = tmp_path / "a.h5"
    FILES[name](path)
    memory = most_memory()
    for damaged in islice(damaged_files(name, path.read_bytes()), int(os.environ.get("EVLIB_MUTATIONS", "50"))):
        path.unlink()
        path.write_bytes(damaged)
        read_all(path, name)
    assert most_memory() - memory < MEGABYTES << 20


@pytest.mark.parametrize(("name", "number"), [("v2e-earliest", 1830), ("tonic-earliest", 1300)])
def test_mutations_that_broke_something(name, number, tmp_path):
    """Chunks and records that claimed gigabytes, which were allocated before anything was decoded."""
    path = tmp_path / "a.h5"
    FILES[name](path)
    damaged = next(islice(damaged_files(name, path.read_bytes()), number, None))
    path.unlink()
    path.write_bytes(damaged)
    memory = most_memory()
    read_all(path, name)
    assert most_memory() - memory < MEGABYTES << 20
