import dataclasses

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

from symjax_gn.data.building import dataset_from_graphs, make_dataset
from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.graphs import (
    GraphsTuple,
    chain_edges,
    complete_edges,
    edges_of,
    node_mask,
    radius_edges,
    stack_graphs,
)
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.quantities import VELOCITY
from symjax_gn.data.sampling import sample_pairs, sample_stars
from symjax_gn.data.soundness import check_dataset
from symjax_gn.data.space import Space
from symjax_gn.data.stacking import from_jraph
from symjax_gn.data.trajectories import load_trajectory, save_trajectory, trajectory_from_arrays
from symjax_gn.data.units import measure_scales, normalise, typical_size


def waves(num_times=200, noise=0.0):
    """Two bodies on sine waves of unequal frequency, with their true derivatives."""
    time = np.sort(np.random.default_rng(0).uniform(0, 6, num_times))
    phase = time[None, :, None, None] * np.array([1.0, 1.7])[None, None, :, None]
    rate = np.array([1.0, 1.7])[None, None, :, None]
    position = np.sin(phase + np.array([0.0, 0.5]))
    velocity = rate * np.cos(phase + np.array([0.0, 0.5]))
    position = position + noise * np.random.default_rng(1).normal(size=position.shape)
    return time, position, velocity, -(rate**2) * np.sin(phase + np.array([0.0, 0.5]))


def test_one_graph_per_simulation_and_output(spring_trajectory, spring_dataset):
    assert spring_dataset.nodes.position.shape == (60 * 20, 4, 2)
    assert len(spring_dataset.graphs.senders) == 12
    assert len(spring_dataset) == 60 * 20
    graph = 3 * 20 + 7
    assert spring_dataset.group[graph] == 3
    np.testing.assert_array_equal(
        spring_dataset.nodes.position[graph], spring_trajectory.position[3, 7]
    )
    mass = spring_trajectory.properties["mass"]
    np.testing.assert_array_equal(spring_dataset.nodes.mass[graph], mass[3])
    np.testing.assert_array_equal(spring_dataset.target[graph], spring_trajectory.target[3, 7])


def test_npz_round_trip(tmp_path, spring_trajectory):
    path = tmp_path / "run.npz"
    save_trajectory(path, spring_trajectory)
    back = load_trajectory(path)
    assert back.derived == ()
    for name in ("time", "position", "velocity", "target"):
        np.testing.assert_array_equal(getattr(back, name), getattr(spring_trajectory, name))
    assert back.properties.keys() == {"mass", "charge"}
    for name, value in spring_trajectory.properties.items():
        np.testing.assert_array_equal(back.properties[name], value)


def test_saved_under_its_name_and_with_what_was_derived(tmp_path):
    time, position, *_ = waves()
    made = dataclasses.replace(trajectory_from_arrays(time, position), failed=3)
    path = tmp_path / "run.dat"
    save_trajectory(path, made)
    back = load_trajectory(path)
    assert back.derived == ("velocity", "acceleration")
    assert back.failed == 3
    save_trajectory(path, back)
    assert load_trajectory(path).derived == made.derived
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.dat"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path, spring_trajectory, monkeypatch):
    path = tmp_path / "run.npz"
    save_trajectory(path, spring_trajectory)

    def interrupted(stream, **arrays):
        stream.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_trajectory(path, spring_trajectory)
    np.testing.assert_array_equal(load_trajectory(path).time, spring_trajectory.time)


def test_missing_derivatives_are_made_and_said():
    time, position, velocity, acceleration = waves()
    made = trajectory_from_arrays(time, position)
    assert made.derived == ("velocity", "acceleration")
    assert len(made.time) == 200 - 2 * 10
    # A cubic spline through 200 unevenly spaced points of a wave of length 3.7.
    np.testing.assert_allclose(made.velocity, velocity[:, 10:-10], atol=2e-2)
    np.testing.assert_allclose(made.target, acceleration[:, 10:-10], atol=0.2)
    better = trajectory_from_arrays(time, position, velocity, mass=[1.0, 2.0])
    assert better.derived == ("acceleration",)
    np.testing.assert_allclose(better.target, acceleration[:, 10:-10], atol=3e-2)
    np.testing.assert_array_equal(better.properties["mass"], [[1.0, 2.0]])


def test_noise_is_smoothed():
    time, position, velocity, _ = waves(noise=1e-2)
    made = trajectory_from_arrays(time, position)
    raw = np.gradient(position, time, axis=1)[:, 10:-10]
    error = np.median(np.abs(made.velocity - velocity[:, 10:-10]))
    assert error < 0.1 * np.median(np.abs(raw - velocity[:, 10:-10]))


@pytest.mark.parametrize("unit", [1e-9, 1e11])
def test_units_do_not_matter_to_derivatives(unit):
    time, position, _, _ = waves()
    plain = trajectory_from_arrays(time, position)
    scaled = trajectory_from_arrays(time * 86400, position * unit)
    # float64 rounding, amplified by two derivatives.
    np.testing.assert_allclose(scaled.target * 86400**2 / unit, plain.target, rtol=1e-4, atol=1e-5)


def test_normalised_data_do_not_depend_on_units(spring_dataset):
    length, time, mass = 1.5e11, 86400.0, 2e30
    nodes = spring_dataset.nodes
    changed = Nodes(
        position=nodes.position.astype(float) * length + 3 * length,
        velocity=nodes.velocity.astype(float) * length / time,
        properties=nodes.properties | {"mass": nodes.mass.astype(float) * mass},
    )
    other = dataclasses.replace(
        spring_dataset,
        graphs=spring_dataset.graphs._replace(nodes=changed),
        target=spring_dataset.target.astype(float) * length / time**2,
    )
    one = normalise(spring_dataset, measure_scales(spring_dataset))
    two = normalise(other, measure_scales(other))
    # Rounding to float32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, two)


def test_constant_quantities_have_a_scale():
    time, position, velocity, acceleration = waves()
    trajectory = trajectory_from_arrays(
        time, position, 0 * velocity, acceleration, mass=[1.0, 1.0], charge=[0.0, 0.0]
    )
    scales = measure_scales(make_dataset(trajectory))
    assert scales.velocity == 1.0
    assert scales.properties == dict(mass=1.0, charge=1.0)


TIME, POSITION, SPEED, ACCELERATION = waves(20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(position=POSITION[0, 0]), r"shape \[sim, time, node, dim\]"),
        (dict(position=POSITION[:, :, :1]), "at least 2 bodies"),
        (dict(time=TIME[:5]), "time must have shape"),
        (dict(time=TIME[::-1]), "strictly increasing"),
        (dict(time=np.where(np.arange(20) == 3, np.nan, TIME)), "strictly increasing"),
        (
            dict(position=np.where(POSITION > 0.9, np.inf, POSITION)),
            "position has .* infinite .* NaN",
        ),
        (dict(position=POSITION * np.nan), "position is NaN everywhere"),
        (dict(velocity=SPEED[:, :5]), "velocity must have the shape of position"),
        (dict(acceleration=ACCELERATION * np.inf), "acceleration has .* infinite"),
        (dict(mass=[1.0, 0.0]), "must be positive"),
        (dict(mass=[1.0, 1.0, 1.0]), "mass must have shape"),
        (dict(charge=[[1.0], [1.0]]), "charge must have shape"),
        (dict(charge=[np.nan, 1.0]), "charge has 1 NaN"),
    ],
)
def test_bad_arrays(changes, message):
    arrays = dict(time=TIME, position=POSITION, velocity=SPEED, acceleration=ACCELERATION)
    with pytest.raises(ValueError, match=message):
        trajectory_from_arrays(**(arrays | changes))


def test_one_recording_needs_no_axis_of_its_own():
    one = trajectory_from_arrays(TIME, POSITION[0], SPEED[0], ACCELERATION[0])
    np.testing.assert_array_equal(one.position, POSITION)
    np.testing.assert_array_equal(one.velocity, SPEED)
    np.testing.assert_array_equal(one.target, ACCELERATION)


def test_too_few_outputs_to_differentiate():
    with pytest.raises(ValueError, match="at least 10 outputs"):
        trajectory_from_arrays(TIME[:5], POSITION[:, :5])


def test_bad_files(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_text("nothing")
    with pytest.raises(ValueError, match="not an .npz file"):
        load_trajectory(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="no whole .npz file"):
        load_trajectory(path)
    np.save(tmp_path / "bad.npy", TIME)
    with pytest.raises(ValueError, match="not an .npz file"):
        load_trajectory(tmp_path / "bad.npy")
    np.savez(path, time=TIME, speed=POSITION)
    with pytest.raises(ValueError, match="missing position; it has time, speed"):
        load_trajectory(path)
    with pytest.raises(FileNotFoundError):
        load_trajectory(tmp_path / "none.npz")


def test_bad_datasets(spring_trajectory):
    with pytest.raises(ValueError, match="no edges"):
        make_dataset(spring_trajectory, np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match="both senders and receivers"):
        make_dataset(spring_trajectory, np.array([0]))
    with pytest.raises(ValueError, match="outside 0 to 3"):
        make_dataset(spring_trajectory, *chain_edges(6))
    with pytest.raises(ValueError, match="edges .* or a cutoff, not both"):
        make_dataset(spring_trajectory, *complete_edges(4), cutoff=1.0)
    with pytest.raises(ValueError, match="trajectory must be a Trajectory"):
        make_dataset("run.npz")
    with pytest.raises(ValueError, match="There are no graphs"):
        from_jraph([])


def test_zeros_do_not_decide_what_is_typical():
    values = np.concatenate([np.zeros(600), 1e-9 * np.ones(100), np.linspace(1, 3, 300)])
    assert typical_size(values) == pytest.approx(2.0, rel=1e-2)
    assert typical_size(np.zeros(5)) == 0.0


def ring(count, offset=0.0, **features):
    """A jraph graph whose nodes each send to the next."""
    ends = np.arange(count), (np.arange(count) + 1) % count
    nodes = dict(position=offset + np.arange(2.0 * count).reshape(count, 2)) | features
    return GraphsTuple(nodes, None, ends[1], ends[0], None, np.array([count]), np.array([count]))


def joined(graphs):
    """jraph's own batch of graphs."""
    return jraph.batch_np([jraph.GraphsTuple(*graph) for graph in graphs])


def assert_same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_graphs_from_a_list_and_from_a_batch_are_the_same():
    graphs = [ring(4, offset, mass=offset + np.arange(4.0)) for offset in (0.0, 1.0, 2.0)]
    listed = from_jraph(graphs)
    assert listed.nodes.position.shape == (3, 4, 2)
    assert listed.senders.tolist() == [0, 1, 2, 3]
    assert listed.receivers.tolist() == [1, 2, 3, 0]
    assert listed.n_node.tolist() == [[4]] * 3
    np.testing.assert_array_equal(listed.nodes.mass[2], 2 + np.arange(4.0))
    assert_same(from_jraph(joined(graphs)), listed)
    assert_same(from_jraph([joined(graphs[:2]), graphs[2]]), listed)
    assert_same(from_jraph(listed), listed)


def test_graphs_of_unequal_size_are_padded():
    graphs = [ring(3, mass=np.ones(3)), ring(5, 7.0, mass=2 * np.ones(5))]
    for stacked in (from_jraph(graphs), from_jraph(joined(graphs))):
        assert stacked.n_node.tolist() == [[3, 4], [5, 2]]
        assert stacked.n_edge.tolist() == [[3, 2], [5, 0]]
        assert np.sum(node_mask(stacked), axis=1).tolist() == [3, 5]
        for k, graph in enumerate(graphs):
            senders, receivers = edges_of(stacked, k)
            np.testing.assert_array_equal(senders, graph.senders)
            np.testing.assert_array_equal(receivers, graph.receivers)
            place = stacked.nodes.position[k, : graph.n_node[0]]
            np.testing.assert_array_equal(place, graph.nodes["position"])
        # Padding is joined with padding, apart and with masses.
        padding = stacked.senders[0, 3:], stacked.receivers[0, 3:]
        assert min(np.min(end) for end in padding) >= 3
        place = stacked.nodes.position[0]
        assert np.all(np.any(place[padding[0]] != place[padding[1]], axis=1))
        assert np.all(stacked.nodes.mass > 0)


def test_features_by_name_and_as_an_array():
    named = from_jraph([ring(4, velocity=np.ones((4, 2)), spin=np.arange(4), up=np.eye(4)[:, :2])])
    assert sorted(named.nodes.properties) == ["spin", "up_1", "up_2"]
    np.testing.assert_array_equal(named.nodes.velocity, np.ones((1, 4, 2)))
    np.testing.assert_array_equal(named.nodes.up_2, [[0, 1, 0, 0]])
    array = np.arange(12.0).reshape(4, 3)
    unnamed = from_jraph(ring(4)._replace(nodes=array))
    assert unnamed.nodes.position is None and unnamed.nodes.velocity is None
    assert sorted(unnamed.nodes.properties) == ["x_1", "x_2", "x_3"]
    np.testing.assert_array_equal(unnamed.nodes.x_2[0], array[:, 1])


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        ([3.0], "must be a jraph.GraphsTuple"),
        ([ring(3)._replace(edges=np.ones((3, 1)))], "features of edges"),
        ([ring(3)._replace(nodes=None)], "no features of nodes"),
        ([ring(3)._replace(n_node=np.array([4]))], "say 4 nodes and 3 edges"),
        ([ring(3)._replace(n_edge=np.array([2]))], "say 3 nodes and 2 edges"),
        ([ring(3)._replace(senders=np.array([0, 1, 3]))], "outside 0 to 2"),
        ([ring(3, mass=np.ones((3, 1, 1)))], "'mass' must have shape"),
        ([ring(3, mass=["a", "b", "c"])], "must hold real numbers"),
    ],
)
def test_bad_graphs(graphs, message):
    with pytest.raises(ValueError, match=message):
        from_jraph(graphs)


def test_a_target_of_nodes_with_a_mask():
    heat = [np.array([1.0, np.nan, 3.0, 4.0]), np.array([5.0, 6.0, np.nan, 8.0])]
    known = [np.array([1, 0, 1, 1]), np.array([1, 1, 0, 1])]
    graphs = [ring(4, heat=h, known=k, size=np.ones(4)) for h, k in zip(heat, known, strict=True)]
    data = dataset_from_graphs(graphs, "heat", mask="known", group=np.array([5, 5]))
    np.testing.assert_array_equal(data.target[..., 0], heat)
    np.testing.assert_array_equal(data.mask, np.array(known) > 0)
    assert list(data.nodes.properties) == ["size"]
    assert (data.quantity.name, data.quantity.level) == ("heat", "node")
    assert data.group.tolist() == [5, 5]
    assert measure_scales(data).target == np.median([1, 3, 4, 5, 6, 8])
    assert np.all(np.isfinite(normalise(data, measure_scales(data)).target))
    with pytest.raises(ValueError, match="has 2 NaN"):
        dataset_from_graphs(graphs, "heat")
    with pytest.raises(ValueError, match="no feature 'seen' of nodes"):
        dataset_from_graphs(graphs, "heat", mask="seen")
    with pytest.raises(ValueError, match="Did you mean 'heat'"):
        dataset_from_graphs(graphs, "heta", mask="known")


def test_the_mask_of_padded_graphs_leaves_padding_out():
    graphs = [
        ring(3, heat=np.ones(3), known=np.ones(3)),
        ring(5, heat=np.ones(5), known=np.ones(5)),
    ]
    for mask in (None, "known"):
        data = dataset_from_graphs(graphs, "heat", mask=mask)
        assert np.sum(data.mask, axis=1).tolist() == [3, 5]
    assert data.target.shape == (2, 7, 1)


def test_vectors_of_nodes_as_targets():
    push = np.arange(8.0).reshape(4, 2)
    ends = dict(senders=complete_edges(4)[0], receivers=complete_edges(4)[1])
    one = ring(4, acceleration=push, velocity=2 * push)._replace(**ends, n_edge=np.array([12]))
    data = dataset_from_graphs([one], "acceleration")
    assert data.quantity.vector and data.quantity.weight == "mass"
    np.testing.assert_array_equal(data.target[0], push)
    assert data.nodes.properties == {}
    data = dataset_from_graphs([one._replace(nodes=dict(position=push, velocity=push))], "velocity")
    assert data.quantity == VELOCITY
    assert data.nodes.velocity is None
    np.testing.assert_array_equal(data.target[0], push)


def test_targets_of_whole_graphs():
    graphs = [
        ring(count)._replace(globals=dict(energy=np.array([count * 2.0]), kind=np.ones(1)))
        for count in (3, 5)
    ]
    data = dataset_from_graphs(graphs, "energy")
    assert (data.quantity.level, data.target.tolist()) == ("graph", [[6.0], [10.0]])
    assert data.mask is None
    assert data.graphs.globals is None
    np.testing.assert_array_equal(data.nodes.kind, np.ones((2, 7)))
    assert data.group.tolist() == [0, 1]
    assert take(data, np.array([1])).target.tolist() == [[10.0]]
    with pytest.raises(ValueError, match="quantity says node"):
        dataset_from_graphs(graphs, "energy", quantity=VELOCITY)
    seen = [x._replace(nodes=x.nodes | {"seen": np.ones(x.n_node[0])}) for x in graphs]
    with pytest.raises(ValueError, match="mask 'seen' is of nodes"):
        dataset_from_graphs(seen, "energy", mask="seen")


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("periodic", [False, True])
def test_edges_within_a_radius_against_all_pairs(dim, periodic):
    sides = np.array([2.0, 3.0, 2.5])[:dim]
    position = np.random.default_rng(dim).uniform(-2, 2, (60, dim))
    space = Space(tuple(sides)) if periodic else Space()
    way = position[None] - position[:, None]
    if periodic:
        # The nearest of all images, by trying them.
        shifts = np.stack(np.meshgrid(*[np.arange(-5, 6)] * dim), -1).reshape(-1, dim) * sides
        length = np.min(np.linalg.norm(way[..., None, :] + shifts, axis=-1), axis=-1)
    else:
        length = np.linalg.norm(way, axis=-1)
    near = (length < 0.9) & ~np.eye(60, dtype=bool)
    receivers, senders = np.nonzero(near)
    found = radius_edges(position, 0.9, space)
    assert len(found[0]) > 20
    np.testing.assert_array_equal(found[0], senders)
    np.testing.assert_array_equal(found[1], receivers)


@pytest.mark.parametrize("seed", range(5))
def test_places_at_the_faces_of_a_box_have_the_pairs_of_all_places(seed):
    """Rounding puts -1e-16 on the far face; pairs are those by `Space.displacement`."""
    rng = np.random.default_rng(seed)
    sides = np.array([4.0, 3.0])
    tiny = [0.0, -1e-16, 1e-16, -0.0, -5e-324, np.spacing(4.0), -np.spacing(4.0)]
    place = rng.integers(-2, 3, (80, 2)) * sides + rng.choice(tiny, (80, 2))
    # Multiples of an eighth are exact, so many pairs are at just the radius.
    place[20:] += rng.integers(0, 32, (60, 2)) / 8
    space = Space(tuple(sides))
    found = radius_edges(place, 1.25, space)
    way = space.displacement(place[:, None], place[None])
    near = (np.linalg.norm(way, axis=-1) <= 1.25) & ~np.eye(80, dtype=bool)
    receivers, senders = np.nonzero(near)
    np.testing.assert_array_equal(found, (senders, receivers))
    assert len(radius_edges(np.array([[-1e-16], [3.9]]), 0.5, Space((4.0,)))[0]) == 2
    with pytest.raises(ValueError, match="position has 1 NaN"):
        radius_edges(np.array([[np.nan], [3.9]]), 0.5)
    with pytest.raises(ValueError, match=r"shape \[node, dim\]"):
        radius_edges(np.zeros(3), 0.5)


def test_a_radius_that_would_join_twice():
    with pytest.raises(ValueError, match="exceeds half of the smallest side"):
        radius_edges(np.zeros((3, 2)), 1.1, Space((2.0, 5.0)))
    with pytest.raises(ValueError, match="above 0"):
        radius_edges(np.zeros((3, 2)), 0.0)


def test_space():
    box = Space((2, 4))
    assert box.box == (2.0, 4.0)
    hash(box)
    start, end = np.array([[0.1, 0.1]]), np.array([[1.9, 3.0]])
    np.testing.assert_allclose(box.displacement(start, end), [[-0.2, -1.1]])
    np.testing.assert_allclose(Space().displacement(start, end), [[1.8, 2.9]])
    np.testing.assert_allclose(box.move(end, np.array([[0.3, -3.5]])), [[0.2, 3.5]])
    np.testing.assert_allclose(Space().move(end, np.array([[0.3, -3.5]])), [[2.2, -0.5]])
    # The same under JAX, and a displacement has the slope of a difference.
    np.testing.assert_allclose(
        box.displacement(jnp.array(start), jnp.array(end)), [[-0.2, -1.1]], rtol=1e-5
    )
    slope = jax.jacobian(lambda x: box.displacement(jnp.array(start[0]), x))(jnp.array(end[0]))
    np.testing.assert_array_equal(slope, np.eye(2))
    assert box.scaled(0.5) == Space((1.0, 2.0))
    for bad in ((), (1.0, 0.0), (1.0, np.inf), ("a",), 3.0):
        with pytest.raises(ValueError, match="sides of a periodic box"):
            Space(bad)


def test_any_property_and_a_box_are_saved(tmp_path):
    box = Space((10.0, 12.0))
    made = trajectory_from_arrays(
        TIME, POSITION, SPEED, ACCELERATION, space=box, radius=[1.0, 2.0], spin=[[0.0, -1.0]]
    )
    path = tmp_path / "run.npz"
    save_trajectory(path, made)
    back = load_trajectory(path)
    assert back.space == box
    assert back.quantity == made.quantity
    np.testing.assert_array_equal(back.properties["radius"], [[1.0, 2.0]])
    np.testing.assert_array_equal(back.properties["spin"], [[0.0, -1.0]])
    assert make_dataset(back).space == box


def test_first_order_motion_is_saved(tmp_path):
    made = trajectory_from_arrays(TIME, POSITION, SPEED, quantity=VELOCITY, size=[1.0, 2.0])
    assert made.velocity is None and made.derived == ()
    np.testing.assert_array_equal(made.target, SPEED)
    path = tmp_path / "run.npz"
    save_trajectory(path, made)
    back = load_trajectory(path)
    assert back.quantity == VELOCITY and back.velocity is None
    np.testing.assert_array_equal(back.target, SPEED)
    # A file that says nothing is read as one is told; accelerations do not matter then.
    np.savez(path, time=TIME, position=POSITION, velocity=SPEED, acceleration=ACCELERATION)
    assert load_trajectory(path).quantity.name == "acceleration"
    back = load_trajectory(path, quantity="velocity")
    assert back.quantity == VELOCITY
    np.testing.assert_array_equal(back.target, SPEED)
    with pytest.raises(ValueError, match="Did you mean 'velocity'"):
        load_trajectory(path, quantity="velocty")
    derived = trajectory_from_arrays(TIME, POSITION, quantity=VELOCITY)
    assert derived.derived == ("velocity",)
    with pytest.raises(ValueError, match="leave accelerations out"):
        trajectory_from_arrays(TIME, POSITION, None, ACCELERATION, quantity=VELOCITY)


def test_derivatives_in_a_box_go_on_across_its_faces():
    time = np.linspace(0, 4, 60)
    whole = np.stack([time, 0.5 * time + 3], axis=1)[:, :, None] * np.ones(2)
    made = trajectory_from_arrays(time, whole % 1.7, space=Space((1.7, 1.7)))
    np.testing.assert_allclose(made.velocity[0, :, 0], 1.0, atol=1e-3)
    np.testing.assert_allclose(made.velocity[0, :, 1], 0.5, atol=1e-3)


def test_a_cutoff_joins_what_is_near_at_each_moment():
    x = np.random.default_rng(0).uniform(0, 4, (3, 5, 6, 2))
    box = Space((4.0, 4.0))
    data = make_dataset(trajectory_from_arrays(np.arange(5.0), x, x, x, space=box), cutoff=1.2)
    assert len(data) == 15
    assert len(set(data.graphs.n_edge[:, 0])) > 1
    for graph in (0, 7, 14):
        expected = radius_edges(x.reshape(15, 6, 2)[graph], 1.2, box)
        for found, wanted in zip(edges_of(data.graphs, graph), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    known = np.asarray(node_mask(data.graphs))
    assert known.sum() == 15 * 6
    np.testing.assert_array_equal(data.target[known], x.reshape(-1, 2))
    with pytest.raises(ValueError, match="within the cutoff"):
        make_dataset(trajectory_from_arrays(np.arange(5.0), x, x, x), cutoff=1e-6)


def test_sampled_pairs_and_stars_are_edges_of_the_graphs():
    graphs = [ring(3, heat=np.ones(3)), ring(5, 50.0, heat=np.ones(5))]
    data = dataset_from_graphs(graphs, "heat")
    receiver, sender, graph, edge = sample_pairs(jax.random.key(0), data, 200)
    assert set(graph) == {0, 1}
    assert np.max(edge[graph == 0]) == 2 and np.max(edge[graph == 1]) == 4
    count = np.array([3, 5])[graph]
    place = receiver.position[:, 0] - np.array([0.0, 50.0])[graph]
    np.testing.assert_array_equal(sender.position[:, 0] % 50, 2 * ((place / 2 - 1) % count))
    stars = sample_stars(jax.random.key(1), data, 50)
    assert stars.present.shape == (50, 1) and np.all(stars.present)
    np.testing.assert_array_equal(
        stars.receiver.position, data.nodes.position[stars.graph, stars.node]
    )


def test_stars_of_sets_are_all_elements():
    rows = [np.ones((2, 1)), 2 * np.ones((4, 1))]
    graphs = [
        GraphsTuple(x, None, None, None, dict(z=np.ones(1)), np.array([len(x)]), np.array([0]))
        for x in rows
    ]
    stars = sample_stars(jax.random.key(0), dataset_from_graphs(graphs, "z"), 20)
    assert stars.receiver is None
    np.testing.assert_array_equal(np.sum(stars.present, axis=1), np.array([2, 4])[stars.graph])


def test_names_that_laws_could_not_tell_apart():
    for name in ("m", "x", "r", "spin_i", "v_ij", "e_0"):
        nodes = Nodes(np.ones((2, 3, 2)), None, {name: np.ones((2, 3))})
        data = Dataset(
            stack_graphs(nodes, *complete_edges(3)), np.ones((2, 3, 2)), None, np.arange(2)
        )
        with pytest.raises(ValueError, match="cannot be called .* stands for something else"):
            check_dataset(data, "given")


def test_properties_are_attributes():
    nodes = Nodes(np.zeros((4, 2)), None, {"radius": np.arange(4.0)})
    np.testing.assert_array_equal(nodes.radius, np.arange(4.0))
    with pytest.raises(AttributeError, match="no property 'mass'; they have: radius"):
        _ = nodes.mass
