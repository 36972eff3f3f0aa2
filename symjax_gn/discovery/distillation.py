"""From recorded messages to laws, where no sum of terms fits the data, or none is asked for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.border import checked
from symjax_gn.data.checks import LARGEST_COUNT, check_choice, check_count
from symjax_gn.data.features import parse_feature
from symjax_gn.data.nodes import AXES
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.bases import (
    along_velocity,
    choose_basis,
    coefficients,
    combined,
    fit_matrix,
    fixed_axes,
    line_of_centres,
    off_basis_share,
)
from symjax_gn.discovery.recording import MessageTable, take_edges
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.fronts import Law, ParetoFront, select
from symjax_gn.laws.refinement import FITS
from symjax_gn.laws.searching import Problem, search

FORMS = ("auto", "central", "linear", "components")


GAUGES = ("influence", "messages")


# A law of one or two numbers shows in few samples, and is no more than a description.
_GAUGE_SAMPLES, _GAUGE_FITS = 300, 40


class VectorLaw(NamedTuple):
    """What was distilled of a vector: one expression per axis, in the user's units."""

    form: str
    """Of a pair's force "central" (one law phi, force = phi x unit displacement), "linear"
    (phi x matrix x unit displacement), "terms" (a sum over several vectors) or "components"
    (one law per axis); of a force on a body alone "none", "along velocity" or "components"."""
    components: tuple[sympy.Expr, ...]
    """The force on the receiver (or raw message) along each axis, of the features."""
    scalar: sympy.Expr | None = None
    """The law phi of the form's one vector; None for "components"."""
    matrix: Float[np.ndarray, "dim dim"] | None = None
    """The matrix of the linear form."""
    off_axis_share: float | None = None
    """Median share of a pair's force that is off the line of centres."""
    selected: tuple[Law, ...] = ()
    """What the score picked, one per regression."""
    fronts: tuple[ParetoFront, ...] = ()
    """One Pareto front per regression. Expressions are in the user's units; the complexity
    is that of the search, whose targets were multiplied by r^power."""
    power: int = 0
    """Power of the distance that the targets were multiplied with."""
    error_unit: str = "|target| + 0.1 typical |target|"
    """What the errors of the fronts are measured in."""
    gauge: str = "influence"
    """"influence" for a force, "messages" for raw messages."""
    share: float = 1.0
    """Median size of a force on a body alone over that of a pair's force."""
    vectors: tuple[str, ...] = ()
    """Of the form "terms" the vectors that the laws in `selected` are factors of."""


def property_names(table: MessageTable, ends: str = "ij") -> list[str]:
    """The features of a table that are properties of receiver i or sender j."""
    return [
        name
        for end in ends
        for name in table.features
        if name.endswith(f"_{end}") and parse_feature(name).kind.startswith("property:")
    ]


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


@checked
def distill(
    table: MessageTable,
    regressors: Sequence[Regressor],
    *,
    features: Sequence[str] | None = None,
    gauge: str = "influence",
    form: str = "auto",
    power: int | None = None,
    relative_error: bool = True,
    num_samples: int = 1000,
    processes: int | None = None,
) -> VectorLaw:
    """Find the symbolic law of recorded messages.

    Args:
        table: what `record_messages` gave.
        regressors: engines that search for each target and share their findings, e.g.
            one engine with several seeds; see `search`.
        features: names of columns of the table a law may use, besides the distance
            and, unless the form is central, the displacement; constant ones are left out.
            None takes the properties of both bodies.
        gauge: "influence" regresses the force that a message stands for, "messages"
            the raw components as in the paper.
        form: "central" looks for one law phi with force = phi x unit displacement,
            "linear" for one with force = phi x matrix x unit displacement, "components" for
            one law per dimension. "auto" takes the first of them in which at most 5% of
            the force (median) is off its direction.
        power: power of the distance that the targets are multiplied with during
            the search, so that close encounters do not hide the rest; None chooses it
            with `flattening_power`.
        relative_error: whether the errors by which laws are ranked, and from which the
            score follows, are those of the law itself, relative to |target| + 0.1 typical
            |target| (see `typical_size`), or absolute ones of the multiplied targets.
        num_samples: number of edges that are regressed on; the nearest and farthest 1%
            are left out, for there the network has seen little.
        processes: searches that run side by side; None takes one per core.

    Raises:
        ValueError: an argument is wrong, or a target is constant or not finite.
        RegressionError: a search ended without a usable expression.

    >>> import jax
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> tiny = sgn.make_model("bottleneck", train, width=8, depth=1)
    >>> trained = sgn.fit(key, train, validation, model=tiny, steps=20)
    >>> table = sgn.record_messages(key, trained, train, num_edges=200)
    >>> engine = sgn.OperonRegressor(evaluations=2000)
    >>> law = distill(table, [engine], num_samples=100)
    >>> len(law.components)
    2
    """
    check_form(gauge, form)
    check_count("num_samples", num_samples, most=LARGEST_COUNT)
    if power is not None:
        check_count("power", power, 0, LARGEST_COUNT)
    features = property_names(table) if features is None else features
    for name in features:
        check_choice("feature", name, table.features)
    table = _apart(table)
    dim = table.force.shape[1]
    r = table.features["r"]
    basis, share = fixed_axes(len(r), dim), None
    targets = table.messages
    if gauge == "influence":
        line = line_of_centres(table.features, dim)
        share = off_basis_share(table.force, line)
        matrix, _ = fit_matrix(table.force, table.features)
        turned = line_of_centres(table.features, dim, matrix)
        candidates = [line, turned, basis]
        chosen = [one for one in candidates if one.name == form]
        basis = choose_basis(table.force, chosen or candidates)
        targets = coefficients(table.force, basis)
    names = ["r", *features]
    if basis.name == "components":
        names = [*(f"d{axis}" for axis in AXES[:dim]), *names]
    if power is None:
        power = flattening_power(np.linalg.norm(targets, axis=1), r)
    low, high = np.quantile(r, [0.01, 0.99])
    options: dict[str, Any] = dict(
        rows=np.flatnonzero((r >= low) & (r <= high))[:num_samples],
        power=power,
        relative_error=relative_error,
        processes=processes,
    )
    proposals = []
    if gauge == "messages" and targets.shape[1] > 1:
        proposals = _of_one_law(table, regressors, ["r", *features], options)
    fronts = search_in_units(
        regressors,
        {name: table.features[name] for name in names},
        table.scales,
        targets,
        proposals=proposals,
        **options,
    )
    selected = tuple(select(front) for front in fronts)
    laws = [law.expression for law in selected]
    found = VectorLaw(
        form=basis.name,
        components=tuple(laws) if gauge == "messages" else combined(laws, basis),
        scalar=laws[0] if basis.name != "components" else None,
        matrix=basis.matrix,
        off_axis_share=share,
        selected=selected,
        fronts=fronts,
        power=power,
        gauge=gauge,
    )
    if relative_error:
        return found
    return found._replace(error_unit=f"target x r^{power}" if power else "target")


def _of_one_law(table, regressors, names, options):
    """Laws of all components of raw messages that have one factor in common, by components.

    Messages are m = A f + b where forces f are central: one law times a matrix times the unit
    displacement, plus an offset. Searched for component by component, each is four or more terms.
    """
    dim = table.force.shape[1]
    matrix, offset = fit_matrix(table.messages, table.features, offset=True)
    basis = line_of_centres(table.features, dim, matrix)
    columns = {name: table.features[name] for name in names}
    target = coefficients(table.messages - offset, basis)
    (front,) = search_in_units(regressors, columns, table.scales, target, **options)
    whole = [combined([law.expression], basis) for law in front.laws]
    return [[law[k] + sympy.Float(b) for law in whole] for k, b in enumerate(offset)]


def distill_one_body(
    table: MessageTable,
    regressors: Sequence[Regressor],
    *,
    features: Sequence[str] | None = None,
    least: float = 0.05,
    num_samples: int = 1000,
    processes: int | None = None,
) -> VectorLaw:
    """Find the law of what the node function adds to the messages: drag, outer fields.

    A force that less than half of the bodies feel is not found: it counts as none.

    Args:
        table: what `record_messages` gave.
        regressors: engines that search for each target in turn.
        features: names of columns a law may use besides the receiver's velocity; None
            takes its properties.
        least: share of a pair's force below which nothing is there to be found.
        num_samples: number of bodies that are regressed on.
        processes: searches that run side by side; None takes one per core.

    Raises:
        ValueError: an argument is wrong.
        RegressionError: a search ended without a usable expression.

    >>> import jax
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> tiny = sgn.make_model("bottleneck", train, width=8, depth=1)
    >>> trained = sgn.fit(key, train, validation, model=tiny, steps=20)
    >>> table = sgn.record_messages(key, trained, train, num_edges=200)
    >>> engine = sgn.OperonRegressor(evaluations=2000)
    >>> len(distill_one_body(table, [engine], num_samples=100).components)
    2
    """
    features = property_names(table, "i") if features is None else features
    for name in features:
        check_choice("feature", name, table.features)
    force = table.alone
    dim = force.shape[1]
    size = np.linalg.norm(force, axis=1)
    share = float(np.median(size) / typical_size(np.linalg.norm(table.force, axis=1)))
    zeros = (sympy.Integer(0),) * dim
    if share < least:
        return VectorLaw("none", zeros, share=share)
    motion = along_velocity(table.features, dim)
    basis = fixed_axes(len(force), dim)
    columns = {name: table.features[name] for name in features}
    scales = dict(table.scales)
    if motion is not None:
        basis = choose_basis(force, [motion, basis])
        speeds = {f"v{axis}_i": table.features[f"v{axis}_i"] for axis in AXES[:dim]}
        if basis is motion:
            scales["v"] = scales["vx_i"]
            speeds = {"v": np.linalg.norm(np.stack(list(speeds.values())), axis=0)}
        columns = speeds | columns
    targets = coefficients(force, basis)
    # Along an axis on which nothing acts there is no law to be found.
    felt = [k for k, x in enumerate(targets.T) if np.median(np.abs(x)) > least * np.median(size)]
    fronts = search_in_units(
        regressors,
        columns,
        scales,
        targets[:, felt],
        rows=np.arange(len(force))[:num_samples],
        processes=processes,
    )
    selected = tuple(select(front) for front in fronts)
    found = dict(zip(felt, (law.expression for law in selected), strict=True))
    laws = [found.get(k, sympy.Integer(0)) for k in range(targets.shape[1])]
    return VectorLaw(
        basis.name,
        combined(laws, basis),
        scalar=None if basis.name == "components" else laws[0],
        selected=selected,
        fronts=fronts,
        share=share,
    )


def distill_gauge(table: MessageTable, regressors: Sequence[Regressor]) -> Law:
    """The size of a receiver's messages per unit of force, as a law of its mass and charge.

    This is g(v_i) of m_ij = g(v_i) A f_ij + b(v_i), up to a constant factor: 1 where
    messages are forces, 1 / m_i where they are accelerations, else what training left. It is
    1 too where all masses and charges are alike. The law's error, relative, says how much of
    the size they explain: a node function may do with messages what no law of two numbers is.

    Args:
        table: what `record_messages` gave.
        regressors: engines that search, each of them.

    Raises:
        RegressionError: a search ended without a usable expression.
    """
    size = table.message_scale
    rows = np.arange(len(size))[:_GAUGE_SAMPLES]
    columns = {name: table.features[name] for name in property_names(table, "i")}
    columns = {name: column for name, column in columns.items() if np.ptp(column[rows]) > 0}
    if not columns or np.std(np.log(size)) < 0.02:
        error = float(np.mean(np.abs(size - 1) / (size + 0.1)))
        return Law(sympy.Integer(1), 1, error, 0.0)
    (front,) = search_in_units(
        regressors, columns, table.scales, size[:, None], rows=rows, budget=_GAUGE_FITS
    )
    return select(front)


def search_in_units(
    regressors: Sequence[Regressor],
    features: Mapping[str, Float[np.ndarray, " edge"]],
    scales: Mapping[str, float],
    targets: Float[np.ndarray, "edge target"],
    *,
    rows: np.ndarray,
    power: int = 0,
    relative_error: bool = True,
    noise: Float[np.ndarray, " edge"] | None = None,
    processes: int | None = None,
    budget: int = FITS,
    proposals: Sequence[Sequence[sympy.Expr]] = (),
) -> tuple[ParetoFront, ...]:
    """One front per target: searched near one, on the given rows, and back in units.

    Args:
        regressors: see `search`.
        features: columns by name; among them `r` if there is a power.
        scales: typical size of each feature.
        targets: `[edge, target]`, user's units.
        rows: indices of the samples to regress on.
        power: power of the distance that targets are multiplied with in the search.
        relative_error: see `distill`.
        noise: `[edge]`, uncertainty of the targets, as a share of what their errors are
            relative to, or None; samples count less where it is large.
        processes: see `search`.
        budget: see `search`.
        proposals: for each target laws in the user's units to be refined with what is found.
    """
    units = {name: _power_of_ten(scales[name]) for name in features}
    stretch = (features["r"] / units["r"]) ** power if power else np.ones(len(targets))
    flat = targets * stretch[:, None]
    target_units = [_power_of_ten(typical_size(column)) for column in flat.T]
    columns = {name: column[rows] / units[name] for name, column in features.items()}
    columns = {name: column for name, column in columns.items() if np.ptp(column) > 0}
    symbols = {name: sympy.Symbol(name) for name in units}
    scaled = {symbols[n]: symbols[n] / _number(unit) for n, unit in units.items() if unit != 1}
    unscaled = {symbols[n]: symbols[n] * _number(unit) for n, unit in units.items() if unit != 1}
    problems = []
    proposals = proposals or [()] * len(target_units)
    for plain, column, unit, laws in zip(targets.T, flat.T, target_units, proposals, strict=True):
        target = column[rows] / unit
        weight = np.ones_like(target)
        if relative_error:
            # Flattened for the search only: errors are those of the law itself, as in the verdict.
            size = np.abs(plain[rows])
            weight = unit / (size + 0.1 * typical_size(size)) / stretch[rows]
        if noise is not None:
            weight = weight / np.sqrt(1 + noise[rows] ** 2)
        laws = [law.xreplace(unscaled) * symbols["r"] ** power for law in laws]
        laws = [law / _number(unit) for law in laws]
        problems.append(Problem(columns, target, weight, proposals=laws))
    fronts = search(regressors, problems, processes, budget)

    def in_units(law: Law, unit: float) -> Law:
        expression = _number(unit) * law.expression.xreplace(scaled)
        if power:
            expression /= (symbols["r"] / _number(units["r"])) ** power
        return law._replace(expression=expression)

    return tuple(
        front._replace(laws=tuple(in_units(law, unit) for law in front.laws))
        for front, unit in zip(fronts, target_units, strict=True)
    )


def check_form(gauge: str, form: str) -> None:
    """Raise a `ValueError` for a gauge and form of the law that are unknown or do not fit."""
    check_choice("gauge", gauge, GAUGES)
    check_choice("form", form, FORMS)
    if form in ("central", "linear") and gauge == "messages":
        raise ValueError('Raw messages have no direction: use gauge="influence" for this form.')


def _apart(table: MessageTable) -> MessageTable:
    """The table without coincident pairs, which have no direction."""
    keep = table.features["r"] > 0
    if not np.any(keep):
        raise ValueError("All pairs of the table coincide: there is no distance to learn from.")
    return take_edges(table, keep)


def _power_of_ten(size: float) -> float:
    """1 for sizes from 0.01 to 100, so that dimensionless laws keep their plain constants."""
    power = round(math.log10(size)) if size > 0 else 0
    return 10.0**power if abs(power) > 2 else 1.0


def _number(value: float) -> sympy.Expr:
    return sympy.Integer(1) if value == 1 else sympy.Float(value)
