"""What every model is, network or law: the protocol, its prediction, its error."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from symjax_gn.data.border import checked
from symjax_gn.data.checks import shown
from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.graphs import GraphsTuple, flatten, node_mask
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape
from symjax_gn.data.soundness import check_dataset

# Edges looked at together: enough to fill vector units, few enough for any memory.
_MOST_EDGES = 50_000


class Prediction(NamedTuple):
    """What a model gives for a flat batch of graphs."""

    value: Float[Array, "*owner component"]
    """[node, component] or [graph, component], the predicted quantity."""
    messages: Float[Array, "element component"]
    """[edge, component], or [node, component] where nodes send; of the KL strategy means."""
    log_variance: Float[Array, "element component"] | None = None
    """[edge, component] of the KL strategy, else None."""
    velocity: Float[Array, "node dim"] | None = None
    """[node, dim], dH/dp of a Hamiltonian, else None."""
    regulariser: Float[Array, ""] | None = None
    """What a Hamiltonian is to keep small, else None; see `FlatHGN`."""


class Contributions(NamedTuple):
    """What each sender adds to one receiver, as weight x quantity: a force, for bodies."""

    terms: Float[AnyArray, "sender component"]
    """[sender, component], what each message stands for."""
    alone: Float[AnyArray, " component"]
    """[component], what is there without any message."""
    value: Float[AnyArray, " component"]
    """[component], the predicted quantity."""
    messages: Float[AnyArray, "sender message"]
    """[sender, message], as they are sent."""
    offset: Float[AnyArray, " message"]
    """[message], what is the same in all messages and counts with `alone`."""
    jacobian: Float[AnyArray, "component message"]
    """[component, message], what a message is worth: d (weight x quantity) / d message."""


class Model(Protocol):
    """A network or a law: functions of parameters and a flat batch of graphs.

    The calling convention is that of flax: `apply(params, graphs)`, and with `method=` the
    parts `message` (phi_e of the paper), `update` (phi_v, or phi_u for quantities of whole
    graphs) and `contributions`.
    """

    @property
    def level(self) -> str:
        """What the predicted quantity is of: "node" or "graph"."""
        ...

    @property
    def init(self) -> Callable[..., Any]:
        """`init(key, graphs)`: parameters for graphs like these."""
        ...

    @property
    def apply(self) -> Callable[..., Any]:
        """`apply(params, graphs, mask=, key=)`: a `Prediction`; or what `method=` names."""
        ...


class Predictor(Protocol):
    """Anything that predicts in the user's units: a trained network, or a law."""

    def predict(self, data: Dataset, /) -> Float[AnyArray, "graph *node component"]:
        """The quantity of all graphs of a data set, user's units."""
        ...


@checked
def predict(
    model: Model,
    params: Any,
    graphs: GraphsTuple,
    mask: Float[Array, " component"] | None = None,
    key: PRNGKeyArray | None = None,
) -> Prediction:
    """Predictions for stacked graphs in the model's units; composes under `jit` and `vmap`.

    Args:
        model: network or law.
        params: its parameters.
        graphs: stacked graphs.
        mask: factor of each message component, for pruning.
        key: with it, variational messages are sampled.

    Returns:
        A `Prediction` whose arrays have a leading axis `[graph, ...]`.

    >>> import jax
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> data = sgn.make_dataset(run)
    >>> model = sgn.make_model("bottleneck", data)
    >>> few = take(data, np.arange(2)).graphs
    >>> predict(model, model.init(key, flatten(few)), few).value.shape
    (2, 4, 2)
    """
    found: Prediction = model.apply(params, flatten(graphs), mask=mask, key=key)
    count, size = leading_shape(graphs.nodes)
    edges = graphs.senders.shape[-1]
    parts = graphs.n_node.shape[-1]

    def split(x, inner):
        return None if x is None else x.reshape(count, inner, *x.shape[1:])

    sent = edges or size
    value: Any = split(found.value, size if model.level == "node" else parts)
    messages: Any = split(found.messages, sent)
    return Prediction(
        value if model.level == "node" else value[:, 0],
        messages,
        split(found.log_variance, sent),
        split(found.velocity, size),
        found.regulariser,
    )


def graphs_at_once(dataset: Dataset, most_edges: int) -> int:
    """How many graphs have no more edges in all than this, nor nodes; at least 1."""
    per_graph = max(dataset.graphs.senders.shape[-1], leading_shape(dataset.nodes)[1])
    return max(1, most_edges // per_graph)


def batches(dataset: Dataset, most_edges: int = _MOST_EDGES) -> Iterator[tuple[Dataset, int]]:
    """A data set in lots of graphs, in order, that fit into memory; and how many count.

    All lots have one size, so that one shape is compiled: the last is filled up with graphs
    that do not count.
    """
    size = min(len(dataset), graphs_at_once(dataset, most_edges))
    for start in range(0, len(dataset), size):
        count = min(size, len(dataset) - start)
        yield take(dataset, (start + np.arange(size)) % len(dataset)), count


@checked
def held_out_error(predictor: Predictor, dataset: Dataset) -> tuple[float, float]:
    """Error of a network or a law on graphs, and the size of what is predicted.

    Both are means over graphs of a sum over nodes and components: of |a - a_hat|, and of
    |a|; in the data's unit of the target. Infinite where a law is not finite.

    >>> import jax, sympy
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> r, dx, dy = sympy.symbols("r dx dy")
    >>> update = [sympy.Symbol(name) / sympy.Symbol("m_i") for name in ("e_0", "e_1")]
    >>> spring = [(2 * r - 1.98) * way / r for way in (dx, dy)]
    >>> error, size = held_out_error(sgn.SymbolicModel(spring, update), sgn.make_dataset(run))
    >>> error < 1e-4 * size
    True
    """
    if not callable(getattr(predictor, "predict", None)):
        raise ValueError(f"What predicts must be a network or a law, got {shown(predictor)}.")
    check_dataset(dataset, "test")
    error = size = 0.0
    for part, count in batches(dataset):
        target = np.asarray(part.target, np.float64)[:count]
        guess = np.asarray(predictor.predict(part), np.float64)[:count]
        with np.errstate(all="ignore"):
            gap = np.abs(guess - target)
        gap = np.where(np.isfinite(gap), gap, np.inf)
        known = known_targets(part)
        if known is not None:
            known = known[:count]
            gap, target = np.where(known, gap, 0.0), np.where(known, target, 0.0)
        error += float(np.sum(gap))
        size += float(np.sum(np.abs(target)))
    return error / len(dataset), size / len(dataset)


def known_targets(dataset: Dataset) -> Any:
    """`[graph, node, 1]`, True where a target is known; None: everywhere."""
    if dataset.quantity.level == "graph":
        return None
    mask = dataset.mask if dataset.mask is not None else node_mask(dataset.graphs)
    return None if mask is None else np.asarray(mask)[..., None]


def flat_nodes(nodes: Nodes) -> Nodes:
    """Nodes `[graph, node, ...]` with one leading axis."""
    count = int(np.prod(leading_shape(nodes)))
    return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), nodes)
