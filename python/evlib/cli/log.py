"""`evlib log`: observation logs: what is in them, whether it is whole, and what to do if it is not."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from evlib import _evlib
from evlib.cli._output import Progress, open_recording
from evlib.codecs import EventsCodec
from evlib.exceptions import ArgumentError, UnsupportedError
from evlib.oblog import ObLog, Recovery

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from evlib.oblog import Channel, LogFile

LOSSES = 3
_BATCH = timedelta(milliseconds=10)


def run(options: argparse.Namespace) -> int:
    """Do what the verb says; 3 if something of the log is lost."""
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "info": _info, "verify": _verify, "cat": _cat, "repair": _repair, "export": _export, "record": _record,
    }  # fmt: skip
    return verbs[options.verb](options)


def _names(log: ObLog, wanted: str | None) -> list[str]:
    if wanted is not None:
        return [wanted]
    names = log.channels()
    if not names:
        raise ArgumentError(f"{log.path}: no channels")
    return names


def _open(log: ObLog, name: str, options: argparse.Namespace) -> Channel:
    return log.channel(name, allow_pickle=getattr(options, "allow_pickle", False))


def _files(log: ObLog, name: str) -> list[LogFile]:
    """List the files of a channel, whatever its codec."""
    opened = _evlib.LogChannel(str(log.path), name, "head", lambda *_: memoryview.tobytes)
    from evlib.oblog import LogFile

    return [
        LogFile(path, size, records, codec, version, dict(metadata), created, times, closed, Recovery(*recovery))
        for path, size, records, codec, version, metadata, created, times, closed, recovery in opened.files()
    ]


def _info(options: argparse.Namespace) -> int:
    log = ObLog(options.path)
    lost = False
    for name in _names(log, options.channel):
        files = _files(log, name)
        records = sum(file.records for file in files)
        times = [file.times for file in files if file.times is not None]
        lost |= any(file.recovery.records or file.recovery.bytes for file in files)
        if options.json:
            print(json.dumps({"channel": name, "records": records, "files": [_as_json(file) for file in files]}))
            continue
        print(name)
        print(f"  codec      {', '.join(sorted({f'{file.codec} {file.codec_version}' for file in files}))}")
        print(f"  records    {records:,}")
        if times:
            first, last = min(first for first, _ in times), max(last for _, last in times)
            print(f"  times      {_date(first)} to {_date(last)}, {(last - first) / 1e9:.6f} s")
        for file in files:
            state = "closed" if file.closed else "not closed"
            if file.recovery.reason is not None:
                state = f"{file.recovery.reason}: {file.recovery.records} records, {file.recovery.bytes} bytes lost"
            print(f"  file       {file.path.name}: {file.bytes:,} bytes, {file.records:,} records, {state}")
    return LOSSES if lost else 0


def _as_json(file: LogFile) -> dict[str, Any]:
    return {**file._asdict(), "path": str(file.path), "recovery": file.recovery._asdict()}


def _date(time_ns: int) -> str:
    """Write a time of this century in UTC, others, which are no dates, as numbers."""
    if not 10**18 <= time_ns < 2**62:
        return f"{time_ns:,} ns"
    date = datetime.fromtimestamp(time_ns // 10**9, tz=UTC)
    return f"{date:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}Z"


def _verify(options: argparse.Namespace) -> int:
    log = ObLog(options.path)
    wrong = False
    for name in _names(log, options.channel):
        opened = _evlib.LogChannel(str(log.path), name, "head", lambda *_: memoryview.tobytes)
        found = Progress(f"{name}: verifying").wait(opened.verify)
        print(f"{name}: {len(opened):,} records: {'damaged' if found else 'whole'}")
        for text in found:
            print("  " + text.replace("\n", " "))
        wrong |= bool(found)
    return LOSSES if wrong else 0


def _cat(options: argparse.Namespace) -> int:
    log = ObLog(options.path)
    for name, timestamp, item in islice(
        log.merge(*_names(log, options.channel), allow_pickle=options.allow_pickle), options.rows
    ):
        if options.json:
            print(_line({"channel": name, "timestamp": timestamp, "item": _plain(item)}))
        else:
            print(f"{timestamp} {name} {_brief(item)}")
    return 0


def _brief(item: Any) -> str:  # noqa: ANN401
    """Show an item in one line."""
    match item:
        case memoryview():
            text = f"{item.nbytes} bytes {bytes(item[:16]).hex(' ')}"
        case np.ndarray():
            values = np.array2string(item.ravel()[:6], separator=", ", max_line_width=10**6).rstrip("]")
            text = f"array {item.dtype} {item.shape} {values}{', ...' if item.size > 6 else ''}]"
        case pl.DataFrame():
            text = f"frame {item.height} x {item.width} {', '.join(item.columns)}"
        case _:
            text = " ".join(str(item).split())
    return text if len(text) < 200 else text[:197] + "..."


def _plain(item: Any) -> Any:  # noqa: ANN401
    """Bring an item into a form that JSON has."""
    match item:
        case memoryview():
            return bytes(item).hex()
        case np.ndarray():
            return item.tolist()
        case pl.DataFrame():
            return json.loads(item.write_json())
        case _:
            return item


def _line(item: dict[str, Any]) -> str:
    """Write JSON in a line, what it does not have, such as complex numbers and dates, as text."""
    return json.dumps(item, default=str)


def _repair(options: argparse.Namespace) -> int:
    source = Path(options.path)
    files = sorted(source.glob("*.mcap")) if source.is_dir() else [source]
    if not files:
        raise ArgumentError(f"{source}: no files of a log")
    lost = False
    for file in files:
        path, records, row = _evlib.log_repair(file, options.output)
        left_out = Recovery(*row)
        print(f"{file}: {records:,} records copied to {path}", flush=True)
        if left_out.records or left_out.bytes:
            print(f"evlib: note: {left_out.records} records, {left_out.bytes} bytes left out", file=sys.stderr)
            lost = True
    return LOSSES if lost else 0


def _export(options: argparse.Namespace) -> int:
    log, output = ObLog(options.path), Path(options.output)
    channel = _open(log, options.channel, options)
    if output.exists() and not options.force:
        raise ArgumentError(f"{output} is there already: --force replaces it")
    codecs = {file.codec for file in channel.files if file.records} or {file.codec for file in channel.files}
    ending = output.suffix.lower()
    if codecs == {"events"} and ending not in (".jsonl", ".parquet"):
        from evlib.writing import write_events

        sizes = [file.metadata["geometry"] for file in channel.files if "geometry" in file.metadata]
        geometry = options.geometry or (tuple(int(part) for part in sizes[0].split("x")) if sizes else None)
        rows = write_events((frame for _, frame in channel), output, geometry=geometry, overwrite=options.force)
        print(f"{output}: {rows:,} events")
        return 0
    match ending:
        case ".jsonl":
            with output.open("w") as file:
                for timestamp, item in channel:
                    print(_line({"timestamp": timestamp, "item": _plain(item)}), file=file)
        case ".npz":
            items = {f"item{number:06}": np.asarray(item) for number, (_, item) in enumerate(channel)}
            times = np.array([timestamp for timestamp, _ in channel], np.uint64)
            np.savez(output, timestamps=times, **items)  # type: ignore[arg-type]
        case ".parquet":
            pl.concat(
                [_as_frame(timestamp, item) for timestamp, item in channel], how="vertical_relaxed"
            ).write_parquet(output)
        case "":
            output.mkdir(exist_ok=options.force)
            for number in range(len(channel)):
                (output / f"{number:06}.bin").write_bytes(channel.record(number).payload)
        case other:
            raise UnsupportedError(
                f"{', '.join(sorted(codecs))} is not exported as `{other}`: .jsonl, .npz (arrays), .parquet (tables, "
                "events), a recording's ending (events), or a folder, whose name has no ending (payloads as they are)"
            )
    print(f"{output}: {len(channel):,} records")
    return 0


def _as_frame(timestamp: int, item: Any) -> pl.DataFrame:  # noqa: ANN401
    frame = item if isinstance(item, pl.DataFrame) else pl.DataFrame(item)
    return frame.select(pl.lit(timestamp, pl.UInt64).alias("log_time_ns"), pl.all())


def _record(options: argparse.Namespace) -> int:
    recording = open_recording(options.path, options)
    codec = EventsCodec(geometry=recording.geometry)
    rows = batches = 0
    with ObLog(options.output) as log:
        write = log.get_writer(
            options.channel or Path(options.path).stem,
            codec,
            policy=options.policy,
            durable=options.durable,
            direct=options.direct,
        )
        for frame, first_us in _paced(recording.batches(duration=_BATCH), options.speed):
            write(frame, sensor_time=max(first_us, 0) * 1000)
            rows += frame.height
            batches += 1
        write.flush()
        counters = write.counters
    print(f"{write.path}: {rows:,} events in {batches:,} records")
    if counters.dropped or counters.rejected:
        print(f"evlib: note: {counters.dropped + counters.rejected:,} records dropped", file=sys.stderr)
        return LOSSES
    return 0


def _paced(frames: Iterator[pl.DataFrame], speed: float | None) -> Iterator[tuple[pl.DataFrame, int]]:
    """Give batches with their first times at the recording's own pace times `speed`; at once without one."""
    start: tuple[float, int] | None = None
    for frame in frames:
        if frame.is_empty():
            continue
        first, last = (int(frame["timestamp"].to_physical()[at]) for at in (0, -1))
        if speed is not None:
            start = start or (time.monotonic(), first)
            wait = start[0] + (last - start[1]) / 1e6 / speed - time.monotonic()
            if wait > 0:
                time.sleep(wait)
        yield frame, first
