"""Reading arrays from the observation log takes no memory, by a check that finds codecs out that do copy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "memory.py"
ARRAY_BYTES = 80_000_000


def run(*arguments: object) -> str:
    command = [sys.executable, PROGRAM, *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def judge(folder: Path, codec: str, reads: int) -> dict:
    """Write an array with a codec and read it so many times, each in a process of its own."""
    run("write", folder, "--codec", codec, "--bytes", ARRAY_BYTES)
    return json.loads(run("read", folder, "--reads", reads))


@pytest.mark.parametrize("reads", [1, 5])
def test_reading_takes_no_memory(tmp_path, reads):
    found = judge(tmp_path, "numpy", reads)
    assert found["array_bytes"] == ARRAY_BYTES
    assert found["violations"] == [], found


@pytest.mark.parametrize("reads", [1, 5])
@pytest.mark.parametrize("codec", ["copy", "pickle"])
def test_the_check_fails_for_a_codec_that_copies(tmp_path, codec, reads):
    found = judge(tmp_path, codec, reads)
    assert found["right"]
    assert found["anonymous_bytes"] >= reads * ARRAY_BYTES
    # Each measure finds it out by itself.
    assert {"anonymous_bytes", "minor_faults", "read_only"} <= set(found["violations"]), found
