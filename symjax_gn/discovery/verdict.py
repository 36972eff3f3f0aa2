"""Whether a law is the one the data were made with: are its forces, and is its form?"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import sympy
from jaxtyping import Float, PRNGKeyArray
from threadpoolctl import threadpool_limits

from symjax_gn.data.border import checked
from symjax_gn.data.checks import LARGEST_COUNT, check_choice, check_count
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.features import node_features, pair_features
from symjax_gn.data.nodes import Nodes, leading_shape
from symjax_gn.data.sampling import sample_pairs
from symjax_gn.data.units import typical_size
from symjax_gn.discovery import distillation
from symjax_gn.discovery.energies import true_potential
from symjax_gn.discovery.form import all_of, form_of_forces, form_of_messages, form_of_one_body
from symjax_gn.discovery.gauge import FACTORS, GaugeFit, fit_gauge
from symjax_gn.laws.expressions import evaluate
from symjax_gn.physics.systems import System, one_body_force, true_forces

MAX_CONDITION = 100.0

_LARGEST = 1e150


EXACT = {"seen": (0.001, 0.01), "beyond": (0.01, 0.05)}
"""Largest median and 90% quantile of the error of an exact law on fresh pairs of the test
simulations, and on pairs from half the smallest to twice the largest separation seen."""

APPROXIMATE = {"seen": (0.02, 0.1), "beyond": (0.05, 0.2)}
"""The same of an approximate law, and of one of raw messages."""

# An exact law errs by more than a tenth for this share of pairs at most: a threshold that is
# 3% off, or a cut-off far out, concerns few pairs, and no median sees it.
_WRONG, _MOST_WRONG = 0.1, 0.003

# Forces count as none below this share of the typical one.
_FELT = 0.01

# What is added to the size of a force that an error is relative to: a share of the typical
# one, for laws of forces and of raw messages.
_FLOOR, _FLOOR_OF_MESSAGES = 0.01, 0.1

# Separations beyond those seen, as factors of their 5% and 95% quantiles: of laws of forces
# and of raw messages.
_BEYOND, _BEYOND_OF_MESSAGES = (0.5, 2.0), (1 / 3, 3.0)

# Pairs, of those seen and of those beyond, or bodies on which forms are compared.
_COMPARED = 300


class Verdict(NamedTuple):
    """The outcome of `judge`."""

    says: str
    """How near the law's forces are to the true ones: "exact" or "approximate" for a law of
    forces, "up to a gauge" for one of raw messages, or "not recovered"."""
    checks: dict[str, dict[str, Any]]
    """Each check with its numbers, its limits and whether it holds."""
    gauge: GaugeFit | None
    """The gauge in which a law of raw messages was compared; None for forces."""
    softening: float
    """The softening of the true law it was compared with."""
    form: str = "unknown"
    """Whether the law has the form of the true one, see `compare_form`: "same", "other", or
    "unknown" where that cannot be told."""

    @property
    def recovered(self) -> bool:
        """Whether the law is the true one: its forces are near, and its form is the same."""
        return self.says in ("exact", "up to a gauge") and self.form == "same"


class _Pairs(NamedTuple):
    law: Float[np.ndarray, "edge component"]
    receiver: Nodes
    sender: Nodes


# Its least-squares problems are so small that threads of linear algebra wait for each other.
@threadpool_limits.wrap(limits=1, user_api="blas")
@checked
def judge(
    key: PRNGKeyArray,
    components: Sequence[sympy.Expr],
    system: System,
    train: Dataset,
    test: Dataset,
    *,
    gauge: str = "influence",
    one_body: Mapping[str, Any] | None = None,
    num_components: int | None = None,
    num_pairs: int = 4000,
) -> Verdict:
    """Compare a law of the forces between pairs with the truth: in value and in form.

    The form is the same if there are values of the law's constants for which it is the true law
    to rounding, on pairs seen and beyond; see `compare_form`. True values are computed in
    float64. Forms of raw messages are compared in the gauges g = 1 and g = 1 / m_i with a
    constant b, and unknown in others. A law is recovered if it is near and has the same form.

    A law of forces (`gauge="influence"`) must be the force as it stands. Its error is
    |law - f| / (|f| + 0.01 typical |f|), typical the median over pairs that feel something;
    pairs that feel nothing, and are said to, have no say. It is exact by the limits of
    `EXACT`, and with an error above a tenth for at most 0.3% of pairs; approximate by those of
    `APPROXIMATE`.

    Laws of raw messages are known up to m_ij = g(v_i) A f_ij + b(v_i). They are
    compared with the right-hand side after solving for A, b and g on pairs of the training
    simulations, of which the tenth that fits worst has no say in it (three rounds; errors are
    of all pairs): first with g = 1, then 1 / m_i, then a fitted positive function of the
    receiver's mass and charge, and with a constant b before such a function. The first that
    passes is named, or else the nearest. The true law counts with its softening and without,
    whichever is nearer. The error of a pair is |law - (g A f + b)| / (|g A f| + 0.1 median
    |g A f|), its limits those of `APPROXIMATE`.

    Args:
        key: PRNG key that chooses the pairs.
        components: the law, one expression of the features of `pair_features` per dimension.
        system: the system whose pair force is the truth.
        train: the graphs the law was learned from, user's units.
        test: graphs of other simulations.
        gauge: the one the law was distilled in: "influence", for a force, or "messages".
        one_body: what `judge_one_body` said of the rest of a law of forces, which must hold
            too; None if it is not to be judged.
        num_components: number of message components that the run found in use, which
            must be the number of dimensions; None where it was not asked.
        num_pairs: number of pairs in each of the three sets.

    Raises:
        ValueError: the gauge is unknown, a law of forces has not one component for each
            dimension, or a component has variables that pairs do not have.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> r, dx, dy = sympy.symbols("r dx dy")
    >>> law = [(2 * r - 1.98) * way / r for way in (dx, dy)]
    >>> judge(key, law, sgn.SYSTEMS["spring"], train, test, num_pairs=200).says
    'exact'
    """
    check_choice("gauge", gauge, distillation.GAUGES)
    check_count("num_pairs", num_pairs, most=LARGEST_COUNT)
    if num_components is not None:
        check_count("num_components", num_components, 0)
    dim = train.target.shape[-1]
    if gauge == "influence" and len(components) != dim:
        raise ValueError(
            f"A force in {dim} dimensions has as many components, not {len(components)}; for laws "
            'of raw messages, say gauge="messages".'
        )
    if num_components is None and gauge == "messages":
        num_components = len(components)
    keys = jax.random.split(key, 4)
    known = _sample(keys[0], train, num_pairs, components)
    fresh = _sample(keys[1], test, num_pairs, components)
    reach = _BEYOND if gauge == "influence" else _BEYOND_OF_MESSAGES
    other = _sample(keys[3], test, num_pairs, components)
    far = _stretch(keys[2], other, known, components, test.space, reach, system.cutoff)
    both = [jax.tree.map(lambda x: x[:_COMPARED], pairs[1:]) for pairs in (fresh, far)]
    ends = jax.tree.map(lambda *x: np.concatenate(x), *both)
    dimension: dict[str, Any] = {}
    if num_components is not None:
        dimension["dimension"] = dict(
            components=num_components, needed=dim, holds=num_components == dim
        )
    if gauge == "influence":
        truths = [true_forces(system, *pairs[1:]) for pairs in (fresh, far)]
        judged = _judge_forces([fresh.law, far.law], truths, dimension, one_body, system.softening)
        forms = [form_of_forces(components, system, *ends)]
        forms += [] if one_body is None else [one_body["form"]]
        return judged._replace(form=all_of(forms))
    judged = _judge_messages(known, fresh, far, system, dimension)
    assert judged.gauge is not None
    receiver, sender = ends
    form = form_of_messages(components, judged.gauge, system, receiver, sender, judged.softening)
    return judged._replace(form=form)


def _judge_forces(laws, truths, dimension, one_body, softening):
    """The verdict on laws of forces on pairs that are seen and beyond."""
    typical = typical_size(np.linalg.norm(truths[0], axis=1))
    errors = [
        _errors_of_force(law, truth, typical) for law, truth in zip(laws, truths, strict=True)
    ]
    found: dict[str, Any] = {}
    for says, limits in (("exact", EXACT), ("approximate", APPROXIMATE)):
        checks = dict(dimension)
        for (name, limit), error in zip(limits.items(), errors, strict=True):
            check = _check_errors(error, limit)
            if says == "exact":
                wrong = float(np.mean(error > _WRONG))
                holds = check["holds"] and wrong <= _MOST_WRONG
                check |= dict(wrong=wrong, wrong_limit=_MOST_WRONG, holds=holds)
            checks[f"error_{name}"] = check
        if one_body:
            holds = one_body["holds" if says == "exact" else "approximate"]
            checks["one_body"] = dict(one_body, holds=holds)
        found[says] = checks
        if all(check["holds"] for check in checks.values()):
            return Verdict(says, found["exact"], None, softening)
    return Verdict("not recovered", found["exact"], None, softening)


def _errors_of_force(law, truth, typical):
    """Relative errors of the pairs that feel something, or are said to."""
    size = np.linalg.norm(truth, axis=1)
    with np.errstate(all="ignore"):
        said, gap = np.linalg.norm(law, axis=1), np.linalg.norm(law - truth, axis=1)
    said = np.where(np.isfinite(said), said, np.inf)
    felt = (size > _FELT * typical) | (said > _FELT * typical)
    if not np.any(felt):
        return np.zeros(1)
    error = gap[felt] / (size[felt] + _FLOOR * typical + 1e-300)
    return np.where(np.isfinite(error), error, np.inf)


def _judge_messages(known, fresh, far, system, dimension):
    """The verdict on laws of raw messages, in the gauge in which they are nearest."""
    softenings = [system.softening, 0.0] if system.softening else [0.0]
    forces = {
        softening: [
            true_forces(system, pairs.receiver, pairs.sender, softening)
            for pairs in (known, fresh, far)
        ]
        for softening in softenings
    }
    nearest = None
    for name in FACTORS:
        for constant_offset in (True, False):
            attempts = []
            for softening in softenings:
                fitted = _fit(known, forces[softening][0], name, constant_offset)
                errors = [
                    _errors(pairs, *fitted.predict(force, *_properties(pairs)))
                    for pairs, force in zip((fresh, far), forces[softening][1:], strict=True)
                ]
                checks = _checks(fitted, errors) | dimension
                holds = all(check["holds"] for check in checks.values())
                says = "up to a gauge" if holds else "not recovered"
                distance = np.median(errors[0]) + np.median(errors[1])
                attempts.append((distance, Verdict(says, checks, fitted, softening)))
            attempt = min(attempts, key=lambda pair: pair[0])
            if attempt[1].says == "up to a gauge":
                return attempt[1]
            if nearest is None or attempt[0] < nearest[0]:
                nearest = attempt
    assert nearest is not None
    return nearest[1]


def judge_one_body(
    key: PRNGKeyArray,
    components: Sequence[sympy.Expr],
    system: System,
    test: Dataset,
    *,
    num_bodies: int = 4000,
) -> dict[str, Any]:
    """Compare a law of what a body feels by itself with the truth, on fresh bodies.

    Errors and limits are those of exact laws of pairs; typical is the force on bodies that
    feel one, or the force of a pair where none does. `approximate` says whether the limits of
    approximate laws hold, and `form` whether the law has the true form, as in `Verdict`.

    Args:
        key: PRNG key that chooses the bodies.
        components: the law, one expression of the receiver's features per dimension.
        system: the system whose drag and one-body potential are the truth.
        test: graphs that the law was not learned from, user's units.
        num_bodies: number of bodies.
    """
    receiver, sender, *_ = sample_pairs(key, test, num_bodies)
    law = _values(components, receiver, sender, test.space)
    truth = np.asarray(jax.vmap(lambda body: one_body_force(system, body))(receiver), np.float64)
    typical = typical_size(np.linalg.norm(truth, axis=1))
    if typical == 0:
        typical = typical_size(np.linalg.norm(true_forces(system, receiver, sender), axis=1))
    error = _errors_of_force(law, truth, typical)
    near = _check_errors(error, APPROXIMATE["seen"])["holds"]
    few = jax.tree.map(lambda x: x[: 2 * _COMPARED], receiver)
    form = form_of_one_body(components, system, few)
    return _check_errors(error, EXACT["seen"]) | dict(approximate=near, form=form)


def judge_potential(
    key: PRNGKeyArray,
    potential: sympy.Expr | None,
    system: System,
    test: Dataset,
    *,
    num_pairs: int = 1000,
) -> dict[str, Any]:
    """Compare the shape in r of a potential with the truth, on fresh pairs.

    A Hamiltonian's momenta are m v, so that its energies have the user's unit and there is
    no gauge to solve for but what does not depend on r: V(r) - V(r_0) is compared with the
    work of the true force between r_0, the pairs' median distance, and r. Errors and limits
    are those of forces; the true law counts with its softening and without.

    Args:
        key: PRNG key that chooses the pairs.
        potential: V(r, m_i, m_j, q_i, q_j) of a pair; None fails.
        system: the system whose pair force is the truth.
        test: graphs that the law was not learned from, user's units.
        num_pairs: number of pairs.
    """
    if potential is None:
        return _check_errors(np.array([np.inf]), APPROXIMATE["seen"])
    receiver, sender, *_ = sample_pairs(key, test, num_pairs)
    features = pair_features(receiver, sender, test.space)
    start = float(np.median(features["r"]))
    middle = np.full(len(features["r"]), start)
    ends = [evaluate(potential, features | {"r": r}) for r in (features["r"], middle)]
    checks = []
    for softening in {system.softening, 0.0}:
        truth = true_potential(system, receiver, sender, start, softening)
        size = np.abs(truth) + 0.1 * typical_size(truth)
        with np.errstate(all="ignore"):
            error = np.abs(ends[0] - ends[1] - truth) / size
        error = np.where(np.isfinite(error), error, np.inf)
        checks.append(_check_errors(error, APPROXIMATE["seen"]))
    return min(checks, key=lambda check: (not check["holds"], check["median"]))


def judge_kinetic(
    key: PRNGKeyArray, velocity: sympy.Expr, test: Dataset, *, num_bodies: int = 4000
) -> dict[str, Any]:
    """Compare dH/dp, a law of p, with p / m, on fresh bodies.

    Errors and limits are those of forces.

    Args:
        key: PRNG key that chooses the bodies.
        velocity: the law of dH/dp, of `p`, `m_i` and `q_i`.
        test: graphs that the law was not learned from, user's units.
        num_bodies: number of bodies.
    """
    body, *_ = sample_pairs(key, test, num_bodies)
    mass, charge = _mass_and_charge(body)
    speed = np.linalg.norm(np.asarray(body.velocity, np.float64), axis=1)
    columns = node_features(body) | dict(p=mass * speed, m_i=mass, q_i=charge)
    with np.errstate(all="ignore"):
        error = np.abs(evaluate(velocity, columns) - speed)
        error = error / (speed + 0.1 * typical_size(speed))
    error = np.where(np.isfinite(error), error, np.inf)
    return _check_errors(error, APPROXIMATE["seen"])


def _values(components, receiver, sender, space):
    """Values of laws; those whose squares overflow count as not finite."""
    features = pair_features(receiver, sender, space)
    values = np.stack([evaluate(component, features) for component in components], axis=-1)
    return np.where(np.abs(values) < _LARGEST, values, np.nan)


def _sample(key, dataset, num_pairs, components):
    receiver, sender, *_ = sample_pairs(key, dataset, num_pairs)
    return _Pairs(_values(components, receiver, sender, dataset.space), receiver, sender)


def _stretch(key, pairs, known, components, space, reach, cutoff):
    """The same pairs at separations that go beyond those known by the given factors."""
    separation = pair_features(known.receiver, known.sender, space)["r"]
    low, high = np.quantile(separation, [0.05, 0.95]) * reach
    # Beyond a cutoff there are no edges, and no law is asked.
    low, high = np.log([low, high if cutoff is None else min(high, cutoff)])
    r = np.exp(np.asarray(jax.random.uniform(key, separation.shape, minval=low, maxval=high)))
    displacement = space.displacement(pairs.receiver.position, pairs.sender.position)
    unit = displacement / np.linalg.norm(displacement, axis=-1, keepdims=True)
    sender = pairs.sender._replace(position=pairs.receiver.position + r[:, None] * unit)
    return _Pairs(_values(components, pairs.receiver, sender, space), pairs.receiver, sender)


def _properties(pairs):
    return _mass_and_charge(pairs.receiver)


def _mass_and_charge(nodes):
    """Masses and charges `[pair]`, 1 and 0 where there are none."""
    count = leading_shape(nodes)
    default = dict(mass=np.ones(count), charge=np.zeros(count))
    return tuple(np.asarray(nodes.properties.get(k, x), np.float64) for k, x in default.items())


def _fit(pairs, force, name, constant_offset):
    """The gauge of most pairs: those that fit worst, a tenth, have no say in it."""
    finite = np.all(np.isfinite(pairs.law), axis=1) & np.all(np.isfinite(force), axis=1)
    law = np.where(finite[:, None], pairs.law, 0.0)
    force = np.where(finite[:, None], force, 0.0)
    size = np.linalg.norm(law, axis=1)
    unit = typical_size(size) or 1.0
    scale = size + 0.1 * unit
    keep = finite

    def fit(keep):
        options = dict(name=name, constant_offset=constant_offset, weight=keep * unit / scale)
        return fit_gauge(law, force, *_properties(pairs), **options)

    gauge = fit(keep)
    for _ in range(3 if np.any(finite) else 0):
        scaled, offset = gauge.predict(force, *_properties(pairs))
        misfit = np.linalg.norm(law - scaled - offset, axis=1) / scale
        keep = finite & (misfit <= np.quantile(misfit[finite], 0.9, method="higher"))
        gauge = fit(keep)
    return gauge


def _errors(pairs, scaled, offset):
    size = np.linalg.norm(scaled, axis=1)
    with np.errstate(all="ignore"):
        error = np.linalg.norm(pairs.law - scaled - offset, axis=1)
        error = error / (size + _FLOOR_OF_MESSAGES * _median(size))
    return np.where(np.isfinite(error), error, np.inf)


def _median(size):
    """The median, or where most feel nothing, that of those that do."""
    return np.median(size) or typical_size(size)


def _checks(gauge, errors):
    # Too few components leave the force undetermined, however well-conditioned they are.
    complete = np.linalg.matrix_rank(gauge.matrix) == gauge.matrix.shape[1]
    condition = float(np.linalg.cond(gauge.matrix)) if complete else float("inf")
    checks: dict[str, dict[str, Any]] = {
        "determines_force": dict(
            condition_number=condition, limit=MAX_CONDITION, holds=condition < MAX_CONDITION
        )
    }
    for (name, limits), error in zip(APPROXIMATE.items(), errors, strict=True):
        checks[f"error_{name}"] = _check_errors(error, limits)
    return checks


def _check_errors(error, limits):
    median, tail = (float(np.quantile(error, q, method="higher")) for q in (0.5, 0.9))
    return dict(
        median=median,
        median_limit=limits[0],
        quantile_90=tail,
        quantile_90_limit=limits[1],
        holds=median <= limits[0] and tail <= limits[1],
    )
