"""Add a direction and a function of one variable to the search for a law.

    python examples/own_terms.py

A whirl: each body pushes the others along the line of centres turned by 30 degrees, by a function
that the list lacks, log(1 + r) / r. Both are named to `discover` in one object.
"""

import jax
import jax.numpy as jnp
import sympy

import symjax_gn as sgn
from symjax_gn.discovery.extensions import Extensions
from symjax_gn.discovery.terms import Vector
from symjax_gn.laws.kinds import Kind

COS, SIN = sympy.sqrt(3) / 2, sympy.Rational(1, 2)
dx, dy, r = sympy.symbols("dx dy r")
WAY = (COS * dx - SIN * dy) / r, (SIN * dx + COS * dy) / r
TURNED = Vector("line, turned by 30 degrees", WAY, r)
SHRINKING = Kind("shrinking", lambda m, x, k: m.log(1 + k * x) / x, ((0.5,), (1.0,), (2.0,)), (0,))


def whirl(way, i, j):
    """The force on body i."""
    far = jnp.sqrt(jnp.sum(way**2))
    turned = jnp.array([[float(COS), -0.5], [0.5, float(COS)]]) @ way
    return jnp.log(1 + far) / far * turned / far


def main():
    """Simulate, discover, print."""
    system = sgn.System("whirl", pair_force=whirl)
    run = sgn.simulate(jax.random.key(0), system, num_outputs=50)
    more = Extensions(directions=(TURNED,), functions=(SHRINKING,))
    found = sgn.discover(jax.random.key(0), run, sgn.Settings(more=more), system=system)
    print(found.text())
    print(found.certificate.says, found.verdict.says if found.verdict else "")


if __name__ == "__main__":
    main()
