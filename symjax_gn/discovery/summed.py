"""Elements whose messages are summed, and what they are summed for, as columns."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import sympy
from jaxtyping import Float
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
from symjax_gn.model import known_targets


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
    return data if len(rows) == 0 else _of_owners(data, rows)


def some_owners(data: Summed, count: int) -> Summed:
    """About so many owners, evenly spaced.

    Args:
        data: owners, with no sums known.
        count: how many.
    """
    return _of_owners(data, np.unique(np.linspace(0, len(data.target) - 1, count).astype(int)))


def _of_owners(data, rows):
    owners = {name: x[rows] for name, x in data.owners.items()}
    kept = data._replace(owners=owners, matrix=data.matrix[rows], target=data.target[rows])
    return _without_others(kept)
