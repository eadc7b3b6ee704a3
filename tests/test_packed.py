"""Recordings inside gzip, Zstandard and zip."""

from __future__ import annotations

import gzip
import io
import zipfile

import numpy as np
import polars as pl
import pytest
from conftest import problem_counts, rows, zstd
from hypothesis import given
from hypothesis import strategies as st

import evlib
from evlib.codecs import EventsCodec
from evlib.exceptions import FormatError
from evlib.oblog import ObLog

pa = pytest.importorskip("pyarrow")

COUNT = 40_000


def zipped(content: bytes, name: str = "events.txt", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, content)
    return out.getvalue()


PACKINGS = {
    "gzip": (gzip.compress, ".gz"),
    "gzip, two members": (lambda content: gzip.compress(content[:999]) + gzip.compress(content[999:]), ".gz"),
    "Zstandard": (zstd, ".zst"),
    "Zstandard, two frames": (lambda content: zstd(content[:999]) + zstd(content[999:]), ".zst"),
    "zip": (zipped, ".zip"),
    "zip, stored": (lambda content: zipped(content, method=zipfile.ZIP_STORED), ".zip"),
}


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    row = np.arange(COUNT)
    data = {"x": row % 240, "y": row * 7 % 180, "timestamp": row * 13, "polarity": row % 2 * 2 - 1}
    types = {"x": pl.Int16, "y": pl.Int16, "timestamp": pl.Int64, "polarity": pl.Int8}
    return pl.DataFrame(data, schema=types).with_columns(pl.col("timestamp").cast(pl.Duration("us")))


@pytest.fixture(scope="module")
def plain(events, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("plain") / "events.txt"
    evlib.write_events(events, path, geometry=(240, 180))
    return b"240 180\n" + path.read_bytes()


@pytest.mark.parametrize("packing", PACKINGS)
def test_text(packing, events, plain, tmp_path):
    pack, extension = PACKINGS[packing]
    path = tmp_path / f"events.txt{extension}"
    path.write_bytes(pack(plain))
    recording = evlib.open(path, on_problem="raise")
    assert (recording.format, recording.geometry, recording.path) == ("text", (240, 180), path)
    assert recording.reasons[0] == f"unpacked from {packing.partition(',')[0]}"
    assert recording.read().equals(events)
    for engine in ("in-memory", "streaming"):
        lazy = evlib.load_events(path).filter(pl.col("x") < 9)
        assert lazy.collect(engine=engine).equals(events.filter(pl.col("x") < 9))
    assert recording.event_count == COUNT
    recording.save_index()
    again = evlib.open(path)
    assert again.is_indexed
    assert again.read().equals(events)


@pytest.mark.parametrize("packing", PACKINGS)
def test_observation_log(packing, events, tmp_path):
    pack, extension = PACKINGS[packing]
    with ObLog(tmp_path) as oblog:
        write = oblog.get_writer("camera", EventsCodec(geometry=(240, 180)))
        for start in range(0, COUNT, COUNT // 4):
            write(events[start : start + COUNT // 4])
    path = tmp_path / f"camera.mcap{extension}"
    path.write_bytes(pack(write.path.read_bytes()))
    write.path.unlink()
    recording = evlib.open(path, on_problem="raise")
    assert (recording.format, recording.geometry, recording.path) == ("oblog", (240, 180), path)
    assert recording.reasons[0] == f"unpacked from {packing.partition(',')[0]}"
    assert recording.event_count == COUNT
    assert recording.read().equals(events)
    window = pl.col("timestamp").is_between(pl.duration(microseconds=1000), pl.duration(microseconds=2000))
    assert evlib.load_events(path).filter(window).collect().equals(events.filter(window))
    if packing != "zip, stored":
        # Channels are read from files that can be mapped.
        with pytest.raises(FormatError, match=r"(?s)not an MCAP file.*(gzip|zip|Zstandard)"):
            ObLog(path).channels()


def test_other_formats(events, tmp_path):
    for name in ("a.raw", "a.es", "a.aedat4"):
        evlib.write_events(events, tmp_path / name, geometry=(240, 180))
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        assert evlib.open(path).format == evlib.identify(tmp_path / name).format
        assert evlib.read_events(path).equals(events)


def test_the_name_of_what_is_packed_counts(tmp_path):
    few = {"x": [1] * 20, "y": [2] * 20, "timestamp": list(range(0, 200, 10)), "polarity": [1] * 20}
    evlib.write_events(few, tmp_path / "a.bin", format="atis-bin", geometry=(34, 34))
    content = (tmp_path / "a.bin").read_bytes()
    for name, packed in (("a.bin.gz", gzip.compress(content)), ("a.zip", zipped(content, "some/a.bin"))):
        (tmp_path / name).write_bytes(packed)
        assert evlib.open(tmp_path / name).format == "atis-bin"


def test_archives_of_several_files(plain, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/events.txt", plain)
        archive.writestr("__MACOSX/folder/._events.txt", b"noise")
    assert evlib.open(path).event_count == COUNT
    assert evlib.open(path).reasons[:2] == ["unpacked from zip", "`folder/events.txt` of the archive"]
    # As the archives of data sets are.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("folder/images.txt", b"0.1 images/frame_0.png\n")
        archive.writestr("folder/images/frame_0.png", b"\x89PNG")
        archive.writestr("folder/imu.txt", b"0.1 1 2 3 4 5 6\n" * 9)
        archive.writestr("folder/calib.txt", b"1 2 3 4 5 6 7 8 9\n")
    opened = evlib.open(path)
    assert (opened.event_count, opened.geometry, opened.format) == (COUNT, (240, 180), "text")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("folder/Events_right.txt", plain)
    with pytest.raises(evlib.FormatError, match="several files") as caught:
        evlib.open(path)
    for name in ("`folder/events.txt`", "`folder/Events_right.txt`", "`folder/calib.txt`"):
        assert name in caught.value.found
    assert "extract" in str(caught.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recording.txt", plain)
        archive.writestr("readme.txt", b"what this is")
    with pytest.raises(evlib.FormatError, match=r"(?s)several files.*`readme\.txt`.*extract"):
        evlib.open(path)
    # Arrays are another thing.
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("events.txt", plain)
        archive.writestr("pictures.npy", b"no array")
    with pytest.raises(evlib.FormatError) as caught:
        evlib.open(path)
    assert "several files" not in str(caught.value)
    with pytest.raises(evlib.FormatError, match="without arrays"):
        path.write_bytes(zipped(plain))
        evlib.open(path, format="npz")


@pytest.mark.parametrize("packing", PACKINGS)
def test_cut_and_damaged(packing, plain, tmp_path):
    pack, extension = PACKINGS[packing]
    packed = pack(plain[:20_000])
    path = tmp_path / f"events.txt{extension}"
    path.write_bytes(packed)
    events_in_it = evlib.open(path).event_count
    refused = (evlib.FormatError, evlib.exceptions.TruncatedError)
    for end in [*range(4, 40), *range(40, len(packed), len(packed) // 50), len(packed) - 1]:
        path.write_bytes(packed[:end])
        try:
            recording = evlib.open(path)
            # What ends between two members or frames cannot be told from what is whole.
            if recording.read().height < events_in_it:
                assert "TRUNCATED" in problem_counts(recording) or "two" in packing
        except refused as error:
            assert error.path == str(path)
    for at in range(10, len(packed), max(1, len(packed) // 100)):
        damaged = bytearray(packed)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        try:
            evlib.read_events(path)
        except evlib.EvlibError as error:
            assert str(path) in str(error)
    path.write_bytes(packed[: len(packed) // 3])
    if extension == ".zip":
        with pytest.raises(refused):
            evlib.open(path)
    elif packing != "Zstandard":  # whose blocks are longer than what is left here
        assert evlib.read_events(path).height > 0


def test_a_check_sum_that_does_not_fit(plain, tmp_path):
    packed = bytearray(zipped(plain, method=zipfile.ZIP_STORED))
    packed[5000] ^= 1
    (tmp_path / "a.zip").write_bytes(packed)
    with pytest.raises(evlib.FormatError, match="check sum"):
        evlib.read_events(tmp_path / "a.zip")


def test_a_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(b"% evt 2.0\n% end\n")
        for _ in range(1100):
            out.write(bytes(1 << 20))
    assert path.stat().st_size < 400_000
    recording = evlib.open(path)
    with pytest.raises(evlib.FormatError, match="larger than can be meant"):
        recording.read()


@given(content=st.binary(max_size=300), magic=st.sampled_from([b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"]))
def test_noise(content, magic, save):
    path = save(magic + content)
    with pytest.raises(evlib.EvlibError) as caught:
        evlib.open(path)
    assert caught.value.path == str(path)


def test_nothing_is_left_behind(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    path = tmp_path / "events.txt.gz"
    path.write_bytes(gzip.compress(plain))
    recording = evlib.open(path)
    assert not list((tmp_path / "spill").iterdir())
    assert len(rows(recording.read())) == COUNT
