"""Text and CSV: layouts, units, exact times, bad lines, writing."""

from __future__ import annotations

import pickle
import random

import polars as pl
import pytest
from conftest import problem_counts, rows
from hypothesis import given
from hypothesis import strategies as st
from streams import text

import evlib


def make(count: int, seed: int = 0) -> str:
    numbers = random.Random(seed)
    t = 0
    out = []
    for _ in range(count):
        t += numbers.randrange(40)
        polarity = numbers.randrange(2)
        out.append(f"{t // 10**6}.{t % 10**6:06}000 {numbers.randrange(240)} {numbers.randrange(180)} {polarity}\n")
    return "".join(out)


LAYOUTS = {
    "rpg": ("0.003811000 96 133 0\n0.003820001 17 172 1\n", "t x y p", "blank", "s", None),
    "e2vid": ("240 180\n0.003811000 96 133 0\n0.003820001 17 172 1\n", "t x y p", "blank", "s", (240, 180)),
    "v2e": ("# v2e\n# more\n0.003811 96 133 0 1\n0.003820001 17 172 1 0\n", "t x y p", "blank", "s", None),
    "v2e, as written": (
        "#!events.txt\n# created by v2e\n# timestamp x y polarity\n0.003811 96 133 0\n0.003820001 17 172 1\n",
        "t x y p",
        "blank",
        "s",
        None,
    ),
    "openeb": ("%geometry:640,480\n96,133,0,3811\n17,172,1,3820\n", "x y p t", "comma", "us", (640, 480)),
    "openeb, bare": ("96,133,0,3811\n17,172,1,3820\n", "x y p t", "comma", "us", None),
    "faery": ("t,x@640,y@480,on\r\n3811,96,133,0\r\n3820,17,172,1\r\n", "t x y p", "comma", "us", (640, 480)),
    "named": ("timestamp, x, y, polarity\n3811, 96, 133, 0\n3820, 17, 172, 1\n", "t x y p", "comma", "us", None),
    "frame": (",x,y,pol,ts\n0,96,133,-1,3811.0\n1,17,172,1,3820.0\n", "_ x y p t", "comma", None, None),
    "tabs": ("x\ty\tp\tt_ns\n96\t133\tFalse\t3811000\n17\t172\tTrue\t3820000\n", "x y p t", "tab", "ns", None),
    "semicolons": ("t(ms);x;y;p\n3.811;96;133;-\n3.820;17;172;+\n", "t x y p", "semicolon", "ms", None),
    "bom": ("\ufefft_us,x,y,p\n3811,96,133,0\n3820,17,172,1", "t x y p", "comma", "us", None),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, save):
    content, columns, separator, unit, geometry = LAYOUTS[name]
    opened = evlib.open(save(content.encode(), ".txt"))
    assert opened.format == "text"
    assert opened.confidence in ("likely", "guess")
    assert (opened.metadata["columns"], opened.metadata["separator"]) == (columns, separator)
    if unit is not None:
        assert opened.metadata["time_unit"] == unit
        assert rows(opened.read()) == [(96, 133, 3811, -1), (17, 172, 3820, 1)]
    assert opened.metadata["reason"]
    assert opened.geometry == geometry
    assert opened.problems.is_empty()


@pytest.mark.parametrize(
    ("line", "microseconds"),
    [
        ("0.0000005", 1),
        ("0.00000049999", 0),
        ("1e-6", 1),
        ("1.5E-3", 1500),
        ("-0.25", -250_000),
        ("1600000000.123456", 1_600_000_000_123_456),
        ("1600000000.123456789", 1_600_000_000_123_457),
        ("0.1", 100_000),
        (".5", 500_000),
        ("9007199254.740993", 9_007_199_254_740_993),
        ("4611686018427.387905", 4_611_686_018_427_387_905),
    ],
)
def test_seconds_are_exact(line, microseconds, save):
    path = save(f"{line} 1 2 1\n".encode())
    assert rows(evlib.read_events(path, text_columns="t x y p")) == [(1, 2, microseconds, 1)]


@pytest.mark.parametrize("form", [".18e", "f", ".1f", ".6f", "g"])
@pytest.mark.parametrize("columns", ["txyp", "xypt", "xytp"])
@pytest.mark.parametrize("step", [1, 97])
def test_whole_floating_point_times_are_microseconds(form, columns, step, save):
    """`numpy.savetxt` writes an array of whole microseconds like this, pixels and polarity too."""
    expected = [(i * 7 % 31, i * 5 % 23, i * step, i % 2 * 2 - 1) for i in range(1000)]
    lines = []
    for x, y, t, p in expected:
        values = {"t": t, "x": x, "y": y, "p": (p + 1) // 2}
        lines.append(" ".join(format(float(values[column]), form) for column in columns))
    opened = evlib.open(save("\n".join(lines).encode(), ".txt"))
    assert (opened.metadata["columns"], opened.metadata["time_unit"]) == (" ".join(columns), "us")
    assert rows(opened.read()) == expected
    seconds = save("\n".join(line.replace(" ", ",") for line in lines).encode(), ".csv")
    assert evlib.open(seconds, time_unit="s").read()["timestamp"].dt.total_seconds()[-1] == 999 * step


@pytest.mark.parametrize("form", [".18e", ".9f", "r"])
def test_floating_point_seconds(form, save):
    times = [i * 97 for i in range(1000)]
    written = [repr(t / 1e6) if form == "r" else format(t / 1e6, form) for t in times]
    lines = [f"{t} {i % 31:.1f} {i % 23:.1f} {i % 2:.1f}" for i, t in enumerate(written)]
    opened = evlib.open(save("\n".join(lines).encode(), ".txt"))
    assert opened.metadata["time_unit"] == "s"
    assert opened.read()["timestamp"].dt.total_microseconds().to_list() == times


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_long_file_in_every_way(threads, save):
    content = make(60_000)
    path = save(content.encode(), ".txt")
    expected, bad = text(content)
    assert bad == 0
    opened = evlib.open(path, threads=threads, on_problem="raise")
    frame = evlib.read_events(path, threads=threads)
    assert rows(frame) == expected
    assert opened.event_count == 60_000
    assert opened.read().equals(frame)
    assert opened.read(columns=["y"]).equals(frame.select("y"))
    assert pl.concat(list(opened.batches(rows=7001))).equals(frame)
    assert evlib.load_events(path, threads=threads, batch_rows=5000).collect().equals(frame)
    assert evlib.load_events(path, threads=threads).head(3).collect().equals(frame.head(3))
    window = evlib.read_events(path, threads=threads, time_range=(300_000, 310_000), region=(0, 0, 100, 100))
    micros = pl.col("timestamp").dt.total_microseconds()
    assert window.equals(frame.filter((micros >= 300_000) & (micros < 310_000), pl.col("x") < 100, pl.col("y") < 100))
    assert window.height > 0


def test_lines_that_are_none(save):
    content = (
        "\n0.5 1 2 1\r\n# a comment\n% another\nhello 1 2 3\n0.6 1 2\n0.7 1 2 7\n\n  0.8  3\t4  0 \n"
        "0.9 1 2 1 trailing\n1.0 x 2 1\n1.1 5 6 1"
    )
    opened = evlib.open(save(content.encode(), ".txt"))
    expected, bad = text(content)
    assert rows(opened.read()) == expected
    assert expected == [(1, 2, 500_000, 1), (3, 4, 800_000, -1), (1, 2, 900_000, 1), (5, 6, 1_100_000, 1)]
    assert problem_counts(opened) == {"BAD_LINE": bad} == {"BAD_LINE": 4}
    problem = opened.problems.row(0, named=True)
    assert problem["first_offset"] == content.index("hello")
    assert problem["bytes"] == sum(map(len, ["hello 1 2 3", "0.6 1 2", "0.7 1 2 7", "1.0 x 2 1"]))
    assert problem["examples"][0] == f"no time at byte {content.index('hello')}: `hello 1 2 3`"
    with pytest.raises(evlib.exceptions.ProblemError, match="BAD_LINE"):
        evlib.open(opened.path, on_problem="raise")


def test_pixels(save):
    opened = evlib.open(save(b"10 10\n0.1 9 9 1\n0.2 10 0 1\n0.3 -1 0 0\n0.4 3.0 4.6 0\n0.5 99999 1 1\n"))
    assert rows(opened.read()) == [(9, 9, 100_000, 1), (3, 5, 400_000, -1)]
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 3, "ROUNDED": 1}
    assert dict(opened.problems.select("code", "severity").iter_rows())["ROUNDED"] == "note"
    wide = evlib.open(opened.path, geometry=(32_768, 32_768))
    assert problem_counts(wide) == {"OUT_OF_BOUNDS": 2, "ROUNDED": 1}


@pytest.mark.parametrize("content", ["1 1 1 1\n", "1 2 3 1\n", "t,x,y\n1,2,3\n", "5 5 5 5\n6 6 6 6\n"])
def test_unclear_columns_need_a_word(content, save):
    path = save(content.encode(), ".txt")
    with pytest.raises(evlib.FormatError, match="text_columns"):
        evlib.open(path, format="text")
    if content[0] != "t":
        with pytest.raises(evlib.FormatError, match="text_columns"):
            evlib.open(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("t,x,y,p\n0 days 00:00:00.000010,1,2,1\n", "no time in"),
        ("t,x,y,p\n10,1,2,T\n20,1,2,F\n", "no polarity in `10,1,2,T`"),
        ("t;x;y;p\n0,5;1;2;1\n0,6;1;2;0\n", "no time in `0,5;1;2;1`"),
    ],
)
def test_names_over_lines_that_are_no_events(content, why, save):
    with pytest.raises(evlib.FormatError, match="no line is an event") as caught:
        evlib.open(save(content.encode(), ".csv"))
    assert why in caught.value.found
    assert caught.value.offset == content.index("\n") + 1


def test_columns_of_the_caller(save):
    path = save(b"1 2 3 1\n", ".txt")
    assert rows(evlib.read_events(path, text_columns="t x y p")) == [(2, 3, 1, 1)]
    assert rows(evlib.load_events(path, text_columns="x, y, t, p").collect()) == [(1, 2, 3, 1)]
    named = save(b"a,b,c,d,e\n7,1,2,3,0\n", ".csv")
    opened = evlib.open(named, text_columns="_ x y t p")
    assert rows(opened.read()) == [(1, 2, 3, -1)]
    assert opened.metadata["columns"] == "_ x y t p"
    assert opened.problems.is_empty()
    for wrong in ("", "t x y", "t x y q", "t t x y p"):
        with pytest.raises(evlib.exceptions.ArgumentError, match="text_columns"):
            evlib.open(path, text_columns=wrong)
    with pytest.raises(evlib.exceptions.ArgumentError, match="text_columns"):
        evlib.open(path, text_columns=3)  # type: ignore[arg-type]


def test_text_columns_are_for_text(save):
    path = save(b"% evt 3.0\n% end\n")
    with pytest.raises(evlib.exceptions.ArgumentError, match="`text_columns` is for text"):
        evlib.open(path, text_columns="t x y p")


def test_unit_and_offset_of_the_caller(save):
    path = save(b"7 1 2 1\n9 3 4 0\n", ".txt")
    options = {"text_columns": "t x y p", "time_unit": "ms", "time_offset": -1}
    expected = [(1, 2, 6999, 1), (3, 4, 8999, -1)]
    opened = evlib.open(path, **options)
    assert rows(opened.read()) == expected
    assert rows(evlib.read_events(path, **options)) == expected
    assert rows(evlib.load_events(path, **options).collect()) == expected
    assert rows(pickle.loads(pickle.dumps(opened)).read()) == expected
    nanoseconds = evlib.open(path, text_columns="t x y p", time_unit="ns")
    assert rows(nanoseconds.read()) == [(1, 2, 0, 1), (3, 4, 0, -1)]


def test_options_that_a_format_does_not_have(save, tmp_path):
    frame = evlib.simulate(1000, geometry=(100, 100), seed=1)
    without = {
        "raw": ("path_map", "time_unit", "time_offset", "pixel_parts", "text_columns", "stream"),
        "es": ("path_map", "time_unit", "time_offset", "pixel_parts", "text_columns", "stream"),
        "bin": ("path_map", "time_unit", "time_offset", "pixel_parts", "text_columns", "stream"),
        "txt": ("path_map", "pixel_parts", "stream"),
        "h5": ("text_columns",),
        "npy": ("text_columns",),
        "npz": ("text_columns",),
    }
    values = {
        "path_map": {"x": "a"},
        "time_unit": "us",
        "time_offset": 1,
        "pixel_parts": 32,
        "text_columns": "t x y p",
        "stream": "left",
    }
    for extension, names in without.items():
        path = tmp_path / f"a.{extension}"
        evlib.write_events(frame, path, geometry=(100, 100), format="atis-bin" if extension == "bin" else None)
        for name in names:
            with pytest.raises(evlib.exceptions.ArgumentError, match=name):
                evlib.open(path, **{name: values[name]})


def test_other_content(save):
    for content in (b"", b"hello world\n", b"\n\n", b"0.1 1 2 1\n" + bytes(10)):
        with pytest.raises(evlib.FormatError):
            evlib.open(save(content, ".csv"))
    assert evlib.identify(save(b"% evt 2.0\n% end\n", ".txt")).format == "evt2"
    assert evlib.identify(save(b"0.1 1 2 1\n", ".raw")).format == "text"
    assert evlib.open(save(b"", ".txt"), format="text").event_count == 0
    assert evlib.open(save(b"t,x,y,p\n", ".raw")).event_count == 0
    with pytest.raises(evlib.FormatError, match="cannot tell which column"):
        evlib.open(save(b"no events\nat all\n"), format="text")


def test_hints_for_text_are_about_text(save):
    for content in (b"hello world\n", b"\n\n", b"a,b,c\n1,2,3\n", b"1 2 3\n" * 9):
        with pytest.raises(evlib.FormatError, match="text_columns") as caught:
            evlib.open(save(content, ".csv"))
        assert "evt3" not in str(caught.value)
    with pytest.raises(evlib.FormatError, match="evt3"):
        evlib.open(save(b"0.1 1 2 1\n" + bytes(10), ".raw"))
    with pytest.raises(evlib.FormatError, match="carriage returns alone"):
        evlib.open(save(make(9000).replace("\n", "\r").encode(), ".txt"))


def test_cut_at_every_byte(save):
    content = "t,x,y,p\n0.5,1,2,1\n0.75,33,44,0\r\n-1e-3,5,6,1\n"
    header = content.index("\n") + 1
    for end in range(header, len(content) + 1):
        opened = evlib.open(save(content[:end].encode()), text_columns="t x y p")
        if end >= header + len("0.5,1,2,1"):
            assert opened.metadata["time_unit"] == "s"
            expected, bad = text(content[header:end], separator=",")
            assert rows(opened.read()) == expected
            assert problem_counts(opened).get("BAD_LINE", 0) == bad


@pytest.mark.parametrize("seed", range(5))
def test_mutated_text(seed, save):
    numbers = random.Random(seed)
    data = bytearray(make(20_000, seed).encode())
    for _ in range(200):
        data[numbers.randrange(100, len(data))] = numbers.choice(b"0123456789 .-e\n\r#x")
    opened = evlib.open(save(bytes(data), ".txt"), text_columns="t x y p")
    expected, bad = text(data.decode())
    inside = [row for row in expected if 0 <= row[0] < 32_768 and 0 <= row[1] < 32_768]
    assert rows(opened.read()) == inside
    assert rows(evlib.load_events(opened.path, text_columns="t x y p").collect()) == inside
    found = problem_counts(opened)
    assert (found.get("BAD_LINE", 0), found.get("OUT_OF_BOUNDS", 0)) == (bad, len(expected) - len(inside))


@given(data=st.binary(max_size=300))
def test_any_bytes(data, save):
    try:
        opened = evlib.open(save(data), format="text", text_columns="t x y p")
    except evlib.FormatError as error:
        assert any(why in str(error) for why in ("no line is an event", "carriage return"))
        opened = evlib.open(save(b"1 1 1 1\n" * 2 + data), format="text", text_columns="t x y p")
    assert rows(opened.read()) == rows(pl.concat([opened.read(), *list(opened.batches())]).head(opened.event_count))


def test_saved_index(save):
    path = save(make(80_000).encode(), ".txt")
    first = evlib.open(path)
    events = first.read()
    first.save_index()
    again = evlib.open(path)
    assert again.is_indexed
    assert again.read().equals(events)
    assert again.read(time_range=(10**6, 10**6 + 500)).equals(first.read(time_range=(10**6, 10**6 + 500)))
    other = evlib.open(path, text_columns="t y x p")
    assert not other.is_indexed
    assert "STALE_INDEX" in problem_counts(other)


I64 = st.integers(-(2**63), 2**63 - 2)
EVENTS = st.lists(
    st.tuples(st.integers(0, 32_767), st.integers(0, 32_767), I64, st.sampled_from([1, -1])), min_size=1, max_size=30
)


@given(events=EVENTS, suffix=st.sampled_from([".txt", ".csv"]))
def test_written_and_read(events, suffix, tmp_path):
    path = tmp_path / f"written{suffix}"
    columns = dict(zip(("x", "y", "timestamp", "polarity"), zip(*events, strict=True), strict=True))
    data = pl.DataFrame(columns, schema_overrides={"timestamp": pl.Int64})
    assert evlib.write_events(data, path, geometry=(32_768, 32_768), overwrite=True) == len(events)
    columns_given = None if suffix == ".csv" else "t x y p"
    assert rows(evlib.read_events(path, text_columns=columns_given, on_problem="raise")) == events


def test_what_is_written(tmp_path):
    data = {"x": [3, 4], "y": [5, 6], "timestamp": [1_000_001, 20], "polarity": [1, -1]}
    assert evlib.write_events(data, tmp_path / "a.txt", geometry=(640, 480)) == 2
    assert (tmp_path / "a.txt").read_text() == "1.000001 3 5 1\n0.000020 4 6 0\n"
    assert evlib.write_events(data, tmp_path / "a.csv", geometry=(640, 480)) == 2
    assert (tmp_path / "a.csv").read_text() == "t_us,x,y,p\n1000001,3,5,1\n20,4,6,0\n"
    with pytest.raises(evlib.exceptions.ArgumentError, match="row 0: expected a pixel of 3x480"):
        evlib.write_events(data, tmp_path / "b.csv", geometry=(3, 480))
