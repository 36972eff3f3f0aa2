"""Several targets, several engines."""

import numpy as np
import pytest
import sympy

from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.fronts import make_front, select
from symjax_gn.laws.searching import Problem, search, with_switch

RNG = np.random.default_rng(0)
FEATURES = {"r": RNG.uniform(0.5, 3, 400), "m_i": RNG.uniform(0.5, 2, 400)}
TARGET = FEATURES["m_i"] * (2 * FEATURES["r"] - 1.98) + 1e-3 * RNG.normal(size=400)
ENGINE = OperonRegressor(evaluations=20_000, max_length=15)


def test_searches_run_side_by_side():
    both = [Problem(FEATURES, sign * TARGET, np.ones(400)) for sign in (1, -1)]
    fronts = search([ENGINE], both, processes=2)
    alone = search([ENGINE], both[:1], processes=1)
    assert fronts[0].laws == alone[0].laws
    assert all(select(front).mae < 0.05 for front in fronts)


class Fake:
    """An engine that knows one answer and counts its calls."""

    def __init__(self, answers, calls):
        self.answers, self.calls = answers, calls

    def fit(self, features, target):
        self.calls.append(sorted(features))
        return make_front(map(sympy.sympify, self.answers), features, target)


def test_searches_go_on_until_the_law_is_as_good_as_any(monkeypatch):
    # What the engines know is all there is.
    monkeypatch.setattr("symjax_gn.laws.searching.refine", lambda front, *_, **__: front)
    true = "m_i*(2*r - 1.98)"
    clumsy = true + " + 1e-4" + "".join(f"*sin({k}*r)*sin({k}*m_i)" for k in range(2, 9))
    problem = [Problem(FEATURES, TARGET, np.ones(400))]
    for answers, expected in (([clumsy], 4), ([true, clumsy], 2)):
        calls = []
        first = Fake(["m_i", "m_i*r", *answers], calls)
        engines = [first, first, Fake([true], calls), first, first, first]
        (front,) = search(engines, problem, processes=1)
        assert len(calls) == expected
        assert select(front).expression == sympy.sympify(true)


def test_samples_next_to_a_switch_are_left_out():
    r = FEATURES["r"]
    smooth = 1 / (1 + np.exp(-(r - 2) / 0.02))
    problem = Problem(FEATURES, smooth * r + 1e-3 * RNG.normal(size=400), np.ones(400))
    imitation = sympy.sympify("r*exp(-exp(-100.0*(r - 2.0)))")
    front = make_front([sympy.Symbol("r"), imitation], FEATURES, problem.target)
    assert len(front.laws) == 2
    known = with_switch(problem, front)
    assert known is not None
    assert len(known.target) == 360
    # The blurred corner is 0.02 wide; one twentieth of the samples is 0.125.
    assert np.min(np.abs(known.features["r"] - 2)) > 0.08
    np.testing.assert_array_equal(known.features["_step"], known.features["r"] > 2)


def test_a_switch_near_the_end_keeps_both_sides():
    r = np.linspace(0.0, 1.0, 4000)
    target = np.where(r > 0.03, 1.0, 0.0) + 1e-4 * RNG.normal(size=4000)
    problem = Problem({"r": r}, target, np.ones(4000))
    known = with_switch(problem, make_front([sympy.Integer(1)], {"r": r}, target))
    assert known is not None
    step = known.features["_step"]
    # Half of the 120 below the step, and most of the rest.
    assert np.sum(step == 0) == 60 and np.sum(step == 1) > 3500


def test_no_engine():
    with pytest.raises(ValueError, match="at least one regressor"):
        search([], [Problem(FEATURES, TARGET, np.ones(400))])
