"""Which constants of a law become plain numbers."""

import math

import numpy as np
import sympy

from symjax_gn.discovery.objective import Interval
from symjax_gn.discovery.rounding import with_plain_numbers
from symjax_gn.laws.budgets import Budget
from symjax_gn.laws.expressions import constants

SYMBOLS = sympy.symbols("a b c d")
LAW = (sum(sympy.Float(k + 2.1) * x for k, x in enumerate(SYMBOLS)),)


class Wide:
    """An objective to which constants may be anything within 0.6."""

    def fit(self, candidate, limit=math.inf):
        return candidate, 0.0

    def intervals(self, candidate):
        values = map(float, constants(sympy.Tuple(*candidate)))
        return tuple(Interval(x, x - 0.6, x + 0.6) for x in values)


def rounded(rise):
    """How many constants become plain if each raises errors of 1 by so many standard errors."""
    # Independent of each other: bits of the number of a sample.
    signs = 1.0 - 2 * (np.arange(400)[:, None] // [1, 2, 4, 8] % 2)

    def plain(law):
        return np.array([law.coeff(x) == round(law.coeff(x)) for x in SYMBOLS])

    def held_out(candidate):
        (law,) = candidate
        if law.free_symbols != set(SYMBOLS):
            return np.full(400, 10.0)
        return 1 + 0.1 * (signs + rise / math.sqrt(400)) @ plain(law)

    (law,) = with_plain_numbers(LAW, Wide(), held_out)
    return int(np.sum(plain(law)))


def test_constants_are_plain_where_held_out_errors_do_not_rise():
    assert rounded(0.0) == 4
    # Two standard errors are no chance.
    assert rounded(2.1) == 0


def without_needless(change):
    """How many terms are left if errors of 1 change by so much, up or down, without the last."""
    signs = 1.0 - 2 * (np.arange(400) % 2)

    def held_out(candidate):
        (law,) = candidate
        if not set(SYMBOLS[:3]) <= law.free_symbols:
            return np.full(400, 10.0)
        return 1.0 + (0.0 if SYMBOLS[3] in law.free_symbols else change) * signs

    (law,) = with_plain_numbers(LAW, Wide(), held_out, Budget(0))
    return len(law.free_symbols)


def test_a_term_without_which_no_error_changes_is_left_out():
    """By a thousandth or less; that their mean stays is not enough."""
    assert without_needless(0.0) == without_needless(5e-4) == 3
    assert without_needless(2e-3) == without_needless(0.5) == 4


def test_many_small_rises_are_a_large_one():
    """Of two by 1.5 standard errors, 3 / sqrt(2) of their sum are more than 2."""
    assert rounded(1.5) == 1
