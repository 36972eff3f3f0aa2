"""The network of a run, and the law that may end its training."""

import math
import os
from collections.abc import Sequence
from typing import Any

from jaxtyping import PRNGKeyArray
from threadpoolctl import threadpool_limits

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.units import Scales, measure_scales
from symjax_gn.discovery import factoring
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.samples import ROUNDING
from symjax_gn.networks import strategies
from symjax_gn.networks.preparation import INTERVALS
from symjax_gn.networks.training import Trained, as_trained, fit
from symjax_gn.settings import STEPS, STEPS_OF_ENERGIES, Settings

# Training is interrupted after so many steps to look for a law, with terms that err no more
# than this.
_LOOK, _EXPLAINED = 400, 1e-3


def train(
    keys: PRNGKeyArray,
    parts: tuple[Dataset, Dataset, Dataset],
    settings: Settings,
    regressors: Sequence[Regressor],
    progress: bool,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> tuple[Trained, factoring.Found | None]:
    """The network of the settings, trained until a law leaves nothing or to the end.

    Args:
        keys: PRNG keys `[2]`, of the training and of the look for a law.
        parts: training, validation and test data.
        settings: all choices.
        regressors: engines.
        progress: whether to show a progress bar.
        folder: where states of training are saved; None: nowhere.
        resume: whether to go on from those that are there.

    Returns:
        The network, and the laws that were found on the way, whatever they leave, or None.
    """
    learned, validation, _ = parts
    scales = measure_scales(learned)
    options = network_options(settings, learned, scales)
    steps, model = options["steps"], options["model"]
    # Messages of other strategies are compact, and energies right, at the end of training only.
    looking = settings.until_law and settings.strategy == "bottleneck"
    length = math.ceil(steps / INTERVALS)
    found = None

    def look(state, report):
        nonlocal found
        if looking and report["step"] - length < _LOOK <= report["step"] < steps:
            so_far = as_trained(state, model, scales, settings.strategy)
            found = find_laws(keys[1], so_far, parts, settings, regressors, limit=_EXPLAINED)
        return leaves_nothing(found)

    trained = fit(
        keys[0],
        learned,
        validation,
        **options,
        scales=scales,
        progress=progress,
        callback=look,
        folder=folder,
        resume=resume,
    )
    return trained, found


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


def find_laws(
    key: PRNGKeyArray,
    trained: Trained,
    parts: tuple[Dataset, Dataset, Dataset],
    settings: Settings,
    regressors: Sequence[Regressor],
    **options: Any,
) -> factoring.Found | None:
    """What `factoring.find_laws` finds; None where laws are not to be found term by term.

    Args:
        key: PRNG key that chooses pairs.
        trained: the network.
        parts: training, validation and test data.
        settings: all choices.
        regressors: engines.
        **options: of `factoring.find_laws`.
    """
    by_terms = settings.factor and settings.gauge == "influence" and settings.form == "auto"
    if not by_terms or not parts[0].quantity.vector:
        return None
    # Matrices are small here: threads would only wait for one another.
    with threadpool_limits(limits=1, user_api="blas"):
        return factoring.find_laws(
            key,
            trained,
            *parts[:2],
            regressors,
            by_score=settings.choice == "score",
            fits=settings.fits,
            seconds=settings.time_limit,
            more=settings.more,
            **options,
        )


def leaves_nothing(found: factoring.Found | None) -> bool:
    """Whether laws leave nothing of held-out accelerations but rounding."""
    return found is not None and found.laws.error <= ROUNDING
