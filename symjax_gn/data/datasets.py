"""Data sets: graphs with what is to be predicted for them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from symjax_gn.data.border import checked
from symjax_gn.data.checks import as_floats, check_choice, check_finite, shown
from symjax_gn.data.features import check_property_names
from symjax_gn.data.graphs import (
    GraphsTuple,
    check_edges,
    complete_edges,
    edges_of,
    from_jraph,
    is_padded,
    node_mask,
    num_graphs,
    radius_edges,
    stack_graphs,
    take_graphs,
)
from symjax_gn.data.nodes import AnyArray, Nodes, check_nodes, leading_shape, take_nodes
from symjax_gn.data.quantities import ACCELERATION, QUANTITIES, Quantity
from symjax_gn.data.space import FREE, Space
from symjax_gn.data.trajectories import Trajectory

# A data set is split by recording; a few long ones are cut into this many pieces in all.
_PIECES = 20
_LEAST_RECORDINGS = 3


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("graphs", "target", "mask", "group", "time"),
    meta_fields=("quantity", "space"),
)
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Graphs with the quantity to be predicted; a pytree.

    Attributes:
        graphs: stacked graphs, see `data.graphs`.
        target: `[graph, node, component]` or `[graph, component]`, user's unit.
        mask: `[graph, node]`, True where the target is known; None: everywhere.
        group: `[graph]`, graphs of one recording share a number, and no split parts them.
        time: `[graph]`, moments of recordings, in order within each; None where there are none.
        quantity: what the target is.
        space: free or periodic.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> data = sgn.make_dataset(run)
    >>> len(data), data.target.shape
    (100, (100, 4, 2))
    """

    graphs: GraphsTuple
    target: Float[AnyArray, "graph *node component"]
    mask: Bool[AnyArray, "graph node"] | None
    group: Int[AnyArray, " graph"]
    quantity: Quantity = ACCELERATION
    space: Space = FREE
    time: Float[AnyArray, " graph"] | None = None

    def __len__(self) -> int:
        return num_graphs(self.graphs)

    @property
    def nodes(self) -> Nodes:
        """Fields `[graph, node, ...]`."""
        return self.graphs.nodes


def inertia(nodes: Nodes, quantity: Quantity) -> Float[AnyArray, "*batch"] | float:
    """What a node's target is multiplied with to be a sum of messages: its mass, or 1.

    >>> inertia(Nodes(np.zeros((2, 1)), None, {}), ACCELERATION)
    1.0
    """
    if quantity.weight is None:
        return 1.0
    return nodes.properties.get(quantity.weight, 1.0)


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
    by default all bodies. One or two long recordings are cut into pieces in time, so that
    they can be split into parts for training and test.

    Raises:
        ValueError: the trajectory is empty or holds bad values, or the edges do.

    >>> from symjax_gn.data.trajectories import trajectory_from_arrays
    >>> x = np.random.default_rng(0).normal(size=(3, 5, 4, 2))
    >>> len(make_dataset(trajectory_from_arrays(np.arange(5.0), x, x, x)))
    15
    """
    num_sims, num_times, num_nodes = trajectory.position.shape[:3]
    if num_sims == 0 or num_times == 0:
        raise ValueError("The trajectory is empty: it has no simulations or no moments.")
    if (senders is None) != (receivers is None):
        raise ValueError("Give both senders and receivers, or neither.")

    def flat(x):
        return None if x is None else x.reshape(num_sims * num_times, *x.shape[2:])

    nodes = Nodes(
        position=flat(trajectory.position),
        velocity=flat(trajectory.velocity),
        properties={
            name: np.repeat(value, num_times, axis=0)
            for name, value in trajectory.properties.items()
        },
    )
    pieces = 1
    if num_sims < _LEAST_RECORDINGS:
        pieces = max(1, min(_PIECES // num_sims, num_times))
    piece = pieces * np.arange(num_times) // num_times
    group = (pieces * np.arange(num_sims)[:, None] + piece).reshape(-1)
    if cutoff is not None and (senders is not None or receivers is not None):
        raise ValueError("Edges are given, or made by a cutoff: leave one of the two out.")
    if cutoff is not None:
        graphs = _joined_within(nodes, cutoff, trajectory.space)
    else:
        if senders is None or receivers is None:
            senders, receivers = complete_edges(num_nodes)
        check_edges(senders, receivers, num_nodes)
        ends = (np.asarray(x, np.int32) for x in (senders, receivers))
        graphs = stack_graphs(nodes, *ends)
    target = flat(trajectory.target)
    assert target is not None
    # Of padding nothing is to be predicted; `node_mask` tells it apart.
    spare = leading_shape(graphs.nodes)[1] - num_nodes
    target = np.pad(target, ((0, 0), (0, spare), (0, 0)))
    time = np.tile(trajectory.time, num_sims)
    dataset = Dataset(graphs, target, None, group, trajectory.quantity, trajectory.space, time)
    check_dataset(dataset, "trajectory")
    return dataset


def _joined_within(nodes, cutoff, space):
    """Stacked graphs whose edges join what is near, as many as each moment has."""
    single = []
    for k in range(leading_shape(nodes)[0]):
        one = take_nodes(nodes, k)
        senders, receivers = radius_edges(one.position, cutoff, space)
        single.append(
            GraphsTuple(
                one, None, receivers, senders, None,
                np.array([len(one.position)]), np.array([len(senders)]),
            )
        )  # fmt: skip
    graphs = from_jraph(single)
    if not np.any(np.asarray(graphs.n_edge)[:, 0]):
        raise ValueError(f"No two bodies are within the cutoff {cutoff}; use a larger one.")
    return graphs


@checked
def dataset_from_graphs(
    graphs: GraphsTuple | Sequence[GraphsTuple],
    target: str,
    *,
    quantity: Quantity | None = None,
    mask: str | None = None,
    group: Int[AnyArray, " graph"] | None = None,
    space: Space = FREE,
) -> Dataset:
    """A user's jraph graphs with the name of what is to be predicted.

    Args:
        graphs: see `data.graphs.from_jraph`.
        target: name of a feature of nodes, `[node]` or `[node, dim]`, or of `globals`,
            `[graph]` or `[graph, component]`; it is taken out of the inputs.
        quantity: what the target is; by default one of `QUANTITIES` of that name, or a
            scalar of the nodes or graphs.
        mask: name of a feature of nodes that is 1 where the target is known.
        group: `[graph]`, graphs that must not be parted by a split share a number; by
            default every graph is alone.
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
    stacked = from_jraph(graphs)
    nodes: Any = stacked.nodes
    properties, vectors = dict(nodes.properties), nodes._asdict()
    known = np.asarray(properties.pop(mask)) > 0 if mask in properties else None
    if mask is not None and known is None:
        raise ValueError(f"The graphs have no feature {mask!r} of nodes to be the mask.")
    names = [f"{target}_{k}" for k in range(1, 4) if f"{target}_{k}" in properties]
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
        choices = sorted({*properties, *globals_})
        check_choice("target", target, choices or ["(the graphs have no features)"])
        raise AssertionError
    if quantity is None:
        quantity = QUANTITIES.get(target, Quantity(target, level))
    if quantity.level != level:
        raise ValueError(
            f"The target {target!r} is a feature of the {level}s, the quantity says "
            f"{quantity.level}."
        )
    if mask is not None and level == "graph":
        raise ValueError(f"The mask {mask!r} is of nodes, the target {target!r} of whole graphs.")
    nodes = Nodes(vectors["position"], vectors["velocity"], properties)
    stacked = stacked._replace(nodes=nodes, globals=globals_ or None)
    count = num_graphs(stacked)
    if known is None and level == "node" and is_padded(stacked):
        known = np.asarray(node_mask(stacked))
    elif known is not None and is_padded(stacked):
        known &= np.asarray(node_mask(stacked))
    group = np.arange(count) if group is None else np.asarray(group)
    dataset = Dataset(stacked, value, known, group, quantity, space)
    check_dataset(dataset, "given graphs")
    return dataset


def take(dataset: Dataset, index: Any) -> Dataset:
    """The graphs of the given index or mask; works under `jit`."""
    return dataclasses.replace(
        dataset,
        graphs=take_graphs(dataset.graphs, index),
        target=dataset.target[index],
        mask=None if dataset.mask is None else dataset.mask[index],
        group=dataset.group[index],
        time=None if dataset.time is None else dataset.time[index],
    )


@checked
def split(
    key: PRNGKeyArray, dataset: Dataset, fractions: tuple[float, ...] = (0.75, 0.1, 0.15)
) -> tuple[Dataset, ...]:
    """Split by recording, at random; no recording is in two parts.

    Args:
        key: PRNG key of the shuffle.
        dataset: the graphs to split.
        fractions: share of each part, positive, with sum 1; by default for training,
            validation and test.

    Raises:
        ValueError: the fractions are wrong or there are fewer recordings than parts.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> [len(part) for part in split(key, sgn.make_dataset(run))]
    [60, 20, 20]
    """
    check_dataset(dataset, "whole")
    if min(fractions) <= 0 or not np.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be positive and sum to 1, got {fractions}.")
    names = np.unique(dataset.group)
    if len(names) < len(fractions):
        raise ValueError(
            f"Splitting by recording into {len(fractions)} parts needs as many recordings, "
            f"got {len(names)}. Cut long recordings into several."
        )
    names = np.asarray(jax.random.permutation(key, names))
    # Every part gets one recording before the shares are dealt.
    spare = len(names) - len(fractions)
    ends = np.rint(np.cumsum(fractions) * spare).astype(int) + np.arange(1, len(fractions) + 1)
    parts = np.split(names, ends[:-1])
    return tuple(take(dataset, np.isin(dataset.group, part)) for part in parts)


def check_dataset(dataset: Dataset, name: str) -> None:
    """Raise a clear `ValueError` unless a data set can be learned from.

    Args:
        dataset: the data set.
        name: what messages call it, e.g. "training".
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"The {name} data must be a Dataset, got {shown(dataset)}; see make_dataset and "
            "dataset_from_graphs."
        )
    if len(dataset) == 0:
        raise ValueError(f"The {name} dataset holds no graphs.")
    nodes, target, quantity = dataset.nodes, dataset.target, dataset.quantity
    check_nodes(nodes, f"the {name} dataset")
    check_property_names(nodes.properties)
    shape = leading_shape(nodes)
    needed = shape if quantity.level == "node" else shape[:1]
    if np.shape(target)[:-1] != needed:
        raise ValueError(
            f"The {quantity.name} of the {name} dataset must have shape {needed} and one more "
            f"axis, got {np.shape(target)}."
        )
    if quantity.vector and nodes.position is None:
        raise ValueError(f"The {quantity.name} is a vector, which needs nodes with positions.")
    if quantity.vector and np.shape(target) != np.shape(nodes.position):
        raise ValueError(
            f"The {quantity.name} of the {name} dataset has shape {np.shape(target)}, positions "
            f"{np.shape(nodes.position)}."
        )
    if dataset.mask is not None and not np.any(dataset.mask):
        raise ValueError(f"The mask of the {name} dataset hides all of the {quantity.name}.")
    known = np.asarray(target)
    if dataset.mask is not None:
        known = known[np.asarray(dataset.mask)]
    check_finite(f"The {quantity.name} of the {name} dataset", known)
    if dataset.space.box is not None and len(dataset.space.box) != np.shape(nodes.position)[-1]:
        raise ValueError(
            f"The box {dataset.space.box} has {len(dataset.space.box)} sides, positions have "
            f"{np.shape(nodes.position)[-1]} dimensions."
        )
    if nodes.position is not None and dataset.graphs.senders.shape[-1]:
        both_ways = quantity.vector and quantity.weight is not None
        # Every graph's own edges would take minutes; the first ones tell a wrong builder.
        own = dataset.graphs.senders.ndim == 2
        for graph in range(min(len(dataset), 10) if own else 1):
            if np.asarray(dataset.graphs.n_edge)[graph, 0]:
                check_edges(*edges_of(dataset.graphs, graph), shape[1], both_ways=both_ways)


def target_mask(dataset: Dataset) -> Any:
    """`[graph, node, 1]` or `[graph, 1]`, 1 where the target counts; None: everywhere."""
    if dataset.quantity.level == "graph":
        return None
    mask = node_mask(dataset.graphs) if dataset.mask is None else dataset.mask
    return None if mask is None else jnp.asarray(mask, jnp.float32)[..., None]


def some_graphs(dataset: Dataset, num_elements: int, num_owners: int = 1) -> Dataset:
    """Evenly spaced graphs that have so many messages, or so many targets if these take more.

    Args:
        dataset: graphs.
        num_elements: about how many edges, or elements of sets, in all.
        num_owners: about how many known targets at least.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> data = sgn.make_dataset(run)
    >>> len(some_graphs(data, 120)), len(some_graphs(data, 120, 80))
    (10, 20)
    """
    count, size = leading_shape(dataset.nodes)
    owners = count if dataset.quantity.level == "graph" else count * size
    if dataset.mask is not None:
        owners = max(1, int(np.sum(dataset.mask)))
    per_graph = max(dataset.graphs.senders.shape[-1], size)
    wanted = max(num_elements // per_graph, -(-num_owners * count // owners))
    index = np.linspace(0, count - 1, max(1, min(count, wanted))).astype(int)
    return take(dataset, index)


def sends_elements(dataset: Dataset) -> bool:
    """Whether elements of whole graphs send messages, for there are no edges."""
    return dataset.quantity.level == "graph" and dataset.graphs.senders.shape[-1] == 0
