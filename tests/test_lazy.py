"""The LazyFrame: schema, cost of opening, push-down, several files, errors."""

from __future__ import annotations

import io
import os
import pathlib
import re
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from words import cd2, header, pack, recording, sensor_stream, time_word

import evlib
from evlib import _scan, exceptions
from evlib._scan import SCHEMA, analyse

ENGINES = ("in-memory", "streaming")
COLUMNS = list(SCHEMA)
POLARS_1 = pl.__version__.startswith("1.")
"""Polars before 2 gives an exception of a source as text in its `ComputeError`, and no name to a scan in a plan."""


@contextmanager
def truncated_query(path):
    """Expect that a query finds the file at this path too short."""
    if POLARS_1:
        with pytest.raises(pl.exceptions.ComputeError, match=r"TruncatedError: .*shrank") as caught:
            yield
        assert str(path) in str(caught.value)
    else:
        with pytest.raises(exceptions.TruncatedError, match="shrank") as caught:
            yield
        assert caught.value.path == str(path)
        assert caught.value.offset >= os.path.getsize(path)  # noqa: PTH202


@pytest.fixture
def path(save):
    return save(recording("evt2", sensor_stream("evt2", 2_000)))


@pytest.fixture
def big(save):
    """A file of several segments."""
    words = [time_word("evt2", 1_000)]
    for at in range(300_000):
        if at % 100 == 0:
            words.append(time_word("evt2", 1_000 + at // 100))
        words.append(cd2(at % 640, at % 480, at % 64, at % 2))
    return save(recording("evt2", pack("evt2", words)))


# --- schema and opening --------------------------------------------------------------------------------------------


def test_schema(path):
    expected = {"x": pl.Int16(), "y": pl.Int16(), "timestamp": pl.Duration("us"), "polarity": pl.Int8()}
    assert dict(evlib.load_events(path).collect_schema()) == expected
    assert dict(evlib.read_events(path).schema) == expected
    for engine in ENGINES:
        assert dict(evlib.load_events(path).collect(engine=engine).schema) == expected
    selected = evlib.load_events(path).select("polarity", late=pl.col("timestamp") > timedelta(0))
    assert dict(selected.collect_schema()) == {"polarity": pl.Int8(), "late": pl.Boolean()}


def test_opening_and_schema_read_only_the_head(big):
    lazy = evlib.load_events(big)
    opened = evlib.open(big)
    # What is behind the head is gone, so reading it would fail.
    os.truncate(big, 1_000_000)
    assert list(lazy.collect_schema()) == COLUMNS
    assert opened.format == "evt2"
    assert not opened.is_indexed
    assert POLARS_1 or "evlib evt2" in lazy.explain()
    with truncated_query(big):
        lazy.collect()


@pytest.mark.skipif(POLARS_1, reason="Polars before 2 has no names for scans")
def test_explain_names_the_file(path):
    plan = evlib.load_events(path).filter(pl.col("x") > 3).explain()
    assert f"evlib evt2 {path}" in plan


def test_head_does_not_read_the_rest(big):
    lazy = evlib.load_events(big, batch_rows=1000, threads=1)
    expected = evlib.read_events(big).head(10)
    os.truncate(big, os.path.getsize(big) - 100_000)  # noqa: PTH202
    for engine in ENGINES:
        assert_frame_equal(lazy.head(10).collect(engine=engine), expected)


# --- push-down -----------------------------------------------------------------------------------------------------


class Spy:
    """The opened recording, noting what is asked of it."""

    def __init__(self, opened):
        self.opened = opened
        self.selections = []
        self.rows = 0

    def batches(self, selection, **options):
        self.selections.append(selection)
        for batch in self.opened.batches(selection, **options):
            frame = pl.DataFrame(batch)
            self.rows += frame.height
            yield frame


@pytest.fixture
def spied(big):
    opened = evlib.open(big)
    spy = Spy(opened._opened)
    source = SimpleNamespace(recording=lambda: spy, format=opened.format)
    return _scan.scan(source, batch_rows=None, path="spied"), spy, opened.read()


@pytest.mark.parametrize("engine", ENGINES)
def test_projection_reaches_the_decoder(spied, engine):
    lazy, spy, frame = spied
    assert lazy.select(pl.col("y").max()).collect(engine=engine).item() == frame["y"].max()
    assert lazy.filter(pl.col("polarity") == 1).select("timestamp", "x").collect(engine=engine).height
    assert [selection.columns for selection in spy.selections] == [["y"], ["x", "timestamp", "polarity"]]
    spy.selections.clear()
    assert lazy.select(pl.len()).collect(engine=engine).item() == frame.height
    assert [len(selection.columns) for selection in spy.selections] == [1]


@pytest.mark.parametrize("engine", ENGINES)
def test_predicate_reaches_the_decoder(spied, engine):
    lazy, spy, frame = spied
    low, high = frame["timestamp"][1_000], frame["timestamp"][1_500]
    inside = pl.col("timestamp").is_between(low, high), pl.col("x") >= 100, pl.col("x") < 300, pl.col("polarity") == 1
    got = lazy.filter(*inside).collect(engine=engine)
    assert_frame_equal(got, frame.filter(*inside))
    (selection,) = spy.selections
    to_us = timedelta(microseconds=1)
    assert selection.time_range == (low // to_us, high // to_us + 1)
    assert selection.region[0] == 100
    assert selection.region[2] == 200
    assert selection.polarity == 1
    # The decoder gave these rows only.
    assert spy.rows == got.height


@pytest.mark.parametrize("engine", ENGINES)
def test_head_reaches_the_decoder(spied, engine):
    lazy, spy, frame = spied
    assert_frame_equal(lazy.head(123).collect(engine=engine), frame.head(123))
    assert [selection.limit for selection in spy.selections] == [123]
    assert spy.rows == 123


@pytest.mark.parametrize("engine", ENGINES)
def test_impossible_predicate_decodes_nothing(spied, engine):
    lazy, spy, _ = spied
    assert lazy.filter(pl.col("x") > 5, pl.col("x") < 3).collect(engine=engine).is_empty()
    assert spy.rows == 0


def us(number):
    return timedelta(microseconds=number)


X, Y, T, P = (pl.col(name) for name in COLUMNS)


@pytest.mark.parametrize(
    ("predicate", "time_range", "region", "polarity"),
    [
        (us(10) <= T, (10, None), None, None),
        (us(10) > T, (None, 10), None, None),
        (us(10) == T, (10, 11), None, None),
        ((us(10) < T) & (us(20) >= T), (11, 21), None, None),
        (T.is_between(us(10), us(20), closed="left"), (10, 20), None, None),
        (pl.lit(us(10)) < T, (11, None), None, None),
        (pl.lit(3, pl.Duration("ms")) <= T, (3000, None), None, None),
        (P == 1, (None, None), None, 1),
        (P < 0, (None, None), None, -1),
        ((X < 10) | (Y < 10), (None, None), None, None),
        (~(X < 10), (None, None), None, None),
        (X + 1 < 10, (None, None), None, None),
        (X < Y, (None, None), None, None),
        (pl.lit(5.5) > X, (None, None), None, None),
        (X.is_in([1, 2]), (None, None), None, None),
        (P != 1, (None, None), None, None),
        ((us(10) > T).alias("early"), (None, 10), None, None),
        ((T.alias("a").alias("b") < us(10)) & (pl.lit(1).alias("c") == P), (None, 10), None, 1),
        (T.dt.total_microseconds() < 10, (None, 10), None, None),
        (T.dt.total_microseconds().alias("us").is_between(10, 20), (10, 21), None, None),
        (pl.lit(10, pl.Int64) < T.cast(pl.Int64), (11, None), None, None),
        (T.cast(pl.Int64, strict=False) == 10, (10, 11), None, None),
        (T.alias("t").cast(pl.Int64) <= pl.lit(10).alias("ten"), (None, 11), None, None),
        # Not the timestamp's own integers, or not compared with an integer.
        (T.dt.total_microseconds(fractional=True) < 10, (None, None), None, None),
        (T.dt.total_milliseconds() < 10, (None, None), None, None),
        (T.dt.total_nanoseconds() < 10, (None, None), None, None),
        (T.cast(pl.Int32) < 10, (None, None), None, None),
        (T.cast(pl.Float64) < 10, (None, None), None, None),
        (T.cast(pl.Duration("ms")).cast(pl.Int64) < 10, (None, None), None, None),
        (T.cast(pl.Int64) < 10.5, (None, None), None, None),
        (T.cast(pl.Int64) < us(10), (None, None), None, None),
        (T.cast(pl.Int64) < 2**63, (None, None), None, None),
        (T.cast(pl.Int64) < X, (None, None), None, None),
        ((T + us(1)).dt.total_microseconds() < 10, (None, None), None, None),
        ((X < 10).alias("a") | (X < 5).alias("b"), (None, None), None, None),
    ],
)
def test_analyse(predicate, time_range, region, polarity):
    selection = analyse(predicate, COLUMNS)
    assert (selection.time_range, selection.region, selection.polarity) == (time_range, region, polarity)
    assert selection.limit is None
    assert selection.columns == COLUMNS


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("integers", [T.dt.total_microseconds(), T.cast(pl.Int64)])
def test_integer_times_reach_the_decoder(spied, engine, integers):
    lazy, spy, frame = spied
    condition = (integers >= 2_000) & (integers < 5_000)
    assert_frame_equal(lazy.filter(condition).collect(engine=engine), frame.filter(condition))
    assert [selection.time_range for selection in spy.selections] == [(2_000, 5_000)]


def test_analyse_region():
    selection = analyse((X >= 10) & (X < 20) & (Y > 4) & (Y <= 9), COLUMNS)
    assert selection.region == (10, 5, 10, 5)


def test_analyse_survives_what_it_does_not_know():
    assert analyse(pl.lit(True), COLUMNS).time_range == (None, None)
    strange = pl.col("x").map_elements(str.isdigit, return_dtype=pl.Boolean)
    assert analyse(strange & (X < 3), COLUMNS).polarity is None


numbers = st.integers(-5, 45)
comparisons = st.one_of(
    st.builds(
        lambda column, op, value: op(column, value),
        st.sampled_from([X, Y, P, X.cast(pl.Int64), -X, X * 2, Y + 3]),
        st.sampled_from([pl.Expr.lt, pl.Expr.le, pl.Expr.gt, pl.Expr.ge, pl.Expr.eq, pl.Expr.ne]),
        numbers,
    ),
    st.builds(
        lambda op, value: op(T, pl.lit(us(value))),
        st.sampled_from([pl.Expr.lt, pl.Expr.le, pl.Expr.gt, pl.Expr.ge, pl.Expr.eq, pl.Expr.ne]),
        numbers,
    ),
    st.builds(
        lambda low, high, closed: T.is_between(us(low), us(high), closed=closed),
        numbers,
        numbers,
        st.sampled_from(["both", "left", "right", "none"]),
    ),
    st.builds(lambda low, high: X.is_between(low, high, closed="none"), numbers, numbers),
    st.builds(lambda low, high: X.is_between(pl.col("y") - low, high), numbers, numbers),
    st.builds(
        lambda time, op, value: op(time, value),
        st.sampled_from(
            [
                T.dt.total_microseconds(),
                T.dt.total_microseconds(fractional=True),
                T.dt.total_milliseconds(),
                T.cast(pl.Int64),
                T.alias("t").cast(pl.Int64, strict=False),
                T.cast(pl.Int16),
                T.cast(pl.Duration("ms")).cast(pl.Int64),
            ]
        ),
        st.sampled_from([pl.Expr.lt, pl.Expr.le, pl.Expr.gt, pl.Expr.ge, pl.Expr.eq, pl.Expr.ne]),
        numbers,
    ),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
        st.builds(lambda a: a.alias("named"), inner),
    ),
    max_leaves=6,
)


@given(conditions)
@settings(max_examples=300)
def test_analyse_is_sound(predicate):
    """No row that the predicate keeps is outside the bounds."""
    grid = pl.DataFrame({"x": range(41)}).join(pl.DataFrame({"t": [0, 1, 5, 20, 40]}), how="cross")
    grid = grid.join(pl.DataFrame({"polarity": [1, -1]}), how="cross")
    grid = grid.select("x", y=(pl.col("x") * 7) % 41, timestamp="t", polarity="polarity").cast(SCHEMA)
    selection = analyse(predicate, COLUMNS)
    kept = grid.filter(predicate)
    if kept.is_empty():
        return
    assert selection.limit is None
    start, end = selection.time_range
    assert start is None or kept["timestamp"].min() >= us(start)
    assert end is None or kept["timestamp"].max() < us(end)
    if selection.region is not None:
        x, y, width, height = selection.region
        assert x <= kept["x"].min() <= kept["x"].max() < x + width
        assert y <= kept["y"].min() <= kept["y"].max() < y + height
    assert selection.polarity is None or (kept["polarity"] == selection.polarity).all()


# --- several files -------------------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    for at, kind in enumerate(["evt3", "evt2", "dat"]):
        (folder / f"part{at}.raw").write_bytes(recording(kind, sensor_stream(kind, 100 + at, seed=at)))
    return folder


def test_several_paths_follow_each_other(several):
    paths = sorted(several.iterdir(), reverse=True)
    expected = pl.concat([evlib.read_events(path) for path in paths])
    for engine in ENGINES:
        assert_frame_equal(evlib.load_events(paths).collect(engine=engine), expected)
    filtered = evlib.load_events([str(path) for path in paths]).filter(X > 300).head(7).select("y")
    assert_frame_equal(filtered.collect(), expected.filter(X > 300).head(7).select("y"))


def test_glob_is_in_order_of_names(several):
    expected = pl.concat([evlib.read_events(path) for path in sorted(several.iterdir())])
    assert_frame_equal(evlib.load_events(several / "part*.raw").collect(), expected)
    first = pl.concat([evlib.read_events(several / f"part{at}.raw") for at in (0, 1)])
    assert_frame_equal(evlib.load_events(str(several / "part[01].raw")).collect(), first)


def test_a_name_with_glob_characters_is_a_file(several):
    strange = several / "part[1].raw"
    strange.write_bytes((several / "part2.raw").read_bytes())
    assert_frame_equal(evlib.load_events(strange).collect(), evlib.read_events(several / "part2.raw"))


@pytest.mark.parametrize("engine", ENGINES)
def test_source_column(several, engine):
    lazy = evlib.load_events(several / "*.raw", source=True)
    assert dict(lazy.collect_schema()) == {**SCHEMA, "source": pl.String()}
    frame = lazy.collect(engine=engine)
    names = [str(path) for path in sorted(several.iterdir())]
    lengths = [evlib.read_events(path).height for path in names]
    assert frame["source"].to_list() == [name for name, n in zip(names, lengths, strict=True) for _ in range(n)]
    assert lazy.select("source").unique().sort("source").collect(engine=engine)["source"].to_list() == names
    one = lazy.filter(pl.col("source") == names[1], P == 1).select("x", "source").collect(engine=engine)
    assert_frame_equal(one, frame.filter(pl.col("source") == names[1], P == 1).select("x", "source"))
    counted = lazy.group_by("source").len().sort("source").collect(engine=engine)
    assert counted["len"].to_list() == lengths


def test_source_of_one_file(path):
    lazy = evlib.load_events(path, source=True)
    assert lazy.select(pl.col("source").first()).collect().item() == str(path)
    assert lazy.head(3).select("source").collect()["source"].to_list() == [str(path)] * 3


# --- errors --------------------------------------------------------------------------------------------------------

OPENERS = [evlib.load_events, evlib.read_events, evlib.open, evlib.identify]


@pytest.mark.parametrize("function", OPENERS)
def test_missing_file(function, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("no.raw")) as caught:
        function(tmp_path / "no.raw")
    assert isinstance(caught.value, evlib.EvlibError)
    assert isinstance(caught.value, OSError)
    assert caught.value.filename == str(tmp_path / "no.raw")


def test_glob_without_files(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        evlib.load_events(tmp_path / "*.raw")
    assert isinstance(caught.value, evlib.EvlibError)


@pytest.mark.parametrize("function", OPENERS)
def test_directory(function, tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        function(tmp_path)
    assert isinstance(caught.value, evlib.EvlibError)


@pytest.fixture
def ordinary_user():
    """Not root, who may read everything."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no POSIX permissions here")
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def forbidden(path):
    path.chmod(0)
    return path


@pytest.mark.parametrize("function", OPENERS)
def test_no_permission(function, forbidden, ordinary_user):
    with pytest.raises(PermissionError) as caught:
        function(forbidden)
    assert isinstance(caught.value, evlib.EvlibError)
    assert caught.value.filename == str(forbidden)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("function", OPENERS)
def test_pipe_is_refused_and_does_not_hang(function, tmp_path):
    pipe = tmp_path / "pipe.raw"
    os.mkfifo(pipe)
    with pytest.raises(evlib.EvlibError, match="not a regular file"):
        function(pipe)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG picture"),
        (b"MATLAB 5.0 MAT-file" + bytes(100), "a MATLAB file"),
        (b"once upon a time\n" * 100, "text that starts with"),
        (bytes(5000), "zero bytes"),
        (b"\x1f\x8b" + bytes(range(256)), "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
@pytest.mark.parametrize("function", OPENERS)
def test_unknown_content(function, content, found, save):
    path = save(content)
    with pytest.raises(evlib.FormatError, match=re.escape(found)) as caught:
        function(path)
    error = caught.value
    assert isinstance(error, evlib.EvlibError)
    assert isinstance(error, ValueError)
    assert error.path == str(path)
    assert error.offset == 0
    assert error.expected
    assert found in error.found
    assert str(path) in str(error)


def test_unsupported_encoding_is_named(save):
    path = save(b"% format HISTO3D;height=320;width=320\n% end\n" + bytes(100))
    with pytest.raises(exceptions.UnsupportedError, match="HISTO3D") as caught:
        evlib.load_events(path)
    assert isinstance(caught.value, evlib.FormatError)
    assert caught.value.path == str(path)
    assert "HISTO3D" in caught.value.found


def test_dat_without_records_is_a_format_error(save):
    path = save(b"% Version 2\n% end\n")
    with pytest.raises(evlib.FormatError) as caught:
        evlib.read_events(path)
    assert caught.value.offset == len(b"% Version 2\n% end\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "evt9"}, "evt9"),
        ({"geometry": (0, 480)}, "0"),
        ({"geometry": (640, 100_000)}, "100000"),
        ({"threads": 0}, "threads"),
        ({"on_problem": "ignore"}, "on_problem"),
    ],
)
@pytest.mark.parametrize("function", [evlib.load_events, evlib.read_events, evlib.open])
def test_bad_arguments_of_opening(function, arguments, message, path):
    with pytest.raises(ValueError, match=message) as caught:
        function(path, **arguments)
    assert isinstance(caught.value, exceptions.ArgumentError)
    assert isinstance(caught.value, evlib.EvlibError)
    assert not isinstance(caught.value, evlib.FormatError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["x", "z"]}, "`z`"),
        ({"polarity": 0}, "0"),
        ({"polarity": 2}, "2"),
        ({"region": (0, 0, -1, 5)}, "region"),
        ({"region": (0, 0, 5)}, "region"),
        ({"time_range": (1.5, 3)}, "1.5"),
        ({"time_range": (None, "1s")}, "1s"),
    ],
)
def test_bad_arguments_of_reading(arguments, message, path, tmp_path):
    # The caller's mistake comes before the file's fault.
    for name in (path, tmp_path / "missing.raw"):
        with pytest.raises(exceptions.ArgumentError, match=re.escape(message)):
            evlib.read_events(name, **arguments)


@pytest.mark.parametrize("rows", [0, -1])
def test_bad_batches(rows, path):
    with pytest.raises(exceptions.ArgumentError):
        evlib.load_events(path, batch_rows=rows)
    with pytest.raises(exceptions.ArgumentError):
        evlib.open(path).batches(rows=rows)
    with pytest.raises(exceptions.ArgumentError):
        evlib.open(path).batches(duration=rows)
    with pytest.raises(exceptions.ArgumentError):
        evlib.open(path).batches(rows=5, duration=5)


def test_no_paths():
    with pytest.raises(exceptions.ArgumentError):
        evlib.load_events([])


def test_every_exception_is_an_evlib_error():
    for name in exceptions.__all__:
        assert issubclass(getattr(exceptions, name), evlib.EvlibError)


def test_on_problem_raise(save):
    payload = sensor_stream("evt2", 100)
    damaged = save(recording("evt2", payload + b"\x00"))
    for function in (evlib.open, evlib.load_events, evlib.read_events):
        with pytest.raises(evlib.exceptions.ProblemError, match="TRUNCATED") as caught:
            function(damaged, on_problem="raise")
        assert isinstance(caught.value, evlib.FormatError)
        assert caught.value.path == str(damaged)
    clean = save(recording("evt2", pack("evt2", [time_word("evt2", 1), cd2(1, 2, 3, 1)])))
    assert evlib.read_events(clean, on_problem="raise").height == 1
    assert evlib.load_events(clean, on_problem="raise").collect().height == 1


def test_error_in_a_query_keeps_its_type(big):
    lazy = evlib.load_events(big)
    os.truncate(big, 500)
    for engine in ENGINES:
        with truncated_query(big):
            lazy.collect(engine=engine)


# --- a file that another process truncates -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["evt2", "evt3", "dat"])
@pytest.mark.parametrize("left", [0.9, 0.5, 0.01, 0.0])
def test_file_truncated_after_opening(kind, left, save):
    payload = sensor_stream(kind, 60_000, seed=1)
    while len(payload) < 2_000_000:
        payload += payload
    data = recording(kind, payload)
    uses = {
        "read": lambda opened: opened.read(),
        "problems": lambda opened: opened.problems,
        "event_count": lambda opened: opened.event_count,
        "time_range": lambda opened: opened.time_range,
        "batches": lambda opened: list(opened.batches(rows=10_000)),
        "windows": lambda opened: list(opened.batches(duration=10_000)),
        "save_index": lambda opened: opened.save_index(),
    }
    for name, use in uses.items():
        path = save(data)
        opened = evlib.open(path)
        os.truncate(path, int(len(data) * left))
        with pytest.raises(exceptions.TruncatedError) as caught:
            use(opened)
        assert isinstance(caught.value, OSError), name
        assert caught.value.path == str(path), name
    for query in (lambda opened: opened.events.select(pl.len()), lambda opened: opened.triggers):
        path = save(data)
        lazy = query(evlib.open(path))
        os.truncate(path, int(len(data) * left))
        with truncated_query(path):
            lazy.collect()


def test_file_truncated_after_indexing(big):
    opened = evlib.open(big)
    assert opened.event_count == 300_000
    os.truncate(big, 600_000)
    with pytest.raises(exceptions.TruncatedError):
        opened.read()
    with truncated_query(big):
        opened.events.collect()


def test_file_truncated_between_batches(big):
    batches = evlib.open(big, threads=1).batches(rows=1_000)
    seen = [next(batches) for _ in range(3)]
    os.truncate(big, 10_000)

    def exhaust():
        for batch in batches:
            seen.append(batch)

    with pytest.raises(exceptions.TruncatedError):
        exhaust()
    assert sum(batch.height for batch in seen) < 300_000


def test_file_removed_after_opening_is_still_read(path):
    expected = evlib.read_events(path)
    lazy = evlib.load_events(path)
    path.unlink()
    assert_frame_equal(lazy.collect(), expected)


def test_paths_of_every_kind(path, monkeypatch):
    expected = evlib.read_events(path)
    monkeypatch.chdir(path.parent)
    for name in (str(path), path, pathlib.Path(path.name), path.name):
        assert_frame_equal(evlib.read_events(name), expected)
        assert_frame_equal(evlib.load_events(name).collect(), expected)
    umlaut = path.with_name("Aufnahme \N{LATIN SMALL LETTER U WITH DIAERESIS} 1.raw")
    umlaut.write_bytes(path.read_bytes())
    assert_frame_equal(evlib.load_events(umlaut, source=True).drop("source").collect(), expected)


def test_header_of_an_empty_recording(save):
    lazy = evlib.load_events(save(header("evt3")))
    for engine in ENGINES:
        assert lazy.collect(engine=engine).is_empty()
        assert lazy.select(pl.len()).collect(engine=engine).item() == 0
        assert lazy.head(5).filter(X > 1).collect(engine=engine).is_empty()


# --- pickles and many files ----------------------------------------------------------------------------------------


def test_a_pickled_frame_reads_the_file_again(big):
    pytest.importorskip("cloudpickle")
    lazy = evlib.load_events(big).filter(pl.col("x") < 100)
    again = pl.LazyFrame.deserialize(io.BytesIO(lazy.serialize()))
    assert_frame_equal(again.collect(), lazy.collect())


def test_more_files_than_may_be_open(tmp_path):
    resource = pytest.importorskip("resource")
    paths = [tmp_path / f"{number:03}.raw" for number in range(90)]
    for number, path in enumerate(paths):
        evlib.write_events({"x": [number], "y": [0], "timestamp": [5], "polarity": [1]}, path, geometry=(640, 480))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = pathlib.Path("/proc/self/fd")
    open_now = len(list(descriptors.iterdir())) if descriptors.is_dir() else 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 40, hard))
    try:
        assert evlib.load_events(tmp_path / "*.raw").collect()["x"].to_list() == list(range(90))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- what is the caller's mistake ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"time_range": 5},
        {"time_range": (1, 2, 3)},
        {"time_range": ("a", None)},
        {"region": (0.5, 0, 2, 10)},
        {"region": (0, 0, 2**40, 2)},
        {"geometry": "640x480"},
        {"geometry": (-640, 480)},
        {"threads": -1},
        {"threads": 0},
        {"threads": 1.5},
        {"columns": ["x", "x"]},
        {"columns": []},
        {"polarity": True},
        {"format": 3},
    ],
)
def test_mistakes_are_argument_errors(big, arguments):
    with pytest.raises(evlib.exceptions.ArgumentError):
        evlib.read_events(big, **arguments)


def test_times_beyond_int64_are_open_ends(big):
    assert_frame_equal(evlib.read_events(big, time_range=(-(2**70), 2**70)), evlib.read_events(big))
