"""Laws of sums: a function of the sum of what each element adds, both of one-variable factors.

The message and the update are sums of terms, each term a product of functions of one variable
("factors"). Factors are splines at first and formulas in the end; both are fitted to the
targets in the same way.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import sympy
from jaxtyping import Float, Int
from scipy import sparse

from symjax_gn.discovery.splines import Curve, design
from symjax_gn.discovery.summed import Summed
from symjax_gn.laws.expressions import with_slots
from symjax_gn.laws.tapes import Tape, derivative

# The sum of messages, and what factors are functions of.
SUM = "e_0"
_X = sympy.Symbol("r")

# Steps of one fit of splines, the fall of the squared error at which it ends, and the least and
# largest damping.
_STEPS, _TOLERANCE, _DAMPING = 30, 1e-3, (1e-9, 1e3)

Term = tuple[str, ...]
"""The variables of a product of factors."""


class Bound(Protocol):
    """A function of one variable at some of its values."""

    def values(self, numbers: np.ndarray) -> Float[np.ndarray, " sample"]:
        """`[sample]`, for given values of its numbers."""
        ...

    def slopes(self, numbers: np.ndarray) -> Any:
        """`[sample, number]`, dense or sparse: derivatives by its numbers."""
        ...

    def along(self, numbers: np.ndarray) -> Float[np.ndarray, " sample"]:
        """`[sample]`, derivative by the variable."""
        ...

    def summed(self, matrix: Any) -> "Bound":
        """The sums of its values, and their derivatives by its numbers."""
        ...


class _SummedBound(NamedTuple):
    bound: Any
    matrix: Any

    def values(self, numbers):
        return self.matrix @ self.bound.values(numbers)

    def slopes(self, numbers):
        return self.matrix @ self.bound.slopes(numbers)


class Shape(Protocol):
    """A function of one variable with numbers that are fitted."""

    @property
    def numbers(self) -> Int[np.ndarray, " number"]:
        """Which of all numbers of a law are its own."""
        ...

    def bind(self, x: Float[np.ndarray, " sample"]) -> Bound:
        """The function at values of its variable."""
        ...


class Splines(NamedTuple):
    """A factor as a cubic spline; constant beyond its ends."""

    knots: Float[np.ndarray, " knot"]
    numbers: Int[np.ndarray, " number"]

    def bind(self, x: Float[np.ndarray, " sample"]) -> "_BoundSplines":
        return _BoundSplines(self.knots, x, design(self.knots, x))


class _BoundSplines(NamedTuple):
    knots: Any
    x: Any
    basis: Any

    def values(self, numbers):
        return self.basis @ numbers

    def slopes(self, numbers):
        return self.basis

    def along(self, numbers):
        return Curve(self.knots, numbers).slopes(self.x)

    def summed(self, matrix):
        return self._replace(basis=(matrix @ self.basis).toarray())


class Frozen(NamedTuple):
    """A factor that is known, with its derivative."""

    function: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    numbers: Int[np.ndarray, " number"] = np.zeros(0, int)

    def bind(self, x: Float[np.ndarray, " sample"]) -> "_BoundFrozen":
        return _BoundFrozen(self.function(x), self.slope(x))


class _BoundFrozen(NamedTuple):
    known: Any
    slope: Any

    def values(self, numbers):
        return self.known

    def slopes(self, numbers):
        return np.zeros((len(self.known), 0))

    def along(self, numbers):
        return self.slope

    def summed(self, matrix):
        return self._replace(known=matrix @ self.known)


class Formula:
    """A factor as an expression of `r`, which stands for its variable."""

    def __init__(self, free: Any, slots: Sequence[str], numbers: Int[np.ndarray, " number"]):
        """Prepare.

        Args:
            free: the expression, with variables in the place of constants.
            slots: names of these variables.
            numbers: which of all numbers they are.
        """
        self.numbers = numbers
        self._tape = Tape([free, derivative(free, _X)], ["r"], slots)

    def bind(self, x: Float[np.ndarray, " sample"]) -> "_BoundFormula":
        return _BoundFormula(self._tape.bind([x]))


class _BoundFormula(NamedTuple):
    tape: Any

    def values(self, numbers):
        return self.tape.values(numbers)[0]

    def slopes(self, numbers):
        return self.tape.slopes(numbers)[0]

    def along(self, numbers):
        return self.tape.values(numbers)[1]

    def summed(self, matrix):
        return _SummedBound(self, matrix)


def formulas(expressions: Sequence[sympy.Expr]) -> tuple[list[Formula], np.ndarray]:
    """Factors as expressions, which share equal constants; and values of these."""
    free, slots, old = with_slots(expressions)
    found = []
    for one in free:
        own = [k for k, slot in enumerate(slots) if sympy.Symbol(slot) in one.free_symbols]
        found.append(Formula(one, [slots[k] for k in own], np.asarray(own, int)))
    return found, np.asarray([float(value) for value in old])


class Composition:
    """z = sum of terms of (e_0, own properties), e_0 = sum of terms of each element."""

    def __init__(
        self,
        message: Sequence[Term],
        update: Sequence[Term],
        shapes: Sequence[Shape],
        data: Summed,
        component: int = 0,
    ):
        """Prepare what does not depend on numbers.

        Args:
            message: terms of what each element adds.
            update: terms of what the sum becomes.
            shapes: of all factors: those of the message's terms in order, then the update's.
            data: elements and owners.
            component: of the target.
        """
        self._data, self.target = data, data.target[:, component]
        counted = iter(shapes)
        self._message = []
        for term in message:
            own = list(itertools.islice(counted, len(term)))
            bound = [s.bind(data.elements[name]) for name, s in zip(term, own, strict=True)]
            # What is no product is summed once and for all.
            bound = [bound[0].summed(data.matrix)] if len(bound) == 1 else bound
            self._message.append((own, bound))
        self._update = [
            list(zip(term, itertools.islice(counted, len(term)), strict=True)) for term in update
        ]

    def sums(self, numbers: Float[np.ndarray, " number"]) -> Float[np.ndarray, " owner"]:
        """Sums of messages, for given values of all numbers."""
        return self._whole(self._sent(numbers))

    def _whole(self, sent) -> Any:
        """The sums, of values of the message's factors."""
        return sum(map(self._added, sent), start=self._data.known)

    def _sent(self, numbers):
        """Values of the message's factors; of one alone its sums."""
        return [
            [b.values(numbers[s.numbers]) for s, b in zip(*term, strict=True)]
            for term in self._message
        ]

    def _added(self, values):
        """What a term of the message adds to the sums."""
        return values[0] if len(values) == 1 else self._data.matrix @ np.prod(values, axis=0)

    def _became(self, numbers, sums):
        """The update's factors, bound, and their values."""
        columns = {**self._data.owners, SUM: sums}
        bound = [[s.bind(columns[name]) for name, s in term] for term in self._update]
        found = [
            [b.values(numbers[s.numbers]) for b, (_, s) in zip(row, term, strict=True)]
            for row, term in zip(bound, self._update, strict=True)
        ]
        return bound, found

    def predict(
        self, numbers: Float[np.ndarray, " number"], share: float = 1.0
    ) -> Float[np.ndarray, " owner"]:
        """The target, for given values of all numbers, and a share of the sums."""
        with np.errstate(all="ignore"):
            _, found = self._became(numbers, share * self.sums(numbers))
            return np.sum([np.prod(term, axis=0) for term in found], axis=0)

    def errors(self, numbers: Float[np.ndarray, " number"]) -> Float[np.ndarray, " owner"]:
        """Errors of owners over the typical target."""
        with np.errstate(all="ignore"):
            return (self.predict(numbers) - self.target) * self._data.weight

    def slopes(self, numbers: Float[np.ndarray, " number"]) -> Float[np.ndarray, "owner number"]:
        """Derivatives of the errors."""
        found = np.zeros((len(self.target), len(numbers)))
        with np.errstate(all="ignore"):
            sent = self._sent(numbers)
            bound, became = self._became(numbers, self._whole(sent))
            by_sum = np.zeros(len(self.target))
            for term, row, values in zip(self._update, bound, became, strict=True):
                for k, ((name, shape), factor) in enumerate(zip(term, row, strict=True)):
                    rest = np.prod(values[:k] + values[k + 1 :], axis=0)
                    own = numbers[shape.numbers]
                    found[:, shape.numbers] += _dense(_scaled(factor.slopes(own), rest))
                    if name == SUM:
                        by_sum += rest * factor.along(own)
            for (shapes, factors), values in zip(self._message, sent, strict=True):
                for k, (shape, factor) in enumerate(zip(shapes, factors, strict=True)):
                    summed = factor.slopes(numbers[shape.numbers])
                    if len(factors) > 1:
                        rest = np.prod(values[:k] + values[k + 1 :], axis=0)
                        summed = self._data.matrix @ _scaled(summed, rest)
                    found[:, shape.numbers] += _dense(summed) * by_sum[:, None]
        return found * self._data.weight


def _scaled(table, factor):
    """Rows of a table, dense or sparse, times factors of the rows."""
    factor = np.broadcast_to(factor, table.shape[:1])
    if not sparse.issparse(table):
        return table * factor[:, None]
    scaled = table.copy()
    scaled.data *= np.repeat(factor, np.diff(table.indptr))
    return scaled


def _dense(table):
    return table.toarray() if sparse.issparse(table) else table


def fit_numbers(composition: Any, start: Float[np.ndarray, " number"]) -> np.ndarray:
    """Numbers of splines by least squares, near the first ones (Levenberg and Marquardt)."""
    numbers, damping = start, _DAMPING[0]
    errors = composition.errors(numbers)
    for _ in range(_STEPS):
        slopes = composition.slopes(numbers)
        # Columns of one size, of which some may depend on each other: gauges of the law.
        size = np.sqrt(np.sum(slopes**2, axis=0)) + 1e-300
        scaled = slopes / size
        gram, right = scaled.T @ scaled, scaled.T @ errors
        before = errors @ errors
        while damping <= _DAMPING[1]:
            step = np.linalg.solve(gram + damping * np.eye(len(gram)), right) / size
            trial = composition.errors(numbers - step)
            if trial @ trial < before:
                break
            damping *= 10
        else:
            break
        numbers, errors, damping = numbers - step, trial, max(0.1 * damping, _DAMPING[0])
        if errors @ errors > (1 - _TOLERANCE) * before:
            break
    return numbers
