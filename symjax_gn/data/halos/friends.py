"""Halos as groups of particles that are friends of friends (Davis et al. 1985)."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from symjax_gn.data.checks import check_count, check_number
from symjax_gn.data.halos.catalogue import Catalogue
from symjax_gn.data.halos.overdensity import top_hat_overdensity
from symjax_gn.data.halos.particle_mesh import Particles, density


def find_halos(
    particles: Particles,
    *,
    linking_length: float = 0.2,
    least: int = 20,
    radius: float = 20.0,
) -> Catalogue:
    """The halos of a simulation, most massive first, with the overdensity around each.

    Args:
        particles: of a run of `simulate_particles`.
        linking_length: largest distance of friends, mean distances of particles.
        least: fewest particles of a halo.
        radius: of the spheres of overdensities, Mpc/h.

    Raises:
        ValueError: an argument is wrong, or there is no halo.

    >>> rng = np.random.default_rng(0)
    >>> place = np.concatenate([rng.uniform(0, 100, (970, 3)), rng.normal(50, 0.1, (30, 3))])
    >>> found = find_halos(Particles(place, 0 * place, 100.0, 65.6))
    >>> float(found.mass[0]) >= 30 * 65.6, bool(np.allclose(found.position[0], 50, atol=1))
    (True, True)
    """
    check_number("linking_length", linking_length, above=0)
    check_count("least", least, 2)
    place, box = particles.position, particles.box
    count = len(place)
    reach = linking_length * box / count ** (1 / 3)
    friends = KDTree(place, boxsize=box).query_pairs(reach, output_type="ndarray")
    joined = coo_array((np.ones(len(friends), bool), tuple(friends.T)), shape=(count, count))
    number, group = connected_components(joined, directed=False)
    size = np.bincount(group, minlength=number)
    large = np.flatnonzero(size >= least)
    if not len(large):
        raise ValueError(
            f"No halo has {least} particles, the largest has {np.max(size)}; use more particles."
        )
    order = np.argsort(group, kind="stable")
    order = order[size[group[order]] >= least]
    rank = np.searchsorted(large, group[order])
    # Around one member, since halos may lie across the sides of the box.
    first = place[order][np.searchsorted(rank, np.arange(len(large)))]
    way = place[order] - first[rank]
    way -= box * np.round(way / box)

    def mean(values):
        sums = [np.bincount(rank, values[:, k]) for k in range(3)]
        return np.stack(sums, axis=1) / size[large][:, None]

    centre = np.mod(first + mean(way), box)
    mesh = round(count ** (1 / 3))
    field = density(particles, mesh)
    by_mass = np.argsort(-size[large], kind="stable")
    return Catalogue(
        position=centre[by_mass],
        velocity=mean(particles.velocity[order])[by_mass],
        mass=(size[large] * particles.mass)[by_mass],
        overdensity=top_hat_overdensity(field, box, centre[by_mass], radius),
        box=box,
    )
