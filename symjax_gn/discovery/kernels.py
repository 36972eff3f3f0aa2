"""Forces as sums of terms whose kernels are splines: which terms, and what the kernels are.

The network says which terms a force may have: it has split what a body feels into pairs.
Accelerations decide which of them it has, and give the kernels, by linear least squares.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float
from scipy import sparse
from scipy.interpolate import BSpline

from symjax_gn.discovery.bodies import Bodies
from symjax_gn.discovery.recording import StarForces
from symjax_gn.discovery.terms import (
    Columns,
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

# Samples on which couplings are told apart.
_SOME = 400

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

# Errors below this are those of accelerations in float32.
ROUNDING = 3e-6

# Terms of one force, at most, and terms that a sum may start with.
_MOST_TERMS, _STARTS = 6, 4

# A part of a kernel that data say so little of is left at 0.
_UNSEEN = 1e-9


class Spline(NamedTuple):
    """A space of cubic splines of one variable; constant beyond its ends."""

    variable: sympy.Expr | None
    knots: Float[np.ndarray, " knot"]
    """[knot], of the variable or its logarithm; none for a constant."""
    logarithmic: bool
    slope: float
    """Power of the variable that the splines are multiplied with."""

    def basis(self, columns: Columns) -> Float[np.ndarray, "sample part"]:
        """Values `[sample, part]` of its parts."""
        if self.variable is None:
            return np.ones((len(next(iter(columns.values()))), 1))
        x = values(self.variable, columns)
        place = np.log(np.maximum(x, 1e-300)) if self.logarithmic else x
        place = np.clip(place, self.knots[3], self.knots[-4])
        found = BSpline.design_matrix(place, self.knots, 3).toarray()
        return (
            found * np.exp(self.slope * np.log(np.maximum(x, 1e-300)))[:, None]
            if (self.slope)
            else found
        )


def make_spline(
    term: Term,
    bodies: Bodies,
    pieces: int,
    *,
    logarithmic: bool | None = None,
    slope: float = 0.0,
) -> Spline:
    """Splines whose pieces are a compromise between equal length and equal shares of the data.

    Args:
        term: whose kernel they are for; of a constant there is one piece.
        bodies: on which it acts; those where its coupling is 0 do not count.
        pieces: how many.
        logarithmic: whether lengths are those of the logarithm; None: if it is positive.
        slope: see `Spline`.
    """
    variable = term.vector.variable
    if variable is None:
        return Spline(None, np.zeros(0), False, 0.0)
    x = variable_of(term, bodies)
    logarithmic = bool(np.all(x > 0)) if logarithmic is None else logarithmic
    place = np.log(x) if logarithmic else x
    low, high = np.quantile(place, [0.002, 0.998])
    even = np.linspace(low, high, pieces + 1)
    dense = np.quantile(place, np.linspace(0.002, 0.998, pieces + 1))
    inner = 0.5 * (even + dense)
    inner[0], inner[-1] = np.min(place), np.max(place)
    knots = np.concatenate([[inner[0]] * 3, inner, [inner[-1]] * 3])
    return Spline(variable, knots, logarithmic, slope)


def on_variable(
    spline: Spline, x: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, "sample part"]:
    """Values `[sample, part]` of splines at values of their variable."""
    return spline._replace(variable=sympy.Symbol("r")).basis({"r": x})


def variable_of(term: Term, bodies: Bodies) -> Float[np.ndarray, " sample"]:
    """The kernel's variable of the pairs or bodies on which a term acts."""
    columns = bodies.pairs if term.pair else bodies.nodes
    x = values(term.vector.variable, columns)
    felt = values(term.coupling, columns) != 0
    return x[felt] if np.any(felt) else x


class Fit(NamedTuple):
    """Kernels of some terms, fitted to accelerations."""

    terms: tuple[Term, ...]
    splines: tuple[Spline, ...]
    parts: tuple[Float[np.ndarray, " part"], ...]
    """For each term, factors of the parts of its spline."""
    covariance: tuple[Float[np.ndarray, "part part"], ...]
    """For each term, the covariance of these factors."""
    error: float
    """Held-out error: mean over bodies of |a - a_hat| / (|a| + 0.1 typical |a|)."""
    errors: Float[np.ndarray, " node"]
    """[node], the errors of held-out bodies."""


def _block(term: Term, spline: Spline, bodies: Bodies) -> Float[np.ndarray, "row part"]:
    """Accelerations `[node x dim, part]` that each part of a kernel makes."""
    columns = bodies.pairs if term.pair else bodies.nodes
    factor = values(term.coupling, columns)
    basis = spline.basis(columns)
    found = []
    for way in components(term.vector, columns).T:
        each = (factor * way)[:, None] * basis
        found.append(bodies.sums @ each if term.pair else bodies.inverse[:, None] * each)
    return np.stack(found, axis=1).reshape(-1, basis.shape[1])


def _rows(bodies: Bodies) -> Float[np.ndarray, " row"]:
    return np.repeat(bodies.weight, bodies.target.shape[1])


def _solve(design, target):
    """Least squares with columns of one size; and the inverse of the normal matrix."""
    size = np.sqrt(np.mean(design**2, axis=0))
    used = np.flatnonzero(size > _UNSEEN * np.max(size, initial=0.0))
    scaled = design[:, used] / size[used]
    left, sizes, right = np.linalg.svd(scaled.T @ scaled, hermitian=True)
    kept = sizes > 1e-13 * sizes[0]
    inverse = (right[kept].T / sizes[kept]) @ left[:, kept].T
    found = np.zeros(design.shape[1])
    found[used] = inverse @ (scaled.T @ target) / size[used]
    # Once more for what rounding left.
    left_over = target - design @ found
    found[used] += inverse @ (scaled.T @ left_over) / size[used]
    covariance = np.zeros((design.shape[1],) * 2)
    covariance[np.ix_(used, used)] = inverse / np.outer(size[used], size[used])
    return found, covariance


class _Ready(NamedTuple):
    """A term with its kernel's splines, and the accelerations that each part of it makes."""

    term: Term
    spline: Spline
    seen: Float[np.ndarray, "row part"]
    held_out: Float[np.ndarray, "row part"]


def _ready(term: Term, spline: Spline, train: Bodies, valid: Bodies) -> _Ready:
    return _Ready(term, spline, _block(term, spline, train), _block(term, spline, valid))


def _solved(rows: Sequence[_Ready], train: Bodies, valid: Bodies) -> Fit:
    """Kernels of some terms by least squares on the accelerations of bodies."""
    dim = train.target.shape[1]
    row = _rows(train)
    design = np.concatenate([one.seen for one in rows], axis=1) * row[:, None]
    target = train.target.reshape(-1) * row
    found, inverse = _solve(design, target)
    left = target - design @ found
    variance = float(np.sum(left**2)) / max(1, np.count_nonzero(row) - len(found))
    gap = valid.target.reshape(-1)
    gap = gap - np.concatenate([one.held_out for one in rows], axis=1) @ found
    errors = np.linalg.norm(gap.reshape(-1, dim), axis=1) * valid.weight
    errors = errors[valid.weight > 0]
    ends = np.cumsum([0, *(one.seen.shape[1] for one in rows)])
    cuts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    return Fit(
        terms=tuple(one.term for one in rows),
        splines=tuple(one.spline for one in rows),
        parts=tuple(found[cut] for cut in cuts),
        covariance=tuple(variance * inverse[cut, cut] for cut in cuts),
        error=float(np.mean(errors)),
        errors=errors,
    )


def accelerations(
    fit: Fit, bodies: Bodies, which: Sequence[int] | None = None
) -> Float[np.ndarray, "node dim"]:
    """Accelerations `[node, dim]` by the kernels of a fit, or by some of them."""
    total = np.zeros_like(bodies.target)
    for k in range(len(fit.terms)) if which is None else which:
        block = _block(fit.terms[k], fit.splines[k], bodies)
        total += (block @ fit.parts[k]).reshape(total.shape)
    return total


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
    r = pairs["r"]
    inner = np.quantile(np.log(r), np.linspace(0.0, 1.0, _RANKED + 1))
    knots = np.concatenate([[inner[0]] * 3, inner, [inner[-1]] * 3])
    basis = Spline(sympy.Symbol("r"), knots, True, 0.0).basis(pairs)

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
    alone = [
        _coarse(Term(vector, way, False), train, valid)
        for vector in body_vectors(train.nodes, dim)
        for way in own
    ]

    def extended(rows, fit):
        """Fits with one more term, the best first; of those that are as good the simplest."""
        residual = stars.force if fit is None else stars.force - _recorded_by(fit, stars)
        ranked = [term for _, term in rank_pairs(stars, residual, vectors, ways)[:_TRIED]]
        # What is simple is tried whatever a network says that has not learned enough.
        tried = dict.fromkeys([*ranked, *(Term(vectors[0], way, True) for way in ways[:_SIMPLEST])])
        more = [*(_coarse(term, train, valid) for term in tried), *alone]
        trials = [(_solved([*rows, one], train, valid), [*rows, one]) for one in more]
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


def _coarse(term: Term, train: Bodies, valid: Bodies, pieces: int = _COMPARED) -> _Ready:
    return _ready(term, make_spline(term, train, pieces), train, valid)


def fit_terms(terms: Sequence[Term], train: Bodies, valid: Bodies, pieces: int) -> Fit:
    """Kernels of given terms.

    Args:
        terms: what forces are sums of.
        train: bodies whose accelerations are fitted.
        valid: bodies of other recordings, for the error.
        pieces: of each kernel.
    """
    return _solved([_coarse(term, train, valid, pieces) for term in terms], train, valid)


def finish(fit: Fit, train: Bodies, valid: Bodies) -> Fit:
    """The terms that are needed, with kernels as fine as the data allow.

    The splines of each kernel are of the variable or of its logarithm, may be multiplied with
    the power of the variable that the kernel is nearest to, and have more pieces as long as
    this lowers the held-out error. Terms that others have made needless are left out.
    """
    chosen = [_ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    best = _solved(chosen, train, valid)
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
                finer = _ready(term, make_spline(term, train, pieces, **way), train, valid)
                rows = [*chosen[:k], finer, *chosen[k + 1 :]]
                trials.append((_solved(rows, train, valid), rows))
            least, rows = min(trials, key=lambda one: one[0].error)
            if least.error > best.error / _FALL:
                break
            best, chosen = least, rows
    best, chosen = _along_the_line(best, chosen, train, valid)
    for k, one in enumerate(chosen):
        for way in _simpler(one.term, train):
            rows = [*chosen[:k], _again(one, way, train, valid), *chosen[k + 1 :]]
            trial = _solved(rows, train, valid)
            if trial.error <= max(_SAME * best.error, ROUNDING):
                best, chosen = trial, rows
                break
    while len(chosen) > 1:
        trials = []
        for k in range(len(chosen)):
            rest = chosen[:k] + chosen[k + 1 :]
            trials.append((_solved(rest, train, valid), rest))
        least, rest = min(trials, key=lambda one: one[0].error)
        if least.error > max(_NEEDED * best.error, ROUNDING):
            break
        best, chosen = least, rest
    return best


def _along_the_line(best, chosen, train, valid):
    """One term along the line of centres in place of several, where it does as well."""
    line = pair_vectors(train.pairs, train.target.shape[1])[0]
    for one in chosen:
        alike = [row.term.pair and row.term.coupling == one.term.coupling for row in chosen]
        if not one.term.pair or sum(alike) < 2:
            continue
        whole = _ready(one.term._replace(vector=line), one.spline, train, valid)
        rows = [whole, *(row for row, same in zip(chosen, alike, strict=True) if not same)]
        trial = _solved(rows, train, valid)
        if trial.error <= max(_SAME * best.error, ROUNDING):
            return trial, rows
    return best, chosen


def _simpler(term: Term, bodies: Bodies) -> list[sympy.Expr]:
    """Couplings by the same properties that are simpler, the simplest first."""
    if term.coupling.has(sympy.Heaviside):
        return []
    columns = bodies.pairs if term.pair else bodies.nodes
    some = {name: column[:: max(1, len(column) // _SOME)] for name, column in columns.items()}
    known = term.coupling.free_symbols
    return [
        way
        for way in couplings(some, "ij" if term.pair else "i")
        if way.free_symbols <= known and complexity(way) < complexity(term.coupling)
    ]


def _again(ready: _Ready, way: sympy.Expr, train: Bodies, valid: Bodies) -> _Ready:
    """The same term with another coupling."""
    return _ready(ready.term._replace(coupling=way), ready.spline, train, valid)


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
            _ready(*one, train, valid)
            for n, one in enumerate(zip(fit.terms, fit.splines, strict=True))
            if n != k
        ]

        def error(place, term=term, others=others):
            return _solved([*others, *_halves(term, place, train, valid)], train, valid).error

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
        _ready(*one, train, valid)
        for n, one in enumerate(zip(fit.terms, fit.splines, strict=True))
        if n != k
    ]
    rows += _halves(fit.terms[k], place, train, valid)
    return finish(_solved(rows, train, valid), train, valid)


def _halves(term, place, train, valid):
    """The term below a threshold of its variable, and above."""
    gap = term.vector.variable - sympy.Float(place)
    return [
        _ready(one, make_spline(one, train, _HALF), train, valid)
        for side in (-gap, gap)
        for one in [term._replace(coupling=term.coupling * sympy.Heaviside(side))]
    ]
