"""One step of training, of a model with two numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import complete_edges, stack_graphs
from symjax_gn.data.nodes import Nodes
from symjax_gn.model import Prediction
from symjax_gn.networks.steps import Hyperparameters, Recipe, init, step

STEP = jax.jit(step, static_argnames="recipe")


class Springs:
    """Bodies bound to one place: a = -k x, and dH/dp = c p; edges send their numbers."""

    inputs, variational, level, message_dim = "relative", False, "node", 1

    def init(self, key, graphs):
        return dict(k=jnp.float32(1.5), c=jnp.float32(1.25))

    def apply(self, params, graphs, mask, key):
        nodes, sent = graphs.nodes, jnp.arange(12.0)[:, None]
        return Prediction(
            -params["k"] * nodes.position, sent, velocity=params["c"] * nodes.velocity
        )


def batch():
    """Two graphs with k = 2 and c = 1; one body's target is not known, two edges are padding."""
    rng = np.random.default_rng(0)
    position, velocity = rng.normal(size=(2, 2, 3, 2)).astype(np.float32)
    target = -2 * position
    mask = np.ones((2, 3), bool)
    mask[1, 2] = False
    target[1, 2], velocity[1, 2] = 1e6, -1e6
    graphs = stack_graphs(Nodes(position, velocity, {}), *complete_edges(3))
    graphs = graphs._replace(n_node=np.array([[3, 0]] * 2), n_edge=np.array([[6, 0], [4, 2]]))
    return Dataset(graphs, target, mask, np.arange(2)), position[mask], velocity[mask]


def test_bodies_whose_target_is_not_known_and_padding_have_no_say():
    data, x, v = batch()
    recipe = Recipe(Springs(), "l1", loss="absolute", optimizer=optax.sgd(0.1))
    state = init(jax.random.key(0), recipe, data.graphs)
    after, info = STEP(state, data, recipe)
    of_target, of_velocity = (np.mean(np.sum(np.abs(y), axis=1)) for y in (x, v))
    # float32, as is what follows.
    assert info.loss == pytest.approx(0.5 * of_target + 0.25 * of_velocity, rel=1e-6)
    # The mean of 0 to 9.
    assert info.penalty == 4.5
    # Downhill: k to 2, c to 1.
    found = after.params["network"]
    assert found["k"] == pytest.approx(1.5 + 0.1 * of_target, rel=1e-6)
    assert found["c"] == pytest.approx(1.25 - 0.1 * of_velocity, rel=1e-6)
    assert after.step == 1 and after.key != state.key


def test_the_learning_rate_rises_for_a_tenth_of_the_training_and_falls_to_its_end():
    data, *_ = batch()
    recipe = Recipe(Springs(), optimizer="adam", steps=100)
    hyper = Hyperparameters(learning_rate=0.5, weight_decay=0.25)
    state = init(jax.random.key(0), recipe, data.graphs, hyper)
    for number, rate in ((0, 0.05), (10, 0.5), (55, 0.5 * (1 + 1e-4) / 2), (100, 0.5e-4)):
        after, _ = STEP(state._replace(step=jnp.int32(number)), data, recipe)
        found = after.opt_state.hyperparams
        assert found["learning_rate"] == pytest.approx(rate, rel=1e-3)
        assert found["weight_decay"] == 0.25
