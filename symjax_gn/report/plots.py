"""Figures of a run; each function returns a matplotlib `Figure` and draws nothing else."""

import textwrap
from typing import NamedTuple

import numpy as np
import sympy
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.features import AXES
from symjax_gn.data.quantities import Quantity
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.discovery.bases import coefficients, line_of_centres
from symjax_gn.discovery.energies import EnergyTable, PotentialLaw
from symjax_gn.discovery.recording import MessageTable, TruePairs
from symjax_gn.discovery.refitting import Refit
from symjax_gn.laws.export import to_latex
from symjax_gn.laws.expressions import evaluate
from symjax_gn.laws.fronts import Law, ParetoFront
from symjax_gn.laws.law import sum_symbols, sums_as_columns
from symjax_gn.laws.samples import gather
from symjax_gn.model import Predictor, known_targets
from symjax_gn.networks.training import History

_GREY, _BLUE, _RED, _ORANGE = "0.7", "#1f5fa8", "#c0392b", "#e69f00"


def plot_trajectories(trajectory: Trajectory, count: int = 4) -> Figure:
    """The first two coordinates of all bodies in the first `count` simulations."""
    count = min(count, len(trajectory.position))
    figure = Figure(figsize=(3 * count, 3), layout="constrained")
    for sim, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        paths = trajectory.position[sim]
        for node in range(paths.shape[1]):
            x = paths[:, node, 0]
            y = paths[:, node, 1] if paths.shape[2] > 1 else trajectory.time
            (line,) = axes.plot(x, y, linewidth=1)
            axes.plot(x[0], y[0], "o", color=line.get_color(), markersize=4)
        axes.set_aspect("equal" if paths.shape[2] > 1 else "auto", adjustable="datalim")
        axes.set_title(f"simulation {sim} (dots: start)", fontsize=9)
        axes.set_xlabel("x (length)")
        axes.set_ylabel("" if sim else "y (length)" if paths.shape[2] > 1 else "time")
    return figure


def plot_training(history: History, kept: int) -> Figure | None:
    """Loss and validation error, and the spread of each message component, over training.

    None where training ended before there was a second point to draw a line to.
    """
    if len(history.step) < 2:
        return None
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(history.step, history.loss, ".-", color=_BLUE, label="training loss (no unit)")
    left.semilogy(
        history.step,
        history.validation_error,
        ".-",
        color=_RED,
        label="validation error per graph (unit of the data)",
    )
    left.set_xlabel("step")
    left.legend(fontsize=8)
    order = np.argsort(-history.message_std[-1])
    for rank, component in enumerate(order[::-1]):
        color = _BLUE if len(order) - rank <= kept else _GREY
        spread = history.message_std[:, component]
        right.semilogy(history.step, spread, ".-", color=color, linewidth=1)
    right.set_xlabel("step")
    right.set_ylabel("standard deviation (no unit)")
    few = len(order) <= kept
    named = "what is sent" if few else f"each message component (blue: the {kept} largest)"
    right.set_title(f"spread of {named}", fontsize=9)
    return figure


def plot_messages(table: MessageTable, error: float) -> Figure:
    """The force that each message stands for against the true one, or where unknown the distance.

    Args:
        table: what was recorded of the network.
        error: the network's error on test data, as a share of what it predicts.
    """
    dim = table.force.shape[1]
    figure = Figure(figsize=(3.4 * dim, 3.4), layout="constrained")
    for k, axes in enumerate(figure.subplots(1, dim, squeeze=False)[0]):
        x = table.features["r"] if table.true_force is None else table.true_force[:, k]
        axes.plot(x, table.force[:, k], ".", color=_BLUE, markersize=2, alpha=0.4)
        limits = np.quantile(table.force[:, k], [0.005, 0.995])
        if table.true_force is None:
            axes.set_xlabel("distance r (length)")
        else:
            axes.plot(limits, limits, color=_RED, linewidth=1)
            axes.set_xlabel(f"true force along {AXES[k]} ({table.quantity.force_unit})")
            axes.set_xlim(*limits)
        axes.set_ylim(*limits)
        axes.set_ylabel(f"force of the network along {AXES[k]}")
    figure.suptitle(f"the network, which errs by {error:.2g} of what it predicts", fontsize=9)
    return figure


def plot_front(front: ParetoFront, chosen: Law, error_unit: str = "unit of the target") -> Figure:
    """Error against complexity of one front; the law that was chosen is marked."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    sizes, errors = zip(*((law.complexity, law.mae) for law in front.laws), strict=True)
    axes.semilogy(sizes, errors, "o-", color=_BLUE, markersize=4, label="candidates")
    axes.semilogy(chosen.complexity, chosen.mae, "o", color=_RED, label="the law")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("complexity (operators, variables, constants)")
    axes.set_ylabel("mean error")
    axes.set_title(textwrap.fill(f"error in units of {error_unit}", 70), fontsize=8)
    axes.legend(fontsize=8)
    return figure


class PairForces(NamedTuple):
    """Forces between pairs, by a law and by what data leave for it."""

    features: dict[str, Float[np.ndarray, " pair"]]
    """Feature columns `[pair]`, user's units."""
    law: Float[np.ndarray, "pair dim"]
    """[pair, dim], the law's force on the receiver."""
    data: Float[np.ndarray, "pair dim"]
    """[pair, dim], the same with all that the law leaves of the receiver's acceleration, as a
    force: what data say of this pair if the law is right about all others."""


def pair_forces(refitted: Refit, dataset: Dataset, num_pairs: int = 3_000) -> PairForces:
    """Forces of a law between pairs, and what data leave for them (partial residuals).

    Args:
        refitted: the law.
        dataset: graphs, user's units.
        num_pairs: about how many.
    """
    bodies = gather(dataset, num_pairs)

    def values(laws, columns):
        with np.errstate(all="ignore"):
            return np.stack([evaluate(one, columns) for one in laws], axis=1)

    law = values(refitted.force, bodies.elements)
    sent = values((*refitted.force, *refitted.others), bodies.elements)
    columns = bodies.owners | sums_as_columns(bodies.sums @ sent)
    became = values(refitted.update or sum_symbols(law.shape[1]), columns)
    left = bodies.target - bodies.of_owners(became + values(refitted.one_body, columns))
    sums = bodies.sums.tocoo()
    receivers = sums.row[np.argsort(sums.col)]
    force = (left / bodies.rows.diagonal()[:, None])[receivers]
    return PairForces(bodies.elements, law, law + force)


def plot_law(
    refitted: Refit, pairs: PairForces, quantity: Quantity, true: TruePairs | None = None
) -> Figure:
    """A law over the data, and over the truth where it is known, with what the law leaves.

    Forces are those along the line of centres, and where that is not all of the law, across it
    too; a factor of the two bodies is divided out. The network is not in it.

    Args:
        refitted: the law.
        pairs: what `pair_forces` gave.
        quantity: what forces, summed, predict.
        true: what `true_pairs` gave, where the truth is known.
    """
    dim = pairs.law.shape[1]
    coupling = _coupling(refitted.towards)
    panels = ["force towards the sender"]
    if refitted.towards is None and dim > 1:
        panels.append("force across the line of centres (size)")
    figure = Figure(figsize=(5 * len(panels), 4.6), layout="constrained")
    rows = figure.subplots(2, len(panels), squeeze=False, sharex=True, height_ratios=[3, 1])
    for k, label in enumerate(panels):

        def along(force, features, k=k):
            basis = line_of_centres(features, dim)
            shown = coefficients(force, basis)[:, 0]
            if k:
                shown = np.linalg.norm(force - shown[:, None] * basis.vectors[:, 0], axis=1)
            with np.errstate(all="ignore"):
                return shown / evaluate(coupling, features)

        r, top, below = pairs.features["r"], rows[0, k], rows[1, k]
        law, data = (along(force, pairs.features) for force in (pairs.law, pairs.data))
        top.plot(r, data, "o", color=_BLUE, ms=5, alpha=0.35, label="data, other forces subtracted")
        if true is not None:
            shown = along(true.force, true.features)
            top.plot(true.features["r"], shown, "x", color="k", ms=5, label="true force")
        top.plot(r, law, ".", color=_RED, ms=2, label="law")
        top.set_ylim(*_limits(law, data))
        below.plot(r, data - law, ".", color=_BLUE, ms=3, alpha=0.5)
        below.axhline(0.0, color=_RED, linewidth=1)
        below.set_ylim(*_limits(data - law))
        over = "" if coupling == 1 else f" over ${to_latex(coupling)}$"
        top.set_ylabel(f"{label}\n({quantity.force_unit}){over}")
        below.set_ylabel("data - law")
        below.set_xlabel("distance r (length)")
        below.set_xlim(0, float(np.quantile(r, 0.995)))
        top.legend(fontsize=8, markerscale=1.5)
    figure.align_ylabels(rows[:, 0])
    return figure


def _coupling(towards):
    """The factor of a force that does not depend on the distance; 1 if there are only numbers."""
    if towards is None:
        return sympy.Integer(1)
    factor, rest = sympy.factor_terms(towards).as_independent(sympy.Symbol("r"), as_Add=False)
    factor = factor.as_coeff_Mul()[1]
    return factor if rest.free_symbols == {sympy.Symbol("r")} else sympy.Integer(1)


def _limits(*columns):
    """Ends of an axis that shows all but the farthest values, with a margin."""
    ends = [np.quantile(x[np.isfinite(x)], [0.01, 0.99]) for x in columns if np.any(np.isfinite(x))]
    low, high = (float(one(ends)) for one in (np.min, np.max)) if ends else (0.0, 1.0)
    margin = 0.05 * (high - low) or 1e-12 + 0.05 * abs(high)
    return low - margin, high + margin


def plot_predictions(law: Predictor, dataset: Dataset, most: int = 2_000) -> Figure:
    """What a law predicts of graphs, or of their nodes, against the data; and what it leaves.

    Args:
        law: the law.
        dataset: graphs, user's units.
        most: graphs at most, evenly spaced.
    """
    dataset = take(dataset, np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int))
    width = dataset.target.shape[-1]
    guess = np.asarray(law.predict(dataset), np.float64).reshape(-1, width)
    target = np.asarray(dataset.target, np.float64).reshape(-1, width)
    known = known_targets(dataset)
    shown = slice(None) if known is None else np.asarray(known).reshape(-1)
    guess, target = guess[shown], target[shown]
    figure = Figure(figsize=(4.4 * width, 4.6), layout="constrained")
    rows = figure.subplots(2, width, squeeze=False, sharex=True, height_ratios=[3, 1])
    for k, (said, true) in enumerate(zip(guess.T, target.T, strict=True)):
        name = dataset.quantity.name + (f", component {k}" if width > 1 else "")
        ends = _limits(true)
        rows[0, k].plot(true, said, ".", color=_BLUE, ms=3, alpha=0.4, label="test data")
        rows[0, k].plot(ends, ends, color=_RED, linewidth=1, label="law = data")
        rows[0, k].set_ylim(*ends)
        rows[0, k].set_ylabel(f"{name}, by the law")
        rows[0, k].legend(fontsize=8)
        rows[1, k].plot(true, true - said, ".", color=_BLUE, ms=3, alpha=0.4)
        rows[1, k].axhline(0.0, color=_RED, linewidth=1)
        rows[1, k].set_xlim(*ends)
        rows[1, k].set_ylim(*_limits(true - said))
        rows[1, k].set_ylabel("data - law")
        rows[1, k].set_xlabel(f"{name}, data")
    return figure


def plot_potential(
    law: PotentialLaw, table: EnergyTable, refitted: sympy.Expr | None = None
) -> Figure:
    """A potential over the energies of pairs it was distilled from, and the true one if known.

    All are 0 at the median distance, and with that free of what no force shows. `refitted` is
    what `refitted_potential` gave, to be drawn too.
    """
    if law.potential is None:
        raise ValueError("Only a potential that was found can be drawn.")
    features = table.forces.features
    r = features["r"]
    middle = features | {"r": np.full(len(r), np.median(r))}

    def above_middle(potential):
        return evaluate(potential, features) - evaluate(potential, middle)

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    label = "energies of the network"
    axes.plot(r, table.change, "o", color=_BLUE, markersize=5, alpha=0.35, label=label)
    if table.potential is not None:
        axes.plot(r, table.potential, "x", color="k", markersize=2.5, label="true potential")
    value = above_middle(law.potential)
    axes.plot(r, value, ".", color=_RED, markersize=1.5, label="distilled potential")
    if refitted is not None:
        value = above_middle(refitted)
        axes.plot(r, value, ".", color=_ORANGE, markersize=0.8, label="with refitted constants")
    axes.set_ylim(*np.quantile(table.change, [0.01, 0.99]))
    axes.set_xlim(0, float(np.quantile(r, 0.99)))
    axes.set_xlabel("distance r (length)")
    axes.set_ylabel("V(r) - V(median r) (mass x length^2 / time^2)")
    axes.legend(fontsize=8, markerscale=2)
    return figure
