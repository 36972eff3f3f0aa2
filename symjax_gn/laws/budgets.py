"""How much work may be done: counted in fits, so that it is the same on any machine."""

import math
import time
import warnings


class Budget:
    """Fits that may be made; and seconds of one core, if a run asks for a limit.

    A limit of seconds that ends something says so, for then laws depend on the machine.

    >>> budget = Budget(fits=1)
    >>> budget.is_spent
    False
    >>> budget.spend()
    >>> budget.is_spent
    True
    """

    def __init__(self, fits: float = math.inf, seconds: float | None = None):
        """Nothing is spent yet.

        Args:
            fits: how many.
            seconds: of one core, whatever else the machine does; None: no limit.
        """
        self._fits, self._seconds = fits, seconds
        self._until = math.inf if seconds is None else time.thread_time() + seconds

    def spend(self) -> None:
        """Count a fit."""
        self._fits -= 1

    @property
    def is_spent(self) -> bool:
        """Whether nothing more is to be fitted."""
        if self._until < math.inf and time.thread_time() > self._until:
            warnings.warn(
                f"A search for formulas was ended by its limit of {self._seconds:g} seconds: on "
                "another machine its law may be another one.",
                RuntimeWarning,
                stacklevel=2,
            )
            self._until = -math.inf
        return self._fits <= 0 or self._until < 0
