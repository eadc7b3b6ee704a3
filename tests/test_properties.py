"""Whatever the words: the decoders agree with the oracle, and every query with the same query on the plain frame."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import oracle
import polars as pl
import pytest
from conftest import problem_counts, rows
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from words import (
    KINDS,
    RAW_KINDS,
    cd2,
    cd4,
    cd_dat,
    cd_dat1,
    header,
    pack,
    recording,
    time_word,
    trigger_dat,
    vector4,
    vector21,
)

import evlib

ENGINES = ("in-memory", "streaming")
GEOMETRIES = [None, (640, 480), (32, 32), (1280, 720), (100, 2048)]

# --- streams -------------------------------------------------------------------------------------------------------
#
# A stream is a list of actions on a clock in units of the time word (microseconds for DAT). Steps of up to half a
# second either way are what any stream may have. Longer jumps (gaps, wraps, a restarted clock) are confirmed by the
# time words around them, as a sensor's are, which repeats them all the time: one bad word alone must not be believed,
# and `test_damage.py` says what happens to it.

bit = st.integers(0, 1)
low6 = st.integers(0, 63)
wide = st.one_of(st.integers(0, 70), st.integers(0, 2047))
mask32 = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2**31, 2**32 - 1, 0xE0000011, 0xC0000000]))
number = st.integers(0, 31)


def word16(kind: int, *fields: tuple[st.SearchStrategy[int], int]) -> st.SearchStrategy[list[int]]:
    return st.tuples(*(field for field, _ in fields)).map(
        lambda values: [kind << 12 | sum(value << shift for value, (_, shift) in zip(values, fields, strict=True))]
    )


ACTIONS: dict[str, st.SearchStrategy[list[int]]] = {
    "evt2": st.one_of(
        st.builds(lambda *a: [cd2(*a)], wide, wide, low6, bit),
        st.builds(lambda *a: [cd2(*a)], wide, wide, low6, bit),
        st.builds(lambda n, low, on: [0xA << 28 | low << 22 | n << 8 | on], number, low6, bit),
        st.builds(lambda data: [0xE << 28 | 0x16, 0xF << 28 | data], st.integers(0, 2**28 - 1)),
        st.builds(
            lambda kind, data: [kind << 28 | data], st.sampled_from([2, 7, 9, 11, 12, 13]), st.integers(0, 2**28 - 1)
        ),
    ),
    "evt21": st.one_of(
        st.builds(lambda *a: [vector21(*a)], wide, wide, low6, bit, mask32),
        st.builds(lambda *a: [vector21(*a)], wide, wide, low6, bit, mask32),
        st.builds(lambda n, low, on: [0xA << 60 | low << 54 | n << 40 | on << 32], number, low6, bit),
        st.builds(lambda kind, data: [kind << 60 | data], st.sampled_from([2, 9, 14, 15]), st.integers(0, 2**60 - 1)),
    ),
    "evt3": st.one_of(
        word16(0x0, (wide, 0), (st.sampled_from([0, 0, 0, 0, 1]), 11)),
        word16(0x2, (wide, 0), (bit, 11)),
        word16(0x2, (wide, 0), (bit, 11)),
        word16(0x3, (wide, 0), (bit, 11)),
        word16(0x4, (st.integers(0, 0xFFF), 0)),
        word16(0x5, (st.integers(0, 0xFFF), 0)),
        st.builds(
            lambda x, on, mask: [
                0x3000 | on << 11 | x,
                0x4000 | mask & 0xFFF,
                0x4000 | mask >> 12 & 0xFFF,
                0x5000 | mask >> 24,
            ],
            wide,
            bit,
            mask32,
        ),
        word16(0x6, (st.integers(0, 0xFFF), 0)),
        word16(0x6, (st.integers(0, 0xFFF), 0)),
        word16(0xA, (st.integers(0, 15), 8), (bit, 0)),
        st.sampled_from([[0xE016, 0xF4D2, 0xF000, 0x7000], [0x1005], [0x9123], [0xB000], [0xC777], [0xD00D]]),
    ),
    "evt4": st.one_of(
        st.builds(lambda *a: [cd4(*a)], wide, wide, low6, bit),
        st.builds(lambda mask, *a: [vector4(*a), mask], mask32, wide, wide, low6, bit),
        st.builds(lambda mask, *a: [vector4(*a), mask], mask32, wide, wide, low6, bit),
        st.builds(lambda n, low, on: [0x9 << 28 | low << 22 | 3 << 1 | n << 8 | on], number, low6, bit),
        st.sampled_from([[0xFFFFFFFF], [0x60000016, 0x70000099], [0x00000000], [0x80000123], [0x5FFFFFFF]]),
    ),
}
ACTIONS["evt21_legacy"] = ACTIONS["evt21"]

SHIFT = {"evt3": 12, "dat": 0, "dat1": 0, "dat_trigger": 0}
BITS = {"evt3": 12, "dat": 32, "dat1": 32, "dat_trigger": 32}


@st.composite
def payloads(draw, kind: str) -> bytes:
    shift, bits = SHIFT.get(kind, 6), BITS.get(kind, 28)
    half_second = (1 << 19) >> shift
    small = st.one_of(
        st.just(0),
        st.integers(0, 3),
        st.integers(0, half_second),
        st.integers(-min(10, half_second), 0),
    )
    now = draw(st.one_of(st.integers(0, 2**bits - 1), st.sampled_from([0, 1, 2**bits - 1, 2**bits - 5])))

    def step(by: int) -> int:
        nonlocal now
        # Below zero there is no time to go back to.
        now = max(now + by, 0)
        return now

    if kind.startswith("dat"):
        return draw(dat_payloads(kind, small, step))
    out = draw(st.lists(ACTIONS[kind], max_size=3))  # before the first time word
    out.append([time_word(kind, now)] * 5)
    for _ in range(draw(st.integers(0, 12))):
        if draw(st.integers(0, 7)) == 0:
            out.append([time_word(kind, now)])
            out.append([time_word(kind, step(draw(st.integers(-(2**bits), 2**bits))))] * 5)
        else:
            out.append([time_word(kind, step(draw(small)))])
        out.extend(draw(st.lists(ACTIONS[kind], max_size=12)))
    tail = draw(st.binary(max_size=7))
    return pack(kind, [word for words in out for word in words]) + tail[: len(pack(kind, [0])) - 1]


@st.composite
def dat_payloads(draw, kind: str, small, step) -> bytes:
    inside = st.integers(0, 31)
    anywhere = st.one_of(inside, st.integers(0, 2**14 - 1))

    def record(by: int, pixel) -> int:
        x, y, on = draw(pixel), draw(pixel), draw(bit)
        match kind:
            case "dat":
                return cd_dat(step(by), x, y, on)
            case "dat1":
                return cd_dat1(step(by), x % 512, y % 256, on)
            case _:
                return trigger_dat(step(by), x % 64, on)

    out = [record(0, inside) for _ in range(5)]
    for _ in range(draw(st.integers(0, 30))):
        if draw(st.integers(0, 9)) == 0:
            out.append(record(0, inside))
            out.append(record(draw(st.integers(-(2**32), 2**32)), inside))
            out += [record(0, inside) for _ in range(4)]
        else:
            out.append(record(draw(small), anywhere))
    return pack(kind, out) + draw(st.binary(max_size=7))


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def check_against_oracle(path: Path, kind: str, payload: bytes, geometry, batch_rows: int, threads: int) -> None:
    truth = oracle.DECODERS[kind](payload, geometry)
    opened = evlib.open(path, threads=threads)
    assert rows(opened.read()) == truth.events
    assert rows(opened.triggers.collect()) == truth.triggers
    assert problem_counts(opened) == truth.counts()
    assert (opened.event_count, opened.trigger_count) == (len(truth.events), len(truth.triggers))
    times = [t for _, _, t, _ in truth.events]
    assert opened.time_range == (
        (timedelta(microseconds=min(times)), timedelta(microseconds=max(times))) if times else None
    )
    batches = list(opened.batches(rows=batch_rows))
    assert [row for batch in batches for row in rows(batch)] == truth.events
    assert all(batch.height == batch_rows for batch in batches[:-1])
    # Without an index, and with as little as possible at a time.
    for engine in ENGINES:
        lazy = evlib.load_events(path, batch_rows=batch_rows, threads=threads)
        assert rows(lazy.collect(engine=engine)) == truth.events


@pytest.mark.parametrize("kind", KINDS)
def test_decoders_agree_with_the_oracle(kind, folder):
    @given(st.data(), st.sampled_from(GEOMETRIES), st.integers(1, 40), st.integers(1, 4))
    @settings(max_examples=120)
    def check(data, geometry, batch_rows, threads):
        payload = data.draw(payloads(kind))
        path = folder / f"words.{kind}"
        path.write_bytes(recording(kind, payload, geometry))
        check_against_oracle(path, kind, payload, geometry, batch_rows, threads)

    check()


def long_stream(kind: str, seed: int, count: int) -> bytes:
    """Words in a random mix, some of them very rare: state has to come from far before a cut."""
    rng = np.random.default_rng([seed, *kind.encode()])
    rare = rng.choice([1, 30, 5000], size=8, p=[0.6, 0.2, 0.2])
    picks = rng.random((count, 8)) * rare
    choice = picks.argmin(axis=1)
    r = rng.integers(0, 2**63, count, dtype=np.uint64)
    steps = rng.choice([0, 0, 0, 1, 1, 2, 40, -1], count)
    shift = SHIFT.get(kind, 6)
    jumps = rng.random(count) < 20 / count
    x, y = r % np.uint64(660), (r >> np.uint64(20)) % np.uint64(482)
    on, low = r >> np.uint64(40) & np.uint64(1), r >> np.uint64(44) & np.uint64(63)
    now = 10_000_000 >> shift
    out: list[int] = []
    for at, (which, x_, y_, on_, low_, raw) in enumerate(
        zip(choice.tolist(), x.tolist(), y.tolist(), on.tolist(), low.tolist(), r.tolist(), strict=True)
    ):
        if kind.startswith("dat"):
            now = max(0, now + int(steps[at]))
            if jumps[at]:
                out += [trigger_dat(now, 1, 1) if "trigger" in kind else cd_dat(now, 1, 1, 1)]
                now += raw % 2**31
                out += [trigger_dat(now, 1, 1) if "trigger" in kind else cd_dat(now, 1, 1, 1)] * 5
            match kind:
                case "dat":
                    out.append(cd_dat(now, x_, y_, on_))
                case "dat1":
                    out.append(cd_dat1(now, x_ % 512, y_ % 256, on_))
                case _:
                    out.append(trigger_dat(now, x_ % 64, on_))
            continue
        if jumps[at] or at == 0:
            out.append(time_word(kind, now))
            if at:
                now += raw % 2 ** BITS.get(kind, 28)
            out += [time_word(kind, now)] * 5
        if which == 0:
            now = max(0, now + int(steps[at]))
            out.append(time_word(kind, now))
            continue
        mask = raw & 0xFFFFFFFF & raw >> 31
        match kind, which:
            case "evt2", 1:
                out.append(0xA << 28 | low_ << 22 | x_ % 32 << 8 | on_)
            case "evt2", 2:
                out.append((0xE, 0xF, 0xD)[raw % 3] << 28 | raw % 2**28)
            case "evt2", _:
                out.append(cd2(x_, y_, low_, on_))
            case (("evt21" | "evt21_legacy"), 1):
                out.append(0xA << 60 | low_ << 54 | x_ % 32 << 40 | on_ << 32)
            case (("evt21" | "evt21_legacy"), 2):
                out.append((0xE, 0xF)[raw % 2] << 60 | raw % 2**60)
            case (("evt21" | "evt21_legacy"), _):
                out.append(vector21(x_, y_, low_, on_, mask & raw >> 17))
            case "evt4", 1:
                out.append(0x9 << 28 | low_ << 22 | x_ % 32 << 8 | on_)
            case "evt4", 2:
                out.append((0x6, 0x7, 0xF)[raw % 3] << 28 | raw % 2**28)
            case "evt4", (3 | 4 | 5):
                # Masks that look like the head of a vector, in runs.
                out += [vector4(x_, y_, low_, on_), (raw & 0x3) << 28 | 0xC << 28 | mask if raw % 3 else mask]
            case "evt4", _:
                out.append(cd4(x_, y_, low_, on_))
            case "evt3", 1:
                out.append(y_)
            case "evt3", 2:
                out.append(0x6000 | raw & 0xFFF)
            case "evt3", 3:
                out.append(0x3000 | on_ << 11 | x_)
            case "evt3", 4:
                out.append(0x4000 | raw & 0xFFF)
            case "evt3", 5:
                out.append(0x5000 | raw & 0xFF)
            case "evt3", 6:
                out.append((0xA001, 0xA600, 0xE016, 0xF123, 0x7003, 0x0800 | y_, 0x1000)[raw % 7])
            case "evt3", _:
                out.append(0x2000 | on_ << 11 | x_)
    return pack(kind, out)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_long_streams_agree_with_the_oracle(kind, seed, folder):
    """Longer than a segment, so that decoding starts in the middle."""
    payload = long_stream(kind, seed, {"evt3": 400_000, "evt21": 80_000, "evt21_legacy": 80_000}.get(kind, 150_000))
    assert len(payload) > 2 * (256 << 10)
    geometry = (640, 480)
    path = folder / f"long.{kind}"
    path.write_bytes(recording(kind, payload, geometry))
    truth = oracle.DECODERS[kind](payload, geometry)
    expected = pl.DataFrame(truth.events, schema=list(evlib._scan.SCHEMA), orient="row")
    expected = expected.cast(evlib._scan.SCHEMA)
    for threads in (1, 3):
        opened = evlib.open(path, threads=threads)
        assert_frame_equal(opened.read(), expected)
        assert rows(opened.triggers.collect()) == truth.triggers
        assert problem_counts(opened) == truth.counts()
        assert_frame_equal(pl.concat([expected.clear(), *opened.batches(rows=20_011)]), expected)
        # Not indexed: what is planned while decoding.
        assert_frame_equal(evlib.load_events(path, threads=threads, batch_rows=30_000).collect(), expected)
    t = expected["timestamp"].dt.total_microseconds()
    if kind == "dat_trigger":
        assert expected.is_empty()
        return
    for low, high in np.random.default_rng(seed).choice(t.to_numpy(), (5, 2)).tolist():
        window = evlib.read_events(path, time_range=(low, high))
        assert_frame_equal(window, expected.filter((t >= low) & (t < high)))


# --- queries -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["evt2", "evt21", "evt3", "evt4", "dat"])
def queried(request, folder):
    """A file of several segments, with times that go back, and its plain frame."""
    kind = request.param
    path = folder / f"queried.{kind}"
    payload = long_stream(kind, 7, {"evt3": 300_000, "evt21": 70_000}.get(kind, 140_000))
    path.write_bytes(recording(kind, payload))
    return path, evlib.read_events(path)


def times(frame: pl.DataFrame) -> list[int]:
    values = frame["timestamp"].dt.total_microseconds()
    return [*values.gather_every(max(1, values.len() // 20)).to_list(), values.min(), values.max()]


pixels = st.one_of(st.integers(-3, 700), st.sampled_from([-40_000, 32_767, 40_000, 2**40]))
closed = st.sampled_from(["both", "left", "right", "none"])


def compare(column: pl.Expr, op: str, value) -> pl.Expr:
    match op:
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
        case ">=":
            return column >= value
        case "==":
            return column == value
        case _:
            return column != value


ops = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])


def durations(us: int) -> st.SearchStrategy:
    return st.sampled_from(
        [
            timedelta(microseconds=us),
            pl.duration(microseconds=us),
            pl.lit(us // 1000, pl.Duration("ms")),
            pl.lit(us, pl.Duration("us")),
            pl.lit(us * 1000 + 1, pl.Duration("ns")),
        ]
    )


def atoms(frame: pl.DataFrame) -> st.SearchStrategy[pl.Expr]:
    time = st.sampled_from(times(frame)).flatmap(lambda us: st.integers(us - 2, us + 2)).map(lambda us: max(us, 0))
    x, y, p, t = pl.col("x"), pl.col("y"), pl.col("polarity"), pl.col("timestamp")
    column = st.sampled_from([x, y])
    return st.one_of(
        st.builds(compare, column, ops, pixels),
        st.builds(lambda c, op, v: compare(pl.lit(v), op, c), column, ops, st.integers(0, 700)),
        st.builds(lambda c, op, v: compare(c, op, pl.lit(v, pl.Int16)), column, ops, st.integers(0, 700)),
        st.builds(lambda c, op, v: compare(c, op, pl.lit(v, pl.Float64)), column, ops, st.floats(-5, 700)),
        st.builds(
            lambda c, v, w, k: c.is_between(v, v + w, closed=k),
            column,
            st.integers(-3, 640),
            st.integers(0, 90),
            closed,
        ),
        st.builds(compare, st.just(p), ops, st.integers(-2, 2)),
        time.flatmap(durations).flatmap(lambda value: ops.map(lambda op: compare(t, op, value))),
        st.builds(
            lambda a, b, k: t.is_between(timedelta(microseconds=a), timedelta(microseconds=b), closed=k),
            time,
            time,
            closed,
        ),
        st.builds(lambda op, us: compare(t.dt.total_microseconds(), op, us), ops, time),
        st.builds(lambda op, us: compare(t.cast(pl.Int64), op, us), ops, time),
        st.builds(lambda op, us: compare(t + timedelta(microseconds=7), op, timedelta(microseconds=us)), ops, time),
        st.builds(lambda op, v, k: compare(x.cast(pl.Int32) * k - y, op, v), ops, pixels, st.integers(-2, 2)),
        st.builds(lambda op, v: compare(-x, op, -v), ops, st.integers(0, 640)),
        st.builds(lambda op: compare(x, op, y), ops),
        st.builds(lambda op, v: compare(x.max(), op, v), ops, st.integers(0, 640)),
        st.builds(lambda v: x.is_in(v), st.lists(st.integers(0, 640), max_size=4)),
        st.sampled_from(
            [pl.lit(True), pl.lit(False), x.is_null(), t.is_not_null(), x < pl.lit(None, pl.Int16), x.shift(1) > 5]
        ),
    )


def predicates(frame: pl.DataFrame) -> st.SearchStrategy[pl.Expr]:
    return st.recursive(
        atoms(frame),
        lambda inner: st.one_of(
            st.builds(lambda a, b: a & b, inner, inner),
            st.builds(lambda a, b: a & b, inner, inner),
            st.builds(lambda a, b: a | b, inner, inner),
            st.builds(lambda a, b: a ^ b, inner, inner),
            st.builds(lambda a: ~a, inner),
            st.builds(lambda a, b: pl.when(a).then(b).otherwise(pl.col("y") > 100), inner, inner),
        ),
        max_leaves=5,
    )


projections = st.lists(st.sampled_from(["x", "y", "timestamp", "polarity"]), min_size=1, max_size=4, unique=True)
counts = st.one_of(st.integers(0, 50), st.integers(0, 300_000))


@st.composite
def steps(draw, frame: pl.DataFrame):
    """One step of a query, as a function of a frame, lazy or not."""
    match draw(st.integers(0, 5)):
        case 0 | 1:
            predicate = draw(predicates(frame))
            return lambda query: query.filter(predicate)
        case 2:
            n = draw(counts)
            return lambda query: query.head(n)
        case 3:
            n = draw(counts)
            return lambda query: query.tail(n)
        case 4:
            offset, length = draw(st.one_of(counts, st.integers(-200, -1))), draw(counts)
            return lambda query: query.slice(offset, length)
        case _:
            k = draw(st.integers(1, 3))
            return lambda query: query.with_columns(x=pl.col("x") + k)


def check_query(path, frame, query, batch_rows, threads) -> None:
    expected = query(frame.lazy()).collect(engine="in-memory")
    for engine in ENGINES:
        lazy = query(evlib.load_events(path, batch_rows=batch_rows, threads=threads))
        assert lazy.collect_schema() == expected.schema
        assert_frame_equal(lazy.collect(engine=engine), expected)


batch_sizes = st.sampled_from([None, 777, 20_000, 10**7])


def test_any_predicate(queried):
    path, frame = queried

    @given(predicates(frame), projections, batch_sizes, st.integers(1, 3))
    @settings(max_examples=60)
    # x outside the range of its type, on both sides of a comparison
    @example(pl.col("x") < 40_000, ["x"], None, 1)
    @example((pl.col("x") > -40_000) & (pl.col("timestamp") < timedelta(0)), ["y"], None, 1)
    def check(predicate, columns, batch_rows, threads):
        check_query(path, frame, lambda query: query.filter(predicate).select(columns), batch_rows, threads)

    check()


def test_any_query(queried):
    path, frame = queried

    @given(st.lists(steps(frame), min_size=1, max_size=3), projections, batch_sizes, st.integers(1, 3))
    def check(actions, columns, batch_rows, threads):
        def query(events):
            for action in actions:
                events = action(events)
            return events.select(columns)

        check_query(path, frame, query, batch_rows, threads)

    check()


def test_filter_before_head_and_head_before_filter(queried):
    path, frame = queried
    middle = frame["timestamp"][frame.height // 2]
    for predicate in (pl.col("x") > 300, pl.col("timestamp") > middle, pl.col("polarity") == 1):
        for n in (0, 1, 1000, frame.height // 2, 2 * frame.height):
            for query in (
                lambda query, p=predicate, n=n: query.filter(p).head(n),
                lambda query, p=predicate, n=n: query.head(n).filter(p),
                lambda query, p=predicate, n=n: query.head(n).filter(p).head(n // 3),
                lambda query, p=predicate, n=n: query.filter(p).tail(n),
                lambda query, p=predicate, n=n: query.filter(p).slice(n, 10),
            ):
                check_query(path, frame, query, 50_000, 2)


def test_joins_and_groups(queried):
    path, frame = queried

    def groups(query):
        return query.group_by("polarity").agg(pl.len(), pl.col("x").sum(), pl.col("timestamp").max()).sort("polarity")

    check_query(path, frame, groups, 10_000, 2)
    for engine in ENGINES:
        lazy = evlib.load_events(path)
        both = pl.concat([lazy.filter(pl.col("x") < 10), lazy.head(5)]).collect(engine=engine)
        assert_frame_equal(both, pl.concat([frame.filter(pl.col("x") < 10), frame.head(5)]))
        first, second = pl.collect_all([lazy.filter(pl.col("y") > 400), lazy.select("x")], engine=engine)
        assert_frame_equal(first, frame.filter(pl.col("y") > 400))
        assert_frame_equal(second, frame.select("x"))


def test_any_selection_of_read_events(queried):
    path, frame = queried
    microseconds = frame["timestamp"].dt.total_microseconds()
    bounds = st.one_of(st.none(), st.sampled_from(times(frame)), st.integers(-10, 2**40))

    @given(
        projections,
        st.tuples(bounds, bounds),
        st.one_of(st.none(), st.tuples(*[st.integers(-50, 700)] * 2, *[st.integers(0, 700)] * 2)),
        st.sampled_from([None, 1, -1]),
        st.sampled_from([None, 1, 997, 10**6]),
    )
    @settings(max_examples=40)
    def check(columns, time_range, region, polarity, batch_rows):
        keep = pl.lit(True)
        start, end = time_range
        if start is not None:
            keep &= pl.lit(microseconds) >= start
        if end is not None:
            keep &= pl.lit(microseconds) < end
        if region is not None:
            left, top, width, height = region
            keep &= pl.col("x").is_between(left, left + width, closed="left")
            keep &= pl.col("y").is_between(top, top + height, closed="left")
        if polarity is not None:
            keep &= pl.col("polarity") == polarity
        expected = frame.filter(keep).select(columns)
        selection = {"columns": columns, "time_range": time_range, "region": region, "polarity": polarity}
        assert_frame_equal(evlib.read_events(path, **selection), expected)
        if batch_rows != 1:
            batches = list(evlib.open(path).batches(rows=batch_rows, **selection))
            assert_frame_equal(pl.concat([expected.clear(), *batches]), expected)

    check()


@pytest.mark.parametrize("kind", RAW_KINDS)
def test_no_words_at_all(kind, folder):
    path = folder / f"none.{kind}"
    path.write_bytes(header(kind))
    for engine in ENGINES:
        frame = evlib.load_events(path).filter(pl.col("x") > 3).collect(engine=engine)
        assert frame.schema == pl.Schema(evlib._scan.SCHEMA)
        assert frame.is_empty()
