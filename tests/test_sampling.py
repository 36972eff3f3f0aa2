"""Random pairs and stars: who sends to whom."""

import jax
import numpy as np

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import stack_graphs
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.sampling import sample_pairs, sample_stars

# Node 0 sends to both others, node 1 to the last; nothing is sent back.
SENDERS, RECEIVERS = np.array([0, 1, 0]), np.array([2, 2, 1])
KEY = jax.random.key(0)


def one_way():
    """Two graphs in which a position says which node of which graph it is."""
    place = 10.0 * np.arange(2)[:, None] + np.arange(3)
    nodes = Nodes(place[..., None], None, {})
    return Dataset(
        stack_graphs(nodes, SENDERS, RECEIVERS), 0 * place[..., None], None, np.arange(2)
    )


def test_pairs_are_edges_from_sender_to_receiver():
    receiver, sender, graph, edge = sample_pairs(KEY, one_way(), 100)
    np.testing.assert_array_equal(receiver.position[:, 0], 10 * graph + RECEIVERS[edge])
    np.testing.assert_array_equal(sender.position[:, 0], 10 * graph + SENDERS[edge])
    assert set(graph) == {0, 1} and set(edge) == {0, 1, 2}


def test_bodies_on_one_axis_are_apart_and_those_at_one_place_are_not():
    place = np.array([[0.0, 0.0], [5.0, 0.0], [5.0, 0.0]])[None]
    graphs = stack_graphs(Nodes(place, None, {}), SENDERS, RECEIVERS)
    data = Dataset(graphs, 0 * place, None, np.zeros(1, int))
    _, _, _, edge = sample_pairs(KEY, data, 100)
    # The second edge is between two bodies at one place.
    assert set(edge) == {0, 2}


def test_stars_are_receivers_with_all_that_sends_to_them():
    stars = sample_stars(KEY, one_way(), 100)
    # To node 0 nothing is sent.
    assert set(stars.node) == {1, 2} and set(stars.graph) == {0, 1}
    np.testing.assert_array_equal(stars.receiver.position[:, 0], 10 * stars.graph + stars.node)
    for k, (graph, node) in enumerate(zip(stars.graph, stars.node, strict=True)):
        found = stars.senders.position[k, stars.present[k], 0] - 10 * graph
        assert sorted(found) == {1: [0], 2: [0, 1]}[node]
