"""Rectified coordinates of events, from a map of the lens."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import polars as pl

from evlib import _arguments, _evlib
from evlib.exceptions import ArgumentError

if TYPE_CHECKING:
    import numpy.typing as npt

_Frame = TypeVar("_Frame", pl.LazyFrame, pl.DataFrame)

_DATASET = "/rectify_map"


class _Lookup:
    """Batches of pixels to batches of rectified coordinates; pickled with its map."""

    def __init__(self, values: npt.NDArray[np.float32]) -> None:
        self.height, self.width = values.shape[:2]
        self.table = values.reshape(-1, 2)

    @staticmethod
    def _whole(column: pl.Series) -> npt.NDArray[np.int64]:
        if not column.dtype.is_integer() or column.null_count():
            raise ArgumentError(
                f"`{column.name}` is a column of whole pixels without nulls, found {column.dtype}: "
                "rectified coordinates cannot be rectified again"
            )
        return column.to_numpy().astype(np.int64)

    def __call__(self, pixels: pl.Series) -> pl.Series:
        x, y = (self._whole(pixels.struct.field(name)) for name in ("x", "y"))
        outside = (x < 0) | (x >= self.width) | (y < 0) | (y >= self.height)
        if outside.any():
            at = int(outside.argmax())
            raise ArgumentError(
                f"the map is of {self.width}x{self.height} pixels, but an event is at x {x[at]}, y {y[at]}: "
                "open the recording with that `geometry`, or use the map of its sensor"
            )
        found = self.table[y * self.width + x]
        return pl.DataFrame(
            {"x": np.ascontiguousarray(found[:, 0]), "y": np.ascontiguousarray(found[:, 1])},
            schema={"x": pl.Float32, "y": pl.Float32},
        ).to_struct(pixels.name)


def _load(source: str | os.PathLike[str] | npt.ArrayLike) -> npt.NDArray[np.float32]:
    if isinstance(source, str | os.PathLike):
        name = _arguments.path(source)
        data, shape, dtype = _evlib.read_array(name, _DATASET)
        values, what = np.frombuffer(data, dtype=dtype).reshape(shape), f"`{_DATASET}` of `{name}`"
    else:
        values, what = np.asarray(source), "`map`"
    if values.ndim != 3 or values.shape[2] != 2 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise ArgumentError(
            f"{what} is an array of shape (height, width, 2) of numbers, found {values.dtype} {values.shape}"
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def rectify(events: _Frame, map: str | os.PathLike[str] | npt.ArrayLike) -> _Frame:  # noqa: A002
    """Give events the rectified, undistorted coordinates that a map has for each pixel.

    Parameters
    ----------
    events
        A LazyFrame or DataFrame with integer columns `x` and `y`, as :func:`load_events` gives it.
    map
        Path of an HDF5 file with a data set `/rectify_map`, such as `rectify_map.h5` of the DSEC data set, or an array.

        **Shape**: (height, width, 2), 480 x 640 for DSEC. **Dtype**: float32; other numbers are converted to it.
        **Meaning**: `map[y, x]` is the place `(x', y')` of pixel `(x, y)` in the rectified image, in pixels.
        **Source**: DSEC, `events/left/rectify_map.h5` of every sequence
        (https://dsec.ifi.uzh.ch/data-format/).

    Returns
    -------
    polars.LazyFrame or polars.DataFrame
        The same kind of frame, with `x` and `y` as Float32; other columns, their order and the order of rows are the
        same. Coordinates may lie outside the image: nothing is dropped.

    Notes
    -----
    Looked up batch by batch with both engines of Polars; memory is that of a batch and the map. Conditions on
    `timestamp` and `polarity` still reach the decoder, those on the rectified `x` and `y` do not: filter pixels before.
    An event outside the map is an error of the query.

    Raises
    ------
    FileNotFoundError, FormatError
        The file cannot be read or is not HDF5.
    ValueError
        There is no such data set, the array has another shape, or `x` and `y` are no integers.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[0:480, 0:640].astype("f4")
    >>> map = np.stack([x + 0.25, y * 0.5], axis=2)
    >>> evlib.rectify(evlib.load_events("recording.raw"), map).select("x", "y").tail(1).collect().rows()
    [(359.25, 49.5)]
    """
    if not isinstance(events, pl.LazyFrame | pl.DataFrame):
        raise ArgumentError(f"`events` is a LazyFrame or DataFrame, found {type(events).__name__}")
    lookup = _Lookup(_load(map))
    place = pl.struct("x", "y").map_batches(
        lookup, return_dtype=pl.Struct({"x": pl.Float32, "y": pl.Float32}), is_elementwise=True
    )
    return events.with_columns(place.struct.unnest())
