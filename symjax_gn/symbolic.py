"""Distilled laws in place of the network: accelerations from expressions."""

from collections.abc import Sequence

import jax
import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.expressions import to_numpy
from symjax_gn.graphs import Dataset
from symjax_gn.messages import pair_features


def law_accelerations(
    force: Sequence[sympy.Expr], one_body: Sequence[sympy.Expr], dataset: Dataset
) -> Float[np.ndarray, "graph node dim"]:
    """Accelerations `[graph, node, dim]` that laws predict for any number of bodies.

    Args:
        force: force on the receiver from the sender along each axis, of the features of
            `messages.pair_features`, user's units.
        one_body: force on the receiver alone along each axis, of its own features.
        dataset: graphs in the user's units; only bodies and edges are used.
    """
    nodes = jax.tree.map(lambda x: np.asarray(x, np.float64), dataset.nodes)
    receiver, sender = (
        jax.tree.map(lambda x, i=i: x[:, np.asarray(i)], nodes)
        for i in (dataset.receivers, dataset.senders)
    )
    pairs = _evaluate(force, pair_features(receiver, sender))
    total = _evaluate(one_body, pair_features(nodes, nodes))
    for edge, node in enumerate(np.asarray(dataset.receivers)):
        total[:, node] += pairs[:, edge]
    return total / nodes.mass[..., None]


def law_error(
    force: Sequence[sympy.Expr], one_body: Sequence[sympy.Expr], dataset: Dataset
) -> tuple[float, float]:
    """Error of the laws' accelerations and the size of what is predicted.

    In the unit of `train.held_out_error`: means over graphs of sums over nodes and
    dimensions of |a - a_hat| and of |a|. Infinite where a law is not finite.
    """
    target = np.asarray(dataset.acceleration, np.float64)
    with np.errstate(all="ignore"):
        error = np.abs(law_accelerations(force, one_body, dataset) - target)
    error = np.where(np.isfinite(error), error, np.inf)
    return float(np.mean(np.sum(error, axis=(1, 2)))), float(
        np.mean(np.sum(np.abs(target), axis=(1, 2)))
    )


def _evaluate(expressions, features):
    columns = np.stack([np.asarray(x, np.float64) for x in features.values()], axis=-1)
    values = [to_numpy(expression, list(features))(columns) for expression in expressions]
    return np.stack(values, axis=-1)
