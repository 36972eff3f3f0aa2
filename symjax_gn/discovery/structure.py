"""Which terms a force has, with their functions as splines.

What accelerations leave unexplained ranks the terms that a force may have; how well all are
explained decides which of them it has.
"""

from collections.abc import Sequence
from typing import NamedTuple

from symjax_gn.discovery.acceptance import Known, Move, State, Step, is_coarse, search
from symjax_gn.discovery.breaks import broken
from symjax_gn.discovery.exponents import factored, freed
from symjax_gn.discovery.extensions import NOTHING, Extensions, check_columns, guarded
from symjax_gn.discovery.fitter import Fits
from symjax_gn.discovery.moves import (
    SIMPLER,
    added,
    added_finely,
    recoupled,
    regridded,
    swapped,
    together,
)
from symjax_gn.discovery.noise import noise_share
from symjax_gn.discovery.proposals import Candidates
from symjax_gn.discovery.terms import force_law
from symjax_gn.discovery.updates import within_a_function
from symjax_gn.laws.bound import predict
from symjax_gn.laws.law import Law
from symjax_gn.laws.samples import ROUNDING, Samples, reweighted, some_owners

# Bodies by which terms are ranked.
_RANKED = 500

READABLE = 1e-3
"""Terms that err no more may have their formulas: splines of few pieces err as much."""

QUICK: Sequence[Sequence[Move]] = (
    SIMPLER,
    (regridded,),
    (added, freed, recoupled, factored),
    (together, added_finely),
)
"""Moves that take seconds, those first that cost no words."""

MOVES: Sequence[Sequence[Move]] = (*QUICK, (broken,), (swapped,), (within_a_function,))
"""All moves."""


class Structure(NamedTuple):
    """A law of forces as a sum of terms, whose functions are splines."""

    state: State
    """The law."""
    steps: tuple[Step, ...]
    """How it was found."""
    share: float | None
    """Of the typical acceleration, which errors are relative to; None: as usual."""

    @property
    def error(self) -> float:
        """Mean held-out error."""
        return self.state.found.error


def find_structure(
    train: Samples,
    valid: Samples,
    moves: Sequence[Sequence[Move]] = MOVES,
    more: Extensions = NOTHING,
    before: Structure | None = None,
) -> Structure:
    """The terms of a force, with functions on grids as fine as the data allow.

    Args:
        train: bodies whose accelerations are fitted.
        valid: bodies of other recordings.
        moves: see `acceptance.search`; they are made after those that take seconds.
        more: what a user adds.
        before: what was found with fewer moves; None: nothing yet.
    """
    dim = train.target.shape[1]
    check_columns(more, train.elements, dim)
    candidates = Candidates(some_owners(train, _RANKED), more)
    known = Known(Fits(train, valid), candidates)
    if before is None:
        state, steps = search(force_law((), (), dim), QUICK, known, READABLE)
    else:
        state, steps = State(before.state.law, known.fits(before.state.law)), before.steps
    share = None
    if state.law.shapes and state.found.error > ROUNDING and not is_coarse(state, known.fits):
        # Noise is of one size whatever the force: errors relative to it tell more.
        share = noise_share(valid, predict(state.found.law, valid))
        weighted = _weighted(state, share, train, valid)
        known = Known(Fits(*weighted, near=state.found.law), candidates)
    if moves:
        moves = (*moves, tuple(map(guarded, more.moves)))
        state, others = search(state.law, moves, known)
        steps += others
    return Structure(state, steps, share)


def fit_to(state: State, train: Samples, valid: Samples) -> tuple[State, Fits]:
    """The law fitted to other data, as short as these need it, on grids as fine as they allow.

    Args:
        state: the law.
        train: what is fitted.
        valid: other data.
    """
    known = Known(Fits(train, valid, near=state.found.law), None)
    return search(state.law, (SIMPLER, (regridded,)), known)[0], known.fits


def _weighted(state, share, *several):
    law: Law = state.found.law
    return [reweighted(one, predict(law, one), share) for one in several]
