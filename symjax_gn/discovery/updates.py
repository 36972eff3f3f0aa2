"""Sums of forces within a function: of their own length, of the body, or of another sum.

A law that saturates, a speed limit, a mean over neighbours: the sum of forces is multiplied with
a function of one variable. Forces and that function are fitted together.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sympy

from symjax_gn.data.features import scalar_features
from symjax_gn.discovery.finishing import FALL, NEEDED
from symjax_gn.discovery.kernels import Fit, as_fitted, make_spline, ready, solved
from symjax_gn.discovery.structure import SMOOTH, Candidates
from symjax_gn.laws.bound import bind
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import Factor, Fitted, Law, Term, sum_symbols, sums_as_columns
from symjax_gn.laws.least_squares import fit_splines, fitted
from symjax_gn.laws.samples import Samples, some_owners
from symjax_gn.laws.shapes import R, Spline, place_knots

# Owners on which all terms of pairs are tried with all functions, and the best laws that are then
# fitted to all: the right term may explain less than others without its function.
_OWNERS, _TRIED = 1_200, 6

# Pieces of splines: of kernels at first, of functions of sums at first, and of both then.
_KERNEL, _FIRST, _FINER = 14, 6, (14, 28, 56, 112)

# The range of sums may grow by this share as forces are fitted.
_MARGIN = 0.1

# Laws that are fitted with finer splines.
_BEST = 3


def find_update(stars: Any, fit: Fit, train: Samples, valid: Samples) -> Fitted | None:
    """A law whose sum of forces is multiplied with a function; None if that is no better.

    Args:
        stars: what the network says of pairs.
        fit: the terms that explain most without one.
        train: what is fitted.
        valid: other data.
    """
    few, other = (some_owners(one, _OWNERS) for one in (train, valid))
    tried = [
        _fitted_with(one, variable, few, other)
        for law in _starts(stars, fit, train, valid)
        for one, variable in _factors(law, few)
    ]
    tried.sort(key=lambda one: one.error)
    trials = [refitted(one.law, train, valid) for one in tried[:_TRIED]]
    trials.sort(key=lambda one: one.error)
    best = [_finest(one, train, valid) for one in trials[:_BEST]]
    least = min(best, key=lambda one: one.error, default=None)
    return None if least is None or least.error > fit.error / NEEDED else least


def _starts(stars, fit, train, valid) -> list[Law]:
    """The law without a function of sums, and laws of a single term of pairs."""
    candidates = Candidates(stars, train.owners, train.target.shape[1])
    fits = [fit] if any(term.pair for term in fit.terms) else []
    for term in candidates.beside([], None):
        if term.pair:
            spline = make_spline(term, train, _KERNEL)
            fits.append(solved([ready(term, spline, train, valid)], train, valid))
    return [as_fitted(one).law for one in fits]


def _factors(law: Law, train: Samples) -> Iterator[tuple[Law, Any]]:
    """The law, with another sum if there is one, and what its forces may be multiplied by."""
    dim = train.target.shape[1]
    forces = sum_symbols(dim)
    yield law, sympy.sqrt(sympy.Add(*(one**2 for one in forces)))
    for name, x in scalar_features(train.owners).items():
        if np.ptp(x) > 0:
            yield law, sympy.Symbol(name)
    if "r" in train.elements:
        yield _with_another_sum(law, dim, train), sum_symbols(dim + 1)[-1]


def _with_another_sum(law, dim, train):
    """The law with the sum of a function of the distance, which falls to 0, beside its forces."""
    nothing = sympy.Integer(0)
    message = [term._replace(along=(*term.along, nothing)) for term in law.message]
    knots = place_knots(train.elements["r"], _FIRST)
    spline = Spline(knots, np.linspace(1.0, 0.0, len(knots) - 4))
    other = Term((nothing,) * dim + (sympy.Integer(1),), (Factor(R, spline),), name="sum")
    return law._replace(message=(*message, other))


def _fitted_with(law, variable, train, valid) -> Fitted:
    """The law whose forces are multiplied by a function that is 1 at first."""
    knots = place_knots(_values(law, variable, train), _FIRST, _MARGIN)
    one = Factor(variable, Spline(knots, np.ones(len(knots) - 4)))
    first, *rest = law.update
    return refitted(law._replace(update=(first._replace(factors=(one,)), *rest)), train, valid)


def _values(law, variable, samples):
    """Values of a variable of sums."""
    bound = bind(law, samples)
    columns = {**samples.owners, **sums_as_columns(bound.sums(bound.start))}
    return values(variable, columns)


def refitted(law: Law, train: Samples, valid: Samples) -> Fitted:
    """The law with its numbers fitted, near those that it has.

    Args:
        law: its functions are splines.
        train: what is fitted.
        valid: other data, for the errors.
    """
    bound = bind(law, train)
    return fitted(law.with_numbers(fit_splines(bound, bound.start)), train, valid)


def _finest(found: Fitted, train, valid) -> Fitted:
    """The law with splines as fine as lowers its error."""
    for pieces in _FINER:
        if found.error <= SMOOTH:
            break
        finer = refitted(_with_pieces(found.law, pieces, train), train, valid)
        if finer.error > found.error / FALL:
            break
        found = finer
    return found


def _with_pieces(law, pieces, samples) -> Law:
    """The law with splines of so many pieces, where they have fewer."""
    shapes: Sequence[Any] = law.shapes
    finer = []
    for k, shape in enumerate(shapes):
        _, factor = law.factor(k)
        if not shape.pieces or (k < law.sent and shape.pieces > pieces):
            finer.append(shape)
            continue
        inside = k < law.sent
        x = (
            values(factor.variable, samples.elements)
            if inside
            else _values(law, factor.variable, samples)
        )
        finer.append(_finer(shape, x, pieces, 0.0 if inside else _MARGIN))
    return law.with_shapes(finer)


def _finer(shape, x, pieces, margin):
    """The same function as a spline of so many pieces."""
    place = np.log(x) if shape.logarithmic else x
    knots = place_knots(place, pieces, margin)
    new = shape._replace(knots=knots, numbers=np.zeros(len(knots) - 4))
    some = np.unique(np.quantile(x, np.linspace(0, 1, 20 * pieces)))
    basis = new.basis(some).toarray()
    return new._replace(numbers=np.linalg.lstsq(basis, shape.values(some), rcond=1e-10)[0])
