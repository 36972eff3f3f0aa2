"""SymPy expressions: their complexity, their constants, and as functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.border import checked
from symjax_gn.laws.tapes import FUNCTIONS, SPECIAL, Tape

if TYPE_CHECKING:
    # Worker processes of a search need no JAX, which takes a second to import.
    from jax import Array

    from symjax_gn.data.nodes import AnyArray

_STRICT = (sympy.Gt, sympy.Lt)
_INEQUALITIES = (*_STRICT, sympy.Ge, sympy.Le)


def complexity(expression: Any) -> int:
    """Number of operators, variables and constants an expression is written with.

    The same count for every engine. Sums and products count one operator less than
    their terms; subtracting, dividing and negating cost no constant, so that `a - b`,
    `a / b` and `a * b` are 3 each, `2 * a` is 3 and `a**2` is 3.

    >>> m, r = sympy.symbols("m r")
    >>> complexity(2.0 * m / r - 1)
    7
    """
    if expression.is_Atom:
        return 1
    if expression.is_Add:
        terms = [-term if _is_negative(term) else term for term in expression.args]
        extra = all(map(_is_negative, expression.args))
        return sum(map(complexity, terms)) + len(terms) - 1 + extra
    if expression.is_Mul:
        factors = [_denominator(factor) or factor for factor in expression.args]
        if expression.args[0] == -1:
            # -(r + 1) x is (-1 - r) x: a sum with a constant or a difference takes the sign.
            sums = [term for factor in factors if factor.is_Add for term in factor.args]
            free = any(term.is_number or _is_negative(term) for term in sums)
            return complexity(-expression) + (not free)
        extra = all(_denominator(factor) for factor in expression.args)
        return sum(map(complexity, factors)) + len(factors) - 1 + 2 * extra
    denominator = _denominator(expression)
    if denominator is not None:
        return complexity(denominator) + 2
    if expression.is_Pow and expression.exp == sympy.Rational(1, 2):
        return complexity(expression.base) + 1
    if isinstance(expression, sympy.Heaviside):
        return complexity(expression.args[0]) + 1
    return sum(map(complexity, expression.args)) + max(1, len(expression.args) - 1)


def _is_negative(term: Any) -> bool:
    return bool(term.is_Mul and term.args[0] == -1)


def _denominator(factor: Any) -> Any:
    """`x` for a factor `1 / x`, else None."""
    if isinstance(factor, sympy.Pow) and factor.exp.is_number and factor.exp.is_negative:
        return factor.base ** (-factor.exp)
    return None


def constants(expression: sympy.Expr) -> list[sympy.Float]:
    """The floating-point constants of an expression, in a fixed order, each one once.

    >>> r = sympy.Symbol("r")
    >>> [float(value) for value in sorted(constants(2.5 * r**2 - 0.5))]
    [-0.5, 2.5]
    """
    found = dict.fromkeys(
        node for node in sympy.preorder_traversal(expression) if isinstance(node, sympy.Float)
    )
    return list(found)


def with_constants(expression: sympy.Expr, values: Float[AnyArray, " constant"]) -> Any:
    """The expression with other values of its constants, in the order of `constants`.

    >>> with_constants(2.5 * sympy.Symbol("r"), [3.0])
    3.0*r

    Raises:
        ValueError: the number of constants is not that of the expression.
    """
    old = constants(expression)
    if len(old) != len(values):
        raise ValueError(f"The expression has {len(old)} constants, got {len(values)}.")
    new = {value: sympy.Float(float(p)) for value, p in zip(old, values, strict=True)}
    return expression.xreplace(new)


def with_slots(
    expressions: Sequence[sympy.Expr],
) -> tuple[list[sympy.Expr], list[str], list[sympy.Float]]:
    """Expressions with a variable in place of each constant; the variables, the constants.

    Equal constants share one variable, also between expressions.

    >>> with_slots([2.5 * sympy.Symbol("r")])
    ([_c0*r], ['_c0'], [2.50000000000000])
    """
    old = list(dict.fromkeys(value for one in expressions for value in constants(one)))
    slots = sympy.symbols(f"_c:{len(old)}")
    new = dict(zip(old, slots, strict=True))
    free: list[Any] = [one.xreplace(new) for one in expressions]
    return free, [str(slot) for slot in slots], old


def rounded(expression: sympy.Expr, digits: int = 4) -> Any:
    """The expression with its constants rounded to so many significant digits, to be read.

    >>> rounded(1.23456 * sympy.Symbol("r"))
    1.235*r
    """
    return expression.xreplace(
        {value: sympy.Float(f"{float(value):.{digits}g}") for value in constants(expression)}
    )


def with_exponentials(expression: sympy.Expr) -> Any:
    """The expression with powers of numbers written as exponentials.

    >>> r = sympy.Symbol("r")
    >>> rounded(with_exponentials(2.0 * 0.25 ** (-0.5 * r)))
    2.0*exp(0.6931*r)
    """
    return expression.replace(
        lambda one: one.is_Pow and one.base.is_number and one.base > 0 and not one.exp.is_number,
        lambda one: sympy.exp(sympy.log(one.base).evalf() * one.exp),
    )


def with_heaviside(expression: Any) -> Any:
    """The expression with its conditions (`Piecewise`, `x > y`) written as Heaviside steps.

    At the step itself they are what the condition is there: 0 for `x > y`, 1 for `x >= y`.

    >>> r = sympy.Symbol("r")
    >>> with_heaviside(sympy.Piecewise((r, r > 2), (0, True)))
    r*Heaviside(r - 2, 0)
    """
    step: Any = sympy.Heaviside

    def indicator(condition):
        if condition in (True, False):
            return sympy.Integer(bool(condition))
        if isinstance(condition, sympy.And):
            return sympy.Mul(*map(indicator, condition.args))
        if isinstance(condition, sympy.Or):
            return 1 - sympy.Mul(*(1 - indicator(part) for part in condition.args))
        if isinstance(condition, sympy.Not):
            return 1 - indicator(condition.args[0])
        at_step = 0 if type(condition) in _STRICT else 1
        return step(condition.gts - condition.lts, at_step)

    def steps(pieces):
        total, left = sympy.Integer(0), sympy.Integer(1)
        for value, condition in pieces:
            here = left * indicator(condition)
            total += here * (sympy.Integer(int(value)) if value in (0.0, 1.0) else value)
            left -= here
        return total

    return expression.replace(
        lambda node: isinstance(node, sympy.Piecewise), lambda node: steps(node.args)
    ).replace(lambda node: isinstance(node, _INEQUALITIES), indicator)


@checked
def to_jax(
    expression: sympy.Expr, names: Sequence[str]
) -> tuple[Callable[..., Array], Float[Array, " constant"]]:
    """A JAX function of an expression, with its constants as trainable parameters.

    Args:
        expression: any expression of the named variables.
        names: names of the variables, in the order of the function's last axis.

    Returns:
        `fn(constants, features)` with features `[..., variable]`, and the values of
        the constants `[constant]`; integers and fractions are part of the function.

    Raises:
        ValueError: the expression has other variables or a function that is not known.

    >>> function, values = to_jax(2.5 * sympy.Symbol("r"), ["r"])
    >>> [float(force) for force in function(values, np.array([[1.0], [2.0]]))]
    [2.5, 5.0]
    """
    import jax.numpy as jnp
    from jax.scipy import special

    check_variables(expression, names)
    values = constants(expression)
    index = {value: k for k, value in enumerate(values)}
    unknown = unknown_functions(expression)
    if unknown:
        raise ValueError(f"{unknown[0]} in {expression} has no JAX counterpart.")

    def value_of(node, parameters, features):
        if isinstance(node, sympy.Float):
            return parameters[index[node]]
        if node.is_Symbol:
            return features[..., names.index(str(node))]
        if node.is_Atom:
            return float(node)
        arguments = [value_of(argument, parameters, features) for argument in node.args]
        if node.is_Add:
            return sum(arguments[1:], arguments[0])
        if node.is_Mul:
            product = arguments[0]
            for argument in arguments[1:]:
                product = product * argument
            return product
        if node.is_Pow:
            if node.exp.is_Integer:
                return arguments[0] ** int(node.exp)
            return arguments[0] ** arguments[1]
        name = FUNCTIONS[node.func]
        return getattr(special if name in SPECIAL else jnp, name)(*arguments)

    def function(parameters, features):
        value = value_of(expression, parameters, features)
        return jnp.broadcast_to(value, features.shape[:-1])

    return function, jnp.asarray([float(value) for value in values])


def unknown_functions(expression: sympy.Expr) -> list[str]:
    """Names of the functions in an expression that `to_jax` does not know.

    >>> unknown_functions(sympy.gamma(sympy.Symbol("r")))
    ['gamma']
    """
    return [
        node.func.__name__
        for node in sympy.preorder_traversal(expression)
        if not (node.is_Atom or node.is_Add or node.is_Mul or node.is_Pow)
        and node.func not in FUNCTIONS
    ]


def check_variables(expression: sympy.Expr, names: Sequence[str]) -> None:
    """Raise a `ValueError` that lists the variables of an expression which have no name here.

    >>> check_variables(sympy.Symbol("s"), ["r"])
    Traceback (most recent call last):
    ValueError: The expression has the variables ['s'], not among ['r'].
    """
    unknown = sorted(str(s) for s in expression.free_symbols if str(s) not in names)
    if unknown:
        raise ValueError(f"The expression has the variables {unknown}, not among {list(names)}.")


# The same terms are evaluated again and again, and to compile takes longer than to run.
@lru_cache(maxsize=4096)
def _tape(expression: sympy.Expr, names: tuple[str, ...]) -> Tape:
    check_variables(expression, names)
    return Tape([expression], names)


@checked
def to_numpy(expression: sympy.Expr, names: Sequence[str]) -> Callable[..., np.ndarray]:
    """A NumPy function `fn(features)` of columns `[..., variable]`, float64; NaN if complex.

    Raises:
        ValueError: the expression has other variables.

    >>> to_numpy(2 * sympy.Symbol("r"), ["r"])([[1.0], [2.0]])
    array([2., 4.])
    """
    tape = _tape(expression, tuple(names))

    def call(features):
        features = np.asarray(features, np.float64)
        (value,) = tape.bind(list(np.moveaxis(features, -1, 0))).values(())
        return np.broadcast_to(value, features.shape[:-1])

    return call


def evaluate(expression: sympy.Expr, columns: Mapping[str, Float[AnyArray, "*batch"]]) -> Any:
    """Values `[...]` of an expression on columns `[...]` by name, float64; NaN if complex.

    Raises:
        ValueError: the expression has other variables.

    >>> evaluate(2 * sympy.Symbol("r"), {"r": np.array([1.0, 2.0])})
    array([2., 4.])
    """
    return to_numpy(expression, list(columns))(np.stack(list(columns.values()), axis=-1))


def values(
    expression: Any, columns: Mapping[str, Float[np.ndarray, " sample"]]
) -> Float[np.ndarray, " sample"]:
    """Values `[sample]` of an expression, also of one without variables.

    >>> values(sympy.Integer(2), {"r": np.zeros(3)})
    array([2., 2., 2.])
    """
    used = {str(symbol): columns[str(symbol)] for symbol in expression.free_symbols}
    if not used:
        count = len(next(iter(columns.values())))
        return np.full(count, float(expression))
    return evaluate(expression, used)


def equivalent(
    first: sympy.Expr,
    second: sympy.Expr,
    names: Sequence[str],
    features: Float[np.ndarray, "sample variable"],
    tolerance: float = 1e-5,
) -> bool:
    """Whether two expressions agree on given samples, relative to their largest value.

    >>> r = sympy.Symbol("r")
    >>> equivalent(r * (r + 1), r**2 + r, ["r"], np.array([[1.0], [2.0]]))
    True
    """
    a, b = (to_numpy(expression, names)(features) for expression in (first, second))
    return bool(np.all(np.abs(a - b) <= tolerance * np.max(np.abs(a))))
