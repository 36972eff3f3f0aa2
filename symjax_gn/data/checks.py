"""Errors at the border: what was got, what is needed, what to do."""

import difflib
from collections.abc import Iterable


def check_choice(what: str, name: str, choices: Iterable[str]) -> None:
    """Raise a `ValueError` that lists the choices, nearest first, unless `name` is one."""
    choices = list(choices)
    if name in choices:
        return
    near = difflib.get_close_matches(str(name), choices, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"Unknown {what} {name!r}.{hint} Choose from: {', '.join(choices)}.")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise a `ValueError` that names the argument unless its value is at least `least`."""
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
