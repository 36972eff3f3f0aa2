"""Sums of any messages: the law of what is summed, and of what the sum becomes.

Message and update are first looked for as sums of terms of one-variable factors: splines, then
formulas in their place, fitted to the targets together and chosen on other data. Where there
are no such terms, expressions are searched for in all variables at once.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.datasets import Dataset, sends_elements, take
from symjax_gn.data.features import node_features, parse_feature
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.bodies import ROUNDING
from symjax_gn.discovery.composition import (
    SUM,
    Composition,
    Frozen,
    Summed,
    formulas,
    gather_sums,
)
from symjax_gn.discovery.distillation import VectorLaw, search_in_units
from symjax_gn.discovery.recording import MessageTable
from symjax_gn.discovery.selection import (
    as_good,
    beside_best,
    first_exact,
    in_stages,
    operators_of,
    pick,
    simplest_first,
)
from symjax_gn.discovery.separation import SplineLaw, find_law
from symjax_gn.laws.dictionary import search_sums
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.expressions import complexity, with_constants
from symjax_gn.laws.fitting import fit_in_stages
from symjax_gn.laws.fronts import Law, ParetoFront, is_usable, select, to_front
from symjax_gn.laws.refinement import Candidate, Rated
from symjax_gn.laws.rules import RULES, over
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import Predictor, batches, flat_nodes, known_targets

# What factors are functions of while they are searched for.
_X = sympy.Symbol("r")

# Elements that laws are chosen on, that splines and the law in the end are fitted to, and
# held-out ones.
_CHOSEN, _FITTED, _HELD_OUT = 40_000, 100_000, 40_000

# Terms explain a quantity if they err at most so many times as much as the network.
_AS_WELL = 1.5

# Samples of a factor, and quantiles of its variable between which they are.
_SAMPLES, _SEEN = 500, (0.003, 0.997)

# An uncertainty of this share of how much a factor varies counts as much as that.
_NOISE = 0.01

# A sum is measured from a point this share of its range beyond its ends.
_BEYOND = 0.02


class UpdateLaw(NamedTuple):
    """What a sum of messages becomes, in the user's units."""

    selected: tuple[Law, ...]
    """What the score picked, one for each component of the quantity: laws of `e_0`, ..."""
    fronts: tuple[ParetoFront, ...]
    """One Pareto front per component."""


class SumLaw(NamedTuple):
    """A law of sums."""

    message: VectorLaw
    update: UpdateLaw
    model: SymbolicModel
    """Both together."""
    splines: SplineLaw | None = None
    """The terms with splines in the place of formulas; None if the law was not found factor
    by factor."""


class _Choice(NamedTuple):
    candidate: Candidate
    """A law of `r` for each factor, those of the message first."""
    error: float
    """Mean held-out error."""
    rows: tuple[Rated, ...]
    """What it was chosen from."""


def find_sum(
    table: MessageTable,
    network: Predictor,
    train: Dataset,
    validation: Dataset,
    regressors: Sequence[Regressor],
) -> SumLaw | None:
    """Find a law of a sum of messages factor by factor; None where it has no such factors.

    This is for quantities of one component and messages of one component. The message is
    known up to a factor and an offset, which the update makes good; rules that shorten laws
    choose them.

    Args:
        table: what `record_messages` gave.
        network: the trained network.
        train: graphs whose targets laws are fitted to, user's units.
        validation: graphs of other recordings, by which terms and laws are chosen.
        regressors: engines that search for each factor.

    Raises:
        RegressionError: a search ended without a usable expression.
    """
    if table.messages.shape[1] != 1 or train.target.shape[-1] != 1:
        return None
    columns = {k: x for k, x in _message_columns(table).items() if np.ptp(x) > 0}
    seen, held_out = gather_sums(train, _FITTED), gather_sums(validation, _HELD_OUT)
    splines = find_law(columns, table.messages[:, 0], seen, held_out, as_good)
    network_error = _network_error(network, validation)
    if not splines.error <= max(_AS_WELL * network_error, ROUNDING):
        return None
    few = gather_sums(train, _CHOSEN)
    found = choose_factors(splines, seen, few, held_out, regressors)
    candidate, error = OnTargets(splines, seen).fit(found.candidate)
    messages = [_whole(splines, row.candidate)[0] for row in found.rows]
    updates = [_whole(splines, row.candidate)[1] for row in found.rows]
    message, update = _whole(splines, candidate)
    chosen, front = _on_front(message, messages, found.rows, error)
    unit = f"typical |{train.quantity.name}|, of message and update together"
    law = VectorLaw(
        "components",
        (message,),
        selected=(chosen,),
        fronts=(front,),
        error_unit=unit,
        gauge="messages",
    )
    chosen, front = _on_front(update, updates, found.rows, error)
    model = _model((message,), (update,), train)
    return SumLaw(law, UpdateLaw((chosen,), (front,)), model, splines)


def _model(message, update, dataset):
    """The law of a dataset's quantity."""
    return SymbolicModel(
        message=tuple(message),
        update=tuple(update),
        elements="nodes" if sends_elements(dataset) else "edges",
        quantity=dataset.quantity,
        space=dataset.space,
    )


def _on_front(law, laws, rows, error):
    """The law as an entry of a front, and the front of what it was chosen from."""
    front = to_front(
        [(complexity(one), row.error, one) for one, row in zip(laws, rows, strict=True)]
    )
    return Law(law, complexity(law), error, 0.0), front


def _whole(splines, candidate):
    """Message and update of laws of all factors."""
    counted = iter(candidate)
    return [
        sympy.Add(
            *(
                sympy.Mul(*(next(counted).xreplace({_X: sympy.Symbol(name)}) for name in term))
                for term in terms
            )
        )
        for terms in (splines.message, splines.update)
    ]


def _network_error(network, dataset):
    """Mean |error| over the typical target."""
    gap = []
    for part, count in batches(dataset):
        guess = np.asarray(network.predict(part.graphs), np.float64)[:count]
        gap.append(guess - np.asarray(part.target, np.float64)[:count])
    error, target = np.abs(np.concatenate(gap)), np.asarray(dataset.target, np.float64)
    known = known_targets(dataset)
    known = np.ones(error.shape[:-1], bool) if known is None else np.asarray(known)[..., 0]
    return float(np.mean(error[known])) / (typical_size(target[known]) or 1.0)


class OnTargets:
    """Laws of factors against targets; see `refinement.Objective`."""

    def __init__(self, splines: SplineLaw, data: Summed, free: int | None = None):
        """Prepare.

        Args:
            splines: says which factors there are.
            data: what laws are fitted to.
            free: the number of the one factor that candidates hold, where splines stand for
                all others; None: they hold all factors.
        """
        self._splines, self._data, self._free = splines, data, free

    def _composed(self, candidate) -> tuple[Composition, np.ndarray]:
        found, start = formulas(candidate)
        shapes: list[Any] = list(found)
        if self._free is not None:
            shapes = [Frozen(curve.values) for curve in self._splines.curves]
            shapes[self._free] = found[0]
        law = self._splines
        return Composition(law.message, law.update, shapes, self._data), start

    def errors(self, candidate: Candidate) -> Float[np.ndarray, " owner"]:
        """Errors of owners over the typical target."""
        composition, start = self._composed(candidate)
        found = np.abs(composition.errors(start))
        return np.where(np.isfinite(found), found, np.inf)

    def fit(self, candidate: Candidate, limit: float = math.inf) -> tuple[Candidate, float]:
        """See `Objective.fit`."""
        if not all(map(is_usable, candidate)):
            return candidate, math.inf
        composition, start = self._composed(candidate)

        def mean_error(residual):
            mean = float(np.mean(np.abs(residual)))
            return mean if math.isfinite(mean) else math.inf

        first = mean_error(composition.errors(start))
        if not len(start):
            return candidate, first
        options = composition.errors, composition.slopes, mean_error
        found, error = fit_in_stages(*options, start, limit)
        if error == first:
            return candidate, first
        # Slots are in the order of constants of all components together.
        together: Any = sympy.Tuple(*candidate)
        return tuple(with_constants(together, found)), error


def choose_factors(
    splines: SplineLaw,
    train: Summed,
    few: Summed,
    valid: Summed,
    regressors: Sequence[Regressor],
) -> _Choice:
    """Laws in the place of splines.

    Args:
        splines: terms with their factors.
        train: what the splines were fitted to.
        few: what laws are fitted to as they are compared.
        valid: other data, by which laws are chosen.
        regressors: engines that search for what is no sum of known functions.
    """
    samples = [_sample(splines, k, train) for k in range(len(splines.curves))]
    operators = operators_of(regressors)

    objective, held_out = OnTargets(splines, few), OnTargets(splines, valid)

    def rated(candidates):
        rows, means, picked = pick(candidates, objective, held_out.errors, list(RULES.values()))
        return _Choice(rows[picked].candidate, means[picked], tuple(rows))

    def choose(ways):
        tried = []
        for k, laws in enumerate(ways):
            # Splines stand for the other factors.
            alone, errors = OnTargets(splines, few, k), OnTargets(splines, valid, k).errors
            tried.append(simplest_first(laws, alone, errors))
        return rated(beside_best(tried))

    found = first_exact(in_stages([_laws(*one, operators) for one in samples]), choose)
    if found.error > max(splines.error, ROUNDING):
        # What is no sum of known functions is searched for.
        fronts = [_search(*one, regressors) for one in samples]
        ways = [
            [law, *(row.expression for row in front.laws)]
            for law, front in zip(found.candidate, fronts, strict=True)
        ]
        again = choose(ways)
        found = again if again.error < found.error else found
    # Rules that shorten laws choose between gauges.
    variants = gauges(splines, few, found.candidate)
    simplest = rated(variants)
    return simplest._replace(rows=(*found.rows, *simplest.rows))


def gauges(splines: SplineLaw, data: Summed, candidate: Candidate) -> list[Candidate]:
    """The same law with offsets and factors of the message in the update.

    Args:
        splines: says which factors there are.
        data: offsets are summed: they can be moved where all owners have as many elements.
        candidate: laws of all factors.
    """
    parts: list[Any] = list(candidate)
    counts = np.unique(np.diff(data.matrix.indptr))
    starts = np.cumsum([0, *map(len, splines.message)])
    inside, outside = range(starts[-1]), range(starts[-1], len(parts))
    of_sums = [k for k in outside if splines.variables[k] == SUM]

    def moved(parts, place):
        """With the sums in the update at a place."""
        new = list(parts)
        for k in of_sums:
            new[k] = _plain_bases(parts[k].xreplace({_X: place}))
        return new

    found = [candidate]
    for k, term in zip(starts, splines.message, strict=False):
        offset, rest = parts[k].as_coeff_Add()
        if len(term) == 1 and len(counts) == 1 and offset != 0:
            parts = moved(parts, _X + sympy.Float(int(counts[0]) * offset))
            parts[k] = rest
            found.append(tuple(parts))
    factors = {one.as_coeff_Mul()[0] for k in starts[:-1] for one in _terms(parts[k])}
    for factor in sorted(x for x in factors if x.is_Float and x != 0):
        new = moved(parts, factor * _X)
        for k in set(inside) & set(starts.tolist()):
            new[k] = sympy.Add(*(over(one, factor) for one in _terms(parts[k])))
        found.append(tuple(new))
    return found


def _terms(law):
    return sympy.Add.make_args(law)


def _plain_bases(law):
    """The law with numbers taken out of powers of a r + b."""

    def plain(base, exponent):
        factor = base.coeff(_X, 1)
        if not factor.is_Float or base != factor * _X + base.coeff(_X, 0):
            return base**exponent
        rest = _X + base.coeff(_X, 0) / factor
        if exponent.is_Integer or factor > 0:
            return factor**exponent * rest**exponent
        return abs(factor) ** exponent * (-rest) ** exponent

    return law.replace(sympy.Pow, plain)


class _Samples(NamedTuple):
    """One factor as samples."""

    x: Float[np.ndarray, " sample"]
    y: Float[np.ndarray, " sample"]
    scale: Float[np.ndarray, " sample"]
    """[sample], what errors count relative to."""
    places: tuple[Any, ...]
    """What `r` of a law that is searched for may stand for: the variable, or of sums, which
    have any offset and sign, the way from one of its ends."""


def _sample(splines, k, data) -> _Samples:
    """The k-th factor at values of its variable."""
    name, curve = splines.variables[k], splines.curves[k]
    inside = k < sum(map(len, splines.message))
    columns: Any = data.elements if inside else data.owners
    places: tuple[Any, ...] = (_X,)
    if not inside and name == SUM:
        composition, numbers = splines.composition(data)
        columns = {SUM: composition.sums(numbers)}
        low, high = np.min(columns[SUM]), np.max(columns[SUM])
        reach = _BEYOND * (high - low)
        places = (_X - sympy.Float(low - reach), sympy.Float(high + reach) - _X)
    x = np.quantile(columns[name], np.linspace(*_SEEN, _SAMPLES))
    y = curve.values(x)
    noise = curve.deviation(x, splines.covariance[k])
    size = typical_size(y - np.mean(y)) or 1.0
    return _Samples(x, y, np.hypot(size, noise / _NOISE), places)


def _laws(x, y, scale, places, operators) -> Iterator[dict[Any, float]]:
    """Laws of `r` as sums of known functions, more in each stage."""
    searches = [
        search_sums(_at(place, x), y, 1 / scale, operators=operators, constant=True)
        for place in places
    ]
    for stage in zip(*searches, strict=False):
        yield {
            law.xreplace({_X: place}): error
            for place, rated in zip(places, stage, strict=True)
            for law, error in rated.items()
        }


def _at(place, x):
    return np.asarray(sympy.lambdify(_X, place)(x), np.float64)


def _search(x, y, scale, places, regressors) -> ParetoFront:
    """The same by symbolic regression."""
    del places
    (front,) = search_in_units(
        regressors,
        {"r": x},
        {"r": typical_size(x) or 1.0},
        y[:, None],
        rows=np.arange(len(x)),
        relative_error=False,
        noise=scale / np.min(scale),
    )
    return front


def distill_messages(
    table: MessageTable, regressors: Sequence[Regressor], *, num_samples: int = 1000
) -> VectorLaw:
    """Find the laws of raw messages of any quantity, one for each component.

    All features of a table that vary may be used: of a pair the displacement, the distance
    and the properties, of an element of a set its properties.

    Args:
        table: what `record_messages` gave.
        regressors: engines, see `search`.
        num_samples: number of messages that are regressed on.

    Raises:
        RegressionError: a search ended without a usable expression.
    """
    rows = np.arange(len(table.messages))[:num_samples]
    fronts = search_in_units(
        regressors,
        _message_columns(table),
        table.scales,
        table.messages,
        rows=rows,
        relative_error=False,
    )
    selected = tuple(select(front) for front in fronts)
    laws = tuple(law.expression for law in selected)
    return VectorLaw(
        "components", laws, selected=selected, fronts=fronts, error_unit="message", gauge="messages"
    )


def _message_columns(table):
    """Features that raw messages may depend on."""
    return {
        name: column
        for name, column in table.features.items()
        if parse_feature(name).kind.startswith("property:") or name == "r" or name[0] == "d"
    }


def distill_update(
    message: VectorLaw,
    dataset: Dataset,
    regressors: Sequence[Regressor],
    *,
    num_samples: int = 1000,
) -> SumLaw:
    """Find what sums of messages become: a law of `e_0`, ... and of the node itself.

    Args:
        message: the laws of the messages.
        dataset: graphs with the quantity, user's units.
        regressors: engines, see `search`.
        num_samples: number of nodes, or graphs, that are regressed on.

    Raises:
        RegressionError: a search ended without a usable expression.
    """
    count = min(len(dataset), num_samples)
    some = take(dataset, np.linspace(0, len(dataset) - 1, count).astype(int))
    columns, target = summed_messages(message.components, some)
    scales = {name: typical_size(column) or 1.0 for name, column in columns.items()}
    rows = np.linspace(0, len(target) - 1, min(len(target), num_samples)).astype(int)
    fronts = search_in_units(regressors, columns, scales, target, rows=rows, relative_error=False)
    update = UpdateLaw(tuple(select(front) for front in fronts), fronts)
    laws = [law.expression for law in update.selected]
    return SumLaw(message, update, _model(message.components, laws, dataset))


def summed_messages(
    message: Sequence[sympy.Expr], dataset: Dataset
) -> tuple[dict[str, Float[np.ndarray, " owner"]], Float[np.ndarray, "owner component"]]:
    """Sums of messages `e_0`, ... with the features of their owners, and the targets.

    Owners are nodes or graphs, those whose target is known.
    """
    sums = [sympy.Symbol(f"e_{k}") for k in range(len(message))]
    model = _model(message, sums, dataset)
    values = model.predict(dataset.graphs)
    values = values.reshape(-1, values.shape[-1])
    target = np.asarray(dataset.target, np.float64).reshape(len(values), -1)
    columns = {f"e_{k}": values[:, k] for k in range(len(message))}
    if dataset.quantity.level == "node":
        own = node_features(flat_nodes(dataset.nodes))
        columns |= {k: x for k, x in own.items() if parse_feature(k).kind.startswith("property:")}
        known = known_targets(dataset)
        if known is not None:
            keep = np.flatnonzero(known)
            columns = {name: column[keep] for name, column in columns.items()}
            target = target[keep]
    return columns, target
