"""Symbolic regression: engines behind one protocol, Pareto fronts, selection.

An engine searches; everything that makes fronts of different engines comparable is
done here: SymPy expressions, our own complexity, mean absolute error in float64, score.
"""

import importlib.util
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import sympy
from jaxtyping import Float
from joblib import Parallel, delayed
from scipy.optimize import least_squares

from symjax_gn.expressions import complexity, constants, from_jax, to_numpy
from symjax_gn.systems import check_choice

REGRESSORS = ("operon", "pysr")


class Law(NamedTuple):
    """One expression of a Pareto front."""

    expression: sympy.Expr
    """The law, of the features' names."""
    complexity: int
    """See `expressions.complexity`."""
    mae: float
    """Mean absolute error on the regression's samples, in the target's unit."""
    score: float
    """Fall of log(mae) per unit of complexity from the next simpler law; the first 0."""


class ParetoFront(NamedTuple):
    """The best law of each complexity, simplest first; errors fall strictly."""

    laws: tuple[Law, ...]
    seconds: float
    """Time of the search."""


class Regressor(Protocol):
    """An engine of symbolic regression."""

    def fit(
        self, features: Mapping[str, Float[np.ndarray, " sample"]], target: np.ndarray
    ) -> ParetoFront:
        """Search for laws of the named feature columns `[sample]` for `target [sample]`."""
        ...


class RegressionError(RuntimeError):
    """A search ended without a usable expression."""


def make_front(
    expressions: Iterable[sympy.Expr],
    features: Mapping[str, Float[np.ndarray, " sample"]],
    target: Float[np.ndarray, " sample"],
    *,
    weight: Float[np.ndarray, " sample"] | None = None,
    gain: float = 0.0,
    seconds: float = 0.0,
) -> ParetoFront:
    """The Pareto front of the given expressions on the given samples.

    Args:
        expressions: candidates; those that are not finite on some sample are dropped.
        features: columns `[sample]` by name.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors, or None for 1.
        gain: smallest relative fall of the error that earns a more complex law its
            place; without it, laws that differ by nothing that matters would make the
            steps between which the score is measured arbitrarily short.
        seconds: time of the search, kept in the result.

    Raises:
        RegressionError: no expression is usable.
    """
    names = list(features)
    weight = np.ones_like(target) if weight is None else weight
    columns = np.stack([features[name] for name in names], axis=-1)
    rated = []
    for expression in set(expressions):
        if expression.has(sympy.I, sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
            continue
        value = to_numpy(expression, names)(columns)
        if np.all(np.isfinite(value)):
            error = float(np.average(np.abs(value - target) * weight))
            rated.append((complexity(expression), error, str(expression), expression))
    laws: list[Law] = []
    for size, error, _, expression in sorted(rated, key=lambda row: row[:3]):
        score = 0.0
        if laws:
            if error >= (1 - gain) * laws[-1].mae or size == laws[-1].complexity:
                continue
            fall = math.log(laws[-1].mae / max(error, 1e-300))
            score = fall / (size - laws[-1].complexity)
        laws.append(Law(expression, size, error, score))
    if not laws:
        raise RegressionError("The search found no expression that is finite on all samples.")
    return ParetoFront(tuple(laws), seconds)


def select(front: ParetoFront) -> Law:
    """The law with the highest score (paper, section 3: the largest fall of log error)."""
    return max(front.laws, key=lambda law: law.score)


def refine(
    front: ParetoFront,
    features: Mapping[str, Float[np.ndarray, " sample"]],
    target: Float[np.ndarray, " sample"],
    *,
    weight: Float[np.ndarray, " sample"] | None = None,
    gain: float = 0.1,
    rounds: int = 3,
    most: int = 400,
) -> ParetoFront:
    """Look for simpler or better laws next to those of a front.

    Each law's constants are refitted (soft L1), and so are its variants with one
    term or factor left out, or constants replaced by near integers; what is on the
    front of all of these is kept, and the same is done with the newcomers.

    Args:
        front: the front to start from.
        features: columns `[sample]` by name.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors, or None for 1.
        gain: as in `make_front`, for the front that is returned.
        rounds: how often newcomers are refined in turn.
        most: largest number of refits.
    """
    start, seconds = time.perf_counter(), front.seconds
    weight = np.ones_like(target) if weight is None else weight
    seen: set[sympy.Expr] = set()
    for _ in range(rounds):
        worth = [law.expression for law in front.laws]
        worth = make_front(worth, features, target, weight=weight, gain=gain)
        fresh = [law for law in worth.laws if law.expression not in seen]
        if not fresh:
            break
        candidates = [law.expression for law in front.laws]
        for law in fresh:
            seen.add(law.expression)
            for variant in [law.expression, *_variants(law.expression)]:
                if most > 0:
                    most -= 1
                    candidates.append(
                        _refit(variant, features, target, weight / max(law.mae, 1e-12))
                    )
        front = make_front(candidates, features, target, weight=weight)
    expressions = [law.expression for law in front.laws]
    seconds += time.perf_counter() - start
    return make_front(expressions, features, target, weight=weight, gain=gain, seconds=seconds)


def _variants(expression: sympy.Expr) -> list[sympy.Expr]:
    found = []
    for node in sympy.preorder_traversal(expression):
        if node.is_Add or node.is_Mul:
            for k in range(len(node.args)):
                rest = node.func(*(node.args[:k] + node.args[k + 1 :]))
                found.append(expression.xreplace({node: rest}))
    whole = {
        value: sympy.Integer(round(value))
        for value in constants(expression)
        if abs(value) > 0.5 and abs(value - round(value)) < 0.1
    }
    found += [expression.xreplace({value: integer}) for value, integer in whole.items()]
    found.append(expression.xreplace(whole))
    found += [sympy.factor_terms(variant) for variant in found[-len(whole) - 1 :]]
    bad = (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)
    return [variant for variant in dict.fromkeys(found) if not variant.has(*bad)]


def _refit(expression, features, target, weight):
    """The expression with its constants fitted to the samples, or as it is if that fails."""
    old = constants(expression)
    if not old:
        return expression
    names = list(features)
    slots = sympy.symbols(f"_c:{len(old)}")
    free = expression.xreplace(dict(zip(old, slots, strict=True)))
    function = to_numpy(free, [*names, *map(str, slots)])
    columns = [features[name] for name in names]
    start = np.asarray([float(value) for value in old])

    def residual(values):
        fixed = [np.full(len(target), value) for value in values]
        with np.errstate(all="ignore"):
            error = (function(np.stack([*columns, *fixed], axis=-1)) - target) * weight
        return np.clip(np.nan_to_num(error, nan=1e10), -1e10, 1e10)

    try:
        fit = least_squares(
            residual, start, loss="soft_l1", x_scale=np.maximum(np.abs(start), 1e-3), max_nfev=15
        )
    except (ValueError, np.linalg.LinAlgError):
        return expression
    return from_jax(expression, fit.x)


def check_problem(
    features: Mapping[str, Float[np.ndarray, " sample"]], target: Float[np.ndarray, " sample"]
) -> None:
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

    def fit(
        self,
        features: Mapping[str, Float[np.ndarray, " sample"]],
        target: Float[np.ndarray, " sample"],
    ) -> ParetoFront:
        """Search; see `Regressor.fit`.

        Raises:
            ValueError: the columns are unusable.
            RegressionError: nothing usable was found.
        """
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
        with warnings.catch_warnings():
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
            stack.append(functions[kind](*arguments))
    return stack[-1]


@dataclass(frozen=True)
class PySRRegressor:
    """The engine of the paper's authors, PySR 2.x; needs the extra `pysr` and Julia.

    Attributes:
        operators: names as in `DEFAULT_OPERATORS`, or any that PySR knows.
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

    def settings(self) -> dict[str, Any]:
        """The keywords that `pysr.PySRRegressor` is given."""
        binary = [name for name in self.operators if name in {"+", "-", "*", "/", "^", ">", "<"}]
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

    def fit(
        self,
        features: Mapping[str, Float[np.ndarray, " sample"]],
        target: Float[np.ndarray, " sample"],
    ) -> ParetoFront:
        """Search; see `Regressor.fit`.

        Raises:
            ImportError: PySR or Julia is missing; the message says what to install.
            ValueError: the columns are unusable.
            RegressionError: nothing usable was found.
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
            sympy.sympify(engine.sympy(index)).xreplace(back)
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
    """The engine of that name with the given attributes; unknown names are an error."""
    check_choice("regressor", name, REGRESSORS)
    return (OperonRegressor if name == "operon" else PySRRegressor)(**options)


def fit_many(
    regressors: Sequence[Regressor],
    features: Sequence[Mapping[str, Float[np.ndarray, " sample"]]],
    targets: Sequence[Float[np.ndarray, " sample"]],
    weights: Sequence[Float[np.ndarray, " sample"]],
    processes: int | None = None,
) -> list[ParetoFront]:
    """Fit one target after another or, in several processes, side by side.

    Args:
        regressors: one engine per target.
        features: feature columns of each target.
        targets: `[sample]` each.
        weights: `[sample]` each, factors of the absolute errors in refinement.
        processes: how many at once; None takes one per core, at most one per target.

    Returns:
        One refined front per target.
    """
    for columns, target in zip(features, targets, strict=True):
        check_problem(columns, target)
    processes = min(len(targets), processes or os.cpu_count() or 1)
    jobs = zip(regressors, features, targets, weights, strict=True)
    return Parallel(n_jobs=processes)(delayed(_fit_one)(*job) for job in jobs)  # pyright: ignore


def _fit_one(regressor, features, target, weight):
    return refine(regressor.fit(features, target), features, target, weight=weight)
