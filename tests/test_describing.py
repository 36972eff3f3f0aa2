"""What makes one training another: by it a checkpoint is known."""

import jax
import numpy as np
import pytest

from symjax_gn.networks.checkpoints import describe
from symjax_gn.networks.preparation import Prepared
from symjax_gn.networks.steps import Hyperparameters, Recipe
from tests.test_sweep import tiny

DATA = dict(position=np.arange(3.0), mass=np.ones(2))


def prepared(**changes):
    made = Prepared(
        recipe=Recipe(tiny()), scales=None, hyper=Hyperparameters(), train=DATA,
        validation=DATA, stars=None, learn=(), batch_size=8, length=5,
    )  # fmt: skip
    return made._replace(**changes)


def changed(what):
    return DATA | {what: DATA[what] + np.float64(1e-15)}


@pytest.mark.parametrize(
    "changes",
    [
        dict(train=changed("position")),
        dict(validation=changed("mass")),
        dict(recipe=Recipe(tiny(), steps=8001)),
        dict(recipe=Recipe(tiny(), loss="absolute")),
        dict(recipe=Recipe(tiny(), prune=True)),
        dict(recipe=Recipe(tiny(width=9))),
        dict(batch_size=9),
        dict(length=6),
        *(dict(hyper=Hyperparameters(**{x: 0.125})) for x in Hyperparameters._fields),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_changes_a_training_makes_it_another(changes):
    key = jax.random.key(0)
    assert describe(key, prepared(**changes)) != describe(key, prepared())


def test_the_same_numbers_at_another_place_are_the_same_training():
    key = jax.random.key(0)
    copies = {name: x.copy() for name, x in DATA.items()}
    assert describe(key, prepared(validation=copies)) == describe(key, prepared())
    assert describe(jax.random.key(1), prepared()) != describe(key, prepared())
    assert describe(key, prepared(), halve_at=[0.5]) != describe(key, prepared())
