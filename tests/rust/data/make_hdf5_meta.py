"""Makes the compressed HDF5 files in `hdf5_meta/`, and `facts.txt`: what libhdf5 itself says of them.

    pip install h5py numpy
    python make_hdf5_meta.py [--large DIRECTORY]

The Rust tests of `src/format/hdf5/meta.rs` compare the library with the facts. With `--large`, files with more than
100,000 chunks are made instead; they are too large to be kept.
"""

import ctypes
import gzip
import pathlib
import sys

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

HERE = pathlib.Path(__file__).parent / "hdf5_meta"


def library():
    """The libhdf5 that h5py uses, for what h5py does not wrap."""
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        path = line.split()[-1]
        if "libhdf5-" in path or path.endswith("libhdf5.so"):
            return ctypes.CDLL(path)
    raise RuntimeError("no libhdf5")


# What libhdf5 says.


def fnv(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def type_text(tid):
    size, kind = tid.get_size(), tid.get_class()
    if kind == h5t.BITFIELD:
        return f"u{size}{'>' if tid.get_order() == h5t.ORDER_BE else '<'}"
    if kind in (h5t.INTEGER, h5t.FLOAT):
        sign = "f" if kind == h5t.FLOAT else "i" if tid.get_sign() == h5t.SGN_2 else "u"
        return f"{sign}{size}{'>' if tid.get_order() == h5t.ORDER_BE else '<'}"
    if kind == h5t.ENUM:
        names = [(tid.get_member_name(i), tid.get_member_value(i)) for i in range(tid.get_nmembers())]
        letter = "b" if names == [(b"FALSE", 0), (b"TRUE", 1)] else "e"
        return f"{letter}({type_text(tid.get_super())})"
    if kind == h5t.COMPOUND:
        fields = [
            f"{tid.get_member_name(i).decode()}@{tid.get_member_offset(i)}:{type_text(tid.get_member_type(i))}"
            for i in range(tid.get_nmembers())
        ]
        return f"{{{size};{';'.join(fields)}}}"
    if kind == h5t.ARRAY:
        return f"[{','.join(map(str, tid.get_array_dims()))}]{type_text(tid.get_super())}"
    if kind == h5t.STRING:
        return "T16" if tid.is_variable_str() else f"S{size}"
    if kind == h5t.VLEN:
        return f"V16({type_text(tid.get_super())})"
    return f"?{size}"


def storage_text(dataset, raw, base):
    plist = dataset.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.COMPACT:
        return "compact:" + np.asarray(dataset[()]).tobytes().hex()
    if layout == h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        return (
            "absent" if dataset.id.get_storage_size() == 0 else f"contiguous:{offset}:{dataset.id.get_storage_size()}"
        )
    grid = [-(-extent // chunk) for extent, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    rows = []
    for index in range(int(np.prod(grid))):
        start = tuple(
            int(place) * chunk for place, chunk in zip(np.unravel_index(index, grid), dataset.chunks, strict=True)
        )
        try:
            mask, stored = dataset.id.read_direct_chunk(start)
        except (OSError, RuntimeError):
            continue  # never written
        # libhdf5 2.0 counts some addresses without the user block, and mixes up the chunks if the unlimited dimension
        # is not the first; it reads the right bytes all the same.
        address, size = dataset.id.get_chunk_info_by_coord(start).byte_offset or 0, len(stored)
        if raw[address : address + size] != stored:
            address += base
        if raw[address : address + size] != stored:
            address = raw.find(stored)
            assert address >= 0 and raw.find(stored, address + 1) < 0, (dataset.name, start)
        edge = any(
            first + chunk > extent for first, chunk, extent in zip(start, dataset.chunks, dataset.shape, strict=True)
        )
        if edge and "plain_edges" in dataset.name:
            mask = 0xFFFFFFFF
        rows.append((index, address, size, mask if plist.get_nfilters() else 0))
    if not rows and dataset.id.get_storage_size() == 0:
        return "absent"
    table = "".join(f"{index},{address},{size},{mask};" for index, address, size, mask in rows)
    return f"chunked:{','.join(map(str, dataset.chunks))}:{len(rows)}:{fnv(table)}"


def value_text(attribute_id, value):
    tid, shape = attribute_id.get_type(), attribute_id.shape
    kind = tid.get_class()
    if attribute_id.get_space().get_simple_extent_type() == h5s.NULL:
        shape, value = (0,), []
    flat = np.asarray(value, dtype=object if kind == h5t.STRING else None).ravel().tolist()
    single = not shape and kind != h5t.ARRAY
    if kind in (h5t.INTEGER, h5t.ENUM, h5t.BITFIELD):
        text = [str(int(item)) for item in flat]
        return f"i:{text[0]}" if single else f"I:{','.join(text)}"
    if kind == h5t.FLOAT and tid.get_size() in (4, 8):
        text = [np.float64(item).tobytes()[::-1].hex() for item in flat]
        return f"f:{text[0]}" if single else f"F:{','.join(text)}"
    if kind == h5t.STRING:
        text = [item.decode() if isinstance(item, bytes) else str(item) for item in flat]
        return f"t:{text[0]}" if single else f"T:{','.join(text)}"
    return "?"


def object_facts(path, item, raw, base, lines):
    if isinstance(item, h5py.Dataset):
        plist = item.id.get_create_plist()
        filters = []
        for number in range(plist.get_nfilters()):
            code, flags, values, name = plist.get_filter(number)
            filters.append(f"{code}/{flags & 1}/{','.join(map(str, values))}")
        defined = plist.fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED
        fill = np.asarray(item.fillvalue, item.dtype).tobytes().hex() if defined else "-"
        null = item.shape is None
        shape = "0" if null else ",".join(map(str, item.shape))
        storage = "absent" if null else storage_text(item, raw, base)
        lines.append(f"D|{path}|{shape}|{type_text(item.id.get_type())}|{';'.join(filters)}|{storage}|{fill}")
    for name in sorted(item.attrs, key=lambda name: name.encode()):
        attribute = item.attrs.get_id(name)
        try:
            value = item.attrs[name]
        except (TypeError, OSError):
            value = None
        lines.append(f"A|{path}|{name}|{value_text(attribute, value)}")


def facts(name, lines, check=True):
    path = HERE / name if isinstance(name, str) else name
    raw = path.read_bytes() if check else None
    with h5py.File(path, "r") as file:
        base = file.userblock_size
        lines.append(f"F|{path.name}|{path.stat().st_size}")
        todo, seen = ["/"], set()
        while todo:
            place = todo.pop()
            group = file[place]
            members = []
            for member in sorted(group, key=lambda name: name.encode()):
                below = f"{place.rstrip('/')}/{member}"
                try:
                    item = group[member]
                except (KeyError, OSError, RuntimeError):
                    members.append(f"{member}=o")
                    continue
                letter = "g" if isinstance(item, h5py.Group) else "d" if isinstance(item, h5py.Dataset) else "o"
                members.append(f"{member}={letter}")
                if letter == "o" or len(group) > 30:
                    continue
                if letter == "d" and (item.is_virtual or item.external):
                    continue
                if letter == "g":
                    if item.id.__hash__() in seen:
                        continue
                    seen.add(item.id.__hash__())
                    todo.append(below)
                else:
                    object_facts(below, item, raw, base, lines)
            object_facts(place, group, raw, base, lines)
            lines.append(f"G|{place}|{','.join(members)}")


# The files.


def plain(file):
    """Every kind of storage and type, in the oldest or newest format."""
    rng = np.random.default_rng(1)
    file.attrs["text"] = "prophesee"
    file.attrs["fixed"] = np.bytes_(b"640x480")
    file.attrs["many"] = np.array(["a", "bc", ""], dtype=h5py.string_dtype())
    file.attrs["width"] = np.uint16(1280)
    file.attrs["signed"] = np.int64(-7)
    file.attrs["big"] = np.array([1, -2], dtype=">i4")
    file.attrs["float"] = 0.25
    file.attrs["floats"] = np.array([1.5, -2.0], dtype="f4")
    file.attrs["flag"] = True
    file.attrs["nothing"] = h5py.Empty("i4")
    file.attrs["huge"] = np.array([1, 2], dtype="u8")
    file.attrs["pair"] = np.array((1, 2.0), dtype=[("a", "i4"), ("b", "f8")])
    file.attrs["link"] = file.ref
    events = file.create_group("events")
    events["x"] = np.arange(10, dtype="u2")
    events["t_big"] = np.arange(5, dtype=">i8")
    events["f_big"] = np.arange(5, dtype=">f4")
    events.create_dataset("t_offset", data=np.int64(1_600_000_000_000_000))
    events.create_dataset("one", data=np.array([17], dtype="i8"))
    events.create_dataset("unwritten", (4, 3), "f4", fillvalue=1.5)
    events.create_dataset("growing", (0,), "u2", maxshape=(None,), chunks=(16,))
    events.create_dataset("nothing", data=h5py.Empty("f4"))
    events.create_dataset("p", data=np.array([True, False, True]))
    colours = h5py.enum_dtype({"RED": 1, "BLUE": 2}, basetype="u1")
    events.create_dataset("colour", data=np.array([1, 2], dtype="u1"), dtype=colours)
    record = np.dtype([("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")])
    cd = np.zeros(37, dtype=record)
    file.create_dataset("CD/events", data=cd, chunks=(16,), maxshape=(None,), compression="gzip", shuffle=True)
    nested = np.dtype(
        {
            "names": ["v", "n"],
            "formats": [("<f4", (2, 3)), [("k", "u1"), ("s", "S3")]],
            "offsets": [8, 40],
            "itemsize": 48,
        }
    )
    file.create_dataset("nested", data=np.zeros(2, dtype=nested))
    file.create_dataset("table", data=rng.random((7, 5)), chunks=(3, 2), fletcher32=True)
    file.create_dataset("holes", (100,), "u1", chunks=(10,), fillvalue=9)[35] = 1
    file["holes"][77] = 2
    file.create_dataset("names", data=["left", "right"], dtype=h5py.string_dtype())
    compact = h5p.create(h5p.DATASET_CREATE)
    compact.set_layout(h5d.COMPACT)
    small = h5d.create(file.id, b"compact", h5t.STD_I16LE, h5s.create_simple((3,)), compact)
    small.write(h5s.ALL, h5s.ALL, np.array([5, 6, 7], dtype="i2"))
    file["kind"] = np.dtype("u2")  # a committed type
    file.create_dataset("committed", data=np.arange(3, dtype="u2"), dtype=file["kind"])
    file.attrs.create("of_kind", np.arange(2, dtype="u2"), dtype=file["kind"])
    file["soft"] = h5py.SoftLink("/events/x")
    events["near"] = h5py.SoftLink("../events/x")  # HDF5 knows no `..`
    events["up"] = h5py.SoftLink("x")
    file["twice"] = h5py.SoftLink("group/up")
    file["group"] = h5py.SoftLink("/events")
    file["loop"] = h5py.SoftLink("/loop")
    file["dangling"] = h5py.SoftLink("/nowhere")
    file["outside"] = h5py.ExternalLink("other.h5", "/x")
    direct = file.create_dataset(
        "masked", (30,), "u1", chunks=(10,), compression="gzip", shuffle=True, maxshape=(None,)
    )
    direct.id.write_direct_chunk((0,), bytes(range(10)), 0b11)
    direct[10:20] = 3


def chunk_index(file):
    """Every index of the newest format, filtered and not."""
    rng = np.random.default_rng(2)
    data = rng.integers(0, 200, 61).astype("u1")
    table = rng.integers(0, 60_000, (6, 5)).astype("u2")
    for suffix, filters in (("", {}), ("_z", {"compression": "gzip"})):
        file.create_dataset("single" + suffix, data=data, chunks=(61,), **filters)
        file.create_dataset("fixed" + suffix, data=data, chunks=(4,), **filters)
        file.create_dataset(
            "fixed_max" + suffix, data=np.ones((5, 6), "u1"), chunks=(2, 2), maxshape=(9, 12), **filters
        )
        file.create_dataset("extensible" + suffix, data=data, chunks=(4,), maxshape=(None,), **filters)
        file.create_dataset("extensible_2d" + suffix, data=table, chunks=(2, 2), maxshape=(8, None), **filters)
        file.create_dataset(
            "tree" + suffix, data=np.ones((6, 5), "u2"), chunks=(2, 2), maxshape=(None, None), **filters
        )
        holes = file.create_dataset("fixed_holes" + suffix, (40, 3), "u1", chunks=(8, 2), **filters)
        holes[9:17, 2] = 1
        shrunk = file.create_dataset("shrunk" + suffix, data=data, chunks=(4,), maxshape=(None,), **filters)
        shrunk.resize((22,))
    early = h5p.create(h5p.DATASET_CREATE)
    early.set_chunk((4, 2))
    early.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    h5d.create(file.id, b"implicit", h5t.STD_U16LE, h5s.create_simple((7, 3)), early)
    h5d.create(file.id, b"implicit_max", h5t.STD_U16LE, h5s.create_simple((7, 3), (7, 9)), early)
    edges = h5p.create(h5p.DATASET_CREATE)
    edges.set_chunk((16,))
    edges.set_deflate(4)
    assert library().H5Pset_chunk_opts(ctypes.c_int64(edges.id), ctypes.c_uint(2)) >= 0
    dataset = h5d.create(file.id, b"plain_edges", h5t.STD_U8LE, h5s.create_simple((41,)), edges)
    dataset.write(h5s.ALL, h5s.ALL, np.zeros(41, "u1"))


def paged(file):
    """A fixed array of several pages, one of them never written."""
    holes = file.create_dataset("paged", (2100,), "u1", chunks=(1,))
    holes[10] = 1
    holes[2090] = 1


def members(file):
    """Groups and attributes in dense storage, and in the order of their making."""
    many = file.create_group("many")
    for number in range(20):
        many[f"n{number:02}"] = h5py.SoftLink("/one")
    file["one"] = np.uint8(1)
    ordered = file.create_group("ordered", track_order=True)
    for name in ("z", "b", "y", "a"):
        ordered.create_group(name)
    dense = file.create_group("dense", track_order=True)
    for number in range(12):
        dense.attrs[f"attribute {number}"] = f"value {number}" if number % 2 else number


def old_tree(file):
    """Old groups and chunk indices of two levels."""
    file.create_dataset("deep", data=np.arange(70, dtype="u1"), chunks=(1,))
    many = file.create_group("many")
    for number in range(40):
        many[f"member {number:02}"] = h5py.SoftLink("/deep")


def vlen(file):
    """DDD17: packets in the global heap."""
    kind = h5py.vlen_dtype(np.dtype("u1"))
    data = file.create_dataset("dvs/data", (11, 3), kind, chunks=(4, 3), maxshape=(None, 3))
    for row in range(10):
        data[row, 0] = np.frombuffer(str(1000 + row).encode(), "u1")
        data[row, 1] = np.arange(28, dtype="u1")
        data[row, 2] = np.full(row * 30, row, dtype="u1")
    file["dvs/timestamp"] = np.arange(11, dtype="i8")
    wide = file.create_dataset("wide", (2,), h5py.vlen_dtype(np.dtype("<i4")))
    wide[0] = [1, 2, 3]


def refused(file):
    """What is not read, and must not spoil the rest."""
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("virtual", layout)
    file.create_dataset("external", (4,), "u1", external=[("other.bin", 0, 4)])
    file["good"] = np.arange(4, dtype="u1")


def make(name, build, **options):
    path = HERE / name
    with h5py.File(path, "w", **options) as file:
        build(file)
    if block := options.get("userblock_size"):
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(block, b" "))


def small():
    HERE.mkdir(exist_ok=True)
    make("v0.h5", plain, libver=("earliest", "v108"))
    make("v0_user_block.h5", vlen, libver=("earliest", "v108"), userblock_size=512)
    make("v2_members.h5", members, libver=("v108", "v108"))
    make("v3.h5", plain, libver=("v110", "v110"), userblock_size=1024)
    make("v3_index.h5", chunk_index, libver=("v110", "v110"))
    make("latest_index.h5", chunk_index, libver="latest")
    make("v3_paged.h5", paged, libver=("v110", "v110"))
    make("v0_tree.h5", old_tree, libver=("earliest", "v108"))
    make("v3_refused.h5", refused, libver=("v110", "v110"))
    # Superblock 1 comes with another size of chunk index nodes, superblock 0 with short addresses.
    create = h5p.create(h5p.FILE_CREATE)
    create.set_sizes(4, 4)
    with h5py.File(h5py.h5f.create(str(HERE / "v0_short.h5").encode(), h5py.h5f.ACC_TRUNC, create)) as file:
        old_tree(file)
        file.attrs["text"] = "short"
    create = h5p.create(h5p.FILE_CREATE)
    assert library().H5Pset_istore_k(ctypes.c_int64(create.id), ctypes.c_uint(3)) >= 0
    with h5py.File(h5py.h5f.create(str(HERE / "v1.h5").encode(), h5py.h5f.ACC_TRUNC, create)) as file:
        old_tree(file)
    lines = []
    for path in sorted(HERE.glob("*.h5")):
        facts(path.name, lines)
        # They are mostly zeros.
        path.with_suffix(".h5.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        path.unlink()
    (HERE / "facts.txt").write_text("\n".join(lines) + "\n")
    print(sum(path.stat().st_size for path in HERE.iterdir()), "bytes")


def large(where):
    where = pathlib.Path(where)
    where.mkdir(exist_ok=True)
    data = np.arange(30_000_000, dtype="u2")
    for name, libver, extra in (
        ("tree1.h5", ("earliest", "v108"), {}),
        ("tree1_z.h5", ("earliest", "v108"), {"compression": "gzip", "compression_opts": 1}),
        ("extensible.h5", "latest", {"maxshape": (None,)}),
        ("extensible_z.h5", "latest", {"maxshape": (None,), "compression": "gzip", "compression_opts": 1}),
        ("fixed.h5", "latest", {}),
        ("tree2.h5", "latest", {"maxshape": (None, None)}),
        ("tree2_z.h5", "latest", {"maxshape": (None, None), "compression": "gzip", "compression_opts": 1}),
    ):
        with h5py.File(where / name, "w", libver=libver) as file:
            if "tree2" in name:
                file.create_dataset("x", data=data.reshape(-1, 2), chunks=(128, 2), **extra)
            elif name == "extensible.h5":
                file.create_dataset("x", data=data, chunks=(64,), **extra)  # paged data blocks
            else:
                file.create_dataset("x", data=data, chunks=(256,), **extra)
        print(name)
    with h5py.File(where / "group.h5", "w", libver="latest") as file:
        for number in range(10_000):
            file[f"data/{number}"] = np.uint8(1)


if __name__ == "__main__":
    if "--large" in sys.argv:
        large(sys.argv[sys.argv.index("--large") + 1])
    else:
        small()
