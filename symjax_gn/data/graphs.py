"""Graphs as `jraph.GraphsTuple`, stacked along a leading axis.

Nodes are a `Nodes` with fields `[graph, node, ...]`; senders and receivers are `[edge]`
where all graphs share them and `[graph, edge]` where they differ. `n_node` and `n_edge`
are `[graph, 1]`, or `[graph, 2]` where graphs of unequal size were padded to one shape,
as jraph pads: the second entry counts the padding. A message goes from sender j to
receiver i.

All that is used of jraph, which is archived upstream, is named here.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from jraph import GraphNetwork

from symjax_gn.data.border import checked
from symjax_gn.data.checks import as_floats, check_count, check_finite, check_number, shown
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape, take_nodes
from symjax_gn.data.space import FREE, Space

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

# Padding edges join two padding nodes, so that they have a direction as any other edge.
_LEAST_PADDING = 2


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

    Args:
        position: `[node, dim]`, length.
        radius: largest distance, length; in a periodic box at most half of its sides.
        space: free or periodic.

    Raises:
        ValueError: the radius is not positive, or exceeds half of a side of the box.

    >>> senders, receivers = radius_edges(np.array([[0.0], [1.0], [3.0]]), 1.5)
    >>> senders, receivers
    (array([1, 0]), array([0, 1]))
    """
    from scipy.spatial import KDTree

    check_radius(radius, space)
    points = as_floats("position", position)
    if points.ndim != 2 or not points.size:
        raise ValueError(f"position must have shape [node, dim], got {points.shape}.")
    check_finite("position", points)
    sides = None
    if space.box is not None:
        sides = np.asarray(space.box)
        points = np.mod(points, sides)
    pairs = KDTree(points, boxsize=sides).query_pairs(radius, output_type="ndarray")
    receivers = np.concatenate([pairs[:, 0], pairs[:, 1]])
    senders = np.concatenate([pairs[:, 1], pairs[:, 0]])
    order = np.lexsort((senders, receivers))
    return senders[order], receivers[order]


def check_radius(radius: float, space: Space) -> None:
    """Raise a `ValueError` for a radius within which bodies cannot be joined.

    >>> check_radius(1.0, FREE)
    """
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
    ends = [np.asarray(senders), np.asarray(receivers)]
    if ends[0].size == 0:
        raise ValueError("The graph has no edges; messages need at least one pair of nodes.")
    for name, end in zip(("senders", "receivers"), ends, strict=True):
        if end.dtype.kind not in "iu":
            raise ValueError(f"{name} must be whole numbers, got an array of type {end.dtype}.")
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


def from_jraph(graphs: GraphsTuple | Sequence[GraphsTuple]) -> GraphsTuple:
    """A user's jraph graphs, stacked: a batch, a list of graphs, or graphs stacked already.

    Nodes may be a `Nodes`; a mapping with `position`, `velocity` (both optional) and
    scalars by name; or an array `[node, feature]`, whose columns become the properties
    `x_1`, `x_2`, ... Graphs of unequal size are padded to one shape.

    Raises:
        ValueError: there is no graph, graphs carry edge features, arrays do not fit, or
            edges name nodes that are not there.

    >>> import jraph
    >>> one = jraph.GraphsTuple(
    ...     nodes=np.ones((3, 5)), edges=None, senders=None, receivers=None,
    ...     n_node=np.array([3]), n_edge=np.array([0]), globals=None)
    >>> sorted(from_jraph([one, one]).nodes.properties)
    ['x_1', 'x_2', 'x_3', 'x_4', 'x_5']
    """
    if isinstance(graphs, GraphsTuple):
        if np.ndim(graphs.n_node) == 2 and isinstance(graphs.nodes, Nodes):
            return graphs
        parts: list[Any] = _unbatch(graphs)
    else:
        parts = [one for graph in graphs for one in _unbatch(_check_graph(graph))]
    if not parts:
        raise ValueError("There are no graphs to learn from: got an empty list.")
    return _pad(parts)


def _unbatch(graphs) -> list[Any]:
    whole: Any = _as_numpy(graphs)
    return jraph.unbatch_np(whole)


def _check_graph(graph):
    if not isinstance(graph, GraphsTuple):
        raise ValueError(f"A graph must be a jraph.GraphsTuple, got {shown(graph)}.")
    return graph


def _as_numpy(graphs):
    """The batch as NumPy arrays with nodes as `Nodes`; what cannot be used is an error."""
    if graphs.edges is not None:
        raise ValueError(
            "These graphs carry features of edges, which are not used; set edges=None, or give "
            "what matters to the nodes."
        )
    if graphs.nodes is None:
        raise ValueError("These graphs have no features of nodes (nodes=None).")
    none = np.zeros(0, np.int32)
    senders, receivers = (
        none if x is None else np.asarray(x) for x in (graphs.senders, graphs.receivers)
    )
    nodes = _as_nodes(graphs.nodes)
    n_node, n_edge = (np.asarray(x).reshape(-1) for x in (graphs.n_node, graphs.n_edge))
    shape = leading_shape(nodes)
    if len(shape) != 1 or shape[0] != np.sum(n_node) or len(senders) != np.sum(n_edge):
        raise ValueError(
            f"n_node and n_edge say {np.sum(n_node)} nodes and {np.sum(n_edge)} edges, but the "
            f"arrays hold {shape[0] if shape else 0} and {len(senders)}."
        )
    if len(senders) and (
        min(senders.min(), receivers.min()) < 0 or max(senders.max(), receivers.max()) >= shape[0]
    ):
        raise ValueError(f"An edge names a node outside 0 to {shape[0] - 1}.")
    globals_ = graphs.globals
    if globals_ is not None and not isinstance(globals_, Mapping):
        globals_ = {"globals": np.asarray(globals_)}
    return GraphsTuple(
        nodes=nodes,
        edges=None,
        senders=senders.astype(np.int32),
        receivers=receivers.astype(np.int32),
        globals=jax.tree.map(np.asarray, globals_),
        n_node=n_node,
        n_edge=n_edge,
    )


def _as_nodes(features: Any) -> Nodes:
    """A user's features of nodes as `Nodes`."""
    if isinstance(features, Nodes):
        return jax.tree.map(np.asarray, features)
    if not isinstance(features, Mapping):
        features = {"x": features}
    columns: dict[str, Any] = {}
    vectors: dict[str, Any] = {"position": None, "velocity": None}
    for name, value in features.items():
        array = as_floats(f"The node feature {name!r}", value)
        if name in vectors:
            vectors[name] = array
        elif array.ndim == 1:
            columns[str(name)] = array
        elif array.ndim == 2:
            columns |= {f"{name}_{k + 1}": array[:, k] for k in range(array.shape[1])}
        else:
            raise ValueError(
                f"The node feature {name!r} must have shape [node] or [node, k], got {array.shape}."
            )
    return Nodes(vectors["position"], vectors["velocity"], columns)


def _pad(parts: Sequence[GraphsTuple]) -> GraphsTuple:
    """Single graphs as stacked ones, padded if their sizes differ."""
    nodes = [int(part.n_node[0]) for part in parts]
    edges = [int(part.n_edge[0]) for part in parts]
    same_nodes, same_edges = len(set(nodes)) == 1, len(set(edges)) == 1
    globals_ = None
    if parts[0].globals is not None:
        globals_ = jax.tree.map(lambda *x: np.concatenate(x), *(part.globals for part in parts))
    if same_nodes and same_edges:
        stacked = jax.tree.map(lambda *x: np.stack(x), *(part.nodes for part in parts))
        senders, receivers = (
            np.stack([getattr(part, name) for part in parts]) for name in ("senders", "receivers")
        )
        if np.all(senders == senders[0]) and np.all(receivers == receivers[0]):
            senders, receivers = senders[0], receivers[0]
        return stack_graphs(stacked, senders, receivers, globals_)
    most_nodes, most_edges = max(nodes) + _LEAST_PADDING, max(edges)
    padded = [_pad_one(part, most_nodes, most_edges) for part in parts]
    stacked = jax.tree.map(lambda *x: np.stack(x), *(one[0] for one in padded))
    counts = [np.asarray(x, np.int32) for x in (nodes, edges)]
    return GraphsTuple(
        nodes=stacked,
        edges=None,
        senders=np.stack([one[1] for one in padded]),
        receivers=np.stack([one[2] for one in padded]),
        globals=globals_,
        n_node=np.stack([counts[0], most_nodes - counts[0]], axis=1),
        n_edge=np.stack([counts[1], most_edges - counts[1]], axis=1),
    )


def _pad_one(part, num_nodes, num_edges):
    """Nodes, senders and receivers of one graph, filled up to the given sizes."""
    own = int(part.n_node[0])
    # Copies of its own nodes are as good as any values: no logarithm of 0, no odd charge.
    index = np.arange(num_nodes) % max(own, 1)
    nodes = take_nodes(part.nodes, index)
    if nodes.position is not None:
        extra = np.maximum(np.arange(num_nodes) - own + 1, 0)[:, None]
        spread = float(np.std(nodes.position)) or 1.0
        nodes = nodes._replace(position=nodes.position + spread * extra)
    spare = num_edges - int(part.n_edge[0])
    senders = np.concatenate([part.senders, np.full(spare, own + 1, np.int32)])
    receivers = np.concatenate([part.receivers, np.full(spare, own, np.int32)])
    return nodes, senders.astype(np.int32), receivers.astype(np.int32)


def segment_sum(
    values: Float[Array, "edge *rest"], index: Int[AnyArray, " edge"], count: int
) -> Float[Array, "node *rest"]:
    """Sums of values that share an index, `[count, ...]`."""
    return jax.ops.segment_sum(values, index, count)
