"""What a run leaves behind: `report.json`, `report.md` and figures."""

import contextlib
import fnmatch
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy

from symjax_gn.data.features import AXES
from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.quantities import ACCELERATION, VELOCITY, Quantity
from symjax_gn.discovery.acceptance import Step
from symjax_gn.discovery.certificate import Certificate
from symjax_gn.discovery.distillation import VectorLaw
from symjax_gn.discovery.energies import KineticLaw, PotentialLaw
from symjax_gn.discovery.refitting import Refit
from symjax_gn.discovery.verdict import Verdict
from symjax_gn.laws.export import to_latex
from symjax_gn.laws.fronts import Law
from symjax_gn.laws.julia import julia_versions
from symjax_gn.laws.law import in_words
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.report.markdown import report_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PACKAGES = ("symjax_gn", "jax", "jaxlib", "flax", "optax", "diffrax", "jraph")
_PACKAGES += ("numpy", "scipy", "sympy", "pyoperon", "pysr")

# How what a law predicts is written.
_DOTS = {ACCELERATION: r"\ddot", VELOCITY: r"\dot"}

# Dots per inch of figures.
_DPI = 120

_FIGURES = ("trajectories.png", "training.png", "messages.png", "forces.png", "law.png")
_FIGURES += ("potential.png", "pareto_*.png")
OUTPUTS = ("report.json", "report.md", *_FIGURES)
"""Patterns of the names of all files."""


def versions(regressor: str = "operon") -> dict[str, str]:
    """Versions of Python and of what a result depends on, where installed; of Julia for PySR."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | julia_versions() if regressor == "pysr" else found


def law_record(law: Law) -> dict[str, Any]:
    """A law as the fields of `report.json`."""
    return dict(
        expression_record(law.expression),
        complexity=law.complexity,
        mae=law.mae,
        score=law.score,
    )


def step_record(step: Step) -> dict[str, Any]:
    """A move of the search for terms."""
    return dict(
        move=step.move.replace("_", " "),
        law=in_words(step.law),
        error=step.error,
        gained=step.gained,
        gained_unit="nats",
        compared=step.tried,
    )


def expression_record(expression: sympy.Expr) -> dict[str, str]:
    """An expression as LaTeX and as SymPy text."""
    return dict(latex=to_latex(expression), sympy=str(expression))


def make_report(
    *,
    law: VectorLaw,
    verdict: Verdict | None,
    certificate: Certificate | None = None,
    message_r2: Mapping[str, Any] | None,
    test_error: tuple[float, float] | None,
    seconds: Mapping[str, float],
    one_body: VectorLaw | None = None,
    one_body_check: Mapping[str, Any] | None = None,
    law_on_test: tuple[float, float] | None = None,
    more_bodies: Mapping[str, Any] | None = None,
    gauge_law: Law | None = None,
    refit: Mapping[str, Any] | None = None,
    model: SymbolicModel | None = None,
    quantity: Quantity = ACCELERATION,
    **run: Any,
) -> dict[str, Any]:
    """The contents of `report.json`.

    Args:
        law: the distilled law.
        certificate: what `certify` said, or None.
        verdict: what `judge` said, or None for data whose law is not known.
        message_r2: what `message_r2` gave, or None.
        test_error: what `held_out_error` gave of a network, or None.
        seconds: duration of each stage.
        one_body: what `distill_one_body` gave, or None.
        one_body_check: what `judge_one_body` said of it, or None.
        law_on_test: what `law_error` gave on the test graphs, or None.
        more_bodies: for graphs of another number of bodies, that number `n` and the
            errors `network` and `law` with `mean_abs_target`, or None.
        gauge_law: what `distill_gauge` gave, or None.
        refit: what `refit_record` gave, or None.
        model: the law with its constants refitted, or None.
        quantity: what the law predicts.
        **run: what was run: system, dim, n, strategy, regressor, seed, ...
    """
    targets = ["force towards the sender" if law.matrix is None else "force along M u"]
    if law.vectors:
        targets = [f"factor of the vector: {name}" for name in law.vectors]
    elif law.scalar is None:
        force = law.gauge == "influence" and quantity.vector
        targets = [
            f"force along {AXES[k]}" if force else f"message component {k}"
            for k in range(len(law.components))
        ]
    checks: dict[str, Any] = {}
    gauge = None
    if verdict is not None:
        checks = dict(verdict.checks)
    if verdict is not None and verdict.gauge is not None:
        gauge = dict(
            g=verdict.gauge.name,
            constant_b=not np.any(verdict.gauge.offset[1:]),
            softening=verdict.softening,
            matrix=verdict.gauge.matrix.tolist(),
        )
    return dict(
        **run,
        certificate=None
        if certificate is None
        else dict(says=certificate.says, checks=dict(certificate.checks)),
        recovered=None if verdict is None else verdict.recovered,
        verdict=None if verdict is None else verdict.says,
        form_verdict=None if verdict is None else verdict.form,
        checks=checks,
        compared_in=gauge,
        form=law.form,
        across=law.off_axis_share,
        matrix=None if law.matrix is None else law.matrix.tolist(),
        laws=[
            dict(target=target) | law_record(chosen)
            for target, chosen in zip(targets, law.selected, strict=True)
        ],
        components=[str(component) for component in law.components],
        motion=_motion(model),
        mae_unit=law.error_unit,
        flattening_power=law.power,
        fronts=[[law_record(one) for one in front.laws] for front in law.fronts],
        one_body=None
        if one_body is None
        else dict(
            form=one_body.form,
            share=one_body.share,
            components=[str(component) for component in one_body.components],
            check=None if one_body_check is None else dict(one_body_check),
            latex=[to_latex(component) for component in one_body.components],
            fronts=[[law_record(one) for one in front.laws] for front in one_body.fronts],
        ),
        message_gauge=None if gauge_law is None else law_record(gauge_law),
        message_r2=None if message_r2 is None else dict(message_r2),
        test_error=None
        if test_error is None
        else dict(
            value=test_error[0],
            unit="sum over nodes and dimensions of |a - a_hat|, mean over test graphs, "
            f"in the data's unit of {quantity.name}",
            mean_abs_target=test_error[1],
        ),
        law_error=None if law_on_test is None else law_on_test[0],
        refit=None if refit is None else dict(refit),
        quantity=quantity.name,
        model=None
        if model is None
        else dict(
            message=[expression_record(one) for one in model.message],
            update=[expression_record(one) for one in model.update],
        ),
        more_bodies=None if more_bodies is None else dict(more_bodies),
        seconds=dict(seconds),
        versions=versions(run.get("regressor", "operon")),
    )


def _motion(model: SymbolicModel | None) -> list[str] | None:
    """The equation of motion along each axis in LaTeX; None of what is no motion of bodies."""
    dots = None if model is None else _DOTS.get(model.quantity)
    if model is None or dots is None:
        return None
    sums = {
        f"e_{k}": rf"\left[\sum_{{j \to i}} {to_latex(law)}\right]"
        for k, law in enumerate(model.message)
    }
    return [
        rf"{dots}{{{axis}}}_i = {to_latex(law, symbols=sums)}"
        for axis, law in zip(AXES, model.update, strict=False)
    ]


def energy_record(
    law: PotentialLaw,
    kinetic: KineticLaw | None,
    checks: Mapping[str, Any],
    rollouts: Sequence[Mapping[str, Any]] | None,
    no_rollouts: str | None = None,
    refitted: sympy.Expr | None = None,
) -> dict[str, Any]:
    """What a Hamiltonian adds to `report.json`.

    Args:
        law: what `distill_potential` gave.
        kinetic: what `distill_kinetic` gave, or None.
        checks: outcomes of `judge_potential` and `judge_kinetic`, by the names `potential`
            and `kinetic`.
        rollouts: what `compare_rollouts` gave, or None.
        no_rollouts: why there are none.
        refitted: what `refitted_potential` gave, or None.
    """

    def record(expression):
        return None if expression is None else expression_record(expression)

    return dict(
        potential=record(law.potential),
        refitted=record(refitted),
        additive=record(law.additive),
        additive_error=law.additive_error,
        kinetic=None
        if kinetic is None
        else dict(velocity=record(kinetic.velocity), energy=record(kinetic.energy)),
        checks=dict(checks),
        rollouts=None if rollouts is None else [dict(row) for row in rollouts],
        no_rollouts=no_rollouts,
    )


def refit_record(refitted: Refit, law_error: float) -> dict[str, Any]:
    """What a refit adds to `report.json`: the laws, and their error on test graphs.

    Constants with an interval are named c_1, c_2, ... in the laws `named`; `exact` are the other
    numbers.

    Args:
        refitted: what `refit` gave.
        law_error: their `held_out_error` on graphs that played no part.
    """
    towards = refitted.towards
    within = [*refitted.others, *refitted.update]
    laws = [*refitted.force, *refitted.one_body] if towards is None else [towards]
    laws += within
    names = {
        sympy.Float(value): sympy.Symbol(f"c_{k + 1}")
        for k, (value, *_) in enumerate(refitted.intervals)
    }
    written = {str(name): rf"c_{{{k + 1}}}" for k, name in enumerate(names.values())}
    named: list[Any] = [law.xreplace(names) for law in laws]
    return dict(
        towards=None if towards is None else expression_record(towards),
        distance=str(refitted.distance),
        components=[str(component) for component in refitted.force],
        one_body=[str(component) for component in refitted.one_body],
        beside=[expression_record(one) for one in refitted.others],
        becomes=[expression_record(one) for one in refitted.update],
        error=refitted.error,
        error_before=refitted.error_before,
        named=[to_latex(law, symbols=written) for law in named if law != 0],
        constants=[
            dict(name=f"c_{k + 1}", value=value, low=low, high=high)
            for k, (value, low, high) in enumerate(refitted.intervals)
        ],
        exact=_exact_numbers(named) if refitted.intervals else [],
        law_error=law_error,
    )


def _exact_numbers(laws):
    """Numbers of laws that are written exactly; those that are no constants left out."""
    found = set().union(*(law.atoms(sympy.Rational, sympy.NumberSymbol) for law in laws))
    return [str(x) for x in sorted(found - {sympy.S.Zero, sympy.S.One, sympy.S.NegativeOne})]


def write_report(
    folder: Path, report: Mapping[str, Any], figures: Mapping[str, tuple[str, "Figure"]]
) -> None:
    """Write `report.json`, `report.md` and the figures to a folder.

    All are written beside their places first, so that a full disk or an interruption leaves
    an earlier report as it was; its figures that are not among these are removed last.

    Args:
        folder: where to.
        report: what `make_report` gave.
        figures: title and figure by file name.
    """
    before = _figures_of(folder / "report.json")
    titles = {file: title for file, (title, _) in figures.items()}
    contents = _finite(dict(report, figures=list(figures)))
    text = json.dumps(contents, indent=2, allow_nan=False) + "\n"
    with contextlib.ExitStack() as stack:

        def part(file):
            return stack.enter_context(in_one_stroke(folder / file))

        # What comes first here takes its place last.
        part("report.json").write_text(text, encoding="utf-8")
        part("report.md").write_text(report_markdown(report, titles), encoding="utf-8")
        for file, (_, figure) in figures.items():
            figure.savefig(part(file), format="png", dpi=_DPI)
    for file in set(before) - set(figures):
        (folder / file).unlink(missing_ok=True)


def _figures_of(path: Path) -> list[str]:
    """Names of the figures that an earlier report in the same folder lists."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["figures"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    plain = [name for name in names if isinstance(name, str) and Path(name).name == name]
    return [name for name in plain if any(fnmatch.fnmatch(name, one) for one in _FIGURES)]


def _finite(value: Any) -> Any:
    """JSON has no infinity: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
