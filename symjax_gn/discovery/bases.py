"""Vectors that forces are made of: the line of centres, velocities, fixed axes."""

import itertools
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

# Fits of a matrix with an offset, each weighted by what the one before left.
_REWEIGHTED = 3

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
    matrix: Float[np.ndarray, "component dim"] | None = None
    """The matrix M of the basis M u, u the unit displacement."""


def line_of_centres(
    features: Features, dim: int, matrix: Float[np.ndarray, "component dim"] | None = None
) -> Basis:
    """The unit displacement from receiver to sender, or a matrix times it.

    Args:
        features: columns `dx`, ... and `r`, none of it 0.
        dim: spatial dimension.
        matrix: `[component, dim]` or None.

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
    vectors: Float[np.ndarray, "sample component"], features: Features, *, offset: bool = False
) -> tuple[Float[np.ndarray, "component dim"], Float[np.ndarray, " component"]]:
    """The matrix M, and the offset b, for which vectors are nearest to a number times M u, plus b.

    u is the unit displacement. The vector w - b and M u are parallel where all of
    w_k (M u)_l - w_l (M u)_k - c_kl u are 0, with c_kl = b_k M_l - b_l M_k. These equations
    are linear in M and c; M is the part of the unit solution with the smallest error (a direct
    linear transform), scaled to the norm of a unit matrix and with a positive trace, so that it is
    1 for a central force.

    Args:
        vectors: `[sample, component]`, forces or raw messages.
        features: columns `dx`, ... and `r`.
        offset: whether there is an offset b; without it b = 0.

    Returns:
        M `[component, dim]` and b `[component]`.

    >>> angle = np.linspace(0.0, 6.0, 20)
    >>> features = {"dx": np.cos(angle), "dy": np.sin(angle), "r": np.ones(20)}
    >>> matrix, constant = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([3.0, 4.0])
    >>> unit = line_of_centres(features, 2).vectors[:, 0]
    >>> sent = np.linspace(-1, 1, 20)[:, None] * unit @ matrix.T + constant
    >>> found, b = fit_matrix(sent, features, offset=True)
    >>> np.allclose(found * np.linalg.norm(matrix) / np.linalg.norm(found), matrix), b.round(6)
    (True, array([3., 4.]))
    """
    dim, count = sum(f"d{axis}" in features for axis in AXES), vectors.shape[1]
    if count == 1:
        return np.eye(1, dim), np.zeros(1)
    unit = line_of_centres(features, dim).vectors[:, 0]
    constant = np.median(vectors, axis=0) if offset else np.zeros(count)
    matrix = np.eye(count, dim)
    # Errors are relative to the size of what is left without the offset, found on the way.
    for _ in range(_REWEIGHTED if offset else 1):
        size = np.linalg.norm(vectors - constant, axis=1)
        weight = 1 / (size + 0.1 * typical_size(size))
        matrix, constant = _parallel(vectors, unit, weight, offset)
    return matrix, constant


def _parallel(vectors, unit, weight, offset):
    """One solution of the equations of `fit_matrix`."""
    count, dim = vectors.shape[1], unit.shape[1]
    pairs = list(itertools.combinations(range(count), 2))
    rows = []
    for p, (k, m) in enumerate(pairs):
        row = np.zeros((len(unit), count + len(pairs) * offset, dim))
        row[:, m] = vectors[:, [k]] * unit
        row[:, k] = -vectors[:, [m]] * unit
        if offset:
            row[:, count + p] = -unit
        rows.append(weight[:, None] * row.reshape(len(unit), -1))
    design = np.concatenate(rows)
    # The eigenvector of the smallest eigenvalue.
    solution = np.linalg.eigh(design.T @ design)[1][:, 0].reshape(-1, dim)
    matrix, products = solution[:count], solution[count:]
    constant = np.zeros(count)
    if offset:
        of_constant = np.zeros((len(pairs), dim, count))
        for p, (k, m) in enumerate(pairs):
            of_constant[p, :, k], of_constant[p, :, m] = matrix[m], -matrix[k]
        flat = of_constant.reshape(-1, count)
        constant = np.linalg.lstsq(flat, products.ravel(), rcond=None)[0]
    size = np.linalg.norm(matrix) * (-1.0 if np.trace(matrix) < 0 else 1.0)
    return math.sqrt(dim) * matrix / size, constant


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
