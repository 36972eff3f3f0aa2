"""Laws of motion as pure functions of the bodies they act on.

A `System` holds the law of one pair and, optionally, a potential of each body alone and a
linear drag. Forces follow from potentials by `jax.grad`, so a law is one function:

    def yukawa(r, receiver, sender):
        return receiver.charge * sender.charge * jnp.exp(-r) / r

    system = System(name="yukawa", pair_potential=yukawa)

The built-in systems are those of arXiv:2006.11287, section 4.1, in `SYSTEMS`. Quantities
carry the user's units; the built-in systems are dimensionless.
"""

import functools
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symjax_gn.data.border import checked
from symjax_gn.data.checks import check_choice, check_count, check_number, check_type, shown
from symjax_gn.data.graphs import Edges, chain_edges, complete_edges
from symjax_gn.data.nodes import AXES, AnyArray, Nodes
from symjax_gn.data.quantities import ACCELERATION, VELOCITY, Quantity
from symjax_gn.data.space import FREE, Space, safe_norm

PairPotential = Callable[[Float[Array, ""], Nodes, Nodes], Float[AnyArray, ""]]
PairForce = Callable[[Float[Array, " dim"], Nodes, Nodes], Float[AnyArray, " dim"]]
OneBodyPotential = Callable[[Nodes], Float[AnyArray, ""]]

QUANTITY_OF_ORDER = {1: VELOCITY, 2: ACCELERATION}

# What runs once on little data is not worth the compiler's time.
QUICK_COMPILATION: Any = {"xla_backend_optimization_level": 0}

# Bodies sampled at once, over all simulations: some 10 MB.
_SAMPLED_AT_ONCE = 2**18
_SIMULATIONS_SAMPLED_AT_ONCE = 256


def sample_normal(key: PRNGKeyArray, num_nodes: int, dim: int) -> Nodes:
    """Standard normal position and velocity, charge +1 or -1, mass exp(normal).

    >>> sample_normal(jax.random.key(0), 4, 2).charge.shape
    (4,)
    """
    position, velocity, mass, charge = jax.random.split(key, 4)
    return Nodes(
        position=jax.random.normal(position, (num_nodes, dim)),
        velocity=jax.random.normal(velocity, (num_nodes, dim)),
        properties={
            "mass": jnp.exp(jax.random.normal(mass, (num_nodes,))),
            "charge": jnp.sign(jax.random.normal(charge, (num_nodes,))),
        },
    )


def sample_string(key: PRNGKeyArray, num_nodes: int, dim: int) -> Nodes:
    """A string along x: node k near x = k (deviation 0.5), unit masses.

    >>> sample_string(jax.random.key(0), 3, 2).mass.tolist()
    [1.0, 1.0, 1.0]
    """
    nodes = sample_normal(key, num_nodes, dim)
    position = jnp.asarray(nodes.position)
    along = jnp.arange(num_nodes) + 0.5 * position[:, 0]
    properties = nodes.properties | {"mass": jnp.ones(num_nodes)}
    return Nodes(position.at[:, 0].set(along), nodes.velocity, properties)


def sample_starts(
    key: PRNGKeyArray,
    numbers: Int[AnyArray, " sim"],
    *,
    system: "System",
    num_nodes: int,
    dim: int,
) -> Nodes:
    """Initial conditions of the simulations of the given numbers, fields `[sim, node, ...]`.

    Number k is sampled with the key `fold_in(key, k)`, whatever the others. Compiling a
    sampler takes as long as compiling a law, so `sampled_together` of them are best sampled
    in each call: all calls share one compilation.

    >>> options = dict(system=SYSTEMS["spring"], num_nodes=4, dim=2)
    >>> sample_starts(jax.random.key(0), np.arange(3), **options).position.shape
    (3, 4, 2)
    """
    nodes = _sample_each(key, numbers, sample=system.sample, num_nodes=num_nodes, dim=dim)
    return nodes._replace(velocity=None) if system.order == 1 else nodes


@functools.partial(
    jax.jit, static_argnames=("sample", "num_nodes", "dim"), compiler_options=QUICK_COMPILATION
)
def _sample_each(key, numbers, *, sample, num_nodes, dim) -> Nodes:
    def one(number):
        nodes = sample(jax.random.fold_in(key, number), num_nodes, dim)
        return jax.tree.map(jnp.asarray, nodes)

    return jax.vmap(one)(numbers)


def sampled_together(num_nodes: int) -> int:
    """How many initial conditions of that many bodies are sampled in one call.

    >>> sampled_together(4)
    256
    """
    return max(2, min(_SIMULATIONS_SAMPLED_AT_ONCE, _SAMPLED_AT_ONCE // num_nodes))


@dataclass(frozen=True)
class System:
    """A law of motion, with what is needed to simulate it.

    Each body feels the sum of the forces of those it is joined with, minus the gradient of
    its `one_body_potential`, minus `drag` times its velocity. In second-order motion this is
    mass times acceleration (the mass is 1 where bodies have no property "mass"); in
    first-order motion it is the velocity.

    Main attributes:
        name: name used in reports.
        pair_potential: `fn(r, receiver, sender) -> energy`, a scalar, symmetric in its two
            bodies, where `r` is the distance plus `softening` (length) and each `Nodes`
            holds one body. The potential energy counts each joined pair once.
        sample: `fn(key, num_nodes, dim) -> Nodes`, the initial conditions.

    Other attributes:
        one_body_potential: `fn(nodes) -> energy` of one body, or None.
        drag: coefficient of the linear drag on every body, mass / time.
        edges: `fn(num_nodes) -> (senders, receivers)`, arrays `[edge]`; by default all pairs.
        dt: time between two outputs of a simulation.
        softening: length added to every distance; 0.01 in the built-in systems, as in the
            paper.
        dims: the spatial dimensions the law is meant for.
        num_nodes: the usual number of bodies.
        pair_force: in place of a pair potential, `fn(displacement, receiver, sender) ->
            force [dim]` on the receiver, where `displacement` leads from receiver to sender.
            It may depend on velocities and directions and need not be reciprocal.
        order: 2, or 1 for motion in which forces set velocities.
        space: free or periodic.
        cutoff: distance beyond which pairs feel nothing, or None. Potentials count from
            their value there, so that energy is conserved.

    Raises:
        ValueError: an attribute is of a wrong type or out of range; the message says which.

    >>> System("spring", lambda r, receiver, sender: (r - 1) ** 2).quantity.name
    'acceleration'
    """

    name: str
    pair_potential: PairPotential | None = None
    one_body_potential: OneBodyPotential | None = None
    drag: float = 0.0
    edges: Callable[[int], Edges] = complete_edges
    sample: Callable[[PRNGKeyArray, int, int], Nodes] = sample_normal
    dt: float = 1e-2
    softening: float = 0.0
    dims: tuple[int, ...] = (2, 3)
    num_nodes: int = 4
    pair_force: PairForce | None = None
    order: int = 2
    space: Space = FREE
    cutoff: float | None = None

    def __post_init__(self):
        check_type("The name of a system", self.name, str)
        mine = f"System {self.name!r}:"
        if (self.pair_potential is None) == (self.pair_force is None):
            raise ValueError(f"{mine} give either pair_potential or pair_force.")
        for name in ("pair_potential", "pair_force", "one_body_potential", "edges", "sample"):
            function = getattr(self, name)
            if function is None and name not in ("edges", "sample"):
                continue
            if not callable(function):
                raise ValueError(f"{mine} {name} must be a function, got {shown(function)}.")
            try:
                hash(function)
            except TypeError:
                raise ValueError(f"{mine} {name} must be hashable, as functions are.") from None
        for name, bounds in dict(
            drag=dict(least=0), dt=dict(above=0), softening=dict(least=0)
        ).items():
            check_number(f"{mine} {name}", getattr(self, name), **bounds)
            object.__setattr__(self, name, float(getattr(self, name)))
        if not isinstance(self.dims, tuple) or not self.dims:
            raise ValueError(f"{mine} dims must be a tuple, e.g. (2, 3), got {shown(self.dims)}.")
        for dim in self.dims:
            check_count(f"{mine} each of dims", dim)
            if dim > len(AXES):
                raise ValueError(f"{mine} each of dims must be at most {len(AXES)}, got {dim}.")
        check_count(f"{mine} num_nodes", self.num_nodes, 2)
        if isinstance(self.order, bool) or self.order not in QUANTITY_OF_ORDER:
            raise ValueError(f"{mine} order must be 1 or 2, got {shown(self.order)}.")
        if self.order == 1 and self.drag:
            raise ValueError(f"{mine} in first-order motion there is no drag, got {self.drag}.")
        check_type(f"{mine} space", self.space, Space, "E.g. Space(box=(10.0, 10.0)).")
        if self.cutoff is not None:
            check_number(f"{mine} cutoff", self.cutoff, above=0)
            object.__setattr__(self, "cutoff", float(self.cutoff))
            if self.space.box is not None and self.cutoff > 0.5 * min(self.space.box):
                raise ValueError(
                    f"{mine} the cutoff {self.cutoff} exceeds half of the smallest side of the "
                    f"box {self.space.box}, beyond which a body is met twice."
                )

    @property
    def quantity(self) -> Quantity:
        """What the law gives: accelerations, or velocities in first-order motion."""
        return QUANTITY_OF_ORDER[self.order]


def _displacement(system: System, receiver: Any, sender: Any) -> Float[Array, " dim"]:
    return jnp.asarray(system.space.displacement(receiver.position, sender.position))


def pair_energy(
    system: System, receiver: Nodes, sender: Nodes, softening: float | None = None
) -> Float[Array, ""]:
    """Potential energy of one pair; `softening` replaces the system's own if given.

    Raises:
        ValueError: the system is given by a pair force.

    >>> near, far = (Nodes(jnp.array([x, 0.0]), None, {}) for x in (0.0, 3.0))
    >>> pair_energy(SYSTEMS["spring"], near, far, softening=0.0).item()
    4.0
    """
    if system.pair_potential is None:
        raise ValueError(
            f"System {system.name!r} has no potential energy: it is given by a pair force."
        )
    softening = system.softening if softening is None else softening
    distance = safe_norm(_displacement(system, receiver, sender))
    energy = jnp.asarray(system.pair_potential(distance + softening, receiver, sender))
    if system.cutoff is None:
        return energy
    edge = jnp.asarray(system.cutoff + softening, distance.dtype)
    lowest = system.pair_potential(edge, receiver, sender)
    return jnp.where(distance <= system.cutoff, energy - lowest, 0.0)


def pair_force(
    system: System, receiver: Nodes, sender: Nodes, softening: float | None = None
) -> Float[Array, " dim"]:
    """Force `[dim]` on one receiver from one sender, in first-order motion a velocity.

    Args:
        system: the law.
        receiver: one body, position `[dim]`.
        sender: another one.
        softening: length added to the distance in place of the system's own; the
            displacement that a law given by its force sees is lengthened by it.

    >>> near, far = (Nodes(jnp.array([x, 0.0]), None, {}) for x in (0.0, 3.0))
    >>> pair_force(SYSTEMS["spring"], near, far, softening=0.0).tolist()
    [4.0, 0.0]
    """
    if system.pair_force is None:

        def energy(position):
            return pair_energy(system, receiver._replace(position=position), sender, softening)

        return -jax.grad(energy)(receiver.position)
    softening = system.softening if softening is None else softening
    way = _displacement(system, receiver, sender)
    distance = safe_norm(way)
    if softening:
        way *= 1 + softening / jnp.where(distance > 0, distance, 1.0)
    force = jnp.asarray(system.pair_force(way, receiver, sender))
    return force if system.cutoff is None else jnp.where(distance <= system.cutoff, force, 0.0)


def one_body_force(system: System, nodes: Nodes) -> Float[Array, " dim"]:
    """Force `[dim]` on one body that acts without any other: outer potential and drag.

    >>> one_body_force(SYSTEMS["string"], Nodes(jnp.zeros(2), jnp.ones(2), {"mass": 2.0})).tolist()
    [0.0, -2.0]
    """
    force = jnp.zeros_like(jnp.asarray(nodes.position))
    if system.drag:
        force -= system.drag * jnp.asarray(nodes.velocity)
    if system.one_body_potential is not None:
        one_body: Any = system.one_body_potential
        force -= jax.grad(lambda x: one_body(nodes._replace(position=x)))(nodes.position)
    return force


def true_forces(
    system: System, receiver: Nodes, sender: Nodes, softening: float | None = None
) -> Float[np.ndarray, "pair dim"]:
    """Forces `[pair, dim]` of senders on receivers, float64 NumPy; see `pair_force`.

    >>> pairs = Nodes(np.zeros((5, 2)), None, {}), Nodes(np.ones((5, 2)), None, {})
    >>> true_forces(SYSTEMS["spring"], *pairs).shape
    (5, 2)
    """
    return np.asarray(pair_forces(receiver, sender, system, softening), np.float64)


@functools.partial(jax.jit, static_argnames=("system", "softening"))
def pair_forces(
    receiver: Nodes, sender: Nodes, system: System, softening: float | None = None
) -> Float[Array, "pair dim"]:
    """The same in the precision of the nodes."""
    return jax.vmap(lambda i, j: pair_force(system, i, j, softening))(receiver, sender)


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


def _gravity(nodes):
    return nodes.mass * nodes.position[1]


def _gravity_and_ball(nodes):
    centre = jnp.array([5.0, -15.0], nodes.position.dtype)
    depth = 4.0 - safe_norm(nodes.position - centre)
    return _gravity(nodes) + jnp.where(depth > 0, 100.0 * depth**2, 0.0)


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


@checked
def get_system(name: str) -> System:
    """The built-in system of that name; an unknown name is an error with the nearest ones.

    >>> get_system("spring").dt
    0.01
    """
    check_choice("system", name, SYSTEMS)
    return SYSTEMS[name]


def load_system(path: str) -> System:
    """A `System` from a Python file, given as `FILE.py` or `FILE.py:NAME`.

    NAME (default "system") is a `System`, or a pair potential to make one of. The file is
    run: read it first if it is not yours.

    Raises:
        ValueError: there is no such file, or no such thing in it.

    >>> load_system("none.py")
    Traceback (most recent call last):
    ValueError: Cannot read a system from none.py: No such file or directory.
    """
    file, suffix, name = str(path).rpartition(".py")
    if not suffix or not (name == "" or name.startswith(":")):
        raise ValueError(f"A file with a system is given as FILE.py or FILE.py:NAME, got {path!r}.")
    file, name = file + suffix, name.lstrip(":") or "system"
    try:
        contents = runpy.run_path(file)
    except OSError as error:
        raise ValueError(f"Cannot read a system from {file}: {error.strerror or error}.") from error
    except (Exception, SystemExit) as error:  # it is the user's file: whatever it raises
        raise ValueError(f"{file} failed with {type(error).__name__}: {error}.") from error
    found = contents.get(name)
    if isinstance(found, System):
        return found
    if callable(found):
        potential: Any = found
        return System(name=name, pair_potential=potential)
    raise ValueError(f"{file} defines no System and no pair potential of the name {name!r}.")
