"""Hamiltonians of networks and of laws, followed in time beside the true one."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.border import checked
from symjax_gn.data.checks import check_choice, check_count
from symjax_gn.data.features import parse_feature, property_feature
from symjax_gn.data.graphs import Edges, check_edges, flatten, stack_graphs
from symjax_gn.data.nodes import Nodes, check_nodes, take_nodes
from symjax_gn.data.space import FREE, Space, safe_norm
from symjax_gn.laws.expressions import to_jax
from symjax_gn.networks.training import Trained
from symjax_gn.physics.dynamics import Hamiltonian, energy_drift, roll_out, to_canonical

# Leapfrog is left out: what a network learns need not part into kinetic and potential energy.
SOLVERS = ("midpoint", "adaptive")


def trained_hamiltonian(trained: Trained, edges: Edges) -> Hamiltonian:
    """The energy that a `FlatHGN` has learned, in the user's units; no Rayleigh function.

    Args:
        trained: what `fit` gave.
        edges: senders and receivers.

    Raises:
        ValueError: the model is not a `FlatHGN`, or was not trained on dq/dt.
    """
    model, scales = trained.model, trained.scales
    if not (model.conservative and model.kinetic):
        raise ValueError(
            'Motion needs dH/dq and dH/dp: train with strategy="flathgn" and a model with '
            "kinetic=True."
        )
    centre = jnp.asarray(scales.centre, jnp.float32)
    mass = scales.properties.get("mass", 1.0)

    def hamiltonian(body):
        inside = Nodes(
            (body.position - centre) / scales.length,
            body.velocity / (mass * scales.velocity),
            {name: x / scales.properties[name] for name, x in body.properties.items()},
        )
        graphs = stack_graphs(jax.tree.map(lambda x: x[None], inside), *map(jnp.asarray, edges))
        totals, _ = model.apply(trained.params, flatten(graphs), method="energies")
        return totals[0] * (mass * scales.velocity**2)

    return hamiltonian


def distilled_hamiltonian(
    potential: sympy.Expr, kinetic: sympy.Expr, edges: Edges, space: Space = FREE
) -> Hamiltonian:
    """The energy of a distilled potential and kinetic energy, user's units.

    Args:
        potential: V(r, m_i, m_j, q_i, q_j) of a pair.
        kinetic: k(p, m_i, q_i) of a body.
        edges: senders and receivers, every pair in both directions.
        space: free or periodic.

    Raises:
        ValueError: an expression depends on something else, or the edges are wrong.
    """
    check_edges(*edges, 1 + int(np.max(edges, initial=0)))
    names = [sorted(map(str, law.free_symbols)) for law in (potential, kinetic)]
    kinds = (("potential", "r", "ij"), ("kinetic energy", "p", "i"))
    for (law, own, ends), used in zip(kinds, names, strict=True):
        for name in used:
            mine = name[-2:] in [f"_{end}" for end in ends]
            if name != own and not (mine and parse_feature(name).kind.startswith("property:")):
                raise ValueError(f"A {law} cannot depend on {name}.")
    of_pair, pair_constants = to_jax(potential, names[0])
    of_body, body_constants = to_jax(kinetic, names[1])

    def values(columns, wanted, count):
        for name in wanted:
            check_choice("variable of an energy", name, columns)
        return jnp.stack([columns[name] for name in wanted] or [jnp.zeros(count)], axis=-1)

    def hamiltonian(body):
        sender, receiver = (take_nodes(body, index) for index in edges)
        pair: dict[str, Any] = {
            "r": safe_norm(space.displacement(receiver.position, sender.position))
        }
        alone: dict[str, Any] = {"p": safe_norm(body.velocity)}
        for name in body.properties:
            pair[property_feature(name, "i")] = receiver.properties[name]
            pair[property_feature(name, "j")] = sender.properties[name]
            alone[property_feature(name, "i")] = body.properties[name]
        pairs = of_pair(pair_constants, values(pair, names[0], len(edges[0])))
        bodies = of_body(body_constants, values(alone, names[1], body.position.shape[0]))
        # Each pair has two edges, and a law need not treat its ends quite alike.
        return 0.5 * jnp.sum(pairs) + jnp.sum(bodies)

    return hamiltonian


@checked
def compare_rollouts(
    hamiltonians: Mapping[str, Hamiltonian],
    bodies: Nodes,
    time: Float[np.ndarray, " time"],
    *,
    true: str | None = None,
    substeps: int = 1,
    tolerance: float = 1e-6,
) -> list[dict[str, Any]]:
    """How well Hamiltonians keep their own energy, and the true one, along their paths.

    Args:
        hamiltonians: energies by name.
        bodies: initial states, fields `[sim, node, ...]`, with velocities.
        time: output times `[time]`, equally spaced.
        true: which of the names is the truth, or None.
        substeps: see `roll_out`.
        tolerance: see `roll_out`.

    Returns:
        One row for each solver and name: `own_drift` and `true_drift` (None without a
        truth), the largest |H(t) - H(0)| over the initial kinetic energy (for bodies that
        start at rest, the largest on the path), median over all paths, those that failed as
        infinite; and `failed`, their number.

    Raises:
        ValueError: `true` is not among the names, or bodies, times or steps are wrong.

    >>> import symjax_gn as sgn
    >>> from symjax_gn.physics.dynamics import true_hamiltonian
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> starts = Nodes(run.position[:, 0], run.velocity[:, 0], run.properties)
    >>> energies = {"true": true_hamiltonian(sgn.SYSTEMS["spring"])}
    >>> rows = compare_rollouts(energies, starts, np.linspace(0.0, 1.0, 11), substeps=4)
    >>> all(row["own_drift"] < 1e-2 for row in rows)
    True
    """
    if true is not None:
        check_choice("true Hamiltonian", true, hamiltonians)
    check_nodes(bodies, "bodies")
    check_count("substeps", substeps)
    time = np.asarray(time, np.float64)
    gaps = np.diff(time)
    # Times in float32 are evenly spaced to fewer places than others.
    if time.ndim != 1 or not np.any(gaps > 0) or not np.allclose(gaps, gaps[:1], 1e-3, 0):
        raise ValueError("time must hold two or more times, rising and equally spaced.")
    start = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), to_canonical(bodies))
    times = jnp.asarray(time, jnp.float32)
    rows = []
    for solver in SOLVERS:
        options = dict(solver=solver, substeps=substeps, tolerance=tolerance)
        for name, hamiltonian in hamiltonians.items():
            judges = {"own_drift": hamiltonian}
            if true is not None:
                judges["true_drift"] = hamiltonians[true]

            @jax.jit
            @jax.vmap
            def follow(body, hamiltonian=hamiltonian, judges=judges, options=options):
                path, ok = roll_out(hamiltonian, body, times, **options)
                kinetic = 0.5 * jnp.sum(
                    jnp.sum(path.velocity**2, axis=-1) / path.properties.get("mass", 1.0), axis=-1
                )
                unit = jnp.where(kinetic[0] > 0, kinetic[0], jnp.max(kinetic))
                unit = jnp.where(unit > 0, unit, 1.0)
                drifts = {k: jnp.max(energy_drift(h, path, unit)) for k, h in judges.items()}
                return drifts, ok & jnp.all(jnp.isfinite(jnp.stack(list(drifts.values()))))

            drifts, ok = jax.tree.map(np.asarray, follow(start))
            row: dict[str, Any] = dict(hamiltonian=name, solver=solver, true_drift=None)
            # A path that failed counts as the worst: which ones fail depends on the energy.
            row |= {k: float(np.median(np.where(ok, x, np.inf))) for k, x in drifts.items()}
            rows.append(row | dict(failed=int(np.sum(~ok)), paths=len(ok)))
    return rows
