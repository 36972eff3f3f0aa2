"""Pruning of message components that is not told how many are needed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from symjax_gn.networks.layers import Prediction

# A rise of the loss that a cut may cost. A component of the force is worth more: one of
# three, about a third of what there is.
_MOST = 0.1


class Cut(NamedTuple):
    """What pruning can go back to if its last cut took too much."""

    params: Any
    """Parameters before the cut."""
    mask: Float[Array, " component"]
    """[component], the mask before the cut."""
    spread: Float[Array, " component"]
    """[component], significance of the components before the cut."""
    loss: Float[Array, ""]
    """Validation loss before the cut, over that of predicting nothing."""
    least: Float[Array, ""]
    """Number of components below which cuts are known to take too much."""


def fading(progress: float | Float[Array, ""], end: float = 0.65) -> Float[Array, ""]:
    """1 at the start of training, 0 from the share `end` on, half a cosine between."""
    phase = jnp.clip(progress / end, 0.0, 1.0)
    return 0.5 * (1 + jnp.cos(jnp.pi * phase))


def kept_components(
    progress: float | Float[Array, ""], message_dim: int, end: float = 0.65
) -> Float[Array, ""]:
    """How many components pruning keeps at a share `progress` of the training.

    Falls from `message_dim` to 1 as `fading` does.
    """
    return jnp.ceil(1 + (message_dim - 1) * fading(progress, end))


def significance(prediction: Prediction) -> Float[Array, " component"]:
    """How much each component says: its standard deviation, for KL over that of its noise.

    The divergence itself would rank a mean that is far from zero, though it says nothing, high.
    """
    spread = jnp.std(prediction.messages, axis=(0, 1))
    if prediction.log_variance is None:
        return spread
    return spread / jnp.sqrt(jnp.mean(jnp.exp(prediction.log_variance), axis=(0, 1)))


def prune(
    mask: Float[Array, " component"],
    significance: Float[Array, " component"],
    kept: Float[Array, ""],
) -> Float[Array, " component"]:
    """Mask all but the `kept` most significant components; the masked stay masked."""
    order = jnp.argsort(jnp.argsort(-jnp.where(mask > 0, significance, -1.0)))
    return mask * (order < kept)


def cut_or_undo(
    params: Any,
    mask: Float[Array, " component"],
    cut: Cut,
    loss: Float[Array, ""],
    spread: Float[Array, " component"],
    progress: Float[Array, ""],
) -> tuple[Any, Float[Array, " component"], Cut]:
    """Mask the least significant components, or undo the last cut if the loss rose by 0.1.

    Of a cut of several that is undone, half is tried next, for a restless loss may rise by
    itself; a cut of one that is undone is the last. At the end of training nothing is cut.

    Args:
        params: parameters as they are.
        mask: [component], the mask as it is.
        cut: what the last call returned.
        loss: validation loss, over that of predicting nothing.
        spread: [component], significance of the components.
        progress: share of the training that is done.

    Returns:
        Parameters and mask to go on with, and what to go back to.
    """
    kept, before = jnp.sum(mask), jnp.sum(cut.mask)
    hurt = (kept < before) & (loss > cut.loss + _MOST)
    least = jnp.where(hurt & (before - kept == 1), before, cut.least)
    half = jnp.where(hurt, jnp.ceil((kept + before) / 2), 1.0)
    now = Cut(params, mask, spread, loss, least)
    cut = jax.tree.map(lambda old, new: jnp.where(hurt, old, new), cut._replace(least=least), now)
    kept = jnp.maximum(kept_components(progress, mask.shape[0]), jnp.maximum(least, half))
    # Nothing would test a cut at the end.
    kept = jnp.where(progress >= 1, jnp.sum(cut.mask), kept)
    return cut.params, prune(cut.mask, cut.spread, kept), cut
