"""`Recording`, identification, the saved index, and writing."""

from __future__ import annotations

import math
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import oracle
import polars as pl
import pytest
from conftest import problem_counts, rows
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from words import KINDS, RAW_KINDS, WORD_BYTES, cd2, header, library_format, pack, recording, sensor_stream, time_word

import evlib
from evlib import exceptions

COLUMNS = ["x", "y", "timestamp", "polarity"]


def us(number: int) -> timedelta:
    return timedelta(microseconds=number)


def evt2_at(times, save, *, trigger: bool = False) -> Path:
    """An EVT2 recording with one event at each time."""
    words = []
    for t in times:
        words += [time_word("evt2", t >> 6), cd2(t % 640, 7, t & 63, t & 1)]
        if trigger:
            words.append(0xA << 28 | (t & 63) << 22 | 3 << 8 | 1)
    return save(recording("evt2", pack("evt2", words)))


# --- what a recording tells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_facts(kind, save):
    payload = sensor_stream(kind, 500)
    opened = evlib.open(save(recording(kind, payload)))
    truth = oracle.DECODERS[kind](payload, (640, 480))
    assert opened.format == library_format(kind)
    assert opened.confidence == "certain"
    assert opened.reasons
    assert opened.geometry == (640, 480)
    assert not opened.is_indexed
    assert opened.event_count == len(truth.events)
    assert opened.trigger_count == len(truth.triggers)
    assert opened.is_indexed
    assert rows(opened.triggers.collect()) == truth.triggers
    assert problem_counts(opened) == truth.counts()
    times = [t for _, _, t, _ in truth.events]
    assert opened.time_range == ((us(min(times)), us(max(times))) if times else None)


def test_metadata_keeps_unknown_keys_and_their_order(save):
    head = b"% zebra 1\n% evt 2.0\n% note  two   words\r\n% empty\n% geometry 4x5\n% zebra 2\n% end\n"
    opened = evlib.open(save(head))
    assert opened.metadata == {"zebra": "2", "evt": "2.0", "note": "two words", "empty": "", "geometry": "4x5"}
    assert list(opened.metadata) == ["zebra", "evt", "note", "empty", "geometry"]


def test_repr_before_and_after_the_index(save):
    path = evt2_at([100, 200, 1_000_200], save, trigger=True)
    opened = evlib.open(path)
    assert repr(opened) == f"<evlib.Recording '{path}': format=evt2 (certain), geometry=640 x 480>"
    assert not opened.is_indexed, "a repr must not read the file"
    _ = opened.event_count
    text = repr(opened)
    for part in ("events=3", "triggers=3", "time=0.000100 s to 1.000200 s", "problems=none"):
        assert part in text


def test_html_repr_is_escaped(save):
    path = save(recording("evt2", b"\x01"), suffix="<b>&.raw")
    html = evlib.open(path)._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;" in html
    assert html.count("<tr>") == 2
    opened = evlib.open(path)
    _ = opened.problems
    assert "TRUNCATED 1" in opened._repr_html_()


def test_triggers_are_a_lazy_frame(save):
    opened = evlib.open(evt2_at(range(0, 6400, 64), save, trigger=True))
    triggers = opened.triggers
    assert isinstance(triggers, pl.LazyFrame)
    schema = {"id": pl.UInt8(), "polarity": pl.Int8(), "timestamp": pl.Duration("us")}
    assert dict(triggers.collect_schema()) == schema
    whole = triggers.collect()
    assert dict(whole.schema) == schema
    assert whole.height == 100
    for engine in ("in-memory", "streaming"):
        late = triggers.filter(pl.col("timestamp") >= us(3200)).select("timestamp").head(3).collect(engine=engine)
        assert late["timestamp"].to_list() == [us(3200), us(3264), us(3328)]
        assert triggers.head(2).collect(engine=engine).height == 2
        assert triggers.select(pl.len()).collect(engine=engine).item() == 100


def test_no_events_no_time_range(save):
    opened = evlib.open(save(recording("evt2", pack("evt2", [time_word("evt2", 5)]))))
    assert opened.time_range is None
    assert opened.event_count == 0
    assert list(opened.batches()) == []
    assert list(opened.batches(duration=10)) == []


def test_problem_table(save):
    words = [cd2(1, 1, 0, 1), cd2(2, 1, 0, 1), time_word("evt2", 5), *[cd2(700, 1, 0, 1)] * 5, cd2(1, 1, 0, 1)]
    opened = evlib.open(save(recording("evt2", pack("evt2", words) + b"\x00\x00")))
    start = len(header("evt2"))
    table = opened.problems
    assert dict(table.schema) == {
        "code": pl.String(),
        "severity": pl.String(),
        "count": pl.UInt64(),
        "unit": pl.String(),
        "bytes": pl.UInt64(),
        "first_offset": pl.UInt64(),
        "examples": pl.List(pl.String()),
    }
    found = {row["code"]: row for row in table.to_dicts()}
    assert {code: (row["count"], row["unit"], row["first_offset"]) for code, row in found.items()} == {
        "BEFORE_FIRST_TIME": (2, "events", start),
        "OUT_OF_BOUNDS": (5, "events", start + 12),
        "TRUNCATED": (1, "tails", start + 4 * len(words)),
    }
    assert len(found["OUT_OF_BOUNDS"]["examples"]) == 3
    assert "640x480" in found["OUT_OF_BOUNDS"]["examples"][0]


def test_geometry_of_the_caller_wins(save):
    path = save(recording("evt2", pack("evt2", [time_word("evt2", 5), cd2(700, 1, 0, 1), cd2(70, 1, 0, 1)])))
    assert rows(evlib.read_events(path)) == [(70, 1, 320, 1)]
    assert len(rows(evlib.read_events(path, geometry=(1280, 720)))) == 2
    opened = evlib.open(path, geometry=(64, 64))
    assert opened.geometry == (64, 64)
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 2}


# --- batches -------------------------------------------------------------------------------------------------------


def test_batches_of_duration_with_empty_windows(save):
    opened = evlib.open(evt2_at([1_000, 1_005, 1_009, 1_010, 1_041, 1_042], save))
    for duration in (10, us(10)):
        batches = list(opened.batches(duration=duration))
        times = [[t // us(1) for t in batch["timestamp"].to_list()] for batch in batches]
        assert times == [[1_000, 1_005, 1_009], [1_010], [], [], [1_041, 1_042]]
        assert all(batch.schema == opened.read().schema for batch in batches)
    (whole,) = opened.batches(duration=timedelta(days=1))
    assert_frame_equal(whole, opened.read())


def test_windows_and_times_that_go_back(save):
    """File order is kept: an event before its window stays in the one that is open."""
    opened = evlib.open(evt2_at([1_000, 1_015, 1_002, 1_018, 1_025], save))
    batches = [[t // us(1) for t in batch["timestamp"].to_list()] for batch in opened.batches(duration=10)]
    assert batches == [[1_000], [1_015, 1_002, 1_018], [1_025]]


def test_batches_with_selections(save):
    opened = evlib.open(evt2_at(range(0, 100_000, 50), save))
    frame = opened.read()
    batches = list(opened.batches(rows=100, columns=["timestamp", "x"], polarity=-1, time_range=(us(500), 90_000)))
    keep = (pl.col("polarity") == -1) & pl.col("timestamp").is_between(us(500), us(90_000), closed="left")
    assert_frame_equal(pl.concat(batches), frame.filter(keep).select("timestamp", "x"))
    windows = list(opened.batches(duration=1_000, columns=["x"]))
    assert all(batch.columns == ["x"] for batch in windows)
    assert len(windows) == 100
    assert sum(batch.height for batch in windows) == frame.height


def test_batches_are_made_when_asked_for(save):
    opened = evlib.open(evt2_at(range(0, 640_000, 64), save), threads=1)
    batches = opened.batches(rows=10)
    assert next(batches).height == 10
    batches.close()
    first, second = opened.batches(rows=4_000), opened.batches(rows=4_000)
    assert_frame_equal(next(first), next(second))
    assert_frame_equal(next(first), next(second))


def test_columns_come_in_the_order_asked_for(save):
    opened = evlib.open(evt2_at([5, 70], save))
    assert opened.read(columns=["polarity", "x"]).columns == ["polarity", "x"]
    assert opened.read(columns="y").columns == ["y"]


# --- the saved index -----------------------------------------------------------------------------------------------


@pytest.fixture
def indexed(save):
    """A recording of several segments with all kinds of problems and its saved index."""
    payload = sensor_stream("evt3", 90_000, seed=3)
    middle = len(payload) // 4 * 2
    path = save(recording("evt3", b"\x0a\x20" + payload[:middle] + b"\xff" * 301 + payload[middle:] + b"\x00"))
    opened = evlib.open(path)
    index = opened.save_index()
    assert index.is_file()
    assert index.parent == path.parent
    return path, index, opened


def facts(opened: evlib.Recording):
    table = opened.problems.filter(pl.col("code") != "STALE_INDEX")
    return opened.event_count, opened.trigger_count, opened.time_range, table.to_dicts(), opened.read().rows()


def make_payload_unreadable(path: Path) -> None:
    """Zero the payload, with size and modification time kept: whoever reads it, sees something else."""
    status = path.stat()
    head = path.read_bytes()[:5_000]
    path.write_bytes(head + bytes(status.st_size - len(head)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_valid_index_is_used(indexed):
    path, _, opened = indexed
    again = evlib.open(path)
    assert facts(again) == facts(opened)
    # Without a look at the payload.
    expected = opened.event_count, opened.trigger_count, opened.problems.to_dicts()
    make_payload_unreadable(path)
    again = evlib.open(path)
    assert (again.event_count, again.trigger_count, again.problems.to_dicts()) == expected


def test_index_and_time_ranges(indexed):
    path, _, opened = indexed
    frame = opened.read()
    again = evlib.open(path)
    for low, high in ((5_000_000, 5_010_000), (5_100_003, 5_100_900), (0, 1), (5_300_000, None)):
        expected = frame.filter(
            pl.col("timestamp") >= us(low), pl.lit(True) if high is None else pl.col("timestamp") < us(high)
        )
        assert_frame_equal(again.read(time_range=(low, high)), expected)
        assert_frame_equal(pl.concat([frame.clear(), *again.batches(time_range=(low, high), rows=99)]), expected)
    again = evlib.open(path)
    assert_frame_equal(pl.concat(again.batches(rows=7_001)), frame)


def test_index_of_another_state_is_stale(indexed, save):
    path, index, opened = indexed
    expected = facts(opened)
    good = index.read_bytes()
    status = path.stat()
    # Touched.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    again = evlib.open(path)
    assert problem_counts(again)["STALE_INDEX"] == 1
    assert facts(again) == expected
    stale = again.problems.filter(pl.col("code") == "STALE_INDEX").to_dicts()[0]
    assert stale["severity"] == "note"
    assert str(index) in stale["examples"][0]
    # Saved again.
    assert again.save_index() == index
    assert "STALE_INDEX" not in problem_counts(evlib.open(path))
    # Longer, by one more event of the last kind.
    with path.open("ab") as file:
        file.write(b"\x00" * 8)
    assert problem_counts(evlib.open(path))["STALE_INDEX"] == 1
    # Beside another recording.
    other = save(recording("evt3", sensor_stream("evt3", 50)))
    other.with_name(other.name + index.name.removeprefix(path.name)).write_bytes(good)
    another = evlib.open(other)
    assert problem_counts(another)["STALE_INDEX"] == 1
    assert another.event_count == another.read().height


def test_index_for_another_geometry_is_stale(indexed):
    path, _, _ = indexed
    again = evlib.open(path, geometry=(100, 100))
    assert problem_counts(again)["STALE_INDEX"] == 1
    assert again.event_count == again.read().height


# --- the index of the process --------------------------------------------------------------------------------------


def made_earlier(path: Path, seconds: int = 60) -> None:
    """Set the modification time of a file back: a change from now on shows in it."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 1_000_000_000))


@pytest.mark.parametrize("find_out", [lambda opened: opened.event_count, lambda opened: opened.read()])
@pytest.mark.parametrize("kind", ["evt2", "evt3"])
def test_the_process_keeps_the_index_of_a_file(kind, find_out, save):
    path = save(recording(kind, sensor_stream(kind, 500)))
    made_earlier(path)
    opened = evlib.open(path)
    assert not opened.is_indexed
    find_out(opened)
    again = evlib.open(path)
    assert again.is_indexed
    assert facts(again) == facts(opened)
    assert not evlib.open(path, geometry=(600, 400)).is_indexed
    # Another file under that name.
    path.write_bytes(path.read_bytes()[:-8])
    assert not evlib.open(path).is_indexed


def test_the_index_of_a_file_just_written_is_not_kept(save):
    path = save(recording("evt2", sensor_stream("evt2", 500)))
    os.utime(path)
    _ = evlib.open(path).event_count
    assert not evlib.open(path).is_indexed


def test_header_change_makes_the_index_stale(indexed):
    path, _, _ = indexed
    status = path.stat()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"640", b"320"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = evlib.open(path)
    assert again.geometry == (320, 480)
    assert problem_counts(again)["STALE_INDEX"] == 1
    assert again.event_count == again.read().height


@pytest.fixture
def small_indexed(save):
    path = save(recording("evt3", b"\x0a\x20" + sensor_stream("evt3", 60) + b"\x00"))
    opened = evlib.open(path)
    return path, opened.save_index(), facts(opened)


def test_truncated_index_is_stale(small_indexed):
    path, index, expected = small_indexed
    good = index.read_bytes()
    for length in range(len(good)):
        index.write_bytes(good[:length])
        again = evlib.open(path)
        assert problem_counts(again)["STALE_INDEX"] == 1, length
        assert facts(again) == expected, length


def test_corrupt_index_is_stale(small_indexed):
    path, index, expected = small_indexed
    good = index.read_bytes()
    for at in range(len(good)):
        damaged = bytearray(good)
        damaged[at] ^= 1 << at % 8
        index.write_bytes(damaged)
        again = evlib.open(path)
        assert problem_counts(again)["STALE_INDEX"] == 1, at
        assert facts(again) == expected, at
    index.write_bytes(good + b"\x00")
    assert problem_counts(evlib.open(path))["STALE_INDEX"] == 1


def test_index_that_is_a_directory(small_indexed):
    path, index, expected = small_indexed
    index.unlink()
    index.mkdir()
    again = evlib.open(path)
    assert facts(again) == expected
    assert problem_counts(again)["STALE_INDEX"] == 1
    with pytest.raises(OSError) as caught:
        again.save_index()
    assert isinstance(caught.value, evlib.EvlibError)
    assert sorted(path.parent.iterdir()) == sorted([path, index])


# --- identification ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["evt2", "evt21", "evt21_legacy", "evt3", "evt4", "dat"])
@pytest.mark.parametrize("suffix", [".raw", ".dat", ".csv", ""])
def test_payload_without_header_is_known_by_its_content(kind, suffix, save):
    payload = sensor_stream(kind, 2_000, seed=2, geometry=(1280, 720))
    path = save(payload, suffix=suffix)
    found = evlib.identify(path)
    assert (found.format, found.confidence) == (library_format(kind), "guess")
    assert "no header" in found.reasons[0]
    opened = evlib.open(path)
    assert (opened.geometry, opened.metadata) == (None, {})
    assert rows(opened.read()) == oracle.DECODERS[kind](payload, None).events


@pytest.mark.parametrize("kind", ["evt2", "evt21", "evt3", "evt4", "dat"])
def test_payload_without_header_by_name(kind, save):
    payload = sensor_stream(kind, 300, seed=2)
    path = save(payload, suffix=".bin")
    opened = evlib.open(path, format=library_format(kind), geometry=(640, 480))
    assert opened.confidence == "certain"
    assert "the caller says" in opened.reasons[0]
    assert rows(opened.read()) == oracle.DECODERS[kind](payload, (640, 480)).events


@pytest.mark.parametrize("name", ["EVT2", "Evt2.0", "evt20"])
def test_spellings_of_a_format(name, save):
    path = save(pack("evt2", [time_word("evt2", 5), cd2(7, 1, 0, 1)]))
    assert evlib.read_events(path, format=name).height == 1


@pytest.mark.parametrize("kind", KINDS)
def test_extension_does_not_win_over_content(kind, save):
    payload = sensor_stream(kind, 100)
    suffix = ".raw" if library_format(kind) == "dat" else ".dat"
    found = evlib.identify(save(recording(kind, payload), suffix=suffix))
    assert (found.format, found.confidence) == (library_format(kind), "certain")
    assert found.reasons


def test_reasons_name_the_header_field(save):
    assert "`format`" in evlib.identify(save(header("evt3"))).reasons[0]
    assert "`evt`" in evlib.identify(save(b"% evt 2.0\n")).reasons[0]
    by_system = evlib.identify(save(b"% system_ID 49\n% end\n"))
    assert (by_system.format, by_system.confidence) == ("evt3", "likely")
    assert "IMX636" in by_system.reasons[0]


def test_identity_is_a_tuple(save):
    name, confidence, reasons = evlib.identify(save(header("evt4")))
    assert (name, confidence, len(reasons) > 0) == ("evt4", "certain", True)


# --- writing -------------------------------------------------------------------------------------------------------


def events(x, y, t, p) -> pl.DataFrame:
    frame = pl.DataFrame({"x": x, "y": y, "timestamp": t, "polarity": p}, schema=dict.fromkeys(COLUMNS, pl.Int64))
    return frame.cast({"x": pl.Int16, "y": pl.Int16, "timestamp": pl.Duration("us"), "polarity": pl.Int8})


def test_what_can_be_written(tmp_path):
    frame = events([3, 4], [5, 5], [10, 20], [1, -1])
    arrays = {
        "x": np.array([3, 4], "i2"),
        "y": np.array([5, 5], "u1"),
        "timestamp": np.array([10, 20]),
        "polarity": np.array([True, False]),
    }
    given = [frame, frame.lazy(), frame.to_arrow(), arrays, {name: values.tolist() for name, values in arrays.items()}]
    for at, data in enumerate(given):
        path = tmp_path / f"{at}.raw"
        assert evlib.write_events(data, path, geometry=(640, 480)) == 2
        assert_frame_equal(evlib.read_events(path), frame)
    copy = tmp_path / "copy.raw"
    assert evlib.write_events(evlib.open(tmp_path / "0.raw"), copy) == 2
    assert evlib.open(copy).geometry == (640, 480)
    shuffled = frame.select("polarity", "timestamp", extra=pl.lit("no"), y="y", x="x")
    assert evlib.write_events(shuffled, tmp_path / "shuffled.raw", geometry=(640, 480)) == 2
    assert_frame_equal(evlib.read_events(tmp_path / "shuffled.raw"), frame)


def test_the_extension_tells_the_format(tmp_path):
    frame = events([1], [2], [3], [1])
    evlib.write_events(frame, tmp_path / "a.raw", geometry=(640, 480))
    assert evlib.identify(tmp_path / "a.raw").format == "evt3"
    evlib.write_events(frame, tmp_path / "b.raw", format="evt2", geometry=(640, 480))
    assert evlib.identify(tmp_path / "b.raw").format == "evt2"
    with pytest.raises(exceptions.ArgumentError, match="xyz"):
        evlib.write_events(frame, tmp_path / "a.xyz", geometry=(640, 480))
    evlib.write_events(frame, tmp_path / "a.dat", geometry=(640, 480))
    assert evlib.identify(tmp_path / "a.dat").format == "dat"
    with pytest.raises(exceptions.ArgumentError, match="aedat2"):
        evlib.write_events(frame, tmp_path / "a.aedat", format="aedat2", geometry=(640, 480))


BAD = {
    "negative time": ({"t": [0, 1, -5, 7]}, 2, "-5 us"),
    "time goes back": ({"t": [0, 9, 5, 4]}, 2, "5 us"),
    "time too large": ({"t": [0, 1, 2**55, 2**56]}, 2, "before"),
    "x outside": ({"x": [0, 640, 1, 700]}, 1, "x 640"),
    "x negative": ({"x": [0, 1, 2, -1]}, 3, "x -1"),
    "y outside": ({"y": [480, 1, 2, 3]}, 0, "y 480"),
    "polarity": ({"p": [1, -1, 0, 2]}, 2, "0"),
}


PROPHESEE = ["evt3", "evt2", "evt21", "evt4", "dat"]


@pytest.mark.parametrize("name", PROPHESEE)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("batched", [False, True])
def test_the_first_row_that_does_not_fit_is_named(name, bad, batched, tmp_path):
    changed, row, found = BAD[bad]
    columns = {"x": [0] * 4, "y": [0] * 4, "t": list(range(4)), "p": [1] * 4} | changed
    frame = events(**columns)
    data = frame
    if batched:
        good = events([1] * 1000, [1] * 1000, [0] * 1000, [1] * 1000)
        data, row = pl.concat([good, frame]).lazy(), 1000 + row
    path = tmp_path / "bad.raw"
    with pytest.raises(ValueError, match=rf"row {row}\b") as caught:
        evlib.write_events(data, path, format=name, geometry=(640, 480))
    assert isinstance(caught.value, exceptions.ArgumentError)
    assert found in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pl.DataFrame({"x": [1], "y": [1], "timestamp": [1]}), "polarity"),
        (pl.DataFrame({"x": [1.5], "y": [1], "timestamp": [1], "polarity": [1]}), "`x`"),
        (pl.DataFrame({"x": [1], "y": [1], "timestamp": [0.5], "polarity": [1]}), "`timestamp`"),
        (
            pl.DataFrame({"x": [1], "y": [None], "timestamp": [1], "polarity": [1]}, schema_overrides={"y": pl.Int16}),
            "null",
        ),
        (pl.DataFrame({"x": [70_000], "y": [1], "timestamp": [1], "polarity": [1]}), "70000"),
        ([1, 2, 3], "list"),
    ],
)
def test_data_that_is_not_events(data, message, tmp_path):
    with pytest.raises(exceptions.ArgumentError, match=message):
        evlib.write_events(data, tmp_path / "bad.raw", geometry=(640, 480))
    assert list(tmp_path.iterdir()) == []


def test_writing_without_geometry(tmp_path):
    with pytest.raises(exceptions.ArgumentError, match="geometry"):
        evlib.write_events(events([], [], [], []), tmp_path / "bad.raw")
    for geometry in ((0, 5), (2049, 5), (5, 2049)):
        with pytest.raises(exceptions.ArgumentError):
            evlib.write_events(events([], [], [], []), tmp_path / "bad.raw", geometry=geometry)
    assert list(tmp_path.iterdir()) == []


def test_overwrite(tmp_path):
    path = tmp_path / "there.raw"
    path.write_bytes(b"precious")
    frame = events([1], [2], [3], [1])
    with pytest.raises(FileExistsError) as caught:
        evlib.write_events(frame, path, geometry=(640, 480))
    assert isinstance(caught.value, evlib.EvlibError)
    assert path.read_bytes() == b"precious"
    # A failed replacement leaves what was there.
    with pytest.raises(ValueError, match="row 1"):
        evlib.write_events(
            pl.concat([frame, frame.with_columns(x=pl.lit(-1, pl.Int16))]), path, geometry=(640, 480), overwrite=True
        )
    assert path.read_bytes() == b"precious"
    evlib.write_events(frame, path, geometry=(640, 480), overwrite=True)
    assert_frame_equal(evlib.read_events(path), frame)
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_are_refused_are_counted_over_all_frames(tmp_path):
    good = pl.DataFrame({"id": [0, 0], "polarity": [1, -1], "timestamp": [1, 2]})
    frame = events([1], [2], [3], [1])
    with pytest.raises(ValueError, match="row 3"):
        evlib.write_events(
            frame,
            tmp_path / "a.raw",
            geometry=(640, 480),
            triggers=iter([good, good.with_columns(id=pl.Series([0, 300]))]),
        )
    wide = frame.with_columns(x=pl.lit(70_000))
    with pytest.raises(ValueError, match="row 2"):
        evlib.write_events(iter([frame, frame, wide]), tmp_path / "a.parquet", geometry=(640, 480))
    assert list(tmp_path.iterdir()) == []


def test_a_recording_over_itself(tmp_path):
    path = tmp_path / "self.raw"
    frame = events(list(range(500)), [1] * 500, list(range(500)), [1] * 500)
    evlib.write_events(frame, path, geometry=(640, 480))
    evlib.write_events(evlib.open(path), path, overwrite=True)
    assert_frame_equal(evlib.read_events(path), frame)


def test_the_file_appears_when_complete(tmp_path):
    path = tmp_path / "late.raw"
    seen = []

    def watch(frame: pl.DataFrame) -> pl.DataFrame:
        seen.append(path.exists())
        return frame

    frame = events(list(range(100)), [1] * 100, list(range(100)), [1] * 100)
    evlib.write_events(frame.lazy().map_batches(watch), path, geometry=(640, 480))
    assert seen
    assert not any(seen)
    assert path.exists()


def test_an_error_in_the_query_leaves_nothing(tmp_path):
    def fail(frame):
        raise RuntimeError("from the query")

    lazy = events([1], [1], [1], [1]).lazy().map_batches(fail, schema=evlib._scan.SCHEMA)
    with pytest.raises(Exception, match="from the query"):
        evlib.write_events(lazy, tmp_path / "bad.raw", geometry=(640, 480))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        evlib.write_events(events([1], [1], [1], [1]), tmp_path / "no" / "a.raw", geometry=(640, 480))
    assert isinstance(caught.value, evlib.EvlibError)
    with pytest.raises(IsADirectoryError):
        evlib.write_events(events([1], [1], [1], [1]), tmp_path, format="evt3", geometry=(640, 480))


def test_empty_recording_is_written(tmp_path):
    for name in PROPHESEE:
        path = tmp_path / f"{name}.raw"
        assert evlib.write_events(events([], [], [], []), path, format=name, geometry=(640, 480)) == 0
        opened = evlib.open(path, on_problem="raise")
        assert (opened.event_count, opened.geometry) == (0, (640, 480))
        assert problem_counts(opened) == {}


# --- round trips ---------------------------------------------------------------------------------------------------

WIDTHS = st.sampled_from([1, 2, 31, 32, 33, 40, 640, 1280, 2047, 2048])

gaps = st.one_of(
    st.just(0),
    st.just(0),
    st.just(0),
    st.integers(1, 100),
    st.integers(0, 20_000),
    st.sampled_from([64, 4096, 2**23, 2**24, 2**24 - 1, 9_000_000, 17_000_000]),
    st.integers(0, 10**8),
)


@st.composite
def event_frames(draw, *, long_gaps: bool) -> tuple[pl.DataFrame, tuple[int, int]]:
    width, height = draw(WIDTHS), draw(WIDTHS)
    start = draw(st.one_of(st.integers(0, 10_000), st.integers(0, 2**36 if long_gaps else 2**30)))
    x, y, t, p = [], [], [], []
    now = start
    for _ in range(draw(st.integers(0, 25))):
        now += draw(st.integers(0, 2**36)) if long_gaps and draw(st.integers(0, 9)) == 0 else draw(gaps)
        row, on = draw(st.integers(0, height - 1)), draw(st.sampled_from([1, -1]))
        first = draw(st.one_of(st.integers(0, width - 1), st.just(width - 1), st.just(0)))
        # A run of neighbours, with holes, at the same time: what vectors are for.
        run = draw(st.one_of(st.just([0]), st.lists(st.integers(0, 70), max_size=40, unique=True).map(sorted)))
        if draw(st.integers(0, 9)) == 0:
            run = run[::-1]
        for step in run:
            if first + step < width:
                x.append(first + step)
                y.append(row)
                t.append(now)
                p.append(on)
    return events(x, y, t, p), (width, height)


def words_of(path: Path, size: int) -> np.ndarray:
    data = path.read_bytes()
    payload = data[data.index(b"% end\n") + 6 :].removeprefix(b"\x0c\x08")
    return np.frombuffer(payload, f"<u{size}")


def check_evt3_is_legal(words: np.ndarray, width: int) -> None:
    """What OpenEB's decoder needs, which reads vectors in blind groups of 12, 12 and 8 columns."""
    kinds = (words >> 12).tolist()
    assert set(kinds) <= {0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8}
    base = row = high = None
    at = 0
    while at < len(kinds):
        content = int(words[at]) & 0xFFF
        match kinds[at]:
            case 0x0:
                assert content < 2048, "the bit of the slave camera"
                row = content
            case 0x2:
                assert row is not None
                assert high is not None
                assert content & 0x7FF < width
            case 0x3:
                base = content & 0x7FF
            case 0x4:
                assert kinds[at : at + 3] == [4, 4, 5], "a group that is not 12-12-8"
                assert base is not None
                assert row is not None
                assert base + 32 <= width
                base += 32
                at += 2
            case 0x5:
                pytest.fail("a lone VECT_8")
            case 0x8:
                assert high is None or (content - high) % 4096 < 2048, "a gap that half-range readers do not see"
                high = content
        at += 1
    if kinds:
        assert int(words[0]) == 0x8000, "time starts at 0, so that readers that shift by the first word keep it"


def check_evt4_is_legal(words: np.ndarray, width: int) -> None:
    """Vectors lie in the sensor with all of their columns, as checking readers want."""
    at = 0
    while at < words.size:
        word = int(words[at])
        at += 1
        if word >> 28 in (0xC, 0xD):
            assert (word >> 11 & 0x7FF) + 32 <= width
            assert int(words[at]).bit_count() > 2, "a vector that is longer than its events"
            at += 1


def check_round_trip(frame, geometry, path, name) -> None:
    assert evlib.write_events(frame, path, format=name, geometry=geometry, overwrite=True) == frame.height
    opened = evlib.open(path)
    assert opened.format == name
    assert opened.geometry == geometry
    if name != "dat":
        assert opened.metadata["geometry"] == f"{geometry[0]}x{geometry[1]}"
    assert_frame_equal(opened.read(), frame)
    assert problem_counts(opened) == {}
    words = words_of(path, WORD_BYTES[name])
    payload = words.tobytes()
    assert oracle.DECODERS[name](payload, geometry).events == rows(frame)
    if name == "evt3":
        check_evt3_is_legal(words, geometry[0])
    if name == "evt4":
        check_evt4_is_legal(words, geometry[0])


@pytest.mark.parametrize("name", PROPHESEE)
def test_round_trip(name):
    long = events([5, 6], [0, 0], [0, 2**32 - 1 if name == "dat" else 2**35], [1, -1])

    with tempfile.TemporaryDirectory() as folder:

        @given(event_frames(long_gaps=name not in ("evt3", "dat")))
        @settings(max_examples=60)
        @example((long, (640, 480)))
        def check(drawn):
            frame, geometry = drawn
            check_round_trip(frame, geometry, Path(folder) / "trip.raw", name)

        check()


@pytest.mark.parametrize("name", PROPHESEE)
def test_round_trip_of_dense_rows(name, tmp_path):
    """Every width at which a vector group ends, or cannot be."""
    for width in (1, 12, 31, 32, 33, 63, 64, 65, 100):
        x = [*range(width), *range(0, width, 2), *range(width // 2, width)]
        t = [1_000] * width + [1_001] * math.ceil(width / 2) + [1_002] * (width - width // 2)
        frame = events(x, [3] * len(x), t, [1 if at < width else -1 for at in range(len(x))])
        check_round_trip(frame, (width, 4), tmp_path / f"{width}.raw", name)
    words = words_of(tmp_path / "100.raw", WORD_BYTES[name])
    if name == "evt3":
        assert (words >> 12 == 0x4).any(), "vectors are used"
    if name in ("evt3", "evt21", "evt4"):
        assert words.size < 100


def test_a_gap_of_hours_is_exact(tmp_path):
    times = [0, 9_000_000, 9_000_001, 30_000_000, 7 * 3600 * 10**6, 7 * 3600 * 10**6 + 1]
    frame = events([1] * 6, [2] * 6, times, [1, -1] * 3)
    for name in ("evt3", "evt2", "evt21", "evt4"):
        check_round_trip(frame, (640, 480), tmp_path / f"{name}.raw", name)
    with pytest.raises(ValueError, match=r"row 4: expected a time before 4294967296 us"):
        evlib.write_events(frame, tmp_path / "long.dat", geometry=(640, 480))


def test_time_words_of_evt3_suit_simple_readers(tmp_path):
    """Readers that know a wrap only by 4095 and 0, and clear the low time at every high one."""
    n = 20_000
    times = [*range(100, 100 + n), 40_000_000, 95_000_000]
    frame = events([at * 7 % 640 for at in range(n + 2)], [at % 480 for at in range(n + 2)], times, [1] * (n + 2))
    check_round_trip(frame, (640, 480), tmp_path / "a.raw", "evt3")
    high, low, wraps, found = 0, 0, 0, []
    for word in words_of(tmp_path / "a.raw", 2).tolist():
        kind, value = word >> 12, word & 0xFFF
        if kind == 0x8:
            assert abs(value - high) < 2048 or (high, value) == (4095, 0)
            wraps += (high, value) == (4095, 0)
            high, low = value, 0
        elif kind == 0x6:
            low = value
        elif kind == 0x2:
            found.append((wraps * 4096 + high) * 4096 + low)
    assert found == times


def test_many_events_without_time_going_on(tmp_path):
    n = 300_000
    frame = events([at % 640 for at in range(n)], [at // 640 % 480 for at in range(n)], [5] * n, [1] * n)
    for name in PROPHESEE:
        path = tmp_path / f"{name}.raw"
        evlib.write_events(frame, path, format=name, geometry=(640, 480))
        assert_frame_equal(evlib.read_events(path, on_problem="raise"), frame)


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_conversion_from_every_encoding(kind, save, tmp_path):
    source = evlib.open(save(recording(kind, sensor_stream(kind, 3_000))))
    frame = source.read()
    assert frame["timestamp"].is_sorted()
    for name in PROPHESEE:
        check_round_trip(frame, (640, 480), tmp_path / "copy.raw", name)


# --- triggers between the events -----------------------------------------------------------------------------------


@st.composite
def trigger_frames(draw, ids: int) -> pl.DataFrame:
    count = draw(st.integers(0, 12))
    time = sorted(draw(st.lists(st.integers(0, 2**31), min_size=count, max_size=count)))
    data = {
        "id": draw(st.lists(st.integers(0, ids - 1), min_size=count, max_size=count)),
        "polarity": draw(st.lists(st.sampled_from([1, -1]), min_size=count, max_size=count)),
        "timestamp": time,
    }
    return pl.DataFrame(data, schema_overrides={"timestamp": pl.Int64}).cast(evlib._scan.TRIGGER_SCHEMA)


@pytest.mark.parametrize("name", ["evt3", "evt2", "evt21", "evt4"])
def test_triggers_are_merged_by_time(name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trip.raw"

        @given(event_frames(long_gaps=False), trigger_frames(16 if name == "evt3" else 32), st.integers(1, 9))
        def check(drawn, triggers, length):
            frame, geometry = drawn
            parts = iter([frame[at : at + length] for at in range(0, frame.height, length)])
            written = evlib.write_events(parts, path, format=name, geometry=geometry, triggers=triggers, overwrite=True)
            assert written == frame.height
            opened = evlib.open(path, on_problem="raise")
            assert_frame_equal(opened.read(), frame)
            assert_frame_equal(opened.triggers.collect(), triggers)
            decoded = oracle.DECODERS[name](words_of(path, WORD_BYTES[name]).tobytes(), geometry)
            assert decoded.events == rows(frame)
            assert decoded.triggers == rows(triggers)

        check()


@pytest.mark.parametrize(
    ("triggers", "message"),
    [
        ({"id": [1, 1], "polarity": [1, 1], "timestamp": [9, 8]}, "trigger 1: expected times in order, from 9 us on"),
        ({"id": [1], "polarity": [1], "timestamp": [-1]}, "trigger 0: expected a time of at least 0 us"),
        ({"id": [16], "polarity": [1], "timestamp": [1]}, "trigger 0: expected an id below 16, found 16"),
        ({"id": [1], "polarity": [0], "timestamp": [1]}, "trigger 0: expected polarity 1 or -1"),
        ({"id": [1], "polarity": [1], "timestamp": [2**46]}, "trigger 0: expected a time before"),
    ],
)
def test_triggers_that_do_not_fit(triggers, message, tmp_path):
    with pytest.raises(exceptions.ArgumentError, match=message):
        evlib.write_events(events([1], [1], [1], [1]), tmp_path / "a.raw", geometry=(9, 9), triggers=triggers)
    with pytest.raises(exceptions.ArgumentError, match="not written to this format"):
        evlib.write_events(events([1], [1], [1], [1]), tmp_path / "a.dat", geometry=(9, 9), triggers=triggers)
    assert list(tmp_path.iterdir()) == []
