import functools
import os
import re
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from symjax_gn.data.building import make_dataset
from symjax_gn.data.datasets import take
from symjax_gn.data.splitting import split
from symjax_gn.networks import sweeping
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.intervals import run_interval
from symjax_gn.networks.layers import Properties
from symjax_gn.networks.members import SWEPT, grid, random_members
from symjax_gn.networks.preparation import prepare
from symjax_gn.networks.steps import Hyperparameters
from symjax_gn.networks.sweeping import sweep
from symjax_gn.networks.training import fit
from symjax_gn.physics.simulation import simulate
from symjax_gn.physics.systems import SYSTEMS

KEY = jax.random.key(3)
# Adam compiles faster than Muon.
TINY = dict(steps=20, batch_size=8, intervals=4, optimizer="adam")

# Of other processes, as conftest.py has it for this one.
QUICKLY_COMPILED = dict(JAX_DISABLE_MOST_OPTIMIZATIONS="1")

# Matrix products of other shapes round differently in float32; Adam divides by their size.
CLOSE = dict(rtol=1e-2, atol=1e-3)


def tiny(strategy="bottleneck", **options):
    sizes = dict(outputs=2, message_dim=6, width=8, depth=1)
    inputs = dict(properties=Properties(("charge",), ("mass",)), weight="mass")
    return GraphNet(**(sizes | inputs | dict(variational=strategy == "kl") | options))


@functools.cache
def parts_of(name):
    run = simulate(
        jax.random.key(0), SYSTEMS[name], num_simulations=6, num_outputs=20, solver="midpoint"
    )
    return split(jax.random.key(1), make_dataset(run))


def swept(members, data=None, strategy="bottleneck", **options):
    train, validation, _ = data or parts_of("spring")
    options = dict(model=tiny(strategy), strategy=strategy) | TINY | options
    return sweep(KEY, train, validation, members, **options)


@pytest.mark.parametrize("strategy", ["bottleneck", pytest.param("l1", marks=pytest.mark.slow)])
def test_a_member_is_what_fit_gives(strategy):
    members = grid(seed=[0, 5], learning_rate=[1e-3, 1e-2])
    found = swept(members, strategy=strategy)
    train, validation, test = parts_of("spring")
    options = dict(model=tiny(strategy), strategy=strategy) | TINY
    init_key, star_key = jax.random.split(KEY)
    for k in (0, 3):
        rate = members["learning_rate"][k]
        ready = prepare(star_key, train, validation, **options, learning_rate=rate)
        state = ready.init(jax.random.fold_in(init_key, int(members["seed"][k])))
        alone = fit(KEY, train, validation, **options, learning_rate=rate, state=state)
        one = found.member(k)
        chex.assert_trees_all_close(one.params, alone.params, **CLOSE)
        chex.assert_trees_all_equal(one.mask, alone.mask)
        assert one.history.step.tolist() == alone.history.step.tolist()
        for mine, other in zip(one.history, alone.history, strict=True):
            np.testing.assert_allclose(mine, other, **CLOSE)
        np.testing.assert_allclose(one.predict(test.graphs), alone.predict(test.graphs), **CLOSE)
        assert one.scales.target == pytest.approx(alone.scales.target)
    # Seeds and learning rates tell.
    first = jax.tree.leaves(found.trained.params)[0]
    assert len({float(jnp.sum(jnp.abs(first[k]))) for k in range(4)}) == 4


def test_lots_do_not_matter_and_shapes_are_compiled_for_once():
    members = grid(learning_rate=[1e-3, 1e-2, 3e-2], seed=[1])
    before = sweeping._interval.__wrapped__._cache_size()
    alone = swept(members, at_once=1)
    assert sweeping._interval.__wrapped__._cache_size() <= before + 1
    other = swept(grid(focus=[1.0, 2.0, 4.0]), at_once=1)
    assert sweeping._interval.__wrapped__._cache_size() <= before + 1
    together = swept(members, at_once=2)
    chex.assert_trees_all_close(alone.trained.params, together.trained.params, **CLOSE)
    assert (alone.at_once, together.at_once, other.at_once) == (1, 2, 1)


def test_a_member_that_fails_is_marked_and_stops_no_other():
    found = swept({"learning_rate": [1e-2, 1e35, 1e-2]})
    assert found.failed[0] == found.failed[2] == 0 < found.failed[1]
    assert found.ended.tolist() == [20, 0, 20] or found.ended[1] < found.failed[1]
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(found.trained.params))
    chex.assert_trees_all_close(found.member(0).params, found.member(2).params, **CLOSE)
    table = found.table()
    assert table["says"].tolist() == ["trained", "trained", "failed"]
    assert table.index[-1] == 1


def test_the_worse_half_ends_early():
    found = swept(grid(learning_rate=[1e-6, 1e-2], seed=[0, 1]), halve_at=[0.5])
    # A rate of a millionth learns nothing.
    assert found.ended.tolist() == [10, 10, 20, 20]
    assert found.member(0).history.step.tolist() == [5, 10]
    table = found.table()
    assert sorted(table.index[:2]) == [2, 3]
    assert table["says"].tolist() == ["trained"] * 2 + ["ended early"] * 2
    # Each data set keeps its better half.
    several = both("spring", "charge")
    members = grid(data=[0, 1], learning_rate=[1e-6, 1e-2])
    assert swept(members, several, halve_at=[0.5]).ended.tolist() == [10, 20, 10, 20]


def both(*names):
    return [list(x) for x in zip(*map(parts_of, names), strict=True)]


def test_data_sets_are_an_axis():
    members = grid(data=[0, 1], seed=[2])
    found = swept(members, both("spring", "charge"), "l1")
    for k, name in enumerate(("spring", "charge")):
        alone = swept({"seed": [2]}, parts_of(name), "l1")
        chex.assert_trees_all_close(found.member(k).params, alone.member(0).params, **CLOSE)
        np.testing.assert_allclose(
            found.member(k).history.validation_error,
            alone.member(0).history.validation_error,
            **CLOSE,
        )
        assert found.member(k).scales.target == alone.member(0).scales.target
        assert found.size[k] == pytest.approx(alone.size[0])
    assert found.table()["data"].tolist() in ([0, 1], [1, 0])


def test_the_error_of_the_table_is_a_share_of_predicting_nothing():
    found = swept({"seed": [0]})
    held_out = parts_of("spring")[1]
    size = np.mean(np.sum(np.abs(held_out.target), axis=(1, 2)))
    assert found.size[0] == pytest.approx(size, rel=1e-5)
    error = found.member(0).history.validation_error[-1]
    assert found.table()["error"][0] == pytest.approx(error / size, rel=1e-5)


def test_every_number_of_a_state_can_be_swept():
    values = {name: 2.0 * value + 0.5 for name, value in Hyperparameters()._asdict().items()}
    changed = 0
    for name in Hyperparameters._fields:
        model = tiny("l1", inputs="absolute")
        found = swept({name: [values[name], values[name] + 1.0]}, None, "l1", model=model)
        first = jax.tree.leaves(found.trained.params)[0]
        changed += not np.allclose(first[0], first[1], rtol=1e-6)
    # A cut is either kept or undone, whatever the tolerance.
    assert changed >= len(Hyperparameters._fields) - 1
    assert {*SWEPT} == {"seed", "data", *Hyperparameters._fields}


def test_the_tolerance_of_pruning_is_that_of_the_state():
    options = TINY | dict(model=tiny("l1"), strategy="l1")
    ready = prepare(KEY, *parts_of("spring")[:2], **options)
    fixed = dict(recipe=ready.recipe, batch_size=ready.batch_size, length=ready.length)
    run, kept = jax.jit(functools.partial(run_interval, **fixed)), []
    # Every cut is undone, or none.
    for tolerance in (-1e9, 1e9):
        state = ready.init(KEY, ready.hyper._replace(prune_tolerance=tolerance))
        for _ in range(3):
            state, _ = run(state, ready.train, ready.validation, ready.stars)
        kept.append(int(jnp.sum(state.mask)))
    assert kept[0] > kept[1]


def test_the_initial_scale_is_a_factor_of_weights():
    train, validation, _ = parts_of("spring")
    ready = prepare(KEY, train, validation, model=tiny(), **TINY)
    one, two = (
        ready.init(KEY, Hyperparameters(initial_scale=x)).params["network"] for x in (1.0, 2.0)
    )
    for x, y in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_allclose((2 if x.ndim > 1 else 1) * x, y)


def test_grids_and_random_members():
    found = grid(learning_rate=[0.1, 0.2], seed=range(3))
    assert found["learning_rate"].tolist() == [0.1] * 3 + [0.2] * 3
    assert found["seed"].tolist() == [0, 1, 2, 0, 1, 2]
    drawn = random_members(KEY, 200, learning_rate=(1e-4, 1e-2), weight_decay=(0.0, 1.0))
    rates, decays = drawn["learning_rate"], drawn["weight_decay"]
    assert rates.min() >= 1e-4 and rates.max() <= 1e-2 and np.median(rates) < 2e-3
    assert decays.min() >= 0 and decays.max() <= 1 and 0.3 < np.median(decays) < 0.7
    again = random_members(KEY, 200, learning_rate=(1e-4, 1e-2), weight_decay=(0.0, 1.0))
    np.testing.assert_array_equal(rates, again["learning_rate"])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "need columns of one length, [member]; got none"),
        ({"seed": []}, "no members: their columns are empty"),
        ({"seed": [0, 1], "focus": [1.0]}, "got seed (2,), focus (1,)"),
        ({"seed": [[0, 1]]}, "got seed (1, 2)"),
        ({"width": [32, 64]}, "width is compiled into the program"),
        ({"learning_rat": [0.1]}, "Did you mean 'learning_rate'"),
        ({"learning_rate": [0.1, 0.0]}, "learning_rate must be above 0, got 0"),
        ({"learning_rate": [np.nan]}, "learning_rate has 1 NaN"),
        ({"learning_rate": ["fast"]}, "learning_rate must hold real numbers"),
        ({"focus": [0.5]}, "focus must be of at least 1, got 0.5"),
        ({"seed": [0.5]}, "seed must hold whole numbers"),
        ({"data": [1]}, "data names the data set 1, and there are 1"),
        ({"penalty_weight": [0.1]}, "penalty_weight has no effect here (without a penalty)"),
        ({"prune_tolerance": [0.1]}, "prune_tolerance has no effect here (without pruning)"),
        ({"translation": [1.0]}, "translation has no effect here (of relative positions)"),
    ],
)
def test_members_that_are_wrong(members, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        swept(members)


def test_arguments_that_are_wrong():
    seeds = {"seed": [0, 1]}
    with pytest.raises(ValueError, match="learning_rate has no effect here .of an optimiser's"):
        swept({"learning_rate": [0.1]}, optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="at_once must be a whole number of at least 1, got 0"):
        swept(seeds, at_once=0)
    with pytest.raises(ValueError, match="halve_at must be a finite number above 0"):
        swept(seeds, halve_at=[0.0])
    train, validation, _ = parts_of("spring")
    with pytest.raises(ValueError, match="one for validation: got 2 and 1"):
        sweep(KEY, [train, train], [validation], seeds)
    fewer = take(train, np.arange(len(train) - 1))
    with pytest.raises(ValueError, match="The data sets 0 and 1 do not fit into one program"):
        swept(seeds, ([train, fewer], [validation] * 2, None))
    with pytest.raises(ValueError, match="There are 2 members, the first is 0; got 2"):
        swept(seeds).member(2)
    with pytest.raises(ValueError, match="needs its least and its largest value, got 0.1"):
        random_members(KEY, 3, learning_rate=0.1)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match='needs the axis "model", or "model" and'):
        swept(seeds, mesh=mesh)


# Trains the members of `spread_members` on a mesh and keeps their parameters.
ON_A_MESH = """
import os, sys
import jax, numpy as np
address, count, number, shape, out = sys.argv[1:6]
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(number))
from symjax_gn.networks.checkpoints import Checkpoints
from tests.test_sweep import MEMBERS, swept
shape = tuple(map(int, shape.split(",")))
kinds = (jax.sharding.AxisType.Auto,) * len(shape)
mesh = jax.make_mesh(shape, ("model", "data")[: len(shape)], axis_types=kinds)
save = Checkpoints.save
def stop(self, step, tree):
    save(self, step, tree)
    if step == 2:
        os._exit(1)
if sys.argv[6:] == ["stop"]:
    Checkpoints.save = stop
found = swept(MEMBERS, mesh=mesh, folder=out + ".states")
if jax.process_index() == 0:
    np.savez(out, *jax.tree.leaves(found.trained.params), at_once=found.at_once)
"""
MEMBERS = {"seed": [0, 1, 2, 3, 4]}


def on_a_mesh(tmp_path, count, shape, *words, **environment):
    """Several processes that train together; what the first of them has kept."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | dict(PYTHONPATH=".") | QUICKLY_COMPILED | environment
    out = tmp_path / "params.npz"
    command = [sys.executable, "-c", ON_A_MESH, address, str(count)]
    processes = [
        subprocess.Popen(
            [*command, str(number), ",".join(map(str, shape)), str(out), *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]
    if words:
        processes[0].communicate()
        for process in processes[1:]:
            process.kill()
            process.communicate()
        return None
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, said
    kept = np.load(out)
    return [kept[name] for name in kept.files if name != "at_once"], int(kept["at_once"])


def test_members_and_batches_are_spread_over_devices(tmp_path):
    flags = f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"
    found, at_once = on_a_mesh(tmp_path, 1, (4, 2), XLA_FLAGS=flags)
    assert at_once == 4
    for mine, other in zip(found, jax.tree.leaves(swept(MEMBERS).trained.params), strict=True):
        np.testing.assert_allclose(mine, other, **CLOSE)


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    found, at_once = on_a_mesh(tmp_path, 2, (2,))
    assert at_once == 2
    for mine, other in zip(found, jax.tree.leaves(swept(MEMBERS).trained.params), strict=True):
        np.testing.assert_allclose(mine, other, **CLOSE)


@pytest.mark.slow
def test_two_processes_go_on_where_they_were_stopped(tmp_path):
    on_a_mesh(tmp_path, 2, (2,), "stop")
    assert sorted(path.name for path in (tmp_path / "params.npz.states/states").iterdir()) == [
        "00000001.msgpack",
        "00000002.msgpack",
    ]
    found, _ = on_a_mesh(tmp_path, 2, (2,))
    for mine, other in zip(found, jax.tree.leaves(swept(MEMBERS).trained.params), strict=True):
        np.testing.assert_allclose(mine, other, **CLOSE)
