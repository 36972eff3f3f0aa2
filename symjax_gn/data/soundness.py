"""Whether data sets can be learned from: clear errors where they cannot."""

from typing import Any

import numpy as np

from symjax_gn.data.checks import (
    as_floats,
    as_whole,
    check_finite,
    check_type,
    shown,
)
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.features import TIME
from symjax_gn.data.graphs import (
    GraphsTuple,
    check_edges,
    edges_of,
    node_mask,
)
from symjax_gn.data.nodes import check_nodes, leading_shape
from symjax_gn.data.quantities import check_quantity
from symjax_gn.data.space import check_space


def as_mask(name: str, value: Any) -> Any:
    """A mask as booleans; what is neither 0 nor 1 is an error."""
    array = as_floats(name, value)
    wrong = ~np.isin(array, (0, 1))
    if np.any(wrong):
        raise ValueError(f"{name} must be 0 or 1, or False or True; got {array[wrong][0]}.")
    return array > 0


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
    mask = as_mask(f"The mask of the {name} dataset", dataset.mask)
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
