"""From splines to formulas: laws of sums factor by factor, fitted to the targets together.

Of each factor samples are searched; candidates take the place of the splines, are fitted
together and chosen on other data, and what one factor may give another is moved between them
to where the law is shortest.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.units import typical_size
from symjax_gn.discovery.composition import SUM
from symjax_gn.discovery.distillation import search_in_units
from symjax_gn.discovery.rounding import with_plain_numbers
from symjax_gn.discovery.selection import (
    as_good,
    beside,
    best_on_all,
    better,
    first_exact,
    in_stages,
    operators_of,
    pick,
    screened,
    simplest,
)
from symjax_gn.discovery.separation import SplineLaw
from symjax_gn.discovery.sum_objective import OnTargets
from symjax_gn.discovery.summed import Summed, without_differences
from symjax_gn.laws.dictionary import search_sums
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.expressions import complexity
from symjax_gn.laws.fronts import ParetoFront
from symjax_gn.laws.refinement import Candidate, Rated
from symjax_gn.laws.rules import RULES, over

# What factors are functions of while they are searched for.
_X = sympy.Symbol("r")


# Samples of a factor, and quantiles of its variable between which they are.
_SAMPLES, _SEEN = 500, (0.003, 0.997)

# An uncertainty of this share of how much a factor varies counts as much as that.
_NOISE = 0.01

# Errors below this are those of single numbers in float32. Accelerations, which are sums of
# forces that may cancel each other, are less exact.
_ROUNDING = 3e-7

# Constants of terms cancel each other if no more than this share is left.
_CANCELLED = 1e-9

# A sum is measured from a point this share of its range beyond its ends.
_BEYOND = 0.02


class Chosen(NamedTuple):
    """Laws of all factors."""

    candidate: Candidate
    """A law of `r` for each factor, those of the message first."""
    errors: Float[np.ndarray, " owner"]
    """[owner], held-out errors over the typical target."""
    rows: tuple[Rated, ...]
    """What it was chosen from."""
    held_out: tuple[float, ...]
    """[row], their mean held-out errors."""

    @property
    def error(self) -> float:
        """Mean held-out error."""
        return float(np.mean(self.errors))

    @property
    def complexity(self) -> int:
        """Of all its laws together."""
        return sum(map(complexity, self.candidate))


def whole(splines: SplineLaw, candidate: Candidate) -> list[Any]:
    """Message and update of laws of all factors."""
    counted: Iterator[Any] = iter(candidate)

    def factor(name):
        return without_differences(next(counted).xreplace({_X: sympy.Symbol(name)}))

    return [
        _summed([sympy.Mul(*map(factor, term)) for term in terms])
        for terms in (splines.message, splines.update)
    ]


def _summed(parts):
    """The sum, without a constant that is nothing but what rounding leaves of others."""
    number, rest = sympy.Add(*parts).as_coeff_Add()
    largest = max(abs(one.as_coeff_Add()[0]) for one in parts)
    return rest if abs(number) < _CANCELLED * largest else number + rest


def choose_factors(
    splines: SplineLaw,
    train: Summed,
    few: Summed,
    valid: Summed,
    regressors: Sequence[Regressor],
    *,
    seconds: float = math.inf,
) -> Chosen:
    """Laws in the place of splines.

    Args:
        splines: terms with their factors.
        train: what the splines were fitted to.
        few: what laws are fitted to as they are compared; the best in the end to all.
        valid: other data, by which laws are chosen.
        regressors: engines that search for what is no sum of known functions.
        seconds: after which no more candidates are tried; half as long for those that engines
            find, and for gauges.
    """
    until = time.thread_time() + seconds
    samples = [_sample(splines, k, train) for k in range(len(splines.curves))]
    operators = operators_of(regressors)

    objective, held_out = OnTargets(splines, few), OnTargets(splines, valid)

    def rated(candidates):
        rules = list(RULES.values())
        rows, means, picked = pick(candidates, objective, held_out.errors, rules, until, _ROUNDING)
        best = rows[picked].candidate
        return Chosen(best, held_out.errors(best), tuple(rows), means)

    def choose(ways):
        tried = []
        for k, laws in enumerate(ways):
            # Splines stand for the other factors.
            alone, errors = OnTargets(splines, few, k), OnTargets(splines, valid, k).errors
            tried.append(screened(laws, alone, errors, until, _ROUNDING))
        firsts, best = zip(*tried, strict=True)
        return rated(beside(firsts, best))

    stages = in_stages([_laws(*one, operators) for one in samples])
    found = first_exact(stages, choose, until, rounding=_ROUNDING)
    if np.mean(found.errors[~np.isnan(splines.errors)]) > max(splines.error, _ROUNDING):
        # What is no sum of known functions is searched for.
        fronts = [_search(*one, regressors) for one in samples]
        ways = [
            [law, *(row.expression for row in front.laws)]
            for law, front in zip(found.candidate, fronts, strict=True)
        ]
        until = time.thread_time() + seconds / 2
        found = better(found, choose(ways), _ROUNDING)
    # Rules that shorten laws choose between gauges.
    until = time.thread_time() + seconds / 2
    variants = gauges(splines, few, found.candidate)
    last = rated(variants)
    rows, means = (*found.rows, *last.rows), (*found.held_out, *last.held_out)
    on_all = OnTargets(splines, train)
    fitted = _best_on_all(rows, means, on_all, held_out)
    until = time.thread_time() + seconds / 2
    best = _plainest(splines, fitted, few, on_all, held_out, until)
    return Chosen(best, held_out.errors(best), rows, means)


def _best_on_all(rows, means, objective, held_out) -> Candidate:
    """See `best_on_all`; laws that end where data do, only if no other is as good.

    Sums are searched for as the way from a point near one of their ends, whose powers are no
    numbers beyond it.
    """
    best = best_on_all(rows, means, objective, held_out.errors, _ROUNDING)
    defined = [k for k, row in enumerate(rows) if objective.is_defined(row.candidate)]
    if not defined or objective.is_defined(best):
        return best
    some = [rows[k] for k in defined], [means[k] for k in defined]
    other = best_on_all(*some, objective, held_out.errors, _ROUNDING)
    as_well = as_good(held_out.errors(other), held_out.errors(best), rounding=_ROUNDING)
    return other if as_well else best


def _plainest(splines, candidate, few, objective, held_out, until) -> Candidate:
    """The law in plain numbers, in the gauge in which it is shortest then.

    Without what is next to nothing there may be others than before.
    """

    def plain(one):
        return tuple(
            map(_without_sizes, with_plain_numbers(one, objective, held_out.errors, until))
        )

    ways = gauges(splines, few, candidate)
    ways += gauges(splines, few, plain(candidate))
    ends = list(map(plain, dict.fromkeys(ways)))
    ends.sort(key=lambda end: sum(map(complexity, end)))
    sizes = [sum(map(complexity, end)) for end in ends]
    return ends[simplest([held_out.errors(end) for end in ends], sizes, _ROUNDING)]


def _without_sizes(law):
    """The law with even powers of numbers in place of those of their size."""
    return law.replace(
        lambda one: one.is_Pow and isinstance(one.base, sympy.Abs) and one.exp.is_even,
        lambda one: one.base.args[0] ** one.exp,
    )


def gauges(splines: SplineLaw, data: Summed, candidate: Candidate) -> list[Candidate]:
    """The same law with offsets and factors moved: from message to update, and within terms.

    Args:
        splines: says which factors there are.
        data: offsets are summed: they can be moved where all owners have as many elements.
        candidate: laws of all factors.
    """
    parts: list[Any] = list(candidate)
    counts = np.unique(np.diff(data.matrix.indptr))
    starts = np.cumsum([0, *map(len, splines.message)])
    inside, outside = range(starts[-1]), range(starts[-1], len(parts))
    of_sums = [k for k in outside if splines.variables[k] == SUM]

    def moved(parts, place):
        """With the sums in the update at a place."""
        new = list(parts)
        for k in of_sums:
            new[k] = _plain_bases(parts[k].xreplace({_X: place}))
        return new

    found = [candidate]
    terms = (*splines.message, *splines.update)
    for k, term in zip(np.cumsum([0, *map(len, terms)]), terms, strict=False):
        # The first factor of a term has its scale.
        for other in range(k + 1, k + len(term)):
            number, parts[other] = parts[other].as_coeff_Mul()
            parts[k] = sympy.expand_mul(number * parts[k])
    found.append(tuple(parts))
    for k, term in zip(starts, splines.message, strict=False):
        offset, rest = parts[k].as_coeff_Add()
        if len(term) == 1 and len(counts) == 1 and offset != 0:
            parts = moved(parts, _X + sympy.Float(int(counts[0]) * offset))
            parts[k] = rest
            found.append(tuple(parts))
    sent = [one for k in starts[:-1] for one in _terms(parts[k]) if one.has(_X)]
    factors = {one.as_coeff_Mul()[0] for one in sent}
    for factor in sorted(x for x in factors if x.is_Float and x != 0):
        new = moved(parts, factor * _X)
        for k in set(inside) & set(starts.tolist()):
            new[k] = sympy.Add(*(over(one, factor) for one in _terms(parts[k])))
        found.append(tuple(new))
    return found


def _terms(law):
    return sympy.Add.make_args(law)


def _plain_bases(law):
    """The law with numbers taken out of powers of a r + b."""

    def plain(base, exponent):
        factor = base.coeff(_X, 1)
        if not factor.is_Float or base != factor * _X + base.coeff(_X, 0):
            return base**exponent
        rest = _X + base.coeff(_X, 0) / factor
        if exponent.is_Integer or factor > 0:
            return factor**exponent * rest**exponent
        return abs(factor) ** exponent * (-rest) ** exponent

    return law.replace(sympy.Pow, plain)


class _Samples(NamedTuple):
    """One factor as samples."""

    x: Float[np.ndarray, " sample"]
    y: Float[np.ndarray, " sample"]
    scale: Float[np.ndarray, " sample"]
    """[sample], what errors count relative to."""
    places: tuple[Any, ...]
    """What `r` of a law that is searched for may stand for: the variable, and where that has
    either sign its size; or of sums, which have any offset and sign, the way from one of its
    ends."""


def _sample(splines, k, data) -> _Samples:
    """The k-th factor at values of its variable."""
    name, curve = splines.variables[k], splines.curves[k]
    inside = k < sum(map(len, splines.message))
    columns: Any = data.elements if inside else data.owners
    places: tuple[Any, ...] = (_X,)
    if not inside and name == SUM:
        composition, numbers = splines.composition(data)
        columns = {SUM: composition.sums(numbers)}
        low, high = np.min(columns[SUM]), np.max(columns[SUM])
        reach = _BEYOND * (high - low)
        places = (_X - sympy.Float(low - reach), sympy.Float(high + reach) - _X)
    elif np.min(columns[name]) < 0 < np.max(columns[name]):
        places = (_X, sympy.Abs(_X))
    x = np.quantile(columns[name], np.linspace(*_SEEN, _SAMPLES))
    y = curve.values(x)
    noise = curve.deviation(x, splines.covariance[k])
    size = typical_size(y - np.mean(y)) or 1.0
    return _Samples(x, y, np.hypot(size, noise / _NOISE), places)


def _laws(x, y, scale, places, operators) -> Iterator[dict[Any, float]]:
    """Laws of `r` as sums of known functions, more in each stage."""
    searches = [
        search_sums(_at(place, x), y, 1 / scale, operators=operators, constant=True)
        for place in places
    ]
    for stage in zip(*searches, strict=False):
        yield {
            law.xreplace({_X: place}): error
            for place, rated in zip(places, stage, strict=True)
            for law, error in rated.items()
        }


def _at(place, x):
    return np.asarray(sympy.lambdify(_X, place)(x), np.float64)


def _search(x, y, scale, places, regressors) -> ParetoFront:
    """The same by symbolic regression."""
    del places
    (front,) = search_in_units(
        regressors,
        {"r": x},
        {"r": typical_size(x) or 1.0},
        y[:, None],
        rows=np.arange(len(x)),
        relative_error=False,
        noise=scale / np.min(scale),
    )
    return front
