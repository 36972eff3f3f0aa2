"""Sums of any messages: the law of what is summed, and of what the sum becomes.

Message and update are first looked for as sums of terms of one-variable factors: splines
(`sum_structure`), then formulas in their place (`substitution`). Where there are no such terms,
expressions are searched for in all variables at once.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.datasets import Dataset, sends_elements, take
from symjax_gn.data.features import COUNT, node_features, scalar_features
from symjax_gn.data.nodes import AXES
from symjax_gn.data.units import typical_size
from symjax_gn.discovery import formulas
from symjax_gn.discovery.distillation import VectorLaw, search_in_units
from symjax_gn.discovery.recording import MessageTable
from symjax_gn.discovery.selection import as_good
from symjax_gn.discovery.separation import SplineLaw
from symjax_gn.discovery.sum_structure import find_law
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.expressions import complexity
from symjax_gn.laws.fronts import Law, ParetoFront, select, to_front
from symjax_gn.laws.keeping import kept
from symjax_gn.laws.law import as_expressions
from symjax_gn.laws.samples import ROUNDING, gather, with_differences, within
from symjax_gn.laws.shapes import Formula
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import Predictor, batches, flat_nodes, known_targets

# Elements that laws are chosen on, that splines and the law in the end are fitted to, and
# held-out ones; and owners, which are few where each has many elements.
_CHOSEN, _FITTED, _HELD_OUT = (40_000, 800), (100_000, 3000), (40_000, 1500)

# Errors below this are those of single numbers in float32. Accelerations, which are sums of
# forces that may cancel each other, are less exact.
_ROUNDING = 3e-7

# Terms explain a quantity if they err at most so many times as much as the network.
_AS_WELL = 1.5


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


def find_sum(
    table: MessageTable,
    network: Predictor,
    train: Dataset,
    validation: Dataset,
    regressors: Sequence[Regressor],
    *,
    fits: float = math.inf,
    seconds: float | None = None,
    folder: str | os.PathLike[str] | None = None,
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
        fits: after which no more formulas are tried, see `formulas.choose`.
        seconds: likewise.
        folder: where terms and laws are kept, see `laws.keeping`.

    Raises:
        RegressionError: a search ended without a usable expression.
    """
    if table.messages.shape[1] != 1 or train.target.shape[-1] != 1:
        return None
    columns = with_differences(_message_columns(table))
    columns = {k: x for k, x in columns.items() if np.ptp(x) > 0}
    seen = gather(train, *_FITTED)
    held_out = within(gather(validation, *_HELD_OUT), seen)
    splines = kept(find_law, folder)(columns, table.messages[:, 0], seen, held_out, as_good)
    network_error = _network_error(network, validation)
    if not splines.error <= max(_AS_WELL * network_error, ROUNDING):
        return None
    few = gather(train, *_CHOSEN)
    choose = kept(formulas.choose, folder)
    options: dict[str, Any] = dict(fits=fits, seconds=seconds, rounding=_ROUNDING)
    found = choose(splines.fitted, seen, few, held_out, regressors, **options)
    found = formulas.finish(found, seen, held_out, **options)
    tried = [found.law.with_shapes(list(map(Formula, row.candidate))) for row in found.rows]
    messages, updates = zip(*(map(_scalars, tried)), strict=True)
    message, update = _scalars(found.law)
    chosen, front = _on_front(message, messages, found.rows, found.error)
    unit = f"typical |{train.quantity.name}|, of message and update together"
    law = VectorLaw(
        "components",
        (message,),
        selected=(chosen,),
        fronts=(front,),
        error_unit=unit,
        gauge="messages",
    )
    chosen, front = _on_front(update, updates, found.rows, found.error)
    model = _model((message,), (update,), train)
    return SumLaw(law, UpdateLaw((chosen,), (front,)), model, splines)


def _scalars(law):
    """Message and update of a law of one component."""
    (message,), (update,) = as_expressions(law)
    return message, update


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


def _network_error(network, dataset):
    """Mean |error| over the typical target."""
    gap = []
    for part, count in batches(dataset):
        guess = np.asarray(network.predict(part), np.float64)[:count]
        gap.append(guess - np.asarray(part.target, np.float64)[:count])
    error, target = np.abs(np.concatenate(gap)), np.asarray(dataset.target, np.float64)
    known = known_targets(dataset)
    known = np.ones(error.shape[:-1], bool) if known is None else np.asarray(known)[..., 0]
    return float(np.mean(error[known])) / (typical_size(target[known]) or 1.0)


def distill_messages(
    table: MessageTable, regressors: Sequence[Regressor], *, num_samples: int = 1000
) -> VectorLaw:
    """Find the laws of raw messages of any quantity, one for each component.

    All features of a table that vary may be used: of a pair the displacement, the distance,
    speeds and properties, of an element of a set its properties.

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
    """Features that raw messages may depend on: scalars, and the displacement."""
    way = {f"d{axis}" for axis in AXES}
    scalars = scalar_features(table.features)
    return {k: x for k, x in table.features.items() if k in scalars or k in way}


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
    """Sums of messages `e_0`, ... with what is known of their owners, and the targets.

    Owners are nodes or graphs, those whose target is known; their number of messages is among
    the columns if it varies.
    """
    names = [*(f"e_{k}" for k in range(len(message))), COUNT]
    model = _model(message, sympy.symbols(names), dataset)
    values = model.predict(dataset)
    values = values.reshape(-1, values.shape[-1])
    target = np.asarray(dataset.target, np.float64).reshape(len(values), -1)
    columns = dict(zip(names, values.T, strict=True))
    if np.ptp(columns[COUNT]) == 0:
        del columns[COUNT]
    if dataset.quantity.level == "node":
        columns |= scalar_features(node_features(flat_nodes(dataset.nodes)))
        known = known_targets(dataset)
        if known is not None:
            keep = np.flatnonzero(known)
            columns = {name: column[keep] for name, column in columns.items()}
            target = target[keep]
    return columns, target
