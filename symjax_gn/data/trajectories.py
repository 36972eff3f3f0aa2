"""Bodies followed in time: from simulations, from a user's arrays, to and from files."""

import dataclasses
import os
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from symjax_gn.data.border import checked
from symjax_gn.data.checks import (
    as_floats,
    check_choice,
    check_count,
    check_finite,
    shown,
)
from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.nodes import Nodes, check_nodes
from symjax_gn.data.quantities import ACCELERATION, QUANTITIES, Quantity
from symjax_gn.data.space import FREE, Space

# A smoothing spline chooses its smoothness from the data, which takes some.
_LEAST_OUTPUTS = 10

# Splines are least certain at their ends.
_MARGIN = 0.05

# A step across this share of the space that bodies fill, where half of all steps are
# shorter than that share, is taken by no body.
_JUMP = 0.9
_STEP = 0.1


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Bodies followed in time, as NumPy arrays in the user's units.

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
        failed: number of simulations left out because they failed.

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


@checked
def trajectory_from_arrays(
    time: ArrayLike,
    position: ArrayLike,
    velocity: ArrayLike | None = None,
    acceleration: ArrayLike | None = None,
    *,
    quantity: Quantity = ACCELERATION,
    space: Space = FREE,
    **properties: ArrayLike | None,
) -> Trajectory:
    """Build a `Trajectory` from measurements, in any consistent units.

    Velocities and accelerations that are missing are derivatives of a smoothing spline
    (`scipy.interpolate.make_smoothing_spline`, smoothness by generalised cross-validation)
    through the next lower derivative that is given. Where the target is derived, the first
    and last 5% of the moments (at least 2) are dropped, for splines are least certain at
    their ends. The field `derived` of the result names what was not given.

    Args:
        time: `[time]`, strictly increasing, at least 10 if anything is differentiated.
        position: `[sim, time, node, dim]`, or `[time, node, dim]` for one recording.
        velocity: the same shape, or None.
        acceleration: the same shape, or None; must be None in first-order motion.
        quantity: `ACCELERATION`, or `VELOCITY` for first-order motion.
        space: free or periodic; in a box positions may be wrapped.
        **properties: scalars of the bodies by name, mass, charge, radius, ...:
            `[node]` or `[sim, node]`; masses must be positive.

    Raises:
        ValueError: shapes disagree, values are not real and finite, times do not increase,
            masses are not positive, or there are fewer than two bodies.

    >>> t = np.linspace(0, 1, 20)
    >>> x = np.stack([np.sin(t), 2 + np.cos(t)], axis=1)[:, :, None]
    >>> trajectory_from_arrays(t, x, mass=[1.0, 2.0]).derived
    ('velocity', 'acceleration')
    """
    times = as_floats("time", time)
    places = as_floats("position", position)
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
        vectors[name] = as_floats(name, value)
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
        column = as_floats(name, value)
        if column.shape not in ((num_nodes,), (num_sims, num_nodes)):
            raise ValueError(
                f"{name} must have shape [{num_nodes}] or [{num_sims}, {num_nodes}], "
                f"got {column.shape}."
            )
        columns[name] = np.broadcast_to(column, (num_sims, num_nodes))
    for name, value in {"position": places, **vectors, **columns}.items():
        check_finite(name, value)
    check_nodes(Nodes(places[:, 0], None, columns), "the given arrays")

    derived = [name for name in _needed(quantity) if name not in vectors]
    if "velocity" in derived and space.box is None and num_times > 1:
        _check_steps(places)
    if "velocity" in derived:
        vectors["velocity"] = _derivative(times, _unwrapped(places, space), 1)
    if "acceleration" in derived and "velocity" in derived:
        vectors["acceleration"] = _derivative(times, _unwrapped(places, space), 2)
    elif "acceleration" in derived:
        vectors["acceleration"] = _derivative(times, vectors["velocity"], 1)
    if quantity.name in derived:
        margin = max(2, int(_MARGIN * num_times))
        times, places = times[margin:-margin], places[:, margin:-margin]
        vectors = {name: value[:, margin:-margin] for name, value in vectors.items()}
    return Trajectory(
        time=times,
        position=places,
        velocity=vectors["velocity"] if quantity.weight else None,
        target=vectors[quantity.name],
        properties=columns,
        quantity=quantity,
        space=space,
        derived=tuple(derived),
    )


def _needed(quantity):
    return ("velocity", "acceleration") if quantity.weight else ("velocity",)


def _check_steps(position):
    """Positions that jump from one face of a box to the other have no derivatives."""
    steps = np.abs(np.diff(position, axis=1))
    width = np.ptp(position, axis=(0, 1, 2))
    jump = (steps > _JUMP * width) & (np.median(steps, axis=(0, 1, 2)) < _STEP * width)
    if np.any(jump):
        sim, time, node, axis = (int(k) for k in np.argwhere(jump)[0])
        raise ValueError(
            f"position jumps by {steps[sim, time, node, axis]:.3g} after index "
            f"{(sim, time, node, axis)}, across all of the space that the bodies fill, as in a "
            "periodic box whose faces are one: give its sides as space=Space(box), in a file "
            "as the array box; or positions that go on beyond the faces."
        )


def _unwrapped(position, space):
    """Positions `[sim, time, ...]` that go on where a body crossed a face of the box."""
    steps = space.displacement(position[:, :-1], position[:, 1:])
    start = position[:, :1]
    return np.concatenate([start, start + np.cumsum(steps, axis=1)], axis=1)


def _derivative(time: np.ndarray, value: np.ndarray, order: int) -> np.ndarray:
    from scipy.interpolate import make_smoothing_spline

    if len(time) < _LEAST_OUTPUTS:
        raise ValueError(
            f"Differentiating needs at least {_LEAST_OUTPUTS} outputs in time, got {len(time)}; "
            "give velocity and acceleration, or more outputs."
        )
    # Splines choose their smoothness in absolute terms: give them numbers near one.
    unit = (time[-1] - time[0]) / (len(time) - 1)
    series = np.moveaxis(value, 1, 0).reshape(len(time), -1)
    spread = np.std(series, axis=0)
    spread[spread == 0] = 1.0
    series = (series - np.mean(series, axis=0)) / spread
    x = (time - time[0]) / unit
    slopes = [make_smoothing_spline(x, y).derivative(order)(x) for y in series.T]
    result = np.stack(slopes, axis=-1) * spread / unit**order
    return np.moveaxis(result.reshape(len(time), *np.delete(value.shape, 1)), 0, 1)


_ARRAYS = ("time", "position", "velocity", "acceleration")
_NOTES = ("box", "derived", "failed", "quantity")


@checked
def load_trajectory(path: str | os.PathLike[str], quantity: str | None = None) -> Trajectory:
    """Read a `.npz` file with the arrays of `trajectory_from_arrays` under those names.

    Besides `time`, `position`, `velocity` and `acceleration` any name is a property of the
    bodies, and `box` `[dim]` the sides of a periodic box. What `save_trajectory` wrote is
    read as it was, `derived` and `failed` with it.

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
    >>> x = np.random.default_rng(0).normal(size=(3, 20, 4, 2))
    >>> np.savez(path, time=np.arange(20.0), position=x, charge=np.ones(4))
    >>> load_trajectory(path).derived
    ('velocity', 'acceleration')
    """
    arrays = _read(path)
    missing = [name for name in _ARRAYS[:2] if name not in arrays]
    if missing:
        raise ValueError(
            f"{path}: missing {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}. "
            f"The names are {', '.join(_ARRAYS)}, of which time and position are required, "
            "and those of properties, such as mass and charge."
        )
    notes = {name: arrays.pop(name) for name in _NOTES if name in arrays}
    kind = quantity or str(notes.get("quantity", ACCELERATION.name))
    check_choice("quantity of a trajectory", kind, QUANTITIES)
    space = Space(tuple(np.ravel(notes["box"]))) if "box" in notes else FREE
    if kind == "velocity":
        arrays.pop("acceleration", None)
    try:
        trajectory = trajectory_from_arrays(quantity=QUANTITIES[kind], space=space, **arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    derived = np.ravel(notes.get("derived", np.zeros(0, str))).tolist()
    if not set(derived) <= set(_ARRAYS):
        raise ValueError(f"{path}: derived must be names of arrays, got {shown(derived)}.")
    (failed,) = np.ravel(notes.get("failed", 0)).tolist()[:1] or (0,)
    check_count(f"{path}: failed", failed, 0)
    return dataclasses.replace(trajectory, derived=(*trajectory.derived, *derived), failed=failed)


def _read(path) -> dict[str, Any]:
    """The arrays of an `.npz` file by name."""
    advice = 'write one with numpy.savez("FILE.npz", time=..., position=..., mass=...)'
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder, not an .npz file; {advice}.")
    with open(path, "rb") as stream:
        if stream.read(2) != b"PK":
            raise ValueError(f"{path} is not an .npz file; {advice}.")
        stream.seek(0)
        try:
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (ValueError, TypeError, AttributeError, EOFError, OSError, BadZipFile) as error:
            raise ValueError(
                f"{path} is no whole .npz file of plain arrays ({error}); {advice}."
            ) from error


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
    )
    if trajectory.velocity is not None:
        arrays["velocity"] = trajectory.velocity
    arrays[trajectory.quantity.name] = trajectory.target
    if trajectory.space.box is not None:
        arrays["box"] = np.asarray(trajectory.space.box)
    arrays |= trajectory.properties
    with in_one_stroke(path) as part, open(part, "wb") as stream:
        np.savez_compressed(stream, **arrays)
