"""From kernels to laws: searches of one variable each, and the choice between their results.

Candidates take the place of the kernels and are refitted to accelerations; of those whose
error on other recordings is not above the best one's, the simplest is the law.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.units import typical_size
from symjax_gn.discovery.bodies import Bodies
from symjax_gn.discovery.distillation import flattening_power, search_in_units
from symjax_gn.discovery.kernels import Fit, accelerations, on_variable, variable_of
from symjax_gn.discovery.structure import ROUNDING, split_at_break
from symjax_gn.discovery.terms import Term, components, values
from symjax_gn.laws.dictionary import search_sums
from symjax_gn.laws.engines import DEFAULT_OPERATORS, Regressor
from symjax_gn.laws.expressions import complexity, constants, with_constants
from symjax_gn.laws.fitting import fit_in_stages, standard_errors
from symjax_gn.laws.fronts import ParetoFront, RegressionError, is_usable, pareto
from symjax_gn.laws.refinement import Candidate, Rated, improve
from symjax_gn.laws.rules import RULES, softened
from symjax_gn.laws.tapes import Tape

# What kernels are functions of while they are searched for.
_X = sympy.Symbol("r")

# Samples of a kernel.
_SAMPLES = 500

# Quantiles of the variable between which kernels are searched for.
_SEEN = (0.003, 0.997)

# An uncertainty of this share of a kernel counts as much as the kernel's size.
_NOISE = 0.01

# A simpler law may err by so much more than the best one, or by two standard errors.
_AS_GOOD = 1.1
_STANDARD_ERRORS = 2.0

# Fits of laws that rules propose, at most; and the share by which a longer law must lower
# the error.
_PROPOSALS, _GAIN = 120, 0.1

# 95% of a normal distribution are within so many standard errors.
_NORMAL = 1.96

# Laws that are refitted: the last of a front, and others that err nearly as little.
_TRIED, _ALSO, _NEARLY = 12, 25, 10.0

# Laws of each of several kernels that are tried together.
_COMBINED = 6


class Kernel(NamedTuple):
    """One kernel as samples."""

    x: Float[np.ndarray, " sample"]
    y: Float[np.ndarray, " sample"]
    noise: Float[np.ndarray, " sample"]
    """[sample], standard deviation."""


def sample_kernel(fit: Fit, k: int, bodies: Bodies) -> Kernel:
    """The k-th kernel at values of its variable that bodies have."""
    term, spline = fit.terms[k], fit.splines[k]
    x = np.quantile(variable_of(term, bodies), np.linspace(*_SEEN, _SAMPLES))
    basis = on_variable(spline, x)
    noise = np.sqrt(np.maximum(np.einsum("sp,pq,sq->s", basis, fit.covariance[k], basis), 0.0))
    return Kernel(x, basis @ fit.parts[k], noise)


def _sum_laws(kernel: Kernel, operators: Sequence[str]) -> Iterator[dict[Any, float]]:
    """Laws of `r`, which stands for the kernel's variable, as sums of known functions."""
    size = np.abs(kernel.y)
    scale = np.hypot(size + 0.1 * typical_size(size), kernel.noise / _NOISE)
    return search_sums(kernel.x, kernel.y, 1 / scale, operators=operators)


def search_kernel(kernel: Kernel, regressors: Sequence[Regressor]) -> ParetoFront:
    """The same by symbolic regression."""
    size = np.abs(kernel.y)
    scale = size + 0.1 * typical_size(size)
    (front,) = search_in_units(
        regressors,
        {"r": kernel.x},
        {"r": typical_size(kernel.x)},
        kernel.y[:, None],
        rows=np.arange(len(kernel.x)),
        power=flattening_power(size, kernel.x) if np.all(kernel.x > 0) else 0,
        noise=kernel.noise / _NOISE / scale,
    )
    return front


class Interval(NamedTuple):
    """A constant of a law, and where it is to be found in 19 of 20 cases."""

    value: float
    low: float
    high: float


class Laws(NamedTuple):
    """Laws of kernels, one for each term."""

    terms: tuple[Term, ...]
    kernels: tuple[sympy.Expr, ...]
    """Each a function of `r`, which stands for the term's variable."""
    error: float
    """Held-out error, as of `kernels.Fit`."""
    before: tuple[sympy.Expr, ...]
    """The most accurate laws as the searches gave them, before any refit."""
    rows: tuple[Rated, ...]
    """The candidates it was chosen from, simplest first; errors on the data of the fit."""
    held_out: tuple[float, ...]
    """Their held-out errors."""


class OnKernels:
    """Laws of kernels against accelerations; see `refinement.Objective`."""

    def __init__(self, terms: Sequence[Term], bodies: Bodies):
        """Prepare what does not depend on the laws."""
        self._bodies = bodies
        self._ways, self._variables = [], []
        for term in terms:
            columns = bodies.pairs if term.pair else bodies.nodes
            factor = values(term.coupling, columns)
            self._ways.append(factor[:, None] * components(term.vector, columns))
            variable = term.vector.variable
            self._variables.append(
                np.zeros(len(factor)) if variable is None else values(variable, columns)
            )
        self._terms = terms

    def _summed(self, k, each):
        """Accelerations `[node, dim, ...]` of what each pair or body adds."""
        bodies = self._bodies
        found = []
        for way in self._ways[k].T:
            part = each * (way[:, None] if each.ndim > 1 else way)
            if self._terms[k].pair:
                found.append(bodies.sums @ part)
            else:
                found.append(part * (bodies.inverse[:, None] if part.ndim > 1 else bodies.inverse))
        return np.stack(found, axis=1)

    def errors(self, candidate: Candidate) -> Float[np.ndarray, " node"]:
        """Relative errors `[node]` of bodies whose acceleration is known."""
        residual, *_ = self._functions(candidate, [])
        found = np.linalg.norm(residual(np.zeros(0)), axis=1)[self._bodies.weight > 0]
        return np.where(np.isfinite(found), found, np.inf)

    def _functions(self, candidate, old):
        bodies = self._bodies
        weight = bodies.weight[:, None]
        bound = [
            Tape([law], ["r"], old).bind([x])
            for law, x in zip(candidate, self._variables, strict=True)
        ]

        def residual(numbers):
            total = -bodies.target
            with np.errstate(all="ignore"):
                for k, tape in enumerate(bound):
                    value = np.broadcast_to(tape.values(numbers)[0], self._variables[k].shape)
                    total = total + self._summed(k, value)
                return total * weight

        def slopes(numbers):
            total: Any = 0.0
            with np.errstate(all="ignore"):
                for k, tape in enumerate(bound):
                    total = total + self._summed(k, tape.slopes(numbers)[0])
                return (total * weight[..., None]).reshape(-1, len(old))

        return residual, slopes

    def intervals(self, candidate: Candidate) -> tuple[Interval, ...]:
        """The constants of a fitted candidate with their intervals."""
        together: Any = sympy.Tuple(*candidate)
        old = constants(together)
        if not old:
            return ()
        residual, slopes = self._functions(candidate, old)
        found = np.asarray([float(value) for value in old])
        spread = standard_errors(residual(found).reshape(-1), slopes(found))
        reach = _NORMAL * spread
        return tuple(
            Interval(float(x), float(x - d), float(x + d))
            for x, d in zip(found, reach, strict=True)
        )

    def mean_error(self, residual: Float[np.ndarray, "node dim"]) -> float:
        """What laws are rated by."""
        length = np.linalg.norm(residual, axis=1)
        mean = np.sum(length) / max(1, np.count_nonzero(self._bodies.weight))
        return float(mean) if math.isfinite(mean) else math.inf

    def fit(self, candidate: Candidate, limit: float = math.inf) -> tuple[Candidate, float]:
        """See `Objective.fit`."""
        if not all(map(is_usable, candidate)):
            return candidate, math.inf
        together: Any = sympy.Tuple(*candidate)
        old = constants(together)
        residual, slopes = self._functions(candidate, old)
        start = np.asarray([float(value) for value in old])
        first = self.mean_error(residual(start))
        if not old:
            return candidate, first
        found, error = fit_in_stages(residual, slopes, self.mean_error, start, limit)
        if error == first:
            return candidate, first
        return tuple(with_constants(together, found)), error


def choose(fit: Fit, train: Bodies, valid: Bodies, regressors: Sequence[Regressor]) -> Laws:
    """Laws in the place of kernels.

    Args:
        fit: terms with their kernels.
        train: bodies whose accelerations laws are fitted to.
        valid: bodies of other recordings, by which laws are chosen.
        regressors: engines that search for each kernel.
    """
    operators = {name for one in regressors for name in getattr(one, "operators", ())}
    operators = sorted(operators) or DEFAULT_OPERATORS
    stages = _by_sums(fit, train, operators)
    found = _first(stages, fit, train, valid)
    if found.error > ROUNDING:
        broken = split_at_break(fit, train, valid)
        if broken is not None:
            again = _first(_by_sums(broken, train, operators), broken, train, valid)
            if again.error < found.error:
                fit, found = broken, again
    if found.error > max(fit.error, ROUNDING):
        # What is no sum of known functions is searched for.
        ways = []
        for k, term in enumerate(fit.terms):
            if term.vector.variable is None:
                ways.append([found.kernels[k]])
                continue
            front = search_kernel(sample_kernel(fit, k, train), regressors)
            ways.append([found.kernels[k], *(law.expression for law in front.laws)])
        again = _choose(fit, ways, train, valid)
        found = again if again.error < found.error else found
    return found


def _first(stages, fit, train, valid):
    """The laws of the first stage that leave nothing but rounding, or the best ones."""
    best = None
    for ways in stages:
        found = _choose(fit, ways, train, valid)
        if best is None or found.error < best.error / _AS_GOOD:
            best = found
        if best.error <= ROUNDING:
            break
    assert best is not None
    return best


def _by_sums(fit, train, operators):
    """Laws of each kernel that are sums of known functions, more in each stage."""
    searches = [
        itertools.repeat({sympy.Float(fit.parts[k][0]): 0.0})
        if term.vector.variable is None
        else _sum_laws(sample_kernel(fit, k, train), operators)
        for k, term in enumerate(fit.terms)
    ]
    if all(term.vector.variable is None for term in fit.terms):
        searches = [itertools.islice(one, 1) for one in searches]
    known = [math.inf] * len(searches)
    for rated in zip(*searches, strict=False):
        least = [min(one.values()) for one in rated]
        # Laws that explain a kernel no better are no news.
        if any(new < old / _AS_GOOD for new, old in zip(least, known, strict=True)):
            known = least
            yield [_promising(one) for one in rated]


def _promising(rated):
    """The best laws, the most accurate first, and those on the Pareto front."""
    rows = sorted(((complexity(law), error, law) for law, error in rated.items()), key=_order)
    front = [row[2] for row in pareto(rows)]
    least = min(error for _, error, _ in rows)
    good = sorted((row for row in rows if row[1] <= _NEARLY * least), key=lambda row: row[1])
    return list(dict.fromkeys([*(row[2] for row in good[:_ALSO]), *front[-_TRIED:]]))


def _order(row):
    return row[:2]


def _screened(fit, k, laws, train):
    """The best laws of one kernel, the best first, where splines stand for the others."""
    others = [n for n in range(len(fit.terms)) if n != k]
    target = train.target - accelerations(fit, train, others)
    objective = OnKernels([fit.terms[k]], train._replace(target=target))
    rows = []
    for law in laws:
        (fitted,), error = objective.fit((law,))
        rows.append((complexity(fitted), error, fitted))
    front = [row[2] for row in pareto(sorted(rows, key=_order))]
    good = [row[2] for row in sorted(rows, key=lambda row: row[1])[:_COMBINED]]
    return list(dict.fromkeys([*good, *front[-_COMBINED:]]))


def _choose(fit, ways, train, valid):
    """Laws from candidates for each kernel."""
    if len(ways) > 1:
        ways = [_screened(fit, k, laws, train) for k, laws in enumerate(ways)]
    objective, held_out = OnKernels(fit.terms, train), OnKernels(fit.terms, valid)
    best = [way[0] for way in ways]
    candidates = [tuple(best)]
    for k, way in enumerate(ways):
        candidates += [(*best[:k], law, *best[k + 1 :]) for law in way if law != best[k]]
    rules = [*RULES.values(), _softening(train)]
    rows = improve(candidates, objective, rules, gain=_GAIN, budget=_PROPOSALS)
    if not rows:
        raise RegressionError("No law of the kernels is finite on all bodies.")
    errors = [held_out.errors(row.candidate) for row in rows]
    means = np.asarray([np.mean(one) for one in errors])
    least = int(np.argmin(means))
    picked = least
    for k, one in enumerate(errors):
        gap = one - errors[least]
        with np.errstate(all="ignore"):
            chance = _STANDARD_ERRORS * float(np.std(gap)) / math.sqrt(len(gap))
        if means[k] <= max(_AS_GOOD * means[least], means[least] + chance, ROUNDING):
            picked = k
            break
    return Laws(
        terms=fit.terms,
        kernels=rows[picked].candidate,
        error=float(means[picked]),
        before=tuple(best),
        rows=tuple(rows),
        held_out=tuple(float(x) for x in means),
    )


def _softening(bodies):
    """A rule that softens the distance in the law of one kernel."""
    start = 0.1 * float(np.quantile(bodies.pairs["r"], 0.01)) if bodies.pairs else 0.01
    soften = softened("r", start)

    def rule(expression):
        parts = expression.args if type(expression).__name__ == "_Together" else (expression,)
        for k, part in enumerate(parts):
            for variant in soften(part):
                rest = (*parts[:k], variant, *parts[k + 1 :])
                yield expression.func(*rest) if len(parts) > 1 else variant

    return rule


def force_laws(laws: Laws, dim: int) -> tuple[list[sympy.Expr], list[sympy.Expr]]:
    """Forces of pairs and of bodies alone along each axis."""
    totals: list[list[Any]] = [[sympy.Integer(0)] * dim, [sympy.Integer(0)] * dim]
    for term, kernel in zip(laws.terms, laws.kernels, strict=True):
        variable = term.vector.variable
        kernel = kernel if variable is None else kernel.xreplace({_X: variable})
        where = totals[0 if term.pair else 1]
        for k, along in enumerate(term.vector.along):
            where[k] = where[k] + term.coupling * kernel * along
    return totals[0], totals[1]
