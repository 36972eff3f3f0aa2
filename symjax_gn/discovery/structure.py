"""Which terms a force has, with their kernels.

The network says which terms a force may have: it has split what a body feels into pairs.
Accelerations decide which of them it has.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sympy
from scipy.optimize import minimize

from symjax_gn.discovery.bodies import ROUNDING, Bodies
from symjax_gn.discovery.kernels import (
    Fit,
    Ready,
    make_spline,
    on_variable,
    ready,
    solved,
    variable_of,
)
from symjax_gn.discovery.ranking import groups, rank_pairs
from symjax_gn.discovery.recording import StarForces
from symjax_gn.discovery.terms import (
    Term,
    body_vectors,
    components,
    couplings,
    pair_vectors,
    positive_stems,
    values,
)
from symjax_gn.laws.expressions import complexity

# Pieces of a kernel when terms are compared; and in the end, where more are taken as long as
# they lower the error.
_COMPARED, _FINAL = 14, (40, 80, 160)

# Terms of pairs that are compared after each ranking, and simple ones whatever it says;
# couplings of terms of bodies.
_TRIED, _SIMPLE, _OWN = 24, 14, 24

# Errors within this factor are the same: the simpler term is taken.
_SAME = 1.02

# A further term must lower the held-out error by this factor.
_FALL = 1.25

# A term without which the error is not larger by this factor, with fine kernels, is needless.
_NEEDED = 3.0

# Thresholds that are tried at first, how often it is looked more closely, and the pieces of
# the two kernels that meet there.
_PLACES, _ZOOMS, _HALF = 30, 7, 14

# Splines that err less than this have met no threshold.
_SMOOTH = 10 * ROUNDING

# A threshold is rounded if it moves by less than the first share, and the error grows by no
# more than the second factor.
_PLAIN, _PLAIN_ERROR = 1e-3, 1.05

# Terms of one force, at most, terms that a sum may start with, and that may be added at once.
_MOST_TERMS, _STARTS, _TOGETHER = 6, 4, 4

# Pairs on which vectors are compared; one that others span has at least such a share of each,
# and nothing but such a square of rounding on top.
_SPANNED, _SHARE, _ROUNDED = 200, 1e-3, 1e-12

# Steps and fits in a search for exponents, for each of them; the fractions that are offered, if
# as near.
_EXPONENT_STEP = 0.25
_EXPONENT_FITS, _DENOMINATORS, _NEAR_FRACTION = 40, (1, 2, 3, 4, 5), 0.02


def find_terms(
    stars: StarForces,
    train: Bodies,
    valid: Bodies,
    *,
    enough: float = 0.0,
    seconds: float = math.inf,
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
        seconds: after which no other terms are tried to start with.
    """
    until = time.monotonic() + seconds
    dim = train.target.shape[1]
    vectors = pair_vectors(stars.pairs, dim)
    ways = couplings(stars.pairs, "ij")
    own = couplings(train.nodes, "i")[:_OWN]
    alone = [Term(vector, way, False) for vector in body_vectors(train.nodes, dim) for way in own]
    known: dict[Term, Ready] = {}

    def coarse(term):
        if term not in known:
            known[term] = ready(term, make_spline(term, train, _COMPARED), train, valid)
        return known[term]

    def extended(rows, fit):
        """Fits with one more term, the best first; of those that are as good the simplest."""
        ranked = [term for _, term in rank_pairs(stars, fit, vectors, ways)[:_TRIED]]
        # What is simple is tried whatever a network says that has not learned enough.
        simple = (Term(vectors[0], way, True) for way in ways[:_SIMPLE])
        tried = dict.fromkeys([*ranked, *simple, *alone])
        more = [coarse(term) for term in tried if all(term != row.term for row in rows)]
        trials = [(solved([*rows, one], train, valid), [*rows, one]) for one in more]
        least = min(trial.error for trial, _ in trials)

        def order(trial):
            near = trial[0].error < _SAME * least
            return (0, trial[1][-1].term.complexity) if near else (1, trial[0].error)

        return sorted(trials, key=order)

    def together(rows, fit):
        """A fit with several more terms at once, which say little one by one."""
        best = None
        for terms in groups(stars, fit, vectors, ways, _TOGETHER):
            more = [*rows, *map(coarse, terms)]
            trial = solved(more, train, valid)
            if best is None or trial.error < best[0].error / _FALL ** (len(more) - len(best[1])):
                best = trial, more
        assert best is not None
        return best

    def beside_bodies():
        """The best term of pairs beside all that bodies may feel alone, of which some is left.

        Terms of bodies may cancel each other, as a field and the drag of bodies that drift in
        it: one by one they say nothing, nor do those of pairs without them.
        """
        plain = [
            term for term in alone if not term.vector.variable and complexity(term.coupling) < 2
        ]
        return _needed(*extended([*map(coarse, plain)], None)[0], train, valid, _SAME)

    def starts():
        trials = extended([], None)
        # The best of each vector: what is wrong with a coupling is found later.
        vectors = dict.fromkeys(trial[1][0].term.vector for trial in trials)
        first = [next(t for t in trials if t[1][0].term.vector == one) for one in vectors]
        first = first[:_STARTS]
        yield first[0]
        yield beside_bodies()
        # Exponents that are on no list may be all that is wrong with a coupling.
        yield from with_free_exponents(first[0][1], train, valid)
        yield together([], None)
        for start in first[1:]:
            yield start
            yield from with_free_exponents(start[1], train, valid)

    best: Fit | None = None
    for fit, rows in starts():
        while True:
            # Coarse kernels may be all that is wrong with the right terms.
            finer = finish(fit, train, valid) if fit.error <= enough else None
            if len(rows) >= _MOST_TERMS or (finer is not None and finer.error <= _SMOOTH):
                break
            longer, more = extended(rows, fit)[0]
            if longer.error > fit.error / _FALL and fit.error > enough:
                longer, more = together(rows, fit)
            if longer.error > fit.error / _FALL ** (len(more) - len(rows)):
                break
            fit, rows = longer, more
        fit = finer or finish(fit, train, valid)
        if best is None or fit.error < best.error / _FALL:
            best = fit
        if best.error <= enough or time.monotonic() > until:
            break
    assert best is not None
    return best


def with_free_exponents(
    rows: Sequence[Ready], train: Bodies, valid: Bodies
) -> Iterator[tuple[Fit, list[Ready]]]:
    """A fit of one term of pairs whose coupling has the powers that lower its error most.

    Positive properties enter by any power of each body's value; properties with signs as they
    did. Powers near simple fractions become these where the error is no larger. There is none
    if the term is no pair's, or this does not lower the error.
    """
    (row,) = rows
    stems = positive_stems(train.pairs, "ij") if row.term.pair else []
    if not stems:
        return
    ends = [sympy.Symbol(f"{stem}_{end}") for stem in stems for end in "ij"]
    signed, _ = row.term.coupling.as_independent(*ends, as_Add=False)
    logs = np.stack([np.log(train.pairs[str(end)]) for end in ends], axis=1)
    column = values(row.term.coupling / signed, train.pairs)
    start = np.linalg.lstsq(logs, np.log(np.abs(column) + 1e-300), rcond=None)[0]

    def trial(exponents):
        powers = (end**one for end, one in zip(ends, exponents, strict=True))
        again = _again(row, sympy.Mul(signed, *powers), train, valid)
        return solved([again], train, valid), [again]

    # By itself the method moves what is 0 by next to nothing.
    simplex = start + _EXPONENT_STEP * np.eye(len(ends) + 1, len(ends), -1)
    options: dict[str, Any] = dict(xatol=1e-4, fatol=1e-6, maxfev=_EXPONENT_FITS * len(ends))
    options["initial_simplex"] = simplex
    found = minimize(lambda e: trial(e)[0].error, start, method="Nelder-Mead", options=options)
    if found.fun > solved(rows, train, valid).error / _FALL:
        return
    exponents: list[Any] = [sympy.Float(f"{one:.5g}") for one in found.x]
    for k, one in enumerate(found.x):
        for n in _DENOMINATORS:
            plain = [*exponents[:k], sympy.Rational(round(one * n), n), *exponents[k + 1 :]]
            if abs(plain[k] - one) < _NEAR_FRACTION and trial(plain)[0].error < _SAME * found.fun:
                exponents = plain
                break
    yield trial(exponents)


def finish(fit: Fit, train: Bodies, valid: Bodies) -> Fit:
    """The terms that are needed, with kernels as fine as the data allow.

    The splines of each kernel are of the variable or of its logarithm, may be multiplied with
    the power of the variable that the kernel is nearest to, and have more pieces as long as
    this lowers the held-out error. Terms that others have made needless are left out.
    """
    chosen = [ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    chosen = _with_plain_couplings(chosen, train, valid)
    best, chosen = _merged(solved(chosen, train, valid), chosen, train, valid)
    several = list(zip(best.terms, best.splines, best.parts, strict=True))
    for k, (term, spline, parts) in enumerate(several):
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
    best, chosen = _merged(best, chosen, train, valid)
    for k, one in enumerate(chosen):
        for way in _simpler(one.term, train):
            rows = [*chosen[:k], _again(one, way, train, valid), *chosen[k + 1 :]]
            trial = solved(rows, train, valid)
            if trial.error <= max(_SAME * best.error, ROUNDING):
                best, chosen = trial, rows
                break
    return _needed(best, chosen, train, valid, _NEEDED)[0]


def _needed(best, chosen, train, valid, factor):
    """The terms without each of which the error is larger by a factor at least."""
    while len(chosen) > 1:
        trials = []
        for k in range(len(chosen)):
            rest = chosen[:k] + chosen[k + 1 :]
            trials.append((solved(rest, train, valid), rest))
        least, rest = min(trials, key=lambda one: one[0].error)
        if least.error > max(factor * best.error, ROUNDING):
            break
        best, chosen = least, rest
    return best, chosen


def _merged(best, chosen, train, valid):
    """One term in place of several with the same coupling, where it does as well.

    E.g. the line of centres in place of its parts along each axis, the relative velocity in
    place of both bodies' velocities.
    """
    dim = train.target.shape[1]
    some = {name: column[:_SPANNED] for name, column in train.pairs.items()}
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
                if trial.error <= max(_SAME * best.error, ROUNDING):
                    return trial, rows
    return best, chosen


def _with_plain_couplings(chosen, train, valid):
    """The same terms with the simplest couplings of which theirs are sums.

    E.g. 1 and q_i q_j in place of |q_i - q_j| and (q_i + q_j)^2, where charges are 1 and -1:
    sums of two kernels are harder to read than either.
    """
    found = list(chosen)
    for one in dict.fromkeys((row.term.pair, row.term.vector) for row in chosen):
        which = [k for k, row in enumerate(chosen) if (row.term.pair, row.term.vector) == one]
        terms = [chosen[k].term for k in which]
        if len(which) < 2 or any(term.coupling.has(sympy.Heaviside) for term in terms):
            continue
        columns = train.pairs if terms[0].pair else train.nodes
        some = {
            name: column[:: max(1, len(column) // _SPANNED)] for name, column in columns.items()
        }
        spans = np.stack([values(term.coupling, some) for term in terms], axis=1)
        plain: list[sympy.Expr] = []
        for way in couplings(columns, "ij" if terms[0].pair else "i"):
            basis = np.stack([values(x, some) for x in [*plain, way]], axis=1)
            if _within(basis, spans) and not _within(basis[:, -1:], basis[:, :-1]):
                plain.append(way)
            if len(plain) == len(terms):
                break
        if len(plain) == len(terms) and set(plain) != {term.coupling for term in terms}:
            for k, way in zip(which, plain, strict=True):
                found[k] = _again(chosen[k], way, train, valid)
    return found


def _within(columns, spans):
    """Whether columns are sums of others."""
    left = columns - spans @ np.linalg.lstsq(spans, columns, rcond=None)[0]
    return np.sum(left**2) <= _ROUNDED * np.sum(columns**2)


def _alike(term):
    return term.pair, term.coupling, term.vector.variable


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
    for k, term in enumerate(fit.terms if fit.error > _SMOOTH else ()):
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
