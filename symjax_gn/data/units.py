"""Typical sizes of a data set's quantities, which bring them near one in training."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from symjax_gn.data.checks import check_type
from symjax_gn.data.datasets import Dataset, take, target_mask
from symjax_gn.data.features import parse_feature
from symjax_gn.data.graphs import edge_mask, node_mask
from symjax_gn.data.nodes import AnyArray, Nodes

# As many displacements tell a typical distance; all of them may not fit into memory.
_MOST_PAIRS = 1_000_000

# Bodies that feel less than this share of what the most affected feel say nothing of
# the size of what others feel.
_NEXT_TO_NOTHING = 1e-3

# Values farther than this from the typical one have squares that float32 does not hold.
_SPAN = 1e15


class Scales(NamedTuple):
    """The user's units that equal one inside the models, and the place that is zero."""

    length: float
    velocity: float
    target: float
    properties: dict[str, float]
    centre: Float[np.ndarray, " dim"] | None
    """[dim], user's length; None for nodes without positions."""


def typical_size(values: AnyArray) -> float:
    """Median of the absolute values that are not next to zero, or 0 if all are zero.

    A median, because close encounters have no typical size. Values below a thousandth of
    the 95% quantile are passed over.

    >>> typical_size(np.array([0.0, 0.0, 1.0, 2.0, 3.0]))
    2.0
    """
    size = np.abs(np.asarray(values, np.float64))
    size = size[size > _NEXT_TO_NOTHING * np.quantile(size, 0.95)]
    return float(np.median(size)) if size.size else 0.0


def measure_scales(dataset: Dataset) -> Scales:
    """Typical sizes of a dataset's quantities.

    One number per quantity, so that directions and ratios of masses keep their meaning;
    a property that is zero everywhere has scale 1. Properties that are positive have their
    geometric mean.

    Raises:
        ValueError: all pairs coincide, the target is zero everywhere, or some numbers are so
            much larger than others that float32 cannot hold both.
    """
    check_type("What has scales", dataset, Dataset, "See make_dataset.")
    nodes = _real_nodes(dataset)
    length, centre = 1.0, None
    if nodes.position is not None:
        centre = np.mean(nodes.position, axis=tuple(range(nodes.position.ndim - 1)))
        length = typical_size(_some_displacements(dataset))
        if length == 0:
            raise ValueError("All pairs coincide: there is no distance to learn from.")
    properties = {}
    for name, values in nodes.properties.items():
        if np.all(values > 0):
            properties[name] = float(np.exp(np.mean(np.log(values))))
        else:
            properties[name] = typical_size(values) or 1.0
    target = np.asarray(dataset.target)
    known = target_mask(dataset)
    if known is not None:
        target = target[np.asarray(known)[..., 0] > 0]
    velocity = 1.0 if nodes.velocity is None else typical_size(nodes.velocity) or 1.0
    size = typical_size(target)
    if size == 0:
        raise ValueError(
            f"The {dataset.quantity.name} is 0 everywhere, so there is nothing to learn; are the "
            "data those that were meant?"
        )
    scales = Scales(length, velocity, size, properties, centre)
    _check_span("position", nodes.position, length)
    _check_span("velocity", nodes.velocity, velocity)
    _check_span(dataset.quantity.name, target, size)
    for name, column in nodes.properties.items():
        _check_span(name, column, properties[name])
    return scales


def _real_nodes(dataset: Dataset) -> Nodes:
    """Nodes that are no padding, float64; fields `[graph, node, ...]` or `[node, ...]`."""
    real = node_mask(dataset.graphs)
    mask = ... if real is None else np.asarray(real)
    return jax.tree.map(lambda x: np.asarray(x, np.float64)[mask], dataset.nodes)


def _check_span(name, values, size):
    """Whether values, and where none is 0 their inverses too, fit into float32 with squares."""
    found = np.abs(np.asarray(0.0 if values is None else values, np.float64)) / size
    largest, least = np.max(found), np.min(found)
    if largest > _SPAN or (0 < least < 1 / _SPAN and name == "mass"):
        worst = largest if largest > _SPAN else least
        raise ValueError(
            f"The {name} has a value {worst:.1g} times the typical {size:.3g}; float32 holds no "
            f"more than {_SPAN:.0e}: look for a wrong unit, or leave such bodies out."
        )


def _some_displacements(dataset):
    """Displacements `[graph, edge, dim]` along the edges of evenly spaced graphs."""
    graphs = dataset.graphs
    per_graph = graphs.senders.shape[-1]
    if not per_graph:
        position = _real_nodes(dataset).position
        return position - np.mean(position)
    count = int(np.clip(_MOST_PAIRS // per_graph, 1, len(dataset)))
    some = take(dataset, np.linspace(0, len(dataset) - 1, count).astype(int))
    step = max(1, per_graph // _MOST_PAIRS)
    position = np.asarray(some.nodes.position, np.float64)
    rows = np.arange(count)[:, None]
    ends = [np.asarray(x)[..., ::step] for x in (some.graphs.receivers, some.graphs.senders)]
    found = dataset.space.displacement(*(position[rows, end] for end in ends))
    here = edge_mask(some.graphs)
    return found if here is None else found[np.asarray(here)[:, ::step]]


def normalise_nodes(nodes: Nodes, scales: Scales) -> Nodes:
    """Nodes in the model's units, float32; positions from the scales' centre."""

    def scaled(value, size, centre: Any = 0.0):
        # float64 on the host: differences of places far from zero are exact there.
        value = (np.asarray(value, np.float64) - centre) / size
        return jnp.asarray(value, jnp.float32)

    position, velocity, properties = nodes
    return Nodes(
        position=None if position is None else scaled(position, scales.length, scales.centre),
        velocity=None if velocity is None else scaled(velocity, scales.velocity),
        properties={name: scaled(x, scales.properties[name]) for name, x in properties.items()},
    )


def normalise(dataset: Dataset, scales: Scales) -> Dataset:
    """The dataset in the model's units, float32, as JAX arrays."""
    graphs = dataset.graphs._replace(nodes=normalise_nodes(dataset.nodes, scales))
    target = np.asarray(dataset.target, np.float64) / scales.target
    if dataset.mask is not None and dataset.quantity.level == "node":
        # What is not known may be NaN, and NaN times 0 is no 0.
        target = np.where(np.asarray(dataset.mask)[..., None], target, 0.0)
    return dataclasses.replace(
        dataset,
        graphs=jax.tree.map(jnp.asarray, graphs),
        target=jnp.asarray(target, jnp.float32),
        mask=None if dataset.mask is None else jnp.asarray(dataset.mask),
        group=jnp.asarray(dataset.group),
        time=None if dataset.time is None else jnp.asarray(dataset.time, jnp.float32),
        space=dataset.space.scaled(1 / scales.length),
    )


def feature_scale(name: str, scales: Scales) -> float:
    """The typical size of a feature, by its name; see `data.features`.

    >>> feature_scale("m_j", Scales(2.0, 1.0, 1.0, {"mass": 3.0}, None))
    3.0
    """
    kind = parse_feature(name).kind
    if kind.startswith("property:"):
        return scales.properties.get(kind.removeprefix("property:"), 1.0)
    if kind == "momentum":
        return scales.properties.get("mass", 1.0) * scales.velocity
    sizes = {"length": scales.length, "velocity": scales.velocity}
    return sizes.get(kind, 1.0)
