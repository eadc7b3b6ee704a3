"""Fixtures of the test suite."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import evlib

ROOT = Path(__file__).parents[1]

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
settings.register_profile("search", settings.get_profile("deterministic"), derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("EVLIB_HYPOTHESIS", "deterministic"))


def shared_folder() -> Path | None:
    """The folder of shared recordings and vectors; None where there is none."""
    path = Path(os.environ.get("EVLIB_SHARED", ROOT.parent / "shared"))
    return path if path.is_dir() else None


def zstd(content: bytes) -> bytes:
    """One Zstandard frame."""
    return pa.Codec("zstd").compress(content, asbytes=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    path = shared_folder()
    if path is None:
        pytest.skip("no folder `shared` beside the checkout, and EVLIB_SHARED names none")
    return path


@pytest.fixture(scope="session")
def manifest(shared: Path) -> dict[str, dict]:
    return json.loads((shared / "recordings" / "manifest.json").read_text())


@pytest.fixture(scope="module")
def path(shared: Path, name: str) -> Path:
    """The recording that the module's fixture `name` names."""
    return shared / "recordings" / name


@pytest.fixture(scope="module")
def entry(manifest: dict[str, dict], name: str) -> dict:
    """What the manifest says of the recording `name`."""
    return manifest[name]


@pytest.fixture
def save(tmp_path: Path):
    """Write bytes to a new file and return its path."""
    numbers = itertools.count()

    def save(data: bytes, suffix: str = ".raw") -> Path:
        path = tmp_path / f"recording{next(numbers)}{suffix}"
        path.write_bytes(data)
        return path

    return save


def problem_counts(recording: evlib.Recording) -> dict[str, int]:
    """Code to count."""
    return dict(recording.problems.select("code", "count").iter_rows())


def rows(frame: pl.DataFrame) -> list[tuple[int, int, int, int]]:
    """Events as tuples with the time in microseconds."""
    return frame.with_columns(pl.col("timestamp").dt.total_microseconds()).rows()


def recording_names(formats: set[str]) -> list:
    """Recordings of these formats in the manifest, or one visible skip where there is none."""
    folder = shared_folder()
    if folder is None:
        return [pytest.param("", marks=pytest.mark.skip("no folder `shared`"))]
    manifest = json.loads((folder / "recordings" / "manifest.json").read_text())
    return [name for name, entry in manifest.items() if entry["format"] in formats]
