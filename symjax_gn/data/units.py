"""Typical sizes of a data set's quantities, which bring them near one in training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.nodes import AnyArray, Body


class Scales(NamedTuple):
    """The user's units that equal one inside the models, and the place that is zero."""

    length: float
    velocity: float
    mass: float
    charge: float
    acceleration: float
    centre: Float[np.ndarray, " dim"]
    """[dim], user's length."""


def typical_size(values: AnyArray) -> float:
    """Median of the absolute values that are not next to zero, or 0 if all are zero.

    A median, because close encounters have no typical size. Bodies that feel next to
    nothing say nothing of the size of what others feel, so values below a thousandth of
    the 95% quantile are passed over.
    """
    size = np.abs(np.asarray(values, np.float64))
    size = size[size > 1e-3 * np.quantile(size, 0.95)]
    return float(np.median(size)) if size.size else 0.0


def measure_scales(dataset: Dataset) -> Scales:
    """Typical sizes of a dataset's quantities, to bring them near one in training.

    One number per quantity, so that directions and ratios of masses keep their meaning;
    a quantity that is zero everywhere has scale 1.
    """
    position = np.asarray(dataset.nodes.position, np.float64)
    return Scales(
        length=typical_size(position[:, dataset.senders] - position[:, dataset.receivers]) or 1.0,
        velocity=typical_size(dataset.nodes.velocity) or 1.0,
        mass=float(np.exp(np.mean(np.log(np.asarray(dataset.nodes.mass, np.float64))))),
        charge=typical_size(dataset.nodes.charge) or 1.0,
        acceleration=typical_size(dataset.acceleration) or 1.0,
        centre=np.mean(position, axis=(0, 1)),
    )


def normalise(dataset: Dataset, scales: Scales) -> Dataset:
    """The dataset in the model's units, float32; positions from the scales' centre."""
    position = np.asarray(dataset.nodes.position, np.float64)
    nodes = Body(
        position=(position - scales.centre) / scales.length,
        velocity=np.asarray(dataset.nodes.velocity, np.float64) / scales.velocity,
        mass=np.asarray(dataset.nodes.mass, np.float64) / scales.mass,
        charge=np.asarray(dataset.nodes.charge, np.float64) / scales.charge,
    )
    target = np.asarray(dataset.acceleration, np.float64) / scales.acceleration
    return dataset._replace(
        nodes=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), nodes),
        acceleration=jnp.asarray(target, jnp.float32),
    )
