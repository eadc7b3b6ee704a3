"""Time ranges of large files without an index: what is bisected, and what must not be."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from words import header

import evlib

EVENTS = 9_000_000
"""Enough for files of over 32 MiB in EVT2."""


def evt2(times: np.ndarray) -> bytes:
    """Words of one event at each time, with a time word before each 16 events."""
    blocks = times[: len(times) // 16 * 16].reshape(-1, 16)
    words = np.empty((len(blocks), 17), "<u4")
    words[:, 0] = 8 << 28 | (blocks[:, 0] >> 6) & 0x0FFF_FFFF
    column = np.arange(blocks.size, dtype=np.uint32).reshape(blocks.shape) % 640
    low = np.minimum(blocks - (blocks[:, :1] >> 6 << 6), 63)
    words[:, 1:] = 1 << 28 | low << 22 | column << 11
    return words.tobytes()


def window(path, start: int, end: int) -> pl.DataFrame:
    """A time window by filtering everything."""
    time = pl.col("timestamp").dt.total_microseconds()
    return evlib.read_events(path).filter(time >= start, time < end)


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """Nine seconds in order."""
    path = tmp_path_factory.mktemp("seek") / "steady.raw"
    path.write_bytes(header("evt2", (640, 480)) + evt2(5_000_000 + np.arange(EVENTS, dtype=np.int64)))
    yield path
    path.unlink()


@pytest.mark.parametrize(
    ("start", "end"),
    [(9_000_000, 9_090_000), (5_000_000, 5_000_100), (0, 5_000_050), (13_999_900, 10**9), (0, 100), (10**9, 10**10)],
)
def test_a_steady_file_is_bisected(steady, start, end):
    recording = evlib.open(steady)
    expected = window(steady, start, end)
    assert_frame_equal(recording.read(time_range=(start, end)), expected)
    assert not recording.is_indexed
    time = pl.col("timestamp")
    lazy = recording.events.filter(time >= pl.duration(microseconds=start), time < pl.duration(microseconds=end))
    assert_frame_equal(lazy.collect(), expected)


def test_a_clock_that_starts_again_is_seen(tmp_path):
    half = EVENTS // 2
    times = np.concatenate([5_000_000 + np.arange(half), 1_000_000 + np.arange(half)]).astype(np.int64)
    path = tmp_path / "joined.raw"
    path.write_bytes(header("evt2", (640, 480)) + evt2(times))
    found = evlib.read_events(path, time_range=(5_100_000, 5_200_000))
    assert found.height == 200_000
    assert_frame_equal(found, window(path, 5_100_000, 5_200_000))


def test_a_wrap_in_a_quiet_night_is_not_missed(tmp_path):
    """A night of 80 minutes fits between two samples of the file, and the 32-bit counter of DAT wraps in it."""
    busy = 2_100_000
    evening = np.arange(busy, dtype=np.int64)
    night = evening[-1] + 300_000 * np.arange(1, 16_001, dtype=np.int64)
    morning = night[-1] + 1 + np.arange(2 * busy, dtype=np.int64)
    times = np.concatenate([evening, night, morning])
    records = np.zeros((len(times), 2), "<u4")
    records[:, 0] = times & 0xFFFF_FFFF
    path = tmp_path / "night.dat"
    path.write_bytes(header("dat", (640, 480)) + records.tobytes())
    assert path.stat().st_size > 32 << 20
    last = int(times[-1])
    found = evlib.read_events(path, time_range=(last - 999_999, last + 1))
    assert found.height == 1_000_000
    assert_frame_equal(found, window(path, last - 999_999, last + 1))


def test_with_an_index_nothing_is_taken_for_granted(tmp_path):
    """A stretch out of order that no sample meets."""
    times = 5_000_000 + np.arange(EVENTS, dtype=np.int64)
    times[4_000_000:4_001_600] -= 2_000_000
    path = tmp_path / "stretch.raw"
    path.write_bytes(header("evt2", (640, 480)) + evt2(times))
    recording = evlib.open(path)
    start, end = 7_000_000, 7_001_600
    assert recording.event_count == EVENTS
    expected = window(path, start, end)
    assert expected.height == 3_200
    assert_frame_equal(recording.read(time_range=(start, end)), expected)
