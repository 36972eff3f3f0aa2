"""Trajectories of a `System`, many at once."""

import functools
import math
import os
import warnings
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, DTypeLike, Float, PRNGKeyArray
from tqdm import tqdm

from symjax_gn.data.border import checked
from symjax_gn.data.checks import (
    LARGEST_COUNT,
    as_key,
    check_choice,
    check_count,
    check_number,
)
from symjax_gn.data.memory import check_memory
from symjax_gn.data.nodes import AnyArray, Nodes, take_nodes
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.physics.checking import check_system
from symjax_gn.physics.dynamics import SOLVERS, Path, follow_system
from symjax_gn.physics.forces import PAIRS_AT_ONCE, all_pairs, joined_edges
from symjax_gn.physics.systems import System, sample_starts, sampled_together

# Simulations advanced in lockstep: enough to fill vector units, few enough that the
# working set stays in cache and one close encounter does not hold up all others.
_LOCKSTEP = 256

# Accelerators have far more vector units than CPUs.
_LOCKSTEP_OF_ACCELERATORS = 64 * _LOCKSTEP

# Memory that one group of simulations in lockstep may take for its outputs, which it holds
# several times: positions, velocities and rates, in the solver's units and in the user's.
_OUTPUT_BYTES = 2**28
_COPIES_OF_OUTPUTS = 10


# Every step takes all pairs, some hours of them for this many bodies on one core.
_MOST_BODIES = 100_000


class SimulationError(RuntimeError):
    """Too many simulations failed."""


class SimulationWarning(UserWarning):
    """Some simulations failed and were left out."""


class Paths(NamedTuple):
    """Many sets of bodies followed in time."""

    position: Float[AnyArray, "sim time node dim"]
    velocity: Float[AnyArray, "sim time node dim"] | None
    rate: Float[AnyArray, "sim time node dim"]
    """[sim, time, node, dim], accelerations, or velocities in first-order motion."""
    ok: Bool[AnyArray, " sim"]
    """[sim], whether every step succeeded."""


@checked
def simulate(
    key: PRNGKeyArray,
    system: System,
    *,
    num_nodes: int | None = None,
    dim: int | None = None,
    num_simulations: int = 1000,
    num_outputs: int = 500,
    dt: float | None = None,
    solver: str = "adaptive",
    tolerance: float = 1e-5,
    substeps: int = 4,
    max_steps: int = 4096,
    dtype: DTypeLike = np.float32,
    max_failed: float = 0.1,
    progress: bool = False,
) -> Trajectory:
    """Simulate a system from sampled initial conditions.

    Main arguments:
        key: PRNG key; simulation k samples with `jax.random.fold_in(key, k)`.
        system: the law, built in (`SYSTEMS`) or one's own.
        num_nodes: number of bodies; by default the system's.
        dim: spatial dimension; by default 2, or the first that the system is meant for.
        num_simulations: how many, each from its own initial conditions.
        num_outputs: moments kept of each, the first at time 0.
        dt: time between outputs; by default the system's.

    Other Arguments:
        solver: "adaptive", "symplectic" or "midpoint"; see `solve`.
        tolerance: of the adaptive solver, relative; see `solve`.
        substeps: steps between two outputs of the other solvers.
        max_steps: steps after which the adaptive solver gives up.
        dtype: float32, or float64 where JAX has 64 bits enabled.
        max_failed: largest share of simulations that may fail.
        progress: whether to show a progress bar.

    Returns:
        A `Trajectory` with the simulations that succeeded. In first-order motion it has no
        velocities, which are its target.

    Raises:
        ValueError: an argument is wrong, or the run needs more memory than there is; the
            message says which.
        SimulationError: more than `max_failed` of the simulations failed.

    Warns:
        SimulationWarning: some simulations, but fewer, failed and were left out.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> run = simulate(jax.random.key(0), SYSTEMS["spring"], num_simulations=3, num_outputs=5)
    >>> run.position.shape
    (3, 5, 4, 2)
    """
    check_choice("solver", solver, SOLVERS)
    num_nodes = system.num_nodes if num_nodes is None else num_nodes
    dim = (2 if 2 in system.dims else system.dims[0]) if dim is None else dim
    dt = system.dt if dt is None else dt
    check_count("The number of bodies", num_nodes, 2)
    check_count("num_simulations", num_simulations)
    check_count("num_outputs", num_outputs, 2)
    check_count("dim", dim)
    check_count("substeps", substeps, most=LARGEST_COUNT)
    check_count("max_steps", max_steps, most=LARGEST_COUNT)
    check_number("dt", dt, above=0)
    check_number("tolerance", tolerance, above=0)
    check_number("max_failed", max_failed, least=0)
    key, dtype = as_key(key), _check_dtype(dtype)
    if num_nodes > _MOST_BODIES:
        raise ValueError(
            f"{num_nodes} bodies are too many to simulate, for each is compared with all others; "
            f"the most are {_MOST_BODIES}. Data of more can be learned from, within a cutoff."
        )
    shape = (num_simulations, num_outputs, num_nodes, dim)
    check_outputs(shape, dtype.itemsize, system.order)
    check_system(system, num_nodes, dim, solver)

    starts = _sample(key, num_simulations, system, num_nodes, dim, dtype)
    time = float(dt) * np.arange(num_outputs)
    options: Any = dict(solver=solver, substeps=substeps, max_steps=max_steps)
    together = _lockstep(system, num_nodes)
    run = functools.partial(follow_many, together=together, progress=progress, **options)
    whole = run(follow_system, system, starts, time, order=system.order, tolerance=tolerance)
    return _succeeded(system, time, whole, starts.properties, max_failed)


def follow_many(
    follow: Callable[..., Path],
    law: Hashable,
    starts: Nodes,
    time: Float[np.ndarray, " time"],
    *,
    order: int,
    together: int,
    tolerance: float,
    progress: bool = False,
    **options: Any,
) -> Paths:
    """Follow many sets of bodies, in groups in lockstep, each group on a core.

    Args:
        follow: `fn(law, nodes, time, **options)` for one set, e.g. `follow_system`.
        law: its first argument.
        starts: fields `[sim, node, ...]`, NumPy of one float type, in which all is computed.
        time: output times `[time]`.
        order: 2, or 1 for first-order motion.
        together: the most simulations to be advanced in lockstep.
        tolerance: see `solve`.
        progress: whether to show a progress bar.
        **options: further options of `solve`, which are not traced.

    >>> from symjax_gn.physics.systems import SYSTEMS
    >>> pair = Nodes(np.array([[[0.0], [2.0]]], np.float32), np.zeros((1, 2, 1), np.float32), {})
    >>> options = dict(order=2, together=1, tolerance=1e-5, max_steps=100)
    >>> time = np.linspace(0.0, 1.0, 3)
    >>> follow_many(follow_system, SYSTEMS["spring"], pair, time, **options).position.shape
    (1, 3, 2, 1)
    """
    position: Any = starts.position
    count, *ends = position.shape
    shape, dtype = (count, len(time), *ends), position.dtype
    together = min(together, _together(shape, dtype.itemsize))
    firsts = range(0, count, together)
    # The last group is filled up, so that one shape is compiled.
    whole_groups = take_nodes(starts, np.arange(together * len(firsts)) % count)
    # On the device before threads begin, which do not see a local setting of 64 bits.
    groups = [
        jax.tree.map(jnp.asarray, take_nodes(whole_groups, slice(first, first + together)))
        for first in firsts
    ]
    inputs = jnp.asarray(time, dtype), jnp.asarray(tolerance, dtype)
    static: Any = dict(follow=follow, law=law, options=tuple(options.items()))
    advance = _advance.lower(groups[0], *inputs, **static).compile()
    whole = Paths(
        position=np.empty(shape, dtype),
        velocity=np.empty(shape, dtype) if order == 2 else None,
        rate=np.empty(shape, dtype),
        ok=np.empty(count, bool),
    )

    def run(first, group):
        here = slice(first, min(first + together, count))
        found = advance(group, *inputs)
        for into, part in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
            into[here] = np.asarray(part)[: here.stop - here.start]
        return here.stop - here.start

    # One group keeps one core busy.
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        with tqdm(total=count, desc="simulate", disable=not progress) as bar:
            for done in pool.map(run, firsts, groups):
                bar.update(done)
    finally:
        # After an interruption what has not begun does not begin.
        pool.shutdown(cancel_futures=True)
    return whole


def _together(shape, itemsize):
    """How many simulations' outputs fit into the memory of one group."""
    count, *one = shape
    return max(1, min(_OUTPUT_BYTES // (_COPIES_OF_OUTPUTS * math.prod(one) * itemsize), count))


def check_outputs(shape: tuple[int, ...], itemsize: int, order: int) -> None:
    """Raise a `ValueError` if paths need more memory than there is.

    Args:
        shape: `(sim, time, node, dim)`.
        itemsize: bytes of a number.
        order: of the motion, 2 or 1.

    >>> check_outputs((10, 100, 4, 2), 4, 2)
    """
    count, num_outputs, num_nodes, _ = shape
    size, workers = math.prod(shape[1:]) * itemsize, os.cpu_count() or 1
    copies = _COPIES_OF_OUTPUTS * workers * _together(shape, itemsize)
    check_memory(
        size * ((order + 1) * count + copies),
        f"{count} simulations of {num_nodes} bodies with {num_outputs} outputs",
        "lower num_simulations, num_outputs or num_nodes",
    )


@functools.partial(jax.jit, static_argnames=("follow", "law", "options"))
def _advance(starts, time, tolerance, *, follow, law, options) -> Paths:
    """Simulations in lockstep."""

    def one(nodes):
        path = follow(law, nodes, time, tolerance=tolerance, **dict(options))
        return Paths(path.nodes.position, path.nodes.velocity, path.rate, path.ok)

    return jax.vmap(one)(starts)


def _sample(key, count, system, num_nodes, dim, dtype) -> Nodes:
    """Initial conditions `[sim, node, ...]` of the simulations 0 to `count`, NumPy."""
    size = sampled_together(num_nodes)
    options = dict(system=system, num_nodes=num_nodes, dim=dim)
    parts = [
        jax.tree.map(np.asarray, sample_starts(key, np.arange(first, first + size), **options))
        for first in range(0, count, size)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x)[:count].astype(dtype), *parts)


def _lockstep(system, num_nodes):
    """How many simulations of a system are advanced in lockstep."""
    pairs = num_nodes**2
    if not all_pairs(system, num_nodes):
        pairs = len(joined_edges(system, num_nodes)[0])
    return lockstep(pairs)


def lockstep(pairs: int) -> int:
    """How many simulations of so many pairs are advanced in lockstep.

    >>> lockstep(2**18)
    1
    """
    if jax.default_backend() != "cpu":
        return _LOCKSTEP_OF_ACCELERATORS
    return max(1, min(_LOCKSTEP, PAIRS_AT_ONCE // max(pairs, 1)))


def _succeeded(system, time, whole, properties, max_failed):
    """The simulations that did not fail, as a `Trajectory`."""
    count = len(whole.ok)
    failed = int(np.sum(~whole.ok))
    if failed > max_failed * count or failed == count:
        raise SimulationError(
            f"{failed} of {count} simulations of {system.name!r} failed (close encounters or a "
            f"stiff law), more than max_failed={max_failed}. Raise max_steps or tolerance, or "
            "shorten dt or num_outputs."
        )
    if failed:
        warnings.warn(
            f"{failed} of {count} simulations of {system.name!r} failed and were left out.",
            SimulationWarning,
            stacklevel=3,
        )
        whole, properties = jax.tree.map(lambda x: x[whole.ok], (whole, properties))
    return Trajectory(
        time=time,
        position=whole.position,
        velocity=whole.velocity,
        target=whole.rate,
        properties=properties,
        quantity=system.quantity,
        space=system.space,
        failed=failed,
    )


def _check_dtype(dtype: DTypeLike) -> np.dtype:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}.")
    if found == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            'float64 needs jax.config.update("jax_enable_x64", True) at the start of the program.'
        )
    return found
