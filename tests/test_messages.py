import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data import features
from symjax_gn.data.datasets import take
from symjax_gn.data.units import normalise
from symjax_gn.discovery import energies, recording
from symjax_gn.discovery.gauge import FACTORS, fit_gauge, message_r2, r_squared
from symjax_gn.discovery.recording import MessageTable, record_messages
from symjax_gn.networks.layers import Prediction
from symjax_gn.networks.training import predict
from symjax_gn.physics.systems import SYSTEMS

RNG = np.random.default_rng(0)
FORCE = RNG.standard_t(3, (2000, 2))
MASS = np.exp(RNG.normal(size=2000))
CHARGE = np.sign(RNG.normal(size=2000))
MATRIX = np.array([[0.5, -0.8], [1.2, 0.3]])

SCALES = {
    "1": np.ones(2000),
    "1/m_i": 1 / MASS,
    "fitted": MASS**0.4 * np.exp(0.7 * CHARGE),
}


def table(values):
    features = {"m_i": MASS, "q_i": CHARGE}
    scales = dict.fromkeys(features, 1.0)
    return MessageTable(
        features=features, scales=scales, messages=values, components=np.arange(2),
        influence=FORCE, one_body_force=0 * FORCE, message_scale=np.ones(2000),
        offset=0 * FORCE, force=FORCE,
    )  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
def test_a_planted_gauge_is_found(name):
    values = SCALES[name][:, None] * (FORCE @ MATRIX.T) + [0.3, -2.0]
    noisy = values + 1e-3 * RNG.normal(size=values.shape)
    result = message_r2(table(noisy))
    assert result["gauge_name"] == name
    assert result["gauge"] > 0.9999
    assert result["influence"] == pytest.approx(1.0)
    if name != "1":
        assert result["force"] < 0.95
    gauge = fit_gauge(noisy, FORCE, MASS, CHARGE, name=name)
    np.testing.assert_allclose(sum(gauge.predict(FORCE, MASS, CHARGE)), values, atol=0.05)
    if name != "fitted":
        np.testing.assert_allclose(gauge.matrix, MATRIX, atol=1e-2)


@pytest.mark.parametrize(("kilogram", "coulomb"), [(1.0, 1.0), (2e30, 1.6e-19)])
def test_the_heaviest_bodies_may_be_out_of_line(kilogram, coulomb):
    """A receiver function that bends, in any units."""
    log_mass = np.log(MASS)
    factor = np.exp(0.3 * log_mass + 0.1 * log_mass**3 + 0.2 * CHARGE * log_mass)
    values = factor[:, None] * (FORCE @ MATRIX.T) + CHARGE[:, None]
    mass, charge = kilogram * MASS, coulomb * CHARGE
    gauge = fit_gauge(values, FORCE, mass, charge, name="fitted", constant_offset=False)
    guess = sum(gauge.predict(FORCE, mass, charge))
    # With powers up to the second it is 0.97.
    assert r_squared(values, guess) > 0.9999


def test_an_offset_that_depends_on_the_receiver():
    values = FORCE @ MATRIX.T + np.log(MASS)[:, None] * [1.0, -1.0]
    options = dict(name="1", constant_offset=False)
    gauge = fit_gauge(values, FORCE, MASS, CHARGE, **options)
    np.testing.assert_allclose(sum(gauge.predict(FORCE, MASS, CHARGE)), values, atol=1e-8)


def test_trimming_drops_the_worst_tenth():
    values = FORCE @ MATRIX.T
    values[:150] += 50 * RNG.normal(size=(150, 2))
    result = message_r2(table(values))
    assert result["force"] < 0.5
    assert result["force_trimmed"] > 0.99


def test_recorded_messages_are_the_networks(trained, spring_parts):
    data = spring_parts[0]
    key = jax.random.key(4)
    recorded = record_messages(key, trained, data, num_edges=50, system=SYSTEMS["spring"])
    graph, edge = (np.asarray(x) for x in features.sample_pairs(key, data, 50))
    prediction = predict(trained.model, trained.params, normalise(data, trained.scales))
    expected = np.asarray(prediction.messages)[graph, edge][:, recorded.components]
    # The same network on batches of another shape.
    np.testing.assert_allclose(recorded.messages, expected, rtol=1e-3, atol=1e-4)
    spread = np.std(np.asarray(prediction.messages), axis=(0, 1))
    assert recorded.components[0] == np.argmax(spread)
    i, j = data.receivers[edge], data.senders[edge]
    position = data.nodes.position
    np.testing.assert_allclose(
        recorded.features["dx"], (position[graph, j] - position[graph, i])[:, 0], rtol=1e-5
    )
    np.testing.assert_allclose(recorded.features["m_j"], data.nodes.mass[graph, j])
    r = recorded.features["r"]
    size = np.linalg.norm(recorded.force, axis=1)
    np.testing.assert_allclose(size, 2 * np.abs(r + 0.01 - 1), rtol=1e-4, atol=1e-4)


def with_coincident_pair(data):
    """The data with two bodies of the first graph in one place, for just the first 20 graphs."""
    few = take(data, slice(0, 20))
    position = np.array(few.nodes.position)
    position[0, few.senders[0]] = position[0, few.receivers[0]]
    return few._replace(nodes=few.nodes._replace(position=position))


def test_coincident_pairs_are_not_sampled(trained, hamiltonian, spring_parts):
    data = with_coincident_pair(spring_parts[0])
    pairs = {tuple(x) for x in np.stack(features.sample_pairs(jax.random.key(0), data, 4000), 1)}
    every = len(data.acceleration) * len(data.senders)
    # The first edge of the first graph, and the same the other way round.
    assert len(pairs) == every - 2
    assert (0, 0) not in pairs
    recorded = record_messages(jax.random.key(0), trained, data)
    assert 3900 < len(recorded.influence) < 4000
    table = energies.record_energies(jax.random.key(0), hamiltonian, data)
    for column in (*recorded.features.values(), recorded.influence, table.change):
        assert np.all(np.isfinite(column))
    assert np.all(recorded.features["r"] > 0)
    together = data._replace(nodes=data.nodes._replace(position=np.zeros_like(data.nodes.position)))
    with pytest.raises(ValueError, match="All pairs coincide"):
        features.sample_pairs(jax.random.key(0), together, 5)


def test_influence_is_the_change_of_force_when_a_message_changes(trained, spring_parts):
    data = spring_parts[0]
    key = jax.random.key(4)
    recorded = record_messages(key, trained, data, num_edges=5)
    graph, edge = (np.asarray(x) for x in features.sample_pairs(key, data, 5))
    inside = take(normalise(data, trained.scales), graph)
    for k in range(5):
        nodes = jax.tree.map(lambda x, k=k: x[k], inside.nodes)
        prediction = trained.model.apply(trained.params, nodes, data.senders, data.receivers)
        node = data.receivers[edge[k]]
        total = prediction.messages[data.receivers == node].sum(axis=0)
        body = jax.tree.map(lambda x, n=node: x[n], nodes)
        small = 1e-2 * prediction.messages[edge[k]]
        ends = [
            trained.model.apply(trained.params, body, total + sign * small, method="update")
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-2 * body.mass
        expected = slope * trained.scales.mass * trained.scales.acceleration
        # The message stands for the force and the offset; central differences in float32.
        found = recorded.influence[k] + recorded.offset[k]
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


class Planted:
    """A network that is Newton's law but for an offset of messages that it takes off again."""

    dim = 2

    def apply(self, params, *args, method=None):
        if method is None:
            return Prediction(jnp.ones((4, 2)), jnp.ones((12, 2)), None)
        if method == "message":
            receiver, sender = args
            force = receiver.mass[:, None] * (sender.position - receiver.position)
            return force + self.offset(receiver), None
        body, aggregate = args
        return (aggregate - 3 * self.offset(body)) / body.mass + jnp.array([0.0, -2.0])

    def offset(self, body):
        return 5.0 * body.velocity + body.mass[..., None]


def test_the_offset_of_messages_is_found_by_parity(spring_parts, trained):
    data = spring_parts[0]
    scales = trained.scales._replace(length=1.0, velocity=1.0, mass=1.0, acceleration=1.0)
    planted = trained._replace(model=Planted(), mask=jnp.ones(2), scales=scales)
    table = record_messages(jax.random.key(0), planted, data, num_edges=50)
    displacement = np.stack([table.features["dx"], table.features["dy"]], axis=1)
    mass = table.features["m_i"][:, None]
    velocity = np.stack([table.features["vx_i"], table.features["vy_i"]], axis=1)
    # float32 throughout; offsets are of order ten.
    np.testing.assert_allclose(table.influence, mass * displacement, atol=1e-3)
    np.testing.assert_allclose(table.offset, 5 * velocity + mass, atol=1e-3)
    np.testing.assert_allclose(table.one_body_force, mass * [0.0, -2.0], atol=2e-3)
    np.testing.assert_allclose(table.message_scale, 1.0, rtol=1e-3)


def test_components_are_counted_without_the_dimension(trained):
    # The bottleneck was told; what is masked does not count.
    assert recording.count_components(trained, np.array([1.0, 0.01])) == 2
    pruned = trained._replace(mask=np.array([1.0, 0.0]))
    assert recording.count_components(pruned, np.array([1.0, 0.0])) == 1
    other = trained._replace(strategy="l1", mask=np.ones(4))
    for significance, count in [([5.0, 0.01, 3.0, 0.02], 2), ([5.0, 4.0, 3.0, 2.5], 4)]:
        assert recording.count_components(other, np.array(significance)) == count


class Scaled:
    """The first two components are forces in units 100 apart, the third says nothing.

    The first has an offset that the node function takes off again.
    """

    units = jnp.array([1.0, 100.0])

    def apply(self, params, nodes, *args, method=None):
        if method == "update":
            (aggregate,) = args
            return (aggregate[:2] - 3 * self.offset(nodes)) / self.units / nodes.mass
        if method == "message":
            (sender,) = args
            displacement = sender.position - nodes.position
            offset = jax.vmap(self.offset)(nodes)
            both = displacement * self.units + offset
            return jnp.concatenate([both, 1e3 * displacement[:, :1]], axis=1), None
        return Prediction(jnp.zeros_like(nodes.position), None, None)

    def offset(self, body):
        return jnp.stack([100 * body.mass, 0 * body.mass])


def test_what_counts_is_what_accelerations_make_of_a_component(trained, spring_parts):
    data = normalise(spring_parts[0], trained.scales)
    planted = trained._replace(model=Scaled(), mask=jnp.ones(3), strategy="l1")
    found = recording.component_significance(planted, data)
    # Both axes are alike, but for what a small sample makes of them.
    assert found[1] == pytest.approx(found[0], rel=0.3)
    assert found[2] == 0.0
    # One close encounter among many is one among many.
    position = np.array(data.nodes.position)
    position[0, 0] += 1e6
    far = data._replace(nodes=data.nodes._replace(position=position))
    for significance in (found, recording.component_significance(planted, far)):
        assert recording.count_components(planted, significance) == 2
        assert sorted(np.argsort(-significance)[:2]) == [0, 1]
    masked = planted._replace(mask=jnp.array([1.0, 0.0, 1.0]))
    assert recording.component_significance(masked, data)[1] == 0.0


def test_messages_without_anything_to_say():
    names = np.arange(2)
    with pytest.raises(ValueError, match="component 1 is constant"):
        recording.check_messages(np.stack([MASS, np.ones(2000)], axis=1), names)
    with pytest.raises(ValueError, match="component 0 has NaN"):
        recording.check_messages(np.stack([MASS * np.nan, MASS], axis=1), names)
    with pytest.raises(ValueError, match="no messages"):
        recording.check_messages(np.zeros((0, 2)), names)


def test_more_components_than_are_in_use(trained, spring_parts):
    with pytest.raises(ValueError, match="num_edges must be at least 1"):
        record_messages(jax.random.key(0), trained, spring_parts[0], num_edges=0)
    with pytest.raises(ValueError, match="from 1 to the 2 message components in use, got 3"):
        record_messages(jax.random.key(0), trained, spring_parts[0], num_components=3)


def test_r2_needs_a_known_law():
    with pytest.raises(ValueError, match="law is known"):
        message_r2(table(FORCE)._replace(force=None))
