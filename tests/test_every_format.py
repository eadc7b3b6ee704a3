"""What holds for every format alike: damage, names that mislead, conversion into each other, any valid events."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import bags
import numpy as np
import polars as pl
import pytest
from conftest import problem_counts, rows
from hypothesis import given
from hypothesis import strategies as st
from test_aedat import polarity_packet, version_3

import evlib
from evlib import exceptions
from evlib.cli import _parser, main
from evlib.codecs import EventsCodec
from evlib.oblog import ObLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Row = tuple[int, int, int, int]

GEOMETRY = (128, 128)
"""That of a DVS128, which AEDAT 1.0 is of."""


def make(count: int = 60) -> list[Row]:
    random = np.random.default_rng(11)
    times = np.sort(random.integers(0, 200_000, count))
    columns = (random.integers(0, 128, count), random.integers(0, 128, count), times, random.choice([1, -1], count))
    return [tuple(row) for row in np.stack(columns, axis=1).tolist()]


EVENTS = make()
FRAME = pl.DataFrame(EVENTS, schema=["x", "y", "timestamp", "polarity"], orient="row")


@dataclass(frozen=True)
class Sample:
    """A small recording of `EVENTS`."""

    name: str
    write: Callable[[Path], Any]

    def at(self, folder: Path) -> Path:
        path = folder / self.name
        self.write(path)
        return path


def ours(name: str, **options: str) -> Sample:
    return Sample(name, lambda path: evlib.write_events(FRAME, path, geometry=GEOMETRY, **options))


def jaer(version: int) -> Callable[[Path], None]:
    """A recording of a DVS128, whose addresses count from the other corner; the lowest bit is set for darker."""

    def write(path: Path) -> None:
        layout = ">HI" if version == 1 else ">II"
        records = (struct.pack(layout, *address(row)) for row in EVENTS)
        head = f"#!AER-DAT{version}.0\r\n# AEChip: DVS128\r\n#End Of ASCII Header\r\n"
        path.write_bytes(head.encode() + b"".join(records))

    def address(row: Row) -> tuple[int, int]:
        x, y, t, p = row
        return ((127 - y) << 8 | (127 - x) << 1 | (p < 0), t)

    return write


def log(path: Path) -> None:
    with ObLog(path.parent / f"{path.name}.logs") as oblog:
        oblog.get_writer("camera", EventsCodec())(FRAME.cast({"x": pl.Int16, "y": pl.Int16, "polarity": pl.Int8}))
    (file,) = (path.parent / f"{path.name}.logs").rglob("*.mcap")
    file.rename(path)


def bag(kind: str) -> Sample:
    ending, write = bags.CONTAINERS[kind]
    messages = bags.packets([(x, y, t * 1000, (p + 1) // 2) for x, y, t, p in EVENTS], "mono", [20, 20])
    return Sample(f"a.{ending}", lambda path: write(path, messages))


SAMPLES = {
    **{name: ours(f"{name}.raw", format=name) for name in ("evt2", "evt21", "evt3", "evt4")},
    "dat": ours("a.dat"),
    "hdf5": ours("a.h5"),
    "hdf5 prophesee": ours("a.hdf5"),
    "npy": ours("a.npy"),
    "npz": ours("a.npz"),
    "aedat1": Sample("dvs128.dat", jaer(1)),
    "aedat2": Sample("dvs128.aedat", jaer(2)),
    "aedat3": Sample("b.aedat", lambda path: path.write_bytes(version_3(polarity_packet(EVENTS), ("DVS128",)))),
    "aedat4": ours("a.aedat4"),
    "es": ours("a.es"),
    "atis-bin": ours("a.bin", format="atis-bin"),
    "text": ours("a.txt"),
    "bag": bag("bag"),
    "db3": bag("db3"),
    "mcap": bag("mcap"),
    "oblog": Sample("log.mcap", log),
    "parquet": ours("a.parquet"),
    "arrow": ours("a.arrow"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return {name: sample.at(tmp_path_factory.mktemp("samples")) for name, sample in SAMPLES.items()}


def test_there_is_a_sample_of_every_format(tmp_path):
    with pytest.raises(exceptions.ArgumentError, match="unknown format") as caught:
        evlib.open(tmp_path, format="no such format")
    known = re.findall(r"`([\w-]+)`", caught.value.args[0].partition("found")[0])
    assert sorted(known) == sorted(_parser.FORMATS) == sorted({name.split()[0] for name in SAMPLES})


@pytest.mark.parametrize("name", SAMPLES)
def test_what_it_is_and_holds(name, files):
    opened = evlib.open(files[name], on_problem="raise")
    assert opened.format == name.split()[0]
    assert rows(opened.read()) == EVENTS


# --- damage --------------------------------------------------------------------------------------------------------


def read_in_all_ways(path: Path) -> list[Row] | None:
    """The events; none where the file is refused, as a whole or once it is read."""
    try:
        opened = evlib.open(path)
        found = opened.read()
        assert opened.event_count == found.height
        assert evlib.load_events(path, batch_rows=7).collect().equals(found)
        assert all(count > 0 for count in problem_counts(opened).values())
        assert opened.triggers.collect().height == opened.trigger_count
    except exceptions.EvlibError as error:
        assert str(error)
        return None
    # Payloads of a log are compared with their checksums where `verify` asks for it, and mapped otherwise.
    assert opened.format == "oblog" or set(found["polarity"]) <= {1, -1}
    return rows(found)


def is_part(part: list[Row], whole: list[Row]) -> bool:
    """Whether these are some of those, in their order."""
    rest = iter(whole)
    return all(row in rest for row in part)


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_at_every_byte(name, files, tmp_path):
    data = files[name].read_bytes()
    path = tmp_path / files[name].name
    # Pages of SQLite, and the space that HDF5 and Arrow leave free, are not looked at byte by byte.
    step = 1 if len(data) < 6000 else max(97, len(data) // 500)
    refused = 0
    for end in sorted({*range(0, len(data), step), *range(min(1500, len(data))), *range(len(data) - 64, len(data))}):
        path.write_bytes(data[:end])
        found = read_in_all_ways(path)
        refused += found is None
        if found is not None:
            assert is_part(found, EVENTS), f"cut at {end} of {len(data)}"
    assert refused > 0


@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_bytes(name, files, tmp_path):
    data = files[name].read_bytes()
    path = tmp_path / files[name].name
    random = np.random.default_rng([3, *name.encode()])
    for _ in range(120):
        changed = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 6)):
            changed[at] = random.integers(256)
        path.write_bytes(changed)
        read_in_all_ways(path)


@pytest.mark.parametrize("name", SAMPLES)
def test_zero_bytes(name, files, tmp_path):
    data = files[name].read_bytes()
    path = tmp_path / files[name].name
    path.write_bytes(bytes(len(data)))
    with pytest.raises(exceptions.FormatError):
        evlib.read_events(path)
    for start in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:start] + bytes(len(data) - start))
        read_in_all_ways(path)
        path.write_bytes(data[:start] + bytes(min(64, len(data) - start)) + data[start + 64 :])
        read_in_all_ways(path)


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_and_a_folder_of_its_name(name, files, tmp_path):
    path = tmp_path / files[name].name
    path.touch()
    for read in (evlib.open, evlib.identify, evlib.read_events, evlib.load_events):
        with pytest.raises(exceptions.FormatError, match=re.escape(path.name)):
            read(path)
    path.unlink()
    path.mkdir()
    for read in (evlib.open, evlib.identify, evlib.read_events, evlib.load_events):
        with pytest.raises(IsADirectoryError, match=re.escape(path.name)):
            read(path)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_extension_of_another_format(name, files, tmp_path):
    data = files[name].read_bytes()
    for suffix in sorted({path.suffix for path in files.values()} | {".xyz", ""}):
        path = tmp_path / f"renamed{suffix}"
        path.write_bytes(data)
        if name == "atis-bin" and suffix != ".bin":
            # Nothing but its extension tells it from noise.
            with pytest.raises(exceptions.FormatError):
                evlib.open(path)
            continue
        assert rows(evlib.read_events(path)) == EVENTS, suffix


# --- into each other -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", _parser.WRITTEN)
@pytest.mark.parametrize("name", SAMPLES)
def test_convert(name, target, files, tmp_path, capsys):
    path = tmp_path / "converted"
    assert main(["convert", "--geometry", "128x128", "--to", target, str(files[name]), str(path)]) == 0
    out, messages = capsys.readouterr()
    assert out == f"{path}: {len(EVENTS)} events\n"
    # That there are none would take a pass over the file.
    assert name == "aedat3" or messages == ""
    opened = evlib.open(path, format=target, on_problem="raise")
    assert rows(opened.read()) == EVENTS
    assert opened.geometry in (GEOMETRY, None)


# --- any events that a format can hold -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What a format holds: pixels, first and last time, and the longest time without an event."""

    width: int
    height: int
    first: int
    last: int
    gap: int = 2**63

    def events(self) -> st.SearchStrategy[list[Row]]:
        """Events in order, with equal times, gaps up to the longest, steps about wraps, and corners of the sensor."""
        wraps = [1 << bits for bits in (6, 12, 19, 23, 24, 28, 31, 32, 33)]
        steps = [step for wrap in wraps for step in (wrap - 1, wrap, wrap + 1) if step <= self.gap]
        step = st.one_of(st.just(0), st.integers(0, 100), st.sampled_from(steps), st.integers(0, min(self.gap, 2**34)))
        start = st.one_of(st.sampled_from([self.first, max(self.first, 0)]), st.integers(max(self.first, 0), 2**20))
        x, y = (
            st.one_of(st.sampled_from([0, size - 1]), st.integers(0, size - 1)) for size in (self.width, self.height)
        )
        row = st.tuples(x, y, step, st.sampled_from([1, -1]))
        return st.builds(self.add_up, start, st.lists(row, max_size=60))

    def add_up(self, start: int, drawn: list[Row]) -> list[Row]:
        events, time = [], start
        for x, y, step, p in drawn:
            time += step
            if time > self.last:
                break
            events.append((x, y, time, p))
        return events


LONG = 2**52
LIMITS = {
    "evt2": Limits(2048, 2048, 0, 2**55 - 1),
    "evt21": Limits(2048, 2048, 0, 2**54 - 1),
    "evt3": Limits(2048, 2048, 0, 2**46 - 1),
    "evt4": Limits(2048, 2048, 0, 2**55 - 1),
    "dat": Limits(16_384, 16_384, 0, 2**32 - 1),
    "hdf5": Limits(32_768, 32_768, -LONG, 2**39),
    "hdf5 prophesee": Limits(2048, 2048, 0, 2**40 - 1),
    "npy": Limits(32_768, 32_768, -LONG, LONG),
    "npz": Limits(32_768, 32_768, -LONG, LONG),
    "aedat4": Limits(32_768, 32_768, -LONG, LONG),
    "es": Limits(32_768, 32_768, 0, 2**35 - 1, 2**24),
    "atis-bin": Limits(256, 240, 0, 2**23 - 1),
    "text": Limits(32_768, 32_768, -LONG, LONG),
    "parquet": Limits(32_768, 32_768, -LONG, LONG),
    "arrow": Limits(32_768, 32_768, -LONG, LONG),
}


def test_there_are_limits_of_every_written_format():
    assert sorted({name.split()[0] for name in LIMITS}) == sorted(_parser.WRITTEN)


@pytest.mark.parametrize("name", LIMITS)
def test_any_valid_events_come_back(name, tmp_path):
    limits = LIMITS[name]
    path = tmp_path / SAMPLES[name].name
    schema = {"x": pl.Int64, "y": pl.Int64, "timestamp": pl.Int64, "polarity": pl.Int64}
    geometry = (limits.width, limits.height)

    @given(limits.events())
    def check(events):
        frame = pl.DataFrame(events, schema=schema, orient="row")
        evlib.write_events(frame, path, format=name.split()[0], geometry=geometry, overwrite=True)
        opened = evlib.open(path, format=name.split()[0], geometry=geometry, on_problem="raise")
        assert rows(opened.read()) == events

    check()


REFUSED = {
    "x past the sensor": (lambda limits: (limits.width, 0, 9, 1), r"row 2: .*found (x )?"),
    "x before it": (lambda _: (-1, 0, 9, 1), "row 2: .*found x -1"),
    "y past the sensor": (lambda limits: (0, limits.height, 9, 1), r"row 2: .*found (x 0, y )?"),
    "polarity 0": (lambda _: (0, 0, 9, 0), "row 2: expected polarity 1 or -1, found 0"),
    "time too early": (lambda limits: (0, 0, limits.first - 1, 1), "row 2: expected a time of at least 0 us, found -1"),
    "time too late": (lambda _: (0, 0, 2**62, 1), "row 2: expected a time before"),
    "time before the last": (lambda _: (0, 0, 7, 1), "row 2: expected times in order, from 8 us on, found 7 us"),
}
HELD = {
    "time too early": {name for name, limits in LIMITS.items() if limits.first < 0},
    "time too late": {"npy", "npz", "aedat4", "text", "parquet", "arrow"},
    "time before the last": {"atis-bin", "text", "parquet", "arrow"},
}
"""What some formats do hold."""


@pytest.mark.parametrize(
    ("name", "why"), [(name, why) for name in LIMITS for why in REFUSED if name not in HELD.get(why, ())]
)
def test_what_a_format_cannot_hold_is_refused_with_its_row(name, why, tmp_path):
    limits = LIMITS[name]
    make_row, message = REFUSED[why]
    rows_ = [(0, 0, 8, 1), (0, 0, 8, -1), make_row(limits), (0, 0, 9, 1)]
    path = tmp_path / SAMPLES[name].name
    frame = pl.DataFrame(rows_, schema=["x", "y", "timestamp", "polarity"], orient="row")
    with pytest.raises(exceptions.ArgumentError, match=message):
        evlib.write_events(frame, path, format=name.split()[0], geometry=(limits.width, limits.height))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, limits in LIMITS.items() if limits.width < 32_768])
def test_a_sensor_too_large_is_refused(name, tmp_path):
    limits = LIMITS[name]
    with pytest.raises(exceptions.ArgumentError, match=f"at most {limits.width}x{limits.height}, found"):
        evlib.write_events(
            FRAME, tmp_path / SAMPLES[name].name, format=name.split()[0], geometry=(limits.width + 1, limits.height)
        )
