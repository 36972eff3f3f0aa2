"""Training prepared: everything checked, in the model's units, and ready to be compiled."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from symjax_gn.compiling import in_32_bits
from symjax_gn.data.border import checked
from symjax_gn.data.checks import LARGEST_COUNT, check_choice, check_count, check_number
from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.graphs import GraphsTuple
from symjax_gn.data.memory import check_memory
from symjax_gn.data.nodes import leading_shape
from symjax_gn.data.sampling import Stars, sample_stars
from symjax_gn.data.soundness import check_dataset
from symjax_gn.data.units import Scales, measure_scales, normalise, normalise_nodes
from symjax_gn.model import graphs_at_once
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.layers import check_precision
from symjax_gn.networks.losses import LOSSES
from symjax_gn.networks.steps import OPTIMIZERS, Hyperparameters, Recipe, TrainState, init
from symjax_gn.networks.strategies import DEFAULT_WEIGHT, PRUNED, STRATEGIES, make_model

INTERVALS = 20
"""Reports of a training."""

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

_init = in_32_bits(jax.jit(init, static_argnames=("recipe", "learn")))


class Prepared(NamedTuple):
    """All that training needs beside its state."""

    recipe: Recipe
    scales: Scales
    hyper: Hyperparameters
    train: Dataset
    """Model's units, in the order of the largest targets, largest first."""
    validation: Dataset
    """A part of the validation graphs, model's units."""
    stars: Stars | None
    """Receivers to rank components by, model's units; None without pruning."""
    learn: tuple[str, ...]
    """Names of properties that are learned."""
    batch_size: int
    """Graphs per update."""
    length: int
    """Steps of an interval."""

    @property
    def few(self) -> GraphsTuple:
        """One graph, of which states are made."""
        return take(self.validation, np.arange(1)).graphs

    @property
    def intervals(self) -> int:
        """How many there are."""
        return self.recipe.steps // self.length

    def init(self, key: PRNGKeyArray, hyper: Hyperparameters | None = None) -> TrainState:
        """A fresh state."""
        return _init(key, self.recipe, self.few, hyper or self.hyper, self.learn)

    def bytes_needed(self) -> tuple[float, str]:
        """About how much memory one model takes in training, and for what."""
        start = functools.partial(init, recipe=self.recipe, learn=self.learn)
        state = jax.eval_shape(start, jax.random.key(0), graphs=self.few, hyper=self.hyper)
        count = sum(x.size for x in jax.tree.leaves(state.params))
        few, model = self.few, self.recipe.model
        edges = self.batch_size * max(few.senders.shape[-1], leading_shape(few.nodes)[1])
        kept = _KEPT_PER_UNIT * edges * model.width * model.depth
        what = f"{count} parameters and batches of {edges} edges"
        return 4.0 * (_COPIES_OF_PARAMETERS * count + kept), what


@checked
def prepare(
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
) -> Prepared:
    """Check and prepare what `fit` and `sweep` are given; see `fit` for the arguments.

    Args:
        key: PRNG key of the choice of receivers to rank components by.

    Raises:
        ValueError: an argument or the data are wrong.
    """
    check_choice("strategy", strategy, STRATEGIES)
    check_choice("loss", loss, LOSSES)
    counts = dict(steps=steps, batch_size=batch_size, intervals=intervals)
    for name, value in counts.items():
        check_count(name, value, most=LARGEST_COUNT)
    check_number("focus", focus, least=1)
    check_number("weight_decay", weight_decay, least=0)
    for name, part in (("training", train), ("validation", validation)):
        check_dataset(part, name)
    if penalty_weight is not None:
        check_number("penalty_weight", penalty_weight, least=0)
    if isinstance(optimizer, str):
        check_choice("optimizer", optimizer, OPTIMIZERS)
        check_number("learning_rate", learning_rate, above=0)
    learn = tuple(learn)
    for name in learn:
        if name in train.nodes.properties:
            raise ValueError(f"The {name} is in the data; it cannot be learned as well.")
    scales = measure_scales(train) if scales is None else scales
    scales = scales._replace(properties=scales.properties | dict.fromkeys(learn, 1.0))
    if model is None:
        model = make_model(strategy, _with_numbers(train, learn, 1), scales)
    _check_model(model, strategy, train)
    check_precision(model.precision)
    if model.conservative:
        # One unit of energy: that of momentum times velocity and of force times length.
        scales = scales._replace(velocity=math.sqrt(scales.target * scales.length))
    prune = strategy in PRUNED if prune is None else prune
    length = math.ceil(steps / intervals)
    weight = DEFAULT_WEIGHT.get(strategy, 0.0) if penalty_weight is None else penalty_weight

    size = np.linalg.norm(np.asarray(train.target), axis=-1)
    if train.mask is not None:
        size = np.where(np.asarray(train.mask), size, 0.0)
    largest = size if size.ndim == 1 else np.max(size, axis=1)
    at_once = min(_VALIDATION_GRAPHS, graphs_at_once(validation, _EDGES_AT_ONCE))
    kept = np.linspace(0, len(validation) - 1, at_once).astype(int)
    held_out = take(validation, np.unique(kept))
    return Prepared(
        recipe=Recipe(model, strategy, loss, optimizer, prune, length * intervals),
        scales=scales,
        hyper=Hyperparameters(*map(float, (learning_rate, weight, weight_decay, focus))),
        train=normalise(take(train, np.argsort(-largest, kind="stable")), scales),
        validation=normalise(held_out, scales),
        stars=_stars(key, _with_numbers(held_out, learn, 0), scales) if prune else None,
        learn=learn,
        # As many graphs at once as fit into memory with all that their gradients keep.
        batch_size=min(batch_size, graphs_at_once(train, _EDGES_AT_ONCE)),
        length=length,
    )


def check_fits(prepared: Prepared) -> None:
    """Raise a `ValueError` if one model does not fit into memory."""
    needed, what = prepared.bytes_needed()
    check_memory(needed, what, "lower width, depth or batch_size")


def _with_numbers(dataset, learn, first):
    """The dataset with bodies' numbers, from `first`, in place of what is to be learned."""
    nodes = dataset.nodes
    shape = leading_shape(nodes)
    numbers = np.broadcast_to(first + np.arange(shape[1], dtype=np.float32), shape)
    nodes = nodes._replace(properties=nodes.properties | dict.fromkeys(learn, numbers))
    return dataclasses.replace(dataset, graphs=dataset.graphs._replace(nodes=nodes))


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
