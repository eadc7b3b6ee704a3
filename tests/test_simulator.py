"""The simulator: the schema and order of its events, its model, its arguments."""

import math
import subprocess
import sys
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

import evlib
from evlib import simulator
from evlib.exceptions import ArgumentError

SCHEMA = {"x": pl.Int16, "y": pl.Int16, "timestamp": pl.Duration("us"), "polarity": pl.Int8}
SMALL = (96, 64)


def micros(events):
    return events["timestamp"].dt.total_microseconds().to_numpy()


def quiet(duration, **kwargs):
    """A recording without noise."""
    return evlib.simulate(duration, geometry=SMALL, noise_rate_hz=0, hot_pixels=0, **kwargs)


def test_numpy_is_not_imported_with_the_package():
    code = "import evlib, sys; assert 'numpy' not in sys.modules; evlib.simulate; assert 'numpy' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("duration", [1, 999, 1000, 12_345])
@pytest.mark.parametrize("geometry", [(1, 1), (3, 200), SMALL])
def test_events_are_as_the_schema_says(duration, geometry):
    events = evlib.simulate(duration, geometry=geometry, noise_rate_hz=2000, hot_pixels=1)
    assert events.schema == SCHEMA
    assert events.n_chunks("all") == [1, 1, 1, 1]
    assert not any(events.null_count().row(0))
    times = micros(events)
    if events.height:
        assert 0 <= events["x"].min() <= events["x"].max() < geometry[0]
        assert 0 <= events["y"].min() <= events["y"].max() < geometry[1]
        assert 0 <= times[0] <= times[-1] < duration
        assert set(events["polarity"]) <= {-1, 1}
    key = (times * 2**15 + events["y"].to_numpy()) * 2**15 + events["x"].to_numpy()
    assert (np.diff(key) >= 0).all()
    for name in ("x", "y", "polarity"):
        events[name].to_numpy(allow_copy=False)


def test_no_events_still_have_the_schema():
    events = quiet(1)
    assert events.is_empty()
    assert events.schema == SCHEMA


def test_the_same_seed_gives_the_same_events():
    first, second, other = (evlib.simulate(20_000, geometry=SMALL, seed=seed) for seed in (5, 5, 6))
    assert first.height > 100
    assert first.equals(second)
    assert not first.equals(other)


def test_a_timedelta_is_its_microseconds():
    assert evlib.simulate(timedelta(milliseconds=5), geometry=SMALL).equals(evlib.simulate(5000, geometry=SMALL))


def test_a_longer_recording_begins_like_a_shorter_one():
    start, whole = quiet(20_000), quiet(40_000)
    assert whole.head(start.height).equals(start)
    assert whole.height > start.height


def test_noise_leaves_the_scene_alone():
    seen = quiet(20_000, seed=2)
    noisy = evlib.simulate(20_000, geometry=SMALL, seed=2, noise_rate_hz=5, hot_pixels=2)
    assert noisy.height > seen.height
    assert seen.join(noisy, on=list(SCHEMA), how="anti").is_empty()


def test_rates_of_the_default_are_those_of_a_camera():
    events = evlib.simulate(20_000)
    assert 5e6 < events.height / 0.020 < 30e6
    assert 0.3 < (events["polarity"] > 0).mean() < 0.7


def test_background_activity_is_poisson():
    pixels, seconds, rate = 10_000, 0.1, 40.0
    common = {"geometry": (100, 100), "hot_pixels": 0, "contrast_threshold": 10.0, "threshold_mismatch": 0.0}
    assert evlib.simulate(100_000, noise_rate_hz=0, **common).is_empty()
    events = evlib.simulate(100_000, noise_rate_hz=rate, **common)
    expected = pixels * seconds * rate
    assert abs(events.height - expected) < 5 * math.sqrt(expected)
    assert abs((events["polarity"] > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(expected)
    # Mean and variance of the counts of the pixels are the same for a Poisson process.
    counts = np.bincount(events["y"].to_numpy().astype(int) * 100 + events["x"].to_numpy(), minlength=pixels)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.1)


def test_hot_pixels_fire_at_their_rate_and_polarity():
    events = evlib.simulate(
        200_000, geometry=SMALL, noise_rate_hz=0, hot_pixels=5, hot_pixel_rate_hz=1000, contrast_threshold=10
    )
    pixels = events.group_by("x", "y").agg(pl.len(), polarities=pl.col("polarity").n_unique())
    assert pixels.height == 5
    assert set(pixels["polarities"]) == {1}
    assert pixels["len"].is_between(100 - 50, 300 + 90).all()


def test_pixels_that_fire_again_rested():
    period = 700
    free = evlib.simulate(30_000, geometry=SMALL, hot_pixels=3, hot_pixel_rate_hz=20_000)
    rested = evlib.simulate(
        30_000, geometry=SMALL, hot_pixels=3, hot_pixel_rate_hz=20_000, refractory=timedelta(microseconds=period)
    )
    # The plain rule, event by event.
    last: dict[tuple[int, int], int] = {}
    expected = []
    for x, y, time, polarity in free.with_columns(pl.col("timestamp").dt.total_microseconds()).iter_rows():
        if time - last.get((x, y), -period) >= period:
            last[x, y] = time
            expected.append((x, y, time, polarity))
    assert 0 < len(expected) < free.height
    assert rested.with_columns(pl.col("timestamp").dt.total_microseconds()).rows() == expected


def one_pixel(levels, *, threshold=0.5, step=1000):
    """Events of a pixel that sees these levels, beginning in the middle between two thresholds."""
    rng = np.random.default_rng(0)
    pixels = simulator._Pixels(np.full((1, 1), levels[0], np.float32), threshold, 0.0, rng)
    pixels._reference[:] = levels[0]
    found = []
    for index, level in enumerate(levels[1:]):
        image = np.full((1, 1), level, np.float32)
        pixel, time, on = pixels.advance(image, index * step, (index + 1) * step)
        assert (pixel == 0).all()
        found += list(zip(time.tolist(), on.tolist(), strict=True))
    return found


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0.0, 0.4], []),
        ([0.0, 0.625], [(800, True)]),
        ([0.0, 2.0], [(250, True), (500, True), (750, True), (999, True)]),
        ([0.0, -1.25], [(400, False), (800, False)]),
        # The reference level stays at the last crossing: 0.5, so that the fall to 0.25 is not yet an event.
        ([0.0, 0.625, 0.25, -0.25], [(800, True), (2500, False)]),
        ([0.0, 0.25, 0.75], [(1500, True)]),
    ],
)
def test_crossings_are_where_linear_interpolation_puts_them(levels, expected):
    assert one_pixel(levels) == expected


def test_a_pixel_without_change_inside_a_step_gives_no_warning():
    rng = np.random.default_rng(0)
    pixels = simulator._Pixels(np.zeros((1, 1), np.float32), 0.5, 0.0, rng)
    pixels._reference[:] = -0.5  # as rounding may leave it
    pixel, time, on = pixels.advance(np.zeros((1, 1), np.float32), 10, 20)
    assert (pixel.tolist(), time.tolist(), on.tolist()) == ([0], [10], [True])


def test_thresholds_differ_and_stay_positive():
    pixels = simulator._Pixels(np.zeros((100, 100), np.float32), 0.2, 0.2, np.random.default_rng(1))
    assert pixels._threshold.min() == np.float32(0.01)
    assert pixels._threshold.std() > 0.1


def test_a_higher_threshold_gives_fewer_events():
    heights = [quiet(20_000, contrast_threshold=threshold).height for threshold in (0.1, 0.2, 0.4)]
    assert heights[0] > 1.5 * heights[1] > 2.25 * heights[2] > 0


def test_it_is_written_and_read_back(tmp_path):
    events = evlib.simulate(20_000, geometry=SMALL, seed=9)
    for name in ("evt2", "evt3"):
        path = tmp_path / f"{name}.raw"
        evlib.write_events(events, path, format=name, geometry=SMALL)
        assert evlib.read_events(path).equals(events)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"duration": 0}, "`duration` must be from 1"),
        ({"duration": -1}, "`duration` must be from 1"),
        ({"duration": 2**46}, "`duration` must be from 1"),
        ({"duration": 0.1}, "`duration` takes timedeltas or integer microseconds, found 0.1"),
        ({"duration": True}, "`duration` takes timedeltas"),
        ({"geometry": (0, 5)}, "`geometry` must be from 1 to 32768, found 0"),
        ({"geometry": (5, 32769)}, "`geometry` must be from 1 to 32768"),
        ({"geometry": (5,)}, r"`geometry` is \(width, height\)"),
        ({"geometry": 5}, r"`geometry` is \(width, height\)"),
        ({"geometry": (5.0, 5)}, "`geometry` is an integer"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"seed": None}, "`seed` is an integer"),
        ({"contrast_threshold": 0}, "`contrast_threshold` must be from 0.01 to 10"),
        ({"contrast_threshold": float("nan")}, "`contrast_threshold` must be from 0.01 to 10, found nan"),
        ({"contrast_threshold": "1"}, "`contrast_threshold` is a number"),
        ({"threshold_mismatch": -0.1}, "`threshold_mismatch` must be from 0 to 10"),
        ({"noise_rate_hz": -1}, "`noise_rate_hz` must be from 0 to 1e"),
        ({"hot_pixels": 51, "geometry": (5, 10)}, "`hot_pixels` must be from 0 to 50, found 51"),
        ({"hot_pixel_rate_hz": float("inf")}, "`hot_pixel_rate_hz` must be from 0"),
        ({"refractory": -1}, "`refractory` must be from 0"),
        ({"step": 0}, "`step` must be from 1"),
        ({"step": timedelta(0)}, "`step` must be from 1"),
    ],
)
def test_arguments_that_cannot_be(kwargs, message):
    with pytest.raises(ArgumentError, match=message):
        evlib.simulate(**kwargs)
