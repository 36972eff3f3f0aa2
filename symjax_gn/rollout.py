"""Hamiltonians followed in time: the true one, a trained one, a distilled one.

A `Hamiltonian` is a function of one set of canonical bodies: a `Body` with fields
`[node, ...]` whose velocity is the momentum p = m v. dq/dt = dH/dp, dp/dt = -dH/dq.
"""

from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import sympy
from jaxtyping import Array, Bool, Float

from symjax_gn.expressions import to_jax
from symjax_gn.models import FlatHGN
from symjax_gn.systems import (
    Body,
    Edges,
    System,
    check_at_least,
    check_body,
    check_choice,
    check_edges,
    energy,
    safe_norm,
)
from symjax_gn.train import Trained

SOLVERS = ("symplectic", "adaptive")
Hamiltonian = Callable[[Body], Float[Array, ""]]


def to_canonical(body: Body) -> Body:
    """Bodies with momentum m v in place of velocity."""
    return body._replace(velocity=body.mass[..., None] * body.velocity)


def true_hamiltonian(system: System) -> Hamiltonian:
    """The energy of a system, whose drag is left out."""

    def hamiltonian(body):
        return energy(system, body._replace(velocity=body.velocity / body.mass[..., None]))

    return hamiltonian


def trained_hamiltonian(trained: Trained, edges: Edges) -> Hamiltonian:
    """The energy that a `FlatHGN` has learned, in the user's units; no Rayleigh function.

    Args:
        trained: what `train.fit` gave.
        edges: senders and receivers.

    Raises:
        ValueError: the model is not a `FlatHGN`, or was not trained on dq/dt.
    """
    model, scales = trained.model, trained.scales
    if not isinstance(model, FlatHGN) or not model.kinetic:
        raise ValueError(
            'Motion needs dH/dq and dH/dp: train with strategy="flathgn" and a model with '
            "kinetic=True."
        )
    centre = jnp.asarray(scales.centre, jnp.float32)

    def hamiltonian(body):
        inside = Body(
            (body.position - centre) / scales.length,
            body.velocity / (scales.mass * scales.velocity),
            body.mass / scales.mass,
            body.charge / scales.charge,
        )
        total, _ = model.apply(trained.params, inside, *edges, method="energy")
        return total * (scales.mass * scales.velocity**2)

    return hamiltonian


def distilled_hamiltonian(potential: sympy.Expr, kinetic: sympy.Expr, edges: Edges) -> Hamiltonian:
    """The energy of a distilled potential and kinetic energy, user's units.

    Args:
        potential: V(r, m_i, m_j, q_i, q_j) of a pair.
        kinetic: k(p, m_i, q_i) of a body.
        edges: senders and receivers, every pair in both directions.

    Raises:
        ValueError: an expression depends on something else, or the edges are wrong.
    """
    check_edges(*edges, 1 + int(np.max(edges, initial=0)))
    of_pair, pair_constants = to_jax(potential, ["r", "m_i", "m_j", "q_i", "q_j"])
    of_body, body_constants = to_jax(kinetic, ["p", "m_i", "q_i"])

    def hamiltonian(body):
        sender, receiver = (jax.tree.map(lambda x, i=i: x[i], body) for i in edges)
        r = safe_norm(sender.position - receiver.position)
        pair = (r, receiver.mass, sender.mass, receiver.charge, sender.charge)
        alone = (safe_norm(body.velocity), body.mass, body.charge)
        pairs = of_pair(pair_constants, jnp.stack(pair, axis=-1))
        # Each pair has two edges, and a law need not treat its ends quite alike.
        return 0.5 * jnp.sum(pairs) + jnp.sum(of_body(body_constants, jnp.stack(alone, axis=-1)))

    return hamiltonian


def roll_out(
    hamiltonian: Hamiltonian,
    body: Body,
    time: Float[Array, " time"],
    *,
    solver: str = "symplectic",
    substeps: int = 1,
    tolerance: float = 1e-6,
    max_steps: int = 100_000,
) -> tuple[Body, Bool[Array, ""]]:
    """Follow one set of canonical bodies through the given times.

    Composes under `jit` and `vmap`; it checks nothing.

    Args:
        hamiltonian: the energy.
        body: initial state, fields `[node, ...]`; the velocity is the momentum.
        time: output times `[time]`, equally spaced for the symplectic solver.
        solver: "symplectic" (implicit midpoint rule, which is so for any H, also one
            that does not part into kinetic and potential energy) or "adaptive"
            (Dormand-Prince 5(4)).
        substeps: steps between two outputs of the symplectic solver.
        tolerance: of the adaptive solver, relative to each coordinate and, near zero, to
            the size of the initial state.
        max_steps: steps after which the adaptive solver gives up.

    Returns:
        The canonical bodies at each time (fields `[time, node, ...]`), and whether every
        step succeeded.
    """
    # Steps see a state near one, so that an absolute tolerance fits any units.
    length = jnp.mean(jnp.abs(body.position - jnp.mean(body.position, axis=0)))
    length = jnp.where(length > 0, length, 1.0)
    at_rest = jnp.mean(body.mass) * length / (time[-1] - time[0])
    sizes = (length, jnp.mean(jnp.abs(body.velocity)) + at_rest)

    def state_of(body):
        return tuple(
            x / size for x, size in zip((body.position, body.velocity), sizes, strict=True)
        )

    def body_of(state):
        return body._replace(position=state[0] * sizes[0], velocity=state[1] * sizes[1])

    def field(state):
        slope = jax.grad(hamiltonian)(body_of(state))
        return slope.velocity / sizes[0], -slope.position / sizes[1]

    start = state_of(body)
    if solver == "adaptive":
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, state, args: field(state)),
            diffrax.Dopri5(),
            t0=time[0],
            t1=time[-1],
            dt0=time[1] - time[0],
            y0=start,
            saveat=diffrax.SaveAt(ts=time),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=max_steps,
            throw=False,
        )
        assert solution.ys is not None
        path, ok = solution.ys, solution.result == diffrax.RESULTS.successful
    else:
        step = (time[1] - time[0]) / substeps

        def advance(state, _):
            def improve(guess, _):
                middle = jax.tree.map(lambda a, b: 0.5 * (a + b), state, guess)
                return jax.tree.map(lambda a, b: a + step * b, state, field(middle))

            # To the last places of float32; where rounding keeps it from there, the last
            # change says whether it went anywhere.
            fixed = optimistix.fixed_point(
                improve,
                optimistix.FixedPointIteration(rtol=3e-7, atol=3e-7),
                state,
                max_steps=32,
                throw=False,
            )
            new = improve(fixed.value, None)
            changes = jax.tree.map(
                lambda a, b: jnp.max(jnp.abs(a - b) / (1 + jnp.abs(a))), new, fixed.value
            )
            return new, jnp.maximum(*changes) < 1e-4

        def output(state, _):
            state, ok = jax.lax.scan(advance, state, length=substeps)
            return state, (state, jnp.all(ok))

        _, (path, good) = jax.lax.scan(output, start, length=time.shape[0] - 1)
        path = jax.tree.map(lambda x, first: jnp.concatenate([first[None], x]), path, start)
        ok = jnp.all(good)
    repeat = lambda x: jnp.broadcast_to(x, (time.shape[0], *x.shape))  # noqa: E731
    whole = body_of(path)
    return whole._replace(mass=repeat(body.mass), charge=repeat(body.charge)), ok


def energy_drift(
    hamiltonian: Hamiltonian, path: Body, unit: Float[Array, ""]
) -> Float[Array, " time"]:
    """|H(t) - H(0)| / `unit` along one path (fields `[time, node, ...]`)."""
    energies = jax.vmap(hamiltonian)(path)
    return jnp.abs(energies - energies[0]) / unit


def compare_rollouts(
    hamiltonians: Mapping[str, Hamiltonian],
    bodies: Body,
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
    """
    if true is not None:
        check_choice("true Hamiltonian", true, hamiltonians)
    check_body(bodies, "bodies")
    check_at_least("substeps", substeps, 1)
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
                kinetic = 0.5 * jnp.sum(jnp.sum(path.velocity**2, axis=-1) / path.mass, axis=-1)
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
