"""Strategies that make messages compact, and the network of each."""

import typing
from typing import Any

import flax.linen as nn
import numpy as np

from symjax_gn.data.border import check_kind, checked
from symjax_gn.data.checks import check_choice
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.units import Scales
from symjax_gn.networks import losses
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.layers import Properties

STRATEGIES = (*losses.STRATEGIES, "flathgn")
"""Those of graph networks, and that of Hamiltonians."""

PRUNED = ("l1", "kl", "pruning")
"""Strategies that prune unless they are asked not to."""

# The paper's weights, 1e-2 and 1, keep a network from learning weak forces until they fade.
DEFAULT_WEIGHT = {"l1": 1e-3, "kl": 1e-3, "flathgn": 1e-6}
PAPER_WEIGHT = {"l1": 1e-2, "kl": 1.0, "flathgn": 1e-6}

# Messages of all strategies but the bottleneck, as in the paper.
_MESSAGE_DIM = 100

NETWORKS: dict[str, dict[str, Any]] = {
    "power-laws": dict(),
    "paper": dict(power_laws=False, inputs="absolute", activation=nn.relu),
}
"""Options of networks by name: ours, and the paper's."""


@checked
def make_model(
    strategy: str,
    dataset: Dataset,
    scales: Scales | None = None,
    message_dim: int | None = None,
    **options: Any,
) -> GraphNet | FlatHGN:
    """The network of a strategy for a data set.

    Main arguments:
        strategy: one of `STRATEGIES`; "flathgn" has a `FlatHGN`, all others a `GraphNet`.
        dataset: graphs to learn from; their quantity, properties and space decide what the
            network takes and gives.

    Other Arguments:
        scales: units of the model, which a periodic box is measured in; None: the user's.
        message_dim: message components; None takes as many as the quantity has for
            "bottleneck", else 100.
        **options: attributes of the network.

    Raises:
        ValueError: the strategy is unknown, or does not fit the data.

    >>> import jax
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> make_model("l1", sgn.make_dataset(run)).message_dim
    100
    """
    check_choice("strategy", strategy, STRATEGIES)
    network = FlatHGN if strategy == "flathgn" else GraphNet
    hints = typing.get_type_hints(network)
    for name, value in options.items():
        check_choice(f"attribute of a {network.__name__}", name, hints)
        check_kind(name, value, hints[name])
    components = dataset.target.shape[-1]
    names = sorted(dataset.nodes.properties)
    positive = {name for name in names if np.all(np.asarray(dataset.nodes.properties[name]) > 0)}
    properties = Properties(
        tuple(name for name in names if name not in positive),
        tuple(name for name in names if name in positive),
    )
    quantity = dataset.quantity
    weight = quantity.weight if quantity.weight in names else None
    space = dataset.space if scales is None else dataset.space.scaled(1 / scales.length)
    common: dict[str, Any] = dict(
        outputs=components, properties=properties, weight=weight, space=space
    )
    if strategy == "flathgn":
        if not (quantity.vector and quantity.weight and dataset.nodes.velocity is not None):
            raise ValueError(
                "A Hamiltonian gives accelerations of bodies with velocities; the "
                f'{quantity.name} of this data needs another strategy, e.g. "bottleneck".'
            )
        return FlatHGN(**(common | options))
    if message_dim is None:
        message_dim = components if strategy == "bottleneck" else _MESSAGE_DIM
    common |= dict(level=quantity.level, message_dim=message_dim, variational=strategy == "kl")
    return GraphNet(**(common | options))
