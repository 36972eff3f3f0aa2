"""Messages against true forces: the gauge m = g A f + b in which they agree best, and R^2."""

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float

from symjax_gn.data.border import checked
from symjax_gn.discovery.recording import MessageTable

FACTORS = ("1", "1/m_i", "fitted")
"""The receiver functions g that are tried, the simplest first."""


class GaugeFit(NamedTuple):
    """Solution of m = g(v_i) A f + b(v_i) (design: gauge of the messages)."""

    name: str
    """"1", "1/m_i" or "fitted": the receiver function g."""
    matrix: Float[np.ndarray, "component dim"]
    """A, [component, dim]."""
    scale: Float[np.ndarray, " basis"]
    """Coefficients of log g."""
    offset: Float[np.ndarray, "basis component"]
    """Coefficients of b, [basis, component]."""
    units: tuple[float, float]
    """Mass and charge that `receiver_basis` counts in."""

    def predict(
        self,
        force: Float[np.ndarray, "edge dim"],
        mass: Float[np.ndarray, " edge"],
        charge: Float[np.ndarray, " edge"],
    ) -> tuple[Float[np.ndarray, "edge component"], Float[np.ndarray, "edge component"]]:
        """The parts g A f and b of the messages `[edge, component]` of given pairs."""
        basis = receiver_basis(mass / self.units[0], charge / self.units[1])
        factor = _receiver_factor(self.name, self.scale, mass, basis)
        return factor[:, None] * (force @ self.matrix.T), basis @ self.offset


def receiver_basis(
    mass: Float[np.ndarray, " edge"], charge: Float[np.ndarray, " edge"]
) -> Float[np.ndarray, "edge basis"]:
    """Functions of the receiver's own mass and charge, the first one constant.

    Powers of log m, up to the fourth, some of them times the charge, so that the heaviest few
    bodies may be out of line: they hardly move, and a network weighs their messages as it likes.

    Args:
        mass: `[edge]`, in a unit that makes it about one.
        charge: `[edge]`, the same.
    """
    log_mass = np.log(mass)
    columns = [log_mass**power for power in range(5)]
    columns += [charge * log_mass**power for power in range(3)]
    return np.stack(columns, axis=-1)


def _receiver_factor(name, coefficients, mass, basis):
    if name == "1":
        return np.ones_like(mass)
    if name == "1/m_i":
        return 1 / mass
    return np.exp(np.clip(basis @ coefficients, -30, 30))


def fit_gauge(
    messages: Float[np.ndarray, "edge component"],
    force: Float[np.ndarray, "edge dim"],
    mass: Float[np.ndarray, " edge"],
    charge: Float[np.ndarray, " edge"],
    *,
    name: str,
    constant_offset: bool = True,
    weight: Float[np.ndarray, " edge"] | None = None,
) -> GaugeFit:
    """Least-squares solution of m = g(v_i) A f + b(v_i).

    Args:
        messages: `[edge, component]`.
        force: `[edge, dim]`, true forces.
        mass: `[edge]`, the receivers' masses.
        charge: `[edge]`, the receivers' charges.
        name: which g: "1", "1/m_i", or "fitted" for the exponential of a combination
            of `receiver_basis`.
        constant_offset: whether b is a constant or a combination of `receiver_basis`.
        weight: `[edge]`, weights of the errors, or None for equal ones.
    """
    units = float(np.exp(np.mean(np.log(mass)))), float(np.max(np.abs(charge))) or 1.0
    basis = receiver_basis(mass / units[0], charge / units[1])
    offsets = basis[:, :1] if constant_offset else basis
    weight = np.ones_like(mass) if weight is None else weight

    def solve(coefficients):
        factor = _receiver_factor(name, coefficients, mass, basis)
        design = np.concatenate([factor[:, None] * force, offsets], axis=1) * weight[:, None]
        # Columns of one size, so that units do not decide what counts as rank.
        size = np.linalg.norm(design, axis=0)
        size[size == 0] = 1.0
        target = messages * weight[:, None]
        solution = np.linalg.lstsq(design / size, target, rcond=1e-10)[0]
        return solution / size[:, None], target - design / size @ solution

    coefficients = np.zeros(basis.shape[1])
    if name == "fitted":
        # The constant of log g is part of A. Start from both simple gauges.
        def residual(free):
            return np.ravel(solve(np.concatenate([[0.0], free]))[1])

        starts = [np.zeros(basis.shape[1] - 1), -np.eye(basis.shape[1] - 1)[0]]
        fits = [scipy.optimize.least_squares(residual, start, max_nfev=50) for start in starts]
        coefficients[1:] = min(fits, key=lambda fit: fit.cost).x
    solution = solve(coefficients)[0]
    dim = force.shape[1]
    offset = np.zeros((basis.shape[1], messages.shape[1]))
    offset[: offsets.shape[1]] = solution[dim:]
    return GaugeFit(name, solution[:dim].T, coefficients, offset, units)


def r_squared(
    target: Float[np.ndarray, "edge component"], guess: Float[np.ndarray, "edge component"]
) -> float:
    """Coefficient of determination, the mean over components."""
    residual = np.sum((target - guess) ** 2, axis=0)
    return float(np.mean(1 - residual / np.sum((target - np.mean(target, axis=0)) ** 2, axis=0)))


@checked
def message_r2(table: MessageTable) -> dict[str, float | str]:
    """How well messages are a linear map of true forces (the paper's table 1).

    Returns:
        `force`: untrimmed, g = 1. `force_trimmed`: the same without the 10% of edges
        that fit worst. `gauge` and `gauge_name`: untrimmed, with the best g of `FACTORS`
        and a constant b; a simpler g is named unless the next one is better by 0.001.
        `influence`: untrimmed, of the recorded force against the true one as it stands,
        with nothing fitted.

    Raises:
        ValueError: the table has no true forces.

    >>> import jax
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> tiny = sgn.make_model("bottleneck", train, width=8, depth=1)
    >>> trained = sgn.fit(key, train, validation, model=tiny, steps=20)
    >>> system = sgn.SYSTEMS["spring"]
    >>> table = sgn.record_messages(key, trained, train, num_edges=200, system=system)
    >>> sorted(message_r2(table))
    ['force', 'force_trimmed', 'gauge', 'gauge_name', 'influence']
    """
    if table.true_force is None:
        raise ValueError("R^2 against true forces needs a system whose law is known.")
    force = table.true_force
    mass = table.features.get("m_i", np.ones(len(force)))
    charge = table.features.get("q_i", np.zeros(len(force)))

    def fit(name, keep):
        parts = (table.messages[keep], force[keep], mass[keep], charge[keep])
        gauge = fit_gauge(*parts, name=name)
        guess = np.add(*gauge.predict(*parts[1:]))
        return r_squared(parts[0], guess), np.sum(np.abs(parts[0] - guess), axis=1)

    everything = np.ones(len(mass), bool)
    plain, error = fit("1", everything)
    kept = error <= np.quantile(error, 0.9)
    best, best_name = plain, "1"
    for name in FACTORS[1:]:
        value, _ = fit(name, everything)
        if value > best + 1e-3:
            best, best_name = value, name
    return {
        "force": plain,
        "force_trimmed": fit("1", kept)[0],
        "gauge": best,
        "gauge_name": best_name,
        "influence": r_squared(force, table.force),
    }
