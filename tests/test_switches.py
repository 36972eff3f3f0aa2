import numpy as np
import pytest
import sympy

from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.expressions import complexity, to_jax, to_numpy
from symjax_gn.laws.fronts import select
from symjax_gn.laws.searching import Problem, search
from symjax_gn.laws.switches import Switch, find_switch, step

RNG = np.random.default_rng(0)
R = np.sort(RNG.uniform(0.2, 5.0, 1000))
NOISE = 0.02 * RNG.normal(size=1000)
FEATURES = {"r": R, "m_i": RNG.uniform(0.5, 2, 1000), "q_i": np.sign(RNG.normal(size=1000))}
JUMP = np.where(R > 2, 2 * R - 1.98, 0.0)


def test_a_step_is_found_where_it_is():
    found = find_switch(FEATURES, JUMP + NOISE, 1.0)
    assert found is not None
    assert found.feature == "r"
    # Midway between the two samples on either side of the step.
    below, above = R[R <= 2][-1], R[R > 2][0]
    assert found.threshold == pytest.approx((below + above) / 2, rel=1e-12)
    assert found.jump == pytest.approx(2.02, abs=0.1)


def test_a_step_that_a_network_has_blurred():
    """Over some 3% of the samples, as smooth networks do."""
    blurred = (2 * R - 1.98) / (1 + np.exp(-(R - 2) / 0.02))
    found = find_switch(FEATURES, blurred + NOISE, float(np.mean(np.abs(blurred))))
    assert found is not None
    assert found.threshold == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize("smooth", [2 * R - 1.98, 1 / R**2, np.sin(R), 0 * R])
def test_smooth_laws_have_none(smooth):
    assert find_switch(FEATURES, smooth + NOISE, float(np.mean(np.abs(smooth)))) is None


def test_a_step_down_has_a_negative_jump_and_any_order_of_samples_will_do():
    order = RNG.permutation(1000)
    shuffled = {name: column[order] for name, column in FEATURES.items()}
    found = find_switch(shuffled, (NOISE - np.where(R > 3, 2.0, 0.5))[order], 1.0)
    assert found is not None
    assert found.threshold == pytest.approx(3.0, abs=0.02)
    assert found.jump == pytest.approx(-1.5, abs=0.05)


def test_the_feature_that_decides_is_found():
    found = find_switch(FEATURES, np.where(FEATURES["m_i"] > 1.2, 1.0, 0.0) + NOISE, 1.0)
    assert found is not None and found.feature == "m_i"
    assert found.threshold == pytest.approx(1.2, abs=0.01)


def test_small_gaps_and_gaps_within_the_noise_are_none():
    gap = np.where(R > 2, 0.5, 0.0)
    assert find_switch(FEATURES, gap + NOISE, 1.0) is not None
    assert find_switch(FEATURES, gap + NOISE, 1.8) is None
    assert find_switch(FEATURES, gap + NOISE, 1.8, least=0.2) is not None
    # A gap of 0.5 is some ten standard errors.
    assert find_switch(FEATURES, gap + 10 * NOISE, 1.0) is None
    assert find_switch(FEATURES, gap + 10 * NOISE, 1.0, sure=5.0) is not None


def test_a_small_gap_without_noise_does_not_win():
    """Its number of standard errors has no bound."""
    noise = np.where(R < 3, NOISE, 0.0)
    gaps = np.where(R > 1.5, 2.0, 0.0) + np.where(R > 4, 0.5, 0.0)
    found = find_switch({"r": R}, gaps + noise, 1.0)
    assert found is not None and found.threshold == pytest.approx(1.5, abs=0.02)
    assert found.jump == pytest.approx(2.0, abs=0.05)


def test_few_samples_and_repeated_values_tell_nothing():
    gap = np.where(R > 2, 1.0, 0.0)
    assert find_switch({"r": R[::6]}, gap[::6], 1.0) is None
    assert find_switch({"r": R[::4]}, gap[::4], 1.0) is not None
    assert find_switch({"r": np.round(R)}, gap, 1.0) is None
    # Enough different values, but equal ones in many windows.
    assert find_switch({"r": np.where(R < 2, 1.0, R)}, NOISE, 1.0) is None


def test_the_expression_of_a_step():
    expression = step(Switch("r", 2.0, 1.0)) * (2.0 * sympy.Symbol("r") - 1.98)
    values = np.array([[1.0], [1.999], [2.001], [3.0]])
    expected = [0.0, 0.0, 2.022, 4.02]
    np.testing.assert_allclose(to_numpy(expression, ["r"])(values), expected)
    function, constants = to_jax(expression, ["r"])
    # float32.
    np.testing.assert_allclose(function(constants, values), expected, rtol=1e-5)
    # One for the step, three for r - 2, five for 2 r - 1.98, one product.
    assert complexity(expression) == 10


def test_a_law_with_a_switch_is_found_without_a_hint():
    engine = OperonRegressor(evaluations=30_000, max_length=15)
    (front,) = search([engine], [Problem(FEATURES, JUMP + NOISE, np.ones(1000))], processes=1)
    law = select(front).expression
    assert law.has(sympy.Heaviside)
    fresh = np.array([[0.5], [1.5], [1.9], [2.1], [3.0], [7.0]])
    expected = np.where(fresh > 2, 2 * fresh - 1.98, 0.0)[:, 0]
    columns = np.concatenate([fresh, np.ones((6, 2))], axis=1)
    np.testing.assert_allclose(to_numpy(law, list(FEATURES))(columns), expected, atol=0.05)
