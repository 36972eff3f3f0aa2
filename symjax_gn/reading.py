"""What a network's messages, and data alone, are read as: laws of forces and of sums.

They are refitted to the data, and judged where the truth is known.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy
from jaxtyping import PRNGKeyArray

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import edges_of
from symjax_gn.data.nodes import AXES, take_nodes
from symjax_gn.discovery import (
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
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.fronts import RegressionError
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import held_out_error
from symjax_gn.networks.training import Trained
from symjax_gn.physics.dynamics import true_hamiltonian
from symjax_gn.physics.systems import System
from symjax_gn.results import Energies
from symjax_gn.settings import Settings


def as_model(refit: refitting.Refit, train: Dataset) -> SymbolicModel:
    """Refitted laws of forces as a model.

    Args:
        refit: the laws.
        train: graphs of the kind that it is for.
    """
    extra = dict(others=refit.others, update=refit.update)
    return refitting.force_model(refit.force, refit.one_body, train, **extra)


def read_force(
    keys: PRNGKeyArray,
    trained: Trained | None,
    parts: tuple[Dataset, Dataset, Dataset],
    settings: Settings,
    regressors: Sequence[Regressor],
    *,
    system: System | None,
    laws: factoring.Found | None,
    lap: Callable[[str], None],
) -> dict[str, Any]:
    """Laws of a vector of nodes: of pairs, and of each body alone; fields of a `Discovery`.

    Args:
        keys: PRNG keys `[2]`, of the messages that are recorded and of the verdict.
        trained: the network; None: there is none.
        parts: training, validation and test data.
        settings: all choices.
        regressors: engines.
        system: the true law where it is known, for the verdict.
        laws: what data alone say; None: messages are read.
        lap: called with the name of each stage that ends.

    Raises:
        RegressionError: no usable expression was found.
    """
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
        model = as_model(refitted, train)
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


def read_sum(
    key: PRNGKeyArray,
    trained: Trained,
    parts: tuple[Dataset, Dataset, Dataset],
    settings: Settings,
    regressors: Sequence[Regressor],
    *,
    lap: Callable[[str], None],
    folder: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """Laws of a scalar: of what is summed, and of what the sum becomes; fields of a `Discovery`.

    Args:
        key: PRNG key of the messages that are recorded.
        trained: the network.
        parts: training, validation and test data.
        settings: all choices.
        regressors: engines.
        lap: called with the name of each stage that ends.
        folder: where results of searches are kept; None: nowhere.

    Raises:
        RegressionError: no usable expression was found.
    """
    train, validation, test = parts
    table = recording.record_messages(key, trained, train)
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
