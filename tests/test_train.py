import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from symjax_gn import model as models
from symjax_gn.data import units
from symjax_gn.data.building import dataset_from_graphs, make_dataset
from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.graphs import GraphsTuple, complete_edges, stack_graphs
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.space import Space
from symjax_gn.data.trajectories import trajectory_from_arrays
from symjax_gn.model import held_out_error
from symjax_gn.networks import intervals, layers, steps, training
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.layers import Properties
from symjax_gn.networks.losses import message_penalty
from symjax_gn.networks.steps import Hyperparameters, Recipe
from symjax_gn.networks.strategies import make_model

# Adam compiles faster than Muon.
TINY = dict(steps=40, batch_size=8, intervals=4, optimizer="adam")
STEP = jax.jit(steps.step, static_argnames="recipe")
INIT = jax.jit(steps.init, static_argnames="recipe")
PROPERTIES = Properties(("charge",), ("mass",))


def tiny(strategy="bottleneck", **options):
    sizes = dict(outputs=2, message_dim=6, width=8, depth=1)
    inputs = dict(properties=PROPERTIES, weight="mass", variational=strategy == "kl")
    return GraphNet(**(sizes | inputs | options))


def edited(dataset, target=None, position=None, velocity=None, **properties):
    """A dataset with some of its arrays replaced, and properties that are None left out."""
    nodes = dataset.nodes
    found = nodes.properties | properties
    nodes = Nodes(
        nodes.position if position is None else position,
        nodes.velocity if velocity is None else velocity,
        {name: value for name, value in found.items() if value is not None},
    )
    graphs = dataset.graphs._replace(nodes=nodes)
    target = dataset.target if target is None else target
    return dataclasses.replace(dataset, graphs=graphs, target=target)


def inside(dataset, count=8):
    """The first graphs in the model's units."""
    return units.normalise(take(dataset, np.arange(count)), units.measure_scales(dataset))


def start(batch, model=None, strategy="bottleneck", optimizer="adam", hyper=None, **options):
    """A recipe and a fresh state."""
    recipe = Recipe(model or tiny(strategy), strategy, optimizer=optimizer, **options)
    return recipe, INIT(jax.random.key(0), recipe, batch.graphs, hyper or Hyperparameters())


def losses_of_keys(batch, **options):
    """The losses of one first step with three keys."""
    recipe, state = start(batch, **options)
    keys = [state._replace(key=jax.random.key(k)) for k in range(3)]
    return {float(STEP(x, batch, recipe)[1].loss) for x in keys}


# Leaves parameters as they are and keeps the gradient as its state.
KEEP_GRADIENT = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)


def gradient(state, batch, recipe):
    """What a step descends along, as one vector."""
    after, info = STEP(state, batch, recipe)
    return ravel_pytree(after.opt_state)[0], info


def test_training_lowers_the_error(trained, spring_parts):
    history = trained.history
    assert history.step.tolist() == [100, 200, 300, 400]
    assert history.message_std.shape == (4, 2)
    assert history.validation_error[-1] < 0.8 * history.validation_error[0]
    assert history.loss[-1] < 0.5 * history.loss[0]
    error, size = held_out_error(trained, spring_parts[2])
    assert error < 0.5 * size
    by_hand = np.mean(np.sum(np.abs(spring_parts[2].target), axis=(1, 2)))
    np.testing.assert_allclose(size, by_hand, rtol=1e-5)


def test_error_does_not_depend_on_the_batch(trained, spring_parts, monkeypatch):
    errors = []
    for edges in (7 * 12, 64 * 12, 10**6):
        lots = functools.partial(models.batches, most_edges=edges)
        monkeypatch.setattr(models, "batches", lots)
        errors.append(held_out_error(trained, spring_parts[2])[0])
        monkeypatch.undo()
    # Matrix products of other shapes round differently in float32.
    np.testing.assert_allclose(errors, errors[0], rtol=1e-4)


@pytest.mark.parametrize("graphs_at_once", [1, 7, 64, 10**6])
def test_lots_are_all_graphs_in_order_and_of_one_size(spring_parts, graphs_at_once):
    test = spring_parts[2]
    lots = list(models.batches(test, most_edges=graphs_at_once * 12))
    assert {len(part) for part, _ in lots} == {min(graphs_at_once, len(test))}
    targets = np.concatenate([np.asarray(part.target)[:count] for part, count in lots])
    np.testing.assert_array_equal(targets, test.target)


class Nothing:
    """Predicts 0, and NaN for the first graph if asked."""

    def __init__(self, nan=False):
        self.nan = nan

    def predict(self, graphs):
        value = np.zeros(graphs.nodes.position.shape)
        if self.nan:
            value[0] = np.nan
        return value


def test_held_out_error_has_the_datas_unit_and_leaves_out_what_is_not_known(spring_parts):
    data = take(spring_parts[2], np.arange(10))
    error, size = held_out_error(Nothing(), data)
    by_hand = np.mean(np.sum(np.abs(data.target), axis=(1, 2)))
    np.testing.assert_allclose([error, size], by_hand, rtol=1e-6)
    larger = edited(data, target=1e9 * np.asarray(data.target, float))
    np.testing.assert_allclose(held_out_error(Nothing(), larger), 1e9 * by_hand, rtol=1e-6)
    assert held_out_error(Nothing(nan=True), data)[0] == np.inf
    mask = np.ones((10, 4), bool)
    mask[:, 1:] = False
    hidden = np.where(mask[..., None], data.target, np.nan)
    partly = dataclasses.replace(edited(data, target=hidden), mask=mask)
    by_hand = np.mean(np.sum(np.abs(data.target[:, 0]), axis=1))
    np.testing.assert_allclose(held_out_error(Nothing(), partly), by_hand, rtol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "prune"),
    [("standard", None), ("l1", None), ("kl", None), ("pruning", None)],
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
    drawn = intervals.draw(jax.random.key(0), 1000, 40_000, focus)
    assert drawn.min() == 0
    assert 900 < drawn.max() < 1000
    # Five standard errors of a share of 40,000 draws.
    error = 5 * np.sqrt(share * (1 - share) / 40_000)
    assert np.mean(drawn < 10) == pytest.approx(share, abs=error)


def test_focus_falls_to_one_in_the_second_half():
    found = [intervals._focus(2.0, progress) for progress in (0.0, 0.5, 0.75, 1.0)]
    assert found == [2.0, 2.0, 1.5, 1.0]


def test_penalty_shrinks_messages(spring_parts):
    spread = [
        training.fit(
            jax.random.key(0), *spring_parts[:2], strategy="l1", model=tiny("l1"),
            penalty_weight=weight, prune=False, **TINY,
        ).history.message_std[-1].sum()
        for weight in (0.0, 10.0)
    ]  # fmt: skip
    assert spread[1] < 0.7 * spread[0]


@pytest.mark.parametrize(
    "options",
    [
        dict(optimizer="muon"),
        dict(model=tiny(inputs="absolute", power_laws=False)),
    ],
)
def test_options(options, spring_parts):
    options = dict(model=tiny()) | TINY | options
    result = training.fit(jax.random.key(0), *spring_parts[:2], **options)
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
        place = part.nodes.position.astype(float) * 1e11
        return edited(part, position=place, target=part.target.astype(float) * 1e-9)

    plain = training.fit(jax.random.key(0), *spring_parts[:2], model=tiny(), **TINY)
    parts = [in_other_units(part) for part in spring_parts[:2]]
    scaled = training.fit(jax.random.key(0), *parts, model=tiny(), **TINY)
    # Rounding of the inputs to float32, amplified by 40 steps of training.
    np.testing.assert_allclose(scaled.history.loss, plain.history.loss, rtol=0.05)
    # Errors are in the unit of the data.
    error, in_other_units = (x.history.validation_error for x in (plain, scaled))
    np.testing.assert_allclose(1e9 * in_other_units, error, rtol=0.05)
    error = held_out_error(plain, spring_parts[1])
    np.testing.assert_allclose(1e9 * np.array(held_out_error(scaled, parts[1])), error, rtol=0.05)
    np.testing.assert_allclose(error[0], plain.history.validation_error[-1], rtol=1e-4)


def test_one_compilation_whatever_the_numbers(spring_parts):
    # No other test has this recipe.
    options = TINY | dict(strategy="l1", model=tiny("l1"), loss="absolute")
    before = training._interval.__wrapped__._cache_size()
    errors = []
    for key in ("learning_rate", "penalty_weight"):
        for value in (1e-3, 1e-2, 10.0 if key == "penalty_weight" else 0.1):
            result = training.fit(jax.random.key(0), *spring_parts[:2], **options | {key: value})
            errors.append(result.history.validation_error[-1])
    assert training._interval.__wrapped__._cache_size() == before + 1
    # A learning rate of 0.01 and a penalty of 0.001 are what it has anyway.
    assert len(set(errors)) == 5


def test_steps_compose_under_vmap(spring_parts):
    batch = inside(spring_parts[0])
    recipe, start_state = start(batch, steps=5)
    rates = jnp.array([1e-3, 1e-1])

    def two_steps(rate):
        state = start_state._replace(hyper=start_state.hyper._replace(learning_rate=rate))

        def body(state, _):
            return steps.step(state, batch, recipe)

        state, info = jax.lax.scan(body, state, length=2)
        return state.params, info.loss[-1]

    together = jax.jit(jax.vmap(two_steps))(rates)
    alone_fn = jax.jit(two_steps)
    alone = [alone_fn(rate) for rate in rates]
    # Matrix products of other shapes round differently in float32; Adam divides by their size.
    chex.assert_trees_all_close(
        together, jax.tree.map(lambda *x: jnp.stack(x), *alone), rtol=1e-3, atol=1e-4
    )
    assert abs(alone[0][1] - alone[1][1]) > 1e-3


def test_callback_sees_every_interval(spring_parts):
    seen = []
    result = training.fit(
        jax.random.key(0), *spring_parts[:2], model=tiny(), **TINY,
        callback=lambda state, report: seen.append((int(state.step), report)),
    )  # fmt: skip
    assert [(step, report["step"]) for step, report in seen] == [(k, k) for k in (10, 20, 30, 40)]
    for name in ("loss", "validation_error"):
        found = [report[name] for _, report in seen]
        np.testing.assert_allclose(found, getattr(result.history, name), rtol=1e-6)


@pytest.mark.parametrize("strategy", ["bottleneck", "kl"])
def test_a_run_goes_on_from_a_state_bit_for_bit(strategy, spring_parts):
    options = dict(strategy=strategy, model=tiny(strategy), **TINY)
    kept = []

    def keep(state, report):
        kept.append(state)

    whole = training.fit(jax.random.key(0), *spring_parts[:2], **options, callback=keep)

    def stop(state, report):
        kept.append(state)
        return report["step"] >= 20

    half = training.fit(jax.random.key(0), *spring_parts[:2], **options, callback=stop)
    assert half.history.step.tolist() == [10, 20]
    rest = training.fit(jax.random.key(0), *spring_parts[:2], **options, state=kept[-1])
    assert rest.history.step.tolist() == [30, 40]
    chex.assert_trees_all_equal(
        (rest.params, rest.mask, rest.history.loss),
        (whole.params, whole.mask, whole.history.loss[2:]),
    )
    # Nothing is left to do from the last state.
    over = training.fit(jax.random.key(0), *spring_parts[:2], **options, state=kept[3])
    assert over.history.step.size == 0
    chex.assert_trees_all_equal(over.params, whole.params)


def test_noise_of_the_kl_strategy_is_sampled_in_training(spring_parts):
    batch = inside(spring_parts[0])
    assert len(losses_of_keys(batch, strategy="kl")) == 3
    assert len(losses_of_keys(batch)) == 1


def test_absolute_inputs_are_translated_in_training(spring_parts):
    batch = inside(spring_parts[0])
    assert len(losses_of_keys(batch, model=tiny(inputs="absolute"))) == 3


@pytest.mark.parametrize("prune", [True, False])
def test_penalties_fade_only_when_pruning(prune, spring_parts):
    batch = inside(spring_parts[0])
    options = dict(optimizer=KEEP_GRADIENT, prune=prune, steps=100)
    recipe, state = start(batch, strategy="l1", **options)
    found = {}
    for weight in (0.0, 1.0):
        hyper = state.hyper._replace(penalty_weight=jnp.array(weight))
        for done in (0, 90):
            now = state._replace(hyper=hyper, step=jnp.array(done))
            found[weight, done] = gradient(now, batch, recipe)[0]
    early, late = (float(jnp.linalg.norm(found[1.0, k] - found[0.0, k])) for k in (0, 90))
    assert early > 1e-2
    assert late == pytest.approx(0.0 if prune else early, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("strategy", ["l1", "kl", "flathgn"])
def test_the_penalty_is_part_of_what_steps_descend(strategy, spring_parts):
    batch = inside(spring_parts[0])
    model = tiny(strategy)
    if strategy == "flathgn":
        model = FlatHGN(outputs=2, width=8, depth=1, properties=PROPERTIES, kinetic=False)
    recipe, state = start(batch, model, strategy, KEEP_GRADIENT)
    on = state._replace(hyper=state.hyper._replace(penalty_weight=jnp.array(0.5)))
    (with_it, info), (without, _) = (gradient(x, batch, recipe) for x in (on, state))
    assert info.penalty > 0

    def penalty(network):
        prediction = models.predict(recipe.model, network, batch.graphs)
        return message_penalty(strategy, prediction)

    slope = ravel_pytree(jax.jit(jax.grad(penalty))(state.params["network"]))[0]
    # Differences of float32 gradients.
    size = float(jnp.max(jnp.abs(slope)))
    np.testing.assert_allclose(with_it - without, 0.5 * slope, rtol=1e-2, atol=1e-4 * size)


def test_graphs_with_large_targets_come_first_and_more_often(spring_parts, monkeypatch):
    given = []
    whole = training._interval

    def spy(state, train, *rest, **options):
        given.append((state, train))
        return whole(state, train, *rest, **options)

    monkeypatch.setattr(training, "_interval", spy)
    options = dict(model=tiny(), **TINY)
    training.fit(jax.random.key(0), *spring_parts[:2], **options, focus=3.0)
    state, train = given[0]
    largest = np.max(np.linalg.norm(train.target, axis=-1), axis=1)
    assert np.all(np.diff(largest) <= 0) and largest[0] > largest[-1]
    assert len(largest) == len(spring_parts[0])
    assert state.hyper.focus == 3.0


def test_the_focus_decides_which_graphs_are_drawn(spring_parts, monkeypatch):
    drawn = []
    whole = intervals.draw

    def spy(key, num_graphs, batch_size, focus):
        index = whole(key, num_graphs, batch_size, focus)
        jax.debug.callback(lambda x: drawn.append(np.asarray(x)), index)
        return index

    # No other test has this batch size, so that what is compiled for it is of no use to others.
    monkeypatch.setattr(intervals, "draw", spy)
    means = []
    for focus in (1.0, 8.0):
        drawn.clear()
        training.fit(
            jax.random.key(0),
            *spring_parts[:2],
            model=tiny(),
            focus=focus,
            **(TINY | dict(batch_size=7)),
        )
        jax.effects_barrier()
        means.append([np.mean(x) for x in (drawn[:20], drawn[-4:])])
    count = len(spring_parts[0])
    # Mean of u^focus is 1 / (1 + focus); at the end of training the focus is near 1.
    assert means[0][0] == pytest.approx(count / 2, rel=0.2)
    assert means[1][0] == pytest.approx(count / 9, rel=0.5)
    assert means[1][1] > 0.25 * count


def sets(count):
    """Sets whose quantity is a sum over their elements of the square of a feature."""
    rng = np.random.default_rng(0)
    graphs = []
    for k in range(count):
        size = 3 + k % 3
        x = rng.normal(size=size)
        total = dict(total=np.array([np.sum(x**2)]))
        nodes = dict(spin=x)
        graphs.append(GraphsTuple(nodes, None, None, None, total, np.array([size]), np.array([0])))
    return dataset_from_graphs(graphs, "total")


@pytest.mark.parametrize("strategy", ["bottleneck", "pruning"])
def test_sets_train(strategy):
    data = sets(150)
    train, validation = take(data, np.arange(120)), take(data, np.arange(120, 150))
    model = make_model(strategy, train, width=16, depth=1, message_dim=1 + (strategy == "pruning"))
    assert model.level == "graph"
    result = training.fit(
        jax.random.key(0), train, validation, strategy=strategy, model=model, optimizer="adam",
        learning_rate=3e-2, steps=600, batch_size=32, intervals=4,
    )  # fmt: skip
    assert result.predict(validation.graphs).shape == (30, 1)
    error, size = held_out_error(result, validation)
    np.testing.assert_allclose(error, result.history.validation_error[-1], rtol=1e-4)
    assert error < 0.1 * size


def springs(count, masses):
    """Bodies with the given masses and forces that fall with distance, at random places."""
    rng = np.random.default_rng(0)
    position, velocity = rng.normal(size=(2, count, len(masses), 2))
    way = position[:, None] - position[:, :, None]
    force = way * np.exp(-np.sum(way**2, axis=-1, keepdims=True) / 2)
    target = np.sum(force, axis=2) / masses[:, None]
    nodes = Nodes(position, velocity, {})
    graphs = stack_graphs(nodes, *complete_edges(len(masses)))
    return Dataset(graphs, target, None, np.arange(count))


@pytest.mark.parametrize(
    "strategy", ["bottleneck", pytest.param("pruning", marks=pytest.mark.slow)]
)
def test_unknown_properties_are_learned(strategy):
    masses = np.array([0.5, 1.0, 4.0])
    data = springs(300, masses)
    result = training.fit(
        jax.random.key(0), data, data, strategy=strategy, learn=("mass",), optimizer="adam",
        model=None if strategy == "pruning" else GraphNet(
            outputs=2, message_dim=2, width=16, depth=1, node="newton", pair="antisymmetric",
            properties=Properties(positive=("mass",)), weight="mass",
        ),
        steps=300 if strategy == "bottleneck" else 4, batch_size=32, intervals=2,
    )  # fmt: skip
    assert result.model.properties.positive == ("mass",)
    assert result.model.weight == "mass"
    found = result.learned["mass"]
    assert found.shape == (3,) and np.all(found != 1)
    error, size = held_out_error(result, data)
    np.testing.assert_allclose(error, result.history.validation_error[-1], rtol=1e-3)
    if strategy == "bottleneck":
        assert error < 0.3 * size
        # Newton's third law fixes their ratios.
        np.testing.assert_allclose(found / found[1], masses, rtol=0.3)


def test_what_is_in_the_data_is_not_learned(spring_parts):
    with pytest.raises(ValueError, match="mass is in the data"):
        training.fit(jax.random.key(0), *spring_parts[:2], learn=("mass",))


def test_a_model_made_for_a_box_has_it_in_its_own_unit():
    x = np.random.default_rng(0).uniform(0, 8, (3, 4, 5, 2))
    run = trajectory_from_arrays(np.arange(4.0), x, x, x, space=Space((8.0, 8.0)))
    data = make_dataset(run, cutoff=3.0)
    scales = units.measure_scales(data)
    model = make_model("bottleneck", data, scales, width=8, depth=1)
    result = training.fit(
        jax.random.key(0), data, data, model=model, steps=2, batch_size=4, intervals=1,
        optimizer="adam",
    )  # fmt: skip
    side = 8.0 / result.scales.length
    np.testing.assert_allclose(result.model.space.box, (side, side), rtol=1e-6)
    moved = np.array(data.nodes.position)
    moved[:, 1] += [8.0, -8.0]
    before, after = (
        result.predict(data.graphs._replace(nodes=data.nodes._replace(position=place)))
        for place in (data.nodes.position, moved)
    )
    # float32 places of size 8.
    np.testing.assert_allclose(after[:, :5], before[:, :5], rtol=1e-3, atol=1e-4)
    assert np.ptp(before) > 0


def test_a_loss_that_is_not_finite_stops_with_the_last_good_parameters(spring_parts):
    with pytest.raises(training.TrainingError, match="not finite at step") as caught:
        training.fit(
            jax.random.key(0), *spring_parts[:2], model=tiny(),
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
        (dict(steps=0), "steps must be a whole number of at least 1"),
        (dict(batch_size=0), "batch_size must be a whole number of at least 1"),
        (dict(focus=0.5), "focus must be a finite number of at least 1"),
        (dict(focus=np.nan), "focus must be a finite number of at least 1"),
        (dict(model=dataclasses.replace(tiny(), outputs=3)), "data and strategy need outputs=2"),
        (dict(strategy="kl", model=tiny()), "variational=True"),
        (dict(strategy="flathgn", model=tiny()), "and a GraphNet"),
        (dict(model=FlatHGN(outputs=2)), "and a FlatHGN"),
        (dict(penalty_weight=-1.0), "penalty_weight must be a finite number of at least 0"),
        (dict(intervals=0), "intervals must be a whole number of at least 1"),
        (dict(weight_decay=-1.0), "weight_decay must be a finite number of at least 0"),
        (dict(model=tiny(level="graph")), "predicts a quantity of graphs"),
        (dict(learning_rate=0.0), "learning_rate must be a finite number above 0"),
        (dict(learning_rate=np.nan), "learning_rate must be a finite number above 0"),
    ],
)
def test_bad_options(options, message, spring_parts):
    with pytest.raises(ValueError, match=message):
        training.fit(jax.random.key(0), *spring_parts[:2], **options)


def test_bad_data(spring_parts):
    data, validation = spring_parts[:2]
    target = np.array(data.target)
    target[3, 1, 0] = np.nan
    mass = np.array(data.nodes.mass)
    mass[0, 0] = 0.0
    none = np.zeros(0, int)
    for bad, message in [
        (take(data, slice(0, 0)), "training dataset holds no graphs"),
        (edited(data, target=target), "acceleration of the training dataset has 1 NaN"),
        (edited(data, target=target[:, :2]), "must have shape"),
        (edited(data, mass=mass), "must be positive"),
        (dataclasses.replace(data, graphs=stack_graphs(data.nodes, none, none)), "needs edges"),
        (data.graphs, "must be a Dataset"),
    ]:
        with pytest.raises(ValueError, match=message):
            training.fit(jax.random.key(0), bad, validation)


def test_bf16_products_train_and_what_comes_out_is_float32(spring_parts):
    train, validation, test = spring_parts
    found = {
        name: training.fit(jax.random.key(0), train, validation, model=tiny(precision=name), **TINY)
        for name in ("float32", "bf16")
    }
    one, other = found.values()
    assert other.model == one.model == tiny()
    first, second = (ravel_pytree(x.params)[0] for x in (one, other))
    # Operands have 8 binary digits in place of 24.
    assert 1e-4 < float(jnp.linalg.norm(second - first) / jnp.linalg.norm(first)) < 0.5
    ratio = other.history.validation_error[-1] / one.history.validation_error[-1]
    assert ratio == pytest.approx(1, rel=0.2)
    assert other.predict(test.graphs).shape == one.predict(test.graphs).shape


@pytest.mark.parametrize(("name", "digits"), [("float32", 24), ("bf16", 8)])
def test_products_round_their_operands_and_not_their_sums(name, digits):
    product, numbers = layers.PRODUCTS[name], (((0,), (0,)), ((), ()))
    for shift, kept in ((digits - 1, True), (digits + 1, False)):
        value = jnp.full(1, 1 + 2.0**-shift, jnp.float32)
        assert (float(product(value, jnp.ones(1), numbers)) > 1) == kept
    many = jnp.ones(2**10 + 1)
    assert float(product(many, many, numbers)) == 2**10 + 1


def test_products_that_a_device_has_not_are_refused(spring_parts):
    with pytest.raises(ValueError, match='precision="tf32" needs a GPU, and this is a CPU'):
        training.fit(jax.random.key(0), *spring_parts[:2], model=tiny(precision="tf32"), **TINY)
    with pytest.raises(ValueError, match="Unknown precision 'float16'"):
        tiny(precision="float16")
