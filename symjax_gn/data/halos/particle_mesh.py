"""Dark matter as particles on a mesh: initial conditions, and FastPM steps to today.

Fourier kernels, second-order Lagrangian perturbations and growth are those of jaxpm and
jax-cosmo. Steps are those of FastPM (Feng et al. 2016, arXiv:1603.00476): kicks and drifts by
the growth of linear theory, so that few steps suffice.
"""

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from tqdm import tqdm

from symjax_gn.data.checks import check_count, check_number
from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.folders import own_folder

# Critical density today, 1e10 h^2 Msun / Mpc^3.
_CRITICAL = 27.754

# The force mesh has so many cells along a side for each particle.
_FINER = 2

# The state in a folder.
_SAVED = "particles.npz"

_KMS = 100.0
"""km/s for 1 Mpc/h at H0."""


@dataclass(frozen=True)
class Cosmology:
    """A flat universe; by default Quijote's fiducial one (arXiv:1909.05273).

    Attributes:
        omega_m: matter, share of the critical density.
        omega_b: baryons.
        h: Hubble's constant, 100 km/s/Mpc.
        n_s: slope of the primordial spectrum.
        sigma8: amplitude of the linear field in spheres of 8 Mpc/h.

    >>> round(Cosmology().particle_mass(1000.0, 512), 3)
    65.654
    """

    omega_m: float = 0.3175
    omega_b: float = 0.049
    h: float = 0.6711
    n_s: float = 0.9624
    sigma8: float = 0.834

    def particle_mass(self, box: float, side: int) -> float:
        """Mass of a particle, 1e10 Msun/h, of `side`^3 in a box of that side in Mpc/h."""
        return self.omega_m * _CRITICAL * (box / side) ** 3

    def parameters(self) -> Any:
        """A fresh object of jax-cosmo: jaxpm and jax-cosmo do not share one without harm."""
        jc = _import("jax_cosmo")
        return jc.Cosmology(
            Omega_c=self.omega_m - self.omega_b,
            Omega_b=self.omega_b,
            h=self.h,
            n_s=self.n_s,
            sigma8=self.sigma8,
            Omega_k=0.0,
            w0=-1.0,
            wa=0.0,
        )


class Particles(NamedTuple):
    """Particles at the end of a run, z = 0."""

    position: Float[np.ndarray, "particle 3"]
    """[particle, 3], Mpc/h, within the box."""
    velocity: Float[np.ndarray, "particle 3"]
    """[particle, 3], km/s, peculiar."""
    box: float
    """Side of the periodic box, Mpc/h."""
    mass: float
    """Of each, 1e10 Msun/h."""


def _import(name: str) -> Any:
    try:
        with _quietly():
            return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Particle-mesh simulations need {error.name}. Install it with: "
            'pip install "symjax_gn[cosmo]".'
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Both libraries use older names of JAX, and ask for integers of 64 bits but get 32."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
        yield


def simulate_particles(
    key: PRNGKeyArray,
    side: int = 64,
    box: float = 125.0,
    *,
    steps: int = 20,
    start: float = 0.1,
    cosmology: Cosmology = Cosmology(),
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Particles:
    """Follow `side`^3 particles in a periodic box until today.

    Main arguments:
        key: PRNG key of the initial conditions.
        side: particles along a side; the mesh of forces is twice as fine.
        box: side of the box, Mpc/h; 125 for 64 particles gives them Quijote's mass.

    Other Arguments:
        steps: of equal length in the scale factor.
        start: scale factor of the initial conditions.
        cosmology: its parameters.
        folder: where the state is saved after each step; None: nowhere.
        resume: go on from the state in the folder.
        progress: whether to show a progress bar.

    Raises:
        ValueError: an argument is wrong, or the state in the folder is of another run.
        ImportError: jaxpm or jax-cosmo is missing.
        FloatingPointError: particles have left finite numbers.
    """
    check_count("side", side, 4)
    check_count("steps", steps)
    check_number("box", box, above=0)
    check_number("start", start, above=0)
    if start >= 1:
        raise ValueError(f"start must be a scale factor below 1, today's, got {start}.")
    about = repr((jax.random.key_data(key).tolist(), side, box, steps, start, cosmology))
    with own_folder(folder, [_SAVED]) as place:
        path = None if place is None else place / _SAVED
        return _simulated(key, side, box, steps, start, cosmology, path, resume, progress, about)


def _simulated(key, side, box, steps, start, cosmology, path, resume, progress, about):
    """The particles today; `path` is that of the file to go on from and to save to, or None."""
    scales = np.linspace(start, 1.0, steps + 1)
    saved = _load(path, about) if resume and path is not None else None
    with _quietly():
        done, *state = saved or (0, *_initial(key, side, box, start, cosmology))
        factors = _factors(scales, cosmology)
    position, momentum = map(jnp.asarray, state)
    for k in tqdm(range(done, steps), "particles", total=steps, initial=done, disable=not progress):
        position, momentum = _step(position, momentum, factors[k], mesh=_FINER * side)
        if not np.all(np.isfinite(momentum)):
            raise FloatingPointError(
                f"Particles have left finite numbers in step {k + 1}; take more than {steps} steps."
            )
        if path is not None:
            with in_one_stroke(path) as part, part.open("wb") as file:
                np.savez(file, about=about, done=k + 1, position=position, momentum=momentum)
    cell = box / (_FINER * side)
    return Particles(
        position=np.mod(np.asarray(position, np.float64) * cell, box),
        velocity=np.asarray(momentum, np.float64) * cell * _KMS,
        box=box,
        mass=cosmology.particle_mass(box, side),
    )


def _load(path: Path, about: str) -> tuple[Any, ...] | None:
    """The number of steps that are done, positions and momenta; None if there is no file."""
    if not path.exists():
        return None
    with np.load(path) as saved:
        if str(saved["about"]) != about:
            raise ValueError(
                f"{path} is of another run, {saved['about']}, not {about}: give another folder, "
                "or start anew without resume."
            )
        return int(saved["done"]), saved["position"], saved["momentum"]


def _initial(key, side, box, start, cosmology):
    """Positions and momenta `[particle, 3]`, cells of the mesh, by second-order perturbations."""
    jc, pm = _import("jax_cosmo"), _import("jaxpm.pm")
    k = jnp.logspace(-4, 2, 256)
    power = jc.power.linear_matter_power(cosmology.parameters(), k)
    field = pm.linear_field(
        (side,) * 3,
        (box,) * 3,
        lambda x: jnp.interp(x.reshape(-1), k, power).reshape(x.shape),
        seed=jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key,
    )
    way, momentum, _ = pm.lpt(cosmology.parameters(), field, a=start, order=2)
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(side, dtype=way.dtype)] * 3, indexing="ij"), -1)
    return tuple(_FINER * x.reshape(-1, 3) for x in (grid + way, momentum))


def _factors(scales, cosmology):
    """For each step the first drift, the kick and the second drift."""
    growth, jc = _import("jaxpm.growth"), _import("jax_cosmo")
    known = cosmology.parameters()

    def at(function, a):
        return np.asarray(function(known, np.atleast_1d(a)), np.float64)

    def drift(a, b, known_at):
        rate = at(growth.growth_rate, known_at) * at(growth.growth_factor, known_at) / known_at
        whole = at(growth.growth_factor, b) - at(growth.growth_factor, a)
        return whole / rate / (known_at**3 * np.sqrt(at(jc.background.Esqr, known_at)))

    first, last = scales[:-1], scales[1:]
    middle = 0.5 * (first + last)
    kick = (at(growth.Gf, last) - at(growth.Gf, first)) / at(growth.dGfa, middle)
    kick *= 1.5 * cosmology.omega_m / (middle**2 * np.sqrt(at(jc.background.Esqr, middle)))
    return np.stack([drift(first, middle, first), kick, drift(middle, last, last)], axis=1)


@partial(jax.jit, static_argnames="mesh", donate_argnums=(0, 1))
def _step(position, momentum, factors, mesh):
    """One step: half a drift, a kick, half a drift."""
    position += factors[0] * momentum
    momentum += factors[1] * _forces(position, mesh)
    return position + factors[2] * momentum, momentum


def _forces(position, mesh):
    """Minus the gradient of the inverse Laplacian of the density contrast, at particles."""
    kernels = _import("jaxpm.kernels")
    mean = position.shape[0] / mesh**3
    wave = jnp.fft.rfftn(paint(position, mesh) / mean)
    around = 2 * jnp.pi * jnp.fft.fftfreq(mesh)
    half = 2 * jnp.pi * jnp.fft.rfftfreq(mesh)
    ways = [around[:, None, None], around[None, :, None], half[None, None, :]]
    wave *= kernels.invlaplace_kernel(ways)
    return jnp.stack(
        [
            read(jnp.fft.irfftn(-kernels.gradient_kernel(ways, k) * wave, (mesh,) * 3), position)
            for k in range(3)
        ],
        axis=-1,
    )


def _corner(k, base, share, mesh):
    """The place of one of the eight cells around particles, and their share in it."""
    bits = jnp.array([(k >> axis) & 1 for axis in range(3)])
    place = (base + bits) % mesh
    return tuple(place[:, axis] for axis in range(3)), jnp.prod(
        jnp.where(bits, share, 1 - share), axis=1
    )


def paint(position: Float[Array, "particle 3"], mesh: int) -> Float[Array, "cell cell cell"]:
    """Particles on a mesh, cloud in cell.

    Args:
        position: `[particle, 3]`, cells; the mesh is periodic.
        mesh: cells along a side.

    >>> float(paint(jnp.array([[0.25, 0.0, 3.0]]), 4)[0, 0, 3])
    0.75
    """
    floor = jnp.floor(position)
    base, share = floor.astype(jnp.int32), position - floor

    def add(k, field):
        place, weight = _corner(k, base, share, mesh)
        return field.at[place].add(weight)

    return jax.lax.fori_loop(0, 8, add, jnp.zeros((mesh,) * 3, position.dtype))


def read(
    field: Float[Array, "cell cell cell"], position: Float[Array, "particle 3"]
) -> Float[Array, " particle"]:
    """Values `[particle]` of a field at particles, interpolated as they are painted.

    Args:
        field: `[cell, cell, cell]`, periodic.
        position: `[particle, 3]`, cells.

    >>> float(read(jnp.arange(64.0).reshape(4, 4, 4), jnp.array([[0.0, 1.0, 2.5]]))[0])
    6.5
    """
    floor = jnp.floor(position)
    base, share = floor.astype(jnp.int32), position - floor

    def add(k, found):
        place, weight = _corner(k, base, share, field.shape[0])
        return found + weight * field[place]

    return jax.lax.fori_loop(0, 8, add, jnp.zeros(len(position), field.dtype))


def density(particles: Particles, mesh: int) -> Float[np.ndarray, "cell cell cell"]:
    """The overdensity `[cell, cell, cell]` of particles on a mesh, cloud in cell.

    >>> place = np.random.default_rng(0).uniform(0, 10, (500, 3))
    >>> density(Particles(place, 0 * place, 10.0, 1.0), 4).shape
    (4, 4, 4)
    """
    check_count("mesh", mesh, 2)
    cells = jnp.asarray(particles.position * mesh / particles.box, jnp.float32)
    field = np.asarray(paint(cells, mesh), np.float64)
    return field / np.mean(field) - 1
