import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data.nodes import Body
from symjax_gn.physics.simulation import (
    SOLVERS,
    SimulationError,
    SimulationWarning,
    simulate,
    solve,
)
from symjax_gn.physics.systems import SYSTEMS, System, energy


def two_bodies(distance, speed):
    """Equal unit masses, `distance` apart along x, moving oppositely along y."""
    return Body(
        position=jnp.array([[-distance / 2, 0.0], [distance / 2, 0.0]]),
        velocity=jnp.array([[0.0, -speed], [0.0, speed]]),
        mass=jnp.ones(2),
        charge=jnp.ones(2),
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_spring_at_rest_oscillates_as_a_cosine(solver):
    # Radial motion of two unit masses under (r - 1)^2: reduced mass 1/2, so omega = 2.
    system = dataclasses.replace(SYSTEMS["spring"], softening=0.0)
    with jax.enable_x64(True):
        time = jnp.linspace(0.0, 5.0, 101)
        body, _, ok = solve(
            system, two_bodies(1.5, 0.0), time, solver=solver, tolerance=1e-9, substeps=20
        )
        distance = body.position[:, 1, 0] - body.position[:, 0, 0]
    assert bool(ok)
    # Leapfrog with omega h = 0.005 loses phase by (omega h)^2 / 24 per radian.
    np.testing.assert_allclose(
        np.asarray(distance), 1 + 0.5 * np.cos(2 * np.asarray(time)), atol=1e-5
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_circular_kepler_orbit(solver):
    system = dataclasses.replace(SYSTEMS["r2"], softening=0.0)
    with jax.enable_x64(True):
        # At distance 2 the force is 1/4 = v^2 / 1, so v = 1/2 and the period is 4 pi.
        time = jnp.linspace(0.0, 4 * np.pi, 101)
        body, _, _ = solve(
            system, two_bodies(2.0, 0.5), time, solver=solver, tolerance=1e-9, substeps=20
        )
        phase = time / 2
        expected = jnp.stack([jnp.cos(phase), jnp.sin(phase)], axis=-1)
    np.testing.assert_allclose(body.position[:, 1], expected, atol=1e-4)


# Adaptive steps in float32 with a tolerance of 1e-5 per step err by less than that times
# the some hundred steps taken; leapfrog's error is bounded and of second order, but grows
# with the force's gradient at close encounters. Shares of the largest kinetic energy.
DRIFT = {"adaptive": 5e-3, "symplectic": 0.1}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["spring", "r1", "string"])
def test_energy_is_kept(name, solver):
    system = SYSTEMS[name]
    run = simulate(jax.random.key(0), system, num_simulations=20, num_outputs=200, solver=solver)
    total = jax.vmap(jax.vmap(lambda *fields: energy(system, Body(*fields)), (0, 0, None, None)))(
        run.position, run.velocity, run.mass, run.charge
    )
    kinetic = 0.5 * np.sum(run.mass[:, None, :, None] * run.velocity**2, axis=(2, 3))
    drift = np.max(np.abs(total - total[:, :1]), axis=1) / np.max(kinetic, axis=1)
    assert np.median(drift) < DRIFT[solver] / 5
    assert np.max(drift) < DRIFT[solver]


def test_units_change_nothing():
    # The same spring in micrometres: an absolute tolerance would swallow all motion.
    unit = 1e-6

    def sample(key, num_nodes, dim):
        body = SYSTEMS["spring"].sample(key, num_nodes, dim)
        return body._replace(position=unit * body.position, velocity=unit * body.velocity)

    small = System("small", lambda r, i, j: (r - unit) ** 2, sample=sample, softening=0.01 * unit)
    options = dict(num_simulations=5, num_outputs=50)
    run = simulate(jax.random.key(0), small, **options)
    same = simulate(jax.random.key(0), SYSTEMS["spring"], **options)
    # Both solve to 1e-5 per step, with steps that differ by rounding.
    np.testing.assert_allclose(run.position / unit, same.position, atol=2e-3)


def test_the_solver_has_a_gradient_for_bodies_at_rest():
    time = jnp.linspace(0.0, 0.5, 3)

    def final(distance):
        body, _, _ = solve(SYSTEMS["spring"], two_bodies(distance, 0.0), time, max_steps=64)
        return body.position[-1, 1, 0]

    # Half the distance is 1/2 + (distance - 1) / 2 cos(2 t); the solver errs by 1e-5.
    np.testing.assert_allclose(jax.grad(final)(1.5), np.cos(1.0) / 2, rtol=1e-3)


def test_drag_takes_energy():
    run = simulate(jax.random.key(0), SYSTEMS["damped"], num_simulations=10, num_outputs=100)
    total = jax.vmap(jax.vmap(lambda *f: energy(SYSTEMS["damped"], Body(*f)), (0, 0, None, None)))(
        run.position, run.velocity, run.mass, run.charge
    )
    # float32 sums of a few terms of order ten.
    assert np.all(np.diff(total, axis=1) < 1e-3)


def test_many_simulations_equal_single_ones():
    system = SYSTEMS["spring"]
    key = jax.random.key(5)
    run = simulate(key, system, num_simulations=3, num_outputs=10)
    for index, one in enumerate(jax.random.split(key, 3)):
        time = jnp.asarray(run.time, jnp.float32)
        body, acceleration, _ = solve(system, system.sample(one, 4, 2), time)
        # The same float32 operations in another order.
        np.testing.assert_allclose(run.position[index], body.position, atol=1e-4)
        np.testing.assert_allclose(run.acceleration[index], acceleration, rtol=1e-3, atol=1e-3)


def test_jit_changes_nothing():
    system, time = SYSTEMS["spring"], jnp.linspace(0.0, 0.05, 6)
    body = system.sample(jax.random.key(1), 4, 2)
    plain, _, _ = solve(system, body, time)
    jitted, _, _ = jax.jit(lambda b: solve(system, b, time))(body)
    np.testing.assert_allclose(plain.position, jitted.position, rtol=1e-5, atol=1e-6)


def test_one_compilation_per_shape():
    traces = []

    def sample(key, num_nodes, dim):
        traces.append(num_nodes)
        return SYSTEMS["spring"].sample(key, num_nodes, dim)

    system = dataclasses.replace(SYSTEMS["spring"], sample=sample)
    for seed, count in [(0, 300), (1, 300), (2, 600)]:
        simulate(jax.random.key(seed), system, num_simulations=count, num_outputs=3)
    # One call checks the system, one compiles the solver.
    assert len(traces) == 2


def test_dimensions_dtype_and_any_number_of_bodies():
    run = simulate(
        jax.random.key(0), SYSTEMS["r1"], num_nodes=2, dim=3, num_simulations=3, num_outputs=4
    )
    assert run.position.shape == (3, 4, 2, 3)
    assert run.position.dtype == np.float32
    with jax.enable_x64(True):
        run = simulate(
            jax.random.key(0),
            SYSTEMS["spring"],
            num_nodes=7,
            num_simulations=2,
            num_outputs=4,
            dtype=np.float64,
        )
    assert run.position.shape == (2, 4, 7, 2)
    assert run.position.dtype == np.float64


def test_failures_are_counted_and_left_out():
    # With few steps allowed the simulations with close encounters fail.
    options = dict(num_simulations=40, num_outputs=50, max_steps=10)
    with pytest.warns(SimulationWarning, match="of 40 simulations of 'r2' failed"):
        run = simulate(jax.random.key(0), SYSTEMS["r2"], max_failed=0.9, **options)
    assert 0 < run.failed < 40
    assert len(run.position) == 40 - run.failed
    assert np.all(np.isfinite(run.acceleration))
    with pytest.raises(SimulationError, match="more than max_failed=0"):
        simulate(jax.random.key(0), SYSTEMS["r2"], max_failed=0.0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(solver="simplectic"), "Did you mean 'symplectic'"),
        (dict(num_simulations=0), "num_simulations must be at least 1"),
        (dict(num_outputs=1), "num_outputs must be at least 2"),
        (dict(dt=-1.0), "dt must be positive"),
        (dict(dtype=np.int32), "float32 or float64"),
        (dict(dtype=np.float64), "jax_enable_x64"),
        (dict(num_nodes=1), "at least 2 bodies"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(jax.random.key(0), SYSTEMS["spring"], **options)


def test_drag_is_not_symplectic():
    with pytest.raises(ValueError, match='use solver="adaptive"'):
        simulate(jax.random.key(0), SYSTEMS["damped"], solver="symplectic")


def test_own_law_works_like_a_built_in_one():
    def yukawa(r, receiver, sender):
        return receiver.charge * sender.charge * jnp.exp(-r) / r

    run = simulate(
        jax.random.key(0), System("yukawa", yukawa), num_simulations=4, num_outputs=10, dim=3
    )
    x = run.position[0, 0].astype(np.float64)
    force = np.zeros(3)
    for j in range(1, 4):
        d = x[j] - x[0]
        r = np.linalg.norm(d)
        charges = run.charge[0, 0] * run.charge[0, j]
        force -= charges * np.exp(-r) * (1 / r + 1 / r**2) * d / r
    # float32 accelerations.
    np.testing.assert_allclose(run.acceleration[0, 0, 0], force / run.mass[0, 0], rtol=1e-4)
