"""Files compressed as a whole, with gzip or Zstandard: the same as their content."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zlib

import numpy as np
import polars as pl
import pytest
from conftest import zstd
from polars.testing import assert_frame_equal

import evlib
from evlib import exceptions

GEOMETRY = (640, 480)
CONTENTS = ["a.raw", "a.dat", "a.es", "a.txt", "a.csv", "a.aedat4", "a.h5", "a.npy"]


COMPRESS = {"gz": lambda data: gzip.compress(data, 1), "zst": zstd}


@pytest.fixture(scope="module")
def events():
    return evlib.simulate(150_000, geometry=GEOMETRY, seed=4)


@pytest.fixture(params=COMPRESS)
def suffix(request):
    return request.param


def parts(data: bytes, count: int) -> list[bytes]:
    step = -(-len(data) // count)
    return [data[at : at + step] for at in range(0, len(data), step)]


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", CONTENTS)
def test_content_is_read(name, suffix, members, events, tmp_path):
    plain = tmp_path / name
    evlib.write_events(events, plain, geometry=GEOMETRY)
    path = tmp_path / f"{name}.{suffix}"
    path.write_bytes(b"".join(map(COMPRESS[suffix], parts(plain.read_bytes(), members))))
    expected, opened = evlib.open(plain), evlib.open(path, on_problem="raise")
    assert (opened.format, opened.geometry) == (expected.format, expected.geometry)
    assert opened.reasons[0] == "unpacked from " + {"gz": "gzip", "zst": "Zstandard"}[suffix]
    frame = expected.read()
    assert_frame_equal(opened.read(), frame)
    assert_frame_equal(pl.concat(opened.batches(rows=40_000)), frame)
    middle = frame["timestamp"][70_000]
    late = evlib.load_events(path).filter(pl.col("timestamp") > middle)
    assert_frame_equal(late.collect(), frame.filter(pl.col("timestamp") > middle))
    assert opened.time_range == expected.time_range


def test_the_name_inside_decides_where_content_fits_alike(suffix, tmp_path):
    small = evlib.simulate(5_000, geometry=(100, 100), seed=1)
    evlib.write_events(small, tmp_path / "a.bin", format="atis-bin", geometry=(100, 100))
    path = tmp_path / f"a.bin.{suffix}"
    path.write_bytes(COMPRESS[suffix]((tmp_path / "a.bin").read_bytes()))
    assert evlib.identify(path).format == "atis-bin"
    assert_frame_equal(evlib.read_events(path), small)


def test_compressed_content_is_known_by_its_first_bytes(suffix, events, tmp_path):
    plain, path = tmp_path / "a.raw", tmp_path / "b.raw"
    evlib.write_events(events, plain, geometry=GEOMETRY)
    path.write_bytes(COMPRESS[suffix](plain.read_bytes()))
    assert_frame_equal(evlib.read_events(path), evlib.read_events(plain))


def test_a_plain_file_that_starts_like_a_compressed_one(tmp_path):
    """Two bytes of gzip and its method are also pixels of a file without a header."""
    records = np.zeros((400, 5), "u1")
    time = np.arange(400) * 50
    records[:, 0], records[:, 1] = np.arange(400) % 50, np.arange(400) % 40
    records[:, 2], records[:, 3], records[:, 4] = time >> 16, time >> 8 & 255, time & 255
    records[0] = [0x1F, 0x8B, 8, 0, 0]
    path = tmp_path / "a.bin"
    path.write_bytes(records.tobytes())
    opened = evlib.open(path, format="atis-bin")
    assert (opened.event_count, "compression" in opened.metadata) == (400, False)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.9999])
def test_a_cut_file_gives_what_stands_before(suffix, cut, events, tmp_path):
    plain, path = tmp_path / "a.raw", tmp_path / f"a.raw.{suffix}"
    evlib.write_events(events, plain, format="evt2", geometry=GEOMETRY)
    whole = b"".join(map(COMPRESS[suffix], parts(plain.read_bytes(), 50)))
    path.write_bytes(whole[: int(cut * len(whole))])
    opened = evlib.open(path)
    found = opened.read()
    assert 0.9 * cut < found.height / events.height < cut + 0.05
    assert_frame_equal(found, evlib.read_events(plain).head(found.height))
    row = opened.problems.filter(code="TRUNCATED").row(0, named=True)
    assert row["severity"] == "loss"
    assert any("stream ends unfinished at byte" in example for example in row["examples"])
    with pytest.raises(exceptions.ProblemError):
        evlib.open(path, on_problem="raise")


def test_damage_in_the_middle(suffix, events, tmp_path):
    plain, path = tmp_path / "a.raw", tmp_path / f"a.raw.{suffix}"
    evlib.write_events(events, plain, format="evt2", geometry=GEOMETRY)
    members = list(map(COMPRESS[suffix], parts(plain.read_bytes(), 20)))
    members[10] = members[10][:4] + b"\xff\x55" * 200 + members[10][404:]
    path.write_bytes(b"".join(members))
    opened = evlib.open(path)
    found = opened.read()
    assert 0.4 < found.height / events.height < 0.6
    assert_frame_equal(found, evlib.read_events(plain).head(found.height))
    examples = opened.problems.filter(code="TRUNCATED")["examples"][0]
    assert any("stream is damaged near byte" in example for example in examples)


def test_nothing_at_all(suffix, tmp_path):
    path = tmp_path / f"a.raw.{suffix}"
    path.write_bytes(COMPRESS[suffix](b"x" * 1000)[:10])
    with pytest.raises(exceptions.FormatError, match=r"ends unfinished|damaged") as caught:
        evlib.open(path)
    assert caught.value.path == str(path)


def test_memory_is_bounded_and_no_file_is_left(suffix, tmp_path):
    """Content of 100 MB, and the temporary folder is empty afterwards."""
    words = np.random.default_rng(1).integers(0, 2**16, 25_000_000, dtype="u4") & 0x0FFF
    words |= (np.arange(words.size, dtype="u4") // 2000 % 64) << 22
    words[::2000] = 0x8000_0000 | np.arange(words[::2000].size) // 64
    header = b"% evt 2.0\n% format EVT2;height=2048;width=2048\n% end\n"
    path, folder = tmp_path / f"big.raw.{suffix}", tmp_path / "temporary"
    folder.mkdir()
    compress = (lambda data: gzip.compress(data, 1)) if suffix == "gz" else zstd
    path.write_bytes(compress(header + words.tobytes()))
    code = """
import resource, sys, evlib
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(batch.height for batch in evlib.open(sys.argv[1]).batches())
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    total, kilobytes = map(int, run.stdout.split())
    assert total == words.size - words[::2000].size
    assert kilobytes < 120_000
    assert list(folder.iterdir()) == []


def test_a_full_disk_or_missing_folder_is_an_error(events, tmp_path):
    plain, path = tmp_path / "a.raw", tmp_path / "a.raw.gz"
    evlib.write_events(events, plain, geometry=GEOMETRY)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    code = "import sys, evlib\ntry:\n    evlib.open(sys.argv[1])\nexcept evlib.EvlibError as error:\n    print(error)"
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "none")},
    )
    assert str(tmp_path / "none") in run.stdout


def test_a_deflate_stream_without_gzip_is_none(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(zlib.compress(b"x" * 1000))
    with pytest.raises(exceptions.FormatError):
        evlib.open(path)
