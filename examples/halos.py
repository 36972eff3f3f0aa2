"""The law of the overdensity around dark matter halos, from their neighbours (paper, section 4).

    python examples/halos.py --out halos
    python examples/halos.py --no-masses --out halos-without-masses
    python examples/halos.py --leave-out dense --out halos-dense

By default on the catalogue that comes with the package, halos above 1.9e13 Msun/h. Where in the
box a halo is says whether it is learned from: slabs are held out. Published formulas are fitted
to the same halos. With --leave-out some halos are left out of it altogether, those with
overdensities above 1 or half of the box, and the errors of these come beside.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
import sympy
from matplotlib.figure import Figure

from symjax_gn import Settings, SymbolicModel, discover
from symjax_gn.data.halos.catalogue import halo_dataset, load_catalogue, shipped_catalogue
from symjax_gn.discovery.refitting import refit_model
from symjax_gn.laws.expressions import evaluate

R, MI, MJ, VI, VIJ, E0 = sympy.symbols("r m_i m_j v_i v_ij e_0")
PUBLISHED = {
    "simple": (MJ * sympy.Heaviside(20.0 - R), -0.3 + (0.06 + 0.004 * MI) * E0),
    "with masses": ((0.3 + MJ) / (1 + (R / 19.5) ** 10.0), -0.4 + E0 / (20.0 - 0.8 * MI)),
    "without masses": (
        (500.0 + VIJ) / (1 + (R / 19.5) ** 10.0),
        -0.6 + E0 / (20000.0 + 0.001 * E0 * VI),
    ),
}
"""Formulas of table 2 of the paper, message and update, with constants to start from."""


def errors(model, dataset):
    """Mean |error| of known overdensities, and the overdensities with what is said of them."""
    known = np.asarray(dataset.mask)
    truth = np.asarray(dataset.target)[..., 0][known]
    said = np.asarray(model.predict(dataset.graphs))[..., 0][known]
    return float(np.mean(np.abs(said - truth))), truth, said


def main():
    """Train, distil, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--catalogue", help=".npz file of make_halos.py (default: the shipped one)")
    parser.add_argument("--least-mass", type=float, default=1.9e3, help="1e10 Msun/h")
    parser.add_argument("--radius", type=float, default=50.0, help="of neighbours, Mpc/h")
    parser.add_argument("--no-masses", action="store_true", help="masses are not seen")
    parser.add_argument(
        "--leave-out", choices=("dense", "half"), help="of training, and test on it"
    )
    parser.add_argument("--strategy", default="bottleneck")
    parser.add_argument("--width", type=int, default=32, help="of the network (paper: 500)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--time-limit", type=float, help="of searches, s; none unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the output folder")
    parser.add_argument("--out", default="halos")
    args = parser.parse_args()
    halos = load_catalogue(args.catalogue) if args.catalogue else shipped_catalogue()
    halos = halos.take(halos.mass > args.least_mass)
    options = dict(masses=not args.no_masses)
    left_out = np.zeros(len(halos.mass), bool)
    if args.leave_out == "half":
        left_out = halos.position[:, 2] > halos.box / 2
    elif args.leave_out == "dense" and halos.overdensity is not None:
        left_out = halos.overdensity > 1
    data = halo_dataset(halos, args.radius, receivers=~left_out, **options)
    settings = Settings(
        strategy=args.strategy,
        steps=args.steps,
        time_limit=args.time_limit,
        batch_size=2,
        width=args.width,
        depth=2,
    )
    key = jax.random.key(args.seed)
    found = discover(key, data, settings, progress=True, folder=args.out, resume=args.resume)
    train, _, test = found.parts
    sets = {"held out": test}
    if args.leave_out:
        sets["left out"] = halo_dataset(halos, args.radius, receivers=left_out, **options)
    laws = {"network": found.trained, "law": found.law}
    for name, (message, update) in PUBLISHED.items():
        if args.no_masses == (name == "without masses"):
            published = SymbolicModel(
                (message,), (update,), quantity=data.quantity, space=data.space
            )
            laws[name] = refit_model(published, train, num_owners=3000)
    median = float(np.median(np.asarray(train.target)[np.asarray(train.mask)]))
    table = {"constant": [float(np.mean(np.abs(truth(one) - median))) for one in sets.values()]}
    table |= {name: [errors(law, one)[0] for one in sets.values()] for name, law in laws.items()}
    found.write(args.out, system="halos", seed=args.seed)
    draw(Path(args.out) / "halos.png", found, test, halos)
    said = dict(table=table, sets=list(sets), law=[str(found.law.message), str(found.law.update)])
    (Path(args.out) / "halos.json").write_text(json.dumps(said, indent=1))
    print(f"overdensity = {found.law.update[0]}, e_0 = sum of {found.law.message[0]}")
    print(f"certificate: {found.certificate.says}")
    for name, row in table.items():
        shares = [value / least for value, least in zip(row, table["constant"], strict=True)]
        print(
            name, *(f"{e:.4f} ({s:.3f} of the constant)" for e, s in zip(row, shares, strict=True))
        )


def draw(path, found, test, halos):
    """Predictions against truth, what a neighbour adds by distance, residuals on a slice."""
    _, wanted, said = errors(found.law, test)
    figure = Figure(figsize=(13, 4), layout="constrained")
    points, kernel, slice_ = figure.subplots(1, 3)
    points.plot(wanted, said, ".", alpha=0.3)
    points.axline((0, 0), slope=1, color="black")
    points.set(xlabel="overdensity", ylabel="law")
    r = np.linspace(1.0, 50.0, 400)
    mass = np.median(halos.mass) / 1e4
    speed = np.median(np.linalg.norm(halos.velocity, axis=1))
    usual = dict(m_i=mass, m_j=mass, v_i=speed, v_j=speed, v_ij=speed, vr_ij=0.0)
    columns = {"r": r} | {name: np.full_like(r, x) for name, x in usual.items()}
    sent = evaluate(found.law.message[0], columns) - evaluate(
        found.law.message[0], columns | {"r": np.full_like(r, 50.0)}
    )
    kernel.plot(r, sent / sent[0], label="law")
    kernel.plot(r, r < 20, label="top-hat of 20 Mpc/h", color="grey")
    kernel.set(xlabel="distance, Mpc/h", ylabel="what a median halo adds, of its most")
    kernel.legend()
    known = np.asarray(test.mask)
    place = np.asarray(test.nodes.position)[known]
    thin = place[:, 0] < 100
    dots = slice_.scatter(
        place[thin, 1],
        place[thin, 2],
        c=(said - wanted)[thin],
        cmap="coolwarm",
        vmin=-0.3,
        vmax=0.3,
    )
    slice_.set(xlabel="y, Mpc/h", ylabel="z, Mpc/h", title="held-out slabs, x < 100 Mpc/h")
    figure.colorbar(dots, label="law - overdensity")
    figure.savefig(path, dpi=120)


def truth(dataset):
    """Known overdensities."""
    return np.asarray(dataset.target)[..., 0][np.asarray(dataset.mask)]


if __name__ == "__main__":
    main()
