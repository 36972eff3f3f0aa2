"""First-order motion: bodies whose velocities, not accelerations, are sums of pair terms.

    python examples/first_order.py --out first-order

Opinions attract each other with a strength that falls with distance; nobody has a mass.
"""

import argparse

import jax
import jax.numpy as jnp

from symjax_gn import Settings, System, discover, make_dataset, simulate


def attraction(displacement, receiver, sender):
    """What one opinion adds to the velocity of another, `[dim]`."""
    return displacement * jnp.exp(-jnp.sqrt(jnp.sum(displacement**2)))


def main():
    """Simulate, and find the law of the velocities."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="first-order")
    args = parser.parse_args()
    system = System(name="opinions", pair_force=attraction, order=1, dt=0.02)
    keys = jax.random.split(jax.random.key(args.seed), 2)
    paths = simulate(keys[0], system, num_simulations=args.simulations, num_outputs=50)
    found = discover(
        keys[1], make_dataset(paths), Settings(steps=args.steps), system=system, progress=True
    )
    found.write(args.out, system=system.name, seed=args.seed)
    print("velocity of i by j, along x:", found.law.message[0])
    print("recovered" if found.verdict.recovered else "not recovered")


if __name__ == "__main__":
    main()
