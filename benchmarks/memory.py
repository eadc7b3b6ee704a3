"""Whether reading an array from the observation log takes memory: a process of its own, with a codec to be judged.

    python benchmarks/memory.py write FOLDER --codec numpy --bytes 80000000
    python benchmarks/memory.py read FOLDER --reads 5

`read` prints a line of JSON: what the reads took, and what in it is not as a view has to be (`violations`). Peak memory
would prove nothing, as the writing before it, or the import, may have peaked higher. So anonymous memory is taken
before opening and after reading, with the arrays alive; minor faults say that no page of the file was touched either;
and mappings are counted once the arrays are gone. A codec that copies is found out by each of the first two.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
from worker import anonymous_bytes

from evlib.codecs import NumpyArrayCodec, PickleCodec, register
from evlib.oblog import ObLog

FAULTS_ALLOWED = 4
"""Of opening and all reads: pages of the file that hold what is looked at, and what Python allocates."""
MEMORY_ALLOWED = 1 << 20
"""The system counts pages of each processor for itself, and adds them up now and then."""


@register
class CopyCodec:
    """Arrays in the same format, copied when they are read: what a zero-copy codec must not be mistaken for."""

    name, version, aligned = "copying-numpy", 1, 0

    def encode(self, item: Any) -> memoryview:
        return NumpyArrayCodec().encode(item)

    def decode(self, payload: memoryview) -> np.ndarray[Any, Any]:
        return NumpyArrayCodec().decode(payload).copy()


CODECS = {"numpy": NumpyArrayCodec, "copy": CopyCodec, "pickle": PickleCodec}


def array(size: int) -> np.ndarray[Any, Any]:
    return np.arange(size // 8, dtype=np.float64)


def write(folder: Path, codec: str, size: int) -> None:
    """Write a channel with the array, and one with a small array, by which everything is loaded."""
    with ObLog(folder) as oblog:
        for channel, length in (("array", size), ("small", 8_000)):
            oblog.get_writer(channel, CODECS[codec]())(array(length))


def mappings(folder: Path) -> int:
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def read(folder: Path, reads: int) -> dict[str, Any]:
    """Read the array so many times, and say what it took."""
    oblog = ObLog(folder)
    for _ in range(10):
        oblog.channel("small", allow_pickle=True)[0]
        anonymous_bytes()
    gc.collect()
    found: list[Any] = [None] * reads
    gc.disable()
    memory_before, faults_before = anonymous_bytes()[0], faults()
    channel = oblog.channel("array", allow_pickle=True)
    for number in range(reads):
        found[number] = channel[0][1]
    faults_after, memory_after = faults(), anonymous_bytes()[0]
    gc.enable()

    answer: dict[str, Any] = {
        "array_bytes": found[0].nbytes,
        "reads": reads,
        "anonymous_bytes": memory_after - memory_before,
        "minor_faults": faults_after - faults_before,
        "views": all(item.base is not None and not item.flags.owndata for item in found),
        "read_only": not any(item.flags.writeable for item in found),
        "one_address": len({item.__array_interface__["data"][0] for item in found}) == 1,
        "mapped": mappings(folder),
        "right": all(np.array_equal(item, array(found[0].nbytes)) for item in found),
    }
    del found, channel
    gc.collect()
    answer["mapped_after"] = mappings(folder)
    answer["violations"] = violations(answer)
    return answer


def violations(answer: dict[str, Any]) -> list[str]:
    """What of the answer is not as it has to be for views."""
    wanted = {
        "anonymous_bytes": answer["anonymous_bytes"] <= MEMORY_ALLOWED,
        "minor_faults": answer["minor_faults"] <= FAULTS_ALLOWED,
        "views": answer["views"],
        "read_only": answer["read_only"],
        "one_address": answer["one_address"],
        "mapped": answer["mapped"] == 1,
        "mapped_after": answer["mapped_after"] == 0,
        "right": answer["right"],
    }
    return [name for name, holds in wanted.items() if not holds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "read"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", choices=CODECS, default="numpy")
    parser.add_argument("--bytes", type=int, default=80_000_000, help="of the array; 76.3 MiB by default")
    parser.add_argument("--reads", type=int, default=1)
    args = parser.parse_args()
    if args.what == "write":
        write(args.folder, args.codec, args.bytes)
    else:
        json.dump(read(args.folder, args.reads), sys.stdout)


if __name__ == "__main__":
    main()
