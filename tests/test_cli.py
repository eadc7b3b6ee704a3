"""The command line: exit codes, streams, figures."""

import json
import os
import pty
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

import evlib
from evlib import exceptions
from evlib.cli import _parser, info
from evlib.cli._output import Progress, table, with_unit

GEOMETRY = (320, 240)


def evlib_cli(*arguments, **kwargs):
    """Run the command line as a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "evlib", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **kwargs)


@pytest.fixture(scope="module")
def events():
    return evlib.simulate(60_000, geometry=GEOMETRY, seed=3)


@pytest.fixture(scope="module")
def clean(events, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "clean.raw"
    evlib.write_events(events, path, geometry=GEOMETRY)
    return path


@pytest.fixture
def lossy(clean, tmp_path):
    """The same recording, ending in half a word."""
    path = tmp_path / "lossy.raw"
    path.write_bytes(clean.read_bytes() + b"\x01")
    return path


@pytest.fixture
def garbage(tmp_path):
    path = tmp_path / "garbage.raw"
    path.write_bytes(b"this is no recording\n" * 20)
    return path


def assert_one_line_of_error(result, *, code):
    assert result.returncode == code
    assert result.stdout == ""
    assert result.stderr.startswith("evlib: error: ")
    assert result.stderr.count("\n") == 1


def test_version_is_that_of_the_package():
    result = evlib_cli("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"evlib {evlib.__version__}\n", "")


def test_console_script_is_the_same_program():
    script = shutil.which("evlib", path=str(Path(sys.executable).parent))
    assert script is not None
    result = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == f"evlib {evlib.__version__}\n"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_neither_polars_nor_numpy(argument):
    code = (
        "import sys, evlib.cli\n"
        "try: evlib.cli.main([sys.argv[1]])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('heavy:', sorted({'polars', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("heavy: []\n")


def test_help_starts_in_a_tenth_of_a_second():
    """Of processor time, so that a busy machine does not fail it."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert evlib_cli("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["info"],
        ["head", "-n", "-1", "x.raw"],
        ["info", "--geometry", "12", "x.raw"],
        ["info", "--threads", "0", "x.raw"],
        ["check", "--format", "evt9", "x.raw"],
        ["completion", "tcsh"],
    ],
)
def test_wrong_usage_is_2(arguments):
    result = evlib_cli(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "evlib" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_geometry_that_cannot_be_is_wrong_usage(clean):
    assert_one_line_of_error(evlib_cli("info", "--geometry", "0x0", clean), code=2)


def test_every_format_of_the_parser_is_one_of_the_library(clean):
    with pytest.raises(exceptions.ArgumentError) as error:
        evlib.open(clean, format="no such format")
    for name in _parser.FORMATS:
        assert f"`{name}`" in str(error.value)


@pytest.mark.parametrize("command", ["info", "head", "check"])
def test_unreadable_is_1(command, garbage, tmp_path):
    for path in (garbage, tmp_path / "missing.raw", tmp_path):
        result = evlib_cli(command, path)
        assert_one_line_of_error(result, code=1)
        assert str(path) in result.stderr


def test_info_says_what_the_events_say(clean, events):
    result = evlib_cli("info", "--json", clean)
    assert (result.returncode, result.stderr) == (0, "")
    facts = json.loads(result.stdout)
    stream = facts["streams"]["events"]
    times = events["timestamp"].dt.total_microseconds().to_list()
    bins = Counter((time - times[0]) // 10_000 for time in times)
    assert facts["path"] == str(clean)
    assert facts["bytes"] == clean.stat().st_size
    assert (facts["format"], facts["confidence"], facts["geometry"]) == ("evt3", "certain", list(GEOMETRY))
    assert facts["problems"] == []
    assert facts["streams"]["triggers"] == {"count": 0}
    assert stream == {
        "count": len(times),
        "first_us": times[0],
        "last_us": times[-1],
        "duration_us": times[-1] - times[0],
        "mean_rate_hz": pytest.approx(len(times) / (times[-1] - times[0]) * 1e6),
        "peak_rate_hz": max(bins.values()) * 100,
        "peak_rate_bin_us": 10_000,
        "peak_rate_decoded_fraction": 1.0,
        "estimated": [],
    }


def test_info_as_text_and_of_several_files(clean, lossy, garbage, events):
    result = evlib_cli("info", clean, garbage, lossy)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    first, second = result.stdout.split("\n\n")
    assert first.startswith(f"{clean}\n  format     evt3 (certain: ")
    assert f"  events     {events.height:,}\n" in first
    assert first.endswith("  problems   none")
    assert "estimated" not in result.stdout
    assert second.startswith(f"{lossy}\n")
    assert "(loss)" in second


def test_info_json_is_a_line_a_file(clean, lossy):
    lines = evlib_cli("info", "--json", clean, lossy).stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == [str(clean), str(lossy)]
    assert json.loads(lines[1])["problems"][0]["severity"] == "loss"


def test_a_recording_shorter_than_a_bin_has_no_peak_rate(tmp_path):
    path = tmp_path / "short.raw"
    rows = {"x": [1, 2], "y": [1, 2], "timestamp": [100, 200], "polarity": [1, -1]}
    evlib.write_events(rows, path, geometry=GEOMETRY)
    facts = json.loads(evlib_cli("info", "--json", path).stdout)["streams"]["events"]
    assert (facts["mean_rate_hz"], facts["peak_rate_hz"]) == (20_000, None)
    assert "peak" not in evlib_cli("info", path).stdout


def test_a_recording_without_events_has_no_rates(tmp_path):
    path = tmp_path / "empty.raw"
    path.write_bytes(b"% evt 3.0\n% format EVT3;height=240;width=320\n% end\n")
    result = evlib_cli("info", "--json", path)
    facts = json.loads(result.stdout)["streams"]["events"]
    assert result.returncode == 0
    assert facts["count"] == 0
    assert {facts[name] for name in ("first_us", "duration_us", "mean_rate_hz", "peak_rate_hz")} == {None}
    assert "  events     0\n" in evlib_cli("info", path).stdout


def test_a_big_file_is_estimated_and_says_so(tmp_path):
    count, bins = 40_000, 400
    path = tmp_path / "long.raw"
    times = [index * bins * 10_000 // count for index in range(count)]
    rows = {"x": [1] * count, "y": [1] * count, "timestamp": times, "polarity": [1] * count}
    evlib.write_events(rows, path, geometry=GEOMETRY)
    recording = evlib.open(path)
    facts = info.describe(recording, decoded_bytes=path.stat().st_size // 4)
    stream = facts["streams"]["events"]
    assert stream["estimated"] == ["peak_rate_hz"]
    assert stream["peak_rate_decoded_fraction"] == 32 * 3 / bins
    assert stream["count"] == count
    assert stream["peak_rate_hz"] == count / bins * 100
    assert "at least 10 kev/s over 10 ms (estimated: 0.24 of the time decoded)" in info.as_text(facts)
    assert info.describe(recording, decoded_bytes=None)["streams"]["events"]["estimated"] == []


def test_peak_rate_does_not_need_times_in_order():
    counts, in_order = Counter(), Counter()
    times = [25_000, 3, 9_999, 10_000, 25_001, 4]
    info._count(pl.Series(times, dtype=pl.Int64), counts)
    info._count(pl.Series(sorted(times), dtype=pl.Int64), in_order)
    assert counts == {0: 3, 1: 1, 2: 2}
    assert +in_order == counts


def test_head_is_ten_events_as_a_table(clean, events):
    lines = evlib_cli("head", clean).stdout.splitlines()
    expected = events.head(10).with_columns(pl.col("timestamp").dt.total_microseconds())
    assert lines[0].split() == ["x", "y", "timestamp_us", "polarity"]
    assert [tuple(map(int, line.split())) for line in lines[1:]] == expected.rows()


@pytest.mark.parametrize("rows", [0, 1, 25_000])
def test_head_as_csv_reads_back(rows, clean, events, tmp_path):
    assert events.height > 25_000
    text = tmp_path / "head.csv"
    text.write_text(evlib_cli("head", "--csv", "-n", rows, clean).stdout)
    found = pl.read_csv(text, schema={"x": pl.Int16, "y": pl.Int16, "timestamp_us": pl.Int64, "polarity": pl.Int8})
    expected = events.head(rows).with_columns(timestamp=pl.col("timestamp").dt.total_microseconds())
    assert found.equals(expected.rename({"timestamp": "timestamp_us"}))


def test_check_of_a_clean_recording_is_0(clean, events):
    result = evlib_cli("check", clean)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{clean}: evt3, {events.height:,} events: clean\n"


def test_check_of_losses_is_3_and_prints_the_problems(lossy):
    result = evlib_cli("check", lossy)
    assert (result.returncode, result.stderr) == (3, "")
    verdict, names, row = result.stdout.splitlines()
    assert verdict.endswith("data is lost")
    assert names.split() == ["code", "severity", "count", "unit", "bytes", "first_offset", "example"]
    problem = evlib.open(lossy).problems.row(0, named=True)
    assert row.split()[:3] == [problem["code"], "loss", str(problem["count"])]
    assert str(lossy.stat().st_size - 1) in row.split()


def test_check_of_notes_is_0(clean, tmp_path):
    """An index that no longer fits is worth a note; no data is lost."""
    path = tmp_path / "indexed.raw"
    shutil.copyfile(clean, path)
    evlib.open(path).save_index()
    os.utime(path, (1, 1))
    problems = evlib.open(path).problems
    assert problems.select("code", "severity").rows() == [("STALE_INDEX", "note")]
    result = evlib_cli("check", path)
    assert result.returncode == 0
    assert "readable, with notes" in result.stdout
    assert "STALE_INDEX" in result.stdout


def test_check_of_several_files_is_the_worst(clean, lossy, garbage):
    assert evlib_cli("check", clean, lossy).returncode == 3
    result = evlib_cli("check", garbage, lossy, clean)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "data is lost" in result.stdout
    assert "clean" in result.stdout


def test_a_reader_that_goes_away_ends_it_quietly(clean):
    command = [sys.executable, "-m", "evlib", "head", "-n", "25000", clean]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().split()[0] == b"x"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_ctrl_c_ends_it_quietly(tmp_path):
    fifo = tmp_path / "never.raw"
    code = (
        "import sys, time, evlib.cli, evlib.cli.check\n"
        "from evlib.cli._output import Progress\n"
        "def run(options):\n"
        "    print('started', flush=True)\n"
        "    return Progress('waiting').wait(lambda: time.sleep(60))\n"
        "evlib.cli.check.run = run\n"
        "sys.exit(evlib.cli.main(['check', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, fifo]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""


def test_progress_is_for_terminals_and_long_work(monkeypatch, capsys):
    progress = Progress("work")
    progress._start -= 2
    progress.update(0.5)
    progress.close()
    assert capsys.readouterr().err == ""

    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        Progress("quick").update(0.5)
        late = Progress("work")
        late._start -= 2
        late.update(0.5)
        late.close()
        shown = ""
        cleared = "\r\033[K"
        # A terminal hands over writes one by one.
        while not shown.endswith(cleared) and select.select([controller], [], [], 5)[0]:
            shown += os.read(controller, 1000).decode()
    os.close(controller)
    assert "quick" not in shown
    assert "work: [" in shown
    assert " 50%" in shown
    assert shown.endswith(cleared)


def test_work_that_fails_fails_the_wait():
    def fail():
        raise evlib.FormatError("broken")

    with pytest.raises(evlib.FormatError, match="broken"):
        Progress("work").wait(fail)


def test_names_that_are_no_text_are_printed(tmp_path, clean):
    path = tmp_path / os.fsdecode(b"caf\xe9.raw")
    shutil.copyfile(clean, path)
    result = evlib_cli("info", path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "caf\\udce9.raw\n" in result.stdout


def test_tables_and_units():
    assert table(("a", "long"), [("wide cell", "1")]) == "a          long\nwide cell  1"
    assert [with_unit(value, "B") for value in (0, 999, 1000, 24_420_000, 3.2e9)] == [
        "0 B",
        "999 B",
        "1 kB",
        "24.42 MB",
        "3.2 GB",
    ]


@pytest.mark.parametrize("shell", _parser.SHELLS)
def test_completion_names_every_command_and_option(shell):
    script = evlib_cli("completion", shell).stdout
    for word in ("info", "head", "check", "completion", "evt21", "fish"):
        assert word in script
    for option in ("json", "exact", "rows", "csv", "geometry", "version"):
        assert (f"--{option}" if shell != "fish" else f"-l {option}") in script
    if (program := shutil.which(shell)) is not None:
        checked = subprocess.run([program, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["in"], {"info"}),
        (["info", "--e"], {"--exact"}),
        (["info", "--format", "evt2"], {"evt2", "evt21"}),
        (["completion", ""], {"bash", "zsh", "fish", "-h", "--help"}),
        (["head", ""], set()),
    ],
)
def test_completion_of_bash(words, expected):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    script = evlib_cli("completion", "bash").stdout
    call = f"COMP_WORDS=(evlib {' '.join(repr(word) for word in words)}); COMP_CWORD={len(words)}; _evlib; "
    program = f'{script}\n{call}printf "%s\\n" "${{COMPREPLY[@]}}"'
    found = subprocess.run([bash, "-c", program], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == expected


# --- convert --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        *("a.h5", "a.hdf5", "b.raw", "a.npy", "a.npz", "a.es", "a.txt", "a.csv", "a.dat", "a.aedat4"),
        *("--to evt2 a.bin", "--to evt21 a.raw", "--to evt4 a.raw", "--to text a.events", "--compression gzip a.h5"),
        *("a.parquet", "--compression zstd a.parquet", "a.arrow", "--to arrow a.events"),
    ],
)
def test_convert(target, clean, events, tmp_path):
    *options, name = target.split()
    result = evlib_cli("convert", clean, tmp_path / name, *options)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path / name}: {events.height:,} events\n"
    assert evlib.read_events(tmp_path / name).equals(evlib.read_events(clean))
    again = evlib_cli("convert", clean, tmp_path / name, *options)
    assert_one_line_of_error(again, code=1)
    assert "exists" in again.stderr
    assert "--force" in again.stderr
    assert evlib_cli("convert", "--force", clean, tmp_path / name, *options).returncode == 0


def test_convert_one_of_several_cameras(tmp_path):
    t = np.arange(100)
    columns = {f"{camera}_{name}": t % 50 for camera in ("left", "right") for name in "xyp"}
    np.savez(tmp_path / "a.npz", left_t=t, right_t=t + 5, **columns)
    command = ("convert", "--geometry", "64x64", tmp_path / "a.npz", tmp_path / "b.h5")
    for arguments in (command, ("convert", *command[3:])):
        result = evlib_cli(*arguments)
        assert_one_line_of_error(result, code=2)
        assert "choose one with `stream`: expected one of `left`, `right`" in result.stderr
    assert evlib_cli(*command, "--stream", "right").returncode == 0
    assert evlib.read_events(tmp_path / "b.h5").height == 100
    assert evlib.open(tmp_path / "b.h5").time_range[0].total_seconds() == 5e-6


def test_convert_what_does_not_tell_its_units(tmp_path):
    # As ESIM writes: nanoseconds; and parts of pixels that could be pixels.
    t = np.arange(100)
    np.savez(tmp_path / "a.npz", x=t * 4, y=t * 2, t=t * 1000, p=t % 2)
    arguments = ("--time-unit", "ns", "--pixel-parts", "2", "--geometry", "200x100")
    result = evlib_cli("convert", *arguments, tmp_path / "a.npz", tmp_path / "b.h5")
    assert (result.returncode, result.stdout) == (0, f"{tmp_path / 'b.h5'}: 100 events\n")
    events = evlib.read_events(tmp_path / "b.h5")
    assert events["timestamp"].dt.total_microseconds().to_list() == t.tolist()
    assert events["x"].to_list() == (t * 2).tolist()
    assert "duration   0.000099 s" in evlib_cli("info", *arguments, tmp_path / "a.npz").stdout


def test_convert_what_is_found_by_paths(tmp_path):
    t = np.arange(100)
    np.savez(tmp_path / "a.npz", columns=t % 7, lines=t % 5, ticks=t * 1000, signs=t % 2)
    names = {"x": "columns", "y": "lines", "timestamp": "ticks", "polarity": "signs"}
    paths = [part for column, name in names.items() for part in ("--path-map", f"{column}={name}")]
    arguments = (*paths, "--time-unit", "ns", "--time-offset=-20us", "--geometry", "200x100")
    result = evlib_cli("convert", *arguments, tmp_path / "a.npz", tmp_path / "b.h5")
    assert (result.returncode, result.stdout) == (0, f"{tmp_path / 'b.h5'}: 100 events\n")
    events = evlib.read_events(tmp_path / "b.h5")
    assert events["timestamp"].dt.total_microseconds().to_list() == (t - 20).tolist()
    assert events["x"].to_list() == (t % 7).tolist()
    twice = evlib_cli("info", *arguments, "--path-map", "x=lines", tmp_path / "a.npz")
    assert_one_line_of_error(twice, code=2)
    assert "each column one path" in twice.stderr
    assert "expected COLUMN=PATH" in evlib_cli("info", "--path-map", "x", tmp_path / "a.npz").stderr


def test_info_shows_the_types_of_arrays(tmp_path):
    t = np.arange(100)
    pixels = t.astype("u2")
    np.savez_compressed(tmp_path / "a.npz", x=pixels, y=pixels, t=t, p=t % 2 == 1, depth=np.zeros((3, 4)))
    text = evlib_cli("info", tmp_path / "a.npz").stdout
    stored = [line.split(None, 1)[1] for line in text.splitlines() if line.startswith("  stored ")]
    assert sorted(stored) == [
        "p: |b1 (100), deflated",
        "t: <i8 (100), deflated",
        "x: <u2 (100), deflated",
        "y: <u2 (100), deflated",
    ]
    assert "beside     depth (<f8 (3 x 4), deflated" in text
    np.savez(tmp_path / "seconds.npz", x=pixels, y=pixels, t=t / 1e6, p=t % 2 == 1)
    stored = [line for line in evlib_cli("info", tmp_path / "seconds.npz").stdout.splitlines() if "stored" in line]
    assert [line.split()[1] for line in sorted(stored)] == ["p:", "t:", "x:", "y:"]
    record = np.zeros(5, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "|u1")])
    np.save(tmp_path / "b.npy", record)
    text = evlib_cli("info", tmp_path / "b.npy").stdout
    assert len([line for line in text.splitlines() if line.startswith("  stored ")]) == 1
    assert "(5)" in text


def test_convert_to_atis_bin(tmp_path):
    events = evlib.simulate(20_000, geometry=(200, 200), seed=3)
    evlib.write_events(events, tmp_path / "a.raw", geometry=(200, 200))
    result = evlib_cli("convert", "--to", "atis-bin", tmp_path / "a.raw", tmp_path / "b.bin")
    assert (result.returncode, result.stderr) == (0, "")
    assert evlib.open(tmp_path / "b.bin").format == "atis-bin"
    assert evlib.read_events(tmp_path / "b.bin").equals(evlib.read_events(tmp_path / "a.raw"))


def test_every_written_format_can_be_named(clean, tmp_path):
    with pytest.raises(exceptions.ArgumentError) as error:
        evlib.write_events(evlib.read_events(clean), tmp_path / "a.xyz", geometry=GEOMETRY)
    for name in _parser.WRITTEN:
        assert f'"{name}"' in str(error.value)


def test_convert_says_what_is_not_written(tmp_path):
    path = Path(__file__).parents[1] / "fuzz" / "seeds" / "caer.aedat"
    assert {"frames", "imu"} < set(evlib.open(path).streams["name"])
    result = evlib_cli("convert", path, tmp_path / "a.raw")
    assert "not written: frames, imu" in result.stderr


def test_convert_keeps_triggers_where_it_can(tmp_path):
    path = tmp_path / "a.hdf5"
    triggers = {"id": [1, 1], "polarity": [1, -1], "timestamp": [5, 9]}
    evlib.write_events(
        {"x": [1], "y": [2], "timestamp": [7], "polarity": [1]}, path, geometry=GEOMETRY, triggers=triggers
    )
    kept = evlib_cli("convert", path, tmp_path / "b.hdf5")
    assert kept.stdout.endswith("1 events, 2 triggers\n")
    assert evlib.open(tmp_path / "b.hdf5").triggers.collect().equals(evlib.open(path).triggers.collect())
    raw = evlib_cli("convert", path, tmp_path / "b.raw")
    assert (raw.stderr, raw.stdout.endswith("1 events, 2 triggers\n")) == ("", True)
    assert evlib.open(tmp_path / "b.raw").triggers.collect().equals(evlib.open(path).triggers.collect())
    lost = evlib_cli("convert", path, tmp_path / "b.dat")
    assert lost.returncode == 0
    assert "2 triggers are left out" in lost.stderr


def test_convert_keeps_the_triggers_that_can_be_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.hdf5"
    row = {"x": [1], "y": [2], "timestamp": [7], "polarity": [1]}
    evlib.write_events(row, path, geometry=GEOMETRY)
    with h5py.File(path, "a") as file:
        triggers = np.zeros(300, file["EXT_TRIGGER/events"].dtype)
        triggers["t"] = np.arange(300)
        del file["EXT_TRIGGER/events"]
        file.create_dataset("EXT_TRIGGER/events", data=triggers, chunks=(100,), compression="gzip")
        place = file["EXT_TRIGGER/events"].id.get_chunk_info(1).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 20] = bytes(byte ^ 0xA5 for byte in data[place : place + 20])
    path.write_bytes(data)
    result = evlib_cli("convert", path, tmp_path / "b.raw")
    assert (result.returncode, result.stdout) == (3, f"{tmp_path / 'b.raw'}: 1 events, 200 triggers\n")
    assert "UNREADABLE 100 rows: `/EXT_TRIGGER/events`, chunk 1 (rows 100 to 199)" in result.stderr
    times = evlib.open(tmp_path / "b.raw").triggers.collect()["timestamp"].dt.total_microseconds()
    assert times.to_list() == [*range(100), *range(200, 300)]
    checked = evlib_cli("check", path)
    assert checked.returncode == 3
    assert "/EXT_TRIGGER/events" in checked.stdout


def test_convert_says_what_is_lost_and_missing(lossy, events, tmp_path):
    result = evlib_cli("convert", lossy, tmp_path / "a.h5")
    assert result.returncode == 3
    assert "TRUNCATED 1" in result.stderr
    assert evlib.read_events(tmp_path / "a.h5").height == events.height
    unknown = evlib_cli("convert", tmp_path / "a.h5", tmp_path / "a.unknown")
    assert_one_line_of_error(unknown, code=2)
    assert "pass --to evt2|" in unknown.stderr
    assert not (tmp_path / "a.unknown").exists()


def test_info_shows_how_columns_are_stored(clean, events, tmp_path):
    path = tmp_path / "a.h5"
    assert evlib_cli("convert", clean, path).returncode == 0
    text = evlib_cli("info", path).stdout
    assert "DSEC" in text
    assert f"/events/t: u4 ({events.height}), chunks of 65536, Blosc" in text
    facts = json.loads(evlib_cli("info", "--json", path).stdout)
    assert facts["metadata"]["layout"] == "DSEC"
    assert {row["name"] for row in facts["streams"]["others"]} == {"ms_to_idx", "t_offset"}


def test_files_with_several_cameras(tmp_path):
    path = tmp_path / "two.h5"
    with h5py.File(path, "w") as file:
        for camera, rows in {"left": 3, "right": 5}.items():
            for name in "xytp":
                file[f"prophesee/{camera}/{name}"] = [1] * rows
    result = evlib_cli("info", path)
    assert result.returncode == 0
    assert "left (" in result.stdout
    assert "right (" in result.stdout
    assert "events     5" in evlib_cli("info", "--stream", "right", path).stdout
    assert_one_line_of_error(evlib_cli("head", path), code=2)
