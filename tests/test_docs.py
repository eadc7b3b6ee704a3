"""What the documentation shows is run: Python blocks, command lines and docstrings.

In `README.md`, `docs/*.md` and `docs/formats/*.md`, the ```` ```python ```` blocks of a page are run one after the
other in one namespace, in a folder of their own that holds `recording.raw` and `drive.mcap`. A ```` ```text ```` block
right after one is what it prints. In a ```` ```console ```` block, lines that start with `$ ` are commands, followed by
what they print. `...` in an output stands for anything.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bags
import polars as pl
import pytest

import evlib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [
    "evlib",
    "evlib.codecs",
    "evlib.oblog",
    "evlib.reading",
    "evlib.recording",
    "evlib.rectification",
    "evlib.simulator",
    "evlib.writing",
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$(\s*\n(?=```text$))?", re.DOTALL | re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with the recordings that the examples read: 1000 events in 100 ms, and as many in a bag."""
    monkeypatch.chdir(tmp_path)
    rows = range(1000)
    evlib.write_events(
        {
            "x": [row % 640 for row in rows],
            "y": [row // 10 % 480 for row in rows],
            "timestamp": [row * 100 for row in rows],
            "polarity": [1 if row % 3 == 0 else -1 for row in rows],
        },
        "recording.raw",
        geometry=(640, 480),
    )
    write_drive(tmp_path / "drive.mcap")
    return tmp_path


def write_drive(path: Path) -> None:
    """Events, external triggers and inertial measurements; messages are stamped 250 ms after their events."""
    start = 1_700_000_000_000_000_000
    events = [(row % 640, row % 480, start + row * 100_000, row % 2) for row in range(1000)]
    late = [
        replace(message, stamp_ns=message.stamp_ns + 250_000_000)
        for message in bags.packets(events, "mono", [100] * 10)
    ]
    payload = bags.trigger([(0, start, 1), (0, start + 50_000_000, 0)], start)
    edges = bags.Message(late[0].type_name, start, payload, "trigger", start, topic="/camera/triggers")
    imu = [bags.Message("sensor_msgs/msg/Imu", start + number, topic="/imu") for number in range(2)]
    bags.write_mcap(path, [*late, edges, *imu])


def assert_prints(got: str, wanted: str, where: str) -> None:
    if not doctest.OutputChecker().check_output(wanted.rstrip() + "\n", got.rstrip() + "\n", FLAGS):
        pytest.fail(f"{where} prints\n{got}\nwhere the page says\n{wanted}", pytrace=False)


def run_python(code: str, line: int, page: Path, names: dict) -> str:
    printed = io.StringIO()
    # Lines of the page, so that a traceback points at it.
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + code, str(page), "exec"), names)
    return printed.getvalue()


def run_console(session: str, line: int, page: Path) -> None:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"}
    first, *commands = re.split(r"^\$ ", session, flags=re.MULTILINE)
    assert not first.strip(), f"{page.name}:{line}: a console block starts with `$ `"
    for command in commands:
        text, _, wanted = command.partition("\n")
        run = subprocess.run(
            text, shell=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert_prints(run.stdout, wanted, f"{page.name}:{line}: `{text}`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, folder):
    text = page.read_text(encoding="utf-8")
    names: dict = {"__name__": "__main__", "pl": pl, "evlib": evlib}
    printed, shown = "", False
    for block in FENCE.finditer(text):
        language, code, output_follows = block.groups()
        line = text.count("\n", 0, block.start()) + 1
        if language == "python":
            printed = run_python(code, line, page, names)
        elif language == "text" and shown:
            assert_prints(printed, code, f"{page.name}: the block before line {line}")
        elif language == "console":
            run_console(code, line, page)
        shown = language == "python" and output_follows is not None


def test_there_are_examples():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    languages = [block.group(1) for block in FENCE.finditer(text)]
    assert languages.count("python") >= 14
    assert languages.count("console") >= 6


def test_a_wrong_output_is_seen():
    with pytest.raises(pytest.fail.Exception, match="where the page says"):
        assert_prints("1\n", "2\n", "nothing")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, folder):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    tests = doctest.DocTestFinder(recurse=True).find(module, globs={"pl": pl, "evlib": evlib})
    examples = 0
    for test in tests:
        test.globs.update(pl=pl, evlib=evlib)
        examples += len(test.examples)
        runner.run(test, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0
    assert examples or name == "evlib.recording", f"no examples in {name}"
