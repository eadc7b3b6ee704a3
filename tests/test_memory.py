"""Peak memory of reading, measured from outside in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from words import header

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RssAnon of /proc/self/status")

EVENTS = 8_000_000
MB = 1e6

SAMPLER = """
import sys, threading, time

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

class Peak:
    def __enter__(self):
        self.start = self.peak = anonymous()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self
    def sample(self):
        while not self.stop.wait(0.0005):
            self.peak = max(self.peak, anonymous())
    def __exit__(self, *_):
        self.peak = max(self.peak, anonymous())
        self.stop.set()
        self.thread.join()
        print(self.peak - self.start)

import numpy, polars as pl, evlib
path, folder = sys.argv[1:]
"""


@pytest.fixture(scope="module", params=["evt2", "evt3", "dat"])
def big(request, tmp_path_factory):
    """A recording of `EVENTS` events."""
    kind = request.param
    at = np.arange(EVENTS)
    t = at // 10
    if kind == "evt2":
        words = (((at & 1) << 28) | ((t & 63) << 22) | ((at % 640) << 11) | (at % 480)).astype("<u4")
        words = words.reshape(-1, 640)
        highs = (0x8000_0000 | (t.reshape(-1, 640)[:, :1] >> 6)).astype("<u4")
        words = np.hstack([highs, words])
    elif kind == "evt3":
        # A row of ten events each microsecond, of which a time and a row word come first.
        blocks = at.reshape(-1, 10)
        time = blocks[:, :1] // 10
        events = 0x2000 | (blocks & 1) << 11 | blocks % 640
        words = np.hstack([0x8000 | time >> 12 & 0xFFF, 0x6000 | time & 0xFFF, time % 480, events]).astype("<u2")
    else:
        words = np.empty((EVENTS, 2), "<u4")
        words[:, 0] = t
        words[:, 1] = (at % 640) | (at % 480) << 14 | (at & 1) << 28
    path = tmp_path_factory.mktemp("memory") / f"big.{'dat' if kind == 'dat' else 'raw'}"
    with path.open("wb") as file:
        file.write(header(kind))
        words.tofile(file)
    return path


def peak(path, code: str, tmp_path) -> tuple[int, list[str]]:
    """Peak of anonymous memory over the import while `code` runs, and what it prints."""
    script = SAMPLER + "with Peak():\n" + textwrap.indent(textwrap.dedent(code), "    ")
    run = subprocess.run(
        [sys.executable, "-c", script, str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    *printed, used = run.stdout.split()
    return int(used), printed


def test_the_measure_sees_memory(big, tmp_path):
    used, _ = peak(big, "kept = numpy.ones(30_000_000); kept = None", tmp_path)
    assert 220 * MB < used < 300 * MB


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_read_events(big, tmp_path, threads):
    used, printed = peak(big, f"frame = evlib.read_events(path, threads={threads})\nprint(frame.height)", tmp_path)
    assert printed == [str(EVENTS)]
    assert used <= 13.5 * EVENTS + 64 * MB
    # Nor can it be less than the columns: what was measured is the read.
    assert used >= 13 * EVENTS


def test_read_events_of_one_column(big, tmp_path):
    used, printed = peak(big, "frame = evlib.read_events(path, columns=['x'])\nprint(frame.height)", tmp_path)
    assert printed == [str(EVENTS)]
    assert used <= 2.1 * EVENTS + 64 * MB


LAZY = {
    "len": ("print(evlib.load_events(path).select(pl.len()).collect(engine='streaming').item())", [str(EVENTS)]),
    "group_by": (
        "print(*evlib.load_events(path).group_by('polarity').len().sort('len').collect(engine='streaming')['len'])",
        [str(EVENTS // 2)] * 2,
    ),
    "sink_parquet": ("evlib.load_events(path).sink_parquet(folder + '/out.parquet')", []),
    "filter": (
        "print(evlib.load_events(path).filter(pl.col('x') < 64).select(pl.len()).collect(engine='streaming').item())",
        [str(EVENTS // 10)],
    ),
    "batches": ("print(sum(batch.height for batch in evlib.open(path).batches(rows=100_000)))", [str(EVENTS)]),
    "windows": ("print(sum(batch.height for batch in evlib.open(path).batches(duration=10_000)))", [str(EVENTS)]),
    "index": (
        "opened = evlib.open(path); print(opened.event_count); opened.time_range; opened.problems",
        [str(EVENTS)],
    ),
    "write": (
        "print(evlib.write_events(evlib.open(path), folder + '/copy.raw', geometry=(640, 480)))",
        [str(EVENTS)],
    ),
}


@pytest.mark.parametrize("name", LAZY)
def test_memory_of_lazy_work_is_bounded(big, tmp_path, name):
    code, expected = LAZY[name]
    used, printed = peak(big, code, tmp_path)
    assert printed == expected
    assert used <= 150 * MB
