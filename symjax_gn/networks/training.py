"""Training of a network: intervals one after the other, with progress and reports."""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax.errors import ScopeParamShapeError
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm import tqdm

from symjax_gn.compiling import in_32_bits
from symjax_gn.data.border import checked
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.features import described
from symjax_gn.data.graphs import GraphsTuple
from symjax_gn.data.inputs import Data, Needs, flat_batches
from symjax_gn.data.nodes import Nodes, leading_shape
from symjax_gn.data.units import Scales, normalise_nodes
from symjax_gn.networks.checkpoints import Checkpoints, describe
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.intervals import run_interval
from symjax_gn.networks.preparation import INTERVALS, Prepared, check_fits, prepare
from symjax_gn.networks.steps import TrainState


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

    @property
    def needs(self) -> Needs:
        """What the network needs of data; velocities are taken where there are any."""
        names = [name for name in self.scales.properties if name not in self.learned]
        fields: dict[str, list[str]] = {name: [] for name in names}
        dim = None
        if self.scales.centre is not None:
            fields["position"] = []
            dim = len(self.scales.centre)
        level = self.model.level
        space = self.model.space.scaled(self.scales.length)
        joined = dim is not None and level == "node"
        return Needs("The network", fields, level, joined, dim, space, ("velocity",))

    def predict(self, data: Data) -> Any:
        """The quantity in the user's units, for all that `SymbolicModel.predict` takes.

        Raises:
            ValueError: the data lack something that the network was trained with.
        """
        graphs, restore = flat_batches(data, self.needs)
        return restore([self._predict_flat(one) for one in graphs])

    def _predict_flat(self, flat: GraphsTuple) -> Float[np.ndarray, "owner component"]:
        count = leading_shape(flat.nodes)[0]
        columns = {n: x for n, x in flat.nodes.properties.items() if n in self.scales.properties}
        for name, x in self.learned.items():
            if count % len(x):
                raise ValueError(f"The network learned the {name} of {len(x)} bodies, got {count}.")
            columns[name] = np.tile(x, count // len(x))
        nodes = normalise_nodes(flat.nodes._replace(properties=columns), self.scales)
        try:
            value = _predict(self.params, self.mask, flat._replace(nodes=nodes), model=self.model)
        except ScopeParamShapeError as error:
            raise ValueError(
                "The network was trained on nodes with other features than these, which have: "
                f"{described(nodes)}. Velocities and edges must be there just if they were in "
                "training."
            ) from error
        return np.asarray(value, np.float64) * self.scales.target


@in_32_bits
@functools.partial(jax.jit, static_argnames="model")
def _predict(params, mask, graphs, *, model):
    return model.apply(params, graphs, mask=mask).value


def as_trained(
    state: TrainState,
    model: GraphNet | FlatHGN,
    scales: Scales,
    strategy: str,
    history: History | None = None,
) -> Trained:
    """The network of a state, as a callback of `fit` receives it, on its own.

    Its products are float32 whatever they were in training.

    Args:
        state: of training.
        model: the network.
        scales: units of the model.
        strategy: one of `STRATEGIES`.
        history: of the training; None for none.
    """
    history = History(*(np.zeros(0) for _ in History._fields)) if history is None else history
    learned = {name: np.exp(np.asarray(x)) for name, x in state.params["learned"].items()}
    network = state.params["network"]
    model = model.clone(precision="float32")
    return Trained(model, network, state.mask, scales, strategy, history, learned)


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


_interval = in_32_bits(jax.jit(run_interval, static_argnames=("recipe", "batch_size", "length")))


@checked
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
    intervals: int = INTERVALS,
    learn: tuple[str, ...] = (),
    scales: Scales | None = None,
    state: TrainState | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = True,
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
        folder: where the state is saved after each interval. A run that was killed goes on
            from there when it is started again, and ends in the same parameters.
        resume: False starts from the beginning whatever is in the folder.
        progress: whether to show a progress bar.
        callback: called after each interval with the state and the report (step, loss,
            validation_error), and with the last one that is in the folder; returning True ends
            the training.

    Raises:
        ValueError: an argument or the data are wrong, or the folder holds checkpoints of
            another training or is in use.
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
    init_key, star_key = jax.random.split(key)
    prepared = prepare(
        star_key,
        train,
        validation,
        strategy=strategy,
        steps=steps,
        model=model,
        loss=loss,
        penalty_weight=penalty_weight,
        prune=prune,
        optimizer=optimizer,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        focus=focus,
        intervals=intervals,
        learn=learn,
        scales=scales,
    )
    check_fits(prepared)
    recipe, scales, length = prepared.recipe, prepared.scales, prepared.length
    fixed = dict(recipe=recipe, batch_size=prepared.batch_size, length=length)
    data = prepared.train, prepared.validation, prepared.stars
    now = prepared.init(init_key) if state is None else state
    first = int(now.step) // length
    history = new_history(prepared)
    with contextlib.ExitStack() as open_:
        kept = None
        if folder is not None:
            about = describe(key, prepared, at=first)
            kept = open_.enter_context(Checkpoints(folder, about, resume=resume))
            last = kept.last((now, history))
            if last is not None:
                first, (now, history) = last
                history = History(*(np.array(column) for column in history))
                # The run may have ended before this was looked at.
                if callback is not None and callback(now, _report(history, first - 1)):
                    first = prepared.intervals
        bar = open_.enter_context(
            tqdm(
                total=recipe.steps,
                initial=first * length,
                desc="train",
                unit="step",
                disable=not progress,
            )
        )
        for interval in range(first, prepared.intervals):
            done = length * (interval + 1)
            new, found = _interval(now, *data, **fixed)
            value, error, spread, finite, usable = jax.tree.map(np.asarray, found)
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
            for column, x in zip(
                history, (done, value, error * scales.target, spread), strict=True
            ):
                column[interval] = x
            if kept is not None:
                kept.save(interval + 1, (now, history))
            report = _report(history, interval)
            shown = {name: f"{report[name]:.4g}" for name in ("loss", "validation_error")}
            bar.set_postfix(shown, refresh=False)
            bar.update(length)
            if callback is not None and callback(now, report):
                break
    history = History(*(column[history.step > 0] for column in history))
    return as_trained(now, recipe.model, scales, strategy, history)


def _report(history, interval):
    """What a callback is told."""
    return dict(
        step=int(history.step[interval]),
        loss=float(history.loss[interval]),
        validation_error=float(history.validation_error[interval]),
    )


def new_history(prepared: Prepared, *members: int) -> History:
    """A history to be filled, `[interval, ...]`, or `[interval, member, ...]`; steps are 0."""
    shape = (prepared.intervals, *members)
    nothing = np.full((*shape, prepared.recipe.model.message_dim), np.nan)
    return History(
        np.zeros(shape, np.int32), np.full(shape, np.nan), np.full(shape, np.nan), nothing
    )
