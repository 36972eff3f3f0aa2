"""SymPy expressions: as functions and back, complexity, constants, equivalence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import sympy
from jax.scipy import special
from jaxtyping import Array, Float
from scipy.optimize import least_squares

from symjax_gn.data.nodes import AnyArray

_FUNCTIONS = {
    sympy.exp: jnp.exp,
    sympy.log: jnp.log,
    sympy.sin: jnp.sin,
    sympy.cos: jnp.cos,
    sympy.tan: jnp.tan,
    sympy.asin: jnp.arcsin,
    sympy.acos: jnp.arccos,
    sympy.atan: jnp.arctan,
    sympy.sinh: jnp.sinh,
    sympy.cosh: jnp.cosh,
    sympy.tanh: jnp.tanh,
    sympy.asinh: jnp.arcsinh,
    sympy.acosh: jnp.arccosh,
    sympy.atanh: jnp.arctanh,
    sympy.Abs: jnp.abs,
    sympy.sign: jnp.sign,
    sympy.floor: jnp.floor,
    sympy.ceiling: jnp.ceil,
    sympy.Heaviside: jnp.heaviside,
    # What integrals of exponentials are written with.
    sympy.Ei: special.expi,
    sympy.erf: special.erf,
    sympy.erfc: special.erfc,
}


_INEQUALITIES = (sympy.Gt, sympy.Ge, sympy.Lt, sympy.Le)


def complexity(expression: Any) -> int:
    """Number of operators, variables and constants an expression is written with.

    The same count for every engine. Sums and products count one operator less than
    their terms; subtracting, dividing and negating cost no constant, so that `a - b`,
    `a / b` and `a * b` are 3 each, `2 * a` is 3 and `a**2` is 3.
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
    if expression.is_Pow and expression.base == sympy.E:
        return complexity(expression.exp) + 1
    return sum(map(complexity, expression.args)) + max(1, len(expression.args) - 1)


def _is_negative(term: Any) -> bool:
    return bool(term.is_Mul and term.args[0] == -1)


def _denominator(factor: Any) -> Any:
    """`x` for a factor `1 / x`, else None."""
    if isinstance(factor, sympy.Pow) and factor.exp.is_number and factor.exp.is_negative:
        return factor.base ** (-factor.exp)
    return None


def constants(expression: sympy.Expr) -> list[sympy.Float]:
    """The floating-point constants of an expression, in a fixed order, each one once."""
    found = dict.fromkeys(
        node for node in sympy.preorder_traversal(expression) if isinstance(node, sympy.Float)
    )
    return list(found)


def with_heaviside(expression: Any) -> Any:
    """The expression with its conditions (`Piecewise`, `x > y`) written as Heaviside steps."""

    def indicator(condition):
        if condition in (True, False):
            return sympy.Integer(bool(condition))
        if isinstance(condition, sympy.And):
            return sympy.Mul(*map(indicator, condition.args))
        if isinstance(condition, sympy.Or):
            return 1 - sympy.Mul(*(1 - indicator(part) for part in condition.args))
        if isinstance(condition, sympy.Not):
            return 1 - indicator(condition.args[0])
        return sympy.Heaviside(condition.gts - condition.lts)

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
    """
    _check_variables(expression, names)
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
            base, exponent = node.args
            if base == sympy.E:
                return jnp.exp(arguments[1])
            if exponent.is_Integer:
                return arguments[0] ** int(exponent)
            return arguments[0] ** arguments[1]
        return _FUNCTIONS[node.func](*arguments)

    def function(parameters, features):
        value = value_of(expression, parameters, features)
        return jnp.broadcast_to(value, features.shape[:-1])

    return function, jnp.asarray([float(value) for value in values])


def unknown_functions(expression: sympy.Expr) -> list[str]:
    """Names of the functions in an expression that `to_jax` does not know."""
    return [
        node.func.__name__
        for node in sympy.preorder_traversal(expression)
        if not (node.is_Atom or node.is_Add or node.is_Mul or node.is_Pow)
        and node.func not in _FUNCTIONS
    ]


def _check_variables(expression, names):
    unknown = sorted(str(s) for s in expression.free_symbols if str(s) not in names)
    if unknown:
        raise ValueError(f"The expression has the variables {unknown}, not among {list(names)}.")


def from_jax(expression: sympy.Expr, parameters: Float[AnyArray, " constant"]) -> Any:
    """The expression with other values of its constants: the way back from `to_jax`.

    Raises:
        ValueError: the number of constants is not that of the expression.
    """
    old = constants(expression)
    if len(old) != len(parameters):
        raise ValueError(f"The expression has {len(old)} constants, got {len(parameters)}.")
    new = {value: sympy.Float(float(p)) for value, p in zip(old, parameters, strict=True)}
    return expression.xreplace(new)


def to_numpy(expression: sympy.Expr, names: Sequence[str]) -> Callable[..., np.ndarray]:
    """A NumPy function `fn(features)` of columns `[..., variable]`, float64; NaN if complex.

    Raises:
        ValueError: the expression has other variables.
    """
    _check_variables(expression, names)
    symbols = [sympy.Symbol(name) for name in names]
    function = sympy.lambdify(symbols, expression, ["numpy", "scipy"])

    def call(features):
        features = np.asarray(features, np.float64)
        with np.errstate(all="ignore"):
            value = np.asarray(function(*np.moveaxis(features, -1, 0)))
        if np.iscomplexobj(value):
            value = np.where(np.imag(value) == 0, np.real(value), np.nan)
        return np.broadcast_to(value.astype(np.float64), features.shape[:-1])

    return call


def evaluate(expression: sympy.Expr, columns: Mapping[str, Float[AnyArray, "*batch"]]) -> Any:
    """Values `[...]` of an expression on columns `[...]` by name, float64; NaN if complex.

    Raises:
        ValueError: the expression has other variables.
    """
    return to_numpy(expression, list(columns))(np.stack(list(columns.values()), axis=-1))


def with_slots(
    expressions: Sequence[sympy.Expr],
) -> tuple[list[sympy.Expr], list[str], list[sympy.Float]]:
    """Expressions with a variable in place of each constant; the variables, the constants."""
    old = list(dict.fromkeys(value for one in expressions for value in constants(one)))
    slots = sympy.symbols(f"_c:{len(old)}")
    new = dict(zip(old, slots, strict=True))
    free: list[Any] = [one.xreplace(new) for one in expressions]
    return free, [str(slot) for slot in slots], old


def fit_constants(
    residual: Callable[[np.ndarray], np.ndarray],
    start: Float[np.ndarray, " constant"],
    size: Float[np.ndarray, " constant"],
    *,
    f_scale: float = 1.0,
    most: float = 1e10,
    steps: int = 15,
) -> Float[np.ndarray, " constant"]:
    """Constants for which the residuals are least (soft L1), or the first ones if that fails.

    Args:
        residual: errors `[...]` of given constants; those that are not finite, or larger
            than `most`, count as `most`.
        start: constants to start from.
        size: typical sizes of the constants: steps are shares of these, for the constants
            of a law in SI units may be far smaller than any fixed step.
        f_scale: errors that are larger count less than by their squares.
        most: see above.
        steps: most evaluations, but for those of derivatives.
    """

    def errors(shares):
        found = residual(size * shares).ravel()
        return np.clip(np.nan_to_num(found, nan=most), -most, most)

    options: Any = dict(loss="soft_l1", f_scale=f_scale, max_nfev=steps)
    try:
        with np.errstate(all="ignore"):
            return size * least_squares(errors, start / size, **options).x
    except (ValueError, np.linalg.LinAlgError):
        return start


def equivalent(
    first: sympy.Expr,
    second: sympy.Expr,
    names: Sequence[str],
    features: Float[np.ndarray, "sample variable"],
    tolerance: float = 1e-5,
) -> bool:
    """Whether two expressions agree on given samples, relative to their largest value."""
    a, b = (to_numpy(expression, names)(features) for expression in (first, second))
    return bool(np.all(np.abs(a - b) <= tolerance * np.max(np.abs(a))))


def rounded(expression: sympy.Expr, digits: int = 4) -> Any:
    """The expression with its constants rounded to so many significant digits, to be read."""
    return expression.xreplace(
        {value: sympy.Float(f"{float(value):.{digits}g}") for value in constants(expression)}
    )
