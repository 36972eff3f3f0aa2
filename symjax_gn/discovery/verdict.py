"""Whether a distilled law is the law the data were made with; no person decides."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import sympy
from jaxtyping import Float, PRNGKeyArray
from threadpoolctl import threadpool_limits

from symjax_gn.data.checks import check_choice
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.features import node_features, pair_features
from symjax_gn.data.nodes import Nodes, leading_shape
from symjax_gn.data.sampling import sample_pairs
from symjax_gn.data.units import typical_size
from symjax_gn.discovery import distillation
from symjax_gn.discovery.energies import true_potential
from symjax_gn.discovery.gauge import FACTORS, GaugeFit, fit_gauge
from symjax_gn.laws.expressions import evaluate
from symjax_gn.physics.systems import System, one_body_force, true_forces

MAX_CONDITION = 100.0

_LARGEST = 1e150


MAX_ERROR = {"seen": (0.02, 0.1), "beyond": (0.05, 0.2)}
"""Largest median and 90% quantile of the error on fresh pairs of the test simulations,
and on pairs whose separation goes beyond those of training."""


class Verdict(NamedTuple):
    """The outcome of `judge`."""

    recovered: bool
    """Whether every check holds."""
    checks: dict[str, dict[str, Any]]
    """Each check with its numbers, its limits and whether it holds."""
    gauge: GaugeFit
    """The gauge in which the law was compared."""
    softening: float
    """The softening of the true law it was compared with."""


class _Pairs(NamedTuple):
    law: Float[np.ndarray, "edge component"]
    receiver: Nodes
    sender: Nodes


# Its least-squares problems are so small that threads of linear algebra wait for each other.
@threadpool_limits.wrap(limits=1, user_api="blas")
def judge(
    key: PRNGKeyArray,
    components: Sequence[sympy.Expr],
    system: System,
    train: Dataset,
    test: Dataset,
    *,
    gauge: str = "influence",
    num_components: int | None = None,
    num_pairs: int = 4000,
) -> Verdict:
    """Compare a law with the truth, up to what a graph network cannot know.

    A graph network knows the force f_ij up to m_ij = g(v_i) A f_ij + b(v_i). The law is
    compared with the right-hand side after solving for A, b and g on pairs of the training
    simulations, of which the tenth that fits worst has no say in it (three rounds; errors are
    of all pairs): first with g = 1, then 1 / m_i, then a fitted positive function of the
    receiver's mass and charge, and with a constant b before such a function. The first that
    passes is named, or else the nearest. The true law counts with its softening and without,
    whichever is nearer. The error of a pair is |law - (g A f + b)| / (|g A f| + 0.1 median
    |g A f|); where most pairs feel nothing and that median is 0, it is the median of the
    pairs that do (`typical_size`).

    All this is of raw messages. A law that was distilled with `gauge="influence"` says that
    it is the force: that it is so as it stands, with g = 1, A = 1 and b = 0, is one check
    more, by the limits of fresh pairs. The gauge then says what else the law may be.

    Args:
        key: PRNG key that chooses the pairs.
        components: the law, one expression of the features of `pair_features` per dimension.
        system: the system whose pair force is the truth.
        train: the graphs the law was learned from, user's units.
        test: graphs of other simulations.
        gauge: the one the law was distilled in: "influence", for a force, or "messages".
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
    >>> judge(key, law, sgn.SYSTEMS["spring"], train, test, num_pairs=200).recovered
    True
    """
    check_choice("gauge", gauge, distillation.GAUGES)
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
    far = _stretch(
        keys[2], _sample(keys[3], test, num_pairs, components), known, components, test.space
    )
    softenings = [system.softening, 0.0] if system.softening else [0.0]
    forces = {
        softening: [true_forces(system, *pairs[1:], softening) for pairs in (known, fresh, far)]
        for softening in softenings
    }
    as_it_is = {}
    if gauge == "influence":
        as_it_is = {
            softening: _check_errors(_errors(fresh, force[1], 0.0), MAX_ERROR["seen"])
            for softening, force in forces.items()
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
                checks = _checks(fitted, errors)
                if as_it_is:
                    checks["is_force"] = as_it_is[softening]
                if num_components is not None:
                    checks["dimension"] = dict(
                        components=num_components, needed=dim, holds=num_components == dim
                    )
                recovered = all(check["holds"] for check in checks.values())
                distance = np.median(errors[0]) + np.median(errors[1])
                attempts.append((distance, Verdict(recovered, checks, fitted, softening)))
            attempt = min(attempts, key=lambda pair: pair[0])
            if attempt[1].recovered:
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

    The error of a body is |law - truth| / (|truth| + 0.1 median |truth|), the median as in
    `judge`; where there is no such force, over the typical force of a pair instead. The
    limits are those of pairs.

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
    size = np.linalg.norm(truth, axis=1)
    size += 0.1 * _median(size)
    if not np.any(size):
        size = typical_size(np.linalg.norm(true_forces(system, receiver, sender), axis=1))
    with np.errstate(all="ignore"):
        error = np.linalg.norm(law - truth, axis=1) / size
    error = np.where(np.isfinite(error), error, np.inf)
    return _check_errors(error, MAX_ERROR["seen"])


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
        return _check_errors(np.array([np.inf]), MAX_ERROR["seen"])
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
        checks.append(_check_errors(error, MAX_ERROR["seen"]))
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
    return _check_errors(error, MAX_ERROR["seen"])


def _values(components, receiver, sender, space):
    """Values of laws; those whose squares overflow count as not finite."""
    features = pair_features(receiver, sender, space)
    values = np.stack([evaluate(component, features) for component in components], axis=-1)
    return np.where(np.abs(values) < _LARGEST, values, np.nan)


def _sample(key, dataset, num_pairs, components):
    receiver, sender, *_ = sample_pairs(key, dataset, num_pairs)
    return _Pairs(_values(components, receiver, sender, dataset.space), receiver, sender)


def _stretch(key, pairs, known, components, space):
    """The same pairs at separations from a third of the smallest to thrice the largest."""
    separation = pair_features(known.receiver, known.sender, space)["r"]
    low, high = np.log(np.quantile(separation, [0.05, 0.95]) * [1 / 3, 3])
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
        error = error / (size + 0.1 * _median(size))
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
    for (name, limits), error in zip(MAX_ERROR.items(), errors, strict=True):
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
