"""Nodes of a graph: where they are, how they move, and any scalars they carry."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from symjax_gn.data.checks import as_floats, check_finite, shown
from symjax_gn.data.names import check_property_names

AnyArray = Array | np.ndarray
if TYPE_CHECKING:
    # A checker must not ask for a test of None before each use.
    Vectors = Any
else:
    Vectors = Float[AnyArray, "*batch dim"] | None
AXES = ("x", "y", "z")


class Nodes(NamedTuple):
    """Nodes with any leading axes, `[node, ...]` or `[graph, node, ...]`, shared by all fields.

    A pytree. Any name among the properties is an attribute too, so that a law reads
    `receiver.mass * sender.mass` or `receiver.radius`.

    >>> import numpy as np
    >>> bodies = Nodes(np.zeros((4, 2)), np.zeros((4, 2)), {"mass": np.ones(4)})
    >>> bodies.mass.shape
    (4,)
    """

    position: Vectors
    """[..., dim], length; None for elements of a set, which are nowhere."""
    velocity: Vectors
    """[..., dim], length / time; None where it is not known or plays no part."""
    properties: dict[str, Float[AnyArray, "*batch"]]
    """Scalars `[...]` by name: mass, charge, radius, ..."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.properties[name]
        except KeyError:
            known = ", ".join(sorted(self.properties)) or "none"
            raise AttributeError(
                f"These nodes have no property {name!r}; they have: {known}."
            ) from None


def take_nodes(nodes: Nodes, index: Any) -> Nodes:
    """The nodes (or graphs of nodes) of an index along the first axis.

    >>> import numpy as np
    >>> take_nodes(Nodes(np.arange(6.0).reshape(3, 2), None, {}), np.array([2, 0])).position
    array([[4., 5.],
           [0., 1.]])
    """
    return jax.tree.map(lambda x: x[index], nodes)


def leading_shape(nodes: Nodes) -> tuple[int, ...]:
    """The axes that all fields share, e.g. `(graph, node)`.

    Raises:
        ValueError: there are neither positions nor properties.

    >>> leading_shape(Nodes(np.zeros((5, 4, 2)), None, {}))
    (5, 4)
    """
    for vector in (nodes.position, nodes.velocity):
        if vector is not None:
            return tuple(np.shape(vector)[:-1])
    for value in nodes.properties.values():
        return tuple(np.shape(value))
    raise ValueError("Nodes without positions and properties have no shape.")


def check_nodes(nodes: Nodes, source: str) -> None:
    """Raise a `ValueError` naming `source` unless nodes can be learned from.

    Shapes must agree, values be real and finite, none masked, masses positive, and properties
    have names that laws can be written with.
    """
    if not isinstance(nodes, Nodes):
        raise ValueError(f"Nodes from {source} must be symjax_gn.Nodes, got {type(nodes)}.")
    position, velocity, properties = nodes
    if not isinstance(properties, dict):
        raise ValueError(
            f"Properties from {source} must be a dict of arrays by name, got {shown(properties)}."
        )
    check_property_names(properties)
    for name in properties:
        if hasattr(Nodes, name):
            raise ValueError(
                f"A property from {source} cannot be called {name!r}, which every tuple has; "
                f"rename it, e.g. to '{name}_0'."
            )
    if position is None and velocity is None and not properties:
        raise ValueError(f"Nodes from {source} have neither positions nor properties.")
    for name, vector in (("Positions", position), ("Velocities", velocity)):
        if vector is not None and not (np.ndim(vector) and 1 <= np.shape(vector)[-1] <= len(AXES)):
            raise ValueError(
                f"{name} from {source} must have 1 to 3 dimensions, [..., dim], got the shape "
                f"{np.shape(vector)}."
            )
    if position is not None and velocity is not None and np.shape(position) != np.shape(velocity):
        raise ValueError(
            f"Position and velocity from {source} must agree in shape, got "
            f"{np.shape(position)} and {np.shape(velocity)}."
        )
    shape = leading_shape(nodes)
    for name, value in properties.items():
        if np.shape(value) != shape:
            raise ValueError(
                f"The {name} from {source} must have shape {shape}, got {np.shape(value)}."
            )
    for name, value in dict(position=position, velocity=velocity, **properties).items():
        if value is None:
            continue
        what = f"The {name} from {source}"
        check_finite(what, as_floats(what, value))
    if "mass" in properties and not np.all(np.asarray(properties["mass"]) > 0):
        smallest = np.min(np.asarray(properties["mass"]))
        raise ValueError(f"Masses from {source} must be positive, the smallest is {smallest}.")
