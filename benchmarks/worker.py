"""One measurement in a fresh process: `python worker.py '{"job": ..., ...}'`, answered in one line of JSON.

Run by `compare.py` with the interpreter of the library it measures; needs only the standard library, NumPy and that
library. A job prints `ready` when imports are done and the input is in the page cache, does the work, and prints
`{...}`; between the two the parent samples this process's memory. The job `again` works once for every line on its
standard input.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    Job = dict[str, Any]
    Work = Callable[[], Any]

CHUNK = 1 << 22


def warm(path: str) -> None:
    """Bring a file into the page cache, keeping none of it in this process."""
    buffer = bytearray(1 << 23)
    with Path(path).open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def anonymous_bytes() -> tuple[int, int]:
    """RssAnon and VmHWM of this process."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmHWM"):
            found[name] = int(value.split()[0]) * 1024
    return found["RssAnon"], found["VmHWM"]


def settle(size: int) -> None:
    """Use memory once and give it back, so that the work does not wait for the host of a virtual machine to find it."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[::4096] = bytes(len(range(0, size, 4096)))


# Readers: import the library and return the call that is timed, which reads the file into columns in memory.


def read_evlib(job: Job) -> Work:
    import polars  # noqa: F401  what is loaded on first use is not part of reading

    from evlib import read_events

    return lambda: read_events(job["path"], threads=job.get("threads"))


def read_evutils(job: Job) -> Work:
    from evutils.io import EventReader

    # Without triggers it takes a packet of triggers for the end of an AEDAT 4.0 file.
    options = {"ext_trigger": True} if job.get("format") == "aedat4" else {}

    def work() -> Any:
        with EventReader(job["path"], **options) as reader:
            return reader.read_all()

    return work


def read_expelliarmus(job: Job) -> Work:
    from expelliarmus import Wizard

    return lambda: Wizard(encoding=job["format"]).read(job["path"])


def read_faery(job: Job) -> Work:
    import faery

    return lambda: faery.events_stream_from_file(job["path"]).to_array()


def read_eventcv(job: Job) -> Work:
    import eventcv

    return lambda: eventcv.load(job["path"])


def read_evlib_0_13(job: Job) -> Work:
    import evlib

    return lambda: evlib.load_events(job["path"]).collect()


def read_evlib_0_13_unsorted(job: Job) -> Work:
    import evlib

    return lambda: evlib.load_events(job["path"], sort=False).collect()


def read_dv_processing(job: Job) -> Work:
    import dv_processing as dv
    import numpy as np

    def work() -> Any:
        reader = dv.io.MonoCameraRecording(job["path"])
        parts = []
        while (batch := reader.getNextEventBatch()) is not None:
            parts.append(batch.numpy())
        return np.concatenate(parts)

    return work


def read_aedat(job: Job) -> Work:
    import aedat
    import numpy as np

    def work() -> Any:
        return np.concatenate([packet["events"] for packet in aedat.Decoder(job["path"]) if "events" in packet])

    return work


def read_event_stream(job: Job) -> Work:
    import event_stream
    import numpy as np

    def work() -> Any:
        with event_stream.Decoder(job["path"]) as decoder:
            height = decoder.height
            events = np.concatenate(list(decoder))
        return events, height

    return work


def read_loris(job: Job) -> Work:
    import loris

    return lambda: loris.read_file(job["path"])


def read_polars(job: Job) -> Work:
    import polars as pl

    return lambda: pl.read_csv(job["path"], separator=" ", has_header=False, new_columns=list("txyp"))


READERS: dict[str, Callable[[Job], Work]] = {
    "dv_processing": read_dv_processing,
    "aedat": read_aedat,
    "event_stream": read_event_stream,
    "loris": read_loris,
    "polars": read_polars,
    "evlib": read_evlib,
    "evutils": read_evutils,
    "expelliarmus": read_expelliarmus,
    "faery": read_faery,
    "eventcv": read_eventcv,
    "evlib_0_13": read_evlib_0_13,
    "evlib_0_13_unsorted": read_evlib_0_13_unsorted,
}


def columns_of(reader: str, result: Any) -> dict[str, np.ndarray]:
    """Columns t, x, y, p of a reader's result, each in the reader's own type."""
    if reader == "evlib":
        return {
            "t": result["timestamp"].to_physical().to_numpy(),
            "x": result["x"].to_numpy(),
            "y": result["y"].to_numpy(),
            "p": result["polarity"].to_numpy(),
        }
    if reader.startswith("evlib_0_13"):
        return {
            "t": result["t"].to_physical().to_numpy(),
            "x": result["x"].to_numpy(),
            "y": result["y"].to_numpy(),
            "p": result["polarity"].to_numpy(),
        }
    if reader == "evutils":
        # With triggers it gives both.
        events = result[0] if isinstance(result, tuple) else result
        return {name: getattr(events, name) for name in "txyp"}
    if reader == "eventcv":
        table = result.numpy()
        return {name: table[:, result.columns.index(name)] for name in "txyp"}
    if reader == "polars":
        return {
            "t": (result["t"] * 1e6).round().cast(int).to_numpy(),
            **{name: result[name].to_numpy() for name in "xyp"},
        }
    if reader == "loris":
        result, height = result["events"], result["height"]
    elif reader == "event_stream":
        result, height = result
    if reader in ("loris", "event_stream"):
        # Rows as stored, from the bottom.
        polarity = "is_increase" if reader == "loris" else "on"
        return {"t": result["t"], "x": result["x"], "y": height - 1 - result["y"].astype("i8"), "p": result[polarity]}
    if reader == "dv_processing":
        fields = {"t": "timestamp", "x": "x", "y": "y", "p": "polarity"}
    else:
        fields = {name: "on" if reader in ("faery", "aedat") and name == "p" else name for name in "txyp"}
    return {name: result[field] for name, field in fields.items()}


def chunks(columns: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Columns in common types, a stretch at a time: t int64, x and y int16, p int8 of +1 and -1."""
    import numpy as np

    for start in range(0, len(columns["t"]), CHUNK):
        part = {name: values[start : start + CHUNK] for name, values in columns.items()}
        yield {
            "t": np.ascontiguousarray(part["t"]).astype("<i8", copy=False),
            "x": np.ascontiguousarray(part["x"]).astype("<i2", copy=False),
            "y": np.ascontiguousarray(part["y"]).astype("<i2", copy=False),
            "p": np.where(part["p"] > 0, 1, -1).astype("<i1"),
        }


def job_digest(job: Job) -> Job:
    """Rows and SHA-256 of each column; with `save`, the columns as files in that directory too."""
    columns = columns_of(job["reader"], READERS[job["reader"]](job)())
    digests = {name: hashlib.sha256() for name in "txyp"}
    files = {name: (Path(job["save"]) / f"{name}.bin").open("wb") for name in "txyp"} if job.get("save") else {}
    for part in chunks(columns):
        for name, values in part.items():
            digests[name].update(values.tobytes())
            if files:
                values.tofile(files[name])
    for file in files.values():
        file.close()
    return {"rows": len(columns["t"]), **{name: digest.hexdigest() for name, digest in digests.items()}}


def differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> Job:
    """Where columns differ from ours: rows, and for each column that does how many, which is first, and by how much."""
    import numpy as np

    first_of_ours = next(iter(ours))
    rows, their_rows = len(ours[first_of_ours]), len(theirs[first_of_ours])
    found: Job = {"rows": rows, "their_rows": their_rows, "columns": {}}
    common = min(rows, their_rows)
    for name in ours:
        count, first, low, high = 0, None, 0, 0
        for start in range(0, common, CHUNK):
            end = min(common, start + CHUNK)
            delta = theirs[name][start:end].astype(np.int64) - ours[name][start:end]
            (where,) = np.nonzero(delta)
            if len(where):
                count += len(where)
                first = start + int(where[0]) if first is None else first
                low, high = min(low, int(delta.min())), max(high, int(delta.max()))
        if count:
            found["columns"][name] = {"rows": count, "first_row": first, "least": low, "most": high}
    return found


def job_differences(job: Job) -> Job:
    """Where the columns that another reader saved differ from ours."""
    import numpy as np

    theirs = {
        name: np.memmap(Path(job["saved"]) / f"{name}.bin", dtype=kind, mode="r")
        for name, kind in zip("txyp", ("<i8", "<i2", "<i2", "<i1"), strict=True)
    }
    ours = columns_of("evlib", read_evlib(job)())
    return differences({name: ours[name] for name in "txyp"}, theirs)


def job_truth(job: Job) -> Job:
    """Whether our columns are the reference of the small recording, repeated, with time going on by a fixed span."""
    import numpy as np

    ours = columns_of("evlib", read_evlib(job)())
    truth = np.load(job["expected"])
    rows = len(truth["t"])
    repetitions, rest = divmod(len(ours["t"]), rows)
    spans = []
    wrong = int(rest != 0)
    for repetition in range(repetitions):
        part = slice(repetition * rows, (repetition + 1) * rows)
        shift = ours["t"][part] - truth["t"]
        spans.append(int(shift[0]))
        wrong += int(np.count_nonzero(shift != shift[0]))
        wrong += sum(int(np.count_nonzero(ours[name][part] != truth[name])) for name in "xyp")
    wrong += int(len(set(np.diff(spans).tolist())) > 1)
    return {
        "rows": len(ours["t"]),
        "repetitions": repetitions,
        "wrong": wrong,
        "first_us": int(ours["t"].min()),
        "last_us": int(ours["t"].max()),
    }


def job_check_parquet(job: Job) -> Job:
    """Whether a Parquet file holds what `read_events` gives."""
    import polars as pl

    import evlib

    return {"right": pl.read_parquet(job["out"]).equals(evlib.read_events(job["path"]))}


def job_check_window(job: Job) -> Job:
    """Whether every way to a time window gives the rows of the full read, and `head` its first rows."""
    import polars as pl

    import evlib

    start, end = job["window"]
    low, high = timedelta(microseconds=start), timedelta(microseconds=end)
    inside = (pl.col("timestamp") >= low) & (pl.col("timestamp") < high)
    everything = evlib.read_events(job["path"])
    rows = everything.filter(inside)
    recording = evlib.open(job["path"])
    first = recording.read(time_range=(start, end))
    _ = recording.event_count
    found = [first, recording.read(time_range=(start, end)), evlib.load_events(job["path"]).filter(inside).collect()]
    head = evlib.load_events(job["path"]).head(1000).collect()
    return {
        "right": len(rows) > 0 and all(one.equals(rows) for one in found) and head.equals(everything.head(1000)),
        "rows": len(rows),
    }


# Timed jobs: return the call to time; what it returns is kept until memory has been looked at.


def timed_read(job: Job) -> Work:
    return READERS[job["reader"]](job)


def timed_lazy_len(job: Job) -> Work:
    import polars as pl

    from evlib import load_events

    return lambda: load_events(job["path"]).select(pl.len()).collect(**job.get("collect", {})).item()


def timed_lazy_polarity(job: Job) -> Work:
    import polars as pl

    from evlib import load_events

    return lambda: dict(
        load_events(job["path"])
        .group_by("polarity")
        .agg(pl.len())
        .sort("polarity")
        .collect(**job.get("collect", {}))
        .rows()
    )


def timed_lazy_parquet(job: Job) -> Work:
    import polars  # noqa: F401

    from evlib import load_events

    def work() -> int:
        load_events(job["path"]).sink_parquet(job["out"])
        return Path(job["out"]).stat().st_size

    return work


def timed_window(job: Job) -> Work:
    """Rows of one time window: `how` is `first` or `indexed` (on a recording), or `lazy` (a filter, no index)."""
    import polars as pl

    import evlib

    start, end = job["window"]
    recording = evlib.open(job["path"])
    if job["how"] == "lazy":
        low, high = timedelta(microseconds=start), timedelta(microseconds=end)
        events = evlib.load_events(job["path"])
        return lambda: len(events.filter(pl.col("timestamp") >= low, pl.col("timestamp") < high).collect())
    if job["how"] == "indexed":
        _ = recording.event_count
        recording.read(time_range=(start, start + 1))
    return lambda: len(recording.read(time_range=(start, end)))


def timed_open(job: Job) -> Work:
    import polars  # noqa: F401

    from evlib import load_events

    return lambda: load_events(job["path"])


def timed_head(job: Job) -> Work:
    import evlib

    events = evlib.load_events(job["path"])
    return lambda: len(events.head(1000).collect())


def timed_index(job: Job) -> Work:
    import evlib

    recording = evlib.open(job["path"])
    return lambda: recording.event_count


def timed_import(_job: Job) -> Work:
    """Import evlib up to the point where its functions can be called, where Polars is there already."""
    import polars  # noqa: F401

    def work() -> str:
        import evlib
        from evlib import load_events, open, read_events  # noqa: A004, F401

        return evlib.__version__

    return work


def run_timed(job: Job, answer: Callable[[Job], None]) -> None:
    work = globals()[f"timed_{job['job']}"](job)
    if "path" in job:
        warm(job["path"])
    if job.get("settle"):
        settle(job["settle"])
    try:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        cleared = True
    except OSError:
        cleared = False
    before, resident = anonymous_bytes()
    answer({"ready": True, "anonymous": before})
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    after, peak = anonymous_bytes()
    value = result if isinstance(result, int | str | dict) else None
    rows = len(result) if hasattr(result, "__len__") and value is None else None
    answer(
        {
            "seconds": seconds,
            "anonymous": max(0, after - before),
            "resident_peak": peak - resident if cleared else None,
            "value": value,
            "rows": rows,
        }
    )
    os._exit(0)  # freeing the result would only take time


def run_again(job: Job, answer: Callable[[Job], None]) -> None:
    """Read the file once for every line on standard input, and free what was read before the next."""
    work = READERS[job["reader"]](job)
    warm(job["path"])
    answer({"ready": True})
    for _ in sys.stdin:
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        del result
        answer({"seconds": seconds})
    os._exit(0)


def job_versions(job: Job) -> Job:
    from importlib.metadata import version

    return {name: version(name) for name in job["names"]}


def serve(handle: Callable[[Job, Callable[[Job], None]], None]) -> None:
    """Hand the job in the arguments to `handle`, with what prints an answer."""
    # Libraries print what they like: the answer has the standard output to itself.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: Job) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    handle(json.loads(sys.argv[1]), answer)


def run(job: Job, answer: Callable[[Job], None]) -> None:
    if (check := globals().get(f"job_{job['job']}")) is not None:
        answer(check(job))
    elif job["job"] == "again":
        run_again(job, answer)
    else:
        run_timed(job, answer)


if __name__ == "__main__":
    serve(run)
