"""Whether recorded positions, velocities and accelerations can belong together."""

import numpy as np
from jaxtyping import Float

# In units of the space that bodies fill: what is a jump, and what motion goes on beyond one.
_JUMP = 0.5
_ONWARD = 0.4

# Without inertia motion does not go on, but its steps are either short or across the box,
# which bodies fill: so many of such steps, and so large a share in the middle third.
_ACROSS = 0.75
_LEAST_ACROSS = 3
_FILLED = 0.1

# A rate is compared where it changes by less than this from one output to the next: 8 outputs
# a period. The trapezoidal rule then errs by 5%.
_SMOOTH = 0.77

# Rates are wrong if most bodies' ratios to the differences agree with each other but not with 1.
_CORRELATION = 0.95
_AGREE = 0.15
_MOST = 0.8
_WRONG = 0.25
_LEAST_OUTPUTS = 5


def check_not_wrapped(position: Float[np.ndarray, "sim time node axis"]) -> None:
    """Raise a `ValueError` if positions jump from one face of a box to the other.

    A body that crosses a face goes on at the opposite one: it jumps by the width of the box
    less what it moves, against its motion before and after. Noise, rounded positions and bodies
    that are thrown out jump too, but do not go on.

    Args:
        position: `[sim, time, node, axis]`, NaN where a body was not seen.

    >>> x = np.linspace(0, 3, 60)[None, :, None, None]
    >>> check_not_wrapped(x)
    >>> check_not_wrapped(x % 1.0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: position jumps by ...
    """
    for axis in range(position.shape[3]):
        places = position[..., axis]
        width = np.nanmax(places) - np.nanmin(places)
        steps = np.nan_to_num(np.diff(places, axis=1))
        if width > 0 and (_goes_on(steps / width) or _fills_box(places, steps / width)):
            sim, time, node = (int(k) for k in np.argwhere(np.abs(steps) > _JUMP * width)[0])
            raise ValueError(
                f"position jumps by {abs(steps[sim, time, node]):.3g} after index "
                f"{(sim, time, node, axis)}, across all of the space that the bodies fill, as in "
                "a periodic box whose faces are one: give its sides as space=Space(box), in a "
                "file as the array box; or positions that go on beyond the faces."
            )


def _goes_on(steps):
    """Whether most jumps `[sim, time, node]`, in units of the width, go on at the other face."""
    jump = np.abs(steps) > _JUMP
    before, after = (np.roll(steps, k, axis=1) for k in (1, -1))
    before[:, :1], after[:, -1:] = after[:, :1], before[:, -1:]
    against = (before * steps < 0) & (after * steps < 0)
    motion = np.maximum(np.abs(before), np.abs(after))
    # Jump and motion make up the box, of which bodies fill no more than there is.
    box = np.abs(steps) + motion + np.abs(before - after) / 2
    found = jump & against & (motion < _ONWARD) & (box >= 1)
    # A jump at an end has a neighbour on one side only, which proves nothing by itself.
    return np.any(found[:, 1:-1]) and np.sum(found) > 0.5 * np.sum(jump)


def _fills_box(places, steps):
    """Whether steps are short or across a box in whose middle there are bodies as well."""
    size = np.abs(steps)
    across = np.sum(size > _ACROSS)
    if across < _LEAST_ACROSS or np.any((size > 1 - _ACROSS) & (size <= _ACROSS)):
        return False
    least = np.nanmin(places)
    share = (places - least) / (np.nanmax(places) - least)
    return np.nanmean((share > 1 / 3) & (share < 2 / 3)) > _FILLED


def check_rate(
    names: tuple[str, str],
    time: Float[np.ndarray, " time"],
    value: Float[np.ndarray, "sim time node axis"],
    rate: Float[np.ndarray, "sim time node axis"],
) -> None:
    """Raise a `ValueError` that names the factor if a rate is in another unit or of wrong sign.

    Only where outputs are dense enough for a sum of rates to be compared with differences.

    Args:
        names: of the rate and of the value, e.g. velocity and position.
        time: `[time]`.
        value: `[sim, time, node, axis]`, NaN where it is not known.
        rate: the same.

    >>> t = np.linspace(0, 6, 100)
    >>> x, v = np.sin(t)[None, :, None, None], np.cos(t)[None, :, None, None]
    >>> check_rate(("velocity", "position"), t, x, v)
    >>> check_rate(("velocity", "position"), t, x, 3.6 * v)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: velocity is 3.6 times what position says (in 1 of 1 recordings): ...
    """
    if len(time) < _LEAST_OUTPUTS:
        return
    # Overflow of absurd values is an error of its own, when units are chosen.
    with np.errstate(over="ignore", invalid="ignore"):
        factor, enough = _factors(time, value, rate)
    wrong = enough & (np.abs(factor - 1) > _WRONG)
    if np.any(wrong):
        rate_name, name = names
        raise ValueError(
            f"{rate_name} is {np.median(factor[wrong]):.3g} times what {name} says (in "
            f"{int(np.sum(wrong))} of {len(wrong)} recordings): give both in the same units of "
            "length and time and along the same axes, or leave one out."
        )


def _factors(time, value, rate):
    """How many times the differences of values rates are `[sim]`, and where this is certain."""
    steps = np.diff(value, axis=1)
    expected = (rate[:, :-1] + rate[:, 1:]) / 2 * np.diff(time)[:, None, None]
    known = np.all(np.isfinite(steps) & np.isfinite(expected), axis=-1, keepdims=True)
    moved, summed = (np.cumsum(np.where(known, x, 0.0), axis=1) for x in (steps, expected))
    moved, summed = (x - np.mean(x, axis=1, keepdims=True) for x in (moved, summed))
    # A line through both says little of whether they belong together.
    changes = np.where(known, np.diff(rate, axis=1), 0.0)
    smooth = _dot(changes, changes) < _SMOOTH**2 * _dot(*2 * [np.where(known, rate[:, 1:], 0.0)])
    both, square = _dot(moved, summed), _dot(summed, summed)
    whole = np.sqrt(square * _dot(moved, moved))
    certain = smooth & (np.abs(both) > _CORRELATION * whole) & (whole > 0)
    factor = np.where(certain, square / np.where(certain, both, 1.0), np.nan)
    middle = np.array([np.median(x[~np.isnan(x)]) if np.any(~np.isnan(x)) else 1.0 for x in factor])
    agree = np.abs(factor / middle[:, None] - 1) < _AGREE
    return middle, (np.mean(agree, axis=1) >= _MOST) & (np.sum(agree, axis=1) >= 1)


def _dot(a, b):
    """Sums of products `[sim, node]` over moments and axes."""
    return np.sum(a * b, axis=(1, 3))
