"""What is believed of data without a law of pairs, and of few data with one.

    python benchmarks/lawless.py --out benchmarks/results/lawless.json
    python benchmarks/lawless.py --kinds three_bodies --seeds 0
    python benchmarks/lawless.py --kinds delayed --recordings 12 --every 0.05
    python benchmarks/lawless.py --kinds none --true spring r1 --recordings 1 2 3

Simulations of which something is taken away (accelerations of other graphs, noise in their place,
a force of three bodies, charges that are not shown, a place in space that pulls and is not a
body); the worlds of `worlds.py`, where something acts beside the springs, with few and many
recordings, dense and sparse in time; and with `--true` the paper's systems themselves, with few
recordings, exact and with noise of 1%. Each run is `discover` with its defaults. The law's error
is the mean of |a - a_hat| / (|a| + 0.1 typical |a|) on the test data, without noise.
Saves after each.
"""

import argparse
import dataclasses
import sys
import time

import jax
import numpy as np
from _results import commit, load_rows, open_out, save
from worlds import WORLDS

import symjax_gn as sgn
from symjax_gn.data.checks import check_choice
from symjax_gn.data.trajectories import trajectory_from_arrays
from symjax_gn.discovery.certificate import relative_errors

# A law that errs by more than this is wrong.
_WRONG = 0.01


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
    acceleration = force / np.asarray(run.properties["mass"])[:, None, :, None]
    dataset = sgn.make_dataset(run)
    # Bodies have not moved by these accelerations, which a trajectory is refused for.
    target = acceleration.reshape(np.shape(dataset.target)).astype(np.float32)
    return dataclasses.replace(dataset, target=target)


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


def few(system, recordings, noise):
    """Few recordings of a system, with and without noise of a share of the median acceleration."""
    run = sgn.simulate(
        jax.random.key(recordings), sgn.get_system(system), num_simulations=recordings,
        num_outputs=100, dt=0.05,
    )  # fmt: skip
    dataset = sgn.make_dataset(run)
    exact = np.asarray(dataset.target, np.float64)
    size = noise * np.median(np.linalg.norm(exact, axis=-1))
    shaken = exact + size * np.random.default_rng(recordings).normal(size=exact.shape)
    return dataclasses.replace(dataset, target=shaken.astype(np.float32)), exact


def cases(args):
    """What is to be run: name, seed, and a function that makes data and their exact targets."""
    for seed in args.seeds:
        for kind in (one for one in args.kinds if one in KINDS):
            yield f"{kind} seed {seed}", seed, lambda k=kind, s=seed: (KINDS[k](jax.random.key(s)),)
    for kind in (one for one in args.kinds if one in WORLDS):
        for every in args.every:
            for count in args.recordings:
                name = f"{kind}, {count} recordings, every {every:g}"
                yield name, count, lambda k=kind, n=count, t=every: (WORLDS[k](n, n, t),)
    for system in args.true:
        for count in args.recordings:
            for noise in (0.0, 0.01):
                name = f"true {system}, {count} recordings, noise {noise:g}"
                yield name, count, lambda s=system, n=count, e=noise: few(s, n, e)


def run(name, seed, make):
    """One row: what the certificate said, and how much the law errs."""
    row = dict(name=name, seed=seed, commit=commit())
    start = time.perf_counter()
    try:
        data, *exact = make()
        data = data if isinstance(data, sgn.Dataset) else sgn.make_dataset(data)
        found = sgn.discover(jax.random.key(seed + 1), data)
    except (ValueError, RuntimeError) as error:
        return row | dict(value=time.perf_counter() - start, unit="s", error=str(error))
    row |= dict(
        value=time.perf_counter() - start,
        unit="s",
        says=found.certificate.says,
        checks=found.certificate.checks,
        law=[str(one) for one in found.law.message] if found.law is not None else [],
        update=[str(one) for one in found.law.update] if found.law is not None else [],
    )
    if found.law is not None:
        whole = dataclasses.replace(data, target=exact[0]) if exact else data
        row["law_error"] = float(np.nanmean(relative_errors(found.law, whole)))
    return row


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = [*KINDS, *WORLDS]
    parser.add_argument("--kinds", nargs="+", default=kinds, metavar="KIND", help="or none")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--recordings", nargs="+", type=int, default=[12, 60, 300])
    parser.add_argument("--every", nargs="+", type=float, default=[0.05, 2.0])
    parser.add_argument("--true", nargs="*", default=[], metavar="SYSTEM")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    for kind in args.kinds:
        check_choice("kind", kind, [*kinds, "none"])
    open_out(args.out)
    rows = load_rows(args.out, [])
    known = {row["name"] for row in rows}
    for name, seed, make in cases(args):
        if name not in known:
            rows.append(run(name, seed, make))
            save(args.out, rows)
            says = rows[-1].get("says", "error")
            print(f"{name}: {says}", file=sys.stderr, flush=True)
    print("| data | certificate | law errs by | fails | cannot be told | s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        checks = row.get("checks", {})
        failed, open_ = (
            ", ".join(name for name, check in checks.items() if check["holds"] is holds)
            for holds in (False, None)
        )
        says, error = row.get("says") or row["error"], row.get("law_error")
        error = "" if error is None else f"{error:.2g}"
        print(f"| {row['name']} | {says} | {error} | {failed} | {open_} | {row['value']:.0f} |")
    true = [row for row in rows if row["name"].startswith("true ")]
    others = [row for row in rows if row not in true]
    wrong = [row for row in others if row.get("says") == "believe"]
    wrong = [row for row in wrong if row.get("law_error", 1.0) > _WRONG]
    print(f"\nbelieved although the law errs by more than 1%: {len(wrong)} of {len(others)}")
    believed = sum(row.get("says") == "believe" for row in true)
    print(f"true laws of few recordings that are believed: {believed} of {len(true)}")


if __name__ == "__main__":
    main()
