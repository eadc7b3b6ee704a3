"""Compare evlib with other readers of event-camera recordings, and its own figures with their targets.

Each library gets a virtual environment of its own. Answers are verified before anything is timed. Libraries take turns,
and a ratio compares the best runs of one such series: files are read again and again, each library in one process of
its own, and then in a fresh process for every run (`worker.py`). Figures are written as Markdown and JSON with the
machine described. Nothing here fails because something is slow.

    python benchmarks/compare.py --shared ../shared [--events 50e6]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).resolve().parent
WORKER = HERE / "worker.py"
SAMPLE_SECONDS = 0.002
MB = 1e6
RUN_SECONDS = 900
SETTLE_BYTES, SETTLE_BYTES_PER_EVENT = 256 << 20, 32
"""Memory that a process uses once and gives back before it starts to work; more where it reads everything."""

Row = dict[str, Any]


def distribution(requirement: str) -> str:
    """Name of the package that a requirement names."""
    return re.split(r"[\[=]", requirement)[0]


@dataclass(frozen=True)
class Entrant:
    """One way of reading files that takes part."""

    name: str
    reader: str
    requirement: str | None
    formats: tuple[str, ...]
    job: Row = field(default_factory=dict)
    note: str = ""

    @property
    def package(self) -> str:
        """Name and version of its environment."""
        return self.requirement or "evlib"

    @property
    def distribution(self) -> str:
        """Name of the package."""
        return distribution(self.package)


PROPHESEE = ("evt2", "evt3", "dat")
ALL = (*PROPHESEE, "aedat2", "aedat4", "es", "text")
OURS = Entrant("evlib", "evlib", None, ALL, note="`read_events`, all processors")
ENTRANTS = [
    OURS,
    Entrant("evlib, 1 thread", "evlib", None, ALL, {"threads": 1}, "`read_events(threads=1)`"),
    Entrant(
        "evutils",
        "evutils",
        "evutils[aedat,hdf5]==0.3.18",
        (*PROPHESEE, "aedat2", "aedat4"),
        note="`EventReader.read_all`; AEDAT4: with `ext_trigger=True`",
    ),
    Entrant("expelliarmus", "expelliarmus", "expelliarmus==1.1.12", PROPHESEE, note="`Wizard.read`"),
    Entrant(
        "eventcv",
        "eventcv",
        "eventcv==1.0.8",
        (*PROPHESEE, "aedat2", "aedat4"),
        note="`load`, without `.numpy()`",
    ),
    Entrant(
        "faery",
        "faery",
        "faery==0.7.1",
        (*PROPHESEE, "aedat4", "es"),
        note="`events_stream_from_file(...).to_array()`",
    ),
    Entrant(
        "dv-processing",
        "dv_processing",
        "dv-processing==2.0.4",
        ("aedat4",),
        note="`MonoCameraRecording.getNextEventBatch`, `.numpy()` of each, one array",
    ),
    Entrant("aedat", "aedat", "aedat==2.3.0", ("aedat4",), note="`Decoder`, packets in one array"),
    Entrant("event_stream", "event_stream", "event_stream==1.6.3", ("es",), note="`Decoder`, chunks in one array"),
    Entrant("loris", "loris", "loris==0.5.3", ("es",), note="`read_file`"),
    Entrant("polars", "polars", None, ("text",), note="`read_csv` of the same file, seconds as f64"),
    Entrant(
        "evlib 0.13.2",
        "evlib_0_13",
        "evlib==0.13.2",
        ("evt2", "evt3"),
        note="`load_events(...).collect()`, which sorts",
    ),
    Entrant(
        "evlib 0.13.2, unsorted",
        "evlib_0_13_unsorted",
        "evlib==0.13.2",
        ("evt2", "evt3"),
        note="`load_events(..., sort=False).collect()`",
    ),
]

OUR_NAMES = {entrant.name for entrant in ENTRANTS if entrant.reader == "evlib"}

RATIO_TARGETS = {
    ("evt2", "evutils"): 2.5,
    ("evt3", "evutils"): 3.0,
    ("dat", "evutils"): 2.5,
    ("evt2", "evlib 0.13.2"): 80.0,
    ("aedat2", "evutils"): 3.0,
    ("aedat2", "eventcv"): 3.0,
    ("aedat4", "evutils"): 3.0,
    ("aedat4", "dv-processing"): 3.0,
    ("es", "faery"): 4.0,
    ("es", "event_stream"): 4.0,
    ("es", "loris"): 4.0,
    ("text", "polars"): 1.5,
}
"""How many times faster than the peer reading has to be."""
MEMORY_RATIO_TARGETS = {("evt2", "evlib 0.13.2"): 7.0}
BYTES_PER_EVENT, BYTES_BESIDES = 13.5, 64e6
TEXT_BYTES_BESIDES = 100e6
LAZY_BYTES = 150e6
WINDOW_TARGETS = {("evt2", "indexed"): 20.0, ("evt2", "first"): 10.0, ("evt3", "indexed"): 20.0, ("evt3", "first"): 4.0}
OPEN_SECONDS, HEAD_SECONDS, IMPORT_SECONDS, INDEX_RATE = 5e-3, 20e-3, 30e-3, 5e9

EXPLANATION = """\
Page cache warm. Every run is a fresh process, except where files are read again. Seconds are the best of the turns,
memory is the most of them: anonymous memory over the bare import. A ratio over 1 says how many times faster evlib is
(in brackets: least and most of the turns). Rows without a target are there to be compared."""

WITH_EVLIB = "import polars; from evlib import load_events, open, read_events"

SOURCES = {
    "evt2": "faery_evt2.raw",
    "evt3": "expelliarmus_evt3.raw",
    "dat": "faery_evt2.raw",
    "aedat2": "pyaedattools_IMU_rotDisk.aedat",
    "aedat4": "evlibrary_sample.aedat4",
    "es": "faery_dvs.es",
    "text": "faery_evt2.raw",
}
"""Recordings that the inputs are grown from."""
EXTENSIONS = {"dat": "dat", "aedat2": "aedat", "aedat4": "aedat4", "es": "es", "text": "txt"}


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


class RunError(Exception):
    """A worker failed; the text is the last line it wrote."""


def run_worker(python: Path, job: Row, program: Path = WORKER, seconds: float = RUN_SECONDS) -> Row:
    """Run one job in a fresh process and sample its anonymous memory while it works."""
    command = [str(python), "-P", str(program), json.dumps(job)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        status = Path(f"/proc/{process.pid}/status")
        peak, samples, base = 0, 0, None
        answer: Row | None = None
        buffer = b""
        deadline = time.monotonic() + seconds
        os.set_blocking(process.stdout.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while answer is None:
                if time.monotonic() > deadline:
                    process.kill()
                    raise RunError(f"no answer in {seconds:.0f} s")
                ready = selector.select(SAMPLE_SECONDS if base is not None else 1.0)
                if ready:
                    read = process.stdout.read()
                    if read == b"":
                        break
                    buffer += read or b""
                    *lines, buffer = buffer.split(b"\n")
                    for line in lines:
                        value = json.loads(line)
                        if value.get("ready"):
                            base = value["anonymous"]
                        else:
                            answer = value
                elif base is not None and (found := re.search(r"RssAnon:\s+(\d+)", status.read_text())):
                    peak, samples = max(peak, int(found[1]) * 1024 - base), samples + 1
        process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    if answer is None:
        raise RunError(said[-1] if said else f"exit status {process.returncode}")
    if "seconds" in answer:
        answer["anonymous_peak"] = max(peak, answer["anonymous"])
        answer["samples"] = samples
    return answer


# Environments and inputs


def why_not_installed(said: str) -> str:
    """The line of pip's complaint that says most."""
    causes = re.findall(r"^\s*(\w+Error: .+)$", said, re.MULTILINE)
    errors = re.findall(r"^ERROR: (.+)$", said, re.MULTILINE)
    return (causes or errors or said.strip().splitlines() or ["pip failed"])[-1].strip()


def set_up(requirements: Iterable[str], venvs: Path) -> tuple[dict[str, Path], dict[str, str], dict[str, Row]]:
    """Interpreters by package, reasons why a package is absent, and versions of what is installed.

    A requirement is what pip is told to install into one environment, separated by blanks.
    """
    pythons = {"evlib": Path(sys.executable)}
    absent: dict[str, str] = {}
    for requirement in dict.fromkeys(requirements):
        # Without brackets: hdf5plugin takes its own path for a pattern.
        home = venvs / re.sub(r"[^\w.]+", "-", requirement)
        python, done = home / "bin" / "python", home / "installed"
        if not done.exists():
            say(f"installing {requirement}")
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            result = subprocess.run([*pip, *requirement.split(), "numpy"], capture_output=True, text=True, check=False)
            if result.returncode != 0:
                absent[requirement] = why_not_installed(result.stderr)
                continue
            done.write_text(requirement)
        pythons[requirement] = python
    known: dict[str, Row] = {}
    for package, python in pythons.items():
        names = [*map(distribution, package.split()), "numpy"] + (["polars"] if package.startswith("evlib") else [])
        known[package] = run_worker(python, {"job": "versions", "names": names})
    return pythons, absent, known


def reference(shared: Path, kind: str) -> Path:
    return shared / "recordings" / f"{SOURCES[kind]}.expected.npz"


def grow_aedat2(source: Path, path: Path, repetitions: int) -> None:
    """Repeat the words of an AEDAT 2.0 recording, with time going on."""
    content = source.read_bytes()
    start = 0
    while content.startswith(b"#", start):
        start = content.index(b"\n", start) + 1
    words = np.frombuffer(content[start : start + (len(content) - start) // 8 * 8], ">u4").reshape(-1, 2)
    span = int(words[:, 1].max()) - int(words[:, 1].min()) + 1
    with path.open("wb") as file:
        file.write(content[:start])
        for repetition in range(repetitions):
            shifted = words.copy()
            shifted[:, 1] += np.uint32(repetition * span)
            shifted.tofile(file)


def grow_text(truth: Any, path: Path, repetitions: int) -> None:
    """Write lines `t x y p`, seconds with six decimals, again and again with time going on."""
    import polars as pl

    span = int(truth["t"][-1] - truth["t"][0]) + 1
    with path.open("wb") as file:
        for repetition in range(repetitions):
            frame = pl.DataFrame({name: truth[name] for name in "txyp"})
            t = pl.col("t") + repetition * span
            seconds = pl.format("{}.{}", t // 10**6, (t % 10**6).cast(pl.String).str.zfill(6))
            frame.select(seconds, "x", "y", (pl.col("p") > 0).cast(pl.Int8)).write_csv(
                file, include_header=False, separator=" "
            )


def grow(kind: str, events: int, shared: Path, inputs: Path, dv: Path | None = None) -> Row:
    """Make a recording of at least `events` events from a real one, and keep it for later.

    With `tools/grow.py`, where it knows the format; for AEDAT 4.0 with dv-processing, whose interpreter is `dv`.
    """
    path = inputs / f"{kind}_{events}.{EXTENSIONS.get(kind, 'raw')}"
    facts = path.with_suffix(".json")
    if facts.exists():
        known: Row = json.loads(facts.read_text())
        if path.exists() and path.stat().st_size == known["bytes"]:
            return known
    say(f"growing {path.name}")
    source = shared / "recordings" / SOURCES[kind]
    truth = np.load(reference(shared, kind))
    if kind in ("dat", "aedat4"):
        table = np.zeros(len(truth["t"]), np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "i1")]))
        for name in "txy":
            table[name] = truth[name]
        table["p"] = truth["p"] > 0
        source = inputs / f"{kind}_source.npy"
        np.save(source, table)
    repetitions = -(-events // len(truth["t"]))
    count = repetitions * len(truth["t"])
    if kind == "aedat2":
        grow_aedat2(source, path, repetitions)
    elif kind == "text":
        grow_text(truth, path, repetitions)
    else:
        python = sys.executable if kind != "aedat4" or dv is None else str(dv)
        command = [python, str(shared / "tools" / "grow.py"), kind, str(source), str(path), str(events)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.search(r"events (\d+) reps (\d+)", printed)
        if found is None:
            raise RunError(f"grow.py printed {printed!r}")
        count, repetitions = int(found[1]), int(found[2])
    on = int((truth["p"] > 0).sum()) * repetitions
    known = {
        "format": kind,
        "path": str(path),
        "source": SOURCES[kind],
        "bytes": path.stat().st_size,
        "events": count,
        "on": on,
        "expected": str(reference(shared, kind)),
    }
    facts.write_text(json.dumps(known))
    return known


# Answers


def verify_ours(python: Path, grown: Row) -> Row:
    found = run_worker(python, {"job": "truth", "path": grown["path"], "expected": grown["expected"]})
    found["right"] = found["wrong"] == 0 and found["rows"] == grown["events"]
    return found


def describe(differences: Row) -> str:
    parts = []
    if differences["their_rows"] != differences["rows"]:
        parts.append(f"{differences['their_rows']} events of {differences['rows']}")
    for name, column in differences["columns"].items():
        share = column["rows"] / differences["rows"]
        by = f"{column['least']:+d} to {column['most']:+d}"
        parts.append(
            f"{name} differs in {column['rows']} rows ({share:.1%}) by {by}, first in row {column['first_row']}"
        )
    return "; ".join(parts) or "the same"


def verify_peer(entrant: Entrant, python: Path, ours: Row, grown: Row, scratch: Path) -> Row:
    """Whether a peer's columns are ours; if not, how they differ."""
    job = {**entrant.job, "job": "digest", "reader": entrant.reader, "path": grown["path"], "format": grown["format"]}
    try:
        theirs = run_worker(python, job)
        if theirs == ours:
            return {"state": "same", "text": "the same"}
        saved = scratch / "differing"
        saved.mkdir(exist_ok=True)
        run_worker(python, {**job, "save": str(saved)})
        differences = run_worker(
            Path(sys.executable), {"job": "differences", "path": grown["path"], "saved": str(saved)}
        )
        shutil.rmtree(saved)
    except RunError as error:
        return {"state": "failed", "text": f"fails: {error}"}
    text = describe(differences)
    if (
        entrant.reader == "evlib_0_13"
        and set(differences["columns"]) <= set("xyp")
        and differences["their_rows"] == differences["rows"]
    ):
        text += " (its sort reorders events of equal time)"
    return {"state": "differs", "text": text, "differences": differences}


def check(job: Row, path: str) -> bool:
    """One of the worker's own checks of our answers."""
    return bool(run_worker(Path(sys.executable), {**job, "path": path})["right"])


# Measurements


def interleave(runs: dict[str, tuple[Path, Row]], repeat: int) -> dict[str, list[Row]]:
    """Run every job once in turn, `repeat` times."""
    for _, job in runs.values():
        job.setdefault("settle", SETTLE_BYTES)
    found: dict[str, list[Row]] = {name: [] for name in runs}
    for turn in range(repeat):
        for name, (python, job) in runs.items():
            try:
                found[name].append(run_worker(python, job))
            except RunError as error:
                found[name].append({"error": str(error)})
        say(
            f"turn {turn + 1} of {repeat}: "
            + ", ".join(f"{name} {rows[-1].get('seconds', float('nan')):.4f} s" for name, rows in found.items())
        )
    return found


def read_again(jobs: dict[str, tuple[Path, Row]], repeat: int) -> dict[str, list[Row]]:
    """Read in turn, `repeat` times after a first read that does not count, each reader in one process of its own."""
    found: dict[str, list[Row]] = {name: [] for name in jobs}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, (python, job) in jobs.items():
            command = [str(python), "-P", str(WORKER), json.dumps({**job, "job": "again"})]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            processes[name] = stack.enter_context(process)
            stack.callback(process.kill)
            process.stdout and process.stdout.readline()
        for turn in range(repeat + 1):
            for name, process in processes.items():
                assert process.stdin is not None
                assert process.stdout is not None
                try:
                    print("again", file=process.stdin, flush=True)
                    row = json.loads(process.stdout.readline())
                except (OSError, ValueError) as error:
                    row = {"error": str(error)}
                if turn > 0:
                    found[name].append(row)
    say(", ".join(f"{name} {best(rows) or float('nan'):.4f} s" for name, rows in found.items()) + " when read again")
    return found


def best(rows: list[Row]) -> float | None:
    return min((row["seconds"] for row in rows if "seconds" in row), default=None)


def highest(rows: list[Row], key: str = "anonymous_peak") -> float | None:
    """Memory is the most that any of the runs took."""
    return max((row[key] for row in rows if row.get(key) is not None), default=None)


def ratio_of(ours: list[Row], theirs: list[Row]) -> Row | None:
    """How many times faster we are: best against best, and the least and most of the turns."""
    a, b = best(ours), best(theirs)
    turns = [
        y["seconds"] / x["seconds"] for x, y in zip(ours, theirs, strict=True) if "seconds" in x and "seconds" in y
    ]
    return None if a is None or b is None else {"best": b / a, "least": min(turns), "most": max(turns)}


class Report:
    """What was found, and whether targets are met."""

    def __init__(self) -> None:
        self.data: Row = {"verification": [], "again": [], "read": [], "own": [], "targets": []}

    def target(self, what: str, value: float | None, bound: float, unit: str, *, at_least: bool) -> str:
        """Note a target; returns the cell that goes beside the figure."""
        met = value is not None and (value >= bound if at_least else value <= bound)
        self.data["targets"].append(
            {"what": what, "value": value, "bound": bound, "unit": unit, "at_least": at_least, "met": met}
        )
        return f"{'>=' if at_least else '<='} {bound:.5g} {unit}".strip() + (" : met" if met else " : **missed**")

    def own(self, what: str, input_: str, figure: str, target: str = "", **raw: Any) -> None:
        """Note a figure of ours that has no peer."""
        self.data["own"].append({"what": what, "input": input_, "figure": figure, "target": target, **raw})


def compare_reading(
    report: Report,
    entrants: list[Entrant],
    pythons: dict[str, Path],
    absent: dict[str, str],
    grown: Row,
    args: argparse.Namespace,
) -> None:
    kind = grown["format"]
    say(f"{kind}: verifying answers")
    truth = verify_ours(pythons["evlib"], grown)
    grown["first_us"], grown["last_us"] = truth["first_us"], truth["last_us"]
    text = (
        f"the reference of {grown['source']}, {truth['repetitions']} times"
        if truth["right"]
        else f"WRONG: {truth['wrong']} differences from the reference"
    )
    report.data["verification"].append(
        {"format": kind, "reader": "evlib", "state": "same" if truth["right"] else "differs", "text": text}
    )
    ours = run_worker(pythons["evlib"], {"job": "digest", "reader": "evlib", "path": grown["path"]})
    states: dict[str, str] = {}
    runs: dict[str, tuple[Path, Row]] = {}
    for entrant in entrants:
        if kind not in entrant.formats:
            continue
        if entrant.package in absent:
            found: Row = {"state": "absent", "text": f"cannot be installed: {absent[entrant.package]}"}
        elif entrant is OURS:
            found = {"state": "same" if truth["right"] else "differs"}
        else:
            found = verify_peer(entrant, pythons[entrant.package], ours, grown, args.workdir)
        states[entrant.name] = found["state"]
        if entrant is not OURS:
            report.data["verification"].append({"format": kind, "reader": entrant.name, **found})
        if found["state"] in ("same", "differs"):
            settle = SETTLE_BYTES + SETTLE_BYTES_PER_EVENT * grown["events"]
            job = {
                **entrant.job,
                "settle": settle,
                "job": "read",
                "reader": entrant.reader,
                "path": grown["path"],
                "format": kind,
            }
            runs[entrant.name] = (pythons[entrant.package], job)
    say(f"{kind}: timing")
    again = read_again(runs, args.repeat)
    for name, rows in again.items():
        ratio = None if name == OURS.name else ratio_of(again[OURS.name], rows)
        cell = ""
        if (bound := RATIO_TARGETS.get((kind, name))) is not None:
            value = ratio and ratio["best"]
            cell = report.target(f"{kind} `read_events` against {name}", value, bound, "x", at_least=True)
        seconds = best(rows)
        report.data["again"].append(
            {
                "format": kind,
                "reader": name,
                "seconds": seconds,
                "events_per_second": grown["events"] / seconds if seconds else None,
                "ratio": ratio,
                "target": cell,
                "runs": rows,
            }
        )
    found_rows = interleave(runs, args.repeat)
    mine = found_rows[OURS.name]
    for entrant in entrants:
        if entrant.name not in found_rows:
            continue
        rows = found_rows[entrant.name]
        seconds, peak = best(rows), highest(rows)
        row: Row = {
            "format": kind,
            "reader": entrant.name,
            "call": entrant.note,
            "answers": states[entrant.name],
            "seconds": seconds,
            "events_per_second": grown["events"] / seconds if seconds else None,
            "peak_bytes": peak,
            "resident_peak_bytes": highest(rows, "resident_peak"),
            "bytes_per_event": peak / grown["events"] if peak else None,
            "target": "",
            "runs": rows,
        }
        if entrant is not OURS:
            row["ratio"] = ratio_of(mine, rows)
            my_peak = highest(mine)
            row["memory_ratio"] = peak / my_peak if peak and my_peak else None
            if (bound := MEMORY_RATIO_TARGETS.get((kind, entrant.name))) is not None:
                cell = report.target(
                    f"{kind} peak memory of {entrant.name} over ours",
                    row["memory_ratio"],
                    bound,
                    "x memory",
                    at_least=True,
                )
                row["target"] = cell
        report.data["read"].append(row)
    peak = highest(mine)
    bound = BYTES_PER_EVENT * grown["events"] + (TEXT_BYTES_BESIDES if kind == "text" else BYTES_BESIDES)
    cell = report.target(
        f"{kind} `read_events` peak anonymous memory", peak and peak / MB, bound / MB, "MB", at_least=False
    )
    figure = f"{(peak or 0) / MB:.1f} MB, {(peak or 0) / grown['events']:.2f} B an event"
    report.own(
        "`read_events`: peak anonymous memory over the import",
        f"{kind}, {grown['events']:,} events",
        figure,
        cell,
        peak_bytes=peak,
    )


def measure(name: str, job: Row, repeat: int) -> list[Row]:
    return interleave({name: (Path(sys.executable), job)}, repeat)[name]


def own_lazy(report: Report, grown: Row, args: argparse.Namespace) -> None:
    """Memory of lazy queries over twice as many events."""
    python, input_ = Path(sys.executable), f"{grown['format']}, {grown['events']:,} events"
    off = grown["events"] - grown["on"]
    out = args.workdir / "out.parquet"
    jobs: dict[str, tuple[Path, Row]] = {}
    for name, job in (("select(pl.len())", "lazy_len"), ('group_by("polarity").len()', "lazy_polarity")):
        jobs[name] = (python, {"job": job, "path": grown["path"]})
        jobs[f"{name}, streaming engine"] = (
            python,
            {"job": job, "path": grown["path"], "collect": {"engine": "streaming"}},
        )
    jobs["sink_parquet"] = (python, {"job": "lazy_parquet", "path": grown["path"], "out": str(out)})
    expected: dict[str, Any] = {"lazy_len": grown["events"], "lazy_polarity": {"-1": off, "1": grown["on"]}}
    for name, rows in interleave(jobs, args.repeat_slow).items():
        job = jobs[name][1]["job"]
        right = all("seconds" in row and row["value"] == expected.get(job, row["value"]) for row in rows)
        if job == "lazy_parquet":
            right = right and check({"job": "check_parquet", "out": str(out)}, grown["path"])
            out.unlink(missing_ok=True)
        peak, seconds = highest(rows), best(rows)
        cell = report.target(
            f"lazy {name}, {grown['format']}: peak anonymous memory",
            peak and peak / MB,
            LAZY_BYTES / MB,
            "MB",
            at_least=False,
        )
        rate = grown["events"] / seconds / 1e6 if seconds else 0.0
        figure = f"{(peak or 0) / MB:.1f} MB, {rate:.0f} Mev/s" + ("" if right else " **WRONG ANSWER**")
        report.own(
            f"`load_events(...)`, {name}: peak anonymous memory over the import",
            input_,
            figure,
            cell,
            peak_bytes=peak,
            seconds=seconds,
            right=right,
            runs=rows,
        )


def own_window(report: Report, grown: Row, args: argparse.Namespace) -> None:
    """Measure a window of 1 % of the time against the full read."""
    python, kind = Path(sys.executable), grown["format"]
    span = grown["last_us"] - grown["first_us"]
    start = grown["first_us"] + span // 2
    window = [start, start + max(1, span // 100)]
    right = check({"job": "check_window", "window": window}, grown["path"])
    settle = SETTLE_BYTES + SETTLE_BYTES_PER_EVENT * grown["events"]
    jobs: dict[str, tuple[Path, Row]] = {
        "full": (python, {"job": "read", "settle": settle, "reader": "evlib", "path": grown["path"]})
    }
    for how in ("first", "indexed", "lazy"):
        jobs[how] = (python, {"job": "window", "how": how, "window": window, "path": grown["path"]})
    found = interleave(jobs, args.repeat)
    texts = {
        "first": "1 % time window, first query on a fresh recording",
        "indexed": "1 % time window, with index",
        "lazy": "1 % time window, `load_events(...).filter(...)`, first query",
    }
    for how, text in texts.items():
        ratio, seconds = ratio_of(found["full"], found[how]), best(found[how])
        times = None if ratio is None else 1 / ratio["best"]
        bound = WINDOW_TARGETS.get((kind, how))
        cell = "" if bound is None else report.target(f"{kind} {text}", times, bound, "x the full read", at_least=True)
        figure = f"{times or 0:.1f}x faster than the full read ({(seconds or 0) * 1e3:.2f} ms)" + (
            "" if right else " **WRONG ANSWER**"
        )
        report.own(
            text,
            f"{kind}, {grown['events']:,} events",
            figure,
            cell,
            times=times,
            seconds=seconds,
            right=right,
            runs=found[how],
        )


def own_opening(report: Report, grown: Row, args: argparse.Namespace) -> None:
    input_ = f"{grown['format']}, file of {grown['bytes'] / MB:.0f} MB"
    for name, job, bound in (
        ("load_events(...)", "open", OPEN_SECONDS),
        ("head(1000).collect()", "head", HEAD_SECONDS),
    ):
        rows = measure(name, {"job": job, "path": grown["path"]}, args.repeat)
        seconds = best(rows)
        cell = report.target(
            f"`{name}`, {grown['format']}", seconds and seconds * 1e3, bound * 1e3, "ms", at_least=False
        )
        report.own(
            f"`{name}`, first call of the process",
            input_,
            f"{(seconds or 0) * 1e3:.2f} ms",
            cell,
            seconds=seconds,
            runs=rows,
        )


def own_index(report: Report, grown: Row, args: argparse.Namespace) -> None:
    rows = measure(f"index {grown['format']}", {"job": "index", "path": grown["path"]}, args.repeat)
    right = all(row.get("value") == grown["events"] for row in rows)
    seconds = best(rows)
    rate = grown["bytes"] / seconds if seconds else None
    cell = report.target(f"index pass, {grown['format']}", rate and rate / 1e9, INDEX_RATE / 1e9, "GB/s", at_least=True)
    figure = f"{(rate or 0) / 1e9:.2f} GB/s ({(seconds or 0) * 1e3:.1f} ms)" + ("" if right else " **WRONG ANSWER**")
    report.own(
        "index pass of cached input",
        f"{grown['format']}, {grown['bytes'] / MB:.0f} MB",
        figure,
        cell,
        bytes_per_second=rate,
        right=right,
        runs=rows,
    )


def own_import(report: Report, args: argparse.Namespace) -> None:
    repeat = max(10, args.repeat)
    rows = measure("import", {"job": "import"}, repeat)
    seconds = best(rows)
    walls: dict[str, list[float]] = {"import polars": [], WITH_EVLIB: []}
    for _ in range(repeat):
        for code, found in walls.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-P", "-c", code], check=True)
            found.append(time.perf_counter() - start)
    process = min(walls[WITH_EVLIB]) - min(walls["import polars"])
    cell = report.target(
        "`import evlib` over `import polars`", seconds and seconds * 1e3, IMPORT_SECONDS * 1e3, "ms", at_least=False
    )
    figure = f"{(seconds or 0) * 1e3:.1f} ms (whole processes: {process * 1e3:+.1f} ms)"
    report.own(
        "`import evlib` over `import polars`",
        f"best of {repeat}",
        figure,
        cell,
        seconds=seconds,
        process_seconds=process,
    )


# The machine and the tables


def field_of(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def output(*command: str) -> str:
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()


def digest_of_extension() -> str:
    code = "import evlib._evlib as e; print(e.__file__)"
    path = output(sys.executable, "-P", "-c", code)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def machine() -> Row:
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": field_of("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "ram_gb": round(int(field_of("/proc/meminfo", "MemTotal").split()[0]) * 1024 / 1e9, 1),
        "kernel": platform.release(),
        "transparent_hugepages": huge.read_text().strip() if huge.exists() else "absent",
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": output("git", "rev-parse", "--short=12", "HEAD") or "unknown",
        "modified": bool(output("git", "status", "--porcelain", "--untracked-files=no", "--", "../src", "../python")),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def rate_of(row: Row) -> str:
    return "fails" if row["events_per_second"] is None else f"{row['events_per_second'] / 1e6:.1f}"


def faster(row: Row) -> str:
    """How many times faster we are than the reader of a row."""
    ratio = row.get("ratio")
    if ratio is None:
        return ""
    text = f"{ratio['best']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
    return text + (" **faster than evlib**" if ratio["best"] < 1 and row["reader"] not in OUR_NAMES else "")


def markdown(data: Row) -> str:
    found, about = data["machine"], []
    about.append(
        f"* {found['date']}, {found['cpu']}, {found['cores']} cores, {found['ram_gb']} GB, Linux {found['kernel']}"
    )
    load = f"load average at start {found['load_average'][0]:.2f}, at end {data['load_at_end'][0]:.2f}"
    about.append(f"* transparent huge pages `{found['transparent_hugepages']}`, {load}")
    about.append(f"* commit {found['commit']}{', with changes' if found['modified'] else ''}; Python {found['python']}")
    about += [
        f"* {package}: " + ", ".join(f"{name} {number}" for name, number in known.items())
        for package, known in data["versions"].items()
    ]
    about += [f"* {package}: cannot be installed: {reason}" for package, reason in data["absent"].items()]
    about.append(f"* `{found['command']}`")
    about.append(
        "* inputs: "
        + "; ".join(
            f"{item['format']} {item['events']:,} events, {item['bytes'] / MB:.0f} MB, from {item['source']}"
            for item in data["inputs"]
        )
    )
    if data["extension_changed"]:
        about.append("* **The extension module was rebuilt during this run: figures are of different builds.**")
    parts = ["# evlib and other readers", "\n".join(about)]
    parts.append(EXPLANATION)
    rows = [[row["format"], row["reader"], rate_of(row), faster(row), row["target"]] for row in data["again"]]
    parts += [
        "## Reading a whole file into columns, again and again",
        "Each reader in one process of its own, after a first read that does not count. What a library keeps of it, "
        "memory and with evlib the index of the file too, serves the next.",
        table(["format", "reader", "Mev/s", "evlib is faster by", "target"], rows),
    ]
    rows = []
    for row in data["read"]:
        answers = {"same": "right", "differs": "**differ**"}[row["answers"]]
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / MB:.0f} ({row['bytes_per_event']:.1f})"
        rows.append([row["format"], row["reader"], rate_of(row), faster(row), memory, answers, row["target"]])
    parts += [
        "## The first read of a process",
        table(["format", "reader", "Mev/s", "evlib is faster by", "peak MB (B an event)", "answers", "target"], rows),
    ]
    calls = dict.fromkeys(f"* {row['reader']}: {row['call']}" for row in data["read"])
    parts.append("\n".join(calls))
    rows = [[row["what"], row["input"], row["figure"], row["target"]] for row in data["own"]]
    parts += ["## evlib alone", table(["what", "input", "figure", "target"], rows)]
    rows = [[row["format"], row["reader"], row["text"]] for row in data["verification"]]
    parts += ["## Answers", table(["format", "reader", "compared with evlib (evlib: with the reference)"], rows)]
    missed = [row for row in data["targets"] if not row["met"]]
    lines = []
    for row in missed:
        value = "none" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
        lines.append(f"* {row['what']}: {value}, target {'>=' if row['at_least'] else '<='} {row['bound']:.4g}")
    parts += [f"## Targets missed: {len(missed)} of {len(data['targets'])}", "\n".join(lines) or "None."]
    if data["events"] < 50_000_000:
        parts.append(f"The targets are for 50 M events; this run has {data['events']:,}, where fixed costs weigh more.")
    return "\n\n".join(parts) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--events", type=lambda text: int(float(text)), default=50_000_000, help="events of an input (default 50e6)"
    )
    parser.add_argument(
        "--shared",
        type=Path,
        default=HERE.parent.parent / "shared",
        help="directory with recordings/ and tools/grow.py",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=HERE / "results",
        help="environments, inputs and results (default benchmarks/results)",
    )
    parser.add_argument("--repeat", type=int, default=5, help="turns of each timed series (default 5)")
    parser.add_argument(
        "--repeat-slow", type=int, default=3, help="turns of the lazy queries, which measure memory (default 3)"
    )
    parser.add_argument("--formats", default=",".join(ALL), help=f"formats to read (default {','.join(ALL)})")
    parser.add_argument(
        "--peers", default=None, help="peers to run, by name, separated by commas; `none` for evlib alone (default all)"
    )
    parser.add_argument("--skip-own", action="store_true", help="leave out the rows of evlib alone")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    args.workdir = args.workdir.resolve()
    args.shared = args.shared.resolve()
    if not (args.shared / "tools" / "grow.py").is_file():
        print(f"{args.shared} has no tools/grow.py: pass --shared", file=sys.stderr)
        return 2
    inputs = args.workdir / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    wanted = None if args.peers is None else set(args.peers.split(","))
    entrants = [
        entrant
        for entrant in ENTRANTS
        if wanted is None or entrant.requirement is None or entrant.distribution in wanted
    ]
    about, extension = machine(), digest_of_extension()
    pythons, absent, known = set_up(filter(None, (one.requirement for one in entrants)), args.workdir / "venvs")
    report = Report()
    formats = args.formats.split(",")
    dv = next((python for name, python in pythons.items() if name.startswith("dv-processing")), None)
    grown = {kind: grow(kind, args.events, args.shared, inputs, dv) for kind in formats}
    for kind in formats:
        compare_reading(report, entrants, pythons, absent, grown[kind], args)
    doubled = []
    if not args.skip_own:
        for kind in [kind for kind in formats if kind in ("evt2", "evt3")]:
            own_window(report, grown[kind], args)
            own_index(report, grown[kind], args)
            big = grow(kind, 2 * args.events, args.shared, inputs)
            doubled.append(big)
            own_lazy(report, big, args)
            own_opening(report, big, args)
        own_import(report, args)
    report.data |= {
        "machine": about,
        "versions": known,
        "absent": absent,
        "events": args.events,
        "inputs": [*grown.values(), *doubled],
        "load_at_end": os.getloadavg(),
        "extension_changed": digest_of_extension() != extension,
    }
    name = f"compare-{args.events}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    (args.workdir / f"{name}.json").write_text(json.dumps(report.data, indent=1))
    text = markdown(report.data)
    (args.workdir / f"{name}.md").write_text(text)
    print(text)
    say(f"written to {args.workdir / name}.md and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
