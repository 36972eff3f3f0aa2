"""What many bodies do to each other: forces, rates and energies of one set of bodies.

Few pairs, or those of few edges, are visited one by one. All pairs of many bodies are
visited densely, in blocks of receivers, so that memory stays bounded for any number.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from symjax_gn.data.checks import check_type
from symjax_gn.data.datasets import inertia
from symjax_gn.data.graphs import Edges, complete_edges
from symjax_gn.data.nodes import AnyArray, Nodes, take_nodes
from symjax_gn.physics.systems import System, one_body_force, pair_energy, pair_force

# Pairs whose forces are in memory at once, some 20 numbers for each: about 20 MB.
PAIRS_AT_ONCE = 2**18

# Up to this size of [edge, node], products with constant matrices replace gathers and
# scatters, which cost more in a vmapped loop on CPU. All pairs of 16 bodies are about as fast
# by products as densely.
_LARGEST_PRODUCT = 2**11


def all_pairs(system: System, num_nodes: int) -> bool:
    """Whether every body is joined with every other one.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> all_pairs(SYSTEMS["spring"], 4), all_pairs(SYSTEMS["string"], 30)
    (True, False)
    """
    if system.edges is complete_edges:
        return True
    return len(np.asarray(system.edges(num_nodes)[0])) == num_nodes * (num_nodes - 1)


def joined_edges(system: System, num_nodes: int) -> Edges:
    """Senders and receivers `[edge]` of a system as arrays of whole numbers."""
    senders, receivers = (np.asarray(end) for end in system.edges(num_nodes))
    return senders, receivers


def rate(system: System, nodes: Nodes) -> Float[Array, "node dim"]:
    """Accelerations, or in first-order motion velocities, of one set of bodies.

    Args:
        system: the law.
        nodes: fields `[node, ...]`.

    Returns:
        `[node, dim]`, length / time^2 or length / time.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> rest = Nodes(jnp.array([[0.0], [2.99]]), jnp.zeros((2, 1)), {})
    >>> rate(SYSTEMS["spring"], rest).round(2).tolist()
    [[4.0], [-4.0]]
    """
    force = _pair_forces(system, nodes)
    if system.drag or system.one_body_potential is not None:
        force += jax.vmap(lambda one: one_body_force(system, one))(nodes)
    weight: Any = inertia(nodes, system.quantity)
    return force / jnp.asarray(weight)[..., None]


def potential_energy(system: System, nodes: Nodes) -> Float[Array, ""]:
    """Total potential energy of one set of bodies (fields `[node, ...]`).

    Raises:
        ValueError: the system is given by a pair force.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> potential_energy(SYSTEMS["spring"], Nodes(jnp.array([[0.0], [2.99]]), None, {})).item()
    4.0
    """
    count = _count(nodes)

    def pair(receiver, sender):
        return pair_energy(system, receiver, sender)

    if _densely(system, count):
        energy = 0.5 * jnp.sum(_sum_over_senders(pair, nodes))
    else:
        energy = jnp.sum(jax.vmap(pair)(*edge_ends(nodes, _once(joined_edges(system, count)))))
    if system.one_body_potential is not None:
        energy += jnp.sum(jax.vmap(system.one_body_potential)(nodes))
    return energy


def energy(system: System, nodes: Nodes) -> Float[Array, ""]:
    """Kinetic plus potential energy of one set of bodies (fields `[node, ...]`).

    In first-order motion bodies have no kinetic energy.

    Raises:
        ValueError: the system is given by a pair force.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> bodies = Nodes(jnp.array([[0.0], [2.99]]), jnp.ones((2, 1)), {"mass": jnp.ones(2)})
    >>> energy(SYSTEMS["spring"], bodies).item()
    5.0
    """
    total = potential_energy(system, nodes)
    if system.order == 1:
        return total
    weight: Any = inertia(nodes, system.quantity)
    return total + 0.5 * jnp.sum(weight * jnp.sum(jnp.asarray(nodes.velocity) ** 2, axis=-1))


def _count(nodes):
    check_type("The bodies that a law acts on", nodes, Nodes)
    return np.shape(nodes.position)[0]


def _densely(system, count):
    """Whether to visit a table of all pairs, both ways, rather than a list of edges."""
    once = count * (count - 1) // 2
    listed = system.pair_force is None and once * count <= _LARGEST_PRODUCT
    return all_pairs(system, count) and not listed


def _pair_forces(system, nodes):
    """Sum of the forces on each body `[node, dim]` of all it is joined with."""
    count = _count(nodes)
    if _densely(system, count):
        return _sum_over_senders(lambda i, j: pair_force(system, i, j), nodes)
    edges = joined_edges(system, count)
    if system.pair_force is not None:
        # It need not be reciprocal, so every edge counts for its receiver only.
        ends = edge_ends(nodes, edges)
        force = jax.vmap(lambda i, j: pair_force(system, i, j))(*ends)
        return sum_at(edges[1], force, count)

    def both(receiver, sender):
        def of_places(here, there):
            ends = (one._replace(position=x) for one, x in ((receiver, here), (sender, there)))
            return -pair_energy(system, *ends)

        return jax.grad(of_places, (0, 1))(receiver.position, sender.position)

    senders, receivers = _once(edges)
    on_receiver, on_sender = jax.vmap(both)(*edge_ends(nodes, (senders, receivers)))
    return sum_at(receivers, on_receiver, count) + sum_at(senders, on_sender, count)


def _sum_over_senders(
    pair: Callable[[Nodes, Nodes], Array], nodes: Nodes
) -> Float[Array, "node ..."]:
    """Sum of `pair(receiver, sender)` over all other bodies, for each receiver."""
    nodes = jax.tree.map(jnp.asarray, nodes)
    position: Any = nodes.position
    count = _count(nodes)
    numbers = jnp.arange(count)
    # A body is no sender to itself. Its place is taken by that of another one before the law
    # sees it: a distance of zero may be NaN, and would stay so in the gradient of a `where`.
    elsewhere = jnp.roll(position, -1, axis=0)

    def of_receiver(row):
        index, receiver, place = row

        def term(number, sender):
            itself = number == index
            sender = sender._replace(position=jnp.where(itself, place, sender.position))
            return jnp.where(itself, 0.0, pair(receiver, sender))

        return jnp.sum(jax.vmap(term)(numbers, nodes), axis=0)

    rows = (numbers, nodes, elsewhere)
    block = max(1, PAIRS_AT_ONCE // count)
    if block >= count:
        return jax.vmap(of_receiver)(rows)
    # Without checkpoints, gradients would keep what was computed for every pair.
    return jax.lax.map(jax.checkpoint(of_receiver), rows, batch_size=block)


def _once(edges: Edges) -> Edges:
    """Each pair of the edges once."""
    senders, receivers = edges
    once = senders < receivers
    return senders[once], receivers[once]


def edge_ends(nodes: Nodes, edges: Edges) -> tuple[Nodes, Nodes]:
    """Receivers and senders of edges, fields `[edge, ...]`.

    >>> receiver, sender = edge_ends(Nodes(jnp.arange(3.0)[:, None], None, {}), ([2], [0]))
    >>> receiver.position.item(), sender.position.item()
    (0.0, 2.0)
    """
    senders, receivers = edges
    nodes = jax.tree.map(jnp.asarray, nodes)
    count = _count(nodes)
    if len(senders) * count > _LARGEST_PRODUCT:
        return take_nodes(nodes, receivers), take_nodes(nodes, senders)
    choose = [np.eye(count)[end] for end in (receivers, senders)]
    chosen = (jax.tree.map(lambda x, c=c: _product(c, x), nodes) for c in choose)
    receiver, sender = chosen
    return receiver, sender


def sum_at(index, values: Float[Array, "edge dim"], count: int) -> Float[Array, "node dim"]:
    """Sum of the values of each node's edges.

    >>> sum_at(np.array([1, 1]), jnp.ones((2, 1)), 2).tolist()
    [[0.0], [2.0]]
    """
    if len(index) * count > _LARGEST_PRODUCT:
        return jax.ops.segment_sum(values, jnp.asarray(index), count)
    return _product(np.eye(count)[index].T, values)


def _product(matrix: np.ndarray, values: AnyArray) -> Array:
    # Accelerators round products of float32 by default.
    return jnp.matmul(
        jnp.asarray(matrix, values.dtype), values, precision=jax.lax.Precision.HIGHEST
    )
