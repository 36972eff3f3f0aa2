"""Moves from a law to others near it: fewer, simpler, finer or further terms.

Each is a function of a state and of what is known of the data, and yields laws with grids in the
place of functions; `acceptance.search` decides which of them is taken.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sympy

from symjax_gn.discovery.acceptance import Known, Move, State
from symjax_gn.discovery.proposals import blank
from symjax_gn.discovery.ranking import groups
from symjax_gn.discovery.terms import (
    PIECES,
    body_vectors,
    components,
    couplings,
    make_term,
    pair_vectors,
)
from symjax_gn.laws.expressions import complexity, values
from symjax_gn.laws.law import Law, Term
from symjax_gn.laws.shapes import Grid

# Pieces of grids.
_PIECES = (PIECES, 40, 80, 160)

# Terms of one law, and terms that may be added at once.
_MOST_TERMS, _TOGETHER = 6, 4

# Couplings, the simplest, that may be those of all terms.
_COUPLINGS = 40

# Powers of grids are round.
_DIGITS = 1

# Couplings with thresholds are left as they are.
_STEP = sympy.Heaviside

# Pairs on which vectors are compared; one that others span has at least such a share of each,
# and nothing but such a square of rounding on top.
_SPANNED, _SHARE, _ROUNDED = 200, 1e-3, 1e-12


def dropped(state: State, known: Known) -> Iterator[Law]:
    """Without one of the terms, one of the factors of a term, or the function of sums.

    A term may do no more than what finer grids of the others do.
    """
    law = state.law
    for inside, k, term in placed(law):
        fewer = with_term(law, inside, k, ())
        yield from dict.fromkeys([fewer, fewer.with_shapes(list(map(_finer, fewer.shapes)))])
        for n in range(len(term.factors) if len(term.factors) > 1 else 0):
            fewer = term._replace(factors=(*term.factors[:n], *term.factors[n + 1 :]))
            for way in _listed(term.factors[n], known) if n else [sympy.Integer(1)]:
                yield with_term(law, inside, k, (fewer._replace(coupling=fewer.coupling * way),))
    if law.update[0].factors:
        dim = len(law.update[0].along)
        shorter = [
            one._replace(along=one.along[:dim]) for one in law.message if any(one.along[:dim])
        ]
        yield Law(tuple(shorter), (law.update[0]._replace(factors=()), *law.update[1:]))


def _listed(factor, known):
    """Ways in which a property that there is a function of may enter a coupling instead."""
    name, columns = str(factor.variable), known.fits.train.elements
    both = {f"{name[:-2]}_{end}": columns.get(f"{name[:-2]}_{end}") for end in "ij"}
    if name not in both or any(one is None for one in both.values()):
        return [sympy.Integer(1)]
    return [way for way in _ways(both, True, known) if way.free_symbols <= {factor.variable}]


def _ways(columns, inside, known):
    """Couplings by the properties of columns, which are of the data or of some rows."""
    names = tuple(sorted(columns)), len(next(iter(columns.values())))
    ends = "ij" if inside else "i"
    return known.fits.once(("couplings", names, inside), lambda: couplings(columns, ends))


def simplified(state: State, known: Known) -> Iterator[Law]:
    """With a simpler variable of a term, or a simpler coupling by the same properties.

    Or with a term of bodies alone in the place of one that is the same for all senders.
    """
    for inside, k, term in placed(state.law):
        for new in _alone(term, known) if inside else ():
            fewer = with_term(state.law, inside, k, ())
            yield fewer._replace(update=(*fewer.update, new))
        for new in _simpler(term, inside, known):
            yield with_term(state.law, inside, k, (new,))


def merged(state: State, known: Known) -> Iterator[Law]:
    """With one term in the place of several with the same coupling.

    E.g. the line of centres in place of its parts along each axis, the relative velocity in
    place of both bodies' velocities.
    """
    columns = known.fits.train.elements
    dim = known.fits.train.target.shape[1]
    some = {name: column[:_SPANNED] for name, column in columns.items()}
    vectors: list[Any] = []
    for count in range(2, dim + 1):
        for several in itertools.combinations(state.law.message, count):
            if len({_alike(one) for one in several}) > 1:
                continue
            vectors = vectors or [(v, components(v, some).ravel()) for v in pair_vectors(some, dim)]
            spans = np.stack([_column(one.along[:dim], some) for one in several], axis=1)
            for vector, along in vectors:
                if vector.variable != several[0].factors[0].variable:
                    continue
                share, left, *_ = np.linalg.lstsq(spans, along, rcond=None)
                if np.min(np.abs(share)) < _SHARE or np.sum(left) > _ROUNDED:
                    continue
                along = (*vector.along, *several[0].along[dim:])
                whole = several[0]._replace(along=along, name=vector.name)
                rest = [one for one in state.law.message if one not in several]
                yield state.law._replace(message=(whole, *rest))


def with_plain_couplings(state: State, known: Known) -> Iterator[Law]:
    """With the simplest couplings of which those of several terms are sums.

    E.g. 1 and q_i q_j in place of |q_i - q_j| and (q_i + q_j)^2, where charges are 1 and -1:
    sums of two functions are harder to read than either.
    """
    for inside, which, some, spans in _alike_but_for_couplings(state.law, known):
        plain: list[sympy.Expr] = []
        for way in _ways(some, inside, known):
            basis = np.stack([values(x, some) for x in [*plain, way]], axis=1)
            if _within(basis, spans) and not _within(basis[:, -1:], basis[:, :-1]):
                plain.append(way)
            if len(plain) == len(which):
                yield _recoupled(state.law, inside, which, plain)
                break


def with_disjoint_couplings(state: State, known: Known) -> Iterator[Law]:
    """With couplings that act on different pairs in place of those they are sums of.

    E.g. like and unlike charges in place of 1 and q_i q_j: functions that are simple for either
    are sums and differences for those.
    """
    for inside, which, some, spans in _alike_but_for_couplings(state.law, known):
        parts: list[sympy.Expr] = []
        taken = np.zeros(len(spans), bool)
        for way in _ways(some, inside, known):
            there = values(way, some) != 0
            if np.all(there) or np.any(there & taken):
                continue
            if _within(values(way, some)[:, None], spans):
                parts.append(way)
                taken |= there
        if len(parts) == len(which) and np.all(taken):
            yield _recoupled(state.law, inside, which, parts)


def regridded(state: State, known: Known) -> Iterator[Law]:
    """With one function on another grid: finer or coarser, of the variable or its logarithm.

    It may be multiplied with the power of the variable that the function is nearest to.
    """
    law, splines = state.law, state.found.law.shapes
    for k, grid in enumerate(law.shapes):
        if not isinstance(grid, Grid) or not grid.pieces:
            continue
        ways: list[tuple[bool, float]] = [(False, 0.0)]
        term, factor = law.factor(k)
        inside = k < law.sent
        if inside or k >= law.sent + len(law.update[0].factors):
            x = known.fits.felt(term, factor.variable, inside)
            if np.all(x > 0):
                ways += [(True, 0.0), (True, _slope(x, splines[k].values(x)))]
        place = _PIECES.index(grid.pieces) if grid.pieces in _PIECES else 0
        for pieces, way in itertools.product(_PIECES[max(place - 1, 0) : place + 2], ways):
            new = Grid(pieces, *way, grid.start)
            if new != grid:
                shapes = [new if n == k else one for n, one in enumerate(law.shapes)]
                yield law.with_shapes(shapes)


def _finer(grid):
    """The next finer grid, if there is one."""
    if not isinstance(grid, Grid) or grid.pieces not in _PIECES[:-1]:
        return grid
    return grid._replace(pieces=_PIECES[_PIECES.index(grid.pieces) + 1])


def _slope(x, y):
    """The power of a variable that values of a function are nearest to."""
    size = np.abs(y) + 1e-3 * np.median(np.abs(y)) + 1e-300
    return round(float(np.polyfit(np.log(x), np.log(size), 1)[0]), _DIGITS)


def added(state: State, known: Known) -> Iterator[Law]:
    """With a further term."""
    if _count(state.law) < _MOST_TERMS:
        yield from _longer(state.law, _found(state), known)


def added_finely(state: State, known: Known) -> Iterator[Law]:
    """With a simple term on a fine grid, a further one or one that is there.

    Few pieces see nothing of fast waves.
    """
    there = list(map(blank, state.law.message))
    for term in known.candidates.simple:
        (first,) = term.factors
        fine = term._replace(factors=(first._replace(shape=Grid(_PIECES[-1])),))
        if blank(term) in there:
            yield with_term(state.law, True, there.index(blank(term)), (fine,))
        elif _count(state.law) < _MOST_TERMS:
            yield _beside(state.law, fine)


def together(state: State, known: Known) -> Iterator[Law]:
    """With several further terms at once, which say little one by one.

    Terms of bodies may cancel each other, as a field and the drag of bodies that drift in it:
    one by one they say nothing, nor do those of pairs without them.
    """
    law, candidates = state.law, known.candidates
    if _count(law) >= _MOST_TERMS:
        return
    ends = candidates.seen, _found(state), candidates.vectors, candidates.couplings
    there = {blank(one) for one in law.message}
    for terms in groups(*ends, _TOGETHER):
        if not there & {blank(one) for one in terms}:
            yield _beside(law, *terms)
    plain = [
        one
        for one in candidates.bodies(law)
        if not one.factors[0].variable.free_symbols and complexity(one.coupling) < 2
    ]
    beside = law._replace(update=(*law.update, *plain))
    yield beside
    for one in candidates.pairs(law, _found(state)):
        yield _beside(beside, one)


def swapped(state: State, known: Known) -> Iterator[Law]:
    """With another term in the place of one."""
    for inside, k, _ in placed(state.law):
        rest = with_term(state.law, inside, k, ())
        yield from _longer(rest, known.fits(rest) if _count(rest) else None, known)


def recoupled(state: State, known: Known) -> Iterator[Law]:
    """With another coupling of all terms that share one.

    Terms of a law often do, and changing that of one of them explains nothing.
    """
    terms = state.law.message
    for way in dict.fromkeys(one.coupling for one in terms):
        which = [k for k, one in enumerate(terms) if one.coupling == way]
        for new in known.candidates.couplings[:_COUPLINGS]:
            law = _recoupled(state.law, True, which, [new] * len(which))
            if len({blank(one) for one in law.message}) == len(terms):
                yield law


def _longer(law, found, known):
    """A law with a further term; as it is found without that."""
    for term in known.candidates.pairs(law, found):
        yield _beside(law, term)
    for term in known.candidates.bodies(law):
        yield law._replace(update=(*law.update, term))


def _beside(law, *terms):
    """The law with further terms of pairs, which add nothing to another sum."""
    width = len(law.message[0].along) if law.message else 0
    wide = (one._replace(along=_padded(one.along, width)) for one in terms)
    return law._replace(message=(*law.message, *wide))


def _padded(along, width):
    return along + (sympy.Integer(0),) * (width - len(along))


def _found(state):
    return state.found if _count(state.law) else None


def _count(law):
    """How many terms there are."""
    return len(law.message) + len(law.update) - 1


def placed(law: Law) -> Iterator[tuple[bool, int, Term]]:
    """All terms but the sums themselves: whether it is of the message, its number there, it."""
    yield from ((True, k, one) for k, one in enumerate(law.message))
    yield from ((False, k, one) for k, one in enumerate(law.update) if k)


def with_term(law: Law, inside: bool, k: int, new: Sequence[Term]) -> Law:
    """The law with other terms in the place of one."""
    terms = law.message if inside else law.update
    terms = (*terms[:k], *new, *terms[k + 1 :])
    return law._replace(message=terms) if inside else law._replace(update=terms)


def _alone(term, known):
    """Terms of bodies alone that may be in the place of one that is the same for all senders.

    E.g. drag in place of a third of it for each of three senders.
    """
    used = term.coupling.free_symbols.union(*(part.free_symbols for part in term.along))
    dim = known.fits.train.target.shape[1]
    if not all(str(symbol).endswith("_i") for symbol in used):
        return
    for vector in body_vectors(known.fits.train.owners, dim):
        if _padded(vector.along, len(term.along)) == term.along:
            yield make_term(vector, term.coupling)


def _simpler(term, inside, known):
    """Terms with a simpler variable, and couplings by the same properties, or simpler ones."""
    used = term.coupling.free_symbols
    if term.coupling.has(_STEP):
        return
    data, dim = known.fits.train, known.fits.train.target.shape[1]
    columns = data.elements if inside else data.owners
    alike = [term]
    if len(term.factors) == 1:
        vectors = (pair_vectors if inside else body_vectors)(columns, dim)
        pieces = term.factors[0].shape.pieces or PIECES
        same = [one for one in vectors if _padded(one.along, len(term.along)) == term.along]
        others = (make_term(one, term.coupling, pieces) for one in same)
        alike += [one._replace(along=term.along) for one in others]
    stems = {str(symbol)[:-2] for symbol in used}
    columns = {name: column for name, column in columns.items() if name[:-2] in stems}
    ways = _ways(columns, inside, known) if used else []
    ways = [term.coupling, *(way for way in ways if way.free_symbols <= used)]
    for one, way in itertools.product(alike, ways):
        other = one._replace(coupling=way)
        if other.words < term.words:
            yield other


def _alike(term):
    return term.coupling, tuple(one.variable for one in term.factors)


def _column(along, columns):
    """Components of a vector, one after the other."""
    count = len(next(iter(columns.values())))
    return np.stack(Term(along).components(columns, count), axis=-1).ravel()


def _alike_but_for_couplings(law, known):
    """Several terms of one vector: where they are, samples, and their couplings there."""
    data = known.fits.train
    for inside, terms in ((True, law.message), (False, law.update[1:])):
        columns = data.elements if inside else data.owners
        step = max(1, len(next(iter(columns.values()))) // _SPANNED)
        some = {name: column[::step] for name, column in columns.items()}
        kinds = [(one.along, tuple(each.variable for each in one.factors)) for one in terms]
        for kind in dict.fromkeys(kinds):
            which = [k for k, one in enumerate(kinds) if one == kind]
            ways = [terms[k].coupling for k in which]
            if len(which) > 1 and not any(way.has(_STEP) for way in ways):
                count = len(next(iter(some.values())))
                spans = [np.broadcast_to(values(way, some), count) for way in ways]
                yield inside, which, some, np.stack(spans, axis=1)


def _recoupled(law, inside, which, ways):
    """The law with other couplings of some terms."""
    for k, way in zip(which, ways, strict=True):
        place = k if inside else k + 1
        old = (law.message if inside else law.update)[place]
        law = with_term(law, inside, place, (old._replace(coupling=way),))
    return law


def _within(columns, spans):
    """Whether columns are sums of others."""
    left = columns - spans @ np.linalg.lstsq(spans, columns, rcond=None)[0]
    return np.sum(left**2) <= _ROUNDED * np.sum(columns**2)


SIMPLER: Sequence[Move] = (dropped, simplified, merged, with_plain_couplings)
"""Moves that make a law shorter."""
