import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from symjax_gn.data.blocks import block_graphs
from symjax_gn.data.graphs import edges_of, radius_edges
from symjax_gn.data.halos import particle_mesh
from symjax_gn.data.halos.catalogue import (
    Catalogue,
    halo_dataset,
    load_catalogue,
    shipped_catalogue,
)
from symjax_gn.data.halos.friends import find_halos
from symjax_gn.data.halos.overdensity import top_hat_overdensity
from symjax_gn.data.halos.particle_mesh import Cosmology, Particles, paint, read, simulate_particles
from symjax_gn.data.halos.readers import (
    read_quijote,
    read_rockstar,
    read_table,
    with_overdensity,
)
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.quantities import Quantity
from symjax_gn.data.space import Space
from symjax_gn.data.splitting import split
from symjax_gn.laws.samples import gather

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def catalogue(count=200, box=100.0):
    rng = np.random.default_rng(1)
    place, speed = rng.uniform(0, box, (count, 3)), rng.normal(0, 300, (count, 3))
    return Catalogue(place, speed, rng.uniform(1e3, 1e4, count), rng.normal(size=count), box)


def test_painting_keeps_the_mass_and_reads_back_what_is_linear():
    place = jnp.asarray(RNG.uniform(-3, 11, (300, 3)))
    field = paint(place, 8)
    np.testing.assert_allclose(jnp.sum(field), 300, rtol=1e-5)
    # A particle in a corner is in one cell, in the middle in eight.
    assert float(jnp.max(paint(jnp.array([[2.0, 3.0, 9.0]]), 8))) == 1
    np.testing.assert_allclose(paint(jnp.array([[2.5, 3.5, 7.5]]), 8)[2:4, 3:5, 7], 0.125)
    cells = jnp.arange(8.0)
    ramp = cells[:, None, None] + 10 * cells[None, :, None] + jnp.zeros((8,) * 3)
    inside = jnp.asarray(RNG.uniform(0, 7, (50, 3)))
    np.testing.assert_allclose(read(ramp, inside), inside[:, 0] + 10 * inside[:, 1], rtol=1e-5)


def test_the_force_of_a_wave_of_density_is_its_gradient():
    """In one dimension the force on each sheet is its displacement, whatever its size."""
    side, mesh, share = 32, 64, 0.3
    k = 2 * np.pi / mesh
    grid = np.stack(np.meshgrid(*[2.0 * np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    place = grid.copy()
    place[:, 0] -= share / k * np.sin(k * grid[:, 0])
    force = np.asarray(particle_mesh._forces(jnp.asarray(place, jnp.float32), mesh))
    # Cells blur the force of sheets two cells apart by some percent, the less the farther.
    np.testing.assert_allclose(force[:, 0], place[:, 0] - grid[:, 0], atol=0.04 * share / k)
    np.testing.assert_allclose(force[:, 1:], 0, atol=1e-4)


def test_a_small_wave_grows_as_linear_theory_says(monkeypatch):
    """With one wave the Zel'dovich solution is exact until particles cross."""
    side, box = 16, 100.0
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    wave = 1.5 * np.sin(2 * np.pi / side * grid[:, :1]) * np.array([1.0, 0, 0])
    from jaxpm.growth import growth_factor, growth_rate

    def initial(key, side, box, start, cosmology):
        at = np.array([start])
        known = cosmology.parameters()
        with particle_mesh._quietly():
            growth = float(growth_factor(known, at)[0])
            rate = float(growth_rate(cosmology.parameters(), at)[0])
        expansion = np.sqrt(cosmology.omega_m / start**3 + 1 - cosmology.omega_m)
        momentum = start**2 * rate * expansion * growth * wave
        return [jnp.asarray(2 * x, jnp.float32) for x in (grid + growth * wave, momentum)]

    monkeypatch.setattr(particle_mesh, "_initial", initial)
    found = simulate_particles(KEY, side, box, steps=10)
    way = found.position - grid * box / side
    way -= box * np.round(way / box)
    # Growth is 1 today; cells blur the force by some percent.
    cell = box / side
    np.testing.assert_allclose(way, wave * cell, atol=0.05 * cell)
    rate = Cosmology().omega_m ** 0.55
    np.testing.assert_allclose(found.velocity, 100 * rate * way, atol=0.1 * 100 * rate * cell)


def test_a_run_conserves_momentum_and_goes_on_where_it_ended(tmp_path, monkeypatch):
    whole = simulate_particles(KEY, 16, 60.0, steps=4)
    assert np.all((whole.position >= 0) & (whole.position < 60))
    speed = np.sqrt(np.mean(whole.velocity**2))
    assert 50 < speed < 500 and np.max(np.abs(np.mean(whole.velocity, axis=0))) < 0.01 * speed
    real, steps = particle_mesh._step, []

    def ends(*args, **options):
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(1)
        return real(*args, **options)

    monkeypatch.setattr(particle_mesh, "_step", ends)
    options = dict(steps=4, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        simulate_particles(KEY, 16, 60.0, **options)
    steps.clear()
    again = simulate_particles(KEY, 16, 60.0, resume=True, **options)
    np.testing.assert_array_equal(again.position, whole.position)
    assert len(steps) == 2
    with pytest.raises(ValueError, match="is of another run"):
        simulate_particles(jax.random.key(1), 16, 60.0, resume=True, **options)


def test_particles_that_leave_finite_numbers_are_reported(monkeypatch):
    monkeypatch.setattr(particle_mesh, "_step", lambda x, p, *_, **__: (x, p * np.nan))
    with pytest.raises(FloatingPointError, match="in step 1; take more than 2 steps"):
        simulate_particles(KEY, 8, 30.0, steps=2)


def test_bad_simulations():
    with pytest.raises(ValueError, match="start must be a scale factor below 1"):
        simulate_particles(KEY, 8, 30.0, start=1.5)
    with pytest.raises(ValueError, match="side must be a whole number of at least 4, got 2"):
        simulate_particles(KEY, 2, 30.0)


def test_without_its_extra_a_simulation_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_cosmo", None)
    with pytest.raises(ImportError, match=r'pip install "symjax_gn\[cosmo\]"'):
        simulate_particles(KEY, 8, 30.0, steps=1)


def test_planted_halos_are_found():
    """Two balls, one of them across the corner of the box, in a thin field of particles."""
    rng, box = np.random.default_rng(2), 50.0
    field = rng.uniform(0, box, (3000, 3))
    from_corner = np.linalg.norm((field + 25) % box - 25, axis=1)
    field = field[(from_corner > 5) & (np.linalg.norm(field - 25, axis=1) > 5)]
    corner = np.mod(rng.normal(0, 0.1, (80, 3)), box)
    middle = rng.normal(25, 0.1, (40, 3))
    place = np.concatenate([field, middle, corner])
    speed = np.zeros_like(place)
    speed[-80:] = [10.0, 0.0, -5.0]
    found = find_halos(Particles(place, speed, box, 2.0), least=40)
    assert found.mass.tolist() == [160.0, 80.0]
    way = found.position - np.array([[0.0] * 3, [25.0] * 3])
    np.testing.assert_allclose(way - box * np.round(way / box), 0, atol=0.05)
    np.testing.assert_allclose(found.velocity[0], [10, 0, -5], rtol=1e-12)
    with pytest.raises(ValueError, match="No halo has 200 particles, the largest has 80"):
        find_halos(Particles(place, speed, box, 2.0), least=200)


def test_overdensities_are_those_of_spheres():
    """One point of all mass: in a sphere around it box^3 / its volume, elsewhere nothing."""
    cells, box, radius = 64, 320.0, 40.0
    cube = np.zeros((cells,) * 3)
    cube[10, 20, 30] = 1.0
    place = np.array([[50.0, 100.0, 150.0], [50.0, 125.0, 150.0], [200.0, 300.0, 20.0]])
    found = top_hat_overdensity(cube, box, place, radius)
    whole = box**3 / (4 / 3 * np.pi * radius**3) - 1
    # A sphere of 8 cells has steps; the waves of its edge are some percent.
    np.testing.assert_allclose(found, [whole, whole, -1], rtol=0.12, atol=2)
    contrast = top_hat_overdensity(cube / cube.mean() - 1, box, place, radius)
    np.testing.assert_allclose(contrast, found)
    with pytest.raises(ValueError, match="do not fit a cube of 64 cells"):
        top_hat_overdensity(cube, box, place, 5.0)
    with pytest.raises(ValueError, match=r"has shape \[cell, cell, cell\], got \(64, 64\)"):
        top_hat_overdensity(cube[0], box, place, 40.0)


def test_catalogues_are_saved_and_loaded(tmp_path):
    halos = catalogue()
    halos.save(tmp_path / "halos.npz", command="make")
    found = load_catalogue(tmp_path / "halos.npz")
    for name in ("position", "velocity", "mass", "overdensity"):
        np.testing.assert_allclose(getattr(found, name), getattr(halos, name), rtol=1e-6, atol=1e-4)
    assert found.box == halos.box and len(halos.take(halos.mass > 5e3)) < len(halos)
    (tmp_path / "halos.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match="is no .npz file of halos"):
        load_catalogue(tmp_path / "halos.npz")
    np.savez(tmp_path / "other.npz", position=halos.position)
    with pytest.raises(ValueError, match="lacks velocity, mass, box"):
        load_catalogue(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(position=np.full((200, 3), 150.0)), "200 of 200 halos are outside the box of 100.0"),
        (dict(mass=np.zeros(200)), "200 of 200 halos have no mass"),
        (dict(velocity=np.zeros((200, 2))), r"has shape \(200, 2\)"),
        (dict(overdensity=np.full(200, np.nan)), "The overdensity of halos"),
        (dict(box=0.0), "The side of the box must be"),
    ],
)
def test_bad_catalogues(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(catalogue(), **change)


def test_blocks_hold_all_neighbours_of_each_node():
    halos, radius = catalogue(), 30.0
    data = halo_dataset(halos, radius, slabs=3, block=16)
    senders, receivers = radius_edges(halos.position, radius, Space((100.0,) * 3))
    wanted = np.bincount(receivers, halos.mass[senders] / 1e4, 200)
    mass, known = np.asarray(data.nodes.properties["mass"]), np.asarray(data.mask)
    found = {}
    for k in range(len(data)):
        sent, at = edges_of(data.graphs, k)
        sums = np.bincount(at, mass[k][sent], mass.shape[1])
        for node in np.flatnonzero(known[k]):
            found[tuple(np.asarray(data.nodes.position)[k, node])] = sums[node]
    assert len(found) == 200
    np.testing.assert_allclose([found[tuple(one)] for one in halos.position], wanted, rtol=1e-5)
    slab = np.floor(np.asarray(data.nodes.position)[..., 2] / 100 * 3)
    assert all(np.all(s[m] == g) for s, m, g in zip(slab, known, data.group, strict=True))
    parts = split(KEY, data)
    assert sum(int(np.sum(part.mask)) for part in parts) == 200


def test_a_node_without_neighbours_has_no_messages():
    place = np.concatenate([RNG.uniform(0, 1, (20, 2)), [[9.0, 9.0]]])
    known = np.arange(21) > 10
    data = block_graphs(
        Nodes(place, None, {}),
        place[:, 0],
        2.0,
        quantity=Quantity("depth"),
        receivers=known,
        size=5,
    )
    assert int(np.sum(data.mask)) == 10
    lonely = np.argwhere(np.all(np.asarray(data.nodes.position) == 9.0, axis=-1))
    assert any(data.mask[k, n] for k, n in lonely)
    for k, n in lonely:
        assert not np.any(edges_of(data.graphs, k)[1] == n)


def test_bad_blocks():
    halos = catalogue(50)
    with pytest.raises(ValueError, match="exceeds half of the smallest side of the box"):
        halo_dataset(halos, 60.0)
    with pytest.raises(ValueError, match="There are 50 receivers, fewer than the 64 of one graph"):
        halo_dataset(halos, 20.0)
    with pytest.raises(ValueError, match="has no overdensities, which are what is to be predicted"):
        halo_dataset(dataclasses.replace(halos, overdensity=None), 20.0)
    named = Nodes(halos.position, None, {"known": halos.mass})
    with pytest.raises(ValueError, match="Nodes have a property 'known'"):
        block_graphs(named, halos.mass, 20.0, quantity=Quantity("depth"), size=8)
    with pytest.raises(ValueError, match="neither positions nor properties"):
        block_graphs(Nodes(None, None, {}), np.zeros(9), 1.0, quantity=Quantity("x"))


def write_groups(folder, halos, files=2):
    """A catalogue in the layout of Gadget's group_tab files."""
    parts = np.array_split(np.arange(len(halos)), files)
    for k, part in enumerate(parts):
        content = struct.pack("<iiiQI", len(part), len(halos), 0, 0, files)
        zeros = np.zeros((len(part), 6))
        for values, kind in (
            (np.full(len(part), 50), "<i4"),
            (np.zeros(len(part)), "<i4"),
            (halos.mass[part], "<f4"),
            (1e3 * halos.position[part], "<f4"),
            (halos.velocity[part] / 1.5, "<f4"),
            (zeros, "<i4"),
            (zeros, "<f4"),
        ):
            content += values.astype(kind).tobytes()
        (folder / f"group_tab_004.{k}").write_bytes(content)


def test_quijotes_files_are_read(tmp_path):
    halos = catalogue()
    place = tmp_path / "groups_004"
    place.mkdir()
    write_groups(place, halos)
    for folder in (tmp_path, place):
        found = read_quijote(folder, box=100.0, redshift=0.5)
        for name in ("position", "velocity", "mass"):
            np.testing.assert_allclose(getattr(found, name), getattr(halos, name), rtol=1e-5)
    cube = RNG.normal(size=(32,) * 3)
    np.save(tmp_path / "df_m_256_CIC_z=0.npy", cube)
    around = with_overdensity(found, tmp_path / "df_m_256_CIC_z=0.npy")
    np.testing.assert_allclose(
        around.overdensity, top_hat_overdensity(cube, 100.0, found.position, 20.0)
    )
    with pytest.raises(ValueError, match=r"There is no density cube .*df_m_256_CIC_z=0\.npy"):
        with_overdensity(found, tmp_path / "nothing.npy")
    (tmp_path / "cut.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="is no .npy file of a density cube"):
        with_overdensity(found, tmp_path / "cut.npy")


def test_files_of_groups_that_are_cut_or_foreign_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"There is no group_tab_004\.0 in"):
        read_quijote(tmp_path)
    write_groups(tmp_path, catalogue())
    path = tmp_path / "group_tab_004.1"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"004\.1 is truncated: 100 groups take 8424 bytes"):
        read_quijote(tmp_path, box=100.0)
    path.write_bytes(whole[:10])
    with pytest.raises(ValueError, match=r"group_tab_004\.1 is truncated: it has 10 bytes"):
        read_quijote(tmp_path, box=100.0)
    path.write_bytes(b"x,y,z,vx,vy,vz,mass,and,more,columns")
    with pytest.raises(ValueError, match=r"group_tab_004\.1 is no group_tab file"):
        read_quijote(tmp_path, box=100.0)
    path.write_bytes(struct.pack("<iiiQI", 0, 200, 0, 0, 3))
    with pytest.raises(ValueError, match="says there are 3 files, the first one says 2"):
        read_quijote(tmp_path, box=100.0)
    path.write_bytes(struct.pack("<iiiQI", 0, 200, 0, 0, 2))
    with pytest.raises(ValueError, match="hold 100 groups, but say there are 200"):
        read_quijote(tmp_path, box=100.0)
    path.unlink()
    with pytest.raises(ValueError, match=r"group_tab_004\.1 is missing"):
        read_quijote(tmp_path, box=100.0)


def test_rockstars_lists_are_read(tmp_path):
    halos, path = catalogue(6), tmp_path / "out_0.list"
    lines = ["#ID DescID Mvir Vmax X Y Z VX VY VZ PID", "#Box size: 100.000000 Mpc/h"]
    for k in range(6):
        row = [k, -1, 1e10 * halos.mass[k], 100, *halos.position[k], *halos.velocity[k]]
        lines.append(" ".join(map(repr, [*map(float, row), -1 if k < 4 else 0])))
    path.write_text("\n".join(lines))
    found = read_rockstar(path)
    assert len(found) == 4 and found.box == 100
    np.testing.assert_allclose(found.mass, halos.mass[:4], rtol=1e-12)
    np.testing.assert_allclose(found.velocity, halos.velocity[:4], rtol=1e-12)
    path.write_text("\n".join(lines)[:-30])
    with pytest.raises(ValueError, match=r"out_0\.list: line 8 has \d+ values, .* 11 names"):
        read_rockstar(path)
    path.write_text("\n".join([lines[0], *lines[2:]]))
    with pytest.raises(ValueError, match="does not say how large its box is"):
        read_rockstar(path)
    assert len(read_rockstar(path, box=100.0)) == 4
    path.write_text("\n".join(lines).replace("Mvir", "Rvir"))
    with pytest.raises(ValueError, match="has no masses: its columns are"):
        read_rockstar(path)
    for more in (" 1", " 1 2 3"):
        path.write_text("\n".join([*lines[:3], lines[2] + more]))
        with pytest.raises(ValueError, match=r"line 4 has 1\d values, but there are 11 names"):
            read_rockstar(path)
    # All lines longer: pandas would take the first values for names of the rows.
    path.write_text("\n".join([*lines[:2], *(line + " 1" for line in lines[2:])]))
    with pytest.raises(ValueError, match="line 3 has 12 values"):
        read_rockstar(path)
    path.write_text("\n".join([*lines, "# a comment", "", lines[2] + " # of one more"]))
    assert len(read_rockstar(path)) == 5
    path.write_bytes(b"\x80\xff\x00")
    with pytest.raises(ValueError, match="is no list of Rockstar"):
        read_rockstar(path)
    path.write_text("x y z\n1 2 3\n")
    with pytest.raises(ValueError, match="is no list of Rockstar"):
        read_rockstar(path)


@pytest.mark.parametrize("ending", ["csv", "npz", "h5"])
def test_tables_are_read_by_names_and_units(tmp_path, ending):
    halos, path = catalogue(10), tmp_path / f"halos.{ending}"
    table = {f"pos{k}": 1e3 * halos.position[:, k] for k in range(3)}
    table |= {f"v{axis}": halos.velocity[:, k] for k, axis in enumerate("xyz")}
    table |= dict(M=1e10 * halos.mass, overdensity=halos.overdensity)
    if ending == "csv":
        pd.DataFrame(table).to_csv(path)
    elif ending == "npz":
        np.savez(path, **table)
    else:
        import h5py

        with h5py.File(path, "w") as file:
            for name, values in table.items():
                file[f"halos/{name}"] = values
    columns = dict(x="pos0", y="pos1", z="pos2", mass="M")
    options = dict(columns=columns, key="halos" if ending == "h5" else None)
    found = read_table(path, 100.0, units=dict(position="kpc/h", mass="Msun/h"), **options)
    for name in ("position", "velocity", "mass", "overdensity"):
        np.testing.assert_allclose(getattr(found, name), getattr(halos, name), rtol=1e-12)
    with pytest.raises(ValueError, match=r"has no columns \['x', 'y', 'z', 'mass'\]"):
        read_table(path, 100.0, key=options["key"])
    with pytest.raises(ValueError, match="The unit 'parsec' of 'position' is not known"):
        read_table(path, 100.0, units=dict(position="parsec"), **options)
    path.write_bytes(b"\x00\x01\xff")
    with pytest.raises(ValueError, match="cannot be read as a table of halos|has no columns"):
        read_table(path, 100.0, **options)


@pytest.mark.parametrize("change", ["more", "fewer", "all more", "text", "quoted"])
def test_lines_of_a_table_have_a_value_for_each_name(tmp_path, change):
    halos, path = catalogue(5), tmp_path / "halos.csv"
    names = ("x", "y", "z", "vx", "vy", "vz", "mass")
    columns = np.column_stack([halos.position, halos.velocity, halos.mass])
    lines = [",".join(names), *(",".join(map(repr, map(float, row))) for row in columns)]
    message = "line 4 has 8 values, but there are 7 names"
    if change == "more":
        lines[3] += ",1.0"
    elif change == "fewer":
        lines[3], message = lines[3].rsplit(",", 1)[0], "line 4 has 6 values"
    elif change == "all more":
        lines[1:], message = [f"0,{line}" for line in lines[1:]], "line 2 has 8 values"
    elif change == "text":
        lines[3], message = f"{lines[3].rsplit(',', 1)[0]},heavy", "mass .* must hold real numbers"
    else:
        notes = ["note", *(5 * ['"a, b"'])]
        lines = [f"{line},{name}" for line, name in zip(lines, notes, strict=True)]
        path.write_text("\n".join(lines))
        np.testing.assert_array_equal(read_table(path, 100.0).mass, halos.mass)
        return
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_table(path, 100.0)


def test_columns_of_unequal_length_are_no_table(tmp_path):
    path = tmp_path / "halos.npz"
    np.savez(path, **{name: np.ones(3) for name in ("x", "y", "z", "vx", "vy", "vz")}, mass=[1.0])
    with pytest.raises(ValueError, match="cannot be read as a table of halos"):
        read_table(path, 100.0)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="cannot be read as a table of halos"):
        read_table(path, 100.0)


def test_there_are_enough_owners_whatever_elements_they_have():
    """A law of an owner is not fitted to a handful of them because each has many elements."""
    data = halo_dataset(catalogue(), 40.0, slabs=2, block=8)
    few = gather(data, 500)
    assert len(few.target) < 20 and few.sums.shape[1] >= 400
    found = gather(data, 500, 100)
    assert 100 <= len(found.target) < 130
    assert len(gather(data, 500, 10**6).target) == 200


def test_the_shipped_catalogue_is_that_of_the_description():
    halos = shipped_catalogue()
    # The mass function of such runs (see examples/make_halos.py), and mean overdensities > 0.
    assert halos.box == 500 and 4000 < np.sum(halos.mass > 1e4) < 6000
    assert np.min(halos.mass) == pytest.approx(20 * Cosmology().particle_mass(500.0, 256), rel=1e-5)
    assert 0.3 < np.mean(halos.overdensity) < 0.7 and np.min(halos.overdensity) > -1


@pytest.mark.slow
def test_the_script_finds_a_law_of_halos(tmp_path):
    """A few steps on some of the halos: the law is better than a constant, and is drawn."""
    command = [sys.executable, "examples/halos.py", "--least-mass", "2e4", "--steps", "300"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "halos.json").read_text())
    assert said["table"]["law"][0] < 0.8 * said["table"]["constant"][0]
    assert (tmp_path / "halos.png").exists() and (tmp_path / "law.json").exists()


def test_the_script_makes_a_catalogue(tmp_path):
    command = [sys.executable, "examples/make_halos.py", "--side", "24", "--box", "48"]
    command += ["--steps", "4", "--out", str(tmp_path / "h.npz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(load_catalogue(tmp_path / "h.npz")) == int(done.stdout.split()[0])
