"""Every law of the paper's tables, on every strategy, through the main job.

    python benchmarks/recovery.py --out benchmarks/results/recovery.json
    python benchmarks/recovery.py --dims 2 --out two.json   # one core each, side by side
    python benchmarks/recovery.py --dims 3 --out three.json
    python benchmarks/recovery.py --seeds --merge two.json three.json --out both.json

Each cell (system, dimension, strategy, seed) is one call of the main job,
`examples/discover_force.py`, in this process, or for the strategy "flathgn" of
`examples/discover_potential.py`, with a Rayleigh function (`--dissipative`) where the system
has drag; its report is the cell's row. Saves after each cell; a cell that is already in the
output file is not repeated, whatever the defaults were then, unless it ended with an error.
Then prints the paper's tables 1 (R^2 of messages), 3 (prediction error) and 5 (law recovered)
beside the published figures, and how well Hamiltonians keep their energies. "l1-unpruned" and
"kl-unpruned" train as the paper does, with the penalty to the end and no pruning. A law counts
as recovered if it is exact, of the true form, and the number of message components is found;
"law" says in how many runs it is exact and of that form whatever that number. Rows of before
forms were compared (no "form_verdict") count by their numbers alone. Options of the main job
after `--options` make rows of their own.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import math
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

from _results import commit, load_rows, open_out, save

from symjax_gn.data.checks import check_choice
from symjax_gn.networks.strategies import STRATEGIES
from symjax_gn.physics.simulation import SimulationWarning
from symjax_gn.physics.systems import SYSTEMS
from symjax_gn.settings import STEPS

ROOT = Path(__file__).parent.parent
ROWS = ("spring", "r1", "r2", "charge", "damped", "discontinuous", "superposition")
ROWS += ("string",)
# The tables compare networks, so that of the bottleneck is trained as long as the others.
FULL = ("--steps", str(STEPS))
BUDGETS = {"cpu": [], "gpu": ["--steps", "20000", "--simulations", "4000"]}

# arXiv:2006.11287: R^2 (table 1) with law recovered (table 5), and test loss (table 3).
PUBLISHED = {
    "charge-2": ("0.016 no", "0.947 yes", "0.004 no", "0.185 no"),
    "charge-3": ("0.013 no", "0.980 yes", "0.002 no", "0.425 no"),
    "r1-2": ("0.000 no", "1.000 yes", "1.000 yes", "0.796 yes"),
    "r1-3": ("0.000 no", "1.000 yes", "1.000 yes", "0.332 yes"),
    "r2-2": ("0.004 no", "0.993 yes", "0.990 yes", "0.770 no"),
    "r2-3": ("0.002 no", "0.994 yes", "0.977 yes", "0.214 no"),
    "spring-2": ("0.032 no", "1.000 yes", "1.000 yes", "0.883 yes"),
    "spring-3": ("0.036 no", "0.995 yes", "1.000 yes", "0.214 yes"),
}
PUBLISHED_LOSS = {
    "charge-2": (48.688, 50.012, 51.906, 59.927, 54.962),
    "charge-3": (1.174, 0.986, 0.940, 4.201, 3.538),
    "damped-2": (0.299, 0.328, 0.300, 1.466, 0.346),
    "damped-3": (0.415, 0.449, 0.400, 3.297, 0.474),
    "discontinuous-2": (0.064, 0.074, 0.044, 1.804, 0.075),
    "discontinuous-3": (0.199, 0.177, 0.126, 4.191, 0.139),
    "r1-2": (0.077, 0.069, 0.079, 3.463, 0.050),
    "r1-3": (0.051, 0.050, 0.055, 3.523, 0.017),
    "r2-2": (1.613, 1.640, 1.184, 9.252, 1.284),
    "r2-3": (3.976, 3.591, 3.366, 9.788, 2.476),
    "spring-2": (0.047, 0.046, 0.045, 1.659, 0.016),
    "spring-3": (0.111, 0.110, 0.090, 3.797, 0.010),
}
DRIFTS = ("own_drift", "true_drift")

# Columns of the tables; of the paper's, in the order of its figures.
UNPRUNED = {"l1-unpruned": "l1", "kl-unpruned": "kl"}
COLUMNS = (*STRATEGIES, *UNPRUNED)
PUBLISHED_COLUMNS = ("standard", "bottleneck", "l1", "kl", "flathgn")


def load_job(name="discover_force"):
    """A script of `examples` as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def make_arguments(system, dim, strategy, seed, budget, options):
    """The job of a cell and its command line, but for the output folder."""
    arguments = ["--system", system, "--dim", str(dim), "--seed", str(seed), *BUDGETS[budget]]
    job = load_job()
    if strategy == "flathgn":
        job = load_job("discover_potential")
        arguments += ["--dissipative"] if SYSTEMS[system].drag else []
    elif strategy in UNPRUNED:
        arguments += ["--strategy", UNPRUNED[strategy], "--no-prune"]
    else:
        arguments += ["--strategy", strategy]
    if strategy == "bottleneck" and "--steps" not in arguments:
        arguments += FULL
    return job, [*arguments, *options]


def run(system, dim, strategy, seed, budget, options):
    """One row: the report of one cell, or the error that ended it."""
    name = cell_name(system, dim, strategy, seed, options)
    row = dict(name=name, value=None, unit="s", budget=budget, commit=commit())
    row |= dict(system=system, dim=dim, strategy=strategy, seed=seed, recovered=False)
    row |= dict(options=options)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        job, arguments = make_arguments(system, dim, strategy, seed, budget, options)
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            try:
                code = job.main([*arguments, "--out", folder])
            except Exception as error:
                # One cell must not end the others; the row says what happened.
                code = 1
                print(f"{type(error).__name__}: {' '.join(str(error).split())}")
        if code:
            row |= dict(error=said.getvalue().strip().splitlines()[-1])
        else:
            report = json.loads((Path(folder) / "report.json").read_text())
            row |= report | dict(strategy=strategy)
    row["value"] = time.perf_counter() - start
    return row


def cell_name(system, dim, strategy, seed, options):
    """What a row is known by."""
    return " ".join([f"{system}-{dim}", strategy, "seed", str(seed), *options])


def _case(row):
    return " ".join([f"{row['system']}-{row['dim']}", *row.get("options", [])])


def _cell(rows, case, strategy):
    return [row for row in rows if _case(row) == case and row["strategy"] == strategy]


def cell_median(rows, *path):
    """Median over the rows of one cell of what lies at a path of keys, NaN if nowhere."""
    found = []
    for row in rows:
        for key in path:
            row = (row or {}).get(key)
        if row is not None:
            found.append(row)
    return statistics.median(found) if found else float("nan")


def _print_table(rows, title, text):
    """One row per case and one column per strategy; `text` writes a cell."""
    cases = sorted({_case(row) for row in rows})
    strategies = [s for s in COLUMNS if any(row["strategy"] == s for row in rows)]
    print(f"\n{title}\n\n| case | {' | '.join(strategies)} |")
    print("|---" * (len(strategies) + 1) + "|")
    for case in cases:
        found = [(strategy, _cell(rows, case, strategy)) for strategy in strategies]
        texts = [text(case, strategy, cell) if cell else "" for strategy, cell in found]
        print(f"| {case} | {' | '.join(texts)} |")


def _published(table, case, strategy):
    # A case with options is one of the same data.
    known = dict(zip(PUBLISHED_COLUMNS, table.get(case.split()[0], ()), strict=False))
    return known.get(UNPRUNED.get(strategy, strategy))


def _counts(cell):
    """Laws recovered of those that ran, and those that are exact where these are more."""
    recovered = sum(bool(row["recovered"]) for row in cell)
    exact = sum(bool(row["recovered"]) or _exact_but_for_dimension(row) for row in cell)
    return f"{recovered}/{len(cell)}" + (f" (law {exact})" if exact > recovered else "")


def _exact_but_for_dimension(row):
    checks = row.get("checks") or {}
    same = row.get("form_verdict", "same") == "same"
    return (
        same
        and "dimension" in checks
        and all(check["holds"] for name, check in checks.items() if name != "dimension")
    )


def _law_text(case, strategy, cell):
    r2 = [cell_median(cell, "message_r2", key) for key in ("force", "gauge", "influence")]
    text = f"{_counts(cell)}; "
    text += ", ".join(f"{value:.3f}" for value in r2)
    theirs = _published(PUBLISHED, case, strategy)
    return text if theirs is None else f"{text} [{theirs}]"


def _error_text(case, strategy, cell):
    bodies = cell_median(cell, "n")
    error = cell_median(cell, "test_error", "value") / bodies
    size = cell_median(cell, "test_error", "mean_abs_target") / bodies
    law = cell_median(cell, "law_error") / bodies
    fitted = cell_median(cell, "refit", "law_error") / bodies
    text = f"{error:.3g} = {error / size:.2%}, law {law:.3g}"
    text += f", refitted {fitted:.1g}" if fitted == fitted else ""
    theirs = _published(PUBLISHED_LOSS, case, strategy)
    return text if theirs is None else f"{text} [{theirs}; {error / theirs:.2f}]"


def print_tables(rows):
    """The paper's tables 1 and 5, and 3; medians over seeds."""
    _print_table(
        rows,
        "Tables 1 and 5: laws recovered; R^2 untrimmed, of raw messages (g = 1), of raw messages "
        "in their best gauge, of the force they stand for [published R^2, law]",
        _law_text,
    )
    _print_table(
        rows,
        "Table 3: error per node, sum over dimensions of |a - a_hat|, its share of mean |a|, and "
        "the law's as it was picked and refitted [published loss, taken as the same unit; ratio of "
        "ours to it]",
        _error_text,
    )


def print_rollouts(rows):
    """How well Hamiltonians keep energies over ten times the training length."""
    kept = []
    for row in rows:
        for found in (row.get("energies") or {}).get("rollouts") or ():
            # JSON has no infinity: null stands for it.
            drifts = {k: math.inf if found[k] is None else found[k] for k in DRIFTS}
            kept.append(found | drifts | dict(case=_case(row)))
    if not kept:
        return
    print(
        "\nLargest change of a Hamiltonian's own energy, and of the true energy on its paths, over "
        "the initial kinetic energy; median over seeds of medians over paths (paths that failed)\n"
    )
    names = ("true", "distilled", "network")
    print(f"| case | solver | {' | '.join(names)} |\n|---|---|---|---|---|")
    for case, solver in sorted({(found["case"], found["solver"]) for found in kept}):
        texts = []
        for name in names:
            key = (case, solver, name)
            cell = [f for f in kept if (f["case"], f["solver"], f["hamiltonian"]) == key]
            text = f"{cell_median(cell, 'own_drift'):.1e}, {cell_median(cell, 'true_drift'):.1e}"
            failed, paths = (sum(f[count] for f in cell) for count in ("failed", "paths"))
            texts.append(f"{text} ({failed}/{paths})" if failed else text)
        print(f"| {case} | {solver} | {' | '.join(texts)} |")


def print_energies(rows):
    """Laws of energies that hold, and how well what no force shows was found."""
    rows = [row for row in rows if row.get("energies")]
    if not rows:
        return
    print(
        "\nEnergies that hold, of those that ran; and what the additive function leaves of what "
        "pair energies have on top of the potential, over their spread, median over seeds\n"
    )
    print("| case | potential | kinetic energy | additive function |\n|---|---|---|---|")
    for case in sorted({_case(row) for row in rows}):
        cell = _cell(rows, case, "flathgn")
        counts = []
        for name in ("potential", "kinetic"):
            checks = [(row["energies"]["checks"].get(name) or {}).get("holds") for row in cell]
            counts.append(f"{sum(map(bool, checks))}/{len(cell)}")
        additive = cell_median(cell, "energies", "additive_error")
        print(f"| {case} | {' | '.join(counts)} | {additive:.1%} |")


def print_more_bodies(rows):
    """Errors with another number of bodies than in training, over mean |a|."""
    rows = [row for row in rows if row.get("more_bodies")]
    if not rows:
        return
    print("\nError over mean of a: network, network and refitted law with another number of bodies")
    print("\n| run | network | bodies | network | law |\n|---|---|---|---|---|")
    for row in rows:
        more = row["more_bodies"]
        network, law = (more[name] / more["mean_abs_target"] for name in ("network", "law"))
        print(f"| {row['name']} | {_share(row):.2%} | {more['n']} | {network:.2%} | {law:.0e} |")


def print_summary(rows):
    """The ten lines of the README: recovered of seeds, 2D then 3D, and the worst figures."""
    rows = [row for row in rows if not row.get("options")]
    strategies = [s for s in COLUMNS if any(row["strategy"] == s for row in rows)]
    print("\nLaws recovered of seeds run, 2D and 3D; (law) those that are exact, where more")
    print(f"\n| law | {' | '.join(strategies)} |")
    print("|---" * (len(strategies) + 1) + "|")
    for system in dict.fromkeys(row["system"] for row in rows):
        texts = []
        dims = sorted({row["dim"] for row in rows if row["system"] == system})
        for strategy in strategies:
            cells = [_cell(rows, f"{system}-{dim}", strategy) for dim in dims]
            counts = [_counts(cell) if cell else "–" for cell in cells]
            texts.append(", ".join(counts) if any(cells) else "")
        print(f"| {system} | {' | '.join(texts)} |")
    for title, least, value in (
        ("least R^2 of forces", True, lambda row: _r2(row, "influence")),
        ("least R^2 of raw messages", True, lambda row: _r2(row, "gauge")),
        ("error over mean of a, largest", False, _share),
    ):
        texts = []
        for strategy in strategies:
            found = [(value(r), _case(r)) for r in rows if r["strategy"] == strategy]
            found = [pair for pair in found if pair[0] is not None]
            worst = (min if least else max)(found, default=(float("nan"), ""))
            number = f"{worst[0]:.4f}" if least else f"{worst[0]:.1%}"
            texts.append(f"{number} ({worst[1]})")
        print(f"| {title} | {' | '.join(texts)} |")


def _r2(row, kind):
    if kind == "gauge" and row["strategy"] == "flathgn":
        return None  # It has energies, no messages.
    return (row.get("message_r2") or {}).get(kind)


def _share(row):
    error = row.get("test_error")
    return error and error["value"] / error["mean_abs_target"]


def main():
    """Run the cells that are missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", default=list(ROWS), metavar="SYSTEM")
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--strategies", nargs="+", default=list(COLUMNS), metavar="STRATEGY")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--budget", choices=list(BUDGETS), default="cpu")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of the main job")
    parser.add_argument("--merge", nargs="+", default=[], metavar="FILE", help="rows to take over")
    parser.add_argument("--out", help="JSON file; kept up to date after every cell")
    args = parser.parse_args()
    for system in args.systems:
        check_choice("system", system, SYSTEMS)
    for strategy in args.strategies:
        check_choice("strategy", strategy, COLUMNS)
    open_out(args.out)
    warnings.simplefilter("ignore", SimulationWarning)
    rows = load_rows(args.out, args.merge)
    cells = [
        (system, dim, strategy, seed)
        for seed in args.seeds
        for system in args.systems
        for dim in args.dims
        if dim in SYSTEMS[system].dims
        for strategy in args.strategies
    ]
    for cell in cells:
        # A wrong option ends the whole before anything runs.
        job, arguments = make_arguments(*cell, args.budget, args.options)
        job.parse(arguments)
    if args.merge:
        save(args.out, rows)
    for cell in cells:
        name = cell_name(*cell, args.options)
        known = [r for r in rows if r["name"] == name and r["budget"] == args.budget]
        if any("error" not in r for r in known):
            continue
        row = run(*cell, args.budget, args.options)
        rows = [*(r for r in rows if r not in known), row]
        save(args.out, rows)
        law = row["laws"][0]["sympy"] if "laws" in row else row["error"]
        print(f"{name}: {row['recovered']}, {row['value']:.0f} s, {law}", flush=True)
    rows = [row for row in rows if row["budget"] == args.budget]
    print_tables(rows)
    print_energies(rows)
    print_rollouts(rows)
    print_more_bodies(rows)
    print_summary(rows)


if __name__ == "__main__":
    main()
