"""Find the law of a small, noisy table: proposals from several searches, and one choice.

Proposals come from engines, from sums of known functions and from products of powers. They are
refined, and the law with the shortest description is chosen: what it takes to write the law, its
constants as precisely as the data give them, and the errors that it leaves.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import sympy

from symjax_gn.data.checks import as_floats, check_finite, shown
from symjax_gn.data.units import typical_size
from symjax_gn.laws.dictionary import search_sums
from symjax_gn.laws.engines import DEFAULT_OPERATORS, Regressor, check_problem
from symjax_gn.laws.expressions import complexity, rounded
from symjax_gn.laws.fronts import Column, Columns, RegressionError, pareto
from symjax_gn.laws.logarithms import TableObjective
from symjax_gn.laws.refinement import improve
from symjax_gn.laws.rules import RULES, under_one_bar
from symjax_gn.laws.searching import Problem, side_by_side
from symjax_gn.laws.similarity import power_laws, self_similar_laws

# A positive column spans decades if its largest value is so many times the smallest.
_SPANNING = 10.0

# Sizes that need no unit of their own.
_ORDINARY = (1e-2, 1e2)

# The range of the logarithms that floats hold.
_LARGEST_RANGE = 690.0

# Samples so many quartile ranges beyond the quartiles are "far out" (Tukey): searches by mean
# errors would see little else. All samples count in fits and in the choice.
_FAR_OUT = 3.0

# Where more samples than this share are far out, they are no outliers but part of the law.
_MOST_OUTLIERS = 0.1

# Samples whose weight is below this share of the median weight are left out of searches too.
_LIGHT = 0.1

# Stages of a search for sums that are waited for: single functions, and sums of two.
_STAGES = 2

# Fits of laws that rules propose to each source of proposals.
_PROPOSALS = 100

# Precision that one constant is taken to need in a refinement; the choice knows better.
_PRECISION = 0.01

_RULES = (*RULES.values(), under_one_bar)

# Nats for a column that a law leaves out: who made the table expected it to matter, ten to one.
_LEFT_OUT = math.log(10.0)

# Errors below this are rounding.
_ROUNDING = 1e-9

# Laws whose neighbours are tried, the shortest one each time.
_OPENED = 12


class TableLaw(NamedTuple):
    """A law of a table."""

    expression: sympy.Expr
    """The target, of the features' names."""
    complexity: int
    """See `expressions.complexity`; in units in which the columns are of order 1."""
    error: float
    """Mean absolute error; of logarithms if the target is positive and spans decades. With
    weights it is the mean of error x weight, for weights (of logarithms) of geometric mean 1."""
    length: float
    """Nats that it takes to write the law and the errors that it leaves."""


class _View(NamedTuple):
    """A table in units in which numbers are ordinary, and the kind of its laws."""

    features: Columns
    target: Column
    weight: Column
    """Factors of the errors of `target`, of geometric mean 1."""
    log: bool
    """Whether the target is the logarithm of what laws give."""
    written_log: bool
    """Whether such a law is written as a logarithm."""
    offset: float
    """What was taken off the target."""
    units: tuple[float, ...]
    """Of the features, and of the target."""

    def rows(self, which: Any) -> "_View":
        columns = {name: column[which] for name, column in self.features.items()}
        return self._replace(features=columns, target=self.target[which], weight=self.weight[which])

    def objective(self) -> TableObjective:
        return TableObjective(self.features, self.target, log=self.log, weight=self.weight)

    def written(self, law: Any) -> Any:
        """A law as one of the original columns."""
        if self.log:
            law = law * sympy.Float(math.exp(self.offset))
            law = sympy.log(law) if self.written_log else law
        *units, unit = self.units
        scaled = {
            sympy.Symbol(name): sympy.Symbol(name) / sympy.Float(u)
            for name, u in zip(self.features, units, strict=True)
            if u != 1
        }
        return (law if unit == 1 else law * sympy.Float(unit)).xreplace(scaled)


_Rated = tuple[TableLaw, _View, Any]
"""A law, the view that it was found in, and how it is written there."""


def fit_table(
    features: Columns,
    target: Column,
    regressors: Sequence[Regressor],
    *,
    weights: Column | None = None,
) -> tuple[TableLaw, ...]:
    """Laws of a table, the one with the shortest description first.

    A positive target that spans decades has relative errors: its logarithm is fitted. Where
    features are positive and span decades, engines have their logarithms too.

    Args:
        features: columns `[sample]` by name.
        target: `[sample]`.
        regressors: engines that share their findings, e.g. one with several seeds.
        weights: `[sample]`, factors of the errors of the target, 1 / its standard errors, as in
            `numpy.polyfit`; only their ratios matter, and samples of weight 0 are left out. None:
            all errors count alike. Engines know no weights; fits and the choice do.

    Raises:
        ValueError: there is no engine, or the columns or weights are unusable.
        RegressionError: no law is finite on all samples.

    >>> from symjax_gn.laws.engines import OperonRegressor
    >>> x = np.geomspace(1.0, 20.0, 12)
    >>> engine = OperonRegressor(evaluations=2000, max_length=5, operators=("+", "*"))
    >>> rounded(fit_table({"x": x}, 3 * x**1.5, [engine])[0].expression)
    3.0*x**(3/2)
    """
    _check_engines(regressors)
    check_problem(features, target)
    features = {name: as_floats(name, column) for name, column in features.items()}
    target = as_floats("target", target)
    weight = np.ones(len(target)) if weights is None else _as_weights(weights, target)
    if not np.all(weight):
        features = {name: column[weight > 0] for name, column in features.items()}
        target, weight = target[weight > 0], weight[weight > 0]
        check_problem(features, target)
    if len(target) < len(features) + 2:
        raise ValueError(
            f"A table with {len(features)} features needs at least {len(features) + 2} samples, "
            f"got {len(target)}: with fewer, every product of powers fits."
        )
    operators = {name for one in regressors for name in getattr(one, "operators", ())}
    operators = sorted(operators) or DEFAULT_OPERATORS
    direct, *more = _views(features, target, weight)
    near = _near(direct.target) & (weight >= _LIGHT * np.median(weight))
    proposals = [(direct, laws) for laws in _direct(direct.rows(near), regressors, operators)]
    for view in (direct, *more):
        if view.log:
            proposals += [(view, laws) for laws in _of_logarithms(view.rows(near), operators)]
    found = _distinct(_rated(view, law) for view, laws in proposals for law in _refined(view, laws))
    if not found:
        raise RegressionError("The search found no law that is finite on all samples.")
    opened: set[Any] = set()
    for _ in range(_OPENED):
        row = next((row for row in found if row[2] not in opened), None)
        if row is None:
            break
        opened.add(row[2])
        found = _distinct([*found, *_next_to(*row[1:])])
    return tuple(law for law, *_ in found)


def _distinct(rows: Iterable[_Rated]) -> list[_Rated]:
    """Rows of which no two are the same to the eye, the shortest first."""
    laws: dict[Any, _Rated] = {}
    for row in sorted(rows, key=lambda row: row[0].length):
        if math.isfinite(row[0].length):
            laws.setdefault(rounded(row[0].expression), row)
    return list(laws.values())


def spans_decades(column: Column) -> bool:
    """Whether a column is positive and its largest value is many times the smallest.

    >>> spans_decades(np.array([1.0, 20.0])), spans_decades(np.array([-1.0, 20.0]))
    (True, False)
    """
    return bool(np.all(column > 0) and np.max(column) >= _SPANNING * np.min(column))


def _unit(column: Column) -> float:
    """The typical size, or 1 where that is ordinary."""
    size = float(np.exp(np.mean(np.log(column)))) if np.all(column > 0) else typical_size(column)
    return 1.0 if _ORDINARY[0] <= size <= _ORDINARY[1] else size


def _near(target: Column) -> Any:
    """Which samples are not far out; the ranges widen until that tells outliers from the law.

    Where most samples are equal, the quartiles say nothing of the others.
    """
    everywhere = np.ones(len(target), bool)
    share = 0.25
    while share * len(target) >= 1:
        low, high = np.quantile(target, [share, 1 - share])
        reach = _FAR_OUT * (high - low)
        near = (target >= low - reach) & (target <= high + reach)
        few = np.mean(~near) <= _MOST_OUTLIERS
        if few and np.ptp(target[near]) > _ROUNDING * np.max(np.abs(target)):
            return near
        share /= 2
    return everywhere


def _check_engines(regressors: Any) -> None:
    engines = list(regressors) if isinstance(regressors, Iterable) else []
    if not engines:
        raise ValueError(
            "A search needs at least one regressor in a list, got "
            f"{'none' if isinstance(regressors, Iterable) else shown(regressors)}."
        )
    for engine in engines:
        if not callable(getattr(engine, "fit", None)):
            raise ValueError(
                f"A regressor must be an engine, e.g. OperonRegressor(), got {shown(engine)}."
            )


def _as_weights(weights: Any, target: Column) -> Column:
    weight = as_floats("weights", weights)
    if weight.shape != target.shape:
        raise ValueError(
            f"weights must have the shape of the target, {target.shape}, got {weight.shape}."
        )
    check_finite("weights", weight)
    if np.any(weight < 0) or not np.any(weight):
        raise ValueError(
            "weights must be positive or 0, and some above 0; they are 1 / standard error."
        )
    return weight


def _views(features: Columns, target: Column, weight: Column) -> Iterator[_View]:
    """The table as searches are to see it; the first is the one that engines get."""
    units = [_unit(column) for column in features.values()]
    columns = {n: x / u for (n, x), u in zip(features.items(), units, strict=True)}
    if spans_decades(target):
        logs = np.log(target)
        middle = float(np.median(logs))
        # Errors of a logarithm are relative errors.
        relative = _levelled(weight * target) if np.ptp(weight) else weight
        yield _View(columns, logs - middle, relative, True, False, middle, (*units, 1.0))
        return
    unit, weight = _unit(target), _levelled(weight)
    yield _View(columns, target / unit, weight, False, False, 0.0, (*units, unit))
    if unit == 1 and np.ptp(target[_near(target)]) < _LARGEST_RANGE:
        # It may be a logarithm itself.
        middle = float(np.median(target))
        yield _View(columns, target - middle, weight, True, True, middle, (*units, 1.0))


def _levelled(weight: Column) -> Column:
    """Weights of geometric mean 1."""
    return weight / np.exp(np.mean(np.log(weight)))


def _direct(view: _View, regressors, operators) -> Iterator[list[Any]]:
    """Laws by searches for the target as it is fitted, from one source after the other."""
    columns, logs = dict(view.features), {}
    for name, column in view.features.items():
        if spans_decades(column):
            # A table may have a column of that name already.
            log = f"log_{name}" if f"log_{name}" not in view.features else f"_log_{name}"
            columns[log] = np.log(column)
            logs[sympy.Symbol(log)] = sympy.log(sympy.Symbol(name))
    problem = Problem(columns, view.target, np.ones_like(view.target))
    with side_by_side([(engine, problem) for engine in regressors], 1) as found:
        fronts = list(found)
    laws = [law.expression.xreplace(logs) for front in fronts for law in front.laws]
    sources = [list(dict.fromkeys(laws))]
    if len(view.features) == 1:
        ((name, column),) = view.features.items()
        search = search_sums(column, view.target, view.weight, operators=operators)
        *_, rated = islice(search, _STAGES)
        front = pareto((complexity(law), error, law) for law, error in rated.items())
        sources.append([row[2].xreplace({sympy.Symbol("r"): sympy.Symbol(name)}) for row in front])
    for some in sources:
        yield [sympy.exp(law) for law in some] if view.log else some


def _of_logarithms(view: _View, operators) -> Iterator[list[Any]]:
    """Laws of a positive quantity, from one source after the other."""
    positive = all(np.all(column > 0) for column in view.features.values())
    if positive:
        yield list(power_laws(view.features, view.target))
    if positive or len(view.features) == 1:
        yield from self_similar_laws(view.features, view.target, operators=operators)


def _refined(view: _View, laws: Sequence[Any]) -> list[Any]:
    """What rules make of laws from one source."""
    per_constant = math.expm1(-math.log(_PRECISION) / len(view.target))
    rows = improve(
        [(law,) for law in laws],
        view.objective(),
        _RULES,
        gain=0.0,
        budget=_PROPOSALS,
        per_constant=per_constant,
    )
    return [row.candidate[0] for row in rows]


def _rated(view: _View, law: Any) -> _Rated:
    """A fitted law with its length."""
    full = sympy.log(law) if view.written_log else law
    size, objective = complexity(full), view.objective()
    errors = objective.errors(law)
    length = _length(full, size, objective.uncertainties(law), errors)
    length += _LEFT_OUT * (len(view.features) - len(law.free_symbols))
    return TableLaw(view.written(law), size, float(np.mean(errors)), length), view, law


def _length(law: Any, size: int, uncertainties: Any, errors: Column) -> float:
    """Nats that it takes to write a law, its constants and its errors.

    Minimum description length: each sign is one of those that are used, a constant needs the
    digits that the data tell, a whole number all of its own.
    """
    if 2 * len(uncertainties) > len(errors):
        # So many constants go through the samples whatever the law.
        return math.inf
    nodes: list[Any] = list(sympy.preorder_traversal(law))
    kinds = {"number" if one.is_Number else one.func if one.args else one for one in nodes}
    whole = {one for one in nodes if one.is_Rational and abs(one) != 1}
    signs = size * math.log(max(2, len(kinds)))
    digits = float(np.sum(np.log1p(1 / np.maximum(uncertainties, _ROUNDING))))
    digits += sum(math.log((1 + abs(one.p)) * one.q) for one in whole)
    # Errors are normal or have wider tails (Laplace), whichever says more.
    mean, square = float(np.mean(errors)), float(np.sqrt(np.mean(errors**2)))
    laplace, normal = 2 * math.e * mean, math.sqrt(2 * math.pi * math.e) * square
    return signs + digits + len(errors) * math.log(max(min(laplace, normal), _ROUNDING))


def _next_to(view: _View, law: Any) -> Iterator[_Rated]:
    """Laws that rules make of one."""
    objective = view.objective()
    for variant in dict.fromkeys(other for rule in _RULES for other in rule(law)):
        (fitted,), error = objective.fit((variant,))
        if math.isfinite(error):
            yield _rated(view, fitted)
