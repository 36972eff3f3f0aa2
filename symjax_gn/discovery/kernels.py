"""Kernels of given terms as splines, by linear least squares on accelerations."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from symjax_gn.discovery.terms import Term, as_law, components
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import Fitted
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import Spline, place_knots

# A part of a kernel that data say so little of is left at 0.
_UNSEEN = 1e-9

# Errors of held-out bodies are at most that of one of which nothing is known: where one flies
# away farther than any that was fitted, splines may be off by any factor.
_WRONG = 1.0


def make_spline(
    term: Term,
    bodies: Samples,
    pieces: int,
    *,
    logarithmic: bool | None = None,
    power: float = 0.0,
) -> Spline:
    """Splines for a term's kernel that are 0, with knots by `shapes.place_knots`.

    Args:
        term: whose kernel they are for; of a constant there is one piece.
        bodies: on which it acts; those where its coupling is 0 do not count.
        pieces: how many.
        logarithmic: whether lengths are those of the logarithm; None: if it is positive.
        power: see `Spline`.
    """
    variable = term.vector.variable
    if variable is None:
        return Spline(np.zeros(0), np.zeros(1))
    felt = _felt(term, bodies)
    x = variable_of(term, bodies)
    logarithmic = bool(np.all(x > 0)) if logarithmic is None else logarithmic
    place = np.log(x) if logarithmic else x
    # Where bodies feel next to nothing there is little to tell.
    size = np.linalg.norm(bodies.target, axis=1) * bodies.weight
    weight = (bodies.sums.T @ size if term.pair else size)[felt]
    knots = place_knots(place, pieces, weight=weight)
    return Spline(knots, np.zeros(len(knots) - 4), logarithmic, power)


def variable_of(term: Term, bodies: Samples) -> Float[np.ndarray, " sample"]:
    """The kernel's variable of the pairs or bodies on which a term acts."""
    columns = bodies.elements if term.pair else bodies.owners
    return values(term.vector.variable, columns)[_felt(term, bodies)]


def _felt(term, bodies):
    """Whether a term acts on each pair or body; if on none, on all."""
    felt = values(term.coupling, bodies.elements if term.pair else bodies.owners) != 0
    return felt if np.any(felt) else ~felt


class Fit(NamedTuple):
    """Kernels of some terms, fitted to accelerations."""

    terms: tuple[Term, ...]
    splines: tuple[Spline, ...]
    covariance: tuple[Float[np.ndarray, "part part"], ...]
    """For each term, the covariance of its spline's numbers."""
    error: float
    """Held-out error: mean over bodies of |a - a_hat| / (|a| + 0.1 typical |a|)."""
    errors: Float[np.ndarray, " node"]
    """[node], the errors of held-out bodies."""


def _block(term: Term, spline: Spline, bodies: Samples) -> Float[np.ndarray, "row part"]:
    """Accelerations `[node x dim, part]` that each part of a kernel makes."""
    columns = bodies.elements if term.pair else bodies.owners
    factor = values(term.coupling, columns)
    variable = term.vector.variable
    x = np.zeros(len(factor)) if variable is None else values(variable, columns)
    basis = spline.basis(x).toarray()
    found = []
    for way in components(term.vector, columns).T:
        each = (factor * way)[:, None] * basis
        found.append(bodies.of_elements(each) if term.pair else bodies.of_owners(each))
    return np.stack(found, axis=1).reshape(-1, basis.shape[1])


def _rows(bodies: Samples) -> Float[np.ndarray, " row"]:
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


def ready(term: Term, spline: Spline, train: Samples, valid: Samples) -> Ready:
    """A term prepared for fits on bodies in training, and held out."""
    seen = _block(term, spline, train) * _rows(train)[:, None]
    return Ready(term, spline, seen, _block(term, spline, valid))


def solved(rows: Sequence[Ready], train: Samples, valid: Samples) -> Fit:
    """Kernels of some terms by least squares on the accelerations of bodies."""
    dim = train.target.shape[1]
    row = _rows(train)
    design = np.concatenate([one.seen for one in rows], axis=1)
    target = train.target.reshape(-1) * row
    found, inverse = _solve(design, target)
    left = target - design @ found
    variance = float(np.sum(left**2)) / max(1, len(row) - len(found))
    gap = valid.target.reshape(-1)
    gap = gap - np.concatenate([one.held_out for one in rows], axis=1) @ found
    errors = np.linalg.norm(gap.reshape(-1, dim), axis=1) * valid.weight
    errors = np.minimum(errors, _WRONG)
    ends = np.cumsum([0, *(one.seen.shape[1] for one in rows)])
    cuts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    return Fit(
        terms=tuple(one.term for one in rows),
        splines=tuple(
            one.spline._replace(numbers=found[cut]) for one, cut in zip(rows, cuts, strict=True)
        ),
        covariance=tuple(variance * inverse[cut, cut] for cut in cuts),
        error=float(np.mean(errors)),
        errors=errors,
    )


def accelerations(
    fit: Fit, bodies: Samples, which: Sequence[int] | None = None
) -> Float[np.ndarray, "node dim"]:
    """Accelerations `[node, dim]` by the kernels of a fit, or by some of them."""
    total = np.zeros_like(bodies.target)
    for k in range(len(fit.terms)) if which is None else which:
        block = _block(fit.terms[k], fit.splines[k], bodies)
        total += (block @ fit.splines[k].numbers).reshape(total.shape)
    return total


def fit_again(fit: Fit, train: Samples, valid: Samples) -> Fit:
    """The same terms and splines, fitted to other bodies or with other weights."""
    rows = [ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    return solved(rows, train, valid)


def fit_terms(terms: Sequence[Term], train: Samples, valid: Samples, pieces: int) -> Fit:
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


def as_fitted(fit: Fit) -> Fitted:
    """A fit as a law, whose terms of pairs are before those of bodies alone."""
    order = sorted(range(len(fit.terms)), key=lambda k: not fit.terms[k].pair)
    terms, splines = [fit.terms[k] for k in order], [fit.splines[k] for k in order]
    law = as_law(terms, splines, len(terms[0].vector.along))
    return Fitted(law, tuple(fit.covariance[k] for k in order), fit.errors)
