"""Whether a network's messages say the same of pairs as a law that was found without them."""

import numpy as np
import sympy
from jaxtyping import PRNGKeyArray

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.features import TIME, pair_features
from symjax_gn.data.nodes import take_nodes
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.recording import force_unit, record
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import sum_symbols
from symjax_gn.laws.samples import with_differences
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.networks.training import Trained

# Receivers whose senders are compared.
_RECEIVERS = 400


def messages_apart(
    key: PRNGKeyArray, law: SymbolicModel, network: Trained, dataset: Dataset
) -> float | str:
    """How much the forces of senders on a receiver differ, by a law and by a network's messages.

    A network may add to all messages of a receiver what is the same for them, so only the
    differences between senders are compared. Errors are relative as those of accelerations.

    Args:
        key: PRNG key that chooses the receivers.
        law: whose messages are forces.
        network: the network.
        dataset: graphs in the user's units.

    Returns:
        The median relative difference; or what would be needed to tell.
    """
    dim = len(law.update)
    if network.model.conservative:
        return "messages, which energies are not"
    if not _sums_forces(law, dim):
        return "a law that is a sum of forces"
    if TIME in law.needs.fields:
        return "forces that do not change in time, of which a network knows nothing"
    recorded = record(key, network, dataset, _RECEIVERS)
    stars = recorded.stars
    several = np.flatnonzero(np.sum(stars.present, axis=1) > 1)
    if not several.size or stars.receiver is None:
        return "bodies that feel several others"
    owner, sender = np.nonzero(stars.present[several])
    owner = several[owner]
    ends = take_nodes(stars.receiver, owner), take_nodes(stars.senders, (owner, sender))
    columns = with_differences(pair_features(*ends, dataset.space))
    with np.errstate(all="ignore"):
        by_law = np.stack([values(one, columns) for one in law.message[:dim]], axis=1)
    by_network = recorded.every[owner, sender] * force_unit(network, dataset)
    told = np.all(np.isfinite(by_law), axis=1)
    by_law, by_network, owner = by_law[told], by_network[told], owner[told]
    gap, size = (_apart(x, owner) for x in (by_network - by_law, by_law))
    return float(np.median(gap / (size + 0.1 * typical_size(size) + 1e-300)))


def _sums_forces(law, dim):
    """Whether what is summed enters as it is."""
    sums = sum_symbols(len(law.message))
    return len(law.message) >= dim and all(
        not sympy.diff(one, e).free_symbols & set(sums) and not one.free_symbols & set(sums) - {e}
        for one, e in zip(law.update, sums, strict=False)
    )


def _apart(force, owner):
    """Sizes of vectors without the mean over each owner's."""
    _, place = np.unique(owner, return_inverse=True)
    total = np.stack([np.bincount(place, x) for x in force.T], axis=1)
    return np.linalg.norm(force - (total / np.bincount(place)[:, None])[place], axis=1)
