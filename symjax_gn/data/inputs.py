"""What a user predicts for, in any form, as flat batches of graphs; predictions in its shape."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from symjax_gn.data.checks import as_floats, shown
from symjax_gn.data.datasets import Dataset, with_time
from symjax_gn.data.features import TIME, check_fields, described
from symjax_gn.data.graphs import (
    Edges,
    GraphsTuple,
    check_edges,
    complete_edges,
    flatten,
    radius_edges,
    stack_graphs,
    take_graphs,
)
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape, take_nodes
from symjax_gn.data.space import FREE, Space
from symjax_gn.data.stacking import flat_batch
from symjax_gn.data.trajectories import Trajectory

# Edges, or nodes where there are more, looked at together: some 20 columns of each, 80 MB.
_AT_ONCE = 500_000

_VECTORS = ("position", "velocity")

Bodies = Nodes | Mapping[str, Any]
"""Bodies as `Nodes`, or as arrays by name: position, velocity, mass, ..."""

Data = GraphsTuple | Sequence[GraphsTuple] | Dataset | Trajectory | Bodies
"""What models predict for."""


class Needs(NamedTuple):
    """What a model needs of data, and what it gives."""

    whose: str
    """What messages call the model."""
    fields: Mapping[str, Sequence[str]]
    """Fields of the nodes, and the features that need them: see `needed_fields`."""
    level: str
    """Of the quantity: "node" or "graph"."""
    joined: bool
    """Whether messages go along edges."""
    dim: int | None = None
    """Axes that positions must have; None: any."""
    space: Space = FREE
    """The one that the model is for."""
    optional: tuple[str, ...] = ()
    """Fields that are taken where they are there."""

    def check(self, nodes: Nodes, have: str | None = None) -> None:
        """Raise a `ValueError` that says what nodes lack, which have what is said."""
        have = described(nodes) if have is None else have
        check_fields(self.fields, nodes, self.whose, have)
        axes = self.dim if nodes.position is None else np.shape(nodes.position)[-1]
        if self.dim is not None and axes != self.dim:
            raise ValueError(
                f"{self.whose} gives vectors along {self.dim} axes, positions have {axes}."
            )


class Batches(NamedTuple):
    """A user's data as flat batches of graphs."""

    graphs: Iterator[GraphsTuple]
    """Flat batches, NumPy, one after the other."""
    restore: Callable[[Sequence[Any]], Any]
    """Predictions `[node, component]`, or `[graph, component]`, of each of the batches in the
    shape of the data."""


def flat_batches(
    data: Data,
    needs: Needs,
    *,
    senders: Int[AnyArray, " edge"] | None = None,
    receivers: Int[AnyArray, " edge"] | None = None,
    cutoff: float | None = None,
) -> Batches:
    """A user's data as flat batches, a bounded number of edges in each.

    Args:
        data: stacked graphs or a `Dataset`: predictions are `[graph, node, component]`; a plain
            jraph graph or batch: `[node, component]`; a list of these: a list; a `Trajectory`:
            `[sim, time, node, component]`; `Nodes`, or arrays by name with any leading axes:
            `[..., node, component]`. For quantities of graphs there is no node axis, and for a
            list of graphs one array `[graph, component]`.
        needs: what the model needs; other arrays of a mapping are not looked at.
        senders: `[edge]`, of bodies that come without edges; by default all pairs.
        receivers: the same.
        cutoff: in place of edges, the distance within which bodies are joined.

    Raises:
        ValueError: the data are of another kind or lack a field, shapes or spaces disagree, or
            edges are given for what has its own, or are missing.

    >>> needs = Needs("The law", {"mass": ["m_i"], "position": ["r"]}, "node", True)
    >>> bodies = {"position": np.zeros((5, 3, 2)), "mass": np.ones(3)}
    >>> [one.nodes.mass.shape for one in flat_batches(bodies, needs).graphs]
    [(15,)]
    """
    edges = None if senders is None and receivers is None else (senders, receivers)
    given = edges is not None or cutoff is not None
    if edges is not None and (cutoff is not None or senders is None or receivers is None):
        raise ValueError("Give both senders and receivers, or a cutoff, or none of them.")
    if given and not needs.joined:
        raise ValueError(f"{needs.whose} has no pairs: leave senders, receivers and cutoff out.")
    space = getattr(data, "space", needs.space)
    if not _same(space, needs.space):
        raise ValueError(
            f"{needs.whose} is for the box {needs.space.box}, the data are in the box {space.box} "
            "(None is free space). If a law holds in both, use dataclasses.replace(law, space=...)."
        )
    if isinstance(data, Dataset):
        data = (with_time(data) if TIME in needs.fields else data).graphs
    graphs = isinstance(data, GraphsTuple) or type(data) in (list, tuple)
    if graphs and given:
        raise ValueError("Graphs have edges of their own: leave senders and cutoff out.")
    return _of_graphs(data, needs) if graphs else _of_bodies(data, needs, edges, cutoff)


def _same(first, second):
    if first.box is None or second.box is None:
        return first.box is second.box
    return np.shape(first.box) == np.shape(second.box) and np.allclose(first.box, second.box)


def _of_graphs(data, needs) -> Batches:
    if isinstance(data, GraphsTuple):
        if np.ndim(data.n_node) == 2 and isinstance(data.nodes, Nodes):
            return _of_stacked(data, needs)
        return Batches(iter([_plain(data, needs)]), lambda found: found[0])
    if not data:
        raise ValueError("There are no graphs to predict for: got an empty list.")
    graphs = [_plain(one, needs) for one in data]
    kinds = sorted({described(one.nodes) for one in graphs})
    if len(kinds) > 1:
        raise ValueError(f"The graphs of a list must have the same features, got: {kinds}.")
    ends = np.cumsum([leading_shape(one.nodes)[0] for one in graphs])[:-1]

    def restore(found):
        return found[0] if needs.level == "graph" else np.split(found[0], ends)

    return Batches(iter([flat_batch(graphs)]), restore)


def _plain(graphs, needs) -> GraphsTuple:
    """A user's graph as a flat batch, once it is sure that it has what is needed."""
    flat = flat_batch(graphs)
    needs.check(flat.nodes)
    if needs.joined and graphs.senders is None:
        raise ValueError(
            f"{needs.whose} sums over edges, and these graphs have none (senders=None): give them "
            "senders and receivers, e.g. complete_edges(n)."
        )
    return flat


def _of_stacked(graphs: GraphsTuple, needs: Needs) -> Batches:
    needs.check(graphs.nodes)
    graphs = jax.tree.map(np.asarray, graphs)
    count, size = leading_shape(graphs.nodes)
    parts = graphs.n_node.shape[-1]

    def restore(found):
        whole = np.concatenate(found)
        if needs.level == "node":
            return whole.reshape(count, size, -1)
        return whole.reshape(count, parts, -1)[:, 0]

    lots = _lots(count, max(graphs.senders.shape[-1], size))
    few = (graphs if lot is None else take_graphs(graphs, lot) for lot in lots)
    return Batches((flatten(one) for one in few), restore)


def _lots(count, size) -> Iterator[slice | None]:
    """Slices of `count` graphs of so many edges; None for all at once."""
    together = max(1, _AT_ONCE // max(1, size))
    if together >= count:
        return iter([None])
    return (slice(first, first + together) for first in range(0, count, together))


def as_bodies(data: Bodies, needs: Needs) -> Nodes:
    """Bodies with any leading axes, `[..., node]`, as `Nodes` of float64 arrays.

    Args:
        data: `Nodes`, or a mapping of arrays by name: position and velocity `[..., node, dim]`,
            properties `[..., node]`, `[node]`, one per recording, `[sim, node]`, or a number.
        needs: what a model needs; others are not looked at.

    Raises:
        ValueError: the data lack what is needed or hold no numbers, or shapes disagree.

    >>> needs = Needs("The law", {"mass": ["m_i"], "position": ["r"]}, "node", True)
    >>> as_bodies({"position": [[0.0, 0.0], [1.0, 0.0]], "mass": 2.0}, needs).mass
    array([2., 2.])
    """
    if isinstance(data, Nodes):
        given = data.properties | dict(position=data.position, velocity=data.velocity)
    elif isinstance(data, Mapping):
        given = dict(data)
    else:
        raise ValueError(
            "Bodies must be Nodes or arrays by name (position, velocity, mass, ...), got "
            f"{shown(data)}."
        )
    given = {name: x for name, x in given.items() if x is not None}
    have = ", ".join(map(str, given)) or "nothing"
    arrays = {name: given[name] for name in (*needs.fields, *needs.optional) if name in given}
    columns: dict[str, Any] = {
        name: as_floats(f"The {name} of the bodies", x) for name, x in arrays.items()
    }
    vectors = {name: columns.pop(name, None) for name in _VECTORS}
    shapes = {name: x.shape for name, x in vectors.items() if x is not None}
    for name, shape in shapes.items():
        if len(shape) < 2 or len(set(shapes.values())) > 1:
            raise ValueError(
                f"The {name} of the bodies must have shape [..., node, dim], as all vectors, got "
                f"{shape}{_others(shapes, name)}."
            )
    # Elements of sets have no places: the property with the most axes says how many there are.
    properties = sorted((x.shape for x in columns.values()), key=len)
    lead = next((x[:-1] for x in shapes.values()), properties[-1] if properties else ())
    needs.check(Nodes(**vectors, properties=columns), have)
    if not lead:
        raise ValueError("Bodies need positions or properties `[..., node]`, got numbers.")
    for name, x in columns.items():
        if x.shape not in {(), lead[-1:], (*lead[:1], *lead[-1:]), lead}:
            raise ValueError(
                f"The {name} of the bodies must have shape {lead} or {lead[-1:]}, got {x.shape}."
            )
        if 1 < x.ndim < len(lead):
            x = x.reshape(*lead[:1], *(1 for _ in lead[1:-1]), lead[-1])
        columns[name] = np.broadcast_to(x, lead)
    return Nodes(vectors["position"], vectors["velocity"], columns)


def _others(shapes, name):
    return "".join(f" beside {other} {x}" for other, x in shapes.items() if other != name)


def _of_bodies(data, needs, edges, cutoff) -> Batches:
    if isinstance(data, Trajectory):
        count = data.position.shape[1]
        properties: dict[str, Any] = {
            name: np.repeat(np.asarray(x)[:, None], count, axis=1)
            for name, x in data.properties.items()
        }
        moments = np.broadcast_to(data.time[:, None], data.position.shape[:3])
        data = Nodes(data.position, data.velocity, {TIME: moments} | properties)
    if not isinstance(data, Nodes | Mapping):
        raise ValueError(
            "Predictions are made for a jraph.GraphsTuple or a list of them, a Dataset, a "
            "Trajectory, Nodes, or arrays by name (position, velocity, mass, ...), got "
            f"{shown(data)}."
        )
    bodies = as_bodies(data, needs)
    lead = leading_shape(bodies)
    count, size = int(np.prod(lead[:-1])), lead[-1]
    nodes = jax.tree.map(lambda x: x.reshape(count, size, *x.shape[len(lead) :]), bodies)
    none = np.zeros(0, np.int32)
    ends: Edges = (none, none)
    if edges is not None:
        ends = as_edges(edges[0], edges[1], size)
    elif needs.joined and cutoff is None and size > 1:
        ends = complete_edges(size)

    def batches():
        for lot in _lots(count, max(len(ends[0]), size)):
            few = nodes if lot is None else take_nodes(nodes, lot)
            if cutoff is None:
                yield flatten(stack_graphs(few, *ends))
            else:
                yield _within(few, cutoff, needs.space)

    def restore(found):
        whole = np.concatenate(found)
        return whole.reshape(*(lead if needs.level == "node" else lead[:-1]), whole.shape[-1])

    return Batches(batches(), restore)


def as_edges(senders: Any, receivers: Any, num_nodes: int) -> Edges:
    """Edges that a user gave, as arrays; they need not go both ways.

    Raises:
        ValueError: see `check_edges`.

    >>> as_edges([0], [1], 2)
    (array([0], dtype=int32), array([1], dtype=int32))
    """
    check_edges(senders, receivers, num_nodes, both_ways=False)
    return np.asarray(senders, np.int32), np.asarray(receivers, np.int32)


def _within(nodes: Nodes, cutoff: float, space: Space) -> GraphsTuple:
    """A flat batch of bodies `[configuration, node, ...]` joined within a distance."""
    position: Float[np.ndarray, "configuration node dim"] = nodes.position
    count, size = position.shape[:2]
    single = [radius_edges(one, cutoff, space) for one in position]
    senders, receivers = (
        np.concatenate([pair[end] + size * k for k, pair in enumerate(single)]) for end in (0, 1)
    )
    return GraphsTuple(
        nodes=jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:]), nodes),
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=np.full(count, size),
        n_edge=np.array([len(pair[0]) for pair in single]),
    )
