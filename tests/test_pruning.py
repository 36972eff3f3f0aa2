import itertools

import jax.numpy as jnp
import numpy as np

from symjax_gn.model import Contributions
from symjax_gn.networks.pruning import (
    Cut,
    fade,
    keep_or_undo,
    kept_components,
    prune,
    rank_components,
)


def test_pruning_schedule():
    kept = [float(kept_components(jnp.array(p), 100)) for p in np.linspace(0, 1, 101)]
    assert kept[0] == 100
    assert kept[65:] == [1.0] * 36
    assert all(a >= b for a, b in itertools.pairwise(kept))
    assert abs(kept[32] - 51) <= 2
    assert fade(0.0) == 1
    assert fade(0.65) == fade(1.0) == 0


def test_the_least_significant_go_first_and_stay_away():
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    significance = jnp.array([0.1, 3.0, 2.0, 9.0])
    np.testing.assert_array_equal(prune(mask, significance, jnp.array(2.0)), [0, 1, 1, 0])
    np.testing.assert_array_equal(prune(mask, significance, jnp.array(3.0)), [1, 1, 1, 0])


def test_components_are_ranked_by_what_the_quantity_loses_without_them():
    """Two receivers, of which the first has one sender, and accelerations of 3 and 0."""
    found = Contributions(
        terms=None,
        alone=None,
        value=jnp.array([[0.0, -3.0], [0.0, 0.0]]),
        messages=jnp.array([[[2.0, 10.0], [99.0, 99.0]], [[-1.0, 1.0], [5.0, 1.0]]]),
        offset=jnp.array([[1.0, 4.0], [1.0, 0.0]]),
        jacobian=jnp.array([[[3.0, 0.0], [4.0, -1.0]], [[0.0, 0.0], [1.0, 2.0]]]),
    )
    ranked = rank_components(found, jnp.array([[True, False], [True, True]]))
    # (5 x 1 / 4 + 1 x 2 + 1 x 4) / 3 and (1 x 6 / 4 + 2 x 1 + 2 x 1) / 3.
    np.testing.assert_allclose(ranked, [7.25 / 3, 5.5 / 3], rtol=1e-6)


def test_a_cut_that_takes_too_much_is_undone():
    def step(value, mask, cut, loss, progress):
        params = {"w": jnp.array(value)}
        return keep_or_undo(params, jnp.array(mask), cut, loss, spread, progress)

    spread = jnp.array([3.0, 2.0, 1.0, 0.1])
    start = Cut({"w": jnp.array(0.0)}, jnp.ones(4), spread, jnp.inf, jnp.array(1.0))
    # Late in training the schedule asks for one component.
    _, mask, cut = step(1.0, [1.0, 1, 1, 1], start, 0.1, 0.9)
    np.testing.assert_array_equal(mask, [1, 0, 0, 0])
    # The loss rose by 0.2: the parameters come back, and half of the cut is tried: 4 to 3.
    params, mask, cut = step(2.0, [1.0, 0, 0, 0], cut, 0.3, 0.92)
    assert params["w"] == 1.0
    np.testing.assert_array_equal(mask, [1, 1, 1, 0])
    # That did no harm, so it is one again; that harms again, so it is two.
    _, mask, cut = step(3.0, [1.0, 1, 1, 0], cut, 0.1, 0.94)
    np.testing.assert_array_equal(mask, [1, 0, 0, 0])
    params, mask, cut = step(4.0, [1.0, 0, 0, 0], cut, 0.3, 0.96)
    assert params["w"] == 3.0
    np.testing.assert_array_equal(mask, [1, 1, 0, 0])
    # Two do no harm; one does, for the last time.
    _, mask, cut = step(5.0, [1.0, 1, 0, 0], cut, 0.1, 0.97)
    np.testing.assert_array_equal(mask, [1, 0, 0, 0])
    for value in (6.0, 7.0, 8.0):
        params, mask, cut = step(value, mask, cut, 0.3 if value == 6.0 else 0.1, 0.99)
        assert params["w"] == (5.0 if value == 6.0 else value)
        np.testing.assert_array_equal(mask, [1, 1, 0, 0])


def test_a_rise_of_less_than_a_tenth_is_no_harm():
    for loss, kept in ((0.19, 1), (0.21, 2)):
        spread = jnp.array([3.0, 2.0, 1.0])
        before = Cut({}, jnp.ones(3), spread, jnp.array(0.1), jnp.array(1.0))
        _, mask, _ = keep_or_undo({}, jnp.array([1.0, 0, 0]), before, loss, spread, 0.9)
        assert np.sum(mask) == kept


def test_nothing_is_cut_at_the_end():
    """Nothing would test it; what the last report cut is still taken back if it harmed."""
    spread = jnp.array([3.0, 2.0, 1.0])
    for mask, loss, kept in (([1.0, 1, 1], 0.1, 3), ([1.0, 1, 0], 0.1, 2), ([1.0, 1, 0], 0.3, 3)):
        before = Cut({}, jnp.ones(3), spread, jnp.array(0.1), jnp.array(1.0))
        _, mask, _ = keep_or_undo({}, jnp.array(mask), before, loss, spread, jnp.array(1.0))
        assert np.sum(mask) == kept
