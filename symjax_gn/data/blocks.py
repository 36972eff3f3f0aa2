"""One large set of nodes as graphs of blocks: some receivers each, with all that send to them."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from symjax_gn.data.building import dataset_from_graphs
from symjax_gn.data.checks import as_floats, as_whole, check_count
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import GraphsTuple, check_radius, neighbour_tree
from symjax_gn.data.nodes import Nodes, check_nodes
from symjax_gn.data.quantities import Quantity, check_quantity
from symjax_gn.data.space import FREE, Space

# The feature of nodes that says where the target is known.
_KNOWN = "known"


def block_graphs(
    nodes: Nodes,
    target: Float[np.ndarray, " node"],
    radius: float,
    *,
    quantity: Quantity,
    space: Space = FREE,
    group: Int[np.ndarray, " node"] | None = None,
    receivers: Bool[np.ndarray, " node"] | None = None,
    size: int = 64,
) -> Dataset:
    """Graphs of neighbouring receivers, each with all nodes within a radius.

    This is for more nodes than one graph takes: neighbours in a box of a thousand megaparsec,
    cells of a tissue. Each node receives in one graph and is among the senders of several.
    One without neighbours has no messages. All graphs are padded to one shape.

    Args:
        nodes: fields `[node, ...]`, user's units.
        target: `[node]`, user's unit.
        radius: within which nodes are joined, length; at most half of a periodic box.
        quantity: what the target is.
        space: free or periodic.
        group: `[node]`, receivers in one graph have one number, by which data are split; None:
            each graph is a group of its own.
        receivers: `[node]`, True where the target is known; None: everywhere.
        size: most receivers of one graph.

    Raises:
        ValueError: an argument is wrong, or there are fewer receivers than a graph takes.

    >>> place = np.random.default_rng(0).uniform(0, 10, (50, 2))
    >>> nodes = Nodes(place, None, {})
    >>> data = block_graphs(nodes, place[:, 0], 2.0, quantity=Quantity("depth"), size=13)
    >>> len(data), int(np.sum(data.mask))
    (4, 50)
    """
    check_count("size", size)
    check_quantity(quantity)
    check_nodes(nodes, "the given arrays")
    if nodes.position is None:
        raise ValueError("Nodes need positions to be joined within a radius.")
    check_radius(radius, space)
    tree = neighbour_tree(as_floats("position", nodes.position), space)
    points = np.asarray(tree.data)
    marks = dict(
        target=as_floats("target", target),
        receivers=np.ones(len(points), bool) if receivers is None else np.asarray(receivers),
        group=np.zeros(len(points), int) if group is None else as_whole("group", group),
    )
    for name, values in marks.items():
        if values.shape != (len(points),) or (name == "receivers" and values.dtype != bool):
            raise ValueError(
                f"{name} must be one {'boolean' if name == 'receivers' else 'number'} for each of "
                f"the {len(points)} nodes, got {values.dtype} of shape {values.shape}."
            )
    known, number = marks["receivers"], marks["group"]
    if np.sum(known) < size:
        raise ValueError(
            f"There are {np.sum(known)} receivers, fewer than the {size} of one graph; give more "
            "of them, or a smaller size."
        )
    blocks = [
        block
        for one in np.unique(number[known])
        for block in _halved(points, np.flatnonzero(known & (number == one)), size)
    ]
    for name in (quantity.name, _KNOWN):
        if name in nodes.properties:
            raise ValueError(
                f"Nodes have a property {name!r}, which is what the target or the mask is called "
                "in graphs; call it something else."
            )
    features = dict(nodes.properties) | {quantity.name: marks["target"]}
    features |= dict(position=points)
    if nodes.velocity is not None:
        features |= dict(velocity=nodes.velocity)
    return dataset_from_graphs(
        [_graph(tree, features, block, radius) for block in blocks],
        quantity.name,
        quantity=quantity,
        mask=_KNOWN,
        group=np.arange(len(blocks)) if group is None else number[[block[0] for block in blocks]],
        space=space,
    )


def _halved(points: np.ndarray, which: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Numbers of nodes near each other, at most so many at once."""
    if len(which) <= size:
        yield which
        return
    # Full blocks, all but one.
    half = size * max(1, round(len(which) / size / 2))
    axis = np.argmax(np.ptp(points[which], axis=0))
    order = np.argpartition(points[which, axis], half)
    yield from _halved(points, which[order[:half]], size)
    yield from _halved(points, which[order[half:]], size)


def _graph(tree, features, block, radius):
    """The graph of some receivers, which come first."""
    near = tree.query_ball_point(tree.data[block], radius, workers=-1)
    sender = np.concatenate([np.asarray(one, np.int64) for one in near])
    receiver = np.repeat(np.arange(len(block)), [len(one) for one in near])
    others = sender != block[receiver]
    sender, receiver = sender[others], receiver[others]
    members = np.concatenate([block, np.setdiff1d(sender, block)])
    order = np.argsort(members)
    sender = order[np.searchsorted(members, sender, sorter=order)]
    nodes = {name: column[members] for name, column in features.items()}
    # Senders whose targets are known receive nothing here.
    nodes[_KNOWN] = np.arange(len(members)) < len(block)
    return GraphsTuple(
        nodes=nodes,
        edges=None,
        senders=sender.astype(np.int32),
        receivers=receiver.astype(np.int32),
        globals=None,
        n_node=np.array([len(members)]),
        n_edge=np.array([len(sender)]),
    )
