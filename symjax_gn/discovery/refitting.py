"""Accelerations from laws, and their constants refitted to those of the data."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.border import checked
from symjax_gn.data.checks import LARGEST_COUNT, check_choice, check_count, check_number
from symjax_gn.data.datasets import Dataset, some_graphs
from symjax_gn.data.nodes import AXES
from symjax_gn.data.soundness import check_dataset
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.distillation import VectorLaw
from symjax_gn.discovery.selection import simplest
from symjax_gn.laws.expressions import to_numpy, with_slots
from symjax_gn.laws.fitting import fit_constants
from symjax_gn.laws.law import sum_symbols
from symjax_gn.laws.refinement import improve
from symjax_gn.laws.rules import Rule, softened, zero
from symjax_gn.laws.samples import Samples, gather
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import batches, held_out_error, known_targets

_R = sympy.Symbol("r")

# Fits of laws that the rules of a refit propose, at most.
_PROPOSALS = 40


def law_accelerations(
    force: Sequence[sympy.Expr], one_body: Sequence[sympy.Expr], dataset: Dataset
) -> Float[np.ndarray, "graph node dim"]:
    """Accelerations `[graph, node, dim]` that laws predict for any number of bodies.

    Args:
        force: force on the receiver from the sender along each axis, of the features of
            `pair_features`, user's units.
        one_body: force on the receiver alone along each axis, of its own features.
        dataset: graphs in the user's units; only bodies and edges are used.

    Raises:
        ValueError: there is not one law of each kind for each axis, or one has other
            variables.
    """
    model = force_model(force, one_body, dataset)
    found = [model.predict(part)[:count] for part, count in batches(dataset)]
    return np.concatenate(found)


def law_error(
    force: Sequence[sympy.Expr], one_body: Sequence[sympy.Expr], dataset: Dataset
) -> tuple[float, float]:
    """`held_out_error` of laws of force; see `law_accelerations`."""
    return held_out_error(force_model(force, one_body, dataset), dataset)


def force_model(
    force: Sequence[sympy.Expr],
    one_body: Sequence[sympy.Expr],
    dataset: Dataset,
    *,
    others: Sequence[sympy.Expr] = (),
    update: Sequence[sympy.Expr] = (),
) -> SymbolicModel:
    """Laws of force as a model: (what the sum of forces becomes + own force) / weight.

    Args:
        force: on the receiver from the sender along each axis.
        one_body: on the receiver alone along each axis.
        dataset: whose quantity and space the law is for.
        others: further messages, which are summed beside the forces.
        update: what sums e_0, ... of forces, and of what is beside them, become along each
            axis; empty: the sums of forces.

    Raises:
        ValueError: there is not one law of each kind for each axis.
    """
    dim = dataset.target.shape[-1]
    update = tuple(update) or sum_symbols(dim)
    if not len(force) == len(one_body) == len(update) == dim:
        raise ValueError(
            f"{dim} dimensions need as many laws of each kind: got {len(force)} of pairs and "
            f"{len(one_body)} of a body alone."
        )
    quantity = dataset.quantity
    weighed = quantity.weight in dataset.nodes.properties
    weight = sympy.Symbol("m_i" if quantity.weight == "mass" else f"{quantity.weight}_i")
    whole = [one + alone for one, alone in zip(update, one_body, strict=True)]
    return SymbolicModel(
        message=(*force, *others),
        update=tuple(one / weight if weighed else one for one in whole),
        quantity=quantity,
        space=dataset.space,
    )


class Refit(NamedTuple):
    """Laws whose constants were fitted to accelerations, user's units."""

    force: tuple[sympy.Expr, ...]
    """Force on the receiver from the sender along each axis."""
    one_body: tuple[sympy.Expr, ...]
    """Force on the receiver alone along each axis."""
    scalar: sympy.Expr | None
    """The law of the distance of a central force, before softening; else None. With s the
    softened distance, the force towards the sender is scalar(s) ds/dr, and the potential the
    integral of scalar at s."""
    distance: sympy.Expr
    """s: `r`, or `r + c` or `sqrt(r**2 + c**2)` (Plummer) where the data show a softening."""
    towards: sympy.Expr | None
    """scalar(s) ds/dr, the force towards the sender; None for other forms."""
    error: float
    """Mean over bodies of |a - a_hat| / (|a| + 0.1 typical |a|) on the graphs of the fit."""
    error_before: float
    """The same of the laws as they were."""
    intervals: tuple[tuple[float, float, float], ...] = ()
    """Fitted constants, each with the ends of its 95% interval; of laws found term by term."""
    others: tuple[sympy.Expr, ...] = ()
    """What is summed beside forces; its sums follow those of forces, e_0, e_1, ..."""
    update: tuple[sympy.Expr, ...] = ()
    """What the sums become along each axis; empty where that is the sums of forces."""


@checked
def refit(
    law: VectorLaw,
    one_body: VectorLaw | None,
    dataset: Dataset,
    *,
    validation: Dataset | None = None,
    gain: float = 0.1,
    num_pairs: int = 20_000,
) -> Refit:
    """Put laws in the network's place and fit their constants to accelerations.

    As the paper does at the end (section 3), by robust least squares of errors relative to
    each body's acceleration, and the loop of proposals that fronts are refined with: a
    regression on messages sees little of the nearest pairs, so a central law is also tried
    with a softened distance, and every constant is tried as 0; of two laws the more complex
    one must lower the error by the share `gain`. Thresholds of steps are looked for within 2%.
    Without `validation` a refit that is no better leaves the laws as they were. Graphs with
    coincident bodies are left out.

    Args:
        law: the law of pairs, a force (`gauge="influence"`).
        one_body: the law of a body alone; None for no force.
        dataset: graphs to fit to, user's units.
        validation: graphs of other recordings: of all laws of the fronts, refitted, the
            simplest is taken whose error there is not above the best one's. None keeps the
            law that was selected.
        gain: see above.
        num_pairs: about how many edges are used, of graphs evenly spaced in the dataset.

    Raises:
        ValueError: the law is one of raw messages, or all graphs have coincident bodies.

    >>> import jax
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> r, dx, dy = sympy.symbols("r dx dy")
    >>> towards = 2.1 * r - 1.8
    >>> law = VectorLaw("central", tuple(towards * way / r for way in (dx, dy)), towards)
    >>> found = refit(law, None, train)
    >>> found.error < 1e-3 < found.error_before
    True
    """
    check_dataset(dataset, "training")
    check_number("gain", gain, least=0)
    check_count("num_pairs", num_pairs, most=LARGEST_COUNT)
    if law.gauge == "messages":
        raise ValueError('A refit needs a law of forces: distill with gauge="influence".')
    bodies = gather(dataset, num_pairs)
    central = law.form == "central" and law.scalar is not None
    pair: Any = (law.scalar, _R) if central else law.components
    alone = [sympy.Integer(0)] * len(law.components) if one_body is None else one_body.components
    start = (*pair, *alone)
    objective = _OnTargets(bodies, central)
    rules: list[Rule] = [zero]
    if central:
        rules.append(_softened(0.1 * float(np.quantile(bodies.elements["r"], 0.01))))
    # A law that is finite for no constants is not on the front.
    starts = [start] if validation is None else [start, *_rivals(law, start, central)]
    rows = improve(starts, objective, rules, gain=gain, budget=_PROPOSALS)
    best: Any = rows[-1].candidate if rows else start
    before = objective.error(start)
    if validation is not None and rows:
        held_out = _OnTargets(gather(validation, num_pairs), central)
        errors = [held_out.errors(row.candidate) for row in rows]
        best = rows[simplest(errors, [row.complexity for row in rows])].candidate
    elif not objective.error(best) < before:
        best = start
    after = objective.error(best)
    force, alone = objective.forces(best)
    scalar, distance = best[:2] if central else (None, _R)
    towards = None if scalar is None else _towards(scalar, distance)
    return Refit(tuple(force), tuple(alone), scalar, distance, towards, after, before)


def _rivals(law, start, central):
    """Candidates with another law of a front in the place of the selected one."""
    if central:
        return [(one.expression, *start[1:]) for front in law.fronts for one in front.laws]
    if len(law.fronts) != len(law.components):
        return []
    return [
        (*start[:k], one.expression, *start[k + 1 :])
        for k, front in enumerate(law.fronts)
        for one in front.laws
    ]


def _towards(scalar, distance):
    """The force towards the sender of a law of a softened distance."""
    return scalar.xreplace({_R: distance}) * sympy.diff(distance, _R)


def _softened(start: float) -> Rule:
    """A rule that softens the distance, the second part of a candidate."""
    soften = softened("r", start)

    def rule(parts):
        if parts.args[1] == _R:
            for distance in soften(_R):
                yield parts.func(parts.args[0], distance, *parts.args[2:])

    return rule


class _OnTargets:
    """Laws of pairs and of bodies alone against the data's targets; see `refinement.Objective`.

    A candidate holds the laws of force along each axis, or of a central force the law of the
    distance and the distance as it is softened; and then the laws of a body alone.
    """

    def __init__(self, bodies: Samples, central: bool):
        self.bodies, self.central = bodies, central

    def forces(self, candidate: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Laws of force along each axis, and laws of a body alone."""
        dim = self.bodies.target.shape[-1]
        pair, alone = candidate[: len(candidate) - dim], candidate[len(candidate) - dim :]
        if self.central:
            towards = _towards(*pair)
            pair = [towards / _R * sympy.Symbol(f"d{axis}") for axis in AXES[:dim]]
        return list(pair), list(alone)

    def _errors(self, laws, slots):
        """Functions of the constants: weighted errors, and their sizes `[node]`."""
        functions = _Functions(laws[0], slots), _Functions(laws[1], slots)

        def errors(values):
            with np.errstate(all="ignore"):
                gap = _accelerate(*functions, self.bodies, values) - self.bodies.target
                return gap * self.bodies.weight[:, None]

        def each(values):
            error = np.linalg.norm(errors(values), axis=-1)
            return np.where(np.isfinite(error), error, np.inf)

        return errors, each

    def error(self, candidate: Sequence[Any]) -> float:
        """Mean of the weighted errors of a candidate as it is."""
        return float(np.mean(self.errors(candidate)))

    def errors(self, candidate: Sequence[Any]) -> Float[np.ndarray, " node"]:
        """The weighted errors `[node]` of a candidate as it is."""
        return self._errors(self.forces(candidate), ())[1](())

    def fit(self, candidate: tuple[Any, ...], limit: float) -> tuple[tuple[Any, ...], float]:
        """The candidate with fitted constants, and its error."""
        del limit
        # Constants become variables first, lest SymPy merges them.
        free, slots, old = with_slots(candidate)
        laws = self.forces(free)
        errors, each = self._errors(laws, slots)

        def mean(values):
            return float(np.mean(each(values)))

        start = np.asarray([float(value) for value in old])
        if not slots:
            return candidate, mean(start)

        def fit(values):
            # Errors of more than a hundredth count less than by their squares.
            options: Any = dict(f_scale=0.01, most=1e3, steps=30)
            return fit_constants(errors, values, np.abs(values) + 1e-300, **options)

        found = fit(start)
        steps = [node for law in (*laws[0], *laws[1]) for node in law.atoms(sympy.Heaviside)]
        thresholds = {str(symbol) for node in steps for symbol in node.free_symbols} & set(slots)
        if thresholds:
            for slot in sorted(thresholds):
                found = _nearest_step(mean, found, slots.index(slot))
            found = fit(found)
        found = found if mean(found) < mean(start) else start
        new = {sympy.Symbol(slot): sympy.Float(x) for slot, x in zip(slots, found, strict=True)}
        renewed: tuple[Any, ...] = tuple(one.xreplace(new) for one in free)
        if self.central and not renewed[1].subs(_R, 0).is_nonnegative:
            return candidate, math.inf
        return renewed, mean(found)


def _nearest_step(error, values, k):
    """The values with the k-th, a threshold, moved by up to 2% to where the error is least.

    No derivative says where: the error changes only as a threshold passes a pair.
    """
    reach = 0.02
    for _ in range(2):
        trials = [
            np.where(np.arange(len(values)) == k, share * values, values)
            for share in np.linspace(1 - reach, 1 + reach, 41)
        ]
        errors = np.asarray([error(trial) for trial in trials])
        best = np.flatnonzero(errors == np.min(errors))
        values = trials[best[len(best) // 2]]
        reach /= 20
    return values


class _Functions:
    """Laws as one function of feature columns and some slots, in float64 (JAX has float32)."""

    def __init__(self, laws: Sequence[sympy.Expr], slots: Sequence[str] = ()):
        used = {str(symbol) for law in laws for symbol in law.free_symbols} - set(slots)
        self.names = sorted(used)
        self.functions = [to_numpy(law, [*self.names, *slots]) for law in laws]

    def __call__(self, features, values):
        shape = next(iter(features.values())).shape
        for name in self.names:
            check_choice("variable of a law", name, features)
        columns = [features[name] for name in self.names]
        columns += [np.full(shape, value) for value in values]
        table = np.stack(columns, axis=-1) if columns else np.zeros((*shape, 0))
        return np.stack([function(table) for function in self.functions], axis=-1)


def _accelerate(force, one_body, bodies, values):
    """What laws predict, `[node, dim]`."""
    pairs = bodies.of_elements(force(bodies.elements, values))
    return pairs + bodies.of_owners(one_body(bodies.owners, values))


def refit_model(
    model: SymbolicModel,
    dataset: Dataset,
    *,
    num_elements: int = 20_000,
    num_owners: int = 1000,
) -> SymbolicModel:
    """Fit all constants of a law, of messages and update together, to the quantity.

    Robust least squares, as in `refit`; a fit that is no better leaves the law as it was.

    Args:
        model: the law.
        dataset: graphs to fit to, user's units.
        num_elements: about how many messages are used, of graphs evenly spaced.
        num_owners: of about how many nodes or graphs at least, whatever messages they have.
    """
    some = some_graphs(dataset, num_elements, num_owners)
    target = np.asarray(some.target, np.float64)
    known = known_targets(some)
    weight: Any = 1 / (typical_size(target) or 1.0)
    weight = weight if known is None else weight * known
    pairs = len(model.message)
    free, slots, old = with_slots([*model.message, *model.update])
    if not slots:
        return model
    start = np.asarray([float(value) for value in old])

    def laws(values):
        new = {
            sympy.Symbol(slot): sympy.Float(value)
            for slot, value in zip(slots, values, strict=True)
        }
        filled: list[Any] = [law.xreplace(new) for law in free]
        return dataclasses.replace(
            model, message=tuple(filled[:pairs]), update=tuple(filled[pairs:])
        )

    def errors(values):
        with np.errstate(all="ignore"):
            return (laws(values).predict(some) - target) * weight

    def mean(values):
        found = np.abs(errors(values))
        return float(np.mean(np.where(np.isfinite(found), found, np.inf)))

    options: Any = dict(f_scale=0.01, most=1e3, steps=30)
    found = fit_constants(errors, start, np.abs(start) + 1e-300, **options)
    return laws(found) if mean(found) < mean(start) else model
