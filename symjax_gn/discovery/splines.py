"""Cubic splines of one variable, constant beyond their ends."""

from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float

_DEGREE = 3

# Knots are placed by what is between these quantiles; the first and the last one are beyond.
_MOST = (0.001, 0.999)


def place_knots(
    x: Float[np.ndarray, " sample"],
    pieces: int,
    margin: float = 0.0,
    weight: Float[np.ndarray, " sample"] | None = None,
) -> Float[np.ndarray, " knot"]:
    """Knots `[pieces + 7]`: no piece holds over twice its share of the range, or of the samples.

    They are quantiles of the samples mixed with as many that are evenly spread.

    Args:
        x: `[sample]`, values of the variable.
        pieces: how many.
        margin: share of the range that is added at both ends.
        weight: `[sample]`, how much each sample counts; None: all the same.

    >>> x = np.concatenate([np.linspace(0, 1, 901), np.linspace(1, 10, 100)])
    >>> place_knots(x, 6).round(1)[3:-3]
    array([ 0. ,  0.3,  0.7,  1. ,  4. ,  6.9, 10. ])
    """
    low, high = np.quantile(x, _MOST)
    grid, place = np.unique(np.clip(x, low, high), return_inverse=True)
    counts = np.cumsum(np.bincount(place, weight))
    even = (grid - low) / (high - low or 1.0)
    dense = (counts - counts[0]) / (counts[-1] - counts[0] or 1.0)
    inner = np.interp(np.linspace(0, 1, pieces + 1), 0.5 * (even + dense), grid)
    reach = margin * np.ptp(x)
    inner[0], inner[-1] = np.min(x) - reach, np.max(x) + reach
    return np.concatenate([[inner[0]] * _DEGREE, inner, [inner[-1]] * _DEGREE])


def inside(
    knots: Float[np.ndarray, " knot"], x: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """Values of a variable, those beyond the ends of splines moved to the ends."""
    return np.clip(x, knots[_DEGREE], knots[-_DEGREE - 1])


def design(knots: Float[np.ndarray, " knot"], x: Float[np.ndarray, " sample"]) -> Any:
    """`[sample, part]`, sparse: values of the parts of splines."""
    return scipy.interpolate.BSpline.design_matrix(inside(knots, x), knots, _DEGREE)


class Curve(NamedTuple):
    """A spline."""

    knots: Float[np.ndarray, " knot"]
    parts: Float[np.ndarray, " part"]
    """[part], factors of its parts."""

    def values(self, x: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
        """Values `[sample]`."""
        return scipy.interpolate.BSpline(self.knots, self.parts, _DEGREE)(inside(self.knots, x))

    def slopes(self, x: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
        """Derivatives `[sample]`."""
        within = inside(self.knots, x)
        slope = scipy.interpolate.BSpline(self.knots, self.parts, _DEGREE).derivative()(within)
        return np.where(within == x, slope, 0.0)

    def deviation(
        self, x: Float[np.ndarray, " sample"], covariance: Float[np.ndarray, "part part"]
    ) -> Float[np.ndarray, " sample"]:
        """Standard deviations `[sample]` of its values, by the covariance of its parts."""
        basis = design(self.knots, x).toarray()
        square = np.einsum("sp,pq,sq->s", basis, covariance, basis)
        return np.sqrt(np.maximum(square, 0.0))
