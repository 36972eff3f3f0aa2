"""Results of long searches, kept in a folder: a run that goes on does not repeat them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ParamSpec, TypeVar

from symjax_gn.laws.engines import Regressor
from symjax_gn.laws.fronts import Column, Columns, ParetoFront

P = ParamSpec("P")
R = TypeVar("R")


def kept(function: Callable[P, R], folder: str | os.PathLike[str] | None) -> Callable[P, R]:
    """The function, with its results kept in a folder by joblib.

    It is not run again for equal arguments, unless it is of another version of the package.
    An interruption damages nothing that is there, and what is damaged otherwise is found again.

    Args:
        function: of a module, with arguments that pickle can write.
        folder: made when it is needed; None: nothing is kept.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [kept(divmod, folder)(7, 2) for _ in range(2)]
    [(3, 1), (3, 1)]
    """
    if folder is None:
        return function
    from joblib import Memory

    remembered: Any = Memory(folder, verbose=0).cache(_run)

    def run(*args: P.args, **options: P.kwargs) -> R:
        return remembered(_Call(function, args, options, version("symjax_gn")))

    return run


@dataclass(frozen=True, repr=False)
class _Call:
    """A function with its arguments; joblib writes down what `repr` says of them, which is long."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    version: str


def _run(call):
    return call.function(*call.args, **call.options)


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
    folder: Any

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


def _fit(engine, features, target):
    return engine.fit(features, target)
