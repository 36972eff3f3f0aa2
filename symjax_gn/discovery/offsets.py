"""What one factor of a law may give another: offsets and factors, which no data tell apart."""

from typing import Any

import numpy as np
import sympy

from symjax_gn.laws.law import Law, sum_symbols
from symjax_gn.laws.refinement import Candidate
from symjax_gn.laws.rules import over
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import R

(_SUM,) = sum_symbols(1)


def has_gauge(law: Law) -> bool:
    """Whether an offset and a factor of the message may be made good by the update.

    That is so of scalars of which the update is a function.
    """
    scalar = all(term.along == (1,) for term in (*law.message, *law.update))
    return scalar and any(one.variable == _SUM for term in law.update for one in term.factors)


def gauges(law: Law, samples: Samples, candidate: Candidate) -> list[Candidate]:
    """The same law with offsets and factors moved: from message to update, and within terms.

    Args:
        law: one that has a gauge.
        samples: offsets are summed: they can be moved where all owners have as many elements.
        candidate: formulas of all factors.
    """
    parts: list[Any] = list(candidate)
    counts = np.unique(np.diff(samples.sums.indptr))
    starts = np.cumsum([0, *(len(term.factors) for term in law.message)])
    inside, outside = range(starts[-1]), range(starts[-1], len(parts))
    of_sums = [k for k in outside if law.factor(k)[1].variable == _SUM]

    def moved(parts, place):
        """With the sums in the update at a place."""
        new = list(parts)
        for k in of_sums:
            new[k] = _plain_bases(parts[k].xreplace({R: place}))
        return new

    found = [candidate]
    sizes = [len(term.factors) for term in (*law.message, *law.update)]
    for k, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        # The first factor of a term has its scale.
        for other in range(k + 1, k + size):
            number, parts[other] = parts[other].as_coeff_Mul()
            parts[k] = sympy.expand_mul(number * parts[k])
    found.append(tuple(parts))
    for k, size in zip(starts, sizes[: len(law.message)], strict=False):
        offset, rest = parts[k].as_coeff_Add()
        if size == 1 and len(counts) == 1 and offset != 0:
            parts = moved(parts, R + sympy.Float(int(counts[0]) * offset))
            parts[k] = rest
            found.append(tuple(parts))
    sent = [one for k in starts[:-1] for one in _terms(parts[k]) if one.has(R)]
    factors = {one.as_coeff_Mul()[0] for one in sent}
    for factor in sorted(x for x in factors if x.is_Float and x != 0):
        new = moved(parts, factor * R)
        for k in set(inside) & set(starts.tolist()):
            new[k] = sympy.Add(*(over(one, factor) for one in _terms(parts[k])))
        found.append(tuple(new))
    return found


def _terms(law):
    return sympy.Add.make_args(law)


def _plain_bases(law):
    """The law with numbers taken out of powers of a r + b."""

    def plain(base, exponent):
        factor = base.coeff(R, 1)
        if not factor.is_Float or base != factor * R + base.coeff(R, 0):
            return base**exponent
        rest = R + base.coeff(R, 0) / factor
        if exponent.is_Integer or factor > 0:
            return factor**exponent * rest**exponent
        return abs(factor) ** exponent * (-rest) ** exponent

    return law.replace(sympy.Pow, plain)
