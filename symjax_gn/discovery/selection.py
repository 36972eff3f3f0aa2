"""The choice between laws of one or several functions, by errors on data held out.

Candidates for each function are put together and refitted; of those whose held-out error is
not significantly above the least, the simplest is taken.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.laws.budgets import Budget
from symjax_gn.laws.engines import DEFAULT_OPERATORS, Regressor
from symjax_gn.laws.expressions import complexity
from symjax_gn.laws.fronts import RegressionError, pareto
from symjax_gn.laws.refinement import Candidate, Objective, Rated, improve
from symjax_gn.laws.rules import Rule
from symjax_gn.laws.samples import ROUNDING

# A simpler law may err by such a factor more than the best one, as long as that is no more than
# this share of what is typical; or by two standard errors.
_AS_GOOD, _AS_GOOD_SHARE = 1.1, 0.01
_STANDARD_ERRORS = 2.0

# What an operator, variable or constant of a law is worth: it is one of some twelve.
_PER_NODE = math.log(12)

# Fits of laws that rules propose, at most. A longer law must lower the error by a share that is
# one over the number of samples, but by no more than a tenth.
_PROPOSALS, _MOST_GAIN = 120, 0.1

# Laws that are refitted: the last of a front, and others that err nearly as little.
_TRIED, _ALSO, _NEARLY = 12, 25, 10.0

# Values of a kernel that are independent, as many as its splines have pieces at least; and an
# error that has a logarithm.
_VALUES, _TINY = 40, 1e-300

# Laws of each of several kernels that are tried together.
_COMBINED = 6

# Laws that are compared once more, fitted to all data: those that err no more than such a factor
# of the best, nor by such a share of what is typical more; at most so many, which describe the
# data in the fewest words.
_TWICE, _NEAR, _MOST_FITTED = 2.0, 0.03, 10


def operators_of(regressors: Sequence[Regressor]) -> Sequence[str]:
    """The operators that engines may use together."""
    operators = {name for one in regressors for name in getattr(one, "operators", ())}
    return sorted(operators) or DEFAULT_OPERATORS


class _WithErrors(Protocol):
    @property
    def errors(self) -> np.ndarray: ...

    @property
    def complexity(self) -> int: ...


_Found = TypeVar("_Found", bound=_WithErrors)


def first_exact(
    stages: Iterable[Sequence[Sequence[sympy.Expr]]],
    choose: Callable[[Sequence[Sequence[sympy.Expr]]], _Found],
    budget: Budget | None = None,
    best: _Found | None = None,
    rounding: float = ROUNDING,
) -> _Found:
    """What is chosen of the first stage that leaves nothing but rounding, or the best choice.

    Args:
        stages: what `in_stages` gave.
        choose: chooses of the laws of a stage.
        budget: after which no stage begins.
        best: what is known already.
        rounding: errors that are nothing but rounding.
    """
    for ways in stages:
        found = choose(ways)
        best = found if best is None else better(best, found, rounding)
        if np.mean(best.errors) <= rounding or (budget is not None and budget.is_spent):
            break
    assert best is not None
    return best


def better(one: _Found, other: _Found, rounding: float = ROUNDING) -> _Found:
    """Of two choices the simpler one, unless the other errs so much less that it is worth it.

    Args:
        one: what was chosen first; of two alike it stays.
        other: what was chosen then.
        rounding: see `as_good`.
    """
    both = sorted([one, other], key=lambda found: found.complexity)
    sizes = [found.complexity for found in both]
    return both[simplest([found.errors for found in both], sizes, rounding)]


def in_stages(
    searches: Sequence[Iterator[dict[Any, float]]],
) -> Iterator[list[list[sympy.Expr]]]:
    """Promising laws of each of several functions, more in each stage of their searches."""
    known = [(math.inf, math.inf)] * len(searches)
    for rated in zip(*searches, strict=False):
        reached = list(map(_reached, rated))
        # Laws that explain a kernel no better, and are no simpler, are no news.
        if any(
            error < old / _AS_GOOD or (size < largest and error <= old)
            for (error, size), (old, largest) in zip(reached, known, strict=True)
        ):
            known = reached
            yield [_promising(one) for one in rated]


def _reached(rated):
    """The least error of some laws, and the least complexity of those that err about as little."""
    least = min(rated.values())
    near = (law for law, error in rated.items() if error <= _AS_GOOD * least)
    return least, min(map(complexity, near))


def _promising(rated):
    """The laws that err about as little as the best one, and those on the Pareto front.

    Of the former those come first that describe the kernel in the fewest words: a more accurate
    one may only follow its noise.
    """
    rows = sorted(((complexity(law), error, law) for law, error in rated.items()), key=_order)
    front = [row[2] for row in pareto(rows)]
    least = min(error for _, error, _ in rows)
    # Laws that say the same differ by rounding.
    good = {(size, f"{error:.6g}"): (size, error, law) for size, error, law in reversed(rows)}
    near = [row for row in good.values() if row[1] <= _NEARLY * least]
    good = sorted(near, key=lambda row: _PER_NODE * row[0] + _VALUES * math.log(row[1] + _TINY))
    return list(dict.fromkeys([*(row[2] for row in good[:_ALSO]), *front[-_TRIED:]]))


def _order(row):
    return row[:2]


def _fitted(laws, objective, budget):
    """Complexity, error and fitted law of each that is finite, simplest first; at least one."""
    rows = []
    for law in laws:
        if rows and budget.is_spent:
            break
        budget.spend()
        (fitted,), error = objective.fit((law,), math.inf)
        if math.isfinite(error):
            rows.append((complexity(fitted), error, fitted))
    if not rows:
        raise RegressionError("No law that was found is finite on all data.")
    return sorted(rows, key=_order)


def screened(
    laws: Sequence[sympy.Expr],
    objective: Objective,
    held_out: Callable[[Candidate], Float[np.ndarray, " sample"]],
    budget: Budget | None = None,
    rounding: float = ROUNDING,
) -> tuple[sympy.Expr, list[sympy.Expr]]:
    """The choice of laws of one of several functions, and the best ones, the best first.

    Args:
        laws: of `r`.
        objective: rates one law, where the other functions are known.
        held_out: errors of fitted laws on other data.
        budget: after which no more are fitted.
        rounding: see `as_good`.
    """
    rows = _fitted(laws, objective, budget or Budget())
    front = pareto(rows)[-_TRIED:]
    errors = [held_out((law,)) for *_, law in front]
    first = front[simplest(errors, [size for size, *_ in front], rounding)][2]
    good = sorted(rows, key=lambda row: row[1])[:_COMBINED]
    return first, list(dict.fromkeys(row[2] for row in [*good, *front[-_COMBINED:]]))


def beside(firsts: Candidate, ways: Sequence[Sequence[sympy.Expr]]) -> list[Candidate]:
    """Laws of several functions together, and with one of them replaced.

    Args:
        firsts: one for each function.
        ways: others for each function.
    """
    found = [firsts]
    for k, way in enumerate(ways):
        found += [(*firsts[:k], law, *firsts[k + 1 :]) for law in way if law != firsts[k]]
    return found


def pick(
    candidates: Sequence[Candidate],
    objective: Objective,
    held_out: Callable[[Candidate], Float[np.ndarray, " sample"]],
    rules: Sequence[Rule],
    budget: Budget | None = None,
    rounding: float = ROUNDING,
) -> tuple[list[Rated], tuple[float, ...], int]:
    """The simplest laws of several functions whose held-out error is as small as the least.

    Args:
        candidates: laws of all functions together.
        objective: fits their constants.
        held_out: errors of fitted laws on other data.
        rules: what make new candidates of good ones.
        budget: after which no more are fitted.
        rounding: see `as_good`.

    Returns:
        The candidates, simplest first; their mean held-out errors; the number of the choice.

    Raises:
        RegressionError: no law is finite.
    """
    gain = min(1 / len(held_out(candidates[0])), _MOST_GAIN)
    rows = improve(candidates, objective, rules, gain=gain, budget=_PROPOSALS, work=budget)
    if not rows:
        raise RegressionError("No law that was found is finite on all data.")
    errors = [held_out(row.candidate) for row in rows]
    means = tuple(float(np.mean(one)) for one in errors)
    return rows, means, simplest(errors, [row.complexity for row in rows], rounding)


def best_on_all(
    rows: Sequence[Rated],
    means: Sequence[float],
    objective: Objective,
    held_out: Callable[[Candidate], Float[np.ndarray, " sample"]],
    rounding: float = ROUNDING,
) -> Candidate:
    """The choice between laws that err nearly alike, once all data have fitted them.

    What few data say of constants may hide which law is the better one.

    Args:
        rows: what was chosen from.
        means: their mean held-out errors.
        objective: fits constants to all data.
        held_out: errors of fitted laws on other data.
        rounding: see `as_good`.
    """
    most = min(_TWICE * min(means), min(means) + _NEAR)
    samples = len(held_out(rows[0].candidate))

    def length(k):
        """Of the description of data by a law, and of the law."""
        return samples * math.log(max(means[k], rounding)) + _PER_NODE * rows[k].complexity

    near = sorted((k for k in range(len(rows)) if means[k] <= most), key=length)
    best = sorted((rows[k] for k in near[:_MOST_FITTED]), key=lambda row: row.complexity)
    fitted = [objective.fit(row.candidate, math.inf)[0] for row in best]
    sizes = [row.complexity for row in best]
    return fitted[simplest([held_out(one) for one in fitted], sizes, rounding)]


def simplest(
    errors: Sequence[Float[np.ndarray, " sample"]],
    sizes: Sequence[int],
    rounding: float = ROUNDING,
) -> int:
    """Which of some laws, simplest first, is the first that errs no more than the best one.

    Nor does one that errs so little more that it does not make good for what the best one is
    longer: by the logarithm of errors, which is what their description is longer by.

    Args:
        errors: `[sample]` of each law, on the same held-out data.
        sizes: the complexity of each law.
        rounding: see `as_good`.

    >>> noise = 0.1 * np.abs(np.random.default_rng(0).normal(size=1000))
    >>> simplest([2 * noise, 1.02 * noise, noise], [3, 5, 7])
    2
    >>> simplest([2 * noise, 1.02 * noise, noise], [3, 5, 15])
    1
    """
    means = [max(float(np.mean(one)), rounding) for one in errors]
    best = int(np.argmin(means))

    def enough(k):
        with np.errstate(all="ignore"):
            longer = len(errors[k]) * math.log(means[k] / means[best])
        saved = _PER_NODE * (sizes[best] - sizes[k])
        return longer <= saved or as_good(errors[k], errors[best], 1.0, rounding)

    return next(k for k in range(len(errors)) if enough(k))


def as_good(
    errors: Float[np.ndarray, " sample"],
    best: Float[np.ndarray, " sample"],
    factor: float = _AS_GOOD,
    rounding: float = ROUNDING,
    chance: float = _STANDARD_ERRORS,
) -> bool:
    """Whether errors, as shares of what is typical, are not above others.

    Those that are above by so many standard errors of `chance`, or by no more than a factor and
    little altogether, are not; nor are those that are nothing but `rounding`.
    """
    gap = errors - best
    # One error that is larger than all of the best law's is no chance.
    most = np.max(best)
    with np.errstate(all="ignore"):
        spread = chance * float(np.std(np.clip(gap, -most, most))) / math.sqrt(len(gap))
    mean = float(np.mean(best))
    near = min(factor * mean, mean + _AS_GOOD_SHARE)
    return bool(np.mean(errors) <= max(near, mean + spread, rounding))
