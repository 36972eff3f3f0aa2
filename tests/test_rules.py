"""What each rule makes of a law."""

import pytest
import sympy

from symjax_gn.laws.rules import (
    RULES,
    factored,
    first_order,
    left_out,
    monic,
    near_integer,
    sign_powers,
    softened,
    substituted,
    written_out,
    zero,
)

R, M, Q, P = sympy.symbols("r m q p")
ONE = sympy.Integer(1)


def test_each_term_and_factor_is_left_out():
    assert set(left_out(2.5 * M * (R - 1.5))) == {
        M * (R - 1.5), 2.5 * R - 3.75, 2.5 * M * R, sympy.Float(-3.75) * M, 2.5 * M,
    }  # fmt: skip
    assert set(left_out(M + sympy.exp(R * Q))) == {
        M, sympy.exp(R * Q), M + sympy.exp(R), M + sympy.exp(Q),
    }  # fmt: skip
    assert list(left_out(R)) == []


def test_products_are_written_out_and_factors_taken_out():
    assert list(written_out(Q * (R + M / Q))) == [Q * R + M]
    assert list(factored(Q * R - Q * M)) == [Q * (R - M)]


def test_a_sum_is_divided_by_one_of_its_constants():
    found = list(monic(3.0 * M / (2.0 * R + 0.5)))
    assert 1.5 * M / (R + 0.25) in found
    assert 6.0 * M / (4.0 * R + 1) in found
    # Where two terms have the same constant, neither keeps one.
    assert 2.0 / (R - M) in [2 * one for one in monic(2.0 / (2.0 * R - 2.0 * M))]
    assert list(monic(R + M)) == []


def test_a_function_of_a_small_argument_is_a_line():
    x = 0.25 * Q * R
    cases = {sympy.exp: 1 + x, sympy.sin: x, sympy.tan: x, sympy.sinh: x, sympy.tanh: x}
    for head, line in cases.items():
        assert M + line in list(first_order(M + head(x)))
    assert list(first_order(sympy.cos(R) + sympy.log(R))) == []
    # 100 (exp(0.01 r q) - 1) is r q.
    assert any(
        sympy.simplify(one - R * Q) == 0
        for one in first_order(100.0 * sympy.exp(0.01 * R * Q) - 100.0)
    )


def test_constants_next_to_whole_numbers():
    law = 1.95 * R**3.02 + 0.4 * M - 150.01 * Q
    found = set(near_integer(law))
    assert 2 * R**3.02 + 0.4 * M - 150.01 * Q in found
    assert 1.95 * R**3 + 0.4 * M - 150.01 * Q in found
    assert 2 * R**3 + 0.4 * M - 150.01 * Q in found
    assert len(found) == 3
    assert set(near_integer(-1.05 * R)) == {-R}
    assert set(near_integer(1.48 * R**0.52)) == {1.48 * sympy.sqrt(R)}
    assert set(near_integer(1.48 * R**-1.46)) == {1.48 * R ** sympy.Rational(-3, 2)}
    assert set(near_integer(R**1.97)) == {R**2}
    for far in (0.05 * R, 1.11 * R, 0.499 * R, 100.02 * R, 2 * R):
        assert list(near_integer(far)) == []


def test_each_constant_may_be_zero():
    assert set(zero(M * sympy.exp(0.1 * R) + 0.5)) == {M + 0.5, M * sympy.exp(0.1 * R)}


def test_softened_distances():
    first, second = softened("r", 0.5)(M / R**2)
    assert first == M / (R + 0.5) ** 2
    assert sympy.simplify(second - M / (R**2 + 0.25)) == 0
    assert list(softened("r", 0.5)(M * Q)) == []


def test_powers_of_signs():
    tidy = sign_powers(["q", "p"])
    assert tidy(M / (Q * P)) == M * Q * P
    assert tidy(Q**2 * M + P**-3) == M + P
    assert tidy(R**2 / Q**0.5) == R**2 / Q**0.5
    assert sign_powers([])(1 / Q) == 1 / Q
    law = R * (M + 1)
    assert tidy(law) is law


def test_substituting_beyond_floats_gives_nothing():
    towers = [
        sympy.exp(-3.0 * sympy.exp(1e10 * R)),
        sympy.exp(sympy.exp(sympy.exp(9.0 * R))),
        (2 * sympy.Integer(99) ** (sympy.Integer(99) ** R)) ** sympy.Integer(3),
    ]
    for law in towers:
        assert substituted(law, {R: sympy.Integer(9)}) is sympy.nan
    big = sympy.Symbol("n")
    assert substituted((2 * M) ** big, {big: sympy.Integer(10) ** 9}) is sympy.nan
    assert substituted(sympy.exp(2.0 * R), {R: M}) == sympy.exp(2.0 * M)


def test_only_towers_are_left_as_they_are():
    for law in (sympy.exp(R**2) * Q * (R + M), 2**R * Q * (R + M), R**Q * Q * (R + M)):
        assert list(written_out(law)) == [sympy.expand_mul(law)]
    for law in (sympy.exp(2**R) * Q * (R + M), 2 ** (2**R) * Q * (R + M)):
        assert list(written_out(law)) == list(factored(law)) == []


@pytest.mark.parametrize("name", RULES)
def test_towers_of_exponentials_are_not_written_out(name):
    """Without its variable, this one is a number with a thousand million digits."""
    tower = R * (M + 1) + sympy.exp(-3.0 * sympy.exp(1e10 * R))
    for one in RULES[name](tower):
        assert one is sympy.nan or not any(abs(x) > 1e100 for x in one.atoms(sympy.Float))
