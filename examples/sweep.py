"""Learning rates times seeds: all networks in one program, and the law found with each.

    python examples/sweep.py --system r1 --rates 8 --seeds 4 --out sweep

Prints a table of all members, the least held-out error of a law first.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import symjax_gn as sgn


def main():
    """Simulate, train all members of the sweep, and find the law with each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--system", default="spring", help=", ".join(sgn.SYSTEMS))
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--rates", type=int, default=8, help="from 0.001 to 0.1")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=-1, help="-1: one on each core")
    parser.add_argument("--out", default="sweep")
    args = parser.parse_args()
    system = sgn.get_system(args.system)
    data_key, run_key = jax.random.split(jax.random.key(0))
    paths = sgn.simulate(
        data_key,
        system,
        num_simulations=args.simulations,
        num_outputs=100,
        dt=5 * system.dt,
        progress=True,
    )
    members = sgn.grid(learning_rate=np.geomspace(1e-3, 1e-1, args.rates), seed=range(args.seeds))
    found = sgn.discover_all(
        run_key,
        sgn.make_dataset(paths, *system.edges(paths.position.shape[2])),
        members,
        sgn.Settings(steps=args.steps),
        systems=system,
        jobs=args.jobs,
        progress=True,
    )
    table = found.table()
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "table.csv")
    print(table.to_string(float_format="{:.3g}".format, max_colwidth=60))
    print(f"all of the table is in {folder / 'table.csv'}")


if __name__ == "__main__":
    main()
