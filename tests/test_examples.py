import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import sympy

from symjax_gn.data.datasets import take
from symjax_gn.discovery.energies import KineticLaw
from symjax_gn.laws.fronts import ParetoFront
from symjax_gn.networks.checkpoints import Checkpoints
from symjax_gn.reading import follow
from symjax_gn.settings import Settings

ROOT = Path(__file__).parent.parent
FAST = [
    "--steps",
    "40",
    "--width",
    "8",
    "--depth",
    "1",
    "--evaluations",
    "2000",
    "--fits",
    "60",
]
# Motion does not matter: the solver is the quickest to compile.
QUICK = ["--simulations", "12", "--outputs", "20", "--solver", "midpoint", *FAST]
WHOLE = ["--searches", "1", *QUICK]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def script():
    return load("discover_force")


@pytest.fixture(scope="module")
def potential(script):
    return load("discover_potential")


@pytest.fixture(scope="module")
def whole_run(script, tmp_path_factory):
    """The folder of a run of as many steps as there may be, and what it said."""
    out, said = tmp_path_factory.mktemp("whole"), io.StringIO()
    with contextlib.redirect_stdout(said):
        assert script.main([*WHOLE, "--test-n", "5", "--out", str(out)]) == 0
    return out, said.getvalue()


def test_a_run_ends_with_a_report_whether_or_not_the_law_is_right(whole_run):
    out, said = whole_run
    read = json.loads((out / "report.json").read_text())
    fields = "system dim n strategy regressor seed recovered checks laws message_r2 test_error"
    assert set(fields.split()) | {"seconds", "versions"} <= set(read)
    assert set(read["seconds"]) == {
        *(
            "simulate",
            "search",
            "train",
            "regress",
            "refit",
            "certify",
            "report",
            "total",
            "compile",
        )
    }
    assert set(read["laws"][0]) >= {"latex", "sympy", "complexity", "mae", "score"}
    assert set(read["message_r2"]) >= {"force", "force_trimmed", "gauge", "gauge_name"}
    assert set(read["test_error"]) == {"value", "unit", "mean_abs_target"}
    assert read["recovered"] in (True, False)
    assert set(read["more_bodies"]) == {"n", "network", "law", "mean_abs_target"}
    assert read["more_bodies"]["n"] == 5
    assert read["law_error"] > 0
    # Accelerations are float32: laws that err by less are equal.
    assert read["refit"]["error"] <= max(read["refit"]["error_before"], 3e-7)
    assert read["refit"]["law_error"] > 0
    assert ("not recovered" in said) == (not read["recovered"])
    for figure in ("trajectories", "training", "messages", "pareto_0"):
        assert (out / f"{figure}.png").stat().st_size > 1000


def test_a_users_own_trajectories(script, tmp_path, capsys, spring_trajectory):
    data = tmp_path / "mine.npz"
    run = spring_trajectory
    np.savez(
        data,
        time=run.time,
        position=run.position,
        velocity=run.velocity,
        mass=run.properties["mass"],
    )
    out = tmp_path / "out"
    options = ["--data", str(data), "--route", "data", "--out", str(out), *FAST]
    assert script.main(options) == 0
    read = json.loads((out / "report.json").read_text())
    assert read["recovered"] is None
    assert read["derived"] == ["acceleration"]
    assert "no verdict" in capsys.readouterr().out
    (remark,) = read["remarks"]
    assert "differentiated: acceleration" in remark
    assert f"- {remark}" in (out / "report.md").read_text()


def test_positions_are_all_it_takes(potential, tmp_path, spring_trajectory):
    """Energies from positions in time: all bodies alike, and a field that they may feel."""
    data, out = tmp_path / "mine.npz", tmp_path / "out"
    np.savez(data, time=spring_trajectory.time, position=spring_trajectory.position)
    options = ["--data", str(data), "--searches", "1", "--external-field", "--form", "central"]
    assert potential.main([*options, "--out", str(out), *FAST]) == 0
    read = json.loads((out / "report.json").read_text())
    assert read["derived"] == ["velocity", "acceleration"]
    assert read["arguments"]["external_field"] is True
    assert read["energies"]["no_rollouts"] == "the energy in an outer field is not distilled"


def test_one_moment_of_each_simulation_has_no_rollouts(hamiltonian, spring_parts):
    test = spring_parts[2]
    first = take(test, np.unique(test.group, return_index=True)[1])
    law = KineticLaw(sympy.Symbol("p"), sympy.Symbol("p") ** 2 / 2, ParetoFront((), 0.0))
    model = dataclasses.replace(hamiltonian.model, dissipative=False)
    trained = hamiltonian._replace(model=model)
    rows, why = follow(Settings(), None, first, trained, None, law)
    assert rows is None and "one moment" in why


def test_the_papers_plain_setting_with_raw_messages(script, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--preset", "paper", "--searches", "1"]
    assert script.main([*options, "--out", str(out), *QUICK]) == 0
    assert "message 1 (rejected): " in capsys.readouterr().out
    read = json.loads((out / "report.json").read_text())
    assert read["arguments"]["gauge"] == "messages" and "out" not in read["arguments"]
    assert read["refit"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "sprng"], "Did you mean 'spring'"),
        (["--strategy", "kll"], "Did you mean 'kl'"),
        (["--regressor", "opern"], "Did you mean 'operon'"),
        (["--solver", "euler"], "Unknown solver 'euler'"),
        (["--dim", "5"], "got dim=5"),
        (["--n", "1"], "must be a whole number of at least 2, got 1"),
        (["--operators", "+", "foo"], "Unknown operator of the operon engine 'foo'"),
        (["--data", "none.npz"], "none.npz"),
        (["--gauge", "none"], "Unknown gauge"),
        (["--form", "none"], "Unknown form"),
        (["--form", "central", "--gauge", "messages"], "Raw messages have no direction"),
        (["--form", "linear", "--gauge", "messages"], "Raw messages have no direction"),
        (["--focus", "0.5"], "--focus must be a finite number of at least 1"),
        (["--loss", "squared"], "Unknown loss"),
        (["--network", "papers"], "Did you mean 'paper'"),
        (["--node", "newton", "--strategy", "l1"], "use the bottleneck"),
        (["--errors", "square"], "Unknown kind of errors"),
        (["--test-n", "1"], "--test-n must be a whole number of at least 2"),
        (["--test-n", "8", "--data", "none.npz"], "with --data leave it out"),
        *(
            ([f"--{name}", value, "--data", "none.npz"], f"--{name} is of data to be simulated")
            for name, value in [
                ("n", "8"),
                ("system", "r1"),
                ("dim", "3"),
                ("solver", "midpoint"),
                ("simulations", "9"),
                ("outputs", "9"),
                ("every", "2"),
            ]
        ),
        (["--data", ""], "--data needs the name of an .npz file, got an empty one"),
        (["--seed", "4294967296"], "--seed must be at most 4294967295"),
        (["--preset", "papr"], "Did you mean 'paper'"),
        (["--external-field", "--node", "newton"], "has no --external-field"),
        (["--seed", "-1"], "--seed must be a whole number of at least 0"),
        (["--strategy", "pruning", "--no-prune"], 'the strategy is "standard"'),
        (["--penalty", "0.1"], '--penalty is of "l1" and "kl"'),
        (
            ["--penalty", "-1", "--strategy", "l1"],
            "--penalty must be a finite number of at least 0",
        ),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number above 0"),
        (["--searches", "0"], "--searches must be a whole number of at least 1"),
        (["--steps", "0"], "--steps must be a whole number of at least 1"),
        (["--simulations", "2"], "--simulations must be a whole number of at least 3"),
        (["--regressor", "pysr"], "pip install"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    script, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setitem(sys.modules, "pysr", None)
    assert script.main([*options, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_energies_end_with_a_report(potential, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--searches", "1", "--rollouts", "1", "--rollout-length", "1", "--form", "central"]
    assert potential.main([*options, "--out", str(out), *QUICK]) == 0
    read = json.loads((out / "report.json").read_text())
    assert read["strategy"] == "flathgn"
    assert set(read["seconds"]) == {
        *(
            "simulate",
            "train",
            "regress",
            "refit",
            "follow",
            "certify",
            "report",
            "total",
            "compile",
        )
    }
    found = read["energies"]
    assert set(found["checks"]) == {"potential", "kinetic"}
    assert read["checks"]["potential"] == found["checks"]["potential"]
    assert not read["recovered"]
    assert {row["hamiltonian"] for row in found["rollouts"]} >= {"network", "true"}
    assert found["kinetic"]["velocity"]["sympy"]
    text = (out / "report.md").read_text()
    assert "## Energies" in text
    assert "| midpoint | true |" in text
    assert "kinetic energy of a body" in capsys.readouterr().out
    assert (out / "law.png").stat().st_size > 1000


@pytest.mark.parametrize("dissipative", [False, True])
def test_drag_needs_more_than_a_hamiltonian(potential, tmp_path, dissipative):
    options = ["--system", "damped", "--searches", "1", "--form", "central", "--no-kinetic"]
    options += ["--dissipative"] * dissipative
    assert potential.main([*options, "--out", str(tmp_path), *QUICK]) == 0
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["drag_without_dissipation"] is not dissipative
    assert (read["one_body"]["form"] == "none") is not dissipative
    assert read["energies"]["kinetic"] is None
    assert "drag" in read["energies"]["no_rollouts"]
    text = (tmp_path / "report.md").read_text()
    assert ("--dissipative adds what does" in text) is not dissipative


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rollouts", "-1"], "--rollouts must be a whole number of at least 0"),
        (["--rollout-length", "0"], "--rollout-length must be a whole number of at least 1"),
        (["--rollout-substeps", "0"], "--rollout-substeps must be a whole number of at least 1"),
        (["--form", "none"], "Unknown form"),
        (["--test-n", "8", "--data", "none.npz"], "with --data leave it out"),
    ],
)
def test_bad_options_of_energies(potential, tmp_path, capsys, options, message):
    assert potential.main([*options, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(script, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert script.main(["--out", str(file)]) == 2
    assert "Choose another folder" in capsys.readouterr().err


def test_help_is_readable(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for word in ("--system", "--data", "--strategy", "--regressor", "default: bottleneck"):
        assert word in said


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("system", ["spring", "r1", "examples/yukawa.py"])
def test_laws_are_recovered(script, tmp_path, system, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert script.main(["--system", system, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["recovered"]


def test_what_a_run_is_given(monkeypatch, tmp_path):
    """Times between outputs are of the system's steps, and so are the steps of rollouts."""
    command = importlib.import_module("symjax_gn.command")
    seen = {}

    def stopped(key, dataset, settings, **options):
        seen.update(options, time=dataset.time, settings=settings)
        raise ValueError("seen enough")

    monkeypatch.setattr(command, "discover", stopped)
    options = ["--simulations", "3", "--outputs", "3", "--every", "7", "--seed", "5"]
    options += ["--system", "r1", "--rollout-substeps", "2", "--out", str(tmp_path)]
    assert command.main(options) == 2
    np.testing.assert_allclose(np.diff(seen["time"][:3]), 7 * seen["system"].dt)
    assert seen["settings"].rollout_substeps == 14
    assert seen["system"].name == "r1"
    assert seen["search_seed"] == 5


@pytest.mark.parametrize(
    "kept", [[], ["training/states/1"], ["network.msgpack"], ["network.msgpack", "law.json"]]
)
def test_an_interruption_is_one_line_that_says_what_was_kept(monkeypatch, tmp_path, capsys, kept):
    command = importlib.import_module("symjax_gn.command")
    # What an earlier run left is none of this one.
    (tmp_path / "training" / "states").mkdir(parents=True)
    for name in ("network.msgpack", "law.json", "training/states/1"):
        (tmp_path / name).write_text("old")
        os.utime(tmp_path / name, (0, 0))

    def interrupted(args):
        for name in kept:
            (tmp_path / name).write_text("new")
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    # Files have times in steps of a few milliseconds.
    monkeypatch.setattr(command.time, "time", lambda: 1.0)
    assert command.main(["--out", str(tmp_path)]) == 130
    said = f"; {' and '.join(kept)} in {tmp_path} were kept" if kept else ""
    if kept == ["training/states/1"]:
        said = "; --resume goes on from here"
    assert capsys.readouterr().err == f"\ninterrupted{said}\n"


def test_an_interrupted_run_goes_on_to_the_same_law(
    script, whole_run, tmp_path, capsys, monkeypatch
):
    save, saved = Checkpoints.save, []

    def interrupted(self, step, tree):
        save(self, step, tree)
        saved.append(step)
        if len(saved) == 7:
            raise KeyboardInterrupt

    options = [*WHOLE, "--out", str(tmp_path)]
    monkeypatch.setattr(Checkpoints, "save", interrupted)
    assert script.main(options) == 130
    assert capsys.readouterr().err.endswith("; --resume goes on from here\n")
    assert script.main([*options, "--resume"]) == 0
    assert saved == [*range(1, 8), *range(8, 21)]
    networks = [(folder / "network.msgpack").read_bytes() for folder in (whole_run[0], tmp_path)]
    assert networks[0] == networks[1]
    # Without it all is done anew; what is there is of no other run.
    assert script.main([*options, "--resume", "--steps", "60"]) == 2
    assert "their steps is 40, here it is 60" in capsys.readouterr().err
    saved.clear()
    assert script.main(options) == 130
    assert saved == [*range(1, 8)]


def test_a_sweep_ends_with_a_table(tmp_path, monkeypatch, capsys):
    options = ["--simulations", "6", "--steps", "40", "--rates", "1", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["sweep", *options, "--jobs", "1", "--out", str(tmp_path)])
    load("sweep").main()
    said = capsys.readouterr().out
    assert "certificate" in said and "learning_rate" in said
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_notebook_runs_from_end_to_end():
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "examples/colab_sweep.ipynb", as_version=4)
    sizes = notebook.cells[2]
    assert sizes.source.startswith("SIMULATIONS, STEPS = 1000, 2000")
    sizes.source = "SIMULATIONS, STEPS = 20, 40\nRATES, SEEDS = 2, 1"
    nbclient.NotebookClient(notebook).execute()
    shown = notebook.cells[7].outputs[-1]["data"]
    assert "certificate" in shown["text/plain"]
    assert "image/png" in notebook.cells[9].outputs[-1]["data"]


def said_by(program):
    """What a program prints, for which SIGINT is not ignored at its start."""
    begin = "import os, signal, time; from symjax_gn import console;"
    begin += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", begin + textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_an_interrupt_that_a_callback_drops_comes_again():
    done = said_by(
        """
        class Dropping:
            def __init__(self, error):
                self.error = error
            def __del__(self):
                raise self.error
        try:
            with console.never_swallowed():
                Dropping(ValueError("mine"))
                print("went on", flush=True)
                Dropping(KeyboardInterrupt())
                time.sleep(600)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert done.stdout == "went on\ninterrupted\n", done.stderr
    assert "ValueError: mine" in done.stderr and "KeyboardInterrupt" not in done.stderr


def test_an_interrupt_that_is_ignored_stays_so():
    done = said_by(
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with console.stopping_at_once():
            os.kill(os.getpid(), signal.SIGINT)
            print("went on", flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with console.stopping_at_once():
            os.kill(os.getpid(), signal.SIGINT)
            print("went on")
        """
    )
    assert (done.returncode, done.stdout) == (130, "went on\n"), done.stderr
    assert done.stderr == "\ninterrupted\n"


def test_after_an_interruption_the_process_ends_at_once():
    """What still runs, here a thread that sleeps, is not waited for."""
    program = (
        "import threading, time; from symjax_gn.console import end_with;"
        "threading.Thread(target=time.sleep, args=(600,)).start(); print('said'); end_with(130)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (130, "said\n")
    with pytest.raises(SystemExit) as stop:
        importlib.import_module("symjax_gn.console").end_with(2)
    assert stop.value.code == 2
