"""Messages of a trained network: recorded, ranked, and in the gauge of its update function."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from symjax_gn.compiling import in_32_bits
from symjax_gn.data.border import checked
from symjax_gn.data.checks import LARGEST_COUNT, check_count
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.features import element_features, pair_features
from symjax_gn.data.nodes import AnyArray, Nodes, take_nodes
from symjax_gn.data.quantities import Quantity
from symjax_gn.data.sampling import Stars, host_generator, sample_stars
from symjax_gn.data.soundness import check_dataset
from symjax_gn.data.units import feature_scale, normalise_nodes
from symjax_gn.model import Contributions
from symjax_gn.networks.pruning import contributions_of, rank_components
from symjax_gn.networks.training import Trained
from symjax_gn.physics.systems import System, true_forces

# Messages looked at together: enough to fill vector units, few enough for any memory.
_MESSAGES_AT_ONCE = 5_000

# Rise of the error, as a share of it, that shows that a component was in use.
_LEAST_RISE = 0.1

# A message that varies by less, as a share of its size, is constant in float32.
_CONSTANT = 1e-6


class MessageTable(NamedTuple):
    """Sampled edges: what was sent along them, and the features it may depend on."""

    features: dict[str, Float[np.ndarray, " edge"]]
    """Columns `[edge]` by name, user's units; see `data.features`."""
    scales: dict[str, float]
    """Typical size of each feature, one for all features of the same kind."""
    messages: Float[np.ndarray, "edge component"]
    """[edge, component], model's unit; most significant component first."""
    components: Int[np.ndarray, " component"]
    """[component], their indices in the model."""
    force: Float[np.ndarray, "edge dim"]
    """[edge, dim], the force that the sender's message stands for, user's units: the message
    in the gauge of the update function. Of other quantities what it adds to them."""
    alone: Float[np.ndarray, "edge dim"]
    """[edge, dim], the force on the receiver without its messages, user's units."""
    message_scale: Float[np.ndarray, " edge"]
    """[edge], size of the receiver's messages per unit of force, g(v_i) of the design
    up to a constant factor; median 1."""
    offset: Float[np.ndarray, "edge dim"]
    """[edge, dim], the part of the receiver's messages that was the same for all of its
    senders and counts with `alone` instead, as a force per sender."""
    true_force: Float[np.ndarray, "edge dim"] | None
    """[edge, dim], the true force of the sender on the receiver where the law is known."""
    quantity: Quantity
    """What the forces, summed and over their weight, predict."""


class Recorded(NamedTuple):
    """What a trained model says of sampled receivers, and of one sender to each."""

    receiver: Nodes | None
    """Fields `[edge, ...]`, user's units."""
    sender: Nodes
    """Fields `[edge, ...]`, user's units."""
    found: Contributions
    """Of the sender: fields `[edge, ...]`, float64, model's units."""
    total: Float[np.ndarray, "edge message"]
    """[edge, message], sum of all messages to the receiver, each without its offset."""
    significance: Float[np.ndarray, " message"]
    """[message], see `pruning.rank_components`."""
    stars: Stars
    """The receivers with all of their senders, user's units."""
    every: Float[np.ndarray, "edge sender dim"]
    """[edge, sender, dim], what each of the receiver's senders adds, model's unit."""


class TruePairs(NamedTuple):
    """Pairs whose true forces are known."""

    features: dict[str, Float[np.ndarray, " pair"]]
    """Feature columns `[pair]`, user's units."""
    force: Float[np.ndarray, "pair dim"]
    """[pair, dim], the true force of the sender on the receiver."""


def true_pairs(key: PRNGKeyArray, system: System, dataset: Dataset, count: int = 60) -> TruePairs:
    """True forces between some pairs of a dataset.

    Args:
        key: PRNG key that chooses them.
        system: the true law.
        dataset: graphs in the user's units.
        count: of pairs.
    """
    stars = sample_stars(key, dataset, count)
    assert stars.receiver is not None
    ends = stars.receiver, take_nodes(stars.senders, (slice(None), 0))
    force = np.asarray(true_forces(system, *ends), np.float64)
    return TruePairs(pair_features(*ends, dataset.space), force)


def record(key: PRNGKeyArray, trained: Trained, dataset: Dataset, num_edges: int) -> Recorded:
    """Sample receivers, and one sender to each, and ask a trained model about them.

    Coincident pairs, between which there is no direction, are left out.

    Args:
        key: PRNG key that chooses.
        trained: the trained network.
        dataset: graphs in the user's units.
        num_edges: how many.

    Raises:
        ValueError: nothing is sent along any edge, or all pairs coincide.
    """
    check_count("num_edges", num_edges, most=LARGEST_COUNT)
    star_key, sender_key = jax.random.split(key)
    graphs = dataset.graphs._replace(nodes=trained.complete(dataset.nodes))
    dataset = dataclasses.replace(dataset, graphs=graphs)
    stars = sample_stars(star_key, dataset, num_edges)
    counts = np.sum(stars.present, axis=1)
    # Senders come first in a star, padding last.
    chosen = host_generator(sender_key).integers(counts)
    rows = np.arange(len(counts))
    sender = take_nodes(stars.senders, (rows, chosen))
    if stars.receiver is not None and stars.receiver.position is not None:
        assert sender.position is not None
        apart = np.flatnonzero(np.any(stars.receiver.position != sender.position, axis=-1))
        if not apart.size:
            raise ValueError("All pairs coincide: there is no distance to learn from.")
        stars = jax.tree.map(lambda x: x[apart], stars)
        rows, chosen, sender = rows[: len(apart)], chosen[apart], take_nodes(sender, apart)
    owner = stars.receiver and normalise_nodes(stars.receiver, trained.scales)
    senders = normalise_nodes(stars.senders, trained.scales)
    inside = jax.tree.map(np.asarray, stars._replace(receiver=owner, senders=senders))
    lot = max(1, _MESSAGES_AT_ONCE // stars.present.shape[1])
    picked, totals, ranks, every = [], [], [], []
    for start in range(0, len(rows), lot):
        # All lots have one size, so that one shape is compiled; what fills up the last is cut.
        count = min(lot, len(rows) - start)
        part = jax.tree.map(lambda x, k=start: x[(k + np.arange(lot)) % len(rows)], inside)
        counted = part.present & (np.arange(lot) < count)[:, None]
        answer = _ask(trained.params, trained.mask, part, counted, trained.model)
        found, rank = jax.tree.map(np.asarray, answer)
        found = jax.tree.map(lambda x, n=count: x[:n], found)
        part = jax.tree.map(lambda x, n=count: x[:n], part)
        ranks.append(count * rank)
        few, here = rows[:count], chosen[start : start + count]
        every.append(found.terms)
        sent = np.where(part.present[..., None], found.messages - found.offset[:, None], 0.0)
        totals.append(np.sum(sent, axis=1, dtype=np.float64))
        picked.append(
            found._replace(terms=found.terms[few, here], messages=found.messages[few, here])
        )
    one = jax.tree.map(lambda *x: np.concatenate(x).astype(np.float64), *picked)
    significance = np.sum(ranks, axis=0) / len(rows)
    return Recorded(
        receiver=stars.receiver,
        sender=sender,
        found=one,
        total=np.concatenate(totals),
        significance=significance,
        stars=stars,
        every=np.concatenate(every).astype(np.float64),
    )


@in_32_bits
@functools.partial(jax.jit, static_argnames="model")
def _ask(params, mask, stars, counted, model):
    found = contributions_of(model, params, stars, mask)
    return found, rank_components(found, counted)


@checked
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

    Only raw messages have a gauge that no data fix. The update function is known, and reads
    it off: see `GraphNet.contributions`. `force` and `alone` together are weight x quantity,
    for bodies m_i a_i.

    Args:
        key: PRNG key that chooses the edges.
        trained: the trained network.
        dataset: graphs in the user's units.
        num_edges: number of edges.
        num_components: how many components to keep, the most significant ones; None
            keeps those that `count_components` finds in use.
        system: the true law where it is known, for the column `true_force`; nothing else
            depends on it.

    Raises:
        ValueError: a kept component is constant or not finite, or fewer are in use; or the
            model is a `FlatHGN`.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> tiny = sgn.make_model("bottleneck", train, width=8, depth=1)
    >>> trained = sgn.fit(key, train, validation, model=tiny, steps=20)
    >>> table = record_messages(key, trained, train, num_edges=200)
    >>> table.messages.shape, table.force.shape
    ((200, 2), (200, 2))
    """
    check_dataset(dataset, "recorded")
    if trained.model.conservative:
        raise ValueError("A FlatHGN has energies, not messages: use record_energies.")
    recorded = record(key, trained, dataset, num_edges)
    left = int(np.count_nonzero(trained.mask))
    if num_components is None:
        num_components = count_components(trained, recorded, dataset)
    if not 1 <= num_components <= left:
        raise ValueError(
            f"num_components must be from 1 to the {left} message components in use, "
            f"got {num_components}."
        )
    order = np.argsort(-recorded.significance, kind="stable")[:num_components]
    check_messages(recorded.found.messages[:, order], order)
    return make_table(trained, dataset, recorded, order, system)


def make_table(
    trained: Trained,
    dataset: Dataset,
    recorded: Recorded,
    order: Int[np.ndarray, " component"],
    system: System | None,
) -> MessageTable:
    """What was recorded as columns in the user's units.

    Args:
        trained: the trained network.
        dataset: where the edges are from.
        recorded: what `record` gave.
        order: `[component]`, the message components to keep.
        system: the true law where it is known.
    """
    receiver, sender = recorded.receiver, recorded.sender
    found: Any = recorded.found
    if receiver is None:
        features = element_features(sender)
    else:
        features = pair_features(receiver, sender, dataset.space)
    truth = None
    if system is not None and receiver is not None:
        truth = true_forces(system, receiver, sender)
    unit = force_unit(trained, dataset)
    jacobian = found.jacobian[:, :, order]
    kept_offset = found.offset[:, order]
    terms = np.einsum("ekc,ec->ek", jacobian, found.messages[:, order] - kept_offset)
    # What the components that were left out add counts as being there without messages.
    dropped = np.setdiff1d(np.arange(found.messages.shape[1]), order)
    alone = found.alone + np.einsum(
        "ekc,ec->ek", found.jacobian[:, :, dropped], recorded.total[:, dropped]
    )
    if trained.model.conservative:
        terms = found.terms
    offset = np.einsum("ekc,ec->ek", jacobian, kept_offset)
    # The geometric mean of the singular values: the size of a message per unit of force.
    gain = np.ones(len(terms))
    if not trained.model.conservative:
        values = np.linalg.svd(jacobian, compute_uv=False)
        gain = np.exp(-np.mean(np.log(values + 1e-30), axis=1))
    return MessageTable(
        features=features,
        scales={name: feature_scale(name, trained.scales) for name in features},
        messages=found.messages[:, order],
        components=np.asarray(order),
        force=terms * unit,
        alone=alone * unit,
        message_scale=gain / np.median(gain),
        offset=offset * unit,
        true_force=truth,
        quantity=dataset.quantity,
    )


def force_unit(trained: Trained, dataset: Dataset) -> float:
    """The user's unit of weight x quantity that equals one inside the model."""
    weight = dataset.quantity.weight
    scale = trained.scales.properties.get(weight, 1.0) if weight else 1.0
    return scale * trained.scales.target


def take_edges(table: MessageTable, keep: Any) -> MessageTable:
    """The edges of a table at the given index or mask."""
    pick = {
        name: value[keep]
        for name, value in table._asdict().items()
        if name not in ("features", "scales", "components", "quantity") and value is not None
    }
    features = {name: column[keep] for name, column in table.features.items()}
    return table._replace(features=features, **pick)


def count_components(trained: Trained, recorded: Recorded, dataset: Dataset) -> int:
    """How many message components a network uses, found without knowing the dimension.

    The least significant ones are masked, the error of the predicted quantity is measured,
    and the most are masked without which it is not a tenth larger: what is lost with them is
    then less than what the network does not know anyway. The bottleneck was told the
    dimension: all of its components count.

    Args:
        trained: the trained network.
        recorded: what `record` gave.
        dataset: where the receivers are from.
    """
    left = int(np.count_nonzero(trained.mask))
    if trained.strategy == "bottleneck":
        return left
    stars, found = recorded.stars, recorded.found
    where = (stars.graph, stars.node) if dataset.quantity.level == "node" else stars.graph
    value = np.asarray(found.value)
    target = np.asarray(dataset.target, np.float64)[where] / trained.scales.target
    known = np.ones(len(value)) if dataset.mask is None else np.asarray(dataset.mask)[where]
    weight = dataset.quantity.weight
    if weight and recorded.receiver is not None:
        mass = np.asarray(recorded.receiver.properties[weight], np.float64)
        unit = (mass / trained.scales.properties[weight])[:, None]
    else:
        unit = 1.0
    # One close encounter among many is one among many.
    share = known / (1 + np.linalg.norm(value, axis=1))
    gap, errors = value - target, []
    for component in np.argsort(recorded.significance)[-left:]:
        errors.append(np.sum(share * np.linalg.norm(gap, axis=1)))
        gap = gap - found.jacobian[:, :, component] * recorded.total[:, [component]] / unit
    # The error with none masked comes first, then with one masked, and so on.
    return left - int(np.flatnonzero(np.asarray(errors) <= (1 + _LEAST_RISE) * errors[0])[-1])


def check_messages(
    messages: Float[AnyArray, "edge component"], names: Int[np.ndarray, " component"]
) -> None:
    """Raise a `ValueError` for messages that are empty, constant or not finite."""
    if messages.size == 0:
        raise ValueError("There are no messages to look at: no edges or no components.")
    for column, name in zip(messages.T, names, strict=True):
        if not np.all(np.isfinite(column)):
            raise ValueError(f"Message component {name} has NaN or infinite values.")
        if np.std(column) <= _CONSTANT * np.max(np.abs(column), initial=1e-30):
            raise ValueError(
                f"Message component {name} is constant, so it holds no law; train longer, with "
                "a weaker penalty or with more components."
            )
