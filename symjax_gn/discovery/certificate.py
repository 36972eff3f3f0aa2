"""Whether to believe a law, from the data alone; the truth need not be known."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.datasets import Dataset, inertia, take
from symjax_gn.data.features import scalar_features
from symjax_gn.data.graphs import edge_mask, node_mask
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.fitter import Fits
from symjax_gn.discovery.noise import noise_share
from symjax_gn.discovery.refitting import refit_model
from symjax_gn.discovery.residuals import (
    persistence,
    predictions,
    residuals_of,
    shared_by_bodies,
    shared_by_moments,
)
from symjax_gn.discovery.separation import evaluate_terms, fit_terms
from symjax_gn.discovery.terms import (
    body_vectors,
    couplings,
    force_law,
    make_term,
    pair_vectors,
)
from symjax_gn.laws.law import Law
from symjax_gn.laws.samples import ROUNDING, Samples, gather, reweighted
from symjax_gn.laws.shapes import Spline, place_knots
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import Predictor, batches, known_targets

# A law that errs by more than this share of what predicting nothing does says nothing.
_KNOWS = 0.5

# A law says what the network knows if it errs at most so many times as much, and something
# else if it errs more than so many times as much. True laws err less than what has learned them.
_SAYS, _SAYS_NOT = 1.1, 3.0

# Splines may lower the error of what a law leaves by this share, beyond so many standard errors:
# dozens of terms are tried.
_STRUCTURE, _FAR = 0.005, 3.0

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

# What is looked for: so many vectors, and couplings, which some samples tell apart.
_VECTORS, _COUPLINGS, _SOME = 3, 10, 400

# Pieces of splines that look for structure; and pairs, or of sums owners at least, that they
# are fitted to.
_PIECES, _PAIRS, _OWNERS = 6, 20_000, 1_000

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
    law: SymbolicModel | None, network: Predictor | None, train: Dataset, test: Dataset
) -> Certificate:
    """Say whether a law is to be believed.

    Ten checks; errors are those on data that neither the network nor the law has seen:

    - `known`: the law errs by at most half of what predicting nothing does.
    - `explained`: the law errs at most 1.1 times as much as the network. With more than 3
      times as much it does not say what the network knows. Not made without a network.
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
    checks["structure"] = _structure(law, test, error)
    if test.quantity.vector:
        checks |= _missing(law, train, test, error)
        checks["beyond"] = _beyond(errors, test, error)
        checks["momentum"] = _momentum(law, test)
        if test.nodes.velocity is not None and test.quantity.weight is not None:
            checks["energy"] = _energy(law, test)
    checks["agreement"] = _agreement(law, train, test, error)
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
        force = (weight * _known_only(change, test))[whole]
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

    by_data = power(_known_only(np.asarray(test.target, np.float64), test))
    gap = power(_left(predictions(law, test), test))
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
    find = _explained_of_vectors if test.quantity.vector else _explained_of_scalars
    return _at_most("explained", find(law, *parts), _STRUCTURE)


def _explained_of_vectors(law, *halves):
    """The share of what a law leaves that a term explains."""
    seen, held_out = (_left_by(law, half) for half in halves)
    fits, nothing = Fits(seen, held_out), force_law((), (), seen.target.shape[1])
    # One term at a time: many together would fit the noise, and hide what one of them finds.
    return _share(fits(nothing).errors, (fits(one).errors for one in _looked_for(seen)))


def _share(before, trials):
    """The share of errors of samples that the best of some trials takes off, less chance."""
    mean = float(np.mean(before))
    if mean == 0:
        return 0.0
    gaps = [before - after for after in trials]
    chance = _FAR / math.sqrt(len(before))
    return max([0.0, *(float(np.mean(x) - chance * np.std(x)) / mean for x in gaps)])


def _explained_of_scalars(law, *halves):
    """The same of a sum over elements, or of functions of one or two scalars."""
    seen, held_out = (_left_of_sums(law, half) for half in halves)
    components = zip(seen.target.T, held_out.target.T, strict=True)
    return max(_explained_of(seen, held_out, *component) for component in components)


def _explained_of(seen, held_out, target, there):
    """The same of one component."""
    after = []
    for name, x in scalar_features(seen.elements).items():
        knots = place_knots(x, _PIECES)
        spline = Spline(knots, np.zeros(len(knots) - 4))
        basis, other = (one.sums @ spline.basis(one.elements[name]) for one in (seen, held_out))
        after.append(there - other @ np.linalg.lstsq(basis.toarray(), target, rcond=None)[0])
    names = [name for name, x in seen.owners.items() if np.ptp(x) > 0]
    for terms in [[(name,)] for name in names] + [
        [(one,), (other,), (one, other)] for one, other in itertools.combinations(names, 2)
    ]:
        curves = fit_terms(terms, seen.owners, target, _PIECES)
        after.append(there - evaluate_terms(terms, curves, held_out.owners))
    return _share(np.abs(there), map(np.abs, after))


def _left(predicted, dataset):
    """What predictions leave of each target; 0 where a target is not known."""
    left = np.asarray(dataset.target, np.float64) - predicted
    return np.nan_to_num(_known_only(left, dataset))


def _known_only(change, dataset):
    """Changes of nodes; 0 where the data do not know them."""
    known = known_targets(dataset)
    return change if known is None else np.where(known, change, 0.0)


def _whole(dataset):
    """`[graph]`, True where the targets of all nodes are known."""
    known, real = known_targets(dataset), node_mask(dataset.graphs)
    if known is None:
        return np.ones(len(dataset), bool)
    known = np.all(known, axis=2)
    return np.all(known if real is None else known | ~np.asarray(real), axis=1)


def _left_by(law, dataset) -> Samples:
    """Samples whose targets are what a law leaves of them, weighted by what it predicts."""
    predicted = predictions(law, dataset)
    several = [dataset.target, np.nan_to_num(predicted), _left(predicted, dataset)]
    several = np.concatenate(several, axis=-1, dtype=np.float64)
    bodies = gather(dataclasses.replace(dataset, target=several), _PAIRS)
    target, predicted, left = np.split(bodies.target, 3, axis=1)
    bodies = bodies._replace(target=target)
    share = noise_share(bodies, predicted)
    return reweighted(bodies, predicted, share)._replace(target=left)


def _left_of_sums(law, dataset) -> Samples:
    """Owners of sums whose targets are what a law leaves, and what it predicts."""
    predicted = predictions(law, dataset)
    both = np.concatenate([_left(predicted, dataset), predicted], axis=-1)
    sums = gather(dataclasses.replace(dataset, target=both), _PAIRS, _OWNERS)
    left, predicted = np.split(sums.target, 2, axis=1)
    told = {f"law {k}": column for k, column in enumerate(predicted.T)}
    own = scalar_features(sums.elements)
    told |= {name: sums.sums @ x for name, x in own.items() if not name.endswith("_i")}
    return sums._replace(target=left, owners=told | sums.owners)


def _looked_for(bodies: Samples) -> list[Law]:
    """Laws of a term each that might have been missed."""
    dim = bodies.target.shape[1]
    one = sympy.Integer(1)
    vectors = pair_vectors(bodies.elements, dim)[:_VECTORS]
    some = {name: column[:_SOME] for name, column in bodies.elements.items()}
    ways = [(vector, one) for vector in vectors]
    ways += [(vectors[0], way) for way in couplings(some, "ij", _COUPLINGS)[1:]]
    alone = body_vectors(bodies.owners, dim)
    return [force_law([make_term(*way, _PIECES)], (), dim) for way in ways] + [
        force_law((), [make_term(vector, one, _PIECES)], dim) for vector in alone
    ]
