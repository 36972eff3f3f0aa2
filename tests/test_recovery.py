"""The benchmark of the paper's tables: its book-keeping, and some of its cells."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from symjax_gn.settings import check_settings

FOLDER = Path(__file__).parent.parent / "benchmarks"


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recovery(monkeypatch):
    return load("recovery", monkeypatch)


def run(benchmark, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
    benchmark.main()


def rows(path):
    return json.loads(path.read_text())["rows"]


def fake_cell(recovery, ran):
    """A `run` that costs nothing, lists what ran and is interrupted once."""

    def cell(system, dim, strategy, seed, budget, options):
        name = recovery.cell_name(system, dim, strategy, seed, options)
        ran.append(name)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return dict(
            name=name, value=1.0, unit="s", budget=budget, system=system, dim=dim,
            strategy=strategy, seed=seed, options=options, recovered=True, n=4,
            laws=[dict(sympy="r")], message_r2=dict(force=0.5, gauge=0.9, influence=0.99),
            test_error=dict(value=0.4, mean_abs_target=40.0), law_error=0.8,
            refit=dict(law_error=0.08),
        )  # fmt: skip

    return cell


@pytest.fixture
def fake(recovery, monkeypatch):
    """Cells that cost nothing; the list of those that ran."""
    ran = []
    monkeypatch.setattr(recovery, "run", fake_cell(recovery, ran))
    return ran


def test_cells_are_saved_and_not_repeated(recovery, fake, monkeypatch, tmp_path, capsys):
    one = tmp_path / "one.json"
    cells = ["--systems", "spring", "string", "--strategies", "bottleneck", "--seeds", 0, 1]
    with pytest.raises(KeyboardInterrupt):
        run(recovery, monkeypatch, *cells, "--out", one)
    assert [row["name"] for row in rows(one)] == fake[:2]
    run(recovery, monkeypatch, *cells, "--out", one)
    # The string has two dimensions only.
    assert len(rows(one)) == 6
    assert fake.count("spring-2 bottleneck seed 0") == 1
    text = capsys.readouterr().out
    assert "| spring-2 | 2/2; 0.500, 0.900, 0.990 [1.000 yes] |" in text
    assert "| spring | 2/2, 2/2 |" in text
    assert "| string | 2/2 |" in text
    assert "| least R^2 of forces | 0.9900 (spring-2) |" in text
    # 0.4 over 4 nodes, of 10; the law twice that; the paper 0.046.
    assert "| spring-2 | 0.1 = 1.00%, law 0.2, refitted 0.02 [0.046; 2.17] |" in text


def test_rows_of_other_files_and_of_options(recovery, fake, monkeypatch, tmp_path, capsys):
    fake += ["skip"] * 3
    cells = ["--systems", "r1", "--dims", 2, "--strategies", "l1", "--seeds", 0]
    plain, other, both = (tmp_path / f"{name}.json" for name in ("plain", "other", "both"))
    run(recovery, monkeypatch, *cells, "--out", plain)
    run(recovery, monkeypatch, *cells, "--out", other, "--options", "--focus", "1")
    run(recovery, monkeypatch, "--seeds", "--out", both, "--merge", plain, other, plain)
    assert [row["name"] for row in rows(both)] == ["r1-2 l1 seed 0", "r1-2 l1 seed 0 --focus 1"]
    text = capsys.readouterr().out
    assert "| r1-2 --focus 1 | 1/1;" in text


def test_variants(recovery, fake, monkeypatch, tmp_path, capsys):
    variants = load("variants", monkeypatch)
    out = tmp_path / "variants.json"
    cells = ["--systems", "r2", "--variants", "defaults", "raw messages", "newton", "--out", out]
    with pytest.raises(KeyboardInterrupt):
        run(variants, monkeypatch, *cells)
    run(variants, monkeypatch, *cells)
    assert fake[1:] == [
        "r2-2 bottleneck seed 0 --gauge messages",
        *["r2-2 bottleneck seed 0 --node newton"] * 2,
    ]
    assert [row["variant"] for row in rows(out)] == ["defaults", "raw messages", "newton"]
    text = capsys.readouterr().out
    assert "| variant | r2-2 |" in text
    assert "| defaults | 1/1; 0.990; 1.00% |" in text
    assert "| raw messages | 1/1; 0.900; 1.00% |" in text


def test_every_variant_is_an_option_of_the_main_job(recovery, monkeypatch):
    variants = load("variants", monkeypatch)
    job = recovery.load_job()
    for options in variants.VARIANTS.values():
        check_settings(job.parse(options.split()).settings)


def test_flathgn_is_the_other_job(recovery):
    for system, options in (("spring", []), ("damped", ["--dissipative"])):
        job, arguments = recovery.make_arguments(system, 2, "flathgn", 3, "cpu", ["--steps", "9"])
        assert job.__name__ == "discover_potential"
        start = ["--system", system, "--dim", "2", "--seed", "3"]
        assert arguments == [*start, *options, "--steps", "9"]
        assert job.parse(arguments).settings.dissipative == bool(options)
        assert job.parse(arguments).settings.strategy == "flathgn"
    assert recovery._error_text("spring-2", "flathgn", [dict(
        n=4, test_error=dict(value=0.04, mean_abs_target=4.0), law_error=0.04,
    )]).endswith("[0.016; 0.62]")  # fmt: skip


def test_unpruned_columns_and_laws_with_too_many_components(recovery, capsys):
    job, arguments = recovery.make_arguments("spring", 2, "kl-unpruned", 0, "cpu", [])
    settings = job.parse(arguments).settings
    assert settings.strategy == "kl" and settings.prune is False
    checks = dict(dimension=dict(holds=False), error_seen=dict(holds=True))
    row = dict(system="r1", dim=2, strategy="standard", recovered=False, checks=checks)
    row |= dict(test_error=dict(value=1, mean_abs_target=10))
    wrong = dict(row, checks=checks | dict(error_seen=dict(holds=False)))
    recovery.print_summary([row, wrong, dict(row, strategy="kl-unpruned", recovered=True)])
    text = capsys.readouterr().out
    assert "| law | standard | kl-unpruned |" in text
    assert "| r1 | 0/2 (law 1) | 1/1 |" in text


def test_the_table_of_rollouts(recovery, capsys):
    recovery.print_rollouts([dict(system="r1", dim=2, energies=None)])
    assert capsys.readouterr().out == ""

    def row(drift, failed):
        found = dict(solver="adaptive", own_drift=drift, true_drift=2 * drift, failed=failed)
        kept = [found | dict(hamiltonian=name, paths=8) for name in ("network", "true")]
        return dict(system="r1", dim=2, energies=dict(rollouts=kept))

    lost = row(0.1, 8)
    for found in lost["energies"]["rollouts"]:
        found |= dict(own_drift=None, true_drift=None)
    recovery.print_rollouts([lost, lost, row(0.1, 0)])
    assert "| inf, inf (16/24) |" in capsys.readouterr().out
    recovery.print_rollouts([row(0.1, 0), row(0.3, 1), row(0.2, 2)])
    cell = "2.0e-01, 4.0e-01 (3/24)"
    assert f"| r1-2 | adaptive | {cell} | nan, nan | {cell} |" in capsys.readouterr().out


def test_an_error_in_a_cell_is_a_row(recovery, monkeypatch, tmp_path):
    out = tmp_path / "out.json"
    cells = ["--systems", "r1", "--dims", 2, "--strategies", "l1", "--seeds", 0, "--out", out]
    run(recovery, monkeypatch, *cells, "--options", "--steps", "0")
    (row,) = rows(out)
    assert row["recovered"] is False
    assert "--steps must be a whole number of at least 1" in row["error"]


def test_an_exception_in_a_cell_is_a_row_that_is_tried_again(recovery, fake, monkeypatch, tmp_path):
    out = tmp_path / "out.json"
    cells = ["--systems", "r1", "--dims", 2, "--strategies", "l1", "--seeds", 0, "--out", out]
    fresh = load("recovery", monkeypatch)
    job = fresh.load_job()

    def broken(arguments):
        raise TypeError("not so")

    monkeypatch.setattr(job, "main", broken)
    run(fresh, monkeypatch, *cells)
    assert rows(out)[0]["error"] == "TypeError: not so"
    # The row stays until there is a better one, and a better one takes its place.
    good = tmp_path / "good.json"
    good.write_text(json.dumps({"meta": {}, "rows": [dict(rows(out)[0], value=2.0)]}))
    run(fresh, monkeypatch, "--seeds", "--merge", out, "--out", tmp_path / "both.json")
    assert rows(tmp_path / "both.json")[0]["error"] == "TypeError: not so"
    monkeypatch.setattr(fresh, "run", fake_cell(fresh, []))
    run(fresh, monkeypatch, *cells)
    assert ["error" in row for row in rows(out)] == [False]
    run(fresh, monkeypatch, "--seeds", "--merge", good, out, "--out", tmp_path / "both.json")
    assert ["error" in row for row in rows(tmp_path / "both.json")] == [False]


def test_a_wrong_option_ends_all_before_anything_runs(recovery, fake, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(recovery, monkeypatch, "--seeds", 0, "--options", "--focsu", "1")
    assert fake == []
    assert "--focsu" in capsys.readouterr().err


def test_rows_of_both_budgets_are_kept(recovery, fake, monkeypatch, tmp_path):
    fake += ["skip"] * 3
    out = tmp_path / "out.json"
    cells = ["--systems", "r1", "--dims", 2, "--strategies", "l1", "--seeds", 0, "--out", out]
    for budget in ("cpu", "gpu", "cpu"):
        run(recovery, monkeypatch, *cells, "--budget", budget)
    assert [row["budget"] for row in rows(out)] == ["cpu", "gpu"]


def test_the_table_of_energies(recovery, capsys):
    recovery.print_energies([dict(system="r1", dim=2, energies=None)])
    assert capsys.readouterr().out == ""

    def row(error, **checks):
        checks = {name: dict(holds=holds) for name, holds in checks.items()}
        energies = dict(checks=checks, additive_error=error)
        return dict(system="r1", dim=2, strategy="flathgn", energies=energies)

    kept = [row(0.1, potential=True, kinetic=False), row(0.3, potential=True), row(None)]
    recovery.print_energies(kept)
    assert "| r1-2 | 2/3 | 0/3 | 20.0% |" in capsys.readouterr().out


def test_the_table_of_more_bodies(recovery, capsys):
    recovery.print_more_bodies([dict(name="r1-2", more_bodies=None)])
    assert capsys.readouterr().out == ""
    more = dict(n=8, network=0.3, law=2e-6, mean_abs_target=20)
    error = dict(value=0.1, mean_abs_target=10)
    recovery.print_more_bodies([dict(name="r1-2 --test-n 8", more_bodies=more, test_error=error)])
    assert "| r1-2 --test-n 8 | 1.00% | 8 | 1.50% | 1e-07 |" in capsys.readouterr().out


def test_the_summary_has_no_options_and_marks_what_is_missing(recovery, capsys):
    def row(dim, strategy, recovered, r2, options=()):
        r2 = dict(influence=r2, gauge=r2 - 0.1)
        row = dict(system="r1", dim=dim, strategy=strategy, recovered=recovered, message_r2=r2)
        return row | dict(test_error=dict(value=1, mean_abs_target=10), options=list(options))

    kept = [row(2, "l1", True, 0.99), row(3, "l1", False, 0.98), row(3, "kl", True, 0.97)]
    recovery.print_summary([*kept, row(2, "l1", False, 0.1, ["--focus", "1"])])
    text = capsys.readouterr().out
    assert "| r1 | 1/1, 0/1 | –, 1/1 |" in text
    assert "| least R^2 of forces | 0.9800 (r1-3) | 0.9700 (r1-3) |" in text
    assert "| least R^2 of raw messages | 0.8800 (r1-3) | 0.8700 (r1-3) |" in text


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_cells_of_the_table(recovery, monkeypatch, tmp_path):
    """Five cells, an estimated nine minutes on two idle cores; `benchmarks` has them all."""
    out = tmp_path / "out.json"
    for system, dim, strategy in [
        ("charge", 2, "l1"),
        ("r2", 3, "pruning"),
        ("damped", 3, "l1"),
        ("discontinuous", 2, "bottleneck"),
        ("charge", 2, "flathgn"),
    ]:
        cell = ["--systems", system, "--dims", dim, "--strategies", strategy, "--seeds", 0]
        run(recovery, monkeypatch, *cell, "--out", out)
    found = rows(out)
    assert len(found) == 5
    for row in found:
        assert row["recovered"], row["name"]
        assert row["message_r2"]["influence"] > 0.99, row["name"]
    (damped,) = (row for row in found if row["system"] == "damped")
    assert damped["one_body"]["check"]["holds"]


def test_two_checkouts_run_in_turn(monkeypatch, tmp_path, capsys):
    versus = load("versus", monkeypatch)
    ran = []

    def fake(checkout, steps, extra):
        ran.append((checkout.name, steps))
        slower = 2.0 if checkout == FOLDER.parent else 1.0
        train = 3.0 + slower * (steps or 8000) / 1000
        return dict(value=train + 10.0, unit="s", stages=dict(train=train), recovered=True)

    monkeypatch.setattr(versus, "run", fake)
    base = tmp_path / "base"
    subprocess.run(["git", "init", "-q", str(base)], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(
        ["git", *author, "commit", "-q", "--allow-empty", "-m", "one"], cwd=base, check=True
    )
    out = tmp_path / "versus.json"
    run(versus, monkeypatch, base, "--repeats", 2, "--out", out)
    here = FOLDER.parent.name
    assert ran == 2 * [(name, steps) for steps in (None, 8000, 16000) for name in ("base", here)]
    assert len(rows(out)) == 12
    printed = capsys.readouterr().out
    assert "| whole run, s | 21.0 | 29.0 | 1.38 |" in printed
    assert "| steps per second | 1000.0 | 500.0 | 0.50 |" in printed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_many_bodies_fit_into_memory(monkeypatch, tmp_path):
    large = load("large", monkeypatch)
    out = tmp_path / "large.json"
    run(large, monkeypatch, "--bodies", 400, "--steps", 2, "--out", out)
    (row,) = rows(out)
    # The density is such that each body has some 16 neighbours.
    assert 14 * 400 < row["edges"] < 18 * 400
    assert row["bytes"] < 4 * 2**30


@pytest.mark.slow
def test_the_script_for_an_accelerator_runs(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/accelerator.py", "--small", "--out", str(out)]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    names = ["products", "many", "one", "precisions", "memory", "table_one"]
    assert [row["name"] for row in rows] == names
    assert all(row["value"] > 0 for row in rows if row["name"] != "memory")
