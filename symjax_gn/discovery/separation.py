"""Terms of which messages and updates are sums, with their factors as splines.

The network says what may be there: its messages are split into terms of few variables. What the
factors are the targets decide, to which all are fitted together.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float
from scipy import sparse

from symjax_gn.data.units import typical_size
from symjax_gn.laws import law as laws
from symjax_gn.laws.bound import Bound, bind
from symjax_gn.laws.law import Factor, Fitted, Law, unchanged
from symjax_gn.laws.least_squares import covariance_of, fit_splines
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import Formula, Spline, place_knots

# Pieces of a factor when terms are looked for, and when they are compared.
FIRST, COMPARED = 6, 14

# A further product must lower the held-out error by this factor; by the second as long as more
# than this share of the message is left: then it is no sum of few products, but near to one.
_FALL, _SMALL_FALL, _MUCH = 1.25, 1.05, 0.1

# What terms leave below this share of a message is left to the network's errors.
_LEFT = 0.01

# Functions of no more values than these are known by as many numbers.
_FEW = 28

# The range of sums may grow by this share as messages are fitted.
_MARGIN = 0.1

# Products of so many variables, at most; and of each round those that are tried in full, the
# best ones by what they explain of what others leave.
_MOST_FACTORS, _TRIED = 3, 3


# The sum of messages.
SUM = "e_0"

Term = tuple[str, ...]
"""The variables of a product of factors."""


class SplineLaw(NamedTuple):
    """A law of sums whose factors are splines."""

    message: tuple[Term, ...]
    update: tuple[Term, ...]
    curves: tuple[Spline, ...]
    """Those of the message's terms in order, then those of the update's."""
    covariance: tuple[Float[np.ndarray, "part part"], ...]
    """For each curve, that of its parts."""
    errors: Float[np.ndarray, " owner"]
    """Held-out errors over the typical target; NaN beyond the ends of the sums that were fitted,
    where splines say nothing."""

    @property
    def error(self) -> float:
        """Mean held-out error."""
        return float(np.nanmean(self.errors))

    @property
    def variables(self) -> list[str]:
        """The variable of each curve."""
        return [name for term in (*self.message, *self.update) for name in term]

    @property
    def law(self) -> Law:
        """The law with its splines."""
        return as_law(self.message, self.update, self.curves)

    @property
    def fitted(self) -> Fitted:
        """The law with what is known of its numbers."""
        return Fitted(self.law, self.covariance, self.errors)

    def on(self, samples: Samples) -> Bound:
        """The law on samples."""
        return bind(self.law, samples)

    def with_numbers(self, numbers: Float[np.ndarray, " number"]) -> "SplineLaw":
        """The law with other values of all numbers of its splines."""
        curves: Any = self.law.with_numbers(numbers).shapes
        return self._replace(curves=tuple(curves))


def as_law(
    message: Sequence[Term], update: Sequence[Term], shapes: Sequence[Spline | Formula]
) -> Law:
    """The law of some factors.

    Args:
        message: terms of what each element adds.
        update: terms of what the sum becomes.
        shapes: of all factors, those of the message first.
    """
    counted = iter(shapes)

    def made(terms):
        return tuple(
            laws.Term(
                (sympy.Integer(1),),
                tuple(Factor(sympy.Symbol(name), next(counted)) for name in term),
            )
            for term in terms
        )

    return Law(made(message), made(update))


def knots_of(
    x: Float[np.ndarray, " sample"], pieces: int, margin: float = 0.0
) -> Float[np.ndarray, " knot"]:
    """Knots of a factor, see `place_knots`; of one of few values as many pieces as it needs."""
    count = len(np.unique(x))
    return place_knots(x, max(1, count - 1) if count <= _FEW else pieces, margin)


def fit_terms(
    terms: Sequence[Term],
    columns: Mapping[str, Float[np.ndarray, " sample"]],
    target: Float[np.ndarray, " sample"],
    pieces: int,
    margin: float = 0.0,
) -> tuple[Spline, ...]:
    """Factors of given terms by least squares on samples of their sum.

    Args:
        terms: products that are summed.
        columns: variables by name.
        target: `[sample]`, the sum.
        pieces: of each spline; of variables of few values one between any two.
        margin: see `place_knots`.
    """
    names = [(name, len(term) > 1) for term in terms for name in term]
    knots = [knots_of(columns[name], pieces, margin) for name, _ in names]
    blank = [Spline(one, np.zeros(len(one) - 4)) for one in knots]
    law = as_law(terms, (), blank)._replace(update=(unchanged(1),))
    bound = bind(law, _samples(columns, target))
    found = []
    # Products of functions with and without a change of sign are far apart.
    for ramp in (False, True) if any(len(term) > 1 for term in terms) else (False,):
        start = [
            _start(one, columns[name], product, ramp)
            for one, (name, product) in zip(knots, names, strict=True)
        ]
        numbers = fit_splines(bound, np.concatenate(start))
        found.append((float(np.sum(bound.errors(numbers) ** 2)), numbers))
    numbers = min(found, key=lambda row: row[0])[1]
    curves: Any = law.with_numbers(numbers).shapes
    return tuple(curves)


def _start(knots, x, product, ramp):
    """Parts of a spline to start from: 0 for a sum; 1, or a straight line, for a product."""
    if not product:
        return np.zeros(len(knots) - 4)
    if not ramp:
        return np.ones(len(knots) - 4)
    return straight_line(knots, x)


def straight_line(
    knots: Float[np.ndarray, " knot"], x: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, " part"]:
    """Parts `[part]` of a spline that is a straight line through 0 at the mean of a variable."""
    places = np.mean([knots[k : len(knots) - 4 + k] for k in (1, 2, 3)], axis=0)
    return (places - np.mean(x)) / np.std(x)


def _samples(columns, target) -> Samples:
    """Samples as sums of one element each."""
    size, count = typical_size(target - np.mean(target)) or 1.0, len(target)
    each = sparse.identity(count, format="csr")
    weight, number = np.full(count, 1 / size), np.arange(count)
    return Samples(dict(columns), {}, each, each, target[:, None], weight, number)


def evaluate_terms(
    terms: Sequence[Term],
    curves: Sequence[Spline],
    columns: Mapping[str, Float[np.ndarray, " sample"]],
) -> Any:
    """The sum `[sample]` of terms whose factors are given."""
    counted = iter(curves)
    return sum(
        np.prod([next(counted).values(columns[name]) for name in term], axis=0) for term in terms
    )


def _falls(before, after):
    """Whether errors of samples fall so much that a further product is there."""
    least = _SMALL_FALL if np.mean(after) > _MUCH else _FALL
    return bool(np.mean(after) <= np.mean(before) / least)


def separate(
    columns: Mapping[str, Float[np.ndarray, " sample"]],
    target: Float[np.ndarray, " sample"],
    better: Callable[[np.ndarray, np.ndarray], bool] = _falls,
) -> list[Term]:
    """Terms of which samples of a function are a sum.

    Functions of one variable each at first; then products that lower the error on samples
    that were not fitted, one at a time. Which of them are needed is not said.

    Args:
        columns: variables by name; none of them constant.
        target: `[sample]`.
        better: says of errors `[sample]` before and after whether a product is there.

    >>> x, y, z = np.random.default_rng(0).normal(size=(3, 2000))
    >>> separate({"x": x, "y": y, "z": z}, x * np.exp(-y) + z**2)
    [('x',), ('y',), ('z',), ('x', 'y')]
    """
    halves = [slice(k, None, 2) for k in range(2)]
    size = float(np.mean(np.abs(target - np.mean(target)))) or 1.0

    seen, held_out = ({name: x[half] for name, x in columns.items()} for half in halves)

    def left(terms, target):
        """What is left of the target on either half, once terms are fitted to the first."""
        curves = fit_terms(terms, seen, target[0], FIRST)
        pairs = zip(target, (seen, held_out), strict=True)
        return [one - evaluate_terms(terms, curves, x) for one, x in pairs]

    def error(rest):
        return np.abs(rest[1]) / size

    terms: list[Term] = [(name,) for name in columns]
    whole = [target[half] for half in halves]
    rest = left(terms, whole)
    while np.mean(error(rest)) > _LEFT:
        longer = {
            tuple(sorted((*term, name), key=list(columns).index))
            for term in terms
            for name in columns
            if name not in term and len(term) < _MOST_FACTORS
        }
        alone = {
            one: left([*((name,) for name in one), one], rest)
            for one in sorted(longer - set(terms))
        }
        tried = sorted(alone, key=lambda one: np.mean(error(alone[one])))[:_TRIED]
        trials = [(left([*terms, one], whole), one) for one in tried]
        trial, best = min(trials, key=lambda one: np.mean(error(one[0])), default=(rest, None))
        if best is None or not better(error(rest), error(trial)):
            break
        rest = trial
        terms.append(best)
    return terms


def fit_law(
    message: Sequence[Term],
    curves: Sequence[Spline],
    update: Sequence[Term],
    train: Samples,
    valid: Samples,
    pieces: int,
) -> SplineLaw:
    """A law whose factors are fitted to the targets together.

    Args:
        message: terms of what each element adds.
        curves: their factors to start from.
        update: terms of what the sum becomes; their factors are fitted to given sums first.
        train: what is fitted.
        valid: other data, for the errors.
        pieces: of the update's factors.
    """
    sums = train.sums @ evaluate_terms(message, curves, train.elements)
    columns = {**train.owners, SUM: sums}
    outer = fit_terms(update, columns, train.target[:, 0], pieces, _MARGIN)
    law = SplineLaw(tuple(message), tuple(update), (*curves, *outer), (), np.zeros(0))
    bound = law.on(train)
    numbers = fit_splines(bound, bound.start)
    # Once more with what is known before: where nobody is, splines are no rougher than elsewhere.
    noise = float(np.sqrt(np.mean(bound.errors(numbers) ** 2)))
    rough = sparse.block_diag([_roughness(curve) for curve in law.curves]).toarray()
    numbers = fit_splines(_Smoothed(bound, noise * rough), bound.start)
    held_out, fitted = law.on(valid), bound.sums(numbers)
    sums = held_out.sums(numbers)[:, 0]
    seen = (np.min(fitted) <= sums) & (sums <= np.max(fitted))
    left = np.abs(held_out.errors(numbers)[:, 0])
    errors = np.where(seen, left, np.nan if np.any(seen) else np.inf)
    return law.with_numbers(numbers)._replace(errors=errors)


def with_covariance(law: SplineLaw, train: Samples) -> SplineLaw:
    """A law with the covariance of its factors' parts.

    Args:
        law: what `fit_law` gave.
        train: what it was fitted to.
    """
    covariance = covariance_of(law.on(train))
    ends = itertools.pairwise(np.cumsum([0, *(len(one.numbers) for one in law.curves)]))
    return law._replace(covariance=tuple(covariance[a:b, a:b] for a, b in ends))


def _roughness(curve):
    """Second differences of a spline's parts, over how much these vary."""
    size = float(np.std(curve.numbers)) or 1.0
    return np.diff(np.eye(len(curve.numbers)), 2, axis=0) / size


class _Smoothed(NamedTuple):
    """A law on samples, and linear functions of its numbers that are near 0."""

    law: Bound
    rows: np.ndarray

    def errors(self, numbers):
        return np.concatenate([self.law.errors(numbers).ravel(), self.rows @ numbers])

    def slopes(self, numbers):
        slopes = self.law.slopes(numbers).reshape(-1, len(numbers))
        return np.concatenate([slopes, self.rows])


def refined(
    terms: Sequence[Term],
    curves: Sequence[Spline],
    columns: Mapping[str, Float[np.ndarray, " sample"]],
    pieces: int,
) -> list[Spline]:
    """The same factors as splines of more pieces."""
    found = []
    for name, curve in zip([name for term in terms for name in term], curves, strict=True):
        x = np.unique(np.quantile(columns[name], np.linspace(0, 1, 20 * pieces)))
        knots = knots_of(columns[name], pieces)
        fine = Spline(knots, np.zeros(len(knots) - 4))
        numbers = np.linalg.lstsq(fine.basis(x).toarray(), curve.values(x), rcond=1e-10)[0]
        found.append(fine._replace(numbers=numbers))
    return found
