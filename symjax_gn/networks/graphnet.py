"""Graph networks with compact messages (arXiv:2006.11287, section 2 and appendix A)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from symjax_gn.data.border import check_fields
from symjax_gn.data.checks import check_choice
from symjax_gn.data.graphs import GraphNetwork, GraphsTuple
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.space import FREE, Space
from symjax_gn.model import Contributions, Prediction
from symjax_gn.networks.layers import (
    MLP,
    PRODUCTS,
    Properties,
    concatenate,
    direction,
    exp_bounded,
    own_features,
    pair_inputs,
)

INPUTS = ("relative", "absolute")
NODES = ("free", "newton")
PAIRS = ("free", "antisymmetric", "central")
LEVELS = ("node", "graph")


class GraphNet(nn.Module):
    """Message function, sum, update function: a quantity of nodes, or of whole graphs.

    A `jraph.GraphNetwork` whose messages go along edges, from sender to receiver, or where
    there are no edges from each element of a set to the whole. The message function sees
    one receiver and one sender, the update function one receiver (or none, for a whole
    graph) and the sum of its messages.

    With `power_laws` (the default) forces that span decades are within easy reach: inputs
    gain the logarithms of masses and distances and the products of charges, messages and
    updates a factor exp(.), and the update function a path that is linear in the sum of
    messages. Without, and with absolute inputs, ReLU and width 300, it is the network of
    the paper.

    Attributes:
        outputs: components of the predicted quantity; those of a vector, its dimension.
        message_dim: number of message components.
        width: size of each hidden layer.
        depth: hidden layers of each function.
        activation: activation function.
        inputs: "relative", where messages see the displacement from receiver to sender,
            or "absolute", where they see both positions as in the paper and training
            adds one random translation to each batch.
        power_laws: see above.
        variational: whether messages are normal samples with learned mean and variance
            (the KL strategy).
        external_field: whether the update function also sees the receiver's position,
            needed for laws with a potential of each body alone.
        node: "free", a network, or "newton", where messages are forces: the quantity is
            their sum over the weight.
        pair: "free", a network, "antisymmetric", where a message is minus the one
            that goes back, or "central", where it is a number times the unit
            displacement from receiver to sender.
        level: "node" or "graph": what the quantity is of.
        properties: the properties of nodes that are inputs.
        weight: property that divides sums of messages, as masses divide forces, or None.
        space: free or periodic, in the model's unit of length.
        precision: of matrix products, "float32", "bf16", or on GPUs "tf32".

    >>> net = GraphNet(outputs=2, message_dim=2, properties=Properties(("mass",)), weight="mass")
    >>> bodies = Nodes(jnp.zeros((3, 2)), jnp.zeros((3, 2)), {"mass": jnp.ones(3)})
    >>> other = bodies._replace(position=jnp.ones((3, 2)))
    >>> params = net.init(jax.random.key(0), bodies, other, method="message")
    >>> net.apply(params, bodies, other, method="message")[0].shape
    (3, 2)
    """

    outputs: int
    message_dim: int
    width: int = 64
    depth: int = 4
    activation: Callable[[Array], Array] = nn.silu
    inputs: str = "relative"
    power_laws: bool = True
    variational: bool = False
    external_field: bool = False
    node: str = "free"
    pair: str = "free"
    level: str = "node"
    properties: Properties = Properties()
    weight: str | None = None
    space: Space = FREE
    precision: str = "float32"

    conservative = False

    def __post_init__(self):
        check_fields(self, but=("parent", "name"))
        check_choice("inputs", self.inputs, INPUTS)
        check_choice("node function", self.node, NODES)
        check_choice("pair function", self.pair, PAIRS)
        check_choice("level", self.level, LEVELS)
        check_choice("precision", self.precision, PRODUCTS)
        biased = self.node == "newton" or self.pair == "central"
        if biased and self.message_dim != self.outputs:
            raise ValueError(
                f"Messages that are forces have {self.outputs} components, got message_dim="
                f"{self.message_dim}; use the bottleneck, or the free functions."
            )
        if self.variational and self.pair != "free":
            raise ValueError('Messages of the KL strategy are noisy: use pair="free".')
        if self.node == "newton" and self.external_field:
            raise ValueError('Newton\'s node function knows no outer field: use node="free".')
        super().__post_init__()

    def setup(self):
        hidden = (self.width, self.depth)
        components = 1 if self.pair == "central" else self.message_dim
        outputs = components * (2 if self.variational else 1)
        magnitude = components if self.power_laws else 0
        last = self.activation, magnitude, self.precision
        self.message_fn = MLP(*hidden, outputs, *last)
        if self.node == "newton":
            return
        last = self.activation, 0, self.precision
        self.update_fn = MLP(*hidden, self.outputs, *last)
        if self.power_laws:
            product = PRODUCTS[self.precision]
            self.update_linear = nn.Dense(self.outputs, use_bias=False, dot_general=product)
            self.update_scale = MLP(16, 1, 1, *last)

    def message(
        self, receiver: Nodes | None, sender: Nodes
    ) -> tuple[Float[Array, "*batch message"], Float[Array, "*batch message"] | None]:
        """Messages `[..., message_dim]` of the given pairs, or of elements, and None.

        Of the KL strategy, their means and log-variances.
        """
        messages = self._send(receiver, sender)
        if self.variational:
            mean, log_variance = jnp.split(messages, 2, axis=-1)
            return mean, log_variance
        if self.pair == "antisymmetric" and receiver is not None:
            messages = 0.5 * (messages - self._send(sender, receiver))
        if self.pair == "central" and receiver is not None:
            way = self.space.displacement(receiver.position, sender.position)
            messages = messages * direction(way)[0]
        return messages, None

    def _send(self, receiver, sender):
        names, power_laws = self.properties, self.power_laws
        if receiver is None:
            own = own_features(sender, names, power_laws)
            return self.message_fn(concatenate([sender.velocity, sender.position, own]))
        way = None
        if sender.position is not None:
            way = self.space.displacement(receiver.position, sender.position)
        features = [receiver.velocity, sender.velocity]
        if self.inputs == "relative":
            features.append(way)
        else:
            features += [receiver.position, sender.position]
        features += [own_features(end, names, power_laws) for end in (receiver, sender)]
        if power_laws:
            features += pair_inputs(way, receiver, sender, names)
        return self.message_fn(concatenate(features))

    def update(
        self, owner: Nodes | None, aggregate: Float[Array, "*batch message"]
    ) -> Float[Array, "*batch component"]:
        """The quantity `[..., component]` of nodes, or of graphs, from sums of messages."""
        if self.node == "newton":
            return aggregate / self._inertia(owner)[..., None]
        if owner is None:
            value = self.update_fn(aggregate)
            return value + self.update_linear(aggregate) if self.power_laws else value
        own = own_features(owner, self.properties, self.power_laws)
        features = [owner.velocity, own, aggregate]
        if self.inputs == "absolute" or self.external_field:
            features.append(owner.position)
        value = self.update_fn(concatenate(features))
        if not self.power_laws:
            return value
        value += self.update_linear(aggregate)
        if not own.shape[-1]:
            return value
        return value * exp_bounded(self.update_scale(own))

    def _inertia(self, owner):
        weight = None if owner is None or self.weight is None else owner.properties[self.weight]
        return jnp.ones(()) if weight is None else weight

    def __call__(
        self,
        graphs: GraphsTuple,
        mask: Float[Array, " message"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Prediction:
        """The quantity and the messages of a flat batch of graphs.

        Args:
            graphs: flat batch in the model's units, see `data.graphs.flatten`.
            mask: factor of each message component, for pruning.
            key: with it, variational messages are sampled; without it, they are means.
        """

        def send(receiver, sender):
            messages, log_variance = self.message(receiver, sender)
            if mask is not None:
                messages = messages * mask
            sent = messages
            if log_variance is not None and key is not None:
                noise = jnp.exp(0.5 * log_variance) * jax.random.normal(key, messages.shape)
                # What is pruned is silent, noise and all.
                sent = messages + (noise if mask is None else noise * mask)
            return dict(sent=sent, messages=messages, log_variance=log_variance)

        along_edges = graphs.senders.shape[0] > 0
        update: Any = dict(
            update_edge_fn=lambda edges, sent, received, globals_: send(received, sent),
            update_node_fn=lambda nodes, sent, received, globals_: self.update(
                nodes, received["sent"]
            ),
        )
        if self.level == "graph" and along_edges:
            update["update_node_fn"] = None
            update["update_global_fn"] = lambda nodes, edges, globals_: self.update(
                None, edges["sent"]
            )
        elif self.level == "graph":
            update = dict(
                update_edge_fn=None,
                update_node_fn=lambda nodes, sent, received, globals_: send(None, nodes),
                update_global_fn=lambda nodes, edges, globals_: self.update(None, nodes["sent"]),
            )
        result: Any = GraphNetwork(**update)(graphs)
        sent = result.edges if along_edges else result.nodes
        value = result.nodes if self.level == "node" else result.globals
        return Prediction(value, sent["messages"], sent["log_variance"])

    def contributions(
        self,
        receiver: Nodes | None,
        senders: Nodes,
        present: Bool[Array, " sender"],
        mask: Float[Array, " message"],
    ) -> Contributions:
        """What each sender adds to one receiver, in the gauge of the update function.

        Near the state an added message dm moves the quantity by (d update / dm) dm, so
        weight x (d update / dm) m_ij is what m_ij stands for, up to an offset that is the
        same for all senders and that the update function takes off again. This offset is
        fixed by parity: a force between two bodies turns round when the sender is put on
        the other side of the receiver, an offset does not. Nodes without positions have
        their mean message as offset.

        Args:
            receiver: one node, fields `[...]`; None for a whole graph.
            senders: fields `[sender, ...]`.
            present: `[sender]`, False for padding.
            mask: `[message]`, 1 for message components in use.
        """
        ends: Any = receiver
        if receiver is not None:
            count = present.shape[0]
            ends = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), receiver)
        messages = mask * self.message(ends, senders)[0]
        mirrored = messages
        if receiver is not None and receiver.position is not None:
            way = self.space.displacement(ends.position, senders.position)
            opposite = senders._replace(position=ends.position - way)
            mirrored = mask * self.message(ends, opposite)[0]
        here = present[:, None]
        aggregate = jnp.sum(jnp.where(here, messages, 0.0), axis=0)

        def weighed(aggregate):
            return self._inertia(receiver) * self.update(receiver, aggregate)

        jacobian = jax.jacobian(weighed)(aggregate)
        offset = _offset(messages, mirrored, here)
        terms = (messages - offset) @ jacobian.T
        alone = weighed(aggregate) - jnp.sum(jnp.where(here, terms, 0.0), axis=0)
        value = self.update(receiver, aggregate)
        return Contributions(terms, alone, value, messages, offset, jacobian)


def _offset(messages, mirrored, here):
    """What is the same in all messages to one receiver, by parity; `here` marks them."""
    # Errors go with the size of a message: the weakest messages know the offset best.
    size = jnp.sum(messages**2, axis=1, keepdims=True)
    middle = jnp.nanmedian(jnp.where(here, size, jnp.nan))
    weight = jnp.where(here, 1 / (size + middle + 1e-12), 0.0)
    return jnp.sum(weight * 0.5 * (messages + mirrored), axis=0) / jnp.sum(weight)
