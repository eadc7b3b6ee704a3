"""`evlib log`."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from test_oblog import events, write

import evlib
from evlib.cli import main
from evlib.codecs import ArrowCodec, BytesCodec, EventsCodec, JsonCodec, NumpyArrayCodec, PickleCodec
from evlib.oblog import ObLog


@pytest.fixture
def log(tmp_path) -> ObLog:
    oblog = ObLog(tmp_path / "logs")
    write(oblog, "array", [np.arange(3), np.arange(20.0)])
    write(oblog, "state", [{"a": "ü"}, [1, 2]], JsonCodec())
    write(oblog, "camera", [events(100), events(50, 100)], EventsCodec(geometry=(640, 480)))
    write(oblog, "table", [pl.DataFrame({"v": [1, 2]}), pl.DataFrame({"v": [3]})], ArrowCodec())
    write(oblog, "raw", [b"abc"], BytesCodec())
    return oblog


def damage(oblog: ObLog, channel: str) -> None:
    opened = oblog.channel(channel)
    (file,) = opened.files
    data, last = file.path.read_bytes(), bytes(opened.record(-1).payload)
    file.path.unlink()
    file.path.write_bytes(data[: data.index(last) + len(last) - 5])


def test_info(log, capsys):
    assert main(["log", "info", str(log.path)]) == 0
    out = capsys.readouterr().out
    for line in (
        "codec      numpy 1",
        "records    2",
        "1,000 ns to 1,001 ns",
        "camera.000001.mcap: ",
        "2 records, closed",
    ):
        assert line in out
    assert main(["log", "info", "--json", str(log.path), "camera"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["channel"], found["records"], found["files"][0]["metadata"]) == ("camera", 2, {"geometry": "640x480"})
    damage(log, "camera")
    assert main(["log", "info", str(log.path), "camera"]) == 3
    assert "torn end: 1 records" in capsys.readouterr().out


def test_verify(log, capsys):
    assert main(["log", "verify", str(log.path)]) == 0
    assert "array: 2 records: whole" in capsys.readouterr().out
    path = log.channel("array").files[0].path
    data = bytearray(path.read_bytes())
    data[data.index(np.arange(20.0).tobytes()) + 9] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert main(["log", "verify", str(path)]) == 3
    out = capsys.readouterr().out
    assert "array: 2 records: damaged" in out
    assert "payload of record 1 is damaged" in out


def test_cat(log, capsys):
    assert main(["log", "cat", str(log.path), "-n", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "1000 array array int64 (3,) [0, 1, 2]",
        "1000 camera frame 100 x 4 x, y, timestamp, polarity",
        "1000 raw 3 bytes 61 62 63",
        "1000 state {'a': 'ü'}",
        "1000 table frame 2 x 1 v",
        "1001 array array float64 (20,) [0., 1., 2., 3., 4., 5., ...]",
        "1001 camera frame 50 x 4 x, y, timestamp, polarity",
    ]
    assert main(["log", "cat", str(log.path), "state", "--json"]) == 0
    assert [json.loads(line)["item"] for line in capsys.readouterr().out.splitlines()] == [{"a": "ü"}, [1, 2]]
    write(log, "pickled", [{1}], PickleCodec())
    assert main(["log", "cat", str(log.path), "pickled"]) == 2
    assert "unpickling runs code" in capsys.readouterr().err
    assert main(["log", "cat", str(log.path), "pickled", "--allow-pickle"]) == 0


@pytest.mark.parametrize("array", [np.array([1 + 2j]), np.array(["2020-01-01"], "M8[D]"), np.array([b"ab"])])
def test_arrays_that_json_does_not_have(tmp_path, capsys, array):
    with ObLog(tmp_path / "logs") as oblog:
        oblog.get_writer("c", NumpyArrayCodec())(array)
    assert main(["log", "cat", str(tmp_path / "logs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["item"] == [str(array.tolist()[0])]
    assert main(["log", "export", str(tmp_path / "logs"), "c", str(tmp_path / "c.jsonl")]) == 0
    assert json.loads((tmp_path / "c.jsonl").read_text())["item"] == [str(array.tolist()[0])]


def test_repair(log, tmp_path, capsys):
    damage(log, "array")
    before = {file.name: file.read_bytes() for file in log.path.iterdir()}
    assert main(["log", "repair", str(log.path), str(tmp_path / "new")]) == 3
    captured = capsys.readouterr()
    assert "1 records copied to" in captured.out
    assert "1 records" in captured.err
    assert {file.name: file.read_bytes() for file in log.path.iterdir()} == before
    repaired = ObLog(tmp_path / "new")
    assert repaired.channels() == log.channels()
    assert all(file.closed for name in repaired.channels() for file in repaired.channel(name).files)
    (timestamp, array) = repaired.channel("array", verify="all")[0]
    assert (timestamp, array.tolist()) == (1000, [0, 1, 2])
    assert array.__array_interface__["data"][0] % 64 == 0
    assert repaired.channel("camera").load_events().collect().equals(events(150))
    assert main(["log", "verify", str(tmp_path / "new")]) == 0
    assert main(["log", "repair", str(log.path), str(log.path)]) == 2
    (tmp_path / "x.mcap").write_bytes(b"nothing")
    assert main(["log", "repair", str(tmp_path / "x.mcap"), str(tmp_path / "new")]) == 1


def test_export(log, tmp_path, capsys):
    def export(channel: str, name: str, *options: str) -> int:
        return main(["log", "export", str(log.path), channel, str(tmp_path / name), *options])

    assert export("camera", "camera.raw") == 0
    assert evlib.read_events(tmp_path / "camera.raw").equals(events(150))
    assert export("camera", "camera.raw") == 2
    assert export("camera", "camera.raw", "--force") == 0
    assert export("camera", "camera.parquet") == 0
    assert pl.read_parquet(tmp_path / "camera.parquet")["log_time_ns"].to_list() == [1000] * 100 + [1001] * 50
    assert export("table", "table.parquet") == 0
    assert pl.read_parquet(tmp_path / "table.parquet").rows() == [(1000, 1), (1000, 2), (1001, 3)]
    assert export("state", "state.jsonl") == 0
    lines = (tmp_path / "state.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"timestamp": 1000, "item": {"a": "ü"}},
        {"timestamp": 1001, "item": [1, 2]},
    ]
    assert export("array", "array.npz") == 0
    with np.load(tmp_path / "array.npz") as found:
        assert found["timestamps"].tolist() == [1000, 1001]
        assert found["item000001"].tolist() == list(range(20))
    assert export("raw", "raw") == 0
    assert (tmp_path / "raw" / "000000.bin").read_bytes() == b"abc"
    capsys.readouterr()
    assert export("raw", "raw.xyz") == 1
    assert "`.xyz`" in capsys.readouterr().err


def test_record(tmp_path, capsys):
    evlib.write_events(events(5000), tmp_path / "in.raw", geometry=(640, 480))
    folder = str(tmp_path / "logs")
    assert main(["log", "record", str(tmp_path / "in.raw"), folder, "--speed", "max"]) == 0
    assert "5,000 events in 5 records" in capsys.readouterr().out
    channel = ObLog(folder).channel("in")
    assert channel.load_events().collect().equals(events(5000))
    assert channel.files[0].metadata == {"geometry": "640x480"}
    assert channel.record(1).sensor_time == 10_000_000
    # At twice its own pace 50 ms take 25.
    assert main(["log", "record", str(tmp_path / "in.raw"), folder, "paced", "--speed", "2"]) == 0
    times = [timestamp for timestamp, _ in ObLog(folder).channel("paced")]
    assert timedelta(microseconds=(times[-1] - times[0]) / 1000) >= timedelta(milliseconds=19)


def test_wrong_usage(tmp_path, capsys):
    assert main(["log", "info", str(tmp_path)]) == 2
    assert main(["log", "info", str(tmp_path), "c"]) == 1
    for arguments in (["log"], ["log", "record", "a", "b", "--speed", "0"], ["log", "cat", "x", "-n", "-1"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
    writer = ObLog(tmp_path).get_writer("c", NumpyArrayCodec())
    assert main(["log", "record", str(tmp_path / "none.raw"), str(tmp_path), "c"]) == 1
    writer.close()
