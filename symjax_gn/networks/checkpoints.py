"""Checkpoints of training: states in a folder from which a killed run goes on."""

import contextlib
import hashlib
import json
import os
import re
import warnings
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jaxtyping import PRNGKeyArray

from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.folders import delete_files, own_folder
from symjax_gn.networks.keys import with_keys, without_keys
from symjax_gn.networks.preparation import Prepared

# States are files with the number of their step; others in their folder are left alone.
_STATES, _NUMBER, _END = "states", 8 * "[0-9]", ".msgpack"

# States that are kept: the last one, and one to go back to if it is damaged.
_KEPT = 2


class Checkpoints:
    """States of one training in a folder; only one run at a time may use it.

    Each state is a file that is written in one stroke, so that an interruption damages none.
    Reading one runs nothing, whoever wrote it.

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
            ValueError: another run uses the folder, or the package did not make it.
        """
        # As it will be read.
        self._about, self._open = json.loads(json.dumps(about)), contextlib.ExitStack()
        self._open.enter_context(own_folder(folder, [f"{_STATES}/"]))
        self._states = Path(folder).absolute() / _STATES
        self._states.mkdir(exist_ok=True)
        # What a killed run was writing is of no use.
        unwanted = [f"{_NUMBER}{_END}.*.part", *([] if resume else [_NUMBER + _END])]
        delete_files(self._states, unwanted)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def save(self, step: int, tree: Any) -> None:
        """Keep a pytree of arrays and PRNG keys as the state of a step."""
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(without_keys(tree))]
        state = serialization.msgpack_serialize(dict(about=json.dumps(self._about), leaves=leaves))
        with in_one_stroke(self._states / f"{step:08d}{_END}") as part:
            part.write_bytes(hashlib.sha256(state).digest() + state)
        for path in self._paths()[:-_KEPT]:
            path.unlink()

    def last(self, like: Any) -> tuple[int, Any] | None:
        """The last step whose state is whole, and that state; None if there is none.

        Warns where a later one is damaged, which is deleted.

        Args:
            like: a pytree of the same structure, types and shapes.

        Raises:
            ValueError: the state is of another training.
        """
        for path in reversed(self._paths()):
            try:
                about, leaves = _read(path)
            except Exception as error:  # a damaged file ends in whatever its reader raises
                warnings.warn(
                    f"The checkpoint {path} is damaged ({type(error).__name__}: {error}); the one "
                    "before it is used.",
                    stacklevel=2,
                )
                path.unlink()
                continue
            self._check(about)
            return int(path.name.removesuffix(_END)), _unflat(leaves, like)
        return None

    def _paths(self):
        """The files of states, the last one last."""
        return sorted(self._states.glob(_NUMBER + _END))

    def _check(self, about):
        """Whether a checkpoint is one of this training."""
        for name, mine in self._about.items():
            if about.get(name) != mine:
                raise ValueError(
                    f"The checkpoints in {self._states.parent} are of another training: their "
                    f"{name} is {about.get(name)!r}, here it is {mine!r}. Give another folder, or "
                    "delete it."
                )


def _read(path):
    """What a state is about, and its arrays; any exception if it is damaged."""
    data = path.read_bytes()
    checksum, state = data[:32], data[32:]
    if hashlib.sha256(state).digest() != checksum:
        raise ValueError("its checksum is wrong")
    found: Any = serialization.msgpack_restore(state)
    return json.loads(found["about"]), found["leaves"]


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


def _unflat(leaves, like):
    """The pytree of the arrays that `save` wrote."""
    known, structure = jax.tree.flatten(without_keys(like))
    if [(x.shape, x.dtype) for x in leaves] != [(x.shape, x.dtype) for x in known]:
        raise ValueError("A checkpoint holds the arrays of another training.")
    pairs = zip(leaves, known, strict=True)
    values = [jnp.asarray(x) if isinstance(y, jax.Array) else x for x, y in pairs]
    return with_keys(jax.tree.unflatten(structure, values), like)
