"""Time packed recordings: opening, the first events, everything; beside the system's tool that unpacks them.

The recording is packed with `gzip -6` and `zstd -3`. Answers are verified before anything is timed; then ways take
turns, page cache warm, each in a process of its own, so that no index and no memory is left of the turn before. The
best of the turns is shown. The tool's row is the time until a pipe has given all of its output.
Nothing here fails because something is slow.

    python benchmarks/packed.py RECORDING [--workdir FOLDER] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from compare import machine, table

import evlib

WORK = """
import json, sys, time
import evlib
path, query = sys.argv[1:]
evlib.read_events, evlib.load_events  # imports what they need
counts = lambda: {line.split(":")[0]: int(line.split()[1]) for line in open("/proc/self/io")}
before, start = counts(), time.perf_counter()
if query == "open":
    answer = evlib.open(path).format
elif query == "head(1000)":
    answer = evlib.load_events(path).head(1000).collect().height
elif query == "event_count":
    answer = evlib.open(path).event_count
elif query == "batches":
    answer = sum(batch.height for batch in evlib.open(path).batches())
else:
    answer = evlib.read_events(path).height
seconds, after = time.perf_counter() - start, counts()
print(json.dumps([answer, seconds, after["rchar"] - before["rchar"]]))
"""
QUERIES = ("open", "head(1000)", "event_count", "batches", "read_events")
TOOLS = {".gz": ["gzip", "-6"], ".zst": ["zstd", "-q", "-3"]}
PIPE = """
import subprocess, sys, time
start = time.perf_counter()
with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE) as tool:
    buffer = bytearray(1 << 20)
    while tool.stdout.readinto(buffer):
        pass
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--workdir", type=Path, default=Path("benchmarks/results/packed"))
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    paths = {"plain": options.recording}
    for suffix, tool in TOOLS.items():
        if shutil.which(tool[0]) is None:
            print(f"no `{tool[0]}`: left out")
            continue
        paths[suffix] = options.workdir / f"{options.recording.name}{suffix}"
        if not paths[suffix].exists():
            with paths[suffix].open("wb") as out:
                subprocess.run([*tool, "-c", options.recording], stdout=out, check=True)
    recording = evlib.open(options.recording)
    expected = {"open": recording.format, "head(1000)": 1000}
    best: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.repeat):
        for name, path in paths.items():
            for query in QUERIES:
                done = subprocess.run([sys.executable, "-c", WORK, path, query], stdout=subprocess.PIPE, check=True)
                answer, seconds, read = json.loads(done.stdout)
                if answer != expected.get(query, recording.event_count):
                    raise SystemExit(f"{name}, {query}: {answer}")
                best[name, query] = min(best.get((name, query), [seconds, read]), [seconds, read])
            if name in TOOLS:
                tool = [sys.executable, "-c", PIPE, TOOLS[name][0], "-dc", str(path)]
                seconds = float(subprocess.run(tool, stdout=subprocess.PIPE, check=True).stdout)
                best[name, "tool"] = min(best.get((name, "tool"), [seconds, 0]), [seconds, 0])
    print(machine())
    rows = []
    for name, path in paths.items():
        times = [f"{best[name, query][0] * 1e3:.4g} ms" for query in QUERIES]
        tool = f"{best[name, 'tool'][0] * 1e3:.4g} ms" if name in TOOLS else ""
        read = f"{best[name, 'head(1000)'][1] / 1e6:.2f} MB"
        rows.append([name, f"{path.stat().st_size / 1e6:.0f} MB", *times, tool, read])
    print(table(["file", "size", *QUERIES, "the tool", "bytes read by head(1000)"], rows))


if __name__ == "__main__":
    main()
