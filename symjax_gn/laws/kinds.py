"""Elementary functions of one variable that laws are sums and products of, with their parameters.

A new function is one more `Kind` in `KINDS`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy


class Kind(NamedTuple):
    """Functions of one form, with the parameters that are tried."""

    name: str
    function: Callable[..., Any]
    """`function(m, x, *parameters)`, where m is NumPy or SymPy: one form for both."""
    grid: tuple[tuple[float, ...], ...]
    numbers: tuple[int, ...] = ()
    """Which parameters are constants of a law; others are powers."""
    needs: tuple[str, ...] = ()
    """Operators beside sums, products, quotients and powers."""
    family: str = ""
    """Kinds of one family may have constants in common in a sum."""
    frequency: int | None = None
    """Which parameter is a frequency: others than those of the grid may be tried."""

    def parameters(self, frequencies: Sequence[float] = ()) -> Iterator[tuple[float, ...]]:
        """What is tried: the grid, and all of it with further frequencies.

        >>> (wave,) = (kind for kind in KINDS if kind.name == "sine")
        >>> list(wave.parameters([99.0]))[-1]
        (1.0, 99.0)
        """
        yield from self.grid
        if self.frequency is not None:
            k = self.frequency
            rest = dict.fromkeys((p[:k], p[k + 1 :]) for p in self.grid)
            yield from ((*a, x, *b) for a, b in rest for x in frequencies)

    def values(self, x: Any, *parameters: float) -> Any:
        """Values for arrays x."""
        return self.function(np, x, *parameters)

    def expression(self, x: Any, *parameters: float) -> Any:
        """The same of a SymPy x; whole powers belong to the form, all else is fitted."""
        written = [
            sympy.Integer(int(p))
            if k not in self.numbers and float(p).is_integer()
            else sympy.Float(p)
            for k, p in enumerate(parameters)
        ]
        return self.function(sympy, x, *written)


def _grid(*axes: Iterable[float]) -> tuple[tuple[float, ...], ...]:
    return tuple(itertools.product(*axes))


_RATES = tuple(np.geomspace(0.15, 9.0, 16))
WAVES = tuple(np.arange(0.4, 14.0, 0.2))
_PLACES = tuple(np.arange(0.4, 4.4, 0.3))
_WHOLE = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
_POWERS = (*np.arange(-14.0, -4.5, 0.5), *np.arange(-4.5, 4.6, 0.25), 5.0, 6.0)


_RISES = (1.0, 1.5, 2.0, 2.5, 3.0)
_FEW = (-2.0, -1.0, 0.0, 1.0)

# Functions that end: on which side they are, where (variables may be negative), the power.
_ENDS = _grid((-1.0, 1.0), (*-np.arange(1.2, 0.0, -0.3), 0.0, *np.arange(0.3, 4.5, 0.3)), _RISES)


def _beyond(m: Any, x: Any, side: float, b: Any, p: Any) -> Any:
    """(side (x - b))^p where that is positive, else 0."""
    far = side * (x - b)
    if m is np:
        return np.maximum(far, 0.0) ** p
    return sympy.Abs(far) ** p * sympy.Heaviside(far)


KINDS: tuple[Kind, ...] = (
    Kind("power", lambda m, x, p: x**p, _grid(_POWERS)),
    Kind(
        "exponential",
        lambda m, x, p, a: x**p * m.exp(-a * x),
        _grid(_WHOLE, _RATES),
        (1,),
        ("exp",),
    ),
    Kind(
        "growing",
        lambda m, x, p, a: x**p * m.exp(a * x),
        _grid((0.0, 1.0), _RATES[:10]),
        (1,),
        ("exp",),
    ),
    Kind(
        "gaussian",
        lambda m, x, p, a: x**p * m.exp(-a * x**2),
        _grid(_WHOLE, _RATES),
        (1,),
        ("exp",),
    ),
    Kind(
        "sine",
        lambda m, x, p, a: x**p * m.sin(a * x),
        _grid(_FEW, WAVES),
        (1,),
        ("sin",),
        "wave",
        1,
    ),
    Kind(
        "cosine",
        lambda m, x, p, a: x**p * m.cos(a * x),
        _grid(_FEW, WAVES),
        (1,),
        ("cos",),
        "wave",
        1,
    ),
    Kind(
        "damped sine",
        lambda m, x, a, b: m.exp(-b * x) * m.sin(a * x),
        _grid(WAVES, _RATES[1:12:2]),
        (0, 1),
        ("exp", "sin"),
        "damped wave",
        0,
    ),
    Kind(
        "damped cosine",
        lambda m, x, a, b: m.exp(-b * x) * m.cos(a * x),
        _grid(WAVES, _RATES[1:12:2]),
        (0, 1),
        ("exp", "cos"),
        "damped wave",
        0,
    ),
    Kind("logarithm", lambda m, x, p: x**p * m.log(x), _grid(_WHOLE), (), ("log",)),
    Kind(
        "saturating logarithm",
        lambda m, x, p, a: x**p * m.log(1 + a * x),
        _grid(_FEW, _RATES),
        (1,),
        ("log",),
    ),
    Kind("tangent", lambda m, x, p, a: x**p * m.tanh(a * x), _grid(_FEW, _RATES), (1,), ("tanh",)),
    Kind(
        "switch",
        lambda m, x, a, b: m.tanh(a * (x - b)),
        _grid(_RATES[3:], _PLACES),
        (0, 1),
        ("tanh",),
    ),
    Kind("beyond", _beyond, _ENDS, (1,)),
    Kind(
        "slope of a switch",
        lambda m, x, p, a, b: x**p * (1 - m.tanh(a * (x - b)) ** 2),
        _grid((0.0, 1.0), _RATES[3::2], _PLACES),
        (1, 2),
        ("tanh",),
    ),
    Kind(
        "bump",
        lambda m, x, p, a, b: x**p * m.exp(-a * (x - b) ** 2),
        _grid((0.0, 1.0), _RATES[3::2], _PLACES),
        (1, 2),
        ("exp",),
    ),
    Kind(
        "shifted power",
        lambda m, x, p, a, q: x**p * (a + x) ** q,
        _grid(_WHOLE, np.geomspace(0.1, 8.0, 12), (-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.5)),
        (1,),
    ),
    Kind(
        "softened power",
        lambda m, x, p, a, q: x**p * (a + x**2) ** q,
        _grid(_WHOLE, np.geomspace(0.01, 8.0, 14), (-3.0, -2.0, -1.5, -1.0, -0.75, -0.5, 0.5)),
        (1,),
    ),
)
