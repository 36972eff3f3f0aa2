"""Worlds of bodies on springs in which something acts that no law of visible pairs can say.

Each is a function of a seed, the number of recordings, and the time between outputs; it gives a
`Trajectory` with exact accelerations. Paths are leapfrogged in short steps: what is recorded as
the acceleration is that of the recorded positions, however far the path is from the true one.
"""

import collections

import jax
import numpy as np

import symjax_gn as sgn
from symjax_gn.data.trajectories import trajectory_from_arrays

OUTPUTS = 100
_STEP = 0.01
_REMEMBERED = 20


class World:
    """Bodies at one moment of all recordings: what accelerations are computed from."""

    def __init__(self, seed, recordings, bodies=4):
        """Start as the package's springs do."""
        run = sgn.simulate(
            jax.random.key(seed), sgn.SYSTEMS["spring"], num_nodes=bodies,
            num_simulations=recordings, num_outputs=2, progress=False,
        )  # fmt: skip
        self.x = np.asarray(run.position[:, 0], np.float64)
        self.v = np.asarray(run.velocity[:, 0], np.float64)
        self.mass = np.asarray(run.properties["mass"], np.float64)
        self.rng = np.random.default_rng(seed)
        self.time = 0.0
        self.past = collections.deque(maxlen=_REMEMBERED)

    def pairs(self, x=None, of=None):
        """Displacements `[sim, i, j, dim]` from i to j and distances `[sim, i, j]`."""
        x, of = self.x if x is None else x, self.x if of is None else of
        way = x[:, None, :] - of[:, :, None]
        r = np.linalg.norm(way, axis=-1)
        return way, r + np.eye(x.shape[1])

    def springs(self, strength=2.0, x=None):
        """Forces of springs of rest length 1 on each body."""
        way, r = self.pairs(x)
        size = strength * (r - 1) / r * (1 - np.eye(r.shape[1]))
        return np.sum(size[..., None] * way, axis=2)


def _record(world, force, every, shown=None, mass=None):
    """Follow a world and record it; `force(world)` gives the forces `[sim, node, dim]`."""
    steps = max(1, round(every / _STEP))
    step = every / steps
    places, speeds, changes = [], [], []
    change = force(world) / world.mass[..., None]
    for k in range(OUTPUTS * steps):
        if k % steps == 0:
            for kept, new in zip(
                (places, speeds, changes), (world.x, world.v, change), strict=True
            ):
                kept.append(new.copy())
        world.past.append(world.x)
        half = world.v + 0.5 * step * change
        world.x = world.x + step * half
        world.time += step
        world.v = half
        change = force(world) / world.mass[..., None]
        world.v = half + 0.5 * step * change
    arrays = [np.stack(kept, axis=1)[:, :, :shown] for kept in (places, speeds, changes)]
    mass = world.mass if mass is None else mass
    return trajectory_from_arrays(every * np.arange(OUTPUTS), *arrays, mass=mass[:, :shown])


def springs(seed, recordings, every):
    """Nothing else: the law is `2 r - 2`."""
    return _record(World(seed, recordings), World.springs, every)


def embedded_atoms(seed, recordings, every):
    """Each body has an energy that is the root of a density which its neighbours make."""

    def force(world):
        way, r = world.pairs()
        alone = np.eye(r.shape[1])
        density = np.sum(np.exp(-r) * (1 - alone), axis=2)
        slope = 0.5 / np.sqrt(density)
        both = slope[:, :, None] + slope[:, None, :]
        size = -0.8 * both * np.exp(-r) / r * (1 - alone)
        return world.springs() + np.sum(size[..., None] * way, axis=2)

    return _record(World(seed, recordings), force, every)


def triplets(seed, recordings, every):
    """Axilrod and Teller's energy of three, which is a few hundredths of the force."""

    def energy(x):
        total = 0.0
        for i in range(x.shape[0]):
            for j in range(i):
                for k in range(j):
                    a, b, c = x[j] - x[i], x[k] - x[j], x[i] - x[k]
                    p, q, s = (jax.numpy.sqrt(y @ y + 0.5) for y in (a, b, c))
                    angles = (a @ b) * (b @ c) * (c @ a) / (p * q * s) ** 2
                    total += (1 - 3 * angles) / (p * q * s) ** 3
        return 0.4 * total

    slope = jax.jit(jax.vmap(jax.grad(energy)))

    def force(world):
        return world.springs() - np.asarray(slope(world.x), np.float64)

    return _record(World(seed, recordings), force, every)


def hidden_body(seed, recordings, every):
    """A fifth body on springs of its own strength, which is not shown."""

    def force(world):
        strength = np.full((5, 5), 2.0)
        strength[4] = strength[:, 4] = 0.4
        return world.springs(strength)

    return _record(World(seed, recordings, 5), force, every, shown=4)


def wrong_masses(seed, recordings, every):
    """Masses that are recorded a fifth too large or too small."""
    world = World(seed, recordings)
    wrong = world.mass * (1 + 0.2 * world.rng.choice([-1, 1], size=world.mass.shape))
    return _record(world, World.springs, every, mass=wrong)


def pair_couplings(seed, recordings, every):
    """Springs whose strengths are drawn for each pair."""
    world = World(seed, recordings)
    drawn = 1 + 0.4 * world.rng.uniform(-1, 1, size=(recordings, 4, 4))
    strength = drawn + np.swapaxes(drawn, 1, 2)
    return _record(world, lambda world: world.springs(strength), every)


def _driven(seed, recordings, every, periods):
    """Springs whose strength swings by 0.3 of itself, with so many outputs to a period."""
    turn = 2 * np.pi / (periods * every)

    def force(world):
        return world.springs(2 * (1 + 0.3 * np.sin(turn * world.time)))

    return _record(World(seed, recordings), force, every)


def slow_drive(seed, recordings, every):
    """A period of 150 outputs, longer than a recording."""
    return _driven(seed, recordings, every, 150)


def fast_drive(seed, recordings, every):
    """A period of 4 outputs."""
    return _driven(seed, recordings, every, 4)


def delayed(seed, recordings, every):
    """Bodies feel where the others were 0.2 before; drag by v |v| takes what that feeds in."""

    def force(world):
        x = world.past[0] if len(world.past) == _REMEMBERED else world.x
        way, r = world.pairs(x, world.x)
        size = 2 * (r - 1) / r * (1 - np.eye(4))
        drag = 0.3 * np.linalg.norm(world.v, axis=-1, keepdims=True) * world.v
        return np.sum(size[..., None] * way, axis=2) - drag

    return _record(World(seed, recordings), force, every)


def memory(seed, recordings, every):
    """Drag by what the velocity was, forgotten within a time of 1."""
    world = World(seed, recordings)
    world.felt = np.zeros_like(world.v)

    def force(world):
        world.felt = world.felt + _STEP * (world.v - world.felt)
        return world.springs() - 0.5 * world.felt

    return _record(world, force, every)


WORLDS = {
    one.__name__: one
    for one in (
        embedded_atoms, triplets, hidden_body, wrong_masses, pair_couplings, slow_drive,
        fast_drive, delayed, memory,
    )
}  # fmt: skip
