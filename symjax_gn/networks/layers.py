"""Layers and inputs that networks share."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from symjax_gn.data.nodes import AnyArray, Body

INPUTS = ("relative", "absolute")


# exp(12) is 1.6e5: wider than any ratio of accelerations worth learning in float32.
_MAX_LOG_MAGNITUDE = 12.0


class Prediction(NamedTuple):
    """What a graph network gives for one graph."""

    acceleration: Float[Array, "node dim"]
    """[node, dim]."""
    messages: Float[Array, "edge component"]
    """[edge, component]; of the KL strategy the means."""
    log_variance: Float[Array, "edge component"] | None
    """[edge, component] of the KL strategy, else None."""
    velocity: Float[Array, "node dim"] | None = None
    """[node, dim], dH/dp of a Hamiltonian, else None."""
    regulariser: Float[Array, ""] | None = None
    """What a Hamiltonian is to keep small, else None; see `FlatHGN`."""


class MLP(nn.Module):
    """Dense layers with an activation between them, on the last axis.

    Attributes:
        width: size of each hidden layer.
        depth: number of hidden layers.
        outputs: size of the last layer.
        activation: function between layers.
        magnitude: number of leading outputs that are multiplied by the exponential of
            one more output, so that sizes that differ by powers of ten cost a sum.
    """

    width: int
    depth: int
    outputs: int
    activation: Callable[[Array], Array] = nn.silu
    magnitude: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        for _ in range(self.depth):
            x = self.activation(nn.Dense(self.width)(x))
        outputs = nn.Dense(self.outputs)(x)
        if not self.magnitude:
            return outputs
        scale = _exp_bounded(nn.Dense(1)(x))
        scaled, plain = outputs[..., : self.magnitude], outputs[..., self.magnitude :]
        return jnp.concatenate([scaled * scale, plain], axis=-1)


def _properties(body: Body, power_laws: bool) -> Float[Array, "*batch property"]:
    properties = [body.charge, body.mass]
    if power_laws:
        properties.append(jnp.log(body.mass))
    return jnp.stack(properties, axis=-1)


def _motion_features(body: Body, power_laws: bool) -> list[AnyArray]:
    """Inputs from one body's motion and properties."""
    features = [body.velocity, _properties(body, power_laws)]
    return [*features, *_direction(body.velocity)] if power_laws else features


def _pair_features(displacement: AnyArray, receiver: Body, sender: Body) -> list[AnyArray]:
    """Inputs that power laws are made of: log distance, direction, product of charges."""
    direction, log_distance = _direction(displacement)
    return [log_distance, direction, (receiver.charge * sender.charge)[..., None]]


def _direction(displacement: AnyArray) -> tuple[AnyArray, Array]:
    """Unit vector and logarithm of the length `[..., 1]` of a displacement."""
    # Far below any softening, so that only coincident points notice.
    square = jnp.sum(displacement**2, axis=-1, keepdims=True) + 1e-6
    return displacement * jax.lax.rsqrt(square), 0.5 * jnp.log(square)


def _exp_bounded(x: Array) -> Array:
    # A smooth bound: a clip has no gradient by which to come back.
    return jnp.exp(_MAX_LOG_MAGNITUDE * jnp.tanh(x / _MAX_LOG_MAGNITUDE))
