"""Hamiltonians as models: mechanics, symmetries, training, recorded energies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data.datasets import take
from symjax_gn.data.graphs import complete_edges
from symjax_gn.data.units import normalise
from symjax_gn.discovery import energies
from symjax_gn.discovery.recording import record_messages
from symjax_gn.networks import training
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.physics.systems import SYSTEMS, sample_normal

SENDERS, RECEIVERS = complete_edges(4)


def make(**options):
    model = FlatHGN(dim=2, width=8, depth=2, **options)
    body = sample_normal(jax.random.key(0), 4, 2)
    params = model.init(jax.random.key(1), body, SENDERS, RECEIVERS)
    return model, params, body


def momentum(body):
    return body._replace(velocity=body.mass[:, None] * body.velocity)


@pytest.mark.parametrize("power_laws", [True, False])
@pytest.mark.parametrize("inputs", ["relative", "absolute"])
def test_hamiltons_equations(inputs, power_laws):
    model, params, body = make(inputs=inputs, power_laws=power_laws)
    prediction = model.apply(params, body, SENDERS, RECEIVERS)
    canonical = momentum(body)

    def energy(position, momenta):
        nodes = canonical._replace(position=position, velocity=momenta)
        return model.apply(params, nodes, SENDERS, RECEIVERS, method="energy")[0]

    step = 1e-2
    for node, axis in [(0, 0), (2, 1)]:
        shift = jnp.zeros((4, 2)).at[node, axis].set(step)
        place, momenta = canonical.position, canonical.velocity
        by_place = (energy(place + shift, momenta) - energy(place - shift, momenta)) / (2 * step)
        by_momentum = (energy(place, momenta + shift) - energy(place, momenta - shift)) / (2 * step)
        # Differences of float32 energies over 0.02, with the third derivative's share.
        np.testing.assert_allclose(
            body.mass[node] * prediction.acceleration[node, axis], -by_place, rtol=0.01, atol=1e-3
        )
        np.testing.assert_allclose(
            prediction.velocity[node, axis], by_momentum, rtol=0.01, atol=1e-3
        )


def test_permuted_bodies_give_permuted_accelerations():
    model, params, body = make(dissipative=True)
    before = model.apply(params, body, SENDERS, RECEIVERS)
    order = np.array([2, 0, 3, 1])
    after = model.apply(params, jax.tree.map(lambda x: x[order], body), SENDERS, RECEIVERS)
    # Sums of float32 in another order.
    np.testing.assert_allclose(after.acceleration, before.acceleration[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after.velocity, before.velocity[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "invariant"),
    [(dict(), True), (dict(inputs="absolute"), False), (dict(external_field=True), False)],
)
def test_translation_and_momentum(options, invariant):
    model, params, body = make(**options)
    before = model.apply(params, body, SENDERS, RECEIVERS).acceleration
    moved = body._replace(position=body.position + 0.5)
    after = model.apply(params, moved, SENDERS, RECEIVERS).acceleration
    assert np.allclose(before, after, rtol=1e-4, atol=1e-5) == invariant
    # Who does not know where it is keeps the total momentum: float32 rounding.
    total = jnp.sum(body.mass[:, None] * before, axis=0)
    assert np.allclose(total, 0, atol=1e-5) == invariant


def test_a_hamiltonian_keeps_its_energy_and_rayleighs_function_does_not():
    for dissipative in (False, True):
        model, params, body = make(dissipative=dissipative)
        prediction = model.apply(params, body, SENDERS, RECEIVERS)
        canonical = momentum(body)
        slope = jax.grad(
            lambda nodes, m=model, p=params: m.apply(p, nodes, SENDERS, RECEIVERS, method="energy")[
                0
            ]
        )(canonical)
        force = body.mass[:, None] * prediction.acceleration
        power = jnp.sum(slope.position * prediction.velocity) + jnp.sum(slope.velocity * force)
        assert (abs(power) < 1e-5) == (not dissipative)


def test_vmap_equals_loop_and_jit_equals_no_jit():
    model, params, _ = make()
    bodies = jax.vmap(lambda key: sample_normal(key, 4, 2))(jax.random.split(jax.random.key(5), 3))

    def one(body):
        return model.apply(params, body, SENDERS, RECEIVERS).acceleration

    many = jax.jit(jax.vmap(one))(bodies)
    for k in range(3):
        alone = one(jax.tree.map(lambda x, k=k: x[k], bodies))
        np.testing.assert_allclose(many[k], alone, rtol=1e-4, atol=1e-5)


def test_the_regulariser_is_the_papers():
    model, params, body = make()
    prediction = model.apply(params, body, SENDERS, RECEIVERS)
    canonical = momentum(body)

    def energy(charge, mass):
        nodes = canonical._replace(charge=charge, mass=mass)
        return model.apply(params, nodes, SENDERS, RECEIVERS, method="energy")[0]

    value, slopes = jax.value_and_grad(energy, argnums=(0, 1))(body.charge, body.mass)
    expected = value**2 + sum(jnp.sum(slope**2) for slope in slopes)
    np.testing.assert_allclose(prediction.regulariser, expected, rtol=1e-4)


def test_bad_options():
    for activation in (jax.nn.relu, jax.nn.leaky_relu):
        with pytest.raises(ValueError, match="needs a smooth activation"):
            FlatHGN(dim=2, activation=activation)
    with pytest.raises(ValueError, match="Did you mean 'relative'"):
        FlatHGN(dim=2, inputs="relativ")


def test_training_lowers_the_error(hamiltonian, spring_parts):
    history = hamiltonian.history
    assert history.validation_error[-1] < 0.8 * history.validation_error[0]
    assert history.loss[-1] < 0.5 * history.loss[0]
    scales = hamiltonian.scales
    assert scales.velocity**2 == pytest.approx(scales.acceleration * scales.length)
    error, size = training.held_out_error(hamiltonian, spring_parts[2])
    assert error < 0.5 * size


def test_the_regulariser_is_trained_on(spring_parts):
    model = training.make_model("flathgn", 2, width=8, depth=1, kinetic=False)
    sizes = []
    for weight in (0.0, 1e4):
        result = training.fit(
            jax.random.key(0), *spring_parts[:2], strategy="flathgn", model=model,
            penalty_weight=weight, steps=40, batch_size=8, intervals=2,
        )  # fmt: skip
        data = normalise(take(spring_parts[1], np.arange(20)), result.scales)
        prediction = training.predict(model, result.params, data)
        assert prediction.velocity is None
        sizes.append(float(jnp.mean(prediction.regulariser)))
    assert sizes[1] < 0.7 * sizes[0]


def test_velocities_are_trained_on(spring_parts):
    """dH/dp comes near to v, though no acceleration asks for it."""
    data = take(spring_parts[1], np.arange(20))
    errors = []
    for steps in (1, 200):
        result = training.fit(
            jax.random.key(0), *spring_parts[:2], strategy="flathgn",
            model=training.make_model("flathgn", 2, width=8, depth=1),
            steps=steps, batch_size=8, intervals=1,
        )  # fmt: skip
        inside = normalise(data, result.scales)
        prediction = training.predict(result.model, result.params, inside)
        assert prediction.velocity is not None
        errors.append(float(jnp.mean(jnp.abs(prediction.velocity - inside.nodes.velocity))))
    assert errors[1] < 0.5 * errors[0]


def test_recorded_forces_and_energies_add_up(hamiltonian, spring_parts):
    """On a graph of two bodies there is one pair: its force and the rest are all there is."""
    data = spring_parts[0]
    pair = data._replace(
        nodes=jax.tree.map(lambda x: x[:, :2], data.nodes),
        acceleration=data.acceleration[:, :2],
        senders=np.array([1, 0]),
        receivers=np.array([0, 1]),
    )
    recorded = energies.record_energies(
        jax.random.key(3), hamiltonian, pair, num_edges=300, system=SYSTEMS["spring"]
    )
    table, scales = recorded.forces, hamiltonian.scales
    prediction = training.predict(
        hamiltonian.model, hamiltonian.params, normalise(pair, scales), None
    )
    total = np.asarray(prediction.acceleration) * scales.acceleration
    total *= np.asarray(pair.nodes.mass)[:, :, None]
    found = table.influence + table.one_body_force
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
    assert table.force is not None and recorded.potential is not None
    r = table.features["r"]
    rise = (r - 0.99) ** 2 - (np.median(r) - 0.99) ** 2
    # float32 trapezoids.
    np.testing.assert_allclose(recorded.potential, rise, atol=1e-3 * np.max(rise))
    # Next to the median distance an energy changes by the force times the way.
    near = np.abs(r / np.median(r) - 1) < 0.05
    units = np.stack([table.features["dx"], table.features["dy"]], axis=1) / r[:, None]
    work = np.sum(table.influence * units, axis=1) * (r - np.median(r))
    assert np.sum(near) > 3
    np.testing.assert_allclose(
        recorded.change[near], work[near], atol=0.1 * np.max(np.abs(work[near]))
    )


def test_energies_need_a_hamiltonian(trained, hamiltonian, spring_parts):
    with pytest.raises(ValueError, match="use energies.record_energies"):
        record_messages(jax.random.key(0), hamiltonian, spring_parts[0])
    with pytest.raises(ValueError, match='strategy="flathgn"'):
        energies.record_energies(jax.random.key(0), trained, spring_parts[0])
