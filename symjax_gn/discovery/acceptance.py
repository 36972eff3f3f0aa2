"""The search for a law: moves from law to law, taken if they shorten the description of data.

A law is described by its words, and what it leaves of the data by the logarithm of its errors:
length = N log(error) + log(12) x words, in nats, with N the number of errors that are
independent. One rule decides about all moves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from symjax_gn.discovery.fitter import Fits
from symjax_gn.laws.law import Fitted, Law
from symjax_gn.laws.samples import ROUNDING
from symjax_gn.laws.shapes import Grid

# A word of a law is one of some twelve.
_PER_WORD = math.log(12)

# Errors that half as many pieces make larger by this factor are those of splines.
_FALL = 1.25

# Laws that are not linear in their numbers and are fitted, of those of one group of moves.
_TRIED = 6

# After so much work, of which a linear fit is one part, laws are made simpler and nothing else.
_MOST_WORK = 6_000

# Shorter descriptions differ by more than what rounding makes of them.
_LEAST = 1e-6


class State(NamedTuple):
    """A law on the way."""

    law: Law
    """With grids in the place of functions."""
    found: Fitted
    """With splines, fitted."""


class Known(NamedTuple):
    """What moves know of the data."""

    fits: Fits
    """Fits to them."""
    candidates: Any
    """Terms that a law may have, see `proposals.Candidates`."""


ENDED = "ended, for all the work that is allowed was done"
"""In the place of a last move, if there may have been more to find."""

Move = Callable[[State, Known], Iterator[Law]]
"""From a law to others near it, with grids in the place of functions."""


class Step(NamedTuple):
    """A move that was taken."""

    move: str
    """Its name."""
    law: Law
    """The law that it led to."""
    error: float
    """Mean held-out error of that."""
    gained: float
    """By how many nats the description became shorter."""
    tried: int
    """How many laws were compared with it."""


def search(
    law: Law, moves: Sequence[Sequence[Move]], known: Known, until: float = ROUNDING
) -> tuple[State, tuple[Step, ...]]:
    """The law from which no move leads to a shorter description, and the way to it.

    Of the moves of a group the best one is taken, and then the first group is next again; a
    group is tried once those before it gain nothing. A search that is ended by the work that is
    allowed says so in its last step.

    Args:
        law: to start from, e.g. one without terms.
        moves: groups of moves, those that make laws simpler or cost least first.
        known: what they know of the data.
        until: error that leaves nothing to look for: then laws are made simpler and nothing else.
    """
    state, seen = State(law, known.fits(law)), {law}
    steps: list[Step] = []
    ended = False
    while True:
        for group in moves:
            most = to_gain(state, known.fits) if state.found.error > until else 0.0
            if known.fits.work > _MOST_WORK and group is not moves[0]:
                ended = True
                continue
            laws = {
                new: move.__name__
                for move in group
                if most > 0 or group is moves[0]
                for new in move(state, known)
                if new not in seen
                and new.is_proper
                and _PER_WORD * (new.words - state.law.words) <= most
            }
            trials = [
                (laws[new], State(new, known.fits(new))) for new in _promising(laws, known.fits)
            ]
            rated = [(gain(state, trial, known.fits), name, trial) for name, trial in trials]
            gained, name, trial = max(rated, key=lambda one: one[0], default=(0.0, "", state))
            if gained > _LEAST:
                state = trial
                seen.add(trial.law)
                steps.append(Step(name, trial.law, trial.found.error, gained, len(trials)))
                break
        else:
            if ended:
                steps.append(Step(ENDED, state.law, state.found.error, 0.0, 0))
            return state, tuple(steps)


def _promising(laws, fits):
    """Laws that are worth a fit: of those that are not linear, which take long, the best few."""
    linear = [one for one in laws if fits.is_quick(one)]
    others = [one for one in laws if not fits.is_quick(one)]
    if len(others) > _TRIED:
        others = sorted(others, key=fits.promised)[:_TRIED]
    return linear + others


def gain(old: State, new: State, fits: Fits) -> float:
    """By how many nats the second law makes the description shorter, with errors, than the first.

    Where only the grids differ, each number costs half the logarithm of the number of errors.

    Args:
        old: a law.
        new: another.
        fits: to the data.
    """
    words = old.law.words - new.law.words
    before, after = (max(one.found.error, ROUNDING) for one in (old, new))
    fall = math.log(before / after)
    if old.law.structure == new.law.structure:
        count = len(old.found.errors)
        more = _numbers(new.law) - _numbers(old.law)
        return count * fall - 0.5 * math.log(count) * more
    worse = old if fall >= 0 else new
    most = _PER_WORD * words + spread(worse.found) * fall
    # With fewer independent errors a fall is less, and so is a rise.
    if most > 0 if fall < 0 else most <= 0:
        return most
    if fall < 0 and words <= 0:
        return most
    return _PER_WORD * words + independent(worse, fits) * fall


def to_gain(state: State, fits: Fits) -> float:
    """How many nats a law would gain that leaves nothing of the data, without its words."""
    error = state.found.error
    return independent(state, fits) * math.log(error / ROUNDING) if error > ROUNDING else 0.0


def spread(found: Fitted) -> float:
    """How many errors there are; fewer, if some are much larger than others.

    >>> spread(Fitted(None, (), np.ones(8))), spread(Fitted(None, (), np.eye(8)[0]))
    (8.0, 1.0)
    """
    errors = found.errors
    return float(np.sum(errors) ** 2 / np.sum(errors**2)) if np.any(errors) else 1.0


def independent(state: State, fits: Fits) -> float:
    """How many errors are independent: of those of splines as many as these have numbers."""
    count = spread(state.found)
    return min(count, _numbers(state.law)) if is_coarse(state, fits) else count


def is_coarse(state: State, fits: Fits) -> bool:
    """Whether errors are those of splines: with half the pieces they are larger.

    Args:
        state: a law.
        fits: to the data.
    """
    shapes = [
        one._replace(pieces=one.pieces // 2) if isinstance(one, Grid) else one
        for one in state.law.shapes
    ]
    coarser = state.law.with_shapes(shapes)
    if coarser == state.law or state.found.error <= ROUNDING:
        return False
    return fits(coarser).error > _FALL * state.found.error


def _numbers(law):
    return sum(len(one.numbers) for one in law.shapes)
