"""Other ways to the same law, in turn on the same recordings.

    python -m pip install -e ".[bench]"
    python benchmarks/peers.py --out benchmarks/results/peers.json
    python benchmarks/peers.py --systems spring --ways here kernels --repeats 1

Ways: "here" is the main job (`discover`); "kernels" least squares of splines of the distance,
one for each coupling; "sindy" sparse sums of functions of the distance times couplings
(pysindy, thresholds by validation); "sfi" the same functions in StochasticForceInference, which
sees positions only. The last three run twice: told how forces depend on masses and charges, and
not told ("blind": kernels of accelerations without any coupling, for sums all of `COUPLINGS`).
The main job is never told. Errors are of forces between pairs of test recordings, of which the
nearest and farthest 1% are left out: relative L2 error, and the median of each pair's.
"verdict" and "form_verdict" are those of the main job, of a law that a way has written down.
Seconds with compilation, each run in a process of its own.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import sympy
from _results import open_out, save
from scipy.interpolate import BSpline

import symjax_gn as sgn
from symjax_gn.data.features import pair_features
from symjax_gn.data.nodes import AXES, take_nodes
from symjax_gn.data.sampling import sample_stars
from symjax_gn.laws.expressions import evaluate
from symjax_gn.laws.samples import gather
from symjax_gn.physics.systems import SYSTEMS, load_system, true_forces

ZOO = "benchmarks/zoo_laws.py:"
CASES = {
    "spring": ["1"],
    "r1": ["m_i*m_j"],
    "r2": ["m_i*m_j"],
    "charge": ["q_i*q_j"],
    f"{ZOO}charge_and_spring": ["1", "q_i*q_j"],
    f"{ZOO}coupled_by_root": ["sqrt(m_i*m_j)"],
    f"{ZOO}alignment": ["1"],
}
"""Systems, and the couplings that are told."""

COUPLINGS = ["1", "m_i", "m_j", "m_i*m_j", "m_i + m_j", "sqrt(m_i*m_j)", "q_i*q_j", "q_j"]
FUNCTIONS = ["r**-3", "r**-2", "1/r", "1", "r", "r**2", "r**3", "exp(-r)", "exp(-r)/r", "log(r)"]
WAYS = ("here", "kernels", "kernels blind", "sindy", "sindy blind", "sfi", "sfi blind")

# Pairs of bodies that are fitted, stars of pairs that errors are of.
PAIRS, STARS = 40_000, 2_000

# Knots of a kernel: evenly spread, and as many quantiles of the distance.
KNOTS = 16
SEEN = np.linspace(0.01, 0.99, KNOTS)
THRESHOLDS = np.geomspace(1e-4, 1.0, 25)

# Larger errors are not told apart.
_FAR = 10.0


def recordings(name, dim, seed):
    """The system, its recordings, and their split, as of the main job."""
    import jax

    system = SYSTEMS[name] if name in SYSTEMS else load_system(name)
    keys = jax.random.split(jax.random.key(seed))
    run = sgn.simulate(keys[0], system, num_outputs=100, dt=5 * system.dt, dim=dim)
    return system, run, sgn.split(keys[1], sgn.make_dataset(run))


def rows_of(dataset):
    """Weighted rows: pairs' columns, the sum over them as a matrix, and accelerations."""
    bodies = gather(dataset, PAIRS)
    return bodies.elements, bodies.rows @ bodies.sums, bodies.target, bodies.weight


def unit_of(pairs, dim):
    """Unit vectors `[pair, dim]` of columns of pairs."""
    return np.stack([pairs[f"d{axis}"] for axis in AXES[:dim]], axis=1) / pairs["r"][:, None]


def columns_of(expressions, pairs):
    """Values `[pair, expression]`."""
    found = [np.broadcast_to(evaluate(one, pairs), pairs["r"].shape) for one in expressions]
    return np.stack(found, axis=1)


def projected(values, told, dataset):
    """Design `[row, column]` and target `[row]` of accelerations, relative to their size.

    Args:
        values: `[pair, column]` of `dataset`, sizes of forces along the line of centres.
        told: whether masses are known to divide forces.
        dataset: graphs.
    """
    pairs, sums, target, weight = rows_of(dataset)
    matrix = sums if told else abs(sums).sign()
    unit = unit_of(pairs, target.shape[1])
    blocks = [weight[:, None] * (matrix @ (values * axis[:, None])) for axis in unit.T]
    return np.concatenate(blocks), (weight[:, None] * target).T.ravel()


def by_kernels(told, couplings, run, parts):
    """Least squares of cubic splines of the logarithm of the distance."""
    pairs = rows_of(parts[0])[0]
    low, high = (np.log(end(pairs["r"])) for end in (np.min, np.max))
    even = np.linspace(low, high, KNOTS)
    knots = np.sort(np.concatenate([np.log(np.quantile(pairs["r"], SEEN)), even]))
    knots = np.concatenate([[low] * 3, knots, [high] * 3])
    factors = [sympy.sympify(one) for one in (couplings if told else ["1"])]

    def spread(pairs):
        inside = np.clip(np.log(pairs["r"]), knots[0], knots[-1])
        basis = BSpline.design_matrix(inside, knots, 3).toarray()
        sizes = columns_of(factors, pairs)
        return (sizes[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)

    design, target = projected(spread(pairs), told, parts[0])
    found, *_ = np.linalg.lstsq(design, target, rcond=1e-10)

    def force(pairs):
        size = spread(pairs) @ found
        return size * (1 if told else pairs["m_i"])

    return force, None


def library(told, couplings):
    """Sizes of forces that sums may have."""
    factors = couplings if told else COUPLINGS
    terms = [sympy.sympify(f"({a})*({b})") for a in factors for b in FUNCTIONS]
    return list(dict.fromkeys(terms))


def by_sindy(told, couplings, run, parts):
    """Sparse sums of a library's terms; the threshold is the one that validation likes best."""
    import pysindy

    terms = library(told, couplings)
    designs = []
    for dataset in parts[:2]:
        values = columns_of(terms, rows_of(dataset)[0])
        designs.append(projected(values, True, dataset))
    (design, target), (held_out, truth) = designs
    size = np.sqrt(np.mean(design**2, axis=0))
    best = None
    for threshold in THRESHOLDS:
        optimizer = pysindy.STLSQ(threshold=threshold, alpha=1e-10)
        model = pysindy.SINDy(optimizer=optimizer, feature_library=pysindy.IdentityLibrary())
        model.fit(design / size, t=1.0, x_dot=target[:, None])
        found = model.coefficients()[0] / size
        error = float(np.mean(np.abs(held_out @ found - truth)))
        # Of those that are as good the sparsest, which has the largest threshold.
        if np.any(found) and (best is None or error <= 1.02 * best[0]):
            best = (error, found)
    assert best is not None
    return written(terms, best[1])


def by_inference(told, couplings, run, parts):
    """StochasticForceInference: linear inference from positions, sparse by its criterion."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from SFI import TrajectoryCollection, UnderdampedLangevinInference
    from SFI.statefunc.factory import make_interactor

    terms = library(told, couplings)
    names = ["r", "m_i", "m_j", "q_i", "q_j"]
    size = sympy.lambdify(sympy.symbols(names), sympy.Array(terms), "jax")
    units = 1 / np.sqrt(np.mean(columns_of(terms, rows_of(parts[0])[0]) ** 2, axis=0))

    def local(positions, *, extras=None):
        assert extras is not None
        way = positions[1] - positions[0]
        r = jnp.sqrt(jnp.sum(way**2) + 1e-12)
        mass, charge = extras["mass"], extras["charge"]
        sizes = jnp.asarray(size(r, mass[0], mass[1], charge[0], charge[1]))
        return (way / r)[:, None] * (units * sizes / mass[0])[None, :]

    dim = run.position.shape[-1]
    extras = ("mass", "charge")
    basis = make_interactor(
        local, dim=dim, rank=1, K=2, n_features=len(terms), extras_keys=extras,
        particle_extras=extras, labels=list(map(str, terms)),
    ).dispatch_pairs()  # fmt: skip
    groups = np.unique(parts[0].group)
    recorded = [
        TrajectoryCollection.from_arrays(
            X=np.asarray(run.position[k], np.float64),
            t=np.asarray(run.time, np.float64),
            extras_local={name: np.asarray(run.properties[name][k], float) for name in extras},
        )
        for k in groups
    ]
    inference = UnderdampedLangevinInference(recorded[0].concat(recorded[1:]))
    inference.compute_diffusion_constant()
    inference.infer_force_linear(basis)
    inference.sparsify_force(criterion="PASTIS")
    return written(terms, np.asarray(inference.force_coefficients_full).ravel() * units)


def written(terms, found):
    """The size of the force as a function of columns, and as a law."""
    law = sympy.Add(*(sympy.Float(c) * term for c, term in zip(found, terms, strict=True) if c))
    return lambda pairs: columns_of([law], pairs)[:, 0], law


def one(name, way, dim, seed):
    """A row of one way."""
    import jax

    system, run, parts = recordings(name, dim, seed)
    key = jax.random.key(seed)
    stars = sample_stars(key, parts[2], STARS)
    owner, sender = np.nonzero(stars.present)
    ends = take_nodes(stars.receiver, owner), take_nodes(stars.senders, (owner, sender))
    pairs, truth = pair_features(*ends), true_forces(system, *ends)
    kind, told = way.split()[0], "blind" not in way
    start = time.perf_counter()
    if kind == "here":
        found = sgn.discover(key, run, system=system)
        seconds = time.perf_counter() - start
        force = columns_of(found.refit.force, pairs)
        law, said = found.refit.towards, found.verdict
    else:
        ways = dict(kernels=by_kernels, sindy=by_sindy, sfi=by_inference)
        size, law = ways[kind](told, CASES[name], run, parts)
        seconds = time.perf_counter() - start
        unit = unit_of(pairs, dim)
        force = size(pairs)[:, None] * unit
        said = None
        if law is not None:
            way_to = [sympy.Symbol(f"d{axis}") / sympy.Symbol("r") for axis in AXES[:dim]]
            said = sgn.judge(key, [law * one for one in way_to], system, *parts[::2])
    near, far = np.quantile(pairs["r"], [0.01, 0.99])
    seen = (pairs["r"] >= near) & (pairs["r"] <= far)
    gap, sizes = (np.linalg.norm(x[seen], axis=1) for x in (force - truth, truth))
    return dict(
        value=seconds,
        unit="s",
        error=float(np.sqrt(np.sum(gap**2) / np.sum(sizes**2))),
        median=float(np.median(gap / (sizes + 0.01 * np.median(sizes)))),
        verdict=None if said is None else said.says,
        form_verdict=None if said is None else said.form,
        law=None if law is None else str(law),
    )


def main():
    """Run the ways in turn and print the table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--dim", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="seeds of data and training")
    parser.add_argument("--here", nargs=3, metavar=("SYSTEM", "WAY", "SEED"), help="one run")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    if args.here:
        name, way, seed = args.here
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = one(name, way, args.dim, int(seed))
        print(json.dumps(row))
        return
    open_out(args.out)
    rows = []
    for seed in range(args.repeats):
        for name in args.systems:
            for way in args.ways:
                command = [sys.executable, __file__, "--dim", str(args.dim)]
                command += ["--here", name, way, str(seed)]
                done = subprocess.run(command, capture_output=True, text=True)
                short = name.removeprefix(ZOO)
                row = dict(name=f"{short}, {way}, seed {seed}", system=short, way=way, seed=seed)
                said = (done.stderr if done.returncode else done.stdout).strip().splitlines()
                row |= dict(error=said[-1]) if done.returncode else json.loads(said[-1])
                rows.append(row)
                save(args.out, rows)
                print(f"{row['name']}: {row['error']}", file=sys.stderr, flush=True)
    print_table(rows, args.ways)


def print_table(rows, ways):
    """Medians over seeds: relative L2 error, runs whose law is exact, seconds."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    print(f"| | {' | '.join(systems)} | s |")
    print("|---|" + "---|" * (len(systems) + 1))
    for way in ways:
        cells = []
        for system in systems:
            some = [row for row in rows if (row["way"], row["system"]) == (way, system)]
            right = [row for row in some if "value" in row]
            if not right:
                cells.append("failed")
                continue
            error = statistics.median(row["error"] for row in right)
            exact = sum(row["verdict"] == "exact" for row in right)
            judged = any(row["verdict"] is not None for row in right)
            shown = f"{float(f'{100 * error:.2g}'):g}%" if error < _FAR else f"over {_FAR:.0%}"
            cells.append(shown + (f", {exact} of {len(some)}" if judged else ""))
        seconds = [row["value"] for row in rows if row["way"] == way and "value" in row]
        shown = f"{statistics.median(seconds):.2g}" if seconds else ""
        print(f"| {way} | {' | '.join(cells)} | {shown} |")


if __name__ == "__main__":
    main()
