"""Data sets split into parts for training, validation and test."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from symjax_gn.data.border import checked
from symjax_gn.data.checks import as_floats, as_key, shown
from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.soundness import check_dataset

# Whole recordings are dealt if the first part gets this much of its share, and others this much.
_OF_FIRST = 0.8
_OF_OTHERS = 0.5


# 0.8 x 0.75 is a rounding more than 0.6; and a graph in a thousand does not matter.
_TOLERANCE = 1e-3

# Random deals of unequal recordings that are tried; after them the largest come first.
_SHIFTS = 20

# Cut recordings put all parts into each of so many sections, which keeps test data from being
# all of one time; a section has at least so many moments.
_SECTIONS = 8
_SHORTEST = 15

# Moments that are left out where two parts meet, as a share of a section.
_GAP = 0.05


@checked
def split(
    key: PRNGKeyArray, dataset: Dataset, fractions: tuple[float, ...] = (0.75, 0.1, 0.15)
) -> tuple[Dataset, ...]:
    """Split by recording, at random; no recording is in two parts.

    Recordings that are too few or too unequal for this are cut in time, with gaps where parts
    meet; then `note` of each part says so, and `group` numbers the pieces. This takes moments
    with times; other groups are never parted.

    Args:
        key: PRNG key of the shuffle.
        dataset: the graphs to split.
        fractions: share of each part, positive, with sum 1; by default for training,
            validation and test.

    Raises:
        ValueError: the fractions are wrong, or there are fewer recordings than parts and they
            cannot be cut.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> data = sgn.make_dataset(run)
    >>> [len(part) for part in split(key, data)]
    [60, 20, 20]
    >>> parts = split(key, take(data, data.group < 2))
    >>> [len(part) for part in parts]
    [26, 4, 6]
    >>> parts[0].note
    'Cut in time: 2 recordings into 6 pieces, with 4 of 40 moments left out between them.'
    """
    check_dataset(dataset, "whole")
    shares = as_floats("fractions", fractions)
    if shares.ndim != 1 or not shares.size or min(shares) <= 0 or not np.isclose(sum(shares), 1):
        raise ValueError(f"fractions must be positive and sum to 1, got {shown(fractions)}.")
    _, recording, sizes = np.unique(
        np.asarray(dataset.group), return_inverse=True, return_counts=True
    )
    order = np.asarray(jax.random.permutation(as_key(key), len(sizes)))
    if len(sizes) < len(shares) and dataset.time is None:
        raise ValueError(
            f"Splitting into {len(shares)} parts needs as many groups, got {len(sizes)}; give "
            "more groups, or times, by which recordings can be cut."
        )
    by_size = _dealt_by_size(order, sizes, shares)
    shifts = range(min(len(order), _SHIFTS) if len(order) >= len(shares) else 0)
    for deal in (*(_dealt(np.roll(order, k), shares) for k in shifts), by_size):
        if _is_fair(np.bincount(deal, sizes, len(shares)), shares):
            return _parts(dataset, deal[recording], len(shares))
    if dataset.time is None:
        return _parts(dataset, by_size[recording], len(shares))
    return _cut(dataset, order[recording], shares)


def _parts(dataset, part, count):
    return tuple(take(dataset, part == k) for k in range(count))


def _is_fair(counts, shares) -> bool:
    least = np.where(np.arange(len(shares)) == 0, _OF_FIRST, _OF_OTHERS) * shares
    return bool(np.all(counts / np.sum(counts) >= least - _TOLERANCE))


def _dealt(
    order: Int[np.ndarray, " recording"], shares: Float[np.ndarray, " part"]
) -> Int[np.ndarray, " recording"]:
    """The part of each recording, as if all were of one size."""
    # Every part gets one recording before the shares are dealt.
    spare = len(order) - len(shares)
    ends = np.rint(np.cumsum(shares) * spare).astype(int) + np.arange(1, len(shares) + 1)
    part = np.empty(len(order), int)
    part[order] = np.searchsorted(ends, np.arange(len(order)), side="right")
    return part


def _dealt_by_size(
    order: Int[np.ndarray, " recording"],
    sizes: Int[np.ndarray, " recording"],
    shares: Float[np.ndarray, " part"],
) -> Int[np.ndarray, " recording"]:
    """The part of each recording: the largest first, each to the part that lacks most."""
    lacking, part = shares * np.sum(sizes), np.full(len(order), -1)
    for k, one in enumerate(order[np.argsort(-sizes[order], kind="stable")]):
        empty = np.setdiff1d(np.arange(len(shares)), part)
        open_to = empty if len(empty) == len(order) - k else np.arange(len(shares))
        part[one] = open_to[np.argmax(lacking[open_to])]
        lacking[part[one]] -= sizes[one]
    return part


def _cut(dataset, place, shares):
    """Parts of recordings that are laid end to end, `place` is the order, and cut in time."""
    line = np.lexsort((np.asarray(dataset.time), place))
    recording = place[line]
    part, gap = _sections(len(line), shares)
    changes = (np.diff(part) != 0) | (np.diff(recording) != 0)
    piece = np.concatenate([[0], np.cumsum(changes)])
    kept = ~_between(part, piece, recording, gap)
    counts = np.bincount(part[kept], minlength=len(shares))
    if not np.all(counts):
        raise ValueError(
            f"The recordings have {len(line)} moments in all, too few to be cut into {len(shares)} "
            "parts; give longer or more recordings."
        )
    _, group = np.unique(piece[kept], return_inverse=True)
    count = len(np.unique(recording))
    note = (
        f"Cut in time: {count} recording{'s' * (count > 1)} into {np.max(group) + 1} pieces, with "
        f"{np.sum(~kept)} of {len(line)} moments left out between them."
    )
    cut = dataclasses.replace(take(dataset, line[kept]), group=group, note=note)
    return _parts(cut, part[kept], len(shares))


def _sections(count: int, shares: Float[np.ndarray, " part"]) -> tuple[Int[np.ndarray, " n"], int]:
    """The part of each moment on a line, and the width of gaps.

    Every other section is mirrored, so that sections meet within one part: validation,
    training, test, test, training, validation, validation, ...
    """
    sections = max(1, min(_SECTIONS, count // _SHORTEST))
    gap = max(1, int(_GAP * count / sections))
    way = np.concatenate([np.arange(1, len(shares))[:1], [0], np.arange(2, len(shares))])
    parts = []
    for k, section in enumerate(np.array_split(np.arange(count), sections)):
        dealt = len(section) - gap * (len(shares) - 1)
        sizes = np.maximum(1, np.ceil(shares * dealt - 0.5)).astype(int)
        # The first part has the gaps, too, and what rounding leaves.
        sizes[0] = max(0, len(section) - np.sum(sizes[1:]))
        parts.append(np.repeat(way, sizes[way])[: len(section)][:: 1 if k % 2 == 0 else -1])
    return np.concatenate(parts), gap


def _between(part, piece, recording, gap) -> Bool[np.ndarray, " n"]:
    """Moments next to those of another part of their recording; the lower part gives way."""
    left_out = np.zeros(len(part), bool)
    for k in np.flatnonzero((np.diff(part) != 0) & (np.diff(recording) == 0)):
        before = part[k] < part[k + 1]
        near = slice(max(0, k + 1 - gap), k + 1) if before else slice(k + 1, k + 1 + gap)
        left_out[near] |= piece[near] == piece[k if before else k + 1]
    return left_out
