"""Pareto fronts of laws: rating, selection by score, refinement.

What makes the fronts of different engines comparable is done here: SymPy expressions,
our own complexity, mean absolute error in float64, score.
"""

import math
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.laws.expressions import (
    complexity,
    constants,
    evaluate,
    fit_constants,
    from_jax,
    to_numpy,
    with_slots,
)

Column = Float[np.ndarray, " sample"]


Columns = Mapping[str, Column]


class Law(NamedTuple):
    """One expression of a Pareto front."""

    expression: sympy.Expr
    """The law, of the features' names."""
    complexity: int
    """See `expressions.complexity`."""
    mae: float
    """Mean absolute error on the regression's samples, in the target's unit."""
    score: float
    """Fall of log(mae) per unit of complexity from the next simpler law; the first 0."""


class ParetoFront(NamedTuple):
    """The best law of each complexity, simplest first; errors fall strictly."""

    laws: tuple[Law, ...]
    seconds: float
    """Time of the search."""


class RegressionError(RuntimeError):
    """A search ended without a usable expression."""


def make_front(
    expressions: Iterable[sympy.Expr],
    features: Columns,
    target: Column,
    *,
    weight: Column | None = None,
    gain: float = 0.0,
    seconds: float = 0.0,
) -> ParetoFront:
    """The Pareto front of the given expressions on the given samples.

    Args:
        expressions: candidates; those that are not finite on some sample are dropped.
        features: columns `[sample]` by name.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors, or None for 1.
        gain: smallest relative fall of the error that earns a more complex law its
            place; without it, laws that differ by nothing that matters would make the
            steps between which the score is measured arbitrarily short.
        seconds: time of the search, kept in the result.

    Raises:
        RegressionError: no expression is usable.
    """
    rated = [_rate(one, features, target, weight) for one in set(expressions)]
    return _front(rated, gain, seconds)


def _rate(expression, features, target, weight):
    """Complexity, error and text of an expression, or None if it is not finite."""
    if expression.has(sympy.I, sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    # SymPy evaluates towers of exponentials to numbers that no float can hold.
    if any(abs(value) > 1e100 for value in expression.atoms(sympy.Float)):
        return None
    value = evaluate(expression, features)
    if not np.all(np.isfinite(value)):
        return None
    error = float(np.average(np.abs(value - target) * (1.0 if weight is None else weight)))
    return complexity(expression), error, str(expression), expression


def _front(rated, gain, seconds):
    """The Pareto front of what `_rate` gave."""
    laws: list[Law] = []
    rows = [row for row in rated if row is not None]
    for size, error, _, expression in sorted(rows, key=lambda row: row[:3]):
        score = 0.0
        if laws:
            if error >= (1 - gain) * laws[-1].mae or size == laws[-1].complexity:
                continue
            fall = math.log(laws[-1].mae / max(error, 1e-300))
            score = fall / (size - laws[-1].complexity)
        laws.append(Law(expression, size, error, score))
    if not laws:
        raise RegressionError("The search found no expression that is finite on all samples.")
    return ParetoFront(tuple(laws), seconds)


def select(front: ParetoFront) -> Law:
    """The law with the highest score (paper, section 3: the largest fall of log error)."""
    return max(front.laws, key=lambda law: law.score)


def refine(
    front: ParetoFront,
    features: Columns,
    target: Column,
    *,
    weight: Column | None = None,
    gain: float = 0.1,
    rounds: int = 8,
    most: int = 400,
) -> ParetoFront:
    """Look for simpler or better laws next to those of a front.

    Each law's constants are refitted (soft L1), and so are its variants with one
    term or factor left out, products written out or factors taken out, a function replaced
    by its first order, or constants by near integers; what is on the front of all of these
    is kept, and the same is done with the newcomers.

    Args:
        front: the front to start from.
        features: columns `[sample]` by name.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors, or None for 1.
        gain: as in `make_front`, for the front that is returned.
        rounds: how often, at most, newcomers are refined in turn.
        most: largest number of refits.
    """
    start = time.perf_counter()
    weight = np.ones_like(target) if weight is None else weight
    signs = [sympy.Symbol(name) for name, x in features.items() if np.all(np.abs(x) == 1)]
    found = {law.expression for law in front.laws}
    found |= {_without_sign_powers(expression, signs) for expression in found}
    rated = {expression: _rate(expression, features, target, weight) for expression in found}
    seen: set[sympy.Expr] = set()
    for _ in range(rounds):
        worth = _front(rated.values(), gain, 0.0)
        fresh = [law for law in worth.laws if law.expression not in seen]
        if not fresh or most <= 0:
            break
        for law in fresh:
            seen.add(law.expression)
            for variant in [*dict.fromkeys([law.expression, *_variants(law.expression)])][:most]:
                most -= 1
                plain = _without_sign_powers(variant, signs)
                fitted = _refit(plain, features, target, weight / max(law.mae, 1e-12))
                if fitted not in rated:
                    rated[fitted] = _rate(fitted, features, target, weight)
    return _front(rated.values(), gain, front.seconds + time.perf_counter() - start)


def _without_sign_powers(expression, signs):
    """The expression with x for 1 / x and 1 for x^2 where x is 1 or -1 in all samples."""
    if not signs:
        return expression
    plain = expression.replace(
        lambda node: node.is_Pow and node.base in signs and node.exp.is_Integer,
        lambda node: node.base if node.exp % 2 else sympy.Integer(1),
    )
    return expression if plain == expression else sympy.factor_terms(plain)


def _grows(node):
    if node.is_Pow:
        return not node.exp.is_number
    return isinstance(node, (sympy.exp, sympy.sinh, sympy.cosh))


def _is_tower(expression: sympy.Expr) -> bool:
    """Whether there is an exponential within an exponential."""
    outer = [node for node in sympy.preorder_traversal(expression) if _grows(node)]
    inside = (inner for node in outer for x in node.args for inner in sympy.preorder_traversal(x))
    return any(map(_grows, inside))


_SMOOTH = (sympy.exp, sympy.sin, sympy.tan, sympy.sinh, sympy.tanh)


def _first_order(node):
    """A function of a small argument, to first order."""
    x = sympy.Dummy()
    return node.func(0) + sympy.diff(node.func(x), x).subs(x, 0) * node.args[0]


def _variants(expression: sympy.Expr) -> list[sympy.Expr]:
    # With a variable left out, SymPy writes out a tower of numbers, which may take for ever.
    if _is_tower(expression):
        return []
    # The same law may be shorter with products written out, or with factors taken out.
    found = [sympy.expand_mul(expression), sympy.factor_terms(expression)]
    for node in sympy.preorder_traversal(expression):
        if node.is_Add or node.is_Mul:
            for k in range(len(node.args)):
                rest = node.func(*(node.args[:k] + node.args[k + 1 :]))
                found.append(expression.xreplace({node: rest}))
        if isinstance(node, _SMOOTH) and node.free_symbols:
            # A search that lacks a product may make one of exp(c x) - 1 with a small c.
            line = expression.xreplace({node: _first_order(node)})
            # Written out, terms may cancel; where they do not, it is longer.
            found += [line, sympy.factor_terms(sympy.expand_mul(line))]
    whole = {
        value: sympy.Integer(round(value))
        for value in constants(expression)
        if 0.5 < abs(value) < 100 and abs(value - round(value)) < 0.1
    }
    found += [expression.xreplace({value: integer}) for value, integer in whole.items()]
    if whole:
        found.append(expression.xreplace(whole))
        found += [sympy.factor_terms(variant) for variant in found[-len(whole) - 1 :]]
    bad = (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)
    return [variant for variant in dict.fromkeys(found) if not variant.has(*bad)]


def _refit(expression, features, target, weight):
    """The expression with its constants fitted to the samples, or as it is if that fails."""
    (free,), slots, old = with_slots([expression])
    if not old:
        return expression
    function = to_numpy(free, [*features, *slots])

    def residual(values):
        fixed = [np.full(len(target), value) for value in values]
        return (function(np.stack([*features.values(), *fixed], axis=-1)) - target) * weight

    start = np.asarray([float(value) for value in old])
    return from_jax(expression, fit_constants(residual, start, np.maximum(np.abs(start), 1e-3)))
