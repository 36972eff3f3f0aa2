"""Readers of halo catalogues: Quijote's, Rockstar's, and tables with named columns."""

import csv
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from jaxtyping import Float

from symjax_gn.data.checks import as_floats
from symjax_gn.data.files import as_path
from symjax_gn.data.halos.catalogue import Catalogue
from symjax_gn.data.halos.overdensity import top_hat_overdensity

# Friends-of-friends files of Gadget, little-endian, no record marks: the header, and what of
# each group comes before its velocity is over.
_HEADER = struct.Struct("<iiiQI")
_GROUP = (("len", "<i4"), ("offset", "<i4"), ("mass", "<f4"), ("pos", "<f4"), ("vel", "<f4"))
_BYTES_OF_GROUP = 4 + 4 + 4 + 12 + 12 + 24 + 24

# What readers of tables raise.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile, csv.Error)

# Masses of Rockstar, the one that is taken first.
_MASSES = ("M200b", "Mvir", "M200c", "m200b", "mvir")

COLUMNS = ("x", "y", "z", "vx", "vy", "vz", "mass")
"""What the columns of a table are called where nothing else is said; "overdensity" may follow."""

UNITS = {"Mpc/h": 1.0, "kpc/h": 1e-3, "km/s": 1.0, "1e10 Msun/h": 1.0, "Msun/h": 1e-10}
"""Units that are known, in those of `Catalogue`."""


def with_overdensity(
    catalogue: Catalogue,
    cube: Float[np.ndarray, "cell cell cell"] | str | os.PathLike[str],
    radius: float = 20.0,
) -> Catalogue:
    """The catalogue with the overdensity of matter in spheres around its halos.

    Args:
        catalogue: halos.
        cube: densities of its box `[cell, cell, cell]`, or an .npy file of them, for Quijote
            `df_m_256_CIC_z=0.npy`.
        radius: of the spheres, Mpc/h.

    Raises:
        ValueError: there is no such file, or it holds no cube.
    """
    values: Any = cube
    if isinstance(cube, str | os.PathLike):
        path = Path(cube)
        if not path.exists():
            raise ValueError(
                f"There is no density cube {path}. It holds the overdensities of matter in the "
                "box, from which what is to be predicted is taken; Quijote's are called "
                "df_m_256_CIC_z=0.npy."
            )
        try:
            values = np.load(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no .npy file of a density cube: {error}") from error
    around = top_hat_overdensity(values, catalogue.box, catalogue.position, radius)
    return Catalogue(catalogue.position, catalogue.velocity, catalogue.mass, around, catalogue.box)


def read_quijote(
    folder: str | os.PathLike[str], *, snapshot: int = 4, box: float = 1000.0, redshift: float = 0.0
) -> Catalogue:
    """Friends-of-friends halos of the Quijote simulations (arXiv:1909.05273).

    Args:
        folder: that holds `group_tab_004.0`, ..., itself or in `groups_004`.
        snapshot: its number; 4 is today.
        box: side, Mpc/h.
        redshift: of the snapshot, by which velocities are made peculiar.

    Raises:
        ValueError: files are missing, truncated, or are none of this kind.
    """
    name = f"group_tab_{snapshot:03d}"
    places = [as_path(folder), as_path(folder) / f"groups_{snapshot:03d}"]
    first = next((place / f"{name}.0" for place in places if (place / f"{name}.0").exists()), None)
    if first is None:
        raise ValueError(
            f"There is no {name}.0 in {folder} or in groups_{snapshot:03d} there; give the folder "
            "of one simulation."
        )
    files = _header(first)[4]
    parts = [_groups(first.with_suffix(f".{k}"), files) for k in range(files)]
    total = _header(first)[1]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in ("pos", "vel", "mass")}
    if len(columns["mass"]) != total:
        raise ValueError(
            f"The {files} files {name}.* hold {len(columns['mass'])} groups, but say there are "
            f"{total}; a file is of another simulation."
        )
    position = columns["pos"].astype(np.float64) / 1e3
    return Catalogue(
        position=np.mod(position, box) if np.all(np.abs(position) < 1.01 * box) else position,
        velocity=columns["vel"].astype(np.float64) * (1 + redshift),
        mass=columns["mass"].astype(np.float64),
        overdensity=None,
        box=box,
    )


def _header(path):
    content = path.read_bytes()[: _HEADER.size] if path.exists() else None
    if content is None:
        raise ValueError(f"{path} is missing: the first file says that there is such a one.")
    if len(content) < _HEADER.size:
        raise ValueError(f"{path} is truncated: it has {len(content)} bytes, not even a header.")
    header = _HEADER.unpack(content)
    if not (0 <= header[0] <= header[1] and 0 < header[4] < 100_000):
        raise ValueError(
            f"{path} is no group_tab file of Gadget: its header says {header[0]} of {header[1]} "
            f"groups in {header[4]} files."
        )
    return header


def _groups(path, files):
    count, _, _, _, said = _header(path)
    if said != files:
        raise ValueError(f"{path} says there are {said} files, the first one says {files}.")
    content = path.read_bytes()
    wanted = _HEADER.size + count * _BYTES_OF_GROUP
    if len(content) < wanted:
        raise ValueError(
            f"{path} is truncated: {count} groups take {wanted} bytes, it has {len(content)}."
        )
    found, at = {}, _HEADER.size
    for key, kind in _GROUP:
        width = 3 if key in ("pos", "vel") else 1
        values = np.frombuffer(content, kind, count * width, at)
        found[key] = values.reshape(count, 3) if width == 3 else values
        at += values.nbytes
    return found


def read_rockstar(path: str | os.PathLike[str], *, box: float | None = None) -> Catalogue:
    """Halos of a Rockstar `out_*.list`; those within others, which have a parent, are left out.

    Args:
        path: the file.
        box: side, Mpc/h; None: what the file says.

    Raises:
        ValueError: the file is none of Rockstar's, or a line has more or fewer values than
            there are names.
    """
    name = as_path(path)
    if name.is_dir():
        raise ValueError(f"{name} is a folder, not a list of Rockstar.")
    with name.open(errors="replace") as file:
        comments = [line for _, line in zip(range(50), file, strict=False) if line.startswith("#")]
    names = comments[0].lstrip("#").split() if comments else []
    if not {"X", "Y", "Z", "VX", "VY", "VZ"} <= set(names):
        raise ValueError(
            f"{name} is no list of Rockstar: its first line names {names or 'nothing'}."
        )
    mass = next((one for one in _MASSES if one in names), None)
    if mass is None:
        raise ValueError(f"{name} has no masses: its columns are {names}, none of {_MASSES}.")
    if box is None:
        said = re.search(r"#\s*Box size:\s*([\d.eE+]+)\s*Mpc/h", "".join(comments))
        if said is None:
            raise ValueError(f"{name} does not say how large its box is; give box, in Mpc/h.")
        box = float(said[1])
    _check_lines(name, len(names))
    try:
        table = pd.read_csv(name, sep=r"\s+", comment="#", names=names, header=None)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as a list of Rockstar: {error}") from error
    if "PID" in names:
        table = table.loc[table["PID"] < 0]
    table.columns = ["mass" if one == mass else one.lower() for one in names]
    return _from_table(table, {"mass": "Msun/h"}, box, name)


def read_table(
    path: str | os.PathLike[str],
    box: float,
    *,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    key: str | None = None,
) -> Catalogue:
    """Halos of a CSV, .npz or HDF5 file with named columns.

    Args:
        path: its ending says what it is.
        box: side, Mpc/h.
        columns: the file's names for those of `COLUMNS` and "overdensity" that differ.
        units: of "position", "velocity" and "mass", among `UNITS`; by default Mpc/h, km/s and
            1e10 Msun/h.
        key: the group of an HDF5 file that holds the columns; None: its root.

    Raises:
        ValueError: a column is missing, a unit unknown, the file cannot be read, or a line has
            more or fewer values than there are names.
    """
    name = as_path(path)
    try:
        if name.suffix == ".npz":
            # NumPy leaves a file that it cannot read open.
            with name.open("rb") as file, np.load(file) as saved:
                table = {one: saved[one] for one in saved.files if np.ndim(saved[one]) == 1}
        elif name.suffix in (".h5", ".hdf5"):
            table = _read_hdf5(name, key)
        else:
            _check_lines(name, separator=",")
            table = pd.read_csv(name, index_col=False)
        frame = pd.DataFrame(table)
    except _UNREADABLE as error:
        raise ValueError(f"{name} cannot be read as a table of halos: {error}") from error
    ours = {theirs: name for name, theirs in (columns or {}).items()}
    frame = frame.rename(columns=ours)
    return _from_table(frame, units or {}, box, name)


def _check_lines(path: Path, count: int | None = None, separator: str | None = None) -> None:
    """Raise a `ValueError` that names the first line which has not so many values.

    None is as many as the first line has. pandas takes what is too much for names of the rows,
    and shifts all columns.
    """
    with path.open(errors="replace", newline="") as file:
        if separator is None:
            rows: Any = (line.split("#")[0].split() for line in file)
        else:
            rows = csv.reader(file, delimiter=separator)
        for number, row in enumerate(rows, start=1):
            count = len(row) if count is None else count
            if row and len(row) != count:
                raise ValueError(
                    f"{path}: line {number} has {len(row)} values, but there are {count} names of "
                    "columns; mend or delete the line."
                )


def _read_hdf5(path, key):
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py. Install it with: pip install h5py.") from error
    with h5py.File(path) as file:
        group: Any = file if key is None else file[key]
        return {one: np.asarray(group[one]) for one in group if np.ndim(group[one]) == 1}


def _from_table(table, units, box, path):
    missing = [one for one in COLUMNS if one not in table]
    if missing:
        raise ValueError(
            f"{path} has no columns {missing}; it has {sorted(map(str, table))}. Say with columns= "
            "what they are called."
        )
    usual = dict(position="Mpc/h", velocity="km/s", mass="1e10 Msun/h")
    for what, unit in units.items():
        if what not in usual or unit not in UNITS:
            raise ValueError(
                f"The unit {unit!r} of {what!r} is not known: units are of {list(usual)}, and "
                f"among {list(UNITS)}."
            )
    factor = {what: UNITS[unit] for what, unit in (usual | dict(units)).items()}
    values = {one: as_floats(f"The column {one} of {path}", table[one]) for one in COLUMNS}
    around = table.get("overdensity")
    return Catalogue(
        position=factor["position"] * np.stack([values[axis] for axis in "xyz"], axis=1),
        velocity=factor["velocity"] * np.stack([values[f"v{axis}"] for axis in "xyz"], axis=1),
        mass=factor["mass"] * values["mass"],
        overdensity=around,
        box=box,
    )
