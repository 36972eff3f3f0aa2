"""Formulas in the place of kernels, against accelerations: errors, fits, intervals."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.discovery.bodies import Bodies
from symjax_gn.discovery.terms import Term, components, values
from symjax_gn.laws.expressions import constants, with_constants
from symjax_gn.laws.fitting import fit_in_stages, standard_errors
from symjax_gn.laws.fronts import is_usable
from symjax_gn.laws.refinement import Candidate
from symjax_gn.laws.tapes import Tape

# 95% of a normal distribution are within so many standard errors.
_NORMAL = 1.96


class Interval(NamedTuple):
    """A constant of a law, and where it is to be found in 19 of 20 cases."""

    value: float
    low: float
    high: float


def interval(value: float, error: float) -> Interval:
    """That of a normal distribution with this standard error."""
    return Interval(float(value), float(value - _NORMAL * error), float(value + _NORMAL * error))


class OnKernels:
    """Laws of kernels against accelerations; see `refinement.Objective`."""

    def __init__(self, terms: Sequence[Term], bodies: Bodies):
        """Prepare what does not depend on the laws."""
        self._bodies = bodies
        self._ways, self._variables = [], []
        for term in terms:
            columns = bodies.pairs if term.pair else bodies.nodes
            factor = values(term.coupling, columns)
            self._ways.append(factor[:, None] * components(term.vector, columns))
            variable = term.vector.variable
            self._variables.append(
                np.zeros(len(factor)) if variable is None else values(variable, columns)
            )
        self._terms = terms

    def _summed(self, k, each):
        """Accelerations `[node, dim, ...]` of what each pair or body adds."""
        bodies = self._bodies
        found = []
        for way in self._ways[k].T:
            part = each * (way[:, None] if each.ndim > 1 else way)
            if self._terms[k].pair:
                found.append(bodies.sums @ part)
            else:
                found.append(part * (bodies.inverse[:, None] if part.ndim > 1 else bodies.inverse))
        return np.stack(found, axis=1)

    def errors(self, candidate: Candidate) -> Float[np.ndarray, " node"]:
        """Relative errors `[node]` of bodies whose acceleration is known."""
        residual, *_ = self._functions(candidate, [])
        with np.errstate(all="ignore"):
            found = np.linalg.norm(residual(np.zeros(0)), axis=1)[self._bodies.weight > 0]
        return np.where(np.isfinite(found), found, np.inf)

    def _functions(self, candidate, old):
        bodies = self._bodies
        weight = bodies.weight[:, None]
        bound = [
            Tape([law], ["r"], old).bind([x])
            for law, x in zip(candidate, self._variables, strict=True)
        ]

        def residual(numbers):
            total = -bodies.target
            with np.errstate(all="ignore"):
                for k, tape in enumerate(bound):
                    value = np.broadcast_to(tape.values(numbers)[0], self._variables[k].shape)
                    total = total + self._summed(k, value)
                return total * weight

        def slopes(numbers):
            total: Any = 0.0
            with np.errstate(all="ignore"):
                for k, tape in enumerate(bound):
                    total = total + self._summed(k, tape.slopes(numbers)[0])
                return (total * weight[..., None]).reshape(-1, len(old))

        return residual, slopes

    def intervals(self, candidate: Candidate) -> tuple[Interval, ...]:
        """The constants of a fitted candidate with their intervals."""
        together: Any = sympy.Tuple(*candidate)
        old = constants(together)
        if not old:
            return ()
        residual, slopes = self._functions(candidate, old)
        found = np.asarray([float(value) for value in old])
        spread = standard_errors(residual(found).reshape(-1), slopes(found))
        return tuple(map(interval, found, spread))

    def mean_error(self, residual: Float[np.ndarray, "node dim"]) -> float:
        """What laws are rated by."""
        with np.errstate(all="ignore"):
            length = np.linalg.norm(residual, axis=1)
        mean = np.sum(length) / max(1, np.count_nonzero(self._bodies.weight))
        return float(mean) if math.isfinite(mean) else math.inf

    def fit(self, candidate: Candidate, limit: float = math.inf) -> tuple[Candidate, float]:
        """See `Objective.fit`."""
        if not all(map(is_usable, candidate)):
            return candidate, math.inf
        together: Any = sympy.Tuple(*candidate)
        old = constants(together)
        residual, slopes = self._functions(candidate, old)
        start = np.asarray([float(value) for value in old])
        first = self.mean_error(residual(start))
        if not old:
            return candidate, first
        found, error = fit_in_stages(residual, slopes, self.mean_error, start, limit)
        if error == first:
            return candidate, first
        return tuple(with_constants(together, found)), error
