import numpy as np
import pytest
import sympy

from symjax_gn.laws.dictionary import search_sums
from symjax_gn.laws.engines import DEFAULT_OPERATORS
from symjax_gn.laws.expressions import complexity, evaluate
from symjax_gn.laws.kinds import KINDS
from symjax_gn.laws.products import search_products
from symjax_gn.laws.rationals import search_rationals
from symjax_gn.laws.refinement import SampleObjective

X = np.abs(2 * np.random.default_rng(0).normal(size=2000))
X = np.quantile(X, np.linspace(0.01, 0.99, 300))


PLANTED = {
    "line": 2 * X - 1.98,
    "polynomial": X - 0.3 * X**3 + 0.02 * X**5,
    "power": 0.7 * X**-1.5,
    "two powers": 3 * X**-4 - 2 * X**-2.5,
    "screened": np.exp(-1.3 * X) * (1 / X + 1 / X**2),
    "gaussian": X * np.exp(-(X**2) / 2),
    "wave": 1.4 * np.sin(2.7 * X + 0.4),
    "ripple": np.exp(-0.6 * X) * np.cos(4 * X),
    "ten waves": 0.8 * np.sin(25 * X + 0.2),
    "twenty waves": np.exp(-0.3 * X) * np.cos(37 * X),
    "softened": X / (X**2 + 0.2) ** 1.5,
    "saturating": np.tanh(1.2 * X),
    "logarithm": np.log(1 + 0.8 * X),
    "switch": 1 / (1 + np.exp(5 * (X - 1.5))),
    "quotient": (X**2 - 1.2) / (0.5 + X + 0.3 * X**4),
    "bump": (X - 1.2) * np.exp(-3 * (X - 1.2) ** 2),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_laws_are_found(name):
    """Laws that the search has not been made for, each in a few terms."""
    y = PLANTED[name]
    weight = 1 / (np.abs(y) + 0.1 * np.median(np.abs(y)))
    stages = search_sums(X, y, weight, operators=DEFAULT_OPERATORS)
    # The fits end where a step lowers the error by a share of 1e-6.
    rated = next(rated for rated in stages if min(rated.values()) < 1e-5)
    law = min(rated, key=lambda one: rated[one])
    np.testing.assert_allclose(evaluate(law, {"r": X}) * weight, y * weight, atol=1e-4)
    assert complexity(law) < 40


def test_only_the_operators_that_are_allowed():
    rated = next(search_sums(X, np.exp(-X), operators=["+", "*"]))
    assert not any(law.has(sympy.exp, sympy.sin, sympy.tanh, sympy.log) for law in rated)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_values_and_expressions_agree(kind):
    for parameters in kind.grid[:: max(1, len(kind.grid) // 7)]:
        law = kind.expression(sympy.Symbol("r"), *parameters)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(
                evaluate(law, {"r": X}), kind.values(X, *parameters), rtol=1e-9
            )


def test_variables_and_targets_that_are_small_large_or_negative():
    for unit in (1e-9, 1e11):
        rated = next(search_sums(unit * X, 3 * X**2, operators=["+"]))
        assert min(rated.values()) < 1e-8
        y = unit**4 * X**2
        rated = next(search_sums(X, y, 1 / y, operators=["+"]))
        assert min(rated.values()) < 1e-8
    x = np.linspace(-2, 2, 200)
    rated = next(search_sums(x, 3 * x**2 - x, operators=["+"]))
    assert min(rated.values()) < 1e-8


PRODUCTS = {
    "screened, softened": np.exp(-X) / (X**2 + 0.1),
    "screened, saturating": np.exp(-X) * np.tanh(2 * X),
    "rational": X / (1 + X**3),
    "screened, of a softened potential": (1.4 + 1 / (X + 0.05)) / (X + 0.05) * np.exp(-1.4 * X),
    "any powers": 1 / (1 + (X / 1.3) ** 2.6),
    "stretched": X * np.exp(-(X**1.5)),
    "logarithm": np.log(1 + X**2) / X,
    "one zero": (X - 1.4) * np.exp(-X) / (1 + X),
    "zero of a logarithm": np.log(X / 1.3) / (1 + X**2),
    "many zeros": np.sin(3 * X) / (1 + X**2),
    "wave over a root": np.cos(3 * X) / X**1.5,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_found_by_their_logarithms(name):
    y = PRODUCTS[name]
    weight = 1 / (np.abs(y) + 0.1 * np.median(np.abs(y)))
    offered = search_products(X, y, weight, DEFAULT_OPERATORS)
    objective = SampleObjective({"r": X}, y, weight)
    errors = [objective.fit((law,))[1] for _, law in offered]
    # Fits of many constants end before they are exact; rules that shorten laws go on.
    assert min(errors) < 1e-3
    assert not any(law.has(sympy.exp) for _, law in search_products(X, y, weight, ["log", "sin"]))


@pytest.mark.parametrize(
    "y",
    [
        np.exp(-X) * (X**2 + 0.4) ** 0.7 * np.tanh(1.5 * X),
        np.exp(-1.3 * X) * (X**3 + 0.7) ** -1.5 * np.tanh(2 * X),
    ],
)
def test_products_of_two_functions_may_have_an_exponential_beside(y):
    weight = 1 / (np.abs(y) + 0.1 * np.median(np.abs(y)))
    objective = SampleObjective({"r": X}, y, weight)
    offered = search_products(X, y, weight, DEFAULT_OPERATORS)
    # Without the exponential the best ones err by 5e-4.
    assert min(objective.fit((law,))[1] for _, law in offered) < 5e-5


@pytest.mark.parametrize(
    ("above", "below"), [(X**2 - 1.2, 1 + X**3), (2 * X, 0.5 + X**2), (1 + X, X**4 + 3 * X + 0.2)]
)
def test_quotients_are_found(above, below):
    y = above / below
    weight = 1 / (np.abs(y) + 0.1 * np.median(np.abs(y)))
    error, law = search_rationals(X, y, weight)[0]
    assert error < 1e-9
    np.testing.assert_allclose(evaluate(law, {"r": X}), y, atol=1e-9)


def test_quotients_have_no_poles_among_the_samples():
    found = search_rationals(X, 1 / (X - 1.50001) ** 3, np.ones(len(X)))
    assert all(np.all(np.isfinite(evaluate(law, {"r": X}))) for _, law in found)
    for _, law in found:
        bottom = evaluate(1 / law * sympy.numer(law), {"r": X})
        assert np.min(bottom) * np.max(bottom) > 0


def test_a_law_of_the_wrong_zeros_is_no_product():
    noise = np.random.default_rng(3).normal(size=len(X))
    assert search_products(X, noise, np.ones(len(X)), DEFAULT_OPERATORS) == []
