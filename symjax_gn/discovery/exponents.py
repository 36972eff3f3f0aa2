"""Couplings that are on no list: powers with any exponents, and functions, of single properties."""

from collections.abc import Iterator

import numpy as np
import sympy

from symjax_gn.data.features import TIME
from symjax_gn.discovery.acceptance import Known, State
from symjax_gn.discovery.moves import placed, with_term
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
    """With functions of one property in the place of how it enters a coupling, or of the time.

    Of the receiver's, of the sender's, or of both; only where one step towards it would leave
    less.
    """
    data = known.fits.train
    for inside, k, term in placed(state.law):
        if any(isinstance(one.shape, Formula) for one in term.factors):
            continue
        for ends in _varied(data.elements, "ij") if inside else _varied(data.owners, "i"):
            new = _with_functions(term, ends)
            law = with_term(state.law, inside, k, (new,))
            if new is not term and known.fits.promised(law) < _LESS * state.found.error:
                yield law


def _varied(columns, ends) -> Iterator[list[sympy.Symbol]]:
    """What a term may be multiplied with functions of: a property of one end or both, the time."""
    for name, *_ in varied(columns, ends):
        one = [sympy.Symbol(f"{name}_{end}") for end in ends]
        if min(len(np.unique(columns[str(end)])) for end in one) >= _DISTINCT:
            yield from ([end] for end in one)
            yield from [one] if len(one) > 1 else []
    if TIME in columns and len(np.unique(columns[TIME])) >= _DISTINCT:
        yield [sympy.Symbol(TIME)]


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
