"""Prediction losses and message penalties (arXiv:2006.11287, section 3)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from symjax_gn.data.nodes import AnyArray
from symjax_gn.networks.layers import Prediction

STRATEGIES = ("standard", "bottleneck", "l1", "kl", "pruning")


LOSSES = ("relative", "absolute")


def absolute_loss(
    predicted: Float[AnyArray, "*batch dim"], target: Float[AnyArray, "*batch dim"]
) -> Float[Array, ""]:
    """Mean over nodes of the L1 norm of the error, the paper's loss."""
    return jnp.mean(jnp.sum(jnp.abs(predicted - target), axis=-1))


def relative_loss(
    predicted: Float[AnyArray, "*batch dim"], target: Float[AnyArray, "*batch dim"]
) -> Float[Array, ""]:
    """Mean over nodes of the L1 norm of the error over (1 + norm of the target).

    Targets are in the model's unit, where accelerations have a median of 1. Small and
    large ones count alike, so that close encounters do not drown the rest.
    """
    size = 1 + jnp.linalg.norm(target, axis=-1)
    return jnp.mean(jnp.sum(jnp.abs(predicted - target), axis=-1) / size)


def message_penalty(strategy: str, prediction: Prediction) -> Float[Array, ""]:
    """What a strategy adds to the loss, before its weight.

    "l1": mean over edges of the L1 norm of the messages. "kl": mean over edges of
    the divergence of the messages from a standard normal, up to a constant. "flathgn": mean
    over graphs of the regulariser of the Hamiltonian. Others: 0.
    """
    if prediction.regulariser is not None:
        return jnp.mean(prediction.regulariser)
    messages = prediction.messages
    if strategy == "l1":
        return jnp.mean(jnp.sum(jnp.abs(messages), axis=-1))
    if strategy == "kl":
        return jnp.mean(jnp.sum(kl_divergence(prediction), axis=-1))
    return jnp.zeros(())


def kl_divergence(prediction: Prediction) -> Float[Array, "*batch component"]:
    """(mu^2 + sigma^2 - log sigma^2) / 2 of each message component."""
    log_variance = prediction.log_variance
    assert log_variance is not None
    return 0.5 * (prediction.messages**2 + jnp.exp(log_variance) - log_variance)
