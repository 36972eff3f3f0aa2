"""Graph networks with compact messages (arXiv:2006.11287, section 2 and appendix A)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symjax_gn.data.checks import check_choice
from symjax_gn.data.nodes import Body
from symjax_gn.networks.layers import (
    INPUTS,
    MLP,
    Prediction,
    _direction,
    _exp_bounded,
    _pair_features,
    _properties,
)

NODES = ("free", "newton")


PAIRS = ("free", "antisymmetric", "central")


class GraphNet(nn.Module):
    """Message function, sum, node function: accelerations of one graph of bodies.

    The message function sees one receiver and one sender, the node function one
    receiver and the sum of its messages. Both are written for the last axis and so map
    over edges, nodes and graphs alike.

    With `power_laws` (the default) forces that span decades are within easy reach:
    inputs gain the logarithms of masses and distances and the product of charges, messages
    and accelerations a factor exp(.), and the node function a path that is linear in the
    sum of messages.
    Without, and with absolute inputs, ReLU and width 300, it is the network of the paper.

    Attributes:
        dim: spatial dimension.
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
        external_field: whether the node function also sees the receiver's position,
            needed for laws with a potential of each body alone.
        node: "free", a network, or "newton", where messages are forces: the
            acceleration is their sum over the mass.
        pair: "free", a network, "antisymmetric", where a message is minus the one
            that goes back, or "central", where it is a number times the unit
            displacement from receiver to sender.
    """

    dim: int
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

    def __post_init__(self):
        check_choice("inputs", self.inputs, INPUTS)
        check_choice("node function", self.node, NODES)
        check_choice("pair function", self.pair, PAIRS)
        biased = self.node == "newton" or self.pair == "central"
        if biased and self.message_dim != self.dim:
            raise ValueError(
                f"Messages that are forces have {self.dim} components, got message_dim="
                f"{self.message_dim}; use the bottleneck, or the free functions."
            )
        if self.variational and self.pair != "free":
            raise ValueError('Messages of the KL strategy are noisy: use pair="free".')
        super().__post_init__()

    def setup(self):
        hidden = (self.width, self.depth)
        components = 1 if self.pair == "central" else self.message_dim
        outputs = components * (2 if self.variational else 1)
        magnitude = components if self.power_laws else 0
        self.message_fn = MLP(*hidden, outputs, self.activation, magnitude)
        if self.node == "newton":
            return
        self.node_fn = MLP(*hidden, self.dim, self.activation)
        if self.power_laws:
            self.node_linear = nn.Dense(self.dim, use_bias=False)
            self.node_scale = MLP(16, 1, 1, self.activation)

    def message(
        self, receiver: Body, sender: Body
    ) -> tuple[Float[Array, "*batch component"], Float[Array, "*batch component"] | None]:
        """Messages `[..., message_dim]` of the given pairs, and None.

        Of the KL strategy, their means and log-variances.
        """
        messages = self._pair(receiver, sender)
        if self.variational:
            mean, log_variance = jnp.split(messages, 2, axis=-1)
            return mean, log_variance
        if self.pair == "antisymmetric":
            messages = 0.5 * (messages - self._pair(sender, receiver))
        if self.pair == "central":
            messages = messages * _direction(sender.position - receiver.position)[0]
        return messages, None

    def _pair(self, receiver, sender):
        displacement = sender.position - receiver.position
        features = [receiver.velocity, sender.velocity]
        if self.inputs == "relative":
            features.append(displacement)
        else:
            features += [receiver.position, sender.position]
        for body in (receiver, sender):
            features.append(_properties(body, self.power_laws))
        if self.power_laws:
            features += _pair_features(displacement, receiver, sender)
        return self.message_fn(jnp.concatenate(features, axis=-1))

    def update(
        self, node: Body, aggregate: Float[Array, "*batch component"]
    ) -> Float[Array, "*batch dim"]:
        """Accelerations `[..., dim]` of nodes from the sums of their messages."""
        if self.node == "newton":
            return aggregate / node.mass[..., None]
        properties = _properties(node, self.power_laws)
        features = [node.velocity, properties, aggregate]
        if self.inputs == "absolute" or self.external_field:
            features.append(node.position)
        update = self.node_fn(jnp.concatenate(features, axis=-1))
        if not self.power_laws:
            return update
        update += self.node_linear(aggregate)
        return update * _exp_bounded(self.node_scale(properties))

    def __call__(
        self,
        nodes: Body,
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
        mask: Float[Array, " component"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Prediction:
        """Accelerations and messages of one graph.

        Args:
            nodes: fields `[node, ...]`.
            senders: `[edge]`.
            receivers: `[edge]`.
            mask: factor of each message component, for pruning.
            key: with it, variational messages are sampled; without it, they are means.
        """
        receiver, sender = (jax.tree.map(lambda x, i=i: x[i], nodes) for i in (receivers, senders))
        messages, log_variance = self.message(receiver, sender)
        if mask is not None:
            messages = messages * mask
        sent = messages
        if log_variance is not None and key is not None:
            sent = messages + jnp.exp(0.5 * log_variance) * jax.random.normal(key, messages.shape)
        aggregate = jax.ops.segment_sum(sent, receivers, nodes.mass.shape[0])
        return Prediction(self.update(nodes, aggregate), messages, log_variance)
