"""The main job, timed from outside: seeds of spring, r1 and a law of one's own.

    python benchmarks/discovery.py --out benchmarks/results/discovery.json

Each run is a fresh process of `examples/discover_force.py`, so that its seconds hold
everything: imports, simulation, compilation, training, regression, figures. Saves after
each run; a run that is already in the output file is not repeated.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _results import commit, form_of, open_out, save

ROOT = Path(__file__).parent.parent
CASES = {
    "spring": (["--system", "spring"], range(5)),
    "r1": (["--system", "r1"], range(3)),
    "yukawa": (["--system", "examples/yukawa.py"], range(3)),
}


def run(name, options, seed):
    """One row: the verdict, the law and the seconds of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["examples/discover_force.py", *options, "--seed", str(seed)]
        # Each process imports the tree as it is then.
        revision = commit.__wrapped__()
        start = time.perf_counter()
        result = subprocess.run(
            [sys.executable, *command, "--out", folder], cwd=ROOT, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
        if result.returncode:
            said = result.stderr.strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}: {said[-1]}")
        report = json.loads((Path(folder) / "report.json").read_text())
    return dict(
        name=f"{name}-2 seed {seed}",
        value=seconds,
        unit="s",
        recovered=report["recovered"],
        form_verdict=report["form_verdict"],
        laws=report["laws"],
        certificate=report["certificate"]["says"],
        checks=report["checks"],
        message_r2=report["message_r2"],
        test_error=report["test_error"],
        stages=report["seconds"],
        command="python " + " ".join(command),
        commit=revision,
    )


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the case's own")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    open_out(args.out)
    rows = []
    if args.out and Path(args.out).exists():
        rows = json.loads(Path(args.out).read_text())["rows"]
    print("| run | recovered | form | law | seen: median, 90% | beyond: median, 90% "
          "| certificate | s |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for case in args.cases:
        options, seeds = CASES[case]
        for seed in args.seeds or seeds:
            row = next((r for r in rows if r["name"] == f"{case}-2 seed {seed}"), None)
            if row is None:
                row = run(case, options, seed)
                rows.append(row)
                save(args.out, rows)
            errors = [
                ", ".join(
                    "inf" if row["checks"][k][part] is None else f"{row['checks'][k][part]:.2%}"
                    for part in ("median", "quantile_90")
                )
                for k in ("error_seen", "error_beyond")
            ]
            print(
                f"| {row['name']} | {'yes' if row['recovered'] else 'no'} | {form_of(row)} "
                f"| ${row['laws'][0]['latex']}$ | {errors[0]} | {errors[1]} "
                f"| {row['certificate']} | {row['value']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
