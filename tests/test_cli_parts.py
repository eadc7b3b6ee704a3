"""`evlib cut`, `split` and `merge`."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import oracle
import polars as pl
import pytest
from conftest import problem_counts, rows
from polars.testing import assert_frame_equal
from test_cli import assert_one_line_of_error, evlib_cli
from words import KINDS, library_format, recording, sensor_stream

import evlib
from evlib import exceptions
from evlib.cli import _parser
from evlib.cli.merge import merged

GEOMETRY = (640, 480)
RAW = ["evt2", "evt21", "evt3", "evt4", "dat"]


def us(value: int) -> timedelta:
    return timedelta(microseconds=value)


def suffix(name: str) -> str:
    return {"dat": ".dat", "parquet": ".parquet", "hdf5": ".h5", "es": ".es"}.get(name, ".raw")


@pytest.fixture(scope="module")
def events():
    return evlib.simulate(80_000, geometry=GEOMETRY, seed=5)


@pytest.fixture(scope="module", params=RAW)
def source(request, events, tmp_path_factory):
    """A recording that starts late, with triggers where there can be."""
    path = tmp_path_factory.mktemp("parts") / f"in{suffix(request.param)}"
    late = events.with_columns(pl.col("timestamp") + pl.duration(seconds=3000))
    first = late["timestamp"][0].total_seconds() * 1e6
    triggers = {"id": [1, 2, 3], "polarity": [1, -1, 1], "timestamp": [int(first) + at for at in (500, 2_000, 9_000)]}
    kept = None if request.param == "dat" else triggers
    evlib.write_events(late, path, format=request.param, geometry=GEOMETRY, triggers=kept)
    return path


def microseconds(frame: pl.DataFrame) -> np.ndarray:
    return frame["timestamp"].dt.total_microseconds().to_numpy()


def between(frame, start, end):
    time = pl.col("timestamp").dt.total_microseconds()
    return frame.filter(time >= start, time < end)


@pytest.mark.parametrize("part", [(0.2, 0.6), (0.0, 0.1), (0.9, 1.1), (0.5, 0.5001)])
def test_cut_copies_words(source, part, tmp_path):
    whole = evlib.open(source)
    frame = whole.read()
    times = microseconds(frame)
    start, end = (int(times[0] + part[i] * (times[-1] - times[0])) for i in (0, 1))
    out = tmp_path / f"out{source.suffix}"
    result = evlib_cli("cut", source, out, "--start", f"{start}us", "--end", f"{end}us")
    assert (result.returncode, result.stderr) == (0, "")
    assert "copied word for word" in result.stdout
    expected = between(frame, start, end)
    assert f": {expected.height:,} events" in result.stdout
    found = evlib.open(out, on_problem="raise")
    assert (found.format, found.geometry) == (whole.format, GEOMETRY)
    assert_frame_equal(found.read(), expected)
    assert_frame_equal(found.triggers.collect(), between(whole.triggers.collect(), start, end))
    # The header, and after the words that lead in the words of the recording itself.
    data, original = out.read_bytes(), source.read_bytes()
    header = original.index(b"% end\n") + 6 + 2 * (whole.format == "dat")
    assert data[:header] == original[:header]
    if expected.height > 100:
        assert data[-400:] in original
        payload = len(data) - header
        assert payload <= (part[1] - part[0]) * 1.3 * len(original) + 20_000


def test_cut_again_refuses_and_replaces(source, tmp_path):
    out = tmp_path / f"out{source.suffix}"
    arguments = ("cut", source, out, "--relative", "--end", "5ms")
    assert evlib_cli(*arguments).returncode == 0
    before = out.read_bytes()
    again = evlib_cli(*arguments)
    assert_one_line_of_error(again, code=1)
    assert "exists" in again.stderr
    assert evlib_cli(*arguments, "--force").returncode == 0
    assert out.read_bytes() == before
    first = microseconds(evlib.read_events(source))[0]
    assert_frame_equal(evlib.read_events(out), between(evlib.read_events(source), first, first + 5_000))
    empty = evlib_cli("cut", source, out, "--force", "--end", "1us")
    assert empty.stdout.startswith(f"{out}: 0 events")
    assert evlib.open(out, format=evlib.open(source).format).event_count == 0


@pytest.mark.parametrize("kind", KINDS)
def test_cut_of_every_encoding_agrees_with_the_oracle(kind, save, tmp_path):
    """Streams as sensors send them, with words of all kinds, times a little out of order, and wraps."""
    path = save(recording(kind, sensor_stream(kind, 4_000)))
    opened = evlib.open(path)
    frame, triggers = opened.read(), opened.triggers.collect()
    both = np.sort(np.concatenate([microseconds(frame), microseconds(triggers)]))
    for low, high in ((0.0, 1.0), (0.3, 0.7), (0.55, 0.6)):
        start, end = int(both[int(low * (both.size - 1))]), int(both[int(high * (both.size - 1))]) + 1
        out = tmp_path / "cut.raw"
        opened.cut(out, time_range=(start, end), overwrite=True)
        part = evlib.open(out, format=library_format(kind))
        found = part.read()
        inside = between(frame, start, end)
        assert_frame_equal(between(found, start, end), inside)
        assert_frame_equal(between(part.triggers.collect(), start, end), between(triggers, start, end))
        if frame["timestamp"].is_sorted():
            assert_frame_equal(found, inside)
        data = out.read_bytes()
        payload = data[data.index(b"% end\n") + 6 + 2 * kind.startswith("dat") :]
        truth = oracle.DECODERS[kind](payload, GEOMETRY)
        assert rows(found) == truth.events
        assert problem_counts(part) == truth.counts()


def test_cut_of_a_recording_out_of_order_keeps_what_stands_between(tmp_path):
    rows = np.array([(10, 1), (20, 2), (15, 3), (30, 4)], "i8")
    words = [t | (x | 1 << 28) << 32 for t, x in rows.tolist()]
    path, out = tmp_path / "a.dat", tmp_path / "b.dat"
    path.write_bytes(recording("dat", b"".join(word.to_bytes(8, "little") for word in words)))
    result = evlib_cli("cut", path, out, "--start", "16us", "--end", "31us")
    assert result.returncode == 0
    assert "1 events outside the range stand between those inside" in result.stderr
    assert evlib.read_events(out)["x"].to_list() == [2, 3, 4]


def test_dat_whose_times_have_wrapped_is_not_copied(tmp_path):
    words = [t | (5 | 1 << 28) << 32 for t in (2**32 - 5, 2**32 - 1, 3, 9)]
    path, out = tmp_path / "a.dat", tmp_path / "b.dat"
    path.write_bytes(recording("dat", b"".join(word.to_bytes(8, "little") for word in words)))
    assert evlib.read_events(path).height == 4
    with pytest.raises(exceptions.ArgumentError, match=r"below 2\^32 us"):
        evlib.open(path).cut(out, time_range=(2**32, None))
    evlib.open(path).cut(out, time_range=(None, 2**32 + 4))
    assert_frame_equal(evlib.read_events(out), evlib.read_events(path).head(3))


@pytest.mark.parametrize("name", ["a.h5", "a.es", "a.parquet", "a.csv", "a.dat"])
def test_cut_into_another_format_writes_anew(name, events, tmp_path):
    path = tmp_path / "in.raw"
    evlib.write_events(events, path, geometry=GEOMETRY, triggers={"id": [1], "polarity": [1], "timestamp": [5]})
    result = evlib_cli("cut", path, tmp_path / name, "--start", "2ms", "--end", "6ms")
    assert (result.returncode, "copied" in result.stdout) == (0, False)
    assert_frame_equal(evlib.read_events(tmp_path / name), between(events, 2_000, 6_000))
    back = evlib_cli("cut", tmp_path / name, tmp_path / "back.raw", "--end", "4ms", *geometry_of(name))
    assert (back.returncode, back.stderr) == (0, "")
    assert_frame_equal(evlib.read_events(tmp_path / "back.raw"), between(events, 2_000, 4_000))


def geometry_of(name: str) -> list[str]:
    return ["--geometry", "640x480"] if name == "a.csv" else []


def test_cut_of_other_formats_is_refused_by_the_library(events, tmp_path):
    for name in ("a.h5", "a.parquet"):
        evlib.write_events(events, tmp_path / name, geometry=GEOMETRY)
        with pytest.raises(exceptions.UnsupportedError, match="word for word"):
            evlib.open(tmp_path / name).cut(tmp_path / "b.raw")
    assert not list(tmp_path.glob("b.raw*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cut"], "pass --start, --end or both"),
        (["cut", "--start", "5ms", "--end", "5ms"], "--start comes before --end"),
        (["split"], "pass either --duration or --events"),
        (["split", "--duration", "1s", "--events", "5"], "pass either --duration or --events"),
        (["split", "--duration", "1us"], "at most 10,000 parts"),
    ],
)
def test_wrong_usage(arguments, message, events, tmp_path):
    evlib.write_events(events, tmp_path / "a.raw", geometry=GEOMETRY)
    result = evlib_cli(arguments[0], tmp_path / "a.raw", tmp_path / "b.raw", *arguments[1:])
    assert_one_line_of_error(result, code=2)
    assert message in result.stderr


@pytest.mark.parametrize("text", ["5", "1.5", "s", "1.5 years", "0.5us", "nans", "1e30h", ""])
def test_times_need_a_unit(text):
    with pytest.raises(SystemExit):
        _parser.build_parser().parse_args(["cut", "a", "b", f"--start={text}"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.5s", 1_500_000), ("20ms", 20_000), ("300us", 300), ("-2min", -120_000_000), ("1h", 3.6e9)],
)
def test_times(text, expected):
    assert _parser.build_parser().parse_args(["cut", "a", "b", f"--start={text}"]).start == expected


@pytest.mark.parametrize("name", ["part.raw", "part.dat", "part.parquet"])
def test_split_by_duration(name, events, tmp_path):
    path = tmp_path / "in.raw"
    gap = events.with_columns(
        timestamp=pl.when(pl.col("timestamp") > us(6_000)).then(pl.col("timestamp") + us(20_000)).otherwise("timestamp")
    )
    evlib.write_events(gap, path, geometry=GEOMETRY, triggers={"id": [1], "polarity": [1], "timestamp": [3_500]})
    result = evlib_cli("split", path, tmp_path / name, "--duration", "2ms")
    assert result.returncode == 0
    parts = sorted(tmp_path.glob(f"part-*{name[4:]}"))
    assert len(result.stdout.splitlines()) == len(parts) > 3
    assert_frame_equal(pl.concat([evlib.read_events(part) for part in parts]), gap)
    first = microseconds(gap)[0]
    for part in parts:
        window = (microseconds(evlib.read_events(part)) - first) // 2_000
        assert set(window) == {int(part.stem.removeprefix("part-"))}
    assert not (tmp_path / f"part-005{name[4:]}").exists(), "a window without events"
    if name == "part.raw":
        assert sum(evlib.open(part).trigger_count for part in parts) == 1


def test_split_by_count(events, tmp_path):
    path = tmp_path / "in.raw"
    triggers = {"id": [1, 2], "polarity": [1, 1], "timestamp": [0, int(microseconds(events)[-1]) + 5]}
    evlib.write_events(events, path, geometry=GEOMETRY, triggers=triggers)
    result = evlib_cli("split", path, tmp_path / "part.raw", "--events", "200000")
    assert (result.returncode, result.stderr) == (0, "")
    parts = sorted(tmp_path.glob("part-*.raw"))
    assert [part.name for part in parts] == ["part-000.raw", "part-001.raw", "part-002.raw"]
    assert [evlib.open(part).event_count for part in parts] == [200_000, 200_000, events.height - 400_000]
    assert [evlib.open(part).trigger_count for part in parts] == [1, 0, 1]
    assert_frame_equal(pl.concat([evlib.read_events(part) for part in parts]), events)
    assert_one_line_of_error(evlib_cli("split", path, tmp_path / "part.raw", "--events", "200000"), code=1)


def test_merge(events, tmp_path):
    names = ["a.raw", "b.h5", "c.parquet"]
    thirds = [events.gather_every(3, at) for at in range(3)]
    for name, third in zip(names, thirds, strict=True):
        evlib.write_events(third, tmp_path / name, geometry=GEOMETRY)
    evlib.write_events(
        thirds[0],
        tmp_path / "a.raw",
        geometry=GEOMETRY,
        overwrite=True,
        triggers={"id": [3], "polarity": [1], "timestamp": [77]},
    )
    result = evlib_cli("merge", *(tmp_path / name for name in names), tmp_path / "all.raw")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path / 'all.raw'}: {events.height:,} events, 1 triggers\n"
    expected = pl.concat(thirds).sort("timestamp", maintain_order=True)
    assert_frame_equal(evlib.read_events(tmp_path / "all.raw"), expected)


def test_merge_refuses_other_sizes_unless_told(events, tmp_path):
    small = evlib.simulate(1000, geometry=(100, 500), seed=2)
    evlib.write_events(events, tmp_path / "a.raw", geometry=GEOMETRY)
    evlib.write_events(small, tmp_path / "b.raw", geometry=(100, 500))
    arguments = ("merge", tmp_path / "a.raw", tmp_path / "b.raw", tmp_path / "c.raw")
    result = evlib_cli(*arguments)
    assert_one_line_of_error(result, code=2)
    assert "640x480" in result.stderr
    assert "100x500" in result.stderr
    assert evlib_cli(*arguments, "--largest").returncode == 0
    merged = evlib.open(tmp_path / "c.raw")
    assert (merged.geometry, merged.event_count) == ((640, 500), events.height + small.height)
    assert_one_line_of_error(evlib_cli("merge", tmp_path / "a.raw", tmp_path / "c.raw"), code=2)


def test_merging_takes_batches_of_any_length():
    random = np.random.default_rng(3)
    streams, whole = [], []
    for stream in range(4):
        count = int(random.integers(0, 3000))
        time = np.sort(random.integers(0, 500, count))
        frame = pl.DataFrame({"timestamp": time, "stream": np.full(count, stream)}).cast(
            {"timestamp": pl.Duration("us")}
        )
        cuts = np.sort(random.integers(0, count + 1, 9))
        pieces = [frame[low:high] for low, high in zip([0, *cuts], [*cuts, count], strict=True) if high > low]
        streams.append(iter(pieces))
        whole.append(frame)
    found = pl.concat(list(merged(streams)))
    assert_frame_equal(found, pl.concat(whole).sort("timestamp", maintain_order=True))


def test_split_keeps_the_triggers_around_the_events(events, tmp_path):
    path = tmp_path / "in.raw"
    late = events.with_columns(pl.col("timestamp") + pl.duration(seconds=1))
    last = int(microseconds(late)[-1])
    triggers = {"id": [1, 2, 3], "polarity": [1, -1, 1], "timestamp": [2, last, last + 5_000_000]}
    evlib.write_events(late, path, format="evt3", geometry=GEOMETRY, triggers=triggers)
    assert evlib_cli("split", path, tmp_path / "out.raw", "--duration", "20ms").returncode == 0
    parts = [evlib.open(part) for part in sorted(tmp_path.glob("out-*.raw"))]
    assert len(parts) > 1
    assert_frame_equal(pl.concat([part.read() for part in parts]), evlib.read_events(path))
    assert pl.concat([part.triggers.collect() for part in parts])["id"].to_list() == [1, 2, 3]


def test_split_begins_only_where_no_part_is_in_the_way(events, tmp_path):
    path = tmp_path / "in.raw"
    evlib.write_events(events, path, geometry=GEOMETRY)
    (tmp_path / "out-001.raw").write_bytes(b"mine")
    result = evlib_cli("split", path, tmp_path / "out.raw", "--events", "30000")
    assert_one_line_of_error(result, code=1)
    assert "--force" in result.stderr
    assert sorted(found.name for found in tmp_path.iterdir()) == ["in.raw", "out-001.raw"]


def test_merge_refuses_recordings_out_of_order(events, tmp_path):
    path = tmp_path / "in.parquet"
    evlib.write_events(events.reverse(), path, geometry=GEOMETRY)
    result = evlib_cli("merge", path, path, tmp_path / "out.parquet")
    assert_one_line_of_error(result, code=1)
    assert "in order of time" in result.stderr
    assert not (tmp_path / "out.parquet").exists()


def test_cut_with_another_geometry_is_written_anew(events, tmp_path):
    path, out = tmp_path / "in.raw", tmp_path / "out.raw"
    evlib.write_events(events, path, format="evt2", geometry=GEOMETRY)
    result = evlib_cli("cut", path, out, "--start", "0us", "--end", "50ms", "--geometry", "320x240")
    assert "copied" not in result.stdout
    found = evlib.open(out)
    assert (found.format, found.geometry) == ("evt2", (320, 240))
    assert_frame_equal(found.read(), between(evlib.read_events(path, geometry=(320, 240)), 0, 50_000))
