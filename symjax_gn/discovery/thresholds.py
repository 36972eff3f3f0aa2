"""Where the terms of a law end, or jump, as plain numbers."""

import numpy as np
import sympy

from symjax_gn.discovery.objective import OnFormulas
from symjax_gn.discovery.selection import as_good
from symjax_gn.laws.expressions import constants, values
from symjax_gn.laws.law import Law, candidate_of
from symjax_gn.laws.samples import Samples

# Thresholds are moved by such a share at most, looked for at so many places at a time, and
# written with fewer digits than these where errors grow by no more than such a factor.
_MOVED, _PLACES, _DIGITS, _PLAIN_ERROR = 0.02, 9, 8, 1.05


def with_plain_thresholds(law: Law, train: Samples, valid: Samples) -> Law:
    """The law whose steps are where all data say, at the plainest number there.

    Terms were compared on fewer samples, with splines. The error changes only as a threshold
    passes an element: between the two where it is least all numbers are as good, and beyond
    them those that are not significantly worse.

    Args:
        law: its factors are formulas; steps are in its couplings.
        train: samples whose targets they were fitted to.
        valid: other samples.
    """
    found = [one for term in law.message for one in term.coupling.atoms(sympy.Heaviside)]
    # Both sides of a jump have one threshold.
    thresholds = {old: step for step in found for old in constants(step)}
    for old, step in thresholds.items():
        law = _at_plain_place(law, step, old, train, valid)
    return law


def _at_plain_place(law, step, old, train, valid):
    """The law with one threshold moved."""
    place = sympy.Dummy()
    variable = (place - step.args[0].xreplace({old: place})).expand()
    if variable.has(place):
        variable = (place + step.args[0].xreplace({old: place})).expand()
    if variable.has(place):
        return law
    x = np.concatenate([values(variable, one.elements) for one in (train, valid)])
    near = np.unique(x[np.abs(x - float(old)) < _MOVED * abs(float(old))])
    if len(near) < 2:
        return law
    candidate = candidate_of(law)

    def moved(number):
        new = {old: sympy.Float(number)}
        message = (term._replace(coupling=term.coupling.xreplace(new)) for term in law.message)
        return law._replace(message=tuple(message))

    def errors(number):
        several = (OnFormulas(moved(number), one) for one in (train, valid))
        return np.concatenate([one.errors(candidate) for one in several])

    between = 0.5 * (near[1:] + near[:-1])
    low, high = 0, len(between) - 1
    while True:
        tried = np.unique(np.linspace(low, high, _PLACES).astype(int))
        k = int(np.argmin([np.mean(errors(between[n])) for n in tried]))
        low, high = tried[max(k - 1, 0)], tried[min(k + 1, len(tried) - 1)]
        if high - low <= 2:
            break
    best = tried[k]
    found = errors(between[best])
    for digits in range(1, _DIGITS):
        plain = float(f"{between[best]:.{digits}g}")
        if near[best] < plain < near[best + 1]:
            break
        trial = errors(plain)
        if np.mean(trial) <= _PLAIN_ERROR * np.mean(found) and as_good(trial, found, 1.0):
            break
    else:
        plain = float(between[best])
    return moved(plain)
