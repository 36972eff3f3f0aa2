"""Arrays by name from `.npz` files, of which only plain numbers and text are read."""

import os
import zipfile
from typing import Any

import numpy as np

from symjax_gn.data.memory import check_memory

# Recordings shrink by a factor of 2 to 10 when they are packed, constants by 1000.
_LARGE = 2**26
_MOST_PACKED = 100

# Arrays are held as they are read and as float64, cut, and differentiated.
_COPIES = 4

_ADVICE = 'write one with numpy.savez("FILE.npz", time=..., position=..., mass=...)'


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of an `.npz` file by name.

    How large they are is read first: files that unpack to more than they say, than recordings
    do, or than there is memory, are not.

    Raises:
        ValueError: the file is not a whole `.npz` of plain arrays.
        FileNotFoundError: there is no such file.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
    >>> np.savez(path, time=np.arange(3.0))
    >>> read_arrays(path)
    {'time': array([0., 1., 2.])}
    """
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder, not an .npz file; {_ADVICE}.")
    with open(path, "rb") as stream:
        if stream.read(2) != b"PK":
            raise ValueError(f"{path} is not an .npz file; {_ADVICE}.")
        stream.seek(0)
        try:
            with zipfile.ZipFile(stream) as archive:
                _check_sizes(archive)
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        # Damaged files raise a dozen kinds.
        except Exception as error:
            raise ValueError(
                f"{path} is no whole .npz file of plain arrays ({error}); {_ADVICE}."
            ) from error


def _check_sizes(archive):
    """Raise a `ValueError` unless all entries are arrays of the size that the archive says."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError("two arrays have the same name")
    unpacked = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if unpacked > max(_LARGE, _MOST_PACKED * packed):
        raise ValueError(
            f"it unpacks to {unpacked / 1e6:.0f} MB from {packed / 1e6:.1f} MB, which no "
            "recording does; numpy.savez writes it unpacked"
        )
    check_memory(_COPIES * unpacked, "its arrays", "cut it into several files")
    for entry in entries:
        if entry.flag_bits & 1:
            raise ValueError(f"{entry.filename} is encrypted")
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            if version not in _HEADERS:
                raise ValueError(f"{entry.filename} is of the unknown version {version}")
            shape, _, dtype = _HEADERS[version](member)
            if dtype.hasobject:
                raise ValueError(f"{entry.filename} holds Python objects")
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize + member.tell()
        if size != entry.file_size:
            raise ValueError(
                f"{entry.filename} has {entry.file_size} bytes where its shape {shape} and type "
                f"{dtype} take {size}"
            )


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
