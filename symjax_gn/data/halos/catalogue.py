"""Catalogues of halos: what they hold, their files, and graphs of neighbours."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float

from symjax_gn.data.blocks import block_graphs
from symjax_gn.data.checks import as_floats, check_count, check_finite, check_number
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.files import as_path, in_one_stroke
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.quantities import Quantity
from symjax_gn.data.space import Space

OVERDENSITY = Quantity("overdensity", "node", unit="mean density")

# Masses of graphs are in units of 1e14 Msun/h.
_MASS_UNIT = 1e4

_FIELDS = ("position", "velocity", "mass", "overdensity")


@dataclass(frozen=True)
class Catalogue:
    """Halos in a periodic box, at one moment.

    Attributes:
        position: `[halo, 3]`, Mpc/h, from 0 to `box`.
        velocity: `[halo, 3]`, km/s, peculiar.
        mass: `[halo]`, 1e10 Msun/h.
        overdensity: `[halo]`, of the matter around each, or None.
        box: side, Mpc/h.

    Raises:
        ValueError: shapes differ, numbers are not finite, halos are outside the box, or have no
            mass.

    >>> place = np.random.default_rng(0).uniform(0, 100, (20, 3))
    >>> len(Catalogue(place, 0 * place, np.full(20, 5e3), None, 100.0))
    20
    """

    position: Float[np.ndarray, "halo 3"]
    velocity: Float[np.ndarray, "halo 3"]
    mass: Float[np.ndarray, " halo"]
    overdensity: Float[np.ndarray, " halo"] | None
    box: float

    def __post_init__(self):
        check_number("The side of the box", self.box, above=0)
        count = np.shape(self.mass)[:1]
        for name in _FIELDS:
            values = getattr(self, name)
            if values is None and name == "overdensity":
                continue
            array = as_floats(f"The {name} of halos", values)
            wanted = (*count, 3) if name in ("position", "velocity") else count
            if len(count) != 1 or array.shape != wanted:
                raise ValueError(
                    f"The {name} of halos has shape {array.shape}; with masses of shape "
                    f"{np.shape(self.mass)} it is to be {wanted}."
                )
            check_finite(f"The {name} of halos", array)
            object.__setattr__(self, name, array)
        outside = np.any((self.position < 0) | (self.position > self.box), axis=1)
        if np.any(outside):
            worst = self.position[np.flatnonzero(outside)[0]]
            raise ValueError(
                f"{np.sum(outside)} of {len(self)} halos are outside the box of {self.box} Mpc/h, "
                f"the first at {worst.tolist()}; are positions in Mpc/h, and is the box right?"
            )
        if np.any(self.mass <= 0):
            raise ValueError(
                f"{np.sum(self.mass <= 0)} of {len(self)} halos have no mass; leave them out."
            )

    def __len__(self) -> int:
        return len(self.mass)

    def take(self, index: Any) -> "Catalogue":
        """The halos of an index or mask."""
        around = None if self.overdensity is None else self.overdensity[index]
        return Catalogue(
            self.position[index], self.velocity[index], self.mass[index], around, self.box
        )

    def save(self, path: str | os.PathLike[str], **about: Any) -> None:
        """Write it to an .npz file, in single precision, with notes of its making."""
        columns = {name: getattr(self, name) for name in _FIELDS}
        columns = {name: x.astype(np.float32) for name, x in columns.items() if x is not None}
        contents: dict[str, Any] = about | columns | dict(box=self.box)
        with in_one_stroke(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **contents)


def load_catalogue(path: str | os.PathLike[str]) -> Catalogue:
    """A catalogue that `Catalogue.save` has written.

    Raises:
        ValueError: the file is none, or lacks a column.
    """
    name = as_path(path)
    try:
        # NumPy leaves a file that it cannot read open.
        with name.open("rb") as file, np.load(file) as saved:
            columns = {key: saved[key] for key in (*_FIELDS, "box") if key in saved}
    except (OSError, ValueError, AttributeError, BadZipFile) as error:
        raise ValueError(f"{name} is no .npz file of halos: {error}") from error
    missing = [key for key in (*_FIELDS[:3], "box") if key not in columns]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}; it is no catalogue of halos.")
    box = float(columns["box"])
    # Rounded to single precision, a place may be the side itself, which is 0.
    position = np.mod(columns["position"].astype(np.float64), box)
    return Catalogue(
        position, columns["velocity"], columns["mass"], columns.get("overdensity"), box
    )


def shipped_catalogue() -> Catalogue:
    """The catalogue that comes with the package: 37,545 halos in a box of 500 Mpc/h, z = 0.

    It was made by `examples/make_halos.py`, from 256^3 particles of Quijote's mass; the file
    names the command.

    >>> len(shipped_catalogue())
    37545
    """
    return load_catalogue(Path(__file__).parent / "catalogue.npz")


def halo_dataset(
    catalogue: Catalogue,
    radius: float = 50.0,
    *,
    masses: bool = True,
    velocities: bool = True,
    slabs: int = 10,
    receivers: Bool[np.ndarray, " halo"] | None = None,
    block: int = 64,
) -> Dataset:
    """Graphs in which halos within a radius tell each halo of the overdensity around it.

    Properties are masses in 1e14 Msun/h. Groups are slabs of the box along its last axis, so
    that no split parts neighbours but at their faces.

    Args:
        catalogue: halos with overdensities.
        radius: within which halos are joined, Mpc/h; at most half of the box.
        masses: whether the network sees masses.
        velocities: whether it sees velocities.
        slabs: how many.
        receivers: `[halo]`, those whose overdensity is to be predicted; None: all.
        block: receivers of one graph.

    Raises:
        ValueError: an argument is wrong, there are no overdensities, or fewer halos than a
            graph takes.

    >>> rng = np.random.default_rng(0)
    >>> place = rng.uniform(0, 100, (80, 3))
    >>> found = Catalogue(place, 0 * place, np.full(80, 5e3), rng.normal(size=80), 100.0)
    >>> data = halo_dataset(found, 30.0, slabs=2, block=8)
    >>> data.quantity.name, int(np.sum(data.mask))
    ('overdensity', 80)
    """
    check_count("slabs", slabs)
    if catalogue.overdensity is None:
        raise ValueError(
            "The catalogue has no overdensities, which are what is to be predicted: give the "
            "density cube of its box to the reader."
        )
    slab = np.minimum(catalogue.position[:, 2] / catalogue.box * slabs, slabs - 1).astype(int)
    nodes = Nodes(
        position=catalogue.position,
        velocity=catalogue.velocity if velocities else None,
        properties={"mass": catalogue.mass / _MASS_UNIT} if masses else {},
    )
    return block_graphs(
        nodes,
        catalogue.overdensity,
        radius,
        space=Space((catalogue.box,) * 3),
        quantity=OVERDENSITY,
        group=slab,
        receivers=receivers,
        size=block,
    )
