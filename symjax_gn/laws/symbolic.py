"""Laws: expressions to call, to predict and to simulate with, and small readable files.

A law stands in the place of a network, as a model like any other.
"""

import dataclasses
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sympy
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import ArrayLike

from symjax_gn.data.border import check_fields
from symjax_gn.data.checks import check_choice, shown
from symjax_gn.data.features import (
    COUNT,
    element_features,
    needed_fields,
    node_features,
    pair_features,
    parse_feature,
)
from symjax_gn.data.graphs import GraphsTuple
from symjax_gn.data.inputs import Bodies, Data, Needs, flat_batches
from symjax_gn.data.nodes import AnyArray, Nodes, leading_shape, take_nodes
from symjax_gn.data.quantities import ACCELERATION, Quantity
from symjax_gn.data.space import FREE, Space
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.laws.calling import call_columns
from symjax_gn.laws.expressions import evaluate, to_jax
from symjax_gn.model import Contributions, Prediction

ELEMENTS = ("edges", "nodes")


@dataclasses.dataclass(frozen=True)
class SymbolicModel:
    """A law: messages and update written as expressions, in the user's units.

    Called, it gives what one body does to another: the messages, for a law of motion the force
    on i from j. It takes columns by name, or the values of two bodies, i and j:

    >>> r, dx, dy, m_i, m_j, e_0, e_1 = sympy.symbols("r dx dy m_i m_j e_0 e_1")
    >>> law = SymbolicModel(
    ...     message=(m_i * m_j * dx / r**3, m_i * m_j * dy / r**3), update=(e_0 / m_i, e_1 / m_i)
    ... )
    >>> law(r=np.array([1.0, 2.0]), m_i=1.0, m_j=4.0)  # where only r is given, j lies along x
    array([[4., 0.],
           [1., 0.]])
    >>> law({"position": [0.0, 0.0], "mass": 1.0}, {"position": [0.0, 2.0], "mass": 4.0})
    array([0., 1.])

    `predict` gives the quantity of all bodies, here accelerations, for graphs, trajectories or
    plain arrays; `simulate` moves bodies by it:

    >>> pair = {"position": [[0.0, 0.0], [1.0, 0.0]], "mass": [1.0, 4.0]}
    >>> law.predict(pair)
    array([[ 4.,  0.],
           [-1.,  0.]])
    >>> start = pair | {"velocity": [[0.0, -2.0], [0.0, 0.5]]}
    >>> law.simulate(start, np.linspace(0.0, 1.0, 11)).position.shape
    (1, 11, 2, 2)

    A law has the call of a network as well: `init` and `apply`, which works under `jit`, `vmap`
    and `grad`. Its parameters are the constants of the expressions. Laws are hashable: equal
    expressions, elements, quantity and space make equal laws, wherever they are from.

    Attributes:
        message: one expression for each message component, of the features of a pair (see
            `data.features`), or of an element of a set.
        update: one expression for each component of the quantity, of the summed messages
            `e_0`, `e_1`, ... and of the features of the receiver.
        elements: "edges", along which messages go, or "nodes", the elements of a set.
        quantity: what the law predicts.
        space: free or periodic, user's unit of length.
        provenance: where the law is from: anything that JSON can hold.

    Raises:
        ValueError: there are no expressions, or an update of sums that there are not.
    """

    message: tuple[sympy.Expr, ...]
    update: tuple[sympy.Expr, ...]
    elements: str = "edges"
    quantity: Quantity = ACCELERATION
    space: Space = FREE
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    conservative = False

    def __post_init__(self):
        check_fields(self, but=("message", "update"))
        check_choice("kind of elements", self.elements, ELEMENTS)
        for name in ("message", "update"):
            object.__setattr__(self, name, _as_expressions(name, getattr(self, name)))
        if not self.message or not self.update:
            raise ValueError("A law needs at least one message and one update expression.")
        if self.elements == "nodes" and self.level == "node":
            raise ValueError(
                "Elements of sets have no receivers, so their law needs a quantity of graphs, e.g. "
                f'Quantity("z", "graph"); got {self.quantity.name}, a quantity of nodes.'
            )
        sums = {f"e_{k}" for k in range(len(self.message))}
        for law in self.update:
            for name in map(str, law.free_symbols):
                if parse_feature(name).kind == "message" and name not in sums:
                    raise ValueError(
                        f"The update holds {name}, but there are only {len(self.message)} "
                        f"messages: {', '.join(sorted(sums))}."
                    )

    def __call__(self, *bodies: Any, **columns: Any) -> Float[AnyArray, "*batch message"]:
        """The messages, e.g. the force on i from j.

        Args:
            *bodies: i and j, each `Nodes` or arrays by name: position and velocity `[..., dim]`,
                properties `[...]`; for laws of sets the elements; for a law of one variable its
                values.
            **columns: variables by name, `[...]`: `r`, or `dx`, `dy`, ... from i to j, `m_i`,
                `m_j`, `vx_i`, ... (see `data.features.parse_feature`). Distances and speeds that
                follow from components need not be given. All broadcast.

        Returns:
            `[..., message]`, float64 NumPy; JAX where an array of JAX is given, so that `jit`,
            `vmap` and `grad` work. Not finite where an expression is not. If only `r` is given,
            j lies along x: the first component is the force towards j. Laws that depend on the
            direction need `dx`, `dy`, ...

        Raises:
            ValueError: a variable is missing or unknown, or r disagrees with the displacement.

        >>> r, dx = sympy.symbols("r dx")
        >>> spring = SymbolicModel(((2.0 * r - 1.5) * dx / r,), (sympy.Symbol("e_0"),))
        >>> spring(1.0), spring(dx=-1.0)
        (array([0.5]), array([-0.5]))
        >>> spring(m_j=1.0)
        Traceback (most recent call last):
        ValueError: The law takes r; got m_j, so that r must be added.
        """
        found = call_columns(self.message, self.elements == "edges", self.space, bodies, columns)
        shape = np.broadcast_shapes(*map(np.shape, found.values()))
        if any(isinstance(x, jax.Array) for x in found.values()):
            return _values(self._functions()[0], self.init()["message"], found, shape)
        found = {name: np.broadcast_to(x, shape) for name, x in found.items()}
        return np.stack([_on_host(law, found, shape) for law in self.message], axis=-1)

    @property
    def level(self) -> str:
        """What the quantity is of: "node" or "graph"."""
        return self.quantity.level

    @property
    def message_dim(self) -> int:
        """Number of message components."""
        return len(self.message)

    @property
    def constants(self) -> tuple[float, ...]:
        """Values of the constants: those of the messages, then those of the update."""
        return tuple(float(x) for laws in self._functions() for _, _, x in laws for x in x)

    def _functions(self) -> list[list[tuple[Any, list[str], Any]]]:
        """For messages and update: functions, names of their variables, constants."""
        found = []
        for laws in (self.message, self.update):
            names = [sorted(map(str, law.free_symbols)) for law in laws]
            pairs = [to_jax(law, own) for law, own in zip(laws, names, strict=True)]
            found.append([(f, own, c) for (f, c), own in zip(pairs, names, strict=True)])
        return found

    def init(self, key: PRNGKeyArray | None = None, graphs: GraphsTuple | None = None) -> Any:
        """The constants, as parameters; nothing is random."""
        del key, graphs
        message, update = ([x for _, _, x in laws] for laws in self._functions())
        return dict(message=message, update=update)

    def apply(self, params: Any, *args: Any, method: str | None = None, **options: Any) -> Any:
        """A `Prediction` for a flat batch of graphs, user's units, or what `method` names.

        Args:
            params: what `init` gave, or other values of the constants.
            *args: the flat batch, or arguments of the method.
            method: "message", "update" or "contributions".
            **options: `mask`, `[message]`, factors of the messages; `key` changes nothing.
        """
        methods = dict(
            message=self._message, update=self._update, contributions=self._contributions
        )
        if method is None:
            return self._predict_flat(params, *args, **options)
        check_choice("method of a law", method, methods)
        return methods[method](params, *args, **options)

    def _message(self, params, receiver, sender):
        columns = _pair_columns(receiver, sender, self.space)
        laws = self._functions()[0]
        return _values(laws, params["message"], columns, leading_shape(sender)), None

    def _update(self, params, owner, aggregate, count):
        columns = {COUNT: count} | ({} if owner is None else _node_columns(owner))
        columns |= {f"e_{k}": aggregate[..., k] for k in range(aggregate.shape[-1])}
        return _values(self._functions()[1], params["update"], columns, aggregate.shape[:-1])

    def _predict_flat(self, params, graphs, mask=None, key=None) -> Prediction:
        del key
        nodes = graphs.nodes
        self.needs.check(nodes)
        receiver, sender, owner = None, nodes, None
        count = graphs.n_node.shape[0]
        if self.elements == "edges":
            receiver = take_nodes(nodes, graphs.receivers)
            sender = take_nodes(nodes, graphs.senders)
        messages = self._message(params, receiver, sender)[0]
        messages = messages if mask is None else messages * mask
        if self.level == "node":
            owner, index, count = nodes, graphs.receivers, leading_shape(nodes)[0]
        else:
            sizes = graphs.n_node if self.elements == "nodes" else graphs.n_edge
            index = jnp.repeat(jnp.arange(count), sizes, total_repeat_length=messages.shape[0])
        aggregate = jax.ops.segment_sum(messages, index, count)
        sent = jax.ops.segment_sum(jnp.ones_like(index, messages.dtype), index, count)
        return Prediction(self._update(params, owner, aggregate, sent), messages)

    def _contributions(self, params, receiver, senders, present, mask) -> Contributions:
        ends = receiver and jax.tree.map(
            lambda x: jnp.broadcast_to(x, (present.shape[0], *jnp.shape(x))), receiver
        )
        messages = mask * self._message(params, ends, senders)[0]
        here = present[:, None]
        aggregate = jnp.sum(jnp.where(here, messages, 0.0), axis=0)

        def updated(aggregate):
            return self._update(params, receiver, aggregate, jnp.sum(present))

        weight: Any = 1.0
        if receiver is not None and self.quantity.weight:
            weight = receiver.properties.get(self.quantity.weight, 1.0)

        def weighed(aggregate):
            return weight * updated(aggregate)

        jacobian = jax.jacobian(weighed)(aggregate)
        terms = messages @ jacobian.T
        alone = weighed(aggregate) - jnp.sum(jnp.where(here, terms, 0.0), axis=0)
        value = updated(aggregate)
        return Contributions(terms, alone, value, messages, 0 * aggregate, jacobian)

    @property
    def needs(self) -> Needs:
        """What the law needs of data."""
        laws = (*self.message, *self.update)
        fields = needed_fields(sorted({str(x) for law in laws for x in law.free_symbols}))
        if self.quantity.vector:
            fields.setdefault("position", [])
        dim = len(self.update) if self.quantity.vector else None
        return Needs("The law", fields, self.level, self.elements == "edges", dim, self.space)

    def predict(
        self,
        data: Data,
        *,
        senders: Int[AnyArray, " edge"] | None = None,
        receivers: Int[AnyArray, " edge"] | None = None,
        cutoff: float | None = None,
    ) -> Any:
        """The quantity of all bodies, or of sets, in the user's units: float64 on the host.

        Args:
            data: what to predict for; features that the law does not need may be there too.
                - a jraph graph or batch: the result is `[node, component]`
                - a list of these: a list of such arrays
                - a `Trajectory`: `[sim, time, node, component]`
                - `Nodes`, or arrays by name, position `[..., node, dim]`, mass `[..., node]` or
                  `[node]`, ..., with any leading axes: `[..., node, component]`
                - a `Dataset`, or stacked graphs: `[graph, node, component]`

                For quantities of graphs there is no node axis, and `[graph, component]` for lists.
            senders: `[edge]`, for bodies that come without edges; by default all pairs.
            receivers: the same.
            cutoff: in place of edges, the distance within which bodies act on each other.

        Returns:
            See above; not finite where an expression is not.

        Raises:
            ValueError: the data lack something that the law needs, or cannot be read.
        """
        edges: Any = dict(senders=senders, receivers=receivers, cutoff=cutoff)
        graphs, restore = flat_batches(data, self.needs, **edges)
        return restore([self._predict_on_host(one) for one in graphs])

    def _predict_on_host(self, flat: GraphsTuple) -> Float[np.ndarray, "owner component"]:
        """For a flat batch: of its nodes, or of its graphs."""
        nodes: Any = flat.nodes
        if self.elements == "edges":
            receiver = take_nodes(nodes, flat.receivers)
            columns = pair_features(receiver, take_nodes(nodes, flat.senders), self.space)
            sent, sizes = len(flat.senders), flat.n_edge
        else:
            columns, sizes = element_features(nodes), flat.n_node
            sent = int(np.sum(sizes))
        messages = [_on_host(law, columns, (sent,)) for law in self.message]
        if self.level == "node":
            (total,), index, own = leading_shape(nodes), flat.receivers, node_features(nodes)
        else:
            total, own = len(flat.n_node), {}
            index = np.repeat(np.arange(total), sizes)
        with np.errstate(all="ignore"):
            sums = {f"e_{k}": np.bincount(index, m, total) for k, m in enumerate(messages)}
        sums[COUNT] = np.bincount(index, minlength=total).astype(float)
        return np.stack([_on_host(law, own | sums, (total,)) for law in self.update], axis=-1)

    def simulate(
        self,
        start: Bodies,
        time: ArrayLike,
        *,
        senders: Int[AnyArray, " edge"] | None = None,
        receivers: Int[AnyArray, " edge"] | None = None,
        cutoff: float | None = None,
        tolerance: float = 1e-7,
        max_steps: int = 100_000,
        progress: bool = False,
    ) -> Trajectory:
        """Move bodies by the law, which must be one of motion.

        Args:
            start: `Nodes`, or arrays by name: position and velocity `[node, dim]`, or
                `[sim, node, dim]` for many simulations at once, and the properties that the law
                needs, `[node]`, `[sim, node]` or a number. First-order motion needs no velocity.
            time: output times `[time]`, rising; the start is at the first, also for laws that
                change in time.
            senders: `[edge]`; by default all bodies act on all others.
            receivers: the same.
            cutoff: in place of edges, the distance within which bodies act on each other.
            tolerance: error of a step, relative; see `solve`.
            max_steps: steps after which the solver gives up.
            progress: whether to show a progress bar.

        Returns:
            A `Trajectory` `[sim, time, node, dim]`, with the law's accelerations (or velocities)
            as its target, in float64 whatever JAX is set to. What a simulation did not reach is
            NaN, and `failed` counts these simulations.

        Raises:
            ValueError: the law is not one of motion, or the start, the times or edges are wrong.
            SimulationError: all simulations failed.

        Warns:
            SimulationWarning: some simulations failed, and which.
        """
        # Diffrax takes a second to import.
        from symjax_gn.laws.motion import simulate_law

        return simulate_law(
            self,
            start,
            time,
            senders=senders,
            receivers=receivers,
            cutoff=cutoff,
            tolerance=tolerance,
            max_steps=max_steps,
            progress=progress,
        )


def _as_expressions(name: str, laws: Any) -> tuple[sympy.Expr, ...]:
    """Expressions of plain variables, as a tuple."""
    if isinstance(laws, str | sympy.Basic) or not isinstance(laws, Iterable):
        raise ValueError(
            f"{name} must be a tuple of expressions, one for each component, got {shown(laws)}."
        )
    found = [sympy.sympify(law, strict=True) if _is_number(law) else law for law in laws]
    for law in found:
        if not isinstance(law, sympy.Expr):
            raise ValueError(
                f"{name} must hold expressions of SymPy, got {shown(law)}; parse_expression reads "
                "text."
            )
    plain = {x: sympy.Symbol(str(x)) for law in found for x in law.free_symbols}
    if all(old == new for old, new in plain.items()):
        return tuple(found)
    return tuple(law.xreplace(plain) for law in found)


def _is_number(law):
    return isinstance(law, numbers.Real) and not isinstance(law, bool)


def _on_host(law, columns, shape):
    used = sorted(str(symbol) for symbol in law.free_symbols)
    return evaluate(law, {name: columns[name] for name in used} or {"_none": np.zeros(shape)})


def _values(laws, params, columns, shape) -> Float[Array, "*batch law"]:
    """Values of laws of some columns, side by side."""
    found = []
    for (function, names, _), constants in zip(laws, params, strict=True):
        for name in names:
            check_choice("variable of a law", name, columns)
        table = jnp.zeros((*shape, 0))
        if names:
            table = jnp.stack([jnp.broadcast_to(columns[name], shape) for name in names], axis=-1)
        found.append(function(constants, table))
    return jnp.stack(found, axis=-1)


def _pair_columns(receiver: Nodes | None, sender: Nodes, space: Space) -> dict[str, Any]:
    """The columns of `pair_features` or `element_features` as JAX arrays."""
    if receiver is None:
        return dict(sender.properties)
    return pair_features(receiver, sender, space, numpy=jnp)


def _node_columns(nodes: Nodes) -> dict[str, Any]:
    return node_features(nodes, numpy=jnp)
