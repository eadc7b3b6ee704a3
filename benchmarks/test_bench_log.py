"""Timings of the observation log, for changes of one machine over time: `pytest benchmarks --benchmark-only`.

Answers are verified before anything is timed. `log_figures.py` and `numpy_codec.py` have the figures that count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

import evlib
from evlib.codecs import ArrowCodec, EventsCodec, NumpyArrayCodec
from evlib.oblog import ObLog

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("pytest_benchmark")

SIZES = {"1 KB": 1_000, "1 MB": 1_000_000, "10 MB": 10_000_000}
ROWS = 100_000


def events() -> pl.DataFrame:
    at = np.arange(ROWS)
    columns = {"x": at % 640, "y": at % 480, "timestamp": at, "polarity": 1 - at % 2 * 2}
    return pl.DataFrame(columns).cast(
        {"x": pl.Int16, "y": pl.Int16, "timestamp": pl.Duration("us"), "polarity": pl.Int8}
    )


@pytest.mark.parametrize("name", SIZES)
def test_log_decode_array(benchmark: Any, name: str) -> None:
    item, codec = np.random.default_rng(1).random(SIZES[name] // 8), NumpyArrayCodec()
    payload = codec.encode(item)
    assert np.array_equal(codec.decode(payload), item)
    benchmark(codec.decode, payload)


@pytest.mark.parametrize("verify", ["head", "first", "all"])
def test_log_open_and_read(benchmark: Any, tmp_path: Path, verify: Any) -> None:
    items = [np.full(125_000, number) for number in range(10)]
    with ObLog(tmp_path) as oblog:
        write = oblog.get_writer("arrays", NumpyArrayCodec())
        for item in items:
            write(item)

    def read() -> list[Any]:
        return [item for _, item in ObLog(tmp_path).channel("arrays", verify=verify)]

    assert all(map(np.array_equal, read(), items))
    benchmark(read)


@pytest.mark.parametrize("name", ["1 KB", "1 MB"])
def test_log_write_array(benchmark: Any, tmp_path: Path, name: str) -> None:
    item = np.random.default_rng(1).random(SIZES[name] // 8)
    calls = 5000 if name == "1 KB" else 20
    with ObLog(tmp_path) as oblog:
        write = oblog.get_writer("arrays", NumpyArrayCodec())

        def burst() -> None:
            for _ in range(calls):
                write(item)

        benchmark.extra_info["calls"] = calls
        # What waits for the disk is not part of a burst.
        benchmark.pedantic(burst, setup=oblog.flush, rounds=10, warmup_rounds=1)
    channel = ObLog(tmp_path).channel("arrays")
    assert len(channel) == 11 * calls
    assert np.array_equal(channel[-1][1], item)


@pytest.mark.parametrize("codec", [EventsCodec(), ArrowCodec()], ids=["events", "arrow"])
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_log_codec_of_events(benchmark: Any, tmp_path: Path, codec: Any, way: str) -> None:
    frame = events()
    with ObLog(tmp_path) as oblog:
        oblog.get_writer("events", codec)(frame)
    payload = ObLog(tmp_path).channel("events").record(0).payload
    assert codec.decode(payload).equals(frame)
    benchmark(codec.encode, frame) if way == "encode" else benchmark(codec.decode, payload)


def test_log_load_events(benchmark: Any, tmp_path: Path) -> None:
    with ObLog(tmp_path) as oblog:
        oblog.get_writer("events", EventsCodec(geometry=(640, 480)))(events())
    path = ObLog(tmp_path).channel("events").files[0].path
    assert evlib.load_events(path).collect().equals(events())
    benchmark(evlib.load_events, path)
