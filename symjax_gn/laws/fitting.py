"""Constants of a law by robust least squares."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float

_Residual = Callable[[np.ndarray], np.ndarray]

# The smallest size of a constant to the steps of a fit: what changes errors by this share.
_SMALLEST_SHARE = 1e-3

# Stages of a fit, as (error that counts in full, as a share of the law's mean error;
# tolerance): near to least squares, which comes from far, as long as a stage lowers the error
# to a tenth; at last near to the mean absolute error, by which laws are rated.
_COARSE, _FINE = (1.0, 1e-4), (0.2, 1e-6)
_GOES_ON, _MOST_STAGES = 0.1, 6

# Steps of all constants that are smaller, as a share of them, end a fit.
_LEAST_STEP = 1e-10

# A fit whose first stage ends so many times above what is of use is given up.
_HOPELESS = 2.0

# A mean error below this is that of rounding.
_LEAST_ERROR = 1e-12

# No error, as a share of what is typical, is known to be smaller than this.
_FLOAT32 = 6e-8


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
        tolerance: the fit ends where a step lowers the sum by a smaller share.

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
    # A small gradient says nothing: errors may be of any size. Nor does a step that was too far
    # and is tried again, but for the smallest.
    options |= dict(ftol=tolerance, xtol=_LEAST_STEP, gtol=None)
    if slopes is not None:
        options["jac"] = derivatives
    try:
        with np.errstate(all="ignore"):
            return size * scipy.optimize.least_squares(errors, start / size, **options).x
    except (ValueError, np.linalg.LinAlgError):
        return start


def standard_errors(
    residual: Float[np.ndarray, " row"], slopes: Float[np.ndarray, "row constant"]
) -> Float[np.ndarray, " constant"]:
    """Standard errors `[constant]` of constants that `fit_in_stages` has found.

    Infinite where errors or derivatives are not finite.

    The sandwich estimate of an M-estimator, for the loss of the last stage: it does not
    assume that all errors have one size.

    Args:
        residual: `[row]`, errors at the constants that were found.
        slopes: `[row, constant]`, their derivatives.

    >>> x = np.linspace(1.0, 2.0, 400)
    >>> noise = np.random.default_rng(0).normal(size=400)
    >>> standard_errors(noise, x[:, None]).round(3)
    array([0.044])
    """
    if not (np.all(np.isfinite(residual)) and np.all(np.isfinite(slopes))):
        return np.full(slopes.shape[1], np.inf)
    scale = _FINE[0] * max(float(np.mean(np.abs(residual))), _LEAST_ERROR)
    root = np.sqrt(1 + (residual / scale) ** 2)
    pull, stiffness = np.maximum(np.abs(residual), _FLOAT32) / root, root**-3
    size = np.sqrt(np.mean(slopes**2, axis=0)) + 1e-300
    flat = slopes / size
    inverse = np.linalg.pinv(flat.T @ (stiffness[:, None] * flat))
    # Root of the diagonal of the covariance, which rounding cannot make negative.
    return np.linalg.norm(pull[:, None] * flat @ inverse, axis=0) / size


def fit_in_stages(
    residual: _Residual,
    slopes: _Residual,
    mean_error: Callable[[np.ndarray], float],
    start: Float[np.ndarray, " constant"],
    limit: float = math.inf,
) -> tuple[Float[np.ndarray, " constant"], float]:
    """Constants for which the mean error is least, near the first ones; and that error.

    Args:
        residual: errors `[...]` of given constants.
        slopes: their derivatives `[..., constant]`.
        mean_error: what laws are rated by, of errors `[...]`.
        start: constants to start from.
        limit: an error at which the fit is of no use: it is given up, and the first
            constants are kept, where it is sure to stay above.

    >>> x = np.array([1.0, 2.0, 3.0])
    >>> options = (lambda c: c * x - 2 * x, lambda c: x[:, None], lambda e: np.mean(np.abs(e)))
    >>> fit_in_stages(*options, np.array([1.0]))[0].round(6)
    array([2.])
    """
    first = mean_error(residual(start))
    size = _sizes(start, first, slopes(start))
    values, best, error = start, start, first
    stage = _COARSE
    for _ in range(_MOST_STAGES):
        before, (share, tolerance) = error, stage
        scale = share * max(error, _LEAST_ERROR) if math.isfinite(error) else 1.0
        values = fit_constants(
            residual, values, size, slopes=slopes, f_scale=scale, tolerance=tolerance
        )
        found = mean_error(residual(values))
        if found < error:
            best, error = values, found
        if error > _HOPELESS * limit or stage == _FINE:
            break
        if error > _GOES_ON * before:
            stage = _FINE
    return (start, first) if error >= limit else (best, error)


def _sizes(start, error, slopes):
    """Sizes of constants, which may be those of SI units or not have begun to matter."""
    with np.errstate(all="ignore"):
        steep = np.sqrt(np.mean(np.reshape(slopes, (-1, len(start))) ** 2, axis=0))
        least = _SMALLEST_SHARE * error / steep
    size = np.maximum(np.abs(start), np.where(np.isfinite(least), least, 0.0))
    return np.where(size > 0, size, 1.0)
