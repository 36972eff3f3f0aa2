"""What a law is: sums over elements, and what becomes of them, of products of functions.

    e_c(owner)  = sum over its elements of  sum over message terms of  along_c x product of factors
    y_k(owner)  = sum over update terms of  along_k x product of factors

Each factor is a function of one variable (`laws.shapes`); what is along each component is an
expression without numbers of its own. Forces, laws of sets, and functions of columns are such
laws; all are fitted in the same way (`laws.bound`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float, Int

from symjax_gn.laws.expressions import complexity, constants, values
from symjax_gn.laws.samples import without_differences
from symjax_gn.laws.shapes import Formula, Grid, R, Spline, with_numbers

# Constants of terms cancel each other if no more than this share is left.
_CANCELLED = 1e-9

# What rounding makes of a whole number, as a share.
_ROUNDED = 1e-12


class Factor(NamedTuple):
    """A function of one variable."""

    variable: sympy.Expr
    """Of columns; in an update also of the sums e_0, e_1, ..."""
    shape: Spline | Formula | Grid

    @property
    def words(self) -> int:
        """The complexity of its formula; if it is none yet of the shortest, c or c x variable."""
        if isinstance(self.shape, Formula):
            return complexity(self.shape.expression) + complexity(self.variable) - 1
        return 1 if self.variable == 0 else 2 + complexity(self.variable)


class Term(NamedTuple):
    """A vector, or number, times a product of functions of one variable each."""

    along: tuple[sympy.Expr, ...]
    """Components of the vector, expressions of the same columns; 0 where it has no value."""
    factors: tuple[Factor, ...] = ()
    coupling: sympy.Expr = sympy.Integer(1)
    """What it is multiplied with besides, without numbers that are fitted."""
    name: str = ""
    """What the vector is called."""

    def components(self, columns: Mapping[str, Any], count: int) -> list[np.ndarray]:
        """Values `[sample]` of vector times coupling, for each component."""
        factor = column(self.coupling, columns, count)
        with np.errstate(all="ignore"):
            each = [factor * column(one, columns, count) for one in self.along]
        return [np.where(np.isfinite(one), one, 0.0) for one in each]

    @property
    def words(self) -> int:
        """The complexity of all that is not yet a function to be found."""
        parts = map(complexity, (self.coupling, *self.along))
        return sum(parts) + sum(one.words for one in self.factors)

    def size(self) -> sympy.Expr:
        """What the vector is multiplied with: the coupling times its formulas."""
        whole = self.coupling * sympy.Mul(*map(written_out, self.factors))
        number, rest = whole.as_coeff_Mul()
        # Numbers of several formulas may make a whole one.
        nearest = round(float(number)) if number.is_Float else 0
        plain = nearest and abs(number - nearest) <= _ROUNDED * abs(number)
        return nearest * rest if plain else whole


class Law(NamedTuple):
    """A law with its numbers, which its functions hold."""

    message: tuple[Term, ...]
    """Terms of what each element adds."""
    update: tuple[Term, ...]
    """Terms of what the sums e_0, e_1, ... become."""

    @property
    def words(self) -> int:
        """The complexity of all its terms."""
        return sum(term.words for term in (*self.message, *self.update))

    @property
    def shapes(self) -> list[Any]:
        """Those of all factors, the message's first."""
        return [one.shape for term in (*self.message, *self.update) for one in term.factors]

    @property
    def sent(self) -> int:
        """The number of factors of the message."""
        return sum(len(term.factors) for term in self.message)

    def factor(self, number: int) -> tuple[Term, Factor]:
        """A factor, counted as in `shapes`, and its term."""
        several = [(t, f) for t in (*self.message, *self.update) for f in t.factors]
        return several[number]

    @property
    def structure(self) -> frozenset[Any]:
        """What the law consists of, whatever its functions are, and in any order."""
        return frozenset(
            (inside, term.along, term.coupling, tuple(one.variable for one in term.factors))
            for inside, terms in ((True, self.message), (False, self.update))
            for term in terms
        )

    @property
    def is_proper(self) -> bool:
        """Whether elements add to all sums that an update is of, and nothing enters twice.

        What there is a function of has no part in a coupling as well.
        """
        for term in (*self.message, *self.update):
            if term.coupling.free_symbols & {one.variable for one in term.factors[1:]}:
                return False
        dim = len(self.update[0].along)
        made = sum_symbols(len(self.message[0].along) if self.message else dim)
        of = [one.variable for term in self.update for one in term.factors]
        sums = {str(x) for one in (*self.update[0].along, *of) for x in one.free_symbols}
        return {x for x in sums if x.startswith("e_")} <= set(map(str, made))

    @property
    def is_linear(self) -> bool:
        """Whether sums of messages become nothing but themselves."""
        first = self.update[0]
        return not first.factors and first.along == sum_symbols(len(first.along))

    def with_shapes(self, shapes: Sequence[Any]) -> "Law":
        """The law with other functions, in the order of `shapes`."""
        counted = iter(shapes)

        def term(old):
            own = (one._replace(shape=next(counted)) for one in old.factors)
            return old._replace(factors=tuple(own))

        return Law(tuple(map(term, self.message)), tuple(map(term, self.update)))

    def with_numbers(self, numbers: Float[np.ndarray, " number"]) -> "Law":
        """The law with other values of all its numbers, in the order of `Bound.start`."""
        _, places = numbered(self.shapes)
        return self.with_shapes(with_numbers(self.shapes, [numbers[one] for one in places]))


def in_words(law: Law) -> str:
    """The terms of a law whose functions are not said.

    >>> r, mass = sympy.symbols("r m_j")
    >>> pull = Term((r,), (Factor(r, Grid(14)),), mass, "line of centres")
    >>> in_words(Law((pull,), (unchanged(1), Term((r,), (), sympy.Integer(1), "place"))))
    'm_j f(r) line of centres + place'
    """
    parts = []
    for term in (*law.message, *law.update[1:]):
        known = [] if term.coupling == 1 else [str(term.coupling)]
        parts.append(" ".join([*known, *_functions(term), term.name]))
    whole = " + ".join(parts) or "nothing"
    within = _functions(law.update[0])
    return f"({whole}) {' '.join(within)}" if within else whole


def _functions(term):
    return [
        str(written_out(one)) if isinstance(one.shape, Formula) else f"f({one.variable})"
        for one in term.factors
        if one.variable != 0
    ]


def sum_symbols(count: int) -> tuple[sympy.Symbol, ...]:
    """The sums of a message of so many components.

    >>> sum_symbols(2)
    (e_0, e_1)
    """
    return tuple(sympy.Symbol(f"e_{k}") for k in range(count))


class Fitted(NamedTuple):
    """A law whose factors are splines."""

    law: Law
    covariance: tuple[Float[np.ndarray, "number number"], ...]
    """For each spline, that of its numbers."""
    errors: Float[np.ndarray, " row"]
    """Held-out errors; NaN where splines say nothing."""

    @property
    def error(self) -> float:
        """Mean held-out error."""
        return float(np.nanmean(self.errors))


def candidate_of(law: Law) -> tuple[sympy.Expr, ...]:
    """The formulas of all factors of a law."""
    shapes: list[Any] = law.shapes
    return tuple(one.expression for one in shapes)


def as_expressions(law: Law) -> tuple[tuple[sympy.Expr, ...], tuple[sympy.Expr, ...]]:
    """Message and update of a law whose factors are formulas, along each component.

    >>> r = sympy.Symbol("r")
    >>> term = Term((sympy.Symbol("dx") / r,), (Factor(r, Formula(2 * r)),))
    >>> as_expressions(Law((term,), (unchanged(1),)))
    ((2*dx,), (e_0,))
    """

    def written(terms):
        parts = [[one * term.size() for one in term.along] for term in terms]
        nothing = (sympy.Integer(0),) * len(law.update[0].along)
        return tuple(_summed(several) for several in zip(*parts, strict=True)) or nothing

    return written(law.message), written(law.update)


def written_out(factor: Factor) -> Any:
    """The formula of a factor, of what its variable is of."""
    shape: Any = factor.shape
    return without_differences(shape.expression.xreplace({R: factor.variable}))


def _summed(parts):
    """The sum, without a constant that is nothing but what rounding leaves of others."""
    number, rest = sympy.Add(*parts).as_coeff_Add()
    largest = max(abs(one.as_coeff_Add()[0]) for one in parts)
    return rest if abs(number) < _CANCELLED * largest else number + rest


def unchanged(count: int) -> Term:
    """The term of an update that is the sums themselves."""
    return Term(sum_symbols(count))


def numbered(shapes: Sequence[Any]) -> tuple[np.ndarray, list[Int[np.ndarray, " number"]]]:
    """All numbers, and which of them each shape has; equal constants of formulas are one.

    >>> numbered([Formula(2.5 * R), Formula(2.5 + R)])
    (array([2.5]), [array([0]), array([0])])
    """
    found: list[float] = []
    known: dict[sympy.Float, int] = {}
    places = []
    for shape in shapes:
        own = []
        named = constants(shape.expression) if isinstance(shape, Formula) else None
        for k, number in enumerate(shape.numbers):
            place = len(found)
            if named is not None:
                place = known.setdefault(named[k], place)
            if place == len(found):
                found.append(float(number))
            own.append(place)
        places.append(np.asarray(own, int))
    return np.asarray(found), places


def sums_as_columns(sums: Float[np.ndarray, "owner component"]) -> dict[str, np.ndarray]:
    """Sums by their names."""
    return {str(one): x for one, x in zip(sum_symbols(sums.shape[1]), sums.T, strict=True)}


def column(
    expression: sympy.Expr, columns: Mapping[str, Any], count: int
) -> Float[np.ndarray, " sample"]:
    """Values `[sample]` of an expression; a number is one everywhere."""
    if not expression.free_symbols:
        return np.full(count, float(expression))
    return values(expression, columns)
