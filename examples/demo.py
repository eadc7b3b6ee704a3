"""Simulate a recording, store it as EVT3, read it back and look at it.

Needs no data: `python examples/demo.py [OUTPUT]`, with Pillow installed. The files go to `build/demo` by default.
"""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

import evlib

GEOMETRY = (1280, 720)
DURATION = timedelta(milliseconds=300)
BIN = timedelta(milliseconds=10)
WINDOW = (timedelta(milliseconds=200), timedelta(milliseconds=220))

BACKGROUND, ON, OFF = (26, 30, 44), (240, 243, 248), (62, 140, 226)


def heading(text: str) -> None:
    """Print the title of a part."""
    print(f"\n== {text} ==")


def seconds_since(start: float) -> str:
    """Format the time that something took."""
    seconds = time.perf_counter() - start
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


def print_rate(events: pl.LazyFrame) -> None:
    """Print the event rate over time as a bar chart."""
    bin_us = BIN // timedelta(microseconds=1)
    rate = (
        events.group_by(bin=pl.col("timestamp").dt.total_microseconds() // bin_us)
        .agg(rate=pl.len() / (bin_us / 1e6), on=(pl.col("polarity") > 0).mean())
        .sort("bin")
        .collect()
    )
    full = float(rate["rate"].to_numpy().max())
    print("  from       Mev/s   ON")
    for index, value, on in rate.rows():
        print(f"  {index * bin_us // 1000:4d} ms  {value / 1e6:7.2f}  {on:4.0%}  {'#' * round(40 * value / full)}")


def draw(events: pl.DataFrame, path: Path) -> None:
    """Write the events as a picture: the last event of each pixel gives its colour."""
    width, height = GEOMETRY
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    x, y, polarity = (events[name].to_numpy() for name in ("x", "y", "polarity"))
    picture[y, x] = np.where((polarity > 0)[:, None], np.uint8(ON), np.uint8(OFF))
    Image.fromarray(picture).save(path)


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description="Simulate, store, read back and look at a recording.")
    parser.add_argument("output", nargs="?", type=Path, default=Path("build/demo"), help="folder for the files")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    recording_path, picture_path = output / "simulated.raw", output / "frame.png"

    heading("1. Simulate a recording: evlib.simulate")
    start = time.perf_counter()
    simulated = evlib.simulate(DURATION, geometry=GEOMETRY, seed=1)
    print(f"{simulated.height:,} events of {DURATION.total_seconds():g} s in {seconds_since(start)}")

    heading("2. Store it as EVT3: evlib.write_events")
    start = time.perf_counter()
    evlib.write_events(simulated, recording_path, format="evt3", geometry=GEOMETRY, overwrite=True)
    took = seconds_since(start)
    size = recording_path.stat().st_size
    print(f"{recording_path}: {size / 1e6:.1f} MB, {size / simulated.height:.2f} bytes an event, in {took}")

    heading("3. Read it back: evlib.load_events")
    start = time.perf_counter()
    events = evlib.load_events(recording_path)
    print(f"opened in {seconds_since(start)} (only the head of the file is read until a query needs more)")
    start = time.perf_counter()
    loaded = events.collect()
    print(f"decoded {loaded.height:,} events in {seconds_since(start)}")
    if not loaded.equals(simulated):
        raise SystemExit("error: what was read is not what was simulated")
    print("every event is as simulated: pixels, times, polarities and order")
    print(events.head(5).collect())

    heading("4. Event rate over time")
    print_rate(events)

    heading(
        f"5. One time window: {WINDOW[0] // timedelta(milliseconds=1)} to {WINDOW[1] // timedelta(milliseconds=1)} ms"
    )
    query = events.filter(pl.col("timestamp") >= WINDOW[0], pl.col("timestamp") < WINDOW[1])
    for when in ("first time, building the segment index", "again, with the index"):
        start = time.perf_counter()
        window = query.collect()
        print(f"{window.height:,} events in {seconds_since(start)} ({when})")
    if not window.equals(simulated.filter(pl.col("timestamp") >= WINDOW[0], pl.col("timestamp") < WINDOW[1])):
        raise SystemExit("error: the time window is not what was simulated")

    heading("6. Problems that decoding met")
    problems = evlib.open(recording_path).problems
    print(problems if problems.height else "none: nothing was skipped, dropped or repaired")

    heading("7. A picture of the window")
    draw(window, picture_path)
    print(f"{picture_path}: {GEOMETRY[0]} x {GEOMETRY[1]}, white = brighter (ON), blue = darker (OFF)")


if __name__ == "__main__":
    main()
