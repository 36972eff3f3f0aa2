"""Laws as text and back, by a grammar of their own: nothing that is read is ever run.

    sum      = product (("+" | "-") product)*
    product  = signed (("*" | "/") signed)*
    signed   = ("+" | "-")* power
    power    = atom (("**" | "^") signed)?
    atom     = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"

Whole numbers and fractions of them are exact; a decimal point or an exponent makes a
float64, which keeps every bit on the way to text and back.
"""

import difflib
import keyword
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy

from symjax_gn.data.border import checked
from symjax_gn.laws.tapes import FUNCTIONS, Tape
from symjax_gn.laws.writing import WRITTEN, Writer

# Laws that people read have some hundred characters and ten levels. SymPy itself recurses
# too deep on 90 nested steps, and takes a minute over 100,000 characters.
_LONGEST = 10_000
_DEEPEST = 32

# SymPy writes whole powers of numbers out: (2 x)^(10^9) would fill the memory.
_LARGEST_EXPONENT = 1000
_MOST_BITS = 4096

# SymPy's own spellings of functions, and `ceil`, are read as well.
_BY_NAME: dict[str, Any] = {name: head for head, name in WRITTEN.items()}
_CHOICES = sorted(("sqrt", *_BY_NAME))
_BY_NAME |= {head.__name__: head for head in FUNCTIONS} | {"ceil": sympy.ceiling}
_FUNCTION_NAMES = ("sqrt", *_BY_NAME)

# What SymPy computes at once from an exact number, with as many digits as that takes.
_STEPPING: tuple[Any, ...] = (sympy.Abs, sympy.sign, sympy.floor, sympy.ceiling, sympy.Heaviside)

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>\*\*|[-+*/^(),]))",
    re.ASCII,
)


@checked
def parse_expression(text: str, names: Iterable[str] | None = None) -> sympy.Expr:
    """The expression that a text stands for.

    Args:
        text: e.g. `"m_i*m_j/(r + 0.01)**2"`; `^` is another way to write `**`.
        names: variables that may be used; None allows any. `pi` is the number unless it
            is among them.

    Raises:
        ValueError: the text is no expression, or holds a variable, function or number that
            is not allowed; one line with the column and what was expected.

    >>> parse_expression("2.5*(r - 1/2)/r^2")
    2.5*(r - 1/2)/r**2
    >>> parse_expression("2.5*(r - 1")
    Traceback (most recent call last):
    ValueError: Cannot read the law '2.5*(r - 1': column 11: expected ")", got the end.
    """
    return _Reader(text, None if names is None else list(names)).read()


class _Value(NamedTuple):
    """A part of the expression, and its number if it holds no variable."""

    node: Any
    number: float | None


class _Reader:
    """A recursive descent through one text."""

    def __init__(self, text: str, names: Sequence[str] | None):
        self.text, self.names = text, names
        self.depth = 0
        if len(text) > _LONGEST:
            raise self.error(_LONGEST, f"a law of at most {_LONGEST} characters")
        self.tokens: list[tuple[str, str, int]] = []
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None:
                place += len(text[place:]) - len(text[place:].lstrip())
                raise self.error(place, "a number, a name or an operator", repr(text[place]))
            kind = str(found.lastgroup)
            self.tokens.append((kind, found[kind], found.start(kind)))
            place = found.end()
        self.tokens.append(("end", "", len(text.rstrip())))
        self.next = 0

    def error(self, place: int, expected: str, got: str = "") -> ValueError:
        text = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        got = f", got {got}" if got else ""
        return ValueError(
            f"Cannot read the law {text!r}: column {place + 1}: expected {expected}{got}."
        )

    def unexpected(self, expected: str) -> ValueError:
        kind, token, place = self.tokens[self.next]
        return self.error(place, expected, "the end" if kind == "end" else repr(token))

    def peek(self, *signs: str) -> bool:
        kind, token, _ = self.tokens[self.next]
        return kind == "sign" and token in signs

    def take(self) -> tuple[str, str, int]:
        self.next += 1
        return self.tokens[self.next - 1]

    def expect(self, sign: str) -> None:
        if not self.peek(sign):
            raise self.unexpected(f'"{sign}"')
        self.next += 1

    def read(self) -> Any:
        node = self.sum().node
        if self.tokens[self.next][0] != "end":
            raise self.unexpected("an operator or the end")
        return node

    def sum(self) -> _Value:
        place = self.tokens[self.next][2]
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error(place, f"at most {_DEEPEST} levels of parentheses and powers")
        terms = [self.product(1)]
        while self.peek("+", "-"):
            terms.append(self.product(-1 if self.take()[1] == "-" else 1))
        self.depth -= 1
        if len(terms) == 1:
            return terms[0]
        numbers = [term.number for term in terms if term.number is not None]
        number = sum(numbers) if len(numbers) == len(terms) else None
        return self.made(place, sympy.Add(*(term.node for term in terms)), number)

    def product(self, sign: int) -> _Value:
        place = self.tokens[self.next][2]
        above, below = [], []
        side = above
        while True:
            more, value = self.signed()
            sign *= more
            if side is below and value.number == 0:
                raise self.error(place, "a divisor that is not 0")
            side.append(value)
            if not self.peek("*", "/"):
                break
            side = above if self.take()[1] == "*" else below
        if len(above) == 1 and not below and sign == 1:
            return above[0]
        number = float(sign)
        for value in above:
            number = math.nan if value.number is None else number * value.number
        for value in below:
            number = math.nan if value.number is None else number / value.number
        factors = [value.node for value in above]
        factors += [
            self.power(place, value, _Value(sympy.Integer(-1), -1.0)).node for value in below
        ]
        known = all(value.number is not None for value in (*above, *below))
        zero = any(value.number == 0 for value in above)
        if known:
            self.check_number(place, number, may_vanish=zero)
        if sum(_bits(factor) for factor in factors if factor.is_Rational) > 2 * _MOST_BITS:
            raise self.error(place, "a number with fewer digits: write it with a decimal point")
        node = _multiply([sympy.Integer(sign), *factors])
        return self.made(place, node, number if known else None, may_vanish=zero)

    def signed(self) -> tuple[int, _Value]:
        sign = 1
        while self.peek("+", "-"):
            sign *= -1 if self.take()[1] == "-" else 1
        place = self.tokens[self.next][2]
        base = self.atom()
        if not self.peek("**", "^"):
            return sign, base
        self.next += 1
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error(place, f"at most {_DEEPEST} levels of parentheses and powers")
        more, exponent = self.signed()
        self.depth -= 1
        if more < 0:
            number = None if exponent.number is None else -exponent.number
            exponent = _Value(_multiply([sympy.Integer(-1), exponent.node]), number)
        return sign, self.power(place, base, exponent)

    def power(self, place: int, base: _Value, exponent: _Value) -> _Value:
        if exponent.number is not None and abs(exponent.number) > _LARGEST_EXPONENT:
            raise self.error(place, f"an exponent of at most {_LARGEST_EXPONENT}")
        if base.node == sympy.E:
            return self.call(place, sympy.exp, [exponent])
        number = None
        if base.number is not None and exponent.number is not None:
            with np.errstate(all="ignore"):
                number = float(np.power(base.number, exponent.number))
            self.check_number(place, number, may_vanish=base.number == 0)
            exact = base.node.is_Rational and exponent.node.is_Rational
            if exact and _bits(base.node) * abs(exponent.number) > _MOST_BITS:
                raise self.error(place, "a power with fewer digits: write it with a decimal point")
        zero = base.number == 0
        return self.made(place, sympy.Pow(base.node, exponent.node), number, may_vanish=zero)

    def atom(self) -> _Value:
        kind, token, place = self.tokens[self.next]
        if kind == "number":
            self.next += 1
            return self.number(token, place)
        if kind == "name":
            self.next += 1
            return self.named(token, place)
        if not self.peek("("):
            raise self.unexpected('a number, a name or "("')
        self.next += 1
        value = self.sum()
        self.expect(")")
        return value

    def number(self, token: str, place: int) -> _Value:
        number = float(token)
        digits = token.lower().split("e")[0]
        self.check_number(place, number, may_vanish=not digits.strip("0."))
        exact = token.isdigit()
        return _Value(sympy.Integer(int(token)) if exact else sympy.Float(number), number)

    def named(self, token: str, place: int) -> _Value:
        listed = self.names is not None and token in self.names
        if self.peek("("):
            if token not in _FUNCTION_NAMES:
                raise self.error(place, "a function", _with_near(token, _CHOICES))
            return self.function(token, place)
        if not listed and token == "pi":
            return _Value(sympy.pi, math.pi)
        if not listed and token in _FUNCTION_NAMES:
            raise self.unexpected(f'"(" after {token}')
        if self.names is not None and not listed:
            raise self.error(place, "a variable", _with_near(token, self.names))
        if not listed and keyword.iskeyword(token):
            raise self.error(place, "a variable", f"Python's word {token!r}")
        return _Value(sympy.Symbol(token), None)

    def function(self, name: str, place: int) -> _Value:
        self.expect("(")
        arguments = [self.sum()]
        while self.peek(","):
            self.next += 1
            arguments.append(self.sum())
        most = 2 if _BY_NAME.get(name) is sympy.Heaviside else 1
        if len(arguments) > most:
            raise self.error(
                place, f"{most} argument{'s' * (most > 1)} of {name}", str(len(arguments))
            )
        self.expect(")")
        if name == "sqrt":
            half = _Value(sympy.Rational(1, 2), 0.5)
            return self.power(place, arguments[0], half)
        return self.call(place, _BY_NAME[name], arguments)

    def call(self, place: int, head: Any, arguments: list[_Value]) -> _Value:
        number = None
        if all(argument.number is not None for argument in arguments):
            dummies = [sympy.Dummy() for _ in arguments]
            tape = Tape([head(*dummies)], [], [str(dummy) for dummy in dummies])
            values = [float(argument.number or 0) for argument in arguments]
            (value,) = tape.bind([]).values(values)
            number = float(value)
            self.check_number(place, number, may_vanish=head is not sympy.exp)
        elif head is sympy.exp:
            self.check_logarithms(place, arguments[0].node)
        nodes = [argument.node for argument in arguments]
        if head in _STEPPING:
            nodes = [
                node if number is None or node.is_Number else sympy.Float(number)
                for node, number in arguments
            ]
        return self.made(place, head(*nodes), number, may_vanish=True)

    def check_logarithms(self, place: int, node: Any) -> None:
        """SymPy makes powers of exp(n log(x)), which may be as large as any."""
        for term in sympy.Add.make_args(node):
            number, rest = term.as_independent(*term.free_symbols, as_Add=False)
            if rest.has(sympy.log) and not abs(_as_float(number)) <= _LARGEST_EXPONENT:
                raise self.error(place, f"an exponent of at most {_LARGEST_EXPONENT}")

    def made(
        self, place: int, node: Any, number: float | None, *, may_vanish: bool = True
    ) -> _Value:
        """A part that is done, once it is sure that its numbers are finite and real."""
        if node in (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
            raise self.error(place, "a real number below 1e308")
        if number is None and not node.free_symbols:
            number = _as_float(node)
        if number is not None:
            self.check_number(place, number, may_vanish=may_vanish)
        coefficient, _ = node.as_coeff_Mul()
        if coefficient.is_Rational and _bits(coefficient) > _MOST_BITS:
            raise self.error(place, "a number with fewer digits: write it with a decimal point")
        if not math.isfinite(_as_float(coefficient)):
            raise self.error(place, "numbers below 1e308")
        return _Value(node, number)

    def check_number(self, place: int, number: float, *, may_vanish: bool) -> None:
        if not math.isfinite(number):
            raise self.error(place, "a real number below 1e308")
        if number == 0 and not may_vanish:
            raise self.error(place, "a number that is 0 or above 1e-308 in size")


def _multiply(factors: list[Any]) -> Any:
    """A product in which a number times a sum stays one, as it is written."""
    numbers = [factor for factor in factors if factor.is_Number]
    rest = [factor for factor in factors if not factor.is_Number]
    number = sympy.Mul(*numbers)
    if len(rest) == 1 and rest[0].is_Add and number not in (0, 1):
        return sympy.Mul(number, rest[0], evaluate=False)
    return sympy.Mul(number, *rest)


def _bits(number: Any) -> int:
    return max(abs(int(number.p)), int(number.q)).bit_length()


def _as_float(node: Any) -> float:
    """The number of a part without variables; infinite where it is too large."""
    try:
        (value,) = Tape([node], []).bind([]).values(())
    except OverflowError:
        return math.inf
    return float(value)


def _with_near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    return f"{name!r}{hint}; there are: {', '.join(names)}"


def format_expression(expression: sympy.Expr) -> str:
    """The text of an expression, which `parse_expression` reads back without loss.

    Constants are float64, and variables carry no assumptions.

    Raises:
        ValueError: it holds a function or a number that the text form lacks, or a variable
            that is called as a function or a word of Python (`sign`, `lambda`).

    >>> r = sympy.Symbol("r")
    >>> format_expression(2.5 * sympy.exp(-r) / r**2 + sympy.Heaviside(r - 1))
    'heaviside(r - 1) + 2.5*exp(-r)/r**2'
    """
    return Writer().text(expression)
