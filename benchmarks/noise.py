"""Laws of the zoo, found from accelerations with noise.

    python benchmarks/noise.py --out benchmarks/results/noise.json
    python benchmarks/noise.py --laws morse mie --dims 2 --noise 0.01 0.05 0.2
    python benchmarks/noise.py --choice score --out FILE

Noise is normal, the same for all bodies and axes, a share of the median acceleration. Each
run is `discover` with its defaults, but for `--choice`; its law is compared with the truth as
in the zoo, where exact means an error below 0.1% at the median. Saves after each.
"""

import argparse
import dataclasses
import sys
import time

import jax
import numpy as np
from _results import commit, form_of, load_rows, open_out, recovered, save
from zoo_laws import LAWS

import symjax_gn as sgn
from symjax_gn.data.checks import check_choice
from symjax_gn.settings import CHOICES


def run(law, dim, noise, seed, settings):
    """One row: what was said of the law that was found."""
    name = f"{law}-{dim} noise {noise} seed {seed}"
    row = dict(name=name, law=law, dim=dim, noise=noise, seed=seed, commit=commit())
    row["choice"] = settings.choice
    key = jax.random.key(seed)
    system = LAWS[law]
    dataset = sgn.make_dataset(sgn.simulate(key, system, dim=dim, num_outputs=100, progress=False))
    exact = np.asarray(dataset.target, np.float64)
    size = noise * np.median(np.linalg.norm(exact, axis=-1))
    shaken = exact + size * np.random.default_rng(seed).normal(size=exact.shape)
    start = time.perf_counter()
    try:
        dataset = dataclasses.replace(dataset, target=shaken.astype(np.float32))
        found = sgn.discover(key, dataset, settings, system=system)
    except (ValueError, RuntimeError) as error:
        return row | dict(value=time.perf_counter() - start, unit="s", error=str(error))
    checks = found.certificate.checks
    return row | dict(
        value=time.perf_counter() - start,
        unit="s",
        verdict=found.verdict.says if found.verdict else None,
        form_verdict=found.verdict.form if found.verdict else None,
        recovered=found.verdict.recovered if found.verdict else None,
        checks=found.verdict.checks if found.verdict else None,
        certificate=dict(says=found.certificate.says, checks=checks),
        message=[str(one) for one in found.law.message],
        update=[str(one) for one in found.law.update],
    )


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--laws", nargs="+", default=list(LAWS), metavar="LAW")
    parser.add_argument("--dims", nargs="+", type=int, default=[2])
    parser.add_argument("--noise", nargs="+", type=float, default=[0.05])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--choice", choices=CHOICES, default="data", help="between laws")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    for law in args.laws:
        check_choice("law", law, LAWS)
    settings = sgn.Settings(choice=args.choice)
    open_out(args.out)
    rows = load_rows(args.out, [])
    known = {(row["name"], row.get("choice", "data")) for row in rows}
    cells = [
        (law, dim, noise, seed)
        for seed in args.seeds
        for noise in args.noise
        for law in args.laws
        for dim in args.dims
        if dim in LAWS[law].dims
    ]
    for law, dim, noise, seed in cells:
        if (f"{law}-{dim} noise {noise} seed {seed}", args.choice) not in known:
            rows.append(run(law, dim, noise, seed, settings))
            save(args.out, rows)
            print(f"{rows[-1]['name']}: {rows[-1].get('verdict')}", file=sys.stderr, flush=True)
    print("| law | verdict | form | certificate | does not hold | the law along x | s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        says = row.get("certificate", {})
        failed = [name for name, one in says.get("checks", {}).items() if one["holds"] is False]
        law = row["message"][0] if "message" in row else row["error"]
        print(
            f"| {row['name']} | {row.get('verdict')} | {form_of(row)} | {says.get('says')} "
            f"| {', '.join(failed)} | `{law}` | {row['value']:.0f} |"
        )
    for word in ("exact", "approximate", "not recovered"):
        mine = [row for row in rows if row.get("verdict") == word]
        believed = sum(row["certificate"]["says"] == "believe" for row in mine)
        print(f"\n{word}: {len(mine)} of {len(rows)}, {believed} of them believed")
    print(f"\nrecovered, that is exact and of the true form: {recovered(rows)}")


if __name__ == "__main__":
    main()
