"""Kernels of given terms as splines, by linear least squares on accelerations."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.discovery.bodies import Bodies
from symjax_gn.discovery.splines import design, place_knots
from symjax_gn.discovery.terms import Columns, Term, components, values

# A part of a kernel that data say so little of is left at 0.
_UNSEEN = 1e-9

# Errors of held-out bodies are at most that of one of which nothing is known: where one flies
# away farther than any that was fitted, splines may be off by any factor.
_WRONG = 1.0


class Spline(NamedTuple):
    """A space of cubic splines of one variable; constant beyond its ends."""

    variable: sympy.Expr | None
    knots: Float[np.ndarray, " knot"]
    """[knot], of the variable or its logarithm; none for a constant."""
    logarithmic: bool
    slope: float
    """Power of the variable that the splines are multiplied with."""

    @property
    def pieces(self) -> int:
        """How many; 0 of a constant."""
        return max(0, len(self.knots) - 7)

    def basis(self, columns: Columns) -> Float[np.ndarray, "sample part"]:
        """Values `[sample, part]` of its parts."""
        if self.variable is None:
            return np.ones((len(next(iter(columns.values()))), 1))
        x = values(self.variable, columns)
        place = np.log(np.maximum(x, 1e-300)) if self.logarithmic else x
        found = design(self.knots, place).toarray()
        return found if self.slope == 0 else found * np.maximum(x, 1e-300)[:, None] ** self.slope


def make_spline(
    term: Term,
    bodies: Bodies,
    pieces: int,
    *,
    logarithmic: bool | None = None,
    slope: float = 0.0,
) -> Spline:
    """Splines for a term's kernel, with knots by `splines.place_knots`.

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
    felt = _felt(term, bodies)
    x = variable_of(term, bodies)
    logarithmic = bool(np.all(x > 0)) if logarithmic is None else logarithmic
    place = np.log(x) if logarithmic else x
    # Where bodies feel next to nothing there is little to tell.
    size = np.linalg.norm(bodies.target, axis=1) * bodies.weight
    weight = (abs(bodies.sums).sign().T @ size if term.pair else size)[felt]
    knots = place_knots(place, pieces, weight=weight)
    return Spline(variable, knots, logarithmic, slope)


def on_variable(
    spline: Spline, x: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, "sample part"]:
    """Values `[sample, part]` of splines at values of their variable."""
    return spline._replace(variable=sympy.Symbol("r")).basis({"r": x})


def variable_of(term: Term, bodies: Bodies) -> Float[np.ndarray, " sample"]:
    """The kernel's variable of the pairs or bodies on which a term acts."""
    columns = bodies.pairs if term.pair else bodies.nodes
    return values(term.vector.variable, columns)[_felt(term, bodies)]


def _felt(term, bodies):
    """Whether a term acts on each pair or body; if on none, on all."""
    felt = values(term.coupling, bodies.pairs if term.pair else bodies.nodes) != 0
    return felt if np.any(felt) else ~felt


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
    # Of a body that flies away some parts make more than all others of all bodies.
    usual = np.median(size[size > 0]) if np.any(size > 0) else 0.0
    used = np.flatnonzero(size > _UNSEEN * usual)
    scaled = design[:, used] / size[used]
    left, sizes, right = np.linalg.svd(scaled.T @ scaled, hermitian=True)
    kept = sizes > 1e-13 * np.max(sizes, initial=0.0)
    inverse = (right[kept].T / sizes[kept]) @ left[:, kept].T
    found = np.zeros(design.shape[1])
    found[used] = inverse @ (scaled.T @ target) / size[used]
    # Once more for what rounding left.
    left_over = target - design @ found
    found[used] += inverse @ (scaled.T @ left_over) / size[used]
    covariance = np.zeros((design.shape[1],) * 2)
    covariance[np.ix_(used, used)] = inverse / np.outer(size[used], size[used])
    return found, covariance


class Ready(NamedTuple):
    """A term with its kernel's splines, and the accelerations that each part of it makes."""

    term: Term
    spline: Spline
    seen: Float[np.ndarray, "row part"]
    """[row, part], weighted."""
    held_out: Float[np.ndarray, "row part"]


def ready(term: Term, spline: Spline, train: Bodies, valid: Bodies) -> Ready:
    """A term prepared for fits on bodies in training, and held out."""
    seen = _block(term, spline, train) * _rows(train)[:, None]
    return Ready(term, spline, seen, _block(term, spline, valid))


def solved(rows: Sequence[Ready], train: Bodies, valid: Bodies) -> Fit:
    """Kernels of some terms by least squares on the accelerations of bodies."""
    dim = train.target.shape[1]
    row = _rows(train)
    design = np.concatenate([one.seen for one in rows], axis=1)
    target = train.target.reshape(-1) * row
    found, inverse = _solve(design, target)
    left = target - design @ found
    variance = float(np.sum(left**2)) / max(1, np.count_nonzero(row) - len(found))
    gap = valid.target.reshape(-1)
    gap = gap - np.concatenate([one.held_out for one in rows], axis=1) @ found
    errors = np.linalg.norm(gap.reshape(-1, dim), axis=1) * valid.weight
    errors = np.minimum(errors[valid.weight > 0], _WRONG)
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


def fit_again(fit: Fit, train: Bodies, valid: Bodies) -> Fit:
    """The same terms and splines, fitted to other bodies or with other weights."""
    rows = [ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    return solved(rows, train, valid)


def fit_terms(terms: Sequence[Term], train: Bodies, valid: Bodies, pieces: int) -> Fit:
    """Kernels of given terms.

    Args:
        terms: what forces are sums of.
        train: bodies whose accelerations are fitted.
        valid: bodies of other recordings, for the error.
        pieces: of each kernel.
    """
    return solved(
        [ready(term, make_spline(term, train, pieces), train, valid) for term in terms],
        train,
        valid,
    )
