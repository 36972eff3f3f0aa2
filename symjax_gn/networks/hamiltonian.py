"""Flat Hamiltonian graph networks (arXiv:2006.11287, section 3 and appendix A)."""

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
    _motion_features,
    _pair_features,
    _properties,
)


class FlatHGN(nn.Module):
    """A Hamiltonian as a sum of pair energies and self energies (paper, section 3 and A).

    H = sum over edges of h(i, j) + sum over nodes of k(i), functions of position, momentum
    p = m v, charge and mass. Then dp/dt = -dH/dq gives the accelerations and dq/dt = dH/dp
    the velocities. A pair's energy is h(i, j) + h(j, i); h may depend on momenta. The units
    must make acceleration x length = velocity^2, which `fit` sees to.

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
