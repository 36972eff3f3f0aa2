"""The overdensity of matter in spheres, from a density cube."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates

from symjax_gn.data.checks import as_floats, check_finite, check_number


def top_hat_overdensity(
    cube: Float[np.ndarray, "cell cell cell"],
    box: float,
    position: Float[np.ndarray, "place 3"],
    radius: float = 20.0,
) -> Float[np.ndarray, " place"]:
    """The mean overdensity `[place]` in spheres around places, rho / mean rho - 1.

    The cube is convolved with a top-hat sphere and interpolated linearly between the corners
    of its cells, which are where cloud-in-cell puts them.

    Args:
        cube: overdensities, or densities in any unit, `[cell, cell, cell]`; periodic.
        box: its side, Mpc/h.
        position: `[place, 3]`, Mpc/h.
        radius: of the spheres, Mpc/h.

    Raises:
        ValueError: the cube is no cube, or not finite, or spheres are larger than the box or
            smaller than two cells.

    >>> cube = np.zeros((16, 16, 16))
    >>> cube[0, 0, 0] = 1
    >>> place = np.array([[0.0, 0.0, 0.0], [80.0, 80.0, 80.0]])
    >>> around = top_hat_overdensity(cube - cube.mean(), 160.0, place, 40.0)
    >>> bool(around[0] > 0.003), bool(abs(around[1]) < 0.001)
    (True, True)
    """
    values = as_floats("The density cube", cube)
    if values.ndim != 3 or len(set(values.shape)) > 1:
        raise ValueError(f"A density cube has shape [cell, cell, cell], got {values.shape}.")
    check_finite("The density cube", values)
    check_number("box", box, above=0)
    check_number("radius", radius, above=0)
    cells = len(values)
    if not 2 * box / cells <= radius <= box / 2:
        raise ValueError(
            f"Spheres of {radius} Mpc/h do not fit a cube of {cells} cells of {box / cells:.3g}: "
            "they are to have a radius of two cells at least and half the box at most."
        )
    mean = float(np.mean(values))
    # Overdensities have no mean; densities are divided by theirs.
    if abs(mean) > 1e-3 * float(np.std(values)):
        values = values / mean - 1
    waves = [np.fft.fftfreq(cells)] * 2 + [np.fft.rfftfreq(cells)]
    turns = np.sqrt(sum(k**2 for k in np.meshgrid(*waves, indexing="ij", sparse=True)))
    x = 2 * np.pi * cells * radius / box * turns
    x[0, 0, 0] = 1.0
    window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    window[0, 0, 0] = 1.0
    smooth = np.fft.irfftn(window * np.fft.rfftn(values), values.shape, axes=(0, 1, 2))
    place = np.asarray(position, np.float64).T * cells / box
    return map_coordinates(smooth, place, order=1, mode="grid-wrap")
