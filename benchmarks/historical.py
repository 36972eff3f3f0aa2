"""Nine laws of the history of physics, from the little and noisy data that there was.

    python benchmarks/historical.py --out benchmarks/results/historical.json
    python benchmarks/historical.py --problems hubble planck --seeds 0

The benchmark of the PySR paper: nine problems, five seeds of the search each, one data set
per problem. All get the same call with the same settings. A law is recovered if it has the
form of the known one whatever its constants; nobody looks at it. Saves after each run; a run
that is in the output file is not repeated. Then prints the table.
"""

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import sympy
from _results import commit, load_rows, open_out, save
from mpmath import mp

from symjax_gn.data.checks import check_choice
from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.expressions import rounded
from symjax_gn.laws.tables import fit_table

FOLDER = Path(__file__).parent / "historical"

# Engines of one run, and what each of them tries.
ENGINES, EVALUATIONS, LONGEST = 4, 200_000, 20

# Points at which laws are compared, digits of the numbers there, and how equal they must be.
POINTS, DIGITS, EQUAL = 30, 60, 1e-12

# Constants below this are 0 but for rounding.
NOTHING = 1e-30

# Share by which these points are moved away from quantiles of the samples, at most.
OFF = 0.1


def _read(name):
    with (FOLDER / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


def _log_uniform(rng, low, high, size):
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def _noisy(rng, values, share):
    return values * (1 + share * rng.normal(size=len(values)))


def _hubble(rng):
    data = _read("hubble")
    return {"D": data["D"]}, data["v"]


def _kepler(rng):
    period = np.array([87.77, 224.70, 365.25, 686.95, 4332.62, 10759.2])
    return {"a": np.array([0.389, 0.724, 1.0, 1.524, 5.20, 9.510])}, period


def _newton(rng):
    r = _log_uniform(rng, 3.7e8, 7.37593e12, 30)
    m_1, m_2 = (_log_uniform(rng, 1.3e22, 2e30, 30) for _ in range(2))
    return dict(r=r, m_1=m_1, m_2=m_2), _noisy(rng, 6.67408e-11 * m_1 * m_2 / r**2, 0.1)


def _planck(rng):
    nu, T = _log_uniform(rng, 1e9, 1e16, 100), _log_uniform(rng, 100, 6000, 100)
    h, c, k = 6.62607015e-34, 299792458.0, 1.380649e-23
    x = h * nu / (k * T)
    # B itself is below any float where x is in the thousands.
    log_B = np.log(2 * h * nu**3 / c**2) - x - np.log(-np.expm1(-x))
    return dict(nu=nu, T=T), log_B + np.log(_noisy(rng, np.ones(100), 0.1))


def _leavitt(rng):
    data = _read("leavitt")
    return {"P": 10 ** data["logP"]}, data["M"]


def _schechter(rng):
    L = _log_uniform(rng, 1e6, 3e9, 27)
    x = L / 2.5e8
    return {"L": L}, np.log(_noisy(rng, 0.002 / 2.5e8 * x**-1.2 * np.exp(-x), 0.2))


def _bode(rng):
    n = np.array([-1000.0, 0, 1, 2, 3, 4, 5, 6])
    return {"n": n}, np.array([0.39, 0.72, 1.00, 1.52, 2.77, 5.20, 9.58, 19.22])


def _ideal_gas(rng):
    n, T, V = (rng.uniform(low, high, 30) for low, high in ((1, 100), (300, 400), (1, 100)))
    return dict(n=n, T=T, V=V), _noisy(rng, 8.314 * n * T / V, 0.1)


def _rydberg(rng):
    n_1 = rng.integers(1, 7, 50)
    n_2 = rng.integers(n_1 + 1, 8)
    size = 1 / (1.097e7 * (1 / n_1**2 - 1 / n_2**2))
    return dict(n_1=n_1.astype(float), n_2=n_2.astype(float)), _noisy(rng, size, 0.1)


def _multiple(known):
    """Forms c f with a known f."""

    def form(law, *at):
        c = law(*at) / known(*at)
        return [c], lambda *x: c * known(*x)

    return form


def _planck_form(law, nu, T):
    def inverse(nu, T):
        return mp.exp(3 * mp.log(nu) - law(nu, T))

    # This is c (q - 1) for nu and c (q^2 - 1) for twice nu.
    first = inverse(nu, T)
    q = inverse(2 * nu, T) / first - 1
    k, c = mp.log(q) * T / nu, first / (q - 1)
    return [k * nu / T, c], lambda nu, T: 3 * mp.log(nu) - mp.log(c * (mp.exp(k * nu / T) - 1))


def _leavitt_form(law, P):
    slope = (law(2 * P) - law(P)) / mp.log(2)
    return [slope], lambda x: law(P) + slope * mp.log(x / P)


def _schechter_form(law, L):
    first, second = law(2 * L) - law(L), law(4 * L) - law(2 * L)
    fall = (first - second) / L
    power = (first + fall * L) / mp.log(2)
    return [fall * L, power], lambda x: law(L) + power * mp.log(x / L) - fall * (x - L)


def _bode_form(law, n):
    first, second = law(n + 1) - law(n), law(n + 2) - law(n + 1)
    q = second / first
    factor = first / (q - 1)
    return [q - 1, factor], lambda x: law(n) + factor * (q ** (x - n) - 1)


PROBLEMS = {
    "hubble": (_hubble, "v = c D", _multiple(lambda D: D)),
    "kepler": (_kepler, "P = c sqrt(a^3)", _multiple(lambda a: mp.sqrt(a**3))),
    "newton": (
        _newton,
        "F = c m_1 m_2 / r^2",
        _multiple(lambda r, m_1, m_2: m_1 * m_2 / r**2),
    ),
    "planck": (_planck, "log B = c + 3 log nu - log(exp(c nu / T) - 1)", _planck_form),
    "leavitt": (_leavitt, "M = c log P + c", _leavitt_form),
    "schechter": (_schechter, "log n = c log L - c L + c", _schechter_form),
    "bode": (_bode, "a = c + c exp(c n)", _bode_form),
    "ideal gas": (_ideal_gas, "P = c n T / V", _multiple(lambda n, T, V: n * T / V)),
    "rydberg": (
        _rydberg,
        "1 / lambda = c (1/n_1^2 - 1/n_2^2)",
        _multiple(lambda n_1, n_2: 1 / (1 / n_1**2 - 1 / n_2**2)),
    ),
}
"""Data, the known law, and its member that agrees with a given law near a given point."""


def problem(name):
    """Features and target of a problem; the same for every seed of the search."""
    return PROBLEMS[name][0](np.random.default_rng(0))


def has_form(name, law):
    """Whether a law has the form of the known one, however it is written.

    The constants of the known form are taken from a few values of the law, and must then give
    all others, to twelve digits of many, at points between and beyond the samples.
    """
    features, _ = problem(name)
    if {str(one) for one in law.free_symbols} != {*features}:
        return False
    function = sympy.lambdify(list(map(sympy.Symbol, features)), law, modules="mpmath")
    rng = np.random.default_rng(1)
    levels = rng.uniform(size=(POINTS, len(features)))
    # Off the whole numbers, where two features may be equal.
    columns = [
        np.quantile(x, u) * (1 + OFF * u) for x, u in zip(features.values(), levels.T, strict=True)
    ]
    with mp.workdps(DIGITS):
        try:
            middle = [mp.mpf(float(np.median(x))) * (1 + k) for k, x in enumerate(columns)]
            constants, known = PROBLEMS[name][2](function, *middle)
            if not all(mp.isfinite(c) and abs(c) > NOTHING for c in constants):
                return False
            points = [[mp.mpf(float(x)) for x in point] for point in zip(*columns, strict=True)]
            pairs = [(function(*point), known(*point)) for point in points]
            return all(abs(one - other) <= EQUAL * abs(other) for one, other in pairs)
        except (ZeroDivisionError, OverflowError, ValueError):
            return False


def run(name, seed):
    """One row: the law that was chosen, and whether it is the known one."""
    row = dict(name=f"{name} seed {seed}", problem=name, seed=seed, commit=commit())
    features, target = problem(name)
    engines = [
        OperonRegressor(evaluations=EVALUATIONS, max_length=LONGEST, seed=ENGINES * seed + k)
        for k in range(ENGINES)
    ]
    start = time.perf_counter()
    laws = fit_table(features, target, engines)
    seconds = time.perf_counter() - start
    others = [has_form(name, one.expression) for one in laws[1:]]
    return row | dict(
        value=seconds,
        unit="s",
        recovered=has_form(name, laws[0].expression),
        place=next((k for k, good in enumerate(others, start=2) if good), None),
        law=str(rounded(laws[0].expression)),
        complexity=laws[0].complexity,
        error=laws[0].error,
        length=laws[0].length,
    )


def print_table(rows):
    """One line per problem, and the totals."""
    print("| problem | law that counts | recovered | laws found | s |\n|---|---|---|---|---|")
    for name in PROBLEMS:
        mine = [row for row in rows if row["problem"] == name]
        if mine:
            laws = "; ".join(f"`{law}`" for law in dict.fromkeys(row["law"] for row in mine))
            good = sum(row["recovered"] for row in mine)
            seconds = statistics.median(row["value"] for row in mine)
            known = PROBLEMS[name][1]
            print(f"| {name} | {known} | {good}/{len(mine)} | {laws} | {seconds:.0f} |")
    seconds = [row["value"] for row in rows]
    print(f"\nrecovered: {sum(row['recovered'] for row in rows)} of {len(rows)} runs")
    print(f"seconds: median {statistics.median(seconds):.0f}, largest {max(seconds):.0f}")


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), metavar="PROBLEM")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    for name in args.problems:
        check_choice("problem", name, PROBLEMS)
    open_out(args.out)
    rows = load_rows(args.out, [])
    known = {row["name"] for row in rows}
    for seed in args.seeds:
        for name in args.problems:
            if f"{name} seed {seed}" not in known:
                rows.append(run(name, seed))
                save(args.out, rows)
                said = rows[-1]["recovered"], rows[-1]["law"]
                print(f"{name} seed {seed}: {said}", file=sys.stderr, flush=True)
    if rows:
        print_table(rows)


if __name__ == "__main__":
    main()
