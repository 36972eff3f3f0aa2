"""Sums of any messages: the law of what is summed, and of what the sum becomes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.datasets import Dataset, sends_elements, take
from symjax_gn.data.features import node_features, parse_feature
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.distillation import VectorLaw, search_in_units
from symjax_gn.discovery.recording import MessageTable
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.fronts import Law, ParetoFront, select
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import flat_nodes, known_targets


class UpdateLaw(NamedTuple):
    """What a sum of messages becomes, in the user's units."""

    selected: tuple[Law, ...]
    """What the score picked, one for each component of the quantity: laws of `e_0`, ..."""
    fronts: tuple[ParetoFront, ...]
    """One Pareto front per component."""


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
    columns = {
        name: column
        for name, column in table.features.items()
        if parse_feature(name).kind.startswith("property:") or name == "r" or name[0] == "d"
    }
    fronts = search_in_units(
        regressors, columns, table.scales, table.messages, rows=rows, relative_error=False
    )
    selected = tuple(select(front) for front in fronts)
    laws = tuple(law.expression for law in selected)
    return VectorLaw(
        "components", laws, selected=selected, fronts=fronts, error_unit="message", gauge="messages"
    )


def distill_update(
    message: Sequence[sympy.Expr],
    dataset: Dataset,
    regressors: Sequence[Regressor],
    *,
    num_samples: int = 1000,
) -> UpdateLaw:
    """Find what sums of messages become: a law of `e_0`, ... and of the node itself.

    Args:
        message: laws of the messages, one for each component.
        dataset: graphs with the quantity, user's units.
        regressors: engines, see `search`.
        num_samples: number of nodes, or graphs, that are regressed on.

    Raises:
        RegressionError: a search ended without a usable expression.
    """
    count = min(len(dataset), num_samples)
    some = take(dataset, np.linspace(0, len(dataset) - 1, count).astype(int))
    columns, target = summed_messages(message, some)
    scales = {name: typical_size(column) or 1.0 for name, column in columns.items()}
    rows = np.linspace(0, len(target) - 1, min(len(target), num_samples)).astype(int)
    fronts = search_in_units(regressors, columns, scales, target, rows=rows, relative_error=False)
    return UpdateLaw(tuple(select(front) for front in fronts), fronts)


def summed_messages(
    message: Sequence[sympy.Expr], dataset: Dataset
) -> tuple[dict[str, Float[np.ndarray, " owner"]], Float[np.ndarray, "owner component"]]:
    """Sums of messages `e_0`, ... with the features of their owners, and the targets.

    Owners are nodes or graphs, those whose target is known.
    """
    sums = tuple(sympy.Symbol(f"e_{k}") for k in range(len(message)))
    elements = "nodes" if sends_elements(dataset) else "edges"
    model = SymbolicModel(tuple(message), sums, elements, dataset.quantity, dataset.space)
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
