import jax
import numpy as np
import pytest
import sympy

from symjax_gn.laws.expressions import (
    complexity,
    constants,
    equivalent,
    from_jax,
    rounded,
    to_jax,
    to_numpy,
    with_heaviside,
)

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
        assert from_jax(LAW, values) == LAW
        changed = from_jax(LAW, values + 0.125)
        function, new = to_jax(changed, NAMES)
        np.testing.assert_allclose(np.sort(new), np.sort(values + 0.125))
        np.testing.assert_allclose(
            function(new, SAMPLES), to_numpy(changed, NAMES)(SAMPLES), rtol=1e-12
        )
    with pytest.raises(ValueError, match="has 3 constants, got 2"):
        from_jax(LAW, values[:2])


def test_constant_expressions_fill_the_shape():
    function, values = to_jax(sympy.Float(2.5), NAMES)
    assert function(values, SAMPLES).shape == (50,)
    assert to_numpy(sympy.Integer(3), NAMES)(SAMPLES).shape == (50,)


def test_complex_values_are_not_numbers():
    value = to_numpy(R * sympy.sqrt(-2.0) + R, NAMES)(SAMPLES)
    assert np.all(np.isnan(value))


def test_conditions_become_steps():
    x, y = sympy.symbols("x y")
    condition = [x > y, x < y, x >= 0.5, x <= 0.5, (x > 0) | (y > 0), (x > 0) & (y > 0)]
    condition += [sympy.Not((x > 0) & (y > 0), evaluate=False), x > 2.0]
    samples = np.random.default_rng(0).normal(size=(200, 2))
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
    assert with_heaviside(step * y) == y * sympy.Heaviside(x - 2.0)
    assert with_heaviside(x > 2.0) == sympy.Heaviside(x - 2.0)


def test_equivalent():
    assert equivalent((R + A) ** 2, R**2 + 2 * R * A + A**2, NAMES, SAMPLES)
    assert not equivalent(R**2, R**2.01, NAMES, SAMPLES)


def test_rounded():
    assert str(rounded(1.23456789 * R)) == "1.235*r"


def test_bad_expressions():
    with pytest.raises(ValueError, match=r"variables \['z'\]"):
        to_jax(sympy.Symbol("z") + R, NAMES)
    with pytest.raises(ValueError, match="gamma in .* has no JAX counterpart"):
        to_jax(sympy.gamma(R), NAMES)
