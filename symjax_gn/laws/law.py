"""What a law is: sums over elements, and what becomes of them, of products of functions.

    e_c(owner)  = sum over its elements of  sum over message terms of  along_c x product of factors
    y_k(owner)  = sum over update terms of  along_k x product of factors

Each factor is a function of one variable (`laws.shapes`); what is along each component is an
expression without numbers of its own. Forces, laws of sets, and functions of columns are such
laws; all are fitted in the same way.
"""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float, Int
from scipy import sparse

from symjax_gn.laws.expressions import constants, values
from symjax_gn.laws.samples import Samples, without_differences
from symjax_gn.laws.shapes import Formula, Frozen, R, Shape, Spline, scaled_rows, with_numbers

# Steps of one fit of splines, the fall of the squared error at which it ends, and the least and
# largest damping.
_STEPS, _TOLERANCE, _DAMPING = 30, 1e-3, (1e-9, 1e3)

# Derivatives below this are none; errors above the other count as that.
_UNSEEN, _WRONG = 1e-100, 1.0

# Constants of terms cancel each other if no more than this share is left.
_CANCELLED = 1e-9

# Places that stand for values of a variable, evenly spread, and as many quantiles, if there are
# so many times as many values.
_PLACES, _SPREAD = 1000, 20


class Factor(NamedTuple):
    """A function of one variable."""

    variable: sympy.Expr
    """Of columns; in an update also of the sums e_0, e_1, ..."""
    shape: Spline | Formula


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
        factor = _column(self.coupling, columns, count)
        with np.errstate(all="ignore"):
            each = [factor * _column(one, columns, count) for one in self.along]
        return [np.where(np.isfinite(one), one, 0.0) for one in each]

    def size(self) -> sympy.Expr:
        """What the vector is multiplied with: the coupling times its formulas."""
        return self.coupling * sympy.Mul(*map(written_out, self.factors))


class Law(NamedTuple):
    """A law with its numbers, which its functions hold."""

    message: tuple[Term, ...]
    """Terms of what each element adds."""
    update: tuple[Term, ...]
    """Terms of what the sums e_0, e_1, ... become."""

    @property
    def shapes(self) -> list[Spline | Formula]:
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
    def is_linear(self) -> bool:
        """Whether sums of messages become nothing but themselves."""
        first = self.update[0]
        return not first.factors and first.along == sum_symbols(len(first.along))

    def predict(self, samples: Samples) -> Float[np.ndarray, "row component"]:
        """Targets of samples by the law."""
        bound = bind(self, samples)
        return bound.predict(bound.start)

    def with_shapes(self, shapes: Sequence[Spline | Formula]) -> "Law":
        """The law with other functions, in the order of `shapes`."""
        counted = iter(shapes)

        def term(old):
            own = (one._replace(shape=next(counted)) for one in old.factors)
            return old._replace(factors=tuple(own))

        return Law(tuple(map(term, self.message)), tuple(map(term, self.update)))

    def with_numbers(self, numbers: Float[np.ndarray, " number"]) -> "Law":
        """The law with other values of all its numbers, in the order of `Bound.start`."""
        _, places = _numbered(self.shapes)
        return self.with_shapes(with_numbers(self.shapes, [numbers[one] for one in places]))


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


def _numbered(shapes) -> tuple[np.ndarray, list[Int[np.ndarray, " number"]]]:
    """All numbers, and which of them each shape has; equal constants of formulas are one."""
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


class _Splines:
    """A term of a message that is one spline: its parts are summed once and for all."""

    def __init__(self, sums, basis, place):
        self._tables = np.stack([_dense(one @ basis) for one in sums], axis=1)
        self._place = place

    @property
    def width(self):
        """The number of components."""
        return self._tables.shape[1]

    def sent(self, numbers):
        """What the other methods need."""
        return numbers[self._place]

    def added(self, sent):
        """What the term adds to the sums `[owner, component]`."""
        return self._tables @ sent

    def slopes(self, sent, numbers):
        """Derivatives `[owner, component, number]` by numbers, and which these are."""
        yield self._tables, self._place


class _Product:
    """A term of a message that is any product of factors."""

    def __init__(self, sums, bound, places):
        self._sums, self._bound, self._places = sums, bound, places

    @property
    def width(self):
        """See `_Splines`."""
        return len(self._sums)

    def sent(self, numbers):
        """Values of the factors."""
        return [one.values(numbers[k]) for one, k in zip(self._bound, self._places, strict=True)]

    def added(self, sent):
        """See `_Splines`."""
        product = np.broadcast_to(_product(sent), self._sums[0].shape[1:])
        return np.stack([one @ product for one in self._sums], axis=1)

    def slopes(self, sent, numbers):
        """See `_Splines`."""
        for k, (one, place) in enumerate(zip(self._bound, self._places, strict=True)):
            table = one.slopes(numbers[place])
            if len(sent) > 1:
                table = scaled_rows(table, _product(sent[:k] + sent[k + 1 :]))
            yield np.stack([_dense(sums @ table) for sums in self._sums], axis=1), place


def _product(several):
    """The product of arrays; 1 of none."""
    return several[0] if len(several) == 1 else np.prod(several, axis=0, initial=1.0)


class _Prepared(NamedTuple):
    """A term of a message on elements, without its functions."""

    sums: list[Any]
    """For each component `[owner, element]`: sums of what is multiplied with what is known."""
    columns: list[Float[np.ndarray, " element"]]
    """The variable of each factor."""

    def bind(self, shapes, places):
        """The term with its functions."""
        bound = [one.bind(x) for one, x in zip(shapes, self.columns, strict=True)]
        if len(bound) == 1 and isinstance(shapes[0], Spline):
            return _Splines(self.sums, bound[0].basis, places[0])
        return _Product(self.sums, bound, places)


def _prepared(term, samples):
    columns, count = samples.elements, samples.sums.shape[1]
    sums = [samples.sums]
    if term.along != (1,) or term.coupling != 1:
        sums = [_scaled_columns(samples.sums, x) for x in term.components(columns, count)]
    return _Prepared(sums, [_column(one.variable, columns, count) for one in term.factors])


class Frame:
    """A law on samples without its functions, for which others can be put in many times."""

    def __init__(self, law: Law, samples: Samples):
        """Prepare what does not depend on the functions.

        Args:
            law: says which factors there are.
            samples: what the law is fitted to.
        """
        self.samples, self.update = samples, law.update
        self._message = [_prepared(term, samples) for term in law.message]

    def bind(self, shapes: Sequence[Shape]) -> "Bound":
        """The law with functions of all factors, those of the message first."""
        numbers, places = _numbered(shapes)
        counted = iter(zip(shapes, places, strict=True))

        def own(count):
            found = list(itertools.islice(counted, count))
            return [shape for shape, _ in found], [place for _, place in found]

        message = [term.bind(*own(len(term.columns))) for term in self._message]
        update = [(term, *own(len(term.factors))) for term in self.update]
        return Bound(self.samples, message, update, numbers)

    def only(self, shapes: Sequence[Shape], free: int) -> tuple["Frame", list[Any]]:
        """The law as it depends on one factor, where functions are given for all others.

        What others multiply many values of the factor's variable with is spread over the nearest
        two of some places, so that the factor need be known there only.

        Args:
            shapes: of all factors.
            free: the number of the one that is not known.

        Returns:
            A frame, and shapes for it, with None for the one that is not known.
        """
        frame, first = copy.copy(self), 0
        kept, left, known = [], [], np.asarray(self.samples.known)
        for term in self._message:
            count = len(term.columns)
            own = [Frozen(one) for one in shapes[first : first + count]]
            place, first = free - first, first + count
            if 0 <= place < count:
                others = [k for k in range(count) if k != place]
                each = [own[k].bind(term.columns[k]).known for k in others]
                kept.append(_of_one(term.sums, term.columns[place], _product(each)))
                left.append(None)
            else:
                known = known + _added(term.bind(own, [np.zeros(0, int)] * count))
        frame._message = kept
        frame.samples = self.samples._replace(known=known)
        for k, one in enumerate(shapes[first:], first):
            left.append(None if k == free else Frozen(one))
        return frame, left


def _added(term):
    """What a term without numbers adds."""
    return term.added(term.sent(np.zeros(0)))


def _of_one(sums, x, rest):
    """A term as it depends on one factor, of which the product of the others is known."""
    rest = np.broadcast_to(rest, x.shape)
    if len(x) < _SPREAD * _PLACES:
        return _Prepared([_scaled_columns(one, rest) for one in sums], [x])
    share = np.linspace(0, 1, _PLACES)
    even = np.min(x) + share * np.ptp(x)
    places = np.unique(np.concatenate([np.quantile(x, share), even]))
    left = np.clip(np.searchsorted(places, x) - 1, 0, len(places) - 2)
    part = (x - places[left]) / (places[left + 1] - places[left])
    rows = np.tile(np.arange(len(x)), 2)
    spread = sparse.csr_array(
        (np.concatenate([rest * (1 - part), rest * part]), (rows, np.append(left, left + 1))),
        shape=(len(x), len(places)),
    )
    return _Prepared([_dense(one @ spread) for one in sums], [places])


class Bound:
    """A law on samples, as a function of its numbers."""

    def __init__(self, samples: Samples, message: list[Any], update: list[Any], numbers: Any):
        """See `Frame.bind`."""
        self.samples, self.start = samples, numbers
        self._message, self._update = message, update
named = [_named_sums(term) for term, *_ in update]
        widths = (*np.shape(samples.known)[1:], *(one.width for one in message), *named)
        self._width = max([0, *widths])

    def _sent(self, numbers):
        """What the terms of the message send."""
        return [term.sent(numbers) for term in self._message]

    def _whole(self, sent, share=1.0):
        """The sums `[owner, component]` of what is sent."""
        total = np.zeros((self.samples.sums.shape[0], self._width)) + self.samples.known
        for term, one in zip(self._message, sent, strict=True):
            total = total + term.added(one)
        return share * total

    def sums(self, numbers: Float[np.ndarray, " number"]) -> Float[np.ndarray, "owner component"]:
        """The sums of messages."""
        with np.errstate(all="ignore"):
            return self._whole(self._sent(numbers))

    def _became(self, numbers, sums):
        """The update: for each term what is along components, its factors bound, their values."""
        columns = {**self.samples.owners, **sums_as_columns(sums)}
        count = len(sums)
        found = []
        for term, shapes, places in self._update:
            along = np.stack(term.components(columns, count), axis=1)
            variables = [_column(one.variable, columns, count) for one in term.factors]
            bound = [one.bind(x) for one, x in zip(shapes, variables, strict=True)]
            each = [one.values(numbers[k]) for one, k in zip(bound, places, strict=True)]
            found.append((along, bound, each))
        return columns, found

    def predict(
        self, numbers: Float[np.ndarray, " number"], share: float = 1.0
    ) -> Float[np.ndarray, "row component"]:
        """The targets, for given numbers, and a share of the sums."""
        with np.errstate(all="ignore"):
            return self._rows(self._became(numbers, self._whole(self._sent(numbers), share))[1])

    def _rows(self, became):
        total: Any = 0.0
        for along, _, each in became:
            total = total + along * np.asarray(_product(each))[..., None]
        return self.samples.of_owners(total)

    def errors(self, numbers: Float[np.ndarray, " number"]) -> Float[np.ndarray, "row component"]:
        """Weighted errors."""
        with np.errstate(all="ignore"):
            return (self.predict(numbers) - self.samples.target) * self.samples.weight[:, None]

    def slopes(
        self, numbers: Float[np.ndarray, " number"]
    ) -> Float[np.ndarray, "row component number"]:
        """Derivatives of the weighted errors."""
        with np.errstate(all="ignore"):
            return self._slopes(numbers)

    def _slopes(self, numbers):
        sent = self._sent(numbers)
        columns, became = self._became(numbers, self._whole(sent))
        count, dim = self.samples.sums.shape[0], self.samples.target.shape[1]
        found = np.zeros((count, dim, len(numbers)))
        by_sum = np.zeros((count, dim, self._width))
        for (term, _, places), (along, bound, each) in zip(self._update, became, strict=True):
            for k, (factor, one, place) in enumerate(zip(term.factors, bound, places, strict=True)):
                own = numbers[place]
                rest = along * np.asarray(_product(each[:k] + each[k + 1 :]))[..., None]
                found[:, :, place] += rest[:, :, None] * _dense(one.slopes(own))[:, None, :]
                for c, chain in _chains(factor.variable, columns, self._width):
                    by_sum[:, :, c] += rest * (one.along(own) * chain)[:, None]
            for k, expression in enumerate(term.along):
                for c, chain in _chains(term.coupling * expression, columns, self._width):
                    by_sum[:, k, c] += _product(each) * chain
        for term, one in zip(self._message, sent, strict=True):
            for table, place in term.slopes(one, numbers):
                found[:, :, place] += np.einsum("okc,ocn->okn", by_sum, table)
        rows = self.samples.of_owners(found.reshape(count, -1))
        return rows.reshape(-1, dim, len(numbers)) * self.samples.weight[:, None, None]


def bind(law: Law, samples: Samples) -> Bound:
    """A law on samples, as a function of its numbers."""
    return Frame(law, samples).bind(law.shapes)


def sums_as_columns(sums: Float[np.ndarray, "owner component"]) -> dict[str, np.ndarray]:
    """Sums by their names."""
    return {str(one): x for one, x in zip(sum_symbols(sums.shape[1]), sums.T, strict=True)}


def _named_sums(term: Term) -> int:
    """How many sums a term of an update knows of: a law may have no messages."""
    of = [term.coupling, *term.along, *(one.variable for one in term.factors)]
    names = {str(symbol) for one in of for symbol in one.free_symbols}
    return next(k for k in itertools.count() if f"e_{k}" not in names)


def _chains(expression, columns, width):
    """Derivatives `[owner]` of an expression by each of the sums that it holds."""
    for c, symbol in enumerate(sum_symbols(width)):
        if expression == symbol:
            yield c, 1.0
        elif expression.has(symbol):
            yield c, values(expression.diff(symbol), columns)


def _column(expression, columns, count):
    """Values `[sample]` of an expression; a number is one everywhere."""
    if not expression.free_symbols:
        return np.full(count, float(expression))
    return values(expression, columns)


def _scaled_columns(matrix, factor):
    """A matrix, sparse or dense, with its columns multiplied."""
    if not sparse.issparse(matrix):
        return matrix * factor
    scaled = matrix.tocsr(copy=True)
    scaled.data = scaled.data * factor[scaled.indices]
    return scaled


def _dense(table):
    return table.toarray() if sparse.issparse(table) else np.asarray(table)


def sizes(errors: Float[np.ndarray, "row component"]) -> Float[np.ndarray, " row"]:
    """Lengths of errors; infinite where they are no numbers."""
    with np.errstate(all="ignore"):
        found = np.linalg.norm(errors, axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def mean_size(errors: Float[np.ndarray, "row component"]) -> float:
    """What laws are rated by; infinite where errors are no numbers."""
    mean = float(np.mean(sizes(errors)))
    return mean if math.isfinite(mean) else math.inf


def fit_splines(bound: Any, start: Float[np.ndarray, " number"]) -> np.ndarray:
    """Numbers by least squares, near the first ones (Levenberg and Marquardt).

    Args:
        bound: has `errors` and `slopes`.
        start: its numbers to start from.
    """
    numbers, damping = start, _DAMPING[0]
    errors = bound.errors(numbers).ravel()
    for _ in range(_STEPS):
        slopes = bound.slopes(numbers).reshape(len(errors), -1)
        # Columns of one size, of which some may depend on each other: gauges of the law.
        size = np.sqrt(np.sum(slopes**2, axis=0)) + 1e-300
        scaled = slopes / size
        gram, right = scaled.T @ scaled, scaled.T @ errors
        before = errors @ errors
        while damping <= _DAMPING[1]:
            step = np.linalg.solve(gram + damping * np.eye(len(gram)), right) / size
            trial = bound.errors(numbers - step).ravel()
            if trial @ trial < before:
                break
            damping *= 10
        else:
            break
        numbers, errors, damping = numbers - step, trial, max(0.1 * damping, _DAMPING[0])
        if errors @ errors > (1 - _TOLERANCE) * before:
            break
    return numbers


def fitted(law: Law, train: Samples, valid: Samples) -> Fitted:
    """A law whose numbers were fitted, with what is known of them.

    Args:
        law: its functions are splines.
        train: what they were fitted to.
        valid: other data, for the errors; those above 1 count as 1, for where one element is
            beyond all that were fitted, splines may be off by any factor.
    """
    bound, other = bind(law, train), bind(law, valid)
    covariance = covariance_of(bound)
    _, places = _numbered(law.shapes)
    parts = tuple(covariance[np.ix_(one, one)] for one in places)
    errors = np.minimum(sizes(other.errors(other.start)), _WRONG)
    return Fitted(law, parts, errors)


def covariance_of(bound: Bound) -> Float[np.ndarray, "number number"]:
    """That of a law's numbers, as far as data say anything of them."""
    left = bound.errors(bound.start).ravel()
    slopes = bound.slopes(bound.start).reshape(len(left), -1)
    variance = float(np.sum(left**2)) / max(1, len(left) - len(bound.start))
    size = np.sqrt(np.mean(slopes**2, axis=0))
    # Parts of splines that no sample reaches have no spread.
    size = np.where(size > _UNSEEN, size, 1.0)
    scaled = slopes / size
    inverse = np.linalg.pinv(scaled.T @ scaled, rcond=1e-12, hermitian=True) * variance
    return inverse / np.outer(size, size)
