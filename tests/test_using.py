"""Laws in use: called, predicting for data of any form, moving bodies, kept as keys."""

import copy
import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
import sympy

from symjax_gn.data.building import make_dataset
from symjax_gn.data.graphs import GraphsTuple, complete_edges
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.quantities import VELOCITY, Quantity
from symjax_gn.data.space import Space
from symjax_gn.laws import motion
from symjax_gn.laws.law_files import load_law, save_law
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.physics.simulation import Paths, SimulationError, SimulationWarning
from symjax_gn.settings import Settings, make_engines

R, DX, DY, MI, MJ, E0, E1 = sympy.symbols("r dx dy m_i m_j e_0 e_1")
GRAVITY = SymbolicModel((MI * MJ * DX / R**3, MI * MJ * DY / R**3), (E0 / MI, E1 / MI))
# The built-in spring: 2 (r + 0.01 - 1).
SPRING = SymbolicModel(tuple((2 * R - 1.98) * d / R for d in (DX, DY)), (E0 / MI, E1 / MI))
SET = SymbolicModel(
    (sympy.Symbol("x_1") ** 2,), (E0,), elements="nodes", quantity=Quantity("z", "graph")
)
FIRST = SymbolicModel((DX, DY), (E0, E1), quantity=VELOCITY)


def test_a_law_is_called_on_columns():
    r = np.linspace(0.5, 3.0, 100)
    force = GRAVITY(r=r, m_i=2.0, m_j=3.0)
    np.testing.assert_allclose(force[:, 0], 6 / r**2, rtol=1e-12)
    np.testing.assert_array_equal(force[:, 1], 0.0)
    # Along another direction: the distance follows from the displacement.
    other = GRAVITY(dx=0.6 * r, dy=-0.8 * r, m_i=2.0, m_j=3.0)
    np.testing.assert_allclose(other, 6 / r[:, None] ** 2 * [0.6, -0.8], rtol=1e-12)
    np.testing.assert_allclose(SPRING(1.5), [1.02, 0.0], rtol=1e-12)
    assert SET([1.0, 2.0]).tolist() == [[1.0], [4.0]]


def test_a_law_is_called_on_two_bodies():
    sun = {"position": [[0.0, 3.0], [2.0, 0.0]], "mass": [9.0, 4.0]}
    planet = Nodes(np.zeros(2), None, {"mass": 2.0})
    np.testing.assert_allclose(GRAVITY(planet, sun), [[0.0, 2.0], [2.0, 0.0]], rtol=1e-12)
    np.testing.assert_allclose(GRAVITY(sun, planet), [[0.0, -2.0], [-2.0, 0.0]], rtol=1e-12)
    boxed = dataclasses.replace(SPRING, space=Space((4.0, 4.0)))
    # Across the face at 4: the distance is 1.
    found = boxed({"position": [0.5, 0.0]}, {"position": [3.5, 0.0]})
    np.testing.assert_allclose(found, [-0.02, 0.0], rtol=1e-9)


def test_speeds_follow_from_components():
    law = SymbolicModel((sympy.Symbol("v_ij") * sympy.Symbol("vr_ij"),), (E0,))
    found = law(dx=3.0, dy=4.0, vx_i=0.0, vy_i=0.0, vx_j=6.0, vy_j=8.0)
    np.testing.assert_allclose(found, [100.0], rtol=1e-12)


def test_a_call_works_under_transformations():
    r = jnp.array([0.5, 1.0, 2.0])
    slope = jax.vmap(jax.grad(lambda r: GRAVITY(r=r, m_i=1.0, m_j=1.0)[0]))(r)
    # float32.
    np.testing.assert_allclose(slope, -2 / r**3, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(SPRING)(r), SPRING(np.asarray(r)), rtol=1e-5)


WRONG_CALLS = {
    "nothing": (lambda: SPRING(), "The law takes r; got nothing, so that r must be added"),
    "no masses": (lambda: GRAVITY(r=1.0), "takes r, m_i, m_j; got r, so that m_i, m_j must"),
    "typing error": (lambda: GRAVITY(r=1.0, m_i=1.0, m_k=1.0), "Unknown variable of the law 'm_k'"),
    "positions": (lambda: GRAVITY(1.0), "takes r, m_i, m_j: give these by name"),
    "half a way": (lambda: SPRING(dx=1.0), "so that dy must be added"),
    "two distances": (lambda: SPRING(r=1.0, dx=1.0, dy=1.0), r"r is not the length of \(dx, dy\)"),
    "both": (lambda: SPRING(1.0, r=1.0), "not both"),
    "text": (lambda: SPRING("1.0"), "r must hold real numbers"),
    "shapes": (lambda: SPRING(dx=np.ones(2), dy=np.ones(3)), r"dx \(2,\), dy \(3,\)"),
    "one body": (lambda: SPRING({"position": [0.0, 0.0]}), "takes two bodies"),
    "no mass": (
        lambda: GRAVITY({"position": [0.0, 0.0]}, {"position": [1.0, 0.0], "mass": 1.0}),
        r"body i needs mass \(m_i\) of the nodes, which have: position \(x, y\)",
    ),
    "direction": (
        lambda: SymbolicModel((DX, 2 * DY), (E0, E1))(1.0),
        "takes dx, dy: give these by name",
    ),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_calls_say_what_is_wrong(name):
    call, message = WRONG_CALLS[name]
    with pytest.raises(ValueError, match=message):
        call()


def recordings():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 5, 4, 2)), np.exp(rng.normal(size=(3, 4)))


def by_hand(position, mass):
    """Accelerations of gravity in plain NumPy, [..., node, dim]."""
    way = position[..., None, :, :] - position[..., :, None, :]
    r = np.linalg.norm(way, axis=-1)[..., None] + np.eye(position.shape[-2])[..., None]
    return np.sum(mass[..., None, :, None] * way / r**3, axis=-2)


def graph(position, mass, **more):
    senders, receivers = complete_edges(len(mass))
    nodes = dict(position=position, mass=mass, **more)
    counts = np.array([len(mass)]), np.array([len(senders)])
    return GraphsTuple(nodes, None, receivers, senders, None, *counts)


def test_predictions_have_the_shape_of_the_data():
    position, mass = recordings()
    expected = by_hand(position, mass[:, None])
    close = dict(rtol=1e-9, atol=1e-9)
    arrays = dict(position=position, mass=mass, time=np.arange(5.0), note="mine")
    np.testing.assert_allclose(GRAVITY.predict(arrays), expected, **close)
    one = dict(position=position[1, 2], mass=mass[1])
    np.testing.assert_allclose(GRAVITY.predict(one), expected[1, 2], **close)
    some = dict(position=position[1], mass=mass[1])
    np.testing.assert_allclose(GRAVITY.predict(some), expected[1], **close)
    # With the target among the features, as `discover` takes them.
    graphs = [graph(x, mass[1], acceleration=x) for x in position[1]]
    np.testing.assert_allclose(GRAVITY.predict(graphs), expected[1], **close)
    np.testing.assert_allclose(GRAVITY.predict(graphs[2]), expected[1, 2], **close)
    batch = jraph.batch_np(graphs)
    np.testing.assert_allclose(GRAVITY.predict(batch), expected[1].reshape(-1, 2), **close)
    padded = jraph.pad_with_graphs(batch, 25, 70, 8)
    # float32 of jraph's padding.
    np.testing.assert_allclose(
        GRAVITY.predict(padded)[:20], expected[1].reshape(-1, 2), rtol=1e-3, atol=1e-4
    )


def test_many_moments_are_predicted_in_lots(monkeypatch):
    position, mass = recordings()
    whole = GRAVITY.predict(dict(position=position, mass=mass))
    monkeypatch.setattr("symjax_gn.data.inputs._AT_ONCE", 50)
    np.testing.assert_array_equal(GRAVITY.predict(dict(position=position, mass=mass)), whole)


def test_predictions_for_trajectories_and_data_sets(spring_trajectory):
    found = SPRING.predict(spring_trajectory)
    # float32 accelerations.
    np.testing.assert_allclose(found, spring_trajectory.target, rtol=1e-3, atol=1e-3)
    data = make_dataset(spring_trajectory)
    np.testing.assert_array_equal(SPRING.predict(data), found.reshape(data.target.shape))


def test_only_joined_bodies_act():
    line = dict(position=[[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]], mass=1.0)
    near = GRAVITY.predict(line, cutoff=2.0)
    np.testing.assert_allclose(near, [[1, 0], [-1, 0], [0, 0]], atol=1e-12)
    single = GRAVITY.predict(line, senders=[0], receivers=[2])
    np.testing.assert_allclose(single, [[0, 0], [0, 0], [-1 / 16, 0]], atol=1e-12)


def test_sets_of_any_form():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 10))
    expected = np.sum(x**2, axis=-1, keepdims=True)
    np.testing.assert_allclose(SET.predict(dict(x_1=x)), expected, rtol=1e-12)
    sets = [
        GraphsTuple(one[:, None], None, None, None, None, np.array([10]), np.array([0]))
        for one in x
    ]
    np.testing.assert_allclose(SET.predict(sets), expected, rtol=1e-12)


PAIR = dict(position=[[0.0, 0.0], [1.0, 0.0]])
WRONG_DATA = {
    "no mass": (PAIR | dict(velocity=np.ones((2, 2))), {}, r"needs mass \(m_i, m_j\) .* velocity"),
    "a graph without": (graph(np.ones((2, 2)), np.ones(2), q=np.ones(2))._replace(
        nodes={"position": np.eye(2)}), {}, r"needs mass .* which have: position \(x, y\)"),
    "three axes": (dict(position=np.eye(3), mass=1.0), {}, "along 2 axes, positions have 3"),
    "masses": (PAIR | dict(mass=np.ones(3)), {}, r"The mass .* must have shape \(2,\)"),
    "text": (PAIR | dict(mass=["a", "b"]), {}, "must hold real numbers"),
    "an array": (np.eye(2), {}, "arrays by name"),
    "no graphs": ([], {}, "got an empty list"),
    "no edges": (
        graph(np.eye(2), np.ones(2))._replace(senders=None, receivers=None, n_edge=np.array([0])),
        {},
        "give them senders and receivers",
    ),
    "edges twice": (graph(np.eye(2), np.ones(2)), dict(cutoff=1.0), "edges of their own"),
    "half the edges": (PAIR | dict(mass=1.0), dict(senders=[0]), "both senders and receivers"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_DATA)
def test_data_that_lack_something_say_what(name):
    data, options, message = WRONG_DATA[name]
    with pytest.raises(ValueError, match=message):
        GRAVITY.predict(data, **options)


def test_a_law_of_free_space_is_not_one_of_a_box(spring_trajectory):
    boxed = dataclasses.replace(SPRING, space=Space((4.0, 4.0)))
    with pytest.raises(ValueError, match="is for the box"):
        boxed.predict(spring_trajectory)


def circle():
    """Masses 1 and 3 a distance 2 apart about their centre: omega^2 = 4 / 2^3."""
    omega = np.sqrt(0.5)
    position = np.array([[-1.5, 0.0], [0.5, 0.0]])
    velocity = omega * np.stack([0 * position[:, 0], position[:, 0]], axis=-1)
    return dict(position=position, velocity=velocity, mass=[1.0, 3.0]), omega


def test_a_kepler_orbit():
    start, omega = circle()
    # Not equally spaced, and not from 0.
    time = 1e3 + np.array([0.0, 0.5, 2.0, 2.1, 2 * np.pi / omega])
    apart = start["position"] * [[1.0], [3.0]]
    starts = dict(
        position=np.stack([start["position"], np.zeros((2, 2)), apart]),
        velocity=np.stack([start["velocity"], np.zeros((2, 2)), 0.4 * start["velocity"]]),
        mass=start["mass"],
    )
    with pytest.warns(SimulationWarning, match="1 of 3 simulations failed .* numbers: 1"):
        run = GRAVITY.simulate(starts, time)
    assert run.position.dtype == np.float64 and run.failed == 1
    assert np.all(np.isnan(run.position[1])) and np.all(np.isfinite(run.position[[0, 2]]))
    phase = omega * (time - time[0])
    expected = 0.5 * np.stack([np.cos(phase), np.sin(phase)], axis=-1)
    # Errors of steps of 1e-7 add up over an orbit.
    np.testing.assert_allclose(run.position[0, :, 1], expected, atol=2e-5)
    mass, speed = run.properties["mass"][2], np.sum(run.velocity[2] ** 2, axis=-1)
    r = np.linalg.norm(run.position[2, :, 1] - run.position[2, :, 0], axis=-1)
    energy = 0.5 * np.sum(mass * speed, axis=-1) - 3.0 / r
    np.testing.assert_allclose(energy, energy[0], rtol=1e-5)


def test_failure_of_all_simulations_is_an_error():
    paths = Paths(np.zeros((2, 3, 2, 2)), None, np.zeros((2, 3, 2, 2)), np.zeros(2, bool))
    with pytest.raises(SimulationError, match="2 of 2 simulations failed"):
        motion._as_trajectory(GRAVITY, np.arange(3.0), paths, {})


def test_a_law_moves_bodies_as_the_true_system_does(spring_trajectory):
    run = spring_trajectory
    found = SPRING.simulate(run.at(0), run.time)
    # The true run is float32, with steps of 1e-5, whose errors close encounters magnify.
    gap = np.abs(found.position - run.position) / np.std(run.position)
    assert np.median(gap) < 1e-4 and np.max(gap) < 5e-2
    np.testing.assert_allclose(found.properties["charge"], run.properties["charge"])
    start = jax.tree.map(lambda x: x[7], run.at(0))
    alone = SPRING.simulate(start, run.time)
    # One simulation, or as many in lockstep: the same steps.
    np.testing.assert_allclose(alone.position[0], found.position[7], rtol=1e-9, atol=1e-9)


def test_drag_and_an_outer_field():
    vx, vy = sympy.symbols("vx_i vy_i")
    law = SymbolicModel((0 * DX, 0 * DY), (E0 - 0.5 * vx, E1 - 0.5 * vy - 2.0))
    time = np.array([0.0, 1.0, 3.0])
    run = law.simulate(dict(position=[[0.0, 0.0]], velocity=[[1.0, 0.0]]), time)
    fall = 4 * (np.exp(-0.5 * time) - 1)
    expected = np.stack([np.exp(-0.5 * time), fall], axis=-1)
    np.testing.assert_allclose(run.velocity[0, :, 0], expected, atol=1e-6)


def test_first_order_motion_in_a_box_within_a_cutoff():
    law = dataclasses.replace(FIRST, space=Space((8.0, 8.0)))
    # The first two are 1 apart across a face, the third is out of reach.
    start = dict(position=[[0.5, 0.0], [7.5, 0.0], [4.0, 0.0]])
    run = law.simulate(start, [0.0, 0.5], cutoff=2.0)
    shift = 0.5 * (1 - np.exp(-1))
    expected = [[0.5 - shift, 0.0], [7.5 + shift, 0.0], [4.0, 0.0]]
    np.testing.assert_allclose(run.position[0, -1], expected, atol=1e-6)
    assert run.velocity is None and run.quantity == VELOCITY


START = circle()[0]
WRONG_STARTS = {
    "a set": (SET, dict(x_1=np.ones(3)), [0.0, 1.0], "z, a quantity of graphs, which is no motion"),
    "no velocity": (SPRING, PAIR | dict(mass=1.0), [0.0, 1.0], "needs velocity .* position, mass"),
    "no mass": (SPRING, PAIR | dict(velocity=np.eye(2)), [0.0, 1.0], r"needs mass \(m_i\)"),
    "times that fall": (SPRING, START, [0.0, 1.0, 0.5], "rise from each output to the next"),
    "one time": (SPRING, START, [0.0], "two or more output times"),
    "a recording": (SPRING, dict(position=np.ones((2, 3, 4, 2)), velocity=np.ones((2, 3, 4, 2)),
        mass=1.0), [0.0, 1.0], r"\[sim, node, dim\]"),
    "a mass of NaN": (SPRING, START | dict(mass=[1.0, np.nan]), [0.0, 1.0], "NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_STARTS)
def test_wrong_starts(name):
    law, start, time, message = WRONG_STARTS[name]
    with pytest.raises(ValueError, match=message):
        law.simulate(start, time)


def test_a_trajectory_is_no_start(spring_trajectory):
    with pytest.raises(ValueError, match="trajectory.at\\(0\\)"):
        SPRING.simulate(spring_trajectory, [0.0, 1.0])


def test_a_network_predicts_for_data_of_any_form(trained, spring_trajectory):
    run = spring_trajectory
    whole = trained.predict(make_dataset(run))
    # float32 sums in another order.
    close = dict(rtol=1e-3, atol=1e-4 * np.std(whole))
    np.testing.assert_allclose(trained.predict(run).reshape(whole.shape), whole, **close)
    start = run.at(0)
    arrays = dict(position=start.position, velocity=start.velocity, **start.properties)
    np.testing.assert_allclose(trained.predict(arrays), trained.predict(run)[:, 0], **close)
    with pytest.raises(ValueError, match="The network needs .* which have: position, velocity"):
        trained.predict(dict(position=start.position, velocity=start.velocity))
    del arrays["velocity"]
    with pytest.raises(ValueError, match="Velocities and edges must be there just if"):
        trained.predict(arrays)


@pytest.mark.parametrize("searches", [1, 2])
def test_unknown_operators_are_not_left_out(searches):
    settings = Settings(operators=("+", "foo"), searches=searches)
    with pytest.raises(ValueError, match="Unknown operator of the operon engine 'foo'"):
        make_engines(settings, 0)


def test_laws_are_keys():
    again = SymbolicModel(list(GRAVITY.message), list(GRAVITY.update), provenance={"seed": [1]})
    assert again == GRAVITY and hash(again) == hash(GRAVITY)
    assert {GRAVITY: 1}[again] == 1
    assert GRAVITY not in {SPRING, FIRST, dataclasses.replace(GRAVITY, space=Space((1.0, 1.0)))}
    step = SymbolicModel((sympy.Heaviside(1.5 - R) * DX / R,), (E0 + 0.25,), provenance={"a": 1})
    for copied in (pickle.loads(pickle.dumps(step)), copy.deepcopy(step)):
        assert copied == step and hash(copied) == hash(step) and copied.provenance == {"a": 1}
    # As a static argument an equal law is not compiled again.
    traces = []

    def force(r, law):
        traces.append(law)
        return law(r=r, m_i=1.0, m_j=1.0)

    jitted = jax.jit(force, static_argnames="law")
    jitted(jnp.ones(3), law=GRAVITY)
    jitted(jnp.ones(3), law=again)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("message", "update", "options", "words"),
    [
        (("dx",), (E0,), {}, "parse_expression reads text"),
        (DX, (E0,), {}, "must be a tuple of expressions"),
        ("dx", (E0,), {}, "must be a tuple of expressions"),
        ((DX,), (E0,), dict(elements="nodes"), "needs a quantity of graphs"),
    ],
)
def test_what_makes_no_law(message, update, options, words):
    with pytest.raises(ValueError, match=words):
        SymbolicModel(message, update, **options)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("[" * 5000 + "]" * 5000, "nested too deep|more than 32 levels"),
        ("[" * 200 + "]" * 200, "more than 32 levels"),
        (json.dumps(["(" * 5000 + "dx" + ")" * 5000]), "at most 10000 characters"),
        (json.dumps(["(" * 500 + "dx" + ")" * 500]), "at most 32 levels"),
        (json.dumps(["((((dx**999)**999)**999)**999)"]), "an exponent of at most 1000"),
        (json.dumps(["dx**999*dx**999"]), "an exponent of at most 1000"),
    ],
)
def test_what_could_not_be_saved_is_not_loaded(tmp_path, message, words):
    path = tmp_path / "law.json"
    save_law(path, SymbolicModel((2.0 * DX,), (E0,)))
    path.write_text(path.read_text().replace('[\n    "2.0*dx"\n  ]', message))
    with pytest.raises(ValueError, match=words) as caught:
        load_law(path)
    assert "\n" not in str(caught.value)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    deep = DX
    for _ in range(40):
        deep = sympy.sin(deep)
    with pytest.raises(ValueError, match="at most 32 levels"):
        save_law(tmp_path / "law.json", SymbolicModel((deep,), (E0,)))
    nested = []
    for _ in range(40):
        nested = [nested]
    with pytest.raises(ValueError, match="provenance has more than 32 levels"):
        save_law(tmp_path / "law.json", SymbolicModel((DX,), (E0,), provenance={"a": nested}))
