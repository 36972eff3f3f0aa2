"""Whether a law that a user wrote can be simulated, found out before anything long runs."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax_gn.data.checks import check_count, check_type, shown
from symjax_gn.data.graphs import check_edges, complete_edges
from symjax_gn.data.names import check_property_names
from symjax_gn.data.nodes import Nodes, check_nodes, take_nodes
from symjax_gn.physics.dynamics import check_separable
from symjax_gn.physics.systems import (
    QUICK_COMPILATION,
    System,
    one_body_force,
    pair_energy,
    pair_force,
    sample_starts,
    sampled_together,
)

# Pairs on which a law is tried: enough to meet a branch of it that is not rare.
_TRIED_PAIRS = 1024

# Share of the largest energy by which exchanging two bodies may change it: float32 rounding.
_ASYMMETRY = 1e-4


def check_system(system: System, num_nodes: int, dim: int, solver: str = "adaptive") -> None:
    """Raise a clear error if a system cannot be simulated with these sizes.

    Args:
        system: the law; it and its gradients are tried on sampled bodies.
        num_nodes: number of bodies, at least 2.
        dim: spatial dimension, one of `system.dims`.
        solver: "symplectic" needs a system whose forces do not depend on velocities.

    Raises:
        ValueError: a wrong size; a law that fails, is not of the right shape, is not finite
            with a finite gradient, or is a potential that is not symmetric in its two
            bodies; a sampler that fails, gives wrong shapes or non-positive masses, or the
            same bodies for every key; edges that are none; a solver that does not fit.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> check_system(SYSTEMS["spring"], num_nodes=4, dim=2)
    """
    check_type("system", system, System, "See get_system for the built-in ones.")
    check_count("The number of bodies", num_nodes, 2)
    check_count("dim", dim)
    if dim not in system.dims:
        raise ValueError(
            f"System {system.name!r} is defined in {' or '.join(map(str, system.dims))} "
            f"dimensions, got dim={dim}."
        )
    box = system.space.box
    if box is not None and len(box) != dim:
        raise ValueError(
            f"The box {box} of system {system.name!r} has {len(box)} sides, got dim={dim}."
        )
    check_separable(system, solver)
    _try(system, int(num_nodes), int(dim))
    if solver == "symplectic" and _depends_on_velocities(system, int(num_nodes), int(dim)):
        raise ValueError(
            f"The forces of system {system.name!r} depend on velocities, so its motion is not "
            'symplectic; use solver="adaptive".'
        )


@functools.lru_cache
def _try(system: System, num_nodes: int, dim: int) -> None:
    """Call the sampler and the law, on shapes and then on sampled bodies."""
    _check_sampler(system, num_nodes, dim)
    senders, receivers = _some_edges(system, num_nodes)
    _check_shapes(system, num_nodes, dim)
    starts = _two_starts(system, num_nodes, dim)
    first = take_nodes(starts, 0)
    check_nodes(first, f"the sampler of system {system.name!r}")
    if all(np.array_equal(x[0], x[1]) for x in jax.tree.leaves(starts)):
        raise ValueError(
            f"The sampler of system {system.name!r} gives the same bodies for every key, so "
            "that all simulations would be one; use its key, or follow_system for one start."
        )
    ends = (take_nodes(first, index) for index in (receivers, senders))
    with _told(f"The law of system {system.name!r}"):
        found = _evaluate(*ends, system=system)
    _check_values(system, jax.tree.map(np.asarray, found))


@functools.lru_cache
def _depends_on_velocities(system: System, num_nodes: int, dim: int) -> bool:
    """Whether other velocities change the forces, drag apart."""
    senders, receivers = _some_edges(system, num_nodes)
    starts = _two_starts(system, num_nodes, dim)
    first = take_nodes(starts, 0)
    faster = first._replace(velocity=first.velocity + starts.velocity[1])
    forces = [
        _evaluate(take_nodes(nodes, receivers), take_nodes(nodes, senders), system=system)["force"]
        for nodes in (first, faster)
    ]
    return not np.array_equal(*forces)


def _two_starts(system, num_nodes, dim) -> Any:
    """Sampled bodies of two keys, fields `[2, node, ...]`, by the call that `simulate` uses."""
    numbers = np.arange(sampled_together(num_nodes))
    options = dict(system=system, num_nodes=num_nodes, dim=dim)
    starts = sample_starts(jax.random.key(0), numbers, **options)
    return jax.tree.map(lambda x: np.asarray(x[:2]), starts)


def _check_sampler(system, num_nodes, dim):
    """Call the sampler as `jit` does, which computes nothing."""
    source = f"the sampler of system {system.name!r}"
    with _told(f"The{source[3:]}", "fn(key, num_nodes, dim)"):
        nodes = jax.eval_shape(lambda key: system.sample(key, num_nodes, dim), jax.random.key(0))
    advice = "Return Nodes(position, velocity, {name: scalars})."
    check_type(f"What {source} gives", nodes, Nodes, advice)
    if not isinstance(nodes.properties, dict):
        raise ValueError(f"Properties from {source} must be a dict, got {shown(nodes.properties)}.")
    check_property_names(nodes.properties)
    if nodes.position is None or nodes.position.shape != (num_nodes, dim):
        raise ValueError(
            f"The{source[3:]} gave positions of shape {getattr(nodes.position, 'shape', None)}, "
            f"expected {(num_nodes, dim)}."
        )
    if nodes.velocity is None and system.order == 2:
        raise ValueError(f"The{source[3:]} gave no velocities, which second-order motion needs.")
    if any(np.dtype(x.dtype).kind not in "buif" for x in jax.tree.leaves(nodes)):
        raise ValueError(f"The{source[3:]} must give real numbers.")
    check_nodes(jax.tree.map(lambda x: np.ones(x.shape), nodes), source)


def _some_edges(system, num_nodes):
    """Senders and receivers `[edge]` of joined pairs, all or some."""
    rng = np.random.default_rng(0)
    if system.edges is complete_edges and num_nodes**2 > _TRIED_PAIRS:
        receivers = rng.integers(num_nodes, size=_TRIED_PAIRS)
        return (receivers + rng.integers(1, num_nodes, size=_TRIED_PAIRS)) % num_nodes, receivers
    with _told(f"The edges of system {system.name!r}", "fn(num_nodes)"):
        senders, receivers = (np.asarray(end) for end in system.edges(num_nodes))
    one_way = system.order == 1 and system.pair_force is not None
    try:
        check_edges(senders, receivers, num_nodes, both_ways=not one_way)
    except ValueError as error:
        raise ValueError(f"The edges of system {system.name!r} are wrong. {error}") from None
    if len(senders) > _TRIED_PAIRS:
        some = rng.choice(len(senders), _TRIED_PAIRS, replace=False)
        senders, receivers = senders[some], receivers[some]
    return senders, receivers


def _check_shapes(system, num_nodes, dim):
    """Call the law on one pair and one body as `jit` does."""
    name = f"of system {system.name!r}"

    def shape(function, count):
        def call(key):
            nodes = system.sample(key, num_nodes, dim)
            nodes = nodes._replace(velocity=None) if system.order == 1 else nodes
            return jnp.asarray(function(*(take_nodes(nodes, k) for k in range(count))))

        return jax.eval_shape(call, jax.random.key(0)).shape

    laws: list[Any] = []
    if system.pair_force is None:
        laws.append(("pair potential", "fn(r, receiver, sender)", (), 2))
    else:
        laws.append(("pair force", "fn(displacement, receiver, sender)", (dim,), 2))
    if system.one_body_potential is not None:
        laws.append(("one-body potential", "fn(nodes)", (), 1))
    for what, signature, needed, count in laws:
        function = system.one_body_potential
        if count == 2:
            law = pair_energy if system.pair_force is None else pair_force
            function = functools.partial(law, system)
        with _told(f"The {what} {name}", signature):
            found = shape(function, count)
        if found != needed:
            kind = f"a vector of shape {needed}" if needed else "one number"
            raise ValueError(
                f"The {what} {name} must return {kind} per call, got an array of shape {found}; "
                f"write it for one {'pair' if count == 2 else 'body'}."
            )


@functools.partial(jax.jit, static_argnames="system", compiler_options=QUICK_COMPILATION)
def _evaluate(receiver, sender, *, system):
    """All that is looked at of pairs, arrays `[pair, ...]`."""
    return jax.vmap(functools.partial(_evaluate_pair, system))(receiver, sender)


def _evaluate_pair(system, receiver, sender):
    found = {"force": pair_force(system, receiver, sender) + one_body_force(system, receiver)}
    if system.pair_force is None:
        found["energy"] = pair_energy(system, receiver, sender)
        found["exchanged"] = pair_energy(system, sender, receiver)
    if system.one_body_potential is not None:
        found["one_body_energy"] = system.one_body_potential(receiver)
    return found


def _check_values(system, found):
    """Finite values and gradients, and energies that do not mind an exchange."""
    names = dict(
        energy="The pair potential",
        one_body_energy="The one-body potential",
        force="The gradient of a potential" if system.pair_force is None else "The force",
    )
    for key, what in names.items():
        if key not in found:
            continue
        count = len(found[key])
        bad = int(np.sum(~np.all(np.isfinite(found[key].reshape(count, -1)), axis=1)))
        if bad:
            raise ValueError(
                f"{what} of system {system.name!r} is NaN or infinite for {bad} of {count} "
                "sampled pairs; it must be finite at ordinary distances, and so must both "
                "branches of a jnp.where."
            )
    if "energy" not in found:
        return
    energy, exchanged = found["energy"], found["exchanged"]
    difference = np.abs(energy - exchanged)
    worst = np.argmax(difference)
    if difference[worst] > _ASYMMETRY * np.max(np.abs(energy)):
        raise ValueError(
            f"The pair potential of system {system.name!r} changes when its two bodies are "
            f"exchanged ({energy[worst]} and {exchanged[worst]}); a pair energy must be "
            "symmetric. Give a force that is not reciprocal as pair_force."
        )


@contextlib.contextmanager
def _told(what: str, signature: str = ""):
    """Whatever a user's function raises, as one line that says which it was."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        advice = f" It is called as {signature}." if signature else ""
        if isinstance(error, jax.errors.JAXTypeError):
            advice += " It runs under jax.jit: use jax.numpy, and jnp.where to choose branches."
        raise ValueError(f"{what} failed with {type(error).__name__}: {reason}.{advice}") from error
