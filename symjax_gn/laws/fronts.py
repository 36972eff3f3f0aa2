"""Pareto fronts of laws: rating, and selection by score.

What makes the fronts of different engines comparable is done here: SymPy expressions,
our own complexity, mean absolute error in float64, score.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.laws.expressions import complexity, evaluate, with_exponentials

Column = Float[np.ndarray, " sample"]
Columns = Mapping[str, Column]

# SymPy evaluates towers of exponentials to numbers that no float can hold.
LARGEST_CONSTANT = 1e100

# An error of 0 has no logarithm.
_LEAST_ERROR = 1e-300


class Law(NamedTuple):
    """One expression of a Pareto front."""

    expression: sympy.Expr
    """The law, of the features' names."""
    complexity: int
    """See `expressions.complexity`."""
    mae: float
    """Mean absolute error on the regression's samples, in the target's unit."""
    score: float
    """Fall of log(mae) per unit of complexity from the next simpler law; the first 0."""


class ParetoFront(NamedTuple):
    """The best law of each complexity, simplest first; errors fall strictly."""

    laws: tuple[Law, ...]
    seconds: float
    """Time of the search."""


class RegressionError(RuntimeError):
    """A search ended without a usable expression."""


_Row = TypeVar("_Row", bound=tuple)


def pareto(rows: Iterable[_Row], gain: float = 0.0, enough: float = math.inf) -> list[_Row]:
    """The rows `(complexity, error, ...)` on the Pareto front, simplest first.

    This is the one rule by which laws are accepted: a more complex law must lower the
    error of the last simpler one on the front by the share `gain`, or by `enough`, which
    counts where noise leaves large errors.

    >>> pareto([(3, 1.0), (1, 2.0), (5, 0.95), (2, 3.0)], gain=0.1)
    [(1, 2.0), (3, 1.0)]
    """
    front: list[_Row] = []
    for row in sorted(rows, key=lambda row: row[:2]):
        if not math.isfinite(row[1]):
            continue
        least = front[-1][1] if front else math.inf
        if front and (row[1] >= max((1 - gain) * least, least - enough) or row[0] == front[-1][0]):
            continue
        front.append(row)
    return front


def to_front(
    rows: Iterable[tuple[int, float, sympy.Expr]], *, gain: float = 0.0, seconds: float = 0.0
) -> ParetoFront:
    """The Pareto front, with scores, of laws that were rated elsewhere.

    Args:
        rows: complexity, error and expression of each.
        gain: see `pareto`.
        seconds: time of the search, kept in the result.

    Raises:
        RegressionError: no error is finite.

    >>> to_front([(1, 1.0, sympy.Symbol("r"))]).laws[0].expression
    r
    """
    laws: list[Law] = []
    for size, error, expression in pareto(rows, gain):
        score = 0.0
        if laws:
            fall = math.log(laws[-1].mae / max(error, _LEAST_ERROR))
            score = fall / (size - laws[-1].complexity)
        laws.append(Law(expression, size, error, score))
    if not laws:
        raise RegressionError("The search found no expression that is finite on all samples.")
    return ParetoFront(tuple(laws), seconds)


def make_front(
    expressions: Iterable[sympy.Expr],
    features: Columns,
    target: Column,
    *,
    weight: Column | None = None,
    gain: float = 0.0,
    seconds: float = 0.0,
) -> ParetoFront:
    """The Pareto front of the given expressions on the given samples.

    Args:
        expressions: candidates; those that are not finite on some sample are dropped.
        features: columns `[sample]` by name.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors, or None for 1.
        gain: smallest relative fall of the error that earns a more complex law its
            place; without it, laws that differ by nothing that matters would make the
            steps between which the score is measured arbitrarily short.
        seconds: time of the search, kept in the result.

    Raises:
        RegressionError: no expression is usable.

    >>> r = np.array([1.0, 2.0, 3.0])
    >>> front = make_front([sympy.Symbol("r"), 2 * sympy.Symbol("r")], {"r": r}, 2 * r)
    >>> [law.mae for law in front.laws]
    [2.0, 0.0]
    """
    rows = []
    usable = (with_exponentials(one) for one in expressions if is_usable(one))
    for one in dict.fromkeys(usable):
        value = evaluate(one, features)
        error = weighted_error(value - target, weight)
        rows.append((complexity(one), error, one))
    return to_front(rows, gain=gain, seconds=seconds)


def is_usable(expression: sympy.Expr) -> bool:
    """Whether all numbers of an expression are real and of a size that floats can hold.

    >>> is_usable(sympy.log(-1) * sympy.Symbol("r"))
    False
    """
    if expression.has(sympy.I, sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return False
    return all(abs(value) <= LARGEST_CONSTANT for value in expression.atoms(sympy.Float))


def weighted_error(difference: Column, weight: Column | None = None) -> float:
    """Mean of |difference| x weight; infinite where a difference is not finite.

    >>> weighted_error(np.array([1.0, -3.0]))
    2.0
    """
    with np.errstate(all="ignore"):
        error = np.abs(difference) if weight is None else np.abs(difference) * weight
        mean = float(np.mean(error))
    return mean if math.isfinite(mean) else math.inf


def select(front: ParetoFront) -> Law:
    """The law with the highest score (paper, section 3: the largest fall of log error).

    >>> r = np.array([1.0, 2.0, 3.0])
    >>> select(make_front([sympy.Symbol("r"), 2 * sympy.Symbol("r")], {"r": r}, 2 * r)).expression
    2*r
    """
    return max(front.laws, key=lambda law: law.score)
