"""Events outside the geometry are dropped and counted, and say nothing about the rest of the stream."""

from __future__ import annotations

import numpy as np
import oracle
import polars as pl
import pytest
from conftest import problem_counts, rows
from words import cd2, cd4, cd_dat, header, pack, recording, time_word, vector4, vector21

import evlib

SENSOR = (640, 480)
REAL = [
    "faery_evt2.raw",
    "prophesee_fpga_evt21_tc001.derived.raw",
    "prophesee_fpga_evt21_tc001.derived_legacy.raw",
    "expelliarmus_evt3.raw",
    "tonic_sample_ncars.dat",
]


def inside(frame: pl.DataFrame, geometry: tuple[int, int]) -> pl.DataFrame:
    return frame.filter((pl.col("x") < geometry[0]) & (pl.col("y") < geometry[1]))


def check_geometry(path, geometry: tuple[int, int]) -> None:
    """Only the events outside `geometry` are lost, whatever else there is."""
    full, small = evlib.open(path, geometry=(2048, 2048)), evlib.open(path, geometry=geometry)
    expected = inside(full.read(), geometry)
    found = small.read()
    assert found.equals(expected)
    before, after = problem_counts(full), problem_counts(small)
    outside = full.event_count + before.pop("OUT_OF_BOUNDS", 0) - expected.height
    assert after.pop("OUT_OF_BOUNDS", 0) == outside
    assert after == before
    for batch_rows in (7, None):
        assert evlib.load_events(path, geometry=geometry, batch_rows=batch_rows, threads=2).collect().equals(expected)


@pytest.mark.parametrize("geometry", [(640, 480), (320, 240), (200, 150), (50, 50), (1, 1)])
@pytest.mark.parametrize("name", REAL)
def test_a_smaller_geometry_is_a_filter(name, geometry, shared):
    check_geometry(shared / "recordings" / name, geometry)


@pytest.mark.parametrize("change", ["garbage 333", "garbage 4096", "garbage 100001", "cut 1", "cut 3", "cut 1001"])
@pytest.mark.parametrize("name", [name for name in REAL if name.endswith(".raw")])
def test_a_smaller_geometry_is_a_filter_of_a_damaged_recording(name, change, shared, save):
    data = (shared / "recordings" / name).read_bytes()
    at, size = len(data) // 2, int(change.split()[1])
    if change.startswith("garbage"):
        data = data[:at] + np.random.default_rng(size).bytes(size) + data[at:]
    else:
        data = data[:at] + data[at + size :]
    path = save(data)
    for geometry in ((640, 480), (100, 100)):
        check_geometry(path, geometry)


def sparse_stream(kind: str, *, step_us: int, strays: float, em: float = 0, slaves: float = 0, seed: int = 1) -> bytes:
    """Payload of single events up to `step_us` apart, a part of them beside the sensor.

    EVT3: a part of the rows is followed by a row of exposure measurement, or is of a second camera; pauses are bridged
    by time words in steps of less than half the counter's range.
    """
    rng = np.random.default_rng(seed)
    out: list[int] = []
    t, high = 5_000, None
    shift = 12 if kind == "evt3" else 6
    for _ in range(3_000):
        t += int(rng.integers(0, step_us))
        x, y, on = int(rng.integers(0, SENSOR[0])), int(rng.integers(0, SENSOR[1])), int(rng.integers(0, 2))
        if rng.random() < strays:
            x += SENSOR[0]
        if kind != "dat" and high != t >> shift:
            while kind == "evt3" and high is not None and (t >> shift) - high > 1024:
                high += 1000
                out.append(time_word(kind, high))
            high = t >> shift
            out.append(time_word(kind, high))
        low = t & 63
        match kind:
            case "evt2":
                out.append(cd2(x, y, low, on))
            case "evt21":
                out.append(vector21(x, y, low, on, 1))
            case "evt4":
                out += [cd4(x, y, low, on)] if on else [vector4(x, y, low, on), 1]
            case "dat":
                out.append(cd_dat(t, x, y, on))
            case "evt3":
                out.append(0x6 << 12 | t & 0xFFF)
                if rng.random() < em:
                    out += [0x1 << 12 | y, 0x2 << 12 | 5, 0x2 << 12 | 9]
                out += [y | (0x800 if rng.random() < slaves else 0), 0x2 << 12 | on << 11 | x]
    return pack(kind, out)


def check_healthy(kind: str, payload: bytes, save, geometry: tuple[int, int] = SENSOR) -> None:
    truth = oracle.DECODERS[kind](payload, geometry)
    opened = evlib.open(save(recording(kind, payload, SENSOR)), geometry=geometry)
    assert rows(opened.read()) == truth.events
    assert problem_counts(opened) == truth.counts()


@pytest.mark.parametrize("strays", [0, 0.001, 0.02, 0.3, 1])
@pytest.mark.parametrize("step_us", [100, 10_000, 400_000, 2_000_000, 20_000_000])
@pytest.mark.parametrize("kind", ["evt2", "evt21", "evt3", "evt4", "dat"])
def test_strays_in_a_sparse_stream(kind, step_us, strays, save):
    if kind == "dat":
        step_us = min(step_us, 2_000_000)  # its time wraps after 71 minutes: a longer one cannot go back to 0
    check_healthy(kind, sparse_stream(kind, step_us=step_us, strays=strays), save)


@pytest.mark.parametrize("geometry", [(320, 240), (64, 48)])
@pytest.mark.parametrize("step_us", [100, 400_000, 2_000_000])
@pytest.mark.parametrize("kind", ["evt2", "evt21", "evt3", "evt4", "dat"])
def test_sparse_streams_with_a_smaller_geometry(kind, step_us, geometry, save):
    check_healthy(kind, sparse_stream(kind, step_us=step_us, strays=0.01), save, geometry)


@pytest.mark.parametrize("part", [0.1, 0.5, 1])
@pytest.mark.parametrize("step_us", [100, 2_000_000])
def test_exposure_rows_and_rows_of_a_second_camera(step_us, part, save):
    check_healthy("evt3", sparse_stream("evt3", step_us=step_us, strays=0, em=part), save)
    check_healthy("evt3", sparse_stream("evt3", step_us=step_us, strays=0, slaves=part), save)


@pytest.mark.parametrize("kind", ["evt21", "evt4"])
def test_many_words_outside_between_two_time_words(kind, save):
    rng = np.random.default_rng(3)
    out = []
    for high in range(100, 130):
        out.append(time_word(kind, high))
        for low in sorted(rng.integers(0, 64, 300).tolist()):
            x, y = int(rng.integers(0, 1280)), int(rng.integers(0, 720))
            out.append(vector21(x, y, low, 1, 5) if kind == "evt21" else cd4(x, y, low, 1))
    for geometry in (SENSOR, (100, 100)):
        check_healthy(kind, pack(kind, out), save, geometry)


def test_a_pause_between_words_outside(save):
    """Many of them on both sides of a pause of seconds and of a clock that starts again."""
    words = []
    for start, stray, event in ((1_000, (700, 5), 1), (2_000_000, (5, 700), 3), (7, (2_047, 700), 5)):
        for high in range(start, start + 6):
            words += [time_word("evt2", high), *[cd2(*stray, 3, 1)] * 500]
        words.append(cd2(event, 2, 3, 1))
    opened = evlib.open(save(header("evt2", SENSOR) + pack("evt2", words)))
    assert rows(opened.read()) == [(1, 2, 64_323, 1), (3, 2, 128_000_323, 1), (5, 2, 771, 1)]
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 9_000}
