"""Laws that no sum of listed terms says, through the main job with its defaults.

    python benchmarks/new_laws.py --out benchmarks/results/new_laws.json
    python benchmarks/new_laws.py --laws mond waves --dims 2 --seeds 0
    python benchmarks/new_laws.py --laws power --moved 1e-7

Couplings with any exponents, directions that an angle weights, laws of kinds, comparisons, waves of
many periods, sums within a function. Five bodies move as on springs, and get the accelerations of
the law at their places, so that none flies away; by laws that change in time they are moved. Each
run is `discover` with its defaults; a law is exact if it errs by less than 0.1% of |a| + 0.1
typical |a| at the median of the test data and 1% at 99 of 100, as the verdict of systems. Saves
after each.
"""

import argparse
import dataclasses
import sys
import time

import jax
import numpy as np
import sympy
from _results import commit, load_rows, open_out, save

import symjax_gn as sgn
from symjax_gn.data.checks import check_choice
from symjax_gn.data.nodes import AXES
from symjax_gn.data.trajectories import trajectory_from_arrays
from symjax_gn.discovery.certificate import relative_errors
from symjax_gn.laws.grammar import parse_expression

# Of errors at the median and at 99 of 100.
_EXACT = ((50, 1e-3), (99, 1e-2))

# Sizes of forces of pairs, by distance r, displacement and what the two bodies are.
PAIRS = {
    "power": lambda p: p.mi**0.37 * p.mj**0.81 * np.sin(1.7 * p.r + 0.4),
    "angle": lambda p: (1 + 0.3 * p.way[..., 0] / p.r) / (p.r + 0.2) ** 2,
    "kinds": lambda p: np.where(p.alike, 2 * (p.r - 1), -1.5 * np.exp(-p.r)),
    "charges": lambda p: np.where(p.charged, 2 * (p.r - 1), -1.5 * np.exp(-p.r) / (p.r + 0.1)),
    "larger": lambda p: np.maximum(p.mi, p.mj) / (1 + p.r**2),
    "follow": lambda p: (p.mj > p.mi) * np.exp(-p.r),
    "repulse": lambda p: -p.mi * p.mj * p.r * np.exp(-(p.r**2) / 2),
    "waves": lambda p: np.sin(25 * p.r),
}

# Laws that change in time: the force of a pair towards the sender, and what bodies feel along x.
TIMED = {
    "swinging": ("m_i*m_j*cos(2*time)/(r + 0.3)", "0"),
    "fading": ("m_i*m_j*exp(-time)/(r + 0.3) + r - 1", "0"),
    "driven": ("r - 1", "2*sin(3*time)"),
}

# What the sums F of m m / (r + 0.3)^2 become.
SUMS = {
    "mond": lambda f, v: f / np.sqrt(1 + np.sum(f**2, -1, keepdims=True)),
    "speed": lambda f, v: f * (1 - 0.05 * np.sum(v**2, -1, keepdims=True)),
    "saturated": lambda f, v: f / (1 + np.linalg.norm(f, axis=-1, keepdims=True)),
}
LAWS = (*PAIRS, *TIMED, *SUMS, "neighbours")


class Pairs:
    """All pairs of bodies at all moments."""

    def __init__(self, run, seed):
        """Displacements, distances and properties."""
        x = np.asarray(run.position, float)
        rng = np.random.default_rng(seed)
        self.mass = np.asarray(run.properties["mass"], float)
        self.charge = rng.choice([-1.0, 1.0], size=self.mass.shape)
        self.kind = rng.integers(0, 2, size=self.mass.shape).astype(float)
        self.way = x[:, :, None] - x[:, :, :, None]
        count = x.shape[2]
        self.others = 1 - np.eye(count)
        self.r = np.linalg.norm(self.way, axis=-1) + np.eye(count)
        self.mi, self.mj = self.mass[:, None, :, None], self.mass[:, None, None, :]
        self.alike = self.kind[:, None, :, None] == self.kind[:, None, None, :]
        self.charged = self.charge[:, None, :, None] == self.charge[:, None, None, :]

    def summed(self, size):
        """Sums over senders of forces of these sizes along the line of centres."""
        return np.sum((size * self.others / self.r)[..., None] * self.way, axis=3)


def recorded(law, dim, seed, moved):
    """Recordings with the accelerations of a law, moved by a share of themselves."""
    if law in TIMED:
        return moved_by(law, dim, seed, moved)
    run = sgn.simulate(
        jax.random.key(seed), sgn.SYSTEMS["spring"], num_nodes=5, dim=dim, num_simulations=300,
        num_outputs=50, dt=0.05,
    )  # fmt: skip
    pairs, v = Pairs(run, seed), np.asarray(run.velocity, float)
    if law in PAIRS:
        force = pairs.summed(PAIRS[law](pairs))
    elif law in SUMS:
        force = SUMS[law](pairs.summed(pairs.mi * pairs.mj / (pairs.r + 0.3) ** 2), v)
    else:
        weight = pairs.others / (1 + pairs.r**2)
        relative = v[:, :, None] - v[:, :, :, None]
        force = np.sum(weight[..., None] * relative, axis=3) / np.sum(weight, axis=3)[..., None]
    a = force / pairs.mass[:, None, :, None]
    a = a * (1 + moved * np.random.default_rng(seed).normal(size=a.shape))
    properties = dict(mass=pairs.mass)
    properties |= dict(kind=pairs.kind) if law == "kinds" else {}
    properties |= dict(charge=pairs.charge) if law == "charges" else {}
    return trajectory_from_arrays(run.time, run.position, v, a, **properties)


def moved_by(law, dim, seed, moved):
    """Recordings of bodies that a law moves which changes in time."""
    r, mass = sympy.symbols("r m_i")
    force, alone = map(parse_expression, TIMED[law])
    ways, sums = (
        sympy.symbols([f"{one}{k}" for k in end]) for one, end in (("d", AXES), ("e_", "012"))
    )
    message = [force * way / r for way in ways[:dim]]
    update = [(one + alone * int(k == 0)) / mass for k, one in enumerate(sums[:dim])]
    bodies = sgn.SYSTEMS["spring"].sample
    starts = jax.vmap(lambda key: bodies(key, 5, dim))(jax.random.split(jax.random.key(seed), 300))
    starts = starts._replace(velocity=0 * starts.velocity)
    run = sgn.SymbolicModel(message, update).simulate(starts, np.linspace(0, 4, 81))
    a = run.target * (1 + moved * np.random.default_rng(seed).normal(size=run.target.shape))
    return dataclasses.replace(run, target=a)


def run(name, law, dim, seed, moved):
    """One row: how near the law is, and what its certificate says."""
    row = dict(name=name, law=law, dim=dim, seed=seed, commit=commit())
    data = recorded(law, dim, seed, moved)
    start = time.perf_counter()
    try:
        found = sgn.discover(jax.random.key(seed), data)
    except (ValueError, RuntimeError) as error:
        return row | dict(value=time.perf_counter() - start, unit="s", error=str(error))
    row |= dict(value=time.perf_counter() - start, unit="s", says=found.certificate.says)
    if found.law is None:
        return row | dict(exact=False, text=found.text())
    errors = relative_errors(found.law, found.parts[2])
    at = {str(share): float(np.nanpercentile(errors, share)) for share, _ in _EXACT}
    exact = all(at[str(share)] < limit for share, limit in _EXACT)
    return row | dict(exact=exact, errors=at, text=found.text())


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--laws", nargs="+", default=LAWS, metavar="LAW")
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--moved", type=float, default=0.0, help="share of accelerations")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    for law in args.laws:
        check_choice("law", law, LAWS)
    open_out(args.out)
    rows = load_rows(args.out, [])
    known = {row["name"] for row in rows}
    for law in args.laws:
        for dim in args.dims:
            for seed in args.seeds:
                name = f"{law}-{dim} seed {seed}" + f" moved {args.moved:g}" * bool(args.moved)
                if name not in known:
                    rows.append(run(name, law, dim, seed, args.moved))
                    save(args.out, rows)
                    print(f"{name}: {rows[-1].get('says', 'error')}", file=sys.stderr, flush=True)
    print("| run | exact | certificate | the law | s |\n|---|---|---|---|---|")
    for row in rows:
        law, exact = row.get("text") or row["error"], "yes" if row.get("exact") else "no"
        says = row.get("says", "error")
        print(f"| {row['name']} | {exact} | {says} | `{law}` | {row['value']:.0f} |")
    believed = [row for row in rows if row.get("says") == "believe"]
    print(f"\nexact and believed: {sum(row['exact'] for row in believed)} of {len(rows)}")
    print(f"believed and not exact: {sum(not row['exact'] for row in believed)}")


if __name__ == "__main__":
    main()
