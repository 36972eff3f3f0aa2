"""Stands for Julia under PySR: a search gives the hall of fame that a test has put here.

PySR imports it in place of the real package when this folder is first on `sys.path`.
"""

import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

hall = [f"feature0 * {os.getpid()}.0"]
"""What a search finds, as SymbolicRegression writes it; first, which process it ran in."""
searches = []
"""What each search was given: columns and target, keywords and options."""
during = []
"""Functions that are called in a search."""
started = []
"""Signal handlers of the process before Julia took Ctrl-C over."""


class AnyValue:
    """An object of Julia; what is asked of it is another one."""

    def __init__(self, source=""):
        self.source = source

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return AnyValue()

    def __call__(self, *args, **kwargs):
        return AnyValue()

    __iter__ = None

    def __getitem__(self, key):
        return AnyValue()


VectorValue = AnyValue


class JuliaError(Exception):
    """An error that must not leave the process: to read it elsewhere would start Julia."""


def convert(kind, value):
    return value


def search(columns, target, *, options, run_id, **keywords):
    searches.append(SimpleNamespace(columns=columns, target=target, options=options, **keywords))
    for function in during:
        function()
    folder = Path(options.output_directory) / run_id
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f'{2 * k + 1},{1 / (k + 1)},"{text}"' for k, text in enumerate(hall)]
    (folder / "hall_of_fame.csv").write_text("\n".join(["Complexity,Loss,Equation", *rows]))
    return AnyValue()


def _name(function):
    return re.match(r"\w+", function.source).group()


Main = AnyValue()
Main.VERSION = SimpleNamespace(major=1, minor=11, patch=3)
Main.Dict, Main.Pair = dict, lambda *pair: pair
Main.seval = AnyValue
Main.isa = Main.applicable = lambda *args: True
Main.copy = Main.Symbol = lambda value: value
Main.take_b = lambda buffer: [0]
Main.Base = SimpleNamespace(nameof=_name, UUID=str)
Main.PythonCall = SimpleNamespace(PyArray=lambda array: array)
Main.SymbolicRegression = AnyValue()
Main.SymbolicRegression.Options = SimpleNamespace
Main.SymbolicRegression.SearchUtilsModule = SimpleNamespace(generate_run_id=lambda: "run")
Main.SymbolicRegression.equation_search = SimpleNamespace(_jl_call_nogil=search)

if os.environ.get("PYTHON_JULIACALL_HANDLE_SIGNALS") == "yes":
    started.append(signal.signal(signal.SIGINT, signal.SIG_IGN))
