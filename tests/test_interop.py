"""The comparison with other libraries (`make interop`), with those that the tests have anyway."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import interop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the programs of the benchmarks need Linux")

PEERS = {peer.name: peer for peer in interop.PEERS if peer.name in ("numpy", "pyarrow", "h5py", "rosbags")}
KINDS = {kind.key: kind for kind in interop.KINDS}
CELLS = [
    ("read", "numpy", "npz"),
    ("read", "numpy", "npy"),
    ("read", "numpy", "text"),
    ("read", "pyarrow", "csv"),
    ("read", "h5py", "dsec"),
    ("read", "h5py", "dsec-gzip"),
    ("written", "numpy", "npz"),
    ("written", "numpy", "text"),
    ("written", "pyarrow", "csv"),
    ("written", "h5py", "dsec"),
    ("written", "rosbags", "bag"),
    ("written", "rosbags", "db3"),
    ("written", "rosbags", "mcap"),
]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> interop.Matrix:
    pythons = {peer.requirement: Path(sys.executable) for peer in PEERS.values()}
    return interop.Matrix(tmp_path_factory.mktemp("interop"), pythons, {})


@pytest.mark.parametrize(("direction", "name", "key"), CELLS)
def test_cell(direction, name, key, matrix):
    cell = matrix.cell(direction, KINDS[key], PEERS[name])
    assert cell == {"state": "same", "text": "", "expected": True, "known": None}


@pytest.mark.parametrize("key", ["evt3-pauses", "evt21-legacy", "evt3-triggers", "aedat4-none"])
def test_own_files(key, matrix):
    assert matrix.by_evlib(KINDS[key]) == {"state": "same", "text": ""}


def test_differences_are_seen(matrix):
    truth = matrix.contents["triggers"][1]
    for name in truth:
        found = {**truth, name: truth[name].copy()}
        found[name][7] += 1
        cell = interop.compared(truth, found)
        assert cell["state"] == "differs"
        assert cell["text"].endswith(f"{name} differs in 1 rows (0.0%) by +0 to +1, first in row 7")
        assert not interop.judged(cell, None)["expected"]
    short = interop.compared(truth, {name: values[:-1] for name, values in truth.items()})
    assert short["state"] == "differs"
    without = {name: values for name, values in truth.items() if not name.startswith("trigger")}
    assert interop.compared(truth, without) == {"state": "same", "text": "no triggers"}


def test_a_reader_that_fails_is_a_cell(matrix):
    cell = matrix.by_peer(KINDS["prophesee-hdf5"], PEERS["h5py"])
    assert cell["state"] == "fails"
    assert "OSError" in cell["text"]


def test_a_known_difference_excuses_no_other():
    known = interop.Known("differs", ("t differs", "x differs"), "It is so.")
    reason = {"expected": True, "known": "It is so."}
    cell = {"state": "differs", "text": "t differs in 7 rows; x differs in 9 rows"}
    assert interop.judged(cell, known) == {**cell, **reason}
    for other in (
        {"state": "differs", "text": "t differs in 7 rows"},
        {"state": "differs", "text": "t differs in 7 rows; y differs in 9 rows"},
        {"state": "differs", "text": "5 events of 7; t differs in 7 rows; x differs in 9 rows"},
        {"state": "fails", "text": "t differs in 7 rows; x differs in 9 rows"},
        {"state": "same", "text": ""},
    ):
        assert interop.judged(other, known) == {**other, "expected": False, "known": None}
    fails = interop.Known("fails", ("OSError: no plugin",), "It has none.")
    assert interop.judged({"state": "fails", "text": "OSError: no plugin; none at all"}, fails)["expected"]
    assert not interop.judged({"state": "fails", "text": "exit status -11"}, fails)["expected"]


def test_known_differences_are_cells():
    for direction, name, key in interop.KNOWN:
        peer = next(peer for peer in interop.PEERS if peer.name == name)
        assert key in (peer.reads if direction == "read" else peer.writes)
    for peer in interop.PEERS:
        assert {*peer.reads, *peer.writes} <= set(KINDS)


def test_contents_hold_what_they_are_for(matrix):
    (width, height), columns = matrix.contents["pauses"]
    assert {(0, 0), (width - 1, height - 1)} <= {
        *zip(columns["x"][:4].tolist(), columns["y"][:4].tolist(), strict=True)
    }
    assert (np.diff(columns["t"]) == 0).any()
    assert np.diff(columns["t"]).max() > 2**24
