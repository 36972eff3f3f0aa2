"""The paper's toy: z = f(sum of g(x)) over the elements of a set, and both f and g are found.

    python examples/set_function.py --out set-function

x has five components, of which two matter: g = exp(x_3) + cos(2 x_1), f(y) = y^2.
"""

import argparse
from pathlib import Path

import jax
import jraph
import numpy as np

from symjax_gn import Settings, discover, save_law


def make_sets(seed, num_sets, size):
    """Sets of `size` elements x `[5]`, one graph each, with z among the globals."""
    x = np.random.default_rng(seed).normal(size=(num_sets, size, 5))
    z = np.sum(np.exp(x[..., 2]) + np.cos(2 * x[..., 0]), axis=1) ** 2
    return [
        jraph.GraphsTuple(
            nodes=elements,
            edges=None,
            senders=None,
            receivers=None,
            globals={"z": value[None]},
            n_node=np.array([size]),
            n_edge=np.array([0]),
        )
        for elements, value in zip(x, z, strict=True)
    ]


def main():
    """Train, distil g and f, compose them and refit the whole."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=4000)
    parser.add_argument("--size", type=int, default=100, help="elements of each set")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="set-function")
    args = parser.parse_args()
    graphs = make_sets(args.seed, args.sets, args.size)
    settings = Settings(steps=args.steps, operators=("+", "-", "*", "/", "exp", "cos"))
    found = discover(jax.random.key(args.seed), graphs, settings, target="z", progress=True)
    found.write(args.out, system="set function", seed=args.seed)
    save_law(Path(args.out) / "law.json", found.law)
    print("g, up to a factor and an offset:", found.law.message[0])
    print("f:", found.law.update[0])
    for name, (error, size) in {"network": found.test_error, "law": found.law_error}.items():
        print(f"{name}: held-out error {error / size:.2%} of mean |z|")


if __name__ == "__main__":
    main()
