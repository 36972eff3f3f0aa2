"""What a force may be a sum of: vectors, couplings by properties, and one free variable.

Each term is coupling x kernel(variable) x vector. The coupling is a product of properties
of the bodies, the vector a direction that the bodies define, and the kernel a function of
one variable that is found from the data.
"""

import functools
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.features import TIME, parse_feature
from symjax_gn.data.nodes import AXES
from symjax_gn.laws.expressions import complexity, values
from symjax_gn.laws.law import Factor, Law, Term, unchanged
from symjax_gn.laws.shapes import Grid

Columns = Mapping[str, Float[np.ndarray, " sample"]]

# Powers with which positive properties enter a coupling.
_HALF = sympy.Rational(1, 2)
_POWERS = (sympy.Integer(0), sympy.Integer(1), _HALF, -_HALF, sympy.Integer(-1), sympy.Integer(2))

# Pieces of a function when terms are compared.
PIECES = 14

# Couplings that are considered, at most.
_MOST_COUPLINGS = 1000

# Columns that differ by less than this share are one.
_SAME = 1e-6

# Samples on which couplings are told apart.
_SOME = 400


class Vector(NamedTuple):
    """A direction that bodies define."""

    name: str
    along: tuple[sympy.Expr, ...]
    """Its component along each axis, of the features."""
    variable: sympy.Expr | None
    """What the kernel is a function of; None for a constant."""


def make_term(vector: Vector, coupling: sympy.Expr, pieces: int = PIECES) -> Term:
    """A term with a grid in the place of its function; it is one of bodies in an update.

    Args:
        vector: what it points along.
        coupling: of the properties of the receiver and, for pairs, the sender.
        pieces: of the grid; of a constant there are none.
    """
    x = sympy.Integer(0) if vector.variable is None else vector.variable
    grid = Grid(pieces if vector.variable is not None else 0)
    return Term(vector.along, (Factor(x, grid),), coupling, vector.name)


def components(vector: Vector, columns: Columns) -> Float[np.ndarray, "sample dim"]:
    """Components `[sample, dim]` of a vector; 0 where it is not defined."""
    with np.errstate(all="ignore"):
        found = np.stack([values(along, columns) for along in vector.along], axis=-1)
    return np.where(np.isfinite(found), found, 0.0)


def force_law(pairs: Sequence[Term], alone: Sequence[Term], dim: int) -> Law:
    """The law that forces are a sum of terms.

    Args:
        pairs: terms that are summed over senders.
        alone: terms of bodies by themselves.
        dim: spatial dimension.
    """
    return Law(tuple(pairs), (unchanged(dim), *alone))


def _symbols(stem: str, dim: int, end: str = "") -> list[sympy.Symbol]:
    return [sympy.Symbol(f"{stem}{axis}{end}") for axis in AXES[:dim]]


def _turned(way: Sequence[Any]) -> tuple[Any, ...]:
    """A vector of the plane turned by 90 degrees."""
    return (-way[1], way[0])


def _crossed(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(a[k - 2] * b[k - 1] - a[k - 1] * b[k - 2] for k in range(3))


def _axis(dim: int, k: int) -> tuple[sympy.Integer, ...]:
    return tuple(sympy.Integer(int(k == n)) for n in range(dim))


def _unit(dim: int) -> tuple[Any, ...]:
    """The line of centres, towards the sender."""
    return tuple(way / sympy.Symbol("r") for way in _symbols("d", dim))


def _dot(a: Sequence[Any], b: Sequence[Any]) -> sympy.Expr:
    return sympy.Add(*(x * y for x, y in zip(a, b, strict=True)))


def is_central(term: Term) -> bool:
    """Whether it points along the line of centres, whatever its functions are of."""
    return term.along == _unit(len(term.along))


def pair_vectors(columns: Columns, dim: int) -> list[Vector]:
    """Vectors that two bodies define; kernels are functions of the distance.

    The line of centres, its parts along each axis and the axes themselves (forces that are
    not isotropic), and where velocities are known these, the relative velocity, its part
    along the line of centres, and what is at right angles to them; and these times what is
    of second degree in cosines or velocities. Along the line of centres the kernel may also
    be a function of the distance in units of, or less, the sum of both bodies' values of a
    positive property, such as a radius.

    Args:
        columns: features of pairs, see `data.features`.
        dim: spatial dimension.
    """
    r = sympy.Symbol("r")
    unit = _unit(dim)
    found: list[tuple[str, Sequence[Any]]] = [("line of centres", unit)]
    second: list[tuple[str, Sequence[Any]]] = []

    def times(number, way):
        return tuple(number * x for x in way)

    if all(f"v{axis}_{end}" in columns for axis in AXES[:dim] for end in "ij"):
        own, other = (_symbols("v", dim, f"_{end}") for end in "ij")
        relative = tuple(b - a for a, b in zip(own, other, strict=True))
        along, speed = _dot(unit, relative), sympy.sqrt(_dot(relative, relative))
        found += [
            ("relative velocity", relative),
            ("relative velocity along the line", times(along, unit)),
            ("velocity of the receiver", tuple(own)),
            ("velocity of the sender", tuple(other)),
        ]
        turns = [("receiver's", own), ("sender's", other), ("relative", relative)]
        if dim == 2:
            found += [(f"across the {name} velocity", _turned(v)) for name, v in turns]
        if dim == 3:
            found += [(f"line x {name} velocity", _crossed(unit, v)) for name, v in turns]
            found += [
                (f"{AXES[k]} x {name} velocity", _crossed(_axis(3, k), v))
                for name, v in turns
                for k in range(3)
            ]
        second += [
            ("receiver's velocity along the line", times(_dot(unit, own), unit)),
            ("sender's velocity along the line", times(_dot(unit, other), unit)),
            ("relative velocity by its size", times(speed, relative)),
            ("direction of the relative velocity", times(1 / speed, relative)),
            ("line, by approach squared", times(along**2, unit)),
            ("line, by relative speed squared", times(speed**2, unit)),
            ("line, by the product of velocities", times(_dot(own, other), unit)),
            ("sender's velocity, by the receiver's along the line", times(_dot(unit, own), other)),
            ("receiver's velocity, by the sender's along the line", times(_dot(unit, other), own)),
        ]
    if dim == 2:
        found.append(("across the line", _turned(unit)))
    for k in range(dim if dim > 1 else 0):
        found.append((f"{AXES[k]}", _axis(dim, k)))
        found += [(f"{AXES[k]}, by d{AXES[n]}", times(unit[n], _axis(dim, k))) for n in range(dim)]
        second.append((f"{AXES[k]}, along the line", times(unit[k], unit)))
        second += [
            (f"{AXES[k]}{AXES[n]}, along the line", times(unit[k] * unit[n], unit))
            for n in range(k + 1)
        ]
    vectors = [Vector(name, tuple(map(sympy.sympify, way)), r) for name, way in found + second]
    scaled = [
        Vector(f"line of centres, by {shift}", unit, shift)
        for stem in positive_stems(columns, "ij")
        for size in [sympy.Symbol(f"{stem}_i") + sympy.Symbol(f"{stem}_j")]
        for shift in (r / size, r - size)
    ]
    return vectors + scaled


def body_vectors(columns: Columns, dim: int) -> list[Vector]:
    """Vectors that one body defines: its velocity, the axes, as they change in time too, its place.

    Args:
        columns: features of bodies.
        dim: spatial dimension.
    """
    found: list[tuple[str, Any, Any]] = []
    if all(f"v{axis}_i" in columns for axis in AXES[:dim]):
        own = _symbols("v", dim, "_i")
        speed = sympy.sqrt(sympy.Add(*(v**2 for v in own)))
        found += [("velocity", tuple(own), None), ("velocity by speed", tuple(own), speed)]
        if dim == 2:
            found.append(("across the velocity", _turned(own), None))
        if dim == 3:
            found += [(f"{AXES[k]} x velocity", _crossed(_axis(3, k), own), None) for k in range(3)]
    found += [(AXES[k], _axis(dim, k), None) for k in range(dim)]
    place = _symbols("", dim, "_i")
    far = sympy.sqrt(sympy.Add(*(x**2 for x in place)))
    found += [("place", tuple(place), None), ("place by distance", tuple(place), far)]
    found += [
        (f"{AXES[k]} by {AXES[n]}", _axis(dim, k), place[n]) for k in range(dim) for n in range(dim)
    ]
    if TIME in columns:
        found += [(f"{AXES[k]} by time", _axis(dim, k), sympy.Symbol(TIME)) for k in range(dim)]
    return [Vector(name, tuple(map(sympy.sympify, way)), x) for name, way, x in found]


def couplings(columns: Columns, ends: str, most: int | None = None) -> list[sympy.Expr]:
    """Ways in which properties may enter a term, the simplest first.

    Products over properties of: powers of both bodies' values, and for pairs powers of their
    sum and of their difference, whether they are equal, who has more, the larger and the
    smaller. Those that are the same on the samples, up to a factor, are listed once, in the
    simplest form.

    Args:
        columns: features of pairs or bodies, of which some are looked at.
        ends: "ij" for pairs, "i" for bodies.
        most: how many are wanted; None: all.
    """
    stems = [
        (stem, all(bool(np.all(column > 0)) for column in both))
        for stem, *both in varied(columns, ends)
    ]
    products = _products(tuple(stems), ends)
    some = {name: column[:: max(1, len(column) // _SOME)] for name, column in columns.items()}
    found: list[sympy.Expr] = []
    seen = np.zeros((len(products), len(next(iter(some.values())))))
    for one in products:
        if len(found) == most:
            break
        with np.errstate(all="ignore"):
            column = values(one, some)
            flat = column / np.linalg.norm(column)
        if not np.all(np.isfinite(flat)):
            continue
        if np.max(np.abs(seen[: len(found)] @ flat), initial=0.0) > 1 - _SAME:
            continue
        seen[len(found)] = flat
        found.append(one)
    return found


@functools.cache
def _products(stems: tuple[tuple[str, bool], ...], ends: str) -> tuple[Any, ...]:
    """Products of what properties enter by, the simplest first; whether each is positive."""
    lists = [sorted(_entries(stem, ends, positive), key=complexity) for stem, positive in stems]
    products = {sympy.Mul(*factors) for factors in _combined(lists)}
    return tuple(sorted(products, key=lambda product: (complexity(product), str(product))))


def positive_stems(columns: Columns, ends: str) -> list[str]:
    """Properties that are positive and not the same for all bodies, as their columns begin."""
    return [stem for stem, *both in varied(columns, ends) if all(np.all(one > 0) for one in both)]


def varied(columns: Columns, ends: str) -> Iterator[tuple[Any, ...]]:
    """Properties that are not the same for all bodies: stem of the name, columns.

    Args:
        columns: features of pairs or bodies.
        ends: "ij" for pairs, "i" for bodies.
    """
    for name in columns:
        if name.endswith("_i") and parse_feature(name).kind.startswith("property:"):
            both = [columns[f"{name[:-2]}_{end}"] for end in ends]
            if any(np.ptp(column) > _SAME * np.max(np.abs(column)) for column in both):
                yield (name[:-2], *both)


def _combined(lists: list[list[Any]]) -> Iterator[tuple[Any, ...]]:
    """One entry of each list; of many all that are of one list, and the simplest of two."""
    if math.prod(map(len, lists)) <= _MOST_COUPLINGS:
        yield from itertools.product(*lists)
        return
    yield from ((one,) for entries in lists for one in entries)
    pairs = itertools.combinations(lists, 2)
    both = itertools.chain.from_iterable(itertools.starmap(itertools.product, pairs))
    yield from heapq.nsmallest(_MOST_COUPLINGS, both, key=lambda few: sum(map(complexity, few)))


def _entries(stem: str, ends: str, positive: bool) -> Iterator[Any]:
    """Ways in which one property enters."""
    i, j = (sympy.Symbol(f"{stem}_{end}") for end in "ij")
    powers = _POWERS if positive else tuple(p for p in _POWERS if p.is_Integer and p >= 0)
    if ends == "i":
        yield from (i**p for p in powers)
        if not positive:
            yield sympy.Abs(i)
        return
    yield from (sympy.Integer(1), i, j, i * j)
    yield from (i**p * j**q for p in powers for q in powers if not {p, q} <= {0, 1})
    apart = sympy.Abs(i - j)
    yield from ((i + j) ** p for p in powers[1:])
    yield from (i - j, apart, sympy.sqrt(apart), (i - j) ** 2)
    # Of one kind or not, who has more, the larger and the smaller.
    yield from (1 - sympy.sign(apart), sympy.sign(apart))
    yield from (sympy.Heaviside(j - i), sympy.Heaviside(i - j))
    yield from ((i + j + apart) / 2, (i + j - apart) / 2)
    if positive:
        yield i * j / (i + j)
        yield sympy.sqrt(i**2 + j**2)
    else:
        yield from (sympy.Abs(i * j), sympy.sqrt(sympy.Abs(i * j)), sympy.Abs(i), sympy.Abs(j))
