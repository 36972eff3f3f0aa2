import numpy as np
import pytest

from symjax_gn.laws.fitting import fit_constants, fit_in_stages, standard_errors

X = np.linspace(0.5, 3.0, 200)
NOISE = np.random.default_rng(0).normal(size=200)


def decay(c):
    return c[0] * np.exp(-c[1] * X)


def decay_slopes(c):
    return np.stack([np.exp(-c[1] * X), -c[0] * X * np.exp(-c[1] * X)], axis=-1)


TRUE = np.array([2.0, 0.7])


@pytest.mark.parametrize("slopes", [None, decay_slopes])
@pytest.mark.parametrize("start", [(1.0, 0.2), (3.5, 1.5), (-1.0, 0.5)])
def test_constants_are_found(slopes, start):
    found = fit_constants(
        lambda c: decay(c) - decay(TRUE), np.array(start), np.ones(2), slopes=slopes, steps=60
    )
    # Differences of step 1e-7 are good to about as much.
    np.testing.assert_allclose(found, TRUE, rtol=1e-6)


def test_constants_of_very_different_sizes():
    size = np.array([1e30, 1e-12])
    found = fit_constants(
        lambda c: decay(c / size) - decay(TRUE), 0.8 * TRUE * size, size, steps=60
    )
    np.testing.assert_allclose(found, TRUE * size, rtol=1e-6)


def test_outliers_count_less():
    outliers = np.where(np.arange(200) % 20 == 0, 50.0, 0.0)

    def residual(c):
        return (decay(c) - decay(TRUE) - outliers) / 0.01

    found = fit_constants(residual, 0.9 * TRUE, np.ones(2), steps=100)
    # Least squares would be off by 100%: one sample in twenty is 50 too high.
    np.testing.assert_allclose(found, TRUE, rtol=0.02)


def test_the_scale_parts_small_errors_from_large_ones():
    """Of a constant, small errors give the mean and large ones the median."""
    values = np.array([0.0, 0.0, 0.0, 1.0, 4.0])

    def centre(scale):
        options = dict(f_scale=scale, steps=200, tolerance=1e-14)
        return fit_constants(lambda c: c - values, np.array([0.5]), np.ones(1), **options)[0]

    assert centre(1e3) == pytest.approx(1.0, abs=1e-3)
    assert abs(centre(1e-3)) < 0.01


def test_what_is_not_finite_is_bounded():
    def residual(c):
        with np.errstate(all="ignore"):
            return np.where(c[0] > 3, np.nan, np.log(c[0]) * X)

    found = fit_constants(residual, np.array([2.5]), np.ones(1), most=1e3, steps=60)
    assert found == pytest.approx(1.0, abs=1e-6)
    # All bad at the start: nothing is known, and nothing changes.
    kept = fit_constants(lambda c: np.full(5, np.nan), np.array([2.0]), np.ones(1))
    assert kept == 2.0


def test_what_cannot_be_told_apart_is_no_error():
    found = fit_constants(lambda c: (c[0] + c[1]) * X - X, np.array([0.2, 0.2]), np.ones(2))
    assert np.sum(found) == pytest.approx(1.0)


def test_the_number_of_evaluations_is_limited():
    count = []

    def residual(c):
        count.append(1)
        return decay(c) - decay(TRUE)

    fit_constants(residual, np.array([30.0, 9.0]), np.ones(2), slopes=decay_slopes, steps=7)
    assert len(count) <= 7


def test_nothing_gets_worse():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        start = rng.normal(size=2) * 3
        target = decay(TRUE) + 0.1 * NOISE

        def residual(c, target=target):
            return decay(c) - target

        def cost(c, residual=residual):
            return np.sum(np.sqrt(1 + residual(c) ** 2) - 1)

        with np.errstate(all="ignore"):
            assert cost(fit_constants(residual, start, np.ones(2))) <= cost(start)


def count_of(residual, start, **options):
    count = []

    def counted(c):
        count.append(1)
        return residual(c)

    fit_constants(counted, np.asarray(start), np.ones(len(start)), steps=1000, **options)
    return len(count)


@pytest.mark.parametrize("gap", [1e-4, 1e-6])
def test_small_errors_of_exact_data_vanish(gap):
    """Constants that hide each other, near the best ones: steps that are too far are no end."""
    x = np.linspace(100.0, 300.0, 74)

    def root(c):
        return c[0] * np.sqrt(x + c[1])

    def slopes(c):
        return np.stack([np.sqrt(x + c[1]), 0.5 * c[0] / np.sqrt(x + c[1])], axis=-1)

    true = np.array([1.1, 3.4])
    start = true * [1 + 1e-3 * gap, 1 - gap]
    options = (lambda c: root(c) - root(true), slopes, lambda e: np.mean(np.abs(e)))
    found, error = fit_in_stages(*options, start)
    assert error < 1e-11
    np.testing.assert_allclose(found, true, rtol=1e-9)


def test_a_fit_ends_when_there_is_nothing_to_gain():
    def noisy(c):
        return decay(c) - decay(TRUE) - 0.1 * NOISE

    # At the best constants there is no step to take.
    assert count_of(lambda c: (c - 2.0) * X, [2.0], slopes=lambda c: X[:, None]) <= 3
    # A derivative of the wrong sign leads nowhere; the damping ends that.
    assert count_of(lambda c: (c - 3.0) * X, [2.0], slopes=lambda c: -X[:, None]) <= 20
    coarse = count_of(noisy, [1.0, 0.2], slopes=decay_slopes, tolerance=1e-2)
    fine = count_of(noisy, [1.0, 0.2], slopes=decay_slopes, tolerance=1e-13)
    assert coarse < fine < 30


def test_laws_that_are_far_too_large_to_fit():
    """The squares of such errors overflow."""
    found = fit_constants(lambda c: 1e200 * c * X, np.array([2.0]), np.ones(1), f_scale=1e199)
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize("unit", [1.0, 1e-38, 1e25])
@pytest.mark.parametrize("start", [(0.7, 2.0), (0.9, 0.0)])
def test_constants_may_be_in_any_unit(unit, start):
    """Both are found, whatever their sizes, and where one has not begun to matter."""
    place = 1e11 * X
    size = unit * np.array([1.0, 1e-11])

    def law(c):
        return c[0] * np.exp(-X) + c[1] * place

    true = size * [1.2, 0.3]
    typical = np.sqrt(np.mean(law(true) ** 2))
    slopes = np.stack([np.exp(-X), place], axis=1) / typical
    found, error = fit_in_stages(
        lambda c: (law(c) - law(true)) / typical,
        lambda c: slopes,
        lambda residual: float(np.mean(np.abs(residual))),
        size * start,
    )
    np.testing.assert_allclose(found, true, rtol=1e-6)
    assert error < 1e-6


def test_spreads_of_constants_that_say_the_same_are_numbers():
    """Rounding must not leave squares below 0."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        nearly = 1 + 10.0 ** -rng.uniform(6, 16) * rng.normal(size=200)
        size = 10.0 ** rng.uniform(-9, 9)
        slopes = np.stack([X, X * nearly, size * X**2, X**2 * (1 + 1e-15 * NOISE)], axis=1)
        assert np.all(np.isfinite(standard_errors(1e-9 * NOISE, slopes)))
