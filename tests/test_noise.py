import jax.numpy as jnp
import numpy as np
import pytest
import sympy
from test_terms import LINE, MI, MJ, R, find, fitted, named, names, nearby, planted, prepared

from symjax_gn.discovery import noise
from symjax_gn.discovery.acceptance import is_coarse
from symjax_gn.discovery.fitter import Fits
from symjax_gn.laws.samples import SHARE, reweighted
from symjax_gn.physics.systems import System, sample_normal

SIZE = 0.05


def noisy(bodies, seed=0, size=SIZE):
    """Accelerations with noise of one size, a share of the typical one."""
    typical = np.median(np.linalg.norm(bodies.target, axis=1))
    gap = np.random.default_rng(seed).normal(size=bodies.target.shape)
    return bodies._replace(target=bodies.target + size * typical * gap)


@pytest.mark.parametrize(("grows", "share"), [(True, SHARE), (False, 100.0)])
def test_the_spread_of_errors_says_how_accelerations_are_weighted(grows, share):
    bodies, _ = planted([(named(LINE, MI * MJ), R)])
    length = np.linalg.norm(bodies.target, axis=1, keepdims=True)
    size = length + SHARE * np.median(length) if grows else np.median(length)
    gap = 0.02 * size * np.random.default_rng(0).normal(size=bodies.target.shape)
    found = noise.noise_share(bodies._replace(target=bodies.target + gap), bodies.target)
    assert found == pytest.approx(share, rel=0.3)
    assert noise.noise_share(bodies, bodies.target) == SHARE
    # A body of typical acceleration has the same weight, whatever the share.
    usual = np.argmin(np.abs(length[:, 0] - np.median(length)))
    weights = [reweighted(bodies, bodies.target, x).weight[usual] for x in (SHARE, 1.0, 100.0)]
    np.testing.assert_allclose(weights, weights[0], rtol=0.02)


def test_errors_that_finer_splines_lower_are_no_noise():
    exact = planted([(named(LINE, MI * MJ), 1 / (R + sympy.Float(0.05)))])
    assert is_coarse(fitted([named(LINE, MI * MJ)], *exact), Fits(*exact))
    shaken = [noisy(part) for part in exact]
    assert not is_coarse(fitted([named(LINE, MI * MJ)], *shaken), Fits(*shaken))


def _two(way, i, j):
    r = jnp.sqrt(jnp.sum(way**2) + 1e-12)
    return (i.mass * j.mass / (r + 0.3) - 0.05 * i.mass) * way / r


def test_a_term_that_is_smaller_than_noise_is_found():
    """Without noise, what lowers the error so little counts as nothing."""
    system = System("two", pair_force=_two, sample=sample_normal, dt=5e-3)
    parts = prepared(system, moments=40)
    train, valid = (noisy(part, k) for k, part in enumerate(parts))
    state = find(train, valid)
    assert names(state) == {("m_i*m_j", LINE), ("m_i", LINE)}
    assert fitted([named(LINE, MI * MJ)], train, valid).found.error < 1.5 * state.found.error


def test_noise_makes_no_terms():
    parts = planted([(named(LINE, MI * MJ), 1 / (R + sympy.Float(0.3)))])
    train, valid = (noisy(part, k) for k, part in enumerate(parts))
    assert names(find(train, valid)) == {("m_i*m_j", LINE)}


def test_the_simpler_of_two_terms_that_noise_makes_alike_is_taken():
    """Of a constant kernel, whatever its variable."""
    exact = planted([(named(LINE, MI * MJ), sympy.Integer(2))])
    train, valid = (noisy(part, k) for k, part in enumerate(exact))
    start = fitted([named(f"{LINE}, by r/(m_i + m_j)", MI * MJ)], train, valid)
    assert names(nearby(start, train, valid)) == {("m_i*m_j", LINE)}


def test_kernels_in_noise_are_as_fine_as_the_data_allow():
    """Near a power of the distance where the kernel is steep; and no finer than is needed."""
    powers = {}
    for name, kernel in (("steep", 1 / (R + sympy.Float(0.02)) ** 3), ("flat", R)):
        parts = planted([(named(LINE, MI * MJ), kernel)])
        train, valid = (noisy(part, k, 0.01) for k, part in enumerate(parts))
        first = fitted([named(LINE, MI * MJ)], train, valid)
        best = nearby(first, train, valid)
        assert best.found.error <= first.found.error
        gap = np.linalg.norm(valid.target - parts[1].target, axis=1)
        # All that is left is noise; what splines take from it is a share of 23 in some 4,000.
        assert best.found.error < 1.02 * np.mean(gap * valid.weight)
        powers[name] = best.law.shapes[0].power
    assert powers["steep"] < -2 and powers["flat"] == 0
