"""PySR's searches in Julia: one run of its engine, and the versions of what it runs on."""

import os
import tempfile
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from symjax_gn.laws.fronts import RegressionError


def run_pysr(
    pysr: Any,
    settings: Mapping[str, Any],
    columns: Float[np.ndarray, "sample variable"],
    target: Float[np.ndarray, " sample"],
    names: Sequence[str],
) -> list[str]:
    """The laws that one search of PySR finds, as it writes them.

    Args:
        pysr: the module.
        settings: keywords of `pysr.PySRRegressor`.
        columns: features.
        target: what laws are to give.
        names: of the columns.

    Raises:
        KeyboardInterrupt: the search was interrupted.
        RegressionError: Julia failed, or found nothing.
    """
    settings = dict(settings, expression_spec=_text_only(pysr))
    with ExitStack() as stack:
        if settings["temp_equation_file"] and settings.get("delete_tempfiles", True):
            # PySR deletes none of its own.
            folder = tempfile.TemporaryDirectory(dir=settings.get("tempdir"), prefix="pysr-")
            settings["tempdir"] = stack.enter_context(folder)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "The search was interrupted", RuntimeWarning)
        engine = pysr.PySRRegressor(**settings)
        try:
            engine.fit(columns, target, variable_names=list(names))
        except Exception as error:
            if not (_is_of_julia(error) or isinstance(error, RuntimeError)):
                raise
            raise RegressionError(f"The search with PySR failed: {error}") from None
        if getattr(engine, "interrupted_", False):
            raise KeyboardInterrupt
        return [str(text) for text in engine.equations_["equation"]]


def _is_of_julia(error: Exception) -> bool:
    """Whether an error holds objects of Julia, which start it wherever they are read."""
    return type(error).__module__.split(".")[0] == "juliacall"


def _text_only(pysr: Any) -> Any:
    """PySR's plain expressions, which it leaves as text: it reads all of them or none."""

    class TextOnly(pysr.ExpressionSpec):
        def create_exports(self, model, equations, search_output, i=None):
            return equations[[]]

        def __reduce__(self):
            # What PySR keeps in its folder is read without this class.
            return pysr.ExpressionSpec, ()

    return TextOnly()


def julia_versions() -> dict[str, str]:
    """Versions of Julia and of SymbolicRegression that PySR runs on, where they are installed.

    They are read from the Julia environment's manifest: nothing of Julia starts.

    >>> sorted(julia_versions()) in ([], ["SymbolicRegression", "julia"])
    True
    """
    folder = os.environ.get("PYTHON_JULIACALL_PROJECT")
    if not folder and find_spec("juliapkg") is not None:
        from juliapkg.state import STATE  # pyright: ignore[reportMissingImports]

        folder = STATE["project"]
    if not folder:
        return {}
    # Julia 1.11 and later may keep one for each version.
    for path in sorted(Path(folder).glob("Manifest*.toml")):
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
        packages = manifest.get("deps", {}).get("SymbolicRegression")
        if packages:
            versions = (manifest.get("julia_version", ""), packages[0].get("version", ""))
            return dict(zip(("julia", "SymbolicRegression"), versions, strict=True))
    return {}
