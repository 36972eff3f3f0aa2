"""Trajectories of a `System`, many at once, with diffrax."""

import functools
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray
from tqdm import tqdm

from symjax_gn.data.checks import check_at_least, check_choice
from symjax_gn.data.nodes import Body
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.physics.systems import System, acceleration, check_system

SOLVERS = ("adaptive", "symplectic")


# Simulations advanced in lockstep: enough to fill vector units, few enough that the
# working set stays in cache and one close encounter does not hold up all others.
_CHUNK = 256


class SimulationError(RuntimeError):
    """Too many simulations failed."""


class SimulationWarning(UserWarning):
    """Some simulations failed and were left out."""


def solve(
    system: System,
    body: Body,
    time: Float[Array, " time"],
    *,
    solver: str = "adaptive",
    tolerance: float = 1e-5,
    substeps: int = 4,
    max_steps: int = 4096,
) -> tuple[Body, Float[Array, "time node dim"], Bool[Array, ""]]:
    """Follow one set of bodies through the given times.

    Composes under `jit`, `vmap` and `grad`; it checks nothing.

    Args:
        system: the law of motion.
        body: initial state, fields `[node, ...]`.
        time: output times `[time]`, equally spaced for the symplectic solver.
        solver: "adaptive" (Dormand-Prince 5(4), error per step below `tolerance`)
            or "symplectic" (leapfrog with `substeps` steps per output; needs a
            system without drag).
        tolerance: of the adaptive solver, relative to each coordinate and, near zero, to
            the size of the initial state.
        substeps: steps between two outputs of the symplectic solver.
        max_steps: steps after which the adaptive solver gives up.

    Returns:
        The bodies at each time (fields `[time, node, ...]`), their accelerations
        `[time, node, dim]`, and whether the solver succeeded.
    """

    def accelerate(position, velocity):
        return acceleration(system, body._replace(position=position, velocity=velocity))

    options: dict[str, Any] = dict(
        t0=time[0], t1=time[-1], saveat=diffrax.SaveAt(ts=time), throw=False
    )
    step = (time[1] - time[0]) / substeps
    # Adaptive steps see a state near one, so that an absolute tolerance fits any units.
    length, speed = _sizes(body, time[-1] - time[0]) if solver == "adaptive" else (1.0, 1.0)
    if solver == "adaptive":

        def derivative(t, state, args):
            position, velocity = state[0] * length, state[1] * speed
            return velocity / length, accelerate(position, velocity) / speed

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(derivative),
            diffrax.Dopri5(),
            dt0=system.dt,
            y0=(body.position / length, body.velocity / speed),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=max_steps,
            **options,
        )
    else:
        # Semi-implicit Euler on half-shifted velocities is the leapfrog.
        start = body.velocity + 0.5 * step * accelerate(body.position, body.velocity)
        solution = diffrax.diffeqsolve(
            (
                diffrax.ODETerm(lambda t, velocity, args: velocity),
                diffrax.ODETerm(lambda t, position, args: accelerate(position, body.velocity)),
            ),
            diffrax.SemiImplicitEuler(),
            dt0=step,
            y0=(body.position, start),
            # Rounding of the time may cost a few steps more than there should be.
            max_steps=substeps * time.shape[0] + 10 + substeps * time.shape[0] // 100,
            **options,
        )
    assert solution.ys is not None
    position, velocity = solution.ys[0] * length, solution.ys[1] * speed
    accelerations = jax.vmap(accelerate)(position, velocity)
    if solver == "symplectic":
        velocity = velocity - 0.5 * step * accelerations
    repeat = lambda x: jnp.broadcast_to(x, (time.shape[0], *x.shape))  # noqa: E731
    bodies = Body(position, velocity, repeat(body.mass), repeat(body.charge))
    return bodies, accelerations, solution.result == diffrax.RESULTS.successful


def _sizes(body, duration):
    """Length and speed of a state: of its extent and of its motion, or at rest the two in one."""
    # Means of sizes, not of squares: squares of metres between stars overflow float32.
    length = jnp.mean(jnp.abs(body.position - jnp.mean(body.position, axis=0)))
    length = jnp.where(length > 0, length, 1.0)
    speed = jnp.mean(jnp.abs(body.velocity)) + length / duration
    return jax.lax.stop_gradient((length, speed))


@functools.partial(
    jax.jit,
    static_argnames=("system", "num_nodes", "dim", "solver", "substeps", "max_steps"),
)
def _solve_many(keys, time, *, system, num_nodes, dim, solver, tolerance, substeps, max_steps):
    def one(key):
        body = jax.tree.map(lambda x: x.astype(time.dtype), system.sample(key, num_nodes, dim))
        options = dict(tolerance=tolerance, substeps=substeps, max_steps=max_steps)
        bodies, accelerations, ok = solve(system, body, time, solver=solver, **options)
        path = (bodies.position, bodies.velocity, accelerations)
        finite = [jnp.all(jnp.isfinite(x)) for x in path]
        return (*path, body.mass, body.charge), ok & jnp.all(jnp.stack(finite))

    return jax.vmap(one)(keys)


def simulate(
    key: PRNGKeyArray,
    system: System,
    *,
    num_nodes: int | None = None,
    dim: int = 2,
    num_simulations: int = 1000,
    num_outputs: int = 500,
    dt: float | None = None,
    solver: str = "adaptive",
    tolerance: float = 1e-5,
    substeps: int = 4,
    max_steps: int = 4096,
    dtype: DTypeLike = np.float32,
    max_failed: float = 0.1,
    progress: bool = False,
) -> Trajectory:
    """Simulate a system from sampled initial conditions.

    Args:
        key: PRNG key; each simulation has its own split of it.
        system: the law, built in (`SYSTEMS`) or one's own.
        num_nodes: number of bodies, at least 2; None takes the system's usual number.
        dim: spatial dimension.
        num_simulations: number of simulations.
        num_outputs: outputs of each, the initial state being the first; at least 2.
        dt: time between outputs; None takes the system's.
        solver: "adaptive" or "symplectic"; see `solve`.
        tolerance: of the adaptive solver, relative; see `solve`.
        substeps: steps between two outputs, of the symplectic solver.
        max_steps: steps after which the adaptive solver gives up.
        dtype: float32, or float64 where JAX has 64 bits enabled.
        max_failed: largest share of simulations that may fail.
        progress: whether to show a progress bar.

    Returns:
        A `Trajectory` with the simulations that succeeded.

    Raises:
        ValueError: an argument is wrong; the message says which.
        SimulationError: more than `max_failed` of the simulations failed.

    Warns:
        SimulationWarning: some simulations, but fewer, failed and were left out.
    """
    num_nodes = system.num_nodes if num_nodes is None else num_nodes
    dt = system.dt if dt is None else dt
    check_choice("solver", solver, SOLVERS)
    check_system(system, num_nodes, dim)
    check_at_least("num_simulations", num_simulations, 1)
    check_at_least("num_outputs", num_outputs, 2)
    check_at_least("substeps", substeps, 1)
    if not dt > 0:
        raise ValueError(f"dt must be positive, got {dt}.")
    if solver == "symplectic" and system.drag != 0:
        raise ValueError(
            f"System {system.name!r} has drag, so its motion is not symplectic; "
            'use solver="adaptive".'
        )
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}.")
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            'float64 needs jax.config.update("jax_enable_x64", True) at the start of the program.'
        )

    time = dt * np.arange(num_outputs)
    chunk = min(_CHUNK if jax.default_backend() == "cpu" else 64 * _CHUNK, num_simulations)
    starts = range(0, num_simulations, chunk)
    # The last chunk is filled up, so that every chunk has one shape and compiles once.
    keys = jax.random.split(key, chunk * len(starts))
    times, error = jnp.asarray(time, dtype), jnp.asarray(tolerance, dtype)
    solve_chunk = _solve_many.lower(
        keys[:chunk],
        times,
        system=system,
        num_nodes=num_nodes,
        dim=dim,
        solver=solver,
        tolerance=error,
        substeps=substeps,
        max_steps=max_steps,
    ).compile()
    vectors = (num_simulations, num_outputs, num_nodes, dim)
    fields = [np.empty(vectors, dtype) for _ in range(3)]
    fields += [np.empty((num_simulations, num_nodes), dtype) for _ in range(2)]
    ok = np.empty(num_simulations, bool)

    def run(start, keys):
        *found, good = jax.tree.leaves(solve_chunk(keys, times, tolerance=error))
        here = slice(start, min(start + chunk, num_simulations))
        for whole, part in zip([*fields, ok], [*found, good], strict=True):
            whole[here] = np.asarray(part)[: here.stop - here.start]
        return here.stop - here.start

    # One chunk keeps one core busy.
    with (
        tqdm(total=num_simulations, desc="simulate", disable=not progress) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for done in pool.map(run, starts, [keys[k : k + chunk] for k in starts]):
            bar.update(done)

    failed = int(np.sum(~ok))
    if failed > max_failed * num_simulations:
        raise SimulationError(
            f"{failed} of {num_simulations} simulations of {system.name!r} failed (close "
            f"encounters or a stiff law), more than max_failed={max_failed}. Raise max_steps "
            "or tolerance, or shorten dt or num_outputs."
        )
    if failed:
        warnings.warn(
            f"{failed} of {num_simulations} simulations of {system.name!r} failed and were "
            "left out.",
            SimulationWarning,
            stacklevel=2,
        )
        fields = [field[ok] for field in fields]
    return Trajectory(time, *fields, failed=failed)
