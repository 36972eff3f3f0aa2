"""Derivatives of recordings in time, where the recordings are dense enough to tell them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from symjax_gn.data.smoothing import smooth

LEAST_OUTPUTS = 10
"""A smoothing spline chooses its smoothness from the data, which takes some."""

# Outputs for each period of the motion. Quintic splines err by 0.2% at 6 exact ones.
_PER_PERIOD = 6

# Splines are least certain at their ends: this share of a run is dropped, and so many at least.
_MARGIN = 0.05
_LEAST_MARGIN = 4

# A recording is cut into runs at steps so many times the typical one.
_GAP = 10

# Steps up to so many typical ones are not gaps, whatever the motion.
_EVEN = 1.5

# Beside a gap the last output has errors of up to 40%, the one before up to 4%.
_BESIDE = 2

# Splines that keep less than this share of themselves when repeated have lost the motion.
_KEPT = 0.9

# So much noise, in units of the spread, is no motion; noise of white positions is 1.
_NOISE = 0.5

# Derivatives this small, in units of spread and duration, are those of a straight line.
_STRAIGHT = 1e-6

# Numbers of one block of series, which bounds memory; the bar moves on after each.
_AT_ONCE = 200_000
_SILENT_SECONDS = 2


class Derived(NamedTuple):
    """Derivatives of recordings; NaN where they cannot be told."""

    first: Float[np.ndarray, "sim time node axis"]
    second: Float[np.ndarray, "sim time node axis"]
    noise: float
    """Standard deviation of noise over that of the values about each body's mean, the median
    over recordings; too large where outputs are far apart."""


class _Sums(NamedTuple):
    """Sums over a recording's moments and bodies `[sim]`."""

    square: np.ndarray
    """Of the derivative that is asked for."""
    repeated: np.ndarray
    """Of its product with that of repeated splines."""
    change: np.ndarray
    """Of the square of the derivative after it."""
    noise: np.ndarray
    """Of squares of noise."""
    spread: np.ndarray
    """Of squares of values about each body's mean."""


def differentiate(
    time: Float[np.ndarray, " time"], value: Float[np.ndarray, "sim time node axis"], order: int
) -> Derived:
    """First and second derivatives by quintic smoothing splines; see `data.smoothing`.

    A body's outputs form runs, which end where it is not seen for 10 typical steps. Runs of
    fewer than 10 outputs have no derivatives, nor have the first and last 5% of a run (at
    least 4 outputs), outputs beside a step that is too long for the recording's motion, and
    recordings that are too coarse as a whole.

    Args:
        time: `[time]`, strictly increasing.
        value: `[sim, time, node, axis]`, NaN where a body was not seen.
        order: of the derivative that has to be told, 1 or 2.

    Raises:
        ValueError: no run is long enough, or most recordings are too coarse or too noisy.

    >>> t = np.arange(60) / 10
    >>> found = differentiate(t, np.sin(2 * np.pi * t)[None, :, None, None], 2)
    >>> int(np.sum(np.isfinite(found.second)))
    52
    """
    seen = np.all(np.isfinite(value), axis=-1)
    blocks = list(_blocks(time, seen))
    if not blocks:
        longest = int(np.max(np.sum(seen, axis=1), initial=0))
        raise ValueError(
            f"Differentiating needs at least {LEAST_OUTPUTS} outputs in time, got {longest} of a "
            "body without a long gap; give velocity and acceleration, or more outputs."
        )
    derivatives = np.full((3, *value.shape), np.nan)
    sums = _Sums(*np.zeros((5, len(value))))
    bar = tqdm(blocks, desc="differentiating", delay=_SILENT_SECONDS, leave=False)
    for run, sims, nodes in bar:
        series = value[sims[:, None], run, nodes[:, None]].swapaxes(0, 1)
        found = smooth(time[run], series)
        margin = max(_LEAST_MARGIN, int(_MARGIN * len(run)))
        inner = slice(margin, len(run) - margin)
        slopes, repeated = found.derivatives[:, inner], found.repeated[order - 1, inner]
        derivatives[:, sims[:, None], run[inner], nodes[:, None]] = slopes.swapaxes(1, 2)
        asked, following = slopes[order - 1 : order + 1]
        spread = series - np.mean(series, axis=0)
        pairs = ((asked, asked), (asked, repeated), (following, following))
        noise = found.variance * series.shape[2] * len(run)
        parts = (*(_dot(a, b) for a, b in pairs), noise, _dot(spread, spread))
        for total, part in zip(sums, parts, strict=True):
            np.add.at(total, sims, part)
    rate = np.sqrt(_ratio(sums.change, sums.square))
    unresolved = _unresolved(time, sums, rate, order)
    if np.mean(unresolved) > 0.5:
        raise ValueError(_too_coarse(value, unresolved, sums, order))
    derivatives[:, unresolved] = np.nan
    derivatives[order - 1][_beside_gaps(time, seen, rate)] = np.nan
    noise = np.median(np.sqrt(_ratio(sums.noise, sums.spread))[~unresolved])
    return Derived(derivatives[0], derivatives[1], float(noise))


def _dot(a, b):
    return np.sum(a * b, axis=(0, 2))


def _ratio(a, b):
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _blocks(time, seen) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Outputs of a run, and the recordings and bodies that have it, some at a time."""
    gap = _GAP * np.median(np.diff(time)) if len(time) > 1 else np.inf
    rows = seen.swapaxes(1, 2).reshape(-1, seen.shape[1])
    patterns, owner = np.unique(rows, axis=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        outputs = np.flatnonzero(pattern)
        runs = np.split(outputs, np.flatnonzero(np.diff(time[outputs]) > gap) + 1)
        sims, nodes = np.divmod(np.flatnonzero(owner.ravel() == k), seen.shape[2])
        for run in runs:
            if len(run) < LEAST_OUTPUTS:
                continue
            size = max(1, _AT_ONCE // len(run))
            for start in range(0, len(sims), size):
                yield run, sims[start : start + size], nodes[start : start + size]


def _unresolved(time, sums, rate, order) -> Bool[np.ndarray, " sim"]:
    """Recordings whose motion is lost between outputs or in noise."""
    straight = sums.square * (time[-1] - time[0]) ** (2 * order) <= _STRAIGHT**2 * sums.spread
    coarse = rate * np.median(np.diff(time)) > 2 * np.pi / _PER_PERIOD
    lost = coarse & (sums.repeated < _KEPT * sums.square) & ~straight
    return lost | (sums.noise > _NOISE**2 * sums.spread)


def _beside_gaps(time, seen, rate) -> Bool[np.ndarray, "sim time node"]:
    """Outputs beside a step that is too long for motion of a rate `[sim]`, radian / time."""
    typical = np.median(np.diff(time))
    longest = np.maximum(_EVEN * typical, _ratio(np.full_like(rate, 2 * np.pi / _PER_PERIOD), rate))
    beside = np.zeros(seen.shape, bool)
    for sim, node in np.argwhere(~np.all(seen, axis=1) | np.any(np.diff(time) > _EVEN * typical)):
        outputs = np.flatnonzero(seen[sim, :, node])
        for after in np.flatnonzero(np.diff(time[outputs]) > longest[sim]) + 1:
            beside[sim, outputs[max(0, after - _BESIDE) : after + _BESIDE], node] = True
    return beside


def _too_coarse(value, unresolved, sums, order) -> str:
    """What is wrong with recordings that are too coarse, in numbers."""
    # Of a wave, differences are 2 sin(phase / 2) times as large as what they are taken of.
    small, large = (np.diff(value[unresolved], n=k, axis=1) for k in (order, order + 1))
    growth = np.sqrt(np.nanmean(large**2) / max(np.nanmean(small**2), np.finfo(float).tiny))
    phase = 2 * np.arcsin(min(1.0, growth / 2))
    noise = np.sqrt(np.median(_ratio(sums.noise, sums.spread)[unresolved]))
    name = {1: "first", 2: "second"}[order]
    return (
        f"{int(np.sum(unresolved))} of {len(unresolved)} recordings are too coarse or too noisy "
        f"for {name} derivatives: their shortest motion has about {2 * np.pi / phase:.2g} outputs "
        f"a period where {_PER_PERIOD} are needed, more with noise, and splines leave "
        f"{noise:.0%} of the spread. Record more often, or give the derivatives."
    )
