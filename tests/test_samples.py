"""What laws are fitted to: owners with their weights, and the elements that act on them."""

import numpy as np
import pytest

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import complete_edges, stack_graphs
from symjax_gn.data.nodes import Nodes
from symjax_gn.laws.samples import gather, reweighted

MASS = np.array([1.0, 2.0, 5.0])
# Sizes of accelerations, of which the last is not known; the median of the others is 3.
SIZE = np.array([1.0, 2.0, 3.0, 4.0, 10.0, 1e6])
KNOWN = np.arange(6) < 5


def data():
    """Three graphs of three bodies; in the last two of them are at one place."""
    rng = np.random.default_rng(0)
    position = rng.normal(size=(3, 3, 2))
    position[2, 1] = position[2, 0]
    target = np.zeros((3, 3, 2))
    target[:2, :, 0] = SIZE.reshape(2, 3)
    target[2] = 7e3
    mask = np.append(KNOWN, [True] * 3).reshape(3, 3)
    nodes = Nodes(position, None, dict(mass=np.tile(MASS, (3, 1))))
    return Dataset(stack_graphs(nodes, *complete_edges(3)), target, mask, np.arange(3))


def test_bodies_of_which_nothing_is_known_are_left_out():
    bodies = gather(data(), 10**6)
    np.testing.assert_allclose(bodies.weight, 1 / (SIZE[KNOWN] + 0.1 * 3), rtol=1e-12)
    np.testing.assert_array_equal(bodies.target[:, 0], SIZE[KNOWN])
    # Nor are the pairs there that act on them; they act on others.
    assert bodies.sums.shape == (5, 10)
    assert bodies.elements["m_j"].tolist().count(5.0) == 4
    # A graph with coincident bodies is left out whole.
    assert bodies.graph.tolist() == [0, 0, 0, 1, 1]


def test_weights_by_predictions():
    bodies = gather(data(), 10**6)
    predicted = np.stack([0 * SIZE, 2 * SIZE], axis=1)[KNOWN]
    found = reweighted(bodies, predicted).weight
    np.testing.assert_allclose(found, 1 / (2 * SIZE[KNOWN] + 0.1 * 6), rtol=1e-12)
    # Whatever the share, a body of typical acceleration has the same weight.
    other = reweighted(bodies, predicted, share=1.0).weight
    assert other[2] == pytest.approx(found[2], rel=1e-12)
    assert other[0] < found[0] and other[4] > found[4]


def test_sums_over_pairs_are_divided_by_masses():
    bodies = gather(data(), 10**6)
    mass = np.tile(MASS, 2)[KNOWN]
    np.testing.assert_allclose(bodies.of_elements(np.ones(10)), 2 / mass)
    np.testing.assert_allclose(bodies.of_elements(bodies.elements["m_i"]), [2.0] * 5)
    np.testing.assert_allclose(
        bodies.of_elements(bodies.elements["m_j"]), (np.sum(MASS) - mass) / mass
    )
    np.testing.assert_allclose(bodies.of_owners(np.ones((5, 3))), np.ones((5, 3)) / mass[:, None])
