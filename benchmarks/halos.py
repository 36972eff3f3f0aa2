"""Laws of overdensities around halos, run by run; and the time that graphs of many halos take.

    python benchmarks/halos.py --out benchmarks/results/halos.json
    python benchmarks/halos.py --seeds 0 --options --strategy l1 --out FILE
    python benchmarks/halos.py --seeds --edges 215854 --out FILE

Each run is `examples/halos.py` in a process of its own, and its row what that found on held-out
slabs, as shares of the error of a constant. Saves after each; a run in the output file is not
repeated. `--edges` joins so many random halos of a box of 1,000 Mpc/h within 50.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _results import commit, load_rows, open_out, save

from symjax_gn.data.halos.catalogue import Catalogue, halo_dataset

ROOT = Path(__file__).parent.parent


def run(seed, options):
    """The row of one run."""
    name = " ".join([f"halos seed {seed}", *options])
    row = dict(name=name, seed=seed, options=options, commit=commit(), unit="s", budget="cpu")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "examples/halos.py", "--seed", str(seed), "--out", folder]
        start = time.perf_counter()
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
        row["value"] = time.perf_counter() - start
        if done.returncode:
            return row | dict(error=done.stderr.strip().splitlines()[-1])
        report = json.loads((Path(folder) / "report.json").read_text())
        row |= json.loads((Path(folder) / "halos.json").read_text())
    return row | dict(certificate=report["certificate"], stages=report["seconds"])


def edges(count):
    """Seconds, edges and the process' largest memory of graphs of random halos."""
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 1000, (count, 3))
    halos = Catalogue(place, 0 * place, np.full(count, 5e3), rng.normal(size=count), 1000.0)
    start = time.perf_counter()
    data = halo_dataset(halos)
    seconds = time.perf_counter() - start
    joined = int(np.sum(np.asarray(data.graphs.n_edge)[:, 0]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    name = f"edges of {count} halos"
    return dict(
        name=name, value=seconds, unit="s", edges=joined, memory_gib=memory, commit=commit()
    )


def main():
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--edges", type=int, help="halos to be joined")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of the example")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    open_out(args.out)
    rows = load_rows(args.out, [])
    if args.edges:
        rows.append(edges(args.edges))
        save(args.out, rows)
        print({key: rows[-1][key] for key in ("edges", "value", "memory_gib")})
    for seed in args.seeds:
        name = " ".join([f"halos seed {seed}", *args.options])
        if any(row["name"] == name and "error" not in row for row in rows):
            continue
        row = run(seed, args.options)
        rows = [*(one for one in rows if one["name"] != name), row]
        save(args.out, rows)
        print(f"{name}: {row.get('error') or row['table']}", file=sys.stderr, flush=True)
    print("| run | set | constant | network | law | simple | published | says | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        for k, part in enumerate(row.get("sets", [])):
            table = {key: values[k] for key, values in row["table"].items()}
            published = [table[key] for key in ("with masses", "without masses") if key in table]
            whole = table.pop("constant")
            shares = [table["network"], table["law"], table.get("simple", np.nan), *published]
            cells = " | ".join(f"{value / whole:.3f}" for value in shares)
            says = row["certificate"]["says"]
            print(
                f"| {row['name']} | {part} | {whole:.4f} | {cells} | {says} | {row['value']:.0f} |"
            )


if __name__ == "__main__":
    main()
