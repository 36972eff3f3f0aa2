"""Prediction losses and message penalties (arXiv:2006.11287, section 3)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from symjax_gn.data.nodes import AnyArray
from symjax_gn.model import Prediction

STRATEGIES = ("standard", "bottleneck", "l1", "kl", "pruning")


def _mean(values, known):
    """Mean of values `[...]`, of those that are known."""
    if known is None:
        return jnp.mean(values)
    known = jnp.broadcast_to(known, values.shape).astype(values.dtype)
    return jnp.sum(values * known) / jnp.maximum(jnp.sum(known), 1.0)


def absolute_loss(
    predicted: Float[AnyArray, "*batch component"],
    target: Float[AnyArray, "*batch component"],
    known: Bool[AnyArray, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Mean over nodes (or graphs) of the L1 norm of the error, the paper's loss.

    >>> float(absolute_loss(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])))
    3.0
    """
    return _mean(jnp.sum(jnp.abs(predicted - target), axis=-1), known)


def relative_loss(
    predicted: Float[AnyArray, "*batch component"],
    target: Float[AnyArray, "*batch component"],
    known: Bool[AnyArray, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Mean over nodes (or graphs) of the L1 norm of the error over (1 + norm of the target).

    Targets are in the model's unit, where they have a median of 1. Small and large ones
    count alike, so that close encounters do not drown the rest.

    >>> float(relative_loss(jnp.array([[2.0]]), jnp.array([[3.0]])))
    0.25
    """
    size = 1 + jnp.linalg.norm(target, axis=-1)
    return _mean(jnp.sum(jnp.abs(predicted - target), axis=-1) / size, known)


LOSSES = {"relative": relative_loss, "absolute": absolute_loss}


def message_penalty(strategy: str, prediction: Prediction, present: Any = None) -> Float[Array, ""]:
    """What a strategy adds to the loss, before its weight.

    "l1": mean over messages of their L1 norm. "kl": mean over messages of their divergence
    from a standard normal, up to a constant. Of a Hamiltonian its regulariser. Others: 0.

    Args:
        strategy: one of `STRATEGIES`.
        prediction: what the model gave.
        present: `[graph, edge]`, False for padding; None: all are there.
    """
    if prediction.regulariser is not None:
        return prediction.regulariser
    if strategy == "l1":
        return _mean(jnp.sum(jnp.abs(prediction.messages), axis=-1), present)
    if strategy == "kl":
        return _mean(jnp.sum(kl_divergence(prediction), axis=-1), present)
    return jnp.zeros(())


def kl_divergence(prediction: Prediction) -> Float[Array, "*batch message"]:
    """(mu^2 + sigma^2 - log sigma^2) / 2 of each message component."""
    log_variance = prediction.log_variance
    assert log_variance is not None
    return 0.5 * (prediction.messages**2 + jnp.exp(log_variance) - log_variance)
