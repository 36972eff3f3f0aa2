"""Many simulations at once: the same as single ones, in any memory, with clear errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data import memory
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.quantities import ACCELERATION, VELOCITY
from symjax_gn.data.space import Space
from symjax_gn.physics import forces, simulation
from symjax_gn.physics.dynamics import SOLVERS, follow_system
from symjax_gn.physics.simulation import SimulationError, SimulationWarning, simulate
from symjax_gn.physics.systems import SYSTEMS, System, sample_normal


def nodes_of(run):
    """Bodies `[sim, time, node, ...]` of a trajectory."""
    times = len(run.time)
    properties = {
        name: np.repeat(value[:, None], times, axis=1) for name, value in run.properties.items()
    }
    return Nodes(run.position, run.velocity, properties)


def energies(system, run):
    """[sim, time]."""
    one = functools.partial(forces.energy, system)
    return np.asarray(jax.jit(jax.vmap(jax.vmap(one)))(nodes_of(run)))


def kinetic(run):
    """[sim, time]."""
    mass = run.properties["mass"][:, None, :, None]
    return 0.5 * np.sum(mass * run.velocity**2, axis=(2, 3))


# Adaptive steps in float32 with a tolerance of 1e-5 per step err by less than that times
# the some hundred steps taken; the error of equal steps is bounded and of second order, but
# grows with the force's gradient at close encounters. Shares of the largest kinetic energy.
DRIFT = {"adaptive": 5e-3, "symplectic": 0.1, "midpoint": 0.1}
KEPT = [(name, solver) for name in ("spring", "r1", "string") for solver in SOLVERS[:2]]


@pytest.mark.parametrize(("name", "solver"), [*KEPT, ("spring", "midpoint")])
def test_energy_is_kept(name, solver):
    system = SYSTEMS[name]
    run = simulate(jax.random.key(0), system, num_simulations=20, num_outputs=200, solver=solver)
    total = energies(system, run)
    drift = np.max(np.abs(total - total[:, :1]), axis=1) / np.max(kinetic(run), axis=1)
    assert np.median(drift) < DRIFT[solver] / 5
    assert np.max(drift) < DRIFT[solver]


def test_units_change_nothing():
    # The same spring in micrometres: an absolute tolerance would swallow all motion.
    unit = 1e-6

    def sample(key, num_nodes, dim):
        nodes = SYSTEMS["spring"].sample(key, num_nodes, dim)
        return nodes._replace(position=unit * nodes.position, velocity=unit * nodes.velocity)

    small = System("small", lambda r, i, j: (r - unit) ** 2, sample=sample, softening=0.01 * unit)
    options = dict(num_simulations=5, num_outputs=50)
    run = simulate(jax.random.key(0), small, **options)
    same = simulate(jax.random.key(0), SYSTEMS["spring"], **options)
    # Both solve to 1e-5 per step, with steps that differ by rounding.
    np.testing.assert_allclose(run.position / unit, same.position, atol=2e-3)


def test_drag_takes_energy():
    options = dict(num_simulations=10, num_outputs=100, solver="midpoint")
    run = simulate(jax.random.key(0), SYSTEMS["damped"], **options)
    total = energies(SYSTEMS["damped"], run)
    # float32 sums of a few terms of order ten.
    assert np.all(np.diff(total, axis=1) < 1e-3)
    assert np.all(total[:, -1] < total[:, 0])


def test_many_simulations_equal_single_ones():
    system = SYSTEMS["spring"]
    key = jax.random.key(5)
    run = simulate(key, system, num_simulations=3, num_outputs=10, dt=0.02)
    np.testing.assert_allclose(run.time, 0.02 * np.arange(10))
    follow = jax.jit(lambda nodes: follow_system(system, nodes, run.time))
    for index in range(3):
        start = system.sample(jax.random.fold_in(key, index), 4, 2)
        path = follow(start)
        # The same float32 operations in another order.
        np.testing.assert_allclose(run.position[index], path.nodes.position, atol=1e-4)
        np.testing.assert_allclose(run.velocity[index], path.nodes.velocity, atol=1e-3)
        np.testing.assert_allclose(run.target[index], path.rate, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(run.properties["mass"][index], start.mass, rtol=1e-5)
        np.testing.assert_array_equal(run.properties["charge"][index], start.charge)
    assert (run.quantity, run.space, run.failed, run.derived) == (ACCELERATION, Space(), 0, ())


def test_groups_in_lockstep_are_put_together(monkeypatch):
    options = dict(num_simulations=7, num_outputs=3, solver="symplectic")
    whole = simulate(jax.random.key(0), SYSTEMS["spring"], **options)
    monkeypatch.setattr(simulation, "_LOCKSTEP", 3)
    parts = simulate(jax.random.key(0), SYSTEMS["spring"], **options)
    # Groups of three, the last filled up.
    for name in ("position", "velocity", "target"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    assert len(np.unique(whole.position[:, 0, 0, 0])) == 7


def test_one_compilation_per_shape():
    traces = []

    def sample(key, num_nodes, dim):
        traces.append(num_nodes)
        return SYSTEMS["spring"].sample(key, num_nodes, dim)

    def potential(r, receiver, sender):
        calls.append(r)
        return (r - 1) ** 2

    calls = []
    system = System("mine", potential, sample=sample)
    options = dict(num_outputs=3, solver="symplectic")
    simulate(jax.random.key(0), system, num_simulations=300, **options)
    first = len(traces), len(calls)
    for seed, count in [(1, 300), (2, 600), (3, 257)]:
        simulate(jax.random.key(seed), system, num_simulations=count, **options)
    assert (len(traces), len(calls)) == first
    # A sampler is looked at for its shapes, with the law's, and compiled once.
    assert len(traces) == 3


def test_dimensions_dtype_and_any_number_of_bodies():
    run = simulate(
        jax.random.key(0), SYSTEMS["r1"], num_nodes=2, dim=3, num_simulations=3, num_outputs=4
    )
    assert run.position.shape == (3, 4, 2, 3)
    assert run.position.dtype == run.properties["mass"].dtype == np.float32
    line = dataclasses.replace(SYSTEMS["spring"], dims=(1,))
    options = dict(num_simulations=2, num_outputs=4, solver="symplectic")
    assert simulate(jax.random.key(0), line, **options).position.shape == (2, 4, 4, 1)
    with jax.enable_x64(True):
        run = simulate(
            jax.random.key(0), SYSTEMS["spring"], num_nodes=7, dtype=np.float64, **options
        )
        assert run.position.shape == (2, 4, 7, 2)
        assert run.position.dtype == run.target.dtype == np.float64
        # 64 bits by JAX_ENABLE_X64 alone change no type.
        for solver in ("adaptive", "midpoint"):
            run = simulate(
                jax.random.key(0), SYSTEMS["string_ball"], **options | dict(solver=solver)
            )
            assert run.position.dtype == run.target.dtype == np.float32


def test_a_key_of_the_old_kind():
    options = dict(num_simulations=2, num_outputs=2, solver="symplectic")
    old = simulate(jax.random.PRNGKey(3), SYSTEMS["spring"], **options)
    new = simulate(jax.random.key(3), SYSTEMS["spring"], **options)
    np.testing.assert_array_equal(old.position, new.position)


def test_failures_are_counted_and_left_out():
    # With few steps allowed the simulations with close encounters fail.
    options = dict(num_simulations=40, num_outputs=50, max_steps=10)
    with pytest.warns(SimulationWarning, match="of 40 simulations of 'r2' failed"):
        run = simulate(jax.random.key(0), SYSTEMS["r2"], max_failed=0.9, **options)
    assert 0 < run.failed < 40
    assert len(run.position) == len(run.properties["mass"]) == 40 - run.failed
    assert np.all(np.isfinite(run.target))
    # Those that are left keep their masses: the first output follows from the masses.
    one = jax.jit(jax.vmap(functools.partial(forces.rate, SYSTEMS["r2"])))
    start = jax.tree.map(lambda x: x[:, 0], nodes_of(run))
    np.testing.assert_allclose(run.target[:, 0], one(start), rtol=1e-3, atol=1e-3)
    with pytest.raises(SimulationError, match="more than max_failed=0"):
        simulate(jax.random.key(0), SYSTEMS["r2"], max_failed=0.0, **options)


def test_nothing_is_left_where_all_fail():
    options = dict(num_simulations=3, num_outputs=50, max_steps=2, max_failed=1.0)
    with pytest.raises(SimulationError, match="3 of 3 simulations of 'spring' failed"):
        simulate(jax.random.key(0), SYSTEMS["spring"], **options)


# Other motion.


def test_first_order_motion_has_velocities_as_its_target():
    system = System("attraction", pair_force=lambda displacement, i, j: displacement, order=1)
    run = simulate(
        jax.random.key(0), system, num_nodes=3, num_simulations=4, num_outputs=11, dt=0.1
    )
    assert run.velocity is None and run.quantity == VELOCITY
    centre = np.mean(run.position[:, :1], axis=2, keepdims=True)
    shrink = np.exp(-3 * run.time)[:, None, None]
    expected = centre + shrink * (run.position[:, :1] - centre)
    # The solver errs by 1e-5 in each of some ten steps.
    np.testing.assert_allclose(run.position, expected, atol=2e-4)
    np.testing.assert_allclose(run.target, -3 * (expected - centre), atol=1e-3)


def test_a_periodic_box_with_a_cutoff():
    box = Space((4.0, 4.0))
    system = System("box", lambda r, i, j: jnp.exp(-r), softening=0.1, space=box, cutoff=1.5)
    options = dict(solver="symplectic", substeps=10)
    run = simulate(jax.random.key(0), system, num_simulations=5, num_outputs=40, dt=0.1, **options)
    assert run.space == box
    assert np.all((run.position >= 0) & (run.position < 4))
    assert np.any(np.abs(np.diff(run.position, axis=1)) > 2)
    # Forces jump at the cutoff and turn round in a hit; energies that jumped with them would
    # change by exp(-1.6).
    assert np.ptp(energies(system, run), axis=1).max() < 0.1
    x = run.position[0, 7].astype(np.float64)
    way = x[None] - x[:, None]
    way -= 4.0 * np.round(way / 4.0)
    r = np.linalg.norm(way, axis=-1) + np.eye(4)
    push = np.where((r <= 1.5) & ~np.eye(4, dtype=bool), -np.exp(-(r + 0.1)), 0.0)
    force = np.sum(push[..., None] * way / r[..., None], axis=1)
    # float32 accelerations.
    np.testing.assert_allclose(
        run.target[0, 7], force / run.properties["mass"][0, :, None], rtol=1e-3, atol=1e-5
    )


def test_own_law_works_like_a_built_in_one():
    def yukawa(r, receiver, sender):
        return receiver.charge * sender.charge * jnp.exp(-r) / r

    options = dict(num_simulations=4, num_outputs=10, dim=3, solver="symplectic")
    run = simulate(jax.random.key(0), System("yukawa", yukawa), **options)
    x = run.position[0, 0].astype(np.float64)
    force = np.zeros(3)
    for j in range(1, 4):
        d = x[j] - x[0]
        r = np.linalg.norm(d)
        charges = run.properties["charge"][0, 0] * run.properties["charge"][0, j]
        force -= charges * np.exp(-r) * (1 / r + 1 / r**2) * d / r
    # float32 accelerations.
    np.testing.assert_allclose(run.target[0, 0, 0], force / run.properties["mass"][0, 0], rtol=1e-4)


def spread(key, num_nodes, dim):
    """Bodies as far apart as a few, however many."""
    nodes = sample_normal(key, num_nodes, dim)
    return nodes._replace(position=num_nodes ** (1 / dim) * nodes.position)


def test_many_bodies():
    system = System("many", SYSTEMS["r2"].pair_potential, softening=0.5, sample=spread)
    options = dict(num_simulations=1, num_outputs=3, dt=0.01, solver="symplectic", substeps=1)
    run = simulate(jax.random.key(0), system, num_nodes=300, **options)
    x, m = run.position[0, 1].astype(np.float64), run.properties["mass"][0].astype(np.float64)
    way = x[None] - x[:, None]
    r = np.linalg.norm(way, axis=-1)
    np.fill_diagonal(r, 1.0)
    expected = np.sum((m / ((r + 0.5) ** 2 * r))[..., None] * way, axis=1)
    # float32 sums of 300 terms.
    np.testing.assert_allclose(run.target[0, 1], expected, rtol=1e-3, atol=1e-3)


def test_memory_decides_how_many_are_advanced_together(monkeypatch):
    """Few of many bodies, and few with many outputs."""
    system = SYSTEMS["spring"]
    assert simulation._lockstep(system, 4) == 256
    assert simulation._lockstep(system, 100) == 26
    assert simulation._lockstep(system, 2000) == 1
    assert simulation._lockstep(SYSTEMS["string"], 2000) == 65
    sizes = []
    advance = simulation._advance.lower

    def note(starts, *args, **options):
        sizes.append(len(starts.position))
        return advance(starts, *args, **options)

    monkeypatch.setattr(simulation._advance, "lower", note)
    monkeypatch.setattr(simulation, "_OUTPUT_BYTES", 10 * 2 * 5 * 4 * 2 * 4)
    simulate(jax.random.key(0), system, num_simulations=4, num_outputs=5, solver="symplectic")
    assert sizes == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(solver="simplectic"), "Did you mean 'symplectic'"),
        (dict(solver=None), "solver must be text, got None"),
        (dict(num_simulations=0), "num_simulations must be a whole number of at least 1, got 0"),
        (dict(num_simulations=10.0), "num_simulations must be a whole number"),
        (dict(num_outputs=1), "num_outputs must be a whole number of at least 2"),
        (dict(substeps=0), "substeps must be a whole number of at least 1"),
        (dict(max_steps=0), "max_steps must be a whole number of at least 1"),
        (dict(dt=-1.0), "dt must be a finite number above 0, got -1.0"),
        (dict(dt="0.1"), "dt must be a number or None, got '0.1'"),
        (dict(dt=np.ones(2)), r"dt must be .* an array of shape \(2,\)"),
        (dict(tolerance=0.0), "tolerance must be a finite number above 0"),
        (dict(tolerance=-1e-3), "tolerance must be a finite number above 0"),
        (dict(max_failed=-0.1), "max_failed must be a finite number of at least 0"),
        (dict(dtype=np.int32), "float32 or float64"),
        (dict(dtype="float"), "jax_enable_x64"),
        (dict(dtype="floaty"), "float32 or float64, got 'floaty'"),
        (dict(dtype=np.float64), "jax_enable_x64"),
        (dict(num_nodes=1), "number of bodies must be a whole number of at least 2, got 1"),
        (dict(dim=4), "2 or 3 dimensions, got dim=4"),
        (dict(dim=2.5), "dim must be a whole number"),
        (dict(system="spring"), "system must be a System, got 'spring'. See get_system"),
        (dict(key=0), r"key must be a key of jax.random, e.g. jax.random.key\(0\), got 0"),
        (dict(key=np.zeros(2)), "key must be a key of jax.random"),
        (
            dict(key=jax.random.split(jax.random.key(0), 3)),
            "must be a key of jax.random",
        ),
        (
            dict(num_simulations=10**11),
            r"100000000000 simulations of 4 bodies .* GB of memory, and",
        ),
        (dict(num_outputs=10**10), "lower num_simulations, num_outputs or num_nodes"),
        (dict(num_nodes=10**10), "10000000000 bodies are too many to simulate"),
    ],
)
def test_bad_arguments(options, message):
    options = dict(key=jax.random.key(0), system=SYSTEMS["spring"]) | options
    with pytest.raises(ValueError, match=message):
        simulate(**options)


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (SYSTEMS["damped"], "has drag"),
        (System("first", lambda r, i, j: r, order=1), "of first order"),
        (System("wind", pair_force=lambda d, i, j: i.velocity), "depend on velocities"),
    ],
)
def test_what_is_not_symplectic(system, message):
    with pytest.raises(ValueError, match=f'{message}.*use solver="adaptive"'):
        simulate(jax.random.key(0), system, solver="symplectic")


def test_memory_of_a_container(monkeypatch, tmp_path):
    there = memory.bytes_there()
    assert there is None or there > 2**28
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER_LIMIT", limit)
    limit.write_text("1000000\n")
    assert memory.bytes_there() == 1_000_000
    limit.write_text("max\n")
    assert memory.bytes_there() != 1_000_000
    monkeypatch.setattr(memory.os, "sysconf", lambda name: (_ for _ in ()).throw(ValueError))
    assert memory.bytes_there() is None
    limit.write_text("1000000\n")
    with pytest.raises(ValueError, match="and there are 0.000931 GB"):
        simulate(jax.random.key(0), SYSTEMS["spring"])
