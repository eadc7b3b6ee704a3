"""The parser of the command line; imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import argparse
from decimal import Decimal

import evlib

FORMATS = (
    *("evt2", "evt21", "evt3", "evt4", "dat", "hdf5", "npy", "npz", "aedat1", "aedat2", "aedat3", "aedat4"),
    *("es", "atis-bin", "text", "bag", "db3", "mcap", "oblog", "parquet", "arrow"),
)
TIME_SOURCES = ("sensor", "message")
TIME_UNITS = ("ns", "us", "ms", "s")
WRITTEN = (
    *("evt2", "evt21", "evt3", "evt4", "dat", "hdf5", "npy", "npz", "aedat4", "es", "atis-bin", "text"),
    *("parquet", "arrow"),
)
LAYOUTS = ("dsec", "prophesee")
COMPRESSIONS = ("zstd", "gzip", "lz4", "none")
POLICIES = ("block", "drop_oldest", "error")
SHELLS = ("bash", "zsh", "fish")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser; it is also what shell completion is generated from."""
    parser = argparse.ArgumentParser(prog="evlib", description="Look at and convert event-camera recordings.")
    parser.add_argument("--version", action="version", version=f"evlib {evlib.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    how = argparse.ArgumentParser(add_help=False)
    how.add_argument(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help=f"format of a file whose content does not tell: {', '.join(FORMATS)}",
    )
    how.add_argument("--geometry", type=_geometry, metavar="WxH", help="sensor size in pixels, in place of the file's")
    how.add_argument("--stream", metavar="NAME", help="stream of events, where the file has several cameras or topics")
    how.add_argument("--time-source", choices=TIME_SOURCES, help="ROS bags and MCAP: clock of times; by default sensor")
    how.add_argument("--time-unit", choices=TIME_UNITS, help="arrays and text: unit of times, in place of the file's")
    how.add_argument("--time-offset", type=_time, metavar="TIME", help="arrays and text: added to times, as 1.5s")
    how.add_argument(
        "--path-map",
        type=_path,
        action="append",
        metavar="COLUMN=PATH",
        help="arrays: data set or member of x, y, timestamp, polarity, or of events with all four; once for each",
    )
    how.add_argument("--pixel-parts", type=_positive, metavar="N", help="arrays: coordinates count parts of 1/N pixel")
    how.add_argument("--threads", type=_positive, metavar="N", help="threads that decode; all processors by default")

    info = commands.add_parser("info", parents=[how], help="say what recordings are: format, size, time, rates")
    info.add_argument("paths", nargs="+", metavar="FILE", help="recordings")
    info.add_argument("--json", action="store_true", help="print one JSON object a line and file")
    info.add_argument("--exact", action="store_true", help="decode everything, where a big file's rate is estimated")

    head = commands.add_parser("head", parents=[how], help="print the first events")
    head.add_argument("path", metavar="FILE", help="recording")
    head.add_argument("-n", "--rows", type=_count, default=10, metavar="N", help="number of events, by default 10")
    head.add_argument("--csv", action="store_true", help="print comma-separated values")

    check = commands.add_parser(
        "check", parents=[how], help="list what is wrong with recordings; exit code 0 clean, 1 unreadable, 3 losses"
    )
    check.add_argument("paths", nargs="+", metavar="FILE", help="recordings")

    new = argparse.ArgumentParser(add_help=False)
    new.add_argument(
        "--to",
        choices=WRITTEN,
        metavar="FORMAT",
        help=f"format of the new file, where its extension does not tell: {', '.join(WRITTEN)}",
    )
    new.add_argument("--layout", choices=LAYOUTS, help="HDF5: layout; by default dsec for .h5, prophesee for .hdf5")
    new.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        help="HDF5 in the dsec layout: by default zstd; Parquet: none; AEDAT4: lz4",
    )
    new.add_argument("--force", action="store_true", help="replace OUT if it is there")

    convert = commands.add_parser("convert", parents=[how, new], help="write a recording in another format")
    convert.add_argument("path", metavar="IN", help="recording")
    convert.add_argument("output", metavar="OUT", help="new file; its extension says the format")

    cut = commands.add_parser("cut", parents=[how, new], help="write the part of a recording in a time range")
    cut.add_argument("path", metavar="IN", help="recording")
    cut.add_argument("output", metavar="OUT", help="new file; its extension says the format")
    cut.add_argument("--start", type=_time, metavar="TIME", help="first time, with its unit, as 1.5s, 20ms or 300us")
    cut.add_argument("--end", type=_time, metavar="TIME", help="time before which the part ends")
    cut.add_argument("--relative", action="store_true", help="count times from the first event")

    split = commands.add_parser("split", parents=[how, new], help="write a recording in numbered parts")
    split.add_argument("path", metavar="IN", help="recording")
    split.add_argument("output", metavar="OUT", help="new files: part.raw stands for part-000.raw, part-001.raw, ...")
    split.add_argument("--duration", type=_duration, metavar="TIME", help="length of parts, with its unit, as 10s")
    split.add_argument("--events", type=_positive, metavar="N", help="number of events of a part")

    merge = commands.add_parser("merge", parents=[how, new], help="write several recordings in one, by time")
    merge.add_argument("paths", nargs="+", metavar="IN", help="recordings on one clock")
    merge.add_argument("output", metavar="OUT", help="new file; its extension says the format")
    merge.add_argument("--largest", action="store_true", help="merge sensors of different sizes, in the largest")

    _add_log(commands.add_parser("log", help="observation logs: look at, check, print, repair, export, record"), how)

    completion = commands.add_parser("completion", help="print the completion script of a shell")
    completion.add_argument("shell", choices=SHELLS, help="shell")
    return parser


def _add_log(log: argparse.ArgumentParser, how: argparse.ArgumentParser) -> None:
    """Add the verbs of `evlib log`."""
    verbs = log.add_subparsers(dest="verb", metavar="VERB", required=True)
    trust = argparse.ArgumentParser(add_help=False)
    trust.add_argument("--allow-pickle", action="store_true", help="read pickled objects, which runs their code")

    info = verbs.add_parser("info", help="say what is in a log")
    verify = verbs.add_parser("verify", help="check every record; exit code 3 if something is damaged")
    cat = verbs.add_parser("cat", parents=[trust], help="print records, by time")
    for verb in (info, verify, cat):
        verb.add_argument("path", metavar="LOG", help="folder, or a file of a log, MCAP or .blog")
        verb.add_argument("channel", nargs="?", metavar="CHANNEL", help="channel; all by default")
    info.add_argument("--json", action="store_true", help="print one JSON object a line and channel")
    cat.add_argument("--json", action="store_true", help="print one JSON object a line and record")
    cat.add_argument("-n", "--rows", type=_count, metavar="N", help="number of records; all by default")

    repair = verbs.add_parser("repair", help="copy what is whole into new files; the old ones stay")
    repair.add_argument("path", metavar="LOG", help="folder or file of a log")
    repair.add_argument("output", metavar="OUT", help="folder of the new files")

    export = verbs.add_parser("export", parents=[trust], help="write a channel in another form")
    export.add_argument("path", metavar="LOG", help="folder, or a file of a log, MCAP or .blog")
    export.add_argument("channel", metavar="CHANNEL", help="channel")
    export.add_argument("output", metavar="OUT", help="new file, whose ending says the form, or folder")
    export.add_argument("--geometry", type=_geometry, metavar="WxH", help="sensor size, where the log does not say")
    export.add_argument("--force", action="store_true", help="replace OUT if it is there")

    record = verbs.add_parser("record", parents=[how], help="write the events of a recording into a log, for testing")
    record.add_argument("path", metavar="IN", help="recording")
    record.add_argument("output", metavar="LOG", help="folder of the log")
    record.add_argument("channel", nargs="?", metavar="CHANNEL", help="channel; the recording's name by default")
    record.add_argument("--speed", type=_speed, default=1.0, metavar="X", help="times its own pace (1), or `max`")
    record.add_argument("--policy", choices=POLICIES, default="block", help="what happens when the disk is too slow")
    record.add_argument("--durable", action="store_true", help="wait for the disk with each record")
    record.add_argument("--direct", action="store_true", help="write past the page cache")


def _speed(text: str) -> float | None:
    """Read a multiple of the own pace; None stands for as fast as can be."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e9:
        raise argparse.ArgumentTypeError(f"expected a number above 0 or `max`, found {text!r}")
    return speed


def _geometry(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected width x height such as 1280x720, found {text!r}")
    return int(width), int(height)


_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000}


def _time(text: str) -> int:
    number = text.rstrip("ushmin")
    unit = text[len(number) :]
    try:
        exact = Decimal(number.strip()) * _UNITS_US[unit]
    except (ArithmeticError, KeyError):
        exact = Decimal("NaN")
    if not exact.is_finite() or exact != exact.to_integral_value() or abs(exact) >= 2**63:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of microseconds, written with its unit, as 1.5s, 20ms or 300us, found {text!r}"
        )
    return int(exact)


def _path(text: str) -> tuple[str, str]:
    column, _, path = text.partition("=")
    if not (column and path):
        raise argparse.ArgumentTypeError(f"expected COLUMN=PATH, as x=/events/x, found {text!r}")
    return column, path


def _duration(text: str) -> int:
    if (duration := _time(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1us, found {text!r}")
    return duration


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if (number := _count(text)) < 1:
        raise argparse.ArgumentTypeError("expected at least 1, found 0")
    return number
