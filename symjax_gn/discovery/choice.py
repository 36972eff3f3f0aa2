"""From kernels to laws: searches of one variable each, and the choice between their results.

Candidates take the place of the kernels and are refitted to accelerations; of those whose
error on other recordings is not above the best one's, the simplest is the law.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.units import typical_size
from symjax_gn.discovery.bodies import ROUNDING, Bodies
from symjax_gn.discovery.distillation import flattening_power, search_in_units
from symjax_gn.discovery.kernels import Fit, accelerations, on_variable, variable_of
from symjax_gn.discovery.objective import OnKernels
from symjax_gn.discovery.rounding import with_plain_numbers
from symjax_gn.discovery.selection import (
    as_good,
    beside,
    best_on_all,
    first_exact,
    in_stages,
    operators_of,
    pick,
    screened,
)
from symjax_gn.discovery.structure import split_at_break
from symjax_gn.discovery.terms import Term, values
from symjax_gn.laws.dictionary import search_sums
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.expressions import complexity, constants
from symjax_gn.laws.fronts import ParetoFront, select, to_front
from symjax_gn.laws.refinement import Rated
from symjax_gn.laws.rules import RULES, softened

# Stages of the searches for a broken kernel that come before those for the whole one.
_SOON = 2

# Samples of a kernel.
_SAMPLES = 500

# Quantiles of the variable between which kernels are searched for.
_SEEN = (0.003, 0.997)

# An uncertainty of this share of a kernel counts as much as the kernel's size.
_NOISE = 1e-3

# Thresholds of couplings are moved by such a share at most, looked for at so many places at a
# time, and written with fewer digits than these where errors grow by no more than such a factor.
_MOVED, _PLACES, _DIGITS, _PLAIN_ERROR = 0.02, 9, 8, 1.05


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


class Laws(NamedTuple):
    """Laws of kernels, one for each term."""

    terms: tuple[Term, ...]
    kernels: tuple[sympy.Expr, ...]
    """Each a function of `r`, which stands for the term's variable."""
    errors: Float[np.ndarray, " node"]
    """[node], held-out errors, as of `kernels.Fit`."""
    before: tuple[sympy.Expr, ...]
    """The best laws as the searches gave them, before any refit."""
    rows: tuple[Rated, ...]
    """The candidates it was chosen from, simplest first; errors on the data of the fit."""
    held_out: tuple[float, ...]
    """Their held-out errors."""

    @property
    def error(self) -> float:
        """Mean held-out error."""
        return float(np.mean(self.errors))

    @property
    def complexity(self) -> int:
        """Of all its laws together."""
        return sum(map(complexity, self.kernels))


def choose(
    fit: Fit,
    train: Bodies,
    valid: Bodies,
    regressors: Sequence[Regressor],
    *,
    seconds: float = math.inf,
) -> Laws:
    """Laws in the place of kernels.

    Args:
        fit: terms with their kernels.
        train: bodies whose accelerations laws are fitted to.
        valid: bodies of other recordings, by which laws are chosen.
        regressors: engines that search for each kernel.
        seconds: after which no more candidates are tried; half as long for those that engines
            find, whose searches have limits of their own.
    """
    operators = operators_of(regressors)
    until = time.thread_time() + seconds

    def first(fit, stages, best=None):
        """The laws of the first stage that leave nothing but rounding, or the best ones."""

        def tried(ways):
            return _choose(fit, ways, train, valid, until)

        return first_exact(stages, tried, until, best)

    stages = in_stages(_searches(fit, train, operators))
    found = first(fit, itertools.islice(stages, 1))
    broken = split_at_break(fit, train, valid) if found.error > ROUNDING else None
    tries = [(fit, stages)]
    if broken is not None:
        halves = in_stages(_searches(broken, train, operators))
        # A kernel that only looks broken must not take all the time.
        tries = [(broken, itertools.islice(halves, _SOON)), *tries, (broken, halves)]
    for trial, more in tries:
        if found.error <= ROUNDING or time.thread_time() > until:
            break
        again = first(trial, more, found)
        if again is not found:
            fit, found = trial, again
    if found.error > max(fit.error, ROUNDING):
        # What is no sum of known functions is searched for.
        ways = []
        for k, term in enumerate(fit.terms):
            if term.vector.variable is None:
                ways.append([found.kernels[k]])
                continue
            front = search_kernel(sample_kernel(fit, k, train), regressors)
            ways.append([found.kernels[k], *(law.expression for law in front.laws)])
        again = _choose(fit, ways, train, valid, time.thread_time() + seconds / 2)
        found = again if again.error < found.error else found
    return found


def _searches(fit, train, operators):
    """A search for each kernel; of constants there is one."""
    searches = [
        itertools.repeat({sympy.Float(fit.parts[k][0]): 0.0})
        if term.vector.variable is None
        else _sum_laws(sample_kernel(fit, k, train), operators)
        for k, term in enumerate(fit.terms)
    ]
    if all(term.vector.variable is None for term in fit.terms):
        searches = [itertools.islice(one, 1) for one in searches]
    return searches


def _choose(fit, ways, train, valid, until):
    """Laws from candidates for each kernel."""
    candidates = [(law,) for law in ways[0]]
    if len(ways) > 1:
        tried = []
        for k, laws in enumerate(ways):
            # Splines stand for the others.
            others = [n for n in range(len(fit.terms)) if n != k]
            alone = [
                OnKernels([fit.terms[k]], one._replace(target=left))
                for one in (train, valid)
                for left in [one.target - accelerations(fit, one, others)]
            ]
            tried.append(screened(laws, alone[0], alone[1].errors, until))
        firsts, ways = zip(*tried, strict=True)
        # Which of them are the right ones is not known: all the simplest, or all the best.
        best = tuple(way[0] for way in ways)
        candidates = list(dict.fromkeys([*beside(firsts, ways), *beside(best, ways)]))
    objective, held_out = OnKernels(fit.terms, train), OnKernels(fit.terms, valid)
    rules = [*RULES.values(), _softening(train)]
    rows, means, picked = pick(candidates, objective, held_out.errors, rules, until)
    return Laws(
        terms=fit.terms,
        kernels=rows[picked].candidate,
        errors=held_out.errors(rows[picked].candidate),
        before=tuple(way[0] for way in ways),
        rows=tuple(rows),
        held_out=means,
    )


def _with_plain_thresholds(laws, train, valid):
    """Laws whose couplings end, or jump, where all data say, at the plainest number there.

    Terms were compared on fewer bodies, with splines. The error changes only as a threshold
    passes a pair: between the two pairs where it is least all numbers are as good, and beyond
    them those that are not significantly worse.
    """
    found = [one for term in laws.terms for one in term.coupling.atoms(sympy.Heaviside)]
    # Both sides of a jump have one threshold.
    thresholds = {old: step for step in found for old in constants(step)}
    for old, step in thresholds.items():
        laws = _at_plain_place(laws, step, old, train, valid)
    return laws


def _at_plain_place(laws, step, old, train, valid):
    """The laws with one threshold moved."""
    place = sympy.Dummy()
    variable = (place - step.args[0].xreplace({old: place})).expand()
    if variable.has(place):
        variable = (place + step.args[0].xreplace({old: place})).expand()
    if variable.has(place):
        return laws
    x = np.concatenate([values(variable, one.pairs) for one in (train, valid)])
    near = np.unique(x[np.abs(x - float(old)) < _MOVED * abs(float(old))])
    if len(near) < 2:
        return laws

    def moved(number):
        number = {old: sympy.Float(number)}
        return [term._replace(coupling=term.coupling.xreplace(number)) for term in laws.terms]

    def errors(number):
        objectives = (OnKernels(moved(number), one) for one in (train, valid))
        return np.concatenate([one.errors(laws.kernels) for one in objectives])

    between = 0.5 * (near[1:] + near[:-1])
    low, high = 0, len(between) - 1
    while True:
        tried = np.unique(np.linspace(low, high, _PLACES).astype(int))
        k = int(np.argmin([np.mean(errors(between[n])) for n in tried]))
        low, high = tried[max(k - 1, 0)], tried[min(k + 1, len(tried) - 1)]
        if high - low <= 2:
            break
    best = tried[k]
    found = errors(between[best])
    for digits in range(1, _DIGITS):
        plain = float(f"{between[best]:.{digits}g}")
        if near[best] < plain < near[best + 1]:
            break
        trial = errors(plain)
        if np.mean(trial) <= _PLAIN_ERROR * np.mean(found) and as_good(trial, found, 1.0):
            break
    else:
        plain = float(between[best])
    return laws._replace(terms=tuple(moved(plain)))


def rounded(laws: Laws, train: Bodies, valid: Bodies) -> Laws:
    """Laws whose thresholds and constants are plain numbers where the data allow.

    For constants see `with_plain_numbers`.

    Args:
        laws: what `choose` gave.
        train: bodies whose accelerations constants are fitted to.
        valid: bodies of other recordings.
    """
    laws = _with_plain_thresholds(laws, train, valid)
    objective, held_out = OnKernels(laws.terms, train), OnKernels(laws.terms, valid)
    found = with_plain_numbers(laws.kernels, objective, held_out.errors)
    return laws._replace(kernels=found, errors=held_out.errors(found))


def best_of_all(laws: Laws, train: Bodies, valid: Bodies) -> Laws:
    """The choice made once more between laws that err nearly alike, by more bodies.

    Args:
        laws: what `choose` gave.
        train: bodies whose accelerations constants are fitted to.
        valid: bodies of other recordings.
    """
    objective, held_out = OnKernels(laws.terms, train), OnKernels(laws.terms, valid)
    found = best_on_all(laws.rows, laws.held_out, objective, held_out.errors)
    return laws._replace(kernels=found, errors=held_out.errors(found))


def by_score(laws: Laws, valid: Bodies) -> Laws:
    """The law of the largest score (paper, section 3) of those that were chosen from.

    Args:
        laws: what `choose` gave.
        valid: held-out bodies.
    """
    rows: list[Any] = [
        (row.complexity, row.error, sympy.Tuple(*row.candidate)) for row in laws.rows
    ]
    kernels: Any = select(to_front(rows)).expression.args
    return laws._replace(kernels=kernels, errors=OnKernels(laws.terms, valid).errors(kernels))


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
        where = totals[0 if term.pair else 1]
        for k, along in enumerate(term.vector.along):
            where[k] = where[k] + term.whole(kernel) * along
    return totals[0], totals[1]
