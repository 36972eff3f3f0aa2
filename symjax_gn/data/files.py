"""Folders for results, and files that an interruption cannot damage."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symjax_gn.data.checks import check_type


def as_path(path: Any) -> Path:
    """The path of a file or folder.

    Raises:
        ValueError: it is neither text nor a path.

    >>> as_path("halos.csv").suffix
    '.csv'
    """
    check_type("The path of a file", path, (str, os.PathLike))
    return Path(path)


@contextlib.contextmanager
def in_one_stroke(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place once all is written.

    An interruption leaves the old file or the new one, and so do several writers at once.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "law.txt"
    >>> with in_one_stroke(path) as part:
    ...     written = part.write_text("F = m a")
    >>> path.read_text()
    'F = m a'
    """
    part = Path(f"{os.fspath(path)}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def open_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, or say at once why nothing can be written there.

    Raises:
        ValueError: the folder cannot be made or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"Cannot write results to {folder}: {error.strerror or error}. Choose another folder."
        ) from error
    return folder
