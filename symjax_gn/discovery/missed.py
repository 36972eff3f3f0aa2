"""What might have been missed: terms that explain what a law leaves."""

import dataclasses
import itertools
import math

import numpy as np
import sympy

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.features import scalar_features
from symjax_gn.discovery.fitter import Fits
from symjax_gn.discovery.noise import noise_share
from symjax_gn.discovery.residuals import predictions, what_is_left
from symjax_gn.discovery.separation import evaluate_terms, fit_terms
from symjax_gn.discovery.terms import (
    body_vectors,
    couplings,
    force_law,
    make_term,
    pair_vectors,
)
from symjax_gn.laws.law import Law
from symjax_gn.laws.samples import Samples, gather, reweighted
from symjax_gn.laws.shapes import Spline, place_knots
from symjax_gn.laws.symbolic import SymbolicModel

# Dozens of terms are tried: the best one must lower the error by so many standard errors.
_FAR = 3.0

# What is looked for: so many vectors, and couplings, which some samples tell apart.
_VECTORS, _COUPLINGS, _SOME = 3, 10, 400

# Pieces of splines that look for structure; and pairs, or of sums owners at least, that they
# are fitted to.
_PIECES, _PAIRS, _OWNERS = 6, 20_000, 1_000


def explained_by_terms(law: SymbolicModel, seen: Dataset, held_out: Dataset) -> float:
    """The share of what a law leaves that a term explains which it does not have.

    Terms are fitted with splines to what is left of the one half of the data, and explain that of
    the other. One at a time: many together would fit the noise, and hide what one of them finds.

    Args:
        law: whose targets these are.
        seen: what terms are fitted to.
        held_out: what they are to explain.
    """
    find = _explained_of_vectors if seen.quantity.vector else _explained_of_scalars
    return find(law, seen, held_out)


def _explained_of_vectors(law, *halves):
    """The share of what a law leaves that a term explains."""
    seen, held_out = (_left_by(law, half) for half in halves)
    fits, nothing = Fits(seen, held_out), force_law((), (), seen.target.shape[1])
    return _share(fits(nothing).errors, (fits(one).errors for one in _looked_for(seen)))


def _share(before, trials):
    """The share of errors of samples that the best of some trials takes off, less chance."""
    mean = float(np.mean(before))
    if mean == 0:
        return 0.0
    gaps = [before - after for after in trials]
    chance = _FAR / math.sqrt(len(before))
    return max([0.0, *(float(np.mean(x) - chance * np.std(x)) / mean for x in gaps)])


def _explained_of_scalars(law, *halves):
    """The same of a sum over elements, or of functions of one or two scalars."""
    seen, held_out = (_left_of_sums(law, half) for half in halves)
    components = zip(seen.target.T, held_out.target.T, strict=True)
    return max(_explained_of(seen, held_out, *component) for component in components)


def _explained_of(seen, held_out, target, there):
    """The same of one component."""
    after = []
    for name, x in scalar_features(seen.elements).items():
        knots = place_knots(x, _PIECES)
        spline = Spline(knots, np.zeros(len(knots) - 4))
        basis, other = (one.sums @ spline.basis(one.elements[name]) for one in (seen, held_out))
        after.append(there - other @ np.linalg.lstsq(basis.toarray(), target, rcond=None)[0])
    names = [name for name, x in seen.owners.items() if np.ptp(x) > 0]
    for terms in [[(name,)] for name in names] + [
        [(one,), (other,), (one, other)] for one, other in itertools.combinations(names, 2)
    ]:
        curves = fit_terms(terms, seen.owners, target, _PIECES)
        after.append(there - evaluate_terms(terms, curves, held_out.owners))
    return _share(np.abs(there), map(np.abs, after))


def _left_by(law, dataset) -> Samples:
    """Samples whose targets are what a law leaves of them, weighted by what it predicts."""
    predicted = predictions(law, dataset)
    several = [dataset.target, np.nan_to_num(predicted), what_is_left(predicted, dataset)]
    several = np.concatenate(several, axis=-1, dtype=np.float64)
    bodies = gather(dataclasses.replace(dataset, target=several), _PAIRS)
    target, predicted, left = np.split(bodies.target, 3, axis=1)
    bodies = bodies._replace(target=target)
    share = noise_share(bodies, predicted)
    return reweighted(bodies, predicted, share)._replace(target=left)


def _left_of_sums(law, dataset) -> Samples:
    """Owners of sums whose targets are what a law leaves, and what it predicts."""
    predicted = predictions(law, dataset)
    both = np.concatenate([what_is_left(predicted, dataset), predicted], axis=-1)
    sums = gather(dataclasses.replace(dataset, target=both), _PAIRS, _OWNERS)
    left, predicted = np.split(sums.target, 2, axis=1)
    told = {f"law {k}": column for k, column in enumerate(predicted.T)}
    own = scalar_features(sums.elements)
    told |= {name: sums.sums @ x for name, x in own.items() if not name.endswith("_i")}
    return sums._replace(target=left, owners=told | sums.owners)


def _looked_for(bodies: Samples) -> list[Law]:
    """Laws of a term each that might have been missed."""
    dim = bodies.target.shape[1]
    one = sympy.Integer(1)
    vectors = pair_vectors(bodies.elements, dim)[:_VECTORS]
    some = {name: column[:_SOME] for name, column in bodies.elements.items()}
    ways = [(vector, one) for vector in vectors]
    ways += [(vectors[0], way) for way in couplings(some, "ij", _COUPLINGS)[1:]]
    alone = body_vectors(bodies.owners, dim)
    return [force_law([make_term(*way, _PIECES)], (), dim) for way in ways] + [
        force_law((), [make_term(vector, one, _PIECES)], dim) for vector in alone
    ]
