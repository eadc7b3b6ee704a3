"""Codecs of the observation log."""

from __future__ import annotations

import contextlib
import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import hypothesis.extra.numpy as hnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_oblog import address, write

from evlib import codecs
from evlib.codecs import (
    ArrowCodec,
    BytesCodec,
    EventsCodec,
    ImageCodec,
    JsonCodec,
    NumpyArrayCodec,
    PandasDataFrameCodec,
    PickleCodec,
    ProtobufCodec,
)
from evlib.exceptions import ArgumentError, FormatError, UnsupportedError
from evlib.oblog import ObLog

NESTED = np.dtype([("a", "<i4"), ("b", [("c", ">f8"), ("d", "S3")]), ("e", "u1", (2, 3))])
PADDED = np.dtype({"names": ["p", "q"], "formats": ["u1", "f8"], "offsets": [0, 8], "itemsize": 24})
ARRAYS = {
    "int8": np.arange(-5, 5, dtype="i1"),
    "uint64": np.array([0, 2**64 - 1], "u8"),
    "float16": np.array([1.5, np.nan, -np.inf], "f2"),
    "longdouble": np.array([1.25], np.longdouble),
    "complex": np.array([1 + 2j, -3j], "c8"),
    "bool": np.array([True, False, True]),
    "datetime64": np.array(["2020-02-29T12:00", "NaT"], "M8[ns]"),
    "datetime64 of days": np.array(["2020-02-29"], "M8[25D]"),
    "timedelta64": np.array([5, -7], "m8[us]"),
    "text": np.array(["", "ü☃", "abc"]),
    "bytes": np.array([b"", b"ab\0c"], "S6"),
    "no characters": np.array(["", ""], "U0"),
    "void": np.array([b"12345678"], "V8"),
    "structured": np.array([(1, (2.5, b"xyz"), [[1, 2, 3], [4, 5, 6]])], NESTED),
    "padded": np.array([(1, 2.5)], PADDED),
    "named in Unicode": np.zeros(2, [("größe", "f4")]),
    "zero dimensions": np.array(3.5),
    "structured, zero dimensions": np.array((1, 2.5), [("a", "i4"), ("b", "f8")]),
    "empty": np.empty((0,), "f4"),
    "empty in the middle": np.empty((3, 0, 2), "i2"),
    "Fortran order": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "strided": np.arange(20)[::3],
    "reversed": np.arange(5)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "big endian": np.arange(5, dtype=">i4"),
    "many dimensions": np.zeros((1,) * 32 + (2,)),
    "read-only": np.frombuffer(b"abcdefgh", "u2"),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_come_back(tmp_path, array):
    oblog = ObLog(tmp_path)
    write(oblog, "c", [array, array])
    for _, found in oblog.channel("c", verify="all"):
        assert found.dtype == array.dtype
        assert found.dtype.fields == array.dtype.fields
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
        assert not found.flags.writeable
        assert not array.size or address(found) % 64 == 0
    assert NumpyArrayCodec().decode(NumpyArrayCodec().encode(array)).tobytes() == array.tobytes()


def test_the_payload_is_exact(tmp_path):
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    wanted = struct.pack("<I3sIQQ", 3, b"<f4", 2, 2, 3) + array.tobytes()
    oblog = ObLog(tmp_path)
    path = write(oblog, "c", [array])
    payload = oblog.channel("c").record(0).payload
    assert bytes(payload) == wanted == bytes(NumpyArrayCodec().encode(array))
    # Not only in memory, but in the file the data is at a multiple of 64.
    assert (path.read_bytes().index(wanted) + len(wanted) - array.nbytes) % 64 == 0
    structured = NumpyArrayCodec().encode(np.zeros(1, [("a", "<i2"), ("b", ">f8")]))
    text = b"[('a', '<i2'), ('b', '>f8')]"
    assert bytes(structured) == struct.pack("<I", len(text)) + text + struct.pack("<IQ", 1, 1) + bytes(10)


def test_lists_and_scalars_are_arrays(tmp_path):
    oblog = ObLog(tmp_path)
    write(oblog, "c", [[1, 2], 3.5, np.float32(1.5), np.ma.array([1, 2])])
    assert [found.tolist() for _, found in oblog.channel("c")] == [[1, 2], 3.5, 1.5, [1, 2]]


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.zeros(1, [("a", "i4"), ("b", "O")]),
        np.array(["a", "bcd"], np.dtypes.StringDType()),
        np.zeros(1, np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})),
        np.zeros(1, np.dtype({"names": ["b", "a"], "formats": ["i4", "i4"], "offsets": [4, 0]})),
    ],
    ids=["object", "field of objects", "variable strings", "overlapping fields", "fields out of order"],
)
def test_arrays_that_cannot_be_stored_are_refused(tmp_path, array):
    oblog = ObLog(tmp_path)
    writer = oblog.get_writer("c", NumpyArrayCodec())
    with pytest.raises(ArgumentError, match="stored"):
        writer(array)
    # The writer goes on.
    writer(np.arange(2))
    oblog.close()
    assert len(oblog.channel("c")) == 1


@given(hnp.arrays(hnp.scalar_dtypes() | hnp.array_dtypes(), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_any_array(array):
    codec = NumpyArrayCodec()
    found = codec.decode(codec.encode(array))
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda tail: struct.pack("<I3sI", 3, b"<f8", 1) + tail))
def test_any_bytes_are_an_array_or_an_error(data):
    for codec in (NumpyArrayCodec(), EventsCodec(), ArrowCodec(), JsonCodec()):
        with contextlib.suppress(FormatError):
            codec.decode(memoryview(data))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "header and data, found 0 bytes"),
        (struct.pack("<I", 2**32 - 1), "header and data"),
        (struct.pack("<I3sI", 3, b"<f8", 70) + bytes(600), "at most 64 dimensions, found 70"),
        (struct.pack("<I3sIQ", 3, b"<f8", 1, 3) + bytes(23), "expected 24 bytes of data, found 23"),
        (struct.pack("<I3sIQ", 3, b"<f8", 1, 2**59) + bytes(8), "bytes of data, found 8"),
        (struct.pack("<I3sIQ", 3, b"<f8", 1, 2**62) + bytes(8), "fits the address space"),
        (struct.pack("<I3sIQQ", 3, b"<f8", 2, 0, 2**64 - 1), "fits the address space"),
        (struct.pack("<I3sIQQ", 3, b"<f8", 2, 0, 2**60), "fits the address space"),
        (struct.pack("<I3sIQ", 3, b"|S0", 1, 2**63), "fits the address space"),
        (struct.pack("<I2sIQ", 2, b"|O", 1, 1) + bytes(8), "holds references"),
        (struct.pack("<I9sI", 9, b"().__a__[", 0), "not a type of NumPy"),
        (struct.pack("<I14sI", 14, b"[('a','|O8'),]", 0), "holds references"),
        (struct.pack("<I3sI", 3, b"\xff\xff\xff", 0), "type in ASCII"),
    ],
)
def test_payloads_that_are_no_arrays(payload, message):
    with pytest.raises(FormatError, match=message):
        NumpyArrayCodec().decode(payload)


def test_decode_is_a_view_of_what_is_aligned():
    payload = NumpyArrayCodec().encode(np.arange(1000))
    found = NumpyArrayCodec().decode(payload)
    assert np.shares_memory(found, np.frombuffer(payload, "u1"))
    copied = NumpyArrayCodec().decode(bytes(payload))
    assert copied.tolist() == found.tolist()
    assert copied.flags.aligned
    assert not copied.flags.writeable


@pytest.mark.parametrize(
    ("codec", "items"),
    [
        (BytesCodec(), [b"", b"abc", bytearray(b"x" * 1000), memoryview(b"y")]),
        (JsonCodec(), [None, 1.5, "ü☃", [1, {"a": [True]}]]),
        (PickleCodec(), [{1, 2}, datetime(2020, 1, 1, tzinfo=UTC)]),
    ],
    ids=["bytes", "json", "pickle"],
)
def test_plain_items(tmp_path, codec, items):
    oblog = ObLog(tmp_path)
    write(oblog, "c", items, codec)
    found = [item for _, item in oblog.channel("c", allow_pickle=True, verify="all")]
    assert found == [bytes(item) if isinstance(item, bytearray) else item for item in items]


def test_bytes_are_views(tmp_path):
    oblog = ObLog(tmp_path)
    write(oblog, "c", [b"abc" * 100], BytesCodec())
    _, view = oblog.channel("c")[0]
    assert view.readonly
    assert address(np.frombuffer(view, "u1")) % 64 == 0


def test_tables(tmp_path):
    frame = pl.DataFrame(
        {
            "i": [1, None, 3],
            "s": ["a", None, "a longer text than fits"],
            "f": [1.5, 2.5, float("nan")],
            "l": [[1], [], None],
            "t": [datetime(2020, 1, 1, tzinfo=UTC)] * 3,
            "c": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
        }
    )
    tables = [frame, frame.to_arrow(), pa.table({"a": pa.chunked_array([[1, 2], [3]])}), frame.clear()]
    oblog = ObLog(tmp_path)
    write(oblog, "c", tables, ArrowCodec())
    for (_, found), wanted in zip(oblog.channel("c"), tables, strict=True):
        assert found.equals(pl.DataFrame(wanted))
    arrow = oblog.channel("c", codec=ArrowCodec(returns="pyarrow"))
    assert arrow[2][1].equals(pa.table({"a": [1, 2, 3]}))
    with pytest.raises(ArgumentError, match="__arrow_c_stream__"):
        ArrowCodec().encode([1, 2])


def test_columns_of_tables_are_views(tmp_path):
    oblog = ObLog(tmp_path)
    path = write(oblog, "c", [pl.DataFrame({"a": np.arange(10_000.0), "b": np.arange(10_000)})], ArrowCodec())
    _, frame = oblog.channel("c")[0]
    payload = np.frombuffer(oblog.channel("c").record(0).payload, "u1")
    spans = [
        [int(part, 16) for part in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if path.name in line
    ]
    for name in frame.columns:
        array = frame[name].to_numpy(allow_copy=False)
        assert any(start <= address(array) < end for start, end in spans)
        assert address(array) % 64 == 0
    assert payload.size > 160_000


def test_pandas(tmp_path):
    frames = [
        pd.DataFrame({"a": [1.5, 2.5], "b": ["x", None]}, index=pd.Index(["r", "s"], name="row")),
        pd.DataFrame(
            {"t": pd.date_range("2020-01-01", periods=3, tz="Europe/Berlin"), "c": pd.Categorical(["a", "b", "a"])}
        ),
        pd.DataFrame(),
    ]
    oblog = ObLog(tmp_path)
    write(oblog, "c", frames, PandasDataFrameCodec())
    for (_, found), wanted in zip(oblog.channel("c"), frames, strict=True):
        pd.testing.assert_frame_equal(found, wanted)
    assert oblog.channel("c", codec=ArrowCodec())[0][1]["a"].to_list() == [1.5, 2.5]
    for wrong in ([1], pd.DataFrame({"a": [object()]})):
        with pytest.raises(ArgumentError):
            PandasDataFrameCodec().encode(wrong)


def test_images(tmp_path):
    random = np.random.default_rng(1)
    exact = [
        random.integers(0, 255, (7, 9), "u1"),
        random.integers(0, 255, (7, 9, 3), "u1"),
        random.integers(0, 255, (7, 9, 4), "u1"),
        random.integers(0, 65535, (7, 9), "u2"),
        np.asfortranarray(random.integers(0, 255, (7, 9, 3), "u1")),
    ]
    oblog = ObLog(tmp_path)
    write(oblog, "png", [*exact, ImageCodec().encode(exact[0])], ImageCodec())
    for (_, found), wanted in zip(oblog.channel("png"), [*exact, exact[0]], strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype
    smooth = np.linspace(0, 200, 64 * 64).reshape(64, 64).astype("u1")
    write(oblog, "jpeg", [smooth], ImageCodec(format="jpeg", quality=95))
    _, found = oblog.channel("jpeg")[0]
    assert np.abs(found.astype(int) - smooth).max() < 20
    for wrong in (np.zeros((2, 2)), np.zeros((2, 2, 2), "u1"), b"GIF89a", "text", np.zeros((2, 2, 2, 2), "u1")):
        with pytest.raises(ArgumentError):
            ImageCodec().encode(wrong)
    with pytest.raises(FormatError):
        ImageCodec().decode(b"no picture")


def test_messages(tmp_path):
    from google.protobuf import struct_pb2, timestamp_pb2
    from mcap.reader import make_reader

    item = struct_pb2.Struct()
    item.update({"a": 1.5, "b": ["x", None]})
    oblog = ObLog(tmp_path)
    path = write(oblog, "c", [item], ProtobufCodec(struct_pb2.Struct))
    assert oblog.channel("c", codec=ProtobufCodec(struct_pb2.Struct))[0][1] == item
    # Without the class one is made of the description in the file.
    _, found = oblog.channel("c")[0]
    assert found.SerializeToString(deterministic=True) == item.SerializeToString(deterministic=True)
    assert found.fields["a"].number_value == 1.5
    with path.open("rb") as stream:
        schema, channel, _ = next(iter(make_reader(stream).iter_messages()))
    assert (channel.message_encoding, schema.encoding, schema.name) == (
        "protobuf",
        "protobuf",
        "google.protobuf.Struct",
    )
    with pytest.raises(ArgumentError, match=r"google\.protobuf\.Struct"):
        ProtobufCodec(struct_pb2.Struct).encode(timestamp_pb2.Timestamp())
    with pytest.raises(FormatError):
        ProtobufCodec(struct_pb2.Struct).decode(b"\xff\xff")
    with pytest.raises(FormatError, match="description"):
        ProtobufCodec.from_metadata({"message": "x", "descriptors": "00"})


@codecs.register
class PointCodec:
    """Has more than one buffer, an aligned one, and metadata."""

    name = "test-point"
    version = 3
    aligned = 1

    def __init__(self, scale=1.0):
        self.metadata = {"scale": str(scale)}
        self.scale = scale

    @classmethod
    def from_metadata(cls, metadata):
        return cls(float(metadata["scale"]))

    def encode(self, item):
        return [b"pt", np.asarray(item, "f8") * self.scale]

    def decode(self, payload):
        assert bytes(payload[:2]) == b"pt"
        return np.frombuffer(payload[2:], "f8") / self.scale


def test_a_codec_of_ones_own(tmp_path):
    oblog = ObLog(tmp_path)
    write(oblog, "c", [[1, 2], [3, 4]], PointCodec(4.0))
    for (_, found), wanted in zip(oblog.channel("c"), ([1, 2], [3, 4]), strict=True):
        assert found.tolist() == wanted
    data = np.frombuffer(oblog.channel("c").record(0).payload[2:], "f8")
    assert address(data) % 64 == 0
    assert data.tolist() == [4, 8]
    assert codecs.registered()["test-point"] is PointCodec


def test_an_unknown_a_wrong_and_a_newer_codec(tmp_path, monkeypatch):
    oblog = ObLog(tmp_path)
    write(oblog, "c", [[1, 2]], PointCodec())
    with pytest.raises(ArgumentError, match=r"written with the codec `test-point`, not with `json`"):
        oblog.channel("c", codec=JsonCodec())
    monkeypatch.setattr(PointCodec, "version", 2)
    with pytest.raises(UnsupportedError, match="version 3"):
        oblog.channel("c")
    monkeypatch.delitem(codecs._REGISTRY, "test-point")
    with pytest.raises(UnsupportedError, match=r"(?s)`test-point`, which is not known.*`arrow`.*register"):
        oblog.channel("c")


def test_codecs_that_cannot_be_registered():
    with pytest.raises(ArgumentError, match="missing: version, decode"):
        codecs.register(type("C", (), {"name": "x", "encode": None}))
    with pytest.raises(ArgumentError, match="already"):
        codecs.register(type("C", (), {"name": "json", "version": 1, "encode": None, "decode": None}))
    for name in ("", "mcap/x", 5):
        with pytest.raises(ArgumentError, match="name of a codec"):
            codecs.register(type("C", (), {"name": name, "version": 1, "encode": None, "decode": None}))


def test_an_error_while_encoding_or_decoding_is_the_codecs_own(tmp_path):
    class Failing:
        name, version = "test-failing", 1

        def encode(self, item):
            if item is None:
                raise KeyError("encode")
            return item

        def decode(self, payload):
            raise KeyError("decode", len(payload))

    oblog = ObLog(tmp_path)
    writer = oblog.get_writer("c", Failing())
    with pytest.raises(KeyError, match="encode"):
        writer(None)
    with pytest.raises(TypeError):
        writer("text has no buffer")
    writer(b"x")
    oblog.close()
    with pytest.raises(KeyError, match="decode"):
        oblog.channel("c", codec=Failing())[0]


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "evlib\[image\]"'):
        ImageCodec().encode(np.zeros((2, 2), "u1"))


@pytest.mark.parametrize("item", [float("nan"), [1, float("inf")], {"a": -float("inf")}])
def test_what_json_does_not_have_is_refused(item):
    with pytest.raises(ArgumentError, match="JSON does not store"):
        JsonCodec().encode(item)


def test_json_that_is_too_deep():
    with pytest.raises(FormatError, match="not a payload of the codec `json`"):
        JsonCodec().decode(b"[" * 100_000)


def test_a_codec_that_says_too_much_of_itself(tmp_path):
    class Talking(JsonCodec):
        metadata: ClassVar[dict[str, str]] = {"a": "x" * 600_000}

    with pytest.raises(ArgumentError, match="says too much of itself"):
        ObLog(tmp_path / "logs").get_writer("c", Talking())
    assert not (tmp_path / "logs").exists()


def test_json_is_json_for_others(tmp_path):
    from mcap.reader import make_reader

    oblog = ObLog(tmp_path)
    path = write(oblog, "c", [{"a": "ü"}], JsonCodec())
    with path.open("rb") as stream:
        _, channel, message = next(iter(make_reader(stream).iter_messages()))
    assert channel.message_encoding == "json"
    assert json.loads(message.data) == {"a": "ü"}
