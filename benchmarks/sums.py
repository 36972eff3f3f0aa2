"""Laws of sums: functions of sets, and of what the nodes of a network have and are sent.

    python benchmarks/sums.py --out benchmarks/results/sums.json
    python benchmarks/sums.py --cases mean kuramoto --seeds 0 1 2

Each case is a message and an update, typed in below; data are drawn from it, `discover` runs
with its defaults, and what it finds is compared with the truth on new data, also on such as
are a third wider and in larger graphs. A law is exact if it errs by less than 1e-5 of the
typical value, 1e-3 there. Saves after each.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jraph
import numpy as np
from _results import commit, load_rows, open_out, save

import symjax_gn as sgn
from symjax_gn.data.building import dataset_from_graphs
from symjax_gn.data.checks import check_choice
from symjax_gn.data.quantities import Quantity
from symjax_gn.data.units import typical_size
from symjax_gn.laws.grammar import parse_expression

# Of the typical value, on data like those of the training, and on wider ones.
EXACT, EXACT_BEYOND, WIDER = 1e-5, 1e-3, 1.3

SETS, NETWORKS, TESTED = 2500, 500, 100


class Case(NamedTuple):
    """A law, and the data that it is to be found from."""

    message: str
    update: str
    columns: Mapping[str, tuple[float, float]]
    """For each property of an element or node, the ends of where it is, all as likely."""
    sizes: tuple[int, int] = (5, 15)
    """How many elements or nodes, at least and at most."""


_AB = {"a": (-2.0, 2.0), "b": (-2.0, 2.0)}
_RATES = {"a": (0.0, 2.0), "b": (0.0, 2.0)}

CASES = {
    "paper": Case("exp(c) + cos(2*a)", "e_0**2", {**_AB, "c": (-2.0, 2.0)}, (100, 100)),
    "logarithm": Case("abs(a)**1.5", "log(1 + e_0)", _AB, (40, 40)),
    "norm": Case("a**2 + 2*b**2", "sqrt(e_0)", _AB),
    "product": Case("sin(a)*b", "tanh(0.2*e_0)", _AB),
    "ratio": Case("a*exp(-b)", "e_0/(1 + e_0)", _RATES),
    "partition": Case("exp(-1.5*a)", "-log(e_0)", _RATES),
    "mean": Case("a**2", "e_0/e_n", _AB),
    "root mean square": Case("b**2", "sqrt(e_0/e_n)", _AB),
    "fractions": Case("a*b**2/(1 + b)", "e_0", _RATES),
    "saturation": Case("a/(1 + a)", "1 - exp(-0.25*e_0)", _RATES),
    "bump": Case("a**3 - 2*b", "e_0*exp(-0.02*e_0**2)", _AB),
    "kuramoto": Case("sin(a_j - a_i)", "b_i + 0.7*e_0", {**_AB, "a": (-3.1, 3.1)}),
    "epidemic": Case("b_j", "0.8*a_i*e_0 - 0.3*b_i", _RATES),
    "diffusion": Case("a_j - a_i", "e_0/e_n", _AB),
    "regulation": Case("a_j**2/(1 + a_j**2)", "1.5*e_0 - a_i", _RATES),
    "neurons": Case("b_j*tanh(a_j)", "e_0 - a_i", _AB),
    "opinions": Case("(a_j - a_i)*exp(-(a_j - a_i)**2)", "e_0", _AB),
    "mutualism": Case("a_j/(1 + a_j)", "a_i*(1 - a_i) + 0.5*a_i*e_0", _RATES),
    "gaps": Case("tanh(2*(a_j - a_i))", "b_i*e_0", _AB),
    "thresholds": Case("1/(1 + exp(-5*(a_j - 1)))", "(2 - a_i)*e_0", _RATES),
}


def _law(case, pairs):
    laws = [(parse_expression(law),) for law in (case.message, case.update)]
    quantity = Quantity("z", "node" if pairs else "graph")
    return sgn.SymbolicModel(*laws, elements="edges" if pairs else "nodes", quantity=quantity)


def make_graphs(case, seed, wider=1.0):
    """Graphs `[graph]` with the quantity `z` of nodes, or where nothing is of pairs, of sets."""
    pairs = any(str(one).endswith(("_i", "_j")) for one in _symbols(case))
    rng = np.random.default_rng(seed)
    graphs = []
    for _ in range(NETWORKS if pairs else SETS):
        size = int(rng.integers(case.sizes[0], wider * case.sizes[1] + 1))
        nodes = {
            name: wider * rng.uniform(low, high, size).astype(np.float32)
            for name, (low, high) in case.columns.items()
        }
        linked = rng.random((size, size)) < 0.4
        # Each has a neighbour, the next one.
        linked[np.arange(size), np.arange(size) - 1] = True
        np.fill_diagonal(linked, False)
        receivers, senders = np.nonzero(linked & pairs)
        zero = np.zeros(size if pairs else 1)
        graphs.append(
            jraph.GraphsTuple(
                nodes=nodes | ({"z": zero} if pairs else {}),
                edges=None,
                senders=senders,
                receivers=receivers,
                globals=None if pairs else {"z": zero},
                n_node=np.array([size]),
                n_edge=np.array([len(senders)]),
            )
        )
    truth = _law(case, pairs).predict(dataset_from_graphs(graphs, target="z").graphs)
    for k, graph in enumerate(graphs):
        z = truth[k, : len(graph.nodes["a"]), 0] if pairs else truth[k]
        new = dict(nodes=graph.nodes | {"z": z}) if pairs else dict(globals={"z": z})
        graphs[k] = graph._replace(**new)
    return graphs


def _symbols(case):
    laws = (case.message, case.update)
    return set().union(*(parse_expression(law).free_symbols for law in laws))


def run(name, seed):
    """One row: the law that was found, and its errors over the typical value."""
    case = CASES[name]
    row = dict(name=f"{name} seed {seed}", case=name, seed=seed, commit=commit())
    row |= dict(planted=[case.message, case.update])
    start = time.perf_counter()
    try:
        found = sgn.discover(jax.random.key(seed), make_graphs(case, seed), target="z")
    except (ValueError, RuntimeError) as error:
        return row | dict(value=time.perf_counter() - start, unit="s", error=str(error))
    seconds = time.perf_counter() - start
    errors = []
    for wider in (1.0, WIDER):
        new = dataset_from_graphs(make_graphs(case, seed + 1000, wider)[:TESTED], target="z")
        known = np.ones(np.shape(new.target), bool) if new.mask is None else new.mask[..., None]
        gap = np.abs(found.law.predict(new.graphs) - np.asarray(new.target, np.float64))
        gap = np.where(np.isfinite(gap), gap, np.inf)[known]
        errors.append(float(np.mean(gap)) / typical_size(np.asarray(new.target)[known]))
    return row | dict(
        value=seconds,
        unit="s",
        exact=errors[0] < EXACT and errors[1] < EXACT_BEYOND,
        errors=errors,
        network_error=found.test_error[0] / found.test_error[1],
        says=found.certificate.says,
        message=[str(one) for one in found.law.message],
        update=[str(one) for one in found.law.update],
    )


def main():
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="CASE")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    parser.add_argument("--merge", nargs="*", default=[], help="files of earlier rows")
    args = parser.parse_args()
    for case in args.cases:
        check_choice("case", case, CASES)
    open_out(args.out)
    rows = load_rows(args.out, args.merge)
    known = {row["name"] for row in rows}
    for seed in args.seeds:
        for case in args.cases:
            if f"{case} seed {seed}" not in known:
                rows.append(run(case, seed))
                save(args.out, rows)
                print(rows[-1]["name"], rows[-1].get("exact"), file=sys.stderr, flush=True)
    save(args.out, rows)
    print("| law | found | exact | certificate | network's error | s |\n|---|---|---|---|---|---|")
    for row in rows:
        found = (*row.get("message", ()), *row.get("update", ()))
        laws = map(parse_expression, found)
        law = "; ".join(str(one.evalf(3)) for one in laws) or row["error"]
        exact, network = row.get("exact"), row.get("network_error", np.nan)
        print(
            f"| {row['name']} | {law} | {exact} | {row.get('says')} | {network:.2%} | "
            f"{row['value']:.0f} |"
        )
    exact = [row for row in rows if row.get("exact")]
    believed = sum(row["says"] == "believe" for row in exact)
    print(f"\nexact: {len(exact)} of {len(rows)}, {believed} of them believed")


if __name__ == "__main__":
    main()
