"""Messages of a trained network: recorded, ranked, and compared with true forces."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.optimize import least_squares

from symjax_gn.graphs import Dataset, Scales, normalise, take
from symjax_gn.systems import AnyArray, Body, System, pair_force
from symjax_gn.train import Trained, predict, significance

AXES = ("x", "y", "z")
GAUGES = ("1", "1/m_i", "fitted")

# Graphs looked at together: enough to fill vector units, few enough for any memory.
_BATCH = 500


class MessageTable(NamedTuple):
    """Sampled edges: what was sent along them, and the features it may depend on."""

    features: dict[str, Float[np.ndarray, " edge"]]
    """Columns `[edge]` by name, user's units: displacement from receiver to sender
    (`dx`, `dy`, `dz`), distance `r`, masses `m_i`, `m_j`, charges `q_i`, `q_j` and
    velocities `vx_i`, `vx_j`, ... of receiver i and sender j."""
    scales: dict[str, float]
    """Typical size of each feature, one for all features of the same kind."""
    messages: Float[np.ndarray, "edge component"]
    """[edge, component], model's unit; most significant component first."""
    components: Int[np.ndarray, " component"]
    """[component], their indices in the model."""
    influence: Float[np.ndarray, "edge dim"]
    """[edge, dim], the messages in the gauge of the node function: mass x d(acceleration)
    / d(aggregate) x message, a force in user's units. See `record_messages`."""
    force: Float[np.ndarray, "edge dim"] | None
    """[edge, dim], the true force of the sender on the receiver where the law is known."""


class GaugeFit(NamedTuple):
    """Solution of m = g(v_i) A f + b(v_i) (design: gauge of the messages)."""

    name: str
    """"1", "1/m_i" or "fitted": the receiver function g."""
    matrix: Float[np.ndarray, "component dim"]
    """A, [component, dim]."""
    scale: Float[np.ndarray, " basis"]
    """Coefficients of log g."""
    offset: Float[np.ndarray, "basis component"]
    """Coefficients of b, [basis, component]."""

    def predict(
        self,
        force: Float[np.ndarray, "edge dim"],
        mass: Float[np.ndarray, " edge"],
        charge: Float[np.ndarray, " edge"],
    ) -> tuple[Float[np.ndarray, "edge component"], Float[np.ndarray, "edge component"]]:
        """The parts g A f and b of the messages `[edge, component]` of given pairs."""
        basis = receiver_basis(mass, charge)
        factor = _receiver_factor(self.name, self.scale, mass, basis)
        return factor[:, None] * (force @ self.matrix.T), basis @ self.offset


def pair_features(receiver: Body, sender: Body) -> dict[str, AnyArray]:
    """Feature columns `[edge]` of given pairs; the names are those of `MessageTable`."""
    dim = receiver.position.shape[-1]
    displacement = sender.position - receiver.position
    columns = {f"d{axis}": displacement[..., k] for k, axis in enumerate(AXES[:dim])}
    # float64 on the host: squares of metres between stars overflow float32.
    columns["r"] = np.linalg.norm(np.asarray(displacement, np.float64), axis=-1)
    for name in ("mass", "charge"):
        for end, body in (("i", receiver), ("j", sender)):
            columns[f"{name[0].replace('c', 'q')}_{end}"] = getattr(body, name)
    for end, body in (("i", receiver), ("j", sender)):
        for k, axis in enumerate(AXES[:dim]):
            columns[f"v{axis}_{end}"] = body.velocity[..., k]
    return columns


def feature_scale(name: str, scales: Scales) -> float:
    """The typical size of a feature of `pair_features`."""
    kind = {"d": "length", "r": "length", "m": "mass", "q": "charge", "v": "velocity"}[name[0]]
    return getattr(scales, kind)


def sample_pairs(
    key: PRNGKeyArray, dataset: Dataset, num_edges: int
) -> tuple[Int[Array, " edge"], Int[Array, " edge"]]:
    """Random graphs and random edges in them, `[num_edges]` each, with replacement."""
    graph_key, edge_key = jax.random.split(key)
    return (
        jax.random.randint(graph_key, (num_edges,), 0, len(dataset.acceleration)),
        jax.random.randint(edge_key, (num_edges,), 0, len(dataset.senders)),
    )


def pair_bodies(dataset: Dataset, graph: Any, edge: Any) -> tuple[Body, Body]:
    """Receivers and senders (fields `[edge, ...]`) of the given edges of given graphs."""
    graph, edge = np.asarray(graph), np.asarray(edge)
    ends = (np.asarray(dataset.receivers)[edge], np.asarray(dataset.senders)[edge])
    receiver, sender = (jax.tree.map(lambda x, e=e: x[graph, e], dataset.nodes) for e in ends)
    return receiver, sender


def true_forces(
    system: System, receiver: Body, sender: Body, softening: float | None = None
) -> Float[np.ndarray, "edge dim"]:
    """Forces `[edge, dim]` of senders on receivers; `softening` as in `pair_force`."""
    force = jax.vmap(lambda i, j: pair_force(system, i, j, softening))(
        *jax.tree.map(jnp.asarray, (receiver, sender))
    )
    return np.asarray(force, np.float64)


def record_messages(
    key: PRNGKeyArray,
    trained: Trained,
    dataset: Dataset,
    *,
    num_edges: int = 4000,
    num_components: int | None = None,
    system: System | None = None,
) -> MessageTable:
    """Messages along sampled edges of a dataset.

    Raw messages are known only up to what the node function can undo. But the node
    function is known: near a graph's state an added message dm moves the acceleration
    of receiver i by (da_i / dm) dm. The column `influence` is m_i (da_i / dm) m_ij,
    the force that message m_ij stands for, found without looking at the true law.

    Args:
        key: PRNG key that chooses the edges.
        trained: the trained network.
        dataset: graphs in the user's units.
        num_edges: number of edges.
        num_components: how many components to keep, the most significant ones; None
            keeps as many as there are dimensions.
        system: the true law where it is known, for the column `force`; nothing else
            depends on it.

    Raises:
        ValueError: a kept component is constant or not finite, or fewer are in use.
    """
    dim = trained.model.dim
    num_components = dim if num_components is None else num_components
    data = normalise(dataset, trained.scales)
    graph, edge = sample_pairs(key, dataset, num_edges)
    left = int(np.count_nonzero(trained.mask))
    if not 1 <= num_components <= left:
        raise ValueError(
            f"num_components must be from 1 to the {left} message components in use, "
            f"got {num_components}."
        )
    order = rank_components(trained, take(data, graph[:_BATCH]))[:num_components]
    receivers = jnp.asarray(data.receivers)

    def one(pair):
        nodes, edge = pair
        prediction = trained.model.apply(
            trained.params, nodes, data.senders, receivers, trained.mask
        )
        messages = prediction.messages  # pyright: ignore[reportAttributeAccessIssue]
        node = receivers[edge]
        aggregate = jnp.sum(jnp.where((receivers == node)[:, None], messages, 0.0), axis=0)
        body = jax.tree.map(lambda x: x[node], nodes)

        def update(aggregate: Array) -> Any:
            return trained.model.apply(trained.params, body, aggregate, method="update")

        jacobian = jax.jacobian(update)(aggregate)[:, order]
        message = messages[edge][order]
        return message, body.mass * (jacobian @ message)

    pairs = (take(data, graph).nodes, edge)
    messages, influence = jax.jit(lambda x: jax.lax.map(one, x, batch_size=_BATCH))(pairs)
    messages = np.asarray(messages, np.float64)
    check_messages(messages, order)
    receiver, sender = pair_bodies(dataset, graph, edge)
    features = {
        name: np.asarray(x, np.float64) for name, x in pair_features(receiver, sender).items()
    }
    return MessageTable(
        features=features,
        scales={name: feature_scale(name, trained.scales) for name in features},
        messages=messages,
        components=np.asarray(order),
        influence=np.asarray(influence, np.float64)
        * trained.scales.mass
        * trained.scales.acceleration,
        force=None if system is None else true_forces(system, receiver, sender),
    )


def rank_components(trained: Trained, data: Dataset) -> Int[np.ndarray, " component"]:
    """Components of a normalised dataset's messages, most significant first."""
    prediction = jax.jit(predict, static_argnums=0)(
        trained.model, trained.params, data, trained.mask
    )
    return np.argsort(-np.asarray(significance(prediction)), kind="stable")


def check_messages(
    messages: Float[np.ndarray, "edge component"], names: Int[np.ndarray, " component"]
) -> None:
    """Raise a `ValueError` for messages that are empty, constant or not finite."""
    if messages.size == 0:
        raise ValueError("There are no messages to look at: no edges or no components.")
    for column, name in zip(messages.T, names, strict=True):
        if not np.all(np.isfinite(column)):
            raise ValueError(f"Message component {name} has NaN or infinite values.")
        if np.std(column) <= 1e-6 * np.max(np.abs(column), initial=1e-30):
            raise ValueError(
                f"Message component {name} is constant, so it holds no law; train longer, with "
                "a weaker penalty or with more components."
            )


def receiver_basis(
    mass: Float[np.ndarray, " edge"], charge: Float[np.ndarray, " edge"]
) -> Float[np.ndarray, "edge basis"]:
    """Functions of the receiver's own mass and charge, the first one constant."""
    log_mass = np.log(mass)
    columns = [np.ones_like(log_mass), log_mass, log_mass**2, charge, charge * log_mass]
    return np.stack(columns, axis=-1)


def _receiver_factor(name, coefficients, mass, basis):
    if name == "1":
        return np.ones_like(mass)
    if name == "1/m_i":
        return 1 / mass
    return np.exp(np.clip(basis @ coefficients, -30, 30))


def fit_gauge(
    messages: Float[np.ndarray, "edge component"],
    force: Float[np.ndarray, "edge dim"],
    mass: Float[np.ndarray, " edge"],
    charge: Float[np.ndarray, " edge"],
    *,
    name: str,
    constant_offset: bool = True,
    weight: Float[np.ndarray, " edge"] | None = None,
) -> GaugeFit:
    """Least-squares solution of m = g(v_i) A f + b(v_i).

    Args:
        messages: `[edge, component]`.
        force: `[edge, dim]`, true forces.
        mass: `[edge]`, the receivers' masses.
        charge: `[edge]`, the receivers' charges.
        name: which g: "1", "1/m_i", or "fitted" for the exponential of a combination
            of `receiver_basis`.
        constant_offset: whether b is a constant or a combination of `receiver_basis`.
        weight: `[edge]`, weights of the errors, or None for equal ones.
    """
    basis = receiver_basis(mass, charge)
    offsets = basis[:, :1] if constant_offset else basis
    weight = np.ones_like(mass) if weight is None else weight

    def solve(coefficients):
        factor = _receiver_factor(name, coefficients, mass, basis)
        design = np.concatenate([factor[:, None] * force, offsets], axis=1) * weight[:, None]
        # Columns of one size, so that units do not decide what counts as rank.
        size = np.linalg.norm(design, axis=0)
        size[size == 0] = 1.0
        target = messages * weight[:, None]
        solution = np.linalg.lstsq(design / size, target, rcond=1e-10)[0]
        return solution / size[:, None], target - design / size @ solution

    coefficients = np.zeros(basis.shape[1])
    if name == "fitted":
        # The constant of log g is part of A. Start from both simple gauges.
        def residual(free):
            return np.ravel(solve(np.concatenate([[0.0], free]))[1])

        starts = [np.zeros(basis.shape[1] - 1), -np.eye(basis.shape[1] - 1)[0]]
        fits = [least_squares(residual, start, max_nfev=50) for start in starts]
        coefficients[1:] = min(fits, key=lambda fit: fit.cost).x
    solution = solve(coefficients)[0]
    dim = force.shape[1]
    offset = np.zeros((basis.shape[1], messages.shape[1]))
    offset[: offsets.shape[1]] = solution[dim:]
    return GaugeFit(name, solution[:dim].T, coefficients, offset)


def r_squared(
    target: Float[np.ndarray, "edge component"], guess: Float[np.ndarray, "edge component"]
) -> float:
    """Coefficient of determination, the mean over components."""
    residual = np.sum((target - guess) ** 2, axis=0)
    return float(np.mean(1 - residual / np.sum((target - np.mean(target, axis=0)) ** 2, axis=0)))


def message_r2(table: MessageTable) -> dict[str, float | str]:
    """How well messages are a linear map of true forces (the paper's table 1).

    Returns:
        `force`: untrimmed, g = 1. `force_trimmed`: the same without the 10% of edges
        that fit worst. `gauge` and `gauge_name`: untrimmed, with the best g of `GAUGES`;
        a simpler g is named unless the next one is better by 0.001. `influence`: untrimmed,
        g = 1, of the influence, whose gauge was fixed without knowing the forces.

    Raises:
        ValueError: the table has no true forces.
    """
    if table.force is None:
        raise ValueError("R^2 against true forces needs a system whose law is known.")
    mass, charge, force = table.features["m_i"], table.features["q_i"], table.force

    def fit(name, keep, messages=table.messages):
        parts = (messages[keep], force[keep], mass[keep], charge[keep])
        gauge = fit_gauge(*parts, name=name)
        guess = np.add(*gauge.predict(*parts[1:]))
        return r_squared(parts[0], guess), np.sum(np.abs(parts[0] - guess), axis=1)

    everything = np.ones(len(mass), bool)
    plain, error = fit("1", everything)
    kept = error <= np.quantile(error, 0.9)
    best, best_name = plain, "1"
    for name in GAUGES[1:]:
        value, _ = fit(name, everything)
        if value > best + 1e-3:
            best, best_name = value, name
    return {
        "force": plain,
        "force_trimmed": fit("1", kept)[0],
        "gauge": best,
        "gauge_name": best_name,
        "influence": fit("1", everything, table.influence)[0],
    }
