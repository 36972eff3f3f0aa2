"""Many bodies: 300, all joined, and 2,000 within a cutoff in a periodic box; time and memory.

    python benchmarks/large.py --out benchmarks/results/large.json

Each case is a process of its own, so that the memory is its own: the whole path from a few
outputs to a refitted law, with few steps of training. What is asked is whether it fits; how
well the law comes out is not.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from _results import open_out, save


def soft_disks(side):
    """A system of disks that repel each other where they touch, in a box of a given side."""
    import jax
    import jax.numpy as jnp

    import symjax_gn as sgn

    def sample(key, num_nodes, dim):
        keys = jax.random.split(key)
        position = side * jax.random.uniform(keys[0], (num_nodes, dim))
        velocity = 0.1 * jax.random.normal(keys[1], (num_nodes, dim))
        return sgn.Nodes(position, velocity, {"mass": jnp.ones(num_nodes)})

    return sgn.System(
        name="soft disks",
        pair_potential=lambda r, receiver, sender: jnp.where(r < 1.5, (1.5 - r) ** 2, 0.0),
        sample=sample,
        cutoff=1.5,
        dt=0.01,
        space=sgn.Space((side, side)),
    )


def peak_memory():
    """Largest resident memory of this process so far, in bytes (Linux).

    What `getrusage` gives is at least that of the process that started this one.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("/proc/self/status does not say the largest memory of this process.")
    return 1024 * int(found[1])


def run(num_nodes, steps):
    """One row: seconds, edges and the largest memory of a run in this process."""
    import jax

    import symjax_gn as sgn

    start = time.perf_counter()
    joined = num_nodes <= 300
    system = sgn.SYSTEMS["spring"] if joined else soft_disks((0.45 * num_nodes) ** 0.5)
    trajectory = sgn.simulate(
        jax.random.key(0), system, num_nodes=num_nodes, dim=2, num_simulations=6, num_outputs=4,
        dt=1e-3 if joined else None,
    )  # fmt: skip
    data = sgn.make_dataset(trajectory, cutoff=system.cutoff)
    settings = sgn.Settings(
        steps=steps, width=16, depth=2, batch_size=1, searches=1, evaluations=20_000
    )
    found = sgn.discover(jax.random.key(1), data, settings, system=system)
    return dict(
        value=time.perf_counter() - start,
        unit="s",
        bytes=peak_memory(),
        edges=int(data.graphs.senders.shape[-1]),
        steps=steps,
        stages=found.seconds,
        network_error=found.test_error,
        law_error=found.law_error,
    )


def main():
    """Run the cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bodies", nargs="+", type=int, default=[300, 2000])
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--here", action="store_true", help="one case, in this process")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(run(args.bodies[0], args.steps)))
        return
    open_out(args.out)
    rows = []
    print("| bodies | edges of a graph | s | GB |")
    print("|---|---|---|---|")
    for bodies in args.bodies:
        command = [sys.executable, __file__, "--here", "--bodies", str(bodies)]
        command += ["--steps", str(args.steps)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row = dict(name=f"{bodies} bodies", **json.loads(said.splitlines()[-1]))
        rows.append(row)
        save(args.out, rows)
        print(
            f"| {bodies} | {row['edges']} | {row['value']:.0f} | {row['bytes'] / 2**30:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
