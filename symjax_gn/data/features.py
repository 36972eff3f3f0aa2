"""Features that laws are written in: their names, columns, units and LaTeX, declared once."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from symjax_gn.data.nodes import AXES, Nodes
from symjax_gn.data.space import FREE, Space, safe_norm

_SHORT = {"mass": "m", "charge": "q"}
_LONG = {short: name for name, short in _SHORT.items()}

# How many messages are summed.
COUNT = "e_n"

TIME = "time"
"""A property of bodies that is the same for all of them: the moment, one feature of a pair."""

# Sizes of velocities, and the rate of a distance.
SPEEDS = ("v_i", "v_j", "v_ij", "vr_ij")


class Feature(NamedTuple):
    """One variable of a law."""

    name: str
    kind: str
    """"length", "velocity", "momentum", "message", "count" or "property:<name>"."""
    latex: str


def parse_feature(name: str) -> Feature:
    """What the name of a feature stands for.

    `r` is the distance, `dx`, ... the displacement from receiver i to sender j, `m_i` and
    `q_j` masses and charges, `vx_i`, ... velocities, `x_i`, ... places, `v` a speed, `v_i` and
    `v_j` those of both ends, `v_ij` the size of the sender's velocity relative to the
    receiver's, `vr_ij` its part along the displacement (positive where they recede), `p`,
    `p_i`, ... momenta, `e_0`, ... sums of messages, `e_n` the number of messages that are
    summed, `time` the moment, and all others properties.

    >>> parse_feature("vx_i")
    Feature(name='vx_i', kind='velocity', latex='v_{x,i}')
    >>> parse_feature("radius_j").kind
    'property:radius'
    """
    if name == "r":
        return Feature(name, "length", "r")
    if name in ("v", "p"):
        return Feature(name, {"v": "velocity", "p": "momentum"}[name], name)
    if re.fullmatch("d[xyz]", name):
        return Feature(name, "length", rf"\Delta {name[1]}")
    if re.fullmatch(r"e_\d+", name):
        return Feature(name, "message", rf"\bar{{e}}_{{{name[2:]}}}")
    if name == COUNT:
        return Feature(name, "count", "N")
    if name == TIME:
        return Feature(name, "property:time", "t")
    stem, _, end = name.rpartition("_")
    if name in SPEEDS:
        return Feature(name, "velocity", f"v_{{{','.join([*stem[1:], end])}}}")
    if end not in ("i", "j") or not stem:
        return Feature(name, f"property:{name}", _latex_name(name))
    if stem in AXES:
        return Feature(name, "length", f"{stem}_{{{end}}}")
    if re.fullmatch("v[xyz]", stem):
        return Feature(name, "velocity", f"v_{{{stem[1]},{end}}}")
    if stem == "p":
        return Feature(name, "momentum", f"p_{{{end}}}")
    return Feature(name, f"property:{_LONG.get(stem, stem)}", _latex_name(stem, end))


def _latex_name(name, end=""):
    """A name as LaTeX: single letters as they are, words upright, its parts as indices."""
    stem, *indices = name.split("_")
    stem = stem if len(stem) == 1 else rf"\mathrm{{{stem}}}"
    indices = [index for index in (*indices, end) if index]
    return f"{stem}_{{{','.join(indices)}}}" if indices else stem


def property_feature(name: str, end: str = "") -> str:
    """The feature of a property: `m_i` for the mass of the receiver, `radius_j`, ...

    >>> property_feature("mass", "i")
    'm_i'
    """
    return f"{_SHORT.get(name, name)}_{end}" if end else name


def pair_features(
    receiver: Nodes, sender: Nodes, space: Space = FREE, numpy: Any = np
) -> dict[str, Any]:
    """Feature columns `[...]` of pairs: see `parse_feature` for the names.

    Args:
        receiver: fields `[..., ]` of one node for each pair.
        sender: the same.
        space: free or periodic.
        numpy: NumPy, whose columns are float64, or `jax.numpy`, whose columns may be traced.

    >>> ends = (Nodes(np.zeros((1, 2)), None, {}), Nodes(np.array([[3.0, 4.0]]), None, {}))
    >>> pair_features(*ends)["r"]
    array([5.])
    """
    if numpy is np:
        # float64 on the host: squares of metres between stars overflow float32.
        receiver, sender = (
            jax.tree.map(lambda x: np.asarray(x, np.float64), end) for end in (receiver, sender)
        )
    columns, displacement = {}, None
    if receiver.position is not None and sender.position is not None:
        displacement = space.displacement(receiver.position, sender.position)
        for k in range(displacement.shape[-1]):
            columns[f"d{AXES[k]}"] = displacement[..., k]
        columns["r"] = safe_norm(displacement, numpy)
    for end, body in (("i", receiver), ("j", sender)):
        for name, column in body.properties.items():
            columns[property_feature(name, end)] = column
            if name == TIME and displacement is not None:
                columns[TIME] = receiver.properties.get(TIME, column)
    for end, body in (("i", receiver), ("j", sender)):
        if body.velocity is not None:
            for k in range(body.velocity.shape[-1]):
                columns[f"v{AXES[k]}_{end}"] = body.velocity[..., k]
            columns[f"v_{end}"] = safe_norm(body.velocity, numpy)
    if receiver.velocity is not None and sender.velocity is not None:
        relative = sender.velocity - receiver.velocity
        columns["v_ij"] = safe_norm(relative, numpy)
        if displacement is not None:
            away = numpy.sum(relative * displacement, axis=-1)
            columns["vr_ij"] = away / numpy.where(columns["r"] > 0, columns["r"], 1.0)
    if receiver.position is not None:
        for k in range(receiver.position.shape[-1]):
            columns[f"{AXES[k]}_i"] = receiver.position[..., k]
    return columns


def needed_fields(names: Iterable[str]) -> dict[str, list[str]]:
    """What nodes must have for the given features, and which of these need it.

    >>> needed_fields(["r", "dx", "m_i", "vx_j", "e_0"])
    {'position': ['r', 'dx'], 'mass': ['m_i'], 'velocity': ['vx_j']}
    """
    fields: dict[str, list[str]] = {}
    for name in names:
        kind = parse_feature(name).kind
        if kind not in ("message", "count"):
            field = {"length": "position"}.get(kind, kind.removeprefix("property:"))
            fields.setdefault(field, []).append(name)
    return fields


def check_fields(fields: Mapping[str, Iterable[str]], nodes: Nodes, whose: str, have: str) -> None:
    """Raise a `ValueError` that says what nodes lack of what a model needs.

    Args:
        fields: see `needed_fields`.
        nodes: with any leading axes.
        whose: what messages call the model.
        have: what the user gave, see `described`.

    >>> rest = Nodes(np.zeros((2, 1)), None, {})
    >>> check_fields(needed_fields(["m_i", "m_j"]), rest, "The law", described(rest))
    Traceback (most recent call last):
    ValueError: The law needs mass (m_i, m_j) of the nodes, which have: position (x).
    """
    there = nodes.properties | dict(position=nodes.position, velocity=nodes.velocity)
    missing = []
    for field, names in fields.items():
        value = there.get(field)
        size = 0 if value is None else np.shape(value)[-1] if field in _VECTORS else None
        beyond = [name for name in names if size is not None and _axis(name) >= size]
        if value is None or beyond:
            used = ", ".join(name for name in beyond or names if name != field)
            missing.append(f"{field} ({used})" if used else field)
    if missing:
        raise ValueError(f"{whose} needs {' and '.join(missing)} of the nodes, which have: {have}.")


_VECTORS = ("position", "velocity")


def _axis(name: str) -> int:
    """The axis of a component: 1 for `dy`, `vy_i` and `y_j`; -1 for what has none."""
    found = re.fullmatch(r"[dv]?([xyz])(_[ij])?", name)
    return AXES.index(found[1]) if found else -1


def described(nodes: Nodes) -> str:
    """The fields of nodes in words.

    >>> described(Nodes(np.zeros((3, 2)), None, {"charge": np.ones(3)}))
    'position (x, y), charge'
    """
    parts = [
        f"{name} ({', '.join(AXES[: np.shape(value)[-1]])})"
        for name, value in (("position", nodes.position), ("velocity", nodes.velocity))
        if value is not None
    ]
    return ", ".join([*parts, *nodes.properties]) or "nothing"


def scalar_features(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the columns that do not turn with the axes: properties, the distance, speeds.

    >>> list(scalar_features({"dx": 1.0, "r": 2.0, "m_j": 3.0, "vx_i": 4.0, "v_ij": 5.0}))
    ['r', 'm_j', 'v_ij']
    """
    return {
        name: column
        for name, column in columns.items()
        if name in ("r", *SPEEDS) or parse_feature(name).kind.startswith("property:")
    }


def node_features(nodes: Nodes, numpy: Any = np) -> dict[str, Any]:
    """A node's own feature columns `[...]`: properties, velocity, speed and place, named for i.

    >>> list(node_features(Nodes(np.zeros((1, 1)), None, {"mass": np.ones(1)})))
    ['m_i', 'x_i']
    """
    own = pair_features(nodes, nodes, numpy=numpy)
    return {name: x for name, x in own.items() if name.endswith("_i") or name == TIME}


def element_features(nodes: Nodes) -> dict[str, Float[np.ndarray, "*node"]]:
    """Columns `[...]` of elements of a set: their properties by name.

    >>> list(element_features(Nodes(None, None, {"x_1": np.ones(3)})))
    ['x_1']
    """
    return {name: np.asarray(x, np.float64) for name, x in nodes.properties.items()}
