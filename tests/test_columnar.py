"""Parquet and Arrow IPC: written by us and read by others, written by others and read by us."""

from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from conftest import problem_counts
from hypothesis import example, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import evlib
from evlib import exceptions
from evlib._scan import SCHEMA

GEOMETRY = (640, 480)
NAMES = ["a.parquet", "a.arrow"]


def events(count: int, seed: int = 0, *, geometry=GEOMETRY) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "x": random.integers(0, geometry[0], count, dtype="i2"),
            "y": random.integers(0, geometry[1], count, dtype="i2"),
            "timestamp": np.sort(random.integers(0, 10 * count + 1, count)),
            "polarity": random.choice(np.array([1, -1], "i1"), count),
        },
        schema_overrides={"timestamp": pl.Int64},
    ).cast(SCHEMA)


@pytest.fixture(params=NAMES)
def path(request, tmp_path):
    return tmp_path / request.param


times = st.one_of(
    st.integers(-(2**63), 2**63 - 2), st.integers(0, 1000), st.sampled_from([0, 2**63 - 2, -(2**63), 2**31, 2**32])
)
pixels = st.one_of(st.integers(0, 32_767), st.integers(0, 9), st.sampled_from([0, 32_767]))


@pytest.mark.parametrize("name", NAMES)
def test_any_events_come_back(name, tmp_path):
    path = tmp_path / name

    @given(st.lists(st.tuples(pixels, pixels, times, st.sampled_from([1, -1])), max_size=300), st.integers(1, 5))
    @example([(0, 0, -(2**63), 1), (32_767, 32_767, 2**63 - 2, -1), (0, 0, -(2**63), 1)], 1)
    @example([(5, 5, 5, 1)] * 129, 1)
    def check(rows, copies):
        frame = pl.DataFrame(rows, schema={**SCHEMA, "timestamp": pl.Int64}, orient="row").cast(SCHEMA)
        frame = pl.concat([frame] * copies)
        assert evlib.write_events(frame, path, geometry=(32_768, 32_768), overwrite=True) == frame.height
        opened = evlib.open(path, on_problem="raise")
        assert (opened.geometry, opened.event_count) == ((32_768, 32_768), frame.height)
        assert_frame_equal(opened.read(), frame)
        assert_frame_equal(evlib.load_events(path).collect(), frame)
        if path.suffix == ".parquet":
            assert_frame_equal(pl.from_arrow(pq.read_table(path)), frame)
        else:
            assert_frame_equal(pl.from_arrow(pa.ipc.open_file(path).read_all()), frame)

    check()


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 2**17 - 1, 2**17 + 1, 2**19, 2**19 + 1, 1_300_000])
def test_pages_and_row_groups_of_every_length(count, path):
    frame = events(count)
    batches = (frame[at : at + 300_007] for at in range(0, count, 300_007))
    assert evlib.write_events(batches, path, geometry=GEOMETRY) == count
    assert_frame_equal(evlib.read_events(path), frame)


def test_widths_of_indices(tmp_path):
    for bits in range(1, 16):
        frame = events(1000, bits, geometry=(2**bits, 2**bits - 1))
        evlib.write_events(frame, tmp_path / "a.parquet", geometry=(2**bits, 2**bits), overwrite=True)
        assert_frame_equal(pl.read_parquet(tmp_path / "a.parquet"), frame)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_parquet_is_read_by_others(compression, tmp_path):
    path, frame = tmp_path / "a.parquet", events(1_100_000)
    evlib.write_events(frame, path, geometry=GEOMETRY, compression=compression)
    assert_frame_equal(pl.read_parquet(path), frame)
    assert_frame_equal(pl.from_arrow(pq.read_table(path)), frame)
    plain = frame.with_columns(pl.col("timestamp").dt.total_microseconds())
    assert_frame_equal(duckdb.sql(f"select * from '{path}'").pl().cast(plain.schema), plain)
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 3
    assert file.schema_arrow.names == list(SCHEMA)
    assert file.schema_arrow.metadata[b"evlib.geometry"] == b"640x480"
    for group, rows in enumerate((2**19, 2**19, 1_100_000 - 2**20)):
        part = frame[group * 2**19 :][:rows]
        described = file.metadata.row_group(group)
        assert described.num_rows == rows
        assert [order.column_index for order in described.sorting_columns] == [2]
        for at, name in enumerate(SCHEMA):
            column, values = described.column(at), part[name].cast(pl.Int64)
            assert (column.statistics.min, column.statistics.max) == (values.min(), values.max())
            assert column.statistics.null_count == 0
            assert column.compression == {"none": "UNCOMPRESSED", "zstd": "ZSTD"}[compression]
    assert path.stat().st_size < 5 * frame.height


def test_a_row_group_out_of_order_is_not_called_sorted(tmp_path):
    frame = events(100).reverse()
    evlib.write_events(frame, tmp_path / "a.parquet", geometry=GEOMETRY)
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).sorting_columns == ()
    assert_frame_equal(evlib.read_events(tmp_path / "a.parquet"), frame)


def test_arrow_is_read_by_others(tmp_path):
    path, frame = tmp_path / "a.feather", events(1_100_000)
    evlib.write_events(frame, path, geometry=GEOMETRY)
    assert_frame_equal(pl.read_ipc(path), frame)
    assert_frame_equal(pl.from_arrow(pyarrow.feather.read_table(path)), frame)
    assert pa.ipc.open_file(path).schema.metadata[b"evlib.geometry"] == b"640x480"


def write_parquet(frame, path, writer):
    if writer == "polars":
        frame.write_parquet(path)
    else:
        pq.write_table(frame.to_arrow(), path)


def write_arrow(frame, path, writer):
    match writer:
        case "polars":
            frame.write_ipc(path)
        case "polars lz4":
            frame.write_ipc(path, compression="lz4")
        case "polars zstd":
            frame.write_ipc(path, compression="zstd")
        case "feather":
            pyarrow.feather.write_feather(frame.to_arrow(), path, chunksize=70_001)
        case _:
            table = frame.select("polarity", pl.lit("text").alias("extra"), "timestamp", "y", "x").to_arrow(
                compat_level=pl.CompatLevel.oldest()
            )
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table, max_chunksize=10_001)


FOREIGN = [
    *(("a.parquet", writer) for writer in ("polars", "pyarrow")),
    *(("a.arrow", writer) for writer in ("polars", "polars lz4", "polars zstd", "feather", "pyarrow")),
]


@pytest.mark.parametrize(("name", "writer"), FOREIGN)
def test_files_of_others(name, writer, tmp_path):
    path, frame = tmp_path / name, events(200_000)
    (write_parquet if name == "a.parquet" else write_arrow)(frame, path, writer)
    opened = evlib.open(path)
    assert (opened.geometry, opened.event_count, problem_counts(opened)) == (None, frame.height, {})
    assert_frame_equal(opened.read(), frame)
    assert_frame_equal(pl.concat(opened.batches(rows=70_000)), frame)
    small = frame.filter(pl.col("x") < 100, pl.col("y") < 50)
    cropped = evlib.open(path, geometry=(100, 50))
    assert_frame_equal(cropped.read(), small)
    assert cropped.event_count == small.height
    assert problem_counts(cropped) == {"OUT_OF_BOUNDS": frame.height - small.height}
    with pytest.raises(exceptions.ProblemError, match="OUT_OF_BOUNDS"):
        evlib.open(path, geometry=(100, 50), on_problem="raise")


@pytest.mark.parametrize(("name", "writer"), FOREIGN)
def test_values_that_cannot_be_are_left_out_and_counted(name, writer, tmp_path):
    path, frame = tmp_path / name, events(1000)
    at = pl.int_range(pl.len())
    bad = frame.with_columns(
        x=pl.when(at == 3).then(-1).otherwise("x").cast(pl.Int16),
        polarity=pl.when(at % 100 == 7).then(0).otherwise("polarity").cast(pl.Int8),
    )
    (write_parquet if name == "a.parquet" else write_arrow)(bad, path, writer)
    opened = evlib.open(path)
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 1, "BAD_VALUE": 10}
    kept = bad.filter(pl.col("x") >= 0, pl.col("polarity") != 0)
    assert opened.event_count == kept.height
    assert_frame_equal(opened.read(), kept)
    assert_frame_equal(opened.read(columns=["y"]), kept.select("y"))


def test_the_same_as_every_other_format(path):
    frame = events(300_000)
    evlib.write_events(frame, path, geometry=GEOMETRY)
    opened = evlib.open(path)
    name = {".parquet": "parquet", ".arrow": "arrow"}[path.suffix]
    assert (opened.format, opened.confidence, opened.geometry) == (name, "certain", GEOMETRY)
    assert evlib.identify(path)[:2] == (name, "certain")
    assert opened.metadata["evlib.geometry"] == "640x480"
    assert opened.streams.rows() == [("events", "events", opened.streams["detail"][0], frame.height)]
    assert opened.trigger_count == 0
    assert opened.triggers.collect().is_empty()
    first, last = opened.time_range
    assert (first, last) == (frame["timestamp"].min(), frame["timestamp"].max())
    selection = {"time_range": (1_000_000, 1_500_000), "region": (10, 20, 300, 200), "polarity": -1}
    wanted = frame.filter(
        pl.col("timestamp").is_between(timedelta(seconds=1), timedelta(seconds=1.5), closed="left"),
        pl.col("x").is_between(10, 309),
        pl.col("y").is_between(20, 219),
        pl.col("polarity") == -1,
    )
    assert_frame_equal(opened.read(**selection), wanted)
    assert_frame_equal(opened.read(columns=["polarity", "x"], **selection), wanted.select("polarity", "x"))
    assert_frame_equal(pl.concat(opened.batches(rows=1000, columns=["y"], **selection)), wanted.select("y"))
    windows = list(opened.batches(duration=timedelta(seconds=1)))
    assert_frame_equal(pl.concat(windows), frame)
    other = evlib.open(path.with_suffix(".raw")) if evlib.write_events(opened, path.with_suffix(".raw")) else None
    assert [len(window) for window in windows] == [len(window) for window in other.batches(duration=1_000_000)]
    lazy = evlib.load_events(path, source=True)
    assert lazy.collect_schema() == {**SCHEMA, "source": pl.String}
    assert_frame_equal(lazy.filter(pl.col("x") == 5).drop("source").collect(), frame.filter(pl.col("x") == 5))
    assert evlib.load_events([path, path]).select(pl.len()).collect().item() == 2 * frame.height
    assert pickle.loads(pickle.dumps(evlib.load_events(path))).select(pl.len()).collect().item() == frame.height
    assert pa.table(opened).num_rows == frame.height
    with pytest.raises(exceptions.ArgumentError, match="no index"):
        opened.save_index()
    with pytest.raises(exceptions.ArgumentError, match="no such stream"):
        opened.load_stream("imu")
    for option in ({"stream": "left"}, {"time_unit": "s"}, {"pixel_parts": 2}, {"path_map": {"x": "x"}}):
        with pytest.raises(exceptions.ArgumentError):
            evlib.open(path, **option)


def test_the_extension_does_not_matter(path):
    frame = events(100)
    evlib.write_events(frame, path, geometry=GEOMETRY)
    other = path.rename(path.with_suffix(".raw"))
    assert_frame_equal(evlib.read_events(other), frame)


BAD_TABLES = {
    "no polarity": events(5).drop("polarity"),
    "other type": events(5).cast({"x": pl.Int32}),
    "other unit": events(5).cast({"timestamp": pl.Duration("ns")}),
}


@pytest.mark.parametrize("bad", BAD_TABLES)
def test_tables_that_are_no_events(bad, path):
    frame = BAD_TABLES[bad]
    (frame.write_parquet if path.suffix == ".parquet" else frame.write_ipc)(path)
    with pytest.raises(exceptions.FormatError, match=r"polarity|type") as caught:
        evlib.open(path)
    assert Path(caught.value.path) == path
    assert isinstance(caught.value, exceptions.UnsupportedError) == (bad != "no polarity")


@pytest.mark.parametrize("writer", ["pyarrow", "polars"])
@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_arrow_that_is_cut_gives_whole_batches(compression, writer, tmp_path):
    frame = events(50_000)
    whole = tmp_path / "whole.arrow"
    if writer == "polars":
        # Its schema has no length before it.
        frame.write_ipc(whole, compression=compression, record_batch_size=10_000)
    elif compression == "uncompressed":
        with pa.ipc.new_file(whole, frame.to_arrow().schema) as file:
            file.write_table(frame.to_arrow(), max_chunksize=10_000)
    else:
        pyarrow.feather.write_feather(frame.to_arrow(), whole, compression=compression, chunksize=10_000)
    data = whole.read_bytes()
    path = tmp_path / "cut.arrow"
    heights = set()
    for cut in (*range(0, 1200, 7), *range(1200, len(data), 4999), len(data) - 1):
        path.write_bytes(data[:cut])
        try:
            opened = evlib.open(path)
        except exceptions.FormatError:
            assert cut < 1200
            continue
        found = opened.read()
        assert_frame_equal(found, frame.head(found.height))
        assert problem_counts(opened) == {"TRUNCATED": 1}
        heights.add(found.height)
    assert heights == set(range(0, 50_001, 10_000))


def as_big_endian(data: bytearray, buffer: int, entry: int) -> None:
    """Make a schema of Arrow IPC say that values are big-endian: the table that the root of a flatbuffer has there."""

    def number(place: int, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(data[place : place + size], "little", signed=signed)

    def entries(table: int) -> int:
        return table - number(table, 4, signed=True) + 4

    root = buffer + number(buffer, 4)
    place = root + number(entries(root) + 2 * entry, 2)
    schema = place + number(place, 4)
    # The byte order is the first entry, 0 where it is absent; any 1 will do, as the length of the name `x` is.
    one = data.index(b"\1\0\0\0x\0", schema)
    data[entries(schema) : entries(schema) + 2] = (one - schema).to_bytes(2, "little")


@pytest.mark.parametrize("whole", [True, False])
def test_arrow_of_big_endian_values_is_refused(whole, tmp_path):
    path = tmp_path / "a.arrow"
    with pa.ipc.new_file(path, events(100).to_arrow().schema) as file:
        file.write_table(events(100).to_arrow())
    data = bytearray(path.read_bytes())
    if whole:
        as_big_endian(data, len(data) - 10 - int.from_bytes(data[-10:-6], "little"), 1)
    else:
        as_big_endian(data, 16, 2)
        del data[-10:]
    path.write_bytes(data)
    with pytest.raises(exceptions.UnsupportedError, match="little-endian values, found big-endian values") as caught:
        evlib.open(path)
    assert Path(caught.value.path) == path


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_damage_is_an_error_or_a_problem(compression, path):
    frame = events(3000)
    if path.suffix == ".parquet":
        frame.write_parquet(path, compression=compression)
    else:
        frame.write_ipc(path, compression=compression)
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(5)
    for _ in range(150):
        changed = bytearray(data)
        for at in random.integers(0, len(data), 3):
            changed[at] = random.integers(256)
        path.write_bytes(changed)
        try:
            opened = evlib.open(path)
            count = opened.event_count
            assert opened.read().height == count
            assert set(problem_counts(opened)) <= {"TRUNCATED", "UNREADABLE", "OUT_OF_BOUNDS", "BAD_VALUE"}
        except exceptions.EvlibError:
            pass


def arrow_of_batches(path: Path, batches: int) -> tuple[pl.DataFrame, list[int], list[int]]:
    """Write an Arrow file of batches of 1000 events; places of their messages, and of their entries in the footer."""
    frame = events(1000 * batches)
    table = frame.to_arrow()
    places = []
    with path.open("wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            for batch in table.to_batches(max_chunksize=1000):
                places.append(file.tell())
                writer.write_batch(batch)
        file.flush()
    data = path.read_bytes()
    return frame, places, [data.rindex(at.to_bytes(8, "little")) for at in places]


@pytest.mark.parametrize("change", ["head", "type", "named twice"])
def test_a_damaged_batch_of_arrow_costs_no_other_and_is_a_problem(change, tmp_path):
    path = tmp_path / "a.arrow"
    frame, places, entries = arrow_of_batches(path, 4)
    assert len(places) == 4
    data = bytearray(path.read_bytes())
    if change == "head":
        data[places[1] : places[1] + 8] = bytes(8)
    elif change == "type":
        data[places[1] + 8 : places[1] + 40] = bytes(32)
    else:
        data[entries[1] : entries[1] + 8] = places[0].to_bytes(8, "little")
    path.write_bytes(data)
    opened = evlib.open(path)
    assert_frame_equal(opened.read(), pl.concat([frame.head(1000), frame.tail(2000)]))
    assert problem_counts(opened) == {"TRUNCATED": 1}


def test_an_arrow_file_that_ends_in_zeros_is_cut(tmp_path):
    path = tmp_path / "a.arrow"
    frame, places, _ = arrow_of_batches(path, 3)
    data = path.read_bytes()
    path.write_bytes(data[: places[2]] + bytes(len(data) - places[2]))
    opened = evlib.open(path)
    assert_frame_equal(opened.read(), frame.head(2000))
    assert problem_counts(opened) == {"TRUNCATED": 1}


def test_keys_that_were_copied_prove_nothing(path):
    frame = events(100)
    evlib.write_events(frame, path, geometry=GEOMETRY)
    read = pq.read_table if path.suffix == ".parquet" else pyarrow.feather.read_table
    table = read(path)
    moved = table.set_column(0, table.schema.field(0), pa.array(np.full(100, 900, "i2")))
    if path.suffix == ".parquet":
        pq.write_table(moved, path)
    else:
        pyarrow.feather.write_feather(moved, path, compression="uncompressed")
    opened = evlib.open(path)
    assert (opened.geometry, opened.event_count, opened.read().height) == (GEOMETRY, 0, 0)
    assert problem_counts(opened) == {"OUT_OF_BOUNDS": 100}


@pytest.mark.parametrize("geometry", ["0x0", "99999x1", "9" * 5000 + "x1", "640"])
def test_a_parquet_key_that_is_no_geometry_is_the_fault_of_the_file(geometry, tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(events(3).to_arrow().replace_schema_metadata({"evlib.geometry": geometry}), path)
    with pytest.raises(exceptions.FormatError, match="not a sensor geometry"):
        evlib.open(path)
    assert evlib.open(path, geometry=GEOMETRY).event_count == 3


@pytest.mark.parametrize(
    "data", [b"PAR1", b"PAR1PAR1", b"ARROW1", b"ARROW1\0\0" + bytes(100), b"ARROW1\0\0\xff\xff\xff\xff"]
)
def test_hardly_a_file(data, tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(data)
    for call in (evlib.open, evlib.identify, evlib.read_events, evlib.load_events):
        with pytest.raises(exceptions.FormatError):
            call(path)


def test_a_file_named_parquet_that_is_none(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(exceptions.FormatError, match="not a Parquet file"):
        evlib.open(path, format="parquet")
    with pytest.raises(FileNotFoundError):
        evlib.open(tmp_path / "none.parquet", format="parquet")


def test_an_arrow_stream(tmp_path):
    path, frame = tmp_path / "a.arrows", events(25_000)
    with pa.ipc.new_stream(path, frame.to_arrow().schema) as file:
        file.write_table(frame.to_arrow(), max_chunksize=10_000)
    assert_frame_equal(evlib.read_events(path, format="arrow"), frame)


def test_time_windows_read_a_small_part(tmp_path):
    """Row groups outside a window are skipped by their statistics: damage in them is not seen."""
    path, frame = tmp_path / "a.parquet", events(1_500_000)
    evlib.write_events(frame, path, geometry=GEOMETRY)
    data = bytearray(path.read_bytes())
    data[1000:200_000] = bytes(199_000)  # in the first row group
    path.write_bytes(data)
    late = frame["timestamp"][1_400_000]
    found = evlib.load_events(path).filter(pl.col("timestamp") >= late).collect()
    assert_frame_equal(found, frame.filter(pl.col("timestamp") >= late))
    assert_frame_equal(evlib.read_events(path, time_range=(late, None)), found)


def test_bad_rows_and_compressions_are_refused(path):
    frame = events(10)
    for change, message in (
        ({"x": pl.lit(640, pl.Int16)}, "row 0: expected a pixel of 640x480"),
        ({"polarity": pl.lit(0, pl.Int8)}, "polarity 1 or -1"),
    ):
        with pytest.raises(exceptions.ArgumentError, match=message):
            evlib.write_events(frame.with_columns(**change), path, geometry=GEOMETRY)
    with pytest.raises(exceptions.ArgumentError, match="compression"):
        evlib.write_events(frame, path, geometry=GEOMETRY, compression="gzip")
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: pl.LazyFrame({"y": [1]}), "missing: x, timestamp, polarity"),
        (lambda: iter([1]), "gives DataFrames, found int"),
        (lambda: [1, 2], "are a DataFrame"),
    ],
)
def test_what_is_no_frame_of_events_is_the_fault_of_the_caller(data, message, path):
    with pytest.raises(exceptions.ArgumentError, match=message):
        evlib.write_events(data(), path, geometry=GEOMETRY)
    assert not path.exists()


def test_a_repr_does_not_read_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    evlib.write_events(events(100), path, geometry=GEOMETRY)
    opened = evlib.open(path)
    assert "events=" not in repr(opened)
    assert not opened.is_indexed
    assert opened.event_count == 100
    assert "events=100" in repr(opened)
