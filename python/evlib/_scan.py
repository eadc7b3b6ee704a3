"""The one place that touches Polars' unstable IO hooks: projection, predicate and slice push-down."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.io.plugins import register_io_source

from evlib import _evlib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMA: dict[str, pl.DataType] = {
    "x": pl.Int16(),
    "y": pl.Int16(),
    "timestamp": pl.Duration("us"),
    "polarity": pl.Int8(),
}
"""Columns of events, in order."""

TRIGGER_SCHEMA: dict[str, pl.DataType] = {"id": pl.UInt8(), "polarity": pl.Int8(), "timestamp": pl.Duration("us")}
"""Columns of external triggers, in order."""

_I64_MIN, _I64_MAX = -(2**63), 2**63 - 1
_I16_MAX = 2**15 - 1


@dataclass(frozen=True)
class Selection:
    """What the decoder is asked for; the fields are those of the extension module."""

    columns: list[str]
    time_range: tuple[int | None, int | None] = (None, None)
    region: tuple[int, int, int, int] | None = None
    polarity: int | None = None
    limit: int | None = None


@dataclass
class _Bounds:
    """Inclusive bounds that every row of a query meets."""

    x: tuple[int, int] = (0, _I16_MAX)
    y: tuple[int, int] = (0, _I16_MAX)
    timestamp: tuple[int, int] = (_I64_MIN, _I64_MAX)
    polarity: tuple[int, int] = (-1, 1)

    def narrow(self, column: str, low: int, high: int) -> None:
        old_low, old_high = getattr(self, column)
        setattr(self, column, (max(low, old_low), min(high, old_high)))

    def selection(self, columns: list[str]) -> Selection:
        (x0, x1), (y0, y1), (t0, t1), (p0, p1) = self.x, self.y, self.timestamp, self.polarity
        empty = x0 > x1 or y0 > y1 or t0 > t1 or p0 > p1
        if empty:
            return Selection(columns, limit=0)
        all_pixels = (x0, y0) == (0, 0) and (x1, y1) == (_I16_MAX, _I16_MAX)
        return Selection(
            columns,
            time_range=(None if t0 == _I64_MIN else t0, None if t1 == _I64_MAX else t1 + 1),
            region=None if all_pixels else (x0, y0, x1 - x0 + 1, y1 - y0 + 1),
            polarity=p0 if p0 == p1 and p0 != 0 else None,
        )


_FLIPPED = {"Lt": "Gt", "LtEq": "GtEq", "Gt": "Lt", "GtEq": "LtEq", "Eq": "Eq"}
_TO_US = {"Microseconds": 1, "Milliseconds": 1000}


def _column(node: Any) -> str | None:  # noqa: ANN401
    """Name of the event column that an expression is, in the unit of the decoder."""
    name = node.get("Column") if isinstance(node, dict) else None
    return name if isinstance(name, str) and name in SCHEMA else None


def _literal(node: Any, column: str) -> int | None:  # noqa: ANN401
    """Value of a literal as the decoder compares it with the column; None for anything not plainly that."""
    literal = node.get("Literal") if isinstance(node, dict) else None
    if not isinstance(literal, dict) or len(literal) != 1:
        return None
    (kind, value), *_ = literal.items()
    if kind == "Dyn":
        number = value.get("Int") if isinstance(value, dict) else None
        return number if type(number) is int and column != "timestamp" else None
    if kind != "Scalar" or not isinstance(value, dict):
        return None
    if "value" in value:
        value = value["value"]
    if not isinstance(value, dict) or len(value) != 1:
        return None
    (dtype, number), *_ = value.items()
    if dtype == "Duration":
        if column != "timestamp" or not isinstance(number, list) or len(number) != 2:
            return None
        count, unit = number
        return count * _TO_US[unit] if type(count) is int and unit in _TO_US else None
    if column == "timestamp" or dtype not in ("Int8", "Int16", "Int32", "Int64"):
        return None
    return number if type(number) is int else None


def _compare(bounds: _Bounds, op: str, left: Any, right: Any) -> None:  # noqa: ANN401
    column, literal_node = _column(left), right
    if column is None:
        column, literal_node = _column(right), left
        op = _FLIPPED.get(op, "")
    if column is None:
        return
    value = _literal(literal_node, column)
    if value is None:
        return
    match op:
        case "Eq":
            bounds.narrow(column, value, value)
        case "Lt":
            bounds.narrow(column, _I64_MIN, value - 1)
        case "LtEq":
            bounds.narrow(column, _I64_MIN, value)
        case "Gt":
            bounds.narrow(column, value + 1, _I64_MAX)
        case "GtEq":
            bounds.narrow(column, value, _I64_MAX)
        case _:
            pass


def _walk(bounds: _Bounds, node: Any) -> None:  # noqa: ANN401
    """Narrow the bounds by what a predicate surely demands; leave them alone at anything not understood."""
    if not isinstance(node, dict) or len(node) != 1:
        return
    (kind, content), *_ = node.items()
    if kind == "BinaryExpr":
        if content["op"] in ("And", "LogicalAnd"):
            _walk(bounds, content["left"])
            _walk(bounds, content["right"])
        else:
            _compare(bounds, content["op"], content["left"], content["right"])
    elif kind == "Function" and "IsBetween" in str(content.get("function")):
        closed = content["function"]["Boolean"]["IsBetween"]["closed"]
        value, low, high = content["input"]
        _compare(bounds, "GtEq" if closed in ("Both", "Left") else "Gt", value, low)
        _compare(bounds, "LtEq" if closed in ("Both", "Right") else "Lt", value, high)


def analyse(predicate: pl.Expr | None, columns: list[str]) -> Selection:
    """What the decoder may skip under a predicate.

    Polars serialises the predicate; conjunctions of comparisons of a column with a literal give bounds, everything
    else gives none. The bounds may keep rows that the predicate refuses, never the other way round.
    """
    bounds = _Bounds()
    if predicate is not None:
        try:
            _walk(bounds, json.loads(predicate.meta.serialize(format="json")))
        except Exception:  # noqa: BLE001  the serialised form is Polars' own and may change: then nothing is skipped
            bounds = _Bounds()
    return bounds.selection(columns)


def scan(
    opened: Callable[[], _evlib.Recording], *, batch_rows: int | None, explain_name: str, source: str | None = None
) -> pl.LazyFrame:
    """LazyFrame over one recording; ``source`` adds a constant column of that value."""
    schema = SCHEMA if source is None else {**SCHEMA, "source": pl.String()}

    def generate(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del batch_size  # a hint: batches are split again by the engine
        wanted = list(schema) if with_columns is None else with_columns
        selection = analyse(predicate, [name for name in SCHEMA if name in wanted])
        # A row limit counts rows before the predicate, as Polars gives it.
        if n_rows is not None and predicate is not None:
            selection = Selection(selection.columns, limit=n_rows)
        elif n_rows is not None:
            selection = replace(selection, limit=n_rows if selection.limit is None else min(n_rows, selection.limit))
        constant = [] if source is None or "source" not in wanted else [pl.lit(source).alias("source")]
        only_constant = not selection.columns
        if only_constant:
            selection = replace(selection, columns=["polarity"])
        for batch in opened().batches(selection, batch_rows=batch_rows):
            frame = pl.DataFrame(batch)
            if constant:
                frame = frame.with_columns(constant)
            if only_constant:
                frame = frame.drop("polarity")
            yield frame if predicate is None else frame.filter(predicate)

    return _register(generate, schema, explain_name)


def scan_frame(make: Callable[[], pl.DataFrame], schema: dict[str, pl.DataType], *, explain_name: str) -> pl.LazyFrame:
    """LazyFrame over a table that is made when it is first needed."""

    def generate(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del batch_size
        frame = make()
        if n_rows is not None:
            frame = frame.head(n_rows)
        if predicate is not None:
            frame = frame.filter(predicate)
        yield frame if with_columns is None else frame.select(with_columns)

    return _register(generate, schema, explain_name)


_EXTRA = inspect.signature(register_io_source).parameters


def _register(generate: Any, schema: dict[str, pl.DataType], explain_name: str) -> pl.LazyFrame:  # noqa: ANN401
    extra = {"is_pure": True, "explain_name": explain_name}
    known = {name: value for name, value in extra.items() if name in _EXTRA}
    return register_io_source(generate, schema=schema, **known)


