"""Proposals of laws of positive quantities: products of powers, and self-similar laws.

By dimensional analysis, a law of few quantities is a product of powers times a function of
one other product of powers. Both are found by least squares of logarithms; the function is
then searched for as a sum of known functions.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
import sympy
from jaxtyping import Float

from symjax_gn.laws.dictionary import search_sums
from symjax_gn.laws.expressions import complexity
from symjax_gn.laws.fronts import Column, Columns, pareto

# Powers of laws are multiples of this, where the data permit.
_STEP = 0.5

# Powers within so many standard errors, or within this, of such a multiple are tried as it.
_STANDARD_ERRORS, _NEAR = 2.5, 0.1

# Roundings that are tried, at most.
_ROUNDINGS = 200

# Functions that are searched for, and laws that are kept of each search.
_SEARCHES, _KEPT = 4, 6

# Errors of logarithms that are alike to so many digits are the same.
_DIGITS = 9

# Cubic pieces that a smooth function may have.
_PIECES = (1, 2, 4, 8)

# Stages of a search for sums that are waited for: single functions, and sums of two.
_STAGES = 2


class Fit(NamedTuple):
    """Linear least squares."""

    values: Float[np.ndarray, " column"]
    spread: Float[np.ndarray, " column"]
    """Standard errors."""
    left_out: float
    """Root mean square of errors at samples that a fit leaves out, one at a time."""


def fit_linear(columns: Float[np.ndarray, "sample column"], target: Column) -> Fit:
    """Least squares with the error that leaving samples out, one at a time, would show.

    >>> x = np.arange(5.0)
    >>> fit_linear(x[:, None], 2 * x).values
    array([2.])
    """
    inverse = np.linalg.pinv(columns)
    values = inverse @ target
    residual = target - columns @ values
    # A sample that a fit goes through whatever it is says nothing of the fit.
    free = np.maximum(1 - np.einsum("sc,cs->s", columns, inverse), 1e-6)
    variance = float(residual @ residual) / max(1, len(target) - columns.shape[1])
    spread = np.sqrt(variance * np.einsum("cs,cs->c", inverse, inverse))
    return Fit(values, spread, float(np.sqrt(np.mean((residual / free) ** 2))))


def _roundings(values, spread) -> Iterator[tuple[Any, ...]]:
    """Powers with each one as it is or as a multiple of a half that the data permit."""
    options = []
    for value, error in zip(values, spread, strict=True):
        reach = max(_NEAR, _STANDARD_ERRORS * error)
        low, high = np.ceil((value - reach) / _STEP), np.floor((value + reach) / _STEP)
        plain = [sympy.Rational(int(k), round(1 / _STEP)) for k in np.arange(low, high + 1)]
        options.append([*sorted(plain, key=lambda p: abs(float(p) - value)), float(value)])
    return itertools.islice(itertools.product(*options), _ROUNDINGS)


def _product(powers: Sequence[Any], names: Sequence[str]) -> Any:
    factors = zip(names, powers, strict=True)
    return sympy.Mul(*(sympy.Symbol(name) ** sympy.sympify(power) for name, power in factors))


def power_laws(features: Columns, target: Column) -> Iterator[sympy.Expr]:
    """Laws c x^p y^q ..., with rounded powers where the data permit.

    Args:
        features: positive columns `[sample]`.
        target: `[sample]`, logarithms of what laws give.

    >>> x = np.array([1.0, 2.0, 4.0, 8.0])
    >>> next(power_laws({"x": x}, np.log(3 * x**1.5)))
    3.0*x**(3/2)
    """
    names = list(features)
    logs = np.stack([np.ones(len(target)), *map(np.log, features.values())], axis=-1)
    first = fit_linear(logs, target)
    for powers in _roundings(first.values[1:], first.spread[1:]):
        offset = float(np.mean(target - logs[:, 1:] @ np.asarray(powers, np.float64)))
        yield sympy.Float(round(np.exp(offset), 15)) * _product(powers, names)


def _fit_smooth(x: Column, others: Sequence[Column], target: Column) -> Fit:
    """Least squares by a smooth function of x and multiples of other columns: of the latter."""
    fits = []
    for pieces in _PIECES:
        knots = np.unique(np.quantile(x, np.linspace(0, 1, pieces + 1)))
        knots = np.concatenate([[knots[0]] * 3, knots, [knots[-1]] * 3])
        smooth = scipy.interpolate.BSpline.design_matrix(x, knots, 3).toarray()
        fits.append(fit_linear(np.column_stack([*others, smooth]), target))
    best = min(fits, key=lambda fit: fit.left_out)
    few = len(others)
    return Fit(best.values[:few], best.spread[:few], best.left_out)


def self_similar_laws(
    features: Columns, target: Column, *, operators: Sequence[str]
) -> Iterator[list[sympy.Expr]]:
    """Laws x^p F(s) and x^p / F(s), where s is a product or quotient of features.

    Args:
        features: columns `[sample]`, all positive unless there is only one.
        target: `[sample]`, logarithms of what laws give.
        operators: those that laws may use.

    >>> from symjax_gn.laws.expressions import rounded
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.uniform(1.0, 3.0, (2, 60))
    >>> laws = self_similar_laws({"x": x, "y": y}, np.log(y**2 * (1 + x / y)), operators=["exp"])
    >>> sympy.expand(rounded(next(laws)[0]))
    1.0*x*y + 1.0*y**2
    """
    names = list(features)
    if len(names) == 1:
        yield from _functions_of(features, [1], {}, target, operators)
        return
    logs = {name: np.log(column) for name, column in features.items()}
    plain = fit_linear(np.column_stack([np.ones(len(target)), *logs.values()]), target)
    found = []
    for which in itertools.product((1, 0, -1), repeat=len(names)):
        # A product and its inverse have the same functions.
        if next((power for power in which if power), -1) == 1:
            s = np.sum([k * log for k, log in zip(which, logs.values(), strict=True)], axis=0)
            for name in (n for n, power in zip(names, which, strict=True) if power):
                others = {n: log for n, log in logs.items() if n != name}
                fit = _fit_smooth(s, list(others.values()), target)
                powers = zip(others, zip(fit.values, fit.spread, strict=True), strict=True)
                found.append((fit.left_out, which, dict(powers)))
    # Fits of one s beside powers of other features are the same but for rounding.
    found.sort(key=lambda row: round(row[0], _DIGITS))
    for left_out, which, powers in found[:_SEARCHES]:
        # Where products of powers do as well there is no function to look for.
        if left_out < plain.left_out:
            yield from _functions_of(features, which, powers, target, operators)


def _functions_of(features, which, powers, target, operators) -> Iterator[list[Any]]:
    """Laws for one s, and one product of powers beside it."""
    s = np.prod([x**k for x, k in zip(features.values(), which, strict=True)], axis=0)
    place = _product(which, list(features))
    rounded = next(_roundings(*zip(*powers.values(), strict=True))) if powers else ()
    beside = _product(rounded, list(powers))
    logs = sum(float(p) * np.log(features[n]) for p, n in zip(rounded, powers, strict=True))
    left = target - logs
    for way in (1, -1):
        size = np.exp(way * (left - np.median(left)))
        scale = sympy.Float(float(np.exp(-way * np.median(left))))
        search = search_sums(s, size, 1 / size, operators=operators)
        *_, rated = itertools.islice(search, _STAGES)
        rows = [(complexity(law), error, law) for law, error in rated.items()]
        good = sorted(rows, key=lambda row: row[1])[:_KEPT]
        laws = dict.fromkeys(row[2] for row in [*pareto(rows), *good])
        yield [beside * (law.xreplace({sympy.Symbol("r"): place}) / scale) ** way for law in laws]
