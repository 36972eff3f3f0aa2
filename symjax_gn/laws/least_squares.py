"""Fits of laws: least squares of splines, what they leave, and what is known of their numbers."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from symjax_gn.laws.bound import Bound, bind
from symjax_gn.laws.law import Fitted, Law, numbered
from symjax_gn.laws.samples import Samples

# Steps of one fit of splines, the fall of the squared error at which it ends, and the least and
# largest damping.
_STEPS, _TOLERANCE, _DAMPING = 30, 1e-3, (1e-9, 1e3)

# Derivatives below this are none; errors above the other count as that.
_UNSEEN, _WRONG = 1e-100, 1.0


def sizes(errors: Float[np.ndarray, "row component"]) -> Float[np.ndarray, " row"]:
    """Lengths of errors; infinite where they are no numbers."""
    with np.errstate(all="ignore"):
        found = np.linalg.norm(errors, axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def bounded(errors: Float[np.ndarray, "row component"]) -> Float[np.ndarray, " row"]:
    """Sizes of held-out errors, none above that of one of whom nothing is known.

    Where one body flies away farther than any that was fitted, splines may be off by any factor.
    """
    return np.minimum(sizes(errors), _WRONG)


def mean_size(errors: Float[np.ndarray, "row component"]) -> float:
    """What laws are rated by; infinite where errors are no numbers."""
    mean = float(np.mean(sizes(errors)))
    return mean if math.isfinite(mean) else math.inf


def fit_splines(bound: Any, start: Float[np.ndarray, " number"]) -> np.ndarray:
    """Numbers by least squares, near the first ones (Levenberg and Marquardt).

    Args:
        bound: has `errors` and `slopes`.
        start: its numbers to start from.
    """
    numbers, damping = start, _DAMPING[0]
    errors = bound.errors(numbers).ravel()
    for _ in range(_STEPS):
        slopes = bound.slopes(numbers).reshape(len(errors), -1)
        # Columns of one size, of which some may depend on each other: gauges of the law.
        size = np.sqrt(np.sum(slopes**2, axis=0)) + 1e-300
        scaled = slopes / size
        gram, right = scaled.T @ scaled, scaled.T @ errors
        before = errors @ errors
        while damping <= _DAMPING[1]:
            step = np.linalg.solve(gram + damping * np.eye(len(gram)), right) / size
            trial = bound.errors(numbers - step).ravel()
            if trial @ trial < before:
                break
            damping *= 10
        else:
            break
        numbers, errors, damping = numbers - step, trial, max(0.1 * damping, _DAMPING[0])
        if errors @ errors > (1 - _TOLERANCE) * before:
            break
    return numbers


def fitted(law: Law, train: Samples, valid: Samples) -> Fitted:
    """A law whose numbers were fitted, with what is known of them.

    Args:
        law: its functions are splines.
        train: what they were fitted to.
        valid: other data, for the errors; those above 1 count as 1, for where one element is
            beyond all that were fitted, splines may be off by any factor.
    """
    bound, other = bind(law, train), bind(law, valid)
    covariance = covariance_of(bound)
    _, places = numbered(law.shapes)
    parts = tuple(covariance[np.ix_(one, one)] for one in places)
    return Fitted(law, parts, bounded(other.errors(other.start)))


def covariance_of(bound: Bound) -> Float[np.ndarray, "number number"]:
    """That of a law's numbers, as far as data say anything of them."""
    left = bound.errors(bound.start).ravel()
    slopes = bound.slopes(bound.start).reshape(len(left), -1)
    variance = float(np.sum(left**2)) / max(1, len(left) - len(bound.start))
    size = np.sqrt(np.mean(slopes**2, axis=0))
    # Parts of splines that no sample reaches have no spread.
    size = np.where(size > _UNSEEN, size, 1.0)
    scaled = slopes / size
    inverse = np.linalg.pinv(scaled.T @ scaled, rcond=1e-12, hermitian=True) * variance
    return inverse / np.outer(size, size)
