import math

import numpy as np
import pytest
import sympy

from symjax_gn.data.building import make_dataset
from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.graphs import complete_edges, stack_graphs
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.trajectories import trajectory_from_arrays
from symjax_gn.discovery.residuals import (
    Residuals,
    Share,
    persistence,
    residuals_of,
    shared_by_bodies,
    shared_by_moments,
)
from symjax_gn.laws.symbolic import SymbolicModel

RECORDINGS, MOMENTS, BODIES = 6, 60, 4
SHAPE = RECORDINGS, MOMENTS, BODIES, 2


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def turning(period, phase=0.0):
    """Unit vectors `[sim, time, node, dim]` that go round once in so many outputs."""
    angle = 2 * np.pi * np.arange(MOMENTS)[None, :, None] / period + phase
    angle = np.broadcast_to(angle, SHAPE[:3])
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def phases(seed):
    """An angle for each body of each recording."""
    return np.random.default_rng(seed).uniform(0, 2 * np.pi, size=(RECORDINGS, 1, BODIES))


def noise(seed, shape=SHAPE):
    return np.broadcast_to(units(np.random.default_rng(seed).normal(size=shape)), SHAPE)


def rest(left, target=None, along=None, **changes):
    """Residuals of accelerations that turn once in 40 outputs, or other ones."""
    target = turning(40, phases(0)) if target is None else target
    along = np.sum(left * target, axis=-1, keepdims=True) if along is None else along
    flat = [x.reshape(-1, BODIES, x.shape[-1]) for x in (left, along, target)]
    recording = np.repeat(np.arange(RECORDINGS), MOMENTS)
    time = np.tile(0.1 * np.arange(MOMENTS), RECORDINGS)
    made = Residuals(*flat, np.ones(flat[0].shape[:2], bool), recording, time)
    return made._replace(**changes)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_told_by_anything(seed):
    """Four standard errors of a thousand cosines are 0.08: less could not be told from it."""
    made = rest(noise(seed))
    for look in (persistence, shared_by_moments, shared_by_bodies):
        share = look(made)
        assert share.found == 0 and 0.01 < share.told < 0.1


@pytest.mark.parametrize("period", [2, 4, 7, 25, 300])
def test_what_goes_on_or_swings_is_seen_whatever_its_period(period):
    """Beside as much noise, and with its own phase in each recording and body."""
    swings = units(turning(period, phases(1)) + noise(2))
    assert persistence(rest(swings)).found > 0.25
    assert shared_by_moments(rest(swings)).found == 0


def test_both_signs_count():
    """What changes sign from one output to the next shows at odd lags as at even ones."""
    flips = noise(3, (RECORDINGS, 1, BODIES, 2)) * (-1.0) ** np.arange(MOMENTS)[:, None, None]
    known = rest(flips)
    assert persistence(known).found > 0.9
    # Only every other output: nothing but odd lags is left once recordings are cut in pairs.
    pairs = known._replace(recording=np.arange(RECORDINGS * MOMENTS) // 2)
    assert persistence(pairs).found > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_noise_that_was_differentiated_twice_is_noise(seed):
    """Where recordings are dense; its cosines at lags of one and two are -2/3 and 1/6."""
    white = np.random.default_rng(seed).normal(size=(RECORDINGS, MOMENTS + 2, BODIES, 2))
    second = units(np.diff(white, 2, axis=1))
    assert persistence(rest(second)).found == 0
    # Where accelerations turn within a few outputs, the first lags are all there is.
    for period in (7, 14):
        assert persistence(rest(second, turning(period, phases(0)))).found > 0.3


def test_moments_that_are_far_apart_tell_nothing_of_what_goes_on():
    made = rest(noise(4), noise(5))
    assert "closer in time" in persistence(made)
    assert isinstance(shared_by_moments(made), Share)
    alone = made._replace(recording=np.arange(RECORDINGS * MOMENTS))
    assert "recordings" in persistence(alone) and "recordings" in shared_by_bodies(alone)
    assert "times" in shared_by_moments(made._replace(time=None))
    apart = made._replace(time=np.arange(RECORDINGS * MOMENTS) + 0.5)
    assert shared_by_moments(apart).told > shared_by_moments(made).told


def test_what_is_missing_changes_as_accelerations_do():
    """A cosine of 0.5 where that of accelerations is 0.5 as well is all of it."""
    turns = turning(6, phases(0))
    found = persistence(rest(turns, turns))
    assert found.found > 0.9
    slow = units(turning(300, phases(1)) + noise(2))
    assert 0.3 < persistence(rest(slow, turning(300))).found < 0.6


@pytest.mark.parametrize(
    ("look", "shape"),
    [
        (shared_by_moments, (1, MOMENTS, 1, 2)),
        (shared_by_bodies, (RECORDINGS, 1, BODIES, 2)),
    ],
)
def test_what_is_shared_is_seen(look, shape):
    """Common to all bodies and recordings at a moment, or to all moments of a body."""
    shared = noise(6, shape)
    assert look(rest(shared)).found > 0.9
    half = look(rest(units(shared + noise(7)))).found
    assert 0.2 < half < 0.7


def test_what_is_opposite_for_bodies_at_one_moment_is_shared():
    """As what two bodies do to each other: of four cosines with others two are -1, one is 1."""
    opposite = noise(6, (RECORDINGS, MOMENTS, 1, 2)) * np.array([1.0, -1.0, 1.0, -1.0])[:, None]
    moments = np.arange(RECORDINGS * MOMENTS) / 7
    found = shared_by_moments(rest(opposite)._replace(time=moments)).found
    # A mean of -1/3, less four standard errors of 360 x 12 pairs.
    assert found == pytest.approx(1 / 3 - 4 / math.sqrt(360 * 12), rel=1e-6)


def test_what_comes_and_goes_for_all_bodies_alike_does_not_go_on():
    """A camera that shakes: moments are independent of each other, bodies are not."""
    shaken = rest(noise(6, (RECORDINGS, MOMENTS, 1, 2)))
    assert persistence(shaken).found == 0
    assert persistence(shaken).told > 1.8 * persistence(rest(noise(6))).told
    assert shared_by_moments(shaken).found > 0.05


def test_what_is_shared_along_the_prediction_is_seen():
    """A strength that is wrong for a body, though directions are any."""
    sign = np.random.default_rng(8).choice([-1.0, 1.0], size=(RECORDINGS, 1, BODIES, 1))
    everywhere = noise(9)
    wrong = rest(everywhere, everywhere, along=np.broadcast_to(sign, (*SHAPE[:3], 1)))
    assert shared_by_bodies(wrong).found > 0.9
    assert shared_by_moments(wrong).found < 0.2


def test_what_is_not_known_does_not_count():
    """Of half of the bodies nothing is known; there are as many fewer cosines."""
    swings = turning(25, phases(1))
    known = np.ones((RECORDINGS * MOMENTS, BODIES), bool)
    known[:, ::2] = False
    whole, half = rest(noise(10)), rest(noise(10), known=known)
    assert persistence(half).told == pytest.approx(math.sqrt(2) * persistence(whole).told, rel=0.1)
    left = rest(swings).left.copy()
    left[:, ::2] = 0
    assert persistence(rest(swings, known=known)._replace(left=left)).found > 0.9
    # Of every other moment, by chance: a quarter of the pairs of moments are known.
    known = np.random.default_rng(11).random(known.shape) < 0.5
    left, target = (np.where(known[..., None], x, 0.0) for x in (whole.left, whole.target))
    some = whole._replace(known=known, left=left, target=target)
    assert persistence(some).told == pytest.approx(2 * persistence(whole).told, rel=0.15)


class Law:
    """Bodies that are drawn to the origin, in the user's units."""

    def predict(self, graphs):
        return -graphs.nodes.position


def recorded(seed, strength):
    """Two recordings of three moments; bodies are drawn with strengths of their own."""
    position = np.random.default_rng(seed).normal(size=(6, 3, 2))
    graphs = stack_graphs(Nodes(position, None, {}), *complete_edges(3))
    target = -np.array(strength)[:, None] * position
    return Dataset(graphs, target, None, np.repeat([4, 7], 3), time=np.tile([0.1, 0.2, 0.3], 2))


def test_residuals_are_what_is_left_of_targets():
    """Where bodies are drawn more strongly than the law says it points the same way."""
    found = residuals_of(Law(), recorded(0, [1.5, 0.5, 1.0]))
    np.testing.assert_allclose(found.along[:, :, 0], [[1.0, -1.0, 0.0]] * 6, atol=1e-12)
    assert found.known.tolist() == [[True, True, False]] * 6
    np.testing.assert_allclose(found.left[:, 0], found.target[:, 0])
    np.testing.assert_allclose(found.left[:, 1], -found.target[:, 1])


def test_where_a_law_has_no_value_nothing_is_left():
    class Broken(Law):
        def predict(self, graphs):
            return super().predict(graphs) * np.array([1.0, np.nan, 1.0])[:, None]

    found = residuals_of(Broken(), recorded(0, [1.5, 0.5, 2.0]))
    assert found.known.tolist() == [[True, False, True]] * 6
    for x in (found.left, found.along, found.target):
        assert np.all(x[:, 1] == 0) and np.all(np.isfinite(x))


def test_residuals_are_in_the_order_of_time_and_no_recording_is_in_two_data_sets():
    one, two = recorded(0, [1.5, 0.5, 2.0]), recorded(1, [1.5, 0.5, 2.0])
    whole = residuals_of(Law(), one, two)
    np.testing.assert_array_equal(whole.recording, np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(whole.time, np.tile([0.1, 0.2, 0.3], 4))
    mixed = residuals_of(Law(), take(one, np.array([4, 1, 0, 5, 2, 3])), two)
    for mine, other in zip(mixed, whole, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_bodies_that_come_and_go_are_not_mixed():
    """Each body is pulled its own way, and the first is not there at every second moment."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 40, 4, 2))
    pull = np.broadcast_to([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], x.shape)
    run = trajectory_from_arrays(np.arange(40.0), x, x, pull)
    x = x.copy()
    x[:, ::2, 0] = np.nan
    gone = trajectory_from_arrays(np.arange(40.0), x, x, pull, missing="body")
    still = SymbolicModel([sympy.Symbol("dx") * 0] * 2, list(sympy.symbols("e_0 e_1")))
    for one in (run, gone):
        left = residuals_of(still, make_dataset(one))
        # Each direction is always the same, less what may be chance.
        assert shared_by_bodies(left).found > 0.8
        assert persistence(left).found > 0.8
