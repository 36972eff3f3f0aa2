import numpy as np
import pytest
import sympy

from symjax_gn.laws.fronts import (
    RegressionError,
    is_usable,
    make_front,
    pareto,
    select,
    to_front,
    weighted_error,
)

RNG = np.random.default_rng(0)
FEATURES = {"r": RNG.uniform(0.5, 3, 400), "m_i": RNG.uniform(0.5, 2, 400)}
R, M = sympy.symbols("r m_i")
TARGET = FEATURES["m_i"] * (2 * FEATURES["r"] - 1.98) + 1e-3 * RNG.normal(size=400)


def test_front_and_score():
    expressions = [R, R + 0.0 * M, 2 * R, M * (2 * R - 1.98), sympy.log(R - 10), 2.0 * R - 1.0]
    front = make_front(expressions, FEATURES, TARGET, seconds=2.5)
    assert front.laws[0].complexity == 1 and front.laws[0].score == 0
    assert all(law.expression != sympy.log(R - 10) for law in front.laws)
    best = front.laws[-1]
    assert best.expression == M * (2 * R - 1.98)
    assert best.mae == pytest.approx(np.mean(np.abs(best_values() - TARGET)))
    before = front.laws[-2]
    slope = np.log(before.mae / best.mae) / (best.complexity - before.complexity)
    assert best.score == pytest.approx(slope)
    assert select(front) == best
    assert front.seconds == 2.5


def best_values():
    return FEATURES["m_i"] * (2 * FEATURES["r"] - 1.98)


def test_weights_and_gain():
    weight = np.where(FEATURES["r"] > 1, 0.0, 1.0)
    target = np.where(FEATURES["r"] > 1, 100.0, FEATURES["r"])
    assert make_front([R, M], FEATURES, target, weight=weight).laws[0].mae == pytest.approx(0.0)
    close = [R, 1.01 * R]
    assert len(make_front(close, FEATURES, 1.02 * FEATURES["r"]).laws) == 2
    # The second law's error is half of the first one's.
    assert len(make_front(close, FEATURES, 1.02 * FEATURES["r"], gain=0.49).laws) == 2
    assert len(make_front(close, FEATURES, 1.02 * FEATURES["r"], gain=0.51).laws) == 1


def test_the_one_rule_of_acceptance():
    rows = [(1, 1.0), (2, 1.0), (3, 0.95), (4, 0.9), (5, 0.6), (5, 0.5), (6, np.inf), (7, 0.45)]
    assert pareto(rows) == [(1, 1.0), (3, 0.95), (4, 0.9), (5, 0.5), (7, 0.45)]
    # A tenth less than the last one kept, not than the last one seen.
    assert pareto(rows, 0.1) == [(1, 1.0), (5, 0.5)]
    assert pareto([(3, 0.2), (1, 0.1)]) == [(1, 0.1)]
    assert pareto([(1, np.nan), (2, np.inf)]) == []


def test_an_exact_law_has_a_finite_score():
    front = to_front([(1, 1.0, R), (3, 0.0, 2 * R)])
    assert np.isfinite(front.laws[1].score) and select(front).expression == 2 * R


def test_equal_scores_go_to_the_simpler_law():
    front = to_front([(1, 1.0, R), (2, 0.5, M), (3, 0.25, R * M)])
    assert select(front).expression == M


def test_numbers_beyond_floats_are_left_out():
    tower = sympy.exp(sympy.exp(sympy.exp(sympy.Float(10.0)))) * R
    front = make_front([R, tower + M], FEATURES, TARGET)
    assert [law.expression for law in front.laws] == [R]


def test_powers_of_numbers_are_exponentials():
    law = 0.9 ** (sympy.Rational(1, 4) ** (-0.5 * R))
    (found,) = make_front([law], FEATURES, 0.9 ** (2.0 ** FEATURES["r"])).laws
    assert found.expression.func is sympy.exp and found.complexity == 7
    # Numbers are rounded once more: those of the exponents.
    assert found.mae < 1e-14


def test_what_is_not_real_is_left_out():
    assert is_usable(2.5 * R)
    for bad in (sympy.I * R, sympy.zoo, R + sympy.oo, sympy.nan, R * sympy.Float(1e101)):
        assert not is_usable(bad)


def test_errors_are_weighted_and_infinite_where_there_is_no_value():
    assert weighted_error(np.array([1.0, -2.0]), np.array([3.0, 0.5])) == 2.0
    assert weighted_error(np.array([1.0, np.nan])) == np.inf
    assert weighted_error(np.array([1.0, np.inf]), np.array([1.0, 0.0])) == np.inf


def test_nothing_usable_is_an_error():
    with pytest.raises(RegressionError, match="no expression that is finite"):
        make_front([sympy.log(-R)], FEATURES, TARGET)


def test_where_errors_are_large_a_smaller_share_is_enough():
    """A law that lowers 0.50 by 0.01 counts where that is enough, not by a tenth of it."""
    rows = [(1, 0.5), (3, 0.49), (5, 0.4899), (7, 0.01), (9, 0.0095)]
    assert pareto(rows, 0.1) == [(1, 0.5), (7, 0.01)]
    assert pareto(rows, 0.1, 0.005) == [(1, 0.5), (3, 0.49), (7, 0.01)]
