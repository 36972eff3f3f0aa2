"""Symbolic regression: engines that search for laws, behind one protocol."""

import importlib.util
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
from symjax_gn.laws.expressions import with_heaviside
from symjax_gn.laws.fronts import Column, Columns, ParetoFront, make_front
from symjax_gn.laws.writing import check_name

REGRESSORS = ("operon", "pysr")

# A law of a few constants passes through so few samples whatever they are.
_FEWEST_SAMPLES = 5

# Spreads below this share of the size are rounding.
_ROUNDING = 1e-9


class Regressor(Protocol):
    """An engine of symbolic regression.

    An engine whose search lets other threads run says so by an attribute `in_threads = True`
    and is run in threads, all others in processes of their own.
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
    if not features:
        raise ValueError("Regression needs at least one feature, got none.")
    columns = {}
    for name, column in [*features.items(), ("of the target", target)]:
        if column is not target:
            check_name(name)
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


_UNARY = ("exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "asin", "acos", "atan", "sinh", "cosh")

# The operators that PySR 2 lists for itself, by their number of arguments.
_PYSR_BINARY = ("+", "-", "*", "/", "^", "max", "min", "mod", ">", ">=", "<", "<=", "cond")
_PYSR_BINARY += ("greater", "logical_or", "logical_and")
_PYSR_UNARY = (*_UNARY, "neg", "inv", "abs", "sign", "square", "cube", "cbrt", "log10", "log2")
_PYSR_UNARY += ("log1p", "asinh", "acosh", "atanh", "atanh_clip", "erf", "erfc", "gamma", "relu")
_PYSR_UNARY += ("sinc", "round", "floor", "ceil")


@dataclass(frozen=True)
class PySRRegressor:
    """The engine of the paper's authors, PySR 2.x; needs the extra `pysr` and Julia.

    Attributes:
        operators: names as in `DEFAULT_OPERATORS`, or others that PySR knows, among them
            "greater", "cond", "logical_and", ... for laws with conditions, which come out
            as Heaviside steps. Define
            your own in `options`, as PySR's `unary_operators` or `binary_operators`
            with `extra_sympy_mappings`.
        maxsize: largest complexity, in PySR's own count.
        iterations: PySR's `niterations`.
        loss: loss of one sample in PySR's notation; the default is the absolute error.
        time_limit: seconds after which a search stops, or None.
        batching: whether each step looks at part of the samples only.
        seed: seed of the search.
        deterministic: whether equal seeds give equal results; then PySR runs serially.
        folder: where PySR keeps its results, or None for a temporary folder.
        cluster_manager: for searches over several machines, e.g. "slurm".
        options: any further keyword of `pysr.PySRRegressor`; these win.

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
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _check_engine(self, "operator of PySR", (*_PYSR_BINARY, *_PYSR_UNARY))
        check_count("maxsize", self.maxsize, most=LARGEST_COUNT)
        check_count("iterations", self.iterations, most=LARGEST_COUNT)

    def settings(self) -> dict[str, Any]:
        """The keywords that `pysr.PySRRegressor` is given."""
        binary = [name for name in self.operators if name in _PYSR_BINARY]
        settings: dict[str, Any] = dict(
            binary_operators=binary,
            unary_operators=[name for name in self.operators if name not in binary],
            maxsize=self.maxsize,
            niterations=self.iterations,
            elementwise_loss=self.loss,
            timeout_in_seconds=self.time_limit,
            batching=self.batching,
            random_state=self.seed,
            deterministic=self.deterministic,
            parallelism="serial" if self.deterministic else "multithreading",
            output_directory=self.folder,
            temp_equation_file=self.folder is None,
            progress=False,
            verbosity=0,
        )
        if self.cluster_manager is not None:
            settings |= dict(
                cluster_manager=self.cluster_manager,
                parallelism="multiprocessing",
                deterministic=False,
            )
        return settings | dict(self.options)

    def fit(self, features: Columns, target: Column) -> ParetoFront:
        """Search; see `Regressor.fit`.

        Raises:
            ImportError: PySR or Julia is missing; the message says what to install.
        """
        check_problem(features, target)
        pysr = _import_pysr()
        start = time.perf_counter()
        engine = pysr.PySRRegressor(**self.settings())
        # PySR reserves some letters; ours are kept apart from them.
        names = list(features)
        plain = [f"feature{k}" for k in range(len(names))]
        engine.fit(np.stack(list(features.values()), axis=-1), target, variable_names=plain)
        back = {sympy.Symbol(p): sympy.Symbol(n) for p, n in zip(plain, names, strict=True)}
        expressions = [
            with_heaviside(sympy.sympify(engine.sympy(index))).xreplace(back)
            for index in range(len(engine.equations_))
        ]
        return make_front(expressions, features, target, seconds=time.perf_counter() - start)


def _import_pysr() -> Any:
    hint = (
        "PySRRegressor needs PySR 2.x and Julia. Install them with: "
        'pip install "symjax_gn[pysr]" and, where juliaup is not reachable, Julia 1.10 or '
        "later on the PATH; or use the embedded engine, OperonRegressor."
    )
    if importlib.util.find_spec("pysr") is None:
        raise ImportError(hint)
    try:
        import pysr  # pyright: ignore[reportMissingImports]
    except Exception as error:
        # Without Julia the import itself fails, in more ways than one.
        raise ImportError(f"{hint} (PySR is installed, but: {error})") from error
    return pysr


def make_regressor(name: str, **options: Any) -> Regressor:
    """The engine of that name with the given attributes, once it is sure that it can run.

    Raises:
        ValueError: an unknown engine or operator.
        ImportError: PySR or Julia is missing; the message says what to install.

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
    _import_pysr()
    return engine
