"""Laws that were written when the mechanisms were there: a second zoo for `zoo.py`.

    python benchmarks/zoo.py --zoo benchmarks/later_laws.py --dims 2 --seeds 0

The first 25 were run before anything was changed on their account; what came of that is in
`benchmarks/README.md`. The next six are outside of what was possible until then. The next eleven
and the last twenty were written later still, and run once before anything was changed on their
account.
"""

import jax
import jax.numpy as jnp
from zoo_laws import charges, length, masses, on_grid, turned, with_real_charges

from symjax_gn.physics.systems import System, sample_normal


def with_radii(key, num_nodes, dim):
    """Bodies with a radius from 0.4 to 1.2."""
    size, rest = jax.random.split(key)
    nodes = sample_normal(rest, num_nodes, dim)
    radius = 0.4 + 0.8 * jax.random.uniform(size, (num_nodes,))
    return nodes._replace(properties=nodes.properties | {"radius": radius})


def _radii(i, j):
    return i.properties["radius"] + j.properties["radius"]


def _first_axis(way):
    return jnp.zeros_like(way).at[0].set(1.0)


def _central(force, **options):
    """A system with a force towards the sender, of the distance and both bodies."""

    def pair_force(way, i, j):
        r = length(way)
        return force(r, i, j) * way / r

    return dict(pair_force=pair_force, dt=5e-3, **options)


def _mass_and_difference(r, i, j):
    return -masses(i, j) / r**0.5 + 0.5 * (i.charge - j.charge) ** 2 * jnp.exp(-r)


def _dipole(way, i, j):
    r = length(way)
    turn = way[0] / r
    part = (1 - 5 * turn**2) * way / r + 2 * turn * _first_axis(way)
    return charges(i, j) * part / (r**2 + 0.3) ** 2


def _weber(way, i, j):
    r = length(way)
    approach = jnp.dot(j.velocity - i.velocity, way) / r
    return -charges(i, j) * (1 - 0.3 * approach**2) / (r**2 + 0.5) * way / r


def _moving_charges(way, i, j):
    part = jnp.dot(i.velocity, way) * j.velocity - jnp.dot(i.velocity, j.velocity) * way
    return 0.5 * charges(i, j) * part / (length(way) ** 2 + 1)


def _quadratic_drag(way, i, j):
    relative = j.velocity - i.velocity
    return jnp.exp(-length(way) / 2) * length(relative) * relative + 0.5 * way


_SOFT = dict(softening=0.01, dt=5e-3)

weak_power = System("weak_power", lambda r, i, j: 2.5 * masses(i, j) * r**0.3, **_SOFT)
soft_screen = System(
    "soft_screen", lambda r, i, j: -1.4 * masses(i, j) * jnp.exp(-r / 0.7), dt=5e-3
)
bump = System("bump", lambda r, i, j: 2 * charges(i, j) * jnp.exp(-((r - 1.0) ** 2) / 0.5), dt=5e-3)
hard_mie = System(
    "hard_mie", lambda r, i, j: 1.5 * ((0.9 / r) ** 10 - (0.9 / r) ** 5), sample=on_grid, dt=2e-3
)
quartic = System("quartic", lambda r, i, j: 0.2 * (r - 1.5) ** 4, dt=5e-3)
log_force = System("log_force", **_central(lambda r, i, j: masses(i, j) * jnp.log(1 + 2 * r)))
softened_square = System(
    "softened_square", lambda r, i, j: -0.8 * masses(i, j) / (r**2 + 0.3), dt=5e-3
)
decaying_wave = System(
    "decaying_wave", lambda r, i, j: charges(i, j) * jnp.cos(5 * r) / (1 + r), dt=3e-3
)
wave_over_distance = System(
    "wave_over_distance", **_central(lambda r, i, j: 3 * jnp.cos(2 * r) * r / (r + 0.2))
)
saturating_square = System(
    "saturating_square", **_central(lambda r, i, j: 2 * masses(i, j) * r**2 / (0.5 + r**2))
)
filling = System("filling", **_central(lambda r, i, j: 3 * (1 - jnp.exp(-(r**2)))))
finite_linear = System(
    "finite_linear", lambda r, i, j: jnp.where(r < 1.4, -2.0 * (r - r**2 / 2.8), -1.4), dt=5e-3
)
hertz = System("hertz", lambda r, i, j: 2 * jnp.maximum(2.0 - r, 0.0) ** 2.5, dt=5e-3)
reduced_mass = System(
    "reduced_mass", lambda r, i, j: 2 * masses(i, j) / (i.mass + j.mass) * (r - 1) ** 2, dt=5e-3
)
mass_and_difference = System(
    "mass_and_difference", _mass_and_difference, sample=with_real_charges, dt=3e-3, softening=0.05
)
falling = System(
    "falling",
    lambda r, i, j: (r - 1) ** 2,
    one_body_potential=lambda body: 1.5 * body.mass * body.position[1],
    dt=5e-3,
)
lattice = System(
    "lattice",
    lambda r, i, j: 0.5 * r**2,
    one_body_potential=lambda body: jnp.sin(2 * body.position[0]),
    dt=5e-3,
)
field_charge = System(
    "field_charge",
    lambda r, i, j: 0.3 * masses(i, j) * r**2,
    one_body_potential=lambda body: 1.2 * body.charge * body.position[0],
    dt=5e-3,
)
uniaxial = System(
    "uniaxial",
    pair_force=lambda way, i, j: (
        charges(i, j) * _first_axis(way) * way[0] / (length(way) ** 2 + 0.5)
    ),
    dt=5e-3,
)
lorentz = System(
    "lorentz",
    pair_force=lambda way, i, j: (
        charges(i, j) * turned(j.velocity - i.velocity) / (1 + length(way)) - 0.5 * way
    ),
    dims=(2,),
    dt=5e-3,
)
prey = System("prey", pair_force=lambda way, i, j: j.charge * jnp.exp(-length(way)) * way, dt=5e-3)
follow = System(
    "follow",
    pair_force=lambda way, i, j: j.mass * j.velocity * jnp.exp(-(length(way) ** 2) / 2) + 0.7 * way,
    dt=5e-3,
)
stokes = System(
    "stokes",
    pair_force=lambda way, i, j: i.mass * jnp.sqrt(j.mass) * way / (1 + length(way)) ** 2,
    drag=0.4,
    dt=5e-3,
)
cubic_root = System("cubic_root", lambda r, i, j: masses(i, j) ** (1 / 3) * r**2, dt=5e-3)
wall = System("wall", lambda r, i, j: -jnp.tanh(2 * (r - 1.2)), dt=5e-3)

grains = System(
    "grains", lambda r, i, j: 4 * jnp.maximum(_radii(i, j) - r, 0.0) ** 2.5, sample=with_radii,
    dt=5e-3,
)  # fmt: skip
soft_grains = System(
    "soft_grains", lambda r, i, j: 2 * _radii(i, j) * jnp.exp(-r / _radii(i, j)),
    sample=with_radii, dt=5e-3,
)  # fmt: skip
dipole = System("dipole", pair_force=_dipole, dt=3e-3)
weber = System("weber", pair_force=_weber, dt=3e-3)
moving_charges = System("moving_charges", pair_force=_moving_charges, dt=3e-3)
quadratic_drag = System("quadratic_drag", pair_force=_quadratic_drag, dt=3e-3)

softened_root = System(
    "softened_root",
    **_central(lambda r, i, j: jnp.sqrt(masses(i, j)) * r / (r**2 + 0.04) ** 1.35),
)
screened_root = System(
    "screened_root",
    **_central(lambda r, i, j: -charges(i, j) * jnp.exp(-r / 0.8) / (r + 0.1) ** 1.5),
)
saturating_gravity = System(
    "saturating_gravity",
    **_central(lambda r, i, j: masses(i, j) * jnp.tanh(3 * r) / (r + 0.3) ** 2),
)
unlike_masses = System(
    "unlike_masses",
    **_central(lambda r, i, j: (i.mass - j.mass) ** 2 * r * jnp.exp(-(r**2) / 2)),
)
rational = System(
    "rational", **_central(lambda r, i, j: (i.mass + j.mass) * (r**2 - 1.2) / (1 + r**3))
)
fading_wave = System(
    "fading_wave", **_central(lambda r, i, j: 4 * jnp.sin(5 * r) * jnp.exp(-r / 1.5))
)
friction_and_shell = System(
    "friction_and_shell",
    pair_force=lambda way, i, j: (
        2 * jnp.exp(-length(way) / 2) * (j.velocity - i.velocity)
        + (length(way) - 1) * way / length(way)
    ),
    dt=5e-3,
)
log_of_sender = System("log_of_sender", **_central(lambda r, i, j: j.mass * jnp.log(1 + r)))
wire = System(
    "wire",
    pair_force=lambda way, i, j: 2 * _first_axis(way) * way[0] + way / (1 + length(way)),
    dt=5e-3,
)
ending_rational = System(
    "ending_rational",
    **_central(lambda r, i, j: jnp.where(r < 1.5, masses(i, j) * (1.5 - r) / (r + 0.2), 0.0)),
)
larger_mass = System(
    "larger_mass", **_central(lambda r, i, j: -jnp.maximum(i.mass, j.mass) * (r - 1))
)

soft_yukawa = System(
    "soft_yukawa", lambda r, i, j: -1.7 * masses(i, j) * jnp.exp(-1.4 * r) / r, softening=0.05,
    dt=2e-3,
)  # fmt: skip
power_137 = System("power_137", lambda r, i, j: 0.9 * masses(i, j) * r**1.37, dt=5e-3)
two_gaussians = System(
    "two_gaussians", lambda r, i, j: 2 * jnp.exp(-(r**2)) - 1.5 * jnp.exp(-(r**2) / 4), dt=5e-3
)
charged_lennard_jones = System(
    "charged_lennard_jones",
    lambda r, i, j: 2 * ((0.8 / r) ** 12 - (0.8 / r) ** 6) + charges(i, j) * jnp.exp(-r),
    sample=on_grid,
    dt=2e-3,
)
born_mayer = System(
    "born_mayer",
    lambda r, i, j: 20 * jnp.exp(-3 * r) + charges(i, j) / (r + 0.2),
    dt=2e-3,
)
morse_of_masses = System(
    "morse_of_masses",
    lambda r, i, j: 0.8 * masses(i, j) * (1 - jnp.exp(-1.5 * (r - 1))) ** 2,
    dt=5e-3,
)
quintic = System("quintic", lambda r, i, j: 0.04 * r**6 - 0.8 * r**2, dt=2e-3)
log_of_sum = System(
    "log_of_sum", lambda r, i, j: 1.3 * (i.mass + j.mass) * jnp.log(r + 0.5), dt=5e-3
)
beats = System(
    "beats", **_central(lambda r, i, j: charges(i, j) * (jnp.sin(2 * r) + jnp.sin(3 * r)))
)
relativistic_spring = System(
    "relativistic_spring", lambda r, i, j: 2 * masses(i, j) * jnp.sqrt(1 + r**2), dt=5e-3
)
cut_gravity = System(
    "cut_gravity",
    **_central(lambda r, i, j: jnp.where(r < 1.5, masses(i, j) / (r + 0.2), 0.0)),
)
soft_core = System(
    "soft_core",
    **_central(lambda r, i, j: -3 * charges(i, j) * jnp.maximum(1 - r / 2.2, 0.0) ** 3),
)
root_of_sum = System(
    "root_of_sum", **_central(lambda r, i, j: jnp.sqrt(i.mass + j.mass) * (r - 1.2))
)
mass_difference = System(
    "mass_difference",
    **_central(lambda r, i, j: 2 * jnp.abs(i.mass - j.mass) * jnp.exp(-r) + 0.5 * r),
)
everything_at_once = System(
    "everything_at_once",
    lambda r, i, j: charges(i, j) * jnp.log(r + 0.1),
    one_body_potential=lambda body: 0.7 * body.charge * body.position[0],
    drag=0.5,
    dt=5e-3,
)
viscous_gravity = System(
    "viscous_gravity",
    pair_force=lambda way, i, j: (
        masses(i, j) * (0.5 * (j.velocity - i.velocity) + way / (length(way) + 0.3))
        / (1 + length(way) ** 2)
    ),
    dt=5e-3,
)  # fmt: skip
tilted = System(
    "tilted",
    pair_force=lambda way, i, j: (
        charges(i, j) * jnp.array([0.5, 1.5, 1.0])[: way.shape[0]] * way / (1 + length(way) ** 2)
    ),
    dt=5e-3,
)
pursuit = System(
    "pursuit",
    pair_force=lambda way, i, j: 2 * i.charge * j.mass * way * jnp.exp(-length(way)),
    drag=0.3,
    dt=5e-3,
)
gravity_and_spring = System(
    "gravity_and_spring",
    **_central(lambda r, i, j: masses(i, j) / (r + 0.1) ** 2 + 1.5 * (r - 1)),
)
three_couplings = System(
    "three_couplings",
    **_central(
        lambda r, i, j: masses(i, j) / (r + 0.1) + 2 * charges(i, j) * jnp.exp(-r) + 0.5 * r
    ),
)

LAWS = {name: found for name, found in list(globals().items()) if isinstance(found, System)}
