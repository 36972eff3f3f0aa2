"""What noise hides: how accelerations are weighted, and which terms a force has.

Without noise, terms are told by how far the error falls. Noise is an error that does not fall:
what is there is told from what is not by whether held-out errors differ more than by chance.
"""

import numpy as np
from jaxtyping import Float

from symjax_gn.discovery.finishing import FALL, finer, needed, simplified
from symjax_gn.discovery.kernels import (
    Fit,
    accelerations,
    fit_again,
    fit_terms,
    make_spline,
    ready,
    solved,
)
from symjax_gn.discovery.recording import StarForces
from symjax_gn.discovery.selection import as_good
from symjax_gn.discovery.structure import MOST_TERMS, SMOOTH, Candidates
from symjax_gn.laws.samples import SHARE, Samples, reweighted

# Shares of the typical acceleration that are tried as the size of noise.
_SHARES = np.geomspace(SHARE, 100.0, 31)

# Pieces of kernels whose error shows that finer ones do not help, and of further terms.
_COARSE, _PIECES = 14, 8

# Errors differ by so many standard errors: of a hundred terms that are tried the best one does
# by two or three by chance.
_FAR = 4.0


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


def is_noisy(fit: Fit, train: Samples, valid: Samples) -> bool:
    """Whether what a fit leaves would be no less with finer splines.

    Args:
        fit: terms with splines as fine as the data allow.
        train: bodies that were fitted.
        valid: bodies of other recordings.
    """
    coarse = fit_terms(fit.terms, train, valid, _COARSE)
    return fit.error > SMOOTH and coarse.error < FALL * fit.error


def find_terms_in_noise(stars: StarForces, fit: Fit, train: Samples, valid: Samples) -> Fit:
    """The terms of a force that has noise, starting with those that are seen through it.

    Terms are added as long as one lowers the held-out error far more than by chance, of those
    that do so alike the simplest; simpler ones take the place of those that are no better, and
    those that are needless are left out.

    Args:
        stars: what the network says of pairs.
        fit: the terms to start with.
        train: bodies whose accelerations are fitted.
        valid: bodies of other recordings.
    """
    ends = train, valid
    share = noise_share(valid, accelerations(fit, valid))
    train, valid = (reweighted(one, accelerations(fit, one), share) for one in ends)
    rows = [ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    best = solved(rows, train, valid)
    candidates = Candidates(stars, train.owners, train.target.shape[1])
    while len(rows) < MOST_TERMS:
        trials = []
        for term in candidates.beside([row.term for row in rows], best):
            more = [*rows, ready(term, make_spline(term, train, _PIECES), train, valid)]
            trials.append((solved(more, train, valid), more))
        least = min((trial for trial, _ in trials), key=lambda trial: trial.error)
        if _no_worse(best, least):
            break
        good = [one for one in trials if _no_worse(one[0], least)]
        best, rows = min(good, key=lambda one: one[1][-1].term.complexity)
    best, rows = simplified(best, rows, train, valid, _no_worse)
    return fit_again(needed(best, rows, train, valid, _no_worse)[0], *ends)


def _no_worse(fit, other):
    """Whether one fit errs no more than another, or by no more than chance allows."""
    return as_good(fit.errors, other.errors, 1.0, chance=_FAR)


def finish_in_noise(fit: Fit, train: Samples, valid: Samples) -> Fit:
    """The same terms with kernels in as many pieces as lower the error more than by chance."""
    rows = [ready(*one, train, valid) for one in zip(fit.terms, fit.splines, strict=True)]
    return finer(solved(rows, train, valid), rows, train, valid, _less)[0]


def _less(fit, other):
    """Whether one fit errs less than another, by more than chance allows."""
    return not as_good(other.errors, fit.errors, 1.0)
