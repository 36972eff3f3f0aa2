"""Laws of motion as pure functions of the bodies they act on.

A `System` holds one pair potential and, optionally, a potential of each body
alone and a linear drag. Forces follow by `jax.grad`, so a law is one function:

    def yukawa(r, receiver, sender):
        return receiver.charge * sender.charge * jnp.exp(-r) / r

    system = System(name="yukawa", pair_potential=yukawa)

The built-in systems are those of arXiv:2006.11287, section 4.1, in `SYSTEMS`.
Quantities carry the user's units; the built-in systems are dimensionless.
"""

import contextlib
import functools
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from symjax_gn.data.checks import check_choice
from symjax_gn.data.graphs import Edges, _check_num_nodes, chain_edges, check_edges, complete_edges
from symjax_gn.data.nodes import AnyArray, Body, check_body

PairPotential = Callable[..., Float[Array, ""]]


OneBodyPotential = Callable[..., Float[Array, ""]]


def sample_normal(key: PRNGKeyArray, num_nodes: int, dim: int) -> Body:
    """Standard normal position and velocity, charge +1 or -1, mass exp(normal)."""
    position, velocity, mass, charge = jax.random.split(key, 4)
    return Body(
        position=jax.random.normal(position, (num_nodes, dim)),
        velocity=jax.random.normal(velocity, (num_nodes, dim)),
        mass=jnp.exp(jax.random.normal(mass, (num_nodes,))),
        charge=jnp.sign(jax.random.normal(charge, (num_nodes,))),
    )


def sample_string(key: PRNGKeyArray, num_nodes: int, dim: int) -> Body:
    """A string along x: node k near x = k (deviation 0.5), unit masses."""
    body = sample_normal(key, num_nodes, dim)
    along = jnp.arange(num_nodes) + 0.5 * body.position[:, 0]
    return body._replace(
        position=jnp.asarray(body.position).at[:, 0].set(along), mass=jnp.ones_like(body.mass)
    )


@dataclass(frozen=True)
class System:
    """A law of motion, with what is needed to simulate it.

    The potential energy is the sum of `pair_potential` over joined pairs, each
    counted once, plus the sum of `one_body_potential` over nodes. The force on
    a node is minus its gradient, less `drag` times the velocity.

    Attributes:
        name: name used in reports.
        pair_potential: `fn(r, receiver, sender) -> energy`, a scalar, symmetric in
            its two bodies, where `r` is the distance plus `softening` (length)
            and each `Body` holds one body.
        one_body_potential: `fn(body) -> energy` of one body, or None.
        drag: coefficient of the linear drag on every body, mass / time.
        edges: `fn(num_nodes) -> (senders, receivers)`; every edge in both directions.
        sample: `fn(key, num_nodes, dim) -> Body`, the initial conditions.
        dt: time between two outputs of a simulation.
        softening: length added to every distance; 0.01 in the built-in systems, as in
            the paper.
        dims: the spatial dimensions the law is meant for.
        num_nodes: the usual number of bodies.
    """

    name: str
    pair_potential: PairPotential
    one_body_potential: OneBodyPotential | None = None
    drag: float = 0.0
    edges: Callable[[int], Edges] = complete_edges
    sample: Callable[[PRNGKeyArray, int, int], Body] = sample_normal
    dt: float = 1e-2
    softening: float = 0.0
    dims: tuple[int, ...] = (2, 3)
    num_nodes: int = 4

    def __post_init__(self):
        if not isinstance(self.dims, tuple):
            raise ValueError(
                f"System {self.name!r}: dims must be a tuple, e.g. (2, 3), got {self.dims!r}."
            )


def safe_norm(vector: Float[AnyArray, "*batch dim"]) -> Float[Array, "*batch"]:
    """Euclidean norm over the last axis; its gradient at zero is zero, not NaN."""
    square = jnp.sum(vector**2, axis=-1)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def pair_energy(
    system: System, receiver: Body, sender: Body, softening: float | None = None
) -> Float[Array, ""]:
    """Potential energy of one pair; `softening` replaces the system's own if given."""
    softening = system.softening if softening is None else softening
    r = safe_norm(sender.position - receiver.position) + softening
    return system.pair_potential(r, receiver, sender)


def pair_force(
    system: System, receiver: Body, sender: Body, softening: float | None = None
) -> Float[Array, " dim"]:
    """Force `[dim]` on one receiver from one sender, energy / length."""

    def energy(position):
        return pair_energy(system, receiver._replace(position=position), sender, softening)

    return -jax.grad(energy)(receiver.position)


def one_body_force(system: System, body: Body) -> Float[Array, " dim"]:
    """Force `[dim]` on one body that acts without any other: outer potential and drag."""
    force = -system.drag * jnp.asarray(body.velocity)
    if system.one_body_potential is not None:
        one_body: Any = system.one_body_potential
        force -= jax.grad(lambda x: one_body(body._replace(position=x)))(body.position)
    return force


def potential_energy(system: System, body: Body) -> Float[Array, ""]:
    """Total potential energy of one set of bodies (fields `[node, ...]`)."""
    senders, receivers = system.edges(body.mass.shape[0])
    # Constant one-hot products in place of gathers: their transposes in `grad` are
    # products too, and a scatter in a vmapped loop is what costs on CPU.
    once = senders < receivers
    identity = np.eye(body.mass.shape[0])
    choose = [jnp.asarray(identity[index[once]]) for index in (receivers, senders)]
    exact = jax.lax.Precision.HIGHEST  # accelerators round products of float32 by default
    pairs = [
        jax.tree.map(lambda x, c=c: jnp.matmul(c.astype(x.dtype), x, precision=exact), body)
        for c in choose
    ]
    energy = jnp.sum(jax.vmap(lambda i, j: pair_energy(system, i, j))(*pairs))
    if system.one_body_potential is not None:
        energy += jnp.sum(jax.vmap(system.one_body_potential)(body))
    return energy


def energy(system: System, body: Body) -> Float[Array, ""]:
    """Kinetic plus potential energy of one set of bodies (fields `[node, ...]`)."""
    kinetic = 0.5 * jnp.sum(body.mass * jnp.sum(body.velocity**2, axis=-1))
    return kinetic + potential_energy(system, body)


def acceleration(system: System, body: Body) -> Float[Array, "node dim"]:
    """Acceleration `[node, dim]` of one set of bodies, length / time^2."""

    def potential(position):
        return potential_energy(system, body._replace(position=position))

    force = -jax.grad(potential)(body.position) - system.drag * body.velocity
    return force / body.mass[:, None]


def _spring(r, receiver, sender):
    return (r - 1) ** 2


def _inverse_r(r, receiver, sender):
    return receiver.mass * sender.mass * jnp.log(r)


def _inverse_r2(r, receiver, sender):
    return -receiver.mass * sender.mass / r


def _charge(r, receiver, sender):
    return receiver.charge * sender.charge / r


def _superposition(r, receiver, sender):
    return _charge(r, receiver, sender) + _inverse_r2(r, receiver, sender)


def _discontinuous(r, receiver, sender):
    return jnp.where(r < 2, 0.0, (r - 1) ** 2)


def _gravity(body):
    return body.mass * body.position[1]


def _gravity_and_ball(body):
    centre = jnp.array([5.0, -15.0], body.position.dtype)
    depth = 4.0 - safe_norm(body.position - centre)
    return _gravity(body) + jnp.where(depth > 0, 100.0 * depth**2, 0.0)


_SOFT: dict[str, Any] = dict(softening=0.01)


_STRING: dict[str, Any] = _SOFT | dict(
    edges=chain_edges, sample=sample_string, dims=(2,), num_nodes=30
)


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System("r1", _inverse_r, dt=5e-3, **_SOFT),
        System("r2", _inverse_r2, dt=1e-3, **_SOFT),
        System("spring", _spring, dt=1e-2, **_SOFT),
        System("damped", _spring, dt=2e-2, drag=1.0, **_SOFT),
        System("charge", _charge, dt=1e-3, **_SOFT),
        System("superposition", _superposition, dt=1e-3, **_SOFT),
        System("discontinuous", _discontinuous, dt=1e-2, **_SOFT),
        System("string", _spring, one_body_potential=_gravity, **_STRING),
        System("string_ball", _spring, one_body_potential=_gravity_and_ball, **_STRING),
    )
}


def get_system(name: str) -> System:
    """The built-in system of that name; an unknown name is an error with the nearest ones."""
    check_choice("system", name, SYSTEMS)
    return SYSTEMS[name]


@functools.lru_cache
def check_system(system: System, num_nodes: int, dim: int) -> None:
    """Raise a clear error if `system` cannot be simulated with these sizes.

    Args:
        system: the law; its potentials and their gradients are tried on sampled bodies.
        num_nodes: number of bodies, at least 2.
        dim: spatial dimension, one of `system.dims`.

    Raises:
        ValueError: a wrong size; a potential that fails, is not a finite scalar with a
            finite gradient, or not symmetric in its two bodies; a sampler that gives
            wrong shapes or non-positive masses.
    """
    _check_num_nodes(num_nodes)
    if dim not in system.dims:
        raise ValueError(
            f"System {system.name!r} is defined in {' or '.join(map(str, system.dims))} "
            f"dimensions, got dim={dim}."
        )
    if not (np.isfinite(system.drag) and np.isfinite(system.softening) and system.softening >= 0):
        raise ValueError(f"System {system.name!r}: drag and softening must be finite numbers.")
    if not (np.isfinite(system.dt) and system.dt > 0):
        raise ValueError(f"System {system.name!r}: dt must be positive, got {system.dt}.")
    with _told(f"The sampler of system {system.name!r}"):
        body = system.sample(jax.random.key(0), num_nodes, dim)
    check_body(body, f"the sampler of system {system.name!r}")
    if body.position.shape != (num_nodes, dim):
        raise ValueError(
            f"The sampler of system {system.name!r} gave positions of shape "
            f"{body.position.shape}, expected {(num_nodes, dim)}."
        )
    with _told(f"The edges of system {system.name!r}", "They are a function of a number."):
        senders, receivers = system.edges(num_nodes)
    check_edges(senders, receivers, num_nodes)
    _check_potentials(system, body, senders, receivers)


@contextlib.contextmanager
def _told(what, advice="It must be a function of JAX arrays; choose branches with jnp.where."):
    """Whatever a user's function raises, as one line that says which it was."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{what} failed with {type(error).__name__}: {reason} {advice}") from error


def _check_potentials(system, body, senders, receivers):
    """Call the potentials and their gradients on every joined pair of sampled bodies."""
    receiver, sender = (
        jax.tree.map(lambda x, k=k: jnp.asarray(x)[k], body) for k in (receivers, senders)
    )
    potentials = [lambda i, j: pair_energy(system, i, j)]
    if system.one_body_potential is not None:
        one_body: Any = system.one_body_potential
        potentials.append(lambda i, j: one_body(i))

    def evaluate(receiver, sender):
        found = [jax.value_and_grad(fn)(receiver, sender) for fn in potentials]
        exchanged = potentials[0](sender, receiver)
        return [(value, slope.position) for value, slope in found], exchanged

    with _told(f"A potential of system {system.name!r}"):
        one = [jax.tree.map(lambda x: x[0], end) for end in (receiver, sender)]
        shapes = [jnp.shape(jax.eval_shape(fn, *one)) for fn in potentials]
        scalar = all(shape == () for shape in shapes)
        found, exchanged = jax.jit(jax.vmap(evaluate))(receiver, sender) if scalar else ([], np.nan)
    for shape in shapes:
        if shape != ():
            raise ValueError(
                f"A potential of system {system.name!r} must return one number per call, "
                f"got an array of shape {shape}; write it for one pair or one body."
            )
    for energy, slope in found:
        for what, value in (("energy", energy[:, None]), ("gradient", slope)):
            bad = int(np.sum(~np.all(np.isfinite(value), axis=1)))
            if bad:
                raise ValueError(
                    f"The {what} of a potential of system {system.name!r} is NaN or infinite for "
                    f"{bad} of {len(senders)} sampled pairs; it must be finite at ordinary "
                    "distances, and so must both branches of a jnp.where."
                )
    energy, exchanged = np.asarray(found[0][0]), np.asarray(exchanged)
    difference = np.abs(energy - exchanged)
    worst = np.argmax(difference)
    if difference[worst] > 1e-4 * np.max(np.abs(energy)):
        raise ValueError(
            f"The pair potential of system {system.name!r} changes when its two bodies are "
            f"exchanged ({energy[worst]} and {exchanged[worst]}); a pair energy must be symmetric."
        )


def load_system(path: str) -> System:
    """A `System` from a Python file, given as `FILE.py` or `FILE.py:NAME`.

    NAME (default "system") is a `System`, or a pair potential to make one of.

    Raises:
        ValueError: there is no such file, or no such thing in it.
    """
    file, _, name = path.rpartition(".py")
    file, name = file + ".py", name.lstrip(":") or "system"
    try:
        contents = runpy.run_path(file)
    except OSError as error:
        raise ValueError(f"Cannot read a system from {file}: {error.strerror or error}.") from error
    except Exception as error:  # it is the user's file: whatever it raises
        raise ValueError(f"{file} failed with {type(error).__name__}: {error}.") from error
    found = contents.get(name)
    if isinstance(found, System):
        return found
    if callable(found):
        potential: Any = found
        return System(name=name, pair_potential=potential)
    raise ValueError(f"{file} defines no System and no pair potential of the name {name!r}.")


def true_forces(
    system: System, receiver: Body, sender: Body, softening: float | None = None
) -> Float[np.ndarray, "edge dim"]:
    """Forces `[edge, dim]` of senders on receivers; `softening` as in `pair_force`."""
    force = jax.vmap(lambda i, j: pair_force(system, i, j, softening))(
        *jax.tree.map(jnp.asarray, (receiver, sender))
    )
    return np.asarray(force, np.float64)
