"""Data sets: graphs with what is to be predicted for them."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from symjax_gn.data.border import checked
from symjax_gn.data.checks import (
    as_floats,
    as_whole,
    check_choice,
    check_finite,
    check_type,
    shown,
)
from symjax_gn.data.features import TIME
from symjax_gn.data.graphs import (
    GraphsTuple,
    check_edges,
    complete_edges,
    edges_of,
    node_mask,
    num_graphs,
    radius_edges,
    stack_graphs,
    take_graphs,
)
from symjax_gn.data.nodes import AnyArray, Nodes, check_nodes, leading_shape, take_nodes
from symjax_gn.data.quantities import ACCELERATION, QUANTITIES, Quantity, check_quantity
from symjax_gn.data.space import FREE, Space, check_space
from symjax_gn.data.stacking import from_jraph
from symjax_gn.data.trajectories import Trajectory, known


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("graphs", "target", "mask", "group", "time"),
    meta_fields=("quantity", "space", "note"),
)
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Graphs with the quantity to be predicted; a pytree.

    Attributes:
        graphs: stacked graphs, see `data.graphs`.
        target: `[graph, node, component]` or `[graph, component]`, user's unit.
        mask: `[graph, node]`, True where the target is known; None: everywhere.
        group: `[graph]`, graphs of one recording, or of one piece of it, share a number.
        time: `[graph]`, moments of recordings; None where there are none.
        quantity: what the target is.
        space: free or periodic.
        note: what a report is to say of the data, e.g. how `split` cut recordings.

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
    note: str = ""

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
        known = _as_mask(f"The mask {mask!r}", properties.pop(mask))
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


def _as_mask(name, value):
    """A mask as booleans; what is neither 0 nor 1 is an error."""
    array = as_floats(name, value)
    wrong = ~np.isin(array, (0, 1))
    if np.any(wrong):
        raise ValueError(f"{name} must be 0 or 1, or False or True; got {array[wrong][0]}.")
    return array > 0


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


def with_time(dataset: Dataset) -> Dataset:
    """The same with the moment of each graph as a property of its bodies, where it is known.

    >>> import symjax_gn as sgn
    >>> run = sgn.simulate(jax.random.key(0), sgn.SYSTEMS["spring"], num_simulations=2)
    >>> with_time(make_dataset(run)).nodes.time.shape
    (1000, 4)
    """
    time, nodes = dataset.time, dataset.nodes
    if time is None or nodes.position is None or TIME in nodes.properties:
        return dataset
    shape = leading_shape(nodes)
    moment = np.broadcast_to(np.asarray(time, np.float64)[:, None], shape)
    nodes = nodes._replace(properties=nodes.properties | {TIME: moment})
    return dataclasses.replace(dataset, graphs=dataset.graphs._replace(nodes=nodes))


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
    check_type(f"graphs of the {name} data", dataset.graphs, GraphsTuple, "See from_jraph.")
    check_quantity(dataset.quantity)
    check_space(dataset.space)
    if np.ndim(dataset.graphs.n_node) != 2:
        raise ValueError(f"The graphs of the {name} data are not stacked; see dataset_from_graphs.")
    if len(dataset) == 0:
        raise ValueError(f"The {name} dataset holds no graphs.")
    nodes, target, quantity = dataset.nodes, dataset.target, dataset.quantity
    check_nodes(nodes, f"the {name} dataset")
    shape = leading_shape(nodes)
    _check_marks(dataset, name, shape)
    needed = shape if quantity.level == "node" else shape[:1]
    value = as_floats(f"The {quantity.name} of the {name} dataset", target)
    if value.shape[:-1] != needed:
        raise ValueError(
            f"The {quantity.name} of the {name} dataset must have shape {needed} and one more "
            f"axis, got {value.shape}."
        )
    if quantity.vector and nodes.position is None:
        raise ValueError(f"The {quantity.name} is a vector, which needs nodes with positions.")
    if quantity.vector and np.shape(target) != np.shape(nodes.position):
        raise ValueError(
            f"The {quantity.name} of the {name} dataset has shape {np.shape(target)}, positions "
            f"{np.shape(nodes.position)}."
        )
    if dataset.mask is not None:
        value = value[np.asarray(dataset.mask)]
    check_finite(f"The {quantity.name} of the {name} dataset", value)
    if dataset.space.box is not None and len(dataset.space.box) != np.shape(nodes.position)[-1]:
        raise ValueError(
            f"The box {dataset.space.box} has {len(dataset.space.box)} sides, positions have "
            f"{np.shape(nodes.position)[-1]} dimensions."
        )
    _check_ends(dataset)
    _check_moments(dataset, name)


def _check_moments(dataset, name):
    """A property `time` of bodies is the moment, the same for all of a graph."""
    if dataset.nodes.position is None or TIME not in dataset.nodes.properties:
        return
    time, there = np.asarray(dataset.nodes.properties[TIME]), node_mask(dataset.graphs)
    same = time == time[:, :1]
    if not np.all(same if there is None else same | ~np.asarray(there)):
        raise ValueError(
            f"The time of the {name} dataset differs between bodies of one graph: it is the "
            "moment of the graph; rename it, e.g. to 'age'."
        )


def _check_marks(dataset, name, shape):
    """Groups, times and the mask must be of the graphs, and numbers."""
    count = shape[:1]
    group = as_whole(f"The group of the {name} dataset", dataset.group)
    given = {"group": group}
    if dataset.time is not None:
        given["time"] = as_floats(f"The time of the {name} dataset", dataset.time)
        check_finite(f"The time of the {name} dataset", given["time"])
    for what, value in given.items():
        if value.shape != count:
            raise ValueError(
                f"The {what} of the {name} dataset must be one number for each of its {count[0]} "
                f"graphs (padding is none), got shape {value.shape}."
            )
    if dataset.mask is None:
        return
    mask = _as_mask(f"The mask of the {name} dataset", dataset.mask)
    if np.asarray(dataset.mask).dtype != bool or mask.shape != shape:
        raise ValueError(
            f"The mask of the {name} dataset must be booleans of shape {shape}, got "
            f"{np.asarray(dataset.mask).dtype} of shape {mask.shape}."
        )
    if not np.any(mask):
        raise ValueError(
            f"The mask of the {name} dataset hides all of the {dataset.quantity.name}."
        )


def _check_ends(dataset):
    """Edges must join nodes that are there."""
    graphs, quantity = dataset.graphs, dataset.quantity
    size = leading_shape(dataset.nodes)[1]
    senders, receivers = (
        as_whole(what, end)
        for what, end in (("senders", graphs.senders), ("receivers", graphs.receivers))
    )
    if not senders.shape[-1]:
        return
    for end in (senders, receivers):
        if np.min(end) < 0 or np.max(end) >= size:
            raise ValueError(f"An edge names a node outside 0 to {size - 1}.")
    if dataset.nodes.position is None:
        return
    if np.any(senders == receivers):
        raise ValueError("An edge joins a node with itself.")
    both_ways = quantity.vector and quantity.weight is not None
    # Every graph's own edges would take minutes; the first ones tell a wrong builder.
    for graph in range(min(len(dataset), 10) if senders.ndim == 2 else 1):
        if np.asarray(graphs.n_edge)[graph, 0]:
            check_edges(*edges_of(graphs, graph), size, both_ways=both_ways)


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
