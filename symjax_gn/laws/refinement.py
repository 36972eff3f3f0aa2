"""Look for simpler or better laws next to known ones: proposals under one rule of acceptance."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import sympy

from symjax_gn.laws.budgets import Budget
from symjax_gn.laws.expressions import complexity, constants, with_constants
from symjax_gn.laws.fitting import fit_in_stages
from symjax_gn.laws.fronts import (
    Column,
    Columns,
    ParetoFront,
    is_usable,
    pareto,
    to_front,
    weighted_error,
)
from symjax_gn.laws.rules import RULES, Rule, sign_powers
from symjax_gn.laws.tapes import Tape

Candidate = tuple[sympy.Expr, ...]

# Fits of laws that differ only by the constants they start from.
_STARTS = 4

# What one constant more must lower the error by, over the number of samples: of N samples of
# noise, a constant that says nothing lowers it by chi^2 / 2N, with chi^2 < 4 in 19 of 20
# cases, and half of the share is kept for ties. So 2 r is preferred to 1.9999 r.
_CHANCE = 4.0

# An error of 0 is a rank too.
_NO_ERROR = 1e-300

# Fits in one run of proposals, at most.
FITS = 400


class Rated(NamedTuple):
    """A law with fitted constants."""

    complexity: int
    """Sum over the components."""
    error: float
    """What the objective gave."""
    candidate: Candidate
    """The components."""
    rank: float
    """The error with something added for each constant, by which fronts are made."""


class Objective(Protocol):
    """What laws are fitted to."""

    def fit(self, candidate: Candidate, limit: float) -> tuple[Candidate, float]:
        """The candidate with fitted constants, and its error; infinite if it is of no use.

        Args:
            candidate: components of a law.
            limit: an error at which the candidate is of no use: a fit may give up, with
                the candidate as it was, where it is sure to stay above.
        """
        ...


def improve(
    candidates: Iterable[Candidate],
    objective: Objective,
    rules: Iterable[Rule],
    *,
    gain: float = 0.1,
    enough: float = math.inf,
    rounds: int = 8,
    budget: int = FITS,
    per_constant: float = 1e-3,
    work: Budget | None = None,
    tidy: Callable[[sympy.Expr], sympy.Expr] = lambda expression: expression,
) -> list[Rated]:
    """The best of some laws and of what rules make of them, simplest first.

    All candidates are fitted. Laws on the Pareto front are changed by each of the rules, the
    results are fitted too, and newcomers on the front are changed in turn. The front decides
    alone: a more complex law must lower the error by the share `gain`, or by `enough`.

    Args:
        candidates: laws, each a tuple of components, which may share constants.
        objective: fits constants and says how large the error is.
        rules: functions of an expression that give other expressions. For a law with several
            components the expression is a function of them (its `args` are the components),
            so that what they have in common changes together.
        gain: see above.
        enough: see above.
        rounds: how often newcomers are changed in turn.
        budget: largest number of fits, those of the candidates not counted.
        per_constant: share by which one constant more must lower the error of a law that is
            otherwise as complex; of errors nearer than half of it, the first law stays.
        work: of the candidates as well, after which nothing more is fitted.
        tidy: gives the form that every law takes before it is fitted, e.g. `sign_powers`.

    >>> r = np.linspace(1.0, 2.0, 50)
    >>> objective = SampleObjective({"r": r}, 3 * r)
    >>> law = 2.9 * sympy.Symbol("r") + sympy.Float(0.1)
    >>> improve([(law,)], objective, RULES.values())[-1].candidate
    (3*r,)
    """
    rules, work = list(rules), work or Budget()
    rated: dict[Any, Rated] = {}
    tried: set[Any] = set()
    starts: Counter[Any] = Counter()

    def burden(candidate):
        return 1 + per_constant * len({value for one in candidate for value in constants(one)})

    def front():
        rows = [(row.complexity, row.rank, row) for row in rated.values()]
        return [row[2] for row in pareto(rows, gain, enough)]

    def limit(packed):
        """The error that a law must stay below to be on the front."""
        size = _complexity(packed)
        limits = [
            max(row.rank * (1 - gain), row.rank - enough)
            if row.complexity < size
            else row.rank * (1 - 0.5 * per_constant)
            for row in front()
            if row.complexity <= size
        ]
        return min(limits, default=math.inf) / burden(_unpacked(packed))

    def rate(packed, limit):
        tried.add(packed)
        work.spend()
        starts[_shape(packed)] += 1
        fitted, error = objective.fit(_unpacked(packed), limit)
        if error < limit:
            key = _packed(fitted)
            rank = (error + _NO_ERROR) * burden(fitted)
            rated[key] = Rated(_complexity(key), error, fitted, rank)

    for packed in dict.fromkeys(tidy(_packed(candidate)) for candidate in candidates):
        if not rated or not work.is_spent:
            rate(packed, math.inf)
    changed: set[Candidate] = set()
    for _ in range(rounds):
        fresh = [row for row in _by_score(front()) if row.candidate not in changed]
        if not fresh:
            break
        changed.update(row.candidate for row in fresh)
        ways = (_variants(_packed(row.candidate), rules) for row in fresh)
        for variant in map(tidy, itertools.chain.from_iterable(ways)):
            if budget <= 0 or work.is_spent:
                break
            known = variant in tried or starts[_shape(variant)] >= _STARTS
            if not known and _is_finite(variant):
                budget -= 1
                rate(variant, limit(variant))
    return front()


def _by_score(rows: list[Rated]) -> list[Rated]:
    """Laws of a front by how steeply the logarithm of the error falls (paper, section 3)."""

    def score(two):
        low, high = two
        return math.log(low.rank / high.rank) / (high.complexity - low.complexity)

    steep = sorted(itertools.pairwise(rows), key=score, reverse=True)
    return [*(row for _, row in steep), *rows[:1]]


def _variants(packed: Any, rules: Iterable[Rule]) -> Iterator[Any]:
    """What rules make of a law."""
    return (one for rule in rules for one in rule(packed))


class _Together(sympy.Function):
    """Several components as one expression."""


def _packed(candidate: Candidate) -> Any:
    return candidate[0] if len(candidate) == 1 else _Together(*candidate)


def _unpacked(packed: Any) -> Any:
    return packed.args if isinstance(packed, _Together) else (packed,)


def _complexity(packed: Any) -> int:
    return sum(map(complexity, _unpacked(packed)))


def _shape(node: Any) -> Any:
    """The same for expressions that differ only by their constants."""
    if isinstance(node, sympy.Float):
        return "constant"
    if not node.args:
        return node
    parts = [_shape(argument) for argument in node.args]
    if node.is_Add or node.is_Mul:
        return node.func, frozenset(Counter(parts).items())
    return node.func, *parts


def _is_finite(expression: Any) -> bool:
    return not expression.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


class SampleObjective:
    """Laws of one component against samples, rated by their weighted mean absolute error.

    >>> r = np.linspace(1.0, 2.0, 50)
    >>> (law,), error = SampleObjective({"r": r}, 3 * r).fit((2.5 * sympy.Symbol("r"),))
    >>> round(float(law.coeff("r")), 6), bool(error < 1e-6)
    (3.0, True)
    """

    def __init__(self, features: Columns, target: Column, weight: Column | None = None):
        """Prepare.

        Args:
            features: columns `[sample]` by name.
            target: `[sample]`.
            weight: `[sample]`, factors of the absolute errors, or None for 1.
        """
        self._names, self._columns = list(features), list(features.values())
        self._target = target
        self._weight = np.ones(len(target)) if weight is None else weight

    def fit(self, candidate: Candidate, limit: float = math.inf) -> tuple[Candidate, float]:
        """See `Objective.fit`."""
        (expression,) = candidate
        if not is_usable(expression):
            return candidate, math.inf
        old = constants(expression)
        bound = Tape([expression], self._names, old).bind(self._columns)

        def residual(values):
            return (bound.values(values)[0] - self._target) * self._weight

        def slopes(values):
            return bound.slopes(values)[0] * self._weight[:, None]

        with np.errstate(all="ignore"):
            start = np.asarray([float(value) for value in old])
            first = weighted_error(residual(start))
            if not old:
                return candidate, first
            best, error = fit_in_stages(residual, slopes, weighted_error, start, limit)
        if error == first:
            return candidate, first
        return (with_constants(expression, best),), error


def refine(
    front: ParetoFront,
    features: Columns,
    target: Column,
    *,
    weight: Column | None = None,
    gain: float = 0.1,
    rounds: int = 8,
    budget: int = FITS,
) -> ParetoFront:
    """Look for simpler or better laws next to those of a front, on samples.

    Args:
        front: the front to start from.
        features: columns `[sample]` by name.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors, or None for 1.
        gain: smallest share by which a more complex law must lower the error.
        rounds: how often, at most, newcomers are changed in turn.
        budget: largest number of fits.

    Raises:
        RegressionError: no law is finite on all samples.

    >>> from symjax_gn.laws.fronts import make_front
    >>> r = np.linspace(1.0, 2.0, 50)
    >>> front = make_front([2.98 * sympy.Symbol("r") + 0.03], {"r": r}, 3 * r)
    >>> refine(front, {"r": r}, 3 * r).laws[-1].expression
    3*r
    """
    start = time.perf_counter()
    signs = [name for name, column in features.items() if np.all(np.abs(column) == 1)]
    rows = improve(
        [(law.expression,) for law in front.laws],
        SampleObjective(features, target, weight),
        RULES.values(),
        gain=gain,
        rounds=rounds,
        budget=budget,
        per_constant=_CHANCE / len(target),
        tidy=sign_powers(signs),
    )
    laws = [(row.complexity, row.error, row.candidate[0]) for row in rows]
    return to_front(laws, gain=gain, seconds=front.seconds + time.perf_counter() - start)
