"""Laws with a switch: where a law jumps, found in what smooth laws leave over.

Engines without conditional operators cannot write such a law. A switch found here
becomes a feature of a second search, and a Heaviside function in the expressions.
"""

from typing import NamedTuple

import numpy as np
import sympy

from symjax_gn.fronts import Column, Columns

_WINDOW = 50


class Switch(NamedTuple):
    """A step at a threshold of one feature."""

    feature: str
    """Name of the feature that decides."""
    threshold: float
    """Its value at the step."""
    jump: float
    """Height of the step in what was looked at."""


def find_switch(
    features: Columns, residual: Column, size: float, *, least: float = 0.3, sure: float = 10.0
) -> Switch | None:
    """The clearest step of the residuals of a law along any one feature, or None.

    Lines are fitted to the 50 samples on each side of every place; a step is the gap
    between the lines where they meet.

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
        for k in range(_WINDOW, len(x) - _WINDOW, 5):
            left, right = slice(k - _WINDOW, k), slice(k, k + _WINDOW)
            gap, error = _gap(x[left], y[left], x[right], y[right], 0.5 * (x[k - 1] + x[k]))
            if abs(gap) > least * size and abs(gap) > sure * error:
                found.append((abs(gap) / (error + 0.01 * size), name, x, y, k, gap))
    if not found:
        return None
    _, name, x, y, k, gap = max(found, key=lambda row: row[0])
    return Switch(name, _threshold(x, y, k), float(gap))


def _gap(x1, y1, x2, y2, at):
    """Gap between two fitted lines at a place, and its standard error."""
    ends, errors = [], []
    for x, y in ((x1, y1), (x2, y2)):
        design = np.stack([np.ones_like(x), x - at], axis=1)
        solution, *_ = np.linalg.lstsq(design, y, rcond=None)
        ends.append(solution[0])
        # The end of a fitted line has four times the variance of a mean.
        errors.append(4 * np.var(y - design @ solution) / len(x))
    return ends[1] - ends[0], np.sqrt(sum(errors))


def _threshold(x, y, k):
    """The place within a window of k that parts the samples best into two lines."""
    window = slice(k - _WINDOW, k + _WINDOW)
    x, y = x[window], y[window]

    def misfit(part):
        if part.stop - part.start < 5:
            return np.inf
        line = np.polynomial.Polynomial.fit(x[part], y[part], 1)
        return np.sum(np.abs(y[part] - line(x[part])))

    places = range(5, len(x) - 5)
    best = min(places, key=lambda m: misfit(slice(0, m)) + misfit(slice(m, len(x))))
    return float(0.5 * (x[best - 1] + x[best]))


def step(switch: Switch) -> sympy.Expr:
    """The switch as an expression: 0 below the threshold, 1 above."""
    return sympy.Heaviside(sympy.Symbol(switch.feature) - sympy.Float(switch.threshold))
