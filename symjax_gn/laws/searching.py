"""Search for the laws of several targets: engines side by side, switches, enough tries."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from joblib import Parallel, delayed

from symjax_gn.laws.engines import Regressor, check_problem
from symjax_gn.laws.expressions import evaluate
from symjax_gn.laws.fronts import Column, Columns, ParetoFront, make_front, refine, select
from symjax_gn.laws.switches import find_switch, step

_AT_ONCE = 2


# Share of the samples on each side of a switch that say little of the law around it:
# a smooth network rounds the corner off.
_BLURRED = 0.05


class Problem(NamedTuple):
    """One target of a search."""

    features: Columns
    """Columns `[sample]` by name."""
    target: Column
    """[sample]."""
    weight: Column
    """[sample], factors of the absolute errors by which laws are rated."""
    written: Mapping[sympy.Symbol, sympy.Expr] = {}
    """Features that stand for expressions, which are put in their place."""


def search(
    regressors: Sequence[Regressor],
    problems: Sequence[Problem],
    processes: int | None = None,
) -> list[ParetoFront]:
    """One refined front per problem, from as many engines as it takes.

    Two engines search at first; two more follow as long as the law that the score picks
    errs more than twice as much as the most accurate one found. Where a law leaves a
    step behind, the step becomes a feature of further searches, and the samples next to
    it are left out.

    Args:
        regressors: engines that share their findings, e.g. one with several seeds.
        problems: the targets.
        processes: searches that run side by side; None takes one per core.

    Raises:
        ValueError: there is no engine, or the columns of a problem are unusable.
        RegressionError: a search ended without a usable expression.
    """
    if not regressors:
        raise ValueError("A search needs at least one regressor.")
    problems = list(problems)
    for problem in problems:
        check_problem(problem.features, problem.target)
    found: list[list[sympy.Expr]] = [[] for _ in problems]
    seconds = [0.0] * len(problems)
    fronts: dict[int, ParetoFront] = {}

    def run(engines, which):
        pairs = [(engine, k) for k in which for engine in engines]
        jobs = [delayed(_fit)(engine, problems[k]) for engine, k in pairs]
        count = max(1, min(len(jobs), processes or os.cpu_count() or 1))
        results: Any = Parallel(n_jobs=count)(jobs)
        for (_, k), front in zip(pairs, results, strict=True):
            found[k] += [law.expression for law in front.laws]
            seconds[k] += front.seconds
        for k in which:
            features, target, weight, _ = problems[k]
            fronts[k] = make_front(
                found[k], features, target, weight=weight, gain=0.1, seconds=seconds[k]
            )

    left = list(range(len(problems)))
    for start in range(0, len(regressors), _AT_ONCE):
        engines = regressors[start : start + _AT_ONCE]
        run(engines, left)
        if not start:
            known = {k: with_switch(problems[k], fronts[k]) for k in left}
            switched = {k: problem for k, problem in known.items() if problem is not None}
            for k, problem in switched.items():
                problems[k] = problem
            run(engines, list(switched))
        left = [k for k in left if not _settled(fronts[k])]
        if not left:
            break
    return [fronts[k] for k in range(len(problems))]


def with_switch(problem: Problem, front: ParetoFront) -> Problem | None:
    """The problem with a step as a feature, if laws of the front leave one behind."""
    features, target, weight, written = problem
    size = float(np.mean(np.abs(target)))
    # The best law may imitate the step by a steep curve; then a simpler one still shows it.
    for law in reversed(front.laws):
        residual = target - evaluate(law.expression, features)
        switch = find_switch(features, residual, size)
        if switch is not None:
            break
    else:
        return None
    column = features[switch.feature]
    order = np.argsort(column, kind="stable")
    place = int(np.searchsorted(column[order], switch.threshold))
    # Most of the shorter side is kept, however near to the end the step is.
    blurred = min(int(_BLURRED * len(column)), place // 2, (len(column) - place) // 2)
    keep = np.sort(np.delete(order, slice(max(0, place - blurred), place + blurred)))
    # A name that no feature has.
    more = dict(features) | {"_step": np.where(column > switch.threshold, 1.0, 0.0)}
    return Problem(
        {name: values[keep] for name, values in more.items()},
        target[keep],
        weight[keep],
        dict(written) | {sympy.Symbol("_step"): step(switch)},
    )


def _fit(regressor, problem):
    features, target, weight, written = problem
    front = refine(regressor.fit(features, target), features, target, weight=weight)
    laws = tuple(
        law._replace(expression=law.expression.xreplace(dict(written))) for law in front.laws
    )
    return front._replace(laws=laws)


def _settled(front: ParetoFront) -> bool:
    """Whether the law that the score picks is nearly as accurate as any on the front."""
    return select(front).mae <= 2 * front.laws[-1].mae
