"""Vectors that forces are made of: the line of centres, velocities, fixed axes."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.data.nodes import AXES
from symjax_gn.data.units import typical_size

Features = Mapping[str, Float[np.ndarray, " sample"]]

# Largest median share of a force that may be off a basis for the basis to hold it.
_LARGEST_OFF = 0.05

# The speed of a body, which laws along its velocity are written in until they are whole.
SPEED = sympy.Symbol("v")


class Basis(NamedTuple):
    """Vectors, one set for each sample, that a force may be a combination of."""

    name: str
    """"central", "linear", "along velocity" or "components"."""
    vectors: Float[np.ndarray, "sample vector dim"]
    """[sample, vector, dim]."""
    expressions: tuple[tuple[sympy.Expr, ...], ...]
    """The same as expressions of features: for each vector, one along each axis."""
    matrix: Float[np.ndarray, "dim dim"] | None = None
    """The matrix M of the basis M u, u the unit displacement."""


def line_of_centres(
    features: Features, dim: int, matrix: Float[np.ndarray, "dim dim"] | None = None
) -> Basis:
    """The unit displacement from receiver to sender, or a matrix times it.

    Args:
        features: columns `dx`, ... and `r`, none of it 0.
        dim: spatial dimension.
        matrix: `[dim, dim]` or None.

    >>> features = {"dx": np.array([3.0]), "dy": np.array([4.0]), "r": np.array([5.0])}
    >>> line_of_centres(features, 2).vectors.tolist()
    [[[0.6, 0.8]]]
    """
    way = [sympy.Symbol(f"d{axis}") / sympy.Symbol("r") for axis in AXES[:dim]]
    unit = np.stack([features[f"d{axis}"] / features["r"] for axis in AXES[:dim]], axis=1)
    if matrix is None:
        return Basis("central", unit[:, None], (tuple(way),))
    turned = tuple(sympy.Matrix(matrix.tolist()) * sympy.Matrix(way))
    return Basis("linear", (unit @ matrix.T)[:, None], (turned,), matrix)


def fit_matrix(
    force: Float[np.ndarray, "sample dim"], features: Features
) -> Float[np.ndarray, "dim dim"]:
    """The matrix M for which a force is nearest to a number times M u.

    u is the unit displacement. The force w and M u are parallel where all of
    w_k (M u)_l - w_l (M u)_k are 0; M is the unit solution of these linear equations with the
    smallest error, times the root of the dimension and with a positive trace, so that it is
    1 for a central force.

    Args:
        force: `[sample, dim]`.
        features: columns `dx`, ... and `r`.
    """
    dim = force.shape[1]
    if dim == 1:
        return np.eye(1)
    size = np.linalg.norm(force, axis=1)
    relative = force / (size + 0.1 * typical_size(size))[:, None]
    unit = line_of_centres(features, dim).vectors[:, 0]
    rows = []
    for k in range(dim):
        for m in range(k):
            row = np.zeros((len(unit), dim, dim))
            row[:, m] = relative[:, [k]] * unit
            row[:, k] = -relative[:, [m]] * unit
            rows.append(row.reshape(len(unit), -1))
    # The eigenvector of the smallest eigenvalue.
    design = np.concatenate(rows)
    matrix = np.linalg.eigh(design.T @ design)[1][:, 0].reshape(dim, dim)
    sign = -1.0 if np.trace(matrix) < 0 else 1.0
    return sign * math.sqrt(dim) * matrix


def along_velocity(features: Features, dim: int) -> Basis | None:
    """The direction of the receiver's motion, 0 at rest; None where velocities are not known."""
    names = [f"v{axis}_i" for axis in AXES[:dim]]
    if not all(name in features for name in names):
        return None
    velocity = np.stack([features[name] for name in names], axis=1)
    speed = np.linalg.norm(velocity, axis=1, keepdims=True)
    vectors = velocity / np.where(speed > 0, speed, 1.0)
    return Basis(
        "along velocity", vectors[:, None], (tuple(sympy.Symbol(n) / SPEED for n in names),)
    )


def fixed_axes(count: int, dim: int) -> Basis:
    """The axes x, y, z: every force is a combination of them.

    >>> fixed_axes(1, 2).vectors.tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    identity = np.eye(dim)
    rows = tuple(tuple(sympy.Integer(int(x)) for x in row) for row in identity)
    return Basis("components", np.broadcast_to(identity, (count, dim, dim)), rows)


def coefficients(
    force: Float[np.ndarray, "sample dim"], basis: Basis
) -> Float[np.ndarray, "sample vector"]:
    """The combination of the basis that is nearest to each force; 0 for vectors that are 0."""
    return np.einsum("svd,sd->sv", np.linalg.pinv(basis.vectors.swapaxes(1, 2)), force)


def off_basis_share(force: Float[np.ndarray, "sample dim"], basis: Basis) -> float:
    """Median share of a force that no combination of the basis holds.

    >>> turned = np.array([[0.0, 1.0]])
    >>> off_basis_share(turned, Basis("x", np.array([[[1.0, 0.0]]]), ())) > 0.9
    True
    """
    held = np.einsum("sv,svd->sd", coefficients(force, basis), basis.vectors)
    size = np.linalg.norm(force, axis=1)
    left = np.linalg.norm(force - held, axis=1)
    return float(np.median(left / (size + 0.1 * typical_size(size) + 1e-300)))


def choose_basis(force: Float[np.ndarray, "sample dim"], candidates: Sequence[Basis]) -> Basis:
    """The first basis that holds a force to 5%, or else the last one.

    Args:
        force: `[sample, dim]`.
        candidates: the simplest first.
    """
    for basis in candidates[:-1]:
        if off_basis_share(force, basis) < _LARGEST_OFF:
            return basis
    return candidates[-1]


def combined(laws: Sequence[sympy.Expr], basis: Basis) -> tuple[sympy.Expr, ...]:
    """Laws of the coefficients as laws along each axis, of features alone."""
    whole = []
    for k in range(len(basis.expressions[0])):
        total: sympy.Expr = sympy.Integer(0)
        for law, vector in zip(laws, basis.expressions, strict=True):
            # Term by term, for v / v is 1 also for a body at rest.
            product = law * vector[k]
            total += sympy.expand_mul(product) if product.has(SPEED) else product
        whole.append(total)
    if not any(law.has(SPEED) for law in whole):
        return tuple(whole)
    names = sorted({str(x) for row in basis.expressions for one in row for x in one.free_symbols})
    names = [name for name in names if name != str(SPEED)]
    root = sympy.sqrt(sympy.Add(*(sympy.Symbol(name) ** 2 for name in names)))
    return tuple(law.subs(SPEED, root) for law in whole)
