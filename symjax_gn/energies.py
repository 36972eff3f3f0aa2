"""Energies of a trained Hamiltonian: recorded, and distilled into potentials."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from symjax_gn.graphs import Dataset, normalise, take
from symjax_gn.messages import (
    MessageTable,
    feature_scale,
    pair_bodies,
    pair_features,
    sample_pairs,
    true_forces,
)
from symjax_gn.models import FlatHGN
from symjax_gn.systems import Body, System
from symjax_gn.train import Trained


class EnergyTable(NamedTuple):
    """Sampled edges of a Hamiltonian, user's units."""

    forces: MessageTable
    """What pair energies and self energies do to the receiver: `influence` is the force
    of the pair, `one_body_force` that of the self energy and of Rayleigh's function,
    `messages` the energy of the pair `[edge, 1]`."""
    self_energy: Float[np.ndarray, " edge"]
    """[edge], k of the receiver."""
    self_velocity: Float[np.ndarray, "edge dim"]
    """[edge, dim], dk/dp of the receiver."""


def record_energies(
    key: PRNGKeyArray,
    trained: Trained,
    dataset: Dataset,
    *,
    num_edges: int = 4000,
    system: System | None = None,
) -> EnergyTable:
    """Energies and their derivatives along sampled edges of a dataset.

    Args:
        key: PRNG key that chooses the edges.
        trained: a trained `FlatHGN`.
        dataset: graphs in the user's units.
        num_edges: number of edges.
        system: the true law where it is known, for the column `force`; nothing else
            depends on it.

    Raises:
        ValueError: the model is not a `FlatHGN`.
    """
    model, params, scales = trained.model, trained.params, trained.scales
    if not isinstance(model, FlatHGN):
        raise ValueError('Energies need a FlatHGN: train with strategy="flathgn".')
    data = normalise(dataset, scales)
    graph, edge = sample_pairs(key, dataset, num_edges)

    def one(pair):
        receiver, sender = pair
        (energy, slope), kinetic = _derivatives(model, params, receiver, sender)
        alone = -kinetic.position
        if model.dissipative:
            rayleigh = jax.grad(
                lambda velocity: model.apply(
                    params, receiver._replace(velocity=velocity), method="rayleigh"
                )
            )
            alone -= rayleigh(receiver.velocity)
        return (
            energy,
            -slope.position,
            alone,
            _self_energy(model, params, receiver),
            kinetic.velocity,
        )

    picked = take(data, graph)
    ends = (jnp.asarray(index)[edge] for index in (data.receivers, data.senders))
    pairs = tuple(
        jax.vmap(lambda nodes, k: jax.tree.map(lambda x: x[k], nodes))(picked.nodes, end)
        for end in ends
    )
    recorded = jax.jit(jax.vmap(one))(pairs)
    energy, force, alone, own, velocity = (np.asarray(x, np.float64) for x in recorded)
    receiver, sender = pair_bodies(dataset, graph, edge)
    features = {
        name: np.asarray(x, np.float64) for name, x in pair_features(receiver, sender).items()
    }
    unit = scales.mass * scales.acceleration
    table = MessageTable(
        features=features,
        scales={name: feature_scale(name, scales) for name in features},
        messages=energy[:, None] * unit * scales.length,
        components=np.zeros(1, int),
        influence=force * unit,
        one_body_force=alone * unit,
        message_scale=np.ones(num_edges),
        offset=np.zeros_like(force),
        force=None if system is None else true_forces(system, receiver, sender),
    )
    return EnergyTable(table, own * unit * scales.length, velocity * scales.velocity)


def _canonical(body: Body) -> Body:
    """The body with its momentum in place of its velocity."""
    return body._replace(velocity=body.mass[..., None] * body.velocity)


def _self_energy(model, params, body) -> Array:
    return model.apply(params, _canonical(body), method="self_energy")


def _derivatives(model, params, receiver, sender) -> Any:
    """The pair's energy with its slope for the receiver, and the slope of the self energy."""
    receiver, sender = _canonical(receiver), _canonical(sender)

    def pair(body):
        there = model.apply(params, body, sender, method="pair_energy")
        return there + model.apply(params, sender, body, method="pair_energy")

    def alone(body):
        return model.apply(params, body, method="self_energy")

    return jax.value_and_grad(pair)(receiver), jax.grad(alone)(receiver)
