"""Graphs as `jraph.GraphsTuple`, stacked along a leading axis.

Nodes are a `Nodes` with fields `[graph, node, ...]`; senders and receivers are `[edge]`
where all graphs share them and `[graph, edge]` where they differ. `n_node` and `n_edge`
are `[graph, 1]`, or `[graph, 2]` where graphs of unequal size were padded to one shape,
as jraph pads: the second entry counts the padding. A message goes from sender j to
receiver i.

All that is used of jraph, which is archived upstream, is named here.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from jraph import GraphNetwork

from symjax_gn.data.border import checked
from symjax_gn.data.checks import as_floats, as_whole, check_count, check_finite, check_number
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape, take_nodes
from symjax_gn.data.space import FREE, Space, check_space

if TYPE_CHECKING:

    class GraphsTuple(NamedTuple):
        """jraph's, whose annotations leave open that arrays are arrays."""

        nodes: Any
        edges: Any
        receivers: Any
        senders: Any
        globals: Any
        n_node: Any
        n_edge: Any
else:
    from jraph import GraphsTuple

__all__ = ["GraphNetwork", "GraphsTuple"]

Edges = tuple[Int[np.ndarray, " edge"], Int[np.ndarray, " edge"]]

# Wrapping places into a box moves them by some roundings.
_ROUNDINGS = 8


@checked
def complete_edges(num_nodes: int) -> Edges:
    """Senders and receivers `[n (n - 1)]` of every ordered pair of `num_nodes` nodes.

    >>> complete_edges(3)[0]
    array([1, 2, 0, 2, 0, 1])
    """
    check_count("The number of bodies in pairs", num_nodes, 2)
    receivers, senders = np.nonzero(~np.eye(num_nodes, dtype=bool))
    return senders, receivers


def chain_edges(num_nodes: int) -> Edges:
    """Senders and receivers `[2 (n - 1)]` that join each node with its neighbours.

    >>> chain_edges(3)[1]
    array([1, 2, 0, 1])
    """
    check_count("The number of bodies in pairs", num_nodes, 2)
    left = np.arange(num_nodes - 1)
    return np.concatenate([left, left + 1]), np.concatenate([left + 1, left])


@checked
def radius_edges(
    position: Float[np.ndarray, "node dim"], radius: float, space: Space = FREE
) -> Edges:
    """Senders and receivers of all pairs within a distance, both ways, by a KD-tree.

    A pair at just the distance, as `space.displacement` has it, is joined.

    Args:
        position: `[node, dim]`, length.
        radius: largest distance, length; in a periodic box at most half of its sides.
        space: free or periodic.

    Raises:
        ValueError: the radius is not positive, or exceeds half of a side of the box, or
            positions are not finite.

    >>> senders, receivers = radius_edges(np.array([[0.0], [1.0], [3.0]]), 1.5)
    >>> senders, receivers
    (array([1, 0]), array([0, 1]))
    """
    check_radius(radius, space)
    points = as_floats("position", position)
    if points.ndim != 2:
        raise ValueError(f"position must have shape [node, dim], got {points.shape}.")
    tree = neighbour_tree(points, space)
    largest = max(radius, np.max(np.abs(points), initial=0), *(space.box or (0,)))
    reach = radius + _ROUNDINGS * np.finfo(float).eps * largest
    pairs = tree.query_pairs(reach, output_type="ndarray")
    # Whether a pair is near is asked of the places as they were given.
    way = space.displacement(points[pairs[:, 0]], points[pairs[:, 1]])
    pairs = pairs[np.linalg.norm(way, axis=1) <= radius]
    receivers = np.concatenate([pairs[:, 0], pairs[:, 1]])
    senders = np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.lexsort((senders, receivers))
    return senders[order], receivers[order]


def neighbour_tree(position: Float[np.ndarray, "node dim"], space: Space) -> Any:
    """A `scipy.spatial.KDTree` of places in free space or in a periodic box.

    Raises:
        ValueError: a place is not finite.

    >>> neighbour_tree(np.array([[-1e-16], [1.0]]), Space((4.0,))).data.tolist()
    [[0.0], [1.0]]
    """
    from scipy.spatial import KDTree

    check_finite("position", position)
    if space.box is None:
        return KDTree(position)
    return KDTree(space.move(position, np.zeros_like(position)), boxsize=np.asarray(space.box))


def check_radius(radius: float, space: Space) -> None:
    """Raise a `ValueError` for a radius within which bodies cannot be joined.

    >>> check_radius(1.0, FREE)
    """
    check_space(space)
    check_number("The radius within which bodies are joined", radius, above=0)
    if space.box is not None and radius > 0.5 * min(space.box):
        raise ValueError(
            f"The radius {radius} exceeds half of the smallest side of the box {space.box}, so "
            "that a pair could be joined twice; use a smaller radius."
        )


def check_edges(
    senders: AnyArray, receivers: AnyArray, num_nodes: int, both_ways: bool = True
) -> None:
    """Raise a `ValueError` unless there are edges, each once, in range and both ways.

    Args:
        senders: `[edge]`, whole numbers.
        receivers: `[edge]`, whole numbers.
        num_nodes: number of nodes that edges may name.
        both_ways: whether each edge must have its opposite, as forces between two bodies
            have.
    """
    shapes = np.shape(senders), np.shape(receivers)
    if shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise ValueError(f"senders and receivers must have one shape, [edge], got {shapes}.")
    ends = [as_whole("senders", senders), as_whole("receivers", receivers)]
    if ends[0].size == 0:
        raise ValueError("The graph has no edges; messages need at least one pair of nodes.")
    if min(map(np.min, ends)) < 0 or max(map(np.max, ends)) >= num_nodes:
        raise ValueError(f"An edge names a node outside 0 to {num_nodes - 1}.")
    sender, receiver = (end.astype(np.int64) for end in ends)
    if np.any(sender == receiver):
        raise ValueError("An edge joins a node with itself.")
    codes = np.sort(sender * num_nodes + receiver)
    if np.any(codes[1:] == codes[:-1]):
        raise ValueError("An edge is given more than once; its force would count as often.")
    if both_ways and not np.array_equal(codes, np.sort(receiver * num_nodes + sender)):
        raise ValueError("Every edge must be given in both directions.")


def stack_graphs(
    nodes: Nodes,
    senders: Int[AnyArray, "*graph edge"],
    receivers: Int[AnyArray, "*graph edge"],
    globals: Any = None,
) -> GraphsTuple:
    """Graphs of one size as one stacked `GraphsTuple`.

    Args:
        nodes: fields `[graph, node, ...]`.
        senders: `[edge]` if all graphs share them, else `[graph, edge]`.
        receivers: the same.
        globals: quantities of whole graphs, arrays `[graph, ...]` by name, or None.

    >>> nodes = Nodes(np.zeros((5, 3, 2)), None, {})
    >>> flatten(stack_graphs(nodes, *complete_edges(3))).n_node
    array([3, 3, 3, 3, 3], dtype=int32)
    """
    num_graphs, num_nodes = leading_shape(nodes)
    return GraphsTuple(
        nodes=nodes,
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=globals,
        n_node=_full((num_graphs, 1), num_nodes),
        n_edge=_full((num_graphs, 1), senders.shape[-1]),
    )


def _full(shape, value) -> Any:
    return np.full(shape, value, np.int32)


def num_graphs(graphs: GraphsTuple) -> int:
    """Number of stacked graphs, padding not counted."""
    return graphs.n_node.shape[0]


def is_padded(graphs: GraphsTuple) -> bool:
    """Whether stacked graphs were padded to one shape."""
    return graphs.n_node.shape[-1] > 1


def node_mask(graphs: GraphsTuple) -> Bool[AnyArray, "graph node"] | None:
    """`[graph, node]`, True for nodes that are no padding; None where there is none."""
    if not is_padded(graphs):
        return None
    return jnp.arange(leading_shape(graphs.nodes)[1]) < graphs.n_node[:, :1]


def edge_mask(graphs: GraphsTuple) -> Bool[AnyArray, "graph edge"] | None:
    """`[graph, edge]`, True for edges that are no padding; None where there is none."""
    if not is_padded(graphs):
        return None
    return jnp.arange(graphs.senders.shape[-1]) < graphs.n_edge[:, :1]


def take_graphs(graphs: GraphsTuple, index: Any) -> GraphsTuple:
    """The stacked graphs of an index or mask; shared edges stay as they are.

    >>> graphs = stack_graphs(Nodes(np.zeros((5, 3, 2)), None, {}), *complete_edges(3))
    >>> num_graphs(take_graphs(graphs, np.array([0, 4])))
    2
    """
    own = graphs.senders.ndim == 2
    return graphs._replace(
        nodes=take_nodes(graphs.nodes, index),
        senders=graphs.senders[index] if own else graphs.senders,
        receivers=graphs.receivers[index] if own else graphs.receivers,
        globals=jax.tree.map(lambda x: x[index], graphs.globals),
        n_node=graphs.n_node[index],
        n_edge=graphs.n_edge[index],
    )


def flatten(graphs: GraphsTuple) -> GraphsTuple:
    """Stacked graphs as one flat batch, the form that jraph's networks take.

    Nodes have fields `[graph x node, ...]`, edges `[graph x edge]`, and each graph is
    followed by its padding, which is a graph of its own. Works under `jit`.
    """
    count, size = leading_shape(graphs.nodes)
    numpy: Any = np if isinstance(graphs.senders, np.ndarray) else jnp
    offset = size * numpy.arange(count, dtype=graphs.senders.dtype)[:, None]
    parts = graphs.n_node.shape[-1]
    return GraphsTuple(
        nodes=jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:]), graphs.nodes),
        edges=None,
        senders=(graphs.senders + offset).reshape(-1),
        receivers=(graphs.receivers + offset).reshape(-1),
        globals=jax.tree.map(lambda x: numpy.repeat(x, parts, axis=0), graphs.globals),
        n_node=graphs.n_node.reshape(-1),
        n_edge=graphs.n_edge.reshape(-1),
    )


def edges_of(graphs: GraphsTuple, graph: int) -> Edges:
    """Senders and receivers of one stacked graph, padding left out."""
    count = int(np.asarray(graphs.n_edge)[graph, 0])
    ends = (np.asarray(x) for x in (graphs.senders, graphs.receivers))
    senders, receivers = (x[graph, :count] if x.ndim == 2 else x[:count] for x in ends)
    return senders, receivers


def segment_sum(
    values: Float[Array, "edge *rest"], index: Int[AnyArray, " edge"], count: int
) -> Float[Array, "node *rest"]:
    """Sums of values that share an index, `[count, ...]`."""
    return jax.ops.segment_sum(values, index, count)
