"""Read what evlib writes with other libraries, and what they write with evlib, and compare every event.

Each library gets a virtual environment of its own. The recordings are simulated: only the network is needed. A cell of
the tables is `same` if all columns of all events are; otherwise a note says how they differ. Known mistakes of other
libraries stand in `KNOWN`, with what comes of them and the reason; any other outcome makes the exit code 1, be it that
such a cell is the same now. A library that cannot be installed is shown as such, and does not.

    python benchmarks/interop.py [--peers evutils,faery] [--kinds evt3,dat]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from compare import ENTRANTS, Row, RunError, describe, distribution, machine, run_worker, say, set_up, table
from worker import columns_of, differences

import evlib

HERE = Path(__file__).resolve().parent
WORKER = HERE / "interop_worker.py"
PEER_SECONDS = 120
MESSAGE = 240
"""Characters of a note about one cell."""

Columns = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Kind:
    """A kind of file: how evlib writes it."""

    key: str
    title: str
    format: str
    file: str
    write: Row = field(default_factory=dict)
    content: str = "pauses"
    """Which of the recordings of `contents` it holds."""
    legacy: bool = False
    """Whether the halves of the words are swapped after writing: the other word order of EVT2.1."""


RAW = [("evt2", "EVT2"), ("evt21", "EVT2.1"), ("evt3", "EVT3"), ("evt4", "EVT4")]
KINDS = [
    *(Kind(key, title, key, f"{key}.raw", {"format": key}, "short") for key, title in RAW),
    Kind("evt21-legacy", "EVT2.1, halves of words swapped", "evt21", "evt21.raw", {"format": "evt21"}, legacy=True),
    Kind("evt3-long", "EVT3, 40 s of steady events", "evt3", "evt3.raw", {"format": "evt3"}, "steady"),
    Kind("evt3-pauses", "EVT3, pauses of 20 s", "evt3", "evt3.raw", {"format": "evt3"}),
    *(
        Kind(f"{key}-triggers", f"{title} with triggers", key, f"{key}.raw", {"format": key}, "triggers")
        for key, title in RAW
    ),
    Kind("dat", "DAT", "dat", "recording.dat"),
    Kind("aedat2", "AEDAT 2.0", "aedat2", "recording.aedat", content="small"),
    Kind("aedat4", "AEDAT4, LZ4", "aedat4", "lz4.aedat4"),
    Kind("aedat4-zstd", "AEDAT4, Zstandard", "aedat4", "zstd.aedat4"),
    Kind("aedat4-none", "AEDAT4, plain", "aedat4", "plain.aedat4", {"compression": "none"}),
    Kind("es", "Event Stream", "es", "recording.es"),
    Kind("atis-bin", "ATIS `.bin`", "atis-bin", "recording.bin", {"format": "atis-bin"}, "small"),
    Kind("text", "text, `t x y p`", "text", "recording.txt"),
    Kind("csv", "CSV", "text", "recording.csv"),
    Kind("npz", "NPZ", "npz", "recording.npz"),
    Kind("npy", "NPY", "npy", "recording.npy"),
    Kind("dsec", "HDF5, DSEC", "hdf5", "recording.h5"),
    Kind("dsec-gzip", "HDF5, DSEC, gzip", "hdf5", "recording.h5", {"compression": "gzip"}),
    Kind("prophesee-hdf5", "HDF5, Prophesee (ECF)", "hdf5", "recording.hdf5"),
    Kind("parquet", "Parquet", "parquet", "recording.parquet"),
    Kind("arrow", "Arrow IPC", "arrow", "recording.arrow"),
    Kind("bag", "ROS 1 bag, `dvs_msgs`", "bag", "recording.bag"),
    Kind("db3", "ROS 2 db3, `dvs_msgs`", "db3", "rosbag2/rosbag2.db3"),
    Kind("mcap", "ROS 2 MCAP, `dvs_msgs`", "mcap", "rosbag2/rosbag2.mcap"),
]


@dataclass(frozen=True)
class Peer:
    """Another library: what it reads and writes, and how its columns are brought into ours."""

    name: str
    requirement: str
    key: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    note: str = ""

    def job(self, kind: Kind, *, writing: bool) -> Row:
        """What the worker is told beside the path."""
        if writing:
            compression = {
                "faery": {"aedat4": ["lz4", 1], "aedat4-zstd": ["zstd", 3], "aedat4-none": None},
                "dv_processing": {"aedat4": "LZ4", "aedat4-zstd": "ZSTD", "aedat4-none": "NONE"},
            }.get(self.key, {})
            options = {"compression": compression[kind.key]} if kind.key in compression else {}
            return {"job": "write", "writer": self.key, **options}
        suffix = "_triggers" if kind.content == "triggers" else "_csv" if kind.key == "csv" else ""
        return {"job": "read", "reader": self.key + suffix}


PINNED = {entrant.name: entrant.requirement for entrant in ENTRANTS if entrant.requirement}
AEDAT4 = ("aedat4", "aedat4-zstd", "aedat4-none")
EVT3 = ("evt3", "evt3-long", "evt3-pauses")
PEERS = [
    Peer(
        "evutils",
        PINNED["evutils"],
        "evutils",
        (
            *(*EVT3, "evt2", "evt21", "evt21-legacy", "evt4", "evt2-triggers", "evt3-triggers", "evt4-triggers"),
            *("dat", "aedat4", "aedat4-none", "csv", "text", "npz", "dsec", "dsec-gzip", "prophesee-hdf5"),
        ),
        (*EVT3, "evt2", "evt21-legacy", "evt4", "dat", "aedat4-none", "csv", "npz", "dsec"),
        "polarity 0 and 1; AEDAT4 with `ext_trigger=True`",
    ),
    Peer(
        "faery",
        PINNED["faery"],
        "faery",
        (*EVT3, "evt2", "evt21", "dat", "aedat4", "aedat4-none", "es", "csv"),
        (*EVT3, "evt2", "dat", *AEDAT4, "es", "csv"),
        "polarity a bool; writes with `zero_t0=False`: by default it subtracts the first time",
    ),
    Peer(
        "dv-processing",
        PINNED["dv-processing"],
        "dv_processing",
        ("aedat4", "aedat4-none"),
        AEDAT4,
        "polarity a bool",
    ),
    Peer("aedat", PINNED["aedat"], "aedat", ("aedat4", "aedat4-none"), (), "polarity a bool"),
    Peer(
        "event_stream",
        PINNED["event_stream"],
        "event_stream",
        ("es",),
        ("es",),
        "polarity a bool; rows as stored, from the bottom",
    ),
    Peer("loris", PINNED["loris"], "loris", ("es",), (), "rows as stored, from the bottom"),
    Peer(
        "expelliarmus",
        PINNED["expelliarmus"],
        "expelliarmus",
        (*EVT3, "evt2", "evt2-triggers", "evt3-triggers", "dat"),
        (*EVT3, "evt2", "dat"),
        "polarity 0 and 1",
    ),
    Peer(
        "eventcv",
        PINNED["eventcv"],
        "eventcv",
        (*EVT3, "evt2", "dat", "aedat4", "aedat4-none", "text", "csv", "npz", "dsec", "dsec-gzip"),
        (*EVT3, "evt2", "dat", "aedat2", "aedat4", "text", "npz", "dsec", "bag"),
        "polarity 0 and 1; CSV with `keys` and `time_unit`",
    ),
    Peer("evt3", "evt3==0.4.1", "evt3", (*EVT3, "evt3-triggers"), (), "polarity 0 and 1"),
    Peer("aestream", "aestream==0.6.4", "aestream", ("evt3", "dat", "aedat4"), (), "polarity 0 and 1"),
    Peer("tonic", "tonic==1.7.0 aedat==2.3.0", "tonic", ("atis-bin", "aedat4", "aedat4-none"), (), "polarity a bool"),
    Peer(
        "numpy",
        "numpy==2.4.6",
        "numpy",
        ("npz", "npy", "text"),
        ("npz", "npy", "text"),
        "text with `loadtxt`, seconds rounded to microseconds",
    ),
    Peer("pyarrow", "pyarrow==26.0.1", "pyarrow", ("csv", "parquet", "arrow"), ("csv", "parquet", "arrow")),
    Peer(
        "h5py",
        "h5py==3.16.0 hdf5plugin==7.1.0",
        "h5py",
        ("dsec", "dsec-gzip", "prophesee-hdf5"),
        ("dsec",),
        "`t_offset` added",
    ),
    Peer("rosbags", "rosbags==0.11.9", "rosbags", (), ("bag", "db3", "mcap"), "messages of 5000 events"),
]


@dataclass(frozen=True)
class Known:
    """What is known of a cell that is not the same, and why."""

    state: str
    parts: tuple[str, ...]
    """How the parts of its text begin: one for each column that differs, or the message of an error."""
    reason: str

    def fits(self, cell: Row) -> bool:
        parts = cell["text"].split("; ") if self.state == "differs" else [cell["text"]]
        return (
            cell["state"] == self.state
            and len(parts) == len(self.parts)
            and all(re.match(known, part) for known, part in zip(self.parts, parts, strict=True))
        )


_TIMES = ("t differs",)
_ALL = ("t differs", "x differs", "y differs", "p differs")
_LOW_TIME = Known(
    "differs",
    _TIMES,
    "It takes a low time that steps back for a wrap of 4096 us, beside the high time words that say so already.",
)
_HIGH_TIME = Known("differs", _TIMES, "It writes bits 32 and up of the time where bits 12 and up belong.")
_NO_WORDS = Known(
    "differs",
    _TIMES,
    "It writes no time words in pauses; more than half a period, 8.4 s, cannot be told from a wrap more.",
)
_ECF = Known(
    "fails",
    ("OSError: .*(?:[Cc]an't synchronously read data)",),
    "Needs the HDF5 plugin for ECF, which the Python Package Index does not have.",
)

KNOWN: dict[tuple[str, str, str], Known] = {
    ("read", "evutils", "evt21"): Known(
        "differs",
        (r"\d+ events of", *_ALL),
        "It reads words of either order as legacy ones. The same file with the halves of its words swapped is "
        "the same.",
    ),
    ("read", "faery", "evt21"): Known("fails", ('RuntimeError: unknown version "EVT21"',), "It does not read EVT2.1."),
    **{("read", "expelliarmus", kind): _LOW_TIME for kind in EVT3},
    **{("written", "expelliarmus", kind): _HIGH_TIME for kind in EVT3},
    ("read", "expelliarmus", "evt3-triggers"): Known(
        "fails",
        ("TypeError: 'NoneType' object is not subscriptable",),
        "It gives nothing of EVT3 files with external triggers.",
    ),
    ("read", "aestream", "evt3"): Known(
        "differs", _TIMES, "Its EVT3 decoder adds up times wrongly, in files of cameras too."
    ),
    **{("written", peer, "evt3-pauses"): _NO_WORDS for peer in ("evutils", "eventcv")},
    ("written", "eventcv", "aedat2"): Known(
        "differs",
        ("x differs",),
        "It stores columns from the left; jAER, whose format it is, from the right.",
    ),
    ("read", "aestream", "aedat4"): Known(
        "fails", ("exit status -11",), "The process ends; so it does on the files of dv-processing."
    ),
    ("written", "evutils", "aedat4-none"): Known(
        "fails",
        ("the header of AEDAT 4.0 is damaged: expected a flatbuffer `IOHE`",),
        "dv-processing, aedat, faery and aestream refuse these files too.",
    ),
    ("read", "evutils", "text"): Known(
        "differs", _ALL, "It reads whole microseconds with commas, whatever the extension."
    ),
    ("read", "evutils", "csv"): Known(
        "fails",
        ("ValueError: Header not found or invalid: t_us,x,y,p",),
        "It takes no names but `t`, `x`, `y` and `p`; here the name says the unit, `t_us`.",
    ),
    ("read", "eventcv", "dsec"): Known(
        "fails",
        (r"ValueError: hdf5: H5Dread\(\): can't synchronously read data: can't open directory",),
        "Its wheel looks for the Blosc filter in a folder of the machine that built it.",
    ),
    **{("read", peer, "prophesee-hdf5"): _ECF for peer in ("evutils", "h5py")},
}
"""Cells that are known not to be the same, by direction, library and kind."""


# What is written


def contents() -> dict[str, tuple[tuple[int, int], Columns]]:
    """Geometry and columns of recordings: corners of the sensor, equal times, pauses longer than a wrap of EVT3."""
    wide, small = (640, 480), (240, 180)
    moving = evlib.simulate(timedelta(milliseconds=30), geometry=wide)
    corners = pl.DataFrame(
        {"x": [0, 639, 0, 639], "y": [0, 0, 479, 479], "timestamp": [0, 0, 1, 1], "polarity": [1, -1, -1, 1]}
    ).cast(moving.schema)  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 2**31, 40_000)
    steady = pl.DataFrame(
        {
            "x": pixels % wide[0],
            "y": pixels // wide[0] % wide[1],
            "timestamp": np.arange(len(pixels)) * 1000 + pixels % 1000,
            "polarity": pixels // 2**20 % 2 * 2 - 1,
        }
    ).cast(moving.schema)  # type: ignore[arg-type]
    pauses = [(0, corners), (1_000_000, moving), (1_040_000, moving), (21_000_000, moving), (40_500_000, moving)]
    parts = {
        "short": (wide, pauses[:3]),
        "pauses": (wide, pauses),
        "steady": (wide, [(0, steady)]),
        "small": (small, [(0, evlib.simulate(timedelta(milliseconds=300), geometry=small))]),
    }
    found = {}
    for name, (geometry, pieces) in parts.items():
        shifted = [piece.with_columns(pl.col("timestamp") + pl.duration(microseconds=start)) for start, piece in pieces]
        found[name] = (geometry, _columns(pl.concat(shifted).rechunk()))
    times = np.arange(0, 41_000_000, 9_973)
    number = np.arange(len(times))
    triggers = {"trigger_t": times, "trigger_p": 1 - 2 * (number % 2), "trigger_id": number // 2 % 2 * 6}
    return {**found, "triggers": (wide, {**found["pauses"][1], **triggers})}


def _columns(events: pl.DataFrame) -> Columns:
    return {
        name: values.astype("i8") if name == "t" else values for name, values in columns_of("evlib", events).items()
    }


def _frame(columns: Columns) -> pl.DataFrame:
    names = {"x": "x", "y": "y", "timestamp": "t", "polarity": "p"}
    return pl.DataFrame({name: columns[short] for name, short in names.items()})


def _triggers(columns: Columns) -> dict[str, Any] | None:
    names = {"id": "trigger_id", "polarity": "trigger_p", "timestamp": "trigger_t"}
    return {name: columns[short] for name, short in names.items()} if "trigger_t" in columns else None


def knows(format: str) -> bool:  # noqa: A002
    """Whether this evlib has the format."""
    try:
        evlib.open(HERE, format=format)
    except evlib.exceptions.ArgumentError:
        return False
    except (evlib.EvlibError, OSError):
        pass
    return True


def swap_halves(path: Path) -> None:
    """Turn EVT2.1 with little-endian words into the legacy word order."""
    header, words = path.read_bytes().split(b"% end\n", 1)
    swapped = np.frombuffer(words, "<u4").reshape(-1, 2)[:, ::-1].tobytes()
    path.write_bytes(header.replace(b"endianness=little", b"endianness=legacy") + b"% end\n" + swapped)


def compared(truth: Columns, found: Columns) -> Row:
    """State and text of a cell."""
    texts, lacking = [], []
    for names, what in (("txyp", "events"), (("trigger_t", "trigger_p", "trigger_id"), "triggers")):
        ours = {name: truth[name] for name in names if name in truth and name in found}
        if ours:
            text = describe(differences(ours, {name: found[name] for name in ours}))
            texts += [] if text == "the same" else [text if what == "events" else f"{what}: {text}"]
        elif names[0] in truth:
            lacking.append(what)
    if texts:
        return {"state": "differs", "text": "; ".join(texts)}
    return {"state": "same", "text": ", ".join(f"no {what}" for what in lacking)}


class Matrix:
    """Runs the cells."""

    def __init__(self, folder: Path, pythons: dict[str, Path], absent: dict[str, str]) -> None:
        self.folder, self.pythons, self.absent = folder, pythons, absent
        folder.mkdir(parents=True, exist_ok=True)
        self.contents = contents()
        self.stored: dict[str, Path] = {}
        for name, (_, columns) in self.contents.items():
            self.stored[name] = folder / f"{name}.npz"
            np.savez(self.stored[name], **columns)

    def written(self, kind: Kind) -> Path:
        """The recording as evlib writes it."""
        geometry, columns = self.contents[kind.content]
        path = self.folder / "evlib" / kind.key / kind.file
        if not path.exists():
            path.parent.mkdir(parents=True)
            options = {"format": kind.format, **kind.write}
            evlib.write_events(_frame(columns), path, geometry=geometry, triggers=_triggers(columns), **options)
            if kind.legacy:
                swap_halves(path)
        return path

    def read(self, kind: Kind, path: Path) -> Columns:
        """The columns that evlib reads."""
        geometry, truth = self.contents[kind.content]
        recording = evlib.open(path, geometry=geometry)
        columns = _columns(recording.read())
        if "trigger_t" in truth:
            triggers = recording.triggers.collect()
            columns["trigger_t"] = triggers["timestamp"].to_physical().to_numpy()
            columns["trigger_p"], columns["trigger_id"] = triggers["polarity"].to_numpy(), triggers["id"].to_numpy()
        return columns

    def by_evlib(self, kind: Kind) -> Row:
        """Our file, read by us."""
        return compared(self.contents[kind.content][1], self.read(kind, self.written(kind)))

    def by_peer(self, kind: Kind, peer: Peer) -> Row:
        """Our file, read by another library."""
        geometry, truth = self.contents[kind.content]
        out = self.folder / "read.npz"
        job = {**peer.job(kind, writing=False), "format": kind.format, "geometry": geometry, "out": str(out)}
        try:
            run_worker(self.pythons[peer.requirement], {**job, "path": str(self.written(kind))}, WORKER, PEER_SECONDS)
        except RunError as error:
            return {"state": "fails", "text": str(error)}
        with np.load(out) as found:
            return compared(truth, dict(found))

    def of_peer(self, kind: Kind, peer: Peer) -> Row:
        """Another library's file, read by us."""
        geometry, truth = self.contents[kind.content]
        path = self.folder / peer.key / kind.key / kind.file
        # What is left is a folder that the library makes.
        (path.parent.parent if "/" in kind.file else path.parent).mkdir(parents=True)
        job = {**peer.job(kind, writing=True), "format": kind.format, "geometry": geometry, "path": str(path)}
        try:
            stored = {"events": str(self.stored[kind.content])}
            run_worker(self.pythons[peer.requirement], {**job, **stored}, WORKER, PEER_SECONDS)
        except RunError as error:
            return {"state": "not written", "text": str(error)}
        try:
            return compared(truth, self.read(kind, path))
        except (evlib.EvlibError, OSError) as error:
            return {"state": "fails", "text": str(error).splitlines()[0].replace(str(self.folder), "")}

    def cell(self, direction: str, kind: Kind, peer: Peer) -> Row:
        """One cell, with what is known of it."""
        if peer.requirement in self.absent:
            return {"state": "not installed", "text": self.absent[peer.requirement], "expected": True, "known": None}
        found = (self.by_peer if direction == "read" else self.of_peer)(kind, peer)
        return judged(found, KNOWN.get((direction, peer.name, kind.key)))


def judged(cell: Row, known: Known | None) -> Row:
    """A cell with the reason that is known for it, if this is the outcome that is known."""
    fits = cell["state"] == "same" if known is None else known.fits(cell)
    return {**cell, "expected": fits, "known": known.reason if known and fits else None}


# The page

INTRODUCTION = """\
# Interoperation

What evlib writes is read by other libraries, what they write is read by evlib, and every column of every event is
compared. `make interop` does it anew: it installs each library into an environment of its own and simulates the
recordings, so that it needs nothing but the network, and takes about two minutes. It fails if a cell is neither `same`
nor what is known of it: other columns that differ, or another error, are not excused. This page is its output
(`python benchmarks/interop.py --page docs/interop.md`).

* **same**: all rows, in the same order, with the same time, x, y and polarity; and where there are triggers, all of
  them. *No triggers*: the library does not give any, the events are the same.
* A number refers to the notes, which say how cells differ, and why. Polarity of 0 and 1, seconds, and rows that count
  from the bottom are brought into common columns first: see [the list](#libraries).
* An empty cell: the library has no such reader or writer, or none that is tried here.

"""


def grid(
    direction: str, kinds: list[Kind], peers: list[Peer], cells: dict[tuple[str, str, str], Row], notes: list[str]
) -> str:
    """One table; appends to the notes that its cells refer to."""
    columns = [peer for peer in peers if any((direction, peer.name, kind.key) in cells for kind in kinds)]
    rows = []
    for kind in kinds:
        line = []
        for peer in columns:
            cell = cells.get((direction, peer.name, kind.key))
            if cell is None or cell["state"] in ("same", "not installed"):
                line.append("" if cell is None else cell["state"])
                if cell is not None and cell["state"] == "same" and cell["text"]:
                    line[-1] += f", {cell['text']}"
                continue
            text = f"**{kind.title}, {peer.name}**: {brief(cell['text'])}."
            notes.append(f"{text} {cell['known'] or '**Not known before.**'}")
            line.append(f"{cell['state']} [{len(notes)}]" + ("" if cell["expected"] else " **!**"))
        if any(line):
            rows.append([kind.title, *line])
    return table(["", *(peer.name for peer in columns)], rows)


def brief(text: str) -> str:
    """A message without folders, and of one length at most."""
    text = re.sub(r"(?:/[\w.@+-]+){2,}/?", "...", text).rstrip(". ")
    return text if len(text) <= MESSAGE else text[: MESSAGE - 3].rsplit(" ", 1)[0] + " ..."


def page(
    data: Row, cells: dict[tuple[str, str, str], Row], kinds: list[Kind], peers: list[Peer], lacking: list[Kind]
) -> str:
    notes: list[str] = []
    read = grid("read", kinds, peers, cells, notes)
    written = grid("written", kinds, peers, cells, notes)
    versions = []
    for peer in peers:
        if peer.requirement in data["absent"]:
            version = f"not installed: `{data['absent'][peer.requirement]}`"
        else:
            known = data["versions"][peer.requirement]
            version = ", ".join(f"{name} {known[name]}" for name in map(distribution, peer.requirement.split()))
        versions.append([peer.name, version, peer.note])
    found = data["machine"]
    parts = [
        f"Measured on {found['date'][:10]}, evlib {evlib.__version__}, Python {found['python']}. The recording has "
        f"{data['events']:,} events of 640 x 480 pixels in 40 s, with two pauses of 20 s, and {data['triggers']:,} "
        "triggers. Where a row does not say so, EVT2, EVT2.1, EVT3 and EVT4 have its first second, without a pause; "
        "AEDAT 2.0 and ATIS have 240 x 180 pixels.",
        "## Files of evlib, read by others",
        read,
        "## Files of others, read by evlib",
        written,
        *([f"This evlib lacks: {', '.join(kind.title for kind in lacking)}."] if lacking else []),
        "## Notes",
        "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)) or "None.",
        "## Libraries",
        table(["library", "version", "brought into common columns"], versions),
    ]
    return INTRODUCTION + "\n\n".join(parts) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=None, help="libraries, by name, separated by commas (default all)")
    parser.add_argument("--kinds", default=None, help="kinds of files, separated by commas (default all)")
    parser.add_argument(
        "--workdir", type=Path, default=HERE / "results", help="environments and results (default benchmarks/results)"
    )
    parser.add_argument(
        "--keep", type=Path, default=None, help="folder to leave the files in (default a temporary one)"
    )
    parser.add_argument("--page", type=Path, default=None, help="file to write the page to as well")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    args.workdir = args.workdir.resolve()
    args.workdir.mkdir(parents=True, exist_ok=True)
    peers = [peer for peer in PEERS if args.peers is None or peer.name in args.peers.split(",")]
    chosen = [kind for kind in KINDS if args.kinds is None or kind.key in args.kinds.split(",")]
    if not peers or not chosen:
        print("nothing to do: no such library or kind", file=sys.stderr)
        return 2
    lacking = [kind for kind in chosen if not knows(kind.format)]
    kinds = [kind for kind in chosen if kind not in lacking]
    pythons, absent, known = set_up((peer.requirement for peer in peers), args.workdir / "venvs")
    cells: dict[tuple[str, str, str], Row] = {}
    with tempfile.TemporaryDirectory() as scratch:
        matrix = Matrix((args.keep or Path(scratch)).resolve(), pythons, absent)
        own = {kind.key: matrix.by_evlib(kind) for kind in kinds if any(kind.key in peer.reads for peer in PEERS)}
        for key, cell in own.items():
            if cell["state"] != "same":
                print(f"evlib does not read back its own {key}: {cell['text']}", file=sys.stderr)
        for kind in kinds:
            for peer in peers:
                for direction, formats in (("read", peer.reads), ("written", peer.writes)):
                    if kind.key in formats:
                        cell = cells[direction, peer.name, kind.key] = matrix.cell(direction, kind, peer)
                        say(f"{kind.title}, {direction} by {peer.name}: {cell['state']} {cell['text']}")
        wide = matrix.contents["triggers"][1]
    data = {
        "machine": machine(),
        "versions": known,
        "absent": absent,
        "events": len(wide["t"]),
        "triggers": len(wide["trigger_t"]),
        "cells": [{"direction": one[0], "peer": one[1], "kind": one[2], **cell} for one, cell in cells.items()],
    }
    (args.workdir / "interop.json").write_text(json.dumps(data, indent=1))
    text = page(data, cells, kinds, peers, lacking)
    for path in filter(None, (args.workdir / "interop.md", args.page)):
        path.write_text(text)
    print(text)
    bad = [one for one, cell in cells.items() if not cell["expected"]]
    if bad:
        print("not as expected:", file=sys.stderr)
    for one in bad:
        known, cell = KNOWN.get(one), cells[one]
        expected = f"{known.state}: {', '.join(known.parts)}" if known else "same"
        print(f"  {' '.join(one)}: {cell['state']} {cell['text']}; expected {expected}", file=sys.stderr)
    return 1 if bad or any(cell["state"] != "same" for cell in own.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
