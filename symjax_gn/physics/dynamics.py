"""Hamiltonians and bodies followed in time."""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Bool, Float

from symjax_gn.data.nodes import Body
from symjax_gn.physics.systems import System, energy

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
