"""The parser of the command line; imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import argparse

import evlib

FORMATS = ("evt2", "evt21", "evt3", "evt4", "dat", "hdf5", "bag", "db3", "mcap")
TIME_SOURCES = ("sensor", "message")
WRITTEN = ("evt2", "evt3", "hdf5")
LAYOUTS = ("dsec", "prophesee")
COMPRESSIONS = ("zstd", "gzip", "none")
SHELLS = ("bash", "zsh", "fish")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser; it is also what shell completion is generated from."""
    parser = argparse.ArgumentParser(prog="evlib", description="Look at and convert event-camera recordings.")
    parser.add_argument("--version", action="version", version=f"evlib {evlib.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    how = argparse.ArgumentParser(add_help=False)
    how.add_argument("--format", choices=FORMATS, help="format of a file whose content does not tell")
    how.add_argument("--geometry", type=_geometry, metavar="WxH", help="sensor size in pixels, in place of the file's")
    how.add_argument("--stream", metavar="NAME", help="stream of events, where the file has several cameras or topics")
    how.add_argument("--time-source", choices=TIME_SOURCES, help="ROS bags and MCAP: clock of times; by default sensor")
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

    convert = commands.add_parser("convert", parents=[how], help="write a recording in another format")
    convert.add_argument("path", metavar="IN", help="recording")
    convert.add_argument("output", metavar="OUT", help="new file; its extension says the format")
    convert.add_argument("--to", choices=WRITTEN, help="format of the new file, where its extension does not tell")
    convert.add_argument("--layout", choices=LAYOUTS, help="HDF5: layout; by default dsec for .h5, prophesee for .hdf5")
    convert.add_argument("--compression", choices=COMPRESSIONS, help="HDF5 in the dsec layout: by default zstd")
    convert.add_argument("--force", action="store_true", help="replace OUT if it is there")

    completion = commands.add_parser("completion", help="print the completion script of a shell")
    completion.add_argument("shell", choices=SHELLS, help="shell")
    return parser


def _geometry(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected width x height such as 1280x720, found {text!r}")
    return int(width), int(height)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if (number := _count(text)) < 1:
        raise argparse.ArgumentTypeError("expected at least 1, found 0")
    return number
