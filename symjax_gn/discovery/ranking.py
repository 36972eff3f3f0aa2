"""Which terms explain what a network has recorded of pairs: one by one, and several at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float
from scipy import sparse
from scipy.linalg import orth

from symjax_gn.discovery.recording import StarForces
from symjax_gn.discovery.terms import Vector, components, make_term
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import Fitted, Term, column
from symjax_gn.laws.shapes import Spline, place_knots

# Vectors are ranked with so many couplings, the simplest, and so many of them with all.
_SIMPLEST, _VECTORS = 40, 5

# Pieces of a kernel.
_RANKED = 6

# Couplings whose vectors are looked at together, of the simplest and those that rank best.
_COUPLINGS, _BEST = 24, 2

# The typical size of forces is at least this share of their root mean square.
_LEAST = 0.1

# Directions of splines of known terms that are no smaller than this share are known.
_RANK = 1e-8

# Columns below this share of the largest are nothing.
_NOTHING = 1e-9

# What keeps sums of splines that say the same apart, as a share.
_RIDGE = 1e-6


class _Recorded:
    """Recorded forces, and what terms with splines for kernels may explain of them.

    What is the same for all senders of a receiver has no say: a network cannot tell it from
    what the receiver feels by itself. Nor has what terms that are known may explain.
    """

    def __init__(self, stars: StarForces, fitted: Fitted | None):
        self._pairs, self._owner = stars.pairs, stars.owner
        count = int(self._owner[-1]) + 1
        alike = np.bincount(self._owner, minlength=count).astype(float)
        rows = (self._owner, np.arange(len(self._owner)))
        self._mean = sparse.csr_matrix((1 / alike[self._owner], rows), (count, len(self._owner)))
        self._centred = bool(np.max(alike) > 1)
        force = self._centre(stars.force)
        size = np.sqrt(self._mean @ np.sum(force**2, axis=1))
        # Where most feel nothing, what a network says of them is noise.
        typical = max(np.median(size), _LEAST * np.sqrt(np.mean(size**2)))
        self._weight = 1 / (size + 0.1 * typical + 1e-300)[self._owner][:, None]
        self._size = np.linalg.norm(force * self._weight, axis=1)
        self._known = np.zeros((stars.force.size, 0))
        self.left = (force * self._weight).T.ravel()
        if fitted is not None and fitted.law.message:
            known = [self._explained_by(term) for term in fitted.law.message]
            whole = np.concatenate(known, axis=1)
            self._known = orth(whole / (np.linalg.norm(whole, axis=0) + 1e-300), rcond=_RANK)
            self.left = self._unknown(self.left)
        self.total = float(np.sum(self.left**2)) + 1e-300
        self._bases: dict[sympy.Expr | None, Float[np.ndarray, "edge part"]] = {}

    def _explained_by(self, term):
        """What each part of a known term adds to forces `[row, part]`."""
        # Vectors have more components where there is another sum.
        count, dim = len(self._owner), self.left.size // len(self._owner)
        (first, *others), pairs = term.factors, self._pairs
        shape: Any = first.shape
        basis = shape.basis(column(first.variable, pairs, count)).toarray()
        for one in others:
            other: Any = one.shape
            basis = basis * _values_of(other, column(one.variable, pairs, count))[:, None]
        ways = term.components(pairs, count)[:dim]
        return self.columns([basis * way[:, None] for way in ways], np.ones((1, count)))[0]

    def _centre(self, x):
        return x - (self._mean @ x)[self._owner] if self._centred else x

    def _unknown(self, rows):
        return rows - self._known @ (self._known.T @ rows)

    def _basis(self, variable):
        """Values `[edge, part]` of a few splines of a variable."""
        if variable not in self._bases:
            x = values(variable, self._pairs)
            logarithmic = bool(np.all(x > 0))
            place = np.log(x) if logarithmic else x
            knots = place_knots(place, _RANKED, weight=self._size)
            spline = Spline(knots, np.zeros(len(knots) - 4), logarithmic)
            self._bases[variable] = spline.basis(x).toarray()
        return self._bases[variable]

    def parts(self, vector: Vector) -> list[Float[np.ndarray, "edge part"]]:
        """Splines times each component of a vector."""
        return _times(self._basis(vector.variable), vector, self._pairs)

    def columns(
        self,
        parts: Sequence[Float[np.ndarray, "edge part"]],
        factors: Float[np.ndarray, "coupling edge"],
    ) -> Float[np.ndarray, "coupling row part"]:
        """What they add to forces with each coupling, rows in the order of `left`."""
        wide = (len(self._owner), -1)
        each = [(factors.T[:, :, None] * part[:, None, :]).reshape(wide) for part in parts]
        rows = self._unknown(np.concatenate([self._centre(x) * self._weight for x in each]))
        return np.moveaxis(rows.reshape(len(rows), len(factors), -1), 1, 0)

    def normal(self, columns: Float[np.ndarray, "*many row part"]):
        """The normal equations of columns of one size."""
        flat = np.swapaxes(columns, -1, -2)
        gram, right = flat @ columns, flat @ self.left
        size = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
        # What known terms may explain as well is rounding.
        scale = np.where(size > _NOTHING * np.max(size, axis=-1, keepdims=True), size, np.inf)
        gram = gram / (scale[..., :, None] * scale[..., None, :])
        return gram + _RIDGE * np.eye(gram.shape[-1]), right / scale

    def explained(self, gram, right) -> Float[np.ndarray, "*many"]:
        """The share that is explained."""
        return np.sum(right * np.linalg.solve(gram, right[..., None])[..., 0], -1) / self.total


def _values_of(shape, x):
    """Values of a function with its numbers."""
    return shape.bind(x).values(shape.numbers)


def _times(basis, vector, pairs):
    """Splines times each component of a vector."""
    return [basis * way[:, None] for way in components(vector, pairs).T]


def rank_pairs(
    stars: StarForces,
    fitted: Fitted | None,
    vectors: Sequence[Vector],
    ways: Sequence[sympy.Expr],
) -> list[tuple[float, Term]]:
    """Terms of pairs by how much of recorded forces each explains, the best first.

    Args:
        stars: what the network says of pairs.
        fitted: terms that are known, whatever their kernels; None for none.
        vectors: of terms.
        ways: couplings of terms, the simplest first.
    """
    recorded = _Recorded(stars, fitted)
    factors = np.stack([values(way, stars.pairs) for way in ways])

    def gained(parts, some):
        lots = (some[k : k + _SIMPLEST] for k in range(0, len(some), _SIMPLEST))
        several = (recorded.columns(parts, few) for few in lots)
        return [gain for few in several for gain in recorded.explained(*recorded.normal(few))]

    found = []
    for vector in vectors:
        parts = recorded.parts(vector)
        found.append((vector, parts, gained(parts, factors[:_SIMPLEST])))
    # Vectors that explain nothing with the simplest couplings are not tried with all.
    found.sort(key=lambda row: -max(row[2]))
    ranked = []
    for n, (vector, parts, gains) in enumerate(found):
        gains = gains + (gained(parts, factors[_SIMPLEST:]) if n < _VECTORS else [])
        ranked += [(gain, make_term(vector, way)) for gain, way in zip(gains, ways, strict=False)]
    return sorted(ranked, key=lambda row: -row[0])


def groups(
    stars: StarForces,
    fitted: Fitted | None,
    vectors: Sequence[Vector],
    ways: Sequence[sympy.Expr],
    most: int,
) -> list[list[Term]]:
    """Terms that explain recorded forces together; the fewest first.

    They are those of one vector with two couplings, each of which another coupling may hide
    that is like both, and those of several vectors with one coupling.

    Args:
        stars, fitted, vectors, ways: see `rank_pairs`.
        most: terms of a group.
    """
    recorded = _Recorded(stars, fitted)
    plain = [vector for vector in vectors if vector.variable == vectors[0].variable]
    parts = [recorded.parts(vector) for vector in plain]
    factors = np.stack([values(way, stars.pairs) for way in ways[:_SIMPLEST]])
    found = [
        [make_term(plain[n], ways[k]) for n, k in group]
        for group in _two_couplings(recorded, parts, factors)
        + _several_vectors(recorded, parts, factors[:_COUPLINGS])
        if len(group) <= most
    ]
    return sorted(found, key=len)


def _two_couplings(recorded: _Recorded, parts, factors) -> list[list[tuple[int, int]]]:
    """Those two couplings of one vector that explain most: numbers of vector and coupling."""
    pairs = np.stack(np.triu_indices(len(factors), 1), axis=1)
    found = []
    for n, part in enumerate(parts):
        columns = recorded.columns(part, factors)
        size = columns.shape[-1]
        gram, right = recorded.normal(np.concatenate(list(columns), axis=1))
        both = (size * pairs[:, :, None] + np.arange(size)).reshape(len(pairs), 2 * size)
        gains = recorded.explained(gram[both[:, :, None], both[:, None, :]], right[both])
        found += [(gain, n, *map(int, pair)) for gain, pair in zip(gains, pairs, strict=True)]
    best = sorted(found, reverse=True)[:_BEST]
    return [[(n, one), (n, other)] for _, n, one, other in best]


def _several_vectors(recorded: _Recorded, parts, factors) -> list[list[tuple[int, int]]]:
    """Vectors with the couplings that explain most with all of them, fewer and fewer.

    Those are left out one by one without which least is lost.
    """
    size = parts[0][0].shape[1]
    systems = []
    for k in range(len(factors)):
        columns = [recorded.columns(part, factors[k : k + 1])[0] for part in parts]
        system = recorded.normal(np.concatenate(columns, axis=1))
        systems.append((recorded.explained(*system), k, system))
    found = []
    for _, k, (gram, right) in sorted(systems, key=lambda row: -row[0])[:_BEST]:
        kept = np.arange(len(parts))
        while len(kept):
            found.append([(int(n), k) for n in kept])
            rows = (size * kept[:, None] + np.arange(size)).ravel()
            inverse = np.linalg.inv(gram[np.ix_(rows, rows)])
            share = (inverse @ right[rows]).reshape(-1, size)
            own = inverse.reshape(len(kept), size, len(kept), size)
            own = own[np.arange(len(kept)), :, np.arange(len(kept))]
            # What is lost without each of them.
            lost = np.sum(share * np.linalg.solve(own, share[..., None])[..., 0], axis=1)
            kept = np.delete(kept, np.argmin(lost))
    return found
