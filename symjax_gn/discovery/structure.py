"""Which terms a force has, with their kernels.

The network ranks the terms that a force may have: it has split what a body feels into pairs.
Accelerations decide which of them it has.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
import sympy

from symjax_gn.discovery.exponents import with_free_exponents
from symjax_gn.discovery.finishing import (
    FALL,
    NEEDED,
    SAME,
    again,
    finish,
    needed,
    with_disjoint_couplings,
    within,
)
from symjax_gn.discovery.kernels import (
    Fit,
    Ready,
    as_fitted,
    make_spline,
    ready,
    solved,
    variable_of,
)
from symjax_gn.discovery.ranking import groups, rank_pairs
from symjax_gn.discovery.recording import StarForces
from symjax_gn.discovery.terms import (
    Columns,
    Term,
    body_vectors,
    couplings,
    pair_vectors,
    positive_stems,
)
from symjax_gn.laws.expressions import complexity, values
from symjax_gn.laws.law import Fitted
from symjax_gn.laws.samples import ROUNDING, Samples

# Pieces of a kernel when terms are compared.
_COMPARED = 14

# Terms of pairs that are compared after each ranking; the complexity of couplings that are
# compared whatever it says; couplings of terms of bodies.
_TRIED, _SIMPLE, _OWN = 24, 3, 24

# Thresholds that are tried at first, how often it is looked more closely, and the pieces of
# the two kernels that meet there.
_PLACES, _ZOOMS, _HALF = 30, 7, 14

# Splines that err less than this have met no threshold.
SMOOTH = 10 * ROUNDING

# A threshold is rounded if it moves by less than the first share, and the error grows by no
# more than the second factor.
_PLAIN, _PLAIN_ERROR = 1e-3, 1.05

# Terms of one force, at most, terms that a sum may start with, and that may be added at once.
MOST_TERMS, _STARTS, _TOGETHER = 6, 4, 4

# Steps and fits in a search for exponents, for each of them; the fractions that are offered, if
# as near.
_EXPONENT_STEP = 0.25
_EXPONENT_FITS, _DENOMINATORS, _NEAR_FRACTION = 40, (1, 2, 3, 4, 5), 0.02


class Candidates:
    """Terms that a force may have."""

    def __init__(self, stars: StarForces, nodes: Columns, dim: int):
        """List what pairs and bodies may feel.

        Args:
            stars: what the network says of pairs.
            nodes: feature columns of bodies.
            dim: spatial dimension.
        """
        self._stars = stars
        self.vectors = pair_vectors(stars.pairs, dim)
        self.couplings = couplings(stars.pairs, "ij")
        self._of_senders = [vector for vector in self.vectors if _of_sender(vector)]
        self._simple = [
            Term(self.vectors[0], way, True) for way in self.couplings if complexity(way) <= _SIMPLE
        ]
        own = couplings(nodes, "i")[:_OWN]
        self.alone = [Term(one, way, False) for one in body_vectors(nodes, dim) for way in own]

    def beside(self, terms: Sequence[Term], fit: Fit | None) -> list[Term]:
        """What may be added to some terms, with a fit of these."""
        ranked = [one for _, one in rank_pairs(self._stars, fit, self.vectors, self.couplings)]
        # What is simple is tried whatever a network says that has not learned enough, and so
        # are other vectors beside those found: a law's terms often share a coupling.
        shared = dict.fromkeys([self.couplings[0], *(one.coupling for one in terms if one.pair)])
        alike = [Term(vector, way, True) for way in shared for vector in self._of_senders]
        tried = dict.fromkeys([*ranked[:_TRIED], *self._simple, *alike, *self.alone])
        return [term for term in tried if term not in terms]


def find_terms(
    stars: StarForces,
    train: Samples,
    valid: Samples,
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
    until = time.thread_time() + seconds
    candidates = Candidates(stars, train.owners, train.target.shape[1])
    known: dict[Term, Ready] = {}

    def coarse(term):
        if term not in known:
            known[term] = ready(term, make_spline(term, train, _COMPARED), train, valid)
        return known[term]

    def extended(rows, fit):
        """Fits with one more term, the best first; of those that are as good the simplest."""
        more = map(coarse, candidates.beside([row.term for row in rows], fit))
        trials = [(solved([*rows, one], train, valid), [*rows, one]) for one in more]
        least = min(trial.error for trial, _ in trials)

        def order(trial):
            near = trial[0].error < SAME * least
            return (0, trial[1][-1].term.complexity) if near else (1, trial[0].error)

        return sorted(trials, key=order)

    def together(rows, fit):
        """A fit with several more terms at once, which say little one by one."""
        best = None
        for terms in groups(stars, fit, candidates.vectors, candidates.couplings, _TOGETHER):
            more = [*rows, *map(coarse, terms)]
            trial = solved(more, train, valid)
            if best is None or trial.error < best[0].error / FALL ** (len(more) - len(best[1])):
                best = trial, more
        assert best is not None
        return best

    def beside_bodies():
        """The best term of pairs beside all that bodies may feel alone, of which some is left.

        Terms of bodies may cancel each other, as a field and the drag of bodies that drift in
        it: one by one they say nothing, nor do those of pairs without them.
        """
        plain = [
            term
            for term in candidates.alone
            if not term.vector.variable and complexity(term.coupling) < 2
        ]
        return needed(*extended([*map(coarse, plain)], None)[0], train, valid, within(SAME))

    def starts():
        trials = extended([], None)
        # The best of each vector: what is wrong with a coupling is found later.
        vectors = dict.fromkeys(trial[1][0].term.vector for trial in trials)
        first = [next(t for t in trials if t[1][0].term.vector == one) for one in vectors]
        first = first[:_STARTS]
        yield first[0]
        yield beside_bodies()
        # Exponents that are on no list may be all that is wrong with a coupling.
        yield from _any_exponents(first[0][1], train, valid)
        yield together([], None)
        for start in first[1:]:
            yield start
            yield from _any_exponents(start[1], train, valid)

    best: Fit | None = None
    for fit, rows in starts():
        fewer: Fit | None = None
        while True:
            # Coarse kernels may be all that is wrong with the right terms.
            finer = finish(fit, train, valid) if fit.error <= enough else None
            fewer = _least(fewer, finer) if finer is not None else fewer
            if len(rows) >= MOST_TERMS or (finer is not None and finer.error <= SMOOTH):
                break
            longer, more = extended(rows, fit)[0]
            if longer.error > fit.error / FALL and fit.error > enough:
                longer, more = together(rows, fit)
            if longer.error > fit.error / FALL ** (len(more) - len(rows)):
                break
            fit, rows = longer, more
        fit = _least(fewer, finer or finish(fit, train, valid))
        if best is None or fit.error < best.error / FALL:
            best = fit
        if best.error <= enough or time.thread_time() > until:
            break
    assert best is not None
    return best


def _any_exponents(
    rows: Sequence[Ready], train: Samples, valid: Samples
) -> Iterator[tuple[Fit, list[Ready]]]:
    """A fit of one term of pairs whose coupling has the powers that lower its error most.

    Positive properties enter by any power of each body's value; properties with signs as they
    did. Powers near simple fractions become these where the error is no larger. There is none
    if the term is no pair's, or this does not lower the error.
    """
    (row,) = rows
    stems = positive_stems(train.elements, "ij") if row.term.pair else []
    if not stems:
        return
    ends = [sympy.Symbol(f"{stem}_{end}") for stem in stems for end in "ij"]
    signed, _ = row.term.coupling.as_independent(*ends, as_Add=False)
    logs = np.stack([np.log(train.elements[str(end)]) for end in ends], axis=1)
    column = values(row.term.coupling / signed, train.elements)
    start = np.linalg.lstsq(logs, np.log(np.abs(column) + 1e-300), rcond=None)[0]

    def trial(exponents):
        powers = (end**one for end, one in zip(ends, exponents, strict=True))
        term = row.term._replace(coupling=sympy.Mul(signed, *powers))
        rows = [again(row, term, train, valid)]
        return solved(rows, train, valid), rows

    # By itself the method moves what is 0 by next to nothing.
    simplex = start + _EXPONENT_STEP * np.eye(len(ends) + 1, len(ends), -1)
    options: dict[str, Any] = dict(xatol=1e-4, fatol=1e-6, maxfev=_EXPONENT_FITS * len(ends))
    options["initial_simplex"] = simplex
    found = scipy.optimize.minimize(
        lambda e: trial(e)[0].error, start, method="Nelder-Mead", options=options
    )
    if found.fun > solved(rows, train, valid).error / FALL:
        return
    exponents: list[Any] = [sympy.Float(f"{one:.5g}") for one in found.x]
    for k, one in enumerate(found.x):
        for n in _DENOMINATORS:
            plain = [*exponents[:k], sympy.Rational(round(one * n), n), *exponents[k + 1 :]]
            if abs(plain[k] - one) < _NEAR_FRACTION and trial(plain)[0].error < SAME * found.fun:
                exponents = plain
                break
    yield trial(exponents)


def _least(fewer: Fit | None, more: Fit) -> Fit:
    """Of two fits with fine kernels that with fewer terms, unless it errs far more."""
    return more if fewer is None or more.error < fewer.error / NEEDED else fewer


def _of_sender(vector):
    """Whether a vector is not the same for all senders: such ones are left to bodies alone."""
    known = set().union(*(part.free_symbols for part in vector.along))
    return any(not str(symbol).endswith("_i") for symbol in known)


class Others(NamedTuple):
    """Laws of another structure than one, where they are better; it takes a while to know.

    Couplings have any exponents, one kernel is broken in two, or two couplings act on different
    pairs.
    """

    found: Fitted
    """The law."""
    fit: Fit | None
    """The same as a sum of terms; None if it is no such sum."""
    train: Samples
    valid: Samples

    def __call__(self) -> list[Fitted]:
        """The laws."""
        ends = self.train, self.valid
        laws = [with_free_exponents(self.found, *ends)]
        if self.fit is not None:
            fits = (one(self.fit, *ends) for one in (split_at_break, with_disjoint_couplings))
            laws += [None if one is None else as_fitted(one) for one in fits]
        return [one for one in laws if one is not None]


def split_at_break(fit: Fit, train: Samples, valid: Samples) -> Fit | None:
    """The fit with one kernel broken in two, if it jumps, or ends, somewhere.

    A kernel that is smooth on both sides of a threshold is not as a whole: the threshold for
    which two splines err least is taken, if they err less than one by far.
    """
    best: tuple[float, int, float] | None = None
    for k, term in enumerate(fit.terms if fit.error > SMOOTH else ()):
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
    if best is None or best[0] > fit.error / NEEDED:
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
