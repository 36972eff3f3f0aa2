"""Formulas in the place of a law's functions, against targets: errors, fits, intervals."""

import math
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.laws.bound import Bound, Frame
from symjax_gn.laws.expressions import with_constants
from symjax_gn.laws.fitting import fit_in_stages, standard_errors
from symjax_gn.laws.fronts import is_usable
from symjax_gn.laws.law import Law
from symjax_gn.laws.least_squares import mean_size, sizes
from symjax_gn.laws.refinement import Candidate
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import Formula

# 95% of a normal distribution are within so many standard errors.
_NORMAL = 1.96

# Shares of their sums that other owners may be sent.
_SHARES = (0.5, 1.5)


class Interval(NamedTuple):
    """A constant of a law, and where it is to be found in 19 of 20 cases."""

    value: float
    low: float
    high: float


def interval(value: float, error: float) -> Interval:
    """That of a normal distribution with this standard error."""
    return Interval(float(value), float(value - _NORMAL * error), float(value + _NORMAL * error))


class OnFormulas:
    """Formulas of all factors of a law, or of one; see `refinement.Objective`."""

    def __init__(self, law: Law, samples: Samples, free: int | None = None):
        """Prepare what does not depend on the formulas.

        Args:
            law: says which factors there are.
            samples: what formulas are fitted to.
            free: the number of the one factor that candidates hold, where the law's functions
                stand for all others; None: they hold all factors.
        """
        self._frame, self._known = Frame(law, samples), None
        if free is not None:
            self._frame, self._known = self._frame.only(law.shapes, free)

    def _bound(self, candidate: Candidate) -> Bound:
        shapes: list[Any] = [Formula(one) for one in candidate]
        if self._known is not None:
            shapes = [shapes[0] if one is None else one for one in self._known]
        return self._frame.bind(shapes)

    def errors(self, candidate: Candidate) -> Float[np.ndarray, " row"]:
        """Sizes of weighted errors; infinite where a law says nothing."""
        bound = self._bound(candidate)
        return sizes(bound.errors(bound.start))

    def is_defined(self, candidate: Candidate) -> bool:
        """Whether a law says something of owners that are sent half as much, or half more."""
        bound = self._bound(candidate)
        return all(np.all(np.isfinite(bound.predict(bound.start, share))) for share in _SHARES)

    def intervals(self, candidate: Candidate) -> tuple[Interval, ...]:
        """The constants of a fitted candidate with their intervals."""
        bound = self._bound(candidate)
        found = bound.start
        if not len(found):
            return ()
        left, slopes = bound.errors(found).ravel(), bound.slopes(found).reshape(-1, len(found))
        return tuple(map(interval, found, standard_errors(left, slopes)))

    def fit(self, candidate: Candidate, limit: float = math.inf) -> tuple[Candidate, float]:
        """See `Objective.fit`."""
        if not all(map(is_usable, candidate)):
            return candidate, math.inf
        bound = self._bound(candidate)
        first = mean_size(bound.errors(bound.start))
        if not len(bound.start):
            return candidate, first
        options = bound.errors, bound.slopes, mean_size
        found, error = fit_in_stages(*options, bound.start, limit)
        if error == first:
            return candidate, first
        # Numbers are in the order of constants of all components together.
        together: Any = sympy.Tuple(*candidate)
        return tuple(with_constants(together, found)), error
