"""Layers and inputs that networks share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from symjax_gn.data.checks import check_choice
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape

# exp(12) is 1.6e5: wider than any ratio of accelerations worth learning in float32.
_MAX_LOG_MAGNITUDE = 12.0

# Squared length in the model's unit far below any softening: only coincident points notice.
_TINY_SQUARE = 1e-6


def _float32(left, right, numbers, precision=None, preferred_element_type=None):
    """Explicit, for by default TPUs round operands to bf16 and some GPUs to TF32."""
    return jax.lax.dot_general(left, right, numbers, precision=jax.lax.Precision.HIGHEST)


def _tf32(left, right, numbers, precision=None, preferred_element_type=None):
    tf32 = jax.lax.DotAlgorithmPreset.TF32_TF32_F32
    return jax.lax.dot_general(left, right, numbers, precision=tf32)


def _bf16(left, right, numbers, precision=None, preferred_element_type=None):
    left, right = (x.astype(jnp.bfloat16) for x in (left, right))
    return jax.lax.dot_general(left, right, numbers, preferred_element_type=jnp.float32)


PRODUCTS: dict[str, Callable[..., Array]] = {"float32": _float32, "tf32": _tf32, "bf16": _bf16}
"""Matrix products by the precision of their operands; sums are float32 in all."""


def check_precision(precision: str) -> None:
    """Raise a `ValueError` unless the device has products of a precision."""
    check_choice("precision", precision, PRODUCTS)
    platform = jax.devices()[0].platform
    if precision == "tf32" and platform in ("cpu", "tpu"):
        raise ValueError(
            f'precision="tf32" needs a GPU, and this is a {platform.upper()}; use "float32" or '
            '"bf16".'
        )


class Properties(NamedTuple):
    """Names of the properties that a network sees, by what is fed of them.

    Hashable, so that it can be an attribute of a module.
    """

    signed: tuple[str, ...] = ()
    """Those that may be negative or zero, such as charges: products of pairs are fed."""
    positive: tuple[str, ...] = ()
    """Those that are positive in all data, such as masses: logarithms are fed."""


class MLP(nn.Module):
    """Dense layers with an activation between them, on the last axis.

    Attributes:
        width: size of each hidden layer.
        depth: number of hidden layers.
        outputs: size of the last layer.
        activation: function between layers.
        magnitude: number of leading outputs that are multiplied by the exponential of
            one more output, so that sizes that differ by powers of ten cost a sum.
        precision: of products, one of `PRODUCTS`.
    """

    width: int
    depth: int
    outputs: int
    activation: Callable[[Array], Array] = nn.silu
    magnitude: int = 0
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        dense = functools.partial(nn.Dense, dot_general=PRODUCTS[self.precision])
        for _ in range(self.depth):
            x = self.activation(dense(self.width)(x))
        outputs = dense(self.outputs)(x)
        if not self.magnitude:
            return outputs
        scale = exp_bounded(dense(1)(x))
        scaled, plain = outputs[..., : self.magnitude], outputs[..., self.magnitude :]
        return jnp.concatenate([scaled * scale, plain], axis=-1)


def concatenate(features: Sequence[Any]) -> Array:
    """Inputs side by side along the last axis; None stands for no input."""
    return jnp.concatenate([x for x in features if x is not None], axis=-1)


def own_features(
    nodes: Nodes, properties: Properties, power_laws: bool
) -> Float[Array, "*batch property"]:
    """Inputs from the properties of nodes, and with `power_laws` their logarithms."""
    names = (*properties.signed, *properties.positive)
    columns = [nodes.properties[name] for name in names]
    if power_laws:
        columns += [jnp.log(nodes.properties[name]) for name in properties.positive]
    if not columns:
        return jnp.zeros((*leading_shape(nodes), 0))
    return jnp.stack(columns, axis=-1)


def motion_features(
    nodes: Nodes, properties: Properties, power_laws: bool
) -> list[AnyArray | None]:
    """Inputs from one body's motion and properties."""
    features: list[Any] = [nodes.velocity, own_features(nodes, properties, power_laws)]
    if power_laws and nodes.velocity is not None:
        features += direction(nodes.velocity)
    return features


def pair_inputs(
    displacement: AnyArray | None, receiver: Nodes, sender: Nodes, properties: Properties
) -> list[Any]:
    """Inputs that power laws are made of: log distance, direction, products of charges."""
    features: list[Any] = []
    if displacement is not None:
        unit, log_distance = direction(displacement)
        features += [log_distance, unit]
    for name in properties.signed:
        product = receiver.properties[name] * sender.properties[name]
        features.append(product[..., None])
    return features


def direction(displacement: AnyArray) -> tuple[AnyArray, Array]:
    """Unit vector and logarithm of the length `[..., 1]` of a displacement."""
    square = jnp.sum(displacement**2, axis=-1, keepdims=True) + _TINY_SQUARE
    return displacement * jax.lax.rsqrt(square), 0.5 * jnp.log(square)


def exp_bounded(x: Array) -> Array:
    """exp(x) within 1e5 of 1; smoothly, for a clip has no gradient by which to come back."""
    return jnp.exp(_MAX_LOG_MAGNITUDE * jnp.tanh(x / _MAX_LOG_MAGNITUDE))
