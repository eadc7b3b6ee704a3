"""Layout 14: DDD17 and DDD20 as recorded, cAER packets in rows of variable length."""

from __future__ import annotations

import struct
from datetime import timedelta
from typing import TYPE_CHECKING

import h5py
import numpy as np
import polars as pl
import pytest
from conftest import problem_counts
from test_numpy import frame, make

import evlib
from evlib import exceptions

if TYPE_CHECKING:
    from pathlib import Path

POLARITY, SPECIAL, IMU = 1, 0, 3


def packet(kind: int, events: np.ndarray | bytes, overflow: int = 0, size: int = 8, number: int | None = None):
    """Header and body."""
    body = events if isinstance(events, bytes) else events.tobytes()
    count = len(body) // size if number is None else number
    return struct.pack("<hhiiiiii", kind, 1, size, 4, overflow, count, count, count), body


def polarity(events: dict[str, np.ndarray], rows: slice, valid=None) -> np.ndarray:
    """Polarity events of 8 bytes."""
    x, y, p, t = (events[name][rows].astype("u4") for name in "xypt")
    ok = np.ones(len(x), "u4") if valid is None else valid[rows].astype("u4")
    words = np.empty((len(x), 2), "<u4")
    words[:, 0] = ok | p << 1 | y << 2 | x << 17
    words[:, 1] = t & 0x7FFFFFFF
    return words


def write(path: Path, packets: list[tuple[bytes, bytes]], *, spare: int = 5, chunks=(128, 3), **options) -> Path:
    """Rows as the recorder writes them, with room for more at the end."""
    with h5py.File(path, "w") as file:
        kind = h5py.vlen_dtype(np.uint8)
        rows = len(packets) + spare
        data = file.create_dataset("dvs/data", (rows, 3), dtype=kind, chunks=chunks, maxshape=(None, 3), **options)
        file.create_dataset("dvs/timestamp", data=np.arange(rows))
        for row, (header, body) in enumerate(packets):
            data[row, 0] = np.frombuffer(f"{row}.5".encode(), "u1")
            data[row, 1] = np.frombuffer(header, "u1")
            data[row, 2] = np.frombuffer(body, "u1")
    return path


def recording(events: dict[str, np.ndarray], sizes: list[int], valid=None) -> list[tuple[bytes, bytes]]:
    packets, start = [], 0
    for number, size in enumerate(sizes):
        rows = slice(start, start + size)
        overflow = int(events["t"][start] >> 31) if start < len(events["t"]) else 0
        packets.append(packet(POLARITY, polarity(events, rows, valid), overflow))
        start += size
        if number % 3 == 0:
            packets.append(packet(SPECIAL, bytes(16)))
            packets.append(packet(IMU, bytes(72), size=36))
    assert start >= len(events["t"])
    return packets


@pytest.mark.parametrize(("chunks", "options"), [((128, 3), {}), ((7, 2), {}), ((64, 1), {"compression": "gzip"})])
def test_packets(chunks, options, tmp_path):
    events = make(20_000, width=346, height=260)
    sizes = np.random.default_rng(1).integers(0, 300, 200)
    path = write(tmp_path / "a.hdf5", recording(events, sizes.tolist()), chunks=chunks, **options)
    expected = frame(events)
    opened = evlib.open(path)
    assert opened.streams.row(0)[:2] == ("dvs", "events")
    assert opened.metadata["layout"] == "DDD17"
    assert opened.read().equals(expected)
    assert opened.events.collect(engine="streaming").sort("timestamp", maintain_order=True).equals(expected)
    assert pl.concat(opened.batches(rows=777)).equals(expected)
    assert opened.event_count == len(expected)
    assert opened.time_range == (expected["timestamp"].min(), expected["timestamp"].max())
    assert opened.problems.is_empty()
    assert opened.triggers.collect().is_empty()
    window = (timedelta(milliseconds=100), timedelta(milliseconds=130))
    wanted = expected.filter(pl.col("timestamp") >= window[0], pl.col("timestamp") < window[1])
    assert evlib.read_events(path, time_range=window).equals(wanted)
    assert evlib.read_events(path, columns=["x"]).equals(expected.select("x"))
    assert evlib.read_events(path, time_offset=5).equals(frame(events, 5))
    with pytest.raises(exceptions.ArgumentError, match="microseconds"):
        evlib.open(path, time_unit="ns")


def test_many_units_and_overflows(tmp_path):
    events = make(200_000, width=346, height=260)
    events["t"] = np.sort(np.concatenate([events["t"][:100_000], events["t"][100_000:] + 3 * 2**31]))
    sizes = [5000] * 40
    path = write(tmp_path / "a.hdf5", recording(events, sizes))
    assert evlib.read_events(path).equals(frame(events))
    late = evlib.read_events(path, time_range=(2**31, None))
    assert late.equals(frame(events).filter(pl.col("timestamp") >= timedelta(microseconds=2**31)))


def test_events_that_are_none(tmp_path):
    events = make(1000, width=346, height=260)
    valid = np.arange(1000) % 7 != 0
    path = write(tmp_path / "a.hdf5", recording(events, [100] * 10, valid))
    expected = frame(events).filter(pl.Series(valid))
    opened = evlib.open(path)
    assert opened.read().equals(expected)
    assert opened.problems.is_empty()
    small = evlib.open(path, geometry=(200, 100))
    inside = (pl.col("x") < 200) & (pl.col("y") < 100)
    assert small.read().equals(expected.filter(inside))
    assert problem_counts(small) == {"OUT_OF_BOUNDS": len(expected.filter(~inside))}


def test_damaged_packets(tmp_path):
    events = make(600, width=346, height=260)
    packets = recording(events, [100] * 6)
    at = [row for row, (header, _) in enumerate(packets) if header[0] == POLARITY]
    packets[at[0]] = (packets[at[0]][0][:20], packets[at[0]][1])  # no whole header
    packets[at[1]] = packet(POLARITY, polarity(events, slice(100, 200)), number=150)  # events that are not there
    packets[at[2]] = packet(POLARITY, polarity(events, slice(200, 300)), size=16)  # another kind of event
    late = polarity(events, slice(300, 400))
    late[5:8, 1] = 0xFFFFFFFF
    packets[at[3]] = packet(POLARITY, late)
    path = write(tmp_path / "a.hdf5", packets)
    opened = evlib.open(path)
    kept = np.r_[100:200, 300:305, 308:600]
    assert opened.read().equals(frame({name: values[kept] for name, values in events.items()}))
    assert problem_counts(opened) == {"UNREADABLE": 1 + 50 + 50, "BAD_VALUE": 3}


def test_no_packets(tmp_path):
    opened = evlib.open(write(tmp_path / "a.hdf5", []))
    assert opened.read().is_empty()
    assert opened.event_count == 0
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file.create_dataset("dvs/data", (4, 2), dtype=h5py.vlen_dtype(np.uint8))
    with pytest.raises(evlib.EvlibError, match="shape"):
        evlib.open(tmp_path / "b.hdf5")


@pytest.mark.parametrize("seed", range(4))
def test_mutated_and_cut_files(seed, tmp_path):
    rng = np.random.default_rng(seed)
    events = make(500, width=346, height=260)
    path = write(tmp_path / "a.hdf5", recording(events, [50] * 10))
    data = path.read_bytes()
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 30)):
            changed[rng.integers(0, len(changed))] = rng.integers(0, 256)
        if rng.random() < 0.3:
            del changed[rng.integers(0, len(changed)) :]
        path.write_bytes(changed)
        try:
            opened = evlib.open(path)
            assert opened.read().height == opened.event_count <= len(data)
        except evlib.EvlibError:
            pass


def test_chunks_are_bounded(tmp_path):
    # Nothing but zeros, which compress to nothing: 16 MiB of references in a chunk, and 48 bytes more.
    for rows, fits in ((1 << 20) // 3, True), ((1 << 20) // 3 + 1, False):
        packets = recording(make(100, width=346, height=260), [100])
        path = write(tmp_path / "a.hdf5", packets, chunks=(rows, 3), compression="gzip")
        if fits:
            assert evlib.open(path).event_count == 100
        else:
            with pytest.raises(exceptions.UnsupportedError, match="at most 16777216 bytes"):
                evlib.open(path)
