"""Pictures of what the suite found: `python benchmarks/plots.py benchmarks/results/latest.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Callable

Found = dict[str, Any]


def decode(found: Found, axes: Any) -> None:
    times = found["numpy_codec"]["series"]["decode_s"]
    sizes = sorted(times, key=int)
    for name in ("pickle", "copy", "zero copy"):
        axes.loglog([int(count) for count in sizes], [times[count][name] * 1e6 for count in sizes], "o-", label=name)
    axes.set(title="Decoding an array", xlabel="bytes", ylabel="us")
    axes.legend()


def pipeline(found: Found, axes: Any) -> None:
    times = found["numpy_codec"]["series"]["pipeline_s"]
    names = [name for name in times if name != "summed"]
    bars = axes.bar(names, [times[name] * 1e6 for name in names])
    axes.bar_label(bars, fmt="%.0f")
    axes.set(title="Open, read 10 arrays of 1 MB, close", ylabel="us")


def copying(found: Found, axes: Any) -> None:
    speeds = found["io_matrix"]["series"]["copy_gb_s"]
    sizes = sorted(speeds, key=int)
    for name in speeds[sizes[0]]:
        having = [count for count in sizes if name in speeds[count]]
        axes.semilogx([int(count) for count in having], [speeds[count][name] for count in having], "o-", label=name)
    axes.set(title="Copying a file", xlabel="bytes", ylabel="GB/s")
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))


def batches(found: Found, axes: Any) -> None:
    for name, by_count in found["boundary"]["series"]["batches"].items():
        counts = sorted(by_count, key=int)
        speeds = [int(count) / by_count[count]["median_s"] / 1e6 for count in counts]
        axes.loglog([int(count) for count in counts], speeds, "o-", label=name)
    axes.set(title="Making events", xlabel="events", ylabel="Mev/s")
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))


def jitter(found: Found, axes: Any) -> None:
    runs = found["boundary"]["series"]["pipeline"]
    keys = ("p50", "p95", "p99", "max")
    for number, (name, run) in enumerate(runs.items()):
        places = [place + number * 0.2 for place in range(len(keys))]
        axes.bar(places, [run["busy"][key] * 1e6 for key in keys], 0.2, label=name)
    axes.set_xticks([place + 0.3 for place in range(len(keys))], keys)
    axes.set(title="Work of a tick at 1 kHz", ylabel="us", yscale="log")
    axes.axhline(1000, color="black", linestyle=":", linewidth=1)
    axes.legend(fontsize="x-small")


def filtering(found: Found, axes: Any) -> None:
    speeds = found["dataframe"]["series"]["filter_mev_s"]
    names = list(speeds)[::-1]
    bars = axes.barh(names, [speeds[name] for name in names])
    axes.bar_label(bars, fmt="%.0f")
    axes.axvline(463, color="black", linestyle=":", linewidth=1)
    axes.set(title="Filtering on polarity (dotted: the seed's figure)", xlabel="Mev/s", xscale="log")


def tail(found: Found, axes: Any) -> None:
    runs = found["log_figures"]["series"]["tail_s"]
    keys = ("p50", "p95", "p99", "max")
    for number, (name, run) in enumerate(runs.items()):
        places = [place + number * 0.25 for place in range(len(keys))]
        axes.bar(places, [run[key] * 1e6 for key in keys], 0.25, label=name)
    axes.set_xticks([place + 0.25 for place in range(len(keys))], keys)
    axes.set(title="Tail across processes, 1 KB at 1 kHz", ylabel="us", yscale="log")
    axes.legend()


PICTURES: dict[str, tuple[str, Callable[[Found, Any], None]]] = {
    "numpy_codec_decode": ("numpy_codec", decode),
    "numpy_codec_pipeline": ("numpy_codec", pipeline),
    "io_matrix_copy": ("io_matrix", copying),
    "boundary_batches": ("boundary", batches),
    "boundary_pipeline": ("boundary", jitter),
    "dataframe_filter": ("dataframe", filtering),
    "log_tail": ("log_figures", tail),
}


def draw(found: Found, folder: Path) -> list[Path]:
    """Draw every picture whose program was run."""
    made = []
    for name, (program, picture) in PICTURES.items():
        if program not in found:
            continue
        figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
        picture(found, axes)
        about = found[program]["machine"]
        figure.supxlabel(f"{about['cpu']}, {about['cores']} cores, {about['date']}", fontsize="xx-small")
        made.append(folder / f"{name}.png")
        figure.savefig(made[-1], dpi=120)
        plt.close(figure)
    return made


if __name__ == "__main__":
    latest = Path(sys.argv[1])
    for path in draw(json.loads(latest.read_text())["programs"], latest.parent):
        print(path)
