"""Laws with a switch: where a law jumps, found in what smooth laws leave over.

Engines without conditional operators cannot write such a law. A switch found here
becomes a feature of a second search, and a Heaviside function in the expressions.
"""

from typing import NamedTuple

import numpy as np
import sympy

from symjax_gn.laws.fronts import Column, Columns

_WINDOW = 50


# Samples on each side of a place that are passed over: a smooth network blurs a step.
_GUARD = 15


class Switch(NamedTuple):
    """A step at a threshold of one feature."""

    feature: str
    """Name of the feature that decides."""
    threshold: float
    """Its value at the step."""
    jump: float
    """Height of the step in what was looked at."""


def find_switch(
    features: Columns, residual: Column, size: float, *, least: float = 0.3, sure: float = 18.0
) -> Switch | None:
    """The clearest step of the residuals of a law along any one feature, or None.

    Lines are fitted to 50 samples on each side of every place, the 15 next to it left out;
    a step is the gap between the lines there.

    Args:
        features: columns `[sample]` by name.
        residual: `[sample]`, target less law.
        size: typical size of the target.
        least: smallest step that counts, as a share of `size`.
        sure: smallest step that counts, in standard errors of the gap.
    """
    found = []
    for name, column in features.items():
        order = np.argsort(column, kind="stable")
        x, y = column[order], residual[order]
        if len(x) < 4 * _WINDOW or len(np.unique(x)) < len(x) / 2:
            continue
        for k in range(_WINDOW + _GUARD, len(x) - _WINDOW - _GUARD, 5):
            ends, errors = _ends(x, y, k, x[k])
            gap, error = ends[1] - ends[0], float(np.hypot(*errors))
            if abs(gap) > least * size and abs(gap) > sure * error:
                found.append((abs(gap) / (error + 0.01 * size), name, x, y, k))
    if not found:
        return None
    _, name, x, y, k = max(found, key=lambda row: row[0])
    threshold = _threshold(x, y, k)
    ends, _ = _ends(x, y, k, threshold)
    return Switch(name, threshold, float(ends[1] - ends[0]))


def _sides(k):
    return slice(k - _GUARD - _WINDOW, k - _GUARD), slice(k + _GUARD, k + _GUARD + _WINDOW)


def _ends(x, y, k, at):
    """The lines left and right of sample k, extrapolated, and their standard errors."""
    ends, errors = [], []
    for side in _sides(k):
        centre = np.mean(x[side])
        spread = np.sum((x[side] - centre) ** 2)
        slope = np.sum((x[side] - centre) * y[side]) / spread
        level = np.mean(y[side])
        left_over = np.var(y[side] - level - slope * (x[side] - centre))
        ends.append(level + slope * (at - centre))
        errors.append(np.sqrt(left_over * (1 / _WINDOW + (np.max((at - centre) ** 2)) / spread)))
    return ends, errors


def _threshold(x, y, k):
    """The place near sample k that parts what is nearer to the left line and to the right."""
    near = slice(k - _GUARD, k + _GUARD)
    lines, _ = _ends(x, y, k, x[near])
    # What a sample adds to the misfit if it is left of the threshold, less if it is right.
    cost = np.abs(y[near] - lines[0]) - np.abs(y[near] - lines[1])
    m = near.start + int(np.argmin(np.concatenate([[0.0], np.cumsum(cost)])))
    return float(0.5 * (x[m - 1] + x[m]))


def step(switch: Switch) -> sympy.Expr:
    """The switch as an expression: 0 below the threshold, 1 above."""
    return sympy.Heaviside(sympy.Symbol(switch.feature) - sympy.Float(switch.threshold))
