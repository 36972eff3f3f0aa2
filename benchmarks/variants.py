"""What each choice of the main job is worth: one left out at a time, and stronger biases.

    python benchmarks/variants.py --out benchmarks/results/variants.json

Every variant is the bottleneck with some options of the main job; "paper" is the paper's
plain setting as far as a CPU can follow it (8,000 steps in place of a million). "newton",
"antisymmetric" and "central" build in more than the paper does. Saves after each cell; a
cell that is already in the output file is not repeated. Prints one row per variant and one
column per system.
"""

import argparse
import warnings

from _results import load_rows, open_out, save
from recovery import cell_median, run

from symjax_gn.data.checks import check_choice
from symjax_gn.physics.simulation import SimulationWarning
from symjax_gn.physics.systems import SYSTEMS

PAPER = "--preset paper --steps 8000"
VARIANTS = {
    "defaults": "",
    "focus 1": "--focus 1",
    "absolute loss": "--loss absolute",
    "absolute loss, focus 1": "--loss absolute --focus 1",
    "plain network": "--network paper",
    "no flattening": "--flatten 0",
    "absolute errors": "--errors absolute",
    "raw messages": "--gauge messages",
    "paper": PAPER,
    "newton": "--node newton",
    "antisymmetric": "--pair antisymmetric",
    "central": "--pair central",
}


def _text(cell):
    """Recovered, R^2 of what was regressed on, and error over mean |a|."""
    raw = "--gauge messages" in " ".join(cell[0]["options"])
    r2 = cell_median(cell, "message_r2", "gauge" if raw else "influence")
    error = cell_median(cell, "test_error", "value")
    share = error / cell_median(cell, "test_error", "mean_abs_target")
    return f"{sum(bool(r['recovered']) for r in cell)}/{len(cell)}; {r2:.3f}; {share:.2%}"


def print_table(rows):
    """Variants by systems and dimensions."""
    cases = sorted({(row["system"], row["dim"]) for row in rows})
    print("\nLaws recovered; R^2 untrimmed, gauge-fixed; prediction error over mean |a|\n")
    print(f"| variant | {' | '.join(f'{system}-{dim}' for system, dim in cases)} |")
    print("|---" * (len(cases) + 1) + "|")
    for name in VARIANTS:
        texts = []
        for case in cases:
            cell = [r for r in rows if (r["system"], r["dim"], r["variant"]) == (*case, name)]
            texts.append(_text(cell) if cell else "")
        if any(texts):
            print(f"| {name} | {' | '.join(texts)} |")


def main():
    """Run the cells that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", default=["spring", "r2", "charge", "superposition"])
    parser.add_argument("--dims", nargs="+", type=int, default=[2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--merge", nargs="+", default=[], metavar="FILE", help="rows to take over")
    parser.add_argument("--out", help="JSON file; kept up to date after every cell")
    args = parser.parse_args()
    for system in args.systems:
        check_choice("system", system, SYSTEMS)
    for variant in args.variants:
        check_choice("variant", variant, VARIANTS)
    open_out(args.out)
    warnings.simplefilter("ignore", SimulationWarning)
    rows = [row for row in load_rows(args.out, args.merge) if "variant" in row]
    for seed in args.seeds:
        for variant in args.variants:
            for system in args.systems:
                for dim in [d for d in args.dims if d in SYSTEMS[system].dims]:
                    name = f"{system}-{dim} {variant} seed {seed}"
                    known = [row for row in rows if row["name"] == name]
                    if any("error" not in row for row in known):
                        continue
                    options = VARIANTS[variant].split()
                    row = run(system, dim, "bottleneck", seed, "cpu", options)
                    rows = [r for r in rows if r not in known]
                    rows.append(row | dict(name=name, variant=variant))
                    save(args.out, rows)
                    law = row["laws"][0]["sympy"] if "laws" in row else row["error"]
                    print(f"{name}: {row['recovered']}, {row['value']:.0f} s, {law}", flush=True)
    if args.merge:
        save(args.out, rows)
    print_table(rows)


if __name__ == "__main__":
    main()
