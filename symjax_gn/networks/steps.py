"""One step of training, and all that it needs to go on in one state.

A loop of one's own needs nothing else:

    recipe = Recipe(model, strategy="l1")
    state = init(key, recipe, data.graphs)
    for batch in batches:
        state, info = step(state, batch, recipe)
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from optax import contrib

from symjax_gn.data.checks import check_choice
from symjax_gn.data.datasets import Dataset, target_mask
from symjax_gn.data.graphs import GraphsTuple, edge_mask, flatten
from symjax_gn.model import predict
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.losses import LOSSES, message_penalty
from symjax_gn.networks.pruning import TOLERANCE, Cut, fade

OPTIMIZERS = ("muon", "adam")


# The shape of the one-cycle schedule in parts of the training, as fine as any step.
_ONE_CYCLE = optax.cosine_onecycle_schedule(
    1_000_000, 1.0, pct_start=0.1, div_factor=10.0, final_div_factor=1e3
)


class Hyperparameters(NamedTuple):
    """Numbers that training may change, or a sweep may vary, without compiling anew."""

    learning_rate: float | Float[Array, ""] = 1e-2
    """Peak of the one-cycle schedule (named optimisers only)."""
    penalty_weight: float | Float[Array, ""] = 0.0
    """Factor of the message penalty."""
    weight_decay: float | Float[Array, ""] = 0.0
    """Decoupled weight decay (named optimisers only)."""
    focus: float | Float[Array, ""] = 2.0
    """Importance-sampling exponent: graphs are sorted by their largest target, and index
    floor(N u^focus), u ~ U(0, 1), is drawn; 1 draws all alike."""
    prune_tolerance: float | Float[Array, ""] = TOLERANCE
    """Largest rise of the validation loss, over that of predicting nothing, that a cut of
    message components may cost."""
    translation: float | Float[Array, ""] = 3.0
    """Standard deviation of the random translations with which absolute positions are shown
    (paper, appendix A), model's unit; 0 for none."""
    initial_scale: float | Float[Array, ""] = 1.0
    """Factor of the initial weight matrices."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is fixed in training; hashable, a static argument of `jit`.

    Attributes:
        model: the network.
        strategy: one of `STRATEGIES`.
        loss: "relative", or "absolute" as in the paper; see `losses`.
        optimizer: "muon", "adam", or any optax transformation, which then has its own
            learning rate and weight decay.
        prune: whether the least significant message components are masked as training
            goes on; penalties then fade.
        steps: number of updates over which schedules run.
    """

    model: GraphNet | FlatHGN
    strategy: str = "bottleneck"
    loss: str = "relative"
    optimizer: str | optax.GradientTransformation = "muon"
    prune: bool = False
    steps: int = 8000


class TrainState(NamedTuple):
    """All that training needs to go on; a checkpoint of it is the run."""

    params: Any
    """Parameters: `network`, and `learned`, logarithms of properties of bodies by name."""
    opt_state: optax.OptState
    """State of the optimiser."""
    mask: Float[Array, " message"]
    """[message], 1 for message components in use and 0 for pruned ones."""
    cut: Cut
    """What pruning can go back to."""
    key: PRNGKeyArray
    """Key of the next step."""
    step: Int[Array, ""]
    """Number of steps done."""
    hyper: Hyperparameters
    """Arrays."""


class TrainInfo(NamedTuple):
    """What one step reports."""

    loss: Float[Array, ""]
    """Loss of the batch, in the model's unit."""
    penalty: Float[Array, ""]
    """Message penalty of the batch, before its weight."""


@functools.cache
def _make_optimizer(name):
    """An optimiser whose learning rate and weight decay are arrays in its state."""
    check_choice("optimizer", name, OPTIMIZERS)

    def build(learning_rate, weight_decay):
        if name == "muon":
            return contrib.muon(learning_rate, weight_decay=weight_decay)
        return optax.adamw(learning_rate, weight_decay=weight_decay)

    return optax.inject_hyperparams(build)(learning_rate=1.0, weight_decay=0.0)


def _optimizer(recipe) -> optax.GradientTransformation:
    named = isinstance(recipe.optimizer, str)
    return _make_optimizer(recipe.optimizer) if named else recipe.optimizer


def init(
    key: PRNGKeyArray,
    recipe: Recipe,
    graphs: GraphsTuple,
    hyper: Hyperparameters = Hyperparameters(),  # noqa: B008
    learn: tuple[str, ...] = (),
) -> TrainState:
    """A fresh state for graphs like the given ones (model's units); works under `jit`.

    Args:
        key: PRNG key of the parameters and of all that training draws.
        recipe: what is fixed.
        graphs: a few stacked graphs.
        hyper: numbers that may change.
        learn: names of properties of bodies that are not known and are to be learned; the
            same bodies in all graphs.
    """
    init_key, run_key = jax.random.split(key)
    count = jax.tree.leaves(graphs.nodes)[0].shape[1]
    learned = {name: jnp.zeros(count) for name in learn}
    one = jax.tree.map(lambda x: x[:1], graphs.nodes)
    few = graphs._replace(
        nodes=with_learned(one, learned),
        senders=graphs.senders[:1] if graphs.senders.ndim == 2 else graphs.senders,
        receivers=graphs.receivers[:1] if graphs.receivers.ndim == 2 else graphs.receivers,
        globals=None,
        n_node=graphs.n_node[:1],
        n_edge=graphs.n_edge[:1],
    )
    network = recipe.model.init(init_key, flatten(few))
    network = jax.tree.map(lambda x: hyper.initial_scale * x if x.ndim > 1 else x, network)
    params = dict(network=network, learned=learned)
    mask = jnp.ones(recipe.model.message_dim)
    # Of the types that come out of a step: others would be compiled for once more.
    nothing = Cut(params, mask, mask, jnp.full((), jnp.inf, mask.dtype), jnp.ones(()))
    return TrainState(
        params=params,
        opt_state=_optimizer(recipe).init(params),
        mask=mask,
        cut=nothing,
        key=run_key,
        step=jnp.zeros((), jnp.int32),
        hyper=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hyper),
    )


def with_learned(nodes, learned):
    """Nodes with the properties that are being learned, which are positive."""
    if not learned:
        return nodes
    shape = jax.tree.leaves(nodes)[0].shape[:2]
    values = {name: jnp.broadcast_to(jnp.exp(x), shape) for name, x in learned.items()}
    return nodes._replace(properties=nodes.properties | values)


def step(state: TrainState, batch: Dataset, recipe: Recipe) -> tuple[TrainState, TrainInfo]:
    """One update on a batch of graphs in the model's units; composes under `jit` and `vmap`.

    Args:
        state: what `init` or the last step gave.
        batch: graphs with targets, e.g. `take(data, index)`.
        recipe: what is fixed.
    """
    model, hyper = recipe.model, state.hyper
    key, shift_key, sample_key = jax.random.split(state.key, 3)
    progress = state.step / recipe.steps
    graphs = batch.graphs
    if model.inputs == "absolute" and graphs.nodes.position is not None:
        dim = graphs.nodes.position.shape[-1]
        shift = hyper.translation * jax.random.normal(shift_key, (dim,))
        nodes = graphs.nodes._replace(position=graphs.nodes.position + shift)
        graphs = graphs._replace(nodes=nodes)
    loss_fn = LOSSES[recipe.loss]
    known = target_mask(batch)
    known = None if known is None else known[..., 0]
    weight = hyper.penalty_weight * (fade(progress) if recipe.prune else 1.0)

    def objective(params):
        seen = graphs._replace(nodes=with_learned(graphs.nodes, params["learned"]))
        noise = sample_key if model.variational else None
        prediction = predict(model, params["network"], seen, state.mask, noise)
        value = loss_fn(prediction.value, batch.target, known)
        if prediction.velocity is not None:
            value += loss_fn(prediction.velocity, graphs.nodes.velocity, known)
        penalty = message_penalty(recipe.strategy, prediction, edge_mask(graphs))
        return value + weight * penalty, TrainInfo(value, penalty)

    grads, info = jax.grad(objective, has_aux=True)(state.params)
    opt_state: Any = state.opt_state
    if isinstance(recipe.optimizer, str):
        rate = hyper.learning_rate * _ONE_CYCLE(1_000_000 * progress)
        numbers = dict(learning_rate=rate, weight_decay=hyper.weight_decay)
        opt_state = opt_state._replace(hyperparams=opt_state.hyperparams | numbers)
    updates, opt_state = _optimizer(recipe).update(grads, opt_state, state.params)
    # Schedules are float64 where JAX has 64 bits enabled.
    opt_state = jax.tree.map(lambda new, old: new.astype(old.dtype), opt_state, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    return state._replace(params=params, opt_state=opt_state, key=key, step=state.step + 1), info
