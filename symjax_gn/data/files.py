"""Folders for results, and files that an interruption cannot damage."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symjax_gn.data.checks import check_path


def as_path(path: Any) -> Path:
    """The path of a file or folder.

    Raises:
        ValueError: it is neither text nor a path, or empty.

    >>> as_path("halos.csv").suffix
    '.csv'
    """
    check_path("The path of a file", path)
    return Path(path)


@contextlib.contextmanager
def in_one_stroke(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place once all is written.

    An interruption leaves the old file or the new one, and so do several writers at once. A
    link is replaced, not followed.

    Raises:
        ValueError: the path is empty, or one of a folder, a device or in no folder.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "law.txt"
    >>> with in_one_stroke(path) as part:
    ...     written = part.write_text("F = m a")
    >>> path.read_text()
    'F = m a'
    """
    check_path("The name of a file", path)
    place = Path(path)
    if place.exists() and not place.is_file():
        kind = "folder" if place.is_dir() else "device"
        raise ValueError(f"{path} is a {kind}; give the name of a file to write to.")
    if not place.parent.is_dir():
        raise ValueError(f"There is no folder {place.parent} to write {place.name} to.")
    part = Path(f"{os.fspath(path)}.{os.getpid()}-{threading.get_ident()}.part")
    # What lies there may be a link.
    part.unlink(missing_ok=True)
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def open_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, or say at once why nothing can be written there.

    Raises:
        ValueError: the path is empty, or the folder cannot be made or written to.
    """
    check_path("The name of a folder", path)
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
