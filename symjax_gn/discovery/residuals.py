"""Whether what a law leaves of vectors is noise: nothing before, beside or behind it tells it."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import node_mask
from symjax_gn.model import Predictor, batches, known_targets

# Moments that follow each other, up to so many apart, are compared; noise of accelerations that
# were differentiated lasts for fewer than the first of these.
_LAGS, _DIFFERENTIATED = 16, 3

# Accelerations go on over a lag at which their mean cosine is at least this; noise that was
# differentiated is told from what goes on where theirs is nearly 1.
_GOES_ON, _DENSE = 0.3, 0.8

# Standard errors by which a mean cosine must differ from 0: dozens are looked at.
_FAR = 4.0

# Fewer values have no standard deviation worth the name.
_FEW = 8


class Residuals(NamedTuple):
    """What a law leaves, recording by recording in the order of time; 0 where not known."""

    left: Float[np.ndarray, "graph node dim"]
    """Target less prediction, as unit vectors."""
    along: Float[np.ndarray, "graph node 1"]
    """The cosine between what is left and what is predicted."""
    target: Float[np.ndarray, "graph node dim"]
    """The target, as unit vectors."""
    known: Bool[np.ndarray, "graph node"]
    """Where something is left of a known target."""
    recording: Int[np.ndarray, " graph"]
    """The number of the recording; it is another where bodies came or went."""
    time: Float[np.ndarray, " graph"] | None
    """Moments, or None where there are none."""


class Share(NamedTuple):
    """A share of what is left, between 0 and 1, that something else tells."""

    found: float
    """The share, less what may be chance."""
    told: float
    """The smallest share that could have been found."""


def residuals_of(law: Predictor, *datasets: Dataset) -> Residuals:
    """What a law leaves of the targets of data sets.

    Args:
        law: predicts in the user's units.
        *datasets: graphs with vectors of nodes as their targets, user's units; no recording is
            in two of them.

    >>> import jax, sympy
    >>> import symjax_gn as sgn
    >>> run = sgn.simulate(jax.random.key(0), sgn.SYSTEMS["spring"], num_simulations=5)
    >>> still = sgn.SymbolicModel([0 * sympy.Symbol("dx")] * 2, list(sympy.symbols("e_0 e_1")))
    >>> rest = residuals_of(still, sgn.make_dataset(run))
    >>> bool(np.allclose(rest.left, rest.target))  # all of it is left
    True
    """
    parts = [_residuals(law, dataset, number) for number, dataset in enumerate(datasets)]
    rest: Residuals = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    _, recording = np.unique(rest.recording, axis=0, return_inverse=True)
    time = np.arange(len(recording)) if rest.time is None else rest.time
    order = np.lexsort((time, recording))
    return jax.tree.map(lambda x: x[order], rest._replace(recording=recording))


def _residuals(law, dataset, number):
    """What is left of one data set; recordings are its number, theirs, and that of bodies."""
    predicted = predictions(law, dataset)
    target = np.asarray(dataset.target, np.float64)
    known = known_targets(dataset)
    known = np.ones(target.shape[:2], bool) if known is None else np.asarray(known)[..., 0]
    with np.errstate(all="ignore"):
        left = target - predicted
        known = known & np.all(np.isfinite(left), axis=-1) & np.any(left != 0, axis=-1)
    left, target = (_units(np.where(known[..., None], x, 0.0)) for x in (left, target))
    predicted = _units(np.where(known[..., None], predicted, 0.0))
    along = np.sum(left * predicted, axis=-1, keepdims=True)
    time = None if dataset.time is None else np.asarray(dataset.time, np.float64)
    there = node_mask(dataset.graphs)
    # Bodies that are there come first, so that others have their places once one is gone.
    bodies = np.zeros(len(dataset), int) if there is None else np.sum(there, axis=1)
    group = np.asarray(dataset.group)
    recording = np.stack([np.full(len(dataset), number), group, np.asarray(bodies)], axis=1)
    return Residuals(left, along, target, known, recording, time)


def predictions(
    predictor: Predictor, dataset: Dataset
) -> Float[np.ndarray, "graph *node component"]:
    """Predictions for all graphs of a data set, float64, user's units."""
    with np.errstate(all="ignore"):
        parts = [np.asarray(predictor.predict(p), np.float64)[:n] for p, n in batches(dataset)]
    return np.concatenate(parts)


def _units(x):
    """Vectors of length 1, or 0."""
    size = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(size > 0, size, 1.0)


def persistence(rest: Residuals) -> Share | str:
    """The share of what is left that goes on from one moment to a later one.

    That is the mean cosine between what is left of a body at two moments so many outputs apart,
    over that of its accelerations: what is missing goes on, or swings, while these go on. It
    is looked for at each of 16 lags, and both signs count; where recordings are dense, not
    at the first, for noise that was differentiated lasts for two outputs.

    Returns:
        The share; or what data would be needed to tell.
    """
    lags = [_at_lag(rest, lag) for lag in range(1, _LAGS + 1)]
    if lags[0] is None:
        return "recordings of several moments in time"
    dense = lags[_DIFFERENTIATED - 1]
    skipped = _DIFFERENTIATED - 1 if dense is not None and dense[2] >= _DENSE else 0
    found, told = 0.0, math.inf
    for lag in lags[skipped:]:
        if lag is None:
            continue
        mean, error, going = lag
        if going >= _GOES_ON:
            told = min(told, _FAR * error / going)
        found = max(found, (abs(mean) - _FAR * error) / (going if going >= _GOES_ON else 1.0))
    if not math.isfinite(told):
        return "outputs closer in time: accelerations do not go on from one to the next"
    return Share(min(found, 1.0), told)


def _at_lag(rest, lag):
    """Mean cosine of what is left, its standard error, and that of accelerations; or None."""
    together = rest.recording[lag:] == rest.recording[:-lag]
    here, there = np.arange(len(rest.recording) - lag)[together], lag
    both = rest.known[here] & rest.known[here + there]
    count = np.sum(both, axis=1)
    moments = np.flatnonzero(count)
    if not len(moments):
        return None

    def means(x):
        cosines = np.sum(x[here] * x[here + there], axis=-1)
        return (np.sum(np.where(both, cosines, 0.0), axis=1)[moments], count[moments])

    sums, counts = means(rest.left)
    mean = float(np.sum(sums) / np.sum(counts))
    # If bodies share their noise, moments are independent and bodies are not.
    error = 1 / math.sqrt(rest.left.shape[-1] * np.sum(counts))
    if len(moments) >= _FEW:
        gap = sums - mean * counts
        error = max(error, math.sqrt(np.sum(gap**2)) / float(np.sum(counts)))
    going, counts = means(rest.target)
    return mean, error, float(np.sum(going) / np.sum(counts))


def shared_by_moments(rest: Residuals) -> Share | str:
    """The share of what is left that is the same for all bodies and recordings at one time.

    Either its direction in space or its angle to what is predicted.

    Returns:
        The share; or what data would be needed to tell.
    """
    if rest.time is None:
        return "the times of graphs"
    moment = np.broadcast_to(rest.time[:, None], rest.known.shape)
    return _shared(rest, moment, "several bodies that are seen at the same time")


def shared_by_bodies(rest: Residuals) -> Share | str:
    """The same of what is left of one body at all moments of a recording."""
    count = rest.known.shape[1]
    body = count * rest.recording[:, None] + np.arange(count)
    return _shared(rest, body, "recordings of several moments in time")


def _shared(rest, label, needs):
    """The mean cosine of what has the same label, less chance."""
    _, label = np.unique(label[rest.known], return_inverse=True)
    count = np.bincount(label).astype(float)
    pairs = float(np.sum(count * (count - 1)))
    if not pairs:
        return needs
    found, told = 0.0, math.inf
    for x in (rest.left[rest.known], rest.along[rest.known]):
        square = sum(np.bincount(label, column) ** 2 for column in x.T)
        own = np.sum(x**2)
        mean = float((np.sum(square) - own) / pairs)
        # Of vectors that point anywhere, the mean square of a cosine is 1 / dim.
        spread = math.sqrt(2 / rest.left.shape[-1] / pairs)
        found, told = max(found, abs(mean) - _FAR * spread), min(told, _FAR * spread)
    return Share(min(found, 1.0), told)


def what_is_left(predicted: Any, dataset: Dataset) -> np.ndarray:
    """What predictions leave of each target; 0 where a target is not known.

    Args:
        predicted: in the shape of the targets.
        dataset: has the targets.
    """
    left = np.asarray(dataset.target, np.float64) - predicted
    return np.nan_to_num(known_only(left, dataset))


def known_only(change: Any, dataset: Dataset) -> Any:
    """Changes of targets; 0 where the data do not know them.

    Args:
        change: in the shape of the targets.
        dataset: has the targets.
    """
    known = known_targets(dataset)
    return change if known is None else np.where(known, change, 0.0)
