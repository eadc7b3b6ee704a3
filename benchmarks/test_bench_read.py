"""Timings of small reads, for changes of one machine over time: `pytest benchmarks --benchmark-only`.

Inputs are made here and answers are verified before anything is timed. `compare.py` has the figures that count.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import pytest

import evlib

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("pytest_benchmark")

ROWS = 1_000_000
SECONDS = 1.0
WIDTH, HEIGHT = 1280, 720
FORMATS = ["evt2", "evt21", "evt3", "evt4", "dat"]


class Input(NamedTuple):
    """A recording and the events that it must give."""

    format: str
    path: Path
    events: pl.DataFrame


def make_events() -> pl.DataFrame:
    """Make events as an edge that moves to the right leaves them: rows of neighbours, a few microseconds apart."""
    rng = np.random.default_rng(2)
    time = np.sort(rng.integers(0, int(SECONDS * 1e6), ROWS // 8)).repeat(8)
    edge = time * WIDTH // int(SECONDS * 1e6)
    x = np.minimum(edge + rng.integers(0, 4, ROWS // 8).repeat(8), WIDTH - 8) + np.tile(np.arange(8), ROWS // 8)
    y = rng.integers(0, HEIGHT, ROWS // 8).repeat(8)
    polarity = rng.choice(np.array([-1, 1], np.int8), ROWS // 8).repeat(8)
    columns = {"x": x.astype(np.int16), "y": y.astype(np.int16), "timestamp": time, "polarity": polarity}
    return pl.DataFrame(columns).with_columns(pl.col("timestamp").cast(pl.Duration("us")))


def columns_of(events: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    time = events["timestamp"].to_physical().to_numpy().astype(np.uint64)
    x, y = (events[name].to_numpy().astype(np.uint64) for name in ("x", "y"))
    return time, x, y, (events["polarity"].to_numpy() > 0).astype(np.uint64)


def with_time_words(time: np.ndarray, words: np.ndarray, high: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Put a word of the high time bits before the first event of each 64 us."""
    (first,) = np.nonzero(np.diff(time >> 6, prepend=np.uint64(2**63)))
    return np.insert(words, first, high(time[first] >> 6).astype(words.dtype))


def encode_dat(events: pl.DataFrame) -> bytes:
    """Version 2: a time, and x [13:0], y [27:14], polarity [28]."""
    time, x, y, on = columns_of(events)
    header = f"% Data file containing CD events.\n% Version 2\n% Height {HEIGHT}\n% Width {WIDTH}\n% end\n".encode()
    return header + b"\x0c\x08" + (time | (x | y << 14 | on << 28) << 32).astype("<u8").tobytes()


def encode_evt4(events: pl.DataFrame) -> bytes:
    """One word an event: type [31:28], time [27:22], x [21:11], y [10:0]."""
    time, x, y, on = columns_of(events)
    words = ((0xA + on) << 28 | (time & 63) << 22 | x << 11 | y).astype("<u4")
    words = with_time_words(time, words, lambda high: 0xE << 28 | high)
    return f"% format EVT4;height={HEIGHT};width={WIDTH}\n% end\n".encode() + words.tobytes()


def encode_evt21(events: pl.DataFrame) -> bytes:
    """One word for eight neighbours: type [63:60], time [59:54], x [53:43], y [42:32], mask [31:0]."""
    time, x, y, on = columns_of(events)
    base = x[::8]
    mask = (np.uint64(1) << (x - base.repeat(8))).reshape(-1, 8)
    words = on[::8] << 60 | (time[::8] & 63) << 54 | base << 43 | y[::8] << 32 | np.bitwise_or.reduce(mask, axis=1)
    words = with_time_words(time[::8], words.astype("<u8"), lambda high: 0x8 << 60 | high << 32)
    header = f"% evt 2.1\n% format EVT21;endianness=little;height={HEIGHT};width={WIDTH}\n% end\n"
    return header.encode() + words.tobytes()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Input]:
    """Write and verify recordings of the same events in every format."""
    home = tmp_path_factory.mktemp("bench")
    events = make_events()
    found = {}
    for kind in FORMATS:
        path = home / f"events_{kind}.{'dat' if kind == 'dat' else 'raw'}"
        encode = {"dat": encode_dat, "evt4": encode_evt4, "evt21": encode_evt21}.get(kind)
        if encode is None:
            evlib.write_events(events, path, format=kind, geometry=(WIDTH, HEIGHT))
        else:
            path.write_bytes(encode(events))
        read = evlib.read_events(path)
        assert evlib.identify(path).format == kind
        assert read.equals(events), kind
        found[kind] = Input(kind, path, events)
    return found


def run(benchmark: Any, work: Callable[[], Any], rows: int) -> None:
    benchmark.extra_info["events"] = rows
    benchmark.pedantic(work, rounds=10, warmup_rounds=2)
    benchmark.extra_info["million_events_per_second"] = rows / benchmark.stats.stats.min / 1e6


@pytest.mark.parametrize("kind", FORMATS)
def test_read_events(benchmark: Any, inputs: dict[str, Input], kind: str) -> None:
    path = inputs[kind].path
    run(benchmark, lambda: evlib.read_events(path), ROWS)


@pytest.mark.parametrize("kind", FORMATS)
def test_read_one_column(benchmark: Any, inputs: dict[str, Input], kind: str) -> None:
    one = inputs[kind]
    assert evlib.read_events(one.path, columns=["x"]).equals(one.events.select("x"))
    run(benchmark, lambda: evlib.read_events(one.path, columns=["x"]), ROWS)


@pytest.mark.parametrize("kind", FORMATS)
def test_lazy_len(benchmark: Any, inputs: dict[str, Input], kind: str) -> None:
    query = evlib.load_events(inputs[kind].path).select(pl.len())
    assert query.collect().item() == ROWS
    run(benchmark, query.collect, ROWS)


@pytest.mark.parametrize("kind", FORMATS)
def test_filter_polarity(benchmark: Any, inputs: dict[str, Input], kind: str) -> None:
    one = inputs[kind]
    query = evlib.load_events(one.path).filter(pl.col("polarity") == 1)
    assert query.collect().equals(one.events.filter(pl.col("polarity") == 1))
    run(benchmark, query.collect, ROWS)


@pytest.mark.parametrize("indexed", [False, True], ids=["first", "indexed"])
@pytest.mark.parametrize("kind", FORMATS)
def test_time_window(benchmark: Any, inputs: dict[str, Input], kind: str, indexed: bool) -> None:  # noqa: FBT001
    one = inputs[kind]
    window = (timedelta(milliseconds=500), timedelta(milliseconds=510))
    recording = evlib.open(one.path)
    inside = (pl.col("timestamp") >= window[0]) & (pl.col("timestamp") < window[1])
    rows = recording.event_count and len(recording.read(time_range=window))
    assert recording.read(time_range=window).equals(one.events.filter(inside))
    assert evlib.read_events(one.path, time_range=window).equals(one.events.filter(inside))
    if indexed:
        run(benchmark, lambda: recording.read(time_range=window), rows)
    else:
        run(benchmark, lambda: evlib.read_events(one.path, time_range=window), rows)
