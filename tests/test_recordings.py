"""What was not measured, what cannot belong together, and files that are not what they say."""

import io
import struct
import zipfile

import jax
import numpy as np
import pytest
import sympy

from symjax_gn.data.building import make_dataset
from symjax_gn.data.checks import as_floats
from symjax_gn.data.consistency import check_not_wrapped
from symjax_gn.data.graphs import chain_edges, edge_mask, node_mask
from symjax_gn.data.space import Space
from symjax_gn.data.splitting import split
from symjax_gn.data.trajectories import (
    load_trajectory,
    remarks,
    save_trajectory,
    trajectory_from_arrays,
)
from symjax_gn.data.units import measure_scales
from symjax_gn.discovery.certificate import certify
from symjax_gn.discovery.refitting import force_model
from symjax_gn.model import held_out_error
from symjax_gn.physics.simulation import simulate
from symjax_gn.physics.systems import SYSTEMS
from symjax_gn.pipeline import discover
from symjax_gn.settings import Settings

R, DX, DY = sympy.symbols("r dx dy")
SPRING = 2 * (R - 0.99)
NAN = float("nan")
TIME = np.linspace(0.0, 4.0, 80)


def circles(num_sims=3, num_nodes=4, dim=2, seed=0):
    """Position, velocity and acceleration `[sim, time, node, dim]` of waves of unlike rates."""
    rng = np.random.default_rng(seed)
    rate = rng.uniform(2, 4, (num_sims, 1, num_nodes, dim))
    phase = rate * TIME[:, None, None] + rng.uniform(0, 6, rate.shape)
    return np.sin(phase), rate * np.cos(phase), -(rate**2) * np.sin(phase)


def without(array, *places):
    """A copy with NaN at some places."""
    array = np.array(array)
    for place in places:
        array[place] = NAN
    return array


# What was not measured.


def test_a_moment_at_which_a_body_is_not_seen_gives_no_graph():
    x, v, a = circles()
    made = trajectory_from_arrays(TIME, without(x, (1, 5, 2), (1, 9, 0, 1), (2, 5, 3)), v, a)
    data = make_dataset(made)
    assert len(data) == 3 * 80 - 3 and data.mask is None
    moments = {(1, TIME[5]), (1, TIME[9]), (2, TIME[5])}
    here = set(zip(data.group.tolist(), data.time.tolist(), strict=True))
    assert not moments & here and (1, TIME[6]) in here
    graph = np.flatnonzero((data.group == 1) & (data.time == TIME[6]))[0]
    np.testing.assert_array_equal(data.nodes.position[graph], x[1, 6])
    assert remarks(made)[0].startswith("left out: 3 of 240 moments")


def test_unknown_accelerations_are_left_out_one_by_one():
    x, v, a = circles()
    data = make_dataset(trajectory_from_arrays(TIME, x, v, without(a, (0, 3, 1), (2, 79, 0, 0))))
    assert len(data) == 240
    assert np.argwhere(~data.mask).tolist() == [[3, 1], [239, 0]]
    assert np.all(np.isfinite(data.target))


def test_a_moment_at_which_a_velocity_is_unknown_gives_no_graph():
    """Others may feel it."""
    x, v, a = circles()
    data = make_dataset(trajectory_from_arrays(TIME, x, without(v, (0, 3, 1)), a))
    assert len(data) == 239 and TIME[3] not in data.time[data.group == 0]


def test_bodies_that_are_not_there_have_no_nodes():
    x, v, a = circles()
    gone = without(x, (0, slice(10, None), 1), (2, 4, 0))
    made = trajectory_from_arrays(TIME, gone, v, a, missing="body", mass=[1.0, 2.0, 3.0, 4.0])
    data = make_dataset(made)
    assert len(data) == 240
    real = np.asarray(node_mask(data.graphs))
    assert np.sum(real) == 240 * 4 - 71
    np.testing.assert_array_equal(data.graphs.n_edge[:, 0], real.sum(1) * (real.sum(1) - 1))
    one = 2 * 80 + 4
    np.testing.assert_array_equal(data.nodes.position[one][real[one]], x[2, 4, 1:])
    np.testing.assert_array_equal(data.nodes.mass[one][real[one]], [2.0, 3.0, 4.0])
    np.testing.assert_array_equal(data.target[one][real[one]], a[2, 4, 1:])
    # Edges join bodies that are there, within a distance or as they are given.
    near = make_dataset(made, cutoff=1.2)
    senders, receivers = (np.asarray(x)[10] for x in (near.graphs.senders, near.graphs.receivers))
    kept = np.asarray(edge_mask(near.graphs))[10]
    places = near.nodes.position[10]
    pairs = set(zip(senders[kept].tolist(), receivers[kept].tolist(), strict=True))
    distance = np.linalg.norm(places[:3, None] - places[None, :3], axis=-1)
    assert pairs == {(i, j) for i, j in np.argwhere(distance < 1.2).tolist() if i != j}
    chain = make_dataset(made, *chain_edges(4))
    # Without the second of four, the first is alone.
    assert (
        np.asarray(chain.graphs.n_edge)[10, 0] == 2 and np.asarray(chain.graphs.n_edge)[9, 0] == 6
    )


def test_laws_hold_on_data_with_holes():
    """What is missing must not count: neither in errors, units, nor the certificate."""
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, 40, 20, 4, 2))
    apart = x[:, :, None] - x[:, :, :, None]
    length = np.linalg.norm(apart, axis=-1, keepdims=True) + np.eye(4)[..., None]
    a = np.sum(2 * (length - 0.99) * apart / length, axis=3)
    time = np.arange(20.0)
    whole = make_dataset(trajectory_from_arrays(time, x, v, a))
    x[rng.random(x.shape[:3]) < 0.1] = NAN
    a[rng.random(x.shape[:3]) < 0.1] = NAN
    data = make_dataset(trajectory_from_arrays(time, x, v, a))
    # 0.9^4 of moments, and 0.9 of their accelerations; five standard deviations.
    assert len(data) == pytest.approx(800 * 0.9**4, abs=70)
    assert np.mean(data.mask) == pytest.approx(0.9, abs=0.035)
    true = force_model([SPRING * way / R for way in (DX, DY)], (sympy.Integer(0),) * 2, data)
    # float32.
    assert held_out_error(true, data)[0] < 1e-5
    # Medians of some 4,000 numbers.
    assert measure_scales(data).target == pytest.approx(measure_scales(whole).target, rel=0.1)
    found = certify(true, true, *split(jax.random.key(0), data)[1:])
    assert found.says == "believe"
    wrong = force_model(
        [0.95 * SPRING * way / R for way in (DX, DY)], (sympy.Integer(0),) * 2, data
    )
    assert certify(wrong, true, *split(jax.random.key(0), data)[1:]).says != "believe"


@pytest.mark.slow
def test_a_law_is_found_in_data_with_holes_and_bodies_that_come_and_go():
    four, three = (
        simulate(
            jax.random.key(n), SYSTEMS["spring"], num_nodes=n, num_simulations=60, num_outputs=20,
            dt=0.05,
        )
        for n in (4, 3)
    )  # fmt: skip

    def both(name):
        more = np.full((60, 20, 1, 2), NAN)
        parts = [getattr(four, name), np.concatenate([getattr(three, name), more], axis=2)]
        return np.array(np.concatenate(parts), float)

    target = both("target")
    target[np.random.default_rng(0).random(target.shape[:3]) < 0.1] = NAN
    mass = np.concatenate(
        [
            four.properties["mass"],
            np.pad(three.properties["mass"], [(0, 0), (0, 1)], constant_values=1),
        ]
    )
    made = trajectory_from_arrays(
        four.time, both("position"), both("velocity"), target, missing="body", mass=mass
    )
    settings = Settings(steps=400, form="auto")
    found = discover(jax.random.key(0), made, settings, system=SYSTEMS["spring"])
    assert found.verdict.says == "exact" and found.certificate.says == "believe"


def test_masks_are_missing_values():
    x, v, a = circles()
    hidden = np.zeros(x.shape, bool)
    hidden[1, 5, 2] = True
    whole = np.ma.masked_array(x, hidden)
    listed = [np.ma.masked_array(part, mask) for part, mask in zip(x, hidden, strict=True)]
    for position in (whole, listed, np.where(hidden, NAN, x)):
        made = trajectory_from_arrays(TIME, position, v, a)
        assert len(make_dataset(made)) == 239
    # Integers have no NaN, and what is masked may be anything.
    counted = np.ma.masked_equal(np.array([3, -999, 4]), -999)
    np.testing.assert_array_equal(as_floats("count", counted, missing=True), [3.0, NAN, 4.0])
    with pytest.raises(ValueError, match="charge has 1 masked"):
        trajectory_from_arrays(TIME, x, v, a, charge=np.ma.masked_array(np.ones(4), [0, 1, 0, 0]))
    with pytest.raises(ValueError, match=r"time has \d+ masked"):
        trajectory_from_arrays(np.ma.masked_array(TIME, TIME > 3), x, v, a)


def test_nothing_left_is_said():
    x, v, a = circles()
    with pytest.raises(ValueError, match="velocity is NaN everywhere"):
        trajectory_from_arrays(TIME, x, v * NAN, a)
    made = trajectory_from_arrays(TIME, without(x, (slice(None), slice(None), 1)), v, a)
    with pytest.raises(ValueError, match=r'At no moment .* missing="body"'):
        make_dataset(made)
    assert len(make_dataset(trajectory_from_arrays(TIME, made.position, v, a, missing="body")))
    few = without(x, (slice(None), slice(9, None)))
    with pytest.raises(ValueError, match="at least 10 outputs in time, got 9 of a body"):
        trajectory_from_arrays(TIME, few)
    with pytest.raises(ValueError, match="meaning of missing positions 'drop'"):
        trajectory_from_arrays(TIME, x, missing="drop")


@pytest.mark.parametrize("missing", ["moment", "body"])
def test_files_keep_what_is_missing(tmp_path, missing):
    x, _, _ = circles()
    made = trajectory_from_arrays(TIME, without(x, (1, 30, 2)), missing=missing, charge=np.ones(4))
    save_trajectory(tmp_path / "run.npz", made)
    back = load_trajectory(tmp_path / "run.npz")
    for name in ("position", "velocity", "target"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))
    same = ("missing", "noise", "derived", "quantity")
    assert [getattr(back, name) for name in same] == [getattr(made, name) for name in same]
    assert remarks(back) == remarks(made)


# What cannot belong together.


@pytest.mark.parametrize("factor", [3.6, -1.0, 1000.0, 1 / 86400])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_velocities_in_another_unit_are_refused(factor, noise):
    x, v, a = circles()
    x = x + noise * np.random.default_rng(1).normal(size=x.shape)
    trajectory_from_arrays(TIME, x, v, a)
    with pytest.raises(ValueError, match=r"velocity is (\S+) times what position says") as caught:
        trajectory_from_arrays(TIME, x, factor * v, a)
    said = float(str(caught.value).split()[2])
    # Sums in place of integrals, at 30 outputs a period.
    assert said == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize("given", [True, False])
def test_accelerations_in_another_unit_are_refused(given):
    x, v, a = circles()
    v = v if given else None
    trajectory_from_arrays(TIME, x, v, a)
    with pytest.raises(ValueError, match=r"acceleration is 9\.\d+ times what velocity says"):
        trajectory_from_arrays(TIME, x, v, 9.81 * a)


def test_one_recording_in_another_unit_is_refused():
    x, v, a = circles()
    v[1] *= -1
    with pytest.raises(ValueError, match=r"velocity is -\S+ times .*in 1 of 3 recordings"):
        trajectory_from_arrays(TIME, x, v, a)


def test_honest_rates_are_never_refused():
    """Coarse, noisy, with drift, in a box, or with gaps: nothing there says another unit."""
    rng = np.random.default_rng(3)
    x, v, a = circles(num_sims=20)
    for step in (1, 3, 7, 15, 31):
        for noise in (0.0, 0.1, 1.0):
            rough = [z[:, ::step] + noise * rng.normal(size=z[:, ::step].shape) for z in (x, v, a)]
            trajectory_from_arrays(TIME[::step], *rough)
    drift = 3 * rng.normal(size=(20, 1, 1, 2))
    trajectory_from_arrays(TIME, x + drift * TIME[:, None, None], v + drift, a)
    box = Space((1.5, 1.5))
    trajectory_from_arrays(TIME, x % 1.5, v, a, space=box)
    holes = rng.random(x.shape[:3]) < 0.2
    trajectory_from_arrays(TIME, np.where(holes[..., None], NAN, x), v, a)
    walk = rng.normal(size=x.shape).cumsum(axis=1)
    trajectory_from_arrays(TIME, walk, walk, walk)
    # One wave for all, so coarse that sums of rates are far too small, or have another sign.
    for per_period in (1.4, 2.2, 3, 4):
        phase = 2 * np.pi * np.arange(80) / per_period
        one = phase[:, None, None] + rng.uniform(0, 6, (4, 2))
        trajectory_from_arrays(phase, np.sin(one), np.cos(one), -np.sin(one))


def moving(speed, side=10.0, seed=0):
    """Bodies that go straight on, 100 outputs."""
    rng = np.random.default_rng(seed)
    steps = speed * side * rng.normal(size=(3, 1, 4, 2))
    return rng.uniform(0, side, (3, 1, 4, 2)) + steps * np.arange(100)[:, None, None]


def walking(share, side=10.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, side, (3, 1, 4, 2)) + (
        share * side * rng.normal(size=(3, 100, 4, 2)).cumsum(axis=1)
    )


def one_crossing():
    position = np.zeros((1, 100, 2, 2))
    position[0, :, 0] = [3.0, 3.0]
    position[0, :, 1] = np.stack([(8 + 0.05 * np.arange(100)) % 10, np.full(100, 4.0)], axis=1)
    return position


WRAPPED = {
    "slow": moving(0.01) % 10,
    "fast": moving(0.1) % 10,
    "from -side/2": (moving(0.03) + 5) % 10 - 5,
    "far from zero": moving(0.03) % 10 + 1e3,
    "small box": moving(0.03, side=1e-9) % 1e-9,
    "one axis": np.stack([moving(0.03)[..., 0] % 10, 0.1 * moving(0.03)[..., 1]], axis=-1),
    "all one way": (np.abs(moving(0.0)) + 0.3 * np.arange(100)[:, None, None]) % 10,
    "walk": walking(0.03) % 10,
    "one crossing": one_crossing(),
    "with gaps": without(moving(0.03) % 10, (slice(None), slice(10, 90, 20), 1)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_positions_are_refused(name):
    with pytest.raises(ValueError, match=r"position jumps by .* space=Space\(box\)"):
        check_not_wrapped(WRAPPED[name])


def thrown(at, by, nodes=(1,)):
    position = circles()[0]
    for node in nodes:
        position[2, at:, node] += by * (-1) ** node
    return position


def flat(values):
    position = circles(dim=3)[0]
    position[..., 2] = values(np.random.default_rng(0), position.shape[:3])
    return position


FREE = {
    "moving on": moving(0.03),
    "walk": walking(0.03),
    "flat but for one": flat(lambda _, shape: 1e-17 * np.eye(1, 960, 500).reshape(shape)),
    "flat but for a few": flat(lambda rng, shape: 1e-17 * (rng.random(shape) < 0.02)),
    "flat to rounding": flat(lambda rng, shape: 1e-17 * rng.integers(-1, 2, shape)),
    "flat with noise": flat(lambda rng, shape: 1e-17 * rng.normal(size=shape)),
    "two heights": flat(lambda rng, shape: rng.choice([-1.0, 1.0], shape)),
    "in pixels": np.rint(circles()[0]),
    "in small pixels": np.rint(5 * circles()[0]),
    "noise in pixels": np.rint(np.random.default_rng(0).normal(size=(3, 80, 4, 2))),
    "noise": np.random.default_rng(0).normal(size=(3, 80, 4, 2)),
    "thrown out at the end": thrown(-1, 50.0),
    "thrown out": thrown(40, 50.0),
    "two thrown out": thrown(-1, 50.0, (1, 2)),
    "little beside a long way": thrown(-1, 1e6),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_positions_that_jump_but_are_not_wrapped_are_read(name):
    check_not_wrapped(FREE[name])


# Files that are not what they say.

X = circles()[0]


def raw(array, order="C"):
    stream = io.BytesIO()
    np.save(stream, np.asarray(array, order=order))
    return stream.getvalue()


def archive(position, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("time.npy", raw(TIME))
        file.writestr("position.npy", position)
    return stream.getvalue()


def marked(offsets, value):
    """The archive with a field of all its headers changed."""
    data = bytearray(archive(raw(X)))
    for signature, offset in zip((b"PK\x03\x04", b"PK\x01\x02"), offsets, strict=True):
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            data[at + offset : at + offset + 2] = struct.pack("<H", value)
    return bytes(data)


def header(shape):
    stream = io.BytesIO()
    fields = dict(descr="<f8", fortran_order=False, shape=shape)
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def broken(place):
    data = bytearray(archive(raw(X)))
    data[place] ^= 255
    return bytes(data)


DEFLATED = zipfile.ZIP_DEFLATED
BAD_FILES = {
    "encrypted": (marked((6, 8), 1), "time.npy is encrypted"),
    "unknown compression": (marked((8, 10), 97), "compression method is not supported"),
    "a bomb": (archive(bytes(10**8), DEFLATED), r"unpacks to 100 MB from 0.1 MB"),
    "a bomb of zeros": (archive(raw(np.zeros(10**7)), DEFLATED), r"unpacks to 80 MB from 0.1 MB"),
    "more than its shape": (archive(raw(X) + bytes(99)), "has 15587 bytes where its shape"),
    "less than its shape": (archive(raw(X)[:-8]), "has 15480 bytes where its shape"),
    "a huge shape": (archive(header((10**9, 10**9))), "has 128 bytes where its shape"),
    "a shape below 0": (archive(header((-1, -8)) + bytes(64)), "no whole .npz"),
    "objects": (archive(raw(np.array([1, None]))), "position.npy holds Python objects"),
    "not an array": (archive(b"hello"), "no whole .npz"),
    "cut short": (archive(raw(X))[:5000], "no whole .npz"),
    "damaged": (broken(3000), "no whole .npz"),
    "records": (archive(raw(np.zeros((3, 80, 4), "f8,f8"))), r"real numbers, got .*'f0'"),
    "text": (archive(raw(X.astype(str))), "position must hold real numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_not_what_they_say(tmp_path, name):
    contents, message = BAD_FILES[name]
    path = tmp_path / "mine.npz"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        load_trajectory(path)
    assert "\n" not in str(caught.value)


GOOD_FILES = {
    "Fortran's order": archive(raw(X, "F")),
    "big-endian": archive(raw(X.astype(">f8"))),
    "deflated": archive(raw(X), DEFLATED),
    "lzma": archive(raw(X), zipfile.ZIP_LZMA),
    "bzip2": archive(raw(X), zipfile.ZIP_BZIP2),
}


@pytest.mark.parametrize("name", GOOD_FILES)
def test_files_in_any_order_and_compression(tmp_path, name):
    path = tmp_path / "mine.npz"
    path.write_bytes(GOOD_FILES[name])
    made = load_trajectory(path)
    assert made.position.dtype == np.float64
    np.testing.assert_array_equal(made.position, X[:, 4:-4])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("space", "no property can be called 'space'"),
        ("missing", "meaning of missing positions"),
        ("noise", "noise must be a finite number"),
        ("quantity", "quantity of a trajectory"),
        ("failed", "failed must be a whole number"),
        ("box", "4 sides, positions 2 axes"),
    ],
)
def test_properties_with_the_names_of_something_else(tmp_path, name, message):
    np.savez(tmp_path / "mine.npz", time=TIME, position=X, **{name: np.ones(4)})
    with pytest.raises(ValueError, match=message):
        load_trajectory(tmp_path / "mine.npz")


def test_names_that_files_need():
    with pytest.raises(ValueError, match="No property can be called 'noise'"):
        trajectory_from_arrays(TIME, X, noise=np.ones(4))
    with pytest.raises(ValueError, match="space must be a Space"):
        trajectory_from_arrays(TIME, X, space=np.ones(4))
