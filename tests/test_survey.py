import threading

import jax
import joblib
import numpy as np
import pytest
from joblib.parallel import ThreadingBackend

import symjax_gn as sgn
from symjax_gn import survey
from symjax_gn.laws.fronts import RegressionError
from symjax_gn.settings import Settings

KEY = jax.random.key(0)
QUICK = Settings(steps=20, width=8, depth=1, evaluations=2000, searches=1, optimizer="adam")


def run_of(name):
    """A few recordings; their motion does not matter, so its solver is quick to compile."""
    return sgn.simulate(
        KEY, sgn.SYSTEMS[name], num_simulations=5, num_outputs=20, solver="midpoint"
    )


def test_each_member_has_its_law_and_verdict():
    runs = [run_of(name) for name in ("spring", "r1")]
    systems = [sgn.SYSTEMS[name] for name in ("spring", "r1")]
    found = sgn.discover_all(KEY, runs, sgn.grid(data=[0, 1]), QUICK, systems=systems)
    table = found.table()
    assert table["verdict"].tolist() == ["exact"] * 2
    assert set(table["law"]) == {"2*r - 1.98", "m_i*m_j/(r + 0.01)"}
    assert np.all(np.diff(table["law_error"]) >= 0)
    assert np.all(np.diff(found.table("error")["error"]) >= 0)
    # The keys of `discover` are the same, the member's parameters are not.
    assert found.found[0].parts[0].target.shape == found.found[1].parts[0].target.shape


@pytest.mark.slow
def test_the_law_of_bodies_alone_is_shown_too():
    found = sgn.discover_all(KEY, run_of("damped"), {"seed": [0]}, QUICK)
    assert found.table()["law"][0] == "2*r - 1.98; alone: -vx_i, -vy_i"


def test_laws_that_are_not_found_stop_no_other(monkeypatch):
    calls = []

    def fails_once(**options):
        calls.append(options)
        if len(calls) == 1:
            raise RegressionError("No law is finite.")
        return real(**options)

    real = survey.read_law
    monkeypatch.setattr(survey, "read_law", fails_once)
    members = {"learning_rate": [1e-2, 1e35, 1e-2]}
    found = sgn.discover_all(KEY, run_of("spring"), members, QUICK)
    assert found.found[0] == "No law is finite." and found.found[1] is None
    table = found.table()
    assert table.index[0] == 2 and table["law"][0] == "No law is finite."
    assert table["certificate"].tolist() == ["believe", "", ""]


def test_laws_are_found_where_joblib_is_told(monkeypatch):
    class AllInTheEnd(ThreadingBackend):
        # As Ray's has it.
        supports_return_generator = False

        def effective_n_jobs(self, n_jobs):
            asked.append(n_jobs)
            return 2

    asked = []

    def says_where(**options):
        raise RegressionError(threading.current_thread().name)

    monkeypatch.setattr(survey, "read_law", says_where)
    joblib.register_parallel_backend("all_in_the_end", AllInTheEnd)
    with joblib.parallel_config(backend="all_in_the_end"):
        found = sgn.discover_all(KEY, run_of("spring"), {"seed": [0, 1]}, QUICK, jobs=-1)
    # How many that is the backend knows.
    assert -1 in asked
    assert all(isinstance(where, str) for where in found.found)
    assert threading.current_thread().name not in found.found


def test_bad_arguments():
    run = run_of("spring")
    with pytest.raises(ValueError, match="There are 1 data sets and 2 systems"):
        sgn.discover_all(KEY, run, {"seed": [0]}, QUICK, systems=[sgn.SYSTEMS["spring"]] * 2)
    with pytest.raises(ValueError, match="jobs must be a whole number of at least 1, got 0"):
        sgn.discover_all(KEY, run, {"seed": [0]}, QUICK, jobs=0)
    with pytest.raises(ValueError, match="width is compiled into the program"):
        sgn.discover_all(KEY, run, {"width": [8, 16]}, QUICK)
    with pytest.raises(ValueError, match="Unknown criterion 'speed'"):
        sgn.discover_all(KEY, run, {"seed": [0]}, QUICK).table("speed")
