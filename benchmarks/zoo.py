"""Laws that nobody tuned for, through the main job with its defaults.

    python benchmarks/zoo.py --out benchmarks/results/zoo.json
    python benchmarks/zoo.py --laws morse mie --dims 2 --seeds 0
    python benchmarks/zoo.py --zoo benchmarks/later_laws.py --out benchmarks/results/later.json

Each cell (law, dimension, seed) is a process of its own, so that its seconds are those that
a user waits. Saves after each cell; a cell that is in the output file is not repeated. Then
prints the table: how near each law is, whether it has the true form, the law, and the seconds.
"""

import argparse
import collections
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _results import commit, form_of, load_rows, open_out, recovered, save

from symjax_gn.data.checks import check_choice

ROOT = Path(__file__).parent.parent


def run(zoo, law, dim, seed, options):
    """One row: the report of one cell, or the error that ended it."""
    row = dict(name=f"{law}-{dim} seed {seed}", law=law, dim=dim, seed=seed, commit=commit())
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "examples/discover_force.py", "--system"]
        command += [f"{zoo}:{law}", "--dim", str(dim), "--seed", str(seed)]
        command += [*options, "--out", folder]
        start = time.perf_counter()
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": paths}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        row |= dict(value=time.perf_counter() - start, unit="s", options=options)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            return row | dict(error=said[-1])
        report = json.loads((Path(folder) / "report.json").read_text())
    keys = (
        "verdict",
        "form_verdict",
        "recovered",
        "certificate",
        "checks",
        "laws",
        "refit",
        "one_body",
        "test_error",
    )
    return row | {key: report.get(key) for key in keys} | dict(stages=report["seconds"])


def _law_text(row):
    if row.get("error"):
        return row["error"]
    refit = row["refit"] or {}
    if refit.get("towards"):
        return f"${refit['towards']['latex']}$"
    return "; ".join(f"${law['latex']}$" for law in row["laws"])


def _counted(words):
    """Words with how often they come, e.g. "2 exact, 1 approximate"; those of one run alone."""
    counts = collections.Counter(words)
    if sum(counts.values()) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def print_table(rows):
    """One line per law and dimension, with all seeds that ran, and the totals."""
    print(
        "| law | verdicts | forms | certificates | the law, towards the sender, or factors of "
        "vectors | s |"
    )
    print("|---|---|---|---|---|---|")
    cases: dict = {}
    for row in rows:
        cases.setdefault((row["dim"], row["law"]), []).append(row)
    for (dim, law), mine in sorted(cases.items(), key=lambda case: case[0][0]):
        verdicts = _counted(row.get("verdict", "error") for row in mine)
        forms = _counted(form_of(row) for row in mine)
        says = _counted((row.get("certificate") or {}).get("says", "") for row in mine)
        seconds = ", ".join(f"{row['value']:.0f}" for row in mine)
        print(f"| {law}-{dim} | {verdicts} | {forms} | {says} | {_law_text(mine[0])} | {seconds} |")
    counts = {word: sum(row.get("verdict", "error") == word for row in rows) for word in
              ("exact", "approximate", "not recovered", "error")}  # fmt: skip
    seconds = [row["value"] for row in rows]
    print(f"\n{len(rows)} runs: " + ", ".join(f"{n} {word}" for word, n in counts.items()))
    print(f"recovered, that is exact and of the true form: {recovered(rows)}")
    believed = sum((row.get("certificate") or {}).get("says") == "believe" for row in rows)
    print(f"believed: {believed}")
    print(f"seconds: median {statistics.median(seconds):.0f}, largest {max(seconds):.0f}")


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--zoo", default="benchmarks/zoo_laws.py", metavar="FILE")
    parser.add_argument("--laws", nargs="+", metavar="LAW", help="of the file (default: all)")
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of the main job")
    parser.add_argument("--out", help="JSON file; kept up to date after every cell")
    args = parser.parse_args()
    known_laws = runpy.run_path(str(ROOT / args.zoo))["LAWS"]
    laws = args.laws or list(known_laws)
    for law in laws:
        check_choice("law", law, known_laws)
    open_out(args.out)
    rows = load_rows(args.out, [])
    known = {row["name"] for row in rows if "error" not in row}
    for seed in args.seeds:
        for law in laws:
            for dim in args.dims:
                name = f"{law}-{dim} seed {seed}"
                if dim not in known_laws[law].dims or name in known:
                    continue
                rows = [row for row in rows if row["name"] != name]
                rows.append(run(args.zoo, law, dim, seed, args.options))
                save(args.out, rows)
                print(f"{name}: {rows[-1].get('verdict')}", file=sys.stderr, flush=True)
    if rows:
        print_table(rows)


if __name__ == "__main__":
    main()
