"""Checkpoints of training: states in a folder from which a killed run goes on."""

import os
import re
import shutil
import warnings
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from symjax_gn.networks.keys import with_keys, without_keys
from symjax_gn.networks.preparation import Prepared

# States that are kept: the last one, and one to go back to if it is damaged.
_KEPT = 2


class Checkpoints:
    """States of one training in a folder; only one run at a time may use it.

    Orbax writes each state beside the others and then renames it, so that an interruption
    damages none.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with Checkpoints(folder, dict(steps=20)) as kept:
    ...     kept.save(10, dict(weight=np.arange(2.0)))
    >>> with Checkpoints(folder, dict(steps=20)) as kept:
    ...     kept.last(dict(weight=np.zeros(2)))
    (10, {'weight': array([0., 1.])})
    """

    def __init__(
        self, folder: str | os.PathLike[str], about: dict[str, Any], *, resume: bool = True
    ):
        """Open a folder, which is made if it is not there.

        Args:
            folder: for this training alone.
            about: what decides the course of the training, in plain values.
            resume: False deletes the states that are there.

        Raises:
            ValueError: another run uses the folder.
        """
        import orbax.checkpoint as ocp
        from filelock import FileLock, Timeout

        self._ocp, self._about = ocp, about
        self._folder = Path(folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"Another run uses the checkpoints in {folder}: wait for its end, or give "
                "another folder."
            ) from None
        states = self._folder / "states"
        states.mkdir(exist_ok=True)
        # What a killed run was writing; Orbax' own cleaning meets what is written next.
        for left in states.glob("*.orbax-checkpoint-tmp*" if resume else "*"):
            shutil.rmtree(left)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            create=False,
            enable_async_checkpointing=False,
            # Where there are several processes, this one alone keeps what all have.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(), active_processes={jax.process_index()}
            ),
        )
        self._manager = ocp.CheckpointManager(states, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()
        self._lock.release()

    def save(self, step: int, tree: Any) -> None:
        """Keep a pytree of arrays and PRNG keys as the state of a step."""
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(
                state=args.StandardSave(_flat(tree)), about=args.JsonSave(self._about)
            ),
        )

    def last(self, like: Any) -> tuple[int, Any] | None:
        """The last step whose state is whole, and that state; None if there is none.

        Warns where a later one is damaged.

        Args:
            like: a pytree of the same structure, types and shapes.

        Raises:
            ValueError: the state is of another training.
        """
        args = self._ocp.args
        for step in sorted(self._manager.all_steps(), reverse=True):
            about = self._read(step, about=args.JsonRestore())
            if about is not None:
                self._check(about)
                found = self._read(step, state=args.StandardRestore(_flat(like)))
                if found is not None:
                    return step, _unflat(found, like)
            self._manager.delete(step)
        return None

    def _read(self, step, **item):
        """An item of a step; None, with a warning, if it is damaged."""
        (name,) = item
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**item))[name]
        except Exception as error:  # a damaged file ends in whatever its reader raises
            warnings.warn(
                f"The checkpoint of step {step} in {self._folder} is damaged "
                f"({type(error).__name__}: {error}); the one before it is used.",
                stacklevel=4,
            )
            return None

    def _check(self, about):
        """Whether a checkpoint is one of this training."""
        for name, mine in self._about.items():
            if about.get(name) != mine:
                raise ValueError(
                    f"The checkpoints in {self._folder} are of another training: their {name} is "
                    f"{about.get(name)!r}, here it is {mine!r}. Give another folder, or delete it."
                )


def describe(key: PRNGKeyArray, prepared: Prepared, **more: Any) -> dict[str, Any]:
    """What decides the course of a training, in plain values.

    Args:
        key: PRNG key of the training.
        prepared: what is trained, and on what.
        **more: plain values.
    """
    recipe = prepared.recipe
    return dict(
        version=version("symjax_gn"),
        strategy=recipe.strategy,
        steps=recipe.steps,
        length=prepared.length,
        batch_size=prepared.batch_size,
        hyper=[float(x) for x in prepared.hyper],
        # Where functions lie in memory is no part of what they do.
        recipe=re.sub(r" at 0x[0-9a-f]+", "", repr(recipe)),
        key=np.asarray(jax.random.key_data(key)).tolist(),
        data=[_sum(part) for part in (prepared.train, prepared.validation)],
        **more,
    )


def _sum(tree):
    """A checksum of all arrays."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        found = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), found)
    return found


def _flat(tree):
    """The arrays of a pytree by their numbers."""
    leaves = jax.tree.leaves(without_keys(tree))
    return {f"{k:04d}": np.asarray(leaf) for k, leaf in enumerate(leaves)}


def _unflat(found, like):
    """The pytree of what `_flat` gave."""
    leaves, structure = jax.tree.flatten(like)
    values = [
        jnp.asarray(found[name]) if isinstance(leaf, jax.Array) else found[name]
        for name, leaf in zip(sorted(found), leaves, strict=True)
    ]
    return with_keys(jax.tree.unflatten(structure, values), like)
