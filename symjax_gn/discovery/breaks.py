"""Functions that jump, or end, somewhere: two splines that meet at a threshold."""

from collections.abc import Iterator

import numpy as np
import sympy

from symjax_gn.discovery.acceptance import Known, State, is_coarse
from symjax_gn.discovery.terms import PIECES
from symjax_gn.laws.law import Law
from symjax_gn.laws.shapes import Grid

# Thresholds that are tried at first and then around the best one, how often it is looked more
# closely, and quantiles that are not beyond.
_PLACES, _AROUND, _ZOOMS, _SEEN = 30, 7, 7, (0.04, 0.96)

# A threshold is rounded if it moves by less than the first share, and the error grows by no
# more than the second factor.
_PLAIN, _PLAIN_ERROR = 1e-3, 1.05


def broken(state: State, known: Known) -> Iterator[Law]:
    """With two functions in the place of one, below a threshold of its variable and above.

    A function that is smooth on both sides of a threshold is not as a whole, and no grid is fine
    enough for it. The threshold for which two splines err least is taken.
    """
    if not is_coarse(state, known.fits):
        return
    for k, term in enumerate(state.law.message):
        grid = term.factors[0].shape
        if term.coupling.has(sympy.Heaviside) or not isinstance(grid, Grid) or not grid.pieces:
            continue

        def law(place, k=k):
            return _halved(state.law, k, place)

        def error(place, law=law):
            return known.fits(law(place)).error

        x = known.fits.felt(term, term.factors[0].variable, True)
        places = np.quantile(x, np.linspace(*_SEEN, _PLACES))
        errors = [error(place) for place in places]
        n = int(np.argmin(errors))
        for _ in range(_ZOOMS):
            low, high = places[max(n - 1, 0)], places[min(n + 1, len(places) - 1)]
            places = np.linspace(low, high, _AROUND)
            errors = [error(place) for place in places]
            n = int(np.argmin(errors))
        yield law(_rounded(float(places[n]), errors[n], error))


def _rounded(place, least, error):
    """A threshold of few digits, if it is about as good."""
    for digits in (2, 3, 4):
        plain = float(f"{place:.{digits}g}")
        if abs(plain - place) < _PLAIN * abs(place) and error(plain) <= _PLAIN_ERROR * least:
            return plain
    return place


def _halved(law, k, place) -> Law:
    """The law with its k-th term of the message below a threshold of its variable, and above."""
    term = law.message[k]
    first, *rest = term.factors
    gap = first.variable - sympy.Float(place)
    halves = [
        term._replace(
            coupling=term.coupling * sympy.Heaviside(side),
            factors=(first._replace(shape=Grid(PIECES)), *rest),
        )
        for side in (-gap, gap)
    ]
    return law._replace(message=(*law.message[:k], *halves, *law.message[k + 1 :]))
