"""Table 1 of the paper as sweeps: every strategy and law, each strategy one program.

    python benchmarks/table_one.py --out benchmarks/results/table_one.json

Four laws in 2D and 3D with four strategies, 32 networks of the default size, and the law of
each: data sets of one dimension are members of one sweep. R^2 is of the forces that messages
stand for, against the true ones. Prints the table and the seconds of the whole.
"""

import argparse
import time

import jax
import numpy as np
from _results import commit, load_rows, open_out, save

import symjax_gn as sgn
from symjax_gn.compiling import seconds_compiling
from symjax_gn.data.datasets import take

LAWS = ("charge", "r1", "r2", "spring")
STRATEGIES = ("standard", "bottleneck", "l1", "kl")


def run(strategy, dim, seed, steps, simulations, jobs):
    """The rows of one sweep."""
    keys = jax.random.split(jax.random.key(seed))
    start, before = time.perf_counter(), seconds_compiling()
    systems = [sgn.SYSTEMS[name] for name in LAWS]
    paths = [
        sgn.simulate(
            jax.random.fold_in(keys[0], k), system, dim=dim, num_simulations=simulations,
            num_outputs=100, dt=5 * system.dt, max_failed=0.5,
        )
        for k, system in enumerate(systems)
    ]  # fmt: skip
    # Members of one program have as many graphs: as many as simulations failed are left out.
    data = [sgn.make_dataset(one) for one in paths]
    least = min(map(len, data))
    data = [take(one, np.arange(least)) for one in data]
    settings = sgn.Settings(strategy=strategy, steps=steps)
    members = {"data": range(len(LAWS))}
    found = sgn.discover_all(keys[1], data, members, settings, systems=systems, jobs=jobs)
    seconds = time.perf_counter() - start
    table = found.table()
    rows = []
    for k, system in enumerate(LAWS):
        one = found.found[k]
        r2 = (one.message_r2 or {}) if isinstance(one, sgn.Discovery) else {}
        row = dict(name=f"{system}-{dim} {strategy} seed {seed}", system=system, dim=dim, seed=seed)
        row |= dict(strategy=strategy, commit=commit(), value=seconds, unit="s of the sweep")
        row |= dict(compiling=seconds_compiling() - before, steps=steps)
        row |= dict(r2=r2.get("influence"), r2_raw=r2.get("force"))
        row |= {name: table.loc[k][name] for name in ("error", "law_error", "components")}
        row |= {name: str(table.loc[k][name]) for name in ("certificate", "verdict", "form", "law")}
        rows.append({name: getattr(x, "item", lambda x=x: x)() for name, x in row.items()})
    return rows


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=-1, help="-1: one on each core")
    parser.add_argument("--out", help="JSON file; kept up to date after every sweep")
    args = parser.parse_args()
    open_out(args.out)
    rows = load_rows(args.out, [])
    sizes = args.steps, args.simulations, args.jobs
    for strategy in args.strategies:
        for dim in args.dims:
            if not any((r["strategy"], r["dim"], r["seed"]) == (strategy, dim, args.seed)
                       for r in rows):  # fmt: skip
                rows += run(strategy, dim, args.seed, *sizes)
                save(args.out, rows)
    print("| system | strategy | R^2, raw | R^2, forces | error | verdict | form | certificate "
          "| law |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for row in rows:
        values = row["r2_raw"], row["r2"]
        r2 = " | ".join("" if x is None else f"{x:.4f}" for x in values)
        print(
            f"| {row['system']}-{row['dim']} | {row['strategy']} | {r2} | {row['error']:.2%} "
            f"| {row['verdict']} | {row.get('form', '')} | {row['certificate']} | `{row['law']}` |"
        )
    whole = {(r["strategy"], r["dim"], r["seed"]): r["value"] for r in rows}
    print(f"\n{len(rows)} networks with their laws: {sum(whole.values()):.0f} s")


if __name__ == "__main__":
    main()
