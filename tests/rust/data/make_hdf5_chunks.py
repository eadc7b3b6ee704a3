"""Makes `hdf5_chunks.bin`: raw chunks as h5py and hdf5plugin write them, for the unit tests of `src/format/hdf5`.

Needs h5py, hdf5plugin and numpy. The file is one zlib stream of cases, all numbers little-endian:

* u8 length and bytes of the case's name,
* u8 number of filters, and for each u16 id, u8 number of values, u32 values,
* u32 filter mask, u32 element size, u8 kind of data, u32 bytes decoded, u32 bytes of the raw chunk, the raw chunk.

The decoded bytes are not in the file: `content` makes them, and the test has the same function.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import zlib
from functools import cache
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers the filters)
import numpy as np

DEFLATE, SHUFFLE, FLETCHER32, LZF, BLOSC, LZ4, BITSHUFFLE, ZSTD = 1, 2, 3, 32000, 32001, 32004, 32008, 32015
RAMP, NOISE, RUNS = range(3)


@cache
def content(kind: int, element: int, size: int) -> bytes:
    """Elements that grow unevenly, bytes that do not compress, or runs with repeats at all distances."""
    if kind == RAMP:
        i = np.arange(size) // element
        shift = np.minimum(8 * (np.arange(size) % element), 56).astype(np.uint64)
        return ((i // 3 * 5 + i // 89).astype(np.uint64) >> shift & np.uint64(255)).astype(np.uint8).tobytes()
    out = bytearray()
    state = 0x9E3779B9
    while len(out) < size:
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        top, low = state >> 24, state & 0xFFFF
        if kind == NOISE or len(out) < 8:
            out.append(top)
        elif top < 96:
            out += bytes([low & 255]) * (top % 40 + 1)
        else:
            distance = low % len(out) + 1
            for _ in range(top % 64 + 1):
                out.append(out[-distance])
    return bytes(out[:size])


def store(filters: list[tuple[int, list[int]]], element: int, data: bytes) -> tuple[int, bytes] | None:
    """The mask and the chunk of `data` as the library stores it through `filters`, if it can read that itself."""
    dtype = np.dtype({1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}.get(element, f"V{element}"))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((len(data) // element,))
    for number, values in filters:
        plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL, tuple(values))
    array = np.frombuffer(data, dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chunk.h5"
        with h5py.File(path, "w") as file:
            made = h5py.h5d.create(
                file.id, b"data", h5py.h5t.py_create(dtype), h5py.h5s.create_simple(array.shape), plist
            )
            made.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
        with h5py.File(path) as file:
            made = file["data"].id
            mask, raw = made.read_direct_chunk((0,))
            try:
                assert file["data"][()].tobytes() == data, filters
            except OSError:
                return None
            for at, (number, _) in enumerate(filters):
                # What the file says, which the filter may have filled in.
                filters[at] = (number, list(made.get_create_plist().get_filter(at)[2]))
    return mask, raw


def cases(full: bool):
    """Name, filters, element size, kind of data, elements; and what to tell Blosc."""
    elements = [1, 2, 4, 8, 16, 3]
    long = 30_001 if full else 0
    for element in elements:
        for number, values in [(DEFLATE, [4]), (LZF, []), (ZSTD, [3]), (LZ4, [0]), (LZ4, [512])]:
            for kind, count in [
                (RUNS, 1),
                (RAMP, 100),
                (RUNS, 700 // element),
                (NOISE, 96 // element),
                (RUNS, long),
                (RAMP, long),
                (NOISE, long),
            ]:
                yield f"filter {number}", [(number, values)], element, kind, count, {}
                if element > 1:
                    yield f"shuffle and {number}", [(SHUFFLE, []), (number, values)], element, kind, count, {}
        for count in [1, 33, 600 // element, long]:
            yield "shuffle", [(SHUFFLE, [])], element, RAMP, count, {}
            yield "fletcher32", [(FLETCHER32, [])], element, RUNS, count, {}
            yield "sum last", [(SHUFFLE, []), (DEFLATE, [9]), (FLETCHER32, [])], element, RAMP, count, {}
            yield "sum first", [(FLETCHER32, []), (SHUFFLE, []), (DEFLATE, [9])], element, RAMP, count, {}
            yield "sum before LZF", [(FLETCHER32, []), (LZF, [])], element, RUNS, count, {}
            yield "deflated twice", [(DEFLATE, [1]), (DEFLATE, [9])], element, RUNS, count, {}
        for codec in [0, 2, 3]:
            for block, count in [
                (0, 7),
                (0, 8),
                (8, 77),
                (16, 703 // element),
                (0, 1600 // element),
                (0, long),
                (1024, long),
            ]:
                for kind in [RAMP, RUNS] if full or block == 16 else [RAMP]:
                    yield f"bitshuffle {codec}", [(BITSHUFFLE, [block, codec])], element, kind, count, {}
        for codec in range(6):
            for shuffle in range(3):
                for kind, count, told in [
                    (RAMP, 3, {}),
                    (NOISE, 47, {}),
                    (RAMP, 2100 // element, {"BLOSC_BLOCKSIZE": "1024", "BLOSC_SPLITMODE": "NEVER"}),
                    (
                        RAMP if element > 2 else RUNS,
                        2200 // element,
                        {"BLOSC_BLOCKSIZE": f"{128 * element}", "BLOSC_SPLITMODE": "ALWAYS"},
                    ),
                    (RUNS, 1501 // element, {"BLOSC_BLOCKSIZE": f"{256 * element}"}),
                    (RAMP, long, {}),
                    (RUNS, long, {}),
                    (NOISE, long, {}),
                    (RAMP, long, {"BLOSC_SPLITMODE": "ALWAYS"}),
                    (RUNS, long, {"BLOSC_SPLITMODE": "NEVER", "BLOSC_BLOCKSIZE": "131072"}),
                ]:
                    values = [2, 2, element, count * element, 5, shuffle, codec]
                    # The small fixture has each codec with all sizes of element, but not all shuffles of each.
                    if full or (element == (8 if codec % 2 else 2) and shuffle) or (codec + shuffle + element) % 6 == 0:
                        yield f"blosc {codec} shuffle {shuffle}", [(BLOSC, values)], element, kind, count, told


def main() -> None:
    path, full = (Path(sys.argv[1]), True) if sys.argv[1:] else (Path(__file__).with_name("hdf5_chunks.bin"), False)
    out = bytearray()
    number = masked = 0
    for name, filters, element, kind, count, told in cases(full):
        if not count:
            continue
        for variable in ["BLOSC_BLOCKSIZE", "BLOSC_SPLITMODE"]:
            os.environ.pop(variable, None)
        os.environ.update(told)
        data = content(kind, element, count * element)
        stored = store(filters, element, data)
        if stored is None:
            # Blosc that is told to split always does so where it does not when it decodes.
            sys.stdout.write(f"left out: {name}, {count} elements of {element}, {told}\n")
            continue
        mask, raw = stored
        # What does not compress is stored as it is: a few of these are enough.
        masked += mask != 0
        if mask and masked > 10:
            continue
        out += struct.pack("<B", len(name)) + name.encode() + struct.pack("<B", len(filters))
        for filter_id, values in filters:
            out += struct.pack(f"<HB{len(values)}I", filter_id, len(values), *values)
        out += struct.pack("<IIBII", mask, element, kind, len(data), len(raw)) + raw
        number += 1
    path.write_bytes(zlib.compress(bytes(out), 9))
    sys.stdout.write(f"{number} cases, {len(out)} bytes, {path.stat().st_size} compressed\n")


if __name__ == "__main__":
    main()
