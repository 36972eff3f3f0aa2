"""Arguments of public functions, checked against their annotations before anything runs."""

import dataclasses
import functools
import inspect
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import jaxtyping
import numpy as np

from symjax_gn.data.checks import check_choice, check_path, shown

P = ParamSpec("P")
R = TypeVar("R")

# What gives a value of the package's own types.
_ADVICE = dict(
    Dataset="See make_dataset.",
    Trajectory="See trajectory_from_arrays.",
    System="See get_system for the built-in ones.",
    Trained="What fit returns is one.",
    MessageTable="What record_messages returns is one.",
    VectorLaw="What distill returns is one.",
    SymbolicModel="The field `law` of a Discovery is one.",
    Settings="Write Settings(steps=..., ...) or preset(...).",
)

# How protocols are called.
_PROTOCOLS = dict(Predictor="a network or a law", Model="a network or a law", Regressor="an engine")

_WORDS = {
    bool: "True or False", int: "a whole number", float: "a number", str: "text",
    Callable: "a function",
}  # fmt: skip


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which raises a `ValueError` for arguments of wrong types or names.

    Numbers, texts, functions, keys, sequences, mappings and classes are checked as annotated;
    arrays are left to the function.

    >>> @checked
    ... def halve(number: float, *, loudly: bool = False) -> float:
    ...     return number / 2
    >>> halve("3")
    Traceback (most recent call last):
    ValueError: number must be a number, got '3'.
    >>> halve(3, loudly="no")
    Traceback (most recent call last):
    ValueError: loudly must be True or False, got 'no'.
    >>> halve(3, loudli=True)
    Traceback (most recent call last):
    ValueError: Unknown argument of halve 'loudli'. Did you mean 'loudly'? ...
    """
    signature = inspect.signature(function)
    every = signature.parameters
    open_ended = [name for name, x in every.items() if x.kind is x.VAR_KEYWORD]
    hints: dict[str, Any] = {}

    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        if not open_ended:
            for name in options:
                check_choice(f"argument of {function.__name__}", name, every)
        if not hints:
            hints.update(_hints(function))
        for name, value in signature.bind(*args, **options).arguments.items():
            each = value if name in open_ended else {name: value}
            for one, x in each.items():
                if x is not every[name].default:
                    check_kind(one, x, hints.get(name, Any))
        return function(*args, **options)

    return run


def _hints(function):
    """Types of parameters, not of the result, which may be known to type checkers only."""
    known = {name: x for name, x in function.__annotations__.items() if name != "return"}
    known = types.SimpleNamespace(__annotations__=known)
    return typing.get_type_hints(known, function.__globals__)


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Raise a `ValueError` that names a value unless it is of an annotated type."""
    if fits(value, kind):
        if isinstance(value, str) and _is_path(kind):
            check_path(name, value)
        return
    several = _is_union(kind) and not _is_of_keys(kind)
    inner = typing.get_args(kind) if several else (kind,)
    words = [_word(one) for one in inner]
    wanted = " or ".join(dict.fromkeys(word for word in words if word))
    advice = " ".join(dict.fromkeys(_ADVICE[x.__name__] for x in inner if _name(x) in _ADVICE))
    raise ValueError(f"{name} must be {wanted}, got {shown(value)}. {advice}".rstrip())


def check_fields(settings: Any, but: Sequence[str] = ()) -> None:
    """Raise a `ValueError` that names a field of a dataclass of another type than annotated."""
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        if field.name not in but:
            check_kind(field.name, getattr(settings, field.name), hints[field.name])


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type, as far as this can be told by looking at it."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if _is_of_keys(kind):
        return _is_key(value)
    if kind is None or kind is types.NoneType:
        return value is None
    if _is_union(kind):
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        each = isinstance(value, tuple | list)
        return each and (inner[-1] is not Ellipsis or all(fits(x, inner[0]) for x in value))
    if origin is Sequence:
        return _is_sequence(value) and all(fits(x, inner[0]) for x in value)
    if origin is Iterable:
        return _is_sequence(value) or (hasattr(value, "__iter__") and not isinstance(value, str))
    if origin in (Mapping, Callable) or isinstance(origin, type):
        return isinstance(value, origin)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind in (int, float):
        return _is_number(value, whole=kind is int)
    if getattr(kind, "_is_protocol", False):
        methods = [x for x in vars(kind) if callable(getattr(kind, x)) and not x.startswith("_")]
        return not isinstance(value, type) and all(hasattr(value, x) for x in methods)
    # Arrays and type variables are not told here.
    told = isinstance(kind, type) and not hasattr(kind, "dim_str")
    return not told or isinstance(value, kind)


def _is_sequence(value):
    """Whether a value is a list, a range, an array, ..., of any length."""
    if isinstance(value, str | bytes | Mapping) or getattr(value, "shape", None) == ():
        return False
    return hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _is_union(kind):
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _is_path(kind):
    return any(typing.get_origin(one) is os.PathLike for one in typing.get_args(kind))


def _is_of_keys(kind):
    """Whether a type is that of PRNG keys; only functions that import JAX have such."""
    return "jax" in sys.modules and kind == jaxtyping.PRNGKeyArray


def _is_key(value):
    """Whether a value is one PRNG key, new or old style."""
    import jax

    if not isinstance(value, jax.Array | np.ndarray):
        return False
    new = jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
    return value.shape == () if new else value.dtype == np.uint32 and value.shape in ((2,), (4,))


def _is_number(value, whole):
    """Whether a value is one real number; arrays of one are."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        return False
    if isinstance(value, numbers.Integral if whole else numbers.Real):
        return True
    kinds = "iu" if whole else "iuf"
    dtype = getattr(value, "dtype", None)
    return getattr(value, "shape", None) == () and getattr(dtype, "kind", "") in kinds


def _name(kind):
    return getattr(kind, "__name__", "")


def _word(kind):
    """How a type is called."""
    if kind is None or kind is types.NoneType:
        return "None"
    if _is_of_keys(kind):
        return "a key of jax.random, e.g. jax.random.key(0)"
    if typing.get_origin(kind) in (Sequence, Iterable, tuple):
        return "a list"
    if typing.get_origin(kind) is Mapping:
        return "a mapping"
    if typing.get_origin(kind) is os.PathLike or kind is os.PathLike:
        return "a path"
    origin = typing.get_origin(kind) or kind
    if _name(kind) in _PROTOCOLS:
        return _PROTOCOLS[_name(kind)]
    return _WORDS.get(origin, f"a {_name(origin)}" if isinstance(origin, type) else "")
