r"""A sweep of K networks against K fits one after the other, in turn: seconds and memory.

    python benchmarks/sweeps.py --out benchmarks/results/sweeps.json
    python benchmarks/sweeps.py --members 1 2 4 8 16 32 64 --steps 2000 --repeats 1 \
        --out benchmarks/results/sweeps_by_size.json

Each run is a process of its own, which trains the default network on the spring, as the main
job does; seconds are those of training with compilation. `--here` is one run. Draws seconds
and memory of each network beside the JSON file where there are several sizes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _results import open_out, save
from large import peak_memory

from symjax_gn.data.checks import check_choice

WAYS = ("fits", "sweep")


def run(way, members, steps):
    """One row, of a run in this process."""
    import jax

    import symjax_gn as sgn

    system = sgn.SYSTEMS["spring"]
    keys = jax.random.split(jax.random.key(0), 3)
    paths = sgn.simulate(keys[0], system, num_outputs=100, dt=5 * system.dt)
    parts = sgn.split(keys[1], sgn.make_dataset(paths))[:2]
    before, start = peak_memory(), time.perf_counter()
    if way == "fits":
        for seed in range(members):
            trained = sgn.fit(jax.random.fold_in(keys[2], seed), *parts, steps=steps)
            jax.block_until_ready(trained.params)
        at_once = 1
    else:
        found = sgn.sweep(keys[2], *parts, {"seed": range(members)}, steps=steps)
        jax.block_until_ready(found.trained.params)
        at_once = found.at_once
    seconds = time.perf_counter() - start
    return dict(value=seconds, unit="s", bytes=peak_memory() - before, at_once=at_once)


def draw(rows, path):
    """Seconds and memory of each network against their number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        count = sorted({row["members"] for row in mine})
        seconds, size = (
            [statistics.median(r[name] for r in mine if r["members"] == k) for k in count]
            for name in ("value", "bytes")
        )
        left.plot(count, [s / k for s, k in zip(seconds, count, strict=True)], "o-", label=way)
        right.plot(count, [b / 2**20 for b in size], "o-", label=way)
    for axes, label in ((left, "seconds for each, with compilation"), (right, "memory, MiB")):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="networks", ylabel=label, xticks=count, xticklabels=count)
        axes.set_ylim(bottom=0)
    left.legend()
    figure.savefig(path, dpi=120)


def main():
    """Run the ways in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--members", nargs="+", type=int, default=[16])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--here", metavar="WAY", help="one run, in this process")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    if args.here:
        check_choice("way", args.here, WAYS)
        print(json.dumps(run(args.here, args.members[0], args.steps)))
        return
    open_out(args.out)
    rows = []
    print("| networks | fits, s | sweep, s | ratio | memory of the sweep, MiB |")
    print("|---|---|---|---|---|")
    for members in args.members:
        for repeat in range(args.repeats):
            for way in WAYS:
                command = [sys.executable, __file__, "--here", way, "--members", str(members)]
                command += ["--steps", str(args.steps)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                row = dict(name=f"{way}, {members} networks, run {repeat}", way=way)
                row |= dict(members=members, steps=args.steps, repeat=repeat)
                rows.append(row | json.loads(said.splitlines()[-1]))
                save(args.out, rows)
        mine = [row for row in rows if row["members"] == members]
        fits, sweep = (
            statistics.median(r["value"] for r in mine if r["way"] == way) for way in WAYS
        )
        size = statistics.median(r["bytes"] for r in mine if r["way"] == "sweep")
        ratio = sweep / fits
        print(f"| {members} | {fits:.1f} | {sweep:.1f} | {ratio:.2f} | {size / 2**20:.0f} |")
    if args.out and len(args.members) > 1:
        draw(rows, Path(args.out).with_suffix(".png"))


if __name__ == "__main__":
    main()
