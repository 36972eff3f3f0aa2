"""Which bodies are joined, and graphs to and from jraph."""

import numpy as np
from jaxtyping import Int

from symjax_gn.data.nodes import AnyArray

Edges = tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]


def complete_edges(num_nodes: int) -> Edges:
    """Senders and receivers `[n (n - 1)]` of every ordered pair of `num_nodes` nodes."""
    _check_num_nodes(num_nodes)
    receivers, senders = np.nonzero(~np.eye(num_nodes, dtype=bool))
    return senders, receivers


def chain_edges(num_nodes: int) -> Edges:
    """Senders and receivers `[2 (n - 1)]` that join each node with its neighbours."""
    _check_num_nodes(num_nodes)
    left = np.arange(num_nodes - 1)
    return np.concatenate([left, left + 1]), np.concatenate([left + 1, left])


def check_edges(senders: AnyArray, receivers: AnyArray, num_nodes: int) -> None:
    """Raise a `ValueError` unless there are edges, each once, in range and both ways."""
    shapes = np.shape(senders), np.shape(receivers)
    if shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise ValueError(f"senders and receivers must have one shape, [edge], got {shapes}.")
    edges = list(zip(np.asarray(senders).tolist(), np.asarray(receivers).tolist(), strict=True))
    pairs = set(edges)
    if not pairs:
        raise ValueError("The graph has no edges; messages need at least one pair of nodes.")
    if min(map(min, pairs)) < 0 or max(map(max, pairs)) >= num_nodes:
        raise ValueError(f"An edge names a node outside 0 to {num_nodes - 1}.")
    if any(i == j for i, j in pairs):
        raise ValueError("An edge joins a node with itself.")
    if any((j, i) not in pairs for i, j in pairs):
        raise ValueError("Every edge must be given in both directions.")
    if len(pairs) < len(edges):
        raise ValueError("An edge is given more than once; its force would count as often.")


def _check_num_nodes(num_nodes: int) -> None:
    if num_nodes < 2:
        raise ValueError(f"Pairs need at least 2 bodies, got n={num_nodes}.")
