"""From data to a law in one call; each step of the path is a function of its own.

There are two routes. Data: a sum of terms (vectors x couplings x functions of one variable) is
fitted to accelerations by least squares; held-out data decide which. Messages, as in the paper: a
network is trained and its messages are distilled. By default data come first; then a network is
trained, whose messages are compared with the law, or distilled where no sum fits. Laws are refitted
to the data, certified, and judged where the truth is known.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from threadpoolctl import threadpool_limits

from symjax_gn import learning, reading
from symjax_gn.compiling import Stopwatch
from symjax_gn.data.border import checked
from symjax_gn.data.building import dataset_from_graphs, make_dataset
from symjax_gn.data.checks import LARGEST_SEED, check_count
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.folders import delete_files, own_folder
from symjax_gn.data.graphs import GraphsTuple
from symjax_gn.data.splitting import split
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.discovery import (
    certificate,
    factoring,
)
from symjax_gn.laws.keeping import RESULTS
from symjax_gn.laws.law_files import save_law
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import held_out_error
from symjax_gn.networks.saving import save_network
from symjax_gn.networks.training import Trained
from symjax_gn.physics.systems import System, get_system
from symjax_gn.results import Discovery
from symjax_gn.settings import Settings, check_settings, make_engines

# Where searches keep what they find, in the folder of a run.
SEARCHES = "searches"

# Terms explain a force if they err at most so many times as much as the network.
_AS_WELL = 1.5

OUTPUTS = ("network.msgpack", "law.json", "training/", f"{SEARCHES}/")
"""What `discover` writes to a folder."""


def as_dataset(data: Any, target: str | None = None) -> Dataset:
    """Whatever `discover` is given as a `Dataset`.

    Args:
        data: a `Dataset`, a `Trajectory`, a `jraph.GraphsTuple` or a list of them.
        target: for graphs, the name of the feature to be predicted.

    Raises:
        ValueError: it is none of these, or graphs come without a target.
    """
    if isinstance(data, Dataset | Trajectory) and target is not None:
        raise ValueError(f"A {type(data).__name__} has its target: leave {target!r} out.")
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Trajectory):
        return make_dataset(data)
    if isinstance(data, GraphsTuple | Sequence) and not isinstance(data, str):
        if target is None:
            raise ValueError(
                "Graphs need the name of what is to be predicted: a feature of nodes or of "
                'globals, e.g. target="z".'
            )
        return dataset_from_graphs(data, target)
    raise ValueError(
        f"discover needs a Dataset, a Trajectory or jraph graphs, got {type(data).__name__}."
    )


@checked
def discover(
    key: PRNGKeyArray,
    graphs: Any,
    settings: Settings = Settings(),  # noqa: B008
    *,
    target: str | None = None,
    system: System | str | None = None,
    search_seed: int = 0,
    progress: bool = False,
    on_stage: Callable[[str], None] | None = None,
    on_law: Callable[[SymbolicModel], None] | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Discovery:
    """Find the law that governs a data set.

    Main arguments:
        key: PRNG key of the split, the training and the sampling.
        graphs: a `Dataset`, a `Trajectory`, or jraph graphs.
        settings: all choices; see `Settings` and `preset`.

    Other Arguments:
        target: for jraph graphs, the feature that is to be predicted.
        system: the true law where it is known, for the verdict and nothing else; or the name of a
            built-in system.
        search_seed: seed of the first of the searches.
        progress: whether to show progress bars.
        on_stage: called with the name of each stage that ends.
        on_law: called with the law as soon as data give one, before a network is trained.
        folder: where `network.msgpack` and `law.json` are saved as soon as they are found, and
            states of training and results of searches on the way.
        resume: go on from what a run which was ended has left in the folder.

    Raises:
        ValueError: the data or the settings are wrong, or what is in the folder is of another
            run.
        TrainingError: training left finite numbers.
        RegressionError: no usable expression was found.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> quick = Settings(steps=20, width=8, depth=1, evaluations=2000, searches=1)
    >>> found = discover(key, run, quick, system=sgn.SYSTEMS["spring"])
    >>> found.law.predict(found.parts[2].graphs).shape, found.verdict.says
    ((20, 4, 2), 'exact')
    """
    check_settings(settings)
    check_count("search_seed", search_seed, 0, LARGEST_SEED)
    system = get_system(system) if isinstance(system, str) else system
    keys = jax.random.split(key, 4)
    parts = split_up(keys[0], as_dataset(graphs, target), settings)
    watch = Stopwatch(on_stage)
    with own_folder(folder, OUTPUTS) as place:
        searches = None if place is None else place / SEARCHES
        if place is not None and not resume:
            delete_files(place / SEARCHES, RESULTS)
        regressors = make_engines(settings, search_seed, searches)
        told = learning.find_terms(parts, settings, regressors, searches)
        if told is not None:
            watch.lap("search")
        if told is not None and told.laws is not None:
            law = reading.as_model(factoring.factor(told.laws).refit, parts[0])
            if place is not None:
                save_law(place / "law.json", law)
            if on_law is not None:
                on_law(law)
        trained = None
        if settings.route != "data":
            states = None if place is None else place / "training"
            enough = told is not None and told.leaves_nothing
            trained = learning.train(
                keys[1], parts, settings, progress, states, resume, to_compare=enough
            )
        return read_law(
            keys[2:], trained, parts, settings, system=system, search_seed=search_seed,
            told=told, watch=watch, folder=place,
        )  # fmt: skip


def split_up(
    key: PRNGKeyArray, dataset: Dataset, settings: Settings
) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test data, of data that settings can be used for.

    Raises:
        ValueError: they cannot, or there is nothing to learn.
    """
    if settings.route == "data" and not dataset.quantity.vector:
        raise ValueError(
            f'What a {dataset.quantity.name} is a sum of is read from messages: route="data" is of '
            'vectors of nodes; use "both" or "messages".'
        )
    if settings.strategy == "flathgn" and not dataset.quantity.weight:
        raise ValueError("A Hamiltonian needs accelerations as the target.")
    if all(np.all(np.asarray(x) == np.asarray(x)[:1]) for x in jax.tree.leaves(dataset.nodes)):
        raise ValueError(
            f"All {len(dataset)} graphs have the same bodies in the same states, so there is "
            "nothing to learn from; are the data those that were meant?"
        )
    train, validation, test = split(key, dataset)
    return train, validation, test


def read_law(
    keys: PRNGKeyArray,
    trained: Trained | None,
    parts: tuple[Dataset, Dataset, Dataset],
    settings: Settings = Settings(),  # noqa: B008
    *,
    system: System | None = None,
    search_seed: int = 0,
    told: learning.Told | None = None,
    watch: Stopwatch | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Discovery:
    """The law of data that a network was trained on, refitted, judged and with its certificate.

    Main arguments:
        keys: PRNG keys `[2]`, of the messages that are recorded and of the verdict.
        trained: the network; None for the law of data alone.
        parts: training, validation and test data.
        settings: all choices, of which those of the search matter.

    Other Arguments:
        system: the true law where it is known, for the verdict and nothing else.
        search_seed: seed of the first of the searches.
        told: what data said, if they were asked.
        watch: which measured the training.
        folder: see `discover`; what searches have found there is taken.

    Raises:
        RegressionError: no usable expression was found.
    """
    train, _, test = parts
    searches = None if folder is None else Path(folder) / SEARCHES
    regressors = make_engines(settings, search_seed, searches)
    watch = watch or Stopwatch()
    test_error = None
    if trained is not None:
        if folder is not None:
            save_network(Path(folder) / "network.msgpack", trained)
        test_error = held_out_error(trained, test)
    watch.lap("train")
    told = told or learning.find_terms(parts, settings, regressors, searches)
    if told is not None and _explains(told, trained, test):
        told = learning.find_laws(told, parts, settings, regressors, searches)
    elif trained is not None:
        told = None
    # Matrices are small here: threads would only wait for one another.
    with threadpool_limits(limits=1, user_api="blas"):
        chosen: dict[str, Any]
        if test.quantity.vector:
            laws = None if told is None else told.laws
            chosen = dict(system=system, laws=laws, lap=watch.lap)
            found = reading.read_force(keys, trained, parts, settings, regressors, **chosen)
        else:
            assert trained is not None
            chosen = dict(lap=watch.lap, folder=searches)
            found = reading.read_sum(keys[0], trained, parts, settings, regressors, **chosen)
    seen = trained, train, test, settings.more
    said = found["certificate"] = certificate.certify(found["law"], *seen)
    watch.lap("certify")
    if found["law"] is not None:
        found["law"] = dataclasses.replace(found["law"], provenance=dict(certificate=said.says))
        if folder is not None:
            save_law(Path(folder) / "law.json", found["law"])
    return Discovery(
        trained=trained,
        test_error=test_error,
        parts=parts,
        settings=settings,
        system=system,
        seconds=watch.seconds,
        **found,
    )


def _explains(told, trained, test):
    """Whether terms say about as much as a network knows."""
    if trained is None or told.leaves_nothing:
        return True
    known = float(np.nanmean(certificate.relative_errors(trained, test)))
    return told.terms.error <= _AS_WELL * known
