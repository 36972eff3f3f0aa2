"""Symbolic regression: engines that search for laws, behind one protocol."""

import importlib.metadata
import importlib.util
import logging
import numbers
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol

import numpy as np
import sympy

from symjax_gn.data.checks import (
    LARGEST_COUNT,
    LARGEST_SEED,
    LONGEST,
    as_floats,
    check_choice,
    check_count,
    check_finite,
    check_number,
    check_type,
)
from symjax_gn.laws.evolution import OPERATORS, evolve, evolve_with_options
from symjax_gn.laws.fronts import Column, Columns, ParetoFront, make_front
from symjax_gn.laws.julia import run_pysr
from symjax_gn.laws.pysr_laws import BINARY, UNARY, as_formula, operator_name, readable_laws
from symjax_gn.laws.writing import check_name

_log = logging.getLogger(__name__)

REGRESSORS = ("operon", "pysr")

# A law of a few constants passes through so few samples whatever they are.
_FEWEST_SAMPLES = 5

# Spreads below this share of the size are rounding.
_ROUNDING = 1e-9


class Regressor(Protocol):
    """An engine of symbolic regression.

    An engine whose search lets other threads run says so by an attribute `in_threads = True`
    and is run in threads, all others in processes of their own if there are several; one that
    takes over the process it runs in says `own_process = True`, and always is.
    """

    def fit(self, features: Columns, target: Column) -> ParetoFront:
        """Search for laws.

        Args:
            features: columns `[sample]` by the names that laws are written with.
            target: `[sample]`, what a law is to give.

        Raises:
            ValueError: the columns are unusable.
            RegressionError: nothing usable was found.
        """
        ...


def check_problem(features: Columns, target: Column) -> None:
    """Raise a `ValueError` that names the first column of which no law can be found.

    >>> r = np.linspace(1.0, 2.0, 20)
    >>> check_problem({"r": r, "m_i": np.ones(20)}, 2 * r)
    Traceback (most recent call last):
    ValueError: Column m_i is constant, 1.0: leave it out.
    """
    check_type("features", features, Mapping, 'For one column, write {"x": x}.')
    if not features:
        raise ValueError("Regression needs at least one feature, got none.")
    columns = {}
    for name, column in [*features.items(), ("of the target", target)]:
        if column is not target:
            check_name(name)
        if np.ma.is_masked(column):
            raise ValueError(f"Column {name} has masked values: leave their samples out.")
        values = columns[name] = as_floats(f"Column {name}", column)
        if values.ndim != 1 or np.shape(values) != np.shape(target):
            raise ValueError(
                f"Column {name} has shape {np.shape(column)}, the target {np.shape(target)}; "
                "both must be [sample]."
            )
        check_finite(f"Column {name}", values)
    if np.size(target) < _FEWEST_SAMPLES:
        raise ValueError(
            f"Regression needs at least {_FEWEST_SAMPLES} samples, got {np.size(target)}."
        )
    for name, values in columns.items():
        if np.ptp(values) <= _ROUNDING * np.max(np.abs(values)):
            if name == "of the target":
                raise ValueError(
                    "The target of the regression is constant: there is no law to find."
                )
            raise ValueError(f"Column {name} is constant, {values[0]}: leave it out.")


def _check_engine(engine: Any, what: str, choices: Iterable[str]) -> None:
    """Raise a `ValueError` for settings that all engines have."""
    check_type("operators", engine.operators, (tuple, list), 'For one, write ("+",).')
    if not engine.operators:
        raise ValueError("An engine needs at least one operator, got none.")
    for name in engine.operators:
        check_choice(what, name, choices)
    check_count("seed", engine.seed, 0, LARGEST_SEED)
    if engine.time_limit is not None:
        check_number("time_limit", engine.time_limit, above=0, most=LONGEST)


DEFAULT_OPERATORS = ("+", "-", "*", "/", "^", "exp", "log", "sqrt", "sin", "cos", "tanh")
PLAIN_OPERATORS = ("+", "-", "*", "/", "exp")
"""Those that most laws need; every other search has only these, and so gets farther."""


@dataclass(frozen=True)
class OperonRegressor:
    """The embedded engine: genetic programming in C++ (pyoperon), no Julia needed.

    Attributes:
        operators: names as in `DEFAULT_OPERATORS`; also "^", "log", "sqrt", "sin", ...
        max_length: largest number of nodes of a tree.
        evaluations: number of expressions tried.
        time_limit: seconds after which a search stops, or None.
        seed: seed of the search; with one seed the result is reproducible unless a
            time limit ends it.
        options: further keywords of `pyoperon.sklearn.SymbolicRegressor`; these win.

    >>> r = np.linspace(1.0, 2.0, 50)
    >>> OperonRegressor(evaluations=3000).fit({"r": r}, r**2).laws[-1].mae < 0.01
    True
    """

    operators: tuple[str, ...] = DEFAULT_OPERATORS
    max_length: int = 25
    evaluations: int = 200_000
    time_limit: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    in_threads: ClassVar[bool] = True

    def __post_init__(self):
        _check_engine(self, "operator of the operon engine", OPERATORS)
        check_count("max_length", self.max_length, 3, LARGEST_COUNT)
        check_count("evaluations", self.evaluations, most=LARGEST_COUNT)
        check_type("options", self.options, Mapping)

    def fit(self, features: Columns, target: Column) -> ParetoFront:
        """Search; see `Regressor.fit`."""
        check_problem(features, target)
        start = time.perf_counter()
        columns = np.stack([np.asarray(x, np.float64) for x in features.values()], axis=-1)
        run = evolve_with_options if self.options else evolve
        more = dict(options=self.options) if self.options else {}
        expressions = run(
            columns,
            np.asarray(target, np.float64),
            list(features),
            operators=self.operators,
            max_length=self.max_length,
            evaluations=self.evaluations,
            time_limit=self.time_limit,
            seed=self.seed,
            **more,
        )
        return make_front(expressions, features, target, seconds=time.perf_counter() - start)


# The first whose searches leave stdin and Python's lock alone, and say whether they were
# interrupted.
_OLDEST_PYSR = (2, 2)

_HINT = (
    "PySRRegressor needs PySR 2.2 or later and Julia. Install PySR with: "
    'pip install "symjax_gn[pysr]"; its first search downloads Julia. Without a network, Julia '
    "(1.10.3 or later; before 1.12 if Python's OpenSSL is older than 3.5) and a Julia "
    "environment with SymbolicRegression and PythonCall must be there, named by "
    "PYTHON_JULIACALL_EXE and PYTHON_JULIACALL_PROJECT. "
    "Or use the embedded engine, OperonRegressor."
)

# PySR refuses laws smaller than this, and NumPy seeds above.
_SMALLEST_MAXSIZE, _LARGEST_SEED = 7, 2**32 - 1

# Those that PySR knows how to start workers with.
_CLUSTERS = ("slurm", "pbs", "lsf", "sge", "qrsh", "scyld", "htc")

# Laws of other kinds are no SymPy expressions.
_OTHER_LAWS = ("expression_spec", "type_spec")


@dataclass(frozen=True)
class PySRRegressor:
    """The engine of the paper's authors, PySR; needs the extra `pysr` and Julia.

    The first search in a process starts Julia, and the first of all lets PySR download Julia
    and its packages, which takes minutes and has no time limit.

    Attributes:
        operators: names as in `DEFAULT_OPERATORS`, or others of PySR's, among them
            "greater", "cond", "logical_and", ... for laws with conditions, which come out
            as Heaviside steps. Define your own in `options`, as PySR's `unary_operators` or
            `binary_operators` with `extra_sympy_mappings`.
        maxsize: largest complexity, in PySR's own count.
        iterations: PySR's `niterations`.
        loss: loss of one sample in PySR's notation; the default is the absolute error.
        time_limit: seconds after which a search stops, or None. PySR counts them from the
            end of its first iteration: starting Julia, compiling, and that one come on top.
        batching: whether each step looks at part of the samples only.
        seed: seed of a deterministic search; others start from chance.
        deterministic: whether equal seeds give equal results; then PySR runs serially.
        folder: where PySR keeps its results, or None for a temporary folder.
        cluster_manager: for searches over several machines, e.g. "slurm".
        procs: Julia's worker processes, or None. On Slurm there must be as many as tasks;
            None takes them from `SLURM_NTASKS`.
        options: any further keyword of `pysr.PySRRegressor`. These win over the attributes,
            also where one follows from another: `parallelism="multithreading"` makes a
            search that is not deterministic, `output_directory` one that keeps its files,
            and `operators` replaces all operators. `constraints` are added to that of "^",
            whose exponents are single numbers or variables unless they say otherwise.
            Functions in `extra_sympy_mappings` are kept as the formulas that they are.

    >>> PySRRegressor(iterations=100, options={"parsimony": 1e-3}).iterations
    100
    """

    operators: tuple[str, ...] = DEFAULT_OPERATORS
    maxsize: int = 25
    iterations: int = 40
    loss: str = "L1DistLoss()"
    time_limit: float | None = None
    batching: bool = False
    seed: int = 0
    deterministic: bool = True
    folder: str | None = None
    cluster_manager: str | None = None
    procs: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    own_process: ClassVar[bool] = True

    def __post_init__(self):
        _check_engine(self, "operator of PySR", (*BINARY, *UNARY))
        check_count("iterations", self.iterations)
        check_type("options", self.options, Mapping, 'Write {"parsimony": 1e-3}.')
        for name in _OTHER_LAWS:
            if self.options.get(name) is not None:
                raise ValueError(f"options cannot have {name}: laws are plain expressions.")
        # A function cannot be compared or written down; the formula that it makes can.
        formulas = _formulas(self.settings())
        if formulas:
            options = {**self.options, "extra_sympy_mappings": formulas}
            object.__setattr__(self, "options", options)
        _check_settings(self.settings())

    def settings(self) -> dict[str, Any]:
        """The keywords that `pysr.PySRRegressor` is given."""
        settings: dict[str, Any] = dict(
            maxsize=self.maxsize,
            niterations=self.iterations,
            elementwise_loss=self.loss,
            timeout_in_seconds=self.time_limit,
            batching=self.batching,
            deterministic=self.deterministic,
            output_directory=self.folder,
            cluster_manager=self.cluster_manager,
            procs=self.procs,
            # Masses and distances in SI units are beyond 32 bits.
            precision=64,
            # A "q" typed at the terminal would end a search as if it were whole.
            input_stream="devnull",
            progress=False,
            verbosity=0,
        )
        if "operators" not in self.options:
            settings["binary_operators"] = [name for name in self.operators if name in BINARY]
            settings["unary_operators"] = [name for name in self.operators if name in UNARY]
        return _completed(settings | dict(self.options), self.options, self.seed)

    def fit(self, features: Columns, target: Column) -> ParetoFront:
        """Search; see `Regressor.fit`.

        A law that cannot be read is left out; how many are is logged.

        Raises:
            ImportError: PySR or Julia is missing; the message says what to install.
            KeyboardInterrupt: the search was interrupted; PySR would give what it has.
        """
        check_problem(features, target)
        settings = self.settings()
        _check_workers(settings)
        pysr = _import_pysr()
        start = time.perf_counter()
        # PySR reserves some letters; ours are kept apart from them.
        variables = {f"feature{k}": sympy.Symbol(name) for k, name in enumerate(features)}
        columns = np.stack([np.asarray(x, np.float64) for x in features.values()], axis=-1)
        texts = run_pysr(pysr, settings, columns, np.asarray(target, np.float64), list(variables))
        laws = readable_laws(texts, variables, settings.get("extra_sympy_mappings") or {})
        return make_front(laws, features, target, seconds=time.perf_counter() - start)


def _completed(settings: dict[str, Any], given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Keywords of PySR with those that follow from others, unless these are given."""
    follows: dict[str, Any] = {}
    parallelism = "serial" if settings["deterministic"] else "multithreading"
    if settings["cluster_manager"] is not None or settings["procs"] is not None:
        parallelism = "multiprocessing"
    parallelism = given.get("parallelism", parallelism)
    follows["parallelism"] = parallelism
    serial = parallelism == "serial"
    follows["deterministic"] = given.get("deterministic", settings["deterministic"] and serial)
    # PySR warns of seeds that make nothing equal.
    follows["random_state"] = given.get("random_state", seed if follows["deterministic"] else None)
    if settings["cluster_manager"] == "slurm" and settings["procs"] is None:
        tasks = os.environ.get("SLURM_NTASKS", "")
        follows["procs"] = int(tasks) if tasks.isdecimal() else None
    directory = settings["output_directory"]
    temporary = given.get("temp_equation_file", directory is None)
    follows["temp_equation_file"] = temporary
    follows["output_directory"] = given.get("output_directory", None if temporary else directory)
    if "^" in _arities(settings):
        # PySR recommends it, and warns of searches without.
        follows["constraints"] = {"^": (-1, 1), **(given.get("constraints") or {})}
    return settings | follows


def _arities(settings: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of arguments of the operators in use, by their names in laws."""
    lists = settings.get("operators")
    if lists is None:
        lists = {1: settings.get("unary_operators"), 2: settings.get("binary_operators")}
    return {operator_name(text): n for n, texts in lists.items() for text in texts or ()}


def _formulas(settings: Mapping[str, Any]) -> dict[str, sympy.Lambda]:
    """The formulas of the operators whose meaning is given."""
    functions = settings.get("extra_sympy_mappings") or {}
    arities = _arities(settings)
    return {
        name: as_formula(name, function, arities[name])
        for name, function in functions.items()
        if name in arities
    }


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for what PySR would refuse once Julia runs, or not at all."""
    check_count("maxsize", settings["maxsize"], _SMALLEST_MAXSIZE)
    seed = settings["random_state"]
    if isinstance(seed, numbers.Integral) and int(seed) > _LARGEST_SEED:
        raise ValueError(f"seed must be a whole number of at most {_LARGEST_SEED}, got {seed}.")
    if settings["procs"] is not None:
        check_count("procs", settings["procs"])
    cluster, parallelism = settings["cluster_manager"], settings["parallelism"]
    if cluster is not None:
        check_choice("cluster manager", cluster, _CLUSTERS)
    if settings["deterministic"] and parallelism != "serial":
        raise ValueError(
            f'A search with parallelism "{parallelism}" is not deterministic: leave one out.'
        )
    if parallelism != "multiprocessing" and (cluster or settings["procs"]):
        raise ValueError(
            f'cluster_manager and procs need parallelism "multiprocessing", got "{parallelism}".'
        )
    meanings = settings.get("extra_sympy_mappings") or {}
    for name, arity in _arities(settings).items():
        known = {1: UNARY, 2: BINARY}.get(arity, {})
        if name not in meanings:
            check_choice(f"operator of PySR without extra_sympy_mappings of {arity}", name, known)
    try:
        pickle.dumps(dict(settings))
    except Exception as error:
        raise ValueError(f"options must hold what pickle can write: {error}") from error


def _check_workers(settings: Mapping[str, Any]) -> None:
    if settings["cluster_manager"] == "slurm" and settings["procs"] is None:
        raise ValueError(
            "A search on Slurm needs procs, the number of the allocation's tasks: give "
            "PySRRegressor(procs=...), or run it where SLURM_NTASKS is set."
        )


def check_pysr() -> None:
    """Raise an `ImportError` that says what to install unless PySR is; Julia does not start."""
    if importlib.util.find_spec("pysr") is None:
        raise ImportError(_HINT)
    try:
        version = importlib.metadata.version("pysr")
    except importlib.metadata.PackageNotFoundError:
        return
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_PYSR:
        raise ImportError(f"{_HINT} (Installed is PySR {version}.)")


def _import_pysr() -> Any:
    """PySR, with Julia in this process and Ctrl-C as it was."""
    check_pysr()
    if "pysr" not in sys.modules:
        _log.warning("Julia starts; the first time PySR downloads it, which takes minutes.")
    in_main = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        import pysr  # pyright: ignore[reportMissingImports]
    except Exception as error:
        # Without Julia the import itself fails, in more ways than one.
        raise ImportError(f"{_HINT} (PySR is installed, but: {error})") from error
    finally:
        if in_main and on_interrupt is not None:
            signal.signal(signal.SIGINT, on_interrupt)
    return pysr


def make_regressor(name: str, **options: Any) -> Regressor:
    """The engine of that name with the given attributes, once it is sure that it is there.

    Nothing of Julia starts before the first search.

    Raises:
        ValueError: an unknown engine or operator.
        ImportError: PySR is missing; the message says what to install.

    >>> make_regressor("operon", evaluations=1000).evaluations
    1000
    """
    check_choice("regressor", name, REGRESSORS)
    kind = OperonRegressor if name == "operon" else PySRRegressor
    for one in options:
        check_choice(f"attribute of {kind.__name__}", one, [x.name for x in fields(kind)])
    if name == "operon":
        return OperonRegressor(**options)
    engine = PySRRegressor(**options)
    check_pysr()
    return engine
