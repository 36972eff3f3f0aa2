"""Bodies moved by a law that was found."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from symjax_gn.data.checks import as_floats, check_count, check_number
from symjax_gn.data.features import TIME
from symjax_gn.data.graphs import check_radius, complete_edges
from symjax_gn.data.inputs import Bodies, as_bodies, as_edges
from symjax_gn.data.nodes import AnyArray, Nodes, check_nodes, leading_shape
from symjax_gn.data.quantities import QUANTITIES
from symjax_gn.data.space import safe_norm
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.physics.dynamics import Path, follow
from symjax_gn.physics.forces import edge_ends, sum_at
from symjax_gn.physics.simulation import (
    Paths,
    SimulationError,
    SimulationWarning,
    check_outputs,
    follow_many,
    lockstep,
)

if TYPE_CHECKING:
    from symjax_gn.laws.symbolic import SymbolicModel


class Motion(NamedTuple):
    """A law of motion, and who acts on whom; hashable."""

    law: "SymbolicModel"
    order: int
    """2 for accelerations, 1 for velocities."""
    senders: tuple[int, ...]
    receivers: tuple[int, ...]
    cutoff: float | None
    """Distance beyond which there is no message; None: there is none."""


def simulate_law(
    law: "SymbolicModel",
    start: Bodies,
    time: ArrayLike,
    *,
    senders: Int[AnyArray, " edge"] | None = None,
    receivers: Int[AnyArray, " edge"] | None = None,
    cutoff: float | None = None,
    tolerance: float = 1e-7,
    max_steps: int = 100_000,
    progress: bool = False,
) -> Trajectory:
    """See `SymbolicModel.simulate`."""
    order = _order(law)
    times = _as_times(time)
    check_number("tolerance", tolerance, above=0)
    check_count("max_steps", max_steps)
    starts = _as_starts(law, start, order, times[0])
    num_nodes = starts.position.shape[1]
    ends = _joined(law, num_nodes, senders, receivers, cutoff)
    motion = Motion(law, order, ends[0], ends[1], cutoff)
    position: Any = starts.position
    shape = (len(position), len(times), *position.shape[1:])
    check_outputs(shape, position.dtype.itemsize, order)
    # Products of masses in kg overflow float32.
    with jax.enable_x64(True):
        # Differences of times are more exact without an offset.
        paths = follow_many(
            follow_law,
            motion,
            starts,
            times - times[0],
            order=order,
            together=lockstep(len(motion.senders)),
            tolerance=float(tolerance),
            progress=progress,
            max_steps=max_steps,
        )
    properties = {name: x for name, x in starts.properties.items() if name != TIME}
    return _as_trajectory(law, times, paths, properties)


def follow_law(
    motion: Motion, nodes: Nodes, time: Float[AnyArray, " time"], **options: Any
) -> Path:
    """Follow one set of bodies by a law; composes under `jit` and `vmap`, see `follow`."""
    space = motion.law.space
    return follow(law_rate(motion), nodes, time, order=motion.order, space=space, **options)


def law_rate(motion: Motion) -> Any:
    """`fn(nodes) -> [node, dim]`: what a law says of bodies, accelerations or velocities."""
    law, cutoff = motion.law, motion.cutoff
    edges = np.asarray(motion.senders, np.int32), np.asarray(motion.receivers, np.int32)

    def rate(nodes: Nodes) -> Float[Array, "node dim"]:
        params = law.init()
        receiver, sender = edge_ends(nodes, edges)
        messages = law.apply(params, receiver, sender, method="message")[0]
        near = jnp.ones(len(edges[0]), bool)
        if cutoff is not None:
            near = safe_norm(law.space.displacement(receiver.position, sender.position)) <= cutoff
        count = nodes.position.shape[0]
        sums = sum_at(edges[1], jnp.where(near[:, None], messages, 0.0), count)
        sent = sum_at(edges[1], near[:, None].astype(sums.dtype), count)[:, 0]
        return law.apply(params, nodes, sums, sent, method="update")

    return rate


def _order(law) -> int:
    """Of motion; an error for laws of something else."""
    quantity = law.quantity
    if quantity.name not in QUANTITIES or not quantity.vector or law.level != "node":
        raise ValueError(
            f"This law gives {quantity.name}, a quantity of {law.level}s, which is no motion: only "
            f"laws of {' or '.join(QUANTITIES)} can be simulated."
        )
    return 1 if quantity.weight is None else 2


def _as_times(time) -> np.ndarray:
    times = as_floats("time", time)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(
            f"time must be two or more output times [time], got an array of shape {times.shape}."
        )
    if not np.all(np.isfinite(times)) or not np.all(np.diff(times) > 0):
        raise ValueError("time must be finite and rise from each output to the next.")
    return times


def _as_starts(law, start, order, moment) -> Nodes:
    """Bodies `[sim, node, ...]` with all properties that were given, NumPy; the moment is said."""
    if isinstance(start, Trajectory):
        raise ValueError("start must be one moment; for the first one use trajectory.at(0).")
    if TIME in law.needs.fields:
        moment = np.asarray(moment, np.float64)
        if isinstance(start, Nodes):
            moments = np.full(leading_shape(start), moment)
            start = start._replace(properties=start.properties | {TIME: moments})
        else:
            start = {**start, TIME: moment}
    given = start.properties if isinstance(start, Nodes) else start
    fields = {name: [] for name in given if name not in ("position", "velocity")}
    fields |= law.needs.fields | (dict(velocity=[]) if order == 2 else {})
    nodes = as_bodies(start, law.needs._replace(fields=fields))
    position: Any = nodes.position
    if position.ndim not in (2, 3):
        raise ValueError(
            f"position must have shape [node, dim] or [sim, node, dim], got {position.shape}."
        )
    if 0 in position.shape:
        raise ValueError(f"There are no bodies to move: position has shape {position.shape}.")
    check_nodes(nodes, "the start")
    return jax.tree.map(lambda x: x[None], nodes) if position.ndim == 2 else nodes


def _joined(law, num_nodes, senders, receivers, cutoff) -> tuple[tuple[int, ...], ...]:
    """Senders and receivers as tuples."""
    given = senders is not None or receivers is not None
    if given and (cutoff is not None or senders is None or receivers is None):
        raise ValueError("Give both senders and receivers, or a cutoff, or none of them.")
    if cutoff is not None:
        check_radius(cutoff, law.space)
    if given:
        ends = as_edges(senders, receivers, num_nodes)
    else:
        ends = complete_edges(num_nodes) if num_nodes > 1 else ([], [])
    return tuple(tuple(int(k) for k in end) for end in ends)


def _as_trajectory(law, times, paths: Paths, properties) -> Trajectory:
    """What was reached; an error if no simulation succeeded."""
    failed = np.flatnonzero(~paths.ok)
    count = f"{len(failed)} of {len(paths.ok)} simulations failed"
    advice = "bodies that meet, or a stiff law: raise max_steps or tolerance, or end earlier"
    if len(failed) == len(paths.ok):
        raise SimulationError(f"{count} ({advice}).")
    if len(failed):
        numbers = ", ".join(map(str, failed[:10])) + (", ..." if len(failed) > 10 else "")
        warnings.warn(
            f"{count} ({advice}); what they did not reach is NaN. Their numbers: {numbers}.",
            SimulationWarning,
            stacklevel=4,
        )
    reached: Any = jax.tree.map(lambda x: np.where(np.isfinite(x), x, np.nan), paths[:3])
    position, velocity, rate = reached
    return Trajectory(
        time=times,
        position=position,
        velocity=velocity,
        target=rate,
        properties=properties,
        quantity=law.quantity,
        space=law.space,
        failed=len(failed),
    )
