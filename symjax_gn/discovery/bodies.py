"""Bodies of many graphs side by side: what laws of force are fitted to."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from symjax_gn.data.datasets import Dataset, inertia, take
from symjax_gn.data.features import node_features, pair_features
from symjax_gn.data.graphs import edge_mask, flatten
from symjax_gn.data.nodes import take_nodes
from symjax_gn.data.units import typical_size
from symjax_gn.model import known_targets

# Errors below this are those of accelerations in float32.
ROUNDING = 3e-6

# Errors are relative to the size of an acceleration and this share of the typical one.
SHARE = 0.1


class Bodies(NamedTuple):
    """Bodies with the pairs that act on them and what they are seen to do; float64."""

    pairs: dict[str, Float[np.ndarray, " edge"]]
    """Feature columns `[edge]`."""
    nodes: dict[str, Float[np.ndarray, " node"]]
    """Feature columns `[node]`."""
    sums: Any
    """[node, edge], sparse: sums over the pairs of each receiver, over its weight."""
    inverse: Float[np.ndarray, " node"]
    """[node], 1 over the weight that divides forces."""
    target: Float[np.ndarray, "node dim"]
    """[node, dim], user's units; 0 where it is not known."""
    weight: Float[np.ndarray, " node"]
    """[node], 1 / (|target| + 0.1 typical |target|), or see `reweighted`; 0 where it is not
    known."""
    graph: Int[np.ndarray, " node"]
    """[node], the number of its graph."""


def gather(dataset: Dataset, num_pairs: int) -> Bodies:
    """Bodies of evenly spaced graphs with about so many pairs, none of them coincident.

    Raises:
        ValueError: all graphs have coincident bodies.
    """
    edges = dataset.graphs.senders.shape[-1]
    count = max(1, min(len(dataset), num_pairs // max(1, edges)))
    dataset = take(dataset, np.linspace(0, len(dataset) - 1, count).astype(int))
    pairs = _ends(dataset)[2]
    apart = np.all(pairs["r"].reshape(len(dataset), -1) > 0, axis=1)
    if not np.any(apart):
        raise ValueError("All graphs have coincident bodies: there is no distance to fit to.")
    dataset = take(dataset, np.flatnonzero(apart))
    flat, receivers, pairs = _ends(dataset)
    here = edge_mask(dataset.graphs)
    if here is not None:
        kept = np.flatnonzero(np.asarray(here))
        receivers, pairs = receivers[kept], {name: x[kept] for name, x in pairs.items()}
    graphs, size, dim = np.shape(dataset.target)
    nodes = graphs * size
    inverse = 1 / np.broadcast_to(np.asarray(inertia(flat.nodes, dataset.quantity), float), nodes)
    target = np.asarray(dataset.target, np.float64).reshape(nodes, dim)
    known = known_targets(dataset)
    known = np.ones(nodes, bool) if known is None else np.asarray(known).reshape(nodes)
    target = np.where(known[:, None], target, 0.0)
    return Bodies(
        pairs=pairs,
        nodes=node_features(flat.nodes),
        sums=sparse.csr_matrix(
            (inverse[receivers], (receivers, np.arange(len(receivers)))), (nodes, len(receivers))
        ),
        inverse=inverse,
        target=target,
        weight=_weight(target, known),
        graph=np.repeat(np.arange(graphs), size),
    )


def _weight(target, known, share=SHARE):
    length = np.linalg.norm(target, axis=1)
    # Whatever the share, a body of typical acceleration has the same weight.
    size = (length + share * typical_size(length[known])) * (1 + SHARE) / (1 + share)
    return known / (size + 1e-300)


def reweighted(
    bodies: Bodies, predicted: Float[np.ndarray, "node dim"], share: float = SHARE
) -> Bodies:
    """Bodies weighted by the size of what is predicted of them.

    Weights by noisy targets favour those that noise has made small, and so bias every fit.

    Args:
        bodies: those to weight.
        predicted: `[node, dim]`, e.g. by splines.
        share: of the typical acceleration that is added to each size.
    """
    return bodies._replace(weight=_weight(predicted, bodies.weight > 0, share))


def _ends(dataset):
    flat = flatten(jax.tree.map(np.asarray, dataset.graphs))
    receiver, sender = (take_nodes(flat.nodes, x) for x in (flat.receivers, flat.senders))
    return flat, flat.receivers, pair_features(receiver, sender, dataset.space)
