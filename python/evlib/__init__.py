"""Event-camera recordings as Polars frames: one pass, no copies, bounded memory.

>>> import evlib
>>> events = evlib.load_events("recording.raw")
>>> events.group_by("polarity").len().sort("polarity").collect().rows()
[(-1, 666), (1, 334)]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evlib import _evlib, exceptions
from evlib.exceptions import EvlibError, FormatError

if TYPE_CHECKING:
    from evlib.reading import Identity, identify, load_events, open, read_events
    from evlib.recording import Recording
    from evlib.rectification import rectify
    from evlib.simulator import simulate
    from evlib.writing import write_events

__all__ = [
    "EvlibError",
    "FormatError",
    "Identity",
    "Recording",
    "__version__",
    "exceptions",
    "identify",
    "load_events",
    "open",
    "read_events",
    "rectify",
    "simulate",
    "write_events",
]

__version__: str = _evlib.__version__

if not TYPE_CHECKING:
    # Imported when first used, so that `evlib --help` and `evlib --version` wait neither for Polars nor for NumPy.
    _LAZY = {
        "Identity": "evlib.reading",
        "Recording": "evlib.recording",
        "identify": "evlib.reading",
        "load_events": "evlib.reading",
        "open": "evlib.reading",
        "read_events": "evlib.reading",
        "rectify": "evlib.rectification",
        "simulate": "evlib.simulator",
        "write_events": "evlib.writing",
    }

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module 'evlib' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
