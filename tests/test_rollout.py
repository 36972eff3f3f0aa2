"""Hamiltonians in time: analytic motion, energy kept, units, failures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy

from symjax_gn.data.datasets import take
from symjax_gn.data.graphs import complete_edges, edges_of
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.units import normalise
from symjax_gn.discovery.rollouts import (
    SOLVERS,
    compare_rollouts,
    distilled_hamiltonian,
    trained_hamiltonian,
)
from symjax_gn.model import predict
from symjax_gn.physics.dynamics import (
    energy_drift,
    roll_out,
    to_canonical,
    true_hamiltonian,
)
from symjax_gn.physics.systems import System

R, P, MI = sympy.symbols("r p m_i")
HARMONIC = System("harmonic", lambda r, receiver, sender: r**2)
KINETIC = P**2 / (2 * MI)
PAIR = complete_edges(2)


def two_bodies():
    """Unit masses at rest, 2 apart: each swings with frequency 2 about the middle."""
    position = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    return Nodes(position, jnp.zeros((2, 2)), {"mass": jnp.ones(2), "charge": jnp.ones(2)})


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["true", "distilled"])
def test_an_analytic_orbit(solver, kind):
    true = true_hamiltonian(HARMONIC)
    hamiltonian = true if kind == "true" else distilled_hamiltonian(R**2, KINETIC, PAIR)
    time = jnp.linspace(0.0, 10.0, 201)
    path, ok = jax.jit(
        lambda body: roll_out(hamiltonian, body, time, solver=solver, substeps=4, tolerance=1e-6)
    )(two_bodies())
    assert ok
    assert path.position.shape == (201, 2, 2) and path.mass.shape == (201, 2)
    # The midpoint rule's phase is late by (w h)^2 / 12 of 20 radians: 1e-3.
    np.testing.assert_allclose(path.position[:, 1, 0], np.cos(2 * time), atol=3e-3)
    np.testing.assert_allclose(path.velocity[:, 1, 0], -2 * np.sin(2 * time), atol=6e-3)


def test_the_symplectic_step_keeps_an_energy_that_does_not_part():
    """(q^2 + 1) (p^2 + 1) / 2, of one coordinate, over some 300 periods."""

    def hamiltonian(body):
        q, p = body.position[0, 0], body.velocity[0, 0]
        return 0.5 * (q**2 + 1) * (p**2 + 1)

    body = Nodes(jnp.array([[-1.0]]), jnp.array([[0.5]]), {"mass": jnp.ones(1)})
    time = jnp.linspace(0.0, 1000.0, 10_001)
    path, ok = jax.jit(lambda body: roll_out(hamiltonian, body, time))(body)
    assert ok
    drift = energy_drift(hamiltonian, path, jnp.ones(()))
    # Of second order in steps of 0.1, and no larger late than early.
    assert jnp.max(drift) < 0.02
    assert jnp.max(drift[5000:]) < 1.1 * jnp.max(drift[:5000])


def test_vmap_equals_loop():
    hamiltonian = true_hamiltonian(HARMONIC)
    keys = jax.random.split(jax.random.key(0), 3)
    bodies = jax.vmap(lambda key: HARMONIC.sample(key, 3, 2))(keys)
    time = jnp.linspace(0.0, 1.0, 11)
    run = jax.jit(lambda body: roll_out(hamiltonian, body, time))
    many, _ = jax.vmap(run)(bodies)
    for k in range(3):
        one, _ = run(jax.tree.map(lambda x, k=k: x[k], bodies))
        # Batched loops run until the last member converges: float32 rounding.
        np.testing.assert_allclose(many.position[k], one.position, atol=1e-4, rtol=1e-4)


def test_a_trained_hamiltonian_has_the_users_units(hamiltonian, spring_parts):
    model = dataclasses.replace(hamiltonian.model, dissipative=False)
    trained = hamiltonian._replace(model=model)
    data = take(spring_parts[0], np.arange(3))
    edges = edges_of(data.graphs, 0)
    prediction = predict(model, trained.params, normalise(data, trained.scales).graphs)
    assert prediction.velocity is not None
    energy = trained_hamiltonian(trained, edges)
    for k in range(3):
        body = jax.tree.map(lambda x, k=k: jnp.asarray(x[k], jnp.float32), data.nodes)
        slope = jax.grad(energy)(to_canonical(body))
        scales = trained.scales
        # float32 sums; masses span some orders of magnitude.
        options = dict(rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(
            -slope.position / body.mass[:, None] / scales.target,
            prediction.value[k],
            **options,
        )
        np.testing.assert_allclose(
            slope.velocity / scales.velocity, prediction.velocity[k], **options
        )


def test_a_trained_hamiltonian_needs_one(trained, hamiltonian):
    with pytest.raises(ValueError, match="kinetic=True"):
        trained_hamiltonian(trained, PAIR)
    model = dataclasses.replace(hamiltonian.model, kinetic=False)
    with pytest.raises(ValueError, match="kinetic=True"):
        trained_hamiltonian(hamiltonian._replace(model=model), PAIR)


def test_a_potential_of_something_else():
    with pytest.raises(ValueError, match="dx"):
        distilled_hamiltonian(R + sympy.Symbol("dx"), KINETIC, PAIR)
    with pytest.raises(ValueError, match="A potential cannot depend on p"):
        distilled_hamiltonian(R * P, KINETIC, PAIR)
    with pytest.raises(ValueError, match="A kinetic energy cannot depend on m_j"):
        distilled_hamiltonian(R, KINETIC * sympy.Symbol("m_j"), PAIR)


def test_one_way_edges_are_no_pair():
    with pytest.raises(ValueError, match="both directions"):
        distilled_hamiltonian(R, KINETIC, (np.array([0]), np.array([1])))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(time=np.array([0.0])), "two or more times"),
        (dict(time=np.array([0.0, 1.0, 3.0])), "equally spaced"),
        (dict(time=np.zeros(3)), "rising"),
        (dict(substeps=0), "substeps must be a whole number of at least 1"),
        (dict(true="tru"), "Did you mean 'true'"),
        (
            dict(bodies=two_bodies()._replace(properties={"mass": np.array([1.0, 0.0])})),
            "must be positive",
        ),
    ],
)
def test_bad_comparisons(changed, message):
    options = dict(bodies=two_bodies(), time=np.linspace(0.0, 1.0, 3)) | changed
    with pytest.raises(ValueError, match=message):
        compare_rollouts({"true": true_hamiltonian(HARMONIC)}, **options)


def test_comparison_of_paths():
    bodies = jax.tree.map(lambda x: np.stack([x, 1.1 * x]), two_bodies())
    bodies = bodies._replace(velocity=bodies.velocity + 0.1, properties={"mass": np.ones((2, 2))})
    hamiltonians = {
        "true": true_hamiltonian(HARMONIC),
        "half": distilled_hamiltonian(R**2 / 2, KINETIC, PAIR),
        "broken": distilled_hamiltonian(sympy.log(R - 10), KINETIC, PAIR),
    }
    time = np.linspace(0, 3, 61)
    rows = compare_rollouts(hamiltonians, bodies, time, true="true", substeps=2)
    assert [(row["solver"], row["hamiltonian"]) for row in rows] == [
        (solver, name) for solver in SOLVERS for name in hamiltonians
    ]
    for row in rows:
        assert row["paths"] == 2
        if row["hamiltonian"] == "broken":
            assert row["failed"] == 2 and row["own_drift"] == np.inf
            continue
        assert row["failed"] == 0
        # Kinetic energy is small at the start, 0.02 against potential energies of 4.
        assert row["own_drift"] < 1.0
        right = row["hamiltonian"] == "true"
        assert (row["true_drift"] < 1.0) == right
    alone = compare_rollouts({"true": hamiltonians["true"]}, bodies, time, substeps=2)
    assert all(row["true_drift"] is None for row in alone)


def test_bodies_that_start_at_rest():
    """Their energies are measured by what they gain; nothing is said to have failed."""
    bodies = jax.tree.map(lambda x: np.asarray(x)[None], two_bodies())
    hamiltonians = {"true": true_hamiltonian(HARMONIC)}
    for row in compare_rollouts(hamiltonians, bodies, np.linspace(0, 3, 61), true="true"):
        assert row["failed"] == 0
        # The energy is 4 and all of it becomes kinetic; both solvers keep it to 1%.
        assert row["own_drift"] == row["true_drift"] < 0.01
    with pytest.raises(ValueError, match="Did you mean 'true'"):
        compare_rollouts(hamiltonians, bodies, np.linspace(0, 3, 61), true="tru")
