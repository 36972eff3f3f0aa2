"""Graph networks with compact messages (arXiv:2006.11287, section 2 and appendix A)."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from symjax_gn.systems import AnyArray, Body, check_choice

INPUTS = ("relative", "absolute")
NODES = ("free", "newton")
PAIRS = ("free", "antisymmetric", "central")

# exp(12) is 1.6e5: wider than any ratio of accelerations worth learning in float32.
_MAX_LOG_MAGNITUDE = 12.0


class Prediction(NamedTuple):
    """What a graph network gives for one graph."""

    acceleration: Float[Array, "node dim"]
    """[node, dim]."""
    messages: Float[Array, "edge component"]
    """[edge, component]; of the KL strategy the means."""
    log_variance: Float[Array, "edge component"] | None
    """[edge, component] of the KL strategy, else None."""
    velocity: Float[Array, "node dim"] | None = None
    """[node, dim], dH/dp of a Hamiltonian, else None."""
    regulariser: Float[Array, ""] | None = None
    """What a Hamiltonian is to keep small, else None; see `FlatHGN`."""


class MLP(nn.Module):
    """Dense layers with an activation between them, on the last axis.

    Attributes:
        width: size of each hidden layer.
        depth: number of hidden layers.
        outputs: size of the last layer.
        activation: function between layers.
        magnitude: number of leading outputs that are multiplied by the exponential of
            one more output, so that sizes that differ by powers of ten cost a sum.
    """

    width: int
    depth: int
    outputs: int
    activation: Callable[[Array], Array] = nn.silu
    magnitude: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        for _ in range(self.depth):
            x = self.activation(nn.Dense(self.width)(x))
        outputs = nn.Dense(self.outputs)(x)
        if not self.magnitude:
            return outputs
        scale = _exp_bounded(nn.Dense(1)(x))
        scaled, plain = outputs[..., : self.magnitude], outputs[..., self.magnitude :]
        return jnp.concatenate([scaled * scale, plain], axis=-1)


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


class FlatHGN(nn.Module):
    """A Hamiltonian as a sum of pair energies and self energies (paper, section 3 and A).

    H = sum over edges of h(i, j) + sum over nodes of k(i), functions of position, momentum
    p = m v, charge and mass. Then dp/dt = -dH/dq gives the accelerations and dq/dt = dH/dp
    the velocities. A pair's energy is h(i, j) + h(j, i); h may depend on momenta. The units
    must make acceleration x length = velocity^2, which `train.fit` sees to.

    What no Hamiltonian holds, a force against the motion, is in the extension `dissipative`:
    dp/dt = -dH/dq - dR/dv with Rayleigh's function R = sum over nodes of s(i) of velocity,
    charge and mass.

    `Prediction.messages` are the energies h `[edge, 1]`; the regulariser is H^2 plus the
    squares of dH / d charge and dH / d mass, summed.

    Attributes:
        dim: spatial dimension.
        width: size of each hidden layer.
        depth: hidden layers of each function.
        activation: activation function, which must be smooth: training takes its second
            derivative.
        inputs: as in `GraphNet`.
        power_laws: logarithms, unit displacement and product of charges as inputs and a
            factor exp(.) of energies, as in `GraphNet`.
        external_field: whether self energies also depend on the position.
        dissipative: whether there is a Rayleigh function.
        kinetic: whether dH/dp is predicted too. Without, only energies that depend on
            positions are learned.
    """

    dim: int
    width: int = 64
    depth: int = 4
    activation: Callable[[Array], Array] = nn.silu
    inputs: str = "relative"
    power_laws: bool = True
    external_field: bool = False
    dissipative: bool = False
    kinetic: bool = True

    message_dim = 1
    variational = False

    def __post_init__(self):
        check_choice("inputs", self.inputs, INPUTS)
        kinked = (nn.relu, nn.relu6, nn.leaky_relu, nn.hard_tanh, nn.hard_sigmoid, nn.hard_silu)
        if self.activation in kinked:
            raise ValueError("A Hamiltonian needs a smooth activation, e.g. silu or softplus.")
        super().__post_init__()

    def setup(self):
        options = (self.width, self.depth, 1, self.activation, int(self.power_laws))
        self.pair_fn = MLP(*options)
        self.self_fn = MLP(*options)
        if self.dissipative:
            self.rayleigh_fn = MLP(*options)

    def pair_energy(self, receiver: Body, sender: Body) -> Float[Array, "*batch"]:
        """h(i, j) `[...]` of the given pairs; the field velocity is the momentum."""
        displacement = sender.position - receiver.position
        features = [displacement]
        if self.inputs == "absolute":
            features = [receiver.position, sender.position]
        for body in (receiver, sender):
            features += [body.velocity, _properties(body, self.power_laws)]
        if self.power_laws:
            features += _pair_features(displacement, receiver, sender)
        return self.pair_fn(jnp.concatenate(features, axis=-1))[..., 0]

    def self_energy(self, body: Body) -> Float[Array, "*batch"]:
        """k(i) `[...]` of the given bodies; the field velocity is the momentum."""
        features = _motion_features(body, self.power_laws)
        if self.inputs == "absolute" or self.external_field:
            features.append(body.position)
        return self.self_fn(jnp.concatenate(features, axis=-1))[..., 0]

    def rayleigh(self, body: Body) -> Float[Array, "*batch"]:
        """s(i) `[...]` of the given bodies, of their velocity."""
        features = _motion_features(body, self.power_laws)
        return self.rayleigh_fn(jnp.concatenate(features, axis=-1))[..., 0]

    def energy(
        self,
        nodes: Body,
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
    ) -> tuple[Float[Array, ""], Float[Array, " edge"]]:
        """H of one graph, and h of its edges; the field velocity is the momentum."""
        receiver, sender = (jax.tree.map(lambda x, i=i: x[i], nodes) for i in (receivers, senders))
        pairs = self.pair_energy(receiver, sender)
        return jnp.sum(pairs) + jnp.sum(self.self_energy(nodes)), pairs

    def __call__(
        self,
        nodes: Body,
        senders: Int[Array, " edge"],
        receivers: Int[Array, " edge"],
        mask: Float[Array, " component"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Prediction:
        """Accelerations and velocities of one graph; `mask` and `key` change nothing."""
        del mask, key
        mass = nodes.mass[..., None]
        canonical = nodes._replace(velocity=mass * nodes.velocity)

        def dissipation(velocity):
            return jnp.sum(self.rayleigh(nodes._replace(velocity=velocity)))

        if self.is_initializing():
            # Parameters are made here, for none can be made inside a derivative.
            _, pairs = self.energy(canonical, senders, receivers)
            if self.dissipative:
                dissipation(nodes.velocity)
            return Prediction(jnp.zeros_like(nodes.velocity), pairs[:, None], None)
        (total, pairs), slope = jax.value_and_grad(
            lambda nodes: self.energy(nodes, senders, receivers), has_aux=True
        )(canonical)
        force = -slope.position
        if self.dissipative:
            force -= jax.grad(dissipation)(nodes.velocity)
        regulariser = total**2 + jnp.sum(slope.charge**2) + jnp.sum(slope.mass**2)
        velocity = slope.velocity if self.kinetic else None
        return Prediction(force / mass, pairs[:, None], None, velocity, regulariser)


def _properties(body: Body, power_laws: bool) -> Float[Array, "*batch property"]:
    properties = [body.charge, body.mass]
    if power_laws:
        properties.append(jnp.log(body.mass))
    return jnp.stack(properties, axis=-1)


def _motion_features(body: Body, power_laws: bool) -> list[AnyArray]:
    """Inputs from one body's motion and properties."""
    features = [body.velocity, _properties(body, power_laws)]
    return [*features, *_direction(body.velocity)] if power_laws else features


def _pair_features(displacement: AnyArray, receiver: Body, sender: Body) -> list[AnyArray]:
    """Inputs that power laws are made of: log distance, direction, product of charges."""
    direction, log_distance = _direction(displacement)
    return [log_distance, direction, (receiver.charge * sender.charge)[..., None]]


def _direction(displacement: AnyArray) -> tuple[AnyArray, Array]:
    """Unit vector and logarithm of the length `[..., 1]` of a displacement."""
    # Far below any softening, so that only coincident points notice.
    square = jnp.sum(displacement**2, axis=-1, keepdims=True) + 1e-6
    return displacement * jax.lax.rsqrt(square), 0.5 * jnp.log(square)


def _exp_bounded(x: Array) -> Array:
    # A smooth bound: a clip has no gradient by which to come back.
    return jnp.exp(_MAX_LOG_MAGNITUDE * jnp.tanh(x / _MAX_LOG_MAGNITUDE))
