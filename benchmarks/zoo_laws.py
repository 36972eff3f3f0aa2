"""Thirty laws that are not the paper's, as systems of the package: the zoo of `zoo.py`.

Laws that need bodies apart from one another start on a loose grid. Each is also a law of
the main job: `python examples/discover_force.py --system benchmarks/zoo_laws.py:morse`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from symjax_gn.physics.systems import System, sample_normal


def on_grid(key, num_nodes, dim):
    """Bodies near the points of a grid, slower than standard normal."""
    place, rest = jax.random.split(key)
    side = int(np.ceil(num_nodes ** (1 / dim)))
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(side)] * dim), axis=-1).reshape(-1, dim)
    nodes = sample_normal(rest, num_nodes, dim)
    position = 1.4 * grid[:num_nodes] + 0.15 * jax.random.normal(place, (num_nodes, dim))
    return nodes._replace(position=position, velocity=0.5 * nodes.velocity)


def with_real_charges(key, num_nodes, dim):
    """Charges are standard normal in place of +1 or -1."""
    charge, rest = jax.random.split(key)
    nodes = sample_normal(rest, num_nodes, dim)
    return nodes._replace(
        properties=nodes.properties | {"charge": jax.random.normal(charge, (num_nodes,))}
    )


def masses(i, j):
    """Product of both masses."""
    return i.mass * j.mass


def charges(i, j):
    """Product of both charges."""
    return i.charge * j.charge


def length(way):
    """Length of a vector, with a gradient at 0."""
    return jnp.sqrt(jnp.sum(way**2) + 1e-12)


def turned(vector):
    """A vector of the plane turned by 90 degrees."""
    return jnp.stack([-vector[1], vector[0]])


def _magnetic(way, i, j):
    r = length(way)
    return charges(i, j) * (jnp.exp(-r) * turned(i.velocity) - way / (r**2 + 0.1))


def _friction(way, i, j):
    r = length(way)
    approach = jnp.dot(j.velocity - i.velocity, way) / r
    return (2.0 * jnp.exp(-r) * approach + r - 1) * way / r


def _anisotropic(way, i, j):
    stretch = jnp.array([2.0, 0.7, 1.0])[: way.shape[0]]
    return masses(i, j) * jnp.exp(-0.5 * length(way)) * stretch * way


_SOFT = dict(softening=0.01)
_GRID = dict(sample=on_grid, dt=2e-3)

power_law = System("power_law", lambda r, i, j: -masses(i, j) * r**-0.5, dt=5e-3, **_SOFT)
stiffening = System("stiffening", lambda r, i, j: r**2.5)
screened = System("screened", lambda r, i, j: charges(i, j) * jnp.exp(-r) / r, dt=2e-3, **_SOFT)
gaussian = System("gaussian", lambda r, i, j: -masses(i, j) * jnp.exp(-(r**2) / 2))
lennard_jones = System("lennard_jones", lambda r, i, j: r**-12 - 2 * r**-6, **_GRID)
mie = System("mie", lambda r, i, j: r**-9 - 2 * r**-4.5, **_GRID)
buckingham = System(
    "buckingham", lambda r, i, j: 50 * jnp.exp(-3 * r) - 1 / (r + 0.3) ** 6, **_GRID
)
morse = System("morse", lambda r, i, j: 2 * (1 - jnp.exp(1.2 - r)) ** 2)
polynomial = System("polynomial", lambda r, i, j: 0.5 * r**2 - 0.5 * r**3 + 0.15 * r**4)
logarithmic = System("logarithmic", lambda r, i, j: masses(i, j) * jnp.log(1 + r**2))
plummer = System("plummer", lambda r, i, j: -masses(i, j) / jnp.sqrt(r**2 + 0.25))
oscillating = System("oscillating", lambda r, i, j: 0.7 * charges(i, j) * jnp.cos(3 * r))
ripples = System("ripples", lambda r, i, j: jnp.exp(-r / 2) * jnp.cos(4 * r))
hyperbolic = System("hyperbolic", lambda r, i, j: masses(i, j) * jnp.log(jnp.cosh(1.5 * r)))
saturating = System("saturating", lambda r, i, j: 2 * (r - jnp.log(1 + r)))
contact = System("contact", lambda r, i, j: jnp.where(r < 1.8, 3 * (1.8 - r) ** 2, 0.0), dt=5e-3)
jump = System("jump", lambda r, i, j: 2 * jnp.minimum(r, 1.6), dt=5e-3)
charge_and_spring = System(
    "charge_and_spring",
    lambda r, i, j: charges(i, j) * jnp.exp(-r) / r + 0.5 * (r - 1) ** 2,
    dt=2e-3,
    **_SOFT,
)
two_powers = System(
    "two_powers",
    lambda r, i, j: -masses(i, j) / r + 0.3 * charges(i, j) / r**2,
    dt=1e-3,
    softening=0.05,
)
coupled_by_sum = System("coupled_by_sum", lambda r, i, j: (i.mass + j.mass) * r**1.5 / 3, dt=5e-3)
coupled_by_root = System(
    "coupled_by_root", lambda r, i, j: jnp.sqrt(masses(i, j)) * jnp.log(r), dt=5e-3, **_SOFT
)
coupled_by_difference = System(
    "coupled_by_difference",
    lambda r, i, j: jnp.abs(i.charge - j.charge) * r**2 / (1 + r),
    dt=5e-3,
    sample=with_real_charges,
)
trapped = System(
    "trapped",
    lambda r, i, j: masses(i, j) / r,
    one_body_potential=lambda body: 0.8 * body.mass * jnp.sum(body.position**2),
    dt=2e-3,
    **_SOFT,
)
dragged = System("dragged", lambda r, i, j: masses(i, j) * jnp.log(r), drag=0.7, dt=5e-3, **_SOFT)
magnetic = System("magnetic", pair_force=_magnetic, dims=(2,), dt=5e-3)
alignment = System(
    "alignment",
    pair_force=lambda way, i, j: (j.velocity - i.velocity) / (1 + length(way) ** 2) ** 0.75,
)
friction = System("friction", pair_force=_friction)
anisotropic = System("anisotropic", pair_force=_anisotropic, dt=5e-3)
one_sided = System(
    "one_sided", pair_force=lambda way, i, j: j.mass * way / (length(way) ** 2 + 0.3), dt=5e-3
)
chiral = System(
    "chiral",
    pair_force=lambda way, i, j: (
        1.5 * jnp.exp(-length(way)) * turned(way) / length(way) + 0.5 * way
    ),
    dims=(2,),
    dt=5e-3,
)

LAWS = {name: found for name, found in list(globals().items()) if isinstance(found, System)}
