"""A law on samples, as a function of its numbers, and its derivatives by them.

NumPy in float64, without compilation: formulas are tried by the thousand, each a few times.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import sparse

from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import Law, Term, column, numbered, sum_symbols, sums_as_columns
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import Frozen, Shape, Spline, scaled_rows

# Places that stand for values of a variable, evenly spread, and as many quantiles, if there are
# so many times as many values.
_PLACES, _SPREAD = 1000, 20


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
    return _Prepared(sums, [column(one.variable, columns, count) for one in term.factors])


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
        numbers, places = numbered(shapes)
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
            variables = [column(one.variable, columns, count) for one in term.factors]
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


def predict(law: Law, samples: Samples) -> Float[np.ndarray, "row component"]:
    """Targets of samples by a law."""
    bound = bind(law, samples)
    return bound.predict(bound.start)


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


def _scaled_columns(matrix, factor):
    """A matrix, sparse or dense, with its columns multiplied."""
    if not sparse.issparse(matrix):
        return matrix * factor
    scaled = matrix.tocsr(copy=True)
    scaled.data = scaled.data * factor[scaled.indices]
    return scaled


def _dense(table):
    return table.toarray() if sparse.issparse(table) else np.asarray(table)
