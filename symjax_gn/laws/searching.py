"""Search for the laws of several targets: engines side by side, switches, enough tries."""

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import sympy

from symjax_gn.data.checks import as_floats, check_count, check_finite
from symjax_gn.laws.engines import Regressor, check_problem
from symjax_gn.laws.evolution import stop_evolution
from symjax_gn.laws.expressions import evaluate
from symjax_gn.laws.fronts import Column, Columns, ParetoFront, make_front, select
from symjax_gn.laws.refinement import FITS, refine
from symjax_gn.laws.switches import find_switch, step

# Engines that search for a target before it is asked whether more are needed.
_AT_ONCE = 2

# A law is picked for sure when it errs at most so many times as much as the best one found.
_SETTLED = 2.0

# Smallest relative fall of the error that earns a more complex law its place.
_GAIN = 0.1

# Share of the samples on each side of a switch that say little of the law around it:
# a smooth network rounds the corner off.
_BLURRED = 0.05

# How long a worker process waits for its next search: training and fits come between, and
# to start Julia anew takes a minute.
_IDLE_SECONDS = 3600

# How often a worker process looks whether the one that started it is still there.
_WATCH_SECONDS = 1.0

# A name that no feature has.
_STEP = "_step"


class Problem(NamedTuple):
    """One target of a search."""

    features: Columns
    """Columns `[sample]` by name."""
    target: Column
    """[sample]."""
    weight: Column
    """[sample], factors of the absolute errors by which laws are rated."""
    substitutions: Mapping[sympy.Symbol, sympy.Expr] = {}
    """Features that stand for expressions, which are put in their place."""
    proposals: Sequence[sympy.Expr] = ()
    """Laws to be refined beside those that engines find."""


def search(
    regressors: Sequence[Regressor],
    problems: Sequence[Problem],
    processes: int | None = None,
    budget: int = FITS,
) -> list[ParetoFront]:
    """One refined front per problem, from as many engines as it takes.

    Two engines search at first; two more follow as long as the law that the score picks
    errs more than twice as much as the most accurate one found. What engines find for a
    problem is refined together. Where a law leaves a step behind, the step becomes a feature
    of further searches, and the samples next to it are left out.

    Args:
        regressors: engines that share their findings, e.g. one with several seeds.
        problems: the targets.
        processes: searches that run side by side; None takes one per core.
        budget: largest number of fits in a refinement.

    Raises:
        ValueError: there is no engine, or the columns of a problem are unusable.
        RegressionError: a search ended without a usable expression.

    >>> from symjax_gn.laws.engines import OperonRegressor
    >>> r = np.linspace(1.0, 2.0, 50)
    >>> engines = [OperonRegressor(evaluations=2000, max_length=5)]
    >>> (front,) = search(engines, [Problem({"r": r}, 3 * r, np.ones(50))])
    >>> front.laws[-1].expression
    3*r
    """
    if not regressors:
        raise ValueError("A search needs at least one regressor.")
    if processes is not None:
        check_count("processes", processes)
    problems = list(problems)
    for problem in problems:
        _check(problem)
    found: list[list[sympy.Expr]] = [[] for _ in problems]
    seconds = [0.0] * len(problems)
    fronts: dict[int, ParetoFront] = {}

    def run(engines, which):
        jobs = [(engine, problems[k]) for k in which for engine in engines]
        with side_by_side(jobs, processes or os.cpu_count() or 1) as results:
            for k in which:
                raw = [next(results) for _ in engines]
                laws, spent = _refined(raw, problems[k], budget)
                found[k] += laws
                seconds[k] += spent
                features, target, weight, *_ = problems[k]
                fronts[k] = make_front(
                    found[k], features, target, weight=weight, gain=_GAIN, seconds=seconds[k]
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


def _check(problem):
    check_problem(problem.features, problem.target)
    weight = as_floats("The weight", problem.weight)
    if weight.shape != np.shape(problem.target):
        raise ValueError(
            f"The weight has shape {weight.shape}, the target {np.shape(problem.target)}; "
            "both must be [sample]."
        )
    check_finite("The weight", weight)
    if np.any(weight < 0) or not np.any(weight > 0):
        raise ValueError("Weights must be at least 0, and some above it.")
    if _STEP in problem.features:
        raise ValueError(f"A feature cannot be called {_STEP!r}: it stands for a switch.")


def _refined(
    fronts: Sequence[ParetoFront], problem: Problem, budget: int
) -> tuple[list[Any], float]:
    """What several engines found, refined together; and the time of it all."""
    features, target, weight, substitutions, proposals = problem
    laws = [*proposals, *(law.expression for front in fronts for law in front.laws)]
    # The engines' own errors have no weight, and so has the front to start from.
    merged = make_front(laws, features, target, seconds=sum(front.seconds for front in fronts))
    front = refine(merged, features, target, weight=weight, gain=_GAIN, budget=budget)
    return [law.expression.xreplace(dict(substitutions)) for law in front.laws], front.seconds


def with_switch(problem: Problem, front: ParetoFront) -> Problem | None:
    """The problem with a step as a feature, if laws of the front leave one behind.

    >>> r = np.linspace(0.0, 1.0, 1000)
    >>> problem = Problem({"r": r}, np.where(r > 0.5, 1.0, 0.0), np.ones(1000))
    >>> front = make_front([sympy.Integer(1)], problem.features, problem.target)
    >>> sorted(with_switch(problem, front).features)
    ['_step', 'r']
    """
    features, target, weight, substitutions, proposals = problem
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
    more = dict(features) | {_STEP: np.where(column > switch.threshold, 1.0, 0.0)}
    return Problem(
        {name: values[keep] for name, values in more.items()},
        target[keep],
        weight[keep],
        dict(substitutions) | {sympy.Symbol(_STEP): step(switch)},
        proposals,
    )


def _settled(front: ParetoFront) -> bool:
    """Whether the law that the score picks is nearly as accurate as any on the front."""
    return select(front).mae <= _SETTLED * front.laws[-1].mae


@contextmanager
def side_by_side(
    jobs: Sequence[tuple[Regressor, Problem]], limit: int
) -> Iterator[Iterator[ParetoFront]]:
    """The fronts of all jobs, in their order, while further ones are still being searched.

    Args:
        jobs: engines, each with what it searches for.
        limit: searches that run side by side.

    >>> from symjax_gn.laws.engines import OperonRegressor
    >>> r = np.linspace(1.0, 2.0, 50)
    >>> job = OperonRegressor(evaluations=2000, max_length=5), Problem({"r": r}, 3 * r, np.ones(50))
    >>> with side_by_side([job], 1) as fronts:
    ...     round(next(fronts).laws[-1].mae, 3)
    0.0
    """
    count = max(1, min(len(jobs), limit))
    if count == 1 and not any(_in_own_process(engine) for engine, _ in jobs):
        yield (_fit(*job) for job in jobs)
        return
    threads = ThreadPoolExecutor(count, thread_name_prefix="search")
    futures: list[Any] = []
    try:
        for engine, problem in jobs:
            pool = threads if _in_threads(engine) else _processes(count, limit)
            futures.append(pool.submit(_fit, engine, problem))
        yield (future.result() for future in futures)
    except (KeyboardInterrupt, SystemExit):
        # Nobody waits for what still runs.
        shutdown_workers()
        raise
    finally:
        for future in futures:
            future.cancel()
        threads.shutdown(wait=True)


def _fit(engine: Regressor, problem: Problem) -> ParetoFront:
    return engine.fit(problem.features, problem.target)


def _in_threads(engine: Regressor) -> bool:
    return getattr(engine, "in_threads", False)


def _in_own_process(engine: Regressor) -> bool:
    return getattr(engine, "own_process", False)


_lock = threading.Lock()
_pool: Any = None
_workers = 0


def _processes(count: int, limit: int) -> Any:
    """The pool of at least `count` worker processes, started when the first is needed.

    Those that are there stay, up to `limit`: what an engine has started in them goes on.
    """
    global _pool, _workers
    from joblib.externals.loky import get_reusable_executor

    with _lock:
        _workers = min(max(count, _workers), limit)
        _pool = get_reusable_executor(
            max_workers=_workers, timeout=_IDLE_SECONDS, initializer=_live_with_parent
        )
        return _pool


def _live_with_parent() -> None:
    """Let a worker process live as long as the one that started it, whatever ends that."""
    from joblib.externals.loky import process_executor

    # A worker that has grown would end after its search, and Julia's memory grows.
    process_executor._MAX_MEMORY_LEAK_SIZE = math.inf  # pyright: ignore[reportAttributeAccessIssue]
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def warm_up(regressors: Sequence[Regressor], processes: int | None = None) -> None:
    """Start what a search needs, so that it need not wait; returns at once.

    Engines that run in threads need nothing; for others worker processes are started, which
    import the engine's module. Call it while something else runs, e.g. training.

    Args:
        regressors: as in `search`.
        processes: as in `search`.

    >>> from symjax_gn.laws.engines import OperonRegressor
    >>> warm_up([OperonRegressor()])
    """
    others = [engine for engine in regressors if not _in_threads(engine)]
    if others:
        count = processes or os.cpu_count() or 1
        for _ in range(count):
            # To send the engine is to import its module there.
            _processes(count, count).submit(type, others[0])


def shutdown_workers() -> None:
    """End all searches that run, in threads and in worker processes; for Ctrl-C and SIGTERM.

    >>> shutdown_workers()
    """
    global _pool, _workers
    stop_evolution()
    with _lock:
        pool, _pool, _workers = _pool, None, 0
    if pool is not None:
        pool.shutdown(wait=False, kill_workers=True)
