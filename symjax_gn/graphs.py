"""Datasets of graphs: from simulations, from a user's arrays, to and from jraph."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray
from numpy.typing import ArrayLike
from scipy.interpolate import make_smoothing_spline

from symjax_gn.files import in_one_stroke
from symjax_gn.simulate import Trajectory
from symjax_gn.systems import AnyArray, Body, check_body, check_edges, complete_edges


class Dataset(NamedTuple):
    """Snapshots of bodies with the accelerations to be learned; one graph each.

    All graphs share their edges. A message goes from sender j to receiver i.
    """

    nodes: Body
    """Fields `[graph, node, ...]`."""
    acceleration: Float[AnyArray, "graph node dim"]
    """[graph, node, dim], length / time^2."""
    senders: Int[AnyArray, " edge"]
    """[edge], index of the sending node."""
    receivers: Int[AnyArray, " edge"]
    """[edge], index of the receiving node."""
    simulation: Int[AnyArray, " graph"]
    """[graph], which simulation the graph was taken from."""


class Scales(NamedTuple):
    """The user's units that equal one inside the models, and the place that is zero."""

    length: float
    velocity: float
    mass: float
    charge: float
    acceleration: float
    centre: Float[np.ndarray, " dim"]
    """[dim], user's length."""


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


def make_dataset(
    trajectory: Trajectory,
    senders: Int[np.ndarray, " edge"] | None = None,
    receivers: Int[np.ndarray, " edge"] | None = None,
) -> Dataset:
    """One graph per simulation and output, on the given edges (default: complete).

    Raises:
        ValueError: the trajectory is empty or holds bad values, or the edges do.
    """
    num_sims, num_times, num_nodes = trajectory.position.shape[:3]
    if num_sims == 0 or num_times == 0:
        raise ValueError("The trajectory is empty.")
    if (senders is None) != (receivers is None):
        raise ValueError("Give both senders and receivers, or neither.")
    if senders is None or receivers is None:
        senders, receivers = complete_edges(num_nodes)
    check_edges(senders, receivers, num_nodes)

    def flat(x):
        return x.reshape(num_sims * num_times, *x.shape[2:])

    def repeat(x):
        return np.repeat(x, num_times, axis=0)

    nodes = Body(
        position=flat(trajectory.position),
        velocity=flat(trajectory.velocity),
        mass=repeat(trajectory.mass),
        charge=repeat(trajectory.charge),
    )
    target = flat(trajectory.acceleration)
    check_body(nodes, "the trajectory")
    check_body(nodes._replace(velocity=target), "the trajectory (accelerations)")
    return Dataset(
        nodes=nodes,
        acceleration=target,
        senders=np.asarray(senders),
        receivers=np.asarray(receivers),
        simulation=np.repeat(np.arange(num_sims), num_times),
    )


def take(dataset: Dataset, index: Any) -> Dataset:
    """The graphs of the given index or mask; edges stay as they are."""
    pick = lambda x: x[index]  # noqa: E731
    return dataset._replace(
        nodes=jax.tree.map(pick, dataset.nodes),
        acceleration=dataset.acceleration[index],
        simulation=dataset.simulation[index],
    )


def split(
    key: PRNGKeyArray, dataset: Dataset, fractions: tuple[float, ...] = (0.75, 0.1, 0.15)
) -> tuple[Dataset, ...]:
    """Split by simulation, at random; no simulation is in two parts.

    Args:
        key: PRNG key of the shuffle.
        dataset: the graphs to split.
        fractions: share of each part, positive, with sum 1; by default for training,
            validation and test.

    Raises:
        ValueError: the fractions are wrong or there are fewer simulations than parts.
    """
    if min(fractions) <= 0 or not np.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be positive and sum to 1, got {fractions}.")
    names = np.unique(dataset.simulation)
    if len(names) < len(fractions):
        raise ValueError(
            f"Splitting by simulation into {len(fractions)} parts needs as many simulations, "
            f"got {len(names)}. Cut long recordings into several."
        )
    names = np.asarray(jax.random.permutation(key, names))
    # Every part gets one simulation before the shares are dealt.
    spare = len(names) - len(fractions)
    ends = np.rint(np.cumsum(fractions) * spare).astype(int) + np.arange(1, len(fractions) + 1)
    parts = np.split(names, ends[:-1])
    return tuple(take(dataset, np.isin(dataset.simulation, part)) for part in parts)


def typical_size(values: AnyArray) -> float:
    """Median of the absolute values that are not next to zero, or 0 if all are zero.

    A median, because close encounters have no typical size. Bodies that feel next to
    nothing say nothing of the size of what others feel, so values below a thousandth of
    the 95% quantile are passed over.
    """
    size = np.abs(np.asarray(values, np.float64))
    size = size[size > 1e-3 * np.quantile(size, 0.95)]
    return float(np.median(size)) if size.size else 0.0


def measure_scales(dataset: Dataset) -> Scales:
    """Typical sizes of a dataset's quantities, to bring them near one in training.

    One number per quantity, so that directions and ratios of masses keep their meaning;
    a quantity that is zero everywhere has scale 1.
    """
    position = np.asarray(dataset.nodes.position, np.float64)
    return Scales(
        length=typical_size(position[:, dataset.senders] - position[:, dataset.receivers]) or 1.0,
        velocity=typical_size(dataset.nodes.velocity) or 1.0,
        mass=float(np.exp(np.mean(np.log(np.asarray(dataset.nodes.mass, np.float64))))),
        charge=typical_size(dataset.nodes.charge) or 1.0,
        acceleration=typical_size(dataset.acceleration) or 1.0,
        centre=np.mean(position, axis=(0, 1)),
    )


def normalise(dataset: Dataset, scales: Scales) -> Dataset:
    """The dataset in the model's units, float32; positions from the scales' centre."""
    position = np.asarray(dataset.nodes.position, np.float64)
    nodes = Body(
        position=(position - scales.centre) / scales.length,
        velocity=np.asarray(dataset.nodes.velocity, np.float64) / scales.velocity,
        mass=np.asarray(dataset.nodes.mass, np.float64) / scales.mass,
        charge=np.asarray(dataset.nodes.charge, np.float64) / scales.charge,
    )
    target = np.asarray(dataset.acceleration, np.float64) / scales.acceleration
    return dataset._replace(
        nodes=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), nodes),
        acceleration=jnp.asarray(target, jnp.float32),
    )


def to_jraph(dataset: Dataset, index: int) -> jraph.GraphsTuple:
    """One graph of a dataset as a `jraph.GraphsTuple`; nodes are a `Body`.

    The accelerations are in `globals`, with one leading axis for the graph.
    """
    one = take(dataset, np.asarray([index]))
    edges: Any = [np.asarray(x) for x in (dataset.senders, dataset.receivers)]
    sizes: Any = [np.asarray([count]) for count in (one.acceleration.shape[1], len(edges[0]))]
    return jraph.GraphsTuple(
        nodes=jax.tree.map(lambda x: x[0], one.nodes),
        edges=None,
        senders=edges[0],
        receivers=edges[1],
        n_node=sizes[0],
        n_edge=sizes[1],
        globals={"acceleration": one.acceleration},
    )


def from_jraph(graphs: Sequence[Any]) -> Dataset:
    """The inverse of `to_jraph`, for graphs with one set of edges; one simulation each.

    Raises:
        ValueError: the list is empty, a tuple holds several graphs, or edges differ.
    """
    if not graphs:
        raise ValueError("from_jraph got no graphs.")
    first = graphs[0]
    for graph in graphs:
        if len(graph.n_node) != 1:
            raise ValueError("Give single graphs; split batches with jraph.unbatch first.")
        if not (
            np.array_equal(graph.senders, first.senders)
            and np.array_equal(graph.receivers, first.receivers)
        ):
            raise ValueError("All graphs of a Dataset must have the same edges.")
    nodes = jax.tree.map(lambda *x: np.stack(x), *[graph.nodes for graph in graphs])
    check_body(nodes, "the graphs")
    check_edges(first.senders, first.receivers, nodes.mass.shape[1])
    return Dataset(
        nodes=nodes,
        acceleration=np.concatenate([graph.globals["acceleration"] for graph in graphs]),
        senders=np.asarray(first.senders),
        receivers=np.asarray(first.receivers),
        simulation=np.arange(len(graphs)),
    )


def thin(trajectory: Trajectory, every: int) -> Trajectory:
    """Keep every `every`-th output of a trajectory (the paper keeps every fifth)."""
    fields = ("time", "position", "velocity", "acceleration")
    kept = {
        name: getattr(trajectory, name)[
            (slice(None),) * (name != "time") + (slice(None, None, every),)
        ]
        for name in fields
    }
    return dataclasses.replace(trajectory, **kept)
