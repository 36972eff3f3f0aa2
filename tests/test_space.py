"""Space and nodes: differences across the faces of a box, properties by name, errors."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data.nodes import Nodes, check_nodes, leading_shape, take_nodes
from symjax_gn.data.space import FREE, Space

BOX = Space((4.0, 10.0))
RNG = np.random.default_rng(0)
NUMPYS = pytest.mark.parametrize("numpy", [np, jnp])


def points(*shape):
    return RNG.uniform(-30.0, 30.0, shape)


@NUMPYS
def test_free_space_subtracts_and_adds(numpy):
    x, y = numpy.asarray(points(5, 2)), numpy.asarray(points(5, 2))
    np.testing.assert_array_equal(FREE.displacement(x, y), y - x)
    np.testing.assert_array_equal(FREE.move(x, y), x + y)
    assert FREE.scaled(3.0) is FREE and Space() == FREE


@NUMPYS
def test_displacements_are_the_shortest(numpy):
    x, y = points(200, 2), points(200, 2)
    way = np.asarray(BOX.displacement(numpy.asarray(x), numpy.asarray(y)))
    sides = np.array(BOX.box)
    # Among all images.
    images = sides * np.stack(np.meshgrid(np.arange(-20, 21), np.arange(-7, 8)), -1).reshape(-1, 2)
    all_ways = (y - x)[:, None] + images
    shortest = np.min(np.linalg.norm(all_ways, axis=-1), axis=1)
    # float32 numbers of 60.
    np.testing.assert_allclose(np.linalg.norm(way, axis=-1), shortest, atol=1e-4)
    # It leads from x to an image of y.
    turns = (x + way - y) / sides
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-4)


def test_the_direction_of_a_displacement():
    np.testing.assert_allclose(
        BOX.displacement(np.array([3.5, 1.0]), np.array([0.5, 9.0])), [1.0, -2.0]
    )
    np.testing.assert_allclose(BOX.displacement(np.array([1.0, 1.0]), np.array([2.0, 5.0])), [1, 4])
    # As many turns as there are.
    np.testing.assert_allclose(
        BOX.displacement(np.array([0.5, 0.0]), np.array([41.0, -99.0])), [0.5, 1.0]
    )


@NUMPYS
def test_displacements_are_antisymmetric_and_know_no_origin(numpy):
    x, y, shift = (numpy.asarray(points(50, 2)) for _ in range(3))
    way = BOX.displacement(x, y)
    np.testing.assert_allclose(BOX.displacement(y, x), -way, atol=1e-5)
    np.testing.assert_allclose(BOX.displacement(x + shift, y + shift), way, atol=1e-4)
    # Half a side away both ways are as short; there and back they are still opposite.
    x, y = numpy.asarray([0.0, 0.0]), numpy.asarray([2.0, -5.0])
    np.testing.assert_array_equal(BOX.displacement(x, y), -BOX.displacement(y, x))


@NUMPYS
def test_moves_end_inside(numpy):
    x, step = numpy.asarray(points(200, 2)), numpy.asarray(points(200, 2))
    moved = np.asarray(BOX.move(x, step))
    assert np.all((moved >= 0) & (moved < np.array(BOX.box)))
    turns = (np.asarray(x) + np.asarray(step) - moved) / np.array(BOX.box)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-4)
    np.testing.assert_allclose(
        BOX.move(numpy.asarray([1.0, 2.0]), numpy.asarray([0.5, 0])), [1.5, 2]
    )


@NUMPYS
@pytest.mark.parametrize("value", [-1e-9, -1e-17, 0.0, 4.0, -4.0, 8.0])
def test_the_face_itself_is_at_zero(numpy, value):
    """Where rounding would give the side, the body is at its opposite."""
    moved = Space((4.0,)).move(numpy.zeros(1, numpy.float32), numpy.asarray([value], numpy.float32))
    assert 0 <= moved[0] < 4.0
    assert moved.dtype == np.float32


def test_moving_back_and_forth():
    x, step = np.mod(points(50, 2), BOX.box), points(50, 2)
    back = BOX.move(BOX.move(x, step), -step)
    np.testing.assert_allclose(BOX.displacement(x, back), 0.0, atol=1e-12)
    np.testing.assert_allclose(
        BOX.displacement(x, BOX.move(x, np.full(2, 1.5))), np.full((50, 2), 1.5), atol=1e-12
    )


@NUMPYS
def test_types_stay(numpy):
    for dtype in (np.float32, np.float64):
        if numpy is jnp and dtype == np.float64:
            continue
        x = numpy.ones((3, 2), dtype)
        for space in (FREE, BOX):
            assert space.displacement(x, 2 * x).dtype == dtype
            assert space.move(x, x).dtype == dtype
    kind = np.ndarray if numpy is np else jax.Array
    assert isinstance(BOX.displacement(x, x), kind) and isinstance(BOX.move(x, x), kind)


@NUMPYS
def test_whole_numbers_do_not_round_the_box(numpy):
    box = Space((2.5,))
    np.testing.assert_allclose(box.displacement(numpy.asarray([0]), numpy.asarray([2])), [-0.5])
    np.testing.assert_allclose(box.move(numpy.asarray([2]), numpy.asarray([1])), [0.5])


def test_derivatives_and_transformations():
    x, y = jnp.array([3.9, 0.2]), jnp.array([0.3, 9.9])
    np.testing.assert_array_equal(jax.jacobian(BOX.displacement, 0)(x, y), -np.eye(2))
    np.testing.assert_array_equal(jax.jacobian(BOX.displacement, 1)(x, y), np.eye(2))
    np.testing.assert_array_equal(jax.jacobian(BOX.move)(x, y), np.eye(2))
    edge = jnp.zeros(2), jnp.array([-1e-9, 0.0])
    np.testing.assert_array_equal(jax.jacobian(BOX.move)(*edge), np.eye(2))
    many = jnp.asarray(points(5, 2)), jnp.asarray(points(5, 2))
    for function in (BOX.displacement, BOX.move):
        np.testing.assert_allclose(
            jax.jit(jax.vmap(function))(*many), function(*many), rtol=1e-6, atol=1e-6
        )


def test_batches_broadcast():
    x = points(4, 2)
    table = BOX.displacement(x[:, None], x[None])
    assert table.shape == (4, 4, 2)
    np.testing.assert_allclose(table[1, 3], BOX.displacement(x[1], x[3]))


def test_scaled_boxes():
    assert Space((1.0, 2.0)).scaled(0.5) == Space((0.5, 1.0))
    x, y = points(5, 2), points(5, 2)
    np.testing.assert_allclose(
        BOX.scaled(3.0).displacement(3 * x, 3 * y), 3 * BOX.displacement(x, y), atol=1e-9
    )


def test_a_space_can_be_a_static_argument():
    assert hash(Space([4, 10])) == hash(BOX) and Space(np.array([4.0, 10.0])) == BOX
    assert Space((np.float32(4.0), 10)).box == (4.0, 10.0)
    assert all(type(side) is float for side in Space([4, np.float64(10)]).box)
    function = jax.jit(lambda x, space: space.move(x, 0 * x), static_argnames="space")
    np.testing.assert_allclose(function(jnp.array([5.0, 5.0]), space=BOX), [1.0, 5.0])


@pytest.mark.parametrize(
    "box",
    [3.0, (), (1.0, 0.0), (1.0, -1.0), (np.nan, 1.0), (np.inf,), ("a",), "12", b"12", {1.0, 2.0},
     [[1.0, 2.0]], True, (None,), {"x": 1.0}],
)  # fmt: skip
def test_boxes_that_are_none(box):
    with pytest.raises(ValueError, match="sides of a periodic box must be positive numbers.* got"):
        Space(box)


@pytest.mark.parametrize("shape", [(3,), (5, 1), (2, 3), ()])
def test_positions_of_another_dimension(shape):
    for numpy in (np, jnp):
        x = numpy.zeros(shape)
        for function in (BOX.displacement, BOX.move):
            with pytest.raises(ValueError, match=r"has 2 sides, so positions .* \[..., 2\], got"):
                function(x, x)


# Nodes.


def bodies(*shape, **properties):
    return Nodes(
        np.ones((*shape, 2)),
        np.zeros((*shape, 2)),
        {"mass": np.ones(shape)} | properties,
    )


def test_properties_are_attributes():
    nodes = bodies(3, radius=np.arange(3.0))
    np.testing.assert_array_equal(nodes.radius, [0.0, 1.0, 2.0])
    assert nodes.mass is nodes.properties["mass"]
    assert hasattr(nodes, "radius") and not hasattr(nodes, "charge")
    with pytest.raises(AttributeError, match="no property 'charge'; they have: mass, radius"):
        _ = nodes.charge
    with pytest.raises(AttributeError, match="they have: none"):
        _ = Nodes(np.zeros((1, 1)), None, {}).mass
    with pytest.raises(AttributeError, match="__array__"):
        _ = nodes.__array__


def test_nodes_are_a_pytree():
    nodes = bodies(3)._replace(velocity=None)
    assert len(jax.tree.leaves(nodes)) == 2
    doubled = jax.jit(lambda nodes: jax.tree.map(lambda x: 2 * x, nodes))(nodes)
    assert isinstance(doubled, Nodes) and doubled.velocity is None
    np.testing.assert_array_equal(doubled.mass, [2.0, 2.0, 2.0])
    one = jax.vmap(lambda nodes: nodes.mass * nodes.position[0])(nodes)
    np.testing.assert_array_equal(one, np.ones(3))


def test_nodes_can_be_copied_and_pickled():
    for nodes in (copy.deepcopy(bodies(2)), pickle.loads(pickle.dumps(bodies(2)))):
        assert isinstance(nodes, Nodes)
        np.testing.assert_array_equal(nodes.mass, np.ones(2))


def test_taking_nodes():
    nodes = Nodes(np.arange(8.0).reshape(4, 2), None, {"mass": np.arange(4.0)})
    few = take_nodes(nodes, np.array([3, 0]))
    np.testing.assert_array_equal(few.position, [[6.0, 7.0], [0.0, 1.0]])
    np.testing.assert_array_equal(few.mass, [3.0, 0.0])
    assert few.velocity is None
    assert take_nodes(nodes, nodes.mass > 1).mass.tolist() == [2.0, 3.0]
    assert take_nodes(nodes, 2).mass == 2.0


def test_shared_axes():
    assert leading_shape(bodies(5, 3)) == (5, 3)
    assert leading_shape(bodies(5, 3)._replace(position=None)) == (5, 3)
    assert leading_shape(Nodes(None, None, {"x": np.zeros((7, 2))})) == (7, 2)
    assert leading_shape(bodies()) == ()
    with pytest.raises(ValueError, match="no shape"):
        leading_shape(Nodes(None, None, {}))


def test_good_nodes_pass():
    check_nodes(bodies(5, 3), "the test")
    check_nodes(bodies(), "the test")
    check_nodes(jax.tree.map(jnp.asarray, bodies(3)), "the test")
    check_nodes(Nodes(None, None, {"a": np.zeros((7, 2))}), "the test")
    check_nodes(Nodes(np.zeros((3, 1)), None, {}), "the test")
    check_nodes(Nodes([[0, 1], [2, 3]], None, {"kind": np.array([True, False])}), "the test")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((np.zeros((3, 2)), None, {}), "must be symjax_gn.Nodes, got <class 'tuple'>"),
        (Nodes(None, None, {}), "neither positions nor properties"),
        (Nodes(np.zeros(()), None, {}), r"1 to 3 dimensions, \[..., dim\], got the shape \(\)"),
        (bodies(3)._replace(velocity=np.zeros((3, 3))), r"agree in shape, got \(3, 2\) and \(3, 3"),
        (bodies(3)._replace(properties=np.ones(3)), "must be a dict of arrays by name, got an arr"),
        (bodies(3)._replace(properties=None), "must be a dict of arrays by name, got None"),
        (
            bodies(3, charge=np.ones(4)),
            r"The charge from the test must have shape \(3,\), got \(4,",
        ),
        (bodies(3, charge=1.0), r"The charge from the test must have shape \(3,\), got \(\)"),
        (bodies(3, count=np.ones(3)), "cannot be called 'count'"),
        (bodies(3, position=np.ones(3)), "cannot be called 'position'"),
        (Nodes(np.zeros((3, 2)), None, {1: np.ones(3)}), "cannot be called 1"),
        (bodies(3)._replace(position=np.full((3, 2), np.nan)), "position from the test has 6 NaN"),
        (bodies(3)._replace(velocity=np.full((3, 2), np.inf)), "velocity from the test has 6 NaN"),
        (bodies(3, charge=np.array([0, np.nan, 1])), r"charge .* 1 NaN .* the first at index \(1,"),
        (bodies(3, mass=np.array([1.0, 0.0, 1.0])), "positive, the smallest is 0.0"),
        (bodies(3, mass=np.array([1.0, -2.0, 1.0])), "positive, the smallest is -2.0"),
        (bodies(3)._replace(position=np.ones((3, 2)) * 1j), "position .* real .* type complex128"),
        (
            bodies(3, kind=np.array(["a", "b", "c"])),
            "The kind from the test must hold real numbers",
        ),
        (
            bodies(3, kind=np.array([None] * 3)),
            "must hold real numbers, got an array of type object",
        ),
    ],
)
def test_bad_nodes(nodes, message):
    with pytest.raises(ValueError, match=message):
        check_nodes(nodes, "the test")
