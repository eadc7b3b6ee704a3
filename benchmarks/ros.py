"""Compare reading EVT3 packets out of bags, db3 and MCAP files with reading the same words as a RAW file.

The words are those of a real recording that is repeated until it has the events asked for, cut into messages of 8 KiB
as a driver sends them. rosbags and mcap write the containers. Answers are verified before anything is timed; then the
files take turns in one process, page cache warm, and a ratio compares the best runs: that of the plain RAW file is 1.
No read has an index, bags having none, and each finds the memory of an equal one before it, which is not timed.
Nothing here fails because something is slow.

    python benchmarks/ros.py [--events 50e6] [--shared FOLDER] [--workdir FOLDER] [--repeat 5]
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import rosbags.rosbag1
import rosbags.rosbag2
from compare import grow, machine, table
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

import evlib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGET = 0.7
MESSAGE = 8192
"""Bytes of words in a message."""
TOPIC, TYPE = "/event_camera/events", "event_camera_msgs/msg/EventPacket"
DEFINITION = (
    "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\n"
    "string encoding\nbool is_bigendian\nuint8[] events\n"
)
GEOMETRY = (1280, 720)


def payload(path: Path) -> bytes:
    """Give the words of a RAW file."""
    data = path.read_bytes()
    while data.startswith(b"% "):
        data = data[data.index(b"\n") + 1 :]
    return data


class Words(NamedTuple):
    """Words of EVT3, and the nanoseconds from message to message that go with their clock."""

    data: bytes
    step_ns: int


def messages(words: Words, *, ros1: bool) -> Iterator[tuple[int, bytes]]:
    """Give the times and bytes of packets, little-endian."""
    width, height = GEOMETRY
    for number, start in enumerate(range(0, len(words.data), MESSAGE)):
        part = words.data[start : start + MESSAGE]
        stamp = 1_700_000_000_000_000_000 + number * words.step_ns
        time, frame, size = divmod(stamp, 10**9), b"camera", (height, width, number, 0)
        if ros1:
            head = struct.pack("<IIII6sIIQQI4sBI", number, *time, 6, frame, *size, 4, b"evt3", 0, len(part))
        else:
            body = struct.pack("<4xiII7sxIIxxxxQQI5sBxxI", *time, 7, frame, *size, 5, b"evt3", 0, len(part))
            head = b"\0\1\0\0" + body[4:]
        yield stamp, head + part


def write_bag(path: Path, words: Words, compression: str | None = None) -> None:
    """Write a ROS 1 bag."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg(DEFINITION, TYPE))
    writer = rosbags.rosbag1.Writer(path)
    if compression is not None:
        writer.set_compression(rosbags.rosbag1.Writer.CompressionFormat[compression.upper()])
    with writer:
        connection = writer.add_connection(TOPIC, TYPE, typestore=store)
        for stamp, message in messages(words, ros1=True):
            writer.write(connection, stamp, message)


def write_db3(path: Path, words: Words) -> None:
    """Write a ROS 2 bag in SQLite, a folder, and move its file to `path`."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(DEFINITION, TYPE))
    folder = path.with_suffix("")
    with rosbags.rosbag2.Writer(folder, version=9) as writer:
        connection = writer.add_connection(TOPIC, TYPE, typestore=store)
        for stamp, message in messages(words, ros1=False):
            writer.write(connection, stamp, message)
    next(folder.glob("*.db3")).rename(path)
    (folder / "metadata.yaml").unlink()
    folder.rmdir()


def write_mcap(path: Path, words: Words, compression: CompressionType, *, chunks: bool = True) -> None:
    """Write an MCAP file."""
    with path.open("wb") as file:
        writer = Writer(file, compression=compression, use_chunking=chunks)
        writer.start(profile="ros2")
        schema = writer.register_schema(TYPE, "ros2msg", DEFINITION.encode())
        channel = writer.register_channel(TOPIC, "cdr", schema)
        for stamp, message in messages(words, ros1=False):
            writer.add_message(channel, stamp, message, stamp)
        writer.finish()


FILES: dict[str, tuple[str, Callable[[Path, Words], None]]] = {
    "bag": ("bag", write_bag),
    "bag, lz4": ("lz4.bag", lambda path, words: write_bag(path, words, "lz4")),
    "db3": ("db3", write_db3),
    "MCAP": ("mcap", lambda path, words: write_mcap(path, words, CompressionType.NONE)),
    "MCAP, unchunked": ("flat.mcap", lambda path, words: write_mcap(path, words, CompressionType.NONE, chunks=False)),
    "MCAP, lz4": ("lz4.mcap", lambda path, words: write_mcap(path, words, CompressionType.LZ4)),
    "MCAP, zstd": ("zstd.mcap", lambda path, words: write_mcap(path, words, CompressionType.ZSTD)),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--events", type=float, default=50e6)
    parser.add_argument("--shared", type=Path, default=here.parents[1] / "shared")
    parser.add_argument("--workdir", type=Path, default=here / "results")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--make-only", action="store_true", help="write the inputs and verify the answers")
    return parser.parse_args()


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = work()
    taken = time.perf_counter() - start
    del result
    return taken


def main() -> None:
    options = arguments()
    inputs = options.workdir / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    grown = grow("evt3", int(options.events), options.shared, inputs)
    raw = Path(grown["path"])
    data = payload(raw)
    first, last = (bound // timedelta(microseconds=1) for bound in evlib.open(raw).time_range or ())
    words = Words(data, (last - first) * 1000 * MESSAGE // len(data))
    paths = {"RAW": raw}
    for name, (ending, write) in FILES.items():
        path = raw.with_suffix(f".{ending}")
        if not path.exists():
            write(path, words)
        paths[name] = path
    truth = evlib.read_events(raw)
    # A RAW file starts with the camera; a bag may start anywhere, and waits for a low time and a row.
    for name, path in paths.items():
        found = evlib.read_events(path)
        if not found.equals(truth.tail(found.height)) or truth.height - found.height > 10_000:
            raise SystemExit(f"{name}: the answers differ")
    if options.make_only:
        return
    del truth, found

    best = dict.fromkeys(paths, float("inf"))
    windows = dict.fromkeys(paths, float("inf"))
    middle, width = (first + last) // 2, (last - first) // 100
    for _ in range(options.repeat):
        for name, path in paths.items():
            evlib.read_events(path)  # the next read finds memory of its size
            os.utime(path)  # the process keeps the index of a RAW file that has not changed
            best[name] = min(best[name], timed(lambda path=path: evlib.read_events(path)))
            os.utime(path)
            windows[name] = min(
                windows[name], timed(lambda path=path: evlib.read_events(path, time_range=(middle, middle + width)))
            )
    rows = []
    for name, path in paths.items():
        ratio = best["RAW"] / best[name]
        met = "" if name == "RAW" else "met" if ratio >= TARGET else "missed"
        rate = grown["events"] / best[name] / 1e6
        size = path.stat().st_size / 1e6
        rows.append([name, f"{size:.0f} MB", f"{rate:.0f} Mev/s", f"{ratio:.2f}", met, f"{windows[name] * 1e3:.1f} ms"])
    print(json.dumps(machine()))
    print(table(["file", "size", "read", "of RAW", f"target {TARGET}", "1 % of the time, first query"], rows))


if __name__ == "__main__":
    main()
