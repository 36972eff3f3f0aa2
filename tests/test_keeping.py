import dataclasses
import json
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
import sympy

import symjax_gn as sgn
from symjax_gn.discovery import proposals
from symjax_gn.discovery.selection import operators_of
from symjax_gn.laws import keeping
from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.evolution import evolve
from symjax_gn.laws.fronts import RegressionError, make_front
from symjax_gn.laws.keeping import KeptRegressor, kept
from symjax_gn.laws.plain import digest
from symjax_gn.laws.searching import Problem, search
from symjax_gn.settings import Settings, make_engines

KEY = jax.random.key(0)
R = np.linspace(1.0, 2.0, 50)
FEATURES = {"r": R}


@dataclasses.dataclass(frozen=True)
class Counting:
    """An engine that writes a line for each search, and fails as long as it is told to."""

    log: Path
    seed: int = 0

    def fit(self, features, target):
        with self.log.open("a") as file:
            file.write(f"{self.seed}\n")
        if (self.log.parent / "fails").exists():
            raise RegressionError("The search was stopped before its end.")
        return make_front([3 * sympy.Symbol(next(iter(features)))], features, target)


def searches(log):
    return log.read_text().split()


def test_a_search_is_not_repeated_unless_something_differs(tmp_path):
    log = tmp_path / "log"
    engine = KeptRegressor(Counting(log), tmp_path / "kept")
    first = engine.fit(FEATURES, 3 * R)
    assert engine.fit({"r": R.copy()}, 3 * R) == first and searches(log) == ["0"]
    engine.fit(FEATURES, 3 * R + 1)
    KeptRegressor(Counting(log, seed=1), engine.folder).fit(FEATURES, 3 * R)
    engine.fit({"m_i": R}, 3 * R)
    assert searches(log) == ["0", "0", "1", "0"]


def test_worker_processes_keep_what_they_find(tmp_path):
    engines = [KeptRegressor(Counting(tmp_path / "log", seed), tmp_path) for seed in range(2)]
    for _ in range(2):
        (front,) = search(engines, [Problem(FEATURES, 3 * R, np.ones(50))], processes=2)
        assert front.laws[-1].expression == 3 * sympy.Symbol("r")
    assert sorted(searches(tmp_path / "log")) == ["0", "1"]


def test_a_search_that_was_stopped_is_not_kept(tmp_path):
    engine = KeptRegressor(Counting(tmp_path / "log"), tmp_path / "kept")
    (tmp_path / "fails").touch()
    with pytest.raises(RegressionError, match="stopped"):
        engine.fit(FEATURES, 3 * R)
    (tmp_path / "fails").unlink()
    engine.fit(FEATURES, 3 * R)
    assert searches(tmp_path / "log") == ["0", "0"]


DAMAGES = {
    "half a file": (lambda text: text[: len(text) // 2], "or damaged"),
    "nothing": (lambda text: "", "or damaged"),
    "bytes": (lambda text: "\x80\x04\x95", "or damaged"),
    "a number": (lambda text: "3", "or damaged"),
    "deep": (lambda text: 10**5 * "[", "recursion"),
    "another law": (lambda text: text.replace("3*r", "4*r"), "it was changed"),
    "of another search": (lambda text: text.replace('"key": "', '"key": "0'), "something else"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_result_is_found_again(tmp_path, name):
    change, message = DAMAGES[name]
    engine = KeptRegressor(Counting(tmp_path / "log"), tmp_path / "kept")
    first = engine.fit(FEATURES, 3 * R)
    (file,) = (tmp_path / "kept").rglob("*.json")
    file.write_text(change(file.read_text()))
    with pytest.warns(UserWarning, match=f"{message}.*searched for again"):
        assert engine.fit(FEATURES, 3 * R) == first
    assert searches(tmp_path / "log") == ["0", "0"]
    assert engine.fit(FEATURES, 3 * R) == first and searches(tmp_path / "log") == ["0", "0"]


def rewritten(file, result):
    """A file of results with another one in it, and all else as it must be."""
    contents = json.loads(file.read_text())
    contents |= dict(result=result, checksum=keeping._checksum(result))
    file.write_text(json.dumps(contents))


@pytest.mark.parametrize(
    "result",
    [
        None,
        {"laws": [], "seconds": "0"},
        {"laws": [{"expression": "__import__('os').system('false')"}], "seconds": 0.0},
        {"laws": [{"expression": "r", "complexity": 1.5, "mae": 0, "score": 0}], "seconds": 0.0},
        {"laws": [{"expression": "r", "complexity": True, "mae": 0, "score": 0}], "seconds": 0.0},
        {"laws": [{"expression": ["r"], "complexity": 1, "mae": 0, "score": 0}], "seconds": 0.0},
    ],
)
def test_what_is_read_is_of_the_type_that_is_expected(tmp_path, result):
    engine = KeptRegressor(Counting(tmp_path / "log"), tmp_path / "kept")
    first = engine.fit(FEATURES, 3 * R)
    (file,) = (tmp_path / "kept").rglob("*.json")
    rewritten(file, result)
    with pytest.warns(UserWarning, match="searched for again"):
        assert engine.fit(FEATURES, 3 * R) == first


def test_nothing_that_is_read_is_unpickled(tmp_path, monkeypatch):
    """Results are text; a folder that cannot be written costs the keeping, not the result."""
    engine = KeptRegressor(Counting(tmp_path / "log"), tmp_path / "kept")
    first = engine.fit(FEATURES, 3 * R)
    (file,) = (path for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert "3*r" in json.loads(file.read_text())["result"]["laws"][0]["expression"]
    for load in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, load, None)
    assert engine.fit(FEATURES, 3 * R) == first and searches(tmp_path / "log") == ["0"]
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match="could not be written"):
        assert engine.fit(FEATURES, 3 * R).laws == first.laws


def unwritable(number: int) -> sympy.Expr:
    COMPUTED.append(number)
    return sympy.Function("f")(sympy.Symbol("r"))


COMPUTED = []


def test_what_text_does_not_give_back_is_not_kept(tmp_path):
    for _ in range(2):
        assert kept(unwritable, tmp_path)(1) == unwritable(1)
    assert COMPUTED == 4 * [1] and not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_results_of_another_version_are_not_taken(tmp_path, monkeypatch):
    engine = KeptRegressor(Counting(tmp_path / "log"), tmp_path / "kept")
    engine.fit(FEATURES, 3 * R)
    monkeypatch.setattr("symjax_gn.laws.keeping.version", lambda _: "0.0")
    engine.fit(FEATURES, 3 * R)
    assert searches(tmp_path / "log") == ["0", "0"]


def test_without_a_folder_nothing_is_kept():
    assert kept(evolve, None) is evolve
    assert isinstance(make_engines(Settings(searches=1), 0)[0], OperonRegressor)
    assert not KeptRegressor(Counting(Path("log")), ".").in_threads
    assert KeptRegressor(OperonRegressor(), ".").in_threads


def test_laws_have_the_operators_of_the_engine_that_is_kept(tmp_path):
    engines = make_engines(Settings(searches=2, operators=("+", "*", "cos")), 0, tmp_path)
    assert list(operators_of(engines)) == ["*", "+", "cos"]
    assert list(operators_of([KeptRegressor(Counting(tmp_path), tmp_path)])) == list(
        operators_of([Counting(tmp_path)])
    )


@pytest.mark.parametrize("route", ["data", "messages"])
def test_a_run_that_goes_on_searches_for_nothing_twice(tmp_path, monkeypatch, route):
    run = sgn.simulate(
        KEY, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20, solver="midpoint"
    )
    quick = Settings(steps=20, width=8, depth=1, evaluations=2000, searches=1, route=route)
    first = sgn.discover(KEY, run, quick, folder=tmp_path)

    def fails(*_, **__):
        raise AssertionError("It searches again.")

    monkeypatch.setattr(proposals, "rank_pairs", fails)
    monkeypatch.setattr("symjax_gn.laws.engines.evolve", fails)
    again = sgn.discover(KEY, run, quick, folder=tmp_path, resume=True)
    assert again.law.message == first.law.message
    with pytest.raises(AssertionError, match="searches again"):
        sgn.discover(KEY, run, quick, folder=tmp_path)


@pytest.mark.slow
def test_members_that_go_on_search_for_nothing_twice(tmp_path, monkeypatch):
    run = sgn.simulate(
        KEY, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20, solver="midpoint"
    )
    quick = Settings(steps=20, width=8, depth=1, evaluations=2000, searches=1, optimizer="adam")
    members = sgn.grid(seed=[0, 1])
    first = sgn.discover_all(KEY, run, members, quick, folder=tmp_path)
    assert {path.name for path in (tmp_path / "members").iterdir()} == {"0", "1"}

    def fails(*_, **__):
        raise AssertionError("It searches again.")

    monkeypatch.setattr(proposals, "rank_pairs", fails)
    again = sgn.discover_all(KEY, run, members, quick, folder=tmp_path, resume=True)
    assert again.table()["law"].tolist() == first.table()["law"].tolist()
    with pytest.raises(AssertionError, match="searches again"):
        sgn.discover_all(KEY, run, members, quick, folder=tmp_path)


def test_a_function_that_was_changed_is_another_one():
    """As a user's own, between two runs into one folder; its name and place are the same."""

    def made(body):
        space = {}
        exec(f"def force(r):\n    return {body}", space)
        return space["force"]

    one, again, other, nested = map(made, ("2 * r", "2 * r", "3 * r", "(lambda x: 2 * x)(r)"))
    assert digest(one) == digest(again)
    assert len({digest(x) for x in (one, other, nested)}) == 3
