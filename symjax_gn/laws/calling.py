"""The call of a law: columns of what its messages depend on, from what a user gives."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sympy

from symjax_gn.data.checks import as_floats, check_choice
from symjax_gn.data.features import (
    SPEEDS,
    TIME,
    check_fields,
    described,
    element_features,
    needed_fields,
    pair_features,
    parse_feature,
)
from symjax_gn.data.nodes import AXES, Nodes
from symjax_gn.data.space import FREE, Space

_WAYS = tuple(f"d{axis}" for axis in AXES)

# Distances that differ by more from the displacement are not rounded but wrong.
_ROUNDING = 1e-5


@functools.lru_cache(maxsize=256)
def variables(message: tuple[sympy.Expr, ...]) -> tuple[str, ...]:
    """What a user must give to know the messages: a distance where the direction is along x.

    >>> r, dx, dy, m = sympy.symbols("r dx dy m_j")
    >>> variables((m * dx / r, m * dy / r)), variables((m * dx / r, dy**2 / r))
    (('r', 'm_j'), ('dx', 'dy', 'm_j'))
    """
    names = {str(symbol) for law in message for symbol in law.free_symbols}
    ways = names & {*_WAYS}
    if ways:
        names = names - ways | {"r"} if is_central(message) else names - {"r"}
    # Geometry first, as it is written.
    return tuple(sorted(names, key=lambda name: (not _is_geometry(name), name)))


def _is_geometry(name):
    return parse_feature(name).kind == "length"


@functools.lru_cache(maxsize=256)
def is_central(message: tuple[sympy.Expr, ...]) -> bool:
    """Whether messages are one function of other variables times the displacement.

    >>> r, dx, dy = sympy.symbols("r dx dy")
    >>> is_central(((r - 1) * dx / r, (r - 1) * dy / r)), is_central((dx, 2 * dy))
    (True, False)
    """
    ways = [sympy.Symbol(name) for name in _WAYS[: len(message)]]
    if len(message) > len(ways):
        return False
    slopes = [sympy.diff(law, way) for law, way in zip(message, ways, strict=True)]
    at_zero = [law.xreplace({way: sympy.S.Zero}) for law, way in zip(message, ways, strict=True)]
    alike = all(slope == slopes[0] for slope in slopes) and not any(at_zero)
    return alike and not slopes[0].free_symbols & set(map(sympy.Symbol, _WAYS))


def call_columns(
    message: tuple[sympy.Expr, ...],
    pairs: bool,
    space: Space,
    bodies: Sequence[Any],
    columns: Mapping[str, Any],
) -> dict[str, Any]:
    """The columns `[...]` that messages depend on, NumPy, or JAX where a user's array is.

    Args:
        message: of the law.
        pairs: whether messages are of pairs, or of elements of sets.
        space: of the law.
        bodies: receiver and sender (an element of a set), or the only variable.
        columns: variables by name.

    Raises:
        ValueError: something is missing, unknown, or given twice.

    >>> r, dx, dy = sympy.symbols("r dx dy")
    >>> call_columns((dx / r, dy / r), True, FREE, (), {"dx": 3.0, "dy": 4.0})["r"].item()
    5.0
    """
    needed = variables(message)
    takes = f"The law takes {', '.join(needed) or 'nothing'}"
    if bodies and columns:
        raise ValueError(f"{takes}: give bodies or columns by name, not both.")
    if bodies and all(isinstance(body, Nodes | Mapping) for body in bodies):
        return _of_bodies(message, pairs, space, bodies)
    if bodies and (len(bodies) > 1 or len(needed) != 1):
        example = ", ".join(f"{name}=..." for name in needed)
        raise ValueError(
            f"{takes}: give these by name, law({example}), or bodies, law(i, j), each Nodes or "
            "arrays by name (position, velocity, mass, ...)."
        )
    given = {needed[0]: bodies[0]} if bodies else dict(columns)
    numpy: Any = _numpy_for(given.values())
    for name in given:
        if name not in _all_names(message) and not _is_of_motion(name):
            check_choice("variable of the law", name, needed)
    given = {name: _as_column(name, x, numpy) for name, x in given.items()}
    _check_shapes(given)
    ways = [name for name in _WAYS if name in given]
    if not ways and "r" in given and is_central(message):
        along = {name: numpy.zeros_like(given["r"]) for name in _WAYS[: len(message)]}
        given = along | {"dx": given["r"]} | given
    derived = _derived(given, numpy)
    if numpy is np and "r" in given and ways and len(ways) == len(message):
        _check_distance(given["r"], derived["r"], ways)
    found = derived | given
    missing = [name for name in (_all_names(message) if ways else needed) if name not in found]
    if missing:
        got = ", ".join(columns) or "nothing"
        raise ValueError(f"{takes}; got {got}, so that {', '.join(missing)} must be added.")
    return {name: found[name] for name in _all_names(message)}


def _all_names(message):
    return sorted({str(symbol) for law in message for symbol in law.free_symbols})


def _is_of_motion(name):
    """Whether a name is one that pairs of bodies have, whether a law depends on it or not."""
    return parse_feature(name).kind in ("length", "velocity") or name in (
        "m_i", "m_j", "q_i", "q_j",
    )  # fmt: skip


def _numpy_for(arrays):
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np


def _as_column(name, x, numpy):
    return as_floats(name, x) if numpy is np else jnp.asarray(x, jnp.result_type(float))


def _derived(given, numpy) -> dict[str, Any]:
    """The distance and speeds that follow from components."""
    stacks: list[Any] = []
    for pattern in ("d{}", "v{}_i", "v{}_j"):
        names = [pattern.format(axis) for axis in AXES if pattern.format(axis) in given]
        columns = numpy.broadcast_arrays(*(given[name] for name in names)) if names else ()
        stacks.append(numpy.stack(columns, axis=-1) if names else None)
    way, own, other = stacks
    if len({x.shape[-1] for x in stacks if x is not None}) > 1:
        own = other = None
    start = None if way is None else numpy.zeros_like(way)
    columns = pair_features(Nodes(start, own, {}), Nodes(way, other, {}), FREE, numpy)
    return {name: x for name, x in columns.items() if name in ("r", *SPEEDS)}


def _check_shapes(arrays):
    shapes = {name: np.shape(x) for name, x in arrays.items()}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError as error:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"What a law is called with must broadcast, got: {listed}.") from error


def _check_distance(r, length, ways):
    if not np.allclose(r, length, rtol=_ROUNDING, atol=0):
        raise ValueError(
            f"r is not the length of ({', '.join(ways)}): leave it out, it follows from these."
        )


def _of_bodies(message, pairs, space, bodies) -> dict[str, Any]:
    """Columns from the values of bodies."""
    if len(bodies) != 1 + pairs:
        what = "two bodies, law(i, j): j acts on i" if pairs else "elements of one set, law(x)"
        raise ValueError(f"The law takes {what}; got {len(bodies)} of them.")
    numpy: Any = _numpy_for(jax.tree.leaves([dict(_fields(body)) for body in bodies]))
    ends = [_as_node(body, numpy) for body in bodies]
    names = _all_names(message)
    for end, other, body in zip("ij", "ji", ends, strict=False):
        others = (TIME,) if end == "j" else ()
        own = [x for x in names if x not in others and not (pairs and x.endswith(f"_{other}"))]
        check_fields(needed_fields(own), body, f"The law of body {end}", described(body))
    for name in ("position", "velocity"):
        vectors = {
            f"{name} of {end}": getattr(body, name) for end, body in zip("ij", ends, strict=False)
        }
        _check_shapes({end: x for end, x in vectors.items() if x is not None})
    columns = element_features(ends[0])
    if pairs:
        columns = pair_features(ends[0], ends[1], space, numpy)
    return {name: columns[name] for name in names}


def _fields(body):
    if isinstance(body, Nodes):
        return body.properties | dict(position=body.position, velocity=body.velocity)
    return body


def _as_node(body, numpy) -> Nodes:
    columns = {
        str(name): _as_column(f"The {name} of a body", x, numpy)
        for name, x in _fields(body).items()
        if x is not None
    }
    vectors = {name: columns.pop(name, None) for name in ("position", "velocity")}
    for name, x in vectors.items():
        if x is not None and x.ndim == 0:
            raise ValueError(f"The {name} of a body must have shape [..., dim], got a number.")
    return Nodes(**vectors, properties=columns)
