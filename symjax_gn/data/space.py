"""The space that positions are in: free, or a periodic box. Every difference is taken here."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from symjax_gn.data.checks import as_floats, check_type, shown
from symjax_gn.data.nodes import AnyArray


def safe_norm(vector: Float[AnyArray, "*batch dim"], numpy: Any = jnp) -> Float[Array, "*batch"]:
    """Euclidean norm over the last axis; its gradient at zero is zero, not NaN.

    Args:
        vector: `[..., dim]`.
        numpy: `jax.numpy`, or NumPy, whose norms are float64 arrays of its own.

    >>> safe_norm(jnp.array([3.0, 4.0])).item()
    5.0
    """
    square = numpy.sum(vector**2, axis=-1)
    positive = square > 0
    return numpy.where(positive, numpy.sqrt(numpy.where(positive, square, 1.0)), 0.0)


@dataclasses.dataclass(frozen=True)
class Space:
    """Free space, or a box whose opposite faces are one.

    Hashable, so that it can be a static argument.

    >>> Space(box=(1.0, 1.0)).displacement(np.array([0.9, 0.5]), np.array([0.1, 0.5]))
    array([0.2, 0. ])

    Attributes:
        box: side lengths `(dim,)` of the periodic box, length; None for free space.
    """

    box: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.box is None:
            return
        sides: tuple[float, ...] = ()
        # Text and sets are iterable too, but no sides.
        if isinstance(self.box, Sequence | np.ndarray) and not isinstance(self.box, str | bytes):
            with contextlib.suppress(TypeError, ValueError):
                sides = tuple(float(side) for side in as_floats("box", self.box))
        if not sides or not all(np.isfinite(side) and side > 0 for side in sides):
            raise ValueError(
                f"The sides of a periodic box must be positive numbers, one for each dimension, "
                f"e.g. (10.0, 10.0); got {shown(self.box)}."
            )
        object.__setattr__(self, "box", sides)

    def displacement(
        self, start: Float[AnyArray, "*batch dim"], end: Float[AnyArray, "*batch dim"]
    ) -> Float[AnyArray, "*batch dim"]:
        """The shortest way `[..., dim]` from `start` to `end`, differentiable in both."""
        way = end - start
        if self.box is None:
            return way
        numpy, way, sides = self._with_sides(way)
        return way - sides * numpy.round(way / sides)

    def move(
        self, position: Float[AnyArray, "*batch dim"], step: Float[AnyArray, "*batch dim"]
    ) -> Float[AnyArray, "*batch dim"]:
        """`position + step` `[..., dim]`, brought back into the box: from 0 to below a side."""
        moved = position + step
        if self.box is None:
            return moved
        numpy, moved, sides = self._with_sides(moved)
        inside = numpy.mod(moved, sides)
        # A little below zero rounds up to the side itself.
        return numpy.where(inside < sides, inside, inside - sides)

    def _with_sides(self, array) -> tuple[Any, Any, Any]:
        """NumPy or jax.numpy, an array `[..., dim]` of floats, and the sides `[dim]`."""
        box: Any = self.box
        if array.ndim == 0 or array.shape[-1] != len(box):
            raise ValueError(
                f"The box {box} has {len(box)} sides, so positions must have shape "
                f"[..., {len(box)}], got {array.shape}."
            )
        numpy: Any = np if isinstance(array, np.ndarray) else jnp
        if not jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(float)
        return numpy, array, numpy.asarray(box, array.dtype)

    def scaled(self, factor: float) -> "Space":
        """The same space with lengths multiplied by a factor."""
        return self if self.box is None else Space(tuple(factor * side for side in self.box))


FREE = Space()


def check_space(space: Any) -> None:
    """Raise a `ValueError` unless it is a `Space`.

    >>> check_space(FREE)
    """
    check_type("space", space, Space, "Give e.g. Space(box=(10.0, 10.0)).")
