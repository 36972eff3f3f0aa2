"""Symbolic regression: engines that search for laws, behind one protocol."""

import importlib.util
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import sympy

from symjax_gn.data.checks import check_choice
from symjax_gn.laws.expressions import with_heaviside
from symjax_gn.laws.fronts import Column, Columns, ParetoFront, make_front

REGRESSORS = ("operon", "pysr")


class Regressor(Protocol):
    """An engine of symbolic regression."""

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
    """Raise a `ValueError` for columns that disagree, are not finite, or a constant target."""
    if not features or np.size(target) == 0:
        raise ValueError("Regression needs at least one feature and one sample.")
    for name, column in [*features.items(), ("the target", target)]:
        if np.shape(column) != np.shape(target) or np.ndim(column) != 1:
            raise ValueError(
                f"Column {name} has shape {np.shape(column)}, the target {np.shape(target)}; "
                "both must be [sample]."
            )
        if not np.all(np.isfinite(column)):
            raise ValueError(f"Column {name} has NaN or infinite values.")
    if np.ptp(target) <= 1e-9 * np.max(np.abs(target), initial=1e-300):
        raise ValueError("The target of the regression is constant: there is no law to find.")


_UNARY = ("exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "asin", "acos", "atan", "sinh", "cosh")


_OPERON_OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow"} | {
    name: name for name in (*_UNARY, "abs", "square", "cbrt")
}


DEFAULT_OPERATORS = ("+", "-", "*", "/", "exp")


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
        options: further keywords of `pyoperon.sklearn.SymbolicRegressor`.
    """

    operators: tuple[str, ...] = DEFAULT_OPERATORS
    max_length: int = 25
    evaluations: int = 200_000
    time_limit: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in self.operators:
            check_choice("operator of the operon engine", name, _OPERON_OPERATORS)

    def fit(self, features: Columns, target: Column) -> ParetoFront:
        """Search; see `Regressor.fit`."""
        import sklearn
        from pyoperon.sklearn import SymbolicRegressor

        check_problem(features, target)
        start = time.perf_counter()
        names = list(features)
        # pyoperon 0.6 misreads float32 in C order: float64 in Fortran order is safe.
        columns = np.asfortranarray(np.stack(list(features.values()), axis=-1), np.float64)
        symbols = [_OPERON_OPERATORS[name] for name in self.operators]
        settings: dict[str, Any] = dict(
            allowed_symbols=",".join([*symbols, "constant", "variable"]),
            objectives=["mae", "length"],
            max_length=self.max_length,
            max_evaluations=self.evaluations,
            generations=self.evaluations,
            optimizer_iterations=3,
            population_size=1000,
            max_time=self.time_limit,
            random_state=self.seed,
            uncertainty=[float(np.std(target))],
            epsilon=0.0,
        )
        # Fronts may hold expressions with poles on the samples: not used here, but no error.
        finite = sklearn.config_context(assume_finite=True)
        with warnings.catch_warnings(), finite, np.errstate(all="ignore"):
            # It warns of constant expressions, which are a proper part of a front.
            warnings.filterwarnings("ignore", "Model contains no variables")
            engine = SymbolicRegressor(**(settings | dict(self.options)))
            engine.fit(columns, np.asarray(target, np.float64))
        hashes = {
            key: sympy.Symbol(name) for key, name in zip(engine.variables_, names, strict=True)
        }
        expressions = [tree_to_sympy(row["tree"], hashes) for row in engine.pareto_front_]
        return make_front(expressions, features, target, seconds=time.perf_counter() - start)


def tree_to_sympy(tree: Any, variables: Mapping[int, sympy.Symbol]) -> sympy.Expr:
    """SymPy expression of an Operon tree, with its constants to the last bit."""
    functions = {
        "Add": lambda *x: sympy.Add(*x),
        "Mul": lambda *x: sympy.Mul(*x),
        "Sub": lambda x, *rest: x - sympy.Add(*rest) if rest else -x,
        "Div": lambda x, *rest: x / sympy.Mul(*rest) if rest else 1 / x,
        "Pow": lambda x, y: x**y,
        "Square": lambda x: x**2,
        "Cbrt": lambda x: sympy.sign(x) * sympy.Abs(x) ** sympy.Rational(1, 3),
    } | {name.capitalize(): getattr(sympy, name) for name in _UNARY}
    functions["Abs"] = sympy.Abs
    stack: list[sympy.Expr] = []
    for node in tree.Nodes:
        kind = node.Type.name
        if kind == "Constant":
            stack.append(sympy.Float(node.Value))
        elif kind == "Variable":
            weight = sympy.Integer(1) if node.Value == 1 else sympy.Float(node.Value)
            stack.append(weight * variables[node.HashValue])
        else:
            # Postfix order with the first argument last.
            arguments = [stack.pop() for _ in range(node.Arity)]
            value = functions[kind](*arguments)
            # SymPy holds numbers that no float can; in an exponential they take for ever.
            stack.append(sympy.nan if value.is_Float and abs(value) > 1e100 else value)
    return stack[-1]


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
        for name in self.operators:
            check_choice("operator of PySR", name, (*_PYSR_BINARY, *_PYSR_UNARY))

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
    """
    check_choice("regressor", name, REGRESSORS)
    if name == "operon":
        return OperonRegressor(**options)
    engine = PySRRegressor(**options)
    _import_pysr()
    return engine
