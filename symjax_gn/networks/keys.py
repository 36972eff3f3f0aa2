"""PRNG keys as plain arrays, for what takes no keys: files, and transfers between hosts."""

from typing import Any

import jax
import jax.numpy as jnp


def _is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def without_keys(tree: Any) -> Any:
    """The pytree with the data of PRNG keys in their place.

    >>> without_keys(dict(key=jax.random.key(3)))["key"].shape
    (2,)
    """
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def with_keys(tree: Any, like: Any) -> Any:
    """The pytree with PRNG keys where another one, of the same structure, has them.

    >>> before = dict(key=jax.random.key(3))
    >>> with_keys(without_keys(before), before) == before
    True
    """
    return jax.tree.map(lambda x, y: jax.random.wrap_key_data(x) if _is_key(y) else x, tree, like)
