"""Random pairs, and receivers with all that sends to them."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, PRNGKeyArray

from symjax_gn.data.checks import check_count
from symjax_gn.data.datasets import Dataset, sends_elements, with_time
from symjax_gn.data.graphs import edges_of
from symjax_gn.data.nodes import Nodes, leading_shape, take_nodes


def host_generator(key: PRNGKeyArray) -> np.random.Generator:
    """NumPy's generator seeded by a key: choices on the host need no compiled program."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).reshape(-1))


def sample_pairs(
    key: PRNGKeyArray, dataset: Dataset, num_pairs: int
) -> tuple[Nodes, Nodes, Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Random edges of random graphs, with replacement.

    Fewer where some fall on coincident bodies, between which there is no direction.

    Args:
        key: PRNG key.
        dataset: graphs with edges.
        num_pairs: how many.

    Returns:
        Receivers and senders (fields `[pair, ...]`, user's units, with their moment), and the
        numbers of their graphs and edges.

    Raises:
        ValueError: there are no edges, or all sampled pairs coincide.
    """
    check_count("num_pairs", num_pairs)
    counts = np.asarray(dataset.graphs.n_edge)[:, 0]
    if not np.any(counts):
        raise ValueError("The graphs have no edges, so there are no pairs to look at.")
    dataset, rng = with_time(dataset), host_generator(key)
    graph = rng.choice(np.flatnonzero(counts), num_pairs)
    edge = rng.integers(counts[graph])
    receiver, sender = pair_nodes(dataset, graph, edge)
    if receiver.position is not None:
        apart = np.flatnonzero(np.any(receiver.position != sender.position, axis=-1))
        if not apart.size:
            raise ValueError("All pairs coincide: there is no distance to learn from.")
        receiver, sender = take_nodes(receiver, apart), take_nodes(sender, apart)
        graph, edge = graph[apart], edge[apart]
    return receiver, sender, graph, edge


def pair_nodes(
    dataset: Dataset, graph: Int[np.ndarray, " pair"], edge: Int[np.ndarray, " pair"]
) -> tuple[Nodes, Nodes]:
    """Receivers and senders (fields `[pair, ...]`) of given edges of given graphs."""
    picked = []
    for end in (dataset.graphs.receivers, dataset.graphs.senders):
        node = end[graph, edge] if end.ndim == 2 else end[edge]
        picked.append(jax.tree.map(lambda x, k=node: np.asarray(x)[graph, k], dataset.nodes))
    return picked[0], picked[1]


class Stars(NamedTuple):
    """Receivers, each with all that sends to it; or whole graphs with their elements."""

    receiver: Nodes | None
    """Fields `[star, ...]`; None where the elements of whole graphs send."""
    senders: Nodes
    """Fields `[star, sender, ...]`."""
    present: Bool[np.ndarray, "star sender"]
    """[star, sender], False for padding."""
    graph: Int[np.ndarray, " star"]
    """[star], the number of the graph."""
    node: Int[np.ndarray, " star"]
    """[star], the number of the receiver in its graph; 0 for whole graphs."""


def sample_stars(key: PRNGKeyArray, dataset: Dataset, num_stars: int) -> Stars:
    """Random receivers with their senders; those to which nothing is sent are left out.

    Args:
        key: PRNG key.
        dataset: graphs.
        num_stars: how many.

    Raises:
        ValueError: no node receives anything.
    """
    check_count("num_stars", num_stars)
    count, size = leading_shape(dataset.nodes)
    rng = host_generator(key)
    graph = rng.integers(count, size=num_stars)
    if sends_elements(dataset):
        senders = jax.tree.map(lambda x: np.asarray(x)[graph], dataset.nodes)
        here = np.arange(size) < np.asarray(dataset.graphs.n_node)[graph, :1]
        return Stars(None, senders, here, graph, np.zeros_like(graph))
    own = dataset.graphs.senders.ndim == 2
    share = rng.random(num_stars)
    rows: list[np.ndarray] = []
    nodes = np.zeros(num_stars, int)
    tables: dict[int, tuple[np.ndarray, list[np.ndarray]]] = {}
    for k, g in enumerate(graph if own else np.zeros_like(graph)):
        if g not in tables:
            tables[g] = _senders_by_receiver(dataset.graphs, int(g))
        receivers, incoming = tables[g]
        if not len(receivers):
            rows.append(np.zeros(0, int))
            continue
        place = int(share[k] * len(receivers))
        nodes[k] = receivers[place]
        rows.append(incoming[place])
    counts = np.asarray([len(row) for row in rows])
    kept = np.flatnonzero(counts)
    if not kept.size:
        raise ValueError("The graphs have no edges: no node receives a message.")
    index = np.zeros((len(kept), counts.max()), int)
    for place, k in enumerate(kept):
        # Padding repeats a sender, so that it is as good as any other.
        index[place] = np.resize(rows[k], counts.max())
    graph, nodes = graph[kept], nodes[kept]
    receiver = jax.tree.map(lambda x: np.asarray(x)[graph, nodes], dataset.nodes)
    senders = jax.tree.map(lambda x: np.asarray(x)[graph[:, None], index], dataset.nodes)
    return Stars(receiver, senders, np.arange(counts.max()) < counts[kept, None], graph, nodes)


def _senders_by_receiver(graphs, graph):
    """Nodes that receive anything, and the senders to each."""
    senders, receivers = edges_of(graphs, graph)
    order = np.argsort(receivers, kind="stable")
    nodes, starts = np.unique(receivers[order], return_index=True)
    return nodes, np.split(senders[order], starts[1:])
