"""Motion in time: analytic orbits, what is conserved, units, gradients, failures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data.nodes import Nodes, take_nodes
from symjax_gn.data.space import Space
from symjax_gn.physics import dynamics
from symjax_gn.physics.dynamics import (
    SOLVERS,
    energy_drift,
    follow,
    follow_system,
    roll_out,
    solve,
    to_canonical,
    true_hamiltonian,
)
from symjax_gn.physics.forces import energy, rate
from symjax_gn.physics.systems import SYSTEMS, System

HARMONIC = System("harmonic", lambda r, receiver, sender: r**2)
SPRING = System("spring", SYSTEMS["spring"].pair_potential)
GRAVITY = System("gravity", SYSTEMS["r2"].pair_potential)


def two_bodies(distance=2.0, speed=0.0):
    """Unit masses, `distance` apart along x, moving oppositely along y."""
    return Nodes(
        jnp.array([[-distance / 2, 0.0], [distance / 2, 0.0]]),
        jnp.array([[0.0, -speed], [0.0, speed]]),
        {"mass": jnp.ones(2)},
    )


def run(system, nodes, time, **options):
    return jax.jit(lambda nodes: follow_system(system, nodes, time, **options))(nodes)


# The solver.


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_oscillator(solver):
    """q'' = -4 q as a pair (position, momentum) of arrays of unequal shape."""

    def field(state):
        (q, p) = state
        return dict(a=p["a"], b=2 * p["b"]), dict(a=-4 * q["a"], b=-2 * q["b"])

    start = dict(a=jnp.ones(()), b=jnp.ones(3)), dict(a=jnp.zeros(()), b=jnp.zeros(3))
    time = np.linspace(0.0, 3.0, 31)
    options = dict(solver=solver, tolerance=1e-7, substeps=10)
    (q, p), ok = jax.jit(lambda state: solve(field, state, time, **options))(start)
    assert ok and q["a"].shape == (31,) and q["b"].shape == (31, 3)
    # Of second order in steps of 0.01: (w h)^2 / 12 of 6 radians is 2e-4.
    np.testing.assert_allclose(q["a"], np.cos(2 * time), atol=5e-4)
    np.testing.assert_allclose(p["a"], -2 * np.sin(2 * time), atol=1e-3)
    np.testing.assert_allclose(q["b"][:, 1], np.cos(2 * time), atol=5e-4)
    np.testing.assert_allclose(p["b"][:, 2], -np.sin(2 * time), atol=5e-4)


@pytest.mark.parametrize(("solver", "order"), [("symplectic", 2), ("midpoint", 2)])
def test_steps_are_of_second_order(solver, order):
    time = np.array([0.0, 1.0])

    def error(substeps):
        (q, _), _ = jax.jit(
            lambda state: solve(
                lambda s: (s[1], -s[0]), state, time, solver=solver, substeps=substeps
            )
        )((jnp.ones(()), jnp.zeros(())))
        return abs(float(q[-1]) - np.cos(1.0))

    with jax.enable_x64(True):
        ratio = error(10) / error(20)
    np.testing.assert_allclose(ratio, 2**order, rtol=0.02)


def test_output_times_need_not_be_equally_spaced():
    time = np.array([0.0, 0.1, 0.5, 0.6, 2.0])
    for solver in SOLVERS:
        (q, _), ok = jax.jit(
            lambda state, solver=solver: solve(
                lambda s: (s[1], -s[0]), state, time, solver=solver, substeps=50
            )
        )((jnp.ones(()), jnp.zeros(())))
        assert ok
        # (1.4 / 50)^2 / 24 of 2 radians.
        np.testing.assert_allclose(q, np.cos(time), atol=1e-4)


@pytest.mark.parametrize("solver", ["adaptive", "midpoint"])
def test_one_array_is_a_state_too(solver):
    time = np.linspace(0.0, 2.0, 5)
    decay = jax.jit(lambda x: solve(lambda x: -x, x, time, solver=solver, substeps=50))
    path, ok = decay(jnp.array([1.0, 3.0]))
    assert ok
    np.testing.assert_allclose(path, np.exp(-time)[:, None] * [1.0, 3.0], atol=1e-4)


def test_tolerances_are_in_units():
    """An absolute tolerance of 1e-3 is all of a motion of 1e-6, and nothing in its own unit."""
    time = np.linspace(0.0, 6.0, 13)

    def field(state):
        return state[1], -state[0]

    start = 1e-6 * jnp.ones(()), jnp.zeros(())
    fine = solve(field, start, time, units=(1e-6, 1e-6), tolerance=1e-4)[0][0]
    coarse = solve(field, start, time, tolerance=1e-4)[0][0]
    np.testing.assert_allclose(fine, 1e-6 * np.cos(time), atol=2e-9)
    assert np.max(np.abs(coarse - 1e-6 * np.cos(time))) > 2e-8


def test_a_smaller_tolerance_errs_less():
    time = np.linspace(0.0, 6.0, 5)
    with jax.enable_x64(True):
        errors = []
        for tolerance in (1e-3, 1e-9):
            path, ok = solve(
                lambda s: (s[1], -s[0]), (jnp.ones(()), jnp.zeros(())), time, tolerance=tolerance
            )
            assert ok
            errors.append(np.max(np.abs(path[0] - np.cos(time))))
    assert errors[1] < 1e-8 and errors[0] > 1e-5


def test_failures_are_told():
    time = np.array([0.0, 2.0])
    # 1 / (1 - t) has left by time 1; few steps are not enough for many turns.
    for solver in ("adaptive", "midpoint"):
        _, ok = solve(lambda x: x**2, jnp.ones(()), time, solver=solver, max_steps=200)
        assert not ok
    fast = 1000.0 * time
    _, ok = solve(lambda s: (s[1], -s[0]), (jnp.ones(()), jnp.zeros(())), fast, max_steps=20)
    assert not ok
    # Steps that are too long for the fixed point of the midpoint rule, and for leapfrog.
    for solver in ("midpoint", "symplectic"):
        _, ok = solve(
            lambda s: (s[1], -1e6 * s[0]),
            (jnp.ones(()), jnp.zeros(())),
            np.linspace(0, 10, 11),
            solver=solver,
        )
        assert not ok


def test_the_midpoint_rule_says_where_its_iteration_does_not_converge():
    """Each iteration for an oscillator shrinks what is left by half a step: 32 times 0.95."""

    @jax.jit
    def one_step(length):
        time = jnp.stack([jnp.zeros(()), length])
        start = jnp.ones(()), jnp.zeros(())
        return solve(lambda s: (s[1], -s[0]), start, time, solver="midpoint", substeps=1)

    (q, p), ok = one_step(1.0)
    # The exact step is a rotation by 2 arctan(1/2).
    assert ok and np.hypot(q[-1], p[-1]) == pytest.approx(1.0, abs=1e-5)
    assert q[-1] == pytest.approx(np.cos(2 * np.arctan(0.5)), abs=1e-5)
    assert not one_step(1.9)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(solver="simplectic"), "Unknown solver 'simplectic'. Did you mean 'symplectic'"),
        (dict(solver="symplectic"), "needs a pair .* an array of shape .*adaptive"),
        (dict(time=np.array([0.0])), r"two or more output times \[time\], got .* \(1,\)"),
        (dict(time=np.zeros((2, 2))), "two or more output times"),
        (dict(time=1.0), "two or more output times"),
        (dict(time=np.array([0.0, 1.0, 1.0])), "time must rise"),
        (dict(time=np.array([0.0, np.nan])), "time must rise from each output to the next, and"),
    ],
)
def test_bad_options(options, message):
    options = dict(time=np.array([0.0, 1.0])) | options
    with pytest.raises(ValueError, match=message):
        solve(lambda x: x, jnp.ones(2), **options)


# Systems.


@pytest.mark.parametrize("solver", SOLVERS)
def test_spring_at_rest_oscillates_as_a_cosine(solver):
    # Radial motion of two unit masses under (r - 1)^2: reduced mass 1/2, so omega = 2.
    with jax.enable_x64(True):
        time = np.linspace(0.0, 5.0, 101)
        path = run(SPRING, two_bodies(1.5), time, solver=solver, tolerance=1e-9, substeps=20)
    assert path.ok
    distance = path.nodes.position[:, 1, 0] - path.nodes.position[:, 0, 0]
    # Steps with omega h = 0.005 lose phase by (omega h)^2 / 12 per radian.
    np.testing.assert_allclose(distance, 1 + 0.5 * np.cos(2 * time), atol=2e-5)
    speed = path.nodes.velocity[:, 1, 0] - path.nodes.velocity[:, 0, 0]
    np.testing.assert_allclose(speed, -np.sin(2 * time), atol=5e-5)
    rates = path.rate[:, 1, 0] - path.rate[:, 0, 0]
    np.testing.assert_allclose(rates, -2 * np.cos(2 * time), atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_circular_kepler_orbit(solver):
    with jax.enable_x64(True):
        # At distance 2 the force is 1/4 = v^2 / 1, so v = 1/2 and the period is 4 pi.
        time = np.linspace(0.0, 4 * np.pi, 101)
        path = run(GRAVITY, two_bodies(2.0, 0.5), time, solver=solver, tolerance=1e-9, substeps=20)
    expected = np.stack([np.cos(time / 2), np.sin(time / 2)], axis=-1)
    np.testing.assert_allclose(path.nodes.position[:, 1], expected, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_energy_momentum_and_angular_momentum_are_conserved(solver):
    nodes = SYSTEMS["spring"].sample(jax.random.key(0), 4, 2)
    with jax.enable_x64(True):
        nodes = jax.tree.map(lambda x: x.astype(jnp.float64), nodes)
        path = run(SPRING, nodes, np.linspace(0, 3, 31), solver=solver, substeps=20, tolerance=1e-9)
        energies = jax.jit(jax.vmap(functools.partial(energy, SPRING)))(path.nodes)
        path, energies = jax.tree.map(np.asarray, (path, energies))
    x, v = path.nodes.position, path.nodes.velocity
    momenta = path.nodes.mass[..., None] * v
    spin = np.sum(x[..., 0] * momenta[..., 1] - x[..., 1] * momenta[..., 0], axis=1)
    # Leapfrog and midpoint keep momenta to rounding; energy to second order in steps of 5e-3.
    total = np.sum(momenta, axis=1)
    np.testing.assert_allclose(total - total[0], 0.0, atol=1e-7)
    np.testing.assert_allclose(spin, spin[0], atol=1e-6)
    np.testing.assert_allclose(energies, energies[0], rtol=1e-3 if solver != "adaptive" else 1e-6)


def test_drag_slows_exponentially():
    system = System("drag", lambda r, i, j: 0.0 * r, drag=3.0)
    nodes = two_bodies(2.0, 1.0)._replace(properties={"mass": jnp.array([1.0, 2.0])})
    time = np.linspace(0.0, 2.0, 9)
    for solver in ("adaptive", "midpoint"):
        path = run(system, nodes, time, solver=solver, substeps=50, tolerance=1e-6)
        # Second order in steps of 5e-3 at rate 3.
        np.testing.assert_allclose(path.nodes.velocity[:, 0, 1], -np.exp(-3 * time), atol=1e-4)
        np.testing.assert_allclose(path.nodes.velocity[:, 1, 1], np.exp(-1.5 * time), atol=1e-4)


@pytest.mark.parametrize("solver", ["adaptive", "midpoint"])
def test_first_order_attraction_is_exponential(solver):
    # x_i' = sum_j (x_j - x_i): distances shrink as exp(-n t), the centre stays. Masses and
    # velocities play no part.
    system = System("attraction", pair_force=lambda displacement, i, j: displacement, order=1)
    nodes = SYSTEMS["spring"].sample(jax.random.key(0), 3, 2)
    time = np.linspace(0.0, 1.0, 6)
    path = run(system, nodes, time, solver=solver, substeps=50, tolerance=1e-6)
    assert path.ok and path.nodes.velocity is None
    centre = np.mean(nodes.position, axis=0)
    expected = centre + np.exp(-3 * time)[:, None, None] * (nodes.position - centre)
    np.testing.assert_allclose(path.nodes.position, expected, atol=1e-4)
    np.testing.assert_allclose(path.rate, -3 * (expected - centre), atol=5e-4)
    same = run(system, nodes._replace(velocity=None), time, solver=solver, substeps=50)
    np.testing.assert_allclose(same.nodes.position, path.nodes.position, atol=1e-4)


def test_a_body_goes_through_a_face_of_the_box():
    box = Space((4.0, 4.0))
    free = System("free", lambda r, i, j: 0.0 * r, space=box)
    nodes = Nodes(jnp.array([[3.5, 1.0], [1.0, 0.5]]), jnp.array([[1.0, 0.0], [0.0, -1.0]]), {})
    path = run(free, nodes, np.linspace(0.0, 8.0, 17), solver="adaptive")
    time = np.linspace(0.0, 8.0, 17)
    # Away from the faces, where rounding decides on which side a body is.
    inside = np.abs(np.mod(3.5 + time, 4.0)) > 1e-3
    np.testing.assert_allclose(
        path.nodes.position[inside, 0, 0], np.mod(3.5 + time, 4.0)[inside], atol=1e-4
    )
    assert np.all((path.nodes.position >= 0) & (path.nodes.position < 4))
    np.testing.assert_allclose(path.nodes.velocity[:, 0, 0], 1.0)


@pytest.mark.parametrize("cutoff", [None, 1.8])
def test_a_box_keeps_energy_and_is_the_same_from_any_corner(cutoff):
    """Repelling bodies that meet through the faces; the energy has a kink at the cutoff."""
    system = System(
        "repulsion",
        lambda r, i, j: jnp.exp(-r) if cutoff is None else jnp.exp(-r / 2),
        space=Space((6.0, 6.0)),
        cutoff=cutoff,
    )
    nodes = SYSTEMS["spring"].sample(jax.random.key(3), 6, 2)
    time = np.linspace(0.0, 5.0, 51)
    options = dict(solver="symplectic", substeps=20)
    with jax.enable_x64(True):
        nodes = jax.tree.map(lambda x: x.astype(jnp.float64), nodes)
        nodes = nodes._replace(velocity=nodes.velocity * 0.5)
        path = run(system, nodes, time, **options)
        energies = jax.jit(jax.vmap(functools.partial(energy, system)))(path.nodes)
        shift = np.array([2.5, 17.0])
        moved = run(system, nodes._replace(position=nodes.position + shift), time, **options)
        path, moved, energies = jax.tree.map(np.asarray, (path, moved, energies))
    assert np.all((path.nodes.position >= 0) & (path.nodes.position < 6))
    # Without a cutoff, distances of half the box have kinks too: forces jump by 0.1 there,
    # energies of a few by no more than a step's force times its way, 1e-3.
    assert np.max(np.abs(energies - energies[0])) < 5e-3 * np.abs(energies[0])
    way = system.space.displacement(path.nodes.position + shift, moved.nodes.position)
    np.testing.assert_allclose(way, 0.0, atol=1e-8)


def test_many_outputs_of_many_bodies_are_computed_in_parts(monkeypatch):
    nodes, time = SYSTEMS["r1"].sample(jax.random.key(0), 4, 2), np.linspace(0.0, 0.05, 7)
    whole = run(SYSTEMS["r1"], nodes, time, solver="symplectic")
    monkeypatch.setattr(dynamics, "PAIRS_AT_ONCE", 33)
    parts = run(SYSTEMS["r1"], nodes, time, solver="symplectic")
    np.testing.assert_allclose(parts.rate, whole.rate, rtol=1e-5, atol=1e-5)


def test_properties_are_repeated_in_time():
    path = run(SYSTEMS["spring"], SYSTEMS["spring"].sample(jax.random.key(0), 4, 2), np.arange(3.0))
    assert path.nodes.mass.shape == path.nodes.charge.shape == (3, 4)
    assert np.all(path.nodes.mass == path.nodes.mass[0])


def test_errors_of_systems():
    nodes, time = two_bodies(), np.array([0.0, 1.0])
    with pytest.raises(ValueError, match='has drag.*use solver="adaptive"'):
        follow_system(SYSTEMS["damped"], nodes, time, solver="symplectic")
    first = System("first", lambda r, i, j: r, order=1)
    with pytest.raises(ValueError, match='of first order.*use solver="adaptive"'):
        follow_system(first, nodes, time, solver="symplectic")
    with pytest.raises(ValueError, match="system must be a System, got 'spring'"):
        follow_system("spring", nodes, time)
    with pytest.raises(ValueError, match="needs initial velocities, got None"):
        follow_system(SPRING, nodes._replace(velocity=None), time)
    with pytest.raises(ValueError, match="Unknown solver 'x'"):
        follow_system(SPRING, nodes, time, solver="x")


# Any function that gives rates: networks and laws.


def test_any_function_of_nodes_moves_them():
    def wind(nodes):
        return jnp.stack([nodes.wind, -nodes.position[:, 1]], axis=-1)

    nodes = Nodes(jnp.ones((2, 2)), None, {"wind": jnp.array([1.0, 2.0])})
    time = np.linspace(0.0, 1.0, 3)
    path = follow(wind, nodes, time, order=1)
    np.testing.assert_allclose(path.nodes.position[:, 1, 0], 1 + 2 * time, rtol=1e-5)
    np.testing.assert_allclose(path.nodes.position[:, 1, 1], np.exp(-time), rtol=1e-3)
    np.testing.assert_allclose(path.rate[:, :, 0], [[1.0, 2.0]] * 3)


def test_a_law_in_a_box_sees_continuous_positions_and_gives_wrapped_ones():
    seen = []

    def still(nodes):
        seen.append(nodes.position.shape)
        return 0.0 * nodes.position

    nodes = Nodes(jnp.array([[0.9]]), jnp.array([[1.0]]), {})
    path = follow(still, nodes, np.linspace(0.0, 1.0, 3), space=Space((1.0,)))
    np.testing.assert_allclose(path.nodes.position[:, 0, 0], [0.9, 0.4, 0.9], atol=1e-5)
    assert set(seen) == {(1, 1)}


def test_the_type_of_numbers_is_that_of_the_bodies():
    """Times, masses and laws in float64 do not change it, nor do whole numbers break it."""
    with jax.enable_x64(True):
        nodes = Nodes(
            np.ones((2, 1), np.float32), np.zeros((2, 1), np.float32), {"mass": np.ones(2)}
        )
        for solver in SOLVERS:
            path = follow(
                lambda nodes: -np.float64(1.0) * nodes.position / nodes.mass[:, None],
                nodes,
                np.linspace(0.0, 1.0, 3),
                solver=solver,
            )
            assert path.nodes.position.dtype == path.rate.dtype == jnp.float32
            assert path.ok
    whole = Nodes(np.array([[1]]), np.array([[0]]), {})
    path = follow(lambda nodes: -nodes.position, whole, np.array([0, 1]))
    np.testing.assert_allclose(path.nodes.position[-1, 0, 0], np.cos(1.0), atol=1e-4)


# Transformations.


def test_the_adaptive_solver_has_a_gradient_for_bodies_at_rest():
    @jax.jit
    @jax.grad
    def slope(distance):
        path = follow_system(SPRING, two_bodies(distance), np.linspace(0.0, 0.5, 3), max_steps=64)
        return path.nodes.position[-1, 1, 0]

    # Half the distance is 1/2 + (distance - 1) / 2 cos(2 t); the solver errs by 1e-5.
    np.testing.assert_allclose(slope(1.5), np.cos(1.0) / 2, rtol=1e-3)


@pytest.mark.parametrize("solver", ["symplectic", "midpoint"])
def test_gradients_against_finite_differences(solver):
    nodes = SYSTEMS["r1"].sample(jax.random.key(1), 3, 2)
    time = np.linspace(0.0, 0.2, 3)

    def final(system, direction, step):
        moved = nodes._replace(position=nodes.position + step * direction)
        path = follow_system(system, moved, time, solver=solver)
        return jnp.sum(path.nodes.position[-1] * path.rate[-1])

    with jax.enable_x64(True):
        nodes = jax.tree.map(lambda x: x.astype(jnp.float64), nodes)
        direction = jax.random.normal(jax.random.key(2), nodes.position.shape)
        value = jax.jit(functools.partial(final, SYSTEMS["r1"], direction))
        slope = jax.jit(jax.grad(functools.partial(final, SYSTEMS["r1"], direction)))(0.0)
        differences = (value(1e-4) - value(-1e-4)) / 2e-4
    np.testing.assert_allclose(slope, differences, rtol=1e-6)


@pytest.mark.parametrize("solver", ["symplectic", "midpoint"])
def test_vmap_equals_loop(solver):
    keys = jax.random.split(jax.random.key(0), 3)
    bodies = jax.vmap(lambda key: HARMONIC.sample(key, 3, 2))(keys)
    one_run = jax.jit(
        lambda nodes: follow_system(HARMONIC, nodes, np.linspace(0.0, 1.0, 11), solver=solver)
    )
    many = jax.vmap(one_run)(bodies)
    for k in range(3):
        one = one_run(take_nodes(bodies, k))
        # Batched loops run until the last member converges: float32 rounding.
        np.testing.assert_allclose(many.nodes.position[k], one.nodes.position, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(many.rate[k], one.rate, atol=1e-3, rtol=1e-3)


def test_jit_changes_nothing():
    system, time = SYSTEMS["spring"], np.linspace(0.0, 0.05, 6)
    nodes = system.sample(jax.random.key(1), 4, 2)
    plain = follow_system(system, nodes, time, solver="symplectic")
    jitted = run(system, nodes, time, solver="symplectic")
    np.testing.assert_allclose(plain.nodes.position, jitted.nodes.position, rtol=1e-5, atol=1e-6)


# Hamiltonians.


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_hamiltonian_orbit(solver):
    """Unit masses at rest, 2 apart: each swings with frequency 2 about the middle."""
    time = np.linspace(0.0, 10.0, 201)
    hamiltonian = true_hamiltonian(HARMONIC)
    path, ok = jax.jit(
        lambda nodes: roll_out(hamiltonian, nodes, time, solver=solver, substeps=4, tolerance=1e-6)
    )(two_bodies())
    assert ok
    assert path.position.shape == (201, 2, 2) and path.mass.shape == (201, 2)
    # The midpoint rule's phase is late by (w h)^2 / 12 of 20 radians: 1e-3.
    np.testing.assert_allclose(path.position[:, 1, 0], np.cos(2 * time), atol=3e-3)
    np.testing.assert_allclose(path.velocity[:, 1, 0], -2 * np.sin(2 * time), atol=6e-3)


def test_hamiltonians_move_as_systems_do():
    """With unequal masses, drag left out, in a box."""
    system = System("spring", SYSTEMS["spring"].pair_potential, drag=1.0, space=Space((3.0, 3.0)))
    free = System("spring", SYSTEMS["spring"].pair_potential, space=Space((3.0, 3.0)))
    nodes = SYSTEMS["spring"].sample(jax.random.key(0), 3, 2)
    time = np.linspace(0.0, 0.5, 6)
    options = dict(solver="symplectic", substeps=20)
    path, ok = jax.jit(
        lambda nodes: roll_out(true_hamiltonian(system), nodes, time, space=system.space, **options)
    )(to_canonical(nodes))
    expected = run(free, nodes, time, **options)
    assert ok
    # The same steps in float32.
    np.testing.assert_allclose(path.position, expected.nodes.position, atol=1e-4)
    np.testing.assert_allclose(path.velocity, to_canonical(expected.nodes).velocity, atol=2e-3)


def test_the_midpoint_rule_keeps_an_energy_that_does_not_part():
    """(q^2 + 1) (p^2 + 1) / 2, of one coordinate, over some 300 periods."""

    def hamiltonian(nodes):
        q, p = nodes.position[0, 0], nodes.velocity[0, 0]
        return 0.5 * (q**2 + 1) * (p**2 + 1)

    nodes = Nodes(jnp.array([[-1.0]]), jnp.array([[0.5]]), {"mass": jnp.ones(1)})
    time = np.linspace(0.0, 1000.0, 10_001)
    path, ok = jax.jit(lambda nodes: roll_out(hamiltonian, nodes, time, substeps=1))(nodes)
    assert ok
    drift = energy_drift(hamiltonian, path, jnp.ones(()))
    # Of second order in steps of 0.1, and no larger late than early.
    assert 1e-5 < jnp.max(drift) < 0.02
    assert jnp.max(drift[5000:]) < 1.1 * jnp.max(drift[:5000])


def test_units_of_a_hamiltonian_change_nothing():
    """The same spring in micrometres and tonnes."""
    length, mass = 1e-6, 1e3
    small = System("small", lambda r, i, j: mass * (r - length) ** 2)
    nodes = SYSTEMS["spring"].sample(jax.random.key(0), 3, 2)
    scaled = Nodes(length * nodes.position, length * nodes.velocity, {"mass": mass * nodes.mass})
    time = np.linspace(0.0, 1.0, 6)
    for solver in ("midpoint",):
        paths = [
            jax.jit(
                lambda nodes, system=system, solver=solver: roll_out(
                    true_hamiltonian(system), nodes, time, solver=solver
                )
            )(to_canonical(start))
            for system, start in ((SPRING, nodes), (small, scaled))
        ]
        (path, ok), (same, same_ok) = paths
        assert ok and same_ok
        # Both to 1e-5 per step, with steps that differ by rounding.
        np.testing.assert_allclose(same.position / length, path.position, atol=2e-3)
        np.testing.assert_allclose(same.velocity / (length * mass), path.velocity, atol=5e-3)


def test_the_energy_of_canonical_bodies():
    nodes = SYSTEMS["spring"].sample(jax.random.key(0), 4, 2)
    canonical = to_canonical(nodes)
    np.testing.assert_allclose(canonical.velocity, nodes.mass[:, None] * nodes.velocity)
    hamiltonian = true_hamiltonian(SYSTEMS["spring"])
    np.testing.assert_allclose(hamiltonian(canonical), energy(SYSTEMS["spring"], nodes), rtol=1e-5)
    slope = jax.grad(hamiltonian)(canonical)
    np.testing.assert_allclose(slope.velocity, nodes.velocity, rtol=1e-5)
    force = nodes.mass[:, None] * rate(SYSTEMS["spring"], nodes)
    np.testing.assert_allclose(-slope.position, force, rtol=1e-4, atol=1e-5)
    massless = nodes._replace(properties={})
    np.testing.assert_array_equal(to_canonical(massless).velocity, nodes.velocity)


def test_systems_without_a_hamiltonian():
    force = dict(pair_force=lambda displacement, i, j: displacement)
    for system in (
        System("first", lambda r, i, j: r, order=1),
        System("force", **force),
        System("first force", order=1, **force),
    ):
        with pytest.raises(ValueError, match=f"'{system.name}' has no Hamiltonian"):
            true_hamiltonian(system)


def test_drift_of_energy():
    path = Nodes(jnp.array([[[1.0]], [[3.0]], [[0.0]]]), jnp.zeros((3, 1, 1)), {})
    drift = energy_drift(lambda nodes: jnp.sum(nodes.position), path, 2.0)
    np.testing.assert_allclose(drift, [0.0, 1.0, 0.5])
