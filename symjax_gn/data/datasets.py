"""Data sets of graphs: from trajectories, split by simulation."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jraph
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from symjax_gn.data.graphs import check_edges, complete_edges
from symjax_gn.data.nodes import AnyArray, Body, check_body
from symjax_gn.data.trajectories import Trajectory


class Dataset(NamedTuple):
    """Snapshots of bodies with the accelerations to be learned; one graph each.

    All graphs share their edges. A message goes from sender j to receiver i.
    """

    nodes: Body
    """Fields `[graph, node, ...]`."""
    acceleration: Float[AnyArray, "graph node dim"]
    """[graph, node, dim], length / time^2."""
    senders: Int[AnyArray, " edge"]
    """[edge], index of the sending node."""
    receivers: Int[AnyArray, " edge"]
    """[edge], index of the receiving node."""
    simulation: Int[AnyArray, " graph"]
    """[graph], which simulation the graph was taken from."""


def make_dataset(
    trajectory: Trajectory,
    senders: Int[np.ndarray, " edge"] | None = None,
    receivers: Int[np.ndarray, " edge"] | None = None,
) -> Dataset:
    """One graph per simulation and output, on the given edges (default: complete).

    Raises:
        ValueError: the trajectory is empty or holds bad values, or the edges do.
    """
    num_sims, num_times, num_nodes = trajectory.position.shape[:3]
    if num_sims == 0 or num_times == 0:
        raise ValueError("The trajectory is empty.")
    if (senders is None) != (receivers is None):
        raise ValueError("Give both senders and receivers, or neither.")
    if senders is None or receivers is None:
        senders, receivers = complete_edges(num_nodes)
    check_edges(senders, receivers, num_nodes)

    def flat(x):
        return x.reshape(num_sims * num_times, *x.shape[2:])

    def repeat(x):
        return np.repeat(x, num_times, axis=0)

    nodes = Body(
        position=flat(trajectory.position),
        velocity=flat(trajectory.velocity),
        mass=repeat(trajectory.mass),
        charge=repeat(trajectory.charge),
    )
    target = flat(trajectory.acceleration)
    check_body(nodes, "the trajectory")
    check_body(nodes._replace(velocity=target), "the trajectory (accelerations)")
    return Dataset(
        nodes=nodes,
        acceleration=target,
        senders=np.asarray(senders),
        receivers=np.asarray(receivers),
        simulation=np.repeat(np.arange(num_sims), num_times),
    )


def take(dataset: Dataset, index: Any) -> Dataset:
    """The graphs of the given index or mask; edges stay as they are."""
    pick = lambda x: x[index]  # noqa: E731
    return dataset._replace(
        nodes=jax.tree.map(pick, dataset.nodes),
        acceleration=dataset.acceleration[index],
        simulation=dataset.simulation[index],
    )


def split(
    key: PRNGKeyArray, dataset: Dataset, fractions: tuple[float, ...] = (0.75, 0.1, 0.15)
) -> tuple[Dataset, ...]:
    """Split by simulation, at random; no simulation is in two parts.

    Args:
        key: PRNG key of the shuffle.
        dataset: the graphs to split.
        fractions: share of each part, positive, with sum 1; by default for training,
            validation and test.

    Raises:
        ValueError: the fractions are wrong or there are fewer simulations than parts.
    """
    if min(fractions) <= 0 or not np.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be positive and sum to 1, got {fractions}.")
    names = np.unique(dataset.simulation)
    if len(names) < len(fractions):
        raise ValueError(
            f"Splitting by simulation into {len(fractions)} parts needs as many simulations, "
            f"got {len(names)}. Cut long recordings into several."
        )
    names = np.asarray(jax.random.permutation(key, names))
    # Every part gets one simulation before the shares are dealt.
    spare = len(names) - len(fractions)
    ends = np.rint(np.cumsum(fractions) * spare).astype(int) + np.arange(1, len(fractions) + 1)
    parts = np.split(names, ends[:-1])
    return tuple(take(dataset, np.isin(dataset.simulation, part)) for part in parts)


def to_jraph(dataset: Dataset, index: int) -> jraph.GraphsTuple:
    """One graph of a dataset as a `jraph.GraphsTuple`; nodes are a `Body`.

    The accelerations are in `globals`, with one leading axis for the graph.
    """
    one = take(dataset, np.asarray([index]))
    edges: Any = [np.asarray(x) for x in (dataset.senders, dataset.receivers)]
    sizes: Any = [np.asarray([count]) for count in (one.acceleration.shape[1], len(edges[0]))]
    return jraph.GraphsTuple(
        nodes=jax.tree.map(lambda x: x[0], one.nodes),
        edges=None,
        senders=edges[0],
        receivers=edges[1],
        n_node=sizes[0],
        n_edge=sizes[1],
        globals={"acceleration": one.acceleration},
    )


def from_jraph(graphs: Sequence[Any]) -> Dataset:
    """The inverse of `to_jraph`, for graphs with one set of edges; one simulation each.

    Raises:
        ValueError: the list is empty, a tuple holds several graphs, or edges differ.
    """
    if not graphs:
        raise ValueError("from_jraph got no graphs.")
    first = graphs[0]
    for graph in graphs:
        if len(graph.n_node) != 1:
            raise ValueError("Give single graphs; split batches with jraph.unbatch first.")
        if not (
            np.array_equal(graph.senders, first.senders)
            and np.array_equal(graph.receivers, first.receivers)
        ):
            raise ValueError("All graphs of a Dataset must have the same edges.")
    nodes = jax.tree.map(lambda *x: np.stack(x), *[graph.nodes for graph in graphs])
    check_body(nodes, "the graphs")
    check_edges(first.senders, first.receivers, nodes.mass.shape[1])
    return Dataset(
        nodes=nodes,
        acceleration=np.concatenate([graph.globals["acceleration"] for graph in graphs]),
        senders=np.asarray(first.senders),
        receivers=np.asarray(first.receivers),
        simulation=np.arange(len(graphs)),
    )


def thin(trajectory: Trajectory, every: int) -> Trajectory:
    """Keep every `every`-th output of a trajectory (the paper keeps every fifth)."""
    fields = ("time", "position", "velocity", "acceleration")
    kept = {
        name: getattr(trajectory, name)[
            (slice(None),) * (name != "time") + (slice(None, None, every),)
        ]
        for name in fields
    }
    return dataclasses.replace(trajectory, **kept)
