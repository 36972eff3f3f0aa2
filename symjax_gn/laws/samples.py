"""What laws are fitted to: elements, the owners that they are summed for, and their targets."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import sympy
from jaxtyping import Float, Int
from scipy import sparse

from symjax_gn.data.datasets import Dataset, inertia, sends_elements, some_graphs, take, with_time
from symjax_gn.data.features import (
    COUNT,
    SPEEDS,
    TIME,
    element_features,
    node_features,
    pair_features,
    scalar_features,
)
from symjax_gn.data.graphs import edge_mask, flatten
from symjax_gn.data.nodes import take_nodes
from symjax_gn.data.units import typical_size
from symjax_gn.model import known_targets

# Errors below this are those of accelerations in float32.
ROUNDING = 3e-6

# Errors of vectors are relative to their size and this share of the typical one.
SHARE = 0.1


class Samples(NamedTuple):
    """Elements, their owners, and the targets of these; float64.

    Elements are pairs of bodies, or elements of sets; owners the bodies that receive, or graphs.
    What a law says of elements is summed over each owner; what it says of owners becomes rows.
    """

    elements: dict[str, Float[np.ndarray, " element"]]
    """Feature columns, with the differences of properties of pairs."""
    owners: dict[str, Float[np.ndarray, " owner"]]
    """Feature columns, with the number of elements."""
    sums: Any
    """`[owner, element]`, sparse: 1 where an element is an owner's."""
    rows: Any
    """`[row, owner]`, sparse: of forces, 1 / inertia, which makes them accelerations."""
    target: Float[np.ndarray, "row component"]
    """User's units."""
    weight: Float[np.ndarray, " row"]
    """What errors are multiplied with: 1 / typical |target|; of vectors 1 / (|target| + 0.1
    typical |target|), or see `reweighted`."""
    graph: Int[np.ndarray, " row"]
    """The number of each row's graph."""
    known: Any = 0.0
    """`[owner]`, what is known of the sums, besides what elements add."""

    def of_elements(self, values: Float[np.ndarray, "element *part"]) -> Any:
        """Rows `[row, *part]` of what each element adds."""
        return self.rows @ (self.sums @ values)

    def of_owners(self, values: Float[np.ndarray, "owner *part"]) -> Any:
        """Rows `[row, *part]` of what is said of owners."""
        return self.rows @ values


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


def gather(dataset: Dataset, num_elements: int, num_owners: int = 1) -> Samples:
    """Owners with known targets of evenly spaced graphs.

    Of vectors, graphs with coincident bodies are left out.

    Args:
        dataset: graphs.
        num_elements: about how many elements they have in all.
        num_owners: about how many owners there are at least, whatever elements they have.

    Raises:
        ValueError: vectors are predicted, and all graphs have coincident bodies.
    """
    some = some_graphs(dataset, num_elements, num_owners)
    if some.time is not None and np.ptp(some.time) > 0:
        some = with_time(some)
    some = _without_coincident(some) if dataset.quantity.vector else some
    count = len(some)
    graphs: Any = flatten(jax.tree.map(np.asarray, some.graphs))
    elements, sizes = _elements(graphs, some)
    elements = _with_one_time(elements)
    target = np.asarray(some.target, np.float64)
    target = target.reshape(-1, target.shape[-1])
    known = known_targets(some)
    kept = np.arange(len(target)) if known is None else np.flatnonzero(known)
    own: dict[str, Any] = {}
    if dataset.quantity.level == "node":
        owner, owners = graphs.receivers, len(target)
        own = _with_one_time(node_features(graphs.nodes))
        own = own if dataset.quantity.vector else scalar_features(own)
    else:
        # Each graph may be followed by its padding.
        owner, owners = np.repeat(np.arange(len(sizes)), sizes), len(sizes)
        kept = kept * (len(sizes) // count)
    there = edge_mask(some.graphs) if dataset.quantity.level == "node" else None
    sent = np.arange(len(owner)) if there is None else np.flatnonzero(np.asarray(there))
    sums = sparse.csr_matrix((np.ones(len(sent)), (owner[sent], sent)), (owners, len(owner)))[kept]
    own = {name: np.asarray(x, np.float64)[kept] for name, x in own.items()}
    own[COUNT] = np.diff(sums.indptr).astype(float)
    inverse = np.ones(len(kept))
    if dataset.quantity.level == "node":
        inverse = inverse / np.broadcast_to(inertia(graphs.nodes, dataset.quantity), owners)[kept]
    target = target[kept // (owners // len(target))]
    length = np.linalg.norm(target, axis=1)
    even = np.full(len(target), 1 / (typical_size(target) or 1.0))
    samples = Samples(
        elements={name: np.asarray(x, np.float64) for name, x in elements.items()},
        owners=own,
        sums=sums,
        rows=sparse.diags(inverse, format="csr"),
        target=target,
        weight=_weight(length) if dataset.quantity.vector else even,
        graph=kept // (owners // count),
    )
    return _without_others(samples)


def _without_coincident(dataset):
    """The graphs in which no two bodies that are joined are at one place."""
    graphs: Any = flatten(jax.tree.map(np.asarray, dataset.graphs))
    distance = _elements(graphs, dataset)[0]["r"].reshape(len(dataset), -1)
    there = edge_mask(dataset.graphs)
    apart = distance > 0 if there is None else (distance > 0) | ~np.asarray(there)
    apart = np.all(apart, axis=1)
    if not np.any(apart):
        raise ValueError("All graphs have coincident bodies: there is no distance to fit to.")
    return take(dataset, np.flatnonzero(apart))


def _elements(graphs, dataset):
    """Feature columns of all elements of graphs, and how many there are in each."""
    if sends_elements(dataset):
        return element_features(graphs.nodes), graphs.n_node
    receiver, sender = (take_nodes(graphs.nodes, end) for end in (graphs.receivers, graphs.senders))
    return with_differences(pair_features(receiver, sender, dataset.space)), graphs.n_edge


def _with_one_time(columns):
    """Features of which both ends have the same time."""
    ends = [f"{TIME}_{end}" for end in ("i", "j", "ij")] if TIME in columns else []
    return {name: x for name, x in columns.items() if name not in ends}


def _weight(length, share=SHARE):
    """Weights of vectors by their lengths."""
    # Whatever the share, a vector of typical length has the same weight.
    size = (length + share * typical_size(length)) * (1 + SHARE) / (1 + share)
    return 1 / (size + 1e-300)


def reweighted(
    samples: Samples, predicted: Float[np.ndarray, "row component"], share: float = SHARE
) -> Samples:
    """Vectors weighted by the size of what is predicted of them.

    Weights by noisy targets favour those that noise has made small, and so bias every fit.

    Args:
        samples: those to weight.
        predicted: `[row, component]`, e.g. by splines.
        share: of the typical length that is added to each.
    """
    return samples._replace(weight=_weight(np.linalg.norm(predicted, axis=1), share))


def within(samples: Samples, seen: Samples) -> Samples:
    """Owners whose own numbers, and those of all their elements, are within the ranges of others.

    Beyond these, what is fitted to the others says nothing. If there are no such owners, all.

    Args:
        samples: each row of one owner, with no sums known.
        seen: the others, with the same columns.
    """

    def beyond(columns, others):
        ends = {name: (np.min(x), np.max(x)) for name, x in others.items()}
        return sum(((x < ends[name][0]) | (x > ends[name][1])) * 1.0 for name, x in columns.items())

    outside = samples.sums @ beyond(samples.elements, seen.elements)
    rows = np.flatnonzero(outside + beyond(samples.owners, seen.owners) == 0)
    return samples if len(rows) == 0 else _of_owners(samples, rows)


def some_owners(samples: Samples, count: int) -> Samples:
    """About so many owners, evenly spaced.

    Args:
        samples: each row of one owner, with no sums known.
        count: how many.
    """
    rows = np.unique(np.linspace(0, len(samples.target) - 1, count).astype(int))
    return _of_owners(samples, rows)


def _of_owners(samples, rows):
    """Some owners with their elements."""
    kept = samples._replace(
        owners={name: x[rows] for name, x in samples.owners.items()},
        sums=samples.sums[rows],
        rows=samples.rows[rows][:, rows],
        target=samples.target[rows],
        weight=samples.weight[rows],
        graph=samples.graph[rows],
    )
    return _without_others(kept)


def _without_others(samples: Samples) -> Samples:
    """The same without elements that no owner has."""
    used = np.flatnonzero(np.asarray(samples.sums.sum(axis=0)).ravel())
    elements = {name: x[used] for name, x in samples.elements.items()}
    return samples._replace(elements=elements, sums=samples.sums[:, used])
