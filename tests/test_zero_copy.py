"""Columns leave the decoder without a copy: the same addresses all the way."""

from __future__ import annotations

import gc

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from words import recording, sensor_stream

import evlib

COLUMNS = ["x", "y", "timestamp", "polarity"]


@pytest.fixture
def path(save):
    return save(recording("evt3", sensor_stream("evt3", 20_000)))


def address(column) -> int:
    """Where the values of a column are."""
    if isinstance(column, np.ndarray):
        return column.__array_interface__["data"][0]
    if isinstance(column, pl.Series):
        assert column.n_chunks() == 1, "more than one chunk"
        return column.to_physical()._s.as_single_ptr()
    if isinstance(column, pa.ChunkedArray):
        assert column.num_chunks == 1, "more than one chunk"
        column = column.chunk(0)
    assert isinstance(column, pa.Array)
    return column.buffers()[1].address + column.offset * column.type.bit_width // 8


def assert_same_memory(one, other) -> None:
    assert address(one) == address(other), "copied"


def test_the_check_itself_fails_on_a_copy(path):
    column = evlib.read_events(path)["x"]
    assert_same_memory(column, column.to_numpy(allow_copy=False))
    for copy in (column.to_numpy().copy(), pl.Series(column.to_numpy().copy()), pa.array(column.to_numpy().copy())):
        with pytest.raises(AssertionError, match="copied"):
            assert_same_memory(column, copy)
    split = pl.concat([column, column], rechunk=False)
    with pytest.raises(AssertionError, match="more than one chunk"):
        assert_same_memory(split, split)


def test_one_chunk_and_no_validity(path):
    for frame in (evlib.read_events(path), evlib.open(path).read(), *evlib.open(path).batches(rows=7_000)):
        assert frame.n_chunks("all") == [1] * 4
        assert frame.null_count().row(0) == (0, 0, 0, 0)
        for name in COLUMNS:
            assert pa.chunked_array(frame[name]).chunk(0).buffers()[0] is None
            assert frame[name].to_numpy(allow_copy=False).size == frame.height


@pytest.mark.parametrize(
    "selection", [{}, {"polarity": 1}, {"region": (0, 0, 320, 480)}, {"time_range": (5_010_000, None)}]
)
def test_selections_too(path, selection):
    frame = evlib.read_events(path, **selection)
    assert frame.height
    assert frame.n_chunks("all") == [1] * 4
    for name in COLUMNS:
        assert_same_memory(frame[name], frame[name].to_numpy(allow_copy=False))


def test_decoder_to_frame(path):
    """The frame's columns are the memory that the decoder wrote."""
    opened = evlib.open(path)._opened
    selection = evlib._scan.Selection(COLUMNS)
    for batch in (opened.read(selection), *opened.batches(selection, batch_rows=5_000)):
        frame = pl.DataFrame(batch)
        decoded = pa.record_batch(batch)
        for name in COLUMNS:
            assert_same_memory(frame[name], decoded[name])


@pytest.mark.parametrize("name", COLUMNS)
def test_numpy(path, name):
    column = evlib.read_events(path)[name]
    array = column.to_numpy(allow_copy=False)
    assert array.dtype == {"x": "i2", "y": "i2", "timestamp": "m8[us]", "polarity": "i1"}[name]
    assert_same_memory(column, array)
    assert not array.flags.writeable


@pytest.mark.parametrize("name", COLUMNS)
def test_pyarrow_and_back(path, name):
    frame = evlib.read_events(path)
    table = frame.to_arrow()
    assert_same_memory(frame[name], table[name])
    back = pl.from_arrow(table)
    assert_same_memory(frame[name], back[name])
    assert_frame_equal(back, frame)


def test_pyarrow_table_of_a_recording(path):
    opened = evlib.open(path)
    table = pa.table(opened)
    assert table.schema == pa.schema(
        [("x", pa.int16()), ("y", pa.int16()), ("timestamp", pa.duration("us")), ("polarity", pa.int8())]
    )
    frame = pl.from_arrow(table)
    assert_frame_equal(frame, opened.read())
    for name in COLUMNS:
        assert table[name].null_count == 0
        assert_same_memory(frame[name], table[name])
    assert pa.RecordBatchReader.from_stream(opened).read_all().equals(table)


def test_polars_frame_of_a_recording(path):
    opened = evlib.open(path)
    assert_frame_equal(pl.DataFrame(opened), opened.read())


def test_duckdb(path):
    recording = evlib.open(path)
    frame = recording.read()
    with duckdb.connect() as connection:
        connection.register("events", recording)
        query = "select polarity, count(*), sum(x) from events where y < 100 group by polarity order by polarity"
        rows = connection.sql(query).fetchall()
    expected = frame.filter(pl.col("y") < 100).group_by("polarity").agg(pl.len(), pl.col("x").cast(pl.Int64).sum())
    assert rows == expected.sort("polarity").rows()
    assert len(rows) == 2


def test_duckdb_of_a_variable_in_scope(path):
    recording = evlib.open(path)
    assert duckdb.sql("select count(*) from recording").fetchall() == [(recording.event_count,)]


def test_pandas(path):
    opened = evlib.open(path)
    frame = pa.table(opened).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == COLUMNS
    assert frame["timestamp"].dtype == "timedelta64[us]"
    assert frame["x"].tolist() == opened.read()["x"].to_list()
    if hasattr(pd.DataFrame, "from_arrow"):
        assert pd.DataFrame.from_arrow(opened)["y"].tolist() == frame["y"].tolist()


def test_memory_outlives_recording_and_frame(path):
    expected = evlib.read_events(path)
    copies = {name: expected[name].to_numpy().copy() for name in COLUMNS}
    opened = evlib.open(path)
    frame = opened.read()
    views = {name: frame[name].to_numpy(allow_copy=False)[5:-5] for name in COLUMNS}
    table = frame.to_arrow().slice(10, 100)
    del frame, opened, expected
    gc.collect()
    # Whoever gets the freed memory, if it was freed, writes into it.
    others = [evlib.read_events(path).select(pl.all().reverse()) for _ in range(5)]
    for name in COLUMNS:
        np.testing.assert_array_equal(views[name], copies[name][5:-5])
        assert table[name].to_numpy().tolist() == copies[name][10:110].tolist()
    del others


def test_batches_do_not_share_memory(path):
    """A batch that is kept is not overwritten by the ones after it."""
    expected = evlib.read_events(path)
    for kept in (list(evlib.open(path).batches(rows=1_000)), list(evlib.open(path).batches(duration=10_000))):
        assert len(kept) > 5
        gc.collect()
        assert_frame_equal(pl.concat(kept), expected)
