import subprocess
import sys
import threading

import numpy as np
import pytest
import sympy

from symjax_gn.laws.engines import (
    OperonRegressor,
    PySRRegressor,
    check_problem,
    make_regressor,
)
from symjax_gn.laws.evolution import OPERATORS, _running, evolve, stop_evolution, tree_to_sympy
from symjax_gn.laws.expressions import evaluate, to_numpy
from symjax_gn.laws.fronts import RegressionError, select
from symjax_gn.laws.refinement import refine

RNG = np.random.default_rng(0)
FEATURES = {"r": RNG.uniform(0.5, 3, 400), "m_i": RNG.uniform(0.5, 2, 400)}
R, M = sympy.symbols("r m_i")
TARGET = FEATURES["m_i"] * (2 * FEATURES["r"] - 1.98) + 1e-3 * RNG.normal(size=400)
SMALL = dict(evaluations=20_000, max_length=15)


def test_operon_finds_a_planted_law_and_the_score_picks_it():
    front = refine(OperonRegressor(**SMALL).fit(FEATURES, TARGET), FEATURES, TARGET)
    law = select(front)
    columns = np.stack(list(FEATURES.values()), axis=-1)
    # The noise of the target is 1e-3.
    np.testing.assert_allclose(to_numpy(law.expression, ["r", "m_i"])(columns), TARGET, atol=2e-2)
    assert law.complexity <= 9
    sizes = [x.complexity for x in front.laws]
    errors = [x.mae for x in front.laws]
    assert sizes == sorted(set(sizes))
    assert errors == sorted(errors, reverse=True)
    assert front.seconds > 0


def test_expressions_agree_with_the_engine():
    import warnings

    from pyoperon.sklearn import SymbolicRegressor

    names = list(FEATURES)
    columns = np.asfortranarray(np.stack(list(FEATURES.values()), axis=-1))
    symbols = "add,sub,mul,div,exp,log,sqrt,square,pow,sin,cos,tanh,abs,cbrt,constant,variable"
    engine = SymbolicRegressor(
        allowed_symbols=symbols, objectives=["mae", "length"], max_evaluations=5_000,
        optimizer_iterations=1, random_state=1, max_length=15, uncertainty=[1.0],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.fit(columns, np.sin(2 * columns[:, 0]) + np.sqrt(columns[:, 1]))
    hashes = {h: sympy.Symbol(n) for h, n in zip(engine.variables_, names, strict=True)}
    compared = 0
    for row in engine.pareto_front_:
        theirs = engine.evaluate_model(row["tree"], columns)
        if not np.all(np.isfinite(theirs)):
            continue
        expression = tree_to_sympy(row["tree"], hashes)
        ours = to_numpy(expression, names)(columns)
        # The engine computes in float32; so the contract of 1e-5, relative to the largest.
        assert np.max(np.abs(ours - theirs)) <= 1e-5 * np.max(np.abs(theirs))
        compared += 1
    assert compared >= 3


def test_every_kind_of_node_is_converted():
    class Node:
        def __init__(self, name, value=0.0, arity=0):
            self.Type = type("Type", (), {"name": name})
            self.Value, self.Arity, self.HashValue = value, arity, 7

    class Tree:
        def __init__(self, *nodes):
            self.Nodes = nodes

    x, two = Node("Variable", 1.0), Node("Constant", 2.0)
    variables = {7: R}
    cases = {
        "Add": R + 2.0, "Mul": 2.0 * R, "Sub": R - 2.0, "Div": R / 2.0, "Pow": R**2.0,
    }  # fmt: skip
    for name, expected in cases.items():
        # Postfix, first argument last: the way Operon lays out its trees.
        assert tree_to_sympy(Tree(two, x, Node(name, arity=2)), variables) == expected
    for name in ["Exp", "Log", "Sin", "Cos", "Tan", "Tanh", "Asin", "Acos", "Atan", "Sinh", "Cosh"]:
        found = tree_to_sympy(Tree(x, Node(name, arity=1)), variables)
        assert found == getattr(sympy, name.lower())(R)

    nodes = [Node("Constant", 30.0), *(Node("Exp", arity=1) for _ in range(5))]
    tower = tree_to_sympy(Tree(x, *nodes, Node("Add", arity=2)), variables)
    assert tower == sympy.nan


def test_float32_in_c_order_is_safe():
    # pyoperon 0.6 reads such arrays wrongly; our border converts them.
    columns = np.stack(list(FEATURES.values()), axis=-1).astype(np.float32)
    features = {name: columns[:, k] for k, name in enumerate(FEATURES)}
    a = OperonRegressor(**SMALL).fit(features, TARGET.astype(np.float32))
    assert a.laws[-1].mae < 0.05


def test_seeds_reproduce():
    fronts = [OperonRegressor(seed=s, **SMALL).fit(FEATURES, TARGET) for s in (3, 3, 4)]
    assert fronts[0].laws == fronts[1].laws
    assert fronts[0].laws != fronts[2].laws


def test_the_library_is_driven_as_its_own_estimator_does():
    ours = OperonRegressor(seed=1, **SMALL).fit(FEATURES, TARGET)
    # An option with its default value: scikit-learn's way.
    theirs = OperonRegressor(seed=1, options={"tournament_size": 5}, **SMALL).fit(FEATURES, TARGET)
    # The estimator rounds the last two constants to float32.
    assert [law.complexity for law in ours.laws] == [law.complexity for law in theirs.laws]
    np.testing.assert_allclose(
        [law.mae for law in ours.laws], [law.mae for law in theirs.laws], rtol=1e-3
    )
    assert len(ours.laws) > 2


def test_options_win():
    shorter = OperonRegressor(options={"max_length": 3}, **SMALL).fit(FEATURES, TARGET)
    longer = OperonRegressor(**SMALL).fit(FEATURES, TARGET)
    assert shorter.laws[-1].mae > 2 * longer.laws[-1].mae


def test_every_operator_is_searched_with():
    r = np.linspace(0.2, 0.9, 100)
    for name in OPERATORS:
        names = ("+", name) if name in "-*/^" else (name,)
        found = evolve(
            r[:, None], r + np.sin(3 * r), ["r"], operators=names, max_length=6, evaluations=3000
        )
        assert all(one.free_symbols <= {R} for one in found)


def test_the_offset_and_the_factor_are_part_of_the_law():
    r = FEATURES["r"]
    found = evolve(r[:, None], 5 - 3 * r, ["r"], operators=["+"], max_length=3, evaluations=2000)
    np.testing.assert_allclose(evaluate(found[-1], {"r": r}), 5 - 3 * r, rtol=1e-5)


LONG = dict(operators=["+", "*"], max_length=30, evaluations=10**9)


def test_searches_run_side_by_side_and_can_be_stopped():
    """They run without Python's lock, and end within a generation."""
    columns = np.stack(list(FEATURES.values()), axis=-1)
    found = []

    def run(seed):
        try:
            evolve(columns, TARGET, list(FEATURES), seed=seed, **LONG)
        except RegressionError as error:
            found.append(str(error))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    # Neither would end within hours; while one runs the other begins, and this thread goes on.
    while len(_running) < 2:
        assert not found
    stop_evolution()
    for thread in threads:
        thread.join()
    assert found == ["The search was stopped before its end."] * 2


def test_an_interrupt_stops_the_search_that_is_waited_for():
    code = (
        "import os, signal, threading, time, numpy as np\n"
        "from symjax_gn.laws.evolution import _running, evolve\n"
        # Where tests run under nohup, cron or the like, SIGINT is ignored from the start.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupt():\n"
        "    while not _running:\n"
        "        time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt).start()\n"
        "r = np.linspace(1.0, 2.0, 500)\n"
        "limits = dict(max_length=30, evaluations=10**9)\n"
        "try:\n"
        "    evolve(r[:, None], np.sin(r), ['r'], operators=['+', '*'], **limits)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert result.stdout == b"stopped\n", result.stderr


def test_a_time_limit_ends_a_search():
    """All evaluations would take hours."""
    engine = OperonRegressor(evaluations=10**9, time_limit=1)
    assert engine.fit(FEATURES, TARGET).laws


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (FEATURES, np.ones(400), "target of the regression is constant: there is no law"),
        (FEATURES, TARGET[:5], r"Column r has shape \(400,\), the target \(5,\); both must be"),
        ({"r": np.ones((400, 1))}, TARGET, r"Column r has shape \(400, 1\)"),
        (FEATURES | {"r": FEATURES["r"] * np.nan}, TARGET, "Column r has 400 NaN or infinite"),
        (FEATURES, np.where(np.arange(400) == 7, np.inf, TARGET), r"target has 1 .* index \(7,\)"),
        (FEATURES | {"m_i": np.full(400, 2.5)}, TARGET, "Column m_i is constant, 2.5: leave it"),
        (FEATURES | {"m_i": np.array(["a"] * 400)}, TARGET, "Column m_i must hold real numbers"),
        (FEATURES | {"m_i": FEATURES["r"] + 1j}, TARGET, "Column m_i must hold real numbers"),
        (FEATURES | {"m_i": [[1.0], [1.0, 2.0]]}, TARGET, "Column m_i has rows of unequal length"),
        (FEATURES, TARGET.astype(str), "Column of the target must hold real numbers"),
        ({"my column": FEATURES["r"]}, TARGET, "with the variable 'my column': letters"),
        ({"pi": FEATURES["r"]}, TARGET, "with the variable 'pi'"),
        ({}, TARGET, "at least one feature, got none"),
        ({"r": FEATURES["r"][:4]}, TARGET[:4], "at least 5 samples, got 4"),
        ({"r": np.zeros(0)}, np.zeros(0), "at least 5 samples, got 0"),
    ],
)
def test_bad_problems(features, target, message):
    for check in (check_problem, OperonRegressor().fit, PySRRegressor().fit):
        with pytest.raises(ValueError, match=message):
            check(features, target)


def test_what_is_nearly_constant_is_constant():
    r = FEATURES["r"]
    with pytest.raises(ValueError, match="Column m_i is constant"):
        check_problem({"r": r, "m_i": 1e6 + 1e-4 * r}, TARGET)
    check_problem({"r": r, "m_i": 1e6 + r}, TARGET)
    check_problem({"r": 1e-30 * r}, 1e-30 * TARGET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(max_length=2), "max_length must be a whole number of at least 3, got 2"),
        (dict(evaluations=1.5), "evaluations must be a whole number of at least 1, got 1.5"),
        (dict(seed=-1), "seed must be a whole number of at least 0, got -1"),
        (dict(time_limit=0), "time_limit must be a finite number above 0, got 0"),
        (dict(operators="+"), "operators must be a tuple"),
        (dict(operators=()), "at least one operator"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        OperonRegressor(**options)
    if "max_length" not in options and "evaluations" not in options:
        with pytest.raises(ValueError, match=message):
            PySRRegressor(**options)


def test_unknown_names():
    with pytest.raises(ValueError, match="Unknown regressor 'opern'. Did you mean 'operon'"):
        make_regressor("opern")
    with pytest.raises(ValueError, match="Unknown operator of the operon engine '>'"):
        OperonRegressor(operators=("+", ">"))
    with pytest.raises(ValueError, match="Unknown operator of PySR 'sqr'. Did you mean 'sqrt'"):
        PySRRegressor(operators=("+", "sqr"))


def test_a_front_with_a_pole_is_no_error(monkeypatch):
    """The engine rates all of its front, and scikit-learn refuses infinite predictions."""
    from pyoperon import sklearn as engine

    rate = engine.mean_squared_error
    rated = []

    def overflowing(target, guess):
        rated.append(rate(target, np.full_like(guess, np.inf)))
        return rated[-1]

    monkeypatch.setattr(engine, "mean_squared_error", overflowing)
    r = np.linspace(0.5, 3.0, 100)
    # An option takes scikit-learn's way.
    engine = OperonRegressor(evaluations=5000, options={"tournament_size": 5})
    front = engine.fit({"r": r}, 2 * r - 2)
    assert rated and not np.any(np.isfinite(rated))
    assert front.laws[-1].mae < 0.01
