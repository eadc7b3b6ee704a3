"""A reader of the log that knows nothing but `docs/log-format.md`: what it finds is what was written."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from evlib.codecs import EventsCodec, JsonCodec, NumpyArrayCodec
from evlib.oblog import ObLog

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, DATA_END, FOOTER = 0x03, 0x04, 0x0F, 0x02
SESSION, PADDING, INDEX, DIRECTORY = 0x80, 0x82, 0x83, 0x84


def table() -> list[int]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return found


TABLE = table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@dataclass
class Found:
    sequence: int
    log_time: int
    sensor_time: int
    payload: bytes
    aligned: int
    """Place in the file of the byte that the data offset names."""
    end: int


class Reader:
    """A file of a log."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.number = self.end = 0
        self.session()

    def session(self) -> None:
        at = -1
        while (at := self.data.find(b"evlibLOG", at + 1, 1 << 20)) >= 0:
            crc, length = struct.unpack_from("<II", self.data, at + 8)
            self.end = at + 16 + length
            if crc32c(self.data[at + 12 : self.end]) == crc:
                break
        version, _, self.codec_version, self.number, self.created = struct.unpack_from("<HHIQQ", self.data, at + 16)
        assert version == 1
        at += 40
        self.channel, at = self.text(at)
        self.codec, at = self.text(at)
        (pairs,) = struct.unpack_from("<I", self.data, at)
        at += 4
        self.metadata = {}
        for _ in range(pairs):
            key, at = self.text(at)
            self.metadata[key], at = self.text(at)
        assert at == self.end

    def text(self, at: int) -> tuple[str, int]:
        (length,) = struct.unpack_from("<I", self.data, at)
        return self.data[at + 4 : at + 4 + length].decode(), at + 4 + length

    def head(self, at: int) -> Found | None:
        fields = self.data[at + 9 : at + 73]
        if len(fields) < 64:
            return None
        crc, magic, number, place, *rest, payload_crc, data_offset = struct.unpack("<I4s6QII", fields)
        if (magic, number, place) != (b"evrh", self.number, at) or crc32c(fields[4:]) != crc:
            return None
        sequence, log_time, sensor_time, length = rest
        start = at + 104 + -(at + 104 + data_offset) % 64
        payload = self.data[start : start + length]
        if len(payload) < length or crc32c(payload) != payload_crc:
            return None
        return Found(sequence, log_time, sensor_time, payload, start + data_offset, start + length)

    def scan(self) -> list[Found]:
        found, at = [], self.end
        while at < len(self.data):
            if head := self.head(at):
                found.append(head)
                at = head.end
                continue
            opcode, length = struct.unpack_from("<BQ", self.data, at)
            if opcode == DATA_END:
                break
            assert opcode in (PADDING, INDEX, DIRECTORY, SCHEMA, CHANNEL, SESSION), hex(opcode)
            at += 9 + length
        return found

    def indexed(self) -> list[Found]:
        footer = len(self.data) - 8 - 29
        assert self.data[footer] == FOOTER
        assert self.data.endswith(MAGIC)
        (summary, _, crc) = struct.unpack_from("<QQI", self.data, footer + 9)
        assert zlib.crc32(self.data[summary : footer + 25]) == crc
        end = summary - 13
        opcode, _, crc = struct.unpack_from("<BQI", self.data, end)
        assert (opcode, crc) == (DATA_END, zlib.crc32(self.data[:end]))
        (place,) = struct.unpack_from("<Q", self.data, end - 8)
        content = self.data[place + 9 : end]
        crc, blocks, number, own, records, ordered, _ = struct.unpack_from("<IIQQQQQ", content)
        assert (number, own, crc) == (self.number, place, crc32c(content[4:]))
        found = []
        for block in range(blocks):
            at, first, last = struct.unpack_from("<QQQ", content, 48 + 24 * block)
            crc, count, number, own, sequence = struct.unpack_from("<IIQQQ", self.data, at + 9)
            assert crc32c(self.data[at + 13 : at + 41 + 16 * count]) == crc
            assert (number, own, sequence) == (self.number, at, len(found))
            entries = [struct.unpack_from("<QQ", self.data, at + 41 + 16 * entry) for entry in range(count)]
            assert (min(time for _, time in entries), max(time for _, time in entries)) == (first, last)
            found += [self.head(offset) for offset, _ in entries]
            assert [head.log_time for head in found[sequence:]] == [time for _, time in entries]
        assert len(found) == records
        times = [head.log_time for head in found]
        assert bool(ordered) == (times == sorted(times))
        return found


def decode_array(payload: bytes) -> np.ndarray:
    (length,) = struct.unpack_from("<I", payload)
    dtype = payload[4 : 4 + length].decode("ascii")
    (dimensions,) = struct.unpack_from("<I", payload, 4 + length)
    start = 8 + length + 8 * dimensions
    shape = struct.unpack_from(f"<{dimensions}Q", payload, 8 + length)
    return np.frombuffer(payload, dtype, offset=start).reshape(shape)


@pytest.mark.parametrize("direct", [False, True])
def test_arrays(tmp_path, direct):
    arrays = [np.arange(number % 7 * 3, dtype="<i2").reshape(3, -1) for number in range(4200)]
    with ObLog(tmp_path) as oblog:
        write = oblog.get_writer("lidar/front", NumpyArrayCodec(), direct=direct)
        for number, array in enumerate(arrays):
            write(array, timestamp=1000 - number if number == 50 else 1000 + number, sensor_time=number)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["lidar%2Ffront.000001.mcap", "lidar%2Ffront.lock"]
    reader = Reader(write.path)
    assert (reader.channel, reader.codec, reader.codec_version, reader.metadata) == ("lidar/front", "numpy", 1, {})
    found = reader.indexed()
    assert [head.sequence for head in found] == [head.sensor_time for head in found] == list(range(4200))
    assert found[50].log_time == 950
    for head, array in zip(found, arrays, strict=True):
        assert head.aligned % 64 == 0
        np.testing.assert_array_equal(decode_array(head.payload), array)
    assert reader.scan() == found
    # As if it had not been closed.
    reader.data = reader.data[: found[4000].end]
    assert reader.scan() == found[:4001]


def test_events(tmp_path):
    rows = np.arange(1000)
    frame = {"x": rows % 640, "y": rows % 480, "timestamp": rows * 7, "polarity": 1 - rows % 2 * 2}
    with ObLog(tmp_path) as oblog:
        write = oblog.get_writer("camera", EventsCodec(geometry=(640, 480)))
        write(frame)
    reader = Reader(write.path)
    assert reader.metadata == {"geometry": "640x480"}
    (head,) = reader.indexed()
    magic, count, first, last, *places = struct.unpack_from("<8sQqq4Q", head.payload)
    assert (magic, count, first, last) == (b"evlibEVT", 1000, 0, 6993)
    for name, dtype, place in zip(
        ("timestamp", "x", "y", "polarity"), ("<i8", "<i2", "<i2", "i1"), places, strict=True
    ):
        assert place % 64 == 0
        np.testing.assert_array_equal(np.frombuffer(head.payload, dtype, count, place), frame[name])


def test_metadata_of_others(tmp_path):
    with ObLog(tmp_path) as oblog:
        write = oblog.get_writer("state", JsonCodec())
        write({"ü": 1}, timestamp=5)
    (head,) = Reader(write.path).indexed()
    assert head.payload.decode() == '{"ü":1}'
