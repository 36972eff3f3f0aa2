"""Bodies: where they are, how they move, and what they carry."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

AnyArray = Array | np.ndarray


class Body(NamedTuple):
    """Point bodies; any leading axes, often `[graph, node]`, shared by all fields."""

    position: Float[AnyArray, "*batch dim"]
    """[..., dim], length."""
    velocity: Float[AnyArray, "*batch dim"]
    """[..., dim], length / time."""
    mass: Float[AnyArray, "*batch"]
    """[...], mass; positive."""
    charge: Float[AnyArray, "*batch"]
    """[...], charge."""


def check_body(body: Body, source: str) -> None:
    """Raise a `ValueError` naming `source` unless shapes agree, all is finite, mass > 0."""
    if np.ndim(body.position) < 1 or np.shape(body.position) != np.shape(body.velocity):
        raise ValueError(
            f"Position and velocity from {source} must agree in shape, got "
            f"{np.shape(body.position)} and {np.shape(body.velocity)}."
        )
    for name in ("mass", "charge"):
        if np.shape(getattr(body, name)) != np.shape(body.position)[:-1]:
            raise ValueError(
                f"The {name} from {source} must have shape {np.shape(body.position)[:-1]}, "
                f"got {np.shape(getattr(body, name))}."
            )
    for name, value in body._asdict().items():
        bad = int(np.size(value) - np.sum(np.isfinite(value)))
        if bad:
            raise ValueError(f"The {name} from {source} has {bad} NaN or infinite values.")
    if not np.all(np.asarray(body.mass) > 0):
        raise ValueError(
            f"Masses from {source} must be positive, the smallest is {np.min(body.mass)}."
        )
