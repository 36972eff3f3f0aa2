"""Laws as small readable files."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy

from symjax_gn.data.border import checked
from symjax_gn.data.checks import check_type, shown
from symjax_gn.data.features import parse_feature
from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.quantities import Quantity
from symjax_gn.data.space import FREE, Space
from symjax_gn.laws.grammar import format_expression, parse_expression
from symjax_gn.laws.symbolic import SymbolicModel

_FORMAT = "symjax_gn law"
_VERSION = 1

# Levels of lists and objects within each other.
_DEEPEST = 32


@checked
def save_law(path: str | os.PathLike[str], law: SymbolicModel) -> None:
    """Write a law as a small readable JSON file, in one stroke.

    An interruption leaves the old file or the new one.

    Raises:
        ValueError: it is no law, or holds a function that law files have no name for.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "law.json")
    >>> save_law(path, SymbolicModel((2 * sympy.Symbol("dx"),), (sympy.Symbol("e_0"),)))
    >>> load_law(path).message
    (2*dx,)
    """
    check_type("law", law, SymbolicModel, "The field `law` of a Discovery is one.")
    _check_depth(law.provenance, "provenance")
    names = sorted(
        {str(symbol) for one in (*law.message, *law.update) for symbol in one.free_symbols}
    )
    contents = dict(
        format=_FORMAT,
        version=_VERSION,
        quantity=dataclasses.asdict(law.quantity),
        elements=law.elements,
        box=law.space.box,
        message=[_as_text(one) for one in law.message],
        update=[_as_text(one) for one in law.update],
        constants=list(law.constants),
        features={name: parse_feature(name).kind for name in names},
        provenance=dict(law.provenance),
    )
    with in_one_stroke(path) as part:
        part.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


@checked
def load_law(path: str | os.PathLike[str]) -> SymbolicModel:
    """Read what `save_law` wrote; expressions go through a grammar that runs nothing.

    Raises:
        ValueError: the file is no law, of another version, or damaged; the message says
            where.
        FileNotFoundError: there is no such file.

    See `save_law`.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        contents = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no law file: {error}.") from error
    except RecursionError:
        raise ValueError(f"{path} is no law file: lists are nested too deep.") from None
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise ValueError(f'{path} is no law file: it lacks "format": "{_FORMAT}".')
    if contents.get("version") != _VERSION:
        raise ValueError(
            f"{path} has version {shown(contents.get('version'))} of law files; this release "
            f"reads version {_VERSION}."
        )
    _check_depth(contents, f"{path}: what it holds")
    missing = [name for name in ("quantity", "message", "update") if name not in contents]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}.")
    box = contents.get("box")
    try:
        return SymbolicModel(
            message=_parse_all(contents["message"], "message"),
            update=_parse_all(contents["update"], "update"),
            elements=contents.get("elements", "edges"),
            quantity=Quantity(**contents["quantity"]),
            space=FREE if box is None else Space(tuple(box)),
            provenance=contents.get("provenance", {}),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_all(texts: Sequence[str], name: str) -> tuple[sympy.Expr, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be a list of expressions, got {shown(texts)}.")
    laws = tuple(parse_expression(text) for text in texts)
    for law in laws:
        # What is read can be written again.
        _as_text(law)
    return laws


def _as_text(law: sympy.Expr) -> str:
    """The text of a law, once it is sure that it can be read again."""
    try:
        text = format_expression(law)
        parse_expression(text)
    except RecursionError:
        raise ValueError("A law of this depth cannot be written or read: simplify it.") from None
    return text


def _check_depth(contents: Any, what: str) -> None:
    """Raise a `ValueError` for lists within lists that not every reader of JSON can follow."""
    level, depth = [contents], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"{what} has more than {_DEEPEST} levels; give a flatter one.")
        inner = (one.values() if isinstance(one, Mapping) else one for one in level)
        lists = (one for one in inner if isinstance(one, Iterable) and not isinstance(one, str))
        level = [x for one in lists for x in one]
