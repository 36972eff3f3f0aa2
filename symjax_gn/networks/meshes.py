"""Members of a sweep over devices and processes."""

import math
import os
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from symjax_gn.data.checks import check_count
from symjax_gn.data.memory import bytes_there
from symjax_gn.networks.checkpoints import Checkpoints
from symjax_gn.networks.keys import with_keys, without_keys
from symjax_gn.networks.preparation import Prepared

# Share of the memory of a device that training may take.
_SHARE = 0.8


def members_at_once(prepared: Prepared, count: int, at_once: int | None, mesh: Mesh | None) -> int:
    """Members in one call of the program: a multiple of the devices along the mesh's axis.

    Args:
        prepared: what each trains on.
        count: members in all.
        at_once: how many the user wants in one call; None: as many as fit into memory.
        mesh: devices, or None for one.

    Raises:
        ValueError: the mesh has other axes, or `at_once` is no count.
    """
    if mesh is not None and mesh.axis_names not in (("model",), ("model", "data")):
        raise ValueError(
            f'The mesh needs the axis "model", or "model" and "data", got {mesh.axis_names}.'
        )
    lots: int = 1 if mesh is None else mesh.shape["model"]
    if at_once is None:
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        at_once = lots
        if device.platform != "cpu":
            there = (device.memory_stats() or {}).get("bytes_limit") or bytes_there() or math.inf
            each = prepared.bytes_needed()[0]
            at_once = max(1, int(min(count / lots, _SHARE * there / each))) * lots
    check_count("at_once", at_once)
    return lots * math.ceil(min(at_once, count) / lots)


def last_kept(kept: Checkpoints | None, tree: Any) -> tuple[int, Any]:
    """The last step that the first process has kept, and its states; else 0 and these."""
    start, found = (kept and kept.last(tree)) or (0, tree)
    if jax.process_count() == 1:
        return start, found
    start, raw = broadcast_one_to_all((np.int32(start), without_keys(found)))
    return int(start), with_keys(raw, tree)


def placed(tree: Any, mesh: Mesh, *axes: str) -> Any:
    """Arrays spread over the devices of a mesh; every process has them whole."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def place(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return with_keys(jax.tree.map(place, without_keys(tree)), tree)


def gathered(tree: Any) -> Any:
    """Arrays `[member, ...]` whole, in every process."""
    if jax.process_count() == 1:
        return jax.block_until_ready(tree)
    raw = without_keys(tree)
    leaves, structure = jax.tree.flatten(raw)
    mine = [_rows(leaf) for leaf in leaves]
    # As bytes in one transfer: several at a time may meet in another order elsewhere.
    parts = [np.ascontiguousarray(x).view(np.uint8).reshape(-1) for x in mine]
    found = process_allgather(np.concatenate(parts)).reshape(jax.process_count(), -1)
    cuts = np.split(found, np.cumsum([len(part) for part in parts])[:-1], axis=1)
    whole = [
        np.concatenate([row.copy().view(x.dtype).reshape(x.shape) for row in cut])
        for cut, x in zip(cuts, mine, strict=True)
    ]
    return with_keys(jax.tree.unflatten(structure, whole), tree)


def _rows(x):
    """The rows of an array that are in this process, in order."""
    found = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(found[start]) for start in sorted(found)])


def calls_at_once(mesh: Mesh | None) -> int:
    """Calls of the program side by side: on a CPU one on each core, elsewhere one."""
    here = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if here else os.cpu_count() or 1
    return cores if mesh is None and jax.devices()[0].platform == "cpu" else 1
