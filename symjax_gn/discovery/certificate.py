"""Whether to believe a law, from the data alone; the truth need not be known."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from symjax_gn.data.datasets import Dataset, inertia, take
from symjax_gn.data.graphs import edge_mask, node_mask
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.agreement import messages_apart
from symjax_gn.discovery.extensions import NOTHING, Extensions, run_checks
from symjax_gn.discovery.missed import explained_by_terms
from symjax_gn.discovery.refitting import refit_model
from symjax_gn.discovery.residuals import (
    known_only,
    persistence,
    predictions,
    residuals_of,
    shared_by_bodies,
    shared_by_moments,
    what_is_left,
)
from symjax_gn.laws.samples import ROUNDING
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import Predictor, batches, known_targets
from symjax_gn.networks.training import Trained

# A law that errs by more than this share of what predicting nothing does says nothing.
_KNOWS = 0.5

# A law says what the network knows if it errs at most so many times as much, and something
# else if it errs more than so many times as much. True laws err less than what has learned them.
_SAYS, _SAYS_NOT = 1.1, 3.0

# What a network's messages say of pairs may differ from the law by so many times what it errs. A
# network that errs more than so much says nothing of pairs.
_PAIRS, _LEARNED = 3.0, 0.1

# Splines may lower the error of what a law leaves by this share.
_STRUCTURE = 0.005

# Errors on the pairs that are nearest and farthest may be so many times those of all.
_BEYOND = 3.0
_EXTREME = 0.05

# The part of accelerations that a law leaves and that is no noise may be this large. It is told
# from noise if a part of this size would have shown.
_MISSING, _TOLD = 0.005, 0.02

# Laws fitted to either half of the data may differ by this share of what they err.
_AGREE, _REFITTED = 0.5, 4_000

# The forces of a law may sum to this share of their sizes beyond so many times what those of the
# data do, and their work may differ from that of the data's by this share.
_MOMENTUM, _OF_DATA, _ENERGY = 0.01, 1.5, 0.01

# Work is averaged over so many stretches of recordings at least, for the standard error.
_STRETCHES = 8

# What a law leaves below this is rounding: of accelerations, positions and constants.
_ROUNDING_OF_LAWS = 1e-5

# Graphs whose residuals are followed in time, whole recordings of them.
_FOLLOWED = 10_000


class Certificate(NamedTuple):
    """What the data say of a law."""

    says: str
    """"believe", "doubt" or "reject"."""
    checks: dict[str, dict[str, Any]]
    """Each check with its numbers, its limit and whether it holds: None where the data cannot
    tell, and then `needs` says what data would."""


def relative_errors(predictor: Predictor, dataset: Dataset) -> Float[np.ndarray, "graph *node"]:
    """|a - a_hat| / (|a| + 0.1 typical |a|) of each node, or graph; NaN where not known.

    Args:
        predictor: a trained network, or a law.
        dataset: graphs in the user's units.
    """
    return _relative(predictions(predictor, dataset), dataset)


def _relative(guess, dataset):
    """Errors of given predictions."""
    target = np.asarray(dataset.target, np.float64)
    known = known_targets(dataset)
    known = np.ones(target.shape[:-1], bool) if known is None else np.asarray(known)[..., 0]
    size = np.linalg.norm(target, axis=-1)
    with np.errstate(all="ignore"):
        gap = np.linalg.norm(guess - target, axis=-1)
    gap = np.where(np.isfinite(gap), gap, np.inf)
    return np.where(known, gap / (size + 0.1 * typical_size(size[known])), np.nan)


def certify(
    law: SymbolicModel | None,
    network: Predictor | None,
    train: Dataset,
    test: Dataset,
    more: Extensions = NOTHING,
) -> Certificate:
    """Say whether a law is to be believed.

    Eleven checks; errors are those on data that neither the network nor the law has seen:

    - `known`: the law errs by at most half of what predicting nothing does.
    - `explained`: the law errs at most 1.1 times as much as the network. With more than 3
      times as much it does not say what the network knows. Not made without a network.
    - `messages`: by the messages of a network that errs by at most 10%, and by the law, the forces
      of other bodies on one differ by at most 3 times what the network errs.
    - `structure`: what the law leaves has none: no term with a spline of distance, velocity or
      place, fitted to it on one half of the data, explains over 0.5% of it on the other, and
      three standard errors; where it is of scalars, no sum of a spline over elements, and no
      splines of what is predicted, of sums over elements, their number and a node's own
      scalars, one or two together.
    - `noise`: what the law leaves comes and goes. What goes on, or swings, from one moment of a
      recording to later ones is at most 0.5% of accelerations.
    - `moments`: the same of what is left of all bodies at one time, in all recordings.
    - `bodies`: the same of what is left of one body throughout a recording.
    - `beyond`: on graphs with the nearest and farthest pairs, a tenth of all, the law errs
      at most 3 times as much as on all; nor more where pairs are fewest, or most.
    - `momentum`: the law's forces on the bodies of a graph sum, as vectors, to at most 1% of
      their sizes, and 1.5 times the share of those of the data.
    - `energy`: over recordings, the work that the law's forces do on moving bodies differs from
      that of the data's by at most 1% of its size, more than by chance.
    - `agreement`: constants fitted to either half of the recordings in training make
      predictions that differ by at most half of what the law errs.

    A check that the data do not allow neither holds nor fails: it says what it needs. A law is
    rejected if one of the first two fails by far, and doubted if any check fails. It is also
    doubted if it leaves more than 0.5% of vectors and nothing says that this is noise: that is so
    without recordings, and where their moments are farther apart than the motion's own time.
    Else it is believed.

    Args:
        law: the law, constants refitted; None where there is none.
        network: the network, trained to its end; None where there is none.
        train: graphs whose targets the law was fitted to, user's units.
        test: graphs that played no part.
        more: whose checks are made as well.

    >>> import jax, sympy
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> data = sgn.make_dataset(run)
    >>> r, dx, dy = sympy.symbols("r dx dy")
    >>> update = [sympy.Symbol(name) / sympy.Symbol("m_i") for name in ("e_0", "e_1")]
    >>> true, wrong = (
    ...     sgn.SymbolicModel([(2 * r - c) * way / r for way in (dx, dy)], update)
    ...     for c in (1.98, 2.5))
    >>> [certify(law, true, data, data).says for law in (true, wrong)]
    ['believe', 'reject']
    """
    own = None if network is None else float(np.nanmean(relative_errors(network, test)))
    nothing = float(np.nanmean(_relative(np.zeros(np.shape(test.target)), test)))
    if law is None:
        needs = "a law of the data's own quantity: of raw messages there is none"
        return Certificate("reject", dict(known=_cannot_tell("law_error", _KNOWS * nothing, needs)))
    errors = relative_errors(law, test)
    error = float(np.nanmean(errors))
    checks = dict(known=_at_most("law_error", error, _KNOWS * nothing, of_nothing=nothing))
    if own is not None:
        limit = _SAYS * own + ROUNDING
        checks["explained"] = _at_most("law_error", error, limit, network_error=own)
    knows = own is None or error <= _SAYS_NOT * (own + ROUNDING)
    if not (checks["known"]["holds"] and knows):
        return Certificate("reject", checks)
    if own is not None and isinstance(network, Trained) and test.quantity.vector:
        checks["messages"] = _messages(law, network, test, own)
    checks["structure"] = _structure(law, test, error)
    if test.quantity.vector:
        checks |= _missing(law, train, test, error)
        checks["beyond"] = _beyond(errors, test, error)
        checks["momentum"] = _momentum(law, test)
        if test.nodes.velocity is not None and test.quantity.weight is not None:
            checks["energy"] = _energy(law, test)
    checks["agreement"] = _agreement(law, train, test, error)
    checks |= run_checks(more, law, train, test)
    fails = any(check["holds"] is False for check in checks.values())
    # Of scalars there are no recordings; that the network finds no more must do.
    unexplained = test.quantity.vector and checks["noise"]["holds"] is None
    return Certificate("doubt" if fails or unexplained else "believe", checks)


def _at_most(name: str, value: float, limit: float, **others: Any) -> dict[str, Any]:
    """A check whose number must be at most its limit."""
    return {name: value, **others, "limit": limit, "holds": bool(value <= limit)}


def _cannot_tell(name: str, limit: float, needs: str) -> dict[str, Any]:
    """A check that the data do not allow."""
    return {name: None, "limit": limit, "holds": None, "needs": needs}


def _messages(law, network, test, own):
    """How much the law and the network's messages differ in what they say of pairs."""
    limit = _PAIRS * own + ROUNDING
    if own > _LEARNED:
        return _cannot_tell("apart", limit, f"a network that errs by at most {_LEARNED:.0%}")
    apart = messages_apart(jax.random.key(0), law, network, test)
    if isinstance(apart, str):
        return _cannot_tell("apart", limit, apart)
    return _at_most("apart", apart, limit, network_error=own)


def halves(dataset: Dataset) -> list[Dataset]:
    """Two parts of a data set: every other recording; of a single one its first and second half.

    Of a single graph only one.
    """
    names = np.unique(dataset.group)
    if len(names) > 1:
        first = np.isin(dataset.group, names[::2])
    elif len(dataset) > 1:
        first = np.arange(len(dataset)) < len(dataset) // 2
    else:
        return [dataset]
    return [take(dataset, np.flatnonzero(part)) for part in (first, ~first)]


def _missing(law, train, test, error):
    """The parts of accelerations that a law leaves and that are no noise, by what shows them."""
    looks = dict(noise=persistence, moments=shared_by_moments, bodies=shared_by_bodies)
    if error <= _MISSING:
        return {name: _at_most("missing", error, _MISSING) for name in looks}
    # A law of a few constants bends no residuals, so those of training count as well.
    some = _followed(train)
    rest = residuals_of(law, test, some)
    errors = [np.ravel(relative_errors(law, part)) for part in (test, some)]
    error = float(np.nanmean(np.concatenate(errors)))
    checks = {}
    for name, look in looks.items():
        share = look(rest)
        if isinstance(share, str):
            checks[name] = _cannot_tell("missing", _MISSING, share)
            continue
        missing, smallest = (error * math.sqrt(x) for x in (share.found, share.told))
        checks[name] = _at_most("missing", missing, _MISSING, told_from=smallest)
        if checks[name]["holds"] and smallest > _TOLD:
            more = math.ceil((smallest / _TOLD) ** 4)
            checks[name] |= dict(holds=None, needs=f"about {more} times as many moments")
    return checks


def _followed(dataset):
    """Whole recordings of a data set with not too many graphs."""
    names, counts = np.unique(dataset.group, return_counts=True)
    few = names[: max(1, int(np.searchsorted(np.cumsum(counts), _FOLLOWED)))]
    return take(dataset, np.flatnonzero(np.isin(dataset.group, few)))


def _beyond(errors, test, error):
    """Errors on the graphs with the nearest and the farthest pairs, the fewest and the most."""
    measured = [_distances(part)[:count] for part, count in batches(test)]
    near, far, pairs = np.concatenate(measured).T
    with np.errstate(invalid="ignore"):
        some = [(near <= _lowest(near)) | (-far <= _lowest(-far))]
    if np.ptp(pairs) > 0:
        some += [pairs <= _lowest(pairs), -pairs <= _lowest(-pairs)]
    there = max(float(np.nanmean(errors[one])) for one in some if np.any(one))
    return _at_most("law_error", there, _BEYOND * error + ROUNDING)


def _lowest(x):
    """The quantile below which are the least."""
    return np.nanquantile(x, _EXTREME)


def _agreement(law, train, test, error):
    """How much laws differ whose constants were fitted to one half of the data each."""
    limit = _AGREE * error + ROUNDING
    parts = halves(train)
    if len(parts) < 2:
        return _cannot_tell("apart", limit, "two graphs to train on")
    found = [predictions(refit_model(law, half, num_elements=_REFITTED), test) for half in parts]
    target = np.asarray(test.target, np.float64)
    apart = float(np.nanmean(_relative(target + found[1] - found[0], test)))
    return _at_most("apart", apart, limit)


def _momentum(law, test):
    """What forces on all bodies of a graph sum to, as a share of the sum of their sizes."""
    weight = np.asarray(inertia(test.nodes, test.quantity))[..., None]
    whole = _whole(test)
    shares = []
    for change in (predictions(law, test), np.asarray(test.target, np.float64)):
        force = (weight * known_only(change, test))[whole]
        size = np.sum(np.linalg.norm(force, axis=-1), axis=1)
        shares.append(np.linalg.norm(np.sum(force, axis=1), axis=-1) / np.maximum(size, 1e-300))
    if not np.any(whole):
        return _cannot_tell("law", _MOMENTUM, "moments at which all bodies are known")
    by_law, by_data = (float(np.median(share)) for share in shares)
    return _at_most("law", by_law, _OF_DATA * by_data + _MOMENTUM, data=by_data)


def _energy(law, test):
    """The work that forces do over recordings, by the law and by the data, over its size."""
    whole = _whole(test)
    momentum = np.asarray(inertia(test.nodes, test.quantity))[..., None] * test.nodes.velocity
    momentum = np.asarray(momentum, np.float64)

    def power(change):
        return np.sum(momentum * change, axis=(1, 2))[whole]

    by_data = power(known_only(np.asarray(test.target, np.float64), test))
    gap = power(what_is_left(predictions(law, test), test))
    stretches = _stretches(test)[whole]
    means = np.array([np.mean(gap[stretches == one]) for one in np.unique(stretches)])
    size = float(np.mean(np.abs(by_data))) if np.any(whole) else 0.0
    if size == 0 or len(means) < _STRETCHES:
        return _cannot_tell("work", _ENERGY, f"{_STRETCHES} moments of bodies in motion")
    chance = 2 * float(np.std(means)) / math.sqrt(len(means))
    work = max(0.0, abs(float(np.mean(means))) - chance) / size
    return _at_most("work", work, _ENERGY)


def _stretches(dataset):
    """`[graph]`, numbers of recordings, or of stretches in time where recordings are few."""
    names, group = np.unique(dataset.group, return_inverse=True)
    pieces = -(-_STRETCHES // len(names))
    place = np.zeros(len(group))
    for one in range(len(names)):
        mine = np.flatnonzero(group == one)
        place[mine] = np.arange(len(mine)) * pieces // len(mine)
    return pieces * group + place


def _distances(dataset):
    """Smallest and largest distance along edges, and their number, `[graph, 3]`."""
    position = np.asarray(dataset.nodes.position, np.float64)
    ends = (np.asarray(x) for x in (dataset.graphs.receivers, dataset.graphs.senders))
    rows = np.arange(len(dataset))[:, None]
    way = dataset.space.displacement(*(position[rows, end] for end in ends))
    r = np.linalg.norm(way, axis=-1)
    mask = edge_mask(dataset.graphs)
    mask = np.ones(r.shape, bool) if mask is None else np.asarray(mask)
    near, far = (np.where(mask, r, size) for size in (np.inf, -np.inf))
    found = [np.min(near, axis=1), np.max(far, axis=1), np.sum(mask, axis=1)]
    return np.where(np.any(mask, axis=1)[:, None], np.stack(found, axis=1), [np.nan, np.nan, 0])


def _structure(law, test, error):
    """What splines find in what a law leaves, on data on which they were not fitted."""
    if error <= _ROUNDING_OF_LAWS:
        return _at_most("explained", 0.0, _STRUCTURE)
    parts = halves(test)
    if len(parts) < 2:
        return _cannot_tell("explained", _STRUCTURE, "two graphs to test on")
    return _at_most("explained", explained_by_terms(law, *parts), _STRUCTURE)


def _whole(dataset):
    """`[graph]`, True where the targets of all nodes are known."""
    known, real = known_targets(dataset), node_mask(dataset.graphs)
    if known is None:
        return np.ones(len(dataset), bool)
    known = np.all(known, axis=2)
    return np.all(known if real is None else known | ~np.asarray(real), axis=1)
