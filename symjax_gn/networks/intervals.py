"""An interval of training as one program: steps, pruning, and a look at validation graphs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from symjax_gn.data.datasets import Dataset, take, target_mask
from symjax_gn.data.sampling import Stars
from symjax_gn.model import predict
from symjax_gn.networks.losses import LOSSES
from symjax_gn.networks.pruning import contributions_of, keep_or_undo, rank_components
from symjax_gn.networks.steps import Recipe, TrainState, step, with_learned


class Report(NamedTuple):
    """What is known at the end of an interval, in the model's unit."""

    loss: Float[Array, ""]
    """Mean training loss."""
    validation_error: Float[Array, ""]
    """Mean over graphs of the sum over nodes and components of |a - a_hat|."""
    message_std: Float[Array, " message"]
    """[message], standard deviations on validation graphs."""
    finite: Bool[Array, " step"]
    """[step], whether loss and penalty were."""
    usable: Bool[Array, ""]
    """Whether all parameters are finite."""


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


def _by_number(nodes, learned):
    """Nodes with the learned properties of the bodies whose numbers stand in their place."""
    if nodes is None or not learned:
        return nodes
    numbers = {name: nodes.properties[name].astype(jnp.int32) for name in learned}
    values = {name: jnp.exp(x)[numbers[name]] for name, x in learned.items()}
    return nodes._replace(properties=nodes.properties | values)


def run_interval(
    state: TrainState,
    train: Dataset,
    validation: Dataset,
    stars: Stars | None,
    *,
    recipe: Recipe,
    batch_size: int,
    length: int,
    first: int | Int[Array, ""] = 0,
    num_graphs: int | None = None,
    spread: Callable[[Int[Array, " batch"]], Int[Array, " batch"]] = lambda index: index,
) -> tuple[TrainState, Report]:
    """A number of steps, then pruning and a report; composes under `jit` and `vmap`.

    Args:
        state: of training.
        train: graphs in the order of their largest target, largest first; model's units.
        validation: graphs for the report and for pruning.
        stars: receivers to rank components by, where the recipe prunes.
        recipe: what is fixed.
        batch_size: graphs per step.
        length: steps.
        first: the number of the first graph of `train` that is learned from.
        num_graphs: how many are; None: all.
        spread: places the graphs of a batch on devices.
    """
    count = len(train) if num_graphs is None else num_graphs

    def body(state, _):
        key, pick_key = jax.random.split(state.key)
        focus = _focus(state.hyper.focus, state.step / recipe.steps)
        index = spread(first + draw(pick_key, count, batch_size, focus))
        return step(state._replace(key=key), take(train, index), recipe)

    state, info = jax.lax.scan(body, state, length=length)
    graphs = validation.graphs
    learned = state.params["learned"]
    graphs = graphs._replace(nodes=with_learned(graphs.nodes, learned))
    prediction = predict(recipe.model, state.params["network"], graphs, state.mask)
    known = target_mask(validation)
    if recipe.prune:
        assert stars is not None
        # On messages without noise, which under KL says more than the loss of training.
        loss_fn = LOSSES[recipe.loss]
        flat = None if known is None else known[..., 0]
        target = validation.target
        value, nothing = (loss_fn(x, target, flat) for x in (prediction.value, 0 * target))
        ends: Any = dict(
            receiver=_by_number(stars.receiver, learned), senders=_by_number(stars.senders, learned)
        )
        stars = stars._replace(**ends)
        found = contributions_of(recipe.model, state.params["network"], stars, state.mask)
        params, mask, cut = keep_or_undo(
            state.params,
            state.mask,
            state.cut,
            value / nothing,
            rank_components(found, stars.present),
            state.step / recipe.steps,
            state.hyper.prune_tolerance,
        )
        state = state._replace(params=params, mask=mask, cut=cut)
    error = jnp.abs(prediction.value - validation.target)
    error = error if known is None else error * known
    usable = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.params)]
    return state, Report(
        loss=jnp.mean(info.loss),
        validation_error=jnp.sum(error) / len(validation),
        message_std=jnp.std(prediction.messages, axis=(0, 1)),
        finite=jnp.isfinite(info.loss) & jnp.isfinite(info.penalty),
        usable=jnp.all(jnp.stack(usable)),
    )
