"""Simulation: many at once against a loop of single ones, and the drift of energy.

    python benchmarks/simulation.py --out benchmarks/results/simulation.json

Speed: 10,000 spring simulations of four bodies with 500 outputs in 2D by `simulate`,
against a Python loop that calls one jitted simulation (the loop is timed on fewer
and scaled up); both are warm, repeats alternate, the median counts. Drift: largest
change of the total energy over a system's full length as a share of its largest
kinetic energy, median and maximum over simulations, for each solver; where there is
drag, with the energy it has taken.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from _results import open_out, save
from scipy.integrate import cumulative_trapezoid

from symjax_gn.data.nodes import Nodes
from symjax_gn.physics.dynamics import follow_system
from symjax_gn.physics.forces import energy
from symjax_gn.physics.simulation import SOLVERS, simulate
from symjax_gn.physics.systems import SYSTEMS

OUTPUTS = 500


def measure_speed(count, sample, repeats):
    """Seconds of `count` simulations at once and, scaled up, of a loop of single ones."""
    system = SYSTEMS["spring"]
    times = jnp.asarray(system.dt * np.arange(OUTPUTS), jnp.float32)
    single = jax.jit(lambda key: follow_system(system, system.sample(key, 4, 2), times))

    def loop(key):
        for one in jax.random.split(key, sample):
            jax.block_until_ready(single(one))

    def many(key):
        simulate(key, system, num_simulations=count, num_outputs=OUTPUTS)

    def seconds(function, key):
        start = time.perf_counter()
        function(key)
        return time.perf_counter() - start

    seconds(loop, jax.random.key(0)), seconds(many, jax.random.key(0))
    pairs = []
    for repeat in range(1, repeats + 1):
        key = jax.random.key(repeat)
        pairs.append((seconds(many, key), seconds(loop, key) * count / sample))
    return [statistics.median(column) for column in zip(*pairs, strict=True)]


def measure_drift(system, solver):
    """Median and largest drift of energy over 100 simulations of full length."""
    run = simulate(
        jax.random.key(0),
        system,
        num_simulations=100,
        num_outputs=OUTPUTS,
        solver=solver,
    )
    one = jax.vmap(lambda *fields: energy(system, Nodes(*fields)), (0, 0, None))
    total = jax.vmap(one)(run.position, run.velocity, run.properties)
    # Drag takes energy: what it has taken counts as still there (trapezoids between outputs).
    power = system.drag * np.sum(run.velocity**2, axis=(2, 3), dtype=np.float64)
    total = total + cumulative_trapezoid(power, run.time, axis=1, initial=0)
    kinetic = 0.5 * np.sum(run.properties["mass"][:, None, :, None] * run.velocity**2, axis=(2, 3))
    drift = np.max(np.abs(total - total[:, :1]), axis=1) / np.max(kinetic, axis=1)
    return float(np.median(drift)), float(np.max(drift)), run.failed


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=200, help="single simulations timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out")
    args = parser.parse_args()
    open_out(args.out)
    many, loop = measure_speed(args.count, args.sample, args.repeats)
    rows = [
        dict(
            name=f"{args.count} spring simulations, 4 bodies, {OUTPUTS} outputs",
            value=many,
            unit="s",
            rival=loop,
            ratio=loop / many,
        )
    ]
    print(f"{args.count} at once: {many:.2f} s; loop: {loop:.1f} s; ratio {loop / many:.1f}\n")
    print("| system | solver | drift, median | drift, largest | failed |")
    print("|---|---|---|---|---|")
    for name, system in SYSTEMS.items():
        for solver in SOLVERS:
            if system.drag and solver == "symplectic":
                continue
            median, largest, failed = measure_drift(system, solver)
            rows.append(
                dict(name=f"{name} {solver}", value=median, unit="share", largest=largest)
                | dict(failed=failed)
            )
            save(args.out, rows)
            print(f"| {name} | {solver} | {median:.1e} | {largest:.1e} | {failed} |", flush=True)


if __name__ == "__main__":
    main()
