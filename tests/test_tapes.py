"""Expressions as tapes: values against SymPy's own printer, slopes against differences."""

import numpy as np
import pytest
import sympy

from symjax_gn.laws.tapes import FUNCTIONS, Tape, derivative

R, A, C, D = sympy.symbols("r a c d")
RNG = np.random.default_rng(0)
COLUMNS = {"r": RNG.uniform(0.2, 0.9, 40), "a": RNG.uniform(1.1, 2.0, 40)}

LAWS = [
    C * R,
    C - R * D,
    R / C - D / R,
    C * R**2 + D * A**3 / R**4,
    R**C * D,
    (C * R) ** D,
    sympy.sqrt(C * R + D),
    1 / sympy.sqrt(C + R),
    (C + R) ** sympy.Rational(-3, 2),
    (C + R) ** -7,
    (C + R) ** 21,
    C**R,
    sympy.exp(-C * R) / (R + D) * A,
    A * sympy.exp(-sympy.exp(C * R)) * D,
    sympy.Abs(C * R - D) + sympy.sign(R - C),
    sympy.Heaviside(R - C) * D * R,
    sympy.floor(C * R) + sympy.ceiling(A) * D,
    sympy.pi * C + sympy.E * D + sympy.Rational(1, 3),
    sympy.Max(C * R, D) + C,
    C + 0 * R,
]


def differences(bound, values):
    """Slopes [sample, slot] by central differences."""
    columns = []
    for k in range(len(values)):
        step = 1e-6 * np.eye(len(values))[k]
        (above,), (below,) = bound.values(values + step), bound.values(values - step)
        columns.append((above - below) / 2e-6)
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_values_and_slopes(law):
    bound = Tape([law], list(COLUMNS), ["c", "d"]).bind(list(COLUMNS.values()))
    values = np.array([1.3, 0.7])
    exact = sympy.lambdify([R, A, C, D], law, ["numpy", "scipy"])(*COLUMNS.values(), *values)
    (found,) = bound.values(values)
    assert found.shape == (40,) and found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=1e-13)
    (slopes,) = bound.slopes(values)
    # Central differences of step 1e-6 err by 1e-10 times the curvature.
    np.testing.assert_allclose(slopes, differences(bound, values), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("head", FUNCTIONS)
def test_every_function_has_its_slope(head):
    argument = C * R + 1 if head is sympy.acosh else C * R
    bound = Tape([head(argument)], ["r"], ["c"]).bind([COLUMNS["r"]])
    values = np.array([0.8])
    (slopes,) = bound.slopes(values)
    np.testing.assert_allclose(slopes, differences(bound, values), rtol=1e-6, atol=1e-7)


def test_constants_are_slots_too():
    law = 2.5 * R**1.5 - sympy.Float(0.5) * A + 2 * R
    slots = [sympy.Float(value) for value in (2.5, 1.5, -0.5)]
    bound = Tape([law], ["r", "a"], slots).bind(list(COLUMNS.values()))
    r, a = COLUMNS.values()
    (found,) = bound.values([3.0, 2.0, 1.0])
    np.testing.assert_allclose(found, 3 * r**2 + a + 2 * r)
    (slopes,) = bound.slopes([3.0, 2.0, 1.0])
    np.testing.assert_allclose(slopes, np.stack([r**2, 3 * r**2 * np.log(r), a], axis=-1))


def test_constants_within_unknown_functions_are_slots():
    bound = Tape([sympy.gamma(2.5 * R)], ["r"], [sympy.Float(2.5)]).bind([COLUMNS["r"]])
    (slopes,) = bound.slopes([1.5])
    np.testing.assert_allclose(slopes, differences(bound, np.array([1.5])), rtol=1e-6)


def test_several_expressions_share_one_tape():
    bound = Tape([C * R, C * R + D], ["r"], ["c", "d"]).bind([COLUMNS["r"]])
    first, second = bound.values([2.0, 3.0])
    np.testing.assert_allclose(second - first, 3.0)
    first, second = bound.slopes([2.0, 3.0])
    np.testing.assert_allclose(first[:, 1], 0.0)
    np.testing.assert_allclose(second, np.stack([COLUMNS["r"], np.ones(40)], axis=-1))


def test_slopes_at_zero_are_finite():
    bound = Tape([R**C], ["r"], ["c"]).bind([np.zeros(3)])
    np.testing.assert_array_equal(bound.slopes([1.5])[0], np.zeros((3, 1)))


def test_any_shape_and_no_warning():
    bound = Tape([1 / R + sympy.log(R) * C], ["r"], ["c"]).bind(
        [np.array([[0.0, 1.0], [-1.0, 2.0]])]
    )
    (found,) = bound.values([1.0])
    assert found.shape == (2, 2) and bound.slopes([1.0])[0].shape == (2, 2, 1)
    assert np.isfinite(found[0, 1]) and np.isnan(found[1, 0])


def test_complex_values_are_not_numbers():
    (found,) = Tape([sympy.I * R], ["r"]).bind([np.array([0.0, 1.0])]).values(())
    np.testing.assert_array_equal(found, [0.0, np.nan])


def test_slopes_of_sizes_and_steps():
    """|x|^p has a slope on both sides of 0; a step none where it has one."""
    x, slot = sympy.symbols("x c")
    law = sympy.Abs(x - slot) ** 1.5 + sympy.Heaviside(x - slot) * x
    tape = Tape([derivative(law, x)], ["x"], ["c"])
    places = np.array([-1.0, 0.2, 2.0])
    (found,) = tape.bind([places]).values(np.array([0.5]))
    wanted = 1.5 * np.abs(places - 0.5) ** 0.5 * np.sign(places - 0.5) + (places > 0.5)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    (slope,) = tape.bind([places]).slopes(np.array([0.5]))
    # Derivative by the constant: minus the second derivative, 0.75 |x - c|^-0.5.
    np.testing.assert_allclose(slope[:, 0], -0.75 * np.abs(places - 0.5) ** -0.5, rtol=1e-12)
