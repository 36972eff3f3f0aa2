"""Figures of a run; each function returns a matplotlib `Figure` and draws nothing else."""

import numpy as np
import sympy
from matplotlib.figure import Figure

from symjax_gn.data.features import AXES
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.discovery.bases import coefficients, line_of_centres
from symjax_gn.discovery.distillation import VectorLaw
from symjax_gn.discovery.energies import EnergyTable, PotentialLaw
from symjax_gn.discovery.recording import MessageTable
from symjax_gn.laws.expressions import evaluate
from symjax_gn.laws.fronts import ParetoFront, select
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
    return figure


def plot_training(history: History, kept: int) -> Figure:
    """Loss and validation error, and the spread of each message component, over training."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(history.step, history.loss, color=_BLUE, label="training loss (model's unit)")
    left.semilogy(
        history.step,
        history.validation_error,
        color=_RED,
        label="validation |a - â| per graph (data's unit)",
    )
    left.set_xlabel("step")
    left.legend(fontsize=8)
    order = np.argsort(-history.message_std[-1])
    for rank, component in enumerate(order[::-1]):
        color = _BLUE if len(order) - rank <= kept else _GREY
        right.semilogy(history.step, history.message_std[:, component], color=color, linewidth=1)
    right.set_xlabel("step")
    right.set_title(f"standard deviation of messages (blue: the {kept} largest)", fontsize=9)
    return figure


def plot_messages(table: MessageTable) -> Figure:
    """The influence of each message against the true force, or where unknown the distance."""
    dim = table.force.shape[1]
    figure = Figure(figsize=(3.4 * dim, 3.4), layout="constrained")
    for k, axes in enumerate(figure.subplots(1, dim, squeeze=False)[0]):
        x = table.features["r"] if table.true_force is None else table.true_force[:, k]
        axes.plot(x, table.force[:, k], ".", color=_BLUE, markersize=2, alpha=0.4)
        limits = np.quantile(table.force[:, k], [0.005, 0.995])
        if table.true_force is None:
            axes.set_xlabel("distance r")
        else:
            axes.plot(limits, limits, color=_RED, linewidth=1)
            axes.set_xlabel(f"true force along {AXES[k]}")
            axes.set_xlim(*limits)
        axes.set_ylim(*limits)
        axes.set_ylabel(f"force the message stands for, {AXES[k]}")
    return figure


def plot_front(front: ParetoFront, error_unit: str = "unit of the target") -> Figure:
    """Error against complexity of one front; the selected law is marked."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    chosen = select(front)
    sizes, errors = zip(*((law.complexity, law.mae) for law in front.laws), strict=True)
    axes.semilogy(sizes, errors, "o-", color=_BLUE, markersize=4)
    axes.semilogy(chosen.complexity, chosen.mae, "o", color=_RED, label="largest score")
    axes.set_xlabel("complexity")
    axes.set_ylabel("mean absolute error")
    axes.set_title(f"error: {error_unit}", fontsize=8)
    axes.legend(fontsize=8)
    return figure


def plot_law(law: VectorLaw, table: MessageTable) -> Figure:
    """A law over the forces that the network knows of, against the distance.

    Along the line of centres, or along M u; where that is not all of the law, across it too.
    """
    r, dim = table.features["r"], table.force.shape[1]
    basis = line_of_centres(table.features, dim, law.matrix)
    with np.errstate(all="ignore"):
        value = np.stack([evaluate(one, table.features) for one in law.components], axis=1)
    value = np.where(np.isfinite(value), value, np.nan)
    panels = ["force towards the sender" if law.matrix is None else "force along M u"]
    if law.scalar is None and dim > 1:
        panels.append("force across the line of centres (size)")
    figure = Figure(figsize=(5 * len(panels), 3.4), layout="constrained")
    for axes, label in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for force, options in (
            (table.force, dict(color=_BLUE, ms=5, alpha=0.35, label="the network")),
            (value, dict(color=_RED, ms=1.5, label="the law")),
        ):
            shown = coefficients(force, basis)[:, 0]
            if label != panels[0]:
                shown = np.linalg.norm(force - shown[:, None] * basis.vectors[:, 0], axis=1)
            axes.plot(r, shown, ".", **options)
            if force is table.force:
                axes.set_ylim(*np.quantile(shown, [0.01, 0.99]))
        axes.set_xlim(0, float(np.quantile(r, 0.99)))
        axes.set_xlabel("distance r")
        axes.set_ylabel(label)
        axes.legend(fontsize=8, markerscale=2)
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
    axes.plot(r, table.change, ".", color=_BLUE, markersize=12, alpha=0.35, label=label)
    if table.potential is not None:
        axes.plot(r, table.potential, "x", color="k", markersize=2.5, label="true potential")
    value = above_middle(law.potential)
    axes.plot(r, value, ".", color=_RED, markersize=1.5, label="distilled potential")
    if refitted is not None:
        value = above_middle(refitted)
        axes.plot(r, value, ".", color=_ORANGE, markersize=0.8, label="with refitted constants")
    axes.set_ylim(*np.quantile(table.change, [0.01, 0.99]))
    axes.set_xlim(0, float(np.quantile(r, 0.99)))
    axes.set_xlabel("distance r")
    axes.set_ylabel("V(r) - V(median r)")
    axes.legend(fontsize=8, markerscale=2)
    return figure
