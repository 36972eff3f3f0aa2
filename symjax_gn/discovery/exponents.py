"""Couplings with any exponents: powers of properties as functions of a law like others."""

import numpy as np
import sympy

from symjax_gn.discovery.finishing import FALL
from symjax_gn.discovery.terms import positive_stems
from symjax_gn.laws.bound import bind
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import Factor, Fitted, Law
from symjax_gn.laws.least_squares import fit_splines, fitted
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import Formula, R

# Exponents differ at first by so much: equal ones would be one number, and 0 is none.
_APART = 1e-3


def with_free_exponents(found: Fitted, train: Samples, valid: Samples) -> Fitted | None:
    """The law with the exponents of couplings that fit best; None if that is no better.

    Positive properties enter by any power of each body's value; what else is in a coupling
    stays.

    Args:
        found: a law, its exponents those to start from.
        train: what is fitted.
        valid: other data, for the errors.
    """
    law = freed(found.law, train)
    if law.structure == found.law.structure:
        return None
    bound = bind(law, train)
    free = fitted(law.with_numbers(fit_splines(bound, bound.start)), train, valid)
    return free if free.error < found.error / FALL else None


def freed(law: Law, samples: Samples) -> Law:
    """The law with powers of positive properties as functions of their own.

    Args:
        law: its exponents are those to start from.
        samples: what properties are.
    """
    stems = positive_stems(samples.elements, "ij") if law.message else []
    ends = [sympy.Symbol(f"{stem}_{end}") for stem in stems for end in "ij"]
    return law._replace(message=tuple(_freed(term, ends, samples.elements) for term in law.message))


def _freed(term, ends, columns):
    """A term with powers of properties as factors, those nearest to its coupling at first."""
    if not ends or term.coupling.has(sympy.Heaviside, sympy.sign):
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
