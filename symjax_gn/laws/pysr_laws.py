"""Laws as PySR writes them, read as SymPy expressions; nothing that is read is ever run.

What an operator means is what Julia evaluates: conditions are strict, `sign(0)` is 0, halves
are rounded to even numbers.
"""

import ast
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sympy

from symjax_gn.laws.expressions import unknown_functions, with_heaviside
from symjax_gn.laws.fronts import LARGEST_CONSTANT

_log = logging.getLogger(__name__)

Functions = Mapping[str, Callable[..., Any]]
"""What operators mean, by their names in PySR: functions of SymPy expressions."""


_step: Any = sympy.Heaviside


def _above(x: Any) -> Any:
    """1 where x > 0, else 0; what is such a step itself stays as it is."""
    return x if isinstance(x, sympy.Heaviside) else _step(x, 0)


def _mod(x: Any, y: Any) -> Any:
    return x - y * sympy.floor(x / y)


def _greatest(x: Any, y: Any) -> Any:
    # Where both are equal, each step is 1/2.
    return x * _step(x - y) + y * _step(y - x)


_QUARTER = sympy.Rational(1, 4)

UNARY: Functions = {
    "exp": sympy.exp,
    "log": sympy.log,
    "sqrt": sympy.sqrt,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "tanh": sympy.tanh,
    "asin": sympy.asin,
    "acos": sympy.acos,
    "atan": sympy.atan,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "asinh": sympy.asinh,
    "acosh": sympy.acosh,
    "atanh": sympy.atanh,
    "atanh_clip": lambda x: sympy.atanh(_mod(x + 1, 2) - 1),
    "erf": sympy.erf,
    "erfc": sympy.erfc,
    "neg": lambda x: -x,
    "inv": lambda x: 1 / x,
    "abs": sympy.Abs,
    "sign": sympy.sign,
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "cbrt": lambda x: sympy.sign(x) * sympy.Abs(x) ** sympy.Rational(1, 3),
    "log10": lambda x: sympy.log(x) / sympy.Float(math.log(10)),
    "log2": lambda x: sympy.log(x) / sympy.Float(math.log(2)),
    "log1p": lambda x: sympy.log(x + 1),
    "relu": lambda x: x * _step(x),
    # Halves go to even numbers.
    "round": lambda x: sympy.ceiling(x / 2 - _QUARTER) + sympy.floor(x / 2 + _QUARTER),
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
}
"""The operators of one argument that laws can be written with."""

_COMPARISONS: Functions = {
    ">": lambda x, y: _step(x - y, 0),
    ">=": lambda x, y: _step(x - y, 1),
    "<": lambda x, y: _step(y - x, 0),
    "<=": lambda x, y: _step(y - x, 1),
}

BINARY: Functions = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / y,
    "^": lambda x, y: x**y,
    "max": _greatest,
    "min": lambda x, y: -_greatest(-x, -y),
    "mod": _mod,
    **_COMPARISONS,
    "greater": _COMPARISONS[">"],
    "greater_equal": _COMPARISONS[">="],
    "less": _COMPARISONS["<"],
    "less_equal": _COMPARISONS["<="],
    "cond": lambda x, y: _above(x) * y,
    "logical_or": lambda x, y: 1 - (1 - _above(x)) * (1 - _above(y)),
    "logical_and": lambda x, y: _above(x) * _above(y),
}
"""The operators of two arguments that laws can be written with."""

_SIGNS: dict[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "^",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Lt: "<",
    ast.LtE: "<=",
}

# A minus right before a number is part of it: Julia writes (-0.5)^x as -0.5 ^ x.
_NEGATIVE = re.compile(r"(?<![\w.)])-(\d+\.?\d*(?:[eE][+-]?\d+)?)")


def read_law(text: str, variables: Mapping[str, Any], functions: Functions = {}) -> Any:  # noqa: B006
    """The expression that a line of PySR's hall of fame stands for.

    Args:
        text: e.g. `"cond(x0 - 1.0, x0 * 2.5)"`.
        variables: expressions by the names they have in the text.
        functions: what further operators mean, or others in place of `UNARY` and `BINARY`.

    Raises:
        ValueError: it holds a name, a number or something else that laws cannot have.

    >>> read_law("cond(x0 - 1.0, x0 * 2.5)", {"x0": sympy.Symbol("r")})
    2.5*r*Heaviside(r - 1.0, 0)
    """
    known = {**UNARY, **BINARY, **functions}

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number) if math.isfinite(number):
                return sympy.Float(number)
            case ast.Name(id=name) if name in variables:
                return variables[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _SIGNS:
                return applied(_SIGNS[type(sign)], left, right)
            case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in _SIGNS:
                return applied(_SIGNS[type(sign)], left, right)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in known:
                return applied(name, *arguments)
        raise ValueError(f"Cannot read the law {text!r}: {ast.unparse(node)!r} is not known.")

    def applied(name: str, *arguments: ast.AST) -> Any:
        values = [value(argument) for argument in arguments]
        # SymPy writes towers of exponentials out, which takes for ever.
        if any(one.is_Float and not abs(one) <= LARGEST_CONSTANT for one in values):
            raise ValueError(f"Cannot read the law {text!r}: a number is too large.")
        return known[name](*values)

    tree = ast.parse(_NEGATIVE.sub(r"(-\1)", text.strip()).replace("^", "**"), mode="eval")
    law = value(tree.body)
    if unknown_functions(law):
        raise ValueError(f"Cannot read the law {text!r}: it has {unknown_functions(law)[0]}.")
    return law


def readable_laws(
    texts: Iterable[str],
    variables: Mapping[str, Any],
    functions: Functions = {},  # noqa: B006
) -> list[Any]:
    """The laws that can be read, of a hall of fame; how many cannot is logged.

    Args:
        texts: as PySR writes them.
        variables: as in `read_law`.
        functions: as in `read_law`.

    >>> readable_laws(["x0 * 2.5", "x0 + Inf"], {"x0": sympy.Symbol("r")})
    [2.5*r]
    """
    laws, errors = [], []
    for text in texts:
        try:
            laws.append(read_law(text, variables, functions))
        except Exception as error:
            # SymPy raises errors of all kinds for what it cannot simplify.
            errors.append(f"{text!r} ({error})")
    if errors:
        of_all = f"{len(errors)} of {len(errors) + len(laws)}"
        _log.warning("%s laws of PySR cannot be read, the first is %s", of_all, errors[0])
    return laws


def operator_name(text: str) -> str:
    """The name that an operator has in laws, of its name or its definition in Julia.

    >>> operator_name("sin"), operator_name("cut(x, y) = x > y ? x : zero(x)")
    ('sin', 'cut')
    """
    return re.sub(r"^\s*(?:function\s+)?(\w+)\(.*$", r"\1", text, flags=re.DOTALL)


def as_formula(name: str, function: Any, arity: int) -> sympy.Lambda:
    """What a function does with symbols, as a formula that can be compared, sent and kept.

    Args:
        name: of the operator that it stands for.
        function: of SymPy expressions; its conditions become steps.
        arity: number of its arguments.

    Raises:
        ValueError: it does not work with symbols, or gives what laws cannot be written with.

    >>> as_formula("cut", lambda x, y: sympy.Piecewise((x, x > y), (0.0, True)), 2)
    Lambda((_1, _2), _1*Heaviside(_1 - _2, 0))
    """
    symbols = sympy.symbols(f"_1:{arity + 1}")
    try:
        law = with_heaviside(sympy.sympify(function(*symbols)))
    except Exception as error:
        raise ValueError(
            f"The function of {name!r} in extra_sympy_mappings must take {arity} SymPy "
            f"expression{'s' * (arity > 1)}, and does not: {error}"
        ) from error
    unknown = unknown_functions(law)
    if unknown:
        raise ValueError(f"The operator {name!r} means {law}: laws cannot have {unknown[0]}.")
    return sympy.Lambda(symbols, law)
