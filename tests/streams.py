"""Slow, plain decoders and encoders of Event Stream, ATIS `.bin` and text, written from the format sheet."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

Row = tuple[int, int, int, int]
"""x, y, time in microseconds, polarity."""


def es_header(kind: int, width: int = 320, height: int = 240, version: tuple[int, int, int] = (2, 0, 0)) -> bytes:
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little") if kind in (1, 2, 4) else b""
    return b"Event Stream" + bytes(version) + bytes([kind]) + size


def es(kind: int, payload: bytes, width: int = 320, height: int = 240) -> tuple[list[Row], dict[str, int]]:
    """Rows and problems of a DVS (1) or ATIS (2) payload.

    At four records outside in a row, the next place with records inside is searched for within 1 MiB.
    """
    rows: list[Row] = []
    t = at = outside = lost = blind = 0
    row: list[tuple[int, int, int]] = []
    while at < len(payload):
        head = payload[at]
        if (ahead := es_alone(kind, head)) is not None:
            t += ahead
            at += 1
            row = []
            continue
        record = payload[at : at + 5]
        if len(record) < 5:
            return rows, problems(OUT_OF_BOUNDS=outside, LOST_SYNC=lost, TRUNCATED=1)
        x, y = int.from_bytes(record[1:3], "little"), int.from_bytes(record[3:5], "little")
        inside = x < width and y < height
        row = [] if inside else [*row, (at, t, outside)]
        outside += not inside
        t += head >> kind
        on = head & 1 if kind == 1 else head >> 1 & 1
        if inside and (kind == 1 or not head & 1):
            rows.append((x, height - 1 - y, t, 1 if on else -1))
        at += 5
        if len(row) == 4:
            start, *before = row[0]
            row = []
            if start < blind:
                continue
            places = range(start + 1, min(len(payload), start + 1 + 2**20))
            place = next((at for at in places if es_place(kind, payload, at, width, height)), None)
            if place is None:
                blind = start + 2**20
            else:
                lost += -(-(place - start) // 5)
                at, (t, outside) = place, before
    return rows, problems(OUT_OF_BOUNDS=outside, LOST_SYNC=lost)


def es_alone(kind: int, head: int) -> int | None:
    """Microseconds of a head byte without a record."""
    if kind == 1:
        return 127 * (head & 1) if head >= 0xFE else None
    return 63 * (head & 3) if head >= 0xFC else None


def es_place(kind: int, payload: bytes, at: int, width: int, height: int) -> bool:
    """Whether 16 records inside follow, or 4 or more and then the end."""
    inside = 0
    while inside < 16:
        if at < len(payload) and es_alone(kind, payload[at]) is not None:
            at += 1
            continue
        if at + 5 > len(payload):
            return inside >= 4
        x, y = int.from_bytes(payload[at + 1 : at + 3], "little"), int.from_bytes(payload[at + 3 : at + 5], "little")
        if x >= width or y >= height:
            return False
        inside += 1
        at += 5
    return True


def atis(data: bytes, width: int = 256, height: int = 240) -> tuple[list[Row], dict[str, int]]:
    rows: list[Row] = []
    late = outside = 0
    for at in range(0, len(data) // 5 * 5, 5):
        x, y, a, b, c = data[at : at + 5]
        if y == 240:
            late += 8192
        elif x < width and y < height:
            rows.append((x, y, ((a & 127) << 16 | b << 8 | c) + late, 1 if a >> 7 else -1))
        else:
            outside += 1
    return rows, problems(OUT_OF_BOUNDS=outside, TRUNCATED=int(len(data) % 5 > 0))


def atis_record(x: int, y: int, t: int, p: int) -> bytes:
    return bytes([x, y, (p > 0) << 7 | t >> 16, t >> 8 & 255, t & 255])


def problems(**counts: int) -> dict[str, int]:
    return {code: count for code, count in counts.items() if count}


SHIFT = {"ns": -3, "us": 0, "ms": 3, "s": 6}
POLARITIES = {"1": 1, "+": 1, "true": 1, "on": 1, "0": -1, "-1": -1, "-": -1, "false": -1, "off": -1}


def whole(text: str, shift: int = 0) -> int | None:
    """The decimal number times 10^shift, rounded half up, away from zero."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", text):
        return None
    try:
        value = int(Decimal(text).scaleb(shift).quantize(Decimal(1), rounding=ROUND_HALF_UP))
    except InvalidOperation:
        return None
    return value if -(2**63) <= value < 2**63 else None


def text(lines: str, columns: str = "t x y p", separator: str | None = None, unit: str = "s") -> tuple[list[Row], int]:
    """Rows and the number of lines that are none; a separator of None is blanks."""
    rows: list[Row] = []
    bad = 0
    order = columns.split()
    for line in lines.split("\n"):
        line = line.strip()
        if not line or line[0] in "#%":
            continue
        if "\r" in line:
            bad += 1
            continue
        fields = dict(zip(order, (field.strip() for field in line.split(separator)), strict=False))
        t, x, y = whole(fields.get("t", ""), SHIFT[unit]), whole(fields.get("x", "")), whole(fields.get("y", ""))
        p = POLARITIES.get(fields.get("p", "").lower())
        if t is None or x is None or y is None or p is None:
            bad += 1
        else:
            rows.append((x, y, t, p))
    return rows, bad
