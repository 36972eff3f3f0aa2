"""What a step of a Hamiltonian network costs, and the ways to take its two gradients.

    python benchmarks/gradients.py --out benchmarks/results/gradients.json

The loss of a `FlatHGN` has the gradient of an energy by positions and momenta in it, and
training takes the gradient of that by the parameters. Every way below gives the same
numbers (checked before timing); a graph network of the same width and depth, whose loss
holds no gradient, is the unit. Steps are those of `training.step` without the optimiser, on
batches of graphs of four bodies. Warm, repeats alternate, the median counts.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from _results import open_out, save

from symjax_gn.data.graphs import complete_edges, flatten, stack_graphs
from symjax_gn.data.nodes import take_nodes
from symjax_gn.model import predict
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.layers import Properties
from symjax_gn.networks.losses import relative_loss
from symjax_gn.physics.dynamics import to_canonical
from symjax_gn.physics.systems import sample_normal

SENDERS, RECEIVERS = complete_edges(4)
PROPERTIES = Properties(("charge",), ("mass",))


def reverse_over_reverse(energy):
    """Reverse mode for the slope, and again for the parameters."""
    return jax.value_and_grad(energy, argnums=1)


def _with_rule(energy, pull_back):
    """The slope by reverse mode, with a rule of its own for the parameters."""

    @jax.custom_vjp
    def value_and_slope(params, nodes):
        return jax.value_and_grad(energy, argnums=1)(params, nodes)

    def forward(params, nodes):
        return value_and_slope(params, nodes), (params, nodes)

    value_and_slope.defvjp(forward, functools.partial(pull_back, energy))
    return value_and_slope


def _forward_over_reverse(energy, kept, cotangents):
    params, nodes = kept
    by_value, by_slope = cotangents
    # Second derivatives commute: the slope's pull-back is the gradient's push-forward.
    gradient = lambda nodes: jax.grad(energy, argnums=(0, 1))(params, nodes)  # noqa: E731
    first, second = jax.jvp(gradient, (nodes,), (by_slope,))
    return jax.tree.map(lambda a, b: by_value * a + b, first, second)


def _reverse_over_forward(energy, kept, cotangents):
    by_value, by_slope = cotangents

    def along(params, nodes):
        value, change = jax.jvp(lambda x: energy(params, x), (nodes,), (by_slope,))
        return by_value * value + change

    return jax.grad(along, argnums=(0, 1))(*kept)


def checkpointed(energy):
    """Reverse over reverse that keeps nothing of the energy's own pass."""
    return jax.value_and_grad(jax.checkpoint(energy), argnums=1)


def by_coordinates(energy):
    """Forward mode along every coordinate of every body for the slope."""

    def value_and_slope(params, nodes):
        return energy(params, nodes), jax.jacfwd(energy, argnums=1)(params, nodes)

    return value_and_slope


WAYS = {
    "reverse over reverse": reverse_over_reverse,
    "forward over reverse": lambda energy: _with_rule(energy, _forward_over_reverse),
    "reverse over forward": lambda energy: _with_rule(energy, _reverse_over_forward),
    "reverse over reverse, checkpointed": checkpointed,
    "reverse over forward by coordinates": by_coordinates,
}


def gathered(nodes):
    """Receivers and senders by indexing, whose transpose is a scatter."""
    return [take_nodes(nodes, index) for index in (RECEIVERS, SENDERS)]


def multiplied(nodes):
    """Receivers and senders by products with constant matrices of zeros and ones."""
    identity = np.eye(nodes.mass.shape[0], dtype=np.float32)
    matrices = [jnp.asarray(identity[i]) for i in (RECEIVERS, SENDERS)]
    return [jax.tree.map(lambda x, m=m: jnp.matmul(m, x), nodes) for m in matrices]


def hamiltonian_step(model, way, pairs_of=gathered):
    """Gradient by the parameters of the loss on a batch, with one way for the slope."""

    def energy(params, nodes):
        pairs = model.apply(params, *pairs_of(nodes), method="pair_energy")
        alone = model.apply(params, nodes, method="self_energy")
        return jnp.sum(pairs) + jnp.sum(alone)

    value_and_slope = way(energy)

    def loss(params, nodes, target):
        def one(body):
            total, slope = value_and_slope(params, to_canonical(body))
            penalty = total**2 + sum(jnp.sum(x**2) for x in slope.properties.values())
            return -slope.position / body.mass[:, None], slope.velocity, penalty

        acceleration, velocity, penalty = jax.vmap(one)(nodes)
        value = relative_loss(acceleration, target) + relative_loss(velocity, nodes.velocity)
        return value + 1e-6 * jnp.mean(penalty)

    return jax.jit(jax.grad(loss))


def network_step(model):
    """The same for a graph network."""

    def loss(params, nodes, target):
        graphs = stack_graphs(nodes, jnp.asarray(SENDERS), jnp.asarray(RECEIVERS))
        return relative_loss(predict(model, params, graphs).value, target)

    return jax.jit(jax.grad(loss))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--dim", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--steps", type=int, default=50, help="steps of one timing")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out")
    args = parser.parse_args()
    open_out(args.out)
    options = dict(width=args.width, depth=args.depth)
    options |= dict(outputs=args.dim, properties=PROPERTIES, weight="mass")
    hamiltonian = FlatHGN(**options)
    network = GraphNet(message_dim=args.dim, **options)
    rows = []
    for batch in args.batch_sizes:
        keys = jax.random.split(jax.random.key(0), batch)
        nodes = jax.vmap(lambda key: sample_normal(key, 4, args.dim))(keys)
        target = jax.random.normal(jax.random.key(1), (batch, 4, args.dim))
        one = stack_graphs(jax.tree.map(lambda x: x[:1], nodes), SENDERS, RECEIVERS)
        one = jax.tree.map(jnp.asarray, flatten(one))
        steps = {name: hamiltonian_step(hamiltonian, way) for name, way in WAYS.items()}
        steps["reverse over reverse, products in place of indices"] = hamiltonian_step(
            hamiltonian, reverse_over_reverse, multiplied
        )
        steps["graph network"] = network_step(network)
        params = {
            name: (network if name == "graph network" else hamiltonian).init(jax.random.key(2), one)
            for name in steps
        }
        found = {name: step(params[name], nodes, target) for name, step in steps.items()}
        for name in [name for name in steps if name != "graph network"]:
            expected = found["reverse over reverse"]
            for ours, theirs in zip(*map(jax.tree.leaves, (found[name], expected)), strict=True):
                size = float(jnp.max(jnp.abs(theirs)))
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * size + 1e-9)
        seconds = {name: [] for name in steps}
        for _ in range(args.repeats):
            for name, step in steps.items():
                start = time.perf_counter()
                for _ in range(args.steps):
                    result = step(params[name], nodes, target)
                jax.block_until_ready(result)
                seconds[name].append((time.perf_counter() - start) / args.steps)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        unit = median["graph network"]
        print(f"\n| {batch} graphs, {args.dim}D | ms | over graph network |\n|---|---|---|")
        for name, value in median.items():
            print(f"| {name} | {1e3 * value:.2f} | {value / unit:.2f} |", flush=True)
            row = dict(name=f"{name}, {batch} graphs, {args.dim}D", value=value, unit="s")
            rows.append(row | dict(rival=unit, ratio=value / unit))
        save(args.out, rows)


if __name__ == "__main__":
    main()
