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
import sympy
from jaxtyping import PRNGKeyArray
from threadpoolctl import threadpool_limits

from symjax_gn import learning
from symjax_gn.compiling import Stopwatch
from symjax_gn.data.border import checked
from symjax_gn.data.checks import LARGEST_SEED, check_count
from symjax_gn.data.datasets import Dataset, dataset_from_graphs, make_dataset
from symjax_gn.data.folders import delete_files, own_folder
from symjax_gn.data.graphs import GraphsTuple, edges_of
from symjax_gn.data.nodes import AXES, take_nodes
from symjax_gn.data.splitting import split
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.discovery import (
    certificate,
    distillation,
    energies,
    factoring,
    recording,
    refitting,
    rollouts,
    sums,
    verdict,
)
from symjax_gn.discovery.gauge import message_r2
from symjax_gn.laws.fronts import RegressionError
from symjax_gn.laws.keeping import RESULTS
from symjax_gn.laws.law_files import save_law
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import held_out_error
from symjax_gn.networks.saving import save_network
from symjax_gn.networks.training import Trained
from symjax_gn.physics.dynamics import true_hamiltonian
from symjax_gn.physics.systems import System, get_system
from symjax_gn.results import Discovery, Energies
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
            law = _as_model(factoring.factor(told.laws).refit, parts[0])
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
        found: dict[str, Any]
        if test.quantity.vector:
            laws = None if told is None else told.laws
            found = _find_force(keys, trained, parts, settings, system, regressors, watch.lap, laws)
        else:
            found = _find_sum(keys, trained, parts, settings, regressors, watch.lap, searches)
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


def _as_model(refit, train):
    extra = dict(others=refit.others, update=refit.update)
    return refitting.force_model(refit.force, refit.one_body, train, **extra)


def _find_force(keys, trained, parts, settings, system, regressors, lap, laws):
    """Laws of a vector of nodes: of pairs, and of each body alone."""
    train, validation, test = parts
    energy_table = table = gauge_law = kinetic = potential = None
    if trained is not None and trained.model.conservative:
        energy_table = energies.record_energies(keys[0], trained, train, system=system)
        table = energy_table.forces
    elif trained is not None:
        table = recording.record_messages(keys[0], trained, train, system=system)
    factored = None if laws is None else factoring.factor(laws)
    if factored is not None:
        law, alone = factored.law, factored.one_body
    elif table is None:
        raise RegressionError("No terms explain anything of the data, and there is no network.")
    else:
        law, alone = _from_messages(table, trained, train, settings, regressors)
        if energy_table is None:
            gauge_law = distillation.distill_gauge(table, regressors[:1])
    if energy_table is not None:
        potential = energies.distill_potential(energy_table, law, regressors)
        kinetic = energies.distill_kinetic(energy_table, regressors)
    lap("regress")

    refitted = model = before = error = None
    if settings.gauge == "influence":
        before = refitting.law_error(law.components, alone.components, test)
        if factored is None:
            rivals = validation if settings.choice == "data" else None
            refitted = refitting.refit(law, alone, train, validation=rivals)
        else:
            refitted = factored.refit
        model = _as_model(refitted, train)
        error = held_out_error(model, test)
    lap("refit")
    judged = alone_check = r2 = found = None
    if system is not None:
        components = None
        if energy_table is None and table is not None:
            r2, components = message_r2(table), len(table.components)
        elif energy_table is not None:
            forces = energy_table.forces
            r2 = message_r2(forces._replace(messages=forces.force))
        # What is judged is the law that is printed last, saved, and used for rollouts.
        force, own_force = law.components, alone.components
        if refitted is not None:
            force, own_force = refitted.force, refitted.one_body
        alone_check = verdict.judge_one_body(keys[1], own_force, system, test)
        judged = verdict.judge(
            keys[1],
            force,
            system,
            train,
            test,
            gauge=settings.gauge,
            one_body=None if refitted is None else alone_check,
            num_components=components,
        )
        judged = _judged_whole(judged, refitted)
    if trained and energy_table and potential is not None and refitted is not None:
        judged, checks = _judge_energies(keys[1], judged, potential, kinetic, system, test)
        whole = energies.refitted_potential(refitted, energy_table.forces.features)
        rows, why_not = None, "the energy in an outer field is not distilled"
        if not _has_field(refitted.one_body):
            rows, why_not = follow(settings, system, test, trained, whole, kinetic)
        found = Energies(energy_table, potential, kinetic, whole, checks, rows, why_not)
        lap("follow")
    return dict(
        law=model,
        table=table,
        distilled=law,
        one_body=alone,
        message_gauge=gauge_law,
        refit=refitted,
        energies=found,
        verdict=judged,
        one_body_check=alone_check,
        message_r2=r2,
        distilled_error=before,
        law_error=error,
        update=None,
        route="messages" if laws is None else "data",
        steps=() if laws is None else laws.steps,
    )


def _from_messages(table, trained, train, settings, regressors):
    """The laws of what a network sends, and of what it adds for each body alone."""
    law = distillation.distill(
        table,
        regressors,
        gauge=settings.gauge,
        form=settings.form,
        power=settings.flatten,
        relative_error=settings.errors == "relative",
    )
    own = distillation.property_names(table, "i")
    if trained.model.external_field:
        own += [f"{axis}_i" for axis in AXES[: train.target.shape[-1]]]
    return law, distillation.distill_one_body(table, regressors, features=own)


def _judged_whole(judged, refitted):
    """The verdict of a law whose sums may be within a function: a system's forces never are."""
    if refitted is None or not refitted.update:
        return judged
    return judged._replace(says="not recovered", form="other")


def _has_field(one_body):
    """Whether what bodies feel by themselves depends on where they are."""
    places = {sympy.Symbol(f"{axis}_i") for axis in AXES}
    return any(law.free_symbols & places for law in one_body)


def _judge_energies(key, judged, potential, kinetic, system, test):
    """The verdict with the potential's check, and the checks of energies."""
    checks: dict[str, Any] = {}
    if system is not None:
        checks["potential"] = verdict.judge_potential(key, potential.potential, system, test)
        judged = judged._replace(
            says=judged.says if checks["potential"]["holds"] else "not recovered",
            checks=judged.checks | {"potential": checks["potential"]},
        )
    if kinetic is not None:
        checks["kinetic"] = verdict.judge_kinetic(key, kinetic.velocity, test)
        # A law of dH/dp without an integral is no energy.
        checks["kinetic"]["holds"] &= kinetic.energy is not None
    return judged, checks


def follow(
    settings: Settings,
    system: System | None,
    test: Dataset,
    trained: Trained,
    potential: sympy.Expr | None,
    kinetic: energies.KineticLaw | None,
) -> tuple[list[dict[str, Any]] | None, str | None]:
    """Rows of `compare_rollouts` from the starts of test recordings, or why there are none."""
    if not settings.rollouts:
        return None, "none asked for"
    if system is not None and system.drag:
        return None, "a system with drag keeps no energy"
    if settings.dissipative:
        return None, "with dissipative=True energies may be lost"
    if settings.external_field or trained.model.external_field:
        return None, "the energy in an outer field is not distilled"
    if kinetic is None or kinetic.energy is None:
        return None, "there is no kinetic energy"
    if test.time is None:
        return None, "the data have no times"
    names, first, counts = np.unique(test.group, return_index=True, return_counts=True)
    if counts[0] < 2:
        return None, "the data hold one moment of each simulation"
    edges = edges_of(test.graphs, int(first[0]))
    hamiltonians = {"network": rollouts.trained_hamiltonian(trained, edges)}
    if potential is not None:
        hamiltonians["distilled"] = rollouts.distilled_hamiltonian(
            potential, kinetic.energy, edges, test.space
        )
    if system is not None:
        hamiltonians["true"] = true_hamiltonian(system)
    starts = take_nodes(test.nodes, first[: settings.rollouts])
    moments = np.asarray(test.time)[test.group == names[0]]
    length = settings.rollout_length * float(moments[-1] - moments[0])
    rows = rollouts.compare_rollouts(
        hamiltonians,
        starts,
        np.linspace(0.0, length, settings.rollout_length * (len(moments) - 1) + 1),
        true="true" if system is not None else None,
        substeps=settings.rollout_substeps,
    )
    return rows, None


def _find_sum(keys, trained, parts, settings, regressors, lap, folder):
    """Laws of a scalar: of what is summed, and of what the sum becomes."""
    train, validation, test = parts
    table = recording.record_messages(keys[0], trained, train)
    found = None
    if settings.route == "both":
        options: dict[str, Any] = dict(fits=settings.fits, seconds=settings.time_limit)
        options["folder"] = folder
        found = sums.find_sum(table, trained, train, validation, regressors, **options)
    if found is None:
        messages = sums.distill_messages(table, regressors)
        found = sums.distill_update(messages, train, regressors)
    lap("regress")
    before = held_out_error(found.model, test)
    refitted = refitting.refit_model(found.model, train)
    lap("refit")
    return dict(
        law=refitted,
        table=table,
        distilled=found.message,
        one_body=None,
        message_gauge=None,
        refit=None,
        energies=None,
        verdict=None,
        one_body_check=None,
        message_r2=None,
        distilled_error=before,
        law_error=held_out_error(refitted, test),
        update=found.update,
        route="messages",
    )
