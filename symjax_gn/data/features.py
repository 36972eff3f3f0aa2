"""Features that laws are written in, and the pairs they are taken from."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symjax_gn.data.checks import check_at_least
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.nodes import Body
from symjax_gn.data.units import Scales

AXES = ("x", "y", "z")


def pair_features(receiver: Body, sender: Body) -> dict[str, Float[np.ndarray, "*edge"]]:
    """Feature columns `[edge]` of given pairs, float64; the names are those of `MessageTable`."""
    dim = receiver.position.shape[-1]
    displacement = sender.position - receiver.position
    columns = {f"d{axis}": displacement[..., k] for k, axis in enumerate(AXES[:dim])}
    # float64 on the host: squares of metres between stars overflow float32.
    columns["r"] = np.linalg.norm(np.asarray(displacement, np.float64), axis=-1)
    for name in ("mass", "charge"):
        for end, body in (("i", receiver), ("j", sender)):
            columns[f"{name[0].replace('c', 'q')}_{end}"] = getattr(body, name)
    for end, body in (("i", receiver), ("j", sender)):
        for k, axis in enumerate(AXES[:dim]):
            columns[f"v{axis}_{end}"] = body.velocity[..., k]
    for k, axis in enumerate(AXES[:dim]):
        columns[f"{axis}_i"] = receiver.position[..., k]
    return {name: np.asarray(column, np.float64) for name, column in columns.items()}


def feature_scale(name: str, scales: Scales) -> float:
    """The typical size of a feature of `pair_features`."""
    kinds = {"m": "mass", "q": "charge", "v": "velocity"}
    return getattr(scales, kinds.get(name[0], "length"))


def sample_pairs(
    key: PRNGKeyArray, dataset: Dataset, num_edges: int
) -> tuple[Int[Array, " edge"], Int[Array, " edge"]]:
    """Random graphs and random edges in them, `[num_edges]` each, with replacement.

    Fewer where some fall on coincident bodies, between which there is no direction.

    Raises:
        ValueError: `num_edges` is not positive, or all sampled pairs coincide.
    """
    check_at_least("num_edges", num_edges, 1)
    graph_key, edge_key = jax.random.split(key)
    graph = jax.random.randint(graph_key, (num_edges,), 0, len(dataset.acceleration))
    edge = jax.random.randint(edge_key, (num_edges,), 0, len(dataset.senders))
    receiver, sender = pair_bodies(dataset, graph, edge)
    apart = np.flatnonzero(np.any(receiver.position != sender.position, axis=-1))
    if not apart.size:
        raise ValueError("All pairs coincide: there is no distance to learn from.")
    return graph[apart], edge[apart]


def pair_bodies(dataset: Dataset, graph: Any, edge: Any) -> tuple[Body, Body]:
    """Receivers and senders (fields `[edge, ...]`) of the given edges of given graphs."""
    graph, edge = np.asarray(graph), np.asarray(edge)
    ends = (np.asarray(dataset.receivers)[edge], np.asarray(dataset.senders)[edge])
    receiver, sender = (jax.tree.map(lambda x, e=e: x[graph, e], dataset.nodes) for e in ends)
    return receiver, sender
