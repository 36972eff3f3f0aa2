"""What is to be predicted: accelerations, velocities, or any quantity of nodes or graphs."""

import dataclasses
from typing import Any

from symjax_gn.data.checks import check_choice, check_type


@dataclasses.dataclass(frozen=True)
class Quantity:
    """What is to be predicted: a quantity of nodes or of whole graphs.

    Attributes:
        name: its name, e.g. "acceleration".
        level: "node" or "graph".
        vector: whether it turns with the axes; its components are then along x, y, z.
        unit: its dimension in words, for reports.
        weight: property by which messages are divided: messages sum up to weight x
            quantity, as forces sum up to mass x acceleration. None if there is none.

    >>> Quantity("spin", "node").vector
    False
    """

    name: str
    level: str = "node"
    vector: bool = False
    unit: str = "the target's own unit"
    weight: str | None = None

    def __post_init__(self):
        check_type("The name of a quantity", self.name, str)
        check_type("The weight of a quantity", self.weight, (str, type(None)))
        check_choice("level of a quantity", self.level, ("node", "graph"))

    @property
    def force_unit(self) -> str:
        """The dimension of weight x quantity, which messages sum up to.

        >>> ACCELERATION.force_unit
        'mass x length / time^2'
        """
        return self.unit if self.weight is None else f"{self.weight} x {self.unit}"


ACCELERATION = Quantity("acceleration", "node", True, "length / time^2", weight="mass")
VELOCITY = Quantity("velocity", "node", True, "length / time")
QUANTITIES = {quantity.name: quantity for quantity in (ACCELERATION, VELOCITY)}


def check_quantity(quantity: Any) -> None:
    """Raise a `ValueError` unless it is a `Quantity`.

    >>> check_quantity(ACCELERATION)
    """
    check_type("quantity", quantity, Quantity, 'Give e.g. Quantity("energy", "graph").')
