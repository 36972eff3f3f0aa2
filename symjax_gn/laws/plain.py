"""Results as plain values that JSON holds, and back: what is read is checked and runs nothing.

The type that is expected says how a value is read, so that a file cannot choose what is made
of it. Expressions are text of the grammar of laws.
"""

import hashlib
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any

import numpy as np
import sympy
from jaxtyping import AbstractArray
from scipy import sparse

from symjax_gn.laws.grammar import format_expression, parse_expression


def to_plain(value: Any) -> Any:
    """A value as lists, dicts with text as keys, numbers, text, booleans and None.

    Args:
        value: numbers, text, expressions, arrays, and tuples, lists, dicts and NamedTuples of
            such.

    Raises:
        ValueError: it holds anything else, or an expression that cannot be written.

    >>> to_plain((sympy.Symbol("r") ** 2, np.arange(2.0)))
    ['r**2', [0.0, 1.0]]
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, sympy.Expr):
        return format_expression(value)
    if hasattr(value, "_asdict"):
        return {name: to_plain(x) for name, x in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [to_plain(x) for x in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: to_plain(x) for name, x in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"A {type(value).__name__} is no plain value.")


def from_plain(value: Any, kind: Any) -> Any:
    """The value of a type that `to_plain` gave.

    Args:
        value: what was read.
        kind: type of the value, of its parts as well: a NamedTuple, `tuple[X, ...]`,
            `dict[str, X]`, `X | None`, one of several NamedTuples, arrays of jaxtyping,
            expressions, numbers and text.

    Raises:
        ValueError: the value is not one of this type.

    >>> from_plain(["r**2", [0, 1]], tuple[sympy.Expr, tuple[int, ...]])
    (r**2, (0, 1))
    >>> from_plain("r**", sympy.Expr)
    Traceback (most recent call last):
    ValueError: Cannot read the law 'r**': column 4: expected a number, ..., got the end.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        several = [one for one in inner if one is not NoneType]
        if value is None and len(several) < len(inner):
            return None
        # Of several NamedTuples it is the one that has these fields.
        names = set(value) if isinstance(value, dict) else set()
        fit = [one for one in several if {*getattr(one, "_fields", ())} == names]
        return from_plain(value, fit[0] if len(several) > 1 and fit else several[0])
    if origin is tuple:
        return _tuple(_checked(value, list), inner)
    if origin is dict:
        parts = _checked(value, dict).items()
        return {name: from_plain(x, inner[1]) for name, x in parts}
    if isinstance(kind, type) and issubclass(kind, AbstractArray):
        return _array(_checked(value, list), kind)
    if isinstance(kind, type) and issubclass(kind, sympy.Expr):
        return parse_expression(_checked(value, str))
    if hasattr(kind, "_fields"):
        if set(_checked(value, dict)) != set(kind._fields):
            raise ValueError(f"A {kind.__name__} has {', '.join(kind._fields)}.")
        hints = typing.get_type_hints(kind)
        return kind(**{name: from_plain(value[name], hints[name]) for name in kind._fields})
    if kind is float:
        return float(_checked(value, float | int))
    if kind in (bool, int, str):
        return _checked(value, kind)
    raise ValueError(f"{kind} is no type of plain values.")


def _checked(value, kind):
    """The value, which must be of a type; booleans are no numbers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"A value is of type {type(value).__name__}, which must be {kind}.")
    return value


def _tuple(values, kinds):
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(from_plain(x, kinds[0]) for x in values)
    if len(values) != len(kinds):
        raise ValueError(f"There are {len(values)} values, which must be {len(kinds)}.")
    return tuple(from_plain(x, one) for x, one in zip(values, kinds, strict=True))


def _array(values, kind):
    found = np.asarray(values, np.int64 if "int64" in kind.dtypes else np.float64)
    if not isinstance(found, kind):
        raise ValueError(f"An array has shape {found.shape}, which must be [{kind.dim_str}].")
    return found


def digest(value: Any) -> str:
    """The same text for equal values, in any process and whatever objects their parts share.

    Args:
        value: numbers, text, expressions, arrays, functions, and tuples, lists, dicts and
            dataclasses of such; of other objects what pickle writes.

    >>> digest((np.zeros(2), 1)) == digest((np.zeros(2), 1))
    True
    >>> digest(np.zeros(2)) == digest(np.zeros(3))
    False
    """
    found = hashlib.sha256()
    _add(value, found)
    return found.hexdigest()


def _said(code):
    """What a function does, whatever file and line it is in."""
    if code is None:
        return ()
    inner = (_said(x) if hasattr(x, "co_code") else repr(x) for x in code.co_consts)
    return code.co_code.hex(), *code.co_names, *inner


def _add(value, found):
    """Add a value to a digest, its parts one by one."""
    name, parts = type(value).__qualname__, ()
    if isinstance(value, np.ndarray) and value.dtype != object:
        text = f"{value.dtype} {value.shape}"
        found.update(np.ascontiguousarray(value).tobytes())
    elif sparse.issparse(value):
        rows = sparse.csr_array(value)
        text, parts = str(value.shape), (rows.data, rows.indices, rows.indptr)
    elif isinstance(value, sympy.Basic):
        text = sympy.srepr(value)
    elif isinstance(value, Mapping):
        text, parts = str(len(value)), [x for pair in value.items() for x in pair]
    elif isinstance(value, tuple | list):
        text, parts = str(len(value)), value
    elif is_dataclass(value) and not isinstance(value, type):
        text, parts = "", [getattr(value, x.name) for x in fields(value) if x.compare]
    elif value is None or isinstance(value, bool | int | float | str | np.generic):
        text = repr(value)
    elif hasattr(value, "__qualname__"):
        function: Any = value
        text = f"{function.__module__}.{function.__qualname__}"
        # One that was changed since is another one, which a user's may be.
        parts = _said(getattr(function, "__code__", None))
    else:
        import joblib

        text = str(joblib.hash(value))
    found.update(f"<{name} {text}>".encode())
    for part in parts:
        _add(part, found)
