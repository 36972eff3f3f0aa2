"""Folders of strangers: what a run did not make is neither deleted, overwritten nor followed."""

import importlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from filelock import FileLock

import symjax_gn as sgn
from symjax_gn.data.folders import LOCK, MARKER, own_folder
from symjax_gn.networks.checkpoints import Checkpoints
from symjax_gn.networks.saving import save_network
from symjax_gn.networks.sweeping import sweep
from symjax_gn.networks.training import fit
from symjax_gn.pipeline import OUTPUTS
from tests.test_sweep import KEY, TINY, parts_of, tiny


def command(*options):
    return importlib.import_module("symjax_gn.command").main([*options, "--simulations", "3"])


@pytest.fixture
def nothing_runs(monkeypatch):
    """Whatever is refused is refused before anything is simulated or trained."""

    def runs(*_, **__):
        raise AssertionError("It runs.")

    monkeypatch.setattr("symjax_gn.command.simulate", runs)
    monkeypatch.setattr("symjax_gn.networks.training._interval", runs)
    monkeypatch.setattr("symjax_gn.networks.sweeping._interval", runs)


def contents(folder):
    """All that is in a folder, with the text of files."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


NAMES = ["searches/mine.txt", "training/states/1", "law.json", "report.md", "pareto_0.png"]


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_that_the_package_did_not_make_is_left_as_it_is(tmp_path, capsys, name, resume):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    before = contents(tmp_path)
    assert command("--out", str(tmp_path), *resume) == 2
    error = capsys.readouterr().err
    assert f"holds {name.split('/')[0]}" in error and "choose another folder" in error
    assert error.count("\n") == 1 and contents(tmp_path) == before


LIBRARY = {
    "discover": lambda data, folder: sgn.discover(KEY, data, folder=folder),
    "discover_all": lambda data, folder: sgn.discover_all(
        KEY, data, dict(seed=[0]), folder=folder
    ),
    "fit": lambda data, folder: fit(
        KEY, *parts_of("spring")[:2], model=tiny(), **TINY, folder=folder, resume=False
    ),
    "sweep": lambda data, folder: sweep(
        KEY, *parts_of("spring")[:2], dict(seed=[0]), model=tiny(), **TINY, folder=folder
    ),
}  # fmt: skip


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", LIBRARY)
def test_so_do_calls_of_the_library(tmp_path, name, spring_dataset):
    call = LIBRARY[name]
    for own in ("training", "states"):
        (tmp_path / own).mkdir()
        (tmp_path / own / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="symjax_gn made: choose another folder"):
        call(spring_dataset, tmp_path)
    assert contents(tmp_path) == before
    for folder in ("", 3, b"x"):
        with pytest.raises(ValueError, match="must"):
            call(spring_dataset, folder)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    "where", ["searches", "training", "law.json", "searches/fit", MARKER, LOCK]
)
def test_links_are_not_followed(tmp_path, capsys, where):
    """Also of a folder that the package has made, or that says so."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    with own_folder(out, OUTPUTS):
        pass
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (out / where).parent.mkdir(exist_ok=True)
    (out / where).unlink(missing_ok=True)
    (out / where).symlink_to(elsewhere)
    assert command("--out", str(out)) == 2
    assert "is a link to" in capsys.readouterr().err
    assert contents(elsewhere) == {"mine.txt": "mine"}


@pytest.mark.usefixtures("nothing_runs")
def test_the_lock_comes_first(tmp_path, capsys):
    with own_folder(tmp_path, OUTPUTS):
        pass
    (tmp_path / "searches").mkdir()
    before = contents(tmp_path)
    with FileLock(tmp_path / LOCK):
        assert command("--out", str(tmp_path)) == 2
    assert "Another run uses the folder" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("nothing_runs")
def test_no_name_is_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("--out", "") == 2
    assert "--out must not be empty" in capsys.readouterr().err
    assert not contents(tmp_path)


def test_own_files_stay_where_a_run_is_started_anew(tmp_path):
    """Also beside those of an earlier run, in the folders that it made."""
    run = sgn.simulate(
        KEY, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20, solver="midpoint"
    )
    small = dict(steps=20, width=8, depth=1, evaluations=2000, searches=1)
    quick = sgn.Settings(**small, route="messages")
    (tmp_path / "mine.txt").write_text("mine")
    sgn.discover(KEY, run, quick, folder=tmp_path)
    old = set((tmp_path / "searches").rglob("*.json"))
    own = [tmp_path / name / "mine.txt" for name in ("searches", "training", "training/states")]
    for file in own:
        file.write_text("mine")
    sgn.discover(jax.random.key(1), run, quick, folder=tmp_path)
    assert all(file.read_text() == "mine" for file in [*own, tmp_path / "mine.txt"])
    new = set((tmp_path / "searches").rglob("*.json"))
    assert old and new and not old & new


@pytest.mark.parametrize("name", ["", "folder", "none/law.json", "pipe"])
def test_paths_that_are_no_files(tmp_path, monkeypatch, name, trained, spring_trajectory):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    law = sgn.SymbolicModel((sgn.parse_expression("dx"),), (sgn.parse_expression("e_0"),))
    before = sorted(tmp_path.iterdir())
    for save in (
        lambda: sgn.save_law(name, law),
        lambda: save_network(name, trained),
        lambda: sgn.save_trajectory(name, spring_trajectory),
    ):
        with pytest.raises(ValueError, match="empty|a folder|a device|no folder"):
            save()
    assert sorted(tmp_path.iterdir()) == before


def test_a_link_is_replaced_and_not_followed(tmp_path):
    law = sgn.SymbolicModel((sgn.parse_expression("dx"),), (sgn.parse_expression("e_0"),))
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "law.json").symlink_to(tmp_path / "mine")
    sgn.save_law(tmp_path / "law.json", law)
    assert (tmp_path / "mine").read_text() == "mine"
    assert sgn.load_law(tmp_path / "law.json").message == law.message


def test_a_full_disk_is_one_error(tmp_path, monkeypatch, capsys):
    """An `OSError`, which the command line says in one line; nothing half written is left."""

    def full(self, data):
        raise OSError(28, "No space left on device", str(self))

    with Checkpoints(tmp_path, dict(steps=1)) as kept:
        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            kept.save(1, dict(weight=np.zeros(2)))
    assert not [*(tmp_path / "states").iterdir()]
    assert capsys.readouterr() == ("", "")


SAYS = """
import sys
from symjax_gn import command
from symjax_gn.console import end_with
def run(args):
    print("F = m a", flush=True)
    open(args.out, "w").write("saved")
command.run = run
end_with(command.main(["--out", sys.argv[1]]))
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_cannot_be_said_is_saved_all_the_same(tmp_path):
    file = tmp_path / "saved"
    with open("/dev/full", "w") as full:
        ends = subprocess.run(
            [sys.executable, "-c", SAYS, str(file)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert file.read_text() == "saved" and ends.returncode == 2
    assert ends.stderr == (
        "error: standard output: No space left on device; all results were saved\n"
    )
