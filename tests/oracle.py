"""Slow, plain decoders of Prophesee RAW and DAT payloads, written from the format sheet: what is right by definition.

One word after the other, no vectors, no threads, no batches, no recovery. Rules of all formats: a step back by half
the range of the time counter or more is a wrap, every other step is taken as it stands, a small step back across a
wrap included; events before the first time word, before the first row or vector base (EVT3) or outside the geometry
are dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SMALL_US = 1 << 19
"""Largest step back across a wrap, in microseconds; a larger one goes ahead by most of the period."""


@dataclass
class Decoded:
    """What a payload holds."""

    events: list[tuple[int, int, int, int]] = field(default_factory=list)
    """x, y, time in microseconds, polarity."""
    triggers: list[tuple[int, int, int]] = field(default_factory=list)
    """id, polarity, time in microseconds."""
    problems: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        return {code: count for code, count in self.problems.items() if count}


class Clock:
    """The time counter of `bits` bits, in steps of `1 << shift` microseconds."""

    def __init__(self, bits: int, shift: int) -> None:
        self.shift = shift
        self.period = 1 << (bits + shift)
        self.base: int | None = None

    def tick(self, raw: int) -> None:
        value = raw << self.shift
        if self.base is None:
            self.base = value
            return
        now = self.base // self.period * self.period + value
        if self.base - now >= self.period // 2:
            now += self.period
        elif now >= self.period and now - self.base >= self.period - SMALL_US:
            now -= self.period
        self.base = now


def words(payload: bytes, size: int, found: Decoded) -> list[int]:
    whole = len(payload) // size * size
    if whole < len(payload):
        found.problems["TRUNCATED"] += 1
    return [int.from_bytes(payload[at : at + size], "little") for at in range(0, whole, size)]


class Pixels:
    """Where events go, if they are inside."""

    def __init__(self, found: Decoded, geometry: tuple[int, int] | None, coordinates: int = 2048) -> None:
        self.found = found
        self.width, self.height = geometry or (coordinates, coordinates)

    def event(self, x: int, y: int, t: int, *, on: int) -> None:
        if x < self.width and y < self.height:
            self.found.events.append((x, y, t, 1 if on else -1))
        else:
            self.found.problems["OUT_OF_BOUNDS"] += 1


def evt2(payload: bytes, geometry: tuple[int, int] | None) -> Decoded:
    found, clock = Decoded(), Clock(28, 6)
    pixels = Pixels(found, geometry)
    for word in words(payload, 4, found):
        kind, low = word >> 28, word >> 22 & 0x3F
        if kind in (0x0, 0x1):
            if clock.base is None:
                found.problems["BEFORE_FIRST_TIME"] += 1
            else:
                pixels.event(word >> 11 & 0x7FF, word & 0x7FF, clock.base + low, on=kind)
        elif kind == 0x8:
            clock.tick(word & 0x0FFF_FFFF)
        elif kind == 0xA:
            if clock.base is None:
                found.problems["TRIGGER_BEFORE_FIRST_TIME"] += 1
            else:
                found.triggers.append((word >> 8 & 0x1F, 1 if word & 1 else -1, clock.base + low))
    return found


def evt21(payload: bytes, geometry: tuple[int, int] | None, *, legacy: bool = False) -> Decoded:
    found, clock = Decoded(), Clock(28, 6)
    pixels = Pixels(found, geometry)
    for stored in words(payload, 8, found):
        word = (stored >> 32 | stored << 32) & (2**64 - 1) if legacy else stored
        kind, low = word >> 60, word >> 54 & 0x3F
        if kind in (0x0, 0x1):
            for bit in range(32):
                if word >> bit & 1:
                    if clock.base is None:
                        found.problems["BEFORE_FIRST_TIME"] += 1
                    else:
                        pixels.event((word >> 43 & 0x7FF) + bit, word >> 32 & 0x7FF, clock.base + low, on=kind)
        elif kind == 0x8:
            clock.tick(word >> 32 & 0x0FFF_FFFF)
        elif kind == 0xA:
            if clock.base is None:
                found.problems["TRIGGER_BEFORE_FIRST_TIME"] += 1
            else:
                found.triggers.append((word >> 40 & 0x1F, 1 if word >> 32 & 1 else -1, clock.base + low))
    return found


def evt21_legacy(payload: bytes, geometry: tuple[int, int] | None) -> Decoded:
    return evt21(payload, geometry, legacy=True)


def evt3(payload: bytes, geometry: tuple[int, int] | None) -> Decoded:
    found, clock = Decoded(), Clock(12, 12)
    pixels = Pixels(found, geometry)
    high = base = row = None
    low, base_on, is_cd = 0, 0, True

    def event(x: int, on: int) -> None:
        if not is_cd:
            return
        if clock.base is None:
            found.problems["BEFORE_FIRST_TIME"] += 1
        elif row is None:
            found.problems["BEFORE_FIRST_ROW"] += 1
        else:
            pixels.event(x, row, clock.base + low, on=on)

    for word in words(payload, 2, found):
        kind, content = word >> 12, word & 0xFFF
        if kind == 0x0:
            row, is_cd = content, True  # with the origin bit: rows of another camera are outside
        elif kind == 0x1:
            is_cd = False
        elif kind == 0x2:
            event(content & 0x7FF, content >> 11)
        elif kind == 0x3:
            base, base_on = content & 0x7FF, content >> 11
        elif kind in (0x4, 0x5):
            columns = 12 if kind == 0x4 else 8
            for bit in range(columns):
                if not content >> bit & 1:
                    continue
                if base is None and is_cd and clock.base is not None and row is not None:
                    found.problems["BEFORE_FIRST_BASE"] += 1
                else:
                    event((base or 0) + bit, base_on)
            if base is not None:
                base += columns
        elif kind == 0x6:
            low = content
        elif kind == 0x8:
            if content != high:
                low = 0
            high = content
            clock.tick(content)
        elif kind == 0xA:
            if clock.base is None:
                found.problems["TRIGGER_BEFORE_FIRST_TIME"] += 1
            else:
                found.triggers.append((content >> 8, 1 if content & 1 else -1, clock.base + low))
    return found


def evt4(payload: bytes, geometry: tuple[int, int] | None) -> Decoded:
    found, clock = Decoded(), Clock(28, 6)
    pixels = Pixels(found, geometry)
    head = None

    def event(word: int, bit: int) -> None:
        if clock.base is None:
            found.problems["BEFORE_FIRST_TIME"] += 1
        else:
            low = word >> 22 & 0x3F
            pixels.event((word >> 11 & 0x7FF) + bit, word & 0x7FF, clock.base + low, on=word >> 28 & 1)

    for word in words(payload, 4, found):
        kind = word >> 28
        if head is not None:
            for bit in range(32):
                if word >> bit & 1:
                    event(head, bit)
            head = None
        elif kind in (0xA, 0xB):
            event(word, 0)
        elif kind in (0xC, 0xD):
            head = word
        elif kind == 0xE:
            clock.tick(word & 0x0FFF_FFFF)
        elif kind == 0x9:
            if clock.base is None:
                found.problems["TRIGGER_BEFORE_FIRST_TIME"] += 1
            else:
                found.triggers.append((word >> 8 & 0x1F, 1 if word & 1 else -1, clock.base + (word >> 22 & 0x3F)))
    if head is not None:  # a vector without its mask is not a whole word
        found.problems["TRUNCATED"] = 1
    return found


def dat(
    payload: bytes, geometry: tuple[int, int] | None, *, version: int = 2, trigger: bool = False, size: int = 8
) -> Decoded:
    """Records after the bytes of type and size."""
    found, clock = Decoded(), Clock(32, 0)
    pixels = Pixels(found, geometry, 1 << 14)
    for record in words(payload, size, found):
        clock.tick(record & 0xFFFF_FFFF)
        assert clock.base is not None
        word = record >> 32 & 0xFFFF_FFFF
        if trigger:
            found.triggers.append((word >> 26, 1 if word & 0xF else -1, clock.base))
        elif version == 1:
            pixels.event(word & 0x1FF, word >> 9 & 0xFF, clock.base, on=word >> 17 & 1)
        else:
            pixels.event(word & 0x3FFF, word >> 14 & 0x3FFF, clock.base, on=word >> 28 & 1)
    return found


def dat1(payload: bytes, geometry: tuple[int, int] | None) -> Decoded:
    return dat(payload, geometry, version=1)


def dat_trigger(payload: bytes, geometry: tuple[int, int] | None) -> Decoded:
    return dat(payload, geometry, trigger=True)


DECODERS = {
    "evt2": evt2,
    "evt21": evt21,
    "evt21_legacy": evt21_legacy,
    "evt3": evt3,
    "evt4": evt4,
    "dat": dat,
    "dat1": dat1,
    "dat_trigger": dat_trigger,
}
"""Decoder of each kind of payload."""
