"""Checks of callers' arguments: their mistakes are `ArgumentError`s that say what was expected."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, SupportsIndex

from evlib.exceptions import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    Microseconds = timedelta | int
    TimeRange = tuple[Microseconds | None, Microseconds | None]

_I64 = (-(2**63), 2**63 - 1)
_I32 = (-(2**31), 2**31 - 1)
_LARGEST_SENSOR = 2**15


def integer(value: object, name: str, *, low: int, high: int | None = None) -> int:
    """Give an integer from `low` to `high`, or of any size; NumPy integers are fine, bools and floats are not."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise ArgumentError(f"`{name}` is an integer, found {value!r}")
    number = value.__index__()
    if number < low or (high is not None and number > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ArgumentError(f"`{name}` must be {limits}, found {number}")
    return number


def count(value: object, name: str) -> int | None:
    """Give a number of threads or rows: at least 1, or None."""
    return None if value is None else integer(value, name, low=1, high=2**53)


def flag(value: object, name: str) -> bool:
    """Give True or False."""
    if not isinstance(value, bool):
        raise ArgumentError(f"`{name}` is True or False, found {value!r}")
    return value


def text(value: object, name: str) -> str | None:
    """Give a name, or None."""
    if not isinstance(value, str | None):
        raise ArgumentError(f"`{name}` is a name, found {value!r}")
    return value


def mapping(value: object, name: str) -> list[tuple[str, str]]:
    """Give the pairs of a dict of names."""
    pairs = [] if value is None else list(value.items()) if isinstance(value, Mapping) else None
    if pairs is None or not all(isinstance(item, str) for pair in pairs for item in pair):
        raise ArgumentError(f"`{name}` is a dict of names, found {value!r}")
    return pairs


def sequence(value: object, name: str, length: int, form: str) -> list[Any]:
    """Give the items of a tuple or list of this length."""
    if not isinstance(value, tuple | list) or len(value) != length:
        raise ArgumentError(f"`{name}` is {form}, found {value!r}")
    return list(value)


def geometry(value: object) -> tuple[int, int] | None:
    """Give the width and height of a sensor, or None."""
    return None if value is None else size(value)


def size(value: object) -> tuple[int, int]:
    """Give the width and height of a sensor."""
    form = "(width, height) in pixels"
    width, height = (
        integer(item, "geometry", low=1, high=_LARGEST_SENSOR) for item in sequence(value, "geometry", 2, form)
    )
    return width, height


def microseconds(value: Microseconds | None, name: str) -> int | None:
    """Exact microseconds of a timedelta or an integer of microseconds; what int64 cannot hold becomes its limit."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise ArgumentError(f"`{name}` takes timedeltas or integer microseconds, found {value!r}")
    return min(max(value.__index__(), _I64[0]), _I64[1])


def duration_us(value: Microseconds, name: str, *, low: int, high: int) -> int:
    """Give the microseconds of a duration from `low` to `high`."""
    return integer(microseconds(value, name), name, low=low, high=high)


def time_range(value: TimeRange | None) -> tuple[int | None, int | None]:
    """Give the start and end of a time range in microseconds."""
    if value is None:
        return None, None
    form = "(start, end), timedeltas or integer microseconds, None for an open end"
    start, end = (microseconds(item, "time_range") for item in sequence(value, "time_range", 2, form))
    return start, end


def region(value: object) -> tuple[int, int, int, int] | None:
    """Give the corner and size of a rectangle in pixels, or None."""
    if value is None:
        return None
    form = "(x, y, width, height) in pixels"
    x, y, width, height = sequence(value, "region", 4, form)
    return (
        integer(x, "region", low=_I32[0], high=_I32[1]),
        integer(y, "region", low=_I32[0], high=_I32[1]),
        integer(width, "region", low=0, high=_I32[1]),
        integer(height, "region", low=0, high=_I32[1]),
    )


def polarity(value: object) -> int | None:
    """Give 1, -1 or None."""
    if value is None:
        return None
    if isinstance(value, bool) or value not in (1, -1):
        raise ArgumentError(f"`polarity` is 1 or -1, found {value!r}")
    return integer(value, "polarity", low=-1, high=1)


def columns(value: Sequence[str] | str | None, known: Sequence[str]) -> list[str]:
    """Give the names of columns, all by default."""
    names = list(known) if value is None else [value] if isinstance(value, str) else list(value)
    for name in names:
        if name not in known:
            raise ArgumentError(f"unknown column `{name}`: expected one of {', '.join(f'`{name}`' for name in known)}")
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"`columns` are one or more different names, found {names}")
    return names


def path(value: object) -> str:
    """Give the name of a file."""
    if isinstance(value, str | os.PathLike):
        name = os.fspath(value)
        if isinstance(name, str):
            return name
    raise ArgumentError(f"a path is a str or a PathLike of str, found {value!r}")


def printable(name: str) -> str:
    """Give a file name without what is not Unicode."""
    return name.encode(errors="backslashreplace").decode()
