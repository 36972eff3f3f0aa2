"""How often do 95% intervals of constants hold the truth?

    python benchmarks/intervals.py --out benchmarks/results/intervals.json

Laws of known form, fitted to accelerations with noise, as the main job fits what it has chosen;
no network, for none has a say in the last fit. Each case is a simulation and noise of its own.
"""

import argparse
import itertools
import time

import jax
import numpy as np
import sympy
from _results import commit, open_out, save
from zoo_laws import LAWS

import symjax_gn as sgn
from symjax_gn.discovery.objective import OnFormulas
from symjax_gn.discovery.terms import couplings, force_law, make_term, pair_vectors
from symjax_gn.laws.expressions import constants
from symjax_gn.laws.samples import gather, reweighted
from symjax_gn.laws.shapes import Formula

R = sympy.Symbol("r")

# Laws of the zoo as kernels, whose constants are the truth, with their couplings.
KERNELS = {
    "power_law": (0.5 * (R + 0.01) ** sympy.Float(-1.5), "m_i*m_j"),
    "stiffening": (2.5 * R ** sympy.Float(1.5), "1"),
    "polynomial": (1.0 * R - 1.5 * R**2 + 0.6 * R**3, "1"),
    "logarithmic": (2.0 * R / (R**2 + 1.001), "m_i*m_j"),
    "morse": (13.28046769 * sympy.exp(-1.0 * R) - 44.0927 * sympy.exp(-2.0 * R), "1"),
    "one_sided": (0.999 * R / (R**2 + 0.3), "m_j"),
}
NOISE = (0.01, 0.05, 0.2)


def case(name, noise, seed):
    """How many constants of one fit there are, and how many their intervals hold."""
    kernel, way = KERNELS[name]
    key, noise_key = jax.random.split(jax.random.key(seed))
    run = sgn.simulate(key, LAWS[name], num_simulations=60, num_outputs=20, progress=False)
    bodies = gather(sgn.make_dataset(run), 5_000)
    coupling = next(one for one in couplings(bodies.elements, "ij") if str(one) == way)
    term = make_term(pair_vectors(bodies.elements, 2)[0], coupling)
    law = force_law([term], (), 2).with_shapes([Formula(kernel)])
    objective = OnFormulas(law, bodies)
    # The truth is what an exact fit finds: constants of forms that others equal are no truth.
    (truth,), error = objective.fit((kernel,))
    if error > 1e-4:
        raise ValueError(f"{name} is not the law of the zoo: it errs by {error:.2g}.")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(noise_key)))
    size = 1 / bodies.weight[:, None]
    shaken = bodies.target + noise * size * rng.normal(size=bodies.target.shape)
    noisy = bodies._replace(target=shaken)
    # As in the main job, weights are those of predictions.
    objective = OnFormulas(law, reweighted(noisy, bodies.target))
    (found,), _ = objective.fit((truth,))
    # SymPy's order of terms may change with their factors, but not that of their sizes.
    intervals = sorted(objective.intervals((found,)))
    planted = sorted(map(float, constants(truth)))
    held = [one.low <= value <= one.high for one, value in zip(intervals, planted, strict=True)]
    return len(held), sum(held)


def main():
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=20, help="of each law and noise")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    open_out(args.out)
    rows = []
    print("| law | noise | constants | within their intervals |\n|---|---|---|---|")
    for name, noise in itertools.product(KERNELS, NOISE):
        start = time.perf_counter()
        found = [case(name, noise, seed) for seed in range(args.cases)]
        count, held = (sum(column) for column in zip(*found, strict=True))
        rows.append(
            dict(
                name=f"{name} noise {noise}", value=held / count, unit="share", count=count,
                seeds=args.cases, commit=commit(), seconds=time.perf_counter() - start,
            )
        )  # fmt: skip
        save(args.out, rows)
        print(f"| {name} | {noise:.0%} | {count} | {held / count:.0%} |", flush=True)
    count = sum(row["count"] for row in rows)
    share = sum(row["value"] * row["count"] for row in rows) / count
    print(f"\nall: {share:.1%} of {count}")


if __name__ == "__main__":
    main()
