"""Damaged files: cut, flipped, with bytes missing and bytes too many. Losses are reported, and stay local."""

from __future__ import annotations

import numpy as np
import oracle
import polars as pl
import pytest
from conftest import problem_counts, rows
from words import KINDS, WORD_BYTES, cd2, header, pack, recording, sensor_stream, time_word

import evlib
from evlib.exceptions import EvlibError

GEOMETRY = (640, 480)


def small_file(kind: str) -> tuple[bytes, bytes]:
    """Header and payload of a file with a bit of everything."""
    return header(kind, GEOMETRY), sensor_stream(kind, 40, seed=5, geometry=GEOMETRY)


# --- cut anywhere --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation(kind, save):
    head, payload = small_file(kind)
    whole = oracle.DECODERS[kind](payload, GEOMETRY)
    path = save(head + payload)
    assert rows(evlib.read_events(path)) == whole.events
    for length in range(len(head) + len(payload)):
        path.write_bytes((head + payload)[:length])
        try:
            opened = evlib.open(path)
            events, triggers, problems = rows(opened.read()), rows(opened.triggers.collect()), problem_counts(opened)
        except evlib.FormatError:
            assert length < len(head), f"cut at {length}"
            continue
        assert events == whole.events[: len(events)]
        if length < len(head):
            assert events == []
            continue
        cut = oracle.DECODERS[kind](payload[: length - len(head)], GEOMETRY)
        assert (events, triggers) == (cut.events, cut.triggers), f"cut at {length}"
        assert problems == cut.counts(), f"cut at {length}"
        if kind != "evt4":  # where a head without its mask is a partial word too
            assert ("TRUNCATED" in problems) == ((length - len(head)) % WORD_BYTES[kind] != 0)


def test_truncated_tail_is_located(save):
    head, payload = small_file("evt2")
    problems = evlib.open(save(head + payload + b"\x01\x02\x03")).problems.to_dicts()
    tail = next(problem for problem in problems if problem["code"] == "TRUNCATED")
    assert (tail["count"], tail["bytes"], tail["first_offset"]) == (1, 3, len(head) + len(payload))
    assert tail["severity"] == "loss"
    assert len(tail["examples"]) == 1


# --- random bytes --------------------------------------------------------------------------------------------------


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(0, max(1, len(out))))
        match int(rng.integers(0, 6)):
            case 0 | 1:
                out[at : at + 1] = bytes([int(rng.integers(0, 256))])
            case 2:
                out[at : at + 1] = bytes([out[at] ^ 1 << int(rng.integers(0, 8))]) if at < len(out) else b""
            case 3:
                out[at:at] = rng.bytes(int(rng.integers(1, 40)))
            case 4:
                del out[at : at + int(rng.integers(1, 40))]
            case _:
                out[at:at] = out[at // 2 : at]
    return bytes(out)


def check_sane(path, size: int) -> bool:
    """Read a file in all ways; whether it could be read at all. Only EvlibError may come out."""
    try:
        opened = evlib.open(path)
        events = opened.read()
    except EvlibError:
        return False
    # An event word of 2 bytes holds at most 12 events, one of 8 bytes 32.
    assert events.height <= 6 * size
    width, height = opened.geometry or (2**14, 2**14)
    if events.height:
        assert events["x"].min() >= 0
        assert events["y"].min() >= 0
        assert events["x"].max() < width
        assert events["y"].max() < height
        assert set(events["polarity"].unique()) <= {-1, 1}
        assert opened.time_range == (events["timestamp"].min(), events["timestamp"].max())
    assert opened.event_count == events.height
    assert opened.trigger_count == opened.triggers.collect().height
    assert all(count > 0 for count in problem_counts(opened).values())
    assert events.equals(evlib.load_events(path, batch_rows=7, threads=2).collect())
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_random_mutations_never_panic(kind, save):
    rng = np.random.default_rng([1, *kind.encode()])
    head, payload = small_file(kind)
    path = save(b"")
    read = 0
    for _ in range(500):
        data = mutate(rng, head + payload) if rng.random() < 0.3 else head + mutate(rng, payload)
        path.write_bytes(data)
        read += check_sane(path, len(data))
    assert read > 250


@pytest.mark.parametrize("kind", KINDS)
def test_random_bytes_never_panic(kind, save):
    rng = np.random.default_rng([2, *kind.encode()])
    path = save(b"")
    for _ in range(100):
        data = header(kind, GEOMETRY if rng.random() < 0.5 else None) + rng.bytes(int(rng.integers(0, 3000)))
        path.write_bytes(data)
        assert check_sane(path, len(data))


def test_random_files_without_header(save):
    rng = np.random.default_rng(3)
    path = save(b"")
    for _ in range(300):
        data = rng.bytes(int(rng.integers(0, 2000)))
        path.write_bytes(data)
        check_sane(path, len(data))
        for name in ("evt2", "evt21", "evt3", "evt4", "dat"):
            assert rows(evlib.read_events(path, format=name)) == rows(
                evlib.load_events(path, format=name, batch_rows=11).collect()
            )


# --- damaged time words --------------------------------------------------------------------------------------------


def time_words(kind: str, payload: bytes) -> list[int]:
    """Positions of the time words."""
    size = WORD_BYTES[kind]
    kind_of = {"evt2": 0x8, "evt3": 0x8}[kind]
    return [at for at in range(0, len(payload), size) if payload[at + size - 1] >> 4 == kind_of]


@pytest.mark.parametrize("position", ["second", "early", "middle"])
@pytest.mark.parametrize("kind", ["evt2", "evt3"])
def test_one_flipped_bit_in_a_time_word(kind, position, save):
    head = header(kind, GEOMETRY)
    payload = sensor_stream(kind, 600, seed=8, geometry=GEOMETRY)
    truth = oracle.DECODERS[kind](payload, GEOMETRY).events
    places = time_words(kind, payload)
    path = save(b"")
    skipped = 0
    # The first and the last have no witness on one side: a gap and a damaged word look the same there.
    middle = len(places) // 2
    for index in {"second": [1], "early": [2, 3], "middle": [middle, middle + 1, len(places) - 7]}[position]:
        at, following = places[index], places[index + 1]
        before = len(oracle.DECODERS[kind](payload[:at], GEOMETRY).events)
        until = len(oracle.DECODERS[kind](payload[:following], GEOMETRY).events)
        # After skipped bytes the row of EVT3 has to come again.
        again = 2 if kind == "evt3" else 0
        for bit in range(28 if kind == "evt2" else 12):
            damaged = bytearray(payload)
            damaged[at + bit // 8] ^= 1 << bit % 8
            path.write_bytes(head + damaged)
            opened = evlib.open(path)
            events, problems = rows(opened.read()), problem_counts(opened)
            note = f"bit {bit} of time word {index}"
            assert events[:before] == truth[:before], note
            after = truth[until:]
            lost = max(0, before + len(after) - len(events))
            assert lost <= again, note
            tail = after[lost:]
            assert events[len(events) - len(tail) :] == tail, note
            # The events of the damaged word itself: as they were, moved by less than a second, or left out.
            own = events[before : len(events) - len(tail)]
            if own:
                assert len(own) == until - before, note
                for (x, y, t, p), (x0, y0, t0, p0) in zip(own, truth[before:until], strict=True):
                    assert (x, y, p) == (x0, y0, p0), note
                    assert abs(t - t0) <= 1_000_000, note
            elif until > before:
                assert problems.get("LOST_SYNC", 0) >= 1, note
            skipped += "LOST_SYNC" in problems
    assert skipped > 0


@pytest.mark.parametrize("kind", ["evt2", "evt21", "evt3", "evt4"])
def test_skipped_words_are_counted(kind, save):
    """One time word that all others contradict: it and what depends on it is left out, no more."""
    size = WORD_BYTES[kind]
    first, good = [time_word(kind, 1000 + k) for k in range(6)], [time_word(kind, 1006)] * 6
    bad = time_word(kind, 1000 + (1 << 11 if kind == "evt3" else 1 << 27))
    payload = pack(kind, [*first, bad, *good])
    opened = evlib.open(save(recording(kind, payload)))
    problem = opened.problems.filter(pl.col("code") == "LOST_SYNC").to_dicts()
    assert [(p["count"], p["bytes"], p["unit"]) for p in problem] == [(1, size, "words")]
    assert problem[0]["first_offset"] == len(header(kind, GEOMETRY)) + size * len(first)
    assert set(problem_counts(opened)) == {"LOST_SYNC"}


@pytest.mark.parametrize("kind", ["evt2", "evt3"])
def test_gap_and_restart_are_not_damage(kind, save):
    """Time that goes on elsewhere, and stays there, is believed."""
    first = sensor_stream(kind, 200, seed=1, start_us=3_000_000)
    for start in (1_000_000, 6_500_000, 9_000_000):
        payload = first + sensor_stream(kind, 200, seed=2, start_us=start)
        opened = evlib.open(save(recording(kind, payload)))
        truth = oracle.DECODERS[kind](payload, GEOMETRY)
        assert rows(opened.read()) == truth.events
        assert problem_counts(opened) == truth.counts()


# --- lost and foreign bytes in real recordings ---------------------------------------------------------------------

REAL = {"evt2": "faery_evt2.raw", "evt3": "expelliarmus_evt3.raw"}
AFTER_US = 600
"""Microseconds of events that may be missing after damage."""


def split(data: bytes) -> int:
    """Bytes of the header, whose lines all start with a percent sign."""
    at = 0
    while data[at : at + 2] == b"% ":
        at = data.index(b"\n", at) + 1
    return at


@pytest.fixture(scope="module", params=REAL)
def real(request, shared):
    kind = request.param
    path = shared / "recordings" / REAL[kind]
    data = path.read_bytes()
    return kind, data, split(data), rows(evlib.read_events(path))


def damaged_somewhere(data: bytes, start: int, fraction: float, size: int) -> int:
    return start + int((len(data) - start) * fraction) // size * size


def check_recovery(path, kind, data, start, cut, truth, foreign_bytes):
    geometry = evlib.open(path).geometry
    before = oracle.DECODERS[kind](data[start:cut], geometry).events
    opened = evlib.open(path)
    frame = opened.read()
    events = rows(frame)
    assert events[: len(before)] == before
    first_after = next((t for _, _, t, _ in truth[len(before) :]), None)
    assert first_after is not None
    # Everything from a few hundred microseconds after the damage on.
    late = next(at for at in range(len(before), len(truth)) if truth[at][2] > first_after + AFTER_US)
    tail = truth[late:]
    assert events[len(events) - len(tail) :] == tail
    # Between: events of the recording, and a few made of foreign bytes before they were seen to be foreign.
    between = events[len(before) : len(events) - len(tail)]
    known = set(truth[len(before) : late])
    assert sum(event not in known for event in between) <= 64
    times = [t for _, _, t, _ in events]
    assert max(times) <= max(t for _, _, t, _ in truth)
    assert min(times) >= min(t for _, _, t, _ in truth)
    lost = {problem["code"]: problem for problem in opened.problems.to_dicts()}
    if foreign_bytes or "LOST_SYNC" in lost:
        problem = lost["LOST_SYNC"]
        assert foreign_bytes - 400 <= problem["bytes"] <= foreign_bytes + 8_000
        assert cut - 200 <= problem["first_offset"] <= cut + 4_000
        size = WORD_BYTES[kind]
        assert problem["bytes"] // size <= problem["count"] <= problem["bytes"] // size + 8
    for threads in (1, 4):
        for batch_rows in (1_000, 10**7):
            lazy = evlib.load_events(path, threads=threads, batch_rows=batch_rows)
            assert lazy.collect().equals(frame)
        again = evlib.open(path, threads=threads)
        assert again.problems.equals(opened.problems)
        assert pl.concat(again.batches(rows=3_001)).equals(frame)
    return lost


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fraction", [0.2, 0.5])
@pytest.mark.parametrize("extra", [100_000, 100_001, 4_096, 333])
def test_foreign_bytes_in_the_middle(real, fraction, extra, seed, save):
    kind, data, start, truth = real
    cut = damaged_somewhere(data, start, fraction, WORD_BYTES[kind])
    foreign = np.random.default_rng(seed).bytes(extra)
    path = save(data[:cut] + foreign + data[cut:])
    lost = check_recovery(path, kind, data, start, cut, truth, extra)
    assert "LOST_SYNC" in lost


@pytest.mark.parametrize("fill", [b"\x00", b"\xff"])
def test_a_hole_of_equal_bytes(real, fill, save):
    """A block of zeros or ones, as a bad disk gives it, in place of the data: events do not come from it."""
    kind, data, start, truth = real
    cut = damaged_somewhere(data, start, 0.5, 4096)
    path = save(data[:cut] + fill * 65_536 + data[cut + 65_536 :])
    events = rows(evlib.read_events(path))
    times = [t for _, _, t, _ in events]
    assert max(times) <= max(t for _, _, t, _ in truth)
    assert min(times) >= min(t for _, _, t, _ in truth)
    rest = oracle.DECODERS[kind](data[start : cut + 65_536], evlib.open(path).geometry).events
    late = next(at for at in range(len(rest), len(truth)) if truth[at][2] > truth[len(rest)][2] + AFTER_US)
    assert events[len(events) - len(truth[late:]) :] == truth[late:]


@pytest.mark.parametrize("missing", [1, 2, 3, 5, 1001])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_missing_bytes_in_the_middle(real, missing, fraction, save):
    kind, data, start, truth = real
    cut = damaged_somewhere(data, start, fraction, WORD_BYTES[kind])
    path = save(data[:cut] + data[cut + missing :])
    lost = check_recovery(path, kind, data, start, cut, truth, 0)
    if missing % WORD_BYTES[kind]:
        assert "LOST_SYNC" in lost


def astray(events, truth, cut_events) -> str | None:
    """What is wrong with events read after damage near event `cut_events`; None if nothing."""
    known = set(truth)
    after_us = truth[cut_events][2] + AFTER_US
    tail = [event for event in truth[cut_events:] if event[2] > after_us]
    kept = next((at for at in range(cut_events) if events[at] != truth[at]), cut_events)
    # A few at the damage may be taken for damaged too.
    if kept < cut_events - 16:
        return f"events before the damage: {events[kept]}, expected {truth[kept]}"
    if events[len(events) - len(tail) :] != tail:
        return f"events after the damage: last one {events[-1]}, expected {truth[-1]}"
    made_up = [event for event in events[kept : len(events) - len(tail)] if event not in known]
    low, high = truth[0][2], truth[-1][2]
    if any(not low - 1_000_000 <= t <= high + 1_000_000 for _, _, t, _ in made_up):
        return f"times from {min(made_up, key=lambda event: event[2])} to {max(made_up, key=lambda event: event[2])}"
    return None


@pytest.mark.parametrize("change", [-1, -2, -3, 1, 3, 50, 4_001])
@pytest.mark.parametrize("kind", ["evt2", "evt21", "evt3", "evt4"])
def test_bytes_missing_or_inserted_anywhere(kind, change, save):
    """At many places of a sensor's stream: what comes long after is as it was."""
    payload = sensor_stream(kind, 3_000, seed=11)
    head, decode = header(kind, GEOMETRY), oracle.DECODERS[kind]
    truth = decode(payload, GEOMETRY).events
    rng = np.random.default_rng(change + 10)
    path = save(b"")
    wrong = {}
    for cut in sorted(rng.integers(len(payload) // 10, len(payload) // 2, 25).tolist()):
        foreign = rng.bytes(max(0, change))
        path.write_bytes(head + payload[:cut] + foreign + payload[cut + max(0, -change) :])
        whole = cut // WORD_BYTES[kind] * WORD_BYTES[kind]
        if kind == "evt4" and "TRUNCATED" in decode(payload[:whole], GEOMETRY).problems:
            whole -= 4
        fault = astray(rows(evlib.read_events(path)), truth, len(decode(payload[:whole], GEOMETRY).events))
        if fault is not None:
            wrong[cut] = fault
    assert not wrong, f"{len(wrong)} of 25 places: {wrong}"


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_missing_bytes_between_rare_time_words(seed, missing, save):
    """Sixty EVT2 events a time word: what follows is read out of step for long, but time goes on where it was."""
    rng = np.random.default_rng(seed)
    words = []
    for high in range(14_000_000, 14_000_014):
        words.append(time_word("evt2", high))
        for low in sorted(rng.integers(0, 64, 60).tolist()):
            words.append(cd2(int(rng.integers(0, 640)), int(rng.integers(380, 480)), low, int(rng.integers(0, 2))))
    payload = pack("evt2", words)
    truth = oracle.evt2(payload, GEOMETRY).events
    path = save(b"")
    wrong = {}
    for cut in range(4 * 61 * 4, 4 * 61 * 5, 4):
        path.write_bytes(header("evt2") + payload[:cut] + payload[cut + missing :])
        events = rows(evlib.read_events(path))
        # The last time word has but one before it to confirm it after the search.
        if events[-30:] != truth[-30:]:
            wrong[cut] = events[-1]
    assert not wrong, f"last event {truth[-1]}, found by place of the damage: {wrong}"


@pytest.mark.parametrize("kind", ["evt21", "evt4", "dat"])
def test_foreign_bytes_in_other_formats(kind, save):
    payload = sensor_stream(kind, 30_000, seed=4)
    head = header(kind, GEOMETRY)
    truth = oracle.DECODERS[kind](payload, GEOMETRY).events
    cut = len(payload) // 2 // 8 * 8
    if kind == "evt4":  # not between a head and its mask
        while payload[cut - 1] >> 4 != 0xE:
            cut += 4
    data = head + payload
    path = save(data[: len(head) + cut] + np.random.default_rng(5).bytes(50_000) + data[len(head) + cut :])
    lost = check_recovery(path, kind, data, len(head), len(head) + cut, truth, 50_000)
    assert "LOST_SYNC" in lost
