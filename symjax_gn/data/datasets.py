"""Data sets: graphs with what is to be predicted for them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from symjax_gn.data.features import TIME
from symjax_gn.data.graphs import (
    GraphsTuple,
    node_mask,
    num_graphs,
    take_graphs,
)
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape
from symjax_gn.data.quantities import ACCELERATION, Quantity
from symjax_gn.data.space import FREE, Space


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
    >>> with_time(sgn.make_dataset(run)).nodes.time.shape
    (1000, 4)
    """
    time, nodes = dataset.time, dataset.nodes
    if time is None or nodes.position is None or TIME in nodes.properties:
        return dataset
    shape = leading_shape(nodes)
    moment = np.broadcast_to(np.asarray(time, np.float64)[:, None], shape)
    nodes = nodes._replace(properties=nodes.properties | {TIME: moment})
    return dataclasses.replace(dataset, graphs=dataset.graphs._replace(nodes=nodes))


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
