"""Which terms a force has, with their kernels.

The network says which terms a force may have: it has split what a body feels into pairs.
Accelerations decide which of them it has.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float
from scipy import sparse

from symjax_gn.discovery.bodies import ROUNDING, Bodies
from symjax_gn.discovery.kernels import (
    Fit,
    Ready,
    Spline,
    make_spline,
    on_variable,
    ready,
    solved,
    variable_of,
)
from symjax_gn.discovery.recording import StarForces
from symjax_gn.discovery.terms import (
    Term,
    Vector,
    body_vectors,
    components,
    couplings,
    pair_vectors,
    values,
)
from symjax_gn.laws.expressions import complexity

# Pieces of a kernel when terms are ranked and when they are compared; and in the end, where
# more are taken as long as they lower the error.
_RANKED, _COMPARED, _FINAL = 6, 14, (40, 80, 160)

# Vectors are ranked with so many couplings, and so many of them with all.
_SIMPLEST, _VECTORS = 14, 5

# Terms that are compared after each ranking, of pairs and of bodies.
_TRIED = 24

# Errors within this factor are the same: the simpler term is taken.
_SAME = 1.02

# A further term must lower the held-out error by this factor.
_FALL = 1.25

# A term without which the error is not larger by this factor, with fine kernels, is needless.
_NEEDED = 3.0

# Thresholds that are tried at first, how often it is looked more closely, and the pieces of
# the two kernels that meet there.
_PLACES, _ZOOMS, _HALF = 30, 7, 14

# A threshold is rounded if it moves by less than the first share, and the error grows by no
# more than the second factor.
_PLAIN, _PLAIN_ERROR = 1e-3, 1.05

# Terms of one force, at most, and terms that a sum may start with.
_MOST_TERMS, _STARTS = 6, 4


def rank_pairs(
    stars: StarForces,
    residual: Float[np.ndarray, "edge dim"],
    vectors: Sequence[Vector],
    ways: Sequence[sympy.Expr],
) -> list[tuple[float, Term]]:
    """Terms of pairs by how much of recorded forces each explains, the best first.

    What is the same for all senders of a receiver has no say: a network cannot tell it from
    what the receiver feels by itself.
    """
    pairs, owner = stars.pairs, stars.owner
    count = int(owner[-1]) + 1
    alike = np.bincount(owner, minlength=count).astype(float)
    mean = sparse.csr_matrix(
        (1 / alike[owner], (owner, np.arange(len(owner)))), (count, len(owner))
    )
    centred = bool(np.max(alike) > 1)

    def centre(x):
        return x - (mean @ x)[owner] if centred else x

    force = np.stack([centre(x) for x in stars.force.T], axis=1)
    size = np.sqrt(mean @ np.sum(force**2, axis=1))
    weight = 1 / (size + 0.1 * np.median(size) + 1e-300)[owner]
    left = np.stack([centre(x) for x in residual.T], axis=1) * weight[:, None]
    total = float(np.sum(left**2))
    factors = [values(way, pairs) for way in ways]
    bases = {x: _ranking_basis(x, pairs) for x in {vector.variable for vector in vectors}}

    def gained(parts, factor):
        """What kernels times a vector and a coupling explain."""
        gram, right = 0.0, 0.0
        for part, rest in zip(parts, left.T, strict=True):
            column = factor[:, None] * part
            if centred:
                column = column - (mean @ column)[owner]
            column = column * weight[:, None]
            gram, right = gram + column.T @ column, right + column.T @ rest
        scale = np.sqrt(np.diag(gram)) + 1e-300
        gram = gram / np.outer(scale, scale) + 1e-6 * np.eye(len(scale))
        share = right / scale
        return float(share @ np.linalg.solve(gram, share)) / total

    found = []
    for vector in vectors:
        basis = bases[vector.variable]
        parts = [basis * way[:, None] for way in components(vector, pairs).T]
        found.append((vector, parts, [gained(parts, one) for one in factors[:_SIMPLEST]]))
    # Vectors that explain nothing with the simplest couplings are not tried with all.
    found.sort(key=lambda row: -max(row[2]))
    ranked = []
    for n, (vector, parts, gains) in enumerate(found):
        more = factors[_SIMPLEST:] if n < _VECTORS else []
        gains = gains + [gained(parts, one) for one in more]
        ranked += [(gain, Term(vector, way, True)) for gain, way in zip(gains, ways, strict=False)]
    return sorted(ranked, key=lambda row: -row[0])


def _ranking_basis(variable, pairs):
    """Values `[sample, part]` of a few splines of a variable."""
    x = values(variable, pairs)
    logarithmic = bool(np.all(x > 0))
    inner = np.quantile(np.log(x) if logarithmic else x, np.linspace(0.0, 1.0, _RANKED + 1))
    knots = np.concatenate([[inner[0]] * 3, inner, [inner[-1]] * 3])
    return Spline(variable, knots, logarithmic, 0.0).basis(pairs)


def _recorded_by(fit: Fit, stars: StarForces) -> Float[np.ndarray, "edge dim"]:
    """Forces of pairs by the kernels of a fit."""
    total = np.zeros_like(stars.force)
    for term, spline, parts in zip(fit.terms, fit.splines, fit.parts, strict=True):
        if term.pair:
            factor = values(term.coupling, stars.pairs) * (spline.basis(stars.pairs) @ parts)
            total += factor[:, None] * components(term.vector, stars.pairs)
    return total


def find_terms(
    stars: StarForces,
    train: Bodies,
    valid: Bodies,
    *,
    enough: float = 0.0,
) -> Fit:
    """The terms of a force, with kernels as fine as the data allow.

    Terms are added one by one, those first that lower the held-out error of accelerations
    most, of those that explain most of what the network has recorded. If that does not lead
    to an error that is small enough, other terms are tried to start with.

    Args:
        stars: what the network says of pairs.
        train: bodies whose accelerations are fitted.
        valid: bodies of other recordings.
        enough: an error that is small enough, e.g. the network's own.
    """
    dim = train.target.shape[1]
    vectors = pair_vectors(stars.pairs, dim)
    ways = couplings(stars.pairs, "ij")
    own = couplings(train.nodes, "i")
    alone = [Term(vector, way, False) for vector in body_vectors(train.nodes, dim) for way in own]
    known: dict[Term, Ready] = {}

    def coarse(term):
        if term not in known:
            known[term] = ready(term, make_spline(term, train, _COMPARED), train, valid)
        return known[term]

    def extended(rows, fit):
        """Fits with one more term, the best first; of those that are as good the simplest."""
        residual = stars.force if fit is None else stars.force - _recorded_by(fit, stars)
        ranked = [term for _, term in rank_pairs(stars, residual, vectors, ways)[:_TRIED]]
        # What is simple is tried whatever a network says that has not learned enough.
        simple = (Term(vectors[0], way, True) for way in ways[:_SIMPLEST])
        more = [coarse(term) for term in dict.fromkeys([*ranked, *simple, *alone])]
        trials = [(solved([*rows, one], train, valid), [*rows, one]) for one in more]
        least = min(trial.error for trial, _ in trials)

        def order(trial):
            near = trial[0].error < _SAME * least
            return (0, trial[1][-1].term.complexity) if near else (1, trial[0].error)

        return sorted(trials, key=order)

    best: Fit | None = None
    for fit, rows in extended([], None)[:_STARTS]:
        while len(rows) < _MOST_TERMS and fit.error > 0:
            longer, more = extended(rows, fit)[0]
            if longer.error > fit.error / _FALL:
                break
            fit, rows = longer, more
        # Coarse kernels may be all that is wrong with the right terms.
        fit = finish(fit, train, valid)
        if best is None or fit.error < best.error / _FALL:
            best = fit
        if best.error <= enough:
            break
    assert best is not None
    return best


def finish(fit: Fit, train: Bodies, valid: Bodies) -> Fit:
    """The terms that are needed, with kernels as fine as the data allow.

    The splines of each kernel are of the variable or of its logarithm, may be multiplied with
    the power of the variable that the kernel is nearest to, and have more pieces as long as
    this lowers the held-out error. Terms that others have made needless are left out.
    """
    chosen = [ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    best = solved(chosen, train, valid)
    for k, (term, spline, parts) in enumerate(zip(fit.terms, fit.splines, fit.parts, strict=True)):
        if term.vector.variable is None:
            continue
        ways: list[dict[str, Any]] = [dict(logarithmic=False)]
        if spline.logarithmic:
            x = variable_of(term, train)
            y = on_variable(spline, x) @ parts
            size = np.abs(y) + 1e-3 * np.median(np.abs(y))
            slope = float(np.polyfit(np.log(x), np.log(size), 1)[0])
            ways += [dict(logarithmic=True), dict(logarithmic=True, slope=slope)]
        for pieces in _FINAL:
            trials = []
            for way in ways:
                finer = ready(term, make_spline(term, train, pieces, **way), train, valid)
                rows = [*chosen[:k], finer, *chosen[k + 1 :]]
                trials.append((solved(rows, train, valid), rows))
            least, rows = min(trials, key=lambda one: one[0].error)
            if least.error > best.error / _FALL:
                break
            best, chosen = least, rows
    best, chosen = _along_the_line(best, chosen, train, valid)
    for k, one in enumerate(chosen):
        for way in _simpler(one.term, train):
            rows = [*chosen[:k], _again(one, way, train, valid), *chosen[k + 1 :]]
            trial = solved(rows, train, valid)
            if trial.error <= max(_SAME * best.error, ROUNDING):
                best, chosen = trial, rows
                break
    while len(chosen) > 1:
        trials = []
        for k in range(len(chosen)):
            rest = chosen[:k] + chosen[k + 1 :]
            trials.append((solved(rest, train, valid), rest))
        least, rest = min(trials, key=lambda one: one[0].error)
        if least.error > max(_NEEDED * best.error, ROUNDING):
            break
        best, chosen = least, rest
    return best


def _along_the_line(best, chosen, train, valid):
    """One term along the line of centres in place of several, where it does as well."""
    line = pair_vectors(train.pairs, train.target.shape[1])[0]
    for one in chosen:
        alike = [
            row.term.pair
            and row.term.coupling == one.term.coupling
            and row.term.vector.variable == line.variable
            for row in chosen
        ]
        if not one.term.pair or one.term.vector.variable != line.variable or sum(alike) < 2:
            continue
        whole = ready(one.term._replace(vector=line), one.spline, train, valid)
        rows = [whole, *(row for row, same in zip(chosen, alike, strict=True) if not same)]
        trial = solved(rows, train, valid)
        if trial.error <= max(_SAME * best.error, ROUNDING):
            return trial, rows
    return best, chosen


def _simpler(term: Term, bodies: Bodies) -> list[sympy.Expr]:
    """Couplings by the same properties that are simpler, the simplest first."""
    known = term.coupling.free_symbols
    if not known or term.coupling.has(sympy.Heaviside):
        return []
    stems = {str(symbol)[:-2] for symbol in known}
    columns = bodies.pairs if term.pair else bodies.nodes
    columns = {name: column for name, column in columns.items() if name[:-2] in stems}
    return [
        way
        for way in couplings(columns, "ij" if term.pair else "i")
        if way.free_symbols <= known and complexity(way) < complexity(term.coupling)
    ]


def _again(row: Ready, way: sympy.Expr, train: Bodies, valid: Bodies) -> Ready:
    """The same term with another coupling."""
    return ready(row.term._replace(coupling=way), row.spline, train, valid)


def split_at_break(fit: Fit, train: Bodies, valid: Bodies) -> Fit | None:
    """The fit with one kernel broken in two, if it jumps, or ends, somewhere.

    A kernel that is smooth on both sides of a threshold is not as a whole: the threshold for
    which two splines err least is taken, if they err less than one by far.
    """
    best: tuple[float, int, float] | None = None
    for k, term in enumerate(fit.terms):
        if not term.pair or term.vector.variable is None or term.coupling.has(sympy.Heaviside):
            continue
        others = [
            ready(*one, train, valid)
            for n, one in enumerate(zip(fit.terms, fit.splines, strict=True))
            if n != k
        ]

        def error(place, term=term, others=others):
            return solved([*others, *_halves(term, place, train, valid)], train, valid).error

        x = variable_of(term, train)
        places = np.quantile(x, np.linspace(0.04, 0.96, _PLACES))
        errors = [error(place) for place in places]
        n = int(np.argmin(errors))
        for _ in range(_ZOOMS):
            low, high = places[max(n - 1, 0)], places[min(n + 1, len(places) - 1)]
            places = np.linspace(low, high, 7)
            errors = [error(place) for place in places]
            n = int(np.argmin(errors))
        found, place = errors[n], float(places[n])
        for digits in (2, 3, 4):
            plain = float(f"{place:.{digits}g}")
            if abs(plain - place) < _PLAIN * place and error(plain) <= _PLAIN_ERROR * found:
                place = plain
                break
        if best is None or found < best[0]:
            best = (found, k, place)
    if best is None or best[0] > fit.error / _NEEDED:
        return None
    _, k, place = best
    rows = [
        ready(*one, train, valid)
        for n, one in enumerate(zip(fit.terms, fit.splines, strict=True))
        if n != k
    ]
    rows += _halves(fit.terms[k], place, train, valid)
    return finish(solved(rows, train, valid), train, valid)


def _halves(term, place, train, valid):
    """The term below a threshold of its variable, and above."""
    gap = term.vector.variable - sympy.Float(place)
    return [
        ready(one, make_spline(one, train, _HALF), train, valid)
        for side in (-gap, gap)
        for one in [term._replace(coupling=term.coupling * sympy.Heaviside(side))]
    ]
