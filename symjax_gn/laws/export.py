"""Laws for other programs: LaTeX, and NumPy functions as text."""

import keyword
from collections.abc import Mapping
from typing import Any

import sympy

from symjax_gn.data.features import parse_feature
from symjax_gn.data.names import TAKEN, is_identifier
from symjax_gn.laws.expressions import rounded
from symjax_gn.laws.tapes import FUNCTIONS, SPECIAL
from symjax_gn.laws.writing import Writer


def to_latex(
    expression: sympy.Expr, digits: int = 4, *, symbols: Mapping[str, str] | None = None
) -> str:
    r"""LaTeX of a law.

    Args:
        expression: the law.
        digits: significant digits of the constants.
        symbols: LaTeX of variables by name, in place of what `parse_feature` says.

    >>> to_latex(2.123456 * sympy.Symbol("dx") / sympy.Symbol("r") ** 2)
    '\\frac{2.123 \\Delta x}{r^{2}}'
    """
    given = symbols or {}
    written = {
        symbol: given.get(str(symbol)) or parse_feature(str(symbol)).latex
        for symbol in expression.free_symbols
    }
    return sympy.latex(rounded(expression, digits), symbol_names=written)


# Integers beyond this are no NumPy integers.
_LARGEST_WHOLE = 2**53

# float64 ends at 2^1024.
_MOST_BITS = 1023


class _NumPyWriter(Writer):
    """Writes what NumPy evaluates, and notes whether that needs SciPy's functions."""

    def __init__(self):
        self.needs_scipy = False

    def whole(self, number: int) -> str:
        if number.bit_length() > _MOST_BITS:
            raise ValueError("A NumPy function cannot be written with whole numbers above 1e308.")
        return repr(float(number)) if number > _LARGEST_WHOLE else str(number)

    def constant(self, number: Any) -> str:
        return {"pi": "np.pi", "exp(1)": "np.e"}[super().constant(number)]

    def call(self, head: Any, arguments: list[str]) -> str:
        name = "sqrt" if head is sympy.sqrt else FUNCTIONS[head]
        if name in SPECIAL:
            self.needs_scipy = True
            return f"special.{name}({arguments[0]})"
        if name == "heaviside" and len(arguments) == 1:
            arguments = [*arguments, "0.5"]
        return f"np.{name}({', '.join(arguments)})"


def to_numpy_source(laws: Mapping[str, sympy.Expr] | sympy.Expr, name: str = "law") -> str:
    """A module that needs nothing but NumPy, with a function of the laws' features.

    The function takes arrays that broadcast, as keywords, and returns a dictionary of arrays
    of their common shape, or one array if `laws` is a single expression. `erf`, `erfc` and
    `Ei` are taken from SciPy.

    Args:
        laws: expressions by name, e.g. of a force's components, or a single one.
        name: of the function.

    Raises:
        ValueError: a name is none in Python, or a function is not known.

    >>> source = to_numpy_source(2 * sympy.Symbol("m_i") / sympy.Symbol("r") ** 2, "force")
    >>> print(source.splitlines()[-1])
        return 2*m_i/r**2
    >>> module = {}
    >>> exec(source, module)
    >>> module["force"](m_i=3.0, r=[1.0, 2.0])
    array([6. , 1.5])
    """
    parts = laws if isinstance(laws, Mapping) else {"": laws}
    features = sorted({str(s) for one in parts.values() for s in one.free_symbols})
    for word in (name, *features):
        if keyword.iskeyword(word) or word in TAKEN or not is_identifier(word):
            raise ValueError(
                f"A NumPy function cannot be written with the name {word!r}: it is no free name "
                "in Python. Rename it."
            )
    writer = _NumPyWriter()

    def text_of(expression):
        text = writer.text(expression)
        if expression.free_symbols:
            return text
        shape = f"{features[0]}.shape" if features else "()"
        return f"np.full({shape}, {text}, np.float64)"

    texts = {key: text_of(one) for key, one in parts.items()}
    given = ", ".join(features)
    what = "Values of the laws by name" if isinstance(laws, Mapping) else "Value of the law"
    lines = ["import numpy as np"]
    lines += ["from scipy import special"] if writer.needs_scipy else []
    lines += ["", "", f"def {name}({f'*, {given}' if features else ''}):"]
    lines += [f'    """{what}, of arrays that broadcast."""']
    if len(features) == 1:
        lines += [f"    {given} = np.asarray({given}, np.float64)"]
    elif features:
        arrays = f"(np.asarray(x, np.float64) for x in ({given}))"
        lines += [f"    {given} = np.broadcast_arrays(*{arrays})"]
    if isinstance(laws, Mapping):
        lines += ["    return {", *(f"        {key!r}: {text}," for key, text in texts.items())]
        lines += ["    }"]
    else:
        lines += [f"    return {texts['']}"]
    return "\n".join([*lines, ""])
