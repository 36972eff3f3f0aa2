"""Data without a law of pairs: how often is what comes out believed?

    python benchmarks/lawless.py --out benchmarks/results/lawless.json
    python benchmarks/lawless.py --kinds three_bodies --seeds 0

Four-body simulations of which something is taken away: accelerations of other graphs, noise
in their place, a force of three bodies, charges that are not shown, a place in space that
pulls and is not a body. Each run is `discover` with its defaults. Saves after each.
"""

import argparse
import dataclasses
import sys
import time

import jax
import numpy as np
from _results import commit, load_rows, open_out, save

import symjax_gn as sgn
from symjax_gn.data.checks import check_choice
from symjax_gn.data.trajectories import trajectory_from_arrays


def _simulated(key, name):
    return sgn.simulate(key, sgn.get_system(name), num_outputs=100, dt=0.05)


def shuffled(key):
    """A spring's accelerations, of other simulations and moments."""
    dataset = sgn.make_dataset(_simulated(key, "spring"))
    order = np.asarray(jax.random.permutation(key, len(dataset)))
    return dataclasses.replace(dataset, target=np.asarray(dataset.target)[order])


def noise(key):
    """Normal numbers for accelerations."""
    dataset = sgn.make_dataset(_simulated(key, "spring"))
    target = np.asarray(jax.random.normal(key, np.shape(dataset.target)))
    return dataclasses.replace(dataset, target=target)


def three_bodies(key):
    """Each two bodies pull at a third by the area of their triangle."""
    run = _simulated(key, "spring")
    x = np.asarray(run.position, np.float64)
    count = x.shape[2]
    force = np.zeros_like(x)
    for i in range(count):
        for j in range(count):
            for k in range(j):
                if i in (j, k):
                    continue
                a, b = x[:, :, j] - x[:, :, i], x[:, :, k] - x[:, :, i]
                area = np.abs(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])
                force[:, :, i] += area[..., None] * (a + b)
    mass = np.asarray(run.properties["mass"])
    acceleration = force / mass[:, None, :, None]
    return trajectory_from_arrays(run.time, x, run.velocity, acceleration, mass=mass)


def hidden_charges(key):
    """Charges attract and repel, and are not in the data."""
    run = _simulated(key, "charge")
    properties = {name: x for name, x in run.properties.items() if name != "charge"}
    return dataclasses.replace(run, properties=properties)


def unseen_attractor(key):
    """Something that moves in a circle, and is not among the bodies, attracts them all."""
    run = _simulated(key, "spring")
    angle = np.asarray(run.time)
    place = 3.0 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)[None, :, None]
    way = place - np.asarray(run.position, np.float64)
    return trajectory_from_arrays(
        run.time, run.position, run.velocity, way, mass=run.properties["mass"]
    )


KINDS = {
    one.__name__: one for one in (shuffled, noise, three_bodies, hidden_charges, unseen_attractor)
}


def run(kind, seed):
    """One row: what the certificate said."""
    row = dict(name=f"{kind} seed {seed}", kind=kind, seed=seed, commit=commit())
    start = time.perf_counter()
    try:
        data = KINDS[kind](jax.random.key(seed))
        found = sgn.discover(jax.random.key(seed + 1), data)
    except (ValueError, RuntimeError) as error:
        return row | dict(value=time.perf_counter() - start, unit="s", error=str(error))
    law = [str(one) for one in found.law.message] if found.law is not None else []
    return row | dict(
        value=time.perf_counter() - start,
        unit="s",
        says=found.certificate.says,
        checks=found.certificate.checks,
        law=law,
        update=[str(one) for one in found.law.update] if found.law is not None else [],
    )


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="KIND")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    for kind in args.kinds:
        check_choice("kind", kind, KINDS)
    open_out(args.out)
    rows = load_rows(args.out, [])
    known = {row["name"] for row in rows}
    for seed in args.seeds:
        for kind in args.kinds:
            if f"{kind} seed {seed}" not in known:
                rows.append(run(kind, seed))
                save(args.out, rows)
                says = rows[-1].get("says", "error")
                print(f"{rows[-1]['name']}: {says}", file=sys.stderr, flush=True)
    print("| data | certificate | does not hold | s |\n|---|---|---|---|")
    for row in rows:
        failed = [name for name, check in row.get("checks", {}).items() if not check["holds"]]
        says = row.get("says") or row["error"]
        print(f"| {row['name']} | {says} | {', '.join(failed)} | {row['value']:.0f} |")
    believed = sum(row.get("says") == "believe" for row in rows)
    print(f"\nbelieved: {believed} of {len(rows)}")


if __name__ == "__main__":
    main()
