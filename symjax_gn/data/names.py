"""Names that quantities may have, so that laws can be written with them and read back."""

import keyword
import re
from collections.abc import Iterable
from typing import TypeGuard

from symjax_gn.data.checks import shown

# Words that the grammar of laws reads as functions and numbers, in SymPy's spelling too.
WORDS = frozenset(
    [
        "pi",
        "sqrt",
        "exp",
        "log",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "abs",
        "Abs",
        "sign",
        "floor",
        "ceil",
        "ceiling",
        "heaviside",
        "Heaviside",
        "Ei",
        "erf",
        "erfc",
    ]
)

# Names that NumPy functions use themselves which are written from laws.
TAKEN = ("np", "special", "float")

# Names that features have by themselves, and ends that say whose a feature is.
_FEATURES = r"m|q|r|p|v|[dv]?[xyz]|e_(\d+|n)|.*_(i|j|ij)|_.*|position|velocity|properties"

# Laws are written out with every name in full, and their text is limited.
_LONGEST = 60


def is_identifier(name: object) -> TypeGuard[str]:
    """Whether a name is letters of English, digits and _, as the grammar of laws reads it.

    >>> is_identifier("radius_i"), is_identifier("größe"), is_identifier("a b")
    (True, False, False)
    """
    return isinstance(name, str) and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) is not None


def is_variable(name: object) -> bool:
    """Whether a variable of this name can be read back from the text of a law.

    >>> is_variable("radius_i"), is_variable("lambda"), is_variable("sign")
    (True, False, False)
    """
    return is_identifier(name) and not keyword.iskeyword(name) and name not in WORDS


def check_property_names(names: Iterable[object]) -> None:
    """Raise a `ValueError` for names of properties that laws could not be written with.

    Every name that passes survives `load_law(save_law(law))` and the export to NumPy.

    >>> check_property_names(["mass", "radius", "E", "x_1"])
    >>> check_property_names(["lambda"])
    Traceback (most recent call last):
    ValueError: A property cannot be called 'lambda', which is a word of Python; rename it, e.g. \
to 'lambda_0'.
    """
    for name in names:
        reason = _objection(name)
        if reason is not None:
            raise ValueError(f"A property cannot be called {shown(name)}, {reason}.")


def _objection(name) -> str | None:
    """Why a property cannot have a name, and what to do; None if it can."""
    if not isinstance(name, str):
        return "which is no text: give it a name such as 'spin'"
    if len(name) > _LONGEST:
        return f"which has {len(name)} characters: rename it with at most {_LONGEST}"
    if re.fullmatch(_FEATURES, name):
        return (
            "which stands for something else in laws (m, q, r, p, v, x, y, z, dx, vx, e_0, ..., "
            "names that begin with _ or end in _i, _j or _ij): rename it; masses are called mass "
            "and charges charge"
        )
    advice = f"rename it, e.g. to '{name}_0'"
    if keyword.iskeyword(name):
        return f"which is a word of Python; {advice}"
    if name in WORDS or name in TAKEN:
        return f"which is a function or a number in laws; {advice}"
    if not is_identifier(name):
        return "which is no name: rename it with the letters a to z, A to Z, digits and _"
    return None
