"""Folders for results: what a run did not make is neither deleted, overwritten nor followed."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from symjax_gn.data.checks import check_path
from symjax_gn.data.files import in_one_stroke, open_folder

MARKER = ".symjax_gn"
"""The file by which the package knows a folder as one that it writes to."""
LOCK = ".symjax_gn.lock"
"""The file that is locked as long as a run uses a folder."""

_NOTE = "symjax_gn keeps results here, and replaces and deletes those that it wrote.\n"


@contextlib.contextmanager
def own_folder(path: str | os.PathLike[str] | None, names: Sequence[str]) -> Iterator[Path | None]:
    """A folder for results, made if it is not there; only one run at a time may use it.

    A folder that is not empty is used if the package has used it before, or if nothing in it
    has one of the names.

    Args:
        path: of the folder; None: there is none.
        names: patterns of what will be written; those of folders end in "/".

    Raises:
        ValueError: the path is no name of a folder, nothing can be written there, another run
            uses it, it holds what the package did not make, or links that lead out of it.

    >>> import tempfile
    >>> with own_folder(Path(tempfile.mkdtemp()) / "spring", ["law.json"]) as folder:
    ...     sorted(path.name for path in folder.iterdir())
    ['.symjax_gn', '.symjax_gn.lock']
    """
    if path is None:
        yield None
        return
    from filelock import FileLock, Timeout

    check_path("The name of a folder for results", path)
    folder = open_folder(path)
    check_own(folder, names)
    # The same lock for those who open the folder again, e.g. `discover` and `fit`.
    lock = FileLock(Path(os.path.realpath(folder)) / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"Another run uses the folder {folder}: wait for its end, or choose another folder."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise ValueError(
            f"Cannot lock the folder {folder}: {error}. Choose another folder."
        ) from error
    try:
        if not (folder / MARKER).exists():
            with in_one_stroke(folder / MARKER) as part:
                part.write_text(_NOTE, encoding="utf-8")
        yield folder
    finally:
        lock.release()


def check_own(folder: Path, names: Sequence[str]) -> None:
    """Raise a `ValueError` if a folder holds what a run must not replace, delete or follow."""
    known = (folder / MARKER).is_file()
    for name in (*names, MARKER, LOCK):
        for found in folder.glob(name.rstrip("/")):
            _check_links(folder, found)
            if name not in (MARKER, LOCK) and not known:
                raise ValueError(
                    f"The folder {folder} holds {found.name}, and not the file {MARKER} of folders "
                    "that symjax_gn made: choose another folder, so that nothing is lost."
                )
            if found.is_dir() != name.endswith("/"):
                kind = "a folder" if found.is_dir() else "a file"
                raise ValueError(
                    f"{found} is {kind}, which symjax_gn did not make: choose another folder."
                )


def _check_links(folder, path):
    """Raise a `ValueError` if a path, or one below it, is a link."""
    below = [path]
    for place, folders, files in os.walk(path):
        below += [Path(place) / name for name in (*folders, *files)]
    for one in below:
        if one.is_symlink():
            raise ValueError(
                f"{one} is a link to {os.readlink(one)}, and results are not written through "
                f"links within {folder}: remove it, or choose another folder."
            )


def delete_files(folder: Path, patterns: Sequence[str]) -> None:
    """Delete the files in a folder that match, and folders in it that become empty.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "searches").mkdir()
    >>> for name in ("1.json", "mine.txt"):
    ...     (folder / "searches" / name).touch()
    >>> delete_files(folder, ["searches/[0-9].json"])
    >>> [path.name for path in folder.rglob("*")]
    ['searches', 'mine.txt']
    """
    emptied = set()
    for pattern in patterns:
        for file in folder.glob(pattern):
            if file.is_file():
                file.unlink()
                emptied |= set(file.relative_to(folder).parents[:-1])
    # The deepest ones first.
    for one in sorted(emptied, reverse=True):
        with contextlib.suppress(OSError):
            (folder / one).rmdir()
