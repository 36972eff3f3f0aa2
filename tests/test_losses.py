import jax.numpy as jnp
import numpy as np

from symjax_gn.model import Prediction
from symjax_gn.networks.losses import absolute_loss, kl_divergence, message_penalty, relative_loss


def test_prediction_losses():
    target = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    guess = target + jnp.array([[1.0, -1.0], [0.5, 0.0]])
    np.testing.assert_allclose(absolute_loss(guess, target), (2.0 + 0.5) / 2)
    np.testing.assert_allclose(relative_loss(guess, target), (2.0 / 6 + 0.5 / 1) / 2)


def test_penalties():
    messages = jnp.array([[1.0, -2.0], [0.0, 3.0]])
    plain = Prediction(jnp.zeros((2, 2)), messages, None)
    np.testing.assert_allclose(message_penalty("l1", plain), 3.0)
    for strategy in ("standard", "bottleneck", "pruning"):
        assert message_penalty(strategy, plain) == 0.0
    normal = Prediction(jnp.zeros((2, 2)), 0 * messages, 0 * messages)
    np.testing.assert_allclose(message_penalty("kl", normal), 2 * 0.5)
    # (mu^2 + sigma^2 - log sigma^2) / 2 with mu = 2, log sigma^2 = 1.
    other = Prediction(jnp.zeros((1, 1)), jnp.array([[2.0]]), jnp.array([[1.0]]))
    np.testing.assert_allclose(kl_divergence(other), [[(4 + np.e - 1) / 2]], rtol=1e-6)


def test_only_what_is_known_counts():
    target = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    guess = target + jnp.array([[1.0, -1.0], [0.5, 0.0]])
    known = jnp.array([True, False])
    np.testing.assert_allclose(absolute_loss(guess, target, known), 2.0)
    np.testing.assert_allclose(relative_loss(guess, target, known), 2.0 / 6)
    assert absolute_loss(guess, target, jnp.zeros(2, bool)) == 0.0
    messages = jnp.array([[1.0, -2.0], [0.0, 3.0]])
    present = jnp.array([False, True])
    plain = Prediction(jnp.zeros((2, 2)), 2 * messages.at[0].set(9.0))
    np.testing.assert_allclose(message_penalty("l1", plain, present), 6.0)
    plain = plain._replace(messages=messages)
    np.testing.assert_allclose(
        message_penalty("kl", plain._replace(log_variance=0 * messages), present), (9 + 2) / 2
    )


def test_a_hamiltonian_has_its_own_penalty():
    prediction = Prediction(jnp.zeros((2, 2)), jnp.ones((2, 1)), regulariser=jnp.array(7.0))
    assert message_penalty("flathgn", prediction) == 7.0
