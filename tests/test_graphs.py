import dataclasses

import jax
import numpy as np
import pytest

from symjax_gn.data import trajectories
from symjax_gn.data.datasets import from_jraph, make_dataset, split, take, thin, to_jraph
from symjax_gn.data.graphs import chain_edges
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
    assert len(spring_dataset.senders) == 12
    graph = 3 * 20 + 7
    assert spring_dataset.simulation[graph] == 3
    np.testing.assert_array_equal(
        spring_dataset.nodes.position[graph], spring_trajectory.position[3, 7]
    )
    np.testing.assert_array_equal(spring_dataset.nodes.mass[graph], spring_trajectory.mass[3])
    np.testing.assert_array_equal(
        spring_dataset.acceleration[graph], spring_trajectory.acceleration[3, 7]
    )


def test_split_is_by_simulation(spring_dataset):
    parts = split(jax.random.key(0), spring_dataset)
    names = [set(part.simulation.tolist()) for part in parts]
    assert set.union(*names) == set(range(60))
    assert sum(map(len, names)) == 60
    assert [len(n) for n in names] == [44, 6, 10]
    for part in parts:
        assert len(part.acceleration) == 20 * len(set(part.simulation.tolist()))


def test_split_with_as_many_simulations_as_parts(spring_dataset):
    three = take(spring_dataset, spring_dataset.simulation < 3)
    assert all(len(part.acceleration) == 20 for part in split(jax.random.key(0), three))


def test_jraph_round_trip(spring_dataset):
    graphs_tuples = [to_jraph(spring_dataset, index) for index in range(3)]
    assert graphs_tuples[0].nodes.position.shape == (4, 2)
    back = from_jraph(graphs_tuples)
    jax.tree.map(
        np.testing.assert_array_equal,
        back._replace(simulation=np.zeros(3, int)),
        take(spring_dataset, slice(0, 3)),
    )


def test_thin(spring_trajectory):
    thinned = thin(spring_trajectory, 5)
    np.testing.assert_array_equal(thinned.time, spring_trajectory.time[::5])
    np.testing.assert_array_equal(thinned.velocity, spring_trajectory.velocity[:, ::5])
    np.testing.assert_array_equal(thinned.mass, spring_trajectory.mass)


def test_npz_round_trip(tmp_path, spring_trajectory):
    path = tmp_path / "run.npz"
    save_trajectory(path, spring_trajectory)
    back = load_trajectory(path)
    assert back.derived == ()
    for name in ("time", "position", "velocity", "acceleration", "mass", "charge"):
        np.testing.assert_array_equal(getattr(back, name), getattr(spring_trajectory, name))


def test_saved_under_its_name_and_with_what_was_derived(tmp_path):
    time, position, *_ = waves()
    made = dataclasses.replace(trajectory_from_arrays(time, position), failed=3)
    path = tmp_path / "run.dat"
    save_trajectory(path, made)
    back = load_trajectory(path)
    assert back.derived == ("velocity", "acceleration", "mass", "charge")
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
    assert made.derived == ("velocity", "acceleration", "mass", "charge")
    assert len(made.time) == 200 - 2 * 10
    # A cubic spline through 200 unevenly spaced points of a wave of length 3.7.
    np.testing.assert_allclose(made.velocity, velocity[:, 10:-10], atol=2e-2)
    np.testing.assert_allclose(made.acceleration, acceleration[:, 10:-10], atol=0.2)
    better = trajectory_from_arrays(time, position, velocity, mass=[1.0, 2.0])
    assert better.derived == ("acceleration", "charge")
    np.testing.assert_allclose(better.acceleration, acceleration[:, 10:-10], atol=3e-2)
    np.testing.assert_array_equal(better.mass, [[1.0, 2.0]])


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
    np.testing.assert_allclose(
        scaled.acceleration * 86400**2 / unit, plain.acceleration, rtol=1e-4, atol=1e-5
    )


def test_normalised_data_do_not_depend_on_units(spring_dataset):
    length, time, mass = 1.5e11, 86400.0, 2e30
    nodes = spring_dataset.nodes
    other = spring_dataset._replace(
        nodes=nodes._replace(
            position=nodes.position.astype(float) * length + 3 * length,
            velocity=nodes.velocity.astype(float) * length / time,
            mass=nodes.mass.astype(float) * mass,
        ),
        acceleration=spring_dataset.acceleration.astype(float) * length / time**2,
    )
    one = normalise(spring_dataset, measure_scales(spring_dataset))
    two = normalise(other, measure_scales(other))
    # Rounding to float32.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, two)


def test_constant_quantities_have_a_scale():
    time, position, velocity, acceleration = waves()
    trajectory = trajectory_from_arrays(time, position, 0 * velocity, acceleration)
    scales = measure_scales(make_dataset(trajectory))
    assert scales.velocity == 1.0
    assert scales.charge == 1.0
    assert scales.mass == 1.0


TIME, POSITION, VELOCITY, ACCELERATION = waves(20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(position=POSITION[0]), r"shape \[sim, time, node, dim\]"),
        (dict(position=POSITION[:, :, :1]), "at least 2 bodies"),
        (dict(time=TIME[:5]), "time must have shape"),
        (dict(time=TIME[::-1]), "strictly increasing"),
        (dict(time=np.where(np.arange(20) == 3, np.nan, TIME)), "strictly increasing"),
        (dict(position=np.where(POSITION > 0.9, np.nan, POSITION)), "position has .* NaN"),
        (dict(velocity=VELOCITY[:, :5]), "velocity must have the shape of position"),
        (dict(acceleration=ACCELERATION * np.inf), "acceleration has .* NaN or infinite"),
        (dict(mass=[1.0, 0.0]), "must be positive"),
        (dict(mass=[1.0, 1.0, 1.0]), "mass must have shape"),
        (dict(charge=[[1.0], [1.0]]), "charge must have shape"),
        (dict(charge=[np.nan, 1.0]), "charge has 1 NaN"),
    ],
)
def test_bad_arrays(changes, message):
    arrays = dict(time=TIME, position=POSITION, velocity=VELOCITY, acceleration=ACCELERATION)
    with pytest.raises(ValueError, match=message):
        trajectory_from_arrays(**(arrays | changes))


def test_too_few_outputs_to_differentiate():
    with pytest.raises(ValueError, match="at least 10 outputs"):
        trajectory_from_arrays(TIME[:5], POSITION[:, :5])


def test_bad_files(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_text("nothing")
    with pytest.raises(ValueError, match="not an .npz file"):
        load_trajectory(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="not an .npz file"):
        load_trajectory(path)
    np.save(tmp_path / "bad.npy", TIME)
    with pytest.raises(ValueError, match="not an .npz file"):
        load_trajectory(tmp_path / "bad.npy")
    np.savez(path, time=TIME, speed=POSITION)
    with pytest.raises(ValueError, match=r"missing \['position'\], unknown \['speed'\]"):
        load_trajectory(path)
    with pytest.raises(FileNotFoundError):
        load_trajectory(tmp_path / "none.npz")


def test_bad_datasets(spring_trajectory, spring_dataset):
    with pytest.raises(ValueError, match="no edges"):
        make_dataset(spring_trajectory, np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match="both senders and receivers"):
        make_dataset(spring_trajectory, np.array([0]))
    with pytest.raises(ValueError, match="outside 0 to 3"):
        make_dataset(spring_trajectory, *chain_edges(6))
    with pytest.raises(ValueError, match="sum to 1"):
        split(jax.random.key(0), spring_dataset, (0.5, 0.4))
    one = take(spring_dataset, spring_dataset.simulation == 0)
    with pytest.raises(ValueError, match="needs as many simulations, got 1"):
        split(jax.random.key(0), one)
    with pytest.raises(ValueError, match="no graphs"):
        from_jraph([])
    first = to_jraph(spring_dataset, 0)
    with pytest.raises(ValueError, match="same edges"):
        from_jraph([first, first._replace(senders=first.senders[::-1])])
    with pytest.raises(ValueError, match="single graphs"):
        from_jraph([first._replace(n_node=np.array([2, 2]))])


def test_module_has_no_other_keys():
    assert trajectories._KEYS == ("time", "position", "velocity", "acceleration", "mass", "charge")


def test_zeros_do_not_decide_what_is_typical():
    values = np.concatenate([np.zeros(600), 1e-9 * np.ones(100), np.linspace(1, 3, 300)])
    assert typical_size(values) == pytest.approx(2.0, rel=1e-2)
    assert typical_size(np.zeros(5)) == 0.0
