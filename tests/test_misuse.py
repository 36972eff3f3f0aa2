"""What users try that cannot work: one clear error at the border, before anything long runs.

Errors of single functions are tested with these; here is what takes several, and what is
given to the wrong one.
"""

import dataclasses

import jax
import numpy as np
import pytest

import symjax_gn as sg
from symjax_gn.data.datasets import take
from symjax_gn.data.trajectories import load_trajectory, trajectory_from_arrays
from symjax_gn.data.units import measure_scales

KEY = jax.random.key(0)
TIME = np.linspace(0.0, 1.0, 20)
NOISE = np.random.default_rng(0).normal(size=(5, 20, 4, 2))
POSITION = np.sin(5 * TIME[:, None, None] + NOISE[:, :1]) / 10


def recorded(position=POSITION, velocity=POSITION, acceleration=POSITION, **properties):
    """A data set of given arrays."""
    made = trajectory_from_arrays(TIME, position, velocity, acceleration, **properties)
    return sg.make_dataset(made)


def changed(array, index, value):
    """A copy of an array with one value in another's place."""
    array = np.array(array)
    array[index] = value
    return array


ARRAYS = {
    "no moments": (np.zeros(0), np.zeros((5, 0, 4, 2)), {}, r"empty: .*\(5, 0, 4, 2\)"),
    "no recordings": (TIME, np.zeros((0, 20, 4, 2)), {}, r"empty: .*\(0, 20, 4, 2\)"),
    "one moment": (TIME[:1], POSITION[:, :1], {}, "needs at least 10 outputs in time, got 1"),
    "complex": (TIME, POSITION + 1j, {}, "position must hold real numbers, got .* complex128"),
    "text": (TIME, POSITION.astype(str), {}, "position must hold real numbers"),
    "ragged": (TIME, [[1.0], [1.0, 2.0]], {}, "position has rows of unequal length"),
    "infinite": (TIME, changed(POSITION, (1, 0, 0, 0), np.inf), {}, r"1 inf.*\(1, 0, 0, 0\)"),
    "noise": (TIME, NOISE, {}, r"5 of 5 recordings .* has about 2\.\d outputs a period where 6"),
    "5D": (TIME, np.zeros((5, 20, 4, 5)), {}, "with dim at most 3"),
    "one body": (TIME, POSITION[:, :, :1], {}, "at least 2 bodies, position holds 1"),
    "time backwards": (TIME[::-1], POSITION, {}, "strictly increasing"),
    "time twice": (np.zeros(20), POSITION, {}, "strictly increasing"),
    "time as text": (["a"] * 20, POSITION, {}, "time must hold real numbers"),
    "times of another": (TIME[:-1], POSITION, {}, r"time must have shape \[20\]"),
    "mass 0": (TIME, POSITION, dict(mass=[0.0, 1, 1, 1]), "must be positive, the smallest is 0"),
    "masses of others": (TIME, POSITION, dict(mass=np.ones(3)), r"\[4\] or \[5, 4\], got \(3,\)"),
    "charge as text": (TIME, POSITION, dict(charge=["+", "-", "+", "-"]), "charge must hold real"),
    "property of time": (TIME, POSITION, dict(spin=np.ones((5, 20, 4))), "spin must have shape"),
    "velocity of others": (TIME, POSITION, dict(velocity=POSITION[..., :1]), "velocity must have"),
    "wrapped": (TIME, 40 * POSITION % 1.0, {}, r"position jumps by .* space=Space\(box\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_recordings(name):
    time, position, more, message = ARRAYS[name]
    if name == "wrapped":
        # Smooth motion through a box of side 1: a twentieth of it from one output to the next.
        position = (POSITION[:, :1] + np.arange(20)[:, None, None] / 20) % 1.0
    with pytest.raises(ValueError, match=message):
        trajectory_from_arrays(time, position, **more)


def test_steps_that_are_long_but_cross_no_face():
    """One body that leaves the others has no wrapped positions."""
    leaves = changed(POSITION, (0, slice(10, None), 0, 0), POSITION[0, 10:, 0, 0] + 3.0)
    trajectory_from_arrays(TIME, leaves)
    # In a box that is known they are fine.
    wrapped = (POSITION[:, :1] + np.arange(20)[:, None, None] / 20) % 1.0
    made = trajectory_from_arrays(TIME, wrapped, space=sg.Space((1.0, 1.0)))
    np.testing.assert_allclose(made.velocity, 19 / 20, atol=1e-3)


DATA = {
    "coincident": (dict(position=POSITION[:, :, [0, 0, 0, 0]]), "All pairs coincide"),
    "no force": (dict(acceleration=0 * POSITION), "acceleration is 0 everywhere"),
    "masses far apart": (dict(mass=[1e-30, 1.0, 1.0, 1e30]), "mass has a value 1e.* look for a"),
    "one heavy body": (dict(mass=[1.0, 1.0, 1.0, 1e70]), "mass has a value"),
    "a far body": (
        dict(position=changed(POSITION, (0, 0, 0, 0), 1e100)),
        "position has a value 2e.101 times",
    ),
    "a fast body": (
        dict(velocity=changed(POSITION, (0, 0, 0, 0), 1e40)),
        "velocity has a value",
    ),
    "a fit that failed": (
        dict(acceleration=changed(POSITION, (0, 0, 0, 0), 1e40)),
        "acceleration has a value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data_that_float32_does_not_hold_or_that_say_nothing(name):
    arrays, message = DATA[name]
    with pytest.raises(ValueError, match=message):
        measure_scales(recorded(**arrays))


def test_units_of_any_size_are_fine():
    for unit in (1e-30, 1e30):
        data = recorded(unit * POSITION, unit * POSITION, unit * POSITION, mass=4 * [1 / unit])
        scales = measure_scales(data)
        assert scales.length / unit == pytest.approx(measure_scales(recorded()).length)


@pytest.fixture(scope="module")
def data():
    return recorded(mass=np.ones(4))


CALLS = {
    "simulate text": (lambda d: sg.simulate(KEY, "spring"), "must be a System, got 'spring'"),
    "simulate a seed": (lambda d: sg.simulate(3, sg.SYSTEMS["spring"]), "key must be a key of jax"),
    "simulate too many": (
        lambda d: sg.simulate(KEY, sg.SYSTEMS["spring"], num_simulations=10**11),
        "100000000000 simulations .* GB of memory, .* lower num_simulations",
    ),
    "simulate a galaxy": (
        lambda d: sg.simulate(KEY, sg.SYSTEMS["r2"], num_nodes=10**6),
        "1000000 bodies are too many to simulate",
    ),
    "dt as array": (lambda d: sg.simulate(KEY, sg.SYSTEMS["r2"], dt=np.ones(2)), "dt must be a"),
    "discover text": (lambda d: sg.discover(KEY, "data.npz"), "got str"),
    "discover nothing": (lambda d: sg.discover(KEY, None), "got NoneType"),
    "settings as dict": (lambda d: sg.discover(KEY, d, dict(steps=3)), "must be a Settings"),
    "two recordings": (
        lambda d: sg.discover(KEY, dataclasses.replace(take(d, d.group < 2), time=None)),
        "as many groups, got 2",
    ),
    "fit a trajectory": (
        lambda d: sg.fit(KEY, trajectory_from_arrays(TIME, POSITION), d),
        "train must be a Dataset, got .* See make_dataset",
    ),
    "split a trajectory": (
        lambda d: sg.split(KEY, trajectory_from_arrays(TIME, POSITION)),
        "must be a Dataset, got ",
    ),
    "a wide network": (
        lambda d: sg.fit(KEY, d, d, model=sg.make_model("bottleneck", d, width=10**6)),
        "parameters and batches of 768 edges take about .* lower width",
    ),
    "edges as floats": (
        lambda d: sg.make_dataset(
            trajectory_from_arrays(TIME, POSITION), np.array([0.0]), np.array([1.0])
        ),
        "senders must be whole numbers",
    ),
    "cutoff 0": (
        lambda d: sg.make_dataset(trajectory_from_arrays(TIME, POSITION), cutoff=0.0),
        "radius within which bodies are joined must be",
    ),
    "cutoff too small": (
        lambda d: sg.make_dataset(trajectory_from_arrays(TIME, POSITION), cutoff=1e-9),
        "No two bodies are within the cutoff 1e-09; use a larger one",
    ),
    "distill an engine": (lambda d: sg.distill(3, []), "must be a MessageTable, got 3"),
    "distill without engines": (lambda d: sg.distill(d, []), "must be a MessageTable, got "),
    "record without a network": (
        lambda d: sg.record_messages(KEY, 3, d),
        "must be a Trained, got 3",
    ),
    "refit text": (lambda d: sg.refit("r", None, d), "must be a VectorLaw, got 'r'"),
    "save text as a network": (lambda d: sg.save_network("x", "y"), "must be a Trained, got 'y'"),
    "save text as a law": (lambda d: sg.save_law("x", "y"), "must be a SymbolicModel, got 'y'"),
    "save text as a trajectory": (
        lambda d: sg.save_trajectory("x", "y"),
        "must be a Trajectory, got 'y'",
    ),
    "the error of text": (
        lambda d: sg.held_out_error("r", d),
        "must be a network or a law, got 'r'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_what_is_given_to_the_wrong_function(name, data):
    call, message = CALLS[name]
    with pytest.raises(ValueError, match=message):
        call(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(failed="many"), "failed must be a whole number"),
        (dict(failed=-1), "failed must be a whole number"),
        (dict(derived=5), "derived must be names"),
        (dict(derived=["speed"]), "derived must be names"),
        (dict(quantity="speed"), "quantity of a trajectory 'speed'"),
        (dict(box=[-1.0, 1.0]), "box"),
        (dict(box=["a", "b"]), "box"),
        (dict(mass="heavy"), "mass must hold real numbers"),
    ],
)
def test_notes_in_files_that_say_nothing(tmp_path, change, message):
    path = tmp_path / "notes.npz"
    arrays = dict(time=TIME, position=POSITION, velocity=POSITION, acceleration=POSITION)
    np.savez(path, **(arrays | change))
    with pytest.raises(ValueError, match=message):
        load_trajectory(path)


def test_a_sampler_that_does_not_draw():
    spring = sg.SYSTEMS["spring"]
    same = dataclasses.replace(
        spring, name="same", sample=lambda key, n, dim: spring.sample(jax.random.key(0), n, dim)
    )
    tuples = dataclasses.replace(spring, name="tuples", sample=lambda key, n, dim: (key, n))
    host = dataclasses.replace(spring, name="host", sample=lambda key, n, dim: float(key))
    for system, message in [
        (same, "the same bodies for every key"),
        (tuples, r"must be a Nodes, got .* Return Nodes\(position"),
        (host, r"The sampler of system 'host' failed with .*fn\(key, num_nodes, dim\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            sg.simulate(KEY, system)
