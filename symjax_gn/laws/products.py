"""Laws of one variable as products of powers of elementary functions.

The logarithm of a product is a sum, so that exponents are found by linear least squares, and
all pairs of some hundred functions are compared. Where the variable is 0 is seen on the
samples: what changes sign there is a factor of its own.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.laws.fronts import Column

_R = sympy.Symbol("r")

# Products that are offered for each way to have the zeros: so many of one factor, so many of
# two, so many of two with an exponential, for the plainest way and the best so many others.
_SINGLES, _PAIRS, _SCREENED, _WAYS = 6, 14, 8, 2

# Zeros of a product that are told from noise; a wave's are as evenly spaced as this share.
_MOST_ZEROS, _EVEN = 12, 0.1
_POLYNOMIAL = 3

# Shares of samples, by weight, that must have one sign once zeros are taken out.
_ONE_SIGN = 0.98

# Functions that explain less than this of what powers leave are nothing.
_NOTHING = 1e-9


class Factor(NamedTuple):
    """Positive functions of one form, raised to any power."""

    log: Callable[..., Any]
    """`log(x, *parameters)`, its logarithm, on arrays."""
    power: Callable[..., Any]
    """`power(x, e, *parameters)`, the function to the power e, of a SymPy x."""
    grid: tuple[tuple[float, ...], ...]
    needs: tuple[str, ...] = ()
    """Operators beside sums, products, quotients and powers."""
    form: tuple[int, ...] = ()
    """Which parameters are powers; whole ones belong to the form, all else is fitted."""


_SIZES = tuple((float(a),) for a in np.geomspace(0.1, 8.0, 14))
_STEPS = tuple(itertools.product(np.geomspace(0.5, 12.0, 8), np.arange(0.4, 4.0, 0.3)))
_exp, _log, _tanh = sympy.exp, sympy.log, sympy.tanh

FACTORS: tuple[Factor, ...] = (
    Factor(lambda x: x, lambda x, e: _exp(e * x), ((),), ("exp",)),
    Factor(lambda x: x**2, lambda x, e: _exp(e * x**2), ((),), ("exp",)),
    Factor(lambda x: 1 / x, lambda x, e: _exp(e / x), ((),), ("exp",)),
    Factor(
        lambda x, s: x**s,
        lambda x, e, s: _exp(e * x**s),
        ((-2.0,), (-0.5,), (0.5,), (1.5,), (3.0,)),
        ("exp",),
    ),
    Factor(lambda x, a: np.log(x + a), lambda x, e, a: (x + a) ** e, _SIZES),
    Factor(lambda x, a: np.log(x**2 + a), lambda x, e, a: (x**2 + a) ** e, _SIZES),
    Factor(
        lambda x, a, s: np.log(x**s + a),
        lambda x, e, a, s: (x**s + a) ** e,
        tuple((a, s) for (a,) in _SIZES for s in (-1.0, 0.5, 0.75, 1.25, 1.5, 2.5, 3.0, 4.0)),
        form=(1,),
    ),
    Factor(
        lambda x, a, b: np.log(x**2 + b * x + a),
        lambda x, e, a, b: (x**2 + b * x + a) ** e,
        tuple((a, b) for (a,) in _SIZES for b in (-1.0, -0.3, 0.3, 1.0, 3.0)),
    ),
    Factor(
        lambda x, a: np.log(np.tanh(a * x)), lambda x, e, a: _tanh(a * x) ** e, _SIZES, ("tanh",)
    ),
    Factor(
        lambda x, a: np.log(np.log1p(a * x)),
        lambda x, e, a: _log(1 + a * x) ** e,
        _SIZES,
        ("log",),
    ),
    Factor(
        lambda x, a: np.log(np.log1p(a * x**2)),
        lambda x, e, a: _log(1 + a * x**2) ** e,
        _SIZES,
        ("log",),
    ),
    Factor(
        lambda x, a: np.log(-np.expm1(-a * x)),
        lambda x, e, a: (1 - _exp(-a * x)) ** e,
        _SIZES,
        ("exp",),
    ),
    Factor(
        lambda x, a: np.log(-np.expm1(-a * x**2)),
        lambda x, e, a: (1 - _exp(-a * x**2)) ** e,
        _SIZES,
        ("exp",),
    ),
    Factor(
        lambda x, a, b: np.logaddexp(0.0, a * (x - b)),
        lambda x, e, a, b: (1 + _exp(a * (x - b))) ** e,
        _STEPS,
        ("exp",),
    ),
    Factor(
        lambda x, a, b: np.log(np.logaddexp(0.0, a * (x - b))),
        lambda x, e, a, b: _log(1 + _exp(a * (x - b))) ** e,
        _STEPS,
        ("exp", "log"),
    ),
)


class _Columns(NamedTuple):
    """Logarithms of factors on the samples."""

    factors: list[tuple[Factor, tuple[float, ...]]]
    logs: Float[np.ndarray, "factor sample"]
    kinds: list[slice]
    """The factors of each kind."""


def _columns(x, operators) -> _Columns:
    factors, logs, kinds = [], [], []
    for factor in FACTORS:
        if not all(name in operators for name in factor.needs):
            continue
        start = len(factors)
        for parameters in factor.grid:
            with np.errstate(all="ignore"):
                column = np.asarray(factor.log(x, *parameters), float)
            if np.all(np.isfinite(column)):
                factors.append((factor, parameters))
                logs.append(column)
        if len(factors) > start:
            kinds.append(slice(start, len(factors)))
    return _Columns(factors, np.asarray(logs).reshape(-1, len(x)), kinds)


def _with_zeros(x, y, operators) -> Iterator[tuple[Float[np.ndarray, " sample"], Any]]:
    """Functions, and their expressions, that change sign where the samples do."""
    change = np.flatnonzero(y[:-1] * y[1:] < 0)
    zeros = x[change] - y[change] * (x[change + 1] - x[change]) / (y[change + 1] - y[change])
    if not len(zeros):
        yield np.ones_like(x), sympy.Integer(1)
        return
    if len(zeros) > _MOST_ZEROS:
        return
    if len(zeros) <= _POLYNOMIAL:
        gaps, written = x[:, None] - zeros, [_R - sympy.Float(zero) for zero in zeros]
        for power in (1, 3) if len(zeros) == 1 else (1,):
            yield np.prod(gaps, axis=1) ** power, sympy.Mul(*written) ** power
    for power in (1, 2):
        if len(zeros) == 1 or "sin" not in operators:
            break
        spacing, start = np.polyfit(np.arange(len(zeros)), zeros**power, 1)
        off = zeros**power - (start + spacing * np.arange(len(zeros)))
        if np.max(np.abs(off)) < _EVEN * abs(spacing):
            a, b = np.pi / spacing, -np.pi * start / spacing
            wave = sympy.Float(a) * _R**power + sympy.Float(b)
            yield np.sin(a * x**power + b), sympy.sin(wave)
    if len(zeros) == 1:
        (zero,) = zeros
        if "log" in operators and zero > 0 and np.all(x > 0):
            yield np.log(x / zero), sympy.log(_R / sympy.Float(zero))
        for (a,) in _SIZES[4::2]:
            gap, written = a * (x - zero), sympy.Float(a) * (_R - sympy.Float(zero))
            if "tanh" in operators:
                yield np.tanh(gap), sympy.tanh(written)
            if "exp" in operators:
                yield np.expm1(np.minimum(gap, 500)), sympy.exp(written) - 1
                yield -np.expm1(np.minimum(-gap, 500)), 1 - sympy.exp(-written)
            if "sin" in operators and np.max(np.abs(gap)) < np.pi:
                yield np.sin(gap), sympy.sin(written)


def search_products(
    x: Column, target: Column, weight: Column, operators: Any
) -> list[tuple[float, sympy.Expr]]:
    """Products that are near to samples, with what their logarithms leave, the best first.

    Args:
        x: `[sample]`, the variable, in a unit in which it is about 1.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors.
        operators: those that laws may use; sums, products and powers are always there.

    >>> x = np.linspace(0.2, 4.0, 200)
    >>> found = search_products(x, 2 * np.exp(-x) / (x**2 + 0.3), np.ones(200), ["exp"])
    >>> found[0][0] < 0.01
    True
    """
    order = np.argsort(x)
    x, target, weight = x[order], target[order], weight[order]
    columns = _columns(x, operators)
    ways = []
    for values, zeros in _with_zeros(x, target, operators):
        with np.errstate(all="ignore"):
            rest = target / values
        size = np.abs(target) * weight
        usable = np.isfinite(rest) & (rest != 0)
        sign = 1 if np.sum((size * np.sign(rest))[usable]) > 0 else -1
        usable &= sign * rest > 0
        if np.sum(size[usable]) < _ONE_SIGN * np.sum(size):
            continue
        size = np.where(usable, size, 0.0)
        log = np.log(np.where(usable, sign * rest, 1.0))
        powers = [(np.ones_like(x), lambda e: sympy.exp(sympy.Float(e)).evalf())]
        if np.all(x > 0):
            powers.append((np.log(x), lambda e: _R ** sympy.Float(e)))
        bases = [(powers, _SINGLES, _PAIRS)]
        if "exp" in operators:
            screen = (x, lambda e: sympy.exp(sympy.Float(e) * _R))
            bases.append(([*powers, screen], 0, _SCREENED))
        ways.append(
            [
                (left, sign * zeros * _written([write for _, write in base], columns, *found))
                for base, *most in bases
                for left, *found in _fitted([one for one, _ in base], log, size, columns, *most)
            ]
        )
    # The first way is the plainest.
    best = ways[:1] + sorted(ways[1:], key=lambda rows: min(row[0] for row in rows))[:_WAYS]
    return sorted(itertools.chain(*best), key=lambda row: row[0])


def _fitted(plain, log, size, columns, most_singles, most_pairs):
    """Sums of logarithms: what is left, which factors, and the exponents of all."""
    base, _ = np.linalg.qr(np.stack(plain, axis=1) * size[:, None])
    weighted = columns.logs * size
    weighted = weighted - (weighted @ base) @ base.T
    length = np.linalg.norm(weighted, axis=1)
    weighted = weighted / np.where(length > _NOTHING, length, np.inf)[:, None]
    target = log * size
    target = target - base @ (base.T @ target)
    gram, right = weighted @ weighted.T, weighted @ target
    singles: list[tuple[float, tuple[int, ...]]] = []
    pairs: list[tuple[float, tuple[int, ...]]] = []
    for n, one in enumerate(columns.kinds):
        k = one.start + int(np.argmax(right[one] ** 2))
        singles.append((float(right[k] ** 2), (k,)))
        for other in columns.kinds[n:]:
            g = gram[one, other]
            a, b = right[one][:, None], right[other][None, :]
            with np.errstate(all="ignore"):
                gained = (a * a + b * b - 2 * a * b * g) / (1 - g**2)
            gained[~(1 - g**2 > _NOTHING)] = 0.0
            i, j = np.unravel_index(int(np.argmax(gained)), gained.shape)
            pairs.append((float(gained[i, j]), (one.start + int(i), other.start + int(j))))
    singles, pairs = (sorted(some, reverse=True) for some in (singles, pairs))
    for which in [(), *(row[1] for row in singles[:most_singles] + pairs[:most_pairs])]:
        design = np.stack([*plain, *columns.logs[list(which)]], axis=1)
        exponents = np.linalg.lstsq(design * size[:, None], log * size, rcond=None)[0]
        left = (design @ exponents - log) * size
        yield float(np.sqrt(np.mean(left**2))), which, exponents


def _written(plain, columns, which, exponents):
    """The product as an expression."""
    counted = iter(exponents)
    made = sympy.Mul(*(write(next(counted)) for write in plain))
    for k in which:
        factor, parameters = columns.factors[k]
        numbers = [
            sympy.Integer(int(p)) if n in factor.form and float(p).is_integer() else sympy.Float(p)
            for n, p in enumerate(parameters)
        ]
        made *= factor.power(_R, sympy.Float(next(counted)), *numbers)
    return made
