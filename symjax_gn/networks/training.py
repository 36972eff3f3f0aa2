"""Training of networks: steps with scaling, drawing of batches, pruning and reports."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm import tqdm

from symjax_gn.data.checks import check_choice, check_count, check_number
from symjax_gn.data.datasets import Dataset, check_dataset, take, target_mask
from symjax_gn.data.graphs import GraphsTuple
from symjax_gn.data.memory import check_memory
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape
from symjax_gn.data.sampling import Stars, sample_stars
from symjax_gn.data.units import Scales, measure_scales, normalise, normalise_nodes
from symjax_gn.model import graphs_at_once, predict
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.losses import LOSSES
from symjax_gn.networks.pruning import contributions_of, keep_or_undo, rank_components
from symjax_gn.networks.steps import (
    OPTIMIZERS,
    Hyperparameters,
    Recipe,
    TrainState,
    init,
    step,
    with_learned,
)
from symjax_gn.networks.strategies import DEFAULT_WEIGHT, PRUNED, STRATEGIES, make_model

# Validation graphs that are looked at after each interval.
_VALIDATION_GRAPHS = 512

# Edges of one batch, at most: with a network of the default size some 2 GB.
_EDGES_AT_ONCE = 200_000

# Numbers that the gradients of a batch keep for each hidden unit of each edge, as measured.
_KEPT_PER_UNIT = 10

# Parameters, their gradients, updates, the optimiser's moments, and what pruning goes back to.
_COPIES_OF_PARAMETERS = 8

# Receivers by whose messages components are ranked after each interval.
_RANKED_STARS = 128


class History(NamedTuple):
    """What training reports at the end of each interval."""

    step: Int[np.ndarray, " interval"]
    """[interval], steps done."""
    loss: Float[np.ndarray, " interval"]
    """[interval], mean training loss, model's unit."""
    validation_error: Float[np.ndarray, " interval"]
    """[interval], mean over graphs of the sum over nodes and components of
    |a - a_hat|, in the data's unit."""
    message_std: Float[np.ndarray, "interval message"]
    """[interval, message], standard deviations on validation graphs, model's unit."""


class Trained(NamedTuple):
    """A trained network, with what is needed to use it on data in the user's units."""

    model: GraphNet | FlatHGN
    params: Any
    """Parameters of the network."""
    mask: Float[Array, " message"]
    """[message], 1 for components in use."""
    scales: Scales
    strategy: str
    history: History
    learned: dict[str, Float[np.ndarray, " node"]]
    """Properties of bodies that were learned, up to a common factor."""

    def complete(self, nodes: Nodes) -> Nodes:
        """Nodes `[graph, node, ...]`, user's units, with the properties that were learned."""
        shape = leading_shape(nodes)
        values = {name: np.broadcast_to(x, shape) for name, x in self.learned.items()}
        return nodes._replace(properties=nodes.properties | values)

    def predict(self, graphs: GraphsTuple) -> Float[AnyArray, "graph *node component"]:
        """The quantity for stacked graphs, user's units."""
        nodes = normalise_nodes(self.complete(graphs.nodes), self.scales)
        graphs = graphs._replace(nodes=nodes)
        value = _predict(self.params, self.mask, graphs, model=self.model)
        return np.asarray(value, np.float64) * self.scales.target


@functools.partial(jax.jit, static_argnames="model")
def _predict(params, mask, graphs, *, model):
    return predict(model, params, graphs, mask).value


def as_trained(
    state: TrainState,
    model: GraphNet | FlatHGN,
    scales: Scales,
    strategy: str,
    history: Sequence[tuple[Any, ...]] = (),
) -> Trained:
    """The network of a state, as a callback of `fit` receives it, on its own.

    Args:
        state: of training.
        model: the network.
        scales: units of the model.
        strategy: one of `STRATEGIES`.
        history: rows of `History`.
    """
    columns = zip(*history, strict=True) if history else ((),) * len(History._fields)
    learned = {name: np.exp(np.asarray(x)) for name, x in state.params["learned"].items()}
    network = state.params["network"]
    whole = History(*map(np.asarray, columns))
    return Trained(model, network, state.mask, scales, strategy, whole, learned)


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


_init = jax.jit(init, static_argnames=("recipe", "learn"))


def _with_numbers(dataset, learn, first):
    """The dataset with bodies' numbers, from `first`, in place of what is to be learned."""
    nodes = dataset.nodes
    shape = leading_shape(nodes)
    numbers = np.broadcast_to(first + np.arange(shape[1], dtype=np.float32), shape)
    nodes = nodes._replace(properties=nodes.properties | dict.fromkeys(learn, numbers))
    return dataclasses.replace(dataset, graphs=dataset.graphs._replace(nodes=nodes))


def _by_number(nodes, learned):
    """Nodes with the learned properties of the bodies whose numbers stand in their place."""
    if nodes is None or not learned:
        return nodes
    numbers = {name: nodes.properties[name].astype(jnp.int32) for name in learned}
    values = {name: jnp.exp(x)[numbers[name]] for name, x in learned.items()}
    return nodes._replace(properties=nodes.properties | values)


def draw(
    key: PRNGKeyArray, num_graphs: int, batch_size: int, focus: float | Float[Array, ""]
) -> Int[Array, " batch"]:
    """Indices `[batch]` floor(N u^focus) of sorted graphs, u uniform.

    >>> draw(jax.random.key(0), 10, 3, 1.0).shape
    (3,)
    """
    share = jax.random.uniform(key, (batch_size,)) ** focus
    return jnp.minimum((num_graphs * share).astype(jnp.int32), num_graphs - 1)


def _focus(focus, progress):
    """The focus at a share `progress` of the training: it falls to 1 in the second half."""
    return 1 + (focus - 1) * jnp.minimum(1.0, 2 * (1 - progress))


@functools.partial(jax.jit, static_argnames=("recipe", "batch_size", "length"))
def _interval(state, train, validation, stars, *, recipe, batch_size, length):
    """A number of steps, then pruning and a look at the validation graphs."""

    def body(state, _):
        key, pick_key = jax.random.split(state.key)
        # Graphs come in order of their largest target, largest first.
        focus = _focus(state.hyper.focus, state.step / recipe.steps)
        index = draw(pick_key, len(train), batch_size, focus)
        return step(state._replace(key=key), take(train, index), recipe)

    state, info = jax.lax.scan(body, state, length=length)
    graphs = validation.graphs
    learned = state.params["learned"]
    graphs = graphs._replace(nodes=with_learned(graphs.nodes, learned))
    prediction = predict(recipe.model, state.params["network"], graphs, state.mask)
    known = target_mask(validation)
    if recipe.prune:
        # On messages without noise, which under KL says more than the loss of training.
        loss_fn = LOSSES[recipe.loss]
        flat = None if known is None else known[..., 0]
        target = validation.target
        value, nothing = (loss_fn(x, target, flat) for x in (prediction.value, 0 * target))
        ends = (_by_number(x, learned) for x in (stars.receiver, stars.senders))
        stars = stars._replace(**dict(zip(("receiver", "senders"), ends, strict=True)))
        found = contributions_of(recipe.model, state.params["network"], stars, state.mask)
        significance = rank_components(found, stars.present)
        params, mask, cut = keep_or_undo(
            state.params,
            state.mask,
            state.cut,
            value / nothing,
            significance,
            state.step / recipe.steps,
        )
        state = state._replace(params=params, mask=mask, cut=cut)
    error = jnp.abs(prediction.value - validation.target)
    error = error if known is None else error * known
    usable = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.params)]
    report = (
        jnp.mean(info.loss),
        jnp.sum(error) / len(validation),
        jnp.std(prediction.messages, axis=(0, 1)),
        jnp.isfinite(info.loss) & jnp.isfinite(info.penalty),
        jnp.all(jnp.stack(usable)),
    )
    return state, report


def fit(
    key: PRNGKeyArray,
    train: Dataset,
    validation: Dataset,
    *,
    strategy: str = "bottleneck",
    steps: int = 8000,
    model: GraphNet | FlatHGN | None = None,
    loss: str = "relative",
    penalty_weight: float | None = None,
    prune: bool | None = None,
    optimizer: str | optax.GradientTransformation = "muon",
    learning_rate: float = 1e-2,
    weight_decay: float = 0.0,
    batch_size: int = 64,
    focus: float = 2.0,
    intervals: int = 20,
    learn: tuple[str, ...] = (),
    scales: Scales | None = None,
    state: TrainState | None = None,
    progress: bool = False,
    callback: Callable[[TrainState, dict[str, float]], bool | None] | None = None,
) -> Trained:
    """Train a network to predict the quantity of a data set.

    Main arguments:
        key: PRNG key for the parameters, the batches and the noise.
        train: graphs to learn from, in the user's units.
        validation: graphs for the history and for pruning, in the same units; at most
            512 are used.
        strategy: one of `STRATEGIES`.
        steps: number of updates.

    Other Arguments:
        model: network; None takes `make_model(strategy, train)`.
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
        weight_decay: decoupled weight decay (named optimisers only).
        batch_size: graphs per update; fewer where they have more than 200,000 edges in all.
        focus: importance-sampling exponent, see `Hyperparameters`. In the second half of
            training it falls to 1, for the sake of all other graphs.
        intervals: number of reports; `steps` is rounded up to a multiple of it.
        learn: names of positive properties that are not known, e.g. ("mass",): one value
            for each body, the same bodies in all graphs, is learned with the network.
        scales: units of the model; None measures them on `train`.
        state: a state to go on from, as a callback received it.
        progress: whether to show a progress bar.
        callback: called after each interval with the state and the report (step, loss,
            validation_error); returning True ends the training.

    Raises:
        ValueError: an argument or the data are wrong.
        TrainingError: the loss became NaN or infinite; it has the step and the last
            good parameters.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> tiny = sgn.make_model("bottleneck", train, width=8, depth=1)
    >>> trained = fit(key, train, validation, model=tiny, steps=20, intervals=2)
    >>> trained.history.step.tolist(), trained.predict(test.graphs).shape
    ([10, 20], (20, 4, 2))
    """
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("loss", loss, LOSSES)
    counts = dict(steps=steps, batch_size=batch_size, intervals=intervals)
    for name, value in counts.items():
        check_count(name, value)
    check_number("focus", focus, least=1)
    check_number("weight_decay", weight_decay, least=0)
    for name, part in (("training", train), ("validation", validation)):
        check_dataset(part, name)
    if penalty_weight is not None:
        check_number("penalty_weight", penalty_weight, least=0)
    if isinstance(optimizer, str):
        check_choice("optimizer", optimizer, OPTIMIZERS)
        check_number("learning_rate", learning_rate, above=0)
    for name in learn:
        if name in train.nodes.properties:
            raise ValueError(f"The {name} is in the data; it cannot be learned as well.")
    scales = measure_scales(train) if scales is None else scales
    scales = scales._replace(properties=scales.properties | dict.fromkeys(learn, 1.0))
    if model is None:
        model = make_model(strategy, _with_numbers(train, learn, 1), scales)
    _check_model(model, strategy, train)
    if model.conservative:
        # One unit of energy: that of momentum times velocity and of force times length.
        scales = scales._replace(velocity=math.sqrt(scales.target * scales.length))
    prune = strategy in PRUNED if prune is None else prune
    length = math.ceil(steps / intervals)
    recipe = Recipe(model, strategy, loss, optimizer, prune, length * intervals)
    weight = DEFAULT_WEIGHT.get(strategy, 0.0) if penalty_weight is None else penalty_weight
    hyper = Hyperparameters(learning_rate, weight, weight_decay, focus)

    size = np.linalg.norm(np.asarray(train.target), axis=-1)
    if train.mask is not None:
        size = np.where(np.asarray(train.mask), size, 0.0)
    largest = size if size.ndim == 1 else np.max(size, axis=1)
    data = normalise(take(train, np.argsort(-largest, kind="stable")), scales)
    # As many graphs at once as fit into memory with all that their gradients keep.
    batch_size = min(batch_size, graphs_at_once(train, _EDGES_AT_ONCE))
    at_once = min(_VALIDATION_GRAPHS, graphs_at_once(validation, _EDGES_AT_ONCE))
    kept = np.linspace(0, len(validation) - 1, at_once).astype(int)
    held_out = normalise(take(validation, np.unique(kept)), scales)
    init_key, star_key = jax.random.split(key)
    stars = None
    if prune:
        seen = _with_numbers(take(validation, np.unique(kept)), learn, 0)
        stars = _stars(star_key, seen, scales)
    few = take(held_out, np.arange(1)).graphs
    _check_memory(init_key, recipe, few, hyper, learn, batch_size)
    now: TrainState = state or _init(init_key, recipe, few, hyper, learn)
    rows = []
    first = int(now.step) // length
    with tqdm(
        total=recipe.steps, initial=first * length, desc="train", unit="step", disable=not progress
    ) as bar:
        for interval in range(first, intervals):
            done = length * (interval + 1)
            new, report = _interval(
                now, data, held_out, stars, recipe=recipe, batch_size=batch_size, length=length
            )
            value, error, spread, finite, usable = jax.tree.map(np.asarray, report)
            if not (usable and np.all(finite)):
                bad = done if np.all(finite) else done - length + 1 + int(np.argmin(finite))
                raise TrainingError(
                    f"Training was not finite at step {bad}; lower the learning rate or look for "
                    f"outliers in the data. The last good parameters, of step {done - length}, "
                    "are in the `params` of this error.",
                    bad,
                    now.params,
                )
            now = new
            rows.append((done, value, error * scales.target, spread))
            bar.set_postfix(loss=f"{value:.4g}", validation=f"{rows[-1][2]:.4g}", refresh=False)
            bar.update(length)
            report = dict(step=done, loss=float(value), validation_error=float(rows[-1][2]))
            if callback is not None and callback(now, report):
                break
    return as_trained(now, model, scales, strategy, rows)


def _check_memory(key, recipe, few, hyper, learn, batch_size):
    """Whether a state of training and what the gradients of a batch keep fit into memory."""
    state = _init.eval_shape(key, recipe, few, hyper, learn)
    count = sum(x.size for x in jax.tree.leaves(state.params))
    edges = batch_size * max(few.senders.shape[-1], leading_shape(few.nodes)[1])
    kept = _KEPT_PER_UNIT * edges * recipe.model.width * recipe.model.depth
    check_memory(
        4 * (_COPIES_OF_PARAMETERS * count + kept),
        f"{count} parameters and batches of {edges} edges",
        "lower width, depth or batch_size",
    )


def _stars(key, dataset, scales) -> Stars:
    """Receivers of the validation graphs in the model's units, to rank components by."""
    found = sample_stars(key, dataset, _RANKED_STARS)
    owner = found.receiver and normalise_nodes(found.receiver, scales)
    return found._replace(receiver=owner, senders=normalise_nodes(found.senders, scales))


def _check_model(model, strategy, train):
    """Whether a model is one for this strategy and these data."""
    if model.conservative != (strategy == "flathgn"):
        raise ValueError(
            f'The strategy "flathgn" and a FlatHGN go together: got the strategy "{strategy}" '
            f"and a {type(model).__name__}."
        )
    outputs = train.target.shape[-1]
    if model.outputs != outputs or model.variational != (strategy == "kl"):
        raise ValueError(
            f"The model is for outputs={model.outputs}, variational={model.variational}; this "
            f"data and strategy need outputs={outputs}, variational={strategy == 'kl'}."
        )
    if model.level != train.quantity.level:
        raise ValueError(
            f"The model predicts a quantity of {model.level}s, the data's {train.quantity.name} "
            f"is one of {train.quantity.level}s."
        )
    if train.quantity.level == "node" and not train.graphs.senders.shape[-1]:
        raise ValueError("A quantity of nodes needs edges along which messages are sent.")
