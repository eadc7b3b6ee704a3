"""Event Stream: the recording, the sheet's vectors, damage, writing."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest
from conftest import problem_counts, rows
from hypothesis import given
from hypothesis import strategies as st
from streams import es, es_header

import evlib

DVS = bytes.fromhex("0101000200 FC03000400 FF017F02DF01 FFFFFFFFFFE005000600")
ATIS = bytes.fromhex("FA01000200 FD0103000400 FFFFFFFFFDE32F01EF00")


def make(count: int, seed: int = 0, width: int = 320, height: int = 240) -> bytes:
    """A payload as a sensor sends it, with silences and fillers."""
    numbers = random.Random(seed)
    out = bytearray()
    for _ in range(count):
        out += numbers.choice([b"", b"", b"", b"", b"", b"", b"\xff", b"\xfe", b"\xff" * 50])
        out += bytes([numbers.randrange(254)])
        out += numbers.randrange(width).to_bytes(2, "little") + numbers.randrange(height).to_bytes(2, "little")
    return bytes(out)


@pytest.fixture
def recording(shared):
    return shared / "recordings" / "faery_dvs.es"


def test_what_the_recording_says(recording):
    assert evlib.open(recording).metadata == {"version": "2.0.0", "type": "dvs"}


def test_selections_of_the_recording(recording):
    everything = evlib.read_events(recording)
    some = evlib.read_events(
        recording, columns=["y", "timestamp"], time_range=(200_000, 210_000), region=(100, 150, 40, 50), polarity=-1
    )
    micros = pl.col("timestamp").dt.total_microseconds()
    expected = everything.filter(
        (micros >= 200_000) & (micros < 210_000),
        pl.col("x").is_between(100, 139) & pl.col("y").is_between(150, 199),
        pl.col("polarity") == -1,
    ).select("y", "timestamp")
    assert expected.height > 0
    assert some.equals(expected)
    assert evlib.load_events(recording).head(1234).collect().equals(everything.head(1234))


def test_the_sheets_vectors(save):
    path = save(es_header(1, 640, 480) + DVS, ".es")
    assert rows(evlib.read_events(path)) == [(1, 477, 0, 1), (3, 475, 126, -1), (639, 0, 253, 1), (5, 473, 1000, -1)]
    path = save(es_header(2, 304, 240) + ATIS, ".es")
    assert rows(evlib.read_events(path)) == [(1, 237, 62, 1)]
    assert evlib.open(path).problems.is_empty()


@pytest.mark.parametrize(("kind", "payload"), [(1, DVS), (2, ATIS)])
def test_cut_at_every_byte(kind, payload, save):
    for end in range(len(payload) + 1):
        opened = evlib.open(save(es_header(kind, 640, 480) + payload[:end]))
        expected, problems = es(kind, payload[:end], 640, 480)
        assert rows(opened.read()) == expected
        assert problem_counts(opened) == problems


def test_cut_inside_the_header(save):
    whole = es_header(1)
    for end in range(12, len(whole)):
        with pytest.raises(evlib.FormatError, match="ends inside its header") as caught:
            evlib.open(save(whole[:end]))
        assert caught.value.offset == end
        assert "20 bytes" in caught.value.expected
    assert evlib.open(save(whole)).event_count == 0
    assert evlib.open(save(es_header(0))).format == "es"


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_damage_is_decoded_as_it_stands(kind, seed, save):
    numbers = random.Random(seed)
    payload = bytearray(make(30_000, seed))
    del payload[50_000]
    for _ in range(40):
        payload[numbers.randrange(len(payload))] = numbers.randrange(256)
    opened = evlib.open(save(es_header(kind) + payload))
    expected, problems = es(kind, bytes(payload))
    assert rows(opened.read()) == expected
    assert problem_counts(opened) == problems
    assert rows(pl.concat(list(evlib.open(opened.path, threads=2).batches(rows=999)))) == expected


@given(payload=st.binary(max_size=400), kind=st.sampled_from([1, 2]))
def test_any_bytes(payload, kind, save):
    opened = evlib.open(save(es_header(kind, 200, 100) + payload))
    expected, problems = es(kind, payload, 200, 100)
    assert rows(opened.read()) == expected
    assert rows(evlib.load_events(opened.path).collect()) == expected
    assert problem_counts(opened) == problems


@pytest.mark.parametrize(
    ("head", "error", "offset", "expected", "found"),
    [
        (es_header(1, version=(1, 0, 0)), evlib.exceptions.UnsupportedError, 12, "version 2", "version 1.0.0"),
        (es_header(1, version=(3, 1, 4)), evlib.exceptions.UnsupportedError, 12, "version 2", "version 3.1.4"),
        (
            es_header(9),
            evlib.exceptions.UnsupportedError,
            15,
            "0 (generic), 1 (DVS), 2 (ATIS), 3 (AMD) or 4 (colour)",
            "9",
        ),
        (es_header(1, 0, 240), evlib.FormatError, 16, "1 to 32768 pixels each way", "0x240"),
        (es_header(2, 40_000, 240), evlib.FormatError, 16, "1 to 32768 pixels each way", "40000x240"),
    ],
)
def test_wrong_headers(head, error, offset, expected, found, save):
    with pytest.raises(error) as caught:
        evlib.open(save(head))
    assert (caught.value.offset, caught.value.expected, caught.value.found) == (offset, expected, found)


@pytest.mark.parametrize(("kind", "name"), [(0, "generic"), (3, "AMD"), (4, "colour")])
def test_other_types_have_no_events(kind, name, save):
    opened = evlib.open(save(es_header(kind) + bytes(100)))
    assert opened.metadata["type"] == name.lower()
    for read in (opened.read, lambda: opened.event_count, lambda: list(opened.batches()), opened.events.collect):
        with pytest.raises(evlib.exceptions.UnsupportedError) as caught:
            read()
        assert caught.value.found == f"type {kind} ({name})"
        assert caught.value.path == str(opened.path)


def side(rows: list, columns: dict[str, pl.DataType]) -> pl.DataFrame:
    """Rows of a stream beside the events, whose first column is the time in microseconds."""
    types = {"timestamp": pl.Int64, **columns}
    return pl.DataFrame(rows, schema=types, orient="row").with_columns(pl.col("timestamp").cast(pl.Duration("us")))


PIXEL = {"x": pl.Int16, "y": pl.Int16}


def test_colours(save):
    payload = bytes.fromhex("0501000200102030 FEFF FD3F01EF00FF0001 000F27000000 0000 01030004000A0B0C 07")
    opened = evlib.open(save(es_header(4) + payload, ".es"))
    assert opened.streams.select("name", "kind").rows() == [("colours", "other")]
    expected = side(
        [(5, 1, 237, 16, 32, 48), (512, 319, 0, 255, 0, 1), (513, 3, 235, 10, 11, 12)],
        {**PIXEL, "r": pl.UInt8, "g": pl.UInt8, "b": pl.UInt8},
    )
    colours = opened.load_stream("colours")
    assert_same(colours.collect(), expected)
    assert_same(
        colours.filter(pl.col("r") < 100).select("b", "timestamp").collect(), expected[[0, 2]]["b", "timestamp"]
    )
    assert_same(colours.head(1).collect(), expected[:1])
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 1, "TRUNCATED": 1}


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.schema == expected.schema
    assert found.rows() == expected.rows()


def test_exposures(save):
    opened = evlib.open(save(es_header(2, 304, 240) + ATIS, ".es"))
    assert opened.streams["name"].to_list() == ["events", "exposures"]
    expected = side([(125, 3, 235, 1), (1000, 303, 0, 2)], {**PIXEL, "threshold": pl.UInt8})
    assert_same(opened.load_stream("exposures").collect(), expected)
    with pytest.raises(evlib.exceptions.ArgumentError, match="one of `exposures`"):
        opened.load_stream("colours")
    with pytest.raises(evlib.exceptions.ArgumentError, match="not one of events"):
        evlib.open(opened.path, stream="exposures")


def test_displays(save):
    opened = evlib.open(save(es_header(3) + bytes.fromhex("05 01FF09 FF 00 020304 FE"), ".es"))
    expected = side([(5, 1, 255, 9), (259, 2, 3, 4)], {**PIXEL, "s": pl.UInt8})
    assert_same(opened.load_stream("displays").collect(), expected)
    assert opened.problems.is_empty()


def generic(messages: list[tuple[int, bytes]]) -> bytes:
    out = bytearray()
    for ahead, message in messages:
        out += b"\xff" * (ahead // 254) + bytes([ahead % 254])
        size = len(message)
        while True:
            out.append((size & 127) << 1 | (size > 127))
            size >>= 7
            if size == 0:
                break
        out += message
    return bytes(out)


@given(messages=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=300))))
def test_messages(messages, save):
    opened = evlib.open(save(es_header(0) + generic(messages), ".es"))
    times = np.cumsum([ahead for ahead, _ in messages]).tolist()
    expected = side(list(zip(times, (message for _, message in messages), strict=True)), {"bytes": pl.Binary})
    assert_same(opened.load_stream("messages").collect(), expected)
    assert opened.problems.is_empty()


def test_long_messages(save):
    messages = [(n, bytes([n]) * size) for n, size in enumerate([0, 5, 3_000_000, 2**21 - 1, 128, 9_000_000, 1])]
    opened = evlib.open(save(es_header(0) + generic(messages), ".es"))
    assert opened.load_stream("messages").collect()["bytes"].to_list() == [message for _, message in messages]
    opened.path.write_bytes(es_header(0) + generic(messages)[:-9_000_002])
    opened = evlib.open(opened.path)
    assert opened.load_stream("messages").collect().height == 5
    assert problem_counts(opened) == {"TRUNCATED": 1}


def test_a_message_too_long(save):
    opened = evlib.open(save(es_header(0) + b"\x00\x02a" + b"\x00" + b"\xff" * 9 + bytes(99), ".es"))
    with pytest.raises(evlib.FormatError, match="length of a message") as caught:
        opened.load_stream("messages").collect()
    assert (caught.value.offset, caught.value.path) == (19, str(opened.path))


@pytest.mark.parametrize("kind", [0, 2, 3, 4])
@given(payload=st.binary(max_size=300))
def test_streams_of_any_bytes(kind, payload, save):
    opened = evlib.open(save(es_header(kind, 200, 100) + payload, ".es"))
    name = opened.streams.filter(kind="other")["name"].item()
    try:
        frame = opened.load_stream(name).collect()
    except evlib.FormatError as error:
        assert kind == 0 and "length" in str(error)
        return
    assert frame["timestamp"].is_sorted()
    assert frame.height <= len(payload)


def test_content_wins_over_the_extension(save):
    for suffix in (".raw", ".csv", ".bin", ".txt", ""):
        assert evlib.identify(save(es_header(1) + DVS, suffix)).format == "es"
    with pytest.raises(evlib.FormatError, match="not an Event Stream") as caught:
        evlib.open(save(b"", ".es"), format="es")
    assert caught.value.found == "an empty file"
    with pytest.raises(evlib.FormatError, match="an empty file"):
        evlib.open(save(b"", ".es"))


def test_geometry_of_the_caller(save):
    path = save(es_header(1, 640, 480) + DVS)
    opened = evlib.open(path, geometry=(600, 400))
    assert opened.geometry == (600, 400)
    assert rows(opened.read()) == [(1, 397, 0, 1), (3, 395, 126, -1), (5, 393, 1000, -1)]
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 1}


def test_saved_index(save):
    path = save(es_header(1) + make(200_000))
    first = evlib.open(path)
    events = first.read()
    first.save_index()
    again = evlib.open(path)
    assert again.is_indexed
    assert again.read(time_range=(10**6, 2 * 10**6)).equals(first.read(time_range=(10**6, 2 * 10**6)))
    assert again.read().equals(events)


EVENTS = st.lists(st.tuples(st.integers(0, 319), st.integers(0, 239), st.integers(0, 2000), st.sampled_from([1, -1])))


@given(events=EVENTS)
def test_written_and_read(events, tmp_path):
    x, y, ahead, p = (np.array(column, "i8") for column in (zip(*events, strict=True) if events else ([], [], [], [])))
    data = {"x": x, "y": y, "timestamp": np.cumsum(ahead), "polarity": p}
    path = tmp_path / "written.es"
    assert evlib.write_events(data, path, geometry=(320, 240), overwrite=True) == len(events)
    opened = evlib.open(path, on_problem="raise")
    assert opened.geometry == (320, 240)
    expected = list(zip(*(column.tolist() for column in data.values()), strict=True))
    assert rows(opened.read()) == expected
    assert es(1, path.read_bytes()[20:]) == (expected, {})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, 0, -1, 1), "row 1: expected a time of at least 0 us"),
        ((0, 0, 4, 1), "row 1: expected times in order"),
        ((0, 0, 2**35, 1), "row 1: expected a time before"),
        ((320, 0, 9, 1), "row 1: expected a pixel of 320x240"),
        ((0, 240, 9, 1), "row 1: expected a pixel of 320x240"),
        ((0, 0, 9, 0), "row 1: expected polarity"),
    ],
)
def test_what_cannot_be_written(row, message, tmp_path):
    names = ("x", "y", "timestamp", "polarity")
    data = {name: [first, value] for name, first, value in zip(names, (1, 1, 5, 1), row, strict=True)}
    with pytest.raises(evlib.exceptions.ArgumentError, match=message):
        evlib.write_events(data, tmp_path / "no.es", geometry=(320, 240))
    assert not list(tmp_path.iterdir())
