"""Messages of a trained network: recorded, ranked, and in the gauge of its node function."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.features import feature_scale, pair_bodies, pair_features, sample_pairs
from symjax_gn.data.units import normalise
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.training import Trained
from symjax_gn.physics.systems import System, true_forces

# Graphs looked at together: enough to fill vector units, few enough for any memory.
_BATCH = 500


class MessageTable(NamedTuple):
    """Sampled edges: what was sent along them, and the features it may depend on."""

    features: dict[str, Float[np.ndarray, " edge"]]
    """Columns `[edge]` by name, user's units: displacement from receiver to sender
    (`dx`, `dy`, `dz`), distance `r`, masses `m_i`, `m_j`, charges `q_i`, `q_j` and
    velocities `vx_i`, `vx_j`, ... of receiver i and sender j, and places `x_i`, ... ."""
    scales: dict[str, float]
    """Typical size of each feature, one for all features of the same kind."""
    messages: Float[np.ndarray, "edge component"]
    """[edge, component], model's unit; most significant component first."""
    components: Int[np.ndarray, " component"]
    """[component], their indices in the model."""
    influence: Float[np.ndarray, "edge dim"]
    """[edge, dim], the force that the sender's message stands for, user's units: the message
    in the gauge of the node function. See `record_messages`."""
    one_body_force: Float[np.ndarray, "edge dim"]
    """[edge, dim], the force on the receiver without its messages, user's units."""
    message_scale: Float[np.ndarray, " edge"]
    """[edge], size of the receiver's messages per unit of force, g(v_i) of the design
    up to a constant factor; median 1."""
    offset: Float[np.ndarray, "edge dim"]
    """[edge, dim], the part of the receiver's messages that was the same for all of its
    senders and counts with `one_body_force` instead, as a force per sender."""
    force: Float[np.ndarray, "edge dim"] | None
    """[edge, dim], the true force of the sender on the receiver where the law is known."""


def record_messages(
    key: PRNGKeyArray,
    trained: Trained,
    dataset: Dataset,
    *,
    num_edges: int = 4000,
    num_components: int | None = None,
    system: System | None = None,
) -> MessageTable:
    """Messages along sampled edges of a dataset.

    Raw messages are known only up to what the node function can undo (design: gauge).
    But the node function is known, so their gauge can be fixed without the true law.
    Near a graph's state an added message dm moves the acceleration of receiver i by
    (da_i / dm) dm, so m_i (da_i / dm) m_ij is the force that m_ij stands for, up to an
    offset that is the same for all senders to i and that the node function takes off
    again. This offset is fixed by parity: a force between two bodies turns round when the
    sender is put on the other side of the receiver, an offset does not. The column
    `influence` is the force without the offset; the offset, once per sender, and all else
    that moves the receiver without a message, is in `one_body_force`. Both together are
    m_i a_i.

    Args:
        key: PRNG key that chooses the edges.
        trained: the trained network.
        dataset: graphs in the user's units.
        num_edges: number of edges.
        num_components: how many components to keep, the most significant ones; None
            keeps those that `count_components` finds in use.
        system: the true law where it is known, for the column `force`; nothing else
            depends on it.

    Raises:
        ValueError: a kept component is constant or not finite, or fewer are in use; or the
            model is a `FlatHGN`.
    """
    model, params = trained.model, trained.params
    if isinstance(model, FlatHGN):
        raise ValueError("A FlatHGN has energies, not messages: use energies.record_energies.")
    data = normalise(dataset, trained.scales)
    graph, edge = sample_pairs(key, dataset, num_edges)
    some = take(data, graph[:_BATCH])
    left = int(np.count_nonzero(trained.mask))
    significance = component_significance(trained, some)
    if num_components is None:
        num_components = count_components(trained, significance)
    if not 1 <= num_components <= left:
        raise ValueError(
            f"num_components must be from 1 to the {left} message components in use, "
            f"got {num_components}."
        )
    order = np.argsort(-significance, kind="stable")[:num_components]
    receivers = jnp.asarray(data.receivers)

    def one(pair):
        nodes, edge = pair
        messages, mirrored = _both_messages(trained, nodes, data.senders, receivers)
        node = receivers[edge]
        mine = (receivers == node)[:, None]
        aggregate = jnp.sum(jnp.where(mine, messages, 0.0), axis=0)
        body = jax.tree.map(lambda x: x[node], nodes)

        def update(aggregate: Array) -> Any:
            return model.apply(params, body, aggregate, method="update")

        force = body.mass * update(aggregate)
        jacobian = body.mass * jax.jacobian(update)(aggregate)[:, order]
        messages, mirrored = messages[:, order], mirrored[:, order]
        even = _offset(messages, mirrored, mine)
        shares = (messages - even) @ jacobian.T
        alone = force - jnp.sum(jnp.where(mine, shares, 0.0), axis=0)
        return messages[edge], shares[edge], alone, jacobian @ even, jacobian

    pairs = (take(data, graph).nodes, edge)
    recorded = jax.jit(lambda x: jax.lax.map(one, x, batch_size=_BATCH))(pairs)
    messages, influence, alone, offset, jacobian = (np.asarray(x, np.float64) for x in recorded)
    check_messages(messages, order)
    receiver, sender = pair_bodies(dataset, graph, edge)
    features = pair_features(receiver, sender)
    unit = trained.scales.mass * trained.scales.acceleration
    # The geometric mean of the singular values: the size of a message per unit of force.
    gain = np.exp(-np.mean(np.log(np.linalg.svd(jacobian, compute_uv=False) + 1e-30), axis=1))
    return MessageTable(
        features=features,
        scales={name: feature_scale(name, trained.scales) for name in features},
        messages=messages,
        components=np.asarray(order),
        influence=influence * unit,
        one_body_force=alone * unit,
        message_scale=gain / np.median(gain),
        offset=offset * unit,
        force=None if system is None else true_forces(system, receiver, sender),
    )


def take_edges(table: MessageTable, keep: Any) -> MessageTable:
    """The edges of a table at the given index or mask."""
    pick = {
        name: value[keep]
        for name, value in table._asdict().items()
        if name not in ("features", "scales", "components") and value is not None
    }
    features = {name: column[keep] for name, column in table.features.items()}
    return table._replace(features=features, **pick)


def count_components(trained: Trained, significance: Float[np.ndarray, " component"]) -> int:
    """How many message components a network uses, found without knowing the dimension.

    Components are ordered by `component_significance`; the count ends at the deepest fall from one
    to the next, if the fall is by a factor of 3 or more, or else all in use count. The
    bottleneck was told the dimension: all of its components count.
    """
    if trained.strategy == "bottleneck":
        return int(np.count_nonzero(trained.mask))
    values = np.sort(significance[np.asarray(trained.mask) > 0])[::-1]
    values = np.maximum(values, 1e-6 * values[0])
    falls = values[:-1] / values[1:]
    if falls.size == 0 or np.max(falls) < 3:
        return len(values)
    return int(np.argmax(falls)) + 1


def component_significance(trained: Trained, data: Dataset) -> Float[np.ndarray, " component"]:
    """What each component has to say to the accelerations, in whatever gauge it says it.

    The spread of a component alone tells little, for the node function may weigh it with
    any factor and take an offset off it. So this is |da_i / dm_k| |m_ij,k - b_i,k|, with the
    offset b_i of `record_messages`, over 1 + |a_i|, mean over the edges of a normalised
    dataset; 0 for masked components.
    """
    model, params = trained.model, trained.params
    receivers = jnp.asarray(data.receivers)

    def one(nodes):
        prediction: Any = model.apply(params, nodes, data.senders, receivers, trained.mask)
        messages, mirrored = _both_messages(trained, nodes, data.senders, receivers)
        numbers = jnp.arange(len(nodes.mass))
        aggregate = jax.ops.segment_sum(messages, receivers, len(numbers))
        even = jax.vmap(lambda k: _offset(messages, mirrored, (receivers == k)[:, None]))(numbers)

        def slope(body, total):
            update = lambda total: model.apply(params, body, total, method="update")  # noqa: E731
            return jax.jacobian(update)(total)

        gain = jnp.linalg.norm(jax.vmap(slope)(nodes, aggregate), axis=1)
        gain /= 1 + jnp.linalg.norm(prediction.acceleration, axis=1, keepdims=True)
        return jnp.mean(gain[receivers] * jnp.abs(messages - even[receivers]), axis=0)

    return np.asarray(jnp.mean(jax.jit(jax.vmap(one))(data.nodes), axis=0))


def _both_messages(trained, nodes, senders, receivers):
    """Messages `[edge, component]` as they are, and with the sender on the other side."""
    receiver, sender = (jax.tree.map(lambda x, i=i: x[i], nodes) for i in (receivers, senders))
    opposite = sender._replace(position=2 * receiver.position - sender.position)
    return tuple(
        trained.mask * trained.model.apply(trained.params, receiver, end, method="message")[0]
        for end in (sender, opposite)
    )


def _offset(messages, mirrored, mine):
    """What is the same in all messages to one receiver, by parity; `mine` marks its edges."""
    # Errors go with the size of a message: the weakest messages know the offset best.
    size = jnp.sum(messages**2, axis=1, keepdims=True)
    middle = jnp.nanmedian(jnp.where(mine, size, jnp.nan))
    weight = jnp.where(mine, 1 / (size + middle + 1e-12), 0.0)
    return jnp.sum(weight * 0.5 * (messages + mirrored), axis=0) / jnp.sum(weight)


def check_messages(
    messages: Float[np.ndarray, "edge component"], names: Int[np.ndarray, " component"]
) -> None:
    """Raise a `ValueError` for messages that are empty, constant or not finite."""
    if messages.size == 0:
        raise ValueError("There are no messages to look at: no edges or no components.")
    for column, name in zip(messages.T, names, strict=True):
        if not np.all(np.isfinite(column)):
            raise ValueError(f"Message component {name} has NaN or infinite values.")
        if np.std(column) <= 1e-6 * np.max(np.abs(column), initial=1e-30):
            raise ValueError(
                f"Message component {name} is constant, so it holds no law; train longer, with "
                "a weaker penalty or with more components."
            )
