"""Hand-made vectors: every edge of the formats with exactly its events, triggers and problems."""

from __future__ import annotations

import json

import oracle
import pytest
from conftest import problem_counts, rows, shared_folder
from words import cd2, cd_dat, header, library_format, pack, time_word, vector21

import evlib


def edges() -> dict[str, dict]:
    folder = shared_folder()
    return {} if folder is None else json.loads((folder / "vectors" / "edge.json").read_text())


EDGES = edges()


def test_edge_vectors_are_there(shared):
    assert len(EDGES) >= 30


@pytest.mark.parametrize("name", EDGES or [pytest.param("", marks=pytest.mark.skip("no folder `shared`"))])
def test_edge_vector(name, save):
    vector = EDGES[name]
    path = save(bytes.fromhex(vector["bytes_hex"]), name[name.rindex(".") :])
    expected = [(x, y, t, p) for t, x, y, p in vector["events"]]
    recording = evlib.open(path)
    assert rows(recording.read()) == expected, vector["rule"]
    assert problem_counts(recording) == vector["problems"], vector["rule"]
    assert recording.event_count == len(expected)
    for batch_rows in (1, 2, None):
        for engine in ("in-memory", "streaming"):
            assert rows(evlib.load_events(path, batch_rows=batch_rows).collect(engine=engine)) == expected
    lost = sum(vector["problems"].values()) > 0
    if lost:
        with pytest.raises(evlib.exceptions.ProblemError):
            evlib.read_events(path, on_problem="raise")
    else:
        assert rows(evlib.read_events(path, on_problem="raise")) == expected


SHEET = {
    "evt2": (
        "evt2",
        "05000080 3220C310 DFF9D30F 06000080 010680A2 160001E3 D20400F0",
        [(100, 50, 323, 1), (639, 479, 383, -1)],
        [(6, 1, 394)],
    ),
    "evt21": (
        "evt21",
        "0000000005000080 110000803200C310",
        [(96, 50, 323, 1), (100, 50, 323, 1), (127, 50, 323, 1)],
        [],
    ),
    "evt21 legacy": (
        "evt21_legacy",
        "0500008000000000 3200C31011000080",
        [(96, 50, 323, 1), (100, 50, 323, 1), (127, 50, 323, 1)],
        [],
    ),
    "evt3": (
        "evt3",
        "0180 1060 3200 6428 6038 0340 0048 8150 0140 0040 0050 1160 01A6 0280 0120 16E0 D2F4 00F0 0070",
        [
            (100, 50, 4112, 1),
            *((x, 50, 4112, 1) for x in (96, 97, 119, 120, 127, 128)),
            (1, 50, 8192, -1),
        ],
        [(6, 1, 4113)],
    ),
    "evt3 wrap": (
        "evt3",
        "FF8F FF6F 0000 0128 0080 0060 0228",
        [(1, 0, 16_777_215, 1), (2, 0, 16_777_216, 1)],
        [],
    ),
    "evt3 time high again": ("evt3", "0180 1060 0000 0128 0180 0228", [(1, 0, 4112, 1), (2, 0, 4112, 1)], []),
    "evt4": (
        "evt4",
        "050000E0 3220C3B0 330003D1 110000E0 FFFFFFFF 05014091",
        [(100, 50, 323, 1), *((x, 51, 324, 1) for x in (96, 100, 125, 126, 127))],
        [(1, 1, 325)],
    ),
    "dat": ("dat", "E8030000 7FC27710", [(639, 479, 1000, 1)], []),
    "dat trigger": ("dat_trigger", "E8030000 01000018", [], [(6, 1, 1000)]),
    "dat version 1": ("dat1", "E8030000 2FDF0300", [(303, 239, 1000, 1)], []),
}


@pytest.mark.parametrize("name", SHEET)
@pytest.mark.parametrize("geometry", [(640, 480), None], ids=["vga", "unknown"])
def test_vector_of_the_format_sheet(name, geometry, save):
    kind, payload, events, triggers = SHEET[name]
    recording = evlib.open(save(header(kind, geometry) + bytes.fromhex(payload)))
    assert recording.format == library_format(kind)
    assert recording.geometry == geometry
    assert rows(recording.read()) == events
    assert rows(recording.triggers.collect()) == triggers
    assert recording.trigger_count == len(triggers)
    assert problem_counts(recording) == {}


def test_version_1_is_by_the_header(save):
    as_two = evlib.read_events(save(header("dat") + bytes.fromhex("E80300002FDF0300")))
    assert rows(as_two) != [(303, 239, 1000, 1)]


def test_polarity_of_dat_is_bit_28(save):
    record = (1000 | (5 | 6 << 14 | 1 << 28 | 1 << 30) << 32).to_bytes(8, "little")
    assert rows(evlib.read_events(save(header("dat") + record))) == [(5, 6, 1000, 1)]


def test_record_size_steps_through_records(save):
    start = header("dat")[:-2] + b"\x0c\x0c"
    records = b"".join((t | (t | 6 << 14) << 32).to_bytes(8, "little") + b"\xff" * 4 for t in range(5))
    assert rows(evlib.read_events(save(start + records))) == [(t, 6, t, -1) for t in range(5)]


def test_geometry_comes_from_the_system(save):
    head = b"% Date 2018-06-04 14:25:13\n% evt 2.0\n% integrator_name Prophesee\n% system_ID 21\n"
    recording = evlib.open(save(head + bytes.fromhex("050000803220C310")))
    assert (recording.format, recording.geometry) == ("evt2", (640, 480))
    assert rows(recording.read()) == [(100, 50, 323, 1)]
    assert recording.metadata["system_ID"] == "21"


@pytest.mark.parametrize(
    ("head", "name", "geometry"),
    [
        (b"% format EVT2.0\n% geometry 346x260\n% end\n", "evt2", (346, 260)),
        (b"% format EVT3.0;width=1280;height=720\n% end\n", "evt3", (1280, 720)),
        (b"% format evt21;height=320;width=0x140;endianness=little\n% end\n", "evt21", (320, 320)),
        (b"% system_ID 48\n% end\n", "evt3", (1280, 720)),
        (b"% system_ID 40\n% end\n", "evt3", (640, 480)),
        (b"% plugin_name hal_plugin_gen3_fx3\n% end\n", "evt2", (640, 480)),
        (b"% plugin_name hal_plugin_imx636_evk4\n% end\n", "evt3", (1280, 720)),
        (b"% sensor_generation 4.2\n% end\n", "evt3", (1280, 720)),
        (b"% sensor_name Gen3.1\n% end\n", "evt2", (640, 480)),
        (b"% sensor_name IMX636\n% end\n", "evt3", (1280, 720)),
        (b"% sensor_generation 4.2\n% plugin_name hal_plugin_gen3_fx3\n% end\n", "evt3", (1280, 720)),
        (b"% format EVT21\n% sensor_name GenX320\n% end\n", "evt21", (320, 320)),
        (b"% format \n% evt 2.0\n% geometry\n% end\n", "evt2", None),
        (b"% format ;width=320;height=240\n% evt 3.0\n% end\n", "evt3", (320, 240)),
        (b"% evt 3.0\n", "evt3", None),
        (b"% EVT 3.0\n% evt 2.0\n% evt 3.0\n% end\n", "evt3", None),
    ],
)
def test_header_rules(head, name, geometry, save):
    recording = evlib.open(save(head))
    assert (recording.format, recording.geometry) == (name, geometry)
    assert recording.event_count == 0


@pytest.mark.parametrize(
    "line", ["geometry 640*480", "geometry 0x0", "geometry 640", "width 640", "Height 480", "format EVT2;height=480"]
)
def test_a_geometry_that_is_none_is_an_error(line, save):
    path = save(f"% evt 2.0\n% {line}\n% end\n".encode())
    with pytest.raises(evlib.FormatError, match="is not a sensor geometry"):
        evlib.open(path)
    assert evlib.open(path, geometry=(640, 480)).geometry == (640, 480)


def test_disagreeing_geometries_are_an_error(save):
    path = save(b"% format EVT3;height=720;width=1280\n% geometry 640x480\n% end\n")
    with pytest.raises(evlib.FormatError, match="disagree") as caught:
        evlib.open(path)
    assert (caught.value.expected, caught.value.found) == ("1280x720", "640x480")
    assert evlib.open(path, geometry=(640, 480)).geometry == (640, 480)


@pytest.mark.parametrize(
    ("options", "legacy"),
    [
        (b"% system_ID 49\n", True),
        (b"", True),
        (b"% system_ID 59\n", False),
        (b"% integrator_name Other\n% system_ID 49\n", False),
        (b"% endianness little\n", False),
        (b"% endianness legacy\n% system_ID 59\n", True),
    ],
)
def test_word_order_without_an_option(options, legacy, save):
    # One event word only: the content cannot tell.
    words = bytes.fromhex(SHEET["evt21 legacy" if legacy else "evt21"][1])
    recording = evlib.open(save(b"% format EVT21\n" + options + b"% end\n" + words))
    assert rows(recording.read()) == SHEET["evt21"][2]


@pytest.mark.parametrize("named", [None, "dat"])
@pytest.mark.parametrize("kind", [0, 12])
def test_a_dat_header_that_is_only_its_end(kind, named, save):
    records = b"".join(cd_dat(1_000 + 10 * k, k, 6, 1).to_bytes(8, "little") for k in range(200))
    recording = evlib.open(save(b"% end\n" + bytes([kind, 8]) + records, ".dat"), format=named)
    assert recording.format == "dat"
    assert rows(recording.read()) == [(k, 6, 1_000 + 10 * k, 1) for k in range(200)]


@pytest.mark.parametrize("order", ["big", "Big", "middle"])
def test_an_unknown_word_order_is_an_error(order, save):
    path = save(f"% format EVT21;endianness={order};height=480;width=640\n% end\n".encode())
    with pytest.raises(evlib.exceptions.UnsupportedError, match="word order"):
        evlib.open(path)
    # Only EVT2.1 has two.
    assert evlib.open(save(f"% format EVT2;endianness={order}\n% end\n".encode())).format == "evt2"


def test_records_after_a_header_that_names_a_sensor(save):
    head = b"% Date 2020-1-1 1:1:1\n% plugin_name hal_plugin_gen3_fx3\n"
    records = b"".join(cd_dat(1_000 + 10 * k, k, 6, 1).to_bytes(8, "little") for k in range(200))
    recording = evlib.open(save(head + b"\x0c\x08" + records, ".dat"))
    assert recording.format == "dat"
    assert rows(recording.read()) == [(k, 6, 1_000 + 10 * k, 1) for k in range(200)]
    # An EVT2 time word can look like type and size.
    words = [word for k in range(200) for word in (time_word("evt2", 0x800 + k), cd2(2 * k, 6, 0, 1))]
    recording = evlib.open(save(head + pack("evt2", words)))
    assert recording.format == "evt2"
    assert rows(recording.read()) == [(2 * k, 6, (0x800 + k) * 64, 1) for k in range(200)]


@pytest.mark.parametrize("kind", ["evt21", "evt21_legacy"])
def test_evt21_without_a_header_and_with_single_pixels(kind, save):
    """The masks have no high bits: both halves of every word look like EVT2 words."""
    words = []
    for k in range(300):
        words += [time_word(kind, 1_000 + k), vector21(32 * (k % 10), k % 300, 5, k & 1, 1 << k % 8)]
    payload = pack(kind, words)
    recording = evlib.open(save(payload))
    assert recording.format == "evt21"
    assert rows(recording.read()) == oracle.DECODERS[kind](payload, None).events
