"""Typical sizes of what a data set holds."""

import dataclasses

import numpy as np
import pytest

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import complete_edges, stack_graphs
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.space import Space
from symjax_gn.data.units import Scales, feature_scale, measure_scales, normalise, typical_size


def three_bodies():
    """One graph on a line; no mean of anything is its median."""
    column = lambda *x: np.array(x)[None, :, None]  # noqa: E731
    properties = dict(mass=np.array([[1.0, 4.0, 64.0]]), charge=np.array([[-1.0, 2.0, 30.0]]))
    nodes = Nodes(column(0.0, 1.0, 30.0), column(1.0, -2.0, 9.0), properties)
    target = column(0.5, -4.0, 100.0)
    return Dataset(stack_graphs(nodes, *complete_edges(3)), target, None, np.zeros(1, int))


def test_scales_are_medians_of_sizes_and_geometric_means_of_what_is_positive():
    scales = measure_scales(three_bodies())
    # Distances are 1, 29 and 30.
    assert (scales.length, scales.velocity, scales.target) == (29.0, 2.0, 4.0)
    # The third root of 1 x 4 x 64; charges have both signs.
    assert scales.properties == pytest.approx(dict(mass=256 ** (1 / 3), charge=2.0))
    np.testing.assert_allclose(scales.centre, [31 / 3])


def test_inside_a_model_each_quantity_is_in_its_scale():
    data = three_bodies()
    scales = measure_scales(data)
    inside = normalise(data, scales)
    # float32.
    np.testing.assert_allclose(
        29 * inside.nodes.position[0, :, 0] + 31 / 3, [0.0, 1.0, 30.0], rtol=1e-6, atol=1e-5
    )
    np.testing.assert_allclose(2 * inside.nodes.velocity, data.nodes.velocity)
    np.testing.assert_allclose(4 * inside.target, data.target)
    np.testing.assert_allclose(2 * inside.nodes.properties["charge"], data.nodes.charge)


def test_distances_in_a_box_are_through_its_faces():
    data = three_bodies()
    nodes = data.nodes._replace(position=np.array([[[0.5], [9.5], [1.5]]]))
    graphs = data.graphs._replace(nodes=nodes)
    boxed = dataclasses.replace(data, graphs=graphs, space=Space((10.0,)))
    # Of 1, 1 and 2; as the crow flies they were 1, 8 and 9.
    scales = measure_scales(boxed)
    assert scales.length == 1.0
    assert normalise(boxed, scales._replace(length=4.0)).space.box == (2.5,)


def test_what_is_typical_is_no_mean():
    assert typical_size(np.array([0.0, -1.0, 2.0, 30.0])) == 2.0
    # Nor does one close encounter decide what is next to nothing.
    assert typical_size(np.append(np.linspace(1.0, 3.0, 101), 1e9)) == pytest.approx(2.0, rel=0.01)


def test_next_to_no_charge_is_one_and_next_to_no_mass_has_no_inverse():
    data = three_bodies()
    nothing = np.array([[1.0, 1e-30, 2.0]])

    def with_property(name):
        nodes = data.nodes._replace(properties=data.nodes.properties | {name: nothing})
        return dataclasses.replace(data, graphs=data.graphs._replace(nodes=nodes))

    assert measure_scales(with_property("charge")).properties["charge"] > 0
    with pytest.raises(ValueError, match="mass has a value .* times the typical"):
        measure_scales(with_property("mass"))


def test_scales_of_features():
    scales = Scales(2.0, 3.0, 5.0, dict(mass=7.0, charge=11.0), None)
    found = {name: feature_scale(name, scales) for name in ("dx", "r", "vx_i", "m_i", "q_j")}
    assert found == dict(dx=2.0, r=2.0, vx_i=3.0, m_i=7.0, q_j=11.0)
    assert feature_scale("p_i", scales) == 21.0
    assert feature_scale("p_i", scales._replace(properties={})) == 3.0
