"""The adapter of PySR: the real package, with a stand-in for Julia's side."""

import importlib.metadata
import importlib.util
import logging
import os
import pickle
import signal
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import sympy

from symjax_gn.laws import engines, pysr_laws, searching, tables
from symjax_gn.laws.engines import PySRRegressor, make_regressor
from symjax_gn.laws.expressions import evaluate, to_numpy
from symjax_gn.laws.fronts import RegressionError, select
from symjax_gn.laws.julia import julia_versions
from symjax_gn.laws.keeping import KeptRegressor
from symjax_gn.laws.pysr_laws import BINARY, UNARY, read_law
from symjax_gn.laws.searching import Problem, search, shutdown_workers
from symjax_gn.report.records import versions
from symjax_gn.settings import Settings, make_engines

RNG = np.random.default_rng(0)
FEATURES = {"r": RNG.uniform(0.5, 3, 400), "m_i": RNG.uniform(0.5, 2, 400)}
R, M = sympy.symbols("r m_i")
TARGET = FEATURES["m_i"] * (2 * FEATURES["r"] - 1.98) + 1e-3 * RNG.normal(size=400)
HALL = ["2.0 * feature0", "feature1 * ((2.0 * feature0) - 1.9)"]
STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture(scope="module")
def stand_in():
    """PySR on the stand-in for Julia; afterwards neither was ever imported."""
    if importlib.util.find_spec("pysr") is None:
        pytest.skip("PySR is not installed: pip install pysr")
    environment, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    sys.path.insert(0, str(STAND_INS))
    PySRRegressor(operators=("+",)).fit(FEATURES, TARGET)
    yield sys.modules["juliacall"]
    sys.path.remove(str(STAND_INS))
    for name in list(sys.modules):
        if name.split(".")[0] in ("pysr", "juliacall"):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def julia(stand_in):
    stand_in.hall[:] = HALL
    stand_in.searches.clear()
    stand_in.during.clear()
    return stand_in


def test_what_pysr_finds_becomes_a_front(julia):
    front = PySRRegressor().fit(FEATURES, TARGET)
    assert [law.expression for law in front.laws] == [2.0 * R, M * (2.0 * R - 1.9)]
    assert 0 < front.seconds < 60
    (search,) = julia.searches
    assert search.variable_names == ["feature0", "feature1"]
    np.testing.assert_array_equal(search.columns, list(FEATURES.values()))
    np.testing.assert_array_equal(search.target, TARGET)


def test_powers_have_single_exponents_and_no_warning(julia):
    """PySR warns of every search for powers without a constraint."""
    PySRRegressor(operators=("+", "^", "sin")).fit(FEATURES, TARGET)
    PySRRegressor(operators=("+", "^", "sin"), options={"constraints": {"sin": 5}}).fit(
        FEATURES, TARGET
    )
    PySRRegressor(options={"constraints": {"^": (3, 3)}}, operators=("^",)).fit(FEATURES, TARGET)
    found = [one.options.constraints for one in julia.searches]
    powers = {2: [(-1, -1), (-1, 1)]}
    assert found == [{1: [-1], **powers}, {1: [5], **powers}, {1: [], 2: [(3, 3)]}]


def test_a_law_that_cannot_be_read_loses_itself_only(julia, caplog):
    julia.hall[:] = [
        "feature0 + Inf",
        "NaN",
        "mystery(feature0)",
        "feature0 +",
        "cond(feature0, feature1, 1.0)",
        "exp(exp(exp(exp(9.5)))) + feature0",
        "__import__(feature0)",
        "feature7",
        *HALL,
    ]
    with caplog.at_level(logging.WARNING):
        front = PySRRegressor().fit(FEATURES, TARGET)
    assert [law.expression for law in front.laws] == [2.0 * R, M * (2.0 * R - 1.9)]
    assert "8 of 10 laws of PySR cannot be read, the first is 'feature0 + Inf'" in caplog.text
    julia.hall[:] = ["feature0 + Inf"]
    with pytest.raises(RegressionError, match="no expression that is finite"):
        PySRRegressor().fit(FEATURES, TARGET)


# What Julia evaluates.
MEANT = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "^": np.power,
    "max": np.maximum, "min": np.minimum, "mod": np.mod,
    ">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal,
    "greater": np.greater, "greater_equal": np.greater_equal,
    "less": np.less, "less_equal": np.less_equal,
    "cond": lambda x, y: np.where(x > 0, y, 0),
    "logical_or": lambda x, y: (x > 0) | (y > 0), "logical_and": lambda x, y: (x > 0) & (y > 0),
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh,
    "atanh_clip": lambda x: np.arctanh(np.mod(x + 1, 2) - 1),
    "erf": np.vectorize(__import__("math").erf), "erfc": np.vectorize(__import__("math").erfc),
    "neg": np.negative, "inv": lambda x: 1 / x, "square": np.square, "cube": lambda x: x**3,
    "relu": lambda x: np.maximum(x, 0), "round": np.round,
}  # fmt: skip
# Exact in binary: quotients of `mod` are whole or far from it.
GRID = np.array([-2.5, -2.0, -1.5, -1.0, -0.75, -0.5, 0.0, 0.25, 0.5, 0.875, 1.0, 1.5, 2.5, 3.5])


def written(name, *arguments):
    """As SymbolicRegression writes it to the hall of fame."""
    infix = len(arguments) == 2 and not name[0].isalpha()
    return f"({f' {name} '.join(arguments)})" if infix else f"{name}({', '.join(arguments)})"


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_operators_mean_what_julia_evaluates(name):
    x, y = (column.ravel() for column in np.meshgrid(GRID, GRID))
    arguments = (x, y) if name in BINARY else (x,)
    meant = MEANT.get(name) or getattr(np, name)
    with np.errstate(all="ignore"):
        expected = np.asarray(meant(*arguments), float)
    names = {"x": sympy.Symbol("x"), "y": sympy.Symbol("y")}
    law = read_law(written(name, *list(names)[: len(arguments)]), names)
    # The mean of |x| and |y| up to 4, in a few roundings.
    np.testing.assert_allclose(evaluate(law, dict(x=x, y=y)), expected, rtol=1e-14, atol=1e-15)
    assert name in ("greater_equal", "less", "less_equal") or PySRRegressor(operators=(name,))


def test_trees_of_conditions_agree_with_julia_at_every_tie():
    """Sums and products of small whole numbers are exact, and many conditions are ties."""
    rng = np.random.default_rng(0)
    names = ["+", "*", "-", "greater", "cond", "logical_or", "logical_and", "max", "min", ">="]
    names += ["relu", "neg", "abs", "sign", "square", "round"]
    columns = {f"x{k}": rng.integers(-2, 3, 50).astype(float) for k in range(3)}
    symbols = {name: sympy.Symbol(name) for name in columns}

    def tree(depth):
        if depth == 0 or rng.random() < 0.2:
            if rng.random() < 0.3:
                number = float(rng.integers(-2, 3))
                return str(number), np.full(50, number)
            name = rng.choice(list(columns))
            return name, columns[name]
        name = rng.choice(names)
        parts = [tree(depth - 1) for _ in range(2 if name in BINARY else 1)]
        value = (MEANT.get(name) or getattr(np, name))(*(value for _, value in parts))
        return written(name, *(text for text, _ in parts)), np.asarray(value, float)

    differ = 0
    for _ in range(40):
        text, expected = tree(4)
        law = read_law(text, symbols)
        np.testing.assert_array_equal(evaluate(law, columns), expected, err_msg=text)
        differ += np.ptp(expected) > 0
    assert differ > 15


def test_a_minus_before_a_number_is_part_of_it():
    names = {"n": sympy.Symbol("n")}
    n = np.arange(5.0)
    for text, expected in {
        "-1.0 ^ n": (-1.0) ** n,
        "n - 1.0e-5 ^ 2.0": n - 1e-10,
        "-(2.0 ^ n)": -(2.0**n),
        "n * -2.0": -2 * n,
    }.items():
        np.testing.assert_allclose(evaluate(read_law(text, names), {"n": n}), expected, rtol=1e-15)


def test_steps_are_strict_as_julias(julia):
    julia.hall[:] = ["1.0", "greater(feature0, 2.0)", "feature0 >= 2.0"]
    column = np.array([1.0, 2.0, 2.0, 3.0, 2.0, 1.0])
    front = PySRRegressor(operators=("greater",)).fit({"r": column}, np.where(column > 2, 1.0, 0.0))
    law = front.laws[-1]
    assert law.expression == sympy.Heaviside(R - 2.0, 0) and law.mae == 0


def test_si_units_reach_julia(julia):
    """Newton's law between planets and between atoms: below and beyond 32 bits."""
    for mass, distance in ((1e30, 1e11), (1e-27, 1e-10)):
        features = {"m": mass * (1 + np.arange(10.0)), "r": distance * (2 + np.sin(np.arange(10)))}
        target = 6.674e-11 * features["m"] ** 2 / features["r"] ** 2
        julia.hall[:] = ["feature0", "6.674e-11 * ((feature0 * feature0) / (feature1 * feature1))"]
        law = PySRRegressor().fit(features, target).laws[-1]
        np.testing.assert_array_equal(julia.searches[-1].target, target)
        # 1e-15: roundings of a product of five.
        assert law.mae < 1e-15 * np.max(target)


def test_nothing_of_julia_starts_before_a_search(monkeypatch):
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "pysr", raising=False)
        patch.setattr(importlib.util, "find_spec", lambda name: object())
        patch.setattr(importlib.metadata, "version", lambda name: "2.7.2")
        assert make_regressor("pysr", seed=3) == PySRRegressor(seed=3)
        assert len(make_engines(Settings(regressor="pysr"), 0)) == 6
        with pytest.raises(ValueError, match="target of the regression is constant"):
            PySRRegressor().fit(FEATURES, np.ones(400))
        assert "pysr" not in sys.modules


def test_ctrl_c_stays_ours_and_the_download_is_announced(stand_in, monkeypatch, caplog):
    modules = [name for name in sys.modules if name.split(".")[0] in ("pysr", "juliacall")]
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    ours = signal.getsignal(signal.SIGINT)
    with caplog.at_level(logging.WARNING):
        PySRRegressor().fit(FEATURES, TARGET)
    # Julia had taken it.
    assert sys.modules["juliacall"].started == [ours]
    assert signal.getsignal(signal.SIGINT) is ours
    assert "the first time PySR downloads it" in caplog.text


def test_an_interrupted_search_is_no_front_and_is_not_kept(julia, tmp_path):
    julia.during[:] = [lambda: signal.raise_signal(signal.SIGINT)]
    engine = KeptRegressor(PySRRegressor(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        engine.fit(FEATURES, TARGET)
    assert not Path(julia.searches[-1].options.output_directory).exists()
    julia.during.clear()
    assert engine.fit(FEATURES, TARGET).laws and engine.fit(FEATURES, TARGET).laws
    assert len(julia.searches) == 2
    # Nor does anybody end one by typing "q".
    assert engine.engine.settings()["input_stream"] == "devnull"


def test_an_error_of_julia_does_not_leave_its_process(julia):
    def fail():
        raise julia.JuliaError("out of memory")

    julia.during[:] = [fail]
    with pytest.raises(RegressionError, match="PySR failed: out of memory") as caught:
        PySRRegressor().fit(FEATURES, TARGET)
    assert b"julia" not in pickle.dumps(caught.value)


def test_temporary_files_are_deleted_and_others_stay(julia, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    PySRRegressor(options={"tempdir": str(scratch)}).fit(FEATURES, TARGET)
    assert str(scratch) in julia.searches[-1].options.output_directory
    assert not list(scratch.iterdir())
    PySRRegressor(options={"tempdir": str(scratch), "delete_tempfiles": False}).fit(
        FEATURES, TARGET
    )
    assert list(scratch.rglob("hall_of_fame.csv"))
    PySRRegressor(folder=str(tmp_path / "runs")).fit(FEATURES, TARGET)
    names = {path.name for path in (tmp_path / "runs" / "run").iterdir()}
    assert names == {"hall_of_fame.csv", "checkpoint.pkl"}


def test_what_pysr_keeps_is_read_without_us(julia, tmp_path):
    PySRRegressor(folder=str(tmp_path)).fit(FEATURES, TARGET)
    model = sys.modules["pysr"].PySRRegressor.from_file(run_directory=tmp_path / "run")
    model.refresh()
    assert len(model.equations_["sympy_format"]) == 2
    assert b"symjax_gn" not in (tmp_path / "run" / "checkpoint.pkl").read_bytes()


def test_each_law_is_read_once(julia, monkeypatch):
    read = []
    plain = pysr_laws.read_law

    def counted(text, *args):
        read.append(text)
        return plain(text, *args)

    monkeypatch.setattr(pysr_laws, "read_law", counted)
    monkeypatch.setattr("pysr.export.pysr2sympy", lambda *_, **__: pytest.fail("read by PySR"))
    PySRRegressor().fit(FEATURES, TARGET)
    assert read == HALL


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (dict(), dict(parallelism="serial", deterministic=True)),
        (dict(deterministic=False), dict(parallelism="multithreading", deterministic=False)),
        (dict(procs=3), dict(parallelism="multiprocessing", numprocs=3, deterministic=False)),
        (dict(cluster_manager="pbs", procs=2), dict(parallelism="multiprocessing", numprocs=2)),
        (dict(options={"parallelism": "multithreading"}), dict(deterministic=False)),
        (dict(options={"deterministic": False}), dict(parallelism="multithreading")),
        (
            dict(options={"cluster_manager": "lsf", "procs": 4}),
            dict(parallelism="multiprocessing", deterministic=False, numprocs=4),
        ),
        (dict(options={"niterations": 3, "maxsize": 12}), dict(niterations=3, maxsize=12)),
        (dict(options={"precision": 32}), dict(niterations=40)),
        (dict(maxsize=7, options={"population_size": 20}), dict(maxsize=7, npop=20)),
    ],
    ids=str,
)
def test_settings_and_options_go_together(julia, attributes, expected):
    """Without a warning, and without what PySR refuses."""
    PySRRegressor(**attributes).fit(FEATURES, TARGET)
    given = {**vars(julia.searches[-1]), **vars(julia.searches[-1].options)}
    assert {name: given[name] for name in expected} == expected


def test_options_say_where_files_are_and_which_operators_there_are(julia, tmp_path):
    folder = str(tmp_path / "mine")
    PySRRegressor(options={"output_directory": folder}).fit(FEATURES, TARGET)
    assert julia.searches[-1].options.output_directory == folder
    engine = PySRRegressor(folder=folder, options={"temp_equation_file": True})
    engine.fit(FEATURES, TARGET)
    assert julia.searches[-1].options.output_directory != folder
    PySRRegressor(options={"operators": {1: ["sin"], 2: ["+", "^"]}}).fit(FEATURES, TARGET)
    assert julia.searches[-1].options.constraints == {1: [-1], 2: [(-1, -1), (-1, 1)]}


def test_operators_of_ones_own(julia, tmp_path):
    """Their functions are kept as formulas: what is found is found again, by any process."""
    options = {
        "unary_operators": ["third(x) = x / 3"],
        "binary_operators": ["+", "*", "cut(x, y) = x > y ? x : zero(x)"],
        "extra_sympy_mappings": {
            "third": lambda x: x / 3,
            "cut": lambda x, y: sympy.Piecewise((x, x > y), (0.0, True)),
            "unused": print,
        },
    }
    julia.hall[:] = ["third(feature0)", "6.0 * cut(third(feature0), 0.5)"]
    target = np.where(FEATURES["r"] > 1.5, 2 * FEATURES["r"], 0.0)
    for _ in range(2):
        engine = KeptRegressor(PySRRegressor(options=options), tmp_path)
        law = engine.fit(FEATURES, target).laws[-1]
        assert law.expression == 2.0 * R * sympy.Heaviside(R / 3 - 0.5, 0) and law.mae == 0
    assert len(julia.searches) == 1
    again = pickle.loads(pickle.dumps(engine.engine))
    assert again == engine.engine and again.settings() == engine.engine.settings()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (dict(maxsize=6), "maxsize must be a whole number of at least 7, got 6"),
        (dict(options={"maxsize": 3}), "maxsize must be a whole number of at least 7, got 3"),
        (dict(iterations=0), "iterations must be a whole number of at least 1, got 0"),
        (dict(seed=2**32), "seed must be at most 4294967295, got 4294967296"),
        (dict(options={"random_state": 2**40}), "seed must be .*at most"),
        (dict(procs=0), "procs must be a whole number of at least 1, got 0"),
        (dict(cluster_manager="slrum"), "Unknown cluster manager 'slrum'. Did you mean 'slurm'"),
        (dict(options=[1]), "options must be a Mapping"),
        (dict(options={"expression_spec": 1}), "options cannot have expression_spec"),
        (
            dict(options={"parallelism": "multithreading", "deterministic": True}),
            'parallelism "multithreading" is not deterministic',
        ),
        (dict(procs=2, options={"parallelism": "serial"}), 'procs need parallelism "multiproc'),
        (dict(options={"unary_operators": ["sin", "gamma"]}), "Unknown operator.* 'gamma'"),
        (dict(options={"operators": {3: ["muladd"]}}), "Unknown operator.* of 3 'muladd'"),
        (dict(options={"unary_operators": ["third(x) = x / 3"]}), "Unknown operator.* 'third'"),
        (
            dict(options={"unary_operators": ["f"], "extra_sympy_mappings": {"f": lambda x, y: x}}),
            "The function of 'f' in extra_sympy_mappings must take 1 SymPy expression, and",
        ),
        (
            dict(options={"unary_operators": ["f"], "extra_sympy_mappings": {"f": sympy.gamma}}),
            r"The operator 'f' means gamma\(_1\): laws cannot have gamma",
        ),
        (dict(options={"loss_function": lambda: 0}), "options must hold what pickle can write"),
    ],
)
def test_bad_settings_are_errors_at_once(attributes, message):
    with pytest.raises(ValueError, match=message):
        PySRRegressor(**attributes)


def test_all_seeds_of_a_run_can_be_used():
    seeds = {engine.seed for engine in make_engines(Settings(), 2**32 - 1)}
    assert len(seeds) == 6
    for seed in seeds:
        PySRRegressor(seed=seed)


def test_slurm_gets_as_many_workers_as_tasks(julia, monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with pytest.raises(ValueError, match="needs procs, the number of the allocation's tasks"):
        PySRRegressor(cluster_manager="slurm").fit(FEATURES, TARGET)
    assert not julia.searches
    monkeypatch.setenv("SLURM_NTASKS", "12")
    PySRRegressor(cluster_manager="slurm").fit(FEATURES, TARGET)
    PySRRegressor(cluster_manager="slurm", procs=8).fit(FEATURES, TARGET)
    assert [one.numprocs for one in julia.searches] == [12, 8]


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


def test_searches_with_pysr_run_in_a_worker_that_stays(stand_in, monkeypatch):
    """Julia takes over the process it runs in: that is none of ours, even for one search."""
    stand_in.searches.clear()
    # Workers that an earlier file started know no stand-in.
    shutdown_workers()
    monkeypatch.setattr(searching, "refine", lambda front, *_, **__: front)
    engine = PySRRegressor(operators=("+", "*"))
    pids = set()
    try:
        for processes in (1, 2):
            (front,) = search([engine], [Problem(FEATURES, TARGET, np.ones(400))], processes)
            pids.add(float(front.laws[0].expression / R))
        # Tables are searched without `search`.
        (law,) = next(
            tables._direct(next(tables._views(FEATURES, TARGET, np.ones(400))), [engine], ("+",))
        )
        pids.add(float(law / R))
    finally:
        shutdown_workers()
    assert len(pids) == 1 and os.getpid() not in pids
    assert not stand_in.searches


def test_missing_pysr_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysr", None)
    with pytest.raises(ImportError, match=r'pip install "symjax_gn\[pysr\]".*OperonRegressor'):
        PySRRegressor().fit(FEATURES, TARGET)
    with pytest.raises(ImportError, match=r"needs PySR 2.2 or later.* PYTHON_JULIACALL_EXE and"):
        make_regressor("pysr")


def test_pysr_without_julia_says_so(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(engines.importlib.metadata, "version", lambda name: "2.7.2")
    monkeypatch.setitem(sys.modules, "pysr", None)
    with pytest.raises(ImportError, match="PySR is installed, but"):
        PySRRegressor().fit(FEATURES, TARGET)


def test_old_versions_are_refused(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(engines.importlib.metadata, "version", lambda name: "2.1.0")
    with pytest.raises(ImportError, match=r"needs PySR 2.2 or later.*Installed is PySR 2.1.0"):
        make_regressor("pysr")
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    (extra,) = project["project"]["optional-dependencies"]["pysr"]
    oldest = ".".join(map(str, engines._OLDEST_PYSR))
    assert extra == f"pysr>={oldest},<3" and f"PySR {oldest} or later" in engines._HINT


def test_reports_say_which_julia_ran(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(tmp_path))
    assert julia_versions() == {}
    (tmp_path / "Manifest.toml").write_text(
        'julia_version = "1.11.3"\nmanifest_format = "2.0"\n'
        '[[deps.SymbolicRegression]]\nversion = "2.7.2"\n'
    )
    found = {"julia": "1.11.3", "SymbolicRegression": "2.7.2"}
    assert versions("pysr") == versions() | found
    assert not found.keys() & versions().keys()


@pytest.mark.julia
def test_pysr_finds_a_planted_law():
    law = select(PySRRegressor(iterations=5).fit(FEATURES, TARGET))
    columns = np.stack(list(FEATURES.values()), axis=-1)
    np.testing.assert_allclose(to_numpy(law.expression, ["r", "m_i"])(columns), TARGET, atol=2e-2)
