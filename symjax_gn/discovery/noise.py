"""How accelerations with noise are weighted."""

import numpy as np
from jaxtyping import Float

from symjax_gn.laws.samples import SHARE, Samples, reweighted

# Shares of the typical acceleration that are tried as the size of noise.
_SHARES = np.geomspace(SHARE, 100.0, 31)


def noise_share(bodies: Samples, predicted: Float[np.ndarray, "node dim"]) -> float:
    """The share for `reweighted` by which errors of large and small accelerations spread alike.

    It is large for noise that is the same for all, and 0.1 for errors that grow with what is
    predicted: the most likely one, if errors have a double exponential distribution.

    Args:
        bodies: held out of what made the predictions.
        predicted: `[node, dim]`.
    """
    left = np.linalg.norm(bodies.target - predicted, axis=1)
    if not np.any(left):
        return SHARE

    def unlikely(share):
        weight = reweighted(bodies, predicted, share).weight
        return np.log(np.mean(left * weight)) - np.mean(np.log(weight))

    return float(min(_SHARES, key=unlikely))
