"""The members of a sweep: columns of seeds, hyperparameters and data sets."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, PRNGKeyArray

from symjax_gn.data.border import check_kind
from symjax_gn.data.checks import LARGEST_SEED, as_floats, check_choice, check_count, check_finite
from symjax_gn.data.sampling import host_generator
from symjax_gn.networks.preparation import Prepared
from symjax_gn.networks.steps import Hyperparameters
from symjax_gn.networks.strategies import DEFAULT_WEIGHT

SWEPT = ("seed", "data", *Hyperparameters._fields)
"""What may differ between the members of a sweep."""

# What users may want to sweep that is compiled into the program.
_FIXED = (
    "strategy", "steps", "model", "loss", "prune", "optimizer", "batch_size", "intervals",
    "learn", "width", "depth", "network", "node", "pair", "message_dim", "activation",
)  # fmt: skip

Members = dict[str, Float[np.ndarray, " member"]]
"""Columns by name."""


def grid(**values: Sequence[float]) -> Members:
    """All combinations of some values; those of the last name follow each other.

    Args:
        **values: of names in `SWEPT`.

    Raises:
        ValueError: a name cannot be swept, or its values are no numbers.

    >>> grid(learning_rate=[0.01, 0.03], seed=range(3))["seed"].tolist()
    [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]
    """
    for name, column in values.items():
        _check_name(name)
        check_kind(name, column, Sequence[float])
    columns = [as_floats(name, list(column)) for name, column in values.items()]
    rows = np.array(list(itertools.product(*columns)), np.float64).reshape(-1, len(columns))
    return dict(zip(values, rows.T, strict=True))


def random_members(key: PRNGKeyArray, count: int, **ranges: tuple[float, float]) -> Members:
    """Members at random: values between two bounds, even in logarithms if both are positive.

    Args:
        key: PRNG key.
        count: how many.
        **ranges: the least and the largest value of names in `SWEPT`.

    Raises:
        ValueError: bounds are no two numbers in order.

    >>> import jax
    >>> found = random_members(jax.random.key(0), 100, learning_rate=(1e-4, 1e-1))
    >>> bool(0.001 < np.median(found["learning_rate"]) < 0.01)
    True
    """
    check_count("count", count)
    rng, found = host_generator(key), {}
    for name, bounds in ranges.items():
        _check_name(name)
        ends = as_floats(name, bounds)
        if ends.shape != (2,) or not ends[0] <= ends[1]:
            raise ValueError(f"{name} needs its least and its largest value, got {bounds}.")
        low, high = np.log(ends) if ends[0] > 0 else ends
        drawn = rng.uniform(low, high, count)
        found[name] = np.exp(drawn) if ends[0] > 0 else drawn
    return found


def _check_name(name):
    """Raise a `ValueError` unless members may differ in what is called so."""
    if name in _FIXED:
        raise ValueError(
            f"{name} is compiled into the program, so that it cannot differ between the "
            f"members of a sweep: give it as {name}=..., one sweep for each value."
        )
    check_choice("column of members", name, SWEPT)


def check_members(
    members: Mapping[str, Sequence[float]], prepared: Prepared, num_data: int
) -> Members:
    """The members as columns of one length.

    Args:
        members: what `sweep` is given.
        prepared: what is the same for all.
        num_data: number of data sets.

    Raises:
        ValueError: a name cannot be swept or has no effect, or values are wrong.
    """
    recipe = prepared.recipe
    for name in members:
        _check_name(name)
    columns = {name: as_floats(name, column) for name, column in members.items()}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
        raise ValueError(f"Members need columns of one length, [member]; got {found}.")
    if not len(next(iter(columns.values()))):
        raise ValueError("There are no members: their columns are empty.")
    pruned = "without pruning"
    useless = {
        "penalty_weight": None if recipe.strategy in DEFAULT_WEIGHT else "without a penalty",
        "learning_rate": None if isinstance(recipe.optimizer, str) else "of an optimiser's own",
        "weight_decay": None if isinstance(recipe.optimizer, str) else "of an optimiser's own",
        "prune_tolerance": None if recipe.prune else pruned,
        "translation": None if recipe.model.inputs == "absolute" else "of relative positions",
    }
    for name, column in columns.items():
        check_finite(name, column)
        if useless.get(name) is not None:
            raise ValueError(f"{name} has no effect here ({useless[name]}): do not sweep it.")
        positive = name in ("learning_rate", "initial_scale")
        least = 1.0 if name == "focus" else 0.0
        if np.any(column < least) or (positive and np.any(column == 0)):
            bound = "above 0" if positive else f"of at least {least:g}"
            raise ValueError(f"{name} must be {bound}, got {np.min(column):g}.")
        if name == "seed" and np.any(column > LARGEST_SEED):
            raise ValueError(f"seed must be at most {LARGEST_SEED}, got {np.max(column):.0f}.")
        if name in ("seed", "data") and np.any(column != np.round(column)):
            raise ValueError(f"{name} must hold whole numbers.")
    if np.any(columns.get("data", np.zeros(1)) >= num_data):
        raise ValueError(
            f"data names the data set {int(np.max(columns['data']))}, and there are {num_data}, "
            "0 first."
        )
    return columns
