"""Laws of small noisy tables, and the judge of the benchmark of historical laws."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy

from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.expressions import to_numpy
from symjax_gn.laws.logarithms import TableObjective
from symjax_gn.laws.tables import _near, fit_table

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


def test_most_samples_may_be_equal():
    x = np.linspace(0.0, 5.5, 200)
    hinge = np.where(x > 4.5, 2 * (x - 4.5), 0.0)
    assert np.mean(hinge == 0) > 0.8
    near = _near(hinge)
    assert np.all(near[x > 4.5])
    # One wild sample among ordinary ones stays out of searches.
    assert not _near(np.append(np.sin(x), 1e6))[-1]
    # Where all others are equal it is all that there is to see.
    assert np.all(_near(np.append(np.zeros(50), 5.0)))
    assert fit_table({"x": x}, hinge, ENGINES)[0].error < np.mean(hinge)


def test_weights_decide_what_counts():
    rng = np.random.default_rng(0)
    x = np.linspace(1.0, 5.0, 60)
    noise = np.where(np.arange(60) % 2, 3.0, 1e-3)
    target = 3 * x - 2 + noise * rng.normal(size=60)
    law = fit_table({"x": x}, target, ENGINES, weights=1 / noise)[0].expression
    found = sympy.Poly(law, sympy.Symbol("x")).all_coeffs()
    # Standard errors of 2e-4 and 5e-4 by the 30 good samples, 0.3 and 1 without weights.
    np.testing.assert_allclose(np.array(found, float), [3.0, -2.0], atol=5e-3)


@pytest.mark.slow
def test_samples_without_weight_do_not_count():
    x = np.linspace(1.0, 5.0, 60)
    noise = np.where(np.arange(60) % 2, 3.0, 1e-3)
    wild = np.where(noise > 1, 1e3, 3 * x - 2)
    law = fit_table({"x": x}, wild, ENGINES, weights=noise < 1)[0].expression
    np.testing.assert_allclose(to_numpy(law, ["x"])(x[:, None]), 3 * x - 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("features", "target", "options", "message"),
    [
        ({"x": X}, X**2, dict(weights=-X), "weights must be positive or 0"),
        ({"x": X}, X**2, dict(weights=X[1:]), "weights must have the shape of the target"),
        ({"x": X}, X**2, dict(weights=0 * X), "some above 0"),
        ({"x": X + 1j}, X, {}, "must hold real numbers"),
        ({"x": ["a"] * 12}, X, {}, "must hold real numbers"),
        ({"x": X}, np.append(X[1:], np.nan), {}, "NaN"),
        ({"x": np.ma.masked_less(X, 1.2)}, X, {}, "masked values"),
        (X, X, {}, "features must be a Mapping"),
        ({"x": X[:2]}, X[:2], {}, "at least 5 samples"),
        ({"x": np.ones(12)}, X, {}, "Column x is constant"),
    ],
)
def test_unusable_tables_say_why(features, target, options, message):
    with pytest.raises(ValueError, match=message):
        fit_table(features, target, ENGINES, **options)


@pytest.mark.parametrize("engines", [ENGINES[0], ["operon"], []])
def test_engines_come_in_a_list(engines):
    with pytest.raises(ValueError, match="regressor"):
        fit_table({"x": X}, X**2, engines)
