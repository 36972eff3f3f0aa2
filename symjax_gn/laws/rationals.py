"""Laws of one variable as quotients of sums of a few whole powers.

Times its denominator a quotient is linear in all coefficients: they come from linear least
squares, weighted anew by the denominator before, for every choice of a few powers.
"""

import itertools

import numpy as np
import sympy

from symjax_gn.laws.fronts import Column

_R = sympy.Symbol("r")

# Powers above and below, and how many of them at most and at least.
_ABOVE, _BELOW, _MOST, _LEAST_BELOW = range(4), range(5), 3, 2

# Rounds of weights, and quotients that are offered of each number of coefficients.
_ROUNDS, _OFFERED = 4, 3


def _powers():
    """Powers above and below, without a common factor of r."""
    above = [c for n in range(1, _MOST + 1) for c in itertools.combinations(_ABOVE, n)]
    below = [c for n in range(_LEAST_BELOW, _MOST + 1) for c in itertools.combinations(_BELOW, n)]
    return [(a, b) for a in above for b in below if 0 in a or 0 in b]


def search_rationals(x: Column, target: Column, weight: Column) -> list[tuple[float, sympy.Expr]]:
    """Quotients that are near to samples, with their mean weighted errors, the best first.

    Quotients with a pole among the samples are left out.

    Args:
        x: `[sample]`, the variable, in a unit in which it is about 1.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors.

    >>> x = np.linspace(0.2, 4.0, 200)
    >>> found = search_rationals(x, (x**2 - 1.2) / (1 + x**3), np.ones(200))
    >>> found[0][0] < 1e-10
    True
    """
    columns = {k: x**k for k in {*_ABOVE, *_BELOW}}
    found: dict[int, list[tuple[float, sympy.Expr]]] = {}
    for above, below in _powers():
        over = np.stack([columns[k] for k in above], axis=1)
        under = np.stack([columns[k] for k in below], axis=1)
        numbers = _fitted(over, under, target, weight)
        if numbers is None:
            continue
        top, bottom = np.split(numbers, [len(above)])
        error = np.mean(np.abs((over @ top) / (under @ bottom) - target) * weight)
        law = _sum(above, top) / _sum(below, bottom)
        found.setdefault(len(numbers), []).append((float(error), law))
    best = [sorted(rows, key=lambda row: row[0])[:_OFFERED] for rows in found.values()]
    return sorted(itertools.chain(*best), key=lambda row: row[0])


def _fitted(over, under, target, weight):
    """Factors of powers above and below, of which the last is 1; None if there is a pole."""
    known = target * under[:, -1]
    design = np.concatenate([over, -target[:, None] * under[:, :-1]], axis=1)
    numbers, bottom = np.zeros(0), np.ones_like(target)
    for _ in range(_ROUNDS):
        factor = weight / np.abs(bottom)
        numbers = np.linalg.lstsq(design * factor[:, None], known * factor, rcond=None)[0]
        bottom = under @ np.append(numbers[over.shape[1] :], 1.0)
        if np.min(bottom) * np.max(bottom) <= 0:
            return None
    return np.append(numbers, 1.0)


def _sum(powers, numbers):
    """A sum of powers of r; a factor of 1 is not written."""
    terms = zip(powers, numbers, strict=False)
    return sympy.Add(*(_R**k * (1 if c == 1 else sympy.Float(c)) for k, c in terms))
