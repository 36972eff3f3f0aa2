"""Expressions in the place of a network: a model like any other, and a small readable file."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sympy
from jaxtyping import Array, Float, PRNGKeyArray

from symjax_gn.data.border import check_fields, checked
from symjax_gn.data.checks import check_choice, shown
from symjax_gn.data.features import (
    COUNT,
    element_features,
    node_features,
    pair_features,
    parse_feature,
)
from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.graphs import GraphsTuple, flatten
from symjax_gn.data.nodes import Nodes, leading_shape, take_nodes
from symjax_gn.data.quantities import ACCELERATION, Quantity
from symjax_gn.data.space import FREE, Space
from symjax_gn.laws.expressions import evaluate, to_jax
from symjax_gn.laws.grammar import format_expression, parse_expression
from symjax_gn.model import Contributions, Prediction

ELEMENTS = ("edges", "nodes")
_FORMAT = "symjax_gn law"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SymbolicModel:
    """A law: messages and update written as expressions, in the user's units.

    The same call as a network: `init`, `apply` (which works under `jit`, `vmap` and `grad`)
    and `predict`. Its parameters are the constants of the expressions.

    >>> r, dx = sympy.symbols("r dx")
    >>> spring = SymbolicModel(((2.0 * r - 1.5) * dx / r,), (sympy.Symbol("e_0"),))
    >>> spring.constants
    (-1.5, 2.0)

    Attributes:
        message: one expression for each message component, of the features of a pair (see
            `data.features`), or of an element of a set.
        update: one expression for each component of the quantity, of the summed messages
            `e_0`, `e_1`, ... and of the features of the receiver.
        elements: "edges", along which messages go, or "nodes", the elements of a set.
        quantity: what the law predicts.
        space: free or periodic, user's unit of length.
        provenance: where the law is from: anything that JSON can hold.
    """

    message: tuple[sympy.Expr, ...]
    update: tuple[sympy.Expr, ...]
    elements: str = "edges"
    quantity: Quantity = ACCELERATION
    space: Space = FREE
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    conservative = False

    def __post_init__(self):
        check_fields(self)
        check_choice("kind of elements", self.elements, ELEMENTS)
        if not self.message or not self.update:
            raise ValueError("A law needs at least one message and one update expression.")
        sums = {f"e_{k}" for k in range(len(self.message))}
        for law in self.update:
            for name in map(str, law.free_symbols):
                if parse_feature(name).kind == "message" and name not in sums:
                    raise ValueError(
                        f"The update holds {name}, but there are only {len(self.message)} "
                        f"messages: {', '.join(sorted(sums))}."
                    )

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

    def predict(self, graphs: GraphsTuple) -> Float[np.ndarray, "graph *node component"]:
        """The quantity for stacked graphs, user's units, in float64 on the host.

        Not finite where an expression is not.
        """
        flat = flatten(jax.tree.map(np.asarray, graphs))
        nodes: Any = flat.nodes
        count, size = leading_shape(graphs.nodes)
        if self.elements == "edges":
            receiver = take_nodes(nodes, flat.receivers)
            columns = pair_features(receiver, take_nodes(nodes, flat.senders), self.space)
        else:
            columns = element_features(nodes)
        sent = len(flat.senders) if self.elements == "edges" else count * size
        messages = [_on_host(law, columns, sent) for law in self.message]
        parts = graphs.n_node.shape[-1]
        if self.level == "node":
            index, total, own = flat.receivers, count * size, node_features(nodes)
        else:
            sizes = flat.n_node if self.elements == "nodes" else flat.n_edge
            index, total, own = np.repeat(np.arange(count * parts), sizes), count * parts, {}
        with np.errstate(all="ignore"):
            sums = {f"e_{k}": np.bincount(index, m, total) for k, m in enumerate(messages)}
        sums[COUNT] = np.bincount(index, minlength=total).astype(float)
        value = np.stack([_on_host(law, own | sums, total) for law in self.update], axis=-1)
        if self.level == "node":
            return value.reshape(count, size, -1)
        return value.reshape(count, parts, -1)[:, 0]


def _on_host(law, columns, count):
    used = {str(symbol): columns for symbol in law.free_symbols}
    for name in used:
        check_choice("variable of a law", name, columns)
    chosen = {name: columns[name] for name in used} or {"_none": np.zeros(count)}
    return evaluate(law, chosen)


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


@checked
def save_law(path: str | os.PathLike[str], law: SymbolicModel) -> None:
    """Write a law as a small readable JSON file, in one stroke.

    An interruption leaves the old file or the new one.

    Raises:
        ValueError: it is no law, or holds a function that law files have no name for.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "law.json")
    >>> save_law(path, SymbolicModel((2 * sympy.Symbol("dx"),), (sympy.Symbol("e_0"),)))
    >>> load_law(path).message
    (2*dx,)
    """
    names = sorted(
        {str(symbol) for one in (*law.message, *law.update) for symbol in one.free_symbols}
    )
    contents = dict(
        format=_FORMAT,
        version=_VERSION,
        quantity=dataclasses.asdict(law.quantity),
        elements=law.elements,
        box=law.space.box,
        message=[format_expression(one) for one in law.message],
        update=[format_expression(one) for one in law.update],
        constants=list(law.constants),
        features={name: parse_feature(name).kind for name in names},
        provenance=dict(law.provenance),
    )
    with in_one_stroke(path) as part:
        part.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


@checked
def load_law(path: str | os.PathLike[str]) -> SymbolicModel:
    """Read what `save_law` wrote; expressions go through a grammar that runs nothing.

    Raises:
        ValueError: the file is no law, of another version, or damaged; the message says
            where.
        FileNotFoundError: there is no such file.

    See `save_law`.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        contents = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no law file: {error}.") from error
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise ValueError(f'{path} is no law file: it lacks "format": "{_FORMAT}".')
    if contents.get("version") != _VERSION:
        raise ValueError(
            f"{path} has version {shown(contents.get('version'))} of law files; this release "
            f"reads version {_VERSION}."
        )
    missing = [name for name in ("quantity", "message", "update") if name not in contents]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}.")
    box = contents.get("box")
    try:
        return SymbolicModel(
            message=_parse_all(contents["message"], "message"),
            update=_parse_all(contents["update"], "update"),
            elements=contents.get("elements", "edges"),
            quantity=Quantity(**contents["quantity"]),
            space=FREE if box is None else Space(tuple(box)),
            provenance=contents.get("provenance", {}),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_all(texts: Sequence[str], name: str) -> tuple[sympy.Expr, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be a list of expressions, got {shown(texts)}.")
    return tuple(parse_expression(text) for text in texts)
