"""The main job against that of another checkout, in turn: seconds, and steps per second.

    git worktree add /tmp/base d45447b
    python benchmarks/versus.py /tmp/base --out benchmarks/results/versus.json

Each run is a fresh process of `examples/discover_force.py` for the spring. Steps per second
are from two runs of unequal numbers of steps, trained to the end whatever is found on the way,
so that compilation has no part in them.
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

from _results import open_out, save

HERE = Path(__file__).parent.parent
STEPS = (8000, 16000)


def run(checkout, steps, extra=()):
    """Seconds of one run from outside, and of its stages."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "examples/discover_force.py", "--system", "spring"]
        command += ["--out", folder, *extra]
        if steps is not None:
            command += ["--steps", str(steps)]
            # Older checkouts always train to the end.
            if "until_law" in (Path(checkout) / "symjax_gn/settings.py").read_text():
                command.append("--no-until-law")
        start = time.perf_counter()
        subprocess.run(
            command, cwd=checkout, check=True, capture_output=True,
            env=os.environ | {"PYTHONPATH": str(checkout)},
        )  # fmt: skip
        seconds = time.perf_counter() - start
        report = json.loads((Path(folder) / "report.json").read_text())
    return dict(value=seconds, unit="s", stages=report["seconds"], recovered=report["recovered"])


def main():
    """Run the two in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path, help="folder of the other checkout")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of the main job")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    open_out(args.out)
    checkouts = {"base": args.base.resolve(), "this": HERE}
    rows = []
    for repeat in range(args.repeats):
        for steps in (None, *STEPS):
            for name, checkout in checkouts.items():
                revision = subprocess.run(
                    ["git", "describe", "--always", "--dirty", "--abbrev=12"],
                    cwd=checkout, capture_output=True, text=True, check=True,
                ).stdout.strip()  # fmt: skip
                row = dict(name=name, steps=steps, repeat=repeat, commit=revision)
                rows.append(row | run(checkout, steps, args.options))
                save(args.out, rows)
                print(f"{name}, steps {steps or 'as usual'}: {rows[-1]['value']:.1f} s", flush=True)

    def median(name, steps, value):
        return statistics.median(
            value(r) for r in rows if r["name"] == name and r["steps"] == steps
        )

    whole = {name: median(name, None, lambda r: r["value"]) for name in checkouts}
    rate = {}
    for name in checkouts:
        ends = [median(name, steps, lambda r: r["stages"]["train"]) for steps in STEPS]
        rate[name] = (STEPS[1] - STEPS[0]) / (ends[1] - ends[0])
    print("| | base | this | this / base |")
    print("|---|---|---|---|")
    for label, values in (("whole run, s", whole), ("steps per second", rate)):
        ratio = values["this"] / values["base"]
        print(f"| {label} | {values['base']:.1f} | {values['this']:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
