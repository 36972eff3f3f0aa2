"""Further terms of laws of sums: products that explain what the others leave of the targets.

Messages of a network show the terms that matter most to it. The rest are looked for without it.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from symjax_gn.discovery.separation import (
    FIRST,
    SplineLaw,
    Term,
    fit_law,
    knots_of,
    refined,
    straight_line,
)
from symjax_gn.laws.samples import Samples, some_owners
from symjax_gn.laws.shapes import Spline

# The error must fall by this share with each.
_GAIN = 0.02

# Terms are tried on so many owners; the best ones of them on all, and others not again once
# there is another term.
_OWNERS, _TRIED, _AGAIN = 800, 3, 12

# Of more terms than these, only those are tried with a variable that is there.
_MOST = 50


def grown(
    law: SplineLaw,
    names: Sequence[str],
    train: Samples,
    valid: Samples,
    pieces: int,
    as_good: Callable[[np.ndarray, np.ndarray], bool],
) -> SplineLaw:
    """The law with further terms of one or two variables, as long as each lowers its error.

    Args:
        law: what is known.
        names: variables of elements.
        train: what is fitted.
        valid: other data, by which terms are taken.
        pieces: of splines.
        as_good: says of errors `[owner]` whether they are as small as others.
    """
    few, out = some_owners(train, _OWNERS), set()
    while True:
        terms = [term for term in _further(law.message, names) if term not in out]
        near = {term: _longer(law, term, few, valid, pieces).error for term in terms}
        ranked = sorted(terms, key=lambda term: near[term])
        out |= {*ranked[_AGAIN:]}
        trials = [_longer(law, term, train, valid, pieces) for term in ranked[:_TRIED]]
        best = min(trials, key=lambda trial: trial.error, default=law)
        if best.error > (1 - _GAIN) * law.error or as_good(law.errors, best.errors):
            return law
        law = best


def _further(message: Sequence[Term], names) -> list[Term]:
    """Terms that are not there; what receivers know of themselves need not be sent."""
    terms = [
        term
        for term in itertools.chain(*(itertools.combinations(names, count) for count in (1, 2)))
        if not all(name.endswith("_i") for name in term)
        and {*term} not in [{*one} for one in message]
    ]
    present = {*itertools.chain(*message)}
    return terms if len(terms) <= _MOST else [term for term in terms if present & {*term}]


def _longer(law, term, train, valid, pieces) -> SplineLaw:
    """The law with another term, fitted from one that is 0.

    Products of functions with and without a change of sign are far apart.
    """
    count = sum(map(len, law.message))
    trials = []
    for changes in (False, True)[: len(term)]:
        factors = []
        for name in term:
            knots = knots_of(train.elements[name], FIRST)
            parts = np.zeros(len(knots) - 4) if name == term[0] else np.ones(len(knots) - 4)
            if changes and name != term[0]:
                parts = straight_line(knots, train.elements[name])
            factors.append(Spline(knots, parts))
        factors = refined([term], factors, train.elements, pieces)
        message, curves = [*law.message, term], [*law.curves[:count], *factors]
        trials.append(fit_law(message, curves, law.update, train, valid, pieces))
    return min(trials, key=lambda trial: trial.error)
