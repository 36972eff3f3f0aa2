import os
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest
from filelock import FileLock

from symjax_gn.data.folders import LOCK
from symjax_gn.networks.checkpoints import Checkpoints
from symjax_gn.networks.members import grid
from symjax_gn.networks.sweeping import sweep
from symjax_gn.networks.training import fit
from tests.test_sweep import KEY, QUICKLY_COMPILED, TINY, parts_of, tiny

# What a folder is for here.
ABOUT = dict(steps=20)


def trained_in(folder, **options):
    return fit(KEY, *parts_of("spring")[:2], **(dict(model=tiny()) | TINY | options), folder=folder)


def swept_in(folder, **options):
    members = grid(learning_rate=[1e-3, 1e-2, 1e35])
    options = dict(model=tiny(), halve_at=[0.5]) | TINY | options
    return sweep(KEY, *parts_of("spring")[:2], members, **options, folder=folder)


def arrays(found):
    """What a fit or a sweep found."""
    trained = getattr(found, "trained", found)
    return trained.params, trained.mask, trained.history, trained.learned


class Stopped(Exception):
    pass


@pytest.mark.parametrize("run", [trained_in, swept_in])
@pytest.mark.parametrize("last", [0, 2])
def test_what_was_stopped_goes_on_bit_for_bit(run, last, tmp_path, monkeypatch):
    whole = run(None)
    save = Checkpoints.save

    def stop(self, step, tree):
        if step == last + 1:
            raise Stopped
        save(self, step, tree)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(Stopped):
            run(tmp_path)
    rest = run(tmp_path)
    chex.assert_trees_all_equal(arrays(rest), arrays(whole))
    if run is swept_in:
        assert rest.ended.tolist() == whole.ended.tolist()
        assert rest.failed.tolist() == whole.failed.tolist()
    # Nothing is left to do.
    monkeypatch.setattr(Checkpoints, "save", stop)
    again = run(tmp_path)
    chex.assert_trees_all_equal(arrays(again), arrays(whole))


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    trained_in(tmp_path)
    for options, what in (
        (dict(learning_rate=0.5), "hyper"),
        (dict(steps=40), "steps"),
        (dict(model=tiny(width=9)), "recipe"),
        (dict(batch_size=4), "batch_size"),
    ):
        with pytest.raises(ValueError, match=f"another training: their {what} is"):
            trained_in(tmp_path, **options)
    with pytest.raises(ValueError, match="another training: their data is"):
        fit(KEY, *parts_of("charge")[:2], model=tiny(), **TINY, folder=tmp_path)
    with pytest.raises(ValueError, match="another training: their "):
        swept_in(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda x: x[: len(x) // 2], lambda x: x[:-9] + b"1" + x[-8:], lambda x: b""]
)
def test_of_a_damaged_checkpoint_the_one_before_is_used(tmp_path, damage):
    tree = dict(weight=np.arange(3.0), key=jax.random.key(1))
    with Checkpoints(tmp_path, ABOUT) as kept:
        for step in (1, 2):
            kept.save(step, tree | dict(weight=step * np.arange(3.0)))
    path = tmp_path / "states" / "00000002.msgpack"
    path.write_bytes(damage(path.read_bytes()))
    with Checkpoints(tmp_path, ABOUT) as kept:
        with pytest.warns(UserWarning, match="00000002.* is damaged .*one before it is used"):
            step, found = kept.last(tree)
        assert step == 1
        np.testing.assert_array_equal(found["weight"], np.arange(3.0))
        assert found["key"] == tree["key"]
        # In its place another may be kept.
        kept.save(2, tree)
        assert kept.last(tree)[0] == 2


def test_two_runs_may_not_use_one_folder(tmp_path):
    with FileLock(tmp_path / LOCK), pytest.raises(ValueError, match="Another run uses"):
        trained_in(tmp_path)


# Trains in a folder, and prints a digest of what came out.
KILLED = """
import hashlib, sys
import jax, numpy as np
sys.path.insert(0, ".")
from tests.test_checkpoints import swept_in, trained_in
run = dict(fit=trained_in, sweep=swept_in)[sys.argv[1]]
print("begins", flush=True)
found = run(sys.argv[2], steps=200, intervals=50)
leaves = jax.tree.leaves(found.params if sys.argv[1] == "fit" else found.trained.params)
print(hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest())
"""


def start(kind, folder):
    command = [sys.executable, "-W", "ignore", "-c", KILLED, kind, str(folder)]
    environment = os.environ | QUICKLY_COMPILED
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def killed_at_random(kind, times, tmp_path, rng):
    """Whether a run that is killed again and again ends as one that is not."""
    whole = start(kind, tmp_path / "whole").communicate()[0].split()[-1]
    for _ in range(times):
        process = start(kind, tmp_path / "killed")
        assert process.stdout.readline() == "begins\n"
        states = tmp_path / "killed" / "states"
        before = len(list(states.glob("*"))) if states.exists() else 0
        while process.poll() is None and not states.exists():
            time.sleep(0.01)
        time.sleep(rng.exponential(0.3) if before else rng.exponential(2.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    rest = start(kind, tmp_path / "killed").communicate()[0].split()[-1]
    assert rest == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fit", "sweep"])
def test_killed_at_twenty_moments(kind, tmp_path):
    killed_at_random(kind, 20, tmp_path, np.random.default_rng(1))
