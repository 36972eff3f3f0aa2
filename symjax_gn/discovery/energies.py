"""Energies of a trained Hamiltonian: recorded, and distilled into potentials."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sympy
from jaxtyping import Array, Float, PRNGKeyArray

from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.nodes import AXES, Nodes
from symjax_gn.data.units import normalise, normalise_nodes
from symjax_gn.discovery.distillation import VectorLaw, property_names, search_in_units
from symjax_gn.discovery.recording import MessageTable, force_unit, make_table, record
from symjax_gn.discovery.refitting import Refit
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.expressions import evaluate, unknown_functions
from symjax_gn.laws.fronts import ParetoFront, select
from symjax_gn.model import predict
from symjax_gn.networks.training import Trained
from symjax_gn.physics.systems import System, pair_force

# Edges looked at together: few enough for any memory.
_EDGES_AT_ONCE = 50_000


class EnergyTable(NamedTuple):
    """Sampled edges of a Hamiltonian, user's units."""

    forces: MessageTable
    """What pair energies and self energies do to the receiver: `force` is that
    of the pair, `alone` that of the self energy and of Rayleigh's function,
    `messages` the energy of the pair `[edge, 1]`."""
    self_velocity: Float[np.ndarray, "edge dim"] | None
    """[edge, dim], dH/dp of the receiver in its graph; None if dH/dp was not trained. Not
    dk/dp, for what depends on one momentum alone may be in the pair energies as well."""
    change: Float[np.ndarray, " edge"]
    """[edge], energy of the pair less that of the same pair at the median distance: all of it
    that forces show."""
    potential: Float[np.ndarray, " edge"] | None = None
    """[edge], the true potential, 0 at the median distance; None where it is not known."""


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
        system: the true law where it is known, for the columns `force` and `potential`;
            nothing else depends on it.

    Raises:
        ValueError: the model is not a `FlatHGN`.
    """
    model, params, scales = trained.model, trained.params, trained.scales
    if not model.conservative:
        raise ValueError('Energies need a FlatHGN: train with strategy="flathgn".')
    recorded = record(key, trained, dataset, num_edges)
    table = make_table(trained, dataset, recorded, np.zeros(1, int), system)
    receiver, sender = recorded.receiver, recorded.sender
    assert receiver is not None
    middle = float(np.median(table.features["r"]))

    def one(receiver, sender):
        displacement = model.space.displacement(receiver.position, sender.position)
        ratio = middle / scales.length / jnp.sqrt(jnp.sum(displacement**2))
        moved = sender._replace(position=receiver.position + ratio * displacement)
        there, here = (_pair_energy(model, params, receiver, end) for end in (moved, sender))
        return here - there

    inside = (normalise_nodes(end, scales) for end in (receiver, sender))
    change = np.asarray(jax.jit(jax.vmap(one))(*inside), np.float64)
    unit = force_unit(trained, dataset) * scales.length
    slope = None
    if model.kinetic:
        data = normalise(dataset, scales)
        graph, node = recorded.stars.graph, recorded.stars.node
        whole = jax.jit(lambda x: predict(model, params, x).velocity)
        lot = max(1, _EDGES_AT_ONCE // dataset.graphs.senders.shape[-1])
        rows = []
        for start in range(0, len(graph), lot):
            few = graph[start : start + lot]
            found: Any = whole(take(data, few).graphs)
            rows.append(np.asarray(found)[np.arange(len(few)), node[start : start + lot]])
        slope = np.concatenate(rows).astype(np.float64) * scales.velocity
    truth = None
    if system is not None:
        truth = true_potential(system, receiver, sender, middle)
    table = table._replace(messages=table.messages * unit)
    return EnergyTable(table, slope, change * unit, truth)


def true_potential(
    system: System,
    receiver: Nodes,
    sender: Nodes,
    start: float,
    softening: float | None = None,
    num_points: int = 1000,
) -> Float[np.ndarray, " edge"]:
    """Work `[edge]` done against a system's force in parting each pair from r = `start`.

    This is V(r) - V(start) where V is smooth; a jump of V, which no force shows, is left
    out. Trapezoids on `num_points` distances, evenly spaced in log r.

    Args:
        system: the law.
        receiver: fields `[edge, ...]`.
        sender: fields `[edge, ...]`.
        start: distance, length.
        softening: as in `pair_force`.
        num_points: points of the integral.
    """

    def one(receiver, sender):
        displacement = system.space.displacement(receiver.position, sender.position)
        r = jnp.sqrt(jnp.sum(displacement**2))
        unit = displacement / r
        distances = start * (r / start) ** jnp.linspace(0.0, 1.0, num_points)

        def attraction(distance):
            moved = sender._replace(position=receiver.position + distance * unit)
            return jnp.dot(pair_force(system, receiver, moved, softening), unit)

        return jnp.trapezoid(jax.vmap(attraction)(distances), distances)

    bodies = jax.tree.map(jnp.asarray, (receiver, sender))
    return np.asarray(jax.lax.map(lambda pair: one(*pair), bodies, batch_size=256), np.float64)


class PotentialLaw(NamedTuple):
    """What was distilled of the pair energies, user's units."""

    force: VectorLaw
    """The law of their derivative, from which the potential follows."""
    potential: sympy.Expr | None
    """V(r, ...) of a pair, whose derivative is the force towards the sender; None if the
    force is not central or has no integral that SymPy knows and that is finite on the data."""
    additive: sympy.Expr | None
    """What recorded energies have on top of the potential, as a law of masses, charges and
    momenta `p_i` and `p_j`: no force depends on it. None where there is no potential."""
    additive_error: float | None
    """What the additive function leaves of what recorded energies have on top of the potential,
    over the potential's change and what is on top, together (standard deviations)."""


class KineticLaw(NamedTuple):
    """What was distilled of the self energies, user's units."""

    velocity: sympy.Expr
    """dH/dp of the momentum `p` and of the body's mass and charge."""
    energy: sympy.Expr | None
    """k(p, ...), its integral, or None if SymPy knows none."""
    front: ParetoFront
    """The front of the velocity."""


def distill_potential(
    table: EnergyTable, force: VectorLaw, regressors: Sequence[Regressor]
) -> PotentialLaw:
    """Find the potential of a pair, by way of its derivative.

    Pair energies are known only up to functions of what does not change, masses and
    charges; their derivative, the force, is fully determined.

    Args:
        table: what `record_energies` gave.
        force: the law of the derivative, from `distill` or `factor`.
        regressors: engines, see `search`.

    Raises:
        RegressionError: a search ended without a usable expression.
    """
    potential = None
    if force.form == "central" and force.scalar is not None:
        potential = _if_finite(integrate(force.scalar), table.forces.features)
    if potential is None:
        return PotentialLaw(force, None, None, None)
    columns = dict(table.forces.features)
    units = dict(table.forces.scales)
    for end in ("i", "j"):
        columns[f"p_{end}"] = _momentum(columns, end)[1]
        units[f"p_{end}"] = units.get("m_i", 1.0) * units["vx_i"]
    r = columns["r"]
    rows = _rows(columns)

    def values(law, **changed):
        return evaluate(law, columns | changed)

    energy = table.forces.messages[:, 0]
    middle = np.full(len(r), np.median(r))
    rest = energy - table.change - values(potential, r=middle)
    additive: sympy.Expr = sympy.Float(float(np.mean(rest[rows])))
    names = [*property_names(table.forces), "p_i", "p_j"]
    names = [name for name in names if np.ptp(columns[name][rows]) > 0]
    if names and np.std(rest[rows]) > 0.01 * np.std(energy[rows]):
        found = search_in_units(
            regressors[:2],
            {name: columns[name] for name in names},
            units,
            rest[:, None],
            rows=rows[:1000],
            relative_error=False,
        )
        additive = select(found[0]).expression
    sizes = np.std(rest[rows]), np.std(table.change[rows])
    error = float(np.std((rest - values(additive))[rows]) / np.hypot(*sizes))
    return PotentialLaw(force, potential, additive, error)


def distill_kinetic(
    table: EnergyTable, regressors: Sequence[Regressor], *, num_samples: int = 1000
) -> KineticLaw | None:
    """Find the kinetic energy of a body, by way of its derivative by the momentum.

    Returns:
        The law, or None if the model was not trained on velocities or nothing moves.
    """
    velocity = table.self_velocity
    features, scales = table.forces.features, table.forces.scales
    momentum, size = _momentum(features, "i")
    if velocity is None or not np.any(size):
        return None
    along = np.sum(velocity * momentum, axis=1) / np.where(size > 0, size, 1.0)
    columns = {"p": size} | {name: features[name] for name in property_names(table.forces, "i")}
    units = dict(scales) | {"p": scales.get("m_i", 1.0) * scales["vx_i"]}
    rows = np.arange(len(size))[:num_samples]
    (front,) = search_in_units(regressors, columns, units, along[:, None], rows=rows)
    law = select(front).expression
    return KineticLaw(law, _if_finite(integrate(law, "p"), features | {"p": size}), front)


def refitted_potential(
    refitted: Refit, features: Mapping[str, Float[np.ndarray, " edge"]]
) -> sympy.Expr | None:
    """The potential of a refitted central law, softened as it is.

    Args:
        refitted: what `refit` gave.
        features: columns of a `MessageTable`.

    Returns:
        V(r, ...), or None if it is not known or not finite on the pairs of the table.
    """
    found = None if refitted.scalar is None else integrate(refitted.scalar)
    if found is not None:
        found = found.xreplace({sympy.Symbol("r"): refitted.distance})
    return _if_finite(found, features)


def _rows(columns):
    """Where a law was looked for: the nearest pairs' energies would drown all others."""
    r = columns["r"]
    return np.flatnonzero((r >= np.quantile(r, 0.01)) & (r <= np.quantile(r, 0.99)))


def _if_finite(law, columns):
    """The law, or None if it is none or not finite where it was looked for."""
    if law is None:
        return None
    with np.errstate(all="ignore"):
        values = evaluate(law, columns)[_rows(columns)]
    return law if np.all(np.isfinite(values)) else None


def integrate(slope: sympy.Expr, variable: str = "r") -> Any:
    """The integral of a law by a positive variable, without constant; None if not known.

    Nor is it known if it needs functions that `expressions.to_jax` has not. Logarithms of
    what may be negative are of its absolute value: so is the integral of 1 / (1 - r) real
    on both sides of 1.
    """
    from sympy.integrals.manualintegrate import manualintegrate

    plain = sympy.Symbol(variable)
    signed = {
        symbol: sympy.Symbol(str(symbol), positive=True)
        for symbol in slope.free_symbols | {plain}
        if symbol == plain or str(symbol).startswith("m_")
    }
    by = signed[plain]
    try:
        found: Any = manualintegrate(sympy.expand(slope.xreplace(signed)), by)
    except Exception:
        # SymPy fails in many ways over what it cannot integrate (floats beside symbols).
        return None
    if found.has(sympy.expint):
        # Integrals of exp(-r) / r^n all become that of exp(-r) / r, of which they may have none.
        found = sympy.expand_func(found).replace(
            lambda node: isinstance(node, sympy.expint) and node.args[0] == 1,
            lambda node: -sympy.Ei(-node.args[1]),
        )
        found = sympy.expand(found)
    known = slope.xreplace(signed).atoms(sympy.log)
    found = found.replace(
        lambda node: (
            isinstance(node, sympy.log) and node not in known and not node.args[0].is_positive
        ),
        lambda node: sympy.log(sympy.Abs(node.args[0])),
    )
    if found.has(sympy.Integral, sympy.zoo, sympy.nan) or unknown_functions(found):
        return None
    return sympy.factor_terms(found.xreplace({new: old for old, new in signed.items()}))


def _momentum(features, end):
    """Momenta `[edge, dim]` of one end of each edge, and their sizes."""
    axes = [axis for axis in AXES if f"v{axis}_{end}" in features]
    mass = features.get(f"m_{end}", 1.0)
    momentum = np.stack([mass * features[f"v{a}_{end}"] for a in axes], axis=1)
    return momentum, np.linalg.norm(momentum, axis=1)


def _pair_energy(model, params, receiver, sender) -> Array:
    """Both edges of a pair."""

    def both(network, receiver, sender):
        ends = network.momenta(receiver), network.momenta(sender)
        return network.pair_energy(*ends) + network.pair_energy(*ends[::-1])

    return model.apply(params, receiver, sender, method=both)
