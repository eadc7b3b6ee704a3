"""Extension module: decoders, scans and writers. Use it through `evlib`."""

from os import PathLike
from pathlib import Path
from typing import TypeAlias, final

from evlib._scan import Selection

__version__: str

_Problems: TypeAlias = list[tuple[str, str, int, str, int, int, list[str]]]
