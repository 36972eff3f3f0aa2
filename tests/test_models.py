import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data.graphs import complete_edges
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.physics.systems import sample_normal

SENDERS, RECEIVERS = complete_edges(4)


def make(**options):
    model = GraphNet(dim=2, message_dim=3, width=8, depth=2, **options)
    body = sample_normal(jax.random.key(0), 4, 2)
    params = model.init(jax.random.key(1), body, SENDERS, RECEIVERS)
    return model, params, body


@pytest.mark.parametrize("power_laws", [True, False])
@pytest.mark.parametrize("inputs", ["relative", "absolute"])
def test_permuted_bodies_give_permuted_accelerations(inputs, power_laws):
    model, params, body = make(inputs=inputs, power_laws=power_laws)
    before = model.apply(params, body, SENDERS, RECEIVERS)
    order = np.array([2, 0, 3, 1])
    after = model.apply(params, jax.tree.map(lambda x: x[order], body), SENDERS, RECEIVERS)
    assert before.acceleration.shape == (4, 2)
    assert before.messages.shape == (12, 3)
    # Sums of float32 in another order.
    np.testing.assert_allclose(after.acceleration, before.acceleration[order], rtol=1e-4, atol=1e-5)


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
    before = model.apply(params, body, SENDERS, RECEIVERS).acceleration
    moved = body._replace(position=body.position + 0.5)
    after = model.apply(params, moved, SENDERS, RECEIVERS).acceleration
    assert np.allclose(before, after, rtol=1e-4, atol=1e-5) == invariant


def test_messages_are_summed_at_the_receiver():
    model, params, body = make()
    prediction = model.apply(params, body, SENDERS, RECEIVERS)
    node = jax.tree.map(lambda x: x[1], body)
    total = jnp.sum(prediction.messages[RECEIVERS == 1], axis=0)
    update = model.apply(params, node, total, method="update")
    np.testing.assert_allclose(update, prediction.acceleration[1], rtol=1e-4, atol=1e-6)
    pair = [jax.tree.map(lambda x, k=k: x[k[5]], body) for k in (RECEIVERS, SENDERS)]
    message, _ = model.apply(params, *pair, method="message")
    np.testing.assert_allclose(message, prediction.messages[5], rtol=1e-4, atol=1e-6)


def test_vmap_equals_loop_and_jit_equals_no_jit():
    model, params, _ = make()
    bodies = [sample_normal(jax.random.key(k), 4, 2) for k in range(3)]
    run = lambda body: model.apply(params, body, SENDERS, RECEIVERS).acceleration  # noqa: E731
    batch = jax.tree.map(lambda *x: jnp.stack(x), *bodies)
    for variant in (jax.vmap(run), jax.jit(jax.vmap(run))):
        # Matrix products of other shapes round differently in float32.
        np.testing.assert_allclose(
            variant(batch), jnp.stack([run(b) for b in bodies]), rtol=1e-4, atol=1e-5
        )


def test_gradient_against_finite_differences():
    with jax.enable_x64(True):
        model, params, body = make()
        to64 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)  # noqa: E731
        params, body = to64(params), to64(body)

        def loss(x):
            moved = body._replace(position=body.position.at[0, 0].set(x))
            return jnp.sum(model.apply(params, moved, SENDERS, RECEIVERS).acceleration ** 2)

        x, h = body.position[0, 0], 1e-6
        slope = (loss(x + h) - loss(x - h)) / (2 * h)
        np.testing.assert_allclose(jax.grad(loss)(x), slope, rtol=1e-5, atol=1e-7)


def test_coincident_bodies_have_finite_gradients():
    model, params, body = make()
    body = body._replace(position=jnp.zeros((4, 2)))
    grads = jax.grad(lambda p: jnp.sum(model.apply(p, body, SENDERS, RECEIVERS).acceleration))(
        params
    )
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_variational_messages_are_sampled_only_with_a_key():
    model, params, body = make(variational=True)
    run = lambda key: model.apply(params, body, SENDERS, RECEIVERS, None, key)  # noqa: E731
    mean, sampled = run(None), run(jax.random.key(0))
    assert mean.log_variance.shape == mean.messages.shape == (12, 3)
    np.testing.assert_allclose(mean.messages, sampled.messages, rtol=1e-5)
    assert not np.allclose(mean.acceleration, sampled.acceleration)
    assert not np.allclose(run(jax.random.key(1)).acceleration, sampled.acceleration)


def test_mask_silences_components():
    model, params, body = make()
    prediction = model.apply(params, body, SENDERS, RECEIVERS, jnp.array([1.0, 0.0, 1.0]))
    assert np.all(prediction.messages[:, 1] == 0)
    assert np.all(prediction.messages[:, 0] != 0)


def test_unknown_inputs():
    with pytest.raises(ValueError, match="Unknown inputs 'relativ'. Did you mean 'relative'"):
        make(inputs="relativ")


def biased(**options):
    model = GraphNet(dim=2, message_dim=2, width=8, depth=2, **options)
    body = sample_normal(jax.random.key(0), 4, 2)
    params = model.init(jax.random.key(1), body, SENDERS, RECEIVERS)
    return model.apply(params, body, SENDERS, RECEIVERS), body


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
    force = np.asarray(body.mass)[:, None] * np.asarray(prediction.acceleration)
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
