"""A catalogue of dark matter halos from a particle-mesh simulation.

    python -m pip install -e ".[cosmo]"
    python examples/make_halos.py --out halos64.npz
    python examples/make_halos.py --side 256 --box 500 --steps 30 --out halos.npz --folder run

The first takes half a minute, the second, which made the catalogue that comes with the package,
a quarter of an hour and 5 GB of memory on two cores; with --folder it saves its state after
each step, and --resume goes on from there.
"""

import argparse

import jax
import numpy as np

from symjax_gn.data.halos.friends import find_halos
from symjax_gn.data.halos.particle_mesh import simulate_particles


def main():
    """Simulate, find halos, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=64, help="particles along a side")
    parser.add_argument("--box", type=float, default=125.0, help="side of the box, Mpc/h")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the state is saved after each step")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the folder")
    parser.add_argument("--out", default="halos.npz")
    args = parser.parse_args()
    particles = simulate_particles(
        jax.random.key(args.seed),
        args.side,
        args.box,
        steps=args.steps,
        folder=args.folder,
        resume=args.resume,
        progress=True,
    )
    halos = find_halos(particles)
    command = f"examples/make_halos.py --side {args.side} --box {args.box:g} --steps {args.steps}"
    halos.save(args.out, command=f"{command} --seed {args.seed}", jax=jax.__version__)
    error = np.mean(np.abs(halos.overdensity - np.median(halos.overdensity)))
    print(f"{len(halos)} halos; overdensities differ from their median by {error:.3f} on average")


if __name__ == "__main__":
    main()
