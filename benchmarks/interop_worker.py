"""One read or write of a recording by another library: `python interop_worker.py '{"job": "read", ...}'`.

Run by `interop.py` with the interpreter of that library. Columns are handed over in NPZ files: `t` (int64, us), `x` and
`y` (int16, from the top left), `p` (int8, 1 and -1), and for triggers `trigger_t`, `trigger_p`, `trigger_id`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

# Started with -P, so that the names of the programs here do not hide those of libraries.
sys.path.append(str(Path(__file__).resolve().parent))

import worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker import Job

    Columns = dict[str, np.ndarray[Any, Any]]

ROS_DEFINITIONS = {
    "dvs_msgs/msg/Event": "uint16 x\nuint16 y\ntime ts\nbool polarity\n",
    "dvs_msgs/msg/EventArray": "std_msgs/Header header\nuint32 height\nuint32 width\ndvs_msgs/Event[] events\n",
}
ROS_MESSAGE_EVENTS = 5000


def records(events: Columns, fields: dict[str, tuple[str, str]], polarity: tuple[int, int] = (0, 1)) -> Any:
    """Columns as an array of records; `fields` gives for each name the column and the type."""
    table = np.zeros(len(events["t"]), [(name, kind) for name, (_, kind) in fields.items()])
    for name, (column, _) in fields.items():
        table[name] = np.where(events["p"] > 0, polarity[1], polarity[0]) if column == "p" else events[column]
    return table


def txyp(names: str, *kinds: str) -> dict[str, tuple[str, str]]:
    """Fields of `records` for t, x, y and p in this order."""
    return {name: (column, kind) for name, column, kind in zip(names.split(), "txyp", kinds, strict=True)}


# Readers that `worker.py` does not have.


def read_worker(job: Job) -> Columns:
    """With the reader of the benchmarks."""
    reader = job["reader"].removesuffix("_csv").removesuffix("_triggers")
    return worker.columns_of(reader, worker.READERS[reader](job)())


def read_evutils_triggers(job: Job) -> Columns:
    from evutils.io import EventReader

    with EventReader(job["path"], ext_trigger=True) as reader:
        events, triggers = reader.read_all()
    return {name: getattr(events, name) for name in "txyp"} | {
        f"trigger_{name}": getattr(triggers, name) for name in ("t", "p", "id")
    }


def read_evt3(job: Job) -> Columns:
    import evt3

    events = evt3.decode_file(job["path"])
    return {"t": events.timestamp, "x": events.x, "y": events.y, "p": events.polarity}


def read_evt3_triggers(job: Job) -> Columns:
    import evt3

    events, triggers = evt3.decode_file_with_triggers(job["path"])
    return {
        "t": events.timestamp,
        "x": events.x,
        "y": events.y,
        "p": events.polarity,
        "trigger_t": triggers.timestamp,
        "trigger_p": triggers.value,
        "trigger_id": triggers.id,
    }


def read_faery_csv(job: Job) -> Columns:
    import faery

    # Only its own files name the size of the sensor.
    stream = faery.events_stream_from_file(job["path"], dimensions_fallback=tuple(job["geometry"]))
    return worker.columns_of("faery", stream.to_array())


def read_eventcv_csv(job: Job) -> Columns:
    import eventcv

    keys = {"t": "t_us", "x": "x", "y": "y", "p": "p"}
    return worker.columns_of("eventcv", eventcv.load(job["path"], keys=keys, time_unit="us"))


def read_aestream(job: Job) -> Columns:
    from aestream import FileInput

    events = FileInput(job["path"], tuple(job["geometry"]), ignore_time=True).load()
    fields = {"t": "timestamp", "x": "x", "y": "y", "p": "polarity"}
    return {name: events[field] for name, field in fields.items()}


def read_tonic(job: Job) -> Columns:
    from tonic import io

    if job["format"] == "aedat4":
        events = io.read_aedat4(job["path"])
        return {**{name: events[name] for name in "txy"}, "p": events["on"]}
    events = io.read_mnist_file(job["path"], dtype=io.events_struct)
    return {name: events[name] for name in "txyp"}


def read_numpy(job: Job) -> Columns:
    if job["format"] != "text":
        found = np.load(job["path"])
        return {name: found[name] for name in "txyp"}
    table = np.loadtxt(job["path"])
    return {"t": np.rint(table[:, 0] * 1e6), "x": table[:, 1], "y": table[:, 2], "p": table[:, 3]}


def read_pyarrow(job: Job) -> Columns:
    import pyarrow as pa
    from pyarrow import csv, feather, parquet

    if job["format"] == "text":
        table = csv.read_csv(job["path"])
        return {name: table[field].to_numpy() for name, field in zip("txyp", ("t_us", "x", "y", "p"), strict=True)}
    table = parquet.read_table(job["path"]) if job["format"] == "parquet" else feather.read_table(job["path"])
    times = table["timestamp"].cast(pa.int64()).to_numpy()
    return {"t": times, "x": table["x"].to_numpy(), "y": table["y"].to_numpy(), "p": table["polarity"].to_numpy()}


def read_h5py(job: Job) -> Columns:
    import h5py
    import hdf5plugin  # noqa: F401  gives libhdf5 the filters

    with h5py.File(job["path"]) as file:
        if "CD" in file:
            events = file["CD/events"][:]
            return {name: events[name] for name in "txyp"}
        offset = int(file["t_offset"][()])
        columns = {name: file[f"events/{name}"][:] for name in "xyp"}
        return {"t": file["events/t"][:].astype("i8") + offset, **columns}


LOCAL: dict[str, Callable[[Job], Columns]] = {
    "evutils_triggers": read_evutils_triggers,
    "evt3": read_evt3,
    "evt3_triggers": read_evt3_triggers,
    "faery_csv": read_faery_csv,
    "eventcv_csv": read_eventcv_csv,
    "aestream": read_aestream,
    "tonic": read_tonic,
    "numpy": read_numpy,
    "pyarrow": read_pyarrow,
    "pyarrow_csv": read_pyarrow,
    "h5py": read_h5py,
}


# Writers.


def write_evutils(job: Job, events: Columns) -> None:
    from evutils.io import EventWriter
    from evutils.types import EventArray

    width, height = job["geometry"]
    names = {"evt2": "evt2", "evt21": "evt21", "evt3": "evt3", "evt4": "evt4"}
    options = {"format": names[job["format"]]} if job["format"] in names else {}
    with EventWriter(job["path"], width=width, height=height, **options) as writer:
        writer.write(EventArray(t=events["t"], x=events["x"], y=events["y"], p=(events["p"] > 0).astype("u1")))


def write_expelliarmus(job: Job, events: Columns) -> None:
    from expelliarmus import Wizard

    Wizard(encoding=job["format"]).save(job["path"], records(events, txyp("t x y p", "<i8", "<i2", "<i2", "u1")))


def write_faery(job: Job, events: Columns) -> None:
    import faery

    table = np.zeros(len(events["t"]), faery.EVENTS_DTYPE)
    for name in "txy":
        table[name] = events[name]
    table["on"] = events["p"] > 0
    stream = faery.events_stream_from_array(table, tuple(job["geometry"]))
    versions = {"evt2": "evt2", "evt21": "evt2.1", "evt3": "evt3", "dat": "dat2"}
    compression = {"compression": job["compression"] and tuple(job["compression"])} if "compression" in job else {}
    stream.to_file(job["path"], version=versions.get(job["format"]), zero_t0=False, **compression)


def write_eventcv(job: Job, events: Columns) -> None:
    import eventcv

    table = np.stack([events["x"], events["y"], events["t"], (events["p"] > 0).astype("i8")], axis=1)
    stream = eventcv.from_numpy(table, time_unit="us", sensor_size=tuple(job["geometry"]))
    options = {"format": job["format"]} if job["format"] in ("evt2", "evt3") else {}
    eventcv.save(stream, job["path"], **options)


def write_dv_processing(job: Job, events: Columns) -> None:
    import dv_processing as dv

    store = dv.EventStore()
    for t, x, y, p in zip(*(events[name].tolist() for name in "txyp"), strict=True):
        store.push_back(t, x, y, p > 0)
    config = dv.io.MonoCameraWriter.EventOnlyConfig(
        "DVX", tuple(job["geometry"]), getattr(dv.CompressionType, job["compression"])
    )
    writer = dv.io.MonoCameraWriter(job["path"], config)
    writer.writeEvents(store)
    del writer


def write_event_stream(job: Job, events: Columns) -> None:
    import event_stream

    width, height = job["geometry"]
    table = records(events, txyp("t x y on", "<u8", "<u2", "<u2", "?"))
    table["y"] = height - 1 - table["y"]  # it stores rows as they are given; the format counts from the bottom
    with event_stream.Encoder(job["path"], "dvs", width, height) as encoder:
        encoder.write(table)


def write_numpy(job: Job, events: Columns) -> None:
    if job["format"] == "text":
        table = np.stack([events["t"] / 1e6, events["x"], events["y"], events["p"] > 0], axis=1)
        np.savetxt(job["path"], table, fmt=["%.6f", "%d", "%d", "%d"])
    elif job["format"] == "npy":
        np.save(job["path"], records(events, txyp("t x y p", "<i8", "<u2", "<u2", "?")))
    else:
        np.savez_compressed(job["path"], **{**events, "p": events["p"] > 0})


def write_pyarrow(job: Job, events: Columns) -> None:
    import pyarrow as pa
    from pyarrow import csv, feather, parquet

    columns = {"x": events["x"], "y": events["y"], "timestamp": events["t"], "polarity": events["p"]}
    table = pa.table(columns)
    if job["format"] == "text":
        csv.write_csv(table.rename_columns(["x", "y", "t_us", "p"]), job["path"])
        return
    table = table.set_column(2, "timestamp", table["timestamp"].cast(pa.duration("us")))
    if job["format"] == "parquet":
        parquet.write_table(table, job["path"])
    else:
        feather.write_feather(table, job["path"], compression="uncompressed")


def write_h5py(job: Job, events: Columns) -> None:
    """The layout of DSEC, as its authors describe it."""
    import h5py
    import hdf5plugin

    offset = int(events["t"][0])
    times = events["t"] - offset
    columns = {"t": times.astype("u4"), "x": events["x"].astype("u2"), "y": events["y"].astype("u2")}
    milliseconds = np.arange(int(times[-1]) // 1000 + 1) * 1000
    with h5py.File(job["path"], "w") as file:
        for name, values in {**columns, "p": (events["p"] > 0).astype("u1")}.items():
            file.create_dataset(f"events/{name}", data=values, chunks=True, **hdf5plugin.Blosc(cname="zstd"))
        file["ms_to_idx"] = np.searchsorted(times, milliseconds).astype("u8")
        file["t_offset"] = offset


def write_rosbags(job: Job, events: Columns) -> None:
    """`dvs_msgs/EventArray` messages."""
    from rosbags import rosbag1, rosbag2
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    first = job["format"] == "bag"
    store = get_typestore(Stores.ROS1_NOETIC if first else Stores.ROS2_HUMBLE)
    for name, text in ROS_DEFINITIONS.items():
        store.register(
            get_types_from_msg(text if first else text.replace("time ts", "builtin_interfaces/Time ts"), name)
        )
    event, array = store.types["dvs_msgs/msg/Event"], store.types["dvs_msgs/msg/EventArray"]
    time, header = store.types["builtin_interfaces/msg/Time"], store.types["std_msgs/msg/Header"]
    width, height = job["geometry"]
    path = Path(job["path"])
    if first:
        writer: Any = rosbag1.Writer(path)
    else:
        plugin = rosbag2.StoragePlugin.MCAP if job["format"] == "mcap" else rosbag2.StoragePlugin.SQLITE3
        writer = rosbag2.Writer(path.parent, version=9, storage_plugin=plugin)
    with writer:
        connection = writer.add_connection("/dvs/events", array.__msgtype__, typestore=store)
        for start in range(0, len(events["t"]), ROS_MESSAGE_EVENTS):
            part = {name: values[start : start + ROS_MESSAGE_EVENTS].tolist() for name, values in events.items()}
            stamps = [time(t // 1_000_000, t % 1_000_000 * 1000) for t in part["t"]]
            sequence = {"seq": start} if first else {}
            found = [
                event(x, y, stamp, p > 0)
                for x, y, stamp, p in zip(part["x"], part["y"], stamps, part["p"], strict=True)
            ]
            message = array(header(**sequence, stamp=stamps[-1], frame_id="dvs"), height, width, found)
            serialize = store.serialize_ros1 if first else store.serialize_cdr
            writer.write(connection, part["t"][-1] * 1000, serialize(message, array.__msgtype__))


WRITERS: dict[str, Callable[[Job, Columns], None]] = {
    "evutils": write_evutils,
    "expelliarmus": write_expelliarmus,
    "faery": write_faery,
    "eventcv": write_eventcv,
    "dv_processing": write_dv_processing,
    "event_stream": write_event_stream,
    "numpy": write_numpy,
    "pyarrow": write_pyarrow,
    "h5py": write_h5py,
    "rosbags": write_rosbags,
}


def job_read(job: Job) -> Job:
    columns = LOCAL.get(job["reader"], read_worker)(job)
    events = [*worker.chunks({name: columns[name] for name in "txyp"})]
    common = {name: np.concatenate([part[name] for part in events]) if events else np.zeros(0, "i8") for name in "txyp"}
    for name in (name for name in columns if name.startswith("trigger_")):
        values = np.asarray(columns[name]).astype("<i8")
        common[name] = np.where(values > 0, 1, -1) if name == "trigger_p" else values
    np.savez(job["out"], **common)
    return {"rows": len(common["t"])}


def job_write(job: Job) -> Job:
    with np.load(job["events"]) as stored:
        events = dict(stored)
    WRITERS[job["writer"]](job, events)
    return {"bytes": Path(job["path"]).stat().st_size}


def run(job: Job, answer: Callable[[Job], None]) -> None:
    answer({"read": job_read, "write": job_write}[job["job"]](job))


if __name__ == "__main__":
    worker.serve(run)
