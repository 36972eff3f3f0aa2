"""How a command speaks and ends: a full disk, a closed pipe or Ctrl-C is one line at most."""

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

# Seconds after which an interruption that a callback swallowed comes again.
_AGAIN = 0.1


def end_with(code: int) -> NoReturn:
    """End the process; after an interruption at once.

    What JAX still computes then would crash the interpreter as it ends.
    """
    if code == INTERRUPTED:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """Ctrl-C ends the process with a line, as long as there is nothing to be saved.

    Where it is ignored, as under `nohup ... &`, it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return

    def stop(*_: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"\ninterrupted\n")
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def never_swallowed() -> Iterator[None]:
    """Ctrl-C that meets a callback, whose exceptions Python drops, comes again a moment later."""
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(_AGAIN, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


class Stream:
    """A stream that goes on without what cannot be written, and keeps the first error."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or lose, a text."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Write, or lose, what is left."""
        self._try(self._stream.flush)

    def _try(self, do, *args):
        if self.error is None:
            try:
                do(*args)
            except OSError as error:
                self.error = error
                self._drop()

    def _drop(self):
        """Let nothing that is left be written as the process ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _as_line(message, *_args, **_options):
    """A warning as people read it."""
    return f"warning: {' '.join(str(message).split())}\n"


@contextlib.contextmanager
def speaking_on() -> Iterator[Stream]:
    """The standard streams as `Stream`s: what cannot be said stops no work; warnings are lines.

    >>> with speaking_on() as out:
    ...     print("F = m a")
    F = m a
    >>> out.error
    """
    out, err = Stream(sys.stdout), Stream(sys.stderr)
    before, warnings.formatwarning = warnings.formatwarning, _as_line
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # type: ignore[type-var]
            yield out
            out.flush()
    finally:
        warnings.formatwarning = before
