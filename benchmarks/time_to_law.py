"""Seconds until the main job prints its law, and until it ends; two checkouts in turn.

    python benchmarks/time_to_law.py --vs ../older --out benchmarks/results/time_to_law.json

Each run is a process of its own with the defaults of its checkout, with nothing kept from earlier
ones; `--vs` names a checkout of another commit. Saves after each run. Then prints the medians, and
the ratio of each to that of the other checkout. A quiet machine is needed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _results import commit, open_out, save

ROOT = Path(__file__).parent.parent

# How lines begin that have the law, the first of them counts.
_LAW = ("what data say", "force on i")


def run(checkout, system, seed):
    """Seconds until the law and until the end, and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "examples/discover_force.py", "--system", system]
        command += ["--seed", str(seed), "--out", folder]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        start, law = time.perf_counter(), None
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with subprocess.Popen(command, cwd=checkout, env=environment, **pipes) as process:
            for line in process.stdout:
                if law is None and line.startswith(_LAW):
                    law = time.perf_counter() - start
        end = time.perf_counter() - start
        report = json.loads((Path(folder) / "report.json").read_text())
    stages = report["seconds"]
    return dict(value=law, unit="s", end=end, recovered=report["recovered"], stages=stages)


def print_table(rows):
    """Medians of each system and checkout."""
    print("| system | checkout | runs | recovered | s until the law | s until the end |")
    print("|---|---|---|---|---|---|")
    for system in dict.fromkeys(row["system"] for row in rows):
        for which in dict.fromkeys(row["checkout"] for row in rows):
            mine = [r for r in rows if (r["system"], r["checkout"]) == (system, which)]
            law, end = (statistics.median(r[key] for r in mine) for key in ("value", "end"))
            right = sum(bool(r["recovered"]) for r in mine)
            print(f"| {system} | {which} | {len(mine)} | {right} | {law:.1f} | {end:.1f} |")


def main():
    """Run all in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", default=["spring", "r1"], metavar="SYSTEM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--vs", metavar="CHECKOUT", help="of another commit")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    open_out(args.out)
    checkouts = {"this": ROOT} | ({"other": Path(args.vs).resolve()} if args.vs else {})
    rows = []
    for system in args.systems:
        for seed in args.seeds:
            for which, checkout in checkouts.items():
                row = dict(name=f"{system} seed {seed} {which}", system=system, seed=seed)
                row |= dict(checkout=which, commit=commit(checkout), **run(checkout, system, seed))
                rows.append(row)
                save(args.out, rows)
                print(f"{row['name']}: {row['value']:.1f}, {row['end']:.1f}", file=sys.stderr)
    print_table(rows)


if __name__ == "__main__":
    main()
