"""Terms of a force with kernels as fine as the data allow, and no term that is needless."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from symjax_gn.discovery.kernels import (
    Fit,
    Ready,
    make_spline,
    ready,
    solved,
    variable_of,
)
from symjax_gn.discovery.terms import (
    Term,
    body_vectors,
    components,
    couplings,
    pair_vectors,
)
from symjax_gn.laws.expressions import values
from symjax_gn.laws.samples import ROUNDING, Samples

# Pieces of a kernel: more are taken as long as they lower the error.
_PIECES = (40, 80, 160)

# Errors within this factor are the same: the simpler term is taken.
SAME = 1.02

# A further term must lower the held-out error by this factor.
FALL = 1.25

# A term without which the error is not larger by this factor, with fine kernels, is needless.
NEEDED = 3.0

# Couplings with thresholds are left as they are.
_STEP = sympy.Heaviside

# Pairs on which vectors are compared; one that others span has at least such a share of each,
# and nothing but such a square of rounding on top.
_SPANNED, _SHARE, _ROUNDED = 200, 1e-3, 1e-12


def finish(fit: Fit, train: Samples, valid: Samples) -> Fit:
    """The terms that are needed, with kernels as fine as the data allow.

    The splines of each kernel are of the variable or of its logarithm, may be multiplied with
    the power of the variable that the kernel is nearest to, and have more pieces as long as
    this lowers the held-out error. Terms that others have made needless are left out.
    """
    chosen = [ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    chosen = _with_plain_couplings(chosen, train, valid)
    best, chosen = _merged(solved(chosen, train, valid), chosen, train, valid)
    best, chosen = finer(best, chosen, train, valid, _falls)
    best, chosen = _merged(best, chosen, train, valid)
    best, chosen = simplified(best, chosen, train, valid, within(SAME))
    return needed(best, chosen, train, valid, within(NEEDED))[0]


def finer(
    best: Fit,
    chosen: Sequence[Ready],
    train: Samples,
    valid: Samples,
    better: Callable[[Fit, Fit], bool],
) -> tuple[Fit, Sequence[Ready]]:
    """Kernels in as many pieces as make each fit better than the one before.

    Those of each term are of the variable or of its logarithm, and may be multiplied with the
    power of the variable that the kernel is nearest to.
    """
    for k, (term, spline) in enumerate(zip(best.terms, best.splines, strict=True)):
        if term.vector.variable is None:
            continue
        ways: list[dict[str, Any]] = [dict(logarithmic=False)]
        if spline.logarithmic:
            x = variable_of(term, train)
            y = spline.values(x)
            size = np.abs(y) + 1e-3 * np.median(np.abs(y))
            slope = float(np.polyfit(np.log(x), np.log(size), 1)[0])
            ways += [dict(logarithmic=True), dict(logarithmic=True, power=slope)]
        for pieces in _PIECES:
            trials = []
            for way in ways:
                fine = ready(term, make_spline(term, train, pieces, **way), train, valid)
                rows = [*chosen[:k], fine, *chosen[k + 1 :]]
                trials.append((solved(rows, train, valid), rows))
            least, rows = min(trials, key=lambda one: one[0].error)
            if not better(least, best):
                break
            best, chosen = least, rows
    return best, chosen


def _falls(fit, best):
    """Whether finer kernels are worth it."""
    return fit.error <= best.error / FALL


def within(factor: float) -> Callable[[Fit, Fit], bool]:
    """Says of two fits whether the first errs at most so many times as much as the second."""
    return lambda fit, best: fit.error <= max(factor * best.error, ROUNDING)


def simplified(
    best: Fit,
    chosen: Sequence[Ready],
    train: Samples,
    valid: Samples,
    as_good: Callable[[Fit, Fit], bool],
) -> tuple[Fit, Sequence[Ready]]:
    """Simpler terms in the place of some, where the fit is as good, see `within`."""
    for k, one in enumerate(chosen):
        for term in [*_alone(one.term, train), *_simpler(one.term, train)]:
            rows = [*chosen[:k], again(one, term, train, valid), *chosen[k + 1 :]]
            trial = solved(rows, train, valid)
            if as_good(trial, best):
                best, chosen = trial, rows
                break
    return best, chosen


def needed(
    best: Fit,
    chosen: Sequence[Ready],
    train: Samples,
    valid: Samples,
    as_good: Callable[[Fit, Fit], bool],
) -> tuple[Fit, Sequence[Ready]]:
    """The terms without each of which the fit is not as good, see `within`."""
    while len(chosen) > 1:
        trials = []
        for k in range(len(chosen)):
            rest = [*chosen[:k], *chosen[k + 1 :]]
            trials.append((solved(rest, train, valid), rest))
        least, rest = min(trials, key=lambda one: one[0].error)
        if not as_good(least, best):
            break
        best, chosen = least, rest
    return best, chosen


def _merged(best, chosen, train, valid):
    """One term in place of several with the same coupling, where it does as well.

    E.g. the line of centres in place of its parts along each axis, the relative velocity in
    place of both bodies' velocities.
    """
    dim = train.target.shape[1]
    some = {name: column[:_SPANNED] for name, column in train.elements.items()}
    vectors = [(v, components(v, some).ravel()) for v in pair_vectors(some, dim)]
    for count in range(2, dim + 1):
        for several in itertools.combinations(chosen, count):
            if not several[0].term.pair or len({_alike(one.term) for one in several}) > 1:
                continue
            spans = np.stack([components(one.term.vector, some).ravel() for one in several], 1)
            for vector, along in vectors:
                share, left, *_ = np.linalg.lstsq(spans, along, rcond=None)
                whole = vector.variable == several[0].term.vector.variable
                if not whole or np.min(np.abs(share)) < _SHARE or np.sum(left) > _ROUNDED:
                    continue
                term = several[0].term._replace(vector=vector)
                rest = [one for one in chosen if all(one is not other for other in several)]
                rows = [ready(term, several[0].spline, train, valid), *rest]
                trial = solved(rows, train, valid)
                if trial.error <= max(SAME * best.error, ROUNDING):
                    return trial, rows
    return best, chosen


def _with_plain_couplings(chosen, train, valid):
    """The same terms with the simplest couplings of which theirs are sums.

    E.g. 1 and q_i q_j in place of |q_i - q_j| and (q_i + q_j)^2, where charges are 1 and -1:
    sums of two kernels are harder to read than either.
    """
    found = list(chosen)
    for which, some in _alike_but_for_couplings(chosen, train):
        terms = [chosen[k].term for k in which]
        spans = np.stack([values(term.coupling, some) for term in terms], axis=1)
        plain: list[sympy.Expr] = []
        columns = train.elements if terms[0].pair else train.owners
        for way in couplings(columns, "ij" if terms[0].pair else "i"):
            basis = np.stack([values(x, some) for x in [*plain, way]], axis=1)
            if _within(basis, spans) and not _within(basis[:, -1:], basis[:, :-1]):
                plain.append(way)
            if len(plain) == len(terms):
                break
        if len(plain) == len(terms) and set(plain) != {term.coupling for term in terms}:
            for k, way in zip(which, plain, strict=True):
                term = chosen[k].term._replace(coupling=way)
                found[k] = again(chosen[k], term, train, valid)
    return found


def with_disjoint_couplings(fit: Fit, train: Samples, valid: Samples) -> Fit | None:
    """The fit with couplings that act on different pairs in place of those they are sums of.

    E.g. like and unlike charges in place of 1 and q_i q_j: kernels that are simple for either are
    sums and differences for those. None if there are no such couplings.
    """
    chosen = [ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    found = list(chosen)
    for which, columns in _alike_but_for_couplings(chosen, train):
        spans = np.stack([values(chosen[k].term.coupling, columns) for k in which], axis=1)
        parts: list[sympy.Expr] = []
        taken = np.zeros(len(spans), bool)
        for way in couplings(columns, "ij" if chosen[which[0]].term.pair else "i"):
            there = values(way, columns) != 0
            if np.all(there) or np.any(there & taken):
                continue
            if _within(values(way, columns)[:, None], spans):
                parts.append(way)
                taken |= there
        if len(parts) == len(which) and np.all(taken):
            for k, way in zip(which, parts, strict=True):
                term = chosen[k].term._replace(coupling=way)
                found[k] = again(chosen[k], term, train, valid)
    if all(one is other for one, other in zip(found, chosen, strict=True)):
        return None
    return solved(found, train, valid)


def _alike_but_for_couplings(chosen, train):
    """Numbers of several terms of one vector, and columns of some samples."""
    for one in dict.fromkeys((row.term.pair, row.term.vector) for row in chosen):
        which = [k for k, row in enumerate(chosen) if (row.term.pair, row.term.vector) == one]
        if len(which) > 1 and not any(chosen[k].term.coupling.has(_STEP) for k in which):
            columns = train.elements if one[0] else train.owners
            step = max(1, len(next(iter(columns.values()))) // _SPANNED)
            yield which, {name: column[::step] for name, column in columns.items()}


def _within(columns, spans):
    """Whether columns are sums of others."""
    left = columns - spans @ np.linalg.lstsq(spans, columns, rcond=None)[0]
    return np.sum(left**2) <= _ROUNDED * np.sum(columns**2)


def _alike(term):
    return term.pair, term.coupling, term.vector.variable


def _alone(term: Term, bodies: Samples) -> list[Term]:
    """Terms of bodies alone that may be in the place of one that is the same for all senders.

    E.g. drag in place of a third of it for each of three senders.
    """
    known = term.coupling.free_symbols.union(*(part.free_symbols for part in term.vector.along))
    if not term.pair or not all(str(symbol).endswith("_i") for symbol in known):
        return []
    alike = body_vectors(bodies.owners, len(term.vector.along))
    return [Term(one, term.coupling, False) for one in alike if one.along == term.vector.along]


def _simpler(term: Term, bodies: Samples) -> list[Term]:
    """Terms with a simpler variable, and with simpler couplings by the same properties."""
    known = term.coupling.free_symbols
    if term.coupling.has(sympy.Heaviside):
        return []
    columns = bodies.elements if term.pair else bodies.owners
    vectors = (pair_vectors if term.pair else body_vectors)(columns, len(term.vector.along))
    alike = [vector for vector in vectors if vector.along == term.vector.along]
    found = [term._replace(vector=vector) for vector in alike]
    stems = {str(symbol)[:-2] for symbol in known}
    columns = {name: column for name, column in columns.items() if name[:-2] in stems}
    ways = couplings(columns, "ij" if term.pair else "i") if known else []
    found += [term._replace(coupling=way) for way in ways if way.free_symbols <= known]
    return [other for other in found if other.complexity < term.complexity]


def again(row: Ready, term: Term, train: Samples, valid: Samples) -> Ready:
    """Another term in the place of one, with as many splines if of another variable."""
    spline = row.spline
    if term.vector.variable != row.term.vector.variable:
        spline = make_spline(term, train, max(1, spline.pieces))
    return ready(term, spline, train, valid)
