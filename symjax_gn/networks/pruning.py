"""Prune message components without prescribing how many remain.

One mechanism: rank components by what the predicted quantity loses without them, mask the
last ones, measure the loss, keep the cut or undo it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from symjax_gn.data.sampling import Stars
from symjax_gn.model import Contributions, Model

# Largest tolerated rise in normalised validation loss. Removing a true force component
# costs far more (about 1/3 in 3D).
TOLERANCE = 0.1

# Share of training at which pruning is over; the rest polishes what remains.
_END = 0.65


class Cut(NamedTuple):
    """What pruning can go back to if its last cut took too much."""

    params: Any
    """Parameters before the cut."""
    mask: Float[Array, " message"]
    """[message], the mask before the cut."""
    significance: Float[Array, " message"]
    """[message], significance of the components before the cut."""
    loss: Float[Array, ""]
    """Validation loss before the cut, over that of predicting nothing."""
    least: Float[Array, ""]
    """Number of components below which cuts are known to take too much."""


def fade(progress: float | Float[Array, ""], end: float = _END) -> Float[Array, ""]:
    """1 at the start of training, 0 from the share `end` on, half a cosine between.

    >>> float(fade(0.0)), float(fade(1.0))
    (1.0, 0.0)
    """
    phase = jnp.clip(progress / end, 0.0, 1.0)
    return 0.5 * (1 + jnp.cos(jnp.pi * phase))


def kept_components(
    progress: float | Float[Array, ""], message_dim: int, end: float = _END
) -> Float[Array, ""]:
    """How many components pruning keeps at a share `progress` of the training.

    Falls from `message_dim` to 1 as `fade` does.

    >>> float(kept_components(0.0, 100)), float(kept_components(1.0, 100))
    (100.0, 1.0)
    """
    return jnp.ceil(1 + (message_dim - 1) * fade(progress, end))


def contributions_of(
    model: Model, params: Any, stars: Stars, mask: Float[Array, " message"]
) -> Contributions:
    """`Contributions` of every star, with a leading axis `[star, ...]`; under `jit`.

    Args:
        model: network or law.
        params: its parameters.
        stars: receivers with their senders, in the model's units.
        mask: `[message]`, 1 for components in use.
    """

    def one(receiver, senders, present):
        return model.apply(params, receiver, senders, present, mask, method="contributions")

    axes = (None if stars.receiver is None else 0, 0, 0)
    return jax.vmap(one, axes)(stars.receiver, stars.senders, stars.present)


def rank_components(found: Contributions, present: Any) -> Float[Array, " message"]:
    """What the quantity would lose without each component, in whatever gauge it is sent.

    |d a_i / d m_k| |m_ij,k - b_i,k| / (1 + |a_i|), mean over messages, with the offset b_i
    of `Contributions`. The spread of a component alone tells little, for the update function
    may weigh it with any factor and take an offset off it.

    Args:
        found: `[star, ...]`, what `contributions_of` gave.
        present: `[star, sender]`.
    """
    gain = jnp.linalg.norm(found.jacobian, axis=1)
    gain /= 1 + jnp.linalg.norm(found.value, axis=1, keepdims=True)
    size = gain[:, None, :] * jnp.abs(found.messages - found.offset[:, None, :])
    weight = present[..., None].astype(size.dtype)
    return jnp.sum(size * weight, axis=(0, 1)) / jnp.maximum(jnp.sum(weight), 1.0)


def prune(
    mask: Float[Array, " message"], significance: Float[Array, " message"], kept: Float[Array, ""]
) -> Float[Array, " message"]:
    """Mask all but the `kept` most significant components; the masked stay masked.

    >>> prune(jnp.ones(3), jnp.array([0.1, 3.0, 2.0]), 2).tolist()
    [0.0, 1.0, 1.0]
    """
    order = jnp.argsort(jnp.argsort(-jnp.where(mask > 0, significance, -1.0)))
    return mask * (order < kept)


def keep_or_undo(
    params: Any,
    mask: Float[Array, " message"],
    cut: Cut,
    loss: Float[Array, ""],
    significance: Float[Array, " message"],
    progress: Float[Array, ""],
    tolerance: float | Float[Array, ""] = TOLERANCE,
) -> tuple[Any, Float[Array, " message"], Cut]:
    """Mask the least significant components, or undo the last cut if the loss rose too much.

    Of a cut of several that is undone, half is tried next, for a restless loss may rise by
    itself; a cut of one that is undone is the last. At the end of training nothing is cut.

    Args:
        params: parameters as they are.
        mask: [message], the mask as it is.
        cut: what the last call returned.
        loss: validation loss, over that of predicting nothing.
        significance: [message], see `rank_components`.
        progress: share of the training that is done.
        tolerance: by how much the loss may rise.

    Returns:
        Parameters and mask to go on with, and what to go back to.
    """
    kept, before = jnp.sum(mask), jnp.sum(cut.mask)
    hurt = (kept < before) & (loss > cut.loss + tolerance)
    least = jnp.where(hurt & (before - kept == 1), before, cut.least)
    half = jnp.where(hurt, jnp.ceil((kept + before) / 2), 1.0)
    now = Cut(params, mask, significance, loss, least)
    cut = jax.tree.map(lambda old, new: jnp.where(hurt, old, new), cut._replace(least=least), now)
    kept = jnp.maximum(kept_components(progress, mask.shape[0]), jnp.maximum(least, half))
    # Nothing would test a cut at the end.
    kept = jnp.where(progress >= 1, jnp.sum(cut.mask), kept)
    return cut.params, prune(cut.mask, cut.significance, kept), cut
