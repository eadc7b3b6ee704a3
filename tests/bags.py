"""Bags of events, written by rosbags and mcap; the payloads of every encoding, written here from the format sheet."""

from __future__ import annotations

import io
import sqlite3
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import rosbags.rosbag1
import rosbags.rosbag2
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

GEOMETRY = (640, 480)
ARRAY = "std_msgs/Header header\nuint32 height\nuint32 width\nEvent[] events\n"
PACKET = (
    "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\n"
    "string encoding\nbool is_bigendian\nuint8[] events\n"
)
EVENT = {
    "ros1": "uint16 x\nuint16 y\ntime ts\nbool polarity\n",
    "ros2": "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity\n",
}
TYPES = {
    "dvs_msgs/msg/Event": None,
    "dvs_msgs/msg/EventArray": ARRAY,
    "prophesee_event_msgs/msg/Event": None,
    "prophesee_event_msgs/msg/EventArray": ARRAY,
    "copied_msgs/msg/Event": None,
    "copied_msgs/msg/EventArray": ARRAY,
    "event_camera_msgs/msg/EventPacket": PACKET,
    "event_array_msgs/msg/EventArray": PACKET,
}
ROW = tuple[int, int, int, int]
"""x, y, nanoseconds, polarity 0 or 1."""


def _store(name: Stores, flavour: str) -> Any:
    store = get_typestore(name)
    types: dict[str, Any] = {}
    for type_name, definition in TYPES.items():
        types |= get_types_from_msg(definition or EVENT[flavour], type_name)
    store.register(types)
    return store


ROS1, ROS2 = _store(Stores.ROS1_NOETIC, "ros1"), _store(Stores.ROS2_HUMBLE, "ros2")


@dataclass(frozen=True)
class Message:
    """A message on a topic, in the form that both serialisations can be made of."""

    type_name: str
    stamp_ns: int
    """Time in its header; it is recorded a millisecond later."""
    payload: bytes = b""
    encoding: str = ""
    base_ns: int = 0
    seq: int = 0
    rows: tuple[ROW, ...] = ()
    topic: str = "/camera/events"
    geometry: tuple[int, int] = GEOMETRY
    big_words: bool = False

    @property
    def log_ns(self) -> int:
        return max(self.stamp_ns + 1_000_000, 0)

    def built(self, store: Any) -> Any:
        seconds, nanoseconds = divmod(self.stamp_ns, 10**9)
        time = store.types["builtin_interfaces/msg/Time"]
        seq = {"seq": self.seq % 2**32} if store is ROS1 else {}
        head = store.types["std_msgs/msg/Header"](**seq, stamp=time(sec=seconds, nanosec=nanoseconds), frame_id="cam")
        width, height = self.geometry
        if self.type_name.startswith("sensor_msgs") or self.type_name.startswith("std_msgs"):
            return store.types["std_msgs/msg/String"](data="text")
        made = store.types[self.type_name]
        if not self.encoding:
            event = store.types[self.type_name.replace("EventArray", "Event")]
            events = [
                event(x=x, y=y, ts=time(sec=t // 10**9, nanosec=t % 10**9), polarity=bool(p))
                for x, y, t, p in self.rows
            ]
            return made(header=head, height=height, width=width, events=events)
        return made(
            header=head,
            height=height,
            width=width,
            seq=self.seq,
            time_base=self.base_ns,
            encoding=self.encoding,
            is_bigendian=self.big_words,
            events=np.frombuffer(self.payload, "u1"),
        )

    def ros1(self) -> bytes:
        return bytes(ROS1.serialize_ros1(self.built(ROS1), self.as_written))

    def cdr(self, *, little: bool = True) -> bytes:
        return bytes(ROS2.serialize_cdr(self.built(ROS2), self.as_written, little_endian=little))

    @property
    def as_written(self) -> str:
        """The type that the bytes are of."""
        return self.type_name if self.type_name in TYPES else "std_msgs/msg/String"


# --- payloads ------------------------------------------------------------------------------------------------------


def mono(rows: Sequence[ROW], base_ns: int) -> bytes:
    return b"".join(struct.pack("<IHH", t - base_ns, x, y | p << 15) for x, y, t, p in rows)


def trigger(edges: Sequence[tuple[int, int, int]], base_ns: int) -> bytes:
    """Id, nanoseconds, edge."""
    return b"".join(struct.pack("<IHH", t - base_ns, 0, number | edge << 15) for number, t, edge in edges)


def libcaer(rows: Sequence[ROW], base_ns: int) -> bytes:
    return b"".join(
        struct.pack("<Ii", 1 | p << 1 | y << 2 | x << 17, (t - base_ns) // 1000 % 2**31) for x, y, t, p in rows
    )


def libcaer_cmp(rows: Sequence[ROW], base_ns: int, *, narrow: bool = False) -> bytes:
    """Single events, and vectors where three or more rows of eight follow each other; `narrow` as the driver writes."""
    out: list[int] = []
    high = low = column = None
    at = 0
    while at < len(rows):
        x, y, t, p = rows[at]
        now = (t - base_ns) // 1000
        if now >> 12 != (high or 0):
            out.append((now >> 12) % (16 if narrow else 4096))
            high = now >> 12
        if now & 0xFFF != (low or 0):
            out.append(0x1 << 12 | now & 0xFFF)
            low = now & 0xFFF
        if x != column:
            out.append(0x2 << 12 | x)
            column = x
        group = [row for row in rows[at:] if (row[0], row[2], row[3]) == (x, t, p) and y <= row[1] < y + 8]
        run = 0
        while run < len(group) and rows[at + run] == group[run] and (run == 0 or group[run][1] > group[run - 1][1]):
            run += 1
        if run >= 3:
            mask = sum(1 << (row[1] - y) for row in group[:run])
            out += [0x4 << 12 | p << 11 | y, 0x5 << 12 | mask]
            at += run
        else:
            out.append(0x3 << 12 | p << 11 | y)
            at += 1
    return struct.pack(f"<{len(out)}H", *out)


ENCODERS: dict[str, Callable[[Sequence[ROW], int], bytes]] = {
    "mono": mono,
    "libcaer": libcaer,
    "libcaer_cmp": libcaer_cmp,
}

WORD = {"mono": 8, "trigger": 8, "libcaer": 4, "libcaer_cmp": 2, "evt3": 2}
"""Bytes of a word."""


def packets(
    rows: Sequence[ROW], encoding: str, sizes: Sequence[int], *, type_name: str = "event_camera_msgs/msg/EventPacket"
) -> list[Message]:
    """Rows in messages of these numbers of events, the last ones in one more; for `dvs_msgs` and the like records."""
    messages, at = [], 0
    for size in [*sizes, len(rows)]:
        part = rows[at : at + size]
        at += len(part)
        if not part:
            continue
        seq = len(messages)
        first = min(t for _, _, t, _ in part)
        if encoding == "records":
            messages.append(Message(type_name, first, rows=tuple(part)))
        else:
            payload = ENCODERS[encoding](part, first)
            messages.append(Message(type_name, first, payload, encoding, first, seq))
    return messages


def words(
    payload: bytes, sizes: Sequence[int], *, first_seq: int = 0, start_ns: int = 10**18, **more: Any
) -> list[Message]:
    """EVT3 words in messages of these numbers of words, the last ones in one more."""
    messages, at = [], 0
    for number, size in enumerate([*sizes, len(payload)]):
        part = payload[at : at + 2 * size]
        at += len(part)
        stamp = start_ns + number * 1_000_000
        if part:
            seq = first_seq + len(messages)
            messages.append(Message("event_camera_msgs/msg/EventPacket", stamp, part, "evt3", 0, seq, **more))
    return messages


def big(message: Message) -> Message:
    """The same with its words in big-endian order."""
    size = WORD[message.encoding]
    data = np.frombuffer(message.payload, f"<u{size}").astype(f">u{size}").tobytes()
    return replace(message, payload=data, big_words=True)


# --- containers ----------------------------------------------------------------------------------------------------


def write_bag(path: Path, messages: Sequence[Message], *, compression: str | None = None, chunk: int = 2048) -> None:
    writer = rosbags.rosbag1.Writer(path)
    writer.chunk_threshold = chunk
    if compression is not None:
        writer.set_compression(writer.CompressionFormat[compression.upper()])
    with writer:
        connections = {}
        for message in messages:
            key = (message.topic, message.type_name)
            if key not in connections:
                connections[key] = writer.add_connection(*key, typestore=ROS1)
            writer.write(connections[key], message.log_ns, message.ros1())


def write_ros2(
    path: Path, messages: Sequence[Message], *, kind: str = "db3", little: bool = True, compressed: bool = False
) -> None:
    """A bag of ROS 2 as rosbags writes it; `compressed` message by message."""
    folder = path.with_name(f"{path.name}.folder")
    plugin = rosbags.rosbag2.StoragePlugin.MCAP if kind == "mcap" else rosbags.rosbag2.StoragePlugin.SQLITE3
    writer = rosbags.rosbag2.Writer(folder, version=9, storage_plugin=plugin)
    if compressed:
        modes, formats = rosbags.rosbag2.CompressionMode, rosbags.rosbag2.CompressionFormat
        writer.set_compression(modes.MESSAGE, formats.ZSTD)
    with writer:
        connections = {}
        for message in messages:
            key = (message.topic, message.type_name)
            if key not in connections:
                connections[key] = writer.add_connection(*key, typestore=ROS2)
            writer.write(connections[key], message.log_ns, message.cdr(little=little))
    next(folder.glob(f"*.{kind}")).rename(path)


def write_mcap(
    path: Path,
    messages: Sequence[Message],
    *,
    compression: CompressionType = CompressionType.NONE,
    little: bool = True,
    ros1: bool = False,
    chunk: int | None = 2048,
    index: bool = True,
    crc: bool = True,
) -> None:
    out = io.BytesIO()
    options: dict[str, Any] = {}
    if not index:
        options = {"index_types": IndexType.NONE, "use_statistics": False, "use_summary_offsets": False}
        options |= {"repeat_channels": False, "repeat_schemas": False}
    writer = Writer(
        out, chunk_size=chunk or 1, compression=compression, use_chunking=chunk is not None, enable_crcs=crc, **options
    )
    writer.start(profile="ros1" if ros1 else "ros2", library="test")
    channels: dict[tuple[str, str], int] = {}
    for number, message in enumerate(messages):
        key = (message.topic, message.type_name)
        if key not in channels:
            store = ROS1 if ros1 else ROS2
            definition = ""
            if message.type_name in store.fielddefs:
                definition, _ = store.generate_msgdef(message.type_name, ros_version=1 if ros1 else 2)
            name = message.type_name.replace("/msg/", "/") if ros1 else message.type_name
            schema = writer.register_schema(name, "ros1msg" if ros1 else "ros2msg", definition.encode())
            channels[key] = writer.register_channel(message.topic, "ros1" if ros1 else "cdr", schema)
        data = message.ros1() if ros1 else message.cdr(little=little)
        writer.add_message(channels[key], message.log_ns, data, message.log_ns, number)
    writer.finish()
    path.write_bytes(out.getvalue())


CONTAINERS: dict[str, tuple[str, Callable[[Path, Sequence[Message]], None]]] = {
    "bag": ("bag", write_bag),
    "bag bz2": ("bag", lambda path, messages: write_bag(path, messages, compression="bz2")),
    "bag lz4": ("bag", lambda path, messages: write_bag(path, messages, compression="lz4")),
    "db3": ("db3", write_ros2),
    "db3 big-endian": ("db3", lambda path, messages: write_ros2(path, messages, little=False)),
    "db3 zstd": ("db3", lambda path, messages: write_ros2(path, messages, compressed=True)),
    "mcap": ("mcap", write_mcap),
    "mcap big-endian": ("mcap", lambda path, messages: write_mcap(path, messages, little=False)),
    "mcap lz4": ("mcap", lambda path, messages: write_mcap(path, messages, compression=CompressionType.LZ4)),
    "mcap zstd": ("mcap", lambda path, messages: write_mcap(path, messages, compression=CompressionType.ZSTD)),
    "mcap messages zstd": ("mcap", lambda path, messages: write_ros2(path, messages, kind="mcap", compressed=True)),
    "mcap ros1": ("mcap", lambda path, messages: write_mcap(path, messages, ros1=True)),
    "mcap unchunked": ("mcap", lambda path, messages: write_mcap(path, messages, chunk=None)),
    "mcap without summary": ("mcap", lambda path, messages: write_mcap(path, messages, index=False)),
    "mcap unchunked, without summary": (
        "mcap",
        lambda path, messages: write_mcap(path, messages, chunk=None, index=False),
    ),
}
"""Format and writer of each kind of container."""


def unindexed(data: bytes) -> bytes:
    """A bag as it is before it is closed: no index at the end, and no word of it in the header."""
    at = data.index(b"index_pos=") + len(b"index_pos=")
    position = int.from_bytes(data[at : at + 8], "little")
    return data[:at] + bytes(8) + data[at + 8 : position]


def query(path: Path, statement: str) -> list[tuple[Any, ...]]:
    """What an SQLite library says."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(statement).fetchall()
        connection.commit()
    finally:
        connection.close()
    return found
