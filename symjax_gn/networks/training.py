"""Training of graph networks: one jitted scan per interval of steps."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from optax import contrib
from tqdm import tqdm

from symjax_gn.data.checks import check_at_least, check_choice
from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.graphs import check_edges
from symjax_gn.data.nodes import check_body
from symjax_gn.data.units import Scales, measure_scales, normalise
from symjax_gn.networks import losses
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.layers import Prediction
from symjax_gn.networks.pruning import Cut, cut_or_undo, fading, significance

OPTIMIZERS = ("muon", "adam")


STRATEGIES = (*losses.STRATEGIES, "flathgn")
"""Those of graph networks, and that of Hamiltonians."""


_LOSS_FNS = {"relative": losses.relative_loss, "absolute": losses.absolute_loss}


_DEFAULT_WEIGHT = {"l1": 1e-3, "kl": 1e-3, "flathgn": 1e-6}


_PRUNED = ("l1", "kl", "pruning")


class TrainState(NamedTuple):
    """All that changes from one step to the next."""

    params: Any
    """Parameters of the model, a pytree."""
    opt_state: optax.OptState
    """State of the optimiser."""
    mask: Float[Array, " component"]
    """[component], 1 for message components in use and 0 for pruned ones."""
    step: Int[Array, ""]
    """Number of steps done."""


class TrainInfo(NamedTuple):
    """What one step reports."""

    loss: Float[Array, ""]
    """Loss of the batch, in the model's unit."""
    penalty: Float[Array, ""]
    """Message penalty of the batch, before its weight."""


class History(NamedTuple):
    """What training reports at the end of each interval."""

    step: Int[np.ndarray, " interval"]
    """[interval], steps done."""
    loss: Float[np.ndarray, " interval"]
    """[interval], mean training loss, model's unit."""
    validation_error: Float[np.ndarray, " interval"]
    """[interval], mean over graphs of the sum over nodes and dimensions of
    |a - a_hat|, in the data's unit."""
    message_std: Float[np.ndarray, "interval component"]
    """[interval, component], standard deviations on validation graphs, model's unit."""


class Trained(NamedTuple):
    """A trained model, with what is needed to use it on data in the user's units."""

    model: GraphNet | FlatHGN
    params: Any
    mask: Float[Array, " component"]
    scales: Scales
    strategy: str
    history: History


class TrainingError(RuntimeError):
    """Training left finite numbers.

    Attributes:
        step: the step whose loss or update was not finite, counted from 1.
        params: the last good parameters, those at the last report before it.
    """

    def __init__(self, message: str, step: int, params: Any):
        super().__init__(message)
        self.step = step
        self.params = params


def make_model(
    strategy: str, dim: int, message_dim: int = 100, **options: Any
) -> GraphNet | FlatHGN:
    """The `GraphNet` of a strategy: `dim` messages for "bottleneck", else `message_dim`.

    "flathgn" has a `FlatHGN` in its place.

    Raises:
        ValueError: the strategy is unknown.
    """
    check_choice("strategy", strategy, STRATEGIES)
    if strategy == "flathgn":
        return FlatHGN(dim=dim, **options)
    return GraphNet(
        dim=dim,
        message_dim=dim if strategy == "bottleneck" else message_dim,
        variational=strategy == "kl",
        **options,
    )


@functools.cache
def make_optimizer(
    name: str = "muon", learning_rate: float = 1e-2, steps: int = 8000, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Muon or Adam under a one-cycle schedule that peaks at `learning_rate`.

    Equal arguments give the same object, so that `fit` compiles once for all of its calls.
    """
    check_choice("optimizer", name, OPTIMIZERS)
    schedule = optax.cosine_onecycle_schedule(
        steps, learning_rate, pct_start=0.1, div_factor=10.0, final_div_factor=1e3
    )
    if name == "muon":
        return contrib.muon(schedule, weight_decay=weight_decay)
    return optax.adamw(schedule, weight_decay=weight_decay)


def init(
    key: PRNGKeyArray,
    model: GraphNet | FlatHGN,
    optimizer: optax.GradientTransformation,
    dataset: Dataset,
) -> TrainState:
    """Fresh parameters and optimiser state for a normalised dataset."""
    one = jax.tree.map(lambda x: x[0], dataset.nodes)
    params = model.init(key, one, dataset.senders, dataset.receivers)
    return TrainState(
        params, optimizer.init(params), jnp.ones(model.message_dim), jnp.zeros((), jnp.int32)
    )


def predict(
    model: GraphNet | FlatHGN,
    params: Any,
    dataset: Dataset,
    mask: Float[Array, " component"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Prediction:
    """Predictions for every graph of a normalised dataset, fields `[graph, ...]`."""
    num_graphs = dataset.acceleration.shape[0]
    keys = None if key is None else jax.random.split(key, num_graphs)

    def one(nodes, key):
        return model.apply(params, nodes, dataset.senders, dataset.receivers, mask, key)

    prediction = jax.vmap(one, in_axes=(0, None if keys is None else 0))(dataset.nodes, keys)
    assert isinstance(prediction, Prediction)
    return prediction


def step(
    key: PRNGKeyArray,
    state: TrainState,
    batch: Dataset,
    *,
    model: GraphNet | FlatHGN,
    optimizer: optax.GradientTransformation,
    strategy: str,
    loss: str,
    weight: float | Float[Array, ""],
) -> tuple[TrainState, TrainInfo]:
    """One update of the parameters on a batch of normalised graphs."""
    shift_key, sample_key = jax.random.split(key)
    if model.inputs == "absolute":
        # Appendix A: the network is not translation invariant, so it is shown translations.
        shift = 3.0 * jax.random.normal(shift_key, (model.dim,))
        batch = batch._replace(nodes=batch.nodes._replace(position=batch.nodes.position + shift))
    loss_fn = _LOSS_FNS[loss]

    def objective(params):
        prediction = predict(
            model, params, batch, state.mask, sample_key if model.variational else None
        )
        value = loss_fn(prediction.acceleration, batch.acceleration)
        if prediction.velocity is not None:
            value += loss_fn(prediction.velocity, batch.nodes.velocity)
        penalty = losses.message_penalty(strategy, prediction)
        return value + weight * penalty, TrainInfo(value, penalty)

    grads, info = jax.grad(objective, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.mask, state.step + 1), info


def draw(key: PRNGKeyArray, num_graphs: int, batch_size: int, focus: float) -> Int[Array, " batch"]:
    """Places `[batch]` of graphs in a list, the share u^focus of the way down, u uniform."""
    share = jax.random.uniform(key, (batch_size,)) ** focus
    return jnp.minimum((num_graphs * share).astype(jnp.int32), num_graphs - 1)


def _focus(focus, progress):
    """The focus at a share `progress` of the training."""
    return 1 + (focus - 1) * min(1.0, 2 * (1 - progress))


@functools.partial(
    jax.jit,
    static_argnames=("model", "optimizer", "strategy", "loss", "prune", "batch_size", "total"),
)
def _interval(
    keys,
    weight,
    focus,
    state,
    cut,
    train,
    validation,
    *,
    model,
    optimizer,
    strategy,
    loss,
    prune,
    batch_size,
    total,
):
    """A step for each key, then pruning and a look at the validation graphs."""
    options = dict(model=model, optimizer=optimizer, strategy=strategy, loss=loss)
    num_graphs = train.acceleration.shape[0]

    def body(state, key):
        pick_key, step_key = jax.random.split(key)
        # Graphs come in order of their largest acceleration, largest first.
        index = draw(pick_key, num_graphs, batch_size, focus)
        return step(step_key, state, take(train, index), weight=weight, **options)

    state, info = jax.lax.scan(body, state, keys)
    prediction = predict(model, state.params, validation, state.mask)
    if prune:
        # On messages without noise, which under KL says more than the loss of training.
        target = validation.acceleration
        value, most = (_LOSS_FNS[loss](x, target) for x in (prediction.acceleration, 0 * target))
        spread, progress = significance(prediction), state.step / total
        params, mask, cut = cut_or_undo(
            state.params, state.mask, cut, value / most, spread, progress
        )
        state = state._replace(params=params, mask=mask)
    error = jnp.abs(prediction.acceleration - validation.acceleration)
    usable = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.params)]
    report = (
        jnp.mean(info.loss),
        jnp.mean(jnp.sum(error, axis=(1, 2))),
        jnp.std(prediction.messages, axis=(0, 1)),
        jnp.isfinite(info.loss) & jnp.isfinite(info.penalty),
        jnp.all(jnp.stack(usable)),
    )
    return state, cut, report


def fit(
    key: PRNGKeyArray,
    train: Dataset,
    validation: Dataset,
    *,
    strategy: str = "bottleneck",
    model: GraphNet | FlatHGN | None = None,
    loss: str = "relative",
    penalty_weight: float | None = None,
    prune: bool | None = None,
    optimizer: str | optax.GradientTransformation = "muon",
    learning_rate: float = 1e-2,
    steps: int = 8000,
    batch_size: int = 64,
    focus: float = 2.0,
    intervals: int = 20,
    scales: Scales | None = None,
    progress: bool = False,
    callback: Callable[[TrainState, int], None] | None = None,
) -> Trained:
    """Train a graph network to predict accelerations.

    Args:
        key: PRNG key for the parameters, the batches and the noise.
        train: graphs to learn from, in the user's units.
        validation: graphs for the history and for pruning, in the same units; at most
            512 are used.
        strategy: one of `STRATEGIES`.
        model: network; None takes `make_model(strategy, dim)`.
        loss: "relative", or "absolute" as in the paper; see `losses`.
        penalty_weight: factor of the message penalty; None takes the strategy's.
        prune: whether the least significant components are masked as training goes on.
            Pruning is not told the dimension: it goes on until a cut raises the
            validation loss by a tenth of what predicting nothing would cost, takes that
            cut back and tries a smaller one. None prunes for
            "pruning" and also for "l1" and "kl", whose penalties alone often leave one
            force spread over several sets of components; their penalties then fade as
            components go. False is the paper's way.
        optimizer: "muon", "adam" or any optax transformation.
        learning_rate: peak of the one-cycle schedule (named optimisers only).
        steps: number of updates.
        batch_size: graphs per update.
        focus: how much oftener graphs with large accelerations are drawn. With graphs in
            order of their largest acceleration, the share u^focus of the way down is
            drawn, u uniform: 1 draws all alike, 2 the first 1% ten times as often. In the
            second half of training it falls to 1, for the sake of all the others.
        intervals: number of reports; `steps` is rounded up to a multiple of it.
        scales: units of the model; None measures them on `train`.
        progress: whether to show a progress bar.
        callback: called with the state and the step after each interval.

    Returns:
        The trained model.

    Raises:
        ValueError: an argument or the data are wrong.
        TrainingError: the loss became NaN or infinite; it has the step and the last
            good parameters.
    """
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("loss", loss, losses.LOSSES)
    counts = dict(steps=steps, batch_size=batch_size, intervals=intervals, focus=focus)
    for name, value in counts.items():
        check_at_least(name, value, 1)
    for name, part in (("train", train), ("validation", validation)):
        _check_dataset(name, part)
    if penalty_weight is not None:
        check_at_least("penalty_weight", penalty_weight, 0)
    if isinstance(optimizer, str) and not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate}.")
    dim = train.acceleration.shape[-1]
    if model is None:
        model = make_model(strategy, dim)
    if isinstance(model, FlatHGN) != (strategy == "flathgn"):
        raise ValueError(
            f'The strategy "flathgn" and a FlatHGN go together: got the strategy "{strategy}" '
            f"and a {type(model).__name__}."
        )
    if model.dim != dim or model.variational != (strategy == "kl"):
        raise ValueError(
            f"The model is for dim={model.dim}, variational={model.variational}; this data and "
            f"strategy need dim={dim}, variational={strategy == 'kl'}."
        )
    weight = _DEFAULT_WEIGHT.get(strategy, 0.0) if penalty_weight is None else penalty_weight
    prune = strategy in _PRUNED if prune is None else prune
    length = math.ceil(steps / intervals)
    total = length * intervals
    if isinstance(optimizer, str):
        optimizer = make_optimizer(optimizer, learning_rate, total)
    scales = measure_scales(train) if scales is None else scales
    if isinstance(model, FlatHGN):
        # One unit of energy: that of momentum times velocity and of force times length.
        scales = scales._replace(velocity=math.sqrt(scales.acceleration * scales.length))
    largest = np.max(np.linalg.norm(train.acceleration, axis=-1), axis=-1)
    train = normalise(take(train, np.argsort(-largest, kind="stable")), scales)
    kept = np.linspace(0, len(validation.acceleration) - 1, 512).astype(int)
    validation = normalise(take(validation, np.unique(kept)), scales)

    init_key, run_key = jax.random.split(key)
    state = jax.jit(lambda key: init(key, model, optimizer, train))(init_key)
    cut = Cut(state.params, state.mask, state.mask, jnp.array(jnp.inf), jnp.array(1.0))
    rows = []
    with tqdm(total=total, desc="train", unit="step", disable=not progress) as bar:
        for interval in range(intervals):
            done = length * (interval + 1)
            new_state, cut, report = _interval(
                jax.random.split(jax.random.fold_in(run_key, interval), length),
                weight * fading(interval / intervals) if prune else weight,
                _focus(focus, interval / max(1, intervals - 1)),
                state,
                cut,
                train,
                validation,
                model=model,
                optimizer=optimizer,
                strategy=strategy,
                loss=loss,
                prune=prune,
                batch_size=batch_size,
                total=total,
            )
            value, error, spread, finite, usable = jax.tree.map(np.asarray, report)
            if not (usable and np.all(finite)):
                bad = done if np.all(finite) else done - length + 1 + int(np.argmin(finite))
                raise TrainingError(
                    f"Training was not finite at step {bad}; lower the learning rate or look for "
                    f"outliers in the data. The last good parameters, of step {done - length}, "
                    "are in the `params` of this error.",
                    bad,
                    state.params,
                )
            state = new_state
            rows.append((done, value, error * scales.acceleration, spread))
            bar.set_postfix(loss=f"{value:.4g}", validation=f"{rows[-1][2]:.4g}", refresh=False)
            bar.update(length)
            if callback is not None:
                callback(state, done)
    history = History(*(np.asarray(column) for column in zip(*rows, strict=True)))
    return Trained(model, state.params, state.mask, scales, strategy, history)


def held_out_error(trained: Trained, dataset: Dataset, batch: int = 512) -> tuple[float, float]:
    """Error on held-out graphs and the size of what is predicted.

    Both are means over graphs of a sum over nodes and dimensions: of |a - a_hat|, and of
    |a|; in the data's unit of acceleration. `batch` graphs are predicted at a time.
    """
    _check_dataset("test", dataset)
    error = _sum_of_errors(
        trained.params,
        trained.mask,
        normalise(dataset, trained.scales),
        model=trained.model,
        batch=batch,
    )
    mean = float(np.mean(np.asarray(error, np.float64))) * trained.scales.acceleration
    return mean, float(np.mean(np.sum(np.abs(dataset.acceleration), axis=(1, 2), dtype=np.float64)))


@functools.partial(jax.jit, static_argnames=("model", "batch"))
def _sum_of_errors(params, mask, dataset, *, model, batch):
    def one(graph):
        nodes, target = graph
        guess = model.apply(params, nodes, dataset.senders, dataset.receivers, mask)
        return jnp.sum(jnp.abs(guess.acceleration - target))

    return jax.lax.map(one, (dataset.nodes, dataset.acceleration), batch_size=batch)


def _check_dataset(name: str, dataset: Dataset) -> None:
    if dataset.acceleration.shape[:1] == (0,):
        raise ValueError(f"The {name} dataset holds no graphs.")
    check_body(dataset.nodes, f"the {name} dataset")
    if np.shape(dataset.acceleration) != np.shape(dataset.nodes.position):
        raise ValueError(
            f"Accelerations of the {name} dataset have shape {np.shape(dataset.acceleration)}, "
            f"positions {np.shape(dataset.nodes.position)}."
        )
    if not np.all(np.isfinite(dataset.acceleration)):
        raise ValueError(f"Accelerations of the {name} dataset are not all finite.")
    check_edges(dataset.senders, dataset.receivers, dataset.nodes.mass.shape[1])
