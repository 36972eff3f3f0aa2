"""Laws of small noisy tables, and the judge of the benchmark of historical laws."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy

from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.logarithms import TableObjective
from symjax_gn.laws.tables import fit_table

FOLDER = Path(__file__).parent.parent / "benchmarks"
ENGINES = [OperonRegressor(operators=("+", "*", "/"), evaluations=2000, max_length=8)]
X = np.linspace(1.0, 2.0, 12)


@pytest.fixture
def historical(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("historical", FOLDER / "historical.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "historical", module)
    spec.loader.exec_module(module)
    return module


EQUIVALENT = [
    ("hubble", "(420.0*D**2 + 3.0*D - 3.0*D)/D"),
    ("kepler", "365.2*a*sqrt(a)"),
    ("newton", "m_1/(1.5e10*r*r/m_2)"),
    ("planck", "3*log(1.1e-17*nu) - log(exp(4.8e-11*nu/T) - 1)"),
    ("planck", "log(-1.4e-50*nu**3/(1 - exp(4.8e-11*nu/T)))"),
    ("planck", "log(2.8e-50*nu**3/(2*exp(4.8e-11*nu/T) - 2))"),
    ("leavitt", "log(1.0e7/P**0.9)"),
    ("schechter", "log(2.5e-4*exp(-4.0e-9*L)/L**1.2)"),
    ("bode", "0.4 + 0.3*2**n"),
    ("bode", "0.4*(1 + exp(0.7*n))"),
    ("ideal gas", "T/(0.12*V/n)"),
    ("rydberg", "9.0e-8*n_1**2*n_2**2/((n_2 - n_1)*(n_1 + n_2))"),
]

NEAR_MISSES = [
    ("hubble", "420.0*D + 1.0e-4"),
    ("hubble", "420.0"),
    ("hubble", "0.0"),
    ("kepler", "365.2*a**1.502"),
    ("newton", "6.7e-11*m_1*m_2/r**1.98"),
    ("newton", "6.7e-11*m_1*m_2/r**2 + 1.0e12"),
    ("planck", "3*log(1.1e-17*nu) - 4.8e-11*nu/T"),
    ("planck", "log(1.4e-50*nu**3/(exp(4.8e-11*nu/T) - 1.0001))"),
    ("planck", "log(1.4e-50*nu**2.99/(exp(4.8e-11*nu/T) - 1))"),
    ("leavitt", "log(1.0e7/(P + 1.75))"),
    ("schechter", "log(2.5e-4*exp(-4.0e-9*L**0.98)/L**1.2)"),
    ("schechter", "-20.0 - 1.2*log(L)"),
    ("bode", "0.4 + 0.3*exp(0.7*n) + 1.0e-5*n"),
    ("bode", "0.3*exp(0.7*n)"),
    ("ideal gas", "2800.0*n/V"),
    ("ideal gas", "8.3*n*(T + 1.0)/V"),
    ("rydberg", "2.1e-6/(23.13/n_1**2 - 23.14/n_2**2)"),
]


def parsed(text):
    names = ["D", "a", "r", "m_1", "m_2", "nu", "T", "P", "L", "n", "V", "n_1", "n_2"]
    return sympy.parse_expr(text, local_dict={name: sympy.Symbol(name) for name in names})


@pytest.mark.parametrize(("name", "law"), EQUIVALENT)
def test_a_law_counts_however_it_is_written(historical, name, law):
    assert historical.has_form(name, parsed(law))


@pytest.mark.parametrize(("name", "law"), NEAR_MISSES)
def test_a_spurious_term_or_power_is_a_miss(historical, name, law):
    assert not historical.has_form(name, parsed(law))


def test_every_problem_has_data_and_the_same_each_time(historical):
    for name in historical.PROBLEMS:
        features, target = historical.problem(name)
        assert np.all(np.isfinite(target))
        assert all(np.shape(column) == np.shape(target) for column in features.values())
        np.testing.assert_array_equal(historical.problem(name)[1], target)


def test_powers_of_a_noisy_table_are_whole():
    rng = np.random.default_rng(0)
    speed, area = np.exp(rng.uniform(0, 3, (2, 30)))
    drag = 0.3 * area * speed**2 * (1 + 0.1 * rng.normal(size=30))
    law = fit_table(dict(speed=speed, area=area), drag, ENGINES)[0].expression
    ratio = law / (sympy.Symbol("area") * sympy.Symbol("speed") ** 2)
    assert ratio.is_number and float(ratio) == pytest.approx(0.3, rel=0.1)


def test_a_saturating_law_of_a_noisy_table():
    rng = np.random.default_rng(1)
    s = np.geomspace(0.1, 30.0, 30)
    rate = 5 * s / (2 + s) * (1 + 0.03 * rng.normal(size=30))
    law = fit_table(dict(s=s), rate, ENGINES)[0].expression
    inverse = sympy.expand(sympy.Symbol("s") * sympy.cancel(1 / law))
    slope, offset = sympy.Poly(inverse, sympy.Symbol("s")).all_coeffs()
    assert float(slope) == pytest.approx(0.2, rel=0.1)
    assert float(offset) == pytest.approx(0.4, rel=0.1)


def test_no_law_is_taken_for_its_negative():
    s = sympy.Symbol("s")
    objective = TableObjective({"s": X}, np.log(3 * X), log=True)
    (law,), error = objective.fit((-2.5 * s,))
    assert error < 1e-6 and float(law.subs(s, 1)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        ({}, X, "at least one feature"),
        ({"x": X, "k": np.ones(12)}, X, "Column k is constant"),
        ({"x": X}, np.ones(12), "target of the regression is constant"),
        ({"x": X[:0]}, X[:0], "at least 5 samples, got 0"),
        ({"x": X[:4]}, X[:4], "at least 5 samples, got 4"),
        ({"x": X}, np.where(X > 1.5, np.nan, X), "of the target .*nan|finite"),
        ({f"x{k}": np.roll(X[:6], k) for k in range(5)}, X[:6], "5 features .* 7 samples, got 6"),
    ],
)
def test_unusable_tables_are_named(features, target, message):
    with pytest.raises(ValueError, match=message):
        fit_table(features, target, ENGINES)


def test_a_search_needs_an_engine():
    with pytest.raises(ValueError, match="at least one regressor"):
        fit_table({"x": X}, X**2, [])
