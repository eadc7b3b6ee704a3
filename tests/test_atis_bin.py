"""ATIS `.bin` of N-MNIST and N-Caltech101."""

from __future__ import annotations

import random

import polars as pl
import pytest
from conftest import problem_counts, rows
from hypothesis import given
from hypothesis import strategies as st
from streams import atis, atis_record
from test_recordings import digest_of

import evlib


def make(count: int, seed: int = 0) -> bytes:
    numbers = random.Random(seed)
    t = 0
    out = bytearray()
    for _ in range(count):
        t = (t + numbers.randrange(60)) % 2**23
        out += atis_record(numbers.randrange(34), numbers.randrange(34), t, numbers.choice([1, -1]))
    return bytes(out)


@pytest.fixture
def recording(shared):
    return shared / "recordings" / "tonic_sample_nmnist.bin"


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_the_recording_in_every_way(recording, manifest, threads):
    entry = manifest["tonic_sample_nmnist.bin"]
    opened = evlib.open(recording, threads=threads, on_problem="raise")
    assert (opened.format, opened.confidence, opened.geometry) == ("atis-bin", "guess", None)
    assert opened.event_count == entry["events"]
    assert evlib.open(recording, format="atis-bin").confidence == "certain"
    for frame in (
        evlib.read_events(recording, threads=threads),
        evlib.load_events(recording, threads=threads, batch_rows=100).collect(),
        pl.concat(list(opened.batches(rows=101))),
        evlib.read_events(recording, threads=threads, geometry=(34, 34), on_problem="raise"),
    ):
        assert digest_of(frame) == entry["events_sha256"]


def test_the_sheets_vector(save):
    path = save(bytes.fromhex("0A14812345 2100000064"), ".bin")
    assert rows(evlib.read_events(path, format="atis-bin")) == [(10, 20, 74_565, 1), (33, 0, 100, -1)]


def test_overflows(save):
    data = atis_record(1, 2, 5, -1) + bytes([49, 240, 0, 0, 9]) + atis_record(1, 2, 6, 1) + bytes([0, 240, 0, 0, 0])
    opened = evlib.open(save(data + atis_record(3, 239, 2**23 - 1, 1)), format="atis-bin")
    assert rows(opened.read()) == [(1, 2, 5, -1), (1, 2, 8198, 1), (3, 239, 2**23 - 1 + 16384, 1)]
    assert opened.problems.is_empty()
    assert opened.time_range[1].total_seconds() == (2**23 - 1 + 16384) / 1e6


def test_cut_at_every_byte(save):
    data = make(5) + bytes([0, 240, 0, 0, 0]) + make(3, 1)
    for end in range(len(data) + 1):
        opened = evlib.open(save(data[:end], ".bin"), format="atis-bin")
        expected, problems = atis(data[:end])
        assert rows(opened.read()) == expected
        assert problem_counts(opened) == problems


@given(data=st.binary(max_size=300), width=st.integers(1, 300), height=st.integers(1, 300))
def test_any_bytes(data, width, height, save):
    opened = evlib.open(save(data, ".bin"), format="atis-bin", geometry=(width, height))
    expected, problems = atis(data, width, min(height, 240))
    assert rows(opened.read()) == expected
    assert rows(evlib.load_events(opened.path, format="atis-bin", geometry=(width, height)).collect()) == expected
    assert problem_counts(opened) == problems


def test_large_file_with_time_range(save):
    numbers = random.Random(3)
    data = bytearray(make(300_000, 2))
    for _ in range(30):
        data[numbers.randrange(len(data) // 5) * 5 + 1] = 240
    expected, problems = atis(bytes(data))
    opened = evlib.open(save(bytes(data), ".bin"))
    assert problem_counts(opened) == problems
    assert rows(opened.read()) == expected
    window = (3_000_000, 3_100_000)
    assert rows(opened.read(time_range=window)) == [row for row in expected if window[0] <= row[2] < window[1]]


def test_identification(save):
    data = make(200)
    assert evlib.identify(save(data, ".bin")).format == "atis-bin"
    assert evlib.identify(save(data, ".BIN")).format == "atis-bin"
    reasons = evlib.identify(save(data + b"\0", ".bin")).reasons
    assert "but 1001 bytes are not whole records" in reasons
    with pytest.raises(evlib.FormatError, match="damaged Parquet file"):
        evlib.identify(save(b"PAR1" + data, ".bin"))
    for content, suffix in (
        (data, ".raw"),
        (data, ""),
        (make(3), ".bin"),
        (b"", ".bin"),
        (bytes(1000), ".bin"),
        (random.Random(0).randbytes(1000), ".bin"),
        (b"hello world, hello\n" * 20, ".bin"),
    ):
        with pytest.raises(evlib.FormatError, match="not a recording"):
            evlib.open(save(content, suffix))
    assert rows(evlib.read_events(save(data, ".raw"), format="atis-bin")) == atis(data)[0]


TIMES = st.integers(0, 2**23 - 1)
EVENTS = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 239), TIMES, st.sampled_from([1, -1])))


@given(events=EVENTS)
def test_written_and_read(events, tmp_path):
    path = tmp_path / "written.bin"
    columns = dict(zip(("x", "y", "timestamp", "polarity"), zip(*events, strict=True), strict=True)) if events else None
    data = pl.DataFrame(columns or {name: [] for name in ("x", "y", "timestamp", "polarity")}).cast(pl.Int64)
    assert evlib.write_events(data, path, format="atis-bin", geometry=(256, 240), overwrite=True) == len(events)
    assert path.read_bytes() == b"".join(atis_record(*event) for event in events)
    assert rows(evlib.read_events(path, format="atis-bin", on_problem="raise")) == events


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, 0, -1, 1), "row 1: expected a time of at least 0 us"),
        ((0, 0, 2**23, 1), "row 1: expected a time before 8388608 us"),
        ((34, 0, 9, 1), "row 1: expected a pixel of 34x34"),
    ],
)
def test_what_cannot_be_written(row, message, tmp_path):
    names = ("x", "y", "timestamp", "polarity")
    data = {name: [first, value] for name, first, value in zip(names, (1, 1, 5, 1), row, strict=True)}
    with pytest.raises(evlib.exceptions.ArgumentError, match=message):
        evlib.write_events(data, tmp_path / "no.bin", format="atis-bin", geometry=(34, 34))
    with pytest.raises(evlib.exceptions.ArgumentError, match="geometry: expected at most 256x240"):
        evlib.write_events(data, tmp_path / "no.bin", format="atis-bin", geometry=(257, 240))
    assert not list(tmp_path.iterdir())
