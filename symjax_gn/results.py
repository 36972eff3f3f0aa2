"""What a run found, and its report."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import sympy

from symjax_gn.data.checks import check_path
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.folders import own_folder
from symjax_gn.data.nodes import leading_shape
from symjax_gn.discovery import (
    certificate,
    distillation,
    energies,
    recording,
    refitting,
    sums,
    verdict,
)
from symjax_gn.discovery.acceptance import Step
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.networks.training import Trained
from symjax_gn.physics.systems import System
from symjax_gn.report import records
from symjax_gn.report.words import in_short, mark
from symjax_gn.settings import Settings


@dataclasses.dataclass(frozen=True, repr=False)
class Discovery:
    """All that a run found.

    Attributes:
        law: the law as a model, its constants refitted: `predict`, `save_law`, ...
        trained: the network; None with route="data".
        table: recorded messages, likewise.
        distilled: the law of messages or terms as it was chosen, with its candidates.
        update: the laws of what a sum of messages becomes; None for vectors.
        one_body: what moves a body by itself; None for quantities that are no vectors.
        message_gauge: the size of raw messages, as a law; None likewise.
        refit: the refitted laws; None for laws of raw messages.
        energies: what a Hamiltonian adds; None for other strategies.
        certificate: whether to believe the law, from the data alone; see `certify`.
        verdict: how near the law is to the true one, and whether it has its form; None where
            the truth is not known.
        one_body_check: the same of `one_body`, or None.
        message_r2: R^2 of messages against true forces, or None.
        test_error: the network's held-out error and the mean size, see `held_out_error`, or None.
        distilled_error: the error of the distilled laws before their refit, or None.
        law_error: that of `law`, or None for laws of raw messages without an update.
        parts: the training, validation and test data.
        settings: the choices.
        seconds: duration of each stage.
        system: the true law where it is known, or None.
        route: how the law was found: "data" or "messages".
        steps: how the terms of a force were found, and what each step gained.

    `discover` gives one, `write` makes a report of it:

    >>> [field.name for field in dataclasses.fields(Discovery)][:3]
    ['law', 'trained', 'table']
    """

    law: SymbolicModel | None
    trained: Trained | None
    table: recording.MessageTable | None
    distilled: distillation.VectorLaw
    update: sums.UpdateLaw | None
    one_body: distillation.VectorLaw | None
    message_gauge: Any
    refit: refitting.Refit | None
    energies: "Energies | None"
    certificate: certificate.Certificate
    verdict: verdict.Verdict | None
    one_body_check: Mapping[str, Any] | None
    message_r2: Mapping[str, Any] | None
    test_error: tuple[float, float] | None
    distilled_error: tuple[float, float] | None
    law_error: tuple[float, float] | None
    parts: tuple[Dataset, Dataset, Dataset]
    settings: Settings
    seconds: dict[str, float]
    system: System | None
    route: str
    steps: tuple[Step, ...] = ()

    def __repr__(self) -> str:
        said = "no verdict"
        if self.verdict is not None:
            said = f"verdict: {self.verdict.says}, form: {self.verdict.form}"
        return f"Discovery({self.text()}; certificate: {self.certificate.says}; {said})"

    def text(self) -> str:
        """The law in a line, that of bodies alone last; "rejected" or "doubted" come first."""
        if self.refit is not None and self.refit.towards is not None:
            laws: Any = [self.refit.towards]
        else:
            laws = self.distilled.components if self.law is None else self.law.message
        text = "; ".join(map(in_short, laws))
        alone = () if self.refit is None else self.refit.one_body
        if any(law != 0 for law in alone):
            text += "; alone: " + ", ".join(map(in_short, alone))
        if self.refit is not None and self.refit.update:
            text += "; within: " + ", ".join(map(in_short, self.refit.update))
        marked = mark(self.certificate._asdict()).strip(" ()")
        return f"{marked}: {text}" if marked else text

    def report(self, **run: Any) -> dict[str, Any]:
        """The contents of `report.json`; `run` says what was run: system, seed, ..."""
        chosen, test = self.settings, self.parts[2]
        trained, found = self.trained, self.energies
        if found is not None:
            run["energies"] = records.energy_record(
                found.potential,
                found.kinetic,
                found.checks,
                found.rollouts,
                found.no_rollouts,
                found.refitted,
            )
        if trained is not None:
            run["training_steps"] = int(trained.history.step[-1])
        if trained is not None and self.table is not None and not trained.model.conservative:
            run["message_components"] = dict(
                used=len(self.table.components),
                of=trained.model.message_dim,
                told=chosen.strategy == "bottleneck",
            )
        if self.update is not None:
            run["update"] = [records.law_record(law) for law in self.update.selected]
        run["steps"] = list(map(records.step_record, self.steps))
        run.setdefault("strategy", chosen.strategy if trained is not None else None)
        run["route"] = dict(asked=chosen.route, found=self.route)
        run["remarks"] = [*run.get("remarks", ()), *filter(None, [test.note])]
        run.setdefault("regressor", chosen.regressor)
        refitted = None
        if self.refit is not None and self.law_error is not None:
            refitted = records.refit_record(self.refit, self.law_error[0])
        return records.make_report(
            law=self.distilled,
            verdict=self.verdict,
            certificate=self.certificate,
            message_r2=self.message_r2,
            test_error=self.test_error,
            seconds=self.seconds,
            one_body=self.one_body,
            one_body_check=self.one_body_check,
            law_on_test=self.distilled_error,
            refit=refitted,
            gauge_law=self.message_gauge,
            model=self.law,
            quantity=test.quantity,
            **run,
        )

    def write(self, folder: str | os.PathLike[str], **run: Any) -> dict[str, Any]:
        """Write `report.json`, `report.md` and figures; returns what `report` gives.

        Args:
            folder: made if it is not there.
            **run: what was run: system, seed, ...

        Raises:
            ValueError: nothing can be written there, or what is there is not of this package.
        """
        nodes = self.parts[0].nodes
        position = nodes.position
        run = dict(
            dict(
                system="data",
                dim=None if position is None else position.shape[-1],
                n=leading_shape(nodes)[1],
                seed=None,
            ),
            **run,
        )
        check_path("The name of a folder", folder)
        with own_folder(folder, records.OUTPUTS) as place:
            assert place is not None
            contents = self.report(**run)
            records.write_report(place, contents, self.figures())
        return contents

    def figures(self) -> dict[str, tuple[str, Any]]:
        """Titles and figures by file name."""
        # Imported once something is drawn, since matplotlib takes long.
        from symjax_gn.report import plots

        law, table, found = self.distilled, self.table, self.energies
        marked = mark(self.certificate._asdict())
        drawn: dict[str, tuple[str, Any]] = {}

        def draw(name, title, figure, of_law=True):
            if of_law and marked:
                figure.suptitle(f"{title}{marked}", color="#c0392b")
            drawn[name] = (title + (marked if of_law else ""), figure)

        if self.trained is not None and table is not None and self.test_error is not None:
            kept = 1 if found is not None else len(table.components)
            training = plots.plot_training(self.trained.history, kept)
            if training is not None:
                draw("training.png", "Training", training, of_law=False)
            if self.parts[0].quantity.vector:
                name, title = "messages.png", "Messages of the network against forces"
                if found is not None:
                    name, title = "forces.png", "Forces of the network"
                share = self.test_error[0] / (self.test_error[1] or math.nan)
                draw(name, title, plots.plot_messages(table, share), of_law=False)
        if self.refit is not None:
            pairs = plots.pair_forces(self.refit, self.parts[2])
            true = None
            if self.system is not None:
                true = recording.true_pairs(jax.random.key(0), self.system, self.parts[2])
            figure = plots.plot_law(self.refit, pairs, self.parts[0].quantity, true)
            draw("law.png", "The law and the data", figure)
        elif self.law is not None:
            figure = plots.plot_predictions(self.law, self.parts[2])
            draw("law.png", "The law and the data", figure)
        if found is not None and found.potential.potential is not None:
            figure = plots.plot_potential(found.potential, found.table, found.refitted)
            draw("potential.png", "The potential of a pair", figure)
        for k, (front, chosen) in enumerate(zip(law.fronts, law.selected, strict=True)):
            figure = plots.plot_front(front, chosen, law.error_unit)
            draw(f"pareto_{k}.png", f"Candidates {k}: error against complexity", figure)
        return drawn


@dataclasses.dataclass(frozen=True)
class Energies:
    """What a Hamiltonian adds to a `Discovery`.

    Attributes:
        table: recorded energies.
        potential: the distilled potential of a pair.
        kinetic: the distilled kinetic energy of a body, or None.
        refitted: the potential of the refitted law, or None.
        checks: outcomes of `judge_potential` and `judge_kinetic`.
        rollouts: what `compare_rollouts` gave, or None.
        no_rollouts: why there are none.
    """

    table: energies.EnergyTable
    potential: energies.PotentialLaw
    kinetic: energies.KineticLaw | None
    refitted: sympy.Expr | None
    checks: dict[str, Any]
    rollouts: list[dict[str, Any]] | None
    no_rollouts: str | None
