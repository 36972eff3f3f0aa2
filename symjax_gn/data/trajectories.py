"""Bodies followed in time: from a user's arrays, to and from files."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.interpolate import make_smoothing_spline

from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.nodes import Body, check_body


@dataclass(frozen=True)
class Trajectory:
    """Bodies followed in time, as NumPy arrays in the user's units.

    Attributes:
        time: `[time]`, strictly increasing.
        position: `[sim, time, node, dim]`, length.
        velocity: `[sim, time, node, dim]`, length / time.
        acceleration: `[sim, time, node, dim]`, length / time^2.
        mass: `[sim, node]`, mass.
        charge: `[sim, node]`, charge.
        derived: the names of fields that were not given but differentiated or assumed.
        failed: number of simulations left out because they failed.
    """

    time: Float[np.ndarray, " time"]
    position: Float[np.ndarray, "sim time node dim"]
    velocity: Float[np.ndarray, "sim time node dim"]
    acceleration: Float[np.ndarray, "sim time node dim"]
    mass: Float[np.ndarray, "sim node"]
    charge: Float[np.ndarray, "sim node"]
    derived: tuple[str, ...] = ()
    failed: int = 0


def trajectory_from_arrays(
    time: ArrayLike,
    position: ArrayLike,
    velocity: ArrayLike | None = None,
    acceleration: ArrayLike | None = None,
    mass: ArrayLike | None = None,
    charge: ArrayLike | None = None,
) -> Trajectory:
    """Build a `Trajectory` from measurements, in any consistent units.

    Missing velocities and accelerations are derivatives of a smoothing spline
    (`scipy.interpolate.make_smoothing_spline`, smoothness by generalised
    cross-validation) through the next lower derivative that is given; where
    accelerations are derived, the first and last 5% of the outputs (at least 2) are
    dropped, for splines are least certain at their ends. Missing masses are 1, missing
    charges 0. The field `derived` of the result names all that was not given.

    Args:
        time: `[time]`, strictly increasing, at least 10 if anything is differentiated.
        position: `[sim, time, node, dim]`.
        velocity: `[sim, time, node, dim]` or None.
        acceleration: `[sim, time, node, dim]` or None.
        mass: `[node]` or `[sim, node]`, positive, or None.
        charge: `[node]` or `[sim, node]`, or None.

    Raises:
        ValueError: shapes disagree, values are not finite, times do not increase,
            masses are not positive, or there are fewer than two bodies.
    """
    times = np.asarray(time, np.float64)
    places = np.asarray(position, np.float64)
    if places.ndim != 4 or places.shape[3] not in (1, 2, 3):
        raise ValueError(
            "position must have shape [sim, time, node, dim] with dim at most 3, "
            f"got {places.shape}."
        )
    num_sims, num_times, num_nodes, _ = places.shape
    if num_nodes < 2:
        raise ValueError(f"Pairs need at least 2 bodies, position holds {num_nodes}.")
    if times.shape != (num_times,):
        raise ValueError(f"time must have shape [{num_times}] as position says, got {times.shape}.")
    if not np.all(np.isfinite(times)) or not np.all(np.diff(times) > 0):
        raise ValueError("time must be finite and strictly increasing.")

    derived = []
    arrays: dict[str, Any] = {"position": places}
    for name, value in (("velocity", velocity), ("acceleration", acceleration)):
        if value is None:
            derived.append(name)
            continue
        arrays[name] = np.asarray(value, np.float64)
        if arrays[name].shape != places.shape:
            raise ValueError(
                f"{name} must have the shape of position, {places.shape}, got {arrays[name].shape}."
            )
    for name, value, default in (("mass", mass, 1.0), ("charge", charge, 0.0)):
        if value is None:
            derived.append(name)
        properties = np.asarray(default if value is None else value, np.float64)
        if value is not None and properties.shape not in ((num_nodes,), (num_sims, num_nodes)):
            raise ValueError(
                f"{name} must have shape [{num_nodes}] or [{num_sims}, {num_nodes}], "
                f"got {properties.shape}."
            )
        arrays[name] = np.broadcast_to(properties, (num_sims, num_nodes))
    for name, value in arrays.items():
        bad = int(np.sum(~np.isfinite(value)))
        if bad:
            raise ValueError(f"{name} has {bad} NaN or infinite values.")

    if "velocity" in derived:
        arrays["velocity"] = _derivative(times, places, 1)
    if "acceleration" in derived:
        given = (places, 2) if "velocity" in derived else (arrays["velocity"], 1)
        arrays["acceleration"] = _derivative(times, *given)
        margin = max(2, num_times // 20)
        times = times[margin:-margin]
        for name in ("position", "velocity", "acceleration"):
            arrays[name] = arrays[name][:, margin:-margin]
    start = Body(places[:, 0], places[:, 0], arrays["mass"], arrays["charge"])
    check_body(start, "the given arrays")
    return Trajectory(time=times, **arrays, derived=tuple(derived))


def _derivative(time: np.ndarray, value: np.ndarray, order: int) -> np.ndarray:
    if len(time) < 10:
        raise ValueError(
            f"Differentiating needs at least 10 outputs in time, got {len(time)}; "
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


_KEYS = ("time", "position", "velocity", "acceleration", "mass", "charge")


_NOTES = ("derived", "failed")


def load_trajectory(path: str | os.PathLike[str]) -> Trajectory:
    """Read a `.npz` file with the arrays of `trajectory_from_arrays` under those names.

    What `save_trajectory` wrote is read as it was, `derived` and `failed` with it.

    Raises:
        ValueError: the file is not an `.npz`, lacks `time` or `position`, has a name
            that is not known, or holds wrong data.
        FileNotFoundError: there is no such file.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} is not an .npz file of plain arrays: {error}") from error
    missing = [name for name in _KEYS[:2] if name not in arrays]
    unknown = [name for name in arrays if name not in (*_KEYS, *_NOTES)]
    if missing or unknown:
        raise ValueError(
            f"{path}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}; "
            f"the names are {', '.join(_KEYS)}, of which time and position are required."
        )
    trajectory = trajectory_from_arrays(**{k: v for k, v in arrays.items() if k in _KEYS})
    derived = (*trajectory.derived, *arrays.get("derived", np.zeros(0, str)).tolist())
    failed = int(arrays.get("failed", 0))
    return dataclasses.replace(trajectory, derived=derived, failed=failed)


def save_trajectory(path: str | os.PathLike[str], trajectory: Trajectory) -> None:
    """Write a `Trajectory` as an `.npz` file, under just this name, for `load_trajectory`.

    In one stroke: an interruption leaves the old file or the new one.
    """
    arrays: Any = {name: np.asarray(getattr(trajectory, name)) for name in (*_KEYS, *_NOTES)}
    with in_one_stroke(path) as part, open(part, "wb") as stream:
        np.savez_compressed(stream, **arrays)
