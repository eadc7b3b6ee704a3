"""`evlib info`: what recordings are."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import polars as pl

from evlib.cli import one_line
from evlib.cli._output import Progress, open_recording, with_unit
from evlib.exceptions import ArgumentError, EvlibError

if TYPE_CHECKING:
    import argparse

    import evlib

BIN_US = 10_000
"""Length of the bins of the peak rate."""

DECODED_BYTES = 256 << 20
"""Size of a file up to which all times are decoded for the peak rate."""

OPTIONS = frozenset({"layout", "columns", "time_unit", "time_unit_reason", "time_offset_us", "pixel_parts"})
"""Metadata of NPY and NPZ that are no arrays."""

PARTS = 32
"""Parts that the peak rate of a bigger file is estimated from."""


def run(options: argparse.Namespace) -> int:
    """Print the facts of each file; 1 if one of them cannot be read."""
    code = 0
    for number, path in enumerate(options.paths):
        try:
            recording = open_recording(path, options)
            facts = describe(recording, decoded_bytes=None if options.exact else DECODED_BYTES)
        except ArgumentError:
            raise
        except (EvlibError, OSError) as error:
            print(f"evlib: error: {one_line(error)}", file=sys.stderr)
            code = 1
            continue
        if options.json:
            print(json.dumps(facts))
        else:
            print(("\n" if number else "") + as_text(facts))
    return code


def describe(recording: evlib.Recording, *, decoded_bytes: int | None) -> dict[str, Any]:
    """Facts of a recording; times of events are decoded of about `decoded_bytes`, or of the whole file."""
    path, size = recording.path, recording.path.stat().st_size
    streams = recording.streams
    facts: dict[str, Any] = {
        "path": str(path),
        "bytes": size,
        "format": recording.format,
        "confidence": recording.confidence,
        "reasons": recording.reasons,
        "geometry": recording.geometry,
        "streams": {"others": streams.filter(~pl.col("kind").is_in(["events", "triggers"])).to_dicts()},
        "problems": [],
        "metadata": recording.metadata,
    }
    try:
        count = Progress(f"{path}: indexing").wait(lambda: recording.event_count)
    except ArgumentError:  # several cameras, and none chosen
        facts["streams"]["cameras"] = streams.filter(pl.col("kind") == "events").to_dicts()
        return facts
    first, last = (_micros(time) for time in recording.time_range or (None, None))
    duration = None if first is None or last is None else last - first
    events: dict[str, Any] = {
        "count": count,
        "first_us": first,
        "last_us": last,
        "duration_us": duration,
        "mean_rate_hz": count / duration * 1e6 if duration else None,
        "peak_rate_hz": None,
        "peak_rate_bin_us": BIN_US,
        "peak_rate_decoded_fraction": None,
        "estimated": [],
    }
    if first is not None and duration is not None and duration >= BIN_US:
        part = 1.0 if decoded_bytes is None else min(decoded_bytes / max(size, 1), 1.0)
        peak, fraction = _peak(recording, first, duration, count, part)
        events |= {
            "peak_rate_hz": peak * 1e6 / BIN_US,
            "peak_rate_decoded_fraction": fraction,
            "estimated": [] if fraction == 1.0 else ["peak_rate_hz"],
        }
    facts["streams"] |= {"events": events, "triggers": {"count": recording.trigger_count}}
    facts["problems"] = recording.problems.to_dicts()
    return facts


def _micros(time: Any) -> int | None:  # noqa: ANN401
    return None if time is None else (time.days * 86_400 + time.seconds) * 1_000_000 + time.microseconds


def _peak(recording: evlib.Recording, first: int, duration: int, count: int, part: float) -> tuple[int, float]:
    """Most events in a bin, and the fraction of the bins looked at; bins are counted from the first event."""
    bins = duration // BIN_US + 1
    length = max(1, int(bins * part / PARTS))
    if part >= 1.0 or length * PARTS >= bins:
        windows: list[tuple[int | None, int | None]] = [(None, None)]
        fraction = 1.0
    else:
        starts = [first + (bins - length) * number // (PARTS - 1) * BIN_US for number in range(PARTS)]
        windows = [(start, start + length * BIN_US) for start in starts]
        fraction = length * PARTS / bins
    progress = Progress(f"{recording.path}: decoding")
    counts: Counter[int] = Counter()
    done = 0
    for window in windows:
        for batch in recording.batches(columns=["timestamp"], time_range=window):
            _count(batch["timestamp"].to_physical() - first, counts)
            done += batch.height
            progress.update(done / max(count * fraction, 1))
    progress.close()
    return max(counts.values(), default=0), fraction


def _count(times: pl.Series, counts: Counter[int]) -> None:
    """Add the number of events in each bin."""
    if times.is_empty():
        return
    low, high = int(times[0]) // BIN_US, int(times[-1]) // BIN_US
    if times.is_sorted() and high - low < len(times):
        edges = pl.int_range(low * BIN_US, (high + 2) * BIN_US, BIN_US, eager=True)
        number = times.search_sorted(edges, side="left").cast(pl.Int64).diff(null_behavior="drop")
        counts.update({low + index: events for index, events in enumerate(number)})
    else:
        for index, events in (times // BIN_US).value_counts().iter_rows():
            counts[index] += events


def as_text(facts: dict[str, Any]) -> str:
    """Facts, one a line."""
    streams, geometry = facts["streams"], facts["geometry"]
    lines = [
        ("format", f"{facts['format']} ({facts['confidence']}: {'; '.join(facts['reasons'])})"),
        ("size", with_unit(facts["bytes"], "B")),
        ("geometry", "unknown" if geometry is None else f"{geometry[0]} x {geometry[1]}"),
    ]
    lines += [("stored", f"{name}: {value}") for name, value in facts["metadata"].items() if _is_stored(facts, name)]
    lines += [("camera", _stream(row)) for row in streams.get("cameras", [])]
    if "events" in streams:
        lines += _event_lines(streams["events"], streams["triggers"]["count"])
        problems = [f"{row['code']} {row['count']:,} {row['unit']} ({row['severity']})" for row in facts["problems"]]
        lines.append(("problems", ", ".join(problems) or "none"))
    lines += [("beside", _stream(row)) for row in streams["others"]]
    return "\n".join([facts["path"], *(f"  {name:<10} {value}" for name, value in lines)])


def _is_stored(facts: dict[str, Any], name: str) -> bool:
    """Tell whether metadata say how an array is stored: a data set of HDF5, or an array of NPY or NPZ."""
    if facts["format"] in ("npy", "npz"):
        return name not in OPTIONS
    return facts["format"] == "hdf5" and name.startswith("/")


def _stream(row: dict[str, Any]) -> str:
    rows = "" if row["rows"] is None else f", {row['rows']:,} rows"
    return f"{row['name']} ({row['detail']}{rows})"


def _event_lines(events: dict[str, Any], triggers: int) -> list[tuple[str, str]]:
    lines = [("events", f"{events['count']:,}"), ("triggers", f"{triggers:,}")]
    if events["duration_us"] is not None:
        first, last, duration = (events[name] / 1e6 for name in ("first_us", "last_us", "duration_us"))
        lines.append(("duration", f"{duration:.6f} s ({first:.6f} s to {last:.6f} s)"))
    if events["mean_rate_hz"] is not None:
        lines.append(("mean rate", with_unit(events["mean_rate_hz"], "ev/s")))
    if events["peak_rate_hz"] is not None:
        peak = f"{with_unit(events['peak_rate_hz'], 'ev/s')} over {BIN_US // 1000} ms"
        if events["estimated"]:
            peak = f"at least {peak} (estimated: {events['peak_rate_decoded_fraction']:.2g} of the time decoded)"
        lines.append(("peak rate", peak))
    return lines
