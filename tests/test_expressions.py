from typing import Any

import jax
import numpy as np
import pytest
import sympy
from scipy import special

from symjax_gn.laws.expressions import (
    complexity,
    constants,
    equivalent,
    evaluate,
    rounded,
    to_jax,
    to_numpy,
    unknown_functions,
    with_constants,
    with_heaviside,
    with_slots,
)
from symjax_gn.laws.tapes import FUNCTIONS

R, A, B = sympy.symbols("r a b")
NAMES = ["r", "a", "b"]
SAMPLES = np.random.default_rng(0).uniform(0.5, 2.0, (50, 3))
LAW = 2.5 * A * (R - 1.25) * sympy.exp(-0.5 * R) / B**2 + sympy.log(A + 3) - sympy.sqrt(R)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("r", 1), ("2.5", 1), ("a + b", 3), ("a - b", 3), ("a * b", 3), ("a / b", 3),
        ("2.0 * a", 3), ("-a", 2), ("a**2", 3), ("1 / r", 3), ("a * b / r", 5), ("1 / (a * b)", 5),
        ("a / r**2", 5), ("exp(r)", 2), ("exp(-r)", 3), ("sqrt(r)", 2), ("2.0 * r - 1.98", 5),
        ("1.5 * a**-2", 5), ("Heaviside(r - 1)", 4), ("a**1.5", 3), ("1 / sqrt(r)", 4),
        ("a * b * (r + 1) * exp(-r)", 11), ("-a * (r + 1)", 5), ("-a - b", 4), ("a + b + r", 5),
    ],
)  # fmt: skip
def test_complexity(text, size):
    assert complexity(sympy.sympify(text, locals={"r": R, "a": A, "b": B})) == size


def test_to_jax_agrees_with_numpy_under_jit_and_vmap():
    with jax.enable_x64(True):
        function, values = to_jax(LAW, NAMES)
        expected = to_numpy(LAW, NAMES)(SAMPLES)
        assert len(values) == len(constants(LAW)) == 3
        np.testing.assert_allclose(function(values, SAMPLES), expected, rtol=1e-12)
        np.testing.assert_allclose(jax.jit(function)(values, SAMPLES), expected, rtol=1e-12)
        mapped = jax.vmap(function, in_axes=(None, 0))(values, SAMPLES)
        np.testing.assert_allclose(mapped, expected, rtol=1e-12)


def test_constants_are_trainable():
    with jax.enable_x64(True):
        function, values = to_jax(LAW, NAMES)
        loss = lambda c: np.sum(1.0) * (function(c, SAMPLES) ** 2).sum()  # noqa: E731
        grads = jax.grad(loss)(values)
        for k in range(len(values)):
            h = 1e-6
            slope = (loss(values.at[k].add(h)) - loss(values.at[k].add(-h))) / (2 * h)
            np.testing.assert_allclose(grads[k], slope, rtol=1e-5)


def test_round_trip_with_other_constants():
    with jax.enable_x64(True):
        _, values = to_jax(LAW, NAMES)
        assert with_constants(LAW, values) == LAW
        changed = with_constants(LAW, values + 0.125)
        function, new = to_jax(changed, NAMES)
        np.testing.assert_allclose(np.sort(new), np.sort(values + 0.125))
        np.testing.assert_allclose(
            function(new, SAMPLES), to_numpy(changed, NAMES)(SAMPLES), rtol=1e-12
        )
    with pytest.raises(ValueError, match="has 3 constants, got 2"):
        with_constants(LAW, values[:2])


def test_constant_expressions_fill_the_shape():
    function, values = to_jax(sympy.Float(2.5), NAMES)
    assert function(values, SAMPLES).shape == (50,)
    assert to_numpy(sympy.Integer(3), NAMES)(SAMPLES).shape == (50,)


def test_complex_values_are_not_numbers():
    value = to_numpy(R * sympy.sqrt(-2.0) + R, NAMES)(SAMPLES)
    assert np.all(np.isnan(value))


def test_conditions_become_steps():
    heaviside: Any = sympy.Heaviside
    x, y = sympy.symbols("x y")
    condition = [x > y, x < y, x >= 0.5, x <= 0.5, (x > 0) | (y > 0), (x > 0) & (y > 0)]
    condition += [sympy.Not((x > 0) & (y > 0), evaluate=False), x > 2.0]
    samples = np.random.default_rng(0).normal(size=(200, 2))
    # Where both sides are equal, conditions are what they say.
    samples[:50, 0], samples[50:60, 0], samples[60:70, 1] = samples[:50, 1], 0.5, 0.0
    for one in condition:
        pieces = sympy.Piecewise((2.0 * y - 1.98, one), (x, x > y), (0.0, True))
        steps = with_heaviside(sympy.exp(pieces))
        assert not steps.has(sympy.Piecewise)
        expected = to_numpy(sympy.exp(pieces), ["x", "y"])(samples)
        np.testing.assert_allclose(to_numpy(steps, ["x", "y"])(samples), expected)
        function, parameters = to_jax(steps, ["x", "y"])
        # float32.
        np.testing.assert_allclose(function(parameters, samples), expected, rtol=1e-5)
    step = sympy.Piecewise((1.0, x > 2.0), (0.0, True))
    assert with_heaviside(step * y) == y * heaviside(x - 2.0, 0)
    assert with_heaviside(x > 2.0) == heaviside(x - 2.0, 0)


def test_every_function_is_the_same_in_jax():
    samples = np.linspace(0.1, 0.9, 9)[:, None]
    for head in FUNCTIONS:
        law = head(R + 1) if head is sympy.acosh else head(R)
        with jax.enable_x64(True):
            function, values = to_jax(law, ["r"])
            expected = to_numpy(law, ["r"])(samples)
            # JAX's special functions are good to some 1e-10.
            np.testing.assert_allclose(function(values, samples), expected, rtol=1e-9)
    assert unknown_functions(sympy.gamma(R) * sympy.exp(R)) == ["gamma"]


def test_numpy_takes_what_jax_does_not():
    np.testing.assert_allclose(
        to_numpy(sympy.gamma(R) + A, NAMES)(SAMPLES), special.gamma(SAMPLES[:, 0]) + SAMPLES[:, 1]
    )


def test_evaluate_takes_any_shape():
    columns = {"r": np.arange(6.0).reshape(2, 3), "a": np.ones((2, 3))}
    np.testing.assert_array_equal(evaluate(2 * R - A, columns), 2 * columns["r"] - 1)


def test_equivalent():
    assert equivalent((R + A) ** 2, R**2 + 2 * R * A + A**2, NAMES, SAMPLES)
    assert not equivalent(R**2, R**2.01, NAMES, SAMPLES)


def test_equal_constants_share_a_slot():
    first, second = 2.5 * R + 1.25, sympy.exp(2.5 * A)
    free, slots, old = with_slots([first, second])
    assert len(slots) == len(old) == 2
    (shared,) = free[0].free_symbols & free[1].free_symbols
    new = dict(zip(map(sympy.Symbol, slots), old, strict=True))
    assert [one.xreplace(new) for one in free] == [first, second]
    assert shared.name in slots and new[shared] == 2.5


def test_rounded():
    assert rounded(sympy.Float(-0.000123456)) == sympy.Float(-0.0001235)
    assert rounded(1.23456 * R, 2) == sympy.Float(1.2) * R
    assert rounded(123 * R) == 123 * R
    assert str(rounded(1.23456789 * R)) == "1.235*r"


def test_bad_expressions():
    with pytest.raises(ValueError, match=r"variables \['z'\]"):
        to_jax(sympy.Symbol("z") + R, NAMES)
    with pytest.raises(ValueError, match=r"variables \['z'\], not among \['r', 'a', 'b'\]"):
        to_numpy(sympy.Symbol("z") + R, NAMES)
    with pytest.raises(ValueError, match=r"variables \['z'\]"):
        evaluate(sympy.Symbol("z") + R, {"r": SAMPLES[:, 0]})
    with pytest.raises(ValueError, match="gamma in .* has no JAX counterpart"):
        to_jax(sympy.gamma(R), NAMES)
