import ast
from typing import Any

import numpy as np
import pytest
import sympy
from scipy import special

from symjax_gn.laws.export import to_latex, to_numpy_source
from symjax_gn.laws.expressions import evaluate
from symjax_gn.laws.tapes import FUNCTIONS, SPECIAL

r, m, q, dx, vx = sympy.symbols("r m_i q_j dx vx_i")
rng = np.random.default_rng(0)
step: Any = sympy.Heaviside
COLUMNS = {name: rng.uniform(0.2, 3.0, (5, 4)) for name in ("r", "m_i", "q_j", "dx", "vx_i")}

LAWS = [
    m * q / r**2,
    -m / (2 * r) - 1,
    2.123456 * (r - 1) * sympy.exp(-r) / r**2,
    sympy.sqrt(r) + r ** sympy.Rational(3, 2) - r ** sympy.Float(-0.7),
    r ** (-m) + 2 ** (-r) + (r**m) ** q,
    sympy.Heaviside(r - 1) * dx + step(1 - r, 0),
    sympy.pi * r + sympy.E * m - sympy.Rational(1, 3),
    10**30 * r / (10**20 + 1),
    sympy.Abs(r - m) * sympy.sign(dx - r) + sympy.floor(r) - sympy.ceiling(m),
    r**200 / (r + 1) ** 180,
]


def run(source, name="law"):
    space = {}
    exec(source, space)
    return space[name]


def values(law):
    used = {str(s): COLUMNS[str(s)] for s in law.free_symbols}
    return run(to_numpy_source(law))(**used), evaluate(law, used)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_source_gives_the_values_of_the_law(law):
    found, expected = values(law)
    assert found.shape == (5, 4) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("head", FUNCTIONS)
def test_source_knows_every_function(head):
    argument = r + 1 if head is sympy.acosh else r / 4
    found, expected = values(head(argument))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_source_is_one_function_of_keywords_with_a_docstring():
    tree = ast.parse(to_numpy_source(m / r, "force"))
    head, function = tree.body
    assert ast.unparse(head) == "import numpy as np"
    assert isinstance(function, ast.FunctionDef) and function.name == "force"
    assert [a.arg for a in function.args.kwonlyargs] == ["m_i", "r"] and not function.args.args
    assert ast.get_docstring(function)


@pytest.mark.parametrize("head", FUNCTIONS)
def test_scipy_is_imported_only_where_numpy_lacks_the_function(head):
    source = to_numpy_source({"a": head(r)})
    assert ("scipy" in source) == (FUNCTIONS[head] in SPECIAL)


def test_special_functions_are_exact():
    x = np.linspace(-8, 8, 101)
    law = {"a": sympy.erf(r), "b": sympy.erfc(r), "c": sympy.Ei(r)}
    found = run(to_numpy_source(law))(r=x)
    for key, function in zip("abc", (special.erf, special.erfc, special.expi), strict=True):
        np.testing.assert_array_equal(found[key], function(x))


def test_several_laws_give_arrays_by_name_of_one_shape():
    laws = {"x": m * dx / r, 'it\'s "y"': sympy.Float(2.5), "z": sympy.Integer(0)}
    function = run(to_numpy_source(laws, "forces"), "forces")
    found = function(m_i=2, r=np.ones((3, 1)), dx=np.arange(4))
    assert list(found) == list(laws)
    assert all(value.shape == (3, 4) and value.dtype == np.float64 for value in found.values())
    np.testing.assert_array_equal(found["x"][0], 2.0 * np.arange(4))
    assert np.all(found['it\'s "y"'] == 2.5)


def test_constant_laws_need_no_feature():
    assert run(to_numpy_source(sympy.pi / 2))() == np.pi / 2
    assert run(to_numpy_source({"a": sympy.Integer(3)}))()["a"].shape == ()


def test_steps_are_half_at_zero_unless_said_otherwise():
    laws = {"a": sympy.Heaviside(r), "b": step(r, 1)}
    found = run(to_numpy_source(laws))(r=[-1.0, 0.0, 1.0])
    assert found["a"].tolist() == [0.0, 0.5, 1.0]
    assert found["b"].tolist() == [0.0, 1.0, 1.0]


def test_whole_numbers_become_floats():
    assert run(to_numpy_source(r**-2))(r=[2]).tolist() == [0.25]


@pytest.mark.parametrize("word", ["np", "special", "float", "lambda", "a b", "x;import os", "é"])
def test_names_that_python_lacks_are_refused(word):
    message = "A NumPy function cannot be written with the name"
    with pytest.raises(ValueError, match=message):
        to_numpy_source(sympy.Symbol(word) + r)
    with pytest.raises(ValueError, match=message):
        to_numpy_source(r, word)


def test_what_numpy_lacks_is_refused():
    with pytest.raises(ValueError, match="cannot be written with the function gamma"):
        to_numpy_source(sympy.gamma(r))
    with pytest.raises(ValueError, match="whole numbers above 1e308"):
        to_numpy_source(10**400 * r)


@pytest.mark.parametrize(
    ("law", "latex"),
    [
        (2.123456 * dx / r**2, r"\frac{2.123 \Delta x}{r^{2}}"),
        (m * q / r, r"\frac{m_{i} q_{j}}{r}"),
        (-0.5 * vx, r"- 0.5 v_{x,i}"),
        (sympy.exp(-r), r"e^{- r}"),
        (1.00001 * sympy.Symbol("radius_j"), r"1.0 \mathrm{radius}_{j}"),
        (sympy.Symbol("e_0") + 1, r"\bar{e}_{0} + 1"),
    ],
)
def test_latex_of_typical_laws(law, latex):
    assert to_latex(law) == latex


def test_latex_takes_digits_and_symbols():
    assert to_latex(2.123456 * r, 2) == "2.1 r"
    assert to_latex(2.123456 * r, digits=6) == "2.12346 r"
    assert to_latex(2 * r, symbols={"r": r"\rho"}) == r"2 \rho"
