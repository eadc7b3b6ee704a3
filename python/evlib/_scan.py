"""The one place that touches Polars' unstable IO hooks: projection, predicate and slice push-down."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.io.plugins import register_io_source

from evlib._arguments import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evlib import _evlib
    from evlib._parquet import ParquetRecording

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


def _bare(node: Any) -> Any:  # noqa: ANN401
    """Strip the names that a predicate gives to its parts."""
    while isinstance(node, dict) and len(node) == 1 and "Alias" in node:
        node, _ = node["Alias"]
    return node


def _is_microseconds(node: Any) -> bool:  # noqa: ANN401
    """Whether an expression is the timestamp as an integer: `dt.total_microseconds()` or `cast(Int64)` of it."""
    if not isinstance(node, dict) or len(node) != 1:
        return False
    ((kind, content),) = node.items()
    if kind == "Function":
        whole = {"TemporalExpr": {"TotalMicroseconds": {"fractional": False}}}
        inner = content["input"]
        return content == {"input": inner, "function": whole} and len(inner) == 1 and _column(inner[0]) == "timestamp"
    if kind == "Cast":
        # Times are not null and their physical type is Int64, so that no way of casting changes or refuses any.
        plain = {"expr": content["expr"], "dtype": {"Literal": "Int64"}, "options": content["options"]}
        known = content["options"] in ("Strict", "NonStrict", "Overflowing")
        return known and content == plain and _column(_bare(content["expr"])) == "timestamp"
    return False


def _column(node: Any) -> str | None:  # noqa: ANN401
    """Name of the event column that an expression is."""
    node = _bare(node)
    name = node.get("Column") if isinstance(node, dict) and len(node) == 1 else None
    return name if isinstance(name, str) and name in SCHEMA else None


def _duration(node: Any) -> int | None:  # noqa: ANN401
    """Microseconds of a literal duration; None for anything not plainly that."""
    value = _scalar(node)
    if value is None or value[0] != "Duration" or not isinstance(value[1], list) or len(value[1]) != 2:
        return None
    count, unit = value[1]
    return count * _TO_US[unit] if type(count) is int and unit in _TO_US else None


def _integer(node: Any) -> int | None:  # noqa: ANN401
    """Value of a literal integer; None for anything not plainly that."""
    node = _bare(node)
    literal = node.get("Literal") if isinstance(node, dict) else None
    if isinstance(literal, dict) and list(literal) == ["Dyn"]:
        dyn = literal["Dyn"]
        number = dyn.get("Int") if isinstance(dyn, dict) else None
        return number if type(number) is int else None
    value = _scalar(node)
    if value is None or value[0] not in ("Int8", "Int16", "Int32", "Int64"):
        return None
    return value[1] if type(value[1]) is int else None


def _scalar(node: Any) -> tuple[str, Any] | None:  # noqa: ANN401
    """Type and value of a typed literal."""
    node = _bare(node)
    literal = node.get("Literal") if isinstance(node, dict) else None
    if not isinstance(literal, dict) or list(literal) != ["Scalar"]:
        return None
    value = literal["Scalar"]
    if isinstance(value, dict) and "value" in value:
        value = value["value"]
    if not isinstance(value, dict) or len(value) != 1:
        return None
    ((dtype, content),) = value.items()
    return dtype, content


def _operand(node: Any) -> tuple[str, Callable[[Any], int | None]] | None:  # noqa: ANN401
    """Event column that an expression stands for, and how a literal that it is compared with is read."""
    if _is_microseconds(_bare(node)):
        return "timestamp", _integer
    name = _column(node)
    if name is None:
        return None
    return name, _duration if name == "timestamp" else _integer


def _compare(bounds: _Bounds, op: str, left: Any, right: Any) -> None:  # noqa: ANN401
    operand, literal = _operand(left), right
    if operand is None:
        operand, literal = _operand(right), left
        op = _FLIPPED.get(op, "")
    if operand is None:
        return
    column, read = operand
    value = read(literal)
    if value is None or not _I64_MIN <= value <= _I64_MAX:
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
    node = _bare(node)
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
    """Tell what the decoder may skip under a predicate.

    Polars serialises the predicate; conjunctions of comparisons with a literal give bounds, of a column as it is or
    of the timestamp as integer microseconds (`dt.total_microseconds()`, `cast(Int64)`); everything else gives
    none. The bounds may keep rows that the predicate refuses, never the other way round.
    """
    bounds = _Bounds()
    if predicate is not None:
        try:
            _walk(bounds, json.loads(predicate.meta.serialize(format="json")))
        except Exception:  # the serialised form is Polars' own and may change: then nothing is skipped
            bounds = _Bounds()
    return bounds.selection(columns)


class Source:
    """A recording that a LazyFrame reads; pickled, and in frames of very many files, only what it takes to open it."""

    def __init__(self, opened: _evlib.Recording | ParquetRecording, *, keep_open: bool = True) -> None:
        self._open: Callable[..., Any]
        self._open, self._arguments = opened.__reduce__()
        self._opened = opened if keep_open else None
        self.format = opened.format

    def recording(self) -> _evlib.Recording | ParquetRecording:
        """Give the recording, opened again if need be."""
        return self._open(*self._arguments) if self._opened is None else self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def scan(source: Source, *, batch_rows: int | None, path: str, label: str | None = None) -> pl.LazyFrame:
    """LazyFrame over one recording; ``label`` adds a constant column ``source`` of that value."""
    schema = SCHEMA if label is None else {**SCHEMA, "source": pl.String()}

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
        constant = [] if label is None or "source" not in wanted else [pl.lit(label).alias("source")]
        only_constant = not selection.columns
        if only_constant:
            selection = replace(selection, columns=["polarity"])
        for batch in source.recording().batches(selection, batch_rows=batch_rows):
            frame = pl.DataFrame(batch)
            if constant:
                frame = frame.with_columns(constant)
            if only_constant:
                frame = frame.drop("polarity")
            yield frame if predicate is None else frame.filter(predicate)

    return _register(generate, schema, f"evlib {source.format} {printable(path)}")


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


def scan_side(source: Source, name: str, *, path: str) -> pl.LazyFrame:
    """LazyFrame over a stream beside the events."""
    schema = dict(pl.DataFrame(source.recording().side(name).empty()).schema)

    def generate(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        del batch_size
        left = n_rows
        for batch in source.recording().side(name):
            if left is not None and left <= 0:
                return
            frame = pl.DataFrame(batch)
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            if predicate is not None:
                frame = frame.filter(predicate)
            yield frame if with_columns is None else frame.select(with_columns)

    return _register(generate, schema, f"evlib {source.format} {printable(name)} {printable(path)}")


_EXTRA = inspect.signature(register_io_source).parameters


def _register(generate: Any, schema: dict[str, pl.DataType], explain_name: str) -> pl.LazyFrame:  # noqa: ANN401
    extra: dict[str, Any] = {"is_pure": True, "explain_name": explain_name}
    known = {name: value for name, value in extra.items() if name in _EXTRA}
    return register_io_source(generate, schema=schema, **known)
