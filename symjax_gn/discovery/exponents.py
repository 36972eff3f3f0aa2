"""Couplings with any exponents: powers of properties as functions of a law like others."""

from collections.abc import Iterator

import numpy as np
import sympy

from symjax_gn.discovery.acceptance import Known, State
from symjax_gn.discovery.terms import positive_stems
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import Factor, Law
from symjax_gn.laws.shapes import Formula, R

# Exponents differ at first by so much: equal ones would be one number, and 0 is none.
_APART = 1e-3


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
