"""From splines to formulas: searches of one variable each, and the choice between their results.

Candidates take the place of all splines of a law and are fitted to the targets together; of
those whose error on other data is not above the best one's, the simplest is the law.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.units import typical_size
from symjax_gn.discovery.distillation import flattening_power, search_in_units
from symjax_gn.discovery.objective import OnFormulas
from symjax_gn.discovery.offsets import gauges, has_gauge
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
from symjax_gn.discovery.thresholds import with_plain_thresholds
from symjax_gn.laws.bound import bind
from symjax_gn.laws.budgets import Budget
from symjax_gn.laws.dictionary import search_sums
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.expressions import complexity, values
from symjax_gn.laws.fronts import ParetoFront, select, to_front
from symjax_gn.laws.kinds import KINDS, Kind
from symjax_gn.laws.law import Fitted, Law, candidate_of, sums_as_columns
from symjax_gn.laws.refinement import Candidate, Rated
from symjax_gn.laws.rules import RULES, Rule, softened
from symjax_gn.laws.samples import ROUNDING, Samples
from symjax_gn.laws.shapes import Formula, R, Spline

# Stages of the searches for another structure that come before those for the first one.
_SOON = 2

# Samples of a factor, and quantiles of its variable between which they are.
_SAMPLES, _SEEN = 500, (0.003, 0.997)

# An uncertainty of this share of a factor counts as much as its size.
_NOISE = 1e-3

# A sum is measured from a point this share of its range beyond its ends.
_BEYOND = 0.02


class Chosen(NamedTuple):
    """A law whose factors are formulas."""

    law: Law
    errors: Float[np.ndarray, " row"]
    """Held-out errors."""
    before: Candidate
    """The best formulas of each factor as the searches gave them, before any refit."""
    rows: tuple[Rated, ...]
    """What it was chosen from, simplest first; errors on the data of the fit."""
    held_out: tuple[float, ...]
    """[row], their mean held-out errors."""

    @property
    def candidate(self) -> Candidate:
        """A formula of `r` for each factor, those of the message first."""
        return candidate_of(self.law)

    @property
    def error(self) -> float:
        """Mean held-out error."""
        return float(np.mean(self.errors))

    @property
    def complexity(self) -> int:
        """Of all its formulas together."""
        return sum(map(complexity, self.candidate))

    def with_candidate(self, candidate: Candidate, held_out: OnFormulas) -> "Chosen":
        """The same structure with other formulas.

        Args:
            candidate: the formulas.
            held_out: what they are rated on.
        """
        law = self.law.with_shapes(list(map(Formula, candidate)))
        return self._replace(law=law, errors=held_out.errors(candidate))


class Curve(NamedTuple):
    """One factor as samples."""

    x: Float[np.ndarray, " sample"]
    y: Float[np.ndarray, " sample"]
    scale: Float[np.ndarray, " sample"]
    """[sample], what errors count relative to."""
    noise: Float[np.ndarray, " sample"]
    """[sample], uncertainties over what they may be."""
    places: tuple[Any, ...]
    """What `r` of a law that is searched for may stand for: the variable, and where that has
    either sign its size; or of sums, which have any offset and sign, the way from one of its
    ends."""
    gauged: bool
    """Whether it is known up to an offset."""


def sample_factor(fitted: Fitted, k: int, samples: Samples) -> Curve:
    """The k-th factor at values of its variable that the samples have.

    Args:
        fitted: a law.
        k: the number of the factor, those of the message first.
        samples: where its variable has its values.
    """
    law, gauged = fitted.law, has_gauge(fitted.law)
    (term, factor), inside = law.factor(k), k < law.sent
    spline: Any = factor.shape
    x, is_sum = _variable(law, term, factor.variable, inside, samples)
    places: tuple[Any, ...] = (R,)
    if is_sum and gauged:
        low, high = np.min(x), np.max(x)
        reach = _BEYOND * (high - low)
        places = (R - sympy.Float(low - reach), sympy.Float(high + reach) - R)
    elif gauged and np.min(x) < 0 < np.max(x):
        places = (R, sympy.Abs(R))
    x = np.quantile(x, np.linspace(*_SEEN, _SAMPLES))
    y, noise = spline.values(x), spline.deviation(x, fitted.covariance[k]) / _NOISE
    size = np.abs(y) + 0.1 * typical_size(y)
    size = np.full(len(y), typical_size(y - np.mean(y)) or 1.0) if gauged else size
    return Curve(x, y, np.hypot(size, noise), noise / size, places, gauged)


def _variable(law, term, variable, inside, samples):
    """Values of a factor's variable where its term is felt, and whether it is one of sums."""
    columns = samples.elements if inside else samples.owners
    if not inside:
        bound = bind(law, samples)
        columns = {**columns, **sums_as_columns(bound.sums(bound.start))}
    count = len(next(iter(columns.values())))
    felt = np.any([one != 0 for one in term.components(columns, count)], axis=0)
    x = values(variable, columns)[felt if np.any(felt) else ~felt]
    is_sum = any(str(symbol) not in samples.owners for symbol in variable.free_symbols)
    return x, is_sum and not inside


def _formulas(curve: Curve, operators, functions) -> Iterator[dict[Any, float]]:
    """Laws of `r` as sums of known functions, more in each stage."""
    searches = [
        search_sums(
            np.asarray(sympy.lambdify(R, place)(curve.x), np.float64), curve.y, 1 / curve.scale,
            operators=operators, constant=curve.gauged, functions=functions,
        )
        for place in curve.places
    ]  # fmt: skip
    for stage in zip(*searches, strict=False):
        yield {
            law.xreplace({R: place}): error
            for place, rated in zip(curve.places, stage, strict=True)
            for law, error in rated.items()
        }


def search_factor(curve: Curve, regressors: Sequence[Regressor]) -> ParetoFront:
    """Laws of one factor by symbolic regression.

    Args:
        curve: its samples.
        regressors: engines.
    """
    flat = not curve.gauged and bool(np.all(curve.x > 0))
    (front,) = search_in_units(
        regressors,
        {"r": curve.x},
        {"r": typical_size(curve.x) or 1.0},
        curve.y[:, None],
        rows=np.arange(len(curve.x)),
        power=flattening_power(np.abs(curve.y), curve.x) if flat else 0,
        relative_error=not curve.gauged,
        noise=curve.noise,
    )
    return front


def _searches(fitted, curves, *known):
    """A search for each factor; of what is known there is one law."""
    shapes: list[Any] = fitted.law.shapes
    searches = [
        itertools.repeat({_known(shape): 0.0}) if curve is None else _formulas(curve, *known)
        for shape, curve in zip(shapes, curves, strict=True)
    ]
    if not any(curves):
        searches = [itertools.islice(one, 1) for one in searches]
    return in_stages(searches)


def _known(shape):
    """The formula of a constant, or of a factor that is a formula already."""
    return shape.expression if isinstance(shape, Formula) else sympy.Float(shape.numbers[0])


def _sampled(fitted, train):
    """Samples of all factors; None for constants and formulas."""
    shapes: list[Any] = fitted.law.shapes
    return [
        sample_factor(fitted, k, train) if isinstance(shape, Spline) and shape.pieces else None
        for k, shape in enumerate(shapes)
    ]


class _Choice(NamedTuple):
    """How formulas of one structure are chosen."""

    fitted: Fitted
    few: Samples
    valid: Samples
    rounding: float

    def of(self, ways: Sequence[Sequence[sympy.Expr]], budget: Budget) -> Chosen:
        """The choice from formulas for each factor."""
        law = self.fitted.law
        if len(ways) == 1:
            return self.rated([(one,) for one in ways[0]], tuple(way[0] for way in ways), budget)
        tried = []
        for k, laws in enumerate(ways):
            # Splines stand for the other factors.
            alone, other = (OnFormulas(law, one, k) for one in (self.few, self.valid))
            tried.append(screened(laws, alone, other.errors, budget, self.rounding))
        firsts, ways = zip(*tried, strict=True)
        # Which of them are the right ones is not known: all the simplest, or all the best.
        best = tuple(way[0] for way in ways)
        candidates = dict.fromkeys([*beside(firsts, ways), *beside(best, ways)])
        return self.rated(list(candidates), best, budget)

    def rated(self, candidates: list[Candidate], before: Candidate, budget: Budget) -> Chosen:
        """The choice from formulas of all factors together."""
        law = self.fitted.law
        objective, held_out = OnFormulas(law, self.few), OnFormulas(law, self.valid)
        rules = [*RULES.values(), *_softening(law, self.few)]
        picked = pick(candidates, objective, held_out.errors, rules, budget, self.rounding)
        rows, means, best = picked
        found = rows[best].candidate
        law = law.with_shapes(list(map(Formula, found)))
        return Chosen(law, held_out.errors(found), before, tuple(rows), means)


def choose(
    fitted: Fitted,
    train: Samples,
    few: Samples,
    valid: Samples,
    regressors: Sequence[Regressor],
    *,
    others: Callable[[], Iterable[Fitted]] = tuple,
    functions: Sequence[Kind] = KINDS,
    fits: float = math.inf,
    seconds: float | None = None,
    rounding: float = ROUNDING,
) -> Chosen:
    """Formulas in the place of splines.

    Args:
        fitted: a law whose factors are splines.
        train: what these were fitted to.
        few: what formulas are fitted to as they are compared.
        valid: other data, by which they are chosen.
        regressors: engines that search for what is no sum of known functions.
        others: laws of another structure, for which formulas are tried too where those of the
            first stage leave something.
        functions: of one variable, of which formulas are sums.
        fits: after which no more candidates are tried; half as many for those that engines find.
        seconds: likewise, of one core; None: no limit.
        rounding: errors that are nothing but rounding.
    """
    operators = operators_of(regressors)
    budget = Budget(fits, seconds)

    def prepared(fitted):
        curves = _sampled(fitted, train)
        choice = _Choice(fitted, few, valid, rounding)
        return choice, curves, _searches(fitted, curves, operators, functions)

    def first(choice, stages, best=None):
        """The laws of the first stage that leave nothing but rounding, or the best ones."""
        return first_exact(stages, lambda ways: choice.of(ways, budget), budget, best, rounding)

    choice, curves, stages = prepared(fitted)
    found = first(choice, itertools.islice(stages, 1))
    tries = [(choice, curves, stages)]
    for other in others() if found.error > rounding else ():
        broken, parts, more = prepared(other)
        # What only looks like another structure must not take all the time.
        soon = itertools.islice(more, _SOON)
        tries = [(broken, parts, soon), *tries, (broken, parts, more)]
    for trial, parts, more in tries:
        if found.error <= rounding or budget.is_spent:
            break
        again = first(trial, more, found)
        if again is not found:
            choice, curves, found = trial, parts, again
    known = ~np.isnan(choice.fitted.errors)
    if np.mean(found.errors[known]) > max(np.mean(choice.fitted.errors[known]), rounding):
        # What is no sum of known functions is searched for.
        ways = [
            [law]
            if curve is None
            else [law, *(row.expression for row in search_factor(curve, regressors).laws)]
            for law, curve in zip(found.candidate, curves, strict=True)
        ]
        again = choice.of(ways, _half(fits, seconds))
        found = better(found, again, rounding)
    if has_gauge(found.law):
        # Rules that shorten laws choose between gauges.
        variants = gauges(found.law, few, found.candidate)
        last = choice.rated(variants, found.before, _half(fits, seconds))
        rows, means = (*found.rows, *last.rows), (*found.held_out, *last.held_out)
        found = found._replace(rows=rows, held_out=means)
    return found


def _half(fits, seconds) -> Budget:
    return Budget(fits / 2, None if seconds is None else seconds / 2)


def finish(
    chosen: Chosen,
    train: Samples,
    valid: Samples,
    *,
    fits: float = math.inf,
    seconds: float | None = None,
    rounding: float = ROUNDING,
) -> Chosen:
    """The choice between formulas that err nearly alike made on all data, in plain numbers.

    Args:
        chosen: what `choose` gave.
        train: what constants are fitted to.
        valid: other data.
        fits: twice as many as those after which no more plain numbers are tried.
        seconds: likewise, of one core; None: no limit.
        rounding: errors that are nothing but rounding.
    """
    if has_gauge(chosen.law) or chosen.error > rounding:
        # Through noise laws are told apart by all that there are.
        objective, held_out = (OnFormulas(chosen.law, one) for one in (train, valid))
        best = _best_on_all(chosen.rows, chosen.held_out, objective, held_out, rounding)
        chosen = chosen.with_candidate(best, held_out)
    chosen = chosen._replace(law=with_plain_thresholds(chosen.law, train, valid))
    held_out = OnFormulas(chosen.law, valid)
    budget = _half(fits, seconds)
    best = _plainest(chosen.law, chosen.candidate, train, held_out, budget, rounding)
    return chosen.with_candidate(best, held_out)


def _plainest(law, candidate, train, held_out, budget, rounding) -> Candidate:
    """Formulas in plain numbers, in the gauge in which they are shortest then."""
    objective = OnFormulas(law, train)

    def plain(one):
        found = with_plain_numbers(one, objective, held_out.errors, budget)
        return tuple(map(_without_sizes, found))

    ends = [plain(candidate)]
    if has_gauge(law):
        # Without what is next to nothing there may be other gauges than before.
        ways = gauges(law, train, candidate)[1:] + gauges(law, train, ends[0])
        ends += map(plain, dict.fromkeys(ways))
    ends.sort(key=lambda end: sum(map(complexity, end)))
    sizes = [sum(map(complexity, end)) for end in ends]
    return ends[simplest([held_out.errors(end) for end in ends], sizes, rounding)]


def _best_on_all(rows, means, objective, held_out, rounding) -> Candidate:
    """See `best_on_all`; laws that end where data do, only if no other is as good.

    Sums are searched for as the way from a point near one of their ends, whose powers are no
    numbers beyond it.
    """
    best = best_on_all(rows, means, objective, held_out.errors, rounding)
    defined = [k for k, row in enumerate(rows) if objective.is_defined(row.candidate)]
    if not defined or objective.is_defined(best):
        return best
    some = [rows[k] for k in defined], [means[k] for k in defined]
    other = best_on_all(*some, objective, held_out.errors, rounding)
    as_well = as_good(held_out.errors(other), held_out.errors(best), rounding=rounding)
    return other if as_well else best


def _without_sizes(law):
    """The law with even powers of numbers in place of those of their size."""
    return law.replace(
        lambda one: one.is_Pow and isinstance(one.base, sympy.Abs) and one.exp.is_even,
        lambda one: one.base.args[0] ** one.exp,
    )


def by_score(chosen: Chosen, valid: Samples) -> Chosen:
    """The law of the largest score (paper, section 3) of those that were chosen from.

    Args:
        chosen: what `choose` gave.
        valid: held-out data.
    """
    rows: list[Any] = [
        (row.complexity, row.error, sympy.Tuple(*row.candidate)) for row in chosen.rows
    ]
    best: Any = select(to_front(rows)).expression.args
    return chosen.with_candidate(best, OnFormulas(chosen.law, valid))


def _softening(law: Law, samples: Samples) -> list[Rule]:
    """A rule that softens the distance in one factor, where factors are functions of it."""
    where = [k for k in range(law.sent) if law.factor(k)[1].variable == R]
    if not where:
        return []
    soften = softened("r", 0.1 * float(np.quantile(samples.elements["r"], 0.01)))

    def rule(expression):
        together = type(expression).__name__ == "_Together"
        parts = expression.args if together else (expression,)
        for k in where:
            for variant in soften(parts[k]):
                rest = (*parts[:k], variant, *parts[k + 1 :])
                yield expression.func(*rest) if together else variant

    return [rule]
