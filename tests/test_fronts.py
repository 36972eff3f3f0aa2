import numpy as np
import pytest
import sympy

from symjax_gn.laws.fronts import RegressionError, make_front, refine, select

RNG = np.random.default_rng(0)
FEATURES = {"r": RNG.uniform(0.5, 3, 400), "m_i": RNG.uniform(0.5, 2, 400)}
R, M = sympy.symbols("r m_i")
TARGET = FEATURES["m_i"] * (2 * FEATURES["r"] - 1.98) + 1e-3 * RNG.normal(size=400)


def test_front_and_score():
    expressions = [R, R + 0.0 * M, 2 * R, M * (2 * R - 1.98), sympy.log(R - 10), 2.0 * R - 1.0]
    front = make_front(expressions, FEATURES, TARGET)
    assert front.laws[0].complexity == 1
    assert all(law.expression != sympy.log(R - 10) for law in front.laws)
    best = front.laws[-1]
    assert best.expression == M * (2 * R - 1.98)
    before = front.laws[-2]
    slope = np.log(before.mae / best.mae) / (best.complexity - before.complexity)
    assert best.score == pytest.approx(slope)
    assert select(front) == best


def test_weights_and_gain():
    weight = np.where(FEATURES["r"] > 1, 0.0, 1.0)
    target = np.where(FEATURES["r"] > 1, 100.0, FEATURES["r"])
    assert make_front([R, M], FEATURES, target, weight=weight).laws[0].mae == pytest.approx(0.0)
    close = [R, 1.01 * R]
    assert len(make_front(close, FEATURES, 1.02 * FEATURES["r"]).laws) == 2
    assert len(make_front(close, FEATURES, 1.02 * FEATURES["r"], gain=0.6).laws) == 1


def test_refinement_drops_what_does_not_matter():
    cluttered = M * (2.03 * R - 1.9 + 0.0004 * M) + 0.0003 * R
    front = refine(make_front([cluttered], FEATURES, TARGET), FEATURES, TARGET)
    assert any(law.complexity <= 7 and law.mae < 2e-3 for law in front.laws)


def test_products_that_are_written_as_exponentials_are_found_out():
    q, p = sympy.symbols("q_i q_j")
    features = FEATURES | {name: np.sign(RNG.normal(size=400)) for name in ("q_i", "q_j")}
    target = (features["m_i"] - features["q_i"] * features["q_j"]) / features["r"] ** 2
    found = (235.5068 * q + (M - 235.5088 * q) * sympy.exp(0.00423 * p)) / R**2
    laws = refine(make_front([found, 1 / R**2], features, target), features, target).laws
    assert laws[-1].expression == (M - p * q) / R**2
    sine = refine(make_front([300 * sympy.sin(0.003 * R)], FEATURES, TARGET), FEATURES, TARGET)
    assert not any(law.expression.has(sympy.sin) for law in sine.laws)


def test_huge_constants_are_not_taken_for_integers():
    # An integer beyond 64 bits is a Python object that NumPy has no exp for.
    huge = sympy.exp(-sympy.Float(9.6e23)) + R * sympy.exp(-9.6e23 * M)
    front = refine(make_front([huge, R], FEATURES, TARGET), FEATURES, TARGET)
    assert front.laws


def test_numbers_beyond_floats_are_left_out():
    tower = sympy.exp(sympy.exp(sympy.exp(sympy.Float(10.0)))) * R
    front = make_front([R, tower + M], FEATURES, TARGET)
    assert [law.expression for law in front.laws] == [R]
    assert refine(front, FEATURES, TARGET).laws


def test_towers_of_exponentials_are_not_written_out():
    """Without its variable, this one is a number with a thousand million digits."""
    tower = R + sympy.exp(-3.0 * sympy.exp(1e10 * R))
    front = make_front([M, tower], FEATURES, FEATURES["r"])
    assert len(front.laws) == 2
    assert refine(front, FEATURES, FEATURES["r"]).laws[-1].mae < 1e-6


def test_nothing_usable_is_an_error():
    with pytest.raises(RegressionError, match="no expression that is finite"):
        make_front([sympy.log(-R)], FEATURES, TARGET)
