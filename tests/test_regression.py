import sys

import numpy as np
import pytest
import sympy

from symjax_gn.laws import engines
from symjax_gn.laws.engines import OperonRegressor, PySRRegressor, check_problem, make_regressor
from symjax_gn.laws.expressions import to_numpy
from symjax_gn.laws.fronts import refine, select

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
        expression = engines.tree_to_sympy(row["tree"], hashes)
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
        assert engines.tree_to_sympy(Tree(two, x, Node(name, arity=2)), variables) == expected
    for name in ["Exp", "Log", "Sin", "Cos", "Tan", "Tanh", "Asin", "Acos", "Atan", "Sinh", "Cosh"]:
        found = engines.tree_to_sympy(Tree(x, Node(name, arity=1)), variables)
        assert found == getattr(sympy, name.lower())(R)

    nodes = [Node("Constant", 30.0), *(Node("Exp", arity=1) for _ in range(5))]
    tower = engines.tree_to_sympy(Tree(x, *nodes, Node("Add", arity=2)), variables)
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


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (FEATURES, np.ones(400), "constant: there is no law"),
        (FEATURES, TARGET[:5], "both must be"),
        (FEATURES | {"r": FEATURES["r"] * np.nan}, TARGET, "Column r has NaN"),
        (FEATURES, TARGET * np.inf, "the target has NaN or infinite"),
        ({}, TARGET, "at least one feature"),
        (FEATURES, np.zeros(0), "at least one feature and one sample"),
    ],
)
def test_bad_problems(features, target, message):
    for check in (check_problem, OperonRegressor().fit, PySRRegressor().fit):
        with pytest.raises(ValueError, match=message):
            check(features, target)


def test_unknown_names():
    with pytest.raises(ValueError, match="Unknown regressor 'opern'. Did you mean 'operon'"):
        make_regressor("opern")
    with pytest.raises(ValueError, match="Unknown operator of the operon engine '>'"):
        OperonRegressor(operators=("+", ">"))
    with pytest.raises(ValueError, match="Unknown operator of PySR 'sqr'. Did you mean 'sqrt'"):
        PySRRegressor(operators=("+", "sqr"))


def test_pysr_settings():
    settings = PySRRegressor(
        operators=("+", "*", "exp"), iterations=7, maxsize=11, time_limit=3.0, seed=5,
        folder="runs", options={"populations": 2, "maxsize": 12},
    ).settings()  # fmt: skip
    assert settings["binary_operators"] == ["+", "*"]
    assert settings["unary_operators"] == ["exp"]
    assert settings["niterations"] == 7
    assert settings["elementwise_loss"] == "L1DistLoss()"
    assert settings["timeout_in_seconds"] == 3.0
    assert settings["random_state"] == 5
    assert settings["output_directory"] == "runs"
    assert settings["temp_equation_file"] is False
    assert settings["deterministic"] is True
    assert settings["parallelism"] == "serial"
    assert settings["populations"] == 2
    assert settings["maxsize"] == 12
    cluster = PySRRegressor(cluster_manager="slurm").settings()
    assert cluster["cluster_manager"] == "slurm"
    assert cluster["parallelism"] == "multiprocessing"
    assert cluster["deterministic"] is False


class FakePySR:
    """Stands for the engine, where there is no Julia: the adapter's own work is tested."""

    def __init__(self, **settings):
        self.settings = settings

    def fit(self, columns, target, variable_names):
        self.names = variable_names
        self.equations_ = [0, 1, 2]

    def sympy(self, index):
        r, m = map(sympy.Symbol, self.names)
        above = sympy.Piecewise((1.0, r > -1.0), (0.0, True))
        return [2.0 * r, m * (2.0 * r - 1.9), m * (2.0 * r - 1.98) * above][index]


def test_pysr_results_become_a_front(monkeypatch):
    fake = type("Module", (), {"PySRRegressor": FakePySR})
    monkeypatch.setattr(engines, "_import_pysr", lambda: fake)
    front = PySRRegressor().fit(FEATURES, TARGET)
    step = sympy.Heaviside(R + 1.0)
    expected = [2.0 * R, M * (2.0 * R - 1.9), M * (2.0 * R - 1.98) * step]
    assert [law.expression for law in front.laws] == expected


def test_pysr_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysr", None)
    with pytest.raises(ImportError, match=r'pip install "symjax_gn\[pysr\]".*OperonRegressor'):
        PySRRegressor().fit(FEATURES, TARGET)
    with pytest.raises(ImportError, match="needs PySR"):
        make_regressor("pysr")


def test_pysr_without_julia_says_so(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pysr", None)
    with pytest.raises(ImportError, match="PySR is installed, but"):
        PySRRegressor().fit(FEATURES, TARGET)


@pytest.mark.julia
def test_pysr_finds_a_planted_law():
    law = select(PySRRegressor(iterations=5).fit(FEATURES, TARGET))
    columns = np.stack(list(FEATURES.values()), axis=-1)
    np.testing.assert_allclose(to_numpy(law.expression, ["r", "m_i"])(columns), TARGET, atol=2e-2)


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
    front = OperonRegressor(evaluations=5000).fit({"r": r}, 2 * r - 2)
    assert rated and not np.any(np.isfinite(rated))
    assert front.laws[-1].mae < 0.01
