import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data.graphs import GraphsTuple, complete_edges, flatten, stack_graphs
from symjax_gn.data.nodes import Nodes, take_nodes
from symjax_gn.data.space import Space
from symjax_gn.data.stacking import from_jraph
from symjax_gn.model import predict
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.layers import Properties
from symjax_gn.physics.systems import sample_normal

SENDERS, RECEIVERS = complete_edges(4)
PROPERTIES = Properties(("charge",), ("mass",))


def batch(*bodies):
    """Complete graphs of the given bodies as a flat batch."""
    nodes = jax.tree.map(lambda *x: jnp.stack(x), *bodies)
    return flatten(stack_graphs(nodes, SENDERS, RECEIVERS))


def make(message_dim=3, **options):
    options = dict(properties=PROPERTIES, weight="mass") | options
    model = GraphNet(outputs=2, message_dim=message_dim, width=8, depth=2, **options)
    body = sample_normal(jax.random.key(0), 4, 2)
    params = model.init(jax.random.key(1), batch(body))
    return model, params, body


@pytest.mark.parametrize("power_laws", [True, False])
@pytest.mark.parametrize("inputs", ["relative", "absolute"])
def test_permuted_bodies_give_permuted_accelerations(inputs, power_laws):
    model, params, body = make(inputs=inputs, power_laws=power_laws)
    before = model.apply(params, batch(body))
    order = np.array([2, 0, 3, 1])
    after = model.apply(params, batch(jax.tree.map(lambda x: x[order], body)))
    assert before.value.shape == (4, 2)
    assert before.messages.shape == (12, 3)
    # Sums of float32 in another order.
    np.testing.assert_allclose(after.value, before.value[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "invariant"),
    [
        (dict(inputs="relative"), True),
        (dict(inputs="absolute"), False),
        (dict(inputs="relative", external_field=True), False),
    ],
)
def test_translation(options, invariant):
    model, params, body = make(**options)
    before = model.apply(params, batch(body)).value
    moved = body._replace(position=body.position + 0.5)
    after = model.apply(params, batch(moved)).value
    assert np.allclose(before, after, rtol=1e-4, atol=1e-5) == invariant


def test_messages_are_summed_at_the_receiver():
    model, params, body = make()
    prediction = model.apply(params, batch(body))
    node = jax.tree.map(lambda x: x[1], body)
    total = jnp.sum(prediction.messages[RECEIVERS == 1], axis=0)
    update = model.apply(params, node, total, method="update")
    np.testing.assert_allclose(update, prediction.value[1], rtol=1e-4, atol=1e-6)
    pair = [jax.tree.map(lambda x, k=k: x[k[5]], body) for k in (RECEIVERS, SENDERS)]
    message, _ = model.apply(params, *pair, method="message")
    np.testing.assert_allclose(message, prediction.messages[5], rtol=1e-4, atol=1e-6)


def test_vmap_equals_loop_and_jit_equals_no_jit():
    model, params, _ = make()
    bodies = [sample_normal(jax.random.key(k), 4, 2) for k in range(3)]
    run = lambda body: model.apply(params, batch(body)).value  # noqa: E731
    together = jax.tree.map(lambda *x: jnp.stack(x), *bodies)
    alone = jnp.stack([run(body) for body in bodies])
    for variant in (jax.vmap(run), jax.jit(jax.vmap(run))):
        # Matrix products of other shapes round differently in float32.
        np.testing.assert_allclose(variant(together), alone, rtol=1e-4, atol=1e-5)
    flat = model.apply(params, batch(*bodies)).value.reshape(3, 4, 2)
    np.testing.assert_allclose(flat, alone, rtol=1e-4, atol=1e-5)
    stacked = predict(model, params, stack_graphs(together, SENDERS, RECEIVERS))
    assert stacked.messages.shape == (3, 12, 3)
    np.testing.assert_allclose(stacked.value, alone, rtol=1e-4, atol=1e-5)


def test_gradient_against_finite_differences():
    with jax.enable_x64(True):
        model, params, body = make()
        to64 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)  # noqa: E731
        params, body = to64(params), to64(body)

        @jax.jit
        def loss(x):
            moved = body._replace(position=body.position.at[0, 0].set(x))
            return jnp.sum(model.apply(params, batch(moved)).value ** 2)

        x, h = body.position[0, 0], 1e-6
        slope = (loss(x + h) - loss(x - h)) / (2 * h)
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(x), slope, rtol=1e-5, atol=1e-7)


def test_coincident_bodies_have_finite_gradients():
    model, params, body = make()
    body = body._replace(position=jnp.zeros((4, 2)))
    grads = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, batch(body)).value)))(params)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_variational_messages_are_sampled_only_with_a_key():
    model, params, body = make(variational=True)
    run = lambda key: model.apply(params, batch(body), None, key)  # noqa: E731
    mean, sampled = run(None), run(jax.random.key(0))
    assert mean.log_variance.shape == mean.messages.shape == (12, 3)
    np.testing.assert_allclose(mean.messages, sampled.messages, rtol=1e-5)
    assert not np.allclose(mean.value, sampled.value)
    assert not np.allclose(run(jax.random.key(1)).value, sampled.value)


def test_mask_silences_components():
    model, params, body = make()
    prediction = model.apply(params, batch(body), jnp.array([1.0, 0.0, 1.0]))
    assert np.all(prediction.messages[:, 1] == 0)
    assert np.all(prediction.messages[:, 0] != 0)


def test_unknown_inputs():
    with pytest.raises(ValueError, match="Unknown inputs 'relativ'. Did you mean 'relative'"):
        make(inputs="relativ")


def biased(**options):
    model, params, body = make(message_dim=2, **options)
    return model.apply(params, batch(body)), body


def test_antisymmetric_messages_go_both_ways():
    messages = np.asarray(biased(pair="antisymmetric")[0].messages)
    back = [
        np.flatnonzero((i == SENDERS) & (j == RECEIVERS))[0]
        for i, j in zip(RECEIVERS, SENDERS, strict=True)
    ]
    # Swapped terms of one float32 difference.
    np.testing.assert_allclose(messages, -messages[back], rtol=1e-5, atol=1e-6)
    assert np.ptp(messages) > 0


def test_central_messages_point_at_the_sender():
    prediction, body = biased(pair="central")
    displacement = np.asarray(body.position)[SENDERS] - np.asarray(body.position)[RECEIVERS]
    messages = np.asarray(prediction.messages)
    cross = messages[:, 0] * displacement[:, 1] - messages[:, 1] * displacement[:, 0]
    np.testing.assert_allclose(cross, 0, atol=1e-5)
    assert np.ptp(messages) > 0


def test_newtons_node_function_keeps_momentum_with_antisymmetric_messages():
    prediction, body = biased(node="newton", pair="antisymmetric")
    force = np.asarray(body.mass)[:, None] * np.asarray(prediction.value)
    # Sums of float32 that cancel.
    np.testing.assert_allclose(np.sum(force, axis=0), 0, atol=1e-4)
    assert np.ptp(force) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(node="newtn"), "Did you mean 'newton'"),
        (dict(pair="centre"), "Did you mean 'central'"),
        (dict(node="newton"), "have 2 components, got message_dim=3"),
        (dict(pair="central"), "have 2 components, got message_dim=3"),
        (dict(pair="antisymmetric", variational=True), "KL strategy are noisy"),
    ],
)
def test_bad_biases(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def unequal(dim=2):
    """Graphs of 3, 5 and 4 bodies, the last not complete."""
    graphs = []
    for k, count in enumerate((3, 5, 4)):
        senders, receivers = complete_edges(count)
        if k == 2:
            senders, receivers = senders[:-5], receivers[:-5]
        nodes = sample_normal(jax.random.key(k), count, dim)
        sizes = np.array([count]), np.array([len(senders)])
        graphs.append(GraphsTuple(nodes, None, receivers, senders, None, *sizes))
    return graphs


@pytest.mark.parametrize("level", ["node", "graph", "hamiltonian"])
def test_padded_graphs_give_what_each_gives_alone(level):
    graphs = unequal()
    padded = from_jraph(graphs)
    assert padded.n_node.tolist() == [[3, 4], [5, 2], [4, 3]]
    if level == "hamiltonian":
        model = FlatHGN(outputs=2, width=8, depth=1, properties=PROPERTIES)
        level = "node"
    else:
        options = dict(width=8, depth=1, properties=PROPERTIES, level=level)
        model = GraphNet(outputs=2, message_dim=3, **options)
    params = jax.jit(model.init)(jax.random.key(1), flatten(padded))
    run = jax.jit(lambda graphs: predict(model, params, graphs))
    together = run(padded)
    for k, graph in enumerate(graphs):
        alone = run(from_jraph([graph]))
        value = together.value[k] if level == "graph" else together.value[k, : graph.n_node[0]]
        # Sums of float32 in another order.
        np.testing.assert_allclose(value, alone.value[0], rtol=1e-4, atol=1e-5)
        sent = together.messages[k, : graph.n_edge[0]]
        np.testing.assert_allclose(sent, alone.messages[0], rtol=1e-4, atol=1e-5)
    assert np.all(np.isfinite(together.value))


def test_sets_of_unequal_size_are_summed_alone():
    sizes = (2, 5, 3)
    rows = [np.random.default_rng(k).normal(size=(size, 3)) for k, size in enumerate(sizes)]
    graphs = [
        GraphsTuple(x, None, None, None, None, np.array([len(x)]), np.array([0])) for x in rows
    ]
    padded = from_jraph(graphs)
    model = GraphNet(
        outputs=1, message_dim=2, width=8, depth=1, level="graph",
        properties=Properties(("x_1", "x_2", "x_3")),
    )  # fmt: skip
    params = model.init(jax.random.key(0), flatten(padded))
    together = predict(model, params, padded)
    assert together.value.shape == (3, 1)
    for k, (x, size) in enumerate(zip(rows, sizes, strict=True)):
        elements = Nodes(None, None, {f"x_{c + 1}": jnp.asarray(x[:, c]) for c in range(3)})
        messages = model.apply(params, None, elements, method="message")[0]
        value = model.apply(params, None, jnp.sum(messages, axis=0), method="update")
        np.testing.assert_allclose(together.value[k], value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(together.messages[k, :size], messages, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pair", ["free", "central"])
@pytest.mark.parametrize("box", [None, (3.0, 2.0)])
def test_a_body_may_be_moved_by_a_side_of_the_box(pair, box):
    model, params, body = make(message_dim=2, pair=pair, space=Space(box))
    moved = body._replace(position=body.position.at[1].add(jnp.array([3.0, -2.0])))
    before, after = (model.apply(params, batch(x)).value for x in (body, moved))
    # float32 places of size 3.
    assert np.allclose(before, after, rtol=1e-3, atol=1e-4) == (box is not None)


def test_a_hamiltonian_in_a_box():
    for box in (None, (3.0, 2.0)):
        model = FlatHGN(outputs=2, width=8, depth=1, properties=PROPERTIES, space=Space(box))
        body = sample_normal(jax.random.key(0), 4, 2)
        params = model.init(jax.random.key(1), batch(body))
        moved = body._replace(position=body.position.at[1].add(jnp.array([3.0, -2.0])))
        before, after = (model.apply(params, batch(x)).value for x in (body, moved))
        assert np.allclose(before, after, rtol=1e-3, atol=1e-4) == (box is not None)


@pytest.mark.parametrize("node", ["free", "newton"])
def test_contributions_and_what_is_there_alone_are_all_of_a_force(node):
    model, params, body = make(message_dim=2, node=node)
    value = model.apply(params, batch(body)).value[1]
    one, others = take_nodes(body, 1), take_nodes(body, np.array([0, 2, 3, 0]))
    present = jnp.array([True, True, True, False])
    found = model.apply(params, one, others, present, jnp.ones(2), method="contributions")
    np.testing.assert_allclose(found.value, value, rtol=1e-4, atol=1e-5)
    total = found.alone + jnp.sum(found.terms[:3], axis=0)
    np.testing.assert_allclose(total, body.mass[1] * value, rtol=1e-4, atol=1e-5)


def test_nodes_need_no_properties():
    model, _, body = make()
    bare = dataclasses.replace(model, properties=Properties(), weight=None)
    graphs = batch(body._replace(properties={}, velocity=None))
    params = bare.init(jax.random.key(1), graphs)
    assert bare.apply(params, graphs).value.shape == (4, 2)
