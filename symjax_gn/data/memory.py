"""What memory there is, and errors for work that would need more."""

import contextlib
import os
from pathlib import Path

# Padding may take this much of what it holds, or this many bytes, whatever is more.
_OF_HELD = 10
_SMALL = 2**28

# Where Linux says what a container may take.
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def bytes_there() -> float | None:
    """Bytes of memory of this machine, or of the container that confines it; None: unknown.

    >>> bytes_there() is None or bytes_there() > 0
    True
    """
    sizes = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(ValueError, OSError):
        sizes.append(int(_CONTAINER_LIMIT.read_text()))
    return min(sizes, default=None)


def check_memory(needed: float, what: str, advice: str) -> None:
    """Raise a `ValueError` if work needs more memory than the machine has.

    Args:
        needed: bytes, about.
        what: what needs them, in the plural.
        advice: what to do.

    >>> check_memory(1e30, "A million networks", "train fewer")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: A million networks take about 9.31e+20 GB of memory, and there are ...; train fewer.
    """
    there = bytes_there()
    if there is not None and needed > there:
        raise ValueError(
            f"{what} take about {needed / 2**30:.3g} GB of memory, and there are "
            f"{there / 2**30:.3g} GB; {advice}."
        )


def check_padding(padded: float, held: float, what: str, advice: str) -> None:
    """Raise a `ValueError` if arrays of one shape would be large, and next to empty.

    Args:
        padded: bytes with padding.
        held: bytes without.
        what: what is padded, in the plural.
        advice: what to do.

    >>> check_padding(2**33, 2**20, "Two graphs", "take one")
    Traceback (most recent call last):
    ValueError: Two graphs take 8 GB of memory, 8192 times what they hold; take one.
    """
    check_memory(padded, what, advice)
    if padded > max(_SMALL, _OF_HELD * held):
        raise ValueError(
            f"{what} take {padded / 2**30:.3g} GB of memory, {padded / held:.0f} times what they "
            f"hold; {advice}."
        )
