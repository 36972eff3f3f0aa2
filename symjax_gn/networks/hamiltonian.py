"""Flat Hamiltonian graph networks (arXiv:2006.11287, section 3 and appendix A)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from symjax_gn.data.border import check_fields
from symjax_gn.data.checks import check_choice
from symjax_gn.data.graphs import GraphsTuple
from symjax_gn.data.nodes import Nodes, leading_shape, take_nodes
from symjax_gn.data.space import FREE, Space
from symjax_gn.model import Contributions, Prediction
from symjax_gn.networks.graphnet import INPUTS
from symjax_gn.networks.layers import (
    MLP,
    PRODUCTS,
    Properties,
    concatenate,
    motion_features,
    own_features,
    pair_inputs,
)


class FlatHGN(nn.Module):
    """A Hamiltonian as a sum of pair energies and self energies (paper, section 3 and A).

    H = sum over edges of h(i, j) + sum over nodes of k(i), functions of position, momentum
    p = m v and properties. Then dp/dt = -dH/dq gives the accelerations and dq/dt = dH/dp
    the velocities. A pair's energy is h(i, j) + h(j, i); h may depend on momenta. The units
    must make acceleration x length = velocity^2, which `fit` sees to.

    What no Hamiltonian holds, a force against the motion, is in the extension `dissipative`:
    dp/dt = -dH/dq - dR/dv with Rayleigh's function R = sum over nodes of s(i) of velocity
    and properties.

    `Prediction.messages` are the energies h `[edge, 1]`; the regulariser is H^2 plus the
    squares of dH / d property, summed, mean over graphs.

    Attributes:
        outputs: spatial dimension.
        width: size of each hidden layer.
        depth: hidden layers of each function.
        activation: activation function, which must be smooth: training takes its second
            derivative.
        inputs: as in `GraphNet`.
        power_laws: logarithms, unit displacement and products of charges as inputs and a
            factor exp(.) of energies, as in `GraphNet`.
        external_field: whether self energies also depend on the position.
        dissipative: whether there is a Rayleigh function.
        kinetic: whether dH/dp is predicted too. Without, only energies that depend on
            positions are learned.
        properties: the properties of nodes that are inputs.
        weight: property that is the mass, or None where there is none.
        space: free or periodic, in the model's unit of length.
        precision: as in `GraphNet`.

    >>> from symjax_gn.data.nodes import Nodes
    >>> net = FlatHGN(outputs=2, properties=Properties(("mass",)), weight="mass")
    >>> body = Nodes(jnp.zeros(2), jnp.zeros(2), {"mass": jnp.ones(())})
    >>> other = body._replace(position=jnp.ones(2))
    >>> params = net.init(jax.random.key(0), body, other, method="pair_energy")
    >>> net.apply(params, body, other, method="pair_energy").shape
    ()
    """

    outputs: int
    width: int = 64
    depth: int = 4
    activation: Callable[[Array], Array] = nn.silu
    inputs: str = "relative"
    power_laws: bool = True
    external_field: bool = False
    dissipative: bool = False
    kinetic: bool = True
    properties: Properties = Properties()
    weight: str | None = "mass"
    space: Space = FREE
    precision: str = "float32"

    conservative = True
    level = "node"
    message_dim = 1
    variational = False

    def __post_init__(self):
        check_fields(self, but=("parent", "name"))
        check_choice("inputs", self.inputs, INPUTS)
        check_choice("precision", self.precision, PRODUCTS)
        kinked = (nn.relu, nn.relu6, nn.leaky_relu, nn.hard_tanh, nn.hard_sigmoid, nn.hard_silu)
        if self.activation in kinked:
            raise ValueError("A Hamiltonian needs a smooth activation, e.g. silu or softplus.")
        super().__post_init__()

    def setup(self):
        options = (self.width, self.depth, 1, self.activation, int(self.power_laws))
        options += (self.precision,)
        self.pair_fn = MLP(*options)
        self.self_fn = MLP(*options)
        if self.dissipative:
            self.rayleigh_fn = MLP(*options)

    def pair_energy(self, receiver: Nodes, sender: Nodes) -> Float[Array, "*batch"]:
        """h(i, j) `[...]` of the given pairs; the field velocity is the momentum."""
        way = self.space.displacement(receiver.position, sender.position)
        features: list[Any] = [way]
        if self.inputs == "absolute":
            features = [receiver.position, sender.position]
        for body in (receiver, sender):
            features += [body.velocity, own_features(body, self.properties, self.power_laws)]
        if self.power_laws:
            features += pair_inputs(way, receiver, sender, self.properties)
        return self.pair_fn(concatenate(features))[..., 0]

    def self_energy(self, body: Nodes) -> Float[Array, "*batch"]:
        """k(i) `[...]` of the given bodies; the field velocity is the momentum."""
        features = motion_features(body, self.properties, self.power_laws)
        if self.inputs == "absolute" or self.external_field:
            features.append(body.position)
        return self.self_fn(concatenate(features))[..., 0]

    def rayleigh(self, body: Nodes) -> Float[Array, "*batch"]:
        """s(i) `[...]` of the given bodies, of their velocity."""
        features = motion_features(body, self.properties, self.power_laws)
        return self.rayleigh_fn(concatenate(features))[..., 0]

    def energies(self, graphs: GraphsTuple) -> tuple[Float[Array, " graph"], Float[Array, " edge"]]:
        """H of each graph of a flat batch, and h of its edges; velocities are momenta."""
        ends = (take_nodes(graphs.nodes, index) for index in (graphs.receivers, graphs.senders))
        pairs = self.pair_energy(*ends)
        alone = self.self_energy(graphs.nodes)
        count = graphs.n_node.shape[0]
        numbers = jnp.arange(count)
        total = jax.ops.segment_sum(
            pairs, jnp.repeat(numbers, graphs.n_edge, total_repeat_length=pairs.shape[0]), count
        )
        total += jax.ops.segment_sum(
            alone, jnp.repeat(numbers, graphs.n_node, total_repeat_length=alone.shape[0]), count
        )
        return total, pairs

    def momenta(self, nodes: Nodes) -> Nodes:
        """Nodes with momentum m v in place of velocity."""
        return nodes._replace(velocity=self.mass(nodes)[..., None] * nodes.velocity)

    def mass(self, nodes: Nodes) -> Any:
        """Masses `[...]` of nodes, 1 where there are none."""
        return nodes.properties[self.weight] if self.weight else jnp.ones(leading_shape(nodes))

    def __call__(
        self,
        graphs: GraphsTuple,
        mask: Float[Array, " message"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Prediction:
        """Accelerations and velocities of a flat batch; `mask` and `key` change nothing."""
        del mask, key
        nodes = graphs.nodes
        mass = self.mass(nodes)[..., None]
        canonical = self.momenta(nodes)

        def dissipation(velocity):
            return jnp.sum(self.rayleigh(nodes._replace(velocity=velocity)))

        def energy(nodes):
            totals, pairs = self.energies(graphs._replace(nodes=nodes))
            return jnp.sum(totals), (totals, pairs)

        if self.is_initializing():
            # Parameters are made here, for none can be made inside a derivative.
            _, (_, pairs) = energy(canonical)
            if self.dissipative:
                dissipation(nodes.velocity)
            return Prediction(jnp.zeros_like(nodes.velocity), pairs[:, None])
        (_, (totals, pairs)), slope = jax.value_and_grad(energy, has_aux=True)(canonical)
        force = -slope.position
        if self.dissipative:
            force -= jax.grad(dissipation)(nodes.velocity)
        squares = sum(jnp.sum(x**2) for x in slope.properties.values())
        regulariser = (jnp.sum(totals**2) + squares) / totals.shape[0]
        velocity = slope.velocity if self.kinetic else None
        return Prediction(force / mass, pairs[:, None], None, velocity, regulariser)

    def contributions(
        self,
        receiver: Nodes,
        senders: Nodes,
        present: Bool[Array, " sender"],
        mask: Float[Array, " message"],
    ) -> Contributions:
        """The force of each pair on one receiver, and that of its self energy and drag.

        Args and result as in `GraphNet.contributions`; messages are energies of pairs.
        """
        del mask
        count = present.shape[0]
        ends = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), receiver)

        def pair(receiver, sender):
            receiver, sender = self.momenta(receiver), self.momenta(sender)
            return self.pair_energy(receiver, sender) + self.pair_energy(sender, receiver)

        def total(position):
            energies = pair(ends._replace(position=position), senders)
            return jnp.sum(energies), energies

        slope, energies = jax.grad(total, has_aux=True)(ends.position)
        own = self.momenta(receiver)
        alone = -jax.grad(lambda x: self.self_energy(own._replace(position=x)))(own.position)
        if self.dissipative:
            alone -= jax.grad(lambda v: self.rayleigh(receiver._replace(velocity=v)))(
                receiver.velocity
            )
        force = alone - jnp.sum(jnp.where(present[:, None], slope, 0.0), axis=0)
        nothing = jnp.zeros(1)
        worth = jnp.zeros((self.outputs, 1))
        return Contributions(
            -slope, alone, force / self.mass(receiver), energies[:, None], nothing, worth
        )
