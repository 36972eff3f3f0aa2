"""Which terms of pairs explain what others leave: one by one, and several at once."""

from collections.abc import Sequence

import numpy as np
import sympy
from jaxtyping import Float
from scipy.linalg import orth

from symjax_gn.discovery.terms import Vector, components, make_term
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import Fitted, Term, column
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import Spline, place_knots

# Vectors are ranked with so many couplings, the simplest, and so many of them with all.
_SIMPLEST, _VECTORS = 40, 5

# Pieces of a kernel.
_RANKED = 6

# Couplings whose vectors are looked at together, of the simplest and those that rank best.
_COUPLINGS, _BEST = 24, 2

# Directions of splines of known terms that are no smaller than this share are known.
_RANK = 1e-8

# Columns below this share of the largest are nothing.
_NOTHING = 1e-9

# What keeps sums of splines that say the same apart, as a share.
_RIDGE = 1e-6


class _Seen:
    """Targets, and what terms with splines for kernels may explain of them.

    What terms that are known may explain has no say.
    """

    def __init__(self, samples: Samples, fitted: Fitted | None):
        self.samples, self.pairs = samples, samples.elements
        self._weight = samples.weight[:, None]
        # Pairs count by the size of what their owners feel.
        felt = np.linalg.norm(samples.target, axis=1) * samples.weight
        self._size = (samples.rows @ samples.sums).T @ felt
        self._known = np.zeros((samples.target.size, 0))
        self.left = (samples.target * self._weight).T.ravel()
        known = [] if fitted is None else list(self._explained(fitted.law))
        if known:
            whole = np.concatenate(known, axis=1)
            self._known = orth(whole / (np.linalg.norm(whole, axis=0) + 1e-300), rcond=_RANK)
            self.left = self._unknown(self.left)
        self.total = float(np.sum(self.left**2)) + 1e-300
        self._bases: dict[sympy.Expr | None, Float[np.ndarray, "edge part"]] = {}

    def _explained(self, law):
        """What each part of each known term adds to targets `[row, part]`."""
        data, dim = self.samples, self.samples.target.shape[1]
        ends = (law.message, data.elements, data.of_elements)
        for terms, columns, add in (ends, (law.update[1:], data.owners, data.of_owners)):
            for term in terms:
                count = len(next(iter(columns.values())))
                (first, *others), shape = term.factors, term.factors[0].shape
                basis = shape.basis(column(first.variable, columns, count)).toarray()
                for one in others:
                    basis = basis * _values_of(one.shape, column(one.variable, columns, count))
                # Vectors have more components where there is another sum.
                ways = term.components(columns, count)[:dim]
                rows = [add(basis * way[:, None]) * self._weight for way in ways]
                yield np.concatenate(rows)

    def _unknown(self, rows):
        return rows - self._known @ (self._known.T @ rows)

    def _basis(self, variable):
        """Values `[edge, part]` of a few splines of a variable."""
        if variable not in self._bases:
            x = values(variable, self.pairs)
            logarithmic = bool(np.all(x > 0))
            place = np.log(x) if logarithmic else x
            knots = place_knots(place, _RANKED, weight=self._size)
            spline = Spline(knots, np.zeros(len(knots) - 4), logarithmic)
            self._bases[variable] = spline.basis(x).toarray()
        return self._bases[variable]

    def parts(self, vector: Vector) -> list[Float[np.ndarray, "edge part"]]:
        """Splines times each component of a vector."""
        return _times(self._basis(vector.variable), vector, self.pairs)

    def columns(
        self,
        parts: Sequence[Float[np.ndarray, "edge part"]],
        factors: Float[np.ndarray, "coupling edge"],
    ) -> Float[np.ndarray, "coupling row part"]:
        """What they add to targets with each coupling, rows in the order of `left`."""
        wide = (factors.shape[1], -1)
        each = [(factors.T[:, :, None] * part[:, None, :]).reshape(wide) for part in parts]
        add = self.samples.of_elements
        rows = self._unknown(np.concatenate([add(x) * self._weight for x in each]))
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
    """Values `[sample, 1]` of a function with its numbers."""
    return shape.bind(x).values(shape.numbers)[:, None]


def _times(basis, vector, pairs):
    """Splines times each component of a vector."""
    return [basis * way[:, None] for way in components(vector, pairs).T]


def rank_pairs(
    samples: Samples,
    fitted: Fitted | None,
    vectors: Sequence[Vector],
    ways: Sequence[sympy.Expr],
) -> list[tuple[float, Term]]:
    """Terms of pairs by how much of the targets each explains, the best first.

    Args:
        samples: whose targets they are to explain.
        fitted: terms that are known, whatever their kernels; None for none.
        vectors: of terms.
        ways: couplings of terms, the simplest first.
    """
    seen = _Seen(samples, fitted)
    factors = np.stack([values(way, samples.elements) for way in ways])

    def gained(parts, some):
        lots = (some[k : k + _SIMPLEST] for k in range(0, len(some), _SIMPLEST))
        several = (seen.columns(parts, few) for few in lots)
        return [gain for few in several for gain in seen.explained(*seen.normal(few))]

    found = []
    for vector in vectors:
        parts = seen.parts(vector)
        found.append((vector, parts, gained(parts, factors[:_SIMPLEST])))
    # Vectors that explain nothing with the simplest couplings are not tried with all.
    found.sort(key=lambda row: -max(row[2]))
    ranked = []
    for n, (vector, parts, gains) in enumerate(found):
        gains = gains + (gained(parts, factors[_SIMPLEST:]) if n < _VECTORS else [])
        ranked += [(gain, make_term(vector, way)) for gain, way in zip(gains, ways, strict=False)]
    return sorted(ranked, key=lambda row: -row[0])


def groups(
    samples: Samples,
    fitted: Fitted | None,
    vectors: Sequence[Vector],
    ways: Sequence[sympy.Expr],
    most: int,
) -> list[list[Term]]:
    """Terms that explain targets together; the fewest first.

    They are those of one vector with two couplings, each of which another coupling may hide
    that is like both, and those of several vectors with one coupling.

    Args:
        samples, fitted, vectors, ways: see `rank_pairs`.
        most: terms of a group.
    """
    seen = _Seen(samples, fitted)
    plain = [vector for vector in vectors if vector.variable == vectors[0].variable]
    parts = [seen.parts(vector) for vector in plain]
    factors = np.stack([values(way, samples.elements) for way in ways[:_SIMPLEST]])
    found = [
        [make_term(plain[n], ways[k]) for n, k in group]
        for group in _two_couplings(seen, parts, factors)
        + _several_vectors(seen, parts, factors[:_COUPLINGS])
        if len(group) <= most
    ]
    return sorted(found, key=len)


def _two_couplings(seen: _Seen, parts, factors) -> list[list[tuple[int, int]]]:
    """Those two couplings of one vector that explain most: numbers of vector and coupling."""
    pairs = np.stack(np.triu_indices(len(factors), 1), axis=1)
    found = []
    for n, part in enumerate(parts):
        columns = seen.columns(part, factors)
        size = columns.shape[-1]
        gram, right = seen.normal(np.concatenate(list(columns), axis=1))
        both = (size * pairs[:, :, None] + np.arange(size)).reshape(len(pairs), 2 * size)
        gains = seen.explained(gram[both[:, :, None], both[:, None, :]], right[both])
        found += [(gain, n, *map(int, pair)) for gain, pair in zip(gains, pairs, strict=True)]
    best = sorted(found, reverse=True)[:_BEST]
    return [[(n, one), (n, other)] for _, n, one, other in best]


def _several_vectors(seen: _Seen, parts, factors) -> list[list[tuple[int, int]]]:
    """Vectors with the couplings that explain most with all of them, fewer and fewer.

    Those are left out one by one without which least is lost.
    """
    size = parts[0][0].shape[1]
    systems = []
    for k in range(len(factors)):
        columns = [seen.columns(part, factors[k : k + 1])[0] for part in parts]
        system = seen.normal(np.concatenate(columns, axis=1))
        systems.append((seen.explained(*system), k, system))
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
