import math
import random
from typing import Any

import numpy as np
import pytest
import sympy

from symjax_gn.laws.expressions import evaluate
from symjax_gn.laws.grammar import format_expression, parse_expression
from symjax_gn.laws.tapes import FUNCTIONS

NAMES = ("r", "m_i", "q_j", "dx", "e_0")
r, m, q, dx, e_0 = sympy.symbols(NAMES)
step: Any = sympy.Heaviside


def random_leaf(rng):
    kind = rng.random()
    if kind < 0.55:
        return rng.choice((r, m, q, dx, e_0))
    if kind < 0.8:
        return sympy.Float(rng.choice([rng.gauss(0, 1), 10 ** rng.uniform(-12, 12), 2.0, -1.0]))
    if kind < 0.95:
        return sympy.Rational(rng.randint(-5, 12), rng.randint(1, 7))
    return sympy.pi


def random_expression(rng, depth):
    if depth == 0:
        return random_leaf(rng)
    parts = [random_expression(rng, depth - 1) for _ in range(rng.randint(2, 3))]
    kind = rng.random()
    if kind < 0.3:
        return sympy.Add(*parts)
    if kind < 0.6:
        return sympy.Mul(*parts)
    if kind < 0.7:
        return parts[0] / parts[1]
    if kind < 0.85:
        exponents = [2, 3, -1, -2, *(sympy.Rational(k, 2) for k in (1, -1, 3)), -0.7, parts[1]]
        return parts[0] ** sympy.sympify(rng.choice(exponents))
    return rng.choice(list(FUNCTIONS))(parts[0])


def is_a_law(expression):
    """Real, finite, of variables, and of numbers that people write."""
    return (
        expression.free_symbols
        and not expression.has(sympy.I, sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)
        and all(1e-100 < abs(x) < 1e100 or x.is_zero for x in expression.atoms(sympy.Float))
        and all(
            abs(power.exp) <= 1000 for power in expression.atoms(sympy.Pow) if power.exp.is_Number
        )
        and all(
            sympy.im(sympy.N(node)) == 0
            for node in sympy.preorder_traversal(expression)
            if node.is_number
        )
        and all(max(abs(v.p), v.q) < 10**20 for v in expression.atoms(sympy.Rational))
    )


def random_laws(seed, count, deepest=3):
    rng = random.Random(seed)
    laws = []
    while len(laws) < count:
        try:
            law = random_expression(rng, rng.randint(1, deepest))
            if is_a_law(law):
                laws.append(law)
        except (ArithmeticError, RecursionError, TypeError, ValueError):
            continue
    return laws


def test_random_laws_are_read_back_equal_and_with_equal_values():
    columns = {name: np.linspace(0.3, 2.9, 7) * (k + 1) for k, name in enumerate(NAMES)}
    for law in random_laws(0, 150):
        text = format_expression(law)
        back = parse_expression(text, NAMES)
        assert back == law, text
        assert format_expression(back) == text
        np.testing.assert_array_equal(evaluate(back, columns), evaluate(law, columns))


@pytest.mark.parametrize(
    "value", [0.1, 1 / 3, 1e-300, 2.2250738585072014e-308, 1.7976931348623157e308, math.pi, 1e22]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_floats_keep_every_bit(value, sign):
    for law in (sympy.Float(sign * value), sympy.Float(sign * value) * r):
        back = parse_expression(format_expression(law))
        (number,) = back.atoms(sympy.Float)
        assert float(number).hex() == (sign * value).hex()
        assert number._prec == 53


def test_many_random_floats_keep_every_bit():
    rng = random.Random(1)
    for _ in range(300):
        value = rng.gauss(0, 1) * 10 ** rng.uniform(-300, 300)
        number: sympy.Expr = parse_expression(format_expression(sympy.Float(value)))
        assert float(number).hex() == value.hex()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/2", sympy.Rational(1, 2)),
        ("2", sympy.Integer(2)),
        ("2.", sympy.Float(2.0)),
        (".5", sympy.Float(0.5)),
        ("2e3", sympy.Float(2000.0)),
        ("2E-3", sympy.Float(0.002)),
        ("12345678901234567890", sympy.Integer(12345678901234567890)),
        ("-r**2", -(r**2)),
        ("(-r)**3", -(r**3)),
        ("2**3**2", sympy.Integer(512)),
        ("(2**3)**2", sympy.Integer(64)),
        ("r^2", r**2),
        ("2**-r", 2 ** (-r)),
        ("r**-m_i**2", r ** (-(m**2))),
        ("r - m_i - q_j", r - m - q),
        ("r/m_i/q_j", r / (m * q)),
        ("r/(m_i/q_j)", r * q / m),
        ("r/m_i*q_j", r * q / m),
        ("r + m_i*q_j**2", r + m * q**2),
        ("--r", r),
        ("r - -m_i", r + m),
        ("+r", r),
        ("2*-r", -2 * r),
        ("-2*-r", 2 * r),
        ("pi*r", sympy.pi * r),
        ("exp(1)", sympy.E),
        ("sqrt(r)", sympy.sqrt(r)),
        ("abs(r) + Abs(r)", 2 * sympy.Abs(r)),
        ("ceil(r) + ceiling(r)", 2 * sympy.ceiling(r)),
        ("heaviside(r)", sympy.Heaviside(r)),
        ("heaviside(r, 1)", step(r, 1)),
        ("Ei(r) - erf(r) + erfc(r)", sympy.Ei(r) - sympy.erf(r) + sympy.erfc(r)),
        (" r\t+\n1 ", r + 1),
    ],
)
def test_the_usual_rules_of_reading(text, expected):
    found = parse_expression(text)
    assert found == expected
    assert type(found) is type(expected)


def test_differences_keep_their_parentheses():
    found = parse_expression("r - (m_i - q_j)")
    assert sympy.expand(found) == r - m + q
    assert format_expression(found) == "r - (m_i - q_j)"
    assert format_expression(parse_expression("2*(r - 1)")) == "2*(r - 1)"


@pytest.mark.parametrize(
    ("law", "text"),
    [
        (2.5 * r - 1, "2.5*r - 1"),
        (-r - 1, "-r - 1"),
        (m * q / r**2, "m_i*q_j/r**2"),
        (-m / (2 * r), "-m_i/(2*r)"),
        (2 * m / (3 * r), "2*m_i/(3*r)"),
        ((r + 1) * m, "m_i*(r + 1)"),
        ((r + 1) ** 2, "(r + 1)**2"),
        (1 / (r + 1), "1/(r + 1)"),
        (1 / sympy.sqrt(r), "1/sqrt(r)"),
        (r ** sympy.Rational(3, 2), "r**(3/2)"),
        (r ** sympy.Float(-0.7), "r**(-0.7)"),
        (r ** (-m), "r**(-m_i)"),
        ((r**m) ** q, "(r**m_i)**q_j"),
        (r ** (m**q), "r**(m_i**q_j)"),
        ((-2) ** r, "(-2)**r"),
        (sympy.exp(-r / 2), "exp(-r/2)"),
        (sympy.E * r, "exp(1)*r"),
        (sympy.Abs(r), "abs(r)"),
        (sympy.Heaviside(r - 1), "heaviside(r - 1)"),
        (step(r, 0), "heaviside(r, 0)"),
        (sympy.factor(2 * r - 2), "2*(r - 1)"),
    ],
)
def test_laws_are_written_as_people_write_them(law, text):
    assert format_expression(law) == text
    assert parse_expression(text) == law


@pytest.mark.parametrize("head", FUNCTIONS)
def test_every_function_is_written_in_lower_case_and_read_back(head):
    text = format_expression(head(r))
    assert parse_expression(text) == head(r)
    assert parse_expression(str(head(r))) == head(r)
    assert text[0].islower() or head is sympy.Ei


# Text, column and what is said after it.
ERRORS = [
    ("", 1, 'expected a number, a name or "(", got the end.'),
    ("  ", 1, 'expected a number, a name or "(", got the end.'),
    ("x.y", 2, "expected a number, a name or an operator, got '.'."),
    ("lambda: 0", 7, "expected a number, a name or an operator, got ':'."),
    ("lambda", 1, "expected a variable, got Python's word 'lambda'."),
    ('__import__("os")', 12, "expected a number, a name or an operator, got '\"'."),
    ("1e999", 1, "expected a real number below 1e308."),
    ("1e-400", 1, "expected a number that is 0 or above 1e-308 in size."),
    ("9" * 400, 1, "expected a real number below 1e308."),
    ("(r", 3, 'expected ")", got the end.'),
    ("r)", 2, "expected an operator or the end, got ')'."),
    ("a b", 3, "expected an operator or the end, got 'b'."),
    ("2r", 2, "expected an operator or the end, got 'r'."),
    ("1..2", 3, "expected an operator or the end, got '.2'."),
    ("1_000", 2, "expected an operator or the end, got '_000'."),
    ("0x10", 2, "expected an operator or the end, got 'x10'."),
    ("r**", 4, 'expected a number, a name or "(", got the end.'),
    ("*r", 1, "expected a number, a name or \"(\", got '*'."),
    ("a,b", 2, "expected an operator or the end, got ','."),
    ("r + é", 5, "expected a number, a name or an operator, got 'é'."),
    ("r²", 2, "expected a number, a name or an operator, got '²'."),
    ("٣", 1, "expected a number, a name or an operator, got '٣'."),
    ("sin", 4, 'expected "(" after sin, got the end.'),
    ("sin + 1", 5, "expected \"(\" after sin, got '+'."),
    ("sin()", 5, "expected a number, a name or \"(\", got ')'."),
    ("r + sin(1,2)", 5, "expected 1 argument of sin, got 2."),
    ("heaviside(1,2,3)", 1, "expected 2 arguments of heaviside, got 3."),
    ("1/0", 1, "expected a divisor that is not 0."),
    ("r/0.0", 1, "expected a divisor that is not 0."),
    ("0**-1", 1, "expected a real number below 1e308."),
    ("sqrt(-1)", 1, "expected a real number below 1e308."),
    ("log(0)", 1, "expected a real number below 1e308."),
    ("1e308*10", 1, "expected a real number below 1e308."),
    ("1e308*r*10", 1, "expected numbers below 1e308."),
    ("9**9**9", 1, "expected an exponent of at most 1000."),
    ("r**1001", 1, "expected an exponent of at most 1000."),
    ("exp(9999*log(r))", 1, "expected an exponent of at most 1000."),
    ("(10**300*r)**900", 1, "expected a number with fewer digits: write it with a decimal point."),
    ("r" * 10_001, 10_001, "expected a law of at most 10000 characters."),
    ("(" * 100 + "r" + ")" * 100, 33, "expected at most 32 levels of parentheses and powers."),
    ("r**" * 100 + "r", 94, "expected at most 32 levels of parentheses and powers."),
]


@pytest.mark.parametrize(("text", "column", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors_are_one_line_with_column_and_what_was_expected(text, column, message):
    with pytest.raises(ValueError, match="Cannot read the law") as caught:
        parse_expression(text)
    said = str(caught.value)
    assert said.endswith(f": column {column}: {message}")
    assert said.startswith("Cannot read the law ")
    assert "\n" not in said and len(said) < 250


def test_exactly_the_deepest_and_longest_are_read():
    assert parse_expression("(" * 31 + "r" + ")" * 31) == r
    assert parse_expression("r" + " " * 9_999) == r
    assert parse_expression("r**1000") == r**1000


def test_unknown_names_and_functions_name_the_nearest():
    with pytest.raises(ValueError, match=r"column 1: .* 'sine' \(did you mean 'sin' or 'sinh'\?\)"):
        parse_expression("sine(r)")
    message = (
        r"column 5: expected a variable, got 'm_k' \(did you mean 'm_i'\?\); there are: m_i, r\.$"
    )
    with pytest.raises(ValueError, match=message):
        parse_expression("2 + m_k", ["m_i", "r"])
    with pytest.raises(ValueError, match=r"got 'zzz'; there are: m_i, r\.$"):
        parse_expression("zzz", ["m_i", "r"])
    for name in ("eval", "exec", "__import__", "getattr", "gamma", "Symbol"):
        with pytest.raises(ValueError, match="expected a function"):
            parse_expression(f"{name}(r)")


def test_listed_names_win_over_functions_and_numbers():
    assert parse_expression("sign + pi", ["sign", "pi"]) == sympy.Symbol("sign") + sympy.Symbol(
        "pi"
    )
    assert parse_expression("sign(sign)", ["sign"]) == sympy.sign(sympy.Symbol("sign"))


@pytest.mark.parametrize("text", [None, 3, b"r", r])
def test_only_text_is_read(text):
    with pytest.raises(ValueError, match="text must be text, got "):
        parse_expression(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(" * 4_999 + "r" + ")" * 4_999, "at most 32 levels"),
        ("9" * 9_990, "a real number below 1e308"),
        ("9**" * 3_000 + "9", "at most 32 levels"),
        ("(" * 10_000, "at most 32 levels"),
        ("*".join(["2**900"] * 1_400), "a real number below 1e308"),
        ("r*" + "*".join(["2**900"] * 1_400), "a number with fewer digits"),
        ("((2*r)**1000)**1000", "a number with fewer digits"),
        ("+".join(f"1/{10**30 + k}" for k in range(280)), "a number with fewer digits"),
    ],
    ids=range(8),
)
def test_texts_that_would_take_all_memory_or_time_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_expression(text)


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("-" * 9_000 + "r", 0),
        ("exp(" * 31 + "r" + ")" * 31, 31),
        ("heaviside(1-" * 31 + "r" + ")" * 31, 31),
        ("floor(1.5-" * 31 + "r" + ")" * 31, 31),
    ],
    ids=range(4),
)
def test_deep_texts_are_read_as_they_are(text, depth):
    """Some of SymPy's own functions take time that doubles with every level."""
    found = parse_expression(text)
    assert found.free_symbols == {r} and len(found.atoms(sympy.Function)) == depth


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (sympy.gamma(r), "with the function gamma."),
        (r + sympy.besselj(0, r), "with the function besselj."),
        (sympy.Piecewise((r, r > 1), (0, True)), "with the function Piecewise."),
        (sympy.Symbol("a b"), "with the variable 'a b'"),
        (sympy.Symbol("pi"), "with the variable 'pi'"),
        (sympy.I * r, "with I: it needs finite real numbers."),
        (sympy.oo, "with oo: it needs finite real numbers."),
        (sympy.nan, "with nan: it needs finite real numbers."),
        (sympy.Float("1e400") * r, "no float64 holds it."),
        (sympy.Float("1e-400") * r, "no float64 holds it."),
    ],
)
def test_what_cannot_be_written_is_named(law, message):
    with pytest.raises(ValueError, match="A law cannot be written") as caught:
        format_expression(law)
    assert message in str(caught.value)
