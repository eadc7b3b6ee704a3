"""Words and headers of Prophesee files, and payloads of them as sensors send them."""

from __future__ import annotations

import functools

import numpy as np

_RAW = {
    "evt2": ("2.0", "EVT2", ""),
    "evt21": ("2.1", "EVT21", "endianness=little;"),
    "evt21_legacy": ("2.1", "EVT21", "endianness=legacy;"),
    "evt3": ("3.0", "EVT3", ""),
    "evt4": ("4.0", "EVT4", ""),
}

WORD_BYTES = {"evt2": 4, "evt21": 8, "evt21_legacy": 8, "evt3": 2, "evt4": 4, "dat": 8, "dat1": 8, "dat_trigger": 8}

KINDS = list(WORD_BYTES)
RAW_KINDS = list(_RAW)


def library_format(kind: str) -> str:
    """Name of a kind's format in the library."""
    return {"evt21_legacy": "evt21", "dat1": "dat", "dat_trigger": "dat"}.get(kind, kind)


def header(kind: str, geometry: tuple[int, int] | None = (640, 480)) -> bytes:
    """Bytes before the words."""
    if kind in _RAW:
        evt, name, options = _RAW[kind]
        lines = [f"% evt {evt}"]
        if geometry is None:
            lines.append(f"% format {name};{options}".rstrip(";"))
        else:
            width, height = geometry
            lines.append(f"% format {name};{options}height={height};width={width}")
            lines.append(f"% geometry {width}x{height}")
        return "\n".join([*lines, "% end", ""]).encode()
    lines = ["% Data file containing CD events.", f"% Version {1 if kind == 'dat1' else 2}", "% Date 2024-1-31 12:0:0"]
    if geometry is not None:
        lines += [f"% Height {geometry[1]}", f"% Width {geometry[0]}"]
    return "\n".join([*lines, "% end", ""]).encode() + (b"\x0e\x08" if kind == "dat_trigger" else b"\x0c\x08")


def recording(kind: str, payload: bytes, geometry: tuple[int, int] | None = (640, 480)) -> bytes:
    """A whole file."""
    return header(kind, geometry) + payload


def pack(kind: str, words: list[int]) -> bytes:
    """Words as they stand in a file of this kind."""
    if kind == "evt21_legacy":
        words = [(word >> 32 | word << 32) & (2**64 - 1) for word in words]
    return b"".join(word.to_bytes(WORD_BYTES[kind], "little") for word in words)


# One word each, by kind. The time of a time word is in its own units, `low` the low bits of the time.


def time_word(kind: str, value: int) -> int:
    match kind:
        case "evt2":
            return 0x8 << 28 | value % 2**28
        case "evt4":
            return 0xE << 28 | value % 2**28
        case "evt21" | "evt21_legacy":
            return 0x8 << 60 | (value % 2**28) << 32
        case "evt3":
            return 0x8 << 12 | value % 2**12
    raise ValueError(kind)


def cd2(x: int, y: int, low: int, on: int) -> int:
    return on << 28 | low << 22 | x << 11 | y


def cd4(x: int, y: int, low: int, on: int) -> int:
    return (0xA + on) << 28 | low << 22 | x << 11 | y


def vector4(x: int, y: int, low: int, on: int) -> int:
    return (0xC + on) << 28 | low << 22 | x << 11 | y


def vector21(x: int, y: int, low: int, on: int, mask: int) -> int:
    return on << 60 | low << 54 | x << 43 | y << 32 | mask


def cd_dat(t: int, x: int, y: int, on: int) -> int:
    return t % 2**32 | (x | y << 14 | on << 28) << 32


def cd_dat1(t: int, x: int, y: int, on: int) -> int:
    return t % 2**32 | (x | y << 9 | on << 17) << 32


def trigger_dat(t: int, number: int, on: int) -> int:
    return t % 2**32 | (on | number << 26) << 32


@functools.cache
def sensor_stream(
    kind: str, events: int, *, seed: int = 0, geometry: tuple[int, int] = (640, 480), start_us: int = 5_000_000
) -> bytes:
    """Payload of about `events` events as a sensor sends it: a few events per 16 us, a time word each 16 us.

    Some events are outside the geometry, some words are triggers, monitoring or of unknown types; EVT3 has vector
    groups, new rows at every microsecond with events, and times without events.
    """
    rng = np.random.default_rng(seed)
    width, height = geometry
    out: list[int] = []
    count, t = 0, start_us
    while count < events:
        if kind in _RAW:
            out.append(time_word(kind, t >> (12 if kind == "evt3" else 6)))
        for low in sorted(rng.integers(0, 16, rng.integers(0, 6)).tolist()):
            now = t + low
            x, y, on = int(rng.integers(0, width)), int(rng.integers(0, height)), int(rng.integers(0, 2))
            if rng.random() < 0.01:
                x = width + int(rng.integers(0, 20))
            mask = int(rng.integers(0, 2**32)) & int(rng.integers(0, 2**32))
            match kind:
                case "evt2":
                    out.append(cd2(x, y, now & 63, on))
                    if rng.random() < 0.02:
                        out += [0xE << 28 | (now & 63) << 22 | 0x16, 0xF << 28 | 99]
                case "evt4" if rng.random() < 0.3:
                    out += [vector4(x & ~31, y, now & 63, on), mask]
                case "evt4":
                    out.append(cd4(x, y, now & 63, on))
                case "evt21" | "evt21_legacy":
                    out.append(vector21(x & ~31, y, now & 63, on, mask))
                case "evt3":
                    out += [0x6 << 12 | now & 0xFFF, y]
                    if rng.random() < 0.3:
                        base = min(x, width - 32)
                        out += [0x3 << 12 | on << 11 | base, 0x4 << 12 | mask & 0xFFF]
                        out += [0x4 << 12 | mask >> 12 & 0xFFF, 0x5 << 12 | mask >> 24]
                    else:
                        out += [0x2 << 12 | on << 11 | x] * int(rng.integers(1, 3))
                    if rng.random() < 0.02:
                        out += [0xE016, 0xF4D2, 0xF000, 0x7000]
                case "dat":
                    out.append(cd_dat(now, x, y, on))
                case "dat1":
                    out.append(cd_dat1(now, x % 304, y % 240, on))
                case "dat_trigger":
                    out.append(trigger_dat(now, int(rng.integers(0, 8)), on))
            count += mask.bit_count() if "evt21" in kind else 1
            if kind in _RAW and rng.random() < 0.01:
                number, value = int(rng.integers(0, 8)), int(rng.integers(0, 2))
                match kind:
                    case "evt2":
                        out.append(0xA << 28 | (now & 63) << 22 | number << 8 | value)
                    case "evt4":
                        out.append(0x9 << 28 | (now & 63) << 22 | number << 8 | value)
                    case "evt3":
                        out.append(0xA << 12 | number << 8 | value)
                    case _:
                        out.append(0xA << 60 | (now & 63) << 54 | number << 40 | value << 32)
        t += 16
    return pack(kind, out)
