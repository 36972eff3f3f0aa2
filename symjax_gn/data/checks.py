"""Errors at the border: what was got, what is needed, what to do."""

import difflib
import math
import numbers
import os
from collections.abc import Iterable
from typing import Any

import numpy as np


def check_choice(what: str, name: Any, choices: Iterable[str]) -> None:
    """Raise a `ValueError` that lists the choices, nearest first, unless `name` is one.

    >>> check_choice("solver", "adaptiv", ["adaptive", "midpoint"])
    Traceback (most recent call last):
    ValueError: Unknown solver 'adaptiv'. Did you mean 'adaptive'? Choose from: adaptive, midpoint.
    """
    choices = list(choices)
    if isinstance(name, str) and name in choices:
        return
    near = difflib.get_close_matches(str(name), choices, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"Unknown {what} {shown(name)}.{hint} Choose from: {', '.join(choices)}.")


LARGEST_SEED = 2**32 - 1
"""Seeds of JAX and of engines have 32 bits."""

LARGEST_COUNT = 2**31 - 1
"""What programs count has 31 bits."""

LONGEST = 1e9
"""Seconds of the longest time limit, some 30 years."""


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Raise a `ValueError` unless a value is one finite real number within its bounds.

    Args:
        name: what the message calls it.
        value: the number; booleans, text and arrays of more than one number are none.
        least: smallest value that is allowed.
        above: value that must be exceeded.
        most: largest value that is allowed.
    """
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number) and least <= number <= most and number > above:
        return
    bound = f" of at least {least}" if least > -math.inf else ""
    bound = f" above {above}" if above > -math.inf else bound
    bound += f"{' and' if bound else ''} at most {most:g}" if number > most else ""
    raise ValueError(f"{name} must be a finite number{bound}, got {shown(value)}.")


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raise a `ValueError` that names the argument unless it is a whole number in the bounds."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or int(value) < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {shown(value)}.")
    if most is not None and int(value) > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(value)}.")


def check_type(name: str, value: Any, kind: type | tuple[type, ...], advice: str = "") -> None:
    """Raise a `ValueError` unless a value is of a type; `advice` says how to get one."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(one.__name__ for one in kinds)
        raise ValueError(f"{name} must be a {wanted}, got {shown(value)}. {advice}".rstrip())


def check_path(what: str, path: Any) -> None:
    """Raise a `ValueError` unless a value is a path that is not empty."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ValueError(f"{what} must be text or a path, got {shown(path)}.")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(f"{what} must not be empty, got {shown(path)}.")


def as_key(key: Any) -> Any:
    """A PRNG key of `jax.random`, old or new, as a new one.

    Raises:
        ValueError: it is no key, or an array of several.
    """
    # Processes that search for laws need no JAX, which takes a second to import.
    import jax

    if isinstance(key, jax.Array) and jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape:
            raise ValueError(f"key must be one key, got {key.shape[0]} of them; give one of these.")
        return key
    arrays = isinstance(key, jax.Array | np.ndarray)
    if arrays and np.dtype(key.dtype) == np.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(jax.numpy.asarray(key))
    raise ValueError(f"key must be a key of jax.random, e.g. jax.random.key(0), got {shown(key)}.")


def as_floats(name: str, value: Any, *, missing: bool = False) -> np.ndarray:
    """The value as a float64 array.

    Args:
        name: what messages call it.
        value: numbers, in any form that NumPy takes.
        missing: whether masked values are allowed, which become NaN.

    Raises:
        ValueError: it holds text, complex numbers or objects, rows of unequal length, or
            masked values that are not allowed.

    >>> as_floats("mass", np.ma.masked_less([1, -1], 0), missing=True)
    array([ 1., nan])
    """
    array, hidden = _as_plain(name, value)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, got an array of type {array.dtype}.")
    if hidden is None:
        return array.astype(np.float64)
    if not missing:
        raise ValueError(
            f"{name} has {int(np.sum(hidden))} masked values, whose masks are not kept here; leave "
            "them out, or fill them."
        )
    return np.where(hidden, np.nan, array.astype(np.float64))


def as_whole(name: str, value: Any) -> np.ndarray:
    """The value as an array of whole numbers, of the type that it has.

    Raises:
        ValueError: it holds anything else, or masked values.

    >>> as_whole("group", [0, 0, 1])
    array([0, 0, 1])
    """
    array, hidden = _as_plain(name, value)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu" or hidden is not None:
        kind = "masked values" if hidden is not None else f"an array of type {array.dtype}"
        raise ValueError(f"{name} must be whole numbers, got {kind}.")
    return array


def _as_plain(name: str, value: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The value as an array without a mask, and where it was masked, if anywhere."""
    # NumPy drops the masks of arrays in lists, too.
    rows = value if isinstance(value, list | tuple) else [value]
    masked = any(isinstance(row, np.ma.MaskedArray) and np.ma.is_masked(row) for row in rows)
    try:
        array: Any = np.ma.array(value) if masked else np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} has rows of unequal length: {error}") from error
    if not masked:
        return array, None
    return np.asarray(array.data), np.ma.getmaskarray(array)


def check_finite(name: str, value: Any, *, nan: bool = False) -> None:
    """Raise a `ValueError` that says how many values are not finite, and where the first is.

    Args:
        name: what the message calls it.
        value: numbers.
        nan: whether NaN is allowed, for what was not measured.
    """
    bad = np.isinf(value) if nan else ~np.isfinite(np.asarray(value))
    if np.any(bad):
        place = tuple(int(k) for k in np.argwhere(bad)[0])
        where = f", the first at index {place}" if place else ""
        kind, advice = "NaN or infinite", "remove or mask them"
        if nan:
            kind, advice = "infinite", "write NaN where nothing was measured"
        raise ValueError(f"{name} has {int(np.sum(bad))} {kind} values{where}; {advice}.")


def shown(value: Any) -> str:
    """A value as an error message shows it: short, arrays by their shape."""
    if isinstance(value, np.ndarray) or hasattr(value, "shape"):
        return f"an array of shape {tuple(np.shape(value))}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
