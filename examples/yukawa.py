"""A law of one's own: screened charges, for `discover_force.py --system yukawa.py`."""

import jax.numpy as jnp

from symjax_gn.physics.systems import System


def yukawa(r, receiver, sender):
    """Energy of two charges whose attraction or repulsion is screened beyond r = 1."""
    return receiver.charge * sender.charge * jnp.exp(-r) / r


system = System(name="yukawa", pair_potential=yukawa, dt=5e-3)
