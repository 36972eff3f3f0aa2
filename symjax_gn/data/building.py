"""Data sets made of trajectories, and of graphs of a user's own."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from symjax_gn.data.border import checked
from symjax_gn.data.checks import (
    as_floats,
    check_choice,
    check_type,
)
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import (
    GraphsTuple,
    check_edges,
    complete_edges,
    node_mask,
    num_graphs,
    radius_edges,
    stack_graphs,
)
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape, take_nodes
from symjax_gn.data.quantities import QUANTITIES, Quantity, check_quantity
from symjax_gn.data.soundness import as_mask, check_dataset
from symjax_gn.data.space import FREE, Space
from symjax_gn.data.stacking import from_jraph
from symjax_gn.data.trajectories import Trajectory, known


@checked
def make_dataset(
    trajectory: Trajectory,
    senders: Int[np.ndarray, " edge"] | None = None,
    receivers: Int[np.ndarray, " edge"] | None = None,
    *,
    cutoff: float | None = None,
) -> Dataset:
    """One graph per recording and moment.

    Edges are those given, or join all bodies within a `cutoff` distance at each moment, or
    by default all bodies. Moments at which a body is not known give no graphs, see
    `Trajectory.missing`; where bodies were not there graphs are padded.

    Raises:
        ValueError: the trajectory is empty or holds bad values, or the edges do, or both edges
            and a cutoff are given.

    >>> from symjax_gn.data.trajectories import trajectory_from_arrays
    >>> x = np.random.default_rng(0).normal(size=(3, 5, 4, 2))
    >>> len(make_dataset(trajectory_from_arrays(np.arange(5.0), x, x, x)))
    15
    """
    check_type("trajectory", trajectory, Trajectory, "See trajectory_from_arrays.")
    num_sims, num_times, num_nodes = trajectory.position.shape[:3]
    if num_sims == 0 or num_times == 0:
        raise ValueError("The trajectory is empty: it has no simulations or no moments.")
    if (senders is None) != (receivers is None):
        raise ValueError("Give both senders and receivers, or neither.")
    if senders is not None and cutoff is not None:
        raise ValueError("Give either edges (senders and receivers) or a cutoff, not both.")

    moments, bodies, targets = known(trajectory)
    if not np.any(moments):
        raise ValueError(
            "At no moment all bodies are known, and the target of one of them. If bodies whose "
            'position is NaN were not there, say missing="body".'
        )
    used = np.flatnonzero(moments)

    def flat(x) -> Any:
        return None if x is None else x.reshape(num_sims * num_times, *x.shape[2:])[used]

    nodes = Nodes(
        position=flat(trajectory.position),
        velocity=flat(trajectory.velocity),
        properties={
            name: np.repeat(value, num_times, axis=0)[used]
            for name, value in trajectory.properties.items()
        },
    )
    group = np.repeat(np.arange(num_sims), num_times)[used]
    present, told = flat(bodies), flat(targets)
    if cutoff is not None:
        graphs = _stacked(
            nodes, present, lambda one, _: radius_edges(one.position, cutoff, trajectory.space)
        )
        if not np.any(np.asarray(graphs.n_edge)[:, 0]):
            raise ValueError(f"No two bodies are within the cutoff {cutoff}; use a larger one.")
    else:
        if senders is None or receivers is None:
            senders, receivers = complete_edges(num_nodes)
        check_edges(senders, receivers, num_nodes)
        ends = np.stack([senders, receivers]).astype(np.int32)
        if np.all(present):
            graphs = stack_graphs(nodes, *ends)
        else:
            graphs = _stacked(nodes, present, lambda _, there: _edges_between(ends, there))
    width = leading_shape(graphs.nodes)[1]
    told = _in_front(told, present, width)
    target = np.where(told[..., None], _in_front(flat(trajectory.target), present, width), 0.0)
    # Of padding nothing is to be predicted; `node_mask` tells it apart.
    mask = None if np.sum(told) == np.sum(present) else told
    time = np.tile(trajectory.time, num_sims)[used]
    dataset = Dataset(graphs, target, mask, group, trajectory.quantity, trajectory.space, time)
    check_dataset(dataset, "trajectory")
    return dataset


def _stacked(nodes, present, join):
    """Stacked graphs of the bodies `[graph, node]` that are there, joined by `join(one, there)`."""
    single = []
    for k, there in enumerate(present):
        one = take_nodes(take_nodes(nodes, k), there)
        senders, receivers = join(one, there)
        single.append(
            GraphsTuple(
                one, None, receivers, senders, None,
                np.array([len(one.position)]), np.array([len(senders)]),
            )
        )  # fmt: skip
    return from_jraph(single)


def _edges_between(ends, there):
    """Those of given edges `[2, edge]` whose bodies are there, by their new numbers."""
    kept = np.all(there[ends], axis=0)
    return (np.cumsum(there) - 1)[ends[:, kept]]


def _in_front(values, present, width):
    """Values `[graph, node, ...]` of bodies that are there, in front of zeros, `width` in all."""
    order = np.argsort(~present, axis=1, kind="stable")[:, :width]
    found = np.zeros((len(values), width, *values.shape[2:]), values.dtype)
    found[:, : order.shape[1]] = values[np.arange(len(values))[:, None], order]
    return found


@checked
def dataset_from_graphs(
    graphs: GraphsTuple | Sequence[GraphsTuple],
    target: str,
    *,
    quantity: Quantity | None = None,
    mask: str | None = None,
    group: Int[AnyArray, " graph"] | None = None,
    time: Float[AnyArray, " graph"] | None = None,
    space: Space = FREE,
) -> Dataset:
    """A user's jraph graphs with the name of what is to be predicted.

    Args:
        graphs: see `data.stacking.from_jraph`.
        target: name of a feature of nodes, `[node]` or `[node, dim]`, or of `globals`,
            `[graph]` or `[graph, component]`; it is taken out of the inputs.
        quantity: what the target is; by default one of `QUANTITIES` of that name, or a
            scalar of the nodes or graphs.
        mask: name of a feature of nodes that is 1 where the target is known, else 0.
        group: `[graph]`, whole numbers; graphs that must not be parted by a split share one;
            by default every graph is alone.
        time: `[graph]`, moments of recordings, which `group` numbers. A split may then cut
            recordings in time.
        space: free or periodic.

    Raises:
        ValueError: the target is not there or does not fit, or the graphs are wrong.

    >>> import jraph
    >>> one = jraph.GraphsTuple(
    ...     nodes=np.ones((3, 5)), edges=None, senders=None, receivers=None,
    ...     n_node=np.array([3]), n_edge=np.array([0]), globals={"z": np.array([2.0])})
    >>> dataset_from_graphs([one] * 4, "z").target.shape
    (4, 1)
    """
    check_type("target", target, str, "Give the name of a feature.")
    check_type("mask", mask, (str, type(None)), "Give the name of a feature of nodes.")
    stacked = from_jraph(graphs, target=target)
    nodes: Any = stacked.nodes
    properties, vectors = dict(nodes.properties), nodes._asdict()
    known = None
    if mask is not None:
        if mask not in properties:
            raise ValueError(f"The graphs have no feature {mask!r} of nodes to be the mask.")
        known = as_mask(f"The mask {mask!r}", properties.pop(mask))
    names = list(itertools.takewhile(properties.__contains__, _numbered(target)))
    globals_ = dict(stacked.globals or {})
    if target in properties:
        level, value = "node", np.asarray(properties.pop(target))[..., None]
    elif names:
        level, value = "node", np.stack([properties.pop(name) for name in names], axis=-1)
    elif target == "velocity" and nodes.velocity is not None:
        level, value = "node", np.asarray(vectors["velocity"])
        vectors["velocity"] = None
    elif target in globals_:
        level, value = "graph", as_floats(target, globals_.pop(target))
        value = value.reshape(len(value), -1)
    else:
        check_choice("target", target, sorted(properties) or ["(the graphs have no features)"])
        raise AssertionError
    if quantity is None:
        quantity = QUANTITIES.get(target, Quantity(target, level))
    check_quantity(quantity)
    if quantity.level != level:
        raise ValueError(
            f"The target {target!r} is a feature of the {level}s, the quantity says "
            f"{quantity.level}."
        )
    if mask is not None and level == "graph":
        raise ValueError(f"The mask {mask!r} is of nodes, the target {target!r} of whole graphs.")
    nodes = Nodes(vectors["position"], vectors["velocity"], properties)
    stacked = stacked._replace(nodes=nodes, globals=None)
    real = node_mask(stacked) if level == "node" else None
    if real is not None:
        known = np.asarray(real) if known is None else known & np.asarray(real)
    group = np.arange(num_graphs(stacked)) if group is None else group
    dataset = Dataset(stacked, value, known, group, quantity, space, time)
    check_dataset(dataset, "given graphs")
    plain = dict(group=np.asarray(group), time=None if time is None else np.asarray(time))
    return dataclasses.replace(dataset, **plain)


def _numbered(name):
    """Names of the columns of one feature."""
    return (f"{name}_{k}" for k in itertools.count(1))
