"""Motion in time: one solver for systems, for models and for Hamiltonians.

`solve` integrates any vector field. `follow` moves bodies by a function that gives their
accelerations (or velocities, in first-order motion): that of a system, of a network or of a
law. `roll_out` moves them by a Hamiltonian. A solver's name means the same in all three.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from symjax_gn.data.border import checked
from symjax_gn.data.checks import check_choice, check_type, shown
from symjax_gn.data.datasets import inertia
from symjax_gn.data.features import TIME
from symjax_gn.data.nodes import AnyArray, Nodes
from symjax_gn.data.quantities import ACCELERATION
from symjax_gn.data.space import FREE, Space
from symjax_gn.physics.forces import PAIRS_AT_ONCE, energy, rate
from symjax_gn.physics.systems import System

SOLVERS = ("adaptive", "symplectic", "midpoint")
State = TypeVar("State")
Rate = Callable[[Nodes], Float[Array, "node dim"]]
Hamiltonian = Callable[[Nodes], Float[Array, ""]]

# The midpoint rule iterates until changes, relative to states near one, are next to
# rounding; where rounding keeps it from there, a last change below the second number still
# says that it converges.
_FIXED_POINT_TOLERANCE = {4: 3e-7, 8: 1e-13}  # by bytes of a float
_CONVERGING = 1e-4
_FIXED_POINT_STEPS = 32


class Path(NamedTuple):
    """One set of bodies followed in time."""

    nodes: Nodes
    """Fields `[time, node, ...]`."""
    rate: Float[Array, "time node dim"]
    """[time, node, dim], accelerations, or velocities in first-order motion."""
    ok: Bool[Array, ""]
    """Whether every step succeeded."""


def solve(
    field: Callable[[State], State],
    state: State,
    time: Float[AnyArray, " time"],
    *,
    solver: str = "adaptive",
    units: Any = None,
    tolerance: float | Array = 1e-5,
    substeps: int = 4,
    max_steps: int = 100_000,
) -> tuple[State, Bool[Array, ""]]:
    """Integrate d state / d time = field(state) through the given times.

    Composes under `jit`, `vmap` and `grad`.

    Args:
        field: rate of change of a state, of the same structure.
        state: initial state, any pytree of arrays of one float type.
        time: output times `[time]`, rising; the state is given at the first.
        solver: "adaptive" (Dormand-Prince 5(4)); "symplectic" (leapfrog: the state must be
            a pair (position, momentum), whose rates depend on the other one alone); or
            "midpoint" (implicit midpoint rule, symplectic for any Hamiltonian). The latter
            two are so only with equally spaced times.
        units: typical size of each array of the state, same structure. Steps see the state
            in these units, so that tolerances fit any; by default 1.
        tolerance: of the adaptive solver: error per step, relative to each number and, near
            zero, to its unit.
        substeps: steps between two outputs of the other solvers.
        max_steps: steps after which the adaptive solver gives up.

    Returns:
        The state at each time (arrays `[time, ...]`), and whether every step succeeded and
        all is finite.

    Raises:
        ValueError: there is no such solver, the state is no pair for the symplectic one, or
            there are fewer than two times, or times that do not rise.

    >>> path, ok = solve(lambda x: -x, jnp.ones(()), np.array([0.0, 1.0]))
    >>> round(path[-1].item(), 3), bool(ok)
    (0.368, True)
    """
    check_choice("solver", solver, SOLVERS)
    if solver == "symplectic" and not (isinstance(state, tuple) and len(state) == 2):
        raise ValueError(
            "The symplectic solver needs a pair (position, momentum) as state, got "
            f'{shown(state)}; use solver="adaptive" or "midpoint".'
        )
    if np.ndim(time) != 1 or np.shape(time)[0] < 2:
        raise ValueError(f"time must be two or more output times [time], got {shown(time)}.")
    if isinstance(time, np.ndarray) and not np.all(np.diff(time) > 0):
        raise ValueError("time must rise from each output to the next, and be finite.")
    # Of one type, whatever mixture of types comes in.
    dtype = wanted = jnp.result_type(jnp.float32, *jax.tree.leaves(state))
    if solver == "midpoint":
        dtype = jnp.result_type(float)  # optimistix iterates in no other
    times = jnp.asarray(time, dtype)
    whole: Any = jax.tree.map(lambda x: jnp.asarray(x, dtype), state)
    units = jax.tree.map(lambda x: 1.0, whole) if units is None else units
    sizes: Any = jax.tree.map(lambda x: jnp.asarray(x, dtype), units)

    def slope(scaled):
        found = field(jax.tree.map(jnp.multiply, scaled, sizes))
        return jax.tree.map(lambda x, size: (x / size).astype(dtype), found, sizes)

    start = jax.tree.map(jnp.divide, whole, sizes)
    if solver == "adaptive":
        path, ok = _adaptive(slope, start, times, tolerance, max_steps)
    else:
        path, ok = _fixed_steps(solver, slope, start, times, substeps)
    path = jax.tree.map(lambda x, size: (x * size).astype(wanted), path, sizes)
    finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(path)]
    return path, ok & jnp.all(jnp.stack(finite))


def follow(
    rate: Rate,
    nodes: Nodes,
    time: Float[AnyArray, " time"],
    *,
    order: int = 2,
    space: Space = FREE,
    **options: Any,
) -> Path:
    """Follow one set of bodies whose accelerations or velocities are a function of them.

    Composes under `jit`, `vmap` and `grad`. Positions are continuous between outputs, which
    are brought back into a periodic box.

    Args:
        rate: `fn(nodes) -> [node, dim]`, accelerations, or velocities in first-order motion.
        nodes: initial state, fields `[node, ...]`; a property `time` is the moment, and goes on.
        time: output times `[time]`.
        order: 2, or 1 for first-order motion, in which velocities are no part of the state.
        space: free or periodic.
        **options: solver, tolerance, substeps and max_steps of `solve`; the symplectic
            solver needs second-order motion whose accelerations do not depend on velocities.

    Raises:
        ValueError: as `solve`; or initial velocities are missing in second-order motion.

    >>> bodies = Nodes(jnp.ones((1, 2)), jnp.zeros((1, 2)), {})
    >>> path = follow(lambda nodes: -nodes.position, bodies, np.linspace(0.0, np.pi, 3))
    >>> path.nodes.position[-1].round(3).tolist(), bool(path.ok)
    ([[-1.0, -1.0]], True)
    """
    times = jnp.asarray(time)
    length, speed = _sizes(nodes.position, nodes.velocity if order == 2 else None, times)
    start: Any = (nodes.position,)
    units: Any = (length,)
    if order == 2:
        if nodes.velocity is None:
            raise ValueError("Second-order motion needs initial velocities, got None.")
        start, units = (nodes.position, nodes.velocity), (length, speed)

    clocks = [TIME] if TIME in nodes.properties else []
    start = (*start, *(nodes.properties[name] for name in clocks))
    units = (*units, *(jnp.max(jnp.abs(times)) for _ in clocks))

    def nodes_of(state):
        moved = nodes._replace(position=state[0], velocity=state[1] if order == 2 else None)
        moments = dict(zip(clocks, state[order:], strict=True))
        return moved._replace(properties=nodes.properties | moments)

    def field(state):
        # Positions change by velocities where there are any, the last vectors by the rate.
        return (*state[1:order], rate(nodes_of(state)), *map(jnp.ones_like, state[order:]))

    path, ok = solve(field, start, time, units=units, **options)
    rates = _over_time(lambda state: rate(nodes_of(state)), path).astype(path[0].dtype)
    still = _with_properties(nodes, len(times)).properties
    moved = nodes_of(path)
    found = moved._replace(properties=still | {name: moved.properties[name] for name in clocks})
    inside = space.move(path[0], jnp.zeros_like(path[0]))
    return Path(found._replace(position=inside), rates, ok & jnp.all(jnp.isfinite(rates)))


def follow_system(
    system: System, nodes: Nodes, time: Float[AnyArray, " time"], **options: Any
) -> Path:
    """Follow one set of bodies by the law of a system; see `follow`.

    Raises:
        ValueError: as `follow`, or the symplectic solver is asked for with drag or in
            first-order motion.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> system = SYSTEMS["spring"]
    >>> bodies = system.sample(jax.random.key(0), 4, 2)
    >>> follow_system(system, bodies, np.linspace(0.0, 1.0, 5)).rate.shape
    (5, 4, 2)
    """
    check_type("system", system, System)
    check_separable(system, options.get("solver", SOLVERS[0]))
    return follow(
        functools.partial(rate, system),
        nodes,
        time,
        order=system.order,
        space=system.space,
        **options,
    )


def check_separable(system: System, solver: str) -> None:
    """Raise a `ValueError` if leapfrog is asked for, and a system's motion does not allow it.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> check_separable(SYSTEMS["damped"], "symplectic")
    Traceback (most recent call last):
    ValueError: System 'damped' has drag, so its motion is not symplectic; use solver="adaptive".
    """
    if solver != "symplectic":
        return
    if system.order == 1:
        raise ValueError(
            f"System {system.name!r} is of first order, so its motion is not symplectic; "
            'use solver="adaptive".'
        )
    if system.drag:
        raise ValueError(
            f"System {system.name!r} has drag, so its motion is not symplectic; "
            'use solver="adaptive".'
        )


def to_canonical(nodes: Nodes) -> Nodes:
    """Bodies as Hamiltonians take them: the field velocity is the momentum m v.

    >>> to_canonical(Nodes(np.zeros((1, 2)), np.ones((1, 2)), {"mass": np.array([3.0])})).velocity
    array([[3., 3.]])
    """
    velocity: Any = nodes.velocity
    return nodes._replace(velocity=velocity * _masses(nodes))


def _masses(nodes: Nodes) -> Any:
    mass: Any = inertia(nodes, ACCELERATION)
    return mass if isinstance(mass, float) else mass[..., None]


def true_hamiltonian(system: System) -> Hamiltonian:
    """The energy of a system as a function of canonical bodies; drag is left out.

    Raises:
        ValueError: the system is of first order, or is given by a pair force.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> bodies = Nodes(jnp.array([[0.0], [2.99]]), jnp.ones((2, 1)), {"mass": jnp.ones(2)})
    >>> true_hamiltonian(SYSTEMS["spring"])(to_canonical(bodies)).item()
    5.0
    """
    if system.order == 1 or system.pair_potential is None:
        raise ValueError(
            f"System {system.name!r} has no Hamiltonian: it must be of second order and given "
            "by a pair potential."
        )

    def hamiltonian(nodes):
        return energy(system, nodes._replace(velocity=nodes.velocity / _masses(nodes)))

    return hamiltonian


@checked
def roll_out(
    hamiltonian: Hamiltonian,
    nodes: Nodes,
    time: Float[AnyArray, " time"],
    *,
    solver: str = "midpoint",
    space: Space = FREE,
    **options: Any,
) -> tuple[Nodes, Bool[Array, ""]]:
    """Follow one set of canonical bodies: dq/dt = dH/dp, dp/dt = -dH/dq.

    Composes under `jit`, `vmap` and `grad`.

    Args:
        hamiltonian: `fn(nodes) -> energy`; the field velocity is the momentum.
        nodes: initial state, fields `[node, ...]`, see `to_canonical`.
        time: output times `[time]`.
        solver: as in `solve`; the midpoint rule is symplectic for any energy, leapfrog
            ("symplectic") for those that part into kinetic and potential energy.
        space: free or periodic.
        **options: tolerance, substeps and max_steps of `solve`.

    Returns:
        The canonical bodies at each time (fields `[time, node, ...]`), and whether every
        step succeeded.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> bodies = to_canonical(Nodes(jnp.array([[0.0], [2.99]]), jnp.zeros((2, 1)), {}))
    >>> path, ok = roll_out(true_hamiltonian(SYSTEMS["spring"]), bodies, np.linspace(0, 1, 3))
    >>> path.position.shape, bool(ok)
    ((3, 2, 1), True)
    """
    times = jnp.asarray(time)
    mass = jnp.mean(jnp.asarray(inertia(nodes, ACCELERATION)))
    length, momentum = _sizes(nodes.position, nodes.velocity, times, mass)

    def field(state):
        slope = jax.grad(hamiltonian)(nodes._replace(position=state[0], velocity=state[1]))
        return slope.velocity, -slope.position

    start: Any = (nodes.position, nodes.velocity)
    (position, velocity), ok = solve(
        field, start, time, solver=solver, units=(length, momentum), **options
    )
    inside = space.move(position, jnp.zeros_like(position))
    return _with_properties(Nodes(inside, velocity, nodes.properties), len(times)), ok


def energy_drift(
    hamiltonian: Hamiltonian, path: Nodes, unit: Float[Array, ""] | float
) -> Float[Array, " time"]:
    """|H(t) - H(0)| / `unit` along one path of canonical bodies (fields `[time, node, ...]`).

    >>> rest = Nodes(jnp.array([[[1.0]], [[2.0]]]), jnp.zeros((2, 1, 1)), {})
    >>> energy_drift(lambda nodes: jnp.sum(nodes.position**2), rest, 2.0).tolist()
    [0.0, 1.5]
    """
    energies = jax.vmap(hamiltonian)(path)
    return jnp.abs(energies - energies[0]) / unit


def _sizes(position: Any, velocity: Any, time: Array, mass: Any = 1.0) -> Any:
    """Typical length of a state, and size of its velocities (or momenta)."""
    # Means of sizes, not of squares: squares of metres between stars overflow float32.
    position = jnp.asarray(position)
    length = jnp.mean(jnp.abs(position - jnp.mean(position, axis=0)))
    length = jnp.where(length > 0, length, 1.0)
    # Bodies at rest will have moved their distance by the end, or else are slow to the eye.
    speed = mass * length / (time[-1] - time[0])
    if velocity is not None:
        speed += jnp.mean(jnp.abs(velocity))
    return jax.lax.stop_gradient((length, speed))


def _with_properties(nodes: Nodes, count: int) -> Nodes:
    """Properties repeated for each of `count` times."""
    repeat = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))  # noqa: E731
    return nodes._replace(properties=jax.tree.map(repeat, nodes.properties))


def _over_time(function, path):
    """A function of every state of a path, few at once where bodies are many."""
    count, num_nodes = path[0].shape[:2]
    together = max(1, PAIRS_AT_ONCE // num_nodes**2)
    if together >= count:
        return jax.vmap(function)(path)
    return jax.lax.map(function, path, batch_size=together)


def _adaptive(field, start, time, tolerance, max_steps):
    # Imported once it is needed, since it takes long.
    import diffrax

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
    return solution.ys, solution.result == diffrax.RESULTS.successful


def _fixed_steps(solver, field, start, time, substeps):
    """Equal steps between outputs."""
    advance: Any = _leapfrog if solver == "symplectic" else _midpoint
    force = field(start)[1] if solver == "symplectic" else None

    def output(carry, interval):
        carry, ok = jax.lax.scan(
            lambda carry, _: advance(field, *carry, interval / substeps), carry, length=substeps
        )
        return carry, (carry[0], jnp.all(ok))

    _, (path, ok) = jax.lax.scan(output, (start, force), jnp.diff(time))
    path = jax.tree.map(lambda first, x: jnp.concatenate([first[None], x]), start, path)
    return path, jnp.all(ok)


def _move(state, step, slope):
    return jax.tree.map(lambda x, k: x + step * k, state, slope)


def _leapfrog(field, state, force, step) -> Any:
    """Half a kick, a drift, half a kick; each force is computed once."""
    position, momentum = state
    momentum = _move(momentum, 0.5 * step, force)
    position = _move(position, step, field((position, momentum))[0])
    force = field((position, momentum))[1]
    return ((position, _move(momentum, 0.5 * step, force)), force), jnp.array(True)


def _midpoint(field, state, force, step) -> Any:
    """The implicit midpoint rule by fixed-point iteration."""
    import optimistix

    dtype = jax.tree.leaves(state)[0].dtype
    tolerance = _FIXED_POINT_TOLERANCE[dtype.itemsize]

    def improve(guess, _):
        middle = jax.tree.map(lambda a, b: 0.5 * (a + b), state, guess)
        return _move(state, step, field(middle))

    fixed = optimistix.fixed_point(
        improve,
        optimistix.FixedPointIteration(rtol=tolerance, atol=tolerance),
        state,
        max_steps=_FIXED_POINT_STEPS,
        throw=False,
    )
    new = improve(fixed.value, None)
    changes = [
        jnp.max(jnp.abs(a - b) / (1 + jnp.abs(a)))
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(fixed.value), strict=True)
    ]
    return (new, force), jnp.max(jnp.stack(changes)) < _CONVERGING
