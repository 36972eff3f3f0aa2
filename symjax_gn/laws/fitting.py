"""Constants of a law by robust least squares."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

_Residual = Callable[[np.ndarray], np.ndarray]


def fit_constants(
    residual: _Residual,
    start: Float[np.ndarray, " constant"],
    size: Float[np.ndarray, " constant"],
    *,
    slopes: _Residual | None = None,
    f_scale: float = 1.0,
    most: float = 1e10,
    steps: int = 15,
    tolerance: float = 1e-8,
) -> Float[np.ndarray, " constant"]:
    """Constants for which the soft L1 sum of the residuals is least, near the first ones.

    Args:
        residual: errors `[...]` of given constants; those that are not finite, or larger
            than `most`, count as `most`.
        start: constants to start from.
        size: typical sizes of the constants: steps are shares of these, for the constants
            of a law in SI units may be far smaller than any fixed step.
        slopes: derivatives `[..., constant]` of the residuals; None takes differences.
        f_scale: errors that are larger count less than by their squares.
        most: see above.
        steps: largest number of evaluations, derivatives not counted.
        tolerance: the fit ends where a step lowers the sum, or moves the constants, by a
            smaller share.

    >>> x = np.array([1.0, 2.0, 3.0])
    >>> fit_constants(lambda c: c * x - 2 * x, np.array([1.0]), np.array([1.0])).round(6)
    array([2.])
    """
    start, size = np.asarray(start, np.float64), np.asarray(size, np.float64)

    last: list[Any] = [None, None]

    def errors(shares):
        if last[0] is None or not np.array_equal(last[0], shares):
            found = np.asarray(residual(size * shares), np.float64).ravel()
            last[:] = shares.copy(), np.clip(np.nan_to_num(found, nan=most), -most, most)
        return last[1]

    def derivatives(shares):
        assert slopes is not None
        found = np.asarray(slopes(size * shares), np.float64).reshape(-1, len(shares)) * size
        # Where an error is cut off it does not change.
        found[np.abs(errors(shares)) >= most] = 0.0
        return np.where(np.abs(found) < most**2, found, 0.0)

    # No error is larger than `most`, and the squares of far larger scales overflow.
    options: Any = dict(loss="soft_l1", f_scale=min(f_scale, most), max_nfev=steps)
    options |= dict(ftol=tolerance, xtol=tolerance, gtol=tolerance)
    if slopes is not None:
        options["jac"] = derivatives
    try:
        with np.errstate(all="ignore"):
            return size * least_squares(errors, start / size, **options).x
    except (ValueError, np.linalg.LinAlgError):
        return start
