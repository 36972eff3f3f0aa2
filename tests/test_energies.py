"""Potentials and kinetic energies from planted energies."""

import numpy as np
import pytest
import sympy

from symjax_gn.data.quantities import ACCELERATION
from symjax_gn.discovery import energies as energy_module
from symjax_gn.discovery.distillation import VectorLaw, distill
from symjax_gn.discovery.energies import (
    EnergyTable,
    PotentialLaw,
    distill_kinetic,
    distill_potential,
    integrate,
    refitted_potential,
)
from symjax_gn.discovery.recording import MessageTable
from symjax_gn.discovery.refitting import Refit
from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.expressions import evaluate, to_numpy
from symjax_gn.laws.fronts import ParetoFront
from symjax_gn.report import plots

ENGINES = [OperonRegressor(evaluations=20_000, max_length=15, seed=k) for k in range(2)]
COUNT = 1500
R, MI, MJ, QI, QJ = sympy.symbols("r m_i m_j q_i q_j")
TRUE = {
    "spring": (R - 1) ** 2,
    "r1": MI * MJ * sympy.log(R),
    "charge": QI * QJ / R,
}


def planted(potential, additive=0.0, across=0.0):
    """What a perfect Hamiltonian would record, with a share of the force across."""
    rng = np.random.default_rng(0)
    displacement = 2 * rng.normal(size=(COUNT, 2))
    velocity = rng.normal(size=(COUNT, 2))
    masses, charges = np.exp(rng.normal(size=(2, COUNT))), np.sign(rng.normal(size=(2, COUNT)))
    features = {
        "dx": displacement[:, 0], "dy": displacement[:, 1],
        "r": np.linalg.norm(displacement, axis=1), "m_i": masses[0], "m_j": masses[1],
        "q_i": charges[0], "q_j": charges[1],
        **{f"v{axis}_{end}": v[:, k] for end, v in (("i", velocity), ("j", velocity[::-1]))
           for k, axis in enumerate("xy")},
    }  # fmt: skip
    columns = np.stack(list(features.values()), axis=-1)
    slope, energy = (
        to_numpy(law, list(features))(columns) for law in (sympy.diff(potential, R), potential)
    )
    direction = displacement / features["r"][:, None]
    direction = direction + across * direction[:, ::-1] * features["r"][:, None]
    middle = features | {"r": np.full(COUNT, np.median(features["r"]))}
    change = energy - to_numpy(potential, list(features))(np.stack(list(middle.values()), axis=-1))
    momenta = {
        f"p_{end}": features[f"m_{end}"] * np.hypot(features[f"vx_{end}"], features[f"vy_{end}"])
        for end in ("i", "j")
    }
    columns = np.stack(list((features | momenta).values()), axis=-1)
    energy = energy + to_numpy(sympy.sympify(additive), [*features, *momenta])(columns)
    table = MessageTable(
        features=features, scales=dict.fromkeys(features, 1.0), messages=energy[:, None],
        components=np.zeros(1, int), force=slope[:, None] * direction,
        alone=np.zeros((COUNT, 2)), message_scale=np.ones(COUNT),
        offset=np.zeros((COUNT, 2)), true_force=None, quantity=ACCELERATION,
    )  # fmt: skip
    return EnergyTable(table, velocity, change)


def potential_of(table):
    """The potential of the law that the engines find for all forces at once."""
    return distill_potential(table, distill(table.forces, ENGINES, processes=1), ENGINES)


@pytest.mark.parametrize("name", TRUE)
def test_a_potential_is_found_up_to_what_forces_do_not_say(name):
    table = planted(TRUE[name], additive=MI + MJ)
    found = potential_of(table)
    assert found.force.form == "central"
    assert found.potential is not None and found.additive is not None
    features = table.forces.features
    columns = np.stack(list(features.values()), axis=-1)
    value = to_numpy(found.potential + found.additive, list(features))(columns)
    # The planted energies have no noise; the score may stop at 1e-3 of the force.
    np.testing.assert_allclose(
        np.median(np.abs(value - table.forces.messages[:, 0])), 0.0, atol=5e-3
    )
    assert found.additive_error is not None and found.additive_error < 0.01
    assert not found.additive.free_symbols & {R}


def test_an_additive_function_may_hold_momenta():
    additive = sympy.Rational(1, 2) * (sympy.Symbol("p_i") + sympy.Symbol("p_j"))
    found = potential_of(planted(TRUE["spring"], additive=additive))
    assert found.additive_error is not None and found.additive_error < 0.01


def test_an_additive_constant():
    found = potential_of(planted(TRUE["spring"], additive=3.0))
    # (r - 1)^2 is r^2 - 2 r and 1.
    assert float(found.additive) == pytest.approx(4.0, abs=0.05)


def test_forces_that_are_not_central_have_no_potential():
    found = potential_of(planted(TRUE["spring"], across=0.5))
    assert found.force.form == "components"
    assert found.potential is found.additive is found.additive_error is None


def test_a_potential_that_is_not_finite_on_the_data_is_none(monkeypatch):
    table = planted(TRUE["spring"])
    slope = 1 / (R + 0.1)
    force = VectorLaw("central", (R,), slope)
    assert distill_potential(table, force, ENGINES[:1]).potential is not None
    low, high = np.quantile(table.forces.features["r"], [0.05, 0.95])
    for potential in (0.02 - R, high - R, R - low):
        monkeypatch.setattr(energy_module, "integrate", lambda law, v=potential: sympy.log(v))
        found = distill_potential(table, force, ENGINES[:1])
        assert found.potential is found.additive is found.additive_error is None


@pytest.mark.parametrize(
    "slope",
    [1 / (sympy.Float(0.5) - R), 1 / (R**2 - sympy.Float(0.3)), 1 / (QI + R), QI / (MI - R)],
)
def test_integrals_are_real_on_both_sides_of_a_pole(slope):
    found = integrate(slope)
    assert found is not None
    at, step = {MI: 1.3, QI: -0.7}, 1e-4
    for r in (0.2, 2.7):
        low, high = (float(found.subs(at).subs(R, r + way * step)) for way in (-1, 1))
        # Differences of second order.
        expected = float(slope.subs(at).subs(R, r))
        assert (high - low) / (2 * step) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("distance", [R, R + 0.5, sympy.sqrt(R**2 + 0.25)])
def test_the_potential_of_a_softened_law_is_softened(distance):
    """Its derivative by r is the force, by differences of second order."""
    scalar = MI * MJ / R**2
    towards = scalar.subs(R, distance) * sympy.diff(distance, R)
    columns = dict(r=np.linspace(0.1, 3.0, 200), m_i=np.full(200, 1.5), m_j=np.full(200, 0.7))
    found = refitted_potential(
        Refit((), (), scalar, distance, towards, error=0.0, error_before=0.0), columns
    )
    assert found is not None
    ends = [evaluate(found, columns | {"r": columns["r"] + step}) for step in (-1e-5, 1e-5)]
    np.testing.assert_allclose(
        (ends[1] - ends[0]) / 2e-5, evaluate(towards, columns), rtol=1e-6, atol=1e-8
    )
    no_law = Refit((), (), None, distance, None, error=0.0, error_before=0.0)
    assert refitted_potential(no_law, columns) is None


def test_what_integration_fails_over_is_not_known():
    # SymPy raises a TypeError over floats beside symbols here.
    assert integrate(1 / (R * (0.3 * QI + R))) is None


def test_kinetic_energy():
    table = planted(TRUE["spring"])
    law = distill_kinetic(table, ENGINES)
    p = sympy.Symbol("p")
    assert law is not None and law.energy is not None
    at = {p: 3.0, MI: 2.0}
    assert float(law.velocity.subs(at)) == pytest.approx(1.5, rel=1e-3)
    assert float(law.energy.subs(at)) == pytest.approx(9.0 / 4.0, rel=1e-3)
    assert distill_kinetic(table._replace(self_velocity=None), ENGINES) is None


@pytest.mark.parametrize(
    "potential",
    [
        2 * R**2 - 1.98 * R,
        MI * MJ * sympy.log(R + 0.01),
        (QI * QJ - MI * MJ) / R,
        (R**2 - 1.98 * R - 0.02) * sympy.Heaviside(R - 1.99),
        sympy.exp(-0.7 * R),
        QI * QJ * sympy.exp(-R) / R,
        # As fitted: an exponential integral of next to nothing is left.
        sympy.exp(-1.0002 * R) / R + 1e-3 * sympy.Ei(-R),
        sympy.erf(R),
        sympy.exp(-MI * R) / MI,
    ],
)
def test_integrals_are_undone_by_derivatives(potential):
    slope = sympy.diff(potential, R).subs(sympy.DiracDelta(R - 1.99), 0)
    found = integrate(slope)
    assert found is not None
    at = {MI: 1.3, MJ: 0.6, QI: -1, QJ: 1}
    for start, end in [(0.3, 1.1), (2.1, 2.9)]:
        ours, theirs = (float((law.subs(at).subs(R, end) - law.subs(at).subs(R, start)).evalf())
                        for law in (found, potential))  # fmt: skip
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)


def test_the_figure_of_a_potential():
    table = planted(TRUE["spring"], additive=3.0)
    front = ParetoFront((), 0.0)
    force = VectorLaw("central", (R,), R, fronts=(front,))
    law = PotentialLaw(force, R**2 - 2 * R, sympy.Integer(4), 0.0)
    axes = plots.plot_potential(law, table).axes[0]
    network, distilled = (line.get_ydata() for line in axes.lines)
    np.testing.assert_allclose(network, distilled, atol=1e-9)
    truth = table._replace(potential=network)
    assert len(plots.plot_potential(law, truth).axes[0].lines) == 3
    assert len(plots.plot_potential(law, truth, R**2 - 1.98 * R).axes[0].lines) == 4
    with pytest.raises(ValueError, match="Only a potential that was found"):
        plots.plot_potential(law._replace(potential=None), table)


def test_no_integral_is_none():
    assert integrate(sympy.exp(-(R**3)) * sympy.tanh(R)) is None
    # One that other modules could not evaluate is none either: Si, and cases of q_i = 0.
    assert integrate(sympy.sin(R) / R) is None
    assert integrate(sympy.exp(-QI * R)) is None


def test_an_integral_is_as_short_as_it_can_be():
    slope = sympy.diff(sympy.exp(-R) / R, R)
    assert sympy.simplify(integrate(sympy.expand(slope)) - sympy.exp(-R) / R) == 0
