"""A small event-camera simulator: recordings for examples, tests and benchmarks, without any data.

A moving view of a textured scene with discs and a fan in front of it gives a log-intensity image at every step; each
pixel compares it with its own reference level and gives an event per threshold crossing, at the time that linear
interpolation inside the step says. Background activity and hot pixels are added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from evlib import _arguments
from evlib.exceptions import ArgumentError

if TYPE_CHECKING:
    from datetime import timedelta

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Integers = NDArray[np.int64]
    Bools = NDArray[np.bool_]

__all__ = ["simulate"]

_LONGEST_US = 2**46
"""Exclusive limit of the duration: what EVT3 can store."""

_LEAST_THRESHOLD = 0.01
"""Lowest threshold of a pixel; keeps the number of crossings in a step small."""


def simulate(
    duration: timedelta | int = 100_000,
    *,
    geometry: tuple[int, int] = (1280, 720),
    seed: int = 0,
    contrast_threshold: float = 0.2,
    threshold_mismatch: float = 0.02,
    noise_rate_hz: float = 0.25,
    hot_pixels: int | None = None,
    hot_pixel_rate_hz: float = 2000.0,
    refractory: timedelta | int = 0,
    step: timedelta | int = 1000,
) -> pl.DataFrame:
    """Simulate a recording of moving edges over a textured scene, with sensor noise.

    The same arguments give the same events on the same version of NumPy. The work is proportional to the number of
    pixels times steps (about 10 ms a step of 1280 x 720 on one core); memory is 13 bytes an event, twice while the
    result is put together, and about 60 bytes a pixel.

    Parameters
    ----------
    duration
        Length of the recording, a timedelta or integer microseconds, from 1 us to below 2^46 us.
    geometry
        Width and height of the sensor in pixels, each from 1 to 32768. Objects and speeds scale with the width.
    seed
        Seed of scene and noise, 0 or more.
    contrast_threshold
        Change of log-intensity (natural logarithm) that makes an event, from 0.01 to 10.
    threshold_mismatch
        Standard deviation of the thresholds from pixel to pixel, in the same unit, from 0 to 10. No pixel's threshold
        is below 0.01.
    noise_rate_hz
        Background activity: mean rate of random events of each pixel, in events a second, from 0 to 1e6. These
        events are Poisson distributed, of either polarity, and leave the pixel's reference level alone.
    hot_pixels
        Number of pixels that fire whatever they see, from 0 to the number of pixels; by default 24.
    hot_pixel_rate_hz
        Mean rate of hot pixels, in events a second, from 0 to 1e6; the rate of each lies between half and one and a
        half times that.
    refractory
        Shortest time between two events of a pixel, a timedelta or integer microseconds; events that come earlier are
        lost. 0 for none.
    step
        Time between two images of the scene, a timedelta or integer microseconds, from 1 us.

    Returns
    -------
    polars.DataFrame
        Columns, one chunk each and without nulls:

        - `x` Int16, 0 <= x < width, and `y` Int16, 0 <= y < height;
        - `timestamp` Duration(us), 0 <= timestamp < duration, never decreasing; events of the same time are ordered
          by row and then by column, as sensors read them out;
        - `polarity` Int8, 1 (brighter) or -1 (darker).

    Raises
    ------
    evlib.exceptions.ArgumentError
        An argument outside its range; it is also a ValueError.

    Notes
    -----
    Generation of events: [1]_, a pixel fires when its log-intensity has changed by the threshold since its last
    event. Linear interpolation of the log-intensity between two images, for the time of each crossing, and thresholds
    that differ from pixel to pixel: [2]_. Left out: the bandwidth and latency of the photoreceptor, leak events and
    the read-out's saturation.

    .. [1] P. Lichtsteiner, C. Posch, T. Delbruck, "A 128 x 128 120 dB 15 us latency asynchronous temporal contrast
       vision sensor", IEEE Journal of Solid-State Circuits 43(2), 2008.
    .. [2] H. Rebecq, D. Gehrig, D. Scaramuzza, "ESIM: an open event camera simulator", CoRL 2018.

    Examples
    --------
    >>> import evlib
    >>> events = evlib.simulate(20_000, geometry=(64, 48), seed=7)
    >>> dict(events.schema)
    {'x': Int16, 'y': Int16, 'timestamp': Duration(time_unit='us'), 'polarity': Int8}
    >>> events["timestamp"].is_sorted(), events.equals(evlib.simulate(20_000, geometry=(64, 48), seed=7))
    (True, True)
    """
    duration_us = _arguments.duration_us(duration, "duration", low=1, high=_LONGEST_US - 1)
    refractory_us = _arguments.duration_us(refractory, "refractory", low=0, high=_LONGEST_US - 1)
    step_us = _arguments.duration_us(step, "step", low=1, high=_LONGEST_US - 1)
    width, height = _arguments.size(geometry)
    threshold = _number(contrast_threshold, "contrast_threshold", _LEAST_THRESHOLD, 10)
    mismatch = _number(threshold_mismatch, "threshold_mismatch", 0, 10)
    noise_hz = _number(noise_rate_hz, "noise_rate_hz", 0, 1e6)
    most_hot = width * height
    hot_count = min(24, most_hot)
    if hot_pixels is not None:
        hot_count = _arguments.integer(hot_pixels, "hot_pixels", low=0, high=most_hot)
    hot_hz = _number(hot_pixel_rate_hz, "hot_pixel_rate_hz", 0, 1e6)

    # Scene, pixels and noise draw from streams of their own: a change of the noise leaves the scene as it is.
    seeds = np.random.SeedSequence(_arguments.integer(seed, "seed", low=0)).spawn(3)
    scene_rng, pixel_rng, noise_rng = (np.random.default_rng(child) for child in seeds)
    scene = _Scene(width, height, scene_rng)
    pixels = _Pixels(scene.render(0.0), threshold, mismatch, pixel_rng)
    noise = _Noise(width * height, noise_hz, hot_count, hot_hz, noise_rng)
    last = np.full(width * height, -refractory_us, np.int64) if refractory_us else None

    xs: list[NDArray[np.int16]] = []
    ys: list[NDArray[np.int16]] = []
    times: list[Integers] = []
    polarities: list[NDArray[np.int8]] = []
    for start in range(0, duration_us, step_us):
        end = min(start + step_us, duration_us)
        seen = pixels.advance(scene.render(end * 1e-6), start, end)
        pixel, time, on = (np.concatenate(pair) for pair in zip(seen, noise.between(start, end), strict=True))
        order = np.lexsort((pixel, time))
        pixel, time, on = pixel[order], time[order], on[order]
        if last is not None:
            kept = _rested(pixel, time, last, refractory_us)
            pixel, time, on = pixel[kept], time[kept], on[kept]
        y, x = np.divmod(pixel, width)
        xs.append(x.astype(np.int16))
        ys.append(y.astype(np.int16))
        times.append(time)
        polarities.append(np.where(on, np.int8(1), np.int8(-1)))

    return pl.DataFrame(
        [
            pl.Series("x", np.concatenate(xs)),
            pl.Series("y", np.concatenate(ys)),
            pl.Series("timestamp", np.concatenate(times)).cast(pl.Duration("us")),
            pl.Series("polarity", np.concatenate(polarities)),
        ]
    )


class _Pixels:
    """The sensor's pixels: reference level and threshold of each."""

    def __init__(self, image: Floats, threshold: float, mismatch: float, rng: np.random.Generator) -> None:
        self._previous = image
        drawn = rng.normal(threshold, mismatch, image.shape).astype(np.float32)
        self._threshold = np.maximum(drawn, np.float32(_LEAST_THRESHOLD))
        # As if the camera had been looking for a while: the last event of each pixel lies at another level.
        self._reference = image + (rng.random(image.shape, np.float32) - np.float32(0.5)) * self._threshold
        self._change = np.empty_like(image)

    def advance(self, image: Floats, start: int, end: int) -> tuple[Integers, Integers, Bools]:
        """Pixel, time and sign of the crossings between the previous image and this one."""
        np.subtract(image, self._reference, out=self._change)
        np.divide(self._change, self._threshold, out=self._change)
        fired = np.flatnonzero((self._change >= 1) | (self._change <= -1))
        count = np.abs(self._change.ravel()[fired]).astype(np.int64)
        on = self._change.ravel()[fired] > 0
        level = self._reference.ravel()[fired].astype(np.float64)
        size = np.where(on, 1.0, -1.0) * self._threshold.ravel()[fired]
        before = self._previous.ravel()[fired].astype(np.float64)
        change = image.ravel()[fired] - before
        # Rounding of the reference level may put a crossing slightly outside the step, or into one without change.
        slope = np.divide(end - start, change, out=np.zeros_like(change), where=change != 0)
        self._reference.ravel()[fired] = level + count * size
        self._previous = image

        which = np.repeat(np.arange(len(fired)), count)
        crossing = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + 1
        offset = (level[which] + crossing * size[which] - before[which]) * slope[which]
        time = start + np.clip(offset, 0, end - start - 1).astype(np.int64)
        return fired[which], time, on[which]


class _Noise:
    """Background activity and hot pixels."""

    def __init__(self, pixels: int, rate_hz: float, hot: int, hot_rate_hz: float, rng: np.random.Generator) -> None:
        self._pixels = pixels
        self._rate_hz = rate_hz * pixels
        self._rng = rng
        self._hot = rng.choice(pixels, hot, replace=False).astype(np.int64)
        self._hot_rate_hz = hot_rate_hz * rng.uniform(0.5, 1.5, hot)
        self._hot_on = rng.random(hot) < 0.75

    def between(self, start: int, end: int) -> tuple[Integers, Integers, Bools]:
        """Pixel, time and sign of the noise events of a step."""
        rng, seconds = self._rng, (end - start) * 1e-6
        count = int(rng.poisson(self._rate_hz * seconds))
        hot = np.repeat(np.arange(len(self._hot)), rng.poisson(self._hot_rate_hz * seconds))
        pixel = np.concatenate((rng.integers(0, self._pixels, count), self._hot[hot]))
        on = np.concatenate((rng.random(count) < 0.5, self._hot_on[hot]))
        return pixel, rng.integers(start, end, len(pixel)), on


def _rested(pixel: Integers, time: Integers, last: Integers, refractory: int) -> Bools:
    """Which events come after the refractory period of their pixel; `last` is the time of each pixel's last event."""
    order = np.argsort(pixel, kind="stable")
    starts = np.flatnonzero(np.diff(pixel[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    kept = np.zeros(len(pixel), np.bool_)
    # The n-th events of all pixels are decided together, after all the events before them.
    by_rank = order[np.argsort(rank, kind="stable")]
    for group in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]):
        rested = group[time[group] - last[pixel[group]] >= refractory]
        kept[rested] = True
        last[pixel[rested]] = time[rested]
    return kept


@dataclass(frozen=True)
class _Disc:
    """A disc that bounces between the borders of the image; lengths in pixels, speeds in pixels a second."""

    radius: float
    level: float
    origin: tuple[float, float]
    speed: tuple[float, float]

    def centre(self, seconds: float, width: int, height: int) -> tuple[float, float]:
        x, y = (
            _bounce(origin + speed * seconds, size)
            for origin, speed, size in zip(self.origin, self.speed, (width, height), strict=True)
        )
        return x, y


class _Scene:
    """Log-intensity seen by the camera: a textured background that shakes, discs that bounce, a fan that turns."""

    def __init__(self, width: int, height: int, rng: np.random.Generator) -> None:
        self._width, self._height = width, height
        self._unit = unit = width / 1280
        self._shake = (48 * unit, 28 * unit)
        self._margin = margin = math.ceil(48 * unit) + 2
        self._texture = _texture(width + 2 * margin, height + 2 * margin, unit, rng)
        self._down = np.diff(self._texture, axis=0)
        self._discs = [
            _Disc(
                radius=float(rng.uniform(20, 70)) * unit,
                level=float(rng.choice((-2.6, -0.1)) + rng.uniform(-0.2, 0.2)),
                origin=(float(rng.uniform(0, width)), float(rng.uniform(0, height))),
                speed=(float(rng.uniform(-900, 900)) * unit, float(rng.uniform(-500, 500)) * unit),
            )
            for _ in range(6)
        ]

    def render(self, seconds: float) -> Floats:
        """Image at a time, of shape (height, width)."""
        dx, dy = self._shake
        left = self._margin + dx * math.sin(2 * math.pi * 1.7 * seconds)
        top = self._margin + dy * math.sin(2 * math.pi * 2.3 * seconds + 0.7)
        column, row = int(left), int(top)
        rows = slice(row, row + self._height)
        columns = slice(column, column + self._width + 1)
        wide = self._down[rows, columns] * np.float32(top - row)
        wide += self._texture[rows, columns]
        image = np.diff(wide, axis=1)
        image *= np.float32(left - column)
        image += wide[:, :-1]
        for disc in self._discs:
            self._draw_disc(image, disc, *disc.centre(seconds, self._width, self._height))
        self._draw_fan(image, 2 * math.pi * 3.0 * seconds)
        return image

    def _box(self, x: float, y: float, reach: float) -> tuple[slice, slice, Floats, Floats]:
        """Part of the image within `reach` of a point, and the distances of its columns and rows from it."""
        columns = slice(max(0, math.floor(x - reach)), max(0, min(self._width, math.ceil(x + reach) + 1)))
        rows = slice(max(0, math.floor(y - reach)), max(0, min(self._height, math.ceil(y + reach) + 1)))
        across = np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(x)
        down = np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(y)
        return rows, columns, across[None, :], down[:, None]

    def _draw_disc(self, image: Floats, disc: _Disc, x: float, y: float) -> None:
        rows, columns, across, down = self._box(x, y, disc.radius + 1)
        covered = np.clip(np.float32(disc.radius + 0.5) - np.sqrt(across**2 + down**2), 0, 1)
        part = image[rows, columns]
        part += covered * (np.float32(disc.level) - part)

    def _draw_fan(self, image: Floats, angle: float) -> None:
        length, breadth = 0.2 * self._height, max(9 * self._unit, 1.0)
        rows, columns, across, down = self._box(0.74 * self._width, 0.5 * self._height, length + 1)
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        along = np.abs(across * cos + down * sin)
        aside = np.abs(down * cos - across * sin)
        covered = _bar(along, aside, length, breadth)
        np.maximum(covered, _bar(aside, along, length, breadth), out=covered)
        part = image[rows, columns]
        part += covered * (np.float32(-0.2) - part)


def _bar(along: Floats, aside: Floats, length: float, breadth: float) -> Floats:
    """How much of each pixel a bar covers, given the pixel's distances from its two axes."""
    lengthwise = np.clip(np.float32(length + 0.5) - along, 0, 1)
    covered: Floats = lengthwise * np.clip(np.float32(breadth + 0.5) - aside, 0, 1)
    return covered


def _texture(width: int, height: int, unit: float, rng: np.random.Generator) -> Floats:
    """Log-intensity of a static scene: overlapping plain shapes, softened by a pixel, and a faint grain."""
    texture = np.full((height, width), -1.4, np.float32)
    for _ in range(70):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        half_width, half_height = unit * (12 + 130 * rng.random(2) ** 2)
        level = np.float32(rng.uniform(-2.3, -0.5))
        columns = slice(max(0, int(x - half_width)), int(x + half_width) + 1)
        rows = slice(max(0, int(y - half_height)), int(y + half_height) + 1)
        part = texture[rows, columns]
        if rng.random() < 0.5:
            part[:] = level
        else:
            across = (np.arange(part.shape[1]) + columns.start - x) / half_width
            down = (np.arange(part.shape[0]) + rows.start - y) / half_height
            part[across[None, :] ** 2 + down[:, None] ** 2 < 1] = level
    texture += rng.normal(0, 0.015, texture.shape).astype(np.float32)
    for axis in (0, 1):
        ahead, behind = np.roll(texture, -1, axis), np.roll(texture, 1, axis)
        texture = np.float32(0.5) * texture + np.float32(0.25) * (ahead + behind)
    return texture


def _bounce(position: float, size: int) -> float:
    """Position between 0 and `size` of a point that is reflected there."""
    return size - abs(position % (2 * size) - size)


def _number(value: float, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ArgumentError(f"`{name}` is a number, found {value!r}")
    if not least <= value <= most:
        raise ArgumentError(f"`{name}` must be from {least:g} to {most:g}, found {value!r}")
    return float(value)
