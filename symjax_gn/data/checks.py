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
    raise ValueError(f"Unknown {what} {name!r}.{hint} Choose from: {', '.join(choices)}.")


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


def as_floats(name: str, value: Any) -> np.ndarray:
    """The value as a float64 array.

    Raises:
        ValueError: it holds text, complex numbers or objects, or rows of unequal length.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} has rows of unequal length: {error}") from error
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} must hold real numbers, got an array of type {array.dtype}.")
    return array.astype(np.float64)


def check_finite(name: str, value: Any) -> None:
    """Raise a `ValueError` that says how many values are not finite, and where the first is."""
    bad = ~np.isfinite(np.asarray(value))
    if np.any(bad):
        place = tuple(int(k) for k in np.argwhere(bad)[0])
        where = f", the first at index {place}" if place else ""
        raise ValueError(
            f"{name} has {int(np.sum(bad))} NaN or infinite values{where}; remove or mask them."
        )


def shown(value: Any) -> str:
    """A value as an error message shows it: short, arrays by their shape."""
    if isinstance(value, np.ndarray) or hasattr(value, "shape"):
        return f"an array of shape {tuple(np.shape(value))}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
