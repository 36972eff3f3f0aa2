"""Several targets, several engines."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import sympy
from joblib.externals import loky

from symjax_gn.laws import searching
from symjax_gn.laws.engines import OperonRegressor
from symjax_gn.laws.fronts import RegressionError, make_front, select
from symjax_gn.laws.searching import Problem, search, shutdown_workers, warm_up, with_switch

RNG = np.random.default_rng(0)
FEATURES = {"r": RNG.uniform(0.5, 3, 400), "m_i": RNG.uniform(0.5, 2, 400)}
TARGET = FEATURES["m_i"] * (2 * FEATURES["r"] - 1.98) + 1e-3 * RNG.normal(size=400)
ONES = np.ones(400)
ENGINE = OperonRegressor(evaluations=20_000, max_length=15)
R, M = sympy.symbols("r m_i")


def test_searches_run_side_by_side():
    both = [Problem(FEATURES, sign * TARGET, ONES) for sign in (1, -1)]
    fronts = search([ENGINE], both, processes=2)
    alone = search([ENGINE], both[:1], processes=1)
    assert fronts[0].laws == alone[0].laws
    assert all(select(front).mae < 0.05 for front in fronts)
    assert all(front.seconds > 0 for front in fronts)


class Fake:
    """An engine that knows some answers and counts its calls."""

    def __init__(self, answers, calls):
        self.answers, self.calls = answers, calls

    def fit(self, features, target):
        self.calls.append(sorted(features))
        return make_front(map(sympy.sympify, self.answers), features, target, seconds=1.0)


def test_searches_go_on_until_the_law_is_as_good_as_any(monkeypatch):
    # What the engines know is all there is.
    monkeypatch.setattr(searching, "refine", lambda front, *_, **__: front)
    true = "m_i*(2*r - 1.98)"
    clumsy = true + " + 1e-4" + "".join(f"*sin({k}*r)*sin({k}*m_i)" for k in range(2, 9))
    problem = [Problem(FEATURES, TARGET, ONES)]
    for answers, expected in (([clumsy], 4), ([true, clumsy], 2)):
        calls = []
        first = Fake(["m_i", "m_i*r", *answers], calls)
        engines = [first, first, Fake([true], calls), first, first, first]
        (front,) = search(engines, problem, processes=1)
        assert len(calls) == expected
        assert select(front).expression == sympy.sympify(true)
        # One for each search.
        assert front.seconds == expected


def test_what_two_engines_find_is_refined_once_and_together(monkeypatch):
    started = []
    plain = searching.refine

    def counted(front, *args, **options):
        started.append([law.expression for law in front.laws])
        return plain(front, *args, **options)

    monkeypatch.setattr(searching, "refine", counted)
    engines = [Fake(["m_i*r"], []), Fake(["m_i", "2.1*m_i*(r - 0.9)"], [])]
    (front,) = search(engines, [Problem(FEATURES, TARGET, ONES)], processes=1)
    assert started == [[M, M * R, 2.1 * M * (R - 0.9)]]
    assert select(front).mae < 2e-3


def test_the_weight_is_in_the_errors():
    weight = np.where(FEATURES["r"] > 1, 0.0, 2.0)
    target = np.where(FEATURES["r"] > 1, 7.0, FEATURES["m_i"]) + 0.5
    (front,) = search([Fake(["m_i", "m_i + 0.4"], [])], [Problem(FEATURES, target, weight)])
    # 0 where there is a weight; what has none does not count.
    assert front.laws[-1].mae < 1e-9 and front.laws[-1].complexity == 3


def test_only_problems_that_stay_open_are_searched_again(monkeypatch):
    monkeypatch.setattr(searching, "refine", lambda front, *_, **__: front)
    calls = []

    class Half(Fake):
        """Knows the law of positive targets, and something clumsy of negative ones."""

        def fit(self, features, target):
            sign = np.sign(np.mean(target))
            calls.append(sign)
            true = sign * M * (2 * R - 1.98)
            clumsy = true + 1e-4 * sympy.sin(R) ** 2 * sympy.sin(2 * M) * sympy.sin(3 * R + M)
            laws = [sign * M, sign * M * R, true if sign > 0 else clumsy]
            return make_front(laws, features, target)

    both = [Problem(FEATURES, sign * TARGET, ONES) for sign in (1, -1)]
    search([Half([], [])] * 6, both, processes=1)
    assert calls.count(1) == 2 and calls.count(-1) == 6


def test_samples_next_to_a_switch_are_left_out():
    r = FEATURES["r"]
    smooth = 1 / (1 + np.exp(-(r - 2) / 0.02))
    weight = np.arange(400.0)
    problem = Problem(FEATURES, smooth * r + 1e-3 * RNG.normal(size=400), weight)
    imitation = sympy.sympify("r*exp(-exp(-100.0*(r - 2.0)))")
    front = make_front([sympy.Symbol("r"), imitation], FEATURES, problem.target)
    assert len(front.laws) == 2
    known = with_switch(problem, front)
    assert known is not None
    assert len(known.target) == 360
    # The blurred corner is 0.02 wide; one twentieth of the samples is 0.125.
    assert np.min(np.abs(known.features["r"] - 2)) > 0.08
    np.testing.assert_array_equal(known.features["_step"], known.features["r"] > 2)
    # All columns are of the same samples, in their old order.
    kept = known.weight.astype(int)
    assert np.all(np.diff(kept) > 0)
    np.testing.assert_array_equal(known.target, problem.target[kept])
    for name, column in FEATURES.items():
        np.testing.assert_array_equal(known.features[name], column[kept])
    (step,) = known.substitutions.values()
    assert float(step.subs(R, 1.9)) == 0 and float(step.subs(R, 2.1)) == 1


def test_a_switch_near_the_end_keeps_both_sides():
    r = np.linspace(0.0, 1.0, 4000)
    target = np.where(r > 0.03, 1.0, 0.0) + 1e-4 * RNG.normal(size=4000)
    problem = Problem({"r": r}, target, np.ones(4000))
    known = with_switch(problem, make_front([sympy.Integer(1)], {"r": r}, target))
    assert known is not None
    step = known.features["_step"]
    # Half of the 120 below the step, and most of the rest.
    assert np.sum(step == 0) == 60 and np.sum(step == 1) > 3500


def test_no_engine():
    with pytest.raises(ValueError, match="at least one regressor"):
        search([], [Problem(FEATURES, TARGET, ONES)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(weight=ONES[:5]), r"The weight has shape \(5,\), the target \(400,\)"),
        (dict(weight=ONES * np.nan), "The weight has 400 NaN"),
        (dict(weight=-ONES), "Weights must be at least 0, and some above it"),
        (dict(weight=0 * ONES), "Weights must be at least 0, and some above it"),
        (dict(weight=ONES.astype(str)), "The weight must hold real numbers"),
        (dict(target=ONES), "target of the regression is constant"),
        (dict(features={"_step": FEATURES["r"]}), "cannot be called '_step'"),
        (dict(features=FEATURES | {"m_i": ONES}), "Column m_i is constant"),
    ],
)
def test_bad_problems_are_errors_before_any_search(changes, message):
    calls = []
    good = Problem(FEATURES, TARGET, ONES)
    with pytest.raises(ValueError, match=message):
        search([Fake(["r"], calls)], [good, good._replace(**changes)])
    assert not calls


def test_bad_numbers_of_processes():
    with pytest.raises(ValueError, match="processes must be a whole number of at least 1, got 0"):
        search([ENGINE], [Problem(FEATURES, TARGET, ONES)], processes=0)


def test_an_error_of_one_search_is_the_error_of_all():
    class Failing(Fake):
        def fit(self, features, target):
            raise RegressionError("nothing found")

    problem = Problem(FEATURES, TARGET, ONES)
    for engines in ([Failing([], [])], [ENGINE, FailingInThread()]):
        with pytest.raises(RegressionError, match="nothing found"):
            search(engines, [problem])


class FailingInThread:
    in_threads = True

    def fit(self, features, target):
        raise RegressionError("nothing found")


class InProcess:
    """An engine that holds Python's lock, and says where it ran."""

    def fit(self, features, target):
        return make_front([sympy.Float(os.getpid())], features, target)


@pytest.fixture
def workers():
    yield
    shutdown_workers()


@pytest.mark.usefixtures("workers")
def test_engines_that_hold_the_lock_run_in_processes(monkeypatch):
    monkeypatch.setattr(searching, "refine", lambda front, *_, **__: front)
    problems = [Problem(FEATURES, TARGET, ONES)] * 2
    warm_up([InProcess()], processes=2)
    fronts = search([InProcess(), InProcess()], problems, processes=2)
    found = {int(front.laws[0].expression) for front in fronts}
    assert len(fronts) == 2 and os.getpid() not in found
    # Closed, and started anew when they are needed.
    shutdown_workers()
    (front,) = search([InProcess()] * 2, problems[:1], processes=2)
    assert int(front.laws[0].expression) not in {os.getpid(), *found}


class Sizing(InProcess):
    """An engine that says how much its process may grow."""

    own_process = True

    def fit(self, features, target):
        from joblib.externals.loky import process_executor

        assert np.inf == process_executor._MAX_MEMORY_LEAK_SIZE
        return super().fit(features, target)


@pytest.mark.usefixtures("workers")
def test_workers_stay_between_searches(monkeypatch):
    """What an engine has started in them goes on: Julia takes a minute."""
    monkeypatch.setattr(searching, "refine", lambda front, *_, **__: front)
    reusable, idle = loky.get_reusable_executor, []

    def noted(timeout=10, **options):
        idle.append(timeout)
        return reusable(timeout=timeout, **options)

    monkeypatch.setattr(loky, "get_reusable_executor", noted)
    problem, pids = Problem(FEATURES, TARGET, ONES), set()
    # Two side by side, one alone, and two again.
    for count in (2, 1, 2, 1):
        fronts = search([Sizing()] * count, [problem] * count, processes=2)
        pids |= {int(law.expression) for front in fronts for law in front.laws}
    assert 1 <= len(pids) <= 2 and os.getpid() not in pids
    assert min(idle) >= 600


BUSY = """
    import os, signal, sys, threading, time
    import numpy as np
    from symjax_gn.laws.engines import OperonRegressor
    from symjax_gn.laws.evolution import _running
    from symjax_gn.laws.searching import Problem, search, shutdown_workers

    class Busy:
        def __init__(self, seed):
            self.seed = seed
        def fit(self, features, target):
            # One write: lines of two threads must not mix.
            os.write(1, f"at work {os.getpid()}\\n".encode())
            for _ in range(10**9):
                pass
            os.write(1, b"has come to its end\\n")

    def tell():
        while len(_running) < 2:
            time.sleep(0.001)
        os.write(1, f"at work {os.getpid()}\\n".encode())

    class Long(OperonRegressor):
        def fit(self, features, target):
            threading.Thread(target=tell, daemon=True).start()
            return super().fit(features, target)

    def stop(*_):
        shutdown_workers()
        sys.exit(3)

    # Where tests run under nohup, cron or the like, SIGINT is ignored from the start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[2] == "SIGTERM":
        signal.signal(signal.SIGTERM, stop)
    engines = [Busy(0), Busy(1)]
    if sys.argv[1] == "threads":
        engines = [Long(evaluations=10**9, seed=k) for k in (0, 1)]
    r = np.linspace(1.0, 2.0, 500)
    try:
        search(engines, [Problem({"r": r}, np.sin(r), np.ones(500))], processes=2)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("threads", "SIGINT"), ("threads", "SIGTERM"), ("processes", "SIGINT"),
        ("processes", "SIGTERM"), ("processes", "SIGKILL"),
    ],
)  # fmt: skip
def test_no_process_is_left_at_work(where, how):
    command = [sys.executable, "-c", textwrap.dedent(BUSY), where, how]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **streams) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline().split() for _ in range(2)]
            workers = {int(line[-1]) for line in lines}
            assert (process.pid in workers) == (where == "threads")
            process.send_signal(getattr(signal, how))
            # Ends where the last of the processes does, for all write to the same pipe.
            out, err = process.communicate()
        finally:
            process.kill()
    assert "has come to its end" not in out
    if how == "SIGINT":
        assert "interrupted" in out, err
    if how == "SIGTERM":
        assert process.returncode == 3, err


def test_a_worker_needs_no_training_libraries():
    code = (
        "import sys, symjax_gn.laws.searching, symjax_gn.laws.engines\n"
        "names = ('jax', 'flax', 'optax', 'diffrax', 'jraph', 'sklearn', 'pyoperon.sklearn')\n"
        "print([name for name in names if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.strip() == b"[]"
