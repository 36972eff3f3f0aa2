"""A user's jraph graphs, batches or lists of them, as stacked graphs of one shape."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from symjax_gn.data.checks import as_floats, as_whole, shown
from symjax_gn.data.graphs import GraphsTuple, num_graphs, stack_graphs
from symjax_gn.data.memory import check_padding
from symjax_gn.data.nodes import Nodes, leading_shape, take_nodes

# Padding edges join two padding nodes, so that they have a direction as any other edge.
_LEAST_PADDING = 2


class _Graph(NamedTuple):
    """One graph that is no padding."""

    nodes: Nodes
    senders: np.ndarray
    receivers: np.ndarray
    globals: dict[str, np.ndarray]
    """Arrays `[1]` or `[1, k]` by name."""


def from_jraph(
    graphs: GraphsTuple | Sequence[GraphsTuple], *, target: str | None = None
) -> GraphsTuple:
    """A user's jraph graphs, stacked: a batch, a list of graphs, or graphs stacked already.

    Nodes may be a `Nodes`; a mapping with `position`, `velocity` (both optional) and
    scalars by name; or an array `[node, feature]`, whose columns become the properties
    `x_1`, `x_2`, ... Graphs of unequal size are padded to one shape. What
    `jraph.pad_with_graphs` added is taken off: graphs of nothing but zeros whose edges join
    their first node with itself, or that come last.

    Features of whole graphs (`globals`) become properties of all nodes of the graph, under
    their own names, but for the target.

    Args:
        graphs: the graphs.
        target: name among `globals` of what is to be predicted, which stays there.

    Raises:
        ValueError: there is no graph, graphs carry edge features or are empty, arrays do not
            fit, edges name nodes that are not there, or padding would take too much memory.

    >>> import jraph
    >>> one = jraph.GraphsTuple(
    ...     nodes=np.ones((3, 2)), edges=None, senders=None, receivers=None,
    ...     n_node=np.array([3]), n_edge=np.array([0]), globals={"T": np.array([5.0])})
    >>> stacked = from_jraph([one, one])
    >>> sorted(stacked.nodes.properties)
    ['T', 'x_1', 'x_2']
    >>> stacked.nodes.T
    array([[5., 5., 5.],
           [5., 5., 5.]])
    """
    if isinstance(graphs, GraphsTuple):
        if np.ndim(graphs.n_node) == 2 and isinstance(graphs.nodes, Nodes):
            return _with_shared_globals(graphs, target)
        singles = _singles(graphs)
    elif isinstance(graphs, Sequence) and not isinstance(graphs, str):
        singles = [one for k, graph in enumerate(graphs) for one in _singles(graph, f"Graph {k}: ")]
    else:
        raise ValueError(
            f"Graphs must be a jraph.GraphsTuple or a list of them, got {shown(graphs)}."
        )
    if not singles:
        raise ValueError("There are no graphs to learn from: got none that is not empty.")
    kinds = {(_fields(one.nodes), tuple(one.globals)) for one in singles}
    if len(kinds) > 1:
        first, second, *_ = sorted(map(str, kinds))
        raise ValueError(
            f"All graphs must have the same features; some have {first}, some {second}."
        )
    return _with_shared_globals(_stacked(singles), target)


def flat_batch(graphs: GraphsTuple | Sequence[GraphsTuple]) -> GraphsTuple:
    """A user's jraph graph, batch, or list of them, as one batch of all its nodes and edges.

    As `from_jraph`, but padding stays where it is, and no graph is padded.

    Raises:
        ValueError: as `from_jraph`.

    >>> import jraph
    >>> one = jraph.GraphsTuple(
    ...     nodes=np.ones((3, 2)), edges=None, senders=np.array([0, 2]), receivers=np.array([1, 1]),
    ...     n_node=np.array([3]), n_edge=np.array([2]), globals={"T": np.array([5.0])})
    >>> whole = flat_batch([one, one])
    >>> whole.senders, whole.nodes.T
    (array([0, 2, 3, 5]), array([5., 5., 5., 5., 5., 5.]))
    """
    given = [graphs] if isinstance(graphs, GraphsTuple) else graphs
    singles = [one for graph in given for one in _parted(_checked(graph))]
    sizes = [leading_shape(one.nodes)[0] for one in singles]
    starts = np.cumsum(sizes) - sizes
    nodes: Any = jax.tree.map(lambda *x: np.concatenate(x), *(one.nodes for one in singles))
    shared = jax.tree.map(lambda *x: np.concatenate(x), *(one.globals for one in singles))
    properties = dict(nodes.properties)
    for name, value in shared.items():
        for key, column in _columns(name, value).items():
            properties.setdefault(key, np.repeat(column, sizes))
    senders, receivers = (
        np.concatenate([getattr(x, name) + start for x, start in zip(singles, starts, strict=True)])
        for name in ("senders", "receivers")
    )
    return GraphsTuple(
        nodes=nodes._replace(properties=properties),
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=np.asarray(sizes),
        n_edge=np.array([len(one.senders) for one in singles]),
    )


def _fields(nodes: Nodes) -> tuple[Any, ...]:
    """Which features nodes have, with the number of dimensions of vectors."""
    vectors = dict(position=nodes.position, velocity=nodes.velocity)
    there = {name: x.shape[1:] for name, x in vectors.items() if x is not None}
    return (*sorted(there.items()), *sorted(nodes.properties))


def _with_shared_globals(graphs: GraphsTuple, target: str | None) -> GraphsTuple:
    """Stacked graphs whose nodes have features of their graph, but for the target."""
    given: Any = graphs.globals
    if given is not None and not isinstance(given, Mapping):
        given = {"globals": given}
    own = {name: value for name, value in (given or {}).items() if name == target}
    if not given or len(own) == len(given):
        return graphs if given else graphs._replace(globals=None)
    nodes: Any = graphs.nodes
    shape = leading_shape(nodes)
    properties = dict(nodes.properties)
    for name, value in given.items():
        if name in own:
            continue
        array = as_floats(f"The global feature {name!r}", value)
        if array.ndim not in (1, 2) or len(array) != num_graphs(graphs):
            raise ValueError(
                f"The global feature {name!r} must have shape [graph] or [graph, k] with "
                f"{num_graphs(graphs)} graphs, got {array.shape}."
            )
        for key, column in _columns(str(name), array).items():
            if key in properties or key in ("position", "velocity"):
                raise ValueError(
                    f"Nodes and whole graphs both have a feature {key!r}; rename one of them."
                )
            properties[key] = np.repeat(column[:, None], shape[1], axis=1)
    return graphs._replace(nodes=nodes._replace(properties=properties), globals=own or None)


def _columns(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of an array `[n]` or `[n, k]` by name, numbered if there are several."""
    if array.ndim == 1:
        return {name: array}
    if array.shape[1] == 1:
        return {name: array[:, 0]}
    return {f"{name}_{k + 1}": array[:, k] for k in range(array.shape[1])}


def _singles(graphs: Any, source: str = "") -> list[_Graph]:
    """The graphs of a batch, padding left out."""
    graphs = _checked(graphs)
    try:
        return _without_padding(_parted(graphs))
    except ValueError as error:
        raise ValueError(f"{source}{error}") from error


def _checked(graphs: Any) -> GraphsTuple:
    """What is said to be a graph, if it is one."""
    if not isinstance(graphs, GraphsTuple):
        raise ValueError(f"A graph must be a jraph.GraphsTuple, got {shown(graphs)}.")
    return graphs


def _parted(graphs: Any) -> list[_Graph]:
    """All graphs of a batch; what cannot be used is an error."""
    if graphs.edges is not None:
        raise ValueError(
            "These graphs carry features of edges, which are not used; set edges=None, or give "
            "what matters to the nodes."
        )
    if graphs.nodes is None:
        raise ValueError("These graphs have no features of nodes (nodes=None).")
    nodes, shared = _as_nodes(graphs.nodes), _as_globals(graphs.globals)
    n_node, n_edge = (np.ravel(as_whole(x, getattr(graphs, x))) for x in ("n_node", "n_edge"))
    senders, receivers = (
        as_whole(name, [] if getattr(graphs, name) is None else getattr(graphs, name))
        for name in ("senders", "receivers")
    )
    shape = leading_shape(nodes)
    sizes = [np.shape(x)[:1] for x in (*jax.tree.leaves(nodes), senders, receivers)]
    if (
        len(n_node) != len(n_edge)
        or min(*n_node, *n_edge, 0) < 0
        or len(shape) != 1
        or {*sizes[:-2]} != {(np.sum(n_node),)}
        or {*sizes[-2:]} != {(np.sum(n_edge),)}
    ):
        raise ValueError(
            f"n_node and n_edge say {np.sum(n_node)} nodes and {np.sum(n_edge)} edges in "
            f"{len(n_node)} graphs, but the arrays hold {sorted({*sizes[:-2]})} and "
            f"{sorted({*sizes[-2:]})}."
        )
    for name, value in shared.items():
        if np.shape(value)[:1] != (len(n_node),):
            raise ValueError(
                f"The global feature {name!r} must have shape [graph] or [graph, k] with "
                f"{len(n_node)} graphs, got {np.shape(value)}."
            )
    last_nodes, last_edges = np.cumsum(n_node), np.cumsum(n_edge)
    starts = last_nodes - n_node
    graph = np.repeat(np.arange(len(n_edge)), n_edge)
    senders, receivers = (
        (end.astype(np.int64) - starts[graph]).astype(np.int32) for end in (senders, receivers)
    )
    wrong = np.any([(end < 0) | (end >= n_node[graph]) for end in (senders, receivers)], axis=0)
    if np.any(wrong):
        k = graph[np.flatnonzero(wrong)[0]]
        raise ValueError(
            f"An edge of graph {k} names a node outside {starts[k]} to {last_nodes[k] - 1}, which "
            "are its own."
        )
    found = []
    for k in range(len(n_node)):
        edges = slice(last_edges[k] - n_edge[k], last_edges[k])
        found.append(
            _Graph(
                take_nodes(nodes, slice(starts[k], last_nodes[k])),
                senders[edges],
                receivers[edges],
                {name: value[k : k + 1] for name, value in shared.items()},
            )
        )
    return found


def _as_nodes(features: Any) -> Nodes:
    """A user's features of nodes as `Nodes`."""
    if isinstance(features, Nodes):
        vectors = features._asdict() | {"properties": features.properties or {}}
        features = {key: vectors[key] for key in ("position", "velocity")} | vectors["properties"]
        features = {key: value for key, value in features.items() if value is not None}
    if not isinstance(features, Mapping):
        array = as_floats("The features of nodes", features)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2:
            raise ValueError(f"The features of nodes must have shape [node, k], got {array.shape}.")
        features = {f"x_{k + 1}": array[:, k] for k in range(array.shape[1])}
    columns: dict[str, Any] = {}
    vectors: dict[str, Any] = {"position": None, "velocity": None}
    for name, value in features.items():
        array = as_floats(f"The node feature {name!r}", value)
        if array.ndim not in (1, 2) or (name in vectors and array.ndim != 2):
            shape = "[node, dim]" if name in vectors else "[node] or [node, k]"
            raise ValueError(
                f"The node feature {name!r} must have shape {shape}, got {array.shape}."
            )
        if name in vectors:
            vectors[name] = array
        else:
            columns |= _columns(str(name), array)
    return Nodes(vectors["position"], vectors["velocity"], columns)


def _as_globals(features: Any) -> dict[str, np.ndarray]:
    """A user's features of whole graphs, by name."""
    if features is None:
        return {}
    if not isinstance(features, Mapping):
        features = {"globals": features}
    return {
        str(name): as_floats(f"The global feature {name!r}", value)
        for name, value in features.items()
    }


def _without_padding(graphs: Sequence[_Graph]) -> list[_Graph]:
    """The graphs that are not of `jraph.pad_with_graphs`: a dummy, then empty ones."""
    found, padding = [], False
    for k, graph in enumerate(graphs):
        size = leading_shape(graph.nodes)[0]
        # Data may be all 0 as well, e.g. the set {0}; then something else follows.
        ends = k + 1 == len(graphs) or leading_shape(graphs[k + 1].nodes)[0] == 0
        alone = len(graphs) == 1
        if size:
            certain = len(graph.senders) > 0 or graph.nodes.position is not None
            padding = not alone and (certain or ends) and _is_dummy(graph)
        elif not padding:
            which = "the graph" if alone else f"number {k} of a batch of {len(graphs)}"
            raise ValueError(f"{which} has no nodes, and is no padding; leave empty graphs out.")
        if not padding:
            found.append(graph)
    return found


def _is_dummy(graph: _Graph) -> bool:
    """Whether nothing but zeros is there, and all edges join the first node with itself."""
    numbers = (*jax.tree.leaves(graph.nodes), *graph.globals.values())
    return not any(map(np.any, (*numbers, graph.senders, graph.receivers)))


def _stacked(graphs: Sequence[_Graph]) -> GraphsTuple:
    """Single graphs as stacked ones, padded if their sizes differ."""
    nodes = [leading_shape(one.nodes)[0] for one in graphs]
    edges = [len(one.senders) for one in graphs]
    shared: Any = jax.tree.map(lambda *x: np.concatenate(x), *(one.globals for one in graphs))
    if len({*nodes}) == len({*edges}) == 1:
        stacked = jax.tree.map(lambda *x: np.stack(x), *(one.nodes for one in graphs))
        senders, receivers = (
            np.stack([getattr(one, name) for one in graphs]) for name in ("senders", "receivers")
        )
        if np.all(senders == senders[0]) and np.all(receivers == receivers[0]):
            senders, receivers = senders[0], receivers[0]
        return stack_graphs(stacked, senders, receivers, shared or None)
    most_nodes, most_edges = max(nodes) + _LEAST_PADDING, max(edges)
    of_node = sum(x[:1].nbytes for x in jax.tree.leaves(graphs[0].nodes))
    check_padding(
        len(graphs) * (most_nodes * of_node + 8 * most_edges),
        sum(nodes) * of_node + 8 * sum(edges),
        f"{len(graphs)} graphs, each as large as the largest ({max(nodes)} nodes, {most_edges} "
        "edges)",
        "learn from graphs of similar size, without the largest, or from the largest apart",
    )
    padded = [_padded(one, most_nodes, most_edges) for one in graphs]
    stacked = jax.tree.map(lambda *x: np.stack(x), *(one[0] for one in padded))
    counts = [np.asarray(x, np.int32) for x in (nodes, edges)]
    return GraphsTuple(
        nodes=stacked,
        edges=None,
        senders=np.stack([one[1] for one in padded]),
        receivers=np.stack([one[2] for one in padded]),
        globals=shared or None,
        n_node=np.stack([counts[0], most_nodes - counts[0]], axis=1),
        n_edge=np.stack([counts[1], most_edges - counts[1]], axis=1),
    )


def _padded(graph, num_nodes, num_edges):
    """Nodes, senders and receivers of one graph, filled up to the given sizes."""
    own = leading_shape(graph.nodes)[0]
    # Copies of its own nodes are as good as any values: no logarithm of 0, no odd charge.
    nodes = take_nodes(graph.nodes, np.arange(num_nodes) % own)
    if nodes.position is not None:
        extra = np.maximum(np.arange(num_nodes) - own + 1, 0)[:, None]
        spread = float(np.std(nodes.position)) or 1.0
        nodes = nodes._replace(position=nodes.position + spread * extra)
    spare = num_edges - len(graph.senders)
    senders = np.concatenate([graph.senders, np.full(spare, own + 1, np.int32)])
    receivers = np.concatenate([graph.receivers, np.full(spare, own, np.int32)])
    return nodes, senders, receivers
