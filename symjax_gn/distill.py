"""From recorded messages to a force law: what to regress, on what, and back to units."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.fronts import Law, ParetoFront, make_front, select
from symjax_gn.messages import AXES, MessageTable
from symjax_gn.regression import Regressor, fit_many
from symjax_gn.systems import check_choice

FORMS = ("auto", "central", "components")
GAUGES = ("influence", "messages")
DEFAULT_FEATURES = ("m_i", "m_j", "q_i", "q_j")


class ForceLaw(NamedTuple):
    """What was distilled: one expression per dimension, in the user's units."""

    form: str
    """"central" (one scalar law along the line of centres) or "components"."""
    components: tuple[sympy.Expr, ...]
    """The force on the receiver (or raw message) along each axis, of the features."""
    scalar: sympy.Expr | None
    """For the central form, force along the direction from receiver to sender."""
    selected: tuple[Law, ...]
    """What the score picked, one per regression."""
    fronts: tuple[ParetoFront, ...]
    """One Pareto front per regression. Expressions are in the user's units; complexity,
    error and score are those of the search, whose targets were multiplied by r^power."""
    power: int
    """Power of the distance that the targets were multiplied with."""
    error_unit: str
    """What the errors of the fronts are measured in."""


def noncentral_share(table: MessageTable) -> float:
    """Median share of the influence that is across the line of centres (0 for central)."""
    size = np.linalg.norm(table.influence, axis=1)
    along = _along(table)
    across = np.sqrt(np.maximum(size**2 - along**2, 0.0))
    return float(np.median(across / (size + 0.1 * np.median(size))))


def _along(table: MessageTable) -> Float[np.ndarray, " edge"]:
    axes = AXES[: table.influence.shape[1]]
    displacement = np.stack([table.features[f"d{axis}"] for axis in axes], axis=1)
    return np.sum(table.influence * displacement, axis=1) / table.features["r"]


def flattening_power(size: Float[np.ndarray, " edge"], r: Float[np.ndarray, " edge"]) -> int:
    """The power p of 0 to 3 by which size x r^p loses its heavy upper tail.

    A law that grows without bound at short distances hides all else from a search by
    least squares; multiplied with the right power of the distance it does not. The
    answer is the smallest power with a 95% quantile of at most 5 medians, or else the
    one with the lightest tail (masses may have a tail of their own).
    """
    tails = []
    for power in range(4):
        flat = size * (r / np.median(r)) ** power
        tails.append(np.quantile(flat, 0.95) / max(float(np.median(flat)), 1e-300))
        if tails[-1] <= 5:
            break
    return int(np.argmin(tails))


def distill(
    table: MessageTable,
    regressors: Sequence[Regressor],
    *,
    features: Sequence[str] = DEFAULT_FEATURES,
    gauge: str = "influence",
    form: str = "auto",
    power: int | None = None,
    relative_error: bool = True,
    num_samples: int = 1000,
    processes: int | None = None,
) -> ForceLaw:
    """Find the symbolic law of recorded messages.

    Args:
        table: what `record_messages` gave.
        regressors: engines that search for each target in turn and share their
            findings, e.g. one engine with two seeds.
        features: names of columns of the table a law may use, besides the distance
            and, unless the form is central, the displacement; constant ones are left out.
        gauge: "influence" regresses the force that a message stands for, "messages"
            the raw components as in the paper.
        form: "central" looks for one law phi with force = phi x unit displacement,
            "components" for one law per dimension, "auto" chooses the central form
            if at most 5% of the influence (median) is across the line of centres.
        power: power of the distance that the targets are multiplied with during
            the search, so that close encounters do not hide the rest; None chooses it
            with `flattening_power`.
        relative_error: whether the errors by which laws are ranked, and from which the
            score follows, are relative to |target| + 0.1 median |target|, or absolute.
        num_samples: number of edges that are regressed on; the nearest and farthest 1%
            are left out, for there the network has seen little.
        processes: searches that run side by side; None takes one per core.

    Raises:
        ValueError: an argument is wrong, or a target is constant or not finite.
        RegressionError: a search ended without a usable expression.
    """
    check_form(gauge, form)
    if not regressors:
        raise ValueError("distill needs at least one regressor.")
    for name in features:
        check_choice("feature", name, table.features)
    table = _apart(table)
    if form == "auto":
        central = gauge == "influence" and noncentral_share(table) < 0.05
        form = "central" if central else "components"
    axes = AXES[: table.influence.shape[1]]
    r = table.features["r"]
    if form == "central":
        targets = _along(table)[:, None]
        names = ["r", *features]
    else:
        targets = table.influence if gauge == "influence" else table.messages
        names = [*(f"d{axis}" for axis in axes), "r", *features]
    if power is None:
        power = flattening_power(np.linalg.norm(targets, axis=1), r)

    low, high = np.quantile(r, [0.01, 0.99])
    chosen = np.flatnonzero((r >= low) & (r <= high))[:num_samples]
    units = {name: _power_of_ten(table.scales[name]) for name in names}
    flat = targets * (r / units["r"])[:, None] ** power
    target_units = [_power_of_ten(float(np.median(np.abs(column)))) for column in flat.T]
    columns = {name: table.features[name][chosen] / units[name] for name in names}
    columns = {name: column for name, column in columns.items() if np.ptp(column) > 0}
    scaled = [column[chosen] / unit for column, unit in zip(flat.T, target_units, strict=True)]
    size = [np.abs(column) for column in scaled]
    weights = [1 / (s + 0.1 * np.median(s)) if relative_error else np.ones_like(s) for s in size]

    count = len(regressors)
    every = [(engine, k) for k in range(len(scaled)) for engine in regressors]
    found = fit_many(
        [engine for engine, _ in every],
        [columns] * len(every),
        [scaled[k] for _, k in every],
        [weights[k] for _, k in every],
        processes,
    )

    def in_units(law: Law, unit: float) -> Law:
        symbols = {name: sympy.Symbol(name) for name in units}
        scale = {symbols[n]: symbols[n] / _number(unit) for n, unit in units.items() if unit != 1}
        flattening = (symbols["r"] / _number(units["r"])) ** power
        expression = _number(unit) * law.expression.xreplace(scale) / flattening
        return law._replace(expression=expression)

    fronts = []
    for k, (target, weight) in enumerate(zip(scaled, weights, strict=True)):
        mine = found[k * count : (k + 1) * count]
        front = make_front(
            [law.expression for front in mine for law in front.laws],
            columns,
            target,
            weight=weight,
            gain=0.1,
            seconds=sum(front.seconds for front in mine),
        )
        laws = tuple(in_units(law, target_units[k]) for law in front.laws)
        fronts.append(front._replace(laws=laws))
    selected = tuple(select(front) for front in fronts)
    laws = [law.expression for law in selected]
    scalar = None
    if form == "central":
        scalar = laws[0]
        laws = [scalar * sympy.Symbol(f"d{axis}") / sympy.Symbol("r") for axis in axes]
    error_unit = "|target| + 0.1 median |target|" if relative_error else "target"
    if power:
        error_unit += f", after multiplication by r^{power}"
    return ForceLaw(form, tuple(laws), scalar, selected, tuple(fronts), power, error_unit)


def check_form(gauge: str, form: str) -> None:
    """Raise a `ValueError` for a gauge and form of the law that are unknown or do not fit."""
    check_choice("gauge", gauge, GAUGES)
    check_choice("form", form, FORMS)
    if form == "central" and gauge == "messages":
        raise ValueError('Raw messages have no direction: use gauge="influence" for this form.')


def _apart(table: MessageTable) -> MessageTable:
    """The table without coincident pairs, which have no direction."""
    keep = table.features["r"] > 0
    if not np.any(keep):
        raise ValueError("All pairs of the table coincide: there is no distance to learn from.")
    return table._replace(
        features={name: column[keep] for name, column in table.features.items()},
        messages=table.messages[keep],
        influence=table.influence[keep],
        force=None if table.force is None else table.force[keep],
    )


def _power_of_ten(size: float) -> float:
    """1 for sizes from 0.01 to 100, so that dimensionless laws keep their plain constants."""
    power = round(math.log10(size)) if size > 0 else 0
    return 10.0**power if abs(power) > 2 else 1.0


def _number(value: float) -> sympy.Expr:
    return sympy.Integer(1) if value == 1 else sympy.Float(value)
