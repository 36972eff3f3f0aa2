"""Constants of laws as plain numbers, where their intervals hold one and other data do not mind."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.discovery.objective import Interval
from symjax_gn.discovery.selection import as_good
from symjax_gn.laws.budgets import Budget
from symjax_gn.laws.expressions import complexity, constants
from symjax_gn.laws.fronts import is_usable
from symjax_gn.laws.refinement import Candidate
from symjax_gn.laws.rules import left_out, one_power, substituted

# Parts of a law that change its errors by less, or by less than this share, change nothing.
_NOTHING, _LITTLE = 1e-7, 1e-3

# Fractions that are offered have one of these below; numbers nearer than this share are one.
_PARTS, _FLOAT32 = (1, 2, 3, 4, 5), 1e-6


class WithIntervals(Protocol):
    """What laws are fitted to."""

    def fit(self, candidate: Candidate, limit: float = math.inf) -> tuple[Candidate, float]:
        """See `refinement.Objective.fit`."""
        ...

    def intervals(self, candidate: Candidate) -> tuple[Interval, ...]:
        """The constants of a fitted candidate with their intervals."""
        ...


def with_plain_numbers(
    laws: Candidate,
    objective: WithIntervals,
    held_out: Callable[[Candidate], Float[np.ndarray, " sample"]],
    budget: Budget | None = None,
) -> Candidate:
    """Laws whose constants are plain numbers where the data allow, without what changes nothing.

    A constant is offered as 0, a simple fraction or a multiple of pi / 2 if that is within its
    95% interval. The others are fitted again, and held-out data say whether the offer is taken.

    Args:
        laws: one law or several, of which constants are fitted together.
        objective: what they are fitted to.
        held_out: errors of laws on other data.
        budget: after which nothing is offered.
    """
    candidate, _ = objective.fit(tuple(map(_in_short, laws)))
    errors = held_out(candidate)
    if not as_good(errors, held_out(laws), 1.0):
        candidate, errors = laws, held_out(laws)
    candidate = _without_needless(candidate, errors, held_out)
    errors = first = held_out(candidate)
    refused: set[Any] = set()
    budget = budget or Budget()
    while not budget.is_spent:
        together: Any = sympy.Tuple(*candidate)
        offers = (
            (old, plain)
            for old, interval in zip(
                constants(together), objective.intervals(candidate), strict=True
            )
            for plain in _plain(interval)
            if (old, plain) not in refused
        )
        offer = next(offers, None)
        if offer is None:
            break
        # What is no number then has no parts, and no error.
        offered = tuple(map(_in_short, substituted(together, dict([offer])).args))
        budget.spend()
        trial, error = objective.fit(offered) if offered else (offered, math.inf)
        found = held_out(trial) if math.isfinite(error) else np.full(1, np.inf)
        # Many small rises are a large one.
        if np.all(np.isfinite(found)) and all(as_good(found, one, 1.0) for one in (errors, first)):
            candidate, errors = trial, found
            refused.clear()
        else:
            refused.add(offer)
    return candidate


def _without_needless(candidate, errors, held_out):
    """Laws without the terms and factors that change no error."""
    limit = max(_NOTHING, _LITTLE * float(np.mean(errors)))
    for k, law in enumerate(candidate):
        for one in left_out(law):
            if not is_usable(one) or complexity(one) >= complexity(law):
                continue
            trial = (*candidate[:k], one, *candidate[k + 1 :])
            if np.mean(np.abs(held_out(trial) - errors)) <= limit:
                return _without_needless(trial, errors, held_out)
    return candidate


def _in_short(law: Any) -> Any:
    """The law of a positive variable with no power of a power."""
    return next(map(_in_short, one_power(law)), law)


def _plain(interval: Interval) -> Iterator[Any]:
    """Plain numbers in an interval: 0, the simplest other fraction, a multiple of pi / 2."""
    least = _FLOAT32 * abs(interval.value)

    def within(number):
        return interval.low - least <= float(number) <= interval.high + least

    fractions = (sympy.Rational(round(interval.value * n), n) for n in _PARTS)
    fraction = next((number for number in fractions if number != 0 and within(number)), None)
    turns = round(interval.value / (0.5 * math.pi)) * sympy.pi / 2
    for number in dict.fromkeys([sympy.Integer(0), fraction, turns]):
        if number is not None and within(number):
            yield number
