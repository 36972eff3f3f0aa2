"""Expressions as text, with as few parentheses as the grammar of laws needs."""

import math
from typing import Any

import sympy

from symjax_gn.data.names import is_variable
from symjax_gn.laws.tapes import FUNCTIONS

# Functions in lower case, but for Ei.
WRITTEN = {head: head.__name__ if head is sympy.Ei else head.__name__.lower() for head in FUNCTIONS}


def check_name(name: str) -> None:
    """Raise a `ValueError` unless a variable can be written with this name and read back.

    >>> check_name("m_i")
    """
    if not is_variable(name):
        raise ValueError(
            f"A law cannot be written with the variable {name!r}: letters, digits and _ make a "
            "name, which is no function or number of laws and no word of Python. Rename it."
        )


_SUM, _PRODUCT, _POWER, _ATOM = range(4)


class Writer:
    """Writes expressions with as few parentheses as the grammar needs."""

    def text(self, expression: sympy.Expr) -> str:
        """The text of an expression."""
        return self._write(expression, _SUM)

    def symbol(self, name: str) -> str:
        """A variable."""
        check_name(name)
        return name

    def whole(self, number: int) -> str:
        """A whole number that is not negative."""
        return str(number)

    def constant(self, number: Any) -> str:
        """A number with a name of its own."""
        if number == sympy.pi:
            return "pi"
        if number == sympy.E:
            return "exp(1)"
        raise ValueError(f"A law cannot be written with {number}: it needs finite real numbers.")

    def call(self, head: Any, arguments: list[str]) -> str:
        """A function of written arguments; `head` is a class of SymPy's or `sympy.sqrt`."""
        return f"{WRITTEN.get(head, 'sqrt')}({', '.join(arguments)})"

    def _write(self, node: Any, least: int) -> str:
        text, strength = self._parts(node)
        return text if strength >= least else f"({text})"

    def _parts(self, node: Any) -> tuple[str, int]:
        if node.is_Symbol:
            return self.symbol(str(node)), _ATOM
        if node.is_Number and node.is_finite:
            return self._number(node)
        if node.is_Atom:
            return self.constant(node), _ATOM
        if node.is_Add:
            terms = node.as_ordered_terms()
            return self._joined([self._write(term, _PRODUCT) for term in terms]), _SUM
        if node.is_Mul:
            return self._product(node)
        if node.is_Pow:
            if node.exp.is_Rational and node.exp.is_negative:
                return f"1/{self._power(node.base, -node.exp)}", _PRODUCT
            return self._power(node.base, node.exp), (
                _ATOM if node.exp == sympy.Rational(1, 2) else _POWER
            )
        if node.func not in FUNCTIONS:
            raise ValueError(f"A law cannot be written with the function {node.func.__name__}.")
        arguments = node.args
        if isinstance(node, sympy.Heaviside) and arguments[1] == sympy.Rational(1, 2):
            arguments = arguments[:1]
        return self.call(node.func, [self._write(argument, _SUM) for argument in arguments]), _ATOM

    def _joined(self, terms: list[str]) -> str:
        text = terms[0]
        for term in terms[1:]:
            text += f" - {term[1:]}" if term.startswith("-") else f" + {term}"
        return text

    def _number(self, number: Any) -> tuple[str, int]:
        sign = "-" if number < 0 else ""
        strength = _PRODUCT if sign else _ATOM
        if number.is_Float:
            value = abs(float(number))
            if not math.isfinite(value) or (value == 0 and not number.is_zero):
                raise ValueError(f"A law cannot be written with {number}: no float64 holds it.")
            return f"{sign}{value!r}", strength
        size = abs(number)
        if size.q == 1:
            return f"{sign}{self.whole(int(size))}", strength
        return f"{sign}{self.whole(int(size.p))}/{self.whole(int(size.q))}", _PRODUCT

    def _product(self, node: Any) -> tuple[str, int]:
        number, *rest = node.args if node.args[0].is_Number else (sympy.Integer(1), *node.args)
        sign = "-" if number < 0 else ""
        number = abs(number)
        above, below = [], []
        for factor in rest:
            if factor.is_Pow and factor.exp.is_Rational and factor.exp.is_negative:
                below.append(self._power(factor.base, -factor.exp))
            else:
                above.append(self._write(factor, _POWER))
        if number.is_Rational:
            if number.q != 1:
                below.insert(0, self.whole(int(number.q)))
            if number.p != 1:
                above.insert(0, self.whole(int(number.p)))
        elif number.is_finite:
            above.insert(0, self._number(number)[0])
        else:
            above.insert(0, self.constant(number))
        text = "*".join(above) or "1"
        if below:
            text += f"/{below[0]}" if len(below) == 1 else f"/({'*'.join(below)})"
        return sign + text, _PRODUCT

    def _power(self, base: Any, exponent: Any) -> str:
        if exponent == 1:
            return self._write(base, _POWER)
        if exponent == sympy.Rational(1, 2):
            return self.call(sympy.sqrt, [self._write(base, _SUM)])
        return f"{self._write(base, _ATOM)}**{self._write(exponent, _ATOM)}"
