"""Verdicts and certificates of laws that were found before, by today's rules and without a search.

    python benchmarks/rejudge.py benchmarks/results/zoo.json
    python benchmarks/rejudge.py benchmarks/results/later_laws.json --zoo benchmarks/later_laws.py

Rows are those of `zoo.py` and `noise.py`. Their data are simulated again from the seed, and the
law that was found then is certified and judged as it stands; a row keeps the commit of its
search and gets that of its judgement. Networks are not trained again, so that no check
compares with one. Saves after each; `zoo.py` and `noise.py` print the tables.
"""

import argparse
import dataclasses
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import sympy
from _results import commit, load_rows, recovered, save
from threadpoolctl import threadpool_limits

import symjax_gn as sgn
from symjax_gn.discovery import certificate, verdict
from symjax_gn.discovery.refitting import force_model
from symjax_gn.laws.grammar import parse_expression

ROOT = Path(__file__).parent.parent


def _data(row, system):
    """The data of a row as `discover` was given them, and the key that it was given."""
    key = jax.random.key(row["seed"])
    if "noise" in row:
        run = sgn.simulate(key, system, dim=row["dim"], num_outputs=100, progress=False)
        dataset = sgn.make_dataset(run)
        exact = np.asarray(dataset.target, np.float64)
        size = row["noise"] * np.median(np.linalg.norm(exact, axis=-1))
        shaken = exact + size * np.random.default_rng(row["seed"]).normal(size=exact.shape)
        return dataclasses.replace(dataset, target=shaken.astype(np.float32)), key
    data_key, run_key, _ = jax.random.split(key, 3)
    run = sgn.simulate(
        data_key, system, dim=row["dim"], num_outputs=100, dt=5 * system.dt, progress=False
    )
    if system.cutoff is not None:
        return sgn.make_dataset(run, cutoff=system.cutoff), run_key
    return sgn.make_dataset(run, *system.edges(run.position.shape[2])), run_key


def judged(row, system):
    """The row with what is said of its law today."""
    dataset, key = _data(row, system)
    keys = jax.random.split(key, 4)
    parts = sgn.split(keys[0], dataset)
    if "refit" in row:
        force, alone = row["refit"]["components"], row["refit"]["one_body"]
    else:
        force = row["message"]
        alone = [f"m_i*({change}) - e_{k}" for k, change in enumerate(row["update"])]
    force = [parse_expression(one) for one in force]
    # Expanded, so that the sums e_k cancel.
    alone = [sympy.expand(parse_expression(one)) for one in alone]
    law = force_model(force, alone, parts[0])
    with threadpool_limits(limits=1, user_api="blas"):
        said = certificate.certify(law, None, parts[0], parts[2])
    own = verdict.judge_one_body(keys[3], alone, system, parts[2])
    found = verdict.judge(keys[3], force, system, parts[0], parts[2], one_body=own)
    return row | dict(
        verdict=found.says, form_verdict=found.form, recovered=found.recovered,
        certificate=said._asdict(), checks=found.checks, judged=commit(),
    )  # fmt: skip


def main():
    """Judge what has not been judged by this commit, count what is recovered."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", help="JSON file of zoo.py or noise.py; is rewritten")
    parser.add_argument("--zoo", default="benchmarks/zoo_laws.py", metavar="FILE")
    args = parser.parse_args()
    laws = runpy.run_path(str(ROOT / args.zoo))["LAWS"]
    rows = load_rows(args.results, [])
    for k, row in enumerate(rows):
        if "error" in row or row.get("judged") == commit():
            continue
        rows[k] = judged(row, laws[row["law"]])
        save(args.results, rows)
        print(
            f"{row['name']}: {row['verdict']} -> {rows[k]['verdict']}, {rows[k]['form_verdict']}, "
            f"{row['certificate']['says']} -> {rows[k]['certificate']['says']}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    print(f"recovered, that is exact and of the true form: {recovered(rows)}")


if __name__ == "__main__":
    main()
