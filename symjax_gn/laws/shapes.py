"""Functions of one variable with numbers that are fitted: splines, formulas, and known ones."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy
import sympy
from jaxtyping import Float
from scipy import sparse

from symjax_gn.laws.expressions import constants, with_constants, with_slots
from symjax_gn.laws.tapes import Tape, derivative

R = sympy.Symbol("r")
"""What formulas are functions of: it stands for the variable of their factor."""

_DEGREE = 3

# Knots are placed by what is between these quantiles; the first and the last one are beyond.
_MOST = (0.001, 0.999)


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


class Shape(Protocol):
    """A function of one variable with numbers that are fitted."""

    @property
    def numbers(self) -> Float[np.ndarray, " number"]:
        """Its numbers."""
        ...

    def bind(self, x: Float[np.ndarray, " sample"]) -> Bound:
        """The function at values of its variable."""
        ...


def place_knots(
    x: Float[np.ndarray, " sample"],
    pieces: int,
    margin: float = 0.0,
    weight: Float[np.ndarray, " sample"] | None = None,
) -> Float[np.ndarray, " knot"]:
    """Knots `[pieces + 7]`: no piece holds over twice its share of the range, or of the samples.

    They are quantiles of the samples mixed with as many that are evenly spread.

    Args:
        x: `[sample]`, values of the variable.
        pieces: how many.
        margin: share of the range that is added at both ends.
        weight: `[sample]`, how much each sample counts; None: all the same.

    >>> x = np.concatenate([np.linspace(0, 1, 901), np.linspace(1, 10, 100)])
    >>> place_knots(x, 6).round(1)[3:-3]
    array([ 0. ,  0.3,  0.7,  1. ,  4. ,  6.9, 10. ])
    """
    low, high = np.quantile(x, _MOST)
    grid, place = np.unique(np.clip(x, low, high), return_inverse=True)
    counts = np.cumsum(np.bincount(place, weight))
    even = (grid - low) / (high - low or 1.0)
    dense = (counts - counts[0]) / (counts[-1] - counts[0] or 1.0)
    inner = np.interp(np.linspace(0, 1, pieces + 1), 0.5 * (even + dense), grid)
    reach = margin * np.ptp(x)
    inner[0], inner[-1] = np.min(x) - reach, np.max(x) + reach
    return np.concatenate([[inner[0]] * _DEGREE, inner, [inner[-1]] * _DEGREE])


class Spline(NamedTuple):
    """A cubic spline, constant beyond its ends; or, without knots, a constant."""

    knots: Float[np.ndarray, " knot"]
    """[knot], of the variable or its logarithm."""
    numbers: Float[np.ndarray, " number"]
    """[number], factors of its parts."""
    logarithmic: bool = False
    """Whether lengths are those of the logarithm."""
    power: float = 0.0
    """Power of the variable that the spline is multiplied with."""

    @property
    def pieces(self) -> int:
        """How many; 0 of a constant."""
        return max(0, len(self.knots) - 2 * _DEGREE - 1)

    def basis(self, x: Float[np.ndarray, " sample"]) -> Any:
        """`[sample, number]`, sparse: values of its parts."""
        if not len(self.knots):
            return sparse.csr_array(np.ones((len(x), 1)))
        place = self._inside(x)
        nothing = np.isnan(place)
        place = np.where(nothing, self.knots[0], place)
        found = scipy.interpolate.BSpline.design_matrix(place, self.knots, _DEGREE)
        if self.power != 0:
            found = scaled_rows(found, np.maximum(x, 1e-300) ** self.power)
        # A variable may be a sum of what has no value.
        return scaled_rows(found, np.where(nothing, np.nan, 1.0)) if np.any(nothing) else found

    def values(self, x: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
        """Values `[sample]`."""
        return self.basis(x) @ self.numbers

    def slopes(self, x: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
        """Derivatives `[sample]` by the variable."""
        if not len(self.knots):
            return np.zeros(len(x))
        place = self._inside(x)
        curve = scipy.interpolate.BSpline(self.knots, self.numbers, _DEGREE)
        positive = np.maximum(x, 1e-300)
        slope = curve.derivative()(place) / (positive if self.logarithmic else 1.0)
        slope = np.where(place == self._place(x), slope, 0.0)
        if self.power == 0:
            return slope
        return positive**self.power * (slope + self.power / positive * curve(place))

    def deviation(
        self, x: Float[np.ndarray, " sample"], covariance: Float[np.ndarray, "number number"]
    ) -> Float[np.ndarray, " sample"]:
        """Standard deviations `[sample]` of its values, by the covariance of its numbers."""
        basis = self.basis(x).toarray()
        square = np.einsum("sp,pq,sq->s", basis, covariance, basis)
        return np.sqrt(np.maximum(square, 0.0))

    def bind(self, x: Float[np.ndarray, " sample"]) -> "_BoundSpline":
        """See `Shape`."""
        return _BoundSpline(self, x, self.basis(x))

    def _place(self, x):
        return np.log(np.maximum(x, 1e-300)) if self.logarithmic else x

    def _inside(self, x):
        """Values of the variable, those beyond the ends moved to the ends."""
        return np.clip(self._place(x), self.knots[_DEGREE], self.knots[-_DEGREE - 1])


class Grid(NamedTuple):
    """A spline that is yet to be placed and fitted; or, without pieces, a constant."""

    pieces: int
    """How many."""
    logarithmic: bool | None = None
    """See `Spline`; None: if its variable is positive."""
    power: float = 0.0
    """See `Spline`."""
    start: sympy.Expr | None = None
    """What a function that multiplies another one is at first, of its variable; None: 1."""

    @property
    def numbers(self) -> Float[np.ndarray, " number"]:
        """As many as the spline has, 0."""
        return np.zeros(self.pieces + _DEGREE if self.pieces else 1)


class _BoundSpline(NamedTuple):
    spline: Spline
    x: Any
    basis: Any

    def values(self, numbers):
        return self.basis @ numbers

    def slopes(self, numbers):
        return self.basis

    def along(self, numbers):
        return self.spline._replace(numbers=numbers).slopes(self.x)


class Frozen(NamedTuple):
    """A function that is known."""

    shape: Shape

    @property
    def numbers(self) -> np.ndarray:
        """None."""
        return np.zeros(0)

    def bind(self, x: Float[np.ndarray, " sample"]) -> "_BoundFrozen":
        """See `Shape`."""
        bound, numbers = self.shape.bind(x), self.shape.numbers
        return _BoundFrozen(bound.values(numbers), bound, numbers)


class _BoundFrozen(NamedTuple):
    known: Any
    bound: Any
    own: Any

    def values(self, numbers):
        return self.known

    def slopes(self, numbers):
        return np.zeros((len(self.known), 0))

    def along(self, numbers):
        return self.bound.along(self.own)


class Formula(NamedTuple):
    """An expression of `r`, whose numbers are its floating-point constants."""

    expression: sympy.Expr

    @property
    def numbers(self) -> np.ndarray:
        """Its constants, in the order of `expressions.constants`."""
        return np.asarray([float(value) for value in constants(self.expression)])

    def bind(self, x: Float[np.ndarray, " sample"]) -> "_BoundFormula":
        """See `Shape`."""
        return _BoundFormula(self.expression, x)


# The same formulas are bound again and again, and to compile takes longer than to run.
@functools.lru_cache(maxsize=4096)
def _tape(expression: sympy.Expr) -> Tape:
    return Tape([expression], ["r"], constants(expression))


@functools.lru_cache(maxsize=4096)
def _slope_tape(expression: sympy.Expr) -> Tape:
    # A derivative would merge numbers, so that variables stand for these.
    (free,), slots, _ = with_slots([expression])
    return Tape([derivative(free, R)], ["r"], slots)


class _BoundFormula:
    def __init__(self, expression, x):
        self._expression, self._x = expression, x
        self._tape = _tape(expression).bind([x])

    def values(self, numbers):
        return self._tape.values(numbers)[0]

    def slopes(self, numbers):
        return self._tape.slopes(numbers)[0]

    def along(self, numbers):
        return _slope_tape(self._expression).bind([self._x]).values(numbers)[0]


def with_numbers(
    shapes: Sequence[Shape], numbers: Sequence[Float[np.ndarray, " number"]]
) -> list[Any]:
    """Shapes with other numbers."""
    found = []
    for shape, own in zip(shapes, numbers, strict=True):
        if isinstance(shape, Spline):
            found.append(shape._replace(numbers=own))
        elif isinstance(shape, Formula):
            found.append(Formula(with_constants(shape.expression, own)))
        else:
            found.append(shape)
    return found


def scaled_rows(table: Any, factor: Float[np.ndarray, " row"]) -> Any:
    """Rows of a table, dense or sparse, times factors of the rows."""
    factor = np.broadcast_to(factor, table.shape[:1])
    if not sparse.issparse(table):
        return table * factor[:, None]
    scaled = table.tocsr(copy=True)
    scaled.data = scaled.data * np.repeat(factor, np.diff(scaled.indptr))
    return scaled
