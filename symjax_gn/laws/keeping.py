"""Results of long searches, kept in a folder: a run that goes on does not repeat them.

They are JSON files whose laws are text. Reading one runs nothing, whoever wrote it.
"""

import hashlib
import json
import os
import typing
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from symjax_gn.data.files import in_one_stroke
from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.fronts import Column, Columns, ParetoFront
from symjax_gn.laws.plain import digest, from_plain, to_plain

P = ParamSpec("P")
R = TypeVar("R")

_FORMAT = "symjax_gn result"

# Names have 64 digits, and those that are being written an end of their own.
RESULTS = tuple("*/" + 64 * "[0-9a-f]" + end for end in (".json", ".json.*.part"))
"""Patterns of the files in a folder."""

# Results that are larger are not kept, nor read.
_LARGEST = 100 * 2**20


def kept(function: Callable[P, R], folder: str | os.PathLike[str] | None) -> Callable[P, R]:
    """The function, with its results kept in a folder.

    It is not run again for equal arguments, unless it is of another version of the package.
    An interruption damages nothing that is there. A file that is damaged, or is no result, is
    left out with a warning, and the result is found again.

    Results are given as the file holds them, so that a run that goes on finds what one finds
    that was never interrupted. What cannot be written as text is not kept.

    Args:
        function: of a module, with arguments as in `plain.digest`, annotated with the type
            of its result, as in `plain.from_plain`.
        folder: made when it is needed; None: nothing is kept.

    >>> import tempfile
    >>> def halves(number: int) -> tuple[int, ...]:
    ...     print("computed")
    ...     return number // 2, number - number // 2
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [kept(halves, folder)(7) for _ in range(2)]
    computed
    [(3, 4), (3, 4)]
    """
    if folder is None:
        return function
    kind = typing.get_type_hints(function)["return"]

    def run(*args: P.args, **options: P.kwargs) -> R:
        key = digest((function, args, options, version("symjax_gn")))
        path = Path(folder) / function.__name__.strip("_") / f"{key}.json"
        if path.is_file():
            try:
                return _read(path, key, kind)
            except Exception as error:  # a damaged file ends in whatever its reader raises
                why = " ".join(str(error).split())
                warnings.warn(
                    f"{path} is no result of a search, or damaged ({why}); it is searched for "
                    "again.",
                    stacklevel=2,
                )
        result = function(*args, **options)
        try:
            plain = to_plain(result)
            result = from_plain(plain, kind)
        except ValueError:
            return result
        try:
            _write(path, key, plain)
        except (OSError, ValueError) as error:
            warnings.warn(f"{path} could not be written: {error}", stacklevel=2)
        return result

    return run


def _write(path, key, plain):
    contents = dict(format=_FORMAT, key=key, checksum=_checksum(plain), result=plain)
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_stroke(path) as part:
        part.write_text(json.dumps(contents) + "\n", encoding="utf-8")


def _read(path, key, kind):
    """The result in a file; any exception if it is none."""
    if path.stat().st_size > _LARGEST:
        raise ValueError("it is too large")
    contents = json.loads(path.read_text(encoding="utf-8"))
    if contents["format"] != _FORMAT or contents["key"] != key:
        raise ValueError("it is of something else")
    if contents["checksum"] != _checksum(contents["result"]):
        raise ValueError("it was changed")
    return from_plain(contents["result"], kind)


def _checksum(plain):
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


@dataclass(frozen=True)
class KeptRegressor:
    """An engine whose results are kept in a folder.

    Attributes:
        engine: which searches.
        folder: see `kept`.

    >>> import tempfile
    >>> import numpy as np
    >>> from symjax_gn.laws.engines import OperonRegressor
    >>> r = np.linspace(1.0, 2.0, 50)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     engine = KeptRegressor(OperonRegressor(evaluations=3000), folder)
    ...     engine.fit({"r": r}, r**2) == engine.fit({"r": r}, r**2)
    True
    """

    engine: Regressor
    folder: Any = field(compare=False)

    @property
    def in_threads(self) -> bool:
        """Whether its searches let other threads run."""
        return getattr(self.engine, "in_threads", False)

    @property
    def own_process(self) -> bool:
        """Whether its searches must not run in this process."""
        return getattr(self.engine, "own_process", False)

    @property
    def operators(self) -> tuple[str, ...]:
        """Those of its laws."""
        return getattr(self.engine, "operators", ())

    def fit(self, features: Columns, target: Column) -> ParetoFront:
        """What the engine found or finds; see `Regressor.fit`."""
        return kept(_fit, self.folder)(self.engine, dict(features), target)


def _fit(engine: Regressor, features: Columns, target: Column) -> ParetoFront:
    return engine.fit(features, target)
