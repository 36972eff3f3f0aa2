"""Rules that make neighbours of a law: each takes an expression and gives other ones.

Of a law with several components the expression is a function of them, so that what they
have in common changes together.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sympy

from symjax_gn.laws.expressions import constants
from symjax_gn.laws.fronts import LARGEST_CONSTANT

Rule = Callable[[sympy.Expr], Iterable[sympy.Expr]]

# Constants within 0.1 of a whole number below 100 are tried as that number; not as 0, for
# which there is a rule of its own, and not beyond, where everything is near to one.
_NEAR, _SMALLEST_WHOLE, _LARGEST_WHOLE = 0.1, 0.5, 100.0

# Constants that differ by less than this share are tried as one.
_ALIKE = 0.5

# SymPy writes whole powers of numbers out.
_LARGEST_POWER = 1000


def substituted(expression: sympy.Expr, new: Mapping[Any, Any]) -> Any:
    """The expression with some parts replaced; NaN where that makes numbers that no float is.

    SymPy writes numbers out: where an exponential loses its variable, one that holds it would
    get a number with a thousand million digits, and take for ever. Where powers lose their
    variable, they may be complex, which steps refuse.

    >>> r = sympy.Symbol("r")
    >>> substituted(sympy.exp(-3.0 * sympy.exp(1e10 * r)), {r: sympy.Integer(1)})
    nan
    >>> substituted(sympy.Heaviside((r - 2) ** 1.5 - r), {r: sympy.Integer(1)})
    nan
    """
    try:
        return _substituted(expression, new)
    except ArithmeticError:
        return sympy.nan


def _substituted(node: Any, new: Mapping[Any, Any]) -> Any:
    if node in new:
        return new[node]
    old = node.args
    parts = [_substituted(part, new) for part in old]
    if all(part is one for part, one in zip(parts, old, strict=True)):
        return node
    if node.is_Pow and parts[1].is_Rational and abs(parts[1]) > _LARGEST_POWER:
        raise ArithmeticError
    made = node.func(*parts)
    if made is sympy.nan or (made.is_Number and not abs(made) < LARGEST_CONSTANT):
        raise ArithmeticError
    if made.is_number and made.is_extended_real is False:
        raise ArithmeticError
    return made


def _grows(node: Any) -> bool:
    if node.is_Pow:
        return not node.exp.is_number
    return isinstance(node, (sympy.exp, sympy.sinh, sympy.cosh))


def _is_tower(expression: Any) -> bool:
    """Whether there is an exponential within an exponential."""
    outer = [node for node in sympy.preorder_traversal(expression) if _grows(node)]
    inside = (inner for node in outer for x in node.args for inner in sympy.preorder_traversal(x))
    return any(map(_grows, inside))


def _nodes(expression: Any) -> Iterator[Any]:
    return iter(dict.fromkeys(sympy.preorder_traversal(expression)))


def left_out(expression: sympy.Expr) -> Iterator[Any]:
    """With one term or factor left out.

    >>> r, q = sympy.symbols("r q")
    >>> list(left_out(q * r))
    [r, q]
    """
    for node in _nodes(expression):
        if node.is_Add or node.is_Mul:
            for k in range(len(node.args)):
                rest = node.func(*(node.args[:k] + node.args[k + 1 :]))
                yield substituted(expression, {node: rest})


def written_out(expression: sympy.Expr) -> Iterator[Any]:
    """With products of sums written out, which may be shorter.

    >>> r, q = sympy.symbols("r q")
    >>> list(written_out(r * (1 + q / r)))
    [q + r]
    """
    if not _is_tower(expression):
        yield sympy.expand_mul(expression)


def factored(expression: sympy.Expr) -> Iterator[Any]:
    """With common factors taken out, which may be shorter.

    >>> r, q = sympy.symbols("r q")
    >>> list(factored(q * r + r))
    [r*(q + 1)]
    """
    if not _is_tower(expression):
        yield sympy.factor_terms(expression)


def under_one_bar(expression: sympy.Expr) -> Iterator[Any]:
    """With powers beside the inverse of a sum taken into the sum.

    >>> r, q = sympy.symbols("r q")
    >>> list(under_one_bar(3.0 * q**2 / (1 - q**2 / r**2)))
    [3.0/(-1/r**2 + q**(-2))]
    """
    for node in _nodes(expression):
        if not node.is_Mul:
            continue
        for below in node.args:
            if below.is_Pow and below.base.is_Add and below.exp == -1:
                number, beside = (node / below).as_coeff_Mul()
                inside = sympy.Add(*(term / beside for term in below.base.args))
                yield substituted(expression, {node: number / inside})


def one_power(expression: sympy.Expr) -> Iterator[Any]:
    """With a power of a power written as one.

    >>> list(one_power((sympy.Symbol("r") ** 2) ** 0.25))
    [r**0.5]
    """
    for node in _nodes(expression):
        if node.is_Pow and node.base.is_Pow:
            one = node.base.base ** (node.base.exp * node.exp)
            yield substituted(expression, {node: one})


def monic(expression: sympy.Expr) -> Iterator[Any]:
    """With one sum divided by the constant of one of its terms: a factor may swallow that.

    >>> r, q = sympy.symbols("r q")
    >>> list(monic(q / (2.0 * r + 3.0)))[-1]
    0.5*q/(r + 1.5)
    """
    for node in _nodes(expression):
        if not node.is_Add:
            continue
        for term in node.args:
            number, _ = term.as_coeff_Mul()
            if number.is_Float and number != 0:
                rest = sympy.Add(*(over(one, number) for one in node.args))
                whole = sympy.Mul(number, rest, evaluate=False)
                yield substituted(expression, {node: whole})


def over(term: Any, divisor: Any) -> Any:
    """The term over the divisor, with no constant where they have the same.

    >>> over(2.5 * sympy.Symbol("r"), sympy.Float(2.5))
    r
    """
    number, rest = term.as_coeff_Mul()
    if abs(number) == abs(divisor):
        return sympy.Integer(1 if number == divisor else -1) * rest
    return number / divisor * rest


_SMOOTH = (sympy.exp, sympy.sin, sympy.tan, sympy.sinh, sympy.tanh)


def first_order(expression: sympy.Expr) -> Iterator[Any]:
    """With one function of a small argument to first order.

    A search that lacks a product may make one of exp(c x) - 1 with a small c.

    >>> list(first_order(sympy.sin(0.5 * sympy.Symbol("r"))))[0]
    0.5*r
    """
    for node in _nodes(expression):
        if isinstance(node, _SMOOTH) and node.free_symbols:
            x = sympy.Dummy()
            line = node.func(0) + sympy.diff(node.func(x), x).subs(x, 0) * node.args[0]
            changed = substituted(expression, {node: line})
            yield changed
            # Written out, terms may cancel; where they do not, it is longer.
            for plain in written_out(changed):
                yield from factored(plain)


def near_integer(expression: sympy.Expr) -> Iterator[Any]:
    """With one constant, or all of them, replaced by the whole number next to it.

    In an exponent that may be half of a whole number.

    >>> list(near_integer(1.98 * sympy.Symbol("r") ** 1.51))
    [2*r**1.51, 1.98*r**(3/2), 2*r**(3/2)]
    """
    exponents = {node.exp for node in expression.atoms(sympy.Pow)}
    plain = {}
    for value in constants(expression):
        for parts in (1, 2) if value in exponents else (1,):
            near = abs(parts * value - round(parts * value)) < _NEAR
            if (
                near
                and value not in plain
                and _SMALLEST_WHOLE < abs(value * parts) < _LARGEST_WHOLE
            ):
                plain[value] = sympy.Rational(round(parts * value), parts)
    found = [substituted(expression, {value: number}) for value, number in plain.items()]
    if len(plain) > 1:
        found.append(substituted(expression, plain))
    for variant in found:
        yield variant
        for other in factored(variant):
            if other != variant:
                yield other


def zero(expression: sympy.Expr) -> Iterator[Any]:
    """With one constant 0.

    >>> list(zero(sympy.Symbol("q") * sympy.exp(0.1 * sympy.Symbol("r"))))
    [q]
    """
    for value in constants(expression):
        yield substituted(expression, {value: sympy.Integer(0)})


def shared(expression: sympy.Expr) -> Iterator[Any]:
    """With one constant in the place of another that is near to it.

    >>> r = sympy.Symbol("r")
    >>> list(shared((r + 0.25) ** 3 * (r + 0.34) ** 4))
    [(r + 0.295)**7]
    """
    values = sorted(constants(expression))
    for low, high in itertools.pairwise(values):
        if high - low < _ALIKE * min(abs(low), abs(high)):
            middle = sympy.Float((low + high) / 2)
            yield substituted(expression, {low: middle, high: middle})


# Functions whose integrals, over the slope of a linear argument, are of their kind.
_INTEGRALS = {sympy.exp: sympy.exp, sympy.sin: lambda x: -sympy.cos(x), sympy.cos: sympy.sin}


def as_slope(expression: sympy.Expr) -> Iterator[Any]:
    """With the slope of a product in the place of the largest part of it.

    Forces are slopes of potentials, which are often simpler: what is nearly -sin(c r) g(r) may be
    the slope of cos(c r) g(r) / c.

    >>> r = sympy.Symbol("r")
    >>> list(as_slope(sympy.exp(2 * r) / r))
    [exp(2*r)/r - exp(2*r)/(2*r**2)]
    """
    for node in _nodes(expression):
        for factor in node.args if node.is_Mul else ():
            integral = _INTEGRALS.get(factor.func)
            if integral is None or len(factor.free_symbols) != 1:
                continue
            (x,), rest = factor.free_symbols, node / factor
            rate = sympy.diff(factor.args[0], x)
            if rate.is_number and rest.has(x):
                slope = sympy.diff(integral(factor.args[0]) * rest / rate, x)
                yield substituted(expression, {node: slope})


# What search fronts are refined with.
RULES: dict[str, Rule] = {
    "slope": as_slope,
    "written out": written_out,
    "factored": factored,
    "left out": left_out,
    "one power": one_power,
    "monic": monic,
    "first order": first_order,
    "near integer": near_integer,
    "zero": zero,
    "shared": shared,
}


def softened(name: str, start: float) -> Rule:
    """A rule that puts `r + c` or `sqrt(r**2 + c**2)` (Plummer) in the place of a distance.

    Args:
        name: the distance.
        start: c to start from, in the unit of the distance.

    >>> list(softened("r", 0.01)(1 / sympy.Symbol("r")))
    [1/(r + 0.01), 1/sqrt(r**2 + 0.0001)]
    """
    r, c = sympy.Symbol(name), sympy.Float(start)

    def rule(expression):
        if expression.has(r):
            for distance in (r + c, sympy.sqrt(r**2 + c**2)):
                yield substituted(expression, {r: distance})

    return rule


def sign_powers(names: Iterable[str]) -> Callable[[sympy.Expr], Any]:
    """A form to `tidy` laws to: x for 1 / x, and 1 for x^2, of columns that are all 1 or -1.

    >>> q, r = sympy.symbols("q r")
    >>> sign_powers(["q"])(r / q + r * q**2)
    r*(q + 1)
    """
    signs = [sympy.Symbol(name) for name in names]

    def tidy(expression):
        plain = {
            node: node.base if node.exp % 2 else sympy.Integer(1)
            for node in expression.atoms(sympy.Pow)
            if node.base in signs and node.exp.is_Integer
        }
        if not plain:
            return expression
        changed = substituted(expression, plain)
        return next(factored(changed), changed)

    return tidy
