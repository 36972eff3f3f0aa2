"""Fits of many laws to the same data, whose terms have much in common.

A law is given with grids in the place of functions; splines are placed on them and fitted.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.laws.bound import bind
from symjax_gn.laws.expressions import values
from symjax_gn.laws.law import (
    Factor,
    Fitted,
    Law,
    Term,
    column,
    sums_as_columns,
)
from symjax_gn.laws.least_squares import bounded, fit_splines, fitted, mean_size
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import Formula, Grid, R, Spline, place_knots

# A part of a function that data say so little of is left at 0.
_UNSEEN = 1e-9

# A fit that is not linear takes as long as so many that are.
_COMPOSED = 20

# What keeps products of parts small of which data say little, as a share.
_RIDGE = 1e-6

# Parts of terms that are kept, in bytes; what was used longest ago is left out first.
_MOST_KEPT = 2**29

# Pieces of functions of elements, and of sums, that are fitted together first; the range of sums
# may grow by this share as they are.
_FIRST, _OF_SUMS, _MARGIN = 14, 6, 0.1


class Fits:
    """Fits of laws to the same data; what parts of terms add to targets is kept."""

    def __init__(self, train: Samples, valid: Samples, near: Law | None = None):
        """Nothing is fitted yet.

        Args:
            train: what is fitted.
            valid: other data, for the errors.
            near: a law that was fitted to data like these, from which fits of its like start.
        """
        self.train, self.valid = train, valid
        self._ends = train, valid
        self._weights = np.repeat(train.weight, train.target.shape[1])
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._room = _MOST_KEPT
        self._laws: dict[Law, Fitted] = {}
        self._near = {} if near is None else {_blank(near): (math.inf, near)}
        self.work = 0

    def __call__(self, law: Law) -> Fitted:
        """The law with splines, fitted.

        Functions that multiply each other, or are of sums, are fitted one after the other at
        first, and with few pieces.

        Args:
            law: its functions are grids, and formulas with numbers to start from.
        """
        if law not in self._laws:
            linear = _is_linear(law)
            self.work += 1 if linear else _COMPOSED
            self._laws[law] = self._linear(law) if linear else self._composed(law)
        return self._laws[law]

    def is_quick(self, law: Law) -> bool:
        """Whether a law is fitted in one step, or was fitted before.

        Args:
            law: see `__call__`.
        """
        return law in self._laws or _is_linear(law)

    def promised(self, law: Law) -> float:
        """The mean error, of those that are fitted, that one step from the start would leave.

        It says of a law that is not linear whether it is worth a fit.

        Args:
            law: see `__call__`.
        """
        self.work += 1
        bound = bind(self._started(_coarse(law)), self.train)
        left, slopes = bound.errors(bound.start), bound.slopes(bound.start)
        slopes = slopes.reshape(left.size, -1)
        step, _ = _least_squares(slopes, left.ravel())
        return mean_size(left - (slopes @ step).reshape(left.shape))

    def _linear(self, law) -> Fitted:
        rows = [self._block(one, inside) for inside, one in _all(law)]
        if not rows:
            return Fitted(law, (), bounded(self.valid.target * self.valid.weight[:, None]))
        whole = [np.concatenate([row[k] for row in rows], axis=1) for k in (1, 2)]
        target = self.train.target.reshape(-1) * self._weights
        design = whole[0]
        found, inverse = _least_squares(design, target)
        left = target - design @ found
        variance = float(np.sum(left**2)) / max(1, len(target) - len(found))
        gap = (self.valid.target.reshape(-1) - whole[1] @ found).reshape(self.valid.target.shape)
        errors = bounded(gap * self.valid.weight[:, None])
        ends = np.cumsum([0, *(row[1].shape[1] for row in rows)])
        cuts = [slice(a, b) for a, b in itertools.pairwise(ends)]
        splines = [row[0]._replace(numbers=found[cut]) for row, cut in zip(rows, cuts, strict=True)]
        covariance = tuple(variance * inverse[cut, cut] for cut in cuts)
        return Fitted(law.with_shapes(splines), covariance, errors)

    def _block(self, term, inside):
        """A term's spline, and targets `[row x component, part]` of each part, weighted or not."""
        return self.once(("block", inside, term), lambda: self._new_block(term, inside))

    def _new_block(self, term, inside):
        spline = self._placed(term, term.factors[0], inside)
        found = []
        for which, data in enumerate(self._ends):
            basis = self._basis(term.factors[0].variable, spline, inside, which)
            parts = [
                data.of_elements(way[:, None] * basis)
                if inside
                else data.of_owners(way[:, None] * basis)
                for way in self._components(term, inside, which)[: data.target.shape[1]]
            ]
            found.append(np.stack(parts, axis=1).reshape(-1, basis.shape[1]))
        return spline, found[0] * self._weights[:, None], found[1]

    def _components(self, term, inside, which):
        return self.once(
            ("components", inside, which, term.along, term.coupling),
            lambda: term.components(*self._columns(inside, which)),
        )

    def _columns(self, inside, which):
        data = self._ends[which]
        columns = data.elements if inside else data.owners
        return columns, len(next(iter(columns.values())))

    def _basis(self, variable, spline, inside, which):
        def make():
            return spline.basis(column(variable, *self._columns(inside, which))).toarray()

        name = (spline.knots.tobytes(), spline.logarithmic, spline.power)
        return self.once(("basis", inside, which, variable, name), make)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made before, or is made now.

        Args:
            key: what it is of.
            make: a function of nothing that makes it.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = self._kept[key] = make()
        self._room -= _size(found)
        while self._room < 0 and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._room += _size(oldest)
        return found

    def felt(self, term: Term, variable: sympy.Expr, inside: bool) -> Float[np.ndarray, " sample"]:
        """Values of a variable where a term acts; if nowhere, everywhere.

        Args:
            term: of the law.
            variable: of one of its factors.
            inside: whether the term is of the message.
        """
        columns, count = self._columns(inside, 0)
        return column(variable, columns, count)[self._acts(term, inside)]

    def _acts(self, term, inside):
        felt = column(term.coupling, *self._columns(inside, 0)) != 0
        return felt if np.any(felt) else ~felt

    def _placed(self, term, factor, inside) -> Spline:
        """The spline on the grid of a factor, its numbers 0."""
        grid, data = factor.shape, self.train
        if not grid.pieces:
            return Spline(np.zeros(0), np.zeros(1))
        x = self.felt(term, factor.variable, inside)
        # Where bodies feel next to nothing there is little to tell.
        size = np.linalg.norm(data.target, axis=1) * data.weight
        weight = (data.sums.T @ size if inside else size)[self._acts(term, inside)]
        logarithmic = bool(np.all(x > 0)) if grid.logarithmic is None else grid.logarithmic
        return _spline(np.log(x) if logarithmic else x, grid, logarithmic, weight=weight)

    def _composed(self, law) -> Fitted:
        """A law that is not linear in its numbers."""
        coarse, key = _coarse(law), _blank(law)
        if key not in self._near:
            self._fit_near(key, self._started(coarse))
        start = self._near[key][1]
        for k, grid in enumerate(law.shapes):
            if isinstance(grid, Grid):
                start = self._refined(start, k, grid)
        return fitted(self._fit_near(key, start), *self._ends)

    def _fit_near(self, key, start) -> Law:
        """A law fitted from a start; others like it start from it, if it errs least of them."""
        bound = bind(start, self.train)
        numbers = fit_splines(bound, bound.start)
        found, error = start.with_numbers(numbers), mean_size(bound.errors(numbers))
        if key not in self._near or error < self._near[key][0]:
            self._near[key] = error, found
        return found

    def _started(self, law) -> Law:
        """The law with splines, those of terms as if nothing else were."""
        dim = self.train.target.shape[1]
        simple = {
            k: (inside, term)
            for k, (inside, term) in enumerate(_all(law))
            if isinstance(term.factors[0].shape, Grid) and any(x != 0 for x in term.along[:dim])
        }
        first = dict(zip(simple, self._together(list(simple.values())), strict=True))
        shapes = []
        for k, (inside, term) in enumerate(_all(law)):
            free = _free(term)
            for n, factor in enumerate(term.factors):
                shape: Any = factor.shape
                if k in first and n in (0, free):
                    shape = first[k][int(n > 0)]
                elif isinstance(shape, Grid):
                    spline = self._placed(term, factor, inside)
                    # A sum of its own starts as what falls to 0.
                    numbers = np.linspace(1.0, float(k in first), len(spline.numbers))
                    shape = spline._replace(numbers=numbers)
                    if factor.shape.start is not None:
                        x = self.felt(term, factor.variable, inside)
                        start = values(factor.shape.start, {str(factor.variable): x})
                        shape = _like(shape, x, start)
                shapes.append(shape)
        of_sums = law.update[0].factors
        rest = law.update[0]._replace(factors=())
        without = law._replace(update=(rest, *law.update[1:])).with_shapes(shapes)
        if not of_sums:
            return without
        factors = []
        for factor in of_sums:
            x = self._of_sums(without, factor.variable)
            spline = _spline(x, factor.shape, False, _MARGIN)
            ones = spline._replace(numbers=np.ones(len(spline.numbers)))
            factors.append(Factor(factor.variable, ones))
        first = rest._replace(factors=tuple(factors))
        return without._replace(update=(first, *without.update[1:]))

    def _together(self, terms) -> list[list[Spline]]:
        """The first function of each term, and one that multiplies it, fitted as if linear.

        A product of two functions is a sum of products of their parts, of which the best single
        product is taken.
        """
        several = [self._product_block(inside, term) for inside, term in terms]
        if not several:
            return []
        design = np.concatenate([block for _, block in several], axis=1)
        target = self.train.target.reshape(-1) * self._weights
        # Parts of products of which data say next to nothing are next to nothing.
        many = [np.full(block.shape[1], len(own) > 1) for own, block in several]
        held = np.flatnonzero(np.concatenate(many))
        size = np.sqrt(_RIDGE * np.sum(design[:, held] ** 2) / max(1, len(held)))
        rows = size * np.eye(design.shape[1])[held]
        design, target = np.concatenate([design, rows]), np.append(target, np.zeros(len(held)))
        found, _ = _least_squares(design, target)
        splines = []
        for own, block in several:
            numbers, found = np.split(found, [block.shape[1]])
            left, share, right = np.linalg.svd(numbers.reshape(len(own[0].numbers), -1))
            best = [share[0] * left[:, 0], right[0]]
            splines.append([x._replace(numbers=y) for x, y in zip(own, best, strict=False)])
        return splines

    def _product_block(self, inside, term):
        """Splines of a term's first function and a free one; what their parts add to targets."""
        alone, free = _alone(term), _free(term)
        if free is None:
            spline, block, _ = self._block(alone, inside)
            return [spline], block
        return self.once(("product", inside, term), lambda: self._new_product(inside, term, free))

    def _new_product(self, inside, term, free):
        own = [self._placed(term, term.factors[n], inside) for n in (0, free)]
        first, other = (
            self._basis(term.factors[n].variable, spline, inside, 0)
            for n, spline in zip((0, free), own, strict=True)
        )
        both = (first[:, :, None] * other[:, None, :]).reshape(len(first), -1)
        add = self.train.of_elements if inside else self.train.of_owners
        ways = self._components(_alone(term), inside, 0)[: self.train.target.shape[1]]
        rows = np.stack([add(way[:, None] * both) for way in ways], axis=1)
        return own, rows.reshape(-1, both.shape[1]) * self._weights[:, None]

    def _of_sums(self, law, variable):
        """Values of a variable of sums."""
        bound = bind(law, self.train)
        columns = {**self.train.owners, **sums_as_columns(bound.sums(bound.start))}
        return values(variable, columns)

    def _refined(self, law, k, grid) -> Law:
        """The law whose k-th function is on another grid."""
        term, factor = law.factor(k)
        old: Any = factor.shape
        inside = k < law.sent
        if inside or k >= law.sent + len(law.update[0].factors):
            x = self.felt(term, factor.variable, inside)
            new = self._placed(term, factor._replace(shape=grid), inside)
        else:
            x = self._of_sums(law, factor.variable)
            new = _spline(x, grid, False, _MARGIN)
        shapes = list(law.shapes)
        shapes[k] = _like(new, x, old.values(x))
        return law.with_shapes(shapes)


def _like(spline, x, y) -> Spline:
    """A spline through values at places, of which some do."""
    some = np.unique(np.quantile(np.arange(len(x)), np.linspace(0, 1, 20 * len(spline.knots))))
    some = np.argsort(x)[some.astype(int)]
    basis = spline.basis(x[some]).toarray()
    return spline._replace(numbers=np.linalg.lstsq(basis, y[some], rcond=1e-10)[0])


def _size(found):
    """Bytes of arrays in what is kept."""
    several = found if isinstance(found, tuple | list) else [found]
    return sum(one.nbytes for one in several if isinstance(one, np.ndarray))


def _is_linear(law):
    """Whether targets are linear in all numbers."""
    return law.is_linear and all(
        len(term.factors) == 1 and isinstance(term.factors[0].shape, Grid) for _, term in _all(law)
    )


def _all(law):
    """All terms but the sums themselves, with whether each is of the message."""
    yield from ((True, one) for one in law.message)
    yield from ((False, one) for one in law.update[1:])


def _alone(term):
    """A term with its first function only; formulas are part of the coupling."""
    first, *others = term.factors
    known: list[Any] = [
        one.shape.expression.xreplace({R: one.variable})
        if isinstance(one.shape, Formula)
        else one.shape.start or 1
        for one in others
    ]
    return term._replace(factors=(first,), coupling=term.coupling * sympy.Mul(*known))


def _blank(law):
    """What laws have in common that differ by their splines, or the numbers of formulas."""

    def kind(shape):
        return Formula if isinstance(shape, Formula) else Grid

    return law.with_shapes(list(map(kind, law.shapes)))


def _free(term):
    """The number of the first function that multiplies a term's and has no known start, or None."""
    numbers = (
        n
        for n, one in enumerate(term.factors)
        if n and isinstance(one.shape, Grid) and one.shape.pieces and one.shape.start is None
    )
    return next(numbers, None)


def _coarse(law):
    """The law with functions of few pieces."""
    most = [_FIRST if k < law.sent else _OF_SUMS for k in range(len(law.shapes))]
    return law.with_shapes(list(map(_coarser, law.shapes, most)))


def _coarser(shape, most):
    if not isinstance(shape, Grid) or not shape.pieces:
        return shape
    return shape._replace(pieces=min(shape.pieces, most))


def _spline(place, grid, logarithmic, margin=0.0, weight=None) -> Spline:
    """A spline on a grid, its numbers 0; a constant, of what does not vary."""
    if np.ptp(place) == 0:
        return Spline(np.zeros(0), np.zeros(1))
    knots = place_knots(place, grid.pieces, margin, weight)
    return Spline(knots, np.zeros(len(knots) - 4), logarithmic, grid.power)


def _least_squares(design, target):
    """Least squares with columns of one size; and the inverse of the normal matrix."""
    size = np.sqrt(np.mean(design**2, axis=0))
    # Of a body that flies away some parts make more than all others of all bodies.
    usual = np.median(size[size > 0]) if np.any(size > 0) else 0.0
    used = np.flatnonzero(size > _UNSEEN * usual)
    scaled = design[:, used] / size[used]
    left, sizes, right = np.linalg.svd(scaled.T @ scaled, hermitian=True)
    kept = sizes > 1e-13 * np.max(sizes, initial=0.0)
    inverse = (right[kept].T / sizes[kept]) @ left[:, kept].T
    found = np.zeros(design.shape[1])
    found[used] = inverse @ (scaled.T @ target) / size[used]
    # Once more for what rounding left.
    left_over = target - design @ found
    found[used] += inverse @ (scaled.T @ left_over) / size[used]
    covariance = np.zeros((design.shape[1],) * 2)
    covariance[np.ix_(used, used)] = inverse / np.outer(size[used], size[used])
    return found, covariance
