"""What laws of sums are fitted to: targets, with formulas in the place of all factors or one."""

import math
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float
from scipy import sparse

from symjax_gn.discovery.composition import Composition, Frozen, formulas
from symjax_gn.discovery.objective import Interval, interval
from symjax_gn.discovery.separation import SplineLaw
from symjax_gn.discovery.summed import Summed
from symjax_gn.laws.expressions import with_constants
from symjax_gn.laws.fitting import fit_in_stages, standard_errors
from symjax_gn.laws.fronts import is_usable
from symjax_gn.laws.refinement import Candidate

# Places that stand for values of a variable, evenly spread, and quantiles.
_PLACES = 1000

# Shares of their sums that other owners may be sent.
_SHARES = (0.5, 1.5)


class OnTargets:
    """Laws of factors against targets; see `refinement.Objective`."""

    def __init__(self, splines: SplineLaw, data: Summed, free: int | None = None):
        """Prepare.

        Args:
            splines: says which factors there are.
            data: what laws are fitted to.
            free: the number of the one factor that candidates hold, where splines stand for
                all others; None: they hold all factors.
        """
        self._message, self._update, self._free = splines.message, splines.update, free
        self._data, self._known = data, []
        if free is None:
            return
        sent = sum(map(len, splines.message))
        self._known = [Frozen(curve.values, curve.slopes) for curve in splines.curves[sent:]]
        self._message, self._data = _only(splines, data, free)
        self._free = max(0, free - sent)

    def _composed(self, candidate) -> tuple[Composition, np.ndarray]:
        found, start = formulas(candidate)
        shapes: list[Any] = list(found)
        if self._free is not None:
            shapes = list(self._known)
            if self._message:
                shapes.insert(0, found[0])
            else:
                shapes[self._free] = found[0]
        return Composition(self._message, self._update, shapes, self._data), start

    def errors(self, candidate: Candidate) -> Float[np.ndarray, " owner"]:
        """Errors of owners over the typical target."""
        composition, start = self._composed(candidate)
        found = np.abs(composition.errors(start))
        return np.where(np.isfinite(found), found, np.inf)

    def is_defined(self, candidate: Candidate) -> bool:
        """Whether a law says something of owners that are sent half as much, or half more."""
        composition, start = self._composed(candidate)
        reached = [composition.predict(start, share) for share in _SHARES]
        return bool(np.all(np.isfinite(reached)))

    def intervals(self, candidate: Candidate) -> tuple[Interval, ...]:
        """The constants of a fitted candidate with their intervals."""
        composition, found = self._composed(candidate)
        if not len(found):
            return ()
        reached = composition.errors(found), composition.slopes(found)
        return tuple(map(interval, found, standard_errors(*reached)))

    def fit(self, candidate: Candidate, limit: float = math.inf) -> tuple[Candidate, float]:
        """See `Objective.fit`."""
        if not all(map(is_usable, candidate)):
            return candidate, math.inf
        composition, start = self._composed(candidate)

        def mean_error(residual):
            mean = float(np.mean(np.abs(residual)))
            return mean if math.isfinite(mean) else math.inf

        first = mean_error(composition.errors(start))
        if not len(start):
            return candidate, first
        options = composition.errors, composition.slopes, mean_error
        found, error = fit_in_stages(*options, start, limit)
        if error == first:
            return candidate, first
        # Slots are in the order of constants of all components together.
        together: Any = sympy.Tuple(*candidate)
        return tuple(with_constants(together, found)), error


def _only(splines: SplineLaw, data: Summed, free: int) -> tuple[list[Any], Summed]:
    """The message as one factor, and data in which all else that is added is summed.

    What others multiply each value of the factor's variable with is spread over the nearest two
    of some places, so that the factor need be known there only. Of a factor of the update the
    whole message is known.
    """
    known, message = np.zeros(len(data.target)), []
    matrix, elements, first = data.matrix, {}, 0
    for term in splines.message:
        curves = splines.curves[first : first + len(term)]
        values = [c.values(data.elements[name]) for name, c in zip(term, curves, strict=True)]
        place = free - first
        first += len(term)
        if not 0 <= place < len(term):
            known += data.matrix @ np.prod(values, axis=0)
            continue
        x = data.elements[term[place]]
        share = np.linspace(0, 1, _PLACES)
        even = np.min(x) + share * np.ptp(x)
        places = np.unique(np.concatenate([np.quantile(x, share), even]))
        left = np.clip(np.searchsorted(places, x) - 1, 0, len(places) - 2)
        part = (x - places[left]) / (places[left + 1] - places[left])
        rest = np.prod(values[:place] + values[place + 1 :], axis=0) * np.ones(len(x))
        rows = np.tile(np.arange(len(x)), 2)
        spread = sparse.csr_array(
            (np.concatenate([rest * (1 - part), rest * part]), (rows, np.append(left, left + 1))),
            shape=(len(x), len(places)),
        )
        matrix = (matrix @ spread).toarray()
        message, elements = [(term[place],)], {term[place]: places}
    return message, data._replace(elements=elements, matrix=matrix, known=known)
