import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy

from symjax_gn.data.building import make_dataset
from symjax_gn.data.datasets import take
from symjax_gn.data.graphs import chain_edges, stack_graphs
from symjax_gn.data.quantities import ACCELERATION
from symjax_gn.data.sampling import sample_pairs
from symjax_gn.data.units import normalise
from symjax_gn.discovery import certificate, energies, recording
from symjax_gn.discovery.agreement import messages_apart
from symjax_gn.discovery.gauge import FACTORS, fit_gauge, message_r2, r_squared
from symjax_gn.discovery.recording import MessageTable, record_messages
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import predict
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.physics.simulation import simulate
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
        force=FORCE, alone=0 * FORCE, message_scale=np.ones(2000),
        offset=0 * FORCE, true_force=FORCE, quantity=ACCELERATION,
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


def test_r_squared_is_the_share_of_the_variance_that_is_explained():
    """Whatever the mean: far from zero the sum of squares is nearly all mean."""
    values = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]) + 1000.0
    assert r_squared(values, values) == 1.0
    assert r_squared(values, np.broadcast_to(np.mean(values, axis=0), (3, 2))) == 0.0
    # Of variances of 2 and 200, 1 and 0 are left.
    guess = values + np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert r_squared(values, guess) == pytest.approx(0.75)


def test_an_offset_that_depends_on_the_receiver():
    values = FORCE @ MATRIX.T + np.log(MASS)[:, None] * [1.0, -1.0]
    options = dict(name="1", constant_offset=False)
    gauge = fit_gauge(values, FORCE, MASS, CHARGE, **options)
    np.testing.assert_allclose(sum(gauge.predict(FORCE, MASS, CHARGE)), values, atol=1e-8)


def test_trimming_drops_the_worst_tenth():
    values = FORCE @ MATRIX.T
    values[:150] += 50 * RNG.normal(size=(150, 2))
    result = message_r2(table(values)._replace(force=0.5 * FORCE))
    assert result["force"] < 0.5
    assert result["force_trimmed"] > 0.99
    # Recorded forces are half of the true ones, whose mean is next to nothing.
    assert result["influence"] == pytest.approx(0.75, rel=1e-2)


def sampled_edges(recorded, dataset):
    """The graph and the edge of everything that was recorded."""
    graphs, stars = dataset.graphs, recorded.stars
    place = np.asarray(dataset.nodes.position)[stars.graph]
    gap = np.abs(place - np.asarray(recorded.sender.position)[:, None]).sum(axis=-1)
    sender = np.argmin(gap, axis=1)
    assert np.all(gap[np.arange(len(gap)), sender] == 0)
    ends = (graphs.receivers[None] == stars.node[:, None]) & (
        graphs.senders[None] == sender[:, None]
    )
    assert np.all(np.sum(ends, axis=1) == 1)
    return stars.graph, np.argmax(ends, axis=1)


def test_recorded_messages_are_the_networks(trained, spring_parts):
    data = spring_parts[0]
    key = jax.random.key(4)
    table = record_messages(key, trained, data, num_edges=50, system=SYSTEMS["spring"])
    recorded = recording.record(key, trained, data, 50)
    graph, edge = sampled_edges(recorded, data)
    # Any receiver, and any sender to it.
    assert len(set(edge)) == data.graphs.senders.shape[-1] and len(set(graph)) > 40
    prediction = predict(trained.model, trained.params, normalise(data, trained.scales).graphs)
    expected = np.asarray(prediction.messages)[graph, edge][:, table.components]
    # The same network on batches of another shape.
    np.testing.assert_allclose(table.messages, expected, rtol=1e-3, atol=1e-4)
    assert table.components[0] == np.argmax(recorded.significance)
    i, j = data.graphs.receivers[edge], data.graphs.senders[edge]
    position = data.nodes.position
    np.testing.assert_allclose(
        table.features["dx"], (position[graph, j] - position[graph, i])[:, 0], rtol=1e-5
    )
    np.testing.assert_allclose(table.features["m_j"], data.nodes.mass[graph, j])
    r = table.features["r"]
    size = np.linalg.norm(table.true_force, axis=1)
    np.testing.assert_allclose(size, 2 * np.abs(r + 0.01 - 1), rtol=1e-4, atol=1e-4)
    # Towards the sender where the pair is far apart.
    along = table.true_force[:, 0] * table.features["dx"]
    along += table.true_force[:, 1] * table.features["dy"]
    assert np.all(along[r > 1] > 0) and np.any(r > 1)
    assert table.quantity == data.quantity == ACCELERATION


def with_nodes(data, **fields):
    """The data with other nodes."""
    nodes = data.nodes._replace(**fields)
    return dataclasses.replace(data, graphs=data.graphs._replace(nodes=nodes))


def with_coincident_pair(data):
    """The data with two bodies of the first graph in one place, for just the first 20 graphs."""
    few = take(data, slice(0, 20))
    position = np.array(few.nodes.position)
    position[0, few.graphs.senders[0]] = position[0, few.graphs.receivers[0]]
    return with_nodes(few, position=position)


def test_coincident_pairs_are_not_sampled(trained, hamiltonian, spring_parts):
    data = with_coincident_pair(spring_parts[0])
    pairs = {tuple(x) for x in np.stack(sample_pairs(jax.random.key(0), data, 4000)[2:], 1)}
    every = len(data) * len(data.graphs.senders)
    # The first edge of the first graph, and the same the other way round.
    assert len(pairs) == every - 2
    assert (0, 0) not in pairs
    recorded = record_messages(jax.random.key(0), trained, data)
    assert 3900 < len(recorded.force) < 4000
    table = energies.record_energies(jax.random.key(0), hamiltonian, data)
    for column in (*recorded.features.values(), recorded.force, table.change):
        assert np.all(np.isfinite(column))
    assert np.all(recorded.features["r"] > 0)
    together = with_nodes(data, position=np.zeros_like(data.nodes.position))
    for sample in (
        lambda: sample_pairs(jax.random.key(0), together, 5),
        lambda: record_messages(jax.random.key(0), trained, together, num_edges=5),
    ):
        with pytest.raises(ValueError, match="All pairs coincide"):
            sample()


def test_forces_are_the_change_of_force_when_a_message_changes(trained, spring_parts):
    data = spring_parts[0]
    key = jax.random.key(4)
    table = record_messages(key, trained, data, num_edges=5)
    graph, edge = sampled_edges(recording.record(key, trained, data, 5), data)
    inside = normalise(take(data, graph), trained.scales)
    prediction = predict(trained.model, trained.params, inside.graphs)
    scales = trained.scales
    receivers = data.graphs.receivers
    for k in range(5):
        node = receivers[edge[k]]
        total = prediction.messages[k][receivers == node].sum(axis=0)
        body = jax.tree.map(lambda x, k=k, n=node: x[k, n], inside.nodes)
        small = 1e-2 * prediction.messages[k, edge[k]]
        ends = [
            trained.model.apply(trained.params, body, total + sign * small, method="update")
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-2 * body.mass
        expected = slope * scales.properties["mass"] * scales.target
        # The message stands for the force and the offset; central differences in float32.
        found = table.force[k] + table.offset[k]
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


def test_forces_sum_up_to_mass_times_acceleration(trained, spring_parts):
    """On graphs of two bodies, each with one sender."""
    data = spring_parts[0]
    nodes = jax.tree.map(lambda x: x[:, :2], data.nodes)
    graphs = stack_graphs(nodes, *chain_edges(2))
    pairs = dataclasses.replace(data, graphs=graphs, target=data.target[:, :2])
    key = jax.random.key(0)
    table = record_messages(key, trained, pairs, num_edges=40)
    stars = recording.record(key, trained, pairs, 40).stars
    expected = trained.predict(graphs)[stars.graph, stars.node] * table.features["m_i"][:, None]
    np.testing.assert_allclose(table.force + table.alone, expected, rtol=1e-3, atol=1e-3)


class Planted(GraphNet):
    """A network that is Newton's law but for an offset of messages that it takes off again."""

    def setup(self):
        pass

    def message(self, receiver, sender):
        force = receiver.mass[..., None] * (sender.position - receiver.position)
        return force + self.offset(receiver), None

    def update(self, owner, aggregate):
        return (aggregate - 3 * self.offset(owner)) / owner.mass[..., None] + jnp.array([0.0, -2.0])

    def offset(self, body):
        return 5.0 * body.velocity + body.mass[..., None]


def planted_network(trained):
    """The planted network, in the user's units."""
    ones = dict.fromkeys(trained.scales.properties, 1.0)
    scales = trained.scales._replace(length=1.0, velocity=1.0, target=1.0, properties=ones)
    model = Planted(outputs=2, message_dim=2, weight="mass")
    return trained._replace(model=model, mask=jnp.ones(2), scales=scales)


def columns_of(table):
    """Displacements, velocities and masses."""
    columns = table.features
    displacement = np.stack([columns["dx"], columns["dy"]], axis=1)
    velocity = np.stack([columns["vx_i"], columns["vy_i"]], axis=1)
    return displacement, velocity, columns["m_i"][:, None]


def test_the_offset_of_messages_is_found_by_parity(spring_parts, trained):
    planted = planted_network(trained)
    table = record_messages(jax.random.key(0), planted, spring_parts[0], num_edges=50)
    displacement, velocity, mass = columns_of(table)
    # float32 throughout; offsets are of order ten.
    np.testing.assert_allclose(table.force, mass * displacement, atol=1e-3)
    np.testing.assert_allclose(table.offset, 5 * velocity + mass, atol=1e-3)
    np.testing.assert_allclose(table.alone, mass * [0.0, -2.0], atol=2e-3)
    np.testing.assert_allclose(table.message_scale, 1.0, rtol=1e-3)


def test_forces_have_the_users_units(spring_parts, trained):
    """Masses in 3, lengths in 2 and accelerations in 5 of the user's units."""
    planted = planted_network(trained)
    scales = planted.scales._replace(
        length=2.0, target=5.0, properties=planted.scales.properties | {"mass": 3.0}
    )
    planted = planted._replace(scales=scales)
    table = record_messages(jax.random.key(0), planted, spring_parts[0], num_edges=50)
    displacement, _, mass = columns_of(table)
    np.testing.assert_allclose(table.force, mass / 3 * displacement / 2 * 15, atol=5e-3)
    np.testing.assert_allclose(table.alone, mass / 3 * [0.0, -2.0] * 15, atol=1e-2)


def test_components_that_are_left_out_count_as_there_without_messages(spring_parts, trained):
    planted = planted_network(trained)
    key = jax.random.key(0)
    table = record_messages(key, planted, spring_parts[0], num_edges=50, num_components=1)
    kept = int(table.components[0])
    displacement, _, mass = columns_of(table)
    expected = np.zeros_like(displacement)
    expected[:, kept] = (mass * displacement)[:, kept]
    np.testing.assert_allclose(table.force, expected, atol=1e-3)
    # All that is sent along the other axis, by all three senders.
    stars = recording.record(key, planted, spring_parts[0], 50).stars
    place = np.asarray(stars.senders.position) - np.asarray(stars.receiver.position)[:, None]
    alone = mass * np.array([0.0, -2.0])
    alone[:, 1 - kept] += (mass * np.sum(place, axis=1))[:, 1 - kept]
    np.testing.assert_allclose(table.alone, alone, atol=5e-3)


class PerMass(Planted):
    """Messages are accelerations, so that a receiver's are 1 / m_i of its forces."""

    def message(self, receiver, sender):
        return sender.position - receiver.position, None

    def update(self, owner, aggregate):
        return aggregate


def test_the_size_of_messages_per_unit_of_force(spring_parts, trained):
    planted = planted_network(trained)
    planted = planted._replace(model=PerMass(outputs=2, message_dim=2, weight="mass"))
    table = record_messages(jax.random.key(0), planted, spring_parts[0], num_edges=50)
    displacement, _, mass = columns_of(table)
    np.testing.assert_allclose(table.force, mass * displacement, atol=1e-3)
    expected = 1 / mass[:, 0]
    expected /= np.median(expected)
    np.testing.assert_allclose(table.message_scale, expected, rtol=1e-3)


class Springs(Planted):
    """Any number of senders, without offset."""

    def update(self, owner, aggregate):
        return aggregate / owner.mass

    def offset(self, body):
        return 0.0


def test_receivers_with_few_senders(spring_parts, trained):
    """The ends of a chain have one neighbour, all others two."""
    data = spring_parts[0]
    data = dataclasses.replace(data, graphs=stack_graphs(data.nodes, *chain_edges(4)))
    planted = planted_network(trained)
    planted = planted._replace(model=Springs(outputs=2, message_dim=2, weight="mass"))
    recorded = recording.record(jax.random.key(0), planted, data, 100)
    stars = recorded.stars
    ends = np.isin(stars.node, [0, 3])
    np.testing.assert_array_equal(np.sum(stars.present, axis=1), np.where(ends, 1, 2))
    graph, _ = sampled_edges(recorded, data)
    position = np.asarray(data.nodes.position)
    total = np.zeros((len(graph), 2))
    for k in range(len(graph)):
        here = position[graph[k]]
        for neighbour in (stars.node[k] - 1, stars.node[k] + 1):
            if 0 <= neighbour < 4:
                total[k] += here[neighbour] - here[stars.node[k]]
    mass = np.asarray(recorded.receiver.mass)[:, None]
    np.testing.assert_allclose(recorded.total, mass * total, atol=1e-3)
    np.testing.assert_allclose(recorded.found.value, total, atol=1e-3)


class Scaled(GraphNet):
    """The first two components are forces in units 100 apart, the third says nothing.

    The first has an offset that the node function takes off again.
    """

    def setup(self):
        pass

    def message(self, receiver, sender):
        displacement = sender.position - receiver.position
        both = displacement * self.units() + self.offset(receiver)
        return jnp.concatenate([both, 1e3 * displacement[..., :1]], axis=-1), None

    def update(self, owner, aggregate):
        return (aggregate[..., :2] - 3 * self.offset(owner)) / self.units() / owner.mass

    def units(self):
        return jnp.array([1.0, 100.0])

    def offset(self, body):
        return jnp.stack([100 * body.mass, 0 * body.mass], axis=-1)


class Leftover(GraphNet):
    """Two components are the force, the third is a share of it; a fourth says nothing."""

    share: float = 0.0

    def setup(self):
        pass

    def message(self, receiver, sender):
        displacement = sender.position - receiver.position
        return jnp.concatenate([displacement, displacement[..., ::-1]], axis=-1), None

    def update(self, owner, aggregate):
        first = aggregate[..., 2:3] * jnp.array([self.share, 0.0])
        return (aggregate[..., :2] + first) / owner.mass[..., None]


def test_what_counts_is_what_accelerations_make_of_a_component(trained, spring_parts):
    data = spring_parts[0]
    model = Scaled(outputs=2, message_dim=3, weight="mass")
    planted = trained._replace(model=model, mask=jnp.ones(3), strategy="l1")

    def significance(trained, data):
        return recording.record(jax.random.key(0), trained, data, 500).significance

    found = significance(planted, data)
    # Both axes are alike, but for what a small sample makes of them.
    assert found[1] == pytest.approx(found[0], rel=0.3)
    assert found[2] == 0.0
    # One close encounter among many is one among many.
    position = np.array(data.nodes.position)
    position[0, 0] += 1e6
    far = significance(planted, with_nodes(data, position=position))
    assert sorted(np.argsort(-far)[:2]) == [0, 1]
    masked = planted._replace(mask=jnp.array([1.0, 0.0, 1.0]))
    assert significance(masked, data)[1] == 0.0


# The error of a network that knows all, as a share of the size of its predictions.
NOISE = 0.01


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 2), (0.02 * NOISE, 2), (10 * NOISE, 3), (1.0, 3)]
)
@pytest.mark.parametrize("level", ["node", "some nodes"])
def test_components_count_without_which_the_error_rises(trained, spring_parts, share, count, level):
    data = spring_parts[0]
    model = Leftover(outputs=2, message_dim=4, weight="mass", share=share)
    planted = trained._replace(model=model, mask=jnp.array([1.0, 1.0, 1.0, 0.0]), strategy="l1")
    value = planted.predict(data.graphs)
    noise = NOISE * np.std(value) * np.random.default_rng(0).normal(size=value.shape)
    mask = None
    if level == "some nodes":
        # What is not known says nothing.
        mask = np.random.default_rng(1).random(value.shape[:2]) < 0.5
        noise += 1e3 * ~mask[..., None]
    data = dataclasses.replace(data, target=value + noise, mask=mask)
    recorded = recording.record(jax.random.key(0), planted, data, 500)
    assert recording.count_components(planted, recorded, data) == count
    # The bottleneck was told.
    told = planted._replace(strategy="bottleneck")
    assert recording.count_components(told, recorded, data) == 3


def test_messages_without_anything_to_say():
    names = np.arange(2)
    with pytest.raises(ValueError, match="component 1 is constant"):
        recording.check_messages(np.stack([MASS, np.ones(2000)], axis=1), names)
    with pytest.raises(ValueError, match="component 0 has NaN"):
        recording.check_messages(np.stack([MASS * np.nan, MASS], axis=1), names)
    with pytest.raises(ValueError, match="no messages"):
        recording.check_messages(np.zeros((0, 2)), names)


def test_more_components_than_are_in_use(trained, spring_parts):
    with pytest.raises(ValueError, match="num_edges must be a whole number of at least 1, got 0"):
        record_messages(jax.random.key(0), trained, spring_parts[0], num_edges=0)
    with pytest.raises(ValueError, match="from 1 to the 2 message components in use, got 3"):
        record_messages(jax.random.key(0), trained, spring_parts[0], num_components=3)


def test_r2_needs_a_known_law():
    with pytest.raises(ValueError, match="law is known"):
        message_r2(table(FORCE)._replace(true_force=None))


def force_law(factor, beside=0):
    """The planted law, its forces times a factor."""
    sums = [sympy.Symbol(f"e_{k}") for k in range(2)]
    inertia = sympy.Symbol("m_i")
    return SymbolicModel(
        [factor * inertia * sympy.Symbol(way) for way in ("dx", "dy")],
        [(1 + beside * sums[0]) * one / inertia - 2 * k for k, one in enumerate(sums)],
    )


def test_messages_are_compared_with_a_law(spring_parts, trained):
    """Whatever a network adds to all messages of a receiver."""
    planted, key = planted_network(trained), jax.random.key(0)
    same, off = (
        messages_apart(key, force_law(factor), planted, spring_parts[2]) for factor in (1, 1.1)
    )
    assert same < 1e-4  # float32, beside offsets of order ten
    # An error of 10% of the force over 1.1 times that and a tenth of the typical one.
    assert off == pytest.approx(0.1 / 1.1 / 1.1, rel=0.1)


def test_messages_that_say_nothing_of_a_law(spring_parts, trained, hamiltonian):
    key, test = jax.random.key(0), spring_parts[2]
    assert "sum of forces" in str(messages_apart(key, force_law(1, 1), trained, test))
    assert "energies are not" in str(messages_apart(key, force_law(1), hamiltonian, test))
    two = simulate(
        key, SYSTEMS["spring"], num_nodes=2, num_simulations=10, num_outputs=5, solver="midpoint"
    )
    few = make_dataset(two)
    assert "several others" in str(messages_apart(key, force_law(1), planted_network(trained), few))


def test_a_law_that_messages_contradict_is_doubted(spring_parts, trained, monkeypatch):
    """By pairs it is another one, though the network errs little."""
    test = spring_parts[2]
    law = force_law(1)
    target = law.predict(test.graphs).astype(np.float32)
    data = dataclasses.replace(test, target=target)
    own = planted_network(trained)
    for apart, holds in ((1e-7, True), (0.4, False), ("more bodies", None)):
        monkeypatch.setattr(certificate, "messages_apart", lambda *_, x=apart: x)
        found = certificate.certify(law, own, data, data)
        check = found.checks["messages"]
        assert check["holds"] is holds
        assert (found.says == "believe") is (holds is not False)
    assert check["needs"] == "more bodies"


def test_a_network_that_knows_little_says_nothing_of_pairs(spring_parts, trained):
    law, test = force_law(1), spring_parts[2]
    data = dataclasses.replace(test, target=law.predict(test.graphs).astype(np.float32))
    check = certificate.certify(law, trained, data, data).checks["messages"]
    assert check["holds"] is None and "a network that errs by at most 10%" in check["needs"]
