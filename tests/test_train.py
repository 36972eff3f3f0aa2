import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data import units
from symjax_gn.data.datasets import take
from symjax_gn.networks import training

TINY = dict(steps=40, batch_size=8, intervals=4)


def tiny(strategy="bottleneck", **options):
    return training.make_model(strategy, 2, message_dim=6, width=8, depth=1, **options)


def test_training_lowers_the_error(trained, spring_parts):
    history = trained.history
    assert history.step.tolist() == [100, 200, 300, 400]
    assert history.message_std.shape == (4, 2)
    assert history.validation_error[-1] < 0.8 * history.validation_error[0]
    assert history.loss[-1] < 0.5 * history.loss[0]
    error, size = training.held_out_error(trained, spring_parts[2])
    assert error < 0.5 * size
    by_hand = np.mean(np.sum(np.abs(spring_parts[2].acceleration), axis=(1, 2)))
    np.testing.assert_allclose(size, by_hand, rtol=1e-5)


def test_error_does_not_depend_on_the_batch(trained, spring_parts):
    errors = [training.held_out_error(trained, spring_parts[2], batch=b)[0] for b in (7, 64, 1000)]
    # Matrix products of other shapes round differently in float32.
    np.testing.assert_allclose(errors, errors[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("strategy", "prune"),
    [("standard", None), ("l1", None), ("kl", None), ("pruning", None), ("kl", False)],
)
def test_every_strategy_trains(strategy, prune, spring_parts):
    result = training.fit(
        jax.random.key(0),
        *spring_parts[:2],
        strategy=strategy,
        prune=prune,
        model=tiny(strategy),
        **TINY,
    )
    assert np.all(np.isfinite(result.history.loss))
    kept, heard = float(jnp.sum(result.mask)), np.sum(result.history.message_std[-1] > 0)
    if strategy != "standard" and prune is None:
        assert 1 <= kept < 6
        assert heard < 6
    else:
        assert kept == heard == 6


@pytest.mark.parametrize(("focus", "share"), [(1.0, 0.01), (2.0, 0.1), (4.0, 0.01**0.25)])
def test_focus(focus, share):
    drawn = training.draw(jax.random.key(0), 1000, 40_000, focus)
    assert drawn.min() == 0
    assert 900 < drawn.max() < 1000
    # Five standard errors of a share of 40,000 draws.
    error = 5 * np.sqrt(share * (1 - share) / 40_000)
    assert np.mean(drawn < 10) == pytest.approx(share, abs=error)


def test_focus_falls_to_one_in_the_second_half():
    found = [training._focus(2.0, progress) for progress in (0.0, 0.5, 0.75, 1.0)]
    assert found == [2.0, 2.0, 1.5, 1.0]


def test_penalty_shrinks_messages(spring_parts):
    spread = [
        training.fit(
            jax.random.key(0), *spring_parts[:2], strategy="l1", model=tiny("l1"),
            penalty_weight=weight, prune=False, **TINY,
        ).history.message_std[-1].sum()
        for weight in (0.0, 10.0)
    ]  # fmt: skip
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize(
    "options",
    [
        dict(optimizer="adam"),
        dict(loss="absolute"),
        dict(model=tiny(inputs="absolute", power_laws=False)),
    ],
)
def test_options(options, spring_parts):
    options = dict(model=tiny()) | options
    result = training.fit(jax.random.key(0), *spring_parts[:2], **options, **TINY)
    assert result.history.loss[-1] < result.history.loss[0]


def test_same_key_same_result(spring_parts):
    one, two = (
        training.fit(jax.random.key(3), *spring_parts[:2], model=tiny(), **TINY) for _ in range(2)
    )
    chex.assert_trees_all_equal(one.params, two.params)
    other = training.fit(jax.random.key(4), *spring_parts[:2], model=tiny(), **TINY)
    assert not np.array_equal(one.history.loss, other.history.loss)


def test_units_do_not_matter(spring_parts):
    def in_other_units(part):
        nodes = part.nodes._replace(position=part.nodes.position.astype(float) * 1e11)
        return part._replace(nodes=nodes, acceleration=part.acceleration.astype(float) * 1e-9)

    plain = training.fit(jax.random.key(0), *spring_parts[:2], model=tiny(), **TINY)
    parts = [in_other_units(part) for part in spring_parts[:2]]
    scaled = training.fit(jax.random.key(0), *parts, model=tiny(), **TINY)
    # Rounding of the inputs to float32, amplified by 40 steps of training.
    np.testing.assert_allclose(scaled.history.loss, plain.history.loss, rtol=0.05)


def test_one_compilation_per_shape(spring_parts):
    training._interval.clear_cache()
    for seed, steps in [(0, 40), (1, 40)]:
        options = TINY | dict(steps=steps)
        training.fit(jax.random.key(seed), *spring_parts[:2], model=tiny(), **options)
    assert training._interval._cache_size() == 1


def test_steps_compose_under_vmap(spring_parts):
    data = units.normalise(spring_parts[0], units.measure_scales(spring_parts[0]))
    model, optimizer = tiny(), training.make_optimizer(steps=5)
    batch = take(data, jnp.arange(4))
    keys = jax.random.split(jax.random.key(0), 3)

    def one(key):
        state = training.init(key, model, optimizer, batch)
        options = dict(model=model, optimizer=optimizer, strategy="bottleneck", loss="relative")
        return training.step(key, state, batch, weight=0.0, **options)[1].loss

    loop = [float(jax.jit(one)(key)) for key in keys]
    # Matrix products of other shapes round differently in float32.
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(keys), loop, rtol=1e-4)


def test_callback_sees_every_interval(spring_parts):
    seen = []
    training.fit(
        jax.random.key(0), *spring_parts[:2], model=tiny(), **TINY,
        callback=lambda state, step: seen.append((int(state.step), step)),
    )  # fmt: skip
    assert seen == [(10, 10), (20, 20), (30, 30), (40, 40)]


def test_a_loss_that_is_not_finite_stops_with_the_last_good_parameters(spring_parts):
    with pytest.raises(training.TrainingError, match="not finite at step") as caught:
        training.fit(
            jax.random.key(0), *spring_parts[:2], model=tiny(), optimizer="adam",
            learning_rate=1e30, **TINY,
        )  # fmt: skip
    # The first update is as large as the learning rate, so the second loss is infinite.
    assert caught.value.step == 2
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(caught.value.params))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(strategy="bottlenek"), "Did you mean 'bottleneck'"),
        (dict(loss="squared"), "Unknown loss"),
        (dict(optimizer="mun"), "Did you mean 'muon'"),
        (dict(steps=0), "steps must be at least 1"),
        (dict(batch_size=0), "batch_size must be at least 1"),
        (dict(focus=0.5), "focus must be at least 1"),
        (dict(focus=np.nan), "focus must be at least 1"),
        (dict(model=dataclasses.replace(tiny(), dim=3)), "this data and strategy need dim=2"),
        (dict(strategy="kl", model=tiny()), "variational=True"),
        (dict(strategy="flathgn", model=tiny()), "and a GraphNet"),
        (dict(model=training.make_model("flathgn", 2)), "and a FlatHGN"),
        (dict(penalty_weight=-1.0), "penalty_weight must be at least 0"),
        (dict(learning_rate=0.0), "learning_rate must be positive"),
        (dict(learning_rate=np.nan), "learning_rate must be positive"),
    ],
)
def test_bad_options(options, message, spring_parts):
    with pytest.raises(ValueError, match=message):
        training.fit(jax.random.key(0), *spring_parts[:2], **options)


def test_bad_data(spring_parts):
    data, validation = spring_parts[:2]
    acceleration = np.array(data.acceleration)
    acceleration[3, 1, 0] = np.nan
    mass = np.array(data.nodes.mass)
    mass[0, 0] = 0.0
    for bad, message in [
        (take(data, slice(0, 0)), "train dataset holds no graphs"),
        (data._replace(acceleration=acceleration), "not all finite"),
        (data._replace(acceleration=acceleration[:, :2]), "have shape"),
        (data._replace(nodes=data.nodes._replace(mass=mass)), "must be positive"),
        (data._replace(senders=data.senders[:0], receivers=data.receivers[:0]), "no edges"),
    ]:
        with pytest.raises(ValueError, match=message):
            training.fit(jax.random.key(0), bad, validation)
