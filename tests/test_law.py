"""Laws on samples: their values, their derivatives, and fits of their numbers."""

import numpy as np
import pytest
import sympy
from scipy import sparse

from symjax_gn.laws.bound import Frame, bind
from symjax_gn.laws.law import Factor, Law, Term, sum_symbols, unchanged
from symjax_gn.laws.least_squares import fit_splines, mean_size, sizes
from symjax_gn.laws.samples import Samples
from symjax_gn.laws.shapes import Formula, Frozen, Spline, place_knots

R, DX, DY, MI, MJ, VI = sympy.symbols("r dx dy m_i m_j v_i")
E0, E1 = sum_symbols(2)
ONE = sympy.Integer(1)
UNIT = DX / R, DY / R
C = sympy.Float

OWNERS, SENT = 40, 6


def samples(dim=2, seed=0):
    """Bodies that each six others pull at, divided by their masses; no targets yet."""
    rng = np.random.default_rng(seed)
    dx, dy = rng.normal(size=(2, OWNERS * SENT))
    mass, speed = rng.uniform(0.5, 2.0, size=(2, OWNERS))
    elements = dict(dx=dx, dy=dy, r=np.hypot(dx, dy), m_j=rng.uniform(0.5, 2.0, OWNERS * SENT))
    sums = sparse.kron(sparse.identity(OWNERS), np.ones((1, SENT)), format="csr")
    rows = sparse.diags(1 / mass, format="csr")
    target = rng.normal(size=(OWNERS, dim))
    weight = rng.uniform(0.5, 1.0, OWNERS)
    elements["m_i"] = np.repeat(mass, SENT)
    owners = dict(m_i=mass, v_i=speed)
    return Samples(elements, owners, sums, rows, target, weight, np.arange(OWNERS))


def spline(x, seed=0, **options):
    knots = place_knots(np.log(x) if options.get("logarithmic") else x, 5)
    numbers = np.random.default_rng(seed).normal(size=len(knots) - 4)
    return Spline(knots, numbers, **options)


def formula(variable, expression):
    return Factor(variable, Formula(expression))


FORCES = Law(
    (
        Term(UNIT, (formula(R, C(1.3) * sympy.exp(-C(0.7) * R)), formula(MJ, R ** C(0.4)))),
        Term((MI * ONE, MJ * ONE), (formula(R, C(0.2) / (R + C(0.3))),)),
    ),
    (unchanged(2), Term((VI, -VI), (formula(VI, C(0.5) + C(0.1) * R),))),
)

SATURATING = Law(
    FORCES.message[:1],
    (
        Term(
            (E0, E1),
            (formula(sympy.sqrt(E0**2 + E1**2), C(0.9) / sympy.sqrt(1 + C(0.3) * R**2)),),
        ),
        Term((E0 * E1, VI * E0), (formula(E1, sympy.tanh(C(1.1) * R)), formula(VI, C(0.8) * R))),
    ),
)


def splines():
    """Products of splines, in a message and in an update."""
    data = samples()
    first = Term(
        UNIT,
        (
            Factor(R, spline(data.elements["r"], logarithmic=True, power=-0.5)),
            Factor(MJ, spline(data.elements["m_j"], 1)),
        ),
    )
    whole = sympy.sqrt(E0**2 + E1**2)
    last = Term((E0, E1), (Factor(whole, spline(np.linspace(0.0, 20.0, 50), 2)),))
    alone = Term(UNIT, (Factor(R, spline(data.elements["r"], 3)),))
    return Law((first, alone), (last, unchanged(2)))


LAWS = dict(forces=FORCES, saturating=SATURATING, splines=splines())


def test_forces_are_sums_over_senders_divided_by_masses():
    data = samples()
    one = data.elements
    size = 1.3 * np.exp(-0.7 * one["r"]) * one["m_j"] ** 0.4 / one["r"]
    other = 0.2 / (one["r"] + 0.3)
    each = np.stack([size * one["dx"] + one["m_i"] * other, size * one["dy"] + one["m_j"] * other])
    drag = (0.5 + 0.1 * data.owners["v_i"]) * data.owners["v_i"]
    expected = each.reshape(2, OWNERS, SENT).sum(axis=2) + np.stack([drag, -drag])
    law = bind(FORCES, data)
    # Rounding of sums of ten numbers.
    near = dict(rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(law.predict(law.start), (expected / data.owners["m_i"]).T, **near)
    left = ((expected / data.owners["m_i"]).T - data.target) * data.weight[:, None]
    np.testing.assert_allclose(law.errors(law.start), left, **near)


def test_an_update_is_a_function_of_the_length_of_a_sum():
    """F / sqrt(1 + F^2), which no sum of forces of pairs is."""
    data = samples()
    length = sympy.sqrt(E0**2 + E1**2)
    limited = Term((E0, E1), (formula(length, 1 / sympy.sqrt(1 + R**2)),))
    plain, law = (Law(FORCES.message, (one,)) for one in (unchanged(2), limited))
    force = bind(plain, data)
    force = force.sums(force.start)
    expected = force / np.sqrt(1 + np.sum(force**2, axis=1, keepdims=True))
    found = bind(law, data)
    found = found.predict(found.start) * data.owners["m_i"][:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_slopes_are_those_of_differences(name):
    law = bind(LAWS[name], samples())
    start = law.start
    slopes = law.slopes(start)
    assert slopes.shape == (OWNERS, 2, len(start))
    for k in range(len(start)):
        step = 1e-6 * np.eye(len(start))[k]
        numeric = (law.errors(start + step) - law.errors(start - step)) / 2e-6
        # Errors of differences are 1e-6 squared, and rounding over 1e-6.
        np.testing.assert_allclose(slopes[..., k], numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("power", [0.0, -1.5])
def test_slopes_of_splines_by_their_variable(logarithmic, power):
    x = np.linspace(0.5, 3.0, 60)
    one = spline(x, logarithmic=logarithmic, power=power)
    numeric = (one.values(x + 1e-6) - one.values(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(one.slopes(x)[1:-1], numeric[1:-1], rtol=1e-6, atol=1e-6)
    far = np.array([9.0])
    np.testing.assert_allclose(one.values(far) / far**power, one.values(x[-1:]) / 3.0**power)


def test_splines_of_what_has_no_value_have_none():
    """E.g. of sums of a formula that has none for one element."""
    x = np.linspace(0.5, 3.0, 60)
    one, two = spline(x), spline(x, logarithmic=True, power=1.0)
    for shape in (one, two):
        found = shape.values(np.array([1.0, np.nan, 2.0]))
        np.testing.assert_array_equal(np.isnan(found), [False, True, False])
        np.testing.assert_allclose(found[::2], shape.values(np.array([1.0, 2.0])))


@pytest.mark.parametrize("name", LAWS)
def test_one_factor_alone_is_as_among_all(name):
    law, data = LAWS[name], samples()
    frozen = [Frozen(one) for one in law.shapes]
    for k, shape in enumerate(law.shapes):
        whole = Frame(law, data).bind([*frozen[:k], shape, *frozen[k + 1 :]])
        frame, known = Frame(law, data).only(law.shapes, k)
        alone = frame.bind([shape if one is None else one for one in known])
        np.testing.assert_allclose(alone.errors(alone.start), whole.errors(whole.start))
        near = dict(rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(alone.slopes(alone.start), whole.slopes(whole.start), **near)


def test_a_law_may_have_no_messages():
    data = samples()
    law = bind(Law((), FORCES.update), data)
    drag = (0.5 + 0.1 * data.owners["v_i"]) * data.owners["v_i"] / data.owners["m_i"]
    np.testing.assert_allclose(law.predict(law.start), np.stack([drag, -drag], axis=1))
    assert law.sums(law.start).shape == (OWNERS, 2) and law.slopes(law.start).shape[-1] == 2


def test_equal_constants_are_one_number():
    law = Law(
        (Term((ONE,), (formula(R, C(2.5) * R),)),), (Term((E0,), (formula(E0, C(2.5) + R),)),)
    )
    one = bind(law, samples(1))
    assert one.start.tolist() == [2.5]
    assert [str(shape.expression) for shape in law.with_numbers(np.array([3.0])).shapes] == [
        "3.0*r",
        "r + 3.0",
    ]


def test_a_linear_law_is_fitted_exactly():
    data, truth = samples(), splines()
    linear = Law(truth.message[1:], (unchanged(2),))
    whole = bind(linear, data)
    data = data._replace(target=whole.predict(whole.start))
    found = fit_splines(bind(linear, data), 0 * whole.start)
    np.testing.assert_allclose(found, whole.start, rtol=1e-6, atol=1e-6)


def test_products_of_splines_are_fitted_together():
    """A sum within a function of its length, from numbers that are a fifth off."""
    data, truth = samples(), LAWS["splines"]
    whole = bind(truth, data)
    data = data._replace(target=whole.predict(whole.start))
    off = whole.start * (1 + 0.2 * np.random.default_rng(0).normal(size=len(whole.start)))
    again = bind(truth, data)
    before, after = (mean_size(again.errors(x)) for x in (off, fit_splines(again, off)))
    assert after < 1e-3 * before


def test_errors_that_are_no_numbers_are_infinite():
    assert sizes(np.array([[3.0, 4.0], [np.nan, 1.0]])).tolist() == [5.0, np.inf]
    assert mean_size(np.array([[3.0, 4.0], [np.inf, 1.0]])) == np.inf


def test_nothing_is_said_where_there_is_no_direction():
    """Bodies at one place push each other nowhere."""
    data = samples()
    elements = {name: x.copy() for name, x in data.elements.items()}
    for name in ("dx", "dy", "r"):
        elements[name][:SENT] = 0.0
    law = Law((Term(UNIT, (formula(R, C(1.0) + R),)),), (unchanged(2),))
    one = bind(law, data._replace(elements=elements))
    assert not np.any(one.predict(one.start)[0]) and np.all(one.predict(one.start)[1:])


def test_numbers_of_several_formulas_make_plain_ones():
    m = sympy.Symbol("m_j")
    factors = Factor(R, Formula(0.3 / (R + 1))), Factor(m, Formula(R / 0.3 / (R + 2)))
    assert str(Term((R,), factors).size()) == "m_j/((m_j + 2)*(r + 1))"
    near = (Factor(R, Formula(1.000001 / (R + 1))),)
    assert "1.000001" in str(Term((R,), near).size())
