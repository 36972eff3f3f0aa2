"""Laws of sums: a function of the sum of what each element adds, both of one-variable factors.

The message and the update are sums of terms, each term a product of functions of one variable
("factors"). Factors are splines at first and formulas in the end; both are fitted to the
targets in the same way.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import sympy
from jaxtyping import Float, Int
from scipy import sparse

from symjax_gn.data.datasets import Dataset, sends_elements, some_graphs
from symjax_gn.data.features import (
    COUNT,
    SPEEDS,
    element_features,
    node_features,
    pair_features,
    scalar_features,
)
from symjax_gn.data.graphs import flatten
from symjax_gn.data.nodes import take_nodes
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.splines import Curve, design
from symjax_gn.laws.expressions import with_slots
from symjax_gn.laws.tapes import Tape, derivative
from symjax_gn.model import known_targets

# The sum of messages, and what factors are functions of.
SUM = "e_0"
_X = sympy.Symbol("r")

# Steps of one fit of splines, the fall of the squared error at which it ends, and the least and
# largest damping.
_STEPS, _TOLERANCE, _DAMPING = 30, 1e-3, (1e-9, 1e3)

Term = tuple[str, ...]
"""The variables of a product of factors."""


def with_differences(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of pairs, and the differences of properties, the sender's less the receiver's.

    >>> with_differences({"age_i": np.array([2.0]), "age_j": np.array([5.0])})["age_ij"]
    array([3.])
    """
    new = {}
    for name in scalar_features(columns):
        stem = name.removesuffix("i")
        sender, both = f"{stem}j", f"{stem}ij"
        if name.endswith("_i") and sender in columns and both not in (*columns, *SPEEDS):
            new[both] = columns[sender] - columns[name]
    return {**columns, **new}


def without_differences(law: Any) -> Any:
    """A law with the differences of `with_differences` written out.

    >>> without_differences(sympy.sin(sympy.Symbol("age_ij")))
    -sin(age_i - age_j)
    """
    names = (str(symbol) for symbol in law.free_symbols)
    ends = {name: name.removesuffix("ij") for name in names if name.endswith("_ij")}
    return law.xreplace(
        {
            sympy.Symbol(name): sympy.Symbol(f"{stem}j") - sympy.Symbol(f"{stem}i")
            for name, stem in ends.items()
            if name not in SPEEDS
        }
    )


class Summed(NamedTuple):
    """Elements, their owners, and what is known of these; float64."""

    elements: dict[str, Float[np.ndarray, " element"]]
    """Feature columns of what sends messages: pairs, with differences of their properties, or
    elements of sets."""
    owners: dict[str, Float[np.ndarray, " owner"]]
    """Scalars of what the messages are summed for, of nodes or graphs: their number, and of
    nodes their own."""
    matrix: Any
    """`[owner, element]`, sparse: sums over the elements of each owner."""
    target: Float[np.ndarray, "owner component"]
    """User's units."""
    weight: float
    """1 / typical |target|."""
    known: Any = 0.0
    """[owner], what is known of the sums, besides what elements add."""


def gather_sums(dataset: Dataset, num_elements: int, num_owners: int = 1) -> Summed:
    """Owners with known targets of evenly spaced graphs.

    Args:
        dataset: graphs.
        num_elements: about how many elements they have in all.
        num_owners: about how many owners there are at least, whatever elements they have.
    """
    some = some_graphs(dataset, num_elements, num_owners)
    count = len(some)
    graphs: Any = flatten(jax.tree.map(np.asarray, some.graphs))
    if sends_elements(dataset):
        columns: dict[str, Any] = element_features(graphs.nodes)
        sizes = graphs.n_node
    else:
        receiver, sender = (
            take_nodes(graphs.nodes, end) for end in (graphs.receivers, graphs.senders)
        )
        columns = with_differences(pair_features(receiver, sender, dataset.space))
        sizes = graphs.n_edge
    target = np.asarray(some.target, np.float64)
    target = target.reshape(-1, target.shape[-1])
    known = known_targets(some)
    kept = np.arange(len(target)) if known is None else np.flatnonzero(known)
    own: dict[str, Any] = {}
    if dataset.quantity.level == "node":
        owner, owners = graphs.receivers, len(target)
        own = scalar_features(node_features(graphs.nodes))
    else:
        # Each graph may be followed by its padding.
        parts = len(sizes) // count
        owner, owners = np.repeat(np.arange(len(sizes)), sizes), len(sizes)
        kept = kept * parts
    sent = len(owner)
    matrix = sparse.csr_matrix((np.ones(sent), (owner, np.arange(sent))), (owners, sent))[kept]
    target = target[kept // (owners // len(target))]
    own = {name: np.asarray(x, np.float64)[kept] for name, x in own.items()}
    counts = np.diff(matrix.indptr).astype(float)
    weight = 1 / (typical_size(target) or 1.0)
    columns = {name: np.asarray(x, np.float64) for name, x in columns.items()}
    return _without_others(Summed(columns, own | {COUNT: counts}, matrix, target, weight))


def _without_others(data: Summed) -> Summed:
    """The same without elements that no owner has."""
    used = np.flatnonzero(np.asarray(data.matrix.sum(axis=0)).ravel())
    elements = {name: x[used] for name, x in data.elements.items()}
    return data._replace(elements=elements, matrix=data.matrix[:, used])


def within(data: Summed, seen: Summed) -> Summed:
    """Owners whose own numbers, and those of all their elements, are within the ranges of others.

    Beyond these, what is fitted to the others says nothing. If there are no such owners, all.

    Args:
        data: owners, with no sums known.
        seen: the others, with the same columns.
    """

    def beyond(columns, others):
        ends = {name: (np.min(x), np.max(x)) for name, x in others.items()}
        return sum(((x < ends[name][0]) | (x > ends[name][1])) * 1.0 for name, x in columns.items())

    outside = data.matrix @ beyond(data.elements, seen.elements)
    rows = np.flatnonzero(outside + beyond(data.owners, seen.owners) == 0)
    if len(rows) == 0:
        return data
    owners = {name: x[rows] for name, x in data.owners.items()}
    kept = data._replace(owners=owners, matrix=data.matrix[rows], target=data.target[rows])
    return _without_others(kept)


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

    def predict(self, numbers: Float[np.ndarray, " number"]) -> Float[np.ndarray, " owner"]:
        """The target, for given values of all numbers."""
        with np.errstate(all="ignore"):
            _, found = self._became(numbers, self.sums(numbers))
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
