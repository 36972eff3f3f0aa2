"""Hamiltonians as models: mechanics, symmetries, training, recorded energies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy

from symjax_gn.data.datasets import take
from symjax_gn.data.graphs import complete_edges, flatten, stack_graphs
from symjax_gn.data.units import normalise
from symjax_gn.discovery import energies, factoring
from symjax_gn.discovery.recording import record_messages
from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.model import held_out_error, predict
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.layers import Properties
from symjax_gn.physics.systems import SYSTEMS, sample_normal

SENDERS, RECEIVERS = complete_edges(4)
PROPERTIES = Properties(("charge",), ("mass",))


def batch(*bodies):
    """Complete graphs of the given bodies as a flat batch."""
    nodes = jax.tree.map(lambda *x: jnp.stack(x), *bodies)
    return flatten(stack_graphs(nodes, SENDERS, RECEIVERS))


def make(**options):
    model = FlatHGN(outputs=2, width=8, depth=2, properties=PROPERTIES, **options)
    body = sample_normal(jax.random.key(0), 4, 2)
    params = model.init(jax.random.key(1), batch(body))
    return model, params, body


def momentum(body):
    return body._replace(velocity=body.mass[:, None] * body.velocity)


def energy_of(model, params, nodes):
    return model.apply(params, batch(nodes), method="energies")[0][0]


@pytest.mark.parametrize("power_laws", [True, False])
@pytest.mark.parametrize("inputs", ["relative", "absolute"])
def test_hamiltons_equations(inputs, power_laws):
    model, params, body = make(inputs=inputs, power_laws=power_laws)
    prediction = model.apply(params, batch(body))
    canonical = momentum(body)

    def energy(position, momenta):
        nodes = canonical._replace(position=position, velocity=momenta)
        return energy_of(model, params, nodes)

    step = 1e-2
    for node, axis in [(0, 0), (2, 1)]:
        shift = jnp.zeros((4, 2)).at[node, axis].set(step)
        place, momenta = canonical.position, canonical.velocity
        by_place = (energy(place + shift, momenta) - energy(place - shift, momenta)) / (2 * step)
        by_momentum = (energy(place, momenta + shift) - energy(place, momenta - shift)) / (2 * step)
        # Differences of float32 energies over 0.02, with the third derivative's share.
        np.testing.assert_allclose(
            body.mass[node] * prediction.value[node, axis], -by_place, rtol=0.01, atol=1e-3
        )
        np.testing.assert_allclose(
            prediction.velocity[node, axis], by_momentum, rtol=0.01, atol=1e-3
        )


def test_permuted_bodies_give_permuted_accelerations():
    model, params, body = make(dissipative=True)
    before = model.apply(params, batch(body))
    order = np.array([2, 0, 3, 1])
    after = model.apply(params, batch(jax.tree.map(lambda x: x[order], body)))
    # Sums of float32 in another order.
    np.testing.assert_allclose(after.value, before.value[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.velocity, before.velocity[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "invariant"),
    [(dict(), True), (dict(inputs="absolute"), False), (dict(external_field=True), False)],
)
def test_translation_and_momentum(options, invariant):
    model, params, body = make(**options)
    before = model.apply(params, batch(body)).value
    moved = body._replace(position=body.position + 0.5)
    after = model.apply(params, batch(moved)).value
    assert np.allclose(before, after, rtol=1e-4, atol=1e-5) == invariant
    # Who does not know where it is keeps the total momentum: float32 rounding.
    total = jnp.sum(body.mass[:, None] * before, axis=0)
    assert np.allclose(total, 0, atol=1e-5) == invariant


def test_a_hamiltonian_keeps_its_energy_and_rayleighs_function_does_not():
    for dissipative in (False, True):
        model, params, body = make(dissipative=dissipative)
        prediction = model.apply(params, batch(body))
        canonical = momentum(body)
        slope = jax.grad(lambda nodes, m=model, p=params: energy_of(m, p, nodes))(canonical)
        force = body.mass[:, None] * prediction.value
        power = jnp.sum(slope.position * prediction.velocity) + jnp.sum(slope.velocity * force)
        assert (abs(power) < 1e-5) == (not dissipative)


def test_vmap_equals_loop_and_jit_equals_no_jit():
    model, params, _ = make()
    bodies = jax.vmap(lambda key: sample_normal(key, 4, 2))(jax.random.split(jax.random.key(5), 3))

    def one(body):
        return model.apply(params, batch(body)).value

    many = jax.jit(jax.vmap(one))(bodies)
    for k in range(3):
        alone = one(jax.tree.map(lambda x, k=k: x[k], bodies))
        np.testing.assert_allclose(many[k], alone, rtol=1e-4, atol=1e-5)


def test_the_regulariser_is_the_papers():
    model, params, body = make()
    prediction = model.apply(params, batch(body))
    canonical = momentum(body)

    def energy(charge, mass):
        nodes = canonical._replace(properties=dict(charge=charge, mass=mass))
        return energy_of(model, params, nodes)

    value, slopes = jax.value_and_grad(energy, argnums=(0, 1))(body.charge, body.mass)
    expected = value**2 + sum(jnp.sum(slope**2) for slope in slopes)
    np.testing.assert_allclose(prediction.regulariser, expected, rtol=1e-4)


def test_bad_options():
    for activation in (jax.nn.relu, jax.nn.leaky_relu):
        with pytest.raises(ValueError, match="needs a smooth activation"):
            FlatHGN(outputs=2, activation=activation)
    with pytest.raises(ValueError, match="Did you mean 'relative'"):
        FlatHGN(outputs=2, inputs="relativ")


def test_training_lowers_the_error(hamiltonian, spring_parts):
    history = hamiltonian.history
    assert history.validation_error[-1] < 0.8 * history.validation_error[0]
    assert history.loss[-1] < 0.5 * history.loss[0]
    scales = hamiltonian.scales
    assert scales.velocity**2 == pytest.approx(scales.target * scales.length)
    error, size = held_out_error(hamiltonian, spring_parts[2])
    assert error < 0.5 * size


def test_velocities_are_not_asked_for_without_kinetic_energy():
    model, params, body = make(kinetic=False)
    assert model.apply(params, batch(body)).velocity is None


def test_velocities_are_trained_on(hamiltonian, spring_parts):
    """dH/dp comes near to v, though no acceleration asks for it."""
    inside = normalise(take(spring_parts[1], np.arange(20)), hamiltonian.scales)
    model = hamiltonian.model
    fresh = jax.jit(model.init)(jax.random.key(0), flatten(inside.graphs))
    run = jax.jit(lambda params: predict(model, params, inside.graphs).velocity)
    errors = [
        float(jnp.mean(jnp.abs(run(params) - inside.nodes.velocity)))
        for params in (fresh, hamiltonian.params)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_recorded_forces_and_energies_add_up(hamiltonian, spring_parts):
    """On a graph of two bodies there is one pair: its force and the rest are all there is."""
    data = spring_parts[0]
    two = jax.tree.map(lambda x: x[:, :2], data.nodes)
    pair = dataclasses.replace(
        data, graphs=stack_graphs(two, *complete_edges(2)), target=data.target[:, :2]
    )
    recorded = energies.record_energies(
        jax.random.key(3), hamiltonian, pair, num_edges=300, system=SYSTEMS["spring"]
    )
    table, scales = recorded.forces, hamiltonian.scales
    inside = normalise(pair, scales).graphs
    prediction = predict(hamiltonian.model, hamiltonian.params, inside)
    total = np.asarray(prediction.value) * scales.target
    total *= np.asarray(pair.nodes.mass)[:, :, None]
    found = table.force + table.alone
    places = np.asarray(pair.nodes.position).reshape(-1, 2)
    for row in range(20):
        place = np.array([table.features["x_i"][row], table.features["y_i"][row]])
        node = np.argmin(np.linalg.norm(places - place, axis=1))
        # float32 sums of forces that partly cancel.
        np.testing.assert_allclose(found[row], total.reshape(-1, 2)[node], rtol=1e-3, atol=1e-4)
    assert table.messages.shape == (300, 1)
    assert recorded.self_velocity is not None and prediction.velocity is not None
    velocity = np.asarray(prediction.velocity).reshape(-1, 2)[node] * scales.velocity
    np.testing.assert_allclose(recorded.self_velocity[row], velocity, rtol=1e-3, atol=1e-4)
    assert table.true_force is not None and recorded.potential is not None
    r = table.features["r"]
    rise = (r - 0.99) ** 2 - (np.median(r) - 0.99) ** 2
    # float32 trapezoids.
    np.testing.assert_allclose(recorded.potential, rise, atol=1e-3 * np.max(rise))
    # Next to the median distance an energy changes by the force times the way.
    near = np.abs(r / np.median(r) - 1) < 0.05
    units = np.stack([table.features["dx"], table.features["dy"]], axis=1) / r[:, None]
    work = np.sum(table.force * units, axis=1) * (r - np.median(r))
    assert np.sum(near) > 3
    np.testing.assert_allclose(
        recorded.change[near], work[near], atol=0.1 * np.max(np.abs(work[near]))
    )


def test_a_potential_is_the_integral_of_a_force_found_term_by_term(hamiltonian, spring_parts):
    train, validation, _ = spring_parts
    key, engines = jax.random.key(0), [OperonRegressor(evaluations=2000)]
    table = energies.record_energies(key, hamiltonian, train, num_edges=300)
    terms = factoring.find_terms(train, validation)
    laws = factoring.find_laws(terms, train, validation, engines)
    assert laws is not None
    found = factoring.factor(laws)
    assert found.one_body.form == "none"
    whole = energies.refitted_potential(found.refit, table.forces.features)
    assert whole is not None
    potential, r = sympy.expand(whole), sympy.Symbol("r")
    # The law is 2 (r + 0.01 - 1); accelerations are float32.
    assert float(potential.coeff(r, 2)) == pytest.approx(1, abs=1e-5)
    assert float(potential.coeff(r, 1)) == pytest.approx(-1.98, abs=1e-5)


def test_energies_need_a_hamiltonian(trained, hamiltonian, spring_parts):
    with pytest.raises(ValueError, match="use record_energies"):
        record_messages(jax.random.key(0), hamiltonian, spring_parts[0])
    with pytest.raises(ValueError, match='strategy="flathgn"'):
        energies.record_energies(jax.random.key(0), trained, spring_parts[0])
