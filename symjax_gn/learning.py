"""The network of a run, and the laws that data give without one."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import PRNGKeyArray
from threadpoolctl import threadpool_limits

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.units import Scales, measure_scales
from symjax_gn.discovery import factoring
from symjax_gn.discovery.structure import READABLE, Structure
from symjax_gn.laws.engines import Regressor
from symjax_gn.networks import strategies
from symjax_gn.networks.training import Trained, fit
from symjax_gn.settings import STEPS, STEPS_OF_ENERGIES, STEPS_TO_COMPARE, Settings

# Terms that err more may be too few: a network tells whether more can be known.
_EXPLAINED = 0.05


def train(
    key: PRNGKeyArray,
    parts: tuple[Dataset, Dataset, Dataset],
    settings: Settings,
    progress: bool = False,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    *,
    to_compare: bool = False,
) -> Trained:
    """The network of the settings, trained to the end of its schedule.

    Args:
        key: PRNG key.
        parts: training, validation and test data.
        settings: all choices.
        progress: whether to show a progress bar.
        folder: where states of training are saved; None: nowhere.
        resume: whether to go on from those that are there.
        to_compare: whether a law that leaves nothing is known, so that a short schedule does
            where messages have the dimension of forces.
    """
    learned, validation, _ = parts
    scales = measure_scales(learned)
    if to_compare and settings.steps is None and settings.strategy == "bottleneck":
        settings = dataclasses.replace(settings, steps=STEPS_TO_COMPARE)
    options = network_options(settings, learned, scales)
    return fit(
        key,
        learned,
        validation,
        **options,
        scales=scales,
        progress=progress,
        folder=folder,
        resume=resume,
    )


def network_options(settings: Settings, learned: Dataset, scales: Scales) -> dict[str, Any]:
    """What `fit` and `sweep` are to be given by the settings.

    Args:
        settings: all choices.
        learned: training data.
        scales: their units.
    """
    energetic = settings.strategy == "flathgn"
    options: dict[str, Any] = dict(width=settings.width, depth=settings.depth)
    options |= dict(external_field=settings.external_field, precision=settings.precision)
    if energetic:
        options |= dict(dissipative=settings.dissipative, kinetic=settings.kinetic)
    else:
        options |= dict(node=settings.node, pair=settings.pair)
        options |= strategies.NETWORKS[settings.network]
    return dict(
        strategy=settings.strategy,
        steps=settings.steps or (STEPS_OF_ENERGIES if energetic else STEPS),
        model=strategies.make_model(settings.strategy, learned, scales, **options),
        loss=settings.loss,
        penalty_weight=settings.penalty,
        prune=settings.prune,
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        batch_size=settings.batch_size,
        focus=settings.focus,
    )


class Told(NamedTuple):
    """What data alone say of a force."""

    terms: Structure
    """Its terms, with splines for their functions."""
    laws: factoring.Found | None
    """Their laws, if they are known."""

    @property
    def leaves_nothing(self) -> bool:
        """Whether the laws leave nothing of held-out accelerations but rounding."""
        return self.laws is not None and self.laws.leaves_nothing


def find_terms(
    parts: tuple[Dataset, Dataset, Dataset],
    settings: Settings,
    regressors: Sequence[Regressor],
    folder: str | os.PathLike[str] | None = None,
) -> Told | None:
    """What data alone say of a force; None where they are not asked.

    Without a network terms have laws whatever they leave; otherwise what leaves much may be one
    that a network knows more of.

    Args:
        parts: training, validation and test data.
        settings: all choices.
        regressors: engines.
        folder: where terms and laws are kept, see `laws.keeping`.
    """
    by_terms = settings.gauge == "influence" and settings.form == "auto"
    if settings.route == "messages" or not by_terms or not parts[0].quantity.vector:
        return None
    # Most laws are seen at once, and are known once they leave nothing.
    told = _terms(None, parts, settings, folder)
    if told.terms.error <= READABLE:
        told = find_laws(told, parts, settings, regressors, folder)
    if not told.leaves_nothing:
        told = _terms(told, parts, settings, folder)
        if settings.route == "data" or told.terms.error <= _EXPLAINED:
            told = find_laws(told, parts, settings, regressors, folder)
    return told


def _terms(before, parts, settings, folder):
    """Terms; with the laws of before, if they are the same."""
    options: dict[str, Any] = dict(folder=folder, more=settings.more)
    # Matrices are small here: threads would only wait for one another.
    with threadpool_limits(limits=1, user_api="blas"):
        if before is None:
            return Told(factoring.find_terms(*parts[:2], **options), None)
        terms = factoring.find_terms(*parts[:2], before=before.terms, **options)
    same = terms.state.law.structure == before.terms.state.law.structure
    return Told(terms, before.laws if same else None)


def find_laws(
    told: Told,
    parts: tuple[Dataset, Dataset, Dataset],
    settings: Settings,
    regressors: Sequence[Regressor],
    folder: str | os.PathLike[str] | None = None,
) -> Told:
    """What data say, with the laws of the terms.

    Args:
        told: what `find_terms` gave.
        parts: training, validation and test data.
        settings: all choices.
        regressors: engines.
        folder: see `laws.keeping`.
    """
    if told.laws is not None:
        return told
    options: dict[str, Any] = dict(by_score=settings.choice == "score", more=settings.more)
    options |= dict(fits=settings.fits, seconds=settings.time_limit, folder=folder)
    with threadpool_limits(limits=1, user_api="blas"):
        laws = factoring.find_laws(told.terms, *parts[:2], regressors, **options)
    return told._replace(laws=laws)
