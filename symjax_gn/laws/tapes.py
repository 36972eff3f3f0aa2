"""Expressions as tapes of NumPy operations, with derivatives by their constants.

A tape is made once and runs many times: equal subexpressions are computed once, what holds
no constant is computed once per set of columns, and one backward pass gives the derivatives
by all constants. It needs no generated code, so an expression from a file runs safely.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import sympy

# Names of functions in NumPy and in JAX; those in SPECIAL are in their `scipy.special`.
FUNCTIONS: dict[Any, str] = {
    sympy.exp: "exp",
    sympy.log: "log",
    sympy.sin: "sin",
    sympy.cos: "cos",
    sympy.tan: "tan",
    sympy.asin: "arcsin",
    sympy.acos: "arccos",
    sympy.atan: "arctan",
    sympy.sinh: "sinh",
    sympy.cosh: "cosh",
    sympy.tanh: "tanh",
    sympy.asinh: "arcsinh",
    sympy.acosh: "arccosh",
    sympy.atanh: "arctanh",
    sympy.Abs: "abs",
    sympy.sign: "sign",
    sympy.floor: "floor",
    sympy.ceiling: "ceil",
    sympy.Heaviside: "heaviside",
    # What integrals of exponentials are written with.
    sympy.Ei: "expi",
    sympy.erf: "erf",
    sympy.erfc: "erfc",
}
SPECIAL = ("expi", "erf", "erfc")

_Slope = Callable[[Any, Any], Any]

# d function / d argument, of the argument x and the function's value y.
_SLOPES: dict[str, _Slope] = {
    "exp": lambda x, y: y,
    "log": lambda x, y: 1 / x,
    "sqrt": lambda x, y: 0.5 / y,
    "sin": lambda x, y: np.cos(x),
    "cos": lambda x, y: -np.sin(x),
    "tan": lambda x, y: 1 + y * y,
    "arcsin": lambda x, y: 1 / np.sqrt(1 - x * x),
    "arccos": lambda x, y: -1 / np.sqrt(1 - x * x),
    "arctan": lambda x, y: 1 / (1 + x * x),
    "sinh": lambda x, y: np.cosh(x),
    "cosh": lambda x, y: np.sinh(x),
    "tanh": lambda x, y: 1 - y * y,
    "arcsinh": lambda x, y: 1 / np.sqrt(x * x + 1),
    "arccosh": lambda x, y: 1 / np.sqrt(x * x - 1),
    "arctanh": lambda x, y: 1 / (1 - x * x),
    "abs": lambda x, y: np.sign(x),
    "sign": lambda x, y: 0.0,
    "floor": lambda x, y: 0.0,
    "ceil": lambda x, y: 0.0,
    "heaviside": lambda x, y: 0.0,
    "expi": lambda x, y: np.exp(x) / x,
    "erf": lambda x, y: 2 / np.sqrt(np.pi) * np.exp(-x * x),
    "erfc": lambda x, y: -2 / np.sqrt(np.pi) * np.exp(-x * x),
}


@cache
def _function(name: str) -> Any:
    if name in SPECIAL:
        from scipy import special

        return getattr(special, name)
    return getattr(np, name)


class _Step(NamedTuple):
    kind: str
    inputs: tuple[int, ...]
    detail: Any
    """A number, name of a function, power, or index of a column or slot."""


class _Size(sympy.Function):
    """|x| of a real number, whose derivative SymPy would write with parts of complex ones."""

    def fdiff(self, argindex=1):
        return sympy.sign(self.args[0])


def derivative(expression: Any, symbol: sympy.Symbol) -> Any:
    """The derivative of a law by a variable, where it has one; all its values are real.

    >>> x = sympy.Symbol("x")
    >>> derivative(sympy.Abs(x - 1) ** 3, x)
    3*Abs(x - 1)**2*sign(x - 1)
    """
    slope = expression.replace(sympy.Abs, _Size).diff(symbol).replace(_Size, sympy.Abs)
    return slope.replace(sympy.DiracDelta, lambda *_: sympy.Integer(0))


class Tape:
    """One or several expressions of the same columns and slots, ready to run.

    >>> r, c = sympy.symbols("r c")
    >>> bound = Tape([c * r], ["r"], ["c"]).bind([np.array([1.0, 2.0])])
    >>> bound.values([3.0])
    [array([3., 6.])]
    """

    def __init__(
        self,
        expressions: Sequence[sympy.Expr],
        names: Sequence[str],
        slots: Sequence[str | sympy.Float] = (),
    ):
        """Compile.

        Args:
            expressions: of the named variables.
            names: variables that are columns, in the order in which `bind` takes them.
            slots: variables by name, or constants, that are single numbers, in the order in
                which runs take them.
        """
        self._columns = {name: k for k, name in enumerate(names)}
        self._slots = {slot: k for k, slot in enumerate(slots) if isinstance(slot, str)}
        self._constants = {slot: k for k, slot in enumerate(slots) if not isinstance(slot, str)}
        self._places: dict[Any, int] = {}
        self._steps: list[_Step] = []
        self._moving: list[bool] = []
        self._ends = [self._add(expression) for expression in expressions]

    def bind(self, columns: Sequence[np.ndarray]) -> "BoundTape":
        """The tape on columns `[...]`, of one shape, in the order of the names."""
        return BoundTape(self, columns)

    def _push(self, kind: str, inputs: tuple[int, ...] = (), detail: Any = None) -> int:
        key = (kind, inputs, detail)
        if key not in self._places:
            self._places[key] = len(self._steps)
            self._steps.append(_Step(kind, inputs, detail))
            self._moving.append(kind == "slot" or any(self._moving[k] for k in inputs))
        return self._places[key]

    def _add(self, node: Any) -> int:
        if node in self._places:
            return self._places[node]
        place = self._places[node] = self._compile(node)
        return place

    def _compile(self, node: Any) -> int:
        if node.is_Symbol:
            name = str(node)
            if name in self._slots:
                return self._push("slot", detail=self._slots[name])
            return self._push("column", detail=self._columns[name])
        if node in self._constants:
            return self._push("slot", detail=self._constants[node])
        if node.is_Atom:
            value = complex(node)
            return self._push("number", detail=value if value.imag else value.real)
        if node.is_Add:
            return self._chain("add", [self._add(term) for term in node.args])
        if node.is_Mul:
            above, below = [], []
            for factor in node.args:
                inverse = factor.is_Pow and factor.exp.is_Rational and factor.exp.is_negative
                (below if inverse else above).append(factor)
            product = self._chain("multiply", [self._add(factor) for factor in above])
            if not below:
                return product
            bottom = [self._power(factor.base, -factor.exp) for factor in below]
            return self._push("divide", (product, self._chain("multiply", bottom)))
        if node.is_Pow:
            return self._power(node.base, node.exp)
        if node.func in FUNCTIONS:
            inputs = tuple(self._add(argument) for argument in node.args)
            return self._push("function", inputs, FUNCTIONS[node.func])
        return self._opaque(node)

    def _chain(self, kind: str, inputs: list[int]) -> int:
        # What does not move is put together first, for it is computed only once.
        first, *rest = sorted(inputs, key=lambda k: self._moving[k]) or [
            self._push("number", detail=1.0)
        ]
        for k in rest:
            first = self._push(kind, (first, k))
        return first

    def _power(self, base: Any, exponent: Any) -> int:
        place = self._add(base)
        if exponent == 1:
            return place
        if exponent == sympy.Rational(1, 2):
            return self._push("function", (place,), "sqrt")
        if exponent.is_Integer and exponent < 0:
            return self._push("divide", (self._add(sympy.Integer(1)), self._power(base, -exponent)))
        if exponent.is_Integer:
            return self._push("power", (place,), int(exponent))
        return self._push("raise", (place, self._add(exponent)))

    def _opaque(self, node: Any) -> int:
        """A function that has no entry in the table, by SymPy's own printer."""
        dummies = {constant: sympy.Dummy() for constant in self._constants}
        for constant, dummy in dummies.items():
            self._places[dummy] = self._push("slot", detail=self._constants[constant])
        node = node.xreplace(dummies)
        symbols = sorted(node.free_symbols, key=str)
        inputs = tuple(self._add(symbol) for symbol in symbols)
        value = sympy.lambdify(symbols, node, ["numpy", "scipy"])
        slopes = tuple(
            sympy.lambdify(symbols, derivative(node, symbol), ["numpy", "scipy"])
            if self._moving[place]
            else None
            for symbol, place in zip(symbols, inputs, strict=True)
        )
        return self._push("opaque", inputs, (value, slopes))


class BoundTape:
    """A tape on given columns; what holds no slot is computed at once."""

    def __init__(self, tape: Tape, columns: Sequence[np.ndarray]):
        self._tape = tape
        self._shape = np.shape(columns[0]) if len(columns) else ()
        self._found: list[Any] = [None] * len(tape._steps)
        self._columns = [np.asarray(column, np.float64) for column in columns]
        with np.errstate(all="ignore"):
            self._run(moving=False, values=())

    def values(self, values: Sequence[float]) -> list[np.ndarray]:
        """Each expression `[...]` for given values of the slots; NaN where it is complex."""
        with np.errstate(all="ignore"):
            self._run(moving=True, values=values)
        return [self._real(self._found[end]) for end in self._tape._ends]

    def slopes(self, values: Sequence[float]) -> list[np.ndarray]:
        """Derivatives `[..., slot]` of each expression by the slots, at given values."""
        with np.errstate(all="ignore"):
            self._run(moving=True, values=values)
            return [self._backward(end, len(values)) for end in self._tape._ends]

    def _real(self, value: Any) -> np.ndarray:
        if np.iscomplexobj(value):
            value = np.where(np.imag(value) == 0, np.real(value), np.nan)
        return np.broadcast_to(np.asarray(value, np.float64), self._shape)

    def _run(self, moving: bool, values: Sequence[float]) -> None:
        found = self._found
        for k, (step, moves) in enumerate(zip(self._tape._steps, self._tape._moving, strict=True)):
            if moves == moving:
                found[k] = self._value(step, found, values)

    def _value(self, step: _Step, found: list[Any], values: Sequence[float]) -> Any:
        kind, inputs, detail = step
        if kind == "add":
            return found[inputs[0]] + found[inputs[1]]
        if kind == "multiply":
            return found[inputs[0]] * found[inputs[1]]
        if kind == "divide":
            return np.divide(found[inputs[0]], found[inputs[1]])
        if kind == "slot":
            return np.float64(values[detail])
        if kind == "column":
            return self._columns[detail]
        if kind == "number":
            return np.complex128(detail) if isinstance(detail, complex) else np.float64(detail)
        if kind == "function":
            return _function(detail)(*(found[k] for k in inputs))
        if kind == "power":
            return _whole_power(found[inputs[0]], detail)
        if kind == "raise":
            return np.power(found[inputs[0]], found[inputs[1]])
        return detail[0](*(found[k] for k in inputs))

    def _backward(self, end: int, num_slots: int) -> np.ndarray:
        result = np.zeros((*self._shape, num_slots))
        steps, moving = self._tape._steps, self._tape._moving
        owed: list[Any] = [None] * (end + 1)
        owed[end] = 1.0
        for k in range(end, -1, -1):
            if owed[k] is None or not moving[k]:
                continue
            if steps[k].kind == "slot":
                result[..., steps[k].detail] += owed[k]
                continue
            for j, slope in self._parts(steps[k], self._found[k]):
                share = owed[k] * slope
                owed[j] = share if owed[j] is None else owed[j] + share
        return result

    def _parts(self, step: _Step, y: Any) -> Any:
        """Pairs of a moving input and the derivative of the step by it."""
        kind, inputs, detail = step
        found, moving = self._found, self._tape._moving
        x = [found[k] for k in inputs]
        if kind == "add":
            slopes = [lambda: 1.0, lambda: 1.0]
        elif kind == "multiply":
            slopes = [lambda: x[1], lambda: x[0]]
        elif kind == "divide":
            slopes = [lambda: 1 / x[1], lambda: -y / x[1]]
        elif kind == "power":
            slopes = [lambda: detail * _whole_power(x[0], detail - 1)]
        elif kind == "raise":
            slopes = [
                lambda: x[1] * np.power(x[0], x[1] - 1),
                # 0^c is 0 for all c > 0.
                lambda: np.where(x[0] == 0, 0.0, y * np.log(x[0])),
            ]
        elif kind == "function":
            slopes = [lambda: _SLOPES[detail](x[0], y)]
        else:
            slopes = [lambda f=f: f(*x) for f in detail[1]]
        return [(k, f()) for k, f in zip(inputs, slopes, strict=False) if moving[k]]


def _whole_power(x: Any, exponent: int) -> Any:
    """A whole power >= 0 of x: products of a few squares are faster than NumPy's power."""
    if exponent > 16:
        return np.power(x, float(exponent))
    result: Any = None
    while exponent:
        if exponent % 2:
            result = x if result is None else result * x
        exponent //= 2
        x = x * x if exponent else x
    return 1.0 if result is None else result
