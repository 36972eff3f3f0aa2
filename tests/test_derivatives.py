"""Derivatives of recordings against motions whose derivatives are known."""

import numpy as np
import pytest

from symjax_gn.data import derivatives
from symjax_gn.data.derivatives import differentiate
from symjax_gn.data.quantities import VELOCITY
from symjax_gn.data.smoothing import smooth
from symjax_gn.data.space import Space
from symjax_gn.data.trajectories import remarks, trajectory_from_arrays

RATE = 2 * np.pi


def waves(time, bodies=6, axes=2, seed=0):
    """Bodies `[1, time, node, axis]` on x = sin(2 pi t + phase); the first phase is 0.3."""
    phase = np.random.default_rng(seed).uniform(0, 6, (bodies, axes))
    phase[0, 0] = 0.3
    return np.sin(RATE * time[:, None, None] + phase)[None]


def noisy(position, share, seed=1):
    noise = np.random.default_rng(seed).normal(size=position.shape)
    return position + share * np.std(position) * noise


def slope(found, true):
    """Of derived on true values where they are derived."""
    told = np.isfinite(found)
    return np.sum(found[told] * true[told]) / np.sum(true[told] ** 2)


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01, 0.05])
@pytest.mark.parametrize("per_period", [6, 8, 10])
@pytest.mark.parametrize("periods", [10, 100])
def test_coarse_waves_keep_their_acceleration(periods, per_period, noise):
    time = np.arange(periods * per_period) / per_period
    position = waves(time, bodies=2)
    found = differentiate(time, noisy(position, noise), 2)
    # 0.002 to 0.01 where the minimum of cross-validation is missed.
    assert slope(found.second, -(RATE**2) * position) == pytest.approx(1, abs=0.05)
    # Two bodies tell noise to a factor; at 6 outputs a period splines leave 3% of themselves.
    assert noise / 3 <= found.noise < 1.5 * noise + 0.03


def test_no_short_noisy_series_is_taken_for_exact():
    """Plain cross-validation interpolates some of these, with errors of 40% and more."""
    time = np.arange(100) / 10
    position = waves(time, bodies=60, axes=1)
    second = differentiate(time, noisy(position, 0.05), 2).second
    error = np.nanstd(second + RATE**2 * position, axis=1) / np.std(RATE**2 * position)
    assert np.max(error) < 0.25 and np.median(error) < 0.1


def test_exact_waves_at_16_outputs_a_period():
    time = np.arange(320) / 16
    position = waves(time)
    second = differentiate(time, position, 2).second
    # A cubic spline errs by 1.3%.
    assert slope(second, -(RATE**2) * position) == pytest.approx(1, abs=1e-3)
    error = np.abs(second + RATE**2 * position)[np.isfinite(second)]
    assert np.max(error) < 1e-3 * RATE**2


@pytest.mark.parametrize("per_period", [2.2, 3])
def test_recordings_that_are_too_coarse_are_refused(per_period):
    time = np.arange(200) / per_period
    message = rf"1 of 1 recordings .* about {per_period} outputs a period where 6 are needed"
    with pytest.raises(ValueError, match=message):
        trajectory_from_arrays(time, waves(time))


def kepler(time, eccentricity):
    """Position and acceleration `[time, 2]` of a body with period 1 about the origin."""
    mean = anomaly = RATE * time
    for _ in range(100):
        slip = anomaly - eccentricity * np.sin(anomaly) - mean
        anomaly = anomaly - slip / (1 - eccentricity * np.cos(anomaly))
    minor = np.sqrt(1 - eccentricity**2)
    position = np.stack([np.cos(anomaly) - eccentricity, minor * np.sin(anomaly)], axis=-1)
    distance = np.linalg.norm(position, axis=-1, keepdims=True)
    return position, -(RATE**2) * position / distance**3


def orbits(time, eccentricity):
    pairs = [kepler(time + start, eccentricity) for start in (0.1, 0.35, 0.6)]
    return tuple(np.stack(x, axis=1)[None] for x in zip(*pairs, strict=True))


def damped(time):
    wave = np.exp((-0.3 + 1j * RATE) * time[:, None, None] + 1j * np.arange(3)[:, None])
    return wave.real[None], ((-0.3 + 1j * RATE) ** 2 * wave).real[None]


def chirp(time):
    phase = (RATE * (0.2 * time + 0.1 * time**2))[:, None, None] + np.arange(3)[:, None]
    rate = (RATE * (0.2 + 0.2 * time))[:, None, None]
    return np.sin(phase)[None], (0.2 * RATE * np.cos(phase) - rate**2 * np.sin(phase))[None]


def unequal(time):
    """The same moments, some of them late or early by a third of a step."""
    late = np.random.default_rng(5).uniform(-1 / 3, 1 / 3, len(time))
    return time + late * (time[1] - time[0])


EVEN = np.arange(400) / 40


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01])
@pytest.mark.parametrize(
    ("motion", "time"),
    [
        (lambda t: orbits(t, 0.3), EVEN),
        (damped, EVEN),
        (chirp, EVEN),
        (damped, unequal(EVEN)),
        (lambda t: orbits(t, 0.3), np.sort(np.random.default_rng(2).uniform(0, 10, 600))),
    ],
    ids=["ellipse", "damped", "chirp", "unequal steps", "random times"],
)
def test_other_motions(motion, time, noise):
    position, acceleration = motion(time)
    found = differentiate(time, noisy(position, noise), 2)
    assert slope(found.second, acceleration) == pytest.approx(1, abs=0.02)
    told = np.isfinite(found.second)
    error = np.std((found.second - acceleration)[told]) / np.std(acceleration[told])
    # Splines blur what is shorter than the noise allows: 1%, 3% and 8% as measured.
    assert error < {0.0: 0.02, 0.001: 0.06, 0.01: 0.15}[noise]
    assert found.noise == pytest.approx(noise, rel=0.2, abs=1e-3)


def test_an_encounter_between_two_outputs_is_refused():
    """At eccentricity 0.9 the nearest part of 40 outputs a period lasts for half an output."""
    time = np.arange(200) / 40
    with pytest.raises(ValueError, match=r"too coarse or too noisy for second derivatives"):
        differentiate(time, orbits(time, 0.9)[0], 2)


def test_slow_motion_has_knots_that_are_far_apart():
    """4,000 outputs a period: no smoothness at which float64 can solve is enough."""
    time = np.arange(8000) / 4000
    position = waves(time, bodies=1, axes=1)
    found = smooth(time, noisy(position, 0.05)[0])
    error = (found.derivatives[1] + RATE**2 * position[0])[400:-400]
    # 3% is what averages over hundreds of outputs leave.
    assert np.std(error) < 0.1 * np.std(RATE**2 * position)


def test_a_line_has_no_acceleration():
    time = np.linspace(3, 5, 60)
    path = np.array([1.0, -2.0]) * time[:, None, None] + np.arange(3)[:, None]
    found = differentiate(time, path[None], 2)
    told = np.isfinite(found.second)
    assert np.max(np.abs(found.second[told])) < 1e-9
    np.testing.assert_allclose(found.first[0, 10, 0], [1.0, -2.0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_short_line_is_not_too_coarse(seed):
    """Its second derivative is rounding, of which splines keep little when they are repeated."""
    rng = np.random.default_rng(seed)
    time, (start, rate) = np.linspace(0, 5, 12), rng.normal(size=(2, 3, 1, 2, 2))
    found = differentiate(time, start + rate * time[:, None, None], 2)
    # Rounding of positions of size 10, twice divided by steps of 0.5.
    assert np.nanmax(np.abs(found.second)) < 1e-13


def test_bodies_that_turn_have_accelerations_that_turn():
    time = np.arange(100) / 10
    position = noisy(waves(time), 0.01)
    turned = position @ np.array([[0.6, -0.8], [0.8, 0.6]])
    one, two = (differentiate(time, x, 2).second for x in (position, turned))
    told = np.isfinite(two)
    # Smoothness is one of 171 and could round the other way.
    np.testing.assert_allclose(
        two[told], (one @ np.array([[0.6, -0.8], [0.8, 0.6]]))[told], atol=0.01 * RATE**2
    )


def test_gaps_are_not_bridged_where_motion_is_lost():
    time = np.arange(200) / 8
    position = waves(time, bodies=3)
    seen = position.copy()
    seen[0, [60, 61, 62], 1] = np.nan
    seen[0, 100:130, 2] = np.nan
    second = differentiate(time, seen, 2).second
    told = np.isfinite(second[0, ..., 0])
    assert not np.any(told[58:65, 1]) and told[57, 1] and told[65, 1]
    # Runs end at a gap of 10 outputs: 5% of each run are dropped, and 4 outputs at least.
    assert not np.any(told[95:134, 2]) and told[94, 2] and told[134, 2]
    assert np.all(told[10:-10, 0])
    error = np.abs(second + RATE**2 * position)[np.isfinite(second)]
    # 1.5% beside a margin at 8 outputs a period.
    assert np.max(error) < 0.03 * RATE**2


def test_where_motion_is_slow_short_gaps_do_not_matter():
    time = np.arange(200) / 40
    seen = waves(time, bodies=2)
    seen[0, 60:63, 1] = np.nan
    told = np.isfinite(differentiate(time, seen, 2).second[0, ..., 0])
    assert told[59, 1] and told[63, 1] and not np.any(told[60:63, 1])


def test_one_bad_recording_does_not_spoil_the_others():
    time = np.arange(100) / 10
    good = np.concatenate([waves(time, seed=k) for k in range(3)])
    noise = np.random.default_rng(0).normal(size=good[:1].shape)
    found = trajectory_from_arrays(time, np.concatenate([good, noise]))
    assert np.all(np.isfinite(found.target[:3]))
    assert np.all(np.isnan(found.target[3]))


def test_series_in_blocks_are_as_in_one(monkeypatch):
    time = np.arange(60) / 10
    position = noisy(waves(time, bodies=9), 0.01)
    whole = differentiate(time, position, 2)
    monkeypatch.setattr(derivatives, "_AT_ONCE", 120)
    np.testing.assert_allclose(differentiate(time, position, 2).second, whole.second, rtol=1e-9)


def test_first_order_motion_and_boxes():
    time = np.arange(200) / 20
    position = waves(time, bodies=3)
    wrapped = (position + 0.7) % 1.5
    for space, places in ((Space(), position), (Space((1.5, 1.5)), wrapped)):
        made = trajectory_from_arrays(time, places, quantity=VELOCITY, space=space)
        rate = RATE * np.sqrt(1 - waves(made.time, bodies=3) ** 2)
        np.testing.assert_allclose(np.abs(made.target), rate, atol=1e-2)


def test_what_was_differentiated_is_said_with_its_noise():
    time = np.arange(400) / 40
    made = trajectory_from_arrays(time, noisy(waves(time), 0.003))
    assert made.noise == pytest.approx(0.003, rel=0.1)
    assert remarks(made) == [
        "not in the data, so differentiated: velocity, acceleration; noise of positions about "
        "0.3% of their spread"
    ]
