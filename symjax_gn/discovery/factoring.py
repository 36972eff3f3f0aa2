"""A law of forces found term by term: structure, kernels, formulas, and their composition.

Kernels are fitted to accelerations by least squares, and held-out recordings decide which terms
and formulas stay.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy

from symjax_gn.data.datasets import Dataset
from symjax_gn.discovery import formulas, structure
from symjax_gn.discovery.acceptance import Known, Step
from symjax_gn.discovery.distillation import VectorLaw
from symjax_gn.discovery.extensions import NOTHING, Extensions
from symjax_gn.discovery.moves import with_disjoint_couplings
from symjax_gn.discovery.noise import noise_share
from symjax_gn.discovery.objective import OnFormulas
from symjax_gn.discovery.refitting import Refit
from symjax_gn.discovery.structure import Structure
from symjax_gn.discovery.terms import is_central
from symjax_gn.laws.bound import predict
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.expressions import complexity
from symjax_gn.laws.fronts import Law, to_front
from symjax_gn.laws.keeping import kept
from symjax_gn.laws.law import Fitted, Term, as_expressions
from symjax_gn.laws.samples import ROUNDING, Samples, gather, reweighted
from symjax_gn.laws.shapes import Formula

# Pairs that terms are compared on, that kernels and laws are fitted to, and held-out ones.
_COMPARED, _FITTED, _HELD_OUT = 8_000, 20_000, 8_000

# Pairs of both that laws are compared on in the end, if there is noise.
_ALL = 100_000


class Found(NamedTuple):
    """Terms that explain a force, with their laws."""

    fitted: Fitted
    """The terms with splines for their functions."""
    steps: tuple[Step, ...]
    """How they were found."""
    laws: formulas.Chosen
    """The formulas in the place of kernels, and what they were chosen from."""
    seen: Samples
    """Whose accelerations the laws were fitted to."""

    @property
    def leaves_nothing(self) -> bool:
        """Whether the laws leave nothing of held-out accelerations but rounding."""
        return self.laws.error <= ROUNDING


class Factored(NamedTuple):
    """A law of forces that is a sum of terms."""

    law: VectorLaw
    """Of pairs."""
    one_body: VectorLaw
    """Of bodies alone."""
    refit: Refit
    """Both as they were refitted, which is the law."""
    fitted: Fitted
    """The terms with splines for their functions."""
    laws: formulas.Chosen
    """The formulas in the place of kernels, and what they were chosen from."""


def find_terms(
    train: Dataset,
    validation: Dataset,
    *,
    before: Structure | None = None,
    folder: str | os.PathLike[str] | None = None,
    more: Extensions = NOTHING,
) -> Structure:
    """The terms of a force; no network is asked.

    Args:
        train: graphs whose targets terms are fitted to, user's units.
        validation: graphs of other recordings, by which terms are chosen.
        before: what was found by the moves that take seconds; None: these are made.
        folder: where terms are kept, see `laws.keeping`.
        more: what a user adds.
    """
    few, held_out = gather(train, _COMPARED), gather(validation, _HELD_OUT)
    moves = () if before is None else structure.MOVES
    return kept(structure.find_structure, folder)(few, held_out, moves, more, before)


def find_laws(
    terms: Structure,
    train: Dataset,
    validation: Dataset,
    regressors: Sequence[Regressor],
    *,
    by_score: bool = False,
    fits: float = math.inf,
    seconds: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    more: Extensions = NOTHING,
) -> Found | None:
    """The laws of the terms of a force; None if it has no terms.

    Args:
        terms: what `find_terms` gave.
        train: graphs whose targets laws are fitted to, user's units.
        validation: graphs of other recordings, by which laws are chosen.
        regressors: engines that search for each kernel.
        by_score: choose by the paper's score in place of held-out accelerations.
        fits: of formulas, after which no others are tried.
        seconds: likewise, of one core; None: no limit.
        folder: where laws are kept, see `laws.keeping`.
        more: what a user adds.

    Raises:
        RegressionError: a search ended without a usable expression.
    """
    found, steps = terms.state.found, terms.steps
    if not found.law.shapes:
        return None
    few, seen = gather(train, _COMPARED), gather(train, _FITTED)
    held_out = gather(validation, _HELD_OUT)
    share = noise_share(held_out, predict(found.law, held_out))

    def weighted(bodies):
        return reweighted(bodies, predict(found.law, bodies), share)

    few, seen, held_out = map(weighted, (few, seen, held_out))
    state, trials = structure.fit_to(terms.state, seen, held_out)

    def others():
        return map(trials, with_disjoint_couplings(state, Known(trials, None)))

    choose = kept(formulas.choose, folder)
    limits: dict[str, Any] = dict(fits=fits, seconds=seconds)
    options: dict[str, Any] = limits | dict(others=others, functions=more.kinds)
    laws = choose(state.found, few, few, held_out, regressors, **options)
    if by_score:
        laws = formulas.by_score(laws, held_out)
    elif laws.error > ROUNDING:
        seen, held_out = (weighted(gather(part, _ALL)) for part in (train, validation))
    laws = formulas.finish(laws, seen, held_out, **limits)
    return Found(state.found, steps, laws, seen)


def factor(found: Found) -> Factored:
    """The law of forces that is the sum of the terms that `find_laws` found.

    Args:
        found: terms and laws.
    """
    fitted, _, laws, seen = found
    law = laws.law
    objective = OnFormulas(law, seen)
    dim = len(law.update[0].along)
    messages, update = as_expressions(law._replace(update=law.update[:1]))
    force, others = messages[:dim], messages[dim:]
    _, alone = as_expressions(law._replace(update=law.update[1:] or (_nothing(law),)))
    # The force of a pair is not what bodies feel of it, and has no potential, within a function.
    scalar = _scalar(law) if law.is_linear else None
    after = float(np.mean(objective.errors(laws.candidate)))
    before = float(np.mean(objective.errors(laws.before)))
    refit = Refit(
        force=force,
        one_body=alone,
        scalar=scalar,
        distance=sympy.Symbol("r"),
        towards=scalar,
        error=after,
        error_before=before,
        intervals=objective.intervals(laws.candidate),
        others=others,
        update=() if law.is_linear else update,
    )
    pair, own = _pair_law(laws, force, scalar, after), _own_law(law, alone)
    return Factored(pair, own, refit, fitted, laws)


def _nothing(law):
    return Term((sympy.Integer(0),) * len(law.update[0].along))


def _scalar(law) -> Any:
    """The law along the line of centres, if there is nothing else."""
    total: sympy.Expr = sympy.Integer(0)
    for term in law.message:
        if not is_central(term):
            return None
        total += term.size()
    return total


def _pair_law(laws, force, scalar, error):
    """The law of pairs with the candidates it was chosen from."""
    unit = "|a| + 0.1 typical |a|, with noise a larger share of it, in accelerations"

    def rated(law, found):
        rows = [(complexity(x), row.error, x) for x, row in zip(found, laws.rows, strict=True)]
        return _with_chosen((complexity(law), error, law), rows)

    tried = [laws.law.with_shapes(list(map(Formula, row.candidate))) for row in laws.rows]
    if scalar is not None:
        chosen, front = rated(scalar, list(map(_scalar, tried)))
        return VectorLaw(
            "central", tuple(force), scalar, selected=(chosen,), fronts=(front,), error_unit=unit
        )
    selected, fronts, names = [], [], []
    for k, term in enumerate(laws.law.message):
        chosen, front = rated(term.size(), [one.message[k].size() for one in tried])
        selected.append(chosen)
        fronts.append(front)
        names.append(term.name)
    return VectorLaw(
        "terms",
        tuple(force),
        selected=tuple(selected),
        fronts=tuple(fronts),
        error_unit=unit,
        vectors=tuple(names),
    )


def _with_chosen(chosen, rows):
    """The law that was chosen as it is rated, and the front of candidates with it."""
    # It may have been rounded since, and then is on the front in the place of its like.
    front = to_front([chosen, *(row for row in rows if row[0] != chosen[0])])
    size, error, expression = chosen
    law = next((one for one in front.laws if one.expression == expression), None)
    return law or Law(expression, size, error, 0.0), front


def _own_law(law, alone):
    """The law of bodies alone."""
    form = "none" if len(law.update) == 1 else "components"
    return VectorLaw(form, tuple(alone), share=0.0)
