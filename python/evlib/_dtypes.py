"""Types of NumPy as text, for the codec of arrays; called by the extension module."""

from __future__ import annotations

import ast

import numpy as np
from numpy.lib.format import descr_to_dtype, dtype_to_descr

from evlib.exceptions import ArgumentError, FormatError

_LONGEST = 2**20


def text_of(dtype: np.dtype) -> str:
    """Write a type as `dtype.str`, or a structured one as its `descr`, so that `type_of` gives it back."""
    if dtype.hasobject:
        raise ArgumentError(
            f"arrays of type {dtype} hold references, not values, and cannot be stored\n"
            "hint: convert them to numbers or fixed-width strings, or use another codec"
        )
    try:
        text = dtype.str if dtype.fields is None else ascii(dtype_to_descr(dtype))
        exact = _same(type_of(text), dtype)
    except (ValueError, TypeError):
        exact = False
    if not exact:
        raise ArgumentError(f"arrays of type {dtype!r} cannot be stored: NumPy has no text that gives this type back")
    return text


def type_of(text: str) -> np.dtype:
    """Read what `text_of` wrote."""
    shown = text if len(text) < 80 else text[:80] + "..."
    if len(text) > _LONGEST:
        raise FormatError(f"not a type of NumPy: {len(text)} characters")
    try:
        dtype = descr_to_dtype(ast.literal_eval(text)) if text.startswith("[") else np.dtype(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, KeyError, IndexError) as error:
        raise FormatError(f"not a type of NumPy: `{shown}`: {error}") from error
    # Bytes of a file taken for references would end the process.
    if dtype.hasobject:
        raise FormatError(f"a type that holds references, not values: `{shown}`")
    return dtype


def _same(found: np.dtype, wanted: np.dtype) -> bool:
    """Whether two types have the same fields at the same places."""
    if found.itemsize != wanted.itemsize or (found.fields is None) != (wanted.fields is None):
        return False
    if found.fields is None or wanted.fields is None:
        # A type of an extension has the text of raw bytes, but is not them.
        if found.subdtype is not None and wanted.subdtype is not None:
            return found.shape == wanted.shape and _same(found.base, wanted.base)
        return found == wanted
    names = found.names == wanted.names
    places = [field[1] for field in found.fields.values()] == [field[1] for field in wanted.fields.values()]
    types = zip(found.fields.values(), wanted.fields.values(), strict=False)
    return names and places and all(_same(one[0], other[0]) for one, other in types)
