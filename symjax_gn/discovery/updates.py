"""Sums of forces within a function: of their own length, of the body, or of another sum.

A law that saturates, a speed limit, a mean over neighbours: the sum of forces is multiplied with
a function of one variable. Forces and that function are fitted together.
"""

from collections.abc import Iterator

import numpy as np
import sympy

from symjax_gn.data.features import scalar_features
from symjax_gn.discovery.acceptance import Known, State
from symjax_gn.discovery.fitter import Fits
from symjax_gn.laws.law import Factor, Law, Term, sum_symbols
from symjax_gn.laws.samples import Samples, some_owners
from symjax_gn.laws.shapes import Grid, R

# Owners on which all terms of pairs are tried with all functions, and the best laws that are then
# fitted to all: the right term may explain less than others without its function.
_OWNERS, _TRIED = 1_200, 6

# Pieces of functions of sums at first.
_PIECES = 6


def within_a_function(state: State, known: Known) -> Iterator[Law]:
    """With the sum of forces multiplied with a function of one variable.

    The forces are those of the law, or a single term of pairs: the right one may explain less
    than others as long as its function is not there.
    """
    law, fits = state.law, known.fits
    if not law.is_linear:
        return
    few = Fits(some_owners(fits.train, _OWNERS), some_owners(fits.valid, _OWNERS))
    nothing = law._replace(message=(), update=law.update[:1])
    starts = [law] if law.message else []
    starts += [nothing._replace(message=(one,)) for one in known.candidates.pairs(nothing, None)]
    tried = [one for start in starts for one in _limited(start, few.train)]
    tried.sort(key=few.promised)
    yield from tried[:_TRIED]


def _limited(law: Law, train: Samples) -> Iterator[Law]:
    """A law with its forces multiplied by functions, of another sum if there is one."""
    dim = train.target.shape[1]
    forces = sum_symbols(dim)
    variables: list[sympy.Expr] = [sympy.sqrt(sympy.Add(*(one**2 for one in forces)))]
    owners = scalar_features(train.owners).items()
    variables += [sympy.Symbol(name) for name, x in owners if np.ptp(x) > 0]
    first, *rest = law.update
    for variable in variables:
        new = first._replace(factors=(Factor(variable, Grid(_PIECES)),))
        yield law._replace(update=(new, *rest))
    if "r" in train.elements:
        new = first._replace(factors=(Factor(sum_symbols(dim + 1)[-1], Grid(_PIECES)),))
        nothing = sympy.Integer(0)
        message = [term._replace(along=(*term.along, nothing)) for term in law.message]
        along = (*(nothing,) * dim, sympy.Integer(1))
        other = Term(along, (Factor(R, Grid(_PIECES)),), name="sum")
        yield law._replace(message=(*message, other), update=(new, *rest))
