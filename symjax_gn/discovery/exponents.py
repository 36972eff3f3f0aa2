"""Couplings that are on no list: powers with any exponents, and functions, of single properties."""

from collections.abc import Iterator

import numpy as np
import sympy

from symjax_gn.discovery.acceptance import Known, State
from symjax_gn.discovery.terms import positive_stems, varied
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import Factor, Law
from symjax_gn.laws.shapes import Formula, Grid, R

# Exponents differ at first by so much: equal ones would be one number, and 0 is none.
_APART = 1e-3

# Properties with fewer values have no functions but sums of what is on the list; pieces of others;
# what a function must leave of the error.
_DISTINCT, _PIECES, _LESS = 8, 6, 0.9


def freed(state: State, known: Known) -> Iterator[Law]:
    """With the exponents of couplings as numbers that are fitted.

    Positive properties enter by any power of each body's value; what else is in a coupling
    stays.
    """
    columns = known.fits.train.elements
    stems = positive_stems(columns, "ij")
    ends = [sympy.Symbol(f"{stem}_{end}") for stem in stems for end in "ij"]
    for k, term in enumerate(state.law.message):
        new = _freed(term, ends, columns)
        if new is not term:
            message = (*state.law.message[:k], new, *state.law.message[k + 1 :])
            yield state.law._replace(message=message)


def _freed(term, ends, columns):
    """A term with powers of properties as factors, those nearest to its coupling at first."""
    known = any(isinstance(one.shape, Formula) for one in term.factors)
    if not ends or known or term.coupling.has(sympy.Heaviside, sympy.sign):
        return term
    rest, _ = term.coupling.as_independent(*ends, as_Add=False)
    logs = np.stack([np.log(columns[str(end)]) for end in ends], axis=1)
    column = values(term.coupling / rest, columns)
    start = np.linalg.lstsq(logs, np.log(np.abs(column) + 1e-300), rcond=None)[0]
    powers = [
        Factor(end, Formula(R ** sympy.Float(one + _APART * (k + 1))))
        for k, (end, one) in enumerate(zip(ends, start, strict=True))
    ]
    return term._replace(coupling=rest, factors=(*term.factors, *powers))


def factored(state: State, known: Known) -> Iterator[Law]:
    """With functions of one property in the place of how it enters a coupling.

    Of the receiver's, of the sender's, or of both; only where one step towards it would leave
    less.
    """
    columns = known.fits.train.elements
    for stem, *both in varied(columns, "ij"):
        ends = [sympy.Symbol(f"{stem}_{end}") for end in "ij"]
        if min(len(np.unique(one)) for one in both) < _DISTINCT:
            continue
        for k, term in enumerate(state.law.message):
            if any(isinstance(one.shape, Formula) for one in term.factors):
                continue
            for some in (ends[:1], ends[1:], ends):
                new = _with_functions(term, some)
                message = (*state.law.message[:k], new, *state.law.message[k + 1 :])
                law = state.law._replace(message=message)
                if new is not term and known.fits.promised(law) < _LESS * state.found.error:
                    yield law


def _with_functions(term, ends):
    """A term with functions of some properties, at first what the coupling has of them."""
    if {one.variable for one in term.factors} & set(ends):
        return term
    rest, own = term.coupling, []
    for end in ends:
        rest, part = rest.as_independent(end, as_Add=False)
        alone = part.free_symbols <= {end}
        own.append(Factor(end, Grid(_PIECES, start=part if alone else None)))
    return term._replace(coupling=rest, factors=(*term.factors, *own))
