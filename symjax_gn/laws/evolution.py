"""Genetic programming with Operon: the C++ library driven directly, and its trees in SymPy.

`pyoperon.sklearn` would do the driving too, but it imports scikit-learn, which takes longer
than a search. A search runs without Python's lock, so that several run in threads.
"""

import importlib
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import sympy
from jaxtyping import Float

from symjax_gn.laws.fronts import RegressionError

_UNARY = ("exp", "log", "sqrt", "sin", "cos", "tan", "tanh", "asin", "acos", "atan", "sinh", "cosh")
OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow"} | {
    name: name for name in (*_UNARY, "abs", "square", "cbrt")
}

# Size of a population, and iterations of each tree's local fit: enough for laws of physics.
_POPULATION, _LOCAL_STEPS = 1000, 3

# Operon's own defaults, which its estimator for scikit-learn has too.
_DEPTH, _FIRST_LENGTH, _FIRST_DEPTH = 10, 10, 1000
_TOURNAMENT, _INTERNAL, _MUTATION = 5, 0.9, 0.25

# SymPy holds numbers that no float can; in an exponential they take for ever.
_LARGEST = 1e100

_running: set[Any] = set()
_lock = threading.Lock()


def evolve(
    columns: Float[np.ndarray, "sample variable"],
    target: Float[np.ndarray, " sample"],
    names: Sequence[str],
    *,
    operators: Sequence[str],
    max_length: int,
    evaluations: int,
    time_limit: float | None = None,
    seed: int = 0,
) -> list[sympy.Expr]:
    """Expressions on the Pareto front of (mean absolute error, length) of one search.

    Args:
        columns: features.
        target: what expressions are to give.
        names: of the columns.
        operators: among `OPERATORS`.
        max_length: largest number of nodes of a tree.
        evaluations: number of expressions tried.
        time_limit: seconds after which the search stops, or None.
        seed: of the search.

    >>> r = np.linspace(1.0, 2.0, 50)
    >>> limits = dict(operators=["*"], max_length=3, evaluations=2000)
    >>> found = evolve(r[:, None], r**2, ["r"], **limits)[-1]
    >>> round(float(found.subs("r", 3)), 3)
    9.0
    """
    op: Any = importlib.import_module("pyoperon")

    # pyoperon 0.6 misreads float32 in C order: float64 in Fortran order is safe.
    data = op.Dataset(np.asfortranarray(np.column_stack([columns, target]), np.float64))
    *inputs, last = sorted(data.Variables, key=lambda variable: variable.Index)
    hashes = [variable.Hash for variable in inputs]
    rows = op.Range(0, data.Rows)
    problem = op.Problem(data)
    problem.TrainingRange, problem.TestRange = rows, op.Range(data.Rows - 1, data.Rows)
    problem.Target, problem.InputHashes = last, hashes
    kinds = [OPERATORS[name].capitalize() for name in operators]
    symbols = [getattr(op.NodeType, kind) for kind in (*kinds, "Constant", "Variable")]
    problem.ConfigurePrimitiveSet(sum({int(symbol) for symbol in symbols}))
    primitives = problem.PrimitiveSet

    # The library holds pointers only: each of its objects needs a name that outlives the run.
    creator = op.BalancedTreeCreator(primitives, hashes, 0.0)
    constants = op.NormalCoefficientInitializer()
    constants.ParameterizeDistribution(0, 1)
    table = op.DispatchTable()
    error, length = op.Evaluator(problem, table, op.MAE(), True), op.LengthEvaluator(problem)
    evaluator = op.MultiEvaluator(problem)
    for part in (error, length):
        part.Budget = evaluations
        evaluator.Add(part)
    evaluator.Budget = evaluations
    crowded = op.CrowdedComparison()
    parents = [op.TournamentSelector(crowded), op.TournamentSelector(crowded)]
    for selector in parents:
        selector.TournamentSize = _TOURNAMENT
    keep_best = op.KeepBestReinserter(crowded)
    crossover = op.SubtreeCrossover(_INTERNAL, _DEPTH, max_length)
    mutations = _mutations(op, primitives, hashes, creator, constants, max_length)
    mutation = op.MultiMutation()
    for one in mutations:
        mutation.Add(one, 1.0)
    optimizer = op.LMOptimizer(table, problem, _LOCAL_STEPS, 0)
    local = op.CoefficientOptimizer(optimizer)
    offspring = op.BasicOffspringGenerator(evaluator, crossover, mutation, *parents, local)
    trees = op.UniformLengthTreeInitializer(creator)
    fewest, _ = primitives.FunctionArityLimits()
    trees.ParameterizeDistribution(fewest + 1, min(_FIRST_LENGTH, max_length))
    trees.MinDepth, trees.MaxDepth = 1, _FIRST_DEPTH
    config = op.GeneticAlgorithmConfig(
        generations=evaluations,
        max_evaluations=evaluations,
        local_iterations=_LOCAL_STEPS,
        population_size=_POPULATION,
        pool_size=_POPULATION,
        p_crossover=1.0,
        p_mutation=_MUTATION,
        p_local=1.0,
        p_lamarck=1.0,
        epsilon=0.0,
        seed=seed,
        max_time=sys.maxsize if time_limit is None else max(1, round(time_limit)),
    )
    sorter = op.RankSorter()
    algorithm = op.NSGA2Algorithm(config, problem, trees, constants, offspring, keep_best, sorter)
    with _stoppable(evaluator), ThreadPoolExecutor(1) as thread:
        # A thread that runs the library alone cannot be interrupted: this one waits for it.
        run = thread.submit(algorithm.Run, op.RandomGenerator(np.uint64(seed)), None, 1, False)
        try:
            run.result()
        except BaseException:
            evaluator.Budget = 0
            raise
    if not evaluator.Budget:
        raise RegressionError("The search was stopped before its end.")
    variables = dict(zip(hashes, map(sympy.Symbol, names), strict=True))
    expressions = []
    with np.errstate(all="ignore"):
        for individual in algorithm.BestFront:
            values = op.Evaluate(table, individual.Genotype, data, rows)
            # The error that was searched with leaves a factor and an offset free.
            factor, offset = op.FitLeastSquares(values, target)
            found = tree_to_sympy(individual.Genotype, variables)
            expressions.append(sympy.Float(factor) * found + sympy.Float(offset))
    return expressions


def _mutations(op, primitives, hashes, creator, constants, max_length):
    one, several, exact = (
        op.NormalOnePointMutation(),
        op.NormalMultiPointMutation(),
        op.DiscretePointMutation(),
    )
    for mutation in (one, several):
        mutation.ParameterizeDistribution(0, 1)
    for constant in op.Math.Constants:
        exact.Add(constant, 1.0)
    limits = (creator, constants, _DEPTH, max_length)
    return [
        one,
        several,
        exact,
        op.ChangeVariableMutation(hashes),
        op.ChangeFunctionMutation(primitives),
        op.InsertSubtreeMutation(*limits),
        op.ReplaceSubtreeMutation(*limits),
        op.RemoveSubtreeMutation(primitives),
    ]


@contextmanager
def _stoppable(evaluator: Any) -> Iterator[None]:
    with _lock:
        _running.add(evaluator)
    try:
        yield
    finally:
        with _lock:
            _running.discard(evaluator)


def stop_evolution() -> None:
    """End all searches that run in this process; each raises a `RegressionError`.

    >>> stop_evolution()
    """
    with _lock:
        for evaluator in _running:
            # The library looks at it once per generation, some 10 ms.
            evaluator.Budget = 0


def evolve_with_options(
    columns: Float[np.ndarray, "sample variable"],
    target: Float[np.ndarray, " sample"],
    names: Sequence[str],
    *,
    operators: Sequence[str],
    max_length: int,
    evaluations: int,
    time_limit: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any],
) -> list[sympy.Expr]:
    """The same by Operon's estimator for scikit-learn, which takes further options.

    Args:
        columns: as in `evolve`, and so are all others that are not listed.
        target: see there.
        names: see there.
        operators: see there.
        max_length: see there.
        evaluations: see there.
        time_limit: see there.
        seed: see there.
        options: keywords of `pyoperon.sklearn.SymbolicRegressor`; these win.
    """
    import sklearn
    from pyoperon.sklearn import SymbolicRegressor

    settings: dict[str, Any] = dict(
        allowed_symbols=",".join(
            [*(OPERATORS[name] for name in operators), "constant", "variable"]
        ),
        objectives=["mae", "length"],
        max_length=max_length,
        max_evaluations=evaluations,
        generations=evaluations,
        optimizer_iterations=_LOCAL_STEPS,
        population_size=_POPULATION,
        max_time=time_limit,
        random_state=seed,
        uncertainty=[float(np.std(target))],
        epsilon=0.0,
    )
    # Fronts may hold expressions with poles on the samples: not used here, but no error.
    finite = sklearn.config_context(assume_finite=True)
    with warnings.catch_warnings(), finite, np.errstate(all="ignore"):
        # It warns of constant expressions, which are a proper part of a front.
        warnings.filterwarnings("ignore", "Model contains no variables")
        engine = SymbolicRegressor(**(settings | dict(options)))
        engine.fit(np.asfortranarray(columns), target)
    variables = dict(zip(engine.variables_, map(sympy.Symbol, names), strict=True))
    return [tree_to_sympy(row["tree"], variables) for row in engine.pareto_front_]


def tree_to_sympy(tree: Any, variables: Mapping[int, sympy.Symbol]) -> sympy.Expr:
    """SymPy expression of an Operon tree, with its constants to the last bit.

    Args:
        tree: with the nodes in postfix order, the first argument last.
        variables: symbols by the hash of a variable.
    """
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
            arguments = [stack.pop() for _ in range(node.Arity)]
            value = functions[kind](*arguments)
            stack.append(sympy.nan if value.is_Float and abs(value) > _LARGEST else value)
    return stack[-1]
