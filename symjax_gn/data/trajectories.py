"""Bodies followed in time: from simulations, from a user's arrays, to and from files."""

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from symjax_gn.data.archives import read_arrays
from symjax_gn.data.border import checked
from symjax_gn.data.checks import (
    as_floats,
    check_choice,
    check_count,
    check_finite,
    check_number,
    check_type,
    shown,
)
from symjax_gn.data.consistency import check_not_wrapped, check_rate
from symjax_gn.data.derivatives import differentiate
from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.nodes import Nodes, check_nodes
from symjax_gn.data.quantities import ACCELERATION, QUANTITIES, Quantity
from symjax_gn.data.space import FREE, Space

MISSING = ("moment", "body")
"""What goes where a body was not seen: the whole moment, or the body."""

# Names of arrays in files, and of what else files hold.
_ARRAYS = ("time", "position", "velocity", "acceleration")
_NOTES = ("box", "derived", "failed", "quantity", "missing", "noise")


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Bodies followed in time, as NumPy arrays in the user's units.

    NaN stands where something was not measured, or not told by differentiating.

    Attributes:
        time: `[time]`, strictly increasing.
        position: `[sim, time, node, dim]`, length.
        velocity: `[sim, time, node, dim]`, length / time; None in first-order motion, where
            the velocity is the target.
        target: `[sim, time, node, dim]`, what is to be predicted: accelerations, or in
            first-order motion velocities.
        properties: scalars `[sim, node]` by name: mass, charge, ...
        quantity: what the target is.
        space: free or periodic.
        derived: the names of fields that were not given but differentiated.
        failed: number of simulations that failed: left out by `simulate`, NaN from where they
            failed on by `SymbolicModel.simulate`.
        missing: "moment" if bodies that were not seen still act on others, so that such
            moments give no graphs; "body" if they were not there.
        noise: standard deviation of noise in what was differentiated over its spread, too large
            where outputs are far apart; None if nothing was.

    >>> x = np.zeros((1, 3, 2, 1))
    >>> Trajectory(np.arange(3.0), x, x, x, {"mass": np.ones((1, 2))}).quantity.name
    'acceleration'
    """

    time: Float[np.ndarray, " time"]
    position: Float[np.ndarray, "sim time node dim"]
    velocity: Float[np.ndarray, "sim time node dim"] | None
    target: Float[np.ndarray, "sim time node dim"]
    properties: dict[str, Float[np.ndarray, "sim node"]]
    quantity: Quantity = ACCELERATION
    space: Space = FREE
    derived: tuple[str, ...] = ()
    failed: int = 0
    missing: str = "moment"
    noise: float | None = None

    def at(self, moment: int) -> Nodes:
        """The bodies at one moment, fields `[sim, node, ...]`: a start for another simulation.

        Args:
            moment: index along the time axis; negative ones count from the end.

        >>> x = np.zeros((1, 3, 2, 1))
        >>> Trajectory(np.arange(3.0), x, x, x, {}).at(-1).position.shape
        (1, 2, 1)
        """
        velocity = None if self.velocity is None else self.velocity[:, moment]
        return Nodes(self.position[:, moment], velocity, dict(self.properties))


@checked
def trajectory_from_arrays(
    time: ArrayLike,
    position: ArrayLike,
    velocity: ArrayLike | None = None,
    acceleration: ArrayLike | None = None,
    *,
    quantity: Quantity = ACCELERATION,
    space: Space = FREE,
    missing: str = "moment",
    **properties: ArrayLike | None,
) -> Trajectory:
    """Build a `Trajectory` from measurements, in any consistent units.

    Velocities and accelerations that are not given are derivatives of quintic smoothing
    splines (smoothness by generalised cross-validation) through the next lower derivative that
    is given. The first and last 5% of the moments (at least 4) have none then, nor have moments
    beside gaps that are long for the motion. The fields `derived` and `noise` of the result
    say what was not given, and how much noise there is in what was differentiated.

    NaN, or what a masked array masks, was not measured: a body whose position is NaN was not
    seen. Unknown accelerations are left out one by one; moments at which a velocity is
    unknown are left out as a whole, since others may feel it.

    Args:
        time: `[time]`, strictly increasing, at least 10 if anything is differentiated.
        position: `[sim, time, node, dim]`, or `[time, node, dim]` for one recording.
        velocity: the same shape, or None.
        acceleration: the same shape, or None; must be None in first-order motion.
        quantity: `ACCELERATION`, or `VELOCITY` for first-order motion.
        space: free or periodic; in a box positions may be wrapped.
        missing: what a body's position of NaN means. "moment": it was not seen but acts on
            others, so that the moment is left out; "body": it was not there, and the others
            are kept.
        **properties: scalars of the bodies by name, mass, charge, radius, ...:
            `[node]` or `[sim, node]`; masses must be positive.

    Raises:
        ValueError: shapes disagree, values are not real or are infinite, times do not
            increase, masses are not positive, there are fewer than two bodies, positions jump
            as if wrapped into a box that is not given, velocities or accelerations are clearly
            in other units than positions, or recordings are too coarse to differentiate.

    >>> t = np.linspace(0, 1, 20)
    >>> x = np.stack([np.sin(t), 2 + np.cos(t)], axis=1)[:, :, None]
    >>> trajectory_from_arrays(t, x, mass=[1.0, 2.0]).derived
    ('velocity', 'acceleration')
    """
    check_type("space", space, Space, "A periodic box is Space(sides).")
    check_type("quantity", quantity, Quantity, "See ACCELERATION and VELOCITY.")
    check_choice("meaning of missing positions", missing, MISSING)
    times = as_floats("time", time)
    places = as_floats("position", position, missing=True)
    if places.ndim == 3:
        places = places[None]
    if places.ndim != 4 or places.shape[3] not in (1, 2, 3):
        raise ValueError(
            "position must have shape [sim, time, node, dim] with dim at most 3, "
            f"got {places.shape}."
        )
    num_sims, num_times, num_nodes, dim = places.shape
    if num_nodes < 2:
        raise ValueError(f"Pairs need at least 2 bodies, position holds {num_nodes}.")
    if times.shape != (num_times,):
        raise ValueError(f"time must have shape [{num_times}] as position says, got {times.shape}.")
    if not np.all(np.isfinite(times)) or not np.all(np.diff(times) > 0):
        raise ValueError("time must be finite and strictly increasing.")
    if places.size == 0:
        raise ValueError(f"The recordings are empty: position has the shape {places.shape}.")
    if space.box is not None and len(space.box) != dim:
        raise ValueError(f"The box {space.box} has {len(space.box)} sides, positions {dim} axes.")
    check_choice("quantity of a trajectory", quantity.name, QUANTITIES)
    if quantity.weight is None and acceleration is not None:
        raise ValueError(
            "In first-order motion velocities are the target; leave accelerations out."
        )

    vectors: dict[str, Any] = {}
    for name, value in (("velocity", velocity), ("acceleration", acceleration)):
        if value is None:
            continue
        vectors[name] = as_floats(name, value, missing=True)
        vectors[name] = vectors[name][None] if vectors[name].ndim == 3 else vectors[name]
        if vectors[name].shape != places.shape:
            raise ValueError(
                f"{name} must have the shape of position, {places.shape}, "
                f"got {vectors[name].shape}."
            )
    columns = {}
    for name, value in properties.items():
        if value is None:
            continue
        if name in _NOTES:
            raise ValueError(
                f"No property can be called {name!r}: files have an array of this name."
            )
        column = as_floats(name, value)
        check_finite(name, column)
        if column.shape not in ((num_nodes,), (num_sims, num_nodes)):
            raise ValueError(
                f"{name} must have shape [{num_nodes}] or [{num_sims}, {num_nodes}], "
                f"got {column.shape}."
            )
        columns[name] = np.broadcast_to(column, (num_sims, num_nodes))
    for name, value in {"position": places, **vectors}.items():
        check_finite(name, value, nan=True)
        # A body that is seen along some axes only is not seen.
        value[np.any(np.isnan(value), axis=-1)] = np.nan
        if np.all(np.isnan(value)):
            raise ValueError(f"{name} is NaN everywhere: nothing was measured.")
    check_nodes(Nodes(np.zeros_like(places[:, 0]), None, columns), "the given arrays")
    if space.box is None:
        check_not_wrapped(places)

    derived = tuple(name for name in _needed(quantity) if name not in vectors)
    vectors, noise = _differentiated(times, _unwrapped(places, space), vectors, derived)
    if quantity.name in derived:
        # Recordings begin and end with a moment of which something is known.
        told = np.flatnonzero(np.any(np.isfinite(vectors[quantity.name]), axis=(0, 2, 3)))
        kept = slice(told[0], told[-1] + 1)
        times, places = times[kept], places[:, kept]
        vectors = {name: value[:, kept] for name, value in vectors.items()}
    return Trajectory(
        time=times,
        position=places,
        velocity=vectors["velocity"] if quantity.weight else None,
        target=vectors[quantity.name],
        properties=columns,
        quantity=quantity,
        space=space,
        derived=derived,
        missing=missing,
        noise=noise,
    )


def _needed(quantity):
    return ("velocity", "acceleration") if quantity.weight else ("velocity",)


def _differentiated(time, path, vectors, derived):
    """Given velocities and accelerations, checked, with those derived; and the noise."""
    noise = None
    if "velocity" in derived:
        found = differentiate(time, path, len(derived))
        rates = dict(velocity=found.first, acceleration=found.second)
        vectors = {name: rates[name] for name in derived} | vectors
        noise = found.noise
    else:
        check_rate(("velocity", "position"), time, path, vectors["velocity"])
        if "acceleration" in derived:
            found = differentiate(time, vectors["velocity"], 1)
            vectors, noise = vectors | {"acceleration": found.first}, found.noise
    if "acceleration" in vectors and "acceleration" not in derived:
        names = ("acceleration", "velocity")
        check_rate(names, time, vectors["velocity"], vectors["acceleration"])
    return vectors, noise


def _unwrapped(position, space):
    """Positions `[sim, time, ...]` that go on where a body crossed a face of the box."""
    if space.box is None:
        return position
    # Steps are taken from where a body was last seen, or will be seen first.
    unseen = np.isnan(position)
    moments = np.arange(position.shape[1])[:, None, None]
    first = np.argmin(unseen, axis=1)[:, None]
    last = np.maximum.accumulate(np.where(unseen, first, moments), axis=1)
    held = np.take_along_axis(position, last, axis=1)
    steps = np.nan_to_num(space.displacement(held[:, :-1], held[:, 1:]))
    start = held[:, :1]
    path = np.concatenate([start, start + np.cumsum(steps, axis=1)], axis=1)
    return np.where(unseen, np.nan, path)


class Known(NamedTuple):
    """What of a trajectory makes graphs."""

    moments: Bool[np.ndarray, "sim time"]
    """Where all bodies that are there are known, and the target of one of them."""
    bodies: Bool[np.ndarray, "sim time node"]
    """Which bodies are there."""
    targets: Bool[np.ndarray, "sim time node"]


def known(trajectory: Trajectory) -> Known:
    """Which moments, bodies and targets of a trajectory are known; see `Trajectory.missing`.

    >>> x = np.random.default_rng(0).normal(size=(1, 20, 3, 2))
    >>> x[0, 4, 1] = np.nan
    >>> one = trajectory_from_arrays(np.arange(20.0), x, x, x)
    >>> int(known(one).moments.sum())
    19
    >>> int(known(dataclasses.replace(one, missing="body")).moments.sum())
    20
    """
    seen, targets = (
        np.all(np.isfinite(x), axis=-1) for x in (trajectory.position, trajectory.target)
    )
    ready = seen
    if trajectory.velocity is not None:
        ready = seen & np.all(np.isfinite(trajectory.velocity), axis=-1)
    bodies = seen if trajectory.missing == "body" else np.ones_like(seen)
    targets = targets & ready
    moments = np.all(ready | ~bodies, axis=-1) & (np.sum(bodies, axis=-1) >= 2)
    return Known(moments & np.any(targets, axis=-1), bodies, targets)


def remarks(trajectory: Trajectory) -> list[str]:
    """What a user should know of a trajectory: what was differentiated or left out.

    >>> t = np.linspace(0, 6, 100)
    >>> x = np.stack([np.sin(t), 2 + np.cos(t)], axis=1)[:, :, None]
    >>> remarks(trajectory_from_arrays(t, x, np.gradient(x, t, axis=0)))[0].split(";")[0]
    'not in the data, so differentiated: acceleration'
    """
    found = []
    if trajectory.derived:
        line = f"not in the data, so differentiated: {', '.join(trajectory.derived)}"
        if trajectory.noise is not None:
            name = "positions" if "velocity" in trajectory.derived else "velocities"
            line += f"; noise of {name} about {100 * trajectory.noise:.1g}% of their spread"
        found.append(line)
    moments, bodies, targets = known(trajectory)
    hidden, unknown = ~moments, bodies[moments] & ~targets[moments]
    if np.any(hidden):
        found.append(
            f"left out: {np.sum(hidden)} of {hidden.size} moments, at which some body is not seen "
            "or nothing is known to be predicted"
        )
    if np.any(unknown):
        found.append(
            f"not known, so not fitted: the {trajectory.quantity.name} of {np.sum(unknown)} of "
            f"{np.sum(bodies[moments])} bodies at the other moments"
        )
    absent = ~bodies[moments]
    if np.any(absent):
        found.append(f"not there: {np.sum(absent)} of {absent.size} bodies at the moments used")
    return found


@checked
def load_trajectory(path: str | os.PathLike[str], quantity: str | None = None) -> Trajectory:
    """Read a `.npz` file with the arrays of `trajectory_from_arrays` under those names.

    Besides `time`, `position`, `velocity` and `acceleration` any name is a property of the
    bodies, `box` `[dim]` the sides of a periodic box, and `missing` "moment" or "body". What
    `save_trajectory` wrote is read as it was.

    Args:
        path: the file.
        quantity: "acceleration", or "velocity" for first-order motion; None takes what the
            file says, or accelerations.

    Raises:
        ValueError: the file is not an `.npz`, lacks `time` or `position`, or holds wrong
            data.
        FileNotFoundError: there is no such file.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
    >>> time = np.linspace(0, 2, 50)
    >>> x = np.sin(np.arange(8).reshape(4, 2) + time[:, None, None])
    >>> np.savez(path, time=time, position=x, charge=np.ones(4))
    >>> load_trajectory(path).derived
    ('velocity', 'acceleration')
    """
    arrays = read_arrays(path)
    absent = [name for name in _ARRAYS[:2] if name not in arrays]
    if absent:
        raise ValueError(
            f"{path}: missing {', '.join(absent)}; it has {', '.join(arrays) or 'nothing'}. "
            f"The names are {', '.join(_ARRAYS)}, of which time and position are required, "
            "and those of properties, such as mass and charge."
        )
    notes = {name: arrays.pop(name) for name in _NOTES if name in arrays}
    kind = quantity or str(notes.get("quantity", ACCELERATION.name))
    check_choice("quantity of a trajectory", kind, QUANTITIES)
    space = Space(tuple(np.ravel(notes["box"]))) if "box" in notes else FREE
    missing = str(notes.get("missing", MISSING[0]))
    if "space" in arrays:
        raise ValueError(
            f"{path}: no property can be called 'space'; the sides of a periodic box are an array "
            "box."
        )
    if kind == "velocity":
        arrays.pop("acceleration", None)
    try:
        trajectory = trajectory_from_arrays(
            quantity=QUANTITIES[kind], space=space, missing=missing, **arrays
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    derived = np.ravel(notes.get("derived", np.zeros(0, str))).tolist()
    if not set(derived) <= set(_ARRAYS):
        raise ValueError(f"{path}: derived must be names of arrays, got {shown(derived)}.")
    (failed,) = np.ravel(notes.get("failed", 0)).tolist()[:1] or (0,)
    check_count(f"{path}: failed", failed, 0)
    noise = trajectory.noise
    if "noise" in notes:
        noise = notes["noise"].item() if notes["noise"].size == 1 else notes["noise"]
        check_number(f"{path}: noise", noise, least=0)
    return dataclasses.replace(
        trajectory, derived=(*trajectory.derived, *derived), failed=failed, noise=noise
    )


@checked
def save_trajectory(path: str | os.PathLike[str], trajectory: Trajectory) -> None:
    """Write a `Trajectory` as an `.npz` file, under just this name, for `load_trajectory`.

    In one stroke: an interruption leaves the old file or the new one.

    Raises:
        ValueError: it is no trajectory.

    >>> import tempfile
    >>> x = np.random.default_rng(0).normal(size=(3, 5, 4, 2))
    >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
    >>> save_trajectory(path, trajectory_from_arrays(np.arange(5.0), x, x, x))
    >>> load_trajectory(path).position.shape
    (3, 5, 4, 2)
    """
    arrays: dict[str, Any] = dict(
        time=trajectory.time,
        position=trajectory.position,
        derived=np.asarray(trajectory.derived, str),
        failed=np.asarray(trajectory.failed),
        quantity=np.asarray(trajectory.quantity.name),
        missing=np.asarray(trajectory.missing),
    )
    if trajectory.noise is not None:
        arrays["noise"] = np.asarray(trajectory.noise)
    if trajectory.velocity is not None:
        arrays["velocity"] = trajectory.velocity
    arrays[trajectory.quantity.name] = trajectory.target
    if trajectory.space.box is not None:
        arrays["box"] = np.asarray(trajectory.space.box)
    arrays |= trajectory.properties
    with in_one_stroke(path) as part, open(part, "wb") as stream:
        np.savez_compressed(stream, **arrays)
