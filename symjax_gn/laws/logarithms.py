"""Fit laws of positive quantities by their logarithm, where no exponential overflows."""

import math
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.laws.expressions import evaluate, with_constants, with_slots
from symjax_gn.laws.fitting import fit_in_stages, standard_errors
from symjax_gn.laws.fronts import Column, Columns, is_usable, weighted_error
from symjax_gn.laws.refinement import Candidate
from symjax_gn.laws.tapes import Tape


def log_magnitude(expression: Any, columns: Columns) -> Any:
    """An expression of log|x| that holds no number that is much larger than log|x| itself.

    The logarithm of a product is written as a sum. From a sum that holds exponentials the one
    that is largest on the columns is taken out.

    Args:
        expression: x.
        columns: values `[sample]` of its variables.

    >>> s = sympy.Symbol("s")
    >>> log_magnitude(s * (sympy.exp(s) - 1), {"s": np.array([1.0, 5000.0])})
    s + log(Abs(s)) + log(Abs(1 - exp(-s)))
    """
    if expression.is_Mul:
        return sympy.Add(*(log_magnitude(factor, columns) for factor in expression.args))
    if isinstance(expression, sympy.exp):
        return expression.args[0]
    if expression.is_Pow:
        return expression.exp * log_magnitude(expression.base, columns)
    if expression.is_Add:
        powers = {node.args[0] for term in expression.args for node in term.atoms(sympy.exp)}
        tops = [(float(np.max(evaluate(one, columns))), str(one), one) for one in powers]
        top = max(tops, key=lambda row: row[:2], default=(0.0, "", sympy.Integer(0)))
        if top[0] > 0:
            rest = sympy.Add(*(term * sympy.exp(-top[2]) for term in expression.args))
            return top[2] + sympy.log(sympy.Abs(rest))
    return sympy.log(sympy.Abs(expression))


def _sign(expression: Any, columns: Columns) -> Any:
    """Signs `[sample]`, also where a factor is beyond floats."""
    if expression.is_Mul:
        return math.prod(_sign(factor, columns) for factor in expression.args)
    if isinstance(expression, sympy.exp):
        return 1.0
    if expression.is_Pow:
        sign = _sign(expression.base, columns)
        return sign ** abs(int(expression.exp)) if expression.exp.is_Integer else sign
    with np.errstate(all="ignore"):
        return np.sign(evaluate(expression, columns))


class TableObjective:
    """Laws against samples, as they stand or by their logarithm; see `refinement.Objective`.

    >>> s = np.linspace(1.0, 2000.0, 50)
    >>> objective = TableObjective({"s": s}, s + np.log1p(-np.exp(-s)), log=True)
    >>> (law,), error = objective.fit((sympy.exp(0.9 * sympy.Symbol("s")) - 1,))
    >>> bool(error < 1e-6)
    True
    """

    def __init__(
        self, features: Columns, target: Column, *, log: bool, weight: Column | None = None
    ):
        """Prepare.

        Args:
            features: columns `[sample]` by name.
            target: `[sample]`.
            log: whether the target is the logarithm of what laws give.
            weight: `[sample]`, factors of the errors, or None for 1.
        """
        self._features, self._target, self._log = features, target, log
        self._weight = np.ones(len(target)) if weight is None else weight

    def _functions(self, law: sympy.Expr) -> tuple[Any, Any, Float[np.ndarray, " constant"]]:
        """Residual and slopes as functions of the constants, and the constants."""
        (free,), slots, old = with_slots([law])
        start = np.asarray([float(value) for value in old])
        if self._log:
            size = len(self._target)
            known = {name: np.full(size, x) for name, x in zip(slots, start, strict=True)}
            free = log_magnitude(free, {**self._features, **known})
        tape = Tape([free], list(self._features), slots).bind(list(self._features.values()))

        def residual(values):
            return (tape.values(values)[0] - self._target) * self._weight

        def slopes(values):
            return tape.slopes(values)[0] * self._weight[:, None]

        return residual, slopes, start

    def _is_allowed(self, law: sympy.Expr) -> Any:
        """Whether a law has a logarithm `[sample]`, where it needs one."""
        return not self._log or _sign(law, self._features) > 0

    def fit(self, candidate: Candidate, limit: float = math.inf) -> tuple[Candidate, float]:
        """See `Objective.fit`."""
        (law,) = candidate
        if not is_usable(law):
            return candidate, math.inf
        with np.errstate(all="ignore"):
            residual, slopes, start = self._functions(law)
            error = weighted_error(residual(start))
            if len(start):
                best, found = fit_in_stages(residual, slopes, weighted_error, start, limit)
                law, error = (with_constants(law, best), found) if found < error else (law, error)
        if self._log and np.all(_sign(law, self._features) < 0):
            # Logarithms of magnitudes do not tell a law from its negative.
            law = -law
        return (law,), error if np.all(self._is_allowed(law)) else math.inf

    def errors(self, law: sympy.Expr) -> Float[np.ndarray, " sample"]:
        """Absolute errors x weight `[sample]`; infinite where a law has no value."""
        residual, _, start = self._functions(law)
        found = np.abs(residual(start))
        return np.where(np.isfinite(found) & self._is_allowed(law), found, np.inf)

    def uncertainties(self, law: sympy.Expr) -> Float[np.ndarray, " constant"]:
        """Standard errors of the constants, as shares of these; infinite if there are none."""
        residual, slopes, start = self._functions(law)
        if not len(start):
            return start
        with np.errstate(all="ignore"):
            errors, steep = residual(start), slopes(start)
            if not (np.all(np.isfinite(errors)) and np.all(np.isfinite(steep))):
                return np.full(len(start), np.inf)
            shares = standard_errors(errors, steep) / np.abs(start)
        return np.where(np.isfinite(shares), shares, np.inf)
