"""Detect discontinuities in the residuals of smooth laws.

Engines without conditional operators cannot write a law that jumps. A switch found here
becomes a feature of a second search, and a Heaviside function in the expressions.
"""

from typing import NamedTuple

import numpy as np
import sympy
from numpy.lib.stride_tricks import sliding_window_view

from symjax_gn.laws.fronts import Column, Columns

# Samples on each side of a place that lines are fitted to.
_WINDOW = 50

# Samples on each side of a place that are passed over: a smooth network blurs a step.
_GUARD = 15

# Every so many samples a place is looked at.
_STRIDE = 5

# A gap of so many standard errors is no chance, in spite of the many places looked at.
_SURE = 18.0

# A gap below this share of the target's size is no part of a law.
_LEAST = 0.3

# Of several gaps that are sure, a gap without noise must not win whatever its size.
_ROUNDING = 0.01


class Switch(NamedTuple):
    """A step at a threshold of one feature."""

    feature: str
    """Name of the feature that decides."""
    threshold: float
    """Its value at the step."""
    jump: float
    """Height of the step in the residuals, above the threshold less below."""


def find_switch(
    features: Columns,
    residual: Column,
    size: float,
    *,
    least: float = _LEAST,
    sure: float = _SURE,
) -> Switch | None:
    """The clearest step of the residuals of a law along any one feature, or None.

    Lines are fitted to 50 samples on each side of every fifth place, without the 15 next to
    it; a step is the gap between the two lines there. Features of which more than half of
    the values are repeated are left out, and so are all if there are under 200 samples.

    Args:
        features: columns `[sample]` by name.
        residual: `[sample]`, target less law.
        size: typical size of the target.
        least: smallest step that counts, as a share of `size`.
        sure: smallest step that counts, in standard errors of the gap.

    >>> r = np.linspace(0.0, 1.0, 1000)
    >>> switch = find_switch({"r": r}, np.where(r > 0.5, 1.0, 0.0), 1.0)
    >>> round(switch.threshold, 2), round(switch.jump, 6)
    (0.5, 1.0)
    """
    found = []
    for name, column in features.items():
        order = np.argsort(column, kind="stable")
        x, y = column[order], residual[order]
        if len(x) < 4 * _WINDOW or len(np.unique(x)) < len(x) / 2:
            continue
        places = np.arange(_WINDOW + _GUARD, len(x) - _WINDOW - _GUARD, _STRIDE)
        (below, error_below), (above, error_above) = _ends(x, y, places, x[places, None])
        gap, error = (above - below)[:, 0], np.hypot(error_below, error_above)[:, 0]
        for k in np.flatnonzero((np.abs(gap) > least * size) & (np.abs(gap) > sure * error)):
            clear = abs(gap[k]) / (error[k] + _ROUNDING * size)
            found.append((clear, name, x, y, int(places[k])))
    if not found:
        return None
    _, name, x, y, place = max(found, key=lambda row: row[0])
    threshold = _threshold(x, y, place)
    (below, _), (above, _) = _ends(x, y, np.array([place]), np.array([[threshold]]))
    return Switch(name, threshold, float(above[0, 0] - below[0, 0]))


def _ends(x, y, places, at):
    """Lines left and right of places, at points `[place, point]`, with standard errors."""
    ends = []
    for first in (places - _GUARD - _WINDOW, places + _GUARD):
        near_x = sliding_window_view(x, _WINDOW)[first]
        near_y = sliding_window_view(y, _WINDOW)[first]
        centre = np.mean(near_x, axis=1, keepdims=True)
        level = np.mean(near_y, axis=1, keepdims=True)
        apart = near_x - centre
        spread = np.sum(apart**2, axis=1, keepdims=True)
        # Where values repeat there is no slope to know.
        sure = np.where(spread > 0, spread, np.inf)
        slope = np.sum(apart * near_y, axis=1, keepdims=True) / sure
        rest = np.var(near_y - level - slope * apart, axis=1, keepdims=True)
        error = np.sqrt(rest * (1 / _WINDOW + (at - centre) ** 2 / sure))
        ends.append((level + slope * (at - centre), error))
    return ends


def _threshold(x, y, place):
    """The value near a place that parts samples nearer to the left line and to the right."""
    near = slice(place - _GUARD, place + _GUARD)
    (below, _), (above, _) = _ends(x, y, np.array([place]), x[None, near])
    # What a sample adds to the misfit if it is left of the threshold, less if it is right.
    cost = np.abs(y[near] - below[0]) - np.abs(y[near] - above[0])
    first = near.start + int(np.argmin(np.concatenate([[0.0], np.cumsum(cost)])))
    return float(0.5 * (x[first - 1] + x[first]))


def step(switch: Switch) -> sympy.Expr:
    """The switch as an expression: 0 below the threshold, 1 above.

    >>> step(Switch("r", 2.0, 1.0))
    Heaviside(r - 2.0)
    """
    return sympy.Heaviside(sympy.Symbol(switch.feature) - sympy.Float(switch.threshold))
